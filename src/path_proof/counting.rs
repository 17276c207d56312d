//! The counters in the kernel: those that exist, and those requested.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use super::{CountError, Output, RETRY, Target, Unproven};

#[derive(Debug, Default)]
pub(super) struct Counting {
    /// To be requested with the next batch, with the UDP port of the probes.
    add: BTreeMap<Target, u16>,
    remove: BTreeMap<Target, u16>,
    /// Batches that were not answered yet.
    unanswered: VecDeque<Vec<Target>>,
    /// Answers to expect for batches that are void.
    void: usize,
    /// Something is counted, or was asked for.
    made: bool,
    /// Why nothing is counted.
    denied: Option<Unproven>,
    /// When that is tried again.
    retry_at: Option<Instant>,
}

impl Counting {
    /// Why the kernel counts nothing at all.
    pub fn denied(&self) -> Option<&Unproven> {
        self.denied.as_ref()
    }

    /// Counts a target from the next batch on.
    pub fn add(&mut self, target: Target, port: u16) {
        self.add.insert(target, port);
    }

    /// Counts a target no longer.
    pub fn remove(&mut self, target: Target, port: u16, counted: bool) {
        self.add.remove(&target);
        if counted {
            self.remove.insert(target, port);
        }
    }

    /// The batches of what was added and removed since, one for each port. `left`: targets that stay.
    pub fn flush(&mut self, token: u64, left: usize) -> (Vec<Output>, Vec<Target>) {
        if self.denied.is_some() {
            return (Vec::new(), Vec::new());
        }
        let add = std::mem::take(&mut self.add);
        let remove = std::mem::take(&mut self.remove);
        if left == 0 && add.is_empty() {
            return (self.clear(), Vec::new());
        }
        let ports: BTreeSet<u16> = add.values().chain(remove.values()).copied().collect();
        let mut batches = Vec::new();
        for port in ports {
            let of_port = |targets: &BTreeMap<Target, u16>| -> Vec<Target> {
                let targets = targets.iter().filter(|(_, of)| **of == port);
                targets.map(|(target, _)| *target).collect()
            };
            let (add, remove) = (of_port(&add), of_port(&remove));
            self.unanswered.push_back(add.clone());
            self.made = true;
            batches.push(Output::Count {
                token,
                port,
                add,
                remove,
            });
        }
        (batches, add.into_keys().collect())
    }

    /// Counts nothing any more; answers to come are to batches that are void.
    pub fn clear(&mut self) -> Vec<Output> {
        self.void += self.unanswered.len();
        self.unanswered.clear();
        self.remove.clear();
        match std::mem::take(&mut self.made) {
            true => vec![Output::Remove],
            false => Vec::new(),
        }
    }

    /// The answer to the oldest batch; the targets that are counted from now on.
    ///
    /// # Errors
    /// The kernel refused the batch: none of its targets is counted.
    pub fn answer(&mut self, result: Result<(), CountError>) -> Result<Vec<Target>, CountError> {
        if self.void > 0 {
            self.void -= 1;
            return Ok(Vec::new());
        }
        let batch = self.unanswered.pop_front().unwrap_or_default();
        result.map(|()| batch)
    }

    /// Nothing is counted; the caller requests all counters again once [`Counting::retry`] returns `true`. Without
    /// CAP_NET_ADMIN there is no retry.
    pub fn fail(&mut self, now: Instant, error: CountError) {
        let why = match error {
            CountError::NoPermission => Unproven::NoPermission,
            CountError::Kernel(why) => Unproven::Kernel(why),
        };
        self.made &= why != Unproven::NoPermission;
        self.retry_at = (why != Unproven::NoPermission).then(|| now + RETRY);
        self.denied = Some(why);
    }

    /// When to try again after a failure.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Whether all counters are to be requested again.
    pub fn retry(&mut self, now: Instant) -> bool {
        let due = self.retry_at.is_some_and(|at| at <= now);
        if due {
            (self.retry_at, self.denied) = (None, None);
        }
        due
    }
}
