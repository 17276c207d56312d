//! Debian in a container with systemd as its first process, cabled to a router that runs BIRD.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use sidecast_lab::{
    Bird, BirdSession, Change, Lab, Namespace, Routes, Service, Transport, VIP4, cache, expect,
    until,
};

use crate::docker::{Container, Docker, finish};
use crate::make::Package;

/// As an administrator would do it, with the package's own scripts and the unit's own restarts.
pub fn installed_upgraded_and_purged() {
    let lab = Lab::new();
    let package = Package::new(&lab, "packages");
    let first = package.make("deb");
    let next: Vec<String> = ["9.1", "9.2", "9.3"]
        .map(|version| name_of(&package.version(&first, version)))
        .to_vec();
    let docker = Docker::new();
    let machine = Machine::start(&lab, &docker, package.folder());

    machine.run(&format!(
        "apt-get install -qq -y /packages/{} 2>&1",
        name_of(&first)
    ));
    installed(&machine);
    machine.configure("graceful_restart: 120s");
    machine.run("systemctl enable --now --quiet sidecast");
    machine.announced();
    reloads(&machine);

    // The router keeps the route while the process is another one.
    let (process, routes) = (machine.process(), Routes::listen(&machine.router));
    machine.upgrade(&next[0]);
    assert_ne!(machine.process(), process);
    machine.established();
    let seen = routes.seen(vip());
    assert!(!seen.contains(&Change::Removed), "{seen:?}");
    println!("upgrade with graceful_restart: the route stays ({seen:?})");

    // Without it the route goes with the session and comes back with the next.
    machine.configure("");
    machine.run("systemctl restart sidecast");
    machine.announced();
    let routes = Routes::listen(&machine.router);
    let (gone, back) = std::thread::scope(|scope| {
        scope.spawn(|| machine.upgrade(&next[1]));
        let gone = routes.wait(Change::Removed, vip(), PATIENCE);
        (gone, routes.wait(Change::Added, vip(), PATIENCE))
    });
    let gap = back - gone;
    println!(
        "upgrade without graceful_restart: no route for {} ms",
        gap.as_millis()
    );

    // A version that refuses the configuration does not get to run.
    let process = machine.process();
    machine.configure("hold_tiem: 9s");
    let said = machine.upgrade(&next[2]);
    assert!(
        said.contains("hold_tiem") && said.contains("was not restarted"),
        "{said}"
    );
    assert_eq!(machine.process(), process);
    assert!(machine.router.gateway(VIP4).is_some());

    purged(&machine);
}

/// What the installation leaves: a user, a configuration only the service reads, and nothing that runs.
fn installed(machine: &Machine<'_>) {
    assert_eq!(machine.fails("systemctl is-enabled sidecast"), "disabled\n");
    assert_eq!(machine.fails("systemctl is-active sidecast"), "inactive\n");
    let rights = machine.run("stat -c '%a %U:%G' /etc/sidecast /etc/sidecast/config.yaml");
    assert_eq!(rights, "750 root:sidecast\n640 root:sidecast\n");
    let user = machine.run("getent passwd sidecast");
    assert!(
        user.ends_with(":/var/lib/sidecast:/usr/sbin/nologin\n"),
        "{user}"
    );
    machine.run("sidecast check --quiet --config /etc/sidecast/config.yaml");
    let schema = machine.run("sed -n '1s/.*schema=//p' /etc/sidecast/config.yaml | xargs cat");
    assert_eq!(schema, machine.run("sidecast schema"));
    let version = machine.run("sidecast --version");
    assert!(version.starts_with(concat!("sidecast ", env!("CARGO_PKG_VERSION"))));
    assert_eq!(
        machine.run("systemd-analyze verify --man=no sidecast.service 2>&1"),
        ""
    );
    machine
        .run("bash -c '. /usr/share/bash-completion/completions/sidecast && complete -p sidecast'");
    assert_eq!(machine.run("dpkg --verify sidecast"), "");
}

/// Its exit status is the reload's: what is refused fails, and changes nothing.
fn reloads(machine: &Machine<'_>) {
    let process = machine.process();
    machine.configure("graceful_restart: 120s\ncommunities: [\"65001:77\"]");
    machine.run("systemctl reload sidecast");
    until(PATIENCE, "the router has the new community", || {
        let route = machine
            .bird
            .route(&format!("{VIP4}/32"))
            .unwrap_or_default();
        expect(route.contains("(65001,77)"), route)
    });
    machine.configure("hold_tiem: 9s");
    machine.fails("systemctl reload sidecast");
    let log = machine.run("journalctl --no-pager -u sidecast");
    assert!(
        log.contains("hold_tiem") && log.contains("nothing was changed"),
        "{log}"
    );
    assert_eq!(machine.run("systemctl is-active sidecast"), "active\n");
    assert_eq!(machine.process(), process);
    machine.configure("graceful_restart: 120s");
    machine.run("systemctl reload sidecast");
}

/// Removed, it withdraws; purged, nothing of it is left but the user.
fn purged(machine: &Machine<'_>) {
    machine.run("apt-get remove -qq -y sidecast 2>&1");
    assert_eq!(machine.router.gateway(VIP4), None);
    assert_eq!(machine.host.addresses("lo"), [""; 0], "an address is left");
    machine.run("test -e /etc/sidecast/config.yaml");
    machine.run("apt-get purge -qq -y sidecast 2>&1");
    let left = machine.run(
        "find / -xdev -name '*sidecast*' ! -path '/packages*' ! -path '/proc/*' ! -path '/sys/*'",
    );
    assert_eq!(left, "");
    let failed = machine.run("systemctl list-units --failed --no-legend");
    assert_eq!(failed, "");
    machine.run("getent passwd sidecast");
}

/// The archive unpacked in /usr/local, as its documentation says.
pub fn the_archive_is_installed_by_hand() {
    let lab = Lab::new();
    let package = Package::new(&lab, "packages");
    let archive = name_of(&package.make("tar"));
    let docker = Docker::new();
    let machine = Machine::start(&lab, &docker, package.folder());
    machine.run(&format!(
        "tar -xf /packages/{archive} -C /usr/local --strip-components=1 --no-same-owner"
    ));
    machine.run("systemd-sysusers && install -D -m 640 -g sidecast /usr/local/share/sidecast/config.yaml /etc/sidecast/config.yaml");
    machine.run("systemd-tmpfiles --create sidecast.conf && systemctl daemon-reload");
    machine.run("sidecast check --quiet --config /etc/sidecast/config.yaml");
    machine.configure("");
    machine.run("systemctl enable --now --quiet sidecast");
    machine.announced();
    machine.run("systemctl stop sidecast");
    assert_eq!(machine.router.gateway(VIP4), None);
}

/// The container, its router, and a service beside which it announces.
struct Machine<'a> {
    container: Container,
    name: String,
    router: Namespace,
    host: Namespace,
    bird: Bird,
    _service: Service,
    _docker: &'a Docker,
}

impl<'a> Machine<'a> {
    /// Debian as `tests/setup` packed it, with the folder at /packages.
    #[track_caller]
    fn start(lab: &Lab, docker: &'a Docker, packages: &Path) -> Self {
        let image = docker.name("debian");
        let mut import = Command::new("docker");
        import
            .arg("import")
            .arg(cache().join("debian.tar"))
            .arg(&image);
        finish(import);
        let volume = format!("{}:/packages:ro", packages.display());
        let options = [
            "--network",
            "none",
            "--cgroupns",
            "private",
            "--cap-add",
            "SYS_ADMIN",
            "--cap-add",
            "NET_ADMIN",
            // What systemd does for its units, the engine's own filters refuse.
            "--security-opt",
            "seccomp=unconfined",
            "--security-opt",
            "apparmor=unconfined",
            "--tmpfs",
            "/run",
            "--tmpfs",
            "/tmp",
            "-e",
            "container=docker",
            "-v",
            &volume,
        ];
        let container = docker.run("debian", &image, &options, &["/lib/systemd/systemd"]);
        let (router, host) = (lab.namespace("router"), lab.adopt("host", container.pid()));
        router.forward();
        // The engine switches it off where it gives no address.
        host.sysctl("net/ipv6/conf/lo/disable_ipv6", "0");
        lab.cable(
            (&host, "eth0", &["10.0.1.2/24"]),
            (&router, "a0", &["10.0.1.1/24"]),
        );
        let session = BirdSession {
            name: "host",
            local: "10.0.1.1".parse().expect("an address"),
            neighbor: "10.0.1.2".parse().expect("an address"),
            local_as: 65000,
            peer_as: 65001,
            preference: 100,
            options: "",
        };
        let bird = Bird::router(&router, &[session]);
        let machine = Self {
            name: docker.name("debian"),
            _service: Service::start(&host, Transport::Tcp, 8000),
            container,
            router,
            host,
            bird,
            _docker: docker,
        };
        until(PATIENCE, "systemd has started", || {
            let output = machine.shell("systemctl is-system-running");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            expect(
                output.status.success(),
                format!("{said}{}", machine.container.log()),
            )
        });
        machine
    }

    fn shell(&self, script: &str) -> Output {
        Command::new("docker")
            .args([
                "exec",
                "-e",
                "DEBIAN_FRONTEND=noninteractive",
                &self.name,
                "sh",
                "-c",
                script,
            ])
            .output()
            .expect("docker runs")
    }

    /// What it printed; it must succeed.
    #[track_caller]
    fn run(&self, script: &str) -> String {
        let output = self.shell(script);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success(),
            "{script}: {said}{error}{}",
            self.journal()
        );
        said
    }

    /// What it printed; it must fail.
    #[track_caller]
    fn fails(&self, script: &str) -> String {
        let output = self.shell(script);
        assert!(!output.status.success(), "{script}: it succeeded");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn journal(&self) -> String {
        let output = self.shell("journalctl --no-pager -n 40 2>&1");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Writes the configuration, with further lines of `bgp`.
    #[track_caller]
    fn configure(&self, bgp: &str) {
        let bgp: String = bgp.lines().map(|line| format!("  {line}\n")).collect();
        let text = format!(
            "agent:\n  listen_addr: unix:/run/sidecast/api.sock\n\
             bgp:\n  local_as: 65001\n  peer_as: 65000\n  peer_ip: 10.0.1.1\n{bgp}\
             apps:\n  - {{name: web, vip: {VIP4}/32, monitors: [\"port:tcp:8000\"], interval: 200ms}}\n"
        );
        self.run(&format!(
            "cat >/etc/sidecast/config.yaml <<'END'\n{text}END\n"
        ));
    }

    /// Installs it over what is there; what that printed.
    #[track_caller]
    fn upgrade(&self, package: &str) -> String {
        let begun = Instant::now();
        let said = self.run(&format!("dpkg --force-confold -i /packages/{package} 2>&1"));
        println!("{package}: dpkg took {:.1?}", begun.elapsed());
        said
    }

    fn process(&self) -> String {
        self.run("systemctl show --property MainPID --value sidecast")
    }

    #[track_caller]
    fn established(&self) {
        until(PATIENCE, "the session is established", || {
            expect(self.bird.established("host"), self.bird.session("host"))
        });
    }

    #[track_caller]
    fn announced(&self) {
        until(PATIENCE, "the route is there", || {
            let route = self.router.gateway(VIP4);
            expect(route.is_some(), self.journal())
        });
    }
}

fn vip() -> IpAddr {
    VIP4.parse().expect("an address")
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().expect("a file");
    name.to_string_lossy().into_owned()
}

const PATIENCE: Duration = Duration::from_secs(30);
