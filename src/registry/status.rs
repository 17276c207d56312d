//! The status of an app for the verdict: only what it needs, since it is computed for all apps at once.

use std::time::{Duration, Instant};

use super::intent::Intent;
use super::vip::VipMachine;
use super::{AppState, NotAnnounced, PathView, Registry};
use crate::app::AppName;
use crate::net::Prefix;

/// One app.
#[derive(Clone, Debug)]
pub struct AppStatus {
    pub name: AppName,
    pub state: AppState,
    /// How long it has been in this state.
    pub since: Duration,
    /// The reason; empty while the app itself is up.
    pub why: String,
    pub vips: Vec<VipStatus>,
    /// For how long it has been announced although it is down.
    pub last_resort: Option<Duration>,
    /// Drained or in maintenance, whatever else blocks it.
    pub leaving: bool,
    /// It has monitors, or the warning was given with its configuration.
    pub monitored: bool,
    /// It serves UDP on the wildcard address, and no monitor probes its VIPs.
    pub hides_answers: bool,
}

/// One VIP of it.
#[derive(Clone, Debug)]
pub struct VipStatus {
    pub prefix: Prefix,
    /// It should be announced: a route is desired, or the app is up and this VIP waits for the monitors that probe it.
    pub wanted: bool,
    /// For how long it has waited for them.
    pub probed: Option<Duration>,
    /// Why it is blocked.
    pub problem: Option<String>,
    /// Number of peers that it is announced to.
    pub announced_to: usize,
    /// Peers that it should be announced to and is not.
    pub lacking: Vec<NotAnnounced>,
    /// Peers that have the route, and from which no probe comes back.
    pub unproven: Vec<PathView>,
}

impl Registry {
    /// The registry's part; the core adds the peers.
    pub fn app_status(&self, now: Instant, name: &AppName) -> Option<AppStatus> {
        let entry = self.apps.get(name)?;
        let state = entry.state();
        let vip = |prefix: Prefix| {
            let machine = entry.vip(&prefix);
            let problem = machine.and_then(VipMachine::problem);
            let problem = problem.filter(|problem| !problem.is_standby());
            let probed = machine.and_then(VipMachine::probed_since);
            let probed = probed.filter(|_| state == AppState::Up);
            let routed = machine.is_some_and(|machine| machine.route().is_some());
            VipStatus {
                wanted: entry.refusal.is_none() && (routed || probed.is_some()),
                probed: probed.map(|since| now.saturating_duration_since(since)),
                problem: problem.map(ToString::to_string),
                prefix,
                announced_to: 0,
                lacking: Vec::new(),
                unproven: Vec::new(),
            }
        };
        Some(AppStatus {
            name: name.clone(),
            state,
            since: now.saturating_duration_since(entry.since()),
            why: match state {
                AppState::Up => String::new(),
                _ => entry.why_now(now, &self.checks),
            },
            last_resort: entry
                .last_resort_since()
                .map(|since| now.saturating_duration_since(since)),
            leaving: entry.intent != Intent::Run,
            vips: entry.vips().map(vip).collect(),
            hides_answers: entry.hides_answers(&self.checks),
            monitored: !entry.app.monitors.is_empty() || !entry.app.source.is_remote(),
        })
    }
}
