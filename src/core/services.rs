//! What the core makes of Consul's services: apps, and the answers of `consul` monitors.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Core;
use super::consul::{AWAY, Event, Named, Output};
use crate::app::{App, AppName, AppOptions, Attributes, Reaction, Source};
use crate::config::{Config, Refusal, parse_app_from_tags};
use crate::consul::Service;
use crate::health::Outcome;
use crate::registry::{DiscoveredApp, MonitorId};

impl Core {
    /// Whether Consul answers; `None` where it is not configured.
    pub fn consul_up(&self) -> Option<bool> {
        self.discovery.as_ref().map(|consul| consul.is_up())
    }

    /// Which services there are is known, or not asked.
    pub(super) fn knows_services(&self) -> bool {
        let consul = self.discovery.as_ref();
        consul.is_none_or(|consul| consul.knows_services())
    }

    pub(super) fn tell_consul(&mut self, now: Instant, event: Event) {
        if let Some(consul) = &mut self.discovery {
            consul.handle(now, event);
        }
        self.follow_consul(now);
    }

    pub(super) fn time_out_consul(&mut self, now: Instant) {
        if let Some(consul) = &mut self.discovery {
            consul.handle_timeout(now);
        }
        self.follow_consul(now);
    }

    /// Brings the apps in line with what Consul says.
    fn follow_consul(&mut self, now: Instant) {
        while let Some(output) = self.discovery.as_mut().and_then(|c| c.poll_output()) {
            match output {
                Output::Services { all, expired } => {
                    let found = all
                        .into_iter()
                        .map(|named| found(named, expired, &self.config));
                    self.registry.discover(now, found.collect());
                }
                Output::Rechecked => {
                    self.remembers = true;
                    self.registry.recheck_consul(now);
                }
            }
        }
    }

    /// What Consul's checks say of an app.
    pub(super) fn ask_consul(&self, now: Instant, monitor: MonitorId) -> Outcome {
        let owner = self.registry.owner(monitor);
        match (&self.discovery, owner) {
            (Some(consul), Some((app, _))) => consul.outcome(now, app),
            _ => Outcome::unavailable("Consul is not configured"),
        }
    }
}

fn found(named: Named, expired: bool, config: &Config) -> DiscoveredApp {
    let Named {
        name,
        service: Service { id, tags, .. },
        taken_by,
    } = named;
    let refused = |name, why| DiscoveredApp {
        app: nothing(name, &id),
        refusal: Some(Refusal::Invalid(format!("service {id} in Consul: {why}"))),
    };
    if let Some((wanted, holder)) = taken_by {
        let why = format!("its name {wanted} is that of service {holder} already");
        return refused(name, why);
    }
    match parse_app_from_tags(name.clone(), &id, &tags, config) {
        Ok(app) => DiscoveredApp {
            app,
            refusal: expired.then(|| Refusal::Invalid(AWAY.to_owned())),
        },
        Err(why) => refused(name, why.to_string()),
    }
}

/// What is shown of a service whose tags are no app.
pub(super) fn nothing(name: AppName, id: &str) -> App {
    App {
        name,
        source: Source::Consul,
        vips: BTreeSet::new(),
        monitors: BTreeSet::new(),
        nats: BTreeSet::new(),
        attributes: Attributes::default(),
        when_down: Reaction::Withdraw,
        when_draining: Reaction::Withdraw,
        options: AppOptions {
            drain_time: Duration::ZERO,
            hold_down: Duration::ZERO,
            ..AppOptions::default()
        },
        instance_id: Some(id.to_owned()),
    }
}
