//! OPEN (RFC 4271 §4.2, §6.2) with extended optional parameters (RFC 9072), and what two of them
//! agree on. Unique identifiers are RFC 6286's, AS 0 is refused (RFC 7607).

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::framer::{MAX_LEN, MAX_LEN_EXTENDED};
use super::{Capability, GracefulRestart, SessionType};
use crate::net::{Asn, Family, RouterId};

/// An OPEN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The real AS number: the four-octet one where that capability is there.
    pub asn: Asn,
    /// "My Autonomous System" as the two octets say it, [`Asn::TRANS`] where `asn` does not fit.
    pub my_as16: u16,
    /// Seconds; 0 or at least 3.
    pub hold_time: u16,
    pub router_id: RouterId,
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// One of ours; the four-octet AS capability (RFC 6793) is added in front where it is missing.
    pub fn new(
        asn: Asn,
        hold_time: u16,
        router_id: RouterId,
        capabilities: Vec<Capability>,
    ) -> Self {
        let mut capabilities = capabilities;
        if !capabilities
            .iter()
            .any(|c| matches!(c, Capability::FourOctetAs(_)))
        {
            capabilities.insert(0, Capability::FourOctetAs(asn.get()));
        }
        Self {
            asn,
            my_as16: asn.as_u16(),
            hold_time,
            router_id,
            capabilities,
        }
    }

    pub fn has(&self, capability: &Capability) -> bool {
        self.capabilities.contains(capability)
    }

    /// The families offered: IPv4 alone where none is named (RFC 4760 §8).
    pub fn families(&self) -> BTreeSet<Family> {
        todo!()
    }
}

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
    /// Zero, or our own inside one AS (RFC 6286 §2.1, §2.2).
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
        ours: BTreeSet<Family>,
    },
    /// The optional parameters or a capability do not hold what their lengths say.
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

/// What two OPENs agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub session: SessionType,
    pub local_as: Asn,
    pub peer_as: Asn,
    pub local_router_id: RouterId,
    pub peer_router_id: RouterId,
    /// The smaller of both; `None` for zero: neither hold nor keepalive timer exists.
    pub hold_time: Option<Duration>,
    pub families: BTreeSet<Family>,
    pub four_octet_as: bool,
    /// The peer answers a ROUTE-REFRESH; ours is always answered.
    pub route_refresh: bool,
    /// Both ends mark where a refresh begins and ends (RFC 7313).
    pub enhanced_route_refresh: bool,
    /// Both ends take messages up to 65535 bytes (RFC 8654).
    pub extended_message: bool,
    /// IPv4 routes may have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// What the peer said, where both ends have the capability (RFC 4724).
    pub graceful_restart: Option<GracefulRestart>,
    /// The peer's name, where it told one.
    pub hostname: Option<String>,
}

impl Negotiated {
    /// From our OPEN and an accepted one of the peer.
    pub fn new(ours: &Open, theirs: &Open) -> Result<Self, OpenError> {
        let _ = (ours, theirs);
        todo!()
    }

    /// The longest message either end may send after the OPENs.
    pub fn max_len(&self) -> usize {
        if self.extended_message {
            MAX_LEN_EXTENDED
        } else {
            MAX_LEN
        }
    }

    /// A third of the hold time (RFC 4271 §4.4).
    pub fn keepalive(&self) -> Option<Duration> {
        self.hold_time.map(|hold_time| hold_time / 3)
    }
}
