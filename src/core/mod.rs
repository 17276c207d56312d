//! The core: all state and all decisions of sidecast, without a socket, a clock or a file.
//!
//! Four verbs as every machine here has them: [`Core::handle`] takes an [`Event`],
//! [`Core::handle_timeout`] does what is due, [`Core::poll_timeout`] is the next deadline,
//! [`Core::poll_output`] what is to be done, in order. Whoever drives it takes all outputs before
//! asking for the deadline: what follows from several events at once is worked out in one go there.

mod bfd;
mod consul;
mod event;
mod history;
mod kernel;
mod operations;
mod path_proof;
mod peers;
mod read;
mod reconcile;
mod reload;
mod routes;
mod saved_state;
mod services;
mod shutdown;
mod status;
mod traffic;
mod view;

use std::collections::VecDeque;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub use crate::config::Refusal;
pub use crate::plan::{AddressSpec, NatChange, NatRule, Step};
pub use crate::registry::{
    AppState, AppStatus, AppView, DrainReport, DrainSteps, MonitorId, MonitorView, NatCount,
    NatView, NotAnnounced, NotAnnouncedReason, PathView, RegisterOutcome, RouteView, VipStatus,
    VipView,
};
pub use consul::ConsulReport;
pub use event::{
    BfdPath, Event, Output, Predecessor, RejectReason, StepError, StepId, StepResult, Transition,
    Transport, Ttl,
};
pub use history::{ChangeKind, ChangeOf, HistoryChange, HistoryEvent};
pub use path_proof::ForwardingTimes;
pub use read::Summary;
pub use view::PeerView;

use crate::app::MonitorSpec;
use crate::config::Config;
use crate::discovery::Network;
use crate::net::{Family, PeerName, Prefix};
use crate::registry::{self, AckResult, NetworkFacts, Registry};
use crate::small_set::SmallSet;
use crate::timer::{EarliestDeadline, next_multiple};
use bfd::{BfdSessions, LivenessChange};
use consul::ConsulState;
use history::History;
use kernel::KernelState;
use path_proof::PathProofs;
use peers::{HostInfo, Peers};
use shutdown::Shutdown;

/// All of sidecast's state.
pub struct Core {
    config: Config,
    start: Instant,
    registry: Registry,
    peers: Peers,
    bfd: BfdSessions,
    path_proofs: PathProofs,
    kernel: KernelState,
    shutdown: Shutdown,
    /// `None`: Consul is not configured.
    consul: Option<ConsulState>,
    network: Option<Network>,
    /// Interfaces that have carried a session or a default route.
    uplinks: BTreeSet<String>,
    /// Where NAT sends a VIP's traffic.
    nat_targets: BTreeMap<Family, IpAddr>,
    /// The settings changed, and the kernel's tables were not read since.
    reread: bool,
    /// Addresses missing in the last read of the kernel's tables.
    missing: BTreeSet<Prefix>,
    links: LinkPresence,
    acknowledgment: Acknowledgment,
    /// That the end of traffic cannot be seen was logged.
    traffic_unseen: bool,
    /// Until when End-of-RIB waits for the first checks, after a restart that kept the routes.
    end_of_rib_deferred_until: Option<Instant>,
    /// When the kernel's tables are read again.
    network_at: Instant,
    history: History,
    /// When every app and VIP is reconciled, queued or not; switched off in tests.
    resync_at: Option<Instant>,
    /// The saved state may have changed.
    state_changed: bool,
    /// The verdict may have changed.
    status_changed: bool,
    outputs: VecDeque<Output>,
}

/// Whether this network namespace has an interface besides lo.
#[derive(Clone, Copy, Debug)]
enum LinkPresence {
    NeverSeen,
    Present,
    Gone { since: Instant },
}

/// The wait for the TCP acknowledgments of the peers.
#[derive(Clone, Debug)]
enum Acknowledgment {
    Idle,
    /// To be requested once the BGP sessions with `from` (empty: with all peers) have handed their bytes to
    /// the shell.
    Pending {
        by: Instant,
        from: SmallSet<PeerName>,
    },
    Requested {
        by: Instant,
    },
}

impl Core {
    /// Starts with the apps of the configuration; their first checks are due at once, sessions open
    /// with the first [`Event::Network`]. The same seed makes the same run.
    pub fn new(config: Config, seed: u64, now: Instant) -> Self {
        let mut core = Self {
            registry: Registry::new(&config, seed, now),
            peers: Peers::new(seed.rotate_left(21)),
            bfd: BfdSessions::new(seed.rotate_left(11)),
            path_proofs: PathProofs::new(now, seed.rotate_left(33)),
            kernel: KernelState::new(seed.rotate_left(42)),
            shutdown: Shutdown::Running,
            consul: config.agent.consul.clone().map(ConsulState::new),
            network: None,
            uplinks: BTreeSet::new(),
            nat_targets: BTreeMap::new(),
            reread: false,
            missing: BTreeSet::new(),
            links: LinkPresence::NeverSeen,
            acknowledgment: Acknowledgment::Idle,
            traffic_unseen: false,
            end_of_rib_deferred_until: None,
            network_at: now + RESYNC_INTERVAL,
            history: History::default(),
            resync_at: Some(now + RESYNC_INTERVAL),
            state_changed: false,
            status_changed: true,
            outputs: VecDeque::from([Output::ReadNetwork]),
            start: now,
            config,
        };
        core.peers.expect(now, &core.config.bgp);
        core.registry.configure(now, &core.config.apps);
        // The first look at the network has these in view.
        core.registry.take_vips_changed();
        core.reconcile(now);
        core
    }

    /// Sets what this host sends in OPEN, before the first event. With a predecessor the routers may
    /// still hold its routes as stale.
    #[must_use]
    pub fn on_host(
        mut self,
        now: Instant,
        hostname: Option<String>,
        before: Option<Predecessor>,
    ) -> Self {
        let times = self.config.bgp.peers.iter().map(|p| p.graceful_restart);
        let kept = Duration::from_secs(times.max().unwrap_or(0).into()).max(END_OF_RIB_DEFERRAL);
        self.peers.set_host(HostInfo {
            hostname,
            restarting_until: before.map(|_| now + kept),
            forwarding_preserved: before.is_some_and(|before| before.forwarding),
        });
        self.end_of_rib_deferred_until = before.map(|_| now + END_OF_RIB_DEFERRAL);
        // Before the first `Event::Network` creates the sessions: they then defer End-of-RIB as needed.
        self.reconcile(now);
        self
    }

    /// Handles one event and reconciles.
    pub fn handle(&mut self, now: Instant, event: Event) {
        self.handle_all(now, [event]);
    }

    /// Handles several events and reconciles once.
    pub fn handle_all(&mut self, now: Instant, events: impl IntoIterator<Item = Event>) {
        for event in events {
            if self.shutdown.is_over() {
                return;
            }
            self.route(now, event);
        }
        self.reconcile(now);
    }

    fn route(&mut self, now: Instant, event: Event) {
        match event {
            Event::Checked {
                monitor,
                outcome,
                took,
            } => self.registry.record_result(now, monitor, outcome, took),
            Event::SocketDestroyed { protocol, port } => {
                self.registry.recheck_ports(now, Some((protocol, port)));
            }
            Event::CheckQueued { monitor } => self.registry.check_queued(now, monitor),
            Event::ClientsSeen => self.registry.clients_seen(now),
            Event::RecheckPorts => self.registry.recheck_ports(now, None),
            Event::Network(network) => self.handle_network(now, network),
            Event::MacChanged(addr) => self.peers.mac_changed(now, addr),
            Event::AddressLost(prefix) => self.address_lost(now, prefix),
            Event::Done { step, result } => self.step_done(now, step, result),
            Event::Bgp { peer, event } => {
                // Most received UPDATEs change nothing.
                if self.peers.handle(now, &peer, event) {
                    self.refresh_facts();
                }
            }
            Event::OtherSpeaker { peer, speaker } => self.peers.set_other_speaker(&peer, speaker),
            Event::Bfd {
                from,
                multihop,
                bytes,
            } => {
                self.bfd.receive(now, from, multihop, &bytes);
                self.apply_bfd(now);
            }
            Event::PathProof(event) => self.path_proofs.handle(now, event),
            Event::Acknowledged => self.peers_acknowledged(now),
            Event::Traffic { at, last_packets } => self.handle_traffic(at, last_packets),
            Event::Stop => self.stop(now),
            Event::StopForRestart => self.stop_for_restart(now),
            Event::Maintenance { app, present } => self.registry.set_maintenance(&app, present),
            Event::MaintenanceUnclear { app, problem } => {
                self.registry.set_maintenance_problem(&app, problem);
            }
            Event::Consul(report) => {
                self.status_changed = true;
                self.handle_consul(now, consul::Event::Report(report));
            }
        }
    }

    fn step_done(&mut self, now: Instant, step: StepId, result: Result<StepResult, StepError>) {
        self.status_changed = true;
        if result.is_err() {
            // Many may fail, again and again.
            let soon = self.resync_at.map(|at| at.min(now + RESYNC_AFTER_FAILURE));
            self.resync_at = soon;
        }
        let vips = self.kernel.step_done(now, step, result);
        self.enqueue(vips);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.shutdown.is_over() {
            return;
        }
        self.registry.handle_timeout(now);
        self.consul_timeout(now);
        if self.peers.handle_timeout(now) {
            self.refresh_facts();
        }
        self.bfd.retain(now, |name| self.peers.has(name));
        self.bfd.handle_timeout(now);
        self.apply_bfd(now);
        self.path_proofs.handle_timeout(now);
        let vips = self.kernel.handle_timeout(now);
        self.enqueue(vips);
        if let LinkPresence::Gone { since } = self.links
            && since + EXIT_WITHOUT_LINKS_AFTER <= now
        {
            self.exit(
                1,
                "all network interfaces are gone: the container that owned this network namespace has stopped",
            );
        }
        if let Acknowledgment::Pending { by, .. } | Acknowledgment::Requested { by } =
            self.acknowledgment
            && by <= now
        {
            self.finish_acknowledgment(now, AckResult::TimedOut);
        }
        if self.end_of_rib_deferred_until.is_some_and(|by| by <= now) {
            self.end_of_rib_deferred_until = None;
        }
        if self.resync_at.is_some_and(|at| at <= now) {
            self.resync_at = Some(next_multiple(self.start, now, RESYNC_INTERVAL));
            self.enqueue_all();
        }
        if self.network_at <= now {
            self.network_at = next_multiple(self.start, now, RESYNC_INTERVAL);
            self.outputs.push_back(Output::ReadNetwork);
        }
        self.reconcile(now);
    }

    /// Whether a session's timers are due: what has arrived must be handled first.
    pub fn session_timers_due(&self, now: Instant) -> bool {
        self.peers.poll_timeout().is_some_and(|at| at <= now)
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.shutdown.is_over() {
            return None;
        }
        let mut earliest = EarliestDeadline::new();
        earliest.add(self.registry.poll_timeout(), ());
        earliest.add(self.peers.poll_timeout(), ());
        earliest.add(self.bfd.poll_timeout(), ());
        earliest.add(self.path_proofs.poll_timeout(), ());
        earliest.add(self.kernel.poll_timeout(), ());
        earliest.add(self.shutdown.poll_timeout(), ());
        let consul = self.consul.as_ref();
        earliest.add(consul.and_then(|consul| consul.poll_timeout()), ());
        earliest.add(self.end_of_rib_deferred_until, ());
        earliest.add(self.resync_at, ());
        earliest.add(Some(self.network_at), ());
        if let LinkPresence::Gone { since } = self.links {
            earliest.add(Some(since + EXIT_WITHOUT_LINKS_AFTER), ());
        }
        if let Acknowledgment::Pending { by, .. } | Acknowledgment::Requested { by } =
            self.acknowledgment
        {
            earliest.add(Some(by), ());
        }
        earliest.get().map(|(at, ())| at)
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        let next = self.outputs.pop_front();
        if next.is_none() {
            self.outputs.shrink_to(KEPT_OUTPUTS);
        }
        next
    }

    /// These are compared with what is wanted at the end of the input.
    fn enqueue(&mut self, vips: impl IntoIterator<Item = Prefix>) {
        vips.into_iter()
            .for_each(|vip| self.registry.enqueue_vip(vip));
    }

    /// Emits the checks that are due; `consul` monitors are answered from the last answers of Consul.
    fn take_checks(&mut self, now: Instant) {
        let mut changes = Vec::new();
        while let Some(output) = self.registry.poll_output() {
            match output {
                registry::Output::Check {
                    monitor,
                    spec: MonitorSpec::Consul,
                    ..
                } => {
                    let outcome = self.consul_outcome(now, monitor);
                    self.registry
                        .record_result(now, monitor, outcome, Duration::ZERO);
                }
                registry::Output::Check {
                    monitor,
                    spec,
                    timeout,
                    targets,
                } => self.outputs.push_back(Output::Check {
                    monitor,
                    spec,
                    timeout,
                    targets,
                }),
                registry::Output::CancelCheck(monitor) => {
                    self.outputs.push_back(Output::CancelCheck { monitor });
                }
                registry::Output::StateChanged(change) => changes.push(change),
                registry::Output::Registration { app, states, why } => {
                    let kind = ChangeKind::Registration;
                    let change = HistoryChange::of_app(kind, &app, states, why);
                    self.history.add(now, change);
                }
            }
        }
        changes
            .into_iter()
            .for_each(|change| self.record(now, change));
    }

    fn take_peer_changes(&mut self, now: Instant) {
        for change in self.peers.take_changes() {
            self.history.add(now, change);
        }
    }

    fn take_session_outputs(&mut self) {
        while let Some(output) = self.peers.poll_output() {
            self.outputs.push_back(output);
        }
        while let Some(output) = self.bfd.poll_output() {
            self.outputs.push_back(output);
        }
    }

    /// Passes BFD's changes to BGP.
    fn apply_bfd(&mut self, now: Instant) {
        for change in self.bfd.take_history() {
            self.history.add(now, change);
        }
        while let Some((peer, verdict)) = self.bfd.poll_change() {
            let event = match verdict {
                LivenessChange::Failed => crate::bgp::peer::Event::BfdDown,
                LivenessChange::Up => crate::bgp::peer::Event::NetworkChanged,
            };
            self.peers.handle(now, &peer, event);
            self.refresh_facts();
        }
    }

    /// Emits outputs for changed ports, maintenance files and VIPs.
    fn emit_watch_changes(&mut self, now: Instant) {
        if self.registry.take_ports_changed() {
            self.outputs.push_back(Output::PortsChanged);
        }
        for (app, file) in self.registry.take_maintenance_files_changed() {
            self.outputs
                .push_back(Output::WatchMaintenanceFile { app, file });
        }
        self.state_changed |= self.registry.take_definitions_changed();
        let vips_changed = self.registry.take_vips_changed();
        self.watch_traffic(vips_changed);
        if vips_changed {
            self.network_at = self.network_at.min(now + VIP_CHANGES_DELAY);
        }
    }

    fn record(&mut self, now: Instant, change: registry::StateChange) {
        let states = [change.from.as_str(), change.to.as_str()];
        let mut entry =
            HistoryChange::of_app(ChangeKind::State, &change.app, states, change.why.as_str());
        entry.last_resort = change.last_resort;
        self.status_changed = true;
        self.outputs.push_back(Output::Transition(Transition {
            seq: self.history.add(now, entry),
            app: change.app,
            from: change.from,
            to: change.to,
            last_resort: change.last_resort,
            why: change.why,
            at: now,
        }));
    }

    fn handle_network(&mut self, now: Instant, mut network: Network) {
        let vips = self.kernel.retry_now();
        self.enqueue(vips);
        self.links = match (self.links, network.links_present) {
            (_, true) => LinkPresence::Present,
            (LinkPresence::Present, false) => LinkPresence::Gone { since: now },
            (links, false) => links,
        };
        let uplinks = network.interfaces.uplinks.iter().flatten();
        self.uplinks.extend(uplinks.cloned());
        self.detect_lost_addresses(now, &network);
        self.peers.pin_local_addresses(now, &mut network);
        let changed = !self
            .network
            .as_ref()
            .is_some_and(|known| self.differ_only_in_vips(known, &network));
        let strict = std::mem::take(&mut self.reread);
        if !changed && !strict {
            return;
        }
        self.peers
            .reconcile(now, &network, &self.config.bgp, strict);
        self.bfd
            .reconcile(now, &network, &self.config.bgp, |name| self.peers.has(name));
        if changed {
            self.peers.network_changed(now);
        }
        self.network = Some(network);
        self.path_proofs.enqueue_all();
        self.status_changed = true;
        self.refresh_facts();
    }

    /// Changes of our own VIPs are no reason to retry a peer.
    fn differ_only_in_vips(&self, one: &Network, other: &Network) -> bool {
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
    /// no notification named one as removed. The dump may be older than an address that was added just
    /// now, so an address counts as lost only if the next dump lacks it too.
    fn detect_lost_addresses(&mut self, now: Instant, network: &Network) {
        if self.config.agent.vip_interface.as_deref() != Some(LOOPBACK) {
            return;
        }
        let there = &network.on_loopback;
        let missing = self
            .kernel
            .stable_addresses()
            .filter(|prefix| !there.contains(prefix));
        let missing: BTreeSet<Prefix> = missing.collect();
        let before = std::mem::take(&mut self.missing);
        for prefix in missing {
            if before.contains(&prefix) {
                self.address_lost(now, prefix);
            } else {
                self.missing.insert(prefix);
            }
        }
        if !self.missing.is_empty() {
            self.outputs.push_back(Output::ReadNetwork);
        }
    }

    fn address_lost(&mut self, now: Instant, prefix: Prefix) {
        if self.kernel.address_lost(now, prefix) {
            self.registry.enqueue_vip(prefix);
        }
    }

    /// Gives the registry the reserved addresses, NAT targets and next hops.
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
        let facts = NetworkFacts {
            known: true,
            forbidden: peers
                .chain(gateways)
                .chain(own)
                .chain(broadcasts)
                .chain(router_ids)
                .collect(),
            nat_target: self.nat_targets.clone(),
            peers: self.peers.facts(),
        };
        self.registry.set_facts(facts);
    }
}

#[cfg(test)]
mod tests;

/// The only interface whose addresses a [`Network`] has in full.
const LOOPBACK: &str = "lo";
/// How long a namespace may be without interfaces before the process exits.
const EXIT_WITHOUT_LINKS_AFTER: Duration = Duration::from_secs(3);
/// How long re-reading the kernel's tables is delayed after a VIP is added: more may follow. VIPs matter to the tables
/// only as addresses that are never a source address.
const VIP_CHANGES_DELAY: Duration = Duration::from_secs(1);
/// How often all apps, VIPs and the kernel's tables are reconciled, queued or not.
const RESYNC_INTERVAL: Duration = Duration::from_secs(60);
/// How soon after a failed step.
const RESYNC_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How long End-of-RIB waits for the first checks after a restart that kept the routes.
const END_OF_RIB_DEFERRAL: Duration = Duration::from_secs(5);
/// The capacity that an empty queue keeps: what a change of a thousand apps emits at once is not kept for good.
const KEPT_OUTPUTS: usize = 16;
