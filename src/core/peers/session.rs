//! One session: its machine, what its connections need, and the way to its peer as the kernel has it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use log::{info, warn};

use crate::bgp::peer::{ConnId, Event, Notice, Output as PeerOutput, Peer, PeerConfig, StateName};
use crate::config::{Bgp, PeerSettings};
use crate::core::event::{Output, Transport};
use crate::core::history::{ChangeKind, HistoryChange};
use crate::core::routes::{Routing, SessionFacts};
use crate::core::view::PeerView;
use crate::diagnosis::{self, Diagnosis};
use crate::discovery::{Network, Obstacle, PeerName, PeerNetwork, is_link_local};
use crate::net::Family;

pub(super) struct Session {
    pub config: PeerConfig,
    pub transport: Transport,
    pub routing: Routing,
    /// Which of `bgp.peers` it comes from.
    pub settings_index: usize,
    pub peer: Peer,
    pub diagnosis: Diagnosis,
    pub generation: u64,
    /// Since when it is up, or is not.
    pub since: Instant,
    /// The last session ended; or the start.
    down_at: Instant,
    obstacle: Option<Obstacle>,
    /// Another program of this host that has a session with the peer from our address.
    other_speaker: Option<String>,
    /// The network does not show it any more.
    pub gone_at: Option<Instant>,
    configured_local: bool,
    local: LocalAddress,
    path: Path,
}

/// The local address of the session, where it is not configured.
#[derive(Default)]
struct LocalAddress {
    /// A session was established from it, and the peer may have no other address of ours configured: it stays in use
    /// as long as the kernel has it, whatever would be chosen now.
    pinned: Option<IpAddr>,
    /// The kernel does not have it: it is given up at this time.
    gone_at: Option<Instant>,
    /// The address that a new session would use.
    preferred: Option<IpAddr>,
}

/// The path to the peer.
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

/// The desired settings of a session.
pub(super) struct SessionSetup {
    pub config: PeerConfig,
    pub transport: Transport,
    pub routing: Routing,
    settings_index: usize,
    configured_local: bool,
    obstacle: Option<Obstacle>,
    path: Path,
}

impl SessionSetup {
    /// The settings of one peer, from configuration and network.
    pub fn new(
        config: PeerConfig,
        name: &PeerName,
        peer: &PeerNetwork,
        settings: &PeerSettings,
        network: &Network,
        bgp: &Bgp,
    ) -> Self {
        Self {
            config,
            transport: Transport::to(peer, settings, bgp),
            routing: Routing {
                peer: name.clone(),
                families: settings.families.clone(),
                attributes: bgp.attributes.overlaid(&settings.attributes),
                origin: settings.origin.unwrap_or(bgp.origin),
                local_as: bgp.local_as,
                next_hop4: peer.next_hop4,
                next_hop6: peer.next_hop6,
            },
            settings_index: peer.settings_index,
            configured_local: peer.configured_local,
            obstacle: peer.obstacle.clone(),
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

/// The path to the peer.
impl Session {
    /// Starts the session's state machine.
    pub fn new(now: Instant, setup: SessionSetup, generation: u64, seed: u64) -> Self {
        let mut session = Self {
            peer: Peer::new(setup.config.clone(), seed),
            diagnosis: Diagnosis::default(),
            config: setup.config,
            transport: setup.transport,
            routing: setup.routing,
            settings_index: setup.settings_index,
            generation,
            since: now,
            down_at: now,
            obstacle: setup.obstacle,
            other_speaker: None,
            gone_at: None,
            configured_local: setup.configured_local,
            local: LocalAddress::default(),
            path: setup.path,
        };
        session.peer.set_tracing(diagnosis::logs_messages());
        if !session.path.carrier {
            session.peer.handle(now, Event::NoCarrier);
        }
        session.peer.handle(now, Event::Start);
        session
    }

    /// Whether this is a session with other settings, which must start anew.
    pub fn needs_restart(&self, setup: &mut SessionSetup) -> bool {
        // Only the first session after a restart says that it is one.
        let restarting = std::mem::replace(&mut setup.config.restarting, self.config.restarting);
        // Without a route to the peer the address used before is kept.
        let local = setup.transport.local.or(self.transport.local);
        setup.transport.local = local;
        let mut before = self.transport.clone();
        // Another local address is another setting only if it is configured.
        let unadvertised = before.local.is_none() && !self.is_established();
        let same = self.peer.local_addr().map(|addr| addr.ip()) == local;
        if !setup.configured_local || unadvertised || same {
            before.local = local;
        }
        let differs = self.config != setup.config || before != setup.transport;
        if differs {
            setup.config.restarting = restarting;
        }
        differs
    }

    /// Takes over what may change under a session; whether its routes must be advertised again.
    pub fn apply(&mut self, now: Instant, setup: SessionSetup) -> bool {
        self.gone_at = None;
        self.transport = setup.transport;
        self.settings_index = setup.settings_index;
        self.configured_local = setup.configured_local;
        self.obstacle = setup.obstacle;
        self.update_path(now, setup.path);
        let changed = self.routing != setup.routing;
        self.routing = setup.routing;
        changed
    }

    /// Tells the state machine of carrier and path changes.
    fn update_path(&mut self, now: Instant, mut path: Path) {
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

    /// Whether the interface toward the peer has a carrier.
    pub fn has_carrier(&self) -> bool {
        self.path.carrier
    }

    /// The carrier's change since it was `before`.
    pub fn carrier_change(&self, peer: &PeerName, before: bool) -> Option<HistoryChange> {
        let interface = self.path.interface.as_deref().unwrap_or("its interface");
        let (states, why) = match (before, self.path.carrier) {
            (true, false) => (["up", "down"], format!("{interface} has no carrier")),
            (false, true) => (["down", "up"], format!("{interface} has a carrier")),
            _ => return None,
        };
        Some(HistoryChange::of_peer(
            ChangeKind::Carrier,
            peer,
            states,
            why,
        ))
    }

    /// The peer has no route: any route that appears is a change.
    pub fn path_lost(&mut self, gone_at: Instant, why: Option<Obstacle>) {
        self.gone_at.get_or_insert(gone_at);
        self.obstacle = why;
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
    pub fn pin_local_address(&mut self, now: Instant, name: &PeerName, network: &mut Network) {
        let peer = network.peers.get_mut(name);
        // The address may have taken the route to the peer with it.
        let configured = peer
            .as_ref()
            .map_or(self.configured_local, |peer| peer.configured_local);
        let Some(kept) = self.local.pinned.filter(|_| !configured) else {
            return;
        };
        let chosen = peer
            .and_then(|peer| peer.local.replace(kept))
            .filter(|addr| *addr != kept);
        if network.addresses.contains(&kept) {
            self.local.gone_at = None;
        } else {
            self.local.gone_at.get_or_insert(now + ADDRESS_GONE_AFTER);
        }
        if let Some(other) = chosen.filter(|_| chosen != self.local.preferred) {
            info!(
                "peer {name}: the session stays on local address {kept}; a new one would use {other}"
            );
        }
        self.local.preferred = chosen;
        network.own_addresses.insert(kept);
    }

    /// When the address that the session runs from is given up.
    pub fn local_gone_at(&self) -> Option<Instant> {
        self.local.gone_at
    }

    /// The local address was removed: nothing can be sent from it.
    pub fn drop_local_address(&mut self, now: Instant) {
        let local = std::mem::take(&mut self.local);
        self.transport.local = local.preferred;
        self.peer.handle(now, Event::LocalAddressGone);
    }

    /// A session is up: keeps its local address for the next ones.
    pub fn on_established(&mut self) {
        let local = self.peer.local_addr().map(|addr| addr.ip());
        self.local.pinned = local.filter(|addr| !is_link_local(*addr));
    }

    /// Our address in the session that is up, if other hosts reach it.
    pub fn established_local(&self, family: Family) -> Option<IpAddr> {
        let local = self.peer.local_addr()?.ip();
        let reachable = !is_link_local(local) && !local.is_loopback();
        (Family::of(local) == family && reachable).then_some(local)
    }
}

impl Session {
    /// Whether the session is in Established.
    pub fn is_established(&self) -> bool {
        self.peer.state() == StateName::Established
    }

    /// What prevents the session.
    pub fn obstacle(&self) -> Option<&Obstacle> {
        let idle = self.peer.state() <= StateName::Active;
        self.obstacle.as_ref().filter(|_| idle)
    }

    /// Why nothing reaches the peer of an established session: it lasts until its hold timer expires. A missing
    /// carrier is distinguished.
    pub fn unreachable(&self) -> Option<&Obstacle> {
        let obstacle = self.obstacle.as_ref().filter(|_| self.is_established());
        obstacle.filter(|obstacle| !matches!(obstacle, Obstacle::NoCarrier(_)))
    }

    /// The first connection attempt is over, or none is possible.
    fn is_tried(&self) -> bool {
        let ended = self.peer.last_error().is_some() || self.peer.flaps() > 0;
        let cannot = self.config.passive || self.obstacle().is_some() || !self.path.carrier;
        self.is_established() || ended || cannot
    }

    /// What the session determines of its routes.
    pub fn facts(&self) -> SessionFacts {
        let own = self.peer.local_addr().map(|addr| addr.ip());
        SessionFacts {
            local: own.or(self.transport.local),
            extended_next_hop: self.peer.negotiated().is_some_and(|n| n.extended_next_hop),
        }
    }

    /// Whether routes of a family have a next hop, or may have one once the session is up.
    pub fn may_have_next_hop(&self, family: Family) -> bool {
        let mut facts = self.facts();
        // Whether IPv4 may go over IPv6 is known only once the session is up.
        facts.extended_next_hop |= self.peer.negotiated().is_none();
        self.routing.default_next_hop(family, facts).is_some()
    }

    /// Outside, a connection is known by generation and number; events of an earlier generation are
    /// dropped.
    fn external(&self, conn: ConnId) -> ConnId {
        conn.of_generation(self.generation)
    }

    fn internal(&self, conn: ConnId) -> Option<ConnId> {
        let is_ours = conn.is_accepted() || conn.generation() == self.generation;
        is_ours.then(|| conn.of_generation(0))
    }

    /// Records how many bytes the peer's TCP has acknowledged.
    pub fn note_acknowledged(&mut self, conn: ConnId, bytes: u64) {
        if let Some(conn) = self.internal(conn) {
            self.peer.note_acknowledged(conn, bytes);
        }
    }

    /// Translates an event's connection number; `None`: it is of an earlier generation.
    pub fn translate_event(&self, mut event: Event) -> Option<Event> {
        match &mut event {
            Event::Connected { conn, .. }
            | Event::ConnectFailed { conn, .. }
            | Event::Received { conn, .. }
            | Event::Sent { conn, .. }
            | Event::Acknowledged { conn }
            | Event::Closed { conn, .. } => *conn = self.internal(*conn)?,
            _ => {}
        }
        Some(event)
    }

    /// Translates an output of the state machine for the shell.
    pub fn translate_output(
        &mut self,
        now: Instant,
        name: &PeerName,
        output: PeerOutput,
    ) -> Option<Output> {
        self.diagnosis.log(&self.config.name, &output);
        let peer = name.clone();
        match output {
            PeerOutput::Connect { conn } => Some(Output::Connect {
                peer,
                conn: self.external(conn),
                transport: self.transport.clone(),
            }),
            PeerOutput::Send { conn, bytes } => Some(Output::Send {
                peer,
                conn: self.external(conn),
                bytes,
            }),
            PeerOutput::Close { conn } => Some(Output::Close {
                peer,
                conn: self.external(conn),
            }),
            PeerOutput::Reset { conn } => Some(Output::Reset {
                peer,
                conn: self.external(conn),
            }),
            PeerOutput::Probe { conn } => Some(Output::Probe {
                peer,
                conn: self.external(conn),
            }),
            PeerOutput::SetUserTimeout { conn, timeout } => Some(Output::SetUserTimeout {
                peer,
                conn: self.external(conn),
                timeout,
            }),
            PeerOutput::Established { .. } => {
                self.since = now;
                self.other_speaker = None;
                None
            }
            PeerOutput::Notice(Notice::LikelyCause { cause, .. }) if cause.is_other_speaker() => {
                self.find_other_speaker(name)
            }
            PeerOutput::Down { .. } => {
                self.since = now;
                self.down_at = now;
                None
            }
            PeerOutput::StateChanged { .. }
            | PeerOutput::Notice(_)
            | PeerOutput::MessageReceived(_)
            | PeerOutput::MessageSent(_) => None,
        }
    }

    /// Asks whether another program has a session with the peer; `None`: our address is not known.
    pub fn find_other_speaker(&self, name: &PeerName) -> Option<Output> {
        self.transport.local.map(|_| Output::FindOtherSpeaker {
            peer: name.clone(),
            transport: self.transport.clone(),
        })
    }

    /// Takes note of another program's session with the peer, which may be why there is none with us.
    pub fn set_other_speaker(&mut self, speaker: Option<String>) {
        let speaker = speaker.filter(|_| !self.is_established());
        if let Some(speaker) = &speaker
            && self.other_speaker.as_ref() != Some(speaker)
        {
            warn!(
                "peer {}: {speaker}: a router takes one session from each address; peer with that program \
                 in its place, or give this session a local_ip of its own",
                self.config.name
            );
        }
        self.other_speaker = speaker;
    }

    /// Why there is no session, or why the last one ended.
    fn last_error(&self) -> Option<String> {
        if let Some(obstacle) = self.obstacle() {
            return Some(obstacle.to_string());
        }
        let error = self.peer.last_error();
        let before = error.and_then(|error| self.diagnosis.refusal_before(error));
        let parts: Vec<String> = error
            .map(ToString::to_string)
            .into_iter()
            .chain(before.map(|before| format!("before that: {before}")))
            .chain(self.other_speaker.clone())
            .collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// The peer as the API shows it.
    pub fn view(&self, name: &PeerName, now: Instant) -> PeerView {
        PeerView {
            name: name.clone(),
            remote: Some(self.transport.remote.ip()),
            port: self.transport.remote.port(),
            interface: self.path.interface.clone(),
            no_carrier: !self.path.carrier,
            unreachable: self.unreachable().cloned(),
            local: self.facts().local,
            local_as: self.config.local_as,
            peer_as: self.config.peer_as,
            router_id: Some(self.config.router_id),
            passive: self.config.passive,
            hold_time: self.config.hold_time,
            families: self.config.families.clone(),
            state: match self.obstacle() {
                Some(_) => StateName::Idle,
                None => self.peer.state(),
            },
            since: now.saturating_duration_since(self.since),
            uptime: self.peer.uptime(now),
            downtime: now.saturating_duration_since(self.down_at),
            ttl: self.transport.ttl,
            tried: self.is_tried(),
            unanswered: self
                .peer
                .unacknowledged_since()
                .map(|since| now.saturating_duration_since(since)),
            negotiated: self.peer.negotiated().cloned(),
            counters: self.peer.counters(),
            announced: self.peer.announced(),
            flaps: self.peer.flaps(),
            last_error: self.last_error(),
            bfd_up: None,
        }
    }
}

/// How long an address may be missing (a network manager takes it away and adds it again) before the
/// session that runs from it ends.
const ADDRESS_GONE_AFTER: Duration = Duration::from_secs(1);
