//! `sidecast demo`: the main job on an embedded default, where nobody else can be touched.
//!
//! In a user and network namespace of its own the demo runs three processes of this same program: a
//! small BGP listener as the router, a TCP service, and the real announcer. It watches the router's
//! routes and the loopback, kills the service, and prints when what happened.

mod namespace;
mod router;
mod service;
mod stage;

use crate::cli::Failure;
use stage::{Happened, Stage};
use std::time::{Duration, Instant};

/// Runs the demo; with `keep` everything stays up until it is interrupted.
pub fn run(keep: bool) -> Result<u8, Failure> {
    namespace::enter().map_err(|refused| Failure::run(format!("demo: {refused}")))?;
    println!("{INTRODUCTION}");
    let mut stage = Stage::set().map_err(|error| Failure::run(format!("demo: {error}")))?;
    match play(&mut stage, keep) {
        Ok(()) => Ok(0),
        Err(missing) => Err(Failure::run(format!(
            "demo: {missing}\n{}",
            stage.last_words()
        ))),
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

/// The story; `Err` says what did not happen in time.
fn play(stage: &mut Stage, keep: bool) -> Result<(), String> {
    let start = Instant::now();
    let mut last = start;
    let mut tell = |at: Instant, text: &str| {
        let (since_start, since_last) = (at - start, at.saturating_duration_since(last));
        println!(
            "{:>9}  {:>9}   {text}",
            millis(since_start),
            format!("+{}", millis(since_last))
        );
        last = at;
    };
    println!("{:>9}  {:>9}   what happened", "time", "step");
    tell(start, "announcer, router and service started");

    stage.expect(
        &mut tell,
        "the service answers, its address is announced",
        &[
            Happened::SessionUp,
            Happened::AddressAdded,
            Happened::RouteAnnounced,
        ],
    )?;
    tell(stage.kill_service()?, "the service is killed (SIGKILL)");
    stage.expect(
        &mut tell,
        "its route is withdrawn",
        &[Happened::RouteWithdrawn],
    )?;
    tell(stage.start_service()?, "the service is started again");
    stage.expect(
        &mut tell,
        "its route is announced again",
        &[Happened::RouteAnnounced],
    )?;
    if keep {
        stage.keep();
    }
    tell(
        stage.stop_announcer()?,
        "the announcer is told to stop (SIGTERM)",
    );
    stage.expect(
        &mut tell,
        "it leaves nothing behind",
        &[
            Happened::RouteWithdrawn,
            Happened::AddressRemoved,
            Happened::SessionDown,
        ],
    )?;
    println!("\nNothing is left: no address, no route, no namespace.\n{NEXT}");
    Ok(())
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

const INTRODUCTION: &str = "\
sidecast demo, in namespaces of its own: nothing on this machine is touched.

  router 10.0.0.1 (AS 65000)  <--- BGP --->  announcer 10.0.0.2 (AS 65001)
                                             service on TCP port 8053, VIP 192.0.2.53/32
";

const NEXT: &str = "\
Next: `sidecast check --config FILE` reads a configuration and explains it, the README has one to start from.";
