//! The routes of a VIP, by peer, as JSON.

use std::time::SystemTime;

use serde::Serialize;

use super::{before, precise, seconds};
use crate::core::{NotAnnounced, PathView, RouteView, VipView};
use crate::view::time::rfc3339;

/// The route of a VIP as sent to one peer.
#[derive(Serialize)]
pub(super) struct Route {
    peer: String,
    prefix: String,
    next_hop: String,
    as_path: String,
    origin: String,
    med: Option<u32>,
    local_pref: Option<u32>,
    communities: Vec<String>,
    large_communities: Vec<String>,
    ext_communities: Vec<String>,
    since: String,
    age: f64,
    /// Whether the peer's kernel has acknowledged the UPDATE.
    acknowledged: bool,
}

#[derive(Serialize)]
pub(super) struct NotAnnouncedTo {
    peer: String,
    why: String,
}

/// The result of the probes that one peer should forward back to this host.
#[derive(Serialize)]
pub(super) struct Path {
    peer: String,
    state: &'static str,
    /// The text that `status` shows.
    proof: String,
    /// How many of the last `probes` probes came back.
    returned: usize,
    probes: usize,
    first_hop: Option<String>,
    /// Seconds from the announcement to the first probe that came back.
    forwarded_after: Option<f64>,
    /// Seconds between two probes, where that is longer than configured.
    stretched: Option<f64>,
}

impl Route {
    /// The routes of a VIP, one for each peer.
    pub fn all(vip: &VipView, wall: SystemTime) -> Vec<Self> {
        let one = |route: &RouteView| {
            let attributes = &route.attributes;
            Self {
                peer: route.peer.to_string(),
                prefix: vip.prefix.to_string(),
                next_hop: attributes.next_hop.to_string(),
                as_path: attributes.as_path.to_string(),
                origin: attributes.origin.to_string(),
                med: attributes.med,
                local_pref: attributes.local_pref,
                communities: texts(&attributes.communities),
                large_communities: texts(&attributes.large_communities),
                ext_communities: texts(&attributes.ext_communities),
                since: rfc3339(before(wall, route.since)),
                age: seconds(route.since),
                acknowledged: route.acknowledged,
            }
        };
        vip.routes.iter().map(one).collect()
    }
}

impl From<&PathView> for Path {
    fn from(view: &PathView) -> Self {
        let proof = &view.proof;
        Self {
            peer: view.peer.to_string(),
            state: proof.finding.as_str(),
            proof: proof.to_string(),
            returned: proof.returned,
            probes: proof.probes,
            first_hop: proof.first_hop.map(|hop| hop.to_string()),
            forwarded_after: proof.forwarded_after.map(precise),
            stretched: proof.stretched.map(seconds),
        }
    }
}

impl From<&NotAnnounced> for NotAnnouncedTo {
    fn from(lack: &NotAnnounced) -> Self {
        Self {
            peer: lack.peer.to_string(),
            why: lack.why.to_string(),
        }
    }
}

fn texts<T: ToString>(values: impl IntoIterator<Item = T>) -> Vec<String> {
    values.into_iter().map(|value| value.to_string()).collect()
}
