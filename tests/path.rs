//! The way to the router: its carrier, our address on it, the router itself. What is no end of a session
//! costs no route, and what was one is mended when its cause is gone. The times are printed; the limits
//! have room for a busy machine.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidecast_lab::{
    Bird, BirdSession, Cable, Change, Frr, Gobgp, HostLink, Lab, Namespace, Routes, Sidecast, Site,
    VIP4, expect, until,
};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip"]:
        another_address_ends_no_session,
        an_address_that_goes_and_comes_back_ends_no_session,
        an_address_that_is_gone_ends_the_session_and_another_takes_its_place,
        a_flap_behind_a_bridge_costs_bird_no_route,
        ten_seconds_without_carrier_are_over_at_once,
        without_carrier_nothing_is_tried_and_its_return_is_answered_at_once,
        a_router_with_another_mac_is_found_at_once,
        a_rebooted_router_is_found_at_once,
        what_the_host_sends_without_carrier_delays_nothing,
        a_default_route_that_goes_for_a_moment_is_not_missed_beside_its_session,
        two_speakers_behind_one_address_do_not_evict_each_other_for_ever;
    needs ["bird", "birdc", "ip", "nft"]:
        a_router_that_sends_no_reset_is_found_too,
        nat_follows_the_session_while_the_default_route_is_away;
    needs ["bgpd", "zebra", "vtysh", "ip"]:
        a_flap_behind_a_bridge_costs_frr_no_route;
    needs ["bgpd", "bfdd", "zebra", "vtysh", "ip"]:
        a_frozen_frr_is_back_when_it_goes_on;
    needs ["gobgpd", "gobgp", "ip"]:
        another_address_ends_no_session_with_gobgp;
}

/// A router with a static neighbor refuses any other address: the route would be gone for good.
fn another_address_ends_no_session() {
    let site = Site::new();
    let (router, sidecast) = over_ipv6(&site);
    churn(&site);
    stays(&sidecast, || established(&router));
    let log = sidecast.log();
    let logged = log.matches("a new one would use").count();
    assert_eq!(logged, 1, "{log}");
}

fn another_address_ends_no_session_with_gobgp() {
    let site = Site::new();
    let neighbor = site.a.addresses.host6;
    let config = format!(
        "[global.config]\n as = 65000\n router-id = \"10.255.0.1\"\n\
         [[neighbors]]\n [neighbors.config]\n neighbor-address = \"{neighbor}\"\n peer-as = 65001\n\
         [neighbors.transport.config]\n passive-mode = true\n\
         [[neighbors.afi-safis]]\n [neighbors.afi-safis.config]\n afi-safi-name = \"ipv6-unicast\"\n"
    );
    let router = Gobgp::start(&site.router, &config);
    let sidecast = Sidecast::start(
        &site.a.network,
        &plain(&site.a, site.a.addresses.router6, ""),
    );
    let established = || {
        let neighbors = router.json(&["neighbor"]);
        expect(neighbors[0]["state"]["session_state"] == 6, neighbors)
    };
    until(PATIENCE, "the session is up", established);
    churn(&site);
    stays(&sidecast, established);
}

/// One more address, one the kernel likes better, and ours deprecated.
fn churn(site: &Site) {
    let host = &site.a.network;
    let Addresses { ours, other } = ADDRESSES;
    host.ip(&format!("addr add {other}/64 dev eth0 nodad"));
    let gateway = site.a.addresses.router6;
    host.ip(&format!(
        "-6 route replace default via {gateway} src {other}"
    ));
    host.ip(&format!("addr change {ours}/64 dev eth0 preferred_lft 0"));
}

fn an_address_that_goes_and_comes_back_ends_no_session() {
    let site = Site::new();
    let (router, sidecast) = over_ipv6(&site);
    let host = &site.a.network;
    let ours = ADDRESSES.ours;
    host.ip(&format!("addr add {}/64 dev eth0 nodad", ADDRESSES.other));
    host.ip(&format!("addr del {ours}/64 dev eth0"));
    host.ip(&format!("addr add {ours}/64 dev eth0 nodad"));
    stays(&sidecast, || established(&router));
    // On lo alone it is still ours.
    host.ip(&format!("addr del {ours}/64 dev eth0"));
    host.ip(&format!("addr add {ours}/128 dev lo"));
    site.router.ip(&format!(
        "-6 route add {ours}/128 via {} dev {}",
        ADDRESSES.other, site.a.device
    ));
    stays(&sidecast, || established(&router));
}

fn an_address_that_is_gone_ends_the_session_and_another_takes_its_place() {
    let site = Site::new();
    let Addresses { ours, other } = ADDRESSES;
    let second = BirdSession {
        neighbor: addr(other),
        ..site.a.session6("b")
    };
    let sessions = [site.a.session6("a"), second].map(static_neighbor);
    let router = Bird::router(&site.router, &sessions);
    let config = plain(&site.a, site.a.addresses.router6, "");
    let mut sidecast = Sidecast::start(&site.a.network, &config);
    until(PATIENCE, "the session is up", || established(&router));
    let host = &site.a.network;
    host.ip(&format!("addr add {other}/64 dev eth0 nodad"));
    let changed = Instant::now();
    host.ip(&format!(
        "addr change {ours}/64 dev eth0 valid_lft 2 preferred_lft 0"
    ));
    let gone = || !host.addresses("eth0").contains(&format!("{ours}/64"));
    until(PATIENCE, "the address expires", || {
        expect(gone(), "not yet")
    });
    let begun = Instant::now();
    until(PATIENCE, "the other address has a session", || {
        sidecast.must_run();
        expect(router.established("b"), sidecast.log())
    });
    let took = begun.elapsed();
    println!("address gone to the session from another: {took:.0?}");
    // Two seconds it lives, and one it may be away. The hold timer would run for ninety.
    assert!(changed.elapsed() > Duration::from_millis(2800), "{took:?}");
    assert!(took < Duration::from_secs(15), "{took:?}");
}

/// Behind a bridge the router sees nothing of it.
fn a_flap_behind_a_bridge_costs_bird_no_route() {
    let switched = Switched::new();
    let session = BirdSession {
        local: addr(ROUTER),
        neighbor: addr(HOST),
        ..Site::new().a.session("a")
    };
    let router = Bird::router(&switched.router, &[session]);
    switched.flap(|| established(&router));
}

fn a_flap_behind_a_bridge_costs_frr_no_route() {
    let switched = Switched::new();
    let config = frr(HOST, "");
    let router = Frr::start(&switched.router, &config);
    switched.flap(|| expect(router.established(HOST), router.neighbor(HOST)));
}

fn ten_seconds_without_carrier_are_over_at_once() {
    let site = Site::new();
    let router = Bird::router(&site.router, &[passive(&site)]);
    let took = unplugged(&site, &router);
    assert!(took < AT_ONCE, "{took:?}");
}

/// The first connection is reset by us, in vain.
fn a_router_that_sends_no_reset_is_found_too() {
    let site = Site::new();
    let router = Bird::router(&site.router, &[passive(&site)]);
    site.router.nft(
        "table inet mute {
           chain out { type filter hook output priority 0; tcp flags & rst == rst drop; }
         }",
    );
    let took = unplugged(&site, &router);
    assert!(took < AT_ONCE, "{took:?}");
}

/// The cable is out for ten seconds, at the end of which the router knows nothing of the session.
#[track_caller]
fn unplugged(site: &Site, router: &Bird) -> Duration {
    let routes = Routes::listen(&site.router);
    let config = plain(&site.a, site.a.addresses.router4, "");
    let mut sidecast = Sidecast::start(&site.a.network, &config);
    sidecast.wait_for_api(&site.a.network);
    routes.wait(Change::Added, addr(VIP4), PATIENCE);
    site.plug(&site.a, Cable::Out);
    until(PATIENCE, "it is shown", || {
        let state = peer(&sidecast, &site.a.network)["state"].take();
        expect(state["session_state_name"] == "no carrier", state)
    });
    pass(Duration::from_secs(10), || sidecast.must_run());
    assert!(!router.established("a"), "the router gave up");
    // What its kernel still had to send of the old session is not what is looked at.
    site.router
        .run("ss", &["-K", "dst", site.a.addresses.host4]);
    routes.seen(addr(VIP4));
    let begun = Instant::now();
    site.plug(&site.a, Cable::In);
    let took = routes.wait(Change::Added, addr(VIP4), PATIENCE) - begun;
    println!("link up to route, after a session: {took:.0?}");
    took
}

fn without_carrier_nothing_is_tried_and_its_return_is_answered_at_once() {
    let site = Site::new();
    let _router = Bird::router(&site.router, &[passive(&site)]);
    site.plug(&site.a, Cable::Out);
    let routes = Routes::listen(&site.router);
    let config = plain(&site.a, site.a.addresses.router4, "");
    let mut sidecast = Sidecast::start(&site.a.network, &config);
    sidecast.wait_for_api(&site.a.network);
    pass(Duration::from_secs(3), || sidecast.must_run());
    let sockets = site.a.network.run("ss", &["-Htan", "state", "syn-sent"]);
    assert_eq!(sockets, "", "an attempt");
    let begun = Instant::now();
    site.plug(&site.a, Cable::In);
    let took = routes.wait(Change::Added, addr(VIP4), PATIENCE) - begun;
    println!("link up to route, without a session: {took:.0?}");
    assert!(took < AT_ONCE, "{took:?}");
}

/// Its power went with the link, and when the link is back its daemon is ready and knows nothing.
fn a_rebooted_router_is_found_at_once() {
    let site = Site::new();
    let mut router = Bird::router(&site.router, &[passive(&site)]);
    let routes = Routes::listen(&site.router);
    let config = plain(&site.a, site.a.addresses.router4, "");
    let mut sidecast = Sidecast::start(&site.a.network, &config);
    routes.wait(Change::Added, addr(VIP4), PATIENCE);
    site.plug(&site.a, Cable::Out);
    router.stop(Signal::SIGKILL);
    let host = site.a.addresses.host4;
    site.router.run("ss", &["-K", "dst", host]);
    site.router.ip("route flush proto bird");
    pass(Duration::from_secs(3), || sidecast.must_run());
    router.start_again(&site.router);
    routes.seen(addr(VIP4));
    let begun = Instant::now();
    site.plug(&site.a, Cable::In);
    let took = routes.wait(Change::Added, addr(VIP4), PATIENCE) - begun;
    println!("router rebooted, link up to route: {took:.0?}");
    assert!(took < AT_ONCE, "{took:?}\n{}", sidecast.log());
}

/// The kernel asks for the router's MAC once a second, and would go on at that pace when the carrier is back.
fn what_the_host_sends_without_carrier_delays_nothing() {
    let mut times = [0; 4].map(|_| link_up_after_packets());
    times.sort();
    println!("link up to route, after other packets: {times:.0?}");
    // The next time that it asked by itself would be a second after the last.
    assert!(times[0] < Duration::from_millis(400), "{times:?}");
    assert!(times[3] < AT_ONCE, "{times:?}");
}

fn link_up_after_packets() -> Duration {
    let site = Site::new();
    let _router = Bird::router(&site.router, &[passive(&site)]);
    site.plug(&site.a, Cable::Out);
    let routes = Routes::listen(&site.router);
    let config = plain(&site.a, site.a.addresses.router4, "");
    let mut sidecast = Sidecast::start(&site.a.network, &config);
    sidecast.wait_for_api(&site.a.network);
    let host = &site.a.network;
    let socket = host.enter(|| UdpSocket::bind("0.0.0.0:0"));
    let socket = socket.expect("a socket");
    let router = site.a.addresses.router4;
    pass(Duration::from_secs(1), || sidecast.must_run());
    socket
        .send_to(b"answer", (router, 9))
        .expect("it is queued");
    let neighbor = || host.ip_json(&format!("neigh show {router}"));
    until(PATIENCE, "the router is asked for its MAC", || {
        let known = neighbor();
        expect(known[0]["state"][0] == "INCOMPLETE", known)
    });
    let begun = Instant::now();
    site.plug(&site.a, Cable::In);
    routes.wait(Change::Added, addr(VIP4), PATIENCE) - begun
}

/// The power of the router behind the switch goes, and another one of its address takes its place: our
/// carrier stays.
fn a_router_with_another_mac_is_found_at_once() {
    let switched = Switched::new();
    let session = BirdSession {
        local: addr(ROUTER),
        neighbor: addr(HOST),
        options: PASSIVE,
        ..Site::new().a.session("a")
    };
    let first = Bird::router(&switched.router, std::slice::from_ref(&session));
    let config = switched.config();
    let sidecast = Sidecast::start(&switched.host, &config);
    until(PATIENCE, "the session is up", || established(&first));
    // The neighbor entry has been confirmed with its MAC.
    pass(Duration::from_secs(1), || {});
    switched.switch.ip("link set r0 down");
    let next = switched.lab.namespace("next");
    let routes = Routes::listen(&next);
    switched.join(&next, "r1", &format!("{ROUTER}/24"));
    let _second = Bird::router(&next, &[session]);
    routes.seen(addr(VIP4));
    let begun = Instant::now();
    // With its first packet it asks for us, and says who it is.
    let socket = next
        .enter(|| UdpSocket::bind("0.0.0.0:0"))
        .expect("a socket");
    socket.send_to(b"hello", (HOST, 9)).expect("on the link");
    until(PATIENCE, "the route comes", || {
        let seen = routes.seen(addr(VIP4));
        expect(seen.contains(&Change::Added), sidecast.log())
    });
    let took = begun.elapsed();
    println!("router replaced to route: {took:.0?}");
    assert!(took < AT_ONCE, "{took:?}");
}

/// Both with graceful restart: the router takes each new connection for a restart of the other.
fn two_speakers_behind_one_address_do_not_evict_each_other_for_ever() {
    let site = Site::new();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let config = plain(&site.a, site.a.addresses.router4, "graceful_restart: 60s").replacen(
        "agent: {",
        "agent: {listen_addr: \"off\", ",
        1,
    );
    let other = site.a.network.dir().join("other.yaml");
    std::fs::write(&other, &config).expect("a file");
    let mut one = Sidecast::start(&site.a.network, &config);
    until(PATIENCE, "the session is up", || established(&router));
    // Before that BIRD takes no second connection for a restart.
    pass(Duration::from_secs(2), || one.must_run());
    let mut two = sidecast_lab::Child::start(
        &site.a.network,
        "other",
        &sidecast_lab::binary(),
        &["--config", &other.to_string_lossy()],
        &[],
    );
    pass(Duration::from_secs(40), || {
        one.must_run();
        two.must_run();
    });
    for log in [one.log(), two.output()] {
        let sessions = log.matches(": established\n").count();
        println!("{sessions} sessions in 40 s");
        assert!(sessions <= 6, "{log}");
        assert!(log.matches("another BGP speaker").count() <= 1, "{log}");
    }
    let report = one.log() + &two.output();
    assert!(report.contains("another BGP speaker"), "{report}");
}

fn nat_follows_the_session_while_the_default_route_is_away() {
    let site = Site::new();
    let host = &site.a.network;
    let (gateway, session) = (site.a.addresses.router4, "10.255.1.2");
    // The session runs from an address on lo, to a router that only the default route leads to.
    host.ip(&format!("addr add {session}/32 dev lo"));
    host.ip(&format!(
        "route replace default via {gateway} src {session}"
    ));
    site.router.ip(&format!(
        "route add {session}/32 via {}",
        site.a.addresses.host4
    ));
    let peering = BirdSession {
        local: addr("10.0.9.1"),
        neighbor: addr(session),
        options: "multihop;",
        ..site.a.session("a")
    };
    let router = Bird::router(&site.router, &[peering]);
    let app = "nats: [\"udp:53:8053\"]";
    let config = plain(&site.a, "10.0.9.1", "").replace("name: dns", &format!("name: dns, {app}"));
    let mut sidecast = Sidecast::start(host, &config);
    until(PATIENCE, "the session is up", || established(&router));
    let target = || {
        let rules = host.run("nft", &["list", "ruleset"]);
        expect(rules.contains(&format!("{session}:8053")), rules)
    };
    until(PATIENCE, "NAT leads to its address", target);
    host.ip("route del default");
    pass(Duration::from_secs(3), || {
        sidecast.must_run();
        if let Err(rules) = target() {
            panic!("NAT moved: {rules}");
        }
    });
    host.ip(&format!("route add default via {gateway} src {session}"));
    stays(&sidecast, || established(&router));
    assert!(
        !sidecast.log().contains("no default gateway"),
        "{}",
        sidecast.log()
    );
}

fn a_default_route_that_goes_for_a_moment_is_not_missed_beside_its_session() {
    let site = Site::new();
    let host = &site.a.network;
    host.ip("-6 route del default");
    let router = Bird::router(&site.router, &[passive(&site)]);
    let config = plain(&site.a, "", "").replace("peer_ip: \"\", ", "");
    let sidecast = Sidecast::start(host, &config);
    until(PATIENCE, "the session is up", || established(&router));
    host.ip("route del default");
    stays(&sidecast, || established(&router));
    host.ip(&format!(
        "route add default via {}",
        site.a.addresses.router4
    ));
    stays(&sidecast, || established(&router));
    let log = sidecast.log();
    assert!(!log.contains("no default gateway"), "{log}");
}

/// BFD ends the session, and the next connection waits in the frozen daemon beside the old one.
fn a_frozen_frr_is_back_when_it_goes_on() {
    let site = Site::new();
    let neighbor = site.a.addresses.host4;
    let config = frr(neighbor, &format!(" neighbor {neighbor} bfd profile lab\n"));
    let bfd = "bfd\n profile lab\n  transmit-interval 100\n  receive-interval 100\n";
    let router = Frr::start_with_bfd(&site.router, &config, bfd);
    let config = plain(&site.a, site.a.addresses.router4, "bfd: {interval: 100ms}");
    let mut sidecast = Sidecast::start(&site.a.network, &config);
    sidecast.wait_for_api(&site.a.network);
    for frozen in [600, 1000, 1400, 2000] {
        until(PATIENCE, "BFD and the session are up", || {
            let state = peer(&sidecast, &site.a.network)["state"].take();
            let up = state["bfd_up"] == true && state["session_state"] == 6;
            expect(up && router.established(neighbor), state)
        });
        pass(Duration::from_secs(2), || {});
        router.signal(Signal::SIGSTOP);
        pass(Duration::from_millis(frozen), || {});
        let begun = Instant::now();
        router.signal(Signal::SIGCONT);
        // FRR takes the route out for a moment, or has that of the new session before it would.
        until(PATIENCE, "the session and the route are back", || {
            let state = peer(&sidecast, &site.a.network)["state"].take();
            let up = state["session_state"] == 6 && router.established(neighbor);
            let fib = site.router.ip(&format!("route show {VIP4}"));
            expect(up && fib.contains("via"), format!("{state} {fib}"))
        });
        let took = begun.elapsed();
        println!("FRR frozen for {frozen} ms: the route is back after {took:.0?}");
        assert!(took < AT_ONCE, "{took:?}\n{}", sidecast.log());
    }
    assert!(
        !sidecast.log().contains("another BGP speaker"),
        "{}",
        sidecast.log()
    );
}

/// A host and a router on a switch.
struct Switched {
    host: Namespace,
    switch: Namespace,
    router: Namespace,
    lab: Lab,
}

impl Switched {
    fn new() -> Self {
        let lab = Lab::new();
        let [host, switch, router] = ["host", "switch", "router"].map(|name| lab.namespace(name));
        switch.ip("link add br0 type bridge forward_delay 0");
        switch.ip("link set br0 up");
        let switched = Self {
            host,
            switch,
            router,
            lab,
        };
        switched.join(&switched.host, "h0", &format!("{HOST}/24"));
        switched.join(&switched.router, "r0", &format!("{ROUTER}/24"));
        switched
    }

    /// Puts a machine on a port of the switch.
    fn join(&self, who: &Namespace, port: &str, address: &str) {
        self.lab
            .cable((who, "eth0", &[address]), (&self.switch, port, &[]));
        self.switch.ip(&format!("link set {port} master br0"));
    }

    fn config(&self) -> String {
        format!(
            "agent: {{monitor_interval: 1s}}\n\
             bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {ROUTER}}}\n\
             apps: [{{name: dns, vip: {VIP4}/32}}]\n"
        )
    }

    /// The host's carrier goes for 100 ms.
    #[track_caller]
    fn flap(&self, established: impl Fn() -> Result<(), String>) {
        let routes = Routes::listen(&self.router);
        let sidecast = Sidecast::start(&self.host, &self.config());
        routes.wait(Change::Added, addr(VIP4), PATIENCE);
        pass(Duration::from_secs(1), || {});
        for _ in 0..3 {
            self.switch.ip("link set h0 down");
            pass(Duration::from_millis(100), || {});
            self.switch.ip("link set h0 up");
            stays(&sidecast, &established);
        }
        assert_eq!(routes.seen(addr(VIP4)), [], "the route moved");
    }
}

/// The very session that was up first is up for two more seconds.
#[track_caller]
fn stays(sidecast: &Sidecast, established: impl Fn() -> Result<(), String>) {
    pass(Duration::from_secs(2), || {
        if let Err(why) = established() {
            panic!("the session ended: {why}\n{}", sidecast.log());
        }
    });
    let log = sidecast.log();
    assert_eq!(log.matches(": established").count(), 1, "{log}");
    assert!(!log.contains("established -> "), "{log}");
}

/// A session over IPv6 to a router that expects the host's first address alone.
fn over_ipv6(site: &Site) -> (Bird, Sidecast) {
    let router = Bird::router(&site.router, &[static_neighbor(site.a.session6("a"))]);
    let config = plain(&site.a, site.a.addresses.router6, "");
    let sidecast = Sidecast::start(&site.a.network, &config);
    until(PATIENCE, "the session is up", || established(&router));
    (router, sidecast)
}

fn static_neighbor(session: BirdSession<'static>) -> BirdSession<'static> {
    BirdSession {
        options: PASSIVE,
        ..session
    }
}

/// It never connects by itself: what is measured is ours alone.
fn passive(site: &Site) -> BirdSession<'static> {
    static_neighbor(site.a.session("a"))
}

/// One app without monitors, announced to one peer.
fn plain(host: &HostLink, peer: &str, more: &str) -> String {
    let next_hop = host.addresses.host4;
    let more = if more.is_empty() {
        String::new()
    } else {
        format!(", {more}")
    };
    format!(
        "agent: {{monitor_interval: 1s}}\n\
         bgp: {{local_as: 65001, peer_as: 65000, peer_ip: \"{peer}\", next_hop: {next_hop}{more}}}\n\
         apps: [{{name: dns, vip: {VIP4}/32}}]\n"
    )
}

fn frr(neighbor: &str, more: &str) -> String {
    format!(
        "router bgp 65000\n bgp router-id 10.255.0.1\n no bgp ebgp-requires-policy\n \
         neighbor {neighbor} remote-as 65001\n{more}"
    )
}

fn established(router: &Bird) -> Result<(), String> {
    expect(router.established("a"), router.session("a"))
}

/// What `/info` says of the one peer.
fn peer(sidecast: &Sidecast, network: &Namespace) -> serde_json::Value {
    sidecast.get(network, "/info").json()
}

/// Lets time pass, and looks meanwhile.
#[track_caller]
fn pass(time: Duration, mut look: impl FnMut()) {
    let begun = Instant::now();
    until(time + PATIENCE, "the time passes", || {
        look();
        expect(begun.elapsed() >= time, "not yet")
    });
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The host's addresses over IPv6: the first one, and one that comes later.
struct Addresses {
    ours: &'static str,
    other: &'static str,
}

const ADDRESSES: Addresses = Addresses {
    ours: "2001:db8:1::2",
    other: "2001:db8:1::99",
};
const ROUTER: &str = "10.0.1.1";
const HOST: &str = "10.0.1.2";
const PASSIVE: &str = "passive; error wait time 1, 1;";

/// Seen: 440 ms on a busy machine. The next attempt to connect would come after five seconds.
const AT_ONCE: Duration = Duration::from_secs(4);
/// How long the lab may need to come up.
const PATIENCE: Duration = Duration::from_secs(20);
