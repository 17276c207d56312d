//! Who reaches the HTTP API over real networks, and what those who should not can do to it.

use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidecast_lab::{Namespace, Sidecast, Site, expect, get, until};

sidecast_lab::tests! {
    needs []:
        probes_get_through_a_flood_of_connections,
        strangers_change_nothing_without_a_token,
        clients_that_do_not_read_cost_no_memory;
}

/// Thousands of connects from another host, some of which hold what they get with half a head.
fn probes_get_through_a_flood_of_connections() {
    let site = Site::new();
    let host = &site.a;
    let open = "agent: {listen_addr: \":8080\"}\n";
    let mut sidecast = Sidecast::start(&host.network, &format!("{open}{}", host.config("", "")));
    let api = SocketAddr::new(host.addresses.host4.parse().unwrap(), 8080);
    until(PATIENCE, "the API answers", || {
        sidecast.must_run();
        get(&site.client, api, "/healthz")
    });
    let (ended, connects) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut slow = Vec::new();
    let begun = Instant::now();
    let mut probes = 0;
    thread::scope(|scope| {
        scope.spawn(|| flood(&site.b.network, api, &ended, &connects));
        // A busy machine floods more slowly.
        while connects.load(Ordering::Relaxed) < 8_000 && begun.elapsed() < PATIENCE * 3 {
            let asked = Instant::now();
            let answer = get(&site.client, api, "/healthz").map(|answer| answer.status);
            let took = asked.elapsed();
            if took > LATE || !answer.as_ref().is_ok_and(|status| *status == 200) {
                slow.push((probes, took, answer));
            }
            probes += 1;
            thread::sleep(Duration::from_millis(30).saturating_sub(took));
        }
        ended.store(true, Ordering::Relaxed);
    });
    let connects = connects.into_inner();
    let rate = connects as f64 / begun.elapsed().as_secs_f64();
    println!(
        "    {connects} connects, {rate:.0} a second; late or refused of {probes} probes: {slow:?}"
    );
    assert!(slow.is_empty(), "{slow:?}");
    assert!(connects >= 8_000, "the flood was thin: {rate} a second");
    assert!(probes > 20, "{probes} probes");
    sidecast.must_run();
}

/// At most 4,000 connects a second until it is stopped; up to 300 of them are held, every other with half a head. What a
/// busy machine does not run is not made up for: all at once would fill the backlog.
fn flood(from: &Namespace, to: SocketAddr, ended: &AtomicBool, connects: &AtomicUsize) {
    let mut held = VecDeque::new();
    from.enter(|| {
        while !ended.load(Ordering::Relaxed) {
            let made = connects.fetch_add(1, Ordering::Relaxed);
            if made % 4 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_secs(1)) else {
                continue;
            };
            if made % 2 == 0 {
                let _ = stream.write_all(b"GET /apps HTTP/1.1\r\nHost: h\r\nX-Slow: ");
            }
            held.push_back(stream);
            if held.len() > 300 {
                held.pop_front();
            }
        }
    });
}

fn strangers_change_nothing_without_a_token() {
    let site = Site::new();
    let host = &site.a;
    // A container beside it, on a bridge's network that leads nowhere else.
    let container = site.lab.namespace("container");
    site.lab.cable(
        (&host.network, "docker0", &["172.18.0.1/16"]),
        (&container, "eth0", &["172.18.0.2/16"]),
    );
    let config = |agent: &str| {
        let agent = format!("agent: {{listen_addr: \":8080\"{agent}}}\n");
        agent + &host.config("", "")
    };
    let mut sidecast = Sidecast::start(&host.network, &config(""));
    let at = |addr: &str| SocketAddr::new(addr.parse().unwrap(), 8080);
    until(PATIENCE, "its own calls are taken", || {
        sidecast.must_run();
        let answer = get(&host.network, at(host.addresses.host4), REGISTER)?;
        expect(answer.status == 200, answer.body).map_err(std::io::Error::other)
    });
    for near in [at("127.0.0.1"), at("::1"), at(host.addresses.host6)] {
        assert_eq!(
            get(&host.network, near, REGISTER).unwrap().status,
            200,
            "{near}"
        );
    }
    // The kernel's tables were read when its own address was taken.
    assert_eq!(
        get(&container, at("172.18.0.1"), REGISTER).unwrap().status,
        200
    );
    let remote = [
        (&site.client, host.addresses.host4, "10.0.9.2/32"),
        (&site.client, host.addresses.host6, "2001:db8:9::2/128"),
        (&site.router, host.addresses.host4, "10.0.1.1/32"),
    ];
    for (from, to, shown) in remote {
        let refused = get(from, at(to), "/unregister?name=x").unwrap();
        let line = format!("agent.api_allow: [{shown}]");
        assert_eq!(refused.status, 403, "{refused:?}");
        assert!(
            refused.body.contains(&line) && refused.body.contains("api_token"),
            "{refused:?}"
        );
        assert_eq!(get(from, at(to), "/apps/x").unwrap().status, 200);
    }
    let log = sidecast.log();
    assert!(
        log.contains("agent.listen_addr :8080 is reachable from other hosts"),
        "{log}"
    );
    Sidecast::write(&host.network, &config(", api_allow: [10.0.9.2/32]"));
    sidecast.signal(Signal::SIGHUP);
    until(PATIENCE, "who was added is taken", || {
        let answer = get(&site.client, at(host.addresses.host4), "/unregister?name=x")?;
        expect(answer.status == 200, answer.body).map_err(std::io::Error::other)
    });
    let router = get(&site.router, at(host.addresses.host4), REGISTER).unwrap();
    assert_eq!(
        router.status, 403,
        "it adds to the default and allows no other"
    );
}

/// 100 apps of 32 monitors each, and 30 clients that ask for all of it and take nothing.
fn clients_that_do_not_read_cost_no_memory() {
    let site = Site::new();
    let host = &site.a;
    let mut config = "agent: {monitor_interval: 1h}\n".to_owned() + &host.config("", "");
    for app in 0..100 {
        let monitors: Vec<String> = (1..=32)
            .map(|m| format!("\"port:tcp:{}\"", 10_000 + m))
            .collect();
        let monitors = monitors.join(", ");
        config += &format!(
            "  - {{name: many-{app}, vip: 198.51.100.{app}/32, monitors: [{monitors}]}}\n"
        );
    }
    let mut sidecast = Sidecast::start(&host.network, &config);
    sidecast.wait_for_api(&host.network);
    let whole = || {
        let reply = sidecast.get(&host.network, "/apps");
        assert!(
            reply.head.contains("Transfer-Encoding: chunked"),
            "{}",
            reply.head
        );
        let apps = reply.json();
        assert_eq!(apps.as_array().map(Vec::len), Some(101));
        reply.body.len()
    };
    let size = whole();
    let before = rss(sidecast.id());
    let mut clients: Vec<TcpStream> = (0..30)
        .map(|_| {
            let mut stream = host
                .network
                .enter(|| TcpStream::connect(Sidecast::api()).unwrap());
            stream
                .write_all(b"GET /apps HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .unwrap();
            stream
        })
        .collect();
    // Each has its first bytes: the answers have begun.
    for stream in &mut clients {
        stream.read_exact(&mut [0; 12]).unwrap();
    }
    whole();
    let grown = rss(sidecast.id()).saturating_sub(before);
    println!("    /apps is {size} bytes; 30 clients that do not read cost {grown} KiB");
    assert!(size > 400_000, "{size}");
    assert!(grown < 6 * 1024, "{grown} KiB");
    // A slow client gets all of it.
    let mut last = String::new();
    clients[0].read_to_string(&mut last).unwrap();
    assert!(
        last.ends_with("]\n\r\n0\r\n\r\n"),
        "{}",
        &last[last.len() - 40..]
    );
}

/// Resident memory in KiB (proc(5)).
fn rss(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

const REGISTER: &str = "/register?name=x&vip=203.0.113.9/32";
/// A SYN that finds the backlog full is sent again after a second.
const LATE: Duration = Duration::from_millis(900);
const PATIENCE: Duration = Duration::from_secs(20);
