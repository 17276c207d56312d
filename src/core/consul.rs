//! What Consul says: which apps there are because of it, and what its checks say of them. Where it says
//! nothing, what is known stays: for ever, or for `consul_grace`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::Core;
use crate::app::{App, AppName, AppOptions, Attributes, Reaction, Source};
use crate::config::{Consul, Refusal, is_tagged, parse_app_from_tags};
use crate::consul::{Catalog, Checks, Query, Service, Verdict, judge};
use crate::health::Outcome;
use crate::registry::{Found, MonitorId};
use crate::timer::Soonest;

/// What came of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The local agent said the node's name.
    Node(String),
    Services(Catalog),
    NodeChecks(Checks),
    AgentChecks(Checks),
    /// It said nothing that could be believed.
    Failed {
        query: Query,
        why: String,
    },
}

/// All that is known from Consul.
#[derive(Default)]
pub(super) struct Discovery {
    /// Those that ask for an announcement, by their ids.
    pub(super) services: BTreeMap<String, Service>,
    /// When those were first seen that are new: their checks may be on the way still.
    new: BTreeMap<String, Instant>,
    /// The services were heard of from Consul itself, not only from the state file.
    pub(super) confirmed: bool,
    /// Which instance goes by which name.
    names: BTreeMap<AppName, String>,
    node: Option<Checks>,
    agent: Option<Checks>,
    failures: BTreeMap<Query, Failure>,
    outage: Option<Instant>,
    /// What passed before a restart, by the services' ids: counts while Consul has not answered since.
    pub(super) passed: BTreeSet<String>,
    /// The same of apps that are no services of Consul's.
    pub(super) passed_apps: BTreeSet<AppName>,
    /// Until when Consul's own word is waited for before what is remembered counts.
    pub(super) first_word_by: Option<Instant>,
    /// `consul_grace` is over.
    expired: bool,
}

/// A service and what its app is called.
struct Named {
    name: AppName,
    service: Service,
    /// The name it would have, and the id of the service that has it.
    taken_by: Option<(AppName, String)>,
}

struct Failure {
    since: Instant,
    why: String,
    /// There was an answer, but not all of it.
    partial: bool,
}

impl Core {
    /// Whether Consul answers; `None` where it is not configured.
    pub fn consul_up(&self) -> Option<bool> {
        self.config.agent.consul.as_ref()?;
        Some(self.discovery.confirmed && self.discovery.failures.is_empty())
    }

    pub(super) fn take_report(&mut self, now: Instant, report: Report) {
        if self.config.agent.consul.is_none() {
            return;
        }
        let state = &mut self.discovery;
        match report {
            Report::Node(name) => {
                info!("Consul: this node is {name}");
                state.succeed(Query::Node);
            }
            Report::Services(catalog) => {
                state.answered(now, Query::Services, catalog.complete);
                self.take_services(now, catalog);
            }
            Report::NodeChecks(checks) => {
                state.answered(now, Query::NodeChecks, checks.complete);
                self.discovery.node = Some(checks);
                self.recheck_consul(now);
            }
            Report::AgentChecks(checks) => {
                state.answered(now, Query::AgentChecks, checks.complete);
                self.discovery.agent = Some(checks);
                self.recheck_consul(now);
            }
            Report::Failed { query, why } => {
                if state.fail(now, query, why, false) {
                    self.recheck_consul(now);
                }
            }
        }
        self.discovery.note_outage(now);
        self.time_out_consul(now);
    }

    /// Which services there are has been said, by Consul or before a restart.
    pub(super) fn knows_services(&self) -> bool {
        let Discovery {
            confirmed,
            services,
            ..
        } = &self.discovery;
        self.config.agent.consul.is_none() || *confirmed || !services.is_empty()
    }

    fn take_services(&mut self, now: Instant, catalog: Catalog) {
        let Some(settings) = &self.config.agent.consul else {
            return;
        };
        let Catalog { services, complete } = catalog;
        let seen: BTreeSet<String> = services.iter().map(|s| s.id.clone()).collect();
        let tagged = services
            .into_iter()
            .filter(|service| is_tagged(&service.tags, &settings.match_tag));
        let mut new: BTreeMap<String, Service> = tagged.map(|s| (s.id.clone(), s)).collect();
        if !complete {
            // What cannot be seen may be there all the same.
            let known = self.discovery.services.iter();
            let hidden = known.filter(|(id, _)| !seen.contains(*id));
            new.extend(hidden.map(|(id, service)| (id.clone(), service.clone())));
        }
        let news = self.discovery.services != new || !self.discovery.confirmed;
        let known = &self.discovery.services;
        let first = new.keys().filter(|id| !known.contains_key(*id));
        let first: Vec<String> = first.cloned().collect();
        let recent = |at: &Instant| *at + ON_THE_WAY > now;
        self.discovery.new.retain(|_, at| recent(at));
        self.discovery
            .new
            .extend(first.into_iter().map(|id| (id, now)));
        self.discovery.services = new;
        self.discovery.confirmed = true;
        if news {
            self.sync_consul(now);
        }
    }

    /// Brings the apps in line with the services known.
    pub(super) fn sync_consul(&mut self, now: Instant) {
        if self.config.agent.consul.is_none() {
            return;
        }
        let names = self.discovery.name_all();
        let found = names.into_iter().map(|named| self.found(named));
        let found = found.collect();
        self.registry.discover(now, found);
        self.recheck_consul(now);
    }

    fn found(&self, named: Named) -> Found {
        let Named {
            name,
            service,
            taken_by,
        } = named;
        let Service { id, tags, .. } = &service;
        if let Some((wanted, holder)) = taken_by {
            let why = format!(
                "service {id} in Consul: its name {wanted} is that of service {holder} already"
            );
            return Found {
                app: nothing(name, id),
                refusal: Some(Refusal::Invalid(why)),
            };
        }
        let app = parse_app_from_tags(name.clone(), id, tags, &self.config);
        let away = self
            .discovery
            .expired
            .then(|| Refusal::Invalid(AWAY.to_owned()));
        match app {
            Ok(app) => Found { app, refusal: away },
            Err(why) => Found {
                app: nothing(name, id),
                refusal: Some(Refusal::Invalid(format!("service {id} in Consul: {why}"))),
            },
        }
    }

    fn recheck_consul(&mut self, now: Instant) {
        self.remembers = true;
        self.registry.recheck_consul(now);
    }

    /// What Consul's checks say of an app.
    pub(super) fn ask_consul(&self, now: Instant, monitor: MonitorId) -> Outcome {
        let owner = self.registry.owner(monitor);
        let app = owner.map(|(app, _)| app);
        let (Some(settings), Some(app)) = (&self.config.agent.consul, app) else {
            return Outcome::unavailable("Consul is not configured");
        };
        self.discovery.outcome(now, app, settings)
    }

    /// Takes what was known before a restart, until Consul says otherwise: the services, each with whether
    /// it passed, and the other apps that did.
    pub(super) fn recall_consul(
        &mut self,
        now: Instant,
        services: Vec<(Service, bool)>,
        passed_apps: BTreeSet<AppName>,
    ) {
        let state = &mut self.discovery;
        if self.config.agent.consul.is_none() || state.confirmed {
            return;
        }
        let passed = services.iter().filter(|(_, passed)| *passed);
        state.passed = passed.map(|(service, _)| service.id.clone()).collect();
        let services = services.into_iter().map(|(service, _)| service);
        state.services = services.map(|s| (s.id.clone(), s)).collect();
        state.passed_apps = passed_apps;
        state.first_word_by = Some(now + FIRST_WORD);
        self.sync_consul(now);
    }

    /// When Consul's first word is not waited for any longer, or `consul_grace` is over for what has not
    /// been heard of since.
    pub(super) fn consul_deadline(&self) -> Option<Instant> {
        let settings = self.config.agent.consul.as_ref()?;
        let failing = self.discovery.away_since();
        let failing = failing.filter(|_| !self.discovery.expired);
        let over = settings.grace.and_then(|grace| Some(failing? + grace));
        let mut soonest = Soonest::new();
        soonest.add(self.discovery.first_word_by, ());
        soonest.add(over, ());
        soonest.get().map(|(at, ())| at)
    }

    pub(super) fn time_out_consul(&mut self, now: Instant) {
        if self.discovery.first_word_by.is_some_and(|by| by <= now) {
            self.discovery.first_word_by = None;
            self.recheck_consul(now);
        }
        let Some(grace) = self.config.agent.consul.as_ref().and_then(|c| c.grace) else {
            return;
        };
        let since = self.discovery.away_since();
        let expired = since.is_some_and(|since| since + grace <= now);
        if expired != self.discovery.expired {
            if expired {
                warn!(
                    "Consul has been away for {grace:?}: what it said is not announced any longer"
                );
            }
            self.discovery.expired = expired;
            self.sync_consul(now);
        }
    }
}

impl Discovery {
    fn succeed(&mut self, query: Query) {
        self.failures.remove(&query);
    }

    /// There was an answer; one that is not complete is only half of one.
    fn answered(&mut self, now: Instant, query: Query, complete: bool) {
        if complete {
            self.succeed(query);
        } else {
            self.fail(now, query, PARTIAL.to_owned(), true);
        }
    }

    /// Whether that is news.
    fn fail(&mut self, now: Instant, query: Query, why: String, partial: bool) -> bool {
        let same = |failure: &&Failure| failure.partial == partial;
        let since = self
            .failures
            .get(&query)
            .filter(same)
            .map(|failure| failure.since);
        debug!("Consul: {why}");
        let since_or_now = since.unwrap_or(now);
        let failure = Failure {
            since: since_or_now,
            why,
            partial,
        };
        self.failures.insert(query, failure);
        since.is_none()
    }

    /// One line when an outage begins, one when it is over.
    fn note_outage(&mut self, now: Instant) {
        match (self.outage, self.failures.iter().next()) {
            (None, Some((query, failure))) => {
                self.outage = Some(now);
                let what = what(*query);
                let why = &failure.why;
                warn!("Consul does not say {what}: {why}; what is known stays, trying again");
            }
            (Some(since), None) => {
                self.outage = None;
                let lasted = now.saturating_duration_since(since);
                info!("Consul answers again, after {:.1} s", lasted.as_secs_f64());
            }
            _ => {}
        }
    }

    fn hears(&self, query: Query) -> bool {
        self.failures
            .get(&query)
            .is_none_or(|failure| failure.partial)
    }

    /// Whether nothing was ever said of checks since the start.
    pub(super) fn hears_no_checks(&self) -> bool {
        self.node.is_none() && self.agent.is_none()
    }

    /// Since when the services, or all that could say of checks, were not heard of.
    fn away_since(&self) -> Option<Instant> {
        let away = |query| {
            let failure = self.failures.get(&query).filter(|failure| !failure.partial);
            failure.map(|failure| failure.since)
        };
        let agent = self.agent.is_some() && self.hears(Query::AgentChecks);
        let mut soonest = Soonest::new();
        // Without the name nothing else is asked.
        soonest.add(away(Query::Node), ());
        soonest.add(away(Query::Services), ());
        soonest.add(away(Query::NodeChecks).filter(|_| !agent), ());
        soonest.get().map(|(since, ())| since)
    }

    /// Every service with the name its app has: the service's own where it is the only one or the first
    /// that was there, `SERVICE@ID` for the others. Of two that would have the same one, it stays with
    /// the one that has it, else goes to the one with the smaller id.
    fn name_all(&mut self) -> Vec<Named> {
        let before = std::mem::take(&mut self.names);
        let held = |name: &AppName, service: &Service| before.get(name) == Some(&service.id);
        let mut groups: BTreeMap<&str, Vec<&Service>> = BTreeMap::new();
        for service in self.services.values() {
            groups.entry(&service.name).or_default().push(service);
        }
        let mut wanted: Vec<(AppName, &Service)> = Vec::new();
        let mut spoken_for = BTreeSet::new();
        for (name, group) in groups {
            let own = AppName::resembling(name);
            let holder = group.iter().find(|service| held(&own, service));
            let holder = holder.or(group.first()).map(|service| &service.id);
            for service in &group {
                // Another service may resemble this one.
                let plain = holder == Some(&service.id) && !spoken_for.contains(&own);
                let app = match plain {
                    true => own.clone(),
                    false => AppName::of_instance(name, &service.id),
                };
                spoken_for.insert(app.clone());
                wanted.push((app, service));
            }
        }
        wanted.sort_by_key(|(name, service)| !held(name, service));
        let (mut named, mut clashing) = (Vec::new(), Vec::new());
        for (name, service) in wanted {
            if let Some(holder) = self.names.get(&name) {
                clashing.push((name, holder.clone(), service.clone()));
                continue;
            }
            self.names.insert(name.clone(), service.id.clone());
            named.push(Named {
                name,
                service: service.clone(),
                taken_by: None,
            });
        }
        for (wanted, holder, service) in clashing {
            let mut others = (2..).map(|number| AppName::numbered(&wanted, number));
            let free = others.find(|name| !self.names.contains_key(name));
            let name = free.unwrap_or_else(|| wanted.clone());
            self.names.insert(name.clone(), service.id.clone());
            named.push(Named {
                name,
                service,
                taken_by: Some((wanted, holder)),
            });
        }
        named
    }

    fn outcome(&self, now: Instant, app: &App, settings: &Consul) -> Outcome {
        if self.expired {
            return Outcome::fail(AWAY);
        }
        let is_own = |check: &crate::consul::Check| match &app.instance_id {
            Some(id) => check.service_id == *id,
            None => check.service_name == app.service(),
        };
        let node = self.node.as_ref().filter(|_| self.hears(Query::NodeChecks));
        let agent = self
            .agent
            .as_ref()
            .filter(|_| self.hears(Query::AgentChecks));
        // One that the agent does not know of is as the cluster says: the agent may just have started.
        let agent = agent.filter(|agent| agent.all.iter().any(is_own));
        let verdict = match (agent, node) {
            (Some(agent), node) => {
                // The agent does not know whether the cluster sees its node.
                let of_cluster = node.into_iter().flat_map(|node| &node.all);
                let alive = of_cluster.filter(|check| check.id == SERF);
                judge(
                    agent.all.iter().chain(alive),
                    agent.complete,
                    settings.warning_passes,
                    is_own,
                )
            }
            (None, Some(node)) => judge(
                node.all.iter(),
                node.complete,
                settings.warning_passes,
                is_own,
            ),
            (None, None) => return self.unheard(app),
        };
        let seen = app.instance_id.as_ref().and_then(|id| self.new.get(id));
        match verdict {
            Verdict::NoCheck if seen.is_some_and(|at| now < *at + ON_THE_WAY) => {
                Outcome::unavailable("Consul has not said its checks yet")
            }
            Verdict::NoCheck => Outcome::fail("Consul has no check for the service"),
            Verdict::Pass => Outcome::pass(),
            Verdict::Fail(why) => Outcome::Fail(why),
            Verdict::Unknown(why) => Outcome::unavailable(why),
        }
    }

    /// Consul says nothing of its checks. One that refuses or fails is known to be away; one that is
    /// merely silent had its time to contradict what is remembered.
    fn unheard(&self, app: &App) -> Outcome {
        let failure = self.failures.values().find(|failure| !failure.partial);
        let why = match failure {
            Some(failure) => format!("Consul is away: {}", failure.why),
            None => "Consul has not answered yet".to_owned(),
        };
        let passed = match &app.instance_id {
            Some(id) => self.passed.contains(id),
            None => self.passed_apps.contains(&app.name),
        };
        let passed = passed && self.hears_no_checks();
        if passed && (failure.is_some() || self.first_word_by.is_none()) {
            return Outcome::Pass(format!("as before the restart; {why}"));
        }
        Outcome::Unavailable(why)
    }
}

fn what(query: Query) -> &'static str {
    match query {
        Query::Node => "the node's name",
        Query::Services => "the services",
        Query::NodeChecks => "the node's checks",
        Query::AgentChecks => "the agent's checks",
    }
}

/// What is shown of a service whose tags are no app.
fn nothing(name: AppName, id: &str) -> App {
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

/// How long a Consul that says nothing is waited for after a restart. An agent on this host answers in
/// milliseconds, a cluster far away within this.
const FIRST_WORD: Duration = Duration::from_millis(300);
/// How much later a service's checks may come than the service.
const ON_THE_WAY: Duration = Duration::from_secs(2);
const AWAY: &str = "Consul has been away for longer than agent.consul_grace";
const PARTIAL: &str = "the token may not see all of it (node:read, service:read); what is missing is believed to be there";
/// The cluster's own check of a node.
const SERF: &str = "serfHealth";
