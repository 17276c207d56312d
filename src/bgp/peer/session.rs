//! The actions of the state machine in [`Peer::step`].

use std::time::{Duration, Instant};

use super::connection::{Connection, Endpoints, KeepaliveTime, SessionTimers};
use super::notice::EndedBy;
use super::retry::likely_cause;
use super::{
    ConnId, ConnectAttempt, DownReason, LikelyCause, Notice, Output, Peer, State, StateName,
};
use crate::bgp::{
    Cease, DecodeContext, Message, MessageType, Negotiated, Notification, Open, ProtocolError,
    UnexpectedIn,
};

/// States.
impl Peer {
    /// Changes the state, and does what entering or leaving Established requires.
    pub(super) fn enter(&mut self, now: Instant, to: State) {
        self.state = to;
        let (from, to) = (self.reported_state, self.state_name());
        if from == to {
            return;
        }
        self.reported_state = to;
        self.outputs.push_back(Output::StateChanged { from, to });
        if from == StateName::Established {
            self.session_down();
        }
        if to == StateName::Established {
            self.session_up(now);
        }
    }

    fn state_name(&self) -> StateName {
        match self.state {
            State::Idle { .. } => StateName::Idle,
            State::Connect(_) => StateName::Connect,
            State::Active { .. } => StateName::Active,
            // With two connections, the state of the more advanced one.
            State::Open { .. } => self
                .connections
                .iter()
                .map(Connection::state)
                .max()
                .unwrap_or(StateName::OpenSent),
            State::Established { .. } => StateName::Established,
        }
    }

    fn session_up(&mut self, now: Instant) {
        let State::Established { conn, .. } = self.state else {
            return;
        };
        let Some(connection) = self.connection(conn) else {
            return;
        };
        let Some(negotiated) = connection.negotiated().cloned() else {
            return;
        };
        let (local, remote) = (connection.local, connection.remote);
        self.since = Some(now);
        self.last_error = None;
        self.closed_without_notification = 0;
        let timeout = negotiated.hold_time;
        self.outputs
            .push_back(Output::SetUserTimeout { conn, timeout });
        self.outputs.push_back(Output::Established {
            negotiated: negotiated.clone(),
            local,
            remote,
        });
        let hold_end_of_rib = self.restarting && self.routes_incomplete;
        self.restarting = false;
        self.rib.begin(negotiated, hold_end_of_rib);
        self.report_unsendable();
    }

    fn session_down(&mut self) {
        self.rib.end();
        self.offer.reset();
        self.reported_unsendable = 0;
        // A stop by the operator is not a flap.
        self.flaps += u64::from(self.last_error.is_some());
        self.since = None;
        let reason = self.last_error.clone();
        self.outputs.push_back(Output::Down {
            reason: reason.unwrap_or(DownReason::Stopped),
        });
    }

    pub(super) fn established(&self) -> Option<&Connection> {
        match self.state {
            State::Established { conn, .. } => self.connection(conn),
            _ => None,
        }
    }

    pub(super) fn connection(&self, conn: ConnId) -> Option<&Connection> {
        self.connections.iter().find(|c| c.id == conn)
    }

    pub(super) fn connection_mut(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|c| c.id == conn)
    }

    fn remove_connection(&mut self, conn: ConnId) -> Option<Connection> {
        let index = self.connections.iter().position(|c| c.id == conn)?;
        Some(self.connections.remove(index))
    }
}

/// Starting, stopping and attempts.
impl Peer {
    pub(super) fn start(&mut self, now: Instant) {
        self.notice(Notice::NewOutage);
        self.retry.reset();
        self.restart(now);
    }

    /// AutomaticStart (events 3 and 5).
    pub(super) fn restart(&mut self, now: Instant) {
        if self.is_passive() {
            let connect_retry_at = None;
            self.enter(now, State::Active { connect_retry_at });
        } else {
            self.connect(now);
        }
    }

    /// Whether no outgoing connections are made.
    fn is_passive(&self) -> bool {
        self.config.passive || self.no_carrier
    }

    pub(super) fn stop(&mut self, now: Instant, notification: Option<Notification>) {
        self.last_error = None;
        self.close_attempt();
        let conns: Vec<ConnId> = self.connections.iter().map(|c| c.id).collect();
        for conn in conns {
            if let Some(notification) = &notification {
                self.send_message(now, conn, &Message::Notification(notification.clone()));
            }
            self.remove_connection(conn);
            self.outputs.push_back(Output::Close { conn });
        }
        self.offer.reset();
        self.enter(now, State::Idle { restart_at: None });
    }

    /// Starts a connection attempt in place of one in progress.
    pub(super) fn connect(&mut self, now: Instant) {
        self.close_attempt();
        self.last_attempt_number += 1;
        let conn = ConnId::outgoing(self.last_attempt_number);
        self.outputs.push_back(Output::Connect { conn });
        self.retry.attempted(now);
        let connect_retry_at = now + CONNECT_TIMEOUT;
        self.enter(
            now,
            State::Connect(ConnectAttempt {
                conn,
                connect_retry_at,
            }),
        );
    }

    pub(super) fn attempt(&self) -> Option<ConnectAttempt> {
        match self.state {
            State::Connect(attempt) => Some(attempt),
            State::Open { attempt } => attempt,
            State::Idle { .. } | State::Active { .. } | State::Established { .. } => None,
        }
    }

    /// Whether `conn` is the attempt that is being made.
    pub(super) fn is_attempt(&self, conn: ConnId) -> bool {
        self.attempt().is_some_and(|attempt| attempt.conn == conn)
    }

    pub(super) fn close_attempt(&mut self) {
        if let Some(ConnectAttempt { conn, .. }) = self.attempt() {
            self.outputs.push_back(Output::Close { conn });
        }
    }

    pub(super) fn attempt_failed(&mut self, now: Instant, error: String) {
        self.connect_timeouts = 0;
        self.notice(Notice::ConnectFailed(error.clone()));
        self.last_error = Some(DownReason::ConnectFailed(error));
        let delay = self.retry.after_connect_failure(now);
        self.wait_in_active(now, delay);
    }

    /// The attempt timed out: a refusal would have come at once, so SYNs or their answers are dropped.
    pub(super) fn attempt_timed_out(&mut self, now: Instant) {
        self.connect_timeouts = self.connect_timeouts.saturating_add(1);
        if self.connect_timeouts == CONNECT_TIMEOUTS_REPORTED {
            let has_md5_key = self.config.has_md5_key;
            self.notice(Notice::ConnectTimedOut { has_md5_key });
            self.last_error = Some(DownReason::ConnectTimedOut { has_md5_key });
        }
        self.connect(now);
    }

    /// Closes the attempt in favor of the other connection; no retry while that one is open.
    pub(super) fn abort_attempt(&mut self, now: Instant) {
        self.close_attempt();
        self.clear_attempt(now);
    }

    pub(super) fn clear_attempt(&mut self, now: Instant) {
        self.enter(now, State::Open { attempt: None });
    }

    /// Waits in Active, and connects after `delay`.
    fn wait_in_active(&mut self, now: Instant, delay: Duration) {
        let connect_retry_at = (!self.is_passive()).then(|| now + delay);
        self.enter(now, State::Active { connect_retry_at });
    }

    /// Whether the state is Idle with the IdleHoldTimer running.
    pub(super) fn is_idle_holding(&self) -> bool {
        matches!(self.state, State::Idle { restart_at } if restart_at.is_some())
    }

    /// Ends a running wait: connects now, or a moment after the last attempt.
    pub(super) fn retry_now(&mut self, now: Instant) {
        let earliest = self.retry.earliest(now);
        let at = match self.state {
            State::Idle { restart_at } => restart_at,
            // `None` without carrier.
            State::Active { connect_retry_at } => {
                connect_retry_at.or_else(|| (!self.is_passive()).then_some(earliest))
            }
            State::Connect(attempt) => Some(attempt.connect_retry_at),
            State::Open { .. } | State::Established { .. } => None,
        };
        let Some(at) = at else { return };
        self.retry.reset_backoff();
        if earliest <= now {
            return self.restart(now);
        }
        let at = at.min(earliest);
        let sooner = match self.state {
            State::Idle { .. } => State::Idle {
                restart_at: Some(at),
            },
            State::Connect(ConnectAttempt { conn, .. }) => State::Connect(ConnectAttempt {
                conn,
                connect_retry_at: at,
            }),
            _ => State::Active {
                connect_retry_at: Some(at),
            },
        };
        self.enter(now, sooner);
    }
}

/// Connections.
impl Peer {
    /// The TCP connection is open: sends the OPEN. A second connection is kept until the peer's OPEN on it
    /// decides the collision (§6.8).
    pub(super) fn open(&mut self, now: Instant, conn: ConnId, endpoints: Endpoints) {
        self.connect_timeouts = 0;
        let outgoing = self.is_attempt(conn);
        let ours = self.offer.open(&self.config, self.restarting);
        let config = &self.config;
        let context = DecodeContext::before_open(config.local_as, config.router_id, config.peer_as);
        let message = Message::Open(ours.clone());
        let mut connection = Connection::new(conn, outgoing, endpoints, ours, context, now);
        connection.supersedes = self.reported_state == StateName::Established;
        self.connections.push(connection);
        self.send_message(now, conn, &message);
        if !matches!(self.state, State::Established { .. }) {
            let attempt = self.attempt().filter(|_| !outgoing);
            self.enter(now, State::Open { attempt });
        }
        self.close_older_duplicate(now, conn, outgoing);
    }

    /// Closes an older connection in the same direction: the end that opened it has abandoned it. An established
    /// one stays until the OPEN on the new one was received.
    fn close_older_duplicate(&mut self, now: Instant, newer: ConnId, outgoing: bool) {
        let duplicate = self
            .connections
            .iter()
            .find(|c| c.id != newer && c.outgoing == outgoing && c.state() < StateName::Established)
            .map(|connection| connection.id);
        if let Some(duplicate) = duplicate {
            self.tear_down(
                now,
                duplicate,
                DownReason::Error(cease(Cease::CollisionResolution)),
            );
        }
    }

    /// Closes an incoming connection in Idle.
    pub(super) fn close_incoming(&mut self, conn: ConnId) {
        self.outputs.push_back(Output::Close { conn });
    }

    /// Rejects an incoming connection beside an established session (§6.8).
    pub(super) fn reject_incoming(&mut self, conn: ConnId) {
        let bytes = Notification::cease(Cease::CollisionResolution, None).encode();
        self.counters.sent.count(MessageType::Notification, 1);
        self.outputs.push_back(Output::Send { conn, bytes });
        self.outputs.push_back(Output::Close { conn });
    }

    /// Whether an incoming connection may mean that the peer restarted (RFC 4724 §4.2, §5). Not in the first
    /// [`SUPERSEDE_AFTER`] of a session: the peer may have opened it before it saw this one.
    pub(super) fn accepts_superseding(&self, now: Instant) -> bool {
        let helper = self
            .negotiated()
            .is_some_and(|negotiated| negotiated.graceful_restart.is_some());
        helper
            && self
                .uptime(now)
                .is_some_and(|uptime| uptime >= SUPERSEDE_AFTER)
    }

    /// Reports an overdue OPEN. The connection stays: RFC 4271 allows the OPEN four minutes.
    pub(super) fn mark_open_overdue(&mut self, conn: ConnId) {
        if let Some(connection) = self.connection_mut(conn) {
            connection.mark_open_overdue();
        }
        if self.reported_state != StateName::OpenSent {
            return;
        }
        self.notice(Notice::OpenOverdue);
        self.last_error = Some(DownReason::OpenOverdue);
    }

    /// The network changed while the OPEN is overdue on all connections: closes them and retries.
    pub(super) fn close_overdue(&mut self, now: Instant) {
        if !self.connections.iter().all(Connection::is_open_overdue) {
            return;
        }
        let silent: Vec<ConnId> = self.connections.iter().map(|c| c.id).collect();
        for conn in silent {
            self.tear_down(now, conn, DownReason::OpenOverdue);
        }
        self.retry_now(now);
    }

    /// Takes the peer's valid OPEN: resolves a collision (§6.8), negotiates and enters OpenConfirm.
    pub(super) fn receive_open(&mut self, now: Instant, conn: ConnId, open: &Open) {
        let Some(connection) = self.connection(conn) else {
            return;
        };
        let negotiated = match Negotiated::new(connection.ours(), open) {
            Ok(negotiated) => negotiated,
            Err(error) => return self.tear_down(now, conn, DownReason::Error(error.into())),
        };
        let other = self
            .connections
            .iter()
            .find(|other| other.id != conn && other.negotiated().is_some());
        if let Some(other) = other {
            let (other_id, quiet) = (other.id, connection.supersedes);
            if !wins_collision(connection, other, &negotiated) {
                return self.tear_down(
                    now,
                    conn,
                    DownReason::Error(cease(Cease::CollisionResolution)),
                );
            }
            let reason = if quiet {
                DownReason::PeerRestarted
            } else {
                DownReason::Error(cease(Cease::CollisionResolution))
            };
            self.tear_down(now, other_id, reason);
        }
        self.confirm(now, conn, negotiated);
    }

    fn confirm(&mut self, now: Instant, conn: ConnId, negotiated: Negotiated) {
        let keepalive = negotiated.keepalive().unwrap_or_default();
        let keepalive = KeepaliveTime::new(keepalive, self.retry.rng());
        let timers = SessionTimers::new(now, negotiated.hold_time, keepalive);
        if let Some(connection) = self.connection_mut(conn) {
            connection.confirm(negotiated, timers);
        }
        self.send_message(now, conn, &Message::Keepalive);
        let attempt = self.attempt();
        self.enter(now, State::Open { attempt });
    }

    pub(super) fn establish(&mut self, now: Instant, conn: ConnId) {
        if let Some(connection) = self.remove_connection(conn) {
            let mut connection = connection.establish();
            connection.restart_hold_timer(now);
            self.connections.push(connection);
        }
        self.close_attempt();
        self.enter_established(now, conn, None);
    }

    /// Tears down a connection: NOTIFICATION, close, then the state of the peer.
    pub(super) fn tear_down(&mut self, now: Instant, conn: ConnId, reason: DownReason) {
        if self.connection(conn).is_none() {
            return;
        }
        if let DownReason::Error(error) = &reason {
            self.send_message(now, conn, &Message::Notification(error.into()));
        }
        match &reason {
            DownReason::ConnectionLost(_) => {}
            reset if reset.is_reset() => self.outputs.push_back(Output::Reset { conn }),
            _ => self.outputs.push_back(Output::Close { conn }),
        }
        let Some(connection) = self.remove_connection(conn) else {
            return;
        };
        let was_up = matches!(self.state, State::Established { conn: up, .. } if up == conn);
        if !was_up && self.reported_state == StateName::Established {
            return;
        }
        let last = self.connections.is_empty();
        if last || was_up {
            self.last_error = Some(reason.clone());
        }
        if last {
            self.last_connection_ended(now, &reason, was_up, &connection);
        } else {
            let attempt = self.attempt();
            self.enter(now, State::Open { attempt });
        }
    }

    /// The last connection ended: chooses the wait until the next attempt.
    fn last_connection_ended(
        &mut self,
        now: Instant,
        reason: &DownReason,
        was_up: bool,
        connection: &Connection,
    ) {
        let sent_away = match reason {
            DownReason::NotificationReceived(notification) => likely_cause(notification),
            _ => None,
        };
        let less = match reason {
            DownReason::NotificationReceived(notification) if !was_up => {
                self.offer.refused(notification, connection.ours())
            }
            _ => false,
        };
        if let (None, Some(attempt)) = (sent_away, self.attempt()) {
            return self.enter(now, State::Connect(attempt));
        }
        self.close_attempt();
        // During a probe an end by the peer is not a refusal: it has lost the session.
        let probed = matches!(self.state, State::Established { probe_expires_at, .. } if probe_expires_at.is_some());
        let by = if probed {
            EndedBy::Local
        } else {
            reason.ended_by()
        };
        let uptime = self.uptime(now).filter(|_| was_up);
        if was_up || !matches!(reason, DownReason::ConnectionLost(_)) {
            self.enter(now, State::Idle { restart_at: None });
        }
        let unfinished =
            !was_up && reason.is_old_session_refusal() && self.retry.peer_may_hold_old_session();
        if uptime.is_some_and(|uptime| self.retry.is_stable(uptime)) {
            self.notice(Notice::NewOutage);
        }
        let delay = match uptime {
            Some(uptime) => self.retry.after_session(now, uptime, by),
            None if less => self.retry.after_connect_failure(now),
            None => self.retry.after_failed_connection(),
        };
        let cause = match unfinished {
            true => Some(LikelyCause::OldSessionHeld),
            false => sent_away
                .or_else(|| refused_on_loopback(reason, connection))
                .or_else(|| self.another_speaker(reason, was_up)),
        };
        self.report_end(reason, was_up, less, cause);
        let lost = matches!(reason, DownReason::ConnectionLost(_));
        if reason.is_reset() || (probed && lost) {
            return self.restart(now);
        }
        if sent_away.is_some() {
            let restart_at = Some(now + delay);
            return self.enter(now, State::Idle { restart_at });
        }
        self.wait_in_active(now, delay);
    }

    /// Reports the end of the last connection.
    fn report_end(
        &mut self,
        reason: &DownReason,
        was_up: bool,
        less: bool,
        cause: Option<LikelyCause>,
    ) {
        let reason = reason.clone();
        if less {
            self.notice(Notice::OfferReduced(reason));
        } else if let Some(cause) = cause {
            self.notice(Notice::LikelyCause { reason, cause });
        } else if !was_up {
            self.notice(Notice::NotEstablished(reason));
        }
    }

    /// The likely cause when a peer repeatedly ends sessions or connections without a NOTIFICATION.
    fn another_speaker(&mut self, reason: &DownReason, was_up: bool) -> Option<LikelyCause> {
        if !matches!(reason, DownReason::ConnectionLost(_)) {
            return None;
        }
        if was_up {
            return self
                .retry
                .is_evicted_repeatedly()
                .then_some(LikelyCause::AnotherSpeaker);
        }
        self.closed_without_notification = self.closed_without_notification.saturating_add(1);
        // BIRD closes the connection of an unknown neighbor without a NOTIFICATION.
        (self.closed_without_notification >= CLOSED_WITHOUT_NOTIFICATION)
            .then_some(LikelyCause::UnknownNeighbor)
    }

    pub(super) fn bfd_down(&mut self, now: Instant) {
        if let State::Established { conn, .. } = self.state {
            self.tear_down(now, conn, DownReason::Error(cease(Cease::BfdDown)));
        }
    }

    pub(super) fn unexpected(&mut self, now: Instant, conn: ConnId, kind: MessageType) {
        let state = match self.connection(conn).map(Connection::state) {
            Some(StateName::Established) => UnexpectedIn::Established,
            Some(StateName::OpenConfirm) => UnexpectedIn::OpenConfirm,
            _ => UnexpectedIn::OpenSent,
        };
        let error = ProtocolError::UnexpectedMessage { state, kind };
        self.tear_down(now, conn, DownReason::Error(error));
    }
}

/// Before it sends its OPEN, FRR looks up the interface of its local address; it finds none for a loopback
/// address and sends an FSM error.
fn refused_on_loopback(reason: &DownReason, connection: &Connection) -> Option<LikelyCause> {
    let before_open = connection.negotiated().is_none();
    let refused = matches!(reason, DownReason::NotificationReceived(n) if n.is_fsm_error());
    let refused = refused && before_open && connection.remote.ip().is_loopback();
    refused.then_some(LikelyCause::LoopbackRefused)
}

/// Whether `new`, whose OPEN was just received, wins the collision with `old` (§6.8). The connection opened by the
/// end with the higher identifier wins; with equal identifiers, by the end with the larger AS number (RFC 6286 §2.3).
/// Both ends reach the same result, whatever the order of messages, and even if one of them has established the
/// other connection meanwhile.
fn wins_collision(new: &Connection, old: &Connection, negotiated: &Negotiated) -> bool {
    if new.supersedes || new.outgoing == old.outgoing {
        return true;
    }
    let ours = (negotiated.local_router_id, negotiated.local_as);
    let theirs = (negotiated.peer_router_id, negotiated.peer_as);
    new.outgoing == (ours > theirs)
}

fn cease(cease: Cease) -> ProtocolError {
    let reason = None;
    ProtocolError::Cease { cease, reason }
}

/// Time after which an unanswered attempt is started again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The number of consecutive timeouts that is reported.
const CONNECT_TIMEOUTS_REPORTED: u32 = 3;
/// The number of consecutive closes from which a likely cause is reported.
const CLOSED_WITHOUT_NOTIFICATION: u32 = 3;

/// Uptime from which an incoming connection may supersede the session.
const SUPERSEDE_AFTER: Duration = Duration::from_secs(5);
