//! What may be registered by whom: the policy applied to every app, whatever its source. Addresses known
//! only from the kernel's tables (gateways, the host's own) are checked by `registry::Facts`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{Agent, Bgp, Remote};
use crate::app::{App, HttpUrl, MonitorSpec, Source, Vip};
use crate::net::{PeerName, Prefix};
use crate::schema::duration::Shown;
use crate::small_set::SmallSet;

/// The policy of the sections `agent` and `bgp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Consul is configured.
    consul: bool,
    allow_exec: SmallSet<Source>,
    allowed_vips: Option<Vec<Prefix>>,
    /// VIPs of all apps together.
    pub max_vips: usize,
    pub max_http_apps: usize,
    /// The longest `drain_time` that [`Source::is_remote`] ones may ask for.
    max_drain: Duration,
    /// Addresses that must stay reachable from this host, and what they are.
    reserved: Vec<(IpAddr, &'static str)>,
    /// The configured peers.
    peers: Vec<Remote>,
}

/// Why an app is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A setting forbids it; `key` is the one to change.
    Policy { key: &'static str, message: String },
    /// Another app holds the VIP, or a source of higher precedence defines the app.
    Conflict(String),
    /// It cannot be read, or can never work as it is.
    Invalid(String),
}

impl Refusal {
    pub(crate) fn policy(key: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Policy { key, message }
    }

    /// Prefixes the message with its subject.
    fn of(self, what: impl fmt::Display) -> Self {
        let of = |message| format!("{what} {message}");
        match self {
            Self::Policy { key, message } => Self::policy(key, of(message)),
            Self::Conflict(message) => Self::Conflict(of(message)),
            Self::Invalid(message) => Self::Invalid(of(message)),
        }
    }

    /// The key to change to allow it, if there is one.
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
    /// The policy of a configuration.
    pub fn new(agent: &Agent, bgp: &Bgp) -> Self {
        Self {
            consul: agent.consul.is_some(),
            allow_exec: agent.allow_exec.clone(),
            allowed_vips: agent.allowed_vips.clone(),
            max_vips: agent.max_vips,
            max_http_apps: agent.max_http_apps,
            // The operator's own default is never too long.
            max_drain: agent.max_drain.max(agent.drain_time),
            reserved: reserved(agent, bgp),
            peers: bgp.peers.iter().map(|peer| peer.remote.clone()).collect(),
        }
    }

    /// Applies the policy to one app; limits on the number of apps and VIPs are the registry's.
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
        for peer in &app.options.peers {
            self.permit_peer(peer)
                .map_err(|refusal| refusal.of(format_args!("peers: {peer}:")))?;
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

    /// Applies the policy to one VIP; the message does not name it.
    pub(super) fn permit_vip(&self, source: Source, vip: Vip) -> Result<(), Refusal> {
        const KEY: &str = "agent.allowed_vips";
        let prefix = vip.prefix();
        let mut reserved = self.reserved.iter();
        if let Some((addr, what)) = reserved.find(|(addr, _)| prefix.contains(*addr)) {
            let message = format!("cannot be a VIP: it contains {addr}, {what}");
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

    /// Whether an app may name this peer: it is configured, or may yet be discovered.
    pub(super) fn permit_peer(&self, named: &PeerName) -> Result<(), Refusal> {
        let mut peers = self.peers.iter();
        if peers.any(|peer| may_be(peer, named)) {
            return Ok(());
        }
        let first = self.peers.iter().take(MOST_PEERS).map(Remote::to_string);
        let mut ours = first.collect::<Vec<_>>().join(", ");
        match self.peers.len().saturating_sub(MOST_PEERS) {
            0 => {}
            more => ours += &format!(" and {more} more"),
        }
        let message = format!("is no peer of ours; those are {ours}");
        Err(Refusal::Invalid(message))
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

/// Peers that a message lists.
const MOST_PEERS: usize = 8;

/// Whether a configured peer is, or may turn out to be, what an app means by `named`.
fn may_be(peer: &Remote, named: &PeerName) -> bool {
    match (peer.name(), peer) {
        (Some(name), _) if named.means(&name) => true,
        (_, Remote::Interface(interface)) => named.scope() == Some(interface.as_str()),
        (_, Remote::Gateway) => true,
        (_, Remote::Addr(..)) => false,
    }
}

/// 240.0.0.0/4 (formerly class E), which many networks do not forward.
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
    for peer in &bgp.peers {
        if let Remote::Addr(addr, _) = &peer.remote {
            all.push((*addr, "a BGP peer"));
        }
        let local = peer.local_ip.iter();
        all.extend(local.map(|addr| (addr, "the local address of a session")));
    }
    all.extend(bgp.local_ip.iter().map(|addr| (addr, "bgp.local_ip")));
    all.extend(bgp.router_id.map(|id| (id.addr().into(), "bgp.router_id")));
    let consul = agent.consul.iter();
    let consul = consul.filter_map(|consul| consul.addr.parse::<HttpUrl>().ok()?.host.parse().ok());
    all.extend(consul.map(|addr| (addr, "Consul's address")));
    all
}
