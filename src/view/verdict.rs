//! The verdict shown by the page, `status`, `/readyz`, `/verdict`, the metrics and systemd: a pure
//! function of the status of peers and apps. Warnings, such as an app without monitors, do not change
//! it.

mod condition;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::app::AppName;
use crate::bgp::peer::StateName;
use crate::core::{
    AppState, AppStatus, Core, NotAnnounced, NotAnnouncedReason, PathView, PeerView, Summary,
    VipStatus,
};
use crate::discovery::Obstacle;
use crate::path_proof::Finding;
use crate::small_set::SmallSet;
pub use condition::Condition;

/// The level of the verdict, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Ok,
    /// The first checks or connection attempts are pending.
    Starting,
    /// Something is wrong; no app that should be announced is without any announced VIP.
    Degraded,
    /// A VIP that should be announced is not, or only as last resort.
    Failing,
}

impl Level {
    /// The level as shown everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Starting => "starting",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub level: Level,
    pub condition: Condition,
    /// `None`: it concerns no single app.
    pub app: Option<AppName>,
    pub text: String,
}

/// Conditions of the whole process.
#[derive(Clone, Debug)]
pub struct Circumstances {
    pub starting: bool,
    /// Why there is no peer, where there is none.
    pub no_peer: Option<String>,
    /// Consul does not answer.
    pub consul_lost: bool,
    /// The last reload failed.
    pub reload_failed: bool,
    pub summary: Summary,
}

impl Circumstances {
    /// The conditions of the process now.
    pub fn of(core: &Core, now: std::time::Instant, reload_failed: bool) -> Self {
        Self {
            starting: core.is_starting(now),
            no_peer: core.no_peer_reason().map(ToString::to_string),
            consul_lost: core.consul_up() == Some(false),
            reload_failed,
            summary: core.summary(),
        }
    }
}

/// The level, and the reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub level: Level,
    /// The worst first, at most [`MOST_REASONS`] of each condition.
    pub reasons: Vec<Reason>,
    /// Number of reasons, including those left out.
    pub count: usize,
    pub conditions: SmallSet<Condition>,
    /// Apps that are drained or in maintenance, in words.
    pub aside: Vec<String>,
    pub warnings: Vec<String>,
    summary: Summary,
    /// When it may change without an event.
    pub again_in: Option<Duration>,
}

impl Verdict {
    /// The verdict on the core's present state.
    pub fn of(core: &Core, now: std::time::Instant, reload_failed: bool) -> Self {
        let circumstances = Circumstances::of(core, now, reload_failed);
        let mut verdict = Self::new(&core.peers(now), core.app_statuses(now), &circumstances);
        let mut warnings = core.config().warnings.clone();
        warnings.append(&mut verdict.warnings);
        verdict.warnings = warnings;
        verdict
    }

    /// Computes the verdict.
    pub fn new(
        peers: &[PeerView],
        apps: impl IntoIterator<Item = AppStatus>,
        circumstances: &Circumstances,
    ) -> Self {
        let mut found = Found::default();
        found.circumstances(circumstances);
        found.peers(peers, circumstances);
        for app in apps {
            found.app(&app, peers);
        }
        found.verdict(circumstances)
    }

    /// One line, beginning with the level.
    pub fn line(&self) -> String {
        let mut line = self.level.to_string();
        match (self.level, self.reasons.first()) {
            (Level::Starting, _) => line += ": the first checks and sessions are awaited",
            (_, Some(reason)) => line += &format!(": {}", reason.text),
            (_, None) => line += &format!(": {}", self.summary),
        }
        if self.level != Level::Starting && self.count > 1 {
            line += &format!(" (and {} more)", self.count - 1);
        }
        for aside in &self.aside {
            line += &format!("; {aside}");
        }
        line
    }

    /// Whether the level is `ok`.
    pub fn is_ok(&self) -> bool {
        self.level == Level::Ok
    }
}

/// The level and the condition of an app's worst reason; `None`: there is none.
pub fn worst_of_app(app: &AppStatus, peers: &[PeerView]) -> Option<(Level, Condition)> {
    let mut found = Found::default();
    found.app(app, peers);
    let (level, condition) = found.reasons.keys().next()?;
    Some((level.0, *condition))
}

/// The verdict on one app: the worst reason's level, and the reasons.
pub fn of_app(app: &AppStatus, peers: &[PeerView]) -> (Level, Vec<Reason>) {
    let mut found = Found::default();
    found.app(app, peers);
    let reasons = found.sorted();
    let level = reasons.first().map_or(Level::Ok, |reason| reason.level);
    (level, reasons)
}

/// The first reasons of each condition.
#[derive(Default)]
struct Found {
    reasons: BTreeMap<(std::cmp::Reverse<Level>, Condition), Vec<Reason>>,
    count: usize,
    drained: Names,
    maintained: Names,
    unmonitored: Names,
    /// With a wildcard UDP service and no monitor that asks a VIP.
    hiding: Names,
    /// With a VIP from which no probe comes back, and no ICMP error either.
    not_seen: Names,
    again_in: Option<Duration>,
}

/// The number of apps, and the first names.
#[derive(Default)]
struct Names {
    first: Vec<String>,
    count: usize,
}

impl Found {
    fn add(
        &mut self,
        level: Level,
        condition: Condition,
        app: Option<&AppStatus>,
        text: impl FnOnce() -> String,
    ) {
        self.count += 1;
        let reasons = self
            .reasons
            .entry((std::cmp::Reverse(level), condition))
            .or_default();
        if reasons.len() < MOST_REASONS {
            let app = app.map(|app| app.name.clone());
            let text = text();
            reasons.push(Reason {
                level,
                condition,
                app,
                text,
            });
        }
    }

    fn again(&mut self, wait: Duration) {
        let again = self.again_in.map_or(wait, |known| known.min(wait));
        self.again_in = Some(again);
    }

    fn circumstances(&mut self, circumstances: &Circumstances) {
        if circumstances.starting {
            self.again(SOON);
        }
        if circumstances.consul_lost {
            self.add(Level::Degraded, Condition::Consul, None, || {
                "Consul does not answer: its last answer holds".to_owned()
            });
        }
        if circumstances.reload_failed {
            self.add(Level::Degraded, Condition::ReloadFailed, None, || {
                "the last reload failed: the configuration before it holds".to_owned()
            });
        }
    }

    fn peers(&mut self, peers: &[PeerView], circumstances: &Circumstances) {
        if circumstances.no_peer.is_some() || peers.is_empty() {
            self.add(Level::Degraded, Condition::NoPeer, None, || {
                let none = "none is configured".to_owned();
                let why = circumstances.no_peer.clone().unwrap_or(none);
                format!("no peer: {why}")
            });
        }
        for peer in peers {
            let up = peer.state == StateName::Established;
            if !up {
                self.add(Level::Degraded, Condition::PeerDown, None, || {
                    without_session(peer)
                });
            } else if let Some(obstacle) = &peer.unreachable {
                // It ends with its hold timer, or with BFD.
                let condition = match obstacle {
                    Obstacle::InterfaceDown(_) => Condition::NoCarrier,
                    _ => Condition::PeerDown,
                };
                self.add(Level::Degraded, condition, None, || {
                    format!("peer {}: {obstacle}", peer.name)
                });
            } else if let Some(silent) = peer.unanswered {
                if silent >= UNANSWERED {
                    self.add(Level::Degraded, Condition::PeerDown, None, || {
                        format!(
                            "peer {}: has acknowledged nothing for {}s",
                            peer.name,
                            silent.as_secs()
                        )
                    });
                } else {
                    self.again(UNANSWERED - silent);
                }
            }
            if peer.no_carrier {
                self.add(Level::Degraded, Condition::NoCarrier, None, || {
                    let interface = peer.interface.as_deref().unwrap_or("its interface");
                    format!("peer {}: {interface} has no carrier", peer.name)
                });
            }
        }
    }

    fn app(&mut self, app: &AppStatus, peers: &[PeerView]) {
        let name = &app.name;
        let last_resort = app.last_resort.filter(|_| !app.leaving);
        if let Some(age) = last_resort {
            let announced = app.vips.iter().any(|vip| vip.announced_to > 0);
            self.add(Level::Failing, Condition::LastResort, Some(app), || {
                let (age, why) = (age.as_secs(), &app.why);
                match announced {
                    true => format!("app {name} is announced as last resort for {age}s: {why}"),
                    false => {
                        format!("app {name} is down, and no peer has it as last resort: {why}")
                    }
                }
            });
        }
        match app.state {
            AppState::Down | AppState::HeldDown if last_resort.is_some() => {}
            AppState::Down => self.add(Level::Failing, Condition::AppDown, Some(app), || {
                format!("app {name} is down: {}", app.why)
            }),
            AppState::Pending if app.since >= PENDING => {
                let problem = app.vips.iter().find_map(|vip| vip.problem.as_ref());
                self.add(Level::Degraded, Condition::AppPending, Some(app), || {
                    let (age, why) = (app.since.as_secs(), problem.unwrap_or(&app.why));
                    format!("app {name} is pending for {age}s: {why}")
                });
            }
            AppState::Pending => self.again(PENDING - app.since),
            AppState::HeldDown => self.add(Level::Degraded, Condition::HeldDown, Some(app), || {
                format!("app {name} is held down: {}", app.why)
            }),
            AppState::Invalid if app.leaving => self.drained.add(name),
            AppState::Invalid => self.invalid(app),
            AppState::Draining | AppState::Drained => self.drained.add(name),
            AppState::Maintenance => self.maintained.add(name),
            AppState::Up => {}
        }
        if !app.monitored {
            self.unmonitored.add(name);
        }
        if app.hides_answers {
            self.hiding.add(name);
        }
        let silent = |path: &PathView| path.proof.finding == Finding::NotSeen;
        if app.vips.iter().any(|vip| vip.unproven.iter().any(silent)) {
            self.not_seen.add(name);
        }
        // Address and routes of an app that has just come up may not have been applied yet.
        let fresh = app.state == AppState::Up && app.since < SOON;
        for vip in app.vips.iter().filter(|vip| vip.wanted) {
            self.vip(app, vip, fresh, peers);
        }
    }

    /// One reason for each problem; failing where no peer has any of the app's VIPs, else degraded.
    fn invalid(&mut self, app: &AppStatus) {
        let announced = app.vips.iter().any(|vip| vip.announced_to > 0);
        let level = match announced {
            true => Level::Degraded,
            false => Level::Failing,
        };
        let problems = app.vips.iter().filter_map(|vip| vip.problem.as_deref());
        let problems: SmallSet<&str> = problems.collect();
        if problems.is_empty() {
            return self.add(level, Condition::AppInvalid, Some(app), || {
                format!("app {} is invalid: {}", app.name, app.why)
            });
        }
        for problem in problems {
            self.add(level, Condition::AppInvalid, Some(app), || {
                format!("app {}: {problem}", app.name)
            });
        }
    }

    fn vip(&mut self, app: &AppStatus, vip: &VipStatus, fresh: bool, peers: &[PeerView]) {
        let (name, prefix) = (&app.name, &vip.prefix);
        if vip.announced_to == 0 {
            let carried_else = app.vips.iter().any(|other| other.announced_to > 0);
            let only =
                !vip.lacking.is_empty() && vip.lacking.iter().all(NotAnnounced::is_by_session);
            // Another VIP of the app serves, and no session that is up can take this one.
            let probed = vip.probed.and_then(|age| PENDING.checked_sub(age));
            if fresh {
                self.again(SOON - app.since);
            } else if let Some(left) = probed.filter(|left| !left.is_zero()) {
                self.again(left);
            } else if !(only && carried_else) {
                self.add(Level::Failing, Condition::NotAnnounced, Some(app), || {
                    let cause = cause(vip, peers);
                    format!("{prefix} of app {name} is announced to no peer: {cause}")
                });
            }
        }
        self.paths(app, vip);
        for lack in &vip.lacking {
            let condition = match lack.why {
                NotAnnouncedReason::Family(_) | NotAnnouncedReason::NextHop => Condition::Family,
                _ if vip.announced_to == 0 => continue,
                NotAnnouncedReason::NotYet if fresh => continue,
                NotAnnouncedReason::NoSession
                | NotAnnouncedReason::NotYet
                | NotAnnouncedReason::NoSuchPeer => Condition::SomePeers,
            };
            self.add(Level::Degraded, condition, Some(app), || {
                let (peer, why) = (&lack.peer, lack.why);
                format!("{prefix} of app {name} is not announced to {peer}: {why}")
            });
        }
    }

    /// Lost probes without an ICMP error are only a warning: a filter on the return path, or ECMP to another host,
    /// loses them too.
    fn paths(&mut self, app: &AppStatus, vip: &VipStatus) {
        let refused = |path: &&PathView| matches!(path.proof.finding, Finding::No(_));
        let all = vip.unproven.iter().filter(refused).count() >= vip.announced_to;
        let level = if all { Level::Failing } else { Level::Degraded };
        for PathView { peer, proof } in vip.unproven.iter().filter(refused) {
            self.add(level, Condition::PathNo, Some(app), || {
                let (prefix, name) = (&vip.prefix, &app.name);
                format!("peer {peer} does not forward {prefix} of app {name}: {proof}")
            });
        }
    }

    fn sorted(self) -> Vec<Reason> {
        self.reasons.into_values().flatten().collect()
    }

    fn verdict(self, circumstances: &Circumstances) -> Verdict {
        let keys = self.reasons.keys();
        let conditions = keys.map(|(_, condition)| *condition).collect();
        let worst = self.reasons.keys().next().map(|(level, _)| level.0);
        let level = match circumstances.starting {
            true => Level::Starting,
            false => worst.unwrap_or(Level::Ok),
        };
        let aside = [
            (&self.drained, "drained"),
            (&self.maintained, "in maintenance"),
        ];
        let aside = aside.iter().filter(|(names, _)| names.count > 0);
        let aside = aside
            .map(|(names, what)| format!("{what}: {names}"))
            .collect();
        let warnings = [
            (&self.unmonitored, "announced without any monitor"),
            (
                &self.hiding,
                "a wildcard UDP service without a `vip` monitor",
            ),
            (
                &self.not_seen,
                "path not seen: no probe comes back, and no router says why",
            ),
        ];
        let warnings = warnings.iter().filter(|(names, _)| names.count > 0);
        let warnings = warnings
            .map(|(names, what)| format!("{what}: {names}"))
            .collect();
        Verdict {
            level,
            count: self.count,
            again_in: self.again_in,
            conditions,
            aside,
            warnings,
            summary: circumstances.summary,
            reasons: self.sorted(),
        }
    }
}

impl Names {
    fn add(&mut self, name: &AppName) {
        self.count += 1;
        if self.first.len() < MOST_NAMES {
            self.first.push(name.to_string());
        }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.first.join(", "))?;
        match self.count - self.first.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// What keeps a VIP from all peers.
fn cause(vip: &VipStatus, peers: &[PeerView]) -> String {
    if let Some(problem) = &vip.problem {
        return problem.clone();
    }
    let Some(lack) = vip.lacking.first() else {
        let family = vip.prefix.family();
        return match peers.is_empty() {
            true => "there is no peer".to_owned(),
            false => format!("no peer takes {family} routes"),
        };
    };
    let peer = peers.iter().find(|peer| peer.name == lack.peer);
    match (lack.why, peer) {
        (NotAnnouncedReason::NoSession, Some(peer)) => without_session(peer),
        (why, _) => format!("peer {}: {why}", lack.peer),
    }
}

/// `peer 10.0.0.1: idle: no route to 10.0.0.1`
fn without_session(peer: &PeerView) -> String {
    match &peer.last_error {
        Some(why) => format!("peer {}: {}: {why}", peer.name, peer.state),
        None => format!("peer {}: {}", peer.name, peer.state),
    }
}

/// Reasons of one condition that are named; the others are counted.
pub const MOST_REASONS: usize = 20;
const MOST_NAMES: usize = 10;
/// How long an app may be pending.
const PENDING: Duration = Duration::from_secs(5);
/// How long the routes of an app that came up may be missing.
const SOON: Duration = Duration::from_secs(1);
/// How long a peer's kernel may take to acknowledge what was sent.
const UNANSWERED: Duration = Duration::from_secs(3);

#[cfg(test)]
#[path = "../../tests/unit/verdict.rs"]
mod tests;
