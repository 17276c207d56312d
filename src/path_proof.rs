//! Proof of the path: a packet sent to a VIP of ours by way of a router comes back if the router forwards to us.
//!
//! The machine decides what is sent when, and what the answers mean. After an announcement probes leave at growing
//! gaps until the first comes back; a full round then measures the share that comes back. From then on the rotation sends
//! one probe for each VIP and peer in an interval; a contradicting result starts a full round at once. Each interface
//! has a rate limit.
//! The kernel counts what comes back, by VIP and peer, as no socket sees it: to the host it is a packet with its own
//! source (a martian). Not proven: what is behind the router, and other flows through ECMP.

mod answers;
mod counting;
mod link;
mod probed;
mod proof;
mod types;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::timer::{Deadlines, EarliestDeadline, Rng, next_multiple};
use counting::Counting;
use link::{Link, SOON, Turn};
use probed::{Counted, Probed, Stage};

pub use probed::Way;
pub use proof::{Finding, Proof, Refusal, RefusalReason, Unproven};
pub use types::{CountError, Egress, Event, Output, PathError, PeerTag, SendError, Target};

/// Proves the paths to all targets.
#[derive(Debug)]
pub struct Prover {
    /// The rotation's probes leave at whole intervals since then, so that they share wakes with each other, with checks of ports
    /// and with the resync.
    start: Instant,
    rng: Rng,
    token: u64,
    /// When the token was last taken anew.
    renewed_at: Option<Instant>,
    /// The first of the source ports.
    source_port: u16,
    /// Boxed: a node of the map has room for eleven.
    targets: BTreeMap<Target, Box<Probed>>,
    /// By interface index.
    links: BTreeMap<u32, Link>,
    /// Targets whose probes leave at growing gaps.
    bursts: BTreeSet<Target>,
    /// Their next probes, when withdrawn targets are dropped, and when those that are held are probed again.
    steps: Deadlines<Target>,
    /// Targets with a probe under way.
    awaited: BTreeSet<Target>,
    counting: Counting,
    reading: Reading,
    outputs: VecDeque<Output>,
    changes: VecDeque<Change>,
}

/// When the counters are read.
#[derive(Debug, Default)]
struct Reading {
    at: Option<Instant>,
    /// Not answered yet.
    asked: Option<Instant>,
    /// To be read once more after that.
    again: bool,
}

/// What has become known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub target: Target,
    pub what: ChangeKind,
}

/// The kinds of that; durations are since the announcement or the withdrawal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// The first probe that came back was sent then.
    Forwarded(Duration),
    /// From then on no probe came back.
    Stopped(Duration),
    /// [`Prover::proof`] has another finding.
    Finding,
}

impl Prover {
    /// No targets yet; the seed makes token and source ports.
    pub fn new(now: Instant, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let above = u16::try_from(rng.below(SOURCE_PORTS)).unwrap_or(0);
        Self {
            start: now,
            token: rng.next_u64(),
            renewed_at: None,
            rng,
            source_port: FIRST_SOURCE_PORT + above,
            targets: BTreeMap::new(),
            links: BTreeMap::new(),
            bursts: BTreeSet::new(),
            steps: Deadlines::default(),
            awaited: BTreeSet::new(),
            counting: Counting::default(),
            reading: Reading::default(),
            outputs: VecDeque::new(),
            changes: VecDeque::new(),
        }
    }

    /// The target is announced and probed by `way`. Without effect if that is unchanged.
    pub fn announced(&mut self, now: Instant, target: Target, way: Way) {
        match self.targets.get(&target) {
            None => {
                let stage = self.first_stage(&target);
                let probed = Probed::new(now, way, stage);
                self.targets.insert(target, Box::new(probed));
                self.begin(now, target);
            }
            Some(probed) if probed.way == way && !probed.withdrawn => return,
            Some(probed) => {
                let other_way = probed.way.egress != way.egress;
                let other_port = probed.way.probing.port != way.probing.port;
                let withdrawn = probed.withdrawn;
                self.stop_sending(&target);
                if other_port {
                    self.uncount(&target);
                }
                let stage = match withdrawn {
                    true => self.first_stage(&target),
                    false => Stage::Rotation,
                };
                let Some(probed) = self.targets.get_mut(&target) else {
                    return;
                };
                if withdrawn {
                    probed.enter(now, false, stage);
                } else if other_way {
                    probed.forget_outcomes();
                    (probed.stage, probed.obstacle, probed.held_until) = (stage, None, None);
                }
                probed.set_probing(way.probing);
                probed.way = way;
                self.begin(now, target);
            }
        }
        self.note_finding(&target);
        self.advance(now);
    }

    /// The target's route is withdrawn: probes leave until none comes back any more.
    pub fn withdrawn(&mut self, now: Instant, target: Target) {
        let Some(probed) = self.targets.get(&target).filter(|probed| !probed.withdrawn) else {
            return;
        };
        let never = probed.returns() == Some(false);
        let stage = if never {
            Stage::Gone
        } else {
            self.first_stage(&target)
        };
        if probed.counted != Counted::Yes || probed.way.egress.is_err() || stage == Stage::Rotation
        {
            return self.forget(now, target);
        }
        self.stop_sending(&target);
        if let Some(probed) = self.targets.get_mut(&target) {
            probed.enter(now, true, stage);
        }
        match stage {
            Stage::Gone => self.gone(now, target, Duration::ZERO),
            Stage::Burst { .. } | Stage::Rotation => self.begin(now, target),
        }
        self.advance(now);
    }

    /// Stops probing a target, announced or withdrawn.
    pub fn forget(&mut self, now: Instant, target: Target) {
        if self.targets.contains_key(&target) {
            self.stop_sending(&target);
            self.uncount(&target);
            self.targets.remove(&target);
            self.awaited.remove(&target);
            if self.awaited.is_empty() {
                self.reading.at = None;
            }
            self.advance(now);
        }
    }

    /// All targets, announced and withdrawn.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.targets.keys()
    }

    /// What is known of a target; `None`: it is not announced, or not probed.
    pub fn proof(&self, target: &Target) -> Option<Proof> {
        let probed = self
            .targets
            .get(target)
            .filter(|probed| !probed.withdrawn)?;
        let egress = probed.way.egress.as_ref().ok();
        let link = egress.and_then(|egress| self.links.get(&egress.interface));
        let stretched = link.and_then(|link| link.stretched(probed.way.probing.interval));
        Some(probed.proof(self.counting.denied(), stretched))
    }

    /// Whether probes to a VIP still come back from any peer, also after its withdrawal; `None`: that is not known.
    pub fn returns(&self, vip: IpAddr) -> Option<bool> {
        let known = self.targets.range(all_of(vip));
        known.filter_map(|(_, probed)| probed.returns()).max()
    }

    /// When the last peer stopped forwarding a withdrawn VIP; `None`: one still does, or that is not known.
    pub fn stopped_at(&self, vip: IpAddr) -> Option<Instant> {
        let known = self.targets.range(all_of(vip));
        let at = known.map(|(_, probed)| probed.stopped_at);
        // `None` is less than any.
        let (least, most) = (at.clone().min()?, at.max()?);
        least.and(most)
    }

    /// Handles an answer.
    pub fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Counting(result) => self.counting_answered(now, result),
            Event::Sent { target, result } => {
                if let Some(probed) = self.targets.get_mut(&target) {
                    let result = result.map_err(Unproven::from);
                    probed.note_sent(now, self.token, result);
                    self.judge(now, &target);
                    self.await_returns(now, &target, true);
                }
            }
            Event::Uncounted(error) => {
                self.reading.asked = None;
                self.counting.fail(now, error);
                self.uncount_all(now);
            }
            Event::Counters { returned, errors } => self.counters(now, &returned, &errors),
        }
        self.advance(now);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self
            .reading
            .asked
            .is_some_and(|at| at + READ_TIMEOUT <= now)
        {
            self.reading.asked = None;
        }
        if self.counting.retry(now) {
            let targets: Vec<Target> = self.targets.keys().copied().collect();
            for target in targets {
                self.begin(now, target);
                self.note_finding(&target);
            }
        }
        let mut due = Vec::new();
        while let Some(target) = self.steps.pop_due(now) {
            due.push(target);
        }
        // What came back since the last probe is to be seen before the next one leaves.
        if due.iter().any(|target| self.awaited.contains(target)) {
            self.read(now);
        }
        for target in due {
            self.step(now, target);
        }
        self.advance(now);
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let mut earliest = EarliestDeadline::new();
        earliest.add(self.steps.first(), ());
        earliest.add(self.counting.poll_timeout(), ());
        match self.reading.asked {
            Some(asked) => earliest.add(Some(asked + READ_TIMEOUT), ()),
            None => earliest.add(self.reading.at, ()),
        }
        for link in self.links.values() {
            earliest.add(link.poll_timeout(), ());
        }
        earliest.get().map(|(at, ())| at)
    }

    /// What is to be done next. Counters to add and to remove come last: one batch of them for everything that was
    /// announced and withdrawn meanwhile, since each batch is a transaction of the kernel.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            self.request_counters();
        }
        let next = self.outputs.pop_front();
        if next.is_none() {
            self.outputs.shrink_to(KEPT_OUTPUTS);
        }
        next
    }

    /// The next change.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }
}

/// What is sent when.
impl Prover {
    /// Few VIPs at a time are probed at growing gaps.
    fn first_stage(&self, target: &Target) -> Stage {
        let others: BTreeSet<IpAddr> = self.bursts.iter().map(|target| target.vip).collect();
        match others.contains(&target.vip) || others.len() < MOST_BURSTS {
            true => Stage::Burst { gap: FIRST_GAP },
            false => Stage::Rotation,
        }
    }

    /// Probes leave from now on, once the kernel counts them.
    fn begin(&mut self, now: Instant, target: Target) {
        let Some(probed) = self.targets.get_mut(&target) else {
            return;
        };
        let Ok(egress) = &probed.way.egress else {
            return;
        };
        if let Some(until) = probed.held_until.filter(|until| *until > now) {
            return self.steps.set(target, Some(until));
        }
        probed.held_until = None;
        let link = self.links.entry(egress.interface).or_default();
        if matches!(probed.stage, Stage::Burst { .. }) {
            self.bursts.insert(target);
        }
        match (probed.counted, probed.stage) {
            (Counted::Asked, _) => {}
            (Counted::No, _) => self.counting.add(target, probed.way.probing.port),
            (Counted::Yes, Stage::Burst { .. }) => self.steps.set(target, Some(now)),
            (Counted::Yes, Stage::Rotation) => {
                if probed.is_premature() {
                    let at = probed.since + VERDICT_AFTER;
                    self.steps.set(target, Some(at.max(now)));
                }
                if std::mem::take(&mut probed.round_wanted) {
                    link.rounds.insert(target);
                }
                let next = next_multiple(self.start, now, probed.way.probing.interval);
                match probed.is_full() {
                    true => link.rotation.set(target, Some(next)),
                    false => link.firsts.set(target, Some(now + FIRST_TURN)),
                }
            }
            (Counted::Yes, Stage::Gone) => {}
        }
    }

    /// No probe of this target leaves until it begins again.
    fn stop_sending(&mut self, target: &Target) {
        self.bursts.remove(target);
        self.steps.set(*target, None);
        if let Some(link) = self.link(target) {
            link.remove(target);
        }
    }

    fn link(&mut self, target: &Target) -> Option<&mut Link> {
        let egress = self.targets.get(target)?.way.egress.as_ref().ok()?;
        self.links.get_mut(&egress.interface)
    }

    fn uncount(&mut self, target: &Target) {
        if let Some(probed) = self.targets.get_mut(target) {
            let counted = probed.counted != Counted::No;
            probed.counter_reset(Counted::No);
            self.counting
                .remove(*target, probed.way.probing.port, counted);
        }
    }

    /// The next probe at growing gaps, or the end of that.
    fn step(&mut self, now: Instant, target: Target) {
        let Some(probed) = self.targets.get_mut(&target) else {
            return;
        };
        let age = now.saturating_duration_since(probed.since);
        let gap = match probed.stage {
            Stage::Burst { gap } => gap,
            Stage::Gone => return self.forget(now, target),
            Stage::Rotation if probed.is_premature() => {
                probed.forget_outcomes();
                if let Some(link) = self.link(&target) {
                    link.rounds.insert(target);
                }
                return;
            }
            Stage::Rotation => return self.begin(now, target),
        };
        if probed.withdrawn && age >= WITHDRAWN_FOR {
            return self.forget(now, target);
        }
        if gap > LONGEST_GAP && !probed.withdrawn {
            return self.enter_rotation(now, target, false);
        }
        let gap = gap.min(LONGEST_GAP);
        let next = Stage::Burst { gap: gap * 5 / 4 };
        let Some(link) = self.link(&target) else {
            return;
        };
        if !link.limit.take(now, 1) {
            let at = link.limit.ready_at(now, SOON);
            return self.steps.set(target, Some(at));
        }
        if let Some(probed) = self.targets.get_mut(&target) {
            probed.stage = next;
        }
        self.send(target, 1);
        self.steps.set(target, Some(now + gap));
    }

    /// From growing gaps to one probe in an interval; `round`: a full round first.
    fn enter_rotation(&mut self, now: Instant, target: Target, round: bool) {
        self.stop_sending(&target);
        let start = self.start;
        let Some(probed) = self.targets.get_mut(&target) else {
            return;
        };
        (probed.stage, probed.round_wanted) = (Stage::Rotation, round);
        let next = next_multiple(start, now, probed.way.probing.interval);
        if let Some(link) = self.link(&target) {
            link.rotation.set(target, Some(next));
        }
        self.judge(now, &target);
        self.await_returns(now, &target, false);
    }

    /// Probes no longer come back.
    fn gone(&mut self, now: Instant, target: Target, after: Duration) {
        self.stop_sending(&target);
        if let Some(probed) = self.targets.get_mut(&target) {
            probed.stage = Stage::Gone;
            probed.stopped_at = Some(probed.since + after);
            self.steps.set(target, Some(now + GONE_KEPT));
            self.changes.push_back(Change {
                target,
                what: ChangeKind::Stopped(after),
            });
        }
    }

    /// Hands probes to the shell.
    fn send(&mut self, target: Target, probes: u16) {
        let Some(probed) = self.targets.get_mut(&target) else {
            return;
        };
        if let Ok(egress) = &probed.way.egress {
            let egress = egress.clone();
            let source_ports = probed.next_ports(self.source_port, probes);
            probed.hand_out(probes, self.token);
            self.outputs.push_back(Output::Send {
                target,
                egress,
                token: self.token,
                port: probed.way.probing.port,
                ttl: TTL,
                source_ports,
            });
        }
    }

    /// Sends what is due and what the limits allow, and reads the kernel's counters.
    fn advance(&mut self, now: Instant) {
        let interfaces: Vec<u32> = self.links.keys().copied().collect();
        for interface in interfaces {
            self.serve(now, interface);
        }
        self.drop_unused_links(now);
        if self.reading.at.is_some_and(|at| at <= now) {
            self.read(now);
        }
    }

    /// Updates the kernel's counters.
    fn request_counters(&mut self) {
        let left = self.targets.len();
        let (batches, asked) = self.counting.flush(self.token, left);
        self.outputs.extend(batches);
        for target in asked {
            if let Some(probed) = self.targets.get_mut(&target) {
                probed.counter_reset(Counted::Asked);
            }
        }
    }

    /// A link by which no target leaves is kept only while its limit remembers what it has sent.
    fn drop_unused_links(&mut self, now: Instant) {
        let targets = &self.targets;
        let leaves_by = |probed: &Probed, interface: u32| {
            let egress = probed.way.egress.as_ref();
            egress.is_ok_and(|egress| egress.interface == interface)
        };
        self.links.retain(|interface, link| {
            !link.is_idle(now) || targets.values().any(|probed| leaves_by(probed, *interface))
        });
    }

    /// First probes, then full rounds, then the rotation.
    fn serve(&mut self, now: Instant, interface: u32) {
        let start = self.start;
        let Some(mut link) = self.links.remove(&interface) else {
            return;
        };
        let ready = link.held_until.is_none_or(|at| at <= now);
        while ready && let Some((target, turn)) = link.next_due(now) {
            let probed = self.targets.get_mut(&target);
            let Some(probed) = probed.filter(|probed| probed.counted == Counted::Yes) else {
                link.done(&target, turn, None);
                continue;
            };
            let probing = probed.way.probing;
            let probes = match turn {
                Turn::Round => probing.probes,
                // A round that is under way includes the rotation's probe.
                Turn::First | Turn::Rotation => u16::from(!probed.rounding),
            };
            if !link.limit.take(now, probes.into()) {
                let batch = turn.batch().max(probes.into());
                link.held_until = Some(link.limit.ready_at(now, batch));
                break;
            }
            link.held_until = None;
            probed.rounding |= turn == Turn::Round;
            let next = next_multiple(start, now, probing.interval);
            link.done(&target, turn, Some(next));
            if probes > 0 {
                self.send(target, probes);
            }
        }
        self.links.insert(interface, link);
    }
}

/// The targets of a VIP.
fn all_of(vip: IpAddr) -> RangeInclusive<Target> {
    let target = |tag| Target {
        vip,
        tag: PeerTag(tag),
    };
    target(0)..=target(u16::MAX)
}

/// VIPs probed at growing gaps at the same time.
const MOST_BURSTS: usize = 16;
/// The gap between the first two probes grows by a quarter each, up to the longest.
const FIRST_GAP: Duration = Duration::from_millis(5);
const LONGEST_GAP: Duration = Duration::from_secs(5);
/// Routers are given so long before none of the probes counts against them.
const VERDICT_AFTER: Duration = Duration::from_secs(5);
/// When the first probe of the rotation leaves, after the announcement.
const FIRST_TURN: Duration = Duration::from_secs(1);
/// The delay before the kernel is asked again to count, before a path that proved nothing is, and before another token.
const RETRY: Duration = Duration::from_secs(60);
/// How long the shell may take to read the counters.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long probes are sent to a withdrawn VIP while they come back.
const WITHDRAWN_FOR: Duration = Duration::from_secs(300);
/// How long the result is kept once they no longer do.
const GONE_KEPT: Duration = Duration::from_secs(60);
/// Hops: a loop between routers does not multiply a probe.
const TTL: u8 = 3;
/// Source ports are in the upper part of the dynamic ones (RFC 6335 §6), above the kernel's own choice.
const FIRST_SOURCE_PORT: u16 = 61_000;
const SOURCE_PORTS: u64 = 4_000;
/// The capacity that an empty queue keeps: the first probes of a thousand VIPs are sent at once.
const KEPT_OUTPUTS: usize = 16;

#[cfg(test)]
mod tests;
