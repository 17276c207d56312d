//! What is applied in the kernel, and the steps in flight, leases to renew and failures to retry.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::event::{StepError, StepId, StepResult};
use crate::net::{Family, Prefix};
use crate::plan::{Applied, Desired, NatChange, NatRules, Route, Step, Subject};
use crate::registry::Presence;
use crate::timer::{Backoff, Deadlines, Rng};

pub(super) struct KernelState {
    applied: Applied,
    /// The desired NAT rules, by VIP.
    nat: NatRules,
    /// VIPs whose NAT rules are to be reconciled.
    nat_queue: BTreeSet<Prefix>,
    /// The queue has a new entry, or a retry is due.
    nat_queued: bool,
    /// VIPs whose route, or whose monitors, wait for their NAT rules.
    awaiting_nat: BTreeSet<Prefix>,
    /// VIPs whose route is not yet as desired.
    unfinished: BTreeSet<Prefix>,
    in_flight: BTreeMap<StepId, Step>,
    busy: BTreeSet<Subject>,
    retries: BTreeMap<Subject, Retry>,
    /// Addresses reported removed while a step was adding or renewing them: which happened first is
    /// unknown.
    uncertain: BTreeSet<Prefix>,
    /// Addresses removed by sidecast within the last second: the kernel's notification, on another
    /// socket, may still arrive.
    removed: BTreeMap<Prefix, Instant>,
    leases: BTreeMap<Prefix, Lease>,
    deadlines: Deadlines<Due>,
    next: u64,
    rng: Rng,
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Renewal(Prefix),
    Retry(Subject),
}

struct Lease {
    /// It is to be renewed, or left to end.
    due: bool,
    ends: Instant,
    /// How much earlier than at a third of its lifetime it may be renewed.
    slack: Duration,
}

struct Retry {
    /// The step that failed. A different step on the same subject is tried at once.
    step: Step,
    backoff: Backoff,
    /// The backoff is over.
    due: bool,
    error: String,
}

/// Changes of one reconcile run.
#[derive(Default)]
pub(super) struct Plan {
    /// Routes that changed; `None`: to be withdrawn.
    pub routes: BTreeMap<Prefix, Option<Rc<Route>>>,
    pub steps: Vec<(StepId, Step)>,
    /// Address removals, performed after all other steps.
    removals: Vec<(StepId, Step)>,
}

impl KernelState {
    /// Nothing is applied; the seed makes the backoff's jitter.
    pub fn new(seed: u64) -> Self {
        Self {
            applied: Applied::default(),
            nat: NatRules::new(),
            nat_queue: BTreeSet::new(),
            nat_queued: false,
            awaiting_nat: BTreeSet::new(),
            unfinished: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            busy: BTreeSet::new(),
            retries: BTreeMap::new(),
            uncertain: BTreeSet::new(),
            removed: BTreeMap::new(),
            leases: BTreeMap::new(),
            deadlines: Deadlines::default(),
            next: 0,
            rng: Rng::new(seed),
        }
    }

    /// What is applied.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// No address and no NAT rule of sidecast is left, and no step is in flight.
    pub fn is_clean(&self) -> bool {
        self.busy.is_empty() && self.applied.addresses.is_empty() && self.applied.nat.is_empty()
    }

    /// Every desired route is advertised.
    pub fn is_finished(&self) -> bool {
        self.unfinished.is_empty()
    }

    /// VIPs whose route is not yet as desired.
    pub fn unfinished(&self) -> &BTreeSet<Prefix> {
        &self.unfinished
    }

    /// VIPs with an address, a route or NAT rules, in the kernel or at the peers.
    pub fn vips(&self) -> impl Iterator<Item = Prefix> {
        let applied = &self.applied;
        let addresses = applied.addresses.keys().chain(&applied.foreign);
        addresses
            .chain(applied.routes.keys())
            .chain(self.nat.keys())
            .chain(self.applied.nat.keys())
            .copied()
    }

    /// The error of the last failed step on this subject.
    pub fn error(&self, subject: &Subject) -> Option<&str> {
        self.retries.get(subject).map(|retry| retry.error.as_str())
    }

    /// Compares desired with applied state of one VIP. A route counts as applied at once, since advertising cannot
    /// fail; a step when it is done. `addresses_external`: another program manages the addresses.
    pub fn plan(
        &mut self,
        prefix: Prefix,
        desired: &Desired,
        addresses_external: bool,
        plan: &mut Plan,
    ) {
        if desired.address.is_none() && self.applied.lost.contains(&prefix) {
            self.applied.forget(&prefix);
        }
        // No new route is announced while its address may be missing.
        let known = self.applied.routes.contains_key(&prefix) || !self.uncertain.contains(&prefix);
        let ready = self
            .applied
            .ready_route(&prefix, desired, addresses_external);
        let ready = ready.filter(|_| known);
        if self.applied.routes.get(&prefix) != ready.as_ref() {
            match &ready {
                Some(route) => self.applied.routes.insert(prefix, Rc::clone(route)),
                None => self.applied.routes.remove(&prefix),
            };
            plan.routes.insert(prefix, ready.clone());
        }
        set_membership(&mut self.unfinished, prefix, ready != desired.route);
        let waits = !self.applied.has_nat(desired);
        set_membership(&mut self.awaiting_nat, prefix, waits);
        self.plan_address(prefix, desired, plan);
        self.plan_nat(prefix, desired);
    }

    /// What there is of a VIP's address and NAT rules.
    pub fn presence(
        &self,
        prefix: &Prefix,
        desired: &Desired,
        addresses_external: bool,
    ) -> Presence {
        let applied = &self.applied;
        let certain = !self.uncertain.contains(prefix);
        if certain && applied.is_ready(prefix, addresses_external) && applied.has_nat(desired) {
            Presence::There
        } else if applied.routes.contains_key(prefix) {
            Presence::Changing
        } else {
            Presence::Absent
        }
    }

    fn plan_nat(&mut self, prefix: Prefix, desired: &Desired) {
        let none = BTreeSet::new();
        let changed = self.nat.get(&prefix).unwrap_or(&none) != &desired.nat;
        if changed && desired.nat.is_empty() {
            self.nat.remove(&prefix);
        } else if changed {
            self.nat.insert(prefix, desired.nat.clone());
        }
        let applied = self.applied.nat.get(&prefix).unwrap_or(&none);
        if changed || (applied != &desired.nat && !self.nat_queue.contains(&prefix)) {
            self.nat_queue.insert(prefix);
            self.nat_queued = true;
        }
    }

    fn plan_address(&mut self, prefix: Prefix, desired: &Desired, plan: &mut Plan) {
        let step = self.applied.address_step(&prefix, desired);
        let renewal = renewal(&self.applied, desired, &prefix);
        let subject = Subject::Address(prefix);
        if let Some(retry) = self.retries.get_mut(&subject) {
            // A step that differs from the failed one may be tried at once; the retry of a step that is no longer
            // needed is dropped.
            match (&step, &renewal) {
                (Some(step), _) => retry.due |= *step != retry.step,
                (None, Some(renewal)) if *renewal == retry.step => {}
                _ => self.clear_retry(subject),
            }
        }
        // A desired address is renewed when its lease is due. One that is to be removed is not: if its removal
        // keeps failing, the lease ends it.
        let lease = self.leases.get(&prefix);
        let renewal = renewal.filter(|_| lease.is_none_or(|lease| lease.due));
        match step.or(renewal) {
            Some(step @ Step::RemoveAddress { .. }) => {
                if let Some(issued) = self.issue(step) {
                    plan.removals.push(issued);
                }
            }
            Some(step) => plan.steps.extend(self.issue(step)),
            None => {}
        }
    }

    /// The rest of a plan, once all VIPs in question have been looked at.
    pub fn finish_plan(&mut self, plan: &mut Plan) {
        // A step in flight is compared again when it is done.
        if !self.busy.contains(&Subject::Nat) && std::mem::take(&mut self.nat_queued) {
            let change = self.nat_change();
            if change.is_empty() {
                self.clear_retry(Subject::Nat);
            } else {
                let step = Step::UpdateNat(change);
                if let Some(retry) = self.retries.get_mut(&Subject::Nat) {
                    retry.due |= step != retry.step;
                }
                if let Some(issued) = self.issue(step) {
                    plan.steps.push(issued);
                    self.nat_queue.clear();
                }
            }
        }
        plan.steps.append(&mut plan.removals);
    }

    /// The NAT change for the queued VIPs; VIPs without a difference leave the queue.
    fn nat_change(&mut self) -> NatChange {
        let (nat, applied) = (&self.nat, &self.applied.nat);
        let none = BTreeSet::new();
        let mut change = NatChange::default();
        self.nat_queue.retain(|prefix| {
            let there = applied.get(prefix).unwrap_or(&none);
            let desired = nat.get(prefix).unwrap_or(&none);
            change.extend(there, desired);
            there != desired
        });
        change
    }

    fn clear_retry(&mut self, subject: Subject) {
        self.retries.remove(&subject);
        self.deadlines.set(Due::Retry(subject), None);
    }

    fn issue(&mut self, step: Step) -> Option<(StepId, Step)> {
        let subject = step.subject();
        let waits = self.retries.get(&subject).is_some_and(|retry| !retry.due);
        if waits || !self.busy.insert(subject) {
            return None;
        }
        if let Step::RemoveAddress { prefix } = &step {
            self.applied.removing.insert(*prefix);
        }
        self.next += 1;
        let id = StepId(self.next);
        self.in_flight.insert(id, step.clone());
        Some((id, step))
    }

    /// Records the result of a step. Returns the VIPs to reconcile.
    pub fn step_done(
        &mut self,
        now: Instant,
        id: StepId,
        result: Result<StepResult, StepError>,
    ) -> BTreeSet<Prefix> {
        let Some(step) = self.in_flight.remove(&id) else {
            return BTreeSet::new();
        };
        self.busy.remove(&step.subject());
        match result {
            Ok(result) => self.succeeded(now, &step, result),
            Err(error) => self.failed(now, &step, &error),
        }
        match step {
            Step::AddAddress { prefix, .. } | Step::RemoveAddress { prefix } => {
                BTreeSet::from([prefix])
            }
            Step::UpdateNat(change) => {
                let vips = change.vips();
                self.nat_queue.extend(&vips);
                self.nat_queued = true;
                &vips & &self.awaiting_nat
            }
        }
    }

    fn succeeded(&mut self, now: Instant, step: &Step, result: StepResult) {
        if self.retries.contains_key(&step.subject()) {
            info!("{} works again", describe(step));
            self.clear_retry(step.subject());
        }
        if let Step::AddAddress {
            prefix, lifetime, ..
        } = step
        {
            self.end_lease(prefix);
            if result == StepResult::Foreign {
                info!("{prefix} exists and was added by someone else: using it as it is");
                self.applied.adopt_foreign(*prefix);
                self.resolve_uncertain(prefix);
                return;
            }
            if let Some(lifetime) = lifetime {
                let lease = Lease {
                    due: false,
                    ends: now + *lifetime,
                    slack: (*lifetime / 12).min(RENEWAL_SLACK),
                };
                self.leases.insert(*prefix, lease);
                let renewal = Some(now + *lifetime / 3);
                self.deadlines.set(Due::Renewal(*prefix), renewal);
            }
        }
        if let Step::RemoveAddress { prefix } = step {
            self.end_lease(prefix);
            if !self.applied.lost.contains(prefix) {
                self.removed.insert(*prefix, now);
            }
        }
        if let Step::AddAddress { prefix, label, .. } = step {
            let before = self.applied.addresses.get(prefix);
            let relabeled = before.is_some_and(|before| before.label != *label);
            // Label and scope are changed by removing the address and adding it anew.
            if relabeled || result == StepResult::Adopted {
                self.removed.insert(*prefix, now);
            }
        }
        debug!("{}: {result:?}", describe(step));
        self.applied.apply(step);
        if let Step::AddAddress { prefix, .. } = step {
            self.resolve_uncertain(prefix);
        }
    }

    fn end_lease(&mut self, prefix: &Prefix) {
        self.leases.remove(prefix);
        self.deadlines.set(Due::Renewal(*prefix), None);
    }

    /// An address that vanished while the step was in flight may have been removed after the step: it is added again.
    fn resolve_uncertain(&mut self, prefix: &Prefix) {
        if self.uncertain.remove(prefix) {
            debug!("{prefix} was removed while a step on it was in flight: adding it again");
            self.end_lease(prefix);
            self.applied.lost.insert(*prefix);
        }
    }

    fn failed(&mut self, now: Instant, step: &Step, error: &StepError) {
        let limit = if error.permanent {
            RETRY_PERMANENT
        } else {
            RETRY_LONGEST
        };
        let retry = self.retries.entry(step.subject()).or_insert_with(|| Retry {
            step: step.clone(),
            backoff: Backoff::new(RETRY_FIRST, limit),
            due: false,
            error: String::new(),
        });
        // Each cause is logged once, not at every attempt.
        if retry.error != error.message {
            warn!("{} failed: {error}", describe(step));
            retry.error.clone_from(&error.message);
        }
        let delay = if error.permanent {
            RETRY_PERMANENT
        } else {
            retry.backoff.delay(now, &mut self.rng)
        };
        retry.due = false;
        retry.step.clone_from(step);
        let due = Due::Retry(step.subject());
        self.deadlines.set(due, Some(now + delay));
        if let Subject::Address(prefix) = step.subject() {
            self.applied.removing.remove(&prefix);
            let uncertain = self.uncertain.remove(&prefix);
            if uncertain || self.applied.lost.contains(&prefix) {
                self.applied.forget(&prefix);
                self.end_lease(&prefix);
            }
        }
    }

    /// The kernel removed an address; `true` if a VIP has to be reconciled because of it.
    pub fn address_lost(&mut self, now: Instant, prefix: Prefix) -> bool {
        let echo = self.removed.remove(&prefix);
        let echo = echo.is_some_and(|at| now < at + REMOVAL_ECHO);
        let lease = self.leases.get(&prefix);
        let ended = lease.is_some_and(|lease| lease.ends <= now);
        let in_flight = |step: &&Step| step.subject() == Subject::Address(prefix);
        match self.in_flight.values().find(in_flight) {
            // Either the step in flight removed it, or another program did, which has the same effect.
            Some(Step::RemoveAddress { .. }) => return self.applied.lost.insert(prefix),
            Some(_) => {
                if ended {
                    warn!("{prefix}: {LEASE_EXPIRED}");
                }
                return self.uncertain.insert(prefix);
            }
            None => {}
        }
        if !self.applied.addressed(&prefix) {
            return false;
        }
        self.end_lease(&prefix);
        if echo {
            // Most likely the notification of our own removal; adding the address once more does no
            // harm.
            debug!("{prefix} was removed, by sidecast or by another program: adding it again");
        } else if ended {
            warn!("{prefix}: {LEASE_EXPIRED}");
        } else {
            warn!("{prefix} was removed by another program: adding it again");
        }
        self.applied.lost.insert(prefix)
    }

    /// Addresses that should be present and have no step in flight; without IPv6 prefixes, which are routes.
    pub fn stable_addresses(&self) -> impl Iterator<Item = Prefix> {
        let applied = &self.applied;
        let addresses = applied.addresses.keys().chain(&applied.foreign);
        addresses.copied().filter(|prefix| {
            let is_address = prefix.family() == Family::Ipv4 || prefix.is_host();
            is_address
                && !self.busy.contains(&Subject::Address(*prefix))
                && !applied.lost.contains(prefix)
        })
    }

    /// Starts due retries and lease renewals. Returns the VIPs to reconcile.
    pub fn handle_timeout(&mut self, now: Instant) -> BTreeSet<Prefix> {
        // Here and not with each removal: a thousand may follow each other.
        self.removed.retain(|_, at| now < *at + REMOVAL_ECHO);
        let mut vips = BTreeSet::new();
        // A renewal needs no wake of its own where the process is awake soon before it is due. It takes those along
        // that would follow soon: they share a datagram.
        let mut renewing = false;
        while let Some((at, due)) = self.deadlines.peek() {
            let early = match due {
                Due::Renewal(prefix) => {
                    let slack = self
                        .leases
                        .get(prefix)
                        .map_or(Duration::ZERO, |lease| lease.slack);
                    if renewing { slack * 2 } else { slack }
                }
                Due::Retry(_) => Duration::ZERO,
            };
            if at > now + early {
                break;
            }
            let due = *due;
            self.deadlines.set(due, None);
            match due {
                Due::Renewal(prefix) => {
                    renewing = true;
                    if let Some(lease) = self.leases.get_mut(&prefix) {
                        lease.due = true;
                        vips.insert(prefix);
                    }
                }
                Due::Retry(subject) => self.retry(subject, &mut vips),
            }
        }
        vips
    }

    fn retry(&mut self, subject: Subject, vips: &mut BTreeSet<Prefix>) {
        if let Some(retry) = self.retries.get_mut(&subject) {
            retry.due = true;
            match subject {
                Subject::Address(prefix) => {
                    vips.insert(prefix);
                }
                Subject::Nat => self.nat_queued = true,
            }
        }
    }

    /// The kernel's tables changed: failed steps are retried at once. Returns the VIPs to reconcile.
    pub fn retry_now(&mut self) -> BTreeSet<Prefix> {
        let waiting = self.retries.iter().filter(|(_, retry)| !retry.due);
        let waiting: Vec<Subject> = waiting.map(|(subject, _)| *subject).collect();
        let mut vips = BTreeSet::new();
        for subject in waiting {
            self.deadlines.set(Due::Retry(subject), None);
            self.retry(subject, &mut vips);
        }
        vips
    }

    /// The next retry or renewal.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first()
    }
}

/// Adds `prefix` to the set, or removes it.
fn set_membership(set: &mut BTreeSet<Prefix>, prefix: Prefix, desired: bool) {
    if desired {
        set.insert(prefix);
    } else {
        set.remove(&prefix);
    }
}

/// The step that renews the lifetime of an address that is present as desired.
fn renewal(applied: &Applied, desired: &Desired, prefix: &Prefix) -> Option<Step> {
    let spec = desired.address.as_ref()?;
    let there = applied.addresses.get(prefix) == Some(spec) && !applied.lost.contains(prefix);
    (there && spec.lifetime.is_some()).then(|| Step::AddAddress {
        prefix: *prefix,
        label: spec.label.clone(),
        lifetime: spec.lifetime,
        replace: true,
    })
}

fn describe(step: &Step) -> String {
    match step {
        Step::AddAddress {
            prefix,
            replace: true,
            ..
        } => format!("renewing {prefix}"),
        Step::AddAddress { prefix, .. } => format!("adding {prefix}"),
        Step::RemoveAddress { prefix } => format!("removing {prefix}"),
        Step::UpdateNat(change) => format!("changing NAT ({change})"),
    }
}

/// The first and the longest delay after a failed step, and the delay after a permanent error.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(10);
const RETRY_PERMANENT: Duration = Duration::from_secs(30);
const LEASE_EXPIRED: &str = "its lease (IFA_CACHEINFO) expired before it was renewed";
/// How much earlier than it is due a lease may be renewed, at most.
const RENEWAL_SLACK: Duration = Duration::from_secs(10);
/// How late the kernel's notification of our own removal may arrive.
const REMOVAL_ECHO: Duration = Duration::from_secs(1);
