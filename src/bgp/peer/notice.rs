//! What the state machine reports for the operator, as values. The room `diagnosis` puts them into words.

use crate::bgp::{Cease, MessageType, Notification, ProtocolError};
use crate::net::Prefix;
use crate::wire::TooLong;

/// Why a peer is not established: how the last attempt, connection or session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// The operator stopped the peer.
    Stopped,
    /// We sent a NOTIFICATION for this error.
    Error(ProtocolError),
    /// A NOTIFICATION was received; it is never answered (RFC 4271 §6.4).
    NotificationReceived(Notification),
    /// The connection attempt failed: the system's error.
    ConnectFailed(String),
    /// Several attempts in a row timed out.
    ConnectTimedOut {
        /// The connections have a TCP MD5 key, which may be wrong.
        has_md5_key: bool,
    },
    /// The TCP connection failed or was closed by the peer: the system's error.
    ConnectionLost(String),
    /// The peer accepts the connection and sends no OPEN.
    OpenOverdue,
    /// The send hold timer expired (RFC 9687 §3): nothing could be sent, so no NOTIFICATION either.
    SendHoldTimerExpired,
    /// A new connection of the restarted peer took the place of the session (RFC 4724 §5).
    PeerRestarted,
    /// The path to the peer changed, and it did not acknowledge a probe.
    PathUnacknowledged,
    /// The local address of the session was removed from the host.
    LocalAddressGone,
    /// The interface toward the peer has no carrier.
    NoCarrier,
}

impl DownReason {
    pub(super) fn ended_by(&self) -> EndedBy {
        match self {
            Self::NotificationReceived(_) | Self::ConnectionLost(_) => EndedBy::Peer,
            _ => EndedBy::Local,
        }
    }

    /// Whether a peer that still has our previous session would end the connection like this (§6.8).
    pub(super) fn is_old_session_refusal(&self) -> bool {
        match self {
            Self::ConnectionLost(_) => true,
            Self::NotificationReceived(notification) => matches!(
                notification.as_cease(),
                Some(Cease::ConnectionRejected | Cease::CollisionResolution)
            ),
            _ => false,
        }
    }

    /// Whether the connection is reset instead of closed: the peer cannot be reached, and keeps our routes.
    pub(super) fn is_reset(&self) -> bool {
        matches!(self, Self::PathUnacknowledged | Self::LocalAddressGone)
    }
}

/// Who ended a session or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndedBy {
    Local,
    Peer,
}

/// A condition for the operator's attention, in the order of the other outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The peer was started, or a session that lasted has ended: earlier notices may be repeated.
    NewOutage,
    /// A connection attempt failed.
    ConnectFailed(String),
    /// Several attempts in a row timed out.
    ConnectTimedOut {
        /// The connections have a TCP MD5 key, which may be wrong.
        has_md5_key: bool,
    },
    /// The peer accepts the connection and sends no OPEN. The connection stays.
    OpenOverdue,
    /// A connection ended before Established.
    NotEstablished(DownReason),
    /// A connection or session ended, with the likely cause.
    LikelyCause {
        /// How it ended.
        reason: DownReason,
        /// The likely cause.
        cause: LikelyCause,
    },
    /// The peer refused capabilities: the next OPEN offers fewer.
    OfferReduced(DownReason),
    /// Wanted routes that the session cannot carry; sent when their number changes.
    Unsendable {
        /// How many.
        count: usize,
        /// The first of them.
        first: Prefix,
    },
    /// A message could not be encoded and is not sent.
    EncodeFailed {
        /// The type of the message.
        message: MessageType,
        /// The length that does not fit.
        error: TooLong,
    },
}

/// What a peer that ends connections most likely means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LikelyCause {
    /// Cease / Maximum Number of Prefixes Reached.
    PrefixLimit,
    /// Cease / Administrative Shutdown.
    PeerShutDown,
    /// Cease / Peer De-configured.
    PeerDeconfigured,
    /// Cease / Administrative Reset.
    PeerReset,
    /// Cease / Connection Rejected.
    ConnectionRejected,
    /// Cease / Connection Collision Resolution: the peer has another session with this address.
    SessionExists,
    /// Cease / Out of Resources.
    OutOfResources,
    /// The peer has not noticed the end of our previous session yet.
    OldSessionHeld,
    /// Finite State Machine Error in place of an OPEN, on a connection to a loopback address.
    LoopbackRefused,
    /// Another speaker behind our address: the peer takes each connection for a restart of the other.
    AnotherSpeaker,
    /// The peer closes connections without a NOTIFICATION: no such neighbor is configured.
    UnknownNeighbor,
}

impl LikelyCause {
    /// Whether it may be another BGP speaker with our address.
    pub fn is_other_speaker(self) -> bool {
        matches!(
            self,
            Self::ConnectionRejected
                | Self::SessionExists
                | Self::AnotherSpeaker
                | Self::UnknownNeighbor
        )
    }
}
