//! The alert rules of `examples/prometheus`: promtool takes them, each has its row of documentation, and the expression of
//! each returns something from Debian's Prometheus while a lab has the outage it is for, and nothing before.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_yaml::Value;
use sidecast_lab::{
    Bird, BirdSession, Child, Consul, HostLink, Service, Sidecast, Site, expect, get, program,
    request, until,
};

sidecast_lab::tests! {
    needs ["promtool"]:
        promtool_takes_the_rules_their_tests_and_the_scrape_configuration,
        every_alert_has_its_tests_and_its_row;
    needs ["prometheus", "consul", "bird", "birdc", "ip"]:
        every_expression_returns_a_series_in_its_outage_and_none_before;
}

fn promtool_takes_the_rules_their_tests_and_the_scrape_configuration() {
    for arguments in [
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts.test.yml"],
        ["check", "config", "prometheus.yml"],
    ] {
        let (ok, printed) = promtool(&folder(), &arguments);
        assert!(ok, "{arguments:?}: {printed}");
    }
    // A rule that never fires is found by its test.
    let lab = sidecast_lab::Lab::new();
    fs::write(lab.dir().join("alerts.test.yml"), read("alerts.test.yml")).expect("a file");
    let never = read("alerts.yml").replace("sidecast_consul_up == 0", "sidecast_consul_up == 2");
    fs::write(lab.dir().join("alerts.yml"), never).expect("a file");
    let (ok, printed) = promtool(lab.dir(), &["test", "rules", "alerts.test.yml"]);
    assert!(!ok && printed.contains("SidecastConsulAway"), "{printed}");
}

fn every_alert_has_its_tests_and_its_row() {
    let operations = folder().join("../operations.md");
    let operations = fs::read_to_string(operations).expect("the page");
    let tests = read("alerts.test.yml");
    for alert in alerts() {
        let name = &alert.name;
        let anchor = name.to_lowercase();
        assert!(!alert.summary.is_empty(), "{name}");
        let runbook = format!("examples/operations.md#{anchor}");
        assert_eq!(alert.runbook, runbook, "{name}");
        let row = format!("| <a id=\"{anchor}\"></a>`{name}` | ");
        assert!(operations.contains(&row), "no row {row}");
        // Once where all is well, once before its outage, once in it.
        assert!(
            tests.matches(&format!("alertname: {name}")).count() >= 3,
            "{name}"
        );
    }
}

/// ```text
/// Prometheus and BIRD on the router ---- host A (sidecast, Consul), host B (sidecast)
/// ```
fn every_expression_returns_a_series_in_its_outage_and_none_before() {
    let site = Site::new();
    let mut lab = Outages::start(&site);
    until(PATIENCE, "both hosts are scraped, and all is well", || {
        let up = lab.query("sum(up) == 2 and sum(sidecast_ok) == 2");
        expect(up > 0, lab.prometheus.output())
    });
    for alert in &lab.alerts {
        assert_eq!(lab.query(&alert.expression), 0, "{}", alert.name);
    }
    lab.the_router_loses_a_route();
    lab.checks_fail();
    lab.files_fail();
    lab.sessions_fail();
    lab.processes_fail();
    let never: Vec<&str> = lab.alerts.iter().map(|alert| alert.name.as_str()).collect();
    let never = never.into_iter().filter(|name| !lab.seen.contains(*name));
    assert_eq!(never.collect::<Vec<_>>(), [""; 0]);
}

/// The lab, and the alerts whose expression returned a series.
struct Outages<'a> {
    site: &'a Site,
    alerts: Vec<Alert>,
    seen: BTreeSet<String>,
    prometheus: Child,
    router: Bird,
    consul: Consul,
    /// TCP on A and on B.
    services: [Service; 2],
    _udp: [Service; 2],
    flags: [PathBuf; 2],
    state: PathBuf,
    a: Sidecast,
    b: Sidecast,
}

impl<'a> Outages<'a> {
    fn start(site: &'a Site) -> Self {
        let folder = site.a.network.dir();
        let flags = ["good", "there"].map(|name| folder.join(name));
        let state = folder.join("state");
        for flag in &flags {
            fs::write(flag, "").expect("a file");
        }
        fs::create_dir(&state).expect("a folder");
        let session = |host: &HostLink, name| BirdSession {
            options: "bfd on; error wait time 1, 1;",
            ..host.session(name)
        };
        let sessions = [session(&site.a, "a"), session(&site.b, "b")];
        let router = Bird::router_with(&site.router, BFD, &sessions);
        let consul = Consul::start(&site.a.network, &serde_json::json!({}));
        let ((tcp_a, udp_a), (tcp_b, udp_b)) = (site.a.services(), site.b.services());
        let a = Sidecast::start(&site.a.network, &config_of_a(&site.a, &flags, &state, ""));
        let agent = "agent: {metrics_addr: ':9179'}\n";
        let b = Sidecast::start(
            &site.b.network,
            &(agent.to_owned() + &site.b.config("", "")),
        );
        Self {
            site,
            alerts: alerts(),
            seen: BTreeSet::new(),
            prometheus: prometheus(site),
            router,
            consul,
            services: [tcp_a, tcp_b],
            _udp: [udp_a, udp_b],
            flags,
            state,
            a,
            b,
        }
    }

    /// From its FIB alone: the session and the announcement stay.
    fn the_router_loses_a_route(&mut self) {
        until(PATIENCE, "the router forwards to A", || {
            self.site.router.gateway("192.0.2.80").ok_or("no route")
        });
        self.site.router.ip("route del 192.0.2.80");
        self.see("SidecastNotForwarded");
    }

    fn checks_fail(&mut self) {
        fs::remove_file(&self.flags[0]).expect("the file");
        self.see("SidecastLastResort");
        self.services[0].kill();
        self.see("SidecastAppDown");
        self.services[1].kill();
        self.see("SidecastNoRoute");
        self.services[0].restart(&self.site.a.network);
        self.services[1].restart(&self.site.b.network);
        // It comes and goes until it is held.
        let mut there = true;
        until(PATIENCE, "it is held down", || {
            let state = self.state_of("flaps");
            if state == if there { "up" } else { "down" } {
                match there {
                    true => fs::remove_file(&self.flags[1]).expect("the file"),
                    false => fs::write(&self.flags[1], "").expect("a file"),
                }
                there = !there;
            }
            expect(state == "held_down", state)
        });
        self.see("SidecastHeldDown");
        self.see("SidecastAppFlapping");
        self.call(
            "GET",
            "/register?name=slow&vip=198.51.100.8/32&monitor=port:tcp:8000&start_delay=5m",
        );
        self.see("SidecastCondition");
    }

    fn files_fail(&mut self) {
        self.call(
            "GET",
            "/register?name=guest&vip=198.51.100.9/32&monitor=port:tcp:8000",
        );
        self.reload("allowed_vips: [192.0.2.0/24, \"2001:db8::/32\"]", 200);
        self.see("SidecastAppInvalid");
        self.reload("listen_adr: typo", 400);
        self.see("SidecastReloadFailed");
        fs::remove_dir_all(&self.state).expect("the folder");
        self.call("GET", "/drain?name=slow&wait=0");
        self.see("SidecastStateFile");
        self.consul.kill();
        self.see("SidecastConsulAway");
    }

    fn sessions_fail(&mut self) {
        for again in [true, true, false] {
            until(PATIENCE, "the session is established", || {
                expect(self.router.established("a"), self.router.session("a"))
            });
            self.query_until("min(sidecast_bgp_session_up) == 1");
            self.router.stop(Signal::SIGKILL);
            if again {
                self.query_until("max(sidecast_bgp_session_up) == 0");
                self.router.start_again(&self.site.router);
            }
        }
        for alert in ["SessionDown", "BfdDown", "NotAnnounced", "SessionFlapping"] {
            self.see(&format!("Sidecast{alert}"));
        }
    }

    fn processes_fail(&mut self) {
        self.b.signal(Signal::SIGTERM);
        self.see("SidecastTargetDown");
        assert_eq!(self.query("absent(sidecast_build_info)"), 0);
        self.a.kill();
        self.see("SidecastAbsent");
    }

    /// Waits until the expression of an alert returns a series.
    #[track_caller]
    fn see(&mut self, name: &str) {
        let alert = self.alerts.iter().find(|alert| alert.name == name);
        let expression = alert.expect(name).expression.clone();
        self.query_until(&expression);
        self.seen.insert(name.to_owned());
    }

    #[track_caller]
    fn query_until(&self, expression: &str) {
        until(PATIENCE, expression, || {
            let metrics = || get(&self.site.a.network, Sidecast::api(), "/metrics");
            let metrics = || metrics().map_or_else(|error| error.to_string(), |reply| reply.body);
            match self.query(expression) {
                0 => Err(metrics()),
                _ => Ok(()),
            }
        });
    }

    /// How many series an expression returns now.
    #[track_caller]
    fn query(&self, expression: &str) -> usize {
        let text: String = expression
            .bytes()
            .map(|byte| format!("%{byte:02X}"))
            .collect();
        let path = format!("/api/v1/query?query={text}");
        let reply = get(&self.site.router, PROMETHEUS, &path);
        let reply = reply.expect("Prometheus answers").json();
        assert_eq!(reply["status"], "success", "{expression}: {reply}");
        reply["data"]["result"].as_array().expect("a list").len()
    }

    fn state_of(&self, app: &str) -> String {
        let app = self.a.app(&self.site.a.network, app);
        app["state"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str) {
        let reply = request(&self.site.a.network, Sidecast::api(), method, path, "");
        let reply = reply.expect("an answer");
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
    }

    /// Reads the configuration of A again, with a further line of `agent`.
    #[track_caller]
    fn reload(&self, line: &str, status: u16) {
        let host = &self.site.a;
        let text = config_of_a(host, &self.flags, &self.state, line);
        Sidecast::write(&host.network, &text);
        let reply = request(&host.network, Sidecast::api(), "POST", "/reload", "");
        let reply = reply.expect("an answer");
        assert_eq!(reply.status, status, "{}", reply.body);
    }
}

fn config_of_a(host: &HostLink, flags: &[PathBuf; 2], state: &Path, line: &str) -> String {
    let app = |name: &str, vip: &str, monitors: &str, more: &str| {
        format!(
            "  - {{name: {name}, vip: {vip}, monitors: [{monitors}], interval: 200ms, timeout: 10s{more}}}\n"
        )
    };
    let check = |flag: &Path| format!("\"port:tcp:8000\", \"exec:test -e {}\"", flag.display());
    let state = state.join("state");
    format!(
        "agent:\n  metrics_addr: ':9179'\n  path_proof: {{interval: 3s}}\n  consul_addr: http://127.0.0.1:8500\n  state_file: {}\n  {line}\n",
        state.display()
    ) + &host.config("bfd: true", "")
        + &app(
            "web",
            "192.0.2.80/32",
            &check(&flags[0]),
            ", vip_config: {when_down: last_resort}",
        )
        + &app("flaps", "192.0.2.81/32", &check(&flags[1]), "")
}

/// As `examples/prometheus` has it, with this lab's addresses, and every second.
#[track_caller]
fn prometheus(site: &Site) -> Child {
    let folder = site.router.dir();
    fs::write(folder.join("alerts.yml"), read("alerts.yml")).expect("a file");
    let config = read("prometheus.yml").replace("15s", "1s");
    let targets = [&site.a, &site.b].map(|host| format!("\"{}:9179\"", host.addresses.host4));
    let (before, rest) = config.split_once("targets: [").expect("the targets");
    let (_, after) = rest.split_once(']').expect("their end");
    let config = format!("{before}targets: [{}]{after}", targets.join(", "));
    fs::write(folder.join("prometheus.yml"), config).expect("a file");
    let program = program("prometheus").expect("the test needs it");
    let arguments = [
        format!("--config.file={}", folder.join("prometheus.yml").display()),
        format!("--storage.tsdb.path={}", folder.join("tsdb").display()),
        format!("--web.listen-address={PROMETHEUS}"),
        "--log.level=warn".to_owned(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let program = program.display().to_string();
    let child = Child::start(&site.router, "prometheus", &program, &arguments, &[]);
    until(PATIENCE, "Prometheus is ready", || {
        match get(&site.router, PROMETHEUS, "/-/ready") {
            Ok(reply) => expect(reply.status == 200, reply.body),
            Err(error) => Err(error.to_string()),
        }
    });
    child
}

/// One rule of `alerts.yml`.
struct Alert {
    name: String,
    expression: String,
    summary: String,
    runbook: String,
}

fn alerts() -> Vec<Alert> {
    let rules: Value = serde_yaml::from_str(&read("alerts.yml")).expect("YAML");
    let groups = rules["groups"].as_sequence().expect("groups");
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_sequence().expect("rules"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all: Vec<Alert> = rules
        .map(|rule| Alert {
            name: text(&rule["alert"]),
            expression: text(&rule["expr"]),
            summary: text(&rule["annotations"]["summary"]),
            runbook: text(&rule["annotations"]["runbook"]),
        })
        .collect();
    assert!(all.len() > 10 && all.iter().all(|alert| !alert.expression.is_empty()));
    all
}

/// Whether it succeeds, and what it prints.
fn promtool(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(program("promtool").expect("the test needs it"));
    let output = command.args(arguments).current_dir(folder).output();
    let output = output.expect("it runs");
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    (output.status.success(), printed)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/prometheus")
}

#[track_caller]
fn read(file: &str) -> String {
    fs::read_to_string(folder().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

const PROMETHEUS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
const BFD: &str = "protocol bfd { interface \"*\" { multiplier 3; }; }";
const PATIENCE: Duration = Duration::from_secs(60);
