//! What is applied in the kernel and on the way there: steps under way, leases to renew, failures to
//! try again.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::event::{StepError, StepId, StepResult};
use crate::app::Attributes;
use crate::net::{Family, Prefix};
use crate::plan::{Applied, NatRule, NatTable, Step, Subject, Wanted};
use crate::timer::{Backoff, Deadlines, Jitter};

pub(super) struct Kernel {
    applied: Applied,
    /// The NAT rules that are wanted, by VIP.
    nat: BTreeMap<Prefix, BTreeSet<NatRule>>,
    /// They changed, or are to be tried again.
    nat_queued: bool,
    /// VIPs whose route waits for its NAT rules.
    awaiting_nat: BTreeSet<Prefix>,
    /// VIPs whose route is not as wanted yet.
    unfinished: BTreeSet<Prefix>,
    under_way: BTreeMap<StepId, Step>,
    busy: BTreeSet<Subject>,
    retries: BTreeMap<Subject, Retry>,
    /// Vanished while a step was adding or renewing them: which came first is not known.
    doubtful: BTreeSet<Prefix>,
    /// Removed by us of late: the kernel's own report of it, on another socket, may be still to come.
    removed: BTreeMap<Prefix, Instant>,
    leases: BTreeMap<Prefix, Lease>,
    deadlines: Deadlines<Due>,
    next: u64,
    jitter: Jitter,
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
}

struct Retry {
    /// What failed. Another step on the same subject does not wait for its sake.
    step: Step,
    backoff: Backoff,
    /// It may be tried.
    due: bool,
    error: String,
}

/// What is to be done now.
#[derive(Default)]
pub(super) struct Plan {
    /// Routes that changed; `None`: to be withdrawn.
    pub routes: BTreeMap<Prefix, Option<Rc<Attributes>>>,
    pub steps: Vec<(StepId, Step)>,
    /// They come after all others.
    removals: Vec<(StepId, Step)>,
}

impl Kernel {
    pub fn new(seed: u64) -> Self {
        Self {
            applied: Applied::default(),
            nat: BTreeMap::new(),
            nat_queued: false,
            awaiting_nat: BTreeSet::new(),
            unfinished: BTreeSet::new(),
            under_way: BTreeMap::new(),
            busy: BTreeSet::new(),
            retries: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            removed: BTreeMap::new(),
            leases: BTreeMap::new(),
            deadlines: Deadlines::default(),
            next: 0,
            jitter: Jitter::new(seed),
        }
    }

    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Nothing of ours is left and nothing is under way.
    pub fn is_clean(&self) -> bool {
        self.busy.is_empty()
            && self.applied.addresses.is_empty()
            && self.applied.nat.rules.is_empty()
    }

    /// Every route that is wanted is out.
    pub fn is_finished(&self) -> bool {
        self.unfinished.is_empty()
    }

    /// VIPs of which something is or may be in the kernel or at the peers.
    pub fn vips(&self) -> impl Iterator<Item = Prefix> {
        let applied = &self.applied;
        let addresses = applied.addresses.keys().chain(&applied.foreign);
        addresses
            .chain(applied.routes.keys())
            .chain(self.nat.keys())
            .copied()
    }

    /// Why this address is not there, or not renewed.
    pub fn error(&self, subject: &Subject) -> Option<&str> {
        self.retries.get(subject).map(|retry| retry.error.as_str())
    }

    /// Compares what is wanted for a VIP with what is there. A route moves at once: advertising cannot
    /// fail. Steps move when they are done. `unaddressed`: addresses are managed elsewhere.
    pub fn plan(&mut self, prefix: Prefix, wanted: &Wanted, unaddressed: bool, plan: &mut Plan) {
        if wanted.address.is_none() && self.applied.lost.contains(&prefix) {
            self.applied.forget(&prefix);
        }
        // Nothing new is announced on an address that may have vanished.
        let known = self.applied.routes.contains_key(&prefix) || !self.doubtful.contains(&prefix);
        let ready = self.applied.ready_route(&prefix, wanted, unaddressed);
        let ready = ready.filter(|_| known);
        if self.applied.routes.get(&prefix) != ready.as_ref() {
            match &ready {
                Some(route) => self.applied.routes.insert(prefix, Rc::clone(route)),
                None => self.applied.routes.remove(&prefix),
            };
            plan.routes.insert(prefix, ready.clone());
        }
        keep(&mut self.unfinished, prefix, ready != wanted.route);
        let waits = wanted.route.is_some() && !self.applied.has_nat(wanted);
        keep(&mut self.awaiting_nat, prefix, waits);
        self.plan_address(prefix, wanted, plan);
        let rules = self.nat.get(&prefix);
        if rules.unwrap_or(&BTreeSet::new()) != &wanted.nat {
            if wanted.nat.is_empty() {
                self.nat.remove(&prefix);
            } else {
                self.nat.insert(prefix, wanted.nat.clone());
            }
            self.nat_queued = true;
        }
    }

    fn plan_address(&mut self, prefix: Prefix, wanted: &Wanted, plan: &mut Plan) {
        let step = self.applied.address_step(&prefix, wanted);
        let renewal = renewal(&self.applied, wanted, &prefix);
        let subject = Subject::Address(prefix);
        if let Some(retry) = self.retries.get_mut(&subject) {
            // What is wanted otherwise than it failed may be tried at once; what is not wanted any more
            // is forgotten.
            match (&step, &renewal) {
                (Some(step), _) => retry.due |= *step != retry.step,
                (None, Some(renewal)) if *renewal == retry.step => {}
                _ => self.forget_retry(subject),
            }
        }
        // What is there, is wanted and has no lease that runs on is renewed. What is owed its removal is
        // not: should that go on failing, the lease ends it.
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
        if std::mem::take(&mut self.nat_queued) {
            let rules = self.nat.values().flatten().cloned().collect();
            let table = NatTable { rules };
            if table == self.applied.nat {
                self.forget_retry(Subject::Nat);
            } else {
                let step = Step::ReplaceNat(table);
                if let Some(retry) = self.retries.get_mut(&Subject::Nat) {
                    retry.due |= step != retry.step;
                }
                // What is under way will be compared anew when it is done.
                plan.steps.extend(self.issue(step));
            }
        }
        plan.steps.append(&mut plan.removals);
    }

    fn forget_retry(&mut self, subject: Subject) {
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
            self.applied.leaving.insert(*prefix);
        }
        self.next += 1;
        let id = StepId(self.next);
        self.under_way.insert(id, step.clone());
        Some((id, step))
    }

    /// Takes the answer to a step; the VIPs that have to be looked at again.
    pub fn done(
        &mut self,
        now: Instant,
        id: StepId,
        result: Result<StepResult, StepError>,
    ) -> BTreeSet<Prefix> {
        let Some(step) = self.under_way.remove(&id) else {
            return BTreeSet::new();
        };
        self.busy.remove(&step.subject());
        match result {
            Ok(result) => self.succeeded(now, &step, result),
            Err(error) => self.failed(now, &step, &error),
        }
        match step.subject() {
            Subject::Address(prefix) => BTreeSet::from([prefix]),
            Subject::Nat => {
                self.nat_queued = true;
                std::mem::take(&mut self.awaiting_nat)
            }
        }
    }

    fn succeeded(&mut self, now: Instant, step: &Step, result: StepResult) {
        if self.retries.contains_key(&step.subject()) {
            info!("{} works again", words(step));
            self.forget_retry(step.subject());
        }
        if let Step::AddAddress {
            prefix, lifetime, ..
        } = step
        {
            self.end_lease(prefix);
            if result == StepResult::Foreign {
                info!("{prefix} exists and was added by someone else: using it as it is");
                self.applied.adopt_foreign(*prefix);
                self.settle_doubt(prefix);
                return;
            }
            if let Some(lifetime) = lifetime {
                let lease = Lease {
                    due: false,
                    ends: now + *lifetime,
                };
                self.leases.insert(*prefix, lease);
                let renewal = Some(now + *lifetime / 3);
                self.deadlines.set(Due::Renewal(*prefix), renewal);
            }
        }
        if let Step::RemoveAddress { prefix } = step {
            self.end_lease(prefix);
            self.removed.retain(|_, at| now < *at + ECHO);
            if !self.applied.lost.contains(prefix) {
                self.removed.insert(*prefix, now);
            }
        }
        if let Step::AddAddress { prefix, label, .. } = step
            && let Some(before) = self.applied.addresses.get(prefix)
            && before.label != *label
        {
            // A label is changed by removing the address and adding it anew.
            self.removed.insert(*prefix, now);
        }
        debug!("{}: {result:?}", words(step));
        self.applied.apply(step);
        if let Step::AddAddress { prefix, .. } = step {
            self.settle_doubt(prefix);
        }
    }

    fn end_lease(&mut self, prefix: &Prefix) {
        self.leases.remove(prefix);
        self.deadlines.set(Due::Renewal(*prefix), None);
    }

    /// What vanished while the step was under way may have gone after it was looked at: once more.
    fn settle_doubt(&mut self, prefix: &Prefix) {
        if self.doubtful.remove(prefix) {
            debug!("{prefix} vanished meanwhile, before or after");
            self.end_lease(prefix);
            self.applied.lost.insert(*prefix);
        }
    }

    fn failed(&mut self, now: Instant, step: &Step, error: &StepError) {
        let limit = if error.permanent { PERMANENT } else { LONGEST };
        let retry = self.retries.entry(step.subject()).or_insert_with(|| Retry {
            step: step.clone(),
            backoff: Backoff::new(FIRST, limit),
            due: false,
            error: String::new(),
        });
        // The log hears of a cause once, not at every attempt.
        if retry.error != error.message {
            warn!("{} failed: {error}", words(step));
            retry.error.clone_from(&error.message);
        }
        let delay = if error.permanent {
            PERMANENT
        } else {
            retry.backoff.delay(now, &mut self.jitter)
        };
        retry.due = false;
        retry.step.clone_from(step);
        let due = Due::Retry(step.subject());
        self.deadlines.set(due, Some(now + delay));
        if let Subject::Address(prefix) = step.subject() {
            self.applied.leaving.remove(&prefix);
            let doubtful = self.doubtful.remove(&prefix);
            if doubtful || self.applied.lost.contains(&prefix) {
                self.applied.forget(&prefix);
                self.end_lease(&prefix);
            }
        }
    }

    /// An address went that was ours or served us; `false` where it is none of our business.
    pub fn lost(&mut self, now: Instant, prefix: Prefix) -> bool {
        let echo = self.removed.remove(&prefix);
        let echo = echo.is_some_and(|at| now < at + ECHO);
        let lease = self.leases.get(&prefix);
        let ended = lease.is_some_and(|lease| lease.ends <= now);
        let under_way = |step: &&Step| step.subject() == Subject::Address(prefix);
        match self.under_way.values().find(under_way) {
            // It is what we asked for, or makes it needless.
            Some(Step::RemoveAddress { .. }) => return self.applied.lost.insert(prefix),
            Some(_) => {
                if ended {
                    warn!("{prefix}: {ENDED}");
                }
                return self.doubtful.insert(prefix);
            }
            None => {}
        }
        if !self.applied.addressed(&prefix) {
            return false;
        }
        self.end_lease(&prefix);
        if echo {
            // Most likely our own doing before we put it back; to put it back once more does no harm.
            debug!("{prefix} was removed, by us or by somebody else");
        } else if ended {
            warn!("{prefix}: {ENDED}");
        } else {
            warn!("{prefix} was removed by somebody else");
        }
        self.applied.lost.insert(prefix)
    }

    /// Addresses that should be there, with nothing under way; without IPv6 prefixes, which are routes.
    pub fn settled(&self) -> impl Iterator<Item = Prefix> {
        let applied = &self.applied;
        let addresses = applied.addresses.keys().chain(&applied.foreign);
        addresses.copied().filter(|prefix| {
            let is_address = prefix.family() == Family::Ipv4 || prefix.is_host();
            is_address
                && !self.busy.contains(&Subject::Address(*prefix))
                && !applied.lost.contains(prefix)
        })
    }

    /// Frees what may be tried again, and renews leases; the VIPs that have to be looked at.
    pub fn handle_timeout(&mut self, now: Instant) -> BTreeSet<Prefix> {
        let mut vips = BTreeSet::new();
        if self.deadlines.first().is_none_or(|first| first > now) {
            return vips;
        }
        // One renewal takes those along that are due soon: they share a wake and a datagram.
        while let Some((at, due)) = self.deadlines.peek() {
            let limit = match due {
                Due::Renewal(_) => now + TOGETHER,
                Due::Retry(_) => now,
            };
            if at > limit {
                break;
            }
            let due = *due;
            self.deadlines.set(due, None);
            match due {
                Due::Renewal(prefix) => {
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

    /// Something changed in the kernel: what failed may be tried at once; the VIPs to be looked at.
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

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first()
    }
}

/// Has `prefix` in the set, or not.
fn keep(set: &mut BTreeSet<Prefix>, prefix: Prefix, wanted: bool) {
    if wanted {
        set.insert(prefix);
    } else {
        set.remove(&prefix);
    }
}

/// What renews an address that is there as it is wanted, on a lease.
fn renewal(applied: &Applied, wanted: &Wanted, prefix: &Prefix) -> Option<Step> {
    let spec = wanted.address.as_ref()?;
    let there = applied.addresses.get(prefix) == Some(spec) && !applied.lost.contains(prefix);
    (there && spec.lifetime.is_some()).then(|| Step::AddAddress {
        prefix: *prefix,
        label: spec.label.clone(),
        lifetime: spec.lifetime,
        replace: true,
    })
}

fn words(step: &Step) -> String {
    match step {
        Step::AddAddress {
            prefix,
            replace: true,
            ..
        } => format!("renewing {prefix}"),
        Step::AddAddress { prefix, .. } => format!("adding {prefix}"),
        Step::RemoveAddress { prefix } => format!("removing {prefix}"),
        Step::ReplaceNat(table) => format!("writing {} NAT rules", table.rules.len()),
    }
}

/// The first wait after a failed step, the longest, and the one after a failure that will not mend by
/// itself.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);
const PERMANENT: Duration = Duration::from_secs(30);
const ENDED: &str = "its lease ended before it was renewed";
/// How much earlier than due a lease is renewed together with another: far less than a third of one.
const TOGETHER: Duration = Duration::from_secs(2);
/// How long the report of a removal may be on its way.
const ECHO: Duration = Duration::from_secs(1);
