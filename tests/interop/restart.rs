//! A planned restart (SIGUSR2): the router never loses a route. A stop (SIGTERM) always withdraws.

use std::time::Duration;

use nix::sys::signal::Signal;
use sidecast_lab::{Frr, Sidecast, Watch, expect, until};

use crate::PATIENCE;
use crate::kinds::Speaker;
use crate::lifecycle::{arrives, bird};
use crate::topology::{Node, Topology};

const RESTART: &str = ", graceful_restart: 60s";
/// Less than what End-of-RIB waits for a check without an answer.
/// The restart time is a minute.
const SOON: Duration = Duration::from_secs(15);

pub fn a_planned_restart_keeps_the_routes_in_bird() {
    let topology = Topology::new(1);
    let router = bird(&topology, "", "");
    restart(&topology, &router, || {
        let session = router.session("h1");
        let up = router.established("h1");
        expect(
            up && !session.contains("Neighbor graceful restart active"),
            session,
        )
    });
}

pub fn a_planned_restart_keeps_the_routes_in_frr() {
    let topology = Topology::new(1);
    let node = topology.node();
    let host = node.host4();
    let router = Frr::start(
        &topology.router,
        &format!(
            "router bgp 65000\n bgp router-id 10.255.0.1\n no bgp ebgp-requires-policy\n \
             neighbor {host} remote-as 65001\n neighbor {host} timers connect 1\n \
             address-family ipv6 unicast\n  neighbor {host} activate\n exit-address-family\n"
        ),
    );
    restart(&topology, &router, || {
        expect(router.established(&host), router.neighbor(&host))
    });
}

fn restart(topology: &Topology, router: &impl Speaker, settled: impl Fn() -> Result<(), String>) {
    let node = topology.node();
    // The session is up before the check has passed: nothing may be announced until then.
    let apps = node.apps(", monitors: [\"exec:sleep 0.5\"]");
    let config = node.config(RESTART).replace(&node.apps(""), &apps);
    let vips = [node.vip4(), node.vip6()];
    let mut sidecast = Sidecast::start(&node.network, &config);
    vips.iter().for_each(|vip| arrives(router, node, vip));
    let plain = |vip: &String| vip.split('/').next().unwrap_or_default().to_owned();
    until(PATIENCE, "the kernel routes them", || {
        let all = vips
            .iter()
            .all(|vip| topology.router.gateway(&plain(vip)).is_some());
        expect(all, "not yet")
    });
    let fib = Watch::start(&topology.router);
    let addresses = Watch::start(&node.network);
    sidecast.signal(Signal::SIGUSR2);
    let all_there = || {
        for vip in &vips {
            assert!(router.seen(node, vip).is_some(), "the router lost {vip}");
        }
    };
    until(PATIENCE, "it leaves", || {
        all_there();
        let log = sidecast.log();
        expect(log.contains("stopped for an upgrade"), log)
    });
    assert!(sidecast.wait(PATIENCE).success());
    all_there();
    let next = Sidecast::start(&node.network, &config);
    until(PATIENCE, "the next one takes over", || {
        all_there();
        // One file for both.
        let log = next.log();
        let up = log.matches("pending -> up").count() >= 2;
        expect(
            up && log.contains("taking over") && log.matches("established").count() >= 2,
            log,
        )
    });
    until(PATIENCE, "the router has what it wants", || {
        all_there();
        settled()
    });
    for vip in &vips {
        let vip = plain(vip);
        assert_eq!(fib.seen(&["Deleted", &vip]), None, "the FIB lost {vip}");
        assert_eq!(addresses.seen(&["Deleted", &vip]), None, "lo lost {vip}");
    }
    stops(router, node, next);
}

fn stops(router: &impl Speaker, node: &Node, mut sidecast: Sidecast) {
    sidecast.signal(Signal::SIGTERM);
    for vip in [node.vip4(), node.vip6()] {
        until(SOON, "SIGTERM withdraws at once", || {
            expect(router.seen(node, &vip).is_none(), "it is there")
        });
    }
    assert!(sidecast.wait(PATIENCE).success());
    let left = node.network.addresses("lo");
    assert!(left.is_empty(), "left: {left:?}");
}

/// The service died between the two processes: End-of-RIB after the first checks ends the route, long before
/// the restart time does.
pub fn what_is_dead_after_the_restart_goes_with_the_first_checks() {
    let topology = Topology::new(1);
    let node = topology.node();
    let router = bird(&topology, "", "");
    let config = |check: &str| {
        let apps = node.apps(&format!(
            ", monitors: [\"exec:{check}\"], interval: 200ms, timeout: 10s"
        ));
        node.config(RESTART).replace(&node.apps(""), &apps)
    };
    let mut sidecast = Sidecast::start(&node.network, &config("true"));
    arrives(&router, node, &node.vip4());
    sidecast.signal(Signal::SIGUSR2);
    assert!(sidecast.wait(PATIENCE).success());
    assert!(router.seen(node, &node.vip4()).is_some());
    let _next = Sidecast::start(&node.network, &config("false"));
    for vip in [node.vip4(), node.vip6()] {
        until(SOON, "the dead one's route goes", || {
            expect(router.seen(node, &vip).is_none(), "it is there")
        });
    }
}

/// The translation is there without the process, and the next one takes it over.
pub fn a_nat_table_outlives_a_planned_restart() {
    let topology = Topology::new(1);
    let node = topology.node();
    let router = bird(&topology, "", "");
    let apps = node.apps(", nats: [\"udp:53:8053\"]");
    let config = node.config(RESTART).replace(&node.apps(""), &apps);
    let mut sidecast = Sidecast::start(&node.network, &config);
    arrives(&router, node, &node.vip4());
    let rules = || node.network.run("nft", &["list", "ruleset"]);
    assert!(rules().contains("8053"), "{}", rules());
    sidecast.signal(Signal::SIGUSR2);
    assert!(sidecast.wait(PATIENCE).success());
    assert!(rules().contains("8053"), "{}", rules());
    let mut next = Sidecast::start(&node.network, &config);
    arrives(&router, node, &node.vip4());
    until(
        PATIENCE,
        "one table is left, and it is the next one's",
        || {
            let rules = rules();
            let tables = rules.matches("table ip sidecast").count();
            let taken = next.log().contains("taking over") && router.established("h1");
            expect(taken && tables == 1, rules)
        },
    );
    next.signal(Signal::SIGTERM);
    assert!(next.wait(PATIENCE).success());
    assert!(!rules().contains("8053"), "{}", rules());
}
