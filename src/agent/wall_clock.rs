//! The time of day at a moment of the monotonic clock.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

/// One reading of both clocks. Times of day are computed from it, so that an `Instant` always has the same time of
/// day. If both clocks were read for each answer, the time between the two reads would show in the result.
pub struct WallClock {
    read: Cell<(Instant, SystemTime)>,
}

impl WallClock {
    /// `now` and `wall` are read at the same time.
    pub fn new(now: Instant, wall: SystemTime) -> Self {
        Self {
            read: Cell::new((now, wall)),
        }
    }

    /// The time of day at `now`. `wall`, the system's clock, is used only if it differs by a second or more: the clock
    /// was set, or the host was suspended.
    pub fn at(&self, now: Instant, wall: SystemTime) -> SystemTime {
        let (then, time) = self.read.get();
        let expected = time + now.saturating_duration_since(then);
        let ahead = wall.duration_since(expected);
        let off = ahead.unwrap_or_else(|behind| behind.duration());
        if off < STEP {
            return expected;
        }
        self.read.set((now, wall));
        wall
    }
}

/// A difference from which the clock was set, or the host was suspended. Otherwise both clocks run at the same rate
/// (adjtimex(2)).
const STEP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_moment_has_one_time_of_day_until_the_clock_is_set() {
        let (start, wall) = (Instant::now(), SystemTime::UNIX_EPOCH + HOUR);
        let clock = WallClock::new(start, wall);
        let began = start + millis(500);
        let since = |late: Duration, now: Instant| {
            let shown = wall + now.duration_since(start) + late;
            clock.at(now, shown) - now.duration_since(began)
        };
        for late in [0, 1, 7, 300] {
            let now = began + millis(1000 + late);
            assert_eq!(since(millis(late), now), wall + millis(500));
        }
        let now = began + millis(5000);
        assert_eq!(since(HOUR, now), wall + HOUR + millis(500), "it was set");
        let now = began + millis(9000);
        assert_eq!(since(HOUR + millis(3), now), wall + HOUR + millis(500));
        assert_eq!(since(millis(0), now), wall + millis(500), "and set back");
    }
}
