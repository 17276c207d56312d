//! Performing checks: every form of contract section 3 but `consul` and `heartbeat`, which the core
//! answers from what it was told.
//!
//! Nothing here blocks the thread. What blocks (asking over HTTP, looking up names) has a [`Place`].

mod dns;
mod exec;
mod http;
mod port;
mod queue;
mod tcp;

pub use port::{FullQueue, PortState, bind_test};

use crate::app::{AcceptQueue, MonitorSpec, Protocol};
use crate::health::Outcome;
use crate::io::client::{Client, Files};
use crate::io::places::{Overdue, Place, Places};
use crate::io::reaper::Reaper;
use crate::timer::Jitter;
use port::Ports;
use queue::{Queues, Verdict};
use smol::Timer;
use smol::future::FutureExt;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whose check it is: commands find it as `SIDECAST_APP` and `SIDECAST_MONITOR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub app: String,
    /// Its label, as metrics have it.
    pub monitor: String,
    /// The operator wrote it, in the file or the environment.
    pub trusted: bool,
}

/// Performs checks, and remembers what one check has to know of the one before.
pub struct Checker {
    commands: exec::Commands,
    ports: Ports,
    queues: RefCell<Queues>,
    chance: RefCell<Jitter>,
    verifying: Arc<Client>,
    /// Takes any certificate.
    trusting: Arc<Client>,
}

impl Checker {
    /// `seed` makes the ids of DNS queries hard to guess.
    pub fn new(reaper: Reaper, seed: u64) -> Self {
        let client = |insecure| {
            let files = Files {
                insecure,
                ..Files::default()
            };
            Arc::new(Client::new(None, files))
        };
        Self {
            commands: exec::Commands::new(reaper),
            ports: Ports::default(),
            queues: RefCell::default(),
            chance: RefCell::new(Jitter::new(seed)),
            verifying: client(false),
            trusting: client(true),
        }
    }

    /// Performs one check, on nobody's behalf and whatever else is under way.
    pub async fn check(&self, spec: &MonitorSpec, timeout: Duration) -> Outcome {
        let place = Some(Places::new(1).take().await);
        self.check_for(None, spec, timeout, place).await
    }

    /// The same on behalf of somebody, with a place where it [`blocks`]. It answers within `timeout` and a
    /// little; dropping it ends the check, and kills what it runs, but what blocks keeps its place until
    /// it returns.
    pub async fn check_for(
        &self,
        owner: Option<&Owner>,
        spec: &MonitorSpec,
        timeout: Duration,
        place: Option<Place>,
    ) -> Outcome {
        match spec {
            MonitorSpec::Port {
                protocol,
                port,
                accept_queue,
            } => self.port(*protocol, *port, *accept_queue, timeout).await,
            MonitorSpec::Exec(command) => self.commands.check(command, owner, timeout).await,
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
                let want = http::Want {
                    url: url.clone(),
                    status: status.clone(),
                    contains: contains.clone(),
                    headers: headers.clone(),
                };
                let client = match insecure {
                    true => self.trusting.clone(),
                    false => self.verifying.clone(),
                };
                let check = move || want.check(&client, timeout);
                run(place, timeout, check).await.unwrap_or_else(|late| late)
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
                    server: *server,
                    rcode: *rcode,
                };
                let mut chance = Jitter::new(self.chance.borrow_mut().next_u64());
                within(timeout, dns::check(&query, &mut chance)).await
            }
            MonitorSpec::Consul | MonitorSpec::Heartbeat(_) => {
                Outcome::unavailable("not a check that can be performed here")
            }
        }
    }

    /// The state of many ports at once: one look-up for each protocol and family.
    pub fn ports(&self, ports: &BTreeSet<(Protocol, u16)>) -> BTreeMap<(Protocol, u16), PortState> {
        self.ports.look(ports)
    }

    /// What a look at a port means to a check; `None`: its accept queue is full, and the check has to go
    /// on as [`Checker::check`] does.
    pub fn judge_port(
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

    /// Looks once, unless the accept queue is found full: then until the timeout, for a crowd to pass.
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
            let state = self.look(protocol, port);
            let outcome = state.outcome();
            let PortState::Open { full, .. } = state else {
                return outcome;
            };
            if accept_queue == AcceptQueue::Ignore {
                return outcome;
            }
            let over = timeout.max(QUEUE_TIME);
            let verdict = self.queues.borrow_mut().sample(now, port, &full, over);
            match verdict {
                Verdict::Stuck(why) if accept_queue == AcceptQueue::Fail => {
                    return Outcome::Fail(why);
                }
                Verdict::Stuck(why) => return Outcome::Pass(why),
                Verdict::Watch if now < deadline => {}
                Verdict::Watch | Verdict::Fine => return outcome,
            }
            Timer::at(deadline.min(Instant::now() + QUEUE_SAMPLE)).await;
            now = Instant::now();
        }
    }

    fn look(&self, protocol: Protocol, port: u16) -> PortState {
        let states = self.ports.look(&BTreeSet::from([(protocol, port)]));
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

/// Whether the check takes a thread for itself, and so a place.
pub fn blocks(spec: &MonitorSpec) -> bool {
    match spec {
        MonitorSpec::Http { .. } => true,
        MonitorSpec::Tcp { host, .. } => host.parse::<IpAddr>().is_err(),
        _ => false,
    }
}

/// What `call` returns; else the outcome of a check without it.
async fn run<T: Send + 'static>(
    place: Option<Place>,
    timeout: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Outcome> {
    let Some(place) = place else {
        return Err(Outcome::unavailable("there is no place for it"));
    };
    place
        .run(timeout, call)
        .await
        .map_err(|overdue| match overdue {
            Overdue::Hangs => late(timeout),
            Overdue::NoThread => Outcome::unavailable("late: the system gives us no thread for it"),
        })
}

fn late(timeout: Duration) -> Outcome {
    Outcome::Fail(format!("no answer within {timeout:?}"))
}

/// Whether an error is our own want of descriptors or memory, and says nothing about the service.
pub(in crate::io) fn is_own_want(error: &io::Error) -> bool {
    use nix::errno::Errno;
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS | Errno::EAGAIN)
    )
}

/// How long an accept queue has to be full, at least, to count as stuck.
const QUEUE_TIME: Duration = Duration::from_secs(2);
/// Time between two samples of a full accept queue.
const QUEUE_SAMPLE: Duration = Duration::from_millis(100);
