//! The whole core in virtual time: routers that speak real BGP, a kernel of maps, services that start and
//! fail at random. The promises of `World` are checked after every step. At the end everything is repaired, and the
//! routers must have exactly the required routes; then the core is stopped, and no route, address or rule may
//! remain.
//!
//! A failing run prints its seed: `SIDECAST_SIM_SEED=… cargo test --test sim` repeats it alone;
//! `SIM_RUNS=…` asks for another number of runs.

mod chance;
mod hosts;
mod network;
mod paths;
#[path = "../reader/mod.rs"]
mod reader;
mod verdict;
mod world;

use std::env;
use std::time::Duration;

use hosts::Hosts;
use network::BadNetwork;
use world::World;

/// Prints the seed if the run panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {}: SIDECAST_SIM_SEED={0}", self.0);
        }
    }
}

fn run(seed: u64) {
    let _seed = Seed(seed);
    let mut world = World::new(seed);
    for _ in 0..50 {
        chance::event(&mut world);
        let pause = world.chance.below(6_000);
        world.advance(Duration::from_millis(pause));
    }
    chance::repair(&mut world);
    world.advance(Duration::from_secs(150));
    world.assert_settled();
    world.advance(paths::BOUND);
    paths::assert_proven(&world.core, world.now, &world.trace.join("\n"));
    chance::stop(&mut world);
}

fn from_env(key: &str) -> Option<u64> {
    env::var(key).ok()?.parse().ok()
}

#[test]
fn the_invariants_hold_under_random_faults() {
    if let Some(seed) = from_env("SIDECAST_SIM_SEED") {
        run(seed);
        return;
    }
    for seed in 0..from_env("SIM_RUNS").unwrap_or(20) {
        run(seed);
    }
}

/// One dead service under a thousand apps: its routes leave in the fewest UPDATEs possible, or one more.
#[test]
fn a_thousand_routes_that_go_together_leave_together() {
    let mut world = World::new(1);
    world.services.insert("port:tcp:1".to_owned(), Some(true));
    world.advance(Duration::from_secs(5));
    for number in 0..1000_u32 {
        let vip = format!("198.18.{}.{}/32", number / 250, number % 250 + 1);
        let name = format!("app{number}");
        let params = [
            ("name", name.as_str()),
            ("vip", &vip),
            ("monitor", "port:tcp:1"),
        ];
        let params = params.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let app = world::app(world.core.config(), &params);
        let done = world.core.register(world.now, app);
        assert!(done.is_ok(), "{done:?}");
        // It looks at all apps: after each of a thousand it would take minutes.
        if number % 100 == 99 {
            world.settle();
        }
    }
    world.advance(Duration::from_secs(5));
    let routes = |world: &World| world.routers.iter().map(|r| r.rib.len()).min();
    assert!(routes(&world) >= Some(1000), "{:?}", routes(&world));
    let updates = |world: &World| -> Vec<u64> {
        let peers = world.core.peers(world.now);
        peers.iter().map(|peer| peer.counters.sent.update).collect()
    };
    let before = updates(&world);
    world.services.insert("port:tcp:1".to_owned(), Some(false));
    world.event(sidecast::core::Event::RecheckPorts);
    world.advance(Duration::from_millis(100));
    assert!(routes(&world) < Some(10), "{:?}", routes(&world));
    for (after, before) in updates(&world).into_iter().zip(before) {
        // 5 bytes a prefix, 4,096 a message (RFC 4271 §4.1): two hold them all.
        assert!(after - before <= 3, "{} UPDATEs", after - before);
    }
}

#[test]
fn two_hours_of_a_bad_network() {
    let seeds = match from_env("SIDECAST_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_env("SIM_RUNS").unwrap_or(10),
    };
    for seed in seeds {
        let _seed = Seed(seed);
        let mut network = BadNetwork::new(seed);
        network.live(Duration::from_secs(7200));
        assert!(network.downs > 5, "{} sessions ended", network.downs);
    }
}

/// `when_down: last_resort` on several hosts: no VIP is without a route while only the checks of some
/// host fail, a missing listener always withdraws, and routers that honor graceful-shutdown prefer healthy hosts.
#[test]
fn a_last_resort_is_never_the_choice_of_routers_that_have_another() {
    let seeds = match from_env("SIDECAST_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_env("SIM_RUNS").unwrap_or(20).div_ceil(10),
    };
    let mut sick = 0;
    for seed in seeds {
        let _seed = Seed(seed);
        let mut hosts = Hosts::new(seed);
        hosts.live(30);
        sick += hosts.served_by_the_sick;
    }
    assert!(sick > 0, "no VIP was ever served by a last resort");
}

#[test]
fn the_same_seed_makes_the_same_run() {
    let trace = |seed| {
        let mut world = World::new(seed);
        for _ in 0..20 {
            chance::event(&mut world);
            world.advance(Duration::from_secs(3));
        }
        world.trace
    };
    assert_eq!(trace(3), trace(3));
    assert_ne!(trace(3), trace(4));
}
