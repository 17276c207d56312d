//! The figures the README quotes, measured on the same labs as the tests: BIRD as the router, its
//! kernel's table as the judge. Prints a table. `SIDECAST_BIN` names the binary, `RUNS` how often each
//! figure is taken (at least 5, else it is no median). `APPS` says how many make a crowd, `AGENT` which keys
//! of the agent's section they have more (`path_proof: off`); `ONLY` that `one` app, the `outages` or the
//! `crowd` are all.

mod outages;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::process::{Command, ExitCode};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidecast_lab::{
    Bird, Change, Routes, Service, Sidecast, Site, VIP4, VIP6, binary, expect, until,
};

fn main() -> ExitCode {
    if let Some(code) = sidecast_lab::begin(env!("CARGO_BIN_EXE_sidecast")) {
        return code;
    }
    let runs = std::env::var("RUNS")
        .ok()
        .and_then(|text| text.parse().ok());
    let runs: u32 = runs.unwrap_or(9).max(5);
    // A thread of its own, as the tests have: it goes from namespace to namespace.
    let bench = std::thread::spawn(move || measure(runs)).join();
    if bench.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn measure(runs: u32) {
    let apps = std::env::var("APPS").ok();
    let apps = apps.map_or(1000, |text| text.parse().expect("APPS is a number"));
    let mut figures = Vec::new();
    let only = std::env::var("ONLY").ok();
    let wanted = |what: &str| only.as_ref().is_none_or(|only| only == what);
    if wanted("one") {
        figures.extend(one_app(runs));
    }
    if wanted("outages") {
        figures.extend(outages::measure(runs));
    }
    if wanted("crowd") {
        figures.extend(crowd_of_apps(apps));
        figures.extend(crowd_of_ports(apps));
    }
    println!("{}\n", machine());
    println!("| figure | median | worst | runs |\n| --- | ---: | ---: | ---: |");
    for figure in figures {
        println!("{figure}");
    }
    let size = fs::metadata(binary()).expect("the binary").len();
    println!("| size of the binary | {size} bytes | | |");
}

fn one_app(runs: u32) -> [Figure; 9] {
    let mut starts = Figure::new("cold start to route in the router's FIB", "ms");
    let mut resident = Figure::new("RSS with one app", "MiB");
    let mut private = Figure::new("… of it private dirty", "MiB");
    for _ in 0..runs {
        cold_start(&mut starts, &mut resident, &mut private);
    }
    let mut gone = Figure::new("service killed to route gone, `interval: 1s`", "ms");
    let mut back = Figure::new("service started again to route back", "ms");
    flaps(runs, &mut gone, &mut back);
    let mut crash = Figure::new("`kill -9` of sidecast to route gone, with NAT", "ms");
    crashes(runs, &mut crash);
    let mut spent = Figure::new("an idle minute with one app: CPU", "ms");
    let mut switches = Figure::new("… context switches", "");
    let mut bare = Figure::new(
        "… CPU of a program that does nothing but wait as often",
        "ms",
    );
    idle_minute(IDLING, &mut spent, &mut switches, &mut bare);
    [
        starts, gone, back, crash, resident, private, spent, switches, bare,
    ]
}

/// A site without sidecast, and the time from its start until the router's kernel has both routes; then,
/// when it has settled, its memory.
fn cold_start(starts: &mut Figure, resident: &mut Figure, private: &mut Figure) {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let routes = (Routes::listen(&site.router), Routes::listen(&site.router));
    let begun = Instant::now();
    let mut sidecast = Sidecast::start(&site.a.network, &config(&site, ""));
    let first = routes.0.wait(Change::Added, address(VIP4), PATIENCE);
    let second = routes.1.wait(Change::Added, address(VIP6), PATIENCE);
    starts.add(millis(first.max(second) - begun));
    let settled = Instant::now();
    until(PATIENCE, "it settles", || {
        sidecast.must_run();
        expect(settled.elapsed() > Duration::from_secs(3), "not yet")
    });
    // Pages of the file not yet written back count as dirty.
    nix::unistd::sync();
    let memory = fs::read_to_string(format!("/proc/{}/smaps_rollup", sidecast.id()));
    let memory = memory.expect("the process runs");
    resident.add(mebibytes(number(&memory, "Rss:")));
    private.add(mebibytes(number(&memory, "Private_Dirty:")));
    sidecast.signal(Signal::SIGTERM);
    assert!(sidecast.wait(PATIENCE).success(), "{}", sidecast.log());
}

/// What a minute costs in which nothing happens, as several of them spend it at the same time, each with one app, one
/// monitor and a session with default timers.
fn idle_minute(sites: usize, spent: &mut Figure, switches: &mut Figure, bare: &mut Figure) {
    let lives: Vec<_> = (0..sites)
        .map(|_| {
            let site = Site::new();
            let services = site.a.services();
            let router = Bird::router(&site.router, &[site.a.session("a")]);
            let routes = Routes::listen(&site.router);
            let config = format!(
                "bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {}}}\n\
                 apps: [{{name: dns, vip: {VIP4}/32, monitors: [\"port:tcp:{}\"], interval: 10s}}]\n",
                site.a.addresses.router4,
                Site::TCP_PORT,
            );
            let sidecast = Sidecast::start(&site.a.network, &config);
            routes.wait(Change::Added, address(VIP4), PATIENCE);
            (sidecast, router, services, site)
        })
        .collect();
    // What starting leaves to do.
    std::thread::sleep(Duration::from_secs(6));
    let cost = || lives.iter().map(|(sidecast, ..)| Cost::of(sidecast.id()));
    let before: Vec<Cost> = cost().collect();
    let waits: Vec<_> = (0..sites).map(|_| std::thread::spawn(wait_only)).collect();
    std::thread::sleep(Duration::from_secs(60));
    for (before, after) in before.iter().zip(cost()) {
        spent.add(millis(after.spent - before.spent));
        let more = after.switches - before.switches;
        switches.add(f64::from(u32::try_from(more).expect("few")));
    }
    for wait in waits {
        bare.add(millis(wait.join().expect("it only waits")));
    }
}

/// CPU of a thread that waits [`WAITS`] times in a minute: what this machine takes for waking alone.
fn wait_only() -> Duration {
    for _ in 0..WAITS {
        std::thread::sleep(Duration::from_secs(60) / WAITS);
    }
    let run = fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel has it");
    let run = run.split_whitespace().next().and_then(|n| n.parse().ok());
    Duration::from_nanos(run.expect("nanoseconds"))
}

/// What all threads of a process have used so far.
struct Cost {
    spent: Duration,
    switches: u64,
}

impl Cost {
    fn of(process: u32) -> Self {
        let (mut spent, mut switches) = (Duration::ZERO, 0);
        let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the process runs");
        for task in tasks.flatten().map(|task| task.path()) {
            let file = |name| fs::read_to_string(task.join(name)).expect("the thread runs");
            // Nanoseconds; /proc/PID/stat counts in hundredths of a second.
            let run = file("schedstat");
            let run = run.split_whitespace().next().and_then(|n| n.parse().ok());
            spent += Duration::from_nanos(run.expect("the kernel has it"));
            let status = file("status");
            switches += number(&status, "voluntary_ctxt_switches:");
            switches += number(&status, "nonvoluntary_ctxt_switches:");
        }
        Self { spent, switches }
    }
}

/// The service killed and started again, each time at another moment of the interval.
fn flaps(runs: u32, gone: &mut Figure, back: &mut Figure) {
    let site = Site::new();
    let (mut tcp, _udp) = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let routes = Routes::listen(&site.router);
    // Damping limits how soon a flapping service comes back; here it flaps for science.
    let app = "interval: 1s\nhold_down: \"off\"";
    let _sidecast = Sidecast::start(&site.a.network, &config(&site, app));
    routes.wait(Change::Added, address(VIP4), PATIENCE);
    for run in 0..runs {
        let phase = Duration::from_millis(1000) * run / runs;
        let settled = Instant::now();
        until(PATIENCE, "the next moment to die", || {
            expect(
                settled.elapsed() > Duration::from_secs(1) + phase,
                "not yet",
            )
        });
        gone.add(millis(kill(&mut tcp, &routes)));
        let begun = Instant::now();
        tcp.restart(&site.a.network);
        let at = routes.wait(Change::Added, address(VIP4), PATIENCE);
        back.add(millis(at.saturating_duration_since(begun)));
    }
}

/// sidecast killed, as by a crash, while it holds the session and the table of nf_tables.
fn crashes(runs: u32, gone: &mut Figure) {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let routes = Routes::listen(&site.router);
    let config = config(&site, "nats: [\"udp:53:8053\"]");
    for _ in 0..runs {
        let mut sidecast = Sidecast::start(&site.a.network, &config);
        routes.wait(Change::Added, address(VIP4), PATIENCE);
        let begun = Instant::now();
        sidecast.signal(Signal::SIGKILL);
        let at = routes.wait(Change::Removed, address(VIP4), PATIENCE);
        gone.add(millis(at.saturating_duration_since(begun)));
        sidecast.kill();
    }
}

fn kill(service: &mut Service, routes: &Routes) -> Duration {
    let begun = Instant::now();
    service.signal(Signal::SIGKILL);
    let at = routes.wait(Change::Removed, address(VIP4), PATIENCE);
    at - begun
}

/// Many apps of one service: what it takes to register them, to do nothing, and to lose the service. Each is
/// taken once: it is about the growth, not about milliseconds.
fn crowd_of_apps(count: u32) -> Vec<Figure> {
    let mut figures = vec![
        Figure::new(
            format!("{count} apps registered by four clients: CPU of each, user"),
            "ms",
        ),
        Figure::new(
            "… system, of which the kernel's own list of addresses is a part",
            "ms",
        ),
        Figure::new(
            "… from the first call until all routes are in the router's FIB",
            "ms",
        ),
        Figure::new("… RSS beyond that with one app, of each", "KiB"),
        Figure::new(
            format!("{count} apps on one port, idle for 30 s: CPU"),
            "ms",
        ),
        Figure::new("their service killed to all routes gone", "ms"),
        Figure::new(format!("{count} apps down for 30 s: CPU"), "ms"),
        Figure::new(
            "the longest turn of the loop meanwhile, page and verdict among it",
            "ms",
        ),
        Figure::new("user CPU of each of the first thousand", "ms"),
        Figure::new("… of the last thousand", "ms"),
        Figure::new(format!("the status page of {count} apps: CPU"), "ms"),
        Figure::new(format!("the verdict on {count} apps: CPU"), "ms"),
    ];
    let site = Site::new();
    let (tcp, _udp) = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let routes = Routes::listen(&site.router);
    let agent = format!(
        "agent: {{max_http_apps: {count}, max_vips: {}{}}}\n",
        count + 2,
        more_of_agent()
    );
    let mut sidecast = Sidecast::start(&site.a.network, &(agent + &config(&site, "interval: 10s")));
    sidecast.wait_for_api(&site.a.network);
    routes.wait(Change::Added, address(VIP4), PATIENCE);
    let all: BTreeSet<IpAddr> = (0..count).map(|n| address(&vip(n))).collect();
    let ([user, system], memory) = (cpu(&sidecast), rss(&sidecast));
    let begun = Instant::now();
    let mut there = begun;
    let (mut done, mut thousands) = (0, Vec::new());
    while done < count {
        let these = done..count.min(done + 1000);
        let before = cpu(&sidecast)[0];
        there = register_all(&site, &routes, these.clone(), |_| Site::TCP_PORT);
        let registered = f64::from(these.end - these.start);
        thousands.push((cpu(&sidecast)[0] - before) / registered);
        done = these.end;
    }
    figures[8].add(*thousands.first().expect("some"));
    figures[9].add(*thousands.last().expect("some"));
    let each = f64::from(count);
    let after = cpu(&sidecast);
    figures[0].add((after[0] - user) / each);
    figures[1].add((after[1] - system) / each);
    figures[2].add(millis(there - begun));
    pass(Duration::from_secs(3));
    figures[3].add((rss(&sidecast) - memory) / each);
    figures[4].add(spent_in_half_a_minute(&sidecast));
    let begun = Instant::now();
    tcp.signal(Signal::SIGKILL);
    let gone = routes.wait_for_all(Change::Removed, all, PATIENCE);
    figures[5].add(millis(gone - begun));
    pass(Duration::from_secs(15));
    figures[6].add(spent_in_half_a_minute(&sidecast));
    let asked = |path: &str| {
        let before = Cost::of(sidecast.id()).spent;
        for _ in 0..ASKED {
            assert_eq!(sidecast.get(&site.a.network, path).status, 200, "{path}");
        }
        millis(Cost::of(sidecast.id()).spent - before) / f64::from(ASKED)
    };
    figures[10].add(asked("/"));
    figures[11].add(asked("/verdict"));
    let metrics = sidecast.get(&site.a.network, "/metrics").body;
    let mut lines = metrics.lines();
    let longest = lines.find_map(|line| line.strip_prefix("sidecast_loop_longest_seconds "));
    let longest: f64 = longest.expect("the metric").parse().expect("a number");
    figures[7].add(longest * 1000.0);
    figures
}

/// As many apps as ports: what it takes to register them, and to do nothing for half a minute.
fn crowd_of_ports(count: u32) -> [Figure; 3] {
    let count = count.min(PORTS);
    let what = format!("{count} apps on as many ports");
    let mut registered = Figure::new(format!("{what} registered: CPU of each"), "ms");
    let mut there = Figure::new(
        "… from the first call until all routes are in the router's FIB",
        "ms",
    );
    let mut idle = Figure::new(format!("{what}, idle for 30 s: CPU"), "ms");
    let site = Site::new();
    let _services = site.a.services();
    rlimit();
    let port = |n: u32| FIRST_PORT + u16::try_from(n).expect("a port");
    let listen = |n| TcpListener::bind(("0.0.0.0", port(n))).expect("it is free");
    let _listeners: Vec<TcpListener> = site.a.network.enter(|| (0..count).map(listen).collect());
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let routes = Routes::listen(&site.router);
    let agent = format!(
        "agent: {{max_http_apps: {count}, max_vips: {}, monitor_interval: 10s{}}}\n",
        count + 2,
        more_of_agent()
    );
    let mut sidecast = Sidecast::start(&site.a.network, &(agent + &config(&site, "interval: 10s")));
    sidecast.wait_for_api(&site.a.network);
    routes.wait(Change::Added, address(VIP4), PATIENCE);
    let (before, begun) = (Cost::of(sidecast.id()).spent, Instant::now());
    let mut done = 0;
    while done < count {
        let these = done..count.min(done + 1000);
        done = these.end;
        let last = register_all(&site, &routes, these, port);
        if done == count {
            there.add(millis(last - begun));
        }
    }
    let spent = Cost::of(sidecast.id()).spent - before;
    registered.add(millis(spent) / f64::from(count));
    pass(Duration::from_secs(3));
    idle.add(spent_in_half_a_minute(&sidecast));
    [registered, there, idle]
}

/// Milliseconds of CPU in 30 seconds in which nothing happens.
fn spent_in_half_a_minute(sidecast: &Sidecast) -> f64 {
    let before = Cost::of(sidecast.id()).spent;
    pass(Duration::from_secs(30));
    millis(Cost::of(sidecast.id()).spent - before)
}

/// Keys of the agent's section that `AGENT` adds.
fn more_of_agent() -> String {
    std::env::var("AGENT").map_or_else(|_| String::new(), |keys| format!(", {keys}"))
}

/// Room for a listener on each port.
fn rlimit() {
    let resource = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (_, most) = nix::sys::resource::getrlimit(resource).expect("it has a limit");
    nix::sys::resource::setrlimit(resource, most, most).expect("up to the hard one");
}

/// Registers these and waits until all their routes are there: when that was.
fn register_all(
    site: &Site,
    routes: &Routes,
    numbers: Range<u32>,
    port: impl Fn(u32) -> u16,
) -> Instant {
    let clients = register(site, numbers.clone(), port);
    let all = numbers.map(|n| address(&vip(n))).collect();
    let there = routes.wait_for_all(Change::Added, all, PATIENCE);
    for client in clients {
        client.join().expect("it registers all of its own");
    }
    there
}

/// Four clients that share the work.
fn register(site: &Site, numbers: Range<u32>, port: impl Fn(u32) -> u16) -> Vec<JoinHandle<()>> {
    (0..4)
        .map(|client| {
            let paths: Vec<String> = numbers
                .clone()
                .filter(|n| n % 4 == client)
                .map(|n| {
                    let (vip, port) = (vip(n), port(n));
                    format!("/register?name=app{n}&vip={vip}/32&monitor=port:tcp:{port}")
                })
                .collect();
            site.a.network.enter(|| {
                // A thread is where the one is that starts it.
                std::thread::spawn(move || paths.iter().for_each(|path| call(path)))
            })
        })
        .collect()
}

fn vip(n: u32) -> String {
    format!("198.{}.{}.{}", 18 + n / 65536, n / 256 % 256, n % 256)
}

/// One call on a connection of its own, as scripts make them.
fn call(path: &str) {
    let mut stream = TcpStream::connect(Sidecast::api()).expect("it listens");
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.contains(" 200 "), "{path}: {answer}");
}

fn pass(time: Duration) {
    let begun = Instant::now();
    until(time + PATIENCE, "time passes", || {
        expect(begun.elapsed() > time, "not yet")
    });
}

/// Milliseconds of CPU that a process has used in all its threads, user and system (proc_pid_stat(5)).
fn cpu(sidecast: &Sidecast) -> [f64; 2] {
    let stat = fs::read_to_string(format!("/proc/{}/stat", sidecast.id()));
    let stat = stat.expect("the process runs");
    let (_, rest) = stat.rsplit_once(')').expect("the name ends there");
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| -> f64 { fields[index].parse().expect("a number") };
    // Linux counts in hundredths, whatever its own clock is.
    [ticks(11) * 10.0, ticks(12) * 10.0]
}

/// KiB of memory that a process has now.
fn rss(sidecast: &Sidecast) -> f64 {
    let memory = fs::read_to_string(format!("/proc/{}/smaps_rollup", sidecast.id()));
    mebibytes(number(&memory.expect("the process runs"), "Rss:")) * 1024.0
}

/// The usual configuration of the lab, but for `interval`, which an app may name only once.
fn config(site: &Site, app: &str) -> String {
    site.a
        .config("", &format!("drain_time: 100ms\n{app}"))
        .replacen(
            "    interval: 200ms\n",
            "",
            usize::from(app.contains("interval")),
        )
}

/// One line of the table.
struct Figure {
    name: String,
    unit: &'static str,
    values: Vec<f64>,
}

impl Figure {
    fn new(name: impl Into<String>, unit: &'static str) -> Self {
        let (name, values) = (name.into(), Vec::new());
        Self { name, unit, values }
    }

    fn add(&mut self, value: f64) {
        eprintln!("{}: {value:.2} {}", self.name, self.unit);
        self.values.push(value);
        self.values.sort_by(f64::total_cmp);
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let runs = self.values.len();
        let median = self.values.get(runs / 2).copied().unwrap_or(f64::NAN);
        let worst = self.values.last().copied().unwrap_or(f64::NAN);
        let digits = match self.unit {
            "ms" => 1,
            "" => 0,
            _ => 2,
        };
        let Self { name, unit, .. } = self;
        write!(
            f,
            "| {name} | {median:.digits$} {unit} | {worst:.digits$} {unit} | {runs} |"
        )
    }
}

/// Where and when, since a figure means nothing without.
fn machine() -> String {
    let report = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        // BIRD tells its version on stderr.
        let printed = output.map(|output| [output.stdout, output.stderr].concat());
        let printed = printed.unwrap_or_default();
        String::from_utf8_lossy(&printed).trim().to_owned()
    };
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model
        .unwrap_or_default()
        .trim_start_matches([' ', '\t', ':']);
    format!(
        "{}, {} x {model}, Linux {}, {}, {}",
        report("date", &["-u", "+%Y-%m-%d"]),
        report("nproc", &[]),
        report("uname", &["-rm"]),
        report("bird", &["--version"]),
        report(&binary(), &["--version"]),
    )
}

/// The number of a line of smaps_rollup or status, as `Rss:  1234 kB`.
fn number(lines: &str, name: &str) -> u64 {
    let line = lines.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("the kernel has it")
}

fn mebibytes(kibibytes: u64) -> f64 {
    f64::from(u32::try_from(kibibytes).expect("less than 4 TiB")) / 1024.0
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Of a crowd: the ports from here on are free, and no more than these are listened on.
const FIRST_PORT: u16 = 20_000;
const PORTS: u32 = 3_000;
/// As often as sidecast with one app does in an idle minute.
const WAITS: u32 = 28;
/// How many spend the idle minute.
const IDLING: usize = 5;
/// How often the page and the verdict are asked for.
const ASKED: u32 = 20;
/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(30);
