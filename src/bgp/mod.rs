//! BGP-4: the message codec and the state machine of a peer (RFC 4271).
//!
//! The codec is a set of pure functions of bytes and an explicit context. A [`Framer`] cuts the byte
//! stream into [`Frame`]s, [`decode_message`] checks one and keeps only what a speaker needs, [`Packer`] makes as
//! few UPDATEs as possible of a set of routes.
//! Every code that goes into a NOTIFICATION is chosen by the one `From<&ProtocolError>`.

pub mod attribute;
pub mod capability;
mod context;
mod error;
pub mod framer;
#[cfg(test)]
mod golden;
pub mod message;
mod negotiated;
pub mod notification;
pub mod open;
pub mod pack;
pub mod peer;
#[cfg(test)]
#[path = "../../tests/reader/mod.rs"]
mod reader;
pub mod rib;
mod summary;
mod update;
mod validate;

pub use attribute::{AsPath, AttributeCode, PathAttributes};
pub use capability::{Capability, ExtendedNextHop, GracefulRestart, RestartFamily};
pub use context::{DecodeContext, EncodeContext};
pub use error::{Cease, OpenError, ProtocolError, UnexpectedIn, UpdateError};
pub use framer::{Frame, Framer, HeaderError, MAX_LEN, MAX_LEN_EXTENDED, MessageType};
pub use message::{Message, Received, RefreshKind, RouteRefresh, decode_message};
pub use negotiated::Negotiated;
pub use notification::Notification;
pub use open::Open;
pub use pack::{PackedUpdate, Packer, end_of_rib, is_sendable};
pub use validate::UpdateSummary;

use std::fmt;

use crate::net::Family;

/// Whether both ends are in one AS (RFC 4271 §1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionType {
    Ibgp,
    Ebgp,
}

/// An address family and what its routes are for (RFC 4760 §3); unknown numbers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AfiSafi {
    pub afi: u16,
    pub safi: u8,
}

impl AfiSafi {
    /// The family, where it is unicast of one we know.
    pub fn family(self) -> Option<Family> {
        Family::ALL
            .into_iter()
            .find(|family| Self::from(*family) == self)
    }
}

impl From<Family> for AfiSafi {
    fn from(family: Family) -> Self {
        let afi = match family {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        };
        Self { afi, safi: 1 }
    }
}

impl fmt::Display for AfiSafi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.family() {
            Some(family) => write!(f, "{family} unicast"),
            None => write!(f, "afi {} safi {}", self.afi, self.safi),
        }
    }
}
