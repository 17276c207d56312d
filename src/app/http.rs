//! HTTP monitors: URL and accepted status codes. RFC 3986 (what a check needs of it), RFC 9110 §7.2 and
//! §15.

use std::fmt;
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::port;
use crate::net::{ParseError, decimal};
use crate::small_set::SmallSet;

/// The parts of a URL to request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpUrl {
    pub tls: bool,
    /// An address or a name, without brackets.
    pub host: String,
    pub port: u16,
    /// Path and query, beginning with `/`.
    pub path: String,
}

impl HttpUrl {
    /// The `Host` header's value (RFC 9110 §7.2).
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port == default_port(self.tls) {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl FromStr for HttpUrl {
    type Err = ParseError;

    /// A fragment is dropped: it is never sent.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let parse = || {
            let (scheme, rest) = s.split_once("://")?;
            let tls = match scheme {
                "http" => false,
                "https" => true,
                _ => return None,
            };
            let rest = rest.split('#').next()?;
            let at = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(at);
            let (host, port) = match host_port(authority) {
                Some(both) => both,
                None => host_port(&format!("{authority}:{}", default_port(tls)))?,
            };
            let clean = path.bytes().all(|b| b.is_ascii_graphic());
            let slash = if path.starts_with('/') { "" } else { "/" };
            let path = format!("{slash}{path}");
            clean.then_some(Self {
                tls,
                host,
                port,
                path,
            })
        };
        parse().ok_or_else(|| ParseError::new(s, EXPECTED))
    }
}

/// Accepted HTTP status codes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StatusRanges(SmallSet<(u16, u16)>);

impl StatusRanges {
    /// Whether a status code is accepted.
    pub fn contains(&self, status: u16) -> bool {
        self.ranges().any(|range| range.contains(&status))
    }

    /// The accepted ranges, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u16>> {
        self.0.iter().map(|(first, last)| *first..=*last)
    }
}

impl Default for StatusRanges {
    /// 2xx and 3xx.
    fn default() -> Self {
        Self(SmallSet::from([(200, 399)]))
    }
}

impl fmt::Display for StatusRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for StatusRanges {
    type Err = ParseError;

    /// `204`, `200-299`, `2xx`, or several with commas.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let code = |s: &str| decimal::<u16>(s).filter(|code| (100..=599).contains(code));
        let range = |part: &str| {
            let part = part.trim();
            if let Some(class) = part.strip_suffix("xx") {
                let class = decimal::<u16>(class).filter(|class| (1..=5).contains(class))?;
                return Some((class * 100, class * 100 + 99));
            }
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (code(first)?, code(last)?);
            (first <= last).then_some((first, last))
        };
        s.split(',')
            .map(range)
            .collect::<Option<SmallSet<_>>>()
            .map(Self)
            .ok_or_else(|| ParseError::new(s, "a list of status codes such as 204, 200-299 or 2xx"))
    }
}

pub(super) const EXPECTED: &str =
    "a URL to check: http://HOST[:PORT][/PATH], without a user in it (set headers instead)";

/// `HOST:PORT`, an IPv6 address in brackets; the host comes without them.
pub(crate) fn host_port(s: &str) -> Option<(String, u16)> {
    let (host, number) = s.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .filter(|h| h.parse::<Ipv6Addr>().is_ok())?,
        None => Some(host).filter(|h| is_host_name(h))?,
    };
    Some((host.to_owned(), port(number)?))
}

fn is_host_name(s: &str) -> bool {
    (1..=253).contains(&s.len())
        && s.bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}
