//! The status of apps toward the peers, for the verdict.

use std::time::{Duration, Instant};

use super::{AppStatus, Core};
use crate::app::AppName;
use crate::net::Prefix;
use crate::plan::Subject;

impl Core {
    /// All apps, by name.
    pub fn app_statuses(&self, now: Instant) -> impl Iterator<Item = AppStatus> {
        let names = self.registry.names(None);
        names.filter_map(move |name| self.app_status(now, name))
    }

    /// The status of one app.
    pub fn app_status(&self, now: Instant, name: &AppName) -> Option<AppStatus> {
        let mut standing = self.registry.app_status(now, name)?;
        let only = &self.registry.definition(name)?.options.peers;
        for vip in &mut standing.vips {
            if self.registry.holds(name, &vip.prefix) {
                let bgp = &self.config.bgp;
                let (announced_to, lacking) = self.peers.not_announced_to(&vip.prefix, bgp, only);
                vip.announced_to = announced_to;
                if vip.wanted {
                    vip.lacking = lacking;
                    vip.unproven = self.path_views(&vip.prefix);
                    vip.unproven.retain(|path| path.proof.finding.is_lost());
                }
            }
            if vip.announced_to == 0 && vip.problem.is_none() {
                vip.problem = self.step_error(&vip.prefix).map(str::to_owned);
            }
            if vip.wanted && vip.announced_to == 0 && vip.problem.is_none() && vip.probed.is_some()
            {
                vip.problem = Some("a monitor that probes it has not passed for it".to_owned());
            }
        }
        Some(standing)
    }

    /// The error of the kernel for which the route of this VIP waits: of its address, or of NAT rules that it lacks.
    pub(super) fn step_error(&self, vip: &Prefix) -> Option<&str> {
        let address = self.kernel.error(&Subject::Address(*vip));
        address.or_else(|| {
            let error = self.kernel.error(&Subject::Nat)?;
            let desired = self.registry.desired(vip, None);
            (!self.kernel.applied().has_nat(&desired)).then_some(error)
        })
    }

    /// Whether the first checks or the first connection attempts are still pending, within the time a
    /// start may take.
    pub fn is_starting(&self, now: Instant) -> bool {
        if now >= self.start + STARTING {
            return false;
        }
        let settled = self.network.is_some()
            && self.registry.is_known()
            && self.kernel.is_finished()
            && self.peers.is_flushed(&[]);
        !settled || self.peers(now).iter().any(|peer| !peer.tried)
    }
}

const STARTING: Duration = Duration::from_secs(5);
