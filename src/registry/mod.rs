//! The apps: who registered what, who holds which VIP, what their monitors say, and what is desired
//! because of it.

mod app_health;
mod check;
mod checks;
mod claims;
mod damping;
mod drains;
mod entry;
mod facts;
mod index;
mod instances;
mod intent;
mod register;
mod show;
mod view;
mod vip;
mod wanted;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use log::{debug, info};

pub use check::{CheckResult, MonitorId};
pub use drains::Drains;
pub use facts::{Facts, Problem};
pub use instances::DiscoveredApp;
pub use register::Configured;
pub use view::{AppView, Counted, MonitorView, NatView, VipView};

use crate::app::{App, AppName, MonitorSpec, NatSpec, Protocol, Source};
use crate::config::{Agent, Config, Policy};
use crate::health::Outcome;
use crate::net::Prefix;
use crate::timer::{Deadlines, Soonest};
use app_health::AppTimers;
use checks::Checks;
use claims::Claims;
use entry::Entry;
use index::Index;

/// What is shown of an app's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AppState {
    /// Its health is not known yet, or `start_delay` is running.
    Pending,
    Up,
    Down,
    Draining,
    Drained,
    Maintenance,
    /// Healthy, but it came back too often of late.
    HeldDown,
    /// Something outside the app keeps it from being announced.
    Invalid,
}

impl AppState {
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Up,
        Self::Down,
        Self::Draining,
        Self::Drained,
        Self::Maintenance,
        Self::HeldDown,
        Self::Invalid,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Up => "up",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Maintenance => "maintenance",
            Self::HeldDown => "held_down",
            Self::Invalid => "invalid",
        }
    }
}

impl fmt::Display for AppState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a registration did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    Added,
    /// The same name had another definition.
    Replaced,
    Unchanged,
}

/// An app's state changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub app: AppName,
    pub from: AppState,
    pub to: AppState,
    pub why: String,
}

/// What the registry wants done.
#[derive(Clone, Debug)]
pub enum Output {
    Check {
        monitor: MonitorId,
        spec: MonitorSpec,
        timeout: Duration,
    },
    /// Nobody waits for the answer of this check any more.
    Abandon(MonitorId),
    Changed(Change),
}

/// All apps.
pub struct Registry {
    apps: BTreeMap<AppName, Box<Entry>>,
    claims: Claims,
    checks: Checks,
    /// What apps that are gone or were replaced leave behind.
    leaving: BTreeMap<Prefix, Leaving>,
    drains: Drains,
    agent: Agent,
    policy: Policy,
    facts: Facts,
    queue: Queue,
    deadlines: Deadlines<Subject>,
    index: Index,
    /// Apps that have come to want a route: one may be out already.
    announcing: Vec<AppName>,
    outputs: VecDeque<Output>,
    /// What a restart has to know may have changed.
    redefined: bool,
    maintenance_files: BTreeMap<AppName, PathBuf>,
    maintenance_files_changed: bool,
    /// A VIP came or went.
    vips_changed: bool,
    /// The process is about to end: everybody drains, nothing is remembered.
    exiting: bool,
    /// How often an app was looked at.
    #[cfg(test)]
    pub looks: usize,
}

/// What is to be looked at again. Looking computes what is wanted from what is, not from what happened:
/// to be here once too often costs time and changes nothing.
#[derive(Debug, Default)]
struct Queue {
    apps: BTreeSet<AppName>,
    /// VIPs of which not the app changed but something else that decides on them.
    vips: BTreeSet<Prefix>,
    /// Loses one app in ten.
    #[cfg(test)]
    forgetful: Option<crate::timer::Jitter>,
}

/// Whose deadline it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    App(AppName),
    /// One that is left behind.
    Vip(Prefix),
}

/// A VIP whose app does not want it any more: the route is withdrawn at once, the rest follows.
struct Leaving {
    app: AppName,
    label: Option<String>,
    nats: BTreeSet<NatSpec>,
}

impl Registry {
    pub fn new(config: &Config, seed: u64) -> Self {
        Self {
            apps: BTreeMap::new(),
            claims: Claims::default(),
            checks: Checks::new(seed),
            leaving: BTreeMap::new(),
            drains: Drains::default(),
            agent: config.agent.clone(),
            policy: Policy::new(&config.agent, &config.bgp),
            facts: Facts::default(),
            queue: Queue::default(),
            deadlines: Deadlines::default(),
            index: Index::default(),
            announcing: Vec::new(),
            outputs: VecDeque::new(),
            redefined: false,
            maintenance_files: BTreeMap::new(),
            maintenance_files_changed: false,
            vips_changed: false,
            exiting: false,
            #[cfg(test)]
            looks: 0,
        }
    }

    /// The file that puts an app into maintenance while it exists.
    fn watch_file(&mut self, name: &AppName, file: Option<PathBuf>) {
        let before = match &file {
            Some(file) => self.maintenance_files.insert(name.clone(), file.clone()),
            None => self.maintenance_files.remove(name),
        };
        self.maintenance_files_changed |= before != file;
    }

    /// Takes what is known of the network now.
    pub fn set_facts(&mut self, facts: Facts) {
        if facts != self.facts {
            self.facts = facts;
            self.look_at_all();
        }
    }

    pub fn set_maintenance(&mut self, name: &AppName, present: bool) {
        if let Some(entry) = self.apps.get_mut(name) {
            let present = present && entry.app.options.maintenance_file.is_some();
            entry.intent.set_maintenance(present);
            self.queue.apps.insert(name.clone());
        }
    }

    /// Shown, no more: the app stays as it was.
    pub fn set_maintenance_problem(&mut self, name: &AppName, problem: Option<String>) {
        if let Some(entry) = self.apps.get_mut(name) {
            entry.maintenance_problem = problem;
        }
    }

    /// `None`: there is no such app or it has no heartbeat monitor.
    pub fn heartbeat(&mut self, now: Instant, name: &AppName) -> Option<()> {
        let entry = self.apps.get(name)?;
        let heard = self.checks.beat(now, &entry.monitors);
        self.queue.apps.insert(name.clone());
        heard.then_some(())
    }

    /// Takes a check's answer; one for a monitor that is gone finds nobody.
    pub fn answer(&mut self, now: Instant, monitor: MonitorId, outcome: Outcome, took: Duration) {
        let concerned = self.checks.answer(now, monitor, outcome, took);
        self.queue.apps.extend(concerned.iter().cloned());
        let news = !concerned.is_empty();
        if news && log::log_enabled!(log::Level::Debug) {
            self.log_answer(monitor);
        }
    }

    fn log_answer(&self, monitor: MonitorId) {
        if let Some((app, label)) = self.owner(monitor)
            && let Some(seen) = self
                .checks
                .get(monitor)
                .and_then(|check| check.last.as_ref())
        {
            debug!("app {}: {label}: {}", app.name, seen.outcome);
        }
    }

    /// A check has not begun for want of a place.
    pub fn wait(&mut self, now: Instant, monitor: MonitorId) {
        if self.checks.wait(now, monitor) && log::log_enabled!(log::Level::Debug) {
            self.log_answer(monitor);
        }
    }

    /// The only ways in and out of the map.
    fn put(&mut self, entry: Box<Entry>) {
        self.index.add(&entry);
        self.apps.insert(entry.app.name.clone(), entry);
    }

    fn take(&mut self, name: &AppName) -> Option<Box<Entry>> {
        let entry = self.apps.remove(name)?;
        self.index.remove(&entry);
        Some(entry)
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.apps.values().map(AsRef::as_ref)
    }

    /// Clients come to the ports: for a while these are looked at more often.
    pub fn clients_seen(&mut self, now: Instant) {
        self.checks.clients_seen(now);
    }

    /// The monitors of this port, or of all ports, look again at once.
    pub fn recheck_ports(&mut self, now: Instant, port: Option<(Protocol, u16)>) {
        self.checks.recheck_ports(now, port);
        self.begin_checks(now);
    }

    /// Consul is asked again for all its monitors.
    pub fn recheck_consul(&mut self, now: Instant) {
        self.checks.recheck_consul(now);
        self.begin_checks(now);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.begin_checks(now);
        while let Some(subject) = self.deadlines.pop_due(now) {
            match subject {
                Subject::App(name) => {
                    self.queue.apps.insert(name);
                }
                Subject::Vip(vip) => {
                    self.leaving.remove(&vip);
                    self.vips_changed = true;
                    self.queue.vips.insert(vip);
                }
            }
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let mut soonest = Soonest::new();
        soonest.add(self.checks.poll_timeout(), ());
        soonest.add(self.deadlines.first(), ());
        soonest.get().map(|(at, ())| at)
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        let abandoned = || self.checks.take_abandoned().map(Output::Abandon);
        self.outputs.pop_front().or_else(abandoned)
    }

    /// Whether apps came, went or were replaced since this was last asked.
    pub fn take_redefined(&mut self) -> bool {
        std::mem::take(&mut self.redefined)
    }

    /// Starts the checks that are due.
    fn begin_checks(&mut self, now: Instant) {
        let concerned = &mut self.queue.apps;
        self.checks
            .handle_timeout(now, &mut self.outputs, concerned);
    }

    /// Every app is looked at again when the registry is next settled.
    pub fn look_at_all(&mut self) {
        self.queue.apps.extend(self.apps.keys().cloned());
        self.queue.vips.extend(self.leaving.keys().copied());
    }

    /// This VIP is looked at again when the registry is next settled.
    pub fn look_at(&mut self, vip: Prefix) {
        self.queue.vips.insert(vip);
    }

    /// Looks at all that is queued. Says of which VIPs something else may be wanted now.
    pub fn settle(&mut self, now: Instant) -> BTreeSet<Prefix> {
        let mut vips = BTreeSet::new();
        while let Some(name) = self.queue.apps.pop_first() {
            #[cfg(test)]
            if self.queue.forgets() {
                continue;
            }
            #[cfg(test)]
            {
                self.looks += 1;
            }
            self.settle_app(now, &name);
            let entry = self.apps.get(&name);
            vips.extend(entry.into_iter().flat_map(|entry| entry.vips()));
        }
        vips.append(&mut self.queue.vips);
        vips
    }

    fn settle_app(&mut self, now: Instant, name: &AppName) {
        let timers = self.timers();
        let Some(entry) = self.apps.get(name) else {
            return;
        };
        // One that is kept away wants no VIP, so that nothing that happens to one concerns it.
        let vips = entry.vips().filter(|_| entry.refusal.is_none());
        let problems = vips.filter_map(|vip| Some((vip, self.problem(&entry.app, &vip)?)));
        let problems: BTreeMap<Prefix, Problem> = problems.collect();
        let Some(entry) = self.apps.get_mut(name) else {
            return;
        };
        let change = entry.settle(now, &self.checks, &timers, problems);
        self.outputs.extend(change.map(Output::Changed));
        self.index.note(entry);
        if self.index.unannounced().contains(name) {
            self.announcing.push(name.clone());
        }
        let deadline = entry.deadline(&timers);
        let kept = entry.app.source != Source::Http || entry.refusal.is_some();
        let forgotten = !kept && entry.health.is_cleaned_up();
        self.deadlines.set(Subject::App(name.clone()), deadline);
        if forgotten {
            info!("app {name}: not up for cleanup_timer, forgotten");
            self.unregister(now, name);
        } else {
            self.hand_over(name);
        }
    }

    /// What stands against this VIP of an app.
    fn problem(&self, app: &App, vip: &Prefix) -> Option<Problem> {
        match self.claims.holder(vip) {
            Some(holder) if *holder != app.name => Some(self.held(app, *vip, holder)),
            _ => self.facts.problem(app, vip),
        }
    }

    fn timers(&self) -> AppTimers {
        AppTimers {
            cleanup_timer: self.agent.cleanup_timer,
            vip_linger: self.agent.vip_linger,
        }
    }
}

#[cfg(test)]
impl Queue {
    fn forgets(&mut self) -> bool {
        let chance = self.forgetful.as_mut();
        chance.is_some_and(|chance| chance.below(10) == 0)
    }
}

#[cfg(test)]
impl Registry {
    pub fn unacknowledged(&self) -> usize {
        self.index.unacknowledged().len()
    }

    pub fn forget_one_in_ten(&mut self, seed: u64) {
        self.queue.forgetful = Some(crate::timer::Jitter::new(seed));
    }

    pub fn remember_all(&mut self) {
        self.queue.forgetful = None;
    }

    /// What is kept by VIP, by monitor and by file is what a walk over all apps finds.
    pub fn assert_indexes(&self) {
        let mut wanted_by: BTreeMap<Prefix, Vec<AppName>> = BTreeMap::new();
        for (name, entry) in &self.apps {
            for vip in entry.vips().filter(|_| entry.refusal.is_none()) {
                wanted_by.entry(vip).or_default().push(name.clone());
            }
            for id in &entry.monitors {
                assert!(self.checks.members(*id).contains(name), "{name}: {id:?}");
            }
            let file = self.maintenance_files.get(name);
            assert_eq!(file, entry.app.options.maintenance_file.as_ref(), "{name}");
        }
        let mut index = Index::default();
        self.entries().for_each(|entry| index.add(entry));
        self.index.assert_equals(&index);
        for (vip, names) in &wanted_by {
            assert_eq!(self.claims.wanted_by(vip), names.as_slice(), "{vip}");
            let holder = self.claims.holder(vip);
            assert!(holder.is_some_and(|name| names.contains(name)), "{vip}");
        }
        assert!(self.claims.vips().eq(wanted_by.keys()));
        let used: BTreeSet<MonitorId> = self.entries().flat_map(|e| e.monitors.clone()).collect();
        assert_eq!(self.checks.ids(), used);
    }
}
