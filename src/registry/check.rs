//! When one monitor looks, and what it last saw. One look at a time, every `interval` from the first.
//!
//! Ports are looked at more often when it matters, since the kernel answers for all of them at once and
//! knows rather than guesses. One that was open and is found closed is looked at again [`CONFIRM`]
//! later, and only then counts: a service that binds its port anew or hands it over is not dead. Further
//! failures that `fall` asks for follow at the same distance. One that is not up is looked at every
//! [`COMING_BACK`], at moments that all such ports share. `fast_interval`, where it is written, sets the
//! distance between results that `rise` or `fall` count. Ports that are up are looked at at few
//! moments of their interval: one wake and one look-up serve many of them.
//!
//! The kernel reports the end of a TCP listener only when the last of its half-open connections is gone,
//! which is when their SYN-ACK timers run: a second after the SYN, then two, four and more. So TCP ports
//! that have clients are looked at every [`USED`]; one that nobody used for a minute has the timers and
//! the interval.

use std::time::{Duration, Instant};

use crate::app::{Monitor, MonitorSpec, Protocol};
use crate::health::{Counter, Health, Outcome};
use crate::timer::Jitter;

/// Names one monitor of one registration; never used twice, so that late answers find nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MonitorId(pub u64);

/// The last answer of a monitor.
#[derive(Clone, Debug)]
pub struct CheckResult {
    pub outcome: Outcome,
    pub at: Instant,
    pub took: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Check {
    pub monitor: Monitor,
    pub last: Option<CheckResult>,
    counter: Counter,
    phase: Phase,
    /// A port that is up was found closed just now.
    doubted: bool,
}

/// What decides on times beside the monitor itself.
pub(super) struct Pace<'a> {
    pub jitter: &'a mut Jitter,
    /// Clients come to the ports.
    pub used: bool,
    /// Ports that are up are looked at whole multiples of a tenth of their interval after this, those that are
    /// down whole multiples of [`COMING_BACK`].
    pub ticks: Instant,
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
    pub fn new(monitor: Monitor, now: Instant) -> Self {
        let counter = Counter::new(monitor.rise, monitor.fall);
        let phase = match monitor.spec {
            MonitorSpec::Heartbeat(every) => Phase::Listening {
                silent_at: now + every,
                every,
            },
            _ => Phase::Waiting { at: now },
        };
        Self {
            monitor,
            last: None,
            counter,
            phase,
            doubted: false,
        }
    }

    /// Takes a changed definition of the same check, keeping what is known.
    pub fn redefine(&mut self, monitor: Monitor) {
        self.counter.set_limits(monitor.rise, monitor.fall);
        self.monitor = monitor;
    }

    /// Looks at once, whatever was under way.
    pub fn restart(&mut self, now: Instant) {
        self.phase = Phase::Waiting { at: now };
    }

    pub fn health(&self) -> Health {
        self.counter.health()
    }

    /// Has been told to look and has not answered.
    pub fn is_under_way(&self) -> bool {
        matches!(self.phase, Phase::UnderWay { .. })
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

    /// Takes the answer; `false` where nobody asked or it says what was known before.
    pub fn answer(
        &mut self,
        now: Instant,
        outcome: Outcome,
        took: Duration,
        pace: &mut Pace<'_>,
    ) -> bool {
        let Phase::UnderWay { since, again, .. } = self.phase else {
            return false;
        };
        let doubts = self.doubts(&outcome);
        let was_doubted = std::mem::replace(&mut self.doubted, doubts);
        if self.doubted && !was_doubted {
            self.phase = Phase::Waiting { at: now + CONFIRM };
            return false;
        }
        let first = self.last.is_none();
        let news = self.last.as_ref().is_none_or(|l| l.outcome != outcome);
        let changed = self.record(now, outcome, took);
        self.doubted &= self.health() == Health::Up;
        let at = self.next_look(now, since, first, pace);
        let at = if again && !self.doubted { now } else { at };
        self.phase = Phase::Waiting { at };
        news || matches!(changed, Due::Changed)
    }

    /// The check waits for a place: that is shown, says nothing about the service, and gives it more time.
    /// `false` where that was known before.
    pub fn wait(&mut self, now: Instant) -> bool {
        let Phase::UnderWay { overdue_at, .. } = &mut self.phase else {
            return false;
        };
        *overdue_at = now + self.monitor.timeout * 2 + GRACE;
        let waits = Outcome::unavailable(WAITS);
        let news = self.last.as_ref().is_none_or(|l| l.outcome != waits);
        self.record(now, waits, Duration::ZERO);
        news
    }

    /// Whether this speaks against a port that is up. Where it could not be found out, a doubt stays.
    fn doubts(&self, outcome: &Outcome) -> bool {
        let against = match outcome {
            Outcome::Pass(_) => false,
            Outcome::Fail(_) => true,
            Outcome::Unavailable(_) => self.doubted,
        };
        against && self.is_port() && self.health() == Health::Up
    }

    /// When to look after an answer to the question of `since`.
    fn next_look(&self, now: Instant, since: Instant, first: bool, pace: &mut Pace<'_>) -> Instant {
        let Monitor {
            interval,
            fast_interval,
            ..
        } = self.monitor;
        let changing = self.counter.is_changing();
        let wait = match fast_interval.filter(|_| changing) {
            Some(fast) => fast,
            None if self.doubted && changing => return now + CONFIRM,
            None if self.is_port() && (self.doubted || self.health() != Health::Up) => {
                return next_tick(now, pace.ticks).min((since + interval).max(now));
            }
            // The kernel's tables answer all port monitors in one look; others are spread, so that
            // many monitors of one age do not knock in step for ever.
            None if pace.used && self.is_tcp_port() => interval.min(USED),
            None if first && !self.is_port() => pace.jitter.shorten(interval),
            None => interval,
        };
        let at = since + wait;
        if self.is_port() {
            return aligned(at, wait / SLOTS, pace.ticks, now);
        }
        at.max(now)
    }

    /// A port with clients is looked at soon, whatever the interval.
    pub fn clients_seen(&mut self, now: Instant) {
        let tcp = self.is_tcp_port();
        if let Phase::Waiting { at } = &mut self.phase
            && tcp
        {
            *at = (now + USED).min(*at);
        }
    }

    fn is_tcp_port(&self) -> bool {
        let tcp = Protocol::Tcp;
        matches!(self.monitor.spec, MonitorSpec::Port { protocol, .. } if protocol == tcp)
    }

    fn is_port(&self) -> bool {
        matches!(self.monitor.spec, MonitorSpec::Port { .. })
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
            // What is doubted is looked at in a moment, and not before.
            Phase::Waiting { .. } if self.doubted => {}
            Phase::Waiting { at } => *at = now.min(*at),
            Phase::UnderWay { again, .. } => *again = true,
            Phase::Listening { .. } => {}
        }
    }

    fn record(&mut self, now: Instant, outcome: Outcome, took: Duration) -> Due {
        let changed = self.counter.record(&outcome);
        self.last = Some(CheckResult {
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

/// The last whole multiple of `slot` after `ticks` that is not after `at`; where that has passed, `at`
/// itself, or `now`.
fn aligned(at: Instant, slot: Duration, ticks: Instant, now: Instant) -> Instant {
    let since = at.saturating_duration_since(ticks).as_nanos();
    let past = since.checked_rem(slot.as_nanos()).unwrap_or(0);
    let past = u64::try_from(past).map(Duration::from_nanos);
    let tick = past.ok().and_then(|past| at.checked_sub(past));
    tick.filter(|tick| *tick > now).unwrap_or(at.max(now))
}

/// The next moment at which all ports that are down are looked at.
fn next_tick(now: Instant, ticks: Instant) -> Instant {
    let passed = now.saturating_duration_since(ticks).as_nanos() / COMING_BACK.as_nanos();
    let next = u32::try_from(passed + 1).unwrap_or(u32::MAX);
    // After thirteen years the ports are still looked at, only not together.
    (ticks + COMING_BACK * next).max(now)
}

/// How long a port that was open may be closed without being down.
const CONFIRM: Duration = Duration::from_millis(2);
/// How many moments an interval has at which ports that are up are looked at.
const SLOTS: u32 = 10;
/// How often a port that is down is looked at.
const COMING_BACK: Duration = Duration::from_millis(100);
/// How often a TCP port with clients is looked at: within 1.5 s its death is known and withdrawn, also when
/// half-open connections keep the kernel from reporting it.
const USED: Duration = Duration::from_millis(1200);
/// Why a check is late.
const WAITS: &str =
    "late: as many checks as agent.check_threads allows are under way, this one waits";
/// What the shell may take beyond a check's timeout to kill it and to report.
const GRACE: Duration = Duration::from_secs(5);
