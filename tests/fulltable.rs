//! Scale, both ways: a peer that sends the whole Internet, and ten thousand prefixes of our own. The
//! router is a blocking speaker in the test, so that what crosses the wire is seen byte by byte. The
//! figures are printed; the limits are wide, since the machine may be busy and the build a slow one.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidecast::bgp::{
    AsPath, Capability, DecodeContext, Framer, MAX_LEN, Message, Negotiated, Open, Packer,
    PathAttributes,
};
use sidecast::net::{Asn, Community, Family, Prefix, RouterId};
use sidecast_lab::{Sidecast, Site, VIP4, expect, until};

#[path = "reader/mod.rs"]
mod reader;

use reader::{Decoded, Update, decode};

sidecast_lab::tests! {
    needs ["ip"]:
        a_full_table_costs_neither_memory_nor_attention,
        ten_thousand_prefixes_are_packed,
        ten_thousand_prefixes_fit_few_extended_messages;
}

fn a_full_table_costs_neither_memory_nor_attention() {
    let site = Site::new();
    let (mut tcp, _udp) = site.a.services();
    let listener = Speaker::listen(&site);
    let mut sidecast = Sidecast::launch(
        &site.a.network,
        &["run", "--config", &write(&site, &site.a.config("", ""))],
        &[("RUST_LOG", "info")],
    );
    let mut speaker = Speaker::accept(&listener, false);
    let updates = speaker.hear();
    let vip = host(VIP4);
    updates.wait(|update| announces(update, vip));
    sidecast.wait_for_api(&site.a.network);

    let (messages, table) = full_table(&speaker.negotiated);
    let (before, sent) = (rss(&sidecast), AtomicUsize::new(0));
    let begun = Instant::now();
    let (flood, withdraws) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for piece in table.chunks(PIECE) {
                speaker.stream.write_all(piece).expect("sidecast reads");
                sent.fetch_add(piece.len(), Ordering::Relaxed);
            }
            begun.elapsed()
        });
        let mut withdraws = Vec::new();
        for share in [1, 3, 5] {
            until(PATIENCE, "the flood is that far", || {
                let sent = sent.load(Ordering::Relaxed);
                expect(sent >= table.len() / 8 * share, sent)
            });
            let killed = Instant::now();
            tcp.signal(Signal::SIGKILL);
            let at = updates.wait(|update| withdrawn(update).any(|prefix| prefix == vip));
            withdraws.push((at - killed, sent.load(Ordering::Relaxed) < table.len()));
            tcp.restart(&site.a.network);
            updates.wait(|update| announces(update, vip));
        }
        (writer.join().expect("it writes"), withdraws)
    });
    until(PATIENCE, "sidecast has read it all", || {
        let received = updates_received(&sidecast, &site);
        expect(received >= messages, format!("{received} of {messages}"))
    });
    let all = begun.elapsed();
    let grown = rss(&sidecast).saturating_sub(before);
    println!(
        "a full table: {ROUTES} routes in {messages} messages, {} MiB, sent in {flood:.1?}, read in {all:.1?}; \
         RSS {before} KiB + {grown} KiB; own withdraws (true: during the flood) {withdraws:.1?}",
        table.len() >> 20
    );
    assert!(grown < 1024, "RSS grew by {grown} KiB from {before} KiB");
    assert!(
        withdraws.iter().any(|(_, during)| *during),
        "none was during the flood"
    );
    for (took, _) in withdraws {
        assert!(took < Duration::from_secs(1), "a withdraw took {took:?}");
    }
}

fn ten_thousand_prefixes_are_packed() {
    packed(4096);
}

/// RFC 8654.
fn ten_thousand_prefixes_fit_few_extended_messages() {
    packed(65535);
}

/// All prefixes withdrawn by a drain and announced again: how long, and in how many bytes.
fn packed(max_len: usize) {
    let site = Site::new();
    let listener = Speaker::listen(&site);
    let vips: Vec<String> = own().map(|prefix| prefix.to_string()).collect();
    // One app has at most 1,024.
    let app = |(index, vips): (usize, &[String])| {
        format!("{{name: many{index}, vips: [{}]}}", vips.join(", "))
    };
    let apps: Vec<String> = vips.chunks(1000).enumerate().map(app).collect();
    let config = format!(
        "agent: {{vip_interface: none}}\n\
         bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {}, communities: [\"65001:100\"]}}\n\
         apps: [{}]\n",
        site.a.addresses.router4,
        apps.join(", ")
    );
    let mut sidecast = Sidecast::launch(
        &site.a.network,
        &["run", "--config", &write(&site, &config)],
        &[("RUST_LOG", "info")],
    );
    let mut speaker = Speaker::accept(&listener, max_len > 4096);
    let updates = speaker.hear();
    let all: BTreeSet<Prefix> = own().collect();
    let first = updates.collect(&all, announced);
    sidecast.wait_for_api(&site.a.network);

    let begun = Instant::now();
    sidecast.get(&site.a.network, "/drain?wait=0");
    let gone = updates.collect(&all, |update| withdrawn(update).collect());
    let went = gone.at - begun;
    let begun = Instant::now();
    sidecast.get(&site.a.network, "/undrain");
    let back = updates.collect(&all, announced);
    let came = back.at - begun;

    // Header, two lengths; ORIGIN, AS_PATH of one AS, NEXT_HOP, COMMUNITIES of one.
    let least = |attributes: usize| {
        let per_message = (max_len - 23 - attributes) / 5;
        all.len() * 5 + all.len().div_ceil(per_message) * (23 + attributes)
    };
    let (announcing, withdrawing) = (least(4 + 9 + 7 + 7), least(0));
    println!(
        "{} prefixes, messages up to {max_len}: withdrawn in {went:.1?}, {} bytes in {} messages (optimum {withdrawing}); \
         announced in {came:.1?}, {} bytes in {} messages (optimum {announcing})",
        all.len(),
        gone.bytes,
        gone.messages,
        back.bytes,
        back.messages,
    );
    // An extended message stays somewhat below its limit, so that withdrawals find room behind it.
    let slack = if max_len > 4096 { 64 } else { 0 };
    for (bytes, least) in [
        (first.bytes, announcing),
        (gone.bytes, withdrawing),
        (back.bytes, announcing),
    ] {
        assert!(bytes <= least + slack, "{bytes}, optimum {least}");
    }
    assert!(went < LIMIT && came < LIMIT, "{went:?}, {came:?}");
}

/// The router.
struct Speaker {
    stream: TcpStream,
    framer: Framer,
    negotiated: Negotiated,
}

impl Speaker {
    fn listen(site: &Site) -> TcpListener {
        let addr: IpAddr = site.a.addresses.router4.parse().expect("an address");
        let listener = site.router.enter(|| TcpListener::bind((addr, 179)));
        listener.expect("nobody else is there")
    }

    /// Takes one connection to Established.
    fn accept(listener: &TcpListener, extended_message: bool) -> Self {
        let (mut stream, _) = listener.accept().expect("sidecast connects");
        stream.set_nodelay(true).expect("a TCP socket");
        let mut capabilities = vec![Capability::Multiprotocol(Family::Ipv4.into())];
        if extended_message {
            capabilities.push(Capability::ExtendedMessage);
        }
        let (asn, id) = (asn(65000), router_id([10, 255, 0, 1]));
        let ours = Open::new(asn, 240, id, capabilities);
        let mut cx = DecodeContext::before_open(asn, id, None);
        let mut framer = Framer::new();
        send(&mut stream, &Message::Open(ours.clone()));
        let Decoded::Open(theirs) = next(&mut stream, &mut framer, &cx).expect("an OPEN").0 else {
            panic!("no OPEN")
        };
        let negotiated = Negotiated::new(&ours, &theirs).expect("IPv4");
        cx = DecodeContext::established(&negotiated);
        send(&mut stream, &Message::Keepalive);
        let (message, _) = next(&mut stream, &mut framer, &cx).expect("a KEEPALIVE");
        assert_eq!(message, Decoded::Keepalive);
        Self {
            stream,
            framer,
            negotiated,
        }
    }

    /// Reads from now on, in a thread of its own.
    fn hear(&mut self) -> Updates {
        let (sender, receiver) = channel();
        let mut stream = self.stream.try_clone().expect("a descriptor");
        let mut framer = std::mem::take(&mut self.framer);
        let cx = DecodeContext::established(&self.negotiated);
        std::thread::spawn(move || {
            while let Some((message, bytes)) = next(&mut stream, &mut framer, &cx) {
                if let Decoded::Update(update) = message
                    && sender.send((Instant::now(), update, bytes)).is_err()
                {
                    return;
                }
            }
        });
        Updates(receiver)
    }
}

/// UPDATEs as they come in: when, what, how many bytes.
struct Updates(Receiver<(Instant, Update, usize)>);

/// What it took to hear of all prefixes.
struct Collected {
    at: Instant,
    bytes: usize,
    messages: usize,
}

impl Updates {
    /// When the next such UPDATE came.
    #[track_caller]
    fn wait(&self, is: impl Fn(&Update) -> bool) -> Instant {
        loop {
            let (at, update, _) = self.0.recv_timeout(PATIENCE).expect("an UPDATE comes");
            if is(&update) {
                return at;
            }
        }
    }

    /// Hears until these prefixes have come, each once.
    #[track_caller]
    fn collect(&self, all: &BTreeSet<Prefix>, of: impl Fn(&Update) -> Vec<Prefix>) -> Collected {
        let mut missing = all.clone();
        let (mut bytes, mut messages) = (0, 0);
        loop {
            let (at, update, len) = self.0.recv_timeout(PATIENCE).expect("an UPDATE comes");
            let prefixes = of(&update);
            if prefixes.is_empty() {
                continue;
            }
            for prefix in prefixes {
                assert!(missing.remove(&prefix), "{prefix} once more");
            }
            (bytes, messages) = (bytes + len, messages + 1);
            if missing.is_empty() {
                return Collected {
                    at,
                    bytes,
                    messages,
                };
            }
        }
    }
}

/// The next message and its length on the wire; `None` at the end of the connection.
fn next(
    stream: &mut TcpStream,
    framer: &mut Framer,
    cx: &DecodeContext,
) -> Option<(Decoded, usize)> {
    let mut space = [0; 65536];
    loop {
        if let Some(frame) = framer.next(65535).expect("good headers") {
            let message = decode(&frame, cx).expect("a good message");
            return Some((message, frame.body.len() + 19));
        }
        let length = stream.read(&mut space).ok().filter(|length| *length > 0)?;
        framer.push(space.get(..length)?);
    }
}

fn send(stream: &mut TcpStream, message: &Message) {
    let bytes = message.encode().expect("it fits");
    stream.write_all(&bytes).expect("sidecast reads");
}

fn announced(update: &Update) -> Vec<Prefix> {
    let lists = update.announced.iter();
    lists.flat_map(|list| list.prefixes.clone()).collect()
}

fn announces(update: &Update, prefix: Prefix) -> bool {
    announced(update).contains(&prefix)
}

fn withdrawn(update: &Update) -> impl Iterator<Item = Prefix> {
    update.withdrawn.iter().copied()
}

/// A million routes as a transit provider sends them: five to a message, paths and communities of all
/// sorts. How many messages, and their bytes.
fn full_table(negotiated: &Negotiated) -> (u64, Vec<u8>) {
    let (mut messages, mut bytes) = (0, Vec::new());
    let routes: Vec<u32> = (0..ROUTES).collect();
    for (number, chunk) in (0_u32..).zip(routes.chunks(5)) {
        let mut attributes = PathAttributes::new(Ipv4Addr::new(10, 0, 1, 1).into());
        let hops = [65000, 3356, 1 + number % 60_000, 1 + number / 3 % 400_000];
        attributes.as_path = AsPath::sequence(hops.map(asn));
        attributes.communities = (0..number % 12)
            .map(|n| Community(3356 << 16 | n))
            .collect();
        let prefix = |route: &u32| {
            let addr = Ipv4Addr::from((16 << 24) + (route << 8));
            Prefix::new(addr.into(), 24).expect("no host bits")
        };
        let routes = chunk
            .iter()
            .map(|route| (prefix(route), attributes.clone()));
        for packed in Packer::new(&BTreeSet::new(), &routes.collect(), negotiated, MAX_LEN) {
            bytes.extend(packed.bytes);
            messages += 1;
        }
    }
    (messages, bytes)
}

/// Our own prefixes.
fn own() -> impl Iterator<Item = Prefix> {
    (0..10_000_u32).map(|n| Prefix::host(Ipv4Addr::from((198 << 24) + (18 << 16) + n).into()))
}

fn host(addr: &str) -> Prefix {
    Prefix::host(addr.parse().expect("an address"))
}

fn asn(number: u32) -> Asn {
    Asn::new(number).expect("not 0")
}

fn router_id(octets: [u8; 4]) -> RouterId {
    RouterId::new(octets.into()).expect("not 0")
}

fn write(site: &Site, config: &str) -> String {
    let path = Sidecast::write(&site.a.network, config);
    path.to_string_lossy().into_owned()
}

fn updates_received(sidecast: &Sidecast, site: &Site) -> u64 {
    let info = sidecast.get(&site.a.network, "/info").json();
    let received = &info["state"]["messages"]["received"]["update"];
    received
        .as_u64()
        .or_else(|| received.as_str()?.parse().ok())
        .unwrap_or(0)
}

/// Resident memory in KiB.
fn rss(sidecast: &Sidecast) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", sidecast.id()));
    let status = status.expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("the kernel has it")
}

const ROUTES: u32 = 1_000_000;
/// Bytes written at once.
const PIECE: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(120);
/// For ten thousand prefixes.
const LIMIT: Duration = Duration::from_secs(10);
