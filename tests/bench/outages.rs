//! Outages of the way and of the router: from the end of the cause to the route in the router's FIB, and with
//! BFD from a host's death to the route gone.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidecast_lab::{
    Bird, BirdSession, Cable, Change, Frr, Routes, Sidecast, Site, VIP4, expect, until,
};

use super::{Figure, PATIENCE, address, millis};

/// Its rows of the table.
pub fn measure(runs: u32) -> Vec<Figure> {
    let mut carrier = Figure::new("link up to route, after 5 s without carrier", "ms");
    let mut reboot = Figure::new("router rebooted, its link up to route", "ms");
    let mut frozen = Figure::new("FRR frozen for 1 s with BFD, goes on to route back", "ms");
    for _ in 0..runs {
        link_up(&mut carrier);
        rebooted(&mut reboot);
    }
    thawed(runs, &mut frozen);
    let dead = DEAD.map(|(name, interval)| {
        let mut figure = Figure::new(name, "ms");
        for _ in 0..runs {
            host_dead(interval, &mut figure);
        }
        figure
    });
    [carrier, reboot, frozen].into_iter().chain(dead).collect()
}

const DEAD: [(&str, &str); 3] = [
    ("host dead to route gone, BFD at 10 ms", "10ms"),
    ("host dead to route gone, BFD at 50 ms", "50ms"),
    ("host dead to route gone, BFD at 300 ms", "300ms"),
];

/// The router's daemon stays and has seen the link go.
fn link_up(figure: &mut Figure) {
    let site = Site::new();
    let _router = Bird::router(&site.router, &[session(&site, PASSIVE)]);
    let (_sidecast, routes) = announced(&site, "");
    site.plug(&site.a, Cable::Out);
    pass(Duration::from_secs(5));
    routes.seen(address(VIP4));
    let begun = Instant::now();
    site.plug(&site.a, Cable::In);
    let at = routes.wait(Change::Added, address(VIP4), PATIENCE);
    figure.add(millis(at - begun));
}

/// Its power goes with the link; when the link comes it knows nothing, and its daemon is there.
fn rebooted(figure: &mut Figure) {
    let site = Site::new();
    let mut router = Bird::router(&site.router, &[session(&site, PASSIVE)]);
    let (_sidecast, routes) = announced(&site, "");
    site.plug(&site.a, Cable::Out);
    router.stop(Signal::SIGKILL);
    site.router
        .run("ss", &["-K", "dst", site.a.addresses.host4]);
    site.router.ip("route flush proto bird");
    pass(Duration::from_secs(2));
    router.start_again(&site.router);
    routes.seen(address(VIP4));
    let begun = Instant::now();
    site.plug(&site.a, Cable::In);
    let at = routes.wait(Change::Added, address(VIP4), PATIENCE);
    figure.add(millis(at - begun));
}

fn thawed(runs: u32, figure: &mut Figure) {
    let site = Site::new();
    let neighbor = site.a.addresses.host4;
    let bgp = format!(
        "router bgp 65000\n bgp router-id 10.255.0.1\n no bgp ebgp-requires-policy\n \
         neighbor {neighbor} remote-as 65001\n neighbor {neighbor} bfd profile lab\n"
    );
    let bfd = "bfd\n profile lab\n  transmit-interval 100\n  receive-interval 100\n";
    let router = Frr::start_with_bfd(&site.router, &bgp, bfd);
    let (mut sidecast, routes) = announced(&site, ", bfd: {interval: 100ms}");
    for _ in 0..runs {
        until(PATIENCE, "BFD is up", || {
            sidecast.must_run();
            let peers = router.ask("show bfd peers");
            expect(peers.contains("Status: up"), peers)
        });
        pass(Duration::from_secs(2));
        routes.seen(address(VIP4));
        router.signal(Signal::SIGSTOP);
        pass(Duration::from_secs(1));
        let begun = Instant::now();
        router.signal(Signal::SIGCONT);
        let at = routes.wait(Change::Added, address(VIP4), PATIENCE);
        figure.add(millis(at - begun));
    }
}

/// Stopped, not killed: a process that ends says so.
fn host_dead(interval: &str, figure: &mut Figure) {
    let site = Site::new();
    let bfd = format!(
        "protocol bfd {{ interface \"*\" {{ interval {}; multiplier 3; }}; }}",
        interval.replace("ms", " ms")
    );
    let _router = Bird::router_with(&site.router, &bfd, &[session(&site, "passive; bfd on;")]);
    let bfd = format!(", bfd: {{interval: {interval}}}");
    let (sidecast, routes) = announced(&site, &bfd);
    until(PATIENCE, "BFD is up", || {
        let log = sidecast.log();
        expect(log.contains("BFD up"), log)
    });
    pass(Duration::from_secs(2));
    let begun = Instant::now();
    sidecast.signal(Signal::SIGSTOP);
    let at = routes.wait(Change::Removed, address(VIP4), PATIENCE);
    figure.add(millis(at - begun));
}

/// It never connects by itself: what is measured is sidecast's alone.
fn session<'a>(site: &Site, options: &'a str) -> BirdSession<'a> {
    BirdSession {
        options,
        ..site.a.session("a")
    }
}

const PASSIVE: &str = "passive; error wait time 1, 1;";

fn announced(site: &Site, more: &str) -> (Sidecast, Routes) {
    let routes = Routes::listen(&site.router);
    let router = site.a.addresses.router4;
    let config = format!(
        "bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {router}{more}}}\n\
         apps: [{{name: dns, vip: {VIP4}/32}}]\n"
    );
    let sidecast = Sidecast::start(&site.a.network, &config);
    routes.wait(Change::Added, address(VIP4), PATIENCE);
    (sidecast, routes)
}

fn pass(time: Duration) {
    let begun = Instant::now();
    until(time + PATIENCE, "the time passes", || {
        expect(begun.elapsed() >= time, "not yet")
    });
}
