//! Deadlines without a clock: which comes first, how long to wait after a failure, and chance from a
//! seed. Whoever calls brings the time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Collects deadlines and keeps the earliest. "No deadline" is `None` and changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Soonest<T> {
    first: Option<(Instant, T)>,
}

impl<T> Default for Soonest<T> {
    fn default() -> Self {
        Self { first: None }
    }
}

impl<T> Soonest<T> {
    pub fn new() -> Self {
        Self::default()
    }

    /// Considers one more deadline; of two equal ones the first added stays.
    pub fn add(&mut self, at: Option<Instant>, timer: T) {
        let Some(at) = at else { return };
        if self.first.as_ref().is_none_or(|(first, _)| at < *first) {
            self.first = Some((at, timer));
        }
    }

    pub fn get(self) -> Option<(Instant, T)> {
        self.first
    }
}

/// One deadline for each of many keys; the earliest is found without looking at the others.
#[derive(Clone, Debug)]
pub struct Deadlines<K> {
    by_key: BTreeMap<K, Instant>,
    by_time: BTreeSet<(Instant, K)>,
}

impl<K> Default for Deadlines<K> {
    fn default() -> Self {
        Self {
            by_key: BTreeMap::new(),
            by_time: BTreeSet::new(),
        }
    }
}

impl<K: Ord + Clone> Deadlines<K> {
    /// The key's deadline from now on; `None` is none.
    pub fn set(&mut self, key: K, at: Option<Instant>) {
        let before = match at {
            Some(at) => self.by_key.insert(key.clone(), at),
            None => self.by_key.remove(&key),
        };
        if before == at {
            return;
        }
        let key = match before {
            Some(before) => self
                .by_time
                .take(&(before, key.clone()))
                .map_or(key, |(_, key)| key),
            None => key,
        };
        if let Some(at) = at {
            self.by_time.insert((at, key));
        }
    }

    /// The earliest.
    pub fn first(&self) -> Option<Instant> {
        self.peek().map(|(at, _)| at)
    }

    /// The earliest, and whose it is.
    pub fn peek(&self) -> Option<(Instant, &K)> {
        self.by_time.first().map(|(at, key)| (*at, key))
    }

    /// Takes a key whose deadline is not after `now`; it has none afterwards.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        if self.first()? > now {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }
}

/// Waiting times of an outage: the first short, then a quarter of the time the outage has lasted, up
/// to a limit. A blip is healed at once, a long outage is not hammered.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    began: Option<Instant>,
}

impl Backoff {
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self {
            first,
            limit,
            began: None,
        }
    }

    /// How long to wait before the next attempt, after one that failed at `now`.
    pub fn delay(&mut self, now: Instant, jitter: &mut Jitter) -> Duration {
        let Some(began) = self.began else {
            self.began = Some(now);
            return jitter.shorten(self.first.min(self.limit));
        };
        let quarter = now.saturating_duration_since(began) / 4;
        jitter.shorten(quarter.max(self.first).min(self.limit))
    }

    /// The outage is over.
    pub fn reset(&mut self) {
        self.began = None;
    }

    /// Since when it has been failing.
    pub fn began(&self) -> Option<Instant> {
        self.began
    }
}

/// A small seeded generator (SplitMix64): the same seed gives the same run.
#[derive(Clone, Debug)]
pub struct Jitter {
    state: u64,
}

impl Jitter {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 where `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64().checked_rem(bound).unwrap_or(0)
    }

    /// Between 75 % and 100 % of `delay` (RFC 4271 §10).
    pub fn shorten(&mut self, delay: Duration) -> Duration {
        let thousandths = 750 + u32::try_from(self.below(251)).unwrap_or(0);
        delay / 1000 * thousandths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soonest_deadline_wins_and_none_is_no_deadline() {
        let now = Instant::now();
        let mut soonest = Soonest::new();
        soonest.add(None, "never");
        assert!(soonest.get().is_none());
        soonest.add(Some(now + Duration::from_secs(2)), "late");
        soonest.add(Some(now + Duration::from_secs(1)), "early");
        soonest.add(Some(now + Duration::from_secs(1)), "second");
        assert_eq!(soonest.get(), Some((now + Duration::from_secs(1), "early")));
    }

    #[test]
    fn each_key_has_one_deadline_and_the_earliest_is_due_first() {
        let now = Instant::now();
        let at = |secs| now + Duration::from_secs(secs);
        let mut deadlines = Deadlines::default();
        deadlines.set("a", Some(at(3)));
        deadlines.set("b", Some(at(2)));
        deadlines.set("a", Some(at(1)));
        deadlines.set("c", None);
        assert_eq!(deadlines.first(), Some(at(1)));
        assert_eq!(deadlines.pop_due(now), None);
        assert_eq!(deadlines.pop_due(at(3)), Some("a"));
        deadlines.set("b", None);
        assert_eq!((deadlines.pop_due(at(9)), deadlines.first()), (None, None));
    }

    #[test]
    fn backoff_is_short_first_then_a_quarter_of_the_outage_and_bounded() {
        let start = Instant::now();
        let mut jitter = Jitter::new(1);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let near = |got: Duration, want: Duration| got <= want && got >= want * 3 / 4;
        assert!(near(
            backoff.delay(start, &mut jitter),
            Duration::from_millis(200)
        ));
        let after = |secs| start + Duration::from_secs(secs);
        assert!(near(
            backoff.delay(after(8), &mut jitter),
            Duration::from_secs(2)
        ));
        assert!(near(
            backoff.delay(after(800), &mut jitter),
            Duration::from_secs(5)
        ));
        backoff.reset();
        assert!(near(
            backoff.delay(after(900), &mut jitter),
            Duration::from_millis(200)
        ));
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let run = |seed| {
            let mut jitter = Jitter::new(seed);
            [jitter.next_u64(), jitter.below(10), jitter.below(0)]
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7)[0], run(8)[0]);
        assert_eq!(run(7)[2], 0);
    }
}
