//! One app as plain values. Ages and waits are durations, so that readers need no clock of the core's.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use super::AppState;
use crate::app::{AppName, NatSpec, Source};
use crate::bgp::PathAttributes;
use crate::discovery::PeerName;
use crate::health::{Health, Outcome};
use crate::net::{Family, Prefix};
use crate::path_proof::Proof;

/// One app as `/apps` and the metrics show it.
#[derive(Clone, Debug)]
pub struct AppView {
    pub name: AppName,
    pub source: Source,
    pub state: AppState,
    pub health: Health,
    /// A route for one of its VIPs is announced.
    pub announced: bool,
    /// How long it has been announced as last resort.
    pub last_resort: Option<Duration>,
    /// How long it has been in this state.
    pub since: Duration,
    /// Why it is in this state; never empty.
    pub why: String,
    pub vips: Vec<VipView>,
    pub monitors: Vec<MonitorView>,
    pub nats: Vec<NatView>,
    /// To whom alone it is announced; empty: to all peers.
    pub peers: Vec<PeerName>,
    pub drain_time: Duration,
    /// Drained by name or with all others, in progress or done.
    pub draining: bool,
    pub drained: bool,
    /// `None`: it is not drained.
    pub drain: Option<DrainView>,
    pub maintenance: bool,
    /// Why it is unknown whether the maintenance file exists.
    pub maintenance_problem: Option<String>,
    /// Damping: how long it is still held, and how often it came back in the window.
    pub held_for: Option<Duration>,
    pub flaps: usize,
    /// Transitions since it was first registered, by the state entered.
    pub transitions: BTreeMap<AppState, u64>,
}

/// Who has drained an app or put it into maintenance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainView {
    /// `None`: a state file of an earlier version did not say.
    pub by: Option<String>,
    pub since: DrainSince,
}

impl DrainView {
    /// The time of day of the request; `wall` is the current one.
    pub fn at(&self, wall: SystemTime) -> SystemTime {
        match self.since {
            DrainSince::Ago(age) => wall.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH),
            DrainSince::At(at) => at,
        }
    }
}

/// A drain of one app, as it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainReport {
    pub app: AppName,
    pub steps: DrainSteps,
}

/// The steps of a drain, by their time since it began; `None`: not yet, or unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainSteps {
    /// The routes stay, with the attributes of `when_draining`.
    pub keeps_routes: bool,
    /// The peers acknowledged the withdraw.
    pub acknowledged: Option<Duration>,
    /// No router forwards to this host any more.
    pub forwarding_ended: Option<Duration>,
    /// The last packet for a VIP arrived.
    pub last_packet: Option<Duration>,
    pub done: Option<Duration>,
}

impl DrainSteps {
    /// The slowest of each step.
    pub fn slowest(self, other: &Self) -> Self {
        Self {
            keeps_routes: self.keeps_routes || other.keeps_routes,
            acknowledged: self.acknowledged.max(other.acknowledged),
            forwarding_ended: self.forwarding_ended.max(other.forwarding_ended),
            last_packet: self.last_packet.max(other.last_packet),
            done: self.done.max(other.done),
        }
    }
}

/// `withdraw acknowledged 1 ms, router stopped forwarding 4 ms, last packet 31 ms, done 2.0 s`; what is unknown is left
/// out.
impl fmt::Display for DrainSteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let acknowledged = match self.keeps_routes {
            true => "update acknowledged",
            false => "withdraw acknowledged",
        };
        let mut separator = "";
        for (what, after) in [
            (acknowledged, self.acknowledged),
            ("router stopped forwarding", self.forwarding_ended),
            ("last packet", self.last_packet),
            ("done", self.done),
        ] {
            let Some(after) = after else { continue };
            match after.as_millis() {
                ms @ 0..1000 => write!(f, "{separator}{what} {ms} ms")?,
                _ => write!(f, "{separator}{what} {:.1} s", after.as_secs_f64())?,
            }
            separator = ", ";
        }
        Ok(())
    }
}

/// When it was requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainSince {
    /// Of this process.
    Ago(Duration),
    /// As in the request, which may be older than this process.
    At(SystemTime),
}

/// One VIP as `/apps` shows it.
#[derive(Clone, Debug)]
pub struct VipView {
    pub prefix: Prefix,
    /// The route is announced to at least one peer.
    pub announced: bool,
    /// The address is on the host.
    pub addressed: bool,
    /// The address was added by another program.
    pub foreign: bool,
    /// A route is desired.
    pub wanted: bool,
    /// Why it cannot be announced.
    pub problem: Option<String>,
    /// Another instance of the service holds it.
    pub standby: bool,
    /// The routes sent to peers.
    pub routes: Vec<RouteView>,
    /// Peers that it should be announced to and is not.
    pub lacking: Vec<NotAnnounced>,
    /// Whether the peers that have the route forward to this host.
    pub paths: Vec<PathView>,
}

impl VipView {
    /// Of a VIP that is neither announced nor on the host.
    pub fn new(prefix: Prefix) -> Self {
        Self {
            prefix,
            announced: false,
            addressed: false,
            foreign: false,
            wanted: false,
            problem: None,
            standby: false,
            routes: Vec::new(),
            lacking: Vec::new(),
            paths: Vec::new(),
        }
    }
}

/// One mapping as `/apps` shows it.
#[derive(Clone, Debug)]
pub struct NatView {
    pub spec: NatSpec,
    /// `None`: the counters were not read, or the kernel has no rule for it now.
    pub count: Option<NatCount>,
}

/// What a mapping has carried over all the app's VIPs. The kernel looks at the first packet of each flow
/// and lets the others follow it, so these are flows begun, and the bytes of their first packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatCount {
    pub packets: u64,
    pub bytes: u64,
}

/// One monitor as `/apps` shows it.
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

/// The route of a VIP in a peer's Adj-RIB-Out.
#[derive(Clone, Debug)]
pub struct RouteView {
    pub peer: PeerName,
    /// Attributes as sent.
    pub attributes: PathAttributes,
    /// How long it has been announced with these attributes.
    pub since: Duration,
    /// The peer's TCP has acknowledged it.
    pub acknowledged: bool,
}

/// What probes show of a VIP by way of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathView {
    pub peer: PeerName,
    pub proof: Proof,
}

/// A peer that a VIP should be announced to and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAnnounced {
    pub peer: PeerName,
    pub why: NotAnnouncedReason,
}

impl NotAnnounced {
    /// The session is established but cannot carry the VIP.
    pub fn is_by_session(&self) -> bool {
        matches!(
            self.why,
            NotAnnouncedReason::Family(_) | NotAnnouncedReason::NextHop
        )
    }
}

/// Why a VIP is not announced to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAnnouncedReason {
    NoSession,
    /// The session does not carry the VIP's family.
    Family(Family),
    /// No next hop for the VIP in this session.
    NextHop,
    /// It is queued.
    NotYet,
    /// The app names a peer that is not discovered.
    NoSuchPeer,
}

impl fmt::Display for NotAnnouncedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSession => f.write_str("the session is not established"),
            Self::Family(family) => write!(f, "the session does not carry {family}"),
            Self::NextHop => f.write_str("the session carries no next hop that this host has"),
            Self::NotYet => f.write_str("not sent yet"),
            Self::NoSuchPeer => f.write_str("the app names it, and it is no peer of ours now"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_drain_has_its_known_steps() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let first = DrainSteps {
            keeps_routes: false,
            acknowledged: ms(1),
            forwarding_ended: ms(4),
            last_packet: ms(31),
            done: ms(2001),
        };
        assert_eq!(
            first.to_string(),
            "withdraw acknowledged 1 ms, router stopped forwarding 4 ms, last packet 31 ms, done 2.0 s"
        );
        let mut second = DrainSteps {
            keeps_routes: true,
            last_packet: ms(9960),
            done: ms(10_000),
            ..DrainSteps::default()
        };
        assert_eq!(second.to_string(), "last packet 10.0 s, done 10.0 s");
        second.acknowledged = ms(999);
        let text = second.to_string();
        assert!(text.starts_with("update acknowledged 999 ms, "), "{text}");
        let slowest = DrainSteps {
            forwarding_ended: ms(4),
            ..second
        };
        assert_eq!(first.slowest(&second), slowest);
        assert_eq!(DrainSteps::default().to_string(), "");
    }
}
