//! Two machines joined by a modelled TCP with delay, cuts and half-open connections, in virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::bgp::peer::{ConnId, Event, Output, Peer, PeerConfig};
use crate::bgp::reader::{Heard, decode};
use crate::bgp::{
    DecodeContext, Framer, MAX_LEN_EXTENDED, Negotiated, Notification, PathAttributes, Type,
};
use crate::net::Prefix;
use crate::timer::Jitter;

pub(super) type Routes = BTreeMap<Prefix, PathAttributes>;

/// Two hosts and the wire between them.
pub(super) struct World {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) sides: [Side; 2],
    /// One way, for everything.
    pub(super) delay: Duration,
    pub(super) chance: Jitter,
    cut: bool,
    pipes: BTreeMap<u64, Pipe>,
    last_pipe: u64,
    wire: BTreeMap<(Instant, u64), Segment>,
    /// What was under way during the cut; TCP sends it again.
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
    /// What the other side told this one, as decoded.
    pub(super) learned: Routes,
    /// Largest number of bytes ever handed out and not yet taken.
    pub(super) most_unsent: usize,
    pub(super) attempts: Vec<Instant>,
    /// Messages received, by name.
    pub(super) heard: Vec<String>,
    pub(super) downs: Vec<String>,
    negotiated: Option<Negotiated>,
    unsent: BTreeMap<ConnId, usize>,
    accepted: u64,
}

/// A TCP connection: what each end calls it, `None` where that end has none (any more).
#[derive(Debug)]
struct Pipe {
    ends: [Option<ConnId>; 2],
    framers: [Framer; 2],
    /// Nothing overtakes what was sent before.
    last_arrival: [Option<Instant>; 2],
}

#[derive(Debug)]
struct Segment {
    pipe: u64,
    to: usize,
    what: What,
}

#[derive(Debug)]
enum What {
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
        let mut chance = Jitter::new(seed);
        Self {
            start: now,
            now,
            sides: configs.map(|config| Side::new(config, chance.next_u64())),
            delay,
            chance,
            cut: false,
            pipes: BTreeMap::new(),
            last_pipe: 0,
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
        for pipe in self.pipes.values_mut() {
            pipe.ends[side] = None;
        }
        self.pipes.retain(|_, pipe| pipe.ends != [None, None]);
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
        let open: Vec<_> = self.pipes.values().map(|pipe| pipe.ends).collect();
        ends.iter().all(Option::is_some) && open == [ends]
    }

    /// Every prefix that one side wants told is known to the other, and nothing else.
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
                self.last_pipe += 1;
                let mut ends = [None, None];
                ends[side] = Some(conn);
                let pipe = Pipe {
                    ends,
                    framers: [Framer::new(), Framer::new()],
                    last_arrival: [None, None],
                };
                self.pipes.insert(self.last_pipe, pipe);
                self.say(self.last_pipe, 1 - side, What::Syn);
            }
            Output::Send { conn, bytes } => {
                let sender = &mut self.sides[side];
                let unsent = sender.unsent.entry(conn).or_default();
                *unsent += bytes.len();
                sender.most_unsent = sender.most_unsent.max(*unsent);
                let Some(pipe) = self.pipe_of(side, conn) else {
                    return;
                };
                let taken = bytes.len();
                self.say(pipe, 1 - side, What::Data(bytes));
                if self.sides[side].window.is_none() {
                    self.taken(side, conn, taken);
                }
            }
            Output::Close { conn } => {
                if let Some(id) = self.pipe_of(side, conn) {
                    self.say(id, 1 - side, What::End);
                    self.forget(id, side);
                }
            }
            Output::Established { negotiated, .. } => {
                self.sides[side].negotiated = Some(negotiated);
            }
            Output::Down { reason } => {
                self.sides[side].downs.push(reason);
                self.sides[side].learned.clear();
                self.sides[side].negotiated = None;
            }
            Output::StateChanged { .. }
            | Output::SetUserTimeout { .. }
            | Output::Reset { .. }
            | Output::Probe { .. } => {}
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

    fn pipe_of(&self, side: usize, conn: ConnId) -> Option<u64> {
        let mut pipes = self.pipes.iter();
        pipes.find_map(|(id, pipe)| (pipe.ends[side] == Some(conn)).then_some(*id))
    }

    fn forget(&mut self, id: u64, side: usize) {
        if let Some(pipe) = self.pipes.get_mut(&id) {
            pipe.ends[side] = None;
            if pipe.ends == [None, None] {
                self.pipes.remove(&id);
            }
        }
    }

    fn say(&mut self, pipe: u64, to: usize, what: What) {
        self.send(Segment { pipe, to, what });
    }

    fn send(&mut self, segment: Segment) {
        let Some(pipe) = self.pipes.get_mut(&segment.pipe) else {
            return;
        };
        let last = &mut pipe.last_arrival[segment.to];
        let at = last.map_or(self.now + self.delay, |last| {
            last.max(self.now + self.delay)
        });
        *last = Some(at);
        self.sequence += 1;
        self.wire.insert((at, self.sequence), segment);
    }

    fn arrive(&mut self, segment: Segment) {
        if self.cut {
            // A lost SYN is the attempt's business, everything else TCP sends again.
            if !matches!(segment.what, What::Syn) {
                self.held.push_back(segment);
            }
            return;
        }
        let Segment { pipe: id, to, what } = segment;
        let Some(pipe) = self.pipes.get_mut(&id) else {
            return;
        };
        let ends = pipe.ends;
        let addr: SocketAddr = "192.0.2.1:179".parse().unwrap();
        let (local, remote) = (addr, addr);
        match (what, ends[to]) {
            (What::Syn, _) if ends[1 - to].is_none() => {}
            (What::Syn, _) if !self.sides[to].listens => self.say(id, 1 - to, What::Refused),
            (What::Syn, _) => {
                self.sides[to].accepted += 1;
                let conn = ConnId::accepted(self.sides[to].accepted);
                pipe.ends[to] = Some(conn);
                self.say(id, 1 - to, What::SynAck);
                let accepted = Event::Accepted {
                    conn,
                    local,
                    remote,
                };
                self.sides[to].peer.handle(self.now, accepted);
            }
            (What::SynAck, Some(conn)) => {
                let connected = Event::Connected {
                    conn,
                    local,
                    remote,
                };
                self.sides[to].peer.handle(self.now, connected);
            }
            (What::Refused, Some(conn)) => {
                self.forget(id, to);
                let error = "connection refused".to_owned();
                self.sides[to]
                    .peer
                    .handle(self.now, Event::ConnectFailed { conn, error });
            }
            (What::End, Some(conn)) => {
                self.forget(id, to);
                let reason = "connection closed".to_owned();
                self.sides[to]
                    .peer
                    .handle(self.now, Event::Closed { conn, reason });
            }
            (What::Data(bytes), Some(conn)) => self.data(id, to, conn, bytes),
            (What::Window(bytes), Some(conn)) => self.taken(to, conn, bytes),
            // A reset answers what comes to a connection that is no more.
            (What::SynAck | What::Data(_), None) => self.say(id, 1 - to, What::End),
            (What::Refused | What::End | What::Window(_), None) => {}
        }
        self.perform();
    }

    fn data(&mut self, id: u64, to: usize, conn: ConnId, bytes: Vec<u8>) {
        if self.sides[1 - to].window.is_some() {
            self.say(id, 1 - to, What::Window(bytes.len()));
        }
        let event = Event::Received {
            conn,
            bytes: bytes.clone(),
        };
        self.sides[to].peer.handle(self.now, event);
        self.perform();
        let Some(pipe) = self.pipes.get_mut(&id) else {
            return;
        };
        let side = &mut self.sides[to];
        pipe.framers[to].push(&bytes);
        while let Some(frame) = pipe.framers[to].next(MAX_LEN_EXTENDED).unwrap() {
            let up = side.peer.established().is_some_and(|c| c.id == conn);
            side.hear(&frame, up);
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
            heard: Vec::new(),
            downs: Vec::new(),
            negotiated: None,
            unsent: BTreeMap::new(),
            accepted: 0,
        }
    }

    fn hear(&mut self, frame: &crate::bgp::Frame, up: bool) {
        let config = &self.config;
        let context = match &self.negotiated {
            Some(negotiated) if up => DecodeContext::established(negotiated),
            _ => DecodeContext::before_open(config.local_as, config.router_id, None),
        };
        if !up && Type::from_code(frame.kind) == Some(Type::Update) {
            return;
        }
        let message = decode(frame, &context).unwrap();
        self.heard.push(describe(&message));
        if let Heard::Update(update) = message {
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
pub(super) fn describe(message: &Heard) -> String {
    match message {
        Heard::Open(open) => format!("OPEN {}", open.asn),
        Heard::Keepalive => "KEEPALIVE".to_owned(),
        Heard::Notification(Notification { code, subcode, .. }) => {
            format!("NOTIFICATION {code}/{subcode}")
        }
        Heard::RouteRefresh(refresh) => {
            format!("ROUTE-REFRESH {:?} {}", refresh.kind, refresh.family)
        }
        Heard::Update(update) => {
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
