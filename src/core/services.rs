//! Apps made of Consul's services, and the results of `consul` monitors.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Core;
use super::consul::{Event, GRACE_EXPIRED, NamedService, Output};
use crate::app::{App, AppName, AppOptions, Attributes, RouteAction, Source};
use crate::config::{Config, Refusal, parse_app_from_tags};
use crate::consul::Service;
use crate::health::Outcome;
use crate::registry::{DiscoveredApp, MonitorId};
use crate::small_set::SmallSet;

impl Core {
    /// Whether Consul answers; `None` where it is not configured.
    pub fn consul_up(&self) -> Option<bool> {
        self.consul.as_ref().map(|consul| consul.is_up())
    }

    /// Consul's services are known, or Consul is not configured.
    pub(super) fn knows_services(&self) -> bool {
        let consul = self.consul.as_ref();
        consul.is_none_or(|consul| consul.knows_services())
    }

    pub(super) fn handle_consul(&mut self, now: Instant, event: Event) {
        if let Some(consul) = &mut self.consul {
            consul.handle(now, event);
        }
        self.apply_consul(now);
    }

    pub(super) fn consul_timeout(&mut self, now: Instant) {
        if let Some(consul) = &mut self.consul {
            consul.handle_timeout(now);
        }
        self.apply_consul(now);
    }

    /// Applies Consul's changes to the registry.
    fn apply_consul(&mut self, now: Instant) {
        while let Some(output) = self.consul.as_mut().and_then(|c| c.poll_output()) {
            match output {
                Output::Services { all, expired } => {
                    let found = all
                        .into_iter()
                        .map(|named| discovered_app(named, expired, &self.config));
                    self.registry.discover(now, found.collect());
                }
                Output::ChecksChanged => {
                    self.state_changed = true;
                    self.registry.recheck_consul(now);
                }
            }
        }
    }

    /// The result of an app's `consul` monitor.
    pub(super) fn consul_outcome(&self, now: Instant, monitor: MonitorId) -> Outcome {
        let owner = self.registry.owner(monitor);
        match (&self.consul, owner) {
            (Some(consul), Some((app, _))) => consul.outcome(now, app),
            _ => Outcome::unavailable("Consul is not configured"),
        }
    }
}

fn discovered_app(named: NamedService, expired: bool, config: &Config) -> DiscoveredApp {
    let NamedService {
        name,
        service: Service { id, tags, .. },
        taken_by,
    } = named;
    let refused = |name, why| DiscoveredApp {
        app: app_without_definition(name, &id),
        refusal: Some(Refusal::Invalid(format!("service {id} in Consul: {why}"))),
    };
    if let Some((wanted, holder)) = taken_by {
        let why = format!("its name {wanted} is already used by service {holder}");
        return refused(name, why);
    }
    match parse_app_from_tags(name.clone(), &id, &tags, config) {
        Ok(app) => DiscoveredApp {
            app,
            refusal: expired.then(|| Refusal::Invalid(GRACE_EXPIRED.to_owned())),
        },
        Err(why) => refused(name, why.to_string()),
    }
}

/// A placeholder for a service whose tags define no valid app.
pub(super) fn app_without_definition(name: AppName, id: &str) -> App {
    App {
        name,
        source: Source::Consul,
        vips: SmallSet::default(),
        monitors: SmallSet::default(),
        nats: BTreeSet::new(),
        attributes: Attributes::default(),
        when_down: RouteAction::Withdraw,
        when_draining: RouteAction::Withdraw,
        options: AppOptions {
            drain_time: Duration::ZERO,
            hold_down: Duration::ZERO,
            ..AppOptions::default()
        },
        instance_id: Some(id.to_owned()),
    }
}
