//! The main job on real input: a client, a router (BIRD, whose routes the kernel forwards by) and two
//! hosts announcing the same addresses. Where the client's packets end tells who announces.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use sidecast_lab::{
    Bird, BirdSession, Change, HostLink, Routes, Service, Sidecast, Site, Transport, VIP4, VIP6,
    ask_tcp, attribute, expect, until,
};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip"]:
        the_lab_itself_follows_whoever_announces,
        packets_follow_the_healthy_service,
        a_sidecar_without_a_file_announces_from_its_environment,
        a_service_that_never_lived_is_not_announced,
        the_first_ipv4_connection_that_follows_the_route_is_answered,
        the_first_ipv6_connection_that_follows_the_route_is_answered,
        the_router_sees_what_was_configured,
        an_app_is_announced_to_the_peers_that_it_names,
        an_ibgp_session_over_ipv6_carries_both_families,
        keepalives_hold_a_session_of_three_seconds;
}

/// The control: with BIRD in sidecast's place the client's packets go where they should, so what the
/// other tests see is sidecast's doing.
fn the_lab_itself_follows_whoever_announces() {
    let site = Site::new();
    let _services = (site.a.services(), site.b.services());
    let second = BirdSession {
        preference: 90,
        ..site.b.session("b")
    };
    let _router = Bird::router(&site.router, &[site.a.session("a"), second]);
    site.unanswered();
    let mut first = stand_in(&site.a);
    let _second = stand_in(&site.b);
    site.answered_by("a", PATIENCE);
    first.stop(Signal::SIGKILL);
    site.answered_by("b", PATIENCE);
    first.start_again(&site.a.network);
    site.answered_by("a", PATIENCE);
}

fn packets_follow_the_healthy_service() {
    let site = Site::new();
    let (mut tcp, mut udp) = site.a.services();
    let _others = site.b.services();
    let _router = Bird::router(&site.router, &[site.a.session("a"), site.b.session("b")]);
    let _a = Sidecast::start(&site.a.network, &site.a.config("", ""));
    site.answered_by("a", PATIENCE);
    // The longer path makes B the second choice while both announce.
    let _b = Sidecast::start(&site.b.network, &site.b.config("as_path_prepend: 2", ""));
    site.answered_by("a", PATIENCE);
    for service in [&mut tcp, &mut udp] {
        service.kill();
        site.answered_by("b", PATIENCE);
        service.restart(&site.a.network);
        site.answered_by("a", PATIENCE);
    }
}

/// Nothing but variables; the router is found as the default gateway.
fn a_sidecar_without_a_file_announces_from_its_environment() {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a"), site.a.session6("a6")]);
    let vips = format!("{VIP4}/32,{VIP6}/128");
    let _sidecast = Sidecast::launch(
        &site.a.network,
        &[],
        &[
            ("SIDECAST_BGP_LOCAL_AS", "65001"),
            ("SIDECAST_BGP_PEER_AS", "65000"),
            ("SIDECAST_APP_NAME", "dns"),
            ("SIDECAST_APP_VIP", &vips),
            ("SIDECAST_APP_MONITORS", "port:tcp:8000;port:udp:8001"),
            ("SIDECAST_APP_INTERVAL", "200ms"),
        ],
    );
    site.answered_by("a", PATIENCE);
}

fn a_service_that_never_lived_is_not_announced() {
    let site = Site::new();
    let _tcp = Service::start(&site.a.network, Transport::Tcp, Site::TCP_PORT);
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let mut sidecast = Sidecast::start(&site.a.network, &site.a.config("", ""));
    // The session does not wait for a healthy app.
    until(PATIENCE, "the session is up", || {
        sidecast.must_run();
        expect(router.established("a"), router.session("a"))
    });
    sidecast.wait_for_api(&site.a.network);
    until(PATIENCE, "the app is seen as down", || {
        let app = sidecast.app(&site.a.network, "dns");
        expect(app["state"] == "down", app)
    });
    assert_eq!(router.route(&format!("{VIP4}/32")), None);
    assert_eq!(router.route(&format!("{VIP6}/128")), None);
    assert_eq!(site.a.vips(), [""; 0], "an address without a service");
    site.unanswered();
    let _udp = Service::start(&site.a.network, Transport::Udp, Site::UDP_PORT);
    site.answered_by("a", PATIENCE);
}

fn the_first_ipv4_connection_that_follows_the_route_is_answered() {
    first_connection(VIP4, |host| host.addresses.host4);
}

/// The kernel acknowledges an IPv6 address before it accepts packets for it: the route in table local is
/// made by work it queues (`addrconf_dad_work`, also with nodad).
fn the_first_ipv6_connection_that_follows_the_route_is_answered() {
    first_connection(VIP6, |host| host.addresses.host6);
}

/// An address announced too early costs the first clients their connection.
fn first_connection(vip: &str, own: fn(&HostLink) -> &'static str) {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    // A link that just came up needs a second for IPv6; that is the lab's, not sidecast's.
    let own = own(&site.a).parse().expect("an address");
    until(PATIENCE, "the path is warm", || {
        ask_tcp(&site.client, SocketAddr::new(own, Site::TCP_PORT))
    });
    let routes = Routes::listen(&site.router);
    let _sidecast = Sidecast::start(&site.a.network, &site.a.config("", ""));
    let vip = vip.parse().expect("an address");
    routes.wait(Change::Added, vip, PATIENCE);
    let answer = ask_tcp(&site.client, SocketAddr::new(vip, Site::TCP_PORT));
    let answer = answer.unwrap_or_else(|error| format!("{error}"));
    assert_eq!(answer, "a", "the first connection to {vip}");
}

/// Two BIRDs: the default gateway, and one on host B's side of it.
fn an_app_is_announced_to_the_peers_that_it_names() {
    let site = Site::new();
    let host = &site.a.network;
    let _services = site.a.services();
    let near = Bird::router(&site.router, &[site.a.session("a")]);
    let far = BirdSession {
        local: site.b.addresses.host4.parse().expect("an address"),
        options: "multihop;",
        ..site.a.session("a")
    };
    let mut far = Bird::router(&site.b.network, &[far]);
    let [one, two] = [site.a.addresses.router4, site.b.addresses.host4];
    let config = |peers: &str| {
        format!(
            "agent: {{listen_addr: \"127.0.0.1:8179\"}}\n\
             bgp: {{local_as: 65001, peer_as: 65000, peer_ip: [{peers}]}}\n\
             apps:\n  - {{name: one, vip: 192.0.2.1/32, monitors: [\"port:tcp:8000\"], interval: 200ms, peers: [{one}]}}\n  \
             - {{name: all, vip: 192.0.2.2/32, monitors: [\"port:tcp:8000\"], interval: 200ms}}\n"
        )
    };
    let mut sidecast = Sidecast::start(host, &config(&format!("{one}, {two}")));
    sidecast.wait_for_api(host);
    let register = |peers: &str| {
        let path =
            format!("/register?name=two&vip=192.0.2.3/32&monitor=port:tcp:8000&peers={peers}");
        sidecast.get(host, &path)
    };
    assert_eq!(register(two).status, 200);
    let stranger = register("10.9.9.9");
    let why =
        format!("Invalid request: peers: 10.9.9.9: is no peer of ours; those are {one}, {two}\n");
    assert_eq!((stranger.status, stranger.body), (400, why));
    let has = |router: &Bird| {
        let vips = ["192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32"];
        vips.map(|vip| router.route(vip).is_some())
    };
    let both = [(&near, [true, true, false]), (&far, [false, true, true])];
    for (router, wanted) in both {
        until(PATIENCE, "each router has what is for it", || {
            expect(has(router) == wanted, format!("{:?}", has(router)))
        });
    }
    until(PATIENCE, "all is well", || {
        let verdict = sidecast.get(host, "/verdict").json();
        expect(verdict["verdict"] == "ok", verdict)
    });
    // Only those that are for the router that is away lack anything.
    far.stop(Signal::SIGKILL);
    let verdicts = |name: &str| sidecast.app(host, name)["verdict"].clone();
    until(PATIENCE, "the verdicts follow", || {
        let all = ["one", "all", "two"].map(verdicts);
        expect(all == ["ok", "degraded", "failing"], format!("{all:?}"))
    });
    let app = sidecast.app(host, "one");
    assert_eq!(app["peers"], serde_json::json!([one]), "{app}");
    // Without that peer in the configuration the app that HTTP registered for it can be announced to nobody.
    Sidecast::write(host, &config(one));
    sidecast.signal(Signal::SIGHUP);
    until(PATIENCE, "the app that names it is refused", || {
        let app = sidecast.app(host, "two");
        let why = format!("peers: {two}: is no peer of ours; those are {one}");
        expect(app["state"] == "invalid" && app["why"] == why, app)
    });
    assert_eq!(has(&near), [true, true, false]);
}

fn the_router_sees_what_was_configured() {
    let site = Site::new();
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let _sidecast = Sidecast::start(
        &site.a.network,
        &site.a.config(
            "communities: [\"65001:100\"]\nlarge_communities: [\"65001:1:2\"]\norigin: incomplete",
            "vip_config: {bgp_communities: [\"65001:53\", no-export], med: 77, as_path_prepend: 1}",
        ),
    );
    for (vip, next_hop) in [
        (format!("{VIP4}/32"), site.a.addresses.host4),
        (format!("{VIP6}/128"), site.a.addresses.host6),
    ] {
        let route = until(PATIENCE, "the route arrives", || {
            router.route(&vip).ok_or_else(|| router.session("a"))
        });
        let of = |name| attribute(&route, name).unwrap_or_default();
        assert_eq!(of("BGP.as_path"), "65001 65001", "{route}");
        assert_eq!(of("BGP.origin"), "Incomplete", "{route}");
        assert_eq!(of("BGP.med"), "77", "{route}");
        assert_eq!(of("BGP.large_community"), "(65001, 1, 2)", "{route}");
        assert!(of("BGP.next_hop").starts_with(next_hop), "{route}");
        for community in ["(65001,100)", "(65001,53)", "(65535,65281)"] {
            assert!(of("BGP.community").contains(community), "{route}");
        }
    }
}

fn an_ibgp_session_over_ipv6_carries_both_families() {
    let site = Site::new();
    let _services = site.a.services();
    let session = BirdSession {
        peer_as: 65000,
        ..site.a.session6("a")
    };
    let router = Bird::router(&site.router, &[session]);
    let config = format!(
        "bgp: {{local_as: 65000, peer_as: 65000, peer_ip: \"{}\"}}\n\
         apps: [{{name: dns, vips: [{VIP4}/32, \"{VIP6}/128\"], monitors: {}, interval: 200ms, \
         vip_config: {{local_pref: 150}}}}]\n",
        site.a.addresses.router6,
        Site::MONITORS,
    );
    let _sidecast = Sidecast::start(&site.a.network, &config);
    site.answered_by("a", PATIENCE);
    for (vip, next_hop) in [
        (format!("{VIP4}/32"), site.a.addresses.host4),
        (format!("{VIP6}/128"), site.a.addresses.host6),
    ] {
        let route = router.route(&vip).expect("packets follow it");
        let of = |name| attribute(&route, name).unwrap_or_default();
        assert_eq!(of("BGP.as_path"), "", "{route}");
        assert_eq!(of("BGP.local_pref"), "150", "{route}");
        assert!(of("BGP.next_hop").starts_with(next_hop), "{route}");
    }
}

fn keepalives_hold_a_session_of_three_seconds() {
    let site = Site::new();
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let _sidecast = Sidecast::start(&site.a.network, &site.a.config("hold_time: 3s", ""));
    site.answered_by("a", PATIENCE);
    let session = router.session("a");
    assert!(
        session.contains("/3"),
        "a hold time of three seconds: {session}"
    );
    // BIRD counts back from the clock, and on a busy machine a moment comes and goes. Another session would be nine seconds
    // younger, or three at least.
    let since = |text: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with("a "));
        let time = line.and_then(|line| line.split_whitespace().find(|word| word.contains(':')));
        let parts = time.into_iter().flat_map(|time| time.split(':'));
        parts.fold(0.0, |sum, part| {
            sum * 60.0 + part.parse::<f64>().expect("a time")
        })
    };
    let begun = std::time::Instant::now();
    until(PATIENCE, "three hold times pass", || {
        expect(router.established("a"), "down").expect("the session stays");
        expect(begun.elapsed() > Duration::from_secs(9), "not yet")
    });
    let (now, then) = (since(&router.session("a")), since(&session));
    assert!(then > 0.0, "{session}");
    assert!(
        (now - then).abs() < 2.0,
        "the very same session: {then} {now}"
    );
}

/// A BIRD on the host that announces the VIPs unconditionally.
fn stand_in(host: &HostLink) -> Bird {
    for vip in [format!("{VIP4}/32"), format!("{VIP6}/128")] {
        host.network.ip(&format!("addr replace {vip} dev lo"));
    }
    let (local, neighbor) = (host.addresses.host4, host.addresses.router4);
    Bird::start(
        &host.network,
        &format!(
            "log stderr all; router id {local};
             protocol device {{ }}
             protocol static {{ ipv4; route {VIP4}/32 blackhole; }}
             protocol static {{ ipv6; route {VIP6}/128 blackhole; }}
             protocol bgp up {{
               local {local} as 65001; neighbor {neighbor} as 65000; connect delay time 1;
               ipv4 {{ import none; export all; }};
               ipv6 {{ import none; export all; }};
             }}"
        ),
    )
}

/// How long the client may have to wait for the right host: far more than sidecast should need, since
/// these tests are about where packets go. The bench measures how soon.
const PATIENCE: Duration = Duration::from_secs(20);
