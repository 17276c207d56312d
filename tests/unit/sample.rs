//! One peer and one app for the tests of the views.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::app::Source;
use crate::bgp::peer::{Counters, MessageCounts, StateName};
use crate::bgp::{Negotiated, SessionType};
use crate::core::{AppState, AppView, Counted, MonitorView, NatView, PeerView, VipView};
use crate::discovery::PeerName;
use crate::health::{Health, Outcome};
use crate::net::{Asn, Family};

pub fn established() -> PeerView {
    let remote = Ipv4Addr::new(10, 0, 0, 1).into();
    let asn = |n| Asn::new(n).unwrap();
    PeerView {
        name: PeerName::new(remote, None),
        remote,
        port: 179,
        interface: Some("eth0".to_owned()),
        no_carrier: false,
        local: Some(Ipv4Addr::new(10, 0, 0, 2).into()),
        local_as: asn(65001),
        peer_as: Some(asn(65000)),
        router_id: "10.0.0.2".parse().unwrap(),
        passive: false,
        hold_time: 90,
        families: BTreeSet::from(Family::ALL),
        state: StateName::Established,
        since: Duration::from_millis(12_500),
        uptime: Some(Duration::from_millis(12_500)),
        negotiated: Some(Negotiated {
            session: SessionType::Ebgp,
            local_as: asn(65001),
            peer_as: asn(65000),
            local_router_id: "10.0.0.2".parse().unwrap(),
            peer_router_id: "10.0.0.1".parse().unwrap(),
            hold_time: Some(Duration::from_secs(30)),
            families: BTreeSet::from([Family::Ipv4]),
            four_octet_as: true,
            route_refresh: true,
            enhanced_route_refresh: false,
            extended_message: false,
            extended_next_hop: false,
            graceful_restart: None,
            hostname: None,
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
        remote,
        peer_as: None,
        state: StateName::Active,
        uptime: None,
        negotiated: None,
        last_error: Some("connection refused".to_owned()),
        bfd_up: None,
        ..established()
    }
}

/// With everything in its texts that has to be escaped somewhere.
pub fn awkward() -> AppView {
    AppView {
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
            problem: Some("no next hop".to_owned()),
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
            counted: Some(Counted {
                packets: 7,
                bytes: 420,
            }),
        }],
        drain_time: Duration::from_secs(2),
        draining: false,
        drained: false,
        maintenance: false,
        maintenance_problem: None,
        held_for: Some(Duration::from_millis(1_250)),
        flaps: 6,
        transitions: BTreeMap::from([(AppState::Up, 6), (AppState::HeldDown, 1)]),
    }
}
