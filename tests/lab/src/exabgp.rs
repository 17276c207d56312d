//! ExaBGP in a namespace. It keeps no RIB: received routes are read from the events it passes to its
//! helper process, which writes them to a file.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::child::Child;
use crate::net::Namespace;

/// A running ExaBGP.
pub struct Exabgp {
    events: PathBuf,
    _child: Child,
}

impl Exabgp {
    /// With these neighbors, each of which should say `api { processes [ watch ]; … }`.
    #[track_caller]
    pub fn start(namespace: &Namespace, neighbors: &str) -> Self {
        let name = format!("exabgp-{}", namespace.name());
        let path = |ending: &str| namespace.dir().join(format!("{name}.{ending}"));
        let (config, script, events) = (path("conf"), path("sh"), path("json"));
        // Its pipe does not block, so that `cat` ends whenever there is nothing to read.
        let helper = format!(
            "#!/bin/sh\nwhile kill -0 $PPID; do cat; sleep 0.05; done 2>/dev/null >>{}\n",
            events.display()
        );
        fs::write(&script, helper).expect("a script");
        fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("our own file");
        let process = format!(
            "process watch {{ run {}; encoder json; }}\n",
            script.display()
        );
        fs::write(&config, process + neighbors).expect("a configuration file");
        let env = [
            ("exabgp.daemon.drop", "false"),
            ("exabgp.api.ack", "false"),
            ("exabgp.api.cli", "false"),
        ];
        let args = [&*config.to_string_lossy()];
        let child = Child::start(namespace, &name, "exabgp", &args, &env);
        Self {
            events,
            _child: child,
        }
    }

    /// Everything it has printed so far.
    pub fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.events).unwrap_or_default();
        let events = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        events.collect()
    }
}
