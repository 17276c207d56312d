//! Operations of the API and of a reload.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use super::{
    Core, DrainReport, Output, Refusal, RegisterOutcome, RejectReason, Transport, consul, reload,
};
use crate::app::{App, AppName, DrainRequest, Protocol, Source};
use crate::config::Config;
use crate::discovery::PeerName;
use crate::net::Prefix;

impl Core {
    /// Registers an app, or replaces it; an error names what refuses it.
    pub fn register(&mut self, now: Instant, app: App) -> Result<RegisterOutcome, Refusal> {
        let done = self.registry.register(now, app);
        self.reconcile(now);
        done
    }

    /// `false`: there was none of that name.
    pub fn unregister(&mut self, now: Instant, name: &AppName) -> bool {
        self.unregister_for(now, name, None)
    }

    /// The same, with who requested it.
    pub fn unregister_for(
        &mut self,
        now: Instant,
        name: &AppName,
        request: Option<DrainRequest>,
    ) -> bool {
        // An app of the configuration or of Consul is drained instead: it would be registered again.
        let source = self.registry.definition(name).map(|app| app.source);
        let known = if source.is_some_and(|source| source != Source::Http) {
            self.registry.drain(now, Some(name), request);
            self.state_changed = true;
            true
        } else {
            let by = request.map(|request| format!("requested by {}", request.by()));
            let why = by.as_deref().unwrap_or("requested");
            self.registry.unregister(now, name, why)
        };
        self.reconcile(now);
        known
    }

    /// Drains one name or all; it stays drained until `undrain`, whoever registers it.
    pub fn drain(&mut self, now: Instant, name: Option<&AppName>) {
        self.drain_for(now, name, None);
    }

    /// The same, with who requested it.
    pub fn drain_for(
        &mut self,
        now: Instant,
        name: Option<&AppName>,
        request: Option<DrainRequest>,
    ) {
        self.registry.drain(now, name, request);
        self.state_changed = true;
        self.reconcile(now);
    }

    /// Ends drains; without a name all of them.
    pub fn undrain(&mut self, now: Instant, name: Option<&AppName>) {
        self.registry.undrain(name);
        self.state_changed = true;
        self.reconcile(now);
    }

    /// Whether this very name is drained, also where no app has it now.
    pub fn is_drained_by_name(&self, name: &AppName) -> bool {
        self.registry.drains().names.contains(name)
    }

    /// Whether the requested drains are over: withdrawn, acknowledged, and no packet comes any more or `drain_time`
    /// has passed.
    pub fn drained(&self, name: Option<&AppName>) -> bool {
        self.registry.is_drained(name)
    }

    /// The requested drains, with the times of their steps.
    pub fn drain_reports(&self, name: Option<&AppName>) -> Vec<DrainReport> {
        self.registry.drain_reports(name)
    }

    /// `None`: no such app, or it has no heartbeat monitor.
    pub fn heartbeat(&mut self, now: Instant, name: &AppName) -> Option<()> {
        let known = self.registry.heartbeat(now, name);
        self.reconcile(now);
        known
    }

    /// Applies a new configuration and returns a line for each change, refused apps first. What did not
    /// change keeps its session, its routes and its health. Consul is followed with the old settings
    /// until the next start, but with the new token.
    pub fn reload(&mut self, now: Instant, config: Config) -> Vec<String> {
        let refused = self.registry.refused();
        let changes = reload::reload(&mut self.registry, now, &self.config, &config);
        if self.config.bgp != config.bgp {
            self.reread = true;
            self.outputs.push_back(Output::ReadNetwork);
        }
        let mut old = std::mem::replace(&mut self.config, config).agent;
        let new = &mut self.config.agent;
        if let (Some(old), Some(new)) = (&mut old.consul, &new.consul) {
            old.token.clone_from(&new.token);
            old.token_file.clone_from(&new.token_file);
        }
        // `vip_interface` and Consul's address take effect at the next start.
        (new.consul, new.vip_interface) = (old.consul, old.vip_interface);
        self.status_changed = true;
        self.handle_consul(now, consul::Event::Reconfigured);
        // What is not announced any more stands first.
        let mut lines = reload::policy_changes(&refused, &self.registry.refused(), &self.registry);
        lines.extend(changes);
        // The cause of a failed connection may be fixed by now.
        self.peers.retry_now(now);
        self.enqueue_all();
        self.reconcile(now);
        lines
    }

    /// The peer of an incoming connection.
    pub fn admit(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<(PeerName, Transport), RejectReason> {
        if self.shutdown.is_over() {
            return Err(RejectReason::Stopping);
        }
        if self.registry.is_vip(local.ip()) {
            return Err(RejectReason::ToVip);
        }
        let (name, transport) = self.peers.at(remote).ok_or(RejectReason::Unknown)?;
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

    /// The configuration in effect.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The ports of `port` monitors, whose destroyed sockets the shell reports.
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
