//! The sessions: one machine for each peer that the network has, from start on.

mod session;

use std::collections::VecDeque;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::event::{Output, Transport};
use super::view::PeerView;
use crate::app::Attributes;
use crate::bgp::peer::{Event, Output as PeerOutput, PeerConfig};
use crate::bgp::{Cease, Notification};
use crate::config::{Bgp, Remote};
use crate::discovery::{Network, PeerName, PeerNetwork};
use crate::net::{Family, Prefix, RouterId};
use crate::plan::Routes;
use crate::timer::{Jitter, Soonest};
use session::{Session, Setup};

/// What this host says of itself to every peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    pub hostname: Option<String>,
    /// Taking over from a process that left its addresses: as long as routers may keep its routes, new
    /// sessions say so.
    pub restarting_until: Option<Instant>,
    pub forwarding_preserved: bool,
}

pub(super) struct Peers {
    sessions: BTreeMap<PeerName, Session>,
    routes: Routes,
    /// What is in `routes` is all there is to announce; after a restart that takes a while to be known.
    complete: bool,
    /// Settings that the network shows nobody for.
    unseen: BTreeSet<Remote>,
    host: Host,
    jitter: Jitter,
    /// How many machines there have been: connections are numbered anew by each.
    machines: u64,
    outputs: VecDeque<Output>,
    /// A machine gave out bytes.
    sent: bool,
}

impl Peers {
    pub fn new(seed: u64) -> Self {
        Self {
            sessions: BTreeMap::new(),
            routes: Routes::new(),
            complete: false,
            unseen: BTreeSet::new(),
            host: Host::default(),
            jitter: Jitter::new(seed),
            machines: 0,
            outputs: VecDeque::new(),
            sent: false,
        }
    }

    pub fn set_host(&mut self, host: Host) {
        self.host = host;
    }

    /// Brings the sessions in line with the network. What did not change keeps its session. A peer
    /// that vanished is given up after a while, or at once where `strict` says that the settings changed.
    pub fn set(&mut self, now: Instant, network: &Network, bgp: &Bgp, strict: bool) {
        self.name_unseen(network, bgp);
        let mut setups = self.setups(now, network, bgp);
        let names: Vec<PeerName> = self.sessions.keys().cloned().collect();
        for name in names {
            match setups.remove(&name) {
                Some(setup) => self.adjust(now, &name, setup),
                None if strict => self.remove(now, &name, Cease::PeerDeconfigured),
                None => {
                    if let Some(session) = self.sessions.get_mut(&name) {
                        session.lose_path(now + GONE);
                    }
                }
            }
        }
        for (name, setup) in setups {
            self.add(now, name, setup);
        }
    }

    /// The sessions' addresses in place of those that the network would choose now.
    pub fn keep_locals(&mut self, now: Instant, network: &mut Network) {
        for (name, session) in self.sessions.iter_mut() {
            session.keep_local(now, name, network);
        }
    }

    fn name_unseen(&mut self, network: &Network, bgp: &Bgp) {
        let seen = network.peers.values().map(|peer| peer.settings_index);
        let up = self.sessions.values().filter(|s| s.is_established());
        let seen: BTreeSet<usize> = seen.chain(up.map(|s| s.settings_index)).collect();
        let settings = bgp.peers.iter().enumerate();
        let unseen = settings.filter(|(index, _)| !seen.contains(index));
        let unseen: BTreeSet<Remote> = unseen.map(|(_, peer)| peer.remote.clone()).collect();
        for remote in unseen.difference(&self.unseen) {
            match remote {
                Remote::Gateway => info!("no peer yet: there is no default route through a router"),
                _ => info!("peer {remote}: no router discovered yet"),
            }
        }
        self.unseen = unseen;
    }

    /// Where the operator has chosen none, the one that a session is up with stays: the network offers
    /// another while a link is down, and the sessions over other links are not to end for that.
    fn router_id(&self, network: &Network, bgp: &Bgp) -> Option<RouterId> {
        let configured = bgp.router_id.or(bgp.local_ip.v4.and_then(RouterId::new));
        let in_use = || {
            let up = |s: &&Session| s.is_established();
            self.sessions.values().find(up).map(|s| s.config.router_id)
        };
        configured.or_else(in_use).or(network.router_id)
    }

    fn setups(&self, now: Instant, network: &Network, bgp: &Bgp) -> BTreeMap<PeerName, Setup> {
        let Some(router_id) = self.router_id(network, bgp) else {
            return BTreeMap::new();
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
                signed: settings.password.is_some(),
                hostname: host.hostname.clone(),
            };
            Some((
                name.clone(),
                Setup::new(config, peer, settings, network, bgp),
            ))
        };
        network.peers.iter().filter_map(setup).collect()
    }

    fn add(&mut self, now: Instant, name: PeerName, setup: Setup) {
        info!("peer {name}: session to AS {}", as_text(&setup.config));
        let session = Session::new(now, setup, self.machines, self.jitter.next_u64());
        self.machines += 1;
        self.outputs.push_back(Output::PeersChanged);
        self.sessions.insert(name.clone(), session);
        self.tell(now, &name);
        self.drain(now, &name);
    }

    fn adjust(&mut self, now: Instant, name: &PeerName, mut setup: Setup) {
        let Some(session) = self.sessions.get_mut(name) else {
            return;
        };
        if session.differs(&mut setup) {
            info!("peer {name}: settings changed, the session starts again");
            self.remove(now, name, Cease::OtherConfigurationChange);
            self.add(now, name.clone(), setup);
            return;
        }
        if session.follow(now, setup) {
            self.tell(now, name);
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

    /// Says whether anything came of it.
    pub fn handle(&mut self, now: Instant, name: &PeerName, event: Event) -> bool {
        let Some(session) = self.sessions.get_mut(name) else {
            return false;
        };
        let Some(event) = session.inward(event) else {
            return false;
        };
        session.peer.handle(now, event);
        self.drain(now, name)
    }

    /// The peer that a connection from this address is from.
    pub fn at(&self, remote: SocketAddr) -> Option<(&PeerName, &Transport)> {
        let mut sessions = self.transports();
        sessions.find(|(_, transport)| end(transport.remote) == end(remote))
    }

    pub fn transports(&self) -> impl Iterator<Item = (&PeerName, &Transport)> {
        let sessions = self.sessions.iter();
        sessions.map(|(name, session)| (name, &session.transport))
    }

    /// The operator asks: what waits for its next attempt need not wait.
    pub fn retry_now(&mut self, now: Instant) {
        self.each(now, |session| session.peer.handle(now, Event::RetryNow));
    }

    /// Something came up that an attempt may have been waiting for.
    pub fn network_changed(&mut self, now: Instant) {
        self.each(now, |session| {
            session.peer.handle(now, Event::NetworkChanged)
        });
    }

    /// A neighbor's MAC is another than before.
    pub fn mac_changed(&mut self, now: Instant, addr: IpAddr) {
        self.each(now, |session| session.mac_changed(now, addr));
    }

    /// Where NAT sends traffic: to the address of a session, rather to one that the kernel has and to the
    /// same as before; else to where the network says.
    pub fn nat_targets(
        &self,
        network: &Network,
        before: &BTreeMap<Family, IpAddr>,
    ) -> BTreeMap<Family, IpAddr> {
        let target = |family| {
            let sessions = self.sessions.values();
            let mut all: Vec<IpAddr> = sessions.filter_map(|s| s.up_from(family)).collect();
            all.sort_by_key(|addr| {
                let gone = !network.addresses.contains(addr);
                (gone, before.get(&family) != Some(addr))
            });
            let target = all.first().or_else(|| network.nat_target.get(&family))?;
            Some((family, *target))
        };
        Family::ALL.into_iter().filter_map(target).collect()
    }

    pub fn stop(&mut self, now: Instant, notification: &Notification) {
        self.each(now, |session| {
            session.peer.handle(now, Event::Stop(notification.clone()));
        });
    }

    pub fn stop_quietly(&mut self, now: Instant) {
        self.each(now, |session| session.peer.handle(now, Event::StopQuietly));
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        let gone = |session: &Session| session.gone_at.is_some_and(|at| at <= now);
        let names = self.sessions.iter().filter(|(_, session)| gone(session));
        let names: Vec<PeerName> = names.map(|(name, _)| name.clone()).collect();
        for name in names {
            warn!("peer {name}: not in the routing table any more");
            self.remove(now, &name, Cease::PeerDeconfigured);
        }
        let mut lost = false;
        self.each(now, |session| {
            if session.local_gone_at().is_some_and(|at| at <= now) {
                session.lose_local(now);
                lost = true;
            }
            session.peer.handle_timeout(now);
        });
        if lost {
            // BFD follows with the next look.
            self.outputs.push_back(Output::NetworkWanted);
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let mut soonest = Soonest::new();
        for session in self.sessions.values() {
            soonest.add(session.peer.poll_timeout().map(|(at, _)| at), ());
            soonest.add(session.gone_at, ());
            soonest.add(session.local_gone_at(), ());
        }
        soonest.get().map(|(at, ())| at)
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Routes that changed, `None` for one that goes; `complete`: no other is still to be found out.
    pub fn advertise(
        &mut self,
        now: Instant,
        changes: BTreeMap<Prefix, Option<Rc<Attributes>>>,
        complete: bool,
    ) {
        let completed = complete && !self.complete;
        self.complete = complete;
        if changes.is_empty() && !completed {
            return;
        }
        let names: Vec<PeerName> = self.sessions.keys().cloned().collect();
        for name in names {
            if let Some(session) = self.sessions.get_mut(&name) {
                let facts = session.facts();
                let path = |(prefix, route): (&Prefix, &Option<Rc<Attributes>>)| {
                    let route = route.as_ref();
                    let path = route.and_then(|app| session.routing.path(*prefix, app, facts));
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

    /// Whether anything was sent to a peer since this was last asked.
    pub fn take_sent(&mut self) -> bool {
        std::mem::take(&mut self.sent)
    }

    fn tell(&mut self, now: Instant, name: &PeerName) {
        if let Some(session) = self.sessions.get_mut(name) {
            let routes = session.routing.routes(&self.routes, session.facts());
            if self.complete {
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

    /// Translates what the machine wants into what the shell does.
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
            let established = matches!(output, PeerOutput::Established { .. });
            self.sent |= matches!(output, PeerOutput::Send { .. });
            if established {
                session.is_up();
            }
            if let Some(output) = session.outward(now, name, output) {
                self.outputs.push_back(output);
            }
            if established {
                // Now the session's own address is known: it may be the next hop.
                self.tell(now, name);
            }
        }
    }

    /// Why no peer has a next hop for a family, if so.
    pub fn no_next_hop(&self, family: Family) -> Option<String> {
        if self.sessions.is_empty() {
            return None;
        }
        let takes = |s: &&Session| s.routing.families.contains(&family);
        if !self.sessions.values().any(|s| takes(&s)) {
            return Some(format!("no peer takes {family} routes"));
        }
        let mut taking = self.sessions.values().filter(takes);
        if taking.any(|session| session.may_have_next_hop(family)) {
            return None;
        }
        Some(format!(
            "this host has no {family} address towards any peer (write it as next_hop)"
        ))
    }

    /// Those that peers have told, in sessions that are up.
    pub fn router_ids(&self) -> impl Iterator<Item = IpAddr> {
        let up = self.sessions.values();
        up.filter_map(|session| Some(session.peer.negotiated()?.peer_router_id.addr().into()))
    }

    pub fn is_established(&self) -> bool {
        self.sessions.values().any(Session::is_established)
    }

    /// How many peers there are, and with how many a session is up.
    pub fn count(&self) -> (usize, usize) {
        let up = |session: &&Session| session.is_established();
        (
            self.sessions.len(),
            self.sessions.values().filter(up).count(),
        )
    }

    pub fn has(&self, name: &PeerName) -> bool {
        self.sessions.contains_key(name)
    }

    /// No machine holds bytes back.
    pub fn is_flushed(&self) -> bool {
        self.sessions
            .values()
            .all(|session| session.peer.is_flushed())
    }

    pub fn is_announced(&self, prefix: &Prefix) -> bool {
        let mut sessions = self.sessions.values();
        sessions.any(|session| session.peer.is_announced(prefix))
    }

    /// What every peer shall know.
    #[cfg(test)]
    pub fn routes(&self) -> Vec<(String, String)> {
        let sessions = self.sessions.iter();
        let routes = sessions.map(|(name, session)| (name.to_string(), session.peer.wanted()));
        routes
            .chain([("all".to_owned(), format!("{:?}", self.routes))])
            .collect()
    }

    /// Whether the peers have been told a whole set, be it empty.
    #[cfg(test)]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Which machine serves a peer: another one after each restart of its settings.
    #[cfg(test)]
    pub fn machine(&self, name: &PeerName) -> Option<u64> {
        self.sessions.get(name).map(|session| session.number)
    }

    pub fn views(&self, now: Instant) -> Vec<PeerView> {
        let view = |(name, session): (&PeerName, &Session)| session.view(name, now);
        self.sessions.iter().map(view).collect()
    }
}

/// An address without its port: whoever connects comes from any.
fn end(addr: SocketAddr) -> (IpAddr, u32) {
    match addr {
        SocketAddr::V4(addr) => (IpAddr::V4(*addr.ip()), 0),
        SocketAddr::V6(addr) => (IpAddr::V6(*addr.ip()), addr.scope_id()),
    }
}

fn as_text(config: &PeerConfig) -> String {
    match config.peer_as {
        Some(asn) => asn.to_string(),
        None => "any".to_owned(),
    }
}

/// How long a peer may be missing from the routing table (a link that is down for a moment takes its
/// routes with it).
const GONE: Duration = Duration::from_secs(10);
