//! BFD with the two speakers that stand in racks: a path that dies without a sign is noticed within a
//! second, whoever's timer it is, and nothing else disturbs the session.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidecast_lab::{
    Bird, BirdSession, Cable, Change, Frr, HostLink, Namespace, Routes, Sidecast, Site, VIP4,
    expect, until,
};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip", "nft"]:
        bird_notices_a_dead_path_over_ipv4,
        bird_notices_a_dead_path_over_ipv6_and_several_hops,
        bird_notices_a_dead_path_between_link_local_addresses;
    needs ["bgpd", "bfdd", "zebra", "vtysh", "ip", "nft"]:
        frr_notices_a_dead_path_over_ipv6,
        frr_notices_a_dead_path_over_ipv4_and_several_hops,
        what_a_router_switches_off_is_no_failure;
    needs ["bird", "birdc", "ip"]:
        leaving_is_no_failure,
        another_speaker_on_the_port_is_named;
}

fn bird_notices_a_dead_path_over_ipv4() {
    let site = Site::new();
    let session = BirdSession {
        options: BIRD_SESSION,
        ..site.a.session("a")
    };
    let router = Bird::router_with(&site.router, BIRD_BFD, &[session]);
    let config = site.a.config("bfd: true", "");
    notices(&site, &config, "BIRD, one hop, IPv4", || {
        bird_is_up(&router)
    });
}

fn bird_notices_a_dead_path_over_ipv6_and_several_hops() {
    let site = Site::new();
    let session = BirdSession {
        options: &format!("multihop; {BIRD_SESSION}"),
        ..site.a.session6("a")
    };
    let router = Bird::router_with(&site.router, BIRD_BFD, &[session]);
    let config = over_ipv6(&site.a, "bfd: {multihop: true}");
    notices(&site, &config, "BIRD, multihop, IPv6", || {
        bird_is_up(&router)
    });
}

fn bird_notices_a_dead_path_between_link_local_addresses() {
    let site = Site::new();
    let (ours, theirs) = (
        link_local(&site.a.network, "eth0", "fe80::a:2"),
        link_local(&site.router, site.a.device, "fe80::a:1"),
    );
    let options = format!("interface \"{}\"; {BIRD_SESSION}", site.a.device);
    let session = BirdSession {
        local: theirs,
        neighbor: ours,
        options: &options,
        ..site.a.session("a")
    };
    let router = Bird::router_with(&site.router, BIRD_BFD, &[session]);
    let peer = format!("peer_ip: \"{theirs}%eth0\"");
    let config = site.a.config("bfd: true", "").replace(
        &format!("peer_ip: {}", site.a.addresses.router4),
        &format!("{peer}\n  next_hop: {}", site.a.addresses.host4),
    );
    notices(&site, &config, "BIRD, one hop, link-local", || {
        bird_is_up(&router)
    });
}

fn frr_notices_a_dead_path_over_ipv6() {
    let site = Site::new();
    let router = frr(&site, site.a.addresses.host6, "bfd");
    let config = over_ipv6(&site.a, "bfd: true");
    notices(&site, &config, "FRR, one hop, IPv6", || frr_is_up(&router));
}

fn frr_notices_a_dead_path_over_ipv4_and_several_hops() {
    let site = Site::new();
    let neighbor = site.a.addresses.host4;
    let more = format!("bfd\n neighbor {neighbor} ebgp-multihop 3");
    let router = frr(&site, neighbor, &more);
    let config = site.a.config("bfd: {multihop: true}", "");
    notices(&site, &config, "FRR, multihop, IPv4", || frr_is_up(&router));
}

/// The router's operator takes BFD down; BGP stays, and so do the routes.
fn what_a_router_switches_off_is_no_failure() {
    let site = Site::new();
    let _services = site.a.services();
    let neighbor = site.a.addresses.host4;
    let router = frr(&site, neighbor, "bfd profile lab");
    let mut sidecast = Sidecast::start(&site.a.network, &site.a.config("bfd: true", ""));
    site.answered_by("a", PATIENCE);
    sidecast.wait_for_api(&site.a.network);
    until(PATIENCE, "BFD comes up", || {
        frr_is_up(&router)?;
        expect(bfd_up(&sidecast, &site.a), "sidecast does not say so")
    });
    router.ask("configure\nbfd\nprofile lab\nshutdown");
    until(PATIENCE, "BFD is switched off", || {
        expect(!bfd_up(&sidecast, &site.a), router.ask("show bfd peers"))
    });
    // Longer than any timer here.
    let begun = Instant::now();
    until(PATIENCE, "three seconds pass", || {
        expect(begun.elapsed() > Duration::from_secs(3), "not yet")
    });
    assert_eq!(
        history(&sidecast, &site.a),
        (0, true),
        "the very same session"
    );
    assert!(router.established(neighbor));
    router.ask("configure\nbfd\nprofile lab\nno shutdown");
    until(PATIENCE, "BFD is back", || {
        expect(bfd_up(&sidecast, &site.a), router.ask("show bfd peers"))
    });
    site.answered_by("a", PATIENCE);
}

fn leaving_is_no_failure() {
    let site = Site::new();
    let _services = site.a.services();
    let session = BirdSession {
        options: BIRD_SESSION,
        ..site.a.session("a")
    };
    let router = Bird::router_with(&site.router, BIRD_BFD, &[session]);
    let mut sidecast = Sidecast::start(&site.a.network, &site.a.config("bfd: true", ""));
    site.answered_by("a", PATIENCE);
    until(PATIENCE, "BFD comes up", || bird_is_up(&router));
    sidecast.signal(Signal::SIGTERM);
    assert!(sidecast.wait(PATIENCE).success());
    let session = router.session("a");
    assert!(session.contains("Administrative shutdown"), "{session}");
}

/// Two of them cannot share the port; BGP goes on without.
fn another_speaker_on_the_port_is_named() {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let _other = Bird::start(
        &site.a.network,
        &format!(
            "log stderr all; router id 10.0.1.2; protocol device {{ }} {BIRD_BFD}
             protocol bgp upstream {{
               local {} as 65001; neighbor {} as 65000; passive; bfd on; ipv4 {{ import none; export none; }};
             }}",
            site.a.addresses.host4, site.a.addresses.router4
        ),
    );
    let sidecast = Sidecast::start(&site.a.network, &site.a.config("bfd: true", ""));
    site.answered_by("a", PATIENCE);
    until(PATIENCE, "the log says so", || {
        let log = sidecast.log();
        expect(log.contains("cannot bind UDP port 3784 (IPv4)"), log)
    });
}

/// Loses every packet on the way, and puts the cable back: the router's kernel must lose the route and
/// sidecast its session within a second or so, far below the hold time, and both must come back.
#[track_caller]
fn notices(site: &Site, config: &str, name: &str, is_up: impl Fn() -> Result<(), String>) {
    let _services = site.a.services();
    let mut sidecast = Sidecast::start(&site.a.network, config);
    let routes = Routes::listen(&site.router);
    let vip: IpAddr = VIP4.parse().expect("an address");
    routes.wait(Change::Added, vip, PATIENCE);
    sidecast.wait_for_api(&site.a.network);
    until(PATIENCE, "BFD comes up", || {
        is_up()?;
        expect(bfd_up(&sidecast, &site.a), "sidecast does not say so")
    });
    let begun = Instant::now();
    site.silence(&site.a, Cable::Out);
    let gone = routes.wait(Change::Removed, vip, PATIENCE);
    until(LIMIT, "sidecast has noticed too", || {
        let peer = peer(&sidecast, &site.a);
        let down = peer["state"]["bfd_up"] == false && peer["state"]["session_state"] != 6;
        expect(down, peer)
    });
    let ours = begun.elapsed();
    let theirs = gone - begun;
    println!("{name}: route gone after {theirs:.0?}, sidecast knows after {ours:.0?}");
    assert!(theirs < LIMIT && ours < LIMIT, "{theirs:?}, {ours:?}");
    site.silence(&site.a, Cable::In);
    routes.wait(Change::Added, vip, PATIENCE);
    site.answered_by("a", PATIENCE);
    sidecast.must_run();
}

/// What `/info` says of the one peer.
fn peer(sidecast: &Sidecast, host: &HostLink) -> serde_json::Value {
    sidecast.get(&host.network, "/info").json()
}

fn bfd_up(sidecast: &Sidecast, host: &HostLink) -> bool {
    peer(sidecast, host)["state"]["bfd_up"] == true
}

/// Sessions that ended so far, and whether there is one now.
fn history(sidecast: &Sidecast, host: &HostLink) -> (u64, bool) {
    let state = peer(sidecast, host)["state"].take();
    let ended = state["flops"].as_u64().expect("a number");
    (ended, state["session_state"] == 6)
}

fn bird_is_up(router: &Bird) -> Result<(), String> {
    let sessions = router.ask("show bfd sessions");
    expect(sessions.contains(" Up "), sessions)
}

fn frr_is_up(router: &Frr) -> Result<(), String> {
    let peers = router.ask("show bfd peers");
    expect(peers.contains("Status: up"), peers)
}

/// FRR with one neighbor and a line more of it.
fn frr(site: &Site, neighbor: &str, more: &str) -> Frr {
    let config = format!(
        "router bgp 65000\n bgp router-id 10.255.0.1\n no bgp ebgp-requires-policy\n \
         neighbor {neighbor} remote-as 65001\n neighbor {neighbor} {more}\n \
         address-family ipv4 unicast\n  neighbor {neighbor} activate\n exit-address-family\n \
         address-family ipv6 unicast\n  neighbor {neighbor} activate\n exit-address-family\n"
    );
    Frr::start_with_bfd(&site.router, &config, "bfd\n profile lab\n")
}

fn over_ipv6(host: &HostLink, bgp: &str) -> String {
    host.config(bgp, "").replace(
        &format!("peer_ip: {}", host.addresses.router4),
        &format!("peer_ip: \"{}\"", host.addresses.router6),
    )
}

/// Gives a device a link-local address, as the kernel would. It can be used a moment later: before that
/// BIRD cannot bind to it, and keeps a BFD session without a socket forever.
fn link_local(network: &Namespace, device: &str, addr: &str) -> IpAddr {
    network.ip(&format!("addr replace {addr}/64 dev {device}"));
    until(PATIENCE, "the address can be used", || {
        let addresses = network.ip(&format!("-6 addr show dev {device}"));
        expect(!addresses.contains("tentative"), addresses)
    });
    addr.parse().expect("an address")
}

const BIRD_BFD: &str = "protocol bfd { \
     interface \"*\" { multiplier 3; }; multihop { multiplier 3; }; \
     }";
/// BIRD keeps a minute's silence after each error by default.
const BIRD_SESSION: &str = "bfd on; error wait time 1, 1;";

/// Three times 300 ms is the detection time; the rest is for a busy machine. The hold time is ninety seconds.
const LIMIT: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(20);
