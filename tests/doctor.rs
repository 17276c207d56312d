//! `sidecast doctor` against real faults: for each of them the line that names it, with the next thing to do, as
//! the documentation has them.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sidecast_lab::{
    Bird, BirdSession, Child, Consul, HostLink, Namespace, Service, Sidecast, Site, Transport,
    VIP4, binary, copy_program, expect, until,
};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip"]:
        where_all_is_well_there_is_no_fault,
        nobody_listens_at_the_peer,
        the_peer_expects_another_as,
        the_peer_has_another_as,
        another_speaker_has_the_session,
        a_strict_reverse_path_filter,
        nothing_listens,
        a_listener_on_the_loopback_address_alone,
        a_udp_service_on_the_wildcard_address,
        a_vip_that_nobody_adds,
        a_router_that_does_not_forward,
        consul_is_away,
        a_drained_app_is_no_fault,
        the_peer_does_not_know_us;
    needs ["bird", "birdc", "ip", "nft"]:
        the_peer_is_filtered;
    needs ["ip"]:
        no_route_to_the_peer,
        the_interface_is_down,
        without_a_sidecast_it_looks_itself,
        a_configuration_that_is_refused,
        nothing_can_be_looked_at,
        of_a_thousand_apps_the_worst_are_looked_at,
        the_table_of_the_documentation_is_the_one_that_is_tested;
    needs ["ip", "python3"]:
        a_udp_service_that_answers_from_another_address;
    needs ["ip", "setcap", "setpriv"]:
        a_capability_is_missing;
    needs ["bird", "birdc", "consul", "ip"]:
        consul_has_the_node_in_maintenance;
}

/// A fault, and what doctor says of it: topic, text and next step. `…` stands for any text.
struct Fault {
    name: &'static str,
    mark: &'static str,
    topic: &'static str,
    text: &'static str,
    next: &'static str,
}

const fn fault(
    name: &'static str,
    topic: &'static str,
    text: &'static str,
    next: &'static str,
) -> Fault {
    let mark = "✗";
    Fault {
        name,
        mark,
        topic,
        text,
        next,
    }
}

const fn unknown(
    name: &'static str,
    topic: &'static str,
    text: &'static str,
    next: &'static str,
) -> Fault {
    let mark = "?";
    Fault {
        name,
        mark,
        topic,
        text,
        next,
    }
}

const CLOSED: Fault = fault(
    "No BGP daemon listens at the peer",
    "tcp",
    "10.0.1.1: port 179: connection refused: no BGP daemon listens there",
    "start the BGP daemon of the peer, let it listen on this address, or correct bgp.port",
);
const FILTERED: Fault = fault(
    "A filter drops packets to the peer, or the peer is down",
    "tcp",
    "10.0.1.1: port 179: no answer to our SYN",
    "see that the peer is up and that no filter drops TCP between us; a TCP MD5 password that only the peer has \
     looks the same",
);
const NO_ROUTE: Fault = fault(
    "No route to the peer",
    "interface",
    "10.99.0.1: no route to 10.99.0.1",
    "add a route to it (ip route get 10.99.0.1), or correct bgp.peer_ip",
);
const LINK_DOWN: Fault = fault(
    "The interface to the peer is down",
    "interface",
    "10.0.1.1: eth0 is down",
    "ip link set eth0 up",
);
const WRONG_LOCAL_AS: Fault = fault(
    "The peer expects another AS of us",
    "session",
    "10.0.1.1: …received NOTIFICATION OPEN Message Error / Bad Peer AS (2/2)…",
    "correct bgp.local_as, or the AS that the peer expects of us",
);
const WRONG_PEER_AS: Fault = fault(
    "The peer has another AS than `peer_as`",
    "session",
    "10.0.1.1: …peer is in AS 65000, configured is 65009",
    "correct bgp.peer_as, or the AS of the peer",
);
const UNKNOWN_NEIGHBOR: Fault = fault(
    "The peer has no neighbor with our address",
    "tcp",
    "10.0.1.1: port 179: accepts and closes at once",
    "compare our address and AS with the neighbor in its configuration; another BGP speaker behind our address \
     looks the same, and a peer that has just refused us",
);
const TWO_SPEAKERS: Fault = fault(
    "Two BGP speakers on one address",
    "speaker",
    "10.0.1.1: bird (process …) on this host has a session with it from 10.0.1.2",
    "a router takes one session from each address: peer with that program in its place, or give this session a \
     local_ip of its own",
);
const CAPABILITY: Fault = fault(
    "CAP_NET_ADMIN is missing",
    "capability",
    "no CAP_NET_ADMIN, so VIPs and NAT cannot be set",
    "give it to the container (--cap-add NET_ADMIN; …",
);
const STRICT: Fault = fault(
    "A strict `rp_filter` where packets come in",
    "rp_filter",
    "eth1: strict (1), and the default route leaves by eth0: packets of its clients that come in by eth1 are dropped",
    "sysctl -w net.ipv4.conf.eth1.rp_filter=2 (loose; the larger of this and conf.all counts)",
);
const NO_LISTENER: Fault = fault(
    "Nothing listens on the port of a monitor",
    "monitor",
    "dns: port:tcp:8000: nothing listens on tcp port 8000",
    "start the service, in this network namespace, or correct the port",
);
const LOOPBACK: Fault = fault(
    "The service listens on 127.0.0.1 alone",
    "monitor",
    "dns: port:tcp:8000: only 127.0.0.1 listens on tcp port 8000, packets come to 192.0.2.53",
    "bind the service to 192.0.2.53 or to the wildcard address, or redirect with nats: [\"tcp:8000\"] to this host's \
     address",
);
const DEAF_VIP: Fault = fault(
    "The VIP does not answer on its own host",
    "vip",
    "192.0.2.53/32 of dns: tcp port 8000 does not answer this host: Connection refused (os error 111)",
    "bind the service to the VIP or the wildcard address, and look at the firewall of this host",
);
const WILDCARD: Fault = unknown(
    "A UDP service on the wildcard address, its answers unproven",
    "monitor",
    "dns: port:udp:53: 0.0.0.0 is bound to udp port 53: on the wildcard address, where answers may leave from another \
     address than the VIP",
    "add a monitor that asks the VIP (dns:NAME@vip), or bind the service to the VIP",
);
const TRAP: Fault = fault(
    "A UDP service answers from another address than the VIP",
    "monitor",
    "dns: dns:good.example/A@vip:53: fail: 192.0.2.53: answers from its own address, not from the VIP: bind the \
     service to the VIP, or (unbound) interface-automatic: yes",
    "repair the service, or the monitor where it asks the wrong thing",
);
const NO_VIP: Fault = fault(
    "`vip_interface: none`, and nothing adds the VIP",
    "vip",
    "192.0.2.53/32 of dns: it is no address of this host, so its packets are not for this host",
    "ip addr add 192.0.2.53/32 dev lo, since agent.vip_interface is none",
);
const CONSUL_AWAY: Fault = fault(
    "Consul does not answer",
    "consul",
    "http://127.0.0.1:8500: 127.0.0.1:8500: …onnection refused…",
    "start the agent, or correct agent.consul_addr, consul_token or CONSUL_NODE; until then the last known state holds",
);
const MAINTENANCE: Fault = fault(
    "Consul has the node in maintenance",
    "consul",
    "node …: Node Maintenance Mode is critical",
    "repair the node, or end its maintenance: every service on it counts as failing",
);
const NOT_RUNNING: Fault = unknown(
    "No sidecast runs",
    "sidecast",
    "no answer of an announcer: nothing answers at 127.0.0.1:8179: Connection refused (os error 111)",
    "start it, or name its API with --addr; the lines below are of its configuration",
);
const REFUSED: Fault = fault(
    "The configuration is refused",
    "config",
    "…:2: bgp.peer_sa: is no known key; did you mean `peer_as`?",
    "correct it; sidecast check reads it again",
);
const NOT_FORWARDED: Fault = fault(
    "The router does not forward to this host",
    "path",
    "192.0.2.53/32 by 10.0.1.1: no (0/16: 10.0.1.1 says no route)",
    "look on the router for the route of 192.0.2.53/32: import policy, next hop, FIB",
);

/// In the order of the layers.
const FAULTS: [&Fault; 21] = [
    &NOT_RUNNING,
    &REFUSED,
    &CAPABILITY,
    &NO_ROUTE,
    &LINK_DOWN,
    &STRICT,
    &CLOSED,
    &FILTERED,
    &UNKNOWN_NEIGHBOR,
    &TWO_SPEAKERS,
    &WRONG_LOCAL_AS,
    &WRONG_PEER_AS,
    &NO_LISTENER,
    &LOOPBACK,
    &WILDCARD,
    &TRAP,
    &NO_VIP,
    &DEAF_VIP,
    &NOT_FORWARDED,
    &CONSUL_AWAY,
    &MAINTENANCE,
];

/// What one call answered.
struct Answer {
    code: Option<i32>,
    text: String,
    report: Value,
}

impl Answer {
    fn lines(&self) -> impl Iterator<Item = &Value> {
        self.report["lines"].as_array().into_iter().flatten()
    }

    /// Whether it has this line.
    fn names(&self, fault: &Fault) -> Result<(), String> {
        let found = self.lines().any(|line| {
            sign(line["mark"].as_str().unwrap_or_default()) == fault.mark
                && line["topic"] == fault.topic
                && fits(&line["text"], fault.text)
                && fits(&line["next"], fault.next)
        });
        expect(
            found,
            format!("not there: {} {}\n{}", fault.topic, fault.text, self.text),
        )
    }

    fn faults(&self) -> Vec<String> {
        let faults = self.lines().filter(|line| line["mark"] == "fault");
        faults.map(ToString::to_string).collect()
    }
}

fn sign(mark: &str) -> &'static str {
    match mark {
        "ok" => "✓",
        "fault" => "✗",
        _ => "?",
    }
}

/// Whether a text is the pattern, in which `…` stands for any text.
fn fits(text: &Value, pattern: &str) -> bool {
    let mut rest = text.as_str().unwrap_or_default();
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(after) = rest.strip_prefix(first) else {
        return false;
    };
    rest = after;
    let mut open = false;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            return false;
        };
        (rest, open) = (after, part.is_empty());
    }
    rest.is_empty() || open
}

/// Asks twice, until both answers are of one report: the text must say what the JSON says.
#[track_caller]
fn doctor(host: &Namespace, args: &[&str]) -> Answer {
    until(PATIENCE, "text and JSON are one report", || {
        let json = call(host, args, &["--json"]);
        let text = call(host, args, &[]);
        let report = serde_json::from_str(&json.1).unwrap_or(Value::Null);
        let printed = match report.is_null() {
            true => String::new(),
            false => shown(&report),
        };
        let same = json.0 == text.0 && printed == text.1;
        expect(same, format!("{}\n{}\n{printed}", json.1, text.1))?;
        let faults = report["faults"].as_u64();
        expect(
            faults.is_none_or(|count| json.0 == Some(i32::from(count > 0))),
            &text.1,
        )?;
        let text = if printed.is_empty() { text.2 } else { text.1 };
        Ok::<_, String>(Answer {
            code: json.0,
            text,
            report,
        })
    })
}

/// Exit code and both outputs.
fn call(host: &Namespace, args: &[&str], more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(binary());
    command.arg("doctor").args(args).args(more);
    // Of the tests' own, and no variable that sidecast knows.
    command.env_remove("SIDECAST_GOLDEN");
    let output = host.enter(|| command.output()).expect("sidecast runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// The text of a report.
#[track_caller]
fn shown(report: &Value) -> String {
    let mut text = String::new();
    let lines = || report["lines"].as_array().into_iter().flatten();
    for line in lines() {
        let field = |key: &str| line[key].as_str().unwrap_or_default();
        let (sign, next) = (sign(field("mark")), field("next"));
        text += &format!("{sign} {:<10} {}\n", field("topic"), field("text"));
        if !next.is_empty() {
            text += &format!("{:13}next: {next}\n", "");
        }
        assert!(sign != "✗" || !next.is_empty(), "no next step: {line}");
    }
    let count = |mark: &str| lines().filter(|line| line["mark"] == mark).count();
    let (faults, unknown, ok) = (count("fault"), count("unknown"), count("ok"));
    assert_eq!(report["faults"], faults);
    let plural = if faults == 1 { "" } else { "s" };
    text + &format!("{faults} fault{plural}, {unknown} unknown, {ok} ok\n")
}

/// Waits until doctor names a fault.
#[track_caller]
fn named(host: &Namespace, fault: &Fault) -> Answer {
    until(PATIENCE, fault.name, || {
        let answer = doctor(host, &[]);
        answer.names(fault).map(|()| answer)
    })
}

fn config(link: &HostLink, more: &str) -> String {
    let peer = link.addresses.router4;
    format!(
        "bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {peer}}}\n{more}\n\
         apps: [{{name: dns, vip: {VIP4}/32, monitors: [\"port:tcp:8000\"], interval: 200ms}}]\n"
    )
}

fn service(site: &Site) -> Service {
    Service::start(&site.a.network, Transport::Tcp, Site::TCP_PORT)
}

fn started(site: &Site, config: &str) -> Sidecast {
    let mut sidecast = Sidecast::start(&site.a.network, config);
    sidecast.wait_for_api(&site.a.network);
    sidecast
}

fn where_all_is_well_there_is_no_fault() {
    let site = Site::new();
    let host = &site.a.network;
    let _services = site.a.services();
    let _router = router(&site);
    let sidecast = started(&site, &site.a.config("", "nats: [\"tcp:80:8000\"]\n"));
    site_is_announced(&sidecast, host);
    let answer = until(PATIENCE, "nothing is at fault", || {
        let answer = doctor(host, &[]);
        let faults = answer.faults();
        expect(
            faults.is_empty() && answer.code == Some(0),
            answer.text.clone(),
        )
        .map(|()| answer)
    });
    for (topic, text) in [
        ("sidecast", "version … runs"),
        ("capability", "CAP_NET_ADMIN: addresses and NAT can be set"),
        (
            "kernel",
            "sock_diag lists the sockets of this network namespace",
        ),
        ("kernel", "nf_tables answers: NAT rules can be set"),
        ("interface", "10.0.1.1: on eth0 from 10.0.1.2"),
        ("rp_filter", "eth0: …"),
        ("tcp", "10.0.1.1: connected"),
        (
            "speaker",
            "10.0.1.1: no other program on this host has a session with it",
        ),
        ("session", "10.0.1.1: established for …, 2 routes announced"),
        ("app", "dns: up for …"),
        (
            "monitor",
            "dns: port:tcp:8000: [::] listens on tcp port 8000",
        ),
        ("vip", "192.0.2.53/32 of dns: it is on this host"),
        (
            "vip",
            "192.0.2.53/32 of dns: tcp port 80 answers, asked from this host",
        ),
        (
            "vip",
            "2001:db8:53::1/128 of dns: tcp port 80 answers, asked from this host",
        ),
        (
            "route",
            "192.0.2.53/32 to 10.0.1.1: next hop 10.0.1.2, acknowledged by its TCP",
        ),
        (
            "route",
            "2001:db8:53::1/128 to 10.0.1.1: next hop 2001:db8:1::2, acknowledged by its TCP",
        ),
    ] {
        let well = Fault {
            mark: "✓",
            ..fault("", topic, text, "")
        };
        answer.names(&well).unwrap_or_else(|why| panic!("{why}"));
    }
    // The API says the same, to an ordinary user too.
    let api = sidecast.get(host, "/doctor").json();
    assert_eq!(api["faults"], 0, "{api}");
    let ordinary = host.run(
        "setpriv",
        &["--reuid=65534", "--clear-groups", &binary(), "doctor"],
    );
    assert!(ordinary.starts_with("✓ sidecast"), "{ordinary}");
}

#[track_caller]
fn site_is_announced(sidecast: &Sidecast, host: &Namespace) {
    until(PATIENCE, "it is announced", || {
        let app = sidecast.app(host, "dns");
        expect(app["announced"] == true, app)
    });
}

/// A router with the host as its neighbor.
fn router(site: &Site) -> Bird {
    Bird::router(&site.router, &[site.a.session("a")])
}

fn nobody_listens_at_the_peer() {
    let site = Site::new();
    let _service = service(&site);
    let _sidecast = started(&site, &config(&site.a, ""));
    named(&site.a.network, &CLOSED);
}

fn the_peer_is_filtered() {
    let site = Site::new();
    let _service = service(&site);
    let _router = router(&site);
    site.router.nft(
        "table inet filter {
           chain in { type filter hook input priority 0; tcp dport 179 drop; }
         }",
    );
    let _sidecast = started(&site, &config(&site.a, ""));
    named(&site.a.network, &FILTERED);
}

fn no_route_to_the_peer() {
    let site = Site::new();
    let host = &site.a.network;
    host.ip("route del default");
    let config = config(&site.a, "").replace("10.0.1.1", "10.99.0.1");
    let _sidecast = started(&site, &config);
    named(host, &NO_ROUTE);
}

fn the_interface_is_down() {
    let site = Site::new();
    let host = &site.a.network;
    let _sidecast = started(&site, &config(&site.a, ""));
    host.ip("link set eth0 down");
    named(host, &LINK_DOWN);
}

fn the_peer_expects_another_as() {
    let site = Site::new();
    let session = BirdSession {
        peer_as: 65009,
        ..site.a.session("a")
    };
    let _router = Bird::router(&site.router, &[session]);
    let _sidecast = started(&site, &config(&site.a, ""));
    named(&site.a.network, &WRONG_LOCAL_AS);
}

fn the_peer_has_another_as() {
    let site = Site::new();
    let host = &site.a.network;
    let _router = router(&site);
    let config = config(&site.a, "").replace("peer_as: 65000", "peer_as: 65009");
    // Without a sidecast it hears the OPEN itself.
    let file = Sidecast::write(host, &config).display().to_string();
    let answers = fault(
        "another AS answers",
        "tcp",
        "10.0.1.1: port 179: answers as AS 65000, router ID 10.255.0.1, and bgp.peer_as is 65009",
        "correct bgp.peer_as, or the AS of the peer",
    );
    until(PATIENCE, answers.name, || {
        doctor(host, &["--config", &file]).names(&answers)
    });
    let _sidecast = started(&site, &config);
    named(host, &WRONG_PEER_AS);
}

fn the_peer_does_not_know_us() {
    let site = Site::new();
    let other = BirdSession {
        neighbor: "10.0.1.77".parse().expect("an address"),
        ..site.a.session("a")
    };
    let _router = Bird::router(&site.router, &[other]);
    let _sidecast = started(&site, &config(&site.a, ""));
    named(&site.a.network, &UNKNOWN_NEIGHBOR);
}

fn another_speaker_has_the_session() {
    let site = Site::new();
    let host = &site.a.network;
    let router = router(&site);
    let theirs = BirdSession {
        local: "10.0.1.2".parse().expect("an address"),
        neighbor: "10.0.1.1".parse().expect("an address"),
        local_as: 65001,
        peer_as: 65000,
        ..site.a.session("theirs")
    };
    let _other = Bird::router(host, &[theirs]);
    until(PATIENCE, "the other speaker is established", || {
        expect(router.established("a"), router.session("a"))
    });
    let _sidecast = started(&site, &config(&site.a, ""));
    named(host, &TWO_SPEAKERS);
    assert!(
        router.established("a"),
        "the session of the other was not disturbed"
    );
}

fn a_strict_reverse_path_filter() {
    let site = Site::new();
    let host = &site.a.network;
    site.lab.cable(
        (host, "eth1", &["10.0.3.2/24"]),
        (&site.router, "a1", &["10.0.3.1/24"]),
    );
    host.sysctl("net/ipv4/conf/all/rp_filter", "0");
    host.sysctl("net/ipv4/conf/eth1/rp_filter", "1");
    let session = BirdSession {
        local: "10.0.3.1".parse().expect("an address"),
        neighbor: "10.0.3.2".parse().expect("an address"),
        ..site.a.session("a")
    };
    let _router = Bird::router(&site.router, &[session]);
    let _sidecast = started(&site, &config(&site.a, "").replace("10.0.1.1", "10.0.3.1"));
    named(host, &STRICT);
    host.sysctl("net/ipv4/conf/eth1/rp_filter", "2");
    until(PATIENCE, "it is loose", || {
        let answer = doctor(host, &[]);
        expect(answer.text.contains("eth1: loose (2)"), answer.text)
    });
}

fn nothing_listens() {
    let site = Site::new();
    let _router = router(&site);
    let _sidecast = started(&site, &config(&site.a, ""));
    named(&site.a.network, &NO_LISTENER);
}

fn a_listener_on_the_loopback_address_alone() {
    let site = Site::new();
    let host = &site.a.network;
    let _router = router(&site);
    let _listener = host
        .enter(|| TcpListener::bind("127.0.0.1:8000"))
        .expect("a listener");
    let sidecast = started(&site, &config(&site.a, ""));
    site_is_announced(&sidecast, host);
    named(host, &LOOPBACK);
    named(host, &DEAF_VIP);
}

fn a_udp_service_on_the_wildcard_address() {
    let site = Site::new();
    let host = &site.a.network;
    let _router = router(&site);
    let _socket = host
        .enter(|| UdpSocket::bind("0.0.0.0:53"))
        .expect("a socket");
    let config = config(&site.a, "").replace("port:tcp:8000", "port:udp:53");
    let _sidecast = started(&site, &config);
    named(host, &WILDCARD);
    // It is no fault; the session may be on its way.
    until(PATIENCE, "nothing is at fault", || {
        let answer = doctor(host, &[]);
        expect(answer.code == Some(0), answer.text)
    });
}

fn a_udp_service_that_answers_from_another_address() {
    let site = Site::new();
    let host = &site.a.network;
    let _server = Child::start(host, "python-dns", "python3", &["-c", DNS], &[]);
    let config = config(&site.a, "").replace("port:tcp:8000", "dns:good.example@vip");
    let _sidecast = started(&site, &config);
    named(host, &TRAP);
}

fn a_vip_that_nobody_adds() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    let _router = router(&site);
    let _sidecast = started(&site, &config(&site.a, "agent: {vip_interface: none}"));
    named(host, &NO_VIP);
    host.ip(&format!("addr add {VIP4}/32 dev lo"));
    until(PATIENCE, "it is there", || {
        let answer = doctor(host, &[]);
        expect(answer.code == Some(0), answer.text)
    });
}

/// The session stays, and the route is gone from the router's FIB.
fn a_router_that_does_not_forward() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    let _router = router(&site);
    // A Linux router has an ICMP error for a host every two seconds: its limit is counted twice where it has no route.
    let interval = "agent: {path_proof: {interval: 3s}}";
    let _sidecast = started(&site, &config(&site.a, interval));
    let well = Fault {
        mark: "✓",
        ..fault(
            "it is proven",
            "path",
            "192.0.2.53/32 by 10.0.1.1: yes (16/16)",
            "",
        )
    };
    named(host, &well);
    site.router.ip(&format!("route del {VIP4}"));
    named(host, &NOT_FORWARDED);
}

fn consul_is_away() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    let _router = router(&site);
    let _sidecast = started(&site, &config(&site.a, CONSUL));
    named(host, &CONSUL_AWAY);
}

fn consul_has_the_node_in_maintenance() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    let _router = router(&site);
    let _consul = Consul::start(host, &serde_json::json!({}));
    let _sidecast = started(&site, &config(&site.a, CONSUL));
    until(PATIENCE, "Consul is well", || {
        let answer = doctor(host, &[]);
        let well = answer.text.contains("with the tag enable_gocast: 0");
        expect(well && answer.code == Some(0), answer.text)
    });
    Consul::run(host, "maint -enable -reason work");
    named(host, &MAINTENANCE);
}

fn a_drained_app_is_no_fault() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    let _router = router(&site);
    let sidecast = started(&site, &config(&site.a, ""));
    site_is_announced(&sidecast, host);
    sidecast.get(host, "/drain?name=dns");
    let drained = unknown(
        "it is drained",
        "app",
        "dns: drained for …",
        "sidecast undrain dns, when it is to serve again",
    );
    let answer = named(host, &drained);
    assert_eq!(answer.code, Some(0), "{}", answer.text);
}

fn a_capability_is_missing() {
    let site = Site::new();
    let host = &site.a.network;
    let program = site.lab.dir().join("sidecast").display().to_string();
    copy_program(binary(), &program);
    let config = Sidecast::write(host, &config(&site.a, ""))
        .display()
        .to_string();
    let args = [
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
        &program,
        "--config",
        &config,
    ];
    let _sidecast = Child::start(host, "ordinary", "setpriv", &args, &[]);
    until(PATIENCE, "it runs", || {
        sidecast_lab::get(host, Sidecast::api(), "/healthz")
    });
    named(host, &CAPABILITY);
}

fn without_a_sidecast_it_looks_itself() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    let file = Sidecast::write(host, &config(&site.a, ""))
        .display()
        .to_string();
    let before = (host.ip("addr"), host.ip("route show table all"));
    let answer = doctor(host, &["--config", &file]);
    for fault in [&NOT_RUNNING, &CLOSED] {
        answer.names(fault).unwrap_or_else(|why| panic!("{why}"));
    }
    let paths = answer.lines().filter(|line| line["topic"] == "path");
    let marks: Vec<&Value> = paths.map(|line| &line["mark"]).collect();
    assert_eq!(marks, ["unknown"], "{}", answer.text);
    assert_eq!(before, (host.ip("addr"), host.ip("route show table all")));
    // With a router there is no fault, and exit code 0 says that it can be started.
    let listener = site.router.enter(|| TcpListener::bind("10.0.1.1:179"));
    let _listener = listener.expect("a listener");
    let answer = doctor(host, &["--config", &file]);
    assert_eq!(answer.code, Some(0), "{}", answer.text);
    // An ordinary user sees less, and no fault in that.
    let config = fs::read_to_string(&file).expect("the file");
    let args = [
        "--reuid=65534",
        "--clear-groups",
        "env",
        "-u",
        "SIDECAST_GOLDEN",
    ];
    let inline = format!("SIDECAST_CONFIG_YAML={config}");
    let program = site.lab.dir().join("sidecast").display().to_string();
    copy_program(binary(), &program);
    let all: Vec<&str> = args
        .into_iter()
        .chain([&*inline, &*program, "doctor"])
        .collect();
    let ordinary = host.run("setpriv", &all);
    assert!(
        ordinary.contains("? capability this user has no CAP_NET_ADMIN"),
        "{ordinary}"
    );
}

fn a_configuration_that_is_refused() {
    let site = Site::new();
    let host = &site.a.network;
    let text = "bgp:\n  peer_sa: 65000\n  local_as: 65001\n";
    let file = Sidecast::write(host, text).display().to_string();
    let answer = doctor(host, &["--config", &file]);
    answer.names(&REFUSED).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(answer.code, Some(1));
    // Beside a running one, which goes on with what it has.
    let good = config(&site.a, "");
    let _sidecast = started(&site, &good);
    Sidecast::write(host, text);
    let answer = doctor(host, &["--config", &file]);
    answer.names(&REFUSED).unwrap_or_else(|why| panic!("{why}"));
    assert!(answer.text.contains("✓ sidecast"), "{}", answer.text);
}

fn nothing_can_be_looked_at() {
    let site = Site::new();
    let host = &site.a.network;
    for args in [&[][..], &["--addr", "127.0.0.1:1"][..]] {
        let answer = doctor(host, args);
        assert_eq!(answer.code, Some(3), "{args:?}: {}", answer.text);
        assert!(
            answer.text.contains("nothing answers at"),
            "{}",
            answer.text
        );
    }
    let answer = doctor(host, &["--addr", "nonsense"]);
    assert_eq!(answer.code, Some(2), "{}", answer.text);
}

fn of_a_thousand_apps_the_worst_are_looked_at() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    let app = |n: usize| {
        let port = if n == 777 { 7 } else { 8000 };
        format!(
            "- {{name: app{n}, vip: 192.0.{}.{}/32, monitors: [\"port:tcp:{port}\"]}}\n",
            2 + n / 250,
            1 + n % 250
        )
    };
    let apps: String = (0..1000).map(app).collect();
    let peer = site.a.addresses.router4;
    let config =
        format!("bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {peer}}}\napps:\n{apps}");
    let _router = router(&site);
    let sidecast = started(&site, &config);
    until(PATIENCE * 3, "all are announced but one", || {
        let metrics = sidecast.get(host, "/metrics").body;
        let routes = metrics
            .lines()
            .any(|line| line == format!("sidecast_bgp_announced_prefixes{{peer=\"{peer}\"}} 999"));
        expect(routes, "not yet")
    });
    let answer = doctor(host, &[]);
    let worst = fault(
        "",
        "monitor",
        "app777: port:tcp:7: nothing listens on tcp port 7",
        "start the service, in this network namespace, or correct the port",
    );
    answer.names(&worst).unwrap_or_else(|why| panic!("{why}"));
    let rest = unknown(
        "",
        "app",
        "980 more apps were not looked at",
        "sidecast status shows all of them",
    );
    answer.names(&rest).unwrap_or_else(|why| panic!("{why}"));
    assert!(answer.lines().count() < 200, "{}", answer.text);
}

/// Its rows are made of what the tests above assert.
fn the_table_of_the_documentation_is_the_one_that_is_tested() {
    let row = |fault: &&Fault| {
        let next = match fault.next {
            "" => String::new(),
            next => format!(" — next: {next}"),
        };
        let Fault {
            name,
            mark,
            topic,
            text,
            ..
        } = fault;
        format!("| {name} | `{mark} {topic}` {text}{next} |\n")
    };
    let rows: String = FAULTS.iter().map(row).collect();
    let table = format!("{HEAD}\n| --- | --- |\n{rows}");
    let text = fs::read_to_string(DOCUMENT).expect("the documentation");
    let (before, rest) = text.split_once(HEAD).expect("the table's head");
    let rest: Vec<&str> = rest.lines().skip(1).collect();
    let after = rest.iter().skip_while(|line| line.starts_with('|'));
    let after: String = after.map(|line| format!("{line}\n")).collect();
    let whole = format!("{before}{table}{after}");
    if std::env::var_os("SIDECAST_GOLDEN").is_some_and(|value| value == "write") {
        fs::write(DOCUMENT, &whole).expect("a file");
    }
    let kept = fs::read_to_string(DOCUMENT).expect("the documentation");
    assert_eq!(kept, whole, "SIDECAST_GOLDEN=write writes the table anew");
}

/// Where the table is, and its first line.
const DOCUMENT: &str = "examples/operations.md";
const HEAD: &str = "| fault | what `sidecast doctor` says |";
const PATIENCE: Duration = Duration::from_secs(20);
const CONSUL: &str = "agent: {consul_addr: \"http://127.0.0.1:8500\"}";

/// Answers every question with one record, from whatever address the kernel chooses.
const DNS: &str = r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 53))
while True:
    query, client = s.recvfrom(512)
    s.sendto(query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:] + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1", client)
"#;
