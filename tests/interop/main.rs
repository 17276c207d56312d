//! The speaker and the other daemons: every kind of session with each of them, and what happens in the
//! life of a session. What became of a route is always asked of the other side.

mod kinds;
mod lifecycle;
mod restart;
mod topology;
mod unnumbered;

use std::time::Duration;

use kinds::{KINDS, Kind, Speaker};
use lifecycle::*;
use nix::sys::signal::Signal;
use restart::{
    a_nat_table_outlives_a_planned_restart, a_planned_restart_keeps_the_routes_in_bird,
    a_planned_restart_keeps_the_routes_in_frr,
    what_is_dead_after_the_restart_goes_with_the_first_checks,
};
use sidecast_lab::{Bird, Exabgp, Frr, Gobgp, Namespace, Openbgpd, Sidecast, expect, until};
use topology::{Node, Topology};
use unnumbered::{an_unnumbered_link_with_frr, unnumbered_links_with_bird};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip", "nft"]:
        bird_takes_every_kind_of_session,
        a_wrong_password_is_named_and_mended_by_a_reload,
        a_passive_side_takes_a_new_password_by_a_reload,
        strangers_get_connection_rejected,
        a_cut_shorter_than_the_hold_time_keeps_the_session,
        a_peers_prefix_limit_is_named_and_not_hammered,
        a_second_speaker_on_the_address_is_told_so_beside_bird,
        operators_hear_each_other,
        a_graceful_shutdown_marks_the_routes_before_they_go,
        each_peer_has_its_own_families_and_attributes,
        a_storm_of_router_restarts_ends_with_the_routes,
        a_planned_restart_keeps_the_routes_in_bird,
        what_is_dead_after_the_restart_goes_with_the_first_checks,
        a_nat_table_outlives_a_planned_restart,
        unnumbered_links_with_bird;
    needs ["ip", "nft"]:
        a_router_that_takes_tcp_and_says_nothing_does_not_hold_us;
    needs ["zebra", "vtysh", "ip"]:
        frr_takes_every_kind_of_session,
        a_second_speaker_on_the_address_is_told_so_by_frr,
        a_planned_restart_keeps_the_routes_in_frr,
        an_unnumbered_link_with_frr;
    needs ["zebra", "vtysh", "bird", "birdc", "ip"]:
        a_peer_that_asks_for_a_refresh_gets_everything_again,
        two_routers_at_once_each_hear_everything;
    needs ["gobgpd", "gobgp", "ip"]:
        gobgp_takes_every_kind_of_session;
    needs ["bgpctl", "ip"]:
        openbgpd_takes_every_kind_of_session;
    needs ["exabgp", "ip"]:
        exabgp_takes_every_kind_of_session;
}

fn bird_takes_every_kind_of_session() {
    every_kind(&Topology::new(KINDS.len()), KINDS, |router, sessions| {
        Bird::start(router, &kinds::bird(sessions))
    });
}

fn frr_takes_every_kind_of_session() {
    every_kind(&Topology::new(KINDS.len()), KINDS, |router, sessions| {
        Frr::start(router, &kinds::frr(sessions))
    });
}

/// But a hold time of zero: its write deadline is the hold time, so it takes such a session down at its
/// first write ("i/o timeout").
fn gobgp_takes_every_kind_of_session() {
    let kinds = KINDS.map(|kind| Kind {
        hold_time: kind.hold_time.max(3),
        ..kind
    });
    every_kind(&Topology::new(kinds.len()), kinds, |router, sessions| {
        Gobgp::start(router, &kinds::gobgp(sessions))
    });
}

/// On Linux its listening IPv6 socket has no keys: with MD5 over IPv6 it must be the one that connects.
fn openbgpd_takes_every_kind_of_session() {
    let kinds = KINDS.map(|kind| Kind {
        listens: kind.listens || kind.password.is_some(),
        ..kind
    });
    every_kind(&Topology::new(kinds.len()), kinds, |router, sessions| {
        Openbgpd::start(router, &kinds::openbgpd(sessions))
    });
}

fn exabgp_takes_every_kind_of_session() {
    every_kind(&Topology::new(KINDS.len()), KINDS, |router, sessions| {
        Exabgp::start(router, &kinds::exabgp(sessions))
    });
}

/// One router with a session of each kind, each to a host of its own.
fn every_kind<'a, S: Speaker>(
    topology: &'a Topology,
    kinds: [Kind; KINDS.len()],
    start: impl FnOnce(&'a Namespace, &[(&Node, Kind)]) -> S,
) {
    let sessions: Vec<(&Node, Kind)> = topology.nodes.iter().zip(kinds).collect();
    let sidecasts = sessions.iter().map(|(node, kind)| {
        let sidecast = Sidecast::start(&node.network, &kind.sidecast(node));
        if kind.listens {
            // A router whose connection is refused may try again only after minutes.
            until(PATIENCE, "sidecast listens", || {
                let log = sidecast.log();
                expect(log.contains("accepting BGP connections"), log)
            });
        }
        sidecast
    });
    let sidecasts: Vec<Sidecast> = sidecasts.collect();
    let router = start(&topology.router, &sessions);
    all_arrive_and_leave(&sessions, sidecasts, &router);
}

fn all_arrive_and_leave(
    sessions: &[(&Node, Kind)],
    mut sidecasts: Vec<Sidecast>,
    router: &impl Speaker,
) {
    for (node, kind) in sessions {
        for (vip, next_hop) in [(node.vip4(), node.host4()), (node.vip6(), node.host6())] {
            let what = format!("{}: {vip} arrives", kind.name);
            let seen = until(PATIENCE, &what, || router.seen(node, &vip).ok_or("not yet"));
            assert_eq!(seen, kind.expected(next_hop), "{}", kind.name);
        }
    }
    sidecasts
        .iter()
        .for_each(|sidecast| sidecast.signal(Signal::SIGTERM));
    for ((node, kind), sidecast) in sessions.iter().zip(&mut sidecasts) {
        let status = sidecast.wait(PATIENCE);
        assert!(status.success(), "{}: {status}", kind.name);
        for vip in [node.vip4(), node.vip6()] {
            until(PATIENCE, &format!("{}: {vip} leaves", kind.name), || {
                expect(router.seen(node, &vip).is_none(), "it is there")
            });
        }
    }
}

/// How long a router may need; far more than it should.
const PATIENCE: Duration = Duration::from_secs(60);
