//! What the tests of the core look at in the registry.

use std::collections::{BTreeMap, BTreeSet};

use super::index::Index;
use super::{MonitorId, Queue, Registry};
use crate::app::AppName;
use crate::net::Prefix;
use crate::timer::Rng;

impl Queue {
    pub(super) fn forgets(&mut self) -> bool {
        let chance = self.forgetful.as_mut();
        chance.is_some_and(|chance| chance.below(10) == 0)
    }
}

impl Registry {
    /// The number of drains that wait for the peers.
    pub fn unacknowledged(&self) -> usize {
        self.index.unacknowledged().len()
    }

    /// The queue loses one app in ten from now on.
    pub fn forget_one_in_ten(&mut self, seed: u64) {
        self.queue.forgetful = Some(Rng::new(seed));
    }

    /// The queue loses nothing from now on.
    pub fn remember_all(&mut self) {
        self.queue.forgetful = None;
    }

    /// What is kept by VIP, by monitor and by file is what a walk over all apps finds.
    pub fn assert_indexes(&self) {
        let mut claimants: BTreeMap<Prefix, Vec<AppName>> = BTreeMap::new();
        for (name, entry) in &self.apps {
            for vip in entry.vips().filter(|_| entry.refusal.is_none()) {
                claimants.entry(vip).or_default().push(name.clone());
            }
            for id in &entry.monitors {
                assert!(self.checks.members(*id).contains(name), "{name}: {id:?}");
            }
            let file = self.maintenance_files.get(name);
            assert_eq!(file, entry.app.options.maintenance_file.as_ref(), "{name}");
        }
        let mut index = Index::default();
        self.entries().for_each(|entry| index.add(entry));
        self.index.assert_equals(&index);
        for (vip, names) in &claimants {
            assert_eq!(self.claims.claimants(vip), names.as_slice(), "{vip}");
            let holder = self.claims.holder(vip);
            assert!(holder.is_some_and(|name| names.contains(name)), "{vip}");
        }
        assert!(self.claims.vips().eq(claimants.keys()));
        let used: BTreeSet<MonitorId> = self.entries().flat_map(|e| e.monitors.clone()).collect();
        assert_eq!(self.checks.ids(), used);
    }
}
