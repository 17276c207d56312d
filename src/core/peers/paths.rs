//! What the proof of the path needs of the peers: what is announced to each, and where probes leave for it.

use std::collections::BTreeSet;

use super::Peers;
use super::session::Session;
use crate::app::Probing;
use crate::discovery::{Network, PeerName, PeerNetwork};
use crate::net::{Family, Prefix};
use crate::path_proof::{Egress, Unproven, Way};

/// Whether a peer has the route of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) enum Announced {
    Yes,
    /// The session is up, and the route is not announced.
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

    /// All peers with a session, and whether each has the route.
    pub fn announced_to(&self, prefix: &Prefix) -> impl Iterator<Item = (&PeerName, Announced)> {
        self.sessions.iter().map(|(name, session)| {
            let announced = match session.peer.is_announced(prefix) {
                true => Announced::Yes,
                false if session.is_established() => Announced::No,
                false => Announced::NoSession,
            };
            (name, announced)
        })
    }

    /// Where probes of VIPs of this family leave for a peer.
    pub fn way(&self, name: &PeerName, family: Family, network: &Network, probing: Probing) -> Way {
        let peer = network.peers.get(name);
        let hop = peer.and_then(|peer| peer.first_hops.get(&family));
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
        let hop = peer.first_hops.get(&family).cloned();
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
