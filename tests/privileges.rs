//! As few rights as needed: another user after start, an ordinary user from the start, and a clear word
//! when what is needed is missing.

use std::fs;
use std::process::Command;
use std::time::Duration;

use sidecast_lab::{Bird, Child, Sidecast, Site, binary, expect, until};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip"]:
        after_start_it_is_another_user_with_the_rights_it_needs,
        root_gives_up_what_nothing_uses;
    needs ["bird", "birdc", "ip", "setcap", "setpriv"]:
        nobody_reads_its_memory,
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
    fs::copy(binary(), &program).expect("a copy");
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
