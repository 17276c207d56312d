//! The session parameters negotiated by two OPENs (RFC 4271 §4.2, RFC 5492).

use std::time::Duration;

use super::framer::{MAX_LEN, MAX_LEN_EXTENDED};
use super::{
    Capability, DecodeContext, EncodeContext, GracefulRestart, Open, OpenError, SessionType,
};
use crate::net::{Asn, Family, RouterId};
use crate::small_set::SmallSet;

/// The session parameters negotiated by two OPENs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub session: SessionType,
    pub local_as: Asn,
    pub peer_as: Asn,
    pub local_router_id: RouterId,
    pub peer_router_id: RouterId,
    /// The smaller of both; `None` for zero: no hold and no keepalive timer.
    pub hold_time: Option<Duration>,
    pub families: SmallSet<Family>,
    pub four_octet_as: bool,
    /// The peer has the route refresh capability. Its own requests are always answered.
    pub route_refresh: bool,
    /// Both ends mark where a refresh begins and ends (RFC 7313).
    pub enhanced_route_refresh: bool,
    /// Both ends accept messages up to 65535 bytes (RFC 8654).
    pub extended_message: bool,
    /// IPv4 routes may have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// The peer's graceful restart capability, if both ends have it (RFC 4724).
    pub graceful_restart: Option<GracefulRestart>,
    /// The peer's host name from its FQDN capability.
    pub hostname: Option<String>,
    /// All capabilities of the peer's OPEN, in its order.
    pub peer_capabilities: Vec<Capability>,
}

impl Negotiated {
    /// From our OPEN and an accepted one of the peer.
    pub fn new(ours: &Open, theirs: &Open) -> Result<Self, OpenError> {
        let of_peer = theirs.families();
        let both = |family: &Family| of_peer.contains(family);
        let families: SmallSet<Family> = ours.families().into_iter().filter(both).collect();
        if families.is_empty() {
            return Err(OpenError::NoCommonFamily {
                ours: ours.families(),
            });
        }
        let both =
            |capability| ours.has_capability(&capability) && theirs.has_capability(&capability);
        let hold_time = ours.hold_time.min(theirs.hold_time);
        Ok(Self {
            session: if ours.asn == theirs.asn {
                SessionType::Ibgp
            } else {
                SessionType::Ebgp
            },
            local_as: ours.asn,
            peer_as: theirs.asn,
            local_router_id: ours.router_id,
            peer_router_id: theirs.router_id,
            hold_time: (hold_time != 0).then(|| Duration::from_secs(u64::from(hold_time))),
            // MP_REACH_NLRI and MP_UNREACH_NLRI need the multiprotocol capability of both ends (RFC 4760 §8);
            // `families` may have IPv4 without it.
            extended_next_hop: both(Capability::Multiprotocol(Family::Ipv4.into()))
                && ours.ipv4_over_ipv6()
                && theirs.ipv4_over_ipv6(),
            families,
            four_octet_as: ours.four_octet_as().and(theirs.four_octet_as()).is_some(),
            route_refresh: theirs.has_capability(&Capability::RouteRefresh),
            enhanced_route_refresh: both(Capability::EnhancedRouteRefresh),
            extended_message: both(Capability::ExtendedMessage),
            graceful_restart: ours
                .graceful_restart()
                .and(theirs.graceful_restart())
                .cloned(),
            hostname: theirs.hostname().map(str::to_owned),
            peer_capabilities: theirs.capabilities.clone(),
        })
    }

    /// The longest message we may send after the OPENs.
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

impl DecodeContext {
    /// After both OPENs.
    pub fn established(negotiated: &Negotiated) -> Self {
        Self {
            local_as: negotiated.local_as,
            local_router_id: negotiated.local_router_id,
            peer_as: Some(negotiated.peer_as),
            session: negotiated.session,
            four_octet_as: negotiated.four_octet_as,
            families: negotiated.families.clone(),
            extended_next_hop: negotiated.extended_next_hop,
            enhanced_route_refresh: negotiated.enhanced_route_refresh,
        }
    }
}

impl From<&Negotiated> for EncodeContext {
    fn from(negotiated: &Negotiated) -> Self {
        Self {
            session: negotiated.session,
            four_octet_as: negotiated.four_octet_as,
        }
    }
}
