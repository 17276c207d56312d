//! The log at its higher levels, and that no route waits for it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use sidecast_lab::{
    Bird, BirdSession, Change, Routes, Service, Sidecast, Site, Trace, Transport, VIP4, VIP6,
    expect, until,
};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip"]:
        every_bgp_message_is_a_line_when_asked_twice,
        asked_once_there_are_none,
        rust_log_stands_in_for_the_flag;
    needs ["bird", "ip", "strace"]:
        an_update_leaves_before_its_reason_is_logged;
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

/// One service dies under many apps: the thread that writes the log has time to write a line while the others are made,
/// and the UPDATE left before.
fn an_update_leaves_before_its_reason_is_logged() {
    let site = Site::new();
    let host = &site.a.network;
    let service = Service::start(host, Transport::Tcp, Site::TCP_PORT);
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let routes = Routes::listen(&site.router);
    let vips: Vec<IpAddr> = (1..=APPS).map(|n| [198, 18, 0, n].into()).collect();
    let app =
        |vip| format!("- {{name: \"{vip}\", vip: {vip}/32, monitors: [\"port:tcp:8000\"]}}\n");
    let apps: String = vips.iter().map(app).collect();
    let config = format!(
        "agent: {{path_proof: off}}\n\
         bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {}}}\n\
         apps:\n{apps}",
        site.a.addresses.router4
    );
    let sidecast = Sidecast::start(host, &config);
    let all: BTreeSet<IpAddr> = vips.into_iter().collect();
    routes.wait_for_all(Change::Added, all.clone(), PATIENCE);
    let trace = Trace::begin(host, &sidecast);
    service.signal(Signal::SIGKILL);
    routes.wait_for_all(Change::Removed, all, PATIENCE);
    let last = format!("app 198.18.0.{APPS}: up -> down");
    until(PATIENCE, "the last transition is logged", || {
        let log = sidecast.log();
        expect(log.contains(&last), log)
    });
    let trace = trace.end();
    // A KEEPALIVE has 19 bytes, an UPDATE more (RFC 4271 section 4).
    let sent = |line: &str| line.contains("sendto(") && line.contains(MARKER);
    let update = |line: &str| sent(line) && !line.contains(", 19, MSG_");
    let logged = |line: &str| line.contains("write(2, ") && line.contains(": up -> down");
    let first = |is: &dyn Fn(&str) -> bool| trace.lines().position(is);
    let (update, logged) = (first(&update), first(&logged));
    assert!(update.is_some() && logged.is_some(), "{trace}");
    assert!(update < logged, "line {update:?}, line {logged:?}: {trace}");
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
/// Of one service.
const APPS: u8 = 200;
/// How a BGP message begins (RFC 4271 section 4.1), as `strace` has it.
const MARKER: &str = r#""\377\377\377\377"#;
/// How long the lab may need to come up.
const PATIENCE: Duration = Duration::from_secs(20);
