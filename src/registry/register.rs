//! Apps come, are replaced, renamed, refused and go; who holds which VIP follows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use log::{info, warn};

use super::entry::Entry;
use super::{Leaving, Registered, Registry, Subject};
use crate::app::{App, AppName, Source, Vip};
use crate::config::{Agent, Policy, Refusal};
use crate::net::Prefix;

/// What became of an app of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    pub name: AppName,
    /// As it was, under the name that it had; `None` where it is new.
    pub before: Option<App>,
    pub done: Registered,
    /// Why it is not announced.
    pub refusal: Option<Refusal>,
}

impl Registry {
    /// Adds an app, or replaces the one of that name in place.
    pub fn register(&mut self, now: Instant, app: App) -> Result<Registered, Refusal> {
        self.policy.permit(&app)?;
        if let Some(held) = self.apps.get(&app.name).map(|entry| &entry.app) {
            let lower = app.source.precedence() < held.source.precedence();
            if held.same_definition(&app) && (lower || held.source == app.source) {
                return Ok(Registered::Unchanged);
            }
            if lower {
                let source = held.source;
                return Err(Refusal::Conflict(format!(
                    "app {} is defined by {source} with another definition",
                    app.name
                )));
            }
        }
        self.find_room(&app)?;
        self.check_reach(&app)?;
        if let Some((vip, holder)) = self.held_by_another(&app) {
            return Err(Refusal::Conflict(format!(
                "VIP {vip} is held by app {holder}"
            )));
        }
        Ok(self.place(now, app, None))
    }

    /// From now on exactly these are the apps of the configuration. One that has another name and the same
    /// VIPs and monitors goes on under the new one. One that is refused is kept, shown as invalid, so that
    /// everybody can see why it is not announced. Hands back what is gone, and what became of each of `apps`.
    pub fn configure(&mut self, now: Instant, apps: &[App]) -> (Vec<AppName>, Vec<Configured>) {
        let (renamed, mut gone) = self.rename_configured(now, apps);
        let wanted: BTreeSet<&AppName> = apps.iter().map(|app| &app.name).collect();
        for name in self.of_sources(&[Source::Config, Source::Env]) {
            if !wanted.contains(&name) {
                self.unregister(now, &name);
                gone.push(name);
            }
        }
        let mut configured = Vec::new();
        for app in apps {
            let refusal = self.policy.permit(app).err();
            let held = self.apps.get(&app.name);
            let same = held.is_some_and(|held| held.app == *app && held.refusal == refusal);
            let held = held.map(|held| &held.app);
            let before = renamed.get(&app.name).or(held).cloned();
            let done = match same && refusal.is_none() {
                true => Registered::Unchanged,
                false => self.place(now, app.clone(), refusal.clone()),
            };
            // What the network forbids it may allow at any moment: that is said, and seen to by the VIPs.
            let refusal = refusal.or_else(|| self.check_reach(app).err());
            configured.push(Configured {
                name: app.name.clone(),
                before,
                done,
                refusal,
            });
        }
        (gone, configured)
    }

    /// Gives the apps of the configuration the names that they have in `apps`: those that changed theirs, as
    /// they were before, by the new name; and the names of apps that had to make way.
    fn rename_configured(
        &mut self,
        now: Instant,
        apps: &[App],
    ) -> (BTreeMap<AppName, App>, Vec<AppName>) {
        let held = self.entries().map(|entry| &entry.app);
        let held = held.filter(|app| !app.source.is_remote());
        let by_vips: BTreeMap<&BTreeSet<Vip>, &App> = held.map(|app| (&app.vips, app)).collect();
        let before = apps.iter().filter_map(|app| {
            let old = *by_vips.get(&app.vips)?;
            let goes_on = old.monitors == app.monitors && old.name != app.name;
            goes_on.then(|| (app.name.clone(), old.clone()))
        });
        let before: BTreeMap<AppName, App> = before.collect();
        let names: BTreeMap<&AppName, &AppName> =
            before.iter().map(|(new, old)| (&old.name, new)).collect();
        let in_the_way =
            |name: &&&AppName| self.apps.contains_key(**name) && !names.contains_key(**name);
        let in_the_way: Vec<AppName> = names
            .values()
            .filter(in_the_way)
            .map(|name| (*name).clone())
            .collect();
        for name in &in_the_way {
            self.unregister(now, name);
        }
        self.rename(now, &names);
        (before, in_the_way)
    }

    /// Gives apps new names, by the old ones; nobody else has one of the new.
    pub(super) fn rename(&mut self, now: Instant, names: &BTreeMap<&AppName, &AppName>) {
        let mut entries = Vec::new();
        for (old, new) in names {
            let Some(mut entry) = self.take(old) else {
                continue;
            };
            entry.rename((*new).clone());
            self.claims.rename(old, new, entry.vips());
            self.deadlines.set(Subject::App((*old).clone()), None);
            self.watch_file(old, None);
            entries.push(entry);
        }
        let checks = entries.iter().flat_map(|entry| &entry.monitors);
        self.checks.rename(names, checks.copied().collect());
        self.redefined |= !entries.is_empty();
        for mut entry in entries {
            let name = entry.app.name.clone();
            // A drain belongs to the name.
            if self.exiting || self.is_draining(&entry.app) {
                entry.drain(now, self.exiting);
            } else {
                entry.intent.undrain();
            }
            self.watch_file(&name, entry.app.options.maintenance_file.clone());
            self.queue.apps.insert(name);
            self.put(entry);
        }
    }

    /// Takes new settings. What HTTP registered and they forbid is withdrawn, and comes back when they allow
    /// it; how many apps and VIPs there are already is nothing that they forbid.
    pub fn set_settings(&mut self, now: Instant, agent: Agent, policy: Policy) {
        self.agent = agent;
        self.policy = policy;
        for name in self.of_sources(&[Source::Http]) {
            let Some(entry) = self.apps.get(&name) else {
                continue;
            };
            let refusal = self.policy.permit(&entry.app).err();
            if refusal != entry.refusal {
                self.place(now, entry.app.clone(), refusal);
            }
        }
        self.look_at_all();
    }

    /// How many there may be. What is there stays, whatever is allowed now.
    pub(super) fn find_room(&self, app: &App) -> Result<(), Refusal> {
        let most = self.policy.max_http_apps;
        if app.source == Source::Http
            && !self.apps.contains_key(&app.name)
            && self.index.count(Source::Http) >= most
        {
            let message = format!("{most} apps are registered already");
            return Err(Refusal::policy("agent.max_http_apps", message));
        }
        let most = self.policy.max_vips;
        let wanted_by = |vip: &Prefix| self.claims.wanted_by(vip);
        let vips = app.vips.iter().map(|vip| vip.prefix());
        let new = vips.filter(|vip| wanted_by(vip).is_empty()).count();
        let old = self.apps.get(&app.name);
        let old = old.into_iter().flat_map(|entry| entry.vips());
        let freed =
            old.filter(|vip| !app.vips.contains(vip) && *wanted_by(vip) == [app.name.clone()]);
        let freed = freed.count();
        if app.source.is_remote() && new > freed && self.claims.len() + new - freed > most {
            let message = format!("there would be more than {most} VIPs");
            return Err(Refusal::policy("agent.max_vips", message));
        }
        Ok(())
    }

    /// What the kernel's tables say of the VIPs.
    fn check_reach(&self, app: &App) -> Result<(), Refusal> {
        let mut vips = app.vips.iter();
        let cut = vips.find_map(|vip| self.facts.cut_off(&vip.prefix()));
        match cut {
            Some(problem) => Err(Refusal::Invalid(problem.to_string())),
            None => Ok(()),
        }
    }

    fn held_by_another(&self, app: &App) -> Option<(Prefix, &AppName)> {
        app.vips.iter().find_map(|vip| {
            let holder = self.claims.holder(&vip.prefix())?;
            (*holder != app.name).then_some((vip.prefix(), holder))
        })
    }

    /// Puts an app in the place of the one of its name, if there is one.
    pub(super) fn place(&mut self, now: Instant, app: App, refusal: Option<Refusal>) -> Registered {
        let name = app.name.clone();
        let mut old = self.take(&name);
        if let Some(old) = &old {
            self.leave(now, old, Some(&app).filter(|_| refusal.is_none()));
        }
        let known = old.as_mut().map(|old| std::mem::take(&mut old.monitors));
        let known = known.unwrap_or_default();
        let monitors = match &refusal {
            None => self.checks.replace(now, &name, &app.monitors, known),
            Some(refusal) => {
                warn!("app {name} is not announced: {refusal}");
                // What it was told to run is not to be run, and what was seen is not to be believed later.
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
                (old, Registered::Replaced)
            }
            None => {
                info!("app {name}: registered by {}", app.source);
                // The configuration's own apps are warned of when it is read.
                let told = !app.source.is_remote();
                if app.monitors.is_empty() && refusal.is_none() && !told {
                    warn!("app {name} has no monitors: it counts as healthy");
                }
                let entry = Box::new(Entry::new(app, monitors, now));
                (entry, Registered::Added)
            }
        };
        entry.refusal = refusal;
        for vip in entry.vips().filter(|_| entry.refusal.is_none()) {
            self.vips_changed |= self.claims.add(&name, vip);
        }
        if self.exiting || self.is_draining(&entry.app) {
            entry.drain(now, self.exiting);
        }
        let file = entry.app.options.maintenance_file.clone();
        self.put(entry);
        self.watch_file(&name, file);
        self.redefined = true;
        self.queue.apps.insert(name);
        done
    }

    /// Forgets an app; its routes go at once, its addresses after `drain_time`.
    pub fn unregister(&mut self, now: Instant, name: &AppName) -> bool {
        let Some(entry) = self.take(name) else {
            return false;
        };
        info!("app {name}: unregistered");
        self.leave(now, &entry, None);
        self.checks.remove(name, &entry.monitors);
        self.deadlines.set(Subject::App(name.clone()), None);
        self.watch_file(name, None);
        self.redefined = true;
        true
    }

    /// Takes note of the VIPs that `entry` wants and `next` does not: whoever waits for one has it now.
    fn leave(&mut self, now: Instant, entry: &Entry, next: Option<&App>) {
        let name = &entry.app.name;
        let stays = |vip: &Prefix| next.is_some_and(|app| app.vips.contains(vip));
        for vip in entry.vips().filter(|vip| !stays(vip)) {
            let held = self.claims.holds(name, &vip);
            self.claims.remove(name, &vip);
            self.vips_changed = true;
            self.queue.vips.insert(vip);
            let waiting = self.claims.wanted_by(&vip).iter().cloned();
            self.queue.apps.extend(waiting);
            if !held || !entry.is_addressed(&vip) {
                continue;
            }
            let wait = if entry.is_announcing() {
                entry.app.options.drain_time
            } else {
                Duration::ZERO
            };
            let nat = entry.vip(&vip).is_some_and(|life| life.has_nat());
            let leaving = Leaving {
                app: name.clone(),
                label: self.label(&entry.app, &vip),
                nats: if nat {
                    entry.app.nats.clone()
                } else {
                    BTreeSet::new()
                },
            };
            self.leaving.insert(vip, leaving);
            self.deadlines.set(Subject::Vip(vip), Some(now + wait));
        }
    }
}
