//! What the API and the configuration ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use super::{Core, NotAdmitted, Output, Refusal, Registered, Transport, consul, reload};
use crate::app::{App, AppName, Protocol, Source};
use crate::config::Config;
use crate::discovery::PeerName;
use crate::net::Prefix;

impl Core {
    pub fn register(&mut self, now: Instant, app: App) -> Result<Registered, Refusal> {
        let done = self.registry.register(now, app);
        self.settle(now);
        done
    }

    /// `false`: there was none of that name.
    pub fn unregister(&mut self, now: Instant, name: &AppName) -> bool {
        // What is configured or in Consul would only come back, and its name is not free meanwhile.
        let source = self.registry.definition(name).map(|app| app.source);
        let known = if source.is_some_and(|source| source != Source::Http) {
            self.registry.drain(now, Some(name));
            self.remembers = true;
            true
        } else {
            self.registry.unregister(now, name)
        };
        self.settle(now);
        known
    }

    /// Drains one name or all; it stays drained, whoever registers it, until `undrain`.
    pub fn drain(&mut self, now: Instant, name: Option<&AppName>) {
        self.registry.drain(now, name);
        self.remembers = true;
        self.settle(now);
    }

    /// Ends drains; without a name all of them.
    pub fn undrain(&mut self, now: Instant, name: Option<&AppName>) {
        self.registry.undrain(name);
        self.remembers = true;
        self.settle(now);
    }

    /// Whether this very name is drained, also where no app has it now.
    pub fn is_drained_by_name(&self, name: &AppName) -> bool {
        self.registry.drains().names.contains(name)
    }

    /// Whether the drains asked for are over: withdrawn, acknowledged, `drain_time` passed.
    pub fn drained(&self, name: Option<&AppName>) -> bool {
        self.registry.is_drained(name)
    }

    /// `None`: no such app, or it has no heartbeat monitor.
    pub fn heartbeat(&mut self, now: Instant, name: &AppName) -> Option<()> {
        let known = self.registry.heartbeat(now, name);
        self.settle(now);
        known
    }

    /// Takes a new configuration and says in words what changed, first what it forbids. What did not change
    /// keeps its session, its routes and its health. Consul is followed with the old settings until the next start,
    /// but with the new token.
    pub fn reload(&mut self, now: Instant, config: Config) -> Vec<String> {
        let refused = self.registry.refused();
        let changes = reload::reload(&mut self.registry, now, &self.config, &config);
        if self.config.bgp != config.bgp {
            self.reread = true;
            self.outputs.push_back(Output::NetworkWanted);
        }
        let mut consul = std::mem::take(&mut self.config.agent.consul);
        if let (Some(old), Some(new)) = (&mut consul, &config.agent.consul) {
            old.token.clone_from(&new.token);
            old.token_file.clone_from(&new.token_file);
        }
        self.config = config;
        self.config.agent.consul = consul;
        self.tell_consul(now, consul::Event::Reconfigured);
        // What is not announced any more stands first.
        let mut said = reload::judged(&refused, &self.registry.refused(), &self.registry);
        said.extend(changes);
        // Whoever asks for this may have mended what a peer was waiting for.
        self.peers.retry_now(now);
        self.look_at_everything();
        self.settle(now);
        said
    }

    /// Whose connection this is that somebody opened to us.
    pub fn admit(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<(PeerName, Transport), NotAdmitted> {
        if self.shutdown.is_over() {
            return Err(NotAdmitted::Stopping);
        }
        if self.registry.is_vip(local.ip()) {
            return Err(NotAdmitted::ToVip);
        }
        let (name, transport) = self.peers.at(remote).ok_or(NotAdmitted::Unknown)?;
        Ok((name.clone(), transport.clone()))
    }

    /// The peers there are now, and how they are reached.
    pub fn transports(&self) -> impl Iterator<Item = (&PeerName, &Transport)> {
        self.peers.transports()
    }

    /// An app as it was registered.
    pub fn definition(&self, name: &AppName) -> Option<&App> {
        self.registry.definition(name)
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The ports that monitors look at: their sockets' ends are to be reported.
    pub fn ports(&self) -> BTreeSet<(Protocol, u16)> {
        self.registry.ports()
    }

    /// The files that put an app into maintenance while they exist.
    pub fn maintenance_files(&self) -> &BTreeMap<AppName, PathBuf> {
        self.registry.maintenance_files()
    }

    /// Prefixes that are, or may be, on the interface because of us.
    pub fn vips(&self) -> BTreeSet<Prefix> {
        self.registry.vips()
    }

    /// The first round of checks is over: every monitor has answered.
    pub fn is_known(&self) -> bool {
        self.registry.is_known()
    }

    /// [`Output::Exit`] has been given, or is about to be.
    pub fn is_over(&self) -> bool {
        self.shutdown.is_over()
    }

    /// Stopping, since SIGTERM or for another reason.
    pub fn is_stopping(&self) -> bool {
        !self.shutdown.is_running()
    }
}
