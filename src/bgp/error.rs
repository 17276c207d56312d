//! Errors for which we send a NOTIFICATION (RFC 4271 §6), and the subcodes of Cease. Their codes and names are
//! in `notification`.

use std::fmt;

use super::{HeaderError, MessageType};
use crate::net::{Asn, Family};
use crate::small_set::SmallSet;

/// Why an OPEN ends the session (RFC 4271 §6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    UnsupportedVersion {
        version: u8,
    },
    BadPeerAs {
        got: u32,
        expected: Option<Asn>,
    },
    /// Zero, or equal to ours on iBGP (RFC 6286 §2.1, §2.2).
    BadIdentifier {
        id: std::net::Ipv4Addr,
    },
    UnsupportedParameter {
        kind: u8,
    },
    /// One or two seconds.
    UnacceptableHoldTime {
        seconds: u16,
    },
    /// No address family in common; ours are the capabilities the peer lacks (RFC 5492 §5).
    NoCommonFamily {
        ours: SmallSet<Family>,
    },
    /// The length of the optional parameters, of one of them or of a capability does not match its content.
    Malformed,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnsupportedVersion { version } => write!(f, "BGP version {version}, not 4"),
            Self::BadPeerAs {
                got,
                expected: Some(expected),
            } => write!(f, "peer is in AS {got}, configured is {expected}"),
            Self::BadPeerAs {
                got,
                expected: None,
            } => write!(f, "peer AS {got} is not valid"),
            Self::BadIdentifier { id } => {
                write!(f, "BGP identifier {id} is not valid or is our own")
            }
            Self::UnsupportedParameter { kind } => write!(f, "unknown optional parameter {kind}"),
            Self::UnacceptableHoldTime { seconds } => {
                write!(f, "hold time {seconds} s is neither 0 nor at least 3 s")
            }
            Self::NoCommonFamily { ours } => {
                f.write_str("peer offers none of our address families:")?;
                ours.iter().try_for_each(|family| write!(f, " {family}"))
            }
            Self::Malformed => f.write_str("optional parameters are malformed"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Why an UPDATE ends the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateError {
    /// The two length fields exceed the message.
    AttributeListLength,
    /// The Withdrawn Routes or the NLRI field cannot be read.
    InvalidNetworkField,
    /// `attribute` is the offending one as it came: flags, type, length, value.
    Attribute { subcode: u8, attribute: Vec<u8> },
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
    /// All known subcodes.
    pub const ALL: [Self; 10] = [
        Self::MaximumPrefixes,
        Self::AdministrativeShutdown,
        Self::PeerDeconfigured,
        Self::AdministrativeReset,
        Self::ConnectionRejected,
        Self::OtherConfigurationChange,
        Self::CollisionResolution,
        Self::OutOfResources,
        Self::HardReset,
        Self::BfdDown,
    ];

    /// The subcode in the NOTIFICATION.
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

    /// `None` for an unknown subcode.
    pub fn from_subcode(subcode: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|cease| cease.subcode() == subcode)
    }

    /// Whether it may have a shutdown communication (RFC 9003 §2).
    pub(super) fn carries_communication(self) -> bool {
        matches!(
            self,
            Self::AdministrativeShutdown | Self::AdministrativeReset
        )
    }
}

/// The state in which a message was not expected (RFC 6608).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnexpectedIn {
    OpenSent,
    OpenConfirm,
    Established,
}

/// Errors for which we send a NOTIFICATION, by cause.
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
    /// The send hold timer expired (RFC 9687).
    SendHoldTimerExpired,
    UnexpectedMessage {
        state: UnexpectedIn,
        kind: MessageType,
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
