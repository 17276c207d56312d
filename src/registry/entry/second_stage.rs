//! The second stage of an app's checks: monitors that probe its own VIPs, once these are on the interface and before
//! the route is announced. Also detects UDP services on a wildcard socket, whose replies may have a wrong source.

use std::time::Instant;

use log::info;

use super::super::MonitorId;
use super::super::app_health::Measured;
use super::super::check::ProbeMode;
use super::super::checks::Checks;
use super::super::facts::{NetworkFacts, Problem};
use super::super::intent::Intent;
use super::super::vip::{Presence, VipMachine};
use super::Entry;
use crate::app::{MonitorSpec, Protocol, RouteAction};
use crate::health::Health;
use crate::net::Prefix;

impl Entry {
    /// The combined health of the monitors of each stage.
    pub(super) fn measured(&self, checks: &Checks) -> Measured {
        if self.refusal.is_some() {
            return Measured {
                first: Health::Unknown,
                second: Health::Up,
                is_standby: false,
                answers: true,
                awaits_fact: false,
            };
        }
        let mut measured = Measured {
            first: self.first_stage(checks),
            second: Health::Up,
            is_standby: false,
            answers: !checks.any_fact(&self.monitors),
            awaits_fact: checks.awaits_fact(&self.monitors),
        };
        if self.has_second_stage() {
            measured.second = self.stage(checks, true);
            measured.is_standby = self.is_standby();
        }
        measured
    }

    pub(super) fn first_stage(&self, checks: &Checks) -> Health {
        match self.has_second_stage() {
            true => self.stage(checks, false),
            false => checks.combined_health(&self.monitors),
        }
    }

    pub(super) fn stage(&self, checks: &Checks, second: bool) -> Health {
        let ids = self.monitors.iter().enumerate();
        let ids = ids.filter(|(index, _)| self.is_second_stage(*index) == second);
        let ids: Vec<MonitorId> = ids.map(|(_, id)| *id).collect();
        checks.combined_health(&ids)
    }

    /// Whether a monitor probes one of the VIPs.
    pub fn has_second_stage(&self) -> bool {
        !self.second_stage.is_empty()
    }

    pub(super) fn is_second_stage(&self, index: usize) -> bool {
        self.second_stage.contains(&index)
    }

    /// Other instances hold all its VIPs.
    pub fn is_standby(&self) -> bool {
        let problem = |machine: &VipMachine| machine.problem().is_some_and(Problem::is_standby);
        !self.vips.is_empty() && self.machines().all(problem)
    }

    /// Whether the VIPs may be on the interface for their checks: not those of a drained app whose route is withdrawn.
    pub(super) fn may_ask(&self) -> bool {
        let runs = self.intent == Intent::Run
            || matches!(self.app.when_draining, RouteAction::Announce(_));
        runs && self.refusal.is_none() && self.has_second_stage()
    }

    /// Whether the app's health applies to this VIP: where all monitors pass, those of the second stage have probed it,
    /// or it has been announced since they did.
    pub(super) fn is_confirmed(&self, vip: &Prefix, checks: &Checks) -> bool {
        if !self.health.covers(vip) {
            return false;
        }
        if !self.has_second_stage() || !self.health.is_up() || self.health.is_inherited() {
            return true;
        }
        let machine = self.vip(vip);
        let stays = machine.is_some_and(|machine| {
            machine.route().is_some() && machine.presence() != Presence::Absent
        });
        stays || self.has_asked(vip, checks)
    }

    /// All monitors of the second stage pass, and those that probe this VIP have done so.
    pub(super) fn has_asked(&self, vip: &Prefix, checks: &Checks) -> bool {
        let mut stage = self.second_stage.iter();
        stage.all(|index| {
            let monitor = self.app.monitors.get(*index);
            let check = self.monitors.get(*index).and_then(|id| checks.get(*id));
            let asks = monitor.is_some_and(|m| m.spec.asks_any([*vip].into_iter()));
            check.is_some_and(|check| {
                check.health() == Health::Up && (!asks || check.has_answered_for(vip))
            })
        })
    }

    /// Records whether the kernel has a VIP's address and NAT rules; `false` if nothing changed.
    pub fn set_presence(&mut self, vip: &Prefix, presence: Presence) -> bool {
        let asks = self.has_second_stage();
        let machine = self.vip_mut(vip).filter(|_| asks);
        machine.is_some_and(|machine| machine.set_presence(presence))
    }

    /// Starts, pauses or stops the monitors of the second stage depending on the VIPs present; `true` if any changed.
    pub fn set_probe_modes(
        &mut self,
        now: Instant,
        checks: &mut Checks,
        facts: &NetworkFacts,
    ) -> bool {
        let mut any = false;
        for index in &*self.second_stage {
            let mode = self.probe_mode(*index, facts);
            if let (Some(id), Some(mode)) = (self.monitors.get_mut(*index), mode) {
                any |= checks.set_probe_mode(now, id, mode);
            }
        }
        any
    }

    pub(super) fn probe_mode(&self, index: usize, facts: &NetworkFacts) -> Option<ProbeMode> {
        let spec = &self.app.monitors.get(index)?.spec;
        let mut targets = Vec::new();
        let mut pauses = false;
        for (vip, machine) in &self.vips {
            let nat_target = facts.nat_target.get(&vip.family());
            let target = spec.target(*vip, &self.app.nats, nat_target.copied());
            match machine.presence() {
                Presence::There => targets.extend(target),
                Presence::Changing => pauses |= target.is_some(),
                Presence::Absent => {}
            }
        }
        Some(match (targets.is_empty(), pauses) {
            (false, _) => ProbeMode::Vips(targets),
            (true, true) => ProbeMode::Paused,
            (true, false) => ProbeMode::Stopped,
        })
    }

    /// The app serves UDP on the wildcard address, and no monitor verifies that replies have the VIP as their source.
    /// Ports that NAT redirects do not count: conntrack translates their replies back.
    pub fn hides_answers(&self, checks: &Checks) -> bool {
        let mut monitors = self.app.monitors.iter().zip(&self.monitors);
        !self.has_second_stage()
            && monitors.any(|(monitor, id)| {
                let MonitorSpec::Port {
                    protocol: Protocol::Udp,
                    port,
                    ..
                } = monitor.spec
                else {
                    return false;
                };
                let last = checks.get(*id).and_then(|check| check.last.as_ref());
                last.is_some_and(|seen| seen.outcome.is_on_wildcard())
                    && !self
                        .app
                        .nats
                        .iter()
                        .any(|nat| nat.protocol == Protocol::Udp && nat.destination == port)
            })
    }

    pub(super) fn log_wildcard(&mut self, checks: &Checks) {
        if !self.wildcard_logged && self.hides_answers(checks) {
            self.wildcard_logged = true;
            info!(
                "app {}: a wildcard UDP service without a `vip` monitor: its answers may come from another address \
                 than the VIP, and clients drop them; for DNS, the monitor dns:NAME@vip checks the source of the answers",
                self.app.name
            );
        }
    }

    /// The app is healthy, and no route is desired until the second stage has probed a VIP.
    pub(super) fn waits_for_answer(&self) -> bool {
        let routes = self.machines().any(|machine| machine.route().is_some());
        self.has_second_stage() && self.health.is_up() && !routes && !self.is_standby()
    }
}
