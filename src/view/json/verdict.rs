//! The verdict as JSON: `/verdict`, and what concerns one app in `/apps`.

use serde::Serialize;
use serde_json::{Map, Value};

use super::value;
use crate::core::{Core, Summary};
use crate::view::verdict::{Condition, Reason, Verdict};

/// The whole verdict, with the host and version that report it.
pub fn verdict(verdict: &Verdict, core: &Core) -> Value {
    let conditions = Condition::ALL.into_iter();
    let holds = |condition: Condition| {
        (
            condition.as_str().to_owned(),
            verdict.conditions.contains(&condition).into(),
        )
    };
    let Summary {
        apps,
        up,
        peers,
        established,
    } = core.summary();
    value(&Whole {
        verdict: verdict.level.as_str(),
        line: verdict.line(),
        reasons: verdict.reasons.iter().map(Cause::from).collect(),
        left_out: verdict.count - verdict.reasons.len(),
        conditions: conditions.map(holds).collect(),
        aside: &verdict.aside,
        warnings: &verdict.warnings,
        no_peer: core.no_peer_reason().map(ToString::to_string),
        apps: Count { all: apps, up },
        peers: Count {
            all: peers,
            up: established,
        },
        version: env!("CARGO_PKG_VERSION"),
        hostname: core.hostname(),
        local_as: core.config().bgp.local_as.get(),
        router_id: core.router_id().map(|id| id.to_string()),
    })
}

#[derive(Serialize)]
struct Whole<'a> {
    verdict: &'static str,
    line: String,
    reasons: Vec<Cause<'a>>,
    /// The number of reasons that are not listed.
    left_out: usize,
    /// Whether each holds.
    conditions: Map<String, Value>,
    /// Apps that are drained or in maintenance.
    aside: &'a [String],
    warnings: &'a [String],
    /// Why there is no peer.
    no_peer: Option<String>,
    apps: Count,
    peers: Count,
    version: &'static str,
    hostname: Option<&'a str>,
    local_as: u32,
    router_id: Option<String>,
}

#[derive(Serialize)]
struct Count {
    all: usize,
    up: usize,
}

#[derive(Serialize)]
pub(super) struct Cause<'a> {
    level: &'static str,
    condition: &'static str,
    app: Option<&'a str>,
    text: &'a str,
}

impl<'a> From<&'a Reason> for Cause<'a> {
    fn from(reason: &'a Reason) -> Self {
        Self {
            level: reason.level.as_str(),
            condition: reason.condition.as_str(),
            app: reason.app.as_ref().map(|name| name.as_str()),
            text: &reason.text,
        }
    }
}
