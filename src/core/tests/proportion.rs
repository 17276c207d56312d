//! The work is in proportion to the change: what a thousand other apps cost, in counts.

use std::time::Duration;

use super::bench::{Bench, config, prefix, secs};
use crate::app::Protocol;
use crate::core::{Event, StepError};

const APPS: usize = 1000;

/// A bench with so many apps registered by HTTP, on so many ports, all of them up.
fn crowd(ports: usize) -> Bench {
    let mut bench = Bench::new(config("max_http_apps: 5000, monitor_interval: 10s", ""));
    for port in 0..ports {
        bench.says(&format!("port:tcp:{}", 1000 + port), true);
    }
    for number in 0..APPS {
        register(&mut bench, number, 1000 + number % ports);
    }
    bench
}

fn register(bench: &mut Bench, number: usize, port: usize) {
    let vip = format!("198.18.{}.{}/32", number / 250, number % 250 + 1);
    let (name, monitor) = (format!("app{number}"), format!("port:tcp:{port}"));
    let done = bench.register(&[("name", &name), ("vip", &vip), ("monitor", &monitor)]);
    assert!(done.is_ok(), "{done:?}");
}

#[test]
fn one_more_registration_costs_the_same_under_a_thousand_apps() {
    let mut bench = crowd(1);
    assert_eq!(bench.announced().len(), APPS);
    let steps = bench.done();
    assert_eq!(
        steps.iter().filter(|step| step.starts_with("add")).count(),
        APPS
    );
    assert_eq!(steps.len(), 2 * APPS, "one address and one route each");
    let (looks, checks) = (bench.core.registry.looks, bench.checks);
    register(&mut bench, APPS, 1000);
    let looks = bench.core.registry.looks - looks;
    assert!(looks <= 3, "{looks} looks at apps for one registration");
    assert!(bench.checks - checks <= 1, "one look at its port");
    assert_eq!(bench.done().len(), 2);
}

/// A port that dies is one look that concerns a thousand apps, and all routes go with one input.
#[test]
fn a_dead_port_is_looked_at_once_for_all_its_apps() {
    let mut bench = crowd(1);
    bench.done();
    let (looks, checks) = (bench.core.registry.looks, bench.checks);
    bench.says("port:tcp:1000", false);
    let (protocol, port) = (Protocol::Tcp, 1000);
    bench.event(Event::SocketDestroyed { protocol, port });
    bench.advance(Duration::from_millis(3));
    let done = bench.done().len();
    assert_eq!(done, APPS, "withdrawals alone");
    assert_eq!(
        bench.checks - checks,
        2,
        "one look in doubt and one that counts"
    );
    let looks = bench.core.registry.looks - looks;
    assert!(looks <= APPS + 5, "{looks} looks at apps");
    // While it is down, one look every 100 ms, however many apps it has.
    bench.advance(secs(20));
    let (looks, checks) = (bench.core.registry.looks, bench.checks);
    bench.advance(secs(10));
    assert!(bench.checks - checks <= 101, "{}", bench.checks - checks);
    assert_eq!(bench.core.registry.looks, looks, "nothing changed");
}

/// In an idle minute with ports of their own every app is looked at once, by the full pass, and its port
/// six times, at few moments.
#[test]
fn an_idle_minute_of_a_thousand_apps_is_one_full_pass() {
    let mut bench = crowd(APPS);
    bench.advance(secs(60));
    bench.done();
    let (looks, checks) = (bench.core.registry.looks, bench.checks);
    let mut wakes = 0;
    let end = bench.now + secs(60);
    while let Some(at) = bench.core.poll_timeout().filter(|at| *at <= end) {
        bench.advance(at.saturating_duration_since(bench.now));
        wakes += 1;
    }
    assert_eq!(bench.core.registry.looks - looks, APPS, "one full pass");
    assert!(bench.checks - checks <= 6 * APPS);
    assert!(wakes <= 70, "{wakes} wakes");
    let done = bench.done();
    assert!(done.iter().all(|step| step.starts_with("renew")));
    assert!(done.len() <= APPS, "{} renewals", done.len());
}

/// What waits for an acknowledgement is what has something to be acknowledged.
#[test]
fn apps_that_come_while_all_drain_wait_for_no_acknowledgement() {
    let mut bench = Bench::new(config("max_http_apps: 5000", ""));
    bench.core.drain(bench.now, None);
    bench.acknowledges = false;
    for number in 0..10 {
        register(&mut bench, number, 1000);
    }
    assert!(bench.core.drained(None));
    assert_eq!(bench.core.registry.unacknowledged(), 0);
}

/// Steps that go on failing are tried again for themselves; all is looked at once a second at most.
#[test]
fn a_hundred_addresses_that_cannot_be_added_cost_a_full_pass_a_second() {
    let mut bench = Bench::new(config("max_http_apps: 5000", ""));
    bench.says("port:tcp:1000", true);
    let message = "no buffer space".to_owned();
    let permanent = false;
    for number in 0..100 {
        let vip = prefix(&format!("198.18.0.{}/32", number + 1));
        let message = message.clone();
        bench.failing.insert(vip, StepError { message, permanent });
        register(&mut bench, number, 1000);
    }
    bench.advance(secs(60));
    let looks = bench.core.registry.looks;
    bench.advance(secs(60));
    let looks = bench.core.registry.looks - looks;
    assert!(looks <= 62 * 100, "{looks} looks in a minute");
    bench.failing.clear();
    bench.advance(secs(11));
    assert_eq!(bench.announced().len(), 100);
}
