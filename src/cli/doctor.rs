//! `sidecast doctor`: the report of the running announcer, or one of this process's own.

use super::client::{self, ANSWER_TIMEOUT, CallError, Client, Lookup};
use super::color::{Color, Tone};
use super::command::Global;
use super::values::{items, text};
use super::{Failure, output, run};
use crate::discovery::Network;
use crate::doctor::{Announcer, Case, Line, Mark, Report, Summary, Topic};
use crate::io::doctor;
use serde_json::Value;
use std::path::PathBuf;

/// Prints the report; 0: no fault, 1: there is one.
///
/// # Errors
/// Exit code 3 where nothing could be looked at.
pub fn run(global: &Global, json: bool) -> Result<u8, Failure> {
    let report = match ask(global)? {
        Answer::Report(report) => with_file(global, report),
        Answer::NoReport(announcer) => look(global, announcer)?.to_json(),
    };
    output::say(&match json {
        true => format!("{report}\n"),
        false => render(&report, Color::of_stdout()),
    })?;
    Ok(u8::from(report["faults"] != 0))
}

/// Adds the problems of the file that `--config` names: the running announcer may have loaded another version.
fn with_file(global: &Global, mut report: Value) -> Value {
    let refused = global.config.as_ref().and_then(|_| run::load(global).err());
    let problems = refused.iter().flat_map(problems);
    let added = Report::of(problems.collect()).to_json();
    let faults = count(&report, "faults") + count(&added, "faults");
    let lines = items(&report, "lines")
        .chain(items(&added, "lines"))
        .cloned();
    let lines: Vec<Value> = lines.collect();
    report["faults"] = faults.into();
    report["lines"] = lines.into();
    report
}

fn problems(refused: &Failure) -> impl Iterator<Item = Line> {
    let next = "correct it; sidecast check reads it again";
    let lines = refused.message.lines().filter(|line| !line.is_empty());
    lines.map(move |problem| Line::fault(Topic::Configuration, problem, next))
}

fn count(report: &Value, key: &str) -> usize {
    let count = report[key].as_u64().unwrap_or_default();
    usize::try_from(count).unwrap_or(usize::MAX)
}

enum Answer {
    Report(Value),
    NoReport(Announcer),
}

/// Asks the running announcer.
fn ask(global: &Global) -> Result<Answer, Failure> {
    let found = Client::find(global.addr.as_deref(), global.config.as_deref());
    let client = match found {
        Ok(Lookup::Client(client)) => client,
        Ok(Lookup::SwitchedOff) => {
            let why = "agent.listen_addr is off".to_owned();
            return Ok(Answer::NoReport(Announcer::NotFound(why)));
        }
        Err(failure) if global.addr.is_some() => return Err(failure),
        Err(_) => {
            let why = "the configuration does not say where it listens".to_owned();
            return Ok(Answer::NoReport(Announcer::NotFound(why)));
        }
    };
    let answer = match client.call("GET", "/doctor", &[], ANSWER_TIMEOUT) {
        Ok(answer) => answer,
        Err(error) if global.addr.is_some() && global.config.is_none() => {
            return Err(nothing(format!("sidecast: {error}")));
        }
        Err(error) => {
            let why = error.to_string();
            let end = why.find([';', '\n']).unwrap_or(why.len());
            let why = why.get(..end).unwrap_or(&why).to_owned();
            return Ok(Answer::NoReport(match error {
                CallError::Unreachable { .. } => Announcer::NotFound(why),
                CallError::Broken { .. } | CallError::NotHttp { .. } => Announcer::NoAnswer(why),
            }));
        }
    };
    match answer.json().filter(|_| answer.is_ok()) {
        Some(report) if report["lines"].is_array() => Ok(Answer::Report(report)),
        _ => Err(nothing(answer.into_failure().message)),
    }
}

fn nothing(message: String) -> Failure {
    Failure { code: 3, message }
}

/// Examines the host in this process, by the configuration.
fn look(global: &Global, announcer: Announcer) -> Result<Report, Failure> {
    let global = Global {
        config: global.config.clone().or_else(usual),
        ..global.clone()
    };
    if global.config.is_none() && !is_configured_by_environment() {
        let (Announcer::NotFound(why) | Announcer::NoAnswer(why)) = announcer else {
            return Err(nothing("sidecast: no configuration is named".to_owned()));
        };
        return Err(nothing(format!(
            "sidecast: {why}\nsidecast: and no configuration is named (--config, SIDECAST_CONFIG)"
        )));
    }
    let loaded = match run::load(&global) {
        Ok(loaded) => loaded,
        Err(failure) => return Ok(refused(&failure, &announcer)),
    };
    let (network, unread) = match doctor::network(&loaded.config) {
        Ok(network) => (network, None),
        Err(error) => {
            let text = format!("the kernel's tables cannot be read: {error}");
            let next = "allow netlink sockets (AF_NETLINK) in the seccomp profile";
            (
                Network::default(),
                Some(Line::fault(Topic::Kernel, text, next)),
            )
        }
    };
    let case = Case::of_config(&loaded.config, &network, announcer);
    let report = Report::new(&case, &doctor::look(&case));
    let file = loaded.file.as_deref().unwrap_or("the environment");
    let taken = Line::ok(Topic::Configuration, format!("{file} is taken"));
    let warnings = loaded.config.warnings.iter();
    let warnings = warnings.map(|warning| Line::unknown(Topic::Configuration, warning));
    Ok(report.with([taken].into_iter().chain(warnings).chain(unread)))
}

/// The report when the configuration is invalid: its problems.
fn refused(failure: &Failure, announcer: &Announcer) -> Report {
    let unasked = Report::of_announcer(announcer);
    Report::of([unasked].into_iter().chain(problems(failure)).collect())
}

/// The file at its default path, where nothing names another.
fn usual() -> Option<PathBuf> {
    match is_configured_by_environment() {
        true => None,
        false => client::standard_config(),
    }
}

fn is_configured_by_environment() -> bool {
    let mut variables = run::environment().into_keys();
    variables.any(|name| name.starts_with("SIDECAST_") && name != "SIDECAST_ADDR")
}

/// A line for each, what to do next below it, and the counts.
fn render(report: &Value, color: Color) -> String {
    let mut shown = String::new();
    for line in items(report, "lines") {
        let mark = Mark::ALL
            .into_iter()
            .find(|mark| line["mark"] == mark.as_str());
        let mark = mark.unwrap_or(Mark::Unknown);
        let tone = match mark {
            Mark::Ok => Tone::Good,
            Mark::Unknown => Tone::Warn,
            Mark::Fault => Tone::Bad,
        };
        let (topic, what, next) = (
            text(&line["topic"]),
            text(&line["text"]),
            text(&line["next"]),
        );
        let sign = color.paint(tone, mark.sign());
        shown += &format!("{sign} {topic:<WIDTH$} {what}\n");
        if !next.is_empty() {
            shown += &format!("  {:<WIDTH$} next: {next}\n", "");
        }
    }
    let summary = Summary {
        faults: count(report, "faults"),
        unknown: count(report, "unknown"),
        ok: count(report, "ok"),
    };
    format!("{shown}{summary}\n")
}

/// Of the longest topic.
const WIDTH: usize = 10;
