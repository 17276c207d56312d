//! The work is in proportion to the change: what a thousand other apps cost, in counts.

use std::time::Duration;

use super::bench::{Bench, config, name, prefix, secs};
use crate::app::Protocol;
use crate::core::{Event, Output, StepError};

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
    let (reconciles, checks) = (bench.core.registry.reconciles, bench.checks);
    register(&mut bench, APPS, 1000);
    let reconciles = bench.core.registry.reconciles - reconciles;
    assert!(
        reconciles <= 3,
        "{reconciles} reconciles at apps for one registration"
    );
    assert!(bench.checks - checks <= 1, "one look at its port");
    assert_eq!(bench.done().len(), 2);
}

/// A port that dies is one look that concerns a thousand apps, and all routes go with one input.
#[test]
fn a_shared_port_is_checked_once_for_all_its_apps() {
    let mut bench = crowd(1);
    bench.done();
    let (reconciles, checks) = (bench.core.registry.reconciles, bench.checks);
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
    let reconciles = bench.core.registry.reconciles - reconciles;
    assert!(reconciles <= APPS + 5, "{reconciles} reconciles at apps");
    // While it is down, one look every 100 ms, however many apps it has.
    bench.advance(secs(20));
    let (reconciles, checks) = (bench.core.registry.reconciles, bench.checks);
    bench.advance(secs(10));
    assert!(bench.checks - checks <= 101, "{}", bench.checks - checks);
    assert_eq!(
        bench.core.registry.reconciles, reconciles,
        "nothing changed"
    );
}

/// In an idle minute with ports of their own every app is looked at once, by the full pass, and its port
/// six times, at few moments.
#[test]
fn an_idle_minute_of_a_thousand_apps_is_one_resync() {
    let mut bench = crowd(APPS);
    bench.advance(secs(60));
    bench.done();
    let (reconciles, checks) = (bench.core.registry.reconciles, bench.checks);
    let mut wakes = 0;
    let end = bench.now + secs(60);
    while let Some(at) = bench.core.poll_timeout().filter(|at| *at <= end) {
        bench.advance(at.saturating_duration_since(bench.now));
        wakes += 1;
    }
    assert_eq!(
        bench.core.registry.reconciles - reconciles,
        APPS,
        "one full pass"
    );
    assert!(bench.checks - checks <= 6 * APPS);
    assert!(wakes <= 70, "{wakes} wakes");
    let done = bench.done();
    assert!(done.iter().all(|step| step.starts_with("renew")));
    assert!(done.len() <= APPS, "{} renewals", done.len());
}

/// One mapping that comes, changes and goes under a thousand others is one step of one or two rules.
#[test]
fn one_changed_nat_is_one_step_of_its_own_rules() {
    let mut bench = Bench::new(config("max_http_apps: 5000", ""));
    bench.says("port:tcp:1000", true);
    let register = |bench: &mut Bench, number: usize, nat: &str| {
        let vip = format!("198.18.{}.{}/32", number / 250, number % 250 + 1);
        let (name, monitor) = (format!("app{number}"), "port:tcp:1000");
        let params = [("name", name.as_str()), ("vip", &vip), ("monitor", monitor)];
        let params: Vec<_> = params.into_iter().chain([("nat", nat)]).collect();
        bench.register(&params).unwrap();
    };
    for number in 0..APPS {
        register(&mut bench, number, "udp:53:8053");
    }
    assert_eq!(bench.nat.rules.len(), APPS);
    assert_eq!(bench.nat_entries, APPS, "each rule was given out once");
    let entries = |bench: &mut Bench, what: &str, wanted: usize| {
        let steps = bench.done();
        let nat = steps.iter().filter(|step| step.starts_with("nat"));
        assert_eq!((nat.count(), bench.nat_entries), (1, wanted), "{what}");
        bench.nat_entries = 0;
    };
    bench.done();
    bench.nat_entries = 0;
    register(&mut bench, APPS, "udp:53:8053");
    entries(&mut bench, "added", 1);
    register(&mut bench, APPS, "udp:53:9053");
    entries(&mut bench, "changed", 2);
    bench
        .core
        .unregister(bench.now, &name(&format!("app{APPS}")));
    bench.reconcile();
    bench.advance(secs(20));
    entries(&mut bench, "removed", 1);
    assert_eq!(bench.nat.rules.len(), APPS);
}

/// While NAT fails, what is wanted is tried again for all VIPs that lack it, and for no other.
#[test]
fn nat_that_failed_is_made_up_for_with_what_came_meanwhile() {
    let mut bench = Bench::new(config("max_http_apps: 5000", ""));
    bench.says("port:tcp:1000", true);
    let register = |bench: &mut Bench, number: usize, nats: &[&str]| {
        let (name, vip) = (
            format!("app{number}"),
            format!("198.18.0.{}/32", number + 1),
        );
        let params = [
            ("name", name.as_str()),
            ("vip", &vip),
            ("monitor", "port:tcp:1000"),
        ];
        let nats = nats.iter().map(|nat| ("nat", *nat));
        let params: Vec<_> = params.into_iter().chain(nats).collect();
        bench.register(&params).unwrap();
    };
    register(&mut bench, 0, &["udp:53:8053"]);
    bench.nat_fails = true;
    register(&mut bench, 1, &["udp:53:8053"]);
    register(&mut bench, 2, &["udp:53:8053", "tcp:53:8053"]);
    register(&mut bench, 0, &["udp:53:9053"]);
    // It is no longer desired before it was applied.
    register(&mut bench, 1, &["udp:54:8053"]);
    bench.advance(secs(30));
    let known: Vec<u16> = bench
        .nat
        .rules
        .iter()
        .map(|rule| rule.destination)
        .collect();
    assert_eq!(known, [8053], "nothing has changed");
    assert!(bench.is_announced("198.18.0.1/32") && !bench.is_announced("198.18.0.2/32"));
    bench.nat_fails = false;
    bench.nat_entries = 0;
    bench.advance(secs(12));
    assert_eq!(bench.nat.rules.len(), 4);
    assert_eq!(bench.nat_entries, 5, "four rules came, one went");
    assert!(bench.is_announced("198.18.0.2/32") && bench.is_announced("198.18.0.3/32"));
}

/// The shell gets the entry that changed, and of the set of ports where that is another.
#[test]
fn what_is_to_be_watched_is_told_by_entry() {
    let mut bench = Bench::new(config("", ""));
    let apps = |files: &[&str], port: u16| {
        let app = |(number, file): (usize, &&str)| {
            format!(
                "{{name: app{number}, vip: 198.18.0.{}/32, monitors: [\"port:tcp:{port}\"], maintenance_file: {file}}}",
                number + 1
            )
        };
        let all: Vec<String> = files.iter().enumerate().map(app).collect();
        config("", &all.join(", "))
    };
    let changes = |bench: &mut Bench, files: &[&str], port: u16| {
        bench.core.reload(bench.now, apps(files, port));
        let (mut ports, mut watched) = (0, Vec::new());
        while let Some(output) = bench.core.poll_output() {
            match output {
                Output::PortsChanged => ports += 1,
                Output::WatchMaintenanceFile { app, file } => {
                    watched.push((app.to_string(), file.map(|file| file.display().to_string())));
                }
                _ => {}
            }
        }
        (ports, watched)
    };
    let of = |app: &str, file: Option<&str>| (app.to_owned(), file.map(str::to_owned));
    let all = vec![
        of("app0", Some("/a")),
        of("app1", Some("/b")),
        of("app2", Some("/c")),
    ];
    assert_eq!(changes(&mut bench, &["/a", "/b", "/c"], 53), (1, all));
    assert_eq!(changes(&mut bench, &["/a", "/b", "/c"], 53), (0, vec![]));
    let one = vec![of("app1", Some("/d"))];
    assert_eq!(changes(&mut bench, &["/a", "/d", "/c"], 53), (0, one));
    let gone = vec![of("app2", None)];
    assert_eq!(changes(&mut bench, &["/a", "/d"], 54), (1, gone));
}

/// What waits for an acknowledgment is what has something to be acknowledged.
#[test]
fn apps_that_come_while_all_drain_wait_for_no_acknowledgment() {
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
fn a_hundred_addresses_that_cannot_be_added_cost_a_resync_a_second() {
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
    let reconciles = bench.core.registry.reconciles;
    bench.advance(secs(60));
    let reconciles = bench.core.registry.reconciles - reconciles;
    assert!(
        reconciles <= 62 * 100,
        "{reconciles} reconciles in a minute"
    );
    bench.failing.clear();
    bench.advance(secs(11));
    assert_eq!(bench.announced().len(), 100);
}
