//! Damping limits coming back, never going away: the first announcements after a withdraw are
//! instant, then each waits twice as long as the one before.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::app::Damping;

/// How often an app came back of late.
#[derive(Clone, Debug, Default)]
pub(super) struct Flaps {
    /// Announcements after a withdraw, oldest first, inside the window.
    returns: VecDeque<Instant>,
    /// How often it was held since it last was calm, and when it last was not.
    held: u32,
    troubled_at: Option<Instant>,
}

impl Flaps {
    /// The app is healthy again at `now`: how long it has to wait before it is announced.
    pub fn hold(&mut self, now: Instant, damping: &Damping) -> Option<Duration> {
        self.forget(now, damping);
        let calm = |at| now.saturating_duration_since(at) >= damping.flap_window;
        if self.troubled_at.is_none_or(calm) {
            self.held = 0;
        }
        let limit = usize::try_from(damping.flap_limit).unwrap_or(usize::MAX);
        if self.held == 0 && self.returns.len() < limit {
            return None;
        }
        self.troubled_at = Some(now);
        let doubled = 2u32
            .checked_pow(self.held)
            .and_then(|factor| damping.hold_down.checked_mul(factor))
            .unwrap_or(Damping::LONGEST);
        self.held = self.held.saturating_add(1);
        Some(doubled.min(Damping::LONGEST.max(damping.hold_down)))
    }

    /// The app was announced again.
    pub fn returned(&mut self, now: Instant, damping: &Damping) {
        self.forget(now, damping);
        self.returns.push_back(now);
    }

    pub fn count(&self) -> usize {
        self.returns.len()
    }

    fn forget(&mut self, now: Instant, damping: &Damping) {
        let old = |at: &Instant| now.saturating_duration_since(*at) >= damping.flap_window;
        while self.returns.front().is_some_and(old) {
            self.returns.pop_front();
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
        let mut flaps = Flaps::default();
        for second in 0..5 {
            let now = start + Duration::from_secs(second);
            assert_eq!(flaps.hold(now, &damping), None, "return {second}");
            flaps.returned(now, &damping);
        }
        let now = start + Duration::from_secs(6);
        let holds: Vec<u64> = (0..8)
            .map(|_| flaps.hold(now, &damping).unwrap().as_secs())
            .collect();
        assert_eq!(holds, [1, 2, 4, 8, 16, 32, 60, 60]);
        let calm = start + Duration::from_secs(90);
        assert_eq!(flaps.hold(calm, &damping), None);
        flaps.returned(calm, &damping);
        assert_eq!(flaps.count(), 1);
    }
}
