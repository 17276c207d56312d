//! What the arms of the table in [`Peer::step`] do.

use std::time::{Duration, Instant};

use super::retry::{By, likely_cause};
use super::{Attempt, ConnId, Output, Peer, State, StateName, TeardownCause};
use crate::bgp::connection::{Connection, Endpoints, Liveness};
use crate::bgp::{
    Cease, DecodeContext, Message, Negotiated, Notification, Open, ProtocolError, Type,
    UnexpectedIn,
};

/// States.
impl Peer {
    /// The one place where the state changes. What a state begins or ends with is done here.
    pub(super) fn enter(&mut self, now: Instant, to: State) {
        self.state = to;
        let (from, to) = (self.shown, self.state_name());
        if from == to {
            return;
        }
        self.shown = to;
        self.outputs.push_back(Output::StateChanged { from, to });
        let name = &self.config.name;
        let reason = self.last_error.as_deref().unwrap_or("stopped");
        match (from, to) {
            (_, StateName::Established) => log::info!("peer {name}: established"),
            (StateName::Established, _) => log::info!("peer {name}: {from} -> {to}: {reason}"),
            // A peer that is away must not fill the log; what changed about it is logged elsewhere.
            _ => log::debug!("peer {name}: {from} -> {to}"),
        }
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
            // Of two connections the one that has come further.
            State::Open { .. } => self
                .connections
                .values()
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
        let Some(connection) = self.connections.get(&conn) else {
            return;
        };
        let Some(negotiated) = connection.negotiated().cloned() else {
            return;
        };
        self.since = Some(now);
        self.last_error = None;
        self.turned_away = 0;
        let timeout = negotiated.hold_time;
        self.outputs
            .push_back(Output::SetUserTimeout { conn, timeout });
        self.outputs.push_back(Output::Established {
            negotiated: negotiated.clone(),
            local: connection.local,
            remote: connection.remote,
        });
        let hold_end_of_rib = self.restarting && self.routes_unknown;
        self.restarting = false;
        self.rib.begin(negotiated, hold_end_of_rib);
        self.log_unsendable();
    }

    fn session_down(&mut self) {
        self.rib.end();
        self.offer.reset();
        self.logged_unsendable = 0;
        // Stopped by the operator is not lost.
        self.flaps += u64::from(self.last_error.is_some());
        self.since = None;
        let reason = self.last_error.clone();
        self.outputs.push_back(Output::Down {
            reason: reason.unwrap_or_else(|| "stopped".to_owned()),
        });
    }

    pub(super) fn established(&self) -> Option<&Connection> {
        match self.state {
            State::Established { conn, .. } => self.connections.get(&conn),
            _ => None,
        }
    }
}

/// Starting, stopping and attempts.
impl Peer {
    pub(super) fn start(&mut self, now: Instant) {
        self.retry.forget();
        self.restart(now);
    }

    /// AutomaticStart (events 3 and 5).
    pub(super) fn restart(&mut self, now: Instant) {
        if self.listens_only() {
            let connect_retry_at = None;
            self.enter(now, State::Active { connect_retry_at });
        } else {
            self.connect(now);
        }
    }

    /// No attempt is made.
    fn listens_only(&self) -> bool {
        self.config.passive || self.no_carrier
    }

    pub(super) fn stop(&mut self, now: Instant, notification: Option<Notification>) {
        self.last_error = None;
        self.give_up_attempt();
        let conns: Vec<ConnId> = self.connections.keys().copied().collect();
        for conn in conns {
            if let Some(notification) = &notification {
                self.say(now, conn, &Message::Notification(notification.clone()));
            }
            self.connections.remove(&conn);
            self.outputs.push_back(Output::Close { conn });
        }
        self.offer.reset();
        self.enter(now, State::Idle { restart_at: None });
    }

    /// A new attempt; one that nobody answered is dropped.
    pub(super) fn connect(&mut self, now: Instant) {
        self.give_up_attempt();
        self.last_conn += 1;
        let conn = ConnId(self.last_conn);
        self.outputs.push_back(Output::Connect { conn });
        self.retry.attempted(now);
        let connect_retry_at = now + ATTEMPT;
        self.enter(
            now,
            State::Connect(Attempt {
                conn,
                connect_retry_at,
            }),
        );
    }

    pub(super) fn attempt(&self) -> Option<Attempt> {
        match self.state {
            State::Connect(attempt) => Some(attempt),
            State::Open { attempt } => attempt,
            State::Idle { .. } | State::Active { .. } | State::Established { .. } => None,
        }
    }

    /// Whether `conn` is the attempt that is being made.
    pub(super) fn attempts(&self, conn: ConnId) -> bool {
        self.attempt().is_some_and(|attempt| attempt.conn == conn)
    }

    pub(super) fn give_up_attempt(&mut self) {
        if let Some(Attempt { conn, .. }) = self.attempt() {
            self.outputs.push_back(Output::Close { conn });
        }
    }

    pub(super) fn attempt_failed(&mut self, now: Instant, error: String) {
        self.unanswered = 0;
        if self.retry.is_news(&error) {
            log::info!("peer {}: no connection: {error}", self.config.name);
        }
        self.last_error = Some(error);
        let delay = self.retry.after_refusal(now);
        self.wait(now, delay);
    }

    /// A refusal would have come at once: whoever is there drops our segments.
    pub(super) fn attempt_unanswered(&mut self, now: Instant) {
        self.unanswered = self.unanswered.saturating_add(1);
        if self.unanswered == UNANSWERED {
            let name = &self.config.name;
            let why = if self.config.signed {
                "no answer; a wrong TCP MD5 password looks like this, and a peer that is away"
            } else {
                "no answer; the peer is away, drops our packets, or wants a TCP MD5 password"
            };
            if self.retry.is_news(why) {
                log::warn!("peer {name}: {why}");
            }
            self.last_error = Some(why.to_owned());
        }
        self.connect(now);
    }

    /// The attempt beside another connection is over; there will be no other while that one lasts.
    pub(super) fn abandon_attempt(&mut self, now: Instant) {
        self.give_up_attempt();
        self.forget_attempt(now);
    }

    pub(super) fn forget_attempt(&mut self, now: Instant) {
        self.enter(now, State::Open { attempt: None });
    }

    /// Listens, and connects after a while.
    fn wait(&mut self, now: Instant, delay: Duration) {
        let connect_retry_at = (!self.listens_only()).then(|| now + delay);
        self.enter(now, State::Active { connect_retry_at });
    }

    /// In Idle, but not for ever.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Idle { restart_at } if restart_at.is_some())
    }

    /// What waits is tried at once, what has just been tried in a moment.
    pub(super) fn retry_soon(&mut self, now: Instant) {
        let soonest = self.retry.soonest(now);
        let at = match self.state {
            State::Idle { restart_at } => restart_at,
            // There may have been no carrier.
            State::Active { connect_retry_at } => {
                connect_retry_at.or_else(|| (!self.listens_only()).then_some(soonest))
            }
            State::Connect(attempt) => Some(attempt.connect_retry_at),
            State::Open { .. } | State::Established { .. } => None,
        };
        let Some(at) = at else { return };
        self.retry.changed();
        if soonest <= now {
            return self.restart(now);
        }
        let at = at.min(soonest);
        let sooner = match self.state {
            State::Idle { .. } => State::Idle {
                restart_at: Some(at),
            },
            State::Connect(Attempt { conn, .. }) => State::Connect(Attempt {
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
    /// TCP is up: OPEN is sent. Beside another connection this one is followed until its OPEN decides
    /// (§6.8).
    pub(super) fn open(&mut self, now: Instant, conn: ConnId, endpoints: Endpoints) {
        self.unanswered = 0;
        let outgoing = self.attempts(conn);
        let ours = self.offer.open(&self.config, self.restarting);
        let config = &self.config;
        let context = DecodeContext::before_open(config.local_as, config.router_id, config.peer_as);
        let message = Message::Open(ours.clone());
        let mut connection = Connection::new(conn, outgoing, endpoints, ours, context, now);
        connection.supersedes = self.shown == StateName::Established;
        self.connections.insert(conn, connection);
        self.say(now, conn, &message);
        if !matches!(self.state, State::Established { .. }) {
            let attempt = self.attempt().filter(|_| !outgoing);
            self.enter(now, State::Open { attempt });
        }
        self.drop_older_twin(now, conn, outgoing);
    }

    /// The same end opened another connection: it has given the older one up. An established one stays
    /// until the new one's OPEN has come.
    fn drop_older_twin(&mut self, now: Instant, newer: ConnId, outgoing: bool) {
        let twin = self
            .connections
            .values()
            .find(|c| c.id != newer && c.outgoing == outgoing && c.state() < StateName::Established)
            .map(|connection| connection.id);
        if let Some(twin) = twin {
            self.end(
                now,
                twin,
                TeardownCause::Error(cease(Cease::CollisionResolution)),
            );
        }
    }

    /// In Idle nobody is let in.
    pub(super) fn refuse(&mut self, conn: ConnId) {
        self.outputs.push_back(Output::Close { conn });
    }

    /// Beside an established session a new connection is closed (§6.8).
    pub(super) fn reject(&mut self, conn: ConnId) {
        let bytes = Notification::cease(Cease::CollisionResolution, None).encode();
        self.counters.sent.count(Type::Notification, 1);
        self.outputs.push_back(Output::Send { conn, bytes });
        self.outputs.push_back(Output::Close { conn });
    }

    /// Whether the peer may have restarted without our noticing (RFC 4724 §4.2, §5). Not in the first
    /// moments of a session: then it is a connection that was begun before the peer saw this one.
    pub(super) fn may_supersede(&self, now: Instant) -> bool {
        let helper = self
            .negotiated()
            .is_some_and(|negotiated| negotiated.graceful_restart.is_some());
        helper && self.uptime(now).is_some_and(|uptime| uptime >= SETTLED)
    }

    /// RFC 4271 grants the OPEN four minutes, and a peer that hangs may need them; it is said meanwhile.
    pub(super) fn note_silence(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.note_silence();
        }
        if self.shown != StateName::OpenSent {
            return;
        }
        if self.retry.is_news(SILENT) {
            log::warn!("peer {}: {SILENT}", self.config.name);
        }
        self.last_error = Some(SILENT.to_owned());
    }

    /// Something changed, and nobody that we have a connection to speaks: whoever is there now may.
    pub(super) fn leave_silent(&mut self, now: Instant) {
        if !self.connections.values().all(Connection::is_silent) {
            return;
        }
        let silent: Vec<ConnId> = self.connections.keys().copied().collect();
        for conn in silent {
            self.end(now, conn, TeardownCause::Silent(SILENT.to_owned()));
        }
        self.retry_soon(now);
    }

    /// The peer's OPEN is good: what is agreed on holds, unless another connection is to be preferred.
    pub(super) fn receive_open(&mut self, now: Instant, conn: ConnId, open: &Open) {
        let Some(connection) = self.connections.get(&conn) else {
            return;
        };
        let negotiated = match Negotiated::new(connection.ours(), open) {
            Ok(negotiated) => negotiated,
            Err(error) => return self.end(now, conn, TeardownCause::Error(error.into())),
        };
        let other = self
            .connections
            .values()
            .find(|other| other.id != conn && other.negotiated().is_some());
        if let Some(other) = other {
            let (other_id, quiet) = (other.id, connection.supersedes);
            if !preferred(connection, other, &negotiated) {
                return self.end(
                    now,
                    conn,
                    TeardownCause::Error(cease(Cease::CollisionResolution)),
                );
            }
            let end = if quiet {
                TeardownCause::Silent("the peer restarted".to_owned())
            } else {
                TeardownCause::Error(cease(Cease::CollisionResolution))
            };
            self.end(now, other_id, end);
        }
        self.confirm(now, conn, negotiated);
    }

    fn confirm(&mut self, now: Instant, conn: ConnId, negotiated: Negotiated) {
        // Jitter as RFC 4271 §10 asks, the same for the whole session.
        let keepalive = negotiated.keepalive().unwrap_or_default();
        let keepalive = self.retry.jitter().shorten(keepalive);
        let liveness = Liveness::new(now, negotiated.hold_time, keepalive);
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.confirm(negotiated, liveness);
        }
        self.say(now, conn, &Message::Keepalive);
        let attempt = self.attempt();
        self.enter(now, State::Open { attempt });
    }

    pub(super) fn establish(&mut self, now: Instant, conn: ConnId) {
        if let Some(connection) = self.connections.remove(&conn) {
            let mut connection = connection.establish();
            connection.restart_hold_timer(now);
            self.connections.insert(conn, connection);
        }
        self.give_up_attempt();
        let dead_at = None;
        self.enter(now, State::Established { conn, dead_at });
    }

    /// The one way in which a connection ends by itself or by an error: what is said, then the close,
    /// then what that means for the peer.
    pub(super) fn end(&mut self, now: Instant, conn: ConnId, end: TeardownCause) {
        let Some(connection) = self.connections.get(&conn) else {
            return;
        };
        let offered = connection.ours().clone();
        if let TeardownCause::Error(error) = &end {
            self.say(now, conn, &Message::Notification(error.into()));
        }
        match end {
            TeardownCause::Lost(_) => {}
            TeardownCause::Reset(_) => self.outputs.push_back(Output::Reset { conn }),
            _ => self.outputs.push_back(Output::Close { conn }),
        }
        self.connections.remove(&conn);
        let was_up = matches!(self.state, State::Established { conn: up, .. } if up == conn);
        if !was_up && self.shown == StateName::Established {
            return;
        }
        let last = self.connections.is_empty();
        if last || was_up {
            self.last_error = Some(end.to_string());
        }
        if last {
            self.ended(now, &end, was_up, &offered);
        } else {
            let attempt = self.attempt();
            self.enter(now, State::Open { attempt });
        }
    }

    /// No connection is left.
    fn ended(&mut self, now: Instant, end: &TeardownCause, was_up: bool, offered: &Open) {
        let sent_away = match end {
            TeardownCause::NotificationReceived(notification) => likely_cause(notification),
            _ => None,
        };
        let less = match end {
            TeardownCause::NotificationReceived(notification) if !was_up => {
                self.offer.refused(notification, offered)
            }
            _ => false,
        };
        if let (None, Some(attempt)) = (sent_away, self.attempt()) {
            return self.enter(now, State::Connect(attempt));
        }
        self.give_up_attempt();
        // What the peer says while it is probed comes from before, or says that it has forgotten us.
        let probed = matches!(self.state, State::Established { dead_at, .. } if dead_at.is_some());
        let by = if probed { By::Us } else { end.by() };
        let uptime = self.uptime(now).filter(|_| was_up);
        if was_up || !matches!(end, TeardownCause::Lost(_)) {
            self.enter(now, State::Idle { restart_at: None });
        }
        let unfinished = !was_up && end.may_mean_an_old_session() && self.retry.is_aftermath();
        let delay = match uptime {
            Some(uptime) => self.retry.after_session(now, uptime, by),
            None if less => self.retry.after_refusal(now),
            None => self.retry.after_connection(),
        };
        if less {
            log::warn!(
                "peer {}: {end}; offering it fewer capabilities",
                self.config.name
            );
        } else if unfinished {
            self.explain(end, UNFINISHED);
        } else if let Some(cause) = sent_away.or_else(|| self.another_speaker(end, was_up)) {
            self.explain(end, cause);
        } else if !was_up && self.retry.is_news(&end.to_string()) {
            log::info!("peer {}: no session: {end}", self.config.name);
        }
        if matches!(end, TeardownCause::Reset(_))
            || (probed && matches!(end, TeardownCause::Lost(_)))
        {
            return self.restart(now);
        }
        if sent_away.is_some() {
            let restart_at = Some(now + delay);
            return self.enter(now, State::Idle { restart_at });
        }
        self.wait(now, delay);
    }

    /// The log hears of a cause once in an outage.
    fn explain(&mut self, end: &TeardownCause, cause: &'static str) {
        if self.retry.is_news(cause) {
            let name = &self.config.name;
            log::warn!("peer {name}: {end}; most likely {cause}");
        }
    }

    /// What it means when a peer goes on ending sessions, or connections, without saying why.
    fn another_speaker(&mut self, end: &TeardownCause, was_up: bool) -> Option<&'static str> {
        if !matches!(end, TeardownCause::Lost(_)) {
            return None;
        }
        if was_up {
            return self.retry.is_evicted().then_some(EVICTED);
        }
        self.turned_away = self.turned_away.saturating_add(1);
        // BIRD turns away whom it does not expect without a NOTIFICATION.
        (self.turned_away >= TURNED_AWAY).then_some(UNEXPECTED)
    }

    pub(super) fn bfd_down(&mut self, now: Instant) {
        if let State::Established { conn, .. } = self.state {
            self.end(now, conn, TeardownCause::Error(cease(Cease::BfdDown)));
        }
    }

    pub(super) fn unexpected(&mut self, now: Instant, conn: ConnId, kind: Type) {
        let state = match self.connections.get(&conn).map(Connection::state) {
            Some(StateName::Established) => UnexpectedIn::Established,
            Some(StateName::OpenConfirm) => UnexpectedIn::OpenConfirm,
            _ => UnexpectedIn::OpenSent,
        };
        let error = ProtocolError::UnexpectedMessage { state, kind };
        self.end(now, conn, TeardownCause::Error(error));
    }
}

/// Whether `new`, whose OPEN has just come, survives `old` (§6.8): the connection that the end with the
/// higher identifier opened, with equal ones the end with the larger AS number (RFC 6286 §2.3). Both
/// ends come to the same answer, in whatever order they see things; also when one of them has
/// established the other connection in the meantime.
fn preferred(new: &Connection, old: &Connection, negotiated: &Negotiated) -> bool {
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

const SILENT: &str = "it takes connections and sends no OPEN: its BGP daemon hangs, or something on the way \
     takes connections in its place";
const UNFINISHED: &str = "it has not finished with our last session yet";
const EVICTED: &str = "another BGP speaker uses this address, and the peer takes each connection for a \
     restart of the other";
const UNEXPECTED: &str = "it does not know us as a neighbor, or another BGP speaker on this address has \
     the session it allows";
/// An attempt that nobody has answered for so long is begun anew.
const ATTEMPT: Duration = Duration::from_secs(1);
/// So many of them in a row are told to the operator.
const UNANSWERED: u32 = 3;
/// So many connections closed in a row have a cause.
const TURNED_AWAY: u32 = 3;

/// By then the peer must have seen that a session is up.
const SETTLED: Duration = Duration::from_secs(5);
