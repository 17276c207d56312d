//! The demo's processes and their events.

use super::{ScenarioError, Timeline, router, say, service};
use crate::cli::color::Tone;
use crate::io::netlink::{Changes, Kernel, VipAddress};
use crate::net::Prefix;
use crate::netlink::NetlinkError;
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// An event that the demo waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DemoEvent {
    SessionUp,
    SessionDown,
    RouteAnnounced,
    RouteWithdrawn,
    AddressAdded,
    AddressRemoved,
}

impl DemoEvent {
    fn text(self) -> &'static str {
        match self {
            Self::SessionUp => "BGP session established",
            Self::SessionDown => "BGP session closed: Cease / Administrative Shutdown",
            Self::RouteAnnounced => "route 192.0.2.53/32 announced to the router",
            Self::RouteWithdrawn => "route 192.0.2.53/32 withdrawn",
            Self::AddressAdded => "VIP 192.0.2.53 is on the loopback",
            Self::AddressRemoved => "VIP 192.0.2.53 is off the loopback",
        }
    }
}

impl DemoEvent {
    fn tone(self) -> Tone {
        match self {
            Self::SessionUp | Self::RouteAnnounced | Self::AddressAdded => Tone::Good,
            Self::SessionDown | Self::RouteWithdrawn | Self::AddressRemoved => Tone::Warn,
        }
    }
}

/// An event and its time.
type TimedEvent = (Instant, DemoEvent);

/// The demo's processes and the events received from them.
pub struct DemoLab {
    router: DemoProcess,
    announcer: DemoProcess,
    service: DemoProcess,
    seen: Receiver<TimedEvent>,
    /// Events received while another was awaited.
    early: VecDeque<TimedEvent>,
}

/// A child process, killed when dropped.
struct DemoProcess {
    child: Child,
}

impl DemoProcess {
    fn start(command: &mut Command) -> io::Result<Self> {
        Ok(Self {
            child: command.stdin(Stdio::null()).spawn()?,
        })
    }

    fn end(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for DemoProcess {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.end();
    }
}

impl DemoLab {
    /// Prepares the namespace and starts the processes.
    pub fn set() -> io::Result<Self> {
        let (sender, seen) = mpsc::channel();
        smol::block_on(prepare_loopback()).map_err(io::Error::other)?;
        let watcher = sender.clone();
        thread::spawn(move || smol::block_on(watch_loopback(watcher)));
        let mut router = DemoProcess::start(
            own_program()?
                .args(["demo", "router"])
                .stdout(Stdio::piped()),
        )?;
        let stdout = router
            .child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("the router has no output"))?;
        let mut lines = BufReader::new(stdout).lines();
        // The router's first line says that it listens: the announcer need not retry.
        lines.next().transpose()?;
        thread::spawn(move || watch_router(lines.map_while(Result::ok), &sender));
        let service = start_service()?;
        let announcer = DemoProcess::start(
            own_program()?
                .args(["run"])
                .env("SIDECAST_CONFIG_YAML", CONFIGURATION)
                .stderr(Stdio::piped()),
        )?;
        Ok(Self {
            router,
            announcer,
            service,
            seen,
            early: VecDeque::new(),
        })
    }

    /// Waits for all of `wanted`, prints each, and returns the time of the last one.
    pub fn expect(
        &mut self,
        line: &mut Timeline,
        chapter: &str,
        wanted: &[DemoEvent],
    ) -> Result<Instant, ScenarioError> {
        let limit = Instant::now() + TIMEOUT;
        let mut last = limit;
        let mut open: Vec<DemoEvent> = wanted.to_vec();
        while !open.is_empty() {
            let (at, event) = self.next(limit).map_err(|error| {
                let missing: Vec<_> = open.iter().map(|h| h.text()).collect();
                format!(
                    "{chapter}: {error}, still waiting for: {}",
                    missing.join("; ")
                )
            })?;
            if let Some(index) = open.iter().position(|wanted| *wanted == event) {
                open.remove(index);
                line.add(at, event.tone(), event.text())?;
                last = at;
            }
        }
        Ok(last)
    }

    fn next(&mut self, limit: Instant) -> Result<TimedEvent, String> {
        if let Some(seen) = self.early.pop_front() {
            return Ok(seen);
        }
        let left = limit.saturating_duration_since(Instant::now());
        self.seen.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("not within {} s", TIMEOUT.as_secs()),
            RecvTimeoutError::Disconnected => "the router ended".to_owned(),
        })
    }

    /// Kills the service with SIGKILL; returns when.
    pub fn kill_service(&mut self) -> Result<Instant, String> {
        let at = Instant::now();
        self.service.end().map_err(|e| e.to_string())?;
        Ok(at)
    }

    /// Starts the service again; returns when it listened.
    pub fn start_service(&mut self) -> Result<Instant, String> {
        self.service = start_service().map_err(|e| e.to_string())?;
        Ok(Instant::now())
    }

    /// Sends SIGTERM to the announcer; returns when.
    pub fn stop_announcer(&mut self) -> Result<Instant, String> {
        let pid = i32::try_from(self.announcer.child.id()).map_err(|e| e.to_string())?;
        let at = Instant::now();
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGTERM,
        )
        .map_err(|errno| errno.to_string())?;
        Ok(at)
    }

    /// Keeps everything running until Enter is pressed.
    pub fn keep(&self) -> Result<(), ScenarioError> {
        let pid = std::process::id();
        say(&format!(
            "\nEverything stays up. From another terminal:\n  \
             nsenter --preserve-credentials -U -n -t {pid} {} status\n\
             Enter ends the demo.\n",
            own_path().map_or_else(|_| "sidecast".to_owned(), |path| path.display().to_string())
        ))?;
        // The end of standard input counts as Enter.
        let _ = io::stdin().read(&mut [0]);
        Ok(())
    }

    /// The announcer's log, for a demo that went wrong.
    pub fn announcer_log(&mut self) -> String {
        let _ = self.announcer.end();
        let _ = self.router.end();
        let mut log = String::new();
        if let Some(mut stderr) = self.announcer.child.stderr.take() {
            // Reading ends at invalid UTF-8.
            let _ = stderr.read_to_string(&mut log);
        }
        format!("the announcer's log:\n{log}")
    }
}

/// This very program, also when its file was replaced meanwhile.
fn own_path() -> io::Result<std::path::PathBuf> {
    std::env::current_exe()
}

/// This program, without the variables that configure it.
fn own_program() -> io::Result<Command> {
    let mut command = Command::new("/proc/self/exe");
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("SIDECAST_") || name.starts_with("CONSUL_"))
        {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// Starts the service and returns when it listens.
fn start_service() -> io::Result<DemoProcess> {
    let part = DemoProcess::start(own_program()?.args(["demo", "service"]))?;
    let limit = Instant::now() + TIMEOUT;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, service::PORT)).is_err() {
        if Instant::now() > limit {
            return Err(io::Error::other("the service does not listen"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(part)
}

/// The router's address and ours, on a loopback that is up.
async fn prepare_loopback() -> Result<(), NetlinkError> {
    let mut kernel = Kernel::open()?;
    for addr in [router::ADDR, ANNOUNCER] {
        let prefix = Prefix::host(addr.into());
        let interface = "lo".to_owned();
        kernel
            .add_address(&VipAddress {
                interface,
                prefix,
                label: None,
                lifetime: None,
            })
            .await?;
    }
    Ok(())
}

/// Reports when the VIP's address is added and removed.
async fn watch_loopback(sender: Sender<TimedEvent>) -> Result<(), NetlinkError> {
    let mut changes = Changes::open(false)?.including_own();
    let mut kernel = Kernel::open()?;
    let mut there = false;
    loop {
        let addresses = kernel.addresses_on_lo().await?;
        let now_there = addresses.iter().any(|address| address.addr == VIP);
        let event = if now_there {
            DemoEvent::AddressAdded
        } else {
            DemoEvent::AddressRemoved
        };
        if now_there != there && sender.send((Instant::now(), event)).is_err() {
            return Ok(());
        }
        there = now_there;
        changes.next().await?;
    }
}

/// Turns the router's lines into events.
fn watch_router(lines: impl Iterator<Item = String>, sender: &Sender<TimedEvent>) {
    for line in lines {
        let event = match line.as_str() {
            "established" => DemoEvent::SessionUp,
            "closed" => DemoEvent::SessionDown,
            "announced 192.0.2.53/32" => DemoEvent::RouteAnnounced,
            "withdrawn 192.0.2.53/32" => DemoEvent::RouteWithdrawn,
            _ => continue,
        };
        if sender.send((Instant::now(), event)).is_err() {
            return;
        }
    }
}

const ANNOUNCER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
/// How long any one thing may take.
const TIMEOUT: Duration = Duration::from_secs(8);

/// The announcer's configuration.
const CONFIGURATION: &str = "\
bgp: {local_as: 65001, peer_as: 65000, peer_ip: 10.0.0.1, local_ip: 10.0.0.2, communities: ['65001:100']}
agent: {vip_linger: 1s, drain_time: 500ms}
apps:
  - {name: demo, vip: 192.0.2.53/32, monitors: ['port:tcp:8053'], interval: 1s}
";
