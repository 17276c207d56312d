//! The addresses that sessions run from, and the ways to the peers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::bench::{Bench, config, network, secs};
use crate::bgp::peer::{ConnId, Event as Bgp, StateName};
use crate::config::{Config, Remote};
use crate::core::Event;
use crate::discovery::{Network, PeerName, PeerNetwork};

const NAT: &str = "{name: dns, vip: 192.0.2.53/32, nats: [\"udp:53:8053\"]}";
/// Two routers, and the host's address toward each.
const ONE: (&str, &str) = ("10.0.0.1", "10.0.0.2");
const TWO: (&str, &str) = ("10.0.1.1", "10.0.1.2");

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn two_peers() -> Config {
    let mut config = config("", NAT);
    let mut second = config.bgp.peers[0].clone();
    second.remote = Remote::Addr(addr(TWO.0), None);
    config.bgp.peers.push(second);
    config
}

fn two_ways() -> Network {
    let mut network = network();
    let (remote, local) = (addr(TWO.0), addr(TWO.1));
    let first = network.peers.values().next().unwrap();
    let second = PeerNetwork {
        settings_index: 1,
        remote,
        local: Some(local),
        ..first.clone()
    };
    network.peers.insert(PeerName::new(remote, None), second);
    network.addresses.insert(local);
    network.own_addresses.insert(local);
    network
}

fn without(address: &str) -> Network {
    let mut network = two_ways();
    network.addresses.remove(&addr(address));
    network
}

/// The router opens a session.
fn establish(bench: &mut Bench, (remote, local): (&str, &str), number: u64) {
    let peer = PeerName::new(addr(remote), None);
    let conn = ConnId::accepted(number);
    let accepted = Bgp::Accepted {
        conn,
        local: SocketAddr::new(addr(local), 179),
        remote: SocketAddr::new(addr(remote), 50_000),
    };
    // AS 65000, hold time 90, a router id of its own, no capabilities; KEEPALIVE.
    let mut bytes = vec![0xff; 16];
    bytes.extend([0, 29, 1, 4, 0xfd, 0xe8, 0, 90, 10, 0, 9, number as u8, 0]);
    bytes.extend([0xff; 16]);
    bytes.extend([0, 19, 4]);
    for event in [accepted, Bgp::Received { conn, bytes }] {
        let peer = peer.clone();
        bench.event(Event::Bgp { peer, event });
    }
    assert!(is_up(bench, remote));
}

/// A carrier loss counts even if the carrier is back before the tables are read: the peer may have seen it.
#[test]
fn an_unseen_carrier_flap_is_probed() {
    let mut bench = Bench::new(config("", NAT));
    establish(&mut bench, ONE, 1);
    let flapped = |changes| {
        let mut network = network();
        let peer = network.peers.values_mut().next().unwrap();
        peer.carrier_changes = changes;
        network
    };
    bench.event(Event::Network(flapped(2)));
    acknowledge(&mut bench, ONE.0);
    bench.event(Event::Network(flapped(2)));
    bench.advance(secs(1));
    assert!(is_up(&bench, ONE.0), "it is not probed again");
    bench.event(Event::Network(flapped(4)));
    bench.advance(secs(1));
    assert!(!is_up(&bench, ONE.0), "it was not asked");
}

/// The answer to a probe.
fn acknowledge(bench: &mut Bench, remote: &str) {
    let peer = PeerName::new(addr(remote), None);
    let conn = ConnId::accepted(1);
    let event = Bgp::Acknowledged { conn };
    bench.event(Event::Bgp { peer, event });
}

fn is_up(bench: &Bench, remote: &str) -> bool {
    let peers = bench.core.peers(bench.now);
    let mut of = peers
        .iter()
        .filter(|peer| peer.remote == Some(addr(remote)));
    of.any(|peer| peer.state == StateName::Established)
}

#[track_caller]
fn assert_target(bench: &mut Bench, target: &str) {
    bench.advance(Duration::from_millis(1));
    let targets: Vec<IpAddr> = bench.nat.rules.iter().map(|rule| rule.target).collect();
    assert_eq!(targets, [addr(target)]);
}

#[test]
fn of_several_sessions_nat_follows_one_whose_address_is_there() {
    let mut bench = Bench::new(two_peers());
    bench.event(Event::Network(two_ways()));
    bench.advance(secs(1));
    assert_target(&mut bench, ONE.1);
    // The one session that there is, whatever the network says.
    establish(&mut bench, TWO, 1);
    assert_target(&mut bench, TWO.1);
    // A second one is no reason to move.
    establish(&mut bench, ONE, 2);
    assert_target(&mut bench, TWO.1);
    bench.event(Event::Network(without(TWO.1)));
    assert_target(&mut bench, ONE.1);
    // Nor is the address of the first when it is back in time.
    bench.event(Event::Network(two_ways()));
    assert_target(&mut bench, ONE.1);
    assert!(is_up(&bench, ONE.0) && is_up(&bench, TWO.0));
    bench.event(Event::Network(without(ONE.1)));
    assert_target(&mut bench, TWO.1);
}

/// A network manager that renews a lease takes the address away, and with it the route to the peer.
#[test]
fn an_address_that_is_gone_with_its_route_ends_the_session_after_a_second() {
    for (away, ends) in [(900, false), (1100, true)] {
        let mut bench = Bench::new(config("", NAT));
        establish(&mut bench, ONE, 1);
        let mut gone = network();
        gone.peers.clear();
        gone.addresses.remove(&addr(ONE.1));
        bench.event(Event::Network(gone));
        bench.advance(Duration::from_millis(away));
        assert_eq!(is_up(&bench, ONE.0), !ends, "after {away} ms");
        bench.event(Event::Network(network()));
        acknowledge(&mut bench, ONE.0);
        bench.advance(secs(2));
        assert_eq!(is_up(&bench, ONE.0), !ends);
    }
}

/// As long as its address is there, a session needs no route; it has ten seconds to come back.
#[test]
fn a_route_that_is_gone_alone_ends_no_session() {
    let mut bench = Bench::new(config("", NAT));
    establish(&mut bench, ONE, 1);
    let mut gone = network();
    gone.peers.clear();
    bench.event(Event::Network(gone));
    bench.advance(secs(9));
    assert!(is_up(&bench, ONE.0));
    bench.event(Event::Network(network()));
    acknowledge(&mut bench, ONE.0);
    bench.advance(secs(9));
    assert!(is_up(&bench, ONE.0));
}
