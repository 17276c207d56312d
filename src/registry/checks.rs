//! All checks and the apps that use them. Apps with equal `port` monitors share one check.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::Output;
use super::check::{Check, MonitorId, ProbeMode, ScheduleContext, TimeoutOutcome};
use crate::app::{App, AppName, Monitor, MonitorSpec, Protocol};
use crate::health::{Health, Outcome};
use crate::timer::{Deadlines, Rng};

pub(super) struct Checks {
    checks: BTreeMap<MonitorId, SharedCheck>,
    /// Checks of ports by what they do; names set aside.
    shared: BTreeMap<Monitor, MonitorId>,
    ports: BTreeMap<(Protocol, u16), BTreeSet<MonitorId>>,
    /// The set of ports changed since it was last taken.
    ports_changed: bool,
    deadlines: Deadlines<MonitorId>,
    /// Checks that were running when their last app was removed.
    canceled: Vec<MonitorId>,
    next: u64,
    rng: Rng,
    /// Origin of the slots to which port checks are aligned: that of all that recurs.
    tick_origin: Instant,
    /// Until when the ports count as having clients.
    clients_until: Option<Instant>,
}

struct SharedCheck {
    check: Check,
    /// In order; never empty.
    members: Vec<AppName>,
}

impl Checks {
    /// No checks; the seed spreads them.
    pub fn new(seed: u64, now: Instant) -> Self {
        Self {
            checks: BTreeMap::new(),
            shared: BTreeMap::new(),
            ports: BTreeMap::new(),
            ports_changed: false,
            deadlines: Deadlines::default(),
            canceled: Vec::new(),
            next: 0,
            rng: Rng::new(seed),
            tick_origin: now,
            clients_until: None,
        }
    }

    /// The checks of an app's new definition, in the order of its monitors. Those of equal monitors of
    /// the definition before (`known`) go on, the others of it end.
    pub fn replace(&mut self, now: Instant, app: &App, known: Vec<MonitorId>) -> Vec<MonitorId> {
        let mut ids = Vec::with_capacity(app.monitors.len());
        let mut free = known.clone();
        for monitor in &app.monitors {
            let equal = free.iter().position(|id| {
                let check = self.get(*id);
                check.is_some_and(|check| check.monitor.spec == monitor.spec)
            });
            let before = equal.map(|index| free.swap_remove(index));
            ids.push(self.assign(now, app, monitor, before));
        }
        // Last, since two monitors may share a check, or have changed theirs with each other.
        for id in known {
            if !ids.contains(&id) {
                self.unassign(&app.name, id);
            }
        }
        ids
    }

    /// Assigns the check of a monitor to this app, continuing the check `before` if there is one.
    fn assign(
        &mut self,
        now: Instant,
        app: &App,
        monitor: &Monitor,
        before: Option<MonitorId>,
    ) -> MonitorId {
        let is_port = matches!(monitor.spec, MonitorSpec::Port { .. });
        let nameless = Monitor {
            name: None,
            ..monitor.clone()
        };
        if let Some(id) = self.shared.get(&nameless).copied().filter(|_| is_port) {
            if before != Some(id) {
                self.add_member(id, &app.name);
                self.recheck(now, id);
            }
            return id;
        }
        let known = before.and_then(|id| self.get(id)).cloned();
        let check = match known {
            Some(mut check) => {
                check.redefine(nameless.clone());
                if !app.asks_vips(&nameless.spec) {
                    check.set_probe_mode(now, ProbeMode::Always);
                }
                if is_port {
                    // A result in flight belongs to the other check.
                    check.restart(now);
                }
                check
            }
            None if app.asks_vips(&nameless.spec) => Check::paused(nameless.clone(), now),
            None => Check::new(nameless.clone(), now),
        };
        // An unshared check keeps its id, so that a result in flight still counts.
        let id = match before.filter(|_| !is_port) {
            Some(id) => id,
            None => {
                self.next += 1;
                MonitorId(self.next)
            }
        };
        self.deadlines.set(id, check.deadline());
        let members = vec![app.name.clone()];
        self.checks.insert(id, SharedCheck { check, members });
        if is_port {
            self.shared.insert(nameless, id);
            self.index_port(id, true);
        }
        id
    }

    fn add_member(&mut self, id: MonitorId, app: &AppName) {
        let Some(shared) = self.checks.get_mut(&id) else {
            return;
        };
        if let Err(at) = shared.members.binary_search(app) {
            shared.members.insert(at, app.clone());
        }
    }

    fn unassign(&mut self, app: &AppName, id: MonitorId) {
        let Some(shared) = self.checks.get_mut(&id) else {
            return;
        };
        shared.members.retain(|member| member != app);
        if !shared.members.is_empty() {
            return;
        }
        self.index_port(id, false);
        if let Some(shared) = self.checks.remove(&id) {
            if self.shared.get(&shared.check.monitor) == Some(&id) {
                self.shared.remove(&shared.check.monitor);
            }
            if shared.check.is_in_flight() {
                self.canceled.push(id);
            }
        }
        self.deadlines.set(id, None);
    }

    fn index_port(&mut self, id: MonitorId, present: bool) {
        let Some(MonitorSpec::Port { protocol, port, .. }) =
            self.get(id).map(|check| &check.monitor.spec)
        else {
            return;
        };
        let port = (*protocol, *port);
        let ids = self.ports.entry(port).or_default();
        self.ports_changed |= ids.is_empty();
        if present {
            ids.insert(id);
        } else {
            ids.remove(&id);
        }
        if ids.is_empty() {
            self.ports.remove(&port);
            self.ports_changed = true;
        }
    }

    /// Applies `mode` to a check that no other app shares; `false` if nothing changed. A check that is stopped while
    /// running gets a new id, so that its late result is dropped.
    pub fn set_probe_mode(&mut self, now: Instant, id: &mut MonitorId, mode: ProbeMode) -> bool {
        let Some(shared) = self.checks.get_mut(id) else {
            return false;
        };
        if shared.check.has_probe_mode(&mode) {
            return false;
        }
        let lapses =
            matches!(mode, ProbeMode::Paused | ProbeMode::Stopped) && shared.check.is_in_flight();
        shared.check.set_probe_mode(now, mode);
        let deadline = shared.check.deadline();
        if lapses && let Some(shared) = self.checks.remove(id) {
            self.deadlines.set(*id, None);
            self.canceled.push(*id);
            self.next += 1;
            *id = MonitorId(self.next);
            self.checks.insert(*id, shared);
        }
        self.deadlines.set(*id, deadline);
        true
    }

    /// All checks of an app end.
    pub fn remove(&mut self, app: &AppName, ids: &[MonitorId]) {
        ids.iter().for_each(|id| self.unassign(app, *id));
    }

    /// A running check that no app uses any more.
    pub fn take_canceled(&mut self) -> Option<MonitorId> {
        self.canceled.pop()
    }

    /// Apps go by other names; `ids` are the checks that they have.
    pub fn rename(&mut self, names: &BTreeMap<&AppName, &AppName>, ids: BTreeSet<MonitorId>) {
        for id in ids {
            let Some(shared) = self.checks.get_mut(&id) else {
                continue;
            };
            for member in &mut shared.members {
                if let Some(new) = names.get(member) {
                    *member = (*new).clone();
                }
            }
            shared.members.sort();
        }
    }

    /// A check by its id.
    pub fn get(&self, id: MonitorId) -> Option<&Check> {
        self.checks.get(&id).map(|shared| &shared.check)
    }

    /// The apps that use a check.
    pub fn members(&self, id: MonitorId) -> &[AppName] {
        let shared = self.checks.get(&id);
        shared.map_or(&[], |shared| shared.members.as_slice())
    }

    /// All ids; asserts that each check has an app.
    #[cfg(test)]
    pub fn ids(&self) -> BTreeSet<MonitorId> {
        let members = |shared: &SharedCheck| assert!(!shared.members.is_empty());
        self.checks.values().for_each(members);
        self.checks.keys().copied().collect()
    }

    /// The combined health: down if one is down, else unknown if one is unknown.
    pub fn combined_health(&self, ids: &[MonitorId]) -> Health {
        let mut all = Health::Up;
        for check in ids.iter().filter_map(|id| self.get(*id)) {
            match check.health() {
                Health::Down => return Health::Down,
                Health::Unknown => all = Health::Unknown,
                Health::Up => {}
            }
        }
        all
    }

    /// Whether one of these is down by a fact (`Outcome::is_fact`).
    pub fn any_fact(&self, ids: &[MonitorId]) -> bool {
        let mut checks = ids.iter().filter_map(|id| self.get(*id));
        checks.any(Check::is_down_for_fact)
    }

    /// Whether one of these can state a fact and has no result yet.
    pub fn awaits_fact(&self, ids: &[MonitorId]) -> bool {
        let mut checks = ids.iter().filter_map(|id| self.get(*id));
        checks.any(Check::awaits_fact)
    }

    /// The ports of `port` monitors.
    pub fn ports(&self) -> BTreeSet<(Protocol, u16)> {
        self.ports.keys().copied().collect()
    }

    /// Whether the set of ports changed since the last call.
    pub fn take_ports_changed(&mut self) -> bool {
        std::mem::take(&mut self.ports_changed)
    }

    /// Records a result and returns the apps affected: none if nothing changed or the check is gone.
    pub fn record_result(
        &mut self,
        now: Instant,
        id: MonitorId,
        outcome: Outcome,
        took: Duration,
    ) -> &[AppName] {
        let mut schedule = ScheduleContext {
            tick_origin: self.tick_origin,
            has_clients: self.clients_until.is_some_and(|until| now < until),
            rng: &mut self.rng,
        };
        let Some(shared) = self.checks.get_mut(&id) else {
            return &[];
        };
        let news = shared
            .check
            .record_result(now, outcome, took, &mut schedule);
        self.deadlines.set(id, shared.check.deadline());
        if news { &shared.members } else { &[] }
    }

    /// A check is queued; `false` if it was shown as late before.
    pub fn check_queued(&mut self, now: Instant, id: MonitorId) -> bool {
        let Some(shared) = self.checks.get_mut(&id) else {
            return false;
        };
        let news = shared.check.check_queued(now);
        self.deadlines.set(id, shared.check.deadline());
        news
    }

    /// A heartbeat arrived; `false` if none of these is a heartbeat monitor.
    pub fn heartbeat(&mut self, now: Instant, ids: &[MonitorId]) -> bool {
        let mut any = false;
        for id in ids {
            if let Some(shared) = self.checks.get_mut(id)
                && shared.check.heartbeat(now).is_some()
            {
                any = true;
                self.deadlines.set(*id, shared.check.deadline());
            }
        }
        any
    }

    /// Clients connect to the ports, which are checked more often for a while.
    pub fn clients_seen(&mut self, now: Instant) {
        self.clients_until = Some(now + CLIENTS_VALID_FOR);
        for id in self.ports.values().flatten() {
            if let Some(shared) = self.checks.get_mut(id) {
                shared.check.clients_seen(now);
                self.deadlines.set(*id, shared.check.deadline());
            }
        }
    }

    /// Checks one port, or all, at once.
    pub fn recheck_ports(&mut self, now: Instant, port: Option<(Protocol, u16)>) {
        let ids: Vec<MonitorId> = match port {
            Some(port) => self
                .ports
                .get(&port)
                .into_iter()
                .flatten()
                .copied()
                .collect(),
            None => self.ports.values().flatten().copied().collect(),
        };
        for id in ids {
            self.recheck(now, id);
        }
    }

    /// Checks all `consul` monitors at once.
    pub fn recheck_consul(&mut self, now: Instant) {
        let all = self.checks.iter();
        let of_consul = all.filter(|(_, shared)| shared.check.monitor.spec == MonitorSpec::Consul);
        let ids: Vec<MonitorId> = of_consul.map(|(id, _)| *id).collect();
        for id in ids {
            self.recheck(now, id);
        }
    }

    fn recheck(&mut self, now: Instant, id: MonitorId) {
        if let Some(shared) = self.checks.get_mut(&id) {
            shared.check.recheck(now);
            self.deadlines.set(id, shared.check.deadline());
        }
    }

    /// Begins the checks that are due; the apps whose health changed without an answer are put into
    /// `concerned`.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
        outputs: &mut VecDeque<Output>,
        concerned: &mut BTreeSet<AppName>,
    ) {
        while let Some(id) = self.deadlines.pop_due(now) {
            let Some(shared) = self.checks.get_mut(&id) else {
                continue;
            };
            match shared.check.handle_timeout(now) {
                TimeoutOutcome::Nothing => {}
                TimeoutOutcome::PerformCheck => outputs.push_back(Output::Check {
                    monitor: id,
                    spec: shared.check.monitor.spec.clone(),
                    timeout: shared.check.monitor.timeout,
                    targets: shared.check.targets().to_vec(),
                }),
                TimeoutOutcome::HealthChanged => concerned.extend(shared.members.iter().cloned()),
            }
            self.deadlines.set(id, shared.check.deadline());
        }
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first()
    }
}

/// How long one sighting of a client counts: longer than the shell's interval between sightings.
const CLIENTS_VALID_FOR: Duration = Duration::from_secs(65);
