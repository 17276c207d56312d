//! What the core shows of a peer: plain values, nothing that leads back in. Ages are durations, so
//! that nobody outside needs the core's clock.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::bgp::Negotiated;
use crate::bgp::peer::{Counters, StateName};
use crate::discovery::PeerName;
use crate::net::{Asn, Family, RouterId};

/// One peer as `/info` and the metrics show it.
#[derive(Clone, Debug)]
pub struct PeerView {
    pub name: PeerName,
    pub remote: IpAddr,
    pub port: u16,
    pub interface: Option<String>,
    /// The interface has none.
    pub no_carrier: bool,
    /// The session's own local address, else the one it would use.
    pub local: Option<IpAddr>,
    pub local_as: Asn,
    /// As configured; `None`: any.
    pub peer_as: Option<Asn>,
    /// Ours.
    pub router_id: RouterId,
    pub passive: bool,
    /// As configured, in seconds; 0 is off.
    pub hold_time: u16,
    pub families: BTreeSet<Family>,
    pub state: StateName,
    /// How long it has been in this state.
    pub since: Duration,
    /// How long the session has been up.
    pub uptime: Option<Duration>,
    /// `None` unless established.
    pub negotiated: Option<Negotiated>,
    pub counters: Counters,
    /// Prefixes announced and not withdrawn.
    pub announced: usize,
    pub flaps: u64,
    pub last_error: Option<String>,
    /// `None`: no BFD with this peer.
    pub bfd_up: Option<bool>,
}
