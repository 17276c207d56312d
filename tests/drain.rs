//! A drain ends when its traffic has: with another host that takes over, with clients that have no other way, and
//! where nothing can be seen. What is counted is what clients get.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidecast_lab::{
    Bird, Child, HostLink, Namespace, Service, Sidecast, Site, VIP4, VIP6, ask_udp, binary, expect,
    until,
};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip", "nft"]:
        a_drain_is_over_when_another_host_has_taken_over_and_no_reply_is_lost,
        a_long_connection_is_reset_by_the_other_host_and_holds_nothing,
        clients_without_another_way_hold_a_drain_to_its_end,
        what_nat_redirects_is_seen_too,
        a_fixed_drain_takes_its_whole_time,
        sigterm_ends_with_the_traffic_too,
        nothing_is_left_after_a_kill;
    needs ["bird", "birdc", "ip", "nft", "setpriv"]:
        where_nothing_can_be_seen_a_drain_takes_its_whole_time;
}

fn a_drain_is_over_when_another_host_has_taken_over_and_no_reply_is_lost() {
    let stage = Stage::new("drain_time: 20s");
    let stop = Flag::default();
    let (udp, tcp) = stage.site.client.enter(|| {
        let udp = [VIP4, VIP6].map(|vip| udp_client(vip, &stop));
        (udp, tcp_client(&stop))
    });
    std::thread::sleep(Duration::from_secs(1));
    let (took, printed) = stage.drain();
    assert!(within(took, 2.0, SOON), "{took:?}: {printed}");
    // The last packet may have come before the rule that sees it.
    assert!(
        printed.starts_with("dns: withdraw acknowledged "),
        "{printed}"
    );
    assert!(
        step(&printed, "done ").is_some_and(|done| (2.0..SOON).contains(&done)),
        "{printed}"
    );
    // As a preStop hook has it: the service ends now.
    drop(stage.serving_a);
    std::thread::sleep(Duration::from_millis(500));
    stop.raise();
    for client in udp {
        client.join().expect("it counts").check("UDP");
    }
    tcp.join().expect("it counts").check("TCP");
}

fn a_long_connection_is_reset_by_the_other_host_and_holds_nothing() {
    let stage = Stage::new("drain_time: 20s");
    let connect = || TcpStream::connect_timeout(&at(VIP4, TCP_PORT), PATIENCE);
    let [mut talks, mut idle] =
        [0, 1].map(|_| stage.site.client.enter(connect).expect("a answers"));
    let talking = std::thread::spawn(move || {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            if let Err(error) = exchange(&mut talks, 0) {
                return error.kind();
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("it lives for a minute");
    });
    let (took, printed) = stage.drain();
    assert!(within(took, 2.0, SOON), "{took:?}: {printed}");
    assert_eq!(talking.join().expect("it ends"), ErrorKind::ConnectionReset);
    // One that sent nothing in the meantime learns it with its next packet.
    let error = exchange(&mut idle, 0).expect_err("the other host does not know it");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn clients_without_another_way_hold_a_drain_to_its_end() {
    let mut stage = Stage::new("drain_time: 12s, vip_config: {when_draining: {med: 100}}");
    stage.stop_b();
    let host = &stage.site.a.network;
    assert_eq!(tables(host), "");
    let stop = Flag::default();
    let client = stage.site.client.enter(|| udp_client(VIP4, &stop));
    let drained = std::thread::scope(|scope| {
        let drained = scope.spawn(|| stage.drain());
        until(PATIENCE, "its packets are seen", || {
            let rules = host.run("nft", &["list", "ruleset"]);
            let rule =
                rules.contains("iif != \"lo\" ip daddr @vips update @seen { ip daddr counter }");
            expect(
                rule && rules.contains(&format!("{VIP4} counter packets")),
                rules,
            )
        });
        let rules = host.run("nft", &["list", "ruleset"]);
        assert!(
            rules.contains("update @seen { ip6 daddr counter }"),
            "{rules}"
        );
        drained.join().expect("it returns")
    });
    let (took, printed) = drained;
    assert!(within(took, 12.0, 30.0), "{took:?}: {printed}");
    assert!(
        printed.starts_with("dns: update acknowledged "),
        "{printed}"
    );
    // A second without a packet would have ended it before.
    assert!(step(&printed, "last packet ") > Some(10.5), "{printed}");
    assert_eq!(tables(host), "", "the rule is there while it drains");
    stop.raise();
    client.join().expect("it counts").check("UDP");
    // The same with another host: packets go there, and what holds the drain is gone.
    stage.run(&["undrain"]);
    stage.b = Some(stage.start_b());
    let stop = Flag::default();
    let client = stage.site.client.enter(|| udp_client(VIP4, &stop));
    let (took, printed) = stage.drain();
    assert!(within(took, 2.0, SOON), "{took:?}: {printed}");
    stop.raise();
    client.join().expect("it counts").check("UDP");
}

/// The rule is before NAT: packets have the VIP in them still.
fn what_nat_redirects_is_seen_too() {
    let nat = "drain_time: 3s, nats: [\"udp:53:8001\"], vip_config: {when_draining: {med: 100}}";
    let mut stage = Stage::new(nat);
    stage.stop_b();
    let (client, stop) = (&stage.site.client, Flag::default());
    let (took, printed) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.is_up() {
                // One that a busy machine holds up for longer than it is waited for is no answer.
                if let Ok(answer) = ask_udp(client, at(VIP4, 53)) {
                    assert_eq!(answer, "a");
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let drained = stage.drain();
        stop.raise();
        drained
    });
    assert!(within(took, 3.0, 15.0), "{took:?}: {printed}");
    assert!(step(&printed, "last packet ") > Some(1.5), "{printed}");
}

fn a_fixed_drain_takes_its_whole_time() {
    let stage = Stage::new("drain_time: 4s, drain_wait: fixed");
    let host = &stage.site.a.network;
    let drained = std::thread::scope(|scope| {
        let drained = scope.spawn(|| stage.drain());
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(tables(host), "", "nothing is looked at");
        drained.join().expect("it returns")
    });
    let (took, printed) = drained;
    assert!(within(took, 4.0, 15.0), "{took:?}: {printed}");
    assert!(!printed.contains("last packet"), "{printed}");
}

fn sigterm_ends_with_the_traffic_too() {
    let mut stage = Stage::new("drain_time: 20s");
    let stop = Flag::default();
    let client = stage.site.client.enter(|| udp_client(VIP4, &stop));
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    stage.a.signal(Signal::SIGTERM);
    assert!(stage.a.wait(PATIENCE).success());
    let took = begun.elapsed();
    assert!(within(took, 2.0, SOON), "{took:?}");
    assert_eq!(stage.site.a.vips(), [""; 0], "an address is left");
    assert_eq!(tables(&stage.site.a.network), "");
    drop(stage.serving_a);
    stop.raise();
    client.join().expect("it counts").check("UDP");
}

fn nothing_is_left_after_a_kill() {
    let mut stage = Stage::new("drain_time: 30s");
    let host = &stage.site.a.network;
    stage.run(&["drain", "--no-wait"]);
    until(PATIENCE, "its packets are looked at", || {
        let tables = tables(host);
        let both = "table ip sidecast_drain\ntable ip6 sidecast_drain\n";
        expect(tables == both, tables)
    });
    stage.a.signal(Signal::SIGKILL);
    stage.a.kill();
    until(PATIENCE, "the kernel deletes its tables", || {
        let left = host.run("nft", &["list", "ruleset"]);
        expect(left.is_empty(), left)
    });
}

/// Without CAP_NET_ADMIN no address can be added either: another program does.
fn where_nothing_can_be_seen_a_drain_takes_its_whole_time() {
    let site = Site::new();
    let host = &site.a.network;
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    for vip in [VIP4, VIP6] {
        host.ip(&format!("addr add {vip} dev lo"));
    }
    let config =
        "agent: {vip_interface: none, drain_time: 3s}\n".to_owned() + &site.a.config("", "");
    let config = Sidecast::write(host, &config);
    let run = format!("{} run --config {}", binary(), config.display());
    let without = [
        "--inh-caps=-all",
        "--bounding-set=-net_admin",
        "sh",
        "-c",
        &run,
    ];
    let sidecast = Child::start(host, "without", "setpriv", &without, &[]);
    for round in 0..2 {
        until(PATIENCE, "it is announced", || {
            expect(router.route(PREFIX4).is_some(), sidecast.output())
        });
        let (took, printed) = drain(host);
        assert!(within(took, 3.0, 15.0), "{took:?}: {printed}");
        assert!(
            printed.starts_with("dns: withdraw acknowledged "),
            "{printed}"
        );
        assert!(printed.ends_with(" ms, done 3.0 s\n"), "{printed}");
        run_in(host, &["undrain"]);
        let log = sidecast.output();
        let lines = log
            .lines()
            .filter(|line| line.contains("the end of traffic cannot be seen"));
        let lines: Vec<&str> = lines.collect();
        assert_eq!(lines.len(), 1, "round {round}: {log}");
        assert!(lines[0].contains("CAP_NET_ADMIN"), "{}", lines[0]);
    }
}

/// A router, and two hosts with services that answer at once, after 0.1 s and after 1.5 s. Of two equal
/// routes the router takes the one of the lower router id, which is that of the first host.
struct Stage {
    site: Site,
    router: Bird,
    a: Sidecast,
    b: Option<Sidecast>,
    serving_a: (Services, Server),
    _serving_b: (Services, Server),
}

type Services = (Service, Service);

impl Stage {
    fn new(app: &str) -> Self {
        let site = Site::new();
        let serving = |host: &HostLink, name| {
            // Before the address is there.
            host.network.sysctl("net/ipv4/ip_nonlocal_bind", "1");
            host.network.sysctl("net/ipv6/ip_nonlocal_bind", "1");
            (host.services(), host.network.enter(|| Server::start(name)))
        };
        let (serving_a, serving_b) = (serving(&site.a, b'a'), serving(&site.b, b'b'));
        let sessions = [site.a.session("a"), site.b.session("b")];
        let router = Bird::router(&site.router, &sessions);
        let app: String = app.split(", ").collect::<Vec<_>>().join("\n");
        let a = Sidecast::start(&site.a.network, &site.a.config("", &app));
        let mut stage = Self {
            a,
            b: None,
            router,
            serving_a,
            _serving_b: serving_b,
            site,
        };
        stage.b = Some(stage.start_b());
        stage.site.answered_by("a", PATIENCE);
        stage
    }

    fn start_b(&self) -> Sidecast {
        let host = &self.site.b;
        let sidecast = Sidecast::start(&host.network, &host.config("", ""));
        until(PATIENCE, "the other host announces too", || {
            let routes = [PREFIX4, PREFIX6].map(|vip| self.router.route_from(vip, "b"));
            expect(routes.iter().all(Option::is_some), format!("{routes:?}"))
        });
        sidecast
    }

    fn stop_b(&mut self) {
        self.b = None;
        until(PATIENCE, "the other host is gone", || {
            let route = self.router.route_from(PREFIX4, "b");
            expect(route.is_none(), format!("{route:?}"))
        });
    }

    fn drain(&self) -> (Duration, String) {
        drain(&self.site.a.network)
    }

    fn run(&self, args: &[&str]) -> String {
        run_in(&self.site.a.network, args)
    }
}

/// How long `sidecast drain` takes, and what it prints.
fn drain(host: &Namespace) -> (Duration, String) {
    let begun = Instant::now();
    let printed = run_in(host, &["drain"]);
    let took = begun.elapsed();
    print!("{took:?}: {printed}");
    (took, printed)
}

/// The seconds that a step was later than the beginning.
fn step(printed: &str, what: &str) -> Option<f64> {
    let (_, rest) = printed.split_once(what)?;
    let mut words = rest.split([' ', ',', '\n']);
    let number: f64 = words.next()?.parse().ok()?;
    match words.next()? {
        "ms" => Some(number / 1000.0),
        _ => Some(number),
    }
}

fn run_in(host: &Namespace, args: &[&str]) -> String {
    let output = host.enter(|| Command::new(binary()).args(args).output());
    let output = output.expect("it runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// But for that of the path's proof.
fn tables(host: &Namespace) -> String {
    let all = host.run("nft", &["list", "tables"]);
    all.replace("table inet sidecast\n", "")
}

fn within(took: Duration, from: f64, to: f64) -> bool {
    (from..to).contains(&took.as_secs_f64())
}

fn at(vip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(vip.parse().expect("an address"), port)
}

#[derive(Clone, Default)]
struct Flag(Arc<AtomicBool>);

impl Flag {
    fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Answers with its name, after as many milliseconds as it is asked for; until it is dropped.
struct Server {
    stop: Flag,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.raise();
    }
}

impl Server {
    fn start(name: u8) -> Self {
        let stop = Flag::default();
        for vip in [VIP4, VIP6] {
            let udp = UdpSocket::bind(at(vip, UDP_PORT)).expect("a socket");
            let ended = stop.clone();
            std::thread::spawn(move || answer_udp(&udp, name, &ended));
        }
        let tcp = TcpListener::bind(at(VIP4, TCP_PORT)).expect("a socket");
        tcp.set_nonblocking(true).expect("a socket");
        let ended = stop.clone();
        std::thread::spawn(move || {
            while !ended.is_up() {
                match tcp.accept() {
                    Ok((stream, _)) => {
                        std::thread::spawn(move || answer_tcp(stream, name));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Self { stop }
    }
}

/// Number and delay come, number and name go back.
fn answer_udp(socket: &UdpSocket, name: u8, stop: &Flag) {
    socket
        .set_read_timeout(Some(Duration::from_millis(1)))
        .expect("a time limit");
    let mut due = BTreeMap::<(Instant, u32), SocketAddr>::new();
    let mut request = [0; 6];
    while !stop.is_up() {
        if let Ok((6, from)) = socket.recv_from(&mut request) {
            let (number, delay) = request.split_at(4);
            let number = u32::from_be_bytes(number.try_into().expect("four bytes"));
            let delay = u16::from_be_bytes(delay.try_into().expect("two bytes"));
            let at = Instant::now() + Duration::from_millis(delay.into());
            due.insert((at, number), from);
        }
        while let Some(entry) = due.first_entry().filter(|e| e.key().0 <= Instant::now()) {
            let ((_, number), to) = entry.remove_entry();
            let [a, b, c, d] = number.to_be_bytes();
            let _ = socket.send_to(&[a, b, c, d, name], to);
        }
    }
}

fn answer_tcp(mut stream: TcpStream, name: u8) {
    stream.set_nonblocking(false).expect("a socket");
    let mut delay = [0; 2];
    while stream.read_exact(&mut delay).is_ok() {
        std::thread::sleep(Duration::from_millis(u16::from_be_bytes(delay).into()));
        if stream.write_all(&[name]).is_err() {
            return;
        }
    }
}

/// Asks for one answer; the name.
fn exchange(stream: &mut TcpStream, delay: u16) -> std::io::Result<u8> {
    stream.write_all(&delay.to_be_bytes())?;
    let mut name = [0];
    stream.read_exact(&mut name)?;
    Ok(name[0])
}

/// What became of requests.
#[derive(Debug, Default)]
struct Count {
    answered: BTreeMap<char, usize>,
    lost: Vec<String>,
}

impl Count {
    fn check(self, what: &str) {
        println!("{what}: {:?}, {} lost", self.answered, self.lost.len());
        assert_eq!(self.lost, [""; 0], "{what}: {:?}", self.answered);
        assert!(
            self.answered.values().sum::<usize>() > 20,
            "{what}: {self:?}"
        );
    }
}

/// Sends two hundred requests a second, and counts the answers that come within three seconds.
fn udp_client(vip: &str, stop: &Flag) -> JoinHandle<Count> {
    let any: IpAddr = match vip {
        VIP4 => [0; 4].into(),
        _ => [0; 16].into(),
    };
    let socket = UdpSocket::bind((any, 0)).expect("a socket");
    socket.connect(at(vip, UDP_PORT)).expect("a route");
    socket
        .set_read_timeout(Some(Duration::from_millis(5)))
        .expect("a time limit");
    let stop = stop.clone();
    std::thread::spawn(move || {
        let (begun, mut open) = (Instant::now(), BTreeMap::new());
        let mut count = Count::default();
        let mut number = 0_u32;
        let mut ended = None;
        loop {
            if !stop.is_up() && number < u32::try_from(begun.elapsed().as_millis() / 5).unwrap_or(0)
            {
                let delay = DELAYS[number as usize % DELAYS.len()];
                let request = [&number.to_be_bytes()[..], &delay.to_be_bytes()].concat();
                let sent = socket.send(&request);
                open.insert(number, format!("{:?} {delay} ms {sent:?}", begun.elapsed()));
                number += 1;
            } else if let (true, None) = (stop.is_up(), ended) {
                ended = Some(Instant::now());
            }
            let mut answer = [0; 5];
            if let Ok(5) = socket.recv(&mut answer) {
                let of = u32::from_be_bytes([answer[0], answer[1], answer[2], answer[3]]);
                if open.remove(&of).is_some() {
                    *count.answered.entry(answer[4].into()).or_default() += 1;
                }
            }
            let over = ended.is_some_and(|at| at.elapsed() > Duration::from_secs(3));
            if ended.is_some() && open.is_empty() || over {
                count.lost = open.into_values().collect();
                return count;
            }
        }
    })
}

/// Twenty connections a second, each with one request.
fn tcp_client(stop: &Flag) -> JoinHandle<Count> {
    let stop = stop.clone();
    let network = std::fs::File::open("/proc/thread-self/ns/net").expect("a namespace");
    std::thread::spawn(move || {
        nix::sched::setns(&network, nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
        let mut count = Count::default();
        let mut under_way = Vec::new();
        for number in 0.. {
            if stop.is_up() {
                break;
            }
            let begun = Instant::now();
            let delay = DELAYS[number % DELAYS.len()];
            let stream = TcpStream::connect_timeout(&at(VIP4, TCP_PORT), Duration::from_secs(3));
            under_way.push(std::thread::spawn(move || {
                let name = stream.and_then(|mut stream| exchange(&mut stream, delay));
                name.map_err(|error| format!("{delay} ms: {error} after {:?}", begun.elapsed()))
            }));
            std::thread::sleep(Duration::from_millis(50));
        }
        for exchange in under_way {
            match exchange.join().expect("it ends") {
                Ok(name) => *count.answered.entry(name.into()).or_default() += 1,
                Err(error) => count.lost.push(error),
            }
        }
        count
    })
}

const PREFIX4: &str = "192.0.2.53/32";
const PREFIX6: &str = "2001:db8:53::1/128";
const DELAYS: [u16; 3] = [0, 100, 1500];
const UDP_PORT: u16 = 9001;
const TCP_PORT: u16 = 9002;
/// Seconds in which a drain is over that the traffic ends after two: without that it takes its whole time, longer than
/// this.
const SOON: f64 = 10.0;
/// How long the lab may need to come up.
const PATIENCE: Duration = Duration::from_secs(20);
