//! Apps come, go up and down, drain, flap and leave.

use std::time::Duration;

use super::bench::{Bench, app, config, name, prefix, secs};
use crate::core::{AppState, ChangeKind, Core, Event, RegisterOutcome, StepError};
use crate::health::Outcome;
use crate::net::Community;

const DNS: &str = "{name: dns, vip: 192.0.2.53/32, monitors: [\"port:udp:53\"], interval: 1s}";
const VIP: &str = "192.0.2.53/32";
const MONITOR: &str = "port:udp:53";
/// An interval, and the time for a second look.
const FALL: Duration = Duration::from_millis(1010);

fn dns(more: &str) -> String {
    DNS.replace('}', &format!(", {more}}}"))
}

#[test]
fn nothing_is_announced_before_the_first_check_has_passed() {
    let mut bench = Bench::new(config("", DNS));
    bench.advance(secs(3));
    assert_eq!(bench.state("dns"), AppState::Pending);
    assert!(bench.announced().is_empty() && bench.addresses.is_empty());
    let (monitor, _) = bench.unanswered.pop().unwrap();
    bench.answer(monitor, Outcome::pass());
    bench.reconcile();
    assert_eq!(bench.state("dns"), AppState::Up);
    assert_eq!(
        bench.done(),
        [format!("add {VIP}"), format!("announce {VIP}")]
    );
}

#[test]
fn one_check_is_under_way_at_a_time_and_the_first_is_at_once() {
    let mut bench = Bench::new(config("", DNS));
    assert_eq!((bench.checks, bench.now), (1, bench.start));
    bench.advance(secs(4));
    assert_eq!(bench.checks, 1);
    let (monitor, _) = bench.unanswered.pop().unwrap();
    bench.says(MONITOR, true);
    bench.answer(monitor, Outcome::pass());
    bench.advance(secs(10));
    assert_eq!(
        bench.checks,
        1 + 11,
        "at once after the late answer, then every second"
    );
}

#[test]
fn a_queued_check_is_late_and_not_failed() {
    let http = "http://h/";
    let app = DNS.replace(MONITOR, http);
    let mut bench = Bench::with_outcomes(config("", &app), &[(http, true)]);
    bench.outcomes.clear();
    bench.advance(secs(1));
    let (monitor, _) = bench.unanswered.pop().unwrap();
    for _ in 0..30 {
        bench.event(Event::CheckQueued { monitor });
        bench.advance(secs(1));
    }
    assert!(bench.is_announced(VIP));
    let app = bench.core.app(bench.now, &name("dns")).unwrap();
    let shown = app.monitors[0].last.as_ref().unwrap();
    assert!(shown.message().starts_with("late: "), "{shown}");
    assert_eq!(bench.unanswered.len(), 0, "it is not asked for once more");
    // Once it has begun it has its time as ever.
    bench.advance(secs(9));
    assert!(!bench.is_announced(VIP));
}

/// A hung check must not keep a dead service announced, as in GoCast.
#[test]
fn a_check_that_never_answers_counts_as_failed() {
    let mut bench = Bench::with_outcomes(config("", DNS), &[(MONITOR, true)]);
    assert!(bench.is_announced(VIP));
    bench.outcomes.clear();
    bench.advance(secs(9));
    assert!(!bench.is_announced(VIP));
    assert!(
        bench.app("dns").why.contains("no answer"),
        "{}",
        bench.app("dns").why
    );
    bench.says(MONITOR, true);
    let (monitor, _) = bench.unanswered.pop().unwrap();
    bench.answer(monitor, Outcome::pass());
    bench.reconcile();
    assert!(bench.is_announced(VIP));
}

#[test]
fn a_withdraw_waits_for_nothing_and_the_address_lingers() {
    let mut bench = Bench::with_outcomes(config("", DNS), &[(MONITOR, true)]);
    bench.done();
    bench.says(MONITOR, false);
    bench.advance(FALL);
    assert_eq!(bench.done(), [format!("withdraw {VIP}")]);
    bench.advance(secs(9));
    assert!(bench.has_address(VIP));
    bench.advance(secs(2));
    assert_eq!(bench.done(), [format!("remove {VIP}")]);
    bench.says(MONITOR, true);
    bench.advance(secs(1));
    assert_eq!(
        bench.done(),
        [format!("add {VIP}"), format!("announce {VIP}")]
    );
}

#[test]
fn a_destroyed_socket_is_checked_at_once() {
    let mut bench = Bench::with_outcomes(config("", DNS), &[(MONITOR, true)]);
    bench.says(MONITOR, false);
    let port = |port| Event::SocketDestroyed {
        protocol: crate::app::Protocol::Udp,
        port,
    };
    bench.event(port(54));
    assert!(bench.is_announced(VIP), "another port");
    bench.event(port(53));
    bench.advance(Duration::from_millis(1));
    assert!(bench.is_announced(VIP), "it may be bound anew");
    bench.advance(Duration::from_millis(1));
    assert!(!bench.is_announced(VIP));
}

#[test]
fn a_port_bound_anew_within_two_milliseconds_was_never_down() {
    for fall in [1, 3] {
        let app = dns(&format!("fall: {fall}"));
        let mut bench = Bench::with_outcomes(config("", &app), &[(MONITOR, true)]);
        bench.says(MONITOR, false);
        bench.event(Event::SocketDestroyed {
            protocol: crate::app::Protocol::Udp,
            port: 53,
        });
        bench.advance(Duration::from_millis(1));
        // A second report does not hasten the second look.
        bench.event(Event::RecheckPorts);
        bench.says(MONITOR, true);
        bench.advance(secs(3));
        assert_eq!(bench.state("dns"), AppState::Up);
        let states = bench.core.events();
        let states = states.filter(|event| event.change.kind == ChangeKind::State);
        assert_eq!(states.count(), 1, "it only ever came up");
    }
}

#[test]
fn fall_of_a_port_is_counted_in_quick_checks() {
    let mut bench = Bench::with_outcomes(config("", &dns("fall: 3")), &[(MONITOR, true)]);
    let before = bench.checks;
    bench.says(MONITOR, false);
    bench.event(Event::RecheckPorts);
    bench.advance(Duration::from_millis(5));
    assert!(bench.is_announced(VIP));
    bench.advance(Duration::from_millis(1));
    assert!(!bench.is_announced(VIP));
    assert_eq!(
        bench.checks - before,
        4,
        "one look in doubt and three that count"
    );
}

/// A flood that the kernel cannot tell of in full must not run a command for every part of it.
#[test]
fn lost_notifications_recheck_ports_and_nothing_else() {
    let command = "exec:true";
    let app = format!(
        "{{name: a, vip: 192.0.2.1/32, monitors: [\"{MONITOR}\", \"{command}\"], interval: 100s}}"
    );
    let passing = [(MONITOR, true), (command, true)];
    let mut bench = Bench::with_outcomes(config("", &app), &passing);
    let before = bench.checks;
    bench.event(Event::RecheckPorts);
    assert_eq!(bench.checks - before, 1);
}

/// A check that cannot be performed leaves health as it was, and is not repeated ever faster.
#[test]
fn a_suspect_port_that_cannot_be_checked_stays_up() {
    let mut bench = Bench::with_outcomes(config("", DNS), &[(MONITOR, true)]);
    bench.says(MONITOR, false);
    bench.event(Event::RecheckPorts);
    let before = bench.checks;
    let away = Outcome::unavailable("no descriptors left");
    bench.outcomes.insert(MONITOR.to_owned(), away);
    bench.advance(secs(1));
    assert!(bench.is_announced(VIP));
    assert!((9..=11).contains(&(bench.checks - before)));
    bench.says(MONITOR, false);
    bench.advance(Duration::from_millis(100));
    assert!(!bench.is_announced(VIP));
}

/// Half-open connections keep the kernel from reporting a listener's end.
#[test]
fn tcp_ports_with_clients_are_checked_every_1200_ms() {
    let app = |name: &str, vip: &str, kind: &str| {
        format!("{{name: {name}, vip: {vip}/32, monitors: [\"port:{kind}:1\"], interval: 100s}}")
    };
    let apps = [app("a", "192.0.2.1", "tcp"), app("b", "192.0.2.2", "udp")].join(", ");
    let passing = [("port:tcp:1", true), ("port:udp:1", true)];
    let mut bench = Bench::with_outcomes(config("", &apps), &passing);
    bench.advance(secs(50));
    assert_eq!(bench.checks, 2);
    bench.event(Event::ClientsSeen);
    bench.advance(secs(12));
    assert_eq!(bench.checks, 12, "only the TCP port");
    bench.says("port:tcp:1", false);
    bench.advance(Duration::from_millis(1300));
    assert_eq!(bench.state("a"), AppState::Down);
    bench.says("port:tcp:1", true);
    bench.advance(secs(70));
    let before = bench.checks;
    bench.advance(secs(20));
    assert_eq!(bench.checks, before, "nobody came any more");
}

#[test]
fn ports_that_are_down_are_checked_together_every_100_ms() {
    let app = |n: u16| {
        format!(
            "{{name: a{n}, vip: 192.0.2.{n}/32, monitors: [\"port:tcp:{n}\"], interval: 10s, rise: {}}}",
            if n == 1 { 3 } else { 1 }
        )
    };
    let apps = [app(1), app(2), app(3)].join(", ");
    let mut bench = Bench::new(config("", &apps));
    // Their first answers come at different times.
    for (monitor, _) in std::mem::take(&mut bench.unanswered) {
        bench.answer(monitor, Outcome::fail("nothing listens"));
        bench.advance(Duration::from_millis(7));
    }
    for n in 1..=3 {
        bench.says(&format!("port:tcp:{n}"), false);
    }
    let mut times = std::collections::BTreeSet::new();
    let before = bench.checks;
    for _ in 0..1000 {
        let checks = bench.checks;
        bench.advance(Duration::from_millis(1));
        if bench.checks != checks {
            assert_eq!(bench.checks - checks, 3, "all in one turn");
            times.insert(bench.now);
        }
    }
    assert_eq!((times.len(), bench.checks - before), (10, 30));
    for n in 1..=2 {
        bench.says(&format!("port:tcp:{n}"), true);
    }
    bench.advance(Duration::from_millis(100));
    assert_eq!(bench.state("a2"), AppState::Up);
    assert_eq!(bench.state("a1"), AppState::Down, "rise: 3");
    bench.advance(Duration::from_millis(200));
    assert_eq!(bench.state("a1"), AppState::Up);
    // What is up is looked at every interval again.
    let before = bench.checks;
    bench.advance(secs(9));
    assert_eq!(bench.checks - before, 90, "only the third");
}

#[test]
fn an_unavailable_outcome_leaves_health_as_it_was() {
    let mut bench = Bench::with_outcomes(config("", DNS), &[(MONITOR, true)]);
    let away = Outcome::unavailable("no sockets left");
    bench.outcomes.insert(MONITOR.to_owned(), away);
    bench.advance(secs(30));
    assert!(bench.is_announced(VIP));
}

#[test]
fn rise_fall_and_fast_interval_decide_when() {
    let app =
        dns("interval: 10s, fall: 3, rise: 2, fast_interval: 1s").replace(", interval: 1s", "");
    let mut bench = Bench::with_outcomes(config("", &app), &[(MONITOR, true)]);
    assert!(!bench.is_announced(VIP), "one pass of two");
    bench.advance(secs(1));
    assert!(
        bench.is_announced(VIP),
        "the second came after fast_interval"
    );
    bench.says(MONITOR, false);
    bench.advance(secs(11));
    assert!(bench.is_announced(VIP));
    bench.advance(FALL);
    assert!(!bench.is_announced(VIP));
}

#[test]
fn an_app_without_monitors_is_healthy() {
    let bench = Bench::new(config("", "{name: dns, vip: 192.0.2.53/32}"));
    assert_eq!(bench.state("dns"), AppState::Up);
    assert!(bench.is_announced(VIP));
}

#[test]
fn start_delay_holds_back_only_the_first_announcement() {
    let mut bench = Bench::with_outcomes(config("", &dns("start_delay: 5s")), &[(MONITOR, true)]);
    assert_eq!(bench.state("dns"), AppState::Pending);
    bench.advance(secs(4));
    assert!(bench.announced().is_empty());
    bench.advance(secs(1));
    assert!(bench.is_announced(VIP));
    bench.says(MONITOR, false);
    bench.advance(secs(1));
    bench.says(MONITOR, true);
    bench.advance(secs(1));
    assert!(bench.is_announced(VIP));
}

#[test]
fn damping_limits_only_coming_back() {
    let mut bench = Bench::with_outcomes(config("", DNS), &[(MONITOR, true)]);
    for flap in 0..6 {
        bench.says(MONITOR, false);
        bench.advance(FALL);
        assert!(
            !bench.is_announced(VIP),
            "flap {flap}: going is never delayed"
        );
        bench.says(MONITOR, true);
        bench.advance(secs(1));
        assert_eq!(bench.is_announced(VIP), flap < 5, "flap {flap}");
    }
    assert_eq!(bench.state("dns"), AppState::HeldDown);
    assert!(bench.app("dns").held_for.is_some());
    bench.advance(secs(1));
    assert!(bench.is_announced(VIP), "held for a second");
    bench.says(MONITOR, false);
    bench.advance(FALL);
    bench.says(MONITOR, true);
    bench.advance(Duration::from_millis(1900));
    assert!(!bench.is_announced(VIP), "then for two");
    bench.advance(secs(1));
    assert!(bench.is_announced(VIP));
}

#[test]
fn damping_can_be_switched_off() {
    let mut bench =
        Bench::with_outcomes(config("", &dns("hold_down: \"off\"")), &[(MONITOR, true)]);
    for _ in 0..20 {
        bench.says(MONITOR, false);
        bench.advance(secs(1));
        bench.says(MONITOR, true);
        bench.advance(secs(1));
        assert!(bench.is_announced(VIP));
    }
}

#[test]
fn a_down_app_is_announced_only_as_its_when_down_says() {
    let app = dns(
        "vip_config: {bgp_communities: [\"65001:53\"], when_down: {med: 1000, bgp_communities: [graceful-shutdown]}}",
    );
    let mut bench = Bench::with_outcomes(config("", &app), &[(MONITOR, true)]);
    let route = |bench: &Bench| bench.core.kernel.applied().routes[&prefix(VIP)].clone();
    assert_eq!(route(&bench).attributes.med, None);
    bench.says(MONITOR, false);
    bench.advance(FALL);
    let down = route(&bench);
    assert_eq!(down.attributes.med, Some(1000));
    let communities = [Community::new(65001, 53), Community::GRACEFUL_SHUTDOWN];
    assert_eq!(down.attributes.communities, communities.into());
    bench.advance(secs(100));
    assert!(
        bench.has_address(VIP),
        "what is announced keeps its address"
    );
    bench.says(MONITOR, true);
    bench.advance(secs(1));
    assert_eq!(route(&bench).attributes.med, None);
}

#[test]
fn a_heartbeat_keeps_an_app_up() {
    let app = "{name: batch, vip: 192.0.2.53/32, monitors: [\"heartbeat:5s\"]}";
    let mut bench = Bench::new(config("", app));
    assert!(bench.announced().is_empty());
    assert!(bench.core.heartbeat(bench.now, &name("nobody")).is_none());
    bench.core.heartbeat(bench.now, &name("batch")).unwrap();
    bench.reconcile();
    assert!(bench.is_announced(VIP));
    bench.advance(secs(4));
    bench.core.heartbeat(bench.now, &name("batch")).unwrap();
    bench.advance(secs(4));
    assert!(bench.is_announced(VIP));
    bench.advance(secs(2));
    assert!(!bench.is_announced(VIP));
    assert!(bench.app("batch").why.contains("no heartbeat"));
}

/// GoCast appended rules at every recovery and never removed them.
#[test]
fn nat_rules_are_there_once_and_go_with_the_cleanup_timer() {
    let app = dns("nats: [\"udp:53:8053\"]");
    let mut bench = Bench::with_outcomes(config("cleanup_timer: 60s", &app), &[(MONITOR, true)]);
    let order = ["add", "nat", "announce"];
    let done = bench.done();
    assert!(
        done.iter()
            .zip(order)
            .all(|(did, word)| did.starts_with(word)),
        "{done:?}"
    );
    for _ in 0..3 {
        bench.says(MONITOR, false);
        bench.advance(secs(1));
        bench.says(MONITOR, true);
        bench.advance(secs(1));
    }
    assert_eq!(bench.nat.rules.len(), 1);
    let rule = bench.nat.rules.first().unwrap().clone();
    assert_eq!((rule.listen, rule.destination), (53, 8053));
    assert_eq!(rule.target.to_string(), "10.0.0.2");
    bench.says(MONITOR, false);
    bench.advance(secs(50));
    assert_eq!(bench.nat.rules.len(), 1);
    bench.advance(secs(12));
    assert!(bench.nat.rules.is_empty());
}

/// In GoCast the old definition of a replaced app stayed announced forever.
#[test]
fn a_replaced_app_leaves_nothing_of_the_old_one() {
    let mut bench = Bench::with_outcomes(
        config("", ""),
        &[("port:tcp:1", true), ("port:tcp:2", true)],
    );
    let first = [
        ("name", "a"),
        ("vip", "192.0.2.1/32"),
        ("vip", "192.0.2.2/32"),
        ("monitor", "port:tcp:1"),
    ];
    assert_eq!(bench.register(&first).unwrap(), RegisterOutcome::Added);
    assert_eq!(bench.register(&first).unwrap(), RegisterOutcome::Unchanged);
    bench.done();
    let second = [
        ("name", "a"),
        ("vip", "192.0.2.2/32"),
        ("vip", "192.0.2.3/32"),
        ("monitor", "port:tcp:2"),
    ];
    assert_eq!(bench.register(&second).unwrap(), RegisterOutcome::Replaced);
    let done = bench.done();
    assert!(
        done.contains(&"withdraw 192.0.2.1/32".to_owned()),
        "{done:?}"
    );
    assert!(
        !done.iter().any(|did| did.ends_with("192.0.2.2/32")),
        "{done:?}"
    );
    bench.advance(secs(5));
    let left: Vec<String> = bench.addresses.keys().map(ToString::to_string).collect();
    assert_eq!(left, ["192.0.2.2/32", "192.0.2.3/32"]);
    bench.unregister("a");
    assert!(bench.announced().is_empty());
    bench.advance(secs(5));
    assert!(bench.addresses.is_empty());
}

#[test]
fn vips_in_both_stay_until_the_new_monitors_first_round_fails() {
    let mut bench = Bench::with_outcomes(config("", ""), &[("port:tcp:1", true)]);
    bench
        .register(&[("name", "a"), ("vip", VIP), ("monitor", "port:tcp:1")])
        .unwrap();
    bench.done();
    let new = [
        ("name", "a"),
        ("vip", VIP),
        ("vip", "192.0.2.9/32"),
        ("monitor", "port:tcp:1"),
        ("monitor", "port:tcp:2"),
    ];
    bench.register(&new).unwrap();
    assert!(bench.is_announced(VIP) && !bench.is_announced("192.0.2.9/32"));
    assert_eq!(
        bench.app("a").monitors[0].age,
        Some(secs(0)),
        "an equal monitor keeps what it knows"
    );
    let (monitor, _) = bench.unanswered.pop().unwrap();
    bench.answer(monitor, Outcome::fail("no"));
    bench.reconcile();
    assert!(!bench.is_announced(VIP));
}

#[test]
fn new_vips_join_once_the_new_monitors_pass() {
    let mut bench = Bench::with_outcomes(config("", ""), &[("port:tcp:1", true)]);
    bench
        .register(&[("name", "a"), ("vip", VIP), ("monitor", "port:tcp:1")])
        .unwrap();
    bench
        .register(&[
            ("name", "a"),
            ("vip", VIP),
            ("vip", "192.0.2.9/32"),
            ("monitor", "port:tcp:2"),
        ])
        .unwrap();
    let (monitor, _) = bench.unanswered.pop().unwrap();
    bench.answer(monitor, Outcome::pass());
    bench.reconcile();
    assert!(bench.is_announced(VIP) && bench.is_announced("192.0.2.9/32"));
}

/// In GoCast apps of the configuration never came back after the cleanup timer.
#[test]
fn cleanup_forgets_only_what_http_registered() {
    let outcomes = [(MONITOR, false), ("port:tcp:1", false)];
    let mut bench = Bench::with_outcomes(config("cleanup_timer: 30s", DNS), &outcomes);
    bench
        .register(&[
            ("name", "web"),
            ("vip", "192.0.2.80/32"),
            ("monitor", "port:tcp:1"),
        ])
        .unwrap();
    bench.advance(secs(40));
    assert!(
        bench.core.app(bench.now, &name("web")).is_none(),
        "never healthy: forgotten too"
    );
    bench.says(MONITOR, true);
    bench.advance(secs(1));
    assert!(bench.is_announced(VIP));
}

/// GoCast lost edits of communities and NAT.
#[test]
fn a_change_of_attributes_or_nat_alone_is_a_change() {
    let mut bench = Bench::new(config("", ""));
    let base = [("name", "a"), ("vip", VIP)];
    bench.register(&base).unwrap();
    bench.done();
    let with = |extra| [base[0], base[1], extra];
    let community = with(("vip_communities", "65001:1"));
    assert_eq!(
        bench.register(&community).unwrap(),
        RegisterOutcome::Replaced
    );
    let route = &bench.core.kernel.applied().routes[&prefix(VIP)];
    assert_eq!(
        route.attributes.communities,
        [Community::new(65001, 1)].into()
    );
    assert_eq!(
        bench.register(&with(("nat", "udp:53:8053"))).unwrap(),
        RegisterOutcome::Replaced
    );
    assert_eq!(bench.nat.rules.len(), 1);
    assert!(
        !bench.done().iter().any(|did| did.starts_with("withdraw")),
        "in place"
    );
}

/// In GoCast a running check could announce again what had been removed.
#[test]
fn a_late_result_is_dropped() {
    let mut bench = Bench::new(config("", ""));
    bench
        .register(&[("name", "a"), ("vip", VIP), ("monitor", "port:tcp:1")])
        .unwrap();
    let (monitor, _) = bench.unanswered.pop().unwrap();
    bench.unregister("a");
    bench.answer(monitor, Outcome::pass());
    bench.advance(secs(5));
    assert!(bench.announced().is_empty() && bench.addresses.is_empty());
    bench
        .register(&[("name", "a"), ("vip", VIP), ("monitor", "port:tcp:1")])
        .unwrap();
    bench.answer(monitor, Outcome::pass());
    bench.reconcile();
    assert!(
        bench.announced().is_empty(),
        "the old answer is not the new app's"
    );
}

/// In GoCast a cleanup timer outlived its app and hit the next one of that name.
#[test]
fn a_cleanup_deadline_goes_with_its_app() {
    let mut bench =
        Bench::with_outcomes(config("cleanup_timer: 30s", ""), &[("port:tcp:1", false)]);
    let params = [("name", "a"), ("vip", VIP), ("monitor", "port:tcp:1")];
    bench.register(&params).unwrap();
    bench.advance(secs(20));
    bench.unregister("a");
    bench.register(&params).unwrap();
    bench.advance(secs(15));
    assert_eq!(bench.state("a"), AppState::Down, "its own time is not over");
    bench.advance(secs(20));
    assert!(bench.core.app(bench.now, &name("a")).is_none());
}

/// In GoCast apps shared the memory of the global communities.
#[test]
fn one_apps_communities_never_reach_another() {
    let apps = "{name: a, vip: 192.0.2.1/32, vip_config: {bgp_communities: [\"65001:1\"]}}, \
                {name: b, vip: 192.0.2.2/32, vip_config: {bgp_communities: [\"65001:2\"]}}";
    let bench = Bench::new(config("", apps));
    let routes = &bench.core.kernel.applied().routes;
    let of = |vip| &routes[&prefix(vip)].attributes.communities;
    assert_eq!(*of("192.0.2.1/32"), [Community::new(65001, 1)].into());
    assert_eq!(*of("192.0.2.2/32"), [Community::new(65001, 2)].into());
}

#[test]
fn a_drain_withdraws_waits_and_belongs_to_the_name() {
    let mut bench = Bench::with_outcomes(config("", &dns("drain_time: 5s")), &[(MONITOR, true)]);
    let dns = name("dns");
    bench.core.drain(bench.now, Some(&dns));
    bench.reconcile();
    assert!(!bench.is_announced(VIP));
    assert_eq!(bench.state("dns"), AppState::Draining);
    assert!(!bench.core.drained(Some(&dns)));
    bench.advance(secs(4));
    assert!(!bench.core.drained(Some(&dns)));
    bench.advance(secs(1));
    assert!(bench.core.drained(Some(&dns)));
    assert_eq!(bench.state("dns"), AppState::Drained);
    bench.core.undrain(bench.now, Some(&dns));
    bench.reconcile();
    assert!(bench.is_announced(VIP));
}

#[test]
fn a_drain_survives_registering_again_and_cleanup() {
    let mut bench = Bench::with_outcomes(config("cleanup_timer: 30s", ""), &[("port:tcp:1", true)]);
    let params = [("name", "a"), ("vip", VIP), ("monitor", "port:tcp:1")];
    bench.core.drain(bench.now, Some(&name("a")));
    bench.register(&params).unwrap();
    assert!(!bench.is_announced(VIP));
    assert_eq!(
        bench.state("a"),
        AppState::Drained,
        "nothing was out: nothing to wait for"
    );
    bench.says("port:tcp:1", false);
    bench.advance(secs(60));
    assert!(bench.core.app(bench.now, &name("a")).is_none());
    bench.says("port:tcp:1", true);
    bench.register(&params).unwrap();
    assert_eq!(bench.state("a"), AppState::Drained);
    bench.core.undrain(bench.now, None);
    bench.reconcile();
    assert!(bench.is_announced(VIP));
}

/// Whoever registers, drains and unregisters one name after the other costs no memory without bound.
#[test]
fn drains_of_unknown_apps_are_kept_up_to_a_limit() {
    let mut bench = Bench::with_outcomes(config("", &dns("")), &[(MONITOR, true)]);
    bench.core.drain(bench.now, Some(&name("dns")));
    for number in 0..1200 {
        let gone = name(&format!("a{number}"));
        bench.core.drain(bench.now, Some(&gone));
    }
    let drains = bench.core.saved_state().drains;
    assert_eq!(drains.len(), 1001);
    assert!(drains.contains(&name("dns")), "it has an app");
    assert!(
        drains.contains(&name("a1199")),
        "the latest is not the one that goes"
    );
    bench.core.drain(bench.now, None);
    for number in 0..1200 {
        let gone = name(&format!("a{number}"));
        bench.core.undrain(bench.now, Some(&gone));
    }
    assert_eq!(bench.core.saved_state().undrained.len(), 1001);
}

#[test]
fn one_of_all_that_are_drained_can_come_back_alone() {
    let mut bench = Bench::with_outcomes(config("cleanup_timer: 30s", ""), &[("port:tcp:1", true)]);
    let other = "192.0.2.2/32";
    let register = |bench: &mut Bench, name, vip| {
        let params = [("name", name), ("vip", vip), ("monitor", "port:tcp:1")];
        bench.register(&params).unwrap();
    };
    register(&mut bench, "a", VIP);
    bench.core.drain(bench.now, None);
    bench.core.undrain(bench.now, Some(&name("a")));
    bench.reconcile();
    assert!(bench.is_announced(VIP));
    register(&mut bench, "b", other);
    assert_eq!(bench.state("b"), AppState::Drained, "what comes later too");
    // A restart knows it, and so does whoever registers again.
    let memory = bench.core.saved_state();
    let mut again = Core::new(config("", ""), 3, bench.now);
    again.restore(bench.now, memory.clone());
    assert!(memory.drain_all && memory.undrained == [name("a")].into());
    assert_eq!(again.saved_state().undrained, memory.undrained);
    bench.core.unregister(bench.now, &name("a"));
    register(&mut bench, "a", VIP);
    assert!(bench.is_announced(VIP));
    // The last request counts.
    bench.core.drain(bench.now, Some(&name("a")));
    bench.reconcile();
    assert!(!bench.is_announced(VIP));
    bench.core.undrain(bench.now, Some(&name("a")));
    bench.core.drain(bench.now, None);
    bench.reconcile();
    assert!(!bench.is_announced(VIP) && !bench.is_announced(other));
    bench.core.undrain(bench.now, None);
    bench.reconcile();
    assert!(bench.is_announced(VIP) && bench.is_announced(other));
    assert_eq!(bench.core.saved_state().undrained, [].into());
}

#[test]
fn when_draining_may_keep_the_route() {
    let app = dns("vip_config: {when_draining: {as_path_prepend: 3}}");
    let mut bench = Bench::with_outcomes(config("", &app), &[(MONITOR, true)]);
    bench.core.drain(bench.now, None);
    bench.advance(secs(3));
    assert_eq!(bench.state("dns"), AppState::Drained);
    let route = &bench.core.kernel.applied().routes[&prefix(VIP)];
    assert_eq!(route.attributes.as_path_prepend, Some(3));
    bench.says(MONITOR, false);
    bench.advance(FALL);
    assert!(
        !bench.is_announced(VIP),
        "down and draining: when_down withdraws"
    );
}

#[test]
fn a_drain_waits_at_most_a_second_for_the_peers() {
    let mut bench = Bench::with_outcomes(config("drain_time: 0", DNS), &[(MONITOR, true)]);
    bench.acknowledges = false;
    bench.core.drain(bench.now, None);
    bench.advance(secs(1));
    assert!(bench.core.drained(None));
}

#[test]
fn a_maintenance_file_acts_like_a_drain() {
    let app = dns("maintenance_file: /etc/sidecast/dns.maintenance");
    let mut bench = Bench::with_outcomes(config("", &app), &[(MONITOR, true)]);
    assert_eq!(bench.core.maintenance_files().len(), 1);
    let there = |present| Event::Maintenance {
        app: name("dns"),
        present,
    };
    bench.event(there(true));
    assert_eq!(bench.state("dns"), AppState::Maintenance);
    assert!(!bench.is_announced(VIP));
    bench.event(there(false));
    assert!(bench.is_announced(VIP));
    bench.event(there(true));
    bench.core.reload(bench.now, config("", DNS));
    bench.reconcile();
    assert!(bench.is_announced(VIP), "the file is no longer asked for");
}

#[test]
fn an_address_that_is_always_there_comes_before_health() {
    let app = dns("vip_presence: always");
    let mut bench = Bench::with_outcomes(config("", &app), &[(MONITOR, false)]);
    assert!(bench.has_address(VIP) && !bench.is_announced(VIP));
    bench.says(MONITOR, true);
    bench.advance(secs(1));
    bench.says(MONITOR, false);
    bench.advance(secs(60));
    assert!(bench.has_address(VIP));
}

#[test]
fn without_linger_the_address_stays_until_cleanup() {
    let mut bench = Bench::with_outcomes(
        config("vip_linger: \"off\", cleanup_timer: 60s", DNS),
        &[(MONITOR, true)],
    );
    bench.says(MONITOR, false);
    bench.advance(secs(50));
    assert!(bench.has_address(VIP));
    bench.advance(secs(12));
    assert!(!bench.has_address(VIP));
}

#[test]
fn a_failing_step_is_tried_again_and_the_route_waits() {
    let mut bench = Bench::new(config("", DNS));
    let error = StepError {
        message: "no buffer space".to_owned(),
        permanent: false,
    };
    bench.failing.insert(prefix(VIP), error);
    let (monitor, _) = bench.unanswered.pop().unwrap();
    bench.says(MONITOR, true);
    bench.answer(monitor, Outcome::pass());
    bench.advance(secs(20));
    assert!(bench.announced().is_empty());
    let problem = bench.app("dns").vips[0].problem.clone();
    assert_eq!(problem.as_deref(), Some("no buffer space"));
    bench.failing.clear();
    bench.advance(secs(10));
    assert!(bench.is_announced(VIP));
    assert_eq!(bench.app("dns").vips[0].problem, None);
}

#[test]
fn a_foreign_address_is_used_and_never_removed() {
    let mut bench = Bench::new(config("", DNS));
    bench.addresses.insert(prefix(VIP), true);
    let (monitor, _) = bench.unanswered.pop().unwrap();
    bench.says(MONITOR, true);
    bench.answer(monitor, Outcome::pass());
    bench.reconcile();
    assert!(bench.is_announced(VIP) && bench.app("dns").vips[0].foreign);
    bench.says(MONITOR, false);
    bench.advance(secs(600));
    assert_eq!(bench.addresses.get(&prefix(VIP)), Some(&true));
    assert!(!bench.done().iter().any(|did| did.starts_with("renew")));
}

#[test]
fn an_address_that_vanishes_while_wanted_is_put_back_as_ours() {
    let mut bench = Bench::with_outcomes(config("", DNS), &[(MONITOR, true)]);
    bench.done();
    bench.addresses.clear();
    bench.event(Event::AddressLost(prefix(VIP)));
    assert_eq!(
        bench.done(),
        [format!("add {VIP}")],
        "and the route did not flap"
    );
    bench.addresses.clear();
    let error = StepError {
        message: "not permitted".to_owned(),
        permanent: true,
    };
    bench.failing.insert(prefix(VIP), error);
    bench.event(Event::AddressLost(prefix(VIP)));
    assert!(!bench.is_announced(VIP), "it could not be put back");
    bench.failing.clear();
    bench.advance(secs(31));
    assert!(bench.is_announced(VIP));
}

/// Notifications may be lost; the next dump shows the loss, unless it is older than the address.
#[test]
fn an_address_missing_in_two_snapshots_is_put_back() {
    use super::bench::network;
    let mut bench = Bench::with_outcomes(config("", DNS), &[(MONITOR, true)]);
    bench.done();
    let there = std::mem::take(&mut bench.addresses);
    bench.event(Event::Network(network()));
    bench.addresses = there;
    bench.event(Event::Network(network()));
    assert_eq!(bench.done(), [""; 0], "the first look was too old");
    bench.addresses.clear();
    bench.event(Event::Network(network()));
    bench.event(Event::Network(network()));
    assert_eq!(bench.done(), [format!("add {VIP}")]);
    bench.event(Event::Network(network()));
    bench.event(Event::Network(network()));
    assert_eq!(bench.done(), [""; 0]);
}

#[test]
fn leases_are_renewed_at_a_third_or_with_a_check_in_the_ten_seconds_before() {
    let mut bench = Bench::with_outcomes(config("", DNS), &[(MONITOR, true)]);
    bench.done();
    // 3 x 90 s of hold time.
    bench.advance(secs(79));
    assert!(bench.done().is_empty());
    bench.advance(secs(11));
    assert_eq!(bench.done(), [format!("renew {VIP}")]);
    bench.advance(secs(90));
    assert_eq!(bench.done(), [format!("renew {VIP}")]);
}

#[test]
fn a_lease_is_renewed_at_a_third_where_nothing_else_wakes_the_process() {
    let app = "{name: dns, vip: 192.0.2.53/32}";
    let mut bench = Bench::new(config("vip_lease: 5s", app));
    bench.done();
    bench.advance(Duration::from_millis(1600));
    assert!(bench.done().is_empty());
    bench.advance(Duration::from_millis(100));
    assert_eq!(bench.done(), [format!("renew {VIP}")]);
}

#[test]
fn an_equal_desired_state_makes_no_outputs() {
    let mut bench = Bench::with_outcomes(config("", DNS), &[(MONITOR, true)]);
    bench.done();
    bench.advance(secs(60));
    assert!(bench.done().is_empty());
    let same = app(
        bench.core.config(),
        &[
            ("name", "dns"),
            ("vip", "192.0.2.53/32"),
            ("monitor", MONITOR),
            ("interval", "1s"),
        ],
    );
    assert_eq!(
        bench.core.register(bench.now, same).unwrap(),
        RegisterOutcome::Unchanged
    );
    bench.reconcile();
    assert!(bench.done().is_empty());
}

#[test]
fn the_history_keeps_the_last_500_changes() {
    let mut bench =
        Bench::with_outcomes(config("", &dns("hold_down: \"off\"")), &[(MONITOR, true)]);
    for flap in 0..600 {
        bench.says(MONITOR, flap % 2 == 1);
        bench.advance(FALL);
    }
    assert_eq!(bench.core.events().count(), 500);
    let last = bench.core.events().last().unwrap();
    assert_eq!((last.seq, last.change.to), (602, "up"));
    assert_eq!(bench.app("dns").transitions[&AppState::Down], 300);
}

#[test]
fn many_apps_take_a_moment() {
    let apps: Vec<String> = (0..300)
        .map(|n| {
            format!(
                "{{name: a{n}, vip: 198.51.{}.{}/32, monitors: [\"port:tcp:{}\"]}}",
                n / 250,
                n % 250 + 1,
                n + 1
            )
        })
        .collect();
    let outcomes: Vec<(String, bool)> = (0..300)
        .map(|n| (format!("port:tcp:{}", n + 1), true))
        .collect();
    let outcomes: Vec<(&str, bool)> = outcomes
        .iter()
        .map(|(text, passes)| (text.as_str(), *passes))
        .collect();
    let config = config("", &apps.join(", "));
    let mut bench = Bench::with_outcomes(config, &outcomes);
    assert_eq!(bench.announced().len(), 300);
    let steps = bench
        .done()
        .iter()
        .filter(|did| did.starts_with("add"))
        .count();
    assert_eq!(steps, 300);
    bench.advance(secs(25));
    assert_eq!(bench.checks, 900);
    assert!(bench.done().is_empty());
}
