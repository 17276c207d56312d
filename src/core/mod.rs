//! The core: everything sidecast knows and decides, without a socket, a clock or a file.
//!
//! Four verbs as every machine here has them: [`Core::handle`] takes an [`Event`],
//! [`Core::handle_timeout`] does what is due, [`Core::poll_timeout`] is the next deadline,
//! [`Core::poll_output`] what is to be done, in order. Whoever drives it takes all outputs before
//! asking for the deadline: what follows from several events at once is worked out in one go there.

mod event;
mod kernel;
mod life;
mod peers;
mod reload;
mod routes;
mod show;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use log::{info, warn};

pub use crate::plan::{AddressSpec, NatRule, NatTable, Step};
pub use crate::registry::{
    AppState, AppView, MonitorId, MonitorView, Refusal, Registered, VipView,
};
pub use event::{Event, Output, StepError, StepId, StepResult, Transition, Transport, Ttl};
pub use view::PeerView;

use crate::app::{App, AppName, MonitorSpec, Protocol};
use crate::bgp::{Cease, Notification};
use crate::config::{Config, Lease};
use crate::discovery::Network;
use crate::net::{Family, Prefix};
use crate::plan::{Desired, Routes};
use crate::registry::{self, Facts, Registry};
use crate::timer::Soonest;
use kernel::Kernel;
use life::{ACKNOWLEDGE, Life};
use peers::{Host, Peers};

/// All of sidecast's state.
pub struct Core {
    config: Config,
    registry: Registry,
    peers: Peers,
    kernel: Kernel,
    life: Life,
    network: Option<Network>,
    /// The settings changed and the network has not been read with them yet.
    reread: bool,
    links: Links,
    acknowledgement: Acknowledgement,
    /// Until when routes wait for the first round of checks, after a quiet restart.
    first_round_by: Option<Instant>,
    shown: Shown,
    transitions: VecDeque<Transition>,
    transition_seq: u64,
    now: Instant,
    dirty: bool,
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

/// What the shell was last told to look at.
#[derive(Default)]
struct Shown {
    ports: BTreeSet<(Protocol, u16)>,
    files: BTreeMap<AppName, PathBuf>,
    vips: BTreeSet<Prefix>,
}

impl Core {
    /// Starts with the apps of the configuration; their first checks are due at once, sessions open
    /// with the first [`Event::Network`]. The same seed makes the same run.
    pub fn new(config: Config, seed: u64, now: Instant) -> Self {
        let mut core = Self {
            registry: Registry::new(config.agent.clone(), seed),
            peers: Peers::new(seed.rotate_left(21)),
            kernel: Kernel::new(seed.rotate_left(42)),
            life: Life::Running,
            network: None,
            reread: false,
            links: Links::NeverSeen,
            acknowledgement: Acknowledgement::Idle,
            first_round_by: None,
            shown: Shown::default(),
            transitions: VecDeque::new(),
            transition_seq: 0,
            now,
            dirty: true,
            outputs: VecDeque::from([Output::NetworkWanted]),
            config,
        };
        for app in core.config.apps.clone() {
            core.registry.configure(now, app);
        }
        core.shown.vips = core.registry.vips();
        core.pump(now);
        core
    }

    /// What this host tells its peers of itself; to be said before the first event. `restarting`: a
    /// process before us left quietly, and the routers may still hold its routes.
    #[must_use]
    pub fn on_host(mut self, hostname: Option<String>, restarting: bool) -> Self {
        self.peers.set_host(Host {
            hostname,
            restarting,
        });
        self.first_round_by = restarting.then(|| self.now + FIRST_ROUND);
        self
    }

    pub fn handle(&mut self, now: Instant, event: Event) {
        self.now = now;
        if self.life.is_over() {
            return;
        }
        match event {
            Event::Checked { monitor, outcome, took } => {
                self.registry.answer(now, monitor, outcome, took);
            }
            Event::SocketDestroyed { protocol, port } => self.registry.recheck(now, |spec| {
                matches!(spec, MonitorSpec::Port { protocol: p, port: n, .. } if (*p, *n) == (protocol, port))
            }),
            Event::RecheckAll => self.registry.recheck(now, |_| true),
            Event::Network(network) => self.take_network(now, network),
            Event::AddressLost(prefix) => self.dirty |= self.kernel.lost(prefix),
            Event::Done { step, result } => {
                self.kernel.done(now, step, result);
                self.dirty = true;
            }
            Event::Bgp { peer, event } => {
                self.peers.handle(now, &peer, event);
                self.refresh_facts(now);
            }
            Event::Acknowledged => self.take_acknowledgement(now),
            Event::Stop => self.stop(now),
            Event::StopQuietly => {
                self.peers.stop_quietly(now);
                self.exit(0, "left quietly: routes and addresses stay for the next process");
            }
            Event::Maintenance { app, present } => {
                self.registry.set_maintenance(now, &app, present);
            }
        }
        self.pump(now);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        if self.life.is_over() {
            return;
        }
        self.registry.handle_timeout(now);
        self.peers.handle_timeout(now);
        self.dirty |= self.kernel.handle_timeout(now);
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
            self.take_acknowledgement(now);
        }
        if self.first_round_by.is_some_and(|by| by <= now) {
            self.first_round_by = None;
            self.dirty = true;
        }
        self.dirty |= self.life.is_due(now);
        self.pump(now);
    }

    /// The next deadline; all outputs must have been taken.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.life.is_over() {
            return None;
        }
        let mut soonest = Soonest::new();
        soonest.add(self.registry.poll_timeout(), ());
        soonest.add(self.peers.poll_timeout(), ());
        soonest.add(self.kernel.poll_timeout(), ());
        soonest.add(self.life.poll_timeout(), ());
        soonest.add(self.first_round_by, ());
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
        if self.outputs.is_empty() {
            self.reconcile();
        }
        self.outputs.pop_front()
    }

    /// Moves what the machines below want into the one queue.
    fn pump(&mut self, now: Instant) {
        while let Some(output) = self.registry.poll_output() {
            match output {
                registry::Output::Check {
                    monitor,
                    spec,
                    timeout,
                } => {
                    self.outputs.push_back(Output::Check {
                        monitor,
                        spec,
                        timeout,
                    });
                }
                registry::Output::Changed(change) => self.record(now, change),
            }
        }
        while let Some(output) = self.peers.poll_output() {
            self.outputs.push_back(output);
        }
        self.dirty |= self.registry.take_dirty();
        if self.registry.take_redefined() {
            self.show();
        }
    }

    /// Tells the shell what to look at, where that changed.
    fn show(&mut self) {
        let ports = self.registry.ports();
        if ports != self.shown.ports {
            self.shown.ports = ports;
            self.outputs.push_back(Output::PortsChanged);
        }
        let files = self.registry.maintenance_files();
        if files != self.shown.files {
            self.shown.files = files;
            self.outputs.push_back(Output::MaintenanceFilesChanged);
        }
        let vips = self.registry.vips();
        if vips != self.shown.vips {
            self.shown.vips = vips;
            self.outputs.push_back(Output::NetworkWanted);
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

    fn take_network(&mut self, now: Instant, network: Network) {
        self.links = match (self.links, network.links_present) {
            (_, true) => Links::Present,
            (Links::Present, false) => Links::Gone { since: now },
            (links, false) => links,
        };
        let changed = self.network.as_ref() != Some(&network);
        let strict = std::mem::take(&mut self.reread);
        if !changed && !strict {
            return;
        }
        self.peers.set(now, &network, &self.config.bgp, strict);
        if changed {
            self.peers.retry_now(now);
        }
        self.network = Some(network);
        self.refresh_facts(now);
    }

    /// Tells the registry what the network and the sessions mean to the VIPs.
    fn refresh_facts(&mut self, now: Instant) {
        let Some(network) = &self.network else { return };
        let peers = network.peers.values().map(|peer| (peer.remote, "the peer"));
        let gateways = network.gateways.iter().map(|addr| (*addr, "the gateway"));
        let own = network
            .own_addresses
            .iter()
            .map(|addr| (*addr, "the host's own address"));
        let no_next_hop = |family| Some((family, self.peers.no_next_hop(family)?));
        let facts = Facts {
            known: true,
            forbidden: own.chain(gateways).chain(peers).collect(),
            nat_target: network.nat_target.clone(),
            no_next_hop: Family::ALL.into_iter().filter_map(no_next_hop).collect(),
        };
        self.registry.set_facts(now, facts);
        self.note_announced();
    }

    /// Works out what is to be done now. Nothing, where nothing changed.
    fn reconcile(&mut self) {
        let now = self.now;
        // Each round either ends here or moves life one step on: there are five.
        for _ in 0..6 {
            if self.life.is_over() || !std::mem::take(&mut self.dirty) {
                break;
            }
            self.step_life(now);
            if self.life.is_over() {
                break;
            }
            let desired = self.desired(now);
            let plan = self.kernel.plan(now, &desired);
            // The first set, even an empty one, must be said: End-of-RIB waits for it.
            if !self.waits_for_first_round() {
                self.peers
                    .advertise(now, self.kernel.applied().routes.clone());
            }
            let steps = plan.steps.into_iter();
            self.pump(now);
            self.outputs
                .extend(steps.map(|(id, step)| Output::Step { id, step }));
            self.note_announced();
        }
        self.ask_acknowledgement(now);
    }

    fn waits_for_first_round(&mut self) -> bool {
        if self.first_round_by.is_some() && self.registry.is_known() {
            self.first_round_by = None;
        }
        self.first_round_by.is_some()
    }

    fn desired(&self, now: Instant) -> Desired {
        let desired = self.registry.desired(now, self.lease());
        match self.life {
            Life::Running | Life::Draining { .. } => desired,
            Life::Withdrawing { .. } => Desired {
                routes: Routes::new(),
                ..desired
            },
            Life::Removing { .. } | Life::Over => Desired {
                unaddressed: desired.unaddressed,
                ..Desired::default()
            },
        }
    }

    /// How long an address lives without us.
    fn lease(&self) -> Option<Duration> {
        match self.config.agent.vip_lease {
            Lease::Off => None,
            Lease::Fixed(lease) => Some(lease),
            Lease::Auto => {
                let peers = &self.config.bgp.peers;
                let hold = peers.iter().map(|peer| u64::from(peer.hold_time) * 3);
                let restarting = peers.iter().filter(|peer| peer.graceful_restart > 0);
                let restart = restarting.map(|peer| u64::from(peer.graceful_restart) + 60);
                hold.chain(restart)
                    .chain([180])
                    .max()
                    .map(Duration::from_secs)
            }
        }
    }

    fn note_announced(&mut self) {
        let peers = &self.peers;
        self.registry
            .note_announced(|prefix| peers.is_announced(prefix));
    }

    /// Asks the peers' kernels whether all has arrived, where somebody waits for it.
    fn ask_acknowledgement(&mut self, now: Instant) {
        if matches!(self.acknowledgement, Acknowledgement::Idle)
            && self.registry.ask_acknowledgement()
        {
            self.acknowledgement = Acknowledgement::Wanted {
                by: now + ACKNOWLEDGE,
            };
        }
        let Acknowledgement::Wanted { by } = self.acknowledgement else {
            return;
        };
        if !self.peers.is_established() {
            self.take_acknowledgement(now);
            self.pump(now);
        } else if self.peers.is_flushed() {
            self.acknowledgement = Acknowledgement::Asked { by };
            self.outputs.push_back(Output::AwaitAcknowledged);
        }
    }

    fn take_acknowledgement(&mut self, now: Instant) {
        self.acknowledgement = Acknowledgement::Idle;
        self.registry.acknowledged(now);
        self.life.acknowledge();
        self.dirty = true;
    }

    fn stop(&mut self, now: Instant) {
        self.dirty = true;
        if !self.life.is_running() {
            info!("told to stop again: not waiting any longer");
            self.life = Life::removing(now);
            return;
        }
        info!("stopping");
        let drain_time = self.registry.longest_drain();
        let out = !self.kernel.applied().routes.is_empty();
        self.registry.drain_for_exit(now);
        self.life = if out {
            Life::draining(now, drain_time)
        } else {
            Life::removing(now)
        };
        self.want_acknowledgement(now);
    }

    fn want_acknowledgement(&mut self, now: Instant) {
        self.registry.ask_acknowledgement();
        self.acknowledgement = Acknowledgement::Wanted {
            by: now + ACKNOWLEDGE,
        };
    }

    /// The only place where life goes on.
    fn step_life(&mut self, now: Instant) {
        let due = self.life.is_due(now);
        match self.life {
            Life::Draining { .. } if due => {
                if self.kernel.applied().routes.is_empty() {
                    self.life = Life::removing(now);
                } else {
                    self.life = Life::withdrawing(now);
                    self.want_acknowledgement(now);
                }
                self.dirty = true;
            }
            Life::Withdrawing { .. } if due => {
                self.life = Life::removing(now);
                self.dirty = true;
            }
            Life::Removing { .. } if due || self.is_clean() => {
                if !self.is_clean() {
                    warn!("the kernel still holds addresses or NAT rules of ours");
                }
                let cease = Notification::cease(Cease::AdministrativeShutdown, None);
                self.peers.stop(now, &cease);
                self.exit(0, "stopped");
            }
            _ => {}
        }
    }

    fn is_clean(&self) -> bool {
        self.kernel.is_clean() && self.kernel.applied().routes.is_empty()
    }

    fn exit(&mut self, code: u8, why: &str) {
        while let Some(output) = self.peers.poll_output() {
            self.outputs.push_back(output);
        }
        self.life = Life::Over;
        self.outputs.push_back(Output::Exit {
            code,
            why: why.to_owned(),
        });
    }
}

/// What the API and the configuration ask for.
impl Core {
    pub fn register(&mut self, now: Instant, app: App) -> Result<Registered, Refusal> {
        self.now = now;
        let done = self.registry.register(now, app);
        self.pump(now);
        done
    }

    /// `false`: there was none of that name.
    pub fn unregister(&mut self, now: Instant, name: &AppName) -> bool {
        self.now = now;
        let known = self.registry.unregister(now, name);
        self.pump(now);
        known
    }

    /// Drains one name or all; it stays drained, whoever registers it, until `undrain`.
    pub fn drain(&mut self, now: Instant, name: Option<&AppName>) {
        self.now = now;
        self.registry.drain(now, name);
        self.dirty = true;
        self.pump(now);
    }

    /// Ends drains; without a name all of them.
    pub fn undrain(&mut self, now: Instant, name: Option<&AppName>) {
        self.now = now;
        self.registry.undrain(now, name);
        self.pump(now);
    }

    /// Whether the drains asked for are over: withdrawn, acknowledged, `drain_time` passed.
    pub fn drained(&self, name: Option<&AppName>) -> bool {
        self.registry.is_drained(name)
    }

    /// `None`: no such app, or it has no heartbeat monitor.
    pub fn heartbeat(&mut self, now: Instant, name: &AppName) -> Option<()> {
        self.now = now;
        let known = self.registry.heartbeat(now, name);
        self.pump(now);
        known
    }

    /// Takes a new configuration and says in words what changed. What did not change keeps its
    /// session, its routes and its health.
    pub fn reload(&mut self, now: Instant, config: Config) -> Vec<String> {
        self.now = now;
        let changes = reload::reload(&mut self.registry, now, &self.config, &config);
        if self.config.bgp != config.bgp {
            self.reread = true;
            self.outputs.push_back(Output::NetworkWanted);
        }
        self.config = config;
        self.dirty = true;
        self.pump(now);
        changes
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The ports that monitors look at: their sockets' ends are to be reported.
    pub fn ports(&self) -> BTreeSet<(Protocol, u16)> {
        self.registry.ports()
    }

    /// The files that put an app into maintenance while they exist.
    pub fn maintenance_files(&self) -> BTreeMap<AppName, PathBuf> {
        self.registry.maintenance_files()
    }

    /// Prefixes that are, or may be, on the interface because of us.
    pub fn vips(&self) -> BTreeSet<Prefix> {
        self.registry.vips()
    }

    /// The first round of checks is over: every monitor has answered.
    pub fn is_known(&self) -> bool {
        self.registry.is_known()
    }

    /// Stopping, since SIGTERM or for another reason.
    pub fn is_stopping(&self) -> bool {
        !self.life.is_running()
    }
}

const KEPT_TRANSITIONS: usize = 100;
/// How long a namespace without interfaces is believed to be between two of them.
const LINKS_GONE: Duration = Duration::from_secs(3);
/// How long routes wait for the first checks after a quiet restart.
const FIRST_ROUND: Duration = Duration::from_secs(5);
