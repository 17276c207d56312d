//! When the next attempt is made, on two schedules: for a peer that does not answer TCP or refuses it,
//! soon, then in a quarter of the outage so far; for one that accepts connections and ends them, ever
//! more slowly (the IdleHoldTimer of RFC 4271 §8.1.1 DampPeerOscillations).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::bgp::{Cease, Notification};
use crate::timer::{Backoff, Jitter};

#[derive(Debug)]
pub(super) struct Retry {
    backoff: Backoff,
    damping: Damping,
    /// When a session ended that the peer did not end in a hurry, and it has not refused us since.
    session_ended: Option<Instant>,
    last_attempt: Option<Instant>,
    /// What the log has heard of this outage.
    told: BTreeSet<String>,
    jitter: Jitter,
}

/// Of a peer that accepts connections and ends them.
#[derive(Debug)]
struct Damping {
    /// Of [`STEPS`], the next.
    step: usize,
    /// A session that the peer ends earlier counts as refused: two speakers behind one address evict
    /// each other for ever.
    bound: Duration,
    /// The wait that runs is one of [`STEPS`].
    waits: bool,
}

impl Damping {
    const NONE: Self = Self {
        step: 0,
        bound: SHORTEST,
        waits: false,
    };
}

/// Who ended a session or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Us,
    Peer,
}

impl Retry {
    /// `limit` is the longest wait for a peer that does not answer.
    pub(super) fn new(limit: Duration, jitter_seed: u64) -> Self {
        Self {
            backoff: Backoff::new(FIRST, limit.max(FIRST)),
            damping: Damping::NONE,
            session_ended: None,
            last_attempt: None,
            told: BTreeSet::new(),
            jitter: Jitter::new(jitter_seed),
        }
    }

    /// The wait after TCP was refused.
    pub(super) fn after_refusal(&mut self, now: Instant) -> Duration {
        self.damping.waits = false;
        self.backoff.delay(now, &mut self.jitter)
    }

    /// The wait after a connection ended that never became a session.
    pub(super) fn after_connection(&mut self) -> Duration {
        if self.is_aftermath() {
            self.damping.step = 0;
        }
        self.session_ended = None;
        self.damp()
    }

    /// The wait after a session that lasted for `uptime`.
    pub(super) fn after_session(&mut self, now: Instant, uptime: Duration, by: By) -> Duration {
        self.session_ended = Some(now);
        if uptime >= ANSWERED {
            self.backoff.reset();
        }
        if uptime >= self.damping.bound {
            self.path_changed();
            self.told.clear();
        } else if by == By::Peer {
            self.session_ended = None;
            self.damping.bound = (self.damping.bound * 2).min(LONGEST);
            return self.damp();
        }
        self.after_refusal(now)
    }

    /// A session had just ended when we last tried, and the peer may not have finished with it when it
    /// took that connection: a daemon that hangs finds both at once.
    pub(super) fn is_aftermath(&self) -> bool {
        let ended = self.session_ended.zip(self.last_attempt);
        ended.is_some_and(|(ended, attempt)| attempt < ended + AFTERMATH)
    }

    /// The peer has ended two sessions in a row before their time.
    pub(super) fn is_evicted(&self) -> bool {
        self.damping.bound >= SHORTEST * 4
    }

    fn damp(&mut self) -> Duration {
        let wait = STEPS.get(self.damping.step).copied();
        self.damping.step += usize::from(self.damping.step + 1 < STEPS.len());
        self.damping.waits = true;
        self.jitter.shorten(wait.unwrap_or(FIRST))
    }

    /// Whether it is not for the network to end the wait that runs.
    pub(super) fn is_damped(&self) -> bool {
        self.damping.waits
    }

    /// An attempt is made.
    pub(super) fn attempted(&mut self, now: Instant) {
        self.last_attempt = Some(now);
        self.damping.waits = false;
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

    /// The way to the peer is another: it may not be the same peer.
    pub(super) fn path_changed(&mut self) {
        self.backoff.reset();
        self.damping = Damping::NONE;
    }

    /// The operator starts anew.
    pub(super) fn forget(&mut self) {
        self.path_changed();
        self.session_ended = None;
        self.told.clear();
    }

    /// Whether the log has not heard this since the last session that lasted. A router that is away for
    /// a night fails in turns: no answer, no route to it, no answer.
    pub(super) fn is_news(&mut self, what: &str) -> bool {
        self.told.len() < TOLD && self.told.insert(what.to_owned())
    }

    pub(super) fn jitter(&mut self) -> &mut Jitter {
        &mut self.jitter
    }
}

const FIRST: Duration = Duration::from_millis(200);
/// The waits of a peer that accepts connections and ends them; the last one repeats.
const STEPS: [Duration; 7] = [
    FIRST,
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(40),
    Duration::from_secs(60),
];
/// A session of the shortest hold time (RFC 4271 §4.2) ends an outage of TCP, whoever ends the session.
const ANSWERED: Duration = Duration::from_secs(3);
/// How long a session must last at first, and at most, for the peer not to count as one that ends them.
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(120);
/// How long a peer may take to see the end of a session that we have seen.
const AFTERMATH: Duration = Duration::from_secs(10);
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

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// What a wait is before its jitter, in milliseconds.
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
        assert!(cause(5).unwrap().contains("another BGP speaker"));
        assert!(cause(7).unwrap().contains("another BGP speaker"));
        assert_eq!(likely_cause(&Notification::new(2, 2, Vec::new())), None);
        // RFC 8538 §3: a hard reset says inside what it is about.
        let hard = likely_cause(&Notification::new(6, 9, vec![6, 2]));
        assert_eq!(hard, cause(2));
    }

    #[test]
    fn a_cause_is_news_once_in_an_outage() {
        let mut retry = Retry::new(secs(5), 1);
        let turns = ["no answer", "no route", "no answer", "no route"];
        assert_eq!(
            turns.map(|what| retry.is_news(what)),
            [true, true, false, false]
        );
        retry.after_session(Instant::now(), secs(3), By::Peer);
        assert!(!retry.is_news("no route"), "that was none");
        retry.after_session(Instant::now(), secs(60), By::Peer);
        assert!(retry.is_news("no route"));
        let told = (0..100).filter(|n| retry.is_news(&n.to_string())).count();
        assert!(told < TOLD);
    }

    #[test]
    fn who_does_not_answer_is_asked_in_a_quarter_of_the_outage() {
        let start = Instant::now();
        let mut retry = Retry::new(secs(5), 1);
        for (at, millis) in [(0, 200), (8, 2000), (800, 5000), (801, 5000)] {
            near(retry.after_refusal(start + secs(at)), millis);
            assert!(!retry.is_damped());
        }
        retry.changed();
        near(retry.after_refusal(start + secs(900)), 200);
    }

    #[test]
    fn who_accepts_connections_and_ends_them_is_asked_ever_more_slowly() {
        let mut retry = Retry::new(secs(5), 1);
        for millis in [200, 1000, 5000, 10_000, 20_000, 40_000, 60_000, 60_000] {
            near(retry.after_connection(), millis);
            assert!(retry.is_damped());
        }
        retry.changed();
        near(retry.after_connection(), 60_000);
        retry.path_changed();
        near(retry.after_connection(), 200);
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
            near(retry.after_session(now, secs(uptime), By::Peer), millis);
        }
        near(retry.after_session(now, secs(119), By::Peer), 40_000);
        near(retry.after_session(now, secs(120), By::Peer), 200);
        near(retry.after_session(now, secs(9), By::Peer), 200);
    }

    #[test]
    fn what_we_end_ourselves_is_no_refusal() {
        let now = Instant::now();
        let mut retry = Retry::new(secs(5), 1);
        near(retry.after_session(now, secs(1), By::Us), 200);
        near(retry.after_session(now + secs(4), secs(1), By::Us), 1000);
        assert!(!retry.is_damped());
    }

    #[test]
    fn the_first_refusal_after_a_session_is_the_first_step() {
        let now = Instant::now();
        let mut retry = Retry::new(secs(5), 1);
        near(retry.after_session(now, secs(1), By::Us), 200);
        retry.attempted(now + secs(9));
        assert!(retry.is_aftermath());
        near(retry.after_connection(), 200);
        assert!(!retry.is_aftermath());
        near(retry.after_connection(), 1000);
        near(retry.after_session(now, secs(9), By::Us), 200);
        retry.attempted(now + secs(11));
        assert!(!retry.is_aftermath());
        near(retry.after_connection(), 5000);
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
                    at += uptime + retry.after_session(Instant::now(), uptime, By::Peer);
                }
                assert!(minutes[0] <= 7, "seed {seed}: {minutes:?}");
                assert!(minutes[1..].iter().all(|n| *n <= 2), "{seed}: {minutes:?}");
            }
        }
    }
}
