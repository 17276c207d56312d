//! The shell around the core: one event loop on one thread that owns everything. It performs the core's
//! outputs in order, sleeps until the next deadline or event, and then always calls
//! `Core::handle_timeout`, so that a flood of events cannot starve a timer.

mod bfd;
mod calls;
mod carriers;
mod checks;
mod config_reader;
mod consul;
mod doctor;
mod hooks;
mod inbox;
mod kernel;
mod listener;
mod maintenance;
mod network;
mod path_proof;
mod sessions;
mod state_file;
mod systemd;
mod traffic;
mod transitions;
mod wall_clock;

use crate::api::{self, NatCounters};
use crate::app::{MonitorSpec, Source};
use crate::bgp::peer;
use crate::config::{Config, Remote};
use crate::core::{Core, Event, MonitorId, Output, Transition};
use crate::doctor::Case;
use crate::io::bgp_listen::AcceptedConnection;
use crate::io::http::{self, Call, Listener};
use crate::io::launch::Launcher;
use crate::io::monitor::{CheckOwner, Question};
use crate::io::notify::Notify;
use crate::io::router_advert::RouterAdvertiser;
use crate::io::thread_slots::ThreadSlots;
use crate::io::{process, signal};
use crate::view::verdict::Verdict;
use bfd::Bfd;
use calls::{Calls, CounterRead, CounterReads, DeferredCall, ListenerKind};
use checks::Checks;
use config_reader::{ConfigRead, ConfigReader};
use consul::ConsulWatcher;
use doctor::Doctor;
use hooks::Hooks;
use inbox::{Inbox, Wake};
use kernel::KernelTasks;
use listener::IncomingConnections;
use maintenance::Maintenance;
use path_proof::PathProofs;
use sessions::Sessions;
use smol::LocalExecutor;
use smol::channel::Sender;
use smol::future::{self, FutureExt};
use state_file::StateFile;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use systemd::SystemdNotifier;
use traffic::TrafficWatch;

/// Everything runs on the one thread that owns the agent.
type Executor = Rc<LocalExecutor<'static>>;

/// Reads the configuration again, for a reload; the error is shown to the operator.
pub type Reload = Arc<dyn Fn() -> Result<Config, String> + Send + Sync>;

/// Input of the agent. Everything that can fail permanently was done before it is made.
pub struct Start {
    pub config: Config,
    pub reload: Reload,
    pub api: Vec<Listener>,
    pub metrics: Vec<Listener>,
    pub notify: Notify,
    /// Half of systemd's watchdog timeout.
    pub watchdog: Option<Duration>,
    /// Run the monitors and log what would be done.
    pub dry_run: bool,
    pub launcher: Launcher,
    /// For jitter.
    pub seed: u64,
}

/// Runs until a signal stops it; returns the exit code.
pub fn run(start: Start) -> io::Result<u8> {
    let executor = Executor::default();
    // On the heap: on the stack every page of a frame of this size would be touched. Boxed again, what only the start
    // needs has a frame of its own, and later calls take its place on the stack.
    let agent = Box::pin(async {
        let mut agent = Box::pin(Agent::open(&executor, start)).await?;
        let code = agent.run().await;
        agent.close().await;
        Ok(code)
    });
    // Only async-io's thread polls sockets and timers. `smol::block_on` would poll them on this thread too, and each
    // event would wake both threads.
    smol::future::block_on(executor.run(agent))
}

struct Agent {
    core: Core,
    inbox: Inbox,
    calls: Calls,
    sessions: Sessions,
    bfd: Bfd,
    path_proofs: PathProofs,
    listening: IncomingConnections,
    advertiser: RouterAdvertiser,
    kernel: KernelTasks,
    traffic: TrafficWatch,
    checks: Checks,
    launcher: Launcher,
    maintenance: Maintenance,
    /// The port filter has to be set.
    ports_changed: bool,
    /// Not logged yet.
    transitions: Vec<Transition>,
    hooks: Hooks,
    systemd: SystemdNotifier,
    config_reader: ConfigReader,
    dry_run: bool,
    exit: Option<u8>,
    counter_reads: CounterReads,
    doctor: Doctor,
    state_file: Option<StateFile>,
    consul: Option<ConsulWatcher>,
    _signals: smol::Task<()>,
}

impl Agent {
    async fn open(executor: &Executor, start: Start) -> io::Result<Self> {
        // First, so that no thread or child begins with a signal blocked.
        let requests = signal::Requests::open()?;
        let now = Instant::now();
        let (senders, inbox) = inbox::open()?;
        let launcher = start.launcher;
        launcher.run_as(start.config.agent.exec_user.clone());
        let reaper = checks::reaper(executor, launcher.clone());
        let config = taken(start.config, start.dry_run);
        let limits = limits(&config);
        let kernel = KernelTasks::open(executor, senders.events.clone(), &config, start.dry_run)?;
        let traffic = TrafficWatch::new(executor, &senders.events, &config, start.dry_run);
        let checks = Checks::open(
            executor,
            senders.events.clone(),
            reaper.clone(),
            ThreadSlots::new(config.agent.check_threads),
            start.seed,
        );
        let hooks = Hooks::new(executor, reaper, &config.agent.on_change);
        http::serve(executor, start.api, limits, senders.calls);
        http::serve(executor, start.metrics, limits, senders.metrics);
        let mut listening = IncomingConnections::new(executor, senders.accepted);
        listening.listen_on(config.bgp.listen)?;
        let advertiser = router_advertiser(executor, &config, start.dry_run);
        let consul = ConsulWatcher::open(executor, &senders.events, &config.agent, start.seed);
        let before = kernel::predecessor(&config).await;
        let path_proofs = PathProofs::new(executor, &senders.events, &config);
        let mut core = Core::new(config, start.seed, now).on_host(now, process::hostname(), before);
        let state_file = StateFile::open(executor, &mut core, now).await;
        Ok(Self {
            core,
            inbox,
            calls: Calls::new(),
            sessions: Sessions::new(executor, senders.from_peers),
            bfd: Bfd::new(start.seed),
            path_proofs,
            listening,
            advertiser,
            kernel,
            traffic,
            checks,
            launcher,
            maintenance: Maintenance::new(executor, senders.events),
            ports_changed: false,
            transitions: Vec::new(),
            hooks,
            systemd: SystemdNotifier::new(now, start.notify, start.watchdog),
            config_reader: ConfigReader::new(executor, start.reload, senders.config_read),
            dry_run: start.dry_run,
            exit: None,
            counter_reads: CounterReads::new(executor),
            doctor: Doctor::new(executor),
            state_file,
            consul,
            _signals: executor.spawn(forward_signals(requests, senders.signals).boxed_local()),
        })
    }

    async fn run(&mut self) -> u8 {
        let mut now = Instant::now();
        loop {
            self.perform_outputs();
            if !self.transitions.is_empty() {
                // The tasks of the sessions run now, and their UPDATEs leave before the first line is logged.
                future::yield_now().await;
                self.log_transitions();
            }
            if let Some(code) = self.exit {
                return code;
            }
            self.calls.record_iteration(now.elapsed());
            let wake = self.wait().await;
            now = Instant::now();
            let written = self.state_file.as_ref().map(StateFile::is_written);
            self.calls.set_state_file_written(written);
            self.handle_wake(now, wake);
            // Pending events are handled too, up to a limit, before timers and outputs.
            let rest: Vec<Event> = self.inbox.pending().collect();
            self.handle(now, rest);
            // Pending packets are received before detection timers are evaluated.
            self.bfd.receive(&mut self.core, now);
            if self.core.session_timers_due(now) {
                // The process may have been stopped for longer than a hold time, with KEEPALIVEs
                // pending.
                self.sessions.receive(&mut self.core, now);
            }
            self.core.handle_timeout(now);
            self.notify_status(now);
            if let Some(file) = &mut self.state_file {
                file.save_when_due(&mut self.core, now);
            }
        }
    }

    async fn wait(&mut self) -> Wake {
        let deadline = self.deadline();
        self.inbox
            .next(deadline, &self.bfd, &mut self.counter_reads)
            .await
    }

    /// The earliest deadline of the core, systemd and the state file.
    fn deadline(&self) -> Option<Instant> {
        let core = self.core.poll_timeout();
        let state_file = self.state_file.as_ref().and_then(StateFile::deadline);
        let all = [core, self.systemd.deadline(), state_file];
        all.into_iter().flatten().min()
    }

    fn handle_wake(&mut self, now: Instant, wake: Wake) {
        match wake {
            Wake::Event(event) => self.handle(now, vec![event]),
            Wake::Accepted(accepted) => self.admit(now, accepted),
            // The NAT counters are read first.
            Wake::Call(listener, call)
                if self.kernel.has_stale_nat() && call.asks(api::shows_nat) =>
            {
                self.counter_reads
                    .start(listener, call, self.kernel.nat_counters());
            }
            Wake::Call(listener, call) => self.answer(now, listener, call, &Rc::default()),
            Wake::CounterRead(CounterRead {
                listener,
                call,
                nat,
            }) => self.answer(now, listener, call, &nat),
            Wake::Signal(signal::Request::Stop) => {
                self.systemd.stopping();
                self.core.handle(now, Event::Stop);
            }
            Wake::Signal(signal::Request::StopForRestart) => {
                self.systemd.stopping();
                self.kernel.persist_nat();
                self.core.handle(now, Event::StopForRestart);
            }
            Wake::Signal(signal::Request::Reload) => {
                self.systemd.reloading();
                self.config_reader.ask(None);
            }
            Wake::ConfigRead(config_read) => self.handle_config_read(now, *config_read),
            Wake::Bfd | Wake::Deadline => {}
        }
        self.systemd.tick(now, || self.core.is_known());
    }

    fn notify_status(&mut self, now: Instant) {
        let reloaded = self.calls.take_reloaded();
        let may_have_changed = self.core.take_status_changed() || reloaded;
        let (core, sessions, calls) = (&mut self.core, &self.sessions, &self.calls);
        self.systemd.send_status(now, may_have_changed, || {
            sessions.note_acknowledged(core);
            let verdict = Verdict::of(core, now, calls.reload_failed());
            (verdict.line(), verdict.again_in)
        });
    }

    fn handle(&mut self, now: Instant, mut events: Vec<Event>) {
        for event in &mut events {
            match event {
                Event::Network(_) => self.advertiser.advertise_now(),
                Event::Bgp { peer, event } => self.sessions.note_event(peer, event),
                _ => {}
            }
        }
        if !events.is_empty() {
            self.core.handle_all(now, events);
        }
    }

    fn answer(&mut self, now: Instant, listener: ListenerKind, call: Call, nat: &Rc<NatCounters>) {
        self.sessions.note_acknowledged(&mut self.core);
        match listener {
            ListenerKind::Api => match self.calls.take(&mut self.core, now, call, nat) {
                None => {}
                Some(DeferredCall::Reload(call)) => {
                    self.systemd.reloading();
                    self.config_reader.ask(Some(call));
                }
                Some(DeferredCall::Doctor(call)) => {
                    let failed = self.calls.reload_failed();
                    let case = || Case::of_core(&self.core, now, failed);
                    self.doctor.answer(now, call, case);
                }
            },
            ListenerKind::Metrics => self.calls.take_metrics(&self.core, now, call, nat),
        }
    }

    /// An incoming connection.
    fn admit(&mut self, now: Instant, accepted: AcceptedConnection) {
        let (local, remote) = (accepted.local, accepted.remote);
        let (peer, transport) = match self.core.admit(local, remote) {
            Ok(admitted) => admitted,
            Err(why) => return self.listening.refuse(accepted, why),
        };
        match self
            .sessions
            .accept(peer.clone(), &transport, accepted.stream)
        {
            Ok(conn) => {
                let event = peer::Event::Accepted {
                    conn,
                    local,
                    remote,
                };
                self.core.handle(now, Event::Bgp { peer, event });
            }
            Err(error) => log::warn!("peer {peer}: cannot accept its connection: {error}"),
        }
    }

    fn perform_outputs(&mut self) {
        loop {
            while let Some(output) = self.core.poll_output() {
                self.perform(output);
            }
            // One filter for all ports, set before the next check.
            if std::mem::take(&mut self.ports_changed) {
                self.checks.watch_ports(&self.core.ports());
            }
            let answers = self.checks.check_ports();
            if answers.is_empty() {
                break;
            }
            self.core.handle_all(Instant::now(), answers);
        }
        self.calls.answer_drained(&self.core);
    }

    fn start_check(&mut self, monitor: MonitorId, question: Question) {
        let is_command = matches!(question.spec, MonitorSpec::Exec(_));
        let owner = self.core.owner(monitor).filter(|_| is_command);
        let owner = owner.map(|(app, monitor)| CheckOwner {
            trusted: matches!(app.source, Source::Config | Source::Env),
            app: app.name.to_string(),
            monitor,
        });
        self.checks.start(monitor, owner, question);
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Check {
                monitor,
                spec,
                timeout,
                targets,
            } => {
                let question = Question {
                    spec,
                    timeout,
                    targets,
                };
                self.start_check(monitor, question);
            }
            Output::CancelCheck { monitor } => self.checks.cancel(monitor),
            Output::PortsChanged => self.ports_changed = true,
            Output::WatchMaintenanceFile { app, file } => self.maintenance.watch(app, file),
            Output::Step { id, step } => self.kernel.step(id, step),
            Output::ReadNetwork => self
                .kernel
                .request_snapshot(self.core.config().bgp.clone(), self.core.vips()),
            Output::FindOtherSpeaker { peer, transport } => {
                self.sessions.find_other_speaker(peer, &transport);
            }
            Output::Connect {
                peer,
                conn,
                transport,
            } => self.sessions.connect(peer, conn, &transport),
            Output::Send { peer, conn, bytes } => self.sessions.send(peer, conn, bytes),
            Output::Close { peer, conn } => self.sessions.close(peer, conn),
            Output::Reset { peer, conn } => self.sessions.reset(peer, conn),
            Output::Probe { peer, conn } => self.sessions.probe(peer, conn),
            Output::SetUserTimeout {
                peer,
                conn,
                timeout,
            } => {
                self.sessions.set_user_timeout(peer, conn, timeout);
            }
            Output::SendBfd { peer, path, bytes } => {
                self.bfd.send(&self.core, peer, path, bytes);
            }
            Output::CloseBfd { peer } => self.bfd.close(&peer),
            Output::PathProof(output) => self.path_proofs.perform(output),
            Output::PeersChanged => self.listening.set_expected_peers(&self.core),
            Output::WatchTraffic { vips } => self.traffic.watch(vips),
            Output::AwaitAcknowledged { peers } => self.sessions.await_acknowledged(peers),
            Output::Transition(transition) => self.transitions.push(transition),
            Output::Exit { code, why } => {
                self.log_transitions();
                log::info!("exit: {why}");
                self.exit = Some(code);
            }
        }
    }

    /// The configuration was read again; the log has the outcome as well.
    fn handle_config_read(&mut self, now: Instant, config_read: ConfigRead) {
        let result = config_read.config.map(|mut config| {
            if self.dry_run {
                make_dry_run(&mut config);
            }
            config
                .warnings
                .iter()
                .for_each(|warning| log::warn!("{warning}"));
            let changes = self.core.reload(now, config);
            self.apply_config();
            changes
        });
        match &result {
            Ok(changes) if changes.is_empty() => log::info!("reload: nothing changed"),
            Ok(changes) => changes
                .iter()
                .for_each(|change| log::info!("reload: {change}")),
            Err(problems) => problems
                .lines()
                .for_each(|problem| log::error!("reload: nothing was changed: {problem}")),
        }
        self.calls.reloaded(result.is_ok());
        self.systemd.reloaded();
        config_read
            .calls
            .into_iter()
            .for_each(|call| call.answer(&result));
        self.config_reader.done();
    }

    /// Applies a reload to the shell's own parts.
    fn apply_config(&mut self) {
        let config = self.core.config();
        self.launcher.run_as(config.agent.exec_user.clone());
        self.hooks.set_command(&config.agent.on_change);
        if let Some(consul) = &self.consul {
            consul.apply_settings(&config.agent);
        }
        if !self.dry_run {
            self.advertiser.set(&unnumbered(config));
        }
        if let Err(error) = self.listening.listen_on(config.bgp.listen) {
            log::error!("{error}");
        }
        self.listening.set_expected_peers(&self.core);
    }

    /// Waits until closing connections have sent their NOTIFICATION; BFD's AdminDown comes after it,
    /// since a peer that receives it first may report BFD as the reason.
    async fn close(&mut self) {
        let state_file = async {
            if let Some(file) = self.state_file.take() {
                file.close(&mut self.core, Instant::now()).await;
            }
        };
        // A connection's task ends only if its events are received.
        let sessions = self.sessions.finish().or(self.inbox.discard_peer_events());
        future::zip(state_file, sessions).await;
        self.kernel.finish().await;
        self.bfd.send_admin_down();
    }
}

/// A task of its own: polling for a signal in the loop would cost system calls at every wake-up.
async fn forward_signals(mut requests: signal::Requests, signals: Sender<signal::Request>) {
    loop {
        if signals.send(requests.next().await).await.is_err() {
            return;
        }
    }
}

fn limits(config: &Config) -> http::Limits {
    http::Limits {
        connections: config.agent.max_connections,
        ..http::Limits::default()
    }
}

/// The effective configuration; its warnings are logged.
fn taken(mut config: Config, dry_run: bool) -> Config {
    if dry_run {
        log::info!("dry run: no BGP session, no change in the kernel");
        make_dry_run(&mut config);
    }
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    config
}

/// For a dry run: passive peers without a listener, and no state file. The rest of the core runs as
/// usual.
fn make_dry_run(config: &mut Config) {
    for peer in &mut config.bgp.peers {
        (peer.passive, peer.bfd) = (true, None);
    }
    config.bgp.listen = None;
    config.agent.state_file = None;
}

/// Sends router advertisements on the interfaces of unnumbered peers; a dry run sends none.
fn router_advertiser(executor: &Executor, config: &Config, dry_run: bool) -> RouterAdvertiser {
    let mut advertiser = RouterAdvertiser::new(executor);
    if !dry_run {
        advertiser.set(&unnumbered(config));
    }
    advertiser
}

/// The interfaces of unnumbered peers.
fn unnumbered(config: &Config) -> BTreeSet<String> {
    let peers = config.bgp.peers.iter();
    let names = peers.filter_map(|peer| match &peer.remote {
        Remote::Interface(name) => Some(name.clone()),
        Remote::Addr(..) | Remote::Gateway => None,
    });
    names.collect()
}
