//! What the registry needs of the network: addresses that no VIP may contain, NAT targets, and families
//! without a next hop.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::app::App;
use crate::net::{Family, PeerName, Prefix};
use crate::small_set::SmallSet;

/// What is known of the network. The default knows nothing and forbids nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkFacts {
    /// `false` until the kernel's tables were read once.
    pub known: bool,
    /// Addresses that no VIP may contain, each with what it is: what is worst to lose comes first.
    pub forbidden: Vec<(IpAddr, &'static str)>,
    pub nat_target: BTreeMap<Family, IpAddr>,
    /// All peers; `None`: there is no session yet, to judge.
    pub peers: Vec<(PeerName, Option<PeerFacts>)>,
}

/// What a session does with the routes of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerFacts {
    pub ipv4: FamilySupport,
    pub ipv6: FamilySupport,
}

/// What a session does with the routes of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilySupport {
    /// It is configured without the family.
    NotTaken,
    NoNextHop,
    /// They have a next hop, or may have one once the session is up.
    Possible,
}

/// Why a VIP cannot be announced now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It contains an address that this host has to reach, or is.
    Overlap {
        vip: Prefix,
        addr: IpAddr,
        what: &'static str,
    },
    /// Another app holds it.
    HeldByOther {
        vip: Prefix,
        by: String,
    },
    /// Another instance of the same service holds it; this one is its standby.
    Standby {
        vip: Prefix,
        by: String,
    },
    NoNatTarget {
        family: Family,
    },
    NoNextHop {
        vip: Prefix,
        why: String,
    },
    /// None of the peers that its app names is one of ours.
    NoSuchPeer {
        vip: Prefix,
        peers: SmallSet<PeerName>,
    },
}

impl Problem {
    /// Whether the address must not be on the interface at all.
    pub fn forbids_address(&self) -> bool {
        matches!(
            self,
            Self::Overlap { .. } | Self::HeldByOther { .. } | Self::Standby { .. }
        )
    }

    /// Whether another instance of the service holds the VIP.
    pub fn is_standby(&self) -> bool {
        matches!(self, Self::Standby { .. })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlap { vip, addr, what } => {
                write!(
                    f,
                    "VIP {vip} contains {what} {addr} and would cut the host off"
                )
            }
            Self::HeldByOther { vip, by } => write!(f, "VIP {vip} is held by app {by}"),
            Self::Standby { vip, by } => write!(f, "standby: VIP {vip} is held by {by}"),
            Self::NoNatTarget { family } => {
                write!(
                    f,
                    "there is no local {family} address for NAT to send packets to"
                )
            }
            Self::NoNextHop { vip, why } => write!(f, "VIP {vip} has no next hop: {why}"),
            Self::NoSuchPeer { vip, peers } => {
                let peers: Vec<String> = peers.iter().map(PeerName::to_string).collect();
                let peers = peers.join(", ");
                write!(
                    f,
                    "VIP {vip} is only for {peers}, which is no peer of ours now"
                )
            }
        }
    }
}

impl NetworkFacts {
    /// An address that this VIP would cut off.
    pub fn overlap(&self, vip: &Prefix) -> Option<Problem> {
        let (addr, what) = self
            .forbidden
            .iter()
            .find(|(addr, _)| vip.contains(*addr))?;
        Some(Problem::Overlap {
            vip: *vip,
            addr: *addr,
            what,
        })
    }

    /// What blocks this VIP of `app`.
    pub fn problem(&self, app: &App, vip: &Prefix) -> Option<Problem> {
        if !self.known {
            return None;
        }
        if let Some(problem) = self.overlap(vip) {
            return Some(problem);
        }
        let family = vip.family();
        if !app.nats.is_empty() && !self.nat_target.contains_key(&family) {
            return Some(Problem::NoNatTarget { family });
        }
        if let Some(problem) = self.no_such_peer(app, vip) {
            return Some(problem);
        }
        let explicit = match family {
            Family::Ipv4 => app.attributes.next_hop.is_some(),
            Family::Ipv6 => app.attributes.next_hop6.is_some(),
        };
        if explicit {
            return None;
        }
        let why = self.no_next_hop(&app.options.peers, family)?;
        Some(Problem::NoNextHop { vip: *vip, why })
    }

    /// The first peer that an app names and that is none of ours.
    pub fn unknown_peer<'a>(&self, app: &'a App) -> Option<&'a PeerName> {
        let mut named = app.options.peers.iter();
        named.find(|named| self.known && !self.peers.iter().any(|(peer, _)| named.means(peer)))
    }

    fn no_such_peer(&self, app: &App, vip: &Prefix) -> Option<Problem> {
        let named = &app.options.peers;
        let any = named.is_empty() || self.peers.iter().any(|(peer, _)| peer.is_among(named));
        (!any).then(|| Problem::NoSuchPeer {
            vip: *vip,
            peers: named.clone(),
        })
    }

    /// Why none of these peers has a next hop for a family, if so.
    fn no_next_hop(&self, named: &[PeerName], family: Family) -> Option<String> {
        let meant = || self.peers.iter().filter(|(peer, _)| peer.is_among(named));
        let sessions = meant().filter_map(|(_, facts)| facts.as_ref());
        let all = sessions.map(|facts| match family {
            Family::Ipv4 => facts.ipv4,
            Family::Ipv6 => facts.ipv6,
        });
        let all: Vec<FamilySupport> = all.collect();
        if all.is_empty() {
            // A speaker on this host is reached without an address of the host, other peers are not.
            let mut addrs = meant().filter_map(|(peer, _)| peer.addr());
            let on_host = addrs.any(|addr| addr.is_loopback());
            return on_host.then(|| NO_HOST_ADDRESS.to_owned());
        }
        if all.contains(&FamilySupport::Possible) {
            return None;
        }
        Some(match all.contains(&FamilySupport::NoNextHop) {
            true => {
                format!("this host has no {family} address toward any peer (write it as next_hop)")
            }
            false => format!("no peer takes {family} routes"),
        })
    }
}

/// Of a host with a BGP speaker of its own.
const NO_HOST_ADDRESS: &str =
    "this host has only loopback addresses (write router_id and next_hop)";
