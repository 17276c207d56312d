//! How an app's health is asked for: the grammar of monitors, as strings.
//!
//! The map form of files is read by `config`. Leaves out: performing a check (`io::monitor`).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::{Protocol, duration, port};
use crate::net::{ParseError, decimal};

/// One monitor of an app.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Monitor {
    pub spec: MonitorSpec,
    pub name: Option<String>,
    pub interval: Duration,
    pub timeout: Duration,
    /// Passes in a row until it counts as up, at least 1.
    pub rise: u32,
    /// Failures in a row until it counts as down, at least 1.
    pub fall: u32,
    /// The interval while the result is changing.
    pub fast_interval: Option<Duration>,
}

impl Monitor {
    /// How it is called outside: its name, else kind and index (its text may hold secrets).
    pub fn label(&self, index: usize) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => format!("{}_{index}", self.spec.kind()),
        }
    }
}

/// What is checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MonitorSpec {
    /// A socket listens on the port in this network namespace.
    Port {
        protocol: Protocol,
        port: u16,
        accept_queue: AcceptQueue,
    },
    Exec(ExecCommand),
    /// Consul's checks of the service on this node.
    Consul,
    /// A connection opens. The host is an address or a name, without brackets.
    Tcp {
        host: String,
        port: u16,
    },
    Http {
        url: HttpUrl,
        status: StatusRanges,
        /// The body must hold this text.
        contains: Option<String>,
        headers: Vec<(String, String)>,
        /// Certificates are not verified.
        insecure: bool,
    },
    Dns {
        /// As written, a trailing dot included.
        name: String,
        qtype: QType,
        server: SocketAddr,
        /// `None`: NOERROR with an answer; else this code, answer or not.
        rcode: Option<Rcode>,
    },
    /// `/heartbeat` was called within this time.
    Heartbeat(Duration),
}

impl MonitorSpec {
    /// Fit for a metric's label.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Port { .. } => "port",
            Self::Exec(_) => "exec",
            Self::Consul => "consul",
            Self::Tcp { .. } => "tcp",
            Self::Http { .. } => "http",
            Self::Dns { .. } => "dns",
            Self::Heartbeat(_) => "heartbeat",
        }
    }
}

impl fmt::Display for MonitorSpec {
    /// The string form; what only a map can say (`contains`, `rcode`…) is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { protocol, port, .. } => write!(f, "port:{protocol}:{port}"),
            Self::Exec(command) => write!(f, "exec:{command}"),
            Self::Consul => f.write_str("consul"),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Http { url, .. } => url.fmt(f),
            Self::Dns {
                name,
                qtype,
                server,
                ..
            } => write!(f, "dns:{name}/{qtype}@{server}"),
            Self::Heartbeat(within) => write!(f, "heartbeat:{}", duration::Shown(*within)),
        }
    }
}

impl FromStr for MonitorSpec {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        if s == "consul" {
            return Ok(Self::Consul);
        }
        let (kind, rest) = s.split_once(':').unwrap_or((s, ""));
        let parsed = match kind {
            "port" => parse_port(rest).ok_or(PORT),
            "exec" => ExecCommand::shell(rest).map(Self::Exec).ok_or(EXEC),
            "tcp" => host_port(rest)
                .map(|(host, port)| Self::Tcp { host, port })
                .ok_or(TCP),
            "http" | "https" => s.parse().map_err(|_| HTTP).map(|url| Self::Http {
                url,
                status: StatusRanges::default(),
                contains: None,
                headers: Vec::new(),
                insecure: false,
            }),
            "dns" => parse_dns(rest),
            "heartbeat" => duration::parse(rest)
                .ok()
                .filter(|within| !within.is_zero())
                .map(Self::Heartbeat)
                .ok_or(HEARTBEAT),
            _ => Err(KINDS),
        };
        parsed.map_err(|expected| ParseError::new(s, expected))
    }
}

const PORT: &str = "a port monitor: port:tcp:N or port:udp:N, N from 1 to 65535";
const EXEC: &str = "an exec monitor: exec: and a command";
const TCP: &str = "a tcp monitor: tcp:HOST:PORT, an IPv6 address in brackets";
const HTTP: &str =
    "a URL to check: http://HOST[:PORT][/PATH], without a user in it (set headers instead)";
const HEARTBEAT: &str =
    "a heartbeat monitor: heartbeat: and a duration above 0 such as heartbeat:30s";
const DNS: &str =
    "a dns monitor: dns:NAME[/TYPE][@ADDR[:PORT]] such as dns:example.com/AAAA@[::1]:53";
const KINDS: &str = "a monitor: port:tcp:N, port:udp:N, exec:COMMAND, consul, tcp:HOST:PORT, http://…, https://…, dns:NAME or heartbeat:DURATION";

fn parse_port(rest: &str) -> Option<MonitorSpec> {
    let (protocol, number) = rest.split_once(':')?;
    Some(MonitorSpec::Port {
        protocol: protocol.parse().ok()?,
        port: port(number)?,
        accept_queue: AcceptQueue::default(),
    })
}

fn parse_dns(rest: &str) -> Result<MonitorSpec, &'static str> {
    let (question, server) = match rest.split_once('@') {
        Some((question, server)) => (question, dns_server(server).ok_or(DNS)?),
        None => (rest, SocketAddr::from((Ipv4Addr::LOCALHOST, 53))),
    };
    let (name, qtype) = match question.rsplit_once('/') {
        Some((name, qtype)) => (name, qtype.parse().map_err(|_| DNS)?),
        None => (question, QType::A),
    };
    if !is_domain_name(name) {
        return Err(DNS);
    }
    Ok(MonitorSpec::Dns {
        name: name.to_owned(),
        qtype,
        server,
        rcode: None,
    })
}

/// `ADDR`, `ADDR:PORT`, `[V6]`, `[V6]:PORT` or a bare IPv6 address.
fn dns_server(s: &str) -> Option<SocketAddr> {
    if let Ok(addr) = s.parse::<IpAddr>() {
        return Some(SocketAddr::new(addr, 53));
    }
    let bracketed = s.strip_prefix('[').and_then(|s| s.strip_suffix(']'));
    if let Some(addr) = bracketed {
        return Some(SocketAddr::new(addr.parse::<Ipv6Addr>().ok()?.into(), 53));
    }
    s.parse::<SocketAddr>()
        .ok()
        .filter(|server| server.port() != 0)
}

/// RFC 1035 §2.3.4: labels of 1 to 63 octets, 253 in all; `.` is the root.
fn is_domain_name(name: &str) -> bool {
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

/// What a listener whose accept queue is full means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AcceptQueue {
    Ignore,
    #[default]
    Warn,
    Fail,
}

impl fmt::Display for AcceptQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ignore => "ignore",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

impl FromStr for AcceptQueue {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        match s {
            "ignore" => Ok(Self::Ignore),
            "warn" => Ok(Self::Warn),
            "fail" => Ok(Self::Fail),
            _ => Err(ParseError::new(s, "warn, fail or ignore")),
        }
    }
}

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExecCommand {
    /// A line for `bash -c`, or `sh -c` where there is no bash.
    Shell(String),
    /// A program and its arguments, never empty; no shell in between.
    Argv(Vec<String>),
}

impl ExecCommand {
    /// `None` where there is nothing to run.
    pub fn shell(line: &str) -> Option<Self> {
        (!line.trim().is_empty() && !line.contains('\0')).then(|| Self::Shell(line.to_owned()))
    }

    /// `None` where there is nothing to run.
    pub fn argv(words: Vec<String>) -> Option<Self> {
        let runnable = words.first().is_some_and(|program| !program.is_empty())
            && !words.iter().any(|word| word.contains('\0'));
        runnable.then_some(Self::Argv(words))
    }
}

impl fmt::Display for ExecCommand {
    /// Words are quoted so that a shell would run the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shell(line) => f.write_str(line),
            Self::Argv(words) => {
                let quoted: Vec<String> = words
                    .iter()
                    .map(|word| format!("'{}'", word.replace('\'', "'\\''")))
                    .collect();
                f.write_str(&quoted.join(" "))
            }
        }
    }
}

/// A URL to ask, taken apart.
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
        parse().ok_or_else(|| ParseError::new(s, HTTP))
    }
}

/// Accepted HTTP status codes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StatusRanges(BTreeSet<(u16, u16)>);

impl StatusRanges {
    pub fn contains(&self, status: u16) -> bool {
        self.ranges().any(|range| range.contains(&status))
    }

    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u16>> {
        self.0.iter().map(|(first, last)| *first..=*last)
    }
}

impl Default for StatusRanges {
    /// 2xx and 3xx.
    fn default() -> Self {
        Self(BTreeSet::from([(200, 399)]))
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
            .collect::<Option<BTreeSet<_>>>()
            .map(Self)
            .ok_or_else(|| ParseError::new(s, "a list of status codes such as 204, 200-299 or 2xx"))
    }
}

/// A DNS query type (RFC 1035 §3.2.2 and IANA's registry).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QType(pub u16);

impl QType {
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
