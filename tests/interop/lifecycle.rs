//! What happens to one session: wrong passwords, cuts, route refresh, unknown peers, a second speaker, shutdown.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidecast_lab::{Bird, Frr, Sidecast, expect, until};

use crate::PATIENCE;
use crate::kinds::Speaker;
use crate::topology::{Node, Topology};

/// BIRD in AS 65000 with one eBGP session over IPv4 to the host.
pub fn bird(topology: &Topology, options: &str, ipv4: &str) -> Bird {
    let node = topology.node();
    Bird::start(
        &topology.router,
        &format!(
            "log stderr all; router id 10.255.0.1; protocol device {{ scan time 1; }}
             protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}
             protocol kernel {{ ipv6 {{ import none; export where source = RTS_BGP; }}; }}
             protocol bgp h1 {{ local {} as 65000; neighbor {} as 65001; connect delay time 1; {options}
               ipv4 {{ import all; export none; {ipv4} }}; ipv6 {{ import all; export none; }}; }}\n",
            node.router4(),
            node.host4(),
        ),
    )
}

fn frr(topology: &Topology) -> Frr {
    let host = topology.node().host4();
    Frr::start(
        &topology.router,
        &format!(
            "router bgp 65000\n bgp router-id 10.255.0.1\n no bgp ebgp-requires-policy\n \
             neighbor {host} remote-as 65001\n neighbor {host} timers connect 1\n"
        ),
    )
}

#[track_caller]
pub fn arrives(router: &impl Speaker, node: &Node, vip: &str) {
    until(PATIENCE, &format!("{vip} arrives"), || {
        router.seen(node, vip).ok_or("not yet")
    });
}

#[track_caller]
fn says(sidecast: &Sidecast, words: &str) {
    until(PATIENCE, &format!("sidecast says {words:?}"), || {
        let log = sidecast.log();
        expect(log.contains(words), log)
    });
}

/// Over both directions: its own SYN is not answered, the router's is dropped. A reload with the right
/// password mends both.
pub fn a_wrong_password_is_named_and_mended_by_a_reload() {
    let topology = Topology::new(1);
    let node = topology.node();
    let router = bird(&topology, "password \"right\";", "");
    let config =
        |password: &str| node.config(&format!(", listen: \"[::]:179\", password: {password}"));
    let sidecast = Sidecast::start(&node.network, &config("wrong"));
    says(&sidecast, "a wrong TCP MD5 password looks like this");
    assert!(!router.established("h1"), "{}", router.session("h1"));
    Sidecast::write(&node.network, &config("right"));
    sidecast.signal(Signal::SIGHUP);
    arrives(&router, node, &node.vip4());
}

/// Keys on the listening socket follow the configuration.
pub fn a_passive_side_takes_a_new_password_by_a_reload() {
    let topology = Topology::new(1);
    let node = topology.node();
    let passive = ", listen: \"[::]:179\", passive: true";
    let config = |password: &str| node.config(&format!("{passive}, password: {password}"));
    let sidecast = Sidecast::start(&node.network, &config("old"));
    says(&sidecast, "accepting BGP connections");
    let router = bird(&topology, "password \"new\";", "");
    until(PATIENCE, "BIRD tries", || {
        let session = router.session("h1");
        expect(session.contains("Connect"), session)
    });
    assert!(!router.established("h1"));
    Sidecast::write(&node.network, &config("new"));
    sidecast.signal(Signal::SIGHUP);
    arrives(&router, node, &node.vip4());
}

pub fn strangers_get_connection_rejected() {
    let topology = Topology::new(1);
    let node = topology.node();
    // Another peer is configured, so that the router is an unknown peer.
    let config = format!(
        "bgp: {{local_as: 65001, listen: \"[::]:179\", passive: true, peer_as: 65000, \
         peer_ip: [10.0.1.77, \"{}\"]}}\n{}",
        node.router6(),
        node.apps("")
    );
    let sidecast = Sidecast::start(&node.network, &config);
    says(&sidecast, "dns: pending -> up");
    let rejected = |to: SocketAddr| {
        let stream = topology.router.enter(|| TcpStream::connect(to));
        let mut stream = stream.expect("the port is open");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut answer = Vec::new();
        stream
            .read_to_end(&mut answer)
            .expect("an answer and an end");
        // Length 21, NOTIFICATION, Cease, Connection Rejected (RFC 4486).
        assert_eq!(answer[16..], [0, 21, 3, 6, 5], "{to}");
    };
    let addr = |text: String| SocketAddr::new(text.parse().expect("an address"), 179);
    rejected(addr(node.host4()));
    says(
        &sidecast,
        "connection from 10.0.1.1 refused: not a configured peer",
    );
    // A peer, but at an address that may be another host's the next time.
    let vip6 = node.vip6();
    topology
        .router
        .ip(&format!("-6 route add {vip6} via {}", node.host6()));
    until(PATIENCE, "the address is there", || {
        let addresses = node.network.addresses("lo");
        expect(addresses.contains(&vip6), format!("{addresses:?}"))
    });
    rejected(addr(vip6.replace("/128", "")));
    says(&sidecast, "it was made to a VIP");
}

/// Two speakers on one address: the router has one session with it. The one that is turned away says
/// why, and does not hammer.
pub fn a_second_speaker_on_the_address_is_told_so_by_frr() {
    let topology = Topology::new(1);
    let node = topology.node();
    let router = frr(&topology);
    let _first = Sidecast::start(&node.network, &node.config(""));
    arrives(&router, node, &node.vip4());
    let second = Sidecast::start(&node.network, &node.config(""));
    says(&second, "another BGP speaker");
    assert!(router.established(&node.host4()), "the first session stays");
}

/// BIRD closes the second connection without a NOTIFICATION.
pub fn a_second_speaker_on_the_address_is_told_so_beside_bird() {
    let topology = Topology::new(1);
    let node = topology.node();
    let router = bird(&topology, "", "");
    let _first = Sidecast::start(&node.network, &node.config(""));
    arrives(&router, node, &node.vip4());
    let options = ", connect_retry: 500ms";
    let second = Sidecast::start(&node.network, &node.config(options));
    says(&second, "another BGP speaker");
    assert!(router.established("h1"), "the first session stays");
}

/// A cut shorter than the hold time, with something unacknowledged all the while.
///
/// The last KEEPALIVE may have come a third of the hold time before the cut. The next one is sent in it,
/// and once more when the sender's retransmission timer runs, which it doubles each time: as late as twice
/// the cut and one timer after it began. So a cut of a quarter leaves a sixth of the hold time, 5 s, to a
/// machine that is busy.
pub fn a_cut_shorter_than_the_hold_time_keeps_the_session() {
    let topology = Topology::new(1);
    let node = topology.node();
    let router = bird(&topology, "", "");
    let mut sidecast = Sidecast::start(&node.network, &node.config(", hold_time: 30s"));
    arrives(&router, node, &node.vip4());
    let since = |text: String| {
        text.lines()
            .find(|line| line.starts_with("h1 "))
            .map(str::to_owned)
    };
    let before = since(router.session("h1"));
    node.network.nft(
        "table inet cut {
           chain in { type filter hook input priority 0; iifname eth0 drop; }
           chain out { type filter hook output priority 0; oifname eth0 drop; }
         }",
    );
    sidecast.wait_for_api(&node.network);
    let cut = Instant::now();
    let reply = sidecast.get(&node.network, "/register?name=late&vip=192.0.2.99/32");
    assert_eq!(reply.status, 200, "{}", reply.body);
    until(PATIENCE, "a quarter of the hold time passes", || {
        expect(cut.elapsed() > Duration::from_millis(7500), "not yet")
    });
    node.network.nft("delete table inet cut");
    let healed = Instant::now();
    arrives(&router, node, "192.0.2.99/32");
    let (lasted, after) = (healed - cut, healed.elapsed());
    println!("a cut of {lasted:.1?}: the route arrives {after:.1?} after it");
    assert_eq!(since(router.session("h1")), before, "the very same session");
}

/// A router that takes TCP and sends no OPEN. One that hangs is named, and left when something changes; one
/// that has died is left by itself, long before the four minutes that RFC 4271 grants the OPEN.
pub fn a_router_that_takes_tcp_and_says_nothing_does_not_hold_us() {
    let topology = Topology::new(2);
    let [hung, dead] = &topology.nodes[..] else {
        panic!("two nodes");
    };
    let listener = topology.router.enter(|| TcpListener::bind("0.0.0.0:179"));
    let listener = listener.expect("a free port");
    listener.set_nonblocking(true).expect("an option");
    // All are kept: a connection that is closed would not be silent.
    let mut taken: Vec<(TcpStream, SocketAddr)> = Vec::new();
    let mut comes = |node: &Node, times: usize| {
        until(PATIENCE, &format!("{} connects", node.host4()), || {
            taken.extend(listener.accept());
            let from = taken.iter().map(|(_, from)| from.ip().to_string());
            let count = from.filter(|from| *from == node.host4()).count();
            expect(count >= times, format!("{count} times"))
        });
    };
    let start = |node: &Node| Sidecast::start(&node.network, &node.config(""));
    let (at_hung, at_dead) = (start(hung), start(dead));
    comes(hung, 1);
    comes(dead, 1);
    let died = Instant::now();
    topology.router.nft(&format!(
        "table inet dead {{
           chain in {{ type filter hook input priority 0; iifname {0} drop; }}
           chain out {{ type filter hook output priority 0; oifname {0} drop; }}
         }}",
        dead.device()
    ));
    says(&at_hung, "it accepts connections and sends no OPEN");
    let info = at_hung.get(&hung.network, "/info").json();
    let why = info["state"]["last_error"].as_str().unwrap_or_default();
    assert!(why.contains("sends no OPEN"), "{info}");
    hung.network.ip("addr add 10.0.77.1/24 dev eth0");
    comes(hung, 2);
    until(PATIENCE, "the dead one is left", || {
        let info = at_dead.get(&dead.network, "/info").json();
        let state = &info["state"]["session_state"];
        expect(*state != 4, info.to_string())
    });
    println!("a dead router is left after {:.1?}", died.elapsed());
    topology.router.nft("delete table inet dead");
    comes(dead, 2);
}

/// RFC 2918 from FRR, RFC 7313 from BIRD.
pub fn a_peer_that_asks_for_a_refresh_gets_everything_again() {
    let topology = Topology::new(1);
    let node = topology.node();
    let host = node.host4();
    {
        let router = frr(&topology);
        let mut sidecast = Sidecast::start(&node.network, &node.config(""));
        arrives(&router, node, &node.vip4());
        let updates = || router.neighbor(&host)["messageStats"]["updatesRecv"].as_u64();
        let before = updates();
        router.ask(&format!("clear bgp ipv4 unicast {host} in"));
        until(PATIENCE, "FRR hears the route again", || {
            expect(updates() > before, format!("{:?}", updates()))
        });
        assert!(router.established(&host));
        sidecast.signal(Signal::SIGTERM);
        sidecast.wait(PATIENCE);
    }
    let router = bird(&topology, "", "");
    let _sidecast = Sidecast::start(&node.network, &node.config(""));
    arrives(&router, node, &node.vip4());
    let updates = || {
        let session = router.session("h1");
        let line = session
            .lines()
            .find(|line| line.contains("Import updates:"));
        line.map(str::to_owned)
    };
    let before = updates();
    router.ask("reload in h1");
    until(PATIENCE, "BIRD hears the route again", || {
        expect(updates() != before, format!("{:?}", updates()))
    });
    assert!(router.established("h1"));
    arrives(&router, node, &node.vip4());
}

pub fn a_peers_prefix_limit_is_named_and_not_hammered() {
    let topology = Topology::new(1);
    let node = topology.node();
    let router = bird(&topology, "", "import limit 1 action restart;");
    let config = format!(
        "{}  - {{name: more, vip: 192.0.2.200/32}}\n",
        node.config("")
            .replace("apps: [{", "apps:\n  - {")
            .replace("}]\n", "}\n")
    );
    let sidecast = Sidecast::start(&node.network, &config);
    says(&sidecast, "raise its prefix limit");
    let begun = Instant::now();
    until(PATIENCE, "three seconds pass", || {
        expect(begun.elapsed() > Duration::from_secs(3), "not yet")
    });
    assert!(!router.established("h1"));
    let sessions = sidecast.log().matches("established -> ").count();
    assert_eq!(sessions, 1, "{}", sidecast.log());
}

/// RFC 9003, both ways.
pub fn operators_hear_each_other() {
    let topology = Topology::new(1);
    let node = topology.node();
    let router = bird(&topology, "", "");
    let mut sidecast = Sidecast::start(&node.network, &node.config(""));
    arrives(&router, node, &node.vip4());
    router.ask("disable h1 \"new line card tonight\"");
    says(&sidecast, "new line card tonight");
    router.ask("enable h1");
    arrives(&router, node, &node.vip4());
    sidecast.signal(Signal::SIGTERM);
    assert!(sidecast.wait(PATIENCE).success());
    let log = router.log();
    assert!(log.contains("sidecast is stopping"), "{log}");
}

/// RFC 8326: less attractive first, gone later.
pub fn a_graceful_shutdown_marks_the_routes_before_they_go() {
    let topology = Topology::new(1);
    let node = topology.node();
    let router = bird(&topology, "", "");
    let draining =
        ", drain_time: 30s, vip_config: {when_draining: {bgp_communities: [graceful-shutdown]}}";
    let config = node
        .config("")
        .replace(&node.apps(""), &node.apps(draining));
    let mut sidecast = Sidecast::start(&node.network, &config);
    arrives(&router, node, &node.vip4());
    sidecast.signal(Signal::SIGTERM);
    for vip in [node.vip4(), node.vip6()] {
        until(PATIENCE, "the router sees the community", || {
            let route = router.route(&vip).unwrap_or_default();
            expect(route.contains("(65535,0)"), route)
        });
    }
    sidecast.must_run();
    sidecast.signal(Signal::SIGTERM);
    assert!(sidecast.wait(PATIENCE).success());
    assert_eq!(router.route(&node.vip4()), None);
}

/// Two sessions to one router, each for a family and with attributes of its own.
pub fn each_peer_has_its_own_families_and_attributes() {
    let topology = Topology::new(1);
    let node = topology.node();
    let channel = "ipv4 { import all; export none; }; ipv6 { import all; export none; };";
    let (router4, router6) = (node.router4(), node.router6());
    let router = Bird::start(
        &topology.router,
        &format!(
            "log stderr all; router id 10.255.0.1; protocol device {{ }}
             protocol bgp four {{ local {router4} as 65000; neighbor {} as 65001; {channel} }}
             protocol bgp six {{ local {router6} as 65000; neighbor {} as 65001; password \"six\"; {channel} }}",
            node.host4(),
            node.host6(),
        ),
    );
    let config = format!(
        "bgp:\n  local_as: 65001\n  peer_as: 65000\n  peers:\n    \
         - {{peer_ip: {router4}, families: [ipv4], med: 4}}\n    \
         - {{peer_ip: \"{router6}\", families: [ipv6], password: six, as_path_prepend: 2, local_ip: \"{}\"}}\n{}",
        node.host6(),
        node.apps("")
    );
    let _sidecast = Sidecast::start(&node.network, &config);
    let of = |prefix: &str, protocol: &str, words: &str| {
        until(PATIENCE, &format!("{prefix} from {protocol}"), || {
            let route = router.route_from(prefix, protocol).unwrap_or_default();
            expect(route.contains(words), route)
        });
    };
    of(&node.vip4(), "four", "BGP.med: 4");
    of(&node.vip6(), "six", "BGP.as_path: 65001 65001 65001");
    assert_eq!(router.route_from(&node.vip4(), "six"), None);
    assert_eq!(router.route_from(&node.vip6(), "four"), None);
}

/// BIRD by eBGP and FRR by iBGP with a four-octet AS: both have the routes, neither minds the other's end.
pub fn two_routers_at_once_each_hear_everything() {
    let topology = Topology::new(1);
    let node = topology.node();
    let second = topology.second_router();
    let mut first = Bird::start(
        &topology.router,
        &format!(
            "log stderr all; router id 10.255.0.1; protocol device {{ scan time 1; }}
             protocol bgp h1 {{ local {} as 65000; neighbor {} as 4200000001; connect delay time 1;
               ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }}; }}\n",
            node.router4(),
            node.host4(),
        ),
    );
    let other = Frr::start(
        &second,
        "router bgp 4200000001\n bgp router-id 10.255.0.9\n neighbor 10.0.9.2 remote-as 4200000001\n \
         address-family ipv6 unicast\n  neighbor 10.0.9.2 activate\n exit-address-family\n",
    );
    let config = format!(
        "bgp:\n  local_as: 4200000001\n  peers:\n    \
         - {{peer_ip: {}, peer_as: 65000}}\n    - {{peer_ip: 10.0.9.1, peer_as: 4200000001}}\n{}",
        node.router4(),
        node.apps("")
    );
    let mut sidecast = Sidecast::start(&node.network, &config);
    let at_frr = |vip: &str| {
        other
            .paths(vip)
            .into_iter()
            .find(|path| path["peer"]["peerId"] == "10.0.9.2")
    };
    for vip in [node.vip4(), node.vip6()] {
        arrives(&first, node, &vip);
        until(PATIENCE, &format!("{vip} at FRR"), || {
            at_frr(&vip).ok_or("not yet")
        });
    }
    let route = first.route(&node.vip4()).unwrap_or_default();
    assert!(route.contains("BGP.as_path: 4200000001"), "{route}");
    let path = at_frr(&node.vip4()).expect("it was there");
    assert_eq!(path["nexthops"][0]["ip"], "10.0.9.2", "{path}");
    first.stop(Signal::SIGKILL);
    assert!(at_frr(&node.vip4()).is_some());
    sidecast.signal(Signal::SIGTERM);
    assert!(sidecast.wait(PATIENCE).success());
    until(PATIENCE, "the routes leave FRR", || {
        expect(at_frr(&node.vip4()).is_none(), "still there")
    });
}

/// A router that comes and goes: at the end the routes are there.
pub fn a_storm_of_router_restarts_ends_with_the_routes() {
    let topology = Topology::new(1);
    let node = topology.node();
    let mut router = bird(&topology, "", "");
    let mut sidecast = Sidecast::start(&node.network, &node.config(", listen: \"[::]:179\""));
    for signal in [
        Signal::SIGKILL,
        Signal::SIGKILL,
        Signal::SIGKILL,
        Signal::SIGKILL,
    ] {
        until(PATIENCE, "a session", || {
            expect(router.established("h1"), router.session("h1"))
        });
        router.stop(signal);
        router.start_again(&topology.router);
    }
    arrives(&router, node, &node.vip4());
    arrives(&router, node, &node.vip6());
    sidecast.must_run();
}
