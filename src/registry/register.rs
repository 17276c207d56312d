//! Registers, replaces, renames, refuses and removes apps, and assigns their VIPs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use log::{info, warn};

use super::entry::Entry;
use super::{AppState, DeadlineOwner, Output, RegisterOutcome, Registry, ReleasedVip};
use crate::app::{App, AppName, Attributes, Source, Vip};
use crate::config::{Agent, Policy, Refusal};
use crate::net::Prefix;
use crate::small_set::SmallSet;

/// The outcome for an app of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredApp {
    pub name: AppName,
    /// As it was, under the name that it had; `None` where it is new.
    pub before: Option<App>,
    pub done: RegisterOutcome,
    /// Why it is not announced.
    pub refusal: Option<Refusal>,
}

impl Registry {
    /// Adds an app, or replaces the one of that name in place.
    pub fn register(&mut self, now: Instant, app: App) -> Result<RegisterOutcome, Refusal> {
        self.policy.permit(&app)?;
        if let Some(held) = self.apps.get(&app.name).map(|entry| &entry.app) {
            let lower = app.source.precedence() < held.source.precedence();
            if held.same_definition(&app) && (lower || held.source == app.source) {
                return Ok(RegisterOutcome::Unchanged);
            }
            if lower {
                let source = held.source;
                return Err(Refusal::Conflict(format!(
                    "app {} is defined by {source} with another definition",
                    app.name
                )));
            }
        }
        self.check_quota(&app)?;
        self.check_overlap(&app)?;
        self.check_peers(&app)?;
        if let Some((vip, holder)) = self.conflicting_holder(&app) {
            return Err(Refusal::Conflict(format!(
                "VIP {vip} is held by app {holder}"
            )));
        }
        Ok(self.upsert(now, app, None))
    }

    /// From now on exactly these are the apps of the configuration. One that has another name and the same
    /// VIPs and monitors goes on under the new one. One that is refused is kept and shown as invalid, with its
    /// reason. Returns the names of the apps removed, and the outcome for each of `apps`.
    pub fn configure(&mut self, now: Instant, apps: &[App]) -> (Vec<AppName>, Vec<ConfiguredApp>) {
        let (renamed, mut gone) = self.rename_configured(now, apps);
        let mut renamed = renamed.into_iter().peekable();
        let wanted: BTreeSet<&str> = apps.iter().map(|app| app.name.as_str()).collect();
        for name in self.of_sources(&[Source::Config, Source::Env]) {
            if !wanted.contains(name.as_str()) {
                self.unregister(now, &name, "not in the configuration any more");
                gone.push(name);
            }
        }
        let mut configured = Vec::new();
        for app in apps {
            let refusal = self.policy.permit(app).err();
            let held = self.apps.get(&app.name);
            let same = held.is_some_and(|held| held.app == *app && held.refusal == refusal);
            let held = held.map(|held| &held.app);
            let renamed = renamed.next_if(|(name, _)| *name == app.name);
            let before = renamed.map(|(_, old)| old).or_else(|| held.cloned());
            let done = match same && refusal.is_none() {
                true => RegisterOutcome::Unchanged,
                false => self.upsert(now, app.clone(), refusal.clone()),
            };
            // A VIP blocked by the network is only reported: it is announced when the network changes.
            let refusal = refusal.or_else(|| self.check_overlap(app).err());
            let refusal = refusal.or_else(|| self.check_peers(app).err());
            configured.push(ConfiguredApp {
                name: app.name.clone(),
                before,
                done,
                refusal,
            });
        }
        (gone, configured)
    }

    /// Gives the apps of the configuration the names that they have in `apps`: those that changed theirs, as
    /// they were before, each with its new name and in the order of `apps`; and the names of apps that had to make way.
    fn rename_configured(
        &mut self,
        now: Instant,
        apps: &[App],
    ) -> (Vec<(AppName, App)>, Vec<AppName>) {
        let held = self.entries().map(|entry| &entry.app);
        let held = held.filter(|app| !app.source.is_remote());
        let by_vips: BTreeMap<&SmallSet<Vip>, &App> = held.map(|app| (&app.vips, app)).collect();
        let before = apps.iter().filter_map(|app| {
            let old = *by_vips.get(&app.vips)?;
            let goes_on = old.monitors == app.monitors && old.name != app.name;
            goes_on.then(|| (app.name.clone(), old.clone()))
        });
        let before: Vec<(AppName, App)> = before.collect();
        let names: BTreeMap<&AppName, &AppName> =
            before.iter().map(|(new, old)| (&old.name, new)).collect();
        let displaced =
            |name: &&&AppName| self.apps.contains_key(**name) && !names.contains_key(**name);
        let displaced: Vec<AppName> = names
            .values()
            .filter(displaced)
            .map(|name| (*name).clone())
            .collect();
        for name in &displaced {
            self.unregister(now, name, "another app of the configuration has its name");
        }
        self.rename(now, &names);
        (before, displaced)
    }

    /// Gives apps new names, by the old ones; no other app has one of the new.
    pub(super) fn rename(&mut self, now: Instant, names: &BTreeMap<&AppName, &AppName>) {
        let mut entries = Vec::new();
        for (old, new) in names {
            let Some(mut entry) = self.remove_entry(old) else {
                continue;
            };
            entry.rename((*new).clone());
            self.claims.rename(old, new, entry.vips());
            self.deadlines.set(DeadlineOwner::App((*old).clone()), None);
            self.set_maintenance_file(old, None);
            entries.push(entry);
        }
        let checks = entries.iter().flat_map(|entry| &entry.monitors);
        self.checks.rename(names, checks.copied().collect());
        self.definitions_changed |= !entries.is_empty();
        for mut entry in entries {
            let name = entry.app.name.clone();
            // A drain belongs to the name.
            if self.exiting || self.is_drain_requested(&entry.app) {
                entry.drain(now, self.exiting);
                entry.drain_request = self.drain_request(&entry.app);
            } else {
                entry.intent.undrain();
            }
            self.set_maintenance_file(&name, entry.app.options.maintenance_file.clone());
            self.queue.apps.insert(name);
            self.insert_entry(entry);
        }
    }

    /// Takes new settings. What HTTP registered and they forbid is withdrawn, and comes back when they allow
    /// it; how many apps and VIPs there are already is nothing that they forbid.
    pub fn set_settings(
        &mut self,
        now: Instant,
        agent: Agent,
        last_resort: Attributes,
        policy: Policy,
    ) {
        self.agent = agent;
        self.last_resort = last_resort;
        self.policy = policy;
        for name in self.of_sources(&[Source::Http]) {
            let Some(entry) = self.apps.get(&name) else {
                continue;
            };
            let refusal = self.policy.permit(&entry.app).err();
            if refusal != entry.refusal {
                self.upsert(now, entry.app.clone(), refusal);
            }
        }
        self.enqueue_all();
    }

    /// How many there may be. What is there stays, whatever is allowed now.
    pub(super) fn check_quota(&self, app: &App) -> Result<(), Refusal> {
        let most = self.policy.max_http_apps;
        if app.source == Source::Http
            && !self.apps.contains_key(&app.name)
            && self.index.count(Source::Http) >= most
        {
            let message = format!("{most} apps are registered already");
            return Err(Refusal::policy("agent.max_http_apps", message));
        }
        let most = self.policy.max_vips;
        let claimants = |vip: &Prefix| self.claims.claimants(vip);
        let vips = app.vips.iter().map(|vip| vip.prefix());
        let new = vips.filter(|vip| claimants(vip).is_empty()).count();
        let old = self.apps.get(&app.name);
        let old = old.into_iter().flat_map(|entry| entry.vips());
        let freed =
            old.filter(|vip| !app.vips.contains(vip) && *claimants(vip) == [app.name.clone()]);
        let freed = freed.count();
        if app.source.is_remote() && new > freed && self.claims.len() + new - freed > most {
            let message = format!("there would be more than {most} VIPs");
            return Err(Refusal::policy(MAX_VIPS, message));
        }
        Ok(())
    }

    /// Retries apps of Consul that were refused by `max_vips`.
    pub(super) fn retry_refused(&mut self, now: Instant) {
        if !std::mem::take(&mut self.vip_freed) {
            return;
        }
        for name in self.of_sources(&[Source::Consul]) {
            let Some(entry) = self.apps.get(&name) else {
                continue;
            };
            let refused_by = entry.refusal.as_ref().and_then(Refusal::key);
            if refused_by == Some(MAX_VIPS) && self.check_quota(&entry.app).is_ok() {
                self.upsert(now, entry.app.clone(), None);
            }
        }
    }

    /// Refuses VIPs that contain an address of the kernel's tables that must stay reachable.
    fn check_overlap(&self, app: &App) -> Result<(), Refusal> {
        let mut vips = app.vips.iter();
        let cut = vips.find_map(|vip| self.facts.overlap(&vip.prefix()));
        match cut {
            Some(problem) => Err(Refusal::Invalid(problem.to_string())),
            None => Ok(()),
        }
    }

    /// Refuses a peer that may be discovered and is not.
    fn check_peers(&self, app: &App) -> Result<(), Refusal> {
        match self.facts.unknown_peer(app) {
            Some(peer) => Err(Refusal::Invalid(format!(
                "peers: {peer}: is no peer of ours now"
            ))),
            None => Ok(()),
        }
    }

    fn conflicting_holder(&self, app: &App) -> Option<(Prefix, &AppName)> {
        app.vips.iter().find_map(|vip| {
            let holder = self.claims.holder(&vip.prefix())?;
            (*holder != app.name).then_some((vip.prefix(), holder))
        })
    }

    /// Adds an app, or replaces the one of its name.
    pub(super) fn upsert(
        &mut self,
        now: Instant,
        app: App,
        refusal: Option<Refusal>,
    ) -> RegisterOutcome {
        let name = app.name.clone();
        let mut old = self.remove_entry(&name);
        if let Some(old) = &old {
            self.release_vips(now, old, Some(&app).filter(|_| refusal.is_none()));
        }
        let known = old.as_mut().map(|old| std::mem::take(&mut old.monitors));
        let known = known.unwrap_or_default();
        let monitors = match &refusal {
            None => self.checks.replace(now, &app, known),
            Some(refusal) => {
                warn!("app {name} is not announced: {refusal}");
                // A refused app's commands must not run, and its results are dropped.
                self.checks.remove(&name, &known);
                Vec::new()
            }
        };
        let (mut entry, done) = match old {
            Some(mut old) => {
                match old.app == app {
                    true if refusal.is_none() => info!("app {name}: permitted again"),
                    true => {}
                    false => info!("app {name}: replaced by {}", app.source),
                }
                old.replace(now, app, monitors);
                (old, RegisterOutcome::Replaced)
            }
            None => {
                info!("app {name}: registered by {}", app.source);
                // The configuration's own apps are warned of when it is read.
                let local = !app.source.is_remote();
                if app.monitors.is_empty() && refusal.is_none() && !local {
                    warn!("app {name} has no monitors: it counts as healthy");
                }
                let states = ["unregistered", AppState::Pending.as_str()];
                self.note_registration(&name, states, format!("by {}", app.source));
                let entry = Box::new(Entry::new(app, monitors, now));
                (entry, RegisterOutcome::Added)
            }
        };
        entry.refusal = refusal;
        for vip in entry.vips().filter(|_| entry.refusal.is_none()) {
            self.vips_changed |= self.claims.add(&name, vip);
        }
        if self.exiting || self.is_drain_requested(&entry.app) {
            entry.drain(now, self.exiting);
            entry.drain_request = self.drain_request(&entry.app);
        }
        let file = entry.app.options.maintenance_file.clone();
        self.insert_entry(entry);
        self.set_maintenance_file(&name, file);
        self.definitions_changed = true;
        self.queue.apps.insert(name);
        done
    }

    fn note_registration(&mut self, name: &AppName, states: [&'static str; 2], why: String) {
        let app = name.clone();
        self.outputs
            .push_back(Output::Registration { app, states, why });
    }

    /// Removes an app: its routes are withdrawn at once, its addresses removed after `drain_time`.
    pub fn unregister(&mut self, now: Instant, name: &AppName, why: &str) -> bool {
        let Some(entry) = self.remove_entry(name) else {
            return false;
        };
        info!("app {name}: unregistered");
        let states = [entry.state().as_str(), "unregistered"];
        self.note_registration(name, states, why.to_owned());
        self.release_vips(now, &entry, None);
        self.checks.remove(name, &entry.monitors);
        self.deadlines.set(DeadlineOwner::App(name.clone()), None);
        self.set_maintenance_file(name, None);
        self.definitions_changed = true;
        true
    }

    /// Releases the VIPs of `entry` that `next` does not have; the next claimant gets them.
    fn release_vips(&mut self, now: Instant, entry: &Entry, next: Option<&App>) {
        let name = &entry.app.name;
        let stays = |vip: &Prefix| next.is_some_and(|app| app.vips.contains(vip));
        for vip in entry.vips().filter(|vip| !stays(vip)) {
            let held = self.claims.holds(name, &vip);
            self.claims.remove(name, &vip);
            self.vips_changed = true;
            self.vip_freed = true;
            self.queue.vips.insert(vip);
            let waiting = self.claims.claimants(&vip).iter().cloned();
            self.queue.apps.extend(waiting);
            if !held || !entry.is_addressed(&vip) {
                continue;
            }
            let wait = if entry.is_announcing() {
                entry.app.options.drain_time
            } else {
                Duration::ZERO
            };
            let nat = entry.vip(&vip).is_some_and(|machine| machine.has_nat());
            let leaving = ReleasedVip {
                app: name.clone(),
                label: self.label(&entry.app, &vip),
                nats: if nat {
                    entry.app.nats.clone()
                } else {
                    BTreeSet::new()
                },
            };
            self.released.insert(vip, leaving);
            self.deadlines
                .set(DeadlineOwner::Vip(vip), Some(now + wait));
        }
    }
}

const MAX_VIPS: &str = "agent.max_vips";
