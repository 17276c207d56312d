//! HTTP calls: answered at once by the API, or kept until a drain is done.

use super::Executor;
use super::wall_clock::WallClock;
use crate::api::{self, ApiContext, NatCounters, Reply};
use crate::app::AppName;
use crate::core::Core;
use crate::io::http::{Call, CallKind};
use crate::io::{process, stderr};
use crate::view::metrics::LastReload;
use smol::channel::{self, Receiver, Sender};
use smol::future::FutureExt;
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

/// Calls that wait for a drain, and the data in answers that the core does not have.
pub struct Calls {
    waiting: Vec<DrainCall>,
    reload: LastReload,
    reloaded: bool,
    longest_turn: Duration,
    state_file_written: Option<bool>,
    clock: WallClock,
}

struct DrainCall {
    /// `None`: all apps.
    name: Option<AppName>,
    json: bool,
    call: Call,
}

/// Which listener a call came to.
#[derive(Clone, Copy)]
pub enum ListenerKind {
    Api,
    Metrics,
}

/// A call whose answer shows NAT counters, with the counters.
pub struct CounterRead {
    pub listener: ListenerKind,
    pub call: Call,
    pub nat: Rc<NatCounters>,
}

/// Reads NAT counters for calls that wait for them.
pub struct CounterReads {
    executor: Executor,
    out: Sender<CounterRead>,
    done: Receiver<CounterRead>,
}

impl CounterReads {
    /// No calls are waiting.
    pub fn new(executor: &Executor) -> Self {
        let (out, done) = channel::unbounded();
        Self {
            executor: executor.clone(),
            out,
            done,
        }
    }

    /// Reads the counters for one call.
    pub fn start(
        &self,
        listener: ListenerKind,
        call: Call,
        counters: impl Future<Output = NatCounters> + 'static,
    ) {
        let out = self.out.clone();
        let count = async move {
            let nat = Rc::new(counters.await);
            let _ = out
                .send(CounterRead {
                    listener,
                    call,
                    nat,
                })
                .await;
        };
        self.executor.spawn(count.boxed_local()).detach();
    }

    /// The next call whose counters were read.
    pub async fn next(&self) -> Option<CounterRead> {
        self.done.recv().await.ok()
    }
}

/// A call that the core alone cannot answer: a reload, or a report of `doctor`.
pub enum DeferredCall {
    Reload(ReloadCall),
    Doctor(Call),
}

/// A call that waits for a reload.
pub struct ReloadCall {
    call: Call,
    json: bool,
}

impl Calls {
    /// No calls; the load of the configuration at start counts as the last reload.
    pub fn new() -> Self {
        let reload = LastReload {
            successful: true,
            succeeded_at: SystemTime::now(),
        };
        Self {
            waiting: Vec::new(),
            reload,
            reloaded: false,
            longest_turn: Duration::ZERO,
            state_file_written: None,
            clock: WallClock::new(Instant::now(), SystemTime::now()),
        }
    }

    /// Answers `call`, or keeps it until a drain is done; returns it if the core alone cannot answer it.
    pub fn take(
        &mut self,
        core: &mut Core,
        now: Instant,
        call: Call,
        nat: &Rc<NatCounters>,
    ) -> Option<DeferredCall> {
        let context = self.context(core, now, nat);
        let reply = match &call.kind {
            CallKind::Request(request) => api::handle(core, &context, request),
            CallKind::Continuation(rest) => {
                Reply::Now(api::next_chunk(core, &context, rest.clone()))
            }
        };
        match reply {
            Reply::Now(response) => call.answer(response),
            Reply::WhenDrained { name, json } => {
                self.waiting.push(DrainCall { name, json, call });
            }
            Reply::Reload { json } => {
                return Some(DeferredCall::Reload(ReloadCall { call, json }));
            }
            Reply::Doctor => return Some(DeferredCall::Doctor(call)),
        }
        None
    }

    /// Answers a call to the metrics listener.
    pub fn take_metrics(&self, core: &Core, now: Instant, call: Call, nat: &Rc<NatCounters>) {
        let context = self.context(core, now, nat);
        let response = match &call.kind {
            CallKind::Request(request) => api::handle_metrics(core, &context, request),
            CallKind::Continuation(rest) => api::next_chunk(core, &context, rest.clone()),
        };
        call.answer(response);
    }

    fn context<'a>(&self, core: &Core, now: Instant, nat: &'a Rc<NatCounters>) -> ApiContext<'a> {
        ApiContext {
            now,
            wall: self.clock.at(now, SystemTime::now()),
            process: &process::read,
            reload: self.reload,
            longest_turn: self.longest_turn,
            log_lines_dropped: stderr::dropped(),
            state_file_written: self.state_file_written,
            consul_up: core.consul_up(),
            nat,
        }
    }

    /// The last reload failed.
    pub fn reload_failed(&self) -> bool {
        !self.reload.successful
    }

    /// Whether a reload ended since this was last asked.
    pub fn take_reloaded(&mut self) -> bool {
        std::mem::take(&mut self.reloaded)
    }

    /// Notes how a reload ended, for the metrics and the verdict.
    pub fn reloaded(&mut self, successful: bool) {
        self.reload.successful = successful;
        self.reloaded = true;
        if successful {
            self.reload.succeeded_at = SystemTime::now();
        }
    }

    /// Records how long an iteration of the event loop took, for the metrics.
    pub fn record_iteration(&mut self, took: Duration) {
        self.longest_turn = self.longest_turn.max(took);
    }

    /// Records whether the state file is written, for the metrics.
    pub fn set_state_file_written(&mut self, written: Option<bool>) {
        self.state_file_written = written;
    }

    /// Answers the calls whose drains are done.
    pub fn answer_drained(&mut self, core: &Core) {
        if self.waiting.is_empty() {
            return;
        }
        let (done, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting: &DrainCall| core.drained(waiting.name.as_ref()));
        self.waiting = waiting;
        for DrainCall { name, json, call } in done {
            call.answer(api::drained(core, name.as_ref(), json));
        }
    }
}

impl ReloadCall {
    /// Answers with the changes, or the problems.
    pub fn answer(self, outcome: &Result<Vec<String>, String>) {
        let outcome = outcome.as_ref().map(Vec::as_slice).map_err(String::as_str);
        self.call.answer(api::reloaded(outcome, self.json));
    }
}
