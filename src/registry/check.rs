//! When a monitor is checked, and its last result. One check at a time, every `interval` from the first.
//!
//! Port monitors are checked more often when it matters: one sock_diag dump answers all of them, and its
//! answer is a fact. A port that was open and is found closed is checked again [`CONFIRM_AFTER`]
//! later, and only that second result counts: a service that rebinds its port or passes it to another process is not
//! down. Further failures that `fall` requires follow at the same interval. A port that is not up is checked every
//! [`DOWN_PORT_INTERVAL`], at the same moments as all such ports. `fast_interval`, where configured, is the
//! interval between results that `rise` or `fall` count. Checks of ports that are up are aligned to a few
//! moments of their interval, so that one wake-up and one dump serve many of them.
//!
//! The kernel reports the end of a TCP listener only when the last of its half-open connections is gone,
//! which is when their SYN-ACK timers expire: a second after the SYN, then two, four and more. So TCP ports
//! that have clients are checked every [`CLIENT_PORT_INTERVAL`]. The end of a port without clients for a minute is
//! noticed by the kernel's report or by the next check after `interval`.

use std::time::{Duration, Instant};

use crate::app::{Damping, Monitor, MonitorSpec, Protocol, VipTarget};
use crate::health::{Counter, Health, Outcome};
use crate::net::Prefix;
use crate::timer::Rng;

/// Identifies one monitor of one registration; never reused, so that late results are dropped.
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
    /// A port that is up was found closed and is to be confirmed.
    suspect: bool,
    /// The last conclusive result was a fact ([`Outcome::is_fact`]).
    fact: bool,
    /// For a check of the second stage. Boxed: few checks are.
    probed: Option<Box<ProbedVips>>,
}

/// The VIPs of its app that a check of the second stage probes.
#[derive(Clone, Debug, Default)]
struct ProbedVips {
    /// Those present in the kernel, which the next check probes.
    targets: Vec<VipTarget>,
    /// Those that the running check probes.
    under_way: Vec<VipTarget>,
    /// Those that the last conclusive result is for.
    answered: Vec<VipTarget>,
}

/// Whether a check may run, depending on the VIPs that it probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProbeMode {
    /// It may always run: it probes none of its app's VIPs.
    Always,
    /// It may run: these VIPs are present.
    Vips(Vec<VipTarget>),
    /// It may not run for the moment: the last result stays valid for one `interval`, a failure for
    /// [`FAILURE_VALID_FOR`].
    Paused,
    /// It may not run: none of its VIPs is present. Its last result is dropped.
    Stopped,
}

/// What the schedule depends on besides the monitor.
pub(super) struct ScheduleContext<'a> {
    pub rng: &'a mut Rng,
    /// Clients connect to the ports.
    pub has_clients: bool,
    /// Ports that are up are checked at whole multiples of a tenth of their interval after this, those that are
    /// down at whole multiples of [`DOWN_PORT_INTERVAL`].
    pub tick_origin: Instant,
}

#[derive(Clone, Debug)]
enum Phase {
    /// The check starts at `at`.
    Scheduled { at: Instant },
    /// The check is running. Without a result it counts as failed at `overdue_at`: a hung check must not
    /// keep a dead service announced.
    InFlight {
        since: Instant,
        overdue_at: Instant,
        /// Check once more right after this one.
        again: bool,
    },
    /// A heartbeat monitor: no heartbeat until `silent_at` counts as a failure.
    AwaitingHeartbeat { silent_at: Instant, every: Duration },
    /// The VIPs that it probes are absent, or held by another app. The last result is dropped at `forget_at`.
    Paused { forget_at: Option<Instant> },
}

/// What a deadline requires.
pub(super) enum TimeoutOutcome {
    Nothing,
    /// Perform the check now.
    PerformCheck,
    /// The health changed without a result.
    HealthChanged,
}

impl Check {
    /// Checks at once; a heartbeat monitor waits for its first heartbeat.
    pub fn new(monitor: Monitor, now: Instant) -> Self {
        let counter = Counter::new(monitor.rise, monitor.fall);
        let phase = match monitor.spec {
            MonitorSpec::Heartbeat(every) => Phase::AwaitingHeartbeat {
                silent_at: now + every,
                every,
            },
            _ => Phase::Scheduled { at: now },
        };
        Self {
            monitor,
            last: None,
            counter,
            phase,
            suspect: false,
            fact: false,
            probed: None,
        }
    }

    /// A check that does not run until the VIPs that it probes are present.
    pub fn paused(monitor: Monitor, now: Instant) -> Self {
        Self {
            phase: Phase::Paused { forget_at: None },
            ..Self::new(monitor, now)
        }
    }

    /// Applies `mode`. The result of a check that is running when this stops it must be dropped:
    /// `Checks::set_probe_mode` does so.
    pub fn set_probe_mode(&mut self, now: Instant, mode: ProbeMode) {
        match mode {
            ProbeMode::Paused => {
                let valid_for = match self.health() {
                    Health::Down => self.monitor.interval.max(FAILURE_VALID_FOR),
                    Health::Up | Health::Unknown => self.monitor.interval,
                };
                let forget_at = self.last.is_some().then_some(now + valid_for);
                self.phase = Phase::Paused { forget_at };
            }
            ProbeMode::Stopped => *self = Self::paused(self.monitor.clone(), now),
            ProbeMode::Always => {
                self.probed = None;
                self.resume(now);
            }
            ProbeMode::Vips(targets) => {
                let probed = self.probed.get_or_insert_default();
                let any_new = targets
                    .iter()
                    .any(|target| !probed.targets.contains(target));
                probed.targets = targets;
                if any_new {
                    self.recheck(now);
                }
                self.resume(now);
            }
        }
    }

    fn resume(&mut self, now: Instant) {
        if self.is_paused() {
            self.restart(now);
        }
    }

    /// Whether `mode` is in effect already.
    pub fn has_probe_mode(&self, mode: &ProbeMode) -> bool {
        match mode {
            ProbeMode::Always => !self.is_paused() && self.probed.is_none(),
            ProbeMode::Vips(targets) => !self.is_paused() && self.targets() == targets,
            ProbeMode::Paused => self.is_paused(),
            ProbeMode::Stopped => self.is_paused() && self.last.is_none(),
        }
    }

    /// Whether it waits for its VIPs to be present.
    pub fn is_paused(&self) -> bool {
        matches!(self.phase, Phase::Paused { .. })
    }

    /// The VIPs that it probes now.
    pub fn targets(&self) -> &[VipTarget] {
        self.probed.as_ref().map_or(&[], |probed| &probed.targets)
    }

    /// Whether its last conclusive result covers this VIP.
    pub fn has_answered_for(&self, vip: &Prefix) -> bool {
        let mut answered = self.probed.iter().flat_map(|probed| &probed.answered);
        answered.any(|target| target.vip == *vip)
    }

    /// Applies a changed definition of the same check; health and last result stay.
    pub fn redefine(&mut self, monitor: Monitor) {
        self.counter.set_limits(monitor.rise, monitor.fall);
        self.monitor = monitor;
    }

    /// Schedules a check now, even while one is running.
    pub fn restart(&mut self, now: Instant) {
        self.phase = Phase::Scheduled { at: now };
    }

    /// The health after `rise` and `fall`.
    pub fn health(&self) -> Health {
        self.counter.health()
    }

    /// Down, and the last conclusive result was a fact ([`Outcome::is_fact`]).
    pub fn is_down_for_fact(&self) -> bool {
        self.fact && self.health() == Health::Down
    }

    /// It can state a fact and has no result yet.
    pub fn awaits_fact(&self) -> bool {
        let can = matches!(
            self.monitor.spec,
            MonitorSpec::Port { .. } | MonitorSpec::Consul
        );
        can && self.last.is_none()
    }

    /// A check is running.
    pub fn is_in_flight(&self) -> bool {
        matches!(self.phase, Phase::InFlight { .. })
    }

    /// When the check is due, overdue, or misses its heartbeat.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Scheduled { at } => Some(at),
            Phase::InFlight { overdue_at, .. } => Some(overdue_at),
            Phase::AwaitingHeartbeat { silent_at, .. } => Some(silent_at),
            Phase::Paused { forget_at } => forget_at,
        }
    }

    /// Handles the deadline, if it has passed.
    pub fn handle_timeout(&mut self, now: Instant) -> TimeoutOutcome {
        if self.deadline().is_none_or(|at| at > now) {
            return TimeoutOutcome::Nothing;
        }
        match &mut self.phase {
            Phase::Paused { .. } => {
                *self = Self::paused(self.monitor.clone(), now);
                TimeoutOutcome::HealthChanged
            }
            Phase::Scheduled { .. } => {
                self.phase = Phase::InFlight {
                    since: now,
                    overdue_at: now + self.monitor.timeout + ANSWER_GRACE,
                    again: false,
                };
                if let Some(probed) = &mut self.probed {
                    probed.under_way = probed.targets.clone();
                }
                TimeoutOutcome::PerformCheck
            }
            Phase::InFlight { overdue_at, .. } => {
                *overdue_at = now + self.monitor.interval.max(ANSWER_GRACE);
                // A missing result does not revoke a fact.
                let fact = self.fact;
                let due = self.record(now, Outcome::fail("the check gave no answer"), ANSWER_GRACE);
                self.fact = fact;
                due
            }
            Phase::AwaitingHeartbeat { silent_at, every } => {
                *silent_at = now + *every;
                let message = format!("no heartbeat for {every:?}");
                self.record(now, Outcome::fail(message), Duration::ZERO)
            }
        }
    }

    /// Records the result of a check; `false` if none was running or nothing changed.
    pub fn record_result(
        &mut self,
        now: Instant,
        outcome: Outcome,
        took: Duration,
        schedule: &mut ScheduleContext<'_>,
    ) -> bool {
        let Phase::InFlight { since, again, .. } = self.phase else {
            return false;
        };
        let is_suspect = self.is_suspect(&outcome);
        let was_suspect = std::mem::replace(&mut self.suspect, is_suspect);
        if self.suspect && !was_suspect {
            self.phase = Phase::Scheduled {
                at: now + CONFIRM_AFTER,
            };
            return false;
        }
        let first = self.last.is_none();
        let mut news = self.last.as_ref().is_none_or(|l| l.outcome != outcome);
        if let Some(probed) = &mut self.probed
            && !matches!(outcome, Outcome::Unavailable(_))
        {
            news |= probed.answered != probed.under_way;
            probed.answered.clone_from(&probed.under_way);
        }
        let changed = self.record(now, outcome, took);
        self.suspect &= self.health() == Health::Up;
        let at = self.next_check_at(now, since, first, schedule);
        let at = if again && !self.suspect { now } else { at };
        self.phase = Phase::Scheduled { at };
        news || matches!(changed, TimeoutOutcome::HealthChanged)
    }

    /// The check is queued: it is shown as late, health stays as it was, and its deadline is extended.
    /// `false` if it was shown as late before.
    pub fn check_queued(&mut self, now: Instant) -> bool {
        let Phase::InFlight { overdue_at, .. } = &mut self.phase else {
            return false;
        };
        *overdue_at = now + self.monitor.timeout * 2 + ANSWER_GRACE;
        let waits = Outcome::unavailable(QUEUED);
        let news = self.last.as_ref().is_none_or(|l| l.outcome != waits);
        self.record(now, waits, Duration::ZERO);
        news
    }

    /// Whether a port that is up may be closed, which is to be confirmed.
    fn is_suspect(&self, outcome: &Outcome) -> bool {
        let against = match outcome {
            Outcome::Pass(_) => false,
            Outcome::Fail(_) | Outcome::NoListener(_) | Outcome::TakenOut(_) => true,
            Outcome::Unavailable(_) => self.suspect,
        };
        against && self.is_port() && self.health() == Health::Up
    }

    /// When the next check starts after the result of the one started at `since`.
    fn next_check_at(
        &self,
        now: Instant,
        since: Instant,
        first: bool,
        schedule: &mut ScheduleContext<'_>,
    ) -> Instant {
        let Monitor {
            interval,
            fast_interval,
            ..
        } = self.monitor;
        let changing = self.counter.is_changing();
        let wait = match fast_interval.filter(|_| changing) {
            Some(fast) => fast,
            None if self.suspect && changing => return now + CONFIRM_AFTER,
            None if self.is_port() && (self.suspect || self.health() != Health::Up) => {
                return next_tick(now, schedule.tick_origin).min((since + interval).max(now));
            }
            // One sock_diag dump answers all port monitors; other monitors are spread by jitter.
            None if schedule.has_clients && self.is_tcp_port() => {
                interval.min(CLIENT_PORT_INTERVAL)
            }
            None if first && !self.is_port() => schedule.rng.jittered(interval),
            None => interval,
        };
        let at = since + wait;
        if self.is_port() {
            return align_to_slot(at, wait / SLOTS_PER_INTERVAL, schedule.tick_origin, now);
        }
        at.max(now)
    }

    /// A port with clients is checked soon, whatever the interval.
    pub fn clients_seen(&mut self, now: Instant) {
        let tcp = self.is_tcp_port();
        if let Phase::Scheduled { at } = &mut self.phase
            && tcp
        {
            *at = (now + CLIENT_PORT_INTERVAL).min(*at);
        }
    }

    fn is_tcp_port(&self) -> bool {
        let tcp = Protocol::Tcp;
        matches!(self.monitor.spec, MonitorSpec::Port { protocol, .. } if protocol == tcp)
    }

    fn is_port(&self) -> bool {
        matches!(self.monitor.spec, MonitorSpec::Port { .. })
    }

    /// A heartbeat arrived. Returns whether health changed; `None` if this is not a heartbeat monitor.
    pub fn heartbeat(&mut self, now: Instant) -> Option<bool> {
        let Phase::AwaitingHeartbeat { silent_at, every } = &mut self.phase else {
            return None;
        };
        *silent_at = now + *every;
        Some(matches!(
            self.record(now, Outcome::pass(), Duration::ZERO),
            TimeoutOutcome::HealthChanged
        ))
    }

    /// Checks again as soon as possible.
    pub fn recheck(&mut self, now: Instant) {
        match &mut self.phase {
            // A suspect port is confirmed after 2 ms, not before.
            Phase::Scheduled { .. } if self.suspect => {}
            Phase::Scheduled { at } => *at = now.min(*at),
            Phase::InFlight { again, .. } => *again = true,
            Phase::AwaitingHeartbeat { .. } | Phase::Paused { .. } => {}
        }
    }

    fn record(&mut self, now: Instant, outcome: Outcome, took: Duration) -> TimeoutOutcome {
        let changed = self.counter.record(&outcome);
        if !matches!(outcome, Outcome::Unavailable(_)) {
            self.fact = outcome.is_fact();
        }
        self.last = Some(CheckResult {
            outcome,
            at: now,
            took,
        });
        match changed {
            Some(_) => TimeoutOutcome::HealthChanged,
            None => TimeoutOutcome::Nothing,
        }
    }
}

/// The last whole multiple of `slot` after `tick_origin` that is not after `at`; where that has passed, `at`
/// itself, or `now`.
fn align_to_slot(at: Instant, slot: Duration, tick_origin: Instant, now: Instant) -> Instant {
    let since = at.saturating_duration_since(tick_origin).as_nanos();
    let past = since.checked_rem(slot.as_nanos()).unwrap_or(0);
    let past = u64::try_from(past).map(Duration::from_nanos);
    let tick = past.ok().and_then(|past| at.checked_sub(past));
    tick.filter(|tick| *tick > now).unwrap_or(at.max(now))
}

/// The next time at which all ports that are down are checked.
fn next_tick(now: Instant, tick_origin: Instant) -> Instant {
    let passed =
        now.saturating_duration_since(tick_origin).as_nanos() / DOWN_PORT_INTERVAL.as_nanos();
    let next = u32::try_from(passed + 1).unwrap_or(u32::MAX);
    // The counter saturates after thirteen years: from then on the ports are checked at different moments.
    (tick_origin + DOWN_PORT_INTERVAL * next).max(now)
}

/// How long a port may be closed (a rebind) without counting as down.
const CONFIRM_AFTER: Duration = Duration::from_millis(2);
/// Checks of ports that are up are aligned to this many slots of their interval.
const SLOTS_PER_INTERVAL: u32 = 10;
/// How often a port that is down is checked.
const DOWN_PORT_INTERVAL: Duration = Duration::from_millis(100);
/// How often a TCP port with clients is checked: its end is noticed within 1.5 s, also when half-open
/// connections keep the kernel from reporting it.
const CLIENT_PORT_INTERVAL: Duration = Duration::from_millis(1200);
/// How long a standby that has failed its second stage counts as down: instances that all fail pass the VIP on as
/// seldom as damping lets an app be announced again, and one that recovers is found all the same.
const FAILURE_VALID_FOR: Duration = Damping::LONGEST;
/// Why a check is late.
const QUEUED: &str = "late: queued, agent.check_threads checks are running already";
/// What the shell may take beyond a check's timeout to kill it and report.
const ANSWER_GRACE: Duration = Duration::from_secs(5);
