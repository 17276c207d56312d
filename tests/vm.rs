//! A VM as small as it gets: a Debian kernel, and in its memory sidecast, busybox and a service, packed by
//! `examples/vm/initramfs`. Emulated in software, on a tap device of a router with BIRD.
//!
//! ```text
//! client eth0 ---- c0 router vm0 ---- eth0 VM
//! ```

#[expect(dead_code, reason = "images need more of it")]
#[path = "container/tree.rs"]
mod tree;

use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use sidecast_lab::{
    Bird, BirdSession, Change, Child, Lab, Namespace, Routes, binary, cache, expect, get, until,
};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip", "ldd", "/dev/net/tun", "machine/usr/bin/qemu-system-x86_64"]:
        a_machine_announces_its_service_from_boot_to_power_button;
}

fn a_machine_announces_its_service_from_boot_to_power_button() {
    let lab = Lab::new();
    let (router, client) = (lab.namespace("router"), lab.namespace("client"));
    router.forward();
    lab.cable(
        (&client, "eth0", &["10.0.9.2/24"]),
        (&router, "c0", &["10.0.9.1/24"]),
    );
    client.ip("route add default via 10.0.9.1");
    router.ip("tuntap add dev vm0 mode tap");
    router.ip("addr add 10.0.1.1/24 dev vm0");
    router.ip("link set vm0 up");
    let bird = Bird::router(&router, &[SESSION]);
    let changes = Routes::listen(&router);

    let mut machine = Machine::boot(&lab, &router);
    changes.wait(Change::Added, vip(), BOOTING);
    let booted = machine.begun.elapsed();
    let answered = || {
        until(PATIENCE, "the VM answers at the VIP", || {
            ask(&client, "/").and_then(|body| expect(body == GREETING, body))
        });
    };
    answered();
    let answering = machine.begun.elapsed();
    println!("power on to route {booted:.1?}, to the first answer {answering:.1?}");
    let route = bird.route(&format!("{VIP}/32")).expect("a route");
    assert!(route.contains("10.0.1.2"), "{route}");
    weigh(&client);
    assert_path_unknown(&client);

    // The service is killed, and init starts it again a second later.
    let begun = Instant::now();
    ask(&client, "/cgi-bin/die").expect_err("it dies of the question");
    let gone = changes.wait(Change::Removed, vip(), PATIENCE);
    println!("asked to die to route gone {:.1?}", gone - begun);
    changes.wait(Change::Added, vip(), PATIENCE);
    answered();

    // Switched off: withdrawn while the service still answers, and a session that ended by itself. Without nf_tables
    // the drain cannot see the end of traffic and takes its whole time.
    let begun = Instant::now();
    let _monitor = machine.press_power_button();
    let gone = changes.wait(Change::Removed, vip(), PATIENCE);
    machine.switched_off();
    assert!(gone.elapsed() >= DRAIN_TIME, "{:?}", gone.elapsed());
    let console = machine.emulator.output();
    assert!(
        console.contains("drains take their whole drain_time"),
        "{console}"
    );
    println!(
        "power button to route gone {:.1?}, to switched off {:.1?}",
        gone - begun,
        begun.elapsed()
    );
    assert_eq!(bird.route(&format!("{VIP}/32")), None, "a route is left");
    assert!(ask(&client, "/").is_err(), "a host answers");
    let log = bird.log();
    assert!(log.contains("Received: Administrative shutdown"), "{log}");
}

/// The initramfs has no nf_tables, so that probes of the path cannot be counted: the reason names the module, and
/// nothing is wrong for lack of it.
#[track_caller]
fn assert_path_unknown(client: &Namespace) {
    let app = ask(client, "/cgi-bin/app").expect("a page");
    let why = "unknown: the kernel does not count probes: ";
    let named = app.split(why).nth(1).and_then(|why| why.split('"').next());
    assert!(named.is_some_and(|why| why.contains("nf_tables")), "{app}");
    println!("path proof: {}", named.unwrap_or_default());
    let ready = ask(client, "/cgi-bin/ready").expect("a page");
    assert!(ready.contains("\nok"), "{ready}");
}

/// What of the VM's memory is used, and by whom.
#[track_caller]
fn weigh(client: &Namespace) {
    let memory = ask(client, "/cgi-bin/memory").expect("a page");
    let kilobytes = |key: &str| number(&memory, key);
    let (total, own) = (kilobytes("MemTotal:"), kilobytes("RssAnon:"));
    let used = total - kilobytes("MemAvailable:");
    println!(
        "{} MB: {total} KB beside the kernel, {used} KB of it used, sidecast's data {own} KB",
        megabytes()
    );
    // Without the program itself, which lies in the VM's memory anyway.
    assert!(own < 2048, "{own} KB");
}

/// A VM, from boot to its end.
struct Machine {
    emulator: Child,
    monitor: PathBuf,
    begun: Instant,
}

impl Machine {
    #[track_caller]
    fn boot(lab: &Lab, router: &Namespace) -> Self {
        let machine = cache().join("machine");
        let initramfs = lab.dir().join("initramfs");
        pack(lab.dir(), &modules(&machine), &initramfs);
        let version = modules(&machine);
        let version = version.file_name().expect("a version").to_string_lossy();
        let monitor = lab.dir().join("monitor");
        let inside = |path: &str| machine.join(path).display().to_string();
        let kernel = inside(&format!("boot/vmlinuz-{version}"));
        let initramfs = initramfs.display().to_string();
        let socket = format!("unix:{},server,nowait", monitor.display());
        let mut args = "-accel tcg -M pc -nodefaults -no-user-config -display none -no-reboot \
            -serial stdio -netdev tap,id=net,ifname=vm0,script=no,downscript=no \
            -device virtio-net-pci,netdev=net,romfile="
            .split_whitespace()
            .collect::<Vec<_>>();
        let (bios, data) = (inside("usr/share/seabios"), inside("usr/share/qemu"));
        args.extend([
            "-L",
            &bios,
            "-L",
            &data,
            "-m",
            megabytes(),
            "-monitor",
            &socket,
        ]);
        args.extend(["-kernel", &kernel, "-initrd", &initramfs]);
        args.extend(["-append", COMMAND_LINE]);
        let parts = inside("usr/lib/x86_64-linux-gnu/qemu");
        let libraries = ["usr/lib", "lib"].map(|path| inside(&format!("{path}/x86_64-linux-gnu")));
        let libraries = libraries.join(":");
        let env = [
            ("LD_LIBRARY_PATH", &*libraries),
            ("QEMU_MODULE_DIR", &*parts),
        ];
        let begun = Instant::now();
        let program = inside("usr/bin/qemu-system-x86_64");
        Self {
            emulator: Child::start(router, "vm", &program, &args, &env),
            monitor,
            begun,
        }
    }

    /// As a hypervisor's "shut down" does. What is returned is to be kept: an emulator that is hung up on
    /// forgets its results.
    #[track_caller]
    fn press_power_button(&mut self) -> UnixStream {
        self.emulator.must_run();
        let mut monitor = UnixStream::connect(&self.monitor).expect("it listens");
        monitor.write_all(b"system_powerdown\n").expect("a command");
        monitor
    }

    #[track_caller]
    fn switched_off(&mut self) {
        let status = self.emulator.wait(PATIENCE);
        let console = self.emulator.output();
        assert!(
            status.success() && console.contains("exit: stopped"),
            "{console}"
        );
    }
}

/// The kernel's, as they were unpacked.
#[track_caller]
fn modules(machine: &Path) -> PathBuf {
    let mut versions = fs::read_dir(machine.join("lib/modules")).expect("a kernel");
    let version = versions.next().expect("one version").expect("a name");
    version.path()
}

/// As the example tells, with a service that can show the VM's memory, and that dies when asked to.
#[track_caller]
fn pack(dir: &Path, modules: &Path, initramfs: &Path) {
    let service = dir.join("service");
    let script = |place: &str, text: &str| {
        let place = service.join(place);
        fs::create_dir_all(place.parent().expect("a folder above")).expect("a folder");
        fs::write(&place, format!("#!/bin/busybox sh\n{text}")).expect("a file");
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).expect("a file of ours");
    };
    script("service", "exec httpd -f -p 80 -h /www\n");
    let page = "printf 'Content-Type: text/plain\\r\\n\\r\\n'\n";
    script(
        "www/cgi-bin/memory",
        &format!("{page}cat /proc/meminfo /proc/$(pidof sidecast)/status\n"),
    );
    for (name, path) in [("app", "apps/web"), ("ready", "readyz")] {
        script(
            &format!("www/cgi-bin/{name}"),
            &format!("{page}wget -qO- http://127.0.0.1:8179/{path}\n"),
        );
    }
    script("www/cgi-bin/die", "killall -KILL httpd\n");
    fs::write(service.join("www/index.html"), GREETING).expect("a file");
    let program = if static_binary() {
        PathBuf::from(binary())
    } else {
        // Cargo's own binary brings its libraries along.
        tree::plant(&service, &[(&binary(), "/bin/sidecast")]);
        service.join("bin/sidecast")
    };
    let packed = Command::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/examples/vm/initramfs"
    ))
    .arg(program)
    .arg(cache().join("machine/bin/busybox"))
    .args([modules, &service])
    .stdout(File::create(initramfs).expect("a file"))
    .status();
    assert!(packed.expect("a shell").success());
}

/// Of the VM. Debian's kernel with the static binary needs 80; cargo's own is larger by far.
fn megabytes() -> &'static str {
    if static_binary() { "96" } else { "512" }
}

fn static_binary() -> bool {
    tree::is_static(&binary())
}

/// What the service says at the VIP.
fn ask(client: &Namespace, path: &str) -> Result<String, String> {
    let reply = get(client, SocketAddr::new(vip(), 80), path).map_err(|error| error.to_string())?;
    expect(reply.status == 200, &reply.head)?;
    Ok(reply.body)
}

/// The number after a word.
#[track_caller]
fn number(text: &str, key: &str) -> u64 {
    let mut words = text.split_whitespace().skip_while(|word| *word != key);
    let number = words.nth(1).and_then(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("no {key} in {text}"))
}

fn vip() -> IpAddr {
    VIP.parse().expect("an address")
}

const VIP: &str = "192.0.2.80";
const GREETING: &str = "the VM";
const SESSION: BirdSession<'static> = BirdSession {
    name: "vm",
    local: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 1)),
    neighbor: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 2)),
    local_as: 65000,
    peer_as: 65001,
    preference: 100,
    options: "",
};
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 ADDRESS=10.0.1.2/24 GATEWAY=10.0.1.1 \
    SIDECAST_BGP_LOCAL_AS=65001 SIDECAST_BGP_PEER_AS=65000 SIDECAST_APP_NAME=web \
    SIDECAST_APP_VIP=192.0.2.80/32 SIDECAST_APP_MONITORS=port:tcp:80 \
    SIDECAST_AGENT_DRAIN_TIME=4s";
/// More than a drain takes at least where the end of traffic is seen.
const DRAIN_TIME: Duration = Duration::from_secs(4);
/// An emulated machine needs some seconds, and more beside other work.
const BOOTING: Duration = Duration::from_secs(300);
const PATIENCE: Duration = Duration::from_secs(60);
