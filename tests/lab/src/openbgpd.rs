//! OpenBGPD, as a router in a namespace; its routes stay in its own table.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::child::Child;
use crate::net::Namespace;
use crate::until::until;

/// A running bgpd.
pub struct Openbgpd {
    control: PathBuf,
    _child: Child,
}

impl Openbgpd {
    #[track_caller]
    pub fn start(namespace: &Namespace, config: &str) -> Self {
        // The home of its user, into which it calls chroot(2); the distribution's service creates it.
        fs::create_dir_all("/run/openbgpd").expect("root");
        let name = format!("openbgpd-{}", namespace.name());
        let control = namespace.dir().join(format!("{name}.sock"));
        let path = namespace.dir().join(format!("{name}.conf"));
        let config = format!("socket \"{}\"\nfib-update no\n{config}", control.display());
        fs::write(&path, config).expect("a configuration file");
        // bgpd requires mode 0600: the file may hold passwords.
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("our own file");
        let args = ["-d", "-f", &path.to_string_lossy()];
        let mut child = Child::start(namespace, &name, "/usr/sbin/bgpd", &args, &[]);
        until(
            Duration::from_secs(60),
            "bgpd opens its control socket",
            || {
                child.must_run();
                control.exists().then_some(()).ok_or("no socket")
            },
        );
        Self {
            control,
            _child: child,
        }
    }

    /// What `bgpctl -j` answers; null while it does not.
    pub fn json(&self, command: &str) -> Value {
        let output = Command::new("/usr/sbin/bgpctl")
            .arg("-s")
            .arg(&self.control)
            .arg("-j")
            .args(command.split(' '))
            .output()
            .expect("bgpctl runs");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }
}
