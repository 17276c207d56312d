//! sidecast and what a user would pick instead, side by side on one machine: the same service, the same router (BIRD),
//! the same questions. Writes `examples/comparison.md` and `examples/pictures/comparison.svg` from what it measured.
//! `RUNS` is how often each time is taken (5 at least), `APPS` the sizes of the crowds, `ROUTES` the size of the table.
//! `GOCAST_SOURCE` names GoCast's source. Who is not here is named in the table.

mod announcers;
mod processes;
mod report;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use announcers::{Announcer, MORE, Pace, vip};
use nix::sys::signal::Signal;
use processes::Family;
use report::{Report, Row};
use sidecast_lab::{Bird, Cable, Change, Child, Lab, Routes, Service, Site, VIP4, expect, until};

fn main() -> ExitCode {
    if let Some(code) = sidecast_lab::begin(env!("CARGO_BIN_EXE_sidecast")) {
        return code;
    }
    // A thread of its own: it goes from namespace to namespace.
    match std::thread::spawn(compare).join() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn compare() {
    let lab = Lab::new();
    let (announcers, lacking) = Announcer::all(lab.dir());
    let runs = number("RUNS").unwrap_or(9).max(5);
    let sizes = std::env::var("APPS").unwrap_or_else(|_| "1,100,1000".to_owned());
    let sizes: Vec<u32> = sizes
        .split(',')
        .map(|n| n.parse().expect("a number"))
        .collect();
    let mut report = Report::new(announcers.clone(), lacking);
    report.add(times("start to route", "ms", &announcers, runs, start));
    for (pace, name) in [
        (Pace::Default, "by default"),
        (Pace::Fastest, "at its fastest"),
    ] {
        let name = format!("service dead to route gone, {name}");
        report.add(times(&name, "ms", &announcers, runs, |one, run| {
            dead(one, pace, run)
        }));
    }
    report.add(times(
        "killed with -9 to route gone",
        "ms",
        &announcers,
        runs,
        killed,
    ));
    report.add(left_behind(&announcers));
    report.add(times(
        "link up to route, after 12 s without",
        "ms",
        &announcers,
        runs.min(5),
        link_up,
    ));
    report.add(times(
        "one more registered to its route",
        "ms",
        &announcers,
        runs,
        registered,
    ));
    for size in sizes {
        for row in crowd(&announcers, size) {
            report.add(row);
        }
    }
    let routes = number("ROUTES").unwrap_or(1_000_000);
    for row in table(&announcers, routes) {
        report.add(row);
    }
    report.write();
}

/// One row: a value of each run of each announcer.
fn times(
    name: &str,
    unit: &'static str,
    announcers: &[Announcer],
    runs: u32,
    measure: impl Fn(&Announcer, u32) -> Option<f64>,
) -> Row {
    let mut row = Row::new(name, unit);
    for one in announcers {
        let values: Vec<f64> = (0..runs).filter_map(|run| measure(one, run)).collect();
        eprintln!("{name}, {}: {values:.2?} {unit}", one.name());
        row.values.push(values);
    }
    row
}

/// A site whose service answers, with a router; the announcer has yet to be started.
struct Scene {
    routes: Routes,
    tcp: Service,
    _router: Bird,
    site: Site,
}

impl Scene {
    fn set() -> Self {
        let site = Site::new();
        let tcp = Service::start(
            &site.a.network,
            sidecast_lab::Transport::Tcp,
            Site::TCP_PORT,
        );
        let mut session = site.a.session("a");
        // Its own waits would be measured in place of theirs.
        session.options = "connect delay time 1; error wait time 1, 1; hold time 9;";
        let router = Bird::router(&site.router, &[session]);
        Self {
            routes: Routes::listen(&site.router),
            tcp,
            _router: router,
            site,
        }
    }

    fn start(&self, one: &Announcer, apps: u32, pace: Pace) -> Child {
        one.start(
            &self.site.a.network,
            self.site.a.addresses.router4,
            apps,
            pace,
        )
    }

    fn announced(&self, one: &Announcer, pace: Pace) -> Child {
        let child = self.start(one, 1, pace);
        self.routes.wait(Change::Added, address(VIP4), PATIENCE);
        child
    }
}

fn start(one: &Announcer, _: u32) -> Option<f64> {
    let scene = Scene::set();
    let begun = Instant::now();
    let child = scene.start(one, 1, Pace::Default);
    let at = scene.routes.wait(Change::Added, address(VIP4), PATIENCE);
    end(child);
    Some(millis(at - begun))
}

/// Each run at another moment of the interval.
fn dead(one: &Announcer, pace: Pace, run: u32) -> Option<f64> {
    let scene = Scene::set();
    let child = scene.announced(one, pace);
    pass(Duration::from_millis(2000) + Duration::from_millis(700) * (run % 9));
    let begun = Instant::now();
    scene.tcp.signal(Signal::SIGKILL);
    let at = scene.routes.wait(Change::Removed, address(VIP4), PATIENCE);
    end(child);
    Some(millis(at - begun))
}

/// What speaks BGP is killed, as by the kernel when memory is short.
fn killed(one: &Announcer, _: u32) -> Option<f64> {
    let scene = Scene::set();
    let child = scene.announced(one, Pace::Default);
    pass(Duration::from_secs(2));
    let begun = Instant::now();
    Family::of(child.id()).kill_speaker();
    let at = scene.routes.wait(Change::Removed, address(VIP4), PATIENCE);
    end(child);
    Some(millis(at - begun))
}

/// How many addresses a host still has three minutes after the announcer and all its helpers were killed. All at the same
/// time: no moment is measured.
fn left_behind(announcers: &[Announcer]) -> Row {
    let mut row = Row::new("... addresses left on `lo` three minutes later", "");
    std::thread::scope(|scope| {
        let waiting: Vec<_> = announcers
            .iter()
            .map(|one| scope.spawn(|| left_by(one)))
            .collect();
        for one in waiting {
            row.values.push(vec![one.join().expect("it waits")]);
        }
    });
    row
}

fn left_by(one: &Announcer) -> f64 {
    let scene = Scene::set();
    let child = scene.announced(one, Pace::Default);
    pass(Duration::from_secs(2));
    Family::of(child.id()).kill();
    // The lease that sidecast gives an address by default, and some.
    pass(LEASE);
    let left = scene.site.a.vips().len();
    f64::from(u32::try_from(left).expect("few"))
}

/// Longer than the hold time of 9 s: the session is gone.
fn link_up(one: &Announcer, _: u32) -> Option<f64> {
    let scene = Scene::set();
    let child = scene.announced(one, Pace::Default);
    pass(Duration::from_secs(2));
    scene.site.plug(&scene.site.a, Cable::Out);
    pass(Duration::from_secs(12));
    scene.routes.seen(address(VIP4));
    let begun = Instant::now();
    scene.site.plug(&scene.site.a, Cable::In);
    let at = scene.routes.wait(Change::Added, address(VIP4), LONG);
    end(child);
    Some(millis(at - begun))
}

fn registered(one: &Announcer, _: u32) -> Option<f64> {
    let scene = Scene::set();
    let child = scene.announced(one, Pace::Default);
    pass(Duration::from_secs(2));
    let begun = Instant::now();
    let known = one.register(&scene.site.a.network);
    let at = known.then(|| scene.routes.wait(Change::Added, address(MORE), PATIENCE));
    end(child);
    at.map(|at| millis(at - begun))
}

/// Memory, idle CPU and the time to all routes of as many apps, once.
fn crowd(announcers: &[Announcer], apps: u32) -> [Row; 3] {
    let many = if apps == 1 {
        "one app"
    } else {
        &format!("{apps} apps")
    };
    let mut rows = [
        Row::new(format!("{many}: start to all routes"), "ms"),
        Row::new(format!("{many}: memory (PSS of all processes)"), "MiB"),
        Row::new(format!("{many}: CPU of 30 idle seconds"), "ms"),
    ];
    for one in announcers {
        // A Python process for each app: 1,000 of them are more than most machines have.
        let too_large =
            matches!(one, Announcer::Exabgp) && processes::available() < f64::from(apps) * 20.0;
        let taken = (!too_large).then(|| one_crowd(one, apps));
        eprintln!("{apps} apps, {}: {taken:.1?}", one.name());
        for (index, row) in rows.iter_mut().enumerate() {
            row.values
                .push(taken.iter().map(|values| values[index]).collect());
        }
    }
    rows
}

fn one_crowd(one: &Announcer, apps: u32) -> [f64; 3] {
    let scene = Scene::set();
    let begun = Instant::now();
    let child = scene.start(one, apps, Pace::Default);
    let all: BTreeSet<IpAddr> = (0..apps).map(|n| address(&vip(n))).collect();
    let at = scene.routes.wait_for_all(Change::Added, all, LONG);
    pass(Duration::from_secs(5));
    let before = Family::of(child.id()).cpu();
    pass(Duration::from_secs(30));
    let family = Family::of(child.id());
    let taken = [millis(at - begun), family.memory(), family.cpu() - before];
    end(child);
    taken
}

/// The router sends the whole Internet.
fn table(announcers: &[Announcer], routes: u32) -> [Row; 2] {
    let mut rows = [
        Row::new(format!("the router sends {routes} routes: memory"), "MiB"),
        Row::new("... CPU until that is done", "ms"),
    ];
    for one in announcers {
        let taken = one_table(one, routes);
        eprintln!("{routes} routes, {}: {taken:.1?}", one.name());
        for (row, value) in rows.iter_mut().zip(taken) {
            row.values.push(vec![value]);
        }
    }
    rows
}

fn one_table(one: &Announcer, routes: u32) -> [f64; 2] {
    let site = Site::new();
    let _tcp = Service::start(
        &site.a.network,
        sidecast_lab::Transport::Tcp,
        Site::TCP_PORT,
    );
    let (local, neighbor) = (site.a.addresses.router4, site.a.addresses.host4);
    let all: String = (0..routes)
        .map(|n| {
            format!(
                "route {}.{}.{}.0/24 blackhole;\n",
                20 + n / 65536,
                n / 256 % 256,
                n % 256
            )
        })
        .collect();
    let text = format!(
        "log stderr all;\nrouter id 10.255.0.1;\nprotocol device {{ }}\nprotocol static {{ ipv4;\n{all}}}\n\
         protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n\
         protocol bgp a {{ local {local} as 65000; neighbor {neighbor} as 65001;\n\
         \x20 ipv4 {{ import all; export all; }}; }}\n"
    );
    let watch = Routes::listen(&site.router);
    let router = Bird::start(&site.router, &text);
    let child = one.start(&site.a.network, local, 1, Pace::Default);
    watch.wait(Change::Added, address(VIP4), LONG);
    let exported = format!("{routes} exported");
    until(LONG, "all is sent", || {
        let session = router.session("a");
        expect(session.contains(&exported), session)
    });
    // It is done when five seconds cost no more than it costs to be idle.
    let mut before = Family::of(child.id()).cpu();
    until(LONG, "it has read it all", || {
        std::thread::sleep(Duration::from_secs(5));
        let now = Family::of(child.id()).cpu();
        let spent = now - std::mem::replace(&mut before, now);
        expect(spent < 1000.0, format!("{spent} ms"))
    });
    let family = Family::of(child.id());
    let taken = [family.memory(), family.cpu()];
    end(child);
    taken
}

/// With all that it started.
fn end(child: Child) {
    Family::of(child.id()).kill();
    drop(child);
}

fn pass(time: Duration) {
    std::thread::sleep(time);
}

fn number(variable: &str) -> Option<u32> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is a number")),
    )
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

const PATIENCE: Duration = Duration::from_secs(60);
/// What takes GoBGP minutes.
const LONG: Duration = Duration::from_secs(400);
const LEASE: Duration = Duration::from_secs(185);
