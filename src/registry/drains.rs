//! Drains: asked for by name or for all, and over when the peers have the withdraw and `drain_time` has
//! passed. A drain belongs to the name and outlives the app.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Registry;
use super::entry::{Ack, Entry};
use crate::app::{App, AppName};

impl Registry {
    /// Drains one name, or all that are and will be; a drain belongs to the name and outlives the app.
    pub fn drain(&mut self, now: Instant, name: Option<&AppName>) {
        match name {
            Some(name) => {
                self.drains.insert(name.clone());
            }
            None => self.drain_all = true,
        }
        let chosen = |entry: &&mut Entry| name.is_none_or(|name| entry.app.is_called(name));
        self.entries()
            .filter(chosen)
            .for_each(|entry| entry.start_drain(now, false));
        self.settle_all(now);
    }

    /// Drains all because the process is about to end.
    pub fn drain_for_exit(&mut self, now: Instant) {
        self.exiting = true;
        self.entries()
            .for_each(|entry| entry.start_drain(now, true));
        self.settle_all(now);
    }

    /// The longest `drain_time` of what is announced.
    pub fn longest_drain(&self) -> Duration {
        let out = self.apps.values().filter(|entry| entry.is_announcing());
        let times = out.map(|entry| entry.app.drain_time);
        times.max().unwrap_or_default()
    }

    /// Ends drains; without a name all of them.
    pub fn undrain(&mut self, now: Instant, name: Option<&AppName>) {
        match name {
            Some(name) => {
                self.drains.remove(name);
            }
            None => {
                self.drain_all = false;
                self.drains.clear();
            }
        }
        let (all, drains) = (self.drain_all, &self.drains);
        for (_, entry) in self.apps.iter_mut() {
            if !all && !drains.iter().any(|name| entry.app.is_called(name)) {
                entry.drain = None;
            }
        }
        self.settle_all(now);
    }

    /// Whether somebody waits for the peers' acknowledgement; from now on they count as asked.
    pub fn ask_acknowledgement(&mut self) -> bool {
        let mut any = false;
        for drain in self.entries().filter_map(|entry| entry.drain.as_mut()) {
            if drain.ack == Ack::Wanted {
                drain.ack = Ack::Asked;
                any = true;
            }
        }
        any
    }

    /// The peers have what was sent before `ask_acknowledgement`.
    pub fn acknowledged(&mut self, now: Instant) {
        for drain in self.entries().filter_map(|entry| entry.drain.as_mut()) {
            if drain.ack == Ack::Asked {
                drain.ack = Ack::Got;
            }
        }
        self.settle_all(now);
    }

    /// Every drain that was asked for is over.
    pub fn is_drained(&self, name: Option<&AppName>) -> bool {
        let chosen = |entry: &&Entry| name.is_none_or(|name| entry.app.is_called(name));
        let done = |entry: &Entry| entry.drain.is_none_or(|drain| drain.done);
        self.apps.values().filter(chosen).all(done)
    }

    pub(super) fn is_draining(&self, app: &App) -> bool {
        self.drain_all || self.drains.iter().any(|name| app.is_called(name))
    }

    /// What is drained by name, and whether all are.
    pub fn drains(&self) -> (&BTreeSet<AppName>, bool) {
        (&self.drains, self.drain_all)
    }
}
