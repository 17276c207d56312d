//! A host that has a BGP speaker already: sidecast announces to BIRD or FRR beside it, which announces to the
//! router. And several speakers on one host.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidecast_lab::{
    Bird, BirdSession, Change, Child, Frr, Lab, Namespace, Routes, Service, Sidecast, Site,
    Transport, VIP4, VIP6, ask_tcp, attribute, binary, expect, until,
};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip"]:
        bird_on_the_host_announces_to_the_router,
        the_next_hop_and_the_router_id_are_the_hosts_to_a_speaker_on_loopback,
        a_host_with_loopback_addresses_only_is_invalid_with_the_reason,
        two_sidecasts_announce_from_loopback_addresses_of_their_own_to_bird,
        two_sidecasts_announce_from_addresses_of_their_own_to_the_router,
        one_sidecast_announces_several_apps_to_bird,
        a_second_speaker_with_the_same_address_is_named;
    needs ["bird", "birdc", "bgpd", "zebra", "vtysh", "ip"]:
        frr_on_the_host_announces_to_the_router,
        two_sidecasts_announce_from_loopback_addresses_of_their_own_to_frr,
        frr_refuses_a_session_at_a_loopback_address_and_the_log_says_that_it_is_frr;
}

/// The speaker on the host.
enum Speaker {
    Bird(Bird),
    Frr(Frr),
}

impl Speaker {
    #[track_caller]
    fn bird(network: &Namespace) -> Self {
        Self::Bird(Bird::start(network, &example("bird.conf")))
    }

    #[track_caller]
    fn frr(network: &Namespace) -> Self {
        Self::Frr(Frr::start(network, &example("frr.conf")))
    }

    #[track_caller]
    fn stop(&mut self, signal: Signal) {
        match self {
            Self::Bird(bird) => bird.stop(signal),
            Self::Frr(frr) => frr.stop_bgpd(signal),
        }
    }

    #[track_caller]
    fn start_again(&mut self, network: &Namespace) {
        match self {
            Self::Bird(bird) => bird.start_again(network),
            Self::Frr(frr) => frr.start_bgpd(network),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Bird(_) => "BIRD",
            Self::Frr(_) => "FRR",
        }
    }

    /// What it knows, for messages.
    fn state(&self) -> String {
        match self {
            Self::Bird(bird) => bird.ask("show protocols") + &bird.ask("show route all"),
            Self::Frr(frr) => frr.ask("show bgp summary") + &frr.ask("show bgp all"),
        }
    }
}

fn bird_on_the_host_announces_to_the_router() {
    let site = Site::new();
    let speaker = Speaker::bird(&site.a.network);
    through_the_speaker(&site, speaker);
}

fn frr_on_the_host_announces_to_the_router() {
    let site = Site::new();
    let speaker = Speaker::frr(&site.a.network);
    through_the_speaker(&site, speaker);
}

/// The examples, end to end: the route follows the service, sidecast and the speaker, in the router's kernel.
fn through_the_speaker(site: &Site, mut speaker: Speaker) {
    let host = &site.a;
    let _router = Bird::router(&site.router, &[host.session("host")]);
    let routes = Routes::listen(&site.router);
    let mut service = Service::start(&host.network, Transport::Tcp, PORT);
    let config = example("sidecast.yaml");
    let mut sidecast = Sidecast::start(&host.network, &config);
    arrives(site, &speaker);
    let withdrawn = |routes: &Routes, since: Instant, what: &str, name: &str| {
        let mut took = Duration::ZERO;
        for vip in [VIP4, VIP6] {
            let at = routes.wait(Change::Removed, vip.parse().expect("an address"), PATIENCE);
            took = took.max(at.duration_since(since));
        }
        println!("    {name}, {what} to the routes' end in the router's kernel: {took:.1?}");
        assert!(took < AT_ONCE, "{what}: {took:?}");
    };
    let name = speaker.name();
    let since = Instant::now();
    service.kill();
    withdrawn(&routes, since, "death of the service", name);
    service.restart(&host.network);
    arrives(site, &speaker);
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let since = Instant::now();
        sidecast.signal(signal);
        withdrawn(&routes, since, &format!("{signal} to sidecast"), name);
        sidecast.wait(PATIENCE);
        sidecast = Sidecast::start(&host.network, &config);
        arrives(site, &speaker);
    }
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let since = Instant::now();
        speaker.stop(signal);
        withdrawn(&routes, since, &format!("{signal} to the speaker"), name);
        speaker.start_again(&host.network);
        arrives(site, &speaker);
    }
    sidecast.must_run();
}

/// Waits until the router's kernel sends both VIPs to the host, and the client is answered there.
#[track_caller]
fn arrives(site: &Site, speaker: &Speaker) {
    let addresses = &site.a.addresses;
    until(PATIENCE, "the router has both routes", || {
        let found = [VIP4, VIP6].map(|vip| site.router.gateway(vip));
        let right = found == [addresses.host4, addresses.host6].map(|to| Some(to.to_owned()));
        expect(right, format!("{found:?}\n{}", speaker.state()))
    });
    for vip in [VIP4, VIP6] {
        let to = SocketAddr::new(vip.parse().expect("an address"), PORT);
        until(PATIENCE, "the client is answered", || {
            let answer = ask_tcp(&site.client, to);
            expect(
                answer.as_deref().is_ok_and(|name| name == "a"),
                format!("{answer:?}"),
            )
        });
    }
}

/// The session is with 127.0.0.1, as for BIRD without the host's address anywhere.
fn the_next_hop_and_the_router_id_are_the_hosts_to_a_speaker_on_loopback() {
    let site = Site::new();
    let bird = Bird::start(&site.a.network, ON_LOOPBACK);
    let _sidecast = Sidecast::start(&site.a.network, &beside("peer_ip: 127.0.0.1", ""));
    for (vip, next_hop) in [
        (format!("{VIP4}/32"), site.a.addresses.host4),
        (format!("{VIP6}/128"), site.a.addresses.host6),
    ] {
        let route = until(PATIENCE, "the route arrives", || {
            bird.route(&vip).ok_or_else(|| bird.session("sidecast"))
        });
        assert_eq!(
            attribute(&route, "BGP.next_hop").as_deref(),
            Some(next_hop),
            "{route}"
        );
    }
    let session = bird.session("sidecast");
    assert!(session.contains("Neighbor ID:      10.0.1.2"), "{session}");
}

fn a_host_with_loopback_addresses_only_is_invalid_with_the_reason() {
    for (more, reason) in [
        ("", "this host has only loopback addresses"),
        ("router_id: 10.9.9.9", "this host has no ipv4 address"),
    ] {
        let lab = Lab::new();
        let host = lab.namespace("host");
        let bird = Bird::start(&host, ON_LOOPBACK);
        let mut sidecast = Sidecast::start(&host, &beside("peer_ip: 127.0.0.1", more));
        sidecast.wait_for_api(&host);
        until(PATIENCE, "the app is invalid", || {
            let app = sidecast.app(&host, "web");
            let why = app["why"].as_str().unwrap_or_default();
            expect(app["state"] == "invalid" && why.contains(reason), &app)
        });
        assert_eq!(bird.route(&format!("{VIP4}/32")), None);
        // An address comes: the route has it as its next hop.
        host.ip("link add veth0 type veth peer name veth1");
        host.ip("addr add 10.7.7.7/24 dev veth0");
        host.ip("link set veth0 up");
        let route = until(PATIENCE, "the route arrives", || {
            let route = bird.route(&format!("{VIP4}/32"));
            route.ok_or_else(|| sidecast.log())
        });
        let next_hop = attribute(&route, "BGP.next_hop");
        assert_eq!(next_hop.as_deref(), Some("10.7.7.7"), "{route}");
    }
}

fn two_sidecasts_announce_from_loopback_addresses_of_their_own_to_bird() {
    let site = Site::new();
    let speaker = Speaker::bird(&site.a.network);
    two_to_the_speaker(&site, &speaker);
}

fn two_sidecasts_announce_from_loopback_addresses_of_their_own_to_frr() {
    let site = Site::new();
    let speaker = Speaker::frr(&site.a.network);
    two_to_the_speaker(&site, &speaker);
}

fn two_to_the_speaker(site: &Site, speaker: &Speaker) {
    let host = &site.a;
    let _router = Bird::router(&site.router, &[host.session("host")]);
    let _service = Service::start(&host.network, Transport::Tcp, PORT);
    let _first = Sidecast::start(&host.network, &example("sidecast.yaml"));
    arrives(site, speaker);
    let env = [
        ("SIDECAST_BGP_LOCAL_AS", "65002"),
        ("SIDECAST_BGP_PEER_AS", "65001"),
        ("SIDECAST_BGP_PEER_IP", host.addresses.host4),
        ("SIDECAST_BGP_LOCAL_IP", "127.0.0.2"),
    ];
    let mut second = second(host_network(site), &env);
    until(PATIENCE, "the second one's route arrives", || {
        second.must_run();
        let gateway = site.router.gateway(OTHER_VIP);
        let right = gateway.as_deref() == Some(host.addresses.host4);
        expect(right, format!("{gateway:?} {}", speaker.state()))
    });
    assert!(
        !second.output().contains("on this host has a session"),
        "{}",
        second.output()
    );
    let routes = Routes::listen(&site.router);
    second.kill();
    routes.wait(
        Change::Removed,
        OTHER_VIP.parse().expect("an address"),
        PATIENCE,
    );
    arrives(site, speaker);
}

fn two_sidecasts_announce_from_addresses_of_their_own_to_the_router() {
    let site = Site::new();
    let host = &site.a;
    host.network.ip("addr add 10.0.1.3/24 dev eth0");
    let other = BirdSession {
        neighbor: IpAddr::from([10, 0, 1, 3]),
        ..host.session("two")
    };
    let router = Bird::router(&site.router, &[host.session("one"), other]);
    let _services = host.services();
    let _first = Sidecast::start(&host.network, &host.config("local_ip: 10.0.1.2", ""));
    let mut second = second(
        host_network(&site),
        &[
            ("SIDECAST_BGP_LOCAL_AS", "65001"),
            ("SIDECAST_BGP_PEER_AS", "65000"),
            ("SIDECAST_BGP_PEER_IP", host.addresses.router4),
            ("SIDECAST_BGP_LOCAL_IP", "10.0.1.3"),
        ],
    );
    site.answered_by("a", PATIENCE);
    until(PATIENCE, "both announce", || {
        second.must_run();
        let gateways = [VIP4, OTHER_VIP].map(|vip| site.router.gateway(vip));
        let right = gateways == ["10.0.1.2", "10.0.1.3"].map(|to| Some(to.to_owned()));
        expect(
            right,
            format!("{gateways:?} {}", router.ask("show protocols")),
        )
    });
    assert!(
        !second.output().contains("on this host has a session"),
        "{}",
        second.output()
    );
}

fn one_sidecast_announces_several_apps_to_bird() {
    let site = Site::new();
    let speaker = Speaker::bird(&site.a.network);
    let _router = Bird::router(&site.router, &[site.a.session("host")]);
    let _service = Service::start(&site.a.network, Transport::Tcp, PORT);
    let more = format!("  - {{name: second, vip: {OTHER_VIP}/32, monitors: [\"port:tcp:444\"]}}\n");
    let _sidecast = Sidecast::start(&site.a.network, &(example("sidecast.yaml") + &more));
    arrives(&site, &speaker);
    assert_eq!(
        site.router.gateway(OTHER_VIP),
        None,
        "nothing listens for it"
    );
    let _second = Service::start(&site.a.network, Transport::Tcp, 444);
    until(PATIENCE, "the second app's route arrives", || {
        let gateway = site.router.gateway(OTHER_VIP);
        expect(
            gateway.as_deref() == Some("10.0.1.2"),
            format!("{gateway:?}"),
        )
    });
}

/// A router takes one session from an address; the second speaker's log and status name the first.
fn a_second_speaker_with_the_same_address_is_named() {
    let site = Site::new();
    let host = &site.a;
    let router = Bird::router(&site.router, &[host.session("host")]);
    let bird = Speaker::bird(&host.network);
    until(PATIENCE, "BIRD has the session", || {
        expect(router.established("host"), router.session("host"))
    });
    let _services = host.services();
    let mut sidecast = Sidecast::start(&host.network, &host.config("", ""));
    sidecast.wait_for_api(&host.network);
    let named = "bird (process ";
    let found = until(PATIENCE, "the log names BIRD", || {
        let log = sidecast.log();
        let mut lines = log.lines();
        let line = lines.find(|line| line.contains("on this host has a session with it"));
        line.map(str::to_owned).ok_or(log.clone())
    });
    assert!(
        found.contains("peer 10.0.1.1: ") && found.contains(named),
        "{found}"
    );
    assert!(found.contains("from 10.0.1.2"), "{found}");
    until(PATIENCE, "the verdict names it too", || {
        let verdict = sidecast.get(&host.network, "/readyz").body;
        expect(verdict.contains(named), &verdict)
    });
    // The other one leaves: the session comes up, and nothing of it is left.
    drop(bird);
    site.answered_by("a", Duration::from_secs(90));
    let verdict = sidecast.get(&host.network, "/readyz").body;
    assert!(!verdict.contains(named), "{verdict}");
}

/// FRR ends the connection before its OPEN: it looks for the interface of its own end, 127.0.0.1, in vain.
fn frr_refuses_a_session_at_a_loopback_address_and_the_log_says_that_it_is_frr() {
    let site = Site::new();
    let frr = Frr::start(&site.a.network, &example("frr.conf"));
    let sidecast = Sidecast::start(&site.a.network, &beside("peer_ip: 127.0.0.1", ""));
    let line = until(PATIENCE, "the log names FRR", || {
        let log = sidecast.log();
        let mut lines = log.lines();
        let line = lines.find(|line| line.contains("it is FRR"));
        line.map(str::to_owned).ok_or(log.clone())
    });
    assert!(line.contains("Finite State Machine Error (5/0)"), "{line}");
    assert!(line.contains("set peer_ip"), "{line}");
    let log = frr.log();
    assert!(log.contains("nexthop_set failed"), "{log}");
}

/// A sidecast with these lines of `bgp`, that announces both VIPs without a monitor.
fn beside(peer: &str, more: &str) -> String {
    format!(
        "bgp:\n  local_as: 65002\n  peer_as: 65001\n  {peer}\n  {more}\n\
         apps: [{{name: web, vips: [{VIP4}/32, \"{VIP6}/128\"]}}]\n"
    )
}

/// A second sidecast in the network of the host, from its environment, with the other VIP.
fn second(network: &Namespace, env: &[(&str, &str)]) -> Child {
    let vip = format!("{OTHER_VIP}/32");
    let own = [
        ("RUST_LOG", "info"),
        ("SIDECAST_AGENT_LISTEN_ADDR", "off"),
        ("SIDECAST_AGENT_INSTANCE", "second"),
        ("SIDECAST_APP_NAME", "other"),
        ("SIDECAST_APP_VIP", &vip),
    ];
    let env: Vec<(&str, &str)> = own.iter().chain(env).copied().collect();
    Child::start(network, "second", &binary(), &[], &env)
}

fn host_network(site: &Site) -> &Namespace {
    &site.a.network
}

#[track_caller]
fn example(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/local-speaker");
    fs::read_to_string(folder.join(file)).expect("an example")
}

/// The smallest BIRD that takes a session at 127.0.0.1.
const ON_LOOPBACK: &str = "
log stderr all;
router id 10.255.0.9;
protocol device { }
protocol bgp sidecast {
  local 127.0.0.1 as 65001;
  neighbor 127.0.0.1 as 65002;
  multihop;
  passive;
  ipv4 { import all; export none; };
  ipv6 { import all; export none; };
}
";

/// The port of the example's monitor.
const PORT: u16 = 443;
/// Of the second sidecast or app.
const OTHER_VIP: &str = "192.0.2.54";
/// Seen: 300 ms on a busy machine. A timer would be the next check, after ten seconds, or the hold time.
const AT_ONCE: Duration = Duration::from_secs(5);
/// Also for a session that begins anew after several that were cut: sidecast waits longer each time.
const PATIENCE: Duration = Duration::from_secs(45);
