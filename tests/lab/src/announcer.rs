//! The real sidecast, as a process in a namespace.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::child::Child;
use crate::harness::binary;
use crate::http::{self, Reply};
use crate::net::Namespace;
use crate::until::until;

/// A running sidecast.
pub struct Sidecast {
    child: Child,
}

impl Sidecast {
    /// `sidecast run --config FILE`, with a file of this text.
    #[track_caller]
    pub fn start(namespace: &Namespace, config: &str) -> Self {
        let path = Self::write(namespace, config);
        Self::launch(
            namespace,
            &["run", "--config", &path.to_string_lossy()],
            &[],
        )
    }

    /// With arguments and an environment of its own, as in a container without a file.
    #[track_caller]
    pub fn launch(namespace: &Namespace, args: &[&str], env: &[(&str, &str)]) -> Self {
        let name = format!("sidecast-{}", namespace.name());
        let mut all = vec![("RUST_LOG", "info")];
        all.extend(env);
        Self {
            child: Child::start(namespace, &name, &binary(), args, &all),
        }
    }

    /// `sidecast run --config FILE` with this standard error; its log is not kept.
    #[track_caller]
    pub fn start_with_stderr(namespace: &Namespace, config: &str, stderr: OwnedFd) -> Self {
        let path = Self::write(namespace, config);
        let args = ["run", "--config", &path.to_string_lossy()];
        let name = format!("sidecast-{}", namespace.name());
        let env = [("RUST_LOG", "info")];
        Self {
            child: Child::start_beside(namespace, &name, &binary(), &args, &env, Some(stderr)),
        }
    }

    /// Writes the file [`Sidecast::start`] uses, without starting anything: for a reload.
    #[track_caller]
    pub fn write(namespace: &Namespace, config: &str) -> PathBuf {
        let name = format!("sidecast-{}.yaml", namespace.name());
        let path = namespace.dir().join(name);
        fs::write(&path, config).expect("a configuration file");
        path
    }

    /// Where it listens by default.
    pub fn api() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 8179))
    }

    /// `GET path` on the default listener.
    #[track_caller]
    pub fn get(&self, namespace: &Namespace, path: &str) -> Reply {
        http::get(namespace, Self::api(), path)
            .unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// Waits until the default listener answers.
    #[track_caller]
    pub fn wait_for_api(&mut self, namespace: &Namespace) {
        until(Duration::from_secs(60), "the API answers", || {
            self.child.must_run();
            http::get(namespace, Self::api(), "/healthz")
        });
    }

    /// What `/apps/NAME` says.
    #[track_caller]
    pub fn app(&self, namespace: &Namespace, name: &str) -> Value {
        self.get(namespace, &format!("/apps/{name}")).json()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    /// SIGTERM ends it with exit code 0 within 5 s, whatever hangs.
    #[track_caller]
    pub fn stops_soon(&mut self) {
        let begun = Instant::now();
        self.signal(Signal::SIGTERM);
        let status = self.wait(Duration::from_secs(20));
        assert!(status.success(), "{status}");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "it took {took:?}");
    }

    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        self.child.wait(limit)
    }

    #[track_caller]
    pub fn must_run(&mut self) {
        self.child.must_run();
    }

    /// SIGKILL, as a crash.
    pub fn kill(&mut self) {
        self.child.kill();
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.child.output()
    }
}
