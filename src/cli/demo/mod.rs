//! `sidecast demo`: the main scenario with an embedded configuration, in namespaces of its own.
//!
//! In a user and network namespace of its own the demo runs three processes of this same program: a
//! small BGP listener as the router, a TCP service, and the real announcer. It watches the router's
//! routes and the loopback, kills the service, and prints when what happened.

mod lab;
mod namespace;
mod router;
mod service;

use crate::cli::color::{Color, Tone};
use crate::cli::{Failure, output};
use lab::{DemoEvent, DemoLab};
use std::io;
use std::time::{Duration, Instant};

/// Runs the demo; with `keep` everything stays up until it is interrupted.
pub fn run(keep: bool) -> Result<u8, Failure> {
    namespace::enter().map_err(|refused| Failure::run(format!("demo: {refused}")))?;
    let mut lab = DemoLab::set().map_err(|error| Failure::run(format!("demo: {error}")))?;
    match run_scenario(&mut lab, keep) {
        Ok(()) | Err(ScenarioError::Unread) => Ok(0),
        Err(ScenarioError::Unwritten(failure)) => Err(failure),
        Err(ScenarioError::Missing(missing)) => Err(Failure::run(format!(
            "demo: {missing}\n{}",
            lab.announcer_log()
        ))),
    }
}

/// Why the scenario ends early.
enum ScenarioError {
    /// Something did not happen in time.
    Missing(String),
    /// Standard output was closed.
    Unread,
    Unwritten(Failure),
}

impl From<String> for ScenarioError {
    fn from(missing: String) -> Self {
        Self::Missing(missing)
    }
}

fn say(text: &str) -> Result<(), ScenarioError> {
    match output::write(&mut io::stdout().lock(), text) {
        Ok(true) => Ok(()),
        Ok(false) => Err(ScenarioError::Unread),
        Err(failure) => Err(ScenarioError::Unwritten(failure)),
    }
}

/// A process of the demo's own.
pub fn part(name: &str) -> Result<u8, Failure> {
    // None of them may outlive the demo, however it ends.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(|errno| Failure::run(format!("demo: prctl: {errno}")))?;
    let played = match name {
        "router" => router::run(),
        "service" => service::run(),
        _ => return Err(Failure::usage(format!("the demo has no part `{name}`"))),
    };
    played
        .map(|()| 0)
        .map_err(|error| Failure::run(format!("demo {name}: {error}")))
}

/// Prints the timeline, one event a line.
struct Timeline {
    start: Instant,
    last: Instant,
    color: Color,
}

impl Timeline {
    fn begin() -> Result<Self, ScenarioError> {
        let (start, color) = (Instant::now(), Color::of_stdout());
        let head = format!("{:>9}  {:>9}   what happened", "time", "step");
        say(&format!(
            "{INTRODUCTION}\n{}\n",
            color.paint(Tone::Faint, &head)
        ))?;
        Ok(Self {
            start,
            last: start,
            color,
        })
    }

    fn add(&mut self, at: Instant, tone: Tone, text: &str) -> Result<(), ScenarioError> {
        let since_start = millis(at.saturating_duration_since(self.start));
        let since_last = millis(at.saturating_duration_since(self.last));
        let times = format!("{since_start:>9}  {:>9}", format!("+{since_last}"));
        self.last = at;
        let times = self.color.paint(Tone::Faint, &times);
        say(&format!("{times}   {}\n", self.color.paint(tone, text)))
    }
}

/// Runs the scenario.
fn run_scenario(lab: &mut DemoLab, keep: bool) -> Result<(), ScenarioError> {
    let mut line = Timeline::begin()?;
    line.add(
        line.start,
        Tone::Plain,
        "announcer, router and service started",
    )?;
    lab.expect(
        &mut line,
        "the service answers, its address is announced",
        &[
            DemoEvent::SessionUp,
            DemoEvent::AddressAdded,
            DemoEvent::RouteAnnounced,
        ],
    )?;
    let killed = lab.kill_service()?;
    line.add(killed, Tone::Bad, "the service is killed (SIGKILL)")?;
    let gone = [DemoEvent::RouteWithdrawn];
    let withdrawn = lab.expect(&mut line, "its route is withdrawn", &gone)?;
    let started = lab.start_service()?;
    line.add(started, Tone::Plain, "the service is started again")?;
    let back = [DemoEvent::RouteAnnounced];
    let announced = lab.expect(&mut line, "its route is announced again", &back)?;
    if keep {
        lab.keep()?;
    }
    line.add(
        lab.stop_announcer()?,
        Tone::Plain,
        "SIGTERM is sent to the announcer",
    )?;
    lab.expect(
        &mut line,
        "it leaves nothing behind",
        &[
            DemoEvent::RouteWithdrawn,
            DemoEvent::AddressRemoved,
            DemoEvent::SessionDown,
        ],
    )?;
    let verdict = format!(
        "death to withdraw {}, return to announce {}",
        millis(withdrawn.saturating_duration_since(killed)),
        millis(announced.saturating_duration_since(started)),
    );
    let verdict = line.color.paint(Tone::Good, &verdict);
    say(&format!("\n{NEXT}\n\n{verdict}\n{NOTHING_LEFT}\n"))
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

const INTRODUCTION: &str = "\
sidecast demo, in namespaces of its own: nothing on this machine is touched.

  router 10.0.0.1 (AS 65000)  <--- BGP --->  announcer 10.0.0.2 (AS 65001)
                                             service on TCP port 8053, VIP 192.0.2.53/32
";

const NOTHING_LEFT: &str = "nothing is left: no address, no route, no namespace";

const NEXT: &str = "\
Next: `sidecast check --config FILE` reads a configuration and explains it, the README has one to start from.";
