//! One peer as plain values. Ages are durations, so that readers need no clock of the core's.

use std::net::IpAddr;
use std::time::Duration;

use crate::bgp::Negotiated;
use crate::bgp::peer::{Counters, StateName};
use crate::discovery::{Obstacle, PeerName};
use crate::net::{Asn, Family, RouterId};
use crate::small_set::SmallSet;

use super::Ttl;

/// One peer as `/info` and the metrics show it.
#[derive(Clone, Debug)]
pub struct PeerView {
    pub name: PeerName,
    /// `None`: the router on the interface, not discovered yet.
    pub remote: Option<IpAddr>,
    pub port: u16,
    pub interface: Option<String>,
    /// The interface has none.
    pub no_carrier: bool,
    /// Why packets do not reach the peer of an established session; a missing carrier is not reported here.
    pub unreachable: Option<Obstacle>,
    /// The session's own local address, else the one it would use.
    pub local: Option<IpAddr>,
    pub local_as: Asn,
    /// As configured; `None`: any.
    pub peer_as: Option<Asn>,
    /// Our router id; `None`: there is none yet.
    pub router_id: Option<RouterId>,
    pub passive: bool,
    /// As configured, in seconds; 0 is off.
    pub hold_time: u16,
    pub families: SmallSet<Family>,
    pub state: StateName,
    /// How long the session has been up, or down.
    pub since: Duration,
    /// How long the session has been up.
    pub uptime: Option<Duration>,
    /// The first connection attempt is over, or none is possible.
    pub tried: bool,
    /// How long sent bytes have been unacknowledged.
    pub unanswered: Option<Duration>,
    /// How long ago the last session ended; since the start where there was none.
    pub downtime: Duration,
    /// The hop limit of packets to the peer, where it is not the kernel's own.
    pub ttl: Ttl,
    /// `None` unless established.
    pub negotiated: Option<Negotiated>,
    pub counters: Counters,
    /// Prefixes announced and not withdrawn.
    pub announced: usize,
    pub flaps: u64,
    /// Why there is no session, or why the last one ended.
    pub last_error: Option<String>,
    /// `None`: no BFD with this peer.
    pub bfd_up: Option<bool>,
}
