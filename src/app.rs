//! An app: the addresses of a service, its monitors, and the attributes of its routes.
//!
//! Everything here is valid by construction: texts are parsed here and nowhere else. Not here: the
//! policy (`config`), and what needs the kernel's tables (`registry`).

mod dns;
mod drain_request;
mod http;
mod keys;
mod monitor;
mod path_proof;
mod vip_target;

pub use dns::{DnsServer, QType, Rcode};
pub use drain_request::DrainRequest;
pub use http::{HttpUrl, StatusRanges};
pub use keys::{
    AppOptions, Attributes, Damping, DrainWait, FlapLimit, LastResort, RouteAction, Timing,
    VipConfig, VipPresence, WhenDown,
};
pub use monitor::{AcceptQueue, ExecCommand, Monitor, MonitorSpec};
pub use path_proof::{PathProof, Probing};
pub use vip_target::VipTarget;

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use crate::net::{ParseError, Prefix, decimal, parse_cidr};
use crate::small_set::SmallSet;
use crate::text::needs_escape;

/// A service as registered. Two with the same definition are equal; the source counts as part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct App {
    pub name: AppName,
    pub source: Source,
    /// Never empty.
    pub vips: SmallSet<Vip>,
    /// Empty: always healthy, as in GoCast.
    pub monitors: SmallSet<Monitor>,
    pub nats: BTreeSet<NatSpec>,
    /// The app's own; the global ones are `config::Bgp::attributes`.
    pub attributes: Attributes,
    pub when_down: RouteAction,
    pub when_draining: RouteAction,
    pub options: AppOptions,
    /// Consul's service id, which distinguishes instances of one service.
    pub instance_id: Option<String>,
}

impl App {
    /// The service it is an instance of: its name, where it has no instances.
    pub fn service(&self) -> &str {
        let name = self.name.as_str();
        let instance = self.instance_id.as_ref().and_then(|id| {
            let (service, of) = name.rsplit_once('@')?;
            (*of == *sanitized_id(id)).then_some(service)
        });
        instance.unwrap_or(name)
    }

    /// Whether a monitor probes its VIPs: it belongs to the second stage, which needs their addresses on the interface.
    pub fn asks_vips(&self, monitor: &MonitorSpec) -> bool {
        monitor.asks_any(self.vips.iter().map(|vip| vip.prefix()))
    }

    /// Whether `name` selects this app: its own name, its service's, or its instance name `SERVICE@ID`.
    pub fn matches_name(&self, name: &AppName) -> bool {
        let of_instance = |id: &String| AppName::of_instance(self.service(), id) == *name;
        self.name == *name
            || self.service() == name.as_str()
            || self.instance_id.as_ref().is_some_and(of_instance)
    }

    /// Its path attributes, as written.
    pub fn vip_config(&self) -> VipConfig {
        VipConfig {
            attributes: self.attributes.clone(),
            when_down: self.when_down.clone(),
            when_draining: self.when_draining.clone(),
        }
    }

    /// Whether both are equal apart from source and instance id.
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
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AppName {
    /// Makes a valid name of any text: characters that a name may not hold become `_`.
    pub fn sanitized(text: &str) -> Self {
        let mut name = text.trim().replace(needs_escape, "_");
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
        Self::sanitized(&format!("{service}@{}", sanitized_id(id)))
    }

    /// The name `NAME~NUMBER`, for an app whose name is taken.
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
fn sanitized_id(id: &str) -> String {
    id.replace(
        |c: char| c.is_whitespace() || needs_escape(c) || c == '@',
        "_",
    )
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AppName {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let fits = (1..=255).contains(&s.len()) && !s.contains(needs_escape) && s.trim() == s;
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
    /// All sources, lowest precedence first.
    pub const ALL: [Self; 4] = [Self::Http, Self::Consul, Self::Env, Self::Config];

    /// A remote source: not this host's operator.
    pub fn is_remote(self) -> bool {
        matches!(self, Self::Http | Self::Consul)
    }

    /// A source may replace apps of its own or a lower precedence: configuration and environment (equal), Consul, HTTP.
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

/// A prefix that may be announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip(Prefix);

/// Ordered as its prefix, so that a set of VIPs can be searched by prefix.
impl Borrow<Prefix> for Vip {
    fn borrow(&self) -> &Prefix {
        &self.0
    }
}

/// Why a text or prefix is no VIP, as a predicate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VipError {
    /// No address and length at all.
    Syntax(ParseError),
    /// An address without its prefix length.
    NoMask(IpAddr),
    /// Why a prefix may never be announced.
    Forbidden(&'static str),
}

impl fmt::Display for VipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(error) => write!(f, "should be {}", error.expected),
            Self::NoMask(addr) => {
                let host = Prefix::host(*addr);
                write!(f, "should be an address with its length: write {host}")
            }
            Self::Forbidden(what) => write!(f, "cannot be a VIP: {what}"),
        }
    }
}

impl std::error::Error for VipError {}

impl Vip {
    /// Refuses /0 and whatever holds an unspecified, loopback, multicast, broadcast or link-local address.
    pub fn new(prefix: Prefix) -> Result<Self, VipError> {
        if prefix.len() == 0 {
            return Err(VipError::Forbidden("it would take all traffic"));
        }
        let overlaps = |block: &str| {
            block
                .parse()
                .is_ok_and(|block: Prefix| block.overlaps(&prefix))
        };
        match FORBIDDEN.iter().find(|(block, _)| overlaps(block)) {
            Some((_, what)) => Err(VipError::Forbidden(what)),
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

    /// The prefix.
    pub fn prefix(self) -> Prefix {
        self.0
    }
}

/// RFC 6890's special-purpose blocks that are bound to a host or a link.
const FORBIDDEN: &[(&str, &str)] = &[
    ("0.0.0.0/8", "it contains the unspecified address"),
    ("127.0.0.0/8", "it contains loopback addresses"),
    ("169.254.0.0/16", "it contains link-local addresses"),
    ("224.0.0.0/4", "it contains multicast addresses"),
    ("255.255.255.255/32", "it contains the broadcast address"),
    ("::/128", "it contains the unspecified address"),
    ("::1/128", "it contains the loopback address"),
    ("::ffff:0:0/96", "it contains IPv4-mapped addresses"),
    ("fe80::/10", "it contains link-local addresses"),
    ("ff00::/8", "it contains multicast addresses"),
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
            assert_eq!(AppName::sanitized(name), parsed);
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
            let other = AppName::sanitized(name);
            assert_eq!(other.as_str().parse(), Ok(other.clone()), "{name:?}");
        }
    }

    #[test]
    fn instances_know_their_service() {
        let mut app = App {
            name: "web".parse().unwrap(),
            source: Source::Consul,
            vips: SmallSet::default(),
            monitors: SmallSet::default(),
            nats: BTreeSet::new(),
            attributes: Attributes::default(),
            when_down: RouteAction::default(),
            when_draining: RouteAction::default(),
            options: AppOptions::default(),
            instance_id: Some("web 1@x".to_owned()),
        };
        assert_eq!(app.service(), "web");
        app.name = AppName::of_instance("web", "web 1@x");
        assert_eq!(app.name.as_str(), "web@web_1_x");
        assert_eq!(app.service(), "web");
        assert!(app.matches_name(&"web".parse().unwrap()) && app.matches_name(&app.name.clone()));
        app.name = AppName::of_instance("a@b", "i");
        assert_eq!(app.service(), "a@b@i", "another instance's");
        app.name = "web".parse().unwrap();
        assert!(app.matches_name(&AppName::of_instance("web", "web 1@x")));
        assert!(!app.matches_name(&AppName::of_instance("web", "web 2")));
        assert_eq!(AppName::sanitized(" a b\u{7f}\n").as_str(), "a b_");
        assert_eq!(AppName::sanitized("").as_str(), "_");
        let long = AppName::sanitized(&"ä".repeat(300));
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
            assert!(matches!(error, VipError::Forbidden(_)), "{text}: {error}");
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
            communities: SmallSet::from([Community::new(1, 1)]),
            med: Some(1),
            local_pref: Some(5),
            ..Attributes::default()
        };
        let over = Attributes {
            communities: SmallSet::from([Community::new(1, 2)]),
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
        for wait in [DrainWait::Traffic, DrainWait::Fixed] {
            assert_eq!(wait.to_string().parse(), Ok(wait));
        }
    }
}
