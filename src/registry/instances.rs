//! Apps discovered in Consul, and instances of one service. Instances that claim the same VIP are active
//! and standby: the first that passes holds it, another takes over in place, so that neither route nor
//! address is removed in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use log::info;

use super::entry::Entry;
use super::{Problem, Registry};
use crate::app::{App, AppName, Source};
use crate::config::Refusal;
use crate::net::Prefix;

/// A discovered app, and why it is refused, if it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredApp {
    pub app: App,
    /// Shown instead of announcing it.
    pub refusal: Option<Refusal>,
}

impl Registry {
    /// Replaces Consul's apps with exactly these. Unchanged apps are not touched.
    pub fn discover(&mut self, now: Instant, found: Vec<DiscoveredApp>) {
        let ids: BTreeSet<&str> = found.iter().filter_map(|found| id(&found.app)).collect();
        for DiscoveredApp { app, .. } in &found {
            self.release_name(now, app, &ids);
            self.rename_instance(now, app);
        }
        let wanted: BTreeSet<&str> = found.iter().map(|found| found.app.name.as_str()).collect();
        // Removals first: their VIPs may have a new owner.
        for name in self.of_sources(&[Source::Consul]) {
            if !wanted.contains(name.as_str()) {
                self.unregister(now, &name, "not in Consul any more");
            }
        }
        for found in found {
            self.upsert_discovered(now, found);
        }
    }

    fn upsert_discovered(&mut self, now: Instant, found: DiscoveredApp) {
        let DiscoveredApp { app, refusal } = found;
        let judge = || {
            self.policy
                .permit(&app)
                .and_then(|()| self.check_quota(&app))
        };
        let refusal = refusal.or_else(|| judge().err());
        if let Some(held) = self.apps.get(&app.name) {
            if held.app.source.precedence() > app.source.precedence() {
                info!(
                    "app {}: defined by {}, which wins over {}",
                    app.name, held.app.source, app.source
                );
                return;
            }
            if held.app == app && held.refusal == refusal {
                return;
            }
        }
        self.upsert(now, app, refusal);
    }

    /// Removes an instance that is gone where another takes its name: replaced in place, that one would
    /// lose its state.
    fn release_name(&mut self, now: Instant, app: &App, there: &BTreeSet<&str>) {
        let held = self.apps.get(&app.name).map(|entry| &entry.app);
        let gone = held.is_some_and(|held| {
            same_service(held, app) && id(held).is_some_and(|id| !there.contains(id))
        });
        if gone && id(app).is_some_and(|id| self.index.instance(id).is_some()) {
            self.unregister(now, &app.name, "not in Consul any more");
        }
    }

    /// An instance that goes by another name now, since others came or went, stays what it is.
    fn rename_instance(&mut self, now: Instant, app: &App) {
        let Some(id) = id(app).filter(|_| !self.apps.contains_key(&app.name)) else {
            return;
        };
        let old = self.index.instance(id).and_then(|name| self.apps.get(name));
        let old = old.filter(|entry| same_service(&entry.app, app));
        if let Some(old) = old.map(|entry| entry.app.name.clone()) {
            self.rename(now, &BTreeMap::from([(&old, &app.name)]));
        }
    }

    /// Why `app` cannot announce a VIP that `holder` holds.
    pub(super) fn holder_problem(&self, app: &App, vip: Prefix, holder: &AppName) -> Problem {
        let by = holder.to_string();
        let holder = self.apps.get(holder).map(|entry| &entry.app);
        if holder.is_some_and(|holder| same_service(app, holder)) {
            Problem::Standby { vip, by }
        } else {
            Problem::HeldByOther { vip, by }
        }
    }

    /// Gives VIPs that this app's service holds to an instance that passes, where the holder does not, or to one
    /// that could be a last resort, or whose second stage is still to probe the VIP, where the holder would announce
    /// nothing.
    pub(super) fn fail_over(&mut self, name: &AppName) {
        let Some(entry) = self.apps.get(name) else {
            return;
        };
        if entry.app.instance_id.is_none() {
            return;
        }
        let mut changes = Vec::new();
        for vip in entry.vips() {
            let Some(holder) = self
                .claims
                .holder(&vip)
                .and_then(|name| self.apps.get(name))
            else {
                continue;
            };
            if !same_service(&entry.app, &holder.app) {
                continue;
            }
            let waiting = self.claims.claimants(&vip).iter();
            let others = waiting.filter_map(|name| self.apps.get(name));
            let others = others.filter(|other| same_service(&entry.app, &other.app));
            // Of equals the first in the order of their names.
            let eligibility = |entry: &Entry| {
                let holds = entry.app.name == holder.app.name;
                entry.eligibility(&vip, holds, &self.checks)
            };
            let best = others.rev().max_by_key(|other| eligibility(other));
            let better = best.filter(|best| eligibility(best) > eligibility(holder));
            if let Some(next) = better {
                changes.push((vip, holder.app.name.clone(), next.app.name.clone()));
            }
        }
        for (vip, old, next) in changes {
            info!("VIP {vip}: app {next} takes over from {old}");
            self.claims.transfer(&vip, next.clone());
            self.queue.apps.extend([old, next]);
        }
    }
}

fn id(app: &App) -> Option<&str> {
    app.instance_id.as_deref()
}

fn same_service(one: &App, other: &App) -> bool {
    let instances = one.instance_id.is_some() && other.instance_id.is_some();
    instances && one.source == other.source && one.service() == other.service()
}
