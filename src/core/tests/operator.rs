//! What an operator does restarts no clock of health: cleanup, start delay and hold-down run on.

use std::time::Duration;

use super::bench::{Bench, config, name, secs};
use crate::config::Config;
use crate::core::Event;

const MONITOR: &str = "port:udp:53";
const STEP: Duration = Duration::from_millis(100);
/// 90 s: longer than every clock.
const STEPS: u32 = 900;

fn settings(med: u32) -> Config {
    let app = format!(
        "{{name: dns, vip: 192.0.2.53/32, monitors: [\"{MONITOR}\"], interval: 1s, nats: [\"udp:53:8053\"], \
         maintenance_file: /run/dns, start_delay: 20s, flap_limit: \"1/60s\", hold_down: 20s, vip_config: {{med: {med}}}}}"
    );
    config("cleanup_timer: 60s", &app)
}

/// A state of health, and the clock that runs in it.
struct Case {
    state: &'static str,
    enter: fn() -> Bench,
    runs: fn(&Bench) -> bool,
    /// After how many steps it ends when nobody does anything.
    ends: std::ops::RangeInclusive<u32>,
}

const CASES: [Case; 4] = [
    Case {
        state: "unknown",
        enter: unknown,
        runs: |bench| bench.core.app(bench.now, &name("web")).is_some(),
        ends: 600..=601,
    },
    Case {
        state: "up",
        enter: up,
        runs: has_nat,
        ends: STEPS..=STEPS,
    },
    Case {
        state: "down",
        enter: down,
        runs: has_nat,
        ends: 580..=600,
    },
    Case {
        state: "held down",
        enter: held_down,
        runs: is_held,
        ends: 185..=201,
    },
];

fn is_held(bench: &Bench) -> bool {
    bench.app("dns").held_for.is_some()
}

fn has_nat(bench: &Bench) -> bool {
    !bench.nat.rules.is_empty()
}

/// Its check is not answered; `cleanup_timer` unregisters what HTTP registered.
fn unknown() -> Bench {
    let mut bench = Bench::new(settings(1));
    let params = [
        ("name", "web"),
        ("vip", "192.0.2.80/32"),
        ("monitor", "port:tcp:1"),
    ];
    bench.register(&params).unwrap();
    bench
}

fn starting() -> Bench {
    Bench::with_outcomes(settings(1), &[(MONITOR, true)])
}

fn up() -> Bench {
    let mut bench = starting();
    bench.advance(secs(25));
    bench
}

fn down() -> Bench {
    let mut bench = up();
    bench.says(MONITOR, false);
    bench.advance(secs(2));
    bench
}

fn held_down() -> Bench {
    let mut bench = down();
    bench.says(MONITOR, true);
    bench.advance(secs(1));
    bench.says(MONITOR, false);
    bench.advance(secs(2));
    bench.says(MONITOR, true);
    bench.advance(secs(1));
    bench
}

fn nothing(_: &mut Bench) {}

fn drain(bench: &mut Bench) {
    bench.core.drain(bench.now, None);
}

fn undrain(bench: &mut Bench) {
    bench.core.undrain(bench.now, None);
}

fn maintenance(bench: &mut Bench) {
    let (app, present) = (name("dns"), true);
    bench.event(Event::Maintenance { app, present });
}

fn no_maintenance(bench: &mut Bench) {
    let (app, present) = (name("dns"), false);
    bench.event(Event::Maintenance { app, present });
}

fn reload(bench: &mut Bench) {
    bench.core.reload(bench.now, settings(2));
}

fn reload_back(bench: &mut Bench) {
    bench.core.reload(bench.now, settings(1));
}

/// After how many steps the clock has ended, where these are done after 3 and after 6 seconds.
fn end(case: &Case, actions: [fn(&mut Bench); 2]) -> u32 {
    let mut bench = (case.enter)();
    let mut end = 0;
    for step in 1..=STEPS {
        match step {
            30 => actions[0](&mut bench),
            60 => actions[1](&mut bench),
            _ => {}
        }
        bench.reconcile();
        if (case.runs)(&bench) {
            end = step;
        }
        bench.advance(STEP);
    }
    end
}

/// What an operator does, and what is done after 3 and after 6 seconds.
type Action = (&'static str, [fn(&mut Bench); 2]);

const LASTING: [Action; 3] = [
    ("drain", [drain, nothing]),
    ("drain, reload", [drain, reload]),
    ("maintenance", [maintenance, nothing]),
];
const PASSING: [Action; 3] = [
    ("drain, undrain", [drain, undrain]),
    ("maintenance and its end", [maintenance, no_maintenance]),
    ("two reloads", [reload, reload_back]),
];

#[test]
fn drain_undrain_maintenance_and_reload_restart_no_clock_of_health() {
    for case in CASES {
        let alone = end(&case, [nothing, nothing]);
        println!("{}: {alone} steps", case.state);
        assert!(case.ends.contains(&alone), "{}: {alone}", case.state);
        for (what, actions) in LASTING.into_iter().chain(PASSING) {
            assert_eq!(end(&case, actions), alone, "{}: {what}", case.state);
        }
    }
}

/// What ends it is the announcement, so that the app may be drained only for a while.
#[test]
fn what_an_operator_does_in_start_delay_does_not_prolong_it() {
    let case = Case {
        state: "in start_delay",
        enter: starting,
        runs: |bench| bench.announced().is_empty(),
        ends: 200..=201,
    };
    let alone = end(&case, [nothing, nothing]);
    assert!(case.ends.contains(&alone), "{alone}");
    for (what, actions) in PASSING {
        assert_eq!(end(&case, actions), alone, "{what}");
    }
}
