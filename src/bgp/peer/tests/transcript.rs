//! One machine and its transcript on a time axis; each test claims a paragraph of RFC 4271 §8.2.2 or of
//! an RFC that changes it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::sim::describe;
use crate::bgp::peer::{ConnId, Event, LikelyCause, Notice, Output, Peer, PeerConfig, StateName};
use crate::bgp::reader::{Decoded, decode};
use crate::bgp::{
    Capability, Cease, DecodeContext, Framer, GracefulRestart, MAX_LEN, Message, Negotiated,
    Notification, Open, PathAttributes, RefreshKind, RouteRefresh, end_of_rib,
};
use crate::net::{Asn, Family, Prefix, RouterId};

/// A state machine whose peer is a script.
struct Script {
    peer: Peer,
    start: Instant,
    now: Instant,
    negotiated: Option<Negotiated>,
    /// The machine's last OPEN.
    open: Option<Open>,
}

const FIRST: ConnId = ConnId::outgoing(1);
const OURS: u8 = 5;
const ADDR: &str = "192.0.2.1:179";

fn config() -> PeerConfig {
    let router_id = RouterId::new(Ipv4Addr::new(10, 0, 0, OURS)).unwrap();
    let mut config = PeerConfig::new(Asn::new(65001).unwrap(), Asn::new(65002), router_id);
    config.connect_retry = Duration::from_secs(5);
    config
}

fn open_with(id: u8, hold_time: u16, capabilities: Vec<Capability>) -> Message {
    let router_id = RouterId::new(Ipv4Addr::new(10, 0, 0, id)).unwrap();
    let asn = Asn::new(65002).unwrap();
    Message::Open(Open::new(asn, hold_time, router_id, capabilities))
}

fn open(id: u8) -> Message {
    let both = Family::ALL.map(|family| Capability::Multiprotocol(family.into()));
    let mut capabilities = both.to_vec();
    capabilities.push(Capability::EnhancedRouteRefresh);
    open_with(id, 90, capabilities)
}

fn notification(code: u8, subcode: u8) -> Message {
    Message::Notification(Notification::new(code, subcode, Vec::new()))
}

fn routes(numbers: impl IntoIterator<Item = u8>, med: u32) -> BTreeMap<Prefix, PathAttributes> {
    let mut attributes = PathAttributes::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, OURS)));
    attributes.med = Some(med);
    let prefix = |number| Prefix::host(Ipv4Addr::new(192, 0, 2, number).into());
    let numbers = numbers.into_iter();
    numbers.map(|n| (prefix(n), attributes.clone())).collect()
}

impl Script {
    fn new(config: PeerConfig) -> Self {
        let now = Instant::now();
        Self {
            peer: Peer::new(config, 1),
            start: now,
            now,
            negotiated: None,
            open: None,
        }
    }

    /// Started, and the first attempt answered.
    fn connected(config: PeerConfig) -> Self {
        let mut script = Self::new(config);
        script.event(Event::Start);
        script.connect(FIRST);
        script
    }

    fn established(config: PeerConfig) -> Self {
        let mut script = Self::connected(config);
        script.receive(FIRST, &open(9));
        script.receive(FIRST, &Message::Keepalive);
        assert_eq!(script.peer.state(), StateName::Established);
        script
    }

    fn connect(&mut self, conn: ConnId) -> Vec<String> {
        let addr: SocketAddr = ADDR.parse().unwrap();
        let (local, remote) = (addr, addr);
        self.event(Event::Connected {
            conn,
            local,
            remote,
        })
    }

    fn accept(&mut self, number: u64) -> Vec<String> {
        let addr: SocketAddr = ADDR.parse().unwrap();
        self.event(Event::Accepted {
            conn: ConnId::accepted(number),
            local: addr,
            remote: addr,
        })
    }

    fn receive(&mut self, conn: ConnId, message: &Message) -> Vec<String> {
        let bytes = message.encode().unwrap();
        self.bytes(conn, &bytes)
    }

    fn bytes(&mut self, conn: ConnId, bytes: &[u8]) -> Vec<String> {
        let bytes = bytes.to_vec();
        self.event(Event::Received { conn, bytes })
    }

    fn fail(&mut self, conn: ConnId) -> Vec<String> {
        let error = "connection refused".to_owned();
        self.event(Event::ConnectFailed { conn, error })
    }

    fn event(&mut self, event: Event) -> Vec<String> {
        self.peer.handle(self.now, event);
        self.outputs()
    }

    fn advertise(&mut self, routes: BTreeMap<Prefix, PathAttributes>) -> Vec<String> {
        self.peer.advertise(self.now, routes);
        self.outputs()
    }

    /// Lets time pass up to `millis` after the start; what was done on the way, with its time in
    /// seconds.
    fn until(&mut self, millis: u64) -> Vec<String> {
        let until = self.start + Duration::from_millis(millis);
        let mut all = Vec::new();
        while let Some((at, _)) = self.peer.poll_timeout()
            && at <= until
        {
            assert!(at >= self.now, "a deadline in the past");
            self.now = at;
            self.peer.handle_timeout(at);
            let seconds = (at - self.start).as_secs();
            let outputs = self.outputs();
            all.extend(
                outputs
                    .into_iter()
                    .map(|output| format!("{seconds}: {output}")),
            );
        }
        self.now = until;
        all
    }

    fn last_error(&self) -> Option<String> {
        self.peer.last_error().map(ToString::to_string)
    }

    fn outputs(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(output) = self.peer.poll_output() {
            match output {
                Output::Connect { conn } => all.push(format!("connect {conn}")),
                Output::Close { conn } => all.push(format!("close {conn}")),
                Output::Reset { conn } => all.push(format!("reset {conn}")),
                Output::Probe { conn } => all.push(format!("probe {conn}")),
                Output::StateChanged { from, to } => all.push(format!("{from} -> {to}")),
                Output::Down { reason } => all.push(format!("down: {reason}")),
                Output::SetUserTimeout { .. }
                | Output::Notice(_)
                | Output::MessageReceived(_)
                | Output::MessageSent(_) => {}
                Output::Established { negotiated, .. } => {
                    self.negotiated = Some(negotiated);
                    all.push("up".to_owned());
                }
                Output::Send { conn, bytes } => {
                    let report = self.read(&bytes);
                    all.extend(report.into_iter().map(|what| format!("{conn} {what}")));
                    let bytes = bytes.len();
                    self.peer.handle(self.now, Event::Sent { conn, bytes });
                }
            }
        }
        all
    }

    fn read(&mut self, bytes: &[u8]) -> Vec<String> {
        let before = DecodeContext::before_open(Asn::new(65002).unwrap(), config().router_id, None);
        let mut context = self
            .negotiated
            .as_ref()
            .map_or(before, DecodeContext::established);
        context.local_router_id = RouterId::new(Ipv4Addr::new(10, 9, 9, 9)).unwrap();
        let mut framer = Framer::new();
        framer.push(bytes);
        let mut report = Vec::new();
        while let Some(frame) = framer.next(MAX_LEN).unwrap() {
            // The bytes are decoded as by the peer: any AS is accepted.
            context.peer_as = None;
            let message = decode(&frame, &context).unwrap();
            report.push(describe(&message));
            if let Decoded::Open(open) = message {
                self.open = Some(open);
            }
        }
        assert_eq!(framer.buffered(), 0, "half a message");
        report
    }
}

fn seconds(seconds: u64) -> u64 {
    seconds * 1000
}

// Idle

#[test]
fn in_idle_incoming_connections_are_refused_and_all_but_a_start_is_ignored() {
    let mut script = Script::new(config());
    assert_eq!(script.accept(1), ["close #1 (accepted)"]);
    assert!(script.event(Event::RetryNow).is_empty());
    assert!(script.event(Event::BfdDown).is_empty());
    assert!(script.fail(FIRST).is_empty());
    assert_eq!(script.peer.poll_timeout(), None);
}

#[test]
fn a_manual_start_connects_and_goes_to_connect() {
    let mut script = Script::new(config());
    assert_eq!(
        script.event(Event::Start),
        ["connect #1", "idle -> connect"]
    );
    assert!(
        script.event(Event::Start).is_empty(),
        "ignored from then on"
    );
}

#[test]
fn a_manual_start_with_passive_establishment_listens_in_active() {
    let mut config = config();
    config.passive = true;
    let mut script = Script::new(config);
    assert_eq!(script.event(Event::Start), ["idle -> active"]);
    assert!(script.until(seconds(1000)).is_empty(), "and never connects");
    let accepted = script.accept(1);
    assert_eq!(accepted, ["#1 (accepted) OPEN 65001", "active -> opensent"]);
}

// Connect, Active

#[test]
fn an_expired_connect_retry_timer_in_connect_drops_the_attempt_and_makes_another() {
    let mut script = Script::new(config());
    script.event(Event::Start);
    assert_eq!(script.until(1500), ["1: close #1", "1: connect #2"]);
    assert!(script.connect(FIRST).is_empty(), "too late");
}

#[test]
fn a_failed_attempt_goes_to_active_and_is_repeated_soon() {
    let mut script = Script::new(config());
    script.event(Event::Start);
    assert_eq!(script.fail(FIRST), ["connect -> active"]);
    assert!(script.until(140).is_empty());
    assert_eq!(script.until(200), ["0: connect #2", "0: active -> connect"]);
    assert_eq!(script.last_error().as_deref(), Some("connection refused"));
}

#[test]
fn a_link_that_comes_up_ends_the_wait_but_not_more_than_five_times_a_second() {
    let mut script = Script::new(config());
    script.event(Event::Start);
    script.until(10);
    script.fail(FIRST);
    script.until(30);
    assert!(
        script.event(Event::RetryNow).is_empty(),
        "an attempt was just made"
    );
    script.until(200);
    script.fail(ConnId::outgoing(2));
    script.until(600);
    script.fail(ConnId::outgoing(3));
    script.now += Duration::from_secs(20);
    assert_eq!(script.event(Event::RetryNow).len(), 2);
}

#[test]
fn a_connection_in_connect_sends_open_and_sets_a_hold_timer_of_four_minutes() {
    let mut script = Script::new(config());
    script.event(Event::Start);
    assert_eq!(
        script.connect(FIRST),
        ["#1 OPEN 65001", "connect -> opensent"]
    );
    assert!(script.until(seconds(239)).is_empty());
    assert_eq!(
        script.until(seconds(240)),
        [
            "240: #1 NOTIFICATION 4/0",
            "240: close #1",
            "240: opensent -> idle",
            "240: idle -> active"
        ]
    );
}

#[test]
fn a_peer_that_sends_no_open_is_reported_and_dropped_when_the_network_changes() {
    let mut script = Script::connected(config());
    script.until(seconds(9));
    assert!(
        script.event(Event::RetryNow).is_empty(),
        "its OPEN may be on the way"
    );
    assert_eq!(script.last_error(), None);
    assert!(script.until(seconds(11)).is_empty());
    let why = script.last_error().unwrap();
    assert!(why.contains("sends no OPEN"), "{why}");
    assert_eq!(
        script.event(Event::RetryNow),
        [
            "close #1",
            "opensent -> idle",
            "idle -> active",
            "connect #2",
            "active -> connect"
        ]
    );
    // Incoming connections are accepted meanwhile.
    script.connect(ConnId::outgoing(2));
    script.until(seconds(30));
    script.accept(1);
    let conn = ConnId::accepted(1);
    script.receive(conn, &open(9));
    assert!(
        script.event(Event::RetryNow).is_empty(),
        "one of them speaks"
    );
    script.receive(conn, &Message::Keepalive);
    assert_eq!(script.peer.state(), StateName::Established);
    assert_eq!(script.last_error(), None);
}

#[test]
fn a_passive_end_drops_a_peer_that_sends_no_open_and_listens() {
    let mut config = config();
    config.passive = true;
    let mut script = Script::new(config);
    script.event(Event::Start);
    script.accept(1);
    script.until(seconds(11));
    let left = script.event(Event::RetryNow);
    assert_eq!(left.last().unwrap(), "idle -> active", "{left:?}");
    assert_eq!(script.accept(2)[1], "active -> opensent");
}

/// RFC 8654 §4: a speaker that did not offer extended messages may send them to one that did.
#[test]
fn a_long_message_is_taken_from_a_peer_that_takes_none() {
    let mut script = Script::established(config());
    assert!(!script.peer.negotiated().unwrap().extended_message);
    // An unknown optional attribute of 5000 bytes, and nothing else.
    let attribute = [&[0xd0, 99, 0x13, 0x88][..], &[0; 5000]].concat();
    let length = u16::try_from(19 + 4 + attribute.len())
        .unwrap()
        .to_be_bytes();
    let attributes = u16::try_from(attribute.len()).unwrap().to_be_bytes();
    let update = [
        &[0xff; 16][..],
        &length,
        &[2, 0, 0],
        &attributes,
        &attribute,
    ]
    .concat();
    let results = script.event(Event::Received {
        conn: FIRST,
        bytes: update,
    });
    assert_eq!(results, [""; 0]);
    assert_eq!(script.peer.counters().received.update, 1);
}

#[test]
fn a_manual_stop_says_why_and_goes_to_idle_from_every_state() {
    let admin_down = || Notification::cease(Cease::AdministrativeShutdown, Some("bye"));
    let mut script = Script::new(config());
    script.event(Event::Start);
    assert_eq!(
        script.event(Event::Stop(admin_down())),
        ["close #1", "connect -> idle"]
    );
    let mut script = Script::connected(config());
    let stopped = script.event(Event::Stop(admin_down()));
    assert_eq!(
        stopped,
        ["#1 NOTIFICATION 6/2", "close #1", "opensent -> idle"]
    );
    let mut script = Script::established(config());
    assert_eq!(
        script.event(Event::Stop(admin_down())),
        [
            "#1 NOTIFICATION 6/2",
            "close #1",
            "established -> idle",
            "down: stopped"
        ]
    );
    assert_eq!(script.peer.poll_timeout(), None);
    assert_eq!(script.peer.flaps(), 0);
}

#[test]
fn a_stop_for_a_restart_sends_no_notification() {
    let mut script = Script::established(config());
    let stopped = script.event(Event::StopForRestart);
    assert_eq!(
        stopped,
        ["close #1", "established -> idle", "down: stopped"]
    );
}

// OpenSent

#[test]
fn a_valid_open_is_answered_with_keepalive_and_leads_to_openconfirm() {
    let mut script = Script::connected(config());
    let results = script.receive(FIRST, &open(9));
    assert_eq!(results, ["#1 KEEPALIVE", "opensent -> openconfirm"]);
    let after = script.until(seconds(89));
    assert!(
        after.iter().all(|what| what.ends_with("KEEPALIVE")),
        "{after:?}"
    );
    assert_eq!(script.until(seconds(90))[0], "90: #1 NOTIFICATION 4/0");
}

#[test]
fn a_lost_connection_in_opensent_goes_to_active() {
    let mut script = Script::connected(config());
    let reason = "reset".to_owned();
    let closed = script.event(Event::Closed {
        conn: FIRST,
        reason,
    });
    assert_eq!(closed, ["opensent -> active"]);
}

#[test]
fn an_open_of_another_as_is_refused_with_bad_peer_as() {
    let mut script = Script::connected(config());
    let router_id = RouterId::new(Ipv4Addr::new(10, 0, 0, 9)).unwrap();
    let theirs = Open::new(Asn::new(65009).unwrap(), 90, router_id, Vec::new());
    let results = script.receive(FIRST, &Message::Open(theirs));
    assert_eq!(results[..2], ["#1 NOTIFICATION 2/2", "close #1"]);
}

#[test]
fn messages_out_of_place_are_fsm_errors_that_name_the_state() {
    let update = end_of_rib(Family::Ipv4);
    let mut faulty_open = open(9).encode().unwrap();
    // Version 3.
    faulty_open[19] = 3;
    let mut faulty_update = update.clone();
    // Withdrawn routes that pass the end.
    faulty_update[20] = 9;
    let mut script = Script::connected(config());
    assert_eq!(
        script.receive(FIRST, &Message::Keepalive)[0],
        "#1 NOTIFICATION 5/1"
    );
    let mut script = Script::connected(config());
    script.receive(FIRST, &open(9));
    assert_eq!(script.bytes(FIRST, &update)[0], "#1 NOTIFICATION 5/2");
    let mut script = Script::established(config());
    assert_eq!(script.receive(FIRST, &open(9))[0], "#1 NOTIFICATION 5/3");
    // Faulty or not: §8.2.2 has event 22 up to OpenConfirm, and 28 from Established on.
    let mut script = Script::established(config());
    let results = script.bytes(FIRST, &faulty_open);
    assert_eq!(results[0], "#1 NOTIFICATION 5/3");
    let mut script = Script::connected(config());
    let results = script.bytes(FIRST, &faulty_update);
    assert_eq!(results[0], "#1 NOTIFICATION 5/1");
    let mut script = Script::connected(config());
    script.receive(FIRST, &open(9));
    let results = script.bytes(FIRST, &faulty_open);
    assert_eq!(results[0], "#1 NOTIFICATION 2/1");
}

#[test]
fn a_notification_is_never_answered() {
    for message in [
        notification(2, 2),
        notification(5, 1),
        notification(200, 200),
    ] {
        let mut script = Script::connected(config());
        let results = script.receive(FIRST, &message);
        assert_eq!(results, ["close #1", "opensent -> idle", "idle -> active"]);
    }
}

#[test]
fn a_bad_header_is_answered_and_what_follows_it_is_dropped() {
    let mut script = Script::established(config());
    let bytes = vec![0; 4096];
    let results = script.event(Event::Received { conn: FIRST, bytes });
    assert_eq!(results[..2], ["#1 NOTIFICATION 1/1", "close #1"]);
    assert_eq!(
        results[2..4],
        [
            "established -> idle",
            "down: message marker is not all ones"
        ]
    );
}

#[test]
fn what_a_peer_does_not_support_is_not_offered_to_it_again() {
    let mut script = Script::connected(config());
    assert!(!script.open.as_ref().unwrap().capabilities.is_empty());
    script.receive(FIRST, &notification(2, 4));
    script.until(300);
    script.connect(ConnId::outgoing(2));
    assert_eq!(script.open.as_ref().unwrap().capabilities, []);
    script.receive(ConnId::outgoing(2), &open_with(9, 90, Vec::new()));
    script.receive(ConnId::outgoing(2), &Message::Keepalive);
    let families = &script.peer.negotiated().unwrap().families;
    assert_eq!(families.iter().collect::<Vec<_>>(), [&Family::Ipv4]);
    // The next session begins with everything again.
    script.receive(ConnId::outgoing(2), &notification(6, 6));
    script.until(600);
    script.connect(ConnId::outgoing(3));
    assert!(!script.open.as_ref().unwrap().capabilities.is_empty());
}

#[test]
fn a_named_capability_alone_is_left_out() {
    let mut script = Script::connected(config());
    let data = vec![70, 0];
    let refusal = Message::Notification(Notification::new(2, 7, data));
    script.receive(FIRST, &open(9));
    script.receive(FIRST, &refusal);
    script.until(300);
    script.connect(ConnId::outgoing(2));
    let open = script.open.as_ref().unwrap();
    assert!(!open.has_capability(&Capability::EnhancedRouteRefresh));
    assert!(open.has_capability(&Capability::RouteRefresh));
}

// OpenConfirm, Established

#[test]
fn a_keepalive_in_openconfirm_establishes_and_end_of_rib_follows_the_routes() {
    let mut script = Script::connected(config());
    script.advertise(routes([1], 0));
    script.receive(FIRST, &open(9));
    assert_eq!(
        script.receive(FIRST, &Message::Keepalive),
        [
            "openconfirm -> established",
            "up",
            "#1 UPDATE +192.0.2.1/32",
            "#1 UPDATE End-of-RIB ipv4",
            "#1 UPDATE End-of-RIB ipv6"
        ]
    );
}

#[test]
fn a_silent_peer_and_one_that_stops_in_a_message_are_dropped_after_the_hold_time() {
    let mut script = Script::established(config());
    script.until(seconds(60));
    let half = Message::Keepalive.encode().unwrap()[..18].to_vec();
    script.event(Event::Received {
        conn: FIRST,
        bytes: half,
    });
    let end = script.until(seconds(90));
    let tail = &end[end.len() - 5..];
    assert_eq!(
        tail,
        [
            "90: #1 NOTIFICATION 4/0",
            "90: close #1",
            "90: established -> idle",
            "90: down: hold timer expired",
            "90: idle -> active"
        ]
    );
}

#[test]
fn keepalives_and_updates_restart_the_hold_timer() {
    let mut script = Script::established(config());
    script.until(seconds(80));
    script.receive(FIRST, &Message::Keepalive);
    script.until(seconds(160));
    script.bytes(FIRST, &end_of_rib(Family::Ipv4));
    script.until(seconds(249));
    assert_eq!(script.peer.state(), StateName::Established);
    script.until(seconds(251));
    assert_ne!(script.peer.state(), StateName::Established);
}

/// RFC 4271 §10: between 75 and 100 % of the KEEPALIVE time, 30 s here.
#[test]
fn a_keepalive_joins_another_wake_within_its_jitter() {
    let mut script = Script::established(config());
    let wake = |script: &mut Script, millis| {
        script.now = script.start + Duration::from_millis(millis);
        script.peer.handle_timeout(script.now);
        script.outputs()
    };
    assert_eq!(wake(&mut script, 22_400), [""; 0]);
    assert_eq!(wake(&mut script, 22_500), ["#1 KEEPALIVE"]);
    assert_eq!(wake(&mut script, 44_900), [""; 0]);
    assert_eq!(wake(&mut script, 46_000), ["#1 KEEPALIVE"]);
    // Without another wake it has a deadline of its own.
    let (at, _) = script.peer.poll_timeout().expect("a deadline");
    let after = at - script.now;
    assert!(after > Duration::from_millis(28_000), "{after:?}");
    assert!(after <= Duration::from_secs(30), "{after:?}");
    script.receive(FIRST, &Message::Keepalive);
    assert_eq!(script.until(seconds(76)).len(), 1);
}

#[test]
fn bfd_takes_the_session_down_at_once() {
    let mut script = Script::established(config());
    assert_eq!(script.event(Event::BfdDown)[0], "#1 NOTIFICATION 6/10");
    assert_eq!(script.peer.flaps(), 1);
}

#[test]
fn a_peer_that_reads_nothing_is_dropped_without_notification_after_eight_minutes() {
    let mut script = Script::established(config());
    script.peer.advertise(script.now, routes([1], 0));
    while script.peer.poll_output().is_some() {}
    // From here on no bytes are reported as sent; the peer still sends KEEPALIVEs.
    for minute in 1..8 {
        script.now = script.start + Duration::from_secs(60 * minute);
        script.peer.handle_timeout(script.now);
        let bytes = Message::Keepalive.encode().unwrap();
        script
            .peer
            .handle(script.now, Event::Received { conn: FIRST, bytes });
        assert_eq!(script.peer.state(), StateName::Established);
    }
    while script.peer.poll_output().is_some() {}
    script.now = script.start + Duration::from_secs(480);
    script.peer.handle_timeout(script.now);
    let expected = [
        "#1 KEEPALIVE",
        "close #1",
        "established -> idle",
        "down: send hold timer expired",
        "idle -> active",
    ];
    assert_eq!(script.outputs(), expected);
}

// Two connections (§6.8)

#[test]
fn a_second_connection_beside_an_established_one_is_closed_with_cease() {
    let mut script = Script::established(config());
    let accepted = script.accept(1);
    assert_eq!(
        accepted,
        ["#1 (accepted) NOTIFICATION 6/7", "close #1 (accepted)"]
    );
    assert_eq!(script.peer.state(), StateName::Established);
}

/// Both connections are up; their OPENs come in this order; the connection that must be closed.
fn collision(peer_id: u8, ours_connects_first: bool, ours_opens_first: bool) -> Vec<String> {
    let mut script = Script::new(config());
    script.event(Event::Start);
    if ours_connects_first {
        script.connect(FIRST);
        script.accept(1);
    } else {
        script.accept(1);
        script.connect(FIRST);
    }
    let mut order = [FIRST, ConnId::accepted(1)];
    if !ours_opens_first {
        order.reverse();
    }
    let mut all = script.receive(order[0], &open(peer_id));
    all.extend(script.receive(order[1], &open(peer_id)));
    assert_eq!(script.peer.state(), StateName::OpenConfirm);
    assert_eq!(script.peer.connections.len(), 1);
    all.retain(|what| what.starts_with("close") || what.contains("NOTIFICATION"));
    all
}

#[test]
fn a_collision_is_resolved_by_identifier_in_all_four_orders() {
    for ours_connects_first in [true, false] {
        for ours_opens_first in [true, false] {
            let lost = collision(9, ours_connects_first, ours_opens_first);
            assert_eq!(lost, ["#1 NOTIFICATION 6/7", "close #1"]);
            let lost = collision(1, ours_connects_first, ours_opens_first);
            assert_eq!(
                lost,
                ["#1 (accepted) NOTIFICATION 6/7", "close #1 (accepted)"]
            );
            // RFC 6286: equal ones, the peer's AS number is larger.
            let lost = collision(OURS, ours_connects_first, ours_opens_first);
            assert_eq!(lost, ["#1 NOTIFICATION 6/7", "close #1"]);
        }
    }
}

// Retries of a peer that accepts connections and ends them

#[test]
fn a_peer_that_sends_cease_is_retried_in_growing_steps() {
    for subcode in [1, 2, 3, 4, 5, 7, 8] {
        let mut script = Script::connected(config());
        let mut conn = FIRST;
        let mut waits = Vec::new();
        for _ in 0..5 {
            let results = script.receive(conn, &notification(6, subcode));
            assert_eq!(
                results.last().unwrap(),
                "opensent -> idle",
                "cease {subcode}"
            );
            let (at, _) = script.peer.poll_timeout().unwrap();
            waits.push((at - script.now).as_millis());
            script.until(u64::try_from((at - script.start).as_millis()).unwrap() + 1);
            conn = ConnId::outgoing(conn.number() + 1);
            script.connect(conn);
        }
        let expected = [
            150..=200,
            750..=1000,
            3750..=5000,
            7500..=10_000,
            15_000..=20_000,
        ];
        for (wait, range) in waits.iter().zip(expected) {
            assert!(range.contains(wait), "{waits:?}");
        }
    }
}

#[test]
fn a_peer_that_sent_cease_and_connects_itself_is_accepted() {
    let mut script = Script::connected(config());
    script.receive(FIRST, &notification(6, 5));
    let accepted = script.accept(1);
    assert_eq!(accepted, ["#1 (accepted) OPEN 65001", "idle -> opensent"]);
}

#[test]
fn a_session_that_dies_young_does_not_make_a_tight_loop() {
    let mut script = Script::new(config());
    script.event(Event::Start);
    let mut sessions = 0;
    let mut conn = FIRST;
    while script.now < script.start + Duration::from_secs(60) {
        script.connect(conn);
        script.receive(conn, &open(9));
        script.receive(conn, &Message::Keepalive);
        script.receive(conn, &notification(3, 1));
        sessions += 1;
        let (at, _) = script.peer.poll_timeout().unwrap();
        script.until(u64::try_from((at - script.start).as_millis()).unwrap() + 1);
        conn = ConnId::outgoing(conn.number() + 1);
    }
    assert!((5..=7).contains(&sessions), "{sessions}");
}

/// Docker adds and removes bridges all the time; these changes must not end the wait.
#[test]
fn only_a_change_on_the_path_ends_the_wait_for_a_peer_that_refuses_us() {
    let mut script = Script::connected(config());
    for number in 2..6 {
        script.receive(ConnId::outgoing(number - 1), &notification(6, 5));
        let (at, _) = script.peer.poll_timeout().unwrap();
        script.until(u64::try_from((at - script.start).as_millis()).unwrap() + 1);
        script.connect(ConnId::outgoing(number));
    }
    script.receive(ConnId::outgoing(5), &notification(6, 5));
    script.now += Duration::from_secs(1);
    assert!(script.event(Event::NetworkChanged).is_empty());
    let changed = script.event(Event::PathChanged);
    assert_eq!(changed, ["connect #6", "idle -> connect"]);
    script.connect(ConnId::outgoing(6));
    script.receive(ConnId::outgoing(6), &notification(6, 5));
    let (at, _) = script.peer.poll_timeout().unwrap();
    assert!(
        at - script.now <= Duration::from_millis(200),
        "it starts anew"
    );
}

/// BFD has ended the session, and the stopped daemon still has the old connection when our next one arrives.
#[test]
fn a_router_that_was_stopped_and_continues_is_retried_at_once() {
    let mut script = Script::established(config());
    script.until(seconds(5));
    script.event(Event::BfdDown);
    let again = script.until(5200);
    assert_eq!(again.last().unwrap(), "5: active -> connect", "{again:?}");
    script.connect(ConnId::outgoing(2));
    script.until(7000);
    script.receive(ConnId::outgoing(2), &notification(6, 7));
    let again = script.until(7200);
    assert_eq!(again, ["7: connect #3", "7: idle -> connect"]);
    script.connect(ConnId::outgoing(3));
    script.receive(ConnId::outgoing(3), &notification(6, 7));
    assert!(script.until(7700).is_empty(), "the second refusal is one");
    assert_eq!(script.until(8200).len(), 2);
}

// The path

#[test]
fn a_lost_carrier_ends_no_session_and_delays_what_is_sent() {
    let mut script = Script::established(config());
    assert!(script.event(Event::NoCarrier).is_empty());
    script.advertise(routes([1], 0));
    assert!(script.until(seconds(60)).is_empty());
    assert_eq!(
        script.event(Event::PathChanged),
        ["#1 KEEPALIVE", "probe #1", "#1 UPDATE +192.0.2.1/32"]
    );
    script.until(seconds(60) + 300);
    assert!(script.event(Event::Acknowledged { conn: FIRST }).is_empty());
    script.receive(FIRST, &Message::Keepalive);
    let after = script.until(seconds(140));
    assert!(after.iter().all(|what| what.ends_with("KEEPALIVE")));
    assert_eq!(script.peer.flaps(), 0);
}

#[test]
fn the_hold_timer_runs_on_without_carrier() {
    let mut script = Script::established(config());
    script.event(Event::NoCarrier);
    let end = script.until(seconds(200));
    assert_eq!(end[0], "90: #1 NOTIFICATION 4/0");
    assert_eq!(end.last().unwrap(), "90: idle -> active", "no attempt");
    let back = script.event(Event::PathChanged);
    assert_eq!(back, ["connect #2", "active -> connect"]);
}

#[test]
fn a_probe_without_an_answer_resets_the_session_and_connects_anew() {
    let mut script = Script::established(config());
    script.event(Event::NoCarrier);
    script.until(seconds(20));
    script.event(Event::PathChanged);
    assert!(script.until(seconds(20) + 399).is_empty());
    let end = script.until(seconds(20) + 400);
    assert_eq!(
        end[0], "20: reset #1",
        "no Cease: a helper keeps the routes"
    );
    assert_eq!(end[3..], ["20: connect #2", "20: idle -> connect"]);
}

#[test]
fn a_probe_answered_by_a_reset_connects_at_once() {
    let mut script = Script::established(config());
    script.until(seconds(2));
    script.event(Event::PathChanged);
    let reason = "connection reset".to_owned();
    let end = script.event(Event::Closed {
        conn: FIRST,
        reason,
    });
    assert_eq!(end[2..], ["connect #2", "idle -> connect"]);
    // A router that has just started may refuse us once, until its daemon has seen the link.
    script.connect(ConnId::outgoing(2));
    script.receive(ConnId::outgoing(2), &notification(6, 5));
    assert_eq!(script.until(2200).len(), 2, "the first step");
}

/// BIRD sends its NOTIFICATION when its link goes down, and we receive it once the link is back.
#[test]
fn a_notification_received_during_a_probe_is_no_refusal() {
    let mut script = Script::established(config());
    script.until(seconds(2));
    script.event(Event::PathChanged);
    script.receive(FIRST, &notification(6, 0));
    assert_eq!(script.until(2200).len(), 2);
    script.connect(ConnId::outgoing(2));
    script.receive(ConnId::outgoing(2), &notification(6, 5));
    assert_eq!(script.until(2400).len(), 2, "the first step");
}

/// The carrier is lost during a probe: the peer could not answer.
#[test]
fn a_probe_ends_when_the_carrier_goes_again() {
    let mut script = Script::established(config());
    script.event(Event::PathChanged);
    script.until(200);
    script.event(Event::NoCarrier);
    assert!(script.until(seconds(20)).is_empty());
    assert_eq!(script.peer.state(), StateName::Established);
}

#[test]
fn without_carrier_no_attempt_is_made_and_its_return_connects_at_once() {
    let mut script = Script::new(config());
    script.event(Event::Start);
    script.until(300);
    assert_eq!(
        script.event(Event::NoCarrier),
        ["close #1", "connect -> active"]
    );
    assert!(script.event(Event::RetryNow).is_empty());
    assert!(script.until(seconds(100)).is_empty());
    assert_eq!(script.last_error().as_deref(), Some("no carrier"));
    let back = script.event(Event::PathChanged);
    assert_eq!(back, ["connect #2", "active -> connect"]);
    // Nor does a start without carrier.
    let mut script = Script::new(config());
    script.event(Event::NoCarrier);
    assert_eq!(script.event(Event::Start), ["idle -> active"]);
    assert_eq!(script.event(Event::PathChanged)[0], "connect #1");
}

#[test]
fn a_session_whose_address_is_gone_is_reset() {
    let mut script = Script::established(config());
    script.until(seconds(20));
    let end = script.event(Event::LocalAddressGone);
    assert_eq!(end[0], "reset #1");
    assert_eq!(end[3..], ["connect #2", "idle -> connect"]);
}

// Routes

#[test]
fn differences_alone_are_sent_and_withdrawals_come_first() {
    let mut script = Script::established(config());
    script.advertise(routes([1, 2], 0));
    assert!(script.advertise(routes([1, 2], 0)).is_empty());
    assert_eq!(
        script.advertise(routes([2, 3], 0)),
        ["#1 UPDATE -192.0.2.1/32", "#1 UPDATE +192.0.2.3/32"]
    );
    assert_eq!(
        script.advertise(routes([2, 3], 9)),
        ["#1 UPDATE +192.0.2.2/32 +192.0.2.3/32"]
    );
    let all = [1, 2, 3].map(|n| {
        script
            .peer
            .is_announced(&Prefix::host(Ipv4Addr::new(192, 0, 2, n).into()))
    });
    assert_eq!(all, [false, true, true]);
}

#[test]
fn a_refresh_is_answered_between_its_markers() {
    let mut script = Script::established(config());
    script.advertise(routes([1], 0));
    let family = Family::Ipv4.into();
    let kind = RefreshKind::Request;
    let request = Message::RouteRefresh(RouteRefresh { family, kind });
    let again = [
        "#1 ROUTE-REFRESH Begin ipv4 unicast",
        "#1 UPDATE +192.0.2.1/32",
        "#1 ROUTE-REFRESH End ipv4 unicast",
    ];
    assert_eq!(script.receive(FIRST, &request), again);
}

#[test]
fn forwarding_is_preserved_only_where_it_was() {
    let flag = |restarting, forwarding_preserved| {
        let mut config = config();
        config.graceful_restart = 120;
        (config.restarting, config.forwarding_preserved) = (restarting, forwarding_preserved);
        let script = Script::connected(config);
        let open = script.open.unwrap();
        let mut capabilities = open.capabilities.into_iter();
        let restart = capabilities.find_map(|c| match c {
            Capability::GracefulRestart(restart) => Some(restart),
            _ => None,
        });
        restart
            .unwrap()
            .families
            .iter()
            .all(|family| family.forwarding)
    };
    assert!(flag(true, true));
    assert!(!flag(true, false), "its NAT rules went with the process");
    assert!(!flag(false, true), "there was no restart");
}

#[test]
fn attempts_without_an_answer_name_the_password_where_there_is_one() {
    for has_md5_key in [true, false] {
        let mut config = config();
        config.has_md5_key = has_md5_key;
        let mut script = Script::new(config);
        script.event(Event::Start);
        script.until(2500);
        assert_eq!(script.last_error(), None, "some patience");
        script.until(3500);
        let error = script.last_error().unwrap();
        assert!(error.starts_with("no answer"), "{error}");
        let wrong = error.contains("a wrong TCP MD5 password looks like this");
        assert_eq!(wrong, has_md5_key, "{error}");
        script.connect(ConnId::outgoing(4));
        script.receive(ConnId::outgoing(4), &open(9));
        script.receive(ConnId::outgoing(4), &Message::Keepalive);
        assert_eq!(script.last_error(), None);
    }
}

#[test]
fn after_a_planned_restart_end_of_rib_waits_for_the_first_routes() {
    let mut config = config();
    config.graceful_restart = 120;
    config.restarting = true;
    let restarted = |script: &Script| {
        let open = script.open.as_ref().unwrap();
        let mut capabilities = open.capabilities.iter();
        capabilities.any(|c| {
            matches!(
                c,
                Capability::GracefulRestart(GracefulRestart {
                    restarted: true,
                    ..
                })
            )
        })
    };
    let mut script = Script::connected(config);
    assert!(restarted(&script));
    script.receive(FIRST, &open(9));
    let up = script.receive(FIRST, &Message::Keepalive);
    assert_eq!(up, ["openconfirm -> established", "up"]);
    script.peer.advertise_some(script.now, routes([1], 0));
    assert_eq!(script.outputs(), ["#1 UPDATE +192.0.2.1/32"], "not all yet");
    let whole = script.advertise(routes([1, 2], 0));
    assert_eq!(whole.len(), 3, "the other, and End-of-RIB twice: {whole:?}");
    script.receive(FIRST, &notification(6, 6));
    script.until(300);
    script.connect(ConnId::outgoing(2));
    assert!(!restarted(&script), "only the first session says so");
}

// Received routes

#[test]
fn a_malformed_attribute_does_not_end_the_session() {
    let mut script = Script::established(config());
    let attributes = [
        &[0x40, 1, 1, 9][..],
        &[0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xea],
        &[0x40, 3, 4, 10, 0, 0, 9],
    ]
    .concat();
    let length = u8::try_from(attributes.len()).unwrap();
    let body = [&[0, 0, 0, length][..], &attributes, &[32, 192, 0, 2, 77]].concat();
    let total = u8::try_from(19 + body.len()).unwrap();
    let bytes = [&[0xff; 16][..], &[0, total, 2], &body].concat();
    for _ in 0..3 {
        let bytes = bytes.clone();
        assert!(
            script
                .event(Event::Received { conn: FIRST, bytes })
                .is_empty()
        );
    }
    assert_eq!(script.peer.counters().received.update, 3);
    assert_eq!(script.peer.state(), StateName::Established);
}

#[test]
fn the_same_bytes_in_any_pieces_lead_to_the_same_session() {
    for size in [1, 2, 7, 19, 4096] {
        let mut script = Script::connected(config());
        let mut stream = open(9).encode().unwrap();
        stream.extend(Message::Keepalive.encode().unwrap());
        for piece in stream.chunks(size) {
            let bytes = piece.to_vec();
            script.event(Event::Received { conn: FIRST, bytes });
        }
        assert_eq!(script.peer.state(), StateName::Established, "{size}");
    }
}

/// FRR 8.4 answers an OPEN on a connection to its loopback address with 5/0.
#[test]
fn a_refusal_on_a_loopback_address_is_named_as_frrs() {
    let cause = |remote: &str, answer: &[Message]| {
        let mut script = Script::new(config());
        script.event(Event::Start);
        let remote: SocketAddr = remote.parse().unwrap();
        let event = Event::Connected {
            conn: FIRST,
            local: remote,
            remote,
        };
        script.peer.handle(script.now, event);
        for message in answer {
            let bytes = message.encode().unwrap();
            let event = Event::Received { conn: FIRST, bytes };
            script.peer.handle(script.now, event);
        }
        let outputs = std::iter::from_fn(|| script.peer.poll_output());
        let mut causes = outputs.filter_map(|output| match output {
            Output::Notice(Notice::LikelyCause { cause, .. }) => Some(cause),
            _ => None,
        });
        causes.next()
    };
    let frrs = Some(LikelyCause::LoopbackRefused);
    assert_eq!(cause("127.0.0.1:179", &[notification(5, 0)]), frrs);
    assert_eq!(cause("[::1]:179", &[notification(5, 0)]), frrs);
    assert_eq!(cause("10.0.0.1:179", &[notification(5, 0)]), None);
    assert_eq!(cause("127.0.0.1:179", &[notification(5, 1)]), None);
    assert_eq!(cause("127.0.0.1:179", &[open(9), notification(5, 0)]), None);
}

#[test]
fn the_oldest_unacknowledged_send_stays_known_whatever_is_sent_after_it() {
    let mut script = Script::established(config());
    script.peer.note_acknowledged(FIRST, u64::MAX);
    assert_eq!(script.peer.unacknowledged_since(), None);
    let silent_since = script.now;
    for med in 0..100 {
        script.advertise(routes([1], med));
        script.now += Duration::from_millis(10);
    }
    assert_eq!(script.peer.unacknowledged_since(), Some(silent_since));
    script.peer.note_acknowledged(FIRST, u64::MAX);
    assert_eq!(script.peer.unacknowledged_since(), None);
}
