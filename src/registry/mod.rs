//! The apps: who registered what, who holds which VIP, what their monitors say, and what is desired
//! because of it.

mod check;
mod damping;
mod desired;
mod drains;
mod entry;
mod facts;
mod instances;
mod policy;
mod show;
mod view;

use std::collections::VecDeque;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

pub use check::{MonitorId, Seen};
pub use drains::Drains;
pub use facts::{Facts, Problem};
pub use instances::Found;
pub use policy::Refusal;
pub use view::{AppView, Counted, MonitorView, NatView, VipView};

use crate::app::{App, AppName, MonitorSpec, NatSpec, Source};
use crate::config::Agent;
use crate::health::Outcome;
use crate::net::Prefix;
use crate::timer::{Jitter, Soonest};
use check::{Check, Due, Pace};
use entry::{Entry, Terms};

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
        app: AppName,
        monitor: MonitorId,
        spec: MonitorSpec,
        timeout: Duration,
    },
    Changed(Change),
}

/// All apps.
pub struct Registry {
    /// Boxed: a new one moves those behind it.
    apps: BTreeMap<AppName, Box<Entry>>,
    /// Who holds a VIP.
    claims: BTreeMap<Prefix, AppName>,
    /// What apps that are gone or were replaced leave behind.
    leaving: BTreeMap<Prefix, Leaving>,
    drains: Drains,
    agent: Agent,
    facts: Facts,
    next_monitor: u64,
    jitter: Jitter,
    /// From when the looks at ports that are down are counted; set with the first answer.
    ticks: Option<Instant>,
    /// Until when clients are believed to come to the ports.
    used_until: Option<Instant>,
    outputs: VecDeque<Output>,
    /// What is desired may have changed.
    dirty: bool,
    /// Apps came, went or were replaced.
    redefined: bool,
    /// The process is about to end: everybody drains, nothing is remembered.
    exiting: bool,
}

/// A VIP whose app does not want it any more: the route is withdrawn at once, the rest follows.
struct Leaving {
    app: AppName,
    until: Instant,
    label: Option<String>,
    nats: BTreeSet<NatSpec>,
}

impl Registry {
    pub fn new(agent: Agent, seed: u64) -> Self {
        Self {
            apps: BTreeMap::new(),
            claims: BTreeMap::new(),
            leaving: BTreeMap::new(),
            drains: Drains::default(),
            agent,
            facts: Facts::default(),
            next_monitor: 0,
            jitter: Jitter::new(seed),
            ticks: None,
            used_until: None,
            outputs: VecDeque::new(),
            dirty: false,
            redefined: false,
            exiting: false,
        }
    }

    /// Adds an app, or replaces the one of that name in place.
    pub fn register(&mut self, now: Instant, app: App) -> Result<Registered, Refusal> {
        if let Some(held) = self.apps.get(&app.name).map(|entry| &entry.app) {
            let lower = app.source.precedence() < held.source.precedence();
            if held.same_definition(&app) && (lower || held.source == app.source) {
                return Ok(Registered::Unchanged);
            }
            if lower {
                let source = held.source;
                return Err(Refusal::Conflict(format!(
                    "app {} is defined by {source} with another definition",
                    app.name
                )));
            }
        }
        self.permit(&app)?;
        if let Some((vip, holder)) = self.held_by_another(&app) {
            return Err(Refusal::Conflict(format!(
                "VIP {vip} is held by app {holder}"
            )));
        }
        Ok(self.place(now, app, None))
    }

    /// Takes an app of the configuration. One that is refused is kept, shown as invalid, so that
    /// everybody can see why it is not announced.
    pub fn configure(&mut self, now: Instant, app: App) -> (Registered, Option<Refusal>) {
        let refusal = self.permit(&app).err();
        let held = self.apps.get(&app.name);
        let known = held.is_some_and(|held| held.app == app);
        if known && refusal.is_none() {
            return (Registered::Unchanged, None);
        }
        if let Some(refusal) = &refusal {
            warn!("app {} is not announced: {refusal}", app.name);
        }
        let reason = refusal.as_ref().map(Refusal::to_string);
        (self.place(now, app, reason), refusal)
    }

    fn permit(&self, app: &App) -> Result<(), Refusal> {
        policy::permit(app, &self.agent)?;
        let of_http = |entry: &&Entry| entry.app.source == Source::Http;
        if app.source == Source::Http
            && !self.apps.contains_key(&app.name)
            && self.entries().filter(of_http).count() >= self.agent.max_http_apps
        {
            return Err(Refusal::Policy {
                key: "agent.max_http_apps",
                message: format!("{} apps are registered already", self.agent.max_http_apps),
            });
        }
        let cut = app
            .vips
            .iter()
            .find_map(|vip| self.facts.cut_off(&vip.prefix()));
        match cut {
            Some(problem) => Err(Refusal::Invalid(problem.to_string())),
            None => Ok(()),
        }
    }

    fn held_by_another(&self, app: &App) -> Option<(Prefix, &AppName)> {
        app.vips.iter().find_map(|vip| {
            let holder = self.claims.get(&vip.prefix())?;
            (*holder != app.name).then_some((vip.prefix(), holder))
        })
    }

    fn place(&mut self, now: Instant, app: App, refusal: Option<String>) -> Registered {
        let name = app.name.clone();
        let mut old = self.apps.remove(&name);
        if let Some(old) = &old {
            self.leave(now, old, Some(&app));
        }
        let known = old.as_mut().map(|old| std::mem::take(&mut old.checks));
        let checks = self.checks(now, &app, known.unwrap_or_default());
        let (mut entry, done) = match old {
            Some(mut old) => {
                info!("app {name}: replaced by {}", app.source);
                old.replace(app, checks);
                (old, Registered::Replaced)
            }
            None => {
                info!("app {name}: registered by {}", app.source);
                // The configuration's own apps are warned of when it is read.
                let told = matches!(app.source, Source::Config | Source::Env);
                if app.monitors.is_empty() && refusal.is_none() && !told {
                    warn!("app {name} has no monitors: it counts as healthy");
                }
                (Box::new(Entry::new(app, checks, now)), Registered::Added)
            }
        };
        entry.refusal = refusal;
        if self.exiting || self.is_draining(&entry.app) {
            entry.start_drain(now, self.exiting);
        }
        self.apps.insert(name.clone(), entry);
        if done == Registered::Added {
            // It takes nothing from anybody: the others need no second look.
            self.claim_for(&name);
            self.settle(now, &name);
        } else {
            self.claim();
            self.settle_all(now);
        }
        done
    }

    /// The checks of a definition; those of an equal monitor before it go on.
    fn checks(&mut self, now: Instant, app: &App, mut known: Vec<Check>) -> Vec<Check> {
        let mut checks = Vec::with_capacity(app.monitors.len());
        for monitor in &app.monitors {
            let equal = known.iter().position(|c| c.monitor.spec == monitor.spec);
            checks.push(match equal {
                Some(index) => {
                    let mut check = known.swap_remove(index);
                    check.redefine(monitor.clone());
                    check
                }
                None => {
                    self.next_monitor += 1;
                    Check::new(MonitorId(self.next_monitor), monitor.clone(), now)
                }
            });
        }
        checks
    }

    /// Forgets an app; its routes go at once, its addresses after `drain_time`.
    pub fn unregister(&mut self, now: Instant, name: &AppName) -> bool {
        let Some(entry) = self.apps.remove(name) else {
            return false;
        };
        info!("app {name}: unregistered");
        self.leave(now, &entry, None);
        self.claim();
        self.settle_all(now);
        true
    }

    /// Takes note of the VIPs that `entry` holds and `next` does not.
    fn leave(&mut self, now: Instant, entry: &Entry, next: Option<&App>) {
        let stays =
            |vip: &Prefix| next.is_some_and(|app| app.vips.iter().any(|v| v.prefix() == *vip));
        for vip in entry.vips().filter(|vip| !stays(vip)) {
            if self.claims.get(&vip) != Some(&entry.app.name) {
                continue;
            }
            self.claims.remove(&vip);
            if !entry.addressed(&vip) {
                continue;
            }
            let wait = if entry.is_announcing() {
                entry.app.drain_time
            } else {
                Duration::ZERO
            };
            let nats = if entry.nat(&vip) {
                entry.app.nats.clone()
            } else {
                BTreeSet::new()
            };
            let leaving = Leaving {
                app: entry.app.name.clone(),
                until: now + wait,
                label: self.label(&entry.app, &vip),
                nats,
            };
            self.leaving.insert(vip, leaving);
        }
    }

    /// Gives VIPs that nobody holds to those that want them.
    fn claim(&mut self) {
        let names: Vec<AppName> = self.apps.keys().cloned().collect();
        for name in &names {
            self.claim_for(name);
        }
        self.redefined = true;
        self.dirty = true;
    }

    fn claim_for(&mut self, name: &AppName) {
        self.redefined = true;
        self.dirty = true;
        let Some(entry) = self.apps.get(name) else {
            return;
        };
        for vip in entry.vips() {
            self.claims.entry(vip).or_insert_with(|| name.clone());
        }
    }

    /// Takes new settings of the agent.
    pub fn set_agent(&mut self, now: Instant, agent: Agent) {
        self.agent = agent;
        self.dirty = true;
        self.settle_all(now);
    }

    /// Takes what is known of the network now.
    pub fn set_facts(&mut self, now: Instant, facts: Facts) {
        if facts != self.facts {
            self.facts = facts;
            self.dirty = true;
            self.settle_all(now);
        }
    }

    pub fn set_maintenance(&mut self, now: Instant, name: &AppName, present: bool) {
        if let Some(entry) = self.apps.get_mut(name) {
            entry.maintenance = present && entry.app.maintenance_file.is_some();
            self.settle_all(now);
        }
    }

    /// `None`: there is no such app or it has no heartbeat monitor.
    pub fn heartbeat(&mut self, now: Instant, name: &AppName) -> Option<()> {
        let entry = self.apps.get_mut(name)?;
        let beats: Vec<bool> = entry
            .checks
            .iter_mut()
            .filter_map(|c| c.beat(now))
            .collect();
        if beats.is_empty() {
            return None;
        }
        self.settle(now, &name.clone());
        Some(())
    }

    /// Takes a check's answer; one for a monitor that is gone finds nobody.
    pub fn answer(&mut self, now: Instant, monitor: MonitorId, outcome: Outcome, took: Duration) {
        let mut pace = Pace {
            ticks: *self.ticks.get_or_insert(now),
            used: self.used_until.is_some_and(|until| now < until),
            jitter: &mut self.jitter,
        };
        let asked = self.apps.iter_mut().find_map(|(name, entry)| {
            let mut checks = entry.checks.iter_mut().enumerate();
            let (index, check) = checks.find(|(_, check)| check.id == monitor)?;
            Some((name, index, check))
        });
        if let Some((name, index, check)) = asked
            && check.answer(now, outcome, took, &mut pace)
        {
            let name = name.clone();
            if let Some(Seen { outcome, .. }) = &check.last {
                debug!("app {name}: {}: {outcome}", check.monitor.label(index));
            }
            self.settle(now, &name);
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.apps.values().map(AsRef::as_ref)
    }

    fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.apps.values_mut().map(AsMut::as_mut)
    }

    /// Clients come to the ports: for a while these are looked at more often.
    pub fn clients_seen(&mut self, now: Instant) {
        self.used_until = Some(now + USED_FOR);
        let checks = self.entries_mut().flat_map(|entry| &mut entry.checks);
        checks.for_each(|check| check.clients_seen(now));
    }

    /// The monitors that `concerned` picks look again at once.
    pub fn recheck(&mut self, now: Instant, concerned: impl Fn(&MonitorSpec) -> bool) {
        let checks = self.entries_mut().flat_map(|entry| &mut entry.checks);
        for check in checks.filter(|check| concerned(&check.monitor.spec)) {
            check.recheck(now);
        }
        self.look(now);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.look(now);
        let terms = self.terms();
        let due = |entry: &&Entry| entry.deadline(&terms).is_some_and(|at| at <= now);
        let due = self.entries().filter(due);
        let names: Vec<AppName> = due.map(|entry| entry.app.name.clone()).collect();
        for name in names {
            self.settle(now, &name);
        }
        self.forget(now);
        let before = self.leaving.len();
        self.leaving.retain(|_, leaving| leaving.until > now);
        self.dirty |= before != self.leaving.len();
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let terms = self.terms();
        let mut soonest = Soonest::new();
        for entry in self.entries() {
            soonest.add(entry.next_deadline(&terms), ());
        }
        for leaving in self.leaving.values() {
            soonest.add(Some(leaving.until), ());
        }
        soonest.get().map(|(at, ())| at)
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether apps came, went or were replaced since this was last asked.
    pub fn take_redefined(&mut self) -> bool {
        std::mem::take(&mut self.redefined)
    }

    /// Whether `desired` may have changed since this was last asked.
    pub fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    /// Starts the checks that are due.
    fn look(&mut self, now: Instant) {
        let mut changed = Vec::new();
        for (name, entry) in &mut self.apps {
            for check in &mut entry.checks {
                match check.handle_timeout(now) {
                    Due::Nothing => {}
                    Due::Look => self.outputs.push_back(Output::Check {
                        app: name.clone(),
                        monitor: check.id,
                        spec: check.monitor.spec.clone(),
                        timeout: check.monitor.timeout,
                    }),
                    Due::Changed => changed.push(name.clone()),
                }
            }
        }
        for name in changed {
            self.settle(now, &name);
        }
    }

    /// Apps registered by HTTP that were not up for `cleanup_timer` are forgotten.
    fn forget(&mut self, now: Instant) {
        let over = |entry: &&Entry| entry.app.source == Source::Http && entry.cleaned();
        let names: Vec<AppName> = self
            .entries()
            .filter(over)
            .map(|entry| entry.app.name.clone())
            .collect();
        for name in names {
            info!("app {name}: not up for cleanup_timer, forgotten");
            self.unregister(now, &name);
        }
    }

    fn settle_all(&mut self, now: Instant) {
        let names: Vec<AppName> = self.apps.keys().cloned().collect();
        for name in names {
            self.settle(now, &name);
        }
    }

    fn settle(&mut self, now: Instant, name: &AppName) {
        self.settle_alone(now, name);
        self.hand_over(now, name);
    }

    fn settle_alone(&mut self, now: Instant, name: &AppName) {
        let terms = self.terms();
        let Some(app) = self.apps.get(name).map(|entry| &entry.app) else {
            return;
        };
        let problems = app.vips.iter().filter_map(|vip| {
            let vip = vip.prefix();
            let problem = match self.claims.get(&vip) {
                Some(holder) if holder != name => Some(self.held(app, vip, holder)),
                _ => self.facts.problem(app, &vip),
            };
            Some((vip, problem?))
        });
        let problems: BTreeMap<Prefix, Problem> = problems.collect();
        let Some(entry) = self.apps.get_mut(name) else {
            return;
        };
        entry.problems = problems;
        if let Some(change) = entry.settle(now, &terms) {
            self.outputs.push_back(Output::Changed(change));
        }
        self.dirty |= entry.take_wants_changed();
    }

    fn terms(&self) -> Terms {
        Terms {
            cleanup_timer: self.agent.cleanup_timer,
            vip_linger: self.agent.vip_linger,
        }
    }
}

/// How long one sight of a client is believed: more than the shell takes to look for the next.
const USED_FOR: Duration = Duration::from_secs(65);
