//! A real Consul agent in a namespace: a cluster of one server that keeps its state over a restart.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::child::Child;
use crate::harness;
use crate::http::{Reply, request};
use crate::net::Namespace;
use crate::until::{expect, until};

/// A running agent.
pub struct Consul {
    config: PathBuf,
    /// The ACL token sent with every call, where ACLs are on.
    token: Option<String>,
    child: Child,
}

impl Consul {
    /// The name of its node.
    pub const NODE: &'static str = "host-a";

    /// Starts a server on 127.0.0.1 of this namespace and waits for it to lead. `more` is laid over the
    /// configuration.
    #[track_caller]
    pub fn start(namespace: &Namespace, more: &Value) -> Self {
        let config = namespace.dir().join("consul.json");
        let mut text = json!({
            "server": true,
            "bootstrap": true,
            "node_name": Self::NODE,
            "bind_addr": "127.0.0.1",
            "data_dir": namespace.dir().join("consul").to_string_lossy(),
            "disable_update_check": true,
            "log_level": "warn",
            "performance": {"raft_multiplier": 1},
            "ports": {"dns": -1},
            // A killed agent that comes back must not wait for its own session to end.
            "raft_protocol": 3,
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            text[key] = value.clone();
        }
        fs::write(&config, text.to_string()).expect("a configuration file");
        let child = Self::launch(namespace, &config);
        let token = more["acl"]["tokens"]["master"].as_str().map(str::to_owned);
        let consul = Self {
            config,
            token,
            child,
        };
        consul.wait_for_leader(namespace);
        consul
    }

    fn launch(namespace: &Namespace, config: &PathBuf) -> Child {
        let program = harness::program("consul").expect("the test says that it needs it");
        let file = format!("-config-file={}", config.display());
        let name = format!("consul-{}", namespace.name());
        Child::start(
            namespace,
            &name,
            &program.to_string_lossy(),
            &["agent", &file],
            &[],
        )
    }

    #[track_caller]
    fn wait_for_leader(&self, namespace: &Namespace) {
        until(LIMIT, "Consul has a leader", || {
            let path = format!("/v1/catalog/node/{}", Self::NODE);
            let reply = self
                .ask(namespace, "GET", &path, "")
                .map_err(|e| e.to_string())?;
            expect(
                reply.status == 200 && reply.head.contains("Knownleader: true"),
                &reply.body,
            )?;
            expect(reply.body.contains("Services"), &reply.body)
        });
    }

    /// Runs `consul ARGS` in the namespace's folder.
    #[track_caller]
    pub fn run(namespace: &Namespace, args: &str) {
        let program = harness::program("consul").expect("the test says that it needs it");
        let line = format!(
            "cd {} && {} {args}",
            namespace.dir().display(),
            program.display()
        );
        namespace.run("sh", &["-c", &line]);
    }

    /// Its plain HTTP listener.
    pub fn api() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 8500))
    }

    pub fn ask(
        &self,
        namespace: &Namespace,
        method: &str,
        path: &str,
        body: &str,
    ) -> std::io::Result<Reply> {
        let token = self.token.as_ref().map(|token| {
            let separator = if path.contains('?') { '&' } else { '?' };
            format!("{separator}token={token}")
        });
        let path = format!("{path}{}", token.unwrap_or_default());
        request(namespace, Self::api(), method, &path, body)
    }

    /// `PUT`, which must succeed.
    #[track_caller]
    pub fn put(&self, namespace: &Namespace, path: &str, body: &Value) -> Reply {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let reply = self.ask(namespace, "PUT", path, &body);
        let reply = reply.unwrap_or_else(|error| panic!("PUT {path}: {error}"));
        assert_eq!(reply.status, 200, "PUT {path}: {}", reply.body);
        reply
    }

    /// Registers a service with these tags and one TTL check, `service:ID`, that is `status` at first.
    #[track_caller]
    pub fn register(
        &self,
        namespace: &Namespace,
        name: &str,
        id: &str,
        tags: &[&str],
        status: &str,
    ) {
        self.put(
            namespace,
            "/v1/agent/service/register",
            &json!({
                "Name": name, "ID": id, "Tags": tags,
                "Check": {"CheckID": format!("service:{id}"), "TTL": "1h", "Status": status},
            }),
        );
    }

    /// Sets a TTL check: `pass`, `warn` or `fail`.
    #[track_caller]
    pub fn check(&self, namespace: &Namespace, verb: &str, id: &str) {
        self.put(
            namespace,
            &format!("/v1/agent/check/{verb}/service:{id}"),
            &Value::Null,
        );
    }

    #[track_caller]
    pub fn deregister(&self, namespace: &Namespace, id: &str) {
        self.put(
            namespace,
            &format!("/v1/agent/service/deregister/{id}"),
            &Value::Null,
        );
    }

    /// SIGKILL, as a crash.
    #[track_caller]
    pub fn kill(&mut self) {
        self.child.signal(Signal::SIGKILL);
        self.child.wait(LIMIT);
    }

    /// Starts it again with its saved state.
    #[track_caller]
    pub fn start_again(&mut self, namespace: &Namespace) {
        self.child = Self::launch(namespace, &self.config);
        self.wait_for_leader(namespace);
    }
}

/// How long an agent may take to start or to stop on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
