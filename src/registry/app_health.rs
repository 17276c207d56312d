//! The health of one app: what its monitors say together, since when it has not been up, and what delays
//! its return. These clocks belong to the service: nothing that an operator asks for restarts them.
//!
//! ```text
//!           monitors: unknown  down   up                            deadline
//! Unknown             Unknown  Down   Up, or Held where it must wait cleanup_timer: cleaned up
//! Down                Unknown  Down   Up, or Held where it must wait cleanup_timer: cleaned up
//! Held                Unknown  Down   Held until its deadline        Up
//! Up                  Unknown  Down   Up                             -
//! ```

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::damping::Flaps;
use crate::app::App;
use crate::health::Health;
use crate::net::Prefix;

/// How long things stay, from the agent's settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct AppTimers {
    /// How long an app may be not up before its NAT rules go.
    pub cleanup_timer: Duration,
    /// How long an address stays after its route was withdrawn; `None`: until `cleanup_timer`.
    pub vip_linger: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct AppHealth {
    state: State,
    inherited: Option<InheritedHealth>,
    /// It was announced without reservation at least once: a return is no start any more.
    started: bool,
    /// It went down after an announcement and was not announced since.
    returning: bool,
    flaps: Flaps,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No monitor has decided yet.
    Unknown(NotUp),
    Down(NotUp),
    /// All monitors pass, and the announcement waits.
    Held {
        until: Instant,
        by: HeldBy,
    },
    Up,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NotUp {
    since: Instant,
    /// `cleanup_timer` has passed since.
    cleaned_up: bool,
}

/// What a healthy app waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeldBy {
    StartDelay,
    Damping,
}

/// What a replaced definition leaves to the new one until the first results of its own monitors.
#[derive(Clone, Debug, PartialEq, Eq)]
struct InheritedHealth {
    /// The VIPs that both definitions have.
    vips: BTreeSet<Prefix>,
    health: Health,
}

impl AppHealth {
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Unknown(NotUp::new(now)),
            inherited: None,
            started: false,
            returning: false,
            flaps: Flaps::default(),
        }
    }

    /// Takes what the monitors say together and does what is due.
    pub fn settle(&mut self, now: Instant, measured: Health, app: &App, timers: &AppTimers) {
        if measured != Health::Unknown {
            self.inherited = None;
        }
        let inherited = self.inherited.as_ref();
        let health = inherited.map_or(measured, |inherited| inherited.health);
        self.state = match (self.state, health) {
            (State::Up, Health::Up) => State::Up,
            (State::Held { until, .. }, Health::Up) if until <= now => State::Up,
            (State::Held { .. }, Health::Up) => self.state,
            (State::Unknown(_) | State::Down(_), Health::Up) => self.rise(now, app),
            (State::Up | State::Held { .. }, _) => {
                self.returning |= self.started;
                State::not_up(health, NotUp::new(now))
            }
            (State::Unknown(not_up) | State::Down(not_up), _) => State::not_up(health, not_up),
        };
        if let State::Unknown(not_up) | State::Down(not_up) = &mut self.state {
            not_up.cleaned_up |= not_up.since + timers.cleanup_timer <= now;
        }
    }

    /// The monitors have come to pass: a first announcement waits for `start_delay`, a return for damping.
    fn rise(&mut self, now: Instant, app: &App) -> State {
        let (wait, by) = if self.started {
            let hold = |damping| self.flaps.hold(now, &damping);
            (app.options.damping().and_then(hold), HeldBy::Damping)
        } else {
            (Some(app.options.start_delay), HeldBy::StartDelay)
        };
        match wait {
            Some(wait) if !wait.is_zero() => State::Held {
                until: now + wait,
                by,
            },
            _ => State::Up,
        }
    }

    /// The app is announced without reservation: what counts as a start or a return is over.
    pub fn announced(&mut self, now: Instant, app: &App) {
        self.started = true;
        if std::mem::take(&mut self.returning)
            && let Some(damping) = app.options.damping()
        {
            self.flaps.returned(now, &damping);
        }
    }

    /// The definition was replaced: until the new monitors say something, what the old ones found holds
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

    /// Nobody looked for a while: what is not known now counts from now on.
    pub fn begin_anew(&mut self, now: Instant) {
        self.state = State::Unknown(NotUp::new(now));
    }

    pub fn health(&self) -> Health {
        match self.state {
            State::Unknown(_) => Health::Unknown,
            State::Down(_) => Health::Down,
            State::Held { .. } | State::Up => Health::Up,
        }
    }

    /// All monitors pass and nothing delays the announcement.
    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// What delays the announcement of a healthy app, and until when.
    pub fn held(&self) -> Option<(HeldBy, Instant)> {
        match self.state {
            State::Held { until, by } => Some((by, until)),
            _ => None,
        }
    }

    pub fn is_inherited(&self) -> bool {
        self.inherited.is_some()
    }

    /// Whether what is known concerns this VIP: inherited health does not speak for new ones.
    pub fn covers(&self, vip: &Prefix) -> bool {
        let inherited = self.inherited.as_ref();
        inherited.is_none_or(|inherited| inherited.vips.contains(vip))
    }

    /// It has not been up for `cleanup_timer`.
    pub fn is_cleaned_up(&self) -> bool {
        matches!(self.state, State::Unknown(not_up) | State::Down(not_up) if not_up.cleaned_up)
    }

    /// How often it came back within the window of its damping.
    pub fn flaps(&self) -> usize {
        self.flaps.count()
    }

    pub fn deadline(&self, timers: &AppTimers) -> Option<Instant> {
        match self.state {
            State::Unknown(not_up) | State::Down(not_up) => {
                (!not_up.cleaned_up).then(|| not_up.since + timers.cleanup_timer)
            }
            State::Held { until, .. } => Some(until),
            State::Up => None,
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
            vips: BTreeSet::new(),
            monitors: BTreeSet::new(),
            nats: BTreeSet::new(),
            attributes: crate::app::Attributes::default(),
            when_down: crate::app::Reaction::default(),
            when_draining: crate::app::Reaction::default(),
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
            State::Held { until, by } => {
                let left = until.saturating_duration_since(now).as_secs();
                format!("held {left}s by {by:?}")
            }
            State::Up => "up".to_owned(),
        }
    }

    /// Every state with everything that monitors can say in it, and what its deadline brings.
    #[test]
    fn the_table_of_transitions() {
        let start = Instant::now();
        let now = start + Duration::from_secs(10);
        let since = NotUp::new(start);
        let until = now + Duration::from_secs(5);
        let by = HeldBy::Damping;
        let states = [
            State::Unknown(since),
            State::Down(since),
            State::Held { until, by },
            State::Up,
        ];
        let mut table = String::new();
        for state in states {
            let mut machine = AppHealth::new(start);
            machine.state = state;
            let mut row = format!("{:<17}", name(state, now));
            for measured in [Health::Unknown, Health::Down, Health::Up] {
                machine.state = state;
                machine.settle(now, measured, &app(Duration::from_secs(7)), &TIMERS);
                row += &format!("| {:<23}", name(machine.state, now));
            }
            machine.state = state;
            let (measured, at) = (machine.health(), machine.deadline(&TIMERS));
            let due = at.map_or("-".to_owned(), |at| {
                machine.settle(at, measured, &app(Duration::ZERO), &TIMERS);
                name(machine.state, at)
            });
            table += &format!("{row}| {due}\n");
        }
        println!("{table}");
        assert_eq!(table, TABLE);
    }

    const TABLE: &str = "\
unknown for 10s  | unknown for 10s        | down for 10s           | held 7s by StartDelay  | unknown for 60s, cleaned up
down for 10s     | unknown for 10s        | down for 10s           | held 7s by StartDelay  | down for 60s, cleaned up
held 5s by Damping| unknown for 0s         | down for 0s            | held 5s by Damping     | up
up               | unknown for 0s         | down for 0s            | up                     | -
";

    #[test]
    fn a_return_is_damped_and_a_start_waits_for_start_delay() {
        let now = Instant::now();
        let app = app(Duration::from_secs(7));
        let mut machine = AppHealth::new(now);
        machine.settle(now, Health::Up, &app, &TIMERS);
        assert_eq!(machine.held().map(|(by, _)| by), Some(HeldBy::StartDelay));
        let now = now + Duration::from_secs(7);
        machine.settle(now, Health::Up, &app, &TIMERS);
        assert!(machine.is_up());
        machine.announced(now, &app);
        machine.settle(now, Health::Down, &app, &TIMERS);
        machine.settle(now, Health::Up, &app, &TIMERS);
        assert_eq!(machine.held().map(|(by, _)| by), Some(HeldBy::Damping));
    }

    #[test]
    fn inherited_health_holds_until_the_new_monitors_say_something() {
        let now = Instant::now();
        let app = app(Duration::ZERO);
        let vip: Prefix = "192.0.2.1/32".parse().unwrap();
        let mut machine = AppHealth::new(now);
        machine.settle(now, Health::Up, &app, &TIMERS);
        machine.replace([vip].into(), true);
        machine.settle(now, Health::Unknown, &app, &TIMERS);
        assert!(machine.is_up() && machine.is_inherited() && machine.covers(&vip));
        assert!(!machine.covers(&"192.0.2.2/32".parse().unwrap()));
        machine.settle(now, Health::Down, &app, &TIMERS);
        assert_eq!(machine.health(), Health::Down);
        assert!(!machine.is_inherited());
    }
}
