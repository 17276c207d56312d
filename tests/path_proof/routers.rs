//! Real routers, with the faults that leave a session Established.

use std::time::Duration;

use serde_json::Value;
use sidecast_lab::{Bird, Frr, Gobgp, HostLink, Sidecast, Site, VIP4, VIP6, expect, until};

use crate::probing::{Probing, Way, addr};

pub fn bird_forwards_to_the_host() {
    let site = Site::new();
    let _router = bird(&site, "import all;", MAIN_TABLE);
    let _sidecast = Sidecast::start(&site.a.network, &unproving(&site.a, ""));
    forwarded_to(&site, &[&site.a]);
    let ways = Way::of(&site.a);
    let mut probing = Probing::new(&site.a.network, 1);
    probing.count(&ways);
    for way in &ways {
        let round = probing.round(way);
        round.is_whole();
        assert!(round.errors.is_empty(), "{round:?}");
    }
}

pub fn an_import_policy_of_bird_is_no_route() {
    let site = Site::new();
    let router = bird(&site, "import none;", MAIN_TABLE);
    let _sidecast = Sidecast::start(&site.a.network, &unproving(&site.a, ""));
    established(|| router.established("a"));
    no_route(&site);
}

pub fn an_import_policy_of_frr_is_no_route() {
    let site = Site::new();
    let router = frr(&site, "route-map in deny 10\n");
    let _sidecast = Sidecast::start(&site.a.network, &unproving(&site.a, ""));
    established(|| router.established(site.a.addresses.host4));
    no_route(&site);
}

/// GoBGP has no FIB of its own: the test gives the kernel the best routes of its table.
pub fn gobgp_with_a_fib_forwards_to_the_host() {
    let site = Site::new();
    let router = gobgp(&site, "accept-route");
    let _sidecast = Sidecast::start(&site.a.network, &unproving(&site.a, ""));
    for (vip, family) in [(VIP4, "ipv4"), (VIP6, "ipv6")] {
        let next_hop = until(PATIENCE, "the route is in the table", || {
            let table = router.json(&["global", "rib", "-a", family]);
            next_hop(&table, vip).ok_or_else(|| table.to_string())
        });
        site.router.ip(&format!("route add {vip} via {next_hop}"));
    }
    let ways = Way::of(&site.a);
    let mut probing = Probing::new(&site.a.network, 1);
    probing.count(&ways);
    for way in &ways {
        probing.round(way).is_whole();
    }
}

pub fn an_import_policy_of_gobgp_is_no_route() {
    let site = Site::new();
    let router = gobgp(&site, "reject-route");
    let _sidecast = Sidecast::start(&site.a.network, &unproving(&site.a, ""));
    established(|| router.json(&["neighbor"])[0]["state"]["session_state"] == 6);
    let table = router.json(&["global", "rib"]);
    assert_eq!(next_hop(&table, VIP4), None);
    no_route(&site);
}

fn next_hop(table: &Value, vip: &str) -> Option<String> {
    let mut prefixes = table.as_object()?.iter();
    let (_, paths) = prefixes.find(|(prefix, _)| prefix.starts_with(&format!("{vip}/")))?;
    let mut attributes = paths[0]["attrs"].as_array()?.iter();
    let text = attributes.find_map(|attribute| attribute["nexthop"].as_str());
    text.map(str::to_owned)
}

pub fn an_unresolvable_next_hop_is_no_route_behind_frr() {
    let site = Site::new();
    let elsewhere = "route-map in permit 10\n set ip next-hop 203.0.113.9\n\
                     set ipv6 next-hop global 2001:db8:bad::9\n";
    let router = frr(&site, elsewhere);
    let _sidecast = Sidecast::start(&site.a.network, &unproving(&site.a, ""));
    established(|| router.established(site.a.addresses.host4));
    until(PATIENCE, "the paths arrive", || {
        let count = |vip: &str| router.paths(vip).len();
        let counts = [count(VIP4), count(VIP6)];
        expect(counts == [1, 1], format!("{counts:?}"))
    });
    no_route(&site);
}

/// The router says that it has none.
fn no_route(site: &Site) {
    let ways = Way::of(&site.a);
    wait_for_vips(&site.a);
    let mut probing = Probing::new(&site.a.network, 1);
    probing.count(&ways);
    let of = &site.a.addresses;
    probing.refused(&ways[0], of.router4, (3, 0));
    probing.refused(&ways[1], of.router6, (1, 0));
}

pub fn an_import_policy_beside_a_default_route_shows_the_next_router() {
    let site = Site::new();
    let router = bird(&site, "import none;", MAIN_TABLE);
    let _sidecast = Sidecast::start(&site.a.network, &unproving(&site.a, ""));
    established(|| router.established("a"));
    wait_for_vips(&site.a);
    // The client plays the next router, which has no route but to the host.
    site.client.forward();
    let of = &site.client;
    of.ip("route replace 10.0.1.0/24 via 10.0.9.1");
    of.ip("-6 route replace 2001:db8:1::/64 via 2001:db8:9::1");
    of.ip("route del default");
    of.ip("-6 route del default");
    site.router.ip("route add default via 10.0.9.2");
    site.router.ip("-6 route add default via 2001:db8:9::2");
    let ways = Way::of(&site.a);
    let mut probing = Probing::new(&site.a.network, 1);
    probing.count(&ways);
    probing.refused(&ways[0], "10.0.9.2", (3, 0));
    probing.refused(&ways[1], "2001:db8:9::2", (1, 0));
}

/// Host, router, next router, and to the router again, where the hops end.
pub fn a_default_route_loop_ends_after_three_hops() {
    let site = Site::new();
    site.client.forward();
    site.router.ip("route add default via 10.0.9.2");
    site.router.ip("-6 route add default via 2001:db8:9::2");
    add_vips(&site.a);
    let ways = Way::of(&site.a);
    let mut probing = Probing::new(&site.a.network, 1);
    probing.count(&ways);
    let of = &site.a.addresses;
    probing.refused(&ways[0], of.router4, (11, 0));
    // Linux sends ICMPv6 errors from whichever address it finds best.
    probing.refused(&ways[1], "2001:db8:9::1", (3, 0));
}

/// BIRD gives the kernel an unreachable route.
pub fn an_unresolvable_next_hop_is_unreachable_behind_bird() {
    let site = Site::new();
    let _router = bird(&site, "import all; gateway recursive;", MAIN_TABLE);
    let elsewhere = ", next_hop: 203.0.113.9, next_hop6: \"2001:db8:bad::9\"";
    let _sidecast = Sidecast::start(&site.a.network, &unproving(&site.a, elsewhere));
    until(PATIENCE, "the unreachable routes are in the FIB", || {
        let routes = [VIP4, VIP6].map(|vip| site.router.gateway(vip));
        expect(routes.iter().all(Option::is_some), format!("{routes:?}"))
    });
    let ways = Way::of(&site.a);
    let mut probing = Probing::new(&site.a.network, 1);
    probing.count(&ways);
    let of = &site.a.addresses;
    probing.refused(&ways[0], of.router4, (3, 1));
    probing.refused(&ways[1], of.router6, (1, 0));
}

pub fn a_second_fib_table_is_no_route() {
    let site = Site::new();
    let other_table = "
protocol kernel { kernel table 100; ipv4 { import none; export where source = RTS_BGP; }; }
protocol kernel { kernel table 100; ipv6 { import none; export where source = RTS_BGP; }; }
";
    let _router = bird(&site, "import all;", other_table);
    let _sidecast = Sidecast::start(&site.a.network, &unproving(&site.a, ""));
    until(PATIENCE, "the routes are in the other table", || {
        let tables = ["-4", "-6"].map(|family| {
            let all = site.router.ip(&format!("{family} route show table all"));
            all.lines().any(|route| route.contains("table 100"))
        });
        expect(tables == [true, true], format!("{tables:?}"))
    });
    no_route(&site);
}

/// The kernel of the other host answers for its VIP: nothing listens on that port.
pub fn a_static_route_to_a_sibling_is_answered_by_the_vip() {
    let site = Site::new();
    let to_b = "
protocol static { ipv4; route 192.0.2.53/32 via 10.0.2.2; }
protocol static { ipv6; route 2001:db8:53::1/128 via 2001:db8:2::2; }
protocol kernel { ipv4 { import none; export all; }; }
protocol kernel { ipv6 { import none; export all; }; }
";
    let _router = bird(&site, "import all;", to_b);
    let _sidecast = Sidecast::start(&site.a.network, &unproving(&site.a, ""));
    add_vips(&site.b);
    forwarded_to(&site, &[&site.b]);
    wait_for_vips(&site.a);
    let ways = Way::of(&site.a);
    let mut probing = Probing::new(&site.a.network, 1);
    probing.count(&ways);
    probing.refused(&ways[0], VIP4, (3, 3));
    probing.refused(&ways[1], VIP6, (1, 4));
}

pub fn a_static_route_to_null_is_silence() {
    let site = Site::new();
    let to_null = "
protocol static { ipv4; route 192.0.2.53/32 blackhole; }
protocol static { ipv6; route 2001:db8:53::1/128 blackhole; }
protocol kernel { ipv4 { import none; export all; }; }
protocol kernel { ipv6 { import none; export all; }; }
";
    let _router = bird(&site, "import all;", to_null);
    let _sidecast = Sidecast::start(&site.a.network, &unproving(&site.a, ""));
    until(PATIENCE, "the routes are there", || {
        let routes = [VIP4, VIP6].map(|vip| site.router.ip(&format!("route show {vip}")));
        expect(routes[0].contains("blackhole"), format!("{routes:?}"))
    });
    wait_for_vips(&site.a);
    let ways = Way::of(&site.a);
    let mut probing = Probing::new(&site.a.network, 1);
    probing.count(&ways);
    probing.round(&ways[0]).is_silent();
}

/// Of 64 probes by as many ports each host gets some: that one gets fewer than eight has a chance of one in
/// thirty thousand million.
pub fn ecmp_by_ports_shares_the_probes_with_the_other_host() {
    let (site, _routers) = ecmp("1", false);
    let ways = Way::of(&site.a);
    let mut probing = Probing::new(&site.a.network, 1);
    probing.count(&ways);
    for (way, vip) in ways.iter().zip([VIP4, VIP6]) {
        let round = probing.probe(way, 64);
        assert_eq!(round.sent, Ok(64));
        assert!((8..=56).contains(&round.returned), "{round:?}");
        assert!(!round.errors.is_empty(), "the other host answers");
        for error in &round.errors {
            assert_eq!(error.from, addr(vip), "no router refuses: {round:?}");
        }
    }
}

/// All probes of an IPv4 VIP go to one of the hosts, the other one firewalled: all come back or none does, and no
/// router refuses any. With IPv6 the flow label counts too, which each socket has its own.
pub fn ecmp_by_addresses_is_never_a_refusal() {
    let (site, _routers) = ecmp("0", false);
    site.b.network.nft(
        "table inet firewall {
           chain in { type filter hook input priority 0; udp dport 9 drop; }
         }",
    );
    let ways = Way::of(&site.a);
    let mut probing = Probing::new(&site.a.network, 1);
    probing.count(&ways);
    for way in &ways {
        let round = probing.round(way);
        assert_eq!(round.sent, Ok(16));
        let is_v4 = way.target.vip.is_ipv4();
        assert!(!is_v4 || matches!(round.returned, 0 | 16), "{round:?}");
        assert!(round.errors.is_empty(), "{round:?}");
    }
}

/// Both hosts announce the same, and the router divides what goes there.
pub fn ecmp(hash_policy: &str, proving: bool) -> (Site, (Bird, [Sidecast; 2])) {
    let site = Site::new();
    for key in ["ipv4/fib_multipath", "ipv6/fib_multipath"] {
        let key = format!("net/{key}_hash_policy");
        site.router.sysctl(&key, hash_policy);
    }
    let merged = "
protocol kernel { merge paths on; ipv4 { import none; export where source = RTS_BGP; }; }
protocol kernel { merge paths on; ipv6 { import none; export where source = RTS_BGP; }; }
protocol bgp b { local 10.0.2.1 as 65000; neighbor 10.0.2.2 as 65001; ipv4 { import all; export none; }; ipv6 { import all; export none; }; }
";
    let router = bird(&site, "import all;", merged);
    let sidecasts = [&site.a, &site.b].map(|host| {
        let config = match proving {
            // The other host's route may come after the first round.
            true => format!(
                "agent: {{path_proof: {{interval: 1s}}}}\n{}",
                announcing(host, "")
            ),
            false => unproving(host, ""),
        };
        Sidecast::start(&host.network, &config)
    });
    forwarded_to(&site, &[&site.a, &site.b]);
    (site, (router, sidecasts))
}

/// One app with both VIPs and no monitor.
pub fn announcing(host: &HostLink, bgp: &str) -> String {
    format!(
        "bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {}{bgp}}}\n\
         apps: [{{name: dns, vips: [{VIP4}/32, \"{VIP6}/128\"]}}]\n",
        host.addresses.router4
    )
}

/// The same of an announcer that proves nothing itself: routers limit how many errors they send to a host.
fn unproving(host: &HostLink, bgp: &str) -> String {
    format!("agent: {{path_proof: off}}\n{}", announcing(host, bgp))
}

/// BIRD with one session, to host A, whose channels have this policy.
pub fn bird(site: &Site, policy: &str, more: &str) -> Bird {
    let of = &site.a.addresses;
    let (router4, host4) = (of.router4, of.host4);
    Bird::start(
        &site.router,
        &format!(
            "log stderr all;\nrouter id 10.255.0.1;\nprotocol device {{ }}\n\
             protocol direct {{ ipv4; ipv6; }}\n{more}\n\
             protocol bgp a {{ local {router4} as 65000; neighbor {host4} as 65001; \
             ipv4 {{ {policy} export none; }}; ipv6 {{ {policy} export none; }}; }}\n"
        ),
    )
}

/// FRR with one session, to host A, and this route map on what comes in.
fn frr(site: &Site, route_map: &str) -> Frr {
    let host = site.a.addresses.host4;
    Frr::start(
        &site.router,
        &format!(
            "{route_map}router bgp 65000\n no bgp ebgp-requires-policy\n neighbor {host} remote-as 65001\n \
             neighbor {host} capability extended-nexthop\n \
             address-family ipv4 unicast\n  neighbor {host} route-map in in\n  \
             neighbor {host} soft-reconfiguration inbound\n exit-address-family\n \
             address-family ipv6 unicast\n  neighbor {host} activate\n  neighbor {host} route-map in in\n  \
             neighbor {host} soft-reconfiguration inbound\n exit-address-family\n"
        ),
    )
}

/// GoBGP with one session, to host A, and this policy on what comes in.
fn gobgp<'a>(site: &'a Site, policy: &str) -> Gobgp<'a> {
    let host = site.a.addresses.host4;
    let families = ["ipv4-unicast", "ipv6-unicast"].map(|family| {
        format!(" [[neighbors.afi-safis]]\n [neighbors.afi-safis.config]\n afi-safi-name = \"{family}\"\n")
    });
    Gobgp::start(
        &site.router,
        &format!(
            "[global.config]\n as = 65000\n router-id = \"10.255.0.1\"\n\
             [global.apply-policy.config]\n default-import-policy = \"{policy}\"\n\
             [[neighbors]]\n [neighbors.config]\n neighbor-address = \"{host}\"\n peer-as = 65001\n\
             [neighbors.transport.config]\n passive-mode = true\n{}",
            families.concat()
        ),
    )
}

#[track_caller]
pub fn established(probe: impl Fn() -> bool) {
    until(PATIENCE, "the session is Established", || {
        expect(probe(), "it is not")
    });
}

/// The router's FIB has both VIPs by way of exactly these hosts.
#[track_caller]
pub fn forwarded_to(site: &Site, hosts: &[&HostLink]) {
    until(PATIENCE, "the routes are in the FIB", || {
        let routes = [VIP4, VIP6].map(|vip| {
            let family = if vip.contains(':') { "-6" } else { "-4" };
            site.router.ip(&format!("{family} route show {vip}"))
        });
        let to = |route: &String, host: &HostLink| route.contains(host.device);
        let all = routes
            .iter()
            .all(|route| hosts.iter().all(|host| to(route, host)));
        expect(all, format!("{routes:?}"))
    });
}

/// Puts both VIPs on `lo`, as an operator does.
pub fn add_vips(host: &HostLink) {
    host.network.ip(&format!("addr add {VIP4}/32 dev lo"));
    host.network.ip(&format!("addr add {VIP6}/128 dev lo"));
}

#[track_caller]
fn wait_for_vips(host: &HostLink) {
    until(PATIENCE, "the host has its VIPs", || {
        let vips = host.vips();
        expect(vips.len() == 2, format!("{vips:?}"))
    });
}

/// Routes from BGP go to the kernel.
pub const MAIN_TABLE: &str = "
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }
protocol kernel { ipv6 { import none; export where source = RTS_BGP; }; }
";

const PATIENCE: Duration = Duration::from_secs(20);
