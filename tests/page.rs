//! The status page as people see it: in headless Chromium (`tests/page/look.py`) at two widths and in both themes, with one
//! app, with fifty and with a thousand; and the metrics as Prometheus' own tool sees them.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use sidecast_lab::{Bird, Service, Sidecast, Site, Transport, VIP4, VIP6, cache, expect, until};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip", "chromium", "playwright"]:
        one_app_is_shown_with_all_that_is_known_of_it,
        four_apps_as_the_readme_shows_them,
        among_fifty_apps_the_bad_ones_come_first,
        of_a_thousand_apps_the_worst_hundred_are_shown;
    needs ["bird", "birdc", "ip", "promtool"]:
        prometheus_finds_nothing_to_say_about_the_metrics;
}

/// A browser's looks, and how high the page may be at 390 and at 1280 pixels.
#[track_caller]
fn look(site: &Site, name: &str, height: [u32; 2], looks: &serde_json::Value) {
    let out = shots(site);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/look.py");
    let height = json!({"390": height[0], "1280": height[1]}).to_string();
    let mut command = Command::new(cache().join("venv/bin/python"));
    command.arg(script).arg(&out).args([name, &height]);
    command.arg(looks.to_string()).stdin(Stdio::null());
    let output = site
        .a
        .network
        .enter(|| command.output())
        .expect("a browser");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
}

/// Where the pictures are put: `PAGE_SHOTS` keeps them.
fn shots(site: &Site) -> PathBuf {
    let kept = std::env::var_os("PAGE_SHOTS").map(PathBuf::from);
    kept.unwrap_or_else(|| site.a.network.dir().to_owned())
}

fn service(site: &Site) -> Service {
    Service::start(&site.a.network, Transport::Tcp, Site::TCP_PORT)
}

/// Two peers of which the second does not answer, where `two` says so.
fn bgp(site: &Site, two: bool) -> String {
    let router = site.a.addresses.router4;
    let other = if two { ", 10.255.255.1" } else { "" };
    format!("bgp: {{local_as: 65001, peer_as: 65000, peer_ip: \"{router}{other}\"}}\n")
}

fn one_app_is_shown_with_all_that_is_known_of_it() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let app = format!(
        "apps:\n  - {{name: dns, vips: [{VIP4}/32, \"{VIP6}/128\"], monitors: [\"port:tcp:8000\"], nats: [\"tcp:80:8000\"],\n    \
         vip_config: {{med: 7, bgp_communities: [\"65001:53\"], large_communities: [\"65001:1:2\"]}}}}\n"
    );
    let mut sidecast = Sidecast::start(host, &(bgp(&site, false) + &app));
    sidecast.wait_for_api(host);
    until(PATIENCE, "it is announced and acknowledged", || {
        let page = sidecast.get(host, "/").body;
        let report = page.matches(", acknowledged<").count();
        expect(report == 2 && page.contains("<title>✓ ok: "), page)
    });
    // All that does not grow with the apps.
    let page = sidecast.get(host, "/").body;
    assert!(page.len() < 24 * 1024, "{} bytes", page.len());
    let texts = [
        "ok: 1 of 1 apps up, 1 of 1 sessions established",
        concat!(
            "version ",
            env!("CARGO_PKG_VERSION"),
            " · AS 65001 · router ID 10."
        ),
        "2001:db8:53::1/128 announced",
        "AS path 65001, origin igp, MED 7, communities 65001:53, large 65001:1:2",
        "port:tcp:8000",
        "tcp:80:8000",
        "pending → up: all monitors pass",
    ];
    let looks = json!({
        "texts": texts,
        "rows": 1,
        "then": ["open", "plain", "gone"],
        "pid": sidecast.id(),
    });
    look(&site, "one", [1600, 1000], &looks);
}

/// Three that are up, and one whose check fails while its port listens. `tests/pictures` keeps the look.
fn four_apps_as_the_readme_shows_them() {
    let site = Site::new();
    let host = &site.a.network;
    let ports = [53, 123, 443, 514];
    let _services = ports.map(|port| Service::start(host, Transport::Tcp, port));
    let mut gateway = Service::start(host, Transport::Tcp, 8443);
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let apps = "apps:
  - {name: dns, vips: [192.0.2.53/32, \"2001:db8:53::53/128\"], monitors: [\"port:tcp:53\"], nats: [\"tcp:853:53\"]}
  - {name: ntp, vip: 192.0.2.123/32, monitors: [\"port:tcp:123\"]}
  - {name: syslog, vip: 192.0.2.14/32, monitors: [\"port:tcp:514\"]}
  - {name: web, vip: 192.0.2.80/32, monitors: [\"port:tcp:443\", \"tcp:127.0.0.1:8443\"], interval: 1s, vip_config: {when_down: last_resort}}
";
    let mut sidecast = Sidecast::start(host, &(bgp(&site, false) + apps));
    sidecast.wait_for_api(host);
    until(PATIENCE, "all are announced", || {
        let page = sidecast.get(host, "/").body;
        expect(page.contains("ok: 4 of 4 apps up"), page)
    });
    gateway.kill();
    until(PATIENCE, "web is the last resort", || {
        let app = sidecast.app(host, "web");
        expect(
            app["last_resort"].is_object() || app["last_resort"] == true,
            app,
        )
    });
    let looks = json!({
        "texts": ["web", "last resort", "192.0.2.80/32", "dns", "ntp", "syslog"],
        "rows": 4,
        "then": ["open", "plain"],
    });
    look(&site, "four", [2200, 1200], &looks);
}

/// Names of all kinds, and apps in each state.
fn among_fifty_apps_the_bad_ones_come_first() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let flag = host.dir().join("flag");
    let maintenance = host.dir().join("maintenance");
    std::fs::write(&maintenance, "").expect("a file");
    let long = "x".repeat(250);
    let mut apps = vec![
        format!("name: web-down, vip: 198.51.100.101/32, monitors: [\"port:tcp:9\"]"),
        format!("name: {long}, vip: 198.51.100.102/32, monitors: [\"port:tcp:9\"]"),
        format!("name: held, vip: 198.51.100.103/32, monitors: [\"exec:test -e {}\"], interval: 1s, flap_limit: 1/10m, hold_down: 60s", flag.display()),
        format!("name: repaired, vip: 198.51.100.104/32, monitors: [\"port:tcp:8000\"], maintenance_file: {}", maintenance.display()),
        "name: leaving, vip: 198.51.100.105/32, monitors: [\"port:tcp:8000\"], drain_time: 60s".to_owned(),
        "name: \"<img src=x onerror=alert(1)>\", vip: 198.51.100.106/32, monitors: [\"port:tcp:8000\"]".to_owned(),
        "name: \"خدمة-1\", vip: 198.51.100.107/32, monitors: [\"port:tcp:8000\"]".to_owned(),
    ];
    apps.extend((apps.len()..50).map(|n| {
        format!("name: service-{n:02}, vips: [198.51.100.{n}/32, \"2001:db8:51::{n}/128\"], monitors: [\"port:tcp:8000\"]")
    }));
    let lines: String = apps.iter().map(|app| format!("  - {{{app}}}\n")).collect();
    let mut sidecast = Sidecast::start(host, &format!("{}apps:\n{lines}", bgp(&site, false)));
    sidecast.wait_for_api(host);
    let state = |name: &str| sidecast.app(host, name)["state"].clone();
    // It comes and goes until it is held.
    let mut there = false;
    until(PATIENCE, "it is held down", || {
        let state = state("held");
        let settled = state == if there { "up" } else { "down" };
        if settled {
            there = !there;
            match there {
                true => std::fs::write(&flag, "").expect("a file"),
                false => std::fs::remove_file(&flag).expect("the file"),
            }
        }
        expect(state == "held_down", state)
    });
    sidecast.get(host, "/drain?name=leaving&wait=0");
    until(PATIENCE, "the others are up", || {
        let page = sidecast.get(host, "/").body;
        let up = page
            .matches("<summary class=\"row short healthy\">")
            .count();
        expect(up == 45, up)
    });
    let looks = json!({
        "texts": [
            "web-down", "down 2", "maintenance 1", "all 50", "خدمة-1",
            "<img src=x onerror=alert(1)>",
        ],
        "rows": 50,
        "then": ["open", "choose", "plain"],
        "search": "service-42",
    });
    look(&site, "fifty", [3500, 2700], &looks);
}

fn of_a_thousand_apps_the_worst_hundred_are_shown() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let one = |n: usize| {
        let port = if n % 20 == 0 { 9 } else { 8000 };
        let (high, low) = (n / 250, n % 250);
        format!(
            "  - {{name: service-{n:04}, vip: 198.18.{high}.{low}/32, monitors: [\"port:tcp:{port}\"]}}\n"
        )
    };
    let apps: String = (0..1000).map(one).collect();
    let mut sidecast = Sidecast::start(host, &format!("{}apps:\n{apps}", bgp(&site, true)));
    sidecast.wait_for_api(host);
    until(PATIENCE, "they are known", || {
        let page = sidecast.get(host, "/").body;
        let known = page.contains("down <span class=count>50<")
            && page.contains("partly announced <span class=count>950<");
        expect(known, page.get(..2000).unwrap_or_default().to_owned())
    });
    let looks = json!({
        "texts": ["down 50", "partly announced 950", "all 1000", "10.255.255.1", "These are the worst 100 of 1000; 900 are left out."],
        "rows": 100,
        "then": ["open", "choose", "plain"],
        "search": "service-0731",
    });
    look(&site, "thousand", [9000, 5500], &looks);
}

fn prometheus_finds_nothing_to_say_about_the_metrics() {
    let site = Site::new();
    let host = &site.a.network;
    let _service = service(&site);
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let apps = format!(
        "apps:\n  - {{name: dns, vips: [{VIP4}/32, \"{VIP6}/128\"], monitors: [\"port:tcp:8000\"], nats: [\"tcp:80:8000\"]}}\n  \
         - {{name: 'awk\"ward \\', vip: 198.51.100.1/32, monitors: [\"port:tcp:9\"]}}\n"
    );
    let mut sidecast = Sidecast::start(host, &(bgp(&site, true) + &apps));
    sidecast.wait_for_api(host);
    until(PATIENCE, "it is announced", || {
        let app = sidecast.app(host, "dns");
        expect(app["announced"] == true, app)
    });
    let metrics = sidecast.get(host, "/metrics").body;
    for family in [
        "sidecast_nat_",
        "sidecast_condition{",
        "sidecast_bgp_session_up{",
        "process_",
    ] {
        assert!(metrics.contains(family), "{family}: {metrics}");
    }
    let promtool = sidecast_lab::program("promtool").expect("it is there");
    let mut tool = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    let written = tool
        .stdin
        .take()
        .expect("a pipe")
        .write_all(metrics.as_bytes());
    let output = tool.wait_with_output().expect("it ends");
    written.expect("it reads all");
    let report = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && report.is_empty(), "{report}");
}

const PATIENCE: Duration = Duration::from_secs(60);
