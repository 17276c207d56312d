//! What an operator registers: a service's addresses, how its health is judged, and how its routes look.
//!
//! Everything here is valid by construction; the texts that people write are parsed here and nowhere
//! else. Leaves out: the policy of who may write what (`config`), and whatever needs the kernel's tables.

mod dns;
mod http;
mod keys;
mod monitor;

pub use dns::{QType, Rcode};
pub use http::{HttpUrl, StatusRanges};
pub use keys::{
    AppOptions, Attributes, Damping, FlapLimit, Reaction, Timing, VipConfig, VipPresence,
};
pub use monitor::{AcceptQueue, ExecCommand, Monitor, MonitorSpec};

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use crate::net::{ParseError, Prefix, decimal, parse_cidr};
use crate::text::misleads;

/// A service as registered. Two with the same definition are equal; the source counts as part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct App {
    pub name: AppName,
    pub source: Source,
    /// Never empty.
    pub vips: BTreeSet<Vip>,
    /// Empty: always healthy, as in GoCast.
    pub monitors: BTreeSet<Monitor>,
    pub nats: BTreeSet<NatSpec>,
    /// The app's own; the global ones are `config::Bgp::attributes`.
    pub attributes: Attributes,
    pub when_down: Reaction,
    pub when_draining: Reaction,
    pub options: AppOptions,
    /// Consul's service id: two instances of one service are told apart by it.
    pub instance_id: Option<String>,
}

impl App {
    /// The service it is an instance of: its name, where it has no instances.
    pub fn service(&self) -> &str {
        let name = self.name.as_str();
        let instance = self.instance_id.as_ref().and_then(|id| {
            let (service, of) = name.rsplit_once('@')?;
            (*of == *readable(id)).then_some(service)
        });
        instance.unwrap_or(name)
    }

    /// Whether `name` means this app: it is its name, or that of the service it is an instance of, or its
    /// own beside other instances, which it has by turns.
    pub fn is_called(&self, name: &AppName) -> bool {
        let of_instance = |id: &String| AppName::of_instance(self.service(), id) == *name;
        self.name == *name
            || self.service() == name.as_str()
            || self.instance_id.as_ref().is_some_and(of_instance)
    }

    /// Whether the two mean the same, whoever registered them.
    pub fn same_definition(&self, other: &Self) -> bool {
        let mut other = other.clone();
        other.source = self.source;
        other.instance_id.clone_from(&self.instance_id);
        *self == other
    }
}

/// An app's name: 1 to 255 bytes, whatever can be seen in a line; no space at either end. Kept in many places,
/// and in memory once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppName(Arc<str>);

impl AppName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AppName {
    /// A name made of any text, for what others have named: what no name may hold becomes `_`.
    pub fn resembling(text: &str) -> Self {
        let mut name = text.trim().replace(misleads, "_");
        while name.len() > 255 || name.ends_with(char::is_whitespace) {
            name.pop();
        }
        if name.is_empty() {
            name.push('_');
        }
        Self(name.into())
    }

    /// The name of one instance of a service beside others.
    pub fn of_instance(service: &str, id: &str) -> Self {
        Self::resembling(&format!("{service}@{}", readable(id)))
    }

    /// For one more that would be called `name`.
    pub fn numbered(name: &Self, number: usize) -> Self {
        let end = format!("~{number}");
        let mut text = name.0.to_string();
        while text.len() + end.len() > 255 {
            text.pop();
        }
        Self((text + &end).into())
    }
}

/// An instance's id as a part of a name: the last `@` of the name stands before it.
fn readable(id: &str) -> String {
    id.replace(|c: char| c.is_whitespace() || misleads(c) || c == '@', "_")
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AppName {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let fits = (1..=255).contains(&s.len()) && !s.contains(misleads) && s.trim() == s;
        fits.then(|| Self(s.into())).ok_or_else(|| {
            ParseError::new(
                s,
                "a name of 1 to 255 bytes without control or invisible characters and without a space at \
                 either end",
            )
        })
    }
}

/// Who registered an app, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    Http,
    Consul,
    Env,
    Config,
}

impl Source {
    pub const ALL: [Self; 4] = [Self::Http, Self::Consul, Self::Env, Self::Config];

    /// Whoever reaches a port or Consul, and not this host's operator.
    pub fn is_remote(self) -> bool {
        matches!(self, Self::Http | Self::Consul)
    }

    /// Who may replace whose app: configuration and environment are equals, above Consul, above HTTP.
    pub fn precedence(self) -> u8 {
        match self {
            Self::Http => 0,
            Self::Consul => 1,
            Self::Env | Self::Config => 2,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Consul => "consul",
            Self::Env => "env",
            Self::Config => "config",
        })
    }
}

impl FromStr for Source {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let mut all = Self::ALL.into_iter();
        all.find(|source| source.to_string() == s)
            .ok_or_else(|| ParseError::new(s, "a source of apps: config, env, consul or http"))
    }
}

/// A prefix that may be announced: none that would cut the host off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip(Prefix);

/// It is ordered as its prefix: a set of VIPs can be asked for a prefix.
impl Borrow<Prefix> for Vip {
    fn borrow(&self) -> &Prefix {
        &self.0
    }
}

/// Why a text or prefix is no VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VipError {
    /// No address and length at all.
    Syntax(ParseError),
    /// An address without its prefix length.
    NoMask(IpAddr),
    /// A prefix nobody may announce, and what it is.
    Never { prefix: Prefix, what: &'static str },
}

impl fmt::Display for VipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(error) => error.fmt(f),
            Self::NoMask(addr) => {
                write!(
                    f,
                    "`{addr}` has no prefix length: write {}",
                    Prefix::host(*addr)
                )
            }
            Self::Never { prefix, what } => write!(f, "{prefix} can be no VIP: {what}"),
        }
    }
}

impl std::error::Error for VipError {}

impl Vip {
    /// Refuses /0 and whatever holds an unspecified, loopback, multicast, broadcast or link-local address.
    pub fn new(prefix: Prefix) -> Result<Self, VipError> {
        if prefix.len() == 0 {
            let what = "it would take all traffic";
            return Err(VipError::Never { prefix, what });
        }
        let never = NEVER.iter().find(|(addr, len, _)| {
            Prefix::masked(*addr, *len).is_ok_and(|never| never.overlaps(&prefix))
        });
        match never {
            Some((_, _, what)) => Err(VipError::Never { prefix, what }),
            None => Ok(Self(prefix)),
        }
    }

    /// Reads `ADDR/LEN`. Host bits are cleared; `true` says that there were some.
    pub fn parse(s: &str) -> Result<(Self, bool), VipError> {
        if let Ok(addr) = s.parse::<IpAddr>() {
            return Err(VipError::NoMask(addr));
        }
        let (addr, len) = parse_cidr(s).map_err(VipError::Syntax)?;
        let prefix = Prefix::masked(addr, len)
            .map_err(|_| VipError::Syntax(ParseError::new(s, "an address with its length")))?;
        Ok((Self::new(prefix)?, prefix.addr() != addr))
    }

    pub fn prefix(self) -> Prefix {
        self.0
    }
}

/// RFC 6890's special blocks that are bound to a host or a link.
const NEVER: &[(IpAddr, u8, &str)] = &[
    (
        IpAddr::V4(Ipv4Addr::new(0, 0, 0, 0)),
        8,
        "it holds the unspecified address",
    ),
    (
        IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)),
        8,
        "it holds loopback addresses",
    ),
    (
        IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)),
        16,
        "it holds link-local addresses",
    ),
    (
        IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)),
        4,
        "it holds multicast addresses",
    ),
    (
        IpAddr::V4(Ipv4Addr::BROADCAST),
        32,
        "it holds the broadcast address",
    ),
    (
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        128,
        "it holds the unspecified address",
    ),
    (
        IpAddr::V6(Ipv6Addr::LOCALHOST),
        128,
        "it holds the loopback address",
    ),
    (
        IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0)),
        96,
        "it holds IPv4-mapped addresses",
    ),
    (
        IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)),
        10,
        "it holds link-local addresses",
    ),
    (
        IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)),
        8,
        "it holds multicast addresses",
    ),
];

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Vip {
    type Err = VipError;

    /// As `Vip::parse`, silent about host bits.
    fn from_str(s: &str) -> Result<Self, VipError> {
        Self::parse(s).map(|(vip, _)| vip)
    }
}

/// A transport protocol, as far as monitors and NAT know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// IANA's protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl FromStr for Protocol {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        match s {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(ParseError::new(s, "a protocol: tcp or udp")),
        }
    }
}

/// A port number other than 0.
pub(crate) fn port(s: &str) -> Option<u16> {
    decimal::<u16>(s).filter(|port| *port != 0)
}

/// Traffic to VIP:listen goes to the host's own address at `destination`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NatSpec {
    pub protocol: Protocol,
    pub listen: u16,
    pub destination: u16,
}

impl fmt::Display for NatSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.protocol, self.listen, self.destination)
    }
}

impl FromStr for NatSpec {
    type Err = ParseError;

    /// `protocol:listenPort:destinationPort`, or `protocol:port` for both.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let parse = || {
            let mut parts = s.split(':');
            let protocol = parts.next()?.parse().ok()?;
            let listen = port(parts.next()?)?;
            let destination = match parts.next() {
                Some(text) => port(text)?,
                None => listen,
            };
            parts.next().is_none().then_some(Self {
                protocol,
                listen,
                destination,
            })
        };
        parse().ok_or_else(|| {
            ParseError::new(
                s,
                "protocol:listenPort:destinationPort such as udp:53:8053, or protocol:port",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Community;

    #[test]
    fn a_name_is_whatever_can_be_seen_in_a_line() {
        let long = "x".repeat(255);
        for name in [
            "dns",
            "dns (primary)",
            "a&b",
            "हिन्दी",
            "<b>\"'{}",
            "a/b",
            "🦀",
            &long,
        ] {
            let parsed: AppName = name.parse().unwrap();
            assert_eq!(parsed.as_str(), name);
            assert_eq!(AppName::resembling(name), parsed);
        }
        for name in [
            "",
            " a",
            "a ",
            "\u{a0}a",
            "a\nb",
            "a\tb",
            "a\u{2028}b",
            "a\u{202e}b",
            "a\u{200b}b",
            "a\u{feff}b",
            "a\u{1b}[2J",
            &"x".repeat(256),
        ] {
            assert!(name.parse::<AppName>().is_err(), "{name:?}");
            let other = AppName::resembling(name);
            assert_eq!(other.as_str().parse(), Ok(other.clone()), "{name:?}");
        }
    }

    #[test]
    fn instances_know_their_service() {
        let mut app = App {
            name: "web".parse().unwrap(),
            source: Source::Consul,
            vips: BTreeSet::new(),
            monitors: BTreeSet::new(),
            nats: BTreeSet::new(),
            attributes: Attributes::default(),
            when_down: Reaction::default(),
            when_draining: Reaction::default(),
            options: AppOptions::default(),
            instance_id: Some("web 1@x".to_owned()),
        };
        assert_eq!(app.service(), "web");
        app.name = AppName::of_instance("web", "web 1@x");
        assert_eq!(app.name.as_str(), "web@web_1_x");
        assert_eq!(app.service(), "web");
        assert!(app.is_called(&"web".parse().unwrap()) && app.is_called(&app.name.clone()));
        app.name = AppName::of_instance("a@b", "i");
        assert_eq!(app.service(), "a@b@i", "another instance's");
        app.name = "web".parse().unwrap();
        assert!(app.is_called(&AppName::of_instance("web", "web 1@x")));
        assert!(!app.is_called(&AppName::of_instance("web", "web 2")));
        assert_eq!(AppName::resembling(" a b\u{7f}\n").as_str(), "a b_");
        assert_eq!(AppName::resembling("").as_str(), "_");
        let long = AppName::resembling(&"ä".repeat(300));
        assert_eq!(long.as_str().parse(), Ok(long.clone()));
    }

    #[test]
    fn a_vip_never_cuts_the_host_off() {
        for text in [
            "0.0.0.0/0",
            "::/0",
            "0.0.0.0/1",
            "128.0.0.0/1",
            "0.0.0.0/32",
            "127.0.0.1/32",
            "169.254.1.1/32",
            "224.0.0.1/32",
            "255.255.255.255/32",
            "::/128",
            "::1/128",
            "fe80::1/128",
            "ff02::1/128",
            "::ffff:192.0.2.1/128",
        ] {
            let error = Vip::parse(text).unwrap_err();
            assert!(matches!(error, VipError::Never { .. }), "{text}: {error}");
        }
        for text in ["192.0.2.1/32", "10.0.0.0/8", "2001:db8::/32", "fd00::1/128"] {
            assert_eq!(text.parse::<Vip>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn host_bits_are_cleared_and_a_missing_length_is_named() {
        let (vip, masked) = Vip::parse("198.51.100.77/24").unwrap();
        assert_eq!(
            (vip.to_string().as_str(), masked),
            ("198.51.100.0/24", true)
        );
        assert!(!Vip::parse("198.51.100.77/32").unwrap().1);
        let error = Vip::parse("2001:db8::1").unwrap_err().to_string();
        assert!(error.contains("write 2001:db8::1/128"), "{error}");
        assert!(matches!(Vip::parse("x/32"), Err(VipError::Syntax(_))));
        assert!(matches!(Vip::parse("1.2.3.4/33"), Err(VipError::Syntax(_))));
    }

    #[test]
    fn nat_has_two_or_three_parts() {
        for (text, shown) in [("udp:53:8053", "udp:53:8053"), ("tcp:80", "tcp:80:80")] {
            assert_eq!(text.parse::<NatSpec>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "tcp",
            "tcp:",
            "sctp:1:1",
            "tcp:0:1",
            "tcp:1:65536",
            "tcp:1:2:3",
            "tcp:+1",
            "tcp:1;id",
        ] {
            assert!(text.parse::<NatSpec>().is_err(), "{text}");
        }
    }

    #[test]
    fn attributes_add_communities_and_the_upper_wins() {
        let low = Attributes {
            communities: BTreeSet::from([Community::new(1, 1)]),
            med: Some(1),
            local_pref: Some(5),
            ..Attributes::default()
        };
        let over = Attributes {
            communities: BTreeSet::from([Community::new(1, 2)]),
            med: Some(0),
            ..Attributes::default()
        };
        let both = low.overlaid(&over);
        assert_eq!(both.communities.len(), 2);
        assert_eq!((both.med, both.local_pref), (Some(0), Some(5)));
        assert_eq!(low.overlaid(&Attributes::default()), low);
    }

    #[test]
    fn sources_have_an_order() {
        for source in Source::ALL {
            assert_eq!(source.to_string().parse(), Ok(source));
        }
        assert_eq!(Source::Env.precedence(), Source::Config.precedence());
        assert!(Source::Consul.precedence() > Source::Http.precedence());
        assert!("root".parse::<Source>().is_err());
        for presence in [VipPresence::Healthy, VipPresence::Always] {
            assert_eq!(presence.to_string().parse(), Ok(presence));
        }
    }
}
