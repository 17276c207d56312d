//! Two machines joined by a modeled TCP with delay, cuts and half-open connections, in virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::bgp::peer::{ConnId, Event, Output, Peer, PeerConfig};
use crate::bgp::reader::{Decoded, decode};
use crate::bgp::{
    DecodeContext, Framer, MAX_LEN_EXTENDED, MessageType, Negotiated, Notification, PathAttributes,
};
use crate::net::Prefix;
use crate::timer::Rng;

pub(super) type Routes = BTreeMap<Prefix, PathAttributes>;

/// Two hosts and the wire between them.
pub(super) struct World {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) sides: [Side; 2],
    /// One-way delay of every segment.
    pub(super) delay: Duration,
    pub(super) chance: Rng,
    cut: bool,
    connections: BTreeMap<u64, Connection>,
    last_connection: u64,
    wire: BTreeMap<(Instant, u64), Segment>,
    /// Segments in flight during the cut; TCP retransmits them.
    held: VecDeque<Segment>,
    sequence: u64,
}

/// One host.
pub(super) struct Side {
    pub(super) config: PeerConfig,
    pub(super) peer: Peer,
    /// Whether anything accepts on port 179.
    pub(super) listens: bool,
    /// Bytes the kernel takes before the reader at the other end must read; `None`: any number.
    pub(super) window: Option<usize>,
    pub(super) wanted: Routes,
    /// The routes of the other side, as decoded.
    pub(super) learned: Routes,
    /// Largest number of bytes ever handed out and not yet taken.
    pub(super) most_unsent: usize,
    pub(super) attempts: Vec<Instant>,
    /// Messages received, by name.
    pub(super) received: Vec<String>,
    pub(super) downs: Vec<String>,
    negotiated: Option<Negotiated>,
    unsent: BTreeMap<ConnId, usize>,
    accepted: u64,
}

/// A TCP connection: its identifier at each end, `None` where that end has no connection, or no longer has one.
#[derive(Debug)]
struct Connection {
    ends: [Option<ConnId>; 2],
    framers: [Framer; 2],
    /// Segments arrive in the order sent.
    last_arrival: [Option<Instant>; 2],
}

#[derive(Debug)]
struct Segment {
    connection: u64,
    to: usize,
    what: SegmentKind,
}

#[derive(Debug)]
enum SegmentKind {
    Syn,
    SynAck,
    Refused,
    Data(Vec<u8>),
    End,
    /// The reader has made room.
    Window(usize),
}

impl World {
    pub(super) fn new(configs: [PeerConfig; 2], delay: Duration, seed: u64) -> Self {
        let now = Instant::now();
        let mut chance = Rng::new(seed);
        Self {
            start: now,
            now,
            sides: configs.map(|config| Side::new(config, chance.next_u64())),
            delay,
            chance,
            cut: false,
            connections: BTreeMap::new(),
            last_connection: 0,
            wire: BTreeMap::new(),
            held: VecDeque::new(),
            sequence: 0,
        }
    }

    pub(super) fn event(&mut self, side: usize, event: Event) {
        self.sides[side].peer.handle(self.now, event);
        self.perform();
    }

    pub(super) fn start_both(&mut self) {
        self.event(0, Event::Start);
        self.event(1, Event::Start);
    }

    pub(super) fn advertise(&mut self, side: usize, routes: Routes) {
        self.sides[side].wanted = routes.clone();
        self.sides[side].peer.advertise(self.now, routes);
        self.perform();
    }

    /// Lets `duration` pass.
    pub(super) fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        loop {
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            let timers = self.sides.iter().filter_map(|s| s.peer.poll_timeout());
            let Some(at) = timers.map(|(at, _)| at).chain(arrival).min() else {
                break;
            };
            if at > until {
                break;
            }
            assert!(at >= self.now, "a deadline in the past");
            self.now = at;
            while let Some(entry) = self.wire.first_entry()
                && entry.key().0 <= at
            {
                let segment = entry.remove();
                self.arrive(segment);
            }
            for side in 0..2 {
                self.sides[side].peer.handle_timeout(self.now);
            }
            self.perform();
        }
        self.now = until;
    }

    pub(super) fn set_cut(&mut self, cut: bool) {
        self.cut = cut;
        if !cut {
            for segment in std::mem::take(&mut self.held) {
                self.send(segment);
            }
        }
    }

    /// Power loss and a start from nothing: the other end learns of it when it next sends something.
    pub(super) fn lose_power(&mut self, side: usize, seed: u64) {
        for connection in self.connections.values_mut() {
            connection.ends[side] = None;
        }
        self.connections
            .retain(|_, connection| connection.ends != [None, None]);
        let old = &self.sides[side];
        let (listens, wanted) = (old.listens, old.wanted.clone());
        let mut new = Side::new(old.config.clone(), seed);
        (new.listens, new.wanted, new.accepted) = (listens, wanted.clone(), old.accepted);
        self.sides[side] = new;
        self.event(side, Event::Start);
        self.advertise(side, wanted);
    }

    /// The connection that is established at both ends, if it is the only one that is left at either.
    pub(super) fn one_session(&self) -> bool {
        let up = |side: &Side| side.peer.established().map(|c| c.id);
        let ends = [up(&self.sides[0]), up(&self.sides[1])];
        let open: Vec<_> = self
            .connections
            .values()
            .map(|connection| connection.ends)
            .collect();
        ends.iter().all(Option::is_some) && open == [ends]
    }

    /// Every prefix that one side advertises is known to the other, and nothing else.
    pub(super) fn consistent(&self) -> bool {
        (0..2).all(|side| {
            let wanted = self.sides[side].wanted.keys();
            wanted.eq(self.sides[1 - side].learned.keys())
                && self.sides[side].peer.is_flushed()
                && self.sides[side].wanted.iter().all(|(prefix, wanted)| {
                    let learned = &self.sides[1 - side].learned[prefix];
                    learned.med == wanted.med && learned.communities == wanted.communities
                })
        })
    }

    fn perform(&mut self) {
        for side in 0..2 {
            while let Some(output) = self.sides[side].peer.poll_output() {
                self.output(side, output);
            }
        }
    }

    fn output(&mut self, side: usize, output: Output) {
        match output {
            Output::Connect { conn } => {
                self.sides[side].attempts.push(self.now);
                self.last_connection += 1;
                let mut ends = [None, None];
                ends[side] = Some(conn);
                let connection = Connection {
                    ends,
                    framers: [Framer::new(), Framer::new()],
                    last_arrival: [None, None],
                };
                self.connections.insert(self.last_connection, connection);
                self.send_segment(self.last_connection, 1 - side, SegmentKind::Syn);
            }
            Output::Send { conn, bytes } => {
                let sender = &mut self.sides[side];
                let unsent = sender.unsent.entry(conn).or_default();
                *unsent += bytes.len();
                sender.most_unsent = sender.most_unsent.max(*unsent);
                let Some(connection) = self.connection_of(side, conn) else {
                    return;
                };
                let taken = bytes.len();
                self.send_segment(connection, 1 - side, SegmentKind::Data(bytes));
                if self.sides[side].window.is_none() {
                    self.taken(side, conn, taken);
                }
            }
            Output::Close { conn } => {
                if let Some(id) = self.connection_of(side, conn) {
                    self.send_segment(id, 1 - side, SegmentKind::End);
                    self.forget(id, side);
                }
            }
            Output::Established { negotiated, .. } => {
                self.sides[side].negotiated = Some(negotiated);
            }
            Output::Down { reason } => {
                self.sides[side].downs.push(reason.to_string());
                self.sides[side].learned.clear();
                self.sides[side].negotiated = None;
            }
            Output::StateChanged { .. }
            | Output::SetUserTimeout { .. }
            | Output::Reset { .. }
            | Output::Probe { .. }
            | Output::Notice(_)
            | Output::MessageReceived(_)
            | Output::MessageSent(_) => {}
        }
    }

    fn taken(&mut self, side: usize, conn: ConnId, bytes: usize) {
        if let Some(unsent) = self.sides[side].unsent.get_mut(&conn) {
            *unsent -= bytes;
        }
        self.sides[side]
            .peer
            .handle(self.now, Event::Sent { conn, bytes });
    }

    fn connection_of(&self, side: usize, conn: ConnId) -> Option<u64> {
        let mut connections = self.connections.iter();
        connections
            .find_map(|(id, connection)| (connection.ends[side] == Some(conn)).then_some(*id))
    }

    fn forget(&mut self, id: u64, side: usize) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.ends[side] = None;
            if connection.ends == [None, None] {
                self.connections.remove(&id);
            }
        }
    }

    fn send_segment(&mut self, connection: u64, to: usize, what: SegmentKind) {
        self.send(Segment {
            connection,
            to,
            what,
        });
    }

    fn send(&mut self, segment: Segment) {
        let Some(connection) = self.connections.get_mut(&segment.connection) else {
            return;
        };
        let last = &mut connection.last_arrival[segment.to];
        let at = last.map_or(self.now + self.delay, |last| {
            last.max(self.now + self.delay)
        });
        *last = Some(at);
        self.sequence += 1;
        self.wire.insert((at, self.sequence), segment);
    }

    fn arrive(&mut self, segment: Segment) {
        if self.cut {
            // TCP retransmits all but the SYN: the state machine retries a connection attempt itself.
            if !matches!(segment.what, SegmentKind::Syn) {
                self.held.push_back(segment);
            }
            return;
        }
        let Segment {
            connection: id,
            to,
            what,
        } = segment;
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let ends = connection.ends;
        let addr: SocketAddr = "192.0.2.1:179".parse().unwrap();
        let (local, remote) = (addr, addr);
        match (what, ends[to]) {
            (SegmentKind::Syn, _) if ends[1 - to].is_none() => {}
            (SegmentKind::Syn, _) if !self.sides[to].listens => {
                self.send_segment(id, 1 - to, SegmentKind::Refused)
            }
            (SegmentKind::Syn, _) => {
                self.sides[to].accepted += 1;
                let conn = ConnId::accepted(self.sides[to].accepted);
                connection.ends[to] = Some(conn);
                self.send_segment(id, 1 - to, SegmentKind::SynAck);
                let accepted = Event::Accepted {
                    conn,
                    local,
                    remote,
                };
                self.sides[to].peer.handle(self.now, accepted);
            }
            (SegmentKind::SynAck, Some(conn)) => {
                let connected = Event::Connected {
                    conn,
                    local,
                    remote,
                };
                self.sides[to].peer.handle(self.now, connected);
            }
            (SegmentKind::Refused, Some(conn)) => {
                self.forget(id, to);
                let error = "connection refused".to_owned();
                self.sides[to]
                    .peer
                    .handle(self.now, Event::ConnectFailed { conn, error });
            }
            (SegmentKind::End, Some(conn)) => {
                self.forget(id, to);
                let reason = "connection closed".to_owned();
                self.sides[to]
                    .peer
                    .handle(self.now, Event::Closed { conn, reason });
            }
            (SegmentKind::Data(bytes), Some(conn)) => self.data(id, to, conn, bytes),
            (SegmentKind::Window(bytes), Some(conn)) => self.taken(to, conn, bytes),
            // A segment for a connection that no longer exists is answered with RST.
            (SegmentKind::SynAck | SegmentKind::Data(_), None) => {
                self.send_segment(id, 1 - to, SegmentKind::End)
            }
            (SegmentKind::Refused | SegmentKind::End | SegmentKind::Window(_), None) => {}
        }
        self.perform();
    }

    fn data(&mut self, id: u64, to: usize, conn: ConnId, bytes: Vec<u8>) {
        if self.sides[1 - to].window.is_some() {
            self.send_segment(id, 1 - to, SegmentKind::Window(bytes.len()));
        }
        let event = Event::Received {
            conn,
            bytes: bytes.clone(),
        };
        self.sides[to].peer.handle(self.now, event);
        self.perform();
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let side = &mut self.sides[to];
        connection.framers[to].push(&bytes);
        while let Some(frame) = connection.framers[to].next(MAX_LEN_EXTENDED).unwrap() {
            let up = side.peer.established().is_some_and(|c| c.id == conn);
            side.record(&frame, up);
        }
    }
}

impl Side {
    fn new(config: PeerConfig, seed: u64) -> Self {
        Self {
            peer: Peer::new(config.clone(), seed),
            config,
            listens: true,
            window: None,
            wanted: Routes::new(),
            learned: Routes::new(),
            most_unsent: 0,
            attempts: Vec::new(),
            received: Vec::new(),
            downs: Vec::new(),
            negotiated: None,
            unsent: BTreeMap::new(),
            accepted: 0,
        }
    }

    fn record(&mut self, frame: &crate::bgp::Frame, up: bool) {
        let config = &self.config;
        let context = match &self.negotiated {
            Some(negotiated) if up => DecodeContext::established(negotiated),
            _ => DecodeContext::before_open(config.local_as, config.router_id, None),
        };
        if !up && MessageType::from_code(frame.kind) == Some(MessageType::Update) {
            return;
        }
        let message = decode(frame, &context).unwrap();
        self.received.push(describe(&message));
        if let Decoded::Update(update) = message {
            for prefix in &update.withdrawn {
                assert!(
                    self.learned.remove(prefix).is_some(),
                    "{prefix} withdrawn in vain"
                );
            }
            for announcement in update.announced {
                for prefix in announcement.prefixes {
                    self.learned.insert(prefix, announcement.attributes.clone());
                }
            }
        }
    }
}

/// A message in a few words.
pub(super) fn describe(message: &Decoded) -> String {
    match message {
        Decoded::Open(open) => format!("OPEN {}", open.asn),
        Decoded::Keepalive => "KEEPALIVE".to_owned(),
        Decoded::Notification(Notification { code, subcode, .. }) => {
            format!("NOTIFICATION {code}/{subcode}")
        }
        Decoded::RouteRefresh(refresh) => {
            format!("ROUTE-REFRESH {:?} {}", refresh.kind, refresh.family)
        }
        Decoded::Update(update) => {
            let mut words = vec!["UPDATE".to_owned()];
            words.extend(update.withdrawn.iter().map(|prefix| format!("-{prefix}")));
            let announced = update.announced.iter().flat_map(|a| &a.prefixes);
            words.extend(announced.map(|prefix| format!("+{prefix}")));
            words.extend(
                update
                    .end_of_rib
                    .map(|family| format!("End-of-RIB {family}")),
            );
            words.join(" ")
        }
    }
}
