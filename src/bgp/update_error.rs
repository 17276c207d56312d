//! What can be wrong with an UPDATE and what follows from it (RFC 4271 §6.3, RFC 7606).

use std::fmt;

use super::{AfiSafi, AttributeCode, Notification, ProtocolError};

/// What an error asks for, in growing order of strength (RFC 7606 §2, §3 h).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The attribute is dropped, the route stays.
    Discard,
    /// The routes of the message are taken as withdrawn.
    TreatAsWithdraw,
    /// The session ends with this.
    Reset(Notification),
}

/// One attribute and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeError {
    pub code: AttributeCode,
    pub cause: AttributeCause,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeCause {
    /// Optional or transitive bit against its definition (RFC 7606 §3 c).
    Flags { flags: u8 },
    /// A length that the attribute cannot have.
    Length { length: usize },
    /// The attribute runs past the attributes' end, or its header does (RFC 7606 §4).
    Overrun,
    /// Came more than once; the first one counts (RFC 7606 §3 g).
    Repeated,
    /// Mandatory and not there (RFC 7606 §3 d).
    Missing,
    /// Not for this kind of session (LOCAL_PREF from another AS and such).
    WrongSession,
    /// AS4_PATH or AS4_AGGREGATOR from a speaker that has four-octet numbers (RFC 6793 §4.1).
    FromNewSpeaker,
    /// A value that is not defined (ORIGIN).
    Value { value: u8 },
    /// Segments that do not fit the attribute, of an unknown type or empty (RFC 7606 §7.2).
    MalformedPath,
    /// AS 0 in a path (RFC 7607).
    AsZero,
    /// Not an address that a packet could be sent to.
    NextHop(std::net::IpAddr),
    /// A family that was not negotiated; its routes are not looked at.
    Family(AfiSafi),
    /// Not optional and unknown to us.
    UnrecognizedWellKnown,
    /// Routes that cannot be read (RFC 7606 §5.3).
    Nlri,
}

impl AttributeError {
    /// What follows, given the attribute as it came: flags, type, length, value.
    pub fn severity(&self, attribute: &[u8]) -> Severity {
        let reset = || {
            let error = UpdateError::Attribute {
                error: self.clone(),
                attribute: attribute.to_vec(),
            };
            Severity::Reset((&ProtocolError::from(error)).into())
        };
        let carries_routes = matches!(
            self.code,
            AttributeCode::MP_REACH_NLRI | AttributeCode::MP_UNREACH_NLRI
        );
        match self.cause {
            AttributeCause::Family(_)
            | AttributeCause::WrongSession
            | AttributeCause::FromNewSpeaker => Severity::Discard,
            AttributeCause::UnrecognizedWellKnown | AttributeCause::Nlri => reset(),
            // RFC 7606 §3 j: routes that cannot be found cannot be taken as withdrawn.
            AttributeCause::Length { .. } | AttributeCause::Overrun | AttributeCause::Repeated
                if carries_routes =>
            {
                reset()
            }
            AttributeCause::Repeated => Severity::Discard,
            AttributeCause::Missing | AttributeCause::Overrun => Severity::TreatAsWithdraw,
            AttributeCause::Flags { .. }
            | AttributeCause::Length { .. }
            | AttributeCause::Value { .. }
            | AttributeCause::MalformedPath
            | AttributeCause::AsZero
            | AttributeCause::NextHop(_) => match self.code {
                // RFC 7606 §3 f, §7.6, §7.7; RFC 6793 §6.
                AttributeCode::ATOMIC_AGGREGATE
                | AttributeCode::AGGREGATOR
                | AttributeCode::AS4_PATH
                | AttributeCode::AS4_AGGREGATOR => Severity::Discard,
                _ => Severity::TreatAsWithdraw,
            },
        }
    }

    /// The subcode of an UPDATE Message Error (RFC 4271 §6.3, RFC 4760 §7).
    pub(super) fn subcode(&self) -> u8 {
        match self.cause {
            AttributeCause::Overrun | AttributeCause::Repeated => 1,
            AttributeCause::UnrecognizedWellKnown => 2,
            AttributeCause::Missing => 3,
            AttributeCause::Flags { .. } => 4,
            AttributeCause::Length { .. }
                if !matches!(
                    self.code,
                    AttributeCode::MP_REACH_NLRI | AttributeCode::MP_UNREACH_NLRI
                ) =>
            {
                5
            }
            AttributeCause::Value { .. } => 6,
            AttributeCause::NextHop(_) => 8,
            AttributeCause::MalformedPath | AttributeCause::AsZero => 11,
            AttributeCause::Length { .. }
            | AttributeCause::Nlri
            | AttributeCause::Family(_)
            | AttributeCause::WrongSession
            | AttributeCause::FromNewSpeaker => 9,
        }
    }
}

impl fmt::Display for AttributeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.code)?;
        match &self.cause {
            AttributeCause::Flags { flags } => write!(f, "has flags 0x{flags:02x}"),
            AttributeCause::Length { length } => write!(f, "has length {length}"),
            AttributeCause::Overrun => f.write_str("runs past the end of the attributes"),
            AttributeCause::Repeated => f.write_str("came more than once"),
            AttributeCause::Missing => f.write_str("is missing"),
            AttributeCause::WrongSession => f.write_str("came from another AS"),
            AttributeCause::FromNewSpeaker => {
                f.write_str("came from a speaker of four-octet AS numbers")
            }
            AttributeCause::Value { value } => write!(f, "has the undefined value {value}"),
            AttributeCause::MalformedPath => f.write_str("has malformed segments"),
            AttributeCause::AsZero => f.write_str("holds AS 0"),
            AttributeCause::NextHop(addr) => write!(f, "has the next hop {addr}"),
            AttributeCause::Family(family) => write!(f, "is for {family}, not negotiated"),
            AttributeCause::UnrecognizedWellKnown => f.write_str("is well-known, not to us"),
            AttributeCause::Nlri => f.write_str("has routes that cannot be read"),
        }
    }
}

impl std::error::Error for AttributeError {}

/// Why an UPDATE ends the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateError {
    /// The two lengths do not fit the message.
    AttributeListLength,
    /// The Withdrawn Routes or the NLRI field cannot be read.
    InvalidNetworkField,
    /// `attribute` is the offending one as it came: flags, type, length, value.
    Attribute {
        error: AttributeError,
        attribute: Vec<u8>,
    },
}

impl fmt::Display for UpdateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AttributeListLength => f.write_str("lengths in the UPDATE pass its end"),
            Self::InvalidNetworkField => f.write_str("routes in the UPDATE cannot be read"),
            Self::Attribute { error, .. } => error.fmt(f),
        }
    }
}

impl std::error::Error for UpdateError {}
