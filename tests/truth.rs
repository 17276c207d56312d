//! Nothing looks well that is not announced: in each of these situations the verdict is asked of every surface at
//! once, the page, `status` and its exit code, `/readyz`, `/verdict`, `/apps`, the metrics, systemd's STATUS and the
//! log, and the router itself.

use std::cell::RefCell;
use std::fs;
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use serde_json::Value;
use sidecast_lab::{
    Bird, BirdSession, Cable, Frr, Namespace, Service, Sidecast, Site, Transport, VIP4, VIP6,
    binary, expect, until,
};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip"]:
        a_host_without_an_address_says_so_and_recovers,
        a_host_without_a_default_gateway_says_so,
        an_unnumbered_link_without_a_router_says_so,
        a_written_peer_without_a_route_says_so,
        a_cable_without_carrier_and_an_interface_that_is_down_say_so,
        two_peers_of_which_one_refuses_are_degraded,
        a_peer_with_another_as_is_shown_with_its_refusal_while_it_closes_connections,
        a_bfd_session_that_is_down_says_so,
        a_consul_that_is_away_is_degraded,
        a_reload_that_failed_is_degraded,
        an_invalid_vip_beside_an_announced_one_is_degraded,
        an_app_that_is_held_down_is_degraded,
        an_app_that_is_pending_for_long_is_degraded,
        a_drain_says_who_asked_and_when,
        a_last_resort_is_failing_and_served,
        what_is_announced_is_shown_as_the_router_has_it;
    needs ["vtysh", "ip"]:
        two_families_of_which_the_session_carries_one_are_degraded;
}

/// A sidecast whose manager listens.
struct Watched {
    sidecast: Sidecast,
    manager: UnixDatagram,
    /// The last STATUS (sd_notify(3)).
    status: RefCell<String>,
}

impl Watched {
    #[track_caller]
    fn start(host: &Namespace, config: &str) -> Self {
        let config = Sidecast::write(host, config);
        let path = config.with_file_name("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        manager.set_nonblocking(true).expect("it never blocks");
        let (config, path) = (config.to_string_lossy(), path.to_string_lossy());
        let env = [("NOTIFY_SOCKET", &*path)];
        Self {
            sidecast: Sidecast::launch(host, &["run", "--config", &config], &env),
            manager,
            status: RefCell::default(),
        }
    }

    /// The last STATUS that the manager was sent.
    fn status(&self) -> String {
        let mut datagram = [0; 2048];
        while let Ok(length) = self.manager.recv(&mut datagram) {
            let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
            let mut lines = text.lines();
            if let Some(line) = lines.find_map(|line| line.strip_prefix("STATUS=")) {
                line.clone_into(&mut self.status.borrow_mut());
            }
        }
        self.status.borrow().clone()
    }
}

impl Deref for Watched {
    type Target = Sidecast;

    fn deref(&self) -> &Sidecast {
        &self.sidecast
    }
}

impl DerefMut for Watched {
    fn deref_mut(&mut self) -> &mut Sidecast {
        &mut self.sidecast
    }
}

/// What the operator is to read everywhere.
struct Told<'a> {
    verdict: &'a str,
    /// In the line, on the page and in what `status` prints.
    says: &'a str,
    /// In the log; empty: the same.
    logs: &'a str,
    conditions: &'a [&'a str],
}

impl Told<'_> {
    /// Nothing is wrong.
    const WELL: Told<'static> = Told {
        verdict: "ok",
        says: "1 of 1 apps up, 1 of 1 sessions established",
        logs: "established",
        conditions: &[],
    };
}

/// All surfaces say the same, and in the end.
#[track_caller]
fn everywhere(sidecast: &mut Watched, site: &Site, told: &Told<'_>) {
    sidecast.wait_for_api(&site.a.network);
    until(PATIENCE, "every surface says so", || {
        look(sidecast, site, told)
    });
}

fn look(sidecast: &Watched, site: &Site, told: &Told<'_>) -> Result<(), String> {
    let host = &site.a.network;
    let Told {
        verdict,
        says,
        logs,
        conditions,
    } = told;
    let whole = sidecast.get(host, "/verdict").json();
    expect(whole["verdict"] == *verdict, &whole)?;
    let mut all = vec![whole["line"].as_str().unwrap_or_default().to_owned()];
    let reasons = whole["reasons"].as_array().into_iter().flatten();
    all.extend(reasons.filter_map(|reason| Some(reason["text"].as_str()?.to_owned())));
    expect(all.iter().any(|text| text.contains(says)), &whole)?;
    let ready = sidecast.get(host, "/readyz").body;
    let second = ready.lines().nth(1).unwrap_or_default().to_owned();
    expect(second.starts_with(verdict), ready)?;
    let status = host.enter(|| std::process::Command::new(binary()).arg("status").output());
    let status = status.map_err(|error| error.to_string())?;
    let printed = String::from_utf8_lossy(&status.stdout).into_owned();
    let first = printed.lines().next().unwrap_or_default();
    expect(first.starts_with(verdict), &printed)?;
    expect(printed.contains(says), &printed)?;
    let code = i32::from(*verdict != "ok");
    expect(status.status.code() == Some(code), status.status)?;
    let metrics = sidecast.get(host, "/metrics").body;
    let ok = format!("sidecast_ok {}", u8::from(*verdict == "ok"));
    expect(metrics.lines().any(|line| line == ok), &metrics)?;
    let set = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix("sidecast_condition{reason=\"")?;
        Some(rest.strip_suffix("\"} 1")?.to_owned())
    });
    let set: Vec<String> = set.collect();
    expect(set == *conditions, format!("{set:?}"))?;
    let apps = sidecast.get(host, "/apps").head;
    expect(
        apps.contains(&format!("Sidecast-Verdict: {verdict}")),
        &apps,
    )?;
    let page = sidecast.get(host, "/").body;
    let shown = page.split("<p id=verdict").nth(1).unwrap_or_default();
    let shown = shown.split("</p>").next().unwrap_or_default();
    expect(shown.contains(&format!("{verdict}: ")), shown)?;
    expect(page.contains(says), &page)?;
    let managed = sidecast.status();
    expect(managed.starts_with(&format!("{verdict}: ")), managed)?;
    let logs = if logs.is_empty() { says } else { logs };
    expect(sidecast.log().contains(logs), sidecast.log())
}

#[track_caller]
fn sample(sidecast: &Sidecast, site: &Site, line: &str) {
    let metrics = sidecast.get(&site.a.network, "/metrics").body;
    assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
}

/// One app, with the peers as written.
fn config(peer_ip: &str, vips: &str) -> String {
    format!(
        "bgp: {{local_as: 65001, peer_as: 65000{peer_ip}}}\n\
         apps: [{{name: dns, vips: [{vips}], monitors: [\"port:tcp:8000\"], interval: 200ms}}]\n"
    )
}

fn service(site: &Site) -> Service {
    Service::start(&site.a.network, Transport::Tcp, Site::TCP_PORT)
}

fn a_host_without_an_address_says_so_and_recovers() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    host.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1");
    host.ip("addr flush dev eth0");
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let peer = site.a.addresses.router4;
    let vips = format!("{VIP4}/32");
    let mut sidecast = Watched::start(host, &config(&format!(", peer_ip: {peer}"), &vips));
    let told = Told {
        verdict: "failing",
        says: &format!("peer {peer}: idle: no router ID: this host has no address yet"),
        logs: "",
        conditions: &["not_announced", "peer_down"],
    };
    everywhere(&mut sidecast, &site, &told);
    sample(
        &sidecast,
        &site,
        &format!("sidecast_bgp_session_up{{peer=\"{peer}\"}} 0"),
    );
    sample(
        &sidecast,
        &site,
        &format!("sidecast_bgp_session_state{{peer=\"{peer}\"}} 1"),
    );
    host.ip(&format!("addr add {}/24 dev eth0", site.a.addresses.host4));
    everywhere(&mut sidecast, &site, &Told::WELL);
    assert!(router.route(&vips).is_some());
}

fn a_host_without_a_default_gateway_says_so() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    host.ip("route del default");
    host.ip("-6 route del default");
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let mut sidecast = Watched::start(host, &config("", &format!("{VIP4}/32")));
    let told = Told {
        verdict: "failing",
        says: "no default gateway, and no peer_ip is set",
        logs: "",
        conditions: &["not_announced", "no_peer"],
    };
    everywhere(&mut sidecast, &site, &told);
}

fn an_unnumbered_link_without_a_router_says_so() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    host.ip("-6 route del default");
    let mut sidecast = Watched::start(host, &config(", peer_ip: \"%eth0\"", &format!("{VIP4}/32")));
    let told = Told {
        verdict: "failing",
        says: "peer %eth0: idle: no router answers on eth0",
        logs: "",
        conditions: &["not_announced", "peer_down"],
    };
    everywhere(&mut sidecast, &site, &told);
    sample(
        &sidecast,
        &site,
        "sidecast_bgp_session_state{peer=\"%eth0\"} 1",
    );
}

fn a_written_peer_without_a_route_says_so() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    host.ip("route del default");
    let mut sidecast = Watched::start(host, &config(", peer_ip: 10.77.1.2", &format!("{VIP4}/32")));
    let told = Told {
        verdict: "failing",
        says: "peer 10.77.1.2: idle: no route to 10.77.1.2",
        logs: "",
        conditions: &["not_announced", "peer_down"],
    };
    everywhere(&mut sidecast, &site, &told);
    host.ip("link set eth0 down");
    let down = Told {
        says: "peer 10.77.1.2: idle: no route to 10.77.1.2",
        ..told
    };
    everywhere(&mut sidecast, &site, &down);
}

fn two_families_of_which_the_session_carries_one_are_degraded() {
    let site = Site::new();
    let _service = service(&site);
    let bgpd = format!(
        "router bgp 65000\n bgp router-id 10.255.0.1\n no bgp ebgp-requires-policy\n neighbor {0} remote-as 65001\n \
         address-family ipv4 unicast\n  neighbor {0} activate\n exit-address-family\n",
        site.a.addresses.host4
    );
    let router = Frr::start(&site.router, &bgpd);
    let peer = site.a.addresses.router4;
    let vips = format!("{VIP4}/32, \"{VIP6}/128\"");
    let mut sidecast = Watched::start(
        &site.a.network,
        &config(&format!(", peer_ip: {peer}"), &vips),
    );
    let told = Told {
        verdict: "degraded",
        says: &format!(
            "{VIP6}/128 of app dns is not announced to {peer}: the session does not carry ipv6"
        ),
        logs: "the session lacks their address family",
        conditions: &["family"],
    };
    everywhere(&mut sidecast, &site, &told);
    assert_eq!(router.paths(&format!("{VIP4}/32")).len(), 1);
    assert_eq!(router.paths(&format!("{VIP6}/128")).len(), 0);
    let app = sidecast.app(&site.a.network, "dns");
    assert_eq!(app["verdict"], "degraded", "{app}");
    let ready = sidecast.get(&site.a.network, "/readyz");
    assert_eq!(ready.status, 200, "one announced VIP makes an app ready");
}

fn a_cable_without_carrier_and_an_interface_that_is_down_say_so() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let peer = site.a.addresses.router4;
    let vip = format!("{VIP4}/32");
    let mut sidecast = Watched::start(host, &config(&format!(", peer_ip: {peer}"), &vip));
    everywhere(&mut sidecast, &site, &Told::WELL);
    site.plug(&site.a, Cable::Out);
    let told = Told {
        verdict: "degraded",
        says: &format!("peer {peer}: eth0 has no carrier"),
        logs: "",
        conditions: &["no_carrier"],
    };
    everywhere(&mut sidecast, &site, &told);
    site.plug(&site.a, Cable::In);
    everywhere(&mut sidecast, &site, &Told::WELL);
    assert!(router.route(&vip).is_some());
    host.ip("link set eth0 down");
    // The session lasts until its hold timer expires, and so do the routes at the router.
    let told = Told {
        verdict: "degraded",
        says: &format!("peer {peer}: eth0 is down"),
        logs: "",
        conditions: &["no_carrier"],
    };
    everywhere(&mut sidecast, &site, &told);
}

fn two_peers_of_which_one_refuses_are_degraded() {
    let site = Site::new();
    let _service = service(&site);
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let [one, two] = [site.a.addresses.router4, site.b.addresses.host4];
    let vip = format!("{VIP4}/32");
    let config = config(&format!(", peer_ip: [{one}, {two}]"), &vip);
    let mut sidecast = Watched::start(&site.a.network, &config);
    let told = Told {
        verdict: "degraded",
        says: &format!(
            "{vip} of app dns is not announced to {two}: the session is not established"
        ),
        logs: &format!("peer {two}: connection failed: "),
        conditions: &["peer_down", "some_peers"],
    };
    everywhere(&mut sidecast, &site, &told);
    assert!(router.route(&vip).is_some());
}

/// BIRD refuses our AS once by a NOTIFICATION, and then closes connections without one for its error wait time.
fn a_peer_with_another_as_is_shown_with_its_refusal_while_it_closes_connections() {
    let site = Site::new();
    let _service = service(&site);
    let mut session = site.a.session("a");
    session.peer_as = 65099;
    session.options = "error wait time 120, 300;";
    let _router = Bird::router(&site.router, &[session]);
    let vip = format!("{VIP4}/32");
    let config = config(&format!(", peer_ip: {}", site.a.addresses.router4), &vip);
    let mut sidecast = Watched::start(&site.a.network, &config);
    let refusal = "received NOTIFICATION OPEN Message Error / Bad Peer AS (2/2)";
    // The connection was closed, or reset where our OPEN was not read.
    let why = format!("; before that: {refusal}");
    let told = Told {
        verdict: "failing",
        says: &why,
        logs: refusal,
        conditions: &["not_announced", "peer_down"],
    };
    everywhere(&mut sidecast, &site, &told);
    let info = sidecast.get(&site.a.network, "/info").body;
    assert!(info.contains(&why), "{info}");
    // The third connection that it closes is logged, at about 7 s.
    until(
        3 * PATIENCE,
        "the log names the refusal, not an unknown neighbor",
        || expect(sidecast.log().contains(&why), sidecast.log()),
    );
    assert!(!sidecast.log().contains("no such neighbor"));
}

fn a_bfd_session_that_is_down_says_so() {
    let site = Site::new();
    let _service = service(&site);
    let session = BirdSession {
        options: "bfd on; error wait time 1, 1;",
        ..site.a.session("a")
    };
    let bfd = "protocol bfd { interface \"*\" { multiplier 3; }; }";
    let router = Bird::router_with(&site.router, bfd, &[session]);
    let peer = site.a.addresses.router4;
    let vip = format!("{VIP4}/32");
    let config = config(&format!(", peer_ip: {peer}, bfd: true"), &vip);
    let mut sidecast = Watched::start(&site.a.network, &config);
    everywhere(&mut sidecast, &site, &Told::WELL);
    until(PATIENCE, "BFD is up", || {
        let metrics = sidecast.get(&site.a.network, "/metrics").body;
        let up = format!("sidecast_bfd_session_up{{peer=\"{peer}\"}} 1");
        expect(metrics.lines().any(|line| line == up), metrics)
    });
    site.silence(&site.a, Cable::Out);
    let told = Told {
        verdict: "failing",
        says: &format!("{vip} of app dns is announced to no peer: peer {peer}: "),
        logs: "BFD",
        conditions: &["not_announced", "peer_down"],
    };
    everywhere(&mut sidecast, &site, &told);
    let page = sidecast.get(&site.a.network, "/").body;
    assert!(page.contains("BFD down"), "{page}");
    let events = sidecast.get(&site.a.network, "/events").json();
    let events = events.as_array().cloned().unwrap_or_default();
    let is = |kind: &str, to: &str| events.iter().any(|e| e["kind"] == kind && e["to"] == to);
    assert!(is("bfd", "down") && is("session", "down"), "{events:?}");
    site.silence(&site.a, Cable::In);
    everywhere(&mut sidecast, &site, &Told::WELL);
    assert!(router.route(&vip).is_some());
}

fn a_consul_that_is_away_is_degraded() {
    let site = Site::new();
    let _service = service(&site);
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let vip = format!("{VIP4}/32");
    let config = config(&format!(", peer_ip: {}", site.a.addresses.router4), &vip);
    let agent = "agent: {consul_addr: \"http://127.0.0.1:8500\"}\n";
    let mut sidecast = Watched::start(&site.a.network, &format!("{agent}{config}"));
    let told = Told {
        verdict: "degraded",
        says: "Consul does not answer: its last answer holds",
        logs: "failed: ",
        conditions: &["consul"],
    };
    everywhere(&mut sidecast, &site, &told);
    assert!(router.route(&vip).is_some());
}

fn a_reload_that_failed_is_degraded() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let vip = format!("{VIP4}/32");
    let config = config(&format!(", peer_ip: {}", site.a.addresses.router4), &vip);
    let mut sidecast = Watched::start(host, &config);
    everywhere(&mut sidecast, &site, &Told::WELL);
    Sidecast::write(host, "bgp: {local_as: [}");
    sidecast.signal(Signal::SIGHUP);
    let told = Told {
        verdict: "degraded",
        says: "the last reload failed: the configuration before it holds",
        logs: "reload: nothing was changed: ",
        conditions: &["reload"],
    };
    everywhere(&mut sidecast, &site, &told);
    assert!(router.route(&vip).is_some());
    Sidecast::write(host, &config);
    sidecast.signal(Signal::SIGHUP);
    everywhere(&mut sidecast, &site, &Told::WELL);
}

/// The second VIP is an address of the host itself, which only the kernel's tables tell.
fn an_invalid_vip_beside_an_announced_one_is_degraded() {
    let site = Site::new();
    let _service = service(&site);
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let [peer, own] = [site.a.addresses.router4, site.a.addresses.host4];
    let vip = format!("{VIP4}/32");
    let config = config(&format!(", peer_ip: {peer}"), &format!("{vip}, {own}/32"));
    let mut sidecast = Watched::start(&site.a.network, &config);
    let told = Told {
        verdict: "degraded",
        says: &format!("own address {own} and would cut the host off"),
        logs: "",
        conditions: &["app_invalid"],
    };
    everywhere(&mut sidecast, &site, &told);
    assert!(router.route(&vip).is_some());
}

/// Whether the app is healthy is said by a file.
fn gated(site: &Site, more: &str) -> (String, std::path::PathBuf) {
    let passes = site.lab.dir().join("passes");
    let config = config(
        &format!(", peer_ip: {}", site.a.addresses.router4),
        &format!("{VIP4}/32"),
    );
    // A shell takes its time on a busy machine.
    let monitors = format!(
        "[\"exec:test -e {}\"], timeout: 10s{more}",
        passes.display()
    );
    (config.replace("[\"port:tcp:8000\"]", &monitors), passes)
}

fn set(passes: &Path, up: bool) {
    match up {
        true => fs::write(passes, "").expect("the lab's folder takes it"),
        false => fs::remove_file(passes).expect("it is there"),
    }
}

fn an_app_that_is_held_down_is_degraded() {
    let site = Site::new();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let (config, passes) = gated(&site, ", hold_down: 30s, flap_limit: \"1/60s\"");
    set(&passes, true);
    let mut sidecast = Watched::start(&site.a.network, &config);
    let vip = format!("{VIP4}/32");
    let mut is = |announced: bool| {
        sidecast.must_run();
        until(PATIENCE, "the router follows", || {
            expect(
                router.route(&vip).is_some() == announced,
                router.route(&vip).unwrap_or_default(),
            )
        });
    };
    is(true);
    for round in 0..2 {
        set(&passes, false);
        is(false);
        set(&passes, true);
        if round == 0 {
            is(true);
        }
    }
    let told = Told {
        verdict: "degraded",
        says: "app dns is held down: announced again once within the window of flap_limit",
        logs: "-> held_down: announced again once within the window of flap_limit",
        conditions: &["held_down"],
    };
    everywhere(&mut sidecast, &site, &told);
    assert_eq!(router.route(&vip), None);
    let app = sidecast.app(&site.a.network, "dns");
    assert!(app["held_for"].as_f64() > Some(0.0), "{app}");
}

fn an_app_that_is_pending_for_long_is_degraded() {
    let site = Site::new();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let (config, _) = gated(&site, "");
    let config = config.replace("exec:test -e", "exec:sleep 60; test -e");
    let config = config.replace("timeout: 10s", "timeout: 90s");
    let mut sidecast = Watched::start(&site.a.network, &config);
    let told = Told {
        verdict: "degraded",
        says: "app dns is pending for ",
        logs: "app dns: registered by config",
        conditions: &["app_pending"],
    };
    everywhere(&mut sidecast, &site, &told);
    assert_eq!(router.route(&format!("{VIP4}/32")), None);
    let ready = sidecast.get(&site.a.network, "/readyz");
    assert_eq!(ready.status, 503, "it was never announced");
}

/// By HTTP, by our own command, and by the maintenance file; nothing of it is a fault.
fn a_drain_says_who_asked_and_when() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let file = site.lab.dir().join("maintenance");
    let config = config(
        &format!(", peer_ip: {}", site.a.addresses.router4),
        &format!("{VIP4}/32"),
    );
    let more = format!(
        "interval: 200ms, drain_time: 0, maintenance_file: {}",
        file.display()
    );
    let mut sidecast = Watched::start(host, &config.replace("interval: 200ms", &more));
    everywhere(&mut sidecast, &site, &Told::WELL);
    let told = |says: &str, aside: &str, logs: &str| {
        let line = format!("0 of 1 apps up, 1 of 1 sessions established; {aside}: dns");
        let told = Told {
            verdict: "ok",
            says: &line,
            logs,
            conditions: &[],
        };
        until(PATIENCE, "every surface says so", || {
            look(&sidecast, &site, &told)?;
            let drain = sidecast.app(host, "dns")["drain"].clone();
            expect(drain["by"] == says, &drain)?;
            let printed = host.run(&binary(), &["status"]);
            let since = text(&drain["since"]);
            expect(printed.contains(&format!("since {since}")), &printed)?;
            let page = sidecast.get(host, "/").body;
            expect(
                page.contains(&format!("requested by <bdi>{says}</bdi>")),
                &page,
            )
        });
    };
    assert_eq!(sidecast.get(host, "/drain?name=dns").status, 200);
    told(
        "HTTP from this host",
        "drained",
        "requested by HTTP from this host",
    );
    host.run(&binary(), &["undrain", "dns"]);
    host.run(&binary(), &["drain", "dns"]);
    let command = "the sidecast command from this host";
    told(command, "drained", &format!("requested by {command}"));
    host.run(&binary(), &["undrain", "dns"]);
    set(&file, true);
    let by = format!("maintenance file {}", file.display());
    told(&by, "in maintenance", "maintenance file exists");
    set(&file, false);
    everywhere(&mut sidecast, &site, &Told::WELL);
}

fn a_last_resort_is_failing_and_served() {
    let site = Site::new();
    let mut service = service(&site);
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let passes = site.lab.dir().join("passes");
    std::fs::write(&passes, "").expect("the lab's folder takes it");
    let vip = format!("{VIP4}/32");
    let exec = format!("[\"port:tcp:8000\", \"exec:test -e {}\"]", passes.display());
    let config = config(&format!(", peer_ip: {}", site.a.addresses.router4), &vip);
    let config = config.replace(
        "[\"port:tcp:8000\"]",
        &format!("{exec}, timeout: 10s, vip_config: {{when_down: last_resort}}"),
    );
    let mut sidecast = Watched::start(&site.a.network, &config);
    everywhere(&mut sidecast, &site, &Told::WELL);
    sample(&sidecast, &site, "sidecast_last_resort{app=\"dns\"} 0");
    std::fs::remove_file(&passes).expect("it is there");
    let told = Told {
        verdict: "failing",
        says: "announced as last resort",
        logs: "",
        conditions: &["last_resort"],
    };
    everywhere(&mut sidecast, &site, &told);
    sample(&sidecast, &site, "sidecast_last_resort{app=\"dns\"} 1");
    let route = router.route(&vip).unwrap_or_default();
    assert!(route.contains("(65535,0)"), "{route}");
    let ready = sidecast.get(&site.a.network, "/readyz");
    assert_eq!(ready.status, 200, "it was announced, and is");
    let app = sidecast.app(&site.a.network, "dns");
    assert_eq!(app["reasons"][0]["condition"], "last_resort", "{app}");
    let since = text(&app["last_resort_since"]);
    let status = site
        .a
        .network
        .run("sh", &["-c", &format!("{} status || true", binary())]);
    assert!(
        status.contains(&format!("last resort since {since}")),
        "{since}: {status}"
    );
    let events = sidecast.get(&site.a.network, "/events").json();
    let events = events.as_array().cloned().unwrap_or_default();
    let last = events.last().cloned().unwrap_or_default();
    assert_eq!(last["last_resort"], true, "{last}");
    service.kill();
    let dead = Told {
        verdict: "failing",
        says: "port:tcp:8000: fail: nothing",
        logs: "",
        conditions: &["app_down"],
    };
    everywhere(&mut sidecast, &site, &dead);
    assert_eq!(router.route(&vip), None);
}

fn what_is_announced_is_shown_as_the_router_has_it() {
    let site = Site::new();
    let _service = service(&site);
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let peer = site.a.addresses.router4;
    let more = format!(
        ", peer_ip: {peer}, med: 70, as_path_prepend: 1, communities: [\"65001:100\"], \
         large_communities: [\"65001:1:2\"], ext_communities: [\"rt:65001:1\"]"
    );
    let prefix = format!("{VIP4}/32");
    let mut sidecast = Sidecast::start(&site.a.network, &config(&more, &prefix));
    sidecast.wait_for_api(&site.a.network);
    let shown = until(PATIENCE, "the route is shown, and acknowledged", || {
        let app = sidecast.app(&site.a.network, "dns");
        let route = app.pointer("/vip_status/0/routes/0");
        let route = route.filter(|route| route["acknowledged"] == true);
        route.cloned().ok_or(app.to_string())
    });
    let heard = router.route(&prefix).expect("it is there");
    let has = |name: &str| sidecast_lab::attribute(&heard, name).unwrap_or_default();
    assert_eq!(text(&shown["as_path"]), has("BGP.as_path"));
    assert_eq!(text(&shown["next_hop"]), has("BGP.next_hop"));
    assert_eq!(shown["med"].to_string(), has("BGP.med"));
    assert_eq!(shown["origin"], "igp", "{heard}");
    assert_eq!(shown["communities"][0], "65001:100", "{heard}");
    assert!(has("BGP.community").contains("(65001,100)"), "{heard}");
    assert_eq!(shown["large_communities"][0], "65001:1:2", "{heard}");
    assert_eq!(shown["peer"], peer);
    assert_eq!(shown["local_pref"], Value::Null, "eBGP has none");
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

const PATIENCE: Duration = Duration::from_secs(20);
