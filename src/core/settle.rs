//! From what is wanted to what is done: plans, acknowledgements, and the end of the process.

use std::time::{Duration, Instant};

use log::{info, warn};

use super::life::{ACKNOWLEDGE, Life};
use super::{Acknowledgement, Core, Output};
use crate::bgp::{Cease, Notification};
use crate::config::Lease;
use crate::plan::{Desired, Routes};

impl Core {
    /// Works out what is to be done now. Nothing, where nothing changed.
    pub(super) fn reconcile(&mut self) {
        let now = self.now;
        // Each round either ends here or moves life one step on: there are five.
        for _ in 0..6 {
            if self.life.is_over() || !std::mem::take(&mut self.dirty) {
                break;
            }
            self.step_life(now);
            if self.life.is_over() {
                break;
            }
            let desired = self.desired();
            let plan = self.kernel.plan(now, &desired);
            // The first set, even an empty one, must be said: End-of-RIB waits for it.
            let complete = !self.waits_for_first_round(&desired);
            if plan.routes.is_some() || complete != self.peers.is_complete() {
                let routes = self.kernel.applied().routes.clone();
                self.peers.advertise(now, routes, complete);
            }
            let steps = plan.steps.into_iter();
            self.pump(now);
            self.outputs
                .extend(steps.map(|(id, step)| Output::Step { id, step }));
            self.note_announced();
        }
        self.ask_acknowledgement(now);
    }

    /// Peers that kept a predecessor's routes drop what End-of-RIB does not leave: it waits for Consul's
    /// services, for the checks, and for the addresses of what they found healthy.
    fn waits_for_first_round(&mut self, desired: &Desired) -> bool {
        if self.first_round_by.is_some()
            && self.knows_services()
            && self.registry.is_known()
            && self.kernel.applied().routes == desired.routes
        {
            self.first_round_by = None;
        }
        self.first_round_by.is_some()
    }

    fn desired(&self) -> Desired {
        let desired = self.registry.desired(self.lease());
        match self.life {
            Life::Running | Life::Draining { .. } => desired,
            Life::Withdrawing { .. } => Desired {
                routes: Routes::new(),
                ..desired
            },
            Life::Removing { .. } | Life::Over => Desired {
                unaddressed: desired.unaddressed,
                ..Desired::default()
            },
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

    pub(super) fn note_announced(&mut self) {
        let peers = &self.peers;
        self.registry
            .note_announced(|prefix| peers.is_announced(prefix));
    }

    /// Asks the peers' kernels whether all has arrived, where somebody waits for it.
    fn ask_acknowledgement(&mut self, now: Instant) {
        if matches!(self.acknowledgement, Acknowledgement::Idle)
            && self.registry.ask_acknowledgement()
        {
            self.acknowledgement = Acknowledgement::Wanted {
                by: now + ACKNOWLEDGE,
            };
        }
        let Acknowledgement::Wanted { by } = self.acknowledgement else {
            return;
        };
        if !self.peers.is_established() {
            self.take_acknowledgement(now);
            self.pump(now);
        } else if self.peers.is_flushed() {
            self.acknowledgement = Acknowledgement::Asked { by };
            self.outputs.push_back(Output::AwaitAcknowledged);
        }
    }

    pub(super) fn take_acknowledgement(&mut self, now: Instant) {
        self.acknowledgement = Acknowledgement::Idle;
        self.registry.acknowledged(now);
        self.life.acknowledge();
        self.dirty = true;
    }

    pub(super) fn stop(&mut self, now: Instant) {
        self.dirty = true;
        if !self.life.is_running() {
            info!("told to stop again: not waiting any longer");
            self.life = Life::removing(now);
            return;
        }
        info!("stopping");
        let drain_time = self.registry.longest_drain();
        let out = !self.kernel.applied().routes.is_empty();
        self.registry.drain_for_exit(now);
        self.life = if out {
            Life::draining(now, drain_time)
        } else {
            Life::removing(now)
        };
        self.want_acknowledgement(now);
    }

    fn want_acknowledgement(&mut self, now: Instant) {
        self.registry.ask_acknowledgement();
        self.acknowledgement = Acknowledgement::Wanted {
            by: now + ACKNOWLEDGE,
        };
    }

    /// The only place where life goes on.
    fn step_life(&mut self, now: Instant) {
        let due = self.life.is_due(now);
        match self.life {
            Life::Draining { .. } if due => {
                if self.kernel.applied().routes.is_empty() {
                    self.life = Life::removing(now);
                } else {
                    self.life = Life::withdrawing(now);
                    self.want_acknowledgement(now);
                }
                self.dirty = true;
            }
            Life::Withdrawing { .. } if due => {
                self.life = Life::removing(now);
                self.dirty = true;
            }
            Life::Removing { .. } if due || self.is_clean() => {
                if !self.is_clean() {
                    warn!("the kernel still holds addresses or NAT rules of ours");
                }
                // RFC 9003: the operator at the other end reads this.
                let reason = Some("sidecast is stopping");
                let cease = Notification::cease(Cease::AdministrativeShutdown, reason);
                self.peers.stop(now, &cease);
                self.bfd.stop(now);
                self.exit(0, "stopped");
            }
            _ => {}
        }
    }

    fn is_clean(&self) -> bool {
        self.kernel.is_clean() && self.kernel.applied().routes.is_empty()
    }

    pub(super) fn exit(&mut self, code: u8, why: &str) {
        self.take_sessions_outputs();
        self.life = Life::Over;
        self.outputs.push_back(Output::Exit {
            code,
            why: why.to_owned(),
        });
    }
}
