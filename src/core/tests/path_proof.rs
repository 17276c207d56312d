//! Probes of VIPs by way of the routers: which, when, and what is made of the answers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::bench::{Bench, Router, config_with, network, prefix, secs, session_events};
use crate::bgp::peer;
use crate::config::Config;
use crate::core::Event;
use crate::discovery::{FirstHop, Network, PeerName, PeerNetwork};
use crate::net::Family;
use crate::path_proof::Unproven;

const APP: &str = "{name: dns, vip: 192.0.2.53/32, monitors: [\"port:udp:53\"]}";
const VIP: &str = "192.0.2.53/32";

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn by(gateway: &str) -> FirstHop {
    FirstHop {
        interface: 2,
        gateway: addr(gateway),
        is_behind: false,
    }
}

/// Probes leave by the router that is the peer.
pub(super) fn routed() -> Network {
    let mut network = network();
    for peer in network.peers.values_mut() {
        let hop = by(&peer.remote.to_string());
        peer.first_hops = vec![(Family::Ipv4, Ok(hop))];
    }
    network
}

/// Without a hold time: no keepalives are sent here.
fn config(agent: &str, apps: &str) -> Config {
    config_with("hold_time: 0", agent, apps)
}

/// Healthy, with a session and a router that forwards.
fn announced(agent: &str, app: &str) -> Bench {
    let mut bench = Bench::with_outcomes(config(agent, app), &[("port:udp:53", true)]);
    bench.router = Some(Router::new());
    bench.event(Event::Network(routed()));
    establish(&mut bench);
    bench
}

fn establish(bench: &mut Bench) {
    session_events()
        .into_iter()
        .for_each(|event| bench.event(event));
}

fn router(bench: &mut Bench) -> &mut Router {
    bench.router.as_mut().unwrap()
}

/// What is shown of a VIP, for each peer.
fn proofs(bench: &Bench, vip: &str) -> Vec<String> {
    let paths = bench.core.path_views(&prefix(vip)).into_iter();
    paths
        .map(|path| format!("{} {}", path.peer, path.proof))
        .collect()
}

#[test]
fn an_announced_vip_is_probed_by_way_of_its_peer_and_the_time_is_counted() {
    let mut bench = announced("", APP);
    bench.advance(Duration::from_millis(100));
    assert_eq!(proofs(&bench, VIP), ["10.0.0.1 yes (16/16)"]);
    let probes = &router(&mut bench).probes;
    let (_, vip, egress) = &probes[0];
    assert_eq!(
        (*vip, egress.source),
        (addr("192.0.2.53"), addr("10.0.0.2"))
    );
    assert_eq!(
        (egress.interface, egress.name.as_str(), egress.gateway),
        (2, "eth0", addr("10.0.0.1"))
    );
    let times = bench.core.forwarding_times();
    assert_eq!((times.count, times.within), (1, [1; 11]));
    let view = bench.app("dns");
    let path = &view.vips[0].paths[0];
    assert_eq!(path.proof.forwarded_after, Some(Duration::ZERO));
    assert_eq!(bench.core.path_returns(&prefix(VIP)), Some(true));
}

#[test]
fn a_router_that_does_not_forward_is_named_and_the_status_changes_with_it() {
    let mut bench = announced("", APP);
    bench.advance(secs(1));
    bench.core.take_status_changed();
    router(&mut bench).forwards = false;
    bench.advance(secs(33));
    assert_eq!(
        proofs(&bench, VIP),
        ["10.0.0.1 no (0/16: 10.0.0.1 says no route)"]
    );
    assert!(bench.core.take_status_changed());
    router(&mut bench).forwards = true;
    bench.advance(secs(30));
    assert_eq!(proofs(&bench, VIP), ["10.0.0.1 yes (16/16)"]);
    assert!(bench.core.take_status_changed());
}

#[test]
fn what_is_not_announced_is_not_probed() {
    let mut bench = Bench::with_outcomes(config("", APP), &[("port:udp:53", true)]);
    bench.router = Some(Router::new());
    bench.event(Event::Network(routed()));
    bench.advance(secs(60));
    assert!(router(&mut bench).probes.is_empty(), "there is no session");
    establish(&mut bench);
    bench.advance(secs(1));
    assert!(!router(&mut bench).probes.is_empty());
    bench.says("port:udp:53", false);
    bench.advance(secs(20));
    assert!(!bench.is_announced(VIP));
    bench.advance(secs(60));
    let before = router(&mut bench).probes.len();
    bench.advance(secs(60));
    let after = router(&mut bench).probes.len();
    // The router of this test forwards forever.
    assert!(after - before <= 13, "one in 5 s: {}", after - before);
    bench.advance(secs(300));
    assert!(router(&mut bench).counters.is_empty(), "it is given up");
}

#[test]
fn after_a_withdrawal_it_is_known_when_the_router_stops() {
    let mut bench = announced("", APP);
    bench.advance(secs(10));
    let begun = bench.now;
    bench.core.drain(begun, None);
    bench.reconcile();
    assert!(!bench.is_announced(VIP));
    assert_eq!(proofs(&bench, VIP), Vec::<String>::new());
    assert_eq!(bench.core.path_returns(&prefix(VIP)), Some(true));
    bench.advance(Duration::from_millis(4));
    router(&mut bench).forwards = false;
    bench.advance(secs(2));
    assert_eq!(bench.core.path_returns(&prefix(VIP)), Some(false));
    let stopped = bench.core.path_stopped_at(&prefix(VIP));
    assert_eq!(stopped, Some(begun + Duration::from_millis(5)));
}

#[test]
fn a_lost_session_ends_the_proof() {
    let mut bench = announced("", APP);
    bench.advance(secs(10));
    let closed = peer::Event::Closed {
        conn: peer::ConnId::accepted(1),
        reason: "reset".to_owned(),
    };
    bench.event(Event::Bgp {
        peer: PeerName::new(addr("10.0.0.1"), None),
        event: closed,
    });
    assert_eq!(proofs(&bench, VIP), Vec::<String>::new());
    assert_eq!(bench.core.path_returns(&prefix(VIP)), None);
    assert!(router(&mut bench).counters.is_empty());
    let before = router(&mut bench).probes.len();
    bench.advance(secs(120));
    assert_eq!(router(&mut bench).probes.len(), before);
}

#[test]
fn off_is_off_for_the_agent_and_for_an_app_and_a_reload_switches_it() {
    let apps = "{name: dns, vip: 192.0.2.53/32}, \
                {name: web, vip: 192.0.2.80/32, path_proof: {probes: 4, port: 33434}}";
    let mut bench = announced("path_proof: \"off\"", apps);
    bench.advance(secs(1));
    assert_eq!(proofs(&bench, VIP), Vec::<String>::new());
    assert_eq!(proofs(&bench, "192.0.2.80/32"), ["10.0.0.1 yes (4/4)"]);
    bench.core.reload(bench.now, config("", apps));
    bench.advance(secs(3));
    assert_eq!(proofs(&bench, VIP), ["10.0.0.1 yes (16/16)"]);
    let off = config("path_proof: \"off\"", "{name: dns, vip: 192.0.2.53/32}");
    bench.core.reload(bench.now, off);
    bench.advance(Duration::ZERO);
    assert_eq!(proofs(&bench, VIP), Vec::<String>::new());
}

#[test]
fn without_permission_it_is_unknown() {
    let mut bench = Bench::with_outcomes(config("", APP), &[("port:udp:53", true)]);
    bench.router = Some(Router {
        permission: false,
        ..Router::new()
    });
    bench.event(Event::Network(routed()));
    establish(&mut bench);
    bench.advance(secs(120));
    assert_eq!(proofs(&bench, VIP), ["10.0.0.1 unknown: no CAP_NET_ADMIN"]);
    assert!(router(&mut bench).probes.is_empty());
}

#[test]
fn a_way_that_proves_nothing_says_why_and_one_that_changes_is_proven_anew() {
    let mut bench = announced("", APP);
    bench.advance(secs(1));
    let with = |change: &dyn Fn(&mut PeerNetwork)| {
        let mut network = routed();
        network.peers.values_mut().for_each(change);
        network
    };
    let other = with(&|peer| {
        let why = Unproven::OtherGateway(addr("10.0.0.9"));
        peer.first_hops = vec![(Family::Ipv4, Err(why))];
    });
    bench.event(Event::Network(other));
    assert_eq!(
        proofs(&bench, VIP),
        ["10.0.0.1 unknown: probes leave by 10.0.0.9"]
    );
    let before = router(&mut bench).probes.len();
    bench.advance(secs(60));
    assert_eq!(router(&mut bench).probes.len(), before);
    let behind = with(&|peer| {
        let hop = FirstHop {
            is_behind: true,
            ..by("10.0.0.254")
        };
        peer.first_hops = vec![(Family::Ipv4, Ok(hop))];
    });
    bench.event(Event::Network(behind));
    bench.advance(secs(4));
    assert_eq!(
        proofs(&bench, VIP),
        ["10.0.0.1 yes (16/16) by first hop 10.0.0.254"]
    );
}

/// Two VIPs with one address are one target: that of the longest prefix, which routers follow.
#[test]
fn a_withdrawn_vip_leaves_the_proof_of_another_with_its_address_alone() {
    let apps = "{name: net, vip: 192.0.2.0/24, path_proof: {probes: 4, interval: 10s}}, \
                {name: host, vip: 192.0.2.0/32, monitors: [\"port:udp:53\"]}";
    let (net, host) = ("192.0.2.0/24", "192.0.2.0/32");
    let mut bench = announced("", apps);
    bench.advance(secs(20));
    assert_eq!(proofs(&bench, host), ["10.0.0.1 yes (16/16)"]);
    let probes = |bench: &mut Bench, time| {
        let before = router(bench).probes.len();
        bench.advance(time);
        router(bench).probes.len() - before
    };
    assert_eq!(probes(&mut bench, secs(300)), 10, "one in 30 s");
    bench.says("port:udp:53", false);
    bench.advance(secs(60));
    assert!(bench.is_announced(net) && !bench.is_announced(host));
    assert_eq!(proofs(&bench, net), ["10.0.0.1 yes (4/4)"]);
    assert_eq!(proofs(&bench, host), Vec::<String>::new());
    assert_eq!(probes(&mut bench, secs(300)), 30, "one in 10 s");
    assert_eq!(bench.core.path_returns(&prefix(net)), Some(true));
    bench.says("port:udp:53", true);
    bench.advance(secs(60));
    assert_eq!(probes(&mut bench, secs(300)), 10);
    assert_eq!(bench.core.forwarding_times().count, 1);
}

/// Whatever is registered: 100 packets a second, 300 at once, and every VIP has its turn.
#[test]
fn a_thousand_vips_keep_to_the_limit() {
    let agent = "max_http_apps: 5000, monitor_interval: 10m";
    let mut bench = announced(agent, "");
    for number in 0..1000 {
        let vip = format!("198.18.{}.{}/32", number / 250, number % 250 + 1);
        let done = bench.register(&[("name", &format!("app{number}")), ("vip", &vip)]);
        assert!(done.is_ok(), "{done:?}");
    }
    bench.advance(secs(200));
    let vip = |number: u32| format!("198.18.{}.{}/32", number / 250, number % 250 + 1);
    for number in 0..1000 {
        assert_eq!(proofs(&bench, &vip(number)), ["10.0.0.1 yes (16/16)"]);
    }
    let start = bench.start;
    let probes = &router(&mut bench).probes;
    let mut level = 0.0_f64;
    let mut last = start;
    for (at, ..) in probes {
        let passed = at.saturating_duration_since(last).as_secs_f64();
        level = (level - passed * 100.0).max(0.0) + 1.0;
        last = *at;
        assert!(level <= 300.0 + 1e-6, "{level} packets at once");
    }
    let probed: BTreeSet<IpAddr> = probes.iter().map(|(_, vip, _)| *vip).collect();
    assert_eq!(probed.len(), 1000);
    // A minute of the rotation: two turns of a thousand.
    let before = probes.len();
    bench.advance(secs(60));
    assert_eq!(router(&mut bench).probes.len() - before, 2000);
}
