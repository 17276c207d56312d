//! What Consul says: which services there are, and what its checks say of them. Where it says nothing,
//! what is known stays: for ever, or for `consul_grace`.

mod heard;
mod names;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use log::{debug, info, warn};

pub(super) use names::Named;

use crate::app::{App, AppName};
use crate::config::{Consul, is_tagged};
use crate::consul::{Catalog, Checks, Query, Service, Verdict, judge};
use crate::health::Outcome;
use crate::timer::Soonest;
use heard::Heard;
use names::Names;

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

pub(super) enum Event {
    Report(Report),
    /// What was known before a restart, until Consul says otherwise: the services, each with whether it
    /// passed, and the other apps that did.
    Recalled {
        services: Vec<(Service, bool)>,
        passed_apps: BTreeSet<AppName>,
    },
    /// What apps are made with may be another: the services are told again.
    Reconfigured,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Exactly these ask for an announcement. `expired`: `consul_grace` is over for them.
    Services { all: Vec<Named>, expired: bool },
    /// What [`Discovery::outcome`] says may be another.
    Rechecked,
}

/// All that is known from Consul.
pub(super) struct Discovery {
    settings: Consul,
    /// Those that ask for an announcement, by their ids.
    services: BTreeMap<String, Service>,
    /// When those were first seen that are new: their checks may be on the way still.
    new: BTreeMap<String, Instant>,
    /// The services were heard of from Consul itself, not only from the state file.
    confirmed: bool,
    names: Names,
    node: Option<Heard>,
    agent: Option<Heard>,
    failures: BTreeMap<Query, Failure>,
    outage: Option<Instant>,
    /// What passed before a restart, by the services' ids: counts while Consul has not answered since.
    passed: BTreeSet<String>,
    /// The same of apps that are no services of Consul's.
    passed_apps: BTreeSet<AppName>,
    /// Until when Consul's own word is waited for before what is remembered counts.
    first_word_by: Option<Instant>,
    /// `consul_grace` is over.
    expired: bool,
    outputs: VecDeque<Output>,
}

struct Failure {
    since: Instant,
    why: String,
    /// There was an answer, but not all of it.
    partial: bool,
}

impl Discovery {
    /// Follows Consul with these settings until the end.
    pub fn new(settings: Consul) -> Self {
        Self {
            settings,
            services: BTreeMap::new(),
            new: BTreeMap::new(),
            confirmed: false,
            names: Names::default(),
            node: None,
            agent: None,
            failures: BTreeMap::new(),
            outage: None,
            passed: BTreeSet::new(),
            passed_apps: BTreeSet::new(),
            first_word_by: None,
            expired: false,
            outputs: VecDeque::new(),
        }
    }

    pub fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Report(report) => {
                self.take_report(now, report);
                self.note_outage(now);
                self.handle_timeout(now);
            }
            Event::Recalled {
                services,
                passed_apps,
            } => {
                if !self.confirmed {
                    self.recall(now, services, passed_apps);
                }
            }
            Event::Reconfigured => self.tell_services(),
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.first_word_by.is_some_and(|by| by <= now) {
            self.first_word_by = None;
            self.outputs.push_back(Output::Rechecked);
        }
        let Some(grace) = self.settings.grace else {
            return;
        };
        let since = self.away_since();
        let expired = since.is_some_and(|since| since + grace <= now);
        if expired != self.expired {
            if expired {
                warn!(
                    "Consul has been away for {grace:?}: what it said is not announced any longer"
                );
            }
            self.expired = expired;
            self.tell_services();
        }
    }

    /// When Consul's first word is not waited for any longer, or `consul_grace` is over for what has not
    /// been heard of since.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let failing = self.away_since().filter(|_| !self.expired);
        let grace = self.settings.grace;
        let over = grace.and_then(|grace| Some(failing? + grace));
        let mut soonest = Soonest::new();
        soonest.add(self.first_word_by, ());
        soonest.add(over, ());
        soonest.get().map(|(at, ())| at)
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn take_report(&mut self, now: Instant, report: Report) {
        match report {
            Report::Node(name) => {
                info!("Consul: this node is {name}");
                self.failures.remove(&Query::Node);
            }
            Report::Services(catalog) => {
                self.answered(now, Query::Services, catalog.complete);
                self.take_services(now, catalog);
            }
            Report::NodeChecks(checks) => {
                self.answered(now, Query::NodeChecks, checks.complete);
                self.node = Some(Heard::new(checks));
                self.outputs.push_back(Output::Rechecked);
            }
            Report::AgentChecks(checks) => {
                self.answered(now, Query::AgentChecks, checks.complete);
                self.agent = Some(Heard::new(checks));
                self.outputs.push_back(Output::Rechecked);
            }
            Report::Failed { query, why } => {
                if self.fail(now, query, why, false) {
                    self.outputs.push_back(Output::Rechecked);
                }
            }
        }
    }

    fn take_services(&mut self, now: Instant, catalog: Catalog) {
        let Catalog { services, complete } = catalog;
        let seen: BTreeSet<String> = services.iter().map(|s| s.id.clone()).collect();
        let tagged = services
            .into_iter()
            .filter(|service| is_tagged(&service.tags, &self.settings.match_tag));
        let mut new: BTreeMap<String, Service> = tagged.map(|s| (s.id.clone(), s)).collect();
        if !complete {
            // What cannot be seen may be there all the same.
            let known = self.services.iter();
            let hidden = known.filter(|(id, _)| !seen.contains(*id));
            new.extend(hidden.map(|(id, service)| (id.clone(), service.clone())));
        }
        let news = self.services != new || !self.confirmed;
        let first = new.keys().filter(|id| !self.services.contains_key(*id));
        self.new.retain(|_, at| *at + ON_THE_WAY > now);
        self.new.extend(first.map(|id| (id.clone(), now)));
        self.services = new;
        self.confirmed = true;
        if news {
            self.tell_services();
        }
    }

    fn tell_services(&mut self) {
        let all = self.names.give(self.services.values());
        let expired = self.expired;
        self.outputs.push_back(Output::Services { all, expired });
        self.outputs.push_back(Output::Rechecked);
    }

    fn recall(
        &mut self,
        now: Instant,
        services: Vec<(Service, bool)>,
        passed_apps: BTreeSet<AppName>,
    ) {
        let passed = services.iter().filter(|(_, passed)| *passed);
        self.passed = passed.map(|(service, _)| service.id.clone()).collect();
        let services = services.into_iter().map(|(service, _)| service);
        self.services = services.map(|s| (s.id.clone(), s)).collect();
        self.passed_apps = passed_apps;
        self.first_word_by = Some(now + FIRST_WORD);
        self.tell_services();
    }

    /// Whether Consul answers.
    pub fn is_up(&self) -> bool {
        self.confirmed && self.failures.is_empty()
    }

    /// Which services there are has been said, by Consul or before a restart.
    pub fn knows_services(&self) -> bool {
        self.confirmed || !self.services.is_empty()
    }

    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// What passed before a restart counts still, since nothing was ever said of checks: by the services'
    /// ids, and other apps.
    pub fn still_passed(&self) -> (BTreeSet<String>, BTreeSet<AppName>) {
        match self.hears_no_checks() {
            true => (self.passed.clone(), self.passed_apps.clone()),
            false => Default::default(),
        }
    }

    /// There was an answer; one that is not complete is only half of one.
    fn answered(&mut self, now: Instant, query: Query, complete: bool) {
        if complete {
            self.failures.remove(&query);
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

    fn hears(&self, query: Query) -> bool {
        self.failures
            .get(&query)
            .is_none_or(|failure| failure.partial)
    }

    /// Whether nothing was ever said of checks since the start.
    fn hears_no_checks(&self) -> bool {
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

    /// What Consul's checks say of an app.
    pub fn outcome(&self, now: Instant, app: &App) -> Outcome {
        if self.expired {
            return Outcome::fail(AWAY);
        }
        let node = self.node.as_ref().filter(|_| self.hears(Query::NodeChecks));
        let agent = self
            .agent
            .as_ref()
            .filter(|_| self.hears(Query::AgentChecks));
        // One that the agent does not know of is as the cluster says: the agent may just have started.
        let agent = agent.filter(|agent| agent.knows(app));
        let warning_passes = self.settings.warning_passes;
        let verdict = match (agent, node) {
            (Some(agent), node) => {
                // The agent does not know whether the cluster sees its node.
                let of_cluster = node.into_iter().flat_map(Heard::of_node);
                let alive = of_cluster.filter(|check| check.id == SERF);
                let all = agent.concerning(app).chain(alive);
                judge(all, agent.is_complete(), warning_passes)
            }
            (None, Some(node)) => judge(node.concerning(app), node.is_complete(), warning_passes),
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

/// How long a Consul that says nothing is waited for after a restart. An agent on this host answers in
/// milliseconds, a cluster far away within this.
const FIRST_WORD: Duration = Duration::from_millis(300);
/// How much later a service's checks may come than the service.
const ON_THE_WAY: Duration = Duration::from_secs(2);
pub(super) const AWAY: &str = "Consul has been away for longer than agent.consul_grace";
const PARTIAL: &str = "the token may not see all of it (node:read, service:read); what is missing is believed to be there";
/// The cluster's own check of a node.
const SERF: &str = "serfHealth";
