//! FRR (zebra and bgpd, with bfdd where asked), as a router in a namespace.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::child::Child;
use crate::net::Namespace;
use crate::until::until;

/// A running zebra and bgpd.
pub struct Frr {
    sockets: PathBuf,
    bgpd: Child,
    bfdd: Option<Child>,
    zebra: Child,
}

impl Frr {
    /// Starts both with bgpd's configuration.
    #[track_caller]
    pub fn start(namespace: &Namespace, config: &str) -> Self {
        Self::start_all(namespace, config, None)
    }

    /// Starts bfdd too, with its configuration.
    #[track_caller]
    pub fn start_with_bfd(namespace: &Namespace, config: &str, bfd: &str) -> Self {
        Self::start_all(namespace, config, Some(bfd))
    }

    #[track_caller]
    fn start_all(namespace: &Namespace, config: &str, bfd: Option<&str>) -> Self {
        let sockets = namespace.dir().join(format!("frr-{}", namespace.name()));
        fs::create_dir(&sockets).expect("a folder for FRR");
        // The daemons give up root before they open their sockets.
        let frr = nix::unistd::User::from_name("frr").ok().flatten();
        let frr = frr.expect("the package made a user");
        chown(&sockets, Some(frr.uid.as_raw()), Some(frr.gid.as_raw())).expect("root");
        fs::write(sockets.join("zebra.conf"), "").expect("zebra.conf");
        fs::write(sockets.join("bgpd.conf"), config).expect("bgpd.conf");
        let zebra = Self::launch(namespace, &sockets, "zebra");
        let bfdd = bfd.map(|config| {
            fs::write(sockets.join("bfdd.conf"), config).expect("bfdd.conf");
            Self::launch(namespace, &sockets, "bfdd")
        });
        let bgpd = Self::launch(namespace, &sockets, "bgpd");
        Self {
            sockets,
            bgpd,
            bfdd,
            zebra,
        }
    }

    #[track_caller]
    fn launch(namespace: &Namespace, sockets: &Path, daemon: &str) -> Child {
        let path = |name: &str| sockets.join(name).to_string_lossy().into_owned();
        let vty = sockets.join(format!("{daemon}.vty"));
        // A killed daemon leaves its socket.
        let _ = fs::remove_file(&vty);
        let control = path("bfdd.sock");
        let own: &[&str] = match daemon {
            "bfdd" => &["--bfdctl", &control],
            _ => &[],
        };
        let args = [
            &[
                "--vty_socket",
                &sockets.to_string_lossy(),
                "--pid_file",
                &path(&format!("{daemon}.pid")),
                "--socket",
                &path("zserv"),
                "--config_file",
                &path(&format!("{daemon}.conf")),
                "--log",
                "stdout",
            ],
            own,
        ];
        let mut child = Child::start(
            namespace,
            &format!("{daemon}-{}", namespace.name()),
            &format!("/usr/lib/frr/{daemon}"),
            &args.concat(),
            &[],
        );
        until(LIMIT, "the daemon opens its vty", || {
            child.must_run();
            vty.exists().then_some(()).ok_or("no socket")
        });
        child
    }

    /// What `vtysh` answers.
    #[track_caller]
    pub fn ask(&self, command: &str) -> String {
        let output = Command::new("/usr/bin/vtysh")
            .arg("--vty_socket")
            .arg(&self.sockets)
            .args(["-c", command])
            .output()
            .expect("vtysh runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The same, parsed.
    #[track_caller]
    pub fn json(&self, command: &str) -> Value {
        let text = self.ask(command);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}\n{text}"))
    }

    /// The paths bgpd knows to exactly this prefix.
    #[track_caller]
    pub fn paths(&self, prefix: &str) -> Vec<Value> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let answer = self.json(&format!("show bgp {family} unicast {prefix} json"));
        answer["paths"].as_array().cloned().unwrap_or_default()
    }

    /// What bgpd says of a neighbor.
    #[track_caller]
    pub fn neighbor(&self, address: &str) -> Value {
        self.json(&format!("show bgp neighbors {address} json"))[address].take()
    }

    #[track_caller]
    pub fn established(&self, address: &str) -> bool {
        self.neighbor(address)["bgpState"] == "Established"
    }

    /// The log of bgpd so far.
    pub fn log(&self) -> String {
        self.bgpd.output()
    }

    /// Sends a signal to all daemons.
    pub fn signal(&self, signal: Signal) {
        let daemons = [&self.bgpd, &self.zebra].into_iter().chain(&self.bfdd);
        daemons.for_each(|daemon| daemon.signal(signal));
    }

    /// Ends bgpd, with a Cease to its peers (SIGTERM) or as a crash (SIGKILL).
    #[track_caller]
    pub fn stop_bgpd(&mut self, signal: Signal) {
        self.bgpd.signal(signal);
        self.bgpd.wait(LIMIT);
    }

    /// Starts bgpd again.
    #[track_caller]
    pub fn start_bgpd(&mut self, namespace: &Namespace) {
        self.zebra.must_run();
        self.bgpd = Self::launch(namespace, &self.sockets, "bgpd");
    }
}

/// How long a daemon may take to start or to stop on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
