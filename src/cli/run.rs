//! `sidecast run`: loads the configuration, opens the listeners and runs the agent.

use super::Failure;
use super::command::Global;
use crate::agent::{self, Start};
use crate::config::{self, Config, Listen, ListenAddr, Loaded};
use crate::io::http::{ListenError, Listener};
use crate::io::launch::Launcher;
use crate::io::notify::{self, Notify};
use crate::io::{privilege, process, signal, stderr};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Runs the announcer; returns its exit code.
pub fn run(global: &Global, dry_run: bool) -> Result<u8, Failure> {
    signal::block();
    stderr::queue();
    stderr::abort_on_panic();
    let Loaded { config, file, .. } = load(global)?;
    match file {
        Some(file) => log::info!("sidecast {} starts with {file}", env!("CARGO_PKG_VERSION")),
        None => log::info!(
            "sidecast {} starts from the environment",
            env!("CARGO_PKG_VERSION")
        ),
    }
    privilege::raise_capabilities();
    let mut start = Start {
        api: listeners("agent.listen_addr", &config.agent.listen)?,
        metrics: listeners("agent.metrics_addr", &config.agent.metrics)?,
        reload: Arc::new({
            let global = global.clone();
            move || reload(&global)
        }),
        notify: Notify::new(std::env::var("NOTIFY_SOCKET").ok().as_deref()),
        watchdog: notify::watchdog(
            std::env::var("WATCHDOG_USEC").ok().as_deref(),
            std::env::var("WATCHDOG_PID").ok().as_deref(),
        ),
        dry_run,
        launcher: Launcher::own(None),
        // The standard library's own random keys.
        seed: RandomState::new().hash_one(std::process::id()),
        config,
    };
    // Capabilities are dropped after the listeners are open and before the first thread, which would
    // inherit them.
    let agent = &start.config.agent;
    privilege::drop_privileges(agent.user.as_deref(), agent.exec_user.is_some())
        .map_err(|error| Failure::run(format!("sidecast: agent.user: {error}")))?;
    may_run_commands(&start.config).map_err(|error| Failure::run(format!("sidecast: {error}")))?;
    start.launcher = Launcher::own(process::protect_memory());
    stderr::start().map_err(|error| Failure::run(format!("sidecast: a thread: {error}")))?;
    if !dry_run && start.config.agent.vip_interface.is_some() {
        privilege::missing_net_admin()
            .iter()
            .for_each(|advice| log::error!("{advice}"));
    }
    agent::run(start).map_err(|error| Failure::run(format!("sidecast: {error}")))
}

/// File and environment; what is wrong with them is exit code 2.
pub fn load(global: &Global) -> Result<Loaded, Failure> {
    let flag = global
        .config
        .as_ref()
        .map(|path| path.display().to_string());
    config::load(flag.as_deref(), &environment(), &mut |path| {
        std::fs::read_to_string(path)
    })
    .map_err(|problems| Failure::usage(problems.to_string()))
}

fn reload(global: &Global) -> Result<Config, String> {
    let config = load(global)
        .map(|loaded| loaded.config)
        .map_err(|failure| failure.message)?;
    may_run_commands(&config)?;
    Ok(config)
}

/// Checks that `exec_user` exists and that commands may run as it.
fn may_run_commands(config: &Config) -> Result<(), String> {
    let user = config.agent.exec_user.as_deref();
    user.map_or(Ok(()), privilege::can_switch_user_for_command)
        .map_err(|error| format!("agent.exec_user: {error}"))
}

/// The environment; variables that are not UTF-8 are ignored.
pub fn environment() -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        if let (Ok(name), Ok(value)) = (name.into_string(), value.into_string()) {
            variables.insert(name, value);
        }
    }
    variables
}

/// Opens the listeners. A configured address in use is an error, the default in use a warning.
fn listeners(key: &str, listen: &Listen) -> Result<Vec<Listener>, Failure> {
    let mut open = Vec::new();
    for addr in &listen.addrs {
        match listener(addr) {
            Ok(listener) => open.push(listener),
            Err(error) if listen.defaulted => log::warn!("{key}: {error}; continuing without it"),
            Err(error) => return Err(Failure::run(format!("sidecast: {key}: {error}"))),
        }
    }
    Ok(open)
}

fn listener(addr: &ListenAddr) -> Result<Listener, ListenError> {
    match addr {
        ListenAddr::Any(port) => Listener::tcp(SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port))),
        ListenAddr::Tcp(addr) => Listener::tcp(*addr),
        ListenAddr::Unix(path) => Listener::unix(path),
    }
}
