//! Monitors that ask the VIP, against real servers: what they say is compared with what a client behind a router
//! gets. The servers are on the wildcard address in most cases, and differ in the address that they answer from.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::Value;
use sidecast_lab::{Bird, Child, Namespace, Sidecast, Site, VIP4, VIP6, expect, receive, until};

sidecast_lab::tests! {
    needs ["ip", "python3"]:
        a_plain_server_on_the_wildcard_answers_from_its_own_address,
        a_server_bound_to_the_vip_answers_from_it,
        an_answer_that_nat_translates_comes_from_the_vip,
        a_monitor_that_names_the_vip_is_the_same,
        a_wildcard_service_without_such_a_monitor_is_told_of_once,
        connections_go_to_each_vip;
    needs ["ip", "unbound"]:
        unbound_answers_from_the_vip_where_it_is_told_to,
        a_server_that_refuses_is_told_whom_to_allow;
    needs ["ip", "dnsmasq"]:
        dnsmasq_answers_from_the_vip;
    needs ["bird", "birdc", "ip", "python3"]:
        another_site_that_answers_announces_no_empty_host,
        the_route_goes_and_the_address_stays_where_only_they_fail;
}

fn a_plain_server_on_the_wildcard_answers_from_its_own_address() {
    let site = Site::new();
    for vip in [VIP4, VIP6] {
        let _server = python(&site.a.network, any(vip), 53);
        compared(&site, vip, "", "dns:good.example@vip", Err(ELSEWHERE));
    }
}

fn a_server_bound_to_the_vip_answers_from_it() {
    let site = Site::new();
    for vip in [VIP4, VIP6] {
        let _server = python(&site.a.network, vip, 53);
        compared(&site, vip, "", "dns:good.example@vip", Ok(()));
    }
}

fn a_wildcard_service_without_such_a_monitor_is_told_of_once() {
    let site = Site::new();
    let host = &site.a.network;
    let _server = python(host, "0.0.0.0", 53);
    let sidecast = start(&site, VIP4, "", "port:udp:53");
    let words = "a wildcard UDP service without a `vip` monitor";
    until(
        PATIENCE,
        "the app is up and the warning stands beside",
        || {
            let (state, why) = judged(&sidecast, host)?;
            let warnings = sidecast.get(host, "/verdict").json()["warnings"].to_string();
            let warned = warnings.contains(&format!("{words}: dns"));
            expect(
                state == "up" && warned,
                format!("{state}: {why}: {warnings}"),
            )
        },
    );
    assert!(client_gets(&site, VIP4).is_err(), "it is the trap");
    let logged = sidecast.log();
    assert_eq!(logged.matches(words).count(), 1, "{logged}");
}

/// Asked from 127.0.0.1 it would say nothing at all.
fn an_answer_that_nat_translates_comes_from_the_vip() {
    let site = Site::new();
    for vip in [VIP4, VIP6] {
        let _server = python(&site.a.network, any(vip), 8053);
        let nat = "    nats: [\"udp:53:8053\"]\n";
        compared(&site, vip, nat, "dns:good.example@vip", Ok(()));
    }
}

fn a_monitor_that_names_the_vip_is_the_same() {
    let site = Site::new();
    for (vip, monitor) in [
        (VIP4, format!("dns:good.example@{VIP4}")),
        (VIP6, format!("dns:good.example@[{VIP6}]")),
    ] {
        let server = python(&site.a.network, any(vip), 53);
        compared(&site, vip, "", &monitor, Err(ELSEWHERE));
        drop(server);
        let _server = python(&site.a.network, vip, 53);
        compared(&site, vip, "", &monitor, Ok(()));
    }
}

fn unbound_answers_from_the_vip_where_it_is_told_to() {
    let site = Site::new();
    for vip in [VIP4, VIP6] {
        for (automatic, expected) in [("no", Err(ELSEWHERE)), ("yes", Ok(()))] {
            let _server = unbound(&site.a.network, automatic, "allow");
            compared(&site, vip, "", "dns:good.example@vip", expected);
        }
    }
}

/// Its clients are served: a false alarm that says what to do.
fn a_server_that_refuses_is_told_whom_to_allow() {
    let site = Site::new();
    let host = &site.a.network;
    for (vip, source) in [(VIP4, "127.0.0.1"), (VIP6, "::1")] {
        let _server = unbound(host, "yes", "refuse");
        let _sidecast = start(&site, vip, "", "dns:good.example@vip");
        let report = format!("{vip}: answered REFUSED: it has to allow {source}, from where");
        until(PATIENCE, "the refusal is logged", || {
            let (state, why) = judged(&_sidecast, host)?;
            expect(state == "down" && why.contains(&report), why)
        });
        assert!(client_gets(&site, vip).is_ok());
    }
}

fn dnsmasq_answers_from_the_vip() {
    let site = Site::new();
    for vip in [VIP4, VIP6] {
        let args = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--pid-file=",
            "--user=root",
            "--address=/good.example/192.0.2.1",
        ];
        let _server = Child::start(&site.a.network, "dnsmasq", "dnsmasq", &args, &[]);
        compared(&site, vip, "", "dns:good.example@vip", Ok(()));
    }
}

fn connections_go_to_each_vip() {
    let site = Site::new();
    let host = &site.a.network;
    let server = |vip: &str| {
        let args = ["-c", HTTP, vip];
        Child::start(host, "http", "python3", &args, &[])
    };
    let _four = server(VIP4);
    for monitor in ["tcp:vip:80", "http://vip/"] {
        let sidecast = start_all(&site, "", monitor);
        until(PATIENCE, "the VIP without a server is named", || {
            let (state, why) = judged(&sidecast, host)?;
            expect(state == "down" && why.contains(VIP6), why)
        });
        let _six = server(VIP6);
        until(PATIENCE, "both answer", || {
            let (state, why) = judged(&sidecast, host)?;
            expect(state == "up", why)
        });
    }
}

/// Host B serves the VIP, and host A runs nothing: until it is asked on A itself, B's answer counts for A.
fn another_site_that_answers_announces_no_empty_host() {
    let site = Site::new();
    let sessions = [site.a.session("a"), site.b.session("b")];
    let router = Bird::router(&site.router, &sessions);
    let server = python(&site.b.network, VIP4, 53);
    let config = |link: &sidecast_lab::HostLink| {
        config(link, &format!("\"{VIP4}/32\""), "", "dns:good.example@vip")
    };
    let _b = Sidecast::start(&site.b.network, &config(&site.b));
    until(PATIENCE, "B is announced", || {
        expect(
            client_gets(&site, VIP4).is_ok(),
            format!("{:?}", router.route(&format!("{VIP4}/32"))),
        )
    });
    // Where A has no address of it, B answers A.
    ask(&site.a.network, VIP4).expect("B answers A");
    let mut a = Sidecast::start(&site.a.network, &config(&site.a));
    a.wait_for_api(&site.a.network);
    until(PATIENCE, "A has asked itself", || {
        let (state, why) = judged(&a, &site.a.network)?;
        expect(
            state == "down" && why.contains(VIP4),
            format!("{state}: {why}"),
        )
    });
    let from_a = router.route_from(&format!("{VIP4}/32"), "a");
    assert_eq!(from_a, None, "an empty host is announced");
    assert!(client_gets(&site, VIP4).is_ok());
    // No host serves it now, and A comes up where a server is there.
    drop(server);
    let _server = python(&site.a.network, VIP4, 53);
    until(PATIENCE, "A is announced", || {
        expect(
            client_gets(&site, VIP4).is_ok(),
            format!("{:?}", router.route(&format!("{VIP4}/32"))),
        )
    });
}

fn the_route_goes_and_the_address_stays_where_only_they_fail() {
    let site = Site::new();
    let host = &site.a.network;
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let server = python(host, VIP4, 53);
    let mut sidecast = start(&site, VIP4, "", "dns:good.example@vip");
    let routed = |wanted: bool| {
        until(PATIENCE, "the router follows", || {
            let route = router.route(&format!("{VIP4}/32"));
            expect(route.is_some() == wanted, format!("{route:?}"))
        });
    };
    routed(true);
    drop(server);
    routed(false);
    // Beyond vip_linger, which is a second here.
    std::thread::sleep(Duration::from_secs(2));
    assert!(site.a.vips().iter().any(|addr| addr.contains(VIP4)));
    let _server = python(host, VIP4, 53);
    routed(true);
    sidecast.must_run();
}

/// What the monitor says, and what a client behind the router gets by a static route, are the same.
fn compared(site: &Site, vip: &str, more: &str, monitor: &str, expected: Result<(), &str>) {
    let host = &site.a.network;
    let sidecast = start(site, vip, more, monitor);
    let what = format!("{monitor} of {vip} says {expected:?}");
    until(PATIENCE, &what, || {
        let (state, why) = judged(&sidecast, host)?;
        let report = match expected {
            Ok(()) => state == "up",
            Err(words) => state == "down" && why.contains(&format!("{vip}: {words}")),
        };
        expect(report, format!("{state}: {why}\n{}", sidecast.log()))
    });
    assert!(
        site.a.vips().iter().any(|addr| addr.contains(vip)),
        "the address is there"
    );
    let got = client_gets(site, vip);
    assert_eq!(got.is_ok(), expected.is_ok(), "{monitor} of {vip}: {got:?}");
}

fn start(site: &Site, vip: &str, more: &str, monitor: &str) -> Sidecast {
    let host = &site.a;
    let (family, via) = match vip == VIP4 {
        true => ("", host.addresses.host4),
        false => ("-6", host.addresses.host6),
    };
    site.router.ip(&format!(
        "{family} route replace {vip} via {via} metric 4000"
    ));
    let length = if vip == VIP4 { 32 } else { 128 };
    run(
        &host.network,
        &config(host, &format!("\"{vip}/{length}\""), more, monitor),
    )
}

fn start_all(site: &Site, more: &str, monitor: &str) -> Sidecast {
    let vips = format!("\"{VIP4}/32\", \"{VIP6}/128\"");
    run(&site.a.network, &config(&site.a, &vips, more, monitor))
}

fn run(host: &Namespace, config: &str) -> Sidecast {
    let mut sidecast = Sidecast::start(host, config);
    sidecast.wait_for_api(host);
    sidecast
}

fn config(link: &sidecast_lab::HostLink, vips: &str, more: &str, monitor: &str) -> String {
    format!(
        "agent: {{vip_linger: 1s}}\n\
         bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {}}}\n\
         apps:\n  - name: dns\n    vips: [{vips}]\n    interval: 200ms\n    timeout: 2s\n    \
         hold_down: \"off\"\n    monitors: [\"{monitor}\"]\n{more}",
        link.addresses.router4
    )
}

/// The app's state, and what its last monitor says.
fn judged(sidecast: &Sidecast, host: &Namespace) -> Result<(String, String), String> {
    let app = sidecast.app(host, "dns");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match app["state"].as_str() {
        Some(state) => Ok((state.to_owned(), text(&app["why"]))),
        None => Err(app.to_string()),
    }
}

/// As an ordinary client: what comes from another address than the one asked is dropped.
fn client_gets(site: &Site, vip: &str) -> io::Result<()> {
    let mut last = Ok(());
    for _ in 0..3 {
        last = ask(&site.client, vip);
        if last.is_ok() {
            break;
        }
    }
    last
}

fn ask(from: &Namespace, vip: &str) -> io::Result<()> {
    let server: IpAddr = vip.parse().expect("an address");
    from.enter(|| {
        let socket = UdpSocket::bind(SocketAddr::new(any(vip).parse().expect("an address"), 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.connect(SocketAddr::new(server, 53))?;
        socket.send(QUERY)?;
        let mut answer = [0; 512];
        let count = receive(&socket, &mut answer)?;
        let good = count > QUERY.len() && answer[..2] == QUERY[..2] && answer[3] & 15 == 0;
        good.then_some(())
            .ok_or_else(|| io::Error::other(format!("{:?}", &answer[..count])))
    })
}

fn any(vip: &str) -> &'static str {
    if vip == VIP4 { "0.0.0.0" } else { "::" }
}

fn python(host: &Namespace, addr: &str, port: u16) -> Child {
    let args = ["-c", DNS, addr, &port.to_string()];
    Child::start(host, "python-dns", "python3", &args, &[])
}

/// `local`: what is done with queries from the host itself.
fn unbound(host: &Namespace, automatic: &str, local: &str) -> Child {
    let path = host.dir().join(format!("unbound-{automatic}-{local}.conf"));
    let text = format!(
        "server:\n  interface: 0.0.0.0\n  interface: ::0\n  interface-automatic: {automatic}\n  \
         do-daemonize: no\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"\"\n  use-syslog: no\n  \
         logfile: \"\"\n  module-config: \"iterator\"\n  access-control: 10.0.0.0/8 allow\n  \
         access-control: 2001:db8::/32 allow\n  access-control: 127.0.0.0/8 {local}\n  \
         access-control: ::1/128 {local}\n  local-zone: \"example.\" static\n  \
         local-data: \"good.example. IN A 192.0.2.1\"\nremote-control:\n  control-enable: no\n"
    );
    std::fs::write(&path, text).expect("a file");
    Child::start(
        host,
        "unbound",
        "unbound",
        &["-d", "-c", &path.to_string_lossy()],
        &[],
    )
}

/// good.example/A, recursion desired.
const QUERY: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x04good\x07example\0\0\x01\0\x01";

/// One UDP socket, one record for every question. IP_FREEBIND and IPV6_FREEBIND: the VIP may come later.
const DNS: &str = r#"
import socket, sys
addr, port = sys.argv[1], int(sys.argv[2])
six = ":" in addr
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
if six:
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.setsockopt(socket.IPPROTO_IPV6, 78, 1)
else:
    s.setsockopt(socket.IPPROTO_IP, 15, 1)
s.bind((addr, port))
while True:
    try:
        query, client = s.recvfrom(512)
        answer = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:] + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1"
        s.sendto(answer, client)
    except OSError:
        pass
"#;

const HTTP: &str = r#"
import http.server, socket, sys
addr = sys.argv[1]
class Server(http.server.HTTPServer):
    address_family = socket.AF_INET6 if ":" in addr else socket.AF_INET
    def server_bind(self):
        six = self.address_family == socket.AF_INET6
        self.socket.setsockopt(socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP, 78 if six else 15, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()
Server((addr, 80), Handler).serve_forever()
"#;

const ELSEWHERE: &str =
    "answers from its own address, not from the VIP: bind the service to the VIP";

/// How long the lab may need.
const PATIENCE: Duration = Duration::from_secs(20);
