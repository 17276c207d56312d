//! Performs checks when the core says so, and passes on what the kernel tells of sockets.

use super::Executor;
use crate::app::{AcceptQueue, MonitorSpec, Protocol};
use crate::core::Event;
use crate::health::Outcome;
use crate::io::launch::Launcher;
use crate::io::monitor::{Checker, Owner, blocks};
use crate::io::places::{Place, Places};
use crate::io::reaper::Reaper;
use crate::io::sock_events::{SocketEvent, SocketEvents};
use crate::registry::MonitorId;
use smol::Timer;
use smol::channel::Sender;
use smol::future::{self, FutureExt};
use smol::lock::Semaphore;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub struct Checks {
    executor: Executor,
    events: Sender<Event>,
    checker: Rc<Checker>,
    places: Places,
    /// Monitors with a call that blocks under way: each has one at a time, also when one hangs beyond its check.
    turns: Rc<RefCell<BTreeMap<MonitorId, Arc<Semaphore>>>>,
    /// The checks under way that run commands: one that is dropped kills what it runs.
    commands: BTreeMap<MonitorId, smol::Task<()>>,
    /// Checks of ports that have been asked for and not been made.
    ports: Vec<PortCheck>,
    /// `None`: this kernel tells nothing of sockets, ports are only polled.
    sockets: Option<Rc<SocketEvents>>,
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
        .spawn(async move {
            if let Err(error) = running.run().await {
                log::error!("cannot reap child processes: {error}; exec monitors will time out");
            }
        })
        .detach();
    reaper
}

impl Checks {
    pub fn open(
        executor: &Executor,
        events: Sender<Event>,
        reaper: Reaper,
        places: Places,
        seed: u64,
    ) -> Self {
        let sockets = SocketEvents::open()
            .inspect_err(|error| {
                log::warn!("the kernel reports no destroyed sockets ({error}): ports are polled at their interval");
            })
            .ok()
            .map(Rc::new);
        let watch = sockets
            .clone()
            .map(|sockets| executor.spawn(watch(sockets, events.clone())));
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
            _watch: watch,
        }
    }

    /// Performs one check and answers it with its result; those of ports wait for
    /// [`Checks::look_at_ports`].
    pub fn start(
        &mut self,
        monitor: MonitorId,
        owner: Option<Owner>,
        spec: MonitorSpec,
        timeout: Duration,
    ) {
        if let MonitorSpec::Port {
            protocol,
            port,
            accept_queue,
        } = spec
        {
            return self.ports.push(PortCheck {
                monitor,
                protocol,
                port,
                accept_queue,
                timeout,
            });
        }
        self.begin(monitor, owner, spec, timeout);
    }

    /// Looks up all ports that checks have asked for since, at once and without waiting: the look comes
    /// after the question, so no answer is older than it.
    pub fn look_at_ports(&mut self) -> Vec<Event> {
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
            let judged = state.map(|state| self.checker.judge_port(port, accept_queue, state));
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
                    self.begin(monitor, None, spec, timeout);
                }
            }
        }
        answers
    }

    fn begin(
        &mut self,
        monitor: MonitorId,
        owner: Option<Owner>,
        spec: MonitorSpec,
        timeout: Duration,
    ) {
        let (checker, events) = (self.checker.clone(), self.events.clone());
        let place = blocks(&spec).then(|| self.place(monitor, timeout));
        let is_command = matches!(spec, MonitorSpec::Exec(_));
        let check = async move {
            let place = match place {
                Some(place) => place.await.map(Some),
                None => Ok(None),
            };
            let began = Instant::now();
            let outcome = match place {
                Ok(place) => {
                    checker
                        .check_for(owner.as_ref(), &spec, timeout, place)
                        .await
                }
                Err(outcome) => outcome,
            };
            let took = began.elapsed();
            // Without a receiver the agent is gone, and so is who asked.
            let _ = events
                .send(Event::Checked {
                    monitor,
                    outcome,
                    took,
                })
                .await;
        };
        let task = self.executor.spawn(check);
        if is_command {
            self.commands.retain(|_, task| !task.is_finished());
            self.commands.insert(monitor, task);
        } else {
            task.detach();
        }
    }

    /// Kills the command that a check runs. The others end by themselves, and their answers find nobody.
    pub fn abandon(&mut self, monitor: MonitorId) {
        self.commands.remove(&monitor);
    }

    /// Waits for the monitor's call before to return, as long as a check may take, and then for a place, as
    /// long as it takes; the core is told of that.
    fn place(
        &self,
        monitor: MonitorId,
        timeout: Duration,
    ) -> impl Future<Output = Result<Place, Outcome>> + use<> {
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
                let message = format!("no answer within {timeout:?}: the call before hangs");
                Err(Outcome::Fail(message))
            };
            let turn = async { Ok(turn.await) }.or(hangs).await?;
            let mut place = pin!(places.take());
            loop {
                let waits = async {
                    Timer::after(timeout.min(PLACE)).await;
                    None
                };
                let taken = async { Some(place.as_mut().await) };
                match taken.or(waits).await {
                    Some(place) => return Ok(place.with_turn(turn)),
                    // Without a receiver the agent is gone.
                    None => drop(events.send(Event::CheckWaits { monitor }).await),
                }
            }
        }
    }

    /// The ports whose sockets the kernel shall tell of.
    pub fn watch_ports(&self, ports: &BTreeSet<(Protocol, u16)>) {
        let Some(sockets) = &self.sockets else { return };
        if let Err(error) = sockets.set_ports(ports) {
            log::warn!("socket filter: {error}: ports are polled at their interval");
        }
    }
}

async fn watch(sockets: Rc<SocketEvents>, events: Sender<Event>) {
    let mut ask_at = Some(Instant::now());
    loop {
        let next = async { Some(sockets.next().await) };
        let ask = async {
            match ask_at {
                Some(at) => drop(Timer::at(at).await),
                None => future::pending().await,
            }
            None
        };
        let event = match ask.or(next).await {
            None => {
                ask_at = None;
                if let Err(error) = sockets.watch_clients() {
                    log::warn!("socket filter: {error}");
                }
                continue;
            }
            Some(Ok(SocketEvent::Destroyed { protocol, port })) => {
                Event::SocketDestroyed { protocol, port }
            }
            Some(Ok(SocketEvent::Used)) => {
                ask_at = Some(Instant::now() + CLIENTS_ANEW);
                Event::ClientsSeen
            }
            Some(Ok(SocketEvent::Overrun)) => Event::RecheckPorts,
            Some(Err(error)) => {
                log::warn!("destroyed sockets are not seen any more, ports are polled: {error}");
                return;
            }
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// How long a check waits for a place before it is called late.
const PLACE: Duration = Duration::from_secs(1);
/// How long the sight of one client is good for: less than the core believes in it.
const CLIENTS_ANEW: Duration = Duration::from_secs(60);
