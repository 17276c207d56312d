//! Consul's services and the results of its checks. While Consul is unreachable the last state is kept:
//! for `consul_grace`, or forever.

mod check_index;
mod names;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use log::{debug, info, warn};

pub(super) use names::NamedService;

use crate::app::{App, AppName};
use crate::config::{Consul, is_tagged};
use crate::consul::{Catalog, Checks, Query, Service, ServiceHealth, service_health};
use crate::health::Outcome;
use crate::timer::EarliestDeadline;
use check_index::CheckIndex;
use names::AppNames;

/// The result of one query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsulReport {
    /// The node name of the local agent.
    Node(String),
    Services(Catalog),
    NodeChecks(Checks),
    AgentChecks(Checks),
    /// No answer, or one that cannot be read.
    Failed {
        query: Query,
        why: String,
    },
}

pub(super) enum Event {
    Report(ConsulReport),
    /// The state before a restart, valid until Consul answers: the services, each with whether it
    /// passed, and the other apps whose `consul` monitor passed.
    Restored {
        services: Vec<(Service, bool)>,
        passed_apps: BTreeSet<AppName>,
    },
    /// Settings that apps are made with may have changed: the services are emitted again.
    Reconfigured,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// The complete set of tagged services. `expired`: `consul_grace` is over for them.
    Services {
        all: Vec<NamedService>,
        expired: bool,
    },
    /// What [`ConsulState::outcome`] returns may have changed.
    ChecksChanged,
}

fn by_id(services: Vec<Service>) -> BTreeMap<String, Service> {
    let mut all = BTreeMap::new();
    for service in services {
        all.insert(service.id.clone(), service);
    }
    all
}

/// The state known from Consul.
pub(super) struct ConsulState {
    settings: Consul,
    /// Services with the match tag, by id.
    services: BTreeMap<String, Service>,
    /// When new services were first seen: their checks may arrive later.
    new: BTreeMap<String, Instant>,
    /// The services are from Consul itself, not only from the state file.
    confirmed: bool,
    names: AppNames,
    node: Option<CheckIndex>,
    agent: Option<CheckIndex>,
    failures: Vec<Failure>,
    outage: Option<Instant>,
    /// Services that passed before a restart, by id: used until Consul has answered.
    passed: BTreeSet<String>,
    /// The same for apps that are not Consul services.
    passed_apps: BTreeSet<AppName>,
    /// Until when Consul's answer is waited for before the saved state is used.
    first_answer_by: Option<Instant>,
    /// `consul_grace` is over.
    expired: bool,
    outputs: VecDeque<Output>,
}

struct Failure {
    query: Query,
    since: Instant,
    why: String,
    /// There was an answer, but an incomplete one.
    partial: bool,
}

impl ConsulState {
    /// Uses these settings until exit.
    pub fn new(settings: Consul) -> Self {
        Self {
            settings,
            services: BTreeMap::new(),
            new: BTreeMap::new(),
            confirmed: false,
            names: AppNames::default(),
            node: None,
            agent: None,
            failures: Vec::new(),
            outage: None,
            passed: BTreeSet::new(),
            passed_apps: BTreeSet::new(),
            first_answer_by: None,
            expired: false,
            outputs: VecDeque::new(),
        }
    }

    /// Handles one event.
    pub fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Report(report) => {
                self.take_report(now, report);
                self.note_outage(now);
                self.handle_timeout(now);
            }
            Event::Restored {
                services,
                passed_apps,
            } => {
                if !self.confirmed {
                    self.restore(now, services, passed_apps);
                }
            }
            Event::Reconfigured => self.emit_services(),
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.first_answer_by.is_some_and(|by| by <= now) {
            self.first_answer_by = None;
            self.outputs.push_back(Output::ChecksChanged);
        }
        let Some(grace) = self.settings.grace else {
            return;
        };
        let since = self.unreachable_since();
        let expired = since.is_some_and(|since| since + grace <= now);
        if expired != self.expired {
            if expired {
                warn!(
                    "Consul has been unreachable for {grace:?} (agent.consul_grace): withdrawing what it registered"
                );
            }
            self.expired = expired;
            self.emit_services();
        }
    }

    /// The end of the wait for Consul's first answer, or of `consul_grace` in an outage.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let failing = self.unreachable_since().filter(|_| !self.expired);
        let grace = self.settings.grace;
        let over = grace.and_then(|grace| Some(failing? + grace));
        let mut earliest = EarliestDeadline::new();
        earliest.add(self.first_answer_by, ());
        earliest.add(over, ());
        earliest.get().map(|(at, ())| at)
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn take_report(&mut self, now: Instant, report: ConsulReport) {
        match report {
            ConsulReport::Node(name) => {
                info!("Consul: this node is {name}");
                self.forgive(Query::Node);
            }
            ConsulReport::Services(catalog) => {
                self.answered(now, Query::Services, catalog.complete);
                self.take_services(now, catalog);
            }
            ConsulReport::NodeChecks(checks) => {
                self.answered(now, Query::NodeChecks, checks.complete);
                self.node = Some(CheckIndex::new(checks));
                self.outputs.push_back(Output::ChecksChanged);
            }
            ConsulReport::AgentChecks(checks) => {
                self.answered(now, Query::AgentChecks, checks.complete);
                self.agent = Some(CheckIndex::new(checks));
                self.outputs.push_back(Output::ChecksChanged);
            }
            ConsulReport::Failed { query, why } => {
                if self.fail(now, query, why, false) {
                    self.outputs.push_back(Output::ChecksChanged);
                }
            }
        }
    }

    fn take_services(&mut self, now: Instant, catalog: Catalog) {
        let Catalog { services, complete } = catalog;
        let seen: BTreeSet<String> = services.iter().map(|s| s.id.clone()).collect();
        let mut tagged = services;
        tagged.retain(|service| is_tagged(&service.tags, &self.settings.match_tag));
        let mut new = by_id(tagged);
        if !complete {
            // An incomplete answer may omit services that still exist.
            let known = self.services.iter();
            let hidden = known.filter(|(id, _)| !seen.contains(*id));
            new.extend(hidden.map(|(id, service)| (id.clone(), service.clone())));
        }
        let news = self.services != new || !self.confirmed;
        let first = new.keys().filter(|id| !self.services.contains_key(*id));
        self.new.retain(|_, at| *at + CHECKS_LAG > now);
        self.new.extend(first.map(|id| (id.clone(), now)));
        self.services = new;
        self.confirmed = true;
        if news {
            self.emit_services();
        }
    }

    fn emit_services(&mut self) {
        let all = self.names.assign(self.services.values());
        let expired = self.expired;
        self.outputs.push_back(Output::Services { all, expired });
        self.outputs.push_back(Output::ChecksChanged);
    }

    fn restore(
        &mut self,
        now: Instant,
        services: Vec<(Service, bool)>,
        passed_apps: BTreeSet<AppName>,
    ) {
        let passed = services.iter().filter(|(_, passed)| *passed);
        self.passed = passed.map(|(service, _)| service.id.clone()).collect();
        let services = services.into_iter().map(|(service, _)| service);
        self.services = by_id(services.collect());
        self.passed_apps = passed_apps;
        self.first_answer_by = Some(now + FIRST_ANSWER);
        self.emit_services();
    }

    /// Whether Consul answers.
    pub fn is_up(&self) -> bool {
        self.confirmed && self.failures.is_empty()
    }

    /// The services are known, from Consul or from the state file.
    pub fn knows_services(&self) -> bool {
        self.confirmed || !self.services.is_empty()
    }

    /// The tagged services.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// What passed before a restart, while no checks have been received since: services by id, and other
    /// apps.
    pub fn passed_before_restart(&self) -> (BTreeSet<String>, BTreeSet<AppName>) {
        match self.has_no_checks() {
            true => (self.passed.clone(), self.passed_apps.clone()),
            false => Default::default(),
        }
    }

    /// Notes an answer; an incomplete one counts as a partial failure.
    fn answered(&mut self, now: Instant, query: Query, complete: bool) {
        if complete {
            self.forgive(query);
        } else {
            self.fail(now, query, PARTIAL.to_owned(), true);
        }
    }

    /// Records a failure; `true` if it is new.
    fn fail(&mut self, now: Instant, query: Query, why: String, partial: bool) -> bool {
        debug!("Consul: {why}");
        let mut known = self.failures.iter_mut();
        let same = known.find(|known| known.query == query && known.partial == partial);
        if let Some(known) = same {
            known.why = why;
            return false;
        }
        self.forgive(query);
        self.failures.push(Failure {
            query,
            since: now,
            why,
            partial,
        });
        true
    }

    fn forgive(&mut self, query: Query) {
        self.failures.retain(|failure| failure.query != query);
    }

    fn failure(&self, query: Query) -> Option<&Failure> {
        let mut failures = self.failures.iter();
        failures.find(|failure| failure.query == query)
    }

    /// Logs one line when an outage begins and one when it ends.
    fn note_outage(&mut self, now: Instant) {
        match (self.outage, self.failures.first()) {
            (None, Some(failure)) => {
                self.outage = Some(now);
                let what = what(failure.query);
                let why = &failure.why;
                warn!(
                    "Consul query for {what} failed: {why}; keeping the last known state and retrying"
                );
            }
            (Some(since), None) => {
                self.outage = None;
                let lasted = now.saturating_duration_since(since);
                info!("Consul answers again, after {:.1} s", lasted.as_secs_f64());
            }
            _ => {}
        }
    }

    fn is_answering(&self, query: Query) -> bool {
        let failure = self.failure(query);
        failure.is_none_or(|failure| failure.partial)
    }

    /// Whether no checks were received since start.
    fn has_no_checks(&self) -> bool {
        self.node.is_none() && self.agent.is_none()
    }

    /// Since when the services, or every source of checks, have been unreachable.
    fn unreachable_since(&self) -> Option<Instant> {
        let away = |query| {
            let failure = self.failure(query).filter(|failure| !failure.partial);
            failure.map(|failure| failure.since)
        };
        let agent = self.agent.is_some() && self.is_answering(Query::AgentChecks);
        let mut earliest = EarliestDeadline::new();
        // Without the node name nothing else is queried.
        earliest.add(away(Query::Node), ());
        earliest.add(away(Query::Services), ());
        earliest.add(away(Query::NodeChecks).filter(|_| !agent), ());
        earliest.get().map(|(since, ())| since)
    }

    /// The result of an app's `consul` monitor.
    pub fn outcome(&self, now: Instant, app: &App) -> Outcome {
        if self.expired {
            return Outcome::fail(GRACE_EXPIRED);
        }
        let node = self
            .node
            .as_ref()
            .filter(|_| self.is_answering(Query::NodeChecks));
        let agent = self
            .agent
            .as_ref()
            .filter(|_| self.is_answering(Query::AgentChecks));
        // For a service unknown to the agent the catalog decides: the agent may just have started.
        let agent = agent.filter(|agent| agent.has_checks_of(app));
        let warning_passes = self.settings.warning_passes;
        let verdict = match (agent, node) {
            (Some(agent), node) => {
                // The agent does not know `serfHealth`, which only the cluster can judge.
                let of_cluster = node.into_iter().flat_map(CheckIndex::of_node);
                let alive = of_cluster.filter(|check| check.id == SERF);
                let all = agent.deciding(app).chain(alive);
                service_health(all, agent.is_complete(), warning_passes)
            }
            (None, Some(node)) => {
                service_health(node.deciding(app), node.is_complete(), warning_passes)
            }
            (None, None) => return self.outcome_without_checks(app),
        };
        let seen = app.instance_id.as_ref().and_then(|id| self.new.get(id));
        match verdict {
            ServiceHealth::NoCheck if seen.is_some_and(|at| now < *at + CHECKS_LAG) => {
                Outcome::unavailable("Consul has not reported its checks yet")
            }
            ServiceHealth::NoCheck => Outcome::fail("Consul has no check for the service"),
            ServiceHealth::Pass => Outcome::pass(),
            ServiceHealth::Fail(why) => Outcome::Fail(why),
            ServiceHealth::Maintenance(why) => Outcome::TakenOut(why),
            ServiceHealth::Unknown(why) => Outcome::unavailable(why),
        }
    }

    /// The result while no checks are received: the saved state counts once Consul refuses, fails, or
    /// has not answered in time.
    fn outcome_without_checks(&self, app: &App) -> Outcome {
        let failure = self.failures.iter().find(|failure| !failure.partial);
        let why = match failure {
            Some(failure) => format!("Consul is unreachable: {}", failure.why),
            None => "Consul has not answered yet".to_owned(),
        };
        let passed = match &app.instance_id {
            Some(id) => self.passed.contains(id),
            None => self.passed_apps.contains(&app.name),
        };
        let passed = passed && self.has_no_checks();
        if passed && (failure.is_some() || self.first_answer_by.is_none()) {
            return Outcome::Pass(format!("state from before the restart; {why}"));
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

/// How long Consul's first answer is waited for after a restart. An agent on this host answers in
/// milliseconds, a distant cluster within this.
const FIRST_ANSWER: Duration = Duration::from_millis(300);
/// How much later than the service its checks may be reported.
const CHECKS_LAG: Duration = Duration::from_secs(2);
pub(super) const GRACE_EXPIRED: &str =
    "Consul has been unreachable for longer than agent.consul_grace";
const PARTIAL: &str = "the ACL token does not show everything (node:read, service:read); entries that are missing keep their last state";
/// The cluster's own check of a node (gossip failure detection).
const SERF: &str = "serfHealth";
