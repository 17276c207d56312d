//! The administrative state of one app: it runs, drains, is in maintenance, or leaves because the
//! process stops. A drain is over when the peers have acknowledged the withdraw and no packet comes any more, or
//! `drain_time` has passed. Peers that do not acknowledge in time are asked again; until they do only `drain_time`
//! ends it.
//!
//! ```text
//!              drain  exit  undrain             maintenance  no maintenance  ack requested  acknowledged  quiet  deadline
//! Run          Drain  Exit  -                   Maintenance  -               -              -             -      -
//! Maintenance  Drain  Exit  -                   -            Run             -              -             -      -
//! Drain        -      -     Run or Maintenance  (kept for after the drain)   AckRequested   Acknowledged  Done   Done
//! Exit         -      -     -                   (kept for after the drain)   AckRequested   Acknowledged  Done   Done
//! ```

use std::time::{Duration, Instant};

use super::DrainSteps;
use crate::app::DrainWait;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    Run,
    /// The maintenance file exists.
    Maintenance,
    /// Drained by name, or with all others.
    Drain(Box<Drain>),
    /// The process is about to end.
    Exit(Box<Drain>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Drain {
    progress: Progress,
    /// The maintenance file exists too.
    maintenance: bool,
    began: Instant,
    /// The longest wait.
    until: Instant,
    /// From then on the wait ends when traffic has ended; `None`: it ends at `until` only.
    quiet_from: Option<Instant>,
    /// No packet came, as of the last look at the traffic.
    is_quiet: bool,
    steps: DrainSteps,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// The routes are withdrawn; the peers' acknowledgment is still to be requested.
    Withdrawn,
    AckRequested,
    /// The peers have not acknowledged in time; they are asked again.
    Unacknowledged,
    /// The peers have the withdraw; clients are still served.
    Acknowledged,
    Done,
}

/// How the wait for the peers' acknowledgment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckResult {
    /// Their TCP has acknowledged what was sent before the request.
    Acknowledged,
    /// There is no session whose peer could acknowledge.
    NoSession,
    TimedOut,
}

/// How long a drain waits where routes are out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub longest: Duration,
    pub until: DrainWait,
}

/// What was seen of an app's traffic at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrafficSeen {
    pub at: Instant,
    pub last_packet: Option<Instant>,
    /// Whether a router still forwards to this host; `None`: unknown.
    pub path_returns: Option<bool>,
    /// Since when none does; known only once later probes are lost.
    pub path_ended: Option<Instant>,
}

impl Intent {
    /// Begins a drain, or one because the process ends; one that has begun goes on. `wait`: for how
    /// long clients are still served where routes are out; `None` without peers.
    pub fn drain(&mut self, now: Instant, leaving: bool, wait: Option<Wait>) {
        if self.is_draining() {
            return;
        }
        let longest = wait.map(|wait| wait.longest).unwrap_or_default();
        let by_traffic = wait.is_some_and(|wait| wait.until == DrainWait::Traffic);
        let drain = Box::new(Drain {
            progress: match wait {
                Some(_) => Progress::Withdrawn,
                None => Progress::Acknowledged,
            },
            maintenance: *self == Self::Maintenance,
            began: now,
            until: now + longest,
            quiet_from: (by_traffic && !longest.is_zero())
                .then(|| now + longest.min(MIN_TRAFFIC_DRAIN)),
            is_quiet: false,
            steps: DrainSteps::default(),
        });
        *self = if leaving {
            Self::Exit(drain)
        } else {
            Self::Drain(drain)
        };
    }

    /// Ends a drain; the process ends all the same.
    pub fn undrain(&mut self) {
        if let Self::Drain(drain) = self {
            *self = if drain.maintenance {
                Self::Maintenance
            } else {
                Self::Run
            };
        }
    }

    /// The maintenance file appeared or went.
    pub fn set_maintenance(&mut self, present: bool) {
        match self {
            Self::Drain(drain) | Self::Exit(drain) => drain.maintenance = present,
            Self::Run | Self::Maintenance if present => *self = Self::Maintenance,
            Self::Run | Self::Maintenance => *self = Self::Run,
        }
    }

    /// The peers' acknowledgment is requested; `false` if this drain does not wait for it.
    pub fn mark_ack_requested(&mut self) -> bool {
        let Some(drain) = self.drain_mut() else {
            return false;
        };
        if drain.progress == Progress::Withdrawn {
            drain.progress = Progress::AckRequested;
            return true;
        }
        drain.progress == Progress::Unacknowledged
    }

    /// Ends a wait for the peers. `false` if this drain has not requested it.
    pub fn acknowledged(&mut self, now: Instant, result: AckResult) -> bool {
        let Some(drain) = self.drain_mut() else {
            return false;
        };
        let requested = [Progress::AckRequested, Progress::Unacknowledged];
        if !requested.contains(&drain.progress) {
            return false;
        }
        drain.progress = match result {
            AckResult::Acknowledged | AckResult::NoSession => Progress::Acknowledged,
            AckResult::TimedOut => Progress::Unacknowledged,
        };
        if result == AckResult::Acknowledged {
            drain.steps.acknowledged = Some(drain.since_begun(now));
        }
        true
    }

    /// Records what was seen of the traffic. Returns whether it has ended; `false` if no drain waits for that.
    pub fn observe(&mut self, seen: TrafficSeen) -> bool {
        let drain = self.drain_mut().filter(|drain| drain.watches_traffic());
        drain.is_some_and(|drain| {
            drain.observe(seen);
            drain.is_quiet
        })
    }

    /// The traffic cannot be observed: the drain lasts until its deadline.
    pub fn observe_nothing(&mut self) {
        if let Some(drain) = self.drain_mut() {
            drain.is_quiet = false;
        }
    }

    /// Does what is due.
    pub fn reconcile(&mut self, now: Instant) {
        if let Some(drain) = self.drain_mut()
            && drain.is_over(now)
        {
            drain.progress = Progress::Done;
            drain.steps.done = Some(drain.since_begun(now));
        }
    }

    fn drain_mut(&mut self) -> Option<&mut Drain> {
        match self {
            Self::Drain(drain) | Self::Exit(drain) => Some(drain),
            Self::Run | Self::Maintenance => None,
        }
    }

    /// The drain that is under way or done.
    pub fn as_drain(&self) -> Option<&Drain> {
        match self {
            Self::Drain(drain) | Self::Exit(drain) => Some(drain),
            Self::Run | Self::Maintenance => None,
        }
    }

    /// A drain waits for the peers.
    pub fn is_unacknowledged(&self) -> bool {
        self.as_drain().is_some_and(|drain| {
            matches!(
                drain.progress,
                Progress::Withdrawn | Progress::AckRequested | Progress::Unacknowledged
            )
        })
    }

    /// A drain waits for the traffic to end.
    pub fn watches_traffic(&self) -> bool {
        self.as_drain().is_some_and(Drain::watches_traffic)
    }

    /// A drain is under way or done.
    pub fn is_draining(&self) -> bool {
        self.as_drain().is_some()
    }

    /// There is no drain that is still under way.
    pub fn no_drain_pending(&self) -> bool {
        self.as_drain().is_none_or(Drain::is_done)
    }

    /// The maintenance file exists.
    pub fn is_maintenance(&self) -> bool {
        match self {
            Self::Run => false,
            Self::Maintenance => true,
            Self::Drain(drain) | Self::Exit(drain) => drain.maintenance,
        }
    }

    /// When the drain is done at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let drain = self.as_drain()?;
        let timed = [Progress::Unacknowledged, Progress::Acknowledged];
        timed.contains(&drain.progress).then_some(drain.until)
    }
}

impl Drain {
    /// Whether the drain is over.
    pub fn is_done(&self) -> bool {
        self.progress == Progress::Done
    }

    /// Nothing is to be waited for any more.
    fn is_over(&self, now: Instant) -> bool {
        match self.progress {
            Progress::Acknowledged => self.is_quiet || self.until <= now,
            // The routers may still forward.
            Progress::Unacknowledged => self.until <= now,
            Progress::Withdrawn | Progress::AckRequested | Progress::Done => false,
        }
    }

    /// Its steps so far.
    pub fn steps(&self) -> DrainSteps {
        self.steps
    }

    fn since_begun(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.began)
    }

    fn watches_traffic(&self) -> bool {
        self.quiet_from.is_some() && !self.is_done()
    }

    fn observe(&mut self, seen: TrafficSeen) {
        // A packet from before the drain does not count.
        let last_packet = seen.last_packet.filter(|at| *at > self.began);
        if let Some(at) = last_packet {
            let after = self.since_begun(at);
            self.steps.last_packet = self.steps.last_packet.max(Some(after));
        }
        match seen.path_returns {
            Some(true) => self.steps.forwarding_ended = None,
            Some(false) if self.steps.forwarding_ended.is_none() => {
                let ended = seen.path_ended.unwrap_or(seen.at);
                self.steps.forwarding_ended = Some(self.since_begun(ended));
            }
            Some(false) | None => {}
        }
        let quiet_since = last_packet.unwrap_or(self.began);
        self.is_quiet = self.quiet_from.is_some_and(|from| from <= seen.at)
            && quiet_since + QUIET_PERIOD <= seen.at
            && seen.path_returns != Some(true);
    }
}

/// A drain whose end is that of the traffic lasts at least this long, so that slow replies leave.
const MIN_TRAFFIC_DRAIN: Duration = Duration::from_secs(2);
/// Traffic has ended when no packet came for this long.
const QUIET_PERIOD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    fn wait(until: DrainWait) -> Option<Wait> {
        Some(Wait {
            longest: WAIT,
            until,
        })
    }

    fn name(intent: &Intent) -> String {
        let of = |word: &str, drain: &Drain| {
            let progress = match drain.progress {
                Progress::Withdrawn => "withdrawn",
                Progress::AckRequested => "asked",
                Progress::Unacknowledged => "unacknowledged",
                Progress::Acknowledged => "acknowledged",
                Progress::Done => "done",
            };
            let quiet = if drain.is_quiet { ", quiet" } else { "" };
            let file = if drain.maintenance { ", file" } else { "" };
            format!("{word} {progress}{quiet}{file}")
        };
        match intent {
            Intent::Run => "run".to_owned(),
            Intent::Maintenance => "maintenance".to_owned(),
            Intent::Drain(drain) => of("drain", drain),
            Intent::Exit(drain) => of("leave", drain),
        }
    }

    fn quiet_at(at: Instant) -> TrafficSeen {
        TrafficSeen {
            at,
            last_packet: None,
            path_returns: None,
            path_ended: None,
        }
    }

    /// Every state with every event, and what its deadline brings.
    #[test]
    fn the_table_of_transitions() {
        let now = Instant::now();
        let draining = |leaving: bool, steps: usize| {
            let mut intent = Intent::Run;
            intent.drain(now, leaving, wait(DrainWait::Traffic));
            let ways: [fn(&mut Intent, Instant) -> bool; 2] = [
                |intent, _| intent.mark_ack_requested(),
                |intent, now| intent.acknowledged(now, AckResult::Acknowledged),
            ];
            ways[..steps.min(2)]
                .iter()
                .for_each(|step| assert!(step(&mut intent, now)));
            if steps == 3 {
                intent.reconcile(now + WAIT);
            }
            intent
        };
        let unacknowledged = || {
            let mut intent = draining(false, 1);
            assert!(intent.acknowledged(now, AckResult::TimedOut));
            intent
        };
        let states = [
            Intent::Run,
            Intent::Maintenance,
            draining(false, 0),
            draining(false, 1),
            unacknowledged(),
            draining(false, 2),
            draining(false, 3),
            draining(true, 0),
        ];
        type Event = fn(&mut Intent, Instant);
        let events: [(&str, Event); 11] = [
            ("drain", |intent, now| {
                intent.drain(now, false, wait(DrainWait::Traffic));
            }),
            ("leave", |intent, now| intent.drain(now, true, None)),
            ("undrain", |intent, _| intent.undrain()),
            ("file", |intent, _| intent.set_maintenance(true)),
            ("no file", |intent, _| intent.set_maintenance(false)),
            ("asked", |intent, _| {
                intent.mark_ack_requested();
            }),
            ("acknowledged", |intent, now| {
                intent.acknowledged(now, AckResult::Acknowledged);
            }),
            ("no session", |intent, now| {
                intent.acknowledged(now, AckResult::NoSession);
            }),
            ("not in time", |intent, now| {
                intent.acknowledged(now, AckResult::TimedOut);
            }),
            ("quiet", |intent, now| {
                intent.observe(quiet_at(now + MIN_TRAFFIC_DRAIN));
                intent.reconcile(now + MIN_TRAFFIC_DRAIN);
            }),
            ("deadline", |intent, now| {
                let at = intent.deadline();
                intent.reconcile(at.unwrap_or(now));
            }),
        ];
        let mut table = String::new();
        for state in states {
            table += &format!("{}:", name(&state));
            for (event, apply) in events {
                let mut intent = state.clone();
                apply(&mut intent, now);
                if intent != state {
                    table += &format!(" {event} -> {};", name(&intent));
                }
            }
            table += "\n";
        }
        println!("{table}");
        assert_eq!(table, TABLE);
    }

    const TABLE: &str = "\
run: drain -> drain withdrawn; leave -> leave acknowledged; file -> maintenance;
maintenance: drain -> drain withdrawn, file; leave -> leave acknowledged, file; no file -> run;
drain withdrawn: undrain -> run; file -> drain withdrawn, file; asked -> drain asked; quiet -> drain withdrawn, quiet;
drain asked: undrain -> run; file -> drain asked, file; acknowledged -> drain acknowledged; no session -> drain acknowledged; not in time -> drain unacknowledged; quiet -> drain asked, quiet;
drain unacknowledged: undrain -> run; file -> drain unacknowledged, file; acknowledged -> drain acknowledged; no session -> drain acknowledged; quiet -> drain unacknowledged, quiet; deadline -> drain done;
drain acknowledged: undrain -> run; file -> drain acknowledged, file; quiet -> drain done, quiet; deadline -> drain done;
drain done: undrain -> run; file -> drain done, file;
leave withdrawn: file -> leave withdrawn, file; asked -> leave asked; quiet -> leave withdrawn, quiet;
";

    /// When a drain of ten seconds ends, in milliseconds, if the traffic is looked at every 100 ms; `last` is when the
    /// last packet came that had come by then.
    fn ends(
        until: DrainWait,
        longest: Duration,
        last: impl Fn(u64) -> Option<u64>,
    ) -> (u64, DrainSteps) {
        let began = Instant::now();
        let ms = |ms| began + Duration::from_millis(ms);
        let mut intent = Intent::Run;
        intent.drain(began, false, Some(Wait { longest, until }));
        assert!(intent.mark_ack_requested());
        assert!(intent.acknowledged(ms(1), AckResult::Acknowledged));
        for at in (0..=20_000).step_by(100) {
            intent.observe(TrafficSeen {
                at: ms(at),
                last_packet: last(at).map(ms),
                path_returns: None,
                path_ended: None,
            });
            intent.reconcile(ms(at));
            if intent.no_drain_pending() {
                return (at, intent.as_drain().unwrap().steps());
            }
        }
        panic!("it does not end");
    }

    #[test]
    fn a_drain_ends_a_second_after_the_last_packet_within_its_bounds() {
        let traffic = |last: fn(u64) -> Option<u64>| ends(DrainWait::Traffic, WAIT, last);
        let (end, steps) = traffic(|_| None);
        assert_eq!((end, steps.last_packet), (2000, None));
        let (end, steps) = traffic(|at| Some(at.min(31)));
        let after = Some(Duration::from_millis(31));
        assert_eq!((end, steps.last_packet), (2000, after));
        let (acknowledged, done) = (Duration::from_millis(1), Duration::from_secs(2));
        assert_eq!(steps.acknowledged, Some(acknowledged));
        assert_eq!(steps.done, Some(done));
        assert_eq!(traffic(|at| Some(at.min(1500))).0, 2500);
        assert_eq!(traffic(|at| Some(at.min(7450))).0, 8500, "the next look");
        assert_eq!(traffic(Some).0, 10_000, "at the latest");
        // A pause of less than a second is no end.
        assert_eq!(traffic(|at| Some(at / 900 * 900)).0, 10_000);
    }

    #[test]
    fn a_fixed_wait_and_a_short_one_are_what_they_were() {
        let none = |_| None;
        assert_eq!(ends(DrainWait::Fixed, WAIT, none).0, 10_000);
        for (longest, end) in [(0, 0), (300, 300), (2000, 2000)] {
            let longest = Duration::from_millis(longest);
            assert_eq!(ends(DrainWait::Traffic, longest, none).0, end);
            assert_eq!(ends(DrainWait::Traffic, longest, Some).0, end);
        }
    }

    #[test]
    fn what_cannot_be_seen_takes_the_whole_time() {
        let now = Instant::now();
        let mut intent = Intent::Run;
        intent.drain(now, true, wait(DrainWait::Traffic));
        intent.mark_ack_requested();
        intent.observe(quiet_at(now + MIN_TRAFFIC_DRAIN));
        intent.observe_nothing();
        intent.acknowledged(now + MIN_TRAFFIC_DRAIN, AckResult::NoSession);
        intent.reconcile(now + MIN_TRAFFIC_DRAIN);
        assert!(!intent.no_drain_pending() && intent.watches_traffic());
        intent.reconcile(now + WAIT);
        let steps = intent.as_drain().map(Drain::steps);
        let done = Some(WAIT);
        assert_eq!(
            steps,
            Some(DrainSteps {
                done,
                ..DrainSteps::default()
            }),
            "no acknowledgment"
        );
        assert!(!intent.watches_traffic());
    }

    /// The withdraw may not have left this host, however quiet it is.
    #[test]
    fn without_an_acknowledgment_it_takes_the_whole_time() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut intent = Intent::Run;
        intent.drain(now, false, wait(DrainWait::Traffic));
        for second in 1..5 {
            assert!(intent.mark_ack_requested());
            assert!(intent.acknowledged(after(second), AckResult::TimedOut));
            intent.observe(quiet_at(after(second)));
            intent.reconcile(after(second));
            assert!(!intent.no_drain_pending() && intent.is_unacknowledged());
            assert_eq!(intent.deadline(), Some(now + WAIT));
        }
        let mut late = intent.clone();
        late.acknowledged(after(5), AckResult::Acknowledged);
        late.reconcile(after(5));
        let (acknowledged, done) = (Some(Duration::from_secs(5)), Some(Duration::from_secs(5)));
        let want = DrainSteps {
            acknowledged,
            done,
            ..DrainSteps::default()
        };
        assert_eq!(late.as_drain().map(Drain::steps), Some(want));
        intent.reconcile(now + WAIT);
        assert!(intent.no_drain_pending());
    }

    /// A packet before the drain is not its last one, and a router that forwards holds it.
    #[test]
    fn a_path_that_returns_holds_the_drain() {
        let now = Instant::now();
        let mut intent = Intent::Run;
        intent.drain(now, false, wait(DrainWait::Traffic));
        intent.mark_ack_requested();
        intent.acknowledged(now, AckResult::Acknowledged);
        let mut look = |seconds, path_returns| {
            let at = now + Duration::from_secs(seconds);
            intent.observe(TrafficSeen {
                at,
                last_packet: Some(now),
                path_returns: Some(path_returns),
                path_ended: (!path_returns).then_some(now + Duration::from_millis(4)),
            });
            intent.reconcile(at);
            (
                intent.no_drain_pending(),
                intent.as_drain().unwrap().steps(),
            )
        };
        let (over, steps) = look(3, true);
        assert_eq!((over, steps), (false, steps_of(None, None)));
        let (over, steps) = look(4, false);
        let (ended, done) = (Duration::from_millis(4), Duration::from_secs(4));
        let want = steps_of(Some(ended), Some(done));
        assert_eq!((over, steps), (true, want));
    }

    fn steps_of(forwarding_ended: Option<Duration>, done: Option<Duration>) -> DrainSteps {
        DrainSteps {
            acknowledged: Some(Duration::ZERO),
            forwarding_ended,
            done,
            ..DrainSteps::default()
        }
    }
}
