//! Follows Consul: two long polls, and on this host's own agent a short one whenever they bring news.
//! What was understood goes to the core as reports.

use super::Executor;
use crate::config::{Agent, Consul};
use crate::consul::{
    self, AgentChecks, Answer, AnswerError, Catalog, Checks, Index, Pace, Query, Scope,
    agent_checks, node_checks,
};
use crate::core::{Event, Report};
use crate::io::consul::Client;
use crate::timer::{Backoff, Jitter};
use smol::Timer;
use smol::channel::{self, Receiver, Sender};
use smol::future::FutureExt;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

pub struct Follower {
    client: Rc<Client>,
    _task: smol::Task<()>,
}

impl Follower {
    /// `None`: Consul is not configured.
    pub fn open(
        executor: &Executor,
        events: &Sender<Event>,
        agent: &Agent,
        seed: u64,
    ) -> Option<Self> {
        let settings = agent.consul.clone()?;
        let monitor_interval = agent.monitor_interval;
        let (events, inner) = (events.clone(), executor.clone());
        let client = Client::new(&settings)
            .inspect_err(|error| log::error!("agent.consul_addr: {error}"))
            .ok()?;
        let client = Rc::new(client);
        let asked = client.clone();
        let task = executor.spawn(async move {
            let mut poller = Poller {
                client: asked,
                events,
                scope: Scope {
                    node: String::new(),
                    datacenter: settings.datacenter.clone(),
                    namespace: settings.namespace.clone(),
                    stale: settings.stale,
                },
                wait: settings.query_interval.min(LONGEST_WAIT),
                query_interval: settings.query_interval,
                stranger: RefCell::default(),
                jitter: Jitter::new(seed),
            };
            let Some(node) = poller.node(&settings).await else {
                return;
            };
            poller.scope.node = node;
            let (poke, poked) = channel::bounded(1);
            let services = inner.spawn(poller.fork().follow(Query::Services, poke.clone()));
            let checks = inner.spawn(poller.fork().follow(Query::NodeChecks, poke));
            if settings.is_local() {
                let every = monitor_interval.clamp(SHORTEST_POLL, LONGEST_POLL);
                poller.watch_agent(&poked, every).await;
            }
            services.await;
            checks.await;
        });
        Some(Self {
            client,
            _task: task,
        })
    }

    /// The configuration was read again: its token counts from the next query on, and so do the files of
    /// TLS as they are now.
    pub fn follow(&self, agent: &Agent) {
        if let Some(settings) = &agent.consul {
            self.client.renew(settings);
        }
    }
}

/// Asks one query after the other.
struct Poller {
    client: Rc<Client>,
    events: Sender<Event>,
    scope: Scope,
    /// How long a long poll waits for news.
    wait: Duration,
    query_interval: Duration,
    /// The node that the agent is of, where that is another one.
    stranger: RefCell<Option<String>>,
    jitter: Jitter,
}

/// The agent is gone: there is nobody to tell.
struct Gone;

impl Poller {
    fn fork(&mut self) -> Self {
        Self {
            client: self.client.clone(),
            events: self.events.clone(),
            scope: self.scope.clone(),
            jitter: Jitter::new(self.jitter.next_u64()),
            stranger: RefCell::default(),
            ..*self
        }
    }

    /// The node's name: configured, or asked of this host's own agent until it says it.
    async fn node(&mut self, settings: &Consul) -> Option<String> {
        if let Some(node) = &settings.node {
            return Some(node.clone());
        }
        if !settings.is_local() {
            let why = "CONSUL_NODE is not set, and only an agent on this host is asked for it";
            log::error!("agent.consul_addr: {why}: nothing is discovered");
            self.fail(Query::Node, why.to_owned()).await.ok()?;
            return None;
        }
        let mut backoff = backoff();
        loop {
            self.client.reread_token().await;
            let answer = self.ask(Query::Node, None).await;
            let why = match answer {
                Ok((Report::Node(name), _)) => {
                    self.send(Report::Node(name.clone())).await.ok()?;
                    return Some(name);
                }
                Ok((other, _)) => format!("an answer to another question: {other:?}"),
                Err(why) => why,
            };
            if backoff.began().is_none() {
                log::error!("CONSUL_NODE is not set, and the agent does not say its name: {why}");
            }
            self.fail(Query::Node, why).await.ok()?;
            Timer::after(backoff.delay(Instant::now(), &mut self.jitter)).await;
        }
    }

    /// Asks over and over; the answer comes when there is news.
    async fn follow(mut self, query: Query, poke: Sender<()>) {
        let (mut index, mut pace, mut backoff) = (Index::default(), Pace::default(), backoff());
        let mut last: Option<Report> = None;
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
            let told = match read {
                Ok((report, header)) => {
                    index.take(header.as_deref());
                    backoff.reset();
                    let news = last.as_ref() != Some(&report);
                    let mut told = Ok(());
                    if news {
                        last = Some(report.clone());
                        told = self.send(report).await;
                        // One that waits already is enough.
                        let _ = poke.try_send(());
                    }
                    Timer::after(pace.wait(began.elapsed(), news)).await;
                    told
                }
                Err(why) => {
                    index.reset();
                    last = None;
                    let told = self.fail(query, why).await;
                    let _ = poke.try_send(());
                    Timer::after(backoff.delay(Instant::now(), &mut self.jitter)).await;
                    told
                }
            };
            if told.is_err() {
                return;
            }
        }
    }

    /// The agent's own view cannot be waited for: it is asked when the others bring news, and now and
    /// then, since it knows more than they when the cluster is out of its reach.
    async fn watch_agent(&mut self, poked: &Receiver<()>, every: Duration) {
        let mut backoff = backoff();
        let mut last: Option<Report> = None;
        loop {
            let read = self.ask(Query::AgentChecks, None).await;
            let (told, wait) = match read {
                Ok((report, _)) => {
                    backoff.reset();
                    let mut told = Ok(());
                    if last.as_ref() != Some(&report) {
                        last = Some(report.clone());
                        told = self.send(report).await;
                    }
                    (told, every)
                }
                Err(why) => {
                    last = None;
                    self.client.reread_token().await;
                    let told = self.fail(Query::AgentChecks, why).await;
                    (told, backoff.delay(Instant::now(), &mut self.jitter))
                }
            };
            if told.is_err() {
                return;
            }
            let news = async {
                // Both pollers are there as long as this is.
                let _ = poked.recv().await;
            };
            let due = async {
                Timer::after(wait).await;
            };
            news.or(due).await;
        }
    }

    /// What an answer says, and its `X-Consul-Index`.
    async fn ask(
        &self,
        query: Query,
        index: Option<u64>,
    ) -> Result<(Report, Option<String>), String> {
        let path = self.scope.path(query, index, self.wait);
        // Consul adds up to a sixteenth of the wait, so that not all come back at once.
        let wait = index.map_or(Duration::ZERO, |_| self.wait + self.wait / 16);
        let answer = self.client.get(&path, wait + PATIENCE).await;
        let mut answer = answer.map_err(|error| error.to_string())?;
        let header = answer.headers.index.take();
        let node = self.scope.node.clone();
        // An answer may have megabytes: it is read beside the loop.
        let read = smol::unblock(move || read(query, &answer, &node)).await;
        let report = match read.map_err(|error| error.to_string())? {
            Read::Report(report) => report,
            Read::Agent(checks) => Report::AgentChecks(self.of_this_node(checks)),
        };
        Ok((report, header))
    }

    /// An agent of another node says nothing of this node's services, though it may have some of the same
    /// names: then the cluster's view alone counts.
    fn of_this_node(&self, agent: AgentChecks) -> Checks {
        let AgentChecks { node, checks } = agent;
        let other = node.filter(|node| !node.eq_ignore_ascii_case(&self.scope.node));
        let known = self.stranger.replace(other.clone());
        let Some(other) = other else { return checks };
        if known.as_ref() != Some(&other) {
            let node = &self.scope.node;
            log::warn!(
                "agent.consul_addr: the agent is node {other}'s, and this node is {node}: what the agent \
                 says of checks does not count, what the cluster says does"
            );
        }
        Checks {
            all: Vec::new(),
            complete: true,
        }
    }

    async fn fail(&self, query: Query, why: String) -> Result<(), Gone> {
        self.send(Report::Failed { query, why }).await
    }

    async fn send(&self, report: Report) -> Result<(), Gone> {
        let sent = self.events.send(Event::Consul(report)).await;
        sent.map_err(|_| Gone)
    }
}

fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(5))
}

/// A long poll's wait, at most: an agent that vanished without a word is noticed no sooner.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long an answer may take beyond the wait (GoCast's limit).
const PATIENCE: Duration = Duration::from_secs(10);
const SHORTEST_POLL: Duration = Duration::from_secs(1);
const LONGEST_POLL: Duration = Duration::from_secs(10);

enum Read {
    Report(Report),
    /// Whose agent it is decides what its word is worth.
    Agent(AgentChecks),
}

fn read(query: Query, answer: &Answer, node: &str) -> Result<Read, AnswerError> {
    Ok(match query {
        Query::Services => Read::Report(Report::Services(Catalog::read(answer, node)?)),
        Query::NodeChecks => Read::Report(Report::NodeChecks(node_checks(answer)?)),
        Query::AgentChecks => Read::Agent(agent_checks(answer)?),
        Query::Node => Read::Report(Report::Node(consul::node_name(answer)?)),
    })
}
