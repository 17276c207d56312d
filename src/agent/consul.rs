//! Watches Consul: two blocking queries, and on a local agent a short poll whenever they return news.
//! Results go to the core as reports.

use super::Executor;
use crate::config::{Agent, Consul};
use crate::consul::{
    self, AgentChecks, Catalog, Checks, Index, Query, QueryRateLimit, QueryScope, Response,
    ResponseError, agent_checks, node_checks,
};
use crate::core::{ConsulReport, Event};
use crate::io::consul::Client;
use crate::timer::{Backoff, Rng};
use smol::Timer;
use smol::channel::{self, Receiver, Sender};
use smol::future::{self, FutureExt};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The tasks that query Consul.
pub struct ConsulWatcher {
    client: Rc<Client>,
    _task: smol::Task<()>,
}

impl ConsulWatcher {
    /// `None`: Consul is not configured.
    pub fn open(
        executor: &Executor,
        events: &Sender<Event>,
        agent: &Agent,
        seed: u64,
    ) -> Option<Self> {
        let settings = agent.consul.clone()?;
        let monitor_interval = agent.monitor_interval;
        let events = events.clone();
        let client = Client::new(&settings)
            .inspect_err(|error| log::error!("agent.consul_addr: {error}"))
            .ok()?;
        let client = Rc::new(client);
        let asked = client.clone();
        let follow = async move {
            let mut poller = Poller {
                client: asked,
                events,
                scope: QueryScope {
                    node: String::new(),
                    datacenter: settings.datacenter.clone(),
                    namespace: settings.namespace.clone(),
                    stale: settings.stale,
                },
                wait: settings.query_interval.min(LONGEST_WAIT),
                query_interval: settings.query_interval,
                foreign_agent: RefCell::default(),
                rng: Rng::new(seed),
            };
            let Some(node) = poller.node(&settings).await else {
                return;
            };
            poller.scope.node = node;
            let (wake, woken) = channel::bounded(1);
            let services = poller.fork().long_poll(Query::Services, wake.clone());
            let checks = poller.fork().long_poll(Query::NodeChecks, wake);
            let both = future::zip(services, checks);
            if settings.is_local() {
                let every = monitor_interval.clamp(SHORTEST_POLL, LONGEST_POLL);
                future::zip(both, poller.poll_agent(&woken, every)).await;
            } else {
                both.await;
            }
        };
        Some(Self {
            client,
            _task: executor.spawn(follow.boxed_local()),
        })
    }

    /// Applies a reload: the token and the TLS files are used from the next query on.
    pub fn apply_settings(&self, agent: &Agent) {
        if let Some(settings) = &agent.consul {
            self.client.set_token(settings);
        }
    }
}

/// Performs one query after the other.
struct Poller {
    client: Rc<Client>,
    events: Sender<Event>,
    scope: QueryScope,
    /// How long a blocking query waits for a change.
    wait: Duration,
    query_interval: Duration,
    /// The node name of the Consul agent, if it is not this node.
    foreign_agent: RefCell<Option<String>>,
    rng: Rng,
}

/// The event loop has ended.
struct AgentStopped;

impl Poller {
    fn fork(&mut self) -> Self {
        Self {
            client: self.client.clone(),
            events: self.events.clone(),
            scope: self.scope.clone(),
            rng: Rng::new(self.rng.next_u64()),
            foreign_agent: RefCell::default(),
            ..*self
        }
    }

    /// The node's name: configured, or queried from the local agent until it answers.
    async fn node(&mut self, settings: &Consul) -> Option<String> {
        if let Some(node) = &settings.node {
            return Some(node.clone());
        }
        if !settings.is_local() {
            let why = "CONSUL_NODE is not set, and consul_addr is not an agent on this host that could be asked for it";
            log::error!("agent.consul_addr: {why}: no services are discovered");
            self.fail(Query::Node, why.to_owned()).await.ok()?;
            return None;
        }
        let mut backoff = backoff();
        loop {
            self.client.reread_token().await;
            let answer = self.ask(Query::Node, None).await;
            let why = match answer {
                Ok((ConsulReport::Node(name), _)) => {
                    self.send(ConsulReport::Node(name.clone())).await.ok()?;
                    return Some(name);
                }
                Ok((other, _)) => format!("an unexpected answer: {other:?}"),
                Err(why) => why,
            };
            if backoff.failing_since().is_none() {
                log::error!(
                    "CONSUL_NODE is not set, and the agent did not return its node name: {why}; retrying"
                );
            }
            self.fail(Query::Node, why).await.ok()?;
            Timer::after(backoff.delay(Instant::now(), &mut self.rng)).await;
        }
    }

    /// Repeats a blocking query, which returns when something changed.
    async fn long_poll(mut self, query: Query, wake: Sender<()>) {
        let (mut index, mut rate_limit, mut backoff) =
            (Index::default(), QueryRateLimit::default(), backoff());
        let mut last: Option<ConsulReport> = None;
        let mut full_at = Instant::now();
        loop {
            let began = Instant::now();
            if began.saturating_duration_since(full_at) >= self.query_interval {
                index.reset();
            }
            if index.get().is_none() {
                full_at = began;
                self.client.reread_token().await;
            }
            let read = self.ask(query, index.get()).await;
            let sent = match read {
                Ok((report, header)) => {
                    index.take(header.as_deref());
                    backoff.reset();
                    let news = last.as_ref() != Some(&report);
                    let mut sent = Ok(());
                    if news {
                        last = Some(report.clone());
                        sent = self.send(report).await;
                        // A full channel means that a poll is pending already.
                        let _ = wake.try_send(());
                    }
                    Timer::after(rate_limit.delay(began.elapsed(), news)).await;
                    sent
                }
                Err(why) => {
                    index.reset();
                    last = None;
                    let sent = self.fail(query, why).await;
                    let _ = wake.try_send(());
                    Timer::after(backoff.delay(Instant::now(), &mut self.rng)).await;
                    sent
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }

    /// The agent's own checks have no blocking query: they are polled when the others return news, and
    /// at an interval, since an agent that cannot reach the cluster has newer checks than the catalog.
    async fn poll_agent(&mut self, woken: &Receiver<()>, every: Duration) {
        let mut backoff = backoff();
        let mut last: Option<ConsulReport> = None;
        loop {
            let read = self.ask(Query::AgentChecks, None).await;
            let (sent, wait) = match read {
                Ok((report, _)) => {
                    backoff.reset();
                    let mut sent = Ok(());
                    if last.as_ref() != Some(&report) {
                        last = Some(report.clone());
                        sent = self.send(report).await;
                    }
                    (sent, every)
                }
                Err(why) => {
                    last = None;
                    self.client.reread_token().await;
                    let sent = self.fail(Query::AgentChecks, why).await;
                    (sent, backoff.delay(Instant::now(), &mut self.rng))
                }
            };
            if sent.is_err() {
                return;
            }
            let news = async {
                // The sender exists as long as this poller.
                let _ = woken.recv().await;
            };
            let due = async {
                Timer::after(wait).await;
            };
            news.or(due).await;
        }
    }

    /// Performs one query; returns its report and `X-Consul-Index`.
    async fn ask(
        &self,
        query: Query,
        index: Option<u64>,
    ) -> Result<(ConsulReport, Option<String>), String> {
        let path = self.scope.path(query, index, self.wait);
        // Consul adds jitter of up to a sixteenth of the wait.
        let wait = index.map_or(Duration::ZERO, |_| self.wait + self.wait / 16);
        let answer = self.client.get(&path, wait + ANSWER_TIMEOUT).await;
        let mut answer = answer.map_err(|error| error.to_string())?;
        let header = answer.headers.index.take();
        let node = self.scope.node.clone();
        // An answer may have megabytes: it is parsed on another thread.
        let read = smol::unblock(move || read(query, &answer, &node)).await;
        let report = match read.map_err(|error| error.to_string())? {
            Read::ConsulReport(report) => report,
            Read::Agent(checks) => ConsulReport::AgentChecks(self.of_this_node(checks)),
        };
        Ok((report, header))
    }

    /// The checks of an agent of another node are ignored: it may have services of the same names.
    fn of_this_node(&self, agent: AgentChecks) -> Checks {
        let AgentChecks { node, checks } = agent;
        let other = node.filter(|node| !node.eq_ignore_ascii_case(&self.scope.node));
        let known = self.foreign_agent.replace(other.clone());
        let Some(other) = other else { return checks };
        if known.as_ref() != Some(&other) {
            let node = &self.scope.node;
            log::warn!(
                "agent.consul_addr: the agent belongs to node {other}, and this node is {node}: the catalog's checks are used, the agent's are ignored"
            );
        }
        Checks {
            all: Vec::new(),
            complete: true,
        }
    }

    async fn fail(&self, query: Query, why: String) -> Result<(), AgentStopped> {
        self.send(ConsulReport::Failed { query, why }).await
    }

    async fn send(&self, report: ConsulReport) -> Result<(), AgentStopped> {
        let sent = self.events.send(Event::Consul(report)).await;
        sent.map_err(|_| AgentStopped)
    }
}

fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(5))
}

/// The longest wait of a blocking query, after which a vanished agent is noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long an answer may take beyond the wait (GoCast's limit).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const SHORTEST_POLL: Duration = Duration::from_secs(1);
const LONGEST_POLL: Duration = Duration::from_secs(10);

enum Read {
    ConsulReport(ConsulReport),
    /// The agent's checks, used only if it is this node's.
    Agent(AgentChecks),
}

fn read(query: Query, answer: &Response, node: &str) -> Result<Read, ResponseError> {
    Ok(match query {
        Query::Services => Read::ConsulReport(ConsulReport::Services(Catalog::read(answer, node)?)),
        Query::NodeChecks => Read::ConsulReport(ConsulReport::NodeChecks(node_checks(answer)?)),
        Query::AgentChecks => Read::Agent(agent_checks(answer)?),
        Query::Node => Read::ConsulReport(ConsulReport::Node(consul::node_name(answer)?)),
    })
}
