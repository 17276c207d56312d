//! What recipes run beside the announcer: `healthcheck` of a container, `drain` before its end, and the
//! second listener that probes ask.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use sidecast_lab::{
    Bird, Child, Namespace, Sidecast, Site, VIP4, binary, copy_program, expect, get, until,
};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip"]:
        drain_returns_when_packets_have_stopped_coming,
        a_drain_belongs_to_the_name,
        healthcheck_knows_a_socket_file_and_a_listener_switched_off;
    needs ["bird", "birdc", "ip", "unshare", "nsenter"]:
        beside_the_first_process_the_file_need_not_be_named;
}

fn drain_returns_when_packets_have_stopped_coming() {
    let site = Site::new();
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let metrics = "agent:\n  metrics_addr: \":9179\"\n";
    let config = metrics.to_owned() + &site.a.config("", "drain_time: 1s");
    let _sidecast = Sidecast::start(&site.a.network, &config);
    site.answered_by("a", PATIENCE);
    let address = site.a.addresses.host4.parse().expect("an address");
    // A kubelet asks from outside.
    let probe = |path: &str| {
        let reply = get(&site.router, SocketAddr::new(address, 9179), path);
        reply.expect("an answer").status
    };
    assert_eq!((probe("/healthz"), probe("/readyz")), (200, 200));
    assert_eq!(probe("/apps"), 404, "probes and metrics, no more");
    let metric = format!("sidecast_app_announced{{app=\"dns\",vip=\"{VIP4}/32\"}}");
    let announced = || {
        let at = SocketAddr::new(address, 9179);
        let text = get(&site.router, at, "/metrics").expect("an answer").body;
        let line = text.lines().find_map(|line| line.strip_prefix(&metric));
        line.unwrap_or_else(|| panic!("{text}")).trim().to_owned()
    };
    assert_eq!(announced(), "1");

    let begun = Instant::now();
    let drained = run(&site.a.network, &["drain"], &[]);
    let took = begun.elapsed();
    assert_eq!(drained, (0, String::new()));
    assert!(took >= Duration::from_secs(1), "{took:?} is no drain_time");
    assert!(took < Duration::from_secs(4), "it took {took:?}");
    let routes = router.ask("show route protocol a");
    assert!(!routes.contains(VIP4), "{routes}");
    assert_eq!((probe("/healthz"), probe("/readyz")), (200, 503));
    assert_eq!(announced(), "0");

    assert_eq!(run(&site.a.network, &["undrain", "dns"], &[]).0, 0);
    site.answered_by("a", PATIENCE);
    until(PATIENCE, "it is ready again", || {
        expect(probe("/readyz") == 200, "not yet")
    });
    let begun = Instant::now();
    let args = ["drain", "dns", "--no-wait"];
    assert_eq!(run(&site.a.network, &args, &[]).0, 0);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "it waited {took:?}");
    until(PATIENCE, "the route goes all the same", || {
        let routes = router.ask("show route protocol a");
        expect(!routes.contains(VIP4), routes)
    });
    let (code, said) = run(&site.a.network, &["drain", "nobody"], &[]);
    assert_eq!(code, 1);
    assert!(said.contains("nobody"), "{said}");
}

fn a_drain_belongs_to_the_name() {
    let site = Site::new();
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let config = "agent: {drain_time: 0s}\n".to_owned() + &site.a.config("", "");
    let mut sidecast = Sidecast::start(&site.a.network, &config);
    sidecast.wait_for_api(&site.a.network);
    let vip = "192.0.2.80/32";
    let register = |monitor: &str| {
        let args = ["register", "web", vip, "--monitor", monitor];
        assert_eq!(run(&site.a.network, &args, &[]), (0, String::new()));
    };
    register("port:tcp:8000");
    let there = || router.route(vip).is_some();
    until(PATIENCE, "announced", || expect(there(), "not yet"));
    assert_eq!(run(&site.a.network, &["drain", "web"], &[]).0, 0);
    assert!(!there());
    let state = || sidecast.app(&site.a.network, "web")["state"].clone();
    // The same again, another definition, a new start of the name, and the file read again.
    register("port:tcp:8000");
    assert_eq!(state(), "drained");
    register("port:udp:8001");
    assert_eq!(state(), "drained");
    assert_eq!(run(&site.a.network, &["unregister", "web"], &[]).0, 0);
    register("port:tcp:8000");
    assert_eq!(run(&site.a.network, &["reload"], &[]).0, 0);
    until(PATIENCE, "its first checks", || {
        expect(state() == "drained", state().to_string())
    });
    assert!(!there());
    assert_eq!(run(&site.a.network, &["undrain", "web"], &[]).0, 0);
    until(PATIENCE, "announced again", || expect(there(), "not yet"));
}

fn healthcheck_knows_a_socket_file_and_a_listener_switched_off() {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let socket = format!("unix:{}/api", site.a.network.dir().display());
    let vip = format!("{VIP4}/32");
    for (listen, other) in [(&*socket, 0), ("off", 2), ("127.0.0.1:9000", 0)] {
        let env = [
            ("SIDECAST_BGP_LOCAL_AS", "65001"),
            ("SIDECAST_BGP_PEER_AS", "65000"),
            ("SIDECAST_APP_NAME", "dns"),
            ("SIDECAST_APP_VIP", &vip),
            ("SIDECAST_APP_DRAIN_TIME", "0s"),
            ("SIDECAST_AGENT_LISTEN_ADDR", listen),
        ];
        let mut sidecast = Sidecast::launch(&site.a.network, &[], &env);
        until(PATIENCE, "it is alive", || {
            sidecast.must_run();
            let (code, said) = run(&site.a.network, &["healthcheck"], &env);
            expect(code == 0, said)
        });
        // What cannot do without the listener says so.
        let (code, said) = run(&site.a.network, &["drain"], &env);
        assert_eq!(code, other, "{listen}: {said}");
        assert_eq!(said.contains("agent.listen_addr"), other == 2, "{said}");
        sidecast.kill();
        let code = run(&site.a.network, &["healthcheck"], &env).0;
        assert_eq!(code, if listen == "off" { 0 } else { 1 }, "{listen}");
    }
}

/// An engine runs `HEALTHCHECK` and `docker exec` with the container's environment, not with its arguments.
fn beside_the_first_process_the_file_need_not_be_named() {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let agent = "agent: {listen_addr: \"127.0.0.1:9000\", api_token: s3cret, drain_time: 0s}\n";
    let config = agent.to_owned() + &site.a.config("", "");
    let file = Sidecast::write(&site.a.network, &config);
    // Called as in the image, whatever the binary under test is called.
    let dir = site.lab.dir();
    let [program, file] = [dir.join("sidecast"), file].map(|path| path.display().to_string());
    copy_program(binary(), &program);
    let args = [
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        &program,
        "--config",
        &file,
    ];
    let container = Child::start(&site.a.network, "container", "unshare", &args, &[]);
    site.answered_by("a", PATIENCE);
    let path = format!("/proc/{0}/task/{0}/children", container.id());
    let children = std::fs::read_to_string(path).expect("a process of ours");
    let first = format!("--target={}", children.trim());
    let beside = |command: &str| {
        let args = [&*first, "--pid", "--mount", &program, command];
        let output = site.a.network.enter(|| {
            let mut enter = Command::new("nsenter");
            enter.args(args).env_clear().env("PATH", PATH).output()
        });
        let output = output.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    assert_eq!(beside("healthcheck"), (Some(0), String::new()));
    assert_eq!(beside("drain"), (Some(0), String::new()));
    site.unanswered();
}

/// The exit code of one command, and what it complained of.
#[track_caller]
fn run(network: &Namespace, args: &[&str], env: &[(&str, &str)]) -> (i32, String) {
    let output = network.enter(|| {
        let mut command = Command::new(binary());
        command.args(args).env_clear().envs(env.iter().copied());
        command.output()
    });
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("it was not killed"), said)
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long the lab may need to come up.
const PATIENCE: Duration = Duration::from_secs(20);
