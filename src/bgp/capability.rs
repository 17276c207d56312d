//! Capabilities of an OPEN (RFC 5492): multiprotocol (4760), route refresh (2918, 7313), extended next
//! hop (8950), extended message (8654), graceful restart (4724, 8538), four-octet AS (6793), FQDN
//! (draft-walton-bgp-hostname-capability). Whatever else a peer says is kept as it came.

use crate::net::Family;

use super::AfiSafi;

/// One capability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// RFC 4760 §8.
    Multiprotocol(AfiSafi),
    /// RFC 2918 §2.
    RouteRefresh,
    /// RFC 8950 §4.
    ExtendedNextHop(Vec<ExtendedNextHop>),
    /// RFC 8654 §3.
    ExtendedMessage,
    /// RFC 4724 §3.
    GracefulRestart(GracefulRestart),
    /// RFC 6793 §3; 0 only where a peer said so.
    FourOctetAs(u32),
    /// RFC 7313 §3.
    EnhancedRouteRefresh,
    /// Names for humans to read.
    Fqdn {
        hostname: String,
        domain: String,
    },
    Unknown {
        code: u8,
        value: Vec<u8>,
    },
}

/// "Routes of this family may have a next hop of that one" (RFC 8950 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedNextHop {
    pub afi: u16,
    pub safi: u16,
    pub next_hop_afi: u16,
}

impl ExtendedNextHop {
    /// IPv4 unicast over an IPv6 next hop.
    pub const IPV4_OVER_IPV6: Self = Self {
        afi: 1,
        safi: 1,
        next_hop_afi: 2,
    };
}

/// The graceful restart capability (RFC 4724 §3, RFC 8538 §2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// R: the sender has restarted.
    pub restarted: bool,
    /// N: a NOTIFICATION and the hold timer also leave the routes in place (RFC 8538).
    pub notification: bool,
    /// Seconds, at most 4095.
    pub restart_time: u16,
    pub families: Vec<RestartFamily>,
}

impl GracefulRestart {
    /// Whether the sender kept forwarding for `family`.
    pub fn forwarding(&self, family: Family) -> bool {
        self.families
            .iter()
            .any(|f| f.family == AfiSafi::from(family) && f.forwarding)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartFamily {
    pub family: AfiSafi,
    /// F: forwarding was preserved over the restart.
    pub forwarding: bool,
}
