//! What a user would pick: each with a service on the port of the lab, its VIPs, and how often it looks.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sidecast_lab::{Child, Namespace, Site, VIP4, binary, program};

/// One of those compared.
#[derive(Clone, Debug)]
pub enum Announcer {
    Sidecast,
    /// Compiled from the source that GOCAST_SOURCE names.
    Gocast(PathBuf),
    /// With the health check that it brings.
    Exabgp,
    /// With a script that asks the service and enables or disables a static route.
    Bird,
}

/// How often it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As it comes.
    Default,
    /// As fast as it can be told to.
    Fastest,
}

impl Announcer {
    /// Those that are here, and why the others are not.
    pub fn all(work: &Path) -> (Vec<Self>, Vec<String>) {
        let (mut here, mut lacking) = (vec![Self::Sidecast], Vec::new());
        match gocast(work) {
            Ok(path) => here.push(Self::Gocast(path)),
            Err(why) => lacking.push(format!("GoCast: {why}")),
        }
        for (one, name, tools) in [
            (Self::Exabgp, "ExaBGP", ["exabgp", "nc"]),
            (Self::Bird, "BIRD with a script", ["bird", "nc"]),
        ] {
            match tools.iter().find(|tool| program(tool).is_none()) {
                None => here.push(one),
                Some(tool) => lacking.push(format!("{name}: no {tool} (tests/setup)")),
            }
        }
        (here, lacking)
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Sidecast => "sidecast",
            Self::Gocast(_) => "GoCast",
            Self::Exabgp => "ExaBGP",
            Self::Bird => "BIRD + script",
        }
    }

    /// As the program itself says.
    pub fn version(&self) -> String {
        let said = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output();
            let printed = output.map(|output| [output.stdout, output.stderr].concat());
            let text = String::from_utf8_lossy(&printed.unwrap_or_default()).into_owned();
            text.lines().next().unwrap_or_default().trim().to_owned()
        };
        match self {
            Self::Sidecast => said(&binary(), &["--version"]),
            Self::Gocast(_) => {
                let source = std::env::var("GOCAST_SOURCE").unwrap_or_default();
                format!(
                    "GoCast {}",
                    said("git", &["-C", &source, "describe", "--always"])
                )
            }
            Self::Exabgp => said("exabgp", &["--version"]),
            Self::Bird => said("bird", &["--version"]),
        }
    }

    /// What it does by default and at its fastest, for the table.
    pub fn interval(&self, pace: Pace) -> &'static str {
        match (self, pace) {
            (Self::Sidecast, Pace::Default) => "10 s, and the kernel's report",
            (Self::Gocast(_), Pace::Default) => "10 s",
            (Self::Exabgp, Pace::Default) => "5 s, 3 failures",
            (Self::Bird, Pace::Default) => "5 s (the script's)",
            (_, Pace::Fastest) => "100 ms, 1 failure",
        }
    }

    /// Starts it in a namespace, with as many apps, all of the one service.
    pub fn start(&self, host: &Namespace, router: &str, apps: u32, pace: Pace) -> Child {
        let vips: Vec<String> = (0..apps).map(vip).collect();
        match self {
            Self::Sidecast => sidecast(host, router, &vips, pace),
            Self::Gocast(path) => start_gocast(host, path, router, &vips, pace),
            Self::Exabgp => exabgp(host, router, &vips, pace),
            Self::Bird => bird(host, router, &vips, pace),
        }
    }

    /// One more app while it runs; false where it has no call for that.
    pub fn register(&self, host: &Namespace) -> bool {
        let query = format!(
            "/register?name=more&vip={MORE}/32&monitor=port:tcp:{}",
            Site::TCP_PORT
        );
        match self {
            Self::Sidecast => {
                drop(host.run("curl", &["-sf", &format!("http://127.0.0.1:8179{query}")]))
            }
            Self::Gocast(_) => {
                drop(host.run("curl", &["-sf", &format!("http://127.0.0.1:8080{query}")]))
            }
            Self::Exabgp => return false,
            Self::Bird => {
                let file = host.dir().join("host-bird.conf");
                let text = fs::read_to_string(&file).expect("its configuration");
                let more = format!("protocol static more {{ ipv4; route {MORE}/32 blackhole; }}\n");
                fs::write(&file, text + &more).expect("a file of ours");
                let control = host.dir().join("host-bird.ctl").display().to_string();
                host.run("birdc", &["-s", &control, "configure"]);
            }
        }
        true
    }
}

/// The VIP of the app of that number.
pub fn vip(number: u32) -> String {
    match number {
        0 => VIP4.to_owned(),
        n => format!("198.{}.{}.{}", 18 + n / 65536, n / 256 % 256, n % 256),
    }
}

fn write(host: &Namespace, name: &str, text: &str) -> String {
    let path = host.dir().join(name);
    fs::write(&path, text).expect("a file");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("a file of ours");
    path.display().to_string()
}

fn sidecast(host: &Namespace, router: &str, vips: &[String], pace: Pace) -> Child {
    let interval = if pace == Pace::Fastest {
        ", interval: 100ms"
    } else {
        ""
    };
    let apps: String = vips
        .iter()
        .enumerate()
        .map(|(n, vip)| {
            let port = Site::TCP_PORT;
            format!(
                "  - {{name: app{n}, vip: {vip}/32, monitors: [\"port:tcp:{port}\"]{interval}}}\n"
            )
        })
        .collect();
    let bgp =
        format!("bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {router}, hold_time: 9s}}\n");
    let config = write(host, "sidecast.yaml", &format!("{bgp}apps:\n{apps}"));
    Child::start(
        host,
        "sidecast",
        &binary(),
        &["run", "--config", &config],
        &[],
    )
}

fn start_gocast(host: &Namespace, path: &Path, router: &str, vips: &[String], pace: Pace) -> Child {
    let interval = if pace == Pace::Fastest {
        "100ms"
    } else {
        "10s"
    };
    let port = Site::TCP_PORT;
    let apps: String = vips
        .iter()
        .enumerate()
        .map(|(n, vip)| {
            format!("  - {{name: app{n}, vip: {vip}/32, monitors: [\"port:tcp:{port}\"]}}\n")
        })
        .collect();
    // Without a community its UPDATE is malformed; without an interval it asks Consul all the time.
    let text = format!(
        "agent: {{listen_addr: \":8080\", monitor_interval: {interval}, consul_query_interval: 5m}}\n\
         bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {router}, communities: [\"65001:1\"], origin: igp}}\n\
         apps:\n{apps}"
    );
    let config = write(host, "gocast.yaml", &text);
    let path = path.display().to_string();
    Child::start(
        host,
        "gocast",
        &path,
        &["-config", &config, "-logtostderr"],
        &[],
    )
}

/// One health check for each app, as its documentation has it.
fn exabgp(host: &Namespace, router: &str, vips: &[String], pace: Pace) -> Child {
    let pace = match pace {
        Pace::Default => "",
        Pace::Fastest => "--interval 0.1 --fast-interval 0.1 --rise 1 --fall 1",
    };
    let local = local(router);
    let mut names = Vec::new();
    let mut text = String::new();
    for (n, vip) in vips.iter().enumerate() {
        names.push(format!("app{n}"));
        text += &format!(
            "process app{n} {{ run /usr/bin/python3 -m exabgp healthcheck --name app{n} --ip {vip}/32 --cmd \"nc -z 127.0.0.1 {}\" \
             --withdraw-on-down --no-syslog {pace}; encoder text; }}\n",
            Site::TCP_PORT
        );
    }
    text += &format!(
        "neighbor {router} {{ router-id {local}; local-address {local}; local-as 65001; peer-as 65000; hold-time 9; \
         family {{ ipv4 unicast; }} api {{ processes [ {} ]; }} }}\n",
        names.join(", ")
    );
    let config = write(host, "exabgp.conf", &text);
    let env = [("exabgp.daemon.drop", "false"), ("exabgp.api.cli", "false")];
    Child::start(host, "exabgp", "exabgp", &[&config], &env)
}

/// A shell that starts BIRD and looks after its routes.
fn bird(host: &Namespace, router: &str, vips: &[String], pace: Pace) -> Child {
    let interval = if pace == Pace::Fastest { "0.1" } else { "5" };
    let local = local(router);
    let routes: String = vips
        .iter()
        .map(|vip| format!("  route {vip}/32 blackhole;\n"))
        .collect();
    let text = format!(
        "log stderr all;\nrouter id {local};\nprotocol device {{ }}\n\
         protocol static vips {{\n  disabled yes;\n  ipv4;\n{routes}}}\n\
         protocol bgp uplink {{ local {local} as 65001; neighbor {router} as 65000; hold time 9; connect delay time 1;\n\
         \x20 ipv4 {{ import all; export where source = RTS_STATIC; }}; }}\n"
    );
    let config = write(host, "host-bird.conf", &text);
    let control = host.dir().join("host-bird.ctl").display().to_string();
    let addresses: String = vips
        .iter()
        .map(|vip| format!("addr replace {vip}/32 dev lo\n"))
        .collect();
    let batch = write(host, "addresses", &addresses);
    let script = format!(
        "#!/bin/sh\nip -batch {batch}\nbird -f -c {config} -s {control} &\ntrap 'kill $!' TERM\n\
         until birdc -s {control} show status; do sleep 0.05; done\nstate=\n\
         while :; do\n\
         \x20 if nc -z 127.0.0.1 {}; then new=enable; else new=disable; fi\n\
         \x20 [ $new = \"$state\" ] || birdc -s {control} $new vips && state=$new\n\
         \x20 sleep {interval}\ndone >/dev/null\n",
        Site::TCP_PORT
    );
    let script = write(host, "bird.sh", &script);
    Child::start(host, "bird-script", &script, &[], &[])
}

/// The host's address on the cable whose other end is the router's.
fn local(router: &str) -> String {
    let network = router.strip_suffix(".1").expect("as the lab has it");
    format!("{network}.2")
}

/// GoCast, compiled with the modules that its source brings along.
fn gocast(work: &Path) -> Result<PathBuf, String> {
    let source = std::env::var("GOCAST_SOURCE")
        .map_err(|_| "GOCAST_SOURCE names no source (with its modules in vendor/)".to_owned())?;
    let to = work.join("gocast");
    let output = Command::new("go")
        .args(["build", "-mod=vendor", "-o"])
        .arg(&to)
        .arg(".")
        .current_dir(&source)
        .output()
        .map_err(|error| format!("go: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(to).ok_or(said)
}

/// What is registered while it runs.
pub const MORE: &str = "203.0.113.7";
