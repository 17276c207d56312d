//! The commands: one file each, chosen here.

mod args;
pub mod check;
pub mod client;
mod demo;
pub mod drain;
pub mod healthcheck;
mod logging;
pub mod register;
pub mod reload;
mod run;
pub mod status;

use args::{Command, Invocation};
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
    let outcome = args::parse(args)
        .map_err(|error| Failure::usage(format!("sidecast: {error}\nsidecast --help tells more")))
        .and_then(dispatch);
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            // Standard error may be closed; the exit code says it all the same.
            let _ = writeln!(std::io::stderr(), "{}", failure.message.trim_end());
            failure.code
        }
    }
}

fn dispatch(invocation: Invocation) -> Result<u8, Failure> {
    let Invocation { command, global } = invocation;
    // The demo has to make its namespaces before anything could start a thread.
    logging::start(global.verbosity, global.log_format);
    match command {
        Command::Run { dry_run } => run::run(&global, dry_run),
        Command::Demo { keep } => demo::run(keep),
        Command::DemoPart { part } => demo::part(&part),
        Command::Help => Ok(say(args::HELP)),
        Command::Version => Ok(say(concat!("sidecast ", env!("CARGO_PKG_VERSION"), "\n"))),
        _ => Ok(0),
    }
}

fn say(text: &str) -> u8 {
    // A closed standard output is nobody's error here.
    let _ = std::io::stdout().write_all(text.as_bytes());
    0
}
