//! Configured peers without a session: their router is not discovered yet, or there is no router id.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use log::warn;

use super::Peers;
use super::session::Session;
use crate::bgp::peer::{Counters, DownReason, StateName};
use crate::config::{Bgp, PeerSettings, Remote};
use crate::core::Ttl;
use crate::core::view::PeerView;
use crate::diagnosis::Diagnosis;
use crate::discovery::{Network, Obstacle, PeerName};

/// A peer without a session.
#[derive(Debug)]
pub(super) struct PendingPeer {
    settings_index: usize,
    obstacle: Obstacle,
    pub since: Instant,
}

impl Peers {
    /// Before the network is known: every configured peer is pending.
    pub fn expect(&mut self, now: Instant, bgp: &Bgp) {
        let named = bgp.peers.iter().enumerate();
        let named = named.filter_map(|(index, peer)| Some((peer.remote.name()?, index)));
        let waiting = |(name, settings_index)| {
            let obstacle = Obstacle::Unread;
            let since = now;
            (
                name,
                PendingPeer {
                    settings_index,
                    obstacle,
                    since,
                },
            )
        };
        self.waiting = named.map(waiting).collect();
    }

    /// Updates pending peers after the sessions. Each obstacle is logged once.
    pub(super) fn reconcile_pending(&mut self, now: Instant, network: &Network, bgp: &Bgp) {
        let served: BTreeSet<usize> = self.sessions.values().map(|s| s.settings_index).collect();
        let absent = network.absent.iter();
        let absent = absent.filter(|(index, _)| !served.contains(index));
        let unnamed = network.peers.iter();
        let unnamed = unnamed.filter(|(name, _)| !self.sessions.contains_key(name));
        let unnamed = unnamed.map(|(name, peer)| {
            // A host without an address has no route either.
            (name.clone(), peer.settings_index, Obstacle::NoRouterId)
        });
        let mut others: Vec<(PeerName, usize, Obstacle)> = unnamed.collect();
        self.no_peer = None;
        for (index, obstacle) in absent {
            let written = bgp.peers.get(*index).and_then(|peer| peer.remote.name());
            match written {
                Some(name) => others.push((name, *index, obstacle.clone())),
                None => self.no_peer = Some(obstacle.clone()),
            }
        }
        let mut before = std::mem::take(&mut self.waiting);
        for (name, settings_index, obstacle) in others {
            let known = before.remove(&name).map(|waiting| waiting.since);
            let waiting = PendingPeer {
                settings_index,
                obstacle,
                since: known.unwrap_or(now),
            };
            self.waiting.insert(name, waiting);
        }
        self.log_obstacles();
    }

    fn log_obstacles(&mut self) {
        let waiting = self.waiting.iter();
        let waiting = waiting.map(|(name, waiting)| (name.to_string(), waiting.obstacle.clone()));
        let sessions = self.sessions.iter();
        let sessions = sessions.filter_map(|(name, s)| {
            // The link is there: a default route may go for a moment.
            let lost = s.unreachable();
            let lost = lost.filter(|lost| !matches!(lost, Obstacle::NoGateway));
            let obstacle = s.obstacle().or(lost)?;
            Some((name.to_string(), obstacle.clone()))
        });
        let obstacles: BTreeMap<String, Obstacle> = waiting.chain(sessions).collect();
        let up = self.sessions.iter().filter(|(_, s)| s.is_established());
        let up: BTreeSet<String> = up.map(|(name, _)| name.to_string()).collect();
        for (name, obstacle) in &obstacles {
            if self.logged.get(name) != Some(obstacle) {
                let idle = if up.contains(name) { "" } else { "idle: " };
                warn!("peer {name}: {idle}{obstacle}");
            }
        }
        if let Some(no_peer) = &self.no_peer
            && self.no_peer_logged.as_ref() != Some(no_peer)
        {
            warn!("no peer: {no_peer}");
        }
        self.logged = obstacles;
        self.no_peer_logged = self.no_peer.clone();
    }

    /// Why no peer was discovered.
    pub fn no_peer_reason(&self) -> Option<&Obstacle> {
        self.no_peer.as_ref()
    }

    /// The pending peers and the index of their settings.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (&PeerName, usize)> {
        let waiting = self.waiting.iter();
        waiting.map(|(name, waiting)| (name, waiting.settings_index))
    }

    /// What is known of the reasons for which a peer has no session.
    pub fn diagnosis(&self, name: &PeerName) -> Option<&Diagnosis> {
        Some(&self.sessions.get(name)?.diagnosis)
    }

    /// Why a peer has no session, or why its last one ended.
    pub fn down_reason(&self, name: &PeerName) -> Option<&DownReason> {
        self.sessions.get(name)?.peer.last_error()
    }

    /// All peers, pending ones included.
    pub fn views(&self, now: Instant, bgp: &Bgp) -> Vec<PeerView> {
        let view = |(name, session): (&PeerName, &Session)| session.view(name, now);
        let mut views: Vec<PeerView> = self.sessions.iter().map(view).collect();
        for (name, waiting) in &self.waiting {
            if let Some(settings) = bgp.peers.get(waiting.settings_index) {
                views.push(waiting.view(name, settings, now, bgp));
            }
        }
        views.sort_by(|one, other| one.name.cmp(&other.name));
        views
    }
}

impl PendingPeer {
    fn view(&self, name: &PeerName, settings: &PeerSettings, now: Instant, bgp: &Bgp) -> PeerView {
        PeerView {
            name: name.clone(),
            remote: name.addr(),
            port: settings.port,
            interface: match &settings.remote {
                Remote::Interface(name) => Some(name.clone()),
                Remote::Addr(_, scope) => scope.clone(),
                Remote::Gateway => None,
            },
            no_carrier: false,
            unreachable: None,
            local: None,
            local_as: bgp.local_as,
            peer_as: settings.peer_as,
            router_id: bgp.router_id,
            passive: settings.passive,
            hold_time: settings.hold_time,
            families: settings.families.clone(),
            state: StateName::Idle,
            since: now.saturating_duration_since(self.since),
            uptime: None,
            downtime: now.saturating_duration_since(self.since),
            ttl: Ttl::of(settings, bgp),
            tried: self.obstacle != Obstacle::Unread,
            unanswered: None,
            negotiated: None,
            counters: Counters::default(),
            announced: 0,
            flaps: 0,
            last_error: Some(self.obstacle.to_string()),
            bfd_up: None,
        }
    }
}
