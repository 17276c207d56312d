//! Accept queues that stay full: the service listens but accepts no connections.

use super::port::FullQueue;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The listeners whose accept queue was full at the last samples.
#[derive(Debug, Default)]
pub(super) struct AcceptQueues {
    /// By port and socket cookie.
    full: BTreeMap<(u16, u64), FullSince>,
}

#[derive(Clone, Copy, Debug)]
struct FullSince {
    since: Instant,
    samples: u32,
}

/// The state of a port's accept queues after a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum QueueState {
    /// No queue is full.
    NotFull,
    /// One is, which may be a short burst.
    Full,
    /// Full at every one of at least three samples, over a time long enough: the reason.
    Stuck(String),
}

impl AcceptQueues {
    /// Records one sample of a port's full queues. `over`: time from which a full queue counts as stuck.
    pub(super) fn sample(
        &mut self,
        now: Instant,
        port: u16,
        full: &[FullQueue],
        over: Duration,
    ) -> QueueState {
        let is_full = |cookie: u64| full.iter().any(|queue| queue.cookie == cookie);
        self.full
            .retain(|(at, cookie), _| *at != port || is_full(*cookie));
        if self.full.len() > REMEMBERED {
            // Ports that are no longer monitored; the others are counted again from here.
            self.full.clear();
        }
        let mut queue_state = QueueState::NotFull;
        for queue in full {
            let full_since = self.full.entry((port, queue.cookie)).or_insert(FullSince {
                since: now,
                samples: 0,
            });
            full_since.samples = full_since.samples.saturating_add(1);
            let lasted = now.saturating_duration_since(full_since.since);
            if full_since.samples >= SAMPLES && lasted >= over {
                return QueueState::Stuck(format!(
                    "the accept queue has been full for {:.1} s ({} waiting, backlog {}): the service accepts no connections",
                    lasted.as_secs_f64(),
                    queue.waiting,
                    queue.backlog
                ));
            }
            queue_state = QueueState::Full;
        }
        queue_state
    }
}

/// Samples it takes at least.
const SAMPLES: u32 = 3;
/// Listeners remembered at most.
const REMEMBERED: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(cookie: u64) -> FullQueue {
        FullQueue {
            cookie,
            waiting: 6,
            backlog: 5,
        }
    }

    #[test]
    fn a_queue_is_stuck_after_three_samples_and_the_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let over = Duration::from_secs(2);
        let mut queues = AcceptQueues::default();
        assert_eq!(
            queues.sample(at(0), 80, &[queue(1)], over),
            QueueState::Full
        );
        assert_eq!(
            queues.sample(at(2500), 80, &[queue(1)], over),
            QueueState::Full,
            "two samples are not enough"
        );
        assert!(matches!(
            queues.sample(at(2600), 80, &[queue(1)], over),
            QueueState::Stuck(_)
        ));
        assert_eq!(queues.sample(at(2700), 80, &[], over), QueueState::NotFull);
        assert_eq!(
            queues.sample(at(2800), 80, &[queue(1)], over),
            QueueState::Full,
            "one sample with room begins anew"
        );
    }

    #[test]
    fn another_listener_or_port_is_counted_separately() {
        let start = Instant::now();
        let over = Duration::from_millis(1);
        let at = |ms| start + Duration::from_millis(ms);
        let mut queues = AcceptQueues::default();
        for ms in 0..3 {
            queues.sample(at(ms), 80, &[queue(1)], over);
            assert_eq!(queues.sample(at(ms), 81, &[], over), QueueState::NotFull);
        }
        assert_eq!(
            queues.sample(at(9), 80, &[queue(2)], over),
            QueueState::Full
        );
        for port in 0..3000 {
            queues.sample(at(9), port, &[queue(3)], over);
        }
        assert!(queues.full.len() <= REMEMBERED + 1);
    }
}
