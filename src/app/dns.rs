//! DNS monitors: name, type, server and expected RCODE. RFC 1035, 3597.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::port;
use crate::net::{ParseError, decimal};

/// A DNS query type (RFC 1035 §3.2.2 and IANA's registry).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QType(pub u16);

impl QType {
    /// An IPv4 address.
    pub const A: Self = Self(1);
}

const QTYPES: &[(&str, u16)] = &[
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
    ("NAPTR", 35),
    ("DS", 43),
    ("DNSKEY", 48),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("ANY", 255),
    ("CAA", 257),
];

impl fmt::Display for QType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match QTYPES.iter().find(|(_, value)| *value == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

impl FromStr for QType {
    type Err = ParseError;

    /// A name, or `TYPE` and its number (RFC 3597 §5).
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let name = s.to_ascii_uppercase();
        let known = QTYPES.iter().find(|(known, _)| *known == name);
        known
            .map(|(_, value)| Self(*value))
            .or_else(|| name.strip_prefix("TYPE").and_then(decimal).map(Self))
            .ok_or_else(|| ParseError::new(s, "a DNS type such as A, AAAA or SOA"))
    }
}

/// A DNS response code (RFC 1035 §4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rcode(pub u8);

const RCODES: &[(&str, u8)] = &[
    ("NOERROR", 0),
    ("FORMERR", 1),
    ("SERVFAIL", 2),
    ("NXDOMAIN", 3),
    ("NOTIMP", 4),
    ("REFUSED", 5),
];

impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match RCODES.iter().find(|(_, value)| *value == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Rcode {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let known = RCODES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(s));
        known
            .map(|(_, value)| Self(*value))
            .or_else(|| decimal::<u8>(s).filter(|code| *code < 16).map(Self))
            .ok_or_else(|| ParseError::new(s, "a DNS response code such as NOERROR or NXDOMAIN"))
    }
}

/// The server that a DNS check queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DnsServer {
    Address(SocketAddr),
    /// Each VIP of the app, on this port.
    Vip(u16),
}

impl DnsServer {
    /// The server's UDP port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(server) => server.port(),
            Self::Vip(port) => *port,
        }
    }
}

impl fmt::Display for DnsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(server) => server.fmt(f),
            Self::Vip(port) => write!(f, "vip:{port}"),
        }
    }
}

impl FromStr for DnsServer {
    type Err = ParseError;

    /// `vip`, `vip:PORT`, `ADDR`, `ADDR:PORT`, `[V6]`, `[V6]:PORT` or a bare IPv6 address.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let vip = |s: &str| match s.split_once(':') {
            Some((host, number)) if is_vip(host) => port(number).map(Self::Vip),
            None if is_vip(s) => Some(Self::Vip(PORT)),
            _ => None,
        };
        vip(s)
            .or_else(|| address(s).map(Self::Address))
            .ok_or_else(|| ParseError::new(s, "vip, an address or ADDR:PORT"))
    }
}

/// The word in place of an address.
pub(super) fn is_vip(host: &str) -> bool {
    host.eq_ignore_ascii_case("vip")
}

fn address(s: &str) -> Option<SocketAddr> {
    if let Ok(addr) = s.parse::<IpAddr>() {
        return Some(SocketAddr::new(addr, PORT));
    }
    let bracketed = s.strip_prefix('[').and_then(|s| s.strip_suffix(']'));
    if let Some(addr) = bracketed {
        let addr = addr.parse::<Ipv6Addr>().ok()?;
        return Some(SocketAddr::new(addr.into(), PORT));
    }
    s.parse::<SocketAddr>()
        .ok()
        .filter(|server| server.port() != 0)
}

/// RFC 1035 §2.3.4: labels of 1 to 63 octets, 253 in all; `.` is the root.
pub(super) fn is_domain_name(name: &str) -> bool {
    if name == "." {
        return true;
    }
    let trimmed = name.strip_suffix('.').unwrap_or(name);
    (1..=253).contains(&trimmed.len())
        && trimmed.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'@'))
        })
}

/// RFC 1035 §4.2.
const PORT: u16 = 53;
