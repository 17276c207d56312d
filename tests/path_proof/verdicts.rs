//! What the program says of the same paths: in `/apps`, in `status` and in the one verdict.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use sidecast_lab::{Change, Namespace, Routes, Sidecast, Site, VIP4, VIP6, binary, expect, until};

use crate::probing::addr;
use crate::routers::{MAIN_TABLE, add_vips, announcing, bird, established, forwarded_to};

/// What probes show of each of the app's VIPs, as `/apps` has it.
fn paths(sidecast: &Sidecast, network: &Namespace) -> Vec<Value> {
    let app = sidecast.app(network, "dns");
    let vips = app["vip_status"].as_array().cloned().unwrap_or_default();
    let of = |vip: &Value| vip["paths"].as_array().cloned().unwrap_or_default();
    vips.iter().flat_map(of).collect()
}

/// Waits until the path of both VIPs is shown in these words, with these states and in this verdict.
#[track_caller]
fn shown(sidecast: &mut Sidecast, network: &Namespace, proofs: [&str; 2], verdict: &str) {
    sidecast.wait_for_api(network);
    until(PATIENCE, &format!("both paths are {proofs:?}"), || {
        let paths = paths(sidecast, network);
        let proven = paths.iter().map(|path| path["proof"].as_str());
        let all = proven.collect::<Vec<_>>() == proofs.map(Some);
        expect(all, format!("{paths:?}"))
    });
    until(PATIENCE, &format!("the verdict is {verdict}"), || {
        let app = sidecast.app(network, "dns");
        expect(app["verdict"] == verdict, app)
    });
    let status = || Command::new(binary()).arg("status").output();
    let output = network.enter(status).expect("status runs");
    let text = String::from_utf8_lossy(&output.stdout);
    for proof in proofs {
        assert!(text.contains(proof), "{text}");
    }
}

pub fn a_router_that_forwards_is_proven() {
    let site = Site::new();
    let _router = bird(&site, "import all;", MAIN_TABLE);
    let host = &site.a.network;
    let mut sidecast = Sidecast::start(host, &announcing(&site.a, ""));
    shown(&mut sidecast, host, ["yes (16/16)"; 2], "ok");
    // It is proven anew when the route has gone and come.
    site.router.ip(&format!("route del {VIP4}"));
    // A Linux router has an ICMP error for a host every two seconds.
    let again = "agent: {path_proof: {interval: 3s}}\n";
    Sidecast::write(host, &(again.to_owned() + &announcing(&site.a, "")));
    sidecast.signal(nix::sys::signal::Signal::SIGHUP);
    let refused = format!("no (0/16: {} says no route)", site.a.addresses.router4);
    shown(&mut sidecast, host, [&refused, "yes (16/16)"], "failing");
    site.router
        .ip(&format!("route add {VIP4} via {}", site.a.addresses.host4));
    shown(&mut sidecast, host, ["yes (16/16)"; 2], "ok");
}

pub fn a_router_that_refuses_is_failing() {
    let site = Site::new();
    let router = bird(&site, "import none;", MAIN_TABLE);
    let host = &site.a.network;
    let mut sidecast = Sidecast::start(host, &announcing(&site.a, ""));
    established(|| router.established("a"));
    let of = &site.a.addresses;
    let no = |from| format!("no (0/16: {from} says no route)");
    let both = [no(of.router4), no(of.router6)];
    shown(
        &mut sidecast,
        host,
        both.each_ref().map(String::as_str),
        "failing",
    );
}

pub fn a_sibling_that_has_the_traffic_is_named() {
    let site = Site::new();
    let _router = bird(&site, "import all;", TO_SIBLING);
    add_vips(&site.b);
    forwarded_to(&site, &[&site.b]);
    let host = &site.a.network;
    let mut sidecast = Sidecast::start(host, &announcing(&site.a, ""));
    let elsewhere = "elsewhere (0/16: another holder of the VIP answers)";
    shown(&mut sidecast, host, [elsewhere; 2], "ok");
}

/// A null route is a warning and no more: a firewall on the way looks the same.
pub fn silence_is_never_failing() {
    let site = Site::new();
    let _router = bird(&site, "import all;", TO_NULL);
    let host = &site.a.network;
    let mut sidecast = Sidecast::start(host, &announcing(&site.a, ""));
    shown(&mut sidecast, host, ["not seen (0/16, no answer)"; 2], "ok");
}

/// A share is normal where several hosts have the VIP.
pub fn a_share_of_ecmp_is_shown() {
    let (site, _routers) = crate::routers::ecmp("1", true);
    let host = &site.a.network;
    until(PATIENCE, "a part comes back", || {
        let reply =
            sidecast_lab::get(host, Sidecast::api(), "/apps/dns").map_err(|e| e.to_string())?;
        let app = reply.json();
        let states: Vec<String> = app["vip_status"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|vip| vip["paths"][0]["state"].to_string())
            .collect();
        expect(states == ["\"partly\""; 2], app)
    });
}

pub fn a_flush_of_the_ruleset_does_not_change_the_proof() {
    let site = Site::new();
    let _router = bird(&site, "import all;", MAIN_TABLE);
    let host = &site.a.network;
    let often = "agent: {path_proof: {interval: 1s}}\n";
    let mut sidecast = Sidecast::start(host, &(often.to_owned() + &announcing(&site.a, "")));
    shown(&mut sidecast, host, ["yes (16/16)"; 2], "ok");
    host.nft("flush ruleset");
    let counted = || host.run("nft", &["list", "counters"]);
    let before = counted();
    until(PATIENCE, "probes are counted", || {
        expect(counted() != before, &before)
    });
    shown(&mut sidecast, host, ["yes (16/16)"; 2], "ok");
}

/// But for the leased addresses, of which the kernel makes a route in IPv6.
pub fn nothing_is_left_after_a_kill() {
    let site = Site::new();
    let _router = bird(&site, "import all;", MAIN_TABLE);
    let host = &site.a.network;
    let state = || {
        [
            &["nft", "list", "ruleset"][..],
            &["ip", "rule"],
            &["ip", "-6", "rule"],
            &["ip", "route"],
            &["ip", "-6", "route", "show", "table", "main"],
        ]
        .map(|command| {
            let text = host.run(command[0], &command[1..]);
            let lines = text.lines().filter(|line| !line.starts_with(VIP6));
            lines.collect::<Vec<_>>().join("\n")
        })
    };
    let before = state();
    let mut sidecast = Sidecast::start(host, &announcing(&site.a, ""));
    shown(&mut sidecast, host, ["yes (16/16)"; 2], "ok");
    assert!(state()[0].contains("returned4"));
    sidecast.kill();
    until(PATIENCE, "all is as before", || {
        let now = state();
        expect(now == before, format!("{now:?}"))
    });
}

/// The proof of the first probe follows the router's FIB within 100 ms: the best of nine VIPs, announced one after the
/// other, as tests run beside each other. On a busy machine it was 20 ms.
pub fn the_proof_follows_the_fib_of_bird() {
    let site = Site::new();
    let _router = bird(&site, "import all;", MAIN_TABLE);
    let host = &site.a.network;
    let mut sidecast = Sidecast::start(host, &announcing(&site.a, ""));
    shown(&mut sidecast, host, ["yes (16/16)"; 2], "ok");
    let routes = Routes::listen(&site.router);
    let mut lags: Vec<Duration> = (1..=9).map(|n| lag(&site, &routes, n)).collect();
    lags.sort();
    println!("from BIRD's FIB to the proof: {lags:?}");
    assert!(lags[0] < Duration::from_millis(100), "{lags:?}");
}

/// How long after the route was in the FIB the first probe was counted.
fn lag(site: &Site, routes: &Routes, n: u8) -> Duration {
    let host = &site.a.network;
    let vip = Ipv4Addr::new(198, 18, 0, n);
    let name = format!("app{n}");
    let register = format!("/register?name={name}&vip={vip}/32");
    sidecast_lab::get(host, Sidecast::api(), &register).expect("registered");
    let in_fib = routes.wait(Change::Added, addr(&vip.to_string()), PATIENCE);
    let in_fib = SystemTime::now() - in_fib.elapsed();
    let (since, after) = until(PATIENCE, "the first probe is back", || {
        let app = sidecast_lab::get(host, Sidecast::api(), &format!("/apps/{name}"));
        let app = app.map_err(|error| error.to_string())?.json();
        let vip = &app["vip_status"][0];
        let after = vip["paths"][0]["forwarded_after"].as_f64();
        let since = vip["routes"][0]["age"].as_f64();
        let (after, age) = after.zip(since).ok_or_else(|| app.to_string())?;
        let since = SystemTime::now() - Duration::from_secs_f64(age);
        Ok::<_, String>((since, Duration::from_secs_f64(after)))
    });
    (since + after).duration_since(in_fib).unwrap_or_default()
}

/// In a second at most a hundred probes leave by an interface, and three hundred at once.
pub fn a_thousand_vips_share_the_limit() {
    let site = Site::new();
    let _router = bird(&site, "import all;", MAIN_TABLE);
    site.router.nft(
        "table inet metering {
           counter probes { }
           chain in { type filter hook prerouting priority 0; iifname a0 udp dport 9 counter name probes; }
         }",
    );
    let vips: Vec<String> = (0..1000)
        .map(|n| format!("198.18.{}.{}/32", n / 250, n % 250))
        .collect();
    let config = format!(
        "agent: {{path_proof: {{interval: 5s}}}}\n\
         bgp: {{local_as: 65001, peer_as: 65000, peer_ip: 10.0.1.1}}\napps: [{{name: dns, vips: [{}]}}]\n",
        vips.join(", ")
    );
    let host = &site.a.network;
    let sent = || {
        let text = site.router.run("nft", &["-j", "list", "counters"]);
        let list: Value = serde_json::from_str(&text).expect("JSON");
        let mut objects = list["nftables"].as_array().into_iter().flatten();
        let probes = objects.find_map(|object| object["counter"]["packets"].as_f64());
        probes.expect("the counter")
    };
    let begun = Instant::now();
    let sidecast = Sidecast::start(host, &config);
    until(PATIENCE, "probes leave", || expect(sent() > 0.0, "none"));
    let first = Instant::now();
    let (probes, passed) = until(PATIENCE, "ten seconds pass", || {
        let (probes, passed) = (sent(), begun.elapsed());
        let most = 300.0 + 100.0 * (passed.as_secs_f64() + 1.0);
        assert!(probes <= most, "{probes} in {passed:?}");
        expect(first.elapsed() > Duration::from_secs(10), passed.as_secs())?;
        Ok::<_, String>((probes, passed))
    });
    println!("1,000 VIPs: {probes} probes in {passed:.1?}");
    // The limit is used: 200 a second are wanted.
    assert!(probes > 600.0, "{probes} in {passed:?}");
    let paths = paths(&sidecast, host);
    assert_eq!(paths.len(), 1000);
    for path in paths {
        assert_eq!(path["stretched"], 10.0, "{path}");
    }
}

const TO_SIBLING: &str = "
protocol static { ipv4; route 192.0.2.53/32 via 10.0.2.2; }
protocol static { ipv6; route 2001:db8:53::1/128 via 2001:db8:2::2; }
protocol kernel { ipv4 { import none; export all; }; }
protocol kernel { ipv6 { import none; export all; }; }
";

const TO_NULL: &str = "
protocol static { ipv4; route 192.0.2.53/32 blackhole; }
protocol static { ipv6; route 2001:db8:53::1/128 blackhole; }
protocol kernel { ipv4 { import none; export all; }; }
protocol kernel { ipv6 { import none; export all; }; }
";

const PATIENCE: Duration = Duration::from_secs(30);
