//! BFD with the peers that are configured for it: one session for each (RFC 5881 over one hop, RFC 5883 over several),
//! and what BGP makes of it (RFC 5882).
//!
//! BGP does not wait for BFD to come up (RFC 5882 §3.2); only a session that was up and fails takes BGP
//! down, and the peer's AdminDown is no failure. Our control plane bit is 0: BFD shares this process's
//! fate, so that its end during a planned restart does not say that the host is gone (RFC 5882 §4.3).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU32;
use std::time::Instant;

use log::{debug, info, warn};

use super::event::{BfdPath, Output};
use super::history::{ChangeKind, HistoryChange};
use crate::bfd::{self, Packet, Session, State};
use crate::config::{Bfd, Bgp};
use crate::discovery::{Network, PeerName, PeerNetwork};
use crate::timer::{EarliestDeadline, Rng};

pub(super) struct BfdSessions {
    sessions: Vec<Entry>,
    rng: Rng,
    outputs: VecDeque<Output>,
    changes: VecDeque<(PeerName, LivenessChange)>,
    history: Vec<HistoryChange>,
}

struct Entry {
    peer: PeerName,
    settings: Bfd,
    path: BfdPath,
    session: Session,
}

/// The events that BGP gets of a BFD session (RFC 5882).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LivenessChange {
    /// The BFD session came up.
    Up,
    /// It was up and failed.
    Failed,
}

impl BfdSessions {
    /// No sessions yet; the seed makes discriminators and jitter.
    pub fn new(seed: u64) -> Self {
        Self {
            sessions: Vec::new(),
            rng: Rng::new(seed),
            outputs: VecDeque::new(),
            changes: VecDeque::new(),
            history: Vec::new(),
        }
    }

    /// Brings the sessions in line with the network and the settings. `known`: peers that BGP has; a
    /// peer that is missing from the network for a moment keeps its session as long as it keeps BGP's.
    pub fn reconcile(
        &mut self,
        now: Instant,
        network: &Network,
        bgp: &Bgp,
        known: impl Fn(&PeerName) -> bool,
    ) {
        for (name, peer) in network.peers.iter().filter(|(name, _)| known(name)) {
            let settings = bgp.peers.get(peer.settings_index);
            match settings.and_then(|settings| settings.bfd) {
                Some(settings) if self.entry(name).is_some() => {
                    self.adjust(now, name, settings, path(peer, settings));
                }
                Some(settings) => self.add(now, name.clone(), settings, path(peer, settings)),
                None => self.remove(now, name),
            }
        }
        self.retain(now, known);
    }

    /// Ends the sessions of peers that BGP has given up.
    pub fn retain(&mut self, now: Instant, known: impl Fn(&PeerName) -> bool) {
        let mut gone = self.names();
        gone.retain(|name| !known(name));
        for name in gone {
            self.remove(now, &name);
        }
    }

    fn adjust(&mut self, now: Instant, name: &PeerName, settings: Bfd, mut path: BfdPath) {
        let Some(entry) = self.entry_mut(name) else {
            return;
        };
        // Without a route to the peer the address used before is kept.
        path.local = path.local.or(entry.path.local);
        if entry.path.local.is_none() {
            entry.path.local = path.local;
        }
        if entry.path != path {
            self.remove(now, name);
            self.add(now, name.clone(), settings, path);
        } else if entry.settings != settings {
            // The session is kept: some peers take BGP down on AdminDown.
            let (interval, multiplier) = (settings.interval, settings.multiplier);
            let event = bfd::Event::Reconfigure {
                interval,
                multiplier,
            };
            entry.settings = settings;
            entry.session.handle(now, event);
            self.drain(name);
        }
    }

    fn add(&mut self, now: Instant, peer: PeerName, settings: Bfd, path: BfdPath) {
        let config = bfd::Config {
            interval: settings.interval,
            multiplier: settings.multiplier,
            discriminator: self.discriminator(),
        };
        let session = Session::new(now, config, self.rng.next_u64());
        self.sessions.push(Entry {
            peer,
            settings,
            path,
            session,
        });
    }

    /// Unique among ours, and not what a process before us had (RFC 5880 §6.3).
    fn discriminator(&mut self) -> NonZeroU32 {
        loop {
            let number = self.rng.below(1 << 32);
            let number = u32::try_from(number).ok().and_then(NonZeroU32::new);
            let taken = |number| {
                let mut sessions = self.sessions.iter();
                sessions.any(|entry| entry.session.discriminator() == number)
            };
            if let Some(number) = number.filter(|number| !taken(*number)) {
                return number;
            }
        }
    }

    fn remove(&mut self, now: Instant, name: &PeerName) {
        if let Some(entry) = self.entry_mut(name) {
            entry.session.handle(now, bfd::Event::AdminDown);
            self.drain(name);
            self.sessions.retain(|entry| entry.peer != *name);
            self.outputs
                .push_back(Output::CloseBfd { peer: name.clone() });
        }
    }

    /// Signals AdminDown to all peers, which do not treat it as a failure (RFC 5882 §4.2).
    pub fn stop(&mut self, now: Instant) {
        self.each(|session| session.handle(now, bfd::Event::AdminDown));
    }

    /// A datagram whose TTL the shell has checked.
    pub fn receive(&mut self, now: Instant, from: SocketAddr, multihop: bool, bytes: &[u8]) {
        let packet = match Packet::decode(bytes) {
            Ok(packet) => packet,
            Err(error) => {
                debug!("BFD packet from {from} dropped: {error}");
                return;
            }
        };
        // The source address is checked even when Your Discriminator selects the session: a sender off
        // the path may know the discriminator.
        let meant = |entry: &Entry| {
            let number = packet.your_discriminator;
            (number == 0 || number == entry.session.discriminator().get())
                && entry.path.is_from(from, multihop)
        };
        let Some(entry) = self.sessions.iter_mut().find(|entry| meant(entry)) else {
            debug!("BFD packet from {from} dropped: no such session");
            return;
        };
        let name = entry.peer.clone();
        entry.session.handle(now, bfd::Event::Received(packet));
        self.drain(&name);
    }

    /// Handles the timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.each(|session| session.handle_timeout(now));
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let mut earliest = EarliestDeadline::new();
        for entry in &self.sessions {
            earliest.add(entry.session.poll_timeout().map(|(at, _)| at), ());
        }
        earliest.get().map(|(at, ())| at)
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The next change to pass to BGP.
    pub fn poll_change(&mut self) -> Option<(PeerName, LivenessChange)> {
        self.changes.pop_front()
    }

    /// The changes since the last call, for the history.
    pub fn take_history(&mut self) -> Vec<HistoryChange> {
        std::mem::take(&mut self.history)
    }

    /// `None`: no BFD with this peer.
    pub fn is_up(&self, name: &PeerName) -> Option<bool> {
        let entry = self.entry(name)?;
        Some(entry.session.state() == State::Up)
    }

    fn entry(&self, peer: &PeerName) -> Option<&Entry> {
        self.sessions.iter().find(|entry| entry.peer == *peer)
    }

    fn entry_mut(&mut self, peer: &PeerName) -> Option<&mut Entry> {
        self.sessions.iter_mut().find(|entry| entry.peer == *peer)
    }

    fn names(&self) -> Vec<PeerName> {
        let names = self.sessions.iter().map(|entry| entry.peer.clone());
        names.collect()
    }

    fn each(&mut self, mut act: impl FnMut(&mut Session)) {
        for name in self.names() {
            if let Some(entry) = self.entry_mut(&name) {
                act(&mut entry.session);
            }
            self.drain(&name);
        }
    }

    fn drain(&mut self, name: &PeerName) {
        let mut sessions = self.sessions.iter_mut();
        let Some(entry) = sessions.find(|entry| entry.peer == *name) else {
            return;
        };
        while let Some(output) = entry.session.poll_output() {
            match output {
                bfd::Output::Send(packet) => self.outputs.push_back(Output::SendBfd {
                    peer: name.clone(),
                    path: entry.path,
                    bytes: packet.encode(),
                }),
                bfd::Output::StateChanged {
                    from,
                    to,
                    diagnostic,
                    remote,
                } => {
                    let mut note = |states, why: &str| {
                        let change = HistoryChange::of_peer(ChangeKind::Bfd, name, states, why);
                        self.history.push(change);
                    };
                    let change = match (from, to) {
                        (State::Up, State::Down) if remote == Some(State::AdminDown) => {
                            info!("peer {name}: BFD down: the peer signaled AdminDown");
                            note(["up", "down"], "the peer signaled AdminDown");
                            None
                        }
                        (State::Up, State::Down) => {
                            warn!("peer {name}: BFD down: {diagnostic}");
                            note(["up", "down"], &diagnostic.to_string());
                            Some(LivenessChange::Failed)
                        }
                        (_, State::Up) => {
                            info!("peer {name}: BFD up");
                            note(["down", "up"], "the peer answers");
                            Some(LivenessChange::Up)
                        }
                        _ => None,
                    };
                    self.changes
                        .extend(change.map(|change| (name.clone(), change)));
                }
            }
        }
    }
}

impl BfdPath {
    /// Whether a packet came from the other end.
    fn is_from(&self, from: SocketAddr, multihop: bool) -> bool {
        let scope = |addr: SocketAddr| match addr {
            SocketAddr::V6(addr) if addr.ip().is_unicast_link_local() => addr.scope_id(),
            _ => 0,
        };
        self.multihop == multihop
            && self.remote.ip() == from.ip()
            && scope(self.remote) == scope(from)
    }
}

fn path(peer: &PeerNetwork, settings: Bfd) -> BfdPath {
    let port = if settings.multihop {
        MULTIHOP_PORT
    } else {
        SINGLE_HOP_PORT
    };
    let remote = match peer.remote {
        IpAddr::V4(_) => SocketAddr::new(peer.remote, port),
        IpAddr::V6(addr) => SocketAddrV6::new(addr, port, 0, peer.scope_id).into(),
    };
    BfdPath {
        remote,
        local: peer.local,
        multihop: settings.multihop,
    }
}

/// RFC 5881 §4.
const SINGLE_HOP_PORT: u16 = 3784;
/// RFC 5883 §5.
const MULTIHOP_PORT: u16 = 4784;
