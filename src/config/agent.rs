//! The section `agent`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::env::{self, Env};
use super::{Bgp, Lease, Listen, ListenAddr};
use crate::app::{
    Attributes, DrainWait, HttpUrl, LastResort, PathProof, Source, VipPresence, WhenDown,
};
use crate::net::{Prefix, is_interface_name};
use crate::schema::kinds::{
    FilePath, GocastInterval, Interval, List, Number, Opt, OrOff, Parsed, Secret, Text, Time,
    Validate, ensure, list, parsed, quoted, read_list,
};
use crate::schema::tree::{Node, Place};
use crate::schema::{Context, Custom, Derived, Fields, Key, Kind, Section, Shape, Split, ValueAt};
use crate::section;
use crate::small_set::SmallSet;

section! {
    /// The process itself.
    pub struct Agent {
        /// Where the API listens: also `:8080`, `[::1]:8080`, `unix:/run/sidecast.sock`, a list, or
        /// `off`.
        listen: Listen, name = "listen_addr", default = "127.0.0.1:8179", needs_restart = true;
        /// A second listener with `/healthz`, `/readyz`, `/metrics` only.
        metrics: Listen, name = "metrics_addr", default = "off", needs_restart = true;
        /// Interval of monitors without one of their own.
        monitor_interval: GocastInterval, default = "10s";
        /// An app that is not up for this long loses its NAT rules; one registered by HTTP is
        /// unregistered.
        cleanup_timer: GocastInterval, default = "15m";
        /// How long an address stays after a withdraw; `off`: until `cleanup_timer`, as in GoCast.
        vip_linger: OrOff<Time>, default = "10s";
        /// `always`: addresses are there from start to exit, for services that bind to them.
        vip_presence: Parsed<VipPresence>, default = "healthy";
        /// How long an address lives without renewal; 0: the longest of 3 × hold time, restart time + 60 s and 180 s;
        /// `off`: permanent.
        vip_lease: Lease, default = "0";
        /// The interface of VIP addresses; `none`: another program manages them, and CAP_NET_ADMIN is not needed.
        vip_interface: Interface, default = "lo", needs_restart = true;
        /// The longest wait of a drain: for acknowledgments, and for packets that still come.
        drain_time: Time, default = "2s";
        /// `traffic`: a drain is over when no packet has come for 1 s, not before 2 s and at `drain_time` at the latest (by
        /// default both are 2 s: set a longer `drain_time`); `fixed`: after `drain_time`.
        drain_wait: Parsed<DrainWait>, default = "traffic";
        /// Probes sent to VIPs by way of each router show whether that forwards to this host; `auto`: where sidecast
        /// has CAP_NET_ADMIN.
        path_proof: PathProof, default = "auto";
        /// Default of `when_down`: what happens to routes of apps that are down.
        when_down: WhenDown, default = "withdraw";
        /// Path attributes of an app that is announced although it is down (`when_down: last_resort`).
        last_resort: LastResort, default = LastResort::DEFAULT;
        /// Bearer token required for every changing call.
        api_token: Opt<Token>, file = Some("api_token_file");
        /// Without a token: prefixes from which changing calls are accepted, besides this host and the networks of
        /// interfaces that carry neither a session nor a default route.
        api_allow: List<Parsed<Prefix>>;
        /// Sources whose `exec:` monitors run.
        allow_exec: ExecSources, default = "config,env";
        /// When set, a VIP outside is refused, whatever its source; HTTP and Consul may ask for more than one address only
        /// where it is set.
        allowed_vips: Opt<List<Parsed<Prefix>>>;
        /// Apps that HTTP may register.
        max_http_apps: Number<usize, 0, 1_000_000>, default = "1000";
        /// VIPs of all apps together; HTTP and Consul are refused beyond it. One app of theirs has at most 64 VIPs,
        /// 32 monitors and 64 NATs, one of the file 1024 of each.
        max_vips: Number<usize, 0, 1_000_000>, default = "10000";
        /// The longest `drain_time` that HTTP and Consul may ask for.
        max_drain: Time, default = "5m";
        /// Connections to each listener; 8 of them are kept for this host, and another address has at most 16.
        max_connections: Number<usize, 1, 1_000_000>, default = "64", needs_restart = true;
        /// Concurrent blocking checks (HTTP, name look-ups); a queued check is late, not failed.
        check_threads: Number<usize, 1, MAX_CHECK_THREADS>, default = "128", needs_restart = true;
        /// Keeps HTTP apps, drains, the last known Consul apps and what passed in Consul over a restart.
        state_file: Opt<FilePath>, needs_restart = true;
        /// Name of this instance, when several share a network namespace: NAT table `sidecast_NAME`.
        instance: Opt<Instance>, needs_restart = true;
        /// After start, run as this user.
        user: Opt<Text>, needs_restart = true;
        /// `exec:` monitors and `on_change` run as this user, with its groups and without capabilities; needs root, so not
        /// with `user`.
        exec_user: Opt<Text>;
        /// A program and its arguments, run with every transition as JSON on standard input.
        on_change: List<Text>;
        /// Ignored: NAT is done by nf_tables, no program is run.
        iptables_binary: Custom<()>;
        /// Discovery; `None`: it is off.
        consul: Derived<Option<Consul>>;
    }
}

section! {
    /// Discovery of apps in Consul; its keys are the agent's.
    pub struct Consul {
        /// Switches discovery on: `http://localhost:8500`, https, `unix:///path`; with or without a trailing `/v1`.
        addr: ConsulAddr, name = "consul_addr", needs_restart = true;
        /// The longest time between two full queries; changes arrive at once.
        query_interval: GocastInterval, name = "consul_query_interval", default = "5m", needs_restart = true;
        /// After `CONSUL_TOKEN`, before `CONSUL_HTTP_TOKEN`. It needs `node_prefix ""` and `service_prefix ""` read: what
        /// it does not show counts as unknown and is never withdrawn. The file is read again when Consul refuses or fails,
        /// with every full query and on reload.
        token: Opt<Secret>, name = "consul_token", file = Some("consul_token_file");
        /// TLS to Consul; default: `CONSUL_CACERT`, else the system's. The file is read again when it changes.
        ca_file: Opt<FilePath>, name = "consul_ca_file", needs_restart = true;
        /// A certificate for Consul; default: `CONSUL_CLIENT_CERT`. The file is read again when it changes.
        cert_file: Opt<FilePath>, name = "consul_cert_file", needs_restart = true;
        /// Its key; default: `CONSUL_CLIENT_KEY`. The file is read again when it changes; where certificate and key do
        /// not match no query is sent.
        key_file: Opt<FilePath>, name = "consul_key_file", needs_restart = true;
        /// Default: the agent's own.
        datacenter: Opt<Text>, name = "consul_datacenter", needs_restart = true;
        /// Default: the token's own.
        namespace: Opt<Text>, name = "consul_namespace", needs_restart = true;
        /// The tag of services to announce; `enable_sidecast` matches too.
        match_tag: Text, name = "consul_match_tag", default = "enable_gocast", needs_restart = true;
        /// How long the last known state is kept while Consul is unreachable; 0: forever.
        grace: Grace, name = "consul_grace", default = "0", needs_restart = true;
        /// What a `warning` check counts as: `fail` or `pass`.
        warning_passes: WarningPasses, name = "consul_warning", default = "fail", needs_restart = true;
        /// `CONSUL_NODE`; `None`: the local agent's node name.
        node: Derived<Option<String>>;
        /// The file of `token`, read again when it changed.
        token_file: Derived<Option<PathBuf>>;
        /// `CONSUL_STALE=true`.
        stale: Derived<bool>;
    }
}

/// smol's pool has at most 500 threads, some of which other blocking calls need.
const MAX_CHECK_THREADS: u32 = 400;

impl Agent {
    /// `last_resort`, with no attribute that routers prefer to those of healthy apps by the section `bgp`.
    pub fn last_resort_beside(&self, bgp: &Bgp) -> Attributes {
        let peers = bgp.peers.iter().map(|peer| &peer.attributes);
        let all = std::iter::once(&bgp.attributes).chain(peers);
        all.fold(self.last_resort.clone(), Attributes::no_better_than)
    }
}

/// The keys of the section, with those of Consul.
pub(super) fn keys() -> Vec<&'static Key> {
    [Agent::keys(), Consul::keys()].concat()
}

pub(super) fn agent(cx: &mut Context<'_>, node: Option<&Node>, env: &Env) -> Agent {
    let f = &Fields::open(cx, "agent", node, &keys());
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

/// Container engines send SIGKILL ten seconds after SIGTERM.
pub(super) fn warn_long_drain(cx: &mut Context<'_>, f: &Fields<'_>, drain_time: Duration) {
    if f.has("drain_time") && drain_time > Duration::from_secs(8) {
        let key = f.path("drain_time");
        let message = format!(
            "{key} is over 8s: a container engine kills 10s after it asked to stop, unless its grace period is set"
        );
        f.warn(cx, "drain_time", message);
    }
}

/// The API is reachable from other hosts, and there is no token.
fn warn_open(cx: &mut Context<'_>, f: &Fields<'_>, listen: &Listen) {
    let is_open = |addr: &&ListenAddr| match addr {
        ListenAddr::Any(_) => true,
        ListenAddr::Tcp(addr) => !addr.ip().to_canonical().is_loopback(),
        ListenAddr::Unix(_) => false,
    };
    if let Some(addr) = listen.addrs.iter().find(is_open) {
        let message = format!(
            "agent.listen_addr {addr} is reachable from other hosts and agent.api_token is not set: changing calls are accepted from this host, from networks of interfaces without a session or a default route, and from agent.api_allow; from a browser they never are"
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
        let message = "CONSUL_NODE, the name of this node in Consul, is not set, and consul_addr is not an agent on this host that could be asked for it: no services are discovered";
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

/// The token: GoCast's variable, else the configuration, else Consul's own variable; and the file it was
/// read from.
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

/// A variable of GoCast or Consul that sets a key.
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
    /// The unix socket, where the address is one.
    pub fn unix_path(&self) -> Option<&Path> {
        self.addr.strip_prefix("unix:").map(Path::new)
    }

    /// Whether the address is an agent on this host.
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

    /// An address that cannot be read is left out, never replaced by the default: the problem was
    /// reported.
    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Self> {
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
                long if long > MAX_LEASE => Err("should be at most 8760h".to_owned()),
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

/// A year: the kernel keeps lifetimes in 32-bit seconds and jiffies.
const MAX_LEASE: Duration = Duration::from_secs(8760 * 3600);

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

impl Validate for Token {
    type Of = Secret;

    fn validate(token: &Secret) -> Result<(), String> {
        let visible = token.expose().bytes().all(|b| b.is_ascii_graphic());
        ensure(visible, "should be visible ASCII characters without spaces")
    }
}

/// Sources of apps, or the one word `none`.
pub struct ExecSources;

impl Kind for ExecSources {
    type Value = SmallSet<Source>;
    const SHAPE: Shape = Shape::List(Split::Commas, &Shape::Text);

    fn parse(text: &str) -> Result<SmallSet<Source>, String> {
        text.split(',').map(parsed).collect()
    }

    fn write(sources: &SmallSet<Source>) -> Option<String> {
        Some(list(sources))
    }

    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<SmallSet<Source>> {
        let sources = read_list(cx, at, |text| match text {
            "none" => Ok(None),
            _ => parsed(text).map(Some),
        });
        Some(sources?.into_iter().flatten().collect())
    }
}

/// A part of the name of a table.
pub struct Instance;

impl Validate for Instance {
    type Of = Text;

    fn validate(name: &String) -> Result<(), String> {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let message = "should be 1 to 32 letters, digits and underscores";
        ensure(plain && name.len() <= 32, message)
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

/// How long something lasts; 0: forever.
pub struct Grace;

impl Kind for Grace {
    type Value = Option<Duration>;
    const SHAPE: Shape = Shape::Duration;

    fn parse(text: &str) -> Result<Option<Duration>, String> {
        match Time::parse(text)? {
            Duration::ZERO => Ok(None),
            _ => Interval::parse(text).map(Some),
        }
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
