//! Feeds the proof of the path from the peers' Adj-RIB-Out, and keeps what it finds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::peers::Announced;
use super::{Core, Output, PathView};
use crate::app::PathProof;
use crate::discovery::PeerName;
use crate::net::Prefix;
use crate::path_proof::{ChangeKind, Event, Finding, PeerTag, Prover, Target, Unproven};

/// The prover, and which numbers and VIPs it is about.
pub(super) struct PathProofs {
    prover: Prover,
    /// Each peer's number in probes.
    tags: Vec<(PeerName, PeerTag)>,
    next_tag: u16,
    /// VIPs to compare with what is announced.
    queue: BTreeSet<Prefix>,
    /// Every VIP is to be compared: peers, network or settings changed.
    stale: bool,
    times: ForwardingTimes,
    /// It was logged that a configured proof is impossible.
    warned: bool,
}

/// How long routers took from an announcement to the first probe that came back: a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForwardingTimes {
    /// How many took at most as long as [`ForwardingTimes::BOUNDS`] says, each included in the next.
    pub within: [u64; ForwardingTimes::BOUNDS.len()],
    pub count: u64,
    pub sum: Duration,
}

impl ForwardingTimes {
    /// Upper bounds in milliseconds.
    pub const BOUNDS: [u64; 11] = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000];

    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.sum = self.sum.saturating_add(time);
        for (within, bound) in self.within.iter_mut().zip(Self::BOUNDS) {
            *within += u64::from(time <= Duration::from_millis(bound));
        }
    }
}

impl PathProofs {
    /// Nothing is proven yet; the seed makes token and source ports.
    pub fn new(now: Instant, seed: u64) -> Self {
        Self {
            prover: Prover::new(now, seed),
            tags: Vec::new(),
            next_tag: 0,
            queue: BTreeSet::new(),
            stale: false,
            times: ForwardingTimes::default(),
            warned: false,
        }
    }

    /// Handles an answer of the shell.
    pub fn handle(&mut self, now: Instant, event: Event) {
        self.prover.handle(now, event);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.prover.handle_timeout(now);
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.prover.poll_timeout()
    }

    /// The route of this VIP, or how it is probed, may be another.
    pub fn enqueue(&mut self, vip: Prefix) {
        self.queue.insert(vip);
    }

    /// Those of every VIP may be others.
    pub fn enqueue_all(&mut self) {
        self.stale = true;
    }

    /// A number for the peer that no other has; `None`: all are taken.
    fn tag(&mut self, peer: &PeerName) -> Option<PeerTag> {
        if let Some(tag) = self.tag_of(peer) {
            return Some(tag);
        }
        let mut numbers = (0..=u16::MAX).map(|above| PeerTag(self.next_tag.wrapping_add(above)));
        let tag = numbers.find(|tag| self.name_of(*tag).is_none())?;
        self.next_tag = tag.0.wrapping_add(1);
        self.tags.push((peer.clone(), tag));
        Some(tag)
    }

    fn tag_of(&self, peer: &PeerName) -> Option<PeerTag> {
        let mut tags = self.tags.iter();
        tags.find(|(name, _)| name == peer).map(|(_, tag)| *tag)
    }

    fn name_of(&self, tag: PeerTag) -> Option<&PeerName> {
        let mut tags = self.tags.iter();
        tags.find(|(_, of)| *of == tag).map(|(name, _)| name)
    }

    /// Peers that are gone are not probed, and their numbers are free.
    fn retain(&mut self, now: Instant, known: impl Fn(&PeerName) -> bool) {
        self.tags.retain(|(name, _)| known(name));
        let targets = self.prover.targets();
        let gone = targets.filter(|target| self.name_of(target.tag).is_none());
        let gone: Vec<Target> = gone.copied().collect();
        for target in gone {
            self.prover.forget(now, target);
        }
    }
}

impl Core {
    /// Compares what is probed with what is announced, and emits the prover's outputs. Runs at the end of every input.
    pub(super) fn update_path_proofs(&mut self, now: Instant) {
        let changed = self.peers.take_routes_changed();
        self.path_proofs.queue.extend(changed);
        let stale =
            self.peers.take_sessions_changed() | std::mem::take(&mut self.path_proofs.stale);
        if stale {
            let peers = &self.peers;
            self.path_proofs.retain(now, |name| peers.has(name));
            let vips = self.registry.vips();
            self.path_proofs.queue.extend(vips);
        }
        for vip in std::mem::take(&mut self.path_proofs.queue) {
            self.update_path_proof(now, vip);
        }
        while let Some(output) = self.path_proofs.prover.poll_output() {
            self.outputs.push_back(Output::PathProof(output));
        }
        while let Some(change) = self.path_proofs.prover.poll_change() {
            self.note_path_change(change.target, change.what);
        }
    }

    fn update_path_proof(&mut self, now: Instant, vip: Prefix) {
        let Some(network) = &self.network else { return };
        let proofs = &mut self.path_proofs;
        for (peer, announced) in self.peers.announced_to(vip.addr()) {
            let known = proofs.tag_of(peer);
            let (tag, prefix) = match announced {
                Announced::Yes(longest) => (proofs.tag(peer), longest),
                Announced::No | Announced::NoSession => (known, vip),
            };
            let Some(tag) = tag else { continue };
            let target = Target {
                vip: vip.addr(),
                tag,
            };
            let setting = self.registry.path_proof(&prefix);
            match (announced, setting.map(|setting| setting.probing())) {
                (Announced::NoSession, _) | (_, Some(None)) => proofs.prover.forget(now, target),
                (Announced::Yes(_), Some(Some(probing))) => {
                    let way = self.peers.way(peer, vip.family(), network, probing);
                    proofs.prover.announced(now, target, way);
                }
                // Its app is gone, and the route will be.
                (Announced::Yes(_), None) => {}
                (Announced::No, _) => proofs.prover.withdrawn(now, target),
            }
        }
    }

    fn note_path_change(&mut self, target: Target, what: ChangeKind) {
        let proofs = &mut self.path_proofs;
        let vip = target.vip;
        let Some(peer) = proofs.name_of(target.tag) else {
            return;
        };
        match what {
            ChangeKind::Forwarded(after) => {
                debug!("peer {peer}: path of {vip}: forwarded after {after:?}");
                proofs.times.add(after);
            }
            ChangeKind::Stopped(after) => {
                debug!("peer {peer}: path of {vip}: no longer forwarded after {after:?}");
            }
            ChangeKind::Finding => {
                self.status_changed = true;
                let Some(proof) = proofs.prover.proof(&target) else {
                    return;
                };
                match &proof.finding {
                    Finding::No(_) => warn!("peer {peer}: path of {vip}: {proof}"),
                    Finding::Elsewhere | Finding::NotSeen => {
                        info!("peer {peer}: path of {vip}: {proof}");
                    }
                    _ => debug!("peer {peer}: path of {vip}: {proof}"),
                }
                let denied = proof.finding == Finding::Unknown(Unproven::NoPermission);
                if denied && !proofs.warned && self.asks_for_path_proof() {
                    self.path_proofs.warned = true;
                    warn!(
                        "path_proof is set, but the process has no CAP_NET_ADMIN: nothing is proven"
                    );
                }
            }
        }
    }

    /// Whether the operator has written how paths are to be proven.
    fn asks_for_path_proof(&self) -> bool {
        let on = |setting: &PathProof| matches!(setting, PathProof::On(_));
        let mut apps = self.config.apps.iter();
        on(&self.config.agent.path_proof) || apps.any(|app| on(&app.options.path_proof))
    }

    /// What probes show of a VIP, for each peer that has its route.
    pub(super) fn path_views(&self, vip: &Prefix) -> Vec<PathView> {
        let proofs = &self.path_proofs;
        let view = |(peer, tag): &(PeerName, PeerTag)| {
            // Another VIP with this address may have its route still.
            if !self.peers.is_announced_to(peer, vip) {
                return None;
            }
            let vip = vip.addr();
            let proof = proofs.prover.proof(&Target { vip, tag: *tag })?;
            let peer = peer.clone();
            Some(PathView { peer, proof })
        };
        proofs.tags.iter().filter_map(view).collect()
    }

    /// Whether probes to a VIP still come back from any router, also after its withdrawal; `None`: that is not
    /// known.
    pub fn path_returns(&self, vip: &Prefix) -> Option<bool> {
        self.path_proofs.prover.returns(vip.addr())
    }

    /// When the last router stopped forwarding a withdrawn VIP to this host; `None`: one still does, or that is not
    /// known.
    pub fn path_stopped_at(&self, vip: &Prefix) -> Option<Instant> {
        self.path_proofs.prover.stopped_at(vip.addr())
    }

    /// How long routers took to forward after announcements.
    pub fn forwarding_times(&self) -> ForwardingTimes {
        self.path_proofs.times
    }
}
