//! The commands: one file each, chosen here.

mod args;
pub mod check;
pub mod client;
mod demo;
mod drain;
mod healthcheck;
mod logging;
mod register;
mod reload;
mod run;
mod status;

use crate::io::{launch, stderr};
use args::{Ask, Command, Global, Invocation};
use client::Client;
use std::ffi::OsString;
use std::fmt;
use std::io::Write;

/// Why a command ended without success, and with which exit code.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

impl Failure {
    /// Exit code 1.
    pub fn run(message: impl Into<String>) -> Self {
        Self {
            code: 1,
            message: message.into(),
        }
    }

    /// Exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            code: 2,
            message: message.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Runs the program and returns its exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some((first, rest)) = args.split_first()
        && first == launch::COMMAND
    {
        // As a shell has it for a command that cannot be run.
        let why = launch::become_command(rest);
        stderr::write(format!("{why}\n").as_bytes());
        return 127;
    }
    let outcome = args::parse(args)
        .map_err(|error| Failure::usage(format!("sidecast: {error}\nsidecast --help tells more")))
        .and_then(dispatch);
    let code = match outcome {
        Ok(code) => code,
        Err(failure) => {
            stderr::write(format!("{}\n", failure.message.trim_end()).as_bytes());
            failure.code
        }
    };
    stderr::finish();
    code
}

fn dispatch(invocation: Invocation) -> Result<u8, Failure> {
    let Invocation { command, global } = invocation;
    // The demo has to make its namespaces before anything could start a thread.
    logging::start(global.verbosity, global.log_format);
    match command {
        Command::Run { dry_run } => run::run(&global, dry_run),
        Command::Check => check::check(&global),
        Command::Demo { keep } => demo::run(keep),
        Command::DemoPart { part } => demo::part(&part),
        Command::Healthcheck => healthcheck::run(global.addr.as_deref(), global.config.as_deref()),
        Command::Help => Ok(say(args::HELP)),
        Command::Version => Ok(say(concat!("sidecast ", env!("CARGO_PKG_VERSION"), "\n"))),
        Command::Ask(asked) => ask(&running(&global)?, asked),
    }
}

/// The announcer that runs already.
fn running(global: &Global) -> Result<Client, Failure> {
    Client::must_find(global.addr.as_deref(), global.config.as_deref())
}

fn ask(client: &Client, asked: Ask) -> Result<u8, Failure> {
    let mut out = std::io::stdout();
    match asked {
        Ask::Status { json, watch } => status::run(client, json, watch, &mut out),
        Ask::Register {
            name,
            vip,
            monitors,
            nats,
            options,
        } => register::register(client, &name, &vip, &monitors, &nats, &options),
        Ask::Unregister { name } => register::unregister(client, &name),
        Ask::Drain { name, wait } => drain::drain(client, name.as_deref(), wait),
        Ask::Undrain { name } => drain::undrain(client, name.as_deref()),
        Ask::Reload => reload::run(client, &mut out),
    }
}

fn say(text: &str) -> u8 {
    // A closed standard output is nobody's error here.
    let _ = std::io::stdout().write_all(text.as_bytes());
    0
}
