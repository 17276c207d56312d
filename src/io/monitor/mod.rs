//! Performs the checks of monitors: `port`, `exec`, `tcp`, `http` and `dns`. The core evaluates `consul` and
//! `heartbeat` itself.
//!
//! Nothing here blocks the loop: HTTP requests and name lookups run in a [`ThreadSlot`].

mod dns;
mod exec;
mod http;
mod port;
mod queue;
mod tcp;
mod vip;

pub use port::{FullQueue, PortState};

use crate::app::{AcceptQueue, DnsServer, MonitorSpec, Protocol, VipTarget};
use crate::health::Outcome;
use crate::io::client::{Client, TlsFiles};
use crate::io::reaper::Reaper;
use crate::io::thread_slots::{CallTimeout, ThreadSlot};
use crate::timer::Rng;
use port::Ports;
use queue::{AcceptQueues, QueueState};
use smol::Timer;
use smol::future::FutureExt;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// App and monitor of a check, which commands get as `SIDECAST_APP` and `SIDECAST_MONITOR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckOwner {
    pub app: String,
    /// Its label, as metrics have it.
    pub monitor: String,
    /// It comes from the configuration file or the environment.
    pub trusted: bool,
}

/// What to check.
#[derive(Clone, Debug)]
pub struct Question {
    pub spec: MonitorSpec,
    pub timeout: Duration,
    /// The VIPs of the app that the monitor asks.
    pub targets: Vec<VipTarget>,
}

/// Performs checks, with the state that they share.
pub struct Checker {
    commands: exec::Commands,
    ports: Ports,
    queues: RefCell<AcceptQueues>,
    chance: RefCell<Rng>,
    verifying_client: Arc<Client>,
    /// Without certificate verification.
    insecure_client: Arc<Client>,
}

impl Checker {
    /// `seed` makes the ids of DNS queries hard to guess.
    pub fn new(reaper: Reaper, seed: u64) -> Self {
        let client = |insecure| {
            let files = TlsFiles {
                insecure,
                ..TlsFiles::default()
            };
            Arc::new(Client::new(None, files))
        };
        Self {
            commands: exec::Commands::new(reaper),
            ports: Ports::default(),
            queues: RefCell::default(),
            chance: RefCell::new(Rng::new(seed)),
            verifying_client: client(false),
            insecure_client: client(true),
        }
    }

    /// Performs one check for `owner`, with a slot if it [`blocks`]. It returns shortly after `timeout` at the latest.
    /// Dropping the future ends the check and kills its command; a blocking call holds its slot until it
    /// returns.
    pub async fn check_for(
        &self,
        owner: Option<&CheckOwner>,
        question: &Question,
        place: Option<ThreadSlot>,
    ) -> Outcome {
        let Question {
            spec,
            timeout,
            targets,
        } = question;
        let timeout = *timeout;
        match spec {
            MonitorSpec::Port {
                protocol,
                port,
                accept_queue,
            } => self.port(*protocol, *port, *accept_queue, timeout).await,
            MonitorSpec::Exec(command) => self.commands.check(command, owner, timeout).await,
            MonitorSpec::Tcp { port, .. } if asks_vips(question) => {
                vip::tcp(*port, targets, timeout).await
            }
            MonitorSpec::Tcp { host, port } => {
                within(timeout, tcp::check(host, *port, place, timeout)).await
            }
            MonitorSpec::Http {
                url,
                status,
                contains,
                headers,
                insecure,
            } => {
                let check = http::HttpCheck {
                    url: url.clone(),
                    status: status.clone(),
                    contains: contains.clone(),
                    headers: headers.clone(),
                };
                self.http(check, *insecure, question, place).await
            }
            MonitorSpec::Dns {
                name,
                qtype,
                server,
                rcode,
            } => {
                let query = dns::Query {
                    name,
                    qtype: *qtype,
                    rcode: *rcode,
                };
                self.dns(&query, server, question).await
            }
            MonitorSpec::Consul | MonitorSpec::Heartbeat(_) => {
                Outcome::unavailable("this monitor has no check to perform")
            }
        }
    }

    async fn http(
        &self,
        check: http::HttpCheck,
        insecure: bool,
        question: &Question,
        place: Option<ThreadSlot>,
    ) -> Outcome {
        let client = match insecure {
            true => self.insecure_client.clone(),
            false => self.verifying_client.clone(),
        };
        let timeout = question.timeout;
        let vips = asks_vips(question).then(|| question.targets.clone());
        let check = move || match vips {
            Some(vips) => check.check_each(&client, &vips, timeout),
            None => check.check(&client, timeout),
        };
        run(place, timeout, check).await.unwrap_or_else(|late| late)
    }

    async fn dns(
        &self,
        query: &dns::Query<'_>,
        server: &DnsServer,
        question: &Question,
    ) -> Outcome {
        let (timeout, targets) = (question.timeout, &question.targets);
        let mut chance = Rng::new(self.chance.borrow_mut().next_u64());
        match server {
            DnsServer::Address(server) if targets.is_empty() => {
                within(timeout, dns::check(query, *server, &mut chance)).await
            }
            server => vip::dns(query, server.port(), targets, &mut chance, timeout).await,
        }
    }

    /// The state of many ports at once: one look-up for each protocol and family.
    pub fn ports(&self, ports: &BTreeSet<(Protocol, u16)>) -> BTreeMap<(Protocol, u16), PortState> {
        self.ports.port_states(ports)
    }

    /// The outcome of a port check; `None`: the accept queue is full, and [`Checker::check_for`] has to observe it.
    pub fn port_outcome(
        &self,
        port: u16,
        accept_queue: AcceptQueue,
        state: &PortState,
    ) -> Option<Outcome> {
        if let PortState::Open { full, .. } = state
            && accept_queue != AcceptQueue::Ignore
        {
            if !full.is_empty() {
                return None;
            }
            let now = Instant::now();
            self.queues.borrow_mut().sample(now, port, full, QUEUE_TIME);
        }
        Some(state.outcome())
    }

    /// Looks the port up once; while its accept queue is full, again until the timeout, since that may be a
    /// short burst.
    async fn port(
        &self,
        protocol: Protocol,
        port: u16,
        accept_queue: AcceptQueue,
        timeout: Duration,
    ) -> Outcome {
        let began = Instant::now();
        let deadline = began + timeout;
        let mut now = began;
        loop {
            let state = self.port_state(protocol, port);
            let outcome = state.outcome();
            let PortState::Open { full, .. } = state else {
                return outcome;
            };
            if accept_queue == AcceptQueue::Ignore {
                return outcome;
            }
            let over = timeout.max(QUEUE_TIME);
            let queue_state = self.queues.borrow_mut().sample(now, port, &full, over);
            match queue_state {
                QueueState::Stuck(why) if accept_queue == AcceptQueue::Fail => {
                    return Outcome::Fail(why);
                }
                QueueState::Stuck(why) => return Outcome::Pass(why),
                QueueState::Full if now < deadline => {}
                QueueState::Full | QueueState::NotFull => return outcome,
            }
            Timer::at(deadline.min(Instant::now() + QUEUE_SAMPLE)).await;
            now = Instant::now();
        }
    }

    fn port_state(&self, protocol: Protocol, port: u16) -> PortState {
        let states = self.ports.port_states(&BTreeSet::from([(protocol, port)]));
        let unknown = || PortState::Unknown("not looked at".to_owned());
        states.into_values().next().unwrap_or_else(unknown)
    }
}

/// The outcome of `check`, or a failure at the timeout.
async fn within(timeout: Duration, check: impl Future<Output = Outcome>) -> Outcome {
    check
        .or(async {
            Timer::after(timeout).await;
            late(timeout)
        })
        .await
}

/// Whether the check asks VIPs of its app, including a check whose configured address is one.
fn asks_vips(question: &Question) -> bool {
    question.spec.asks_each_vip() || !question.targets.is_empty()
}

/// Whether the check makes a blocking call, and so needs a thread slot.
pub fn blocks(spec: &MonitorSpec) -> bool {
    match spec {
        MonitorSpec::Http { .. } => true,
        MonitorSpec::Tcp { host, .. } => host.parse::<IpAddr>().is_err() && !spec.asks_each_vip(),
        _ => false,
    }
}

/// Runs a blocking call. The error is the outcome of a check whose call has no result in time.
async fn run<T: Send + 'static>(
    place: Option<ThreadSlot>,
    timeout: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Outcome> {
    let Some(place) = place else {
        return Err(Outcome::unavailable("no thread slot is free"));
    };
    place
        .run(timeout, call)
        .await
        .map_err(|overdue| match overdue {
            CallTimeout::Running => late(timeout),
            CallTimeout::NotStarted => {
                Outcome::unavailable("not started in time: the system gives no more threads")
            }
        })
}

fn late(timeout: Duration) -> Outcome {
    Outcome::Fail(format!("no answer within {timeout:?}"))
}

/// How long an accept queue has to be full, at least, to count as stuck.
const QUEUE_TIME: Duration = Duration::from_secs(2);
/// Time between two samples of a full accept queue.
const QUEUE_SAMPLE: Duration = Duration::from_millis(100);
