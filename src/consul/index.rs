//! Blocking queries: the index to wait on, and the rate limit.
//!
//! Consul's documentation of blocking queries requires of clients: reset the index when it goes backwards,
//! never use an index below 1, and limit the rate.

use std::time::Duration;

/// The index of a blocking query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Index(u64);

impl Index {
    /// The `index` parameter; `None`: the query returns at once.
    pub fn get(self) -> Option<u64> {
        (self.0 > 0).then_some(self.0)
    }

    /// Takes the header of an answer. An index that went backwards (the servers were restored from a
    /// snapshot, or another one answers) starts over; one that is missing, 0 or no number counts as 1.
    pub fn take(&mut self, header: Option<&str>) {
        let new = header
            .and_then(|text| text.parse().ok())
            .unwrap_or(1)
            .max(1);
        *self = if new < self.0 {
            Self::default()
        } else {
            Self(new)
        };
    }

    /// Starts over.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Rate limit for blocking queries that return at once. The delay is short after a change, and doubles with
/// every response without one, which a busy cluster sends often.
#[derive(Clone, Copy, Debug)]
pub struct QueryRateLimit {
    gap: Duration,
}

impl Default for QueryRateLimit {
    fn default() -> Self {
        Self { gap: SHORTEST }
    }
}

impl QueryRateLimit {
    /// How long to wait before the next query. `took`: the time that the last one took; `news`: it had a change.
    pub fn delay(&mut self, took: Duration, news: bool) -> Duration {
        self.gap = if news || took > LONGEST {
            SHORTEST
        } else {
            (self.gap * 2).min(LONGEST)
        };
        self.gap.saturating_sub(took)
    }
}

const SHORTEST: Duration = Duration::from_millis(50);
/// Changes must take effect within a second.
const LONGEST: Duration = Duration::from_millis(800);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_goes_forward_and_starts_over_when_it_goes_backwards() {
        let mut index = Index::default();
        assert_eq!(index.get(), None);
        index.take(Some("12"));
        assert_eq!(index.get(), Some(12));
        index.take(Some("12"));
        assert_eq!(index.get(), Some(12));
        index.take(Some("11"));
        assert_eq!(index.get(), None);
        index.take(Some("11"));
        assert_eq!(index.get(), Some(11));
        index.reset();
        assert_eq!(index.get(), None);
    }

    #[test]
    fn an_index_that_is_none_counts_as_one() {
        for header in [
            None,
            Some(""),
            Some("0"),
            Some("-1"),
            Some("x"),
            Some("99999999999999999999"),
        ] {
            let mut index = Index::default();
            index.take(header);
            assert_eq!(index.get(), Some(1), "{header:?}");
        }
    }

    #[test]
    fn answers_without_news_are_asked_for_further_apart() {
        let mut pace = QueryRateLimit::default();
        let ms = Duration::from_millis;
        assert_eq!(pace.delay(ms(1), true), ms(49));
        assert_eq!(pace.delay(ms(0), false), ms(100));
        assert_eq!(pace.delay(ms(0), false), ms(200));
        let slow: Vec<_> = (0..5).map(|_| pace.delay(ms(0), false)).collect();
        assert_eq!(slow.last(), Some(&LONGEST));
        assert_eq!(pace.delay(ms(0), true), ms(50));
        assert_eq!(pace.delay(Duration::from_secs(30), false), ms(0));
    }
}
