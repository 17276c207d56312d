//! The current kernel tables: a dump, updated by every notification since.
//!
//! Changes without a notification make the tables stale, to be dumped again:
//! - An IPv4 route is removed without a notification with its interface, its source address or the last address of the
//!   interface (`fib_sync_down_dev`, `fib_sync_down_addr`).
//! - The notification does not name which of several routes with one metric was replaced, nor, for IPv6, which of the next
//!   hops is left.
//! - The order of an interface's addresses, of which the first is the source address, is not part of a notification.
//!
//! That a route was the last one over its gateway is not seen either, since routes are not kept: such a
//! gateway counts until the next dump.

use super::{Snapshot, is_link_local};
use crate::net::Family;
use crate::netlink::address::{Address, IFAPROT_SIDECAST, RT_SCOPE_UNIVERSE};
use crate::netlink::link::Link;
use crate::netlink::neighbor::Neighbor;
use crate::netlink::route::{RT_TABLE_MAIN, Route};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The entry of a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Link(Link),
    /// By its index.
    LinkGone(u32),
    Address(Address),
    AddressGone(Address),
    Route(Route),
    RouteGone(Route),
    Neighbor(Neighbor),
    NeighborGone(Neighbor),
}

/// The tables, with what has to be done about them.
#[derive(Debug, Default)]
pub struct Tables {
    /// But for `vips`.
    snapshot: Snapshot,
    /// Addresses with our mark, of which there are many, by interface, address and prefix length.
    vips: BTreeMap<(u32, IpAddr, u8), Address>,
    /// Addresses to look up besides the default gateways.
    targets: BTreeSet<IpAddr>,
    pending: Pending,
    /// Notifications during a dump, which may or may not include them.
    meanwhile: Option<Vec<Entry>>,
}

/// What is to be done after notifications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// The tables changed since they were last taken.
    pub changed: bool,
    /// The routes to the targets are to be looked up.
    pub next_hops: bool,
    /// The tables are to be dumped.
    pub stale: bool,
}

impl Tables {
    /// Before the first dump.
    pub fn new() -> Self {
        Self {
            pending: Pending {
                changed: true,
                next_hops: true,
                stale: true,
            },
            ..Self::default()
        }
    }

    /// All of it.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.snapshot.clone();
        snapshot.addresses.extend(self.vips.values().cloned());
        snapshot
    }

    /// What has to be done now.
    pub fn pending(&self) -> Pending {
        self.pending
    }

    /// Notifications were lost, or the last dump is too old.
    pub fn expire(&mut self) {
        self.pending.stale = true;
    }

    /// Sets the addresses to look up, besides the default gateways.
    pub fn set_targets(&mut self, targets: BTreeSet<IpAddr>) {
        if targets != self.targets {
            self.targets = targets;
            self.pending.next_hops = true;
        }
    }

    /// The addresses to look up, default gateways included.
    pub fn targets(&self) -> BTreeSet<IpAddr> {
        let gateways = self.snapshot.default_gateways();
        gateways.union(&self.targets).copied().collect()
    }

    /// Called before the look-ups: changes during them request another round.
    pub fn begin_lookups(&mut self) {
        self.pending.next_hops = false;
    }

    /// Sets the results of the look-ups.
    pub fn set_lookups(&mut self, next_hops: BTreeMap<IpAddr, Route>) {
        self.snapshot.routes_to = next_hops;
    }

    /// The tables were taken.
    pub fn take_changed(&mut self) {
        self.pending.changed = false;
    }

    /// A dump begins: notifications are kept until it ends.
    pub fn begin_dump(&mut self) {
        self.pending.stale = false;
        self.meanwhile = Some(Vec::new());
    }

    /// Ends a dump, which has no look-ups; `None`: it failed.
    pub fn end_dump(&mut self, dump: Option<Snapshot>) {
        let meanwhile = self.meanwhile.take().unwrap_or_default();
        let Some(dump) = dump else {
            self.pending.stale = true;
            return;
        };
        let next_hops = std::mem::take(&mut self.snapshot.routes_to);
        let (ours, others) = dump.addresses.into_iter().partition(is_ours);
        self.snapshot = Snapshot {
            addresses: others,
            routes_to: next_hops,
            ..dump
        };
        let ours: Vec<Address> = ours;
        self.vips = ours.into_iter().map(|a| (key(&a), a)).collect();
        (self.pending.changed, self.pending.next_hops) = (true, true);
        // Entries of notifications during the dump may already be removed or present.
        let stale = std::mem::take(&mut self.pending.stale);
        let lost = meanwhile.len() > MAX_NOTIFICATIONS_DURING_DUMP;
        let gone = |entry: &Entry| matches!(entry, Entry::RouteGone(_));
        meanwhile.into_iter().for_each(|entry| {
            let gone = gone(&entry);
            let before = self.pending.stale;
            self.apply(entry);
            self.pending.stale = before || (self.pending.stale && !gone);
        });
        self.pending.stale |= lost || stale;
    }

    /// Applies a notification; `true` if something has to be done because of it.
    pub fn apply(&mut self, entry: Entry) -> bool {
        let relevant = match &entry {
            Entry::Route(route) | Entry::RouteGone(route) => self.concerns(route),
            _ => true,
        };
        if !relevant {
            return false;
        }
        if let Some(meanwhile) = &mut self.meanwhile
            && meanwhile.len() <= MAX_NOTIFICATIONS_DURING_DUMP
        {
            meanwhile.push(entry.clone());
        }
        let before = std::mem::take(&mut self.pending);
        match entry {
            Entry::Link(link) => self.link(link),
            Entry::LinkGone(index) => self.link_gone(index),
            Entry::Address(address) => self.address(address),
            Entry::AddressGone(address) => self.address_gone(&address),
            Entry::Route(route) => self.route(route),
            Entry::RouteGone(route) => self.route_gone(&route),
            Entry::Neighbor(neighbor) => self.neighbor(neighbor, false),
            Entry::NeighborGone(neighbor) => self.neighbor(neighbor, true),
        }
        let new = self.pending;
        self.pending = Pending {
            changed: before.changed | new.changed,
            next_hops: before.next_hops | new.next_hops,
            stale: before.stale | new.stale,
        };
        new != Pending::default()
    }

    /// Few routes of a full table matter: default routes, routes to a target, and the first route over a
    /// gateway.
    fn concerns(&self, route: &Route) -> bool {
        if route.table != RT_TABLE_MAIN {
            return false;
        }
        let mut next_hops = route.next_hops().into_iter();
        route.is_default()
            || self.is_on_the_way(route)
            || next_hops
                .any(|(gateway, _)| gateway.is_some_and(|g| !self.snapshot.gateways.contains(&g)))
    }

    fn is_on_the_way(&self, route: &Route) -> bool {
        let targets = self.targets.iter().chain(self.snapshot.routes_to.keys());
        let mut targets = targets.filter(|target| Family::of(**target) == route.family);
        targets.any(|target| route.dst.is_none_or(|dst| dst.contains(*target)))
    }

    fn link(&mut self, mut link: Link) {
        let known = self.snapshot.links.iter_mut();
        let Some(known) = { known }.find(|known| known.index == link.index) else {
            self.snapshot.links.push(link);
            (self.pending.changed, self.pending.next_hops) = (true, true);
            return;
        };
        // It never decreases: some notifications lack it.
        link.carrier_changes = link.carrier_changes.max(known.carrier_changes);
        let switched = link.up != known.up;
        let moved = switched || link.running != known.running;
        self.pending.changed = link != *known;
        self.pending.next_hops = moved;
        let index = link.index;
        *known = link;
        self.pending.stale = switched && self.carries_default(index);
    }

    fn link_gone(&mut self, index: u32) {
        self.pending.stale = self.carries_default(index);
        (self.pending.changed, self.pending.next_hops) = (true, true);
        self.snapshot.links.retain(|link| link.index != index);
        self.snapshot.addresses.retain(|a| a.index != index);
        self.snapshot.neighbors.retain(|n| n.index != index);
        self.vips.retain(|(at, ..), _| *at != index);
    }

    fn carries_default(&self, index: u32) -> bool {
        let mut routes = self.snapshot.routes.iter();
        routes.any(|route| {
            route.oif == Some(index) || route.nexthops.iter().any(|hop| hop.oif == index)
        })
    }

    fn address(&mut self, address: Address) {
        if is_ours(&address) {
            self.vips.insert(key(&address), address);
            return;
        }
        // An address that lost our IFA_PROTO.
        self.vips.remove(&key(&address));
        let elsewhere = !self.is_loopback(address.index);
        let known = self.snapshot.addresses.iter_mut();
        let Some(known) = { known }.find(|known| key(known) == key(&address)) else {
            // Link-local addresses are never chosen, and those of lo only if there is no other.
            self.pending = Pending {
                changed: true,
                next_hops: elsewhere,
                stale: elsewhere
                    && address.scope == RT_SCOPE_UNIVERSE
                    && !is_link_local(address.addr),
            };
            self.snapshot.addresses.push(address);
            return;
        };
        // Router advertisements renew lifetimes every few seconds.
        let same = Address {
            valid: known.valid,
            preferred: known.preferred,
            ..address.clone()
        } == *known;
        self.pending.changed = !same;
        self.pending.next_hops = !same && elsewhere;
        // An IPv4 address that became the primary one moved to the front.
        self.pending.stale = !same && elsewhere && address.addr.is_ipv4();
        *known = address;
    }

    fn address_gone(&mut self, address: &Address) {
        let (key, index) = (key(address), address.index);
        self.pending.changed = true;
        if self.vips.remove(&key).is_some() {
            return;
        }
        self.snapshot.addresses.retain(|a| self::key(a) != key);
        if !self.is_loopback(index) {
            let mut routes = self.snapshot.routes.iter();
            let source = routes.any(|route| route.prefsrc == Some(address.addr));
            self.pending.next_hops = true;
            self.pending.stale = source || self.carries_default(index);
        }
    }

    fn is_loopback(&self, index: u32) -> bool {
        let mut links = self.snapshot.links.iter();
        links.any(|link| link.index == index && link.loopback)
    }

    fn route(&mut self, route: Route) {
        let gateways = route
            .next_hops()
            .into_iter()
            .filter_map(|(gateway, _)| gateway);
        for gateway in gateways {
            self.pending.changed |= self.snapshot.gateways.insert(gateway);
        }
        self.pending.next_hops = self.is_on_the_way(&route);
        if !route.is_default() {
            return;
        }
        let known = self.snapshot.routes.iter();
        let mut beside = known.filter(|r| (r.family, r.priority) == (route.family, route.priority));
        if beside.clone().any(|known| is_same(known, &route)) {
            return;
        }
        (self.pending.changed, self.pending.next_hops) = (true, true);
        if beside.next().is_some() {
            self.pending.stale = true;
        } else {
            self.snapshot.routes.push(route);
        }
    }

    fn route_gone(&mut self, route: &Route) {
        self.pending.next_hops = self.is_on_the_way(route);
        if !route.is_default() {
            return;
        }
        (self.pending.changed, self.pending.next_hops) = (true, true);
        let routes = &mut self.snapshot.routes;
        match routes.iter().position(|known| is_same(known, route)) {
            Some(position) => drop(routes.remove(position)),
            None => self.pending.stale = true,
        }
    }

    /// Only neighbors that are routers matter.
    fn neighbor(&mut self, neighbor: Neighbor, gone: bool) {
        let known = self.snapshot.neighbors.iter();
        let mut known = known.enumerate();
        let key = (neighbor.index, neighbor.addr);
        let known = known.find(|(_, n)| (n.index, n.addr) == key);
        let known = known.map(|(position, n)| (position, n.is_router(), n.is_failed()));
        let meaning = (neighbor.is_router(), neighbor.is_failed());
        let router = neighbor.is_router() && !gone && neighbor.addr.is_ipv6();
        match known {
            Some((position, was_router, was_failed)) => {
                self.pending.changed = (was_router && gone) || (was_router, was_failed) != meaning;
                if router {
                    self.snapshot.neighbors[position] = neighbor;
                } else {
                    self.snapshot.neighbors.remove(position);
                }
            }
            None if router => {
                self.pending.changed = true;
                self.snapshot.neighbors.push(neighbor);
            }
            None => {}
        }
    }
}

fn is_ours(address: &Address) -> bool {
    address.proto == Some(IFAPROT_SIDECAST)
}

fn key(address: &Address) -> (u32, IpAddr, u8) {
    (address.index, address.addr, address.prefix_len)
}

/// Equal except for the remaining lifetime.
fn is_same(one: &Route, other: &Route) -> bool {
    let other = Route {
        expires: one.expires,
        ..other.clone()
    };
    *one == other
}

/// Notifications kept while a dump is under way.
const MAX_NOTIFICATIONS_DURING_DUMP: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Prefix;
    use crate::netlink::neighbor::NTF_ROUTER;
    use crate::netlink::route::{NextHop, RTN_UNICAST};

    const LO: u32 = 1;
    const ETH0: u32 = 2;
    const QUIET: Pending = Pending {
        changed: false,
        next_hops: false,
        stale: false,
    };
    const CHANGED: Pending = Pending {
        changed: true,
        ..QUIET
    };
    const WAYS: Pending = Pending {
        next_hops: true,
        ..QUIET
    };
    const CHANGED_WAYS: Pending = Pending {
        changed: true,
        ..WAYS
    };
    const STALE: Pending = Pending {
        stale: true,
        ..CHANGED_WAYS
    };

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn link(index: u32, up: bool) -> Link {
        Link {
            index,
            name: format!("if{index}"),
            up,
            running: up,
            loopback: index == LO,
            carrier_changes: 2,
        }
    }

    fn address(index: u32, cidr: &str, proto: Option<u8>) -> Address {
        let (addr, prefix_len) = crate::net::parse_cidr(cidr).unwrap();
        let link_local = is_link_local(addr);
        Address {
            index,
            prefix_len,
            addr,
            label: None,
            flags: 0,
            valid: None,
            preferred: None,
            proto,
            scope: if link_local { 253 } else { 0 },
        }
    }

    fn route(dst: Option<&str>, gateway: &str, priority: u32) -> Route {
        let gateway = addr(gateway);
        Route {
            family: Family::of(gateway),
            dst: dst.map(|dst| dst.parse::<Prefix>().unwrap()),
            gateway: Some(gateway),
            oif: Some(ETH0),
            prefsrc: None,
            priority,
            table: RT_TABLE_MAIN,
            kind: RTN_UNICAST,
            protocol: 3,
            expires: None,
            nexthops: Vec::new(),
        }
    }

    fn dump() -> Snapshot {
        let default = route(None, "10.0.0.1", 0);
        Snapshot {
            links: vec![link(LO, true), link(ETH0, true)],
            addresses: vec![
                address(ETH0, "10.0.0.2/24", None),
                address(LO, "192.0.2.53/32", Some(IFAPROT_SIDECAST)),
            ],
            gateways: BTreeSet::from([addr("10.0.0.1")]),
            routes: vec![default],
            ..Snapshot::default()
        }
    }

    fn tables() -> Tables {
        let mut tables = Tables::new();
        tables.set_targets(BTreeSet::from([addr("10.9.0.1")]));
        tables.begin_dump();
        tables.end_dump(Some(dump()));
        let targets = tables.targets();
        tables.begin_lookups();
        let way = |target| (target, route(None, "10.0.0.1", 0));
        tables.set_lookups(targets.into_iter().map(way).collect());
        tables.take_changed();
        assert_eq!(tables.pending(), QUIET);
        tables
    }

    /// What is to be done after these, on fresh tables, and what they are then.
    fn after(entries: impl IntoIterator<Item = Entry>) -> (Pending, Snapshot) {
        let mut tables = tables();
        let mut some = false;
        for entry in entries {
            some |= tables.apply(entry);
        }
        assert_eq!(some, tables.pending() != QUIET);
        (tables.pending(), tables.snapshot())
    }

    fn gateways(snapshot: &Snapshot) -> Vec<String> {
        let gateways = snapshot.default_gateways();
        gateways.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn a_default_route_comes_and_goes_by_entry_and_is_dumped_where_it_is_not_said_which() {
        let second = route(None, "10.0.0.9", 100);
        let (pending, then) = after([Entry::Route(second.clone())]);
        assert_eq!(pending, CHANGED_WAYS);
        assert_eq!(gateways(&then), ["10.0.0.1", "10.0.0.9"]);
        let gone = Entry::RouteGone(second.clone());
        let (pending, then) = after([Entry::Route(second), gone.clone()]);
        assert_eq!(
            (pending, gateways(&then)),
            (CHANGED_WAYS, vec!["10.0.0.1".into()])
        );
        assert_eq!(after([gone]).0, STALE, "one that was not known");
        // Beside one of its metric, or in its place.
        let (pending, _) = after([Entry::Route(route(None, "10.0.0.9", 0))]);
        assert_eq!(pending, STALE);
        let (pending, _) = after([Entry::Route(route(None, "10.0.0.1", 0))]);
        assert_eq!(pending, WAYS, "the same once more");
        let mut several = route(None, "10.0.0.1", 0);
        several.nexthops = vec![NextHop {
            gateway: several.gateway.take(),
            oif: ETH0,
            flags: 0,
        }];
        assert_eq!(after([Entry::RouteGone(several)]).0, STALE);
    }

    #[test]
    fn a_full_table_means_nothing_but_its_gateway_and_what_is_on_the_way() {
        let (pending, then) = after([Entry::Route(route(Some("198.51.100.0/24"), "10.0.0.7", 0))]);
        assert_eq!(pending, CHANGED);
        assert!(then.gateways.contains(&addr("10.0.0.7")));
        let foreign = |n: u32| {
            let dst = format!("198.{}.{}.0/24", 18 + n / 256, n % 256);
            route(Some(&dst), "10.0.0.1", 0)
        };
        let came = (0..500).map(|n| Entry::Route(foreign(n)));
        let went = (0..500).map(|n| Entry::RouteGone(foreign(n)));
        assert_eq!(after(came.chain(went)), (QUIET, tables().snapshot()));
        let way = route(Some("10.9.0.0/16"), "10.0.0.1", 0);
        assert_eq!(after([Entry::Route(way.clone())]).0, WAYS);
        let elsewhere = Route { table: 100, ..way };
        assert_eq!(after([Entry::Route(elsewhere)]).0, QUIET);
    }

    #[test]
    fn addresses_of_ours_are_kept_and_others_too_unless_their_place_counts() {
        let ours = address(LO, "192.0.2.54/32", Some(IFAPROT_SIDECAST));
        let (pending, then) = after([Entry::Address(ours.clone())]);
        assert_eq!((pending, then.addresses.len()), (QUIET, 3));
        let (pending, then) = after([Entry::Address(ours.clone()), Entry::AddressGone(ours)]);
        assert_eq!((pending, then.addresses.len()), (CHANGED, 2));
        // Another program took over one of our addresses.
        let taken = address(LO, "192.0.2.53/32", None);
        let (pending, then) = after([Entry::Address(taken)]);
        assert_eq!((pending, then.addresses.len()), (CHANGED, 2));
        assert_eq!(then.addresses[1].proto, None);
        let (pending, _) = after([Entry::Address(address(ETH0, "fe80::2/64", None))]);
        assert_eq!(pending, CHANGED_WAYS);
        let (pending, then) = after([Entry::Address(address(ETH0, "10.0.0.3/24", None))]);
        assert_eq!((pending, then.addresses.len()), (STALE, 3));
        // A lifetime that is renewed, and one that is about to end.
        let mut renewed = address(ETH0, "10.0.0.2/24", None);
        renewed.valid = Some(3600);
        assert_eq!(after([Entry::Address(renewed.clone())]).0, QUIET);
        renewed.flags = 0x20;
        assert_eq!(after([Entry::Address(renewed)]).0, STALE);
        let (pending, then) = after([Entry::AddressGone(address(ETH0, "10.0.0.2/24", None))]);
        assert_eq!((pending, then.addresses.len()), (STALE, 1));
    }

    #[test]
    fn a_link_that_carries_the_default_route_takes_it_along_without_a_word() {
        assert_eq!(after([Entry::Link(link(ETH0, true))]).0, QUIET, "as it was");
        assert_eq!(after([Entry::Link(link(ETH0, false))]).0, STALE);
        assert_eq!(after([Entry::LinkGone(ETH0)]).0, STALE);
        let without = Link {
            running: false,
            carrier_changes: 0,
            ..link(ETH0, true)
        };
        let (pending, then) = after([Entry::Link(without)]);
        assert_eq!(pending, CHANGED_WAYS);
        assert!(!then.links[1].running && then.links[1].carrier_changes == 2);
        // A pod's.
        assert_eq!(after([Entry::Link(link(7, true))]).0, CHANGED_WAYS);
        let entries = [Entry::Link(link(7, true)), Entry::LinkGone(7)];
        assert_eq!(after(entries), (CHANGED_WAYS, tables().snapshot()));
    }

    #[test]
    fn of_neighbors_the_routers_are_kept() {
        let neighbor = |flags, state| Neighbor {
            index: ETH0,
            addr: addr("fe80::1"),
            state,
            flags,
            mac: None,
        };
        let router = neighbor(NTF_ROUTER, 0x02);
        assert_eq!(after([Entry::Neighbor(neighbor(0, 0x02))]).0, QUIET);
        let (pending, then) = after([Entry::Neighbor(router.clone())]);
        assert_eq!((pending, then.neighbors.len()), (CHANGED, 1));
        let (_, then) = after([
            Entry::Neighbor(router.clone()),
            Entry::NeighborGone(router.clone()),
        ]);
        assert_eq!(then.neighbors, []);
        let mut tables = tables();
        tables.apply(Entry::Neighbor(router));
        tables.take_changed();
        assert!(
            !tables.apply(Entry::Neighbor(neighbor(NTF_ROUTER, 0x04))),
            "stale"
        );
        assert!(
            tables.apply(Entry::Neighbor(neighbor(NTF_ROUTER, 0x20))),
            "failed"
        );
    }

    #[test]
    fn what_changes_while_a_dump_is_made_is_in_the_tables_afterwards() {
        let mut tables = tables();
        let second = route(None, "10.0.0.9", 100);
        let vip = address(LO, "192.0.2.54/32", Some(IFAPROT_SIDECAST));
        tables.begin_dump();
        for entry in [
            Entry::Route(second.clone()),
            Entry::Address(vip),
            Entry::AddressGone(address(LO, "192.0.2.53/32", Some(IFAPROT_SIDECAST))),
        ] {
            tables.apply(entry);
        }
        tables.end_dump(Some(dump()));
        assert_eq!(gateways(&tables.snapshot()), ["10.0.0.1", "10.0.0.9"]);
        let addresses = tables.snapshot().addresses;
        let addresses: Vec<String> = addresses.iter().map(|a| a.addr.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.2", "192.0.2.54"]);
        assert!(!tables.pending().stale);
        // The dump may have seen it go.
        tables.begin_dump();
        tables.apply(Entry::RouteGone(second));
        tables.end_dump(Some(dump()));
        assert_eq!(
            (gateways(&tables.snapshot()).len(), tables.pending().stale),
            (1, false)
        );
        tables.begin_dump();
        tables.end_dump(None);
        assert!(tables.pending().stale, "it failed");
    }
}
