//! Monitors: the grammar of their string form.
//!
//! The map form of files is read by `config`. Leaves out: performing a check (`io::monitor`).

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use super::dns::{self, DnsServer, QType, Rcode};
use super::http::{self, HttpUrl, StatusRanges};
use super::{Protocol, port};
use crate::net::ParseError;
use crate::schema::duration;

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
    /// The label in metrics and `/apps`: its name, else kind and index (its text may hold secrets).
    pub fn label(&self, index: usize) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => format!("{}_{index}", self.spec.kind()),
        }
    }

    /// How a person reads it: its name, else its text where that cannot hold a secret.
    pub fn title(&self, index: usize) -> String {
        match &self.spec {
            _ if self.name.is_some() => self.label(index),
            MonitorSpec::Exec(_) | MonitorSpec::Http { .. } => self.label(index),
            spec => spec.to_string(),
        }
    }
}

/// What is checked. `Debug` shows the string form: the values of headers may be secrets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
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
    /// A connection opens. The host is an address or a name, without brackets, or `vip`.
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
        server: DnsServer,
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

impl fmt::Debug for MonitorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MonitorSpec({self})")
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
            "tcp" => http::host_port(rest)
                .map(|(host, port)| Self::Tcp { host, port })
                .ok_or(TCP),
            "http" | "https" => s.parse().map_err(|_| http::EXPECTED).map(|url| Self::Http {
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
const TCP: &str = "a tcp monitor: tcp:HOST:PORT, an IPv6 address in brackets, or tcp:vip:PORT";
const HEARTBEAT: &str =
    "a heartbeat monitor: heartbeat: and a duration above 0 such as heartbeat:30s";
const DNS: &str = "a dns monitor: dns:NAME[/TYPE][@ADDR[:PORT]] such as dns:example.com/AAAA@[::1]:53 or dns:example.com@vip";
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
        Some((question, server)) => (question, server.parse().map_err(|_| DNS)?),
        None => (rest, DnsServer::Address((Ipv4Addr::LOCALHOST, 53).into())),
    };
    let (name, qtype) = match question.rsplit_once('/') {
        Some((name, qtype)) => (name, qtype.parse().map_err(|_| DNS)?),
        None => (question, QType::A),
    };
    if !dns::is_domain_name(name) {
        return Err(DNS);
    }
    Ok(MonitorSpec::Dns {
        name: name.to_owned(),
        qtype,
        server,
        rcode: None,
    })
}

/// The result for a listener whose accept queue is full.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Debug;

    #[test]
    fn monitors_read_back_as_they_are_written() {
        for (text, shown) in [
            ("port:tcp:5000", "port:tcp:5000"),
            ("port:udp:53", "port:udp:53"),
            ("consul", "consul"),
            (
                "exec:curl -f http://localhost:80/ | grep a",
                "exec:curl -f http://localhost:80/ | grep a",
            ),
            ("tcp:localhost:80", "tcp:localhost:80"),
            ("tcp:[::1]:80", "tcp:[::1]:80"),
            ("http://127.0.0.1", "http://127.0.0.1/"),
            ("https://[::1]:8443/x?y=1#z", "https://[::1]:8443/x?y=1"),
            ("http://a:80/x", "http://a/x"),
            ("http://a?x", "http://a/?x"),
            ("dns:example.com", "dns:example.com/A@127.0.0.1:53"),
            (
                "dns:example.com/aaaa@[::1]:53",
                "dns:example.com/AAAA@[::1]:53",
            ),
            ("dns:./SOA@::1", "dns:./SOA@[::1]:53"),
            ("dns:a.b./TYPE99@[::1]", "dns:a.b./TYPE99@[::1]:53"),
            ("dns:x@192.0.2.1:5353", "dns:x/A@192.0.2.1:5353"),
            ("dns:x@vip", "dns:x/A@vip:53"),
            ("dns:x/SOA@VIP:5353", "dns:x/SOA@vip:5353"),
            ("tcp:vip:80", "tcp:vip:80"),
            ("http://vip", "http://vip/"),
            ("https://vip:8443/x", "https://vip:8443/x"),
            ("heartbeat:90s", "heartbeat:1m30s"),
        ] {
            let spec: MonitorSpec = text.parse().unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(spec.to_string(), shown);
            assert_eq!(shown.parse(), Ok(spec));
        }
    }

    #[test]
    fn what_is_no_monitor_is_refused() {
        for text in [
            "",
            "port",
            "port:",
            "port:tcp",
            "port:tcp:",
            "port:tcp:0",
            "port:tcp:65536",
            "port:tcp:1:2",
            "port:sctp:1",
            "exec",
            "exec:",
            "exec: ",
            "consul:x",
            "Consul",
            "tcp:x",
            "tcp:x:0",
            "tcp::80",
            "tcp:::1:80",
            "tcp:[x]:80",
            "tcp:a/b:80",
            "http:x",
            "http://",
            "http://u:p@h/",
            "http://h:0/",
            "http://h/a b",
            "ftp://h",
            "dns:",
            "dns:a..b",
            "dns:a/XX",
            "dns:a@b",
            "dns:a@1.1.1.1:0",
            "dns:a@vip:",
            "dns:a@vip:0",
            "dns:a@[vip]",
            "dns:a@vip:53:1",
            "dns:a@vips",
            "tcp:vip",
            "tcp:vip:0",
            "dns:a b",
            "heartbeat:",
            "heartbeat:5",
            "heartbeat:0",
            "heartbeat:-1s",
            "ping:1.1.1.1",
        ] {
            assert!(text.parse::<MonitorSpec>().is_err(), "{text}");
        }
    }

    #[test]
    fn details_read_back() {
        fn same<T: FromStr<Err = ParseError> + fmt::Display + PartialEq + Debug>(texts: &[&str]) {
            for text in texts {
                assert_eq!(text.parse::<T>().unwrap().to_string(), *text);
            }
        }
        same::<AcceptQueue>(&["ignore", "warn", "fail"]);
        same::<StatusRanges>(&["200", "200-299", "200,204,300-399"]);
        same::<QType>(&["A", "AAAA", "TYPE65280", "ANY"]);
        same::<Rcode>(&["NOERROR", "NXDOMAIN", "9"]);
        assert_eq!(
            "2xx".parse::<StatusRanges>().unwrap().to_string(),
            "200-299"
        );
        for text in ["", "20", "600", "299-200", "6xx", "x", "200,"] {
            assert!(text.parse::<StatusRanges>().is_err(), "{text}");
        }
        let default = StatusRanges::default();
        assert!(default.contains(399) && !default.contains(400) && !default.contains(199));
        assert!("16".parse::<Rcode>().is_err());
    }

    #[test]
    fn a_program_and_its_arguments_are_shown_as_a_shell_would_take_them() {
        let words = ["/bin/x", "it's", ""].map(str::to_owned).to_vec();
        let argv = ExecCommand::argv(words).unwrap();
        assert_eq!(argv.to_string(), r"'/bin/x' 'it'\''s' ''");
        assert_eq!(ExecCommand::argv(Vec::new()), None);
        assert_eq!(ExecCommand::argv(vec![String::new()]), None);
        assert_eq!(ExecCommand::shell("a\0b"), None);
    }

    #[test]
    fn a_label_is_the_name_or_kind_and_index() {
        let mut monitor = Monitor {
            spec: MonitorSpec::Consul,
            name: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise: 1,
            fall: 1,
            fast_interval: None,
        };
        assert_eq!(monitor.label(2), "consul_2");
        monitor.name = Some("x".to_owned());
        assert_eq!(monitor.label(2), "x");
    }
}
