//! IPv4 VIPs have the scope `host`: services answer at them all the same, host and clients reach them, and
//! other programs of the host do not take one for the host's own address.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use sidecast_lab::{Bird, Child, Namespace, Sidecast, Site, VIP4, ask_tcp, ask_udp, expect, until};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip", "nft"]:
        sockets_and_nat_answer_clients_and_the_host_itself,
        a_host_without_addresses_on_its_links_does_not_speak_from_a_vip,
        gocasts_address_and_our_earlier_one_get_the_scope_without_a_gap;
    needs ["bird", "birdc", "ip", "unbound", "dnsmasq", "python3"]:
        name_servers_answer_clients_and_the_host_itself;
    needs ["bird", "birdc", "ip", "nginx", "python3"]:
        nginx_answers_clients_and_the_host_itself;
}

/// Clients and the host ask; reverse paths are checked strictly everywhere.
fn site() -> (Site, Bird) {
    let site = Site::new();
    for network in [&site.client, &site.router, &site.a.network] {
        for scope in ["all", "default", "lo"] {
            network.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "1");
        }
    }
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    (site, router)
}

/// Both VIPs without a monitor, there from start to exit, so that services can bind them.
fn always(site: &Site, more: &str) -> Sidecast {
    let config = format!(
        "bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {}}}\n\
         agent: {{vip_presence: always}}\n\
         apps: [{{name: dns, vip: {VIP4}/32, {more}}}]\n",
        site.a.addresses.router4,
    );
    let sidecast = Sidecast::start(&site.a.network, &config);
    until(PATIENCE, "the router has the route", || {
        let gateway = site.router.gateway(VIP4);
        expect(gateway.is_some(), sidecast.log())
    });
    assert_eq!(vip(&site.a.network)["scope"], "host");
    sidecast
}

/// What `ip` says of the VIP.
fn vip(network: &Namespace) -> Value {
    let links = network.ip_json("addr show dev lo");
    let all = links[0]["addr_info"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let found = all.into_iter().find(|info| info["local"] == VIP4);
    found.unwrap_or_default()
}

fn sockets_and_nat_answer_clients_and_the_host_itself() {
    let (site, _router) = site();
    let host = &site.a.network;
    let _wildcard = site.a.services();
    let _sidecast = always(&site, "nats: [\"tcp:80:8000\", \"udp:81:8001\"]");
    let bound = Child::start(host, "bound", "python3", &["-c", BOUND, VIP4], &[]);
    for asker in [&site.client, host] {
        let to = |port| SocketAddr::new(VIP4.parse().expect("an address"), port);
        let answered = |what: &str, ask: &dyn Fn() -> std::io::Result<String>, name: &str| {
            until(PATIENCE, what, || match ask() {
                Ok(answer) => expect(answer == name, answer.clone()),
                Err(error) => Err(format!("from {}: {error} {}", asker.name(), bound.output())),
            });
        };
        answered("TCP, wildcard", &|| ask_tcp(asker, to(8000)), "a");
        answered("UDP, wildcard", &|| ask_udp(asker, to(8001)), "a");
        answered("TCP, bound", &|| ask_tcp(asker, to(8002)), "bound");
        answered("UDP, bound", &|| ask_udp(asker, to(8003)), "bound");
        answered("TCP by NAT", &|| ask_tcp(asker, to(80)), "a");
        answered("UDP by NAT", &|| ask_udp(asker, to(81)), "a");
    }
}

/// Where the links have no IPv4 addresses, the kernel takes one of lo as the source of what it sends.
fn a_host_without_addresses_on_its_links_does_not_speak_from_a_vip() {
    let (site, _router) = site();
    let host = &site.a.network;
    let _sidecast = always(&site, "");
    host.ip("link add bare type veth peer name other");
    host.ip("link set bare up");
    host.ip("link set other up");
    host.ip("addr del 10.0.1.2/24 dev eth0");
    host.ip("route add 203.0.113.0/24 dev bare");
    let source = || {
        let route = host.ip_json("route get 203.0.113.9");
        route[0]["prefsrc"].as_str().map(str::to_owned)
    };
    assert_eq!(source(), None);
    // The one that is meant for that comes after the VIP.
    host.ip("addr add 10.255.0.1/32 dev lo");
    assert_eq!(source().as_deref(), Some("10.255.0.1"));
}

fn gocasts_address_and_our_earlier_one_get_the_scope_without_a_gap() {
    for before in [
        // GoCast's, forever.
        "label lo:dns",
        // Ours of a version before, which had the scope global.
        "label lo:dns valid_lft 170 preferred_lft 170",
    ] {
        let (site, _router) = site();
        let host = &site.a.network;
        host.ip(&format!("addr add {VIP4}/32 dev lo {before}"));
        assert_eq!(vip(host)["scope"], "global");
        let monitor = Child::start(host, "monitor", "ip", &["-o", "monitor", "route"], &[]);
        // Until its socket listens, a change of another route is made and undone.
        until(PATIENCE, "the monitor listens", || {
            host.ip("route add 203.0.113.1/32 dev lo");
            host.ip("route del 203.0.113.1/32 dev lo");
            expect(monitor.output().contains("203.0.113.1"), "nothing yet")
        });
        let sidecast = always(&site, "");
        let lifetime = vip(host)["valid_life_time"].as_u64().expect("a lifetime");
        assert!(lifetime > 170 && lifetime <= 300, "{lifetime}");
        assert_eq!(vip(host)["label"], "lo:dns");
        let log = sidecast.log();
        assert!(!log.contains("removed by another program"), "{log}");
        // How many routes make the VIP local after each change.
        let mut count = 1;
        let changes = monitor.output();
        let local = format!("local {VIP4} ");
        for line in changes.lines().filter(|line| line.contains(&local)) {
            count += if line.starts_with("Deleted ") { -1 } else { 1 };
            assert!(count > 0, "for a moment it was not local:\n{changes}");
        }
        assert!(
            changes.contains(&format!("Deleted {local}")),
            "nothing was replaced: {changes}"
        );
        assert_eq!(count, 1, "{changes}");
        let left = host.ip("route show table local proto 83");
        assert_eq!(left.trim(), "");
    }
}

fn name_servers_answer_clients_and_the_host_itself() {
    let (site, _router) = site();
    let host = &site.a.network;
    let dir = host.dir().display().to_string();
    let dnsmasq = |port: &str, more: &[&str]| {
        let common = [
            "--no-daemon",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file=",
            "--address=/x.test/192.0.2.1",
        ];
        let port_arg = format!("--port={port}");
        let args = [&common[..], &[&port_arg], more].concat();
        Child::start(host, &format!("dnsmasq-{port}"), "dnsmasq", &args, &[])
    };
    let unbound = |port: &str, more: &str| {
        let path = host.dir().join(format!("unbound-{port}.conf"));
        let config = format!(
            "server:\n username: \"\"\n chroot: \"\"\n directory: \"{dir}\"\n \
             pidfile: \"{dir}/unbound-{port}.pid\"\n use-syslog: no\n do-daemonize: no\n \
             port: {port}\n {more}\n access-control: 0.0.0.0/0 allow\n \
             local-zone: \"x.test.\" static\n local-data: \"x.test. A 192.0.2.1\"\n"
        );
        fs::write(&path, config).expect("a file");
        let path = path.display().to_string();
        Child::start(
            host,
            &format!("unbound-{port}"),
            "unbound",
            &["-d", "-c", &path],
            &[],
        )
    };
    // This one follows addresses that come later.
    let listen = format!("--listen-address={VIP4}");
    let _follows = dnsmasq("5301", &["--bind-dynamic", &listen]);
    let _sidecast = always(&site, "");
    let _servers = [
        dnsmasq("5302", &[]),
        dnsmasq("5303", &["--bind-interfaces", &listen]),
        unbound("5304", "interface: 0.0.0.0\n interface-automatic: yes"),
        unbound("5305", &format!("interface: {VIP4}")),
    ];
    for port in ["5301", "5302", "5303", "5304", "5305"] {
        for asker in [&site.client, host] {
            until(PATIENCE, "the name server answers", || {
                let answer = output(asker, &["-c", QUERY, VIP4, port]);
                expect(
                    answer == "192.0.2.1",
                    format!("{port} from {}: {answer}", asker.name()),
                )
            });
        }
    }
}

fn nginx_answers_clients_and_the_host_itself() {
    let (site, _router) = site();
    let host = &site.a.network;
    let _sidecast = always(&site, "");
    let dir = host.dir().display().to_string();
    let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {dir}/{name};"))
        .collect();
    let config = format!(
        "daemon off; master_process off; pid {dir}/nginx.pid; error_log stderr; events {{}}\n\
         http {{ access_log off; {folders}\n\
         server {{ listen 8080; return 200 wildcard; }}\n\
         server {{ listen {VIP4}:8081; return 200 bound; }} }}\n"
    );
    let path = host.dir().join("nginx.conf");
    fs::write(&path, config).expect("a file");
    let path = path.display().to_string();
    let _nginx = Child::start(host, "nginx", "nginx", &["-c", &path], &[]);
    for (port, body) in [(8080, "wildcard"), (8081, "bound")] {
        let to = SocketAddr::new(VIP4.parse().expect("an address"), port);
        for asker in [&site.client, host] {
            until(PATIENCE, "nginx answers", || {
                let reply = sidecast_lab::get(asker, to, "/").map_err(|error| error.to_string())?;
                expect(reply.body == body, reply.body)
            });
        }
    }
}

/// What a Python program prints in a network.
fn output(network: &Namespace, args: &[&str]) -> String {
    network.run("python3", args).trim().to_owned()
}

/// Answers "bound" on TCP port 8002 and UDP port 8003 of an address.
const BOUND: &str = "
import socket, sys, threading
tcp = socket.create_server((sys.argv[1], 8002))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind((sys.argv[1], 8003))
def datagrams():
    while True:
        udp.sendto(b'bound', udp.recvfrom(99)[1])
threading.Thread(target=datagrams, daemon=True).start()
while True:
    connection = tcp.accept()[0]
    connection.sendall(b'bound')
    connection.close()
";

/// Asks for x.test's address over UDP, and takes an answer from the address asked only.
const QUERY: &str = r"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
s.connect((sys.argv[1], int(sys.argv[2])))
try:
    s.send(b'\x12\x34\x01\0\0\1\0\0\0\0\0\0\1x\4test\0\0\1\0\1')
    print(socket.inet_ntoa(s.recv(512)[-4:]))
except OSError as error:
    print(error)
";

const PATIENCE: Duration = Duration::from_secs(20);
