//! What a thousand apps cost one process: memory, the longest iteration of its event loop, and complete answers.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use sidecast_lab::{Bird, Change, Routes, Sidecast, Site, VIP4};

sidecast_lab::tests! {
    needs ["bird"]:
        a_thousand_apps_take_less_than_6_kib_each_and_no_iteration_is_long;
}

fn a_thousand_apps_take_less_than_6_kib_each_and_no_iteration_is_long() {
    let site = Site::new();
    let host = &site.a.network;
    let (service, _udp) = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let routes = Routes::listen(&site.router);
    let agent = format!("agent: {{max_http_apps: {APPS}, max_vips: {}}}\n", APPS + 2);
    let mut sidecast = Sidecast::start(host, &(agent + &site.a.config("", "")));
    sidecast.wait_for_api(host);
    routes.wait(Change::Added, address(VIP4), PATIENCE);
    // What every kind of answer needs once.
    for path in ANSWERS {
        assert_eq!(sidecast.get(host, path).status, 200, "{path}");
    }
    let before = anonymous_memory(&sidecast);
    for n in 0..APPS {
        let (vip, port) = (vip(n), Site::TCP_PORT);
        let path = format!("/register?name=app{n}&vip={vip}/32&monitor=port:tcp:{port}");
        assert_eq!(sidecast.get(host, &path).status, 200, "{path}");
    }
    let all: BTreeSet<IpAddr> = (0..APPS).map(|n| address(&vip(n))).collect();
    routes.wait_for_all(Change::Added, all.clone(), PATIENCE);
    let each = anonymous_memory(&sidecast).saturating_sub(before) * 1024 / APPS;
    for path in ANSWERS {
        assert_eq!(sidecast.get(host, path).status, 200, "{path}");
    }
    service.signal(Signal::SIGKILL);
    routes.wait_for_all(Change::Removed, all, PATIENCE);
    // The pieces of an answer that hold no sample, as of apps that are down, do not end it.
    let metrics = sidecast.get(host, "/metrics").body;
    let mut lines = metrics.lines();
    let longest = lines.find_map(|line| line.strip_prefix("sidecast_loop_longest_seconds "));
    let longest: f64 = longest.expect("the metric").parse().expect("a number");
    println!("{each} bytes for each of {APPS} apps; the longest iteration took {longest} s");
    let samples = metrics.lines();
    let samples = samples.filter(|line| line.starts_with("sidecast_app_healthy{"));
    assert_eq!(samples.count(), usize::try_from(APPS + 1).expect("few"));
    assert!(each < MOST_BYTES, "{each} bytes for each app");
    assert!(longest < LONGEST, "{longest} s");
}

/// Anonymous memory in KiB (proc_pid_status(5)): what the process has allocated, without the pages of its file.
fn anonymous_memory(sidecast: &Sidecast) -> u32 {
    let status = fs::read_to_string(format!("/proc/{}/status", sidecast.id()));
    let status = status.expect("the process runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("the kernel has it")
}

fn vip(n: u32) -> String {
    format!("198.18.{}.{}", n / 256, n % 256)
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

const APPS: u32 = 1000;
/// Of each app, right after the last was registered: with room for an allocator that returns memory late.
const MOST_BYTES: u32 = 6 * 1024;
const ANSWERS: [&str; 4] = ["/", "/apps", "/metrics", "/verdict"];
/// Seconds, with room for a debug build on a busy machine: `tests/bench/run` shows what a release build takes.
const LONGEST: f64 = 2.0;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
