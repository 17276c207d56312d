//! From what is wanted to what is done: plans, acknowledgements, and the end of the process.

use std::time::{Duration, Instant};

use log::{info, warn};

use super::kernel::Plan;
use super::shutdown::{ACKNOWLEDGE, Shutdown};
use super::{Acknowledgement, Core, Output};
use crate::bgp::{Cease, Notification};
use crate::config::Lease;
use crate::net::Prefix;
use crate::plan::Wanted;

impl Core {
    /// Looks at all that is queued: computes what is wanted, compares it with what is applied and gives
    /// out the difference. The end of every input.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.shutdown.is_over() {
            return;
        }
        self.take_checks(now);
        loop {
            let vips = self.registry.settle(now);
            let mut plan = Plan::default();
            let (lease, unaddressed) = (self.lease(), self.registry.is_unaddressed());
            for vip in vips {
                let wanted = self.wanted(&vip, lease);
                self.kernel.plan(vip, &wanted, unaddressed, &mut plan);
            }
            self.kernel.finish_plan(&mut plan);
            let complete = !self.waits_for_first_round();
            self.peers.advertise(now, plan.routes, complete);
            self.take_sessions_outputs();
            let steps = plan.steps.into_iter();
            self.outputs
                .extend(steps.map(|(id, step)| Output::Step { id, step }));
            self.take_checks(now);
            // Each round ends here, or moves a drain or the shutdown on, which never go back.
            let acknowledged = self.ask_acknowledgement(now);
            if self.step_shutdown(now) {
                self.look_at_everything();
            } else if self.shutdown.is_over() {
                return;
            } else if !acknowledged {
                break;
            }
        }
        self.take_sessions_outputs();
        self.note_announced();
        self.show(now);
    }

    /// Every app and every VIP is looked at again: what somebody forgot to queue is put right.
    pub(super) fn look_at_everything(&mut self) {
        self.registry.look_at_all();
        for vip in self.registry.vips().into_iter().chain(self.kernel.vips()) {
            self.registry.look_at(vip);
        }
    }

    /// Peers that kept a predecessor's routes drop what End-of-RIB does not leave: it waits for the network,
    /// for Consul's services, for the checks, and for the addresses of what they found healthy.
    fn waits_for_first_round(&mut self) -> bool {
        if self.first_round_by.is_some()
            && self.network.is_some()
            && self.knows_services()
            && self.registry.is_known()
            && self.kernel.is_finished()
        {
            self.first_round_by = None;
        }
        self.first_round_by.is_some()
    }

    fn wanted(&self, vip: &Prefix, lease: Option<Duration>) -> Wanted {
        match self.shutdown {
            Shutdown::Running | Shutdown::Draining { .. } => self.registry.wanted(vip, lease),
            Shutdown::Withdrawing { .. } => Wanted {
                route: None,
                ..self.registry.wanted(vip, lease)
            },
            Shutdown::Removing { .. } | Shutdown::Over => Wanted::default(),
        }
    }

    /// How long an address lives without us.
    fn lease(&self) -> Option<Duration> {
        match self.config.agent.vip_lease {
            Lease::Off => None,
            Lease::Fixed(lease) => Some(lease),
            Lease::Auto => {
                let peers = &self.config.bgp.peers;
                let hold = peers.iter().map(|peer| u64::from(peer.hold_time) * 3);
                let restarting = peers.iter().filter(|peer| peer.graceful_restart > 0);
                let restart = restarting.map(|peer| u64::from(peer.graceful_restart) + 60);
                hold.chain(restart)
                    .chain([180])
                    .max()
                    .map(Duration::from_secs)
            }
        }
    }

    /// Takes note of the apps that a peer has heard of by now.
    fn note_announced(&mut self) {
        let sent = self.peers.take_sent();
        let peers = &self.peers;
        self.registry
            .note_announced(sent, |prefix| peers.is_announced(prefix));
    }

    /// Asks the peers' kernels whether all has arrived, where somebody waits for it; `true` where there is
    /// nobody to ask.
    fn ask_acknowledgement(&mut self, now: Instant) -> bool {
        if matches!(self.acknowledgement, Acknowledgement::Idle)
            && self.registry.ask_acknowledgement()
        {
            self.acknowledgement = Acknowledgement::Wanted {
                by: now + ACKNOWLEDGE,
            };
        }
        let Acknowledgement::Wanted { by } = self.acknowledgement else {
            return false;
        };
        if !self.peers.is_established() {
            self.take_acknowledgement();
            return true;
        }
        if self.peers.is_flushed() {
            self.acknowledgement = Acknowledgement::Asked { by };
            self.outputs.push_back(Output::AwaitAcknowledged);
        }
        false
    }

    pub(super) fn take_acknowledgement(&mut self) {
        self.acknowledgement = Acknowledgement::Idle;
        self.registry.acknowledged();
        self.shutdown.acknowledge();
    }

    pub(super) fn stop(&mut self, now: Instant) {
        if !self.shutdown.is_running() {
            info!("second stop signal: skipping the rest of the drain");
            self.shutdown = Shutdown::removing(now);
            self.look_at_everything();
            return;
        }
        info!("stopping");
        let drain_time = self.registry.longest_drain();
        let out = !self.kernel.applied().routes.is_empty();
        self.registry.drain_for_exit(now);
        self.shutdown = if out {
            Shutdown::draining(now, drain_time)
        } else {
            Shutdown::removing(now)
        };
        self.look_at_everything();
        self.want_acknowledgement(now);
    }

    fn want_acknowledgement(&mut self, now: Instant) {
        self.registry.ask_acknowledgement();
        self.acknowledgement = Acknowledgement::Wanted {
            by: now + ACKNOWLEDGE,
        };
    }

    /// The only place where the shutdown goes on; whether it did and is not over.
    fn step_shutdown(&mut self, now: Instant) -> bool {
        let due = self.shutdown.is_due(now);
        match self.shutdown {
            Shutdown::Draining { .. } if due => {
                if self.kernel.applied().routes.is_empty() {
                    self.shutdown = Shutdown::removing(now);
                } else {
                    self.shutdown = Shutdown::withdrawing(now);
                    self.want_acknowledgement(now);
                }
                true
            }
            Shutdown::Withdrawing { .. } if due => {
                self.shutdown = Shutdown::removing(now);
                true
            }
            Shutdown::Removing { .. } if due || self.is_clean() => {
                if !self.is_clean() {
                    warn!("the kernel still holds addresses or NAT rules of ours");
                }
                // RFC 9003: the operator at the other end reads this.
                let reason = Some("sidecast is stopping");
                let cease = Notification::cease(Cease::AdministrativeShutdown, reason);
                self.peers.stop(now, &cease);
                self.bfd.stop(now);
                self.exit(0, "stopped");
                false
            }
            _ => false,
        }
    }

    fn is_clean(&self) -> bool {
        self.kernel.is_clean() && self.kernel.applied().routes.is_empty()
    }

    pub(super) fn exit(&mut self, code: u8, why: &str) {
        self.take_sessions_outputs();
        self.shutdown = Shutdown::Over;
        self.outputs.push_back(Output::Exit {
            code,
            why: why.to_owned(),
        });
    }
}

/// What tests ask to see that nothing is forgotten.
#[cfg(test)]
impl Core {
    /// The minutely look at everything does not come.
    pub fn without_full_passes(&mut self) {
        self.full_pass_at = None;
    }

    pub fn full_pass(&mut self, now: Instant) {
        self.look_at_everything();
        self.settle(now);
    }

    /// From now on one app in ten that is queued is not looked at.
    pub fn forget_one_in_ten(&mut self, seed: u64) {
        self.registry.forget_one_in_ten(seed);
    }

    pub fn remember_all(&mut self) {
        self.registry.remember_all();
    }

    /// The indexes of the registry are what the apps say.
    pub fn assert_indexes(&self) {
        self.registry.assert_indexes();
    }

    /// What is wanted, applied, advertised and shown, and the next deadline.
    pub fn picture(&self, now: Instant) -> String {
        let wanted: Vec<String> = self
            .registry
            .vips()
            .iter()
            .map(|vip| format!("{vip} {:?}", self.wanted(vip, self.lease())))
            .collect();
        let due = self.poll_timeout();
        let due = due.map(|at| at.saturating_duration_since(now));
        format!(
            "{wanted:#?}\n{:#?}\n{:#?}\n{:#?}\n{due:?}",
            self.kernel.applied(),
            self.peers.routes(),
            self.apps(now, None).collect::<Vec<_>>()
        )
    }
}
