//! The same as `announce`, against FRR: another BGP implementation, other opinions.

use std::time::Duration;

use serde_json::Value;
use sidecast_lab::{Frr, HostLink, Sidecast, Site, VIP4, VIP6, until};

sidecast_lab::tests! {
    needs ["bgpd", "zebra", "vtysh", "ip"]:
        packets_follow_the_healthy_service,
        the_router_sees_what_was_configured,
        an_ibgp_session_over_ipv6_carries_both_families;
}

fn packets_follow_the_healthy_service() {
    let site = Site::new();
    let (mut tcp, mut udp) = site.a.services();
    let _others = site.b.services();
    let neighbors = [
        (site.a.addresses.host4, 65001),
        (site.b.addresses.host4, 65001),
    ];
    let _router = Frr::start(&site.router, &bgpd(&neighbors));
    let _a = Sidecast::start(&site.a.network, &site.a.config("", ""));
    site.answered_by("a", PATIENCE);
    // The longer path makes B the second choice while both announce.
    let _b = Sidecast::start(&site.b.network, &site.b.config("as_path_prepend: 2", ""));
    site.answered_by("a", PATIENCE);
    for service in [&mut tcp, &mut udp] {
        service.kill();
        site.answered_by("b", PATIENCE);
        service.restart(&site.a.network);
        site.answered_by("a", PATIENCE);
    }
}

fn the_router_sees_what_was_configured() {
    let site = Site::new();
    let _services = site.a.services();
    let router = Frr::start(&site.router, &bgpd(&[(site.a.addresses.host4, 65001)]));
    let _sidecast = Sidecast::start(
        &site.a.network,
        &site.a.config(
            "communities: [\"65001:100\"]\nlarge_communities: [\"65001:1:2\"]\norigin: egp",
            "vip_config: {bgp_communities: [\"65001:53\", no-export], med: 77, as_path_prepend: 1}",
        ),
    );
    for (vip, next_hop) in vips(&site.a) {
        let path = the_path(&router, &vip);
        assert_eq!(path["aspath"]["string"], "65001 65001", "{path}");
        assert_eq!(path["origin"], "EGP", "{path}");
        assert_eq!(path["metric"], 77, "{path}");
        assert_eq!(path["nexthops"][0]["ip"], next_hop, "{path}");
        assert_eq!(
            path["community"]["string"], "65001:53 65001:100 no-export",
            "{path}"
        );
        assert_eq!(path["largeCommunity"]["string"], "65001:1:2", "{path}");
    }
}

fn an_ibgp_session_over_ipv6_carries_both_families() {
    let site = Site::new();
    let _services = site.a.services();
    let neighbor = site.a.addresses.host6;
    let router = Frr::start(&site.router, &bgpd(&[(neighbor, 65000)]));
    let config = format!(
        "bgp: {{local_as: 65000, peer_as: 65000, peer_ip: \"{}\", local_pref: 150}}\n\
         apps: [{{name: dns, vips: [{VIP4}/32, \"{VIP6}/128\"], monitors: {}, interval: 200ms}}]\n",
        site.a.addresses.router6,
        Site::MONITORS,
    );
    let _sidecast = Sidecast::start(&site.a.network, &config);
    site.answered_by("a", PATIENCE);
    for (vip, next_hop) in vips(&site.a) {
        let path = the_path(&router, &vip);
        assert_eq!(path["aspath"]["string"], "Local", "{path}");
        assert_eq!(path["locPrf"], 150, "{path}");
        assert_eq!(path["nexthops"][0]["ip"], next_hop, "{path}");
    }
}

/// Each VIP as a prefix, and the next hop it must have.
fn vips(host: &HostLink) -> [(String, &'static str); 2] {
    [
        (format!("{VIP4}/32"), host.addresses.host4),
        (format!("{VIP6}/128"), host.addresses.host6),
    ]
}

/// Waits for the one path to a prefix.
#[track_caller]
fn the_path(router: &Frr, prefix: &str) -> Value {
    until(PATIENCE, "the route arrives", || {
        let mut paths = router.paths(prefix);
        if paths.len() == 1 {
            Ok(paths.remove(0))
        } else {
            Err(format!("{paths:?}"))
        }
    })
}

/// A bgpd that takes both families from these neighbors.
fn bgpd(neighbors: &[(&str, u32)]) -> String {
    let mut peers = String::new();
    let mut activate = String::new();
    for (address, peer_as) in neighbors {
        peers += &format!(" neighbor {address} remote-as {peer_as}\n");
        activate += &format!("  neighbor {address} activate\n");
    }
    format!(
        "router bgp 65000\n bgp router-id 10.255.0.1\n no bgp ebgp-requires-policy\n{peers} \
         address-family ipv4 unicast\n{activate} exit-address-family\n \
         address-family ipv6 unicast\n{activate} exit-address-family\n"
    )
}

/// How long the client may have to wait; FRR takes its time to select and install.
const PATIENCE: Duration = Duration::from_secs(20);
