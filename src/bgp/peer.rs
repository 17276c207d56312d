//! RFC 4271 §8: the finite state machine of one peer, without socket and clock. RFC 6286 (identifiers in
//! collisions), RFC 6608 (FSM errors), RFC 4486 (Cease), RFC 4724 (advertising a restart), RFC 5492 (an OPEN with
//! fewer capabilities after a refusal), RFC 9384 (BFD), RFC 9687 (send hold timer).
//!
//! Differences from §8.2.2: after a failure the state machine waits in Active, not in Idle, so that it accepts
//! the peer's connection meanwhile. IdleHoldTimer is used for peers that sent a Cease, and even then a connection
//! of the peer is accepted. The connection to a peer that accepts it and sends no OPEN is closed when the network
//! changes, before OpenSent's large hold timer expires. A header error in Established is sent as such and not as
//! an FSM error. When the path to the peer was lost and is back, the session is probed, and reset if the peer does
//! not acknowledge. Left out: DelayOpen; RFC 8538 except decoding a Hard Reset.

mod conn_id;
mod connection;
mod interface;
mod messages;
mod notice;
mod offer;
mod path;
mod retry;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub use conn_id::ConnId;
pub use interface::{
    Announcement, Counters, Event, MessageCounts, Output, PeerConfig, StateName, Timer,
};
pub use notice::{DownReason, LikelyCause, Notice};

use self::connection::{Connection, Endpoints};
use self::offer::OfferedCapabilities;
use self::retry::Retry;
use super::rib::AdjRibOut;
use super::{
    MessageType, Negotiated, Notification, Open, PathAttributes, ProtocolError, RouteRefresh,
};
use crate::net::Prefix;
use crate::timer::EarliestDeadline;

/// One BGP peer.
#[derive(Debug)]
pub struct Peer {
    config: PeerConfig,
    state: State,
    /// The state of the last [`Output::StateChanged`].
    reported_state: StateName,
    /// Open connections: at most one outgoing and one incoming.
    connections: Vec<Connection>,
    last_attempt_number: u64,
    retry: Retry,
    /// The interface toward the peer has no carrier.
    no_carrier: bool,
    offer: OfferedCapabilities,
    rib: AdjRibOut,
    /// The wanted routes are not complete yet: End-of-RIB waits after a restart.
    routes_incomplete: bool,
    /// No session since the planned restart.
    restarting: bool,
    outputs: VecDeque<Output>,
    counters: Counters,
    since: Option<Instant>,
    last_error: Option<DownReason>,
    /// Consecutive connection attempts that timed out.
    connect_timeouts: u32,
    /// Consecutive connections that the peer closed without a NOTIFICATION.
    closed_without_notification: u32,
    flaps: u64,
    /// Number of unsendable routes last reported in this session.
    reported_unsendable: usize,
    /// Messages are output as text.
    tracing: bool,
}

/// The state and its deadlines; a connection's timers are in [`Connection`].
#[derive(Clone, Copy, Debug)]
enum State {
    /// `restart_at` is `None` if the operator stopped the peer.
    Idle {
        restart_at: Option<Instant>,
    },
    Connect(ConnectAttempt),
    /// `connect_retry_at` is `None` for a passive peer, and without carrier.
    Active {
        connect_retry_at: Option<Instant>,
    },
    /// OpenSent or OpenConfirm, on one or two connections (§6.8). `attempt`: our TCP connection is not open yet.
    Open {
        attempt: Option<ConnectAttempt>,
    },
    /// `probe_expires_at` is `Some` while a probe is running.
    Established {
        conn: ConnId,
        probe_expires_at: Option<Instant>,
    },
}

/// An outgoing connection in progress (SYN sent).
#[derive(Clone, Copy, Debug)]
struct ConnectAttempt {
    conn: ConnId,
    connect_retry_at: Instant,
}

/// The events of §8.1, by their names; the numbers are those of §8.1.
#[derive(Debug)]
enum FsmEvent {
    /// 1 and 4.
    ManualStart,
    /// 2; `None`: without a NOTIFICATION.
    ManualStop(Option<Notification>),
    /// 9.
    ConnectRetryTimerExpires,
    /// 13.
    IdleHoldTimerExpires,
    /// Retry without waiting: the operator asked, or the network changed.
    RetryNow,
    NoCarrier,
    PathChanged,
    ProbeExpires,
    LocalAddressGone,
    BfdDown,
    ForConnection(ConnId, ConnectionEvent),
}

/// Those that belong to one connection.
#[derive(Debug)]
enum ConnectionEvent {
    /// 10.
    HoldTimerExpires,
    /// The peer accepted the connection and has sent no OPEN.
    OpenOverdue,
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
    /// The peer's kernel has acknowledged all that was sent.
    Acknowledged,
}

impl Peer {
    /// In Idle until [`Event::Start`]. The same seed makes the same run.
    pub fn new(config: PeerConfig, rng_seed: u64) -> Self {
        Self {
            state: State::Idle { restart_at: None },
            reported_state: StateName::Idle,
            connections: Vec::new(),
            last_attempt_number: 0,
            retry: Retry::new(config.connect_retry, rng_seed),
            no_carrier: false,
            offer: OfferedCapabilities::default(),
            rib: AdjRibOut::default(),
            routes_incomplete: true,
            restarting: config.restarting,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            since: None,
            last_error: None,
            connect_timeouts: 0,
            closed_without_notification: 0,
            flaps: 0,
            reported_unsendable: 0,
            tracing: false,
            config,
        }
    }

    /// Takes an event; call `poll_output` afterwards.
    pub fn handle(&mut self, now: Instant, event: Event) {
        use ConnectionEvent::*;
        match event {
            Event::Start => self.step(now, FsmEvent::ManualStart),
            Event::Stop(notification) => self.step(now, FsmEvent::ManualStop(Some(notification))),
            Event::StopForRestart => self.step(now, FsmEvent::ManualStop(None)),
            Event::RetryNow => self.step(now, FsmEvent::RetryNow),
            Event::NetworkChanged if self.retry.is_damped() => {}
            Event::NetworkChanged => self.step(now, FsmEvent::RetryNow),
            Event::NoCarrier => self.step(now, FsmEvent::NoCarrier),
            Event::PathChanged => {
                self.no_carrier = false;
                self.retry.path_changed();
                self.step(now, FsmEvent::PathChanged);
            }
            Event::LocalAddressGone => self.step(now, FsmEvent::LocalAddressGone),
            Event::Acknowledged { conn } => {
                self.step(now, FsmEvent::ForConnection(conn, Acknowledged))
            }
            Event::BfdDown => self.step(now, FsmEvent::BfdDown),
            Event::Accepted {
                conn,
                local,
                remote,
            } => {
                let endpoints = Endpoints { local, remote };
                self.step(
                    now,
                    FsmEvent::ForConnection(conn, TcpConnectionConfirmed(endpoints)),
                );
            }
            Event::Connected {
                conn,
                local,
                remote,
            } if self.is_attempt(conn) => {
                let endpoints = Endpoints { local, remote };
                self.step(now, FsmEvent::ForConnection(conn, TcpCrAcked(endpoints)));
            }
            Event::ConnectFailed { conn, error: why } | Event::Closed { conn, reason: why }
                if self.is_attempt(conn) || self.connection(conn).is_some() =>
            {
                self.step(now, FsmEvent::ForConnection(conn, TcpConnectionFails(why)));
            }
            Event::Received { conn, bytes } => self.receive(now, conn, &bytes),
            Event::Sent { conn, bytes } => {
                if let Some(connection) = self.connection_mut(conn) {
                    connection.sent(now, bytes);
                }
            }
            // The attempt or connection was closed here meanwhile.
            Event::Connected { .. } | Event::ConnectFailed { .. } | Event::Closed { .. } => {}
        }
        self.send_routes(now);
    }

    /// Outputs every message as text from now on, or stops it.
    pub fn set_tracing(&mut self, tracing: bool) {
        self.tracing = tracing;
        self.rib.set_tracing(tracing);
    }

    /// Does what is due at `now`, and what may be done early since the process is awake.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, timer)) = self.poll_timeout()
            && at <= now
        {
            self.step(
                now,
                match timer {
                    Timer::ConnectRetry => FsmEvent::ConnectRetryTimerExpires,
                    Timer::IdleHold => FsmEvent::IdleHoldTimerExpires,
                    Timer::Probe => FsmEvent::ProbeExpires,
                    Timer::Hold(conn) => {
                        FsmEvent::ForConnection(conn, ConnectionEvent::HoldTimerExpires)
                    }
                    Timer::OpenOverdue(conn) => {
                        FsmEvent::ForConnection(conn, ConnectionEvent::OpenOverdue)
                    }
                    Timer::Keepalive(conn) => {
                        FsmEvent::ForConnection(conn, ConnectionEvent::KeepaliveTimerExpires)
                    }
                    Timer::SendHold(conn) => {
                        FsmEvent::ForConnection(conn, ConnectionEvent::SendHoldTimerExpires)
                    }
                },
            );
        }
        self.send_early_keepalive(now);
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let mut earliest = EarliestDeadline::new();
        match self.state {
            State::Idle { restart_at } => earliest.add(restart_at, Timer::IdleHold),
            State::Active { connect_retry_at } => {
                earliest.add(connect_retry_at, Timer::ConnectRetry);
            }
            State::Established {
                probe_expires_at, ..
            } => earliest.add(probe_expires_at, Timer::Probe),
            State::Connect(_) | State::Open { .. } => {
                let at = self.attempt().map(|attempt| attempt.connect_retry_at);
                earliest.add(at, Timer::ConnectRetry);
            }
        }
        for (at, timer) in self.connections.iter().filter_map(Connection::poll_timeout) {
            earliest.add(Some(at), timer);
        }
        earliest.get()
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Replaces the wanted routes with `routes`, in attributes before export: `as_path` holds only what is
    /// prepended (on eBGP our AS is added in front, on iBGP the path is emptied), `local_pref` is sent on iBGP
    /// only, 100 where it is `None`. Only differences to what was advertised are sent.
    pub fn advertise(&mut self, now: Instant, routes: BTreeMap<Prefix, PathAttributes>) {
        self.routes_incomplete = false;
        self.rib.release_end_of_rib();
        self.advertise_some(now, routes);
    }

    /// The same for a set that is not complete yet: after a restart End-of-RIB still waits.
    pub fn advertise_some(&mut self, now: Instant, routes: BTreeMap<Prefix, PathAttributes>) {
        self.rib.replace(routes);
        self.send_routes(now);
        self.report_unsendable();
    }

    /// Changes of the set that [`Peer::advertise`] describes: `None` withdraws.
    pub fn update(&mut self, now: Instant, changes: Vec<(Prefix, Option<PathAttributes>)>) {
        self.rib.update(changes);
        self.send_routes(now);
        self.report_unsendable();
    }

    /// The set is complete: End-of-RIB may follow it.
    pub fn complete(&mut self, now: Instant) {
        self.routes_incomplete = false;
        self.rib.release_end_of_rib();
        self.send_routes(now);
    }

    /// The state, as RFC 4271 §8.2.2 names it.
    pub fn state(&self) -> StateName {
        self.reported_state
    }

    /// The negotiated parameters of the established session.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.established()?.negotiated()
    }

    /// The local address of the established session.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.established().map(|connection| connection.local)
    }

    /// Number of prefixes advertised in this session.
    pub fn announced(&self) -> usize {
        self.rib.announced()
    }

    /// Whether `prefix` was advertised in this session.
    pub fn is_announced(&self, prefix: &Prefix) -> bool {
        self.rib.is_announced(prefix)
    }

    /// The longest prefix with this network address that was advertised in this session.
    pub fn longest_announced(&self, network: IpAddr) -> Option<Prefix> {
        self.rib.longest_announced(network)
    }

    /// Prefixes that were advertised or withdrawn in this session since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<Prefix> {
        self.rib.take_changed()
    }

    /// What `prefix` was announced to the peer with in this session.
    pub fn announcement(&self, prefix: &Prefix) -> Option<Announcement> {
        let entry = self.rib.advertised(prefix)?;
        let has = self.established().map_or(0, Connection::acknowledged);
        Some(Announcement {
            acknowledged: entry.end <= has,
            attributes: entry.attributes,
            since: entry.since,
        })
    }

    /// Whether this session can carry the route that is wanted for `prefix`.
    pub fn carries(&self, prefix: &Prefix) -> bool {
        let unsendable = self.rib.unsendable();
        unsendable.is_none_or(|unsendable| !unsendable.contains(prefix))
    }

    /// When the oldest bytes of this session were sent that the peer's TCP has not acknowledged, as of the last
    /// [`Peer::note_acknowledged`].
    pub fn unacknowledged_since(&self) -> Option<Instant> {
        self.established()?.unacknowledged_since()
    }

    /// Records that the peer's TCP has acknowledged the first `bytes` bytes of a connection.
    pub fn note_acknowledged(&mut self, conn: ConnId, bytes: u64) {
        if let Some(connection) = self.connection_mut(conn) {
            connection.note_acknowledged(bytes);
        }
    }

    /// Whether nothing waits to be sent; bytes in the kernel's send buffer are not counted.
    pub fn is_flushed(&self) -> bool {
        self.established()
            .is_none_or(|connection| connection.unsent() == 0 && self.rib.is_flushed())
    }

    /// Messages sent and received since the peer was configured.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How long the session has been up.
    pub fn uptime(&self, now: Instant) -> Option<Duration> {
        self.since.map(|since| now.saturating_duration_since(since))
    }

    /// Why the last session or attempt ended.
    pub fn last_error(&self) -> Option<&DownReason> {
        self.last_error.as_ref()
    }

    /// How often the session was lost after it had been up.
    pub fn flaps(&self) -> u64 {
        self.flaps
    }

    /// §8.2.2. An event of a connection is matched with the state of that connection, any other with that of the peer.
    fn step(&mut self, now: Instant, event: FsmEvent) {
        use ConnectionEvent::*;
        use FsmEvent::*;
        use StateName::*;
        let state = match &event {
            ForConnection(conn, _) => self.connection(*conn).map(Connection::state),
            _ => None,
        };
        match (state.unwrap_or(self.reported_state), event) {
            (_, ManualStop(notification)) => self.stop(now, notification),

            (Idle, ManualStart) => self.start(now),
            (Idle, IdleHoldTimerExpires) => self.restart(now),
            (_, NoCarrier) => self.carrier_lost(now),
            (Idle | Connect | Active, RetryNow | PathChanged) => self.retry_now(now),
            // A peer that sent a Cease connects again: accept the connection as a start.
            (Idle, ForConnection(conn, TcpConnectionConfirmed(endpoints)))
                if self.is_idle_holding() =>
            {
                self.open(now, conn, endpoints);
            }
            (Idle, ForConnection(conn, TcpConnectionConfirmed(_))) => self.close_incoming(conn),

            (Connect, ConnectRetryTimerExpires) => self.attempt_timed_out(now),
            (Active, ConnectRetryTimerExpires) => self.connect(now),
            (
                Connect | Active,
                ForConnection(conn, TcpCrAcked(endpoints) | TcpConnectionConfirmed(endpoints)),
            ) => {
                self.open(now, conn, endpoints);
            }
            (Connect, ForConnection(_, TcpConnectionFails(error))) => {
                self.attempt_failed(now, error)
            }

            // A second connection, or the end of the attempt to make one.
            (
                OpenSent | OpenConfirm,
                ForConnection(conn, TcpCrAcked(endpoints) | TcpConnectionConfirmed(endpoints)),
            ) => {
                self.open(now, conn, endpoints);
            }
            (Established, ForConnection(conn, TcpConnectionConfirmed(endpoints)))
                if self.accepts_superseding(now) =>
            {
                self.open(now, conn, endpoints);
            }
            (Established, ForConnection(conn, TcpConnectionConfirmed(_))) => {
                self.reject_incoming(conn)
            }
            (OpenSent | OpenConfirm, ConnectRetryTimerExpires) => self.abort_attempt(now),
            (OpenSent | OpenConfirm, ForConnection(conn, TcpConnectionFails(_)))
                if self.is_attempt(conn) =>
            {
                self.clear_attempt(now);
            }

            // The OPENs.
            (OpenSent, ForConnection(conn, OpenOverdue)) => self.mark_open_overdue(conn),
            (OpenSent, RetryNow | PathChanged) => self.close_overdue(now),
            (OpenSent, ForConnection(conn, BgpOpen(open))) => self.receive_open(now, conn, &open),
            (OpenConfirm, ForConnection(conn, KeepAliveMsg)) => self.establish(now, conn),

            // The session.
            // Routes are checked by the codec and kept nowhere.
            (Established, ForConnection(conn, KeepAliveMsg | UpdateMsg)) => {
                self.restart_hold_timer(now, conn)
            }
            (Established, ForConnection(conn, RouteRefreshMsg(refresh))) => {
                self.receive_route_refresh(now, conn, refresh);
            }
            (OpenConfirm | Established, ForConnection(conn, KeepaliveTimerExpires)) => {
                self.keepalive_timer_expired(now, conn);
            }
            (Established, PathChanged) => self.probe(now),
            (Established, ForConnection(conn, Acknowledged)) => self.probe_answered(now, conn),
            (Established, ProbeExpires) => self.probe_failed(now),

            // Teardown of a connection.
            (OpenSent | OpenConfirm | Established, ForConnection(conn, HoldTimerExpires)) => {
                let error = ProtocolError::HoldTimerExpired;
                self.tear_down(now, conn, DownReason::Error(error));
            }
            (OpenConfirm | Established, ForConnection(conn, SendHoldTimerExpires)) => {
                self.tear_down(now, conn, DownReason::SendHoldTimerExpired);
            }
            (
                OpenSent | OpenConfirm | Established,
                ForConnection(conn, TcpConnectionFails(reason)),
            ) => {
                self.tear_down(now, conn, DownReason::ConnectionLost(reason));
            }
            // §8.2.2 has no error of an OPEN (event 22) in Established, and none of an UPDATE (28) before.
            (Established, ForConnection(conn, MsgErr(ProtocolError::Open(_)))) => {
                self.unexpected(now, conn, MessageType::Open);
            }
            (OpenSent | OpenConfirm, ForConnection(conn, MsgErr(ProtocolError::Update(_)))) => {
                self.unexpected(now, conn, MessageType::Update);
            }
            (OpenSent | OpenConfirm | Established, ForConnection(conn, MsgErr(error))) => {
                self.tear_down(now, conn, DownReason::Error(error));
            }
            (OpenSent | OpenConfirm | Established, ForConnection(conn, NotifMsg(notification))) => {
                self.tear_down(now, conn, DownReason::NotificationReceived(notification));
            }
            (Established, BfdDown) => self.bfd_down(now),
            (OpenSent | OpenConfirm | Established, LocalAddressGone) => {
                self.local_address_gone(now);
            }
            // Messages that the state does not expect (RFC 6608).
            (OpenSent, ForConnection(conn, KeepAliveMsg)) => {
                self.unexpected(now, conn, MessageType::Keepalive)
            }
            (OpenSent | OpenConfirm, ForConnection(conn, UpdateMsg)) => {
                self.unexpected(now, conn, MessageType::Update);
            }
            (OpenSent | OpenConfirm, ForConnection(conn, RouteRefreshMsg(_))) => {
                self.unexpected(now, conn, MessageType::RouteRefresh);
            }
            (OpenConfirm | Established, ForConnection(conn, BgpOpen(_))) => {
                self.unexpected(now, conn, MessageType::Open);
            }

            // Ignored: a start in any state but Idle, timers that do not belong to the state.
            (_, ManualStart | RetryNow | PathChanged | LocalAddressGone | BfdDown) => {}
            (
                _,
                ConnectRetryTimerExpires | IdleHoldTimerExpires | ProbeExpires | ForConnection(..),
            ) => {}
        }
    }
}
