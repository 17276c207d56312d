//! A single check of a monitor.

use sidecast::app::MonitorSpec;
use sidecast::health::Outcome;
use sidecast::io::monitor::{Checker, Question};
use sidecast::io::thread_slots::ThreadSlots;
use std::time::Duration;

/// Checks without an owner, in a slot of its own.
pub async fn check_once(checker: &Checker, spec: &MonitorSpec, timeout: Duration) -> Outcome {
    let question = Question {
        spec: spec.clone(),
        timeout,
        targets: Vec::new(),
    };
    let place = Some(ThreadSlots::new(1).take().await);
    checker.check_for(None, &question, place).await
}
