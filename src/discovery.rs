//! Derives the peers, their local addresses and next hops, and the host's own addresses from the
//! kernel's tables.
//!
//! Pure: a [`Snapshot`] of the tables and the configuration in, a [`Network`] out. Only the main table
//! counts; a host inside a VRF names its peers and addresses itself.

mod first_hop;
mod obstacle;
mod tables;
mod trusted;

pub use first_hop::{FirstHop, FirstHops};
pub use obstacle::Obstacle;
pub use tables::{Entry, Tables};
pub use trusted::Interfaces;

pub use crate::net::{PeerName, is_link_local};

use crate::config::{Bgp, Remote};
use crate::net::{Family, Prefix, RouterId};
use crate::netlink::address::{Address, IFAPROT_SIDECAST};
use crate::netlink::link::Link;
use crate::netlink::neighbor::Neighbor;
use crate::netlink::route::{RT_TABLE_MAIN, Route};
use crate::path_proof::Unproven;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The kernel's tables at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    pub routes: Vec<Route>,
    /// Of any route, the default ones' among them.
    pub gateways: BTreeSet<IpAddr>,
    /// IPv6 ones.
    pub neighbors: Vec<Neighbor>,
    /// The kernel's route look-up (RTM_GETROUTE) for each peer; unreachable peers are missing.
    pub routes_to: BTreeMap<IpAddr, Route>,
}

/// Addresses and interface toward one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerNetwork {
    /// Which of `bgp.peers` it comes from.
    pub settings_index: usize,
    pub remote: IpAddr,
    /// Interface index of a link-local `remote`, else 0.
    pub scope_id: u32,
    /// Why there can be no session with it now.
    pub obstacle: Option<Obstacle>,
    /// The interface toward it; `None` while there is no route.
    pub interface: Option<String>,
    /// That interface has carrier (`IFF_LOWER_UP`), or is not known.
    pub carrier: bool,
    /// IFLA_CARRIER_CHANGES: a flap may be over before the tables are read.
    pub carrier_changes: u32,
    /// The gateway of the route to it; `None`: the peer is on-link.
    pub gateway: Option<IpAddr>,
    /// `local` is the operator's choice.
    pub configured_local: bool,
    /// The local address of the session; `None`: the kernel chooses (link-local peers), or there is
    /// none.
    pub local: Option<IpAddr>,
    pub next_hop4: Option<Ipv4Addr>,
    /// Global, neither deprecated nor tentative.
    pub next_hop6: Option<Ipv6Addr>,
    /// Where probes of the path leave.
    pub first_hops: FirstHops,
}

impl PeerNetwork {
    /// Where probes of VIPs of this family leave for the peer; `None`: it is not known yet.
    pub fn first_hop(&self, family: Family) -> Option<&Result<FirstHop, Unproven>> {
        let mut all = self.first_hops.iter();
        all.find(|(of, _)| *of == family).map(|(_, hop)| hop)
    }
}

/// What is derived from the kernel's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    pub peers: BTreeMap<PeerName, PeerNetwork>,
    /// Entries of `bgp.peers` that resolve to no router now, and why.
    pub absent: BTreeMap<usize, Obstacle>,
    /// Where NAT sends a VIP's traffic, by family.
    pub nat_target: BTreeMap<Family, IpAddr>,
    /// Addresses of interfaces other than lo, and local addresses of sessions; without VIPs.
    pub own_addresses: BTreeSet<IpAddr>,
    /// All addresses that a socket can bind, deprecated ones and VIPs included.
    pub addresses: BTreeSet<IpAddr>,
    /// Addresses on the loopback interface but 127.0.0.0/8 and ::1, our VIPs among them, as VIPs.
    pub on_loopback: BTreeSet<Prefix>,
    /// Of any route.
    pub gateways: BTreeSet<IpAddr>,
    /// Of the networks that are connected.
    pub broadcasts: BTreeSet<IpAddr>,
    /// The configured one, else what to use in its place; `None` while there is no address at all.
    pub router_id: Option<RouterId>,
    /// There is an interface besides lo. The tunnels that the kernel puts into every namespace do not
    /// count.
    pub links_present: bool,
    pub interfaces: Interfaces,
}

/// Derives the network from a snapshot and the configuration. `our_vips` are never a source or a next
/// hop.
pub fn derive(snapshot: &Snapshot, bgp: &Bgp, our_vips: &BTreeSet<Prefix>) -> Network {
    let addresses = snapshot.addresses.iter();
    let marked = addresses.filter(|a| a.proto == Some(IFAPROT_SIDECAST));
    let view = Resolver {
        snapshot,
        bgp,
        vips: our_vips,
        marked: marked.map(|a| a.addr).collect(),
    };
    let (mut peers, mut absent) = (BTreeMap::new(), BTreeMap::new());
    for (settings_index, settings) in bgp.peers.iter().enumerate() {
        let remotes = view.remotes(&settings.remote);
        if remotes.is_empty()
            && let Some(why) = view.absence(&settings.remote)
        {
            absent.insert(settings_index, why);
        }
        let scope = match &settings.remote {
            Remote::Addr(_, scope) => scope.as_deref(),
            Remote::Interface(_) | Remote::Gateway => None,
        };
        for (addr, oif) in remotes {
            let mut peer = view.peer(settings_index, addr, oif);
            let link = peer.interface.as_deref().and_then(|n| view.link_named(n));
            peer.obstacle = view.obstacle(addr, link, scope);
            let name = PeerName::new(addr, peer.interface.as_deref().or(scope));
            peers.entry(name).or_insert(peer);
        }
    }
    view.set_first_hops(&mut peers);
    let mut nat_target = BTreeMap::new();
    for family in Family::ALL {
        if let Some(target) = view.nat_target(&peers, family) {
            nat_target.insert(family, target);
        }
    }
    let session_sources = peers.values().filter_map(|p: &PeerNetwork| p.local);
    let mut network = Network {
        nat_target,
        own_addresses: view.own_addresses().chain(session_sources).collect(),
        addresses: view.addresses(),
        on_loopback: view.on_loopback(),
        gateways: snapshot.gateways.clone(),
        broadcasts: snapshot.addresses.iter().filter_map(broadcast).collect(),
        router_id: view.router_id(&peers),
        links_present: snapshot
            .links
            .iter()
            .any(|link| !link.loopback && !FALLBACK_TUNNELS.contains(&link.name.as_str())),
        peers,
        absent,
        interfaces: Interfaces::default(),
    };
    network.interfaces = view.interfaces(&network);
    network
}

/// The broadcast address of the network that an address is in (RFC 919); one of two hosts has none (RFC
/// 3021).
fn broadcast(address: &Address) -> Option<IpAddr> {
    let IpAddr::V4(addr) = address.addr else {
        return None;
    };
    let hosts = u32::MAX.checked_shr(address.prefix_len.into())?;
    (address.prefix_len < 31 && !addr.is_loopback())
        .then(|| Ipv4Addr::from_bits(addr.to_bits() | hosts).into())
}

struct Resolver<'a> {
    snapshot: &'a Snapshot,
    bgp: &'a Bgp,
    vips: &'a BTreeSet<Prefix>,
    /// Addresses with sidecast's IFA_PROTO, of this run or an earlier one.
    marked: BTreeSet<IpAddr>,
}

impl<'a> Resolver<'a> {
    /// The addresses that a setting resolves to, with the interface where it is known by name.
    fn remotes(&self, remote: &Remote) -> Vec<(IpAddr, Option<u32>)> {
        match remote {
            Remote::Addr(addr, scope) => {
                let link = scope.as_deref().and_then(|name| self.link_named(name));
                vec![(*addr, link.map(|link| link.index))]
            }
            Remote::Gateway => {
                let gateways = Family::ALL.into_iter().flat_map(|f| self.gateways(f));
                gateways.collect()
            }
            Remote::Interface(name) => {
                let link = self.link_named(name);
                let router = link.and_then(|link| self.router_on(link.index));
                router.into_iter().collect()
            }
        }
    }

    /// The routers of the default routes that the kernel prefers: those of the smallest metric.
    /// `default dev X` names no router.
    fn gateways(&self, family: Family) -> Vec<(IpAddr, Option<u32>)> {
        let defaults = || {
            let routes = self.snapshot.routes.iter();
            routes.filter(move |route| route.family == family && route.is_default())
        };
        let Some(best) = defaults().map(|route| route.priority).min() else {
            return Vec::new();
        };
        let mut gateways = Vec::new();
        for (gateway, oif) in defaults()
            .filter(|route| route.priority == best)
            .flat_map(Route::next_hops)
        {
            let Some(gateway) = gateway else { continue };
            if !gateways.contains(&(gateway, oif)) {
                gateways.push((gateway, oif));
            }
        }
        gateways
    }

    /// The router on an unnumbered link: a neighbor with NTF_ROUTER, reachable ones first, else the IPv6
    /// default gateway.
    fn router_on(&self, index: u32) -> Option<(IpAddr, Option<u32>)> {
        let neighbors = self
            .snapshot
            .neighbors
            .iter()
            .filter(|n| n.index == index && n.is_router() && is_link_local(n.addr));
        let router = neighbors.min_by_key(|n| (n.is_failed(), n.addr));
        let default_route = || {
            let mut gateways = self.gateways(Family::Ipv6).into_iter();
            gateways.find(|(gateway, oif)| *oif == Some(index) && is_link_local(*gateway))
        };
        router.map(|n| (n.addr, Some(index))).or_else(default_route)
    }

    fn peer(&self, settings_index: usize, remote: IpAddr, oif: Option<u32>) -> PeerNetwork {
        let settings = self.bgp.peers.get(settings_index);
        let route = self.snapshot.routes_to.get(&remote);
        let link_local = is_link_local(remote);
        // The interface of a link-local peer is configured; for others the kernel's route decides.
        let oif = match link_local {
            true => oif,
            false => route.and_then(|r| r.oif).or(oif),
        };
        let local4 = settings
            .and_then(|s| s.local_ip.v4)
            .or(self.bgp.local_ip.v4);
        let local6 = settings
            .and_then(|s| s.local_ip.v6)
            .or(self.bgp.local_ip.v6);
        let configured = match remote {
            IpAddr::V4(_) => local4.map(IpAddr::V4),
            // A global source does not reach a link-local peer on every router.
            IpAddr::V6(_) if link_local => None,
            IpAddr::V6(_) => local6.map(IpAddr::V6),
        };
        let discovered = || {
            if link_local || route.is_none() {
                return None;
            }
            route
                .and_then(|r| r.prefsrc)
                .filter(|addr| !self.is_vip(*addr))
                .map(|addr| self.permanent(addr))
                .or_else(|| self.source(Family::of(remote), oif, Some(remote)))
        };
        let local = configured.or_else(discovered);
        let next_hop = |family, configured: Option<IpAddr>| {
            let session_source = local.filter(|l| Family::of(*l) == family && !is_link_local(*l));
            // A loopback address means each router itself.
            let own = configured.or(session_source);
            own.filter(|addr| !addr.is_loopback())
                .or_else(|| self.reached_by(family, oif?, remote))
        };
        let next_hop4 = next_hop(Family::Ipv4, local4.map(IpAddr::V4)).and_then(v4);
        let next_hop6 = next_hop(Family::Ipv6, local6.map(IpAddr::V6)).and_then(v6);
        let link = oif.and_then(|oif| self.link(oif));
        PeerNetwork {
            settings_index,
            remote,
            scope_id: oif.filter(|_| link_local).unwrap_or(0),
            obstacle: None,
            interface: link.map(|link| link.name.clone()),
            carrier: link.is_none_or(|link| link.running),
            carrier_changes: link.map_or(0, |link| link.carrier_changes),
            gateway: route.and_then(|route| route.gateway),
            configured_local: configured.is_some(),
            local,
            next_hop4,
            next_hop6,
            first_hops: FirstHops::new(),
        }
    }

    /// This host's address for a peer to send packets to.
    fn reached_by(&self, family: Family, oif: u32, remote: IpAddr) -> Option<IpAddr> {
        match is_link_local(remote) {
            // A router on an unnumbered link reaches our address only if it is in a network shared with it.
            true => self.on_network(family, oif),
            // The peer is on this host.
            false if self.is_loopback(oif) => self.host_address(family),
            false => self.best_on(family, oif, Some(remote)),
        }
    }

    /// In place of a temporary address (RFC 8981) a permanent one of the same network: that is the one in a
    /// router's neighbor statement.
    fn permanent(&self, addr: IpAddr) -> IpAddr {
        let addresses = &self.snapshot.addresses;
        let Some(temporary) = addresses
            .iter()
            .find(|a| a.addr == addr && a.is_temporary())
        else {
            return addr;
        };
        let network = (temporary.index, temporary.prefix());
        self.usable(Family::of(addr))
            .find(|a| (a.index, a.prefix()) == network)
            .map_or(addr, |a| a.addr)
    }

    /// A source address: on the interface, else on any but lo, else on lo.
    fn source(&self, family: Family, oif: Option<u32>, toward: Option<IpAddr>) -> Option<IpAddr> {
        oif.and_then(|oif| self.best_on(family, oif, toward))
            .or_else(|| self.first_global(family, false))
            .or_else(|| self.first_global(family, true))
    }

    /// The interface's address nearest to `toward`: one whose network holds it, else the first.
    fn best_on(&self, family: Family, oif: u32, toward: Option<IpAddr>) -> Option<IpAddr> {
        let usable = || self.usable(family).filter(|a| a.index == oif);
        let near = |a: &&Address| {
            let prefix = a.prefix();
            prefix.zip(toward).is_some_and(|(p, to)| p.contains(to))
        };
        usable()
            .find(near)
            .or_else(|| usable().next())
            .map(|a| a.addr)
    }

    /// The interface's first address that is more than the host's alone.
    fn on_network(&self, family: Family, oif: u32) -> Option<IpAddr> {
        self.usable(family)
            .find(|a| a.index == oif && a.prefix_len < family.width())
            .map(|a| a.addr)
    }

    fn first_global(&self, family: Family, on_loopback: bool) -> Option<IpAddr> {
        self.usable(family)
            .find(|a| self.is_loopback(a.index) == on_loopback)
            .map(|a| a.addr)
    }

    /// Permanent ones first.
    fn usable(&self, family: Family) -> impl Iterator<Item = &'a Address> {
        let of_kind = move |temporary| {
            let addresses = self.snapshot.addresses.iter();
            addresses.filter(move |a| a.is_temporary() == temporary)
        };
        of_kind(false)
            .chain(of_kind(true))
            .filter(move |a| Family::of(a.addr) == family && a.is_usable() && !self.is_vip(a.addr))
    }

    /// Where NAT sends packets: the local address of a session, else the default route's source, else
    /// the first global address not on lo.
    fn nat_target(
        &self,
        peers: &BTreeMap<PeerName, PeerNetwork>,
        family: Family,
    ) -> Option<IpAddr> {
        let of_session = peers
            .values()
            .filter_map(|peer| peer.local)
            .find(|l| Family::of(*l) == family && !is_link_local(*l) && !l.is_loopback());
        of_session
            .or_else(|| self.default_source(family))
            .or_else(|| self.first_global(family, false))
    }

    /// The source of the default route that the kernel prefers.
    fn default_source(&self, family: Family) -> Option<IpAddr> {
        let routes = self.snapshot.routes.iter();
        let route = routes
            .filter(|route| route.family == family && route.is_default())
            .min_by_key(|route| route.priority)?;
        let preferred = route.prefsrc.filter(|addr| !self.is_vip(*addr));
        preferred.or_else(|| {
            let (gateway, oif) = route.next_hops().first().copied()?;
            self.best_on(family, oif?, gateway)
        })
    }

    /// The address that other hosts reach this one by: the default route's source, else a global address.
    fn host_address(&self, family: Family) -> Option<IpAddr> {
        self.default_source(family)
            .or_else(|| self.first_global(family, false))
            .or_else(|| self.first_global(family, true))
    }

    /// The configured one, else the IPv4 local address of a session, else an IPv4 address of the host, else
    /// a hash of an IPv6 address: a number that differs between hosts and stays over a restart.
    fn router_id(&self, peers: &BTreeMap<PeerName, PeerNetwork>) -> Option<RouterId> {
        // All hosts have the same loopback address.
        let locals = || {
            let all = peers.values().filter_map(|peer| peer.local);
            all.filter(|addr| !addr.is_loopback())
        };
        let ipv4 = || {
            self.bgp
                .written_router_id()
                .or_else(|| locals().find_map(v4).and_then(RouterId::new))
                .or_else(|| v4(self.host_address(Family::Ipv4)?).and_then(RouterId::new))
        };
        let ipv6 = || {
            let configured6 = self.bgp.local_ip.v6.filter(|addr| !addr.is_loopback());
            let session_source = configured6.or_else(|| locals().find_map(v6));
            let link_local = || {
                let mut addresses = self.snapshot.addresses.iter();
                addresses.find_map(|a| v6(a.addr).filter(|_| is_link_local(a.addr)))
            };
            session_source
                .or_else(|| self.host_address(Family::Ipv6).and_then(v6))
                .or_else(link_local)
                .map(router_id_from)
        };
        ipv4().or_else(ipv6)
    }

    fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let addresses = self.snapshot.addresses.iter();
        addresses
            .filter(|a| !self.is_loopback(a.index) && !self.is_our_vip(a))
            .map(|a| a.addr)
    }

    /// Whether this very entry is a VIP of ours on an interface other than lo. A VIP that equals the
    /// host's own address is not: it has neither our mark nor a label.
    fn is_our_vip(&self, address: &Address) -> bool {
        let marked = address.proto == Some(IFAPROT_SIDECAST)
            || address.label.as_ref().is_some_and(|l| l.contains(':'));
        marked && address.prefix().is_some_and(|p| self.vips.contains(&p))
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        let addresses = self.snapshot.addresses.iter();
        addresses
            .filter(|a| a.is_bindable())
            .map(|a| a.addr)
            .collect()
    }

    fn on_loopback(&self) -> BTreeSet<Prefix> {
        let addresses = self.snapshot.addresses.iter();
        addresses
            .filter(|a| self.is_loopback(a.index) && !a.addr.is_loopback())
            .filter_map(Address::vip)
            .collect()
    }

    /// A configured VIP, or an address with the IFA_PROTO of an earlier run whose lease has not expired.
    fn is_vip(&self, addr: IpAddr) -> bool {
        self.marked.contains(&addr) || Prefix::covering(addr).any(|vip| self.vips.contains(&vip))
    }

    fn link(&self, index: u32) -> Option<&'a Link> {
        self.snapshot.links.iter().find(|link| link.index == index)
    }

    fn link_named(&self, name: &str) -> Option<&'a Link> {
        self.snapshot.links.iter().find(|link| link.name == name)
    }

    fn is_loopback(&self, index: u32) -> bool {
        self.link(index).is_some_and(|link| link.loopback)
    }
}

impl Snapshot {
    /// The routers of all default routes of the main table, to be looked up like the peers.
    pub fn default_gateways(&self) -> BTreeSet<IpAddr> {
        let routes = self.routes.iter().filter(|route| route.is_default());
        routes
            .flat_map(Route::next_hops)
            .filter_map(|(gateway, _)| gateway)
            .filter(|gateway| !is_link_local(*gateway))
            .collect()
    }

    /// Keeps what [`derive()`] reads: the main table's default routes.
    pub fn is_relevant(route: &Route) -> bool {
        route.table == RT_TABLE_MAIN && route.is_default()
    }
}

fn v4(addr: IpAddr) -> Option<Ipv4Addr> {
    match addr {
        IpAddr::V4(a) => Some(a),
        IpAddr::V6(_) => None,
    }
}

fn v6(addr: IpAddr) -> Option<Ipv6Addr> {
    match addr {
        IpAddr::V4(_) => None,
        IpAddr::V6(a) => Some(a),
    }
}

/// FNV-1a over the address, never 0 (RFC 6286 §2.1 requires no more of an identifier).
fn router_id_from(addr: Ipv6Addr) -> RouterId {
    let hash = addr.octets().iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    let never_zero = Ipv4Addr::from_bits(hash.max(1));
    RouterId::new(never_zero).expect("at least 1")
}

/// Devices that a kernel with these modules puts into every new namespace.
const FALLBACK_TUNNELS: [&str; 9] = [
    "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PeerSettings;
    use crate::net::Asn;
    use crate::netlink::neighbor::NTF_ROUTER;
    use crate::netlink::route::NextHop;

    impl PeerNetwork {
        /// The first of `bgp.peers`, on-link at eth0.
        pub fn on_eth0(remote: IpAddr, local: Ipv4Addr) -> Self {
            Self {
                settings_index: 0,
                remote,
                scope_id: 0,
                obstacle: None,
                interface: Some("eth0".to_owned()),
                carrier: true,
                carrier_changes: 0,
                gateway: None,
                configured_local: false,
                local: Some(local.into()),
                next_hop4: Some(local),
                next_hop6: None,
                first_hops: FirstHops::new(),
            }
        }
    }

    const LO: u32 = 1;
    const ETH0: u32 = 2;

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            up: true,
            running: true,
            carrier_changes: 0,
            loopback: index == LO,
        }
    }

    fn address(index: u32, cidr: &str) -> Address {
        let (addr, prefix_len) = crate::net::parse_cidr(cidr).unwrap();
        let scope = match addr {
            a if a.is_loopback() => 254,
            a if is_link_local(a) => 253,
            _ => 0,
        };
        Address {
            index,
            prefix_len,
            addr,
            label: None,
            flags: 0,
            valid: None,
            preferred: None,
            proto: None,
            scope,
        }
    }

    fn route(family: Family, dst: Option<&str>, gateway: Option<&str>) -> Route {
        Route {
            family,
            dst: dst.map(|dst| dst.parse().unwrap()),
            gateway: gateway.map(addr),
            oif: Some(ETH0),
            prefsrc: None,
            priority: 0,
            table: RT_TABLE_MAIN,
            kind: 1,
            protocol: 3,
            expires: None,
            nexthops: Vec::new(),
        }
    }

    /// The kernel's answer to a look-up: from `source` over eth0.
    fn way(to: &str, source: &str) -> (IpAddr, Route) {
        let mut route = route(Family::of(addr(to)), None, None);
        route.prefsrc = Some(addr(source));
        (addr(to), route)
    }

    /// A host on eth0 with both families behind one router.
    fn host() -> Snapshot {
        Snapshot {
            links: vec![link(LO, "lo"), link(ETH0, "eth0")],
            addresses: vec![
                address(LO, "127.0.0.1/8"),
                address(LO, "::1/128"),
                address(ETH0, "10.0.0.2/24"),
                address(ETH0, "fe80::2/64"),
                address(ETH0, "2001:db8:1::2/64"),
            ],
            routes: vec![
                route(Family::Ipv6, None, Some("2001:db8:1::1")),
                route(Family::Ipv4, None, Some("10.0.0.1")),
            ],
            gateways: ["10.0.0.1", "10.0.0.77"].map(addr).into(),
            neighbors: Vec::new(),
            routes_to: BTreeMap::from([
                way("10.0.0.1", "10.0.0.2"),
                way("2001:db8:1::1", "2001:db8:1::2"),
            ]),
        }
    }

    fn bgp(remotes: &[Remote]) -> Bgp {
        let settings = |remote: &Remote| PeerSettings {
            remote: remote.clone(),
            ..PeerSettings::default()
        };
        Bgp {
            local_as: Asn::new(65001).unwrap(),
            peers: remotes.iter().map(settings).collect(),
            discover: remotes == [Remote::Gateway],
            ..Bgp::default()
        }
    }

    fn vips(texts: &[&str]) -> BTreeSet<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn names(network: &Network) -> Vec<String> {
        network.peers.keys().map(PeerName::to_string).collect()
    }

    fn discovered(snapshot: &Snapshot) -> Network {
        derive(snapshot, &bgp(&[Remote::Gateway]), &BTreeSet::new())
    }

    /// Where probes of a family leave for a peer, in words.
    fn first_hop(network: &Network, peer: &str, family: Family) -> String {
        let mut peers = network.peers.iter();
        let (_, peer) = peers.find(|(name, _)| name.to_string() == peer).unwrap();
        match peer.first_hop(family).unwrap() {
            Ok(hop) if hop.is_behind => format!("behind {} on {}", hop.gateway, hop.interface),
            Ok(hop) => format!("{} on {}", hop.gateway, hop.interface),
            Err(why) => why.to_string(),
        }
    }

    fn peers_at(addrs: &[&str]) -> Bgp {
        let remote = |text: &&str| Remote::Addr(addr(text), None);
        let remotes: Vec<Remote> = addrs.iter().map(remote).collect();
        bgp(&remotes)
    }

    #[test]
    fn a_peer_that_is_the_gateway_of_its_interface_gets_the_probes() {
        let network = discovered(&host());
        for peer in ["10.0.0.1", "2001:db8:1::1"] {
            assert_eq!(first_hop(&network, peer, Family::Ipv4), "10.0.0.1 on 2");
            assert_eq!(
                first_hop(&network, peer, Family::Ipv6),
                "2001:db8:1::1 on 2"
            );
        }
        // Of two default routes the preferred one counts, of two routers neither is certain.
        let mut snapshot = host();
        let mut second = route(Family::Ipv4, None, Some("10.0.0.77"));
        second.priority = 100;
        snapshot.routes.push(second);
        let two = || derive(&snapshot, &peers_at(&["10.0.0.1"]), &BTreeSet::new());
        assert_eq!(first_hop(&two(), "10.0.0.1", Family::Ipv4), "10.0.0.1 on 2");
        snapshot.routes.last_mut().unwrap().priority = 0;
        let two = derive(&snapshot, &peers_at(&["10.0.0.1"]), &BTreeSet::new());
        let ambiguous = "probes leave by 10.0.0.1 or 10.0.0.77";
        assert_eq!(first_hop(&two, "10.0.0.1", Family::Ipv4), ambiguous);
    }

    #[test]
    fn of_several_routers_on_a_link_only_the_gateway_is_probed() {
        let mut snapshot = host();
        snapshot.routes_to.extend([way("10.0.0.3", "10.0.0.2")]);
        let of = |snapshot: &Snapshot| {
            let peers = peers_at(&["10.0.0.1", "10.0.0.3"]);
            derive(snapshot, &peers, &BTreeSet::new())
        };
        let network = of(&snapshot);
        assert_eq!(
            first_hop(&network, "10.0.0.1", Family::Ipv4),
            "10.0.0.1 on 2"
        );
        let other = "probes leave by 10.0.0.1";
        assert_eq!(first_hop(&network, "10.0.0.3", Family::Ipv4), other);
        // Which of the two has this address is not known.
        let other = "probes leave by 2001:db8:1::1";
        assert_eq!(first_hop(&network, "10.0.0.1", Family::Ipv6), other);
        snapshot.routes.clear();
        let network = of(&snapshot);
        let none = "no IPv4 gateway on eth0";
        assert_eq!(first_hop(&network, "10.0.0.1", Family::Ipv4), none);
    }

    #[test]
    fn a_router_that_announces_itself_by_its_link_local_address_is_the_peer_if_alone_or_by_its_mac()
    {
        let mut snapshot = host();
        snapshot.routes[0] = route(Family::Ipv6, None, Some("fe80::1"));
        snapshot
            .routes_to
            .extend([way("2001:db8:1::3", "2001:db8:1::2")]);
        let alone = derive(&snapshot, &peers_at(&["2001:db8:1::1"]), &BTreeSet::new());
        assert_eq!(
            first_hop(&alone, "2001:db8:1::1", Family::Ipv6),
            "fe80::1 on 2"
        );
        let both = peers_at(&["2001:db8:1::1", "2001:db8:1::3"]);
        let network = derive(&snapshot, &both, &BTreeSet::new());
        let other = "probes leave by fe80::1";
        assert_eq!(first_hop(&network, "2001:db8:1::1", Family::Ipv6), other);
        let neighbor = |text: &str, mac| Neighbor {
            index: ETH0,
            addr: addr(text),
            state: 2,
            flags: NTF_ROUTER,
            mac: Some([2, 0, 0, 0, 0, mac]),
        };
        snapshot.neighbors = vec![
            neighbor("fe80::1", 1),
            neighbor("2001:db8:1::1", 1),
            neighbor("2001:db8:1::3", 3),
        ];
        let network = derive(&snapshot, &both, &BTreeSet::new());
        assert_eq!(
            first_hop(&network, "2001:db8:1::1", Family::Ipv6),
            "fe80::1 on 2"
        );
        assert_eq!(first_hop(&network, "2001:db8:1::3", Family::Ipv6), other);
    }

    #[test]
    fn a_peer_several_hops_away_is_behind_its_first_hop() {
        let mut snapshot = host();
        let (to, mut route) = way("10.9.0.1", "10.0.0.2");
        route.gateway = Some(addr("10.0.0.1"));
        snapshot.routes_to.insert(to, route);
        let network = derive(&snapshot, &peers_at(&["10.9.0.1"]), &BTreeSet::new());
        assert_eq!(
            first_hop(&network, "10.9.0.1", Family::Ipv4),
            "behind 10.0.0.1 on 2"
        );
        snapshot.routes[1].gateway = Some(addr("10.0.0.77"));
        let network = derive(&snapshot, &peers_at(&["10.9.0.1"]), &BTreeSet::new());
        let other = "probes leave by 10.0.0.77";
        assert_eq!(first_hop(&network, "10.9.0.1", Family::Ipv4), other);
    }

    #[test]
    fn ipv4_over_an_ipv6_next_hop_is_probed_where_the_main_table_routes_it_by_the_peer() {
        let mut snapshot = host();
        snapshot.neighbors = vec![Neighbor {
            index: ETH0,
            addr: addr("fe80::1"),
            state: 2,
            flags: NTF_ROUTER,
            mac: None,
        }];
        snapshot.routes = vec![route(Family::Ipv4, None, Some("fe80::1"))];
        let unnumbered = bgp(&[Remote::Interface("eth0".to_owned())]);
        let network = derive(&snapshot, &unnumbered, &BTreeSet::new());
        assert_eq!(
            first_hop(&network, "fe80::1%eth0", Family::Ipv4),
            "fe80::1 on 2"
        );
        snapshot.routes.clear();
        let network = derive(&snapshot, &unnumbered, &BTreeSet::new());
        let none = "no IPv4 gateway on eth0";
        assert_eq!(first_hop(&network, "fe80::1%eth0", Family::Ipv4), none);
    }

    #[test]
    fn the_default_gateways_are_the_peers_ipv4_first() {
        let network = discovered(&host());
        assert_eq!(names(&network), ["10.0.0.1", "2001:db8:1::1"]);
        let peer = &network.peers[&PeerName::new(addr("10.0.0.1"), None)];
        assert_eq!(peer.local, Some(addr("10.0.0.2")));
        assert_eq!(peer.interface.as_deref(), Some("eth0"));
        assert_eq!(peer.scope_id, 0);
        assert_eq!(peer.next_hop4, "10.0.0.2".parse().ok());
        assert_eq!(peer.next_hop6, "2001:db8:1::2".parse().ok());
        assert_eq!(network.router_id.unwrap().to_string(), "10.0.0.2");
        assert_eq!(
            network.nat_target,
            BTreeMap::from([
                (Family::Ipv4, addr("10.0.0.2")),
                (Family::Ipv6, addr("2001:db8:1::2")),
            ])
        );
        assert!(network.links_present);
        assert!(
            network.gateways.contains(&addr("10.0.0.77")),
            "of any route"
        );
        assert_eq!(network.broadcasts, [addr("10.0.0.255")].into());
    }

    /// A host with a BGP speaker that listens at `remote`, an address of the host's own.
    fn beside_speaker(remote: &str, local_ip: Option<&str>) -> (Snapshot, Bgp) {
        let mut host = host();
        let (to, mut route) = way(remote, remote);
        route.oif = Some(LO);
        host.routes_to.insert(to, route);
        // Another network, whose address comes first.
        host.links.push(link(3, "br0"));
        host.addresses.insert(0, address(3, "172.17.0.1/16"));
        host.addresses.insert(1, address(3, "fd00:17::1/64"));
        let mut bgp = bgp(&[Remote::Addr(addr(remote), None)]);
        match local_ip.map(addr) {
            Some(IpAddr::V4(addr)) => bgp.local_ip.v4 = Some(addr),
            Some(IpAddr::V6(addr)) => bgp.local_ip.v6 = Some(addr),
            None => {}
        }
        (host, bgp)
    }

    #[test]
    fn to_a_speaker_on_this_host_the_next_hop_and_the_router_id_are_the_hosts_toward_its_gateway() {
        for (remote, local_ip, local) in [
            ("127.0.0.1", None, "127.0.0.1"),
            ("127.0.0.1", Some("127.0.0.2"), "127.0.0.2"),
            ("::1", None, "::1"),
            ("10.0.0.2", None, "10.0.0.2"),
            ("10.0.0.2", Some("127.0.0.1"), "127.0.0.1"),
        ] {
            let (host, bgp) = beside_speaker(remote, local_ip);
            let network = derive(&host, &bgp, &BTreeSet::new());
            let peer = network.peers.values().next().expect("the speaker");
            assert_eq!(peer.local, Some(addr(local)), "{remote}");
            assert_eq!(peer.next_hop4, "10.0.0.2".parse().ok(), "{remote}");
            assert_eq!(peer.next_hop6, "2001:db8:1::2".parse().ok(), "{remote}");
            let router_id = network.router_id.expect("an address").to_string();
            assert_eq!(router_id, "10.0.0.2", "{remote}");
            let target = network.nat_target.get(&Family::Ipv4);
            assert_eq!(target, Some(&addr("10.0.0.2")), "{remote}");
        }
    }

    #[test]
    fn a_host_without_a_default_route_is_reached_by_a_global_address_never_by_a_loopback_one() {
        let (mut host, bgp) = beside_speaker("127.0.0.1", None);
        host.routes.clear();
        let derived = |host: &Snapshot| {
            let network = derive(host, &bgp, &vips(&["192.0.2.53/32"]));
            let peer = network.peers.values().next().expect("the speaker").clone();
            let next_hop4 = peer.next_hop4.map(|addr| addr.to_string());
            let next_hop6 = peer.next_hop6.map(|addr| addr.to_string());
            (
                next_hop4,
                next_hop6,
                network.router_id.map(|id| id.to_string()),
            )
        };
        let some = |text: &str| Some(text.to_owned());
        let found = derived(&host);
        let first = (some("172.17.0.1"), some("fd00:17::1"), some("172.17.0.1"));
        assert_eq!(found, first);
        // Hosts whose links have no addresses of their own have one on lo; our VIPs are beside it.
        host.addresses.retain(|a| a.index == LO);
        host.addresses.push(address(LO, "192.0.2.53/32"));
        host.addresses.push(address(LO, "10.255.0.9/32"));
        let found = derived(&host);
        assert_eq!(found, (some("10.255.0.9"), None, some("10.255.0.9")));
        host.addresses
            .retain(|a| a.addr.is_loopback() || a.addr == addr("192.0.2.53"));
        assert_eq!(derived(&host), (None, None, None));
    }

    #[test]
    fn several_next_hops_are_several_peers() {
        let mut host = host();
        let hop = |gateway: &str, flags| NextHop {
            gateway: Some(addr(gateway)),
            oif: ETH0,
            flags,
        };
        host.routes = vec![Route {
            nexthops: vec![hop("10.0.0.3", 0), hop("10.0.0.1", 0), hop("10.0.0.4", 1)],
            ..route(Family::Ipv4, None, None)
        }];
        assert_eq!(
            names(&discovered(&host)),
            ["10.0.0.1", "10.0.0.3"],
            "10.0.0.4 is dead"
        );
    }

    #[test]
    fn the_smallest_metric_wins_and_equal_ones_are_all_peers() {
        let mut host = host();
        let metric = |gateway, priority| Route {
            priority,
            ..route(Family::Ipv4, None, Some(gateway))
        };
        host.routes = vec![metric("10.0.1.1", 600), metric("10.0.0.1", 100)];
        assert_eq!(names(&discovered(&host)), ["10.0.0.1"]);
        host.routes.push(metric("10.0.0.9", 100));
        assert_eq!(names(&discovered(&host)), ["10.0.0.1", "10.0.0.9"]);
    }

    #[test]
    fn a_default_route_without_a_gateway_is_no_peer() {
        let mut host = host();
        host.routes = vec![route(Family::Ipv4, None, None)];
        let network = discovered(&host);
        assert!(network.peers.is_empty());
        assert_eq!(
            network.nat_target.get(&Family::Ipv4),
            Some(&addr("10.0.0.2"))
        );
        assert_eq!(network.router_id.unwrap().to_string(), "10.0.0.2");
    }

    #[test]
    fn other_tables_and_unreachable_routes_do_not_count() {
        let mut host = host();
        host.routes = vec![
            Route {
                table: 100,
                ..route(Family::Ipv4, None, Some("10.0.0.1"))
            },
            Route {
                kind: 7,
                ..route(Family::Ipv4, None, Some("10.0.0.1"))
            },
        ];
        assert!(discovered(&host).peers.is_empty());
    }

    #[test]
    fn a_32_host_with_an_on_link_gateway_speaks_from_its_address() {
        let mut host = host();
        host.addresses = vec![address(LO, "127.0.0.1/8"), address(ETH0, "203.0.113.7/32")];
        host.routes = vec![route(Family::Ipv4, None, Some("172.31.1.1"))];
        host.routes_to = BTreeMap::from([way("172.31.1.1", "203.0.113.7")]);
        let network = discovered(&host);
        let peer = &network.peers[&PeerName::new(addr("172.31.1.1"), None)];
        assert_eq!(peer.local, Some(addr("203.0.113.7")));
        assert_eq!(peer.next_hop4, "203.0.113.7".parse().ok());
        assert_eq!(
            peer.next_hop6, None,
            "no IPv6 address: the app is invalid there"
        );
    }

    #[test]
    fn a_vip_is_never_the_source_the_next_hop_or_the_nat_target() {
        let mut host = host();
        host.addresses.insert(2, address(ETH0, "192.0.2.53/32"));
        host.addresses.insert(2, address(ETH0, "2001:db8::53/128"));
        host.routes_to = BTreeMap::from([
            way("10.0.0.1", "192.0.2.53"),
            way("2001:db8:1::1", "2001:db8::53"),
        ]);
        let vips = vips(&["192.0.2.0/24", "2001:db8::53/128"]);
        let network = derive(&host, &bgp(&[Remote::Gateway]), &vips);
        for peer in network.peers.values() {
            assert!(!vips.iter().any(|vip| vip.contains(peer.local.unwrap())));
            assert_eq!(peer.next_hop4, "10.0.0.2".parse().ok());
            assert_eq!(peer.next_hop6, "2001:db8:1::2".parse().ok());
        }
        assert_eq!(network.nat_target[&Family::Ipv4], addr("10.0.0.2"));
        assert_eq!(network.router_id.unwrap().to_string(), "10.0.0.2");
    }

    #[test]
    fn a_leased_address_of_an_earlier_run_is_no_source_either() {
        let mut host = host();
        host.addresses.push(Address {
            proto: Some(IFAPROT_SIDECAST),
            ..address(LO, "192.0.2.99/32")
        });
        host.routes_to = BTreeMap::from([way("10.0.0.1", "192.0.2.99")]);
        let peer = &discovered(&host).peers[&PeerName::new(addr("10.0.0.1"), None)];
        assert_eq!(peer.local, Some(addr("10.0.0.2")));
    }

    #[test]
    fn the_next_hop_is_neither_deprecated_tentative_nor_link_local() {
        let mut host = host();
        let flagged = |cidr, flags| Address {
            flags,
            ..address(ETH0, cidr)
        };
        host.addresses = vec![
            address(ETH0, "10.0.0.2/24"),
            address(ETH0, "fe80::2/64"),
            flagged("2001:db8:1::3/64", 0x20),
            flagged("2001:db8:1::4/64", 0x40),
            address(ETH0, "2001:db8:1::5/64"),
        ];
        host.routes_to = BTreeMap::from([way("10.0.0.1", "10.0.0.2")]);
        let network = derive(
            &host,
            &bgp(&[Remote::Addr(addr("10.0.0.1"), None)]),
            &vips(&[]),
        );
        let peer = network.peers.values().next().unwrap();
        assert_eq!(peer.next_hop6, "2001:db8:1::5".parse().ok());
    }

    #[test]
    fn a_permanent_address_goes_before_a_temporary_one_of_its_network() {
        let mut host = host();
        let temporary = |cidr| Address {
            flags: 0x01,
            ..address(ETH0, cidr)
        };
        host.addresses.insert(0, temporary("2001:db8:1::99/64"));
        host.routes_to
            .extend([way("2001:db8:1::1", "2001:db8:1::99")]);
        let local = |host: &Snapshot| {
            let peer = &discovered(host).peers[&PeerName::new(addr("2001:db8:1::1"), None)];
            (
                peer.local.unwrap().to_string(),
                peer.next_hop6.unwrap().to_string(),
            )
        };
        let permanent = "2001:db8:1::2".to_owned();
        assert_eq!(local(&host), (permanent.clone(), permanent));
        let other = temporary("2001:db8:2::99/64");
        host.addresses.insert(0, other);
        host.routes_to
            .extend([way("2001:db8:1::1", "2001:db8:2::99")]);
        assert_eq!(
            local(&host).0,
            "2001:db8:2::99",
            "of another network: the kernel knows"
        );
        assert_eq!(discovered(&host).addresses.len(), 7);
    }

    #[test]
    fn carrier_is_that_of_the_interface_on_the_way() {
        let mut host = host();
        let carrier = |host: &Snapshot| discovered(host).peers.values().all(|peer| peer.carrier);
        assert!(carrier(&host));
        host.links[1].running = false;
        assert!(!carrier(&host));
        host.links.clear();
        assert!(carrier(&host), "not known");
    }

    #[test]
    fn configured_local_addresses_come_first() {
        let mut bgp = bgp(&[Remote::Gateway]);
        bgp.local_ip.v4 = "10.0.0.20".parse().ok();
        bgp.local_ip.v6 = "2001:db8:1::20".parse().ok();
        let network = derive(&host(), &bgp, &vips(&[]));
        let locals: Vec<_> = network.peers.values().map(|p| p.local.unwrap()).collect();
        assert_eq!(locals, [addr("10.0.0.20"), addr("2001:db8:1::20")]);
        for peer in network.peers.values() {
            assert_eq!(peer.next_hop6, bgp.local_ip.v6);
        }
        assert_eq!(network.router_id.unwrap().to_string(), "10.0.0.20");
    }

    #[test]
    fn an_unreachable_peer_is_there_without_a_local_address() {
        let bgp = bgp(&[Remote::Addr(addr("198.51.100.1"), None)]);
        let network = derive(&host(), &bgp, &vips(&[]));
        let peer = network.peers.values().next().unwrap();
        assert_eq!((peer.local, peer.interface.clone()), (None, None));
        assert_eq!(network.nat_target[&Family::Ipv4], addr("10.0.0.2"));
    }

    #[test]
    fn an_unnumbered_peer_is_the_router_among_the_neighbors() {
        let mut host = host();
        let neighbor = |text: &str, index, flags, state| Neighbor {
            index,
            addr: addr(text),
            state,
            flags,
            mac: None,
        };
        let bgp = bgp(&[Remote::Interface("eth0".to_owned())]);
        assert!(
            derive(&host, &bgp, &vips(&[])).peers.is_empty(),
            "no router seen yet"
        );
        host.neighbors = vec![
            neighbor("fe80::7", ETH0, NTF_ROUTER, 0x20),
            neighbor("fe80::8", ETH0, 0, 0x02),
            neighbor("fe80::9", ETH0, NTF_ROUTER, 0x02),
            neighbor("fe80::a", 9, NTF_ROUTER, 0x02),
        ];
        let network = derive(&host, &bgp, &vips(&[]));
        assert_eq!(names(&network), ["fe80::9%eth0"]);
        let peer = network.peers.values().next().unwrap();
        assert_eq!((peer.scope_id, peer.local), (ETH0, None));
        assert_eq!(peer.next_hop4, "10.0.0.2".parse().ok());
        assert_eq!(peer.next_hop6, "2001:db8:1::2".parse().ok());
    }

    /// A router without a network in common would have no route to it.
    #[test]
    fn an_address_of_the_host_alone_is_no_next_hop_on_an_unnumbered_link() {
        let remote = Remote::Addr(addr("fe80::1"), Some("eth0".to_owned()));
        let hops = |cidrs: &[&str]| {
            let snapshot = Snapshot {
                links: vec![link(2, "eth0")],
                addresses: cidrs.iter().map(|cidr| address(2, cidr)).collect(),
                ..Snapshot::default()
            };
            let network = derive(&snapshot, &bgp(std::slice::from_ref(&remote)), &vips(&[]));
            let peer = network.peers.into_values().next().unwrap();
            (peer.next_hop4.is_some(), peer.next_hop6.is_some())
        };
        assert_eq!(hops(&["10.0.0.2/24", "2001:db8::2/64"]), (true, true));
        assert_eq!(hops(&["10.0.0.2/32", "2001:db8::2/128"]), (false, false));
    }

    #[test]
    fn an_unnumbered_peer_is_else_where_the_ipv6_default_route_goes() {
        let mut host = host();
        host.routes = vec![route(Family::Ipv6, None, Some("fe80::1"))];
        let bgp = bgp(&[Remote::Interface("eth0".to_owned())]);
        assert_eq!(names(&derive(&host, &bgp, &vips(&[]))), ["fe80::1%eth0"]);
        assert_eq!(names(&discovered(&host)), ["fe80::1%eth0"]);
    }

    #[test]
    fn a_link_local_peer_is_on_its_interface() {
        let bgp = bgp(&[Remote::Addr(addr("fe80::1"), Some("eth0".to_owned()))]);
        let network = derive(&host(), &bgp, &vips(&[]));
        assert_eq!(names(&network), ["fe80::1%eth0"]);
        assert_eq!(network.peers.values().next().unwrap().scope_id, ETH0);
    }

    #[test]
    fn own_addresses_are_those_that_a_vip_must_not_cover() {
        let mut host = host();
        host.addresses.push(address(LO, "192.0.2.53/32"));
        host.addresses.push(address(LO, "2001:db8:5::53/64"));
        host.addresses.push(Address {
            proto: Some(IFAPROT_SIDECAST),
            ..address(ETH0, "192.0.2.54/32")
        });
        let vips = vips(&["192.0.2.53/32", "192.0.2.54/32", "10.0.0.2/32"]);
        let network = derive(&host, &bgp(&[Remote::Gateway]), &vips);
        let own: Vec<String> = network
            .own_addresses
            .iter()
            .map(IpAddr::to_string)
            .collect();
        assert_eq!(
            own,
            ["10.0.0.2", "2001:db8:1::2", "fe80::2"],
            "a VIP that is the host's own address still is"
        );
        let on_loopback: Vec<String> = network.on_loopback.iter().map(Prefix::to_string).collect();
        assert_eq!(on_loopback, ["192.0.2.53/32", "2001:db8:5::53/128"]);
    }

    #[test]
    fn a_host_without_ipv4_has_a_router_id_that_stays() {
        let mut host = host();
        host.addresses.retain(|a| a.addr.is_ipv6());
        host.routes_to.remove(&addr("10.0.0.1"));
        let id = discovered(&host).router_id;
        assert!(id.is_some());
        assert_eq!(discovered(&host).router_id, id);
        host.addresses.clear();
        host.routes_to.clear();
        assert_eq!(discovered(&host).router_id, None);
    }

    #[test]
    fn the_kernels_own_tunnels_are_no_interface() {
        let mut host = host();
        host.links = vec![link(LO, "lo"), link(3, "tunl0"), link(4, "sit0")];
        assert!(!discovered(&host).links_present);
    }

    fn near(network: &Network, before: &[&str]) -> Vec<String> {
        let before = before.iter().map(|name| (*name).to_owned()).collect();
        network
            .trusted_networks(&before)
            .iter()
            .map(Prefix::to_string)
            .collect()
    }

    #[test]
    fn a_bridge_is_trusted_and_uplinks_are_not() {
        let mut host = host();
        host.links
            .extend([link(3, "docker0"), link(4, "eth1"), link(5, "shim")]);
        host.addresses.extend([
            address(3, "172.17.0.1/16"),
            address(3, "fe80::3/64"),
            address(4, "10.7.0.2/24"),
            address(5, "10.0.0.77/24"),
            address(LO, "192.0.2.53/32"),
        ]);
        let own = [
            "10.0.0.2/32",
            "10.0.0.77/32",
            "10.7.0.2/32",
            "172.17.0.1/32",
            "192.0.2.53/32",
            "2001:db8:1::2/128",
        ];
        let with = |more: &[&'static str]| {
            let mut all: Vec<&str> = own.iter().chain(more).copied().collect();
            all.sort_by_key(|text| text.parse::<Prefix>().unwrap());
            all
        };
        let seen = discovered(&host);
        assert_eq!(near(&seen, &[]), with(&["10.7.0.0/24", "172.17.0.0/16"]));
        // Once an interface led elsewhere it does not become near by losing its route.
        assert_eq!(near(&seen, &["eth1"]), with(&["172.17.0.0/16"]));
        // A session makes it one that leads elsewhere.
        let mut way = way("10.7.0.1", "10.7.0.2");
        way.1.oif = Some(4);
        host.routes_to.extend([way]);
        let peers = [Remote::Gateway, Remote::Addr(addr("10.7.0.1"), None)];
        let seen = derive(&host, &bgp(&peers), &BTreeSet::new());
        assert_eq!(near(&seen, &[]), with(&["172.17.0.0/16"]));
        // While the way to a peer is not known, any interface may be the one.
        host.routes_to.remove(&addr("10.7.0.1"));
        let seen = derive(&host, &bgp(&peers), &BTreeSet::new());
        assert_eq!(near(&seen, &[]), with(&[]));
    }

    #[test]
    fn in_a_pod_only_the_pod_is_trusted() {
        let own = ["10.0.0.2/32", "2001:db8:1::2/128"];
        assert_eq!(near(&discovered(&host()), &[]), own);
        let mut without = host();
        without.routes.clear();
        assert_eq!(near(&discovered(&without), &[]), own);
    }

    /// The obstacle to the one peer, or why there is no peer.
    fn obstacle_of(snapshot: &Snapshot, remote: &str) -> String {
        let remote: Remote = match remote {
            "gateway" => Remote::Gateway,
            remote => remote.parse().unwrap(),
        };
        let network = derive(snapshot, &bgp(&[remote]), &BTreeSet::new());
        let of_peers = network.peers.iter();
        let of_peers = of_peers.filter_map(|(name, p)| Some((name, p.obstacle.as_ref()?)));
        let report = of_peers.map(|(name, obstacle)| format!("{name}: {obstacle}"));
        let absent = network.absent.values().map(ToString::to_string);
        report.chain(absent).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn what_stands_between_us_and_a_peer_is_named() {
        let here = host();
        for fine in ["gateway", "10.0.0.1", "fe80::1%eth0"] {
            assert_eq!(obstacle_of(&here, fine), "", "{fine}");
        }
        let mut down = host();
        down.links[1].up = false;
        down.links[1].running = false;
        down.routes.clear();
        down.routes_to.clear();
        let mut unplugged = host();
        unplugged.links[1].running = false;
        let no_peer = "no default gateway, and no peer_ip is set";
        let far = "10.77.1.2: no route to 10.77.1.2";
        for (snapshot, peer, want) in [
            (&here, "10.77.1.2", far),
            (&here, "%eth0", "no router answers on eth0"),
            (&here, "%eth7", "there is no interface eth7"),
            (
                &here,
                "fe80::1%eth7",
                "fe80::1%eth7: there is no interface eth7",
            ),
            (&down, "10.0.0.1", "10.0.0.1: eth0 is down"),
            (&down, "2001:db8:1::1", "2001:db8:1::1: eth0 is down"),
            (&down, "10.77.1.2", far),
            (&down, "fe80::1%eth0", "fe80::1%eth0: eth0 is down"),
            (&down, "%eth0", "eth0 is down"),
            (&down, "gateway", no_peer),
            (&unplugged, "%eth0", "eth0 has no carrier"),
            (&unplugged, "10.0.0.1", ""),
        ] {
            assert_eq!(obstacle_of(snapshot, peer), want);
        }
    }
}
