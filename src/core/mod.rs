//! The core: everything sidecast knows and decides, without a socket, a clock or a file.
//!
//! Four verbs as every machine here has them: [`Core::handle`] takes an [`Event`],
//! [`Core::handle_timeout`] does what is due, [`Core::poll_timeout`] is the next deadline,
//! [`Core::poll_output`] what is to be done, in order. Whoever drives it takes all outputs before
//! asking for the deadline: what follows from several events at once is worked out in one go there.

mod bfd;
mod consul;
mod event;
mod kernel;
mod memory;
mod peers;
mod reload;
mod routes;
mod services;
mod settle;
mod show;
mod shutdown;
mod verbs;
mod view;

use std::collections::VecDeque;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub use crate::config::Refusal;
pub use crate::plan::{AddressSpec, NatRule, NatTable, Step};
pub use crate::registry::{
    AppState, AppView, Counted, MonitorId, MonitorView, NatView, Registered, VipView,
};
pub use consul::Report;
pub use event::{
    BfdPath, Event, NotAdmitted, Output, Predecessor, StepError, StepId, StepResult, Transition,
    Transport, Ttl,
};
pub use show::Summary;
pub use view::PeerView;

use crate::app::MonitorSpec;
use crate::config::Config;
use crate::discovery::Network;
use crate::net::{Family, Prefix};
use crate::registry::{self, Facts, Registry};
use crate::timer::Soonest;
use bfd::{Bfds, Verdict};
use consul::Discovery;
use kernel::Kernel;
use peers::{Host, Peers};
use shutdown::Shutdown;

/// All of sidecast's state.
pub struct Core {
    config: Config,
    registry: Registry,
    peers: Peers,
    bfd: Bfds,
    kernel: Kernel,
    shutdown: Shutdown,
    /// `None`: Consul is not configured.
    discovery: Option<Discovery>,
    network: Option<Network>,
    /// Interfaces that have carried a session or a default route.
    uplinks: BTreeSet<String>,
    /// Where NAT sends a VIP's traffic.
    nat_targets: BTreeMap<Family, IpAddr>,
    /// The settings changed and the network has not been read with them yet.
    reread: bool,
    /// Addresses that the last look at the network did not find.
    missing: BTreeSet<Prefix>,
    links: Links,
    acknowledgement: Acknowledgement,
    /// Until when routes wait for the first round of checks, after a quiet restart.
    first_round_by: Option<Instant>,
    /// When the network is looked at again.
    network_at: Instant,
    transitions: VecDeque<Transition>,
    transition_seq: u64,
    /// When everything is looked at again, whether or not it is queued; tests have it switched off.
    full_pass_at: Option<Instant>,
    /// What a restart has to know may have changed.
    remembers: bool,
    outputs: VecDeque<Output>,
}

/// Whether this network namespace still has a way out.
#[derive(Clone, Copy, Debug)]
enum Links {
    NeverSeen,
    Present,
    Gone { since: Instant },
}

/// Where the question to the peers' kernels stands.
#[derive(Clone, Copy, Debug)]
enum Acknowledgement {
    Idle,
    /// To be asked for once the machines have given all they hold to the shell.
    Wanted {
        by: Instant,
    },
    Asked {
        by: Instant,
    },
}

impl Core {
    /// Starts with the apps of the configuration; their first checks are due at once, sessions open
    /// with the first [`Event::Network`]. The same seed makes the same run.
    pub fn new(config: Config, seed: u64, now: Instant) -> Self {
        let mut core = Self {
            registry: Registry::new(&config, seed),
            peers: Peers::new(seed.rotate_left(21)),
            bfd: Bfds::new(seed.rotate_left(11)),
            kernel: Kernel::new(seed.rotate_left(42)),
            shutdown: Shutdown::Running,
            discovery: config.agent.consul.clone().map(Discovery::new),
            network: None,
            uplinks: BTreeSet::new(),
            nat_targets: BTreeMap::new(),
            reread: false,
            missing: BTreeSet::new(),
            links: Links::NeverSeen,
            acknowledgement: Acknowledgement::Idle,
            first_round_by: None,
            network_at: now + FULL_PASS,
            transitions: VecDeque::new(),
            transition_seq: 0,
            full_pass_at: Some(now + FULL_PASS),
            remembers: false,
            outputs: VecDeque::from([Output::NetworkWanted]),
            config,
        };
        core.registry.configure(now, &core.config.apps);
        // The first look at the network has these in view.
        core.registry.take_vips_changed();
        core.settle(now);
        core
    }

    /// What this host tells its peers of itself; to be said before the first event. With a predecessor
    /// the routers may still hold routes from it.
    #[must_use]
    pub fn on_host(
        mut self,
        now: Instant,
        hostname: Option<String>,
        before: Option<Predecessor>,
    ) -> Self {
        let times = self.config.bgp.peers.iter().map(|p| p.graceful_restart);
        let kept = Duration::from_secs(times.max().unwrap_or(0).into()).max(FIRST_ROUND);
        self.peers.set_host(Host {
            hostname,
            restarting_until: before.map(|_| now + kept),
            forwarding_preserved: before.is_some_and(|before| before.forwarding),
        });
        self.first_round_by = before.map(|_| now + FIRST_ROUND);
        // The first look at the network makes the sessions: by then they know what is waited for.
        self.settle(now);
        self
    }

    pub fn handle(&mut self, now: Instant, event: Event) {
        self.handle_all(now, [event]);
    }

    /// Takes several inputs and settles once.
    pub fn handle_all(&mut self, now: Instant, events: impl IntoIterator<Item = Event>) {
        for event in events {
            if self.shutdown.is_over() {
                return;
            }
            self.route(now, event);
        }
        self.settle(now);
    }

    fn route(&mut self, now: Instant, event: Event) {
        match event {
            Event::Checked {
                monitor,
                outcome,
                took,
            } => self.registry.answer(now, monitor, outcome, took),
            Event::SocketDestroyed { protocol, port } => {
                self.registry.recheck_ports(now, Some((protocol, port)));
            }
            Event::CheckWaits { monitor } => self.registry.wait(now, monitor),
            Event::ClientsSeen => self.registry.clients_seen(now),
            Event::RecheckPorts => self.registry.recheck_ports(now, None),
            Event::Network(network) => self.take_network(now, network),
            Event::MacChanged(addr) => self.peers.mac_changed(now, addr),
            Event::AddressLost(prefix) => self.lose(now, prefix),
            Event::Done { step, result } => {
                if result.is_err() {
                    // Many may fail, again and again.
                    let soon = self.full_pass_at.map(|at| at.min(now + AFTER_FAILURE));
                    self.full_pass_at = soon;
                }
                let vips = self.kernel.done(now, step, result);
                self.look_at(vips);
            }
            Event::Bgp { peer, event } => {
                // Most of what comes in a flood of routes changes nothing.
                if self.peers.handle(now, &peer, event) {
                    self.refresh_facts();
                }
            }
            Event::Bfd {
                from,
                multihop,
                bytes,
            } => {
                self.bfd.receive(now, from, multihop, &bytes);
                self.follow_bfd(now);
            }
            Event::Acknowledged => self.take_acknowledgement(),
            Event::Stop => self.stop(now),
            Event::StopQuietly => {
                self.peers.stop_quietly(now);
                self.exit(
                    0,
                    "left quietly: routes and addresses stay for the next process",
                );
            }
            Event::Maintenance { app, present } => self.registry.set_maintenance(&app, present),
            Event::MaintenanceUnclear { app, problem } => {
                self.registry.set_maintenance_problem(&app, problem);
            }
            Event::Consul(report) => self.tell_consul(now, consul::Event::Report(report)),
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.shutdown.is_over() {
            return;
        }
        self.registry.handle_timeout(now);
        self.time_out_consul(now);
        self.peers.handle_timeout(now);
        self.bfd.keep(now, |name| self.peers.has(name));
        self.bfd.handle_timeout(now);
        self.follow_bfd(now);
        let vips = self.kernel.handle_timeout(now);
        self.look_at(vips);
        if let Links::Gone { since } = self.links
            && since + LINKS_GONE <= now
        {
            self.exit(
                1,
                "all network interfaces are gone: the container whose network this was is no more",
            );
        }
        if let Acknowledgement::Wanted { by } | Acknowledgement::Asked { by } = self.acknowledgement
            && by <= now
        {
            self.take_acknowledgement();
        }
        if self.first_round_by.is_some_and(|by| by <= now) {
            self.first_round_by = None;
        }
        if self.full_pass_at.is_some_and(|at| at <= now) {
            self.full_pass_at = Some(now + FULL_PASS);
            self.look_at_everything();
        }
        if self.network_at <= now {
            self.network_at = now + FULL_PASS;
            self.outputs.push_back(Output::NetworkWanted);
        }
        self.settle(now);
    }

    /// Whether a session's timers are due: what has arrived must be handled first.
    pub fn judges_sessions(&self, now: Instant) -> bool {
        self.peers.poll_timeout().is_some_and(|at| at <= now)
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.shutdown.is_over() {
            return None;
        }
        let mut soonest = Soonest::new();
        soonest.add(self.registry.poll_timeout(), ());
        soonest.add(self.peers.poll_timeout(), ());
        soonest.add(self.bfd.poll_timeout(), ());
        soonest.add(self.kernel.poll_timeout(), ());
        soonest.add(self.shutdown.poll_timeout(), ());
        let consul = self.discovery.as_ref();
        soonest.add(consul.and_then(|consul| consul.poll_timeout()), ());
        soonest.add(self.first_round_by, ());
        soonest.add(self.full_pass_at, ());
        soonest.add(Some(self.network_at), ());
        if let Links::Gone { since } = self.links {
            soonest.add(Some(since + LINKS_GONE), ());
        }
        if let Acknowledgement::Wanted { by } | Acknowledgement::Asked { by } = self.acknowledgement
        {
            soonest.add(Some(by), ());
        }
        soonest.get().map(|(at, ())| at)
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// These are compared with what is wanted when the input is settled.
    fn look_at(&mut self, vips: impl IntoIterator<Item = Prefix>) {
        vips.into_iter().for_each(|vip| self.registry.look_at(vip));
    }

    /// Begins the checks that are due; Consul's are answered from what it said.
    fn take_checks(&mut self, now: Instant) {
        let mut changes = Vec::new();
        while let Some(output) = self.registry.poll_output() {
            match output {
                registry::Output::Check {
                    monitor,
                    spec: MonitorSpec::Consul,
                    ..
                } => {
                    let outcome = self.ask_consul(now, monitor);
                    self.registry.answer(now, monitor, outcome, Duration::ZERO);
                }
                registry::Output::Check {
                    monitor,
                    spec,
                    timeout,
                } => self.outputs.push_back(Output::Check {
                    monitor,
                    spec,
                    timeout,
                }),
                registry::Output::Abandon(monitor) => {
                    self.outputs.push_back(Output::Abandon { monitor });
                }
                registry::Output::Changed(change) => changes.push(change),
            }
        }
        changes
            .into_iter()
            .for_each(|change| self.record(now, change));
    }

    fn take_sessions_outputs(&mut self) {
        while let Some(output) = self.peers.poll_output() {
            self.outputs.push_back(output);
        }
        while let Some(output) = self.bfd.poll_output() {
            self.outputs.push_back(output);
        }
    }

    /// Tells BGP what BFD found.
    fn follow_bfd(&mut self, now: Instant) {
        while let Some((peer, verdict)) = self.bfd.poll_verdict() {
            let event = match verdict {
                Verdict::Failed => crate::bgp::peer::Event::BfdDown,
                Verdict::Up => crate::bgp::peer::Event::NetworkChanged,
            };
            self.peers.handle(now, &peer, event);
            self.refresh_facts();
        }
    }

    /// Tells the shell what to look at, where that changed.
    fn show(&mut self, now: Instant) {
        if self.registry.take_ports_changed() {
            self.outputs.push_back(Output::PortsChanged);
        }
        if self.registry.take_maintenance_files_changed() {
            self.outputs.push_back(Output::MaintenanceFilesChanged);
        }
        self.remembers |= self.registry.take_redefined();
        if self.registry.take_vips_changed() {
            self.network_at = self.network_at.min(now + VIPS_TOGETHER);
        }
    }

    fn record(&mut self, now: Instant, change: registry::Change) {
        self.transition_seq += 1;
        let transition = Transition {
            seq: self.transition_seq,
            app: change.app,
            from: change.from,
            to: change.to,
            why: change.why,
            at: now,
        };
        if self.transitions.len() >= KEPT_TRANSITIONS {
            self.transitions.pop_front();
        }
        self.transitions.push_back(transition.clone());
        self.outputs.push_back(Output::Transition(transition));
    }

    fn take_network(&mut self, now: Instant, mut network: Network) {
        let vips = self.kernel.retry_now();
        self.look_at(vips);
        self.links = match (self.links, network.links_present) {
            (_, true) => Links::Present,
            (Links::Present, false) => Links::Gone { since: now },
            (links, false) => links,
        };
        let uplinks = network.interfaces.uplinks.iter().flatten();
        self.uplinks.extend(uplinks.cloned());
        self.find_lost(now, &network);
        self.peers.keep_locals(now, &mut network);
        let changed = !self
            .network
            .as_ref()
            .is_some_and(|known| self.alike(known, &network));
        let strict = std::mem::take(&mut self.reread);
        if !changed && !strict {
            return;
        }
        self.peers.set(now, &network, &self.config.bgp, strict);
        self.bfd
            .set(now, &network, &self.config.bgp, |name| self.peers.has(name));
        if changed {
            self.peers.network_changed(now);
        }
        self.network = Some(network);
        self.refresh_facts();
    }

    /// VIPs of ours come and go by our own doing: no reason to try a peer again.
    fn alike(&self, one: &Network, other: &Network) -> bool {
        let ours = &self.registry.vips();
        let without = |network: &Network| {
            let mut network = network.clone();
            network.on_loopback.retain(|vip| !ours.contains(vip));
            network
                .addresses
                .retain(|addr| !ours.contains(&Prefix::host(*addr)));
            network
        };
        without(one) == without(other)
    }

    /// Compares the addresses on lo with those that should be there: where notifications were lost,
    /// nobody has said that one was removed. The look may be older than an address that was added just
    /// now, so what is missing is looked for once more before it counts as lost.
    fn find_lost(&mut self, now: Instant, network: &Network) {
        if self.config.agent.vip_interface.as_deref() != Some(LOOPBACK) {
            return;
        }
        let there = &network.on_loopback;
        let missing = self
            .kernel
            .settled()
            .filter(|prefix| !there.contains(prefix));
        let missing: BTreeSet<Prefix> = missing.collect();
        let before = std::mem::take(&mut self.missing);
        for prefix in missing {
            if before.contains(&prefix) {
                self.lose(now, prefix);
            } else {
                self.missing.insert(prefix);
            }
        }
        if !self.missing.is_empty() {
            self.outputs.push_back(Output::NetworkWanted);
        }
    }

    fn lose(&mut self, now: Instant, prefix: Prefix) {
        if self.kernel.lost(now, prefix) {
            self.registry.look_at(prefix);
        }
    }

    /// Tells the registry what the network and the sessions mean to the VIPs.
    fn refresh_facts(&mut self) {
        let Some(network) = &self.network else { return };
        let peers = network.peers.values().map(|peer| (peer.remote, "the peer"));
        let gateways = network.gateways.iter().map(|addr| (*addr, "the gateway"));
        let broadcasts = network.broadcasts.iter();
        let broadcasts = broadcasts.map(|addr| (*addr, "a network's broadcast address"));
        let router_ids = self.peers.router_ids().map(|id| (id, "a peer's router id"));
        let own = network
            .own_addresses
            .iter()
            .map(|addr| (*addr, "the host's own address"));
        self.nat_targets = self.peers.nat_targets(network, &self.nat_targets);
        let no_next_hop = |family| Some((family, self.peers.no_next_hop(family)?));
        let facts = Facts {
            known: true,
            // Of two meanings the last one is told.
            forbidden: router_ids
                .chain(broadcasts)
                .chain(own)
                .chain(gateways)
                .chain(peers)
                .collect(),
            nat_target: self.nat_targets.clone(),
            no_next_hop: Family::ALL.into_iter().filter_map(no_next_hop).collect(),
        };
        self.registry.set_facts(facts);
    }
}

#[cfg(test)]
mod tests;

/// The only interface whose addresses a [`Network`] has in full.
const LOOPBACK: &str = "lo";
const KEPT_TRANSITIONS: usize = 100;
/// How long a namespace without interfaces is believed to be between two of them.
const LINKS_GONE: Duration = Duration::from_secs(3);
/// How long the network is not looked at after a VIP came: others may come with it. A VIP decides only on
/// which addresses are not to be spoken from.
const VIPS_TOGETHER: Duration = Duration::from_secs(1);
/// How often everything is looked at, the network too, whether or not it is queued.
const FULL_PASS: Duration = Duration::from_secs(60);
/// How soon after a step failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How long routes wait for the first checks after a quiet restart.
const FIRST_ROUND: Duration = Duration::from_secs(5);
