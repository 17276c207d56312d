//! One session: its machine, what its connections need, and the way to its peer as the kernel has it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use log::info;

use crate::bgp::peer::{ConnId, Event, Output as PeerOutput, Peer, PeerConfig, StateName};
use crate::config::{Bgp, PeerSettings};
use crate::core::event::{Output, Transport};
use crate::core::routes::{Routing, SessionFacts};
use crate::core::view::PeerView;
use crate::discovery::{Network, PeerName, PeerNetwork, is_link_local};
use crate::net::Family;

pub(super) struct Session {
    pub config: PeerConfig,
    pub transport: Transport,
    pub routing: Routing,
    /// Which of `bgp.peers` it comes from.
    pub settings_index: usize,
    pub peer: Peer,
    pub number: u64,
    pub state_since: Instant,
    /// The network does not show it any more.
    pub gone_at: Option<Instant>,
    configured_local: bool,
    local: Local,
    path: Path,
}

/// The address that the session runs from, where it is not the operator's choice.
#[derive(Default)]
struct Local {
    /// A session was up from it, and the peer may know us by no other: it stays as long as the kernel has
    /// it, whatever would be chosen now.
    kept: Option<IpAddr>,
    /// The kernel does not have it, and it is given up then.
    gone_at: Option<Instant>,
    /// What would be chosen now.
    other: Option<IpAddr>,
}

/// The way to the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Path {
    interface: Option<String>,
    gateway: Option<IpAddr>,
    local: Option<IpAddr>,
    /// The kernel has `local`.
    present: bool,
    carrier: bool,
    carrier_changes: u32,
}

/// What a peer should be.
pub(super) struct Setup {
    pub config: PeerConfig,
    pub transport: Transport,
    pub routing: Routing,
    settings_index: usize,
    configured_local: bool,
    path: Path,
}

impl Setup {
    pub fn new(
        config: PeerConfig,
        peer: &PeerNetwork,
        settings: &PeerSettings,
        network: &Network,
        bgp: &Bgp,
    ) -> Self {
        Self {
            config,
            transport: Transport::to(peer, settings, bgp),
            routing: Routing {
                families: settings.families.clone(),
                attributes: bgp.attributes.overlaid(&settings.attributes),
                origin: settings.origin.unwrap_or(bgp.origin),
                local_as: bgp.local_as,
                next_hop4: peer.next_hop4,
                next_hop6: peer.next_hop6,
            },
            settings_index: peer.settings_index,
            configured_local: peer.configured_local,
            path: Path {
                interface: peer.interface.clone(),
                gateway: peer.gateway,
                local: peer.local,
                present: peer
                    .local
                    .is_none_or(|addr| network.addresses.contains(&addr)),
                carrier: peer.carrier,
                carrier_changes: peer.carrier_changes,
            },
        }
    }
}

/// The way to the peer.
impl Session {
    pub fn new(now: Instant, setup: Setup, number: u64, seed: u64) -> Self {
        let mut session = Self {
            peer: Peer::new(setup.config.clone(), seed),
            config: setup.config,
            transport: setup.transport,
            routing: setup.routing,
            settings_index: setup.settings_index,
            number,
            state_since: now,
            gone_at: None,
            configured_local: setup.configured_local,
            local: Local::default(),
            path: setup.path,
        };
        if !session.path.carrier {
            session.peer.handle(now, Event::NoCarrier);
        }
        session.peer.handle(now, Event::Start);
        session
    }

    /// Whether this is a session with other settings, which must start anew.
    pub fn differs(&self, setup: &mut Setup) -> bool {
        // Only the first session after a restart says that it is one.
        let restarting = std::mem::replace(&mut setup.config.restarting, self.config.restarting);
        // While there is no way to the peer its old address is as good as any.
        let local = setup.transport.local.or(self.transport.local);
        setup.transport.local = local;
        let mut before = self.transport.clone();
        // Another address to speak from is another setting only where the operator chose it.
        let untold = before.local.is_none() && !self.is_established();
        let same = self.peer.local_addr().map(|addr| addr.ip()) == local;
        if !setup.configured_local || untold || same {
            before.local = local;
        }
        let differs = self.config != setup.config || before != setup.transport;
        if differs {
            setup.config.restarting = restarting;
        }
        differs
    }

    /// Takes over what may change under a session; whether its routes are to be told anew.
    pub fn follow(&mut self, now: Instant, setup: Setup) -> bool {
        self.gone_at = None;
        self.transport = setup.transport;
        self.settings_index = setup.settings_index;
        self.configured_local = setup.configured_local;
        self.follow_path(now, setup.path);
        let changed = self.routing != setup.routing;
        self.routing = setup.routing;
        changed
    }

    /// The machine hears of the carrier, and of a way that is there where there was none or another.
    fn follow_path(&mut self, now: Instant, mut path: Path) {
        if path.interface.is_none() {
            path.carrier = self.path.carrier;
        }
        let before = std::mem::replace(&mut self.path, path);
        if before.carrier && !self.path.carrier {
            self.peer.handle(now, Event::NoCarrier);
        } else if before != self.path {
            self.path_changed(now);
        }
    }

    /// The network does not show the peer: whatever it shows next is news.
    pub fn lose_path(&mut self, gone_at: Instant) {
        self.gone_at.get_or_insert(gone_at);
        self.path.interface = None;
    }

    fn path_changed(&mut self, now: Instant) {
        let path = &self.path;
        if path.carrier && path.interface.is_some() && path.present {
            self.peer.handle(now, Event::PathChanged);
        }
    }

    /// The neighbor at this address has another MAC: it may be another machine.
    pub fn mac_changed(&mut self, now: Instant, addr: IpAddr) {
        if self.path.gateway == Some(addr) || self.transport.remote.ip() == addr {
            self.path_changed(now);
        }
    }

    /// Leaves the session on the address that it runs from, as long as the kernel has that.
    pub fn keep_local(&mut self, now: Instant, name: &PeerName, network: &mut Network) {
        let peer = network.peers.get_mut(name);
        // The address may have taken the route to the peer with it.
        let configured = peer
            .as_ref()
            .map_or(self.configured_local, |peer| peer.configured_local);
        let Some(kept) = self.local.kept.filter(|_| !configured) else {
            return;
        };
        let chosen = peer
            .and_then(|peer| peer.local.replace(kept))
            .filter(|addr| *addr != kept);
        if network.addresses.contains(&kept) {
            self.local.gone_at = None;
        } else {
            self.local.gone_at.get_or_insert(now + ADDRESS_GONE);
        }
        if let Some(other) = chosen.filter(|_| chosen != self.local.other) {
            info!("peer {name}: speaks from {kept} still; a new session would speak from {other}");
        }
        self.local.other = chosen;
        network.own_addresses.insert(kept);
    }

    /// When the address that the session runs from is given up.
    pub fn local_gone_at(&self) -> Option<Instant> {
        self.local.gone_at
    }

    /// The kernel has not had the address for a while: nothing can be sent from it.
    pub fn lose_local(&mut self, now: Instant) {
        let local = std::mem::take(&mut self.local);
        self.transport.local = local.other;
        self.peer.handle(now, Event::LocalAddressGone);
    }

    /// A session is up: the peer knows us by its address.
    pub fn is_up(&mut self) {
        let local = self.peer.local_addr().map(|addr| addr.ip());
        self.local.kept = local.filter(|addr| !is_link_local(*addr));
    }

    /// Our address in the session that is up.
    pub fn up_from(&self, family: Family) -> Option<IpAddr> {
        let local = self.peer.local_addr()?.ip();
        (Family::of(local) == family && !is_link_local(local)).then_some(local)
    }
}

impl Session {
    pub fn is_established(&self) -> bool {
        self.peer.state() == StateName::Established
    }

    pub fn facts(&self) -> SessionFacts {
        let own = self.peer.local_addr().map(|addr| addr.ip());
        SessionFacts {
            local: own.or(self.transport.local),
            extended_next_hop: self.peer.negotiated().is_some_and(|n| n.extended_next_hop),
        }
    }

    pub fn may_have_next_hop(&self, family: Family) -> bool {
        let mut facts = self.facts();
        // Whether IPv4 may go over IPv6 is known only once the session is up.
        facts.extended_next_hop |= self.peer.negotiated().is_none();
        self.routing.default_next_hop(family, facts).is_some()
    }

    /// Connections are known outside by machine and number; those of an earlier machine are dropped.
    fn outer(&self, conn: ConnId) -> ConnId {
        if conn >= ConnId::accepted(0) {
            return conn;
        }
        ConnId(conn.0 | self.number << MACHINE_SHIFT)
    }

    fn inner(&self, conn: ConnId) -> Option<ConnId> {
        if conn >= ConnId::accepted(0) {
            return Some(conn);
        }
        (conn.0 >> MACHINE_SHIFT == self.number)
            .then_some(ConnId(conn.0 & ((1 << MACHINE_SHIFT) - 1)))
    }

    pub fn inward(&self, mut event: Event) -> Option<Event> {
        match &mut event {
            Event::Connected { conn, .. }
            | Event::ConnectFailed { conn, .. }
            | Event::Received { conn, .. }
            | Event::Sent { conn, .. }
            | Event::Acknowledged { conn }
            | Event::Closed { conn, .. } => *conn = self.inner(*conn)?,
            _ => {}
        }
        Some(event)
    }

    pub fn outward(&mut self, now: Instant, name: &PeerName, output: PeerOutput) -> Option<Output> {
        let peer = name.clone();
        match output {
            PeerOutput::Connect { conn } => Some(Output::Connect {
                peer,
                conn: self.outer(conn),
                transport: self.transport.clone(),
            }),
            PeerOutput::Send { conn, bytes } => Some(Output::Send {
                peer,
                conn: self.outer(conn),
                bytes,
            }),
            PeerOutput::Close { conn } => Some(Output::Close {
                peer,
                conn: self.outer(conn),
            }),
            PeerOutput::Reset { conn } => Some(Output::Reset {
                peer,
                conn: self.outer(conn),
            }),
            PeerOutput::Probe { conn } => Some(Output::Probe {
                peer,
                conn: self.outer(conn),
            }),
            PeerOutput::SetUserTimeout { conn, timeout } => Some(Output::SetUserTimeout {
                peer,
                conn: self.outer(conn),
                timeout,
            }),
            PeerOutput::StateChanged { .. } => {
                self.state_since = now;
                None
            }
            PeerOutput::Established { .. } | PeerOutput::Down { .. } => None,
        }
    }

    pub fn view(&self, name: &PeerName, now: Instant) -> PeerView {
        PeerView {
            name: name.clone(),
            remote: self.transport.remote.ip(),
            port: self.transport.remote.port(),
            interface: self.path.interface.clone(),
            no_carrier: !self.path.carrier,
            local: self.facts().local,
            local_as: self.config.local_as,
            peer_as: self.config.peer_as,
            router_id: self.config.router_id,
            passive: self.config.passive,
            hold_time: self.config.hold_time,
            families: self.config.families.clone(),
            state: self.peer.state(),
            since: now.saturating_duration_since(self.state_since),
            uptime: self.peer.uptime(now),
            negotiated: self.peer.negotiated().cloned(),
            counters: self.peer.counters(),
            announced: self.peer.announced(),
            flaps: self.peer.flaps(),
            last_error: self.peer.last_error().map(str::to_owned),
            bfd_up: None,
        }
    }
}

/// How long an address may be missing (a network manager takes it away and adds it again) before the
/// session that runs from it ends.
const ADDRESS_GONE: Duration = Duration::from_secs(1);
/// A machine's own numbers stay below this bit.
const MACHINE_SHIFT: u32 = 32;
