//! Monitors that probe the app's own VIPs: after all others pass and the address is there, before the route.

use super::bench::{Bench, config, name, network, prefix, secs, session_events};
use crate::app::VipTarget;
use crate::core::{AppState, Event, Step, StepError};
use crate::health::{Health, Outcome};
use crate::view::verdict::Verdict;

const VIP: &str = "192.0.2.1/32";
const VIP6: &str = "2001:db8:1::1/128";
const ASK: &str = "dns:x/A@vip:53";
const APP: &str =
    r#"{name: dns, vip: 192.0.2.1/32, monitors: ["port:udp:53", "dns:x@vip"], interval: 1s, KEYS}"#;

fn bench_of(agent: &str, app: &str, outcomes: &[(&str, bool)]) -> Bench {
    let mut bench = Bench::with_outcomes(config(agent, app), outcomes);
    for event in session_events() {
        bench.event(event);
    }
    bench.advance(secs(2));
    bench
}

fn bench(keys: &str, port: bool, ask: bool) -> Bench {
    bench_of(
        "",
        &APP.replace("KEYS", keys),
        &[("port:udp:53", port), (ASK, ask)],
    )
}

/// The VIPs that checks of this monitor probed since the last call.
fn asked(bench: &mut Bench, monitor: &str) -> Vec<Vec<VipTarget>> {
    let asked = std::mem::take(&mut bench.asked);
    let of = asked.into_iter().filter(|(text, _)| text == monitor);
    of.map(|(_, targets)| targets).collect()
}

fn second_stage(bench: &Bench) -> Health {
    bench.app("dns").monitors[1].health
}

#[test]
fn the_vip_is_asked_when_address_and_nat_are_there_and_announced_when_it_answers() {
    let app = APP.replace("KEYS", r#"nats: ["udp:53:8053"]"#);
    let mut bench = Bench::new(config("", &app));
    bench.held = Some(Vec::new());
    bench.says("port:udp:53", true);
    bench.advance(secs(2));
    bench.answer_all(Outcome::pass());
    let why = |bench: &Bench| bench.app("dns").why;
    let waiting = "waiting for dns:x/A@vip:53: asked when the address is there";
    assert_eq!(bench.state("dns"), AppState::Pending);
    assert_eq!(why(&bench), waiting);
    // Neither alone is enough.
    let mut steps = bench.held.take().unwrap();
    assert_eq!(steps.len(), 2);
    steps.sort_by_key(|(_, step)| matches!(step, Step::UpdateNat(_)));
    let (address, nat) = (steps.remove(0), steps.remove(0));
    bench.step(address.0, &address.1);
    bench.advance(secs(1));
    assert_eq!(
        (why(&bench).as_str(), asked(&mut bench, ASK)),
        (waiting, vec![])
    );
    bench.step(nat.0, &nat.1);
    bench.advance(secs(0));
    let target = VipTarget {
        vip: prefix(VIP),
        addr: "192.0.2.1".parse().unwrap(),
        source: "10.0.0.2".parse().unwrap(),
    };
    assert_eq!(asked(&mut bench, ASK), [[target]]);
    assert_eq!(why(&bench), "dns:x/A@vip:53: not checked yet");
    assert!(!bench.is_announced(VIP) && !bench.core.is_known());
    bench.answer_all(Outcome::pass());
    assert_eq!(bench.state("dns"), AppState::Up);
    assert_eq!(
        bench.done(),
        ["add 192.0.2.1/32", "nat 1", "announce 192.0.2.1/32"]
    );
}

#[test]
fn a_vip_whose_address_is_refused_beside_an_announced_one_is_failing() {
    const OTHER: &str = "192.0.2.2/32";
    let app = APP
        .replace("vip: 192.0.2.1/32", "vips: [192.0.2.1/32, 192.0.2.2/32]")
        .replace("KEYS", "");
    let mut bench = bench_of("", &app, &[("port:udp:53", false), (ASK, true)]);
    let message = "Permission denied".to_owned();
    let permanent = true;
    bench
        .failing
        .insert(prefix(OTHER), StepError { message, permanent });
    bench.says("port:udp:53", true);
    bench.advance(secs(20));
    let log = bench.done();
    assert_eq!(
        (bench.is_announced(VIP), bench.is_announced(OTHER)),
        (true, false),
        "{log:?}"
    );
    assert_eq!(bench.state("dns"), AppState::Up);
    let line = Verdict::of(&bench.core, bench.now, false).line();
    assert!(line.starts_with("failing: "), "{line}");
    assert!(
        line.contains(OTHER) && line.contains("Permission denied"),
        "{line}"
    );
}

#[test]
fn where_only_they_fail_the_route_goes_and_the_rest_stays() {
    let mut bench = bench(r#"nats: ["udp:53:8053"], fall: 2"#, true, true);
    assert_eq!(bench.done().last().unwrap(), "announce 192.0.2.1/32");
    bench.says(ASK, false);
    bench.advance(secs(3));
    assert_eq!(bench.done(), ["withdraw 192.0.2.1/32"]);
    assert_eq!(bench.state("dns"), AppState::Down);
    assert_eq!(bench.app("dns").why, "dns:x/A@vip:53: fail: broken");
    // Far beyond vip_linger and cleanup_timer.
    asked(&mut bench, ASK);
    bench.advance(secs(3600));
    assert!(bench.has_address(VIP) && bench.nat.rules.len() == 1);
    assert!(asked(&mut bench, ASK).len() > 3500);
    assert!(bench.done().iter().all(|line| line.starts_with("renew")));
    bench.says(ASK, true);
    bench.advance(secs(2));
    assert_eq!(bench.done(), ["announce 192.0.2.1/32"]);
    assert_eq!(bench.app("dns").flaps, 1);
}

#[test]
fn where_another_fails_the_address_goes_and_nobody_asks() {
    let mut bench = bench("", true, true);
    bench.done();
    bench.says("port:udp:53", false);
    bench.advance(secs(5));
    assert_eq!(bench.done(), ["withdraw 192.0.2.1/32"]);
    assert_eq!(second_stage(&bench), Health::Unknown);
    bench.advance(secs(10));
    assert_eq!(bench.done(), ["remove 192.0.2.1/32"]);
    asked(&mut bench, ASK);
    bench.advance(secs(600));
    assert_eq!(asked(&mut bench, ASK).len(), 0);
    assert_eq!(bench.app("dns").why, "port:udp:53: fail: broken");
    // Another site answers; it is not asked.
    bench.says("port:udp:53", true);
    bench.advance(secs(1));
    assert_eq!(bench.done(), ["add 192.0.2.1/32", "announce 192.0.2.1/32"]);
}

#[test]
fn an_address_of_the_vip_in_a_monitor_is_the_same_and_one_alone_is_enough() {
    for monitor in [
        "dns:x/A@192.0.2.1:53",
        "tcp:192.0.2.1:80",
        "http://192.0.2.1/",
        "https://vip/",
    ] {
        let app = format!("{{name: dns, vip: {VIP}, monitors: [\"{monitor}\"]}}");
        let mut bench = Bench::new(config("", &app));
        bench.advance(secs(1));
        assert_eq!(bench.done(), ["add 192.0.2.1/32"], "{monitor}");
        assert_eq!(bench.unanswered.len(), 1);
        bench.answer_all(Outcome::pass());
        assert_eq!(bench.done(), ["announce 192.0.2.1/32"]);
    }
}

#[test]
fn a_drain_takes_the_address_and_restarts_no_clock_and_its_end_asks_anew() {
    let mut bench = Bench::with_outcomes(config("cleanup_timer: 1m", ""), &[(ASK, true)]);
    bench
        .register(&[("name", "dns"), ("vip", VIP), ("monitor", "dns:x@vip")])
        .unwrap();
    bench.advance(secs(1));
    assert!(bench.is_announced(VIP));
    bench.core.drain(bench.now, Some(&name("dns")));
    bench.advance(secs(600));
    let app = bench.app("dns");
    assert_eq!((app.state, app.health), (AppState::Drained, Health::Up));
    assert!(!bench.has_address(VIP));
    assert_eq!(app.monitors[0].health, Health::Unknown);
    bench.outcomes.clear();
    bench.core.undrain(bench.now, Some(&name("dns")));
    bench.advance(secs(1));
    assert!(bench.has_address(VIP) && !bench.is_announced(VIP));
    assert_eq!(bench.state("dns"), AppState::Pending);
    bench.answer_all(Outcome::pass());
    assert!(bench.is_announced(VIP));
    assert_eq!(
        (bench.state("dns"), bench.app("dns").flaps),
        (AppState::Up, 0)
    );
}

#[test]
fn a_replaced_definition_keeps_what_is_announced_until_the_new_round() {
    for (passes, after) in [(true, vec![]), (false, vec!["withdraw 192.0.2.1/32"])] {
        let mut bench = Bench::with_outcomes(config("", ""), &[("tcp:127.0.0.1:80", true)]);
        let params = [
            ("name", "dns"),
            ("vip", VIP),
            ("monitor", "tcp:127.0.0.1:80"),
        ];
        bench.register(&params).unwrap();
        bench.advance(secs(1));
        bench.done();
        let params = [
            ("name", "dns"),
            ("vip", VIP),
            ("monitor", "tcp:127.0.0.1:80"),
            ("monitor", "dns:x@vip"),
        ];
        bench.register(&params).unwrap();
        bench.advance(secs(1));
        assert_eq!(bench.done(), Vec::<String>::new());
        assert_eq!(bench.app("dns").why, "waiting for the new monitors");
        assert_eq!(bench.unanswered.len(), 1);
        bench.answer_all(if passes {
            Outcome::pass()
        } else {
            Outcome::fail("no")
        });
        assert_eq!(bench.done(), after);
        assert!(bench.has_address(VIP));
    }
}

#[test]
fn a_failing_second_stage_is_an_opinion() {
    let mut bench = bench("vip_config: {when_down: last_resort}", true, true);
    bench.says(ASK, false);
    bench.advance(secs(600));
    assert!(bench.is_announced(VIP) && bench.app("dns").last_resort.is_some());
    bench.says(ASK, true);
    bench.advance(secs(2));
    assert_eq!(
        (bench.state("dns"), bench.app("dns").last_resort),
        (AppState::Up, None)
    );
}

/// The address was gone meanwhile: earlier results are void.
#[test]
fn an_answer_to_a_question_of_before_finds_nobody() {
    let mut bench = bench("", true, true);
    bench.outcomes.remove(ASK);
    bench.advance(secs(2));
    let late = bench.unanswered.pop().unwrap().0;
    bench.says("port:udp:53", false);
    bench.advance(secs(15));
    assert!(bench.canceled.contains(&late));
    bench.says("port:udp:53", true);
    bench.advance(secs(1));
    bench.answer(late, Outcome::pass());
    bench.reconcile();
    assert!(bench.has_address(VIP) && !bench.is_announced(VIP));
    bench.answer_all(Outcome::pass());
    assert!(bench.is_announced(VIP));
}

/// Another program removed it: the route stays for the moment that putting it back takes, and no check runs then.
#[test]
fn an_address_that_vanishes_for_a_moment_keeps_its_route() {
    let mut bench = bench("", true, true);
    bench.done();
    bench.addresses.remove(&prefix(VIP));
    bench.held = Some(Vec::new());
    bench.event(Event::AddressLost(prefix(VIP)));
    asked(&mut bench, ASK);
    bench.advance(secs(3));
    assert_eq!(asked(&mut bench, ASK).len(), 0);
    assert_eq!(
        (bench.state("dns"), bench.is_announced(VIP)),
        (AppState::Up, true)
    );
    for (id, step) in bench.held.take().unwrap() {
        bench.step(id, &step);
    }
    bench.advance(secs(3));
    assert!(asked(&mut bench, ASK).len() >= 3);
    assert_eq!(bench.done(), ["add 192.0.2.1/32"]);
}

#[test]
fn all_vips_are_asked_together_and_one_that_comes_later_before_its_route() {
    let app = format!(
        "{{name: dns, vips: [{VIP}, \"{VIP6}\"], monitors: [\"dns:x@vip\"], interval: 10s}}"
    );
    let mut bench = Bench::with_outcomes(config("", &app), &[(ASK, true)]);
    bench.advance(secs(1));
    let last = asked(&mut bench, ASK).pop().unwrap();
    let vips: Vec<_> = last.iter().map(|target| target.vip).collect();
    assert_eq!(vips, [prefix(VIP), prefix(VIP6)]);
    assert!(bench.is_announced(VIP) && bench.is_announced(VIP6));
    // The network has no next hop for IPv6 for a while.
    let mut without = network();
    for peer in without.peers.values_mut() {
        peer.next_hop6 = None;
    }
    bench.event(Event::Network(without));
    bench.advance(secs(30));
    assert!(bench.is_announced(VIP) && !bench.is_announced(VIP6));
    let last = asked(&mut bench, ASK).pop().unwrap();
    assert_eq!(
        last.iter().map(|t| t.vip).collect::<Vec<_>>(),
        [prefix(VIP)]
    );
    bench.outcomes.clear();
    bench.event(Event::Network(network()));
    bench.advance(secs(0));
    assert!(bench.has_address(VIP6) && !bench.is_announced(VIP6));
    bench.answer_all(Outcome::pass());
    bench.advance(secs(0));
    bench.answer_all(Outcome::pass());
    assert!(bench.is_announced(VIP) && bench.is_announced(VIP6));
}

#[test]
fn where_addresses_are_managed_elsewhere_nobody_waits_for_one() {
    let app = APP.replace("KEYS", "");
    let mut bench = Bench::new(config("vip_interface: none", &app));
    bench.says("port:udp:53", true);
    bench.advance(secs(1));
    bench.answer_all(Outcome::pass());
    bench.advance(secs(1));
    assert_eq!(asked(&mut bench, ASK).len(), 1);
    bench.answer_all(Outcome::pass());
    assert_eq!(bench.done(), ["announce 192.0.2.1/32"]);
}

#[test]
fn a_wildcard_udp_service_that_nobody_asks_at_its_vip_is_told_of() {
    let hides = |keys: &str, monitors: &str, found: &str| {
        let app = format!("{{name: dns, vip: {VIP}, monitors: [{monitors}], {keys}}}");
        let mut bench = Bench::new(config("", &app));
        let found = Outcome::Pass(found.to_owned());
        bench.outcomes.insert("port:udp:53".to_owned(), found);
        bench.says("dns:x/A@127.0.0.1:53", true);
        bench.says(ASK, true);
        for (monitor, text) in std::mem::take(&mut bench.unanswered) {
            let outcome = bench.outcomes[&text].clone();
            bench.answer(monitor, outcome);
        }
        bench.advance(secs(1));
        assert_eq!(bench.state("dns"), AppState::Up);
        let standing = bench.core.app_status(bench.now, &name("dns")).unwrap();
        standing.hides_answers
    };
    let wildcard = crate::health::ON_WILDCARD;
    assert!(hides("", "\"port:udp:53\"", wildcard));
    assert!(hides("", "\"port:udp:53\", \"dns:x@127.0.0.1\"", wildcard));
    assert!(hides(
        "nats: [\"udp:53:8053\"]",
        "\"port:udp:53\"",
        wildcard
    ));
    assert!(!hides(
        "nats: [\"udp:5353:53\"]",
        "\"port:udp:53\"",
        wildcard
    ));
    assert!(!hides("", "\"port:udp:53\", \"dns:x@vip\"", wildcard));
    assert!(!hides("", "\"port:udp:53\"", ""));
}
