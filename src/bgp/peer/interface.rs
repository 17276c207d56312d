//! Configuration, events, outputs, timers and counters of a [`Peer`](super::Peer).

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{ConnId, DownReason, Notice};
use crate::bgp::{MessageType, Negotiated, Notification, PathAttributes};
use crate::net::{Asn, Family, RouterId};
use crate::small_set::SmallSet;

/// The configuration of one neighbor. The caller keeps address, port, TTL and MD5 key: the state machine
/// identifies connections by [`ConnId`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// The name of the peer in logs.
    pub name: String,
    pub local_as: Asn,
    /// `None`: any AS is accepted.
    pub peer_as: Option<Asn>,
    pub router_id: RouterId,
    /// Seconds to offer; 0 asks for a session without timers, 1 and 2 are not allowed (RFC 4271 §4.2).
    pub hold_time: u16,
    /// The longest wait between two attempts; less than 0.2 s counts as 0.2 s.
    pub connect_retry: Duration,
    /// Wait for the peer to connect.
    pub passive: bool,
    pub families: SmallSet<Family>,
    /// Restart time to advertise in seconds (RFC 4724 §3, at most 4095); 0: the capability is not
    /// offered.
    pub graceful_restart: u16,
    /// This process takes over from one that ended with [`Event::StopForRestart`]: OPENs have the R flag until
    /// the first session is established, and its End-of-RIB is sent only after the first
    /// [`Peer::advertise`](super::Peer::advertise), so that the router does not remove stale routes before
    /// the health of the apps is known.
    pub restarting: bool,
    /// Forwarding state was preserved during the restart (RFC 4724 §3, F bit).
    pub forwarding_preserved: bool,
    /// Connections have a TCP MD5 key (RFC 2385); a wrong one is a possible cause of a timeout.
    pub has_md5_key: bool,
    /// Sent to the peer in the FQDN capability (draft-walton-bgp-hostname-capability).
    pub hostname: Option<String>,
}

impl PeerConfig {
    /// The defaults of the configuration; no name but the AS number's.
    pub fn new(local_as: Asn, peer_as: Option<Asn>, router_id: RouterId) -> Self {
        Self {
            name: peer_as.map_or_else(String::new, |asn| format!("AS {asn}")),
            local_as,
            peer_as,
            router_id,
            hold_time: 90,
            connect_retry: Duration::from_secs(5),
            passive: false,
            families: SmallSet::from(Family::ALL),
            graceful_restart: 0,
            restarting: false,
            forwarding_preserved: true,
            has_md5_key: false,
            hostname: None,
        }
    }
}

/// What happened. Events about a connection that the machine has already closed are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// ManualStart (RFC 4271 §8.1.2 event 1), or event 4 for a passive peer.
    Start,
    /// ManualStop (event 2): sends this NOTIFICATION and stays in Idle until `Start`.
    Stop(Notification),
    /// As `Stop` without a NOTIFICATION, so that the peer keeps our routes over a planned restart (RFC
    /// 4724).
    StopForRestart,
    /// The attempt of an [`Output::Connect`] succeeded.
    Connected {
        conn: ConnId,
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// The attempt of an [`Output::Connect`] failed; `error` is text for the operator.
    ConnectFailed { conn: ConnId, error: String },
    /// The peer connected to us.
    Accepted {
        conn: ConnId,
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// Received bytes, in any pieces.
    Received { conn: ConnId, bytes: Vec<u8> },
    /// The kernel accepted this many more bytes of [`Output::Send`].
    Sent { conn: ConnId, bytes: usize },
    /// The connection is closed; `reason` is text for the operator.
    Closed { conn: ConnId, reason: String },
    /// The operator asked for a retry now.
    RetryNow,
    /// A retry because the network changed. It does not shorten the wait for a peer that accepts connections
    /// and closes them.
    NetworkChanged,
    /// The interface toward the peer has no carrier. Sessions stay; no connection is attempted.
    NoCarrier,
    /// The path to the peer is back or has changed: retries at once, or probes the session.
    PathChanged,
    /// The local address of the connections was removed from the host.
    LocalAddressGone,
    /// The answer to [`Output::Probe`].
    Acknowledged { conn: ConnId },
    /// The BFD session went down (RFC 5882 §4.3); the peer gets Cease / BFD Down (RFC 9384).
    BfdDown,
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a TCP connection; report `Connected` or `ConnectFailed`, but nothing after a `Close`.
    Connect { conn: ConnId },
    /// Queue the bytes after earlier ones; report `Sent` as the kernel accepts them.
    Send { conn: ConnId, bytes: Vec<u8> },
    /// Close the connection after queued bytes are written (within a second, as the peer may not read), or
    /// cancel the attempt. No event is expected in reply.
    Close { conn: ConnId },
    /// Close the connection with a TCP reset; queued bytes are lost. The peer is unreachable, or keeps our
    /// routes until the next connection (RFC 4724).
    Reset { conn: ConnId },
    /// Report `Acknowledged` if the peer's kernel acknowledges all that was sent within a second.
    Probe { conn: ConnId },
    /// For logs and metrics: the state changed.
    StateChanged { from: StateName, to: StateName },
    /// The session is up.
    Established {
        negotiated: Negotiated,
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// The established session ended.
    Down {
        /// Why it ended.
        reason: DownReason,
    },
    /// Something for the operator's attention.
    Notice(Notice),
    /// A received message as text; only with [`Peer::set_tracing`](super::Peer::set_tracing).
    MessageReceived(String),
    /// A sent message as text; only with [`Peer::set_tracing`](super::Peer::set_tracing).
    MessageSent(String),
    /// Set TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged; `None` is the kernel's default.
    SetUserTimeout {
        conn: ConnId,
        timeout: Option<Duration>,
    },
}

/// What was advertised for one prefix in this session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// As sent to the peer.
    pub attributes: PathAttributes,
    /// Since when with these attributes.
    pub since: Instant,
    /// The peer's TCP is known to have acknowledged the UPDATE.
    pub acknowledged: bool,
}

/// The states of RFC 4271 §8.2.2, numbered as GoBGP's API does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StateName {
    Idle = 1,
    Connect = 2,
    Active = 3,
    OpenSent = 4,
    OpenConfirm = 5,
    Established = 6,
}

impl StateName {
    /// 1 to 6, as in GoBGP's `session_state`.
    pub fn number(self) -> u8 {
        match self {
            Self::Idle => 1,
            Self::Connect => 2,
            Self::Active => 3,
            Self::OpenSent => 4,
            Self::OpenConfirm => 5,
            Self::Established => 6,
        }
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Connect => "connect",
            Self::Active => "active",
            Self::OpenSent => "opensent",
            Self::OpenConfirm => "openconfirm",
            Self::Established => "established",
        })
    }
}

/// The machine's deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// The ConnectRetryTimer: the next attempt, or the timeout of the current one.
    ConnectRetry,
    /// The IdleHoldTimer (RFC 4271 §8.1.1) of a peer that sent a Cease.
    IdleHold,
    /// A probe was not acknowledged in time.
    Probe,
    Hold(ConnId),
    /// The peer's OPEN is overdue.
    OpenOverdue(ConnId),
    Keepalive(ConnId),
    /// RFC 9687.
    SendHold(ConnId),
}

/// Messages of each type in one direction, since the peer was configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    pub open: u64,
    pub update: u64,
    pub notification: u64,
    pub keepalive: u64,
    pub route_refresh: u64,
}

impl MessageCounts {
    /// Messages of all types.
    pub fn total(&self) -> u64 {
        self.open + self.update + self.notification + self.keepalive + self.route_refresh
    }

    /// Names as metrics and GoBGP's API spell them.
    pub fn by_type(&self) -> [(&'static str, u64); 5] {
        [
            ("open", self.open),
            ("update", self.update),
            ("notification", self.notification),
            ("keepalive", self.keepalive),
            ("route_refresh", self.route_refresh),
        ]
    }

    /// Counts `messages` of a type.
    pub fn count(&mut self, kind: MessageType, messages: u64) {
        match kind {
            MessageType::Open => self.open += messages,
            MessageType::Update => self.update += messages,
            MessageType::Notification => self.notification += messages,
            MessageType::Keepalive => self.keepalive += messages,
            MessageType::RouteRefresh => self.route_refresh += messages,
        }
    }
}

/// What went over a peer's connections, since the peer was configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub received: MessageCounts,
    pub sent: MessageCounts,
}
