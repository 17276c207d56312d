//! The BGP sessions: one state machine for each peer.

mod advertised;
mod facts;
mod paths;
mod pending;
mod session;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::event::{Output, Transport};
use super::history::{ChangeKind, HistoryChange};
use crate::bgp::peer::{ConnId, Event, Output as PeerOutput, PeerConfig};
use crate::bgp::{Cease, Notification};
use crate::config::Bgp;
use crate::discovery::{Network, Obstacle, PeerName, PeerNetwork};
use crate::net::{Family, Prefix, RouterId};
use crate::plan::{Route, Routes};
use crate::small_set::SmallSet;
use crate::timer::{EarliestDeadline, Rng};
pub(super) use paths::Announced;
use pending::PendingPeer;
use session::{Session, SessionSetup};

/// What this host sends to every peer in OPEN.
#[derive(Clone, Debug, Default)]
pub(super) struct HostInfo {
    pub hostname: Option<String>,
    /// Taking over from a process that left its addresses: as long as routers may keep its routes, new
    /// sessions say so.
    pub restarting_until: Option<Instant>,
    pub forwarding_preserved: bool,
}

/// Peers whose routes are not all known yet, as apps name them: `None`: there are none; an empty set: all.
pub(super) type Incomplete = Option<SmallSet<PeerName>>;

pub(super) struct Peers {
    sessions: BTreeMap<PeerName, Session>,
    routes: Routes,
    /// To whom End-of-RIB may not be sent yet: after a restart it takes a while until `routes` has all that
    /// is for them.
    incomplete: Incomplete,
    /// Configured peers without a session: no router is discovered yet.
    waiting: Vec<PendingPeer>,
    /// Why no peer was discovered.
    no_peer: Option<Obstacle>,
    /// What was logged.
    logged: Vec<(PeerName, Obstacle)>,
    no_peer_logged: Option<Obstacle>,
    host: HostInfo,
    rng: Rng,
    /// Number of session state machines so far; each numbers its connections from 1.
    generations: u64,
    outputs: VecDeque<Output>,
    changes: Vec<HistoryChange>,
    /// Bytes were sent to a peer.
    sent: bool,
    /// A session emitted an output.
    status_changed: bool,
    /// A session was established or lost.
    sessions_changed: bool,
}

impl Peers {
    /// No sessions yet; the seed makes their jitter.
    pub fn new(seed: u64) -> Self {
        Self {
            sessions: BTreeMap::new(),
            routes: Routes::new(),
            incomplete: Some(SmallSet::default()),
            waiting: Vec::new(),
            no_peer: None,
            logged: Vec::new(),
            no_peer_logged: None,
            host: HostInfo::default(),
            rng: Rng::new(seed),
            generations: 0,
            outputs: VecDeque::new(),
            changes: Vec::new(),
            sent: false,
            status_changed: false,
            sessions_changed: false,
        }
    }

    /// The host name sent in OPEN.
    pub fn hostname(&self) -> Option<&str> {
        self.host.hostname.as_deref()
    }

    /// Sets what this host sends in OPEN, before the first session.
    pub fn set_host(&mut self, host: HostInfo) {
        self.host = host;
    }

    /// Brings the sessions in line with the network. What did not change keeps its session. A peer
    /// that vanished is given up after a while, or at once where `strict` says that the settings changed.
    pub fn reconcile(&mut self, now: Instant, network: &Network, bgp: &Bgp, strict: bool) {
        let mut setups = self.setups(now, network, bgp);
        let names: Vec<PeerName> = self.sessions.keys().cloned().collect();
        for name in names {
            let at = setups.iter().position(|(of, _)| *of == name);
            match at.map(|at| setups.remove(at)) {
                Some((_, setup)) => self.adjust(now, &name, setup),
                None if strict => self.remove(now, &name, Cease::PeerDeconfigured),
                None => {
                    if let Some(session) = self.sessions.get_mut(&name) {
                        let why = network.absent.get(&session.settings_index);
                        session.path_lost(now + PEER_GONE_AFTER, why.cloned());
                    }
                }
            }
        }
        for (name, setup) in setups {
            self.add(now, name, setup);
        }
        self.reconcile_pending(now, network, bgp);
    }

    /// Keeps established sessions on their local address, whatever the routing table would choose now.
    pub fn pin_local_addresses(&mut self, now: Instant, network: &mut Network) {
        for (name, session) in self.sessions.iter_mut() {
            session.pin_local_address(now, name, network);
        }
    }

    /// Where the operator has chosen none, the one that a session is up with stays: the network offers
    /// another while a link is down, and the sessions over other links are not to end for that.
    pub fn router_id(&self, network: &Network, bgp: &Bgp) -> Option<RouterId> {
        let configured = bgp.written_router_id();
        let in_use = || {
            let up = |s: &&Session| s.is_established();
            self.sessions.values().find(up).map(|s| s.config.router_id)
        };
        configured.or_else(in_use).or(network.router_id)
    }

    fn setups(&self, now: Instant, network: &Network, bgp: &Bgp) -> Vec<(PeerName, SessionSetup)> {
        let Some(router_id) = self.router_id(network, bgp) else {
            return Vec::new();
        };
        let setup = |(name, peer): (&PeerName, &PeerNetwork)| {
            let settings = bgp.peers.get(peer.settings_index)?;
            let host = &self.host;
            let config = PeerConfig {
                name: name.to_string(),
                local_as: bgp.local_as,
                peer_as: settings.peer_as,
                router_id,
                hold_time: settings.hold_time,
                connect_retry: settings.connect_retry,
                passive: settings.passive,
                families: settings.families.clone(),
                graceful_restart: settings.graceful_restart,
                restarting: host.restarting_until.is_some_and(|until| now < until),
                forwarding_preserved: host.forwarding_preserved,
                has_md5_key: settings.password.is_some(),
                hostname: host.hostname.clone(),
            };
            Some((
                name.clone(),
                SessionSetup::new(config, name, peer, settings, network, bgp),
            ))
        };
        network.peers.iter().filter_map(setup).collect()
    }

    fn add(&mut self, now: Instant, name: PeerName, setup: SessionSetup) {
        info!("peer {name}: session to AS {}", peer_as_text(&setup.config));
        let mut session = Session::new(now, setup, self.generations, self.rng.next_u64());
        let mut waiting = self.waiting.iter();
        if let Some(waiting) = waiting.find(|waiting| waiting.name == name) {
            session.since = waiting.since;
        }
        self.generations += 1;
        self.outputs.push_back(Output::PeersChanged);
        self.outputs.extend(session.find_other_speaker(&name));
        self.sessions.insert(name.clone(), session);
        self.advertise_all(now, &name);
        self.drain(now, &name);
    }

    fn adjust(&mut self, now: Instant, name: &PeerName, mut setup: SessionSetup) {
        let Some(session) = self.sessions.get_mut(name) else {
            return;
        };
        if session.needs_restart(&mut setup) {
            info!("peer {name}: settings changed: restarting the session");
            self.remove(now, name, Cease::OtherConfigurationChange);
            self.add(now, name.clone(), setup);
            return;
        }
        let had_carrier = session.has_carrier();
        let routing_changed = session.apply(now, setup);
        if let Some(change) = session.carrier_change(name, had_carrier) {
            match session.has_carrier() {
                true => info!("peer {name}: {}", change.why),
                false => warn!("peer {name}: {}", change.why),
            }
            self.changes.push(change);
        }
        if routing_changed {
            self.advertise_all(now, name);
        }
        self.drain(now, name);
    }

    fn remove(&mut self, now: Instant, name: &PeerName, cease: Cease) {
        if let Some(session) = self.sessions.get_mut(name) {
            let stop = Event::Stop(Notification::cease(cease, None));
            session.peer.handle(now, stop);
            self.drain(now, name);
            self.sessions.remove(name);
            self.outputs.push_back(Output::PeersChanged);
        }
    }

    /// Handles an event of a session. Returns whether the session emitted an output.
    pub fn handle(&mut self, now: Instant, name: &PeerName, event: Event) -> bool {
        let Some(session) = self.sessions.get_mut(name) else {
            return false;
        };
        let Some(event) = session.translate_event(event) else {
            return false;
        };
        session.peer.handle(now, event);
        self.drain(now, name)
    }

    /// Takes the answer to [`Output::FindOtherSpeaker`].
    pub fn set_other_speaker(&mut self, name: &PeerName, speaker: Option<String>) {
        if let Some(session) = self.sessions.get_mut(name) {
            session.set_other_speaker(speaker);
            self.status_changed = true;
        }
    }

    /// The peer that a connection from this address is from.
    pub fn at(&self, remote: SocketAddr) -> Option<(&PeerName, &Transport)> {
        let mut sessions = self.transports();
        sessions.find(|(_, transport)| without_port(transport.remote) == without_port(remote))
    }

    /// All peers with their transports.
    pub fn transports(&self) -> impl Iterator<Item = (&PeerName, &Transport)> {
        let sessions = self.sessions.iter();
        sessions.map(|(name, session)| (name, &session.transport))
    }

    /// Ends the connect retry delays, on the operator's request.
    pub fn retry_now(&mut self, now: Instant) {
        self.each(now, |session| session.peer.handle(now, Event::RetryNow));
    }

    /// Ends the connect retry delays after a change of the network.
    pub fn network_changed(&mut self, now: Instant) {
        self.each(now, |session| {
            session.peer.handle(now, Event::NetworkChanged)
        });
    }

    /// A neighbor's MAC is another than before.
    pub fn mac_changed(&mut self, now: Instant, addr: IpAddr) {
        self.each(now, |session| session.mac_changed(now, addr));
    }

    /// The NAT target of each family: the local address of an established session, preferably one that the kernel has,
    /// then the same as before; without a session, the target derived from the kernel's tables.
    pub fn nat_targets(
        &self,
        network: &Network,
        before: &BTreeMap<Family, IpAddr>,
    ) -> BTreeMap<Family, IpAddr> {
        let mut targets = BTreeMap::new();
        for family in Family::ALL {
            let sessions = self.sessions.values();
            let from = sessions.filter_map(|s| s.established_local(family));
            let best = from.min_by_key(|addr| {
                let gone = !network.addresses.contains(addr);
                (gone, before.get(&family) != Some(addr))
            });
            if let Some(target) = best.or_else(|| network.nat_target.get(&family).copied()) {
                targets.insert(family, target);
            }
        }
        targets
    }

    /// Ends all sessions with a NOTIFICATION.
    pub fn stop(&mut self, now: Instant, notification: &Notification) {
        self.each(now, |session| {
            session.peer.handle(now, Event::Stop(notification.clone()));
        });
    }

    /// Ends all sessions without a NOTIFICATION, so that peers keep the routes (RFC 4724).
    pub fn stop_for_restart(&mut self, now: Instant) {
        self.each(now, |session| {
            session.peer.handle(now, Event::StopForRestart)
        });
    }

    /// Handles the timers that are due; `true` if a peer is given up.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let gone = |session: &Session| session.gone_at.is_some_and(|at| at <= now);
        let names = self.sessions.iter().filter(|(_, session)| gone(session));
        let names: Vec<PeerName> = names.map(|(name, _)| name.clone()).collect();
        let given_up = !names.is_empty();
        for name in names {
            warn!("peer {name}: no longer in the routing table: closing the session");
            self.remove(now, &name, Cease::PeerDeconfigured);
        }
        let mut lost = false;
        self.each(now, |session| {
            if session.local_gone_at().is_some_and(|at| at <= now) {
                session.drop_local_address(now);
                lost = true;
            }
            session.peer.handle_timeout(now);
        });
        if lost {
            // BFD follows with the next look.
            self.outputs.push_back(Output::ReadNetwork);
        }
        given_up
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let mut earliest = EarliestDeadline::new();
        for session in self.sessions.values() {
            earliest.add(session.peer.poll_timeout().map(|(at, _)| at), ());
            earliest.add(session.gone_at, ());
            earliest.add(session.local_gone_at(), ());
        }
        earliest.get().map(|(at, ())| at)
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Advertises changed routes, `None` for a withdraw, to each peer. `incomplete`: peers for which more routes may
    /// follow after a restart, and which get no End-of-RIB yet.
    pub fn advertise(
        &mut self,
        now: Instant,
        changes: BTreeMap<Prefix, Option<Rc<Route>>>,
        incomplete: Incomplete,
    ) {
        if changes.is_empty() && incomplete == self.incomplete {
            return;
        }
        self.incomplete = incomplete;
        let names: Vec<PeerName> = self.sessions.keys().cloned().collect();
        for name in names {
            let complete = self.is_complete_for(&name);
            if let Some(session) = self.sessions.get_mut(&name) {
                let facts = session.facts();
                let path = |(prefix, route): (&Prefix, &Option<Rc<Route>>)| {
                    let route = route.as_ref();
                    let path = route.and_then(|route| session.routing.path(*prefix, route, facts));
                    (*prefix, path)
                };
                let paths = changes.iter().map(path).collect();
                session.peer.update(now, paths);
                if complete {
                    session.peer.complete(now);
                }
            }
            self.drain(now, &name);
        }
        for (prefix, route) in changes {
            match route {
                Some(route) => self.routes.insert(prefix, route),
                None => self.routes.remove(&prefix),
            };
        }
    }

    /// Whether all routes for a peer are known, so that End-of-RIB may follow them.
    pub fn is_complete_for(&self, name: &PeerName) -> bool {
        let incomplete = self.incomplete.as_ref();
        incomplete.is_none_or(|incomplete| !name.is_among(incomplete))
    }

    /// The changes since the last call, for the history.
    pub fn take_changes(&mut self) -> Vec<HistoryChange> {
        std::mem::take(&mut self.changes)
    }

    /// Whether anything was sent to a peer since the last call.
    pub fn take_sent(&mut self) -> bool {
        std::mem::take(&mut self.sent)
    }

    /// Whether a session emitted an output since the last call.
    pub fn take_status_changed(&mut self) -> bool {
        std::mem::take(&mut self.status_changed)
    }

    fn advertise_all(&mut self, now: Instant, name: &PeerName) {
        let complete = self.is_complete_for(name);
        if let Some(session) = self.sessions.get_mut(name) {
            let routes = session.routing.routes(&self.routes, session.facts());
            if complete {
                session.peer.advertise(now, routes);
            } else {
                session.peer.advertise_some(now, routes);
            }
        }
    }

    fn each(&mut self, now: Instant, mut act: impl FnMut(&mut Session)) {
        let names: Vec<PeerName> = self.sessions.keys().cloned().collect();
        for name in names {
            if let Some(session) = self.sessions.get_mut(&name) {
                act(session);
            }
            self.drain(now, &name);
        }
    }

    /// Translates the outputs of the state machine for the shell.
    fn drain(&mut self, now: Instant, name: &PeerName) -> bool {
        let mut any = false;
        loop {
            let Some(session) = self.sessions.get_mut(name) else {
                return any;
            };
            let Some(output) = session.peer.poll_output() else {
                return any;
            };
            any = true;
            self.status_changed = true;
            let established = matches!(output, PeerOutput::Established { .. });
            self.sessions_changed |= established || matches!(output, PeerOutput::Down { .. });
            self.changes.extend(session_change(name, &output));
            self.sent |= matches!(output, PeerOutput::Send { .. });
            if established {
                session.on_established();
            }
            if let Some(output) = session.translate_output(now, name, output) {
                self.outputs.push_back(output);
            }
            if established {
                // Now the session's own address is known: it may be the next hop.
                self.advertise_all(now, name);
            }
        }
    }

    /// Router ids of the peers with an established session.
    pub fn router_ids(&self) -> impl Iterator<Item = IpAddr> {
        let up = self.sessions.values();
        up.filter_map(|session| Some(session.peer.negotiated()?.peer_router_id.addr().into()))
    }

    /// The established ones among the peers that apps name; none named: among all.
    pub fn established(&self, among: &[PeerName]) -> SmallSet<PeerName> {
        let sessions = self.sessions.iter();
        let meant = sessions.filter(|(name, s)| s.is_established() && name.is_among(among));
        meant.map(|(name, _)| name.clone()).collect()
    }

    /// How many peers there are, and with how many a session is up.
    pub fn count(&self) -> (usize, usize) {
        let up = |session: &&Session| session.is_established();
        (
            self.sessions.len(),
            self.sessions.values().filter(up).count(),
        )
    }

    /// Whether there is a session for this peer.
    pub fn has(&self, name: &PeerName) -> bool {
        self.sessions.contains_key(name)
    }

    /// Records how many bytes a peer's TCP has acknowledged.
    pub fn note_acknowledged(&mut self, name: &PeerName, conn: ConnId, bytes: u64) {
        if let Some(session) = self.sessions.get_mut(name) {
            session.note_acknowledged(conn, bytes);
        }
    }

    /// No session with one of these peers holds bytes back; none named: with any peer.
    pub fn is_flushed(&self, among: &[PeerName]) -> bool {
        let mut meant = self
            .sessions
            .iter()
            .filter(|(name, _)| name.is_among(among));
        meant.all(|(_, session)| session.peer.is_flushed())
    }

    /// Whether a prefix was sent to at least one peer.
    pub fn is_announced(&self, prefix: &Prefix) -> bool {
        let mut sessions = self.sessions.values();
        sessions.any(|session| session.peer.is_announced(prefix))
    }

    /// The routes desired for each peer.
    #[cfg(test)]
    pub fn routes(&self) -> Vec<(String, String)> {
        let sessions = self.sessions.iter();
        let routes = sessions.map(|(name, session)| (name.to_string(), session.peer.wanted()));
        routes
            .chain([("all".to_owned(), format!("{:?}", self.routes))])
            .collect()
    }

    /// Whether a whole set was advertised to the peers, be it empty.
    #[cfg(test)]
    pub fn is_complete(&self) -> bool {
        self.incomplete.is_none()
    }

    /// The generation of a peer's state machine, which changes with each restart of the session.
    #[cfg(test)]
    pub fn generation(&self, name: &PeerName) -> Option<u64> {
        self.sessions.get(name).map(|session| session.generation)
    }
}

/// A session that was established or lost, as the history has it.
fn session_change(peer: &PeerName, output: &PeerOutput) -> Option<HistoryChange> {
    let (states, why) = match output {
        PeerOutput::Established { negotiated, .. } => {
            let families: Vec<String> = negotiated.families.iter().map(Family::to_string).collect();
            let why = format!("AS {}, {}", negotiated.peer_as, families.join(" and "));
            (["down", "established"], why)
        }
        PeerOutput::Down { reason } => (["established", "down"], reason.to_string()),
        _ => return None,
    };
    Some(HistoryChange::of_peer(
        ChangeKind::Session,
        peer,
        states,
        why,
    ))
}

/// An address without its port: an incoming connection comes from any port.
fn without_port(addr: SocketAddr) -> (IpAddr, u32) {
    match addr {
        SocketAddr::V4(addr) => (IpAddr::V4(*addr.ip()), 0),
        SocketAddr::V6(addr) => (IpAddr::V6(*addr.ip()), addr.scope_id()),
    }
}

fn peer_as_text(config: &PeerConfig) -> String {
    match config.peer_as {
        Some(asn) => asn.to_string(),
        None => "any".to_owned(),
    }
}

/// How long a peer may be missing from the routing table: a link flap removes its routes for a moment.
const PEER_GONE_AFTER: Duration = Duration::from_secs(10);
