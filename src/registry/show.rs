//! What the registry shows of its apps.

use std::time::Instant;

use super::check::Check;
use super::entry::Entry;
use super::{AppState, AppView, MonitorId, MonitorView, NatView, Registry, VipView};
use crate::app::{App, AppName, MonitorSpec, NatSpec, Source};
use crate::health::Health;
use crate::net::Prefix;

impl Registry {
    pub fn names(&self) -> impl Iterator<Item = &AppName> {
        self.apps.keys()
    }

    pub fn definition(&self, name: &AppName) -> Option<&App> {
        self.apps.get(name).map(|entry| &entry.app)
    }

    /// Whether the app has such a monitor and it is up.
    pub fn monitor_is_up(&self, name: &AppName, spec: &MonitorSpec) -> bool {
        let checks = self.apps.get(name).map(|entry| entry.checks.as_slice());
        let mut checks = checks.unwrap_or_default().iter();
        checks.any(|check| check.monitor.spec == *spec && check.health() == Health::Up)
    }

    /// The names that these sources registered.
    pub fn of_sources(&self, sources: &[Source]) -> Vec<AppName> {
        let apps = self.entries().map(|entry| &entry.app);
        let of_them = apps.filter(|app| sources.contains(&app.source));
        of_them.map(|app| app.name.clone()).collect()
    }

    /// The app of a monitor, and the monitor's label.
    pub fn owner(&self, monitor: MonitorId) -> Option<(&AppName, String)> {
        self.apps.iter().find_map(|(name, entry)| {
            let index = entry.checks.iter().position(|c| c.id == monitor)?;
            let check = entry.checks.get(index)?;
            Some((name, check.monitor.label(index)))
        })
    }

    /// What is known here; whether VIPs are addressed and announced is the core's to add, what NAT has
    /// carried the shell's.
    pub fn view(&self, now: Instant, name: &AppName) -> Option<AppView> {
        let entry = self.apps.get(name)?;
        let held = entry.held_until();
        let monitors = entry.checks.iter().enumerate();
        Some(AppView {
            name: name.clone(),
            source: entry.app.source,
            state: entry.state(),
            health: entry.health(),
            announced: false,
            since: now.saturating_duration_since(entry.since()),
            why: entry.why().to_owned(),
            vips: entry.vips().map(|vip| vip_view(entry, vip)).collect(),
            monitors: monitors
                .map(|(index, check)| monitor_view(index, check, now))
                .collect(),
            nats: entry.app.nats.iter().map(nat_view).collect(),
            draining: entry.drain.is_some(),
            drained: entry.drain.is_some_and(|drain| drain.done),
            maintenance: entry.maintenance,
            held_for: held.map(|until| until.saturating_duration_since(now)),
            flaps: entry.flaps(),
            transitions: entry.transitions.clone(),
        })
    }

    /// Whether this app is the one that holds the VIP.
    pub fn holds(&self, name: &AppName, vip: &Prefix) -> bool {
        self.claims.get(vip) == Some(name)
    }

    /// How many apps there are, and how many of them are up.
    pub fn count(&self) -> (usize, usize) {
        let up = |entry: &&Entry| entry.state() == AppState::Up;
        (self.apps.len(), self.entries().filter(up).count())
    }

    /// Every monitor has answered at least once.
    pub fn is_known(&self) -> bool {
        let known = |entry: &Entry| entry.health() != Health::Unknown;
        self.entries().all(known)
    }

    /// Remembers which apps have a route out; `out` says it of a prefix.
    pub fn note_announced(&mut self, out: impl Fn(&Prefix) -> bool) {
        for entry in self.entries_mut().filter(|entry| !entry.was_announced) {
            entry.was_announced = entry.is_announcing() && entry.vips().any(|vip| out(&vip));
        }
    }

    /// `Ok` where every app was announced at least once and not all are leaving.
    pub fn ready(&self) -> Result<(), String> {
        let leaving = |entry: &Entry| entry.drain.is_some();
        let all_leave = match self.apps.is_empty() {
            true => self.drains.all,
            false => self.entries().all(leaving),
        };
        if all_leave {
            return Err("draining".to_owned());
        }
        // A service whose tags are wrong is none of ours to wait for.
        let counts = |entry: &&Entry| entry.app.source != Source::Consul || entry.refusal.is_none();
        let mut counted = self.entries().filter(counts);
        match counted.find(|entry| !entry.was_announced) {
            None => Ok(()),
            Some(entry) => Err(format!(
                "app {} was not announced yet: {}, {}",
                entry.app.name,
                entry.state(),
                entry.why()
            )),
        }
    }
}

fn vip_view(entry: &Entry, prefix: Prefix) -> VipView {
    VipView {
        prefix,
        announced: false,
        addressed: false,
        foreign: false,
        problem: entry.problems.get(&prefix).map(ToString::to_string),
    }
}

fn nat_view(spec: &NatSpec) -> NatView {
    NatView {
        spec: *spec,
        counted: None,
    }
}

fn monitor_view(index: usize, check: &Check, now: Instant) -> MonitorView {
    let last = check.last.as_ref();
    MonitorView {
        label: check.monitor.label(index),
        spec: check.monitor.spec.to_string(),
        health: check.health(),
        last: last.map(|seen| seen.outcome.clone()),
        took: last.map(|seen| seen.took),
        age: last.map(|seen| now.saturating_duration_since(seen.at)),
    }
}
