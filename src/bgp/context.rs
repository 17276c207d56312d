//! The session parameters that encoding and decoding of messages depend on.

use super::SessionType;
use crate::net::{Asn, Family, RouterId};
use crate::small_set::SmallSet;

/// What decoding depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeContext {
    pub local_as: Asn,
    pub local_router_id: RouterId,
    /// As configured; `None` accepts any.
    pub peer_as: Option<Asn>,
    pub session: SessionType,
    /// AS numbers in paths are four octets wide (RFC 6793).
    pub four_octet_as: bool,
    pub families: SmallSet<Family>,
    /// IPv4 routes may have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    pub enhanced_route_refresh: bool,
}

impl DecodeContext {
    /// Before the peer's OPEN: nothing is negotiated yet.
    pub fn before_open(local_as: Asn, local_router_id: RouterId, peer_as: Option<Asn>) -> Self {
        Self {
            local_as,
            local_router_id,
            peer_as,
            session: if peer_as == Some(local_as) {
                SessionType::Ibgp
            } else {
                SessionType::Ebgp
            },
            four_octet_as: false,
            families: SmallSet::from([Family::Ipv4]),
            extended_next_hop: false,
            enhanced_route_refresh: false,
        }
    }
}

/// What encoding path attributes depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeContext {
    pub session: SessionType,
    pub four_octet_as: bool,
}
