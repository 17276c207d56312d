//! The time of the next connection attempt, on two schedules: backoff for a peer that does not answer or
//! refuses TCP (a quarter of the outage so far), and damping in growing steps for one that accepts connections
//! and closes them (DampPeerOscillations of RFC 4271 §8.1.1).

use std::time::{Duration, Instant};

use super::notice::{EndedBy, LikelyCause};
use crate::bgp::{Cease, Notification};
use crate::timer::{Backoff, Rng};

#[derive(Debug)]
pub(super) struct Retry {
    backoff: Backoff,
    damping: Damping,
    /// End of the last session, unless the peer ended it early or has refused a connection since.
    session_ended: Option<Instant>,
    last_attempt: Option<Instant>,
    rng: Rng,
}

/// Damping of a peer that accepts connections and closes them.
#[derive(Debug)]
struct Damping {
    /// The next one of [`DAMPING_STEPS`].
    step: usize,
    /// A session that the peer ends before this uptime counts as a refused connection: two speakers with one
    /// address would end each other's session forever.
    stable_uptime: Duration,
    /// The running wait is one of [`DAMPING_STEPS`].
    is_waiting: bool,
}

impl Damping {
    const NONE: Self = Self {
        step: 0,
        stable_uptime: MIN_STABLE_UPTIME,
        is_waiting: false,
    };
}

impl Retry {
    /// `limit` is the longest wait for a peer that does not answer.
    pub(super) fn new(limit: Duration, rng_seed: u64) -> Self {
        Self {
            backoff: Backoff::new(MIN_DELAY, limit.max(MIN_DELAY)),
            damping: Damping::NONE,
            session_ended: None,
            last_attempt: None,
            rng: Rng::new(rng_seed),
        }
    }

    /// The wait after a failed connection attempt.
    pub(super) fn after_connect_failure(&mut self, now: Instant) -> Duration {
        self.damping.is_waiting = false;
        self.backoff.delay(now, &mut self.rng)
    }

    /// The wait after a connection that ended before Established.
    pub(super) fn after_failed_connection(&mut self) -> Duration {
        if self.peer_may_hold_old_session() {
            self.damping.step = 0;
        }
        self.session_ended = None;
        self.damp()
    }

    /// The wait after a session that lasted for `uptime`.
    pub(super) fn after_session(
        &mut self,
        now: Instant,
        uptime: Duration,
        by: EndedBy,
    ) -> Duration {
        self.session_ended = Some(now);
        if uptime >= BACKOFF_RESET_UPTIME {
            self.backoff.reset();
        }
        if self.is_stable(uptime) {
            self.path_changed();
        } else if by == EndedBy::Peer {
            self.session_ended = None;
            self.damping.stable_uptime = (self.damping.stable_uptime * 2).min(MAX_STABLE_UPTIME);
            return self.damp();
        }
        self.after_connect_failure(now)
    }

    /// Whether a session of this uptime counts as one that lasted.
    pub(super) fn is_stable(&self, uptime: Duration) -> bool {
        uptime >= self.damping.stable_uptime
    }

    /// Whether the last attempt followed the end of a session so closely that the peer may not have noticed
    /// that end yet, for example because its daemon was stopped for a while.
    pub(super) fn peer_may_hold_old_session(&self) -> bool {
        let ended = self.session_ended.zip(self.last_attempt);
        ended.is_some_and(|(ended, attempt)| attempt < ended + OLD_SESSION_TIME)
    }

    /// Whether the peer has ended two sessions in a row early.
    pub(super) fn is_evicted_repeatedly(&self) -> bool {
        self.damping.stable_uptime >= MIN_STABLE_UPTIME * 4
    }

    fn damp(&mut self) -> Duration {
        let wait = DAMPING_STEPS.get(self.damping.step).copied();
        self.damping.step += usize::from(self.damping.step + 1 < DAMPING_STEPS.len());
        self.damping.is_waiting = true;
        self.rng.jittered(wait.unwrap_or(MIN_DELAY))
    }

    /// Whether a damping wait runs, which a change of the network does not end.
    pub(super) fn is_damped(&self) -> bool {
        self.damping.is_waiting
    }

    /// Notes that an attempt starts.
    pub(super) fn attempted(&mut self, now: Instant) {
        self.last_attempt = Some(now);
        self.damping.is_waiting = false;
    }

    /// The earliest time of an immediate attempt: now, but at least [`MIN_DELAY`] after the last one.
    pub(super) fn earliest(&self, now: Instant) -> Instant {
        self.last_attempt
            .map_or(now, |last| now.max(last + MIN_DELAY))
    }

    /// Restarts the backoff: the network changed.
    pub(super) fn reset_backoff(&mut self) {
        self.backoff.reset();
    }

    /// Restarts backoff and damping: the path changed, and the peer may be another router.
    pub(super) fn path_changed(&mut self) {
        self.backoff.reset();
        self.damping = Damping::NONE;
    }

    /// Returns to the initial state: the operator started the peer.
    pub(super) fn reset(&mut self) {
        self.path_changed();
        self.session_ended = None;
    }

    pub(super) fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }
}

const MIN_DELAY: Duration = Duration::from_millis(200);
/// Damping waits; the last one repeats.
const DAMPING_STEPS: [Duration; 7] = [
    MIN_DELAY,
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(40),
    Duration::from_secs(60),
];
/// A session of this uptime, the shortest hold time (RFC 4271 §4.2), resets the backoff.
const BACKOFF_RESET_UPTIME: Duration = Duration::from_secs(3);
/// The uptime from which the end of a session is no refusal: initial value and limit.
const MIN_STABLE_UPTIME: Duration = Duration::from_secs(10);
const MAX_STABLE_UPTIME: Duration = Duration::from_secs(120);
/// How long a peer may take to notice the end of a session.
const OLD_SESSION_TIME: Duration = Duration::from_secs(10);

/// The likely cause of a NOTIFICATION after which the peer is retried slowly; `None` for all others.
pub(super) fn likely_cause(notification: &Notification) -> Option<LikelyCause> {
    Some(match notification.as_cease()? {
        Cease::MaximumPrefixes => LikelyCause::PrefixLimit,
        Cease::AdministrativeShutdown => LikelyCause::PeerShutDown,
        Cease::PeerDeconfigured => LikelyCause::PeerDeconfigured,
        Cease::AdministrativeReset => LikelyCause::PeerReset,
        Cease::ConnectionRejected => LikelyCause::ConnectionRejected,
        Cease::CollisionResolution => LikelyCause::SessionExists,
        Cease::OutOfResources => LikelyCause::OutOfResources,
        Cease::OtherConfigurationChange | Cease::HardReset | Cease::BfdDown => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A wait before jitter is applied, in milliseconds.
    #[track_caller]
    fn near(wait: Duration, millis: u64) {
        let full = Duration::from_millis(millis);
        assert!(wait <= full && wait >= full * 3 / 4, "{wait:?}, {full:?}");
    }

    #[test]
    fn every_cease_that_means_us_has_its_likely_cause() {
        let cause = |subcode| likely_cause(&Notification::new(6, subcode, Vec::new()));
        let with: Vec<u8> = (0..=12)
            .filter(|subcode| cause(*subcode).is_some())
            .collect();
        assert_eq!(with, [1, 2, 3, 4, 5, 7, 8]);
        assert!(
            cause(5)
                .unwrap()
                .to_string()
                .contains("another BGP speaker")
        );
        assert!(
            cause(7)
                .unwrap()
                .to_string()
                .contains("another BGP speaker")
        );
        assert_eq!(likely_cause(&Notification::new(2, 2, Vec::new())), None);
        // RFC 8538 §3: a Hard Reset contains the NOTIFICATION with the cause.
        let hard = likely_cause(&Notification::new(6, 9, vec![6, 2]));
        assert_eq!(hard, cause(2));
    }

    #[test]
    fn who_does_not_answer_is_asked_in_a_quarter_of_the_outage() {
        let start = Instant::now();
        let mut retry = Retry::new(secs(5), 1);
        for (at, millis) in [(0, 200), (8, 2000), (800, 5000), (801, 5000)] {
            near(retry.after_connect_failure(start + secs(at)), millis);
            assert!(!retry.is_damped());
        }
        retry.reset_backoff();
        near(retry.after_connect_failure(start + secs(900)), 200);
    }

    #[test]
    fn who_accepts_connections_and_ends_them_is_asked_ever_more_slowly() {
        let mut retry = Retry::new(secs(5), 1);
        for millis in [200, 1000, 5000, 10_000, 20_000, 40_000, 60_000, 60_000] {
            near(retry.after_failed_connection(), millis);
            assert!(retry.is_damped());
        }
        retry.reset_backoff();
        near(retry.after_failed_connection(), 60_000);
        retry.path_changed();
        near(retry.after_failed_connection(), 200);
    }

    #[test]
    fn a_session_counts_once_it_outlives_a_bound_that_doubles() {
        let now = Instant::now();
        let mut retry = Retry::new(secs(5), 1);
        for (uptime, millis) in [
            (9, 200),
            (19, 1000),
            (39, 5000),
            (79, 10_000),
            (119, 20_000),
        ] {
            near(
                retry.after_session(now, secs(uptime), EndedBy::Peer),
                millis,
            );
        }
        near(retry.after_session(now, secs(119), EndedBy::Peer), 40_000);
        near(retry.after_session(now, secs(120), EndedBy::Peer), 200);
        near(retry.after_session(now, secs(9), EndedBy::Peer), 200);
    }

    #[test]
    fn what_we_end_ourselves_is_no_refusal() {
        let now = Instant::now();
        let mut retry = Retry::new(secs(5), 1);
        near(retry.after_session(now, secs(1), EndedBy::Local), 200);
        near(
            retry.after_session(now + secs(4), secs(1), EndedBy::Local),
            1000,
        );
        assert!(!retry.is_damped());
    }

    #[test]
    fn the_first_refusal_after_a_session_is_the_first_step() {
        let now = Instant::now();
        let mut retry = Retry::new(secs(5), 1);
        near(retry.after_session(now, secs(1), EndedBy::Local), 200);
        retry.attempted(now + secs(9));
        assert!(retry.peer_may_hold_old_session());
        near(retry.after_failed_connection(), 200);
        assert!(!retry.peer_may_hold_old_session());
        near(retry.after_failed_connection(), 1000);
        near(retry.after_session(now, secs(9), EndedBy::Local), 200);
        retry.attempted(now + secs(11));
        assert!(!retry.peer_may_hold_old_session());
        near(retry.after_failed_connection(), 5000);
    }

    #[test]
    fn connections_a_minute_are_bounded_while_the_peer_ends_them() {
        for seed in 0..50 {
            for lasts in [0, 100, 4900, 9900] {
                let mut retry = Retry::new(secs(5), seed);
                let mut at = Duration::ZERO;
                let mut minutes = [0; 10];
                while let Some(minute) = minutes.get_mut((at.as_secs() / 60) as usize) {
                    *minute += 1;
                    let uptime = Duration::from_millis(lasts);
                    at += uptime + retry.after_session(Instant::now(), uptime, EndedBy::Peer);
                }
                assert!(minutes[0] <= 7, "seed {seed}: {minutes:?}");
                assert!(minutes[1..].iter().all(|n| *n <= 2), "{seed}: {minutes:?}");
            }
        }
    }
}
