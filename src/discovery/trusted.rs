//! Which callers may make changing calls without a token: this host, and hosts on networks of interfaces
//! without session or default route, such as a container bridge.
//!
//! A source address of such a network cannot be spoofed from elsewhere, since the SYN-ACK goes out on
//! that network. IPv6 link-local addresses, which exist on every interface, are never trusted.

use super::{Network, Resolver, is_link_local};
use crate::net::{Family, Prefix};
use crate::netlink::route::Route;
use std::collections::{BTreeMap, BTreeSet};

/// Interfaces other than lo: the networks of their addresses, and which of them are uplinks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    pub networks: BTreeMap<String, BTreeSet<Prefix>>,
    /// Those that carry a session or a default route. `None`: not known, since there is a peer without a route.
    pub uplinks: Option<BTreeSet<String>>,
    /// Those of the preferred IPv4 default routes.
    pub defaults4: BTreeSet<String>,
}

impl Resolver<'_> {
    /// `network` has its peers.
    pub(super) fn interfaces(&self, network: &Network) -> Interfaces {
        let mut networks: BTreeMap<String, BTreeSet<Prefix>> = BTreeMap::new();
        for address in &self.snapshot.addresses {
            let counts = !self.is_loopback(address.index)
                && !is_link_local(address.addr)
                && !self.is_our_vip(address);
            let link = self.link(address.index).filter(|_| counts);
            if let (Some(link), Some(prefix)) = (link, address.prefix()) {
                networks
                    .entry(link.name.clone())
                    .or_default()
                    .insert(prefix);
            }
        }
        Interfaces {
            networks,
            uplinks: self.uplinks(network),
            defaults4: self.defaults4(),
        }
    }

    fn defaults4(&self) -> BTreeSet<String> {
        let defaults = || {
            let routes = self.snapshot.routes.iter();
            routes.filter(|route| route.family == Family::Ipv4 && route.is_default())
        };
        let best = defaults().map(|route| route.priority).min();
        let hops = defaults()
            .filter(|route| Some(route.priority) == best)
            .flat_map(Route::next_hops);
        let links = hops.filter_map(|(_, oif)| self.link(oif?));
        links.map(|link| link.name.clone()).collect()
    }

    fn uplinks(&self, network: &Network) -> Option<BTreeSet<String>> {
        let mut reached = BTreeSet::new();
        let mut uplinks = BTreeSet::new();
        for peer in network.peers.values() {
            uplinks.insert(peer.interface.clone()?);
            reached.insert(peer.settings_index);
        }
        let defaults = self.snapshot.routes.iter().filter(|r| r.is_default());
        let next_hops = defaults.flat_map(|route| route.next_hops());
        let links = next_hops.filter_map(|(_, oif)| self.link(oif?));
        uplinks.extend(links.map(|link| link.name.clone()));
        (reached.len() == self.bgp.peers.len()).then_some(uplinks)
    }
}

impl Network {
    /// The trusted addresses and networks. `uplinks_seen`: interfaces that were an uplink before; a
    /// route that is missing for a moment makes no network trusted.
    pub fn trusted_networks(&self, uplinks_seen: &BTreeSet<String>) -> BTreeSet<Prefix> {
        let own = self.own_addresses.iter().copied();
        let own = own.filter(|addr| !is_link_local(*addr)).map(Prefix::host);
        let mut near: BTreeSet<Prefix> = own.chain(self.on_loopback.iter().copied()).collect();
        let Some(uplinks) = &self.interfaces.uplinks else {
            return near;
        };
        let is_uplink = |name: &String| uplinks.contains(name) || uplinks_seen.contains(name);
        let of = |elsewhere: bool| {
            let networks = self.interfaces.networks.iter();
            let chosen = networks.filter(move |(name, _)| is_uplink(name) == elsewhere);
            chosen.flat_map(|(_, prefixes)| prefixes)
        };
        // A network that is also on an uplink (a macvlan beside its parent) is not trusted.
        let alone = |prefix: &&Prefix| !of(true).any(|other| other.overlaps(prefix));
        near.extend(of(false).filter(alone));
        near
    }
}
