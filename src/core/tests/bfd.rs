//! BFD beside BGP: which session a packet is for, and which changes are passed to BGP.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::bench::{config_with, network, session_events};
use crate::bfd::{self, Packet, Session, State};
use crate::bgp::Negotiated;
use crate::core::{BfdPath, Core, Event, HistoryEvent, Output};
use crate::discovery::{Network, PeerName};

/// The core and a router that speaks BFD, 2 ms from each other; BGP comes up where a test says so.
struct Link {
    now: Instant,
    core: Core,
    router: Session,
    cut: bool,
    paths: Vec<BfdPath>,
    closed: usize,
    sent: Vec<(Instant, Packet)>,
    wire: Vec<u8>,
    connects: usize,
}

const ROUTER: &str = "10.0.0.1:49200";

impl Link {
    fn new(bgp: &str) -> Self {
        let now = Instant::now();
        let settings = bfd::Config {
            interval: Duration::from_millis(300),
            multiplier: 3,
            discriminator: NonZeroU32::new(77).unwrap(),
        };
        let mut link = Self {
            now,
            core: Core::new(config_with(bgp, "", ""), 7, now),
            router: Session::new(now, settings, 3),
            cut: false,
            paths: Vec::new(),
            closed: 0,
            sent: Vec::new(),
            wire: Vec::new(),
            connects: 0,
        };
        link.event(Event::Network(network()));
        link
    }

    fn event(&mut self, event: Event) {
        self.core.handle(self.now, event);
        self.reconcile();
    }

    fn receive(&mut self, from: &str, multihop: bool, packet: &Packet) {
        self.event(Event::Bfd {
            from: from.parse().unwrap(),
            multihop,
            bytes: packet.encode(),
        });
    }

    fn reconcile(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::SendBfd { path, bytes, .. } => {
                    let packet = Packet::decode(&bytes).unwrap();
                    self.paths.push(path);
                    self.sent.push((self.now, packet));
                    if !self.cut {
                        self.router.handle(self.now, bfd::Event::Received(packet));
                    }
                }
                Output::CloseBfd { .. } => self.closed += 1,
                Output::Send { bytes, .. } => self.wire.extend(bytes),
                Output::Connect { .. } => self.connects += 1,
                _ => {}
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            while let Some(output) = self.router.poll_output() {
                if let bfd::Output::Send(packet) = output
                    && !self.cut
                {
                    self.receive(ROUTER, false, &packet);
                }
            }
            let router = self.router.poll_timeout().map(|(at, _)| at);
            let Some(next) = [self.core.poll_timeout(), router]
                .into_iter()
                .flatten()
                .min()
            else {
                break;
            };
            if next > end {
                break;
            }
            assert!(next >= self.now, "a deadline in the past");
            self.now = next;
            self.core.handle_timeout(next);
            self.reconcile();
            self.router.handle_timeout(next);
        }
        self.now = end;
    }

    fn bfd_up(&self) -> Option<bool> {
        self.core.peers(self.now)[0].bfd_up
    }

    /// Brings BGP up by the bytes a router would send.
    fn establish(&mut self) {
        session_events()
            .into_iter()
            .for_each(|event| self.event(event));
        assert!(self.negotiated().is_some());
        self.wire.clear();
    }

    fn negotiated(&self) -> Option<Negotiated> {
        self.core.peers(self.now)[0].negotiated.clone()
    }
}

/// A NOTIFICATION of Cease with this subcode.
fn has_cease(wire: &[u8], subcode: u8) -> bool {
    wire.windows(3).any(|part| part == [3, 6, subcode])
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_session_comes_up_between_the_right_ports() {
    let mut link = Link::new("bfd: true");
    assert_eq!(link.bfd_up(), Some(false));
    link.run(secs(5));
    assert_eq!(link.bfd_up(), Some(true));
    let want = BfdPath {
        remote: "10.0.0.1:3784".parse().unwrap(),
        local: Some("10.0.0.2".parse().unwrap()),
        multihop: false,
    };
    assert!(link.paths.iter().all(|path| *path == want));
    let mut link = Link::new("bfd: {multihop: true}");
    link.run(Duration::ZERO);
    assert_eq!(link.paths[0].remote.port(), 4784);
    assert_eq!(Link::new("").bfd_up(), None);
}

#[test]
fn bgp_does_not_wait_for_bfd_and_goes_down_with_it_at_once() {
    let mut link = Link::new("bfd: true");
    link.cut = true;
    link.establish();
    link.run(secs(5));
    assert!(link.negotiated().is_some(), "BFD never came up: no matter");
    link.cut = false;
    link.run(secs(5));
    assert_eq!(link.bfd_up(), Some(true));
    link.cut = true;
    link.run(Duration::from_millis(910));
    assert_eq!(link.bfd_up(), Some(false));
    assert!(link.negotiated().is_none());
    assert!(has_cease(&link.wire, 10), "RFC 9384: BFD Down");
    let last_error = link.core.peers(link.now)[0].last_error.clone().unwrap();
    assert!(last_error.contains("BFD"), "{last_error}");
    let line = |event: &HistoryEvent| {
        let change = &event.change;
        format!("{} {}: {}", change.kind.as_str(), change.to, change.why)
    };
    let lines: Vec<String> = link.core.events().map(line).collect();
    assert_eq!(
        lines,
        [
            "session established: AS 65000, ipv4",
            "bfd up: the peer answers",
            "bfd down: control detection time expired",
            "session down: Cease / BFD Down (6/10)",
        ]
    );
}

#[test]
fn the_peers_admin_down_leaves_bgp_alone() {
    let mut link = Link::new("bfd: true");
    link.establish();
    link.run(secs(5));
    let at = link.now;
    link.router.handle(at, bfd::Event::AdminDown);
    link.run(secs(5));
    assert_eq!(link.bfd_up(), Some(false));
    assert!(link.negotiated().is_some());
    // Nor does its silence after it.
    link.cut = true;
    link.run(secs(10));
    assert!(link.negotiated().is_some());
}

#[test]
fn a_peer_that_is_back_is_tried_at_once() {
    let mut link = Link::new("bfd: true");
    link.cut = true;
    link.run(secs(60));
    link.cut = false;
    let (before, since) = (link.connects, link.now);
    while link.bfd_up() != Some(true) {
        assert!(link.now - since < secs(5));
        link.run(Duration::from_millis(1));
    }
    assert!(link.connects > before || link.now - since < Duration::from_millis(2));
}

#[test]
fn exit_sends_admin_down_and_a_restart_does_not() {
    for (event, want) in [(Event::Stop, true), (Event::StopForRestart, false)] {
        let mut link = Link::new("bfd: true");
        link.run(secs(5));
        link.event(event);
        link.run(secs(3));
        let last = link.sent.last().unwrap().1;
        assert_eq!(last.state == State::AdminDown, want, "{last:?}");
    }
}

#[test]
fn bfd_packets_of_unknown_peers_are_dropped() {
    let mut link = Link::new("bfd: true");
    link.run(secs(5));
    let number = link.sent[0].1.my_discriminator.get();
    let down = Packet {
        state: State::Down,
        your_discriminator: number,
        ..link.sent[0].1
    };
    link.receive("10.0.0.9:49200", false, &down);
    link.receive(ROUTER, true, &down);
    let other = Packet {
        your_discriminator: number ^ 1,
        ..down
    };
    link.receive(ROUTER, false, &other);
    link.event(Event::Bfd {
        from: ROUTER.parse().unwrap(),
        multihop: false,
        bytes: vec![0x20; 23],
    });
    assert_eq!(link.bfd_up(), Some(true));
    link.receive(ROUTER, false, &down);
    assert_eq!(link.bfd_up(), Some(false), "the control");
}

#[test]
fn a_link_local_peer_is_known_by_its_interface_too() {
    let mut link = Link::new("bfd: true");
    link.cut = true;
    let mut network = network();
    let (_, mut peer) = network.peers.pop_first().unwrap();
    peer.remote = "fe80::1".parse().unwrap();
    (peer.scope_id, peer.local) = (2, None);
    let name = PeerName::new(peer.remote, Some("eth0"));
    network.peers.insert(name, peer);
    link.event(Event::Network(network));
    link.run(Duration::ZERO);
    let view = |link: &Link| {
        let mut peers = link.core.peers(link.now).into_iter();
        peers
            .find(|peer| peer.remote.unwrap().is_ipv6())
            .unwrap()
            .bfd_up
    };
    let index = link.paths.iter().position(|path| path.remote.is_ipv6());
    let (_, first) = &link.sent[index.unwrap()];
    let init = Packet {
        state: State::Init,
        your_discriminator: first.my_discriminator.get(),
        ..*first
    };
    link.receive("[fe80::1%3]:49200", false, &init);
    assert_eq!(view(&link), Some(false), "another interface");
    link.receive("[fe80::1%2]:49200", false, &init);
    assert_eq!(view(&link), Some(true));
}

#[test]
fn settings_and_network_decide_which_sessions_there_are() {
    let mut link = Link::new("bfd: true");
    link.run(secs(5));
    link.establish();
    // A link that is down for a moment takes the peer from the tables: the session stays.
    link.event(Event::Network(Network {
        peers: std::collections::BTreeMap::new(),
        ..network()
    }));
    assert_eq!((link.bfd_up(), link.closed), (Some(true), 0));
    link.event(Event::Network(network()));
    // Another interval goes into the session there is, another port does not.
    link.core
        .reload(link.now, config_with("bfd: {interval: 500ms}", "", ""));
    link.event(Event::Network(network()));
    assert_eq!((link.bfd_up(), link.closed), (Some(true), 0));
    let (_, last) = link.sent.last().unwrap();
    assert!(last.poll && last.desired_min_tx == 500_000);
    link.core
        .reload(link.now, config_with("bfd: {multihop: true}", "", ""));
    link.event(Event::Network(network()));
    assert_eq!(link.closed, 1);
    let states: Vec<State> = link.sent.iter().map(|(_, packet)| packet.state).collect();
    assert!(states.contains(&State::AdminDown));
    // Switched off: BGP stays.
    link.core.reload(link.now, config_with("", "", ""));
    link.event(Event::Network(network()));
    assert_eq!((link.bfd_up(), link.closed), (None, 2));
    assert!(link.negotiated().is_some());
    // A peer that is given up takes its BFD along.
    link.core.reload(link.now, config_with("bfd: true", "", ""));
    link.event(Event::Network(network()));
    link.event(Event::Network(Network {
        peers: std::collections::BTreeMap::new(),
        ..network()
    }));
    link.run(secs(30));
    assert_eq!(link.closed, 3);
}

/// A link that is down takes the address with it that the identifier was made of; the sessions over
/// other links go on, and so they do when it is back.
#[test]
fn an_identifier_that_nobody_configured_stays_while_a_session_is_up() {
    let other = || Network {
        router_id: crate::net::RouterId::new([172, 17, 0, 1].into()),
        ..network()
    };
    let id = |link: &Link| link.core.peers(link.now)[0].router_id.unwrap().to_string();
    let mut link = Link::new("");
    link.establish();
    link.event(Event::Network(other()));
    assert!(link.negotiated().is_some(), "the session is lost");
    link.event(Event::Network(network()));
    assert!(link.negotiated().is_some());
    assert_eq!(id(&link), "10.0.0.2");
    // One that the operator chose counts at once.
    link.core
        .reload(link.now, config_with("router_id: 10.0.0.9", "", ""));
    link.event(Event::Network(network()));
    assert_eq!(
        (link.negotiated().is_some(), id(&link)),
        (false, "10.0.0.9".to_owned())
    );
}
