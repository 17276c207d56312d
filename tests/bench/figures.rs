//! The figures the README quotes, measured on the same labs as the tests: BIRD as the router, its
//! kernel's table as the judge. Prints a table. `SIDECAST_BIN` names the binary, `RUNS` how often each
//! figure is taken (at least 5, else it is no median).

use std::fs;
use std::net::IpAddr;
use std::process::{Command, ExitCode};
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
    let mut starts = Figure::new("cold start to route in the router's FIB", "ms");
    let mut resident = Figure::new("RSS with one app", "MiB");
    let mut private = Figure::new("… of it private dirty", "MiB");
    for _ in 0..runs {
        cold_start(&mut starts, &mut resident, &mut private);
    }
    let mut gone = Figure::new("service killed to route gone, `interval: 1s`", "ms");
    let mut back = Figure::new("service started again to route back", "ms");
    flaps(runs, &mut gone, &mut back);
    println!("{}\n", machine());
    println!("| figure | median | worst | runs |\n| --- | ---: | ---: | ---: |");
    for figure in [starts, gone, back, resident, private] {
        println!("{figure}");
    }
    let size = fs::metadata(binary()).expect("the binary").len();
    println!(
        "| size of the binary | {:.2} MiB | | |",
        mebibytes(size / 1024)
    );
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
    resident.add(mebibytes(kibibytes(&memory, "Rss:")));
    private.add(mebibytes(kibibytes(&memory, "Private_Dirty:")));
    sidecast.signal(Signal::SIGTERM);
    assert!(sidecast.wait(PATIENCE).success(), "{}", sidecast.log());
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

fn kill(service: &mut Service, routes: &Routes) -> Duration {
    let begun = Instant::now();
    service.signal(Signal::SIGKILL);
    let at = routes.wait(Change::Removed, address(VIP4), PATIENCE);
    at - begun
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
    name: &'static str,
    unit: &'static str,
    values: Vec<f64>,
}

impl Figure {
    fn new(name: &'static str, unit: &'static str) -> Self {
        let values = Vec::new();
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
        let digits = if self.unit == "ms" { 1 } else { 2 };
        let Self { name, unit, .. } = self;
        write!(
            f,
            "| {name} | {median:.digits$} {unit} | {worst:.digits$} {unit} | {runs} |"
        )
    }
}

/// Where and when, since a figure means nothing without.
fn machine() -> String {
    let said = |program: &str, args: &[&str]| {
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
        said("date", &["-u", "+%Y-%m-%d"]),
        said("nproc", &[]),
        said("uname", &["-rm"]),
        said("bird", &["--version"]),
        said(&binary(), &["--version"]),
    )
}

/// The number of a line of smaps_rollup, as `Rss:  1234 kB`.
fn kibibytes(memory: &str, name: &str) -> u64 {
    let line = memory.lines().find_map(|line| line.strip_prefix(name));
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

/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(30);
