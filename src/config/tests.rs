use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::app::{App, Monitor, MonitorSpec, Probing, RouteAction, Source};
use crate::schema::Shape;

mod golden;

const FULL: &str = include_str!("../../tests/data/config/full.yaml");
const PEERS: &str = include_str!("../../tests/data/config/peers.yaml");
const GOCAST: &str = include_str!("../../tests/data/config/gocast.yaml");

/// Loads a file's text with an environment; other files are those of `files`.
fn load_with(text: &str, env: &[(&str, &str)], files: &[(&str, &str)]) -> Result<Loaded, Problems> {
    let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    let env: BTreeMap<String, String> = env.iter().map(owned).collect();
    let mut read = |path: &Path| {
        if path == Path::new("f.yaml") {
            return Ok(text.to_owned());
        }
        let mut files = files.iter();
        let found = files.find(|(name, _)| Path::new(name) == path);
        found
            .map(|(_, text)| (*text).to_owned())
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    };
    let flag = (!text.is_empty()).then_some("f.yaml");
    load(flag, &env, &mut read)
}

fn good(text: &str) -> Config {
    match load_with(text, &[], &[]) {
        Ok(loaded) => loaded.config,
        Err(problems) => panic!("{problems}\n{text}"),
    }
}

fn problems(text: &str) -> Vec<String> {
    let problems = load_with(text, &[], &[]).expect_err(text);
    problems.0.iter().map(ToString::to_string).collect()
}

fn env_problems(env: &[(&str, &str)]) -> Vec<String> {
    let mut all = vec![("SIDECAST_BGP_LOCAL_AS", "65001")];
    all.extend_from_slice(env);
    let problems = load_with("", &all, &[]).expect_err("a problem");
    problems.0.iter().map(ToString::to_string).collect()
}

fn from_env(env: &[(&str, &str)], files: &[(&str, &str)]) -> Config {
    let mut all = vec![("SIDECAST_BGP_LOCAL_AS", "65001")];
    all.extend_from_slice(env);
    match load_with("", &all, files) {
        Ok(loaded) => loaded.config,
        Err(problems) => panic!("{problems}"),
    }
}

/// Settings around an app, so that tests need to write only the app.
fn with_app(app: &str) -> String {
    format!("bgp: {{local_as: 65001, peer_as: 65000, peer_ip: 10.0.0.1}}\napps:\n{app}")
}

#[test]
fn every_documented_key_is_read() {
    let config = good(FULL);
    let agent = &config.agent;
    assert_eq!(agent.listen.addrs.len(), 1);
    assert!(!agent.listen.defaulted);
    assert_eq!(agent.metrics.addrs, [ListenAddr::Any(9179)]);
    assert_eq!(agent.vip_lease, Lease::Auto);
    assert_eq!(
        agent.api_token.as_ref().unwrap().expose(),
        "a-token-of-our-own"
    );
    assert_eq!(agent.on_change, ["/usr/local/bin/notify"]);
    let consul = agent.consul.as_ref().unwrap();
    assert_eq!(consul.addr, "http://localhost:8500");
    assert_eq!(consul.grace, None);
    assert_eq!(config.bgp.attributes.as_path_prepend, Some(0));
    assert_eq!(config.bgp.peers[0].hold_time, 90);
    assert_eq!(config.apps.len(), 2);
    assert!(matches!(config.apps[1].when_down, RouteAction::Announce(_)));
    assert_eq!(config.apps[1].monitors.len(), 10);
    assert_eq!(config.apps[1].options.damping(), None);

    let config = good(PEERS);
    assert_eq!(config.bgp.peers.len(), 4);
    let [first, second, third, fourth] = config.bgp.peers.as_slice() else {
        panic!("four peers")
    };
    assert_eq!((first.ttl_security, first.multihop), (Some(1), None));
    assert_eq!((second.ttl_security, second.multihop), (None, Some(1)));
    assert_eq!(second.remote, Remote::Interface("eth0".to_owned()));
    assert_eq!(third.remote.to_string(), "fe80::1%eth0");
    assert_eq!(third.peer_as.map(crate::net::Asn::get), Some(65000));
    assert_eq!(third.bfd.map(|bfd| bfd.multiplier), Some(5));
    assert_eq!((fourth.hold_time, fourth.graceful_restart), (0, 120));
    assert!(!config.bgp.discover);
    assert!(config.agent.metrics.is_off());
}

#[test]
fn the_shipped_example_of_gocast_is_read() {
    use crate::app::Vip;
    use crate::net::Community;
    let loaded = load_with(GOCAST, &[("CONSUL_NODE", "n1")], &[]).unwrap();
    let config = loaded.config;
    assert_eq!(config.agent.listen.addrs, [ListenAddr::Any(8080)]);
    assert_eq!(config.bgp.peers[0].peer_as.unwrap().get(), 6789);
    assert_eq!(config.bgp.attributes.communities.len(), 2);
    let app = &config.apps[0];
    assert_eq!(app.vips, ["1.1.1.1/32".parse::<Vip>().unwrap()].into());
    assert_eq!(
        app.attributes.communities,
        [Community::new(12345, 300)].into()
    );
    // Its listener is reachable from every host.
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    assert!(config.warnings[0].contains("agent.listen_addr :8080 is reachable from other hosts"));
}

/// Each line of a file that is wrong, with the problem that is reported.
fn wrong_configurations() -> Vec<(String, &'static str)> {
    let agent = |line: &str| format!("bgp: {{local_as: 1}}\nagent:\n  {line}\n");
    let bgp = |line: &str| format!("bgp:\n  local_as: 65001\n  {line}\n");
    let app = |line: &str| with_app(&format!("- name: a\n  vip: 192.0.2.1/32\n  {line}\n"));
    vec![
        (
            agent("monitor_intervall: 1s"),
            "f.yaml:3: agent.monitor_intervall: is no known key; did you mean `monitor_interval`?",
        ),
        (
            agent("local_as: 1"),
            "f.yaml:3: agent.local_as: is no known key here; it belongs under `bgp`",
        ),
        (
            agent("monitor_interval: 10"),
            "f.yaml:3: agent.monitor_interval: 10: should be a duration: a unit is missing (GoCast reads a bare number as nanoseconds); write 10s, 1m30s, 1.5s or 500ms",
        ),
        (
            agent("monitor_interval: -1s"),
            "f.yaml:3: agent.monitor_interval: -1s: should be a duration such as 10s, 1m30s, 1.5s or 500ms",
        ),
        (
            agent("monitor_interval: 1us"),
            "f.yaml:3: agent.monitor_interval: 1us: should be at least 10ms, or 0 for the default",
        ),
        (
            agent("listen_addr: 8080"),
            "f.yaml:3: agent.listen_addr: 8080: should be an address to listen on",
        ),
        (
            agent("listen_addr: [':80', 'off']"),
            "f.yaml:3: agent.listen_addr: off: should stand alone",
        ),
        (
            agent("api_token: 'a b'"),
            "f.yaml:3: agent.api_token: should be visible ASCII",
        ),
        (
            agent("api_token_file: /none"),
            "f.yaml:3: agent.api_token_file: /none: the file cannot be read",
        ),
        (
            agent("allow_exec: [root]"),
            "f.yaml:3: agent.allow_exec[0]: root: should be a source of apps",
        ),
        (
            agent("allowed_vips: [192.0.2.1/24]"),
            "f.yaml:3: agent.allowed_vips[0]: 192.0.2.1/24: should be a prefix without host bits",
        ),
        (
            agent("vip_lease: 1s"),
            "f.yaml:3: agent.vip_lease: 1s: should be at least 5s",
        ),
        (
            agent("vip_linger: never"),
            "f.yaml:3: agent.vip_linger: never: should be a duration such as 10s, 1m30s, 1.5s or 500ms, or off",
        ),
        (
            agent("max_connections: 0"),
            "f.yaml:3: agent.max_connections: 0: should be a number from 1 to 1000000",
        ),
        (agent("max_connections: 0x10"), "should be a number"),
        (
            agent("check_threads: 401"),
            "f.yaml:3: agent.check_threads: 401: should be a number from 1 to 400",
        ),
        (
            agent("consul_addr: localhost:8500"),
            "f.yaml:3: agent.consul_addr: localhost:8500: should be a URL such as http://localhost:8500",
        ),
        (agent("consul_warning: maybe"), "should be fail or pass"),
        (
            agent("monitor_interval: [1s]"),
            "f.yaml:3: agent.monitor_interval: a list: should be a single value",
        ),
        (
            bgp("local_as: 1"),
            "f.yaml:3: bgp.local_as: is listed twice, first at f.yaml:2",
        ),
        (
            bgp("peer_as: 0"),
            "f.yaml:3: bgp.peer_as: 0: should be an AS number from 1",
        ),
        (
            bgp("peer_as: 1\n  remote_as: 2"),
            "f.yaml:4: bgp.remote_as: 2: is the same key as peer_as, which is 1",
        ),
        (
            bgp("peer_ip: 10.0.0.1, nonsense"),
            "f.yaml:3: bgp.peer_ip: nonsense: should be a peer: an address",
        ),
        (bgp("peer_ip: fe80::1"), "should be a peer"),
        (
            bgp("peer_ip: [10.0.0.1, 10.0.0.1]"),
            "f.yaml:3: bgp.peer_ip[1]: 10.0.0.1: is listed twice",
        ),
        (bgp("peers: []"), "f.yaml:3: bgp.peers: is an empty list"),
        (
            bgp("peers: [{peer_as: 1}]"),
            "f.yaml:3: bgp.peers[0].peer_ip: is missing",
        ),
        (
            bgp("peers: [{peer_ip: 10.0.0.1, local_as: 1}]"),
            "bgp.peers[0].local_as: is no known key here; it belongs under `bgp`",
        ),
        (
            bgp("peers: [{peer_ip: 10.0.0.1}]\n  peer_ip: 10.0.0.2"),
            "replaces peer_ip",
        ),
        (
            bgp("communities: ['65000:70000']"),
            "f.yaml:3: bgp.communities[0]: 65000:70000: should be a community",
        ),
        (bgp("origin: bgp"), "should be an origin"),
        (
            bgp("hold_time: 2s"),
            "f.yaml:3: bgp.hold_time: 2s: should be 0 or at least 3s (RFC 4271)",
        ),
        (bgp("hold_time: 3500ms"), "should be whole seconds"),
        (
            bgp("graceful_restart: 5000s"),
            "should be whole seconds, at most 4095s",
        ),
        (bgp("connect_retry: 1ms"), "should be at least 100ms"),
        (bgp("port: 70000"), "should be a number from 1 to 65535"),
        (
            bgp("multihop: 5\n  ttl_security: 1"),
            "f.yaml:4: bgp.ttl_security: cannot go with multihop",
        ),
        (bgp("families: [ipv5]"), "should be ipv4 or ipv6"),
        (bgp("families: []"), "should name ipv4, ipv6 or both"),
        (
            bgp("passive: true"),
            "waits for the peer to connect, but bgp.listen is not set",
        ),
        (bgp("passive: perhaps"), "should be true or false"),
        (
            bgp("next_hop: 2001:db8::1"),
            "an IPv6 one belongs in next_hop6",
        ),
        (
            bgp("next_hop6: 10.0.0.1"),
            "an IPv4 one belongs in next_hop",
        ),
        (
            bgp("local_ip: [10.0.0.1, 10.0.0.2]"),
            "at most one address of each family",
        ),
        (
            bgp("local_ip: 'fe80::2'"),
            "f.yaml:3: bgp.local_ip: fe80::2: is link-local: write a global address",
        ),
        (
            bgp("next_hop6: 'fe80::2'"),
            "f.yaml:3: bgp.next_hop6: fe80::2: is link-local",
        ),
        (
            bgp("peers: [{peer_ip: '2001:db8::1', local_ip: 10.0.0.2}]"),
            "f.yaml:3: bgp.peers[0].local_ip: 10.0.0.2: should be an IPv6 address, from which 2001:db8::1 is spoken to; for the other family's routes write next_hop",
        ),
        (
            bgp("peers: [{peer_ip: 10.0.0.1, local_ip: '2001:db8::2'}]"),
            "should be an IPv4 address, from which 10.0.0.1 is spoken to",
        ),
        (bgp("router_id: 0.0.0.0"), "should be a router id"),
        (
            bgp("bfd: {interval: 1us}"),
            "f.yaml:3: bgp.bfd.interval: 1us: should be between",
        ),
        (bgp("bfd: fast"), "should be true or false, or a map"),
        (
            app("monitor: port:tcp:80"),
            "f.yaml:5: apps[0].monitor: is no known key; did you mean `monitors`?",
        ),
        (
            app("vip_config: {communities: []}"),
            "apps[0].vip_config.communities: is no known key; did you mean `bgp_communities`?",
        ),
        (
            app("med: 5"),
            "f.yaml:5: apps[0].med: is no known key here; it belongs under `vip_config`",
        ),
        (
            app("bgp_comunities: []"),
            "apps[0].bgp_comunities: is no known key; known are name, vip",
        ),
        (
            app("monitors: [port:tcp]"),
            "f.yaml:5: apps[0].monitors[0]: port:tcp: should be a port monitor",
        ),
        (app("monitors: ['exec:']"), "should be an exec monitor"),
        (
            app("monitors: [consul]"),
            "needs Consul: agent.consul_addr is not set",
        ),
        (app("monitors: [pong]"), "should be a monitor: port:tcp:N"),
        (
            app("monitors: [{monitor: port:tcp:80, status: 200}]"),
            "apps[0].monitors[0].status: is only for http monitors",
        ),
        (
            app("monitors: [{}]"),
            "f.yaml:5: apps[0].monitors[0].monitor: is missing",
        ),
        (
            app("monitors: [{exec: []}]"),
            "should be a command, or a list",
        ),
        (
            app("monitors: [{exec: x, monitor: consul}]"),
            "replaces monitor",
        ),
        (
            app(
                "monitors:\n  - {monitor: port:tcp:80, name: x}\n  - {monitor: port:tcp:81, name: x}",
            ),
            "f.yaml:7: apps[0].monitors[1].name: x: is the name of two monitors",
        ),
        (
            app("nats: [udp:53:8053:1]"),
            "should be protocol:listenPort:destinationPort",
        ),
        (
            app("nats: [udp:53:8053, udp:53:8054]"),
            "maps a port to a second destination",
        ),
        (app("rise: 0"), "should be a number from 1 to 1000"),
        (app("hold_down: 2m"), "should be at most 1m"),
        (
            app("flap_limit: 5"),
            "should be a number and a duration such as 5/60s",
        ),
        (
            app("vip_config: {when_down: {medd: 1}}"),
            "apps[0].vip_config.when_down.medd: is no known key; did you mean `med`?",
        ),
        (
            app("vip_config: {when_down: stay}"),
            "should be withdraw, last_resort, or a map",
        ),
        (
            app("vips: [10.0.0.0/8]"),
            "cannot be a VIP: it contains 10.0.0.1, a BGP peer",
        ),
        (
            app("vips: [192.0.2.5]"),
            "should be an address with its length: write 192.0.2.5/32",
        ),
        (
            app("vips: [0.0.0.0/0]"),
            "cannot be a VIP: it would take all traffic",
        ),
        (
            app("vips: ['fe80::/64']"),
            "cannot be a VIP: it contains link-local addresses",
        ),
        (
            with_app("- {name: a, vip: 192.0.2.1/32}\n- {name: a, vip: 192.0.2.2/32}\n"),
            "f.yaml:4: apps[1].name: a: is the name of two apps",
        ),
        (
            with_app("- {name: a, vip: 192.0.2.1/32}\n- {name: b, vip: 192.0.2.1/32}\n"),
            "f.yaml:4: apps[1].vip: 192.0.2.1/32: is the VIP of two apps, a and b",
        ),
        (
            with_app("- {vip: 192.0.2.1/32}\n"),
            "f.yaml:3: apps[0].name: is missing",
        ),
        (
            with_app("- {name: a}\n"),
            "f.yaml:3: apps[0].vip: is missing",
        ),
        (
            with_app("- {name: \"a\\tb\", vip: 192.0.2.1/32}\n"),
            "apps[0].name: a\\tb: should be a name",
        ),
        (
            "bgp: 5\n".to_owned(),
            "f.yaml:1: bgp: 5: should be a map of keys",
        ),
        (
            "bgp: {local_as: 1}\nappps: []\n".to_owned(),
            "f.yaml:2: appps: is no known key; did you mean `apps`?",
        ),
        ("bgp: {local_as: 1\n".to_owned(), "f.yaml:"),
        ("agent: {}\n".to_owned(), "bgp.local_as: is missing"),
    ]
}

#[test]
fn each_problem_has_its_line_key_and_value() {
    for (text, want) in wrong_configurations() {
        let all = problems(&text);
        assert!(
            all.iter().any(|p| p.contains(want)),
            "{want}\n{all:#?}\n{text}"
        );
        assert!(all.len() <= 2, "{all:#?}\n{text}");
    }
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_file() {
    let text = "agent:\n  monitor_interval: 10\n  listen: x\nbgp:\n  local_as: x\n  med: -1\n\
                apps:\n- name: a\n  vip: 192.0.2.1\n  monitors:\n  - port:tcp:80\n  - port:tcp:0\n- name: ''\n";
    let problems = load_with(text, &[], &[]).unwrap_err().0;
    let line = |problem: &Problem| match problem.place {
        Place::File(_, line) => Some(line),
        Place::Env(_) | Place::Flag | Place::Default => None,
    };
    let lines: Vec<usize> = problems.iter().filter_map(line).collect();
    assert_eq!(lines, [2, 3, 5, 6, 9, 12, 13, 13]);
}

#[test]
fn the_environment_alone_makes_a_sidecar() {
    let config = from_env(
        &[
            ("SIDECAST_BGP_PEER_IP", "10.0.0.1,2001:db8::1"),
            ("SIDECAST_BGP_REMOTE_AS", "65000"),
            ("SIDECAST_BGP_COMMUNITIES", "65001:1, no-export"),
            ("SIDECAST_BGP_BFD_INTERVAL", "50ms"),
            ("SIDECAST_AGENT_LISTEN_ADDR", ":8080,unix:/run/s.sock"),
            ("SIDECAST_AGENT_METRICS_ADDR", ""),
            ("SIDECAST_AGENT_ALLOW_EXEC", "env"),
            ("SIDECAST_AGENT_STATE_FILE", "/s.yaml"),
            ("SIDECAST_APP_NAME", "dns"),
            ("SIDECAST_APP_VIP", "192.0.2.53/32,2001:db8::53/128"),
            ("SIDECAST_APP_MONITORS", "port:udp:53; exec:/bin/check a,b"),
            ("SIDECAST_APP_NATS", "udp:53:8053;tcp:53"),
            ("SIDECAST_APP_INTERVAL", "1s"),
            ("SIDECAST_APP_BGP_COMMUNITIES", "65001:53\n65001:54\n"),
            ("SIDECAST_APP_WHEN_DOWN", "{med: 1000}"),
            ("SIDECAST_APP_DRAIN_TIME", "0"),
            ("PATH", "/bin"),
        ],
        &[],
    );
    assert_eq!(config.bgp.peers.len(), 2);
    assert_eq!(
        config.bgp.peers[1].bfd.unwrap().interval,
        Duration::from_millis(50)
    );
    assert_eq!(config.agent.listen.addrs.len(), 2);
    assert_eq!(config.agent.allow_exec, [Source::Env].into());
    let app = &config.apps[0];
    assert_eq!(
        (app.source, app.vips.len(), app.nats.len()),
        (Source::Env, 2, 2)
    );
    assert_eq!(app.attributes.communities.len(), 2);
    assert_eq!(app.options.drain_time, Duration::ZERO);
    let specs: Vec<String> = app.monitors.iter().map(|m| m.spec.to_string()).collect();
    assert_eq!(specs, ["port:udp:53", "exec:/bin/check a,b"]);
    assert!(matches!(&app.when_down, RouteAction::Announce(a) if a.med == Some(1000)));
}

#[test]
fn lists_of_monitors_split_at_newlines_when_there_is_one() {
    let monitors = |text: &str| {
        let app = [
            ("SIDECAST_APP_NAME", "a"),
            ("SIDECAST_APP_VIP", "192.0.2.1/32"),
            ("SIDECAST_APP_MONITORS", text),
        ];
        from_env(&app, &[]).apps[0].monitors.clone()
    };
    assert_eq!(monitors("exec:a; b\nport:tcp:80").len(), 2);
    let one: Vec<Monitor> = monitors("{monitor: port:tcp:80, name: web}")
        .into_iter()
        .collect();
    assert_eq!(one[0].name.as_deref(), Some("web"));
    assert!(matches!(one[0].spec, MonitorSpec::Port { port: 80, .. }));
}

#[test]
fn the_environment_wins_over_the_file_under_either_name() {
    let text = "agent: {api_token_file: /none, drain_time: 1s}\n\
                bgp: {local_as: 65001, peer_as: 1, password: from-file, bfd: true, multihop: 3,\n  peers: [{peer_ip: 10.0.0.9}]}\n";
    let env = [
        ("SIDECAST_AGENT_API_TOKEN", "t"),
        ("SIDECAST_BGP_REMOTE_AS", "2"),
        ("SIDECAST_BGP_PASSWORD_FILE", "/p"),
        ("SIDECAST_BGP_PEER_IP", "10.0.0.1"),
        ("SIDECAST_BGP_TTL_SECURITY", "1"),
        ("SIDECAST_BGP_BFD_MULTIPLIER", "4"),
    ];
    let loaded = load_with(text, &env, &[("/p", "secret\n")]).unwrap();
    let [peer] = loaded.config.bgp.peers.as_slice() else {
        panic!("one peer")
    };
    assert_eq!(peer.peer_as.unwrap().get(), 2);
    assert_eq!(peer.password.as_ref().unwrap().expose(), "secret");
    assert_eq!(peer.remote.to_string(), "10.0.0.1");
    assert_eq!((peer.multihop, peer.ttl_security), (None, Some(1)));
    assert_eq!(peer.bfd.unwrap().multiplier, 4);
    let origin = |key: &str| loaded.origins.get(key).map(ToString::to_string);
    assert_eq!(origin("agent.drain_time").unwrap(), "f.yaml:1");
    assert_eq!(
        origin("bgp.ttl_security").unwrap(),
        "environment SIDECAST_BGP_TTL_SECURITY"
    );
    assert_eq!(origin("bgp.hold_time"), None);
}

#[test]
fn values_come_from_files_without_one_trailing_newline() {
    let files = [
        ("/token", "t0k3n\n"),
        ("/vip", "192.0.2.1/32\n192.0.2.2/32\n"),
    ];
    let config = from_env(
        &[
            ("SIDECAST_AGENT_API_TOKEN_FILE", "/token"),
            ("SIDECAST_APP_NAME", "a"),
            ("SIDECAST_APP_VIP_FILE", "/vip"),
        ],
        &files,
    );
    assert_eq!(config.agent.api_token.unwrap().expose(), "t0k3n");
    assert_eq!(config.apps[0].vips.len(), 2);
    for (env, want) in [
        (
            [
                ("SIDECAST_AGENT_DRAIN_TIME", "1s"),
                ("SIDECAST_AGENT_DRAIN_TIME_FILE", "/x"),
            ],
            "environment SIDECAST_AGENT_DRAIN_TIME_FILE: agent.drain_time: set either this or SIDECAST_AGENT_DRAIN_TIME, not both",
        ),
        (
            [
                ("SIDECAST_AGENT_DRAIN_TIME", ""),
                ("SIDECAST_AGENT_DRAIN_TIME_FILE", "/x"),
            ],
            "environment SIDECAST_AGENT_DRAIN_TIME_FILE: agent.drain_time: /x: the file cannot be read",
        ),
        (
            [
                ("SIDECAST_BGP_PASSWORD", "p"),
                ("SIDECAST_BGP_PASSWORD_FILE", "/x"),
            ],
            "set either this or password, not both",
        ),
        (
            [("SIDECAST_CONFIG", "/f"), ("SIDECAST_CONFIG_YAML", "{}")],
            "only one of SIDECAST_CONFIG",
        ),
        (
            [("SIDECAST_BGP_LOCAL_AS", "1"), ("SIDECAST_APP_NAME", "dns")],
            "apps[0].vip: is missing: SIDECAST_APP_VIP holds",
        ),
        (
            [
                ("SIDECAST_BGP_LOCAL_AS", "1"),
                ("SIDECAST_APP_VIP", "192.0.2.1/32"),
            ],
            "apps[0].name: is missing: SIDECAST_APP_NAME",
        ),
    ] {
        let all = env_problems(&env);
        assert!(all[0].contains(want), "{all:?}");
    }
}

#[test]
fn unknown_variables_are_refused_and_injected_ones_are_not() {
    for (name, want) in [
        (
            "SIDECAST_AGENT_LISTEN_ADR",
            "did you mean SIDECAST_AGENT_LISTEN_ADDR?",
        ),
        (
            "SIDECAST_APP_MONITOR",
            "did you mean SIDECAST_APP_MONITORS?",
        ),
        ("SIDECAST_QUITE_ANOTHER_THING", "is no known variable"),
    ] {
        let all = env_problems(&[(name, "x")]);
        assert!(all[0].contains(want) && all[0].contains(name), "{all:?}");
    }
    let noise = [
        ("SIDECAST_SERVICE_HOST", "10.1.1.1"),
        ("SIDECAST_SERVICE_PORT", "80"),
        ("SIDECAST_SERVICE_PORT_HTTP", "80"),
        ("SIDECAST_PORT", "tcp://10.1.1.1:80"),
        ("SIDECAST_BGP_PORT", "tcp://10.1.1.1:179"),
        ("SIDECAST_BGP_PORT_179_TCP", "tcp://10.1.1.1:179"),
        ("SIDECAST_BGP_PORT_179_TCP_PROTO", "tcp"),
        ("SIDECAST_BGP_PORT_179_TCP_ADDR", "10.1.1.1"),
        ("SIDECAST_APP_SERVICE_HOST", "10.1.1.1"),
        ("SIDECAST_METRICS_PORT_9179_UDP_PORT", "9179"),
        ("SIDECAST_ADDR", "127.0.0.1:8179"),
    ];
    assert_eq!(from_env(&noise, &[]).bgp.peers[0].port, 179);
    assert_eq!(
        from_env(&[("SIDECAST_BGP_PORT", "1790")], &[]).bgp.peers[0].port,
        1790
    );
}

#[test]
fn a_whole_file_may_be_a_variable() {
    let yaml = "bgp:\n  local_as: 65001\n  peer_as: x\n";
    let problems = load_with("", &[("SIDECAST_CONFIG_YAML", yaml)], &[]).unwrap_err();
    assert!(
        problems
            .to_string()
            .starts_with("SIDECAST_CONFIG_YAML:3: bgp.peer_as: x: ")
    );
    let loaded = load_with("", &[("SIDECAST_CONFIG", "/c")], &[("/c", FULL)]).unwrap();
    assert_eq!(loaded.file.as_deref(), Some("/c"));
    let problems = load_with("", &[("SIDECAST_CONFIG", "/none")], &[]).unwrap_err();
    assert!(
        problems
            .to_string()
            .contains("SIDECAST_CONFIG: /none: the file cannot be read")
    );
}

/// Without the values that rendering omits on purpose.
fn comparable(mut config: Config) -> Config {
    config.warnings.clear();
    config.agent.listen.defaulted = false;
    let mask = |secret: &mut Option<Secret>| {
        if secret.is_some() {
            *secret = Some(Secret::new("********"));
        }
    };
    mask(&mut config.agent.api_token);
    if let Some(consul) = &mut config.agent.consul {
        mask(&mut consul.token);
        (consul.node, consul.token_file) = (None, None);
    }
    config
        .bgp
        .peers
        .iter_mut()
        .for_each(|peer| mask(&mut peer.password));
    for app in &mut config.apps {
        app.source = Source::Config;
        let masked = std::mem::take(&mut app.monitors)
            .into_iter()
            .map(|mut monitor| {
                if let MonitorSpec::Http { headers, .. } = &mut monitor.spec {
                    headers
                        .iter_mut()
                        .for_each(|(_, value)| "********".clone_into(value));
                }
                monitor
            });
        app.monitors = masked.collect();
    }
    config
}

#[test]
fn what_is_printed_reads_back_and_holds_no_secret() {
    let env = [
        ("CONSUL_NODE", "n1"),
        ("CONSUL_TOKEN", "consul-secret"),
        ("SIDECAST_APP_NAME", "one"),
        ("SIDECAST_APP_VIP", "192.0.2.99/32"),
        ("SIDECAST_APP_MONITORS", "exec:printf 'a\\n\"b\" é' # x"),
    ];
    let minimal = "bgp: {local_as: 1}\n";
    for text in [FULL, PEERS, minimal] {
        let loaded = load_with(text, &env, &[]).unwrap_or_else(|p| panic!("{p}"));
        let printed = render(&loaded);
        let seen = format!("{printed}{loaded:?}");
        for secret in ["consul-secret", "of-our-own", "00000000-0000"] {
            assert!(!seen.contains(secret), "{seen}");
        }
        assert!(!seen.contains("www.example.com"), "{seen}");
        assert_eq!(
            comparable(good(&printed)),
            comparable(loaded.config),
            "{printed}"
        );
    }
}

#[test]
fn every_value_is_printed_with_its_origin() {
    let text = "bgp:\n  local_as: 65001\n  remote_as: 65000\n  peers:\n  - peer_ip: 10.0.0.1\n    port: 1790\nagent:\n  drain_time: 3s\napps:\n- name: a\n  vip: 192.0.2.1/32\n";
    let env = [
        ("SIDECAST_BGP_HOLD_TIME", "30s"),
        ("CONSUL_HTTP_TOKEN", "t"),
    ];
    let printed = render(&load_with(text, &env, &[]).unwrap());
    for line in [
        "  local_as: 65001  # from f.yaml line 2",
        "      peer_as: 65000  # from f.yaml line 3",
        "    - peer_ip: \"10.0.0.1\"  # from f.yaml line 5",
        "      port: 1790  # from f.yaml line 6",
        "      hold_time: 30s  # environment SIDECAST_BGP_HOLD_TIME",
        "  cleanup_timer: 15m  # default",
        "    drain_time: 3s  # from f.yaml line 8",
        "    vips: [\"192.0.2.1/32\"]  # from f.yaml line 11",
    ] {
        assert!(printed.lines().any(|l| l == line), "{line}\n{printed}");
    }
}

#[test]
fn an_invalid_secret_is_not_shown() {
    let long = "s".repeat(81);
    let text =
        format!("bgp: {{local_as: 1, password: {long}}}\nagent: {{api_token: 'geheim nis'}}\n");
    let all = problems(&text).join("\n");
    assert_eq!(all.lines().count(), 2, "{all}");
    assert!(!all.contains("geheim") && !all.contains("sss"), "{all}");
}

#[test]
fn a_listener_for_others_without_a_token_is_a_warning() {
    let warned = |agent: &str| {
        let text =
            format!("agent: {{{agent}}}\nbgp: {{local_as: 1, peer_as: 2, peer_ip: 10.0.0.1}}\n");
        let warnings = good(&text).warnings;
        warnings.iter().any(|warning| {
            warning.starts_with("f.yaml:1: agent.listen_addr ") && warning.contains("api_allow")
        })
    };
    for open in [
        "':8080'",
        "10.0.0.2:8080",
        "'[::]:8080'",
        "['127.0.0.1:1', '[2001:db8::1]:2']",
    ] {
        assert!(warned(&format!("listen_addr: {open}")), "{open}");
        assert!(!warned(&format!("listen_addr: {open}, api_token: s3cret")));
    }
    for closed in ["127.0.0.1:8080", "'[::1]:8080'", "unix:/run/s", "'off'"] {
        assert!(!warned(&format!("listen_addr: {closed}")), "{closed}");
    }
    assert!(!warned("metrics_addr: ':9179'"));
}

#[test]
fn values_that_are_hardly_intended_are_warnings() {
    let text = "agent: {iptables_binary: iptables-nft, drain_time: 9s, consul_addr: 'http://c:8500/v1/'}\n\
                bgp: {local_as: 1, family: 4, peer_ip: 10.0.0.1}\n\
                apps:\n- {name: a, vip: 198.51.100.77/24}\n- {name: b, vip: 192.0.2.1/32, drain_time: 10s}\n";
    let config = good(text);
    assert_eq!(config.agent.consul.unwrap().addr, "http://c:8500");
    let all = config.warnings.join("\n");
    for want in [
        "f.yaml:1: agent.iptables_binary is ignored",
        "f.yaml:1: agent.drain_time is over 8s",
        "CONSUL_NODE",
        "f.yaml:2: bgp.family is ignored",
        "any AS is accepted",
        "f.yaml:4: apps[0].vip: 198.51.100.77/24 has host bits set, 198.51.100.0/24 is announced",
        "f.yaml:5: apps[1].drain_time is over 8s",
        "no monitors, so always announced: a, b",
    ] {
        assert!(all.contains(want), "{want}\n{all}");
    }
    assert_eq!(config.warnings.len(), 8, "{all}");
}

#[test]
fn texts_are_read_as_gocast_reads_them() {
    let config = good(
        "x-anchors: {b: [1]}\nagent: {monitor_interval: 0, cleanup_timer: 0, consul_addr: ''}\n\
         bgp: {local_as: 65001, peer_as: 65000, communities: [65001:53], hold_time: 0, passive: no}\n\
         apps:\n- &a {name: 514, vip: 192.0.2.1/32, monitors: [port:tcp:80], nats: , interval: 500ms}\n\
         - {<<: *a, name: 1.10, vip: 192.0.2.2/32}\n",
    );
    assert_eq!(config.agent.monitor_interval, Duration::from_secs(10));
    assert_eq!(config.agent.cleanup_timer, Duration::from_secs(900));
    assert_eq!(config.bgp.peers[0].hold_time, 0);
    assert!(config.bgp.discover && config.agent.consul.is_none());
    let names: Vec<&str> = config.apps.iter().map(|app| app.name.as_str()).collect();
    assert_eq!(names, ["514", "1.10"]);
    let monitor = config.apps[1].monitors.first().unwrap();
    assert_eq!(
        (monitor.interval, monitor.timeout),
        (Duration::from_millis(500), Duration::from_millis(500))
    );
}

#[test]
fn zero_is_the_default_where_gocast_has_the_key_and_else_it_is_refused() {
    let text = "agent: {monitor_interval: 0, cleanup_timer: 0s,\n  consul_query_interval: 0s, consul_addr: 'http://localhost:8500'}\n\
                bgp: {local_as: 1, peer_as: 2, peer_ip: 10.0.0.1, hold_time: 0}\n";
    let config = good(text);
    let output = |line: u8, key: &str, zero: &str| {
        format!("f.yaml:{line}: agent.{key}: {zero} means the default, as in GoCast")
    };
    assert_eq!(
        config.warnings,
        [
            output(1, "monitor_interval", "0"),
            output(1, "cleanup_timer", "0s"),
            output(2, "consul_query_interval", "0s"),
        ]
    );
    assert_eq!(config.agent.monitor_interval, Duration::from_secs(10));
    let consul = config.agent.consul.unwrap();
    assert_eq!(consul.query_interval, Duration::from_secs(300));
    assert_eq!(config.bgp.peers[0].hold_time, 0);
    let app = |line: &str| with_app(&format!("- name: a\n  vip: 192.0.2.1/32\n  {line}\n"));
    for (text, want) in [
        (
            app("interval: 0"),
            "apps[0].interval: 0: should be at least 10ms",
        ),
        (
            app("timeout: 0s"),
            "apps[0].timeout: 0s: should be at least 10ms",
        ),
        (
            app("fast_interval: 0"),
            "apps[0].fast_interval: 0: should be at least 10ms",
        ),
        (
            app("monitors: [{monitor: port:tcp:80, interval: 0}]"),
            "apps[0].monitors[0].interval: 0: should be at least 10ms",
        ),
        (
            "bgp: {local_as: 1, connect_retry: 0}\n".to_owned(),
            "bgp.connect_retry: 0: should be at least 100ms",
        ),
        (
            "bgp: {local_as: 1, bfd: {interval: 0}}\n".to_owned(),
            "bgp.bfd.interval: 0: should be between 10ms and 1m",
        ),
    ] {
        let all = problems(&text);
        assert!(all.len() == 1 && all[0].ends_with(want), "{want}: {all:?}");
    }
}

#[test]
fn a_mistake_of_form_is_shown_in_its_line() {
    for (text, want) in [
        (
            "agent:\n\tdrain_time: 1s\nbgp: {}\n",
            "f.yaml:2: has a tab: YAML is indented with spaces alone\n  2 | →drain_time: 1s\n    | ^",
        ),
        (
            "\u{feff}bgp:\n  local_as: 1\n peer_as: 2\n",
            "f.yaml:3: is no key, or does not line up with the keys above it\n  3 |  peer_as: 2\n    |  ^",
        ),
        (
            "bgp:\n  router_id: \"10.0.0.1\n  local_as: 1\n",
            "f.yaml:2: this quote is never closed\n  2 |   router_id: \"10.0.0.1\n    |              ^",
        ),
        (
            "agent:\n  api_token: 'geheim\nbgp: {}\n",
            "f.yaml:2: this quote is never closed\n  2 |   api_token:…\n    |              ^",
        ),
        (
            "apps:\n- monitors:\n  - monitor: http://a\n    headers:\n      X: 'geheim\n",
            "f.yaml:5: this quote is never closed\n  5 |       X:…\n    |          ^",
        ),
    ] {
        assert_eq!(load_with(text, &[], &[]).unwrap_err().to_string(), want);
    }
}

#[test]
fn a_monitor_inherits_its_interval_and_has_a_timeout_by_kind() {
    let config = good(&with_app(
        "- name: a\n  vip: 192.0.2.1/32\n  rise: 3\n  monitors: [port:tcp:80, exec:x, {monitor: port:tcp:81, interval: 1s, rise: 1}]\n",
    ));
    let monitors: Vec<&Monitor> = config.apps[0].monitors.iter().collect();
    let seconds = |m: &Monitor| (m.interval.as_secs(), m.timeout.as_secs(), m.rise, m.fall);
    assert_eq!(seconds(monitors[0]), (10, 2, 3, 1));
    assert_eq!(seconds(monitors[1]), (1, 1, 1, 1));
    assert_eq!(seconds(monitors[2]), (10, 10, 3, 1));
}

/// Parses an app of HTTP and applies the policy to it.
fn register(config: &Config, params: &[(&str, &str)]) -> Result<App, Refusal> {
    let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    let params: Vec<(String, String)> = params.iter().map(owned).collect();
    let app = parse_app_from_params(&params, Source::Http, config)?;
    Policy::new(&config.agent, &config.bgp)
        .permit(&app)
        .map(|()| app)
}

#[test]
fn parameters_make_the_same_app_as_a_file() {
    let config = good(&with_app(
        "- name: a\n  vip: 192.0.2.1/32\n  monitors: [port:tcp:80]\n  nats: [tcp:80:8080]\n  interval: 1s\n  vip_config: {bgp_communities: [1:1, no-export], med: 5, when_down: {med: 9}}\n",
    ));
    let app = register(
        &config,
        &[
            ("name", "a"),
            ("vip", "192.0.2.1/32"),
            ("monitor", "port:tcp:80"),
            ("nat", "tcp:80:8080"),
            ("nat", ""),
            ("vip_communities", "1:1,no-export"),
            ("interval", "1s"),
            ("timeout", ""),
            ("med", "5"),
            ("when_down", "{med: 9}"),
        ],
    )
    .unwrap();
    assert_eq!(app.source, Source::Http);
    assert!(app.same_definition(&config.apps[0]));
    assert_ne!(app, config.apps[0]);
    let two = [
        ("name", "b"),
        ("vip", "192.0.2.3/32"),
        ("vip", "2001:db8::3/128"),
        ("vip_communities", ""),
    ];
    assert_eq!(register(&config, &two).unwrap().vips.len(), 2);
}

#[test]
fn bad_parameters_are_refused_with_gocasts_messages() {
    let config = good(&with_app(""));
    const VIP: (&str, &str) = ("vip", "192.0.2.1/32");
    const NAME: (&str, &str) = ("name", "a");
    let no_vip = "Invalid VIP specified, need ip/mask";
    for (params, want) in [
        (vec![], "Invalid app name"),
        (vec![VIP], "Invalid app name"),
        (vec![("name", ""), VIP], "Invalid app name"),
        (vec![("name", "a\u{202e}b"), VIP], "Invalid app name"),
        (vec![NAME], no_vip),
        (vec![NAME, ("vip", "")], no_vip),
        (vec![NAME, ("vip", "192.0.2.1")], no_vip),
        (vec![NAME, ("vip", "x/32")], no_vip),
        (
            vec![NAME, VIP, ("monitor", "exec:")],
            "Invalid exec monitor, must specify command",
        ),
        (
            vec![NAME, VIP, ("monitor", "exec")],
            "Invalid exec monitor, must specify command",
        ),
        (
            vec![NAME, VIP, ("monitor", "port:tcp")],
            "Invalid port monitor, must specify proto:port",
        ),
        (
            vec![NAME, VIP, ("monitor", "")],
            "monitor: should be a monitor",
        ),
        (
            vec![NAME, VIP, ("monitor", "ping")],
            "monitor: ping: should be a monitor",
        ),
        (
            vec![NAME, VIP, ("monitor", "consul")],
            "monitor: consul: needs Consul",
        ),
        (
            vec![NAME, VIP, ("nat", "tcp")],
            "nat: tcp: should be protocol:listenPort:destinationPort",
        ),
        (
            vec![NAME, VIP, ("vip_communities", "65000:70000")],
            "vip_communities: 65000:70000: should be a community",
        ),
        (
            vec![NAME, VIP, ("interval", "10")],
            "interval: 10: should be a duration",
        ),
        (
            vec![NAME, VIP, ("monitors", "x")],
            "monitors: is no known parameter; did you mean `monitor`?",
        ),
        (
            vec![NAME, ("vip", "10.0.0.1/32")],
            "vip: 10.0.0.1/32: cannot be a VIP: it contains 10.0.0.1, a BGP peer",
        ),
        (
            vec![NAME, ("vip", "0.0.0.0/0")],
            "vip: 0.0.0.0/0: cannot be a VIP: it would take all traffic",
        ),
        (vec![NAME, VIP, ("when_down", "{")], "when_down: "),
    ] {
        let Err(Refusal::Invalid(message)) = register(&config, &params) else {
            panic!("{params:?}")
        };
        assert!(message.starts_with(want), "{params:?}: {message}");
    }
}

/// Only what is written can be compared: which routers will be found is unknown here.
#[test]
fn an_app_names_peers_of_ours() {
    let check = |ours: &str, named: &str| {
        let text = format!(
            "bgp: {{local_as: 65001, peer_as: 65000{ours}}}\n\
             apps:\n  - name: a\n    vip: 192.0.2.1/32\n    peers: [{named}]\n"
        );
        match load_with(&text, &[], &[]) {
            Ok(loaded) => Ok(loaded.config.apps[0].options.peers.len()),
            Err(problems) => Err(problems.to_string()),
        }
    };
    let two = ", peer_ip: [10.0.0.1, 'fd00::1']";
    let interface = ", peer_ip: '%eth0'";
    let link_local = ", peer_ip: 'fe80::1%eth0'";
    for (ours, named) in [
        (two, "10.0.0.1"),
        (two, "'fd00:0::1', 10.0.0.1"),
        (interface, "'%eth0'"),
        (interface, "'fe80::1%eth0'"),
        (link_local, "'%eth0'"),
        (link_local, "'fe80::1%eth0'"),
        ("", "10.9.9.9, '%eth7'"),
    ] {
        let count = named.split(',').count();
        assert_eq!(check(ours, named), Ok(count), "{ours} {named}");
    }
    for (ours, named, other, all) in [
        (two, "10.0.0.1, 10.0.0.9", "10.0.0.9", "10.0.0.1, fd00::1"),
        (two, "'%eth0'", "%eth0", "10.0.0.1, fd00::1"),
        (interface, "'fe80::1%eth1'", "fe80::1%eth1", "%eth0"),
        (link_local, "'fe80::2%eth0'", "fe80::2%eth0", "fe80::1%eth0"),
    ] {
        let text = check(ours, named).unwrap_err();
        let want = format!("f.yaml:5: apps[0].peers: {other}: is no peer of ours; those are {all}");
        assert_eq!(text.trim_end(), want);
    }
    let env = [
        ("SIDECAST_BGP_LOCAL_AS", "65001"),
        ("SIDECAST_BGP_PEER_IP", "10.0.0.1,fd00::1"),
        ("SIDECAST_APP_NAME", "a"),
        ("SIDECAST_APP_VIP", "192.0.2.1/32"),
        ("SIDECAST_APP_PEERS", "10.0.0.1,fd00::1"),
    ];
    let app = load_with("", &env, &[]).unwrap().config.apps.remove(0);
    assert_eq!(app.options.peers.len(), 2);
}

#[test]
fn policy_names_the_key_to_set() {
    let open = good(&with_app(""));
    let closed = good(&format!(
        "agent: {{allowed_vips: [198.51.100.0/24], allow_exec: [http]}}\n{}",
        with_app("")
    ));
    let policy = |config: &Config, params: &[(&str, &str)]| match register(config, params) {
        Err(refusal) => Some(refusal.key().expect("a matter of policy")),
        Ok(_) => None,
    };
    let app = |vip| [("name", "a"), ("vip", vip)];
    let exec = [
        ("name", "a"),
        ("vip", "198.51.100.1/32"),
        ("monitor", "exec:true"),
    ];
    assert_eq!(policy(&open, &app("192.0.2.1/32")), None);
    assert_eq!(
        policy(&open, &app("192.0.2.0/24")),
        Some("agent.allowed_vips")
    );
    assert_eq!(
        policy(&closed, &app("192.0.2.1/32")),
        Some("agent.allowed_vips")
    );
    assert_eq!(policy(&closed, &app("198.51.100.128/25")), None);
    assert_eq!(policy(&open, &exec), Some("agent.allow_exec"));
    assert_eq!(policy(&closed, &exec), None);
    let reserved = good(&format!(
        "agent: {{allowed_vips: [240.0.0.0/8]}}\n{}",
        with_app("")
    ));
    assert_eq!(
        policy(&open, &app("240.0.0.1/32")),
        Some("agent.allowed_vips")
    );
    assert_eq!(policy(&reserved, &app("240.0.0.1/32")), None);
}

#[test]
fn one_app_of_http_is_small_and_drains_soon() {
    let config = good(&with_app(""));
    let many = |key: &'static str, count: usize, value: fn(usize) -> String| {
        let values: Vec<String> = (0..count).map(value).collect();
        let mut params = vec![("name", "a")];
        if key != "vip" {
            params.push(("vip", "192.0.2.1/32"));
        }
        params.extend(values.iter().map(|value| (key, value.as_str())));
        register(&config, &params)
    };
    let vip = |n| format!("198.51.100.{n}/32");
    let monitor = |n| format!("port:tcp:{}", n + 1);
    let nat = |n| format!("udp:{}:53", n + 1);
    assert!(many("vip", 64, vip).is_ok());
    assert!(many("monitor", 32, monitor).is_ok());
    assert!(many("nat", 64, nat).is_ok());
    for (refused, why) in [
        (
            many("vip", 65, vip),
            "has 65 VIPs: an app from http may have 64",
        ),
        (
            many("monitor", 33, monitor),
            "has 33 monitors: an app from http may have 32",
        ),
        (
            many("nat", 65, nat),
            "has 65 NATs: an app from http may have 64",
        ),
    ] {
        assert_eq!(refused, Err(Refusal::Invalid(why.to_owned())));
    }
    let drain = |config: &Config, time| {
        let params = [("name", "a"), ("vip", "192.0.2.1/32"), ("drain_time", time)];
        register(config, &params).map(drop)
    };
    assert_eq!(drain(&config, "5m"), Ok(()));
    let refusal = drain(&config, "1000h").unwrap_err();
    assert_eq!(refusal.key(), Some("agent.max_drain"));
    assert_eq!(
        refusal.to_string(),
        "drain_time: 1000h: should be at most 5m from http (set agent.max_drain to allow it)"
    );
    // The operator's own default may exceed the maximum for remote sources.
    let text = format!("agent: {{max_drain: 1s, drain_time: 3s}}\n{}", with_app(""));
    let config = good(&text);
    assert!(drain(&config, "3s").is_ok() && drain(&config, "4s").is_err());
}

#[test]
fn what_a_file_holds_is_bounded_too() {
    let vips = |count: u32| {
        let vip = |n: u32| format!("198.18.{}.{}/32", n / 256, n % 256);
        (0..count).map(vip).collect::<Vec<_>>().join(", ")
    };
    let text = |agent: &str, vips: &str| {
        let app =
            format!("- {{name: a, vips: [{vips}], monitors: ['port:tcp:1'], drain_time: 1h}}\n");
        format!("agent: {{{agent}}}\n{}", with_app(&app))
    };
    assert_eq!(good(&text("", &vips(1024))).apps[0].vips.len(), 1024);
    let report = |agent, count| {
        let text = text(agent, &vips(count));
        load_with(&text, &[], &[]).unwrap_err().to_string()
    };
    let output = report("", 1025);
    assert!(
        output.ends_with("apps[0]: a: has 1025 VIPs: an app from config may have 1024"),
        "{output}"
    );
    let output = report("max_vips: 3", 4);
    assert!(
        output.ends_with("apps: have 4 VIPs in all, agent.max_vips allows 3"),
        "{output}"
    );
    good(&text("max_vips: 3", &vips(3)));
}

#[test]
fn exec_of_a_file_needs_leave_too() {
    let text = format!(
        "agent: {{allow_exec: [env]}}\n{}",
        with_app("- {name: a, vip: 192.0.2.1/32, monitors: ['exec:x']}\n")
    );
    let all = load_with(&text, &[], &[]).unwrap_err();
    assert!(
        all.0[0].message.contains("agent.allow_exec"),
        "{}",
        all.0[0]
    );
}

#[test]
fn addresses_and_peers_read_back() {
    for text in [":8080", "127.0.0.1:80", "[::1]:80", "unix:/run/s.sock"] {
        assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
    }
    for text in ["10.0.0.1", "2001:db8::1", "fe80::1%eth0", "%eth0"] {
        assert_eq!(text.parse::<Remote>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "8080",
        ":0",
        "host:80",
        "unix:",
        "unix:relative",
        "1.2.3.4",
    ] {
        assert!(text.parse::<ListenAddr>().is_err(), "{text}");
    }
    for text in [
        "",
        "%",
        "host",
        "fe80::1",
        "2001:db8::1%eth0",
        "%a/b",
        "%sixteen-letters-",
        "0.0.0.0",
        "ff02::1%eth0",
    ] {
        assert!(text.parse::<Remote>().is_err(), "{text}");
    }
    assert_eq!(
        "localhost:80".parse::<ListenAddr>().unwrap().to_string(),
        "127.0.0.1:80"
    );
    assert_eq!(format!("{:?}", Secret::new("x")), "Secret");
}

#[test]
fn every_key_is_documented_and_has_a_variable() {
    let mut written: BTreeSet<String> = BTreeSet::new();
    for text in [FULL, PEERS] {
        let origins = load_with(text, &[], &[]).unwrap().origins;
        written.extend(origins.into_keys());
    }
    let has = |prefix: &str, key: &str| {
        written
            .iter()
            .any(|path| path.starts_with(prefix) && path.ends_with(&format!(".{key}")))
    };
    let elsewhere = ["iptables_binary", "family"];
    let plain = |key: &&str| {
        !key.ends_with("token_file") && *key != "password_file" && !elsewhere.contains(key)
    };
    let names = |name: &str| -> Vec<&str> {
        let table = TABLES.iter().find(|table| table.name == name).unwrap();
        (table.keys)()
            .iter()
            .flat_map(|key| key.names_in(name))
            .collect()
    };
    for (prefix, keys) in [
        ("agent", names("agent")),
        ("bgp", names("bgp")),
        ("bgp.peers[2].bfd", names("bgp.bfd")),
        ("apps", names("apps")),
        ("apps[0].vip_config", names("vip_config")),
        ("apps[1].monitors", names("monitors")),
    ] {
        for key in keys.into_iter().filter(plain) {
            assert!(has(prefix, key), "{prefix} {key}");
        }
    }
    for name in tables::variables() {
        let rest = name.strip_prefix("SIDECAST_").unwrap();
        let known = tables::NON_KEY_VARIABLES.contains(&name.as_str());
        assert!(known || tables::variable(rest).is_some(), "{name}");
    }
}

#[test]
fn the_proof_of_the_path_is_the_apps_own_or_the_agents() {
    let of = |agent: &str, app: &str| {
        let text = format!(
            "agent: {{{agent}}}\nbgp: {{local_as: 1}}\n\
             apps: [{{name: a, vip: 192.0.2.1/32, {app}}}]\n"
        );
        let config = good(&text);
        config.apps[0].options.path_proof.probing().map(|probing| {
            let Probing {
                interval,
                probes,
                port,
            } = probing;
            (interval.as_secs(), probes, port)
        })
    };
    assert_eq!(of("", ""), Some((30, 16, 9)));
    assert_eq!(of("path_proof: off", ""), None);
    assert_eq!(of("path_proof: off", "path_proof: auto"), Some((30, 16, 9)));
    let agent = "path_proof: {interval: 5s, port: 33434}";
    assert_eq!(of(agent, ""), Some((5, 16, 33434)));
    assert_eq!(of(agent, "path_proof: {probes: 4}"), Some((30, 4, 9)));
    assert_eq!(of(agent, "path_proof: \"off\""), None);
    for (written, want) in [
        (
            "on",
            "path_proof: on: should be auto, off, or a map of interval, probes and port",
        ),
        (
            "{interval: 10ms}",
            "path_proof.interval: 10ms: should be between 1s and 1h",
        ),
        (
            "{probes: 65}",
            "path_proof.probes: 65: should be a number from 1 to 64",
        ),
        (
            "{port: 0}",
            "path_proof.port: 0: should be a number from 1 to 65535",
        ),
    ] {
        let text = format!("agent: {{path_proof: {written}}}\nbgp: {{local_as: 1}}\n");
        let all = problems(&text);
        assert!(all[0].contains(want), "{all:?}");
    }
}

#[test]
fn every_row_has_its_words_and_every_map_its_table() {
    fn maps(shape: &Shape) -> Vec<&'static str> {
        match shape {
            Shape::Map(table) => vec![table],
            Shape::List(_, of) => maps(of),
            Shape::Either(one, other) => [maps(one), maps(other)].concat(),
            _ => vec![],
        }
    }
    let mut count = 0;
    for key in TABLES.iter().flat_map(|table| (table.keys)()) {
        assert!(!key.doc.trim().is_empty(), "{}", key.name);
        for map in maps(&key.shape) {
            assert!(TABLES.iter().any(|table| table.name == map), "{map}");
            count += 1;
        }
    }
    assert!(count > 4, "{count}");
}

#[test]
fn a_section_that_is_no_map_is_told_in_spite_of_variables() {
    for text in [
        "agent: 5\nbgp: {local_as: 1}\n",
        "- agent\n",
        "agent: [a]\nbgp: {local_as: 1}\n",
    ] {
        let env = [
            ("SIDECAST_AGENT_DRAIN_TIME", "1s"),
            ("SIDECAST_BGP_LOCAL_AS", "1"),
        ];
        let all = load_with(text, &env, &[]).unwrap_err().to_string();
        assert!(all.contains("should be a map of keys"), "{all}");
    }
}

#[test]
fn details_of_bfd_come_from_variables_too() {
    let bfd = |env: &[(&str, &str)]| from_env(env, &[]).bgp.peers[0].bfd;
    assert_eq!(bfd(&[("SIDECAST_BGP_BFD", "true")]), Some(Bfd::default()));
    assert_eq!(
        bfd(&[("SIDECAST_BGP_BFD", "{multiplier: 4}")])
            .unwrap()
            .multiplier,
        4
    );
    let details = ("SIDECAST_BGP_BFD_MULTIPLIER", "5");
    assert_eq!(
        bfd(&[("SIDECAST_BGP_BFD", "yes"), details])
            .unwrap()
            .multiplier,
        5
    );
    assert_eq!(bfd(&[details]).unwrap().multiplier, 5);
    let env = [
        ("SIDECAST_BGP_BFD", "no"),
        ("SIDECAST_BGP_BFD_INTERVAL", "1s"),
    ];
    assert_eq!(bfd(&env), None);
}

#[test]
fn a_password_in_an_invalid_variable_is_not_shown() {
    let all = env_problems(&[(
        "SIDECAST_BGP_PEERS",
        "[{peer_ip: 10.0.0.1, password: geheim",
    )]);
    assert!(!all.join("").contains("geheim"), "{all:?}");
    let config = from_env(
        &[("SIDECAST_BGP_PEERS", "[{peer_ip: 10.0.0.1, password: x}]")],
        &[],
    );
    assert!(config.bgp.peers[0].password.is_some());
}

/// A damaged file yields a configuration or problems, never a panic.
#[test]
fn mutilated_files_are_answered() {
    let mut rng = crate::timer::Rng::new(7);
    let junk = [
        "", ":", "- ", "[", "{", "}", "\t", "&a", "*a", "<<: ", "!x ", "|", "é", "\"", "0", "~",
        "? ",
    ];
    for round in 0..600_u32 {
        let source = if round % 2 == 0 { FULL } else { PEERS };
        let mut chars: Vec<char> = source.chars().collect();
        for _ in 0..=rng.below(3) {
            let len = u64::try_from(chars.len()).unwrap();
            let at = usize::try_from(rng.below(len)).unwrap();
            let end = (at + usize::try_from(rng.below(12)).unwrap()).min(chars.len());
            let index = usize::try_from(rng.below(17)).unwrap();
            chars.splice(at..end, junk[index].chars());
        }
        let text: String = chars.into_iter().collect();
        if let Err(problems) = load_with(&text, &[("SIDECAST_BGP_BFD_INTERVAL", "1s")], &[]) {
            assert!(!problems.0.is_empty(), "{text}");
        }
    }
}

#[test]
fn a_thousand_apps_are_read_in_no_time() {
    let mut text = with_app("");
    for i in 0..1000 {
        let (a, b) = (i / 250, i % 250);
        text += &format!("- {{name: app{i}, vip: 192.0.{a}.{b}/32, monitors: [port:tcp:80]}}\n");
    }
    let begin = std::time::Instant::now();
    assert_eq!(good(&text).apps.len(), 1000);
    assert!(
        begin.elapsed() < Duration::from_secs(20),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn consul_is_found_by_url_or_by_a_unix_socket() {
    let consul = |addr: &str| {
        let text = format!("agent: {{consul_addr: '{addr}'}}\nbgp: {{local_as: 1}}\n");
        let config = good(&text);
        let warned = config.warnings.iter().any(|w| w.contains("CONSUL_NODE"));
        let consul = config.agent.consul.unwrap();
        assert_eq!(warned, !consul.is_local(), "{addr}");
        (
            consul.addr.clone(),
            consul.is_local(),
            consul.unix_path().is_some(),
        )
    };
    for (written, addr, local, unix) in [
        (
            "http://localhost:8500/v1",
            "http://localhost:8500",
            true,
            false,
        ),
        (
            "http://127.0.0.2:8500/",
            "http://127.0.0.2:8500",
            true,
            false,
        ),
        ("http://[::1]:8500", "http://[::1]:8500", true, false),
        (
            "http://consul.example:8500",
            "http://consul.example:8500",
            false,
            false,
        ),
        ("http://10.0.0.1:8500", "http://10.0.0.1:8500", false, false),
        (
            "unix:///run/consul.sock",
            "unix:/run/consul.sock",
            true,
            true,
        ),
        ("unix:/run/consul.sock", "unix:/run/consul.sock", true, true),
    ] {
        assert_eq!(consul(written), (addr.to_owned(), local, unix), "{written}");
    }
    for bad in ["unix://", "unix:run/x", "localhost:8500", "http://c/?x"] {
        let text = format!("agent: {{consul_addr: '{bad}'}}\nbgp: {{local_as: 1}}\n");
        assert!(
            problems(&text)
                .iter()
                .any(|p| p.contains("should be a URL")),
            "{bad}"
        );
    }
}

/// The default in the table's documentation is the one in the code.
#[test]
fn the_default_of_last_resort_is_what_is_written() {
    let text = format!(
        "agent: {{last_resort: {}}}\nbgp: {{local_as: 65001, peer_as: 65000, peer_ip: 10.0.0.1}}\n",
        crate::app::LastResort::DEFAULT
    );
    assert_eq!(
        good(&text).agent,
        good(
            &text
                .replace("last_resort", "monitor_interval")
                .replace(crate::app::LastResort::DEFAULT, "10s")
        )
        .agent
    );
}
