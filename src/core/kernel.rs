//! What is applied in the kernel and on the way there: steps under way, leases to renew, failures to
//! try again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::event::{StepError, StepId, StepResult};
use crate::net::{Family, Prefix};
use crate::plan::{self, Applied, Desired, Move, Routes, Step, Subject};
use crate::timer::{Backoff, Jitter, Soonest};

pub(super) struct Kernel {
    applied: Applied,
    under_way: BTreeMap<StepId, Step>,
    busy: BTreeSet<Subject>,
    retries: BTreeMap<Subject, Retry>,
    /// Vanished while a step was adding or renewing them: which came first is not known.
    doubtful: BTreeSet<Prefix>,
    /// Removed by us of late: the kernel's own report of it, on another socket, may be still to come.
    removed: BTreeMap<Prefix, Instant>,
    leases: BTreeMap<Prefix, Lease>,
    next: u64,
    jitter: Jitter,
}

struct Lease {
    /// `None`: it is due, or left to end.
    renew_at: Option<Instant>,
    ends: Instant,
}

struct Retry {
    /// What failed. Another step on the same subject does not wait for its sake.
    step: Step,
    backoff: Backoff,
    /// `None`: it may be tried.
    at: Option<Instant>,
    error: String,
}

/// What is to be done now.
#[derive(Default)]
pub(super) struct Plan {
    /// The whole set, where it changed.
    pub routes: Option<Routes>,
    pub steps: Vec<(StepId, Step)>,
}

impl Kernel {
    pub fn new(seed: u64) -> Self {
        Self {
            applied: Applied::default(),
            under_way: BTreeMap::new(),
            busy: BTreeSet::new(),
            retries: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            removed: BTreeMap::new(),
            leases: BTreeMap::new(),
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

    /// Why this address is not there, or not renewed.
    pub fn error(&self, subject: &Subject) -> Option<&str> {
        self.retries.get(subject).map(|retry| retry.error.as_str())
    }

    /// Routes move at once: advertising cannot fail. Steps move when they are done.
    pub fn plan(&mut self, now: Instant, desired: &Desired) -> Plan {
        let mut plan = Plan::default();
        for prefix in self.applied.lost.clone() {
            if !desired.addresses.contains_key(&prefix) {
                self.applied.forget(&prefix);
            }
        }
        let moves = plan::steps(&self.applied, desired);
        self.keep_retries(&moves, desired);
        let mut later = false;
        for next in moves {
            match next {
                Move::Advertise(_) if later => {}
                Move::Advertise(routes) => {
                    self.applied.routes.clone_from(&routes);
                    plan.routes = Some(routes);
                }
                Move::Kernel(step) => {
                    later = true;
                    self.issue(step, &mut plan);
                }
            }
        }
        self.renew(now, desired, &mut plan);
        plan
    }

    /// Forgets failures of what is not wanted any more. What is wanted otherwise than it failed may be
    /// tried at once.
    fn keep_retries(&mut self, moves: &[Move], desired: &Desired) {
        let wanted = moves.iter().filter_map(|next| match next {
            Move::Kernel(step) => Some((step.subject(), step)),
            Move::Advertise(_) => None,
        });
        let wanted: BTreeMap<Subject, &Step> = wanted.collect();
        let applied = &self.applied;
        for (subject, retry) in self.retries.iter_mut() {
            if let Some(step) = wanted.get(subject) {
                retry.at = retry.at.filter(|_| **step == retry.step);
            }
        }
        self.retries.retain(|subject, retry| match subject {
            _ if wanted.contains_key(subject) => true,
            Subject::Address(prefix) => {
                renewal(applied, desired, prefix).is_some_and(|step| step == retry.step)
            }
            _ => false,
        });
    }

    fn issue(&mut self, step: Step, plan: &mut Plan) {
        let subject = step.subject();
        let waits = self.retries.get(&subject).is_some_and(|r| r.at.is_some());
        if waits || !self.busy.insert(subject) {
            return;
        }
        if let Step::RemoveAddress { prefix } = &step {
            self.applied.leaving.insert(*prefix);
        }
        self.next += 1;
        let id = StepId(self.next);
        self.under_way.insert(id, step.clone());
        plan.steps.push((id, step));
    }

    /// Renews what is there, is wanted, and has no lease that runs on. What is owed its removal is not
    /// renewed: should that go on failing, the lease ends it.
    fn renew(&mut self, now: Instant, desired: &Desired, plan: &mut Plan) {
        for (_, lease) in self.leases.iter_mut() {
            lease.renew_at = lease.renew_at.filter(|at| now < *at);
        }
        for prefix in desired.addresses.keys() {
            let lease = self.leases.get(prefix);
            if lease.is_none_or(|lease| lease.renew_at.is_none())
                && let Some(step) = renewal(&self.applied, desired, prefix)
            {
                self.issue(step, plan);
            }
        }
    }

    /// Takes the answer to a step.
    pub fn done(&mut self, now: Instant, id: StepId, result: Result<StepResult, StepError>) {
        let Some(step) = self.under_way.remove(&id) else {
            return;
        };
        self.busy.remove(&step.subject());
        match result {
            Ok(result) => self.succeeded(now, &step, result),
            Err(error) => self.failed(now, &step, &error),
        }
    }

    fn succeeded(&mut self, now: Instant, step: &Step, result: StepResult) {
        if self.retries.remove(&step.subject()).is_some() {
            info!("{} works again", words(step));
        }
        if let Step::AddAddress {
            prefix, lifetime, ..
        } = step
        {
            self.leases.remove(prefix);
            if result == StepResult::Foreign {
                info!("{prefix} was there before us: used, and left alone");
                self.applied.adopt_foreign(*prefix);
                self.settle_doubt(prefix);
                return;
            }
            if let Some(lifetime) = lifetime {
                let lease = Lease {
                    renew_at: Some(now + *lifetime / 3),
                    ends: now + *lifetime,
                };
                self.leases.insert(*prefix, lease);
            }
        }
        if let Step::RemoveAddress { prefix } = step {
            self.leases.remove(prefix);
            self.removed.retain(|_, at| now < *at + ECHO);
            if !self.applied.lost.contains(prefix) {
                self.removed.insert(*prefix, now);
            }
        }
        debug!("{}: {result:?}", words(step));
        self.applied.apply(step);
        if let Step::AddAddress { prefix, .. } = step {
            self.settle_doubt(prefix);
        }
    }

    /// What vanished while the step was under way may have gone after it was looked at: once more.
    fn settle_doubt(&mut self, prefix: &Prefix) {
        if self.doubtful.remove(prefix) {
            debug!("{prefix} vanished meanwhile, before or after");
            self.leases.remove(prefix);
            self.applied.lost.insert(*prefix);
        }
    }

    fn failed(&mut self, now: Instant, step: &Step, error: &StepError) {
        let limit = if error.permanent { PERMANENT } else { LONGEST };
        let retry = self.retries.entry(step.subject()).or_insert_with(|| Retry {
            step: step.clone(),
            backoff: Backoff::new(FIRST, limit),
            at: None,
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
        retry.at = Some(now + delay);
        retry.step.clone_from(step);
        if let Subject::Address(prefix) = step.subject() {
            self.applied.leaving.remove(&prefix);
            let doubtful = self.doubtful.remove(&prefix);
            if doubtful || self.applied.lost.contains(&prefix) {
                self.applied.forget(&prefix);
                self.leases.remove(&prefix);
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
        self.leases.remove(&prefix);
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

    /// Frees what may be tried again; `true` where there is something to do.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let mut leases = self.leases.values().filter_map(|lease| lease.renew_at);
        let mut due = leases.any(|at| at <= now);
        for (_, retry) in self.retries.iter_mut() {
            if retry.at.is_some_and(|at| at <= now) {
                retry.at = None;
                due = true;
            }
        }
        due
    }

    /// Something changed in the kernel: what failed may be tried at once; `true` where there is any.
    pub fn retry_now(&mut self) -> bool {
        let retries = self.retries.iter_mut();
        let waiting = retries.filter(|(_, retry)| retry.at.is_some());
        waiting.map(|(_, retry)| retry.at = None).count() > 0
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let mut soonest = Soonest::new();
        for retry in self.retries.values() {
            soonest.add(retry.at, ());
        }
        for lease in self.leases.values() {
            soonest.add(lease.renew_at, ());
        }
        soonest.get().map(|(at, ())| at)
    }
}

/// What renews an address that is there as it is wanted, on a lease.
fn renewal(applied: &Applied, desired: &Desired, prefix: &Prefix) -> Option<Step> {
    let spec = desired.addresses.get(prefix)?;
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
/// How long the report of a removal may be on its way.
const ECHO: Duration = Duration::from_secs(1);
