//! What doing nothing costs.

use std::time::Duration;

use sidecast_lab::{Bird, Service, Sidecast, Site, Trace, Transport, VIP4, expect, until};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip", "strace"]:
        idling_takes_few_system_calls_and_wakes_with_paths_proven,
        addresses_share_datagrams_and_foreign_changes_cause_no_dump,
        neighbors_that_change_their_state_cause_no_system_call;
}

/// One app, one session with default timers, its path proven: under 300 system calls a minute, of which a quarter is
/// watched, and few wakes. Nothing is run, and all deadlines of the event loop share one timer.
fn idling_takes_few_system_calls_and_wakes_with_paths_proven() {
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
    let proven = || sidecast.get(host, "/apps/dns").body.contains("yes (16/16)");
    until(Duration::from_secs(20), "the path is proven", || {
        expect(proven(), sidecast.get(host, "/apps/dns").body)
    });
    let before = waits(sidecast.id());
    std::thread::sleep(HALF_A_MINUTE);
    let wakes = waits(sidecast.id()) - before;
    assert!(proven(), "{}", sidecast.get(host, "/apps/dns").body);
    let trace = Trace::begin(host, &sidecast);
    std::thread::sleep(WATCHED);
    let trace = trace.end();
    let calls: Vec<&str> = trace
        .lines()
        .filter(|line| !line.contains("resumed>"))
        .collect();
    println!(
        "{} system calls in {WATCHED:?}, {wakes} wakes in {HALF_A_MINUTE:?}, {timers} timers, {} threads",
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
    assert_eq!(timers, 2, "that of the event loop, and that of async-io");
    // 3 checks, a KEEPALIVE of the router, a reading of the counters, and the notification of a renewed lease: each wakes
    // the polling thread and the event loop. Our own KEEPALIVEs, resyncs and renewals go with the checks. A check and a
    // KEEPALIVE more may fall into the time watched. tests/bench shows the context switches of a whole minute.
    assert!((5..=MOST_WAKES).contains(&wakes), "{wakes} wakes");
}

/// Eight apps of 64 VIPs each, and a daemon beside us that brings a table of routes.
fn addresses_share_datagrams_and_foreign_changes_cause_no_dump() {
    let site = Site::new();
    let host = &site.a.network;
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let mut sidecast = Sidecast::start(host, &site.a.config("", ""));
    sidecast.wait_for_api(host);
    let announced = |vip: &str| {
        until(Duration::from_secs(20), "it is announced", || {
            let route = router.route(&format!("{vip}/32"));
            expect(route.is_some(), router.session("a"))
        });
    };
    announced(VIP4);
    let trace = Trace::begin(host, &sidecast);
    let vip = |app, vip| format!("198.18.{app}.{vip}");
    for app in 0..APPS {
        let vips: Vec<String> = (0..64).map(|n| format!("vip={}/32", vip(app, n))).collect();
        let answer = sidecast.get(host, &format!("/register?name=app{app}&{}", vips.join("&")));
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    announced(&vip(APPS - 1, 63));
    let registered = trace.end();
    let (adds, dumps) = (sent(&registered, &[NEWADDR]), sent(&registered, DUMPS));
    println!("{} addresses in {adds} datagrams, {dumps} dumps", APPS * 64);
    assert!((1..=2 * APPS).contains(&adds), "{registered}");
    assert_eq!(dumps, 0, "{registered}");
    assert!(sent(&registered, &[GETLINK]) <= 1, "{registered}");

    let trace = Trace::begin(host, &sidecast);
    let gateway = &site.a.addresses.router4;
    let batch = site.lab.dir().join("routes");
    let route = |n| format!("route add 203.{}.{}.0/24 via {gateway}\n", n / 256, n % 256);
    let routes: String = (0..500).map(route).collect();
    std::fs::write(&batch, routes).expect("a file");
    host.run("ip", &["-batch", &batch.to_string_lossy()]);
    host.run("ip", &["addr", "add", "192.0.2.99/32", "dev", "lo"]);
    host.run(
        "ip",
        &["link", "add", "v0", "type", "veth", "peer", "name", "v1"],
    );
    host.run("ip", &["link", "set", "v0", "up"]);
    std::thread::sleep(Duration::from_secs(2));
    let foreign = trace.end();
    let (dumps, calls) = (sent(&foreign, DUMPS), foreign.lines().count());
    println!("500 foreign routes, an address and two links: {calls} system calls, {dumps} dumps");
    assert_eq!(dumps, 0, "{foreign}");

    // The notification does not name which of two default routes of one metric was replaced.
    let trace = Trace::begin(host, &sidecast);
    let default = |verb| {
        host.run(
            "ip",
            &["route", verb, "default", "via", gateway, "metric", "7"],
        )
    };
    default("add");
    host.run(
        "ip",
        &["route", "replace", "default", "dev", "lo", "metric", "7"],
    );
    until(Duration::from_secs(20), "they are dumped", || {
        let trace = trace.so_far();
        expect(sent(&trace, DUMPS) >= 3, trace)
    });
    std::thread::sleep(Duration::from_secs(2));
    let replaced = trace.end();
    let dumps = sent(&replaced, DUMPS);
    assert!(
        (3..=9).contains(&dumps),
        "addresses, and routes of both families: {replaced}"
    );
    sidecast.must_run();
}

/// A node with many neighbors, which become stale and reachable all the time, the router among them.
fn neighbors_that_change_their_state_cause_no_system_call() {
    let site = Site::new();
    let host = &site.a.network;
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let mut sidecast = Sidecast::start(host, &site.a.config("", ""));
    until(Duration::from_secs(20), "it is announced", || {
        let route = router.route(&format!("{VIP4}/32"));
        expect(route.is_some(), router.session("a"))
    });
    let found = host.run("ip", &["-j", "neigh", "show", site.a.addresses.router4]);
    let found: serde_json::Value = serde_json::from_str(&found).expect("JSON");
    let name = |key| {
        found[0][key]
            .as_str()
            .expect("the router is a neighbor")
            .to_owned()
    };
    let (link, mac) = (name("dev"), name("lladdr"));
    let batch = site.lab.dir().join("neighbors");
    let become_all = |state: &str| {
        let one = |addr: &str, mac: &str| {
            format!("neigh replace {addr} lladdr {mac} dev {link} nud {state}\n")
        };
        let others = (0..NEIGHBORS / 2).flat_map(|n| {
            let mac = format!("02:00:00:00:00:{n:02x}");
            [
                one(&format!("198.51.100.{n}"), &mac),
                one(&format!("fe80::1:{n:x}"), &mac),
            ]
        });
        let lines: String = others
            .chain([one(site.a.addresses.router4, &mac)])
            .collect();
        std::fs::write(&batch, lines).expect("a file");
        host.run("ip", &["-batch", &batch.to_string_lossy()]);
    };
    become_all("stale");
    std::thread::sleep(Duration::from_secs(6));
    let trace = Trace::begin(host, &sidecast);
    for state in ["reachable", "stale", "reachable", "stale"] {
        become_all(state);
    }
    std::thread::sleep(Duration::from_secs(1));
    let trace = trace.end();
    let calls = trace.lines().count();
    println!(
        "{} changes of {NEIGHBORS} neighbors: {calls} system calls",
        4 * NEIGHBORS
    );
    // Checks and KEEPALIVEs go on.
    assert!(calls < 2 * NEIGHBORS, "{trace}");
    sidecast.must_run();
}

/// Datagrams of these kinds.
fn sent(trace: &str, kinds: &[&str]) -> usize {
    let sent = trace.lines().filter(|line| line.contains("sendto("));
    sent.filter(|line| kinds.iter().any(|kind| line.contains(kind)))
        .count()
}

/// Timers of the kernel that a process holds.
fn timers(id: u32) -> usize {
    let fds = std::fs::read_dir(format!("/proc/{id}/fd")).expect("a process of ours");
    let links = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    links
        .filter(|link| link.to_string_lossy().contains("timerfd"))
        .count()
}

/// How often threads of a process have waited so far.
fn waits(id: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task")).expect("a process of ours");
    // A thread of the pool may end meanwhile.
    let statuses = tasks.flatten().map(|task| task.path().join("status"));
    let waits = statuses.flat_map(std::fs::read_to_string).map(|status| {
        let mut lines = status.lines();
        let waits = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let waits = waits.and_then(|number| number.trim().parse::<u64>().ok());
        waits.expect("a number")
    });
    waits.sum()
}

fn threads(id: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task"));
    tasks.expect("a process of ours").count()
}

const HALF_A_MINUTE: Duration = Duration::from_secs(30);
/// 23 in a minute, measured; where KEEPALIVEs and renewals had wakes of their own they were 27 to 29, with timers of
/// async-io 54.
const MOST_WAKES: u64 = 16;
const WATCHED: Duration = Duration::from_secs(15);
/// How strace shows requests on a rtnetlink socket of another network namespace: their kind, and flags that
/// tell them from those of sock_diag; `0x600` is to create what is not there, `0x300` asks for all.
const GETLINK: &str = "nlmsg_type=0x12 /* NLMSG_??? */, nlmsg_flags=NLM_F_REQUEST,";
const NEWADDR: &str = "nlmsg_type=0x14 /* NLMSG_??? */, nlmsg_flags=NLM_F_REQUEST|NLM_F_ACK|0x600";
/// Addresses, routes.
const DUMPS: &[&str] = &[
    "nlmsg_type=0x16 /* NLMSG_??? */, nlmsg_flags=NLM_F_REQUEST|0x300",
    "nlmsg_type=0x1a /* NLMSG_??? */, nlmsg_flags=NLM_F_REQUEST|0x300",
];
/// More than the limit at which the kernel begins to remove entries, 128, and less than where it hurries.
const NEIGHBORS: usize = 200;
/// Registered at once, more or less.
const APPS: usize = 8;
