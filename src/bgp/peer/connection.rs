//! One TCP connection of a peer: its messages, its state from OpenSent on, and its hold, keepalive and
//! send hold timers (RFC 4271 §4.4, §6.5; RFC 9687).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{ConnId, StateName, Timer};
use crate::bgp::{
    Capability, DecodeContext, Framer, MAX_LEN, MAX_LEN_EXTENDED, Negotiated, Open, ProtocolError,
    Received, decode_message,
};
use crate::timer::{EarliestDeadline, Rng};

/// An open TCP connection. An outgoing attempt is part of the peer's state.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnId,
    /// We opened it, not the peer.
    pub(super) outgoing: bool,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// Opened by the peer beside an established session, which it replaces once its OPEN has come (RFC
    /// 4724 §5).
    pub(super) supersedes: bool,
    /// Our OPEN.
    ours: Open,
    phase: Phase,
    framer: Framer,
    context: DecodeContext,
    max_len: usize,
    unsent: usize,
    /// Bytes output by `Output::Send` in all, and how many of them the peer's TCP is known to have acknowledged.
    queued_bytes: u64,
    acknowledged: u64,
    /// The last sends that are not known to be acknowledged: the offset of the end of each, and its time.
    unacknowledged: VecDeque<(u64, Instant)>,
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoints {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// The state of this connection with its timers.
#[derive(Debug)]
enum Phase {
    OpenSent {
        hold_at: Instant,
        /// `None`: the OPEN is overdue, and that was reported.
        open_overdue_at: Option<Instant>,
    },
    OpenConfirm(Session),
    Established(Session),
}

#[derive(Debug)]
struct Session {
    negotiated: Negotiated,
    timers: SessionTimers,
}

impl Connection {
    /// A connection on which `ours` has been sent. The hold timer has the large value of RFC 4271 §8.2.2
    /// until the peer's OPEN has come.
    pub(super) fn new(
        id: ConnId,
        outgoing: bool,
        endpoints: Endpoints,
        ours: Open,
        context: DecodeContext,
        now: Instant,
    ) -> Self {
        Self {
            id,
            outgoing,
            local: endpoints.local,
            remote: endpoints.remote,
            supersedes: false,
            ours,
            phase: Phase::OpenSent {
                hold_at: now + LARGE_HOLD_TIME,
                open_overdue_at: Some(now + OPEN_OVERDUE_AFTER),
            },
            framer: Framer::new(),
            context,
            max_len: MAX_LEN,
            unsent: 0,
            queued_bytes: 0,
            acknowledged: 0,
            unacknowledged: VecDeque::new(),
        }
    }

    pub(super) fn state(&self) -> StateName {
        match self.phase {
            Phase::OpenSent { .. } => StateName::OpenSent,
            Phase::OpenConfirm(_) => StateName::OpenConfirm,
            Phase::Established(_) => StateName::Established,
        }
    }

    /// Whether the peer's OPEN is overdue.
    pub(super) fn is_open_overdue(&self) -> bool {
        matches!(
            self.phase,
            Phase::OpenSent {
                open_overdue_at: None,
                ..
            }
        )
    }

    /// Marks the peer's OPEN as overdue.
    pub(super) fn mark_open_overdue(&mut self) {
        if let Phase::OpenSent {
            open_overdue_at, ..
        } = &mut self.phase
        {
            *open_overdue_at = None;
        }
    }

    /// Our OPEN on this connection.
    pub(super) fn ours(&self) -> &Open {
        &self.ours
    }

    /// The negotiated parameters, from OpenConfirm on.
    pub(super) fn negotiated(&self) -> Option<&Negotiated> {
        self.session().map(|session| &session.negotiated)
    }

    fn session(&self) -> Option<&Session> {
        match &self.phase {
            Phase::OpenSent { .. } => None,
            Phase::OpenConfirm(session) | Phase::Established(session) => Some(session),
        }
    }

    fn session_mut(&mut self) -> Option<&mut Session> {
        match &mut self.phase {
            Phase::OpenSent { .. } => None,
            Phase::OpenConfirm(session) | Phase::Established(session) => Some(session),
        }
    }

    /// Enters OpenConfirm: the peer's OPEN is accepted.
    pub(super) fn confirm(&mut self, negotiated: Negotiated, timers: SessionTimers) {
        self.context = DecodeContext::established(&negotiated);
        // RFC 8654 §4: we accept extended messages once we have offered them, whatever the peer offered.
        if self.ours.has_capability(&Capability::ExtendedMessage) {
            self.max_len = MAX_LEN_EXTENDED;
        }
        self.phase = Phase::OpenConfirm(Session { negotiated, timers });
    }

    /// Enters Established from OpenConfirm: the peer's KEEPALIVE has come.
    pub(super) fn establish(self) -> Self {
        let phase = match self.phase {
            Phase::OpenConfirm(session) => Phase::Established(session),
            other => other,
        };
        Self { phase, ..self }
    }

    /// Adds received bytes; [`Connection::next`] makes messages of them.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.framer.push(bytes);
    }

    /// The next whole message, checked.
    pub(super) fn next(&mut self) -> Option<Result<Received, ProtocolError>> {
        match self.framer.next(self.max_len) {
            Ok(None) => None,
            Ok(Some(frame)) => Some(decode_message(&frame, &self.context)),
            Err(error) => Some(Err(error.into())),
        }
    }

    /// Restarts the hold timer: a KEEPALIVE or UPDATE was received.
    pub(super) fn restart_hold_timer(&mut self, now: Instant) {
        if let Some(session) = self.session_mut() {
            session.timers.restart_hold_timer(now);
        }
    }

    /// Whether a KEEPALIVE may be sent at `now` already: see [`KeepaliveTime`].
    pub(super) fn may_send_keepalive(&self, now: Instant) -> bool {
        match &self.phase {
            Phase::Established(session) => session.timers.may_send_keepalive(now),
            Phase::OpenSent { .. } | Phase::OpenConfirm(_) => false,
        }
    }

    /// Restarts the keepalive timer: a KEEPALIVE or UPDATE was sent (RFC 4271 §8.2.2).
    pub(super) fn restart_keepalive_timer(&mut self, now: Instant) {
        if let Some(session) = self.session_mut() {
            session.timers.restart_keepalive_timer(now);
        }
    }

    /// Counts bytes of an `Output::Send`; the send hold timer runs while some are unsent.
    pub(super) fn queued(&mut self, now: Instant, bytes: usize) {
        if self.unsent == 0
            && let Some(session) = self.session_mut()
        {
            session.timers.restart_send_hold_timer(now);
        }
        self.unsent += bytes;
        self.queued_bytes += bytes as u64;
        if self.unacknowledged.len() >= REMEMBERED_SENDS {
            self.unacknowledged.remove(1);
        }
        self.unacknowledged.push_back((self.queued_bytes, now));
    }

    /// Counts bytes that the kernel accepted, and restarts the send hold timer.
    pub(super) fn sent(&mut self, now: Instant, bytes: usize) {
        self.unsent = self.unsent.saturating_sub(bytes);
        if let Some(session) = self.session_mut() {
            session.timers.restart_send_hold_timer(now);
        }
    }

    /// Bytes output by `Output::Send` so far.
    pub(super) fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    /// Records that the peer's TCP has acknowledged the first `bytes` of them.
    pub(super) fn note_acknowledged(&mut self, bytes: u64) {
        self.acknowledged = self.acknowledged.max(bytes.min(self.queued_bytes));
        let has = self.acknowledged;
        self.unacknowledged.retain(|(end, _)| *end > has);
    }

    /// Time of the oldest remembered send that is not known to be acknowledged.
    pub(super) fn unacknowledged_since(&self) -> Option<Instant> {
        self.unacknowledged.front().map(|(_, at)| *at)
    }

    /// How many bytes the peer's TCP is known to have acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let mut earliest = EarliestDeadline::new();
        match &self.phase {
            Phase::OpenSent {
                hold_at,
                open_overdue_at,
            } => {
                earliest.add(Some(*hold_at), Timer::Hold(self.id));
                earliest.add(*open_overdue_at, Timer::OpenOverdue(self.id));
            }
            Phase::OpenConfirm(session) | Phase::Established(session) => {
                if let Some(deadlines) = &session.timers.0 {
                    earliest.add(Some(deadlines.hold_at), Timer::Hold(self.id));
                    earliest.add(Some(deadlines.keepalive_at), Timer::Keepalive(self.id));
                    let send_hold_at = Some(deadlines.send_hold_at).filter(|_| self.unsent > 0);
                    earliest.add(send_hold_at, Timer::SendHold(self.id));
                }
            }
        }
        earliest.get()
    }
}

/// Above this the second oldest send is forgotten: acknowledgments may not have been read for hours. The oldest stays,
/// so that the age of a silence does not depend on how much is sent in it; after an acknowledgment of that alone the silence
/// is at least as old as is shown.
const REMEMBERED_SENDS: usize = 16;

/// "KEEPALIVE messages MUST NOT be sent more frequently than one per second" (RFC 4271 §4.4).
const LEAST_KEEPALIVE_TIME: Duration = Duration::from_secs(1);

/// The hold timer before the peer's OPEN (RFC 4271 §8.2.2: "a HoldTimer value of 4 minutes is
/// suggested").
const LARGE_HOLD_TIME: Duration = Duration::from_secs(240);

/// An OPEN that has not come by then is reported as overdue.
const OPEN_OVERDUE_AFTER: Duration = Duration::from_secs(10);

/// The deadlines of a session; with a hold time of zero there are none (RFC 4271 §4.4, RFC 9687 §4).
#[derive(Debug)]
pub(super) struct SessionTimers(Option<TimerDeadlines>);

#[derive(Debug)]
struct TimerDeadlines {
    hold_time: Duration,
    keepalive: KeepaliveTime,
    hold_at: Instant,
    /// A KEEPALIVE may be sent from then on.
    keepalive_from: Instant,
    keepalive_at: Instant,
    /// In effect only while bytes are unsent.
    send_hold_at: Instant,
}

/// The time from one message to the KEEPALIVE after it. RFC 4271 §10 has it vary between 75 and 100 % of its value: within
/// that range a KEEPALIVE is sent when the process is awake for another reason, so that it needs no wake of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeepaliveTime {
    earliest: Duration,
    latest: Duration,
}

impl KeepaliveTime {
    /// From the negotiated time. The latest differs from session to session.
    pub(super) fn new(negotiated: Duration, rng: &mut Rng) -> Self {
        let earliest = (negotiated * 3 / 4)
            .max(LEAST_KEEPALIVE_TIME)
            .min(negotiated);
        Self {
            earliest,
            latest: earliest + rng.jittered(negotiated - earliest),
        }
    }
}

impl SessionTimers {
    /// Without a hold time there are no timers.
    pub(super) fn new(now: Instant, hold_time: Option<Duration>, keepalive: KeepaliveTime) -> Self {
        Self(hold_time.map(|hold_time| TimerDeadlines {
            hold_time,
            keepalive,
            hold_at: now + hold_time,
            keepalive_from: now + keepalive.earliest,
            keepalive_at: now + keepalive.latest,
            send_hold_at: now + send_hold_time(hold_time),
        }))
    }

    fn restart_hold_timer(&mut self, now: Instant) {
        if let Some(deadlines) = &mut self.0 {
            deadlines.hold_at = now + deadlines.hold_time;
        }
    }

    fn restart_keepalive_timer(&mut self, now: Instant) {
        if let Some(deadlines) = &mut self.0 {
            deadlines.keepalive_from = now + deadlines.keepalive.earliest;
            deadlines.keepalive_at = now + deadlines.keepalive.latest;
        }
    }

    fn may_send_keepalive(&self, now: Instant) -> bool {
        self.0
            .as_ref()
            .is_some_and(|deadlines| deadlines.keepalive_from <= now)
    }

    fn restart_send_hold_timer(&mut self, now: Instant) {
        if let Some(deadlines) = &mut self.0 {
            deadlines.send_hold_at = now + send_hold_time(deadlines.hold_time);
        }
    }
}

/// RFC 9687 §5: the greater of 8 minutes and twice the hold time.
fn send_hold_time(hold_time: Duration) -> Duration {
    (hold_time * 2).max(Duration::from_secs(480))
}
