//! What makes it safe to look at changed apps alone: after every event a look at everything changes
//! nothing, and what was forgotten is put right by the next full pass.

use std::time::{Duration, Instant};

use super::bench::{Bench, config, name, prefix, secs};
use crate::app::Source;
use crate::config::Config;
use crate::consul::{Catalog, Check, Checks, Query, Service, Status};
use crate::core::{ConsulReport, Core, Event, StepError};
use crate::timer::Rng;

/// For tests of the queue: every change must be reconciled without a resync.
impl Core {
    /// Disables the resync.
    fn without_resync(&mut self) {
        self.resync_at = None;
    }

    /// Reconciles everything now.
    fn resync(&mut self, now: Instant) {
        self.enqueue_all();
        self.reconcile(now);
    }

    /// What is wanted, applied, advertised and shown, and the next deadline.
    fn debug_snapshot(&self, now: Instant) -> String {
        let wanted: Vec<String> = self
            .registry
            .vips()
            .iter()
            .map(|vip| format!("{vip} {:?}", self.desired(vip, self.lease())))
            .collect();
        let due = self.poll_timeout();
        let due = due.map(|at| at.saturating_duration_since(now));
        format!(
            "{wanted:#?}\n{:#?}\n{:#?}\n{:#?}\n{due:?}",
            self.kernel.applied(),
            self.peers.routes(),
            self.apps(now, None).collect::<Vec<_>>()
        )
    }
}

const MONITORS: [&str; 5] = [
    "port:udp:53",
    "port:tcp:80",
    "port:tcp:81",
    "port:tcp:1",
    "exec:true",
];
const VIPS: [&str; 6] = [
    "192.0.2.53/32",
    "2001:db8::53/128",
    "192.0.2.80/32",
    "192.0.2.1/32",
    "192.0.2.2/32",
    "192.0.2.3/32",
];
const NAMES: [&str; 4] = ["a", "b", "dns", "web"];

fn settings(apps: &str) -> Config {
    let agent = "consul_addr: 'http://localhost:8500', consul_grace: 40s, cleanup_timer: 60s, \
                 vip_lease: 60s, allow_exec: [config, http]";
    config(agent, apps)
}

const APPS: &str = "\
    {name: dns, vips: [192.0.2.53/32, 2001:db8::53/128], interval: 1s, monitors: [\"port:udp:53\"]}, \
    {name: web, vip: 192.0.2.80/32, interval: 2s, fall: 2, monitors: [\"port:tcp:80\", \"port:tcp:81\"], nats: [\"tcp:80:8080\"], \
     vip_config: {when_down: {med: 1000}, when_draining: {as_path_prepend: 3}}}, \
    {name: slow, vip: 192.0.2.99/32, vip_presence: always, monitors: [\"port:tcp:80\"], interval: 2s, start_delay: 2s, \
     maintenance_file: /run/slow}";

fn pick(chance: &mut Rng, bound: usize) -> usize {
    usize::try_from(chance.below(bound as u64)).expect("it is small")
}

/// One event by chance.
fn event(bench: &mut Bench, chance: &mut Rng) {
    match chance.below(13) {
        0..=3 => {
            let passes = chance.below(3) > 0;
            bench.says(MONITORS[pick(chance, 5)], passes);
        }
        4 | 5 => register(bench, chance),
        6 => {
            bench
                .core
                .unregister(bench.now, &name(NAMES[pick(chance, 4)]));
        }
        7 => {
            let name = (chance.below(4) > 0).then(|| name(NAMES[pick(chance, 4)]));
            match chance.below(2) {
                0 => bench.core.drain(bench.now, name.as_ref()),
                _ => bench.core.undrain(bench.now, name.as_ref()),
            }
        }
        8 => {
            let fewer = APPS.split_once("{name: slow").expect("it is there").0;
            let renamed = APPS.replace("name: dns", "name: resolver");
            let swapped = APPS.replace("name: web", "name: x");
            let swapped = swapped.replace("name: dns", "name: web");
            let swapped = swapped.replace("name: x", "name: dns");
            let apps = [APPS, fewer, &renamed, &swapped][pick(chance, 4)];
            let mut config = settings(apps);
            if chance.below(3) == 0 {
                // Without some that HTTP and Consul register.
                let allowed = [
                    "192.0.2.53/32",
                    "2001:db8::53/128",
                    "192.0.2.80/30",
                    "192.0.2.99/32",
                ];
                config.agent.allowed_vips = Some(allowed.map(prefix).into());
                let kept = config.agent.allow_exec.into_iter();
                config.agent.allow_exec = kept.filter(|source| *source != Source::Http).collect();
            }
            bench.core.reload(bench.now, config);
        }
        9 => kernel(bench, chance),
        10 => consul(bench, chance),
        11 => {
            let app = name("slow");
            let present = chance.below(2) == 0;
            bench.event(Event::Maintenance { app, present });
        }
        _ => bench.event(Event::RecheckPorts),
    }
    bench.reconcile();
}

fn register(bench: &mut Bench, chance: &mut Rng) {
    let mut params = vec![("name", NAMES[pick(chance, 3)])];
    for _ in 0..=chance.below(2) {
        params.push(("vip", VIPS[pick(chance, 6)]));
    }
    params.push(("monitor", MONITORS[pick(chance, 5)]));
    if chance.below(2) == 0 {
        params.push(("nat", "tcp:80:8080"));
    }
    params.push(("interval", ["1s", "5s"][pick(chance, 2)]));
    let _ = bench.register(&params);
}

/// Steps that fail or are late, addresses that vanish.
fn kernel(bench: &mut Bench, chance: &mut Rng) {
    let vip = prefix(VIPS[pick(chance, 6)]);
    match chance.below(5) {
        0 => {
            let message = "no buffer space".to_owned();
            let permanent = chance.below(2) == 0;
            bench.failing.insert(vip, StepError { message, permanent });
        }
        1 => bench.failing.clear(),
        3 => bench.nat_fails = !bench.nat_fails,
        2 => match bench.held.take() {
            None => bench.held = Some(Vec::new()),
            Some(held) => held.iter().for_each(|(id, step)| bench.step(*id, step)),
        },
        _ => {
            if bench.addresses.remove(&vip).is_some() {
                bench.event(Event::AddressLost(vip));
            }
        }
    }
}

fn consul(bench: &mut Bench, chance: &mut Rng) {
    let ids = ["web-1", "web-2", "log-1"];
    let some: Vec<&str> = ids.into_iter().filter(|_| chance.below(2) == 0).collect();
    let report = match chance.below(4) {
        0 | 1 => {
            let service = |id: &&str| Service {
                id: (*id).to_owned(),
                name: id.split_once('-').expect("it has a number").0.to_owned(),
                tags: [
                    "enable_gocast",
                    "gocast_monitor=consul",
                    "gocast_vip=192.0.2.3/32",
                ]
                .map(str::to_owned)
                .into(),
            };
            ConsulReport::Services(Catalog {
                services: some.iter().map(service).collect(),
                complete: true,
            })
        }
        2 => {
            let passing = |id: &&str| Check {
                id: format!("service:{id}"),
                name: (*id).to_owned(),
                status: Status::Passing,
                service_id: (*id).to_owned(),
                service_name: String::new(),
                output: String::new(),
            };
            ConsulReport::NodeChecks(Checks {
                all: some.iter().map(passing).collect(),
                complete: true,
            })
        }
        _ => ConsulReport::Failed {
            query: [Query::Services, Query::NodeChecks][pick(chance, 2)],
            why: "gone".to_owned(),
        },
    };
    bench.event(Event::Consul(report));
}

fn new_bench() -> Bench {
    let all = MONITORS.map(|monitor| (monitor, true));
    let mut bench = Bench::with_outcomes(settings(APPS), &all);
    bench.core.without_resync();
    bench
}

/// Looks at everything, and nothing may come of it.
fn assert_nothing_forgotten(bench: &mut Bench, seed: u64, step: usize) {
    bench.core.registry.assert_indexes();
    let before = bench.core.debug_snapshot(bench.now);
    bench.core.resync(bench.now);
    let output = bench.core.poll_output();
    assert!(output.is_none(), "seed {seed}, step {step}: {output:?}");
    let after = bench.core.debug_snapshot(bench.now);
    assert_eq!(before, after, "seed {seed}, step {step}");
}

#[test]
fn a_full_resync_changes_nothing_after_any_event() {
    for seed in 0..60 {
        let mut chance = Rng::new(seed);
        let mut bench = new_bench();
        for step in 0..60 {
            event(&mut bench, &mut chance);
            assert_nothing_forgotten(&mut bench, seed, step);
            bench.advance(Duration::from_millis(chance.below(4_000)));
            assert_nothing_forgotten(&mut bench, seed, step);
        }
    }
}

/// The same events with a queue that forgets one app in ten: after the next full pass all is as it is
/// without.
#[test]
fn what_the_queue_loses_is_reconciled_by_the_next_resync() {
    for seed in 0..60 {
        let run = |forgetful: bool| {
            let mut chance = Rng::new(seed);
            let mut bench = new_bench();
            if forgetful {
                bench.core.registry.forget_one_in_ten(seed);
            }
            for _ in 0..40 {
                event(&mut bench, &mut chance);
                bench.advance(Duration::from_millis(chance.below(4_000)));
            }
            bench.failing.clear();
            bench.nat_fails = false;
            for (id, step) in bench.held.take().unwrap_or_default() {
                bench.step(id, &step);
            }
            for monitor in MONITORS {
                bench.says(monitor, true);
            }
            bench.core.registry.remember_all();
            bench.core.resync(bench.now);
            bench.reconcile();
            bench.advance(secs(200));
            assert_nothing_forgotten(&mut bench, seed, 0);
            let apps = bench.core.apps(bench.now, None).collect::<Vec<_>>();
            let states: Vec<_> = apps.into_iter().map(|app| (app.name, app.state)).collect();
            let addresses: Vec<_> = bench.addresses.keys().copied().collect();
            // Rules of an app that is not announced now stay if it ever was: that is its history.
            let announced = bench.announced();
            let mut nat = bench.nat.rules.clone();
            nat.retain(|rule| announced.contains(&rule.vip));
            (states, announced, addresses, nat)
        };
        assert_eq!(run(true), run(false), "seed {seed}");
    }
}

/// Two monitors of an app may share a check, and change theirs with each other.
#[test]
fn monitors_of_one_port_that_come_and_go_keep_their_checks() {
    let with = |monitors: &[&str]| {
        let text = monitors.join(", ");
        config(
            "",
            &format!("{{name: a, vip: 192.0.2.1/32, monitors: [{text}]}}"),
        )
    };
    let of = |more: &str| format!("{{monitor: \"port:tcp:1\", {more}}}");
    let all = [
        "name: x",
        "name: y",
        "interval: 1s",
        "interval: 2s",
        "interval: 3s",
    ]
    .map(of);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut chance = Rng::new(5);
    let mut bench = Bench::with_outcomes(with(&all), &[("port:tcp:1", true)]);
    for step in 0..100 {
        let some: Vec<&str> = all
            .iter()
            .copied()
            .filter(|_| chance.below(2) == 0)
            .collect();
        bench.core.reload(bench.now, with(&some));
        bench.advance(secs(1));
        bench.core.registry.assert_indexes();
        assert!(bench.is_announced("192.0.2.1/32"), "step {step}: {some:?}");
        assert_eq!(bench.app("a").monitors.len(), some.len());
    }
}
