//! Why there can be no session with a peer, as far as the kernel's tables show.

use std::fmt;
use std::net::IpAddr;

use super::{Resolver, is_link_local};
use crate::config::Remote;
use crate::netlink::link::Link;

/// Why there can be no session with a peer now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// The kernel's tables were not read yet.
    Unread,
    NoRouterId,
    /// The peers are the default gateways, and there is none.
    NoGateway,
    NoRoute(IpAddr),
    NoInterface(String),
    InterfaceDown(String),
    NoCarrier(String),
    /// This interface has no neighbor with NTF_ROUTER and no IPv6 default gateway.
    NoRouter(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unread => f.write_str("the kernel's tables are not read yet"),
            Self::NoRouterId => f.write_str("no router ID: this host has no address yet"),
            Self::NoGateway => f.write_str("no default gateway, and no peer_ip is set"),
            Self::NoRoute(addr) => write!(f, "no route to {addr}"),
            Self::NoInterface(name) => write!(f, "there is no interface {name}"),
            Self::InterfaceDown(name) => write!(f, "{name} is down"),
            Self::NoCarrier(name) => write!(f, "{name} has no carrier"),
            Self::NoRouter(name) => write!(f, "no router answers on {name}"),
        }
    }
}

impl Resolver<'_> {
    /// Why no address is known for a setting.
    pub(super) fn absence(&self, remote: &Remote) -> Option<Obstacle> {
        match remote {
            Remote::Addr(..) => None,
            Remote::Gateway => Some(Obstacle::NoGateway),
            Remote::Interface(name) => {
                let without = |obstacle: fn(String) -> Obstacle| Some(obstacle(name.clone()));
                match self.link_named(name) {
                    None => without(Obstacle::NoInterface),
                    Some(link) if !link.up => without(Obstacle::InterfaceDown),
                    Some(link) if !link.running => without(Obstacle::NoCarrier),
                    Some(_) => without(Obstacle::NoRouter),
                }
            }
        }
    }

    /// What keeps packets from reaching a peer's address; a link without carrier does not: that ends no
    /// session. `scope` is the interface that a link-local address is written with.
    pub(super) fn obstacle(
        &self,
        remote: IpAddr,
        link: Option<&Link>,
        scope: Option<&str>,
    ) -> Option<Obstacle> {
        let down = |link: &Link| Obstacle::InterfaceDown(link.name.clone());
        if is_link_local(remote) {
            return match link {
                None => scope.map(|name| Obstacle::NoInterface(name.to_owned())),
                Some(link) => (!link.up).then(|| down(link)),
            };
        }
        if self.snapshot.routes_to.contains_key(&remote) {
            return None;
        }
        // A link that is down keeps its IPv4 addresses and loses their routes.
        let addresses = self.snapshot.addresses.iter();
        let mut near = addresses.filter(|a| a.prefix().is_some_and(|p| p.contains(remote)));
        let link = near.find_map(|a| self.link(a.index).filter(|link| !link.up));
        Some(link.map_or(Obstacle::NoRoute(remote), down))
    }
}
