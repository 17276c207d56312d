//! One session (RFC 5880 §6.8), in asynchronous mode and the active role. The clock is an argument.

use super::packet::{Diagnostic, Packet, State, micros};
use crate::timer::{EarliestDeadline, Rng};
use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// The configuration of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Desired Min TX and Required Min RX while Up; below Up we send once a second at most.
    pub interval: Duration,
    /// Detect Mult.
    pub multiplier: u8,
    /// Local discriminator; unique on this host (RFC 5880 §6.3).
    pub discriminator: NonZeroU32,
}

/// Input of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A packet for this session that passed [`Packet::decode`] and the check of its TTL.
    Received(Packet),
    /// The operator takes the session down: enters AdminDown, which the peer learns.
    AdminDown,
    /// Another interval or multiplier, without a break (RFC 5880 §6.8.3).
    Reconfigure { interval: Duration, multiplier: u8 },
}

/// What the caller has to do, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Send(Packet),
    StateChanged {
        from: State,
        to: State,
        diagnostic: Diagnostic,
        /// The remote state last received; `None`: nothing within the detection time. AdminDown of the peer
        /// is no failure (RFC 5882 §3.2).
        remote: Option<State>,
    },
}

/// The deadlines of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    Transmit,
    Detection,
}

/// The variables last received from the peer (RFC 5880 §6.8.1).
#[derive(Clone, Copy, Debug)]
struct Remote {
    discriminator: u32,
    state: State,
    min_rx: u32,
    min_tx: u32,
    detect_mult: u8,
    demand: bool,
}

/// One BFD session (RFC 5880 §6.8).
#[derive(Debug)]
pub struct Session {
    config: Config,
    state: State,
    diagnostic: Diagnostic,
    /// `None`: nothing received within the detection time.
    remote: Option<Remote>,
    /// A Poll Sequence is under way (RFC 5880 §6.5).
    polling: bool,
    /// The interval before the one that the running Poll Sequence advertises.
    previous_interval: Option<Duration>,
    sent_at: Option<Instant>,
    transmit_at: Option<Instant>,
    detect_at: Option<Instant>,
    rng: Rng,
    outputs: VecDeque<Output>,
}

impl Session {
    /// Starts in Down and sends from `now` on. The same seed gives the same jitter.
    pub fn new(now: Instant, config: Config, seed: u64) -> Self {
        Self {
            config,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            remote: None,
            polling: false,
            previous_interval: None,
            sent_at: None,
            transmit_at: Some(now),
            detect_at: None,
            rng: Rng::new(seed),
            outputs: VecDeque::new(),
        }
    }

    /// The local state (bfd.SessionState).
    pub fn state(&self) -> State {
        self.state
    }

    /// The local discriminator.
    pub fn discriminator(&self) -> NonZeroU32 {
        self.config.discriminator
    }

    /// Takes an event; call `poll_output` afterwards.
    pub fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Received(packet) => self.receive(now, packet),
            Event::AdminDown => {
                self.diagnostic = Diagnostic::ADMINISTRATIVELY_DOWN;
                self.detect_at = None;
                self.change_state(now, State::AdminDown);
            }
            Event::Reconfigure {
                interval,
                multiplier,
            } => self.reconfigure(now, interval, multiplier),
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.detect_at.is_some_and(|at| at <= now) {
            self.detection_expired(now);
        }
        if self.transmit_at.is_some_and(|at| at <= now) {
            self.transmit(now, false);
        }
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let mut earliest = EarliestDeadline::new();
        earliest.add(self.detect_at, Timer::Detection);
        earliest.add(self.transmit_at, Timer::Transmit);
        earliest.get()
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// RFC 5880 §6.8.6 from "Set bfd.RemoteDiscr" on.
    fn receive(&mut self, now: Instant, packet: Packet) {
        let addressed_to_another = packet.your_discriminator != 0
            && packet.your_discriminator != self.config.discriminator.get();
        if addressed_to_another || self.state == State::AdminDown {
            return;
        }
        let interval_before = self.transmit_interval();
        let remote = Remote {
            discriminator: packet.my_discriminator.get(),
            state: packet.state,
            min_rx: packet.required_min_rx,
            min_tx: packet.desired_min_tx,
            detect_mult: packet.detect_mult,
            demand: packet.demand,
        };
        self.remote = Some(remote);
        if packet.r#final {
            (self.polling, self.previous_interval) = (false, None);
        }
        self.apply_state_table(now, packet.state);
        self.detect_at = Some(now + self.detection_time(&remote));
        if packet.poll {
            self.transmit(now, true);
        } else if self.transmit_interval() != interval_before {
            self.schedule_transmit(now);
        }
    }

    /// The old interval stays in use until the peer has answered the poll.
    fn reconfigure(&mut self, now: Instant, interval: Duration, multiplier: u8) {
        let old = std::mem::replace(&mut self.config.interval, interval);
        self.config.multiplier = multiplier;
        if self.state == State::AdminDown || self.remote.is_none() {
            return;
        }
        if old != interval {
            self.polling = true;
            self.previous_interval = (self.state == State::Up).then_some(old);
        }
        self.transmit(now, false);
    }

    /// The state table of RFC 5880 §6.8.6.
    fn apply_state_table(&mut self, now: Instant, theirs: State) {
        match (self.state, theirs) {
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => {
                self.diagnostic = Diagnostic::NEIGHBOR_SIGNALED_DOWN;
                self.change_state(now, State::Down);
            }
            (State::Down, State::Down) => self.change_state(now, State::Init),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.diagnostic = Diagnostic::NONE;
                self.change_state(now, State::Up);
            }
            (State::AdminDown, _)
            | (State::Down, State::AdminDown | State::Up)
            | (State::Init, State::Down)
            | (State::Up, State::Init | State::Up) => {}
        }
    }

    /// RFC 5880 §6.8.4.
    fn detection_expired(&mut self, now: Instant) {
        self.detect_at = None;
        self.remote = None;
        if matches!(self.state, State::Init | State::Up) {
            self.diagnostic = Diagnostic::DETECTION_TIME_EXPIRED;
            self.change_state(now, State::Down);
        } else {
            // The intervals of the lost peer no longer apply: it may have asked for no periodic packets.
            self.schedule_transmit(now);
        }
    }

    /// Changes the state and sends a packet at once; a changed interval starts a Poll Sequence (RFC 5880
    /// §6.8.3).
    fn change_state(&mut self, now: Instant, to: State) {
        let advertised = self.desired_min_tx();
        let from = std::mem::replace(&mut self.state, to);
        if from == to {
            return;
        }
        self.previous_interval = None;
        let peer_known = self.remote.is_some() && to != State::AdminDown;
        self.polling = peer_known && self.desired_min_tx() != advertised;
        self.outputs.push_back(Output::StateChanged {
            from,
            to,
            diagnostic: self.diagnostic,
            remote: self.remote.map(|remote| remote.state),
        });
        self.transmit(now, false);
    }

    /// What we advertise: the configured interval while Up, else no less than a second (§6.8.3).
    fn desired_min_tx(&self) -> Duration {
        if self.state == State::Up {
            self.config.interval
        } else {
            self.config.interval.max(MIN_INTERVAL_NOT_UP)
        }
    }

    /// `None`: periodic packets must not be sent (§6.8.7).
    fn transmit_interval(&self) -> Option<Duration> {
        let Some(remote) = &self.remote else {
            return Some(self.desired_min_tx());
        };
        let both_up = self.state == State::Up && remote.state == State::Up;
        let silent = remote.min_rx == 0 || (remote.demand && both_up && !self.polling);
        let asked = Duration::from_micros(remote.min_rx.into());
        let own = self.desired_min_tx();
        let own = self
            .previous_interval
            .map_or(own, |previous_interval| own.min(previous_interval));
        (!silent).then(|| own.max(asked))
    }

    /// The detection time of asynchronous mode (§6.8.4).
    fn detection_time(&self, remote: &Remote) -> Duration {
        let theirs = Duration::from_micros(remote.min_tx.into());
        let own = self.config.interval;
        let own = self
            .previous_interval
            .map_or(own, |previous_interval| own.max(previous_interval));
        own.max(theirs) * u32::from(remote.detect_mult)
    }

    fn transmit(&mut self, now: Instant, r#final: bool) {
        let packet = Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            // A packet is never both (§6.8.7).
            poll: self.polling && !r#final,
            r#final,
            demand: false,
            detect_mult: self.config.multiplier,
            my_discriminator: self.config.discriminator,
            your_discriminator: self.remote.map_or(0, |remote| remote.discriminator),
            desired_min_tx: micros(self.desired_min_tx()),
            required_min_rx: micros(self.config.interval),
        };
        self.outputs.push_back(Output::Send(packet));
        self.sent_at = Some(now);
        self.schedule_transmit(now);
    }

    /// Schedules the next periodic packet: the interval less a jitter of 0 to 25 %, at least 10 % with a
    /// Detect Mult of 1 (§6.8.7), counted from the last packet (§6.8.3).
    fn schedule_transmit(&mut self, now: Instant) {
        let most = if self.config.multiplier == 1 { 90 } else { 100 };
        let percent = 75 + u32::try_from(self.rng.below(most - 75 + 1)).unwrap_or(0);
        let sent_at = self.sent_at.unwrap_or(now);
        let next = |interval: Duration| (sent_at + interval * percent / 100).max(now);
        self.transmit_at = self.transmit_interval().map(next);
    }
}

/// The shortest interval below Up (RFC 5880 §6.8.3).
const MIN_INTERVAL_NOT_UP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn config(discriminator: u32) -> Config {
        Config {
            interval: 300 * MS,
            multiplier: 3,
            discriminator: NonZeroU32::new(discriminator).unwrap(),
        }
    }

    /// Two sessions joined by a link of 5 ms that can be cut.
    struct Pair {
        now: Instant,
        ends: [Session; 2],
        flight: VecDeque<(Instant, usize, Packet)>,
        cut: bool,
        sent: [Vec<(Instant, Packet)>; 2],
        changes: [Vec<(Instant, State, Diagnostic)>; 2],
    }

    impl Pair {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                now,
                ends: [
                    Session::new(now, config(1), 1),
                    Session::new(now, config(2), 2),
                ],
                flight: VecDeque::new(),
                cut: false,
                sent: Default::default(),
                changes: Default::default(),
            }
        }

        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            loop {
                for i in 0..2 {
                    while let Some(output) = self.ends[i].poll_output() {
                        match output {
                            Output::Send(packet) => {
                                self.sent[i].push((self.now, packet));
                                let packet = Packet::decode(&packet.encode()).unwrap();
                                if !self.cut {
                                    self.flight.push_back((self.now + 5 * MS, 1 - i, packet));
                                }
                            }
                            Output::StateChanged { to, diagnostic, .. } => {
                                self.changes[i].push((self.now, to, diagnostic));
                            }
                        }
                    }
                }
                let arrival = self.flight.front().map(|(at, ..)| *at);
                let deadlines = self
                    .ends
                    .iter()
                    .filter_map(|end| end.poll_timeout().map(|(at, _)| at));
                let Some(next) = deadlines.chain(arrival).min().filter(|at| *at <= end) else {
                    self.now = end;
                    return;
                };
                assert!(next >= self.now, "a deadline in the past");
                self.now = next;
                while let Some((at, to, packet)) =
                    self.flight.front().copied().filter(|(at, ..)| *at <= next)
                {
                    self.flight.pop_front();
                    assert!(at <= next);
                    self.ends[to].handle(next, Event::Received(packet));
                }
                for end in &mut self.ends {
                    end.handle_timeout(next);
                }
            }
        }

        fn states(&self) -> [State; 2] {
            [self.ends[0].state(), self.ends[1].state()]
        }
    }

    #[test]
    fn two_ends_come_up_by_the_three_way_handshake() {
        let mut pair = Pair::new();
        pair.run(3 * Duration::from_secs(1));
        assert_eq!(pair.states(), [State::Up; 2]);
        let way: Vec<State> = pair.changes[0].iter().map(|(_, to, _)| *to).collect();
        assert!(
            way == [State::Init, State::Up] || way == [State::Up],
            "{way:?}"
        );
    }

    #[test]
    fn the_fast_interval_is_advertised_by_a_poll_before_it_counts_for_the_peer() {
        let mut pair = Pair::new();
        pair.run(5 * Duration::from_secs(1));
        for sent in &pair.sent {
            for (_, packet) in sent {
                let want = if packet.state == State::Up {
                    300_000
                } else {
                    1_000_000
                };
                assert_eq!(packet.desired_min_tx, want, "{packet:?}");
                assert!(!(packet.poll && packet.r#final));
            }
            let first_up = sent
                .iter()
                .find(|(_, packet)| packet.state == State::Up)
                .unwrap();
            assert!(
                first_up.1.poll,
                "the first packet in Up begins a Poll Sequence"
            );
            assert!(
                sent.iter().any(|(_, packet)| packet.r#final),
                "a poll is answered"
            );
            assert!(!sent.last().unwrap().1.poll, "and ends");
        }
    }

    #[test]
    fn a_cut_link_is_noticed_within_the_detection_time_and_healed() {
        let mut pair = Pair::new();
        pair.run(5 * Duration::from_secs(1));
        pair.cut = true;
        let cut_at = pair.now;
        pair.run(Duration::from_secs(1));
        for changes in &pair.changes {
            let (at, to, diagnostic) = *changes.last().unwrap();
            assert_eq!(
                (to, diagnostic),
                (State::Down, Diagnostic::DETECTION_TIME_EXPIRED)
            );
            let took = at - cut_at;
            assert!(took > 500 * MS && took <= 905 * MS, "{took:?}");
        }
        pair.cut = false;
        pair.run(4 * Duration::from_secs(1));
        assert_eq!(pair.states(), [State::Up; 2]);
    }

    #[test]
    fn packets_are_spread_between_75_and_100_percent_of_the_interval() {
        let mut pair = Pair::new();
        pair.run(5 * Duration::from_secs(1));
        pair.sent = Default::default();
        pair.run(Duration::from_secs(60));
        let times: Vec<Instant> = pair.sent[0].iter().map(|(at, _)| *at).collect();
        for gap in times.windows(2).map(|two| two[1] - two[0]) {
            assert!(gap >= 225 * MS && gap <= 300 * MS, "{gap:?}");
        }
    }

    /// RFC 5880 §6.8.3, both directions: slower and faster again; no detection time expires.
    #[test]
    fn an_interval_changes_without_a_session_down() {
        let mut pair = Pair::new();
        pair.run(5 * Duration::from_secs(1));
        pair.changes = Default::default();
        for interval in [3000, 50, 300] {
            let at = pair.now;
            let changed = Event::Reconfigure {
                interval: interval * MS,
                multiplier: 3,
            };
            pair.ends[0].handle(at, changed);
            pair.run(20 * MS);
            assert!(!pair.ends[0].polling, "the poll is answered");
            pair.sent = Default::default();
            pair.run(30 * Duration::from_secs(1));
            let most = interval.max(300) * MS;
            let times: Vec<Instant> = pair.sent[0].iter().map(|(at, _)| *at).collect();
            for gap in times.windows(2).map(|two| two[1] - two[0]) {
                assert!(
                    gap >= most * 3 / 4 && gap <= most,
                    "{gap:?} at {interval} ms"
                );
            }
        }
        assert_eq!(pair.changes, [const { Vec::new() }; 2]);
    }

    #[test]
    fn what_was_agreed_holds_until_the_poll_is_answered() {
        let now = Instant::now();
        let mut session = Session::new(now, config(1), 1);
        let fast = |state| Packet {
            required_min_rx: 1,
            desired_min_tx: 1,
            ..packet_in_state(state)
        };
        session.handle(now, Event::Received(fast(State::Init)));
        let reconfigure = |interval| Event::Reconfigure {
            interval,
            multiplier: 3,
        };
        session.handle(now, reconfigure(900 * MS));
        assert_eq!(session.transmit_interval(), Some(300 * MS));
        let done = Packet {
            r#final: true,
            ..fast(State::Up)
        };
        session.handle(now, Event::Received(done));
        assert_eq!(session.transmit_interval(), Some(900 * MS));
        session.handle(now, reconfigure(100 * MS));
        session.handle(now, Event::Received(fast(State::Up)));
        assert_eq!(session.detect_at, Some(now + 2700 * MS));
        assert!(sends(&mut session).last().unwrap().poll);
        session.handle(now, Event::Received(done));
        assert_eq!(session.detect_at, Some(now + 300 * MS));
    }

    #[test]
    fn our_admin_down_takes_the_peer_down_at_once_and_says_why() {
        let mut pair = Pair::new();
        pair.run(5 * Duration::from_secs(1));
        let at = pair.now;
        pair.ends[0].handle(at, Event::AdminDown);
        pair.run(100 * MS);
        assert_eq!(pair.states(), [State::AdminDown, State::Down]);
        let (when, _, diagnostic) = *pair.changes[1].last().unwrap();
        assert_eq!(diagnostic, Diagnostic::NEIGHBOR_SIGNALED_DOWN);
        assert!(when - at <= 10 * MS);
        let last = pair.sent[0].last().unwrap().1;
        assert_eq!(
            (last.state, last.diagnostic),
            (State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN)
        );
        pair.run(Duration::from_secs(10));
        assert_eq!(
            pair.states(),
            [State::AdminDown, State::Down],
            "and nothing brings it back"
        );
    }

    #[test]
    fn a_packet_for_another_session_changes_nothing() {
        let now = Instant::now();
        let mut session = Session::new(now, config(1), 1);
        let packet = Packet {
            diagnostic: Diagnostic::NONE,
            state: State::Init,
            poll: false,
            r#final: false,
            demand: false,
            detect_mult: 3,
            my_discriminator: NonZeroU32::new(9).unwrap(),
            your_discriminator: 77,
            desired_min_tx: 1,
            required_min_rx: 1,
        };
        session.handle(now, Event::Received(packet));
        assert_eq!(session.state(), State::Down);
        session.handle(
            now,
            Event::Received(Packet {
                your_discriminator: 1,
                ..packet
            }),
        );
        assert_eq!(session.state(), State::Up);
    }

    /// A packet of a peer that sends once a second.
    fn packet_in_state(state: State) -> Packet {
        Packet {
            diagnostic: Diagnostic::NONE,
            state,
            poll: false,
            r#final: false,
            demand: false,
            detect_mult: 3,
            my_discriminator: NonZeroU32::new(9).unwrap(),
            your_discriminator: 1,
            desired_min_tx: 1_000_000,
            required_min_rx: 1_000_000,
        }
    }

    fn sends(session: &mut Session) -> Vec<Packet> {
        let outputs = std::iter::from_fn(|| session.poll_output());
        let packets = outputs.filter_map(|output| match output {
            Output::Send(packet) => Some(packet),
            Output::StateChanged { .. } => None,
        });
        packets.collect()
    }

    #[test]
    fn a_peer_that_wants_no_packets_gets_none_until_it_is_gone() {
        let mut now = Instant::now();
        let mut session = Session::new(now, config(1), 1);
        let silent = |state| Packet {
            required_min_rx: 0,
            ..packet_in_state(state)
        };
        for state in [State::Down, State::AdminDown] {
            session.handle(now, Event::Received(silent(state)));
        }
        assert_eq!(session.state(), State::Down);
        let (at, timer) = session.poll_timeout().unwrap();
        assert_eq!(timer, Timer::Detection);
        now = at;
        sends(&mut session);
        session.handle_timeout(now);
        assert_eq!(sends(&mut session).len(), 1, "whoever comes next hears us");
        let (_, timer) = session.poll_timeout().unwrap();
        assert_eq!(timer, Timer::Transmit);
    }

    /// RFC 5880 §6.8.3: a change between the slow and the configured interval, in either direction, starts a Poll
    /// Sequence.
    #[test]
    fn each_change_of_the_interval_begins_a_poll_where_somebody_listens() {
        let now = Instant::now();
        let mut session = Session::new(now, config(1), 1);
        session.handle(now, Event::Received(packet_in_state(State::Init)));
        assert!(sends(&mut session).iter().all(|packet| packet.poll));
        let done = Packet {
            r#final: true,
            ..packet_in_state(State::Up)
        };
        session.handle(now, Event::Received(done));
        session.handle(now, Event::Received(packet_in_state(State::Down)));
        let [down] = sends(&mut session)[..] else {
            panic!("one packet")
        };
        assert!(down.poll && down.state == State::Down && down.desired_min_tx == 1_000_000);
        let mut lost = Session::new(now, config(1), 1);
        lost.handle(now, Event::Received(packet_in_state(State::Init)));
        sends(&mut lost);
        lost.handle_timeout(now + 4 * Duration::from_secs(1));
        let packets = sends(&mut lost);
        let down = packets.last().unwrap();
        assert!(
            !down.poll && down.your_discriminator == 0,
            "no session listens"
        );
    }

    /// RFC 5880 §6.8.3: the wait counts from the last packet, however often the peer changes its interval.
    #[test]
    fn a_faster_interval_is_honored_at_once() {
        let now = Instant::now();
        let mut session = Session::new(now, config(1), 1);
        session.handle(now, Event::Received(packet_in_state(State::Init)));
        sends(&mut session);
        let faster = Packet {
            required_min_rx: 300_000,
            ..packet_in_state(State::Up)
        };
        let later = now + 200 * MS;
        session.handle(later, Event::Received(faster));
        let (at, timer) = session.poll_timeout().unwrap();
        assert_eq!(timer, Timer::Transmit);
        assert!(at >= later && at <= now + 300 * MS);
        session.handle(now + 290 * MS, Event::Received(packet_in_state(State::Up)));
        session.handle(now + 299 * MS, Event::Received(faster));
        let (at, _) = session.poll_timeout().unwrap();
        assert!(at <= now + 300 * MS, "the peer cannot put it off");
    }

    #[test]
    fn admin_down_of_the_peer_is_distinguished_from_a_failure() {
        let now = Instant::now();
        let mut session = Session::new(now, config(1), 1);
        session.handle(now, Event::Received(packet_in_state(State::Init)));
        session.handle(now, Event::Received(packet_in_state(State::AdminDown)));
        let outputs: Vec<Output> = std::iter::from_fn(|| session.poll_output()).collect();
        let change = Output::StateChanged {
            from: State::Up,
            to: State::Down,
            diagnostic: Diagnostic::NEIGHBOR_SIGNALED_DOWN,
            remote: Some(State::AdminDown),
        };
        assert!(outputs.contains(&change), "{outputs:?}");
    }
}
