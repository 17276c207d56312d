//! Indexes over all apps, so that look-ups and counts need no scan.

use std::collections::{BTreeMap, BTreeSet};

use super::AppState;
use super::entry::Entry;
use crate::app::{AppName, Source};
use crate::health::Health;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    sources: BTreeMap<Source, BTreeSet<AppName>>,
    /// By Consul's id of the service.
    instances: BTreeMap<String, AppName>,
    up: BTreeSet<AppName>,
    /// A monitor of theirs has not answered yet.
    unknown: BTreeSet<AppName>,
    /// With a drain whose withdraw the peers have not acknowledged.
    unacknowledged: BTreeSet<AppName>,
    /// With a drain that waits for its traffic to end.
    watched: BTreeSet<AppName>,
    /// `watched` has changed since it was last taken.
    watched_changed: bool,
    /// Apps with a desired route, none of which was announced yet.
    unannounced: BTreeSet<AppName>,
}

impl Index {
    /// Adds an app to all indexes.
    pub fn add(&mut self, entry: &Entry) {
        let app = &entry.app;
        let of_source = self.sources.entry(app.source).or_default();
        of_source.insert(app.name.clone());
        if let Some(id) = &app.instance_id {
            self.instances.insert(id.clone(), app.name.clone());
        }
        self.update(entry);
    }

    /// Removes an app from all indexes.
    pub fn remove(&mut self, entry: &Entry) {
        let app = &entry.app;
        if let Some(of_source) = self.sources.get_mut(&app.source) {
            of_source.remove(&app.name);
        }
        if let Some(id) = &app.instance_id
            && self.instances.get(id) == Some(&app.name)
        {
            self.instances.remove(id);
        }
        self.watched_changed |= self.watched.contains(&app.name);
        for set in self.sets() {
            set.remove(&app.name);
        }
    }

    /// Updates the indexes after a change of the app.
    pub fn update(&mut self, entry: &Entry) {
        let watches = entry.intent.watches_traffic();
        self.watched_changed |= watches != self.watched.contains(&entry.app.name);
        let state = [
            entry.last_state() == AppState::Up,
            entry.health.health() == Health::Unknown && entry.refusal.is_none(),
            entry.intent.is_unacknowledged(),
            watches,
            entry.is_announcing() && !entry.was_announced,
        ];
        for (set, belongs) in self.sets().into_iter().zip(state) {
            if !belongs {
                set.remove(&entry.app.name);
            } else if !set.contains(&entry.app.name) {
                set.insert(entry.app.name.clone());
            }
        }
    }

    fn sets(&mut self) -> [&mut BTreeSet<AppName>; 5] {
        [
            &mut self.up,
            &mut self.unknown,
            &mut self.unacknowledged,
            &mut self.watched,
            &mut self.unannounced,
        ]
    }

    /// The apps of a source, by name.
    pub fn of_source(&self, source: Source) -> impl Iterator<Item = &AppName> {
        self.sources.get(&source).into_iter().flatten()
    }

    /// The number of apps of a source.
    pub fn count(&self, source: Source) -> usize {
        self.sources.get(&source).map_or(0, BTreeSet::len)
    }

    /// The app of a Consul service id.
    pub fn instance(&self, id: &str) -> Option<&AppName> {
        self.instances.get(id)
    }

    /// The number of apps in state `up`.
    pub fn up(&self) -> usize {
        self.up.len()
    }

    /// Whether every monitor has a result.
    pub fn all_known(&self) -> bool {
        self.unknown.is_empty()
    }

    /// Apps with a monitor that has no result.
    pub fn unknown(&self) -> &BTreeSet<AppName> {
        &self.unknown
    }

    /// Apps whose drain waits for the peers.
    pub fn unacknowledged(&self) -> &BTreeSet<AppName> {
        &self.unacknowledged
    }

    /// Apps whose drain waits for its traffic to end.
    pub fn watched(&self) -> &BTreeSet<AppName> {
        &self.watched
    }

    /// Whether [`Index::watched`] has changed since the last call.
    pub fn take_watched_changed(&mut self) -> bool {
        std::mem::take(&mut self.watched_changed)
    }

    /// Apps with a desired route that was never announced.
    pub fn unannounced(&self) -> &BTreeSet<AppName> {
        &self.unannounced
    }
}

#[cfg(test)]
impl Index {
    /// Sources without apps aside.
    pub fn assert_equals(&self, other: &Self) {
        for source in Source::ALL {
            assert!(self.of_source(source).eq(other.of_source(source)));
        }
        let all = |index: &Self| {
            let lives = [
                &index.up,
                &index.unknown,
                &index.unacknowledged,
                &index.watched,
            ];
            let lives = lives.map(Clone::clone);
            (index.instances.clone(), lives, index.unannounced.clone())
        };
        assert_eq!(all(self), all(other));
    }
}
