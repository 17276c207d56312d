//! Steps performed in the kernel's tables, and snapshots of them.
//!
//! Addresses: look first, change second. What somebody else put there is used and left alone; what is
//! ours by its mark or label is adopted and gets our lease.

use super::nat::Nat;
use super::socket::Socket;
use crate::discovery::{Snapshot, is_link_local};
use crate::net::{Family, Prefix};
use crate::netlink::address::{self, Address, IFAPROT_SIDECAST, NewAddress};
use crate::netlink::link::{self, Link};
use crate::netlink::message::Request;
use crate::netlink::neighbour::{self, Neighbour};
use crate::netlink::nftables::{Counter, NatTable};
use crate::netlink::route::{
    self, LocalRoute, RT_TABLE_LOCAL, RTN_LOCAL, RTN_UNICAST, RTPROT_SIDECAST, Route,
};
use crate::netlink::{
    EACCES, EADDRNOTAVAIL, EAFNOSUPPORT, EEXIST, ENODEV, ENOENT, EOPNOTSUPP, NetlinkError,
};
use nix::sys::socket::SockProtocol;
use smol::Timer;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A VIP as it is to stand on its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipAddress {
    /// The interface's name, mostly `lo`.
    pub interface: String,
    pub prefix: Prefix,
    /// `lo:NAME` or the app's NAME alone; cut to what fits. IPv6 has none.
    pub label: Option<String>,
    /// `None`: permanent.
    pub lifetime: Option<Duration>,
}

/// How an address came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It was added, or renewed, as ours.
    Done,
    /// It was there and is somebody else's: use it, never remove or lease it.
    Foreign,
    /// It was there from an earlier run of ours; it has our lease now.
    Adopted,
}

/// How an address went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    Done,
    /// It was gone already.
    Absent,
    /// It is somebody else's and stays.
    Foreign,
}

/// Sockets to the tables of one network namespace, that of the thread that opens it. Requests are
/// performed one at a time: whoever wants to read while steps are under way opens another.
pub struct Kernel {
    route: Socket,
    /// Opened with the first rule: a host without NAT needs no nf_tables.
    nat: Option<Nat>,
    look: Option<Look>,
    /// What this one added or adopted, and whether with a lease.
    mine: BTreeMap<(u32, Prefix), bool>,
}

/// The addresses as they were a moment ago. A burst of steps looks once.
struct Look {
    at: Instant,
    /// By interface and address: where the kernel takes two entries for the same it compares these.
    addresses: BTreeMap<(u32, IpAddr), Vec<Address>>,
    /// Whether this kernel keeps `IFA_PROTO`: its own addresses carry one.
    proto_known: bool,
}

impl Kernel {
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            route: Socket::open(SockProtocol::NetlinkRoute)?.strict(),
            nat: None,
            look: None,
            mine: BTreeMap::new(),
        })
    }

    #[cfg(test)]
    pub(super) fn over(route: Socket, nat: Socket) -> Self {
        Self {
            route: route.strict(),
            nat: Some(Nat::over(nat)),
            look: None,
            mine: BTreeMap::new(),
        }
    }

    /// The tables that discovery reads. `targets` are the addresses of the configured peers; the
    /// default gateways are looked up with them.
    pub async fn snapshot(&mut self, targets: &BTreeSet<IpAddr>) -> Result<Snapshot, NetlinkError> {
        let links = self.links().await?;
        let addresses = self.addresses().await?;
        let (mut routes, mut gateways) = (Vec::new(), BTreeSet::new());
        for family in Family::ALL {
            routes.extend(self.default_routes(family, &mut gateways).await?);
        }
        let neighbours = self
            .route
            .collect(&neighbour::dump()?, |_, payload| Neighbour::decode(payload))
            .await?;
        let mut snapshot = Snapshot {
            links,
            addresses,
            routes,
            gateways,
            neighbours,
            routes_to: BTreeMap::new(),
        };
        let wanted = snapshot.default_gateways();
        for target in wanted.union(targets) {
            if let Some(route) = self.route_to(*target).await? {
                snapshot.routes_to.insert(*target, route);
            }
        }
        Ok(snapshot)
    }

    pub async fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let each = |_, payload: &[u8]| Link::decode(payload).map(Some);
        self.route.collect(&link::dump()?, each).await
    }

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
            let ways = route.iter().flat_map(Route::ways);
            gateways.extend(ways.filter_map(|(gateway, _)| gateway));
            Ok(route.filter(Snapshot::is_wanted))
        };
        self.route.collect(&route::dump(family)?, each).await
    }

    /// The way to an address; `None` where there is none.
    async fn route_to(&mut self, addr: IpAddr) -> Result<Option<Route>, NetlinkError> {
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

    /// Brings the VIPs' interface up where that is for us to do: a loopback that is down serves nobody.
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

    /// Forgets a neighbour that is being asked for its MAC, in vain so far: what is sent to it next asks
    /// anew. True if there was one.
    pub async fn forget_unanswered(
        &mut self,
        index: u32,
        addr: IpAddr,
    ) -> Result<bool, NetlinkError> {
        let each = |_, payload: &[u8]| Neighbour::decode(payload);
        match self
            .route
            .collect(&neighbour::by_addr(index, addr)?, each)
            .await
        {
            Ok(known) if known.iter().any(Neighbour::is_failed) => {}
            Ok(_) => return Ok(false),
            Err(error) if error.errno() == Some(ENOENT) => return Ok(false),
            Err(error) => return Err(error),
        }
        let removed = self.remove(&neighbour::remove(index, addr)?).await?;
        Ok(removed == Removed::Done)
    }

    /// Adds a VIP, or renews its lease when it is there and ours.
    pub async fn add_address(&mut self, vip: &VipAddress) -> Result<Added, NetlinkError> {
        let link = self.interface(&vip.interface).await?;
        if link.loopback && !link.up {
            self.route.acknowledged(&link::set_up(link.index)?).await?;
        }
        let added = match is_route(vip.prefix) {
            true => self.add_route(vip, link.index).await,
            false => self.add_to(vip, link.index).await,
        };
        let added = added.map_err(|error| in_words(error, vip))?;
        let key = (link.index, vip.prefix);
        if vip.prefix.family() == Family::Ipv6 && !self.mine.contains_key(&key) {
            self.until_local(vip.prefix.addr()).await?;
        }
        match added {
            Added::Foreign => self.mine.remove(&key),
            Added::Done | Added::Adopted => self.mine.insert(key, vip.lifetime.is_some()),
        };
        Ok(added)
    }

    /// The kernel acknowledges an IPv6 address before it takes packets for it: the `local` route comes
    /// from queued work (`addrconf_dad_work`), some milliseconds later. An announcement has to wait for
    /// it, or the first client is refused.
    async fn until_local(&mut self, addr: IpAddr) -> Result<(), NetlinkError> {
        for _ in 0..LOCAL_LOOKS {
            if self
                .route_to(addr)
                .await?
                .is_some_and(|route| route.kind == RTN_LOCAL)
            {
                return Ok(());
            }
            Timer::after(LOCAL_EVERY).await;
        }
        log::warn!("{addr}: the kernel has taken the address, but delivers no packets to it yet");
        Ok(())
    }

    async fn add_to(&mut self, vip: &VipAddress, index: u32) -> Result<Added, NetlinkError> {
        let label = vip.label.as_deref().map(|label| {
            let name = label.strip_prefix(&vip.interface);
            let name = name.and_then(|rest| rest.strip_prefix(':'));
            address::label(&vip.interface, name.unwrap_or(label))
        });
        let new = NewAddress {
            index,
            prefix: vip.prefix,
            label,
            lifetime: vip.lifetime,
        };
        let mine = self.mine.contains_key(&(index, vip.prefix));
        if !mine && self.add_new(&new.add()?).await? {
            return Ok(Added::Done);
        }
        match self.owner_of(&new).await? {
            AddressOwner::Foreign => return Ok(Added::Foreign),
            AddressOwner::Nobody | AddressOwner::Ours => {
                self.route.acknowledged(&new.replace()?).await?
            }
            AddressOwner::OursMislabeled => {
                // Replacing keeps the label. One datagram: no packet finds the address missing for longer
                // than the kernel takes from one message to the next.
                let anew = [address::remove(index, vip.prefix)?, new.add()?];
                self.route.batch(&anew, 1).await?;
                self.look = None;
            }
        }
        if mine {
            return Ok(Added::Done);
        }
        self.look = None;
        Ok(Added::Adopted)
    }

    /// Whether it was not there before. What was seen a moment ago is then no longer so.
    async fn add_new(&mut self, request: &Request) -> Result<bool, NetlinkError> {
        match self.route.acknowledged(request).await {
            Ok(()) => {
                self.look = None;
                Ok(true)
            }
            Err(error) if error.errno() == Some(EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn owner_of(&mut self, new: &NewAddress) -> Result<AddressOwner, NetlinkError> {
        let leased = self.mine.get(&(new.index, new.prefix)).copied();
        let look = match leased {
            Some(_) => self.look().await?,
            // The kernel has just said that it is there.
            None => self.look_for(new.index, new.prefix).await?,
        };
        let Some(address) = look.find(new.index, new.prefix) else {
            return Ok(AddressOwner::Nobody);
        };
        let mislabeled = new.label.is_some() && address.label != new.label;
        Ok(match look.owner_of(address, leased, new.label.as_deref()) {
            AddressOwner::Ours if mislabeled => AddressOwner::OursMislabeled,
            whose => whose,
        })
    }

    async fn look(&mut self) -> Result<&Look, NetlinkError> {
        let fresh = |look: &Look| look.at.elapsed() < LOOK_AGE;
        let look = match self.look.take().filter(fresh) {
            Some(look) => look,
            None => Look::at(Instant::now(), self.addresses().await?),
        };
        Ok(self.look.insert(look))
    }

    /// What an older look does not show may have come since.
    async fn look_for(&mut self, index: u32, prefix: Prefix) -> Result<&Look, NetlinkError> {
        if self.look().await?.find(index, prefix).is_none() {
            self.look = None;
        }
        self.look().await
    }

    /// An IPv6 prefix is no address of its own: a `local` route makes all of it ours.
    async fn add_route(&mut self, vip: &VipAddress, index: u32) -> Result<Added, NetlinkError> {
        let new = LocalRoute {
            index,
            prefix: vip.prefix,
            lifetime: vip.lifetime,
        };
        let mine = self.mine.contains_key(&(index, vip.prefix));
        if !mine && self.add_new(&new.add()?).await? {
            return Ok(Added::Done);
        }
        match self.local_route(index, vip.prefix).await? {
            Some(route) if route.protocol != RTPROT_SIDECAST => Ok(Added::Foreign),
            _ => {
                self.route.acknowledged(&new.replace()?).await?;
                Ok(if mine { Added::Done } else { Added::Adopted })
            }
        }
    }

    async fn local_route(
        &mut self,
        index: u32,
        prefix: Prefix,
    ) -> Result<Option<Route>, NetlinkError> {
        let each = |_, payload: &[u8]| {
            Ok(Route::decode(payload)?.filter(|route| {
                route.table == RT_TABLE_LOCAL
                    && route.kind == RTN_LOCAL
                    && route.dst == Some(prefix)
                    && route.oif == Some(index)
            }))
        };
        let request = route::dump(prefix.family())?;
        let mut routes: Vec<Route> = self.route.collect(&request, each).await?;
        // Somebody else's may stand beside ours, with another metric.
        routes.sort_by_key(|route| route.protocol != RTPROT_SIDECAST);
        Ok(routes.into_iter().next())
    }

    /// Removes a VIP that is ours.
    pub async fn remove_address(
        &mut self,
        interface: &str,
        prefix: Prefix,
    ) -> Result<Removed, NetlinkError> {
        let index = match self.interface(interface).await {
            Ok(link) => link.index,
            Err(error) if error.errno() == Some(ENODEV) => return Ok(Removed::Absent),
            Err(error) => return Err(error),
        };
        let removed = match is_route(prefix) {
            true => self.remove_route(index, prefix).await?,
            false => self.remove_from(index, prefix).await?,
        };
        // Not before: where the kernel keeps no mark, nothing else says that it is ours to remove.
        self.mine.remove(&(index, prefix));
        Ok(removed)
    }

    async fn remove_from(&mut self, index: u32, prefix: Prefix) -> Result<Removed, NetlinkError> {
        let leased = self.mine.get(&(index, prefix)).copied();
        let look = self.look_for(index, prefix).await?;
        let Some(address) = look.find(index, prefix) else {
            return Ok(Removed::Absent);
        };
        if look.owner_of(address, leased, None) == AddressOwner::Foreign {
            return Ok(Removed::Foreign);
        }
        self.remove(&address::remove(index, prefix)?).await
    }

    async fn remove_route(&mut self, index: u32, prefix: Prefix) -> Result<Removed, NetlinkError> {
        match self.local_route(index, prefix).await? {
            None => return Ok(Removed::Absent),
            Some(route) if route.protocol != RTPROT_SIDECAST => return Ok(Removed::Foreign),
            Some(_) => {}
        }
        let ours = LocalRoute {
            index,
            prefix,
            lifetime: None,
        };
        self.remove(&ours.remove()?).await
    }

    async fn remove(&mut self, request: &Request) -> Result<Removed, NetlinkError> {
        match self.route.acknowledged(request).await {
            Ok(()) => Ok(Removed::Done),
            // It went between the look and the request.
            Err(error) if matches!(error.errno(), Some(EADDRNOTAVAIL | ESRCH | ENOENT)) => {
                Ok(Removed::Absent)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the NAT tables hold these rules and no others, in one step. They go with this `Kernel`.
    pub async fn replace_nat(&mut self, table: &NatTable) -> Result<(), NetlinkError> {
        if self.nat.is_none() && table.rules.is_empty() {
            return Ok(());
        }
        let nat = match self.nat.take() {
            Some(nat) => nat,
            None => Nat::open()?,
        };
        self.nat.insert(nat).replace(table).await
    }

    /// Deletes what a process of this name left for us (Linux 6.9), where we have no NAT to take it over.
    pub async fn clear_left_nat(&mut self, name: &str) -> Result<(), NetlinkError> {
        match &self.nat {
            Some(_) => Ok(()),
            None => Nat::open()?.clear_left(name).await,
        }
    }

    /// Lets the NAT tables outlive this process (Linux 6.9).
    pub async fn persist_nat(&mut self) -> Result<(), NetlinkError> {
        match &mut self.nat {
            Some(nat) => nat.persist().await,
            None => Ok(()),
        }
    }

    /// Whether a process that is gone left a NAT table of this name.
    pub async fn has_nat(&mut self, name: &str) -> bool {
        let Ok(mut nat) = Nat::open() else {
            return false;
        };
        nat.is_left(name).await
    }

    /// What went through each NAT counter, by its name.
    pub async fn nat_counters(&mut self) -> Result<BTreeMap<String, Counter>, NetlinkError> {
        match &mut self.nat {
            Some(nat) => nat.counters().await,
            None => Ok(BTreeMap::new()),
        }
    }

    async fn interface(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let request = link::by_name(name)?;
        let each = |_, payload: &[u8]| Link::decode(payload).map(Some);
        let found = self.route.collect(&request, each).await;
        let absent = || NetlinkError::Errno {
            errno: ENODEV,
            message: Some(format!("there is no {name}")),
            request: request.name,
        };
        match found {
            Ok(links) => links.into_iter().next().ok_or_else(absent),
            Err(error) if error.errno() == Some(ENODEV) => Err(absent()),
            Err(error) => Err(error),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddressOwner {
    Nobody,
    Ours,
    /// Ours, under the name of another app.
    OursMislabeled,
    Foreign,
}

impl Look {
    fn at(at: Instant, all: Vec<Address>) -> Self {
        let proto_known = all.iter().any(|a| a.proto.is_some());
        let mut addresses: BTreeMap<_, Vec<Address>> = BTreeMap::new();
        for address in all {
            let key = (address.index, address.addr);
            addresses.entry(key).or_default().push(address);
        }
        Self {
            at,
            addresses,
            proto_known,
        }
    }

    /// IPv6 knows an address once on an interface, whatever its prefix length; IPv4 once for each.
    fn find(&self, index: u32, prefix: Prefix) -> Option<&Address> {
        let all = self.addresses.get(&(index, prefix.addr()))?;
        let is_v6 = prefix.family() == Family::Ipv6;
        all.iter().find(|a| is_v6 || a.prefix_len == prefix.len())
    }

    /// `leased`: what this process did to it, if anything. `label`: that of the app that wants it.
    fn owner_of(
        &self,
        address: &Address,
        leased: Option<bool>,
        label: Option<&str>,
    ) -> AddressOwner {
        let marked = address.proto == Some(IFAPROT_SIDECAST);
        // Somebody who makes it permanent, or puts it back so, takes it over.
        let from_before = leased.is_some_and(|leased| leased != address.is_permanent());
        let still_mine = from_before && (marked || !self.proto_known);
        let labelled = label.is_some() && address.label.as_deref() == label;
        // Before Linux 5.18 an IPv6 address says nothing of who made it; nobody else makes ones that
        // end and are deprecated from the start.
        let shaped = !self.proto_known
            && address.addr.is_ipv6()
            && !address.is_permanent()
            && address.preferred == Some(0);
        match marked || still_mine || labelled || shaped {
            true => AddressOwner::Ours,
            false => AddressOwner::Foreign,
        }
    }
}

/// A prefix that a route makes ours and not an address.
fn is_route(prefix: Prefix) -> bool {
    prefix.family() == Family::Ipv6 && !prefix.is_host()
}

/// How the kernel says that IPv6 is switched off on an interface, or missing altogether.
fn in_words(error: NetlinkError, vip: &VipAddress) -> NetlinkError {
    if vip.prefix.family() != Family::Ipv6 {
        return error;
    }
    match error {
        NetlinkError::Errno { errno, request, .. } if errno == EACCES => NetlinkError::Errno {
            errno,
            message: Some(format!(
                "IPv6 is switched off on {name}, net.ipv6.conf.{name}.disable_ipv6=0 switches it on",
                name = vip.interface
            )),
            request,
        },
        NetlinkError::Errno { errno, request, .. }
            if errno == EOPNOTSUPP || errno == EAFNOSUPPORT =>
        {
            NetlinkError::Errno {
                errno,
                message: Some("this kernel runs without IPv6".to_owned()),
                request,
            }
        }
        error => error,
    }
}

/// How long a look at all addresses serves. With a thousand VIPs a look for each would cost seconds.
const LOOK_AGE: Duration = Duration::from_millis(100);
const ESRCH: i32 = 3;

/// How often, and how many times, a new IPv6 address is looked at until it is local.
const LOCAL_EVERY: Duration = Duration::from_millis(1);
const LOCAL_LOOKS: u32 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(addr: &str, valid: Option<u32>, proto: Option<u8>) -> Address {
        let addr: IpAddr = addr.parse().unwrap();
        Address {
            index: 1,
            prefix_len: Family::of(addr).width(),
            addr,
            label: addr.is_ipv4().then(|| "lo".to_owned()),
            flags: 0,
            valid,
            preferred: if addr.is_ipv6() { Some(0) } else { valid },
            proto,
            scope: 0,
        }
    }

    /// Whose the address is, on a kernel that keeps `IFA_PROTO` or one that does not.
    fn owner_of(
        this: &Address,
        kept: bool,
        leased: Option<bool>,
        label: Option<&str>,
    ) -> AddressOwner {
        let kernels_own = address("127.0.0.1", None, kept.then_some(1));
        let look = Look::at(Instant::now(), vec![kernels_own, this.clone()]);
        let found = look.find(1, Prefix::host(this.addr)).unwrap();
        look.owner_of(found, leased, label)
    }

    const OURS: Option<u8> = Some(IFAPROT_SIDECAST);

    #[test]
    fn a_mark_or_the_label_of_the_app_makes_it_ours() {
        let marked = address("192.0.2.53", Some(60), OURS);
        assert_eq!(owner_of(&marked, true, None, None), AddressOwner::Ours);
        let mut labelled = address("192.0.2.53", None, None);
        labelled.label = Some("lo:dns".to_owned());
        assert_eq!(
            owner_of(&labelled, true, None, Some("lo:dns")),
            AddressOwner::Ours
        );
        assert_eq!(
            owner_of(&labelled, true, None, Some("lo:web")),
            AddressOwner::Foreign
        );
        assert_eq!(owner_of(&labelled, true, None, None), AddressOwner::Foreign);
    }

    #[test]
    fn permanent_and_unmarked_is_somebody_elses_on_every_kernel() {
        for kept in [true, false] {
            for addr in ["192.0.2.53", "2001:db8::53"] {
                let theirs = address(addr, None, None);
                assert_eq!(owner_of(&theirs, kept, None, None), AddressOwner::Foreign);
                // Also when we had leased it before: somebody put it there anew.
                assert_eq!(
                    owner_of(&theirs, kept, Some(true), None),
                    AddressOwner::Foreign
                );
            }
        }
    }

    #[test]
    fn an_old_kernel_keeps_no_mark_but_what_we_did_and_the_shape_of_ipv6_tell() {
        let leased4 = address("192.0.2.53", Some(60), None);
        assert_eq!(
            owner_of(&leased4, false, Some(true), None),
            AddressOwner::Ours
        );
        assert_eq!(owner_of(&leased4, false, None, None), AddressOwner::Foreign);
        let leased6 = address("2001:db8::53", Some(60), None);
        assert_eq!(owner_of(&leased6, false, None, None), AddressOwner::Ours);
        assert_eq!(owner_of(&leased6, true, None, None), AddressOwner::Foreign);
    }

    #[test]
    fn without_a_lease_what_we_made_stays_ours() {
        let permanent = address("2001:db8::53", None, None);
        assert_eq!(
            owner_of(&permanent, false, Some(false), None),
            AddressOwner::Ours
        );
        let marked = address("2001:db8::53", None, OURS);
        assert_eq!(
            owner_of(&marked, true, Some(false), None),
            AddressOwner::Ours
        );
    }

    #[test]
    fn ipv6_has_an_address_once_and_ipv4_once_for_each_length() {
        let mut wide6 = address("2001:db8::53", None, None);
        wide6.prefix_len = 64;
        let mut wide4 = address("192.0.2.53", None, None);
        wide4.prefix_len = 24;
        let look = Look::at(Instant::now(), vec![wide6, wide4]);
        let find = |prefix: &str| look.find(1, prefix.parse().unwrap()).is_some();
        assert!(find("2001:db8::53/128"));
        assert!(!find("192.0.2.53/32"));
    }
}
