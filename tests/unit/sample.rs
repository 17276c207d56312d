//! One peer and one app for the tests of the views.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::app::Source;
use crate::bgp::peer::{Counters, MessageCounts, StateName};
use crate::bgp::{AsPath, Capability, Negotiated, PathAttributes, SessionType};
use crate::core::{
    AppState, AppView, MonitorView, NatCount, NatView, NotAnnounced, NotAnnouncedReason, PathView,
    PeerView, RouteView, Ttl, VipView,
};
use crate::discovery::PeerName;
use crate::health::{Health, Outcome};
use crate::net::{Asn, Community, Family};
use crate::path_proof::{Finding, Proof};

pub fn established() -> PeerView {
    let remote = Ipv4Addr::new(10, 0, 0, 1).into();
    let asn = |n| Asn::new(n).unwrap();
    PeerView {
        name: PeerName::new(remote, None),
        remote: Some(remote),
        port: 179,
        interface: Some("eth0".to_owned()),
        no_carrier: false,
        unreachable: None,
        local: Some(Ipv4Addr::new(10, 0, 0, 2).into()),
        local_as: asn(65001),
        peer_as: Some(asn(65000)),
        router_id: "10.0.0.2".parse().ok(),
        passive: false,
        hold_time: 90,
        families: Family::ALL.into(),
        state: StateName::Established,
        since: Duration::from_millis(12_500),
        uptime: Some(Duration::from_millis(12_500)),
        downtime: Duration::from_secs(20),
        ttl: Ttl::Limit(255),
        tried: true,
        unanswered: None,
        negotiated: Some(Negotiated {
            session: SessionType::Ebgp,
            local_as: asn(65001),
            peer_as: asn(65000),
            local_router_id: "10.0.0.2".parse().unwrap(),
            peer_router_id: "10.0.0.1".parse().unwrap(),
            hold_time: Some(Duration::from_secs(30)),
            families: [Family::Ipv4].into(),
            four_octet_as: true,
            route_refresh: true,
            enhanced_route_refresh: false,
            extended_message: false,
            extended_next_hop: false,
            graceful_restart: None,
            hostname: None,
            peer_capabilities: vec![
                Capability::Multiprotocol(Family::Ipv4.into()),
                Capability::RouteRefresh,
                Capability::FourOctetAs(65000),
            ],
        }),
        counters: Counters {
            received: MessageCounts {
                open: 1,
                keepalive: 5,
                ..MessageCounts::default()
            },
            sent: MessageCounts {
                open: 1,
                update: 3,
                ..MessageCounts::default()
            },
        },
        announced: 2,
        flaps: 1,
        last_error: None,
        bfd_up: Some(true),
    }
}

pub fn connecting() -> PeerView {
    let remote = "fe80::1".parse().unwrap();
    PeerView {
        name: PeerName::new(remote, Some("eth0")),
        remote: Some(remote),
        peer_as: None,
        state: StateName::Active,
        uptime: None,
        negotiated: None,
        last_error: Some("connection refused".to_owned()),
        bfd_up: None,
        ..established()
    }
}

/// As the established peer has it.
fn route() -> RouteView {
    RouteView {
        peer: established().name,
        attributes: PathAttributes {
            as_path: AsPath::sequence([Asn::new(65001).unwrap(); 2]),
            med: Some(7),
            communities: [Community::new(65001, 53)].into(),
            large_communities: ["65001:1:2".parse().unwrap()].into(),
            ext_communities: ["rt:65001:1".parse().unwrap()].into(),
            ..PathAttributes::new(Ipv4Addr::new(10, 0, 0, 2).into())
        },
        since: Duration::from_secs(10),
        acknowledged: true,
    }
}

/// With everything in its texts that has to be escaped somewhere.
pub fn awkward() -> AppView {
    AppView {
        peers: Vec::new(),
        name: "a\"b\\c</script>".parse().unwrap(),
        source: Source::Http,
        state: AppState::HeldDown,
        health: Health::Up,
        announced: false,
        since: Duration::from_secs(3),
        why: "came back 6 times".to_owned(),
        vips: vec![VipView {
            prefix: "192.0.2.53/32".parse().unwrap(),
            announced: false,
            addressed: true,
            foreign: false,
            wanted: false,
            problem: Some("no next hop".to_owned()),
            standby: false,
            routes: vec![route()],
            lacking: vec![NotAnnounced {
                peer: connecting().name,
                why: NotAnnouncedReason::NoSession,
            }],
            paths: vec![PathView {
                peer: established().name,
                proof: Proof {
                    finding: Finding::Partly,
                    returned: 7,
                    probes: 16,
                    first_hop: None,
                    stretched: None,
                    forwarded_after: Some(Duration::from_micros(11_250)),
                },
            }],
        }],
        monitors: vec![MonitorView {
            label: "line\nbreak".to_owned(),
            spec: "http://user:secret@h/".to_owned(),
            health: Health::Down,
            last: Some(Outcome::Fail("\"<b>\u{1b}".to_owned())),
            took: Some(Duration::from_micros(1_500)),
            age: None,
        }],
        nats: vec![NatView {
            spec: "udp:53:8053".parse().unwrap(),
            count: Some(NatCount {
                packets: 7,
                bytes: 420,
            }),
        }],
        drain_time: Duration::from_secs(2),
        draining: false,
        drained: false,
        drain: None,
        maintenance: false,
        maintenance_problem: None,
        last_resort: None,
        held_for: Some(Duration::from_millis(1_250)),
        flaps: 6,
        transitions: BTreeMap::from([(AppState::Up, 6), (AppState::HeldDown, 1)]),
    }
}
