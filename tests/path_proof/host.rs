//! What else is on a host: reverse path filters, firewalls, NAT, connection tracking, other programs.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use sidecast::path_proof::SendError;
use sidecast_lab::{HostLink, Namespace, Site, VIP4, VIP6, expect, until};

use crate::probing::{Probing, Way, addr};
use crate::routers::add_vips;

/// A site whose router forwards both VIPs to host A.
fn site() -> Site {
    let site = Site::new();
    add_vips(&site.a);
    let of = &site.a.addresses;
    site.router
        .ip(&format!("route add {VIP4} via {}", of.host4));
    site.router
        .ip(&format!("-6 route add {VIP6} via {}", of.host6));
    site
}

/// Both ways are counted, and all probes come back.
fn proven(site: &Site) -> (Probing<'_>, [Way; 2]) {
    let ways = Way::of(&site.a);
    let mut probing = Probing::new(&site.a.network, 1);
    probing.count(&ways);
    whole(&mut probing, &ways);
    (probing, ways)
}

#[track_caller]
fn whole(probing: &mut Probing<'_>, ways: &[Way]) {
    for way in ways {
        probing.round(way).is_whole();
    }
}

pub fn reverse_path_filters_of_both_ends_let_probes_pass() {
    let site = site();
    let (mut probing, ways) = proven(&site);
    for (host, router) in [("1", "1"), ("2", "2"), ("1", "2"), ("2", "1")] {
        for (network, device, value) in [
            (&site.a.network, "eth0", host),
            (&site.router, site.a.device, router),
        ] {
            for device in ["all", device] {
                network.sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), value);
            }
        }
        whole(&mut probing, &ways);
    }
}

/// Both drop what comes back before it is counted at a later priority: to them it is spoofed.
pub fn an_rpfilter_in_the_raw_table_and_that_of_firewalld_see_no_probe() {
    let site = site();
    let network = &site.a.network;
    for program in ["iptables", "ip6tables"] {
        let rule = "-t raw -A PREROUTING -m rpfilter --invert -j DROP";
        let rule: Vec<&str> = rule.split(' ').collect();
        network.run(program, &rule);
    }
    network.nft(
        "table inet firewalld {
           chain mangle_PREROUTING {
             type filter hook prerouting priority mangle + 10; policy accept;
             meta nfproto ipv6 icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
             fib saddr . mark . iif oif missing drop
           }
         }",
    );
    let counted = || network.run("iptables", &["-t", "raw", "-nvxL", "PREROUTING"]);
    let (mut probing, ways) = proven(&site);
    whole(&mut probing, &ways);
    let dropped = counted();
    assert!(dropped.contains("rpfilter"), "{dropped}");
    let rule = dropped.lines().find(|line| line.contains("rpfilter"));
    let packets = rule.and_then(|line| line.split_whitespace().next());
    assert_eq!(packets, Some("0"), "{dropped}");
}

pub fn conntrack_gets_no_entry() {
    let site = site();
    let network = &site.a.network;
    network.nft(
        "table inet tracking {
           chain in { type filter hook input priority 0; ct state established accept; }
           chain out { type filter hook output priority 0; ct state established accept; }
         }",
    );
    let (mut probing, ways) = proven(&site);
    whole(&mut probing, &ways);
    let entries = || network.run("conntrack", &["-L", "-p", "udp"]);
    assert!(!entries().contains("dport=9 "), "{}", entries());
    // What is no probe is tracked.
    let socket = network.enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    socket.send_to(b"?", (addr("10.0.1.1"), 9)).unwrap();
    assert!(entries().contains("dport=9 "), "{}", entries());
}

pub fn nat_of_the_port_takes_no_probe() {
    let site = site();
    site.a.network.nft(
        "table inet nat {
           chain pre { type nat hook prerouting priority dstnat; udp dport 9 redirect to :99; }
           chain out { type nat hook output priority -100; udp dport 9 redirect to :99; }
           chain post { type nat hook postrouting priority srcnat; udp dport 9 masquerade; }
         }",
    );
    let (mut probing, ways) = proven(&site);
    whole(&mut probing, &ways);
}

/// As Docker makes them with iptables, and a container network.
pub fn the_chains_of_docker_are_no_obstacle() {
    let site = site();
    let network = &site.a.network;
    network.ip("link add docker0 type bridge");
    network.ip("addr add 172.17.0.1/16 dev docker0");
    network.ip("link set docker0 up");
    for rule in [
        "-t nat -N DOCKER",
        "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
        "-t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
        "-t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
        "-t nat -A DOCKER ! -i docker0 -p udp --dport 9 -j DNAT --to-destination 172.17.0.2:9",
        "-N DOCKER",
        "-N DOCKER-USER",
        "-A DOCKER-USER -j RETURN",
        "-A FORWARD -j DOCKER-USER",
        "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A FORWARD -o docker0 -j DOCKER",
        "-P FORWARD DROP",
    ] {
        let rule: Vec<&str> = rule.split(' ').collect();
        network.run("iptables", &rule);
    }
    let (mut probing, ways) = proven(&site);
    whole(&mut probing, &ways);
}

pub fn a_flush_of_the_ruleset_is_survived() {
    let site = site();
    let (mut probing, ways) = proven(&site);
    site.a.network.nft("flush ruleset");
    whole(&mut probing, &ways);
}

pub fn a_service_on_the_port_sees_no_probe() {
    let site = site();
    let service = site.a.network.enter(|| UdpSocket::bind("[::]:9"));
    let service = service.expect("the port is free");
    service.set_nonblocking(true).unwrap();
    let (_, ways) = proven(&site);
    let mut space = [0; 64];
    let seen = service.recv_from(&mut space);
    assert!(seen.is_err(), "{seen:?}");
    // What is no probe of ours arrives, also with the token of another.
    let mut foreign = 2_u64.to_be_bytes().to_vec();
    foreign.extend(1_u16.to_be_bytes());
    let client = site.client.enter(|| UdpSocket::bind("[::]:0")).unwrap();
    for way in &ways {
        let to = SocketAddr::new(way.target.vip, 9);
        let to = match to {
            SocketAddr::V4(to) => SocketAddr::from((to.ip().to_ipv6_mapped(), 9)),
            SocketAddr::V6(_) => to,
        };
        client.send_to(&foreign, to).unwrap();
        until(PATIENCE, "the datagram arrives", || {
            service.recv_from(&mut space)
        });
    }
}

pub fn a_firewall_of_the_host_is_named() {
    let site = site();
    let (mut probing, ways) = proven(&site);
    let network = &site.a.network;
    network.nft(
        "table inet fw {
           chain out { type filter hook output priority 0; udp dport 9 drop; }
         }",
    );
    for way in &ways {
        assert_eq!(probing.round(way).sent, Err(SendError::LocalFirewall));
    }
    network.nft("delete table inet fw");
    whole(&mut probing, &ways);
}

pub fn a_missing_source_is_named() {
    let site = site();
    let (mut probing, mut ways) = proven(&site);
    ways[0].egress.source = addr("10.0.1.77");
    ways[1].egress.source = addr("2001:db8:1::77");
    let [v4, v6] = &ways;
    let no_route = "no route by eth0 (Network is unreachable)".to_owned();
    assert_eq!(probing.send(v4, 1), Err(SendError::OtherRoute(no_route)));
    assert_eq!(probing.send(v6, 1), Err(SendError::NoSource));
}

/// The second finds the name of the table taken, and neither counts the other's probes.
pub fn two_probers_on_one_host_do_not_disturb_each_other() {
    let site = site();
    let (mut one, ways) = proven(&site);
    let mut other = Probing::new(&site.a.network, 2);
    other.count(&ways);
    let before = one.read();
    whole(&mut other, &ways);
    assert_eq!(one.read(), before);
    whole(&mut one, &ways);
    let tables = site.a.network.run("nft", &["list", "tables"]);
    assert_eq!(tables.lines().count(), 2, "{tables}");
    drop(one);
    whole(&mut other, &ways);
}

/// The sockets close with the process, however it ends.
pub fn nothing_is_left_of_a_prober_that_is_gone() {
    let site = site();
    let before = state(&site.a);
    let (probing, _) = proven(&site);
    assert_ne!(state(&site.a), before);
    drop(probing);
    until(PATIENCE, "the kernel has deleted all", || {
        let now = state(&site.a);
        expect(now == before, now)
    });
}

/// Everything that a program could leave in the network stack.
fn state(host: &HostLink) -> String {
    let of = |program: &str, args: &str| {
        let args: Vec<&str> = args.split(' ').collect();
        host.network.run(program, &args)
    };
    [
        of("nft", "list ruleset"),
        of("ip", "rule"),
        of("ip", "-6 rule"),
        of("ip", "route show table all"),
        of("ip", "-6 route show table all"),
    ]
    .concat()
}

/// A VIP that goes and comes is judged anew.
pub fn errors_of_an_earlier_count_are_forgotten() {
    let site = site();
    // What a router has sent as redirects counts against its limit of errors.
    for device in ["all", site.a.device] {
        let key = format!("net/ipv4/conf/{device}/send_redirects");
        site.router.sysctl(&key, "0");
    }
    let (mut probing, ways) = proven(&site);
    for (way, vip) in ways.iter().zip([VIP4, VIP6]) {
        let family = if vip.contains(':') { "-6" } else { "-4" };
        site.router.ip(&format!("{family} route del {vip}"));
        until(PATIENCE, "the router refuses", || {
            let round = probing.round(way);
            round.is_lost();
            expect(!round.errors.is_empty(), format!("{round:?}"))
        });
    }
    assert_eq!(probing.read().errors.len(), 2);
    probing.forget(&ways[0]);
    let left = probing.read();
    assert_eq!(left.returned.len(), 1, "{left:?}");
    assert_eq!(left.errors.len(), 1, "{left:?}");
    probing.count(&ways);
    let anew = probing.read();
    assert!(anew.errors.is_empty(), "{anew:?}");
    assert!(anew.returned.iter().all(|(_, n)| *n == 0), "{anew:?}");
    listed(&site.a.network);
}

/// `nft` can still list everything.
fn listed(network: &Namespace) {
    let list = || Command::new("nft").args(["-j", "list", "ruleset"]).output();
    let output = network.enter(list).expect("nft runs");
    assert!(output.status.success(), "{output:?}");
}

const PATIENCE: Duration = Duration::from_secs(30);
