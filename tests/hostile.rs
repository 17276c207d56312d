//! What any host may send, to the real sidecast with little memory: it is refused at once, and nothing of
//! it comes back at the next start.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use sidecast_lab::{
    Bird, Child, Consul, Lab, Namespace, Reply, Sidecast, Site, binary, expect, request, until,
};

sidecast_lab::tests! {
    needs ["ip"]:
        yaml_in_parameters_costs_neither_memory_nor_time,
        a_configuration_beyond_the_limits_is_a_sentence,
        a_state_file_is_not_believed,
        a_check_changes_nothing,
        every_writer_escapes_names;
    needs ["bird", "birdc", "ip"]:
        a_vip_that_belongs_to_the_network_is_refused;
    needs ["consul", "ip"]:
        yaml_in_tags_costs_neither_memory_nor_time;
}

/// Nine levels of ten aliases each: a thousand million values, in some hundred bytes.
fn bomb() -> String {
    let mut text = "{med: 1, x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]".to_owned();
    for level in 1..9 {
        let uses = format!("*x{}, ", level - 1).repeat(10);
        let _ = write!(text, ", x{level}: &x{level} [{uses}]");
    }
    text + "}"
}

/// Many aliases of one long text.
fn wide_bomb(bytes: usize) -> String {
    let mut text = format!("{{med: 1, a: &a [{}], b: &b [", "1,".repeat(1000));
    text += &"*a,".repeat(800);
    text += "], c: [";
    while text.len() < bytes - 8 {
        text += "*b,";
    }
    text + "]}"
}

fn yaml_in_parameters_costs_neither_memory_nor_time() {
    let lab = Lab::new();
    let host = lab.namespace("host");
    let mut sidecast = Limited::start(&host, "agent: {allow_exec: [config, http]}\n");
    let attacks = [
        bomb(),
        wide_bomb(7_900),
        "[".repeat(64_000),
        format!("{{a: {}", "[".repeat(7_000)),
        "{a: ".repeat(2_000),
        format!("{{a: \"{}\"}}", "x".repeat(60_000)),
    ];
    for (number, attack) in attacks.iter().enumerate() {
        for key in ["when_down", "when_draining", "monitor", "vip", "med"] {
            let form: String = attack.bytes().fold(String::new(), |mut form, byte| {
                let _ = write!(form, "%{byte:02x}");
                form
            });
            let begun = Instant::now();
            let body = format!("name=n&vip=192.0.2.1/32&{key}={form}");
            // A request that is too long may be refused before it is read.
            if let Ok(reply) = sidecast.ask("POST", "/register", &body) {
                assert!(
                    (400..500).contains(&reply.status),
                    "{number} {key}: {reply:?}"
                );
            }
            sidecast.answers(begun);
        }
    }
    let apps = sidecast.ask("GET", "/apps", "").expect("an answer").json();
    assert_eq!(apps, json!([]));
    // A small script is none of that.
    let script = format!("exec:true; {}", "# ".repeat(4_000));
    let body = format!("name=n&vip=192.0.2.1/32&monitor={script}&when_down={{med: 7}}");
    let reply = sidecast.ask("POST", "/register", &body).expect("an answer");
    assert_eq!(reply.status, 200, "{}", reply.body);
}

/// The tags are still there at the next start, with the state file or without.
fn yaml_in_tags_costs_neither_memory_nor_time() {
    let lab = Lab::new();
    let host = lab.namespace("host");
    let consul = Consul::start(&host, &json!({}));
    let state = host.dir().join("state.json");
    let config = format!(
        "agent: {{consul_addr: 'http://127.0.0.1:8500', state_file: {}}}\n",
        state.display()
    );
    let mut sidecast = Limited::start(&host, &config);
    for (name, vip, attack) in [
        ("deep", "192.0.2.1", bomb()),
        ("wide", "192.0.2.2", wide_bomb(12_000)),
        ("brackets", "192.0.2.3", "[".repeat(64_000)),
    ] {
        let vip = format!("gocast_vip={vip}/32");
        let attack = format!("sidecast_when_down={attack}");
        let tags = ["enable_gocast", vip.as_str(), attack.as_str()];
        consul.register(&host, name, name, &tags, "passing");
    }
    let forged = "id\n2026-01-01T00:00:00.000Z ERROR forged\u{202e}";
    let tags = ["enable_gocast", "gocast_vip=192.0.2.4/33"];
    consul.register(&host, "lines", forged, &tags, "passing");
    let good = [
        "enable_gocast",
        "gocast_vip=192.0.2.9/32",
        "gocast_monitor=consul",
    ];
    consul.register(&host, "good", "good", &good, "passing");
    for _ in 0..2 {
        until(PATIENCE, "the good one is taken", || {
            let reply = sidecast
                .ask("GET", "/apps/good", "")
                .map_err(|e| e.to_string())?;
            expect(reply.status == 200, reply.body)
        });
        sidecast.answers(Instant::now());
        until(PATIENCE, "it is remembered", || {
            let text = fs::read_to_string(&state).unwrap_or_default();
            expect(text.contains("brackets") && text.contains("\"good\""), text)
        });
        until(PATIENCE, "the router ID is shown", || {
            let log = sidecast.child.output();
            expect(log.contains("ERROR forged\\u{202e}"), log)
        });
        sidecast.has_whole_lines();
        sidecast.restart();
    }
}

fn every_writer_escapes_names() {
    let lab = Lab::new();
    let host = lab.namespace("host");
    let sidecast = Limited::start(&host, "");
    let names = [
        "dns (primary)",
        "a&b",
        "<b>\"'{}\\,=",
        "हिन्दी",
        "a/b?c#d %20",
    ];
    let encoded = |text: &str| -> String {
        let byte = |byte| format!("%{byte:02x}");
        text.bytes().map(byte).collect()
    };
    for (number, name) in names.iter().enumerate() {
        let name = encoded(name);
        let query = format!("/register?name={name}&vip=192.0.2.{}/32", number + 1);
        let reply = sidecast.ask("GET", &query, "").expect("an answer");
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
    let ask = |path: &str| sidecast.ask("GET", path, "").expect("an answer");
    let metrics = ask("/metrics").body;
    let page = ask("/").body;
    assert!(!page.contains("<b>"), "{page}");
    for name in names {
        let app = ask(&format!("/apps/{}", encoded(name))).json();
        assert_eq!(app["name"], name);
        let label = name.replace('\\', "\\\\").replace('"', "\\\"");
        let line = format!("sidecast_app_healthy{{app=\"{label}\"}} ");
        assert!(metrics.contains(&line), "{line}: {metrics}");
        // Without a peer its verdict is no good one.
        let status = host.run("sh", &["-c", "\"$0\" status || true", &binary()]);
        assert!(status.contains(name), "{status}");
        host.run(&binary(), &["unregister", name]);
    }
    let events = ask("/events").json();
    let of = |name: &str| {
        events
            .as_array()
            .is_some_and(|e| e.iter().any(|e| e["app"] == name))
    };
    assert!(names.into_iter().all(of), "{events}");
    for refused in [
        "a\nb",
        " a",
        "a\u{202e}",
        "\u{200b}",
        "a\u{2028}b",
        "a\u{1b}[2J",
    ] {
        let query = format!("/register?name={}&vip=192.0.2.9/32", encoded(refused));
        assert_eq!(ask(&query).status, 400, "{refused:?}");
    }
    sidecast.has_whole_lines();
}

/// Its connection comes from this very host, which may change things, but its URL from a host that may not:
/// in a tag of Consul, `/drain` would take every service away.
fn a_check_changes_nothing() {
    let lab = Lab::new();
    let host = lab.namespace("host");
    let sidecast = Limited::start(&host, "");
    let url = format!("http://{ADDR}/register%3fname=x%26vip=192.0.2.9/32");
    let query = format!("/register?name=a&vip=192.0.2.1/32&interval=100ms&monitor={url}");
    let reply = sidecast.ask("GET", &query, "").expect("an answer");
    assert_eq!(reply.status, 200, "{}", reply.body);
    until(PATIENCE, "the check is refused", || {
        let app = sidecast.ask("GET", "/apps/a", "").expect("an answer");
        expect(app.body.contains("status 403"), app.body)
    });
    let other = sidecast.ask("GET", "/apps/x", "").expect("an answer");
    assert_eq!(other.status, 404, "{}", other.body);
}

fn a_configuration_beyond_the_limits_is_a_sentence() {
    let lab = Lab::new();
    let host = lab.namespace("host");
    for (text, report) in [
        (format!("x-a: {}\n", bomb()), "1000000 values"),
        (format!("x-a: {}\n", wide_bomb(8_000)), "100 aliases"),
        (format!("x-a: {}\n", "[".repeat(64_000)), "open brackets"),
        (
            format!("x-a: {}{}\n", "[".repeat(40), "]".repeat(40)),
            "deeper than 32",
        ),
    ] {
        let begun = Instant::now();
        let mut sidecast = Limited::launch(&host, &text);
        let status = sidecast.child.wait(PATIENCE);
        let log = sidecast.child.output();
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(log.contains(report), "{report}: {log}");
        let took = begun.elapsed();
        assert!(took < SOON, "{report}: {took:?}");
    }
}

fn a_state_file_is_not_believed() {
    let lab = Lab::new();
    let host = lab.namespace("host");
    let state = host.dir().join("state.json");
    let config = format!("agent: {{state_file: {}}}\n", state.display());
    let app = |name: &str, more: &str| {
        format!("{{\"name\": \"{name}\", \"vips\": [\"192.0.2.1/32\"]{more}}}")
    };
    let mut good = format!("{{\"apps\": [{}, ", app("good", ""));
    good += &app("bad", ", \"monitors\": [\"exec:id\"]");
    good += "]}";
    for (text, apps) in [
        (good, 1),
        (bomb(), 0),
        ("[".repeat(64_000), 0),
        (format!("{{\"apps\": {}", "[".repeat(64_000)), 0),
        (format!("{{\"apps\": [{}0]}}", "0,".repeat(1 << 20)), 0),
        (format!("drains: {}", "[".repeat(64_000)), 0),
        (" ".repeat(64 << 20), 0),
        // As a version of before wrote it.
        (
            "apps:\n  - {name: old, vips: [192.0.2.1/32]}\n".to_owned(),
            1,
        ),
    ] {
        fs::write(&state, &text).expect("a file");
        let begun = Instant::now();
        let mut sidecast = Limited::launch(&host, &config);
        sidecast.answers(begun);
        let reply = sidecast.ask("GET", "/apps", "").expect("an answer").json();
        let start = text.get(..40).unwrap_or(&text);
        assert_eq!(
            reply.as_array().map(Vec::len),
            Some(apps),
            "{start}: {reply}"
        );
        if text.starts_with("apps:") {
            until(PATIENCE, "it is written anew", || {
                let text = fs::read_to_string(&state).unwrap_or_default();
                expect(text.starts_with('{') && text.contains("\"old\""), text)
            });
        }
    }
}

fn a_vip_that_belongs_to_the_network_is_refused() {
    let site = Site::new();
    let host = &site.a.network;
    host.ip("route add 198.51.100.0/24 via 10.0.1.77");
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let mut sidecast = Sidecast::start(host, &site.a.config("", ""));
    sidecast.wait_for_api(host);
    until(PATIENCE, "the peer has sent its OPEN", || {
        let log = sidecast.log();
        expect(log.contains("peer 10.0.1.1: established"), log)
    });
    for (vip, why) in [
        ("10.255.0.1", "a peer's router id"),
        ("10.0.1.77", "the gateway"),
        ("10.0.1.255", "a network's broadcast address"),
        ("240.0.0.1", "agent.allowed_vips"),
    ] {
        until(PATIENCE, why, || {
            let reply = sidecast.get(host, &format!("/register?name=a&vip={vip}/32"));
            let refused = reply.status >= 400 && reply.body.contains(why);
            expect(refused, reply.body)
        });
    }
}

/// sidecast with 256 MiB of address space.
struct Limited<'n> {
    child: Child,
    host: &'n Namespace,
    file: PathBuf,
}

impl<'n> Limited<'n> {
    #[track_caller]
    fn start(host: &'n Namespace, config: &str) -> Self {
        let mut sidecast = Self::launch(host, config);
        sidecast.answers(Instant::now());
        sidecast
    }

    fn launch(host: &'n Namespace, config: &str) -> Self {
        let file = host.dir().join("sidecast.yaml");
        let bgp = "bgp: {local_as: 65001, peer_as: 65000, peer_ip: 10.0.0.1}\n";
        fs::write(&file, format!("{config}{bgp}")).expect("a file");
        let child = Self::run(host, &file);
        Self { child, host, file }
    }

    fn run(host: &Namespace, file: &std::path::Path) -> Child {
        let command = format!(
            "ulimit -v 262144; exec {} run --config {}",
            binary(),
            file.display()
        );
        let env = [("CONSUL_NODE", Consul::NODE)];
        Child::start(host, "sidecast", "sh", &["-c", &command], &env)
    }

    fn restart(&mut self) {
        self.child.kill();
        self.child = Self::run(self.host, &self.file);
        self.answers(Instant::now());
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> std::io::Result<Reply> {
        request(self.host, ADDR, method, path, body)
    }

    /// Every line of the log begins as one.
    #[track_caller]
    fn has_whole_lines(&self) {
        let log = self.child.output();
        let whole = |line: &str| line.starts_with("20") && line.get(23..25) == Some("Z ");
        let other = log.lines().find(|line| !whole(line));
        assert_eq!(other, None, "{log}");
        assert!(!log.contains("\n2026-01-01"), "{log}");
    }

    /// It lives, and has not been busy since.
    #[track_caller]
    fn answers(&mut self, since: Instant) {
        until(PATIENCE, "it answers", || {
            self.child.must_run();
            self.ask("GET", "/healthz", "")
        });
        let took = since.elapsed();
        assert!(took < SOON, "{took:?}");
    }
}

const ADDR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8179);
/// In a debug build on a busy machine: a second.
const SOON: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(20);
