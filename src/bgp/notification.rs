//! NOTIFICATION (RFC 4271 §4.5, §6) in words: Cease (RFC 4486, 8538, 9384), shutdown communication
//! (RFC 9003), FSM errors (RFC 6608), ROUTE-REFRESH errors (RFC 7313), send hold timer (RFC 9687).

use std::fmt;

use super::{Capability, HeaderError, OpenError, Type, UpdateError};

/// A NOTIFICATION.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    pub code: u8,
    pub subcode: u8,
    pub data: Vec<u8>,
}

impl Notification {
    pub fn new(code: u8, subcode: u8, data: Vec<u8>) -> Self {
        Self {
            code,
            subcode,
            data,
        }
    }

    /// A Cease; `reason` goes with a shutdown or reset alone (RFC 9003), cut to what fits.
    pub fn cease(cease: Cease, reason: Option<&str>) -> Self {
        let _ = reason;
        Self::new(6, cease.subcode(), Vec::new())
    }

    /// The Cease subcode, where it is one we know; a hard reset's is the one inside (RFC 8538 §3).
    pub fn as_cease(&self) -> Option<Cease> {
        todo!()
    }

    /// What the operator at the other end wrote (RFC 9003), made fit for a log line.
    pub fn reason(&self) -> Option<String> {
        todo!()
    }

    /// The capabilities that an Unsupported Capability (2/7) lists; `None` for any other.
    pub fn unsupported_capabilities(&self) -> Option<Vec<Capability>> {
        todo!()
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.code, self.subcode)
    }
}

/// Subcodes of Cease (RFC 4486 §4, RFC 8538 §3, RFC 9384 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cease {
    MaximumPrefixes,
    AdministrativeShutdown,
    PeerDeconfigured,
    AdministrativeReset,
    ConnectionRejected,
    OtherConfigurationChange,
    CollisionResolution,
    OutOfResources,
    HardReset,
    BfdDown,
}

impl Cease {
    pub fn subcode(self) -> u8 {
        match self {
            Self::MaximumPrefixes => 1,
            Self::AdministrativeShutdown => 2,
            Self::PeerDeconfigured => 3,
            Self::AdministrativeReset => 4,
            Self::ConnectionRejected => 5,
            Self::OtherConfigurationChange => 6,
            Self::CollisionResolution => 7,
            Self::OutOfResources => 8,
            Self::HardReset => 9,
            Self::BfdDown => 10,
        }
    }
}

/// The state in which a message was not expected (RFC 6608).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnexpectedIn {
    OpenSent,
    OpenConfirm,
    Established,
}

/// Everything that makes us end a session, by cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    Header(HeaderError),
    Open(OpenError),
    Update(UpdateError),
    /// A begin or end of route refresh that is not four bytes long (RFC 7313 §5); the whole message.
    RouteRefreshLength {
        message: Vec<u8>,
    },
    HoldTimerExpired,
    /// The peer took nothing for too long (RFC 9687).
    SendHoldTimerExpired,
    UnexpectedMessage {
        state: UnexpectedIn,
        kind: Type,
    },
    Cease {
        cease: Cease,
        reason: Option<String>,
    },
}

impl From<HeaderError> for ProtocolError {
    fn from(error: HeaderError) -> Self {
        Self::Header(error)
    }
}

impl From<OpenError> for ProtocolError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl From<UpdateError> for ProtocolError {
    fn from(error: UpdateError) -> Self {
        Self::Update(error)
    }
}

impl From<&ProtocolError> for Notification {
    fn from(error: &ProtocolError) -> Self {
        let _ = error;
        todo!()
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(error) => error.fmt(f),
            Self::Open(error) => error.fmt(f),
            Self::Update(error) => error.fmt(f),
            Self::RouteRefreshLength { message } => {
                write!(f, "ROUTE-REFRESH of {} bytes", message.len())
            }
            Self::HoldTimerExpired => f.write_str("hold timer expired"),
            Self::SendHoldTimerExpired => f.write_str("send hold timer expired"),
            Self::UnexpectedMessage { state, kind } => {
                write!(f, "{kind} not expected in {state:?}")
            }
            Self::Cease { cease, reason } => Notification::cease(*cease, reason.as_deref()).fmt(f),
        }
    }
}

impl std::error::Error for ProtocolError {}
