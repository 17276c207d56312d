//! Where a probe leaves that is bound to the interface of a peer, and whether that proves anything of the peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{PeerName, PeerNetwork, Resolver, is_link_local};
use crate::net::Family;
use crate::netlink::link::Link;
use crate::path_proof::Unproven;

/// The router that gets what is bound to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstHop {
    /// Interface index.
    pub interface: u32,
    pub gateway: IpAddr,
    /// The peer is behind it, several hops away.
    pub is_behind: bool,
}

/// The first hop to a peer for each family, or why it would prove nothing of the peer.
pub type FirstHops = Vec<(Family, Result<FirstHop, Unproven>)>;

impl Resolver<'_> {
    /// Sets the first hops of all peers.
    pub(super) fn set_first_hops(&self, peers: &mut BTreeMap<PeerName, PeerNetwork>) {
        let hops: Vec<(Option<String>, IpAddr)> = peers
            .values()
            .map(|peer| (peer.interface.clone(), hop(peer)))
            .collect();
        for peer in peers.values_mut() {
            let on = |(interface, _): &&(Option<String>, IpAddr)| *interface == peer.interface;
            let beside: BTreeSet<IpAddr> = hops.iter().filter(on).map(|(_, hop)| *hop).collect();
            let of = |family| (family, self.first_hop(peer, family, &beside));
            peer.first_hops = Family::ALL.into_iter().map(of).collect();
        }
    }

    /// `beside`: the first hops of all peers on the interface.
    fn first_hop(
        &self,
        peer: &PeerNetwork,
        family: Family,
        beside: &BTreeSet<IpAddr>,
    ) -> Result<FirstHop, Unproven> {
        let link = peer.interface.as_deref().and_then(|n| self.link_named(n));
        let link = link.ok_or(Unproven::NoInterface)?;
        let gateway = self.gateway_on(link, family)?;
        let hop = hop(peer);
        // A router has several addresses on a link: one of each family, and a link-local one.
        let comparable =
            Family::of(gateway) == Family::of(hop) && is_link_local(gateway) == is_link_local(hop);
        let routers = beside.iter().filter(|b| Family::of(**b) == Family::of(hop));
        let alone = routers.count() == 1;
        if gateway != hop && !self.is_same_router(link, gateway, hop) && (comparable || !alone) {
            return Err(Unproven::OtherGateway(gateway));
        }
        Ok(FirstHop {
            interface: link.index,
            gateway,
            is_behind: peer.gateway.is_some(),
        })
    }

    /// The gateway of the default route by this interface that the kernel prefers.
    fn gateway_on(&self, link: &Link, family: Family) -> Result<IpAddr, Unproven> {
        let routes = self.snapshot.routes.iter();
        let defaults = routes.filter(|route| route.family == family && route.is_default());
        let by_link = defaults.flat_map(|route| {
            let hops = route.next_hops().into_iter();
            hops.filter(|(_, oif)| *oif == Some(link.index))
                .filter_map(|(gateway, _)| Some((route.priority, gateway?)))
        });
        let mut all: Vec<(u32, IpAddr)> = by_link.collect();
        all.sort_unstable();
        all.dedup();
        let best = all.first().map(|(priority, _)| *priority);
        let mut gateways = all.iter().filter(|(priority, _)| Some(*priority) == best);
        match (gateways.next(), gateways.next()) {
            (Some((_, one)), None) => Ok(*one),
            (Some((_, one)), Some((_, other))) => Err(Unproven::OtherRoute(format!(
                "probes leave by {one} or {other}"
            ))),
            (None, _) => Err(Unproven::NoGateway(family, link.name.clone())),
        }
    }

    /// Two addresses of one machine, as the neighbor table has it.
    fn is_same_router(&self, link: &Link, one: IpAddr, other: IpAddr) -> bool {
        let mac = |addr| {
            let mut neighbors = self.snapshot.neighbors.iter();
            let known = neighbors.find(|n| n.index == link.index && n.addr == addr)?;
            known.mac
        };
        mac(one).is_some_and(|one| mac(other) == Some(one))
    }
}

/// The router that packets to the peer reach first.
fn hop(peer: &PeerNetwork) -> IpAddr {
    peer.gateway.unwrap_or(peer.remote)
}
