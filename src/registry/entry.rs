//! One app: its definition, the three machines of its life (health, intent, one for each VIP), and what is
//! remembered of it. Its state, and why it is in it, follow from these.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Instant;

use log::info;

use super::app_health::{AppHealth, AppTimers, HeldBy};
use super::checks::Checks;
use super::facts::Problem;
use super::intent::Intent;
use super::vip::{Linger, VipLife, Wish};
use super::{AppState, Change, MonitorId};
use crate::app::{App, Attributes, Reaction, VipPresence};
use crate::config::Refusal;
use crate::health::Health;
use crate::net::Prefix;
use crate::timer::Soonest;

pub(super) struct Entry {
    pub app: App,
    /// In the order of the app's monitors.
    pub monitors: Vec<MonitorId>,
    /// Why the whole app is kept away: it has no checks, and wants no VIP.
    pub refusal: Option<Refusal>,
    pub health: AppHealth,
    pub intent: Intent,
    vips: BTreeMap<Prefix, VipLife>,
    /// Why it cannot be told whether its maintenance file is there.
    pub maintenance_problem: Option<String>,
    /// A route of it was out at least once.
    pub was_announced: bool,
    /// Transitions by the state entered.
    pub transitions: BTreeMap<AppState, u64>,
    /// As it was when it was last settled, and since when.
    shown: AppState,
    since: Instant,
}

impl Entry {
    pub fn new(app: App, monitors: Vec<MonitorId>, now: Instant) -> Self {
        Self {
            app,
            monitors,
            refusal: None,
            health: AppHealth::new(now),
            intent: Intent::Run,
            vips: BTreeMap::new(),
            maintenance_problem: None,
            was_announced: false,
            transitions: BTreeMap::new(),
            shown: AppState::Pending,
            since: now,
        }
    }

    /// Takes a new definition in place. What both have in common goes on: the VIPs stay announced
    /// until the new monitors' first round is in.
    pub fn replace(&mut self, now: Instant, app: App, monitors: Vec<MonitorId>) {
        let both: BTreeSet<Prefix> = self.vips().filter(|vip| app.vips.contains(vip)).collect();
        self.health.replace(both, self.is_announcing());
        // Without a file nobody would ever end the maintenance.
        if app.options.maintenance_file.is_none() {
            self.intent.set_maintenance(false);
        }
        // Its file is looked at anew if it is another one.
        if self.app.options.maintenance_file != app.options.maintenance_file {
            self.maintenance_problem = None;
        }
        self.app = app;
        self.monitors = monitors;
        if self.refusal.take().is_some() {
            self.health.begin_anew(now);
        }
    }

    pub fn vips(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.app.vips.iter().map(|vip| vip.prefix())
    }

    pub fn vip(&self, vip: &Prefix) -> Option<&VipLife> {
        self.vips.get(vip)
    }

    /// Whether this VIP's address is wanted on the interface.
    pub fn is_addressed(&self, vip: &Prefix) -> bool {
        let always = self.app.options.vip_presence == VipPresence::Always;
        let life = self.vips.get(vip);
        self.refusal.is_none() && life.is_some_and(|life| life.is_addressed(always))
    }

    /// Its state when it was last settled.
    pub fn shown(&self) -> AppState {
        self.shown
    }

    pub fn since(&self) -> Instant {
        self.since
    }

    /// Begins a drain; one that has begun goes on.
    pub fn drain(&mut self, now: Instant, leaving: bool) {
        let announced = self.is_announcing().then_some(self.app.options.drain_time);
        self.intent.drain(now, leaving, announced);
    }

    /// Whether it could hold its VIPs now: healthy, and nothing stands against it.
    pub fn is_eligible(&self) -> bool {
        self.health.is_up()
            && self.intent == Intent::Run
            && self.refusal.is_none()
            && self.problems().all(Problem::is_standby)
    }

    fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.vips.values().filter_map(VipLife::problem)
    }

    /// Brings the three machines up to date with what monitors and network say, and reports a change
    /// of the app's state.
    pub fn settle(
        &mut self,
        now: Instant,
        checks: &Checks,
        timers: &AppTimers,
        mut problems: BTreeMap<Prefix, Problem>,
    ) -> Option<Change> {
        let measured = match &self.refusal {
            None => checks.all(&self.monitors),
            Some(_) => Health::Unknown,
        };
        self.health.settle(now, measured, &self.app, timers);
        self.intent.settle(now);
        let attributes = self.announcement().map(Rc::new);
        if attributes.is_some() && self.health.is_up() && self.intent == Intent::Run {
            self.health.announced(now, &self.app);
        }
        self.vips.retain(|vip, _| self.app.vips.contains(vip));
        let (linger, cleaned_up) = (self.linger(timers), self.health.is_cleaned_up());
        let always = self.app.options.vip_presence == VipPresence::Always;
        for vip in self.app.vips.iter().map(|vip| vip.prefix()) {
            let wish = match &attributes {
                Some(attributes) if self.health.covers(&vip) => {
                    Wish::Announce(Rc::clone(attributes))
                }
                _ if always && self.refusal.is_none() => Wish::Address,
                _ => Wish::Nothing,
            };
            let life = self.vips.entry(vip).or_default();
            life.settle(now, wish, problems.remove(&vip), linger, cleaned_up);
        }
        self.note_state(now, checks)
    }

    fn note_state(&mut self, now: Instant, checks: &Checks) -> Option<Change> {
        let (from, to) = (self.shown, self.state());
        if to == from {
            return None;
        }
        self.shown = to;
        self.since = now;
        *self.transitions.entry(to).or_insert(0) += 1;
        Some(Change {
            app: self.app.name.clone(),
            from,
            to,
            why: self.why(checks),
        })
    }

    /// Whether routes are wanted for VIPs that nothing stands against.
    pub fn is_announcing(&self) -> bool {
        self.reactions().is_some_and(|reactions| {
            let mut reactions = reactions.into_iter().flatten();
            reactions.all(|reaction| *reaction != Reaction::Withdraw)
        })
    }

    /// The attributes of its routes; `None`: no route is wanted.
    fn announcement(&self) -> Option<Attributes> {
        let mut attributes = self.app.attributes.clone();
        for reaction in self.reactions()?.into_iter().flatten() {
            match reaction {
                Reaction::Withdraw => return None,
                Reaction::Announce(over) => attributes = attributes.overlaid(over),
            }
        }
        Some(attributes)
    }

    /// What intent and health ask for; `None`: there is nothing to announce yet, however unattractive.
    fn reactions(&self) -> Option<[Option<&Reaction>; 2]> {
        if self.refusal.is_some() || self.health.health() == Health::Unknown {
            return None;
        }
        if let Some((HeldBy::StartDelay, _)) = self.health.held() {
            return None;
        }
        let leaving = (self.intent != Intent::Run).then_some(&self.app.when_draining);
        let down = (!self.health.is_up()).then_some(&self.app.when_down);
        Some([leaving, down])
    }

    pub fn state(&self) -> AppState {
        if self.refusal.is_some() || self.obstacle().is_some() {
            return AppState::Invalid;
        }
        match (self.intent, self.health.health(), self.health.held()) {
            (Intent::Drain(drain) | Intent::Leave(drain), ..) if drain.is_done() => {
                AppState::Drained
            }
            (Intent::Drain(_) | Intent::Leave(_), ..) => AppState::Draining,
            (Intent::Maintenance, ..) => AppState::Maintenance,
            (Intent::Run, Health::Unknown, _) => AppState::Pending,
            (Intent::Run, Health::Down, _) => AppState::Down,
            (Intent::Run, Health::Up, Some((HeldBy::Damping, _))) => AppState::HeldDown,
            (Intent::Run, Health::Up, Some((HeldBy::StartDelay, _))) => AppState::Pending,
            (Intent::Run, Health::Up, None) => AppState::Up,
        }
    }

    /// What keeps a VIP from being announced; to stand by is no obstacle.
    fn obstacle(&self) -> Option<&Problem> {
        self.problems().find(|problem| !problem.is_standby())
    }

    /// Why it is in its state; never empty.
    pub fn why(&self, checks: &Checks) -> String {
        if let Some(reason) = &self.refusal {
            return reason.to_string();
        }
        if let Some(problem) = self.obstacle() {
            return problem.to_string();
        }
        match self.intent {
            Intent::Leave(_) => "stopping".to_owned(),
            Intent::Drain(drain) if drain.is_done() => "drained".to_owned(),
            Intent::Drain(_) => "drain asked for".to_owned(),
            Intent::Maintenance => "maintenance file is there".to_owned(),
            Intent::Run => self.why_healthy(checks),
        }
    }

    fn why_healthy(&self, checks: &Checks) -> String {
        match (self.health.health(), self.health.held()) {
            (Health::Up, Some((HeldBy::Damping, _))) => {
                format!(
                    "held down after {} announcements within flap_window",
                    self.health.flaps()
                )
            }
            (Health::Up, Some((HeldBy::StartDelay, _))) => {
                format!("healthy, start_delay is {:?}", self.app.options.start_delay)
            }
            (Health::Up, None) if self.health.is_inherited() => {
                "waiting for the new monitors".to_owned()
            }
            (Health::Up, None) => match self.problems().next() {
                Some(standby) => standby.to_string(),
                None if self.monitors.is_empty() => "it has no monitors".to_owned(),
                None => "all monitors pass".to_owned(),
            },
            (health, _) => self.worst(checks, health),
        }
    }

    /// The first monitor of that health and what it said.
    fn worst(&self, checks: &Checks, health: Health) -> String {
        let mut monitors = self.app.monitors.iter().zip(&self.monitors).enumerate();
        let found = monitors.find_map(|(index, (monitor, id))| {
            let check = checks.get(*id).filter(|check| check.health() == health)?;
            Some((monitor.label(index), check))
        });
        let Some((label, check)) = found else {
            return "its health is not known".to_owned();
        };
        match &check.last {
            Some(seen) => format!("{label}: {}", seen.outcome),
            None => format!("{label}: not checked yet"),
        }
    }

    /// How long an address stays after its withdraw.
    fn linger(&self, timers: &AppTimers) -> Linger {
        match timers.vip_linger {
            None => Linger::WhileNotCleanedUp(!self.health.is_cleaned_up()),
            Some(stay) if self.intent.is_leaving() => {
                Linger::For(stay.max(self.app.options.drain_time))
            }
            Some(stay) => Linger::For(stay),
        }
    }

    /// The next moment at which something changes by itself, checks apart.
    pub fn deadline(&self, timers: &AppTimers) -> Option<Instant> {
        let mut soonest = Soonest::new();
        soonest.add(self.health.deadline(timers), ());
        soonest.add(self.intent.deadline(), ());
        let linger = self.linger(timers);
        for life in self.vips.values() {
            soonest.add(life.deadline(linger), ());
        }
        soonest.get().map(|(at, ())| at)
    }

    /// Says in the log that it is called otherwise from now on.
    pub fn rename(&mut self, name: crate::app::AppName) {
        info!("app {}: is {name} from now on", self.app.name);
        self.app.name = name;
    }
}
