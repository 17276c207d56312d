//! Instances of one service whose monitors ask the VIP that they share: only its holder can be asked.

use super::bench::{Bench, config, secs, session_events};
use crate::app::Attributes;
use crate::consul::Service;
use crate::core::AppState;
use crate::health::{Health, Outcome};

const VIP: &str = "192.0.2.1/32";
const ASK_A: &str = "dns:a/A@vip:53";
const ASK_B: &str = "dns:b/A@vip:53";

fn instance(id: &str, letter: &str, port: u16, more: &str) -> Service {
    let tags = format!(
        "enable_gocast gocast_vip={VIP} gocast_monitor=port:tcp:{port} \
         gocast_monitor=tcp:127.0.0.1:{port} gocast_monitor=dns:{letter}@vip {more}"
    );
    Service {
        id: id.to_owned(),
        name: "web".to_owned(),
        tags: tags.split_whitespace().map(str::to_owned).collect(),
    }
}

/// All passes, except the listener of the `second` where that is not to; `more`: further tags.
fn starting(second: bool, more: &str) -> Bench {
    let outcomes = [
        "port:tcp:1",
        "port:tcp:2",
        "tcp:127.0.0.1:1",
        "tcp:127.0.0.1:2",
    ];
    let outcomes = outcomes.into_iter().chain([ASK_A, ASK_B]);
    let passes = |monitor| (monitor, second || monitor != "port:tcp:2");
    let outcomes: Vec<(&str, bool)> = outcomes.map(passes).collect();
    let settings = config(
        "consul_addr: 'http://localhost:8500', cleanup_timer: 1h",
        "",
    );
    let mut bench = Bench::with_outcomes(settings, &outcomes);
    for event in session_events() {
        bench.event(event);
    }
    bench.services(&[
        instance("web-1", "a", 1, more),
        instance("web-2", "b", 2, more),
    ]);
    bench
}

/// The first one holds the VIP, and the other was never asked.
fn instances(more: &str) -> Bench {
    let mut bench = starting(false, more);
    bench.advance(secs(20));
    bench.says("port:tcp:2", true);
    bench.advance(secs(20));
    let up = AppState::Up;
    assert_eq!([bench.state(A), bench.state(B)], [up, up]);
    assert_eq!(asked(&mut bench), [ASK_A]);
    assert_eq!(bench.done(), ["add 192.0.2.1/32", "announce 192.0.2.1/32"]);
    bench
}

const A: &str = "web";
const B: &str = "web@web-2";
const LAST_RESORT: &str = "sidecast_when_down=last_resort";

/// The monitors that asked the VIP since the last call.
fn asked(bench: &mut Bench) -> Vec<String> {
    let asked = std::mem::take(&mut bench.asked).into_iter();
    let of_vip = asked.filter(|(_, targets)| !targets.is_empty());
    let mut monitors: Vec<String> = of_vip.map(|(monitor, _)| monitor).collect();
    monitors.dedup();
    monitors
}

fn attributes(bench: &Bench) -> Option<Attributes> {
    let mut routes = bench.core.kernel.applied().routes.values();
    routes.next().map(|route| route.attributes.clone())
}

/// Lets time pass; what was done besides renewing addresses.
fn pass(bench: &mut Bench, seconds: u64) -> Vec<String> {
    bench.advance(secs(seconds));
    let mut done = bench.done();
    done.retain(|line| !line.starts_with("renew"));
    done
}

fn closed(bench: &mut Bench, port: &str) {
    let closed = Outcome::NoListener("nothing listens".to_owned());
    bench.outcomes.insert(port.to_owned(), closed);
}

/// Whether the other one is better can be found out only without a route.
#[test]
fn a_last_resort_is_not_handed_to_a_standby_that_nobody_has_asked() {
    for sick in [ASK_A, "tcp:127.0.0.1:1"] {
        let mut bench = instances(LAST_RESORT);
        bench.says(sick, false);
        bench.says(ASK_B, false);
        assert!(pass(&mut bench, 3600).is_empty(), "{sick}");
        assert_eq!(attributes(&bench).unwrap().as_path_prepend, Some(10));
        assert!(bench.app(A).last_resort.is_some(), "{sick}");
        assert_eq!(bench.app(A).transitions[&AppState::Down], 1);
        bench.says(sick, true);
        assert!(pass(&mut bench, 20).is_empty());
        assert_eq!(attributes(&bench), Some(Attributes::default()));
    }
}

#[test]
fn a_standby_is_asked_when_the_holder_announces_nothing() {
    let mut bench = instances(LAST_RESORT);
    closed(&mut bench, "port:tcp:1");
    bench.says(ASK_B, false);
    let done = pass(&mut bench, 20);
    assert_eq!(done, ["withdraw 192.0.2.1/32", "announce 192.0.2.1/32"]);
    assert!(bench.app(B).last_resort.is_some() && bench.app(A).last_resort.is_none());
    // A listener alone is not better than what is announced.
    bench.says("port:tcp:1", true);
    assert!(pass(&mut bench, 3600).is_empty());
    assert!(bench.app(B).last_resort.is_some());
}

/// Who is asked first while both start does not matter.
#[test]
fn one_that_loses_the_vip_while_it_is_asked_is_a_standby() {
    let mut bench = starting(true, "");
    bench.advance(secs(20));
    let up = AppState::Up;
    assert_eq!([bench.state(A), bench.state(B)], [up, up]);
    assert!(bench.is_announced(VIP));
}

/// Each swap is two changes of state and runs `on_change`.
#[test]
fn two_sick_instances_do_not_swap_faster_than_damping_allows() {
    let mut bench = instances("");
    bench.says(ASK_A, false);
    bench.says(ASK_B, false);
    assert_eq!(pass(&mut bench, 20), ["withdraw 192.0.2.1/32"]);
    let before = bench.transitions.len();
    assert!(pass(&mut bench, 3600).is_empty());
    let changes = bench.transitions.len() - before;
    assert!(changes <= 3 * 60 + 3, "{changes} in an hour");
    assert_eq!(bench.app(B).health, Health::Down);
    // The one that recovers is found, whichever holds the VIP.
    for (passes, fails) in [(ASK_A, ASK_B), (ASK_B, ASK_A)] {
        bench.says(passes, true);
        bench.says(fails, false);
        bench.advance(secs(90));
        assert!(bench.is_announced(VIP), "{passes}");
    }
}
