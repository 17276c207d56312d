//! The shell around the core: ONE loop on one thread that owns everything. It performs the core's
//! outputs in order, sleeps to the one deadline or the next event, and then always lets the core see
//! to its deadlines, so that a flood of events cannot starve one.

mod bfd;
mod calls;
mod carriers;
mod checks;
mod consul;
mod hooks;
mod inbox;
mod kernel;
mod listening;
mod maintenance;
mod manager;
mod memory;
mod rereading;
mod sessions;

use crate::api::{self, NatCounters};
use crate::app::{MonitorSpec, Source};
use crate::bgp::peer;
use crate::config::{Config, Remote};
use crate::core::{AppState, Core, Event, Output, Transition};
use crate::io::bgp_listen::Accepted;
use crate::io::http::{self, Call, Listener};
use crate::io::launch::Launcher;
use crate::io::monitor::Owner;
use crate::io::notify::Notify;
use crate::io::places::Places;
use crate::io::router_advert::Advertiser;
use crate::io::{process, signal};
use bfd::Bfd;
use calls::{Calls, Counted, Counting, ListenerKind};
use checks::Checks;
use consul::Follower;
use hooks::Hooks;
use inbox::{Inbox, Wake};
use kernel::KernelTasks;
use listening::Listening;
use maintenance::Maintenance;
use manager::Manager;
use memory::StateFile;
use rereading::{Reread, Rereading};
use sessions::Sessions;
use smol::LocalExecutor;
use smol::channel::Sender;
use smol::future::{self, FutureExt};
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Everything runs on the one thread that owns the agent.
type Executor = Rc<LocalExecutor<'static>>;

/// Reads the configuration anew, for a reload; the error is what a person should see.
pub type Reload = Arc<dyn Fn() -> Result<Config, String> + Send + Sync>;

/// What the agent is started with. Everything that can fail for good has been done before.
pub struct Start {
    pub config: Config,
    pub reload: Reload,
    pub api: Vec<Listener>,
    pub metrics: Vec<Listener>,
    pub notify: Notify,
    /// Half of what the service manager allows between two signs of life.
    pub watchdog: Option<Duration>,
    /// Watch, and say what would be done.
    pub dry_run: bool,
    pub launcher: Launcher,
    /// For jitter.
    pub seed: u64,
}

/// Runs until told to stop; the exit code.
pub fn run(start: Start) -> io::Result<u8> {
    let executor = Executor::default();
    // Not on the stack, where a frame of this size is touched from end to end.
    let agent = Box::pin(async {
        let mut agent = Agent::open(&executor, start).await?;
        let code = agent.run().await;
        agent.close().await;
        Ok(code)
    });
    // Sockets and timers are waited for by async-io's thread alone. `smol::block_on` would take turns with it, and
    // wake both for each event.
    smol::future::block_on(executor.run(agent))
}

struct Agent {
    core: Core,
    inbox: Inbox,
    calls: Calls,
    sessions: Sessions,
    bfd: Bfd,
    listening: Listening,
    advertiser: Advertiser,
    kernel: KernelTasks,
    checks: Checks,
    launcher: Launcher,
    maintenance: Maintenance,
    hooks: Hooks,
    manager: Manager,
    rereading: Rereading,
    dry_run: bool,
    exit: Option<u8>,
    counting: Counting,
    state_file: Option<StateFile>,
    consul: Option<Follower>,
    _servers: smol::Task<()>,
    _signals: smol::Task<()>,
}

impl Agent {
    async fn open(executor: &Executor, start: Start) -> io::Result<Self> {
        // First, so that no thread or child begins with a signal blocked.
        let requests = signal::Requests::open()?;
        let now = Instant::now();
        let (senders, inbox) = inbox::open();
        let launcher = start.launcher;
        launcher.run_as(start.config.agent.exec_user.clone());
        let reaper = checks::reaper(executor, launcher.clone());
        let mut config = start.config;
        if start.dry_run {
            log::info!("dry run: no BGP session, no change in the kernel");
            silence(&mut config);
        }
        let limits = http::Limits {
            connections: config.agent.max_connections,
            ..http::Limits::default()
        };
        config
            .warnings
            .iter()
            .for_each(|warning| log::warn!("{warning}"));
        let kernel = KernelTasks::open(executor, senders.events.clone(), &config, start.dry_run)?;
        let checks = Checks::open(
            executor,
            senders.events.clone(),
            reaper.clone(),
            Places::new(config.agent.check_threads),
            start.seed,
        );
        let hooks = Hooks::new(executor, reaper, &config.agent.on_change);
        let api = http::serve(start.api, limits, senders.calls);
        let metrics = http::serve(start.metrics, limits, senders.metrics);
        let servers = executor.spawn(api.or(metrics));
        let mut listening = Listening::new(executor, senders.accepted);
        listening.move_to(config.bgp.listen)?;
        let mut advertiser = Advertiser::new(executor);
        if !start.dry_run {
            advertiser.set(&unnumbered(&config));
        }
        let consul = Follower::open(executor, &senders.events, &config.agent, start.seed);
        let before = kernel::predecessor(&config).await;
        let mut core = Core::new(config, start.seed, now).on_host(now, process::hostname(), before);
        let state_file = StateFile::open(executor, &mut core, now).await;
        Ok(Self {
            core,
            inbox,
            calls: Calls::new(),
            sessions: Sessions::new(executor, senders.from_peers),
            bfd: Bfd::new(start.seed),
            listening,
            advertiser,
            kernel,
            checks,
            launcher,
            maintenance: Maintenance::new(executor, senders.events),
            hooks,
            manager: Manager::new(now, start.notify, start.watchdog),
            rereading: Rereading::new(executor, start.reload, senders.reread),
            dry_run: start.dry_run,
            exit: None,
            counting: Counting::new(executor),
            state_file,
            consul,
            _servers: servers,
            _signals: executor.spawn(forward_signals(requests, senders.signals)),
        })
    }

    async fn run(&mut self) -> u8 {
        let mut now = Instant::now();
        loop {
            self.perform_outputs();
            if let Some(code) = self.exit {
                return code;
            }
            self.calls.turned(now.elapsed());
            let wake = self.wait().await;
            now = Instant::now();
            let written = self.state_file.as_ref().map(StateFile::is_written);
            self.calls.remembered(written);
            self.take(now, wake);
            // What else has arrived goes along, but no more than a handful before deadlines and outputs.
            let rest: Vec<Event> = self.inbox.rest().collect();
            self.handle(now, rest);
            // What the kernel holds is heard before silence is judged.
            self.bfd.receive(&mut self.core, now);
            if self.core.judges_sessions(now) {
                // We may have been stopped for longer than a hold time, with KEEPALIVEs waiting.
                self.sessions.receive(&mut self.core, now);
            }
            self.core.handle_timeout(now);
            if let Some(file) = &mut self.state_file {
                file.keep(&mut self.core, now);
            }
        }
    }

    async fn wait(&mut self) -> Wake {
        let deadline = self.deadline();
        self.inbox
            .next(deadline, &self.bfd, &mut self.counting)
            .await
    }

    /// The soonest of the core's deadline and the few of our own.
    fn deadline(&self) -> Option<Instant> {
        let core = self.core.poll_timeout();
        let state_file = self.state_file.as_ref().and_then(StateFile::deadline);
        let all = [core, self.manager.deadline(), state_file];
        all.into_iter().flatten().min()
    }

    fn take(&mut self, now: Instant, wake: Wake) {
        match wake {
            Wake::Event(event) => self.handle(now, vec![event]),
            Wake::Accepted(accepted) => self.admit(now, accepted),
            // The kernel is asked first for what the answer shows of it.
            Wake::Call(listener, call) if self.kernel.has_nat() && call.asks(api::shows_nat) => {
                self.counting
                    .start(listener, call, self.kernel.nat_counters());
            }
            Wake::Call(listener, call) => self.answer(now, listener, call, &Rc::default()),
            Wake::Counted(Counted {
                listener,
                call,
                nat,
            }) => self.answer(now, listener, call, &nat),
            Wake::Signal(signal::Request::Stop) => {
                self.manager.stopping();
                self.core.handle(now, Event::Stop);
            }
            Wake::Signal(signal::Request::StopQuietly) => {
                self.manager.stopping();
                self.kernel.persist_nat();
                self.core.handle(now, Event::StopQuietly);
            }
            Wake::Signal(signal::Request::Reload) => {
                self.manager.reloading();
                self.rereading.ask(None);
            }
            Wake::Reread(reread) => self.take_reread(now, *reread),
            Wake::Bfd | Wake::Deadline => {}
        }
        self.manager.tick(now, || self.core.is_known());
        self.manager.tell(|| self.core.summary());
    }

    fn handle(&mut self, now: Instant, mut events: Vec<Event>) {
        for event in &mut events {
            match event {
                Event::Network(_) => self.advertiser.again(),
                Event::Bgp { peer, event } => self.sessions.take_note(peer, event),
                _ => {}
            }
        }
        if !events.is_empty() {
            self.core.handle_all(now, events);
        }
    }

    fn answer(&mut self, now: Instant, listener: ListenerKind, call: Call, nat: &Rc<NatCounters>) {
        match listener {
            ListenerKind::Api => {
                if let Some(call) = self.calls.take(&mut self.core, now, call, nat) {
                    self.manager.reloading();
                    self.rereading.ask(Some(call));
                }
            }
            ListenerKind::Metrics => self.calls.take_metrics(&self.core, now, call, nat),
        }
    }

    /// A connection that somebody opened to us.
    fn admit(&mut self, now: Instant, accepted: Accepted) {
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
            let answers = self.checks.look_at_ports();
            if answers.is_empty() {
                break;
            }
            self.core.handle_all(Instant::now(), answers);
        }
        self.calls.answer_drained(&self.core);
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Check {
                monitor,
                spec,
                timeout,
            } => {
                let is_command = matches!(spec, MonitorSpec::Exec(_));
                let owner = self.core.owner(monitor).filter(|_| is_command);
                let owner = owner.map(|(app, monitor)| Owner {
                    trusted: matches!(app.source, Source::Config | Source::Env),
                    app: app.name.to_string(),
                    monitor,
                });
                self.checks.start(monitor, owner, spec, timeout);
            }
            Output::Abandon { monitor } => self.checks.abandon(monitor),
            Output::PortsChanged => self.checks.watch_ports(&self.core.ports()),
            Output::MaintenanceFilesChanged => {
                self.maintenance
                    .watch(self.core.maintenance_files().clone());
            }
            Output::Step { id, step } => self.kernel.step(id, step),
            Output::NetworkWanted => self
                .kernel
                .look(self.core.config().bgp.clone(), self.core.vips()),
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
            Output::PeersChanged => self.listening.expect(&self.core),
            Output::AwaitAcknowledged => self.sessions.await_acknowledged(),
            Output::Transition(transition) => {
                // Logged here, after the UPDATEs that came before it have left.
                self.log_transition(&transition);
                self.hooks.changed(&transition);
            }
            Output::Exit { code, why } => {
                log::info!("exit: {why}");
                self.exit = Some(code);
            }
        }
    }

    fn log_transition(&self, transition: &Transition) {
        // The process says that it stops, and of each app that it drains: that is enough.
        let level = if self.core.is_stopping() && transition.to == AppState::Drained {
            log::Level::Debug
        } else {
            log::Level::Info
        };
        let Transition {
            app, from, to, why, ..
        } = transition;
        log::log!(level, "app {app}: {from} -> {to}: {why}");
    }

    /// The configuration was read again; the log has the outcome as well.
    fn take_reread(&mut self, now: Instant, reread: Reread) {
        let result = reread.config.map(|mut config| {
            if self.dry_run {
                silence(&mut config);
            }
            config
                .warnings
                .iter()
                .for_each(|warning| log::warn!("{warning}"));
            let changes = self.core.reload(now, config);
            self.follow_config();
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
        self.manager.reloaded();
        reread
            .calls
            .into_iter()
            .for_each(|call| call.answer(&result));
        self.rereading.done();
    }

    /// What the shell itself has from the configuration.
    fn follow_config(&mut self) {
        let config = self.core.config();
        self.launcher.run_as(config.agent.exec_user.clone());
        self.hooks.follow(&config.agent.on_change);
        if let Some(consul) = &self.consul {
            consul.follow(&config.agent);
        }
        if !self.dry_run {
            self.advertiser.set(&unnumbered(config));
        }
        if let Err(error) = self.listening.move_to(config.bgp.listen) {
            log::error!("{error}");
        }
        self.listening.expect(&self.core);
    }

    /// Connections that were told to close get their NOTIFICATION out; BFD's goodbye comes after it,
    /// since a peer that hears it first may take it for the reason why the session ends.
    async fn close(&mut self) {
        let state_file = async {
            if let Some(file) = self.state_file.take() {
                file.close(&mut self.core, Instant::now()).await;
            }
        };
        // They end only if somebody takes what they still have to say.
        let sessions = self.sessions.finish().or(self.inbox.forget_peers());
        future::zip(state_file, sessions).await;
        self.kernel.finish().await;
        self.bfd.send_admin_down();
    }
}

/// A task of its own, since asking for a signal costs system calls whatever else woke the loop.
async fn forward_signals(mut requests: signal::Requests, signals: Sender<signal::Request>) {
    loop {
        if signals.send(requests.next().await).await.is_err() {
            return;
        }
    }
}

/// For a dry run: passive peers, without anybody who listens, nothing remembered. The rest of the core runs as ever.
fn silence(config: &mut Config) {
    for peer in &mut config.bgp.peers {
        (peer.passive, peer.bfd) = (true, None);
    }
    config.bgp.listen = None;
    config.agent.state_file = None;
}

/// The interfaces with a peer that is known by nothing else.
fn unnumbered(config: &Config) -> BTreeSet<String> {
    let peers = config.bgp.peers.iter();
    let names = peers.filter_map(|peer| match &peer.remote {
        Remote::Interface(name) => Some(name.clone()),
        Remote::Addr(..) | Remote::Gateway => None,
    });
    names.collect()
}
