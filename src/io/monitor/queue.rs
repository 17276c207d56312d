//! Accept queues that stay full: a service that holds its port but takes no connections.

use super::port::FullQueue;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Remembers, from sample to sample, which listeners were found full.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// By port and socket cookie.
    full: BTreeMap<(u16, u64), Stretch>,
}

#[derive(Clone, Copy, Debug)]
struct Stretch {
    since: Instant,
    samples: u32,
}

/// What the samples so far say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No queue is full.
    Fine,
    /// One is, but that may be a moment's crowd.
    Watch,
    /// Full at every one of at least three samples, over a time long enough: the reason.
    Stuck(String),
}

impl Queues {
    /// Takes one sample of all of a port's full queues. `over` is the time that makes a crowd a hang.
    pub(super) fn sample(
        &mut self,
        now: Instant,
        port: u16,
        full: &[FullQueue],
        over: Duration,
    ) -> Verdict {
        let is_full = |cookie: u64| full.iter().any(|queue| queue.cookie == cookie);
        self.full
            .retain(|(at, cookie), _| *at != port || is_full(*cookie));
        if self.full.len() > REMEMBERED {
            // Ports that are monitored no longer; the others begin anew.
            self.full.clear();
        }
        let mut verdict = Verdict::Fine;
        for queue in full {
            let stretch = self.full.entry((port, queue.cookie)).or_insert(Stretch {
                since: now,
                samples: 0,
            });
            stretch.samples = stretch.samples.saturating_add(1);
            let lasted = now.saturating_duration_since(stretch.since);
            if stretch.samples >= SAMPLES && lasted >= over {
                return Verdict::Stuck(format!(
                    "the accept queue has been full for {:.1} s ({} waiting, backlog {}): the service takes no connections",
                    lasted.as_secs_f64(),
                    queue.waiting,
                    queue.backlog
                ));
            }
            verdict = Verdict::Watch;
        }
        verdict
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
        let mut queues = Queues::default();
        assert_eq!(queues.sample(at(0), 80, &[queue(1)], over), Verdict::Watch);
        assert_eq!(
            queues.sample(at(2500), 80, &[queue(1)], over),
            Verdict::Watch,
            "two samples are not enough"
        );
        assert!(matches!(
            queues.sample(at(2600), 80, &[queue(1)], over),
            Verdict::Stuck(_)
        ));
        assert_eq!(queues.sample(at(2700), 80, &[], over), Verdict::Fine);
        assert_eq!(
            queues.sample(at(2800), 80, &[queue(1)], over),
            Verdict::Watch,
            "one sample with room begins anew"
        );
    }

    #[test]
    fn another_listener_or_port_begins_its_own_stretch() {
        let start = Instant::now();
        let over = Duration::from_millis(1);
        let at = |ms| start + Duration::from_millis(ms);
        let mut queues = Queues::default();
        for ms in 0..3 {
            queues.sample(at(ms), 80, &[queue(1)], over);
            assert_eq!(queues.sample(at(ms), 81, &[], over), Verdict::Fine);
        }
        assert_eq!(queues.sample(at(9), 80, &[queue(2)], over), Verdict::Watch);
        for port in 0..3000 {
            queues.sample(at(9), port, &[queue(3)], over);
        }
        assert!(queues.full.len() <= REMEMBERED + 1);
    }
}
