//! BIRD 2, as a router in a namespace: its best routes go to the kernel, so packets follow them.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::child::Child;
use crate::net::Namespace;
use crate::until::until;

/// One `protocol bgp` of the router.
#[derive(Clone, Debug)]
pub struct BirdSession<'a> {
    pub name: &'a str,
    pub local: IpAddr,
    pub neighbor: IpAddr,
    pub local_as: u32,
    pub peer_as: u32,
    /// Of two routes the higher preference wins (BIRD's own 100 is the usual one).
    pub preference: u32,
    /// Further lines of the protocol.
    pub options: &'a str,
}

impl BirdSession<'_> {
    fn text(&self) -> String {
        let Self {
            name,
            local,
            neighbor,
            local_as,
            peer_as,
            preference,
            options,
        } = self;
        let channel = format!("{{ preference {preference}; import all; export none; }}");
        format!(
            "protocol bgp {name} {{\n  local {local} as {local_as};\n  neighbor {neighbor} as {peer_as};\n  \
             {options}\n  ipv4 {channel};\n  ipv6 {channel};\n}}\n"
        )
    }
}

/// A running BIRD.
pub struct Bird {
    name: String,
    config: PathBuf,
    control: PathBuf,
    child: Child,
}

impl Bird {
    /// A router with these sessions.
    #[track_caller]
    pub fn router(namespace: &Namespace, sessions: &[BirdSession<'_>]) -> Self {
        let sessions: String = sessions.iter().map(BirdSession::text).collect();
        Self::start(namespace, &format!("{ROUTER}{sessions}"))
    }

    /// The same with further protocols.
    #[track_caller]
    pub fn router_with(namespace: &Namespace, more: &str, sessions: &[BirdSession<'_>]) -> Self {
        let sessions: String = sessions.iter().map(BirdSession::text).collect();
        Self::start(namespace, &format!("{ROUTER}{more}\n{sessions}"))
    }

    /// With a configuration of its own.
    #[track_caller]
    pub fn start(namespace: &Namespace, config: &str) -> Self {
        let name = format!("bird-{}", namespace.name());
        let path = |ending: &str| namespace.dir().join(format!("{name}.{ending}"));
        fs::write(path("conf"), config).expect("a configuration file");
        let (config, control) = (path("conf"), path("ctl"));
        let child = Self::launch(namespace, &name, &config, &control);
        Self {
            name,
            config,
            control,
            child,
        }
    }

    #[track_caller]
    fn launch(namespace: &Namespace, name: &str, config: &PathBuf, control: &PathBuf) -> Child {
        // A killed BIRD leaves its socket, and the answer must come from the new one.
        let _ = fs::remove_file(control);
        let (config, control_arg) = (config.to_string_lossy(), control.to_string_lossy());
        let args = ["-f", "-c", &config, "-s", &control_arg];
        let mut child = Child::start(namespace, name, "bird", &args, &[]);
        until(LIMIT, "BIRD opens its control socket", || {
            child.must_run();
            control.exists().then_some(()).ok_or("no socket")
        });
        child
    }

    /// What `birdc` answers.
    pub fn ask(&self, command: &str) -> String {
        let output = Command::new("/usr/sbin/birdc")
            .arg("-s")
            .arg(&self.control)
            .args(command.split(' '))
            .output()
            .expect("birdc runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Everything it knows of exactly this prefix, or `None` when it has no such route.
    pub fn route(&self, prefix: &str) -> Option<String> {
        let text = self.ask(&format!("show route {prefix} all"));
        text.contains(prefix).then_some(text)
    }

    /// The same, learned by one protocol.
    pub fn route_from(&self, prefix: &str, protocol: &str) -> Option<String> {
        let text = self.ask(&format!("show route {prefix} protocol {protocol} all"));
        text.contains(prefix).then_some(text)
    }

    /// A session's state and counters.
    pub fn session(&self, name: &str) -> String {
        self.ask(&format!("show protocols all {name}"))
    }

    pub fn established(&self, name: &str) -> bool {
        self.session(name)
            .contains("BGP state:          Established")
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.child.output()
    }

    /// Ends it, with a Cease to its peers (SIGTERM) or as a crash (SIGKILL).
    #[track_caller]
    pub fn stop(&mut self, signal: Signal) {
        self.child.signal(signal);
        self.child.wait(LIMIT);
    }

    /// Starts it again after [`Bird::stop`].
    #[track_caller]
    pub fn start_again(&mut self, namespace: &Namespace) {
        self.child = Self::launch(namespace, &self.name, &self.config, &self.control);
    }
}

/// The value of an attribute in BIRD's words, as `BGP.as_path`, from the first route in `text`.
pub fn attribute(text: &str, name: &str) -> Option<String> {
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(name))?;
    Some(line.trim_start_matches(':').trim().to_owned())
}

/// Everything but the sessions. Routes from BGP go to the kernel; a crashed BIRD's leftovers are taken
/// over by the next (`learn` off, `persist` off). Errors are not held against a peer for a minute, as
/// BIRD does by default: it is sidecast's recovery that is measured.
const ROUTER: &str = "
log stderr all;
router id 10.255.0.1;
protocol device { scan time 2; }
protocol direct { ipv4; ipv6; }
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }
protocol kernel { ipv6 { import none; export where source = RTS_BGP; }; }
";

/// How long BIRD may take to start or to stop on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
