//! What is shown of an app: plain values, nothing that leads back in. Ages and waits are durations, so
//! that nobody outside needs the core's clock.

use std::collections::BTreeMap;
use std::time::Duration;

use super::AppState;
use crate::app::{AppName, NatSpec, Source};
use crate::health::{Health, Outcome};
use crate::net::Prefix;

/// One app as `/apps` and the metrics show it.
#[derive(Clone, Debug)]
pub struct AppView {
    pub name: AppName,
    pub source: Source,
    pub state: AppState,
    pub health: Health,
    /// A route for one of its VIPs is out to a peer.
    pub announced: bool,
    /// How long it has been in this state.
    pub since: Duration,
    /// Why it is in this state; never empty.
    pub why: String,
    pub vips: Vec<VipView>,
    pub monitors: Vec<MonitorView>,
    pub nats: Vec<NatView>,
    pub drain_time: Duration,
    /// Drained by name or with all others, in progress or done.
    pub draining: bool,
    pub drained: bool,
    pub maintenance: bool,
    /// Why it cannot be told whether the maintenance file is there.
    pub maintenance_problem: Option<String>,
    /// Damping: how long it is still held, and how often it came back in the window.
    pub held_for: Option<Duration>,
    pub flaps: usize,
    /// Transitions since it was first registered, by the state entered.
    pub transitions: BTreeMap<AppState, u64>,
}

#[derive(Clone, Debug)]
pub struct VipView {
    pub prefix: Prefix,
    /// A route is out to at least one peer.
    pub announced: bool,
    /// The address is on the host.
    pub addressed: bool,
    /// The address was put there by somebody else.
    pub foreign: bool,
    /// Why it cannot be announced.
    pub problem: Option<String>,
}

#[derive(Clone, Debug)]
pub struct NatView {
    pub spec: NatSpec,
    /// `None`: the kernel was not asked, or has no rule for it now.
    pub counted: Option<Counted>,
}

/// What a mapping has carried over all the app's VIPs. The kernel looks at the first packet of each flow
/// and lets the others follow it, so these are flows begun, and the bytes of their first packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug)]
pub struct MonitorView {
    /// Its name, or kind and index: holds no secrets.
    pub label: String,
    /// As configured; may hold secrets.
    pub spec: String,
    pub health: Health,
    /// `None`: no answer yet.
    pub last: Option<Outcome>,
    pub took: Option<Duration>,
    pub age: Option<Duration>,
}
