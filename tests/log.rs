//! The log at its higher levels.

use std::time::Duration;

use nix::sys::signal::Signal;
use sidecast_lab::{Bird, BirdSession, Sidecast, Site, VIP4, VIP6, expect, until};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip"]:
        every_bgp_message_is_a_line_when_asked_twice,
        asked_once_there_are_none,
        rust_log_stands_in_for_the_flag;
}

fn every_bgp_message_is_a_line_when_asked_twice() {
    let log = life(&["-vv"], "");
    for line in [
        "sent OPEN: AS 65001, router id 10.",
        "received OPEN: AS 65000, router id ",
        &format!("sent UPDATE: announces {VIP4}/32, next hop 10."),
        &format!("sent UPDATE: announces {VIP6}/128, next hop "),
        "path [65001], communities 65001:100",
        "sent UPDATE: End-of-RIB ipv4",
        "received UPDATE: End-of-RIB ipv4",
        "received KEEPALIVE",
        "sent KEEPALIVE",
        "sent UPDATE: withdraws",
        "sent NOTIFICATION: Cease / Administrative Shutdown (6/2): \"sidecast is stopping\"",
    ] {
        assert!(log.contains(line), "{line}\n{log}");
    }
    assert!(!log.contains(PASSWORD), "a secret\n{log}");
}

fn asked_once_there_are_none() {
    let log = life(&["-v"], "");
    assert!(log.contains("DEBUG") && !log.contains("OPEN:"), "{log}");
    // What GoCast's users write `-v=2` for.
    let passed = |line: &str| line.contains("DEBUG app dns: port_0: pass");
    assert!(log.lines().any(passed), "{log}");
}

fn rust_log_stands_in_for_the_flag() {
    let log = life(&["-vv"], "warn");
    assert!(!log.contains("DEBUG") && !log.contains("INFO"), "{log}");
    let log = life(&[], "debug");
    assert!(log.contains("sent OPEN:"), "{log}");
    let log = life(&[], "sidecast=info");
    assert!(log.contains("INFO") && !log.contains("DEBUG"), "{log}");
}

/// The log of an announcement and its withdrawal.
fn life(flags: &[&str], rust_log: &str) -> String {
    let site = Site::new();
    let _services = site.a.services();
    let session = BirdSession {
        options: &format!("password \"{PASSWORD}\";"),
        ..site.a.session("a")
    };
    let _router = Bird::router(&site.router, &[session]);
    let more = format!("password: {PASSWORD}\ncommunities: [\"65001:100\"]");
    let path = Sidecast::write(&site.a.network, &site.a.config(&more, "drain_time: 0"));
    let path = path.to_string_lossy();
    let args = [&["run", "--config", &path], flags].concat();
    let mut sidecast = Sidecast::launch(&site.a.network, &args, &[("RUST_LOG", rust_log)]);
    site.answered_by("a", PATIENCE);
    until(PATIENCE, "both routes are announced", || {
        let app = sidecast.app(&site.a.network, "dns");
        let vips = app["vip_status"].as_array().cloned().unwrap_or_default();
        let announced = vips.iter().all(|vip| vip["announced"] == true);
        expect(announced && vips.len() == 2, app.to_string())
    });
    sidecast.signal(Signal::SIGTERM);
    assert!(sidecast.wait(Duration::from_secs(10)).success());
    sidecast.log()
}

const PASSWORD: &str = "s3cr3t-of-the-session";
/// How long the lab may need to come up.
const PATIENCE: Duration = Duration::from_secs(20);
