//! RFC 4271 §8: the machine that keeps a session with one peer, without a socket or a clock of its
//! own. RFC 6286 (identifiers in collisions), RFC 6608 (FSM errors), RFC 4486 (Cease), RFC 4724
//! (advertising a restart), RFC 5492 (an OPEN that offers less), RFC 9384 (BFD), RFC 9687.
//!
//! Where it differs from §8.2.2: after a failure it listens and waits in Active, not in Idle, so that a
//! peer that comes by itself is not refused; Idle's IdleHoldTimer is for peers that sent us away, and
//! even then one that comes by itself is taken. A peer that takes connections and sends no OPEN is left
//! when something in the network changes, before OpenSent's large hold timer. A header error in
//! Established is reported as such and not as an FSM error. When the way to the peer was gone and is there
//! again, a session is probed and reset where nobody acknowledges. Left out: DelayOpen; RFC 8538, but for
//! reading a peer's hard reset.

mod interface;
mod messages;
mod offer;
mod path;
mod retry;
mod session;
mod teardown;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use interface::{ConnId, Counters, Event, MessageCounts, Output, PeerConfig, StateName, Timer};

use self::offer::Offer;
use self::retry::Retry;
use self::teardown::TeardownCause;
use super::connection::{Connection, Endpoints};
use super::rib::AdjRibOut;
use super::{Negotiated, Notification, Open, PathAttributes, ProtocolError, RouteRefresh, Type};
use crate::net::Prefix;
use crate::timer::Soonest;

/// One BGP peer.
#[derive(Debug)]
pub struct Peer {
    config: PeerConfig,
    state: State,
    /// As the outside was last told.
    shown: StateName,
    /// Those whose TCP is up: at most one that we opened and one that the peer opened.
    connections: BTreeMap<ConnId, Connection>,
    last_conn: u64,
    retry: Retry,
    /// Of the interface towards the peer.
    no_carrier: bool,
    offer: Offer,
    rib: AdjRibOut,
    /// Nothing is known yet of what to announce.
    routes_unknown: bool,
    /// No session since the planned restart.
    restarting: bool,
    outputs: VecDeque<Output>,
    counters: Counters,
    since: Option<Instant>,
    last_error: Option<String>,
    /// Attempts in a row that nobody answered.
    unanswered: u32,
    /// Connections in a row that the peer closed without a word.
    turned_away: u32,
    flaps: u64,
    /// How many routes the log has last said cannot be announced in this session.
    logged_unsendable: usize,
}

/// A state owns its deadlines; those of connections are theirs.
#[derive(Clone, Copy, Debug)]
enum State {
    /// `None`: stopped by the operator.
    Idle {
        restart_at: Option<Instant>,
    },
    Connect(Attempt),
    /// `None`: passive.
    Active {
        connect_retry_at: Option<Instant>,
    },
    /// OpenSent or OpenConfirm, on one or two connections (§6.8); ours may still be an attempt.
    Open {
        attempt: Option<Attempt>,
    },
    /// `Some`: it is being probed, and an answer is awaited until then.
    Established {
        conn: ConnId,
        dead_at: Option<Instant>,
    },
}

/// An outgoing connection that nobody has answered yet.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    conn: ConnId,
    connect_retry_at: Instant,
}

/// The events of §8.1, by their names.
#[derive(Debug)]
enum Fsm {
    /// 1 and 4.
    ManualStart,
    /// 2; `None`: without a word.
    ManualStop(Option<Notification>),
    /// 9.
    ConnectRetryTimerExpires,
    /// 13.
    IdleHoldTimerExpires,
    /// Something came up that an attempt may have been waiting for.
    RetryNow,
    NoCarrier,
    PathChanged,
    ProbeExpires,
    LocalAddressGone,
    BfdDown,
    On(ConnId, ConnectionEvent),
}

/// Those that belong to one connection.
#[derive(Debug)]
enum ConnectionEvent {
    /// 10.
    HoldTimerExpires,
    /// The peer took the connection and says nothing.
    OpenIsLate,
    /// 11.
    KeepaliveTimerExpires,
    /// 16: ours.
    TcpCrAcked(Endpoints),
    /// 17: the peer's.
    TcpConnectionConfirmed(Endpoints),
    /// 18.
    TcpConnectionFails(String),
    /// 19.
    BgpOpen(Open),
    /// 21, 22 and 28.
    MsgErr(ProtocolError),
    /// 24 and 25.
    NotifMsg(Notification),
    /// 26.
    KeepAliveMsg,
    /// 27.
    UpdateMsg,
    /// RFC 2918.
    RouteRefreshMsg(RouteRefresh),
    /// 29, RFC 9687 §3.
    SendHoldTimerExpires,
    /// All that was sent.
    Acknowledged,
}

impl Peer {
    /// In Idle until [`Event::Start`]. The same seed makes the same run.
    pub fn new(config: PeerConfig, jitter_seed: u64) -> Self {
        Self {
            state: State::Idle { restart_at: None },
            shown: StateName::Idle,
            connections: BTreeMap::new(),
            last_conn: 0,
            retry: Retry::new(config.connect_retry, jitter_seed),
            no_carrier: false,
            offer: Offer::default(),
            rib: AdjRibOut::default(),
            routes_unknown: true,
            restarting: config.restarting,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            since: None,
            last_error: None,
            unanswered: 0,
            turned_away: 0,
            flaps: 0,
            logged_unsendable: 0,
            config,
        }
    }

    pub fn handle(&mut self, now: Instant, event: Event) {
        use ConnectionEvent::*;
        match event {
            Event::Start => self.step(now, Fsm::ManualStart),
            Event::Stop(notification) => self.step(now, Fsm::ManualStop(Some(notification))),
            Event::StopQuietly => self.step(now, Fsm::ManualStop(None)),
            Event::RetryNow => self.step(now, Fsm::RetryNow),
            Event::NetworkChanged if self.retry.is_damped() => {}
            Event::NetworkChanged => self.step(now, Fsm::RetryNow),
            Event::NoCarrier => self.step(now, Fsm::NoCarrier),
            Event::PathChanged => {
                self.no_carrier = false;
                self.retry.path_changed();
                self.step(now, Fsm::PathChanged);
            }
            Event::LocalAddressGone => self.step(now, Fsm::LocalAddressGone),
            Event::Acknowledged { conn } => self.step(now, Fsm::On(conn, Acknowledged)),
            Event::BfdDown => self.step(now, Fsm::BfdDown),
            Event::Accepted {
                conn,
                local,
                remote,
            } => {
                let endpoints = Endpoints { local, remote };
                self.step(now, Fsm::On(conn, TcpConnectionConfirmed(endpoints)));
            }
            Event::Connected {
                conn,
                local,
                remote,
            } if self.attempts(conn) => {
                let endpoints = Endpoints { local, remote };
                self.step(now, Fsm::On(conn, TcpCrAcked(endpoints)));
            }
            Event::ConnectFailed { conn, error: why } | Event::Closed { conn, reason: why }
                if self.attempts(conn) || self.connections.contains_key(&conn) =>
            {
                self.step(now, Fsm::On(conn, TcpConnectionFails(why)));
            }
            Event::Received { conn, bytes } => self.receive(now, conn, &bytes),
            Event::Sent { conn, bytes } => {
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.sent(now, bytes);
                }
            }
            // Of an attempt or a connection that we have given up.
            Event::Connected { .. } | Event::ConnectFailed { .. } | Event::Closed { .. } => {}
        }
        self.send_routes(now);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, timer)) = self.poll_timeout()
            && at <= now
        {
            self.step(
                now,
                match timer {
                    Timer::ConnectRetry => Fsm::ConnectRetryTimerExpires,
                    Timer::IdleHold => Fsm::IdleHoldTimerExpires,
                    Timer::Probe => Fsm::ProbeExpires,
                    Timer::Hold(conn) => Fsm::On(conn, ConnectionEvent::HoldTimerExpires),
                    Timer::Silence(conn) => Fsm::On(conn, ConnectionEvent::OpenIsLate),
                    Timer::Keepalive(conn) => Fsm::On(conn, ConnectionEvent::KeepaliveTimerExpires),
                    Timer::SendHold(conn) => Fsm::On(conn, ConnectionEvent::SendHoldTimerExpires),
                },
            );
        }
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let mut soonest = Soonest::new();
        match self.state {
            State::Idle { restart_at } => soonest.add(restart_at, Timer::IdleHold),
            State::Active { connect_retry_at } => {
                soonest.add(connect_retry_at, Timer::ConnectRetry);
            }
            State::Established { dead_at, .. } => soonest.add(dead_at, Timer::Probe),
            State::Connect(_) | State::Open { .. } => {
                let at = self.attempt().map(|attempt| attempt.connect_retry_at);
                soonest.add(at, Timer::ConnectRetry);
            }
        }
        for (at, timer) in self
            .connections
            .values()
            .filter_map(Connection::poll_timeout)
        {
            soonest.add(Some(at), timer);
        }
        soonest.get()
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What the peer shall know from now on: the whole set, in attributes as they are before they
    /// leave us. `as_path` holds only what is prepended on top (on eBGP our AS is added, on iBGP the path
    /// is emptied); `local_pref` goes out on iBGP only and is 100 where it is `None`. Only differences
    /// to what was said before are sent; an equal set sends nothing.
    pub fn advertise(&mut self, now: Instant, routes: BTreeMap<Prefix, PathAttributes>) {
        self.routes_unknown = false;
        self.rib.release_end_of_rib();
        self.advertise_some(now, routes);
    }

    /// The same for a set that is not known to be whole yet: after a restart End-of-RIB still waits.
    pub fn advertise_some(&mut self, now: Instant, routes: BTreeMap<Prefix, PathAttributes>) {
        self.rib.replace(routes);
        self.send_routes(now);
        self.log_unsendable();
    }

    /// Changes of the set that [`Peer::advertise`] describes: `None` withdraws.
    pub fn update(&mut self, now: Instant, changes: BTreeMap<Prefix, Option<PathAttributes>>) {
        self.rib.update(changes);
        self.send_routes(now);
        self.log_unsendable();
    }

    /// Nothing is missing from the set any more: End-of-RIB may follow it.
    pub fn complete(&mut self, now: Instant) {
        self.routes_unknown = false;
        self.rib.release_end_of_rib();
        self.send_routes(now);
    }

    /// The wanted set, as text.
    #[cfg(test)]
    pub fn wanted(&self) -> String {
        format!("{:?}", self.rib.wanted())
    }

    pub fn state(&self) -> StateName {
        self.shown
    }

    /// Of the session that is up.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.established()?.negotiated()
    }

    /// Our end of the session that is up.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.established().map(|connection| connection.local)
    }

    /// How many prefixes the peer has been told of in this session.
    pub fn announced(&self) -> usize {
        self.rib.announced()
    }

    /// Whether `prefix` has been told to the peer in this session.
    pub fn is_announced(&self, prefix: &Prefix) -> bool {
        self.rib.is_announced(prefix)
    }

    /// Nothing waits to be written to the peer; what the kernel holds is not counted.
    pub fn is_flushed(&self) -> bool {
        self.established()
            .is_none_or(|connection| connection.unsent() == 0 && self.rib.is_flushed())
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How long the session has been up.
    pub fn uptime(&self, now: Instant) -> Option<Duration> {
        self.since.map(|since| now.saturating_duration_since(since))
    }

    /// Why the last session or attempt ended.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// How often the session was lost after it had been up.
    pub fn flaps(&self) -> u64 {
        self.flaps
    }

    /// §8.2.2. A connection's events meet the state of that connection, all others that of the peer.
    fn step(&mut self, now: Instant, event: Fsm) {
        use ConnectionEvent::*;
        use Fsm::*;
        use StateName::*;
        let state = match &event {
            On(conn, _) => self.connections.get(conn).map(Connection::state),
            _ => None,
        };
        match (state.unwrap_or(self.shown), event) {
            (_, ManualStop(notification)) => self.stop(now, notification),

            (Idle, ManualStart) => self.start(now),
            (Idle, IdleHoldTimerExpires) => self.restart(now),
            (_, NoCarrier) => self.lose_carrier(now),
            (Idle | Connect | Active, RetryNow | PathChanged) => self.retry_soon(now),
            // It sent us away and is here again: that is as good as a start.
            (Idle, On(conn, TcpConnectionConfirmed(endpoints))) if self.is_waiting() => {
                self.open(now, conn, endpoints);
            }
            (Idle, On(conn, TcpConnectionConfirmed(_))) => self.refuse(conn),

            (Connect, ConnectRetryTimerExpires) => self.attempt_unanswered(now),
            (Active, ConnectRetryTimerExpires) => self.connect(now),
            (
                Connect | Active,
                On(conn, TcpCrAcked(endpoints) | TcpConnectionConfirmed(endpoints)),
            ) => {
                self.open(now, conn, endpoints);
            }
            (Connect, On(_, TcpConnectionFails(error))) => self.attempt_failed(now, error),

            // A second connection, or the end of the attempt to make one.
            (
                OpenSent | OpenConfirm,
                On(conn, TcpCrAcked(endpoints) | TcpConnectionConfirmed(endpoints)),
            ) => {
                self.open(now, conn, endpoints);
            }
            (Established, On(conn, TcpConnectionConfirmed(endpoints)))
                if self.may_supersede(now) =>
            {
                self.open(now, conn, endpoints);
            }
            (Established, On(conn, TcpConnectionConfirmed(_))) => self.reject(conn),
            (OpenSent | OpenConfirm, ConnectRetryTimerExpires) => self.abandon_attempt(now),
            (OpenSent | OpenConfirm, On(conn, TcpConnectionFails(_))) if self.attempts(conn) => {
                self.forget_attempt(now);
            }

            // The OPENs.
            (OpenSent, On(conn, OpenIsLate)) => self.note_silence(conn),
            (OpenSent, RetryNow | PathChanged) => self.leave_silent(now),
            (OpenSent, On(conn, BgpOpen(open))) => self.receive_open(now, conn, &open),
            (OpenConfirm, On(conn, KeepAliveMsg)) => self.establish(now, conn),

            // The session.
            // Routes are checked by the codec and kept nowhere.
            (Established, On(conn, KeepAliveMsg | UpdateMsg)) => self.restart_hold_timer(now, conn),
            (Established, On(conn, RouteRefreshMsg(refresh))) => {
                self.receive_route_refresh(now, conn, refresh);
            }
            (OpenConfirm | Established, On(conn, KeepaliveTimerExpires)) => {
                self.keepalive_is_due(now, conn);
            }
            (Established, PathChanged) => self.probe(now),
            (Established, On(conn, Acknowledged)) => self.probe_answered(now, conn),
            (Established, ProbeExpires) => self.probe_failed(now),

            // The ends of a connection.
            (OpenSent | OpenConfirm | Established, On(conn, HoldTimerExpires)) => {
                self.end(
                    now,
                    conn,
                    TeardownCause::Error(ProtocolError::HoldTimerExpired),
                );
            }
            (OpenConfirm | Established, On(conn, SendHoldTimerExpires)) => {
                let error = ProtocolError::SendHoldTimerExpired.to_string();
                self.end(now, conn, TeardownCause::Silent(error));
            }
            (OpenSent | OpenConfirm | Established, On(conn, TcpConnectionFails(reason))) => {
                self.end(now, conn, TeardownCause::Lost(reason));
            }
            // §8.2.2 has no error of an OPEN (event 22) in Established, and none of an UPDATE (28) before.
            (Established, On(conn, MsgErr(ProtocolError::Open(_)))) => {
                self.unexpected(now, conn, Type::Open);
            }
            (OpenSent | OpenConfirm, On(conn, MsgErr(ProtocolError::Update(_)))) => {
                self.unexpected(now, conn, Type::Update);
            }
            (OpenSent | OpenConfirm | Established, On(conn, MsgErr(error))) => {
                self.end(now, conn, TeardownCause::Error(error));
            }
            (OpenSent | OpenConfirm | Established, On(conn, NotifMsg(notification))) => {
                self.end(now, conn, TeardownCause::NotificationReceived(notification));
            }
            (Established, BfdDown) => self.bfd_down(now),
            (OpenSent | OpenConfirm | Established, LocalAddressGone) => {
                self.lose_local_address(now);
            }
            // Messages that do not belong into the state (RFC 6608).
            (OpenSent, On(conn, KeepAliveMsg)) => self.unexpected(now, conn, Type::Keepalive),
            (OpenSent | OpenConfirm, On(conn, UpdateMsg)) => {
                self.unexpected(now, conn, Type::Update);
            }
            (OpenSent | OpenConfirm, On(conn, RouteRefreshMsg(_))) => {
                self.unexpected(now, conn, Type::RouteRefresh);
            }
            (OpenConfirm | Established, On(conn, BgpOpen(_))) => {
                self.unexpected(now, conn, Type::Open);
            }

            // What a state does not know it ignores: starts when started, timers that it does not own.
            (_, ManualStart | RetryNow | PathChanged | LocalAddressGone | BfdDown) => {}
            (_, ConnectRetryTimerExpires | IdleHoldTimerExpires | ProbeExpires | On(..)) => {}
        }
    }
}
