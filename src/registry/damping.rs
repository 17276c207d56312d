//! Flap damping delays announcements, never withdraws: the first announcements after a withdraw are
//! instant, then each waits twice as long as the one before.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::app::Damping;

/// The recent flaps of an app.
#[derive(Clone, Debug, Default)]
pub(super) struct FlapHistory {
    /// Announcements after a withdraw, oldest first, inside the window.
    flaps: VecDeque<Instant>,
    /// Consecutive hold-downs, and the time of the last.
    hold_count: u32,
    last_held_at: Option<Instant>,
}

impl FlapHistory {
    /// The app is healthy again at `now`: how long it has to wait before it is announced.
    pub fn hold_down(&mut self, now: Instant, damping: &Damping) -> Option<Duration> {
        self.expire(now, damping);
        let is_quiet = |at| now.saturating_duration_since(at) >= damping.flap_window;
        if self.last_held_at.is_none_or(is_quiet) {
            self.hold_count = 0;
        }
        let limit = usize::try_from(damping.flap_limit).unwrap_or(usize::MAX);
        if self.hold_count == 0 && self.flaps.len() < limit {
            return None;
        }
        self.last_held_at = Some(now);
        let doubled = 2u32
            .checked_pow(self.hold_count)
            .and_then(|factor| damping.hold_down.checked_mul(factor))
            .unwrap_or(Damping::LONGEST);
        self.hold_count = self.hold_count.saturating_add(1);
        Some(doubled.min(Damping::LONGEST.max(damping.hold_down)))
    }

    /// The app was announced again.
    pub fn record_flap(&mut self, now: Instant, damping: &Damping) {
        self.expire(now, damping);
        self.flaps.push_back(now);
    }

    /// Flaps within the window, when it was last updated.
    pub fn count(&self) -> usize {
        self.flaps.len()
    }

    fn expire(&mut self, now: Instant, damping: &Damping) {
        let old = |at: &Instant| now.saturating_duration_since(*at) >= damping.flap_window;
        while self.flaps.front().is_some_and(old) {
            self.flaps.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_returns_are_instant_then_the_hold_doubles_to_a_minute() {
        let damping = Damping {
            hold_down: Duration::from_secs(1),
            flap_limit: 5,
            flap_window: Duration::from_secs(60),
        };
        let start = Instant::now();
        let mut flaps = FlapHistory::default();
        for second in 0..5 {
            let now = start + Duration::from_secs(second);
            assert_eq!(flaps.hold_down(now, &damping), None, "return {second}");
            flaps.record_flap(now, &damping);
        }
        let now = start + Duration::from_secs(6);
        let holds: Vec<u64> = (0..8)
            .map(|_| flaps.hold_down(now, &damping).unwrap().as_secs())
            .collect();
        assert_eq!(holds, [1, 2, 4, 8, 16, 32, 60, 60]);
        let is_quiet = start + Duration::from_secs(90);
        assert_eq!(flaps.hold_down(is_quiet, &damping), None);
        flaps.record_flap(is_quiet, &damping);
        assert_eq!(flaps.count(), 1);
    }
}
