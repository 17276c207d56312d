//! How soon: from a service's death to the withdraw on the wire and to the route gone from the router's
//! kernel, and back; what is no death; what heals by itself. The figures are printed. The medians
//! hold the promise, with nothing beside; other limits are those of a busy machine.

use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::socket::sockopt::{Linger, ReuseAddr, ReusePort};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, connect, listen, setsockopt,
    socket,
};
use sidecast_lab::{
    Bird, BirdSession, Cable, Change, Lab, Routes, Service, Sidecast, Site, Transport, VIP4, VIP6,
    expect, until,
};

#[path = "reader/mod.rs"]
mod reader;
#[path = "reader/wire.rs"]
mod wire;

use wire::{Seen, Wire};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip"]:
        a_killed_service_is_withdrawn_in_milliseconds,
        also_where_a_failing_check_makes_it_a_last_resort,
        also_while_the_host_closes_many_connections,
        half_open_clients_do_not_hide_a_death,
        a_killed_announcer_is_gone_in_milliseconds,
        a_handover_is_no_death,
        a_hung_service_warns_or_is_withdrawn,
        a_deleted_address_is_put_back,
        an_interface_down_and_up_heals,
        a_replaced_gateway_is_found;
}

/// One at a time: these tests measure, and the kernel's notifications share one queue for all
/// namespaces.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn a_killed_service_is_withdrawn_in_milliseconds() {
    let _turn = turn();
    let stage = Stage::new();
    let figures = stage.kills(50);
    figures.print("quiet host");
    figures.check();
}

/// A fact wins: first over checks that pass, then over one that fails, which alone keeps the VIP announced.
fn also_where_a_failing_check_makes_it_a_last_resort() {
    let _turn = turn();
    let folder = Lab::new();
    let passes = folder.dir().join("passes");
    std::fs::write(&passes, "").expect("the lab's folder takes it");
    let stage = Stage::with(&format!(
        "monitors: [\"port:tcp:8000\", {{exec: [test, -e, {}], interval: 200ms, timeout: 10s}}], \
         vip_config: {{when_down: last_resort}}",
        passes.display()
    ));
    let figures = stage.kills(20);
    figures.print("last_resort is set");
    figures.check();
    std::fs::remove_file(&passes).expect("it is there");
    // The same route with other attributes.
    stage.wire.wait(Seen::Announced, PATIENCE);
    let figures = stage.kills(20);
    figures.print("announced as last resort");
    figures.check();
}

fn also_while_the_host_closes_many_connections() {
    let _turn = turn();
    let stage = Stage::new();
    let (stop, closed) = (AtomicBool::new(false), AtomicU64::new(0));
    let begun = Instant::now();
    let figures = std::thread::scope(|scope| {
        scope.spawn(|| {
            stage
                .site
                .a
                .network
                .enter(|| close_connections(&stop, &closed))
        });
        // The flood ends also when the test fails.
        let _ends = Ends(&stop);
        stage.kills(20)
    });
    let rate = closed.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    println!("{rate:.0} connections closed a second");
    figures.print("busy host");
    figures.check();
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Some 20,000 connections a second, each ended with a reset: no TIME_WAIT uses up the ports.
fn close_connections(stop: &AtomicBool, closed: &AtomicU64) {
    let listener = TcpListener::bind("127.0.0.1:9000").expect("a free port");
    let begun = Instant::now();
    let mut count = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        let client = TcpStream::connect("127.0.0.1:9000").expect("it listens");
        let (server, _) = listener.accept().expect("a client");
        let reset = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&client, Linger, &reset).expect("SO_LINGER");
        drop(client);
        drop(server);
        count += 1;
        closed.fetch_add(1, Ordering::Relaxed);
        let due = begun + Duration::from_micros(50) * count;
        if let Some(wait) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(wait);
        }
    }
}

/// The kernel tells of the listener's end only when the SYN-ACK timers of its half-open connections run:
/// for a connection half-open for more than a second that takes two seconds, then four, then eight.
fn half_open_clients_do_not_hide_a_death() {
    let _turn = turn();
    let stage = Stage::new();
    let (host, client) = (&stage.site.a.network, &stage.site.client);
    // The client's SYN comes from an address to which the answers get lost.
    client.ip("addr add 203.0.113.9/32 dev lo");
    host.ip("link add hole type veth peer name other");
    host.ip("link set hole up");
    host.ip("link set other up");
    host.ip("route add 203.0.113.9/32 dev hole");
    host.ip("neigh add 203.0.113.9 lladdr 02:00:00:00:00:01 dev hole");
    let mut figures = Figures::default();
    for run in 0..5_u64 {
        stage.wire.drain();
        let _clients: Vec<OwnedFd> = stage.site.client.enter(|| (0..3).map(half_open).collect());
        until(SOON, "handshakes are under way", || {
            let list = stage
                .site
                .a
                .network
                .run("ss", &["-Htn", "state", "syn-recv"]);
            expect(list.lines().count() >= 3, list)
        });
        // They are of different ages when it happens.
        std::thread::sleep(Duration::from_millis(850 * run));
        stage.kill_once(&mut figures);
        stage.bring_back(&mut figures);
    }
    figures.print("half-open clients");
    let mut times = figures.wire;
    times.sort();
    assert!(times[2] < HALF_OPEN, "{times:?}");
    // Without a look of ours the oldest ones would hide the death for three and a half seconds.
    assert!(times[4] < HALF_OPEN * 2, "{times:?}");
}

fn half_open(_: usize) -> OwnedFd {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket");
    bind(fd.as_raw_fd(), &SockaddrIn::new(203, 0, 113, 9, 0)).expect("our address");
    let begun = connect(
        fd.as_raw_fd(),
        &SockaddrIn::new(10, 0, 1, 2, Site::TCP_PORT),
    );
    assert_eq!(begun, Err(nix::errno::Errno::EINPROGRESS));
    fd
}

/// The kernel closes the connection of a dead process before its table of nf_tables, which takes long.
fn a_killed_announcer_is_gone_in_milliseconds() {
    let _turn = turn();
    for connects in ["", "passive: true\nlisten: \"[::]:179\""] {
        let site = Site::new();
        let _services = site.a.services();
        let _router = Bird::router(&site.router, &[site.a.session("a")]);
        let fib = Routes::listen(&site.router);
        let config = site.a.config(connects, "nats: [\"udp:53:8053\"]");
        let mut times = Vec::new();
        for _ in 0..10 {
            let mut sidecast = Sidecast::start(&site.a.network, &config);
            fib.wait(Change::Added, vip(), PATIENCE);
            let socket = session_socket(sidecast.id());
            assert!(socket >= 48, "the session's socket is {socket}");
            // A process in the middle of a batch of nf_tables ends with it: the first one of the path's probes.
            std::thread::sleep(Duration::from_millis(300));
            let begun = Instant::now();
            sidecast.signal(Signal::SIGKILL);
            times.push(fib.wait(Change::Removed, vip(), PATIENCE) - begun);
            sidecast.kill();
        }
        print_times("announcer killed to gone from the FIB", &mut times);
        // The descriptor's number tells whether the kernel releases it before the table of nf_tables: then it is 1 to 3 ms
        // at best, else 5, which a slow machine takes too. A peer that hears nothing would wait for the hold time.
        assert!(times[0] < Duration::from_millis(20), "{times:?}");
    }
}

/// The descriptor of the process's one TCP connection over IPv4.
fn session_socket(pid: u32) -> u32 {
    let proc = std::path::PathBuf::from(format!("/proc/{pid}"));
    let tcp = std::fs::read_to_string(proc.join("net/tcp")).expect("a process of ours");
    // proc(5): the fourth field is the state, 01 for established; the tenth is the inode.
    let fields = tcp.lines().map(|line| line.split_whitespace().collect());
    let mut sessions = fields.filter(|fields: &Vec<&str>| fields.get(3) == Some(&"01"));
    let inodes: Vec<String> = sessions
        .by_ref()
        .map(|fields| format!("socket:[{}]", fields[9]))
        .collect();
    let descriptors = std::fs::read_dir(proc.join("fd")).expect("a process of ours");
    let session = descriptors.flatten().find(|entry| {
        let link = std::fs::read_link(entry.path()).unwrap_or_default();
        inodes.iter().any(|inode| link.as_os_str() == &**inode)
    });
    let name = session.expect("it has a session").file_name();
    name.to_string_lossy().parse().expect("a number")
}

/// Another process takes the port over by SO_REUSEPORT, or the same one binds it anew at once.
fn a_handover_is_no_death() {
    let _turn = turn();
    let site = Site::new();
    let wire = Wire::start(&site.router, PORT);
    let host = &site.a.network;
    let (mut tcp, mut udp) = host.enter(|| (shared_tcp(), shared_udp()));
    let _sidecast = Sidecast::start(
        host,
        &config("monitors: [\"port:tcp:8000\", \"port:udp:8001\"]"),
    );
    wire.wait(Seen::Announced, PATIENCE);
    for _ in 0..100 {
        let next = host.enter(shared_tcp);
        drop(std::mem::replace(&mut tcp, next));
        let next = host.enter(shared_udp);
        drop(std::mem::replace(&mut udp, next));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(wire.withdrawn(), 0, "200 handovers");
    let mut slow = 0;
    for _ in 0..50 {
        let begun = Instant::now();
        host.enter(|| {
            drop(std::mem::replace(
                &mut tcp,
                TcpListener::bind("127.0.0.1:0").expect("a port").into(),
            ));
            tcp = shared_tcp();
        });
        // On a busy machine the two may come further apart.
        slow += usize::from(begun.elapsed() > Duration::from_micros(1500));
        std::thread::sleep(Duration::from_millis(10));
    }
    let withdrawn = wire.withdrawn();
    println!("200 handovers: 0 withdraws; 50 rebinds, {slow} of them slow: {withdrawn} withdraws");
    assert!(withdrawn <= slow);
}

fn shared_tcp() -> OwnedFd {
    let fd = shared(SockType::Stream, Site::TCP_PORT);
    listen(&fd, Backlog::new(16).expect("a backlog")).expect("listening");
    fd
}

fn shared_udp() -> OwnedFd {
    shared(SockType::Datagram, Site::UDP_PORT)
}

fn shared(kind: SockType, port: u16) -> OwnedFd {
    let fd = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    setsockopt(&fd, ReuseAddr, &true).expect("SO_REUSEADDR");
    setsockopt(&fd, ReusePort, &true).expect("SO_REUSEPORT");
    bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port)).expect("a shared port");
    fd
}

/// Two apps look at the same service, one of them strictly.
fn a_hung_service_warns_or_is_withdrawn() {
    let _turn = turn();
    let site = Site::new();
    let host = &site.a.network;
    let service = Service::start(host, Transport::Tcp, Site::TCP_PORT);
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let config = format!(
        "bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {}}}\n\
         apps:\n\
         \x20 - {{name: lenient, vip: {VIP4}/32, monitors: [\"port:tcp:8000\"], interval: 1s}}\n\
         \x20 - {{name: strict, vip: \"{VIP6}/128\", interval: 1s, \
         monitors: [{{monitor: \"port:tcp:8000\", accept_queue: fail}}]}}\n",
        site.a.addresses.router4,
    );
    let sidecast = Sidecast::start(host, &config);
    let (lenient, strict) = (format!("{VIP4}/32"), format!("{VIP6}/128"));
    until(PATIENCE, "both are announced", || {
        let both = router.route(&lenient).is_some() && router.route(&strict).is_some();
        expect(both, router.session("a"))
    });
    service.signal(Signal::SIGSTOP);
    let clients: Vec<OwnedFd> = host.enter(|| (0..300).map(|_| crowd()).collect());
    let begun = Instant::now();
    until(PATIENCE, "the strict one is withdrawn", || {
        expect(router.route(&strict).is_none(), "still there")
    });
    let gone = begun.elapsed();
    assert!(router.route(&lenient).is_some(), "a warning is no failure");
    let app = sidecast.app(host, "lenient");
    assert!(app.to_string().contains("accept queue"), "{app}");
    drop(clients);
    let begun = Instant::now();
    service.signal(Signal::SIGCONT);
    until(PATIENCE, "it is back", || {
        expect(router.route(&strict).is_some(), "not yet")
    });
    println!(
        "hung: withdrawn after {gone:?}, back {:?} after it went on",
        begun.elapsed()
    );
    // Interval, two seconds of a full queue, and what a busy machine needs.
    assert!(gone < Duration::from_secs(10), "{gone:?}");
}

/// One of many clients that wait to be accepted.
fn crowd() -> OwnedFd {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket");
    let _ = connect(
        fd.as_raw_fd(),
        &SockaddrIn::new(127, 0, 0, 1, Site::TCP_PORT),
    );
    fd
}

fn a_deleted_address_is_put_back() {
    let _turn = turn();
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let wire = Wire::start(&site.router, PORT);
    let sidecast = Sidecast::start(&site.a.network, &config(APP));
    wire.wait(Seen::Announced, PATIENCE);
    let mut times = Vec::new();
    for _ in 0..5 {
        site.a.network.ip(&format!("addr del {VIP4}/32 dev lo"));
        let begun = Instant::now();
        until(SOON, "the address is back", || {
            expect(site.a.vips().contains(&format!("{VIP4}/32")), "not yet")
        });
        times.push(begun.elapsed());
    }
    print_times(
        "address deleted to put back (with the time `ip` takes)",
        &mut times,
    );
    assert_eq!(wire.withdrawn(), 0, "the route stayed");
    assert!(sidecast.log().contains("removed by another program"));
    site.a
        .network
        .ip(&format!("addr flush dev lo to {VIP4}/32"));
    until(SOON, "the address is back", || {
        expect(site.a.vips().contains(&format!("{VIP4}/32")), "not yet")
    });
}

fn an_interface_down_and_up_heals() {
    let _turn = turn();
    let site = Site::new();
    let _services = site.a.services();
    let session = BirdSession {
        options: "error wait time 1, 1; connect delay time 1; connect retry time 2;",
        ..site.a.session("a")
    };
    let router = Bird::router(&site.router, &[session]);
    let _sidecast = Sidecast::start(&site.a.network, &site.a.config("hold_time: 3s", ""));
    let vip = format!("{VIP4}/32");
    until(PATIENCE, "it is announced", || {
        expect(router.route(&vip).is_some(), router.session("a"))
    });
    // The host's own interface, then the cable.
    for own in [true, false] {
        let host = &site.a.network;
        if own {
            host.ip("link set eth0 down");
        } else {
            site.plug(&site.a, Cable::Out);
        }
        until(PATIENCE, "the session ends", || {
            expect(!router.established("a"), "established")
        });
        if own {
            host.ip("link set eth0 up");
            host.ip(&format!(
                "addr replace {}/64 dev eth0",
                site.a.addresses.host6
            ));
            host.ip(&format!(
                "route replace default via {}",
                site.a.addresses.router4
            ));
        } else {
            site.plug(&site.a, Cable::In);
        }
        let begun = Instant::now();
        until(PATIENCE, "it is announced again", || {
            expect(router.route(&vip).is_some(), router.session("a"))
        });
        let what = if own { "interface" } else { "cable" };
        println!("{what} up to announced: {:?}", begun.elapsed());
    }
}

/// The peer is the default gateway, whichever that is.
fn a_replaced_gateway_is_found() {
    let _turn = turn();
    let site = Site::new();
    let _services = site.a.services();
    let other = site.lab.namespace("other");
    let host = &site.a.network;
    let (near, far) = (["10.0.3.2/24"], ["10.0.3.1/24"]);
    site.lab.cable((host, "eth1", &near), (&other, "a1", &far));
    let router = Bird::router(&site.router, &[site.a.session("old")]);
    let new = Bird::router(
        &other,
        &[BirdSession {
            local: IpAddr::from([10, 0, 3, 1]),
            neighbor: IpAddr::from([10, 0, 3, 2]),
            ..site.a.session("new")
        }],
    );
    // Without IPv6 the one gateway is the one peer.
    site.a.network.ip("-6 route del default");
    let config = format!(
        "bgp: {{local_as: 65001, peer_as: 65000}}\napps: [{{name: dns, {APP}, vip: {VIP4}/32}}]\n"
    );
    let _sidecast = Sidecast::start(&site.a.network, &config);
    let vip = format!("{VIP4}/32");
    until(PATIENCE, "it is announced to the old one", || {
        expect(router.route(&vip).is_some(), router.session("old"))
    });
    host.ip("route replace default via 10.0.3.1");
    let begun = Instant::now();
    let route = until(PATIENCE, "it is announced to the new one", || {
        new.route(&vip).ok_or_else(|| new.session("new"))
    });
    let took = begun.elapsed();
    println!("gateway replaced to announced to the new one: {took:?}");
    assert!(
        route.contains("10.0.3.2"),
        "the next hop is new too: {route}"
    );
    // Nothing else looks before the next resync, which comes once a minute.
    assert!(took < Duration::from_secs(10), "{took:?}");
    until(PATIENCE, "the old one is given up", || {
        expect(!router.established("old"), "established")
    });
}

/// The site with BIRD as the router that packets follow, a second peer that takes the time of what it is
/// told, and a sidecast that polls every ten seconds only.
struct Stage {
    service: Mutex<Service>,
    wire: Wire,
    fib: Routes,
    _sidecast: Sidecast,
    _router: Bird,
    site: Site,
}

impl Stage {
    fn new() -> Self {
        Self::with(APP)
    }

    fn with(app: &str) -> Self {
        let site = Site::new();
        let service = Service::start(&site.a.network, Transport::Tcp, Site::TCP_PORT);
        let router = Bird::router(&site.router, &[site.a.session("a")]);
        let wire = Wire::start(&site.router, PORT);
        let fib = Routes::listen(&site.router);
        let sidecast = Sidecast::start(&site.a.network, &config(app));
        wire.wait(Seen::Announced, PATIENCE);
        fib.wait(Change::Added, vip(), PATIENCE);
        Self {
            service: Mutex::new(service),
            wire,
            fib,
            _sidecast: sidecast,
            _router: router,
            site,
        }
    }

    fn kills(&self, runs: u32) -> Figures {
        let mut figures = Figures::default();
        for run in 0..runs {
            // Not in step with anything.
            std::thread::sleep(Duration::from_millis(u64::from(run * 37 % 50)));
            self.kill_once(&mut figures);
            self.bring_back(&mut figures);
        }
        figures
    }

    fn kill_once(&self, figures: &mut Figures) {
        let mut service = self.service.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        service.signal(Signal::SIGKILL);
        let wire = self.wire.wait(Seen::Withdrawn, PATIENCE);
        let fib = self.fib.wait(Change::Removed, vip(), PATIENCE);
        figures.wire.push(wire - begun);
        figures.fib.push(fib - begun);
        service.kill();
    }

    fn bring_back(&self, figures: &mut Figures) {
        let mut service = self.service.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        service.restart(&self.site.a.network);
        self.wire.wait(Seen::Announced, PATIENCE);
        let fib = self.fib.wait(Change::Added, vip(), PATIENCE);
        figures.back.push(fib - begun);
    }
}

#[derive(Default)]
struct Figures {
    wire: Vec<Duration>,
    fib: Vec<Duration>,
    back: Vec<Duration>,
}

impl Figures {
    fn print(&self, what: &str) {
        print_times(
            &format!("{what}: killed to withdrawn on the wire"),
            &mut self.wire.clone(),
        );
        print_times(
            &format!("{what}: killed to gone from the FIB"),
            &mut self.fib.clone(),
        );
        print_times(
            &format!("{what}: started to back in the FIB"),
            &mut self.back.clone(),
        );
    }

    fn check(&self) {
        for (what, times, most) in [
            ("wire", &self.wire, 25),
            ("FIB", &self.fib, 50),
            ("back", &self.back, 300),
        ] {
            let mut times = times.clone();
            times.sort();
            let median = times[times.len() / 2];
            assert!(median < Duration::from_millis(most), "{what}: {times:?}");
        }
    }
}

fn print_times(what: &str, times: &mut [Duration]) {
    times.sort();
    let ms = |time: &Duration| time.as_secs_f64() * 1000.0;
    let median = times.get(times.len() / 2).map_or(0.0, ms);
    let best = times.first().map_or(0.0, ms);
    let worst = times.last().map_or(0.0, ms);
    println!(
        "{what}: best {best:.1} ms, median {median:.1} ms, worst {worst:.1} ms, {} runs",
        times.len()
    );
}

fn vip() -> IpAddr {
    VIP4.parse().expect("an address")
}

/// One app with these lines, announced to BIRD and to the peer of [`Wire`].
fn config(app: &str) -> String {
    format!(
        "bgp:\n\
         \x20 local_as: 65001\n\
         \x20 peers:\n\
         \x20   - {{peer_ip: 10.0.1.1, peer_as: 65000}}\n\
         \x20   - {{peer_ip: \"2001:db8:1::1\", peer_as: 65000, port: {PORT}}}\n\
         apps: [{{name: dns, vip: {VIP4}/32, {app}, interval: 10s, hold_down: \"off\"}}]\n"
    )
}

const APP: &str = "monitors: [\"port:tcp:8000\"]";
/// Where the second peer listens.
const PORT: u16 = 1790;
/// What is promised where clients are half-open.
const HALF_OPEN: Duration = Duration::from_millis(1500);
const SOON: Duration = Duration::from_secs(5);
/// How long the lab may need to come up.
const PATIENCE: Duration = Duration::from_secs(20);
