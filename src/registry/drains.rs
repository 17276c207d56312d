//! Drains: asked for by name or for all, and over when the peers have the withdraw and `drain_time` has
//! passed. A drain belongs to the name and outlives the app.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use log::warn;

use super::Registry;
use super::entry::Entry;
use crate::app::{App, AppName};

/// What is drained: what was said of an instance counts before what was said of its service, and that
/// before what was said of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drains {
    pub all: bool,
    pub names: BTreeSet<AppName>,
    /// Undrained by name while a drain holds that means more than them.
    pub spared: BTreeSet<AppName>,
}

impl Drains {
    fn mean(&self, app: &App) -> bool {
        // Once for all names, of which there may be many.
        let service = app.service();
        let instance = app.instance_id.as_ref();
        let instance = instance.map(|id| AppName::of_instance(service, id));
        let said = |names: &BTreeSet<AppName>, of_service: bool| {
            names.iter().any(|name| match name.as_str() == service {
                true => of_service,
                false => !of_service && (*name == app.name || instance.as_ref() == Some(name)),
            })
        };
        for of_service in [false, true] {
            if said(&self.names, of_service) {
                return true;
            }
            if said(&self.spared, of_service) {
                return false;
            }
        }
        self.all
    }

    /// The latest word on a service is one on its instances.
    fn forget<'a>(&mut self, name: &AppName, apps: impl Iterator<Item = &'a App>) {
        let instances: Vec<&App> = apps.filter(|app| app.service() == name.as_str()).collect();
        let stays =
            |other: &AppName| other != name && !instances.iter().any(|app| app.is_called(other));
        self.names.retain(stays);
        self.spared.retain(stays);
    }
}

impl Registry {
    /// Drains one name, or all that are and will be; a drain belongs to the name and outlives the app.
    pub fn drain(&mut self, now: Instant, name: Option<&AppName>) {
        match name {
            Some(name) => {
                let apps = self.apps.values().map(|entry| &entry.app);
                self.drains.forget(name, apps);
                self.drains.names.insert(name.clone());
            }
            None => {
                self.drains.all = true;
                self.drains.spared.clear();
            }
        }
        let chosen = |entry: &Entry| name.is_none_or(|name| entry.app.is_called(name));
        self.start_drains(now, false, chosen);
        self.forget_surplus();
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
                self.index.note(entry);
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

    /// Ends drains; without a name all of them. While the process ends that is only remembered.
    pub fn undrain(&mut self, name: Option<&AppName>) {
        match name {
            Some(name) => {
                let apps = self.apps.values().map(|entry| &entry.app);
                self.drains.forget(name, apps);
                if self.drains.all || !self.drains.names.is_empty() {
                    self.drains.spared.insert(name.clone());
                }
            }
            None => self.drains = Drains::default(),
        }
        if self.exiting {
            return;
        }
        for (name, entry) in &mut self.apps {
            if !self.drains.mean(&entry.app) {
                entry.intent.undrain();
                self.index.note(entry);
                self.queue.apps.insert(name.clone());
            }
        }
        self.forget_surplus();
    }

    /// Names whose app is gone are remembered up to a bound: a client may go through any number of them.
    fn forget_surplus(&mut self) {
        let most = self.apps.len() + REMEMBERED;
        for names in [&mut self.drains.names, &mut self.drains.spared] {
            if names.len() <= most {
                continue;
            }
            let is_gone = |name: &&AppName| !self.apps.values().any(|e| e.app.is_called(name));
            if let Some(gone) = names.iter().find(is_gone).cloned() {
                warn!(
                    "the drain of {gone}, which has no app, is forgotten: there are {REMEMBERED} others"
                );
                names.remove(&gone);
            }
        }
    }

    /// Whether somebody waits for the peers' acknowledgement; from now on they count as asked.
    pub fn ask_acknowledgement(&mut self) -> bool {
        let mut any = false;
        for name in self.index.unacknowledged() {
            let entry = self.apps.get_mut(name);
            any |= entry.is_some_and(|entry| entry.intent.asked());
        }
        any
    }

    /// The peers have what was sent before `ask_acknowledgement`.
    pub fn acknowledged(&mut self) {
        for name in self.index.unacknowledged().clone() {
            if let Some(entry) = self.apps.get_mut(&name)
                && entry.intent.acknowledged()
            {
                self.index.note(entry);
                self.queue.apps.insert(name);
            }
        }
    }

    /// Every drain that was asked for is over.
    pub fn is_drained(&self, name: Option<&AppName>) -> bool {
        let chosen = |entry: &&Entry| name.is_none_or(|name| entry.app.is_called(name));
        self.entries()
            .filter(chosen)
            .all(|entry| entry.intent.is_settled())
    }

    pub(super) fn is_draining(&self, app: &App) -> bool {
        self.drains.mean(app)
    }

    pub fn drains(&self) -> &Drains {
        &self.drains
    }
}

/// Drains of names without an app. Together they fit into a state file.
const REMEMBERED: usize = 1000;
