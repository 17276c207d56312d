//! Apps discovered in Consul: all of them at once, and several instances of one service. Instances
//! that want the same VIP are one VIP with a standby: whichever passes first holds it, another takes
//! over in place, so that neither route nor address goes away in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use log::info;

use super::{Problem, Registry};
use crate::app::{App, AppName, Source};
use crate::config::Refusal;
use crate::net::Prefix;

/// An app that was discovered, and what stands against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredApp {
    pub app: App,
    /// Shown instead of announcing it.
    pub refusal: Option<Refusal>,
}

impl Registry {
    /// From now on exactly these are Consul's apps. What did not change goes on undisturbed.
    pub fn discover(&mut self, now: Instant, found: Vec<DiscoveredApp>) {
        let ids: BTreeSet<&str> = found.iter().filter_map(|found| id(&found.app)).collect();
        for DiscoveredApp { app, .. } in &found {
            self.make_way(now, app, &ids);
            self.rename_instance(now, app);
        }
        let wanted: BTreeSet<&AppName> = found.iter().map(|found| &found.app.name).collect();
        // First what goes: its VIPs may have a new owner.
        for name in self.of_sources(&[Source::Consul]) {
            if !wanted.contains(&name) {
                self.unregister(now, &name);
            }
        }
        for found in found {
            self.find(now, found);
        }
    }

    fn find(&mut self, now: Instant, found: DiscoveredApp) {
        let DiscoveredApp { app, refusal } = found;
        let judge = || self.policy.permit(&app).and_then(|()| self.find_room(&app));
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
        self.place(now, app, refusal);
    }

    /// An instance that is gone leaves its name to one that is there: replaced in place instead, that
    /// one would begin anew.
    fn make_way(&mut self, now: Instant, app: &App, there: &BTreeSet<&str>) {
        let held = self.apps.get(&app.name).map(|entry| &entry.app);
        let gone = held.is_some_and(|held| {
            are_instances(held, app) && id(held).is_some_and(|id| !there.contains(id))
        });
        if gone && id(app).is_some_and(|id| self.index.instance(id).is_some()) {
            self.unregister(now, &app.name);
        }
    }

    /// An instance that goes by another name now, since others came or went, stays what it is.
    fn rename_instance(&mut self, now: Instant, app: &App) {
        let Some(id) = id(app).filter(|_| !self.apps.contains_key(&app.name)) else {
            return;
        };
        let old = self.index.instance(id).and_then(|name| self.apps.get(name));
        let old = old.filter(|entry| are_instances(&entry.app, app));
        if let Some(old) = old.map(|entry| entry.app.name.clone()) {
            self.rename(now, &BTreeMap::from([(&old, &app.name)]));
        }
    }

    /// What it means to `app` that another one holds its VIP.
    pub(super) fn held(&self, app: &App, vip: Prefix, holder: &AppName) -> Problem {
        let by = holder.to_string();
        let holder = self.apps.get(holder).map(|entry| &entry.app);
        if holder.is_some_and(|holder| are_instances(app, holder)) {
            Problem::Standby { vip, by }
        } else {
            Problem::Held { vip, by }
        }
    }

    /// Gives VIPs that this app's service holds to an instance that passes, where the holder does not.
    pub(super) fn hand_over(&mut self, name: &AppName) {
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
            if holder.is_eligible() || !are_instances(&entry.app, &holder.app) {
                continue;
            }
            let waiting = self.claims.wanted_by(&vip).iter();
            let mut others = waiting.filter_map(|name| self.apps.get(name));
            let next =
                others.find(|other| other.is_eligible() && are_instances(&entry.app, &other.app));
            if let Some(next) = next {
                changes.push((vip, holder.app.name.clone(), next.app.name.clone()));
            }
        }
        for (vip, old, next) in changes {
            info!("VIP {vip}: app {next} takes over from {old}");
            self.claims.hand_over(&vip, next.clone());
            self.queue.apps.extend([old, next]);
        }
    }
}

fn id(app: &App) -> Option<&str> {
    app.instance_id.as_deref()
}

fn are_instances(one: &App, other: &App) -> bool {
    let instances = one.instance_id.is_some() && other.instance_id.is_some();
    instances && one.source == other.source && one.service() == other.service()
}
