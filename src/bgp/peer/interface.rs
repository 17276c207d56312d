//! What goes into a [`Peer`](super::Peer) and what comes out of it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::bgp::{Negotiated, Notification, Type};
use crate::net::{Asn, Family, RouterId};

/// One configured neighbour, as the machine needs it. The transport (address, port, TTL, MD5) is the
/// caller's: the machine knows connections by [`ConnId`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// How the log calls this peer.
    pub name: String,
    pub local_as: Asn,
    /// `None`: whatever the peer says.
    pub peer_as: Option<Asn>,
    pub router_id: RouterId,
    /// Seconds to offer; 0 asks for a session without timers, 1 and 2 do not exist (RFC 4271 §4.2).
    pub hold_time: u16,
    /// The longest wait between two attempts; less than 0.2 s counts as 0.2 s.
    pub connect_retry: Duration,
    /// Wait for the peer to connect.
    pub passive: bool,
    pub families: BTreeSet<Family>,
    /// Restart time to advertise in seconds (RFC 4724 §3, at most 4095); 0: the capability is not
    /// offered.
    pub graceful_restart: u16,
    /// This process takes over from one that left with [`Event::StopQuietly`]: the first session says
    /// so, and says End-of-RIB only after the first [`Peer::advertise`](super::Peer::advertise), so
    /// that the router does not drop what it kept for us before we know what is healthy.
    pub restarting: bool,
    /// Packets still found their way while the process was away (RFC 4724 §3, F bit).
    pub forwarding_preserved: bool,
    /// The connections are signed (RFC 2385): what that may have to do with their failures is said.
    pub signed: bool,
    /// Told to the peer for its operators (draft-walton-bgp-hostname-capability).
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
            families: BTreeSet::from(Family::ALL),
            graceful_restart: 0,
            restarting: false,
            forwarding_preserved: true,
            signed: false,
            hostname: None,
        }
    }
}

/// One TCP connection or one attempt to make one. The machine numbers its own attempts from 1; the
/// caller numbers accepted connections with [`ConnId::accepted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

impl ConnId {
    const ACCEPTED: u64 = 1 << 63;

    /// An id for an accepted connection, which no attempt of the machine's own can have.
    pub fn accepted(number: u64) -> Self {
        Self(number | Self::ACCEPTED)
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 & !Self::ACCEPTED {
            number if number == self.0 => write!(f, "#{number}"),
            number => write!(f, "#{number} (accepted)"),
        }
    }
}

/// What happened. Events about a connection that the machine has already closed are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// ManualStart (RFC 4271 §8.1.2 event 1), or event 4 where the configuration says passive.
    Start,
    /// ManualStop (event 2): says why to the peer and stays in Idle until `Start`.
    Stop(Notification),
    /// As `Stop` without a word to the peer, so that it keeps our routes over a planned restart
    /// (RFC 4724).
    StopQuietly,
    /// The attempt of an [`Output::Connect`] succeeded.
    Connected {
        conn: ConnId,
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// The attempt of an [`Output::Connect`] failed; `error` in words.
    ConnectFailed { conn: ConnId, error: String },
    /// The peer connected to us.
    Accepted {
        conn: ConnId,
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// Bytes as they came, cut anywhere.
    Received { conn: ConnId, bytes: Vec<u8> },
    /// So many more bytes of [`Output::Send`] are with the kernel.
    Sent { conn: ConnId, bytes: usize },
    /// The connection is gone; `reason` in words.
    Closed { conn: ConnId, reason: String },
    /// The operator asks: what waits for its next attempt, or for an OPEN that is late, need not wait.
    RetryNow,
    /// The same, because something came up: a peer that accepts connections and ends them is not asked sooner
    /// for that.
    NetworkChanged,
    /// The interface towards the peer has no carrier. That ends no session and makes no attempt.
    NoCarrier,
    /// The way to the peer is there again, or another: what waits is tried at once, a session is probed.
    PathChanged,
    /// The kernel has had no such address for a while as the connections run from.
    LocalAddressGone,
    /// The answer to [`Output::Probe`].
    Acknowledged { conn: ConnId },
    /// BFD lost the peer (RFC 5882 §4.3, told to it as RFC 9384 asks).
    BfdDown,
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a TCP connection; answer with `Connected` or `ConnectFailed`, or, after a `Close`, with
    /// nothing.
    Connect { conn: ConnId },
    /// Queue the bytes behind earlier ones; answer with `Sent` as the kernel takes them.
    Send { conn: ConnId, bytes: Vec<u8> },
    /// Close the connection after what was given to it is written (for a moment at most: the peer may
    /// not be reading), or give up the attempt. Nothing is expected in answer.
    Close { conn: ConnId },
    /// Close the connection with a reset, and what was given to it is lost: the peer is not there, or
    /// keeps our routes until the next connection (RFC 4724).
    Reset { conn: ConnId },
    /// Answer with `Acknowledged` once the peer's kernel has acknowledged all that was sent, if it does
    /// within a second.
    Probe { conn: ConnId },
    /// For logs and metrics: the state changed.
    StateChanged { from: StateName, to: StateName },
    /// The session is up.
    Established {
        negotiated: Negotiated,
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// The session that was up is gone.
    Down { reason: String },
    /// Set TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged; `None` is the kernel's own.
    SetUserTimeout {
        conn: ConnId,
        timeout: Option<Duration>,
    },
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
    /// The next attempt, or an attempt that nobody answered.
    ConnectRetry,
    /// The end of a slow retry's wait.
    IdleHold,
    /// A probe's answer is late.
    Probe,
    Hold(ConnId),
    /// The peer's OPEN is late.
    Silence(ConnId),
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

    pub fn count(&mut self, kind: Type, messages: u64) {
        match kind {
            Type::Open => self.open += messages,
            Type::Update => self.update += messages,
            Type::Notification => self.notification += messages,
            Type::Keepalive => self.keepalive += messages,
            Type::RouteRefresh => self.route_refresh += messages,
        }
    }
}

/// What went over a peer's connections, since the peer was configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub received: MessageCounts,
    pub sent: MessageCounts,
}
