//! `when_down: last_resort` beside what else may change: settings, instances of a service, maintenance, other routes.

use super::bench::{Bench, config_with, name, prefix, secs, session_events};
use super::consul::{check, service};
use crate::app::Attributes;
use crate::consul::{Check, Checks, Service, Status};
use crate::core::{AppState, ConsulReport};
use crate::health::Outcome;
use crate::view::verdict::{Condition, Level, Verdict};

const VIP: &str = "192.0.2.1/32";

fn settings(bgp: &str, agent: &str, when_down: &str) -> crate::config::Config {
    let app = format!(
        "{{name: dns, vip: {VIP}, monitors: [\"port:udp:53\", \"exec:true\"], interval: 1s, \
         vip_config: {{when_down: {when_down}}}}}"
    );
    config_with(bgp, agent, &app)
}

/// With a session that is up.
fn bench(config: crate::config::Config) -> Bench {
    let outcomes = [("port:udp:53", true), ("exec:true", true)];
    let mut bench = Bench::with_outcomes(config, &outcomes);
    for event in session_events() {
        bench.event(event);
    }
    bench.advance(secs(2));
    bench
}

fn sick(config: crate::config::Config) -> Bench {
    let mut bench = bench(config);
    bench.says("exec:true", false);
    bench.advance(secs(2));
    assert!(bench.app("dns").last_resort.is_some());
    bench
}

fn attributes(bench: &Bench) -> Option<Attributes> {
    let routes = &bench.core.kernel.applied().routes;
    routes
        .get(&prefix(VIP))
        .map(|route| route.attributes.clone())
}

fn no_listener(bench: &mut Bench) {
    let closed = Outcome::NoListener("nothing listens on UDP port 53".to_owned());
    bench.outcomes.insert("port:udp:53".to_owned(), closed);
}

/// How many UPDATEs the router was sent.
fn updates(bench: &Bench) -> u64 {
    bench.core.peers(bench.now)[0].counters.sent.update
}

#[test]
fn to_and_from_a_last_resort_is_one_update_each() {
    let mut bench = bench(settings("", "", "last_resort"));
    bench.done();
    for passes in [false, true, false, true] {
        let before = updates(&bench);
        bench.says("exec:true", passes);
        bench.advance(secs(2));
        assert_eq!(updates(&bench), before + 1, "passes: {passes}");
    }
    assert!(bench.done().is_empty(), "no withdraw, no address, no NAT");
}

#[test]
fn a_reload_takes_effect_with_one_update() {
    let mut bench = sick(settings("", "", "last_resort"));
    let reload = |bench: &mut Bench, agent: &str, when_down: &str| {
        let before = updates(bench);
        bench.core.reload(bench.now, settings("", agent, when_down));
        bench.reconcile();
        bench.advance(secs(1));
        updates(bench) - before
    };
    let harder = "last_resort: {as_path_prepend: 20}";
    assert_eq!(reload(&mut bench, harder, "last_resort"), 1);
    assert_eq!(attributes(&bench).unwrap().as_path_prepend, Some(20));
    assert_eq!(reload(&mut bench, harder, "last_resort"), 0);
    assert_eq!(reload(&mut bench, harder, "{med: 9}"), 1);
    assert_eq!(attributes(&bench).unwrap().med, Some(9));
    assert_eq!(bench.app("dns").last_resort, None);
    assert_eq!(reload(&mut bench, harder, "last_resort"), 1);
    assert_eq!(attributes(&bench).unwrap().as_path_prepend, Some(20));
    assert_eq!(reload(&mut bench, harder, "withdraw"), 1);
    assert_eq!(attributes(&bench), None);
    // It was up before, so that it may come back although it is down.
    assert_eq!(
        reload(&mut bench, "when_down: last_resort", "last_resort"),
        1
    );
    assert_eq!(attributes(&bench).unwrap().as_path_prepend, Some(10));
}

/// Healthy hosts with the same settings announce with these: the sick one must not be the better choice.
#[test]
fn what_all_routes_have_does_not_make_a_last_resort_more_attractive() {
    let bgp = "as_path_prepend: 16, med: 4294967295, local_pref: 7";
    let agent = "last_resort: {local_pref: 50}";
    let healthy = bench(settings(bgp, agent, "last_resort"));
    assert_eq!(attributes(&healthy).unwrap(), Attributes::default());
    let sick = sick(settings(bgp, agent, "last_resort"));
    let sick = attributes(&sick).unwrap();
    assert_eq!(
        (sick.as_path_prepend, sick.med, sick.local_pref),
        (Some(16), Some(u32::MAX), Some(7))
    );
}

#[test]
fn each_change_is_told_once_with_what_became_of_the_routes() {
    let mut bench = bench(settings("", "", "last_resort"));
    bench.transitions.clear();
    bench.says("exec:true", false);
    bench.advance(secs(5));
    no_listener(&mut bench);
    bench.advance(secs(5));
    bench.says("port:udp:53", true);
    bench.advance(secs(5));
    bench.says("exec:true", true);
    bench.advance(secs(5));
    let transitions: Vec<String> = bench
        .transitions
        .iter()
        .map(|t| format!("{} -> {} {}: {}", t.from, t.to, t.last_resort, t.why))
        .collect();
    assert_eq!(
        transitions,
        [
            "up -> down true: announced as last resort: exec_1: fail: broken",
            "down -> down false: withdrawn: port:udp:53: fail: nothing listens on UDP port 53",
            "down -> down true: announced as last resort: exec_1: fail: broken",
            "down -> up false: announced as before: all monitors pass",
        ]
    );
    // Seen from outside it was down once.
    assert_eq!(bench.app("dns").transitions[&AppState::Down], 1);
    // The fact was a death, the opinions were none.
    assert_eq!(bench.app("dns").flaps, 1);
}

#[test]
fn the_verdict_is_failing_with_its_own_reason() {
    let mut bench = sick(settings("", "", "last_resort"));
    // Less than the hold time: the peer of the bench sends no KEEPALIVE.
    bench.advance(secs(60));
    let verdict = Verdict::of(&bench.core, bench.now, false);
    assert_eq!(verdict.level, Level::Failing);
    assert!(verdict.conditions.contains(&Condition::LastResort));
    assert!(!verdict.conditions.contains(&Condition::AppDown));
    let line = verdict.line();
    assert!(
        line.contains("app dns is announced as last resort for 6") && line.contains("broken"),
        "{line}"
    );
    no_listener(&mut bench);
    bench.advance(secs(11));
    let verdict = Verdict::of(&bench.core, bench.now, false);
    assert!(verdict.conditions.contains(&Condition::AppDown));
    assert!(!verdict.conditions.contains(&Condition::LastResort));
}

/// The check of a port that was closed and hangs now: no check has seen a listener since.
#[test]
fn silence_makes_no_opinion_of_a_fact() {
    let mut bench = bench(settings("", "", "last_resort"));
    no_listener(&mut bench);
    bench.advance(secs(11));
    assert!(!bench.is_announced(VIP));
    bench.outcomes.remove("port:udp:53");
    bench.advance(secs(60));
    assert!(!bench.is_announced(VIP));
    bench.says("port:udp:53", true);
    bench.answer_all(Outcome::pass());
    bench.advance(secs(11));
    assert!(bench.is_announced(VIP));
}

/// A dead app and its new definition with another port, of which nothing is known yet.
fn replaced_port(before: &Outcome) -> Bench {
    let with_port = |port: u16| {
        let app = format!(
            "{{name: web, vip: {VIP}, monitors: [\"port:tcp:{port}\", \"exec:true\"], \
             vip_config: {{when_down: last_resort}}}}"
        );
        config_with("", "", &app)
    };
    let outcomes = [("port:tcp:80", true), ("exec:true", true)];
    let mut bench = Bench::with_outcomes(with_port(80), &outcomes);
    bench.advance(secs(2));
    assert!(bench.is_announced(VIP));
    bench
        .outcomes
        .insert("port:tcp:80".to_owned(), before.clone());
    bench.says("exec:true", false);
    bench.advance(secs(20));
    bench.done();
    bench.core.reload(bench.now, with_port(8080));
    bench.reconcile();
    bench.advance(secs(1));
    bench
}

fn closed() -> Outcome {
    Outcome::NoListener("nothing listens".to_owned())
}

/// It must not be announced until it is known that there is nobody.
#[test]
fn nobody_is_announced_before_the_new_port_is_looked_at() {
    let mut bench = replaced_port(&closed());
    assert!(!bench.is_announced(VIP));
    bench.answer_all(closed());
    bench.advance(secs(60));
    assert!(!bench.is_announced(VIP));
    assert_eq!(bench.done(), [""; 0], "nor for a moment");
    // Whatever the first result is, it is not waited for again.
    for first in [Outcome::pass(), Outcome::unavailable("no sockets left")] {
        let mut bench = replaced_port(&closed());
        bench.outcomes.insert("port:tcp:8080".to_owned(), first);
        bench.answer_all(bench.outcomes["port:tcp:8080"].clone());
        bench.advance(secs(1));
        assert_eq!(attributes(&bench).unwrap().as_path_prepend, Some(10));
    }
}

/// Somebody answered until now.
#[test]
fn a_last_resort_stays_one_until_the_new_port_is_found_closed() {
    let mut bench = replaced_port(&Outcome::pass());
    assert_eq!(attributes(&bench).unwrap().as_path_prepend, Some(10));
    bench.answer_all(closed());
    assert_eq!(bench.done(), ["withdraw 192.0.2.1/32"]);
}

/// The undrain in an emergency: it was up all the time, only not announced.
#[test]
fn what_passed_while_it_was_drained_was_up_before() {
    let mut bench = Bench::with_outcomes(settings("", "", "last_resort"), &[]);
    bench.core.drain(bench.now, Some(&name("dns")));
    bench.says("port:udp:53", true);
    bench.says("exec:true", true);
    bench.answer_all(Outcome::pass());
    bench.advance(secs(5));
    assert_eq!(bench.state("dns"), AppState::Drained);
    bench.says("exec:true", false);
    bench.advance(secs(5));
    assert!(!bench.is_announced(VIP));
    bench.core.undrain(bench.now, Some(&name("dns")));
    bench.advance(secs(1));
    assert_eq!(attributes(&bench).unwrap().as_path_prepend, Some(10));
}

#[test]
fn after_a_restart_it_has_never_passed() {
    let agent = "allow_exec: [config, http]";
    let mut before = Bench::with_outcomes(config_with("", agent, ""), &[("exec:true", true)]);
    let params = [
        ("name", "dns"),
        ("vip", VIP),
        ("monitor", "exec:true"),
        ("when_down", "last_resort"),
    ];
    before.register(&params).unwrap();
    before.advance(secs(1));
    before.says("exec:true", false);
    before.advance(secs(20));
    assert!(before.app("dns").last_resort.is_some());
    let memory = before.core.saved_state();
    let mut after = Bench::with_outcomes(config_with("", agent, ""), &[("exec:true", false)]);
    after.core.restore(after.now, memory);
    after.advance(secs(20));
    assert_eq!(after.state("dns"), AppState::Down);
    assert!(!after.is_announced(VIP) && after.core.ready().is_err());
    after.says("exec:true", true);
    after.advance(secs(20));
    after.says("exec:true", false);
    after.advance(secs(20));
    assert!(after.app("dns").last_resort.is_some(), "it is remembered");
}

fn web(id: &str) -> Service {
    service(
        id,
        &["gocast_vip=192.0.2.1/32", "sidecast_when_down=last_resort"],
    )
}

/// Instances of one service, all of which pass.
fn instances(ids: &[&str]) -> Bench {
    let agent = "consul_addr: 'http://localhost:8500'";
    let mut bench = Bench::new(config_with("", agent, ""));
    for event in session_events() {
        bench.event(event);
    }
    let services: Vec<Service> = ids.iter().map(|id| web(id)).collect();
    bench.services(&services);
    judged(&mut bench, ids, &[], &[]);
    bench.advance(secs(1));
    assert!(bench.is_announced(VIP));
    bench
}

/// Consul's result for each instance.
fn judged(bench: &mut Bench, passing: &[&str], critical: &[&str], maintenance: &[&str]) {
    let all =
        |ids: &[&str], status| -> Vec<Check> { ids.iter().map(|id| check(id, status)).collect() };
    let mut checks = all(passing, Status::Passing);
    checks.extend(all(critical, Status::Critical));
    checks.extend(
        all(maintenance, Status::Critical)
            .into_iter()
            .map(|own| Check {
                id: format!("_service_maintenance:{}", own.service_id),
                ..own
            }),
    );
    bench.report(ConsulReport::NodeChecks(Checks {
        all: checks,
        complete: true,
    }));
    bench.advance(secs(1));
}

/// Consul's maintenance mode is an operator's decision and outweighs the other checks.
#[test]
fn maintenance_in_consul_withdraws() {
    let mut bench = instances(&["web-1"]);
    judged(&mut bench, &[], &["web-1"], &[]);
    assert!(bench.app("web").last_resort.is_some());
    judged(&mut bench, &[], &["web-1"], &["web-1"]);
    assert!(!bench.is_announced(VIP));
    judged(&mut bench, &["web-1"], &[], &["web-1"]);
    assert!(!bench.is_announced(VIP));
    judged(&mut bench, &[], &["web-1"], &[]);
    assert!(bench.is_announced(VIP));
    let mut node = check("", Status::Critical);
    node.id = "_node_maintenance".to_owned();
    let all = vec![check("web-1", Status::Passing), node];
    bench.report(ConsulReport::NodeChecks(Checks {
        all,
        complete: true,
    }));
    assert!(!bench.is_announced(VIP));
    judged(&mut bench, &["web-1"], &[], &[]);
    assert!(bench.is_announced(VIP));
}

#[test]
fn a_healthy_standby_takes_over_before_anybody_is_a_last_resort() {
    let mut bench = instances(&["web-1", "web-2"]);
    let (before, transitions) = (updates(&bench), bench.transitions.len());
    judged(&mut bench, &["web-2"], &["web-1"], &[]);
    assert_eq!(updates(&bench), before, "the route is the same");
    assert_eq!(bench.app("web").last_resort, None);
    assert_eq!(bench.transitions.len(), transitions + 1, "web is down");
    // Now the other one too: it holds the VIP.
    judged(&mut bench, &[], &["web-1", "web-2"], &[]);
    assert_eq!(updates(&bench), before + 1);
    let last_resort = |bench: &Bench, app: &str| bench.app(app).last_resort.is_some();
    assert!(last_resort(&bench, "web@web-2") && !last_resort(&bench, "web"));
    let verdict = Verdict::of(&bench.core, bench.now, false);
    let reasons: Vec<&str> = verdict
        .reasons
        .iter()
        .filter(|reason| reason.app.is_some())
        .map(|reason| reason.condition.as_str())
        .collect();
    assert_eq!(reasons, ["app_down", "last_resort"]);
    // A healthy one takes over from a sick holder.
    judged(&mut bench, &["web-1"], &["web-2"], &[]);
    assert_eq!(updates(&bench), before + 2);
    assert!(!last_resort(&bench, "web") && !last_resort(&bench, "web@web-2"));
    let last = bench.transitions.last().map(|t| t.why.clone());
    assert!(last.is_some_and(|why| why.starts_with("handed over")));
}

#[test]
fn a_sick_standby_takes_over_from_a_holder_that_is_gone() {
    let mut bench = instances(&["web-1", "web-2"]);
    judged(&mut bench, &["web-1"], &["web-2"], &[]);
    bench.done();
    judged(&mut bench, &[], &["web-2"], &["web-1"]);
    assert!(bench.app("web@web-2").last_resort.is_some());
    assert!(bench.done().is_empty(), "no withdraw between");
    bench.core.drain(bench.now, Some(&name("web")));
    bench.advance(secs(1));
    assert!(!bench.is_announced(VIP));
}
