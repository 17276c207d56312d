//! The section `agent`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::env::{self, Env};
use super::{Lease, Listen, ListenAddr, is_interface_name, tables};
use crate::app::{HttpUrl, Source, VipPresence};
use crate::net::Prefix;
use crate::schema::kinds::{
    Check, FilePath, Interval, List, Number, Opt, OrOff, Parsed, Secret, Text, Time, hold, list,
    parsed, quoted, read_list,
};
use crate::schema::tree::{Node, Place};
use crate::schema::{At, Beside, ByRule, Context, Fields, Kind, Section, Shape, Split};
use crate::section;

section! {
    /// The process itself.
    pub struct Agent {
        /// Where the API is: also `:8080`, `[::1]:8080`, `unix:/run/sidecast.sock`, a list, or `off`.
        listen: Listen, name = "listen_addr", default = "127.0.0.1:8179", at_start = true;
        /// A second listener with `/healthz`, `/readyz`, `/metrics` only.
        metrics: Listen, name = "metrics_addr", default = "off", at_start = true;
        /// Of monitors that have none of their own.
        monitor_interval: Interval, default = "10s";
        /// An app down this long gives up its NAT; one registered by HTTP is forgotten.
        cleanup_timer: Interval, default = "15m";
        /// How long an address stays after a withdraw; `off`: until `cleanup_timer`.
        vip_linger: OrOff<Time>, default = "10s";
        /// `always`: addresses are there from start to exit, for services that bind to them.
        vip_presence: Parsed<VipPresence>, default = "healthy";
        /// How long an address lives when nobody renews it; 0: derived from hold time and restart time; `off`: for ever.
        vip_lease: Lease, default = "0";
        /// Where addresses are put; `none`: they are managed elsewhere.
        vip_interface: Interface, default = "lo", at_start = true;
        /// Between withdraw and the end of a drain.
        drain_time: Time, default = "2s";
        /// Bearer token asked of every changing call.
        api_token: Opt<Token>, file = Some("api_token_file");
        /// Without a token: who else may change something, besides this host and what is near.
        api_allow: List<Parsed<Prefix>>;
        /// Sources whose `exec:` monitors run.
        allow_exec: ExecSources, default = "config,env";
        /// When set, a VIP outside is refused, whatever its source.
        allowed_vips: Opt<List<Parsed<Prefix>>>;
        /// Apps that HTTP may register.
        max_http_apps: Number<usize, 0, 1_000_000>, default = "1000";
        /// Addresses of all apps together.
        max_vips: Number<usize, 0, 1_000_000>, default = "10000";
        /// The longest `drain_time` that HTTP and Consul may ask for.
        max_drain: Time, default = "5m";
        /// Connections to each listener.
        max_connections: Number<usize, 1, 1_000_000>, default = "64", at_start = true;
        /// Checks over HTTP and look-ups of names at once; one that waits for its turn is late, never failed.
        check_threads: Number<usize, 1, MAX_CHECK_THREADS>, default = "128", at_start = true;
        /// Keeps HTTP apps, drains and what Consul said over a restart.
        state_file: Opt<FilePath>, at_start = true;
        /// Names one of several in a network namespace: NAT table `sidecast_NAME`.
        instance: Opt<Instance>, at_start = true;
        /// After start, run as this user.
        user: Opt<Text>, at_start = true;
        /// Whom exec monitors and hooks run as; default: as we do.
        exec_user: Opt<Text>;
        /// A program and its arguments, run with every transition as JSON on standard input.
        on_change: List<Text>;
        /// Ignored: NAT is done by nf_tables, no program is run.
        iptables_binary: ByRule<()>;
        /// Discovery; `None`: it is off.
        consul: Beside<Option<Consul>>;
    }
}

section! {
    /// Discovery of apps in Consul; its keys are the agent's.
    pub struct Consul {
        /// Switches discovery on: `http://localhost:8500`, https, `unix:///path`; with or without a trailing `/v1`.
        addr: ConsulAddr, name = "consul_addr", at_start = true;
        /// The longest time between two full queries; changes arrive at once.
        query_interval: Interval, name = "consul_query_interval", default = "5m", at_start = true;
        /// After `CONSUL_TOKEN`, before `CONSUL_HTTP_TOKEN`.
        token: Opt<Secret>, name = "consul_token", file = Some("consul_token_file");
        /// TLS to Consul; default: `CONSUL_CACERT`, else the system's.
        ca_file: Opt<FilePath>, name = "consul_ca_file", at_start = true;
        /// A certificate for Consul; default: `CONSUL_CLIENT_CERT`.
        cert_file: Opt<FilePath>, name = "consul_cert_file", at_start = true;
        /// Its key; default: `CONSUL_CLIENT_KEY`.
        key_file: Opt<FilePath>, name = "consul_key_file", at_start = true;
        /// Default: the agent's own.
        datacenter: Opt<Text>, name = "consul_datacenter", at_start = true;
        /// Default: the token's own.
        namespace: Opt<Text>, name = "consul_namespace", at_start = true;
        /// Services with this tag announce themselves; `enable_sidecast` matches too.
        match_tag: Text, name = "consul_match_tag", default = "enable_gocast", at_start = true;
        /// How long what is known stays while Consul is away; 0: for ever.
        grace: Grace, name = "consul_grace", default = "0", at_start = true;
        /// What a `warning` check counts as: `fail` or `pass`.
        warning_passes: WarningPasses, name = "consul_warning", default = "fail", at_start = true;
        /// `CONSUL_NODE`; `None`: a local agent is asked for its node's name.
        node: Beside<Option<String>>;
        /// Where `token` was read from: it may hold another one by now.
        token_file: Beside<Option<PathBuf>>;
        /// `CONSUL_STALE=true`.
        stale: Beside<bool>;
    }
}

/// The pool of threads grows to 500, and others have theirs there too.
const MAX_CHECK_THREADS: u32 = 400;

pub(super) fn agent(cx: &mut Context<'_>, node: Option<&Node>, env: &Env) -> Agent {
    let f = &Fields::open(cx, "agent", node, &tables::agent());
    let mut agent = Agent::default();
    agent.read(cx, f);
    if f.has("iptables_binary") {
        let message =
            "agent.iptables_binary is ignored: NAT is done by nf_tables, no program is run";
        f.warn(cx, "iptables_binary", message);
    }
    agent.listen.defaulted = !f.has("listen_addr");
    warn_long_drain(cx, f, agent.drain_time);
    if agent.api_token.is_none() {
        warn_open(cx, f, &agent.listen);
    }
    agent.consul = consul(cx, f, env);
    agent
}

/// Container engines kill ten seconds after they asked to stop.
pub(super) fn warn_long_drain(cx: &mut Context<'_>, f: &Fields<'_>, drain_time: Duration) {
    if f.has("drain_time") && drain_time > Duration::from_secs(8) {
        let key = f.path("drain_time");
        let message = format!(
            "{key} is over 8s: a container engine kills 10s after it asked to stop, unless told otherwise"
        );
        f.warn(cx, "drain_time", message);
    }
}

/// Others reach the API, and there is no token to tell them by.
fn warn_open(cx: &mut Context<'_>, f: &Fields<'_>, listen: &Listen) {
    let is_open = |addr: &&ListenAddr| match addr {
        ListenAddr::Any(_) => true,
        ListenAddr::Tcp(addr) => !addr.ip().to_canonical().is_loopback(),
        ListenAddr::Unix(_) => false,
    };
    if let Some(addr) = listen.addrs.iter().find(is_open) {
        let message = format!(
            "agent.listen_addr {addr} is reached by others and there is no agent.api_token: calls \
             that change something are taken from this host, from networks of interfaces without a \
             session or a default route, and from agent.api_allow; no browser's are"
        );
        f.warn(cx, "listen_addr", message);
    }
}

fn consul(cx: &mut Context<'_>, f: &Fields<'_>, env: &Env) -> Option<Consul> {
    let mut consul = Consul {
        node: env::value(env, "CONSUL_NODE").map(str::to_owned),
        stale: env::value(env, "CONSUL_STALE") == Some("true"),
        ..Consul::default()
    };
    consul.read(cx, f);
    consul_token(cx, f, env, &mut consul);
    // Consul's own variables never win.
    for (path, key, name) in [
        (&mut consul.ca_file, "consul_ca_file", "CONSUL_CACERT"),
        (
            &mut consul.cert_file,
            "consul_cert_file",
            "CONSUL_CLIENT_CERT",
        ),
        (&mut consul.key_file, "consul_key_file", "CONSUL_CLIENT_KEY"),
    ] {
        if path.is_none() {
            *path = variable(cx, f, key, env, name).map(PathBuf::from);
        }
    }
    let written = f.has("consul_addr");
    if written && consul.node.is_none() && !consul.is_local() {
        let message = "CONSUL_NODE, the name of this node in Consul, is not set, and only an agent on this host could be asked for it: nothing is discovered";
        f.warn(cx, "consul_addr", message);
    }
    if consul.cert_file.is_some() != consul.key_file.is_some() {
        let place = f.place_of("consul_cert_file");
        let message = "agent.consul_cert_file and agent.consul_key_file go together";
        if place == Place::Default || !written {
            cx.warn(&place, message);
        } else {
            f.problem(cx, "consul_cert_file", message);
        }
    }
    written.then_some(consul)
}

/// GoCast's variable, else what is configured, else Consul's own variable; and the file it is from.
fn consul_token(cx: &mut Context<'_>, f: &Fields<'_>, env: &Env, consul: &mut Consul) {
    let mut variable = |name| variable(cx, f, "consul_token", env, name).map(Secret::new);
    let other = match variable("CONSUL_TOKEN") {
        None if consul.token.is_none() => variable("CONSUL_HTTP_TOKEN"),
        first => first,
    };
    if other.is_some() {
        consul.token = other;
    } else if !f.has("consul_token") {
        let file = f.at(cx, "consul_token_file");
        consul.token_file = file.and_then(|at| at.node.text().map(PathBuf::from));
    }
}

/// A variable of others that stands for a key.
fn variable<'e>(
    cx: &mut Context<'_>,
    f: &Fields<'_>,
    key: &str,
    env: &'e Env,
    name: &str,
) -> Option<&'e str> {
    let value = env::value(env, name)?;
    cx.origins.insert(f.path(key), Place::Env(name.into()));
    Some(value)
}

impl Consul {
    /// The socket of a local agent, where the address is one.
    pub fn unix_path(&self) -> Option<&Path> {
        self.addr.strip_prefix("unix:").map(Path::new)
    }

    /// Whether it is this host's own agent that is asked.
    pub fn is_local(&self) -> bool {
        let url = self.addr.parse::<HttpUrl>();
        let host = url.map(|url| url.host).unwrap_or_default();
        let addr: Option<std::net::IpAddr> = host.parse().ok();
        self.unix_path().is_some()
            || host.eq_ignore_ascii_case("localhost")
            || addr.is_some_and(|addr| addr.is_loopback())
    }
}

impl Kind for Listen {
    type Value = Self;
    const SHAPE: Shape = Shape::List(Split::Commas, &Shape::Text);

    fn parse(text: &str) -> Result<Self, String> {
        OrOff::<Parsed<ListenAddr>>::parse(text).map(|addr| Self::of(vec![addr]))
    }

    fn write(listen: &Self) -> Option<String> {
        Some(match listen.is_off() {
            true => quoted("off"),
            false => list(&listen.addrs),
        })
    }

    /// What cannot be read is no address, and so no default either: the problem was told.
    fn read(cx: &mut Context<'_>, at: &At<'_>) -> Option<Self> {
        let addrs = read_list(cx, at, OrOff::<Parsed<ListenAddr>>::parse)?;
        if addrs.len() > 1 && addrs.contains(&None) {
            cx.problem(&at.place, &at.path, "off", "should stand alone");
        }
        Some(Self::of(addrs))
    }
}

impl Listen {
    fn of(addrs: Vec<Option<ListenAddr>>) -> Self {
        Self {
            addrs: addrs.into_iter().flatten().collect(),
            defaulted: false,
        }
    }
}

impl Kind for Lease {
    type Value = Self;
    const SHAPE: Shape = OrOff::<Time>::SHAPE;

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => match Time::parse(text)
                .map_err(|e| format!("{e}, off, or 0 for one that is derived"))?
            {
                Duration::ZERO => Ok(Self::Auto),
                short if short < Duration::from_secs(5) => {
                    Err("should be at least 5s: it is renewed every third of that".to_owned())
                }
                long if long > LONGEST_LEASE => Err("should be at most 8760h".to_owned()),
                fixed => Ok(Self::Fixed(fixed)),
            },
        }
    }

    fn write(lease: &Self) -> Option<String> {
        match lease {
            Self::Auto => Some("0".to_owned()),
            Self::Off => Some(quoted("off")),
            Self::Fixed(lease) => Time::write(lease),
        }
    }
}

/// A year: the kernel counts in jiffies and seconds of 32 bits.
const LONGEST_LEASE: Duration = Duration::from_secs(8760 * 3600);

/// An interface, or none.
pub struct Interface;

impl Kind for Interface {
    type Value = Option<String>;

    fn parse(text: &str) -> Result<Option<String>, String> {
        match text {
            "none" => Ok(None),
            _ if is_interface_name(text) => Ok(Some(text.to_owned())),
            _ => Err("should be an interface such as lo, or none".to_owned()),
        }
    }

    fn write(interface: &Option<String>) -> Option<String> {
        Some(quoted(interface.as_deref().unwrap_or("none")))
    }
}

/// A token is sent in a header: visible characters only (RFC 6750 §2.1).
pub struct Token;

impl Check for Token {
    type Of = Secret;

    fn check(token: &Secret) -> Result<(), String> {
        let visible = token.expose().bytes().all(|b| b.is_ascii_graphic());
        hold(visible, "should be visible ASCII characters without spaces")
    }
}

/// Sources of apps, or the one word `none`.
pub struct ExecSources;

impl Kind for ExecSources {
    type Value = BTreeSet<Source>;
    const SHAPE: Shape = Shape::List(Split::Commas, &Shape::Text);

    fn parse(text: &str) -> Result<BTreeSet<Source>, String> {
        text.split(',').map(parsed).collect()
    }

    fn write(sources: &BTreeSet<Source>) -> Option<String> {
        Some(list(sources))
    }

    fn read(cx: &mut Context<'_>, at: &At<'_>) -> Option<BTreeSet<Source>> {
        let sources = read_list(cx, at, |text| match text {
            "none" => Ok(None),
            _ => parsed(text).map(Some),
        });
        Some(sources?.into_iter().flatten().collect())
    }
}

/// A part of the name of a table.
pub struct Instance;

impl Check for Instance {
    type Of = Text;

    fn check(name: &String) -> Result<(), String> {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let message = "should be 1 to 32 letters, digits and underscores";
        hold(plain && name.len() <= 32, message)
    }
}

/// Scheme, host and port, and a path before `/v1` if there is one; without `/v1`, which GoCast wants and people
/// forget. Or `unix:PATH`.
pub struct ConsulAddr;

impl Kind for ConsulAddr {
    type Value = String;

    fn parse(text: &str) -> Result<String, String> {
        const EXPECTED: &str = "should be a URL such as http://localhost:8500, or unix:///path";
        if text.is_empty() {
            return Ok(String::new());
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            let absolute = path.starts_with('/') && path.len() > 1;
            return absolute
                .then(|| format!("unix:{path}"))
                .ok_or_else(|| EXPECTED.to_owned());
        }
        let mut url: HttpUrl = text.parse().map_err(|_| EXPECTED.to_owned())?;
        if url.path.contains('?') {
            return Err(EXPECTED.to_owned());
        }
        let path = url.path.trim_end_matches('/');
        url.path = path.strip_suffix("/v1").unwrap_or(path).to_owned();
        Ok(url.to_string())
    }

    fn write(addr: &String) -> Option<String> {
        Some(quoted(addr))
    }
}

/// How long something lasts; 0: for ever.
pub struct Grace;

impl Kind for Grace {
    type Value = Option<Duration>;
    const SHAPE: Shape = Shape::Duration;

    fn parse(text: &str) -> Result<Option<Duration>, String> {
        Ok(Some(Interval::parse(text)?).filter(|grace| !grace.is_zero()))
    }

    fn write(grace: &Option<Duration>) -> Option<String> {
        Time::write(&grace.unwrap_or_default())
    }
}

/// Whether a check that warns counts as passing.
pub struct WarningPasses;

impl Kind for WarningPasses {
    type Value = bool;
    const SHAPE: Shape = Shape::Words(&["fail", "pass"]);

    fn parse(text: &str) -> Result<bool, String> {
        match text {
            "fail" => Ok(false),
            "pass" => Ok(true),
            _ => Err("should be fail or pass".to_owned()),
        }
    }

    fn write(passes: &bool) -> Option<String> {
        Some(if *passes { "pass" } else { "fail" }.to_owned())
    }
}
