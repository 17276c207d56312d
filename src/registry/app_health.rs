//! The health of one app: the combined result of its monitors, since when it has not been up, and what
//! delays its announcement. A drain or maintenance does not restart these timers.
//!
//! ```text
//!           monitors: unknown  down               up                             deadline
//! Unknown             Unknown  Down, LastResort   Up, or Held where it must wait cleanup_timer: cleaned up
//! Down                Unknown  Down, LastResort   Up, or Held where it must wait cleanup_timer: cleaned up
//! LastResort          Unknown  Down, LastResort   Up, or Held where it must wait -
//! Held                Unknown  Down, LastResort   Held until its deadline        Up
//! Up                  Unknown  Down, LastResort   Up                             -
//! ```
//!
//! Monitors that probe the app's VIPs are a second stage and count while all others pass. Results from before their
//! VIPs were removed from the interface are void and do not prevent `Up` or `Held`: the VIPs are probed again before a
//! route is announced (`AppHealth::together`).
//!
//! `LastResort` is `when_down: last_resort` of an app that was up before, while no monitor states a fact: that the
//! kernel has no listener, or that an operator has taken the service out. One that announces nothing becomes a last
//! resort only when each monitor that can state a fact has a result. To and from it is no flap.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::damping::FlapHistory;
use crate::app::{App, RouteAction};
use crate::health::Health;
use crate::net::Prefix;

/// Timers of the agent's settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct AppTimers {
    /// How long an app may be not up before its NAT rules go.
    pub cleanup_timer: Duration,
    /// How long an address stays after its route was withdrawn; `None`: until `cleanup_timer`.
    pub vip_linger: Option<Duration>,
}

/// The combined health of the monitors, by stage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// Of those that probe none of the app's VIPs.
    pub first: Health,
    /// Of those that do; up if there are none.
    pub second: Health,
    /// Other instances hold all VIPs: the second stage has nothing to probe.
    pub is_standby: bool,
    /// No monitor is down by a fact (`Outcome::is_fact`).
    pub answers: bool,
    /// A monitor that can state a fact has no result yet.
    pub awaits_fact: bool,
}

#[derive(Debug)]
pub(super) struct AppHealth {
    state: State,
    inherited: Option<InheritedHealth>,
    /// It was announced as up at least once, so `start_delay` no longer applies.
    started: bool,
    /// It was up at least once, announced or not: only then may it be a last resort.
    was_up: bool,
    /// It went down after an announcement and was not announced since.
    returning: bool,
    flaps: FlapHistory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not all monitors have a result yet.
    Unknown(NotUp),
    Down(NotUp),
    /// Down by checks that may be wrong, and announced all the same.
    LastResort,
    /// All monitors pass, and the announcement is delayed.
    Held {
        until: Instant,
        by: HoldReason,
        /// Announced as last resort until then.
        last_resort: bool,
    },
    Up,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NotUp {
    since: Instant,
    /// `cleanup_timer` has passed since.
    cleaned_up: bool,
}

/// What delays a healthy app's announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HoldReason {
    StartDelay,
    Damping,
}

/// Health taken over from the definition before, until the new monitors have results.
#[derive(Clone, Debug, PartialEq, Eq)]
struct InheritedHealth {
    /// The VIPs that both definitions have.
    vips: BTreeSet<Prefix>,
    health: Health,
}

impl AppHealth {
    /// Unknown since `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Unknown(NotUp::new(now)),
            inherited: None,
            started: false,
            was_up: false,
            returning: false,
            flaps: FlapHistory::default(),
        }
    }

    /// Applies the combined result of the monitors, and timers that are due.
    pub fn reconcile(&mut self, now: Instant, measured: Measured, app: &App, timers: &AppTimers) {
        let announces = self.is_up() || self.is_last_resort();
        let answers = measured.answers && (announces || !measured.awaits_fact);
        let measured = self.together(measured);
        if measured != Health::Unknown {
            self.inherited = None;
        }
        let inherited = self.inherited.as_ref();
        let health = inherited.map_or(measured, |inherited| inherited.health);
        let last_resort = app.when_down == RouteAction::LastResort && self.was_up && answers;
        self.state = match (self.state, health) {
            (_, Health::Down) if last_resort => State::LastResort,
            (State::Up, Health::Up) => State::Up,
            (State::Held { until, .. }, Health::Up) if until <= now => State::Up,
            (State::Held { .. }, Health::Up) => self.state,
            (State::Unknown(_) | State::Down(_) | State::LastResort, Health::Up) => {
                self.rise(now, app)
            }
            (State::Up | State::Held { .. } | State::LastResort, _) => {
                self.returning |= self.started;
                State::not_up(health, NotUp::new(now))
            }
            (State::Unknown(not_up) | State::Down(not_up), _) => State::not_up(health, not_up),
        };
        self.was_up |= self.state == State::Up;
        if let State::Unknown(not_up) | State::Down(not_up) = &mut self.state {
            not_up.cleaned_up |= not_up.since + timers.cleanup_timer <= now;
        }
    }

    fn together(&self, measured: Measured) -> Health {
        let passed = matches!(self.state, State::Up | State::Held { .. }) && !self.is_inherited();
        match (measured.first, measured.second) {
            (Health::Up, Health::Unknown) if passed || measured.is_standby => Health::Up,
            (Health::Up, second) => second,
            (first, _) => first,
        }
    }

    /// All monitors pass: a first announcement waits for `start_delay`, a later one for damping.
    fn rise(&mut self, now: Instant, app: &App) -> State {
        let (wait, by) = if self.started {
            let hold = |damping| self.flaps.hold_down(now, &damping);
            (app.options.damping().and_then(hold), HoldReason::Damping)
        } else {
            (Some(app.options.start_delay), HoldReason::StartDelay)
        };
        match wait {
            Some(wait) if !wait.is_zero() => State::Held {
                until: now + wait,
                by,
                last_resort: self.state == State::LastResort,
            },
            _ => State::Up,
        }
    }

    /// The app is announced as up: its start, or its flap, is over.
    pub fn announced(&mut self, now: Instant, app: &App) {
        self.started = true;
        if std::mem::take(&mut self.returning)
            && let Some(damping) = app.options.damping()
        {
            self.flaps.record_flap(now, &damping);
        }
    }

    /// The definition was replaced: until the new monitors have results, the previous health stays in effect
    /// for the VIPs that both have, if they are `announced`.
    pub fn replace(&mut self, both: BTreeSet<Prefix>, announced: bool) {
        let vips: BTreeSet<Prefix> = match self.inherited.take() {
            Some(before) => both.intersection(&before.vips).copied().collect(),
            None => both,
        };
        if announced && !vips.is_empty() {
            let health = self.health();
            self.inherited = Some(InheritedHealth { vips, health });
        }
    }

    /// The app was not checked for a while: its timers start now.
    pub fn reset(&mut self, now: Instant) {
        self.state = State::Unknown(NotUp::new(now));
    }

    /// The combined health of the monitors, without the delays of an announcement.
    pub fn health(&self) -> Health {
        match self.state {
            State::Unknown(_) => Health::Unknown,
            State::Down(_) | State::LastResort => Health::Down,
            State::Held { .. } | State::Up => Health::Up,
        }
    }

    /// All monitors pass and nothing delays the announcement.
    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Not up, and announced as last resort unless intent forbids it.
    pub fn is_last_resort(&self) -> bool {
        match self.state {
            State::LastResort => true,
            State::Held { last_resort, .. } => last_resort,
            _ => false,
        }
    }

    /// What delays the announcement of a healthy app, and until when.
    pub fn held(&self) -> Option<(HoldReason, Instant)> {
        match self.state {
            State::Held { until, by, .. } => Some((by, until)),
            _ => None,
        }
    }

    /// Whether the health is still that of the definition before.
    pub fn is_inherited(&self) -> bool {
        self.inherited.is_some()
    }

    /// Whether the health applies to this VIP: inherited health does not apply to new VIPs.
    pub fn covers(&self, vip: &Prefix) -> bool {
        let inherited = self.inherited.as_ref();
        inherited.is_none_or(|inherited| inherited.vips.contains(vip))
    }

    /// It has not been up for `cleanup_timer`.
    pub fn is_cleaned_up(&self) -> bool {
        matches!(self.state, State::Unknown(not_up) | State::Down(not_up) if not_up.cleaned_up)
    }

    /// Announcements after a withdraw within `flap_window`.
    pub fn flaps(&self) -> usize {
        self.flaps.count()
    }

    /// When the state changes by itself.
    pub fn deadline(&self, timers: &AppTimers) -> Option<Instant> {
        match self.state {
            State::Unknown(not_up) | State::Down(not_up) => {
                (!not_up.cleaned_up).then(|| not_up.since + timers.cleanup_timer)
            }
            State::Held { until, .. } => Some(until),
            State::Up | State::LastResort => None,
        }
    }
}

impl NotUp {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            cleaned_up: false,
        }
    }
}

impl State {
    fn not_up(health: Health, not_up: NotUp) -> Self {
        match health {
            Health::Unknown => Self::Unknown(not_up),
            _ => Self::Down(not_up),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{AppOptions, FlapLimit};

    const TIMERS: AppTimers = AppTimers {
        cleanup_timer: Duration::from_secs(60),
        vip_linger: None,
    };

    fn app(start_delay: Duration) -> App {
        App {
            name: "dns".parse().unwrap(),
            source: crate::app::Source::Config,
            vips: crate::small_set::SmallSet::default(),
            monitors: crate::small_set::SmallSet::default(),
            nats: BTreeSet::new(),
            attributes: crate::app::Attributes::default(),
            when_down: crate::app::RouteAction::default(),
            when_draining: crate::app::RouteAction::default(),
            options: AppOptions {
                start_delay,
                flap_limit: FlapLimit {
                    limit: 0,
                    window: Duration::from_secs(60),
                },
                ..AppOptions::default()
            },
            instance_id: None,
        }
    }

    /// Without a second stage.
    fn one_stage(first: Health, answers: bool) -> Measured {
        Measured {
            first,
            second: Health::Up,
            is_standby: false,
            answers,
            awaits_fact: false,
        }
    }

    fn name(state: State, now: Instant) -> String {
        let not_up = |word: &str, not_up: NotUp| {
            let age = now.saturating_duration_since(not_up.since).as_secs();
            let cleaned = if not_up.cleaned_up {
                ", cleaned up"
            } else {
                ""
            };
            format!("{word} for {age}s{cleaned}")
        };
        match state {
            State::Unknown(since) => not_up("unknown", since),
            State::Down(since) => not_up("down", since),
            State::Held {
                until,
                by,
                last_resort,
            } => {
                let left = until.saturating_duration_since(now).as_secs();
                let announced = if last_resort { ", last resort" } else { "" };
                format!("held {left}s by {by:?}{announced}")
            }
            State::LastResort => "last resort".to_owned(),
            State::Up => "up".to_owned(),
        }
    }

    fn states(now: Instant, start: Instant) -> [State; 6] {
        let since = NotUp::new(start);
        let held = |last_resort| State::Held {
            until: now + Duration::from_secs(5),
            by: HoldReason::Damping,
            last_resort,
        };
        [
            State::Unknown(since),
            State::Down(since),
            State::LastResort,
            held(false),
            held(true),
            State::Up,
        ]
    }

    /// Every state with everything that monitors can say in it, and what its deadline brings. `answers`: what they
    /// say of an app that is down.
    fn table(app: &App, started: bool, answers: bool) -> String {
        let start = Instant::now();
        let now = start + Duration::from_secs(10);
        let mut table = String::new();
        for state in states(now, start) {
            let mut machine = AppHealth::new(start);
            (machine.started, machine.was_up) = (started, started);
            machine.state = state;
            let mut row = format!("{:<32}", name(state, now));
            for measured in [Health::Unknown, Health::Down, Health::Up] {
                machine.state = state;
                machine.reconcile(now, one_stage(measured, answers), app, &TIMERS);
                row += &format!("| {:<32}", name(machine.state, now));
            }
            machine.state = state;
            let (measured, at) = (machine.health(), machine.deadline(&TIMERS));
            let due = at.map_or("-".to_owned(), |at| {
                machine.reconcile(at, one_stage(measured, answers), app, &TIMERS);
                name(machine.state, at)
            });
            table += &format!("{row}| {due}\n");
        }
        println!("{table}");
        table
    }

    #[test]
    fn the_table_of_transitions() {
        assert_eq!(table(&app(Duration::from_secs(7)), false, true), TABLE);
    }

    #[test]
    fn the_table_of_transitions_where_down_is_announced_as_last_resort() {
        let app = App {
            when_down: RouteAction::LastResort,
            ..app(Duration::ZERO)
        };
        assert_eq!(table(&app, true, true), LAST_RESORT);
        let withdrawn = |table: String| {
            let rows = table
                .lines()
                .map(|row| row.split('|').nth(2).unwrap().trim().to_owned());
            assert!(
                rows.into_iter().all(|after| after.starts_with("down")),
                "{table}"
            );
        };
        withdrawn(table(&app, true, false));
        withdrawn(table(&app, false, true));
    }

    #[test]
    fn only_what_is_announced_becomes_a_last_resort_before_a_fact_is_known() {
        let now = Instant::now();
        let app = App {
            when_down: RouteAction::LastResort,
            ..app(Duration::ZERO)
        };
        let measured = Measured {
            awaits_fact: true,
            ..one_stage(Health::Down, true)
        };
        let after = states(now, now).map(|state| {
            let mut machine = AppHealth::new(now);
            (machine.started, machine.was_up, machine.state) = (true, true, state);
            machine.reconcile(now, measured, &app, &TIMERS);
            name(machine.state, now)
        });
        let (down, last_resort) = ("down for 0s", "last resort");
        let want = [down, down, last_resort, down, last_resort, last_resort];
        assert_eq!(after, want);
    }

    const TABLE: &str = "\
unknown for 10s                 | unknown for 10s                 | down for 10s                    | held 7s by StartDelay           | unknown for 60s, cleaned up
down for 10s                    | unknown for 10s                 | down for 10s                    | held 7s by StartDelay           | down for 60s, cleaned up
last resort                     | unknown for 0s                  | down for 0s                     | held 7s by StartDelay, last resort| -
held 5s by Damping              | unknown for 0s                  | down for 0s                     | held 5s by Damping              | up
held 5s by Damping, last resort | unknown for 0s                  | down for 0s                     | held 5s by Damping, last resort | up
up                              | unknown for 0s                  | down for 0s                     | up                              | -
";

    const LAST_RESORT: &str = "\
unknown for 10s                 | unknown for 10s                 | last resort                     | held 1s by Damping              | unknown for 60s, cleaned up
down for 10s                    | unknown for 10s                 | last resort                     | held 1s by Damping              | last resort
last resort                     | unknown for 0s                  | last resort                     | held 1s by Damping, last resort | -
held 5s by Damping              | unknown for 0s                  | last resort                     | held 5s by Damping              | up
held 5s by Damping, last resort | unknown for 0s                  | last resort                     | held 5s by Damping, last resort | up
up                              | unknown for 0s                  | last resort                     | up                              | -
";

    /// Every state, while the first stage passes, with everything that the second can say.
    #[test]
    fn the_table_of_transitions_of_the_second_stage() {
        let start = Instant::now();
        let now = start + Duration::from_secs(10);
        let app = app(Duration::ZERO);
        let mut table = String::new();
        for state in states(now, start) {
            table += &format!("{:<32}", name(state, now));
            for (second, is_standby) in [
                (Health::Unknown, false),
                (Health::Unknown, true),
                (Health::Down, false),
                (Health::Up, false),
            ] {
                let mut machine = AppHealth::new(start);
                (machine.started, machine.state) = (true, state);
                let measured = Measured {
                    second,
                    is_standby,
                    ..one_stage(Health::Up, true)
                };
                machine.reconcile(now, measured, &app, &TIMERS);
                table += &format!("| {:<32}", name(machine.state, now));
            }
            table = format!("{}\n", table.trim_end());
        }
        println!("{table}");
        assert_eq!(table, SECOND_STAGE);
    }

    #[test]
    fn the_second_stage_counts_for_nothing_while_the_first_does_not_pass() {
        let now = Instant::now();
        let app = app(Duration::ZERO);
        for first in [Health::Unknown, Health::Down] {
            for second in [Health::Unknown, Health::Down, Health::Up] {
                let mut machine = AppHealth::new(now);
                machine.reconcile(now, one_stage(Health::Up, true), &app, &TIMERS);
                let measured = Measured {
                    second,
                    ..one_stage(first, true)
                };
                machine.reconcile(now, measured, &app, &TIMERS);
                assert_eq!(machine.health(), first, "{second}");
            }
        }
    }

    /// Unknown; unknown where another instance holds the VIPs; down; up.
    const SECOND_STAGE: &str = "\
unknown for 10s                 | unknown for 10s                 | held 1s by Damping              | down for 10s                    | held 1s by Damping
down for 10s                    | unknown for 10s                 | held 1s by Damping              | down for 10s                    | held 1s by Damping
last resort                     | unknown for 0s                  | held 1s by Damping, last resort | down for 0s                     | held 1s by Damping, last resort
held 5s by Damping              | held 5s by Damping              | held 5s by Damping              | down for 0s                     | held 5s by Damping
held 5s by Damping, last resort | held 5s by Damping, last resort | held 5s by Damping, last resort | down for 0s                     | held 5s by Damping, last resort
up                              | up                              | up                              | down for 0s                     | up
";

    #[test]
    fn a_return_is_damped_and_a_start_waits_for_start_delay() {
        let now = Instant::now();
        let app = app(Duration::from_secs(7));
        let mut machine = AppHealth::new(now);
        machine.reconcile(now, one_stage(Health::Up, true), &app, &TIMERS);
        assert_eq!(
            machine.held().map(|(by, _)| by),
            Some(HoldReason::StartDelay)
        );
        let now = now + Duration::from_secs(7);
        machine.reconcile(now, one_stage(Health::Up, true), &app, &TIMERS);
        assert!(machine.is_up());
        machine.announced(now, &app);
        machine.reconcile(now, one_stage(Health::Down, true), &app, &TIMERS);
        machine.reconcile(now, one_stage(Health::Up, true), &app, &TIMERS);
        assert_eq!(machine.held().map(|(by, _)| by), Some(HoldReason::Damping));
    }

    #[test]
    fn inherited_health_holds_until_the_new_monitors_say_something() {
        let now = Instant::now();
        let app = app(Duration::ZERO);
        let vip: Prefix = "192.0.2.1/32".parse().unwrap();
        let mut machine = AppHealth::new(now);
        machine.reconcile(now, one_stage(Health::Up, true), &app, &TIMERS);
        machine.replace([vip].into(), true);
        machine.reconcile(now, one_stage(Health::Unknown, true), &app, &TIMERS);
        assert!(machine.is_up() && machine.is_inherited() && machine.covers(&vip));
        assert!(!machine.covers(&"192.0.2.2/32".parse().unwrap()));
        machine.reconcile(now, one_stage(Health::Down, true), &app, &TIMERS);
        assert_eq!(machine.health(), Health::Down);
        assert!(!machine.is_inherited());
    }
}
