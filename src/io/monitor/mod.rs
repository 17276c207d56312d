//! Performing checks: every form of contract section 3 but `consul` and `heartbeat`, which the core
//! answers from what it was told.
//!
//! Nothing here blocks the thread. What the system offers only as blocking calls (looking up names)
//! runs in `smol::unblock`, at most [`BLOCKING`] at a time: that pool is shared and grows without bound.

mod dns;
mod exec;
pub(in crate::io) mod http;
mod port;
mod queue;
mod tcp;

pub use port::{FullQueue, PortState, bind_test};

use crate::app::{AcceptQueue, MonitorSpec, Protocol};
use crate::health::Outcome;
use crate::io::reaper::Reaper;
use crate::io::stream::Stream;
#[cfg(feature = "tls")]
use crate::io::tls;
use crate::timer::Jitter;
use port::Ports;
use queue::{Queues, Verdict};
use smol::Timer;
use smol::future::{self, FutureExt};
use smol::lock::Semaphore;
use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whose check it is: commands find it as `SIDECAST_APP` and `SIDECAST_MONITOR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub app: String,
    /// Its label, as metrics have it.
    pub monitor: String,
}

/// Performs checks, and remembers what one check has to know of the one before.
pub struct Checker {
    commands: exec::Commands,
    ports: Ports,
    /// Port checks that begin together share one look-up.
    round: RefCell<Rc<Round>>,
    queues: RefCell<Queues>,
    blocking: Blocking,
    chance: RefCell<Jitter>,
    #[cfg(feature = "tls")]
    tls: Tls,
}

impl Checker {
    /// `seed` makes the ids of DNS queries hard to guess.
    pub fn new(reaper: Reaper, seed: u64) -> Self {
        Self {
            commands: exec::Commands::new(reaper),
            ports: Ports::default(),
            round: RefCell::default(),
            queues: RefCell::default(),
            blocking: Blocking::default(),
            chance: RefCell::new(Jitter::new(seed)),
            #[cfg(feature = "tls")]
            tls: Tls::default(),
        }
    }

    /// Performs one check. It answers within `timeout` and a little; dropping it ends the check, and
    /// kills what it runs.
    pub async fn check(&self, spec: &MonitorSpec, timeout: Duration) -> Outcome {
        self.check_for(None, spec, timeout).await
    }

    /// The same on behalf of somebody.
    pub async fn check_for(
        &self,
        owner: Option<&Owner>,
        spec: &MonitorSpec,
        timeout: Duration,
    ) -> Outcome {
        match spec {
            MonitorSpec::Port {
                protocol,
                port,
                accept_queue,
            } => self.port(*protocol, *port, *accept_queue, timeout).await,
            MonitorSpec::Exec(command) => self.commands.check(command, owner, timeout).await,
            MonitorSpec::Tcp { host, port } => {
                let check = tcp::check(host, *port, &self.blocking, timeout);
                within(timeout, check).await
            }
            MonitorSpec::Http {
                url,
                status,
                contains,
                headers,
                insecure,
            } => {
                let want = http::Want {
                    url,
                    status,
                    contains: contains.as_deref(),
                    headers,
                };
                within(timeout, self.http(&want, *insecure, timeout)).await
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
            let state = self.look(protocol, port).await;
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

    /// Looks a port up together with all others that are asked for before this thread is idle again. The
    /// look comes after the question, so the answer is never older than it.
    async fn look(&self, protocol: Protocol, port: u16) -> PortState {
        let round = self.round.borrow().clone();
        round.ports.borrow_mut().insert((protocol, port));
        future::yield_now().await;
        let states = round.states.get_or_init(|| {
            self.round.replace(Rc::default());
            self.ports.look(&round.ports.borrow())
        });
        let unknown = || PortState::Unknown("not looked at".to_owned());
        states
            .get(&(protocol, port))
            .cloned()
            .unwrap_or_else(unknown)
    }

    async fn http(&self, want: &http::Want<'_>, insecure: bool, timeout: Duration) -> Outcome {
        let url = want.url;
        let stream = match tcp::connect(&url.host, url.port, &self.blocking, timeout).await {
            Ok(stream) => Box::new(stream),
            Err(outcome) => return outcome,
        };
        if !url.tls {
            return http::check(want, stream).await;
        }
        match self.over_tls(&url.host, insecure, stream).await {
            Ok(stream) => http::check(want, stream).await,
            Err(error) => http::failure(want, &error),
        }
    }

    #[cfg(feature = "tls")]
    async fn over_tls(&self, host: &str, insecure: bool, stream: Stream) -> io::Result<Stream> {
        let config = self.tls.config(insecure).await?;
        config.open(host, stream).await
    }

    #[cfg(not(feature = "tls"))]
    async fn over_tls(&self, _: &str, _: bool, _: Stream) -> io::Result<Stream> {
        Err(io::Error::other(
            "this sidecast was built without TLS: use http, or a build with it",
        ))
    }
}

/// What checks over TLS need to know, each made at the first that needs it. Checks that begin together wait
/// for one of them: a thousand would else read the system's authorities a thousand times at once.
#[cfg(feature = "tls")]
#[derive(Default)]
struct Tls {
    verifying: smol::lock::OnceCell<tls::Config>,
    trusting: smol::lock::OnceCell<tls::Config>,
}

#[cfg(feature = "tls")]
impl Tls {
    async fn config(&self, insecure: bool) -> io::Result<&tls::Config> {
        if insecure {
            let make = || async { tls::Config::insecure() };
            return self.trusting.get_or_try_init(make).await;
        }
        let read = || smol::unblock(|| tls::Config::read(&tls::Files::default()));
        self.verifying.get_or_try_init(read).await
    }
}

/// Ports that are looked up together, and what was found.
#[derive(Debug, Default)]
struct Round {
    ports: RefCell<BTreeSet<(Protocol, u16)>>,
    states: OnceCell<BTreeMap<(Protocol, u16), PortState>>,
}

/// The outcome of `check`, or a failure at the timeout.
async fn within(timeout: Duration, check: impl Future<Output = Outcome>) -> Outcome {
    check
        .or(async {
            Timer::after(timeout).await;
            Outcome::Fail(format!("no answer within {timeout:?}"))
        })
        .await
}

/// Blocking calls, a bounded number at a time. One that hangs keeps its place until it ends, also when
/// nobody waits for it any more.
struct Blocking {
    places: Arc<Semaphore>,
}

impl Default for Blocking {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(BLOCKING)),
        }
    }
}

impl Blocking {
    /// Runs `call` on a thread of the pool; where no place comes free within `patience`, that is an
    /// outcome which says nothing about the service.
    async fn run<T: Send + 'static>(
        &self,
        patience: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Outcome> {
        let place = async { Some(self.places.acquire_arc().await) }
            .or(async {
                Timer::after(patience).await;
                None
            })
            .await
            .ok_or_else(|| {
                Outcome::Unavailable(format!("{BLOCKING} name look-ups hang already"))
            })?;
        Ok(smol::unblock(move || {
            let result = call();
            drop(place);
            result
        })
        .await)
    }
}

/// Whether an error is our own want of descriptors or memory, and says nothing about the service.
pub(in crate::io) fn is_own_want(error: &io::Error) -> bool {
    use nix::errno::Errno;
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS | Errno::EAGAIN)
    )
}

/// Blocking calls at a time.
pub const BLOCKING: usize = 32;
/// How long an accept queue has to be full, at least, to count as stuck.
const QUEUE_TIME: Duration = Duration::from_secs(2);
/// Time between two samples of a full accept queue.
const QUEUE_SAMPLE: Duration = Duration::from_millis(100);
