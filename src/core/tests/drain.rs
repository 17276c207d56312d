//! A drain ends with its traffic.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::bench::{Bench, Router, config, name, prefix, secs, session_events};
use super::path_proof::routed;
use crate::bgp::peer;
use crate::core::{AppState, DrainSteps, Event};
use crate::net::PeerName;

const A: &str = "192.0.2.1/32";
const B: &str = "192.0.2.2/32";
const NET: &str = "198.51.100.0/24";

fn app(name: &str, vip: &str, more: &str) -> String {
    format!("{{name: {name}, vip: {vip}, drain_time: 10s, {more}}}")
}

fn two() -> Bench {
    let apps = [app("a", A, ""), app("b", B, "")].join(", ");
    Bench::new(config("", &apps))
}

fn watched(bench: &Bench) -> Vec<String> {
    bench.watched.iter().map(ToString::to_string).collect()
}

/// Looks every 100 ms, as the shell does while something is watched, at packets that come to `to` all the time.
fn pass(bench: &mut Bench, time: Duration, to: &[&str]) {
    let end = bench.now + time;
    while bench.now < end {
        bench.advance(Duration::from_millis(100));
        if !bench.watched.is_empty() {
            let mut to: Vec<IpAddr> = to.iter().map(|to| to.parse().unwrap()).collect();
            to.sort_unstable();
            let at = bench.now;
            let last_packets = Ok(to.into_iter().map(|to| (to, at)).collect());
            bench.event(Event::Traffic { at, last_packets });
        }
    }
}

fn steps(bench: &Bench, app: &str) -> DrainSteps {
    let reports = bench.core.drain_reports(Some(&name(app)));
    reports.first().expect("it drains").steps
}

#[test]
fn a_quiet_drain_is_over_after_two_seconds_and_is_looked_at_until_then() {
    let mut bench = two();
    assert_eq!(watched(&bench), [""; 0], "nothing drains");
    bench.core.drain(bench.now, Some(&name("a")));
    bench.reconcile();
    assert_eq!(watched(&bench), [A]);
    pass(&mut bench, Duration::from_millis(1900), &[]);
    assert_eq!(bench.state("a"), AppState::Draining);
    pass(&mut bench, Duration::from_millis(100), &[]);
    assert_eq!(bench.state("a"), AppState::Drained);
    assert_eq!(watched(&bench), [""; 0]);
    let done = DrainSteps {
        acknowledged: None,
        done: Some(secs(2)),
        ..DrainSteps::default()
    };
    assert_eq!(steps(&bench, "a"), done, "there is no session");
}

#[test]
fn packets_hold_the_drain_of_their_app_alone() {
    let apps = [app("a", A, ""), app("b", B, ""), app("net", NET, "")].join(", ");
    let mut bench = Bench::new(config("", &apps));
    bench.core.drain(bench.now, None);
    bench.reconcile();
    assert_eq!(watched(&bench), [A, B, NET]);
    pass(&mut bench, secs(4), &["192.0.2.1", "198.51.100.77"]);
    let states = ["a", "b", "net"].map(|app| bench.state(app));
    let (busy, over) = (AppState::Draining, AppState::Drained);
    assert_eq!(states, [busy, over, busy]);
    assert_eq!(watched(&bench), [A, NET]);
    pass(&mut bench, secs(1), &["198.51.100.77"]);
    assert_eq!(bench.state("a"), over);
    assert_eq!(steps(&bench, "a").last_packet, Some(secs(4)));
    pass(&mut bench, secs(4), &["198.51.100.77"]);
    assert_eq!(bench.state("net"), busy);
    pass(&mut bench, secs(1), &["198.51.100.77"]);
    assert_eq!(bench.state("net"), over, "at the latest");
    assert_eq!(watched(&bench), [""; 0]);
}

/// With a session whose peer does not acknowledge.
fn unacknowledged() -> Bench {
    let mut bench = two();
    for event in session_events() {
        bench.event(event);
    }
    bench.acknowledges = false;
    bench.core.drain(bench.now, Some(&name("a")));
    bench.reconcile();
    bench
}

#[test]
fn a_drain_waits_for_the_acknowledgment_although_it_is_quiet() {
    let mut bench = unacknowledged();
    pass(&mut bench, Duration::from_millis(9900), &[]);
    assert_eq!(bench.state("a"), AppState::Draining);
    assert_eq!(bench.awaited.len(), 10, "it is asked for every second");
    pass(&mut bench, Duration::from_millis(100), &[]);
    assert_eq!(bench.state("a"), AppState::Drained);
    assert_eq!(steps(&bench, "a").acknowledged, None, "the time was over");
    bench.acknowledges = true;
    bench.core.drain(bench.now, Some(&name("b")));
    bench.advance(Duration::ZERO);
    assert_eq!(steps(&bench, "b").acknowledged, Some(Duration::ZERO));
}

#[test]
fn a_late_acknowledgment_ends_a_quiet_drain() {
    let mut bench = unacknowledged();
    pass(&mut bench, Duration::from_millis(3500), &[]);
    assert_eq!(bench.state("a"), AppState::Draining);
    bench.event(Event::Acknowledged);
    assert_eq!(bench.state("a"), AppState::Drained);
    let late = Some(Duration::from_millis(3500));
    assert_eq!(steps(&bench, "a").acknowledged, late);
}

#[test]
fn a_session_that_is_gone_acknowledges_nothing_and_is_not_waited_for() {
    let mut bench = unacknowledged();
    pass(&mut bench, Duration::from_millis(3500), &[]);
    let event = peer::Event::Closed {
        conn: peer::ConnId::accepted(1),
        reason: "reset".to_owned(),
    };
    let peer = PeerName::new("10.0.0.1".parse().unwrap(), None);
    bench.event(Event::Bgp { peer, event });
    pass(&mut bench, secs(1), &[]);
    assert_eq!(bench.state("a"), AppState::Drained);
    assert_eq!(steps(&bench, "a").acknowledged, None);
}

/// Nothing is sent without a carrier: the router has the route still, and forwards for a while after it has the
/// withdraw.
#[test]
fn a_withdraw_that_is_not_sent_holds_the_drain_and_so_does_the_path_after_it() {
    let mut bench = two();
    bench.router = Some(Router::new());
    let network = |carrier| {
        let mut network = routed();
        for peer in network.peers.values_mut() {
            peer.carrier = carrier;
        }
        Event::Network(network)
    };
    bench.event(network(true));
    for event in session_events() {
        bench.event(event);
    }
    bench.advance(secs(1));
    assert_eq!(bench.core.path_returns(&prefix(A)), Some(true));
    bench.event(network(false));
    bench.core.drain(bench.now, Some(&name("a")));
    bench.reconcile();
    pass(&mut bench, Duration::from_millis(5500), &[]);
    assert!(bench.core.peers.is_announced(&prefix(A)), "not yet sent");
    assert_eq!(bench.state("a"), AppState::Draining);
    bench.event(network(true));
    assert!(!bench.core.peers.is_announced(&prefix(A)));
    let acknowledged = Some(Duration::from_millis(5500));
    assert_eq!(steps(&bench, "a").acknowledged, acknowledged);
    assert_eq!(bench.state("a"), AppState::Draining, "it is forwarded");
    bench.router.as_mut().unwrap().forwards = false;
    pass(&mut bench, secs(2), &[]);
    assert_eq!(bench.state("a"), AppState::Drained);
}

#[test]
fn what_cannot_be_seen_takes_drain_time() {
    let mut bench = two();
    bench.core.drain(bench.now, None);
    pass(&mut bench, secs(1), &[]);
    let failed = Event::Traffic {
        at: bench.now,
        last_packets: Err("no nf_tables".to_owned()),
    };
    bench.event(failed);
    bench.advance(Duration::from_millis(8900));
    assert!(!bench.core.drained(None));
    bench.advance(Duration::from_millis(100));
    assert!(bench.core.drained(None));
}

#[test]
fn fixed_drains_and_those_without_a_wait_are_not_looked_at() {
    let apps = [
        app("a", A, "drain_wait: fixed"),
        format!("{{name: b, vip: {B}, drain_time: 0}}"),
        format!("{{name: net, vip: {NET}, monitors: [\"port:tcp:1\"]}}"),
    ];
    let mut bench = Bench::new(config("", &apps.join(", ")));
    bench.core.drain(bench.now, None);
    bench.reconcile();
    assert_eq!(watched(&bench), [""; 0]);
    bench.advance(Duration::from_millis(9900));
    assert!(!bench.core.drained(Some(&name("a"))));
    bench.advance(Duration::from_millis(100));
    assert!(bench.core.drained(None));
}

#[test]
fn an_undrain_an_unregister_and_another_vip_change_what_is_looked_at() {
    let mut bench = Bench::new(config("drain_time: 10s", ""));
    let register = |bench: &mut Bench, vip: &str| {
        let params = [("name", "a"), ("vip", vip)];
        bench.register(&params).unwrap();
    };
    register(&mut bench, A);
    bench.core.drain(bench.now, None);
    bench.reconcile();
    assert_eq!(watched(&bench), [A]);
    register(&mut bench, B);
    assert_eq!(watched(&bench), [B], "the drain goes on");
    bench.core.undrain(bench.now, None);
    bench.reconcile();
    assert_eq!(watched(&bench), [""; 0]);
    bench.core.drain(bench.now, None);
    bench.reconcile();
    assert_eq!(watched(&bench), [B]);
    bench.unregister("a");
    assert_eq!(watched(&bench), [""; 0]);
}

#[test]
fn a_stop_ends_with_the_traffic_too() {
    let mut bench = two();
    bench.event(Event::Stop);
    let both = BTreeSet::from([prefix(A), prefix(B)]);
    assert_eq!(bench.watched, both);
    pass(&mut bench, secs(3), &["192.0.2.2"]);
    assert!(bench.exit.is_none() && bench.has_address(B));
    pass(&mut bench, secs(1), &[]);
    assert_eq!(bench.exit.as_ref().map(|(code, _)| *code), Some(0));
    assert!(bench.addresses.is_empty());
    // And at the latest after the longest drain_time.
    let mut bench = two();
    bench.event(Event::Stop);
    pass(&mut bench, Duration::from_millis(9900), &["192.0.2.2"]);
    assert!(bench.exit.is_none());
    pass(&mut bench, Duration::from_millis(100), &["192.0.2.2"]);
    assert!(bench.exit.is_some());
}

/// Also where the routes stay until the end.
#[test]
fn a_stop_withdraws_less_attractive_routes_when_their_traffic_has_ended() {
    let apps = app("a", A, "vip_config: {when_draining: {med: 1000}}");
    let mut bench = Bench::new(config("", &apps));
    bench.event(Event::Stop);
    pass(&mut bench, Duration::from_millis(1900), &[]);
    assert!(bench.is_announced(A));
    assert!(steps(&bench, "a").keeps_routes);
    pass(&mut bench, Duration::from_millis(100), &[]);
    assert!(bench.exit.is_some() && !bench.is_announced(A));
}
