//! Routing types: prefixes, AS numbers, identifiers and communities, each a newtype whose
//! constructor validates.
//!
//! RFC 4271 (prefixes, origin, BGP identifier), RFC 6793 (four-octet AS numbers), RFC 1997, 8092 and
//! 4360 (communities), RFC 7607 (AS 0), RFC 6286 (identifier not zero).

mod peer_name;

pub use peer_name::{PeerName, is_interface_name, is_link_local};

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address family of unicast routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of an address.
    pub fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// Bits in an address.
    pub fn width(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

impl FromStr for Family {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        match s {
            "ipv4" | "4" => Ok(Self::Ipv4),
            "ipv6" | "6" => Ok(Self::Ipv6),
            _ => Err(ParseError::new(s, "ipv4 or ipv6")),
        }
    }
}

/// Text that does not parse: the text, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    pub value: String,
    pub expected: &'static str,
}

impl ParseError {
    /// `value` is not `expected`, a noun phrase.
    pub fn new(value: &str, expected: &'static str) -> Self {
        Self {
            value: value.to_owned(),
            expected,
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not {}", self.value, self.expected)
    }
}

impl std::error::Error for ParseError {}

/// An address prefix without host bits; every constructor rejects or clears them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

/// Why an address and a length do not form a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixError {
    /// The length exceeds the width of the family's addresses, in bits.
    Length { len: u8, width: u8 },
    /// Host bits are set; `masked` is the prefix with them cleared.
    HostBits { masked: Prefix },
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { len, width } => write!(f, "prefix length {len} exceeds {width}"),
            Self::HostBits { masked } => write!(f, "host bits are set, {masked} has none"),
        }
    }
}

impl std::error::Error for PrefixError {}

impl Prefix {
    /// Refuses host bits.
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let masked = Self::masked(addr, len)?;
        if masked.addr == addr {
            Ok(masked)
        } else {
            Err(PrefixError::HostBits { masked })
        }
    }

    /// Clears host bits.
    pub fn masked(addr: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let width = Family::of(addr).width();
        if len > width {
            return Err(PrefixError::Length { len, width });
        }
        let addr = match addr {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(u32::from(width - len)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(u32::from(width - len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask))
            }
        };
        Ok(Self { addr, len })
    }

    /// The prefix of one address alone.
    pub fn host(addr: IpAddr) -> Self {
        Self {
            addr,
            len: Family::of(addr).width(),
        }
    }

    /// The network address.
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Significant bits.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a prefix length, not a container's"
    )]
    pub fn len(&self) -> u8 {
        self.len
    }

    /// The address family.
    pub fn family(&self) -> Family {
        Family::of(self.addr)
    }

    /// A /32 or /128.
    pub fn is_host(&self) -> bool {
        self.len == self.family().width()
    }

    /// Whether `addr` lies in the prefix.
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.family() == Family::of(addr) && Self::masked(addr, self.len) == Ok(*self)
    }

    /// All prefixes that contain an address, the longest first.
    pub fn covering(addr: IpAddr) -> impl Iterator<Item = Self> {
        let lengths = (0..=Family::of(addr).width()).rev();
        lengths.filter_map(move |len| Self::masked(addr, len).ok())
    }

    /// Whether every address of `other` lies in this one.
    pub fn covers(&self, other: &Prefix) -> bool {
        self.len <= other.len && self.contains(other.addr)
    }

    /// Whether one of the two prefixes covers the other.
    pub fn overlaps(&self, other: &Prefix) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// Splits `ADDR/LEN`. The length is required, host bits are accepted.
pub fn parse_cidr(s: &str) -> Result<(IpAddr, u8), ParseError> {
    const EXPECTED: &str =
        "an address with its prefix length, such as 192.0.2.53/32 or 2001:db8::53/128";
    let error = || ParseError::new(s, EXPECTED);
    let (addr, len) = s.split_once('/').ok_or_else(error)?;
    let addr: IpAddr = addr.parse().map_err(|_| error())?;
    let len = decimal::<u8>(len)
        .filter(|len| *len <= Family::of(addr).width())
        .ok_or_else(error)?;
    Ok((addr, len))
}

impl FromStr for Prefix {
    type Err = ParseError;

    /// Refuses host bits.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let (addr, len) = parse_cidr(s)?;
        Self::new(addr, len).map_err(|_| ParseError::new(s, "a prefix without host bits"))
    }
}

/// A four-octet AS number (RFC 6793), never 0 (RFC 7607).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(u32);

impl Asn {
    /// AS_TRANS, which a speaker without four-octet AS numbers gets in place of a larger number (RFC
    /// 6793 §9).
    pub const TRANS: Self = Self(23456);

    /// `None` for the reserved number 0 (RFC 7607).
    pub fn new(value: u32) -> Option<Self> {
        (value != 0).then_some(Self(value))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }

    /// As two octets: itself where it fits, else AS_TRANS.
    pub fn as_u16(self) -> u16 {
        u16::try_from(self.0).unwrap_or(23456)
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Asn {
    type Err = ParseError;

    /// Plain (`4200000001`) or dotted (`64086.59905`, RFC 5396).
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let value = match s.split_once('.') {
            Some((high, low)) => decimal::<u16>(high)
                .zip(decimal::<u16>(low))
                .map(|(high, low)| u32::from(high) << 16 | u32::from(low)),
            None => decimal::<u32>(s),
        };
        value
            .and_then(Self::new)
            .ok_or_else(|| ParseError::new(s, "an AS number from 1 to 4294967295"))
    }
}

/// A BGP identifier: four octets, not zero (RFC 6286 §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(Ipv4Addr);

impl RouterId {
    /// `None` for 0.0.0.0.
    pub fn new(value: Ipv4Addr) -> Option<Self> {
        (!value.is_unspecified()).then_some(Self(value))
    }

    /// The identifier as an address.
    pub fn addr(self) -> Ipv4Addr {
        self.0
    }
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RouterId {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        s.parse().ok().and_then(Self::new).ok_or_else(|| {
            ParseError::new(
                s,
                "a router id, written as an IPv4 address other than 0.0.0.0",
            )
        })
    }
}

/// ORIGIN (RFC 4271 §5.1.1), in order of preference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    #[default]
    Igp,
    Egp,
    Incomplete,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Igp => "igp",
            Self::Egp => "egp",
            Self::Incomplete => "incomplete",
        })
    }
}

impl FromStr for Origin {
    type Err = ParseError;

    /// GoCast's `unknown` is `incomplete`.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        match s {
            "igp" => Ok(Self::Igp),
            "egp" => Ok(Self::Egp),
            "incomplete" | "unknown" => Ok(Self::Incomplete),
            _ => Err(ParseError::new(s, "an origin: igp, egp or incomplete")),
        }
    }
}

/// A community (RFC 1997).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

/// IANA's registry "BGP Well-known Communities".
const WELL_KNOWN: &[(&str, u32)] = &[
    ("graceful-shutdown", 0xffff_0000), // RFC 8326
    ("accept-own", 0xffff_0001),        // RFC 7611
    ("llgr-stale", 0xffff_0006),        // RFC 9494
    ("no-llgr", 0xffff_0007),           // RFC 9494
    ("blackhole", 0xffff_029a),         // RFC 7999
    ("no-export", 0xffff_ff01),         // RFC 1997
    ("no-advertise", 0xffff_ff02),      // RFC 1997
    ("no-export-subconfed", 0xffff_ff03),
    ("no-peer", 0xffff_ff04), // RFC 3765
];

impl Community {
    /// GRACEFUL_SHUTDOWN (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);

    /// `high:low`.
    pub fn new(high: u16, low: u16) -> Self {
        Self(u32::from(high) << 16 | u32::from(low))
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match WELL_KNOWN.iter().find(|(_, value)| *value == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff),
        }
    }
}

impl FromStr for Community {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let name = s.to_ascii_lowercase().replace('_', "-");
        if let Some((_, value)) = WELL_KNOWN.iter().find(|(known, _)| *known == name) {
            return Ok(Self(*value));
        }
        s.split_once(':')
            .and_then(|(high, low)| Some(Self::new(decimal(high)?, decimal(low)?)))
            .ok_or_else(|| {
                ParseError::new(
                    s,
                    "a community: two numbers from 0 to 65535 such as 65001:100, or a well-known name \
                     such as no-export (for a larger AS use large_communities)",
                )
            })
    }
}

/// A large community (RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity {
    pub global: u32,
    pub local1: u32,
    pub local2: u32,
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.local1, self.local2)
    }
}

impl FromStr for LargeCommunity {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let parse = || {
            let mut parts = s.split(':').map(decimal::<u32>);
            let mut next = || parts.next().flatten();
            let value = Self {
                global: next()?,
                local1: next()?,
                local2: next()?,
            };
            parts.next().is_none().then_some(value)
        };
        parse().ok_or_else(|| {
            ParseError::new(
                s,
                "a large community: three numbers from 0 to 4294967295 such as 65001:1:2",
            )
        })
    }
}

/// An extended community (RFC 4360), the eight octets as they go on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtCommunity(pub [u8; 8]);

/// Sub-types of the transitive AS- and address-specific types (RFC 4360 §4, §5).
const EXT_SUBTYPES: &[(&str, u8)] = &[("rt", 2), ("soo", 3)];

impl ExtCommunity {
    /// Type and sub-type, RFC 4360 §3.1 (two-octet AS), §3.2 (IPv4 address), RFC 5668 (four-octet AS).
    fn with_administrator(kind: u8, admin: &str, value: &str) -> Option<Self> {
        if let Ok(addr) = admin.parse::<Ipv4Addr>() {
            return Some(Self::join(
                [1, kind],
                addr.octets(),
                decimal::<u16>(value)?.to_be_bytes(),
            ));
        }
        let asn = decimal::<u32>(admin)?;
        match u16::try_from(asn) {
            Ok(asn) => Some(Self::join(
                [0, kind],
                asn.to_be_bytes(),
                decimal::<u32>(value)?.to_be_bytes(),
            )),
            Err(_) => Some(Self::join(
                [2, kind],
                asn.to_be_bytes(),
                decimal::<u16>(value)?.to_be_bytes(),
            )),
        }
    }

    fn join<const A: usize, const B: usize>(head: [u8; 2], admin: [u8; A], value: [u8; B]) -> Self {
        let mut bytes = [0; 8];
        let all = head.into_iter().chain(admin).chain(value);
        for (slot, byte) in bytes.iter_mut().zip(all) {
            *slot = byte;
        }
        Self(bytes)
    }
}

impl fmt::Display for ExtCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, sub, a, b, c, d, e, g] = self.0;
        let Some((name, _)) = EXT_SUBTYPES
            .iter()
            .find(|(_, value)| *value == sub)
            .filter(|_| kind <= 2)
        else {
            return write!(f, "0x{:016x}", u64::from_be_bytes(self.0));
        };
        match kind {
            0 => write!(
                f,
                "{name}:{}:{}",
                u16::from_be_bytes([a, b]),
                u32::from_be_bytes([c, d, e, g])
            ),
            1 => write!(
                f,
                "{name}:{}:{}",
                Ipv4Addr::new(a, b, c, d),
                u16::from_be_bytes([e, g])
            ),
            _ => write!(
                f,
                "{name}:{}:{}",
                u32::from_be_bytes([a, b, c, d]),
                u16::from_be_bytes([e, g])
            ),
        }
    }
}

impl FromStr for ExtCommunity {
    type Err = ParseError;

    /// `rt:ADMIN:VALUE`, `soo:ADMIN:VALUE`, ADMIN an AS number or an IPv4 address; or all eight octets
    /// as `0x` and 16 hexadecimal digits.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let raw = s.strip_prefix("0x").filter(|hex| hex.len() == 16);
        let parse = || {
            if let Some(hex) = raw {
                return u64::from_str_radix(hex, 16)
                    .ok()
                    .map(|value| Self(value.to_be_bytes()));
            }
            let (name, rest) = s.split_once(':')?;
            let (admin, value) = rest.split_once(':')?;
            let (_, kind) = EXT_SUBTYPES
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(name))?;
            Self::with_administrator(*kind, admin, value)
        };
        parse().ok_or_else(|| {
            ParseError::new(
                s,
                "an extended community: rt:65001:1, soo:192.0.2.1:1, or 0x and 16 hexadecimal digits",
            )
        })
    }
}

/// A number in decimal digits alone: `FromStr` of the integers would also take a leading `+`.
pub fn decimal<T: FromStr>(s: &str) -> Option<T> {
    s.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| s.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_never_has_host_bits() {
        let addr: IpAddr = "198.51.100.77".parse().unwrap();
        let masked = Prefix::masked(addr, 24).unwrap();
        assert_eq!(masked.to_string(), "198.51.100.0/24");
        assert_eq!(Prefix::new(addr, 24), Err(PrefixError::HostBits { masked }));
        assert_eq!(
            Prefix::new(addr, 33),
            Err(PrefixError::Length { len: 33, width: 32 })
        );
        assert_eq!(Prefix::masked(addr, 0).unwrap().to_string(), "0.0.0.0/0");
        assert_eq!(
            Prefix::masked("2001:db8::1".parse().unwrap(), 0)
                .unwrap()
                .to_string(),
            "::/0"
        );
    }

    #[test]
    fn a_prefix_is_written_with_its_length() {
        assert!("192.0.2.53".parse::<Prefix>().is_err());
        assert!("192.0.2.53/+8".parse::<Prefix>().is_err());
        assert!("192.0.2.53/33".parse::<Prefix>().is_err());
        assert!("192.0.2.53/24".parse::<Prefix>().is_err());
        assert_eq!(
            "2001:db8::53/128".parse::<Prefix>().unwrap().to_string(),
            "2001:db8::53/128"
        );
    }

    #[test]
    fn containment_stays_inside_the_family() {
        let v4: Prefix = "192.0.2.0/24".parse().unwrap();
        assert!(v4.contains("192.0.2.9".parse().unwrap()));
        assert!(!v4.contains("192.0.3.9".parse().unwrap()));
        let around: Vec<Prefix> = Prefix::covering("192.0.2.9".parse().unwrap()).collect();
        assert_eq!((around.len(), around[8], around[32].len()), (33, v4, 0));
        let all6: Prefix = "::/0".parse().unwrap();
        assert!(!all6.contains("192.0.2.9".parse().unwrap()));
        assert!(v4.covers(&"192.0.2.128/25".parse().unwrap()));
        assert!(!v4.covers(&"192.0.0.0/16".parse().unwrap()));
        assert!(v4.overlaps(&"192.0.0.0/16".parse().unwrap()));
    }

    #[test]
    fn what_is_written_reads_back() {
        fn same<T: FromStr<Err = ParseError> + fmt::Display>(texts: &[&str]) {
            for text in texts {
                assert_eq!(
                    text.parse::<T>()
                        .unwrap_or_else(|e| panic!("{e}"))
                        .to_string(),
                    *text
                );
            }
        }
        same::<Community>(&[
            "65001:100",
            "0:0",
            "no-export",
            "graceful-shutdown",
            "blackhole",
        ]);
        same::<LargeCommunity>(&["65001:1:2", "4294967295:0:0"]);
        same::<ExtCommunity>(&[
            "rt:65001:1",
            "soo:192.0.2.1:9",
            "rt:4200000001:7",
            "0x4300000000000001",
        ]);
        same::<Asn>(&["1", "4294967295"]);
        same::<RouterId>(&["10.0.0.1"]);
        same::<Family>(&["ipv4", "ipv6"]);
        same::<Origin>(&["igp", "egp", "incomplete"]);
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_the_value() {
        for text in [
            "65000:70000",
            "no-exprot",
            "1",
            "1:2:3",
            ":1",
            "1:",
            "-1:1",
            "+1:1",
        ] {
            let error = text.parse::<Community>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        for text in ["rt:70000:70000", "xx:1:1", "rt:1", "0x12"] {
            assert!(text.parse::<ExtCommunity>().is_err(), "{text}");
        }
        assert!("1:2:3:4".parse::<LargeCommunity>().is_err());
        assert!("0".parse::<Asn>().is_err());
        assert_eq!("1.1".parse::<Asn>().unwrap().get(), 65537);
        assert!("0.0.0.0".parse::<RouterId>().is_err());
    }

    #[test]
    fn as_numbers_that_do_not_fit_two_octets_become_as_trans() {
        assert_eq!(Asn::new(65001).unwrap().as_u16(), 65001);
        assert_eq!(Asn::new(4_200_000_001).unwrap().as_u16(), 23456);
        assert_eq!(Asn::TRANS.get(), 23456);
    }
}
