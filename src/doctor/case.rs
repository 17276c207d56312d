//! What is known before anything is looked at: of a running announcer, or of a configuration alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::app::{App, AppName, NatSpec, Protocol};
use crate::bgp::peer::{DownReason, LikelyCause, StateName};
use crate::config::{Bgp, Config, Consul};
use crate::core::{AppState, Core, PeerView, Transport, VipView};
use crate::diagnosis::Diagnosis;
use crate::discovery::{Network, Obstacle, PeerNetwork};
use crate::health::Outcome;
use crate::net::{Asn, Family};
use crate::view::page::Kind;
use crate::view::verdict::worst_of_app;

/// What is to be looked at, and what is known of it.
#[derive(Clone, Debug)]
pub struct Case {
    pub announcer: Announcer,
    /// The last reload failed.
    pub reload_failed: bool,
    /// Where the VIPs are; `None`: another program manages them.
    pub vip_interface: Option<String>,
    /// Why no peer was discovered.
    pub no_peer: Option<Obstacle>,
    /// Those without a session first.
    pub peers: Vec<PeerCase>,
    /// The worst first.
    pub apps: Vec<AppCase>,
    pub left_out: LeftOut,
    /// All addresses of the host that a socket can bind.
    pub addresses: BTreeSet<IpAddr>,
    /// Where NAT sends packets.
    pub nat_target: BTreeMap<Family, IpAddr>,
    /// The interfaces of the preferred IPv4 default routes.
    pub defaults4: BTreeSet<String>,
    pub consul: Option<Consul>,
}

/// Whether a running announcer answered; else only the configuration is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcer {
    Runs,
    /// None was found: why.
    NotFound(String),
    /// One accepts calls and gives no answer that can be read: what happened.
    NoAnswer(String),
}

/// How many are not looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    pub peers: usize,
    pub apps: usize,
}

/// One peer.
#[derive(Clone, Debug)]
pub struct PeerCase {
    pub name: String,
    pub interface: Option<String>,
    pub no_carrier: bool,
    pub gateway: Option<IpAddr>,
    pub local: Option<IpAddr>,
    pub obstacle: Option<Obstacle>,
    /// How to connect to it; `None`: its address is not known.
    pub transport: Option<Transport>,
    pub peer_as: Option<Asn>,
    /// It connects to us.
    pub passive: bool,
    /// `None`: no announcer runs.
    pub session: Option<SessionCase>,
}

/// The session of a running announcer.
#[derive(Clone, Debug)]
pub struct SessionCase {
    pub state: StateName,
    /// How long it has been up, or down.
    pub since: Duration,
    /// Prefixes announced.
    pub announced: usize,
    /// Why there is none, or why the last attempt ended, in words and as the state machine has it.
    pub why: Option<String>,
    pub reason: Option<DownReason>,
    /// What one of the two speakers refused before that, and the likely cause.
    pub refusal: Option<DownReason>,
    pub cause: Option<LikelyCause>,
}

/// One app.
#[derive(Clone, Debug)]
pub struct AppCase {
    pub name: AppName,
    /// State, for how long, and why; `None`: no announcer runs.
    pub state: Option<(AppState, Duration, String)>,
    /// It is announced although it is down.
    pub last_resort: bool,
    pub monitors: Vec<MonitorCase>,
    /// The first of them.
    pub vips: Vec<VipView>,
    pub more_vips: usize,
    pub nats: BTreeSet<NatSpec>,
}

/// One monitor.
#[derive(Clone, Debug)]
pub struct MonitorCase {
    /// Without what may be a secret.
    pub title: String,
    /// The port of this host that it concerns.
    pub port: Option<(Protocol, u16)>,
    /// A monitor of the app probes the VIPs on this port, so that the source of the answers is proven.
    pub proven: bool,
    /// Its last result.
    pub outcome: Option<Outcome>,
}

impl Case {
    /// Of a running announcer.
    pub fn of_core(core: &Core, now: Instant, reload_failed: bool) -> Self {
        let config = core.config();
        let unread = Network::default();
        let network = core.network().unwrap_or(&unread);
        let views = core.peers(now);
        let mut ranked: Vec<_> = core
            .app_statuses(now)
            .map(|app| {
                let worst = worst_of_app(&app, &views);
                (Kind::new(app.state, worst), !app.hides_answers, app.name)
            })
            .collect();
        ranked.sort_unstable();
        let chosen = ranked.iter().take(MOST_APPS);
        let apps = chosen.filter_map(|(.., name)| AppCase::of_core(core, now, name, network));
        let peers = views.iter();
        let peers = peers.map(|view| PeerCase::of_view(core, view, network));
        Self {
            announcer: Announcer::Runs,
            reload_failed,
            no_peer: core.no_peer_reason().cloned(),
            apps: apps.collect(),
            ..Self::of_host(config, network, peers.collect(), ranked.len())
        }
    }

    /// The case of a configuration on a host with this `network`, since no announcer answered.
    pub fn of_config(config: &Config, network: &Network, announcer: Announcer) -> Self {
        let present = network.peers.iter().map(|(name, peer)| {
            let transport = transport(peer, &config.bgp);
            PeerCase::new(name.to_string(), peer, transport, &config.bgp)
        });
        let missing = network.absent.iter();
        let missing = missing.filter_map(|(index, why)| {
            let settings = config.bgp.peers.get(*index)?;
            let named = !config.bgp.discover;
            named.then(|| PeerCase {
                peer_as: settings.peer_as,
                passive: settings.passive,
                ..PeerCase::absent(settings.remote.to_string(), why.clone())
            })
        });
        let absent = network.absent.values().next();
        let absent = absent.filter(|_| config.bgp.discover && network.peers.is_empty());
        let apps = config.apps.iter().take(MOST_APPS);
        let peers = present.chain(missing).collect();
        Self {
            announcer,
            no_peer: absent.cloned(),
            apps: apps.map(|app| AppCase::of_config(app, network)).collect(),
            ..Self::of_host(config, network, peers, config.apps.len())
        }
    }

    fn of_host(config: &Config, network: &Network, peers: Vec<PeerCase>, app_count: usize) -> Self {
        // The peers without a session come first.
        let (up, mut peers): (Vec<_>, Vec<_>) =
            peers.into_iter().partition(PeerCase::is_established);
        peers.extend(up);
        let left_out = LeftOut {
            peers: peers.len().saturating_sub(MOST_PEERS),
            apps: app_count.saturating_sub(MOST_APPS),
        };
        peers.truncate(MOST_PEERS);
        Self {
            announcer: Announcer::Runs,
            reload_failed: false,
            vip_interface: config.agent.vip_interface.clone(),
            no_peer: None,
            peers,
            apps: Vec::new(),
            left_out,
            addresses: network.addresses.clone(),
            nat_target: network.nat_target.clone(),
            defaults4: network.interfaces.defaults4.clone(),
            consul: config.agent.consul.clone(),
        }
    }

    /// A running announcer answered.
    pub fn runs(&self) -> bool {
        self.announcer == Announcer::Runs
    }

    /// The ports that monitors concern.
    pub fn ports(&self) -> BTreeSet<(Protocol, u16)> {
        let monitors = self.apps.iter().flat_map(|app| &app.monitors);
        monitors.filter_map(|monitor| monitor.port).collect()
    }
}

impl PeerCase {
    fn of_view(core: &Core, view: &PeerView, network: &Network) -> Self {
        let bgp = &core.config().bgp;
        let name = view.name.to_string();
        let mut case = match network.peers.get(&view.name) {
            Some(peer) => Self::new(name, peer, transport(peer, bgp), bgp),
            None => {
                let mut absent = network.absent.iter();
                let index = absent.find(|(index, _)| {
                    let settings = bgp.peers.get(**index);
                    settings.is_some_and(|settings| settings.remote.to_string() == name)
                });
                let why = index.map_or(Obstacle::Unread, |(_, why)| why.clone());
                Self::absent(name, why)
            }
        };
        case.interface = view.interface.clone();
        case.no_carrier = view.no_carrier;
        case.local = view.local;
        case.peer_as = view.peer_as;
        case.passive = view.passive;
        let diagnosis = core.diagnosis(&view.name);
        case.session = Some(SessionCase {
            state: view.state,
            since: view.since,
            announced: view.announced,
            why: view.last_error.clone(),
            reason: core.down_reason(&view.name).cloned(),
            refusal: diagnosis.and_then(|known| known.refusal().cloned()),
            cause: diagnosis.and_then(Diagnosis::cause),
        });
        case
    }

    fn new(name: String, peer: &PeerNetwork, transport: Option<Transport>, bgp: &Bgp) -> Self {
        let settings = bgp.peers.get(peer.settings_index);
        Self {
            name,
            interface: peer.interface.clone(),
            no_carrier: !peer.carrier,
            gateway: peer.gateway,
            local: peer.local,
            obstacle: peer.obstacle.clone(),
            transport,
            peer_as: settings.and_then(|settings| settings.peer_as),
            passive: settings.is_some_and(|settings| settings.passive),
            session: None,
        }
    }

    fn absent(name: String, why: Obstacle) -> Self {
        Self {
            name,
            interface: None,
            no_carrier: false,
            gateway: None,
            local: None,
            obstacle: Some(why),
            transport: None,
            peer_as: None,
            passive: false,
            session: None,
        }
    }

    /// The session is up.
    pub fn is_established(&self) -> bool {
        self.state() == Some(StateName::Established)
    }

    /// The state of the session, where there is an announcer.
    pub fn state(&self) -> Option<StateName> {
        self.session.as_ref().map(|session| session.state)
    }

    /// How to try a connection; `None`: there is one, it is the peer who connects, or nothing leads there.
    pub fn to_dial(&self) -> Option<&Transport> {
        let connects = matches!(
            self.state(),
            None | Some(StateName::Idle | StateName::Connect | StateName::Active)
        );
        let open = connects && !self.passive && self.obstacle.is_none();
        self.transport.as_ref().filter(|_| open)
    }
}

fn transport(peer: &PeerNetwork, bgp: &Bgp) -> Option<Transport> {
    let settings = bgp.peers.get(peer.settings_index)?;
    Some(Transport::to(peer, settings, bgp))
}

impl AppCase {
    fn of_core(core: &Core, now: Instant, name: &AppName, network: &Network) -> Option<Self> {
        let view = core.app(now, name)?;
        let mut case = Self::of_config(core.definition(name)?, network);
        let results = view.monitors.into_iter().map(|monitor| monitor.last);
        for (monitor, outcome) in case.monitors.iter_mut().zip(results) {
            monitor.outcome = outcome;
        }
        case.vips = view.vips;
        case.vips.truncate(MOST_VIPS);
        case.state = Some((view.state, view.since, view.why));
        case.last_resort = view.last_resort.is_some();
        Some(case)
    }

    fn of_config(app: &App, network: &Network) -> Self {
        let own = |addr: IpAddr| {
            addr.is_loopback()
                || network.addresses.contains(&addr)
                || app.vips.iter().any(|vip| vip.prefix().contains(addr))
        };
        let specs = || app.monitors.iter().map(|monitor| &monitor.spec);
        let asked: BTreeSet<_> = specs()
            .filter(|spec| app.asks_vips(spec))
            .filter_map(|spec| spec.local_port(own))
            .collect();
        let monitors = app.monitors.iter().enumerate();
        let monitors = monitors.map(|(index, monitor)| {
            let port = monitor.spec.local_port(own);
            MonitorCase {
                title: monitor.title(index),
                proven: port.is_some_and(|port| asked.contains(&port)),
                port,
                outcome: None,
            }
        });
        let vips = app.vips.iter().take(MOST_VIPS);
        Self {
            name: app.name.clone(),
            state: None,
            last_resort: false,
            monitors: monitors.take(MOST_MONITORS).collect(),
            vips: vips.map(|vip| VipView::new(vip.prefix())).collect(),
            more_vips: app.vips.iter().count().saturating_sub(MOST_VIPS),
            nats: app.nats.clone(),
        }
    }
}

/// Apps, peers, VIPs and monitors of an app that are looked at.
const MOST_APPS: usize = 20;
const MOST_PEERS: usize = 16;
const MOST_VIPS: usize = 4;
const MOST_MONITORS: usize = 16;
