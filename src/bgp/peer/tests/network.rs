//! Two state machines connected to each other.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::sim::{Routes, World};
use crate::bgp::peer::{Event, PeerConfig, StateName};
use crate::bgp::{Cease, Notification, PathAttributes};
use crate::net::{Asn, Community, Prefix, RouterId};

fn config(asn: u32, id: u8) -> PeerConfig {
    let router_id = RouterId::new(Ipv4Addr::new(10, 0, 0, id)).unwrap();
    PeerConfig::new(Asn::new(asn).unwrap(), None, router_id)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn routes(numbers: impl IntoIterator<Item = u32>, med: u32) -> Routes {
    let route = |number: u32| {
        let addr = Ipv4Addr::from_bits(0xc000_0000 + number);
        let mut attributes = PathAttributes::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)));
        attributes.med = Some(med);
        attributes.communities = [Community::new(65001, 100)].into();
        (Prefix::host(addr.into()), attributes)
    };
    numbers.into_iter().map(route).collect()
}

fn world(delay: Duration, seed: u64) -> World {
    World::new([config(65001, 1), config(65002, 2)], delay, seed)
}

#[test]
fn two_machines_find_each_other_and_tell_their_routes() {
    let mut world = world(millis(1), 1);
    world.sides[0].listens = false;
    world.advertise(0, routes(0..3, 0));
    world.start_both();
    world.run(seconds(2));
    assert!(world.one_session());
    assert!(world.consistent(), "{:?}", world.sides[1].received);
    world.advertise(0, routes(1..5, 0));
    world.run(millis(10));
    assert!(world.consistent(), "{:?}", world.sides[1].received);
}

/// Both ends connect, the second one so many milliseconds after the first.
fn collide(ids: [u8; 2], first: usize, after: u64, delay: u64, seed: u64) -> World {
    let configs = [config(65001, ids[0]), config(65002, ids[1])];
    let mut world = World::new(configs, millis(delay), seed);
    world.advertise(0, routes(0..2, 0));
    world.advertise(1, routes(2..4, 0));
    world.event(first, Event::Start);
    world.run(millis(after));
    world.event(1 - first, Event::Start);
    world
}

#[test]
fn of_colliding_connections_exactly_one_is_left_whatever_the_order() {
    for ids in [[1, 2], [2, 1], [3, 3]] {
        for first in [0, 1] {
            for delay in [1, 7, 20, 150, 400] {
                for after in (0..30).chain((30..1300).step_by(37)) {
                    let case =
                        format!("ids {ids:?}, {first} first by {after} ms, delay {delay} ms");
                    let mut world = collide(ids, first, after, delay, after);
                    world.run(seconds(8));
                    assert!(world.one_session(), "{case}");
                    assert!(world.consistent(), "{case}");
                    for side in &world.sides {
                        assert!(side.attempts.len() < 12, "{case}");
                        assert!(side.downs.len() < 2, "{case}: {:?}", side.downs);
                    }
                }
            }
        }
    }
}

#[test]
fn a_collision_is_won_by_the_end_with_the_higher_identifier() {
    for (ids, winner) in [([1, 2], 1), ([2, 1], 0), ([3, 3], 1)] {
        let mut world = collide(ids, 0, 0, 50, 1);
        world.run(seconds(1));
        assert!(world.one_session());
        let up = world
            .sides
            .each_ref()
            .map(|s| s.peer.established().unwrap());
        assert!(up[winner].outgoing && !up[1 - winner].outgoing, "{ids:?}");
    }
}

#[test]
fn a_router_that_is_away_is_asked_often_at_first_and_then_every_five_seconds() {
    let mut world = world(millis(1), 1);
    world.sides[0].listens = false;
    world.sides[1].listens = false;
    world.event(0, Event::Start);
    world.run(seconds(120));
    let attempts = world.sides[0].attempts.clone();
    let within = |from: u64, to: u64| {
        let during = world.start + seconds(from)..world.start + seconds(to);
        attempts.iter().filter(|at| during.contains(at)).count()
    };
    assert!((4..8).contains(&within(0, 1)), "{}", within(0, 1));
    assert!((11..18).contains(&within(60, 120)), "{}", within(60, 120));
    world.sides[1].listens = true;
    world.event(1, Event::Start);
    world.run(seconds(6));
    assert!(world.one_session());
}

#[test]
fn an_unanswered_attempt_is_begun_anew_every_second() {
    let mut world = world(millis(1), 1);
    world.sides[0].listens = false;
    world.set_cut(true);
    world.event(0, Event::Start);
    world.run(millis(10_500));
    assert_eq!(world.sides[0].attempts.len(), 11);
    world.set_cut(false);
    world.run(millis(700));
    assert_eq!(
        world.sides[0].peer.state(),
        StateName::OpenSent.min(world.sides[0].peer.state())
    );
}

#[test]
fn a_link_cut_for_longer_than_the_hold_time_is_survived_with_all_routes() {
    for cut in [5, 89, 91, 200] {
        let mut world = world(millis(5), cut);
        world.advertise(0, routes(0..10, 0));
        world.start_both();
        world.run(seconds(100));
        world.set_cut(true);
        world.run(seconds(cut));
        world.advertise(0, routes(5..15, 7));
        world.set_cut(false);
        world.run(seconds(6));
        assert!(world.one_session(), "cut for {cut} s");
        assert!(world.consistent(), "cut for {cut} s");
        assert_eq!(world.sides[0].downs.is_empty(), cut < 60, "cut for {cut} s");
    }
}

#[test]
fn a_peer_that_lost_power_is_found_again() {
    for side in [0, 1] {
        let mut world = world(millis(5), 1);
        world.sides[1].listens = false;
        world.advertise(0, routes(0..10, 0));
        world.start_both();
        world.run(seconds(100));
        assert!(world.one_session());
        world.lose_power(side, 7);
        // Within a keepalive interval the other end writes to a connection that is no more.
        world.run(seconds(40));
        assert!(world.one_session(), "side {side}");
        assert!(world.consistent(), "side {side}");
    }
}

#[test]
fn without_a_hold_time_no_timer_runs_and_no_session_ends() {
    let mut one = config(65001, 1);
    one.hold_time = 0;
    let mut world = World::new([one, config(65002, 2)], millis(5), 1);
    world.start_both();
    world.run(seconds(10));
    assert!(world.one_session());
    for side in &mut world.sides {
        assert_eq!(side.peer.poll_timeout(), None);
        side.received.clear();
    }
    world.set_cut(true);
    world.run(seconds(86_400));
    world.set_cut(false);
    world.run(seconds(10));
    assert!(world.one_session());
    assert!(world.sides.iter().all(|side| side.received.is_empty()));
}

#[test]
fn the_smaller_hold_time_counts_and_keepalives_come_in_a_third_of_it() {
    let mut one = config(65001, 1);
    one.hold_time = 9;
    let mut world = World::new([one, config(65002, 2)], millis(5), 1);
    world.start_both();
    world.run(seconds(2));
    world.sides[0].received.clear();
    world.run(seconds(300));
    let keepalives = world.sides[0].received.len();
    assert!((100..=134).contains(&keepalives), "{keepalives}");
    world.set_cut(true);
    world.run(millis(9_100));
    assert!(
        world
            .sides
            .iter()
            .all(|s| s.downs == ["hold timer expired"])
    );
}

#[test]
fn ten_thousand_prefixes_go_out_in_few_messages_and_never_more_than_64_kib_at_once() {
    let mut world = world(millis(20), 1);
    world.sides[0].window = Some(1);
    world.advertise(0, routes(0..10_000, 0));
    world.start_both();
    world.run(seconds(5));
    assert!(world.consistent());
    let updates = world.sides[0].peer.counters().sent.update;
    assert!(updates <= 17, "{updates}");
    assert!(world.sides[0].most_unsent <= 65_536);
    assert!(world.sides[0].most_unsent > 40_000);
    world.advertise(0, routes(0..10_000, 0));
    world.run(seconds(1));
    assert_eq!(
        world.sides[0].peer.counters().sent.update,
        updates,
        "equal sets send nothing"
    );
    world.advertise(0, routes(0..10, 1));
    world.run(seconds(5));
    assert!(world.consistent());
    assert_eq!(world.sides[0].peer.announced(), 10);
}

#[test]
fn both_ends_tell_ten_thousand_prefixes_of_many_kinds() {
    let mut world = world(millis(3), 1);
    for side in 0..2 {
        let base = u32::try_from(side).unwrap() * 100_000;
        let many = (0..100).flat_map(|med| routes(base + med * 100..base + med * 100 + 100, med));
        world.advertise(side, many.collect());
        world.sides[side].window = Some(1);
    }
    world.start_both();
    world.run(seconds(10));
    assert!(world.one_session() && world.consistent());
    assert!(world.sides.iter().all(|side| side.most_unsent <= 65_536));
}

#[test]
fn a_router_that_shuts_us_down_is_asked_ever_more_slowly() {
    let mut world = world(millis(1), 1);
    world.sides[0].listens = false;
    world.start_both();
    world.run(seconds(60));
    let shutdown = Notification::cease(Cease::AdministrativeShutdown, Some("maintenance"));
    world.event(1, Event::Stop(shutdown));
    world.run(millis(10));
    assert_eq!(world.sides[0].peer.state(), StateName::Idle);
    // The peer accepts connections and closes them.
    for most in [7, 2, 2, 2] {
        let attempts = world.sides[0].attempts.len();
        world.run(seconds(60));
        assert!((1..=most).contains(&(world.sides[0].attempts.len() - attempts)));
    }
    world.event(1, Event::Start);
    world.run(seconds(61));
    assert!(world.one_session());
}

#[test]
fn a_restarted_peer_takes_the_place_of_its_old_session_where_it_can_restart_gracefully() {
    let configs = [config(65001, 1), config(65002, 2)].map(|mut config| {
        config.graceful_restart = 120;
        config.hold_time = 0;
        config
    });
    let mut world = World::new(configs, millis(5), 1);
    world.sides[1].listens = false;
    world.advertise(1, routes(0..10, 0));
    world.start_both();
    world.run(seconds(60));
    // Nothing is sent without a hold time: only the new connection shows that the old one is dead.
    world.sides[1].listens = true;
    world.sides[0].listens = true;
    world.lose_power(1, 5);
    world.run(seconds(3));
    assert!(world.one_session());
    assert!(world.consistent());
    assert_eq!(world.sides[0].downs, ["the peer restarted"]);
}

/// A day of cuts, power losses, restarts and changing routes.
fn day(seed: u64, prepare: impl Fn(usize, &mut PeerConfig)) {
    let mut configs = [config(65001, 1), config(65002, 2)];
    for (side, config) in configs.iter_mut().enumerate() {
        prepare(side, config);
    }
    let mut world = World::new(configs, millis(15), seed);
    world.start_both();
    let end = world.start + seconds(86_400);
    let mut trouble = 0;
    while world.now < end {
        let pause = world.chance.below(120_000);
        world.run(millis(pause));
        trouble += 1;
        let side = usize::try_from(world.chance.below(2)).unwrap();
        match world.chance.below(8) {
            0 | 1 => {
                world.set_cut(true);
                let cut = world.chance.below(200_000);
                world.run(millis(cut));
                world.set_cut(false);
            }
            2 => {
                let seed = world.chance.next_u64();
                world.lose_power(side, seed);
            }
            3 => {
                world.sides[side].listens = false;
                let away = world.chance.below(60_000);
                world.run(millis(away));
                world.sides[side].listens = true;
            }
            4 => world.event(side, Event::RetryNow),
            5 => {
                world.event(side, Event::StopForRestart);
                world.run(seconds(1));
                world.event(side, Event::Start);
            }
            _ => {
                let from = u32::try_from(world.chance.below(50)).unwrap();
                let base = u32::try_from(side).unwrap() * 1000;
                world.advertise(side, routes(base + from..base + from + 20, from % 3));
            }
        }
    }
    world.run(seconds(300));
    assert!(world.one_session(), "seed {seed}");
    assert!(world.consistent(), "seed {seed}");
    for side in &world.sides {
        let busiest = side.attempts.windows(31);
        let tight = busiest.filter(|w| w[30] - w[0] < seconds(10)).count();
        assert_eq!(tight, 0, "seed {seed}: more than 30 attempts in 10 s");
        assert!(side.downs.len() < 2 * trouble, "seed {seed}");
    }
}

#[test]
fn a_day_of_a_flapping_network_ends_with_one_session_and_the_right_routes() {
    for seed in 0..2 {
        day(seed, |_, _| {});
    }
}

#[test]
fn so_does_one_with_a_passive_end_and_one_with_equal_identifiers() {
    for seed in 10..11 {
        day(seed, |side, config| config.passive = side == 0);
        day(seed, |_, config| {
            config.router_id = RouterId::new(Ipv4Addr::new(10, 0, 0, 1)).unwrap();
        });
    }
}

#[test]
fn so_does_one_with_graceful_restart_and_short_timers() {
    for seed in 20..21 {
        day(seed, |_, config| {
            config.graceful_restart = 60;
            config.hold_time = 9;
        });
    }
}
