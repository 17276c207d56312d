//! The core as JSON: `/apps`, `/events`, and `/info` with GoBGP's keys (gobgp.proto, `message Peer`).

mod gobgp;
mod route;
mod verdict;

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::Value;

use super::time::rfc3339;
use super::verdict::{Level, Reason};
use crate::bgp::SessionType;
use crate::bgp::peer::MessageCounts;
use crate::core::{AppView, ChangeOf, HistoryEvent, MonitorView, NatView, PeerView, VipView};
use crate::health::Outcome;
use crate::net::Family;
use crate::registry::DrainView;
use gobgp::{Any, EbgpMultihop};
use route::{NotAnnouncedTo, Path, Route};
use verdict::Cause;
pub use verdict::verdict;

/// One app with its verdict; `wall` is the time of day.
pub fn app(view: &AppView, standing: &(Level, Vec<Reason>), wall: SystemTime) -> Value {
    let (level, reasons) = standing;
    value(&App {
        name: view.name.as_str(),
        source: view.source.to_string(),
        state: view.state.as_str(),
        verdict: level.as_str(),
        reasons: reasons.iter().map(Cause::from).collect(),
        why: &view.why,
        since: rfc3339(before(wall, view.since)),
        age: seconds(view.since),
        healthy: view.health == crate::health::Health::Up,
        announced: view.announced,
        last_resort: view.last_resort.is_some(),
        last_resort_since: view.last_resort.map(|age| rfc3339(before(wall, age))),
        drain_time: precise(view.drain_time),
        draining: view.draining,
        drained: view.drained,
        drain: view.drain.as_ref().map(|drain| Drain::new(drain, wall)),
        maintenance: view.maintenance,
        maintenance_problem: view.maintenance_problem.as_deref(),
        held_for: view.held_for.map(seconds),
        flaps: view.flaps,
        vips: view.vips.iter().map(|v| v.prefix.to_string()).collect(),
        vip_status: view.vips.iter().map(|vip| Vip::new(vip, wall)).collect(),
        monitors: view.monitors.iter().map(Monitor::from).collect(),
        nats: view.nats.iter().map(Nat::from).collect(),
        peers: view.peers.iter().map(ToString::to_string).collect(),
    })
}

/// As JSON; a struct of texts, numbers and lists can always be serialized.
fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

#[derive(Serialize)]
struct App<'a> {
    name: &'a str,
    source: String,
    state: &'static str,
    /// The level of the verdict on this app.
    verdict: &'static str,
    reasons: Vec<Cause<'a>>,
    why: &'a str,
    since: String,
    age: f64,
    healthy: bool,
    announced: bool,
    last_resort: bool,
    last_resort_since: Option<String>,
    drain_time: f64,
    draining: bool,
    drained: bool,
    drain: Option<Drain<'a>>,
    maintenance: bool,
    maintenance_problem: Option<&'a str>,
    held_for: Option<f64>,
    flaps: usize,
    vips: Vec<String>,
    vip_status: Vec<Vip<'a>>,
    monitors: Vec<Monitor<'a>>,
    nats: Vec<Nat>,
    /// The only peers that it is announced to; empty: all.
    peers: Vec<String>,
}

/// Why it is drained: by request, by the maintenance file, or at the exit of the process.
#[derive(Serialize)]
struct Drain<'a> {
    by: Option<&'a str>,
    since: String,
    age: f64,
}

impl<'a> Drain<'a> {
    fn new(view: &'a DrainView, wall: SystemTime) -> Self {
        let since = view.at(wall);
        Self {
            by: view.by.as_deref(),
            since: rfc3339(since),
            age: seconds(wall.duration_since(since).unwrap_or_default()),
        }
    }
}

#[derive(Serialize)]
struct Vip<'a> {
    vip: String,
    announced: bool,
    addressed: bool,
    foreign: bool,
    /// A route is desired.
    wanted: bool,
    problem: Option<&'a str>,
    routes: Vec<Route>,
    not_announced_to: Vec<NotAnnouncedTo>,
    paths: Vec<Path>,
}

impl<'a> Vip<'a> {
    fn new(view: &'a VipView, wall: SystemTime) -> Self {
        Self {
            vip: view.prefix.to_string(),
            announced: view.announced,
            addressed: view.addressed,
            foreign: view.foreign,
            wanted: view.wanted,
            problem: view.problem.as_deref(),
            routes: Route::all(view, wall),
            not_announced_to: view.lacking.iter().map(NotAnnouncedTo::from).collect(),
            paths: view.paths.iter().map(Path::from).collect(),
        }
    }
}

#[derive(Serialize)]
struct Nat {
    nat: String,
    /// None while the kernel has no rule for it.
    packets: Option<u64>,
    bytes: Option<u64>,
}

impl From<&NatView> for Nat {
    fn from(view: &NatView) -> Self {
        Self {
            nat: view.spec.to_string(),
            packets: view.count.map(|counted| counted.packets),
            bytes: view.count.map(|counted| counted.bytes),
        }
    }
}

#[derive(Serialize)]
struct Monitor<'a> {
    name: &'a str,
    monitor: &'a str,
    health: String,
    result: Option<&'static str>,
    message: Option<&'a str>,
    duration: Option<f64>,
    age: Option<f64>,
}

impl<'a> From<&'a MonitorView> for Monitor<'a> {
    fn from(view: &'a MonitorView) -> Self {
        let result = view.last.as_ref().map(|last| match last {
            Outcome::Pass(_) => "pass",
            Outcome::Fail(_) | Outcome::NoListener(_) | Outcome::TakenOut(_) => "fail",
            Outcome::Unavailable(_) => "unavailable",
        });
        Self {
            name: &view.label,
            monitor: shown_spec(&view.spec),
            health: view.health.to_string(),
            result,
            message: view.last.as_ref().map(Outcome::message),
            duration: view.took.map(precise),
            age: view.age.map(seconds),
        }
    }
}

/// A monitor as text, where it cannot hold a secret: commands and URLs show their kind alone.
pub(super) fn shown_spec(spec: &str) -> &str {
    let open = ["port:", "tcp:", "dns:", "heartbeat:"];
    if spec == "consul" || open.iter().any(|kind| spec.starts_with(kind)) {
        spec
    } else {
        spec.split(':').next().unwrap_or_default()
    }
}

/// The last changes of apps and peers, oldest first.
pub fn events<'a>(
    history: impl IntoIterator<Item = &'a HistoryEvent>,
    now: Instant,
    wall: SystemTime,
) -> Value {
    let one = |event: &HistoryEvent| {
        let age = now.saturating_duration_since(event.at);
        let change = &event.change;
        let (app, peer) = match &change.of {
            ChangeOf::App(app) => (Some(app.as_str()), None),
            ChangeOf::Peer(peer) => (None, Some(peer.to_string())),
        };
        value(&Event {
            seq: event.seq,
            time: rfc3339(before(wall, age)),
            last_resort: change.last_resort,
            age: seconds(age),
            kind: change.kind.as_str(),
            app,
            peer,
            from: change.from,
            to: change.to,
            why: &change.why,
        })
    };
    history.into_iter().map(one).collect()
}

#[derive(Serialize)]
struct Event<'a> {
    /// Counts from 1 and never repeats.
    seq: u64,
    time: String,
    /// The app is announced as last resort from then on.
    last_resort: bool,
    age: f64,
    kind: &'static str,
    /// Of an app or of a peer, never of both.
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    from: &'a str,
    to: &'a str,
    why: &'a str,
}

/// `/info`: the first peer as GoCast shows its only one, all of them under `peers`.
pub fn info(peers: &[PeerView], wall: SystemTime) -> Value {
    let peers: Vec<Peer<'_>> = peers.iter().map(|p| Peer::new(p, wall)).collect();
    let first = peers.first();
    value(&Info {
        first,
        peers: &peers,
    })
}

#[derive(Serialize)]
struct Info<'a> {
    #[serde(flatten)]
    first: Option<&'a Peer<'a>>,
    peers: &'a [Peer<'a>],
}

#[derive(Serialize)]
struct Peer<'a> {
    name: String,
    conf: Conf<'a>,
    ebgp_multihop: EbgpMultihop,
    state: State<'a>,
    timers: Timers,
    transport: Transport,
    afi_safis: Vec<AfiSafi>,
}

/// As configured, 0 for any AS; in [`State`] as received in OPEN.
#[derive(Serialize)]
struct Conf<'a> {
    neighbor_address: String,
    neighbor_interface: Option<&'a str>,
    peer_as: u32,
    local_as: u32,
    /// 0: iBGP, 1: eBGP.
    peer_type: u8,
    r#type: u8,
}

#[derive(Serialize)]
struct State<'a> {
    neighbor_address: String,
    peer_as: u32,
    local_as: u32,
    peer_type: u8,
    r#type: u8,
    /// What the peer's OPEN offered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remote_cap: Vec<Any>,
    session_state: u8,
    session_state_name: String,
    router_id: String,
    local_router_id: String,
    hostname: Option<&'a str>,
    messages: Messages,
    flops: u64,
    announced: usize,
    age: f64,
    last_error: Option<&'a str>,
    bfd_up: Option<bool>,
}

#[derive(Serialize)]
struct Messages {
    received: Counts,
    sent: Counts,
}

#[derive(Serialize)]
struct Counts {
    open: u64,
    update: u64,
    notification: u64,
    keepalive: u64,
    refresh: u64,
    total: u64,
}

#[derive(Serialize)]
struct Timers {
    config: TimersConfig,
    state: TimersState,
}

#[derive(Serialize)]
struct TimersConfig {
    hold_time: u16,
    keepalive_interval: u16,
}

#[derive(Serialize)]
struct TimersState {
    negotiated_hold_time: u64,
    keepalive_interval: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime: Option<Timestamp>,
    downtime: Timestamp,
}

/// protobuf's: the second at which the session came up or ended.
#[derive(Serialize)]
struct Timestamp {
    seconds: u64,
}

#[derive(Serialize)]
struct Transport {
    local_address: Option<String>,
    remote_port: u16,
    passive_mode: bool,
}

#[derive(Serialize)]
struct AfiSafi {
    config: FamilyState,
    state: FamilyState,
}

#[derive(Serialize)]
struct FamilyState {
    family: FamilyNumbers,
    enabled: bool,
}

#[derive(Serialize)]
struct FamilyNumbers {
    afi: u16,
    safi: u8,
}

impl<'a> Peer<'a> {
    fn new(view: &'a PeerView, wall: SystemTime) -> Self {
        let negotiated = view.negotiated.as_ref();
        let configured_as = view.peer_as.map_or(0, |asn| asn.get());
        let known_as = negotiated.map_or(configured_as, |n| n.peer_as.get());
        let r#type = match negotiated.map(|n| n.session) {
            Some(SessionType::Ibgp) => 0,
            Some(SessionType::Ebgp) => 1,
            None => u8::from(known_as != view.local_as.get()),
        };
        Self {
            name: view.name.to_string(),
            conf: Conf {
                neighbor_address: shown(view.remote),
                neighbor_interface: view.interface.as_deref(),
                peer_as: configured_as,
                local_as: view.local_as.get(),
                peer_type: r#type,
                r#type,
            },
            ebgp_multihop: view.ttl.into(),
            state: State {
                neighbor_address: shown(view.remote),
                peer_as: known_as,
                local_as: view.local_as.get(),
                peer_type: r#type,
                r#type,
                remote_cap: gobgp::capabilities(negotiated),
                session_state: view.state.number(),
                session_state_name: match view.no_carrier {
                    true => "no carrier".to_owned(),
                    false => view.state.to_string(),
                },
                router_id: negotiated.map_or_else(String::new, |n| n.peer_router_id.to_string()),
                local_router_id: shown(view.router_id),
                hostname: negotiated.and_then(|n| n.hostname.as_deref()),
                messages: Messages {
                    received: (&view.counters.received).into(),
                    sent: (&view.counters.sent).into(),
                },
                flops: view.flaps,
                announced: view.announced,
                age: seconds(view.since),
                last_error: view.last_error.as_deref(),
                bfd_up: view.bfd_up,
            },
            timers: Timers::new(view, wall),
            transport: Transport {
                local_address: view.local.map(|addr| addr.to_string()),
                remote_port: view.port,
                passive_mode: view.passive,
            },
            afi_safis: view
                .families
                .iter()
                .map(|f| AfiSafi::new(view, *f))
                .collect(),
        }
    }
}

/// Nothing where it is not known, as GoBGP does.
fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

impl Timers {
    fn new(view: &PeerView, wall: SystemTime) -> Self {
        let hold_time = view.negotiated.as_ref().and_then(|n| n.hold_time);
        let negotiated_hold_time = hold_time.map_or(0, |t| t.as_secs());
        let up_at = view.uptime.map(|uptime| before(wall, uptime));
        let seconds = |at: SystemTime| {
            let since = at.duration_since(SystemTime::UNIX_EPOCH);
            since.unwrap_or_default().as_secs()
        };
        Self {
            config: TimersConfig {
                hold_time: view.hold_time,
                keepalive_interval: view.hold_time / 3,
            },
            state: TimersState {
                negotiated_hold_time,
                keepalive_interval: negotiated_hold_time / 3,
                uptime: up_at.map(|at| Timestamp {
                    seconds: seconds(at),
                }),
                downtime: Timestamp {
                    seconds: seconds(before(wall, view.downtime)),
                },
            },
        }
    }
}

impl AfiSafi {
    fn new(view: &PeerView, family: Family) -> Self {
        let negotiated = view.negotiated.as_ref();
        let numbers = crate::bgp::AfiSafi::from(family);
        let shown = |enabled| FamilyState {
            family: FamilyNumbers {
                afi: numbers.afi,
                safi: numbers.safi,
            },
            enabled,
        };
        Self {
            config: shown(true),
            state: shown(negotiated.is_some_and(|n| n.families.contains(&family))),
        }
    }
}

impl From<&MessageCounts> for Counts {
    fn from(counts: &MessageCounts) -> Self {
        Self {
            open: counts.open,
            update: counts.update,
            notification: counts.notification,
            keepalive: counts.keepalive,
            refresh: counts.route_refresh,
            total: counts.total(),
        }
    }
}

/// Seconds with three digits, for ages.
fn seconds(duration: Duration) -> f64 {
    decimal(duration.as_secs(), duration.subsec_millis(), 3)
}

/// Seconds with six digits: many checks take less than a millisecond.
pub(super) fn precise(duration: Duration) -> f64 {
    decimal(duration.as_secs(), duration.subsec_micros(), 6)
}

/// The number nearest to this decimal, so that it is printed with no more digits.
fn decimal(whole: u64, fraction: u32, digits: usize) -> f64 {
    format!("{whole}.{fraction:0digits$}")
        .parse()
        .unwrap_or_default()
}

fn before(wall: SystemTime, age: Duration) -> SystemTime {
    wall.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::sample;

    fn wall() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_100)
    }

    /// Byte by byte: scripts may not parse it as JSON.
    #[test]
    fn the_text_is_what_it_has_always_been() {
        let peers = [sample::established(), sample::connecting()];
        for (value, text) in [
            (
                info(&peers, wall()),
                include_str!("../../tests/data/view/info.json"),
            ),
            (info(&[], wall()), "{\"peers\":[]}\n"),
            (
                app(&sample::awkward(), &(Level::Ok, Vec::new()), wall()),
                include_str!("../../tests/data/view/app.json"),
            ),
        ] {
            assert_eq!(format!("{value}\n"), text);
        }
    }

    /// Keys and types of GoBGP's `message Peer`, as GoCast's encoding/json has them; zeros are left out there.
    #[test]
    fn what_gocast_prints_of_a_peer_is_there() {
        let gocast: Value =
            serde_json::from_str(include_str!("../../tests/data/view/gocast.json")).unwrap();
        let ours = info(&[sample::established()], wall());
        assert_eq!(lacks(&gocast, &ours, "info"), Vec::<String>::new());
    }

    /// Recorded from GoBGP 3's own Go types by `tests/data/view/gobgp.go`; GoCast's GoBGP 2 has another package, and
    /// calls the AS numbers `peer_as` and `local_as`.
    #[test]
    fn what_go_prints_of_gobgps_types_is_there() {
        let recorded = include_str!("../../tests/data/view/gobgp.json");
        let gobgp2 = recorded
            .replace("_asn\"", "_as\"")
            .replace("/apipb.", "/gobgpapi.");
        let gobgp: Value = serde_json::from_str(&gobgp2).unwrap();
        let ours = info(&[sample::established()], wall());
        assert_eq!(lacks(&gobgp, &ours, "info"), Vec::<String>::new());
    }

    /// Keys of `theirs` that `ours` lacks, or that have another value there.
    fn lacks(theirs: &Value, ours: &Value, at: &str) -> Vec<String> {
        match (theirs, ours) {
            (Value::Object(theirs), Value::Object(ours)) => theirs
                .iter()
                .flat_map(|(key, value)| match ours.get(key) {
                    Some(found) => lacks(value, found, &format!("{at}.{key}")),
                    None => vec![format!("{at}.{key} is not there")],
                })
                .collect(),
            (Value::Array(theirs), Value::Array(ours)) if theirs.len() <= ours.len() => theirs
                .iter()
                .zip(ours)
                .flat_map(|(theirs, ours)| lacks(theirs, ours, &format!("{at}[]")))
                .collect(),
            _ if theirs == ours => Vec::new(),
            _ => vec![format!("{at} is {ours}, not {theirs}")],
        }
    }

    #[test]
    fn info_has_gobgps_keys() {
        let info = info(&[sample::established(), sample::connecting()], wall());
        assert_eq!(info["conf"]["neighbor_address"], "10.0.0.1");
        assert_eq!(info["conf"]["peer_as"], 65000);
        assert_eq!(info["conf"]["local_as"], 65001);
        assert_eq!(info["state"]["session_state"], 6);
        assert_eq!(info["state"]["peer_as"], 65000);
        assert_eq!(info["state"]["router_id"], "10.0.0.1");
        assert_eq!(info["state"]["messages"]["received"]["total"], 6);
        assert_eq!(info["state"]["messages"]["sent"]["update"], 3);
        assert_eq!(info["timers"]["config"]["hold_time"], 90);
        assert_eq!(info["timers"]["state"]["negotiated_hold_time"], 30);
        assert_eq!(info["timers"]["state"]["uptime"]["seconds"], 1_700_000_087);
        assert_eq!(info["afi_safis"][0]["config"]["family"]["afi"], 1);
        assert_eq!(info["afi_safis"][0]["state"]["enabled"], true);
        assert_eq!(info["afi_safis"][1]["state"]["enabled"], false);
        assert_eq!(info["peers"].as_array().unwrap().len(), 2);
        let second = &info["peers"][1];
        assert_eq!(second["name"], "fe80::1%eth0");
        assert_eq!(second["state"]["session_state"], 3);
        assert_eq!(second["state"]["peer_as"], 0);
        assert_eq!(second["state"]["router_id"], "");
        assert_eq!(second["state"]["last_error"], "connection refused");
        assert_eq!(second["timers"]["state"]["uptime"], Value::Null);
    }

    #[test]
    fn an_app_is_json_whatever_its_texts_hold() {
        let standing = (Level::Ok, Vec::new());
        let text = app(&sample::awkward(), &standing, wall()).to_string();
        assert!(!text.contains("secret"));
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["name"], "a\"b\\c</script>");
        assert_eq!(back["state"], "held_down");
        assert_eq!(back["held_for"], 1.25);
        assert_eq!(back["vip_status"][0]["problem"], "no next hop");
        assert_eq!(back["nats"][0]["nat"], "udp:53:8053");
        assert_eq!(back["nats"][0]["packets"], 7);
        assert_eq!(back["nats"][0]["bytes"], 420);
        assert_eq!(back["monitors"][0]["monitor"], "http");
        assert_eq!(back["monitors"][0]["message"], "\"<b>\u{1b}");
        assert_eq!(back["monitors"][0]["age"], Value::Null);
    }

    #[test]
    fn spans_have_no_more_digits_than_they_mean() {
        assert_eq!(
            seconds(Duration::from_micros(1_570_999)).to_string(),
            "1.57"
        );
        assert_eq!(
            precise(Duration::from_nanos(148_722)).to_string(),
            "0.000148"
        );
        assert_eq!(seconds(Duration::from_secs(90)).to_string(), "90");
    }

    #[test]
    fn monitors_that_may_hold_secrets_show_their_kind() {
        for (spec, shown) in [
            ("port:udp:53", "port:udp:53"),
            ("consul", "consul"),
            ("dns:a.example@127.0.0.1:53", "dns:a.example@127.0.0.1:53"),
            ("exec:curl -u a:b http://h", "exec"),
            ("https://h/?token=x", "https"),
        ] {
            assert_eq!(shown_spec(spec), shown);
        }
    }
}
