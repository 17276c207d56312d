//! The end of the process, and what comes before it is ready.

use std::time::Duration;

use super::bench::{Bench, config, network, secs};
use crate::core::{AppState, Event, Predecessor, RejectReason, StepError};
use crate::health::Outcome;

const DNS: &str = "{name: dns, vip: 192.0.2.53/32, nats: [\"udp:53:8053\"]}";
const VIP: &str = "192.0.2.53/32";

fn announcing(agent: &str, app: &str) -> Bench {
    let mut bench = Bench::new(config(agent, app));
    assert!(bench.is_announced(VIP));
    bench.done();
    bench
}

#[test]
fn a_stop_withdraws_waits_and_leaves_nothing() {
    let mut bench = announcing("", DNS);
    bench.event(Event::Stop);
    assert_eq!(bench.done(), [format!("withdraw {VIP}")]);
    assert!(bench.core.is_stopping());
    bench.advance(Duration::from_millis(1900));
    assert!(
        bench.exit.is_none() && bench.has_address(VIP),
        "drain_time runs"
    );
    bench.advance(Duration::from_millis(200));
    let done = bench.done();
    assert!(done.contains(&format!("remove {VIP}")) && done.contains(&"nat 0".to_owned()));
    assert_eq!(done.last().map(String::as_str), Some("exit"));
    assert_eq!(bench.exit.as_ref().map(|(code, _)| *code), Some(0));
    assert!(bench.addresses.is_empty() && bench.nat.rules.is_empty());
    assert_eq!(bench.core.poll_timeout(), None);
}

#[test]
fn a_second_stop_skips_the_waits() {
    let mut bench = announcing("drain_time: 1h", DNS);
    bench.event(Event::Stop);
    assert!(bench.exit.is_none());
    bench.event(Event::Stop);
    assert_eq!(bench.exit.as_ref().map(|(code, _)| *code), Some(0));
    assert!(bench.addresses.is_empty());
}

#[test]
fn a_stop_with_nothing_announced_is_over_at_once() {
    let mut bench = Bench::new(config(
        "",
        "{name: a, vip: 192.0.2.1/32, monitors: [\"port:tcp:1\"]}",
    ));
    bench.event(Event::Stop);
    assert!(bench.exit.is_some());
}

#[test]
fn a_stop_takes_less_than_five_seconds_whatever_happens() {
    let app = "{name: dns, vip: 192.0.2.53/32, vip_config: {when_draining: {med: 1000}}}";
    let mut bench = announcing("", app);
    bench.acknowledges = false;
    bench.event(Event::Stop);
    assert!(bench.is_announced(VIP), "less attractive, for drain_time");
    bench.advance(secs(2));
    assert!(!bench.is_announced(VIP));
    // The kernel does not answer either.
    bench.held = Some(Vec::new());
    bench.advance(secs(2));
    assert!(bench.exit.is_some(), "{:?}", bench.done());
    assert!(bench.now < bench.start + secs(5));
}

#[test]
fn a_stop_for_restart_withdraws_nothing() {
    let mut bench = announcing("", DNS);
    bench.event(Event::StopForRestart);
    assert_eq!(bench.done(), ["exit"]);
    assert!(bench.has_address(VIP) && !bench.nat.rules.is_empty());
}

#[test]
fn three_seconds_without_any_interface_end_the_process() {
    let mut bench = announcing("", DNS);
    let mut none = network();
    none.links_present = false;
    bench.event(Event::Network(none.clone()));
    bench.advance(secs(2));
    bench.event(Event::Network(network()));
    bench.advance(secs(5));
    assert!(bench.exit.is_none(), "it came back in time");
    bench.event(Event::Network(none));
    bench.advance(secs(3));
    assert_eq!(bench.exit.as_ref().map(|(code, _)| *code), Some(1));
}

#[test]
fn a_namespace_that_never_had_an_interface_is_waited_for() {
    let mut bench = Bench::new(config("", DNS));
    bench.core = crate::core::Core::new(config("", DNS), 1, bench.now);
    // It went with the process before.
    bench.nat.rules.clear();
    let mut none = network();
    none.links_present = false;
    bench.event(Event::Network(none));
    bench.advance(secs(60));
    assert!(bench.exit.is_none());
}

#[test]
fn a_failing_removal_does_not_hold_up_the_exit() {
    let mut bench = announcing("drain_time: 0", DNS);
    bench.held = Some(Vec::new());
    bench.event(Event::Stop);
    bench.advance(secs(1));
    assert!(bench.exit.is_some());
    let held = bench.held.take().unwrap();
    let error = StepError {
        message: "too late".to_owned(),
        permanent: true,
    };
    let (id, _) = held[0].clone();
    bench.event(Event::Done {
        step: id,
        result: Err(error),
    });
    assert_eq!(bench.core.poll_timeout(), None);
}

#[test]
fn nothing_is_ready_before_it_was_announced_nor_while_it_leaves() {
    let bench = Bench::new(config("", ""));
    assert_eq!(bench.core.ready(), Ok(()), "there is nothing to wait for");
    let mut bench = announcing("", DNS);
    assert!(
        bench.core.ready().unwrap_err().contains("dns"),
        "no session took it yet"
    );
    bench.core.drain(bench.now, None);
    bench.reconcile();
    assert_eq!(bench.core.ready(), Err("draining".to_owned()));
    bench.event(Event::Stop);
    assert_eq!(bench.core.ready(), Err("stopping".to_owned()));
}

#[test]
fn a_connection_is_admitted_by_where_it_comes_from_and_where_it_goes() {
    let bench = announcing("", DNS);
    let admit = |local: &str, remote: &str| {
        let addr = |text: &str| std::net::SocketAddr::new(text.parse().unwrap(), 4711);
        let admitted = bench.core.admit(addr(local), addr(remote));
        admitted.map(|(peer, _)| peer.to_string())
    };
    assert_eq!(admit("10.0.0.2", "10.0.0.1"), Ok("10.0.0.1".to_owned()));
    assert_eq!(admit("10.0.0.2", "10.0.0.9"), Err(RejectReason::Unknown));
    assert_eq!(admit("192.0.2.53", "10.0.0.1"), Err(RejectReason::ToVip));
}

/// Routers that kept our routes over a quiet restart drop what the first End-of-RIB does not hold.
#[test]
fn end_of_rib_is_deferred_until_the_first_checks() {
    let app = "{name: dns, vip: 192.0.2.53/32, monitors: [\"port:tcp:1\"]}";
    let mut bench = Bench::new(config("", ""));
    let before = Some(Predecessor { forwarding: true });
    let restarted = |bench: &Bench| {
        crate::core::Core::new(config("", app), 1, bench.now).on_host(bench.now, None, before)
    };
    bench.core = restarted(&bench);
    assert!(
        !bench.core.peers.is_complete(),
        "nor before the network is known"
    );
    bench.event(Event::Network(network()));
    bench.advance(secs(1));
    assert!(!bench.core.peers.is_complete());
    let (monitor, _) = bench.unanswered.pop().unwrap();
    bench.answer(monitor, crate::health::Outcome::pass());
    bench.reconcile();
    assert!(bench.core.peers.is_complete());
    bench.core = restarted(&bench);
    bench.event(Event::Network(network()));
    bench.advance(secs(5));
    assert!(bench.core.peers.is_complete(), "not forever");
}

/// A service that registers anew while its last clients are still served.
#[test]
fn a_lingering_address_stays_for_the_next_holder() {
    let mut bench = Bench::new(config("drain_time: 2s", ""));
    let params = [("name", "a"), ("vip", VIP), ("monitor", "port:tcp:1")];
    bench.register(&params).unwrap();
    bench.answer_all(Outcome::pass());
    assert!(bench.is_announced(VIP));
    bench.done();
    bench.unregister("a");
    bench.register(&params).unwrap();
    bench.advance(secs(1));
    assert!(!bench.is_announced(VIP), "nothing is known of it yet");
    assert!(bench.has_address(VIP));
    bench.answer_all(Outcome::pass());
    bench.advance(secs(5));
    assert!(bench.is_announced(VIP));
    let done = bench.done();
    let removed = done.iter().any(|did| did.starts_with("remove"));
    assert!(!removed, "{done:?}");
    bench.unregister("a");
    bench.register(&params).unwrap();
    bench.answer_all(Outcome::fail("refused"));
    bench.advance(secs(5));
    assert!(!bench.has_address(VIP), "drain_time is over");
}

/// Whoever asks for it while the process ends has it from the next start on.
#[test]
fn an_undrain_while_the_process_ends_announces_nothing_anew() {
    let app =
        "{name: dns, vip: 192.0.2.53/32, drain_time: 5s, vip_config: {when_draining: {med: 9}}}";
    let mut bench = Bench::new(config("", app));
    bench.core.drain(bench.now, None);
    bench.advance(secs(1));
    bench.event(Event::Stop);
    bench.core.undrain(bench.now, None);
    bench.reconcile();
    let routes = bench.core.kernel.applied().routes.values();
    assert!(routes.map(|route| route.attributes.med).eq([Some(9)]));
    assert_eq!(bench.state("dns"), AppState::Draining);
    bench.advance(secs(10));
    assert_eq!(bench.exit.as_ref().map(|(code, _)| *code), Some(0));
}
