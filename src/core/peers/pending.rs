//! Configured peers without a session: their router is not discovered yet, or there is no router id.

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
    pub name: PeerName,
    settings_index: usize,
    obstacle: Obstacle,
    pub since: Instant,
}

impl Peers {
    /// Before the network is known: every configured peer is pending.
    pub fn expect(&mut self, now: Instant, bgp: &Bgp) {
        let named = bgp.peers.iter().enumerate();
        let named = named.filter_map(|(index, peer)| Some((peer.remote.name()?, index)));
        let waiting = |(name, settings_index)| PendingPeer {
            name,
            settings_index,
            obstacle: Obstacle::Unread,
            since: now,
        };
        self.waiting = named.map(waiting).collect();
    }

    /// Updates pending peers after the sessions. Each obstacle is logged once.
    pub(super) fn reconcile_pending(&mut self, now: Instant, network: &Network, bgp: &Bgp) {
        let served = |index| self.sessions.values().any(|s| s.settings_index == index);
        let absent = network.absent.iter().filter(|(index, _)| !served(**index));
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
        let before = std::mem::take(&mut self.waiting);
        let waiting = others.into_iter().map(|(name, settings_index, obstacle)| {
            let known = before.iter().find(|waiting| waiting.name == name);
            PendingPeer {
                name,
                settings_index,
                obstacle,
                since: known.map_or(now, |waiting| waiting.since),
            }
        });
        self.waiting = waiting.collect();
        self.log_obstacles();
    }

    fn log_obstacles(&mut self) {
        let waiting = self.waiting.iter();
        let waiting = waiting.map(|waiting| (waiting.name.clone(), waiting.obstacle.clone()));
        let sessions = self.sessions.iter();
        let sessions = sessions.filter_map(|(name, s)| {
            // The link is there: a default route may go for a moment.
            let lost = s.unreachable();
            let lost = lost.filter(|lost| !matches!(lost, Obstacle::NoGateway));
            let obstacle = s.obstacle().or(lost)?;
            Some((name.clone(), obstacle.clone()))
        });
        let obstacles: Vec<(PeerName, Obstacle)> = waiting.chain(sessions).collect();
        for of_peer in &obstacles {
            if !self.logged.contains(of_peer) {
                let (name, obstacle) = of_peer;
                let up = self.sessions.get(name).is_some_and(Session::is_established);
                let idle = if up { "" } else { "idle: " };
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
        waiting.map(|waiting| (&waiting.name, waiting.settings_index))
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
        for waiting in &self.waiting {
            if let Some(settings) = bgp.peers.get(waiting.settings_index) {
                views.push(waiting.view(settings, now, bgp));
            }
        }
        views.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        views
    }
}

impl PendingPeer {
    fn view(&self, settings: &PeerSettings, now: Instant, bgp: &Bgp) -> PeerView {
        PeerView {
            name: self.name.clone(),
            remote: self.name.addr(),
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
