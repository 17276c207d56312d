//! How the core fills its views.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Instant;

use super::{AppView, Core, MonitorId, PeerView, Transition, VipView};
use crate::app::{App, AppName};
use crate::net::Prefix;
use crate::plan::Subject;

/// All of it in one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// The apps behind a name, or all of them, by name.
    pub fn apps(&self, now: Instant, behind: Option<&AppName>) -> impl Iterator<Item = AppView> {
        let names = self.registry.names(behind);
        names.filter_map(move |name| self.app(now, name))
    }

    pub fn app(&self, now: Instant, name: &AppName) -> Option<AppView> {
        let mut view = self.registry.view(now, name)?;
        for vip in &mut view.vips {
            if self.registry.holds(name, &vip.prefix) {
                self.complete(vip);
            }
        }
        view.announced = view.vips.iter().any(|vip| vip.announced);
        Some(view)
    }

    /// The host's own addresses, and the networks whose hosts count as near; empty before the kernel's
    /// tables were read.
    pub fn near(&self) -> BTreeSet<Prefix> {
        let network = self.network.as_ref();
        network.map_or_else(BTreeSet::new, |network| network.near(&self.uplinks))
    }

    /// Whose monitor this is, and its label.
    pub fn owner(&self, monitor: MonitorId) -> Option<(&App, String)> {
        self.registry.owner(monitor)
    }

    /// Adds what only the kernel and the peers know.
    fn complete(&self, vip: &mut VipView) {
        let applied = self.kernel.applied();
        vip.announced = self.peers.is_announced(&vip.prefix);
        vip.addressed = applied.addressed(&vip.prefix);
        vip.foreign = applied.foreign.contains(&vip.prefix);
        if vip.problem.is_none() {
            let address = self.kernel.error(&Subject::Address(vip.prefix));
            let nat = || self.kernel.error(&Subject::Nat);
            vip.problem = address.or_else(nat).map(str::to_owned);
        }
    }

    /// All peers, in the order they are spoken of.
    pub fn peers(&self, now: Instant) -> Vec<PeerView> {
        let mut views = self.peers.views(now);
        for view in &mut views {
            view.bfd_up = self.bfd.is_up(&view.name);
        }
        views
    }

    /// The last 100 transitions, oldest first.
    pub fn events(&self) -> impl Iterator<Item = &Transition> {
        self.transitions.iter()
    }

    /// `Ok` where every app was announced at least once and nobody is leaving; else why not.
    pub fn ready(&self) -> Result<(), String> {
        if self.is_stopping() {
            return Err("stopping".to_owned());
        }
        self.registry.ready()
    }

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

    /// Whether this prefix's route is out to a peer.
    pub fn is_announced(&self, prefix: &Prefix) -> bool {
        self.peers.is_announced(prefix)
    }
}
