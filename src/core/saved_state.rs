//! What the state file saves over a restart.

use std::collections::BTreeSet;
use std::time::Instant;

use log::{info, warn};

use super::Core;
use super::consul::{ConsulState, Event};
use crate::app::{AppName, MonitorSpec, Source};
use crate::config::SavedState;
use crate::consul::Service;

impl Core {
    /// Whether [`Core::saved_state`] may have changed since the last call.
    pub fn take_state_changed(&mut self) -> bool {
        std::mem::take(&mut self.state_changed)
    }

    /// What the state file is to hold.
    pub fn saved_state(&self) -> SavedState {
        let drains = self.registry.drains();
        let names = self.registry.of_sources(&[Source::Http]);
        let apps = names
            .iter()
            .filter_map(|name| self.registry.definition(name));
        SavedState {
            drain_all: drains.all,
            drains: drains.names.clone(),
            requests: drains.requests.clone(),
            undrained: drains.exempt.clone(),
            apps: apps.cloned().collect(),
            services: self.saved_services(),
            passed: self.saved_passing(),
        }
    }

    /// Restores the saved state, right after start.
    pub fn restore(&mut self, now: Instant, state: SavedState) {
        let SavedState {
            drain_all,
            drains,
            mut requests,
            undrained,
            apps,
            services,
            passed,
        } = state;
        info!(
            "restored {} HTTP-registered apps, {} Consul services and {} drains from the state file",
            apps.len(),
            services.len(),
            drains.len()
        );
        if drain_all {
            self.drain_for(now, None, requests.remove(&None));
        }
        for name in drains {
            let name = Some(name);
            self.drain_for(now, name.as_ref(), requests.remove(&name));
        }
        for name in undrained {
            self.undrain(now, Some(&name));
        }
        // Consul's apps take precedence over HTTP's.
        let passed_apps = passed;
        let restored = Event::Restored {
            services,
            passed_apps,
        };
        self.handle_consul(now, restored);
        self.reconcile(now);
        for app in apps {
            let name = app.name.clone();
            if let Err(refusal) = self.register(now, app) {
                warn!("app {name}: not restored from the state file: {refusal}");
            }
        }
    }

    /// Consul's services and whether they pass, for a restart during an outage of Consul.
    fn saved_services(&self) -> Vec<(Service, bool)> {
        let Some(consul) = &self.consul else {
            return Vec::new();
        };
        // Until checks are received, the state from before the restart holds.
        let (mut passing, _) = consul.passed_before_restart();
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
    fn saved_passing(&self) -> BTreeSet<AppName> {
        let consul = self.consul.as_ref();
        let (_, mut passed) = consul
            .map(ConsulState::passed_before_restart)
            .unwrap_or_default();
        let others = [Source::Config, Source::Env, Source::Http];
        let names = self.registry.of_sources(&others).into_iter();
        passed.extend(names.filter(|name| self.registry.monitor_is_up(name, &MonitorSpec::Consul)));
        passed
    }
}
