//! Each fault in one line with its next step, from facts that are written down here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::*;
use crate::app::Protocol;
use crate::bgp::peer::{DownReason, LikelyCause, StateName};
use crate::bgp::{Message, Notification, Open, OpenError, PathAttributes, ProtocolError};
use crate::config::{self, Config};
use crate::core::{AppState, Core, Event, NotAnnounced, NotAnnouncedReason, PathView, RouteView};
use crate::discovery::{Network, Obstacle, PeerName, PeerNetwork};
use crate::health::Outcome;
use crate::net::{Asn, Family, RouterId};
use crate::path_proof::{Finding, Proof, Refusal};

const YAML: &str = "
bgp: {local_as: 65001, peer_as: 65000, peer_ip: 10.0.0.1}
apps:
  - {name: dns, vip: 192.0.2.53/32, monitors: ['port:tcp:80'], nats: []}
";

fn config(yaml: &str) -> Config {
    let env = BTreeMap::from([("SIDECAST_CONFIG_YAML".to_owned(), yaml.to_owned())]);
    let mut nothing = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    config::load(None, &env, &mut nothing).unwrap().config
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// eth0 with 10.0.0.2, behind which is the peer 10.0.0.1.
fn network() -> Network {
    let peer = PeerNetwork::on_eth0(addr("10.0.0.1"), [10, 0, 0, 2].into());
    Network {
        peers: [(PeerName::new(addr("10.0.0.1"), None), peer)].into(),
        nat_target: [(Family::Ipv4, addr("10.0.0.2"))].into(),
        addresses: [addr("10.0.0.2"), addr("127.0.0.1")].into(),
        ..Network::default()
    }
}

/// Of a configuration alone.
fn case(yaml: &str) -> Case {
    let why = "nothing answers".to_owned();
    Case::of_config(&config(yaml), &network(), Announcer::NotFound(why))
}

/// As if the announcer ran, with its app up.
fn running(yaml: &str) -> Case {
    let mut case = case(yaml);
    case.announcer = Announcer::Runs;
    for app in &mut case.apps {
        app.state = Some((
            AppState::Up,
            Duration::from_secs(9),
            "all monitors pass".into(),
        ));
        for monitor in &mut app.monitors {
            monitor.outcome = Some(Outcome::pass());
        }
        for vip in &mut app.vips {
            vip.wanted = true;
            vip.routes.push(RouteView {
                peer: PeerName::new(addr("10.0.0.1"), None),
                attributes: PathAttributes::new(addr("10.0.0.2")),
                since: Duration::from_secs(9),
                acknowledged: true,
            });
        }
    }
    for peer in &mut case.peers {
        peer.session = Some(SessionCase {
            state: StateName::Established,
            since: Duration::from_secs(61),
            announced: 1,
            why: None,
            reason: None,
            refusal: None,
            cause: None,
        });
    }
    case
}

/// The TCP service on the wildcard address, and the VIP on lo.
fn findings() -> Findings {
    let port = (Protocol::Tcp, 80);
    Findings {
        listeners: [(port, [addr("0.0.0.0")].into())].into(),
        local: [(addr("192.0.2.53"), true)].into(),
        ..Findings::default()
    }
}

/// The lines of one topic, as `mark text -> next`.
fn lines_of(case: &Case, findings: &Findings, topic: Topic) -> Vec<String> {
    let report = Report::new(case, findings);
    let lines = report.lines().iter().filter(|line| line.topic == topic);
    lines
        .map(|line| match &line.next {
            Some(next) => format!("{} {} -> {next}", line.mark.sign(), line.text),
            None => format!("{} {}", line.mark.sign(), line.text),
        })
        .collect()
}

fn one(case: &Case, findings: &Findings, topic: Topic) -> String {
    let mut lines = lines_of(case, findings, topic);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

fn listening(protocol: Protocol, port: u16, addrs: &[&str]) -> Findings {
    let addrs: BTreeSet<IpAddr> = addrs.iter().map(|text| addr(text)).collect();
    Findings {
        listeners: [((protocol, port), addrs)].into(),
        ..findings()
    }
}

#[test]
fn every_fault_has_a_next_step_and_the_layers_are_in_order() {
    let bad = Findings {
        no_net_admin: Some("no CAP_NET_ADMIN: get it".to_owned()),
        no_sock_diag: Some("no module".to_owned()),
        consul: Some(Err("refused".to_owned())),
        ..Findings::default()
    };
    let consul = YAML.replace(
        "bgp:",
        "agent: {consul_addr: 'http://127.0.0.1:8500'}\nbgp:",
    );
    let mut broken = running(&consul);
    broken.reload_failed = true;
    broken.left_out = LeftOut { peers: 3, apps: 2 };
    for case in [case(YAML), running(YAML), broken] {
        for findings in [&findings(), &bad, &Findings::default()] {
            let report = Report::new(&case, findings);
            let topics: Vec<Topic> = report.lines().iter().map(|line| line.topic).collect();
            assert!(topics.is_sorted(), "{topics:?}");
            let faults = report
                .lines()
                .iter()
                .filter(|line| line.mark == Mark::Fault);
            for line in faults.clone() {
                assert!(
                    line.next.as_ref().is_some_and(|next| !next.is_empty()),
                    "{line:?}"
                );
            }
            let summary = report.summary();
            assert_eq!(summary.faults, faults.count());
            let json = report.to_json();
            assert_eq!(json["faults"], summary.faults);
            let lines = json["lines"].as_array().unwrap();
            assert_eq!(lines.len(), summary.faults + summary.unknown + summary.ok);
            for (shown, line) in lines.iter().zip(report.lines()) {
                assert_eq!(shown["mark"], line.mark.as_str());
                assert_eq!(shown["topic"], line.topic.as_str());
                assert_eq!(shown["text"], line.text.as_str());
                assert_eq!(shown["next"].as_str(), line.next.as_deref());
            }
        }
    }
}

#[test]
fn where_all_is_well_there_is_no_fault() {
    let summary = Report::new(&running(YAML), &findings()).summary();
    assert_eq!(summary.faults, 0);
    let unasked = Report::new(&case(YAML), &findings());
    assert_eq!(unasked.summary().faults, 0);
    let path = one(&case(YAML), &findings(), Topic::Path);
    assert_eq!(path, "? 192.0.2.53/32: nothing is announced");
}

#[test]
fn each_obstacle_has_a_way_past_it() {
    let name = || "eth0".to_owned();
    for (obstacle, next) in [
        (Obstacle::Unread, "wait"),
        (Obstacle::NoRouterId, "bgp.router_id"),
        (Obstacle::NoGateway, "bgp.peer_ip"),
        (Obstacle::NoRoute(addr("10.0.0.1")), "ip route get 10.0.0.1"),
        (Obstacle::NoInterface(name()), "create eth0"),
        (Obstacle::InterfaceDown(name()), "ip link set eth0 up"),
        (Obstacle::NoCarrier(name()), "cable"),
        (Obstacle::NoRouter(name()), "router advertisements"),
    ] {
        let mut case = running(YAML);
        case.peers[0].obstacle = Some(obstacle.clone());
        let line = one(&case, &findings(), Topic::Interface);
        assert!(
            line.starts_with(&format!("✗ 10.0.0.1: {obstacle} -> ")),
            "{line}"
        );
        assert!(line.contains(next), "{line}");
        let mut without_peer = case.clone();
        (without_peer.no_peer, without_peer.peers) = (Some(obstacle), Vec::new());
        let line = one(&without_peer, &findings(), Topic::Interface);
        assert!(
            line.starts_with("✗ no peer: ") && line.contains(next),
            "{line}"
        );
    }
}

#[test]
fn a_local_address_that_the_host_lacks_and_a_link_without_carrier_are_faults() {
    let mut case = running(YAML);
    case.peers[0].local = Some(addr("10.0.0.9"));
    let line = one(&case, &findings(), Topic::Interface);
    assert!(
        line.starts_with("✗ 10.0.0.1: 10.0.0.9 is no address of this host -> "),
        "{line}"
    );
    case.peers[0].no_carrier = true;
    let line = one(&case, &findings(), Topic::Interface);
    assert!(
        line.starts_with("✗ 10.0.0.1: eth0 has no carrier -> "),
        "{line}"
    );
}

#[test]
fn who_answers_at_the_peer_is_named() {
    let at: SocketAddr = "10.0.0.1:179".parse().unwrap();
    let tcp = |case: &Case, dialed: Dialed| {
        let findings = Findings {
            dialed: [(at, dialed)].into(),
            ..findings()
        };
        one(case, &findings, Topic::Tcp)
    };
    let case = case(YAML);
    let open = |asn| Dialed::Open {
        asn: Asn::new(asn).unwrap(),
        router_id: "10.0.0.1".parse().unwrap(),
    };
    let well = tcp(&case, open(65000));
    assert_eq!(
        well,
        "✓ 10.0.0.1: port 179: answers as AS 65000, router ID 10.0.0.1"
    );
    assert!(tcp(&case, open(65009)).contains("and bgp.peer_as is 65000 -> correct bgp.peer_as"));
    for (dialed, start) in [
        (Dialed::Refused, "✗ 10.0.0.1: port 179: connection refused"),
        (
            Dialed::TimedOut,
            "✗ 10.0.0.1: port 179: no answer to our SYN",
        ),
        (Dialed::Closed, "✗ 10.0.0.1: port 179: accepts and closes"),
        (
            Dialed::NotBgp,
            "✗ 10.0.0.1: port 179: what answers there is not BGP",
        ),
        (
            Dialed::Silent,
            "? 10.0.0.1: port 179: accepts, and waits for our OPEN",
        ),
        (
            Dialed::Failed("why".to_owned()),
            "✗ 10.0.0.1: port 179: why",
        ),
        (
            Dialed::Notification("Cease".to_owned()),
            "✗ 10.0.0.1: port 179: refuses us with NOTIFICATION Cease",
        ),
    ] {
        let line = tcp(&case, dialed);
        assert!(line.starts_with(start), "{line}");
    }
    assert_eq!(
        tcp(&running(YAML), Dialed::Refused),
        "✓ 10.0.0.1: connected"
    );
    let password = YAML.replace("peer_ip:", "password: s3cret, peer_ip:");
    let with_key = tcp(&self::case(&password), Dialed::TimedOut);
    assert!(
        with_key.contains("a wrong bgp.password (TCP MD5)"),
        "{with_key}"
    );
    assert!(!with_key.contains("s3cret"), "{with_key}");
}

#[test]
fn a_connection_is_tried_where_there_is_none_and_it_is_ours_to_open() {
    let mut case = running(YAML);
    let dials = |case: &Case| case.peers[0].to_dial().is_some();
    for (state, tries) in [
        (StateName::Idle, true),
        (StateName::Connect, true),
        (StateName::Active, true),
        (StateName::OpenSent, false),
        (StateName::OpenConfirm, false),
        (StateName::Established, false),
    ] {
        case.peers[0].session.as_mut().unwrap().state = state;
        assert_eq!(dials(&case), tries, "{state}");
    }
    let mut case = self::case(YAML);
    assert!(dials(&case));
    case.peers[0].passive = true;
    assert!(!dials(&case));
    let mut case = self::case(YAML);
    case.peers[0].obstacle = Some(Obstacle::NoGateway);
    assert!(!dials(&case));
}

#[test]
fn the_first_bytes_of_the_peer_show_who_it_is() {
    let asn = Asn::new(4_200_000_000).unwrap();
    let router_id = RouterId::new("10.0.0.9".parse().unwrap()).unwrap();
    let open = Open::new(asn, 90, router_id, Vec::new());
    let open = Message::Open(open).encode().unwrap();
    for end in 0..open.len() {
        assert_eq!(Dialed::read(&open[..end]), None, "{end}");
    }
    let router_id = router_id.addr();
    assert_eq!(Dialed::read(&open), Some(Dialed::Open { asn, router_id }));
    let refused = Notification::new(6, 5, Vec::new()).encode();
    let Some(Dialed::Notification(text)) = Dialed::read(&refused) else {
        panic!("no NOTIFICATION")
    };
    assert!(text.contains("Connection Rejected"), "{text}");
    for other in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"HTTP/1.1 400 Bad Request\r\n",
    ] {
        assert_eq!(Dialed::read(other), Some(Dialed::NotBgp));
    }
    let keepalive = Message::Keepalive.encode().unwrap();
    assert_eq!(Dialed::read(&keepalive), Some(Dialed::NotBgp));
    let mut invalid = open;
    invalid[19] = 3;
    assert!(matches!(Dialed::read(&invalid), Some(Dialed::Failed(why)) if why.contains("version")));
}

#[test]
fn another_speaker_is_a_fault_unless_it_may_be_the_announcer_itself() {
    let with = |program: &str| Findings {
        speakers: [(
            "10.0.0.1:179".parse().unwrap(),
            format!("{program} on this host has a session with it from 10.0.0.2"),
        )]
        .into(),
        ..findings()
    };
    let speaker = |case: &Case, findings: &Findings| one(case, findings, Topic::Speaker);
    let line = speaker(&running(YAML), &with("bird (process 7)"));
    let text = "✗ 10.0.0.1: bird (process 7) on this host has a session with it from 10.0.0.2 -> a router takes";
    assert!(line.starts_with(text), "{line}");
    assert!(speaker(&running(YAML), &with("sidecast (process 7)")).starts_with('✗'));
    // A sidecast whose API is off is no second speaker.
    let line = speaker(&case(YAML), &with("sidecast (process 7)"));
    assert!(line.starts_with('?') && line.ends_with("--addr"), "{line}");
    assert!(speaker(&running(YAML), &findings()).starts_with('✓'));
}

#[test]
fn a_session_that_is_down_names_its_cause_and_cure() {
    let notification = |code, subcode| {
        DownReason::NotificationReceived(Notification::new(code, subcode, Vec::new()))
    };
    let wrong_as = OpenError::BadPeerAs {
        got: 65000,
        expected: Asn::new(65009),
    };
    let closed = || DownReason::ConnectionLost("closed".to_owned());
    for (reason, refusal, cause, next) in [
        (notification(2, 2), None, None, "correct bgp.local_as"),
        (
            closed(),
            Some(notification(2, 2)),
            None,
            "correct bgp.local_as",
        ),
        (
            closed(),
            Some(DownReason::Error(ProtocolError::Open(wrong_as))),
            None,
            "correct bgp.peer_as",
        ),
        (
            closed(),
            None,
            Some(LikelyCause::UnknownNeighbor),
            "most likely it has no such neighbor",
        ),
        (
            notification(6, 1),
            None,
            Some(LikelyCause::PrefixLimit),
            "most likely it accepts fewer prefixes",
        ),
        (notification(6, 9), None, None, "look at the logs"),
        (
            DownReason::ConnectFailed("no".to_owned()),
            None,
            None,
            "see its line `tcp`",
        ),
        (
            DownReason::OpenOverdue,
            None,
            None,
            "look at the BGP daemon",
        ),
    ] {
        let mut case = running(YAML);
        let session = case.peers[0].session.as_mut().unwrap();
        session.state = StateName::Active;
        session.why = Some(reason.to_string());
        let before = refusal
            .as_ref()
            .map(|refusal| format!("; before that: {refusal}"));
        (session.reason, session.refusal, session.cause) = (Some(reason), refusal, cause);
        let line = one(&case, &findings(), Topic::Session);
        assert!(line.starts_with("✗ 10.0.0.1: active for 1m01s: "), "{line}");
        assert!(line.contains(&format!("-> {next}")), "{line}");
        assert!(line.contains(&before.unwrap_or_default()), "{line}");
    }
    let mut fresh = running(YAML);
    let session = fresh.peers[0].session.as_mut().unwrap();
    (session.state, session.since) = (StateName::Connect, Duration::ZERO);
    assert!(one(&fresh, &findings(), Topic::Session).starts_with("? "));
}

#[test]
fn a_strict_reverse_path_filter_is_a_fault_where_the_default_route_leaves_elsewhere() {
    let line = |mode: u8, defaults: &[&str]| {
        let mut case = running(YAML);
        case.defaults4 = defaults.iter().map(|name| (*name).to_owned()).collect();
        let findings = Findings {
            rp_filter: [("eth0".to_owned(), mode)].into(),
            ..findings()
        };
        one(&case, &findings, Topic::RpFilter)
    };
    assert_eq!(line(0, &[]), "✓ eth0: off (0)");
    assert_eq!(line(2, &["eth1"]), "✓ eth0: loose (2)");
    assert!(line(1, &["eth0", "eth1"]).starts_with("✓ eth0: strict"));
    assert!(
        line(1, &["eth1"]).starts_with("✗ eth0: strict (1), and the default route leaves by eth1")
    );
    assert!(line(1, &[]).starts_with("? eth0: strict (1), and there is no default route"));
    let unread = one(&running(YAML), &findings(), Topic::RpFilter);
    assert!(unread.starts_with("? eth0"), "{unread}");
}

#[test]
fn listeners_count_where_packets_come_to() {
    use Protocol::{Tcp, Udp};
    let udp = YAML.replace("port:tcp:80", "port:udp:53");
    let asked = udp.replace("'port:udp:53'", "'port:udp:53', 'dns:a.example@vip'");
    let nat = |yaml: &str, nat: &str| yaml.replace("nats: []", &format!("nats: ['{nat}']"));
    let v6 = YAML.replace("192.0.2.53/32", "'2001:db8::53/128'");
    for (yaml, protocol, port, addrs, mark) in [
        (YAML.to_owned(), Tcp, 80, &["0.0.0.0"][..], Mark::Ok),
        (YAML.to_owned(), Tcp, 80, &["::"], Mark::Ok),
        (YAML.to_owned(), Tcp, 80, &["192.0.2.53"], Mark::Ok),
        (YAML.to_owned(), Tcp, 80, &["127.0.0.1"], Mark::Fault),
        (
            YAML.to_owned(),
            Tcp,
            80,
            &["10.0.0.2", "127.0.0.1"],
            Mark::Fault,
        ),
        (YAML.to_owned(), Tcp, 80, &[], Mark::Fault),
        (v6.clone(), Tcp, 80, &["0.0.0.0"], Mark::Fault),
        (v6, Tcp, 80, &["::"], Mark::Ok),
        // What NAT redirects comes to this host's own address.
        (nat(YAML, "tcp:8080:80"), Tcp, 80, &["10.0.0.2"], Mark::Ok),
        (
            nat(YAML, "tcp:8080:80"),
            Tcp,
            80,
            &["192.0.2.53"],
            Mark::Fault,
        ),
        (udp.clone(), Udp, 53, &["0.0.0.0"], Mark::Unknown),
        (udp.clone(), Udp, 53, &["192.0.2.53"], Mark::Ok),
        (nat(&udp, "udp:53"), Udp, 53, &["0.0.0.0"], Mark::Ok),
        (asked, Udp, 53, &["0.0.0.0"], Mark::Ok),
    ] {
        let findings = listening(protocol, port, addrs);
        let lines = lines_of(&running(&yaml), &findings, Topic::Monitor);
        let first = lines.first().unwrap();
        assert!(first.starts_with(mark.sign()), "{yaml} {addrs:?}: {first}");
    }
}

#[test]
fn a_monitor_that_fails_says_why_and_one_whose_port_is_silent_says_that() {
    let http = YAML.replace("port:tcp:80", "http://127.0.0.1:80/");
    let mut case = running(&http);
    case.apps[0].monitors[0].outcome = Some(Outcome::fail("status 500"));
    let line = one(&case, &findings(), Topic::Monitor);
    assert!(
        line.starts_with("✗ dns: http_0: fail: status 500 -> repair the service"),
        "{line}"
    );
    let silent = one(&case, &listening(Protocol::Tcp, 80, &[]), Topic::Monitor);
    assert!(
        silent.starts_with("✗ dns: http_0: nothing listens on tcp port 80 -> "),
        "{silent}"
    );
    case.apps[0].monitors[0].outcome = Some(Outcome::unavailable("no threads"));
    let line = one(&case, &findings(), Topic::Monitor);
    assert!(line.contains("unavailable: no threads"), "{line}");
    let remote = running(&YAML.replace("port:tcp:80", "tcp:10.9.9.9:80"));
    assert!(remote.ports().is_empty(), "a port of another host");
    let exec = running(&YAML.replace("port:tcp:80", "exec:/bin/check --password=hunter2"));
    let line = one(&exec, &findings(), Topic::Monitor);
    assert_eq!(line, "✓ dns: exec_0: pass");
}

#[test]
fn a_vip_is_looked_for_on_the_host_and_asked_there() {
    let answers = |answer: Result<(), String>| Findings {
        answers: [("192.0.2.53:80".parse().unwrap(), answer)].into(),
        ..findings()
    };
    let case = running(YAML);
    let lines = lines_of(&case, &answers(Ok(())), Topic::Vip);
    assert!(
        lines.iter().all(|line| line.starts_with('✓')) && lines.len() == 2,
        "{lines:?}"
    );
    let lines = lines_of(&case, &answers(Err("refused".to_owned())), Topic::Vip);
    assert!(
        lines[1].starts_with("✗ 192.0.2.53/32 of dns: tcp port 80 does not answer"),
        "{lines:?}"
    );
    let gone = Findings {
        local: [(addr("192.0.2.53"), false)].into(),
        ..findings()
    };
    assert!(one(&case, &gone, Topic::Vip).starts_with("✗ 192.0.2.53/32 of dns: it is not on lo"));
    assert!(one(&self::case(YAML), &gone, Topic::Vip).contains("not on lo yet, sidecast adds it"));
    let elsewhere = YAML.replace("bgp:", "agent: {vip_interface: none}\nbgp:");
    for case in [running(&elsewhere), self::case(&elsewhere)] {
        let line = one(&case, &gone, Topic::Vip);
        assert!(
            line.contains("-> ip addr add 192.0.2.53/32 dev lo"),
            "{line}"
        );
        assert!(one(&case, &gone, Topic::Capability).starts_with('✓'));
    }
    let nat = YAML.replace("nats: []", "nats: ['tcp:8080:80', 'udp:80']");
    let asked: Vec<String> = running(&nat)
        .questions()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(asked, ["192.0.2.53:8080"]);
}

#[test]
fn routes_are_listed_peer_by_peer_with_their_next_hop() {
    let mut case = running(YAML);
    let route = |case: &Case| one(case, &findings(), Topic::Route);
    let well = "✓ 192.0.2.53/32 to 10.0.0.1: next hop 10.0.0.2, acknowledged by its TCP";
    assert_eq!(route(&case), well);
    let path = one(&case, &findings(), Topic::Path);
    assert!(path.starts_with("? 192.0.2.53/32 by 10.0.0.1: "), "{path}");
    let refusal = Refusal::of(addr("10.0.0.1"), 3, 0).unwrap();
    for (finding, returned, want) in [
        (Finding::Yes, 16, "✓ 192.0.2.53/32 by 10.0.0.1: yes (16/16)"),
        (
            Finding::No(refusal),
            0,
            "✗ 192.0.2.53/32 by 10.0.0.1: no (0/16: 10.0.0.1 says no route)",
        ),
        (
            Finding::NotSeen,
            0,
            "? 192.0.2.53/32 by 10.0.0.1: not seen (0/16, no answer)",
        ),
    ] {
        let vip = &mut case.apps[0].vips[0];
        vip.paths = vec![PathView {
            peer: vip.routes[0].peer.clone(),
            proof: Proof {
                finding,
                returned,
                probes: 16,
                first_hop: None,
                stretched: None,
                forwarded_after: None,
            },
        }];
        let path = one(&case, &findings(), Topic::Path);
        assert!(path.starts_with(want), "{path}");
    }
    let sent = &mut case.apps[0].vips[0].routes[0];
    sent.acknowledged = false;
    assert!(
        route(&case).contains("? 192.0.2.53/32 to 10.0.0.1: next hop 10.0.0.2, not acknowledged")
    );
    case.apps[0].vips[0].routes[0].attributes.next_hop = addr("10.7.7.7");
    assert!(route(&case).contains("10.7.7.7, which is no address of this host"));
    for (why, mark, next) in [
        (NotAnnouncedReason::NoSession, Mark::Fault, "`session`"),
        (
            NotAnnouncedReason::Family(Family::Ipv4),
            Mark::Fault,
            "ipv4 unicast",
        ),
        (NotAnnouncedReason::NextHop, Mark::Fault, "set next_hop"),
        (
            NotAnnouncedReason::NoSuchPeer,
            Mark::Fault,
            "`peers` of the app",
        ),
        (NotAnnouncedReason::NotYet, Mark::Unknown, ""),
    ] {
        let vip = &mut case.apps[0].vips[0];
        vip.routes.clear();
        let peer = PeerName::new(addr("10.0.0.1"), None);
        vip.lacking = vec![NotAnnounced { peer, why }];
        let line = route(&case);
        assert!(
            line.starts_with(mark.sign()) && line.to_lowercase().contains(next),
            "{line}"
        );
    }
    let vip = &mut case.apps[0].vips[0];
    vip.lacking.clear();
    assert!(route(&case).starts_with("✗ 192.0.2.53/32: announced to no peer"));
    case.apps[0].vips[0].wanted = false;
    assert_eq!(
        route(&case),
        "? 192.0.2.53/32: not announced, the app is up"
    );
}

#[test]
fn a_missing_capability_is_a_fault_of_a_running_sidecast_alone() {
    let findings = Findings {
        no_net_admin: Some("no CAP_NET_ADMIN, so nothing: give it".to_owned()),
        no_nat: Some("EPERM".to_owned()),
        ..findings()
    };
    let nat = YAML.replace("nats: []", "nats: ['tcp:80']");
    let line = one(&running(&nat), &findings, Topic::Capability);
    assert_eq!(line, "✗ no CAP_NET_ADMIN, so nothing -> give it");
    assert!(one(&case(&nat), &findings, Topic::Capability).starts_with("? this user"));
    let kernel = lines_of(&running(&nat), &findings, Topic::Kernel);
    assert_eq!(kernel[1], "? nf_tables: EPERM", "it follows from the other");
}

#[test]
fn consul_names_what_it_holds_against_the_node() {
    let yaml = YAML.replace(
        "bgp:",
        "agent: {consul_addr: 'http://127.0.0.1:8500'}\nbgp:",
    );
    let case = running(&yaml);
    let of = |consul| Findings {
        consul: Some(consul),
        ..findings()
    };
    let node = ConsulNode {
        name: "n1".to_owned(),
        services: 3,
        tagged: 1,
        failing: Vec::new(),
        complete: true,
    };
    let well = one(&case, &of(Ok(node.clone())), Topic::Consul);
    assert_eq!(
        well,
        "✓ node n1: answers; services: 3, with the tag enable_gocast: 1"
    );
    let away = one(&case, &of(Err("refused".to_owned())), Topic::Consul);
    assert!(
        away.starts_with("✗ http://127.0.0.1:8500: refused -> "),
        "{away}"
    );
    let sick = ConsulNode {
        tagged: 0,
        failing: vec!["Serf is critical".to_owned()],
        complete: false,
        ..node
    };
    let marks: Vec<char> = lines_of(&case, &of(Ok(sick)), Topic::Consul)
        .iter()
        .filter_map(|line| line.chars().next())
        .collect();
    assert_eq!(marks, ['?', '✗', '✗']);
    assert!(lines_of(&running(YAML), &findings(), Topic::Consul).is_empty());
}

#[test]
fn too_many_lines_of_a_layer_are_cut_the_worst_first() {
    let lines = (0..100).map(|number| match number % 10 {
        7 => Line::fault(Topic::Route, format!("{number}"), "repair it"),
        _ => Line::ok(Topic::Route, format!("{number}")),
    });
    let other = Line::ok(Topic::App, "one");
    let report = Report::of(lines.chain([other]).collect());
    let lines = report.lines();
    assert_eq!(lines[0].text, "one");
    assert_eq!(report.summary().faults, 10);
    assert!(lines[1..11].iter().all(|line| line.mark == Mark::Fault));
    let last = lines.last().unwrap();
    assert_eq!(
        (lines.len(), &*last.text),
        (42, "60 more lines are left out")
    );
}

#[test]
fn of_many_apps_the_worst_are_looked_at() {
    let app = |n: usize| {
        format!("- {{name: app{n:03}, vip: 192.0.2.{n}/32, monitors: ['port:tcp:{n}']}}\n")
    };
    let apps: String = (1..=200).map(app).collect();
    let yaml =
        format!("bgp: {{local_as: 65001, peer_as: 65000, peer_ip: 10.0.0.1}}\napps:\n{apps}");
    let start = Instant::now();
    let mut core = Core::new(config(&yaml), 1, start);
    core.handle_timeout(start);
    while let Some(output) = core.poll_output() {
        let crate::core::Output::Check { monitor, spec, .. } = output else {
            continue;
        };
        let outcome = match spec.to_string().as_str() {
            "port:tcp:150" => Outcome::NoListener("nothing listens".to_owned()),
            _ => Outcome::pass(),
        };
        let took = Duration::ZERO;
        core.handle(
            start,
            Event::Checked {
                monitor,
                outcome,
                took,
            },
        );
    }
    let case = Case::of_core(&core, start + Duration::from_secs(9), false);
    let states: Vec<_> = case
        .apps
        .iter()
        .map(|app| (app.name.as_str(), &app.state))
        .collect();
    assert_eq!(case.apps[0].name.as_str(), "app150", "{states:?}");
    assert_eq!((case.apps.len(), case.left_out.apps), (20, 180));
    let apps = lines_of(&case, &findings(), Topic::App);
    assert!(apps[0].starts_with("✗ app150: down"), "{apps:?}");
    assert!(
        apps[20].starts_with("? 180 more apps were not looked at"),
        "{apps:?}"
    );
}
