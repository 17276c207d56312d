//! Who may register what: the one judgement of an app, whoever registers it. What only the kernel's tables
//! can tell (gateways and the host's own addresses inside a VIP) is not known here.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{Agent, Bgp, Remote};
use crate::app::{App, MonitorSpec, Source, Vip};
use crate::net::Prefix;
use crate::schema::duration::Shown;

/// What the agent's and the speaker's settings allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Consul is configured.
    consul: bool,
    allow_exec: BTreeSet<Source>,
    allowed_vips: Option<Vec<Prefix>>,
    /// VIPs of all apps together.
    pub max_vips: usize,
    pub max_http_apps: usize,
    /// The longest `drain_time` that [`Source::is_remote`] ones may ask for.
    max_drain: Duration,
    /// Addresses that the host must go on reaching by itself, and what they are.
    reserved: Vec<(IpAddr, &'static str)>,
}

/// Why an app is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A setting forbids it; `key` is the one to change.
    Policy { key: &'static str, message: String },
    /// Another app, or a higher source, stands in the way.
    Conflict(String),
    /// It cannot be read, or can never work as it is.
    Invalid(String),
}

impl Refusal {
    pub(crate) fn policy(key: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Policy { key, message }
    }

    /// The same, with what it is said of.
    fn of(self, what: impl fmt::Display) -> Self {
        let of = |message| format!("{what} {message}");
        match self {
            Self::Policy { key, message } => Self::policy(key, of(message)),
            Self::Conflict(message) => Self::Conflict(of(message)),
            Self::Invalid(message) => Self::Invalid(of(message)),
        }
    }

    /// The key that would allow it, where one would.
    pub fn key(&self) -> Option<&'static str> {
        match self {
            Self::Policy { key, .. } => Some(key),
            Self::Conflict(_) | Self::Invalid(_) => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy { key, message } => write!(f, "{message} (set {key} to allow it)"),
            Self::Conflict(message) | Self::Invalid(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Refusal {}

impl Policy {
    pub fn new(agent: &Agent, bgp: &Bgp) -> Self {
        Self {
            consul: agent.consul.is_some(),
            allow_exec: agent.allow_exec.clone(),
            allowed_vips: agent.allowed_vips.clone(),
            max_vips: agent.max_vips,
            max_http_apps: agent.max_http_apps,
            // What the operator himself made the default is never too long.
            max_drain: agent.max_drain.max(agent.drain_time),
            reserved: reserved(agent, bgp),
        }
    }

    /// Judges an app by itself: how many others there are is the registry's to know.
    pub fn permit(&self, app: &App) -> Result<(), Refusal> {
        check_size(app)?;
        for monitor in &app.monitors {
            self.permit_monitor(app.source, &monitor.spec)
                .map_err(|refusal| refusal.of(format_args!("monitor: {}:", monitor.spec.kind())))?;
        }
        for vip in &app.vips {
            self.permit_vip(app.source, *vip)
                .map_err(|refusal| refusal.of(format_args!("vip: {vip}:")))?;
        }
        if app.source.is_remote() && app.options.drain_time > self.max_drain {
            let message = format!(
                "drain_time: {}: should be at most {} from {}",
                Shown(app.options.drain_time),
                Shown(self.max_drain),
                app.source
            );
            return Err(Refusal::policy("agent.max_drain", message));
        }
        Ok(())
    }

    /// Judges one VIP; the message leaves out which, as that of a monitor does.
    pub(super) fn permit_vip(&self, source: Source, vip: Vip) -> Result<(), Refusal> {
        const KEY: &str = "agent.allowed_vips";
        let prefix = vip.prefix();
        let mut reserved = self.reserved.iter();
        if let Some((addr, what)) = reserved.find(|(addr, _)| prefix.contains(*addr)) {
            let message = format!("can be no VIP: it holds {addr}, {what}");
            return Err(Refusal::Invalid(message));
        }
        match &self.allowed_vips {
            Some(allowed) if allowed.iter().any(|allowed| allowed.covers(&prefix)) => Ok(()),
            Some(_) => Err(Refusal::policy(KEY, "is outside the VIPs that are allowed")),
            None if is_reserved(&prefix) => {
                Err(Refusal::policy(KEY, "is reserved (240.0.0.0/4, RFC 1112)"))
            }
            None if source.is_remote() && !prefix.is_host() => {
                let message = format!("is more than one address, which {source} may not register");
                Err(Refusal::policy(KEY, message))
            }
            None => Ok(()),
        }
    }

    pub(super) fn permit_monitor(&self, source: Source, spec: &MonitorSpec) -> Result<(), Refusal> {
        match spec {
            MonitorSpec::Exec(_) if !self.allow_exec.contains(&source) => {
                let message = format!("commands from {source} are not run");
                Err(Refusal::policy("agent.allow_exec", message))
            }
            MonitorSpec::Consul if !self.consul => Err(Refusal::Invalid(
                "needs Consul: agent.consul_addr is not set".to_owned(),
            )),
            _ => Ok(()),
        }
    }
}

/// What was class E: many networks do not carry it.
fn is_reserved(prefix: &Prefix) -> bool {
    let reserved = Prefix::masked(Ipv4Addr::new(240, 0, 0, 0).into(), 4);
    reserved.is_ok_and(|reserved| reserved.covers(prefix))
}

/// What one app costs is bounded: every VIP is a route, an address and a NAT rule for each port.
pub(super) fn check_size(app: &App) -> Result<(), Refusal> {
    let [vips, monitors, nats] = match app.source.is_remote() {
        true => [64, 32, 64],
        false => [1024; 3],
    };
    let all = [
        ("VIPs", app.vips.len(), vips),
        ("monitors", app.monitors.len(), monitors),
        ("NATs", app.nats.len(), nats),
    ];
    match all.iter().find(|(_, count, most)| count > most) {
        Some((what, count, most)) => Err(Refusal::Invalid(format!(
            "has {count} {what}: an app from {} may have {most}",
            app.source
        ))),
        None => Ok(()),
    }
}

fn reserved(agent: &Agent, bgp: &Bgp) -> Vec<(IpAddr, &'static str)> {
    let mut all = Vec::new();
    let mut add = |addr: Option<IpAddr>, what| all.extend(addr.map(|addr| (addr, what)));
    for peer in &bgp.peers {
        if let Remote::Addr(addr, _) = &peer.remote {
            add(Some(*addr), "a BGP peer");
        }
        add(
            peer.local_ip.v4.map(IpAddr::from),
            "the local address of a session",
        );
        add(
            peer.local_ip.v6.map(IpAddr::from),
            "the local address of a session",
        );
    }
    add(bgp.local_ip.v4.map(IpAddr::from), "bgp.local_ip");
    add(bgp.local_ip.v6.map(IpAddr::from), "bgp.local_ip");
    add(bgp.router_id.map(|id| id.addr().into()), "bgp.router_id");
    let consul = agent.consul.as_ref();
    let consul = consul.and_then(|consul| consul.addr.parse::<crate::app::HttpUrl>().ok());
    add(
        consul.and_then(|url| url.host.parse().ok()),
        "Consul's address",
    );
    all
}
