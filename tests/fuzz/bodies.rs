//! What each fuzz target does with its bytes: no input may panic, and what is read twice, or in other
//! pieces, or written again, must come out the same. `tests/fuzz_smoke.rs` runs the same bodies on the
//! stable toolchain.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use sidecast::api::ListenerScope;
use sidecast::app::Source;
use sidecast::bfd;
use sidecast::bgp::peer::{ConnId, Event, Output, Peer, PeerConfig, StateName};
use sidecast::bgp::{
    Capability, DecodeContext, ExtendedNextHop, Frame, Framer, MAX_LEN, MAX_LEN_EXTENDED, Message,
    MessageType, Negotiated, Notification, Open, PathAttributes, Received, SessionType,
    decode_message,
};
use sidecast::config::{self, Config, SavedState};
use sidecast::io::http::{Parsed, Parser, Sizes};
use sidecast::net::{Asn, Family, Prefix, RouterId};
use sidecast::netlink::message::Messages;
use sidecast::netlink::{address, attr, conntrack, link, neighbor, nftables, route, sock_diag};

#[path = "../reader/mod.rs"]
mod reader;

use reader::{Decoded, decode};

/// A target's name and what it does.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 11] = [
    ("frames", frames),
    ("open", open),
    ("update", update),
    ("bfd", bfd),
    ("netlink", netlink),
    ("http", http),
    ("params", params),
    ("tags", tags),
    ("environment", environment),
    ("configuration", configuration),
    ("state", state),
];

/// Of a BGP message (RFC 4271 §4.1).
const HEADER_LEN: usize = 19;

/// A byte stream: cut into any pieces it gives the same messages, and a peer that sends it ends in a
/// state of the book, with one NOTIFICATION at most.
pub fn frames(data: &[u8]) {
    let Some((&[size, mode], stream)) = data.split_first_chunk::<2>() else {
        return;
    };
    let max_len = if mode & 1 == 0 {
        MAX_LEN
    } else {
        MAX_LEN_EXTENDED
    };
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut framer = Framer::new();
        let mut frames = Vec::new();
        let mut waiting = 0;
        for piece in pieces {
            framer.push(piece);
            waiting += piece.len();
            loop {
                match framer.next(max_len) {
                    Ok(Some(frame)) => {
                        waiting -= HEADER_LEN + frame.body.len();
                        frames.push(frame);
                    }
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
            assert!(waiting < max_len, "an incomplete message");
        }
        (frames, None)
    };
    let whole = read(&mut std::iter::once(stream));
    let pieces = read(&mut stream.chunks(usize::from(size) + 1));
    assert_eq!(whole, pieces, "it matters how it is cut");
    for frame in &whole.0 {
        for number in 0..4 {
            checked(frame, &context(number));
        }
    }
    at_a_peer(stream, usize::from(size) + 1, mode);
}

/// Gives the bytes to the machine behind a good OPEN and KEEPALIVE, or in their place.
fn at_a_peer(stream: &[u8], size: usize, mode: u8) {
    let mut config = PeerConfig::new(asn(65001), Some(asn(65000)), id(1));
    config.graceful_restart = u16::from(mode >> 4) * 10;
    config.passive = true;
    let mut now = Instant::now();
    let mut peer = Peer::new(config, 1);
    let conn = ConnId::accepted(1);
    let addr = |port| SocketAddr::from(([127, 0, 0, 1], port));
    peer.handle(now, Event::Start);
    let routes = [Prefix::host([192, 0, 2, 1].into())];
    let attributes = PathAttributes::new([10, 0, 0, 2].into());
    peer.advertise(
        now,
        routes.map(|prefix| (prefix, attributes.clone())).into(),
    );
    peer.handle(
        now,
        Event::Accepted {
            conn,
            local: addr(179),
            remote: addr(50_000),
        },
    );
    let mut before = Vec::new();
    if mode & 2 == 0 {
        let open = Open::new(asn(65000), 90, id(2), capabilities(mode >> 2 & 3));
        for message in [Message::Open(open), Message::Keepalive] {
            before.extend(message.encode().expect("ours"));
        }
    }
    let (mut notifications, mut closed) = (0, false);
    for bytes in std::iter::once(before.as_slice()).chain(stream.chunks(size)) {
        let bytes = bytes.to_vec();
        peer.handle(now, Event::Received { conn, bytes });
        while let Some(output) = peer.poll_output() {
            match output {
                Output::Send { bytes, .. } => {
                    assert!(!closed, "bytes are sent after the end");
                    let mut framer = Framer::new();
                    framer.push(&bytes);
                    while let Some(frame) = framer.next(MAX_LEN_EXTENDED).expect("ours") {
                        notifications += u32::from(frame.kind == MessageType::Notification.code());
                    }
                    let bytes = bytes.len();
                    peer.handle(now, Event::Sent { conn, bytes });
                }
                Output::Close { .. } => closed = true,
                _ => {}
            }
        }
        now += Duration::from_millis(1);
        peer.handle_timeout(now);
    }
    assert!(notifications <= 1, "{notifications} NOTIFICATIONs");
    assert!(!closed || peer.state() != StateName::Established);
    assert!(peer.poll_timeout().is_none_or(|(at, _)| at >= now));
}

/// The body of an OPEN. What is accepted can be negotiated with and written again.
pub fn open(data: &[u8]) {
    let frame = Frame {
        kind: MessageType::Open.code(),
        body: data.to_vec(),
    };
    let cx = DecodeContext::before_open(asn(65001), id(1), None);
    let Some(Received::Open(theirs)) = checked(&frame, &cx) else {
        return;
    };
    for number in 0..4 {
        let ours = Open::new(asn(65001), 90, id(1), capabilities(number));
        if let Ok(negotiated) = Negotiated::new(&ours, &theirs) {
            let offered = ours.families();
            assert!(negotiated.families.iter().all(|f| offered.contains(f)));
            assert!(negotiated.hold_time.is_none_or(|time| time.as_secs() >= 3));
        }
    }
    // Parameters may be spread in more ways than one: what is written once is written the same again.
    if let Ok(bytes) = Message::Open(theirs).encode() {
        let Some(Received::Open(again)) = checked(&only_frame(&bytes), &cx) else {
            panic!("what we write is refused")
        };
        assert_eq!(Message::Open(again).encode(), Ok(bytes));
    }
}

/// The body of an UPDATE, in every context. What passes the check can be read, and has no more routes
/// than were counted.
pub fn update(data: &[u8]) {
    let Some((&number, body)) = data.split_first() else {
        return;
    };
    let frame = Frame {
        kind: MessageType::Update.code(),
        body: body.to_vec(),
    };
    let cx = context(number);
    let Some(Received::Update(summary)) = checked(&frame, &cx) else {
        return;
    };
    let Ok(Decoded::Update(update)) = decode(&frame, &cx) else {
        panic!("{frame:?} passed the check")
    };
    assert_eq!(update.withdrawn.len(), summary.withdrawn);
    let announced: usize = update.announced.iter().map(|a| a.prefixes.len()).sum();
    // Routes in the NLRI field are nothing without a NEXT_HOP.
    assert!(announced <= summary.announced);
    assert!(summary.end_of_rib.is_none() || announced + summary.withdrawn == 0);
}

/// Parameters of `/register`, `key=value` with a zero byte between. An app that is taken outlives a
/// restart as it is.
pub fn params(data: &[u8]) {
    let config = permissive();
    let pair = |text: &str| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), value.to_owned())
    };
    let params: Vec<_> = texts(data).iter().map(|text| pair(text)).collect();
    match config::parse_app_from_params(&params, Source::Http, &config) {
        Ok(app) => {
            let memory = SavedState {
                apps: vec![app],
                ..SavedState::default()
            };
            remembered(&memory, &config);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Tags of a service, with a zero byte between.
pub fn tags(data: &[u8]) {
    let name = "a".parse().expect("a name");
    let tags = texts(data);
    if let Err(error) = config::parse_app_from_tags(name, "a", &tags, &permissive()) {
        assert!(!error.to_string().is_empty());
    }
}

/// Variables, `NAME=value` with a zero byte between.
pub fn environment(data: &[u8]) {
    let pair = |text: String| {
        let (name, value) = text.split_once('=')?;
        Some((format!("SIDECAST_{name}"), value.to_owned()))
    };
    load(None, &texts(data).into_iter().filter_map(pair).collect());
}

/// A configuration file.
pub fn configuration(data: &[u8]) {
    load(Some(&String::from_utf8_lossy(data)), &BTreeMap::new());
}

fn load(file: Option<&str>, env: &BTreeMap<String, String>) {
    let mut read = |_: &std::path::Path| {
        file.map(str::to_owned)
            .ok_or_else(|| std::io::ErrorKind::NotFound.into())
    };
    match config::load(file.map(|_| "file"), env, &mut read) {
        Ok(loaded) => assert!(!config::render(&loaded).is_empty()),
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
}

/// The state file, of this version or in YAML.
pub fn state(data: &[u8]) {
    let config = permissive();
    if let Ok((memory, problems)) = SavedState::read(&String::from_utf8_lossy(data), &config) {
        assert!(problems.len() <= 100);
        remembered(&memory, &config);
    }
}

fn remembered(memory: &SavedState, config: &Config) {
    let text = memory.to_json();
    let (again, problems) = SavedState::read(&text, config).expect("ours");
    assert_eq!(problems, Vec::<String>::new(), "{text}");
    assert_eq!(again, *memory, "{text}");
}

fn texts(data: &[u8]) -> Vec<String> {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    data.split(|byte| *byte == 0).map(text).collect()
}

/// Takes whatever can be taken.
fn permissive() -> Config {
    let text = "agent: {allow_exec: [http, consul], allowed_vips: [0.0.0.0/0, '::/0'], consul_addr: 'http://a'}\n\
                bgp: {local_as: 65001, peer_as: 65000, peer_ip: 10.0.0.1}\n";
    let mut read = |_: &std::path::Path| Ok(text.to_owned());
    let loaded = config::load(Some("file"), &BTreeMap::new(), &mut read);
    loaded.expect("a good configuration").config
}

/// BFD packets in a row, each behind a byte of time.
pub fn bfd(data: &[u8]) {
    let mut now = Instant::now();
    let config = bfd::Config {
        interval: Duration::from_millis(300),
        multiplier: 3,
        discriminator: NonZeroU32::new(1).expect("it is 1"),
    };
    let mut session = bfd::Session::new(now, config, 1);
    for record in data.chunks(25) {
        let Some((time, packet)) = record.split_first() else {
            return;
        };
        now += Duration::from_millis(u64::from(*time) * 8);
        match bfd::Packet::decode(packet) {
            Ok(packet) => {
                assert_eq!(bfd::Packet::decode(&packet.encode()), Ok(packet));
                session.handle(now, bfd::Event::Received(packet));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        session.handle_timeout(now);
        let mut sent = 0;
        while let Some(output) = session.poll_output() {
            if let bfd::Output::Send(packet) = output {
                assert_eq!(bfd::Packet::decode(&packet.encode()), Ok(packet));
                assert!(!(packet.poll && packet.r#final));
                sent += 1;
            }
        }
        // A change of state, an answer to a poll, a detection that expired, the periodic one.
        assert!(sent <= 4, "{sent} packets for one");
        assert!(session.poll_timeout().is_none_or(|(at, _)| at >= now));
    }
}

/// A datagram from the kernel, and each payload in it as each thing it may be.
pub fn netlink(data: &[u8]) {
    let mut payloads = vec![data];
    for message in Messages::new(data) {
        let Ok(message) = message else { break };
        let _ = message.reply();
        payloads.push(message.payload);
    }
    for payload in payloads {
        let _ = link::Link::decode(payload);
        let _ = address::Address::decode(payload).map(|address| {
            address.map(|address| {
                (
                    address.prefix(),
                    address.is_usable(),
                    address.is_permanent(),
                )
            })
        });
        let _ = route::Route::decode(payload);
        let _ = neighbor::Neighbor::decode(payload);
        let _ = sock_diag::Socket::decode(payload).map(|socket| socket.accept_queue_is_full());
        let _ = conntrack::Tuple::decode(payload);
        let _ = nftables::Counter::decode(payload);
        let _ = (nftables::is_owned(payload), nftables::is_orphan(payload));
        let _ = nftables::ListedRule::decode(payload);
        let _ = nftables::seen::SeenAddress::decode(payload);
        for attribute in attr::Attrs::new(payload) {
            let Ok(attribute) = attribute else { break };
            let _ = (attribute.text(), attribute.addr(), attribute.u64_be());
            let _ = attribute.nested().count();
        }
    }
}

/// What a client sends: cut into any pieces it gives the same requests.
pub fn http(data: &[u8]) {
    let Some((size, stream)) = data.split_first() else {
        return;
    };
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let sizes = Sizes {
            head: 4096,
            body: 4096,
        };
        let mut parser = Parser::new(sizes, ListenerScope::Loopback);
        let mut found = Vec::new();
        for piece in pieces {
            parser.push(piece);
            loop {
                match parser.poll() {
                    Ok(Some(parsed)) => found.push(words(&parsed)),
                    Ok(None) => break,
                    Err(error) => {
                        assert!(error.status() >= 400);
                        return (found, true);
                    }
                }
            }
        }
        (found, false)
    };
    let whole = read(&mut std::iter::once(stream));
    let pieces = read(&mut stream.chunks(usize::from(*size) + 1));
    assert_eq!(whole, pieces, "it matters how it is cut");
}

fn words(parsed: &Parsed) -> String {
    format!("{parsed:?}")
}

/// Every refusal has its NOTIFICATION.
fn checked(frame: &Frame, cx: &DecodeContext) -> Option<Received> {
    let received = decode_message(frame, cx);
    if let Err(error) = &received {
        assert!(Notification::from(error).encode().len() <= MAX_LEN);
        assert!(!error.to_string().is_empty());
    }
    received.ok().inspect(|received| {
        assert!(!received.to_string().is_empty());
    })
}

fn only_frame(bytes: &[u8]) -> Frame {
    let mut framer = Framer::new();
    framer.push(bytes);
    let frame = framer.next(MAX_LEN_EXTENDED).expect("ours");
    frame.expect("it is whole")
}

/// What may have been agreed on, by the bits of a number.
fn context(number: u8) -> DecodeContext {
    let bit = |n: u8| number >> n & 1 == 1;
    let families: &[Family] = if bit(3) {
        &[Family::Ipv4]
    } else {
        &Family::ALL
    };
    DecodeContext {
        local_as: asn(65001),
        local_router_id: id(1),
        peer_as: Some(asn(if bit(0) { 65001 } else { 65000 })),
        session: if bit(0) {
            SessionType::Ibgp
        } else {
            SessionType::Ebgp
        },
        four_octet_as: !bit(1),
        families: families.iter().copied().collect(),
        extended_next_hop: bit(2),
        enhanced_route_refresh: !bit(4),
    }
}

fn capabilities(number: u8) -> Vec<Capability> {
    let families = Family::ALL.into_iter().take(usize::from(number & 1) + 1);
    let mut all: Vec<_> = families
        .map(|f| Capability::Multiprotocol(f.into()))
        .collect();
    if number & 2 != 0 {
        all.push(Capability::ExtendedMessage);
        all.push(Capability::EnhancedRouteRefresh);
        all.push(Capability::RouteRefresh);
        all.push(Capability::ExtendedNextHop(vec![
            ExtendedNextHop::IPV4_OVER_IPV6,
        ]));
    }
    all
}

fn asn(number: u32) -> Asn {
    Asn::new(number).expect("not 0")
}

fn id(last: u8) -> RouterId {
    RouterId::new([10, 0, 0, last].into()).expect("not 0")
}
