//! When one monitor looks, and what it last saw. One look at a time, every `interval` from the first.

use std::time::{Duration, Instant};

use crate::app::{Monitor, MonitorSpec};
use crate::health::{Counter, Health, Outcome};
use crate::timer::Jitter;

/// Names one monitor of one registration; never used twice, so that late answers find nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MonitorId(pub u64);

/// The last answer of a monitor.
#[derive(Clone, Debug)]
pub struct Seen {
    pub outcome: Outcome,
    pub at: Instant,
    pub took: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Check {
    pub id: MonitorId,
    pub monitor: Monitor,
    pub last: Option<Seen>,
    counter: Counter,
    phase: Phase,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Looks at `at`.
    Waiting { at: Instant },
    /// Has been told to look. An answer that never comes counts as a failure at `overdue_at`: a hung
    /// check must not keep a dead service announced.
    UnderWay {
        since: Instant,
        overdue_at: Instant,
        /// Something happened meanwhile: look once more at once.
        again: bool,
    },
    /// Hears from the service; silence until `silent_at` counts as a failure.
    Listening { silent_at: Instant, every: Duration },
}

/// What a deadline brought.
pub(super) enum Due {
    Nothing,
    /// Perform the check now.
    Look,
    /// The health changed without an answer.
    Changed,
}

impl Check {
    pub fn new(id: MonitorId, monitor: Monitor, now: Instant) -> Self {
        let counter = Counter::new(monitor.rise, monitor.fall);
        let phase = match monitor.spec {
            MonitorSpec::Heartbeat(every) => Phase::Listening {
                silent_at: now + every,
                every,
            },
            _ => Phase::Waiting { at: now },
        };
        Self {
            id,
            monitor,
            last: None,
            counter,
            phase,
        }
    }

    /// Takes a changed definition of the same check, keeping what is known.
    pub fn redefine(&mut self, monitor: Monitor) {
        self.counter.set_limits(monitor.rise, monitor.fall);
        self.monitor = monitor;
    }

    pub fn health(&self) -> Health {
        self.counter.health()
    }

    pub fn deadline(&self) -> Instant {
        match self.phase {
            Phase::Waiting { at } => at,
            Phase::UnderWay { overdue_at, .. } => overdue_at,
            Phase::Listening { silent_at, .. } => silent_at,
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) -> Due {
        if self.deadline() > now {
            return Due::Nothing;
        }
        match &mut self.phase {
            Phase::Waiting { .. } => {
                self.phase = Phase::UnderWay {
                    since: now,
                    overdue_at: now + self.monitor.timeout + GRACE,
                    again: false,
                };
                Due::Look
            }
            Phase::UnderWay { overdue_at, .. } => {
                *overdue_at = now + self.monitor.interval.max(GRACE);
                self.record(now, Outcome::fail("the check gave no answer"), GRACE)
            }
            Phase::Listening { silent_at, every } => {
                *silent_at = now + *every;
                let message = format!("no heartbeat for {every:?}");
                self.record(now, Outcome::fail(message), Duration::ZERO)
            }
        }
    }

    /// Takes the answer; `false` where nobody asked or the health stays.
    pub fn answer(
        &mut self,
        now: Instant,
        outcome: Outcome,
        took: Duration,
        jitter: &mut Jitter,
    ) -> bool {
        let Phase::UnderWay { since, again, .. } = self.phase else {
            return false;
        };
        let first = self.last.is_none();
        let changed = self.record(now, outcome, took);
        let mut wait = self.interval();
        // The kernel's tables answer all port monitors in one look; others are spread, so that many
        // monitors of one age do not knock in step for ever.
        if first && !matches!(self.monitor.spec, MonitorSpec::Port { .. }) {
            wait = jitter.shorten(wait);
        }
        let at = if again { now } else { (since + wait).max(now) };
        self.phase = Phase::Waiting { at };
        matches!(changed, Due::Changed)
    }

    /// A heartbeat came in; `None` where this is no heartbeat monitor, else whether health changed.
    pub fn beat(&mut self, now: Instant) -> Option<bool> {
        let Phase::Listening { silent_at, every } = &mut self.phase else {
            return None;
        };
        *silent_at = now + *every;
        Some(matches!(
            self.record(now, Outcome::pass(), Duration::ZERO),
            Due::Changed
        ))
    }

    /// Looks again as soon as possible.
    pub fn recheck(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Waiting { at } => *at = now.min(*at),
            Phase::UnderWay { again, .. } => *again = true,
            Phase::Listening { .. } => {}
        }
    }

    fn interval(&self) -> Duration {
        match self.monitor.fast_interval {
            Some(fast) if self.counter.is_changing() => fast,
            _ => self.monitor.interval,
        }
    }

    fn record(&mut self, now: Instant, outcome: Outcome, took: Duration) -> Due {
        let changed = self.counter.record(&outcome);
        self.last = Some(Seen {
            outcome,
            at: now,
            took,
        });
        match changed {
            Some(_) => Due::Changed,
            None => Due::Nothing,
        }
    }
}

/// What the shell may take beyond a check's timeout to kill it and to report.
const GRACE: Duration = Duration::from_secs(5);
