//! What the registry shows of its apps.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::Instant;

use super::app_health::HoldReason;
use super::check::Check;
use super::entry::Entry;
use super::vip::VipMachine;
use super::{AppView, MonitorId, MonitorView, NatView, Problem, Registry, VipView};
use crate::app::{App, AppName, MonitorSpec, NatSpec, PathProof, Source};
use crate::config::Refusal;
use crate::health::Health;
use crate::net::{PeerName, Prefix};
use crate::small_set::SmallSet;

impl Registry {
    /// The names after one, or all of them.
    pub fn names(&self, after: Option<&AppName>) -> impl Iterator<Item = &AppName> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.apps
            .range::<AppName, _>((from, Bound::Unbounded))
            .map(|(name, _)| name)
    }

    /// An app as it was registered.
    pub fn definition(&self, name: &AppName) -> Option<&App> {
        self.apps.get(name).map(|entry| &entry.app)
    }

    /// Whether the app has such a monitor and it is up.
    pub fn monitor_is_up(&self, name: &AppName, spec: &MonitorSpec) -> bool {
        let ids = self.apps.get(name).map(|entry| entry.monitors.as_slice());
        let ids = ids.unwrap_or_default().iter();
        let mut checks = ids.filter_map(|id| self.checks.get(*id));
        checks.any(|check| check.monitor.spec == *spec && check.health() == Health::Up)
    }

    /// The names that these sources registered.
    pub fn of_sources(&self, sources: &[Source]) -> Vec<AppName> {
        let names = sources
            .iter()
            .flat_map(|source| self.index.of_source(*source));
        names.cloned().collect()
    }

    /// Apps of HTTP and Consul that are refused, and why.
    pub fn refused(&self) -> Vec<(AppName, Refusal)> {
        let remote = self.entries().filter(|entry| entry.app.source.is_remote());
        let refused = remote.filter_map(|entry| {
            let refusal = entry.refusal.clone()?;
            Some((entry.app.name.clone(), refusal))
        });
        refused.collect()
    }

    /// The app of a monitor, and the monitor's label; of one that several apps share, the first.
    pub fn owner(&self, monitor: MonitorId) -> Option<(&App, String)> {
        let name = self.checks.members(monitor).first()?;
        let entry = self.apps.get(name)?;
        let index = entry.monitors.iter().position(|id| *id == monitor)?;
        let label = entry.app.monitors.get(index)?.label(index);
        Some((&entry.app, label))
    }

    /// The registry's part. The core adds whether VIPs are on the interface and announced, the shell the
    /// NAT counters.
    pub fn view(&self, now: Instant, name: &AppName) -> Option<AppView> {
        let entry = self.apps.get(name)?;
        let held = entry.health.held();
        let held = held.filter(|(by, _)| *by == HoldReason::Damping);
        let monitors = entry.app.monitors.iter().enumerate();
        let monitors = monitors.map(|(index, monitor)| {
            let id = entry.monitors.get(index);
            let check = id.and_then(|id| self.checks.get(*id));
            monitor_view(monitor.label(index), &monitor.spec, check, now)
        });
        Some(AppView {
            name: name.clone(),
            source: entry.app.source,
            state: entry.state(),
            health: entry.health.health(),
            announced: false,
            last_resort: entry
                .last_resort_since()
                .map(|since| now.saturating_duration_since(since)),
            since: now.saturating_duration_since(entry.since()),
            why: entry.why_now(now, &self.checks),
            vips: entry.vips().map(|vip| vip_view(entry, vip)).collect(),
            monitors: monitors.collect(),
            nats: entry.app.nats.iter().map(nat_view).collect(),
            peers: entry.app.options.peers.iter().cloned().collect(),
            drain_time: entry.app.options.drain_time,
            draining: entry.intent.is_draining(),
            drain: entry.drain_view(now),
            drained: entry.intent.is_draining() && entry.intent.no_drain_pending(),
            maintenance: entry.intent.is_maintenance(),
            maintenance_problem: entry.maintenance_problem.clone(),
            held_for: held.map(|(_, until)| until.saturating_duration_since(now)),
            flaps: entry.health.flaps(),
            transitions: entry.transitions().collect(),
        })
    }

    /// The `path_proof` setting of the app that holds a VIP; `None`: no app holds it.
    pub fn path_proof(&self, vip: &Prefix) -> Option<PathProof> {
        let app = self.definition(self.claims.holder(vip)?)?;
        Some(app.options.path_proof)
    }

    /// Whether this app is the one that holds the VIP.
    pub fn holds(&self, name: &AppName, vip: &Prefix) -> bool {
        self.claims.holds(name, vip)
    }

    /// How many apps there are, and how many of them are up.
    pub fn count(&self) -> (usize, usize) {
        (self.apps.len(), self.index.up())
    }

    /// Every monitor has answered at least once.
    pub fn is_known(&self) -> bool {
        self.index.all_known()
    }

    /// The peers of apps with a monitor that has not answered yet, or that hold one of these VIPs; `None`:
    /// there is no such app.
    pub fn peers_of_unknown(&self, vips: &BTreeSet<Prefix>) -> Option<SmallSet<PeerName>> {
        let holders = vips.iter().filter_map(|vip| self.claims.holder(vip));
        let names = self.index.unknown().iter().chain(holders);
        peers_of(names.filter_map(|name| self.definition(name)))
    }

    /// Marks apps whose route has been announced. `out`: whether a prefix is advertised to a peer. `sent`: something
    /// was sent, so all unannounced apps are examined; else only those whose route became desired, which may be
    /// announced already for another instance.
    pub fn note_announced(&mut self, sent: bool, out: impl Fn(&Prefix) -> bool) {
        let mut names = std::mem::take(&mut self.newly_announcing);
        if sent {
            names = self.index.unannounced().iter().cloned().collect();
        }
        for name in names {
            if let Some(entry) = self.apps.get_mut(&name)
                && entry.is_announcing()
                && entry.vips().any(|vip| out(&vip))
            {
                entry.was_announced = true;
                self.index.update(entry);
            }
        }
    }

    /// `Ok` where every app was announced at least once and not all are leaving.
    pub fn ready(&self) -> Result<(), String> {
        let leaving = |entry: &Entry| entry.intent.is_draining();
        let all_leave = match self.apps.is_empty() {
            true => self.drains.all,
            false => self.entries().all(leaving),
        };
        if all_leave {
            return Err("draining".to_owned());
        }
        // Refused apps of HTTP and Consul do not count.
        let counts = |entry: &&Entry| !entry.app.source.is_remote() || entry.refusal.is_none();
        let mut counted = self.entries().filter(counts);
        match counted.find(|entry| !entry.was_announced) {
            None => Ok(()),
            Some(entry) => Err(format!(
                "app {} was not announced yet: {}, {}",
                entry.app.name,
                entry.state(),
                entry.why(&self.checks)
            )),
        }
    }
}

/// The peers that apps are announced to, as they name them: empty: all; `None`: there is no app.
pub(super) fn peers_of<'a>(apps: impl Iterator<Item = &'a App>) -> Option<SmallSet<PeerName>> {
    let mut peers = Vec::new();
    for app in apps {
        if app.options.peers.is_empty() {
            return Some(SmallSet::default());
        }
        peers.extend(app.options.peers.iter().cloned());
    }
    (!peers.is_empty()).then(|| peers.into_iter().collect())
}

fn vip_view(entry: &Entry, prefix: Prefix) -> VipView {
    let machine = entry.vip(&prefix);
    let problem = machine.and_then(VipMachine::problem);
    VipView {
        wanted: machine.is_some_and(|machine| machine.route().is_some()),
        problem: problem.map(ToString::to_string),
        standby: problem.is_some_and(Problem::is_standby),
        ..VipView::new(prefix)
    }
}

fn nat_view(spec: &NatSpec) -> NatView {
    NatView {
        spec: *spec,
        count: None,
    }
}

/// The monitors of a refused app are not checked.
fn monitor_view(
    label: String,
    spec: &MonitorSpec,
    check: Option<&Check>,
    now: Instant,
) -> MonitorView {
    let last = check.and_then(|check| check.last.as_ref());
    MonitorView {
        label,
        spec: spec.to_string(),
        health: check.map_or(Health::Unknown, Check::health),
        last: last.map(|seen| seen.outcome.clone()),
        took: last.map(|seen| seen.took),
        age: last.map(|seen| now.saturating_duration_since(seen.at)),
    }
}
