//! Links without addresses: IPv4 routes over IPv6 link-local next hops (RFC 8950).

use sidecast_lab::{Bird, Frr, Sidecast, expect, until};

use crate::PATIENCE;
use crate::topology::{Node, Topology};

/// FRR knows its neighbor by our router advertisements alone.
pub fn an_unnumbered_link_with_frr() {
    let topology = Topology::unnumbered(1);
    let node = topology.node();
    let router = Frr::start(
        &topology.router,
        "router bgp 65000\n bgp router-id 10.255.0.1\n no bgp ebgp-requires-policy\n \
         neighbor h1 interface remote-as external\n \
         address-family ipv6 unicast\n  neighbor h1 activate\n exit-address-family\n",
    );
    let config = format!(
        "bgp: {{local_as: 65001, peer_as: 65000, peer_ip: \"%eth0\", listen: \"[::]:179\"}}\n{}",
        node.apps("")
    );
    let _sidecast = Sidecast::start(&node.network, &config);
    let host = Node::link_local(&node.network, "eth0").expect("the kernel made one");
    for vip in [node.vip4(), node.vip6()] {
        until(PATIENCE, &format!("{vip} arrives"), || {
            let paths = router.paths(&vip);
            let hop = paths.first().map(|path| path["nexthops"][0]["ip"].clone());
            expect(hop == Some(host.to_string().into()), format!("{paths:?}"))
        });
        routed(&topology, &vip, &host.to_string());
    }
}

/// As `%eth0` where the router advertises itself, and by its link-local address where it does not.
pub fn unnumbered_links_with_bird() {
    let topology = Topology::unnumbered(2);
    topology.router.ip("addr add fe80::1/64 dev h2");
    let session = |device: &str| {
        format!(
            "protocol bgp {device} {{ local as 65000; neighbor range fe80::/10 external; interface \"{device}\";
               dynamic name \"{device}_\"; ipv4 {{ import all; export none; extended next hop on; }};
               ipv6 {{ import all; export none; }}; }}\n"
        )
    };
    let router = Bird::start(
        &topology.router,
        &format!(
            "log stderr all; router id 10.255.0.1; protocol device {{ }}
             protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}
             protocol kernel {{ ipv6 {{ import none; export where source = RTS_BGP; }}; }}
             protocol radv {{ interface \"h1\" {{ min ra interval 3; max ra interval 4; }}; }}\n{}{}",
            session("h1"),
            session("h2"),
        ),
    );
    let start = |node: &Node, peer: &str| {
        let config = format!(
            "bgp: {{local_as: 65001, peer_as: 65000, peer_ip: \"{peer}\"}}\n{}",
            node.apps("")
        );
        Sidecast::start(&node.network, &config)
    };
    let _sidecasts = [
        start(&topology.nodes[0], "%eth0"),
        start(&topology.nodes[1], "fe80::1%eth0"),
    ];
    for node in &topology.nodes {
        let host = Node::link_local(&node.network, "eth0").expect("the kernel made one");
        for vip in [node.vip4(), node.vip6()] {
            let via = format!("via {host} on {}", node.device());
            until(PATIENCE, &format!("{vip} arrives"), || {
                let route = router.route(&vip).unwrap_or_default();
                expect(route.contains(&via), route)
            });
            routed(&topology, &vip, &host.to_string());
        }
    }
}

/// The router's kernel sends packets that way.
#[track_caller]
fn routed(topology: &Topology, vip: &str, gateway: &str) {
    let vip = vip.split('/').next().unwrap_or_default();
    until(PATIENCE, &format!("{vip} is in the kernel"), || {
        let found = topology.router.gateway(vip);
        expect(found.as_deref() == Some(gateway), format!("{found:?}"))
    });
}
