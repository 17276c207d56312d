//! The facts about peers that the registry needs.

use super::Peers;
use super::session::Session;
use crate::discovery::PeerName;
use crate::net::Family;
use crate::registry::{FamilySupport, PeerFacts};

impl Peers {
    /// All peers, those without a session included.
    pub fn facts(&self) -> Vec<(PeerName, Option<PeerFacts>)> {
        let sessions = self.sessions.iter();
        let sessions = sessions.map(|(name, session)| {
            let [ipv4, ipv6] = Family::ALL.map(|family| session.family_support(family));
            (name.clone(), Some(PeerFacts { ipv4, ipv6 }))
        });
        let waiting = self.waiting().map(|(name, _)| (name.clone(), None));
        waiting.chain(sessions).collect()
    }
}

impl Session {
    fn family_support(&self, family: Family) -> FamilySupport {
        if !self.routing.families.contains(&family) {
            FamilySupport::NotTaken
        } else if self.may_have_next_hop(family) || self.obstacle().is_some() {
            // What next hop there would be without a route to the peer is unknown.
            FamilySupport::Possible
        } else {
            FamilySupport::NoNextHop
        }
    }
}
