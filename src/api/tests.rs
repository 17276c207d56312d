//! The API over a real core: statuses, bodies and reasons as scripts see them.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::config;
use crate::core::{Event, Output};
use crate::health::Outcome;

const YAML: &str = "
agent: {allowed_vips: [192.0.2.0/24, 2001:db8::/32, 203.0.113.0/24]}
bgp: {local_as: 65001, peer_as: 65000, peer_ip: 10.0.0.1}
apps:
  - {name: dns, vip: 192.0.2.53/32, monitors: ['port:udp:53', {exec: [/bin/check, '--password=hunter2']}]}
";

struct Fixture {
    core: Core,
    start: Instant,
}

impl Fixture {
    fn new() -> Self {
        Self::with(YAML)
    }

    fn with(yaml: &str) -> Self {
        let start = Instant::now();
        let env = BTreeMap::from([("SIDECAST_CONFIG_YAML".to_owned(), yaml.to_owned())]);
        let mut nothing = |_: &std::path::Path| Err(io::ErrorKind::NotFound.into());
        let loaded = config::load(None, &env, &mut nothing).unwrap();
        Self {
            core: Core::new(loaded.config, 1, start),
            start,
        }
    }

    fn reply(&mut self, request: &Request) -> Reply {
        self.in_the_world(|core, context| handle(core, context, request))
    }

    fn in_the_world<T>(&mut self, work: impl FnOnce(&mut Core, &ApiContext<'_>) -> T) -> T {
        let process = || None;
        let context = ApiContext {
            now: self.start,
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            process: &process,
            reload: LastReload {
                successful: true,
                succeeded_at: SystemTime::UNIX_EPOCH,
            },
            longest_turn: Duration::ZERO,
            log_lines_dropped: 0,
            state_file_written: None,
            consul_up: None,
            nat: &Rc::default(),
        };
        work(&mut self.core, &context)
    }

    /// The chunks of an answer; `between` runs before each one but the first.
    fn pieces(&mut self, target: &str, mut between: impl FnMut(&mut Self)) -> Vec<Vec<u8>> {
        let Reply::Now(mut response) = self.reply(&request(Method::Get, target, &[])) else {
            panic!("{target}")
        };
        let mut pieces = Vec::new();
        loop {
            pieces.push(response.body);
            let Some(rest) = response.rest else {
                return pieces;
            };
            between(self);
            response = self.in_the_world(|core, context| next_chunk(core, context, rest));
        }
    }

    fn ask(&mut self, method: Method, target: &str, headers: &[(&str, &str)]) -> (u16, String) {
        match self.reply(&request(method, target, headers)) {
            Reply::Now(response) => (response.status, String::from_utf8(response.body).unwrap()),
            other => panic!("{target}: {other:?}"),
        }
    }

    fn get(&mut self, target: &str) -> (u16, String) {
        self.ask(Method::Get, target, &[])
    }

    fn json(&mut self, target: &str) -> serde_json::Value {
        serde_json::from_str(&self.get(target).1).unwrap()
    }

    /// Every check passes.
    fn pass(&mut self) {
        self.core.handle_timeout(self.start);
        while let Some(output) = self.core.poll_output() {
            if let Output::Check { monitor, .. } = output {
                let event = Event::Checked {
                    monitor,
                    outcome: Outcome::Pass("a \"quoted\"\nline \\".to_owned()),
                    took: Duration::from_millis(2),
                };
                self.core.handle(self.start, event);
            }
        }
    }
}

fn request(method: Method, target: &str, headers: &[(&str, &str)]) -> Request {
    let headers = headers
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    Request::new(method, target, headers, b"", ListenerScope::Unix).unwrap()
}

fn ok() -> (u16, String) {
    (200, String::new())
}

#[test]
fn register_and_unregister_answer_as_gocast() {
    let mut f = Fixture::new();
    for method in [Method::Get, Method::Post, Method::Other] {
        let target = "/register?name=web&vip=203.0.113.7/32&monitor=port:tcp:80&vip_communities=1:2,3:4&nat=tcp:80:8080";
        assert_eq!(f.ask(method, target, &[]), ok());
    }
    let web = f.json("/apps/web");
    assert_eq!(web["source"], "http");
    assert_eq!(web["vips"][0], "203.0.113.7/32");
    assert_eq!(web["nats"][0]["nat"], "tcp:80:8080");
    assert_eq!(f.get("/unregister?name=web"), ok());
    assert_eq!(f.get("/unregister?name=web"), ok());
    assert_eq!(f.get("/unregister?name=%00"), ok());
    assert_eq!(f.get("/apps/web").0, 404);
}

#[test]
fn bad_registrations_have_gocasts_messages() {
    let mut f = Fixture::new();
    let good = "name=x&vip=203.0.113.8/32";
    for (query, reason) in [
        ("", "Invalid app name"),
        ("name=&vip=203.0.113.8/32", "Invalid app name"),
        ("name=x", "Invalid VIP specified, need ip/mask"),
        ("name=x&vip=", "Invalid VIP specified, need ip/mask"),
        (
            "name=x&vip=203.0.113.8",
            "Invalid VIP specified, need ip/mask",
        ),
        (
            "name=x&vip=nonsense/32",
            "Invalid VIP specified, need ip/mask",
        ),
        (
            "name=x&vip=203.0.113.8/33",
            "Invalid VIP specified, need ip/mask",
        ),
        (
            &format!("{good}&monitor=exec:"),
            "Invalid exec monitor, must specify command",
        ),
        (
            &format!("{good}&monitor=exec"),
            "Invalid exec monitor, must specify command",
        ),
        (
            &format!("{good}&monitor=port:tcp"),
            "Invalid port monitor, must specify proto:port",
        ),
        (
            &format!("{good}&monitor=port"),
            "Invalid port monitor, must specify proto:port",
        ),
    ] {
        let want = (400, format!("Invalid request: {reason}\n"));
        assert_eq!(f.get(&format!("/register?{query}")), want, "{query}");
    }
    for (query, part) in [
        ("name=a%20&vip=203.0.113.8/32", "Invalid app name"),
        ("name=a%0ab&vip=203.0.113.8/32", "Invalid app name"),
        ("name=x&vip=0.0.0.0/0", "0.0.0.0/0"),
        ("name=x&vip=127.0.0.1/32", "127.0.0.1"),
        (&format!("{good}&monitor="), "monitor"),
        (&format!("{good}&monitor=port:tcp:70000"), "70000"),
        (&format!("{good}&monitor=sctp:1"), "sctp"),
        (&format!("{good}&nat=tcp:1:2:3:4"), "nat"),
        (&format!("{good}&nat=tcp:0"), "nat"),
        (&format!("{good}&vip_communities=65000:70000"), "70000"),
        (&format!("{good}&vip_communities=bogus"), "bogus"),
        (&format!("{good}&interval=5"), "interval"),
        (&format!("{good}&rise=0"), "rise"),
        (&format!("{good}&monitr=port:tcp:1"), "monitor"),
    ] {
        let (status, body) = f.get(&format!("/register?{query}"));
        assert!(
            status == 400 && body.starts_with("Invalid request: ") && body.contains(part),
            "{query}: {status} {body}"
        );
    }
    let want = (400, "Invalid request, need app name specified\n".to_owned());
    assert_eq!(f.get("/unregister"), want);
    assert_eq!(f.get("/unregister?name="), want);
}

#[test]
fn empty_lists_mean_absent_and_a_changed_app_is_replaced() {
    let mut f = Fixture::new();
    let target = "/register?name=x&vip=203.0.113.8/32&nat=&vip_communities=";
    assert_eq!(f.get(target), ok());
    assert_eq!(f.json("/apps/x")["nats"], serde_json::json!([]));
    assert_eq!(
        f.get("/register?name=x&vip=203.0.113.9/32&interval=2s&rise=2"),
        ok()
    );
    assert_eq!(
        f.json("/apps/x")["vips"],
        serde_json::json!(["203.0.113.9/32"])
    );
}

#[test]
fn policy_and_conflicts_have_their_own_statuses() {
    let mut f = Fixture::new();
    let (status, body) = f.get("/register?name=x&vip=203.0.113.8/32&monitor=exec:true");
    assert_eq!(status, 403);
    assert!(body.contains("allow_exec"), "{body}");
    let (status, body) = f.get("/register?name=x&vip=198.51.100.1/32");
    assert_eq!(status, 403);
    assert!(body.contains("allowed_vips"), "{body}");
    let (status, body) = f.get("/register?name=x&vip=192.0.2.53/32");
    assert_eq!(status, 409);
    assert!(body.contains("dns"), "{body}");
    assert_eq!(f.get("/register?name=dns&vip=192.0.2.54/32").0, 409);
    let json = [("accept", "application/json")];
    let (_, body) = f.ask(Method::Get, "/register?name=x&vip=192.0.2.53/32", &json);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(body["error"].as_str().unwrap().contains("dns"));
}

#[test]
fn changing_calls_need_the_token_and_reading_ones_do_not() {
    let yaml = YAML.replace("agent: {", "agent: {api_token: s3cret, ");
    let mut f = Fixture::with(&yaml);
    let token = [("authorization", "Bearer s3cret")];
    for target in [
        "/register?name=x&vip=203.0.113.8/32",
        "/unregister?name=x",
        "/drain?wait=0",
        "/undrain",
    ] {
        assert_eq!(f.get(target).0, 401, "{target}");
        assert_eq!(f.ask(Method::Get, target, &token), ok(), "{target}");
    }
    for target in ["/heartbeat?name=x", "/reload", "/apps/dns/drain"] {
        assert_eq!(f.ask(Method::Post, target, &[]).0, 401, "{target}");
    }
    for target in [
        "/",
        "/info",
        "/apps",
        "/apps/dns",
        "/events",
        "/healthz",
        "/metrics",
    ] {
        assert_eq!(f.get(target).0, 200, "{target}");
    }
    let reply = f.reply(&request(Method::Get, "/drain", &[]));
    let Reply::Now(response) = reply else {
        panic!()
    };
    assert!(
        response
            .headers
            .contains(&("WWW-Authenticate", "Bearer".to_owned()))
    );
}

#[test]
fn pages_from_elsewhere_change_nothing() {
    let mut f = Fixture::new();
    let target = "/register?name=x&vip=203.0.113.8/32";
    for header in [
        ("origin", "http://evil.example"),
        ("sec-fetch-site", "cross-site"),
    ] {
        assert_eq!(f.ask(Method::Post, target, &[("host", "h"), header]).0, 403);
    }
    let mut rebound = request(Method::Get, "/apps", &[("host", "evil.example:8179")]);
    rebound.via = ListenerScope::Loopback;
    let Reply::Now(response) = f.reply(&rebound) else {
        panic!()
    };
    assert_eq!(response.status, 403);
    assert_eq!(f.get("/apps/x").0, 404);
}

#[test]
fn doctor_is_for_everyone_who_may_read_and_answered_when_the_host_was_looked_at() {
    let mut f = Fixture::new();
    assert_eq!(
        f.reply(&request(Method::Get, "/doctor", &[])),
        Reply::Doctor
    );
    let page = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors")];
    let Reply::Now(refused) = f.reply(&request(Method::Get, "/doctor", &page)) else {
        panic!("a foreign page")
    };
    assert_eq!(refused.status, 403);
}

#[test]
fn methods_are_checked_where_gocast_had_no_such_call() {
    let mut f = Fixture::new();
    for (method, target, allow) in [
        (Method::Post, "/apps", "GET, HEAD"),
        (Method::Other, "/healthz", "GET, HEAD"),
        (Method::Post, "/doctor", "GET, HEAD"),
        (Method::Head, "/drain", "GET, POST"),
        (Method::Get, "/reload", "POST"),
        (Method::Get, "/apps/dns/drain", "POST"),
    ] {
        let Reply::Now(response) = f.reply(&request(method, target, &[])) else {
            panic!()
        };
        assert_eq!(response.status, 405, "{target}");
        assert!(
            response.headers.contains(&("Allow", allow.to_owned())),
            "{target}"
        );
    }
    assert_eq!(f.ask(Method::Other, "/info", &[]).0, 200);
    assert_eq!(f.ask(Method::Head, "/healthz", &[]).0, 200);
    for target in [
        "/no-such-page",
        "/apps/nobody",
        "/apps/a/b",
        "/register/",
        "*",
    ] {
        let (status, body) = f.get(target);
        assert!(status == 404 && !body.is_empty(), "{target}");
    }
}

#[test]
fn a_drain_without_an_app_can_be_undone() {
    let mut f = Fixture::new();
    let register = "/register?name=web&vip=203.0.113.7/32";
    assert_eq!(f.get(register), ok());
    assert_eq!(f.get("/drain?name=web&wait=0"), ok());
    assert_eq!(f.get("/unregister?name=web"), ok());
    assert_eq!(f.get("/apps/web").0, 404);
    assert_eq!(f.get("/undrain?name=web"), ok());
    assert_eq!(f.get(register), ok());
    assert_ne!(f.json("/apps/web")["state"], "drained");
}

#[test]
fn a_drain_says_who_asked_for_it_and_keeps_that_over_a_restart() {
    let mut f = Fixture::new();
    f.pass();
    let ask = |scope, agent: &str| {
        let headers = vec![("user-agent".to_owned(), agent.to_owned())];
        Request::new(Method::Get, "/drain?name=dns&wait=0", headers, b"", scope).unwrap()
    };
    let tcp = ListenerScope::Tcp {
        caller: "127.0.0.1".parse().unwrap(),
        local: "127.0.0.1".parse().unwrap(),
    };
    for (scope, agent, by) in [
        (tcp, "curl/8", "HTTP from 127.0.0.1"),
        (ListenerScope::Loopback, "curl/8", "HTTP from this host"),
        (
            ListenerScope::Unix,
            "sidecast/0.1.0",
            "the sidecast command from the Unix socket",
        ),
    ] {
        assert_eq!(f.get("/undrain"), ok());
        assert_eq!(f.json("/apps/dns")["drain"], serde_json::Value::Null);
        f.reply(&ask(scope, agent));
        let app = f.json("/apps/dns");
        assert_eq!(app["drain"]["by"], by);
        assert_eq!(app["drain"]["since"], "2023-11-14T22:13:20.000Z");
        let why = app["why"].as_str().unwrap().to_owned();
        assert!(why.ends_with(&format!("requested by {by}")), "{why}");
    }
    // A second request does not replace the recorded requester.
    f.reply(&ask(tcp, "curl/8"));
    let text = f.core.saved_state().to_json();
    let mut again = Fixture::new();
    let (state, problems) = crate::config::SavedState::read(&text, again.core.config()).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    again.core.restore(again.start, state);
    let drain = again.json("/apps/dns")["drain"].take();
    assert_eq!(drain["by"], "the sidecast command from the Unix socket");
    assert_eq!(drain["since"], "2023-11-14T22:13:20.000Z");
}

#[test]
fn a_drain_waits_unless_told_not_to() {
    let mut f = Fixture::new();
    f.pass();
    let reply = f.reply(&request(Method::Get, "/drain?name=dns", &[]));
    let Reply::WhenDrained { name, json } = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(name.as_ref().map(AppName::as_str), Some("dns"));
    assert!(!json, "unless it is asked for");
    f.core.handle_timeout(f.start + Duration::from_secs(2));
    assert!(f.core.drained(name.as_ref()));
    let response = drained(&f.core, name.as_ref(), false);
    assert_eq!(response.body, b"dns: done 2.0 s\n", "no peer had the route");
    let response = drained(&f.core, None, true);
    let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    let of_app = serde_json::json!({
        "app": "dns", "acknowledged": null, "forwarding_ended": null, "last_packet": null, "done": 2.0,
        "text": "done 2.0 s",
    });
    assert_eq!(body, serde_json::json!({ "drained": [of_app] }));
    let reply = f.reply(&request(Method::Get, "/drain?name=dns", &[]));
    let again = drained(&f.core, name.as_ref(), false);
    assert_eq!(reply, Reply::Now(again), "it is done");
    assert_eq!(f.get("/undrain?name=dns"), ok());
    assert_eq!(f.get("/drain?wait=0"), ok());
    assert_eq!(f.get("/readyz").0, 503);
    assert_eq!(f.get("/undrain"), ok());
    let reply = f.reply(&request(Method::Post, "/apps/dns/drain", &[]));
    assert!(matches!(reply, Reply::WhenDrained { name: Some(_), .. }));
    assert_eq!(f.get("/drain?name=nobody").0, 404);
    assert_eq!(f.get("/undrain?name=nobody").0, 404);
    assert_eq!(f.get("/drain?wait=maybe").0, 400);
}

#[test]
fn heartbeats_and_reloads() {
    let mut f = Fixture::new();
    let target = "/register?name=hb&vip=203.0.113.8/32&monitor=heartbeat:5s";
    assert_eq!(f.get(target), ok());
    assert_eq!(f.get("/heartbeat?name=hb"), ok());
    assert_eq!(f.get("/heartbeat?name=dns").0, 404);
    assert_eq!(f.get("/heartbeat?name=nobody").0, 404);
    assert_eq!(f.get("/heartbeat").0, 400);
    let json = [("accept", "application/json")];
    let reply = f.reply(&request(Method::Post, "/reload", &json));
    assert_eq!(reply, Reply::Reload { json: true });
    let changes = ["app a added".to_owned()];
    assert_eq!(reloaded(Ok(&changes), false).body, b"app a added\n");
    assert_eq!(
        reloaded(Ok(&changes), true).body,
        b"{\"changes\":[\"app a added\"]}\n"
    );
    assert_eq!(reloaded(Ok(&[]), false).body, b"nothing changed\n");
    assert_eq!(reloaded(Err("line 3: wrong"), false).status, 400);
}

#[test]
fn an_app_shows_what_it_does_and_hides_what_it_must() {
    let mut f = Fixture::new();
    f.pass();
    let text = f.get("/apps").1;
    assert!(!text.contains("hunter2"), "{text}");
    let app = &f.json("/apps")[0];
    assert_eq!(app["name"], "dns");
    assert_eq!(app["source"], "config");
    assert_eq!(app["state"], "up");
    assert_eq!(app["since"], "2023-11-14T22:13:20.000Z");
    assert_eq!(app["announced"], false);
    assert!(app["why"].is_string());
    let monitors = app["monitors"].as_array().unwrap();
    assert_eq!(monitors.len(), 2);
    for monitor in monitors {
        assert_eq!(monitor["result"], "pass");
        assert_eq!(monitor["message"], "a \"quoted\"\nline \\");
        assert_eq!(monitor["duration"], 0.002);
        assert_eq!(monitor["age"], 0.0);
    }
    let specs: Vec<_> = monitors
        .iter()
        .map(|m| m["monitor"].as_str().unwrap())
        .collect();
    assert!(specs.contains(&"port:udp:53") && specs.contains(&"exec"));
    let events = f.json("/events");
    for (event, kind, from, to, why) in [
        (
            &events[0],
            "registration",
            "unregistered",
            "pending",
            "by config",
        ),
        (&events[1], "state", "pending", "up", "all monitors pass"),
    ] {
        let shown = serde_json::json!({
            "app": "dns", "kind": kind, "from": from, "to": to, "why": why,
            "time": "2023-11-14T22:13:20.000Z", "age": 0.0, "seq": event["seq"],
            "last_resort": false,
        });
        assert_eq!(*event, shown);
    }
}

#[test]
fn info_without_peers_is_an_object_and_a_peer_that_is_written_is_there_from_the_start() {
    let mut f = Fixture::with(&YAML.replace(", peer_ip: 10.0.0.1", ""));
    assert_eq!(f.json("/info"), serde_json::json!({ "peers": [] }));
    let mut f = Fixture::new();
    let info = f.json("/info");
    assert_eq!(info["name"], "10.0.0.1");
    assert_eq!(info["state"]["session_state"], 1);
    let metrics = f.get("/metrics").1;
    for line in [
        "sidecast_bgp_session_up{peer=\"10.0.0.1\"} 0",
        "sidecast_bgp_session_state{peer=\"10.0.0.1\"} 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{metrics}");
    }
}

#[test]
fn metrics_are_prometheus_text() {
    let mut f = Fixture::new();
    f.pass();
    let (status, text) = f.get("/metrics");
    assert_eq!(status, 200);
    for line in [
        "sidecast_build_info{version=\"0.1.0\"} 1",
        "sidecast_app_healthy{app=\"dns\"} 1",
        "sidecast_app_state{app=\"dns\",state=\"up\"} 1",
        "sidecast_app_state{app=\"dns\",state=\"down\"} 0",
        "sidecast_app_announced{app=\"dns\",vip=\"192.0.2.53/32\"} 0",
        "sidecast_transitions_total{app=\"dns\",to=\"up\"} 1",
        "sidecast_config_last_reload_successful 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert!(!text.contains("hunter2"));
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    // Every family is declared once, before its samples.
    let mut declared = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(
                declared.insert(rest.split(' ').next().unwrap().to_owned()),
                "{line}"
            );
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            // A histogram has samples of three names.
            let of_histogram = ["_bucket", "_sum", "_count"].into_iter();
            let mut family = of_histogram.filter_map(|end| name.strip_suffix(end));
            let known = declared.contains(name) || family.any(|name| declared.contains(name));
            assert!(known, "{line}");
        }
    }
}

#[test]
fn the_metrics_listener_knows_three_paths() {
    let f = Fixture::new();
    let process = || None;
    let context = ApiContext {
        now: f.start,
        wall: SystemTime::UNIX_EPOCH,
        process: &process,
        reload: LastReload {
            successful: false,
            succeeded_at: SystemTime::UNIX_EPOCH,
        },
        longest_turn: Duration::ZERO,
        log_lines_dropped: 0,
        state_file_written: None,
        consul_up: Some(false),
        nat: &Rc::default(),
    };
    let ask = |method, target| handle_metrics(&f.core, &context, &request(method, target, &[]));
    assert_eq!(ask(Method::Get, "/healthz").status, 200);
    assert_eq!(ask(Method::Get, "/readyz").status, 503);
    let metrics = ask(Method::Get, "/metrics");
    assert_eq!(metrics.content_type, view::metrics::CONTENT_TYPE);
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(text.contains("\nsidecast_consul_up 0\n"));
    for target in [
        "/",
        "/apps",
        "/doctor",
        "/register?name=x&vip=203.0.113.8/32",
        "/drain",
        "/info",
    ] {
        assert_eq!(ask(Method::Get, target).status, 404, "{target}");
    }
    assert_eq!(ask(Method::Post, "/metrics").status, 405);
}

#[test]
fn many_apps_are_sent_in_chunks_of_bounded_size() {
    let mut f = Fixture::new();
    let monitors = "&monitor=tcp:192.0.2.1:80&monitor=dns:a.example&monitor=port:tcp:80";
    let name = |n: usize| format!("app-{n:03}");
    for n in 0..600 {
        let vip = format!("203.0.113.{}/32", n % 255);
        let target = format!("/register?name={}&vip={vip}{monitors}", name(n));
        // Those whose VIP another holds are refused.
        assert!([200, 409].contains(&f.get(&target).0));
    }
    let names = |pieces: &[Vec<u8>]| -> Vec<String> {
        let all: serde_json::Value = serde_json::from_slice(&pieces.concat()).unwrap();
        let apps = all.as_array().unwrap().iter();
        apps.map(|app| app["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let expected: Vec<String> = (0..255).map(name).chain(["dns".to_owned()]).collect();
    for target in ["/apps", "/metrics"] {
        let pieces = f.pieces(target, |_| {});
        assert!(pieces.len() > 4, "{target}: {}", pieces.len());
        let longest = pieces.iter().map(Vec::len).max();
        assert!(longest < Some(24 * 1024), "{target}: {longest:?}");
    }
    assert_eq!(names(&f.pieces("/apps", |_| {})), expected);
    let whole = String::from_utf8(f.pieces("/metrics", |_| {}).concat()).unwrap();
    let declared: Vec<&str> = whole.lines().filter(|l| l.starts_with("# TYPE ")).collect();
    let once: std::collections::BTreeSet<&str> = declared.iter().copied().collect();
    assert_eq!(declared.len(), once.len(), "{declared:?}");
    assert_eq!(whole.matches("\nsidecast_monitor_up{").count(), 767);
    assert_eq!(whole.matches("\nsidecast_app_healthy{").count(), 256);
    // Apps may be added and removed between chunks, even the one shown last.
    let mut gone = 0;
    let pieces = f.pieces("/apps", |f| {
        for _ in 0..40 {
            f.get(&format!("/unregister?name={}", name(gone)));
            gone += 1;
        }
        f.get("/register?name=zzz&vip=203.0.113.255/32");
    });
    let shown = names(&pieces);
    assert!(shown.is_sorted() && shown.last().unwrap() == "zzz");
    assert!(shown.contains(&"dns".to_owned()) && shown.contains(&name(254)));
}

#[test]
fn the_page_is_sent_with_a_strict_policy() {
    let mut f = Fixture::new();
    let Reply::Now(page) = f.reply(&request(Method::Get, "/", &[])) else {
        panic!()
    };
    let policies = page
        .headers
        .iter()
        .filter(|(name, _)| *name == "Content-Security-Policy");
    let policies: Vec<&str> = policies.map(|(_, policy)| policy.as_str()).collect();
    assert_eq!(policies, [view::page::POLICY]);
    for wanted in [
        "default-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(policies[0].contains(wanted), "{wanted}");
    }
    assert!(!policies[0].contains("unsafe"));
}
