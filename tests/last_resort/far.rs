//! Where routers rank: a healthy site that is further away, with and without the import policy of the examples, and a
//! route reflector between us and the rest of the AS.

use sidecast_lab::{Bird, Sidecast, Site, VIP4, attribute, expect, until};

use super::{
    Check, HONORS, PATIENCE, Running, bird_with_filter, sick_beside_a_far_site, start, wait_for,
};

/// Sixteen AS hops away: further than ours with its prepends.
pub fn an_import_policy_that_honors_graceful_shutdown_outweighs_a_long_path() {
    answered_by("b", 16, HONORS);
}

pub fn without_that_policy_a_long_healthy_path_loses() {
    answered_by("a", 16, "");
}

/// Ours is eleven long, so that six need no policy.
pub fn a_healthy_site_six_hops_away_wins_also_without_the_policy() {
    answered_by("b", 5, "");
}

pub fn six_hops_away_an_import_local_preference_needs_the_policy() {
    const PREFERS_A: &str = "if proto = \"a\" then bgp_local_pref = 200;";
    answered_by("a", 5, PREFERS_A);
    answered_by("b", 5, &format!("{PREFERS_A} {HONORS}"));
}

fn answered_by(name: &str, prepends: usize, filter: &str) {
    let site = Site::new();
    let (a, b) = (site.a.session("a"), site.b.session("b"));
    let _router = Bird::start(&site.router, &bird_with_filter(&a, &b, filter));
    let _running: Running = sick_beside_a_far_site(&site, prepends);
    site.answered_by(name, PATIENCE);
}

/// ```text
/// edge (BIRD) ---- route reflector (BIRD) ---- hosts A and B, all in one AS
/// ```
pub fn a_route_reflector_passes_on_the_healthy_one() {
    let site = Site::new();
    let client = |name: &str, host: &str, channel: &str| {
        format!(
            "protocol bgp {name} {{ local as 65000; neighbor {host} as 65000; rr client; ipv4 {{ {channel} }}; }}\n"
        )
    };
    let hosts = [&site.a, &site.b].map(|host| host.addresses.host4);
    let reflector = format!(
        "router id 10.255.0.1;\nprotocol device {{ }}\nprotocol direct {{ ipv4; }}\n{}{}{}",
        client("a", hosts[0], "import all; export none;"),
        client("b", hosts[1], "import all; export none;"),
        client(
            "edge",
            "10.0.9.2",
            "import none; export where source = RTS_BGP;"
        ),
    );
    let _reflector = Bird::start(&site.router, &reflector);
    let edge = Bird::start(
        &site.client,
        "router id 10.255.0.2;\nprotocol device { }\nprotocol direct { ipv4; }\n\
         protocol static { ipv4; route 0.0.0.0/0 via 10.0.9.1; }\n\
         protocol bgp up { local as 65000; neighbor 10.0.9.1 as 65000; ipv4 { import all; export none; }; }\n",
    );
    let mut services = [site.a.services(), site.b.services()];
    let checks = [Check::new(&site, &site.a), Check::new(&site, &site.b)];
    let inside = |config: String| config.replace("local_as: 65001", "local_as: 65000");
    let a = start(&site.a, &inside(checks[0].config(&site.a, "")));
    let b = start(&site.b, &inside(checks[1].config(&site.b, "med: 50")));
    let at_edge = |next_hop: &str, local_pref: &str| {
        until(PATIENCE, "the edge has the route", || {
            let route = edge.route(&format!("{VIP4}/32")).unwrap_or_default();
            let is = |name, value: &str| attribute(&route, name).as_deref() == Some(value);
            let there = is("BGP.next_hop", next_hop) && is("BGP.local_pref", local_pref);
            expect(there, route)
        });
    };
    wait_for(&site.a, &a, "up");
    wait_for(&site.b, &b, "up");
    at_edge(hosts[0], "100");
    checks[0].passes(false);
    at_edge(hosts[1], "100");
    let app = wait_for(&site.a, &a, "down");
    assert_eq!(app["last_resort"], true, "{app}");
    services[1].0.kill();
    at_edge(hosts[0], "0");
    services[0].0.kill();
    until(PATIENCE, "the edge has no route", || {
        let route = edge.route(&format!("{VIP4}/32"));
        expect(route.is_none(), format!("{route:?}"))
    });
}

/// What is pushed to the app that is a last resort takes effect, with the route there all the time.
pub fn a_reload_changes_a_last_resort_in_place() {
    let site = Site::new();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let _services = site.a.services();
    let check = Check::new(&site, &site.a);
    let config = check.config(&site.a, "");
    let sidecast = start(&site.a, &config);
    wait_for(&site.a, &sidecast, "up");
    check.passes(false);
    wait_for(&site.a, &sidecast, "down");
    let prefix = format!("{VIP4}/32");
    let received = |what: &str, is: &dyn Fn(&str) -> bool| {
        until(PATIENCE, what, || {
            let route = router.route(&prefix).ok_or("the route is gone")?;
            expect(is(&route), route)
        });
    };
    received("ten prepends", &|route| {
        route.matches(" 65001").count() >= 10
    });
    let reload = |text: &str| {
        Sidecast::write(&site.a.network, text);
        sidecast.signal(nix::sys::signal::Signal::SIGHUP);
    };
    let updates = || {
        let counters = router.session("a");
        let line = counters
            .lines()
            .find(|line| line.contains("Import updates:"));
        line.unwrap_or_default().to_owned()
    };
    reload(&format!(
        "agent: {{last_resort: {{med: 4000, as_path_prepend: 2}}}}\n{config}"
    ));
    received("another MED", &|route| route.contains("BGP.med: 4000"));
    let before = updates();
    reload(&config.replace("when_down: last_resort", "when_down: {med: 5000}"));
    received("attributes of its own", &|route| {
        route.contains("BGP.med: 5000")
    });
    assert_ne!(updates(), before);
    let app = sidecast.app(&site.a.network, "dns");
    assert_eq!(app["last_resort"], false, "{app}");
    reload(&config.replace("when_down: last_resort", "when_down: withdraw"));
    until(PATIENCE, "it is withdrawn", || {
        let route = router.route(&prefix);
        expect(route.is_none(), format!("{route:?}"))
    });
}
