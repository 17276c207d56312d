//! Path attributes and next hop of an app's route toward one peer: global, peer's and app's attributes
//! overlaid.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::app::Attributes;
use crate::bgp::{AsPath, PathAttributes};
use crate::net::{Asn, Family, Origin, PeerName, Prefix};
use crate::plan::{Route, Routes};
use crate::small_set::SmallSet;

/// What determines the path attributes toward one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Routing {
    pub peer: PeerName,
    pub families: SmallSet<Family>,
    /// The global attributes with the peer's laid over them.
    pub attributes: Attributes,
    pub origin: Origin,
    pub local_as: Asn,
    pub next_hop4: Option<Ipv4Addr>,
    pub next_hop6: Option<Ipv6Addr>,
}

/// What is known only with the session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SessionFacts {
    /// Its own address, or the one it would use.
    pub local: Option<IpAddr>,
    /// IPv4 routes may have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
}

impl Routing {
    /// The routes as advertised to this peer; those without a next hop are left out.
    pub fn routes(&self, routes: &Routes, facts: SessionFacts) -> BTreeMap<Prefix, PathAttributes> {
        let mut paths = BTreeMap::new();
        for (prefix, route) in routes {
            if let Some(path) = self.path(*prefix, route, facts) {
                paths.insert(*prefix, path);
            }
        }
        paths
    }

    /// One route as advertised to this peer; `None`: it is for other peers, the family is not negotiated,
    /// or there is no next hop.
    pub fn path(
        &self,
        prefix: Prefix,
        route: &Route,
        facts: SessionFacts,
    ) -> Option<PathAttributes> {
        let family = prefix.family();
        if !self.families.contains(&family) || !self.peer.is_among(&route.peers) {
            return None;
        }
        let attributes = self.attributes.overlaid(&route.attributes);
        let next_hop = self.next_hop(family, &attributes, facts)?;
        Some(self.path_attributes(attributes, next_hop))
    }

    /// What a route of this family would have as next hop if its app sets none.
    pub fn default_next_hop(&self, family: Family, facts: SessionFacts) -> Option<IpAddr> {
        self.next_hop(family, &self.attributes, facts)
    }

    /// Set by the operator, else the session's own address, else the interface's, or the host's where the
    /// peer is on this host.
    fn next_hop(
        &self,
        family: Family,
        attributes: &Attributes,
        facts: SessionFacts,
    ) -> Option<IpAddr> {
        // To a router a loopback address means itself.
        let usable = |local: &IpAddr| Family::of(*local) == family && !local.is_loopback();
        let local = facts.local.filter(usable);
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

    fn path_attributes(&self, attributes: Attributes, next_hop: IpAddr) -> PathAttributes {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Community;
    use std::rc::Rc;

    fn routing() -> Routing {
        Routing {
            peer: "10.0.0.1".parse().unwrap(),
            families: Family::ALL.into(),
            attributes: Attributes {
                communities: [Community::new(65001, 1)].into(),
                med: Some(1),
                ..Attributes::default()
            },
            origin: Origin::Igp,
            local_as: Asn::new(65001).unwrap(),
            next_hop4: Some("10.0.0.2".parse().unwrap()),
            next_hop6: Some("2001:db8::2".parse().unwrap()),
        }
    }

    fn to_all(attributes: Attributes) -> Rc<Route> {
        Rc::new(Route {
            attributes,
            ..Route::default()
        })
    }

    fn next_hop(
        routing: &Routing,
        vip: &str,
        app: Attributes,
        facts: SessionFacts,
    ) -> Option<String> {
        let vip: Prefix = vip.parse().unwrap();
        let routes = routing.routes(&Routes::from([(vip, to_all(app))]), facts);
        routes.get(&vip).map(|path| path.next_hop.to_string())
    }

    fn local(text: &str) -> SessionFacts {
        SessionFacts {
            local: Some(text.parse().unwrap()),
            extended_next_hop: false,
        }
    }

    const V4: &str = "192.0.2.53/32";
    const V6: &str = "2001:db8:5::53/128";

    #[test]
    fn the_next_hop_is_the_operators_then_the_sessions_then_the_interfaces() {
        let mut routing = routing();
        let app = || Attributes {
            next_hop: Some("10.9.9.9".parse().unwrap()),
            ..Attributes::default()
        };
        let plain = Attributes::default;
        let hop = |routing: &Routing, vip, app, facts| next_hop(routing, vip, app, facts).unwrap();
        assert_eq!(
            hop(&routing, V4, plain(), SessionFacts::default()),
            "10.0.0.2"
        );
        assert_eq!(hop(&routing, V4, plain(), local("10.0.0.7")), "10.0.0.7");
        assert_eq!(hop(&routing, V6, plain(), local("10.0.0.7")), "2001:db8::2");
        assert_eq!(hop(&routing, V6, plain(), local("fe80::1")), "2001:db8::2");
        routing.attributes.next_hop = Some("10.8.8.8".parse().unwrap());
        assert_eq!(hop(&routing, V4, plain(), local("10.0.0.7")), "10.8.8.8");
        assert_eq!(hop(&routing, V4, app(), local("10.0.0.7")), "10.9.9.9");
    }

    #[test]
    fn a_route_without_a_next_hop_or_a_family_the_peer_takes_is_left_out() {
        let mut routing = routing();
        routing.next_hop4 = None;
        let facts = local("fe80::1");
        assert_eq!(next_hop(&routing, V4, Attributes::default(), facts), None);
        let extended = SessionFacts {
            extended_next_hop: true,
            ..facts
        };
        let hop = next_hop(&routing, V4, Attributes::default(), extended);
        assert_eq!(hop.as_deref(), Some("2001:db8::2"), "RFC 8950");
        routing.families = [Family::Ipv4].into();
        assert_eq!(next_hop(&routing, V6, Attributes::default(), facts), None);
    }

    #[test]
    fn attributes_are_the_global_ones_the_peers_and_the_apps() {
        let vip: Prefix = V4.parse().unwrap();
        let app = Attributes {
            communities: [Community::new(65001, 53)].into(),
            med: Some(7),
            as_path_prepend: Some(2),
            ..Attributes::default()
        };
        let routes = routing().routes(&Routes::from([(vip, to_all(app))]), SessionFacts::default());
        let path = &routes[&vip];
        assert_eq!(
            path.communities,
            [Community::new(65001, 1), Community::new(65001, 53)].into()
        );
        assert_eq!((path.med, path.local_pref), (Some(7), None));
        let asn = Asn::new(65001).unwrap();
        assert_eq!(path.as_path, AsPath::sequence([asn, asn]));
    }

    #[test]
    fn a_route_for_other_peers_is_left_out() {
        let vip: Prefix = V4.parse().unwrap();
        let sent = |peers: &[&str]| {
            let route = Route {
                peers: peers.iter().map(|name| name.parse().unwrap()).collect(),
                ..Route::default()
            };
            let path = routing().path(vip, &route, SessionFacts::default());
            path.is_some()
        };
        assert!(sent(&[]) && sent(&["10.0.0.1"]) && sent(&["10.0.0.2", "10.0.0.1"]));
        assert!(!sent(&["10.0.0.2"]) && !sent(&["%eth0", "fd00::1"]));
    }
}
