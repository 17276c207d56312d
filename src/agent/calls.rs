//! HTTP requests: answered at once by the api, or kept until a drain is done.

use super::Executor;
use crate::api::{self, NatCounters, Reply, Response, World};
use crate::app::AppName;
use crate::core::Core;
use crate::io::http::{Asked, Call};
use crate::io::{process, stderr};
use crate::view::metrics::Reload;
use smol::channel::{self, Receiver, Sender};
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

/// Calls that wait for their apps to be drained, and what answers need besides the core.
pub struct Calls {
    waiting: Vec<Waiting>,
    reload: Reload,
    longest_turn: Duration,
    state_file_written: Option<bool>,
}

struct Waiting {
    /// `None`: all apps.
    name: Option<AppName>,
    response: Response,
    call: Call,
}

/// Which listener a call came to.
#[derive(Clone, Copy)]
pub enum ListenerKind {
    Api,
    Metrics,
}

/// A call whose answer shows what the kernel has counted, and what that is.
pub struct Counted {
    pub listener: ListenerKind,
    pub call: Call,
    pub nat: Rc<NatCounters>,
}

/// Calls that wait for the kernel's counters.
pub struct Counting {
    executor: Executor,
    out: Sender<Counted>,
    done: Receiver<Counted>,
}

impl Counting {
    pub fn new(executor: &Executor) -> Self {
        let (out, done) = channel::unbounded();
        Self {
            executor: executor.clone(),
            out,
            done,
        }
    }

    pub fn start(
        &self,
        listener: ListenerKind,
        call: Call,
        counters: impl Future<Output = NatCounters> + 'static,
    ) {
        let out = self.out.clone();
        let task = self.executor.spawn(async move {
            let nat = Rc::new(counters.await);
            let _ = out
                .send(Counted {
                    listener,
                    call,
                    nat,
                })
                .await;
        });
        task.detach();
    }

    pub async fn next(&self) -> Option<Counted> {
        self.done.recv().await.ok()
    }
}

/// A call that asked for the configuration to be read again.
pub struct ReloadCall {
    call: Call,
    json: bool,
}

impl Calls {
    pub fn new() -> Self {
        let reload = Reload {
            successful: true,
            succeeded_at: SystemTime::now(),
        };
        Self {
            waiting: Vec::new(),
            reload,
            longest_turn: Duration::ZERO,
            state_file_written: None,
        }
    }

    /// Answers `call`, or keeps it; gives it back when it asks for what only the agent can do.
    pub fn take(
        &mut self,
        core: &mut Core,
        now: Instant,
        call: Call,
        nat: &Rc<NatCounters>,
    ) -> Option<ReloadCall> {
        let world = self.world(core, now, nat);
        let reply = match &call.asked {
            Asked::Request(request) => api::handle(core, &world, request),
            Asked::Rest(rest) => Reply::Now(api::go_on(core, &world, rest.clone())),
        };
        match reply {
            Reply::Now(response) => call.answer(response),
            Reply::WhenDrained { name, response } => self.waiting.push(Waiting {
                name,
                response,
                call,
            }),
            Reply::Reload { json } => return Some(ReloadCall { call, json }),
        }
        None
    }

    /// Answers a call to the metrics listener.
    pub fn take_metrics(&self, core: &Core, now: Instant, call: Call, nat: &Rc<NatCounters>) {
        let world = self.world(core, now, nat);
        let response = match &call.asked {
            Asked::Request(request) => api::handle_metrics(core, &world, request),
            Asked::Rest(rest) => api::go_on(core, &world, rest.clone()),
        };
        call.answer(response);
    }

    fn world<'a>(&self, core: &Core, now: Instant, nat: &'a Rc<NatCounters>) -> World<'a> {
        World {
            now,
            wall: SystemTime::now(),
            process: &process::read,
            reload: self.reload,
            longest_turn: self.longest_turn,
            log_lines_dropped: stderr::dropped(),
            state_file_written: self.state_file_written,
            consul_up: core.consul_up(),
            nat,
        }
    }

    /// Notes how a reload ended, for the metrics.
    pub fn reloaded(&mut self, successful: bool) {
        self.reload.successful = successful;
        if successful {
            self.reload.succeeded_at = SystemTime::now();
        }
    }

    /// Notes how long a turn of the loop took, for the metrics.
    pub fn turned(&mut self, took: Duration) {
        self.longest_turn = self.longest_turn.max(took);
    }

    /// Notes whether the state file is as it should be, for the metrics.
    pub fn remembered(&mut self, written: Option<bool>) {
        self.state_file_written = written;
    }

    /// Answers the calls whose drains are done.
    pub fn answer_drained(&mut self, core: &Core) {
        if self.waiting.is_empty() {
            return;
        }
        let (done, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting: &Waiting| core.drained(waiting.name.as_ref()));
        self.waiting = waiting;
        for Waiting { response, call, .. } in done {
            call.answer(response);
        }
    }
}

impl ReloadCall {
    pub fn answer(self, outcome: &Result<Vec<String>, String>) {
        let outcome = outcome.as_ref().map(Vec::as_slice).map_err(String::as_str);
        self.call.answer(api::reloaded(outcome, self.json));
    }
}
