//! Drains, by name or of all apps. A drain is done when the peers have acknowledged the withdraw and no packet comes any
//! more, or `drain_time` has passed. It belongs to the name and outlives the app.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use log::warn;

use super::entry::Entry;
use super::intent::AckResult;
use super::read::peers_of;
use super::{DrainReport, DrainSteps, Registry};
use crate::app::{App, AppName, DrainRequest, RouteAction};
use crate::net::PeerName;
use crate::small_set::SmallSet;

/// What is drained. An instance's own drain or undrain takes precedence over its service's, and that
/// over all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drains {
    pub all: bool,
    pub names: BTreeSet<AppName>,
    /// Exempt from a drain of their service or of all.
    pub exempt: BTreeSet<AppName>,
    /// Who requested it, if known; `None` is the drain of all.
    pub requests: BTreeMap<Option<AppName>, DrainRequest>,
}

impl Drains {
    fn applies_to(&self, app: &App) -> bool {
        self.applying(app).is_some()
    }

    /// Who requested the drain that applies to the app.
    fn request_for(&self, app: &App) -> Option<&DrainRequest> {
        self.requests.get(&self.applying(app)?.cloned())
    }

    /// The drain that applies to the app: of a name, or of all.
    fn applying(&self, app: &App) -> Option<Option<&AppName>> {
        // Computed once: there may be many names.
        let service = app.service();
        let instance = app.instance_id.as_ref();
        let instance = instance.map(|id| AppName::of_instance(service, id));
        let names_app = |name: &AppName, of_service: bool| match name.as_str() == service {
            true => of_service,
            false => !of_service && (*name == app.name || instance.as_ref() == Some(name)),
        };
        for of_service in [false, true] {
            let names = |name: &&AppName| names_app(name, of_service);
            if let Some(name) = self.names.iter().find(names) {
                return Some(Some(name));
            }
            if self.exempt.iter().any(|name| names(&name)) {
                return None;
            }
        }
        self.all.then_some(None)
    }

    /// A drain or undrain of a service replaces those of its instances.
    fn clear<'a>(&mut self, name: &AppName, apps: impl Iterator<Item = &'a App>) {
        let instances: Vec<&App> = apps.filter(|app| app.service() == name.as_str()).collect();
        let stays =
            |other: &AppName| other != name && !instances.iter().any(|app| app.matches_name(other));
        self.names.retain(stays);
        self.exempt.retain(stays);
        self.requests
            .retain(|name, _| name.as_ref().is_none_or(stays));
    }
}

impl Registry {
    /// Drains one name, or all that are and will be; a drain belongs to the name and outlives the app.
    /// An existing drain keeps its first requester.
    pub fn drain(&mut self, now: Instant, name: Option<&AppName>, request: Option<DrainRequest>) {
        let before = self.drains.requests.get(&name.cloned()).cloned();
        match name {
            Some(name) => {
                let apps = self.apps.values().map(|entry| &entry.app);
                self.drains.clear(name, apps);
                self.drains.names.insert(name.clone());
            }
            None => {
                self.drains.all = true;
                self.drains.exempt.clear();
            }
        }
        if let Some(request) = before.or(request) {
            self.drains.requests.insert(name.cloned(), request);
        }
        let chosen = |entry: &Entry| name.is_none_or(|name| entry.app.matches_name(name));
        self.start_drains(now, false, chosen);
        self.prune_orphans();
    }

    /// Drains all because the process is about to end.
    pub fn drain_for_exit(&mut self, now: Instant) {
        self.exiting = true;
        self.start_drains(now, true, |_| true);
    }

    fn start_drains(&mut self, now: Instant, leaving: bool, chosen: impl Fn(&Entry) -> bool) {
        for (name, entry) in &mut self.apps {
            if chosen(entry) {
                entry.drain(now, leaving);
                entry.drain_request = self.drains.request_for(&entry.app).cloned();
                self.index.update(entry);
                self.queue.apps.insert(name.clone());
            }
        }
    }

    /// The longest `drain_time` of what is announced.
    pub fn longest_drain(&self) -> Duration {
        let out = self.entries().filter(|entry| entry.is_announcing());
        let times = out.map(|entry| entry.app.options.drain_time);
        times.max().unwrap_or_default()
    }

    /// Ends drains; without a name all of them. While the process stops this only changes the saved
    /// state.
    pub fn undrain(&mut self, name: Option<&AppName>) {
        match name {
            Some(name) => {
                let apps = self.apps.values().map(|entry| &entry.app);
                self.drains.clear(name, apps);
                if self.drains.all || !self.drains.names.is_empty() {
                    self.drains.exempt.insert(name.clone());
                }
            }
            None => self.drains = Drains::default(),
        }
        if self.exiting {
            return;
        }
        for (name, entry) in &mut self.apps {
            if !self.drains.applies_to(&entry.app) {
                entry.intent.undrain();
                self.index.update(entry);
                self.queue.apps.insert(name.clone());
            }
        }
        self.prune_orphans();
    }

    /// Drains of unknown apps are kept up to a limit: a client may send any number of names.
    fn prune_orphans(&mut self) {
        let most = self.apps.len() + MAX_ORPHAN_DRAINS;
        for names in [&mut self.drains.names, &mut self.drains.exempt] {
            if names.len() <= most {
                continue;
            }
            let is_gone = |name: &&AppName| !self.apps.values().any(|e| e.app.matches_name(name));
            if let Some(gone) = names.iter().find(is_gone).cloned() {
                warn!("drain of unknown app {gone} dropped: {MAX_ORPHAN_DRAINS} others are kept");
                names.remove(&gone);
                self.drains.requests.remove(&Some(gone));
            }
        }
    }

    /// The peers whose acknowledgment drains wait for, as their apps name them; empty: all peers. Marks those
    /// drains as requested.
    pub fn request_acknowledgment(&mut self) -> Option<SmallSet<PeerName>> {
        let apps = &mut self.apps;
        let mut mark = |name: &&AppName| {
            let entry = apps.get_mut(*name);
            entry.is_some_and(|entry| entry.intent.mark_ack_requested())
        };
        let names = self.index.unacknowledged().iter();
        let requested: Vec<&AppName> = names.filter(|name| mark(name)).collect();
        let requested = requested.into_iter();
        peers_of(requested.filter_map(|name| self.definition(name)))
    }

    /// The wait for the peers since `request_acknowledgment` is over.
    pub fn acknowledged(&mut self, now: Instant, result: AckResult) {
        for name in self.index.unacknowledged().clone() {
            if let Some(entry) = self.apps.get_mut(&name)
                && entry.intent.acknowledged(now, result)
            {
                self.index.update(entry);
                self.queue.apps.insert(name);
            }
        }
    }

    /// Every requested drain is over.
    pub fn is_drained(&self, name: Option<&AppName>) -> bool {
        let chosen = |entry: &&Entry| name.is_none_or(|name| entry.app.matches_name(name));
        self.entries()
            .filter(chosen)
            .all(|entry| entry.intent.no_drain_pending())
    }

    /// The requested drains, with the times of their steps.
    pub fn drain_reports(&self, name: Option<&AppName>) -> Vec<DrainReport> {
        let chosen = |entry: &&Entry| name.is_none_or(|name| entry.app.matches_name(name));
        let reports = self.entries().filter(chosen).filter_map(|entry| {
            let steps = entry.intent.as_drain()?.steps();
            Some(DrainReport {
                app: entry.app.name.clone(),
                steps: DrainSteps {
                    keeps_routes: entry.app.when_draining != RouteAction::Withdraw,
                    ..steps
                },
            })
        });
        reports.collect()
    }

    pub(super) fn drain_request(&self, app: &App) -> Option<DrainRequest> {
        self.drains.request_for(app).cloned()
    }

    pub(super) fn is_drain_requested(&self, app: &App) -> bool {
        self.drains.applies_to(app)
    }

    /// All drains, for the state file.
    pub fn drains(&self) -> &Drains {
        &self.drains
    }
}

/// The limit of drains without an app; that many fit into a state file.
const MAX_ORPHAN_DRAINS: usize = 1000;
