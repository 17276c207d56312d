//! The probes of one target: which were sent, which came back, and what that shows.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Egress, Finding, PathError, Proof, Refusal, Unproven};
use crate::app::Probing;

/// Where a target's probes leave, and how it is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub probing: Probing,
    pub egress: Result<Egress, Unproven>,
    /// The peer is behind the gateway, not the gateway itself.
    pub by_first_hop: bool,
}

/// One target.
#[derive(Debug)]
pub(super) struct Probed {
    pub way: Way,
    pub stage: Stage,
    /// Its route is withdrawn: it is probed to see that the router stops.
    pub withdrawn: bool,
    /// Since when it is announced, or withdrawn.
    pub since: Instant,
    pub counted: Counted,
    /// Why the last probe did not leave, or proves nothing.
    pub obstacle: Option<Unproven>,
    /// It is not probed until then.
    pub held_until: Option<Instant>,
    /// From the announcement to the first probe that came back.
    pub forwarded_after: Option<Duration>,
    /// When the first probe that did not come back after the withdrawal was sent.
    pub stopped_at: Option<Instant>,
    /// A full round is under way.
    pub rounding: bool,
    /// The last probes call for a full round.
    pub round_wanted: bool,
    /// The name of the finding that the last change reported.
    pub shown: &'static str,
    /// Enough time has passed since the announcement to judge a target from which no probe came back.
    pub overdue: bool,
    /// Probes so far, from which the next source port follows.
    turn: u16,
    /// Batches passed to the shell and not yet answered by it: number of probes, token.
    handed_out: VecDeque<(u32, u64)>,
    /// Probes handed out since the counter was made, less those that did not leave.
    sent: u64,
    /// Of the kernel's counter.
    returned: u64,
    /// Sent and not judged, oldest first.
    pending: VecDeque<Sent>,
    /// Came back before the shell reported them as sent.
    early: u32,
    /// The last probes, oldest first; `true` came back.
    outcomes: VecDeque<bool>,
    /// When the first probe that came back was sent; reset with the outcomes.
    first_back: Option<Instant>,
    /// Lost in a row, and when the first of these left.
    quiet: u32,
    quiet_since: Option<Instant>,
    /// Totals of the kernel's, by sender, type and code.
    errors: BTreeMap<(IpAddr, u8, u8), u64>,
    refusal: Option<(Refusal, u32)>,
    /// Outcomes since an error of another holder of the VIP.
    elsewhere: Option<u32>,
}

/// Probes that left together.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Instant,
    probes: u32,
    returned: u32,
}

/// When the next probe is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// At growing gaps after an announcement or a withdrawal.
    Burst { gap: Duration },
    /// Once each interval.
    Rotation,
    /// It was withdrawn, and probes no longer come back.
    Gone,
}

/// Whether the kernel counts what comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    No,
    Asked,
    Yes,
}

impl Probed {
    /// Announced now; nothing is sent yet.
    pub fn new(now: Instant, way: Way, stage: Stage) -> Self {
        Self {
            way,
            stage,
            withdrawn: false,
            since: now,
            counted: Counted::No,
            obstacle: None,
            held_until: None,
            forwarded_after: None,
            stopped_at: None,
            rounding: false,
            round_wanted: false,
            shown: "",
            overdue: false,
            turn: 0,
            handed_out: VecDeque::new(),
            sent: 0,
            returned: 0,
            pending: VecDeque::new(),
            early: 0,
            outcomes: VecDeque::new(),
            first_back: None,
            quiet: 0,
            quiet_since: None,
            errors: BTreeMap::new(),
            refusal: None,
            elsewhere: None,
        }
    }

    /// Announced again, or withdrawn.
    pub fn enter(&mut self, now: Instant, withdrawn: bool, stage: Stage) {
        (self.withdrawn, self.since, self.stage) = (withdrawn, now, stage);
        self.forget_outcomes();
        self.stopped_at = None;
        if !withdrawn {
            self.forwarded_after = None;
        }
    }

    /// Drops all results, since the target, its stage or its way has changed.
    pub fn forget_outcomes(&mut self) {
        self.outcomes.clear();
        (self.first_back, self.quiet_since, self.quiet) = (None, None, 0);
        (self.refusal, self.elsewhere) = (None, None);
        (self.overdue, self.round_wanted) = (false, false);
    }

    /// More came back than were sent: it is probed again after that time, when nothing tells how long routers took.
    pub fn exceeded(&mut self, held_until: Instant) {
        self.forget_outcomes();
        self.stage = Stage::Rotation;
        self.obstacle = Some(Unproven::Excess);
        self.held_until = Some(held_until);
    }

    /// Drops probes sent before the router had the route, which do not count for the share.
    pub fn forget_before_first(&mut self) {
        self.pending.clear();
        self.outcomes.retain(|back| *back);
    }

    /// The kernel's counter is made anew, from 0: what is under way is not seen any more.
    pub fn counter_reset(&mut self, counted: Counted) {
        self.counted = counted;
        (self.sent, self.returned, self.early) = (0, 0, 0);
        self.errors.clear();
        self.pending.clear();
        self.rounding = false;
    }

    /// The source ports of the next probes, in turn.
    pub fn next_ports(&mut self, first: u16, probes: u16) -> Vec<u16> {
        let of = self.way.probing.probes;
        let turn = self.turn;
        self.turn = turn.wrapping_add(probes) % of;
        (0..probes)
            .map(|n| first + turn.wrapping_add(n) % of)
            .collect()
    }

    /// Probes are handed to the shell.
    pub fn hand_out(&mut self, probes: u16, token: u64) {
        self.handed_out.push_back((probes.into(), token));
        self.sent += u64::from(probes);
    }

    /// The shell's answer: so many have left, or none.
    pub fn note_sent(&mut self, now: Instant, token: u64, result: Result<u32, Unproven>) {
        let Some((asked, with)) = self.handed_out.pop_front() else {
            return;
        };
        // What left before the counter was made is not seen.
        if with != token || self.counted != Counted::Yes {
            return;
        }
        let left = result.as_ref().map_or(0, |left| *left).min(asked);
        self.sent = self.sent.saturating_sub(u64::from(asked - left));
        match result {
            Ok(_) => self.obstacle = None,
            Err(why) => {
                self.obstacle = Some(why);
                self.forget_outcomes();
            }
        }
        self.rounding &= left > 0 || !self.pending.is_empty();
        if left > 0 {
            self.pending.push_back(Sent {
                at: now,
                probes: left,
                returned: 0,
            });
        }
        let early = std::mem::take(&mut self.early);
        self.came_back(early);
    }

    /// The kernel's counter. `false`: more came back than were sent.
    pub fn note_returned(&mut self, total: u64) -> bool {
        let new = total.saturating_sub(self.returned);
        self.returned = total;
        if total > self.sent {
            return false;
        }
        self.came_back(u32::try_from(new).unwrap_or(u32::MAX));
        true
    }

    /// Attributes returns to the newest probes: older ones may have been sent before the router had the route.
    fn came_back(&mut self, mut probes: u32) {
        let open = |sent: &&mut Sent| sent.returned < sent.probes;
        while probes > 0
            && let Some(sent) = self.pending.iter_mut().rev().find(open)
        {
            let new = probes.min(sent.probes - sent.returned);
            sent.returned += new;
            probes -= new;
            let first = self.first_back.get_or_insert(sent.at);
            *first = (*first).min(sent.at);
        }
        if !self.handed_out.is_empty() {
            self.early = self.early.saturating_add(probes);
            return;
        }
        // These came back later than [`LOST_AFTER`] and were judged lost.
        let lost = self.outcomes.iter_mut().rev().filter(|back| !**back);
        lost.take(usize::try_from(probes).unwrap_or(usize::MAX))
            .for_each(|back| *back = true);
    }

    /// At a reading of the counters: judges what is back, and what was sent [`LOST_AFTER`] before it.
    pub fn settle(&mut self, read: Instant) {
        let judged = |sent: &Sent| sent.returned == sent.probes || sent.at + LOST_AFTER <= read;
        let (judged, pending): (VecDeque<Sent>, VecDeque<Sent>) =
            self.pending.iter().partition(|sent| judged(sent));
        self.pending = pending;
        for sent in judged {
            // Spread evenly, so that the share stays the same as the oldest outcomes go.
            let back = |number: u32| number * sent.returned / sent.probes;
            (0..sent.probes)
                .for_each(|number| self.record(back(number) < back(number + 1), sent.at));
        }
        self.rounding &= !self.pending.is_empty() || !self.handed_out.is_empty();
    }

    fn record(&mut self, back: bool, sent_at: Instant) {
        let full = self.is_full();
        let returned = self.returned_of_last();
        let turned = match back {
            true => returned == 0,
            false => returned == self.outcomes.len(),
        };
        self.round_wanted |= !self.rounding && (turned || !full);
        if full {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back(back);
        if back {
            (self.quiet, self.quiet_since) = (0, None);
        } else {
            self.quiet = self.quiet.saturating_add(1);
            self.quiet_since.get_or_insert(sent_at);
        }
        let refusal = self.refusal.as_mut().map(|(_, age)| age);
        for age in [refusal, self.elsewhere.as_mut()].into_iter().flatten() {
            *age = age.saturating_add(1);
        }
    }

    /// The kernel's count of one kind of errors.
    pub fn note_error(&mut self, vip: IpAddr, error: &PathError) {
        let Some(refusal) = Refusal::of(error.from, error.kind, error.code) else {
            return;
        };
        let key = (error.from, error.kind, error.code);
        let others = self.errors.keys();
        let others = others.filter(|(from, ..)| !self.always_kept(vip, *from));
        if !self.always_kept(vip, error.from)
            && !self.errors.contains_key(&key)
            && others.count() >= MOST_ERRORS
        {
            return;
        }
        let before = self.errors.insert(key, error.count).unwrap_or(0);
        // The kernel drops the count of an error that did not recur for long, and starts again at 0.
        if error.count == before {
            return;
        }
        match error.from == vip {
            true => self.elsewhere = Some(0),
            false => self.refusal = Some((refusal, 0)),
        }
    }

    /// The errors of the router that is asked, and of another holder of the VIP, have a place of their own.
    fn always_kept(&self, vip: IpAddr, from: IpAddr) -> bool {
        let gateway = self.way.egress.as_ref().map(|egress| egress.gateway);
        from == vip || gateway == Ok(from)
    }

    /// A probe is under way.
    pub fn is_awaited(&self) -> bool {
        !self.pending.is_empty()
    }

    /// When the oldest probe under way counts as lost.
    pub fn lost_at(&self) -> Option<Instant> {
        self.pending.front().map(|sent| sent.at + LOST_AFTER)
    }

    /// When the first probe that came back was sent.
    pub fn first_back(&self) -> Option<Instant> {
        self.first_back
    }

    /// Since when a full set of probes was lost.
    pub fn lost_since(&self) -> Option<Instant> {
        let enough = self.quiet >= self.way.probing.probes.into();
        self.quiet_since.filter(|_| enough)
    }

    /// The number of probes of a verdict are known.
    pub fn is_full(&self) -> bool {
        self.outcomes.len() >= usize::from(self.way.probing.probes)
    }

    fn returned_of_last(&self) -> usize {
        self.outcomes.iter().filter(|back| **back).count()
    }

    /// A full set of probes is lost, before its router can be expected to forward.
    pub fn is_premature(&self) -> bool {
        self.is_full() && self.returned_of_last() == 0 && !self.overdue
    }

    /// Probes come back, or do not; `None`: nothing is known.
    pub fn returns(&self) -> Option<bool> {
        if self.counted != Counted::Yes || self.obstacle.is_some() || self.way.egress.is_err() {
            return None;
        }
        match (self.stage, self.withdrawn) {
            (Stage::Gone, _) => Some(false),
            (_, true) => Some(true),
            _ if self.returned_of_last() > 0 => Some(true),
            _ => self.is_full().then_some(false),
        }
    }

    /// Changes how many probes a verdict needs.
    pub fn set_probing(&mut self, probing: Probing) {
        self.way.probing = probing;
        while self.outcomes.len() > usize::from(probing.probes) {
            self.outcomes.pop_front();
        }
    }

    /// `denied`: why the kernel counts nothing at all.
    pub fn proof(&self, denied: Option<&Unproven>, stretched: Option<Duration>) -> Proof {
        let returned = self.returned_of_last();
        let egress = self.way.egress.as_ref();
        let unknown = egress.err().or(denied).or(self.obstacle.as_ref());
        let finding = match unknown {
            Some(why) => Finding::Unknown(why.clone()),
            None => self.finding(returned),
        };
        let hop = egress.ok().map(|egress| egress.gateway);
        Proof {
            finding,
            returned,
            probes: self.outcomes.len(),
            first_hop: hop.filter(|_| self.way.by_first_hop),
            stretched,
            forwarded_after: self.forwarded_after,
        }
    }

    fn finding(&self, returned: usize) -> Finding {
        let probes = self.outcomes.len();
        if returned == 0 && (!self.is_full() || !self.overdue) {
            return Finding::Unknown(Unproven::Starting);
        }
        // Routers rate-limit ICMP errors: one is valid for two rounds.
        let recent = |age: u32| age <= 2 * u32::from(self.way.probing.probes);
        match (returned, self.refusal) {
            _ if returned == probes => Finding::Yes,
            (1.., _) => Finding::Partly,
            _ if self.elsewhere.is_some_and(recent) => Finding::Elsewhere,
            (0, Some((refusal, age))) if recent(age) => Finding::No(refusal),
            _ => Finding::NotSeen,
        }
    }
}

/// A probe that is not back by then is lost.
pub(super) const LOST_AFTER: Duration = Duration::from_secs(1);
/// Errors kept of other senders, by sender, type and code: any host on the path can send more.
const MOST_ERRORS: usize = 16;
