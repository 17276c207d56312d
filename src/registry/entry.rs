//! The life of one app: what its monitors say, whether it may be announced now, and how long what it
//! leaves behind stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use log::{Level, log};

use super::check::Check;
use super::damping::Flaps;
use super::facts::Problem;
use super::{AppState, Change};
use crate::app::{App, Attributes, Reaction, VipPresence};
use crate::health::Health;
use crate::net::Prefix;
use crate::timer::Soonest;

pub(super) struct Entry {
    pub app: App,
    /// In the order of the app's monitors.
    pub checks: Vec<Check>,
    /// Why the whole app is kept away; only those of the configuration and of Consul are kept like this.
    pub refusal: Option<String>,
    /// What stands against single VIPs.
    pub problems: BTreeMap<Prefix, Problem>,
    pub drain: Option<Drain>,
    pub maintenance: bool,
    /// A route of it was out at least once.
    pub was_announced: bool,
    pub transitions: BTreeMap<AppState, u64>,
    carried: Option<Carried>,
    health: Health,
    not_up_since: Option<Instant>,
    /// `cleanup_timer` has passed since it was last up.
    cleaned: bool,
    flaps: Flaps,
    /// It went down while announced, and has not been announced again since.
    returning: bool,
    hold: Option<Hold>,
    stance: Stance,
    /// The full announcement was wanted at least once.
    started: bool,
    /// VIPs that were announced and are not any more, since when: their addresses linger.
    withdrawn: BTreeMap<Prefix, Instant>,
    nat_wanted: bool,
    wants: Vec<Want>,
    state: AppState,
    since: Instant,
    why: String,
}

/// What a replaced definition leaves to the new one until that knows its own health.
struct Carried {
    vips: BTreeSet<Prefix>,
    health: Health,
}

/// Healthy, but not yet: from damping, or from `start_delay`.
#[derive(Clone, Copy)]
struct Hold {
    until: Instant,
    state: AppState,
}

/// A drain in progress or done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    pub ack: Ack,
    over_at: Instant,
    pub done: bool,
    /// The process is about to end.
    for_exit: bool,
}

/// Whether the peers have the withdraw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ack {
    Wanted,
    Asked,
    Got,
}

impl Drain {
    fn state(&self) -> (AppState, String) {
        let (state, why) = match self.done {
            true => (AppState::Drained, "drained"),
            false => (AppState::Draining, "drain asked for"),
        };
        let why = if self.for_exit { "stopping" } else { why };
        (state, why.to_owned())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stance {
    Silent,
    Announce(Attributes),
}

/// How long things stay, from the agent's settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub cleanup_timer: Duration,
    /// `None`: the address stays until `cleanup_timer`.
    pub vip_linger: Option<Duration>,
}

impl Entry {
    pub fn new(app: App, checks: Vec<Check>, now: Instant) -> Self {
        Self {
            app,
            checks,
            refusal: None,
            problems: BTreeMap::new(),
            drain: None,
            maintenance: false,
            was_announced: false,
            transitions: BTreeMap::new(),
            carried: None,
            health: Health::Unknown,
            not_up_since: Some(now),
            cleaned: false,
            flaps: Flaps::default(),
            returning: false,
            hold: None,
            stance: Stance::Silent,
            started: false,
            withdrawn: BTreeMap::new(),
            nat_wanted: false,
            wants: Vec::new(),
            state: AppState::Pending,
            since: now,
            why: "registered".to_owned(),
        }
    }

    /// Takes a new definition in place. What both have in common goes on: the VIPs stay announced
    /// until the new monitors' first round is in.
    pub fn replace(&mut self, app: App, checks: Vec<Check>) {
        let both: BTreeSet<Prefix> = self.vips().filter(|vip| app.vips.contains(vip)).collect();
        let announced = matches!(self.stance, Stance::Announce(_));
        let carried = self.carried.take();
        let vips = match carried {
            Some(before) => both.intersection(&before.vips).copied().collect(),
            None => both,
        };
        if announced && !vips.is_empty() {
            self.carried = Some(Carried {
                vips,
                health: self.health,
            });
        }
        // Without a file nobody would ever end the maintenance.
        self.maintenance &= app.maintenance_file.is_some();
        self.app = app;
        self.checks = checks;
        self.refusal = None;
    }

    pub fn vips(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.app.vips.iter().map(|vip| vip.prefix())
    }

    pub fn state(&self) -> AppState {
        self.state
    }

    pub fn since(&self) -> Instant {
        self.since
    }

    pub fn why(&self) -> &str {
        &self.why
    }

    pub fn health(&self) -> Health {
        self.health
    }

    pub fn flaps(&self) -> usize {
        self.flaps.count()
    }

    /// Until when damping holds it.
    pub fn held_until(&self) -> Option<Instant> {
        self.hold
            .filter(|hold| hold.state == AppState::HeldDown)
            .map(|hold| hold.until)
    }

    /// Whether it could hold its VIPs now: healthy, and nothing stands against it.
    pub fn serves(&self) -> bool {
        let stands_by = self.problems.values().all(Problem::is_standby);
        let leaves = self.drain.is_some() || self.maintenance;
        self.health == Health::Up
            && self.hold.is_none()
            && !leaves
            && stands_by
            && self.refusal.is_none()
    }

    /// Whether `cleanup_timer` is over.
    pub fn cleaned(&self) -> bool {
        self.cleaned
    }

    pub fn is_announcing(&self) -> bool {
        matches!(self.stance, Stance::Announce(_))
    }

    /// Begins a drain; one that has begun goes on.
    pub fn start_drain(&mut self, now: Instant, for_exit: bool) {
        if self.drain.is_some() {
            return;
        }
        // Nothing is out: there is nobody to wait for.
        let out = self.is_announcing();
        let wait = if out {
            self.app.drain_time
        } else {
            Duration::ZERO
        };
        self.drain = Some(Drain {
            ack: if out { Ack::Wanted } else { Ack::Got },
            over_at: now + wait,
            done: false,
            for_exit,
        });
    }

    /// Brings everything that follows from the inputs up to date. The only place that changes the
    /// state.
    pub fn settle(&mut self, now: Instant, terms: &Terms) -> Option<Change> {
        self.settle_health(now, terms);
        if let Some(drain) = &mut self.drain {
            drain.done = drain.done || (drain.ack == Ack::Got && drain.over_at <= now);
        }
        let full = self.hold.is_none() && self.drain.is_none() && !self.maintenance;
        self.stance = self.wanted_stance();
        if self.is_announcing() {
            self.nat_wanted = true;
            if self.health == Health::Up && full {
                self.started = true;
                if std::mem::take(&mut self.returning)
                    && let Some(damping) = &self.app.damping
                {
                    self.flaps.returned(now, damping);
                }
            }
        }
        self.note_withdrawn(now, terms);
        self.change_state(now)
    }

    fn note_withdrawn(&mut self, now: Instant, terms: &Terms) {
        let out = self.wants.iter().filter(|want| want.route.is_some());
        let out: Vec<Prefix> = out.map(|want| want.vip).collect();
        let mut withdrawn = std::mem::take(&mut self.withdrawn);
        for vip in out {
            withdrawn.entry(vip).or_insert(now);
        }
        withdrawn.retain(|vip, since| {
            self.app.vips.contains(vip)
                && self.route(vip).is_none()
                && self.lingers(*since, now, terms)
        });
        self.withdrawn = withdrawn;
    }

    fn settle_health(&mut self, now: Instant, terms: &Terms) {
        let measured = self.measured();
        if measured != Health::Unknown {
            self.carried = None;
        }
        let health = match &self.carried {
            Some(carried) => carried.health,
            None => measured,
        };
        let before = std::mem::replace(&mut self.health, health);
        if health == Health::Up {
            self.not_up_since = None;
            self.cleaned = false;
            if before != Health::Up {
                self.hold = self.wanted_hold(now);
            }
            if self.hold.is_some_and(|hold| hold.until <= now) {
                self.hold = None;
            }
            return;
        }
        if before == Health::Up && self.started {
            self.returning = true;
        }
        self.hold = None;
        let since = *self.not_up_since.get_or_insert(now);
        if !self.cleaned && since + terms.cleanup_timer <= now {
            self.cleaned = true;
            self.nat_wanted = false;
        }
    }

    /// All monitors together.
    fn measured(&self) -> Health {
        let mut all = Health::Up;
        for check in &self.checks {
            match check.health() {
                Health::Down => return Health::Down,
                Health::Unknown => all = Health::Unknown,
                Health::Up => {}
            }
        }
        all
    }

    fn wanted_hold(&mut self, now: Instant) -> Option<Hold> {
        let (wait, state) = if self.started {
            let damping = self.app.damping.as_ref()?;
            (self.flaps.hold(now, damping)?, AppState::HeldDown)
        } else {
            (self.app.start_delay, AppState::Pending)
        };
        Some(Hold {
            until: now + wait,
            state,
        })
    }

    fn wanted_stance(&self) -> Stance {
        if self.refusal.is_some() || self.health == Health::Unknown {
            return Stance::Silent;
        }
        let leaving = self.drain.is_some() || self.maintenance;
        let draining = leaving.then_some(&self.app.when_draining);
        let down = match (self.health, self.hold) {
            (Health::Up, None) => None,
            // The start was never announced: there is nothing to keep up, however unattractive.
            (Health::Up, Some(hold)) if hold.state == AppState::Pending => return Stance::Silent,
            _ => Some(&self.app.when_down),
        };
        let mut attributes = self.app.attributes.clone();
        for reaction in [draining, down].into_iter().flatten() {
            match reaction {
                Reaction::Withdraw => return Stance::Silent,
                Reaction::Announce(over) => attributes = attributes.overlaid(over),
            }
        }
        Stance::Announce(attributes)
    }

    fn change_state(&mut self, now: Instant) -> Option<Change> {
        let (to, why) = self.wanted_state();
        self.why = why;
        if to == self.state {
            return None;
        }
        let from = std::mem::replace(&mut self.state, to);
        self.since = now;
        *self.transitions.entry(to).or_insert(0) += 1;
        // The process says that it stops, and each app that it drains: that is enough.
        let exits = self.drain.is_some_and(|drain| drain.for_exit);
        let level = match (from, to) {
            (AppState::Draining, AppState::Drained) if exits => Level::Debug,
            _ => Level::Info,
        };
        log!(level, "app {}: {from} -> {to}: {}", self.app.name, self.why);
        Some(Change {
            app: self.app.name.clone(),
            from,
            to,
            why: self.why.clone(),
        })
    }

    fn wanted_state(&self) -> (AppState, String) {
        if let Some(reason) = &self.refusal {
            return (AppState::Invalid, reason.clone());
        }
        let mut problems = self.problems.values();
        if let Some(problem) = problems.find(|problem| !problem.is_standby()) {
            return (AppState::Invalid, problem.to_string());
        }
        if let Some(drain) = &self.drain {
            return drain.state();
        }
        if self.maintenance {
            return (
                AppState::Maintenance,
                "maintenance file is there".to_owned(),
            );
        }
        match (self.health, self.hold) {
            (Health::Down, _) => (AppState::Down, self.worst(Health::Down)),
            (Health::Unknown, _) => (AppState::Pending, self.worst(Health::Unknown)),
            (Health::Up, Some(hold)) if hold.state == AppState::HeldDown => {
                let count = self.flaps.count();
                (hold.state, format!("came back {count} times of late"))
            }
            (Health::Up, Some(_)) => {
                let delay = self.app.start_delay;
                (
                    AppState::Pending,
                    format!("healthy, start_delay is {delay:?}"),
                )
            }
            (Health::Up, None) if self.carried.is_some() => {
                (AppState::Up, "waiting for the new monitors".to_owned())
            }
            (Health::Up, None) if !self.problems.is_empty() => {
                let standby = self.problems.values().next();
                (
                    AppState::Up,
                    standby.map(ToString::to_string).unwrap_or_default(),
                )
            }
            (Health::Up, None) if self.checks.is_empty() => {
                (AppState::Up, "it has no monitors".to_owned())
            }
            (Health::Up, None) => (AppState::Up, "all monitors pass".to_owned()),
        }
    }

    /// The first monitor of that health and what it said.
    fn worst(&self, health: Health) -> String {
        let found = self
            .checks
            .iter()
            .enumerate()
            .find(|(_, c)| c.health() == health);
        let Some((index, check)) = found else {
            return "its health is not known".to_owned();
        };
        let label = check.monitor.label(index);
        match &check.last {
            Some(seen) => format!("{label}: {}", seen.outcome),
            None => format!("{label}: not checked yet"),
        }
    }

    /// Whether this VIP's route is wanted, and how.
    pub fn route(&self, vip: &Prefix) -> Option<&Attributes> {
        match &self.stance {
            Stance::Announce(attributes) if self.takes_part(vip) => Some(attributes),
            _ => None,
        }
    }

    /// Whether this VIP's address is wanted. One that cannot be announced must not be there: this host
    /// would reach no other site, and no client this one.
    pub fn addressed(&self, vip: &Prefix) -> bool {
        if self.cut_off(vip) || self.refusal.is_some() {
            return false;
        }
        self.app.vip_presence == VipPresence::Always
            || (self.is_announcing() && self.takes_part(vip))
            || self.withdrawn.contains_key(vip)
    }

    /// Whether this VIP's NAT rules are wanted.
    pub fn nat(&self, vip: &Prefix) -> bool {
        let lingers = self.withdrawn.contains_key(vip) && !self.cut_off(vip);
        self.nat_wanted && (lingers || !self.problems.contains_key(vip))
    }

    fn cut_off(&self, vip: &Prefix) -> bool {
        self.problems.get(vip).is_some_and(Problem::cuts_off)
    }

    fn takes_part(&self, vip: &Prefix) -> bool {
        !self.problems.contains_key(vip) && self.carries(vip)
    }

    fn carries(&self, vip: &Prefix) -> bool {
        self.carried.as_ref().is_none_or(|c| c.vips.contains(vip))
    }

    /// Whether an address still lingers that was withdrawn `since` then.
    fn lingers(&self, since: Instant, now: Instant, terms: &Terms) -> bool {
        match self.linger(terms) {
            Some(stay) => now < since + stay,
            None => !self.cleaned,
        }
    }

    /// How long an address stays after its withdraw; `None` where it waits for no time.
    fn linger(&self, terms: &Terms) -> Option<Duration> {
        let stay = terms.vip_linger?;
        let drains = self.drain.is_some();
        Some(if drains {
            stay.max(self.app.drain_time)
        } else {
            stay
        })
    }

    /// The next moment at which something changes by itself, checks apart.
    pub fn deadline(&self, terms: &Terms) -> Option<Instant> {
        let mut soonest = Soonest::new();
        soonest.add(self.hold.map(|hold| hold.until), ());
        let cleanup = self.not_up_since.filter(|_| !self.cleaned);
        soonest.add(cleanup.map(|since| since + terms.cleanup_timer), ());
        if let Some(stay) = self.linger(terms) {
            let first = self.withdrawn.values().min();
            soonest.add(first.map(|since| *since + stay), ());
        }
        let drain = self.drain.filter(|d| d.ack == Ack::Got && !d.done);
        soonest.add(drain.map(|drain| drain.over_at), ());
        soonest.get().map(|(at, ())| at)
    }

    /// As `deadline`, with the checks.
    pub fn next_deadline(&self, terms: &Terms) -> Option<Instant> {
        let mut soonest = Soonest::new();
        soonest.add(self.deadline(terms), ());
        for check in &self.checks {
            soonest.add(Some(check.deadline()), ());
        }
        soonest.get().map(|(at, ())| at)
    }

    /// Whether its part of what is desired is another since this was last asked.
    pub fn take_wants_changed(&mut self) -> bool {
        let want = |vip: Prefix| Want {
            route: self.route(&vip).cloned(),
            address: self.addressed(&vip),
            nat: self.nat(&vip),
            vip,
        };
        let wants = self.vips().map(want).collect();
        let changed = self.wants != wants;
        self.wants = wants;
        changed
    }
}

/// What one VIP wants of the world.
#[derive(PartialEq, Eq)]
struct Want {
    vip: Prefix,
    route: Option<Attributes>,
    address: bool,
    nat: bool,
}
