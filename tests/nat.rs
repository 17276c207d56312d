//! NAT with real packets: what is asked of the VIP's port is answered by the service on another port,
//! for a client and for the host itself, next to Docker's and firewalld's chains, and no rule is left
//! behind or there twice.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use sidecast_lab::{
    Bird, Lab, Namespace, Service, Sidecast, Site, Transport, VIP4, VIP6, ask_tcp, ask_udp, expect,
    until,
};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip", "nft", "iptables-legacy", "iptables-nft", "ip6tables-nft"]:
        packets_reach_the_service_behind_the_port_next_to_docker_and_firewalld,
        twenty_rounds_leave_one_rule_each;
    needs ["bird", "birdc", "ip", "nft"]:
        a_udp_client_that_never_stops_follows_the_mapping,
        rules_outlive_a_withdraw_until_cleanup_timer,
        an_upgrade_takes_the_rules_over,
        rules_that_a_quiet_leaver_left_and_nobody_wants_go;
    needs ["ip", "nft"]:
        an_app_that_nat_has_no_address_for_says_so;
}

fn packets_reach_the_service_behind_the_port_next_to_docker_and_firewalld() {
    let site = Site::new();
    let host = &site.a.network;
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    docker(host);
    firewalld(host);
    let before = foreign_rules(host);
    let _monitored = site.a.services();
    let _behind = [Transport::Tcp, Transport::Udp].map(|t| Service::start(host, t, BEHIND));
    let nats = "nats: [\"tcp:53:8053\", \"udp:53:8053\"]";
    let mut sidecast = Sidecast::start(host, &site.a.config("", nats));
    for from in [&site.client, host] {
        for vip in [VIP4, VIP6] {
            let to = SocketAddr::new(addr(vip), 53);
            for (kind, ask) in [("TCP", ask_tcp as Ask), ("UDP", ask_udp)] {
                let what = format!("{kind} from {} to {to}", from.name());
                let name = until(PATIENCE, &what, || {
                    ask(from, to).map_err(|e| format!("{e}\n{}", sidecast.log()))
                });
                assert_eq!(name, "a", "{what}");
            }
        }
    }
    // Four flows of each, two from the client and two from the host, one at least; lost ones came again.
    let app = sidecast.app(host, "dns");
    for nat in app["nats"].as_array().expect("a list") {
        assert!(nat["packets"].as_u64() >= Some(4), "{app}");
        assert!(nat["bytes"].as_u64() > nat["packets"].as_u64(), "{app}");
    }
    let metrics = sidecast.get(host, "/metrics").body;
    let shown = r#"sidecast_nat_packets_total{app="dns",nat="udp:53:8053"}"#;
    assert!(metrics.contains(shown), "{metrics}");
    assert_eq!(rules(host, "sidecast"), 8, "two families, hooks, protocols");
    assert_eq!(foreign_rules(host), before, "others' rules are left alone");
    sidecast.signal(Signal::SIGTERM);
    assert!(sidecast.wait(PATIENCE).success());
    assert_eq!(tables(host), [""; 0], "a table is left");
    assert_eq!(foreign_rules(host), before, "others' rules are left alone");
}

/// GoCast appends a rule at every recovery, and removes one at the end.
fn twenty_rounds_leave_one_rule_each() {
    let site = Site::new();
    let host = &site.a.network;
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    docker(host);
    let mut sidecast = Sidecast::start(host, &config(&site, "hold_down: off", "tcp:53:8053"));
    sidecast.wait_for_api(host);
    let state = |wanted: &str| {
        until(PATIENCE, &format!("the app is {wanted}"), || {
            let app = sidecast.app(host, "dns");
            expect(app["state"] == wanted, app)
        });
    };
    let routed = |wanted: bool| {
        until(PATIENCE, "the router follows", || {
            let route = router.route(&format!("{VIP4}/32"));
            expect(route.is_some() == wanted, format!("{route:?}"))
        });
    };
    for round in 0..20 {
        let service = listen(host);
        state("up");
        routed(true);
        assert_eq!(rules(host, "sidecast"), 4, "round {round}, up");
        drop(service);
        state("down");
        routed(false);
        assert_eq!(rules(host, "sidecast"), 4, "round {round}, down");
    }
    let _service = listen(host);
    for round in 0..5 {
        let query = format!(
            "/register?name=web&vip=198.51.100.7/32&nat=udp:80:8080&nat=tcp:80:8080\
             &monitor=port:tcp:{MONITORED}"
        );
        assert_eq!(sidecast.get(host, &query).status, 200);
        until(PATIENCE, "its rules are there", || {
            let count = rules(host, "sidecast");
            expect(count == 8, format!("round {round}: {count}"))
        });
        assert_eq!(sidecast.get(host, "/unregister?name=web").status, 200);
        until(PATIENCE, "its rules are gone", || {
            let count = rules(host, "sidecast");
            expect(count == 4, format!("round {round}: {count}"))
        });
    }
}

/// The kernel remembers where a UDP flow was sent first, for as long as it goes on.
fn a_udp_client_that_never_stops_follows_the_mapping() {
    let site = Site::new();
    let host = &site.a.network;
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let _service = listen(host);
    let local = [site.a.addresses.host4, site.a.addresses.host6];
    let _answering: Vec<Answering> = ["old", "new", "bare"]
        .into_iter()
        .zip([8053, 8054, 53])
        .flat_map(|(name, port)| {
            let targets = if name == "bare" { [VIP4, VIP6] } else { local };
            targets.map(|target| (name, SocketAddr::new(addr(target), port)))
        })
        .map(|(name, at)| {
            if name == "bare" {
                // Another program's: these stay when the app goes, and packets still come.
                let (vip, via) = match at.ip() {
                    IpAddr::V4(vip) => (format!("{vip}/32"), local[0]),
                    IpAddr::V6(vip) => (format!("{vip}/128"), local[1]),
                };
                host.ip(&format!("addr add {vip} dev lo"));
                site.router.ip(&format!("route add {vip} via {via}"));
            }
            Answering::start(host, at, name)
        })
        .collect();
    let mut sidecast = Sidecast::start(host, &config(&site, "", "udp:53:8053"));
    sidecast.wait_for_api(host);
    let clients = [&site.client, host].map(|from| [VIP4, VIP6].map(|vip| Client::new(from, vip)));
    let clients: Vec<Client> = clients.into_iter().flatten().collect();
    let all_hear = |name: &str, limit: Duration| {
        let begun = Instant::now();
        until(limit, &format!("every client hears {name}"), || {
            let received: Vec<String> = clients.iter().map(Client::ask).collect();
            expect(received.iter().all(|h| h == name), format!("{received:?}"))
        });
        begun.elapsed()
    };
    // Packets from before the rule went elsewhere: those flows have to be forgotten too.
    all_hear("old", PATIENCE);
    Sidecast::write(host, &config(&site, "", "udp:53:8054"));
    sidecast.signal(Signal::SIGHUP);
    let changed = all_hear("new", PATIENCE);
    // The configuration's app cannot be unregistered for good: it goes with the file.
    let empty = config(&site, "", "udp:54:8054");
    Sidecast::write(host, &empty);
    sidecast.signal(Signal::SIGHUP);
    let withdrawn = all_hear("bare", PATIENCE);
    println!("flows follow a changed mapping in {changed:?}, a withdrawn one in {withdrawn:?}");
    sidecast.must_run();
}

fn rules_outlive_a_withdraw_until_cleanup_timer() {
    let site = Site::new();
    let host = &site.a.network;
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let config = format!(
        "agent: {{cleanup_timer: 2s, vip_linger: 100ms}}\n{}",
        config(&site, "", "tcp:53:8053")
    );
    let service = listen(host);
    let mut sidecast = Sidecast::start(host, &config);
    until(PATIENCE, "NAT is there", || {
        sidecast.must_run();
        let count = rules(host, "sidecast");
        expect(count == 4, count)
    });
    drop(service);
    until(PATIENCE, "the addresses go", || {
        expect(site.a.vips().is_empty(), format!("{:?}", site.a.vips()))
    });
    assert_eq!(rules(host, "sidecast"), 4, "long before cleanup_timer");
    until(PATIENCE, "NAT goes", || {
        let left = tables(host);
        expect(left.is_empty(), left.join(", "))
    });
    let _service = listen(host);
    until(PATIENCE, "NAT is back", || {
        let count = rules(host, "sidecast");
        expect(count == 4, count)
    });
}

fn an_upgrade_takes_the_rules_over() {
    let site = Site::new();
    let host = &site.a.network;
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let _service = listen(host);
    let _behind = Service::start(host, Transport::Tcp, BEHIND);
    let config = config(&site, "", "tcp:53:8053");
    let mut first = Sidecast::start(host, &config);
    until(PATIENCE, "NAT is there", || {
        first.must_run();
        expect(rules(host, "sidecast") == 4, first.log())
    });
    let to = SocketAddr::new(addr(VIP4), 53);
    let works = || ask_tcp(host, to).map_err(|error| error.to_string());
    until(PATIENCE, "it works", works);
    first.signal(Signal::SIGUSR2);
    assert!(first.wait(PATIENCE).success());
    assert!(
        !first
            .log()
            .contains("NAT rules will not outlive this process"),
        "Linux 6.9 keeps them"
    );
    assert_eq!(rules(host, "sidecast"), 4, "they stay");
    works().expect("it works without a NAT rule");
    let mut second = Sidecast::start(host, &config);
    until(PATIENCE, "the next one owns the table", || {
        second.must_run();
        let list = host.run("nft", &["list", "tables"]);
        let owned = host.run("nft", &["list", "table", "ip", "sidecast"]);
        expect(owned.contains("flags owner"), format!("{list}{owned}"))
    });
    assert_eq!(rules(host, "sidecast"), 4, "and nothing is there twice");
    works().expect("it still works");
    second.kill();
    assert_eq!(
        tables(host),
        [""; 0],
        "this one is not configured to keep them"
    );
}

fn rules_that_a_quiet_leaver_left_and_nobody_wants_go() {
    let site = Site::new();
    let host = &site.a.network;
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let _service = listen(host);
    let mut first = Sidecast::start(host, &config(&site, "", "tcp:53:8053"));
    until(PATIENCE, "NAT is there", || {
        first.must_run();
        expect(rules(host, "sidecast") == 4, first.log())
    });
    first.signal(Signal::SIGUSR2);
    assert!(first.wait(PATIENCE).success());
    assert_eq!(rules(host, "sidecast"), 4, "they stay");
    let mut second = Sidecast::start(host, &config(&site, "", ""));
    until(PATIENCE, "they are removed as unused", || {
        second.must_run();
        let left = tables(host);
        expect(left.is_empty(), left.join(", "))
    });
}

fn an_app_that_nat_has_no_address_for_says_so() {
    let lab = Lab::new();
    let host = lab.namespace("host");
    let router = lab.namespace("router");
    lab.cable(
        (&host, "eth0", &["10.0.1.2/24"]),
        (&router, "a0", &["10.0.1.1/24"]),
    );
    let _service = listen(&host);
    let mut sidecast = Sidecast::start(
        &host,
        &format!(
            "bgp: {{local_as: 65001, peer_as: 65000, peer_ip: 10.0.1.1}}\n\
             apps:\n  - name: dns\n    vip: \"{VIP6}/128\"\n    monitors: [\"port:tcp:{MONITORED}\"]\n    \
             nats: [\"udp:53:8053\"]\n    vip_config: {{next_hop6: \"2001:db8:1::2\"}}\n"
        ),
    );
    sidecast.wait_for_api(&host);
    until(PATIENCE, "the app is invalid", || {
        let app = sidecast.app(&host, "dns");
        expect(app["state"] == "invalid", app)
    });
    let app = sidecast.app(&host, "dns");
    let why = app["why"].as_str().unwrap_or_default();
    assert!(why.contains("ipv6") && why.contains("NAT"), "{why}");
    assert_eq!(app["nats"][0]["packets"], Value::Null, "no rule, no count");
    assert_eq!(tables(&host), [""; 0]);
}

type Ask = fn(&Namespace, SocketAddr) -> std::io::Result<String>;

/// One app with both VIPs, gated by a port that [`listen`] opens, with these mappings.
/// Without the proof of the path, whose table is no NAT.
fn config(site: &Site, app: &str, nats: &str) -> String {
    let nats = nats.split(' ').filter(|nat| !nat.is_empty());
    let nats: Vec<String> = nats.map(|nat| format!("{nat:?}")).collect();
    format!(
        "bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {router}}}\n\
         apps:\n  - name: dns\n    vips: [{VIP4}/32, \"{VIP6}/128\"]\n    \
         monitors: [\"port:tcp:{MONITORED}\"]\n    interval: 100ms\n    path_proof: \"off\"\n    nats: [{nats}]\n    {app}\n",
        router = site.a.addresses.router4,
        nats = nats.join(", "),
    )
}

/// A service that lives as long as this value.
fn listen(namespace: &Namespace) -> TcpListener {
    until(PATIENCE, "the port is free", || {
        namespace.enter(|| TcpListener::bind(("::", MONITORED)))
    })
}

/// Docker's chains with a published port 53, in iptables' old tables for IPv4 and in its new ones for
/// both families.
fn docker(host: &Namespace) {
    for (program, to) in [
        ("iptables-legacy", "172.17.0.2:53"),
        ("iptables-nft", "172.17.0.3:53"),
        ("ip6tables-nft", "[fd00:17::2]:53"),
    ] {
        for rule in [
            "-N DOCKER".to_owned(),
            "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER".to_owned(),
            "-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER".to_owned(),
            format!("-A DOCKER ! -i docker0 -p tcp --dport 53 -j DNAT --to-destination {to}"),
            format!("-A DOCKER ! -i docker0 -p udp --dport 53 -j DNAT --to-destination {to}"),
            "-A POSTROUTING -o docker0 -j MASQUERADE".to_owned(),
        ] {
            let mut args = vec!["-t", "nat"];
            args.extend(rule.split(' '));
            host.run(program, &args);
        }
    }
}

/// firewalld's tables as its default zone has them: what was not asked for is refused.
fn firewalld(host: &Namespace) {
    host.nft(
        "table inet firewalld {
           chain nat_PREROUTING {
             type nat hook prerouting priority dstnat + 10; policy accept;
             jump nat_PREROUTING_ZONES
           }
           chain nat_PREROUTING_ZONES { goto nat_PRE_public; }
           chain nat_PRE_public { tcp dport 53 redirect to :9; }
           chain nat_OUTPUT {
             type nat hook output priority -90; policy accept;
           }
           chain filter_INPUT {
             type filter hook input priority filter + 10; policy accept;
             ct state { established, related } accept
             ct status dnat accept
             iifname lo accept
             meta l4proto { icmp, ipv6-icmp } accept
             reject with icmpx admin-prohibited
           }
         }",
    );
}

/// All rules but ours, without their counts.
fn foreign_rules(host: &Namespace) -> Vec<Value> {
    let ruleset = ruleset(host);
    let ours = |entry: &&Value| {
        let of = |kind: &str, key: &str| entry[kind][key].as_str().unwrap_or_default().to_owned();
        [
            ("table", "name"),
            ("chain", "table"),
            ("rule", "table"),
            ("counter", "table"),
            ("map", "table"),
            ("set", "table"),
        ]
        .iter()
        .any(|(kind, key)| of(kind, key).starts_with("sidecast"))
    };
    let mut left: Vec<Value> = ruleset.iter().filter(|e| !ours(e)).cloned().collect();
    for entry in &mut left {
        strip_counts(entry);
    }
    let legacy = host.run("iptables-legacy", &["-t", "nat", "-S"]);
    left.push(Value::String(legacy));
    left
}

fn strip_counts(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("packets");
            map.remove("bytes");
            map.values_mut().for_each(strip_counts);
        }
        Value::Array(list) => list.iter_mut().for_each(strip_counts),
        _ => {}
    }
}

fn ruleset(host: &Namespace) -> Vec<Value> {
    let text = host.run("nft", &["-j", "list", "ruleset"]);
    let value: Value = serde_json::from_str(&text).expect("JSON from nft");
    value["nftables"].as_array().cloned().unwrap_or_default()
}

/// How many NAT rules a table holds, both families together; the table of the path's proof is of the family inet.
fn rules(host: &Namespace, table: &str) -> usize {
    let ours =
        |entry: &&Value| entry["rule"]["table"] == table && entry["rule"]["family"] != "inet";
    ruleset(host).iter().filter(ours).count()
}

/// The names of our NAT tables.
fn tables(host: &Namespace) -> Vec<String> {
    let all = ruleset(host);
    let names = all.iter().filter(|e| e["table"]["family"] != "inet");
    let names = names.filter_map(|e| e["table"]["name"].as_str());
    let ours = names.filter(|name| name.starts_with("sidecast"));
    ours.map(str::to_owned).collect()
}

/// A UDP client that keeps its port.
struct Client(UdpSocket);

impl Client {
    fn new(from: &Namespace, vip: &str) -> Self {
        let to = SocketAddr::new(addr(vip), 53);
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = from.enter(|| UdpSocket::bind(any)).expect("a port");
        socket.connect(to).expect("an address");
        socket.set_read_timeout(Some(ANSWER)).expect("a timeout");
        Self(socket)
    }

    /// Who answers, or the error.
    fn ask(&self) -> String {
        let asked = self.0.send(b"who?").and_then(|_| {
            let mut space = [0; 64];
            let length = self.0.recv(&mut space)?;
            Ok(String::from_utf8_lossy(&space[..length]).into_owned())
        });
        asked.unwrap_or_else(|error| error.to_string())
    }
}

/// Answers datagrams with a name, from the address they came to.
struct Answering {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Answering {
    fn start(host: &Namespace, at: SocketAddr, name: &'static str) -> Self {
        let socket = until(PATIENCE, "the address can be used", || {
            host.enter(|| UdpSocket::bind(at))
        });
        socket.set_read_timeout(Some(ANSWER)).expect("a timeout");
        let stop = Arc::new(AtomicBool::new(false));
        let (asked_to, ready) = (stop.clone(), Arc::new(Barrier::new(2)));
        let begun = ready.clone();
        let thread = std::thread::spawn(move || {
            begun.wait();
            while !asked_to.load(Ordering::Relaxed) {
                let mut space = [0; 64];
                if let Ok((_, from)) = socket.recv_from(&mut space) {
                    let _ = socket.send_to(name.as_bytes(), from);
                }
            }
        });
        ready.wait();
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The port behind the mapping, and the one that gates the app.
const BEHIND: u16 = 8053;
const MONITORED: u16 = 8000;

/// How long a UDP client listens for an answer.
const ANSWER: Duration = Duration::from_millis(100);

/// How long the lab may need.
const PATIENCE: Duration = Duration::from_secs(20);
