//! What doing nothing costs.

use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sidecast_lab::{Bird, Service, Sidecast, Site, Transport, VIP4, expect, until};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip", "strace"]:
        idling_takes_few_system_calls_and_one_timer;
}

/// One app, one session with default timers: under 300 system calls a minute, of which half is
/// watched. Nothing is run, and all deadlines share one timer.
fn idling_takes_few_system_calls_and_one_timer() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = Service::start(host, Transport::Tcp, Site::TCP_PORT);
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let config = format!(
        "bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {}}}\n\
         apps: [{{name: dns, vip: {VIP4}/32, monitors: [\"port:tcp:8000\"], interval: 10s}}]\n",
        site.a.addresses.router4,
    );
    let sidecast = Sidecast::start(host, &config);
    until(Duration::from_secs(20), "it is announced", || {
        let route = router.route(&format!("{VIP4}/32"));
        expect(route.is_some(), router.session("a"))
    });
    // What starting leaves to do.
    std::thread::sleep(Duration::from_secs(6));
    let timers = timers(sidecast.id());
    let trace = site.lab.dir().join("trace");
    let mut strace = Command::new("strace")
        .args(["-f", "-o"])
        .arg(&trace)
        .args(["-p", &sidecast.id().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace runs");
    std::thread::sleep(WATCHED);
    let pid = Pid::from_raw(i32::try_from(strace.id()).expect("a pid"));
    kill(pid, Signal::SIGINT).expect("a child of ours");
    strace.wait().expect("a child of ours");
    let trace = std::fs::read_to_string(trace).expect("a trace");
    let calls: Vec<&str> = trace
        .lines()
        .filter(|line| !line.contains("resumed>"))
        .collect();
    println!(
        "{} system calls in {WATCHED:?}, {timers} timer, {} threads",
        calls.len(),
        threads(sidecast.id())
    );
    // A part of a minute may hold one look more than its share.
    let limit = 300 * WATCHED.as_secs() / 60 + 20;
    assert!(
        calls.len() <= usize::try_from(limit).expect("small"),
        "{trace}"
    );
    assert!(calls.len() > 4, "it was watched: {trace}");
    for call in ["execve", "fork", "clone"] {
        assert!(!trace.contains(call), "{call}: {trace}");
    }
    assert_eq!(timers, 1);
}

/// Timers of the kernel that a process holds.
fn timers(id: u32) -> usize {
    let fds = std::fs::read_dir(format!("/proc/{id}/fd")).expect("a process of ours");
    let links = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    links
        .filter(|link| link.to_string_lossy().contains("timerfd"))
        .count()
}

fn threads(id: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task"));
    tasks.expect("a process of ours").count()
}

const WATCHED: Duration = Duration::from_secs(15);
