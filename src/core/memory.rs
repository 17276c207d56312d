//! What outlives a restart.

use std::collections::BTreeSet;
use std::time::Instant;

use log::{info, warn};

use super::Core;
use super::consul::{Discovery, Event};
use crate::app::{AppName, MonitorSpec, Source};
use crate::config::SavedState;
use crate::consul::Service;

impl Core {
    /// Whether [`Core::memory`] may have changed since this was last asked.
    pub fn take_remembers(&mut self) -> bool {
        std::mem::take(&mut self.remembers)
    }

    pub fn memory(&self) -> SavedState {
        let drains = self.registry.drains();
        let names = self.registry.of_sources(&[Source::Http]);
        let apps = names
            .iter()
            .filter_map(|name| self.registry.definition(name));
        SavedState {
            drain_all: drains.all,
            drains: drains.names.clone(),
            undrained: drains.spared.clone(),
            apps: apps.cloned().collect(),
            services: self.consul_memory(),
            passed: self.consul_passed(),
        }
    }

    /// Takes what was remembered; to be said right after the start.
    pub fn remember(&mut self, now: Instant, memory: SavedState) {
        let SavedState {
            drain_all,
            drains,
            undrained,
            apps,
            services,
            passed,
        } = memory;
        info!(
            "restored {} HTTP-registered apps, {} Consul services and {} drains from the state file",
            apps.len(),
            services.len(),
            drains.len()
        );
        if drain_all {
            self.drain(now, None);
        }
        for name in drains {
            self.drain(now, Some(&name));
        }
        for name in undrained {
            self.undrain(now, Some(&name));
        }
        // Consul wins over HTTP.
        let passed_apps = passed;
        let recalled = Event::Recalled {
            services,
            passed_apps,
        };
        self.tell_consul(now, recalled);
        self.settle(now);
        for app in apps {
            let name = app.name.clone();
            if let Err(refusal) = self.register(now, app) {
                warn!("app {name}: not taken from the state file: {refusal}");
            }
        }
    }

    /// What a restart while Consul is away has to know: its services, and whether they passed.
    fn consul_memory(&self) -> Vec<(Service, bool)> {
        let Some(consul) = &self.discovery else {
            return Vec::new();
        };
        // Until Consul says something of checks, what was known before the restart holds.
        let (mut passing, _) = consul.still_passed();
        for name in self.registry.of_sources(&[Source::Consul]) {
            if self.registry.monitor_is_up(&name, &MonitorSpec::Consul) {
                let app = self.registry.definition(&name);
                passing.extend(app.and_then(|app| app.instance_id.clone()));
            }
        }
        consul
            .services()
            .map(|service| (service.clone(), passing.contains(&service.id)))
            .collect()
    }

    /// The apps of other sources whose `consul` monitor passes.
    fn consul_passed(&self) -> BTreeSet<AppName> {
        let consul = self.discovery.as_ref();
        let (_, mut passed) = consul.map(Discovery::still_passed).unwrap_or_default();
        let others = [Source::Config, Source::Env, Source::Http];
        let names = self.registry.of_sources(&others).into_iter();
        passed.extend(names.filter(|name| self.registry.monitor_is_up(name, &MonitorSpec::Consul)));
        passed
    }
}
