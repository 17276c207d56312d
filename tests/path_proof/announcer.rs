//! The real binary proves its own paths, and says so everywhere.

use std::time::Duration;

use serde_json::Value;
use sidecast_lab::{Sidecast, Site, VIP4, VIP6, expect, until};

use crate::routers::{MAIN_TABLE, announcing, bird};

/// Each VIP with its proof, as `/apps` has it.
fn proofs(sidecast: &Sidecast, site: &Site) -> Vec<String> {
    let answer = sidecast.get(&site.a.network, "/apps/dns");
    let app: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let of_vip = |vip: Value| {
        let name = vip["vip"].as_str().unwrap_or_default().to_owned();
        let paths = list(&vip["paths"]).into_iter();
        paths.map(move |path| format!("{name} {}", path["proof"].as_str().unwrap_or_default()))
    };
    let vips = list(&app["vip_status"]).into_iter();
    vips.flat_map(of_vip).collect()
}

fn announcer(site: &Site) -> Sidecast {
    let config = announcing(&site.a, "");
    // A Linux router has an ICMP error for a host every two seconds: its limit is counted twice where it has no route.
    let config = format!("agent: {{path_proof: {{interval: 3s}}}}\n{config}");
    let mut sidecast = Sidecast::start(&site.a.network, &config);
    sidecast.wait_for_api(&site.a.network);
    sidecast
}

pub fn the_announcer_proves_that_its_router_forwards() {
    let site = Site::new();
    let router = bird(&site, "import all;", MAIN_TABLE);
    let sidecast = announcer(&site);
    let all = [format!("{VIP4}/32"), format!("{VIP6}/128")];
    let all = all.map(|vip| format!("{vip} yes (16/16)"));
    until(PATIENCE, "both VIPs are proven", || {
        let proofs = proofs(&sidecast, &site);
        expect(proofs == all, format!("{proofs:?}"))
    });
    let metrics = sidecast.get(&site.a.network, "/metrics").body;
    let (vip, peer) = (VIP4, site.a.addresses.router4);
    for line in [
        format!("sidecast_path_share{{app=\"dns\",vip=\"{vip}/32\",peer=\"{peer}\"}} 1"),
        "sidecast_announce_to_forward_seconds_count 2".to_owned(),
        "sidecast_condition{reason=\"path_no\"} 0".to_owned(),
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
    let times = metrics
        .lines()
        .filter(|l| l.contains("announce_to_forward"));
    println!("{}", times.collect::<Vec<_>>().join("\n"));
    // The router keeps the session and loses the route from its FIB.
    site.router.ip(&format!("route del {VIP4}"));
    until(PATIENCE, "the loss is seen", || {
        let proofs = proofs(&sidecast, &site);
        let want = format!("{VIP4}/32 no (0/16: {peer} says no route)");
        expect(proofs.contains(&want), format!("{proofs:?}"))
    });
    assert!(router.established("a"));
}

pub fn the_announcer_names_a_router_that_refuses() {
    let site = Site::new();
    let _router = bird(&site, "import none;", MAIN_TABLE);
    let sidecast = announcer(&site);
    let router = site.a.addresses.router4;
    until(PATIENCE, "the router is named", || {
        let proofs = proofs(&sidecast, &site);
        let want = format!("{VIP4}/32 no (0/16: {router} says no route)");
        expect(proofs.contains(&want), format!("{proofs:?}"))
    });
    let verdict = sidecast.get(&site.a.network, "/verdict").body;
    assert!(verdict.contains("failing: peer"), "{verdict}");
}

const PATIENCE: Duration = Duration::from_secs(40);
