//! Several routers and hosts on one link.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{SetSockOpt, sockopt::BindToDevice};
use sidecast::path_proof::SendError;
use sidecast_lab::{Bird, Lab, Namespace, Sidecast, expect, until};

use crate::probing::{Probing, Way};

/// A switch, and whoever is plugged into it as 10.0.5.NUMBER and 2001:db8:5::NUMBER.
struct Lan {
    switch: Namespace,
    /// Last, so that the folder outlives what is written into it.
    lab: Lab,
}

impl Lan {
    fn new() -> Self {
        let lab = Lab::new();
        let switch = lab.namespace("switch");
        switch.ip("link add br0 type bridge");
        switch.ip("link set br0 up");
        Self { switch, lab }
    }

    fn plug(&self, name: &str, number: u8) -> Namespace {
        let network = self.lab.namespace(name);
        let addresses = [
            format!("10.0.5.{number}/24"),
            format!("2001:db8:5::{number}/64"),
        ];
        let [v4, v6] = addresses.each_ref().map(String::as_str);
        let port = format!("port{number}");
        self.lab
            .cable((&network, "eth0", &[v4, v6]), (&self.switch, &port, &[]));
        self.switch.ip(&format!("link set {port} master br0"));
        network
    }

    /// A router with a session to each of these hosts, and the FIB that follows from that.
    fn router(&self, name: &str, number: u8, hosts: &[u8]) -> (Namespace, Bird) {
        let network = self.plug(name, number);
        network.forward();
        let sessions: String = hosts.iter().map(|host| session(number, *host)).collect();
        let config = format!(
            "log stderr all;\nrouter id 10.255.0.{number};\nprotocol device {{ }}\n\
             protocol direct {{ ipv4; ipv6; }}\n\
             protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n\
             protocol kernel {{ ipv6 {{ import none; export where source = RTS_BGP; }}; }}\n{sessions}"
        );
        let bird = Bird::start(&network, &config);
        (network, bird)
    }

    /// A host that announces these VIPs to these routers.
    fn host(&self, name: &str, number: u8, bgp: &str, vips: &str) -> (Namespace, Sidecast) {
        let network = self.plug(name, number);
        network.ip("route add default via 10.0.5.1");
        let config = format!(
            "agent: {{path_proof: off}}\nbgp: {{local_as: 65001, peer_as: 65000, {bgp}}}\napps: [{{name: dns, vips: {vips}}}]\n"
        );
        let sidecast = Sidecast::start(&network, &config);
        (network, sidecast)
    }
}

fn session(router: u8, host: u8) -> String {
    format!(
        "protocol bgp h{host} {{ local 10.0.5.{router} as 65000; neighbor 10.0.5.{host} as 65001; \
         ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }}; }}\n"
    )
}

#[track_caller]
fn forwards(router: &Namespace, vip: &str, gateway: &str) {
    until(PATIENCE, "the route is in the FIB", || {
        let found = router.gateway(vip);
        expect(found.as_deref() == Some(gateway), format!("{found:?}"))
    });
}

pub fn of_two_routers_on_one_lan_the_gateway_gets_the_probes() {
    let lan = Lan::new();
    let (first, _bird1) = lan.router("r1", 1, &[10]);
    let (second, _bird2) = lan.router("r2", 2, &[10]);
    let peers = "peer_ip: [10.0.5.1, 10.0.5.2]";
    let (host, _sidecast) = lan.host("a", 10, peers, "[192.0.2.53/32]");
    forwards(&first, "192.0.2.53", "10.0.5.10");
    forwards(&second, "192.0.2.53", "10.0.5.10");
    let way = |gateway| Way::new(&host, "192.0.2.53", "eth0", "10.0.5.10", gateway);
    let (by_first, by_second) = (way("10.0.5.1"), way("10.0.5.2"));
    let mut probing = Probing::new(&host, 1);
    probing.count(std::slice::from_ref(&by_first));
    probing.round(&by_first).is_whole();
    let refused = probing.round(&by_second).sent;
    let why = "probes leave by 10.0.5.1".to_owned();
    assert_eq!(refused, Err(SendError::OtherRoute(why)));
}

/// The router prefers the sibling, and says so to the host that asks by way of it. The host follows such a
/// redirect for a VIP that is not probed, but not for one that is.
pub fn a_redirect_to_the_sibling_is_not_followed() {
    let lan = Lan::new();
    let (router, _bird) = lan.router("r1", 1, &[10, 11]);
    let vips = "[192.0.2.53/32, 192.0.2.54/32]";
    let (host, _a) = lan.host("a", 10, "peer_ip: 10.0.5.1, as_path_prepend: 2", vips);
    let (sibling, _b) = lan.host("b", 11, "peer_ip: 10.0.5.1", vips);
    // As a host that is no router has it.
    host.sysctl("net/ipv4/ip_forward", "0");
    host.sysctl("net/ipv4/conf/all/accept_redirects", "1");
    // Else the sibling asks for the host's link address in the name of the VIP, to which the host, which has it too,
    // does not answer.
    sibling.sysctl("net/ipv4/conf/all/arp_announce", "2");
    for vip in ["192.0.2.53", "192.0.2.54"] {
        forwards(&router, vip, "10.0.5.11");
    }
    until(PATIENCE, "the host has its VIPs", || {
        let vips = host.addresses("lo");
        expect(vips.len() == 2, format!("{vips:?}"))
    });
    let way = |vip| Way::new(&host, vip, "eth0", "10.0.5.10", "10.0.5.1");
    let (probed, other) = (way("192.0.2.53"), way("192.0.2.54"));
    let mut probing = Probing::new(&host, 1);
    probing.count(std::slice::from_ref(&probed));
    let socket = host.enter(|| UdpSocket::bind("10.0.5.10:0")).unwrap();
    BindToDevice.set(&socket.as_fd(), &"eth0".into()).unwrap();
    let followed = SendError::OtherRoute("probes leave by 10.0.5.11".to_owned());
    until(
        PATIENCE,
        "the redirect for the other VIP is followed",
        || {
            socket.send_to(b"?", "192.0.2.54:9").unwrap();
            let sent = probing.send(&other, 1);
            expect(sent == Err(followed.clone()), format!("{sent:?}"))
        },
    );
    let redirects = || router.run("nstat", &["-asz", "IcmpOutRedirects"]);
    let before = redirects();
    until(PATIENCE, "a redirect for the VIP is sent", || {
        probing.refused(&probed, "192.0.2.53", (3, 3));
        expect(redirects() != before, before.clone())
    });
    probing.refused(&probed, "192.0.2.53", (3, 3));
}

/// With IPv6, where redirects are about link-local addresses: Linux 6.18 does not follow one for an address that
/// it has itself, but the host sees those for a VIP that is not probed, and none for one that is.
pub fn an_ipv6_redirect_to_the_sibling_is_not_seen() {
    let lan = Lan::new();
    let [router, host, sibling] = [("r1", 1), ("a", 10), ("b", 11)].map(|(n, i)| lan.plug(n, i));
    router.forward();
    let next_hop = link_local(&sibling);
    for vip in ["2001:db8:53::1", "2001:db8:54::1"] {
        router.ip(&format!("-6 route add {vip} via {next_hop} dev eth0"));
        for holder in [&host, &sibling] {
            holder.ip(&format!("addr add {vip}/128 dev lo"));
        }
    }
    let gateway = link_local(&router);
    host.ip(&format!("-6 route add default via {gateway} dev eth0"));
    let way = |vip| Way::new(&host, vip, "eth0", "2001:db8:5::10", &gateway);
    let (probed, other) = (way("2001:db8:53::1"), way("2001:db8:54::1"));
    let mut probing = Probing::new(&host, 1);
    probing.count(std::slice::from_ref(&probed));
    let redirects = |network: &Namespace, counter: &str| {
        let text = network.run("nstat", &["-asz", counter]);
        let line = text.lines().find(|line| line.starts_with(counter));
        let count = line.and_then(|line| line.split_whitespace().nth(1));
        count
            .and_then(|count| count.parse::<u32>().ok())
            .expect("a number")
    };
    let sent = || redirects(&router, "Icmp6OutRedirects");
    let seen = || redirects(&host, "Icmp6InRedirects");
    until(
        PATIENCE,
        "the host sees a redirect for the other VIP",
        || {
            probing.send(&other, 1).expect("it is sent");
            expect(seen() > 0 && seen() == sent(), "none")
        },
    );
    let before = (sent(), seen());
    until(PATIENCE, "redirects for the probed VIP are sent", || {
        probing.refused(&probed, "2001:db8:53::1", (1, 4));
        expect(sent() > before.0, "none")
    });
    assert_eq!(seen(), before.1);
}

fn link_local(network: &Namespace) -> String {
    until(PATIENCE, "it has a link-local address", || {
        let links = network.ip_json("-6 addr show dev eth0 scope link");
        let mut addresses = links[0]["addr_info"].as_array().into_iter().flatten();
        let local = addresses.find_map(|info| info["local"].as_str());
        local.map(str::to_owned).ok_or_else(|| links.to_string())
    })
}

/// The first router has the route by way of the second, which is the host's neighbor on another interface.
pub fn another_router_may_bring_the_probe_back() {
    let lab = Lab::new();
    let [host, first, second] = ["host", "r1", "r2"].map(|name| lab.namespace(name));
    first.forward();
    second.forward();
    lab.cable(
        (&host, "eth0", &["10.0.1.2/24"]),
        (&first, "eth0", &["10.0.1.1/24"]),
    );
    lab.cable(
        (&host, "eth1", &["10.0.2.2/24"]),
        (&second, "eth0", &["10.0.2.1/24"]),
    );
    lab.cable(
        (&first, "eth1", &["10.0.3.1/24"]),
        (&second, "eth1", &["10.0.3.2/24"]),
    );
    host.ip("route add default via 10.0.1.1");
    host.ip("addr add 192.0.2.53/32 dev lo");
    first.ip("route add default via 10.0.3.2");
    second.ip("route add 192.0.2.53 via 10.0.2.2");
    for device in ["all", "eth0", "eth1"] {
        host.sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "1");
    }
    let way = Way::new(&host, "192.0.2.53", "eth0", "10.0.1.2", "10.0.1.1");
    let mut probing = Probing::new(&host, 1);
    probing.count(std::slice::from_ref(&way));
    // The routers resolve each other's addresses first; a request of theirs that is lost is repeated after a second.
    until(PATIENCE, "all probes come back", || {
        let round = probing.round(&way);
        expect(round.returned == 16, format!("{round:?}"))
    });
}

const PATIENCE: Duration = Duration::from_secs(20);
