//! The verdict over made-up apps and peers.

use std::time::Duration;

use super::*;
use crate::core::{
    AppState, AppStatus, NotAnnounced, NotAnnouncedReason, PathView, Summary, VipStatus,
};
use crate::net::Family;
use crate::path_proof::{Proof, Refusal};
use crate::view::sample::{connecting, established};

const LONG: Duration = Duration::from_secs(60);

fn well() -> Circumstances {
    Circumstances {
        starting: false,
        no_peer: None,
        consul_lost: false,
        reload_failed: false,
        summary: Summary {
            apps: 1,
            up: 1,
            peers: 1,
            established: 1,
        },
    }
}

fn vip(prefix: &str, announced_to: usize) -> VipStatus {
    VipStatus {
        prefix: prefix.parse().unwrap(),
        wanted: true,
        probed: None,
        problem: None,
        announced_to,
        lacking: Vec::new(),
        unproven: Vec::new(),
    }
}

fn lacks(vip: VipStatus, peer: &PeerView, why: NotAnnouncedReason) -> VipStatus {
    let peer = peer.name.clone();
    let mut vip = vip;
    vip.lacking.push(NotAnnounced { peer, why });
    vip
}

fn app(state: AppState, vips: Vec<VipStatus>) -> AppStatus {
    AppStatus {
        name: "dns".parse().unwrap(),
        state,
        since: LONG,
        why: "its reason".to_owned(),
        vips,
        last_resort: None,
        leaving: false,
        monitored: true,
        hides_answers: false,
    }
}

const V4: &str = "192.0.2.53/32";
const V6: &str = "2001:db8::53/128";

/// The level and the conditions, as `failing: app_down`.
fn of(peers: &[PeerView], app: AppStatus) -> String {
    let verdict = Verdict::new(peers, [app], &well());
    let names = verdict.conditions.iter().map(|c| c.as_str());
    let names: Vec<&str> = names.collect();
    format!("{}: {}", verdict.level, names.join(" "))
}

#[test]
fn all_is_well_where_every_peer_has_every_vip() {
    let peers = [established()];
    let verdict = Verdict::new(&peers, [app(AppState::Up, vec![vip(V4, 1)])], &well());
    assert_eq!(
        verdict.line(),
        "ok: 1 of 1 apps up, 1 of 1 sessions established"
    );
    assert!(verdict.is_ok() && verdict.again_in.is_none());
    let empty = Verdict::new(&peers, [], &well());
    assert!(empty.is_ok(), "nothing is wanted");
}

#[test]
fn each_state_of_an_app_has_its_verdict() {
    let peers = [established()];
    let silent = || VipStatus {
        wanted: false,
        ..vip(V4, 0)
    };
    for (state, want) in [
        (AppState::Up, "ok: "),
        (AppState::Down, "failing: app_down"),
        (AppState::Invalid, "failing: app_invalid"),
        (AppState::Pending, "degraded: app_pending"),
        (AppState::HeldDown, "degraded: held_down"),
        (AppState::Draining, "ok: "),
        (AppState::Drained, "ok: "),
        (AppState::Maintenance, "ok: "),
    ] {
        assert_eq!(of(&peers, app(state, vec![silent()])), want);
    }
    let young = AppStatus {
        since: Duration::from_secs(4),
        ..app(AppState::Pending, vec![silent()])
    };
    let verdict = Verdict::new(&peers, [young], &well());
    assert!(verdict.is_ok());
    assert_eq!(verdict.again_in, Some(Duration::from_secs(1)));
}

#[test]
fn a_last_resort_is_failing_and_no_other_reason_hides_it() {
    let peers = [established()];
    for state in [AppState::Down, AppState::HeldDown] {
        let sick = AppStatus {
            last_resort: Some(Duration::from_secs(7)),
            ..app(state, vec![vip(V4, 1)])
        };
        assert_eq!(of(&peers, sick.clone()), "failing: last_resort");
        let line = Verdict::new(&peers, [sick], &well()).line();
        let want = "failing: app dns is announced as last resort for 7s: its reason";
        assert_eq!(line, want);
    }
    let drained = AppStatus {
        last_resort: Some(LONG),
        leaving: true,
        ..app(AppState::Draining, vec![vip(V4, 1)])
    };
    assert_eq!(of(&peers, drained), "ok: ");
}

#[test]
fn a_last_resort_that_no_peer_has_is_not_called_announced() {
    let sick = AppStatus {
        last_resort: Some(Duration::from_secs(7)),
        ..app(AppState::Down, vec![vip(V4, 0)])
    };
    let verdict = Verdict::new(&[], [sick], &well());
    let texts: Vec<&str> = verdict.reasons.iter().map(|r| r.text.as_str()).collect();
    assert!(
        texts[0].contains("of app dns is announced to no peer"),
        "{texts:?}"
    );
    assert_eq!(
        texts[1],
        "app dns is down, and no peer has it as last resort: its reason"
    );
}

#[test]
fn a_vip_that_waits_for_its_own_monitors_beside_an_announced_one_is_failing() {
    let peers = [established()];
    let waits = |time, problem: &str| VipStatus {
        probed: Some(time),
        problem: Some(problem.to_owned()),
        ..vip(V6, 0)
    };
    let both = |other| app(AppState::Up, vec![vip(V4, 1), other]);
    let verdict = Verdict::new(&peers, [both(waits(LONG, "refused"))], &well());
    let want = "failing: 2001:db8::53/128 of app dns is announced to no peer: refused";
    assert_eq!(verdict.line(), want, "{:?}", verdict.reasons);
    let verdict = Verdict::new(&peers, [both(waits(Duration::from_secs(2), "x"))], &well());
    assert!(verdict.is_ok(), "its check has time to pass");
    assert_eq!(verdict.again_in, Some(Duration::from_secs(3)));
    let waiting = VipStatus {
        wanted: false,
        ..waits(LONG, "refused")
    };
    let pending = app(AppState::Pending, vec![waiting]);
    let line = Verdict::new(&peers, [pending], &well()).line();
    assert!(line.ends_with(": refused"), "{line}");
}

#[test]
fn what_is_taken_out_on_purpose_is_named_and_is_no_fault() {
    let peers = [established()];
    let invalid = AppStatus {
        leaving: true,
        ..app(AppState::Invalid, vec![])
    };
    assert_eq!(of(&peers, invalid), "ok: ", "it is not desired");
    let apps = [
        app(AppState::Drained, vec![]),
        app(AppState::Maintenance, vec![]),
    ];
    let line = Verdict::new(&peers, apps, &well()).line();
    let want = "ok: 1 of 1 apps up, 1 of 1 sessions established; drained: dns; in maintenance: dns";
    assert_eq!(line, want);
}

#[test]
fn a_vip_that_no_peer_has_is_failing_and_says_what_keeps_it() {
    let down = connecting();
    let alone = lacks(vip(V4, 0), &down, NotAnnouncedReason::NoSession);
    let verdict = Verdict::new(&[down], [app(AppState::Up, vec![alone])], &well());
    assert_eq!(verdict.level, Level::Failing);
    let want = "failing: 192.0.2.53/32 of app dns is announced to no peer: peer fe80::1%eth0: \
                active: connection refused (and 1 more)";
    assert_eq!(verdict.line(), want);
    let conditions: Vec<Condition> = verdict.conditions.into_iter().collect();
    assert_eq!(conditions, [Condition::NotAnnounced, Condition::PeerDown]);
    // A step in the kernel that fails.
    let failing = VipStatus {
        problem: Some("no buffer space".to_owned()),
        ..lacks(vip(V4, 0), &established(), NotAnnouncedReason::NotYet)
    };
    let verdict = Verdict::new(
        &[established()],
        [app(AppState::Up, vec![failing])],
        &well(),
    );
    assert!(
        verdict.line().contains("to no peer: no buffer space"),
        "{}",
        verdict.line()
    );
}

#[test]
fn what_has_just_come_up_is_given_a_moment() {
    let peer = established();
    let fresh = AppStatus {
        since: Duration::from_millis(300),
        ..app(
            AppState::Up,
            vec![lacks(vip(V4, 0), &peer, NotAnnouncedReason::NotYet)],
        )
    };
    let verdict = Verdict::new(&[peer], [fresh], &well());
    assert!(verdict.is_ok());
    assert_eq!(verdict.again_in, Some(Duration::from_millis(700)));
}

#[test]
fn two_families_of_which_the_session_carries_one_are_degraded() {
    let peer = established();
    let six = |announced_to| {
        lacks(
            vip(V6, announced_to),
            &peer,
            NotAnnouncedReason::Family(Family::Ipv6),
        )
    };
    let peers = [established()];
    let both = app(AppState::Up, vec![vip(V4, 1), six(0)]);
    assert_eq!(of(&peers, both.clone()), "degraded: family");
    let line = Verdict::new(&peers, [both], &well()).line();
    let want = "degraded: 2001:db8::53/128 of app dns is not announced to 10.0.0.1: the session does \
                not carry ipv6";
    assert_eq!(line, want);
    let alone = app(AppState::Up, vec![six(0)]);
    assert_eq!(of(&peers, alone), "failing: not_announced family");
}

#[test]
fn some_peers_are_not_all() {
    let down = connecting();
    let some = lacks(vip(V4, 1), &down, NotAnnouncedReason::NoSession);
    let report = of(&[established(), down], app(AppState::Up, vec![some]));
    assert_eq!(report, "degraded: peer_down some_peers");
}

/// Probes of a VIP to this peer are lost.
fn lost(vip: VipStatus, peer: &PeerView, finding: Finding) -> VipStatus {
    let mut vip = vip;
    vip.unproven.push(PathView {
        peer: peer.name.clone(),
        proof: Proof {
            finding,
            returned: 0,
            probes: 16,
            first_hop: None,
            stretched: None,
            forwarded_after: None,
        },
    });
    vip
}

#[test]
fn a_router_that_does_not_forward_is_failing_where_no_other_does_and_silence_is_a_warning() {
    let refusal = Refusal::of("10.0.0.1".parse().unwrap(), 3, 0).unwrap();
    let up = |vip| app(AppState::Up, vec![vip]);
    let peers = [established()];
    let no = |announced_to| lost(vip(V4, announced_to), &peers[0], Finding::No(refusal));
    assert_eq!(of(&peers, up(no(1))), "failing: path_no");
    assert_eq!(of(&peers, up(no(2))), "degraded: path_no");
    let line = Verdict::new(&peers, [up(no(1))], &well()).line();
    let want = "failing: peer 10.0.0.1 does not forward 192.0.2.53/32 of app dns: no (0/16: 10.0.0.1 \
                says no route)";
    assert_eq!(line, want);
    let silent = up(lost(vip(V4, 1), &peers[0], Finding::NotSeen));
    let verdict = Verdict::new(&peers, [silent], &well());
    assert!(verdict.is_ok());
    let want = "path not seen: no probe comes back, and no router says why: dns";
    assert_eq!(verdict.warnings, [want]);
}

#[test]
fn an_invalid_vip_beside_one_that_is_announced_is_not_the_whole_app() {
    let blocked = |problem: &str| VipStatus {
        wanted: false,
        problem: Some(problem.to_owned()),
        ..vip(V6, 0)
    };
    let peers = [established()];
    let partly = app(AppState::Invalid, vec![vip(V4, 1), blocked("one reason")]);
    let verdict = Verdict::new(&peers, [partly], &well());
    assert_eq!(verdict.line(), "degraded: app dns: one reason");
    let wholly = app(AppState::Invalid, vec![blocked("one"), blocked("another")]);
    let verdict = Verdict::new(&peers, [wholly], &well());
    let texts: Vec<&str> = verdict.reasons.iter().map(|r| r.text.as_str()).collect();
    assert_eq!(texts, ["app dns: another", "app dns: one"]);
    assert_eq!(verdict.level, Level::Failing);
}

#[test]
fn peers_carrier_consul_and_reload_are_degraded() {
    let none = Circumstances {
        no_peer: Some("no default gateway, and no peer_ip is set".to_owned()),
        ..well()
    };
    let line = Verdict::new(&[], [], &none).line();
    assert_eq!(
        line,
        "degraded: no peer: no default gateway, and no peer_ip is set"
    );
    let unplugged = PeerView {
        no_carrier: true,
        ..established()
    };
    let line = Verdict::new(&[unplugged], [], &well()).line();
    assert_eq!(line, "degraded: peer 10.0.0.1: eth0 has no carrier");
    for (obstacle, condition, says) in [
        (
            Obstacle::InterfaceDown("eth0".to_owned()),
            Condition::NoCarrier,
            "eth0 is down",
        ),
        (
            Obstacle::NoRoute([10, 0, 0, 1].into()),
            Condition::PeerDown,
            "no route to 10.0.0.1",
        ),
    ] {
        let unreachable = PeerView {
            unreachable: Some(obstacle),
            unanswered: Some(Duration::from_secs(7)),
            ..established()
        };
        let verdict = Verdict::new(&[unreachable], [], &well());
        assert_eq!(verdict.line(), format!("degraded: peer 10.0.0.1: {says}"));
        assert_eq!(verdict.conditions, [condition].into());
    }
    let silent = |seconds| PeerView {
        unanswered: Some(Duration::from_secs(seconds)),
        ..established()
    };
    let waits = Verdict::new(&[silent(1)], [], &well());
    assert!(waits.is_ok());
    assert_eq!(waits.again_in, Some(Duration::from_secs(2)));
    let line = Verdict::new(&[silent(7)], [], &well()).line();
    assert_eq!(
        line,
        "degraded: peer 10.0.0.1: has acknowledged nothing for 7s"
    );
    let both = Circumstances {
        consul_lost: true,
        reload_failed: true,
        ..well()
    };
    let verdict = Verdict::new(&[established()], [], &both);
    let conditions: Vec<&str> = verdict.conditions.iter().map(|c| c.as_str()).collect();
    assert_eq!(conditions, ["consul", "reload"]);
}

#[test]
fn a_start_is_a_start_whatever_is_wrong_and_a_warning_changes_nothing() {
    let starting = Circumstances {
        starting: true,
        ..well()
    };
    let verdict = Verdict::new(&[connecting()], [app(AppState::Down, vec![])], &starting);
    assert_eq!(verdict.level, Level::Starting);
    assert!(verdict.again_in.is_some());
    let unmonitored = AppStatus {
        monitored: false,
        ..app(AppState::Up, vec![vip(V4, 1)])
    };
    let verdict = Verdict::new(&[established()], [unmonitored], &well());
    assert!(verdict.is_ok());
    assert_eq!(verdict.warnings, ["announced without any monitor: dns"]);
    let hiding = AppStatus {
        hides_answers: true,
        ..app(AppState::Up, vec![vip(V4, 1)])
    };
    let verdict = Verdict::new(&[established()], [hiding], &well());
    assert!(verdict.is_ok());
    assert_eq!(
        verdict.warnings,
        ["a wildcard UDP service without a `vip` monitor: dns"]
    );
}

#[test]
fn many_reasons_are_counted_and_the_first_are_named() {
    let apps = (0..1000).map(|_| app(AppState::Down, vec![]));
    let verdict = Verdict::new(&[established()], apps, &well());
    assert_eq!((verdict.reasons.len(), verdict.count), (MOST_REASONS, 1000));
    assert!(
        verdict.line().ends_with("(and 999 more)"),
        "{}",
        verdict.line()
    );
}
