//! Answers `GET /doctor`. The state of the core is copied on the loop; the host is examined on another thread, one
//! examination at a time. Calls within a second get the same answer.

use super::Executor;
use crate::api::Response;
use crate::doctor::{Case, Report};
use crate::io::doctor;
use crate::io::http::Call;
use smol::future::FutureExt;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The calls that wait for a report, and the last one.
pub struct Doctor {
    executor: Executor,
    state: Rc<RefCell<State>>,
}

#[derive(Default)]
struct State {
    /// Not empty while the host is examined.
    waiting: Vec<Call>,
    last: Option<(Instant, Response)>,
}

impl Doctor {
    /// No report yet.
    pub fn new(executor: &Executor) -> Self {
        Self {
            executor: executor.clone(),
            state: Rc::default(),
        }
    }

    /// Answers the call at once with a report of the last second, else after the host was examined. `case` copies the
    /// state of the core.
    pub fn answer(&self, now: Instant, call: Call, case: impl FnOnce() -> Case) {
        let mut state = self.state.borrow_mut();
        let last = state.last.as_ref();
        if let Some((_, response)) = last.filter(|(at, _)| now < *at + SHARED) {
            return call.answer(response.clone());
        }
        state.waiting.push(call);
        if state.waiting.len() > 1 {
            return;
        }
        let (case, waits) = (case(), self.state.clone());
        let look = async move {
            let looked = smol::unblock(move || Report::new(&case, &doctor::look(&case)));
            let response = Response::json(200, &looked.await.to_json());
            let mut state = waits.borrow_mut();
            for call in state.waiting.drain(..) {
                call.answer(response.clone());
            }
            state.last = Some((Instant::now(), response));
        };
        self.executor.spawn(look.boxed_local()).detach();
    }
}

/// How long a report is reused for later calls.
const SHARED: Duration = Duration::from_secs(1);
