//! What the proof of the path needs of the peers: what is announced to each, and where probes leave for it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Peers;
use super::session::Session;
use crate::app::Probing;
use crate::discovery::{Network, PeerName, PeerNetwork};
use crate::net::{Family, Prefix};
use crate::path_proof::{Egress, Unproven, Way};

/// Whether a peer has a route of a VIP's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) enum Announced {
    /// This is the longest one, which the peer follows.
    Yes(Prefix),
    /// The session is up, and no such route is announced.
    No,
    NoSession,
}

impl Peers {
    /// Prefixes that were announced or withdrawn since the last call.
    pub fn take_routes_changed(&mut self) -> BTreeSet<Prefix> {
        let sessions = self.sessions.values_mut();
        sessions
            .flat_map(|session| session.peer.take_changed())
            .collect()
    }

    /// Whether a session was established or lost since the last call.
    pub fn take_sessions_changed(&mut self) -> bool {
        std::mem::take(&mut self.sessions_changed)
    }

    /// All peers with a session, and whether each has a route of a VIP with this address.
    pub fn announced_to(&self, vip: IpAddr) -> impl Iterator<Item = (&PeerName, Announced)> {
        self.sessions.iter().map(move |(name, session)| {
            let announced = match session.peer.longest_announced(vip) {
                Some(longest) => Announced::Yes(longest),
                None if session.is_established() => Announced::No,
                None => Announced::NoSession,
            };
            (name, announced)
        })
    }

    /// Whether this peer has the route of a VIP.
    pub fn is_announced_to(&self, name: &PeerName, prefix: &Prefix) -> bool {
        let session = self.sessions.get(name);
        session.is_some_and(|session| session.peer.is_announced(prefix))
    }

    /// Where probes of VIPs of this family leave for a peer.
    pub fn way(&self, name: &PeerName, family: Family, network: &Network, probing: Probing) -> Way {
        let peer = network.peers.get(name);
        let hop = peer.and_then(|peer| peer.first_hop(family));
        Way {
            probing,
            by_first_hop: hop.is_some_and(|hop| hop.as_ref().is_ok_and(|hop| hop.is_behind)),
            egress: match (peer, self.sessions.get(name)) {
                (Some(peer), Some(session)) => session.egress(peer, family),
                _ => Err(Unproven::NoInterface),
            },
        }
    }
}

impl Session {
    /// From the session's own address, where that is of the family, else from the interface's.
    fn egress(&self, peer: &PeerNetwork, family: Family) -> Result<Egress, Unproven> {
        let hop = peer.first_hop(family).cloned();
        let hop = hop.unwrap_or(Err(Unproven::NoInterface))?;
        let interface = match family {
            Family::Ipv4 => peer.next_hop4.map(Into::into),
            Family::Ipv6 => peer.next_hop6.map(Into::into),
        };
        let name = peer.interface.clone().unwrap_or_default();
        let source = self.established_local(family).or(interface);
        Ok(Egress {
            source: source.ok_or_else(|| Unproven::NoSource(family, name.clone()))?,
            interface: hop.interface,
            gateway: hop.gateway,
            name,
        })
    }
}
