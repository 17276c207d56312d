//! Why a connection ends, and what that says of the peer.

use std::fmt;

use super::retry::By;
use crate::bgp::{Cease, Notification, ProtocolError};

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum TeardownCause {
    /// We say why.
    Error(ProtocolError),
    /// The peer said why; that is never answered (§6.4).
    NotificationReceived(Notification),
    /// TCP is gone.
    Lost(String),
    /// Nothing can be said: the peer does not read, or must not know.
    Silent(String),
    /// Nothing can be said, for there is no way to the peer: it keeps what it has.
    Reset(&'static str),
}

impl TeardownCause {
    pub(super) fn by(&self) -> By {
        match self {
            Self::NotificationReceived(_) | Self::Lost(_) => By::Peer,
            Self::Error(_) | Self::Silent(_) | Self::Reset(_) => By::Us,
        }
    }

    /// A peer that still has a session with us, or is clearing it, closes or says so (§6.8).
    pub(super) fn may_mean_an_old_session(&self) -> bool {
        match self {
            Self::Lost(_) => true,
            Self::NotificationReceived(notification) => matches!(
                notification.as_cease(),
                Some(Cease::ConnectionRejected | Cease::CollisionResolution)
            ),
            Self::Error(_) | Self::Silent(_) | Self::Reset(_) => false,
        }
    }
}

impl fmt::Display for TeardownCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => error.fmt(f),
            Self::NotificationReceived(notification) => write!(f, "the peer says {notification}"),
            Self::Lost(reason) | Self::Silent(reason) => f.write_str(reason),
            Self::Reset(reason) => f.write_str(reason),
        }
    }
}
