//! Three hosts on one network, and each router with its import policy: that of the examples. The healthy hosts
//! are further away by AS path than the sick one is with its prepends, so that the policy alone decides.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value;
use sidecast_lab::{
    Bird, Frr, Gobgp, Lab, Namespace, Openbgpd, Service, Sidecast, Site, Transport, VIP4, ask_udp,
    expect, until,
};

use super::PATIENCE;
use crate::wire::{Seen, Wire};

/// ```text
/// client ---- c0 router br0 ---- eth0 of three hosts
/// ```
struct Lan {
    client: Namespace,
    router: Namespace,
    hosts: Vec<Namespace>,
    lab: Lab,
}

impl Lan {
    fn new() -> Self {
        let lab = Lab::new();
        let [client, router] = ["client", "router"].map(|name| lab.namespace(name));
        router.forward();
        lab.cable(
            (&client, "eth0", &["10.0.9.2/24"]),
            (&router, "c0", &["10.0.9.1/24"]),
        );
        client.ip("route add default via 10.0.9.1");
        router.ip("link add br0 type bridge");
        router.ip("link set br0 up");
        router.ip("addr add 10.0.1.1/24 dev br0");
        router.ip("addr add 2001:db8:1::1/64 dev br0 nodad");
        let host = |number: usize| {
            let host = lab.namespace(&format!("host{number}"));
            let (port, address) = (format!("h{number}"), format!("{}/24", address(number)));
            let six = format!("2001:db8:1::1{number}/64");
            lab.cable((&host, "eth0", &[&address, &six]), (&router, &port, &[]));
            router.ip(&format!("link set {port} master br0"));
            host.ip("route add default via 10.0.1.1");
            host
        };
        let hosts = (0..HOSTS).map(host).collect();
        Self {
            client,
            router,
            hosts,
            lab,
        }
    }
}

fn address(host: usize) -> String {
    format!("10.0.1.1{host}")
}

/// What a router has of the VIP: the host of its best route.
trait Best {
    fn best(&self) -> Option<String>;
}

impl Best for Bird {
    fn best(&self) -> Option<String> {
        let text = self.ask(&format!("show route {VIP4}/32 primary"));
        let via = text.split("via ").nth(1)?;
        Some(via.split_whitespace().next()?.to_owned())
    }
}

impl Best for Frr {
    fn best(&self) -> Option<String> {
        let paths = self.paths(&format!("{VIP4}/32"));
        let mut best = paths.iter().filter(|p| p["bestpath"]["overall"] == true);
        Some(best.next()?["peer"]["peerId"].as_str()?.to_owned())
    }
}

impl Best for Gobgp<'_> {
    fn best(&self) -> Option<String> {
        let table = self.json(&["global", "rib"]);
        let paths = table[format!("{VIP4}/32")].as_array()?;
        let best = paths.iter().find(|path| path["best"] == true);
        Some(best?["neighbor-ip"].as_str()?.to_owned())
    }
}

impl Best for Openbgpd {
    fn best(&self) -> Option<String> {
        let rib = self.json("show rib");
        let mut routes = rib["rib"].as_array()?.iter();
        let best =
            |route: &&Value| route["prefix"] == format!("{VIP4}/32") && route["best"] == true;
        let best = routes.find(best)?;
        Some(best["neighbor"]["remote_addr"].as_str()?.to_owned())
    }
}

pub fn three_hosts_beside_bird_with_the_examples_policy() {
    let lan = Lan::new();
    let router = Bird::start(&lan.router, include_str!("../../examples/router/bird.conf"));
    three_hosts(&lan, &router, true);
}

pub fn three_hosts_beside_frr_with_the_examples_policy() {
    let lan = Lan::new();
    let policy = include_str!("../../examples/router/frr.conf");
    let router = Frr::start_with_bfd(&lan.router, policy, "");
    three_hosts(&lan, &router, true);
}

pub fn three_hosts_beside_gobgp_with_the_examples_policy() {
    let lan = Lan::new();
    let config = include_str!("../../examples/router/gobgp.toml");
    let router = Gobgp::start(&lan.router, config);
    three_hosts(&lan, &router, false);
}

pub fn three_hosts_beside_openbgpd_with_the_examples_policy() {
    let lan = Lan::new();
    let config = include_str!("../../examples/router/openbgpd.conf");
    let router = Openbgpd::start(&lan.router, config);
    three_hosts(&lan, &router, false);
}

pub fn the_sick_leave_an_ecmp_set_of_birds() {
    let lan = Lan::new();
    let _router = Bird::start(&lan.router, include_str!("../../examples/router/bird.conf"));
    the_sick_leave_an_ecmp_set(&lan);
}

pub fn the_sick_leave_an_ecmp_set_of_frrs() {
    let lan = Lan::new();
    let policy = include_str!("../../examples/router/frr.conf");
    let _router = Frr::start_with_bfd(&lan.router, policy, "");
    the_sick_leave_an_ecmp_set(&lan);
}

/// Three equal hosts share the load: the healthy ones, and where there are none, the sick.
fn the_sick_leave_an_ecmp_set(lan: &Lan) {
    let hosts: Vec<Host<'_>> = (0..HOSTS)
        .map(|number| Host::start(lan, number, 0))
        .collect();
    let share = |wanted: &[usize]| {
        until(PATIENCE, &format!("{wanted:?} share the load"), || {
            let routes = lan
                .router
                .ip_json(&format!("-d route show {VIP4}"))
                .to_string();
            let there = |host: &usize| routes.contains(&format!("\"{}\"", address(*host)));
            let all = [0, 1, 2].into_iter().filter(there);
            expect(all.eq(wanted.iter().copied()), &routes)
        });
    };
    share(&[0, 1, 2]);
    hosts[1].passes(false);
    share(&[0, 2]);
    hosts[0].passes(false);
    share(&[2]);
    hosts[2].passes(false);
    share(&[0, 1, 2]);
    hosts[0].passes(true);
    share(&[0]);
    for host in &hosts {
        assert_eq!(host.wire.withdrawn(), 0, "no host was ever withdrawn");
    }
}

/// A host with everything that the scenario does to it.
struct Host<'l> {
    network: &'l Namespace,
    sidecast: Sidecast,
    service: Service,
    check: std::path::PathBuf,
    wire: Wire,
}

impl<'l> Host<'l> {
    fn start(lan: &'l Lan, number: usize, prepends: usize) -> Self {
        let network = &lan.hosts[number];
        let check = lan.lab.dir().join(format!("host{number}-passes"));
        std::fs::write(&check, "").expect("the lab's folder takes it");
        let service = Service::start(network, Transport::Udp, Site::UDP_PORT);
        let port = 1790 + number;
        let wire = Wire::start(&lan.router, u16::try_from(port).expect("it is small"));
        let config = format!(
            "bgp:\n  local_as: 65001\n  hold_time: 9s\n  peers:\n  - {{peer_ip: 10.0.1.1, peer_as: 65000}}\n  \
             - {{peer_ip: \"2001:db8:1::1\", peer_as: 65000, port: {port}}}\n\
             apps: [{{name: dns, vip: {VIP4}/32, interval: 100ms, timeout: 10s, hold_down: \"off\", \
             monitors: [\"port:udp:{}\", \"exec:test -e {}\"], \
             vip_config: {{when_down: last_resort, as_path_prepend: {prepends}}}}}]\n",
            Site::UDP_PORT,
            check.display()
        );
        let mut sidecast = Sidecast::start(network, &config);
        sidecast.wait_for_api(network);
        Self {
            network,
            sidecast,
            service,
            check,
            wire,
        }
    }

    fn passes(&self, passes: bool) {
        let done = match passes {
            true => std::fs::write(&self.check, ""),
            false => std::fs::remove_file(&self.check),
        };
        done.expect("the lab's folder takes it");
    }

    #[track_caller]
    fn is(&self, state: &str, last_resort: bool) {
        until(PATIENCE, &format!("the app is {state}"), || {
            let app = self.sidecast.app(self.network, "dns");
            let is = app["state"] == state && app["last_resort"] == last_resort;
            expect(
                is && app["announced"] == (state == "up" || last_resort),
                app,
            )
        });
    }
}

fn three_hosts(lan: &Lan, router: &impl Best, forwards: bool) {
    // The first host is near, the others are further away than it is with ten prepends.
    let prepends = [0, 16, 16].into_iter().enumerate();
    let hosts = prepends.map(|(number, prepends)| Host::start(lan, number, prepends));
    let mut hosts: Vec<Host<'_>> = hosts.collect();
    let looks = Cell::new(0);
    let best_is = |wanted: &dyn Fn(&str) -> bool| {
        until(PATIENCE, "the best route is another", || {
            let best = router.best();
            expect(best.as_deref().is_some_and(wanted), format!("{best:?}"))
        });
    };
    hosts.iter().for_each(|host| host.is("up", false));
    best_is(&|best| best == address(0));
    // A bad check is pushed to all hosts within 0.2 s, and taken back.
    hosts.iter().for_each(|host| host.wire.drain());
    for passes in [false, true] {
        for host in &hosts {
            host.passes(passes);
            std::thread::sleep(Duration::from_millis(80));
        }
        let asked = served_for(lan, router, forwards, &looks);
        println!(
            "passes: {passes}: {asked}, {} looks at the router",
            looks.get()
        );
        for host in &hosts {
            host.is(if passes { "up" } else { "down" }, !passes);
            let mut changes = Vec::new();
            until(PATIENCE, "an UPDATE comes", || {
                changes.extend(host.wire.changes());
                expect(!changes.is_empty(), "none")
            });
            changes.extend(host.wire.changes());
            assert_eq!(changes, [Seen::Announced], "one UPDATE");
        }
    }
    best_is(&|best| best == address(0));
    // One is sick: the others are best, however long their path.
    hosts[0].passes(false);
    best_is(&|best| best != address(0));
    hosts[0].is("down", true);
    served_for(lan, router, forwards, &looks);
    assert_ne!(router.best(), Some(address(0)));
    // The healthy ones die: the sick one answers.
    hosts[1..].iter_mut().for_each(|host| host.service.kill());
    best_is(&|best| best == address(0));
    hosts[1..].iter().for_each(|host| host.is("down", false));
    served_for(lan, router, forwards, &looks);
    // Then it dies too, which is a fact.
    hosts[0].wire.drain();
    let killed = Instant::now();
    hosts[0].service.signal(nix::sys::signal::Signal::SIGKILL);
    let withdrawn = hosts[0].wire.wait(Seen::Withdrawn, PATIENCE);
    let took = withdrawn.saturating_duration_since(killed);
    println!("the last listener killed to withdrawn on the wire: {took:?}");
    // Seen: 34 ms on a busy machine.
    assert!(took < Duration::from_secs(2), "{took:?}");
    until(PATIENCE, "no route is left", || {
        let best = router.best();
        expect(best.is_none(), format!("{best:?}"))
    });
    hosts[0].is("down", false);
    let log = hosts[0].sidecast.log();
    for (line, times) in [
        ("up -> down: announced as last resort: exec", 2),
        ("down -> up: announced as before", 1),
        ("down -> down: withdrawn: port:udp:8001", 1),
    ] {
        assert_eq!(log.matches(line).count(), times, "{line}\n{log}");
    }
}

/// For two seconds the router has a route at every look, and where packets follow it a client is answered, at the
/// second attempt at the latest: an answer is lost where the best route moves to another host under a question.
fn served_for(lan: &Lan, router: &impl Best, forwards: bool, looks: &Cell<usize>) -> String {
    let vip: IpAddr = VIP4.parse().expect("an address");
    let vip = SocketAddr::new(vip, Site::UDP_PORT);
    let end = Instant::now() + Duration::from_secs(2);
    let (mut asked, mut again) = (0, 0);
    while Instant::now() < end {
        assert!(router.best().is_some(), "a moment without a route");
        looks.set(looks.get() + 1);
        if !forwards {
            continue;
        }
        for _ in 0..20 {
            asked += 1;
            if let Err(first) = ask_udp(&lan.client, vip) {
                again += 1;
                let second = ask_udp(&lan.client, vip);
                assert!(second.is_ok(), "{first}, {second:?} after {asked}");
            }
        }
    }
    assert!(again <= 4, "{again} of {asked} questions were asked again");
    format!("{asked} questions, {again} asked again")
}

const HOSTS: usize = 3;
