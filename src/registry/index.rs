//! What is kept of all apps together, so that nobody walks over them to find one or to count.

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
    /// They want a route and none was out yet.
    unannounced: BTreeSet<AppName>,
}

impl Index {
    pub fn add(&mut self, entry: &Entry) {
        let app = &entry.app;
        let of_source = self.sources.entry(app.source).or_default();
        of_source.insert(app.name.clone());
        if let Some(id) = &app.instance_id {
            self.instances.insert(id.clone(), app.name.clone());
        }
        self.note(entry);
    }

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
        for set in self.sets() {
            set.remove(&app.name);
        }
    }

    /// The app's life went on.
    pub fn note(&mut self, entry: &Entry) {
        let state = [
            entry.shown() == AppState::Up,
            entry.health.health() == Health::Unknown && entry.refusal.is_none(),
            entry.intent.is_unacknowledged(),
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

    fn sets(&mut self) -> [&mut BTreeSet<AppName>; 4] {
        [
            &mut self.up,
            &mut self.unknown,
            &mut self.unacknowledged,
            &mut self.unannounced,
        ]
    }

    pub fn of_source(&self, source: Source) -> impl Iterator<Item = &AppName> {
        self.sources.get(&source).into_iter().flatten()
    }

    pub fn count(&self, source: Source) -> usize {
        self.sources.get(&source).map_or(0, BTreeSet::len)
    }

    pub fn instance(&self, id: &str) -> Option<&AppName> {
        self.instances.get(id)
    }

    pub fn up(&self) -> usize {
        self.up.len()
    }

    pub fn all_known(&self) -> bool {
        self.unknown.is_empty()
    }

    pub fn unacknowledged(&self) -> &BTreeSet<AppName> {
        &self.unacknowledged
    }

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
            let lives = [&index.up, &index.unknown, &index.unacknowledged].map(Clone::clone);
            (index.instances.clone(), lives, index.unannounced.clone())
        };
        assert_eq!(all(self), all(other));
    }
}
