//! Two hours of a bad network: one router, and a path to it that fails in every way. A session may be down only
//! while the model says that it must be, and for one second after the kernel reports that the cause is gone;
//! without such a report, until the connect retry timer that is then running expires.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use sidecast::bgp::peer::{ConnId, Event as Bgp, Output as BgpOutput, Peer, PeerConfig, StateName};
use sidecast::core::{Core, Event, Output, StepResult};
use sidecast::discovery::{Network, PeerName, PeerNetwork};
use sidecast::net::{Asn, RouterId};
use sidecast::timer::Rng;

use crate::world::{DELAY, config};

pub struct BadNetwork {
    core: Core,
    now: Instant,
    start: Instant,
    chance: Rng,
    way: HostPath,
    router: Router,
    queue: BTreeMap<(Instant, u64), Pending>,
    queued: u64,
    /// The connections that our kernel knows.
    ours: BTreeSet<ConnId>,
    /// Segments that TCP retransmits once there is a path.
    held: VecDeque<Segment>,
    held_by_router: VecDeque<Bgp>,
    /// Until then the session may be down.
    excused_until: Instant,
    /// When the router accepted each connection.
    taken: Vec<Instant>,
    /// What happened, printed when an assertion fails.
    trace: Vec<String>,
    was_up: bool,
    pub downs: usize,
}

/// What our kernel knows of the path to the router.
struct HostPath {
    carrier: bool,
    carrier_changes: u32,
    addresses: BTreeSet<IpAddr>,
    /// The source that a route look-up answers with.
    chosen: Option<IpAddr>,
}

struct Router {
    machine: Peer,
    /// The connections that its kernel has; `false`: the daemon has not accepted it yet.
    connections: BTreeMap<ConnId, bool>,
    /// The router is powered off.
    off: bool,
    /// The router's kernel answers, its daemon does not.
    frozen: bool,
    unread: VecDeque<Segment>,
    /// The router closes every connection after this time.
    evicts: Option<Duration>,
}

#[derive(Clone)]
struct Segment {
    conn: ConnId,
    what: SegmentKind,
}

#[derive(Clone)]
enum SegmentKind {
    Syn,
    Data(Vec<u8>),
    End,
    Reset,
}

enum Pending {
    ToRouter(Segment),
    ToCore(Bgp),
    /// The kernel's report of what changed.
    ConsulReport,
    Probe(ConnId, Instant),
    Evict(ConnId),
}

impl HostPath {
    fn set_carrier(&mut self, carrier: bool) {
        self.carrier_changes += u32::from(self.carrier != carrier);
        self.carrier = carrier;
    }
}

impl Router {
    fn new(now: Instant) -> Self {
        let asn = |number| Asn::new(number).expect("not 0");
        let id = RouterId::new([10, 0, 0, 1].into()).expect("not 0");
        let mut config = PeerConfig::new(asn(65000), Some(asn(65001)), id);
        (config.hold_time, config.passive) = (HOLD, true);
        let mut machine = Peer::new(config, 1);
        machine.handle(now, Bgp::Start);
        Self {
            machine,
            connections: BTreeMap::new(),
            off: false,
            frozen: false,
            unread: VecDeque::new(),
            evicts: None,
        }
    }
}

/// The router's id of a connection of ours.
fn accepted(conn: ConnId) -> ConnId {
    ConnId::accepted(conn.generation() << 32 | conn.number())
}

/// Our id of a connection that the router accepted.
fn ours(conn: ConnId) -> ConnId {
    let number = conn.number() & u64::from(u32::MAX);
    ConnId::outgoing(number).of_generation(conn.number() >> 32)
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

impl BadNetwork {
    pub fn new(seed: u64) -> Self {
        let start = Instant::now();
        let mut config = config("{name: dns, vip: 192.0.2.53/32}", "");
        config.bgp.peers.truncate(1);
        config
            .bgp
            .peers
            .iter_mut()
            .for_each(|peer| peer.hold_time = HOLD);
        config.agent.vip_interface = None;
        let mut network = Self {
            core: Core::new(config, seed, start),
            now: start,
            start,
            chance: Rng::new(seed ^ 0xbad),
            way: HostPath {
                carrier: true,
                carrier_changes: 0,
                addresses: BTreeSet::from([addr(FIRST)]),
                chosen: Some(addr(FIRST)),
            },
            router: Router::new(start),
            queue: BTreeMap::new(),
            queued: 0,
            ours: BTreeSet::new(),
            held: VecDeque::new(),
            held_by_router: VecDeque::new(),
            excused_until: start + SOON,
            taken: Vec::new(),
            trace: Vec::new(),
            was_up: false,
            downs: 0,
        };
        network.report();
        network.settle();
        network
    }

    fn record(&mut self, what: impl Into<String>) {
        let at = self.now.saturating_duration_since(self.start);
        self.trace
            .push(format!("{:>9.3} {}", at.as_secs_f64(), what.into()));
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.chance.below(bound)
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    /// The session may be down for this long from now on.
    fn excuse(&mut self, time: Duration) {
        self.excused_until = self.excused_until.max(self.now + time);
    }

    fn later(&mut self, delay: Duration, pending: Pending) {
        self.queued += 1;
        self.queue.insert((self.now + delay, self.queued), pending);
    }

    fn report(&mut self) {
        self.later(REPORT, Pending::ConsulReport);
    }

    /// One fault after the other.
    pub fn live(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let pause = self.millis(0, 60_000);
            self.pass(pause);
            match self.below(7) {
                0 => self.churn(),
                1 => self.lose_address(),
                2 => self.lose_carrier(),
                3 => self.reboot_with_carrier_loss(),
                4 => self.reboot_behind_a_switch(),
                5 => self.freeze(),
                _ => self.evict(),
            }
        }
        self.pass(Duration::from_secs(70));
        assert!(self.is_up(), "{}", self.trace.join("\n"));
    }

    /// Adds a second address, which the kernel then prefers as a source, and later removes it.
    fn churn(&mut self) {
        self.record("another address");
        self.way.addresses.insert(addr(OTHER));
        self.way.chosen = Some(addr(OTHER));
        self.report();
        let time = self.millis(100, 30_000);
        self.pass(time);
        if self.way.addresses.contains(&addr(FIRST)) {
            self.way.addresses.remove(&addr(OTHER));
            self.way.chosen = Some(addr(FIRST));
            // A session that was established meanwhile uses it as its source.
            self.excuse(GONE + SOON);
            self.report();
            self.pass(GONE);
        }
    }

    /// Removes the session's local address, for less than a second or for longer.
    fn lose_address(&mut self) {
        let short = self.below(2) == 0;
        let time = if short {
            self.millis(10, 900)
        } else {
            self.millis(2000, 20_000)
        };
        self.record(format!("no address for {time:?}"));
        let addresses = std::mem::take(&mut self.way.addresses);
        let chosen = self.way.chosen.take();
        self.report();
        if short && self.is_up() {
            self.pass(time);
        } else {
            self.must_be_down(time, GONE);
        }
        self.way.addresses = addresses;
        self.way.chosen = chosen;
        self.report();
        self.resend();
        if !self.was_up {
            // The router's old session ends only with the RST for its next KEEPALIVE; until then it refuses a new one.
            self.excuse(KEEPALIVE + DUE);
        }
    }

    fn lose_carrier(&mut self) {
        let time = self.millis(20, 20_000);
        self.record(format!("no carrier for {time:?}"));
        self.way.set_carrier(false);
        self.report();
        // What was received last was a KEEPALIVE at most a third of the hold time ago.
        self.must_be_down(time, HOLD_AT_LEAST);
        self.way.set_carrier(true);
        self.report();
        self.resend();
        // The router's hold timer may expire before ours.
        if !self.was_up || time > HOLD_AT_LEAST {
            self.excuse(SOON);
        }
    }

    fn reboot_with_carrier_loss(&mut self) {
        let time = self.millis(500, 40_000);
        self.record(format!("the router reboots, without carrier for {time:?}"));
        self.way.set_carrier(false);
        self.held.clear();
        self.report();
        self.must_be_down(time, HOLD_AT_LEAST);
        self.reboot();
        self.way.set_carrier(true);
        self.report();
        self.resend();
        self.excuse(SOON);
    }

    /// Restarts the router with all of its state lost.
    fn reboot(&mut self) {
        self.held_by_router.clear();
        self.router = Router::new(self.now);
    }

    fn reboot_behind_a_switch(&mut self) {
        let time = self.millis(500, 40_000);
        self.record(format!("the router behind the switch is off for {time:?}"));
        self.router.off = true;
        self.must_be_down(time, HOLD_AT_LEAST);
        self.reboot();
        self.later(REPORT, Pending::ToCore(Bgp::PathChanged));
        self.resend();
        self.excuse(SOON);
    }

    fn freeze(&mut self) {
        let time = self.millis(500, 30_000);
        self.record(format!("the router's daemon is frozen for {time:?}"));
        let was_up = self.was_up;
        self.router.frozen = true;
        self.must_be_down(time, HOLD_AT_LEAST);
        self.record("and goes on");
        self.router.frozen = false;
        let mut unread = std::mem::take(&mut self.router.unread);
        // It accepts before it reads: the old session still exists.
        unread
            .make_contiguous()
            .sort_by_key(|s| !matches!(s.what, SegmentKind::Syn));
        for segment in unread {
            self.arrive(segment);
        }
        // If the session was up, only the first attempt is refused, since the old session is still open; else the retry
        // timer has backed off.
        self.excuse(if was_up {
            Duration::from_secs(2)
        } else {
            LONGEST
        });
    }

    /// The router closes every connection soon and without NOTIFICATION, as if another speaker had our address.
    fn evict(&mut self) {
        let after = self.millis(0, 8000);
        let minutes = 1 + self.below(5);
        self.record(format!("sessions end after {after:?} for {minutes} min"));
        self.router.evicts = Some(after);
        let begun = self.now;
        self.excuse(Duration::from_secs(60 * minutes) + LONGEST);
        self.end_all();
        for minute in 0..minutes {
            self.pass(Duration::from_secs(60));
            let from = begun + Duration::from_secs(60 * minute);
            let taken = self.taken.iter().filter(|at| **at >= from).count();
            let most = if minute == 0 { 7 } else { 2 };
            let trace = &self.trace;
            assert!(
                taken <= most,
                "{taken} in minute {minute}\n{}",
                trace.join("\n")
            );
        }
        self.router.evicts = None;
        // Until the retry timer has expired.
        self.pass(LONGEST);
    }

    fn end_all(&mut self) {
        let conns: Vec<ConnId> = self.router.connections.keys().copied().collect();
        for conn in conns {
            self.end(conn);
        }
    }

    /// The router closes the connection.
    fn end(&mut self, conn: ConnId) {
        if self.router.connections.remove(&conn).is_some() {
            let reason = "evicted".to_owned();
            let closed = Bgp::Closed {
                conn: accepted(conn),
                reason,
            };
            self.router.machine.handle(self.now, closed);
            self.drain_router();
            let reason = "closed by the peer".to_owned();
            self.later(DELAY, Pending::ToCore(Bgp::Closed { conn, reason }));
        }
    }

    /// No packet passes for `time`: a session has to stay up for at least `at_least` of it.
    fn must_be_down(&mut self, time: Duration, at_least: Duration) {
        let alive = if self.was_up {
            time.min(at_least)
        } else {
            Duration::ZERO
        };
        self.pass(alive);
        self.excuse(time - alive);
        self.pass(time - alive);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..1_000_000 {
            let machine = self.router.machine.poll_timeout().map(|(at, _)| at);
            let machine = machine.filter(|_| !self.router.frozen && !self.router.off);
            let queue = self.queue.keys().next().map(|(at, _)| *at);
            let next = [machine, queue, self.core.poll_timeout()];
            match next.into_iter().flatten().min() {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => {
                    self.now = end;
                    self.settle();
                    return;
                }
            }
            self.happen();
        }
        panic!("time does not pass\n{}", self.trace.join("\n"));
    }

    fn happen(&mut self) {
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= self.now
        {
            match entry.remove() {
                Pending::ToRouter(segment) => self.arrive(segment),
                Pending::ToCore(event) => self.tell_core(event),
                Pending::ConsulReport => {
                    let network = self.network();
                    self.core.handle(self.now, Event::Network(network));
                }
                Pending::Probe(conn, until) => self.answer_probe(conn, until),
                Pending::Evict(conn) if self.router.evicts.is_some() => self.end(conn),
                Pending::Evict(_) => {}
            }
            self.settle();
        }
        if !self.router.frozen && !self.router.off {
            self.router.machine.handle_timeout(self.now);
            self.drain_router();
        }
        self.core.handle_timeout(self.now);
        self.settle();
    }

    fn tell_core(&mut self, event: Bgp) {
        let peer = name();
        if let Bgp::PathChanged = event {
            return self.core.handle(
                self.now,
                Event::MacChanged(peer.addr().expect("it has one")),
            );
        }
        if let Bgp::Closed { conn, reason }
        | Bgp::ConnectFailed {
            conn,
            error: reason,
        } = &event
        {
            if self.ours.remove(conn) {
                self.record(format!("{conn} ends: {reason}"));
            }
        }
        if let Bgp::Received { conn, .. } = &event
            && !self.ours.contains(conn)
        {
            let (conn, what) = (*conn, SegmentKind::Reset);
            return self.later(DELAY, Pending::ToRouter(Segment { conn, what }));
        }
        self.core.handle(self.now, Event::Bgp { peer, event });
    }

    fn network(&self) -> Network {
        let peer = PeerNetwork {
            settings_index: 0,
            remote: name().addr().expect("it has one"),
            scope_id: 0,
            obstacle: None,
            interface: Some("eth0".to_owned()),
            carrier: self.way.carrier,
            carrier_changes: self.way.carrier_changes,
            gateway: None,
            configured_local: false,
            local: self.way.chosen,
            next_hop4: Some([10, 0, 0, 9].into()),
            next_hop6: None,
            first_hops: Vec::new(),
        };
        Network {
            peers: BTreeMap::from([(name(), peer)]),
            addresses: self.way.addresses.clone(),
            router_id: RouterId::new([10, 0, 0, 9].into()),
            links_present: true,
            absent: BTreeMap::new(),
            ..Network::default()
        }
    }

    /// Whether a packet gets from one end to the other.
    fn is_open(&self) -> bool {
        self.way.carrier && !self.way.addresses.is_empty() && !self.router.off
    }

    fn resend(&mut self) {
        for segment in std::mem::take(&mut self.held) {
            self.later(DELAY, Pending::ToRouter(segment));
        }
        for event in std::mem::take(&mut self.held_by_router) {
            self.later(DELAY, Pending::ToCore(event));
        }
    }

    fn arrive(&mut self, segment: Segment) {
        if !self.is_open() {
            // TCP gives up a SYN with its attempt, and sends no RST again.
            if matches!(segment.what, SegmentKind::Data(_) | SegmentKind::End) {
                self.held.push_back(segment);
            }
            return;
        }
        let conn = segment.conn;
        if let SegmentKind::Syn = segment.what
            && !self.router.connections.contains_key(&conn)
        {
            self.router.connections.insert(conn, false);
            self.taken.push(self.now);
            let (local, remote) = ends();
            let connected = Bgp::Connected {
                conn,
                local,
                remote,
            };
            self.later(DELAY, Pending::ToCore(connected));
        }
        if !self.router.connections.contains_key(&conn) {
            if let SegmentKind::Reset = segment.what {
                return;
            }
            let reason = "connection reset".to_owned();
            return self.later(DELAY, Pending::ToCore(Bgp::Closed { conn, reason }));
        }
        if self.router.frozen {
            return self.router.unread.push_back(segment);
        }
        let (remote, local) = ends();
        let event = match segment.what {
            SegmentKind::Syn => {
                self.router.connections.insert(conn, true);
                if let Some(after) = self.router.evicts {
                    self.later(after, Pending::Evict(conn));
                }
                let conn = accepted(conn);
                Bgp::Accepted {
                    conn,
                    local,
                    remote,
                }
            }
            SegmentKind::Data(bytes) => Bgp::Received {
                conn: accepted(conn),
                bytes,
            },
            SegmentKind::End | SegmentKind::Reset => {
                self.record(format!("the router hears the end of {conn}"));
                self.router.connections.remove(&conn);
                let reason = "closed".to_owned();
                Bgp::Closed {
                    conn: accepted(conn),
                    reason,
                }
            }
        };
        self.router.machine.handle(self.now, event);
        self.drain_router();
    }

    fn drain_router(&mut self) {
        while let Some(message) = self.router.machine.poll_output() {
            match message {
                BgpOutput::Send { conn, bytes } => {
                    let sent = Bgp::Sent {
                        conn,
                        bytes: bytes.len(),
                    };
                    self.router.machine.handle(self.now, sent);
                    let conn = ours(conn);
                    self.router_sends(Bgp::Received { conn, bytes });
                }
                BgpOutput::Close { conn } | BgpOutput::Reset { conn } => {
                    let conn = ours(conn);
                    self.router.connections.remove(&conn);
                    let reason = "closed by the peer".to_owned();
                    self.router_sends(Bgp::Closed { conn, reason });
                }
                _ => {}
            }
        }
    }

    fn router_sends(&mut self, event: Bgp) {
        if self.is_open() {
            self.later(DELAY, Pending::ToCore(event));
        } else {
            self.held_by_router.push_back(event);
        }
    }

    fn answer_probe(&mut self, conn: ConnId, until: Instant) {
        if self.is_open() && self.router.connections.contains_key(&conn) {
            self.tell_core(Bgp::Acknowledged { conn });
        } else if self.now < until {
            self.later(DELAY, Pending::Probe(conn, until));
        }
    }

    fn settle(&mut self) {
        while let Some(output) = self.core.poll_output() {
            self.perform(output);
        }
        let up = self.is_up();
        if up != self.was_up {
            let error = self
                .core
                .peers(self.now)
                .first()
                .and_then(|p| p.last_error.clone());
            self.record(format!("session up: {up}, {error:?}"));
            self.downs += usize::from(!up);
            self.was_up = up;
        }
        assert!(
            up || self.now <= self.excused_until,
            "the session is down without cause at {:?}\n{}",
            self.now - self.start,
            self.trace.join("\n")
        );
    }

    fn perform(&mut self, output: Output) {
        let segment = |conn, what| Pending::ToRouter(Segment { conn, what });
        match output {
            Output::Connect {
                conn, transport, ..
            } => {
                let bound = transport
                    .local
                    .is_some_and(|l| self.way.addresses.contains(&l));
                self.record(format!("{conn} is begun from {:?}", transport.local));
                self.ours.insert(conn);
                if bound {
                    self.later(DELAY, segment(conn, SegmentKind::Syn));
                } else {
                    let error = "source address: cannot assign".to_owned();
                    self.later(DELAY, Pending::ToCore(Bgp::ConnectFailed { conn, error }));
                }
            }
            Output::Send { peer, conn, bytes } => {
                let event = Bgp::Sent {
                    conn,
                    bytes: bytes.len(),
                };
                self.later(DELAY, segment(conn, SegmentKind::Data(bytes)));
                self.core.handle(self.now, Event::Bgp { peer, event });
            }
            Output::Close { conn, .. } => {
                self.ours.remove(&conn);
                self.later(DELAY, segment(conn, SegmentKind::End));
            }
            Output::Reset { conn, .. } => {
                self.ours.remove(&conn);
                self.later(DELAY, segment(conn, SegmentKind::Reset));
            }
            Output::Probe { conn, .. } => {
                let until = self.now + Duration::from_secs(1);
                self.later(DELAY * 2, Pending::Probe(conn, until));
            }
            Output::Step { id, .. } => {
                let result = Ok(StepResult::Done);
                self.core.handle(self.now, Event::Done { step: id, result });
            }
            Output::ReadNetwork => self.report(),
            _ => {}
        }
    }

    fn is_up(&self) -> bool {
        let peers = self.core.peers(self.now);
        peers
            .iter()
            .any(|peer| peer.state == StateName::Established)
    }
}

fn name() -> PeerName {
    PeerName::new(addr("10.0.0.1"), None)
}

fn ends() -> (SocketAddr, SocketAddr) {
    (
        SocketAddr::new(addr(FIRST), 50_000),
        SocketAddr::new(addr("10.0.0.1"), 179),
    )
}

const FIRST: &str = "10.0.0.9";
const OTHER: &str = "10.0.0.10";
/// Seconds.
const HOLD: u16 = 9;
/// The shortest time from the loss of the path until the hold timer expires.
const HOLD_AT_LEAST: Duration = Duration::from_millis(5900);
/// From one KEEPALIVE of the router to the next.
const KEEPALIVE: Duration = Duration::from_secs(3);
/// The third delay of the connect retry, and a margin.
const DUE: Duration = Duration::from_millis(5500);
/// The longest delay of the connect retry, and a margin.
const LONGEST: Duration = Duration::from_secs(61);
/// The session must be up within this after the kernel's report.
const SOON: Duration = Duration::from_secs(1);
/// How long an address may be missing.
const GONE: Duration = Duration::from_secs(1);
/// How long the kernel's report takes.
const REPORT: Duration = Duration::from_millis(25);
