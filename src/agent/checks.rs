//! Performs the core's checks and forwards the kernel's socket notifications.

use super::Executor;
use crate::app::{AcceptQueue, MonitorSpec, Protocol};
use crate::core::Event;
use crate::health::Outcome;
use crate::io::launch::Launcher;
use crate::io::monitor::{CheckOwner, Checker, Question, blocks};
use crate::io::reaper::Reaper;
use crate::io::sock_events::{SocketEvent, SocketEvents};
use crate::io::thread_slots::{ThreadSlot, ThreadSlots};
use crate::registry::MonitorId;
use smol::Timer;
use smol::channel::{self, Receiver, Sender};
use smol::future::{self, FutureExt};
use smol::lock::Semaphore;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Running checks, and the subscription to destroyed sockets.
pub struct Checks {
    executor: Executor,
    events: Sender<Event>,
    checker: Rc<Checker>,
    places: ThreadSlots,
    /// One semaphore for each monitor with a blocking call. A monitor has one call at a time, even if a call
    /// hangs longer than its check.
    turns: Rc<RefCell<BTreeMap<MonitorId, Arc<Semaphore>>>>,
    /// Running `exec` checks; dropping one kills its command.
    commands: BTreeMap<MonitorId, smol::Task<()>>,
    /// Port checks waiting for the next look-up.
    ports: Vec<PortCheck>,
    /// `None`: no socket notifications from this kernel; ports are polled.
    sockets: Option<Rc<SocketEvents>>,
    /// Asks again whether ports have clients.
    ask_clients: Sender<()>,
    _watch: Option<smol::Task<()>>,
}

struct PortCheck {
    monitor: MonitorId,
    protocol: Protocol,
    port: u16,
    accept_queue: AcceptQueue,
    timeout: Duration,
}

/// Starts collecting the exit statuses of children.
pub fn reaper(executor: &Executor, launcher: Launcher) -> Reaper {
    let reaper = Reaper::new(launcher);
    let running = reaper.clone();
    executor
        .spawn(
            async move {
                if let Err(error) = running.run().await {
                    log::error!(
                        "cannot reap child processes: {error}; exec monitors will time out"
                    );
                }
            }
            .boxed_local(),
        )
        .detach();
    reaper
}

impl Checks {
    /// Subscribes to destroyed sockets (sock_diag); without them ports are polled.
    pub fn open(
        executor: &Executor,
        events: Sender<Event>,
        reaper: Reaper,
        places: ThreadSlots,
        seed: u64,
    ) -> Self {
        let sockets = SocketEvents::open()
            .inspect_err(|error| {
                log::warn!("cannot subscribe to destroyed sockets (sock_diag): {error}; ports are polled at their interval");
            })
            .ok()
            .map(Rc::new);
        let (ask_clients, asked) = channel::bounded(1);
        let watch = sockets
            .clone()
            .map(|sockets| executor.spawn(watch(sockets, asked, events.clone()).boxed_local()));
        let checker = Rc::new(Checker::new(reaper, seed));
        Self {
            executor: executor.clone(),
            events,
            checker,
            places,
            turns: Rc::default(),
            commands: BTreeMap::new(),
            ports: Vec::new(),
            sockets,
            ask_clients,
            _watch: watch,
        }
    }

    /// Performs one check and sends its result as an event. Port checks are queued for
    /// [`Checks::check_ports`].
    pub fn start(&mut self, monitor: MonitorId, owner: Option<CheckOwner>, question: Question) {
        let timeout = question.timeout;
        if let MonitorSpec::Port {
            protocol,
            port,
            accept_queue,
        } = question.spec
        {
            return self.ports.push(PortCheck {
                monitor,
                protocol,
                port,
                accept_queue,
                timeout,
            });
        }
        self.begin(monitor, owner, question);
    }

    /// Looks up all waiting ports in one sock_diag dump, without blocking. The dump comes after the
    /// requests, so no result is older than its check.
    pub fn check_ports(&mut self) -> Vec<Event> {
        if self.ports.is_empty() {
            return Vec::new();
        }
        let asked = std::mem::take(&mut self.ports);
        let began = Instant::now();
        let wanted = asked.iter().map(|asked| (asked.protocol, asked.port));
        let states = self.checker.ports(&wanted.collect());
        let took = began.elapsed();
        let mut answers = Vec::with_capacity(asked.len());
        for asked in asked {
            let PortCheck {
                monitor,
                protocol,
                port,
                accept_queue,
                timeout,
            } = asked;
            let state = states.get(&(protocol, port));
            let judged = state.map(|state| self.checker.port_outcome(port, accept_queue, state));
            match judged.flatten() {
                Some(outcome) => answers.push(Event::Checked {
                    monitor,
                    outcome,
                    took,
                }),
                None => {
                    let spec = MonitorSpec::Port {
                        protocol,
                        port,
                        accept_queue,
                    };
                    let question = Question {
                        spec,
                        timeout,
                        targets: Vec::new(),
                    };
                    self.begin(monitor, None, question);
                }
            }
        }
        answers
    }

    fn begin(&mut self, monitor: MonitorId, owner: Option<CheckOwner>, question: Question) {
        let (checker, events) = (self.checker.clone(), self.events.clone());
        let place = blocks(&question.spec).then(|| self.place(monitor, question.timeout));
        let is_command = matches!(question.spec, MonitorSpec::Exec(_));
        let check = async move {
            let place = match place {
                Some(place) => place.await.map(Some),
                None => Ok(None),
            };
            let began = Instant::now();
            let outcome = match place {
                Ok(place) => checker.check_for(owner.as_ref(), &question, place).await,
                Err(outcome) => outcome,
            };
            let took = began.elapsed();
            // The send fails only after the event loop has ended.
            let _ = events
                .send(Event::Checked {
                    monitor,
                    outcome,
                    took,
                })
                .await;
        };
        let task = self.executor.spawn(check.boxed_local());
        if is_command {
            self.commands.retain(|_, task| !task.is_finished());
            self.commands.insert(monitor, task);
        } else {
            task.detach();
        }
    }

    /// Kills the command of a check. Other checks end by themselves, and their results are dropped.
    pub fn cancel(&mut self, monitor: MonitorId) {
        self.commands.remove(&monitor);
    }

    /// Waits for the monitor's previous call to return, up to the timeout, then for a free thread,
    /// without limit; the core gets an event that the check is queued.
    fn place(
        &self,
        monitor: MonitorId,
        timeout: Duration,
    ) -> impl Future<Output = Result<ThreadSlot, Outcome>> + use<> {
        let mut turns = self.turns.borrow_mut();
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        let turn = turns
            .entry(monitor)
            .or_insert_with(|| Arc::new(Semaphore::new(1)));
        let turn = turn.acquire_arc();
        let (places, events) = (self.places.clone(), self.events.clone());
        async move {
            let hangs = async {
                Timer::after(timeout).await;
                let message =
                    format!("no answer within {timeout:?}: the previous check still hangs");
                Err(Outcome::Fail(message))
            };
            let turn = async { Ok(turn.await) }.or(hangs).await?;
            let mut place = pin!(places.take());
            loop {
                let waits = async {
                    Timer::after(timeout.min(REPORT_QUEUED_AFTER)).await;
                    None
                };
                let taken = async { Some(place.as_mut().await) };
                match taken.or(waits).await {
                    Some(place) => return Ok(place.with_permit(turn)),
                    // The send fails only after the event loop has ended.
                    None => drop(events.send(Event::CheckQueued { monitor }).await),
                }
            }
        }
    }

    /// Sets the ports whose sockets the kernel reports.
    pub fn watch_ports(&self, ports: &BTreeSet<(Protocol, u16)>) {
        let Some(sockets) = &self.sockets else { return };
        if let Err(error) = sockets.set_ports(ports) {
            log::warn!("socket filter: {error}: ports are polled at their interval");
        }
        if sockets.drops_connections() {
            // A full channel asks already.
            let _ = self.ask_clients.try_send(());
        }
    }
}

async fn watch(sockets: Rc<SocketEvents>, asked: Receiver<()>, events: Sender<Event>) {
    let mut ask_at = Some(Instant::now());
    let mut receive_at = None;
    loop {
        let next = async {
            if let Some(at) = receive_at {
                Timer::at(at).await;
            }
            Some(sockets.next().await)
        };
        let ask = async {
            let due = async {
                match ask_at {
                    Some(at) => drop(Timer::at(at).await),
                    None => future::pending().await,
                }
            };
            let asked = async {
                // The sender lives as long as this task.
                let _ = asked.recv().await;
            };
            due.or(asked).await;
            None
        };
        let event = match ask.or(next).await {
            None => match sockets.watch_clients() {
                Ok(()) => {
                    ask_at = None;
                    continue;
                }
                Err(error) => {
                    log::debug!(
                        "cannot see whether ports have clients: {error}; assuming that they have"
                    );
                    ask_at = Some(Instant::now() + CLIENT_PROBE_INTERVAL);
                    Event::ClientsSeen
                }
            },
            Some(Ok(SocketEvent::Destroyed { protocol, port })) => {
                Event::SocketDestroyed { protocol, port }
            }
            Some(Ok(SocketEvent::ClientSeen)) => {
                ask_at = Some(Instant::now() + CLIENT_PROBE_INTERVAL);
                Event::ClientsSeen
            }
            Some(Ok(SocketEvent::Overrun)) => Event::RecheckPorts,
            Some(Err(error)) => {
                log::warn!(
                    "the subscription to destroyed sockets (sock_diag) failed: {error}; for {RESUBSCRIBE_DELAY:?} ports are polled at their interval"
                );
                receive_at = Some(Instant::now() + RESUBSCRIBE_DELAY);
                Event::RecheckPorts
            }
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// How long a check waits for a thread before it is reported as queued.
const REPORT_QUEUED_AFTER: Duration = Duration::from_secs(1);
/// Time from a client connection to the next request for [`SocketEvent::ClientSeen`]: less than the core assumes.
const CLIENT_PROBE_INTERVAL: Duration = Duration::from_secs(60);
/// Time from an error of the subscription to the next attempt to receive notifications.
const RESUBSCRIBE_DELAY: Duration = Duration::from_secs(60);
