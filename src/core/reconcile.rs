//! Reconciles desired with applied state: plans, acknowledgments, and the shutdown.

use std::time::{Duration, Instant};

use log::{info, warn};

use super::kernel::Plan;
use super::peers::Incomplete;
use super::shutdown::{ACKNOWLEDGE_WITHIN, Shutdown};
use super::{Acknowledgment, Core, Output};
use crate::bgp::{Cease, Notification};
use crate::config::Lease;
use crate::net::Prefix;
use crate::plan::Desired;
use crate::registry::AckResult;
use crate::small_set::SmallSet;

impl Core {
    /// Reconciles what is queued: computes the desired state, compares it with the applied state and
    /// emits the difference. Ends every input.
    pub(super) fn reconcile(&mut self, now: Instant) {
        if self.shutdown.is_over() {
            return;
        }
        self.take_checks(now);
        loop {
            let vips = self.registry.reconcile(now);
            let mut plan = Plan::default();
            let (lease, addresses_external) = (self.lease(), self.registry.addresses_external());
            for vip in vips {
                let wanted = self.desired(&vip, lease);
                self.kernel
                    .plan(vip, &wanted, addresses_external, &mut plan);
                let presence = self.kernel.presence(&vip, &wanted, addresses_external);
                self.registry.set_presence(&vip, presence);
                self.path_proofs.enqueue(vip);
            }
            self.kernel.finish_plan(&mut plan);
            let incomplete = self.defers_end_of_rib();
            self.peers.advertise(now, plan.routes, incomplete);
            self.take_session_outputs();
            let steps = plan.steps.into_iter();
            self.outputs
                .extend(steps.map(|(id, step)| Output::Step { id, step }));
            self.take_checks(now);
            // The loop terminates: each round ends here, or advances a drain or the shutdown, which never go back, or
            // has reported the kernel's state to the registry, which changes only with the answers to steps.
            let acknowledged = self.request_acknowledgment(now);
            if self.advance_shutdown(now) {
                self.enqueue_all();
            } else if self.shutdown.is_over() {
                return;
            } else if !acknowledged && !self.registry.is_queued() {
                break;
            }
        }
        self.take_session_outputs();
        self.update_path_proofs(now);
        self.take_peer_changes(now);
        self.note_announced();
        self.emit_watch_changes(now);
    }

    /// Queues every app and VIP for reconciliation, so that a missed mark has no lasting effect.
    pub(super) fn enqueue_all(&mut self) {
        self.registry.enqueue_all();
        for vip in self.registry.vips().into_iter().chain(self.kernel.vips()) {
            self.registry.enqueue_vip(vip);
        }
    }

    /// Peers that kept a predecessor's routes as stale drop them at End-of-RIB (RFC 4724 §4.2), so it is
    /// deferred until the network, Consul's services, the first checks and the addresses of healthy apps
    /// that are for them are known.
    fn defers_end_of_rib(&mut self) -> Incomplete {
        self.end_of_rib_deferred_until?;
        if self.network.is_none() || !self.knows_services() {
            return Some(SmallSet::default());
        }
        let unfinished = self.kernel.unfinished();
        let incomplete = self.registry.peers_of_unknown(unfinished);
        if incomplete.is_none() {
            self.end_of_rib_deferred_until = None;
        }
        incomplete
    }

    pub(super) fn desired(&self, vip: &Prefix, lease: Option<Duration>) -> Desired {
        match self.shutdown {
            Shutdown::Running | Shutdown::Draining { .. } => self.registry.desired(vip, lease),
            Shutdown::Withdrawing { .. } => Desired {
                route: None,
                ..self.registry.desired(vip, lease)
            },
            Shutdown::Removing { .. } | Shutdown::Over => Desired::default(),
        }
    }

    /// The lifetime of an address that is not renewed.
    pub(super) fn lease(&self) -> Option<Duration> {
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

    /// Notes the apps whose routes were sent to a peer.
    fn note_announced(&mut self) {
        let sent = self.peers.take_sent();
        let peers = &self.peers;
        self.registry
            .note_announced(sent, |prefix| peers.is_announced(prefix));
    }

    /// Requests the peers' TCP acknowledgments where a drain waits for them; `true` if there is no
    /// session to wait for.
    fn request_acknowledgment(&mut self, now: Instant) -> bool {
        if matches!(self.acknowledgment, Acknowledgment::Idle)
            && let Some(from) = self.registry.request_acknowledgment()
        {
            let by = now + ACKNOWLEDGE_WITHIN;
            self.acknowledgment = Acknowledgment::Pending { by, from };
        }
        let Acknowledgment::Pending { by, from } = &self.acknowledgment else {
            return false;
        };
        let peers = self.peers.established(from);
        if peers.is_empty() {
            self.finish_acknowledgment(now, AckResult::NoSession);
            return true;
        }
        if self.peers.is_flushed(from) {
            self.acknowledgment = Acknowledgment::Requested { by: *by };
            self.outputs.push_back(Output::AwaitAcknowledged { peers });
        }
        false
    }

    /// An answer that comes after its time is none to a request that has not left.
    pub(super) fn peers_acknowledged(&mut self, now: Instant) {
        if matches!(self.acknowledgment, Acknowledgment::Requested { .. }) {
            self.finish_acknowledgment(now, AckResult::Acknowledged);
        }
    }

    /// Drains whose peers did not acknowledge in time request it again; a shutdown does not wait longer.
    pub(super) fn finish_acknowledgment(&mut self, now: Instant, result: AckResult) {
        self.acknowledgment = Acknowledgment::Idle;
        self.registry.acknowledged(now, result);
        self.shutdown.acknowledge();
    }

    pub(super) fn stop(&mut self, now: Instant) {
        if !self.shutdown.is_running() {
            info!("second stop signal: skipping the rest of the drain");
            self.shutdown = Shutdown::removing(now);
            self.enqueue_all();
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
        self.enqueue_all();
        self.start_acknowledgment(now);
    }

    pub(super) fn stop_for_restart(&mut self, now: Instant) {
        self.peers.stop_for_restart(now);
        let why = "stopped for an upgrade: routes and addresses stay for the next process";
        self.exit(0, why);
    }

    fn start_acknowledgment(&mut self, now: Instant) {
        self.registry.request_acknowledgment();
        self.acknowledgment = Acknowledgment::Pending {
            by: now + ACKNOWLEDGE_WITHIN,
            from: SmallSet::default(),
        };
    }

    /// Advances the shutdown; the only place that does. `true` if it advanced and is not over.
    fn advance_shutdown(&mut self, now: Instant) -> bool {
        let due = self.shutdown.is_due(now);
        match self.shutdown {
            Shutdown::Draining { .. } if due || self.registry.is_drained(None) => {
                self.log_drained();
                if self.kernel.applied().routes.is_empty() {
                    self.shutdown = Shutdown::removing(now);
                } else {
                    self.shutdown = Shutdown::withdrawing(now);
                    self.start_acknowledgment(now);
                }
                true
            }
            Shutdown::Withdrawing { .. } if due => {
                self.shutdown = Shutdown::removing(now);
                true
            }
            Shutdown::Removing { .. } if due || self.is_clean() => {
                if !self.is_clean() {
                    warn!(
                        "exiting although the kernel still has addresses or NAT rules of sidecast"
                    );
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

    /// In one line: there may be a thousand apps.
    fn log_drained(&self) {
        let reports = self.registry.drain_reports(None);
        let steps = reports.iter().map(|report| &report.steps);
        if let Some(slowest) = steps.copied().reduce(|one, other| one.slowest(&other)) {
            info!("drained: {slowest}");
        }
    }

    fn is_clean(&self) -> bool {
        self.kernel.is_clean() && self.kernel.applied().routes.is_empty()
    }

    pub(super) fn exit(&mut self, code: u8, why: &str) {
        self.take_session_outputs();
        self.shutdown = Shutdown::Over;
        self.outputs.push_back(Output::Exit {
            code,
            why: why.to_owned(),
        });
    }
}
