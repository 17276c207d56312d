//! HTTP client of the running announcer, over TCP or a unix socket, blocking.
//!
//! The address comes from `--addr`, `SIDECAST_ADDR` or the configuration, the token from the
//! configuration or its variable. If no configuration is named, in a container, it is that of process 1.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Failure;
use super::args;
use super::command::{Command, Invocation};
use super::run::environment;
use crate::config::{self, Agent, ListenAddr, Secret};
use crate::io::client::{self, Error, HttpRequest, TlsFiles};

/// The announcer's address and token.
#[derive(Debug)]
pub struct Client {
    target: Target,
    token: Option<Secret>,
    passed_over: Hint,
}

/// The address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `host:port`; the host may be a name.
    Tcp(String),
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => f.write_str(addr),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The result of looking for the announcer's address.
#[derive(Debug)]
pub enum Lookup {
    Client(Client),
    /// `agent.listen_addr` is "off".
    SwitchedOff,
}

/// What the announcer answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    hint: Hint,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum CallError {
    Unreachable {
        target: String,
        cause: io::Error,
        hint: Hint,
    },
    /// The connection was there and ended early, or the answer took too long.
    Broken { target: String, cause: io::Error },
    /// The answer is not HTTP.
    NotHttp { target: String, hint: Hint },
}

/// Why the configuration at its default path was not read: it may have the address or token that is
/// missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hint(Option<String>);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |why| write!(f, "\n{why}"))
    }
}

impl CallError {
    /// Whether no connection could be made.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable {
                target,
                cause,
                hint,
            } => write!(
                f,
                "nothing answers at {target}: {cause}; is sidecast running? --addr or SIDECAST_ADDR names another address{hint}"
            ),
            Self::Broken { target, cause } => write!(f, "no answer from {target}: {cause}"),
            Self::NotHttp { target, hint } => {
                write!(f, "what answers at {target} is not sidecast{hint}")
            }
        }
    }
}

impl std::error::Error for CallError {}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::run(format!("sidecast: {error}"))
    }
}

impl Client {
    /// Finds the address. `addr` and `config` are `--addr` and `--config`.
    pub fn find(addr: Option<&str>, config: Option<&Path>) -> Result<Lookup, Failure> {
        let first = fs::read("/proc/1/cmdline").unwrap_or_default();
        find_in(addr, config, &environment(), &first, Path::new(STANDARD))
    }

    /// As [`Client::find`], for commands that cannot do without one. A file named by `--config` has to exist: without it
    /// a command for one announcer would reach the one at the default address.
    pub fn must_find(addr: Option<&str>, config: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = config
            && let Err(error) = fs::metadata(path)
            && error.kind() == io::ErrorKind::NotFound
        {
            let path = path.display();
            return Err(Failure::usage(format!(
                "sidecast: --config: {path}: {error}"
            )));
        }
        match Self::find(addr, config)? {
            Lookup::Client(client) => Ok(client),
            Lookup::SwitchedOff => Err(Failure::usage(
                "sidecast: the configuration switches the API off; set agent.listen_addr to an address",
            )),
        }
    }

    /// Sends one request and reads the whole answer, within `limit`.
    pub fn call(
        &self,
        method: &str,
        path: &str,
        params: &[(String, String)],
        limit: Duration,
    ) -> Result<Answer, CallError> {
        let (socket, host) = match &self.target {
            Target::Tcp(addr) => (None, addr.as_str()),
            Target::Unix(path) => (Some(path.clone()), "localhost"),
        };
        let token = self.token.as_ref();
        let token = token.map(|token| format!("Bearer {}", token.expose()));
        let token = token.iter().map(|token| ("Authorization", token.as_str()));
        let kind = ("Content-Type", "application/x-www-form-urlencoded");
        let kind = (method == "POST").then_some(kind);
        let headers = [("Accept", "application/json")].into_iter();
        let headers: Vec<_> = headers.chain(kind).chain(token).collect();
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(params)
            .finish();
        let asked = client::Client::new(socket, TlsFiles::default()).fetch(&HttpRequest {
            url: &format!("http://{host}{path}"),
            headers: &headers,
            form: kind.map(|_| body.as_str()),
            limit,
            connect: CONNECT,
        });
        let answer = asked.and_then(|answer| {
            let status = answer.status();
            let body = answer.read_all(MAX_ANSWER)?;
            let body = String::from_utf8_lossy(&body).into_owned();
            let hint = self.passed_over.clone();
            Ok(Answer { status, body, hint })
        });
        answer.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: Error) -> CallError {
        let target = self.target.to_string();
        let hint = self.passed_over.clone();
        let late = || io::Error::new(io::ErrorKind::TimedOut, "it took too long");
        match error {
            Error::ConnectFailed(_, cause) => CallError::Unreachable {
                target,
                cause,
                hint,
            },
            Error::Io(cause) => CallError::Broken { target, cause },
            Error::TimedOut | Error::FilesTimedOut => CallError::Broken {
                target,
                cause: late(),
            },
            Error::InvalidHttp(_) => CallError::NotHttp { target, hint },
        }
    }
}

impl Answer {
    /// Whether the status is 200.
    pub fn is_ok(&self) -> bool {
        self.status == 200
    }

    /// Parsed as bytes, like all JSON here: parsing text would add a second instance of the parser.
    pub fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(self.body.as_bytes()).ok()
    }

    /// What an error answer says: its `error`, else its first line.
    pub fn reason(&self) -> String {
        self.json()
            .and_then(|v| v.get("error")?.as_str().map(str::to_owned))
            .unwrap_or_else(|| self.body.lines().next().unwrap_or_default().to_owned())
    }

    /// The answer as an error of a command, with what to do about it.
    pub fn into_failure(self) -> Failure {
        let reason = match self.reason() {
            reason if reason.is_empty() => format!("HTTP status {}", self.status),
            reason => reason,
        };
        let advice = match self.status {
            401 => "; set SIDECAST_AGENT_API_TOKEN, or name the announcer's file with --config",
            _ => "",
        };
        let message = match self.status {
            401 | 403 => format!("sidecast: {reason}{advice}{}", self.hint),
            _ => format!("sidecast: {reason}"),
        };
        match self.status {
            // The request is invalid: bad usage.
            400 => Failure::usage(message),
            _ => Failure::run(message),
        }
    }
}

/// `first` is the command line of the first process here, each word ended by a zero.
fn find_in(
    addr: Option<&str>,
    config: Option<&Path>,
    env: &BTreeMap<String, String>,
    first: &[u8],
    standard: &Path,
) -> Result<Lookup, Failure> {
    let set = |key: &str| env.get(key).map(String::as_str).filter(|v| !v.is_empty());
    let address = addr.or_else(|| set("SIDECAST_ADDR"));
    let inline = set("SIDECAST_CONFIG_YAML");
    let path = config
        .or_else(|| set("SIDECAST_CONFIG").map(Path::new))
        .or_else(|| set("SIDECAST_CONFIG_YAML_FILE").map(Path::new));
    // `--addr` may name another host: the token of process 1 is not sent there.
    let explicit = path.is_some() || inline.is_some() || address.is_some();
    let first = if explicit {
        None
    } else {
        config_of_process_1(first)
    };
    let (default, passed_over) = match (explicit, &first) {
        (false, None) => default_config(standard),
        _ => (None, Hint::default()),
    };
    let named = first.flatten().or(default);
    let agent = load_agent(config.or(named.as_deref()), env);
    if let Some(text) = address {
        // An address is enough: the configuration may be out of reach, or another host's.
        let token = agent.ok().and_then(|agent| agent.api_token);
        return Ok(Lookup::Client(Client {
            target: parse_target(text)?,
            token: token.or_else(|| token_of(env)),
            passed_over,
        }));
    }
    let found = agent.map(from_agent).or_else(|problems| {
        let text = match (path.or(named.as_deref()), inline) {
            (Some(path), _) => fs::read_to_string(path).unwrap_or_default(),
            (None, inline) => inline.unwrap_or_default().to_owned(),
        };
        from_invalid_config(&text, env).ok_or_else(|| {
            Failure::usage(format!(
                "{problems}\nsidecast: the address could not be read from the configuration; --addr names it"
            ))
        })
    })?;
    Ok(match found {
        Lookup::Client(client) => Lookup::Client(Client {
            passed_over,
            ..client
        }),
        Lookup::SwitchedOff => Lookup::SwitchedOff,
    })
}

/// The configuration that commands read where none is named, if it is there.
pub fn standard_config() -> Option<PathBuf> {
    default_config(Path::new(STANDARD)).0
}

/// The configuration at its default path, if it is readable; else why not.
fn default_config(standard: &Path) -> (Option<PathBuf>, Hint) {
    match fs::File::open(standard) {
        Ok(_) => (Some(standard.to_owned()), Hint::default()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (None, Hint::default()),
        Err(error) => {
            let path = standard.display();
            let hint = format!(
                "sidecast: {path} was passed over: {error}; it may name another address and a token: \
                 run as a user who may read it, or use --addr"
            );
            (None, Hint(Some(hint)))
        }
    }
}

/// Whether process 1 of a container is the announcer, and its `--config`: a health check or
/// `docker exec` has the same environment, but not the arguments.
fn config_of_process_1(first: &[u8]) -> Option<Option<PathBuf>> {
    let words = first.strip_suffix(&[0])?.split(|byte| *byte == 0);
    let mut words = words
        .map(OsStr::from_bytes)
        .skip_while(|word| Path::new(word).file_name() != Some(OsStr::new("sidecast")));
    words.next()?;
    match args::parse(words.map(OsStr::to_owned)).ok()? {
        Invocation {
            command: Command::Run { .. },
            global,
        } => Some(global.config),
        _ => None,
    }
}

/// The address of an invalid or unreadable configuration: the announcer keeps running with the one it
/// loaded before, and a health check must not fail because of an edit.
fn from_invalid_config(text: &str, env: &BTreeMap<String, String>) -> Option<Lookup> {
    let file = config::RawConfig::read(text)?;
    let written = |key: &str| file.text("agent", key);
    let listen = variable(env, "SIDECAST_AGENT_LISTEN_ADDR")
        .or_else(|| written("listen_addr"))
        .unwrap_or_else(|| DEFAULT.to_owned());
    if listen == "off" {
        return Some(Lookup::SwitchedOff);
    }
    let addrs = listen.split([',', '\n']).map(str::trim);
    let addrs: Result<Vec<ListenAddr>, _> = addrs.map(str::parse).collect();
    let target = addrs
        .ok()?
        .iter()
        .min_by_key(|a| preference(a))
        .map(target_of)?;
    let in_file = || {
        let text = fs::read_to_string(written("api_token_file")?).ok()?;
        Secret::in_file(&text)
    };
    let token = token_of(env)
        .or_else(|| written("api_token").map(Secret::new))
        .or_else(in_file);
    Some(Lookup::Client(Client {
        target,
        token,
        passed_over: Hint::default(),
    }))
}

/// The agent's section of the configuration, as the announcer would read it.
fn load_agent(config: Option<&Path>, env: &BTreeMap<String, String>) -> Result<Agent, String> {
    let flag = config.map(|path| path.to_string_lossy());
    config::load(flag.as_deref(), env, &mut |path| fs::read_to_string(path))
        .map(|loaded| loaded.config.agent)
        .map_err(|problems| problems.to_string())
}

fn from_agent(agent: Agent) -> Lookup {
    match agent.listen.addrs.iter().min_by_key(|a| preference(a)) {
        Some(addr) => Lookup::Client(Client {
            target: target_of(addr),
            token: agent.api_token,
            passed_over: Hint::default(),
        }),
        None => Lookup::SwitchedOff,
    }
}

/// Addresses that only this host reaches come first.
fn preference(addr: &ListenAddr) -> u8 {
    match addr {
        ListenAddr::Unix(_) => 0,
        ListenAddr::Tcp(addr) if addr.ip().is_loopback() => 1,
        ListenAddr::Any(_) => 2,
        ListenAddr::Tcp(_) => 3,
    }
}

/// Where to connect for an address that is listened on.
fn target_of(addr: &ListenAddr) -> Target {
    match addr {
        ListenAddr::Unix(path) => Target::Unix(path.clone()),
        ListenAddr::Any(port) => Target::Tcp(format!("{}:{port}", Ipv4Addr::LOCALHOST)),
        ListenAddr::Tcp(addr) => {
            let mut addr = *addr;
            if addr.ip().is_unspecified() {
                addr = match addr {
                    SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST, addr.port()).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST, addr.port()).into(),
                };
            }
            Target::Tcp(addr.to_string())
        }
    }
}

/// `host:port`, `:port`, `[::1]:port` or `unix:/path`.
fn parse_target(text: &str) -> Result<Target, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "sidecast: `{text}` is no address: write host:port or unix:/path"
        ))
    };
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() {
            Err(wrong())
        } else {
            Ok(Target::Unix(PathBuf::from(path)))
        };
    }
    let bare = text.strip_prefix("http://").unwrap_or(text);
    let bare = bare.trim_end_matches('/');
    let (host, port) = bare.rsplit_once(':').ok_or_else(wrong)?;
    let bad_host = host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/')
        || (host.contains(':') && !(host.starts_with('[') && host.ends_with(']')));
    match port.parse::<u16>() {
        Ok(1..) if !bad_host && host.is_empty() => Ok(Target::Tcp(format!("127.0.0.1:{port}"))),
        Ok(1..) if !bad_host => Ok(Target::Tcp(bare.to_owned())),
        _ => Err(wrong()),
    }
}

/// The token's variables, where the rest of the configuration is not at hand.
fn token_of(env: &BTreeMap<String, String>) -> Option<Secret> {
    variable(env, "SIDECAST_AGENT_API_TOKEN").map(Secret::new)
}

/// A variable's value, or that of the file which its `_FILE` names; empty is not set.
fn variable(env: &BTreeMap<String, String>, name: &str) -> Option<String> {
    let set = |name: &str| env.get(name).filter(|value| !value.is_empty());
    let in_file = || {
        let text = fs::read_to_string(set(&format!("{name}_FILE"))?).ok()?;
        Some(text.strip_suffix('\n').unwrap_or(&text).to_owned())
    };
    let value = set(name).cloned().or_else(in_file);
    value.filter(|value| !value.is_empty())
}

/// How long commands wait for an answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// With a drain: `drain_time` is the operator's to choose.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(3600);

const CONNECT: Duration = Duration::from_secs(5);
const DEFAULT: &str = "127.0.0.1:8179";
/// The default path of the configuration.
const STANDARD: &str = "/etc/sidecast/config.yaml";
const MAX_ANSWER: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    const NOWHERE: &str = "/nonexistent/config.yaml";

    fn target(addr: Option<&str>, pairs: &[(&str, &str)]) -> String {
        match find_in(addr, None, &env(pairs), b"", NOWHERE.as_ref()).unwrap() {
            Lookup::Client(client) => client.target.to_string(),
            Lookup::SwitchedOff => "off".to_owned(),
        }
    }

    #[test]
    fn the_flag_comes_before_the_variable_and_the_default_last() {
        let set = [("SIDECAST_ADDR", "unix:/run/s")];
        assert_eq!(target(Some("h:1"), &set), "h:1");
        assert_eq!(target(None, &set), "unix:/run/s");
        assert_eq!(target(None, &[("SIDECAST_ADDR", "")]), DEFAULT);
        assert_eq!(target(None, &[]), DEFAULT);
        let listen = [("SIDECAST_AGENT_LISTEN_ADDR", ":8080")];
        assert_eq!(target(None, &listen), "127.0.0.1:8080");
    }

    #[test]
    fn the_configuration_names_the_address_even_with_a_mistake_elsewhere() {
        let of = |yaml: &str| match find_in(
            None,
            None,
            &env(&[("SIDECAST_CONFIG_YAML", yaml)]),
            b"",
            NOWHERE.as_ref(),
        ) {
            Ok(Lookup::Client(client)) => {
                let token = client.token.map(|t| t.expose().to_owned());
                (client.target.to_string(), token)
            }
            Ok(Lookup::SwitchedOff) => ("off".to_owned(), None),
            Err(failure) => (format!("exit {}: {failure}", failure.code), None),
        };
        let token = Some("s3cret".to_owned());
        let good = "{agent: {listen_addr: ':8080', api_token: s3cret}, bgp: {local_as: 65001}}";
        assert_eq!(of(good), ("127.0.0.1:8080".to_owned(), token.clone()));
        let typo = good.replace("local_as", "lokal_as");
        assert_eq!(of(&typo), ("127.0.0.1:8080".to_owned(), token));
        assert_eq!(of("{bgp: {lokal_as: 1}}").0, DEFAULT);
        let off = "{agent: {listen_addr: 'off'}, bgp: {local_as: 65001}}";
        assert_eq!(of(off).0, "off");
        assert_eq!(of(&off.replace("local_as", "lokal_as")).0, "off");
        let list = "{agent: {listen_addr: ['10.0.0.1:1', 'unix:/run/s']}, bgp: {local_as: 65001}}";
        assert_eq!(of(list).0, "unix:/run/s");
        let broken = of("{agent: {listen_addr: nonsense}}").0;
        assert!(
            broken.starts_with("exit 2: ") && broken.contains("--addr"),
            "{broken}"
        );
        assert!(of("{").0.starts_with("exit 2: "));
    }

    #[test]
    fn the_variables_do_where_the_configuration_has_a_mistake() {
        let typo = ("SIDECAST_APP_VIPP", "192.0.2.1/32");
        let of = |key, value| match find_in(
            None,
            None,
            &env(&[typo, (key, value)]),
            b"",
            NOWHERE.as_ref(),
        ) {
            Ok(Lookup::Client(client)) => client.target.to_string(),
            Ok(Lookup::SwitchedOff) => "off".to_owned(),
            Err(failure) => format!("exit {}: {failure}", failure.code),
        };
        let listen = "SIDECAST_AGENT_LISTEN_ADDR";
        assert_eq!(of(listen, "off"), "off");
        assert_eq!(of(listen, ":80, unix:/run/s"), "unix:/run/s");
        let broken = of(listen, "nonsense");
        assert!(broken.starts_with("exit 2: "), "{broken}");
        assert_eq!(
            of("SIDECAST_AGENT_LISTEN_ADDR_FILE", "/nonexistent"),
            DEFAULT
        );
    }

    #[test]
    fn an_empty_token_is_none_and_the_file_counts() {
        let path = std::env::temp_dir().join(format!("sidecast-{}-token", std::process::id()));
        fs::write(&path, "s3cret\n").unwrap();
        let file = path.to_str().unwrap();
        let set = env(&[
            ("SIDECAST_AGENT_API_TOKEN", ""),
            ("SIDECAST_AGENT_API_TOKEN_FILE", file),
        ]);
        assert_eq!(token_of(&set).unwrap().expose(), "s3cret");
        fs::write(&path, "\n").unwrap();
        assert!(token_of(&set).is_none());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn beside_a_containers_first_process_its_configuration_counts() {
        let named = |first: &str| config_of_process_1(first.as_bytes()).flatten();
        let file = Some(PathBuf::from("/c.yaml"));
        for first in [
            "/sidecast\0--config\0/c.yaml\0",
            "/sidecast\0run\0-config=/c.yaml\0-logtostderr\0",
            "/sbin/docker-init\0--\0/sidecast\0-c\0/c.yaml\0",
        ] {
            assert_eq!(named(first), file, "{first:?}");
        }
        for first in [
            "",
            "/sbin/init\0",
            "/sidecast\0",
            "/sidecast\0status\0--config\0/c.yaml\0",
            "sh\0-c\0sidecast --config /c.yaml\0",
            "/sidecast\0--config",
        ] {
            assert_eq!(named(first), None, "{first:?}");
        }
        // An explicit `--addr` or `--config` is never replaced by process 1's.
        let path = std::env::temp_dir().join(format!("sidecast-{}-first", std::process::id()));
        let yaml = "{agent: {listen_addr: ':9000', api_token: s3cret}, bgp: {local_as: 65001}}";
        fs::write(&path, yaml).unwrap();
        let first = format!("/sidecast\0--config\0{}\0", path.display());
        let found = |addr, pairs: &[(&str, &str)]| {
            let found =
                find_in(addr, None, &env(pairs), first.as_bytes(), NOWHERE.as_ref()).unwrap();
            let Lookup::Client(client) = found else {
                panic!("it is on")
            };
            (client.target.to_string(), client.token.is_some())
        };
        assert_eq!(found(None, &[]), ("127.0.0.1:9000".to_owned(), true));
        let other = ("h:1".to_owned(), false);
        assert_eq!(found(Some("h:1"), &[]), other);
        let inline = ("SIDECAST_CONFIG_YAML", "{bgp: {local_as: 65001}}");
        assert_eq!(found(None, &[inline]), (DEFAULT.to_owned(), false));
        let listen = ("SIDECAST_AGENT_LISTEN_ADDR", ":9001");
        assert_eq!(found(None, &[listen]), ("127.0.0.1:9001".to_owned(), true));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn addresses_are_read_in_every_form_and_others_refused() {
        for (text, want) in [
            ("127.0.0.1:8179", "127.0.0.1:8179"),
            ("http://h:8080/", "h:8080"),
            ("[::1]:8179", "[::1]:8179"),
            (":8080", "127.0.0.1:8080"),
            ("unix:/run/sidecast.sock", "unix:/run/sidecast.sock"),
        ] {
            assert_eq!(parse_target(text).unwrap().to_string(), want);
        }
        for text in [
            "",
            "h",
            "h:",
            "h:0",
            "h:x",
            "::1:80",
            "a b:80",
            "unix:",
            "h/x:80",
            "a\r\nb:80",
        ] {
            assert_eq!(parse_target(text).unwrap_err().code, 2, "{text}");
        }
    }

    #[test]
    fn the_nearest_of_several_addresses_is_taken() {
        let of = |text: &str| target_of(&text.parse().unwrap()).to_string();
        assert_eq!(of(":8080"), "127.0.0.1:8080");
        assert_eq!(of("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(of("[::]:8080"), "[::1]:8080");
        assert_eq!(of("10.0.0.1:8080"), "10.0.0.1:8080");
        let rank = |text: &str| preference(&text.parse().unwrap());
        assert!(rank("unix:/s") < rank("127.0.0.1:1"));
        assert!(rank("127.0.0.1:1") < rank(":1"));
        assert!(rank(":1") < rank("10.0.0.1:1"));
    }

    #[test]
    fn a_call_carries_its_form_and_its_token() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = io::BufReader::new(stream);
            let mut seen = String::new();
            while !seen.ends_with("\r\n\r\n") {
                reader.read_line(&mut seen).unwrap();
            }
            let mut body = [0; 13];
            reader.read_exact(&mut body).unwrap();
            let answer = b"HTTP/1.1 409 Conflict\r\nContent-Length: 16\r\n\r\n{\"error\":\"held\"}";
            reader.get_mut().write_all(answer).unwrap();
            seen + std::str::from_utf8(&body).unwrap()
        });
        let client = Client {
            target: Target::Tcp(addr.clone()),
            token: Some(Secret::new("s3\r\ncret")),
            passed_over: Hint::default(),
        };
        let params = [
            ("a".to_owned(), "x y".to_owned()),
            ("b".to_owned(), "%&=".to_owned()),
        ];
        let answer = client
            .call("POST", "/register", &params, ANSWER_TIMEOUT)
            .unwrap();
        assert_eq!((answer.status, answer.reason().as_str()), (409, "held"));
        assert_eq!(answer.into_failure().message, "sidecast: held");
        let seen = server.join().unwrap();
        assert!(seen.starts_with("POST /register HTTP/1.1\r\n"));
        assert!(seen.contains(&format!("\r\nhost: {addr}\r\n")));
        assert!(seen.contains("\r\nauthorization: Bearer s3cret\r\n"));
        assert!(seen.ends_with("a=x+y&b=%25%2"), "{seen}");
    }

    #[test]
    fn no_listener_and_a_bad_answer_are_different_errors() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        drop(listener);
        let client = Client {
            target: Target::Tcp(addr),
            token: None,
            passed_over: Hint::default(),
        };
        let error = client.call("GET", "/", &[], ANSWER_TIMEOUT).unwrap_err();
        assert!(error.is_unreachable());
        assert!(error.to_string().contains("--addr"));
        let client = Client {
            target: Target::Unix("/nonexistent/sidecast.sock".into()),
            token: None,
            passed_over: Hint::default(),
        };
        assert!(
            client
                .call("GET", "/", &[], ANSWER_TIMEOUT)
                .unwrap_err()
                .is_unreachable()
        );
    }

    #[test]
    fn the_usual_place_comes_after_whatever_is_named() {
        let path = std::env::temp_dir().join(format!("sidecast-{}-usual", std::process::id()));
        let yaml = "{agent: {listen_addr: ':9000', api_token: s3cret}, bgp: {local_as: 65001}}";
        fs::write(&path, yaml).unwrap();
        let found = |addr, pairs: &[(&str, &str)], first: &[u8]| {
            let Lookup::Client(client) = find_in(addr, None, &env(pairs), first, &path).unwrap()
            else {
                panic!("it is on")
            };
            assert_eq!(client.passed_over, Hint::default());
            (client.target.to_string(), client.token.is_some())
        };
        let default = (DEFAULT.to_owned(), false);
        assert_eq!(found(None, &[], b""), ("127.0.0.1:9000".to_owned(), true));
        assert_eq!(found(Some("h:1"), &[], b""), ("h:1".to_owned(), false));
        let inline = ("SIDECAST_CONFIG_YAML", "{bgp: {local_as: 65001}}");
        assert_eq!(found(None, &[inline], b""), default);
        // The announcer of this container was started without it.
        assert_eq!(found(None, &[], b"/sidecast\0run\0"), default);
        fs::remove_file(&path).unwrap();
    }

    /// Root, who runs the tests, may read any file: a file in place of a directory cannot be opened even by root.
    #[test]
    fn one_that_cannot_be_read_is_passed_over_with_a_hint() {
        let path = std::env::temp_dir().join(format!("sidecast-{}-folder", std::process::id()));
        fs::write(&path, "").unwrap();
        let found = find_in(None, None, &env(&[]), b"", &path.join("config.yaml")).unwrap();
        let Lookup::Client(client) = found else {
            panic!("it is on")
        };
        assert_eq!(client.target.to_string(), DEFAULT);
        let failure = client.failed(Error::InvalidHttp("this".into())).to_string();
        let (first, second) = failure.split_once('\n').unwrap();
        assert_eq!(first, format!("what answers at {DEFAULT} is not sidecast"));
        let answer = |status| Answer {
            status,
            body: "{\"error\":\"no\"}".to_owned(),
            hint: client.passed_over.clone(),
        };
        let explicit = |status| answer(status).into_failure().message.contains(second);
        assert_eq!([401, 403, 404].map(explicit), [true, true, false]);
        assert!(
            second.contains("passed over") && second.contains("--addr"),
            "{second}"
        );
        fs::remove_file(&path).unwrap();
    }
}
