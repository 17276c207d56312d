//! The core on a bench: virtual time, a kernel of maps, monitors with given results.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::app::{App, AppName, VipTarget};
use crate::bgp::peer;
use crate::config::{self, Config};
use crate::core::{
    AppState, AppView, Core, Event, MonitorId, NatRule, Output, Refusal, RegisterOutcome, Step,
    StepError, StepId, StepResult, Transition,
};
use crate::discovery::{Interfaces, Network, PeerName, PeerNetwork};
use crate::health::Outcome;
use crate::net::{Family, Prefix, RouterId};
use crate::path_proof::{self, CountError, Egress, PathError, Target};
use crate::small_set::SmallSet;

pub struct Bench {
    pub core: Core,
    pub start: Instant,
    pub now: Instant,
    /// Addresses on the interface, `true` for those that another program added.
    pub addresses: BTreeMap<Prefix, bool>,
    pub nat: NatTable,
    /// How many rules all NAT steps together brought and took.
    pub nat_entries: usize,
    pub nat_fails: bool,
    /// What the checks of a monitor (by its text) find; others stay unanswered.
    pub outcomes: BTreeMap<String, Outcome>,
    pub unanswered: Vec<(MonitorId, String)>,
    /// Checks that were to end.
    pub canceled: Vec<MonitorId>,
    /// Steps on these fail.
    pub failing: BTreeMap<Prefix, StepError>,
    /// Steps are kept here instead of being done, while there is a list.
    pub held: Option<Vec<(StepId, Step)>>,
    /// Peers acknowledge at once.
    pub acknowledges: bool,
    /// The peers whose acknowledgment was asked for, each time.
    pub awaited: Vec<SmallSet<PeerName>>,
    /// Bytes sent, by connection.
    sent: BTreeMap<peer::ConnId, u64>,
    /// VIPs whose packets are looked at.
    pub watched: BTreeSet<Prefix>,
    /// Routes when outputs were last taken.
    routes: BTreeSet<Prefix>,
    pub log: Vec<String>,
    pub transitions: Vec<Transition>,
    pub exit: Option<(u8, String)>,
    pub checks: usize,
    /// Every check by its text, and the VIPs that it probes.
    pub asked: Vec<(String, Vec<VipTarget>)>,
    /// `None`: probes of the path are not answered.
    pub router: Option<Router>,
}

/// The kernel's counters of probes, and a router that forwards or does not.
pub struct Router {
    pub forwards: bool,
    /// It sends "no route" errors (ICMP) for what it does not forward.
    pub refuses: bool,
    pub permission: bool,
    pub counters: BTreeMap<Target, u64>,
    pub errors: BTreeMap<Target, u64>,
    /// Every probe: when, of which VIP, and where it left.
    pub probes: Vec<(Instant, IpAddr, Egress)>,
}

impl Router {
    pub fn new() -> Self {
        Self {
            forwards: true,
            refuses: true,
            permission: true,
            counters: BTreeMap::new(),
            errors: BTreeMap::new(),
            probes: Vec::new(),
        }
    }

    fn answer(&mut self, now: Instant, output: path_proof::Output) -> Option<path_proof::Event> {
        Some(match output {
            path_proof::Output::Count { add, remove, .. } => {
                self.counters.retain(|target, _| !remove.contains(target));
                self.counters
                    .extend(add.into_iter().map(|target| (target, 0)));
                let denied = Err(CountError::NoPermission);
                path_proof::Event::Counting(if self.permission { Ok(()) } else { denied })
            }
            path_proof::Output::Send {
                target,
                egress,
                source_ports,
                ..
            } => {
                let counter = self.counters.get_mut(&target).expect("it is counted");
                let probes = source_ports.len();
                match (self.forwards, self.refuses) {
                    (true, _) => *counter += probes as u64,
                    (false, true) => *self.errors.entry(target).or_default() += 1,
                    (false, false) => {}
                }
                let probe = (now, target.vip, egress);
                self.probes.extend(std::iter::repeat_n(probe, probes));
                let result = Ok(u32::try_from(probes).unwrap());
                path_proof::Event::Sent { target, result }
            }
            path_proof::Output::Read => path_proof::Event::Counters {
                returned: self.counters.clone().into_iter().collect(),
                errors: self
                    .errors
                    .iter()
                    .map(|(target, count)| no_route(*target, *count))
                    .collect(),
            },
            path_proof::Output::Remove => {
                self.counters.clear();
                return None;
            }
        })
    }
}

/// ICMP 3/0 of the router.
fn no_route(target: Target, count: u64) -> PathError {
    PathError {
        target,
        from: "10.0.0.1".parse().unwrap(),
        kind: 3,
        code: 0,
        count,
    }
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub fn name(text: &str) -> AppName {
    text.parse().unwrap()
}

/// A configuration of one peer, more keys and apps; `#bgp` and `#agent` lines go where they say.
pub fn config(agent: &str, apps: &str) -> Config {
    config_with("", agent, apps)
}

pub fn config_with(bgp: &str, agent: &str, apps: &str) -> Config {
    let text = format!(
        "agent: {{listen_addr: \"off\", {agent}}}\n\
         bgp: {{local_as: 65001, peer_as: 65000, peer_ip: 10.0.0.1, {bgp}}}\n\
         apps: [{apps}]\n"
    );
    let mut read = |_: &std::path::Path| Ok(text.clone());
    match config::load(Some("f.yaml"), &BTreeMap::new(), &mut read) {
        Ok(loaded) => loaded.config,
        Err(problems) => panic!("{problems}\n{text}"),
    }
}

/// An app as HTTP registers it.
pub fn app(config: &Config, params: &[(&str, &str)]) -> App {
    let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    let params: Vec<(String, String)> = params.iter().map(owned).collect();
    config::parse_app_from_params(&params, crate::app::Source::Http, config).unwrap()
}

/// One router at 10.0.0.1, this host at 10.0.0.2 and 2001:db8::2.
pub fn network() -> Network {
    let (remote, local) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let peer = PeerNetwork {
        next_hop6: Some("2001:db8::2".parse().unwrap()),
        ..PeerNetwork::on_eth0(remote, local)
    };
    Network {
        peers: BTreeMap::from([(PeerName::new(peer.remote, None), peer)]),
        nat_target: BTreeMap::from([
            (Family::Ipv4, "10.0.0.2".parse().unwrap()),
            (Family::Ipv6, "2001:db8::2".parse().unwrap()),
        ]),
        own_addresses: BTreeSet::from([
            "10.0.0.2".parse().unwrap(),
            "2001:db8::2".parse().unwrap(),
        ]),
        addresses: BTreeSet::from(["10.0.0.2".parse().unwrap(), "2001:db8::2".parse().unwrap()]),
        on_loopback: BTreeSet::new(),
        gateways: BTreeSet::from(["10.0.0.1".parse().unwrap()]),
        broadcasts: BTreeSet::from(["10.0.0.255".parse().unwrap()]),
        router_id: RouterId::new("10.0.0.2".parse().unwrap()),
        links_present: true,
        absent: BTreeMap::new(),
        interfaces: Interfaces::default(),
    }
}

/// What a router sends to bring a session up.
pub fn session_events() -> [Event; 3] {
    let conn = peer::ConnId::accepted(1);
    let accepted = peer::Event::Accepted {
        conn,
        local: "10.0.0.2:179".parse().unwrap(),
        remote: "10.0.0.1:50000".parse().unwrap(),
    };
    let received = |bytes| peer::Event::Received { conn, bytes };
    [accepted, received(open()), received(keepalive())].map(|event| Event::Bgp {
        peer: PeerName::new("10.0.0.1".parse().unwrap(), None),
        event,
    })
}

/// AS 65000, hold time 90, router id 10.0.0.1, no capabilities.
pub fn open() -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend([0, 29, 1, 4, 0xfd, 0xe8, 0, 90, 10, 0, 0, 1, 0]);
    bytes
}

pub fn keepalive() -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend([0, 19, 4]);
    bytes
}

/// The kernel's.
#[derive(Debug, Default)]
pub struct NatTable {
    pub rules: BTreeSet<NatRule>,
}

impl Bench {
    pub fn new(config: Config) -> Self {
        Self::with_outcomes(config, &[])
    }

    /// A bench whose network is known; `outcomes` holds from the first check on.
    pub fn with_outcomes(config: Config, outcomes: &[(&str, bool)]) -> Self {
        let now = Instant::now();
        let mut bench = Self {
            core: Core::new(config, 7, now),
            start: now,
            now,
            addresses: BTreeMap::new(),
            nat: NatTable::default(),
            nat_entries: 0,
            nat_fails: false,
            outcomes: BTreeMap::new(),
            unanswered: Vec::new(),
            canceled: Vec::new(),
            failing: BTreeMap::new(),
            held: None,
            acknowledges: true,
            awaited: Vec::new(),
            sent: BTreeMap::new(),
            watched: BTreeSet::new(),
            routes: BTreeSet::new(),
            log: Vec::new(),
            transitions: Vec::new(),
            exit: None,
            checks: 0,
            asked: Vec::new(),
            router: None,
        };
        for (monitor, passes) in outcomes {
            bench.says(monitor, *passes);
        }
        bench.event(Event::Network(network()));
        bench.advance(Duration::ZERO);
        bench
    }

    /// What a monitor finds from now on.
    pub fn says(&mut self, monitor: &str, passes: bool) {
        let outcome = if passes {
            Outcome::pass()
        } else {
            Outcome::fail("broken")
        };
        self.outcomes.insert(monitor.to_owned(), outcome);
    }

    /// A look at the network shows the addresses that are there.
    pub fn event(&mut self, mut event: Event) {
        if let Event::Network(network) = &mut event {
            network.on_loopback.extend(self.addresses.keys().copied());
        }
        self.core.handle(self.now, event);
        self.reconcile();
    }

    /// Lets time pass, deadline by deadline.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..100_000 {
            self.core.handle_timeout(self.now);
            self.reconcile();
            match self.core.poll_timeout() {
                Some(at) if at <= end => {
                    assert!(at >= self.now, "a deadline in the past");
                    self.now = at;
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("time does not pass");
    }

    /// Performs all outputs.
    pub fn reconcile(&mut self) {
        for _ in 0..10_000 {
            self.note_routes();
            let Some(output) = self.core.poll_output() else {
                return;
            };
            self.perform(output);
        }
        panic!("outputs without an end");
    }

    fn note_routes(&mut self) {
        if self.core.kernel.applied().routes.keys().eq(&self.routes) {
            return;
        }
        let after = self.announced();
        let before = std::mem::replace(&mut self.routes, after.clone());
        for prefix in before.difference(&after) {
            self.log.push(format!("withdraw {prefix}"));
        }
        for prefix in after.difference(&before) {
            assert!(
                self.core.config().agent.vip_interface.is_none()
                    || self.addresses.contains_key(prefix),
                "{prefix} is announced without its address"
            );
            self.log.push(format!("announce {prefix}"));
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Check {
                monitor,
                spec,
                targets,
                ..
            } => {
                self.checks += 1;
                for target in &targets {
                    assert!(
                        self.core.config().agent.vip_interface.is_none()
                            || self.addresses.contains_key(&target.vip),
                        "{target:?} is asked without its address"
                    );
                }
                self.asked.push((spec.to_string(), targets));
                let text = spec.to_string();
                match self.outcomes.get(&text).cloned() {
                    Some(outcome) => self.answer(monitor, outcome),
                    None => self.unanswered.push((monitor, text)),
                }
            }
            Output::CancelCheck { monitor } => self.canceled.push(monitor),
            Output::Step { id, step } => match &mut self.held {
                Some(held) => held.push((id, step)),
                None => self.step(id, &step),
            },
            Output::AwaitAcknowledged { peers } => {
                self.awaited.push(peers);
                if self.acknowledges {
                    self.core.handle(self.now, Event::Acknowledged);
                }
            }
            Output::Send { peer, conn, bytes } => {
                let bytes = bytes.len();
                let sent = self.sent.entry(conn).or_default();
                *sent += u64::try_from(bytes).unwrap();
                if self.acknowledges {
                    self.core.note_acknowledged(&peer, conn, *sent);
                }
                let event = peer::Event::Sent { conn, bytes };
                self.core.handle(self.now, Event::Bgp { peer, event });
            }
            Output::WatchTraffic { vips } => self.watched = vips,
            Output::PathProof(output) => {
                let router = self.router.as_mut();
                if let Some(event) = router.and_then(|router| router.answer(self.now, output)) {
                    self.core.handle(self.now, Event::PathProof(event));
                }
            }
            Output::Transition(transition) => self.transitions.push(transition),
            Output::Exit { code, why } => {
                self.log.push("exit".to_owned());
                self.exit = Some((code, why));
            }
            _ => {}
        }
    }

    pub fn answer(&mut self, monitor: MonitorId, outcome: Outcome) {
        let took = Duration::from_millis(1);
        self.core.handle(
            self.now,
            Event::Checked {
                monitor,
                outcome,
                took,
            },
        );
    }

    /// Answers every check that waits for its answer.
    pub fn answer_all(&mut self, outcome: Outcome) {
        for (monitor, _) in std::mem::take(&mut self.unanswered) {
            self.answer(monitor, outcome.clone());
        }
        self.reconcile();
    }

    pub fn step(&mut self, id: StepId, step: &Step) {
        let result = self.kernel(step);
        self.core.handle(self.now, Event::Done { step: id, result });
    }

    fn kernel(&mut self, step: &Step) -> Result<StepResult, StepError> {
        match step {
            Step::AddAddress {
                prefix, replace, ..
            } => {
                if let Some(error) = self.failing.get(prefix) {
                    return Err(error.clone());
                }
                if self.addresses.get(prefix) == Some(&true) {
                    return Ok(StepResult::Foreign);
                }
                let word = if *replace { "renew" } else { "add" };
                self.log.push(format!("{word} {prefix}"));
                self.addresses.insert(*prefix, false);
            }
            Step::RemoveAddress { prefix } => {
                if let Some(error) = self.failing.get(prefix) {
                    return Err(error.clone());
                }
                assert!(
                    !self.announced().contains(prefix),
                    "removed while announced"
                );
                self.log.push(format!("remove {prefix}"));
                let foreign = self.addresses.remove(prefix);
                assert_ne!(foreign, Some(true), "a foreign address was removed");
            }
            Step::UpdateNat(_) if self.nat_fails => {
                return Err(StepError {
                    message: "no buffer space".to_owned(),
                    permanent: false,
                });
            }
            Step::UpdateNat(change) => {
                for rule in &change.remove {
                    assert!(self.nat.rules.remove(rule), "{rule:?} was not there");
                }
                for rule in &change.add {
                    assert!(self.nat.rules.insert(rule.clone()), "{rule:?} twice");
                }
                self.nat_entries += change.add.len() + change.remove.len();
                self.log.push(format!("nat {}", self.nat.rules.len()));
            }
        }
        Ok(StepResult::Done)
    }

    /// Prefixes that are advertised.
    pub fn announced(&self) -> BTreeSet<Prefix> {
        let routes = &self.core.kernel.applied().routes;
        routes.keys().copied().collect()
    }

    pub fn is_announced(&self, text: &str) -> bool {
        self.announced().contains(&prefix(text))
    }

    pub fn has_address(&self, text: &str) -> bool {
        self.addresses.contains_key(&prefix(text))
    }

    pub fn register(&mut self, params: &[(&str, &str)]) -> Result<RegisterOutcome, Refusal> {
        let app = app(self.core.config(), params);
        let done = self.core.register(self.now, app);
        self.advance(Duration::ZERO);
        done
    }

    pub fn unregister(&mut self, app: &str) {
        self.core.unregister(self.now, &name(app));
        self.reconcile();
    }

    pub fn app(&self, app: &str) -> AppView {
        self.core.app(self.now, &name(app)).expect("it is there")
    }

    pub fn state(&self, app: &str) -> AppState {
        self.app(app).state
    }

    /// What was done since the last call.
    pub fn done(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }
}
