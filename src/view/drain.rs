//! How a drain went, as JSON.

use serde_json::{Value, json};

use super::json::precise;
use crate::core::DrainReport;

/// The steps of one drain; times are seconds since it began, `null` where a step is unknown.
pub fn json(report: &DrainReport) -> Value {
    let steps = &report.steps;
    json!({
        "app": report.app.as_str(),
        "acknowledged": steps.acknowledged.map(precise),
        "forwarding_ended": steps.forwarding_ended.map(precise),
        "last_packet": steps.last_packet.map(precise),
        "done": steps.done.map(precise),
        "text": steps.to_string(),
    })
}
