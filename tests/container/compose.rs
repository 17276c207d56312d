//! `examples/compose/` as it is printed, by Docker Compose. Only what a machine without a registry lacks
//! comes from elsewhere: the images, and an interface in the router's network.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use sidecast_lab::{Bird, Change, Lab, Namespace, Routes, expect, program, until};

use crate::death::among_others;
use crate::docker::{Docker, finish};
use crate::{DNS_VIP, PATIENCE, SYSLOG_VIP, address, ask_dns, sidecast_image, tree};

/// ```text
/// client ---- router (BIRD, examples/router/bird.conf) ==== this machine: dns-net, syslog-net (macvlan)
/// ```
pub fn the_compose_example() {
    let _others = among_others();
    // Its addresses are written into it, so two at a time do not fit on one engine.
    let path = std::env::temp_dir().join("sidecast-test-compose.lock");
    let file = File::create(path).expect("a file");
    let _alone = Flock::lock(file, FlockArg::LockExclusive).expect("a lock");
    let lab = Lab::new();
    let docker = Docker::new();
    let [router, client] = ["router", "client"].map(|name| lab.namespace(name));
    let host = lab.adopt("host", std::process::id());
    let parent = format!("sct{}", std::process::id());
    lab.cable((&host, &parent, &[]), (&router, "eth0", &["10.0.1.1/24"]));
    lab.cable(
        (&client, "eth0", &["10.0.9.2/24"]),
        (&router, "c0", &["10.0.9.1/24"]),
    );
    client.ip("route add default via 10.0.9.1");
    router.forward();
    let snippet = fs::read_to_string(BIRD).expect("the router's side");
    let _bird = Bird::start(&router, &snippet);

    let compose = Compose::new(&docker, &lab, &parent);
    let begun = Instant::now();
    compose.run(&["up", "-d", "--quiet-pull"]);
    let ask = || ask_dns(&client, DNS_VIP, "health", [127, 0, 0, 1]);
    until(PATIENCE, "the resolver answers", ask);
    println!("compose up to the first answer: {:.1?}", begun.elapsed());
    compose.run(&["exec", "-T", "dns-sidecar", "/sidecast", "status"]);
    syslog_arrives(&compose, &client);

    // The service restarts alone, then the sidecar.
    let changes = Routes::listen(&router);
    compose.run(&["restart", "dns"]);
    changes.wait(Change::Removed, address(DNS_VIP), PATIENCE);
    until(PATIENCE, "the resolver is back", ask);
    compose.run(&["restart", "dns-sidecar"]);
    changes.wait(Change::Removed, address(DNS_VIP), PATIENCE);
    changes.wait(Change::Added, address(DNS_VIP), PATIENCE);
    until(PATIENCE, "its sidecar is back", ask);

    // At the end the route goes first: no client is sent to a service that has gone.
    let begun = Instant::now();
    let (asked, gone) = while_asking(&ask, || {
        std::thread::scope(|scope| {
            let down = scope.spawn(|| compose.run(&["down"]));
            let gone = changes.wait(Change::Removed, address(DNS_VIP), PATIENCE);
            down.join().expect("it goes down");
            gone
        })
    });
    println!("compose down took {:.1?}", begun.elapsed());
    assert!(begun.elapsed() < GRACE, "a container had to be killed");
    let before = asked.iter().filter(|(ended, _)| *ended < gone);
    let (mut count, mut unanswered) = (0, Vec::new());
    for (_, answer) in before {
        count += 1;
        unanswered.extend(answer.as_ref().err());
    }
    println!("asked {count} times between `down` and the withdrawal");
    assert!(count > 0);
    assert_eq!(unanswered, [""; 0]);
    assert_eq!(router.gateway(SYSLOG_VIP), None);
    let filter = format!("label=com.docker.compose.project={}", compose.project);
    for kind in ["container", "network", "volume"] {
        let mut list = Command::new("docker");
        list.args([kind, "ls", "-q", "--filter", &filter]);
        assert_eq!(finish(list), "", "{kind}s are left");
    }
}

fn syslog_arrives(compose: &Compose, client: &Namespace) {
    let socket = client.enter(|| std::net::UdpSocket::bind("0.0.0.0:0"));
    let socket = socket.expect("a socket");
    let receiver = SocketAddr::new(address(SYSLOG_VIP), 514);
    until(PATIENCE, "the receiver shows what was sent", || {
        // No route yet: the next look decides.
        let _ = socket.send_to(b"<14>client: hello from the client", receiver);
        let log = compose.run(&["logs", "--no-color", "syslog"]);
        expect(log.contains("hello from the client"), log)
    });
}

/// When it came or was given up, and what it was.
type Answer = (Instant, Result<String, String>);

/// The answers while the work lasted, and what it came to.
fn while_asking<T>(
    ask: &(impl Fn() -> Result<String, String> + Sync),
    work: impl FnOnce() -> T,
) -> (Vec<Answer>, T) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let answer = ask();
                asked.push((Instant::now(), answer));
                std::thread::sleep(Duration::from_millis(5));
            }
            asked
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (asking.join().expect("it only asks"), result)
    })
}

/// The example under a name of its own.
struct Compose {
    project: String,
    more: PathBuf,
}

impl Compose {
    fn new(docker: &Docker, lab: &Lab, parent: &str) -> Self {
        let sidecast = sidecast_image(docker, lab.dir());
        let base = stand_in(docker, lab);
        let label = docker.label();
        let more = lab.dir().join("more.yaml");
        let mut text = "services:\n".to_owned();
        for name in ["dns", "syslog"] {
            text += &format!("  {name}-net: {{image: {base}, labels: [{label}]}}\n");
            text += &format!("  {name}: {{build: {{args: [ALPINE={base}]}}, labels: [{label}]}}\n");
            text += &format!("  {name}-sidecar: {{image: {sidecast}, labels: [{label}]}}\n");
        }
        text += &format!(
            "networks:\n  hosts: {{driver_opts: {{parent: {parent}}}, labels: [{label}]}}\n"
        );
        fs::write(&more, text).expect("a file");
        Self {
            project: docker.name("compose"),
            more,
        }
    }

    #[track_caller]
    fn run(&self, verb: &[&str]) -> String {
        let program = program("docker-compose-v2").expect("the test needs it");
        let mut command = Command::new(program);
        command.args(["-p", &self.project, "-f", EXAMPLE, "-f"]);
        command.arg(&self.more).args(verb);
        finish(command)
    }
}

/// What the example takes from Alpine's image, and what it would install there.
fn stand_in(docker: &Docker, lab: &Lab) -> String {
    let tree = lab.dir().join("alpine");
    tree::plant_by_name(&tree, &["sh", "sleep", "unbound", "rsyslogd"]);
    tree::plant_modules(&tree, "rsyslog");
    tree::script(&tree, "usr/bin/apk", "[ \"$1 $2\" = 'add --no-cache' ]\n");
    fs::create_dir_all(tree.join("etc/unbound")).expect("a folder");
    for (file, line) in [
        (
            "etc/passwd",
            "root:x:0:0::/:/bin/sh\nunbound:x:100:100::/:/bin/sh\n",
        ),
        ("etc/group", "root:x:0:\nunbound:x:100:\n"),
    ] {
        fs::write(tree.join(file), line).expect("a file");
    }
    let path = "ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    docker.import("alpine", &tree, &[path])
}

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/compose/compose.yaml");
const BIRD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/router/bird.conf");
/// The example's stop_grace_period.
const GRACE: Duration = Duration::from_secs(15);
