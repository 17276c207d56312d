//! All apps: their sources, VIP holders, health and desired state.

mod app_health;
mod check;
mod checks;
mod claims;
mod damping;
mod desired;
mod drains;
mod entry;
mod facts;
mod index;
mod instances;
mod intent;
mod read;
mod register;
mod status;
#[cfg(test)]
mod tests;
mod traffic;
mod view;
mod vip;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use log::{debug, info};

pub use check::{CheckResult, MonitorId};
pub use drains::Drains;
pub use facts::{FamilySupport, NetworkFacts, PeerFacts, Problem};
pub use instances::DiscoveredApp;
pub use intent::AckResult;
pub use register::ConfiguredApp;
pub use status::{AppStatus, VipStatus};
pub use traffic::PathSeen;
pub use view::{
    AppView, DrainReport, DrainSince, DrainSteps, DrainView, MonitorView, NatCount, NatView,
    NotAnnounced, NotAnnouncedReason, PathView, RouteView, VipView,
};
pub use vip::Presence;

use crate::app::{App, AppName, Attributes, MonitorSpec, NatSpec, Protocol, Source, VipTarget};
use crate::config::{Agent, Config, Policy};
use crate::health::Outcome;
use crate::net::Prefix;
use crate::timer::{Deadlines, EarliestDeadline};
use app_health::AppTimers;
use checks::Checks;
use claims::Claims;
use entry::Entry;
use index::Index;

/// The state of an app, as shown outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AppState {
    /// Its health is not known yet, or `start_delay` is running.
    Pending,
    Up,
    Down,
    Draining,
    Drained,
    Maintenance,
    /// Healthy, but damped: it was announced again too often.
    HeldDown,
    /// Refused, or its VIPs are blocked by something other than its health.
    Invalid,
}

impl AppState {
    /// All states.
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

    /// The name in `/apps`, metrics and the log.
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

    /// What it means, for `examples/reference.md`.
    pub fn doc(self) -> &'static str {
        match self {
            Self::Pending => "Not checked yet, or in `start_delay`.",
            Self::Up => "All monitors pass; the routes are announced.",
            Self::Down => "A monitor fails; the routes are as `when_down` says.",
            Self::Draining => {
                "Withdrawn, or announced as `when_draining` says, until traffic has ended; at most for `drain_time`."
            }
            Self::Drained => "The drain is over; the app stays withdrawn until `undrain`.",
            Self::Maintenance => "Its `maintenance_file` exists; the routes are withdrawn.",
            Self::HeldDown => {
                "All monitors pass, and flap damping (`hold_down`) delays the announcement."
            }
            Self::Invalid => "Refused, or its VIPs cannot be announced; the reason stands with it.",
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
pub enum RegisterOutcome {
    Added,
    /// The same name had another definition.
    Replaced,
    Unchanged,
}

/// An app's state changed, or whether it is announced as last resort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    pub app: AppName,
    pub from: AppState,
    pub to: AppState,
    pub last_resort: bool,
    /// What it means to the last resort, where that changed, and the reason.
    pub why: String,
}

/// Work for the core.
#[derive(Clone, Debug)]
pub enum Output {
    Check {
        monitor: MonitorId,
        spec: MonitorSpec,
        timeout: Duration,
        /// The VIPs that it probes, for a monitor of the second stage.
        targets: Vec<VipTarget>,
    },
    /// The result of this check is no longer needed.
    CancelCheck(MonitorId),
    StateChanged(StateChange),
    /// An app was registered or unregistered: its states before and after, and on whose request.
    Registration {
        app: AppName,
        states: [&'static str; 2],
        why: String,
    },
}

/// All apps.
pub struct Registry {
    apps: BTreeMap<AppName, Box<Entry>>,
    claims: Claims,
    checks: Checks,
    /// VIPs whose app was removed or gave them up, until `drain_time` is over.
    released: BTreeMap<Prefix, ReleasedVip>,
    drains: Drains,
    agent: Agent,
    /// The attributes of an app that is announced although it is down.
    last_resort: Attributes,
    policy: Policy,
    facts: NetworkFacts,
    queue: Queue,
    deadlines: Deadlines<DeadlineOwner>,
    index: Index,
    /// Apps with a newly desired route, which may be announced already.
    newly_announcing: Vec<AppName>,
    outputs: VecDeque<Output>,
    /// The saved state may have changed.
    definitions_changed: bool,
    maintenance_files: BTreeMap<AppName, PathBuf>,
    /// Apps whose maintenance file changed since the last call.
    maintenance_files_changed: BTreeSet<AppName>,
    /// A VIP came or went.
    vips_changed: bool,
    /// A VIP was released: an app refused by `max_vips` may fit now.
    vip_freed: bool,
    /// The process is stopping: all apps drain.
    exiting: bool,
    /// Number of apps reconciled.
    #[cfg(test)]
    pub reconciles: usize,
}

/// What is to be reconciled. Reconciling is level-triggered: it computes the desired state from the
/// current state, so an entry too many costs time and changes nothing.
#[derive(Debug, Default)]
struct Queue {
    apps: BTreeSet<AppName>,
    /// VIPs to be reconciled although their app did not change.
    vips: BTreeSet<Prefix>,
    /// Loses one app in ten.
    #[cfg(test)]
    forgetful: Option<crate::timer::Rng>,
}

/// The owner of a deadline.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum DeadlineOwner {
    App(AppName),
    /// A VIP whose app gave it up.
    Vip(Prefix),
}

/// A VIP that its app gave up: the route is withdrawn at once, address and NAT follow after
/// `drain_time`.
struct ReleasedVip {
    app: AppName,
    label: Option<String>,
    nats: BTreeSet<NatSpec>,
}

impl Registry {
    /// No apps yet, with the settings of a configuration. Recurring checks of ports share the times since `now`.
    pub fn new(config: &Config, seed: u64, now: Instant) -> Self {
        Self {
            apps: BTreeMap::new(),
            claims: Claims::default(),
            checks: Checks::new(seed, now),
            released: BTreeMap::new(),
            drains: Drains::default(),
            agent: config.agent.clone(),
            last_resort: config.agent.last_resort_beside(&config.bgp),
            policy: Policy::new(&config.agent, &config.bgp),
            facts: NetworkFacts::default(),
            queue: Queue::default(),
            deadlines: Deadlines::default(),
            index: Index::default(),
            newly_announcing: Vec::new(),
            outputs: VecDeque::new(),
            definitions_changed: false,
            maintenance_files: BTreeMap::new(),
            maintenance_files_changed: BTreeSet::new(),
            vips_changed: false,
            vip_freed: false,
            exiting: false,
            #[cfg(test)]
            reconciles: 0,
        }
    }

    /// The file that puts an app into maintenance while it exists.
    fn set_maintenance_file(&mut self, name: &AppName, file: Option<PathBuf>) {
        let before = match &file {
            Some(file) => self.maintenance_files.insert(name.clone(), file.clone()),
            None => self.maintenance_files.remove(name),
        };
        if before != file {
            self.maintenance_files_changed.insert(name.clone());
        }
    }

    /// Sets what is known of the network.
    pub fn set_facts(&mut self, facts: NetworkFacts) {
        if facts != self.facts {
            self.facts = facts;
            self.enqueue_all();
        }
    }

    /// The app's maintenance file appeared or was removed.
    pub fn set_maintenance(&mut self, name: &AppName, present: bool) {
        if let Some(entry) = self.apps.get_mut(name) {
            let present = present && entry.app.options.maintenance_file.is_some();
            entry.intent.set_maintenance(present);
            self.queue.apps.insert(name.clone());
        }
    }

    /// Only shown: the app's state does not change.
    pub fn set_maintenance_problem(&mut self, name: &AppName, problem: Option<String>) {
        if let Some(entry) = self.apps.get_mut(name) {
            entry.maintenance_problem = problem;
        }
    }

    /// `None`: there is no such app or it has no heartbeat monitor.
    pub fn heartbeat(&mut self, now: Instant, name: &AppName) -> Option<()> {
        let entry = self.apps.get(name)?;
        let known = self.checks.heartbeat(now, &entry.monitors);
        self.queue.apps.insert(name.clone());
        known.then_some(())
    }

    /// Records a check's result; one for a removed monitor is dropped.
    pub fn record_result(
        &mut self,
        now: Instant,
        monitor: MonitorId,
        outcome: Outcome,
        took: Duration,
    ) {
        let concerned = self.checks.record_result(now, monitor, outcome, took);
        self.queue.apps.extend(concerned.iter().cloned());
        let news = !concerned.is_empty();
        if news && log::log_enabled!(log::Level::Debug) {
            self.log_result(monitor);
        }
    }

    fn log_result(&self, monitor: MonitorId) {
        if let Some((app, label)) = self.owner(monitor)
            && let Some(seen) = self
                .checks
                .get(monitor)
                .and_then(|check| check.last.as_ref())
        {
            debug!("app {}: {label}: {}", app.name, seen.outcome);
        }
    }

    /// A check is queued behind `agent.check_threads` others.
    pub fn check_queued(&mut self, now: Instant, monitor: MonitorId) {
        if self.checks.check_queued(now, monitor) && log::log_enabled!(log::Level::Debug) {
            self.log_result(monitor);
        }
    }

    /// Besides `take`, the only function that changes the map.
    fn insert_entry(&mut self, entry: Box<Entry>) {
        self.index.add(&entry);
        self.apps.insert(entry.app.name.clone(), entry);
    }

    fn remove_entry(&mut self, name: &AppName) -> Option<Box<Entry>> {
        let entry = self.apps.remove(name)?;
        self.index.remove(&entry);
        Some(entry)
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.apps.values().map(AsRef::as_ref)
    }

    /// Clients connect to the ports, which are checked more often for a while.
    pub fn clients_seen(&mut self, now: Instant) {
        self.checks.clients_seen(now);
    }

    /// Checks the monitors of this port, or of all ports, at once.
    pub fn recheck_ports(&mut self, now: Instant, port: Option<(Protocol, u16)>) {
        self.checks.recheck_ports(now, port);
        self.start_checks(now);
    }

    /// Checks all `consul` monitors at once.
    pub fn recheck_consul(&mut self, now: Instant) {
        self.checks.recheck_consul(now);
        self.start_checks(now);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.start_checks(now);
        while let Some(subject) = self.deadlines.pop_due(now) {
            match subject {
                DeadlineOwner::App(name) => {
                    self.queue.apps.insert(name);
                }
                DeadlineOwner::Vip(vip) => {
                    self.released.remove(&vip);
                    self.vips_changed = true;
                    self.queue.vips.insert(vip);
                }
            }
        }
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let mut earliest = EarliestDeadline::new();
        earliest.add(self.checks.poll_timeout(), ());
        earliest.add(self.deadlines.first(), ());
        earliest.get().map(|(at, ())| at)
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        let canceled = || self.checks.take_canceled().map(Output::CancelCheck);
        let next = self.outputs.pop_front().or_else(canceled);
        if next.is_none() {
            self.outputs.shrink_to(KEPT_OUTPUTS);
        }
        next
    }

    /// Whether apps were added, removed or replaced since the last call.
    pub fn take_definitions_changed(&mut self) -> bool {
        std::mem::take(&mut self.definitions_changed)
    }

    /// Starts the checks that are due.
    fn start_checks(&mut self, now: Instant) {
        let concerned = &mut self.queue.apps;
        self.checks
            .handle_timeout(now, &mut self.outputs, concerned);
    }

    /// Queues every app.
    pub fn enqueue_all(&mut self) {
        self.queue.apps.extend(self.apps.keys().cloned());
        self.queue.vips.extend(self.released.keys().copied());
    }

    /// Queues one VIP.
    pub fn enqueue_vip(&mut self, vip: Prefix) {
        self.queue.vips.insert(vip);
    }

    /// Records whether the kernel has a VIP's address and NAT rules.
    pub fn set_presence(&mut self, vip: &Prefix, presence: Presence) {
        let holder = self.claims.holder(vip);
        if let Some(entry) = holder.and_then(|name| self.apps.get_mut(name))
            && entry.set_presence(vip, presence)
        {
            self.queue.apps.insert(entry.app.name.clone());
        }
    }

    /// Whether an app is queued to be reconciled.
    pub fn is_queued(&self) -> bool {
        !self.queue.apps.is_empty()
    }

    /// Reconciles all queued apps. Returns the VIPs whose desired state may have changed.
    pub fn reconcile(&mut self, now: Instant) -> BTreeSet<Prefix> {
        self.retry_refused(now);
        let mut vips = BTreeSet::new();
        while let Some(name) = self.queue.apps.pop_first() {
            #[cfg(test)]
            if self.queue.forgets() {
                continue;
            }
            #[cfg(test)]
            {
                self.reconciles += 1;
            }
            self.reconcile_app(now, &name);
            let entry = self.apps.get(&name);
            vips.extend(entry.into_iter().flat_map(|entry| entry.vips()));
        }
        vips.append(&mut self.queue.vips);
        vips
    }

    fn reconcile_app(&mut self, now: Instant, name: &AppName) {
        let timers = self.timers();
        let Some(entry) = self.apps.get_mut(name) else {
            return;
        };
        entry.reconcile_health(now, &self.checks, &timers);
        // Before its routes are looked at: what another instance takes over was never a last resort.
        self.fail_over(name);
        let Some(entry) = self.apps.get(name) else {
            return;
        };
        // A refused app claims no VIP.
        let vips = entry.vips().filter(|_| entry.refusal.is_none());
        let problems = vips.filter_map(|vip| Some((vip, self.problem(&entry.app, &vip)?)));
        let problems: Vec<(Prefix, Problem)> = problems.collect();
        let Some(entry) = self.apps.get_mut(name) else {
            return;
        };
        let was_standby = entry.is_standby();
        let change = entry.reconcile_vips(now, &self.checks, &timers, &self.last_resort, problems);
        self.outputs.extend(change.map(Output::StateChanged));
        let modes_changed = entry.set_probe_modes(now, &mut self.checks, &self.facts);
        // The health of a standby does not wait for its second stage.
        if modes_changed || entry.is_standby() != was_standby {
            self.queue.apps.insert(name.clone());
        }
        self.index.update(entry);
        if self.index.unannounced().contains(name) {
            self.newly_announcing.push(name.clone());
        }
        let deadline = entry.deadline(&timers);
        let kept = entry.app.source != Source::Http || entry.refusal.is_some();
        let forgotten = !kept && entry.health.is_cleaned_up();
        self.deadlines
            .set(DeadlineOwner::App(name.clone()), deadline);
        if forgotten {
            info!("app {name}: not up for cleanup_timer: unregistering it");
            self.unregister(now, name, "not up for cleanup_timer");
        }
    }

    /// What blocks this VIP of an app.
    fn problem(&self, app: &App, vip: &Prefix) -> Option<Problem> {
        match self.claims.holder(vip) {
            Some(holder) if *holder != app.name => Some(self.holder_problem(app, *vip, holder)),
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

/// The capacity that an empty queue keeps: what a thousand apps emit at once is not kept for good.
const KEPT_OUTPUTS: usize = 16;
