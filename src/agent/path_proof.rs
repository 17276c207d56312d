//! Performs the outputs of [`crate::path_proof`] in a task of its own, since each probe needs a route lookup in the
//! kernel.

use super::{Executor, kernel};
use crate::config::Config;
use crate::core::Event;
use crate::io::path_proof::{Prober, Probes};
use crate::path_proof::{self, Output};
use smol::channel::{self, Receiver, Sender};
use smol::future::FutureExt;

/// The task, and its queue of outputs.
pub struct PathProofs {
    work: Sender<Output>,
    _working: smol::Task<()>,
}

impl PathProofs {
    /// Starts the task; it opens no socket before there is something to do.
    pub fn new(executor: &Executor, events: &Sender<Event>, config: &Config) -> Self {
        let (work, work_in) = channel::unbounded();
        let prober = Prober::new(&kernel::nat_table(config));
        Self {
            work,
            _working: executor.spawn(worker(prober, work_in, events.clone()).boxed_local()),
        }
    }

    /// Queues one output; each is answered by an event, except [`Output::Remove`].
    pub fn perform(&self, output: Output) {
        // The send cannot fail: `self` owns the task.
        let _ = self.work.try_send(output);
    }
}

/// Performs everything in order. Probes that are queued together are sent together.
async fn worker(mut prober: Prober, work: Receiver<Output>, events: Sender<Event>) {
    let mut probes: Vec<Probes> = Vec::new();
    while let Ok(mut output) = work.recv().await {
        loop {
            let other = match take_probes(output) {
                Ok(more) => {
                    probes.push(more);
                    None
                }
                Err(other) => Some(other),
            };
            let next = work.try_recv().ok();
            let mut answers = Vec::new();
            if other.is_some() || next.is_none() || probes.len() >= MAX_BATCH {
                answers.extend(send(&mut prober, std::mem::take(&mut probes)).await);
            }
            if let Some(other) = other {
                answers.extend(perform(&mut prober, other).await);
            }
            for answer in answers {
                if events.send(Event::PathProof(answer)).await.is_err() {
                    return;
                }
            }
            match next {
                Some(next) => output = next,
                None => break,
            }
        }
    }
}

/// The probes of [`Output::Send`]; any other output is returned as the error.
fn take_probes(output: Output) -> Result<Probes, Output> {
    match output {
        Output::Send {
            target,
            egress,
            token,
            port,
            ttl,
            source_ports,
        } => Ok(Probes {
            target,
            egress,
            token,
            port,
            ttl,
            source_ports,
        }),
        other => Err(other),
    }
}

async fn send(prober: &mut Prober, probes: Vec<Probes>) -> Vec<path_proof::Event> {
    if probes.is_empty() {
        return Vec::new();
    }
    let results = prober.send(&probes).await;
    let answers = probes.into_iter().zip(results);
    answers
        .map(|(Probes { target, .. }, result)| path_proof::Event::Sent { target, result })
        .collect()
}

async fn perform(prober: &mut Prober, output: Output) -> Option<path_proof::Event> {
    match output {
        Output::Count {
            token,
            port,
            add,
            remove,
        } => {
            let counting = prober.count(token, port, &add, &remove).await;
            Some(path_proof::Event::Counting(counting))
        }
        Output::Read => Some(match prober.read().await {
            Ok(totals) => path_proof::Event::Counters {
                returned: totals.returned,
                errors: totals.errors,
            },
            Err(error) => path_proof::Event::Uncounted(error),
        }),
        Output::Remove => {
            prober.remove().await;
            None
        }
        Output::Send { .. } => None,
    }
}

/// Probes sent in one go: as many as the rate limit of an interface allows at once.
const MAX_BATCH: usize = 300;
