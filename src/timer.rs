//! Deadlines, retry backoff and a seeded random number generator. No clock is read here: callers pass
//! `now`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Collects deadlines and keeps the earliest. "No deadline" is `None` and changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct EarliestDeadline<T> {
    first: Option<(Instant, T)>,
}

impl<T> Default for EarliestDeadline<T> {
    fn default() -> Self {
        Self { first: None }
    }
}

impl<T> EarliestDeadline<T> {
    /// Without a deadline.
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

    /// The earliest deadline and its timer.
    pub fn get(self) -> Option<(Instant, T)> {
        self.first
    }
}

/// The first whole multiple of `interval` since `start` that is after `now`. What recurs at such times shares wakes of the
/// process, whenever it was handled before.
pub fn next_multiple(start: Instant, now: Instant, interval: Duration) -> Instant {
    let past = now.saturating_duration_since(start).as_nanos();
    let into = past.checked_rem(interval.as_nanos()).unwrap_or(0);
    now + interval - Duration::from_nanos(u64::try_from(into).unwrap_or(0))
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
    /// Sets the key's deadline; `None` removes it.
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

    /// How many keys have a deadline.
    pub fn count(&self) -> usize {
        self.by_key.len()
    }

    /// The earliest deadline of all keys.
    pub fn first(&self) -> Option<Instant> {
        self.peek().map(|(at, _)| at)
    }

    /// The earliest deadline and its key.
    pub fn peek(&self) -> Option<(Instant, &K)> {
        self.by_time.first().map(|(at, key)| (*at, key))
    }

    /// Removes the earliest deadline if it is not after `now`, and returns its key.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        if self.first()? > now {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }
}

/// Retry delays: `first` after the first failure, then a quarter of the outage so far, `limit` at most.
/// After a short outage the next attempt comes soon; a long one causes few attempts.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    failing_since: Option<Instant>,
}

impl Backoff {
    /// `first` is the first delay, `limit` the longest.
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self {
            first,
            limit,
            failing_since: None,
        }
    }

    /// How long to wait before the next attempt, after one that failed at `now`.
    pub fn delay(&mut self, now: Instant, rng: &mut Rng) -> Duration {
        let Some(failing_since) = self.failing_since else {
            self.failing_since = Some(now);
            return rng.jittered(self.first.min(self.limit));
        };
        let quarter = now.saturating_duration_since(failing_since) / 4;
        rng.jittered(quarter.max(self.first).min(self.limit))
    }

    /// An attempt succeeded: the next failure starts a new outage.
    pub fn reset(&mut self) {
        self.failing_since = None;
    }

    /// Time of the first failure of this outage.
    pub fn failing_since(&self) -> Option<Instant> {
        self.failing_since
    }
}

/// A small seeded generator (SplitMix64): the same seed gives the same run.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// A generator with this seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// 64 random bits.
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
    pub fn jittered(&mut self, delay: Duration) -> Duration {
        let thousandths = 750 + u32::try_from(self.below(251)).unwrap_or(0);
        delay / 1000 * thousandths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_recurs_at_multiples_stays_at_them_whenever_it_is_handled() {
        let start = Instant::now();
        let interval = Duration::from_secs(30);
        for (after, want) in [
            (0, 30_000),
            (29_999, 30_000),
            (30_000, 60_000),
            (61_500, 90_000),
        ] {
            let now = start + Duration::from_millis(after);
            let next = start + Duration::from_millis(want);
            assert_eq!(next_multiple(start, now, interval), next, "{after}");
        }
    }

    #[test]
    fn the_soonest_deadline_wins_and_none_is_no_deadline() {
        let now = Instant::now();
        let mut earliest = EarliestDeadline::new();
        earliest.add(None, "never");
        assert!(earliest.get().is_none());
        earliest.add(Some(now + Duration::from_secs(2)), "late");
        earliest.add(Some(now + Duration::from_secs(1)), "early");
        earliest.add(Some(now + Duration::from_secs(1)), "second");
        assert_eq!(
            earliest.get(),
            Some((now + Duration::from_secs(1), "early"))
        );
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
        let mut rng = Rng::new(1);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let near = |got: Duration, want: Duration| got <= want && got >= want * 3 / 4;
        assert!(near(
            backoff.delay(start, &mut rng),
            Duration::from_millis(200)
        ));
        let after = |secs| start + Duration::from_secs(secs);
        assert!(near(
            backoff.delay(after(8), &mut rng),
            Duration::from_secs(2)
        ));
        assert!(near(
            backoff.delay(after(800), &mut rng),
            Duration::from_secs(5)
        ));
        backoff.reset();
        assert!(near(
            backoff.delay(after(900), &mut rng),
            Duration::from_millis(200)
        ));
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let run = |seed| {
            let mut rng = Rng::new(seed);
            [rng.next_u64(), rng.below(10), rng.below(0)]
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7)[0], run(8)[0]);
        assert_eq!(run(7)[2], 0);
    }
}
