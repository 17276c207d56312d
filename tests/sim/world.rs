//! The world around the core: routers, kernel, services, and the time between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use sidecast::app::{App, AppName, RouteAction, Source, VipPresence};
use sidecast::bgp::peer::{self, ConnId, Peer, PeerConfig};
use sidecast::bgp::{DecodeContext, Framer, MAX_LEN_EXTENDED, PathAttributes, SessionType};
use sidecast::config::{self, Config};
use sidecast::core::{
    AppState, Core, Event, MonitorId, NatRule, Output, Step, StepError, StepId, StepResult,
};
use sidecast::discovery::{Interfaces, Network, PeerName, PeerNetwork};
use sidecast::health::{Health, Outcome};
use sidecast::net::{Asn, Family, Prefix, RouterId};
use sidecast::plan::Subject;
use sidecast::small_set::SmallSet;
use sidecast::timer::Rng;

use crate::paths::{Probes, first_hops};
use crate::reader::{Decoded, decode};
use crate::verdict::Disagreement;

pub struct World {
    pub core: Core,
    pub now: Instant,
    start: Instant,
    pub chance: Rng,
    pub routers: Vec<Router>,
    /// Addresses on the interface.
    pub addresses: BTreeMap<Prefix, Address>,
    pub nat: NatTable,
    /// Deleted by another program and not put back yet.
    pub vanished: BTreeSet<Prefix>,
    /// Steps on these fail.
    pub failing: BTreeSet<Prefix>,
    /// When a step on the prefix last failed.
    failed_at: BTreeMap<Prefix, Instant>,
    pub nat_fails: bool,
    /// Services by the text of their monitor; `None`: the check hangs.
    pub services: BTreeMap<String, Option<bool>>,
    /// How long the kernel takes for a step, at most.
    pub slow: Duration,
    pub network: Network,
    pub trace: Vec<String>,
    pub exit: Option<u8>,
    queue: BTreeMap<(Instant, u64), Pending>,
    queued: u64,
    hung: Vec<MonitorId>,
    /// VIPs that are draining, whose packets are counted.
    watched: BTreeSet<Prefix>,
    /// Bytes that the core has sent, by router and connection.
    sent: BTreeMap<(usize, ConnId), u64>,
    pub disagreement: Disagreement,
    pub probes: Probes,
    step_done_at: Instant,
}

/// The NAT rules in the kernel.
#[derive(Default)]
pub struct NatTable {
    pub rules: BTreeSet<NatRule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    Foreign,
    Ours { expires: Option<Instant> },
}

/// One BGP router at the other end.
pub struct Router {
    pub name: PeerName,
    addr: SocketAddr,
    machine: Peer,
    framer: Framer,
    pub rib: BTreeMap<Prefix, PathAttributes>,
    /// Withdrawals received, one by one.
    pub withdrawn: usize,
    /// Whether it accepts connections.
    pub up: bool,
    /// The link is cut: what is sent is held until it is mended.
    pub cut: bool,
    /// The address families that it negotiates.
    pub families: SmallSet<Family>,
    held: VecDeque<Pending>,
    connections: u64,
    connection: Option<Connection>,
    /// Attempts that the core gave up.
    given_up: BTreeSet<ConnId>,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    core: ConnId,
    router: ConnId,
}

enum Pending {
    ToRouter(usize, ConnId, Vec<u8>),
    ToCore(usize, ConnId, Vec<u8>),
    Connect(usize, ConnId),
    Refuse(usize, ConnId),
    EndRouter(usize, ConnId),
    EndCore(usize, ConnId),
    Step(StepId, Step),
    Checked(MonitorId, Outcome),
    Network,
    Acknowledged,
    Traffic,
}

impl Pending {
    /// The router whose link it needs.
    fn link(&self) -> Option<usize> {
        match self {
            Self::ToRouter(router, ..)
            | Self::ToCore(router, ..)
            | Self::Connect(router, _)
            | Self::EndRouter(router, _)
            | Self::EndCore(router, _) => Some(*router),
            _ => None,
        }
    }
}

const LOCAL: &str = "10.0.0.9:50000";

pub fn config(apps: &str, more: &str) -> Config {
    let text = format!(
        "agent: {{listen_addr: \"off\", cleanup_timer: 60s, vip_lease: 60s}}\n\
         bgp: {{local_as: 65001, peer_as: 65000, peer_ip: [10.0.0.1, 10.0.0.2], hold_time: 30s{more}}}\n\
         apps: [{apps}]\n"
    );
    let mut read = |_: &std::path::Path| Ok(text.clone());
    match config::load(Some("f.yaml"), &BTreeMap::new(), &mut read) {
        Ok(loaded) => loaded.config,
        Err(problems) => panic!("{problems}\n{text}"),
    }
}

pub fn app(config: &Config, params: &[(String, String)]) -> App {
    config::parse_app_from_params(params, Source::Http, config).expect("a good app")
}

pub const APPS: &str = "\
    {name: dns, vips: [192.0.2.53/32, 2001:db8::53/128], interval: 1s, monitors: [\"port:udp:53\"]}, \
    {name: web, vip: 192.0.2.80/32, interval: 2s, fall: 2, monitors: [\"port:tcp:80\", \"port:tcp:81\"], nats: [\"tcp:80:8080\"], \
     vip_config: {when_down: {med: 1000}, when_draining: {as_path_prepend: 3}}}, \
    {name: always, vip: 192.0.2.99/32, vip_presence: always, monitors: [\"port:tcp:99\"], interval: 3s, start_delay: 2s}";

fn network() -> Network {
    let peers = ["10.0.0.1", "10.0.0.2"].into_iter().enumerate();
    let peers = peers.map(|(settings_index, remote)| {
        let remote: IpAddr = remote.parse().expect("an address");
        let interface = 2 + u32::try_from(settings_index).expect("few");
        let peer = PeerNetwork {
            settings_index,
            remote,
            scope_id: 0,
            obstacle: None,
            interface: Some("eth0".to_owned()),
            carrier: true,
            carrier_changes: 0,
            gateway: None,
            configured_local: false,
            local: Some("10.0.0.9".parse().expect("an address")),
            next_hop4: Some("10.0.0.9".parse().expect("an address")),
            next_hop6: Some("2001:db8:1::9".parse().expect("an address")),
            first_hops: first_hops(interface, remote),
        };
        (PeerName::new(remote, None), peer)
    });
    let own = ["10.0.0.9", "2001:db8:1::9"].map(|text| text.parse().expect("an address"));
    Network {
        peers: peers.collect(),
        nat_target: Family::ALL.into_iter().zip(own).collect(),
        own_addresses: own.into(),
        addresses: own.into(),
        on_loopback: BTreeSet::new(),
        gateways: BTreeSet::new(),
        broadcasts: BTreeSet::new(),
        router_id: RouterId::new("10.0.0.9".parse().expect("an address")),
        links_present: true,
        absent: BTreeMap::new(),
        interfaces: Interfaces::default(),
    }
}

impl Router {
    fn new(name: PeerName, families: SmallSet<Family>, now: Instant) -> Self {
        let mut machine = Peer::new(Self::config(&name, &families), 1);
        machine.handle(now, peer::Event::Start);
        Self {
            addr: SocketAddr::new(name.addr().expect("it has one"), 179),
            machine,
            name,
            framer: Framer::new(),
            rib: BTreeMap::new(),
            withdrawn: 0,
            up: true,
            cut: false,
            families,
            held: VecDeque::new(),
            connections: 0,
            connection: None,
            given_up: BTreeSet::new(),
        }
    }

    fn config(name: &PeerName, families: &SmallSet<Family>) -> PeerConfig {
        let asn = |number| Asn::new(number).expect("not 0");
        PeerConfig {
            name: format!("host, as {name} sees it"),
            local_as: asn(65000),
            peer_as: Some(asn(65001)),
            router_id: RouterId::new([10, 0, 0, 1].into()).expect("not 0"),
            hold_time: 30,
            connect_retry: Duration::from_secs(5),
            passive: true,
            families: families.clone(),
            graceful_restart: 0,
            restarting: false,
            forwarding_preserved: true,
            has_md5_key: false,
            hostname: None,
        }
    }

    /// Reads the bytes of the core as any router would.
    fn learn(&mut self, bytes: &[u8]) {
        let cx = DecodeContext {
            local_as: Asn::new(65000).expect("not 0"),
            local_router_id: RouterId::new([10, 0, 0, 1].into()).expect("not 0"),
            peer_as: Asn::new(65001),
            session: SessionType::Ebgp,
            four_octet_as: true,
            families: Family::ALL.into(),
            extended_next_hop: false,
            enhanced_route_refresh: true,
        };
        self.framer.push(bytes);
        while let Some(frame) = self.framer.next(MAX_LEN_EXTENDED).expect("well framed") {
            let Ok(Decoded::Update(update)) = decode(&frame, &cx) else {
                continue;
            };
            for prefix in &update.withdrawn {
                self.rib.remove(prefix);
                self.withdrawn += 1;
            }
            for announcement in update.announced {
                for prefix in announcement.prefixes {
                    self.rib.insert(prefix, announcement.attributes.clone());
                }
            }
        }
    }

    pub fn state(&self) -> peer::StateName {
        self.machine.state()
    }

    fn forget(&mut self) {
        self.rib.clear();
        self.framer = Framer::new();
        self.connection = None;
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self::with(config(APPS, ""), seed)
    }

    pub fn with(config: Config, seed: u64) -> Self {
        let start = Instant::now();
        let network = network();
        let routers = network.peers.keys();
        let routers = routers
            .map(|name| Router::new(name.clone(), Family::ALL.into(), start))
            .collect();
        let mut world = Self {
            core: Core::new(config, seed, start),
            now: start,
            start,
            chance: Rng::new(seed ^ 0x5eed),
            routers,
            addresses: BTreeMap::new(),
            nat: NatTable::default(),
            vanished: BTreeSet::new(),
            failing: BTreeSet::new(),
            failed_at: BTreeMap::new(),
            nat_fails: false,
            services: BTreeMap::new(),
            slow: Duration::from_millis(1),
            network,
            trace: Vec::new(),
            exit: None,
            queue: BTreeMap::new(),
            queued: 0,
            hung: Vec::new(),
            watched: BTreeSet::new(),
            sent: BTreeMap::new(),
            disagreement: Disagreement::default(),
            probes: Probes::default(),
            step_done_at: start,
        };
        world.settle();
        world
    }

    pub fn record(&mut self, what: impl Into<String>) {
        let at = self.now.saturating_duration_since(self.start);
        self.trace
            .push(format!("{:>8.3} {}", at.as_secs_f64(), what.into()));
    }

    /// A look at the network shows the addresses that are there.
    pub fn event(&mut self, mut event: Event) {
        if let Event::Network(network) = &mut event {
            network.on_loopback.extend(self.addresses.keys().copied());
        }
        self.core.handle(self.now, event);
        self.settle();
    }

    fn later(&mut self, delay: Duration, pending: Pending) {
        self.later_at(self.now + delay, pending);
    }

    fn later_at(&mut self, at: Instant, pending: Pending) {
        self.queued += 1;
        self.queue.insert((at, self.queued), pending);
    }

    /// The next moment at which anything happens.
    fn next(&self) -> Option<Instant> {
        let routers = self.routers.iter();
        let routers = routers.filter_map(|router| router.machine.poll_timeout().map(|(at, _)| at));
        let expiries = self.addresses.values().filter_map(|address| match address {
            Address::Ours { expires } => *expires,
            Address::Foreign => None,
        });
        let queue = self.queue.keys().next().map(|(at, _)| *at);
        let all = routers
            .chain(expiries)
            .chain(queue)
            .chain(self.core.poll_timeout());
        all.min()
    }

    /// Lets time pass, event by event.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..200_000 {
            match self.next() {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => {
                    self.now = end;
                    return;
                }
            }
            self.happen();
            if !self.core.is_stopping() {
                self.look_at_verdict();
            }
            if self.exit.is_some() {
                return;
            }
        }
        panic!("time does not pass\n{}", self.trace.join("\n"));
    }

    fn happen(&mut self) {
        let now = self.now;
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let pending = entry.remove();
            self.deliver(pending);
        }
        let expired = self.addresses.iter().filter(
            |(_, address)| matches!(address, Address::Ours { expires: Some(at) } if *at <= now),
        );
        let expired: Vec<Prefix> = expired.map(|(prefix, _)| *prefix).collect();
        for prefix in expired {
            self.record(format!("{prefix} expires"));
            self.assert_let_go(&prefix);
            self.addresses.remove(&prefix);
            self.vanished.insert(prefix);
            self.event(Event::AddressLost(prefix));
        }
        for index in 0..self.routers.len() {
            self.routers[index].machine.handle_timeout(now);
            self.drain_router(index);
        }
        self.core.handle_timeout(now);
        self.settle();
        if let Some(at) = self.core.poll_timeout() {
            assert!(
                at >= now,
                "a deadline in the past\n{}",
                self.trace.join("\n")
            );
        }
    }

    fn deliver(&mut self, pending: Pending) {
        if let Some(index) = pending.link().filter(|index| self.routers[*index].cut) {
            self.routers[index].held.push_back(pending);
            return;
        }
        match pending {
            Pending::Connect(index, conn) => self.connect(index, conn),
            Pending::Refuse(index, conn) => {
                let error = "connection refused".to_owned();
                self.bgp(index, peer::Event::ConnectFailed { conn, error });
            }
            Pending::ToRouter(index, conn, bytes) => {
                let router = &mut self.routers[index];
                if router
                    .connection
                    .is_some_and(|connection| connection.router == conn)
                {
                    router.learn(&bytes);
                    router
                        .machine
                        .handle(self.now, peer::Event::Received { conn, bytes });
                    self.drain_router(index);
                }
            }
            Pending::ToCore(index, conn, bytes) => {
                self.bgp(index, peer::Event::Received { conn, bytes });
            }
            Pending::EndRouter(index, conn) => self.end_router(index, conn),
            Pending::EndCore(index, conn) => {
                let reason = "reset by peer".to_owned();
                self.bgp(index, peer::Event::Closed { conn, reason });
            }
            Pending::Step(id, step) => {
                let result = self.kernel(&step);
                self.event(Event::Done { step: id, result });
            }
            Pending::Checked(monitor, outcome) => self.event(Event::Checked {
                monitor,
                outcome,
                took: Duration::from_millis(1),
            }),
            Pending::Network => {
                let network = self.network.clone();
                self.event(Event::Network(network));
            }
            Pending::Acknowledged => self.event(Event::Acknowledged),
            Pending::Traffic => self.see_traffic(),
        }
    }

    /// Reports packets for some of the draining VIPs, or that they cannot be read.
    fn see_traffic(&mut self) {
        if self.watched.is_empty() {
            return;
        }
        let mut last_packets = Ok(Vec::new());
        for vip in self.watched.clone() {
            match (self.chance.below(40), &mut last_packets) {
                (0, _) => last_packets = Err("no buffer space".to_owned()),
                (1..5, Ok(seen)) => seen.push((vip.addr(), self.now)),
                _ => {}
            }
        }
        match last_packets {
            // The shell stops reading until the set of watched VIPs changes.
            Err(_) => self.watched.clear(),
            Ok(_) => self.later(TRAFFIC_INTERVAL, Pending::Traffic),
        }
        let at = self.now;
        self.event(Event::Traffic { at, last_packets });
    }

    fn bgp(&mut self, index: usize, event: peer::Event) {
        let peer = self.routers[index].name.clone();
        self.event(Event::Bgp { peer, event });
    }

    fn connect(&mut self, index: usize, conn: ConnId) {
        let now = self.now;
        let local: SocketAddr = LOCAL.parse().expect("an address");
        let router = &mut self.routers[index];
        if router.given_up.remove(&conn) {
            return;
        }
        if !router.up || router.connection.is_some() {
            // A router with an old session still open closes it first; here the new one is refused.
            self.deliver(Pending::Refuse(index, conn));
            return;
        }
        router.connections += 1;
        let connection = Connection {
            core: conn,
            router: ConnId::accepted(router.connections),
        };
        router.connection = Some(connection);
        let remote = router.addr;
        let accepted = peer::Event::Accepted {
            conn: connection.router,
            local: remote,
            remote: local,
        };
        router.machine.handle(now, accepted);
        self.bgp(
            index,
            peer::Event::Connected {
                conn,
                local,
                remote,
            },
        );
        self.drain_router(index);
    }

    fn end_router(&mut self, index: usize, conn: ConnId) {
        let router = &mut self.routers[index];
        if router
            .connection
            .is_some_and(|connection| connection.router == conn)
        {
            router.forget();
            let reason = "closed".to_owned();
            router
                .machine
                .handle(self.now, peer::Event::Closed { conn, reason });
            self.drain_router(index);
        }
    }

    fn drain_router(&mut self, index: usize) {
        while let Some(output) = self.routers[index].machine.poll_output() {
            let connection = self.routers[index].connection;
            match output {
                peer::Output::Send { conn, bytes } => {
                    let sent = peer::Event::Sent {
                        conn,
                        bytes: bytes.len(),
                    };
                    self.routers[index].machine.handle(self.now, sent);
                    if let Some(connection) =
                        connection.filter(|connection| connection.router == conn)
                    {
                        self.later(DELAY, Pending::ToCore(index, connection.core, bytes));
                    }
                }
                peer::Output::Close { conn } => {
                    if let Some(connection) =
                        connection.filter(|connection| connection.router == conn)
                    {
                        self.routers[index].forget();
                        self.later(DELAY, Pending::EndCore(index, connection.core));
                    }
                }
                _ => {}
            }
        }
    }

    /// A router process ends and starts anew: all it knew is gone.
    pub fn restart_router(&mut self, index: usize) {
        let router = &mut self.routers[index];
        let connection = router.connection;
        let (up, cut, connections) = (router.up, router.cut, router.connections);
        let held = std::mem::take(&mut router.held);
        let given_up = std::mem::take(&mut router.given_up);
        let families = router.families.clone();
        *router = Router::new(router.name.clone(), families, self.now);
        (router.up, router.cut, router.connections) = (up, cut, connections);
        router.held = held;
        router.given_up = given_up;
        if let Some(connection) = connection {
            self.later(DELAY, Pending::EndCore(index, connection.core));
        }
    }

    /// Reports to the core how many bytes the routers' kernels have acknowledged.
    pub fn acknowledge(&mut self) {
        for (index, router) in self.routers.iter().enumerate() {
            let Some(connection) = router.connection else {
                continue;
            };
            let of_connection = |pending: &Pending| match pending {
                Pending::ToRouter(to, conn, bytes)
                    if (*to, *conn) == (index, connection.router) =>
                {
                    bytes.len()
                }
                _ => 0,
            };
            let under_way = self.queue.values().chain(&router.held).map(of_connection);
            let under_way: usize = under_way.sum();
            let sent = self.sent.get(&(index, connection.core)).copied();
            let has = sent.unwrap_or(0) - under_way as u64;
            self.core
                .note_acknowledged(&router.name, connection.core, has);
        }
    }

    /// Restores the link and delivers what was held.
    pub fn mend(&mut self, index: usize) {
        self.routers[index].cut = false;
        // Before what is on its way: a TCP connection keeps the order.
        for pending in std::mem::take(&mut self.routers[index].held) {
            self.deliver(pending);
        }
    }

    /// Performs all outputs, and checks the promises after each. The event loop does what is due, or may be done early,
    /// after every input.
    pub fn settle(&mut self) {
        self.core.handle_timeout(self.now);
        for _ in 0..10_000 {
            let Some(output) = self.core.poll_output() else {
                self.assert_promises();
                return;
            };
            self.perform(output);
        }
        panic!("outputs without an end");
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Check { monitor, spec, .. } => {
                let text = spec.to_string();
                let outcome = match self.services.get(&text).copied().unwrap_or(Some(true)) {
                    Some(true) => Outcome::pass(),
                    Some(false) if text.starts_with("port:") => {
                        Outcome::NoListener("nobody listens".to_owned())
                    }
                    Some(false) => Outcome::fail("dead"),
                    None => {
                        self.hung.push(monitor);
                        return;
                    }
                };
                let delay = Duration::from_millis(self.chance.below(50));
                self.later(delay, Pending::Checked(monitor, outcome));
            }
            Output::Step { id, step } => {
                // In order, each after a while.
                let slow = u64::try_from(self.slow.as_millis()).unwrap_or(0);
                let delay = Duration::from_millis(self.chance.below(slow + 1));
                self.step_done_at = self.step_done_at.max(self.now + delay);
                self.later_at(self.step_done_at, Pending::Step(id, step));
            }
            Output::Connect { peer, conn, .. } => {
                let index = self.index(&peer);
                self.later(DELAY, Pending::Connect(index, conn));
            }
            Output::Send { peer, conn, bytes } => {
                let index = self.index(&peer);
                let sent = bytes.len();
                *self.sent.entry((index, conn)).or_default() += sent as u64;
                let connection = self.routers[index]
                    .connection
                    .filter(|connection| connection.core == conn);
                if let Some(connection) = connection {
                    self.later(DELAY, Pending::ToRouter(index, connection.router, bytes));
                }
                let event = peer::Event::Sent { conn, bytes: sent };
                self.core.handle(self.now, Event::Bgp { peer, event });
            }
            Output::Close { peer, conn } => {
                let index = self.index(&peer);
                let connection = self.routers[index]
                    .connection
                    .filter(|connection| connection.core == conn);
                if let Some(connection) = connection {
                    self.later(DELAY, Pending::EndRouter(index, connection.router));
                } else {
                    self.routers[index].given_up.insert(conn);
                }
            }
            Output::WatchTraffic { vips } => {
                if self.watched.is_empty() {
                    self.later(TRAFFIC_INTERVAL, Pending::Traffic);
                }
                self.watched = vips;
            }
            Output::AwaitAcknowledged { .. } => self.later(DELAY * 2, Pending::Acknowledged),
            Output::ReadNetwork => self.later(DELAY, Pending::Network),
            Output::Transition(t) => {
                self.record(format!("{}: {} -> {}: {}", t.app, t.from, t.to, t.why))
            }
            Output::Exit { code, why } => {
                self.record(format!("exit {code}: {why}"));
                self.exit = Some(code);
            }
            Output::CancelCheck { monitor } => self.hung.retain(|hung| *hung != monitor),
            Output::PathProof(output) => {
                let routers = &self.routers;
                let forwards = |router: IpAddr, vip: &Prefix| {
                    let router = routers.iter().find(|r| r.addr.ip() == router && !r.cut);
                    router.map(|router| router.rib.contains_key(vip))
                };
                if let Some(event) = self.probes.perform(self.now, output, forwards) {
                    self.core.handle(self.now, Event::PathProof(event));
                }
            }
            Output::PortsChanged
            | Output::PeersChanged
            | Output::FindOtherSpeaker { .. }
            | Output::WatchMaintenanceFile { .. }
            | Output::SetUserTimeout { .. }
            | Output::Reset { .. }
            | Output::Probe { .. }
            | Output::SendBfd { .. }
            | Output::CloseBfd { .. } => {}
        }
    }

    fn index(&self, peer: &PeerName) -> usize {
        let index = self.routers.iter().position(|router| router.name == *peer);
        index.expect("it is one of the routers")
    }

    /// A lease expires only if the address is not desired, or if a step on it has failed recently.
    fn assert_let_go(&self, prefix: &Prefix) {
        let failed = self.failed_at.get(prefix);
        let fails = failed.is_some_and(|at| self.now < *at + LONGEST_RETRY);
        assert!(
            fails || !self.core.is_announced(prefix),
            "the lease of {prefix} was not renewed\n{}",
            self.trace.join("\n")
        );
    }

    fn kernel(&mut self, step: &Step) -> Result<StepResult, StepError> {
        let error = || StepError {
            message: "no buffer space".to_owned(),
            permanent: false,
        };
        if let Subject::Address(prefix) = step.subject()
            && self.failing.contains(&prefix)
        {
            self.failed_at.insert(prefix, self.now);
            return Err(error());
        }
        match step {
            Step::AddAddress {
                prefix,
                lifetime,
                replace,
                ..
            } => {
                if self.addresses.get(prefix) == Some(&Address::Foreign) {
                    self.vanished.remove(prefix);
                    return Ok(StepResult::Foreign);
                }
                let expires = lifetime.map(|lifetime| self.now + lifetime);
                self.record(format!(
                    "{} {prefix}",
                    if *replace { "renewed" } else { "added" }
                ));
                self.addresses.insert(*prefix, Address::Ours { expires });
                self.vanished.remove(prefix);
            }
            Step::RemoveAddress { prefix } => {
                self.record(format!("removed {prefix}"));
                let trace = self.trace.join("\n");
                assert!(
                    !self.core.is_announced(prefix),
                    "removed while announced\n{trace}"
                );
                let was = self.addresses.remove(prefix);
                assert_ne!(
                    was,
                    Some(Address::Foreign),
                    "{prefix} was not ours\n{}",
                    self.trace.join("\n")
                );
            }
            Step::UpdateNat(change) => {
                if self.nat_fails {
                    return Err(error());
                }
                for rule in &change.remove {
                    assert!(self.nat.rules.remove(rule), "{rule:?} was not there");
                }
                for rule in &change.add {
                    assert!(self.nat.rules.insert(rule.clone()), "{rule:?} twice");
                }
            }
        }
        Ok(StepResult::Done)
    }

    /// Ends the checks that hang; each has failed.
    pub fn unhang(&mut self) {
        for monitor in std::mem::take(&mut self.hung) {
            self.later(DELAY, Pending::Checked(monitor, Outcome::fail("killed")));
        }
    }

    /// What must hold at any moment.
    fn assert_promises(&mut self) {
        let trace = || self.trace.join("\n");
        for view in self.core.apps(self.now, None) {
            let definition = self.core.definition(&view.name).expect("it is there");
            for vip in &view.vips {
                let lost = self.vanished.contains(&vip.prefix);
                let addressed = self.addresses.contains_key(&vip.prefix) || lost;
                assert!(
                    addressed || !vip.announced,
                    "{} is announced without its address\n{}",
                    vip.prefix,
                    trace()
                );
                let silent = match view.state {
                    AppState::Down => definition.when_down == RouteAction::Withdraw,
                    AppState::Drained | AppState::Draining => {
                        definition.when_draining == RouteAction::Withdraw
                    }
                    AppState::Pending => view.health == Health::Unknown,
                    AppState::Invalid => view.why.contains("(set agent."),
                    _ => false,
                };
                assert!(
                    !(silent && vip.announced),
                    "{} of {} is announced though it is {}\n{}",
                    vip.prefix,
                    view.name,
                    view.state,
                    trace()
                );
            }
        }
        let (timeout, now) = (self.core.poll_timeout(), self.now);
        if timeout.is_none_or(|at| at > now) {
            self.core.handle_timeout(now);
            let output = self.core.poll_output();
            assert!(
                output.is_none(),
                "{output:?} out of nothing\n{}",
                self.trace.join("\n")
            );
        }
    }

    /// What must hold when nothing is broken and time has passed.
    pub fn assert_settled(&self) {
        let trace = || self.trace.join("\n");
        let mut expected: BTreeMap<Prefix, AppName> = BTreeMap::new();
        for view in self.core.apps(self.now, None) {
            let definition = self.core.definition(&view.name).expect("it is there");
            let leaving = matches!(view.state, AppState::Drained | AppState::Draining);
            let stays = !leaving || definition.when_draining != RouteAction::Withdraw;
            let held = view.state == AppState::Invalid && view.why.contains("is held by");
            assert!(
                held || matches!(view.state, AppState::Up | AppState::Drained),
                "{} is {}: {}\n{}",
                view.name,
                view.state,
                view.why,
                trace()
            );
            let vips = view
                .vips
                .iter()
                .filter(|vip| stays && vip.problem.is_none());
            expected.extend(vips.map(|vip| (vip.prefix, view.name.clone())));
        }
        let peers = self.core.peers(self.now);
        let peers: Vec<_> = peers
            .iter()
            .map(|p| (p.state, &p.last_error, p.since))
            .collect();
        for router in &self.routers {
            let known: Vec<&Prefix> = router.rib.keys().collect();
            let named = |name| {
                &self
                    .core
                    .definition(name)
                    .expect("it is there")
                    .options
                    .peers
            };
            let wanted = expected.iter();
            let wanted = wanted.filter(|(_, name)| router.name.is_among(named(name)));
            let wanted: Vec<&Prefix> = wanted.map(|(prefix, _)| prefix).collect();
            assert_eq!(known, wanted, "{}: {peers:?}\n{}", router.name, trace());
            for (prefix, attributes) in &router.rib {
                let name = &expected[prefix];
                let definition = self.core.definition(name).expect("it is there");
                let drained = self
                    .core
                    .app(self.now, name)
                    .is_some_and(|view| view.draining);
                let prepends = match &definition.when_draining {
                    RouteAction::Announce(over) if drained => over.as_path_prepend.unwrap_or(0),
                    _ => 0,
                };
                let length: usize = attributes.as_path.0.len();
                assert_eq!(length, usize::from(prepends) + 1, "{prefix}\n{}", trace());
                assert_eq!(attributes.med, None, "{prefix} as if down\n{}", trace());
            }
        }
        let missing = expected
            .keys()
            .find(|prefix| !self.addresses.contains_key(prefix));
        assert_eq!(missing, None, "{}", trace());
        // No host reaches what is not announced, this host itself apart.
        let always = |prefix: &Prefix| {
            let mut apps = self.core.apps(self.now, None);
            apps.any(|view| {
                let definition = self.core.definition(&view.name).expect("it is there");
                let holds = view.vips.iter().any(|vip| vip.prefix == *prefix);
                holds && definition.options.vip_presence == VipPresence::Always
            })
        };
        let stray = self.addresses.iter().find(|(prefix, address)| {
            **address != Address::Foreign && !expected.contains_key(prefix) && !always(prefix)
        });
        assert_eq!(stray, None, "{}", trace());
    }
}

pub const DELAY: Duration = Duration::from_millis(3);
/// How often the draining VIPs' packets are read.
const TRAFFIC_INTERVAL: Duration = Duration::from_millis(100);
/// What failed is tried again within 10 s, and the kernel may take its time.
const LONGEST_RETRY: Duration = Duration::from_secs(15);
