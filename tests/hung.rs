//! Services that hang: two hundred `http:` monitors of which a third get no answer, on threads that nobody can call
//! back. The others must not notice.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidecast_lab::{Bird, Namespace, Service, Sidecast, Site, Transport, expect, until};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip"]:
        a_third_that_hangs_delays_nobody,
        checks_that_wait_for_a_place_are_late_and_not_failed;
}

fn a_third_that_hangs_delays_nobody() {
    let site = Site::new();
    let host = &site.a.network;
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let mut port = Service::start(host, Transport::Tcp, 5000);
    let _mute = mute_name_servers(host);
    let server = Server::start(host);
    let mut apps = String::new();
    for id in 0..MONITORS {
        // Half of those that hang do so before they are connected: looking their name up takes a minute.
        let place = match id < HANG / 2 {
            true => format!("hung{id}.example"),
            false => "127.0.0.1".to_owned(),
        };
        apps += &format!(
            "- {{name: app{id}, vip: {}, monitors: ['http://{place}:8080/{id}']}}\n",
            vip(id)
        );
    }
    apps += "- {name: port, vip: 198.51.100.1/32, monitors: ['port:tcp:5000']}\n";
    let agent = "{monitor_interval: 1s, drain_time: 100ms}";
    let mut sidecast = start(&site, agent, &apps);
    let healthy = HANG / 2..MONITORS;
    until(LONG, "all that can be are announced", || {
        let missing = healthy.clone().find(|id| router.route(&vip(*id)).is_none());
        expect(missing.is_none(), format!("{missing:?}"))
    });
    let since = since_of(&router);

    server.hang(HANG / 2..HANG);
    until(LONG, "those that hang are withdrawn", || {
        let left = (HANG / 2..HANG).find(|id| router.route(&vip(*id)).is_some());
        expect(left.is_none(), format!("{left:?}"))
    });
    server.forget();
    thread::sleep(INTERVAL * 6);
    let asked = server.asked();
    let mut late = Vec::new();
    for id in HANG..MONITORS {
        let times = asked.get(&id).map(Vec::as_slice).unwrap_or_default();
        assert!(times.len() >= 5, "app{id} was asked {} times", times.len());
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        late.extend(gaps.map(|gap| gap.saturating_sub(INTERVAL)));
    }
    late.sort();
    // Checks that hang would delay the others all the time: one in a hundred is left to the machine, which may not
    // run us for longer than that.
    let (most, worst) = (late[late.len() * 99 / 100], late[late.len() - 1]);
    println!(
        "of {} checks beside {HANG} that hang 99 in 100 were at most {most:?} late, the latest {worst:?}",
        late.len()
    );
    assert!(most <= GRACE, "{most:?}");
    assert!(worst < INTERVAL, "{worst:?}: no check was left out");

    // One more begins to hang: it is noticed as fast as if it were alone.
    let dies = MONITORS - 1;
    server.hang(dies..dies + 1);
    let took = until_withdrawn(&router, &vip(dies));
    println!("a service that hangs was withdrawn after {took:?}");
    assert!(took <= INTERVAL + TIMEOUT + GRACE, "{took:?}");
    port.kill();
    let took = until_withdrawn(&router, "198.51.100.1/32");
    println!("a port that closed was withdrawn after {took:?}");
    assert!(took <= Duration::from_millis(200), "{took:?}");
    assert_eq!(since_of(&router), since, "the session is the same one");
    let hung = sidecast.app(host, "app0");
    assert_eq!(hung["monitors"][0]["result"], "fail", "{hung}");

    // Threads that hang are not waited for.
    let began = Instant::now();
    sidecast.signal(Signal::SIGTERM);
    let status = sidecast.wait(LONG);
    assert!(status.success(), "{status}");
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

fn checks_that_wait_for_a_place_are_late_and_not_failed() {
    let site = Site::new();
    let host = &site.a.network;
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let _mute = mute_name_servers(host);
    let _server = Server::start(host);
    let good = format!(
        "- {{name: good, vip: {}, monitors: ['http://127.0.0.1:8080/1']}}\n",
        vip(1)
    );
    let agent = "{monitor_interval: 1s, drain_time: 100ms, check_threads: 2}";
    let sidecast = start(&site, agent, &good);
    until(LONG, "it is announced", || {
        router.route(&vip(1)).ok_or("no route")
    });
    for id in [2, 3] {
        let path = format!(
            "/register?name=hung{id}&vip={}&monitor=http://hung.example/",
            vip(id)
        );
        let reply = sidecast.get(host, &path);
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
    until(LONG, "it is late", || {
        let app = sidecast.app(host, "good");
        let monitor = &app["monitors"][0];
        let message = monitor["message"].as_str().unwrap_or_default();
        let late = monitor["result"] == "unavailable" && message.starts_with("late: ");
        expect(late, app.to_string())
    });
    // Longer than a check that gave no answer would be waited for.
    thread::sleep(INTERVAL * 8);
    let (good, hung) = (sidecast.app(host, "good"), sidecast.app(host, "hung2"));
    assert_eq!(good["state"], "up", "{good}");
    assert!(router.route(&vip(1)).is_some());
    let message = hung["monitors"][0]["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("the previous check still hangs"),
        "one call at a time: {hung}"
    );
}

fn start(site: &Site, agent: &str, apps: &str) -> Sidecast {
    let config = format!("agent: {agent}\n{}", site.a.config("hold_time: 3s", ""));
    let (head, _) = config.split_once("apps:").expect("a section of apps");
    let path = Sidecast::write(&site.a.network, &format!("{head}apps:\n{apps}"));
    let args = ["--config", &path.to_string_lossy()];
    // A look-up is sent again after half a minute.
    let env = [("RES_OPTIONS", "timeout:30 attempts:2")];
    let mut sidecast = Sidecast::launch(&site.a.network, &args, &env);
    sidecast.wait_for_api(&site.a.network);
    sidecast
}

fn vip(id: usize) -> String {
    let addr = Ipv4Addr::from(0xc633_6500 + u32::try_from(id).expect("few"));
    format!("{addr}/32")
}

/// When BIRD's session was established.
fn since_of(router: &Bird) -> String {
    let text = router.session("a");
    let line = text.lines().find(|line| line.starts_with("a "));
    line.unwrap_or_else(|| panic!("no session: {text}"))
        .to_owned()
}

fn until_withdrawn(router: &Bird, prefix: &str) -> Duration {
    let began = Instant::now();
    until(LONG, "it is withdrawn", || {
        expect(router.route(prefix).is_none(), "announced")
    });
    began.elapsed()
}

/// The system's name servers are here and say nothing.
fn mute_name_servers(host: &Namespace) -> Vec<UdpSocket> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let named = text
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver "));
    let mut addrs: Vec<Ipv4Addr> = named.filter_map(|addr| addr.trim().parse().ok()).collect();
    if addrs.is_empty() {
        addrs.push(Ipv4Addr::LOCALHOST);
    }
    let mute = addrs.into_iter().map(|addr| {
        if !addr.is_loopback() {
            host.ip(&format!("addr add {addr}/32 dev lo"));
        }
        host.enter(|| UdpSocket::bind((addr, 53)).expect("free"))
    });
    mute.collect()
}

/// Answers `GET /ID` on port 8080, but for those that hang.
struct Server(Arc<Mutex<ServerState>>);

#[derive(Default)]
struct ServerState {
    asked: BTreeMap<usize, Vec<Instant>>,
    hang: Vec<usize>,
    held: Vec<TcpStream>,
}

impl Server {
    fn start(host: &Namespace) -> Self {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080));
        let listener = host.enter(|| TcpListener::bind(any).expect("free"));
        let state: Arc<Mutex<ServerState>> = Arc::default();
        let server = Self(state.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (at, state) = (Instant::now(), state.clone());
                thread::spawn(move || answer(stream, at, &state));
            }
        });
        server
    }

    fn hang(&self, ids: std::ops::Range<usize>) {
        lock(&self.0).hang.extend(ids);
    }

    fn forget(&self) {
        lock(&self.0).asked.clear();
    }

    fn asked(&self) -> BTreeMap<usize, Vec<Instant>> {
        lock(&self.0).asked.clone()
    }
}

fn answer(mut stream: TcpStream, at: Instant, state: &Mutex<ServerState>) {
    let mut buf = [0; 1000];
    let count = stream.read(&mut buf).unwrap_or(0);
    let request = String::from_utf8_lossy(&buf[..count]).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default();
    let Ok(id) = path.trim_start_matches('/').parse() else {
        return;
    };
    let mut state = lock(state);
    state.asked.entry(id).or_default().push(at);
    if state.hang.contains(&id) {
        state.held.push(stream);
    } else {
        drop(state);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
}

fn lock(state: &Mutex<ServerState>) -> std::sync::MutexGuard<'_, ServerState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

const MONITORS: usize = 200;
/// The first of them.
const HANG: usize = 67;
const INTERVAL: Duration = Duration::from_secs(1);
/// Of a check: the smaller of the interval and two seconds.
const TIMEOUT: Duration = INTERVAL;
const GRACE: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(20);
