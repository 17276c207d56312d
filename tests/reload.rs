//! What the shell itself has from the configuration follows a reload: the program that is told of
//! transitions, and that a dry run stays one.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidecast_lab::{Bird, Sidecast, Site, expect, until};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip", "ss"]:
        a_dry_run_stays_one_when_its_configuration_is_read_again;
    needs ["bird", "birdc", "ip"]:
        transitions_are_told_to_the_program_of_the_new_configuration;
}

fn a_dry_run_stays_one_when_its_configuration_is_read_again() {
    let site = Site::new();
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let state_file = site.a.network.dir().join("state.yaml");
    let config = |more: &str| {
        let agent = format!("agent:\n  state_file: {}\n", state_file.display());
        agent + &site.a.config(more, "")
    };
    let path = Sidecast::write(&site.a.network, &config(""));
    let args = ["run", "--dry-run", "--config", &path.to_string_lossy()];
    let sidecast = Sidecast::launch(&site.a.network, &args, &[]);
    until(PATIENCE, "it says what it would do", || {
        let log = sidecast.log();
        expect(log.contains("dry run: would add 192.0.2.53/32"), log)
    });
    // Another hold time makes every session begin anew, and listening is asked for.
    Sidecast::write(
        &site.a.network,
        &config("hold_time: 30s\nlisten: \"[::]:179\""),
    );
    sidecast.signal(Signal::SIGHUP);
    until(PATIENCE, "the session starts again", || {
        let log = sidecast.log();
        let again = log.contains("settings changed, the session starts again");
        expect(again, log)
    });
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        assert!(!router.established("a"), "{}", router.session("a"));
        assert_eq!(site.a.vips(), [""; 0]);
    }
    let listeners = site.a.network.run("ss", &["-Htln", "sport = :179"]);
    assert_eq!(listeners, "", "a dry run listens for nobody");
    assert!(!state_file.exists(), "and remembers nothing");
}

fn transitions_are_told_to_the_program_of_the_new_configuration() {
    let site = Site::new();
    let (mut tcp, _udp) = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let told = ["first", "second"].map(|name| site.a.network.dir().join(name));
    let config = |which: usize| {
        let append = format!("cat >> {}", told[which].display());
        format!(
            "agent:\n  on_change: [sh, -c, \"{append}\"]\n{}",
            site.a.config("", "")
        )
    };
    let sidecast = Sidecast::start(&site.a.network, &config(0));
    let heard = |which: usize, to: &str| {
        until(PATIENCE, to, || {
            let text = fs::read_to_string(&told[which]).unwrap_or_default();
            let last = text.lines().last().unwrap_or_default().to_owned();
            let json: serde_json::Value = serde_json::from_str(&last).map_err(|_| last.clone())?;
            expect(json["to"] == to && json["app"] == "dns", text)
        });
    };
    heard(0, "up");
    let before = fs::read_to_string(&told[0]).expect("it was written");
    Sidecast::write(&site.a.network, &config(1));
    sidecast.signal(Signal::SIGHUP);
    until(PATIENCE, "it says what changed", || {
        let log = sidecast.log();
        expect(log.contains("reload: agent.on_change: changed"), log)
    });
    tcp.kill();
    heard(1, "down");
    assert_eq!(fs::read_to_string(&told[0]).expect("it is there"), before);
}

/// How long the lab may need to come up.
const PATIENCE: Duration = Duration::from_secs(20);
