//! One app: its definition and its state machines (health, intent, one for each VIP). `AppState` and its
//! reason are functions of these.

mod second_stage;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Instant;

use log::info;

use super::app_health::{AppHealth, AppTimers, HoldReason};
use super::checks::Checks;
use super::facts::Problem;
use super::intent::{Intent, Wait};
use super::vip::{DesiredState, Linger, VipMachine};
use super::{AppState, DrainSince, DrainView, MonitorId, StateChange};
use crate::app::{App, Attributes, DrainRequest, RouteAction, VipPresence};
use crate::config::Refusal;
use crate::health::Health;
use crate::net::Prefix;
use crate::plan::Route;
use crate::timer::EarliestDeadline;

pub(super) struct Entry {
    pub app: App,
    /// In the order of the app's monitors.
    pub monitors: Vec<MonitorId>,
    /// The indexes of those that probe the app's own VIPs.
    second_stage: Box<[usize]>,
    /// Why the app is refused: a refused app has no checks and claims no VIP.
    pub refusal: Option<Refusal>,
    pub health: AppHealth,
    pub intent: Intent,
    /// Who requested its drain, if it has one and that is known.
    pub drain_request: Option<DrainRequest>,
    /// In their order. A slice: most apps have one, and a map has room for eleven.
    vips: Box<[(Prefix, VipMachine)]>,
    /// The wildcard address without a monitor of the VIP has been logged.
    wildcard_logged: bool,
    /// Why the maintenance file cannot be looked up.
    pub maintenance_problem: Option<String>,
    /// A route of it was announced at least once.
    pub was_announced: bool,
    /// Transitions by the state entered, in the order of [`AppState::ALL`].
    transitions: [u64; AppState::ALL.len()],
    /// The state at the last reconcile, and since when.
    last_state: AppState,
    since: Instant,
    /// Since when it has been announced as last resort.
    last_resort_since: Option<Instant>,
}

/// How well an instance could hold the VIPs that it shares with others, the best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Eligibility {
    /// It would announce nothing.
    None,
    /// A standby whose second stage has not probed the VIP: it would announce nothing until that has passed.
    Unasked,
    LastResort,
    Healthy,
}

impl Entry {
    /// An app that was not checked yet.
    pub fn new(app: App, monitors: Vec<MonitorId>, now: Instant) -> Self {
        Self {
            second_stage: second_stage(&app, &monitors),
            app,
            monitors,
            refusal: None,
            health: AppHealth::new(now),
            intent: Intent::Run,
            drain_request: None,
            vips: Box::default(),
            wildcard_logged: false,
            maintenance_problem: None,
            was_announced: false,
            transitions: [0; AppState::ALL.len()],
            last_state: AppState::Pending,
            since: now,
            last_resort_since: None,
        }
    }

    /// Replaces the definition in place. What both have in common continues: the VIPs stay announced
    /// until each new monitor has a first result.
    pub fn replace(&mut self, now: Instant, app: App, monitors: Vec<MonitorId>) {
        let both: BTreeSet<Prefix> = self.vips().filter(|vip| app.vips.contains(vip)).collect();
        self.health.replace(both, self.is_announcing());
        // Without a file nothing would end the maintenance.
        if app.options.maintenance_file.is_none() {
            self.intent.set_maintenance(false);
        }
        // A new file is looked up anew.
        if self.app.options.maintenance_file != app.options.maintenance_file {
            self.maintenance_problem = None;
        }
        self.second_stage = second_stage(&app, &monitors);
        self.wildcard_logged = false;
        self.app = app;
        self.monitors = monitors;
        if self.refusal.take().is_some() {
            self.health.reset(now);
        }
    }

    /// The app's VIPs.
    pub fn vips(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.app.vips.iter().map(|vip| vip.prefix())
    }

    /// The state machine of one VIP.
    pub fn vip(&self, vip: &Prefix) -> Option<&VipMachine> {
        let at = self.position(vip)?;
        self.vips.get(at).map(|(_, machine)| machine)
    }

    fn vip_mut(&mut self, vip: &Prefix) -> Option<&mut VipMachine> {
        let at = self.position(vip)?;
        self.vips.get_mut(at).map(|(_, machine)| machine)
    }

    fn position(&self, vip: &Prefix) -> Option<usize> {
        self.vips.binary_search_by(|(of, _)| of.cmp(vip)).ok()
    }

    fn machines(&self) -> impl Iterator<Item = &VipMachine> {
        self.vips.iter().map(|(_, machine)| machine)
    }

    /// VIPs that are new get a state machine; that of a VIP which the app gave up goes.
    fn update_machines(&mut self) {
        let known = self.vips.iter().map(|(vip, _)| *vip);
        if known.eq(self.vips()) {
            return;
        }
        let before = std::mem::take(&mut self.vips);
        let mut before: BTreeMap<Prefix, VipMachine> = before.into_iter().collect();
        let machine = |vip| (vip, before.remove(&vip).unwrap_or_default());
        let vips = self.app.vips.iter().map(|vip| vip.prefix());
        self.vips = vips.map(machine).collect();
    }

    /// Whether this VIP's address is desired on the interface.
    pub fn is_addressed(&self, vip: &Prefix) -> bool {
        let always = self.app.options.vip_presence == VipPresence::Always;
        let machine = self.vip(vip);
        self.refusal.is_none() && machine.is_some_and(|machine| machine.is_addressed(always))
    }

    /// Its state after the last reconcile.
    pub fn last_state(&self) -> AppState {
        self.last_state
    }

    /// When the state was entered.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Since when it has been announced as last resort.
    pub fn last_resort_since(&self) -> Option<Instant> {
        self.last_resort_since
    }

    /// Begins a drain; one that has begun goes on.
    pub fn drain(&mut self, now: Instant, leaving: bool) {
        let options = &self.app.options;
        let wait = self.is_announcing().then_some(Wait {
            longest: options.drain_time,
            until: options.drain_wait,
        });
        self.intent.drain(now, leaving, wait);
    }

    /// How well it could hold a VIP now. `holds`: it does.
    pub fn eligibility(&self, vip: &Prefix, holds: bool, checks: &Checks) -> Eligibility {
        let free = self.intent == Intent::Run
            && self.refusal.is_none()
            && self.problems().all(Problem::is_standby);
        let last_resort =
            self.app.when_down == RouteAction::LastResort && self.health.is_last_resort();
        match free {
            true if self.health.is_up() && (holds || self.is_confirmed(vip, checks)) => {
                Eligibility::Healthy
            }
            true if self.health.is_up() => Eligibility::Unasked,
            true if last_resort => Eligibility::LastResort,
            _ => Eligibility::None,
        }
    }

    fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.machines().filter_map(|machine| machine.problem())
    }

    /// Updates health and intent from the monitors' results, before the holders of its VIPs are determined.
    pub fn reconcile_health(&mut self, now: Instant, checks: &Checks, timers: &AppTimers) {
        let measured = self.measured(checks);
        self.health.reconcile(now, measured, &self.app, timers);
        self.intent.reconcile(now);
    }

    /// Updates the VIPs from health and intent, and reports a change of the app's state. `problems` are in the
    /// order of its VIPs.
    pub fn reconcile_vips(
        &mut self,
        now: Instant,
        checks: &Checks,
        timers: &AppTimers,
        last_resort: &Attributes,
        problems: Vec<(Prefix, Problem)>,
    ) -> Option<StateChange> {
        let route = self.announcement(last_resort).map(Rc::new);
        let asks = self.first_stage(checks) == Health::Up && self.may_ask();
        self.update_machines();
        let (linger, cleaned_up) = (self.linger(timers), self.health.is_cleaned_up());
        let always = self.app.options.vip_presence == VipPresence::Always;
        let mut problems = problems.into_iter().peekable();
        let mut any = false;
        let vips: Vec<Prefix> = self.vips().collect();
        for vip in vips {
            let desired = match &route {
                Some(route) if self.is_confirmed(&vip, checks) => {
                    DesiredState::Announced(Rc::clone(route))
                }
                _ if asks => DesiredState::Probe,
                _ if always && self.refusal.is_none() => DesiredState::Addressed,
                _ => DesiredState::Absent,
            };
            any |= matches!(desired, DesiredState::Announced(_));
            let problem = problems.next_if(|(of, _)| *of == vip);
            let problem = problem.map(|(_, problem)| problem);
            if let Some(machine) = self.vip_mut(&vip) {
                machine.reconcile(now, desired, problem, linger, cleaned_up);
            }
        }
        self.log_wildcard(checks);
        if any && self.health.is_up() && self.intent == Intent::Run {
            self.health.announced(now, &self.app);
        }
        self.record_state(now, checks)
    }

    /// The change of its routes when the app became a last resort or ceased to be one.
    fn note_last_resort(&mut self, now: Instant) -> Option<&'static str> {
        let down = self.route_actions().and_then(|[_, down]| down);
        let routed = self.machines().any(|machine| machine.route().is_some());
        let is = routed && down == Some(&RouteAction::LastResort);
        let consequence = match (self.last_resort_since, is) {
            (None, true) => "announced as last resort",
            (Some(_), false) if routed => "announced as before",
            (Some(_), false) if self.problems().any(Problem::is_standby) => "handed over",
            (Some(_), false) => "withdrawn",
            (None, false) | (Some(_), true) => return None,
        };
        self.last_resort_since = is.then_some(now);
        Some(consequence)
    }

    fn record_state(&mut self, now: Instant, checks: &Checks) -> Option<StateChange> {
        let (from, to) = (self.last_state, self.state());
        let consequence = self.note_last_resort(now);
        if to == from && consequence.is_none() {
            return None;
        }
        if to != from {
            self.last_state = to;
            self.since = now;
            let mut counts = AppState::ALL.iter().zip(&mut self.transitions);
            if let Some((_, count)) = counts.find(|(state, _)| **state == to) {
                *count += 1;
            }
        }
        let why = self.why(checks);
        Some(StateChange {
            app: self.app.name.clone(),
            from,
            to,
            last_resort: self.last_resort_since.is_some(),
            why: match consequence {
                Some(consequence) => format!("{consequence}: {why}"),
                None => why,
            },
        })
    }

    /// How often each state was entered, without those that never were.
    pub fn transitions(&self) -> impl Iterator<Item = (AppState, u64)> {
        let counts = AppState::ALL.into_iter().zip(self.transitions);
        counts.filter(|(_, count)| *count > 0)
    }

    /// Whether routes are desired for VIPs that are not blocked.
    pub fn is_announcing(&self) -> bool {
        !self.waits_for_answer()
            && self.route_actions().is_some_and(|route_actions| {
                let mut route_actions = route_actions.into_iter().flatten();
                route_actions.all(|action| match action {
                    RouteAction::Withdraw => false,
                    RouteAction::LastResort => self.health.is_last_resort(),
                    RouteAction::Announce(_) => true,
                })
            })
    }

    /// Its desired route, the same for each VIP; `None`: none is desired.
    fn announcement(&self, last_resort: &Attributes) -> Option<Route> {
        let mut attributes = self.app.attributes.clone();
        for action in self.route_actions()?.into_iter().flatten() {
            match action {
                RouteAction::Withdraw => return None,
                RouteAction::LastResort if !self.health.is_last_resort() => return None,
                RouteAction::LastResort => attributes = attributes.less_attractive(last_resort),
                RouteAction::Announce(over) => attributes = attributes.overlaid(over),
            }
        }
        Some(Route {
            attributes,
            peers: self.app.options.peers.clone(),
        })
    }

    /// `when_draining` and `when_down`, where intent and health call for them; `None`: no route may be announced yet,
    /// not even with less preferred attributes.
    fn route_actions(&self) -> Option<[Option<&RouteAction>; 2]> {
        if self.refusal.is_some() || self.health.health() == Health::Unknown {
            return None;
        }
        if let Some((HoldReason::StartDelay, _)) = self.health.held() {
            return None;
        }
        let leaving = (self.intent != Intent::Run).then_some(&self.app.when_draining);
        let down = (!self.health.is_up()).then_some(&self.app.when_down);
        Some([leaving, down])
    }

    /// The state now, from health, intent and VIPs.
    pub fn state(&self) -> AppState {
        if self.refusal.is_some() || self.blocking_problem().is_some() {
            return AppState::Invalid;
        }
        match (&self.intent, self.health.health(), self.health.held()) {
            (Intent::Drain(drain) | Intent::Exit(drain), ..) if drain.is_done() => {
                AppState::Drained
            }
            (Intent::Drain(_) | Intent::Exit(_), ..) => AppState::Draining,
            (Intent::Maintenance, ..) => AppState::Maintenance,
            (Intent::Run, Health::Unknown, _) => AppState::Pending,
            (Intent::Run, Health::Down, _) => AppState::Down,
            (Intent::Run, Health::Up, Some((HoldReason::Damping, _))) => AppState::HeldDown,
            (Intent::Run, Health::Up, Some((HoldReason::StartDelay, _))) => AppState::Pending,
            (Intent::Run, Health::Up, None) if self.waits_for_answer() => AppState::Pending,
            (Intent::Run, Health::Up, None) => AppState::Up,
        }
    }

    /// What blocks a VIP; a standby does not count as blocked.
    fn blocking_problem(&self) -> Option<&Problem> {
        self.problems().find(|problem| !problem.is_standby())
    }

    /// Who has drained it or put it into maintenance, and since when.
    pub fn drain_view(&self, now: Instant) -> Option<DrainView> {
        let in_state = DrainSince::Ago(now.saturating_duration_since(self.since));
        let (by, since) = match (&self.intent, &self.drain_request) {
            (Intent::Run, _) => return None,
            (Intent::Exit(_), _) => (Some("SIGTERM or SIGINT".to_owned()), in_state),
            (Intent::Drain(_), Some(request)) => {
                let by = request.by().to_owned();
                (Some(by), DrainSince::At(request.since))
            }
            (Intent::Drain(_), None) => (None, in_state),
            (Intent::Maintenance, _) => {
                let file = self.app.options.maintenance_file.as_ref();
                let by = file.map(|file| format!("maintenance file {}", file.display()));
                (by, in_state)
            }
        };
        Some(DrainView { by, since })
    }

    /// The reason, with the remaining time of a hold-down.
    pub fn why_now(&self, now: Instant, checks: &Checks) -> String {
        let why = self.why(checks);
        match self.health.held() {
            Some((HoldReason::Damping, until)) if self.state() == AppState::HeldDown => {
                let left = until.saturating_duration_since(now);
                format!("{why}, for {:.1}s more", left.as_secs_f64())
            }
            _ => why,
        }
    }

    /// Why it is in its state; never empty.
    pub fn why(&self, checks: &Checks) -> String {
        if let Some(reason) = &self.refusal {
            return reason.to_string();
        }
        if let Some(problem) = self.blocking_problem() {
            return problem.to_string();
        }
        match &self.intent {
            Intent::Exit(_) => "stopping".to_owned(),
            Intent::Drain(drain) => match (&self.drain_request, drain.is_done()) {
                (Some(request), true) => format!("drained: requested by {}", request.by()),
                (Some(request), false) => format!("drain requested by {}", request.by()),
                (None, true) => "drained".to_owned(),
                (None, false) => "drain requested".to_owned(),
            },
            Intent::Maintenance => "maintenance file exists".to_owned(),
            Intent::Run => self.why_running(checks),
        }
    }

    fn why_running(&self, checks: &Checks) -> String {
        match (self.health.health(), self.health.held()) {
            (Health::Up, Some((HoldReason::Damping, _))) => match self.health.flaps() {
                1 => "announced again once within the window of flap_limit".to_owned(),
                flaps => format!("announced again {flaps} times within the window of flap_limit"),
            },
            (Health::Up, Some((HoldReason::StartDelay, _))) => {
                format!("healthy, start_delay is {:?}", self.app.options.start_delay)
            }
            (Health::Up, None) if self.waits_for_answer() => {
                self.describe_monitor(checks, Health::Unknown)
            }
            (Health::Up, None) if self.health.is_inherited() => {
                "waiting for the new monitors".to_owned()
            }
            (Health::Up, None) => match self.problems().next() {
                Some(standby) => standby.to_string(),
                None if self.monitors.is_empty() => "no monitors: always healthy".to_owned(),
                None => "all monitors pass".to_owned(),
            },
            (health, _) => self.describe_monitor(checks, health),
        }
    }

    /// The first monitor of that health and its message; one that states a fact before all others.
    fn describe_monitor(&self, checks: &Checks, health: Health) -> String {
        let monitors = self.app.monitors.iter().zip(&self.monitors).enumerate();
        let found = |second| {
            let found = monitors.clone().filter_map(|(index, (monitor, id))| {
                let check = checks.get(*id).filter(|check| check.health() == health)?;
                let found = self.is_second_stage(index) == second;
                found.then(|| (monitor.title(index), check))
            });
            found.min_by_key(|(_, check)| !check.is_down_for_fact())
        };
        let Some((label, check)) = found(false).or_else(|| found(true)) else {
            return "its health is unknown".to_owned();
        };
        match &check.last {
            Some(seen) => format!("{label}: {}", seen.outcome),
            None if check.is_paused() => {
                format!("waiting for {label}: asked when the address is there")
            }
            None => format!("{label}: not checked yet"),
        }
    }

    /// How long an address stays after its withdraw.
    fn linger(&self, timers: &AppTimers) -> Linger {
        match timers.vip_linger {
            None => Linger::UntilCleanup(!self.health.is_cleaned_up()),
            Some(stay) if self.intent.is_draining() => {
                Linger::For(stay.max(self.app.options.drain_time))
            }
            Some(stay) => Linger::For(stay),
        }
    }

    /// The next deadline, except those of checks.
    pub fn deadline(&self, timers: &AppTimers) -> Option<Instant> {
        let mut earliest = EarliestDeadline::new();
        earliest.add(self.health.deadline(timers), ());
        earliest.add(self.intent.deadline(), ());
        let linger = self.linger(timers);
        for machine in self.machines() {
            earliest.add(machine.deadline(linger), ());
        }
        earliest.get().map(|(at, ())| at)
    }

    /// Renames the app, and logs it.
    pub fn rename(&mut self, name: crate::app::AppName) {
        info!("app {}: renamed to {name}", self.app.name);
        self.app.name = name;
    }
}

/// The indexes of the monitors that probe the app's own VIPs; empty for a refused app, which has no checks.
fn second_stage(app: &App, checks: &[MonitorId]) -> Box<[usize]> {
    let monitors = app.monitors.iter().zip(checks).enumerate();
    let asking = monitors.filter(|(_, (monitor, _))| app.asks_vips(&monitor.spec));
    asking.map(|(index, _)| index).collect()
}
