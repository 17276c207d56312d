//! The history of peers and of apps that are added and removed.

use super::bench::{Bench, config, name, network, secs, session_events};
use crate::bgp::peer::{ConnId, Event as Bgp};
use crate::core::{ChangeOf, Event};
use crate::discovery::PeerName;

const APP: &str = "{name: dns, vip: 192.0.2.53/32, monitors: [\"port:udp:53\"]}";

/// All of it as lines, the apps' states left out.
fn lines(bench: &Bench) -> Vec<String> {
    let line = |event: &crate::core::HistoryEvent| {
        let change = &event.change;
        let of = match &change.of {
            ChangeOf::App(app) => app.to_string(),
            ChangeOf::Peer(peer) => peer.to_string(),
        };
        let kind = change.kind.as_str();
        format!(
            "{kind} {of}: {} -> {}: {}",
            change.from, change.to, change.why
        )
    };
    let lines = bench.core.events().map(line);
    lines.filter(|line| !line.starts_with("state ")).collect()
}

#[test]
fn sessions_carriers_and_registrations_are_in_order_with_their_reasons() {
    let mut bench = Bench::with_outcomes(config("", APP), &[("port:udp:53", true)]);
    session_events()
        .into_iter()
        .for_each(|event| bench.event(event));
    let mut cut = network();
    cut.peers.values_mut().for_each(|peer| peer.carrier = false);
    bench.event(Event::Network(cut));
    bench.event(Event::Network(network()));
    // Cease, Administrative Shutdown, with a text (RFC 9003).
    let mut bytes = vec![0xff; 16];
    bytes.extend([0, 26, 3, 6, 2, 4]);
    bytes.extend(b"move");
    bench.event(Event::Bgp {
        peer: PeerName::new("10.0.0.1".parse().unwrap(), None),
        event: Bgp::Received {
            conn: ConnId::accepted(1),
            bytes,
        },
    });
    bench.advance(secs(1));
    bench
        .register(&[("name", "web"), ("vip", "192.0.2.80/32")])
        .unwrap();
    bench.core.unregister(bench.now, &name("web"));
    assert_eq!(
        lines(&bench),
        [
            "registration dns: unregistered -> pending: by config",
            "session 10.0.0.1: down -> established: AS 65000, ipv4",
            "carrier 10.0.0.1: up -> down: eth0 has no carrier",
            "carrier 10.0.0.1: down -> up: eth0 has a carrier",
            "session 10.0.0.1: established -> down: received NOTIFICATION Cease / Administrative \
             Shutdown (6/2): \"move\"",
            "registration web: unregistered -> pending: by http",
            "registration web: up -> unregistered: requested",
        ]
    );
    let seqs: Vec<u64> = bench.core.events().map(|event| event.seq).collect();
    assert!(
        seqs.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "{seqs:?}"
    );
}
