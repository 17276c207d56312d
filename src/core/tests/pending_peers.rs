//! Configured peers are shown from the start, with their state.

use std::time::Instant;

use super::bench::{Bench, config, config_with, network, secs};
use crate::bgp::peer::StateName;
use crate::config::Config;
use crate::core::{Core, Event};
use crate::discovery::{Network, Obstacle, PeerName};

/// `bgp.peer_ip` as written.
fn toward(peer_ip: &str) -> Config {
    let mut config = config("", "");
    config.bgp.peers[0].remote = peer_ip.parse().unwrap();
    config
}

/// Names, states and what they wait for.
fn peers(core: &Core, now: Instant) -> Vec<String> {
    let views = core.peers(now).into_iter();
    let shown = views.map(|peer| {
        let why = peer.last_error.unwrap_or_default();
        format!("{}: {}: {why}", peer.name, peer.state)
    });
    shown.collect()
}

fn alone() -> Network {
    let mut network = network();
    network.peers.clear();
    network
}

#[test]
fn a_written_peer_is_there_before_anything_is_known() {
    let now = Instant::now();
    for peer in ["10.0.0.1", "%eth0", "fe80::1%eth0"] {
        let core = Core::new(toward(peer), 1, now);
        let want = format!("{peer}: idle: the kernel's tables are not read yet");
        assert_eq!(peers(&core, now), [want]);
    }
}

#[test]
fn a_host_without_an_address_says_what_it_waits_for_and_counts_from_the_start() {
    let now = Instant::now();
    let mut core = Core::new(toward("10.0.0.1"), 1, now);
    let mut nameless = network();
    nameless.router_id = None;
    core.handle(now, Event::Network(nameless));
    let want = "10.0.0.1: idle: no router ID: this host has no address yet";
    assert_eq!(peers(&core, now), [want]);
    let now = now + secs(3);
    core.handle(now, Event::Network(network()));
    assert_eq!(peers(&core, now), ["10.0.0.1: connect: "]);
    assert_eq!(core.peers(now)[0].since, secs(3), "since the start");
}

#[test]
fn an_unnumbered_peer_waits_for_its_router_and_becomes_it() {
    let now = Instant::now();
    let mut core = Core::new(toward("%eth0"), 1, now);
    let mut silent = alone();
    let nobody = Obstacle::NoRouter("eth0".to_owned());
    silent.absent.insert(0, nobody);
    core.handle(now, Event::Network(silent));
    assert_eq!(
        peers(&core, now),
        ["%eth0: idle: no router answers on eth0"]
    );
    let mut answers = alone();
    let mut peer = network().peers.into_values().next().unwrap();
    peer.remote = "fe80::1".parse().unwrap();
    let name = PeerName::new(peer.remote, Some("eth0"));
    answers.peers.insert(name, peer);
    core.handle(now, Event::Network(answers));
    assert_eq!(peers(&core, now), ["fe80::1%eth0: connect: "]);
}

#[test]
fn without_a_gateway_there_is_a_sentence_in_place_of_a_peer() {
    let now = Instant::now();
    let mut config = config("", "");
    config.bgp.peers[0].remote = crate::config::Remote::Gateway;
    let mut core = Core::new(config, 1, now);
    assert_eq!(core.no_peer_reason(), None);
    let mut without = alone();
    without.absent.insert(0, Obstacle::NoGateway);
    core.handle(now, Event::Network(without));
    assert!(core.peers(now).is_empty());
    let sentence = core.no_peer_reason().map(ToString::to_string);
    assert_eq!(
        sentence.as_deref(),
        Some("no default gateway, and no peer_ip is set")
    );
    core.handle(now, Event::Network(network()));
    assert_eq!(core.no_peer_reason(), None);
}

/// Attempts go on meanwhile: what is shown is what they fail of.
#[test]
fn a_session_shows_what_stands_in_its_way_until_it_is_up() {
    let mut bench = Bench::new(config_with("", "", ""));
    let mut far = network();
    let peer = far.peers.values_mut().next().unwrap();
    peer.obstacle = Some(Obstacle::NoRoute(peer.remote));
    bench.event(Event::Network(far));
    bench.advance(secs(20));
    let idle = "10.0.0.1: idle: no route to 10.0.0.1";
    assert_eq!(peers(&bench.core, bench.now), [idle]);
    assert_eq!(
        bench.core.peers(bench.now)[0].since,
        secs(20),
        "and not since the last attempt"
    );
    for event in super::bench::session_events() {
        bench.event(event);
    }
    let view = &bench.core.peers(bench.now)[0];
    assert_eq!((view.state, view.since), (StateName::Established, secs(0)));
}
