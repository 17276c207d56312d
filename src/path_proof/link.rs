//! The probes sent by one interface, and their rate limit.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Target;
use crate::timer::Deadlines;

/// One interface: its limit, and the targets whose probes leave by it.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub limit: RateLimit,
    /// The first probe of a target of which nothing is known yet.
    pub firsts: Deadlines<Target>,
    /// A full round is to be sent.
    pub rounds: BTreeSet<Target>,
    /// One probe each is due.
    pub rotation: Deadlines<Target>,
    /// The limit holds back what is due until then.
    pub held_until: Option<Instant>,
}

/// What a target is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Its first probe.
    First,
    /// A full round.
    Round,
    /// The next probe of the rotation.
    Rotation,
}

impl Turn {
    /// How many packets the limit must allow before turns that it held back go on.
    pub fn batch(self) -> u32 {
        match self {
            Self::First => SOON,
            Self::Round | Self::Rotation => BATCH,
        }
    }
}

impl Link {
    /// When something can be sent. Rounds wait for nothing but the limit.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.rounds.is_empty() && self.held_until.is_some() {
            return self.held_until;
        }
        let due = [self.firsts.first(), self.rotation.first()];
        let first = due.into_iter().flatten().min()?;
        Some(self.held_until.map_or(first, |held| first.max(held)))
    }

    /// What is to be sent first.
    pub fn next_due(&self, now: Instant) -> Option<(Target, Turn)> {
        if let Some((_, target)) = self.firsts.peek().filter(|(at, _)| *at <= now) {
            return Some((*target, Turn::First));
        }
        if let Some(target) = self.rounds.first() {
            return Some((*target, Turn::Round));
        }
        let (at, target) = self.rotation.peek()?;
        (at <= now).then_some((*target, Turn::Rotation))
    }

    /// The target's turn is over; its next probe of the rotation is due at `next`.
    pub fn done(&mut self, target: &Target, turn: Turn, next: Option<Instant>) {
        match turn {
            Turn::Round => drop(self.rounds.remove(target)),
            Turn::First | Turn::Rotation => {
                self.firsts.set(*target, None);
                self.rotation.set(*target, next);
            }
        }
    }

    /// Nothing more is sent to the target.
    pub fn remove(&mut self, target: &Target) {
        self.rounds.remove(target);
        self.done(target, Turn::Rotation, None);
    }

    /// Nothing is due, and as much may be sent at once as ever.
    pub fn is_idle(&self, now: Instant) -> bool {
        let is_empty = self.rounds.is_empty() && self.rotation.count() + self.firsts.count() == 0;
        is_empty && self.limit.is_idle(now)
    }

    /// How long the rotation takes to probe all targets once, if that is longer than `interval`.
    pub fn stretched(&self, interval: Duration) -> Option<Duration> {
        let members =
            u32::try_from(self.rotation.count() + self.firsts.count()).unwrap_or(u32::MAX);
        let turn = PACKET.saturating_mul(members);
        (turn > interval).then_some(turn)
    }
}

/// 100 packets a second, 300 at once: the generic cell rate algorithm (ITU-T I.371).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RateLimit {
    /// The theoretical arrival time of I.371; `None`: nothing was sent yet.
    idle_at: Option<Instant>,
}

impl RateLimit {
    /// Takes so many packets, if they may be sent now.
    pub fn take(&mut self, now: Instant, packets: u32) -> bool {
        let idle_at = self.idle_at.map_or(now, |at| at.max(now)) + PACKET * packets;
        let allowed = idle_at <= now + PACKET * AT_ONCE;
        if allowed {
            self.idle_at = Some(idle_at);
        }
        allowed
    }

    /// Nothing that was sent counts any more.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.idle_at.is_none_or(|at| at <= now)
    }

    /// When so many may be sent, `AT_ONCE` at most.
    pub fn ready_at(&self, now: Instant, packets: u32) -> Instant {
        let free = AT_ONCE.saturating_sub(packets);
        let idle_at = self.idle_at.map_or(now, |at| at.max(now));
        idle_at.checked_sub(PACKET * free).unwrap_or(now).max(now)
    }
}

/// The interval between packets at the limit.
const PACKET: Duration = Duration::from_millis(10);
const AT_ONCE: u32 = 300;
/// Probes that the limit holds back leave once so many may be sent. Each batch takes a wake-up, and a reading of all
/// counters: what is urgent waits a second, all else for the largest batch.
pub(super) const SOON: u32 = 100;
const BATCH: u32 = AT_ONCE;
