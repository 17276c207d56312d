//! From what an app says to what a peer hears: attributes laid over each other, and the next hop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::app::Attributes;
use crate::bgp::{AsPath, PathAttributes};
use crate::net::{Asn, Family, Origin, Prefix};
use crate::plan::Routes;

/// What a peer's routes are made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Routing {
    pub families: BTreeSet<Family>,
    /// The global attributes with the peer's laid over them.
    pub attributes: Attributes,
    pub origin: Origin,
    pub local_as: Asn,
    pub next_hop4: Option<Ipv4Addr>,
    pub next_hop6: Option<Ipv6Addr>,
}

/// What only the session knows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SessionFacts {
    /// Its own address, or the one it would use.
    pub local: Option<IpAddr>,
    /// IPv4 routes may have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
}

impl Routing {
    /// The routes as this peer hears them; those without a next hop are left out.
    pub fn routes(&self, routes: &Routes, facts: SessionFacts) -> BTreeMap<Prefix, PathAttributes> {
        let taken = routes
            .iter()
            .filter(|(prefix, _)| self.families.contains(&prefix.family()));
        taken
            .filter_map(|(prefix, app)| {
                let attributes = self.attributes.overlaid(app);
                let next_hop = self.next_hop(prefix.family(), &attributes, facts)?;
                Some((*prefix, self.path(attributes, next_hop)))
            })
            .collect()
    }

    /// What a route of this family would have as next hop if its app sets none.
    pub fn default_next_hop(&self, family: Family, facts: SessionFacts) -> Option<IpAddr> {
        self.next_hop(family, &self.attributes, facts)
    }

    /// Set by the operator, else the session's own address, else the interface's.
    fn next_hop(
        &self,
        family: Family,
        attributes: &Attributes,
        facts: SessionFacts,
    ) -> Option<IpAddr> {
        let local = facts.local.filter(|local| Family::of(*local) == family);
        match family {
            Family::Ipv4 => attributes
                .next_hop
                .map(IpAddr::V4)
                .or(local)
                .or(self.next_hop4.map(IpAddr::V4))
                .or_else(|| {
                    let six = || self.next_hop(Family::Ipv6, attributes, facts);
                    facts.extended_next_hop.then(six).flatten()
                }),
            Family::Ipv6 => {
                let link_local =
                    |addr: &IpAddr| matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local());
                attributes
                    .next_hop6
                    .map(IpAddr::V6)
                    .or(local.filter(|addr| !link_local(addr)))
                    .or(self.next_hop6.map(IpAddr::V6))
                    .or(local)
            }
        }
    }

    fn path(&self, attributes: Attributes, next_hop: IpAddr) -> PathAttributes {
        let prepends = usize::from(attributes.as_path_prepend.unwrap_or(0));
        PathAttributes {
            origin: self.origin,
            as_path: AsPath::sequence(std::iter::repeat_n(self.local_as, prepends)),
            next_hop,
            med: attributes.med,
            local_pref: attributes.local_pref,
            communities: attributes.communities,
            large_communities: attributes.large_communities,
            ext_communities: attributes.ext_communities,
        }
    }
}
