//! The whole core in virtual time: routers that speak real BGP, a kernel of maps, services that live
//! and die by chance. After every step the promises of the house are looked at; at the end everything
//! is repaired and the routers must know exactly what they should, then all is stopped and nothing may
//! be left.
//!
//! A failing run prints its seed: `SIDECAST_SIM_SEED=… cargo test --test sim` repeats it alone;
//! `SIDECAST_SIM_RUNS=…` asks for another number of runs.

mod chance;
mod world;

use std::env;
use std::time::Duration;

use world::World;

/// Says which seed it was, should the run panic.
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
    chance::stop(&mut world);
}

fn from_env(key: &str) -> Option<u64> {
    env::var(key).ok()?.parse().ok()
}

#[test]
fn the_promises_hold_whatever_happens() {
    if let Some(seed) = from_env("SIDECAST_SIM_SEED") {
        run(seed);
        return;
    }
    for seed in 0..from_env("SIDECAST_SIM_RUNS").unwrap_or(100) {
        run(seed);
    }
}

#[test]
fn the_same_seed_makes_the_same_run() {
    let story = |seed| {
        let mut world = World::new(seed);
        for _ in 0..20 {
            chance::event(&mut world);
            world.advance(Duration::from_secs(3));
        }
        world.story
    };
    assert_eq!(story(3), story(3));
    assert_ne!(story(3), story(4));
}
