//! The peers to which a VIP is announced, with its attributes, and those to which it is not.

use std::time::Instant;

use super::Peers;
use super::session::Session;
use crate::config::Bgp;
use crate::discovery::PeerName;
use crate::net::Prefix;
use crate::registry::{NotAnnounced, NotAnnouncedReason, RouteView};

impl Peers {
    /// The routes sent for a prefix, by peer.
    pub fn routes_sent(&self, now: Instant, prefix: &Prefix) -> Vec<RouteView> {
        let of_peer = |(name, session): (&PeerName, &Session)| {
            let route = session.peer.announcement(prefix)?;
            Some(RouteView {
                peer: name.clone(),
                attributes: route.attributes,
                since: now.saturating_duration_since(route.since),
                acknowledged: route.acknowledged,
            })
        };
        self.sessions.iter().filter_map(of_peer).collect()
    }

    /// How many peers a desired route is announced to, and to which it should be and is not. Peers
    /// configured without the family do not count, nor do those that the app does not name in `only`.
    pub fn not_announced_to(
        &self,
        prefix: &Prefix,
        bgp: &Bgp,
        only: &[PeerName],
    ) -> (usize, Vec<NotAnnounced>) {
        let family = prefix.family();
        let (mut announced_to, mut lacking) = (0, Vec::new());
        for (name, session) in &self.sessions {
            match session.not_announced_reason(prefix) {
                _ if !session.routing.families.contains(&family) || !name.is_among(only) => {}
                None => announced_to += 1,
                Some(why) => lacking.push(NotAnnounced {
                    peer: name.clone(),
                    why,
                }),
            }
        }
        for (name, index) in self.waiting().filter(|(name, _)| name.is_among(only)) {
            let settings = bgp.peers.get(index);
            if settings.is_some_and(|settings| settings.families.contains(&family)) {
                lacking.push(NotAnnounced {
                    peer: name.clone(),
                    why: NotAnnouncedReason::NoSession,
                });
            }
        }
        let unknown = only.iter().filter(|named| !self.knows(named));
        lacking.extend(unknown.map(|named| NotAnnounced {
            peer: named.clone(),
            why: NotAnnouncedReason::NoSuchPeer,
        }));
        (announced_to, lacking)
    }

    /// Whether an app that writes this names a peer of ours.
    fn knows(&self, written: &PeerName) -> bool {
        let waiting = self.waiting().map(|(name, _)| name);
        let mut known = self.sessions.keys().chain(waiting);
        known.any(|name| written.means(name))
    }
}

impl Session {
    /// Why a desired route is not announced to the peer; `None`: it is.
    fn not_announced_reason(&self, prefix: &Prefix) -> Option<NotAnnouncedReason> {
        let Some(negotiated) = self.peer.negotiated() else {
            return Some(NotAnnouncedReason::NoSession);
        };
        let family = prefix.family();
        if self.peer.is_announced(prefix) {
            None
        } else if !negotiated.families.contains(&family) {
            Some(NotAnnouncedReason::Family(family))
        } else if !self.peer.carries(prefix) || !self.may_have_next_hop(family) {
            Some(NotAnnouncedReason::NextHop)
        } else {
            Some(NotAnnouncedReason::NotYet)
        }
    }
}
