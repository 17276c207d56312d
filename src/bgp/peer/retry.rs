//! When the next attempt is made: soon after a failure, slowly after a peer that said it does not want
//! us (the IdleHoldTimer of RFC 4271 §8.1.1 DampPeerOscillations).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::bgp::{Cease, Notification};
use crate::timer::{Backoff, Jitter};

#[derive(Debug)]
pub(super) struct Retry {
    backoff: Backoff,
    /// The last slow wait, before jitter.
    slow: Option<Duration>,
    last_attempt: Option<Instant>,
    /// What the log has heard of this outage.
    told: BTreeSet<String>,
    jitter: Jitter,
}

impl Retry {
    /// `limit` is the longest quick wait.
    pub(super) fn new(limit: Duration, jitter_seed: u64) -> Self {
        Self {
            backoff: Backoff::new(FIRST, limit.max(FIRST)),
            slow: None,
            last_attempt: None,
            told: BTreeSet::new(),
            jitter: Jitter::new(jitter_seed),
        }
    }

    /// The wait after a failure at `now`.
    pub(super) fn delay(&mut self, now: Instant) -> Duration {
        self.backoff.delay(now, &mut self.jitter)
    }

    /// The wait after the peer sent us away: twice the last such wait. After a session that was up the
    /// first one is shorter, because most daemons end with the same Cease when they are restarted.
    pub(super) fn slow_delay(&mut self, was_up: bool) -> Duration {
        let first = if was_up { SLOW_AFTER_UP } else { SLOW };
        let delay = self.slow.map_or(first, |last| (last * 2).min(SLOW_LIMIT));
        self.slow = Some(delay);
        self.jitter.shorten(delay)
    }

    /// An attempt is made.
    pub(super) fn attempted(&mut self, now: Instant) {
        self.last_attempt = Some(now);
    }

    /// When an attempt may be made that need not wait: at once, but two of them never follow each other
    /// without a pause, however many links come up.
    pub(super) fn soonest(&self, now: Instant) -> Instant {
        self.last_attempt.map_or(now, |last| now.max(last + FIRST))
    }

    /// Something came up that may end the outage.
    pub(super) fn changed(&mut self) {
        self.backoff.reset();
    }

    /// The operator starts anew.
    pub(super) fn forget(&mut self) {
        self.backoff.reset();
        self.slow = None;
        self.told.clear();
    }

    /// Whether the log has not heard this since the last session. A router that is away for a night
    /// fails in turns: no answer, no route to it, no answer.
    pub(super) fn is_news(&mut self, what: &str) -> bool {
        self.told.len() < TOLD && self.told.insert(what.to_owned())
    }

    /// There is a session.
    pub(super) fn is_up(&mut self) {
        self.told.clear();
    }

    /// A session lasted for `uptime`. A short one does not end an outage: a peer that drops us as soon
    /// as it has heard us is not to be asked five times a second.
    pub(super) fn was_up(&mut self, uptime: Duration) {
        if uptime >= STABLE {
            self.backoff.reset();
            self.slow = None;
        }
    }

    pub(super) fn jitter(&mut self) -> &mut Jitter {
        &mut self.jitter
    }
}

const FIRST: Duration = Duration::from_millis(200);
const SLOW_AFTER_UP: Duration = Duration::from_secs(10);
const SLOW: Duration = Duration::from_secs(30);
const SLOW_LIMIT: Duration = Duration::from_secs(120);
const STABLE: Duration = Duration::from_secs(10);
/// Causes of one outage that are told; a peer may find words for many.
const TOLD: usize = 16;

/// For a NOTIFICATION after which there is no hurry, what has most likely happened.
pub(super) fn likely_cause(notification: &Notification) -> Option<&'static str> {
    Some(match notification.as_cease()? {
        Cease::MaximumPrefixes => {
            "it takes fewer prefixes than we announce: raise its prefix limit for this neighbor"
        }
        Cease::AdministrativeShutdown => {
            "its operator shut this neighbor down, or its BGP daemon is stopping"
        }
        Cease::PeerDeconfigured => {
            "this neighbor was taken out of its configuration, or its BGP daemon is stopping"
        }
        Cease::AdministrativeReset => "its operator reset this neighbor",
        Cease::ConnectionRejected => {
            "it does not know us as a neighbor (compare our address and AS with its configuration), or \
             another BGP speaker on this address has the session it allows"
        }
        Cease::CollisionResolution => {
            "it has a session with this address already: another BGP speaker runs on this host, or \
             one has gone without closing its session"
        }
        Cease::OutOfResources => "it is out of resources",
        Cease::OtherConfigurationChange | Cease::HardReset | Cease::BfdDown => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cease_that_is_retried_slowly_has_its_likely_cause() {
        let cause = |subcode| likely_cause(&Notification::new(6, subcode, Vec::new()));
        let slow: Vec<u8> = (0..=12)
            .filter(|subcode| cause(*subcode).is_some())
            .collect();
        assert_eq!(slow, [1, 2, 3, 4, 5, 7, 8]);
        assert!(cause(5).unwrap().contains("another BGP speaker"));
        assert!(cause(7).unwrap().contains("another BGP speaker"));
        assert_eq!(likely_cause(&Notification::new(2, 2, Vec::new())), None);
        // RFC 8538 §3: a hard reset says inside what it is about.
        let hard = likely_cause(&Notification::new(6, 9, vec![6, 2]));
        assert_eq!(hard, cause(2));
    }

    #[test]
    fn a_cause_is_news_once_in_an_outage() {
        let mut retry = Retry::new(Duration::from_secs(5), 1);
        let turns = ["no answer", "no route", "no answer", "no route"];
        assert_eq!(
            turns.map(|what| retry.is_news(what)),
            [true, true, false, false]
        );
        retry.is_up();
        assert!(retry.is_news("no route"));
        let told = (0..100).filter(|n| retry.is_news(&n.to_string())).count();
        assert!(told < TOLD);
    }

    #[test]
    fn only_a_session_that_lasted_ends_an_outage() {
        let now = Instant::now();
        let mut retry = Retry::new(Duration::from_secs(5), 1);
        retry.slow_delay(false);
        retry.was_up(Duration::from_secs(9));
        assert!(retry.slow_delay(false) > Duration::from_secs(40));
        retry.was_up(Duration::from_secs(11));
        assert!(retry.slow_delay(true) <= Duration::from_secs(10));
        assert!(retry.delay(now) <= Duration::from_millis(200));
        assert!(retry.delay(now + Duration::from_secs(60)) > Duration::from_secs(3));
    }
}
