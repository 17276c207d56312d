//! Read access for the API: views of apps and peers.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Instant;

use super::{AppView, Core, HistoryEvent, MonitorId, PeerView, VipView};
use crate::app::{App, AppName};
use crate::bgp::peer::{ConnId, DownReason};
use crate::diagnosis::Diagnosis;
use crate::discovery::{Network, Obstacle, PeerName};
use crate::net::{Prefix, RouterId};

/// Counts for the status line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub apps: usize,
    pub up: usize,
    pub peers: usize,
    pub established: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            apps,
            up,
            peers,
            established,
        } = self;
        write!(
            f,
            "{up} of {apps} apps up, {established} of {peers} sessions established"
        )
    }
}

impl Core {
    /// The apps after a name, or all of them, by name.
    pub fn apps(&self, now: Instant, after: Option<&AppName>) -> impl Iterator<Item = AppView> {
        let names = self.registry.names(after);
        names.filter_map(move |name| self.app(now, name))
    }

    /// The same without the routes: metrics count what is announced and go through all apps once a family.
    pub fn apps_without_routes(
        &self,
        now: Instant,
        after: Option<&AppName>,
    ) -> impl Iterator<Item = AppView> {
        let names = self.registry.names(after);
        names.filter_map(move |name| self.app_without_routes(now, name))
    }

    /// One app as the API shows it.
    pub fn app(&self, now: Instant, name: &AppName) -> Option<AppView> {
        let mut view = self.app_without_routes(now, name)?;
        let only = &self.registry.definition(name)?.options.peers;
        for vip in &mut view.vips {
            if self.registry.holds(name, &vip.prefix) {
                vip.routes = self.peers.routes_sent(now, &vip.prefix);
                if vip.wanted {
                    let bgp = &self.config.bgp;
                    let (_, lacking) = self.peers.not_announced_to(&vip.prefix, bgp, only);
                    vip.lacking = lacking;
                }
            }
        }
        Some(view)
    }

    fn app_without_routes(&self, now: Instant, name: &AppName) -> Option<AppView> {
        let mut view = self.registry.view(now, name)?;
        for vip in &mut view.vips {
            if self.registry.holds(name, &vip.prefix) {
                self.complete(vip);
            }
        }
        view.announced = view.vips.iter().any(|vip| vip.announced);
        Some(view)
    }

    /// The host's own addresses and the networks that are trusted without a token; empty before the
    /// kernel's tables were read.
    pub fn trusted_networks(&self) -> BTreeSet<Prefix> {
        let network = self.network.as_ref();
        network.map_or_else(BTreeSet::new, |network| {
            network.trusted_networks(&self.uplinks)
        })
    }

    /// What is derived of the kernel's tables; `None` before they were read.
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// The app of a monitor, and the monitor's label.
    pub fn owner(&self, monitor: MonitorId) -> Option<(&App, String)> {
        self.registry.owner(monitor)
    }

    /// Adds what only the kernel and the peers know.
    fn complete(&self, vip: &mut VipView) {
        let applied = self.kernel.applied();
        vip.announced = self.peers.is_announced(&vip.prefix);
        vip.paths = self.path_views(&vip.prefix);
        vip.addressed = applied.addressed(&vip.prefix);
        vip.foreign = applied.foreign.contains(&vip.prefix);
        if vip.problem.is_none() {
            vip.problem = self.step_error(&vip.prefix).map(str::to_owned);
        }
    }

    /// All peers, by name.
    pub fn peers(&self, now: Instant) -> Vec<PeerView> {
        let mut views = self.peers.views(now, &self.config.bgp);
        for view in &mut views {
            view.bfd_up = self.bfd.is_up(&view.name);
        }
        views
    }

    /// What is known of the reasons for which a peer has no session; `None`: it has no state machine yet.
    pub fn diagnosis(&self, peer: &PeerName) -> Option<&Diagnosis> {
        self.peers.diagnosis(peer)
    }

    /// Why a peer has no session, or why its last one ended, as its state machine has it.
    pub fn down_reason(&self, peer: &PeerName) -> Option<&DownReason> {
        self.peers.down_reason(peer)
    }

    /// Records how many bytes a peer's TCP has acknowledged, for views.
    pub fn note_acknowledged(&mut self, peer: &PeerName, conn: ConnId, bytes: u64) {
        self.peers.note_acknowledged(peer, conn, bytes);
    }

    /// The host name sent in OPEN.
    pub fn hostname(&self) -> Option<&str> {
        self.peers.hostname()
    }

    /// Our router id, once it is known.
    pub fn router_id(&self) -> Option<RouterId> {
        let network = self.network.as_ref()?;
        self.peers.router_id(network, &self.config.bgp)
    }

    /// Why there is no peer: none was discovered.
    pub fn no_peer_reason(&self) -> Option<&Obstacle> {
        self.peers.no_peer_reason()
    }

    /// The last 500 changes of apps and peers, oldest first.
    pub fn events(&self) -> impl Iterator<Item = &HistoryEvent> {
        self.history.events()
    }

    /// `Ok` when every app was announced at least once and the process is not stopping; else why not.
    pub fn ready(&self) -> Result<(), String> {
        if self.is_stopping() {
            return Err("stopping".to_owned());
        }
        self.registry.ready()
    }

    /// Whether the verdict may have changed since the last call.
    pub fn take_status_changed(&mut self) -> bool {
        let by_peers = self.peers.take_status_changed();
        std::mem::take(&mut self.status_changed) || by_peers
    }

    /// Counts for the status line.
    pub fn summary(&self) -> Summary {
        let (apps, up) = self.registry.count();
        let (peers, established) = self.peers.count();
        Summary {
            apps,
            up,
            peers,
            established,
        }
    }

    /// Whether the prefix is announced to at least one peer.
    pub fn is_announced(&self, prefix: &Prefix) -> bool {
        self.peers.is_announced(prefix)
    }
}
