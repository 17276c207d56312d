//! Whose calls may change something without a token: this host, and whoever is on a network of its own
//! that leads nowhere else, as a container bridge.
//!
//! An address of such a network cannot be borrowed from elsewhere, since the kernel's answer goes out
//! on that network. That does not hold for IPv6 link-local addresses, which every interface has: they
//! never count.

use super::{Network, View, is_link_local};
use crate::net::Prefix;
use std::collections::{BTreeMap, BTreeSet};

/// The interfaces but lo: the networks of their addresses, and which of them lead elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    pub networks: BTreeMap<String, BTreeSet<Prefix>>,
    /// Those that carry a session or a default route. `None`: not known, since there is a peer without a way to it.
    pub uplinks: Option<BTreeSet<String>>,
}

impl View<'_> {
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
        }
    }

    fn uplinks(&self, network: &Network) -> Option<BTreeSet<String>> {
        let mut reached = BTreeSet::new();
        let mut uplinks = BTreeSet::new();
        for peer in network.peers.values() {
            uplinks.insert(peer.interface.clone()?);
            reached.insert(peer.settings_index);
        }
        let defaults = self.snapshot.routes.iter().filter(|r| r.is_default());
        let ways = defaults.flat_map(|route| route.ways());
        let links = ways.filter_map(|(_, oif)| self.link(oif?));
        uplinks.extend(links.map(|link| link.name.clone()));
        (reached.len() == self.bgp.peers.len()).then_some(uplinks)
    }
}

impl Network {
    /// The addresses and networks that are near. `led_elsewhere`: interfaces that were once seen to lead
    /// elsewhere; a route that is gone for a moment makes nobody near.
    pub fn near(&self, led_elsewhere: &BTreeSet<String>) -> BTreeSet<Prefix> {
        let own = self.own_addresses.iter().copied();
        let own = own.filter(|addr| !is_link_local(*addr)).map(Prefix::host);
        let mut near: BTreeSet<Prefix> = own.chain(self.on_loopback.iter().copied()).collect();
        let Some(uplinks) = &self.interfaces.uplinks else {
            return near;
        };
        let leads_elsewhere =
            |name: &String| uplinks.contains(name) || led_elsewhere.contains(name);
        let of = |elsewhere: bool| {
            let networks = self.interfaces.networks.iter();
            let chosen = networks.filter(move |(name, _)| leads_elsewhere(name) == elsewhere);
            chosen.flat_map(|(_, prefixes)| prefixes)
        };
        // A network on both kinds of interfaces (a macvlan beside its parent) is not ours alone.
        let alone = |prefix: &&Prefix| !of(true).any(|other| other.overlaps(prefix));
        near.extend(of(false).filter(alone));
        near
    }
}
