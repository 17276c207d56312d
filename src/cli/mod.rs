//! The commands, one file each, and their dispatch.

mod args;
pub mod check;
pub mod client;
mod color;
mod command;
mod commands;
mod completions;
mod demo;
mod doctor;
mod drain;
mod healthcheck;
mod help;
mod json_schema;
mod logging;
mod man;
mod output;
mod register;
mod reload;
mod routes;
mod run;
mod spec;
mod status;
mod table;
mod usage_error;
mod values;

#[cfg(test)]
#[path = "../../tests/unit/reference.rs"]
mod reference;

use crate::io::{launch, stderr};
use client::Client;
use color::Color;
use command::{ClientCommand, Command, Global, Invocation};
use std::ffi::OsString;
use std::fmt;

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
        // The shell's exit code for a command that cannot be run.
        let why = launch::become_command(rest);
        stderr::write(format!("{why}\n").as_bytes());
        return 127;
    }
    let outcome = args::parse(args)
        .map_err(|error| {
            let command = error.command().map(|name| format!(" {name}"));
            let command = command.unwrap_or_default();
            Failure::usage(format!("sidecast: {error}\nsee sidecast{command} --help"))
        })
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
        Command::Check { quiet } => check::check(&global, quiet),
        Command::Demo { keep } => demo::run(keep),
        Command::DemoPart { part } => demo::part(&part),
        Command::Doctor { json } => doctor::run(&global, json),
        Command::Healthcheck => healthcheck::run(global.addr.as_deref(), global.config.as_deref()),
        Command::Help(name) => say(&help::help(name.and_then(commands::command))),
        Command::Version => say(concat!("sidecast ", env!("CARGO_PKG_VERSION"), "\n")),
        Command::Completions(shell) => say(&shell.script()),
        Command::Man(page) => say(&page.render()),
        Command::Schema => say(&json_schema::render()),
        Command::AppNames => say(&completions::apps(&running(&global)?)),
        Command::Client(command) => call(&running(&global)?, command),
    }
}

/// The announcer that runs already.
fn running(global: &Global) -> Result<Client, Failure> {
    Client::must_find(global.addr.as_deref(), global.config.as_deref())
}

fn call(client: &Client, command: ClientCommand) -> Result<u8, Failure> {
    let mut out = std::io::stdout();
    match command {
        ClientCommand::Status(options) => {
            status::run(client, &options, Color::of_stdout(), &mut out)
        }
        ClientCommand::Register {
            name,
            vip,
            monitors,
            nats,
            options,
        } => register::register(client, &name, &vip, &monitors, &nats, &options),
        ClientCommand::Unregister { name } => register::unregister(client, &name),
        ClientCommand::Drain { name, wait } => {
            drain::drain(client, name.as_deref(), wait, &mut out)
        }
        ClientCommand::Undrain { name } => drain::undrain(client, name.as_deref()),
        ClientCommand::Reload => reload::run(client, &mut out),
    }
}

/// All there is to say.
fn say(text: &str) -> Result<u8, Failure> {
    output::say(text).map(|()| 0)
}
