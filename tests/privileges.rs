//! As few rights as needed: another user after start, an ordinary user from the start, and a clear word
//! when what is needed is missing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use sidecast_lab::{Bird, Child, Sidecast, Site, VIP4, binary, copy_program, expect, until};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip"]:
        after_start_it_is_another_user_with_the_rights_it_needs,
        root_gives_up_what_nothing_uses;
    needs ["bird", "birdc", "ip", "setcap", "setpriv"]:
        nobody_reads_its_memory,
        commands_get_nothing_of_ours,
        commands_run_as_somebody_else,
        a_user_that_commands_cannot_run_as_is_an_error,
        an_ordinary_user_announces_by_the_capabilities_of_the_file,
        what_is_missing_is_said_in_one_line;
}

fn after_start_it_is_another_user_with_the_rights_it_needs() {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let config = format!(
        "agent: {{user: \"65534\", listen_addr: \"127.0.0.1:80\"}}\n{}",
        site.a.config("", "")
    );
    let sidecast = Sidecast::start(&site.a.network, &config);
    site.answered_by("a", PATIENCE);
    let status = status(sidecast.id());
    assert_eq!(status("Uid"), "65534 65534 65534 65534");
    assert_eq!(status("Groups"), "65534");
    assert_eq!(capabilities(&status("CapEff")), USED);
    assert_eq!(capabilities(&status("CapPrm")), USED);
    assert_eq!(status("NoNewPrivs"), "1");
}

fn root_gives_up_what_nothing_uses() {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let sidecast = Sidecast::start(&site.a.network, &site.a.config("", ""));
    site.answered_by("a", PATIENCE);
    let status = status(sidecast.id());
    assert_eq!(capabilities(&status("CapEff")), USED | DAC_OVERRIDE | KILL);
    assert_eq!(
        status("NoNewPrivs"),
        "0",
        "scripts of root may use sudo as ever"
    );
}

/// Not even root of a container, which has no CAP_SYS_PTRACE, CAP_PERFMON or CAP_SYS_ADMIN.
fn nobody_reads_its_memory() {
    let site = Site::new();
    let config = Sidecast::write(&site.a.network, &site.a.config("", ""));
    let line = format!(
        "ulimit -S -c 1000; exec {} run --config {}",
        binary(),
        config.display()
    );
    let sidecast = Child::start(&site.a.network, "limited", "sh", &["-c", &line], &[]);
    until(PATIENCE, "it runs", || {
        sidecast_lab::get(&site.a.network, Sidecast::api(), "/healthz")
    });
    let proc = format!("/proc/{}", sidecast.id());
    let environ = format!("{proc}/environ");
    let without = [
        "--inh-caps=-all",
        "--bounding-set=-sys_ptrace,-perfmon,-sys_admin",
        "cat",
        &environ,
    ];
    let read = Command::new("setpriv").args(without).output();
    let read = read.expect("setpriv");
    assert!(!read.status.success(), "{read:?}");
    let limits = fs::read_to_string(format!("{proc}/limits")).expect("a process of ours");
    let core = limits.lines().find(|line| line.starts_with("Max core"));
    let soft = core.expect("a limit").split_whitespace().nth(4);
    assert_eq!(soft, Some("0"), "{limits}");
}

/// What a command finds: environment, descriptors, limits and signals.
const FINDS: &str =
    "env; ls /proc/self/fd; ulimit -S -c; grep -E '^(Uid|Groups|Cap.*|SigBlk)' /proc/self/status";

fn commands_get_nothing_of_ours() {
    let site = Site::new();
    let (dir, network) = (site.lab.dir(), &site.a.network);
    let found = |name: &str| dir.join(name);
    let print = |name: &str| format!("({FINDS}) > {}", found(name).display());
    let app = |name: &str, vip| {
        let line = print(name);
        format!("- {{name: {name}, vip: {vip}/32, monitors: [{{exec: [sh, -c, \"{line}\"]}}]}}\n")
    };
    let config = Sidecast::write(
        network,
        &format!(
            "agent: {{allow_exec: [config, http], on_change: [sh, -c, \"{}\"]}}\n\
             bgp: {{local_as: 65001, peer_as: 65000, peer_ip: 10.0.1.1}}\napps:\n{}",
            print("hook"),
            app("file", VIP4),
        ),
    );
    // A descriptor and a blocked signal inherited from the parent, and a limit that is not zero.
    let line = format!(
        "exec 9</dev/null; ulimit -S -c 1000; exec {} run --config {}",
        binary(),
        config.display()
    );
    let env = [
        ("SIDECAST_BGP_PASSWORD", SECRET),
        ("CONSUL_HTTP_TOKEN", CONSUL),
        ("CONSUL_HTTP_ADDR", "http://127.0.0.1:8500"),
    ];
    let blocked = SigSet::from(Signal::SIGTERM);
    blocked.thread_block().expect("a mask");
    let _sidecast = Child::start(network, "left", "sh", &["-c", &line], &env);
    blocked.thread_unblock().expect("a mask");
    let logged = |name: &str| {
        until(PATIENCE, name, || {
            let text = fs::read_to_string(found(name)).unwrap_or_default();
            text.contains("SigBlk").then_some(text).ok_or("nothing yet")
        })
    };
    let script = dir.join("script");
    fs::write(&script, print("http")).expect("a script");
    let register = format!(
        "/register?name=http&vip=192.0.2.9/32&monitor=exec:sh%20{}",
        script.display()
    );
    let reply = until(PATIENCE, "it takes a registration", || {
        sidecast_lab::get(network, Sidecast::api(), &register)
    });
    assert_eq!(reply.status, 200, "{}", reply.body);
    for (name, owner, token) in [
        ("file", true, true),
        ("hook", false, true),
        ("http", true, false),
    ] {
        let text = logged(name);
        assert!(!text.contains(SECRET), "{name}: {text}");
        assert_eq!(text.contains(CONSUL), token, "{name}: {text}");
        assert!(text.contains("CONSUL_HTTP_ADDR="), "{name}: {text}");
        let ours = text.lines().filter(|line| line.starts_with("SIDECAST_"));
        assert_eq!(ours.count(), if owner { 2 } else { 0 }, "{name}: {text}");
        // Standard input and both outputs; `ls` has the folder itself open.
        let descriptors = text.lines().filter(|line| line.parse::<u8>().is_ok());
        assert_eq!(descriptors.count(), 4, "{name}: {text}");
        assert!(text.lines().any(|line| line == "1000"), "{name}: {text}");
        let field = |field: &str| line_of(&text, field);
        assert_eq!(field("SigBlk:"), "0000000000000000", "{name}");
        assert_eq!(field("Uid:"), "0\t0\t0\t0", "{name}");
    }
}

fn commands_run_as_somebody_else() {
    let site = Site::new();
    let (dir, network) = (site.lab.dir(), &site.a.network);
    let open = dir.join("open");
    fs::create_dir(&open).expect("a folder");
    for folder in [dir, &*open] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("it is ours");
    }
    let capable = dir.join("capable").display().to_string();
    copy_program("/bin/true", &capable);
    // As `ping` has them.
    let capped = Command::new("setcap")
        .args(["cap_net_raw=ep", &capable])
        .status();
    assert!(capped.expect("setcap").success());
    let print = |name: &str| format!("({FINDS}) > {}", open.join(name).display());
    let config = format!(
        "agent: {{exec_user: daemon, on_change: [sh, -c, \"{}\"]}}\n\
         bgp: {{local_as: 65001, peer_as: 65000, peer_ip: 10.0.1.1}}\napps:\n\
         - {{name: file, vip: {VIP4}/32, monitors: [{{exec: [sh, -c, \"{}; {capable}\"]}}]}}\n",
        print("hook"),
        print("file"),
    );
    let path = Sidecast::write(network, &config).display().to_string();
    let env = [("CONSUL_HTTP_TOKEN", CONSUL)];
    let mut sidecast = Sidecast::launch(network, &["run", "--config", &path], &env);
    sidecast.wait_for_api(network);
    let passwd = fs::read_to_string("/etc/passwd").expect("users");
    let daemon = passwd
        .lines()
        .find_map(|line| line.strip_prefix("daemon:x:"));
    let uid = daemon
        .and_then(|rest| rest.split(':').next())
        .expect("a number");
    for name in ["file", "hook"] {
        let text = until(PATIENCE, name, || {
            let text = fs::read_to_string(open.join(name)).unwrap_or_default();
            text.contains("SigBlk").then_some(text).ok_or("nothing yet")
        });
        let field = |field: &str| line_of(&text, field);
        assert_eq!(field("Uid:"), [uid; 4].join("\t"), "{name}");
        let groups = Command::new("id").args(["-G", "daemon"]).output();
        let groups = String::from_utf8(groups.expect("id").stdout).expect("numbers");
        assert_eq!(field("Groups:").trim(), groups.trim(), "{name}");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000", "{name} {set}");
        }
        assert_eq!(
            field("CapBnd:"),
            line_of(&own_status(), "CapBnd:"),
            "{name}"
        );
        assert!(
            text.contains("HOME=") && !text.contains("HOME=/root"),
            "{text}"
        );
        assert!(!text.contains(CONSUL), "{name}: {text}");
    }
    until(
        PATIENCE,
        "a program with capabilities of its own runs",
        || {
            let app = sidecast.app(network, "file");
            expect(app["state"] == "up", app.to_string())
        },
    );
}

fn a_user_that_commands_cannot_run_as_is_an_error() {
    let site = Site::new();
    for (agent, why) in [
        (
            "exec_user: nobody-here",
            "agent.exec_user: unknown user `nobody-here`",
        ),
        (
            "exec_user: daemon, user: \"65534\"",
            "agent.exec_user: cannot switch to user `daemon`",
        ),
    ] {
        let config = format!("agent: {{{agent}}}\n{}", site.a.config("", ""));
        let mut sidecast = Sidecast::start(&site.a.network, &config);
        let status = sidecast.wait(PATIENCE);
        assert_eq!(status.code(), Some(1), "{agent}");
        assert!(sidecast.log().contains(why), "{}", sidecast.log());
    }
}

fn own_status() -> String {
    fs::read_to_string("/proc/self/status").expect("proc")
}

fn line_of(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name}: {text}"))
        .trim()
        .to_owned()
}

const SECRET: &str = "s3cret-of-a-session";
const CONSUL: &str = "s3cret-of-consul";

fn an_ordinary_user_announces_by_the_capabilities_of_the_file() {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    // As `docker run --user 65534 --cap-drop ALL --cap-add NET_ADMIN`: it is in the bounding set, no more.
    let sidecast = ordinary(&site, "-all,+net_admin", &[]);
    site.answered_by("a", PATIENCE);
    let status = status(sidecast.id());
    assert_eq!(status("Uid"), "65534 65534 65534 65534");
    assert_eq!(capabilities(&status("CapEff")), NET_ADMIN);
}

fn what_is_missing_is_said_in_one_line() {
    for (bounding, through, advice) in [
        ("-all", &[][..], "--cap-add NET_ADMIN"),
        (
            "-all,+net_admin",
            // A second step: the first one keeps root's capabilities until it runs a program.
            &["setpriv", "--no-new-privs"][..],
            "allowPrivilegeEscalation: true",
        ),
    ] {
        let site = Site::new();
        let sidecast = ordinary(&site, bounding, through);
        until(PATIENCE, "it says what to change", || {
            let log = sidecast.output();
            let line = log.lines().find(|line| line.contains("no CAP_NET_ADMIN"));
            expect(line.is_some_and(|line| line.contains(advice)), log.clone())
        });
    }
}

/// A copy of the binary with file capabilities, run as an ordinary user with this bounding set.
fn ordinary(site: &Site, bounding: &str, through: &[&str]) -> Child {
    let dir = site.lab.dir();
    let program = dir.join("sidecast").display().to_string();
    copy_program(binary(), &program);
    let capped = Command::new("setcap")
        .args(["cap_net_admin,cap_net_bind_service=p", &program])
        .status()
        .expect("setcap");
    assert!(capped.success());
    let config = Sidecast::write(&site.a.network, &site.a.config("", ""))
        .display()
        .to_string();
    let bounding = format!("--bounding-set={bounding}");
    let mut args = vec!["--reuid=65534", "--regid=65534", "--clear-groups"];
    args.extend(["--inh-caps=-all", &bounding]);
    args.extend(through);
    args.extend([&*program, "--config", &config]);
    Child::start(
        &site.a.network,
        "ordinary",
        "setpriv",
        &args,
        &[("RUST_LOG", "debug")],
    )
}

/// Fields of /proc/PID/status, by name.
fn status(pid: u32) -> impl Fn(&str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process of ours");
    move |name| {
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let words = found.expect("a field").split_whitespace();
        words.collect::<Vec<_>>().join(" ")
    }
}

fn capabilities(hex: &str) -> u64 {
    u64::from_str_radix(hex, 16).expect("a number")
}

const DAC_OVERRIDE: u64 = 1 << 1;
const KILL: u64 = 1 << 5;
const NET_ADMIN: u64 = 1 << 12;
/// And NET_BIND_SERVICE and NET_RAW.
const USED: u64 = NET_ADMIN | 1 << 10 | 1 << 13;

const PATIENCE: Duration = Duration::from_secs(20);
