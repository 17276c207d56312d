//! The sidecar as it ships: an image with one binary in it beside services in containers, and the same
//! binary alone in a folder. Where no Docker engine runs the folder stands for the image.

mod compose;
mod death;
mod docker;
mod stages;
mod tree;

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use compose::the_compose_example;
use death::{Deaths, End, alone, among_others};
use docker::{Builder, Container, Docker, pack};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sidecast_lab::{
    Bird, Change, Child, Lab, Namespace, Routes, Site, ask_tcp, ask_udp, binary, copy_program,
    expect, get, until,
};
use stages::{
    a_shell_in_the_image_for_exec_monitors, an_image_for_each_platform,
    every_stage_by_either_builder, one_call_makes_an_image_for_each_platform,
    the_builder_stage_compiles_what_ships,
};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip", "dnsmasq", "setcap", "ldd"]:
        containers_beside_their_services;
    needs ["bird", "birdc", "ip", "unshare", "chroot", "ldd"]:
        alone_in_a_folder_as_the_first_process,
        it_ends_with_the_network_it_lived_in;
    needs ["/var/run/docker.sock", "docker", "docker-buildx", "setcap", "getcap", "ldd"]:
        every_stage_by_either_builder;
    needs ["/var/run/docker.sock", "docker", "docker-buildx"]:
        an_image_for_each_platform;
    needs ["buildah/usr/bin/buildah", "tar"]:
        one_call_makes_an_image_for_each_platform;
    needs ["/var/run/docker.sock", "docker", "docker-buildx", "setcap", "ldd", "bash", "dig", "nc",
           "../sidecast/zig/bin/cargo-zigbuild"]:
        the_builder_stage_compiles_what_ships;
    needs ["/var/run/docker.sock", "docker", "docker-buildx", "bird", "dnsmasq", "ip", "setcap",
           "ldd", "bash", "dig", "nc"]:
        a_shell_in_the_image_for_exec_monitors;
    needs ["/var/run/docker.sock", "docker", "docker-compose-v2", "bird", "ip", "setcap", "ldd",
           "unbound", "rsyslogd"]:
        the_compose_example;
}

/// ```text
/// client ---- router (BIRD) ---- dns-net:    dnsmasq, sidecast as root with NET_ADMIN alone
///                           ---- syslog-net: a UDP service behind NAT, sidecast as an ordinary user
///                           ---- web-net:    a TCP service, sidecast as the image has it
/// ```
fn containers_beside_their_services() {
    if !docker::available() {
        println!("no Docker engine: a folder stands for the image");
        return alone_in_a_folder_as_the_first_process();
    }
    let _quiet = alone();
    let begun = Instant::now();
    let lab = Lab::new();
    let docker = Docker::new();
    let images = Images::make(&docker, lab.dir());
    let yard = Yard::open(&docker, &lab, &images);

    let dns = Pod::start(&yard, &images, "dns", DNS_VIP);
    let mut name_server = dns.name_server(&images);
    let mut beside_dns = dns.sidecar(
        &images.sidecast,
        "port:udp:53;dns:host.example@127.0.0.1",
        &["--user", "0"],
    );
    let syslog = Pod::start(&yard, &images, "syslog", SYSLOG_VIP);
    let receiver = syslog.service(&images, &["/service", "--lab-udp", "syslog", "5514"]);
    let behind_nat = ["--user", "65534", "-e", "SIDECAST_APP_NATS=udp:514:5514"];
    let beside_syslog = syslog.sidecar(&images.sidecast, "port:udp:5514", &behind_nat);
    let web = Pod::start(&yard, &images, "web", WEB_VIP);
    let web_server = web.service(&images, &["/service", "--lab-tcp", "web", "80"]);
    let _beside_web = web.sidecar(&images.sidecast, "port:tcp:80", &[]);

    let answered = |vip: &str| {
        let at = |port| SocketAddr::new(address(vip), port);
        let report = |error: std::io::Error| error.to_string();
        until(
            PATIENCE,
            "the client's question is answered",
            || match vip {
                DNS_VIP => ask_dns(&yard.client, DNS_VIP, "host", [198, 51, 100, 7]),
                WEB_VIP => ask_tcp(&yard.client, at(80)).map_err(report),
                _ => ask_udp(&yard.client, at(514)).map_err(report),
            },
        )
    };
    answered(DNS_VIP);
    assert_eq!(answered(SYSLOG_VIP), "syslog");
    assert_eq!(answered(WEB_VIP), "web");
    println!("images to answers: {:.1?}", begun.elapsed());

    // A service ends: its route goes at once, the others stay.
    let all = [
        (End::Killed, 7),
        (End::EngineKills, 3),
        (End::EngineStops, 3),
    ];
    let mut deaths = Deaths::default();
    let mut ends = |what, vip: &str, service: &Container, next_hops: &[(End, usize)]| {
        let others = [DNS_VIP, SYSLOG_VIP, WEB_VIP].map(|vip| yard.router.gateway(vip));
        let at = (&yard.router, address(vip));
        deaths.of(what, at, (service, next_hops), || drop(answered(vip)));
        let now = [DNS_VIP, SYSLOG_VIP, WEB_VIP].map(|vip| yard.router.gateway(vip));
        assert_eq!(now, others);
    };
    ends("a name server", DNS_VIP, &name_server, &all);
    ends("UDP behind NAT", SYSLOG_VIP, &receiver, &all[..2]);
    ends("TCP", WEB_VIP, &web_server, &all[..2]);
    deaths.check();

    // The sidecar is killed: its successor takes over what it finds, and the client is served all the same.
    beside_dns.ask(&["kill"]);
    beside_dns.ask(&["start"]);
    answered(DNS_VIP);
    until(PATIENCE, "the healthcheck is content", || {
        let health = beside_dns.health();
        expect(health == "healthy", health)
    });
    assert_eq!(
        dns.network.addresses("lo"),
        [format!("{DNS_VIP}/32")],
        "one address, not two"
    );

    // Stopped as an engine stops: withdrawn, removed, and by itself, not by SIGKILL.
    let stopping = Instant::now();
    beside_syslog.ask(&["stop", "-t", "10"]);
    println!("docker stop took {:.1?}", stopping.elapsed());
    assert!(
        beside_syslog.log().contains("exit: stopped"),
        "{}",
        beside_syslog.log()
    );
    assert_eq!(
        syslog.network.addresses("lo"),
        [""; 0],
        "an address is left"
    );
    assert_eq!(yard.router.gateway(SYSLOG_VIP), None);
    beside_dns.ask(&["stop", "-t", "10"]);
    let _ = (&mut name_server, &mut beside_dns);
}

/// The images: sidecast's own, and a small Debian with a router and services in it.
struct Images {
    sidecast: String,
    tools: String,
}

impl Images {
    fn make(docker: &Docker, dir: &Path) -> Self {
        let sidecast = sidecast_image(docker, dir);
        let (size, file) = (
            docker.size(&sidecast),
            fs::metadata(binary()).expect("a file").len(),
        );
        println!("image: {size} bytes, the binary {file}");
        let tools = dir.join("tools");
        let service = std::env::current_exe()
            .expect("a path")
            .display()
            .to_string();
        tree::plant(
            &tools,
            &[
                ("/usr/sbin/bird", "/usr/sbin/bird"),
                ("/usr/sbin/dnsmasq", "/usr/sbin/dnsmasq"),
                ("/usr/bin/sleep", "/usr/bin/sleep"),
                (&service, "/service"),
            ],
        );
        fs::write(tools.join("etc/bird.conf"), ROUTER).expect("a file");
        Self {
            sidecast,
            tools: docker.import("tools", &tools, &[]),
        }
    }
}

/// From the Dockerfile's prebuilt stage. A binary that needs libraries (cargo's own of this run) brings
/// them along in an image that is otherwise the same.
fn sidecast_image(docker: &Docker, dir: &Path) -> String {
    let folder = dir.join("dist");
    fs::create_dir(&folder).expect("a folder");
    let program = folder.join("sidecast");
    if !tree::is_static(&binary()) {
        tree::plant(&folder, &[(&binary(), "/sidecast")]);
        set_capabilities(&program);
        println!(
            "image: with libraries; for the real one set SIDECAST_BIN to what tests/musl makes"
        );
        return docker.import("sidecast", &folder, &AS_IN_THE_DOCKERFILE);
    }
    copy_program(binary(), &program);
    set_capabilities(&program);
    pack(&folder, "sidecast", &folder.join("sidecast.tar"));
    fs::remove_file(&program).expect("a file of ours");
    // Its file has the capability, so it needs no root.
    let user = ["RUN_AS=65534:65534"];
    docker.build("sidecast", Builder::Classic, "prebuilt", &user, &folder)
}

fn set_capabilities(program: &Path) {
    let done = Command::new("setcap")
        .arg("cap_net_admin,cap_net_bind_service=p")
        .arg(program)
        .status();
    assert!(done.expect("setcap").success());
}

/// Two networks, the router between them and the client.
struct Yard<'a> {
    docker: &'a Docker,
    lab: &'a Lab,
    hosts: String,
    gateway: String,
    router: Namespace,
    client: Namespace,
    _containers: [Container; 2],
}

impl<'a> Yard<'a> {
    fn open(docker: &'a Docker, lab: &'a Lab, images: &Images) -> Self {
        let (hosts, clients) = (docker.network("hosts"), docker.network("clients"));
        let forward = [
            "--network",
            &hosts,
            "--cap-add",
            "NET_ADMIN",
            "--sysctl",
            "net.ipv4.ip_forward=1",
        ];
        let router = docker.run(
            "router",
            &images.tools,
            &forward,
            &["bird", "-f", "-c", "/etc/bird.conf", "-s", "/run/bird.ctl"],
        );
        router.join(&clients);
        let client = docker.run("client", &images.tools, &["--network", &clients], IDLE);
        let yard = Self {
            docker,
            lab,
            gateway: router.address_in(&hosts),
            router: lab.adopt("router", router.pid()),
            client: lab.adopt("client", client.pid()),
            hosts,
            _containers: [router, client],
        };
        let near = yard._containers[0].address_in(&clients);
        yard.client.ip(&format!("route replace default via {near}"));
        yard
    }
}

/// A third, idle container whose network service and sidecar share, so that each can restart alone.
struct Pod<'a> {
    docker: &'a Docker,
    name: &'static str,
    vip: &'static str,
    network: Namespace,
    container: Container,
}

impl<'a> Pod<'a> {
    fn start(yard: &Yard<'a>, images: &Images, name: &'static str, vip: &'static str) -> Self {
        let what = format!("{name}-net");
        let container = yard
            .docker
            .run(&what, &images.tools, &["--network", &yard.hosts], IDLE);
        let network = yard.lab.adopt(name, container.pid());
        // The router in place of Docker's own gateway: sidecast finds its peer there by itself.
        network.ip(&format!("route replace default via {}", yard.gateway));
        Self {
            docker: yard.docker,
            name,
            vip,
            network,
            container,
        }
    }

    fn service(&self, images: &Images, command: &[&str]) -> Container {
        self.docker.run(
            self.name,
            &images.tools,
            &["--network", &self.container.network_of()],
            command,
        )
    }

    /// It knows host.example.
    fn name_server(&self, images: &Images) -> Container {
        let command = [
            "dnsmasq",
            "-k",
            "-u",
            "root",
            "-p",
            "53",
            "--no-resolv",
            "--no-hosts",
            "--pid-file=",
            "--address=/host.example/198.51.100.7",
        ];
        self.service(images, &command)
    }

    fn sidecar(&self, image: &str, monitors: &str, user: &[&str]) -> Container {
        let network = self.container.network_of();
        let vip = format!("SIDECAST_APP_VIP={}/32", self.vip);
        let name = format!("SIDECAST_APP_NAME={}", self.name);
        let monitors = format!("SIDECAST_APP_MONITORS={monitors}");
        let mut options = vec![
            "--network",
            &network,
            "--read-only",
            "--cap-drop",
            "ALL",
            "--cap-add",
            "NET_ADMIN",
            "--health-interval",
            "1s",
            "-e",
            "SIDECAST_BGP_LOCAL_AS=65001",
            "-e",
            "SIDECAST_BGP_PEER_AS=65000",
            "-e",
            "SIDECAST_APP_HOLD_DOWN=off",
            "-e",
            &name,
            "-e",
            &vip,
            "-e",
            &monitors,
        ];
        options.extend(user);
        let what = format!("{}-sidecar", self.name);
        self.docker.run(&what, image, &options, &[])
    }
}

/// An A query for HOST.example; what the answer says, if it is the right one.
fn ask_dns(from: &Namespace, server: &str, host: &str, right: [u8; 4]) -> Result<String, String> {
    let report = |error: std::io::Error| error.to_string();
    let mut query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    query.push(u8::try_from(host.len()).expect("a short name"));
    query.extend(host.as_bytes());
    query.extend(b"\x07example\0\0\x01\0\x01");
    let socket = from
        .enter(|| UdpSocket::bind("0.0.0.0:0"))
        .map_err(report)?;
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .map_err(report)?;
    socket.connect((address(server), 53)).map_err(report)?;
    socket.send(&query).map_err(report)?;
    let mut space = [0; 512];
    let length = socket.recv(&mut space).map_err(report)?;
    let answer = space.get(..length).unwrap_or_default();
    expect(
        answer.starts_with(b"\x12\x34") && answer.ends_with(&right),
        format!("{answer:?}"),
    )?;
    Ok(IpAddr::from(right).to_string())
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// As in a scratch image: nothing else in the file system, process number 1, orphans to collect.
fn alone_in_a_folder_as_the_first_process() {
    let _others = among_others();
    let site = Site::new();
    let (mut service, _udp) = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let root = site.lab.dir().join("root");
    tree::plant(&root, &[(&binary(), "/sidecast")]);
    let config = format!(
        "{}  - {{name: script, vip: 192.0.2.99/32, monitors: [\"exec:true\"], interval: 200ms}}\n",
        site.a.config("", "")
    );
    fs::write(root.join("etc/sidecast.yaml"), config).expect("a file");
    let mut sidecast = first_process(&site.a.network, &root);
    site.answered_by("a", PATIENCE);
    let changes = Routes::listen(&site.router);
    service.kill();
    changes.wait(Change::Removed, address(sidecast_lab::VIP4), PATIENCE);
    service.restart(&site.a.network);
    site.answered_by("a", PATIENCE);
    let api = SocketAddr::from(([127, 0, 0, 1], 8179));
    let script = get(&site.a.network, api, "/apps/script")
        .expect("an answer")
        .json()
        .to_string();
    assert!(
        script.contains("shell"),
        "it says that there is none: {script}"
    );
    // A signal to the first process of a container: it has no default action, it must be handled.
    let first = first_child(sidecast.id());
    kill(first, Signal::SIGTERM).expect("it runs");
    assert!(sidecast.wait(PATIENCE).success());
    assert_eq!(site.a.vips(), [""; 0], "an address is left");
}

/// The container whose network it shared was restarted: the engine is to start it in the new one.
fn it_ends_with_the_network_it_lived_in() {
    let _others = among_others();
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let root = site.lab.dir().join("root");
    tree::plant(&root, &[(&binary(), "/sidecast")]);
    fs::write(root.join("etc/sidecast.yaml"), site.a.config("", "")).expect("a file");
    let mut sidecast = first_process(&site.a.network, &root);
    site.answered_by("a", PATIENCE);
    site.a.network.ip("link del eth0");
    let begun = Instant::now();
    let status = sidecast.wait(PATIENCE);
    assert_eq!(status.code(), Some(1), "{}", sidecast.output());
    println!("network gone to exit: {:.1?}", begun.elapsed());
}

fn first_process(network: &Namespace, root: &Path) -> Child {
    let root = root.display().to_string();
    let args = [
        "--pid",
        "--fork",
        "--kill-child",
        "chroot",
        &root,
        "/sidecast",
        "--config",
        "/etc/sidecast.yaml",
    ];
    Child::start(network, "chroot", "unshare", &args, &[])
}

/// What `unshare --fork` started.
fn first_child(parent: u32) -> Pid {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(path).expect("a process of ours");
    let child = text.split_whitespace().next().expect("a child");
    Pid::from_raw(child.parse().expect("a pid"))
}

/// Takes whoever calls from the hosts' network, and routes by what they announce.
const ROUTER: &str = "
log stderr all;
router id 192.0.2.1;
protocol device { }
protocol kernel { ipv4 { import none; export all; }; }
protocol bgp pods {
  local as 65000;
  neighbor range 0.0.0.0/0 as 65001;
  dynamic name \"pod\";
  ipv4 { import all; export none; };
}
";
const AS_IN_THE_DOCKERFILE: [&str; 3] = [
    "USER 65534:65534",
    "ENTRYPOINT [\"/sidecast\"]",
    "HEALTHCHECK CMD [\"/sidecast\", \"healthcheck\"]",
];
const DNS_VIP: &str = "192.0.2.53";
const SYSLOG_VIP: &str = "192.0.2.14";
const WEB_VIP: &str = "192.0.2.80";
const IDLE: &[&str] = &["sleep", "infinity"];
const PATIENCE: Duration = Duration::from_secs(60);
