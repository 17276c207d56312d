//! One TCP connection of a peer: the byte stream as messages, how far the two OPENs have come, and
//! whether the other end is alive (RFC 4271 §4.4, §6.5; RFC 9687).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::peer::{ConnId, StateName, Timer};
use super::{
    Capability, DecodeContext, Framer, MAX_LEN, MAX_LEN_EXTENDED, Negotiated, Open, ProtocolError,
    Received, receive,
};
use crate::timer::Soonest;

/// A connection that exists; attempts are the peer's.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnId,
    /// We opened it, not the peer.
    pub(super) outgoing: bool,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// Takes the place of an older session if its OPEN comes (RFC 4724 §5).
    pub(super) supersedes: bool,
    /// Our OPEN.
    ours: Open,
    phase: Phase,
    framer: Framer,
    context: DecodeContext,
    max_len: usize,
    unsent: usize,
}

/// Who a connection is between.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoints {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// How far the session on this connection has come.
#[derive(Debug)]
enum Phase {
    OpenSent {
        hold_at: Instant,
        /// `None`: the peer is known to be silent.
        silent_at: Option<Instant>,
    },
    OpenConfirm(Session),
    Established(Session),
}

#[derive(Debug)]
struct Session {
    negotiated: Negotiated,
    liveness: Liveness,
}

impl Connection {
    /// `ours` has been sent. The hold timer is large until the peer's OPEN says what it shall be.
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
                silent_at: Some(now + PROMPT),
            },
            framer: Framer::new(),
            context,
            max_len: MAX_LEN,
            unsent: 0,
        }
    }

    pub(super) fn state(&self) -> StateName {
        match self.phase {
            Phase::OpenSent { .. } => StateName::OpenSent,
            Phase::OpenConfirm(_) => StateName::OpenConfirm,
            Phase::Established(_) => StateName::Established,
        }
    }

    /// No OPEN has come for so long that the peer need not be waited for.
    pub(super) fn is_silent(&self) -> bool {
        matches!(
            self.phase,
            Phase::OpenSent {
                silent_at: None,
                ..
            }
        )
    }

    /// No OPEN has come in good time.
    pub(super) fn note_silence(&mut self) {
        if let Phase::OpenSent { silent_at, .. } = &mut self.phase {
            *silent_at = None;
        }
    }

    /// Our OPEN on this connection.
    pub(super) fn ours(&self) -> &Open {
        &self.ours
    }

    /// What was agreed on, once the peer's OPEN has come.
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

    /// The peer's OPEN is accepted: to OpenConfirm.
    pub(super) fn confirm(&mut self, negotiated: Negotiated, liveness: Liveness) {
        self.context = DecodeContext::established(&negotiated);
        // RFC 8654 §4: what we take is what we offered, whatever the peer takes.
        if self.ours.has(&Capability::ExtendedMessage) {
            self.max_len = MAX_LEN_EXTENDED;
        }
        self.phase = Phase::OpenConfirm(Session {
            negotiated,
            liveness,
        });
    }

    /// The peer has accepted our OPEN: to Established, where it was not in OpenSent.
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
            Ok(Some(frame)) => Some(receive(&frame, &self.context)),
            Err(error) => Some(Err(error.into())),
        }
    }

    /// A message that proves the peer alive: the hold timer starts anew.
    pub(super) fn restart_hold_timer(&mut self, now: Instant) {
        if let Some(session) = self.session_mut() {
            session.liveness.restart_hold_timer(now);
        }
    }

    /// A KEEPALIVE or UPDATE was sent: the keepalive timer starts anew (RFC 4271 §8.2.2).
    pub(super) fn restart_keepalive_timer(&mut self, now: Instant) {
        if let Some(session) = self.session_mut() {
            session.liveness.restart_keepalive_timer(now);
        }
    }

    /// Bytes handed out to be sent.
    pub(super) fn queued(&mut self, now: Instant, bytes: usize) {
        if self.unsent == 0
            && let Some(session) = self.session_mut()
        {
            session.liveness.progressed(now);
        }
        self.unsent += bytes;
    }

    /// Bytes that the kernel took.
    pub(super) fn sent(&mut self, now: Instant, bytes: usize) {
        self.unsent = self.unsent.saturating_sub(bytes);
        if let Some(session) = self.session_mut() {
            session.liveness.progressed(now);
        }
    }

    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let mut soonest = Soonest::new();
        match &self.phase {
            Phase::OpenSent { hold_at, silent_at } => {
                soonest.add(Some(*hold_at), Timer::Hold(self.id));
                soonest.add(*silent_at, Timer::Silence(self.id));
            }
            Phase::OpenConfirm(session) | Phase::Established(session) => {
                if let Some(deadlines) = &session.liveness.0 {
                    soonest.add(Some(deadlines.hold_at), Timer::Hold(self.id));
                    soonest.add(Some(deadlines.keepalive_at), Timer::Keepalive(self.id));
                    let send_hold_at = Some(deadlines.send_hold_at).filter(|_| self.unsent > 0);
                    soonest.add(send_hold_at, Timer::SendHold(self.id));
                }
            }
        }
        soonest.get()
    }
}

/// The hold timer before the peer's OPEN (RFC 4271 §8.2.2: "a HoldTimer value of 4 minutes is
/// suggested").
const LARGE_HOLD_TIME: Duration = Duration::from_secs(240);

/// A peer that is there sends its OPEN within this.
const PROMPT: Duration = Duration::from_secs(10);

/// The deadlines of a session; with a hold time of zero there are none (RFC 4271 §4.4, RFC 9687 §4).
#[derive(Debug)]
pub(super) struct Liveness(Option<Deadlines>);

#[derive(Debug)]
struct Deadlines {
    hold_time: Duration,
    keepalive: Duration,
    hold_at: Instant,
    keepalive_at: Instant,
    /// Counts while something is unsent.
    send_hold_at: Instant,
}

impl Liveness {
    /// `keepalive` is the time between two KEEPALIVEs; `None`: no timers.
    pub(super) fn new(now: Instant, hold_time: Option<Duration>, keepalive: Duration) -> Self {
        Self(hold_time.map(|hold_time| Deadlines {
            hold_time,
            keepalive,
            hold_at: now + hold_time,
            keepalive_at: now + keepalive,
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
            deadlines.keepalive_at = now + deadlines.keepalive;
        }
    }

    fn progressed(&mut self, now: Instant) {
        if let Some(deadlines) = &mut self.0 {
            deadlines.send_hold_at = now + send_hold_time(deadlines.hold_time);
        }
    }
}

/// RFC 9687 §5: the greater of 8 minutes and twice the hold time.
fn send_hold_time(hold_time: Duration) -> Duration {
    (hold_time * 2).max(Duration::from_secs(480))
}
