//! The section `agent`.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::env::{self, Env};
use super::fields::{Cx, Fields, parsed, read_duration, read_interval};
use super::tree::{Node, Place};
use super::{Agent, Consul, Lease, Listen, ListenAddr, Secret, is_interface_name, keys};
use crate::app::{HttpUrl, Source};
use crate::net::Prefix;

pub(super) fn agent(cx: &mut Cx<'_>, node: Option<&Node>, env: &Env) -> Agent {
    let f = &Fields::open(cx, "agent", node, keys::AGENT);
    if f.has("iptables_binary") {
        let place = f.place_of("iptables_binary").clone();
        cx.warn(
            &place,
            "agent.iptables_binary is ignored: NAT is done by nf_tables, no program is run",
        );
    }
    let default = ListenAddr::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 8179)));
    let drain_time = f.duration(cx, "drain_time");
    warn_long_drain(cx, f, drain_time);
    let listen_addr = listen(cx, f, "listen_addr").unwrap_or(Listen {
        addrs: vec![default],
        defaulted: true,
    });
    let api_token = api_token(cx, f);
    if api_token.is_none() {
        warn_open(cx, f, &listen_addr);
    }
    Agent {
        listen: listen_addr,
        metrics: listen(cx, f, "metrics_addr").unwrap_or_default(),
        monitor_interval: f
            .interval(cx, "monitor_interval")
            .unwrap_or(MONITOR_INTERVAL),
        cleanup_timer: f.interval(cx, "cleanup_timer").unwrap_or(CLEANUP_TIMER),
        vip_linger: f
            .read(cx, "vip_linger", |text| match text {
                "off" => Ok(None),
                _ => read_duration(text)
                    .map(Some)
                    .map_err(|e| format!("{e}, or off")),
            })
            .unwrap_or(Some(Duration::from_secs(10))),
        vip_presence: f.parse(cx, "vip_presence").unwrap_or_default(),
        vip_lease: f.read(cx, "vip_lease", read_lease).unwrap_or_default(),
        vip_interface: f
            .read(cx, "vip_interface", |text| match text {
                "none" => Ok(None),
                _ if is_interface_name(text) => Ok(Some(text.to_owned())),
                _ => Err("should be an interface such as lo, or none".to_owned()),
            })
            .unwrap_or_else(|| Some("lo".to_owned())),
        drain_time: drain_time.unwrap_or(DRAIN_TIME),
        api_token,
        api_allow: f
            .list(cx, "api_allow", parsed::<Prefix>)
            .unwrap_or_default(),
        allow_exec: allow_exec(cx, f),
        allowed_vips: f.list(cx, "allowed_vips", parsed::<Prefix>),
        max_http_apps: count(cx, f, "max_http_apps", 0, 1000),
        max_vips: count(cx, f, "max_vips", 0, 10_000),
        max_drain: f.duration(cx, "max_drain").unwrap_or(MAX_DRAIN),
        max_connections: count(cx, f, "max_connections", 1, 64),
        check_threads: f
            .number(cx, "check_threads", 1, MAX_CHECK_THREADS)
            .unwrap_or(128)
            .try_into()
            .unwrap_or(usize::MAX),
        state_file: f.path_buf(cx, "state_file"),
        instance: f.read(cx, "instance", |text| {
            let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            match plain && text.len() <= 32 {
                true => Ok(text.to_owned()),
                false => Err("should be 1 to 32 letters, digits and underscores".to_owned()),
            }
        }),
        user: f.string(cx, "user"),
        exec_user: f.string(cx, "exec_user"),
        on_change: f
            .list(cx, "on_change", |text| Ok(text.to_owned()))
            .unwrap_or_default(),
        consul: consul(cx, f, env),
    }
}

/// The pool of threads grows to 500, and others have theirs there too.
const MAX_CHECK_THREADS: u32 = 400;
const MONITOR_INTERVAL: Duration = Duration::from_secs(10);
const CLEANUP_TIMER: Duration = Duration::from_secs(15 * 60);
const DRAIN_TIME: Duration = Duration::from_secs(2);
const MAX_DRAIN: Duration = Duration::from_secs(5 * 60);

/// Container engines kill ten seconds after they asked to stop.
pub(super) fn warn_long_drain(cx: &mut Cx<'_>, f: &Fields<'_>, drain_time: Option<Duration>) {
    if drain_time.is_some_and(|time| time > Duration::from_secs(8)) {
        let key = f.path("drain_time");
        let place = f.place_of("drain_time").clone();
        cx.warn(
            &place,
            format!("{key} is over 8s: a container engine kills 10s after it asked to stop, unless told otherwise"),
        );
    }
}

/// Others reach the API, and there is no token to tell them by.
fn warn_open(cx: &mut Cx<'_>, f: &Fields<'_>, listen: &Listen) {
    let is_open = |addr: &&ListenAddr| match addr {
        ListenAddr::Any(_) => true,
        ListenAddr::Tcp(addr) => !addr.ip().to_canonical().is_loopback(),
        ListenAddr::Unix(_) => false,
    };
    if let Some(addr) = listen.addrs.iter().find(is_open) {
        let place = f.place_of("listen_addr").clone();
        cx.warn(
            &place,
            format!(
                "agent.listen_addr {addr} is reached by others and there is no agent.api_token: calls \
                 that change something are taken from this host, from networks of interfaces without a \
                 session or a default route, and from agent.api_allow; no browser's are"
            ),
        );
    }
}

fn count(cx: &mut Cx<'_>, f: &Fields<'_>, key: &str, low: u32, default: u32) -> usize {
    let number = f.number(cx, key, low, 1_000_000).unwrap_or(default);
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn listen(cx: &mut Cx<'_>, f: &Fields<'_>, key: &str) -> Option<Listen> {
    // What cannot be read is no address, and so no default either: the problem was told.
    let addrs = f.list(cx, key, |text| match text {
        "off" => Ok(None),
        _ => parsed::<ListenAddr>(text)
            .map(Some)
            .map_err(|e| format!("{e}, or off")),
    })?;
    let off = addrs.iter().any(Option::is_none);
    if off && addrs.len() > 1 {
        let place = f.place_of(key).clone();
        cx.problem(&place, &f.path(key), "off", "should stand alone");
    }
    Some(Listen {
        addrs: addrs.into_iter().flatten().collect(),
        defaulted: false,
    })
}

fn read_lease(text: &str) -> Result<Lease, String> {
    match text {
        "off" => Ok(Lease::Off),
        _ => match read_duration(text)
            .map_err(|e| format!("{e}, off, or 0 for one that is derived"))?
        {
            Duration::ZERO => Ok(Lease::Auto),
            short if short < Duration::from_secs(5) => {
                Err("should be at least 5s: it is renewed every third of that".to_owned())
            }
            long if long > LONGEST_LEASE => Err("should be at most 8760h".to_owned()),
            fixed => Ok(Lease::Fixed(fixed)),
        },
    }
}

/// A year: the kernel counts in jiffies and seconds of 32 bits.
const LONGEST_LEASE: Duration = Duration::from_secs(8760 * 3600);

/// A token is sent in a header: visible characters only (RFC 6750 §2.1).
fn api_token(cx: &mut Cx<'_>, f: &Fields<'_>) -> Option<Secret> {
    let token = f.secret(cx, "api_token")?;
    if !token.expose().bytes().all(|b| b.is_ascii_graphic()) {
        let key = if f.has("api_token") {
            "api_token"
        } else {
            "api_token_file"
        };
        let place = f.place_of(key).clone();
        let message = "should be visible ASCII characters without spaces";
        cx.problem(&place, &f.path(key), "", message);
    }
    Some(token)
}

fn allow_exec(cx: &mut Cx<'_>, f: &Fields<'_>) -> BTreeSet<Source> {
    let sources = f.list(cx, "allow_exec", |text| match text {
        "none" => Ok(None),
        _ => parsed::<Source>(text).map(Some),
    });
    match sources {
        Some(sources) => sources.into_iter().flatten().collect(),
        None => BTreeSet::from([Source::Config, Source::Env]),
    }
}

fn consul(cx: &mut Cx<'_>, f: &Fields<'_>, env: &Env) -> Option<Consul> {
    let (token, token_file) = consul_token(cx, f, env);
    let node = env::value(env, "CONSUL_NODE").map(str::to_owned);
    let written = f.has("consul_addr");
    let consul = Consul {
        addr: f
            .read(cx, "consul_addr", read_consul_addr)
            .unwrap_or_default(),
        node,
        token,
        token_file,
        stale: env::value(env, "CONSUL_STALE") == Some("true"),
        query_interval: f
            .interval(cx, "consul_query_interval")
            .unwrap_or(Duration::from_secs(300)),
        ca_file: path_or(cx, f, "consul_ca_file", env, "CONSUL_CACERT"),
        cert_file: path_or(cx, f, "consul_cert_file", env, "CONSUL_CLIENT_CERT"),
        key_file: path_or(cx, f, "consul_key_file", env, "CONSUL_CLIENT_KEY"),
        datacenter: f.string(cx, "consul_datacenter"),
        namespace: f.string(cx, "consul_namespace"),
        match_tag: f
            .string(cx, "consul_match_tag")
            .unwrap_or_else(|| "enable_gocast".to_owned()),
        grace: f.read(cx, "consul_grace", read_interval).flatten(),
        warning_passes: f
            .read(cx, "consul_warning", |text| match text {
                "fail" => Ok(false),
                "pass" => Ok(true),
                _ => Err("should be fail or pass".to_owned()),
            })
            .unwrap_or(false),
    };
    if written && consul.node.is_none() && !consul.is_local() {
        let place = f.place_of("consul_addr").clone();
        let message = "CONSUL_NODE, the name of this node in Consul, is not set, and only an agent on this host could be asked for it: nothing is discovered";
        cx.warn(&place, message);
    }
    if consul.cert_file.is_some() != consul.key_file.is_some() {
        let place = f.place_of("consul_cert_file").clone();
        let message = "agent.consul_cert_file and agent.consul_key_file go together";
        if place == Place::Default || !written {
            cx.warn(&place, message);
        } else {
            cx.problem(&place, "agent.consul_cert_file", "", message);
        }
    }
    written.then_some(consul)
}

/// GoCast's variable, else what is configured, else Consul's own variable; and the file it is from.
fn consul_token(cx: &mut Cx<'_>, f: &Fields<'_>, env: &Env) -> (Option<Secret>, Option<PathBuf>) {
    let configured = f.secret(cx, "consul_token");
    let first = variable(env, "CONSUL_TOKEN");
    let chosen = match (first, configured) {
        (None, Some(token)) => return (Some(token), f.path_buf(cx, "consul_token_file")),
        (first, _) => first.or_else(|| variable(env, "CONSUL_HTTP_TOKEN")),
    };
    let Some((place, token)) = chosen else {
        return (None, None);
    };
    cx.origins.insert(f.path("consul_token"), place);
    (Some(Secret::new(token)), None)
}

/// What is configured, else Consul's own variable, which never wins.
fn path_or(cx: &mut Cx<'_>, f: &Fields<'_>, key: &str, env: &Env, name: &str) -> Option<PathBuf> {
    let configured = f.path_buf(cx, key);
    configured.or_else(|| {
        let (place, path) = variable(env, name)?;
        cx.origins.insert(f.path(key), place);
        Some(path.into())
    })
}

fn variable<'e>(env: &'e Env, name: &str) -> Option<(Place, &'e str)> {
    env::value(env, name).map(|value| (Place::Env(name.into()), value))
}

/// The address without a trailing `/v1`, which GoCast wants and people forget.
fn read_consul_addr(text: &str) -> Result<String, String> {
    const EXPECTED: &str = "should be a URL such as http://localhost:8500, or unix:///path";
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
