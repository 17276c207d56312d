//! What the shell itself has from the configuration follows a reload: the program that is called for
//! transitions, and that a dry run stays one.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidecast_lab::{Bird, Reply, Routes, Sidecast, Site, binary, expect, request, until};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip", "ss"]:
        a_dry_run_stays_one_when_its_configuration_is_read_again;
    needs ["bird", "birdc", "ip"]:
        transitions_are_told_to_the_program_of_the_new_configuration,
        what_http_registered_obeys_the_new_configuration,
        apps_that_are_renamed_or_swap_their_vips_keep_their_routes,
        an_attack_at_the_bounds_costs_no_session;
}

fn a_dry_run_stays_one_when_its_configuration_is_read_again() {
    let site = Site::new();
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let state_file = site.a.network.dir().join("state.yaml");
    let config = |more: &str| {
        let agent = format!("agent:\n  state_file: {}\n", state_file.display());
        agent + &site.a.config(more, "")
    };
    let path = Sidecast::write(&site.a.network, &config(""));
    let args = ["run", "--dry-run", "--config", &path.to_string_lossy()];
    let sidecast = Sidecast::launch(&site.a.network, &args, &[]);
    until(PATIENCE, "it says what it would do", || {
        let log = sidecast.log();
        expect(log.contains("dry run: would add 192.0.2.53/32"), log)
    });
    // Another hold time makes every session begin anew, and listening is asked for.
    Sidecast::write(
        &site.a.network,
        &config("hold_time: 30s\nlisten: \"[::]:179\""),
    );
    sidecast.signal(Signal::SIGHUP);
    until(PATIENCE, "restarting the session", || {
        let log = sidecast.log();
        let again = log.contains("settings changed: restarting the session");
        expect(again, log)
    });
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        assert!(!router.established("a"), "{}", router.session("a"));
        assert_eq!(site.a.vips(), [""; 0]);
    }
    let listeners = site.a.network.run("ss", &["-Htln", "sport = :179"]);
    assert_eq!(listeners, "", "a dry run listens on nothing");
    assert!(!state_file.exists(), "and remembers nothing");
}

fn transitions_are_told_to_the_program_of_the_new_configuration() {
    let site = Site::new();
    let (mut tcp, _udp) = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let written = ["first", "second"].map(|name| site.a.network.dir().join(name));
    let config = |which: usize| {
        let append = format!("cat >> {}", written[which].display());
        format!(
            "agent:\n  on_change: [sh, -c, \"{append}\"]\n{}",
            site.a.config("", "")
        )
    };
    let sidecast = Sidecast::start(&site.a.network, &config(0));
    let received = |which: usize, to: &str| {
        until(PATIENCE, to, || {
            let text = fs::read_to_string(&written[which]).unwrap_or_default();
            let last = text.lines().last().unwrap_or_default().to_owned();
            let json: serde_json::Value = serde_json::from_str(&last).map_err(|_| last.clone())?;
            expect(json["to"] == to && json["app"] == "dns", text)
        });
    };
    received(0, "up");
    let before = fs::read_to_string(&written[0]).expect("it was written");
    Sidecast::write(&site.a.network, &config(1));
    sidecast.signal(Signal::SIGHUP);
    until(PATIENCE, "it says what changed", || {
        let log = sidecast.log();
        expect(log.contains("reload: agent.on_change: changed"), log)
    });
    tcp.kill();
    received(1, "down");
    assert_eq!(
        fs::read_to_string(&written[0]).expect("it is there"),
        before
    );
}

/// What was allowed when it was registered ran as root and was announced until the next start.
fn what_http_registered_obeys_the_new_configuration() {
    let site = Site::new();
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let folder = site.a.network.dir();
    let state_file = folder.join("state.yaml");
    let config = |allowed: &str| {
        let state_file = state_file.display();
        format!(
            "agent: {{state_file: {state_file}, {allowed}}}\n{}",
            site.a.config("", "")
        )
    };
    let mut sidecast = Sidecast::start(&site.a.network, &config("allow_exec: [http]"));
    sidecast.wait_for_api(&site.a.network);
    let get = |path: &str| sidecast.get(&site.a.network, path);
    let vip = "198.51.100.7/32";
    // It passes once, and then runs until it is killed.
    let (passed, runs) = (folder.join("passed"), folder.join("runs"));
    let script = folder.join("probe");
    let text = format!(
        "[ -e {passed} ] || {{ touch {passed}; exit; }}\necho $$ > {runs}\nexec sleep 60\n",
        passed = passed.display(),
        runs = runs.display()
    );
    fs::write(&script, text).expect("a script");
    let path = format!(
        "/register?name=probe&vip={vip}&monitor=exec:sh%20{}&interval=1s&timeout=50s",
        script.display()
    );
    assert_eq!(get(&path).status, 200, "{}", get(&path).body);
    until(PATIENCE, "the route is there", || {
        expect(router.route(vip).is_some(), router.ask("show route"))
    });
    let pid = until(PATIENCE, "the command runs", || {
        let text = fs::read_to_string(&runs).unwrap_or_default();
        text.trim().parse::<u32>().map_err(|_| text)
    });
    let is_there = || fs::exists(format!("/proc/{pid}")).unwrap_or(true);
    assert!(is_there());

    // The effect is reported before, also with the file alone.
    let file = Sidecast::write(&site.a.network, &config("drain_time: 2s"));
    let ask = |command: &str| {
        let output = site.a.network.enter(|| {
            let mut program = Command::new(binary());
            // The variables of the tests are no part of a configuration.
            for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SIDECAST_")) {
                program.env_remove(name);
            }
            program.args([command, "--config"]).arg(&file).output()
        });
        let output = output.expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let why = "commands from http are not run (set agent.allow_exec to allow it)";
    let (_, warned) = ask("check");
    let report = "app probe, registered by http, would be withdrawn by a reload";
    assert!(warned.contains(report) && warned.contains(why), "{warned}");
    assert!(router.route(vip).is_some(), "an HTTP check may not change");

    let (changed, _) = ask("reload");
    let first = changed.lines().next().unwrap_or_default();
    assert_eq!(first, format!("app probe: withdrawn: monitor: exec: {why}"));
    until(PATIENCE, "route, address and command are gone", || {
        let addresses = site.a.network.addresses("lo");
        let addressed = addresses.iter().any(|addr| addr.contains("198.51.100.7"));
        let gone = router.route(vip).is_none() && !addressed && !is_there();
        expect(gone, format!("{addresses:?}"))
    });
    let app = sidecast.app(&site.a.network, "probe");
    assert_eq!(app["state"], "invalid");
    assert!(
        app["why"]
            .as_str()
            .is_some_and(|report| report.contains(why)),
        "{app}"
    );
    assert_eq!(get(&path).status, 403);

    // One that does not fit the file's own apps changes nothing.
    Sidecast::write(
        &site.a.network,
        &config("allowed_vips: [203.0.113.0/24], allow_exec: [http]"),
    );
    assert_eq!(reload(&site).status, 400);
    assert_eq!(sidecast.app(&site.a.network, "probe")["state"], "invalid");

    fs::remove_file(&passed).expect("it was there");
    Sidecast::write(&site.a.network, &config("allow_exec: [http]"));
    let (changed, _) = ask("reload");
    assert!(
        changed.starts_with("app probe: permitted again\n"),
        "{changed}"
    );
    until(PATIENCE, "the route is back", || {
        expect(router.route(vip).is_some(), router.ask("show route"))
    });

    // Without an answer the state file is read.
    sidecast.signal(Signal::SIGTERM);
    sidecast.wait(PATIENCE);
    Sidecast::write(&site.a.network, &config("drain_time: 2s"));
    let (_, warned) = ask("check");
    assert!(
        warned.contains("agent.state_file: would not be restored at the next start")
            && warned.contains("probe")
            && warned.contains(why),
        "{warned}"
    );
}

/// No app was without a route, and no state but `up` was reported, while the apps changed their names or VIPs.
fn apps_that_are_renamed_or_swap_their_vips_keep_their_routes() {
    let site = Site::new();
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let written = site.a.network.dir().join("told");
    let config = |apps: &str| {
        let append = format!("cat >> {}", written.display());
        let text = site.a.config("", "");
        let (speaker, _) = text.split_once("apps:").expect("it has apps");
        format!("agent:\n  on_change: [sh, -c, \"{append}\"]\n{speaker}apps: [{apps}]\n")
    };
    let app = |name: &str, vip: &str, port: &str| {
        format!("{{name: {name}, vip: {vip}, monitors: [\"port:{port}\"], interval: 1s}}")
    };
    let (one, two) = ("192.0.2.53/32", "192.0.2.54/32");
    let (tcp, udp) = ("tcp:8000", "udp:8001");
    let apps = |first: &str, second: &str| config(&format!("{first}, {second}"));
    let begin = apps(&app("a", one, tcp), &app("b", two, udp));
    let mut sidecast = Sidecast::start(&site.a.network, &begin);
    sidecast.wait_for_api(&site.a.network);
    until(PATIENCE, "both are routed", || {
        let routed = router.route(one).is_some() && router.route(two).is_some();
        expect(routed, router.ask("show route"))
    });
    let label = |vip: &str| {
        let all = site.a.network.ip_json("addr show dev lo");
        let all = all[0]["addr_info"].as_array().cloned().unwrap_or_default();
        let of = all
            .into_iter()
            .find(|a| vip.starts_with(a["local"].as_str().unwrap_or("-")));
        of.map(|a| a["label"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(label(one).as_deref(), Some("lo:a"));
    until(PATIENCE, "their transition to up is reported", || {
        let text = fs::read_to_string(&written).unwrap_or_default();
        expect(text.lines().count() == 2, text)
    });
    let routes = ["192.0.2.53", "192.0.2.54"].map(|vip| (vip, Routes::listen(&site.router)));
    for (apps, says, labels) in [
        (
            apps(&app("c", one, tcp), &app("b", two, udp)),
            "app c: was a before",
            ["lo:c", "lo:b"],
        ),
        (
            apps(&app("c", two, tcp), &app("b", one, udp)),
            "app b: changed vips",
            ["lo:b", "lo:c"],
        ),
    ] {
        Sidecast::write(&site.a.network, &apps);
        let reply = reload(&site);
        assert!(reply.body.contains(says), "{}", reply.body);
        until(PATIENCE, "the labels have the new names", || {
            let now = [one, two].map(|vip| label(vip).unwrap_or_default());
            expect(now == labels, format!("{now:?}"))
        });
    }
    std::thread::sleep(Duration::from_secs(3));
    assert!(router.route(one).is_some() && router.route(two).is_some());
    for (vip, routes) in routes {
        let vip = vip.parse().expect("an address");
        assert_eq!(routes.seen(vip), [], "nothing became of {vip}");
    }
    let text = fs::read_to_string(&written).unwrap_or_default();
    assert_eq!(text.lines().count(), 2, "{text}");
    let log = sidecast.log();
    assert!(
        !log.contains("invalid") && !log.contains("by another program"),
        "{log}"
    );
}

/// Three registrations of 3,500 VIPs were three lost sessions.
fn an_attack_at_the_bounds_costs_no_session() {
    let site = Site::new();
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let config = "agent: {max_vips: 2000}\n".to_owned() + &site.a.config("hold_time: 3s", "");
    let mut sidecast = Sidecast::start(&site.a.network, &config);
    sidecast.wait_for_api(&site.a.network);
    until(PATIENCE, "the session is up", || {
        expect(router.established("a"), router.session("a"))
    });
    let since = || {
        let json = sidecast.get(&site.a.network, "/info").body;
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        json["state"]["flops"].clone()
    };
    let flaps = since();
    let register = |app: u32, vips: u32, monitors: u32| {
        let vip = |n: u32| format!("198.{}.{}.{}/32", 18 + app / 256, app % 256, n);
        let vips: Vec<String> = (0..vips).map(vip).collect();
        let mut path = format!("/register?name=app{app}&vip={}", vips.join(","));
        for n in 0..monitors {
            path += &format!("&monitor=port:tcp:{}", 20_000 + n);
        }
        for n in 1..=64 {
            path += &format!("&nat=udp:{n}:53");
        }
        sidecast.get(&site.a.network, &path)
    };
    let refused = register(0, 65, 1);
    assert_eq!(refused.status, 400);
    assert!(refused.body.contains("has 65 VIPs"), "{}", refused.body);
    let refused = register(0, 1, 33);
    assert_eq!(refused.status, 400);
    assert!(refused.body.contains("has 33 monitors"), "{}", refused.body);
    let mut taken = 0;
    let full = (0..100).find_map(|app| {
        let reply = register(app, 64, 32);
        taken += u32::from(reply.status == 200);
        (reply.status != 200).then_some(reply)
    });
    let full = full.expect("there is an end");
    assert_eq!(full.status, 403);
    assert!(full.body.contains("agent.max_vips"), "{}", full.body);
    assert_eq!(taken, 31, "the file has VIPs too");
    assert_eq!(sidecast.get(&site.a.network, "/apps").status, 200);
    for app in 0..taken {
        let path = format!("/unregister?name=app{app}");
        assert_eq!(sidecast.get(&site.a.network, &path).status, 200);
    }
    // As long as the hold time, and longer.
    std::thread::sleep(Duration::from_secs(4));
    assert!(router.established("a"), "{}", router.session("a"));
    assert_eq!(since(), flaps);
    let metrics = sidecast.get(&site.a.network, "/metrics").body;
    let mut lines = metrics.lines();
    let longest = lines.find_map(|line| line.strip_prefix("sidecast_loop_longest_seconds "));
    let longest: f64 = longest.expect("the metric").parse().expect("a number");
    println!(
        "the longest turn of the loop took {:.1} ms",
        longest * 1000.0
    );
    assert!(
        longest < 1.0,
        "{longest} s, a third of the hold time is 1 s"
    );
}

/// The configuration is read anew.
fn reload(site: &Site) -> Reply {
    let answer = request(&site.a.network, Sidecast::api(), "POST", "/reload", "");
    answer.expect("it answers")
}

/// How long the lab may need to come up.
const PATIENCE: Duration = Duration::from_secs(20);
