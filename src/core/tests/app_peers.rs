//! An app that is announced to some peers only.

use std::collections::BTreeMap;

use super::bench::{Bench, config, name, network, prefix, secs, session_events};
use crate::config::{Config, Remote};
use crate::core::{AppState, Core, Event, Predecessor, Refusal};
use crate::discovery::{Network, Obstacle, PeerName};
use crate::health::Outcome;
use crate::view::verdict::{Condition, Verdict};

const ONE: &str = "10.0.0.1";
const TWO: &str = "10.0.0.3";
const VIP: &str = "192.0.2.1/32";

fn peer(text: &str) -> PeerName {
    text.parse().unwrap()
}

/// Peers 10.0.0.1 and 10.0.0.3.
fn with_apps(apps: &str) -> Config {
    let mut read = |_: &std::path::Path| {
        Ok(format!(
            "agent: {{listen_addr: \"off\"}}\n\
             bgp: {{local_as: 65001, peer_as: 65000, peer_ip: [{ONE}, {TWO}]}}\napps: [{apps}]\n"
        ))
    };
    let loaded = crate::config::load(Some("f.yaml"), &BTreeMap::new(), &mut read);
    loaded.unwrap().config
}

/// An app that names `named`, and one that names none.
fn two_peers(named: &str) -> Config {
    with_apps(&format!(
        "{{name: a, vip: {VIP}, peers: [{named}]}}, {{name: b, vip: 192.0.2.2/32}}"
    ))
}

/// Peers that are discovered.
fn discovered(named: &str) -> Config {
    let mut config = config("", "");
    config.bgp.peers[0].remote = Remote::Gateway;
    let app = super::bench::app(&config, &[("name", "a"), ("vip", VIP), ("peers", named)]);
    config.apps.push(crate::app::App {
        source: crate::app::Source::Config,
        ..app
    });
    config
}

/// The network with both.
fn both(settings: [usize; 2]) -> Network {
    let mut network = network();
    let mut second = network.peers[&peer(ONE)].clone();
    second.remote = TWO.parse().unwrap();
    network.peers.insert(peer(TWO), second);
    for (peer, index) in network.peers.values_mut().zip(settings) {
        peer.settings_index = index;
    }
    network
}

fn bench(named: &str) -> Bench {
    let mut bench = Bench::new(two_peers(named));
    bench.event(Event::Network(both([0, 1])));
    bench
}

/// The peers that are to have a prefix.
fn wanted_by(bench: &Bench, vip: &str) -> Vec<String> {
    let vip = format!("{:?}", prefix(vip));
    let routes = bench.core.peers.routes().into_iter();
    let with = routes.filter(|(peer, routes)| peer != "all" && routes.contains(&vip));
    with.map(|(peer, _)| peer).collect()
}

fn establish(bench: &mut Bench) {
    for event in session_events() {
        bench.event(event);
    }
}

#[test]
fn a_route_is_for_the_peers_that_its_app_names() {
    for (named, peers) in [
        ("", vec![ONE, TWO]),
        ("10.0.0.1", vec![ONE]),
        ("10.0.0.3", vec![TWO]),
        ("10.0.0.3, 10.0.0.1", vec![ONE, TWO]),
    ] {
        let bench = bench(named);
        assert_eq!(wanted_by(&bench, VIP), peers, "{named}");
        assert_eq!(wanted_by(&bench, "192.0.2.2/32"), [ONE, TWO]);
    }
}

#[test]
fn a_reload_withdraws_from_a_peer_that_is_named_no_more_and_from_no_other() {
    let mut bench = bench("10.0.0.1, 10.0.0.3");
    bench.done();
    let changes = bench.core.reload(bench.now, two_peers("10.0.0.3"));
    bench.reconcile();
    assert_eq!(changes, ["app a: changed peers"]);
    assert_eq!(wanted_by(&bench, VIP), [TWO]);
    assert!(bench.done().is_empty(), "the kernel keeps what it has");
    bench.core.reload(bench.now, two_peers(""));
    bench.reconcile();
    assert_eq!(wanted_by(&bench, VIP), [ONE, TWO]);
}

/// The other peer has no session: that concerns the apps that are for it.
#[test]
fn only_the_peers_of_an_app_count_for_it() {
    let mut bench = bench(ONE);
    establish(&mut bench);
    bench.advance(secs(6));
    let verdict = |bench: &Bench| Verdict::of(&bench.core, bench.now, false);
    let of = |bench: &Bench, app: &str| {
        let status = bench.core.app_status(bench.now, &name(app)).unwrap();
        let vip = &status.vips[0];
        let lacking = vip.lacking.iter().map(|lack| lack.peer.to_string());
        (vip.announced_to, lacking.collect::<Vec<_>>())
    };
    assert_eq!(of(&bench, "a"), (1, vec![]));
    assert_eq!(of(&bench, "b"), (1, vec![TWO.to_owned()]));
    let of_apps = |bench: &Bench| {
        let verdict = verdict(bench);
        let reasons = verdict.reasons.into_iter();
        let reasons =
            reasons.filter_map(|reason| Some((reason.condition, reason.app?.to_string())));
        reasons.collect::<Vec<_>>()
    };
    assert_eq!(of_apps(&bench), [(Condition::SomePeers, "b".to_owned())]);
    bench.core.reload(bench.now, two_peers(TWO));
    bench.reconcile();
    bench.advance(secs(2));
    let not = (Condition::NotAnnounced, "a".to_owned());
    assert_eq!(
        of_apps(&bench),
        [not, (Condition::SomePeers, "b".to_owned())]
    );
    let line = verdict(&bench).line();
    assert!(
        line.contains("announced to no peer: peer 10.0.0.3"),
        "{line}"
    );
}

#[test]
fn http_and_a_reload_are_told_which_peer_is_none_of_ours() {
    let mut bench = bench("");
    let unknown = [
        ("name", "c"),
        ("vip", "192.0.2.3/32"),
        ("peers", "10.0.0.1,10.0.0.9"),
    ];
    let refusal = bench.register(&unknown).unwrap_err();
    let text = "peers: 10.0.0.9: is no peer of ours; those are 10.0.0.1, 10.0.0.3";
    assert_eq!(refusal, Refusal::Invalid(text.to_owned()));
    let ours = [("name", "c"), ("vip", "192.0.2.3/32"), ("peers", TWO)];
    bench.register(&ours).unwrap();
    assert_eq!(wanted_by(&bench, "192.0.2.3/32"), [TWO]);
    let mut without = two_peers("");
    without.bgp.peers.pop();
    let changes = bench.core.reload(bench.now, without);
    bench.event(Event::Network(network()));
    let gone = "app c: withdrawn: peers: 10.0.0.3: is no peer of ours; those are 10.0.0.1";
    assert!(changes.contains(&gone.to_owned()), "{changes:?}");
    assert_eq!(bench.app("c").state, AppState::Invalid);
    assert_eq!(wanted_by(&bench, "192.0.2.3/32"), Vec::<String>::new());
    bench.core.reload(bench.now, two_peers(""));
    bench.event(Event::Network(both([0, 1])));
    assert_eq!(
        wanted_by(&bench, "192.0.2.3/32"),
        [TWO],
        "it is permitted again"
    );
}

/// What will be discovered is unknown when the configuration is read.
#[test]
fn a_discovered_peer_counts_as_ours_while_it_is_there() {
    let mut bench = Bench::new(discovered(TWO));
    let why = bench.app("a").why;
    assert_eq!(bench.app("a").state, AppState::Invalid);
    assert!(
        why.contains("is only for 10.0.0.3, which is no peer of ours now"),
        "{why}"
    );
    let other = [
        ("name", "c"),
        ("vip", "192.0.2.3/32"),
        ("peers", "10.0.0.9"),
    ];
    let refusal = bench.register(&other).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "peers: 10.0.0.9: is no peer of ours now"
    );
    bench.event(Event::Network(both([0, 0])));
    assert_eq!(bench.app("a").state, AppState::Up);
    assert_eq!(wanted_by(&bench, VIP), [TWO]);
    // Its route is gone, and after a while so is the peer.
    let mut gone = network();
    gone.absent.insert(0, Obstacle::Unread);
    bench.event(Event::Network(gone));
    bench.advance(secs(9));
    assert_eq!(bench.app("a").state, AppState::Up);
    bench.advance(secs(2));
    assert_eq!(
        bench.app("a").state,
        AppState::Invalid,
        "{}",
        bench.app("a").why
    );
}

/// One of two discovered peers is missing: the other keeps the route, and the verdict names the one that lacks it.
#[test]
fn a_named_peer_that_is_not_discovered_is_lacking() {
    let mut bench = Bench::new(discovered("10.0.0.1,10.0.0.3"));
    establish(&mut bench);
    bench.advance(secs(6));
    let verdict = Verdict::of(&bench.core, bench.now, false);
    assert_eq!(
        verdict.line(),
        "degraded: 192.0.2.1/32 of app a is not announced to 10.0.0.3: the app names it, and it is no peer of \
         ours now"
    );
    assert!(verdict.conditions.contains(&Condition::SomePeers));
}

#[test]
fn a_drain_waits_for_the_peers_of_its_app_only() {
    for (named, app, waits_for) in [
        (ONE, "a", vec![ONE]),
        ("", "a", vec![ONE]),
        (TWO, "b", vec![ONE]),
        // It has no session, so there is no peer to wait for.
        (TWO, "a", vec![]),
    ] {
        let mut bench = bench(named);
        establish(&mut bench);
        bench.advance(secs(6));
        bench.core.drain(bench.now, Some(&name(app)));
        bench.reconcile();
        let awaited = bench.awaited.iter().flatten().map(ToString::to_string);
        assert_eq!(awaited.collect::<Vec<_>>(), waits_for, "{named:?} {app}");
        if waits_for.is_empty() {
            bench.advance(secs(3));
            assert!(bench.core.drained(Some(&name(app))));
        }
    }
}

/// RFC 4724 §4.2: a peer drops what it kept as stale at End-of-RIB, which waits for the apps that are for it.
#[test]
fn end_of_rib_waits_for_the_apps_of_the_peer() {
    let app = |peers: &str, monitor: &str| {
        format!("{{name: a, vip: {VIP}, peers: [{peers}], monitors: [\"{monitor}\"]}}")
    };
    for (apps, complete) in [
        (app(TWO, "port:tcp:1"), [true, false]),
        (app(ONE, "port:tcp:1"), [false, true]),
        (app("", "port:tcp:1"), [false, false]),
    ] {
        let mut bench = Bench::new(with_apps(""));
        let before = Some(Predecessor { forwarding: true });
        let core = Core::new(with_apps(&apps), 1, bench.now);
        bench.core = core.on_host(bench.now, None, before);
        bench.event(Event::Network(both([0, 1])));
        bench.advance(secs(1));
        let peers = [ONE, TWO].map(|name| bench.core.peers.is_complete_for(&peer(name)));
        assert_eq!(peers, complete, "{apps}");
        bench.answer_all(Outcome::pass());
        assert!(bench.core.peers.is_complete());
    }
}
