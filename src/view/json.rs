//! The core as JSON: `/apps`, `/events`, and `/info` with GoBGP's keys (gobgp.proto, `message Peer`).

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::Value;

use super::time::rfc3339;
use crate::bgp::SessionType;
use crate::bgp::peer::MessageCounts;
use crate::core::{AppView, MonitorView, NatView, PeerView, Transition, VipView};
use crate::health::Outcome;
use crate::net::Family;

/// One app; `wall` is the time of day.
pub fn app(view: &AppView, wall: SystemTime) -> Value {
    value(&App {
        name: view.name.as_str(),
        source: view.source.to_string(),
        state: view.state.as_str(),
        why: &view.why,
        since: rfc3339(before(wall, view.since)),
        age: seconds(view.since),
        healthy: view.health == crate::health::Health::Up,
        announced: view.announced,
        drain_time: precise(view.drain_time),
        draining: view.draining,
        drained: view.drained,
        maintenance: view.maintenance,
        maintenance_problem: view.maintenance_problem.as_deref(),
        held_for: view.held_for.map(seconds),
        flaps: view.flaps,
        vips: view.vips.iter().map(|v| v.prefix.to_string()).collect(),
        vip_status: view.vips.iter().map(Vip::from).collect(),
        monitors: view.monitors.iter().map(Monitor::from).collect(),
        nats: view.nats.iter().map(Nat::from).collect(),
    })
}

/// What a struct of texts, numbers and lists is as JSON: that cannot fail.
fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

#[derive(Serialize)]
struct App<'a> {
    name: &'a str,
    source: String,
    state: &'static str,
    why: &'a str,
    since: String,
    age: f64,
    healthy: bool,
    announced: bool,
    drain_time: f64,
    draining: bool,
    drained: bool,
    maintenance: bool,
    maintenance_problem: Option<&'a str>,
    held_for: Option<f64>,
    flaps: usize,
    vips: Vec<String>,
    vip_status: Vec<Vip<'a>>,
    monitors: Vec<Monitor<'a>>,
    nats: Vec<Nat>,
}

#[derive(Serialize)]
struct Vip<'a> {
    vip: String,
    announced: bool,
    addressed: bool,
    foreign: bool,
    problem: Option<&'a str>,
}

impl<'a> From<&'a VipView> for Vip<'a> {
    fn from(view: &'a VipView) -> Self {
        Self {
            vip: view.prefix.to_string(),
            announced: view.announced,
            addressed: view.addressed,
            foreign: view.foreign,
            problem: view.problem.as_deref(),
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
            packets: view.counted.map(|counted| counted.packets),
            bytes: view.counted.map(|counted| counted.bytes),
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
            Outcome::Fail(_) => "fail",
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
fn shown_spec(spec: &str) -> &str {
    let open = ["port:", "tcp:", "dns:", "heartbeat:"];
    if spec == "consul" || open.iter().any(|kind| spec.starts_with(kind)) {
        spec
    } else {
        spec.split(':').next().unwrap_or_default()
    }
}

/// The last transitions, oldest first.
pub fn events<'a>(
    transitions: impl IntoIterator<Item = &'a Transition>,
    now: Instant,
    wall: SystemTime,
) -> Value {
    let one = |t: &Transition| {
        let age = now.saturating_duration_since(t.at);
        value(&Event {
            seq: t.seq,
            app: t.app.as_str(),
            from: t.from.as_str(),
            to: t.to.as_str(),
            why: &t.why,
            at: rfc3339(before(wall, age)),
            age: seconds(age),
        })
    };
    transitions.into_iter().map(one).collect()
}

#[derive(Serialize)]
struct Event<'a> {
    seq: u64,
    app: &'a str,
    from: &'static str,
    to: &'static str,
    why: &'a str,
    at: String,
    age: f64,
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
    state: State<'a>,
    timers: Timers,
    transport: Transport,
    afi_safis: Vec<AfiSafi>,
}

/// As the configuration says, 0 for any AS; in [`State`] what the peer said.
#[derive(Serialize)]
struct Conf<'a> {
    neighbor_address: String,
    neighbor_interface: Option<&'a str>,
    peer_as: u32,
    local_as: u32,
    r#type: u8,
}

#[derive(Serialize)]
struct State<'a> {
    neighbor_address: String,
    peer_as: u32,
    local_as: u32,
    r#type: u8,
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
}

/// protobuf's: the second at which the session came up.
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
                neighbor_address: view.remote.to_string(),
                neighbor_interface: view.interface.as_deref(),
                peer_as: configured_as,
                local_as: view.local_as.get(),
                r#type,
            },
            state: State {
                neighbor_address: view.remote.to_string(),
                peer_as: known_as,
                local_as: view.local_as.get(),
                r#type,
                session_state: view.state.number(),
                session_state_name: match view.no_carrier {
                    true => "no carrier".to_owned(),
                    false => view.state.to_string(),
                },
                router_id: negotiated.map_or_else(String::new, |n| n.peer_router_id.to_string()),
                local_router_id: view.router_id.to_string(),
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

/// Seconds with milliseconds: more digits of an age are noise.
fn seconds(duration: Duration) -> f64 {
    decimal(duration.as_secs(), duration.subsec_millis(), 3)
}

/// Seconds with microseconds: many checks take less than a millisecond.
fn precise(duration: Duration) -> f64 {
    decimal(duration.as_secs(), duration.subsec_micros(), 6)
}

/// The number nearest to what is written, so that it is shown with no more digits than that.
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

    /// Byte by byte: scripts read it with whatever they have.
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
                app(&sample::awkward(), wall()),
                include_str!("../../tests/data/view/app.json"),
            ),
        ] {
            assert_eq!(format!("{value}\n"), text);
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
        let text = app(&sample::awkward(), wall()).to_string();
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
