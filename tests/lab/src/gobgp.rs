//! GoBGP, as a router in a namespace; its routes stay in its own table.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::child::Child;
use crate::net::Namespace;
use crate::until::until;

/// A running gobgpd.
pub struct Gobgp<'a> {
    namespace: &'a Namespace,
    child: Child,
}

impl<'a> Gobgp<'a> {
    /// With a configuration in TOML.
    #[track_caller]
    pub fn start(namespace: &'a Namespace, config: &str) -> Self {
        let name = format!("gobgpd-{}", namespace.name());
        let path = namespace.dir().join(format!("{name}.toml"));
        fs::write(&path, config).expect("a configuration file");
        let args = ["-f", &path.to_string_lossy(), "-p", "--api-hosts", API];
        let child = Child::start(namespace, &name, "gobgpd", &args, &[]);
        let mut gobgp = Self { namespace, child };
        until(Duration::from_secs(60), "gobgpd answers", || {
            gobgp.child.must_run();
            gobgp.try_ask(&["global"])
        });
        gobgp
    }

    /// What `gobgp -j` answers.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self
            .try_ask(args)
            .unwrap_or_else(|error| panic!("gobgp: {error}"));
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn try_ask(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new("/usr/bin/gobgp");
        command.args(args).arg("-j");
        let output = self.namespace.enter(|| command.output());
        let output = output.map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr) + &text(&output.stdout))
        }
    }
}

/// Its gRPC address.
const API: &str = "127.0.0.1:50051";
