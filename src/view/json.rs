//! The core as JSON: `/apps`, `/events`, and `/info` with GoBGP's keys (gobgp.proto, `message Peer`).

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::time::rfc3339;
use crate::bgp::SessionType;
use crate::bgp::peer::MessageCounts;
use crate::core::{AppView, MonitorView, NatView, PeerView, Transition, VipView};
use crate::health::Outcome;
use crate::net::Family;

/// One app; `wall` is the time of day.
pub fn app(view: &AppView, wall: SystemTime) -> Value {
    json!({
        "name": view.name.as_str(),
        "source": view.source.to_string(),
        "state": view.state.as_str(),
        "why": view.why,
        "since": rfc3339(before(wall, view.since)),
        "age": seconds(view.since),
        "healthy": view.health == crate::health::Health::Up,
        "announced": view.announced,
        "drain_time": precise(view.drain_time),
        "draining": view.draining,
        "drained": view.drained,
        "maintenance": view.maintenance,
        "maintenance_problem": view.maintenance_problem,
        "held_for": view.held_for.map(seconds),
        "flaps": view.flaps,
        "vips": view.vips.iter().map(|v| v.prefix.to_string()).collect::<Vec<_>>(),
        "vip_status": view.vips.iter().map(vip).collect::<Vec<_>>(),
        "monitors": view.monitors.iter().map(monitor).collect::<Vec<_>>(),
        "nats": view.nats.iter().map(nat).collect::<Vec<_>>(),
    })
}

fn vip(view: &VipView) -> Value {
    json!({
        "vip": view.prefix.to_string(),
        "announced": view.announced,
        "addressed": view.addressed,
        "foreign": view.foreign,
        "problem": view.problem,
    })
}

/// `packets` and `bytes` are null while the kernel has no rule for it.
fn nat(view: &NatView) -> Value {
    json!({
        "nat": view.spec.to_string(),
        "packets": view.counted.map(|counted| counted.packets),
        "bytes": view.counted.map(|counted| counted.bytes),
    })
}

fn monitor(view: &MonitorView) -> Value {
    let result = view.last.as_ref().map(|last| match last {
        Outcome::Pass(_) => "pass",
        Outcome::Fail(_) => "fail",
        Outcome::Unavailable(_) => "unavailable",
    });
    json!({
        "name": view.label,
        "monitor": shown_spec(&view.spec),
        "health": view.health.to_string(),
        "result": result,
        "message": view.last.as_ref().map(Outcome::message),
        "duration": view.took.map(precise),
        "age": view.age.map(seconds),
    })
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
        json!({
            "seq": t.seq,
            "app": t.app.as_str(),
            "from": t.from.as_str(),
            "to": t.to.as_str(),
            "why": t.why,
            "at": rfc3339(before(wall, age)),
            "age": seconds(age),
        })
    };
    transitions.into_iter().map(one).collect()
}

/// `/info`: the first peer as GoCast shows its only one, all of them under `peers`.
pub fn info(peers: &[PeerView], wall: SystemTime) -> Value {
    let all: Vec<Value> = peers.iter().map(|p| peer(p, wall)).collect();
    let mut first = all.first().cloned().unwrap_or_else(|| json!({}));
    if let Value::Object(map) = &mut first {
        map.insert("peers".to_owned(), Value::Array(all));
    }
    first
}

fn peer(view: &PeerView, wall: SystemTime) -> Value {
    let negotiated = view.negotiated.as_ref();
    // GoBGP shows what the configuration says, 0 for any, and in `state` what the peer said.
    let configured_as = view.peer_as.map_or(0, |asn| asn.get());
    let known_as = negotiated.map_or(configured_as, |n| n.peer_as.get());
    let peer_type = match negotiated.map(|n| n.session) {
        Some(SessionType::Ibgp) => 0,
        Some(SessionType::Ebgp) => 1,
        None => u8::from(known_as != view.local_as.get()),
    };
    let hold = negotiated
        .and_then(|n| n.hold_time)
        .map_or(0, |t| t.as_secs());
    json!({
        "name": view.name.to_string(),
        "conf": {
            "neighbor_address": view.remote.to_string(),
            "neighbor_interface": view.interface,
            "peer_as": configured_as,
            "local_as": view.local_as.get(),
            "type": peer_type,
        },
        "state": {
            "neighbor_address": view.remote.to_string(),
            "peer_as": known_as,
            "local_as": view.local_as.get(),
            "type": peer_type,
            "session_state": view.state.number(),
            "session_state_name": view.state.to_string(),
            "router_id": negotiated.map_or_else(String::new, |n| n.peer_router_id.to_string()),
            "local_router_id": view.router_id.to_string(),
            "hostname": negotiated.and_then(|n| n.hostname.clone()),
            "messages": {
                "received": messages(&view.counters.received),
                "sent": messages(&view.counters.sent),
            },
            "flops": view.flaps,
            "announced": view.announced,
            "age": seconds(view.since),
            "last_error": view.last_error,
            "bfd_up": view.bfd_up,
        },
        "timers": timers(view, hold, wall),
        "transport": {
            "local_address": view.local.map(|a| a.to_string()),
            "remote_port": view.port,
            "passive_mode": view.passive,
        },
        "afi_safis": afi_safis(view),
    })
}

/// `uptime` is GoBGP's: a protobuf Timestamp, the second at which the session came up.
fn timers(view: &PeerView, negotiated_hold: u64, wall: SystemTime) -> Value {
    let mut state = json!({
        "negotiated_hold_time": negotiated_hold,
        "keepalive_interval": negotiated_hold / 3,
    });
    if let (Some(uptime), Value::Object(map)) = (view.uptime, &mut state) {
        let up_at = before(wall, uptime)
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        map.insert("uptime".to_owned(), json!({ "seconds": up_at.as_secs() }));
    }
    json!({
        "config": {
            "hold_time": view.hold_time,
            "keepalive_interval": view.hold_time / 3,
        },
        "state": state,
    })
}

fn afi_safis(view: &PeerView) -> Value {
    let one = |family: &Family| {
        let afi = match family {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        };
        let enabled = view
            .negotiated
            .as_ref()
            .is_some_and(|n| n.families.contains(family));
        json!({
            "config": { "family": { "afi": afi, "safi": 1 }, "enabled": true },
            "state": { "family": { "afi": afi, "safi": 1 }, "enabled": enabled },
        })
    };
    view.families.iter().map(one).collect()
}

fn messages(counts: &MessageCounts) -> Value {
    json!({
        "open": counts.open,
        "update": counts.update,
        "notification": counts.notification,
        "keepalive": counts.keepalive,
        "refresh": counts.route_refresh,
        "total": counts.total(),
    })
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
