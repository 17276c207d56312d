//! `when_down: last_resort`: checks that may be wrong take no VIP off the network, a missing listener does.

use super::bench::{Bench, config, prefix, secs, session_events};
use crate::app::Attributes;
use crate::core::AppState;
use crate::health::Outcome;

const APP: &str = r#"{name: dns, vip: 192.0.2.1/32, monitors: ["port:udp:53", "exec:true"], interval: 1s, nats: ["udp:53:5353"],
    when: {}, vip_config: {when_down: last_resort, med: 5, as_path_prepend: 1}}"#;

fn bench(agent: &str, passes: bool) -> Bench {
    let app = APP.replace("when: {}, ", "");
    let mut bench = Bench::with_outcomes(
        config(agent, &app),
        &[("port:udp:53", true), ("exec:true", passes)],
    );
    for event in session_events() {
        bench.event(event);
    }
    bench.advance(secs(2));
    bench
}

fn attributes(bench: &Bench) -> Option<Attributes> {
    let routes = &bench.core.kernel.applied().routes;
    routes
        .get(&prefix("192.0.2.1/32"))
        .map(|route| route.attributes.clone())
}

fn no_listener(bench: &mut Bench) {
    let closed = Outcome::NoListener("nothing listens on UDP port 53".to_owned());
    bench.outcomes.insert("port:udp:53".to_owned(), closed);
}

#[test]
fn an_opinion_makes_the_route_the_least_attractive_and_keeps_address_and_nat() {
    let mut bench = bench("", true);
    let healthy = attributes(&bench).unwrap();
    assert_eq!((healthy.med, healthy.as_path_prepend), (Some(5), Some(1)));
    bench.done();
    bench.says("exec:true", false);
    bench.advance(secs(2));
    let sick = attributes(&bench).unwrap();
    assert_eq!(
        (sick.med, sick.as_path_prepend, sick.local_pref),
        (Some(4_294_967_294), Some(10), Some(0))
    );
    let communities: Vec<String> = sick.communities.iter().map(ToString::to_string).collect();
    assert_eq!(communities, ["graceful-shutdown"]);
    let app = bench.app("dns");
    assert_eq!((app.state, app.announced), (AppState::Down, true));
    assert!(app.last_resort.is_some());
    // Far beyond cleanup_timer and vip_linger.
    bench.advance(secs(7200));
    assert!(bench.has_address("192.0.2.1/32"));
    assert_eq!(bench.nat.rules.len(), 1);
    let app = bench.app("dns");
    assert!(app.last_resort.unwrap() > secs(7190), "{app:?}");
    assert!(bench.done().iter().all(|line| line.starts_with("renew")));
    bench.says("exec:true", true);
    bench.advance(secs(2));
    assert_eq!(attributes(&bench), Some(healthy));
    let app = bench.app("dns");
    assert_eq!(
        (app.state, app.last_resort, app.flaps),
        (AppState::Up, None, 0)
    );
    assert!(bench.done().iter().all(|line| line.starts_with("renew")));
}

#[test]
fn a_missing_listener_withdraws_whatever_else_fails() {
    for opinion in [true, false] {
        let mut bench = bench("", true);
        bench.says("exec:true", opinion);
        bench.advance(secs(2));
        assert!(bench.is_announced("192.0.2.1/32"));
        no_listener(&mut bench);
        bench.advance(secs(11));
        assert!(
            !bench.is_announced("192.0.2.1/32"),
            "exec passes: {opinion}"
        );
        assert_eq!(bench.app("dns").last_resort, None);
        assert_eq!(bench.state("dns"), AppState::Down);
        // The listener is back and the check still fails.
        bench.says("port:udp:53", true);
        bench.says("exec:true", false);
        bench.advance(secs(2));
        assert_eq!(attributes(&bench).unwrap().as_path_prepend, Some(10));
    }
}

/// A port that is found full, or that gave no answer, has a listener all the same.
#[test]
fn a_full_accept_queue_is_an_opinion() {
    let mut bench = bench("", true);
    let full = Outcome::fail("the accept queue has been full for 2.0 s");
    bench.outcomes.insert("port:udp:53".to_owned(), full);
    bench.advance(secs(11));
    assert_eq!(attributes(&bench).unwrap().as_path_prepend, Some(10));
    no_listener(&mut bench);
    bench.advance(secs(2));
    assert!(!bench.is_announced("192.0.2.1/32"));
    // What could not be found out changes nothing.
    let unknown = Outcome::unavailable("no sockets left");
    bench.outcomes.insert("port:udp:53".to_owned(), unknown);
    bench.advance(secs(11));
    assert!(!bench.is_announced("192.0.2.1/32"));
}

#[test]
fn an_app_that_never_passed_is_not_announced() {
    let mut bench = bench("", false);
    bench.advance(secs(60));
    assert!(!bench.is_announced("192.0.2.1/32"));
    assert!(bench.core.ready().is_err());
    bench.says("exec:true", true);
    bench.advance(secs(2));
    assert!(bench.is_announced("192.0.2.1/32") && bench.core.ready().is_ok());
}

#[test]
fn a_drain_withdraws_a_last_resort() {
    let mut bench = bench("", true);
    bench.says("exec:true", false);
    bench.advance(secs(2));
    assert!(bench.is_announced("192.0.2.1/32"));
    bench
        .core
        .drain(bench.now, Some(&super::bench::name("dns")));
    bench.advance(secs(1));
    assert!(!bench.is_announced("192.0.2.1/32"));
    assert_eq!(bench.app("dns").last_resort, None);
    bench
        .core
        .undrain(bench.now, Some(&super::bench::name("dns")));
    bench.advance(secs(1));
    assert!(bench.is_announced("192.0.2.1/32"));
    assert!(bench.app("dns").last_resort.unwrap() <= secs(1));
}

/// Six real deaths exhaust the damping; a failing check then is a last resort, and stays one while it is held down.
#[test]
fn what_is_held_down_stays_a_last_resort() {
    let mut bench = bench("", true);
    for _ in 0..6 {
        no_listener(&mut bench);
        bench.advance(secs(2));
        bench.says("port:udp:53", true);
        bench.advance(secs(5));
    }
    assert_eq!(bench.state("dns"), AppState::Up);
    bench.says("exec:true", false);
    bench.advance(secs(2));
    assert_eq!(bench.state("dns"), AppState::Down);
    bench.says("exec:true", true);
    bench.advance(secs(1));
    let app = bench.app("dns");
    assert_eq!((app.state, app.announced), (AppState::HeldDown, true));
    assert!(app.last_resort.is_some());
    assert_eq!(attributes(&bench).unwrap().as_path_prepend, Some(10));
    bench.advance(secs(60));
    assert_eq!(bench.state("dns"), AppState::Up);
    assert_eq!(attributes(&bench).unwrap().as_path_prepend, Some(1));
}

#[test]
fn an_app_of_http_is_not_forgotten_while_it_is_a_last_resort() {
    let agent = "when_down: last_resort, cleanup_timer: 1m, last_resort: {med: 77}";
    let mut bench = Bench::with_outcomes(config(agent, ""), &[("exec:true", true)]);
    let params = [
        ("name", "web"),
        ("vip", "192.0.2.1/32"),
        ("monitor", "tcp:127.0.0.1:80"),
    ];
    bench.says("tcp:127.0.0.1:80", true);
    bench.register(&params).unwrap();
    bench.advance(secs(1));
    bench.says("tcp:127.0.0.1:80", false);
    bench.advance(secs(600));
    let sick = attributes(&bench).unwrap();
    assert_eq!((sick.med, sick.as_path_prepend), (Some(77), Some(10)));
}
