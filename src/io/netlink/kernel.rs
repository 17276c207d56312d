//! The kernel's tables: snapshots of them, and NAT. VIPs are changed in `addresses`.

use super::nat::Nat;
use super::socket::Socket;
use super::vips::Vips;
use crate::discovery::{Snapshot, is_link_local};
use crate::net::Family;
use crate::netlink::address::{self, Address};
use crate::netlink::link::{self, Link};
use crate::netlink::neighbor::{self, Neighbor};
use crate::netlink::nftables::{Counter, NatChange};
use crate::netlink::route::{self, RT_TABLE_MAIN, RTN_LOCAL, RTN_UNICAST, Route};
use crate::netlink::{ENOENT, NetlinkError};
use nix::sys::socket::SockProtocol;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Netlink sockets in the network namespace of the thread that opens them. Requests run one at a time; to
/// read while steps are performed, open another.
pub struct Kernel {
    pub(super) route: Socket,
    /// Opened with the first NAT rule: a host without NAT needs no nf_tables.
    nat: Option<Nat>,
    pub(super) vips: Vips,
}

impl Kernel {
    /// Opens the rtnetlink socket.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            route: Socket::open(SockProtocol::NetlinkRoute)?.strict(),
            nat: None,
            vips: Vips::default(),
        })
    }

    #[cfg(test)]
    pub(super) fn with_socket(route: Socket, nat: Socket) -> Self {
        Self {
            route: route.strict(),
            nat: Some(Nat::with_socket(nat)),
            vips: Vips::without_notifications(),
        }
    }

    /// The tables that discovery reads. `targets` are the addresses of the configured peers; the
    /// default gateways are looked up with them.
    pub async fn snapshot(&mut self, targets: &BTreeSet<IpAddr>) -> Result<Snapshot, NetlinkError> {
        let mut snapshot = self.dump().await?;
        let wanted = snapshot.default_gateways();
        snapshot.routes_to = self.next_hops(wanted.union(targets).copied()).await?;
        Ok(snapshot)
    }

    /// The tables, without the routes to the peers.
    pub async fn dump(&mut self) -> Result<Snapshot, NetlinkError> {
        let links = self.links().await?;
        let addresses = self.addresses().await?;
        let (mut routes, mut gateways) = (Vec::new(), BTreeSet::new());
        for family in Family::ALL {
            routes.extend(self.default_routes(family, &mut gateways).await?);
        }
        let neighbors = self
            .route
            .collect(&neighbor::dump()?, |_, payload| Neighbor::decode(payload))
            .await?;
        Ok(Snapshot {
            links,
            addresses,
            routes,
            gateways,
            neighbors,
            routes_to: BTreeMap::new(),
        })
    }

    /// The routes to these addresses (`ip route get`); addresses without a route are left out.
    pub async fn next_hops(
        &mut self,
        targets: impl IntoIterator<Item = IpAddr>,
    ) -> Result<BTreeMap<IpAddr, Route>, NetlinkError> {
        let mut next_hops = BTreeMap::new();
        for target in targets {
            if let Some(route) = self.route_to(target).await? {
                next_hops.insert(target, route);
            }
        }
        Ok(next_hops)
    }

    /// All interfaces.
    pub async fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let each = |_, payload: &[u8]| Link::decode(payload).map(Some);
        self.route.collect(&link::dump()?, each).await
    }

    /// All addresses of all interfaces.
    pub async fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let each = |_, payload: &[u8]| Address::decode(payload);
        self.route.collect(&address::dump()?, each).await
    }

    /// Of a full table only the gateways are kept, which are few.
    async fn default_routes(
        &mut self,
        family: Family,
        gateways: &mut BTreeSet<IpAddr>,
    ) -> Result<Vec<Route>, NetlinkError> {
        let each = |_, payload: &[u8]| {
            let route = Route::decode(payload)?;
            let next_hops = route.iter().flat_map(Route::next_hops);
            gateways.extend(next_hops.filter_map(|(gateway, _)| gateway));
            Ok(route.filter(Snapshot::is_relevant))
        };
        let request = route::dump(family, RT_TABLE_MAIN)?;
        self.route.list(&request, each).await
    }

    /// The route to an address (`ip route get`); `None` if there is none.
    pub async fn route_to(&mut self, addr: IpAddr) -> Result<Option<Route>, NetlinkError> {
        if is_link_local(addr) {
            return Ok(None);
        }
        let request = route::lookup(addr, None)?;
        let each = |_, payload: &[u8]| Route::decode(payload);
        match self.route.collect(&request, each).await {
            Ok(routes) => Ok(routes
                .into_iter()
                .find(|route| route.kind == RTN_UNICAST || route.kind == RTN_LOCAL)),
            // Unreachable, prohibited, or no address of that family.
            Err(NetlinkError::Errno { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The addresses on lo but 127.0.0.0/8 and ::1.
    pub async fn addresses_on_lo(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let lo = self.links().await?.into_iter().find(|link| link.loopback);
        let mut addresses = self.addresses().await?;
        addresses
            .retain(|a| lo.as_ref().is_some_and(|lo| lo.index == a.index) && !a.addr.is_loopback());
        Ok(addresses)
    }

    /// Sets a loopback VIP interface up if it is down; returns whether it did.
    pub async fn bring_up(
        &mut self,
        links: &[Link],
        interface: &str,
    ) -> Result<bool, NetlinkError> {
        let down = |link: &&Link| link.name == interface && link.loopback && !link.up;
        let Some(link) = links.iter().find(down) else {
            return Ok(false);
        };
        self.route.acknowledged(&link::set_up(link.index)?).await?;
        Ok(true)
    }

    /// Deletes a failed or incomplete neighbor entry, so that the next packet starts address resolution again.
    /// True if there was one.
    pub async fn delete_failed_neighbor(
        &mut self,
        index: u32,
        addr: IpAddr,
    ) -> Result<bool, NetlinkError> {
        let each = |_, payload: &[u8]| Neighbor::decode(payload);
        match self
            .route
            .collect(&neighbor::by_addr(index, addr)?, each)
            .await
        {
            Ok(known) if known.iter().any(Neighbor::is_failed) => {}
            Ok(_) => return Ok(false),
            Err(error) if error.errno() == Some(ENOENT) => return Ok(false),
            Err(error) => return Err(error),
        }
        match self
            .route
            .acknowledged(&neighbor::remove(index, addr)?)
            .await
        {
            Ok(()) => Ok(true),
            // The kernel removed it between the dump and the request.
            Err(error) if error.errno() == Some(ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Adds and removes NAT rules of the table `name` in one transaction. The tables are deleted with this
    /// `Kernel`.
    pub async fn update_nat(&mut self, name: &str, change: NatChange) -> Result<(), NetlinkError> {
        if self.nat.is_none() && change.add.is_empty() {
            return Ok(());
        }
        let nat = match self.nat.take() {
            Some(nat) => nat,
            None => Nat::open()?,
        };
        self.nat.insert(nat).update(name, change).await
    }

    /// Whether other programs can change our NAT rules (Linux before 5.12).
    pub fn is_nat_unowned(&self) -> bool {
        self.nat.as_ref().is_some_and(Nat::is_unowned)
    }

    /// Restores NAT rules that another program changed; returns whether it did.
    pub async fn verify_nat(&mut self) -> Result<bool, NetlinkError> {
        match &mut self.nat {
            Some(nat) => nat.verify().await,
            None => Ok(false),
        }
    }

    /// Deletes orphaned NAT tables of this name (Linux 6.9), if this process has no NAT rules.
    pub async fn clear_stale_nat(&mut self, name: &str) -> Result<(), NetlinkError> {
        match &self.nat {
            Some(_) => Ok(()),
            None => Nat::open()?.delete_orphans(name).await,
        }
    }

    /// Makes the NAT tables persistent, so that they outlive this process (Linux 6.9).
    pub async fn persist_nat(&mut self) -> Result<(), NetlinkError> {
        match &mut self.nat {
            Some(nat) => nat.persist().await,
            None => Ok(()),
        }
    }

    /// Whether NAT rules can be set: the kernel has nf_tables, and we may use it. Nothing is made.
    ///
    /// # Errors
    /// What is missing.
    pub async fn check_nat() -> Result<(), NetlinkError> {
        Nat::open()?.check(NO_TABLE).await
    }

    /// Whether a NAT table of this name without an owner exists.
    pub async fn has_stale_nat(&mut self, name: &str) -> bool {
        let Ok(mut nat) = Nat::open() else {
            return false;
        };
        nat.has_stale_table(name).await
    }

    /// NAT counters by name.
    pub async fn nat_counters(&mut self) -> Result<BTreeMap<String, Counter>, NetlinkError> {
        match &mut self.nat {
            Some(nat) => nat.counters().await,
            None => Ok(BTreeMap::new()),
        }
    }
}

/// A name that no table has.
const NO_TABLE: &str = "sidecast_doctor";
