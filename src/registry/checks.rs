//! All checks, and whose they are. Apps that watch a port in the same way share one check: one look
//! answers all of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::Output;
use super::check::{Check, Due, MonitorId, Pace};
use crate::app::{AppName, Monitor, MonitorSpec, Protocol};
use crate::health::{Health, Outcome};
use crate::timer::{Deadlines, Jitter};

pub(super) struct Checks {
    checks: BTreeMap<MonitorId, Shared>,
    /// Checks of ports by what they do; names set aside.
    shared: BTreeMap<Monitor, MonitorId>,
    ports: BTreeMap<(Protocol, u16), BTreeSet<MonitorId>>,
    /// A port came or went since this was last asked.
    ports_changed: bool,
    deadlines: Deadlines<MonitorId>,
    /// Were under way when the last app left them.
    abandoned: Vec<MonitorId>,
    next: u64,
    jitter: Jitter,
    /// From when the moments are counted at which ports are looked at; set with the first answer.
    ticks: Option<Instant>,
    /// Until when clients are believed to come to the ports.
    used_until: Option<Instant>,
}

struct Shared {
    check: Check,
    /// In order; never empty.
    members: Vec<AppName>,
}

impl Checks {
    pub fn new(seed: u64) -> Self {
        Self {
            checks: BTreeMap::new(),
            shared: BTreeMap::new(),
            ports: BTreeMap::new(),
            ports_changed: false,
            deadlines: Deadlines::default(),
            abandoned: Vec::new(),
            next: 0,
            jitter: Jitter::new(seed),
            ticks: None,
            used_until: None,
        }
    }

    /// The checks of an app's new definition, in the order of its monitors. Those of equal monitors of
    /// the definition before (`known`) go on, the others of it end.
    pub fn replace(
        &mut self,
        now: Instant,
        app: &AppName,
        monitors: &BTreeSet<Monitor>,
        known: Vec<MonitorId>,
    ) -> Vec<MonitorId> {
        let mut ids = Vec::with_capacity(monitors.len());
        let mut free = known.clone();
        for monitor in monitors {
            let equal = free.iter().position(|id| {
                let check = self.get(*id);
                check.is_some_and(|check| check.monitor.spec == monitor.spec)
            });
            let before = equal.map(|index| free.swap_remove(index));
            ids.push(self.join(now, app, monitor, before));
        }
        // Last, since two monitors may share a check, or have changed theirs with each other.
        for id in known {
            if !ids.contains(&id) {
                self.leave(app, id);
            }
        }
        ids
    }

    /// The check of a monitor for this app, which goes on from `before` where it has one.
    fn join(
        &mut self,
        now: Instant,
        app: &AppName,
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
                self.add_member(id, app);
                self.look_again(now, id);
            }
            return id;
        }
        let known = before.and_then(|id| self.get(id)).cloned();
        let check = match known {
            Some(mut check) => {
                check.redefine(nameless.clone());
                if is_port {
                    // An answer that is on its way is for the other check.
                    check.restart(now);
                }
                check
            }
            None => Check::new(nameless.clone(), now),
        };
        // What only this app has keeps its number, and with it an answer that is on its way.
        let id = match before.filter(|_| !is_port) {
            Some(id) => id,
            None => {
                self.next += 1;
                MonitorId(self.next)
            }
        };
        self.deadlines.set(id, Some(check.deadline()));
        let members = vec![app.clone()];
        self.checks.insert(id, Shared { check, members });
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

    fn leave(&mut self, app: &AppName, id: MonitorId) {
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
            if shared.check.is_under_way() {
                self.abandoned.push(id);
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

    /// All checks of an app end.
    pub fn remove(&mut self, app: &AppName, ids: &[MonitorId]) {
        ids.iter().for_each(|id| self.leave(app, *id));
    }

    /// A check that is under way and whose answer nobody waits for any more.
    pub fn take_abandoned(&mut self) -> Option<MonitorId> {
        self.abandoned.pop()
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

    pub fn get(&self, id: MonitorId) -> Option<&Check> {
        self.checks.get(&id).map(|shared| &shared.check)
    }

    /// The apps that a check concerns.
    pub fn members(&self, id: MonitorId) -> &[AppName] {
        let shared = self.checks.get(&id);
        shared.map_or(&[], |shared| shared.members.as_slice())
    }

    #[cfg(test)]
    pub fn ids(&self) -> BTreeSet<MonitorId> {
        let members = |shared: &Shared| assert!(!shared.members.is_empty());
        self.checks.values().for_each(members);
        self.checks.keys().copied().collect()
    }

    /// What these say together: down where one is, unknown where one is.
    pub fn all(&self, ids: &[MonitorId]) -> Health {
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

    /// Ports that are looked at.
    pub fn ports(&self) -> BTreeSet<(Protocol, u16)> {
        self.ports.keys().copied().collect()
    }

    pub fn take_ports_changed(&mut self) -> bool {
        std::mem::take(&mut self.ports_changed)
    }

    /// Takes an answer and says whom it concerns; one that is no news concerns nobody, nor does one for a
    /// check that is gone.
    pub fn answer(
        &mut self,
        now: Instant,
        id: MonitorId,
        outcome: Outcome,
        took: Duration,
    ) -> &[AppName] {
        let mut pace = Pace {
            ticks: *self.ticks.get_or_insert(now),
            used: self.used_until.is_some_and(|until| now < until),
            jitter: &mut self.jitter,
        };
        let Some(shared) = self.checks.get_mut(&id) else {
            return &[];
        };
        let news = shared.check.answer(now, outcome, took, &mut pace);
        self.deadlines.set(id, Some(shared.check.deadline()));
        if news { &shared.members } else { &[] }
    }

    /// A check has not begun for want of a place; `false` where that was known.
    pub fn wait(&mut self, now: Instant, id: MonitorId) -> bool {
        let Some(shared) = self.checks.get_mut(&id) else {
            return false;
        };
        let news = shared.check.wait(now);
        self.deadlines.set(id, Some(shared.check.deadline()));
        news
    }

    /// A heartbeat came in; `false` where none of these is a heartbeat monitor.
    pub fn beat(&mut self, now: Instant, ids: &[MonitorId]) -> bool {
        let mut any = false;
        for id in ids {
            if let Some(shared) = self.checks.get_mut(id)
                && shared.check.beat(now).is_some()
            {
                any = true;
                self.deadlines.set(*id, Some(shared.check.deadline()));
            }
        }
        any
    }

    /// Clients come to the ports: for a while these are looked at more often.
    pub fn clients_seen(&mut self, now: Instant) {
        self.used_until = Some(now + USED_FOR);
        for id in self.ports.values().flatten() {
            if let Some(shared) = self.checks.get_mut(id) {
                shared.check.clients_seen(now);
                self.deadlines.set(*id, Some(shared.check.deadline()));
            }
        }
    }

    /// Looks at a port again at once, or at all.
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
            self.look_again(now, id);
        }
    }

    /// The `consul` monitors are asked again at once.
    pub fn recheck_consul(&mut self, now: Instant) {
        let all = self.checks.iter();
        let of_consul = all.filter(|(_, shared)| shared.check.monitor.spec == MonitorSpec::Consul);
        let ids: Vec<MonitorId> = of_consul.map(|(id, _)| *id).collect();
        for id in ids {
            self.look_again(now, id);
        }
    }

    fn look_again(&mut self, now: Instant, id: MonitorId) {
        if let Some(shared) = self.checks.get_mut(&id) {
            shared.check.recheck(now);
            self.deadlines.set(id, Some(shared.check.deadline()));
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
                Due::Nothing => {}
                Due::Look => outputs.push_back(Output::Check {
                    monitor: id,
                    spec: shared.check.monitor.spec.clone(),
                    timeout: shared.check.monitor.timeout,
                }),
                Due::Changed => concerned.extend(shared.members.iter().cloned()),
            }
            self.deadlines.set(id, Some(shared.check.deadline()));
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first()
    }
}

/// How long one sight of a client is believed: more than the shell takes to look for the next.
const USED_FOR: Duration = Duration::from_secs(65);
