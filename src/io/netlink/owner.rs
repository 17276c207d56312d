//! The owner of an existing VIP: ours by IFA_PROTO, label or what this process did, else another program's.

use crate::net::{Family, Prefix};
use crate::netlink::address::{Address, IFAPROT_SIDECAST, VIP_SCOPE};
use crate::netlink::route::{RTPROT_SIDECAST, Route};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A dump of all addresses.
pub(super) struct AddressDump {
    /// By interface and address.
    addresses: BTreeMap<(u32, IpAddr), Vec<Address>>,
    /// Whether this kernel keeps `IFA_PROTO`: its own addresses carry one.
    proto_known: bool,
    /// IPv6 prefixes that are local.
    pub routes: Vec<Route>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressOwner {
    Nobody,
    Ours,
    /// Ours, with the label of another app, or with the global scope that GoCast and earlier versions gave it.
    OursToReplace,
    Foreign,
}

impl AddressDump {
    /// From a dump of the addresses.
    pub fn new(all: Vec<Address>) -> Self {
        let proto_known = all.iter().any(|a| a.proto.is_some());
        let mut addresses: BTreeMap<_, Vec<Address>> = BTreeMap::new();
        for address in all {
            let key = (address.index, address.addr);
            addresses.entry(key).or_default().push(address);
        }
        Self {
            addresses,
            proto_known,
            routes: Vec::new(),
        }
    }

    /// On an interface an IPv6 address exists once, whatever its prefix length; an IPv4 address once for each length.
    fn find(&self, index: u32, prefix: Prefix) -> Option<&Address> {
        let all = self.addresses.get(&(index, prefix.addr()))?;
        let is_v6 = prefix.family() == Family::Ipv6;
        all.iter().find(|a| is_v6 || a.prefix_len == prefix.len())
    }

    /// The owner of a VIP. `leased`: whether this process added it with a lifetime, if it did. `label`: the app's.
    pub fn owner(
        &self,
        (index, prefix): (u32, Prefix),
        leased: Option<bool>,
        label: Option<&str>,
    ) -> AddressOwner {
        if is_route(prefix) {
            let is = |r: &&Route| r.dst == Some(prefix) && r.oif == Some(index);
            let found = self.routes.iter().filter(is);
            let ours = found.map(|route| route.protocol == RTPROT_SIDECAST);
            // Another program's route may exist beside ours, with another metric.
            return match ours.reduce(|any, ours| any || ours) {
                None => AddressOwner::Nobody,
                Some(false) => AddressOwner::Foreign,
                Some(true) => AddressOwner::Ours,
            };
        }
        let Some(address) = self.find(index, prefix) else {
            return AddressOwner::Nobody;
        };
        let mislabeled = label.is_some() && address.label.as_deref() != label;
        let misscoped = address.addr.is_ipv4() && address.scope != VIP_SCOPE;
        match self.owner_of(address, leased, label) {
            AddressOwner::Ours if mislabeled || misscoped => AddressOwner::OursToReplace,
            owner => owner,
        }
    }

    fn owner_of(
        &self,
        address: &Address,
        leased: Option<bool>,
        label: Option<&str>,
    ) -> AddressOwner {
        let marked = address.proto == Some(IFAPROT_SIDECAST);
        // If another program makes the address permanent, or adds it again as permanent, that program owns it.
        let from_before = leased.is_some_and(|leased| leased != address.is_permanent());
        let still_ours = from_before && (marked || !self.proto_known);
        let has_label = label.is_some() && address.label.as_deref() == label;
        // Linux before 5.18 stores no IFA_PROTO and IPv6 has no label; other programs do not add addresses
        // with a valid lifetime and a preferred lifetime of 0.
        let has_our_shape = !self.proto_known
            && address.addr.is_ipv6()
            && !address.is_permanent()
            && address.preferred == Some(0);
        match marked || still_ours || has_label || has_our_shape {
            true => AddressOwner::Ours,
            false => AddressOwner::Foreign,
        }
    }
}

/// Whether the prefix is made local by a route: an IPv6 prefix shorter than /128.
pub(super) fn is_route(prefix: Prefix) -> bool {
    prefix.family() == Family::Ipv6 && !prefix.is_host()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::route::{RT_TABLE_LOCAL, RTN_LOCAL};

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

    /// The owner of an address on a kernel that keeps `IFA_PROTO` or one that does not.
    fn owner_of(
        this: &Address,
        kept: bool,
        leased: Option<bool>,
        label: Option<&str>,
    ) -> AddressOwner {
        let kernels_own = address("127.0.0.1", None, kept.then_some(1));
        let dump = AddressDump::new(vec![kernels_own, this.clone()]);
        let found = dump.find(1, Prefix::host(this.addr)).unwrap();
        dump.owner_of(found, leased, label)
    }

    const OURS: Option<u8> = Some(IFAPROT_SIDECAST);

    #[test]
    fn a_mark_or_the_label_of_the_app_makes_it_ours() {
        let marked = address("192.0.2.53", Some(60), OURS);
        assert_eq!(owner_of(&marked, true, None, None), AddressOwner::Ours);
        let mut has_label = address("192.0.2.53", None, None);
        has_label.label = Some("lo:dns".to_owned());
        assert_eq!(
            owner_of(&has_label, true, None, Some("lo:dns")),
            AddressOwner::Ours
        );
        assert_eq!(
            owner_of(&has_label, true, None, Some("lo:web")),
            AddressOwner::Foreign
        );
        assert_eq!(
            owner_of(&has_label, true, None, None),
            AddressOwner::Foreign
        );
    }

    #[test]
    fn ours_of_global_scope_is_to_be_replaced_and_another_programs_is_not() {
        let owner = |scope: u8, proto: Option<u8>| {
            let mut vip = address("192.0.2.53", Some(60), proto);
            vip.scope = scope;
            let prefix = Prefix::host(vip.addr);
            let kernels_own = address("127.0.0.1", None, Some(1));
            AddressDump::new(vec![kernels_own, vip]).owner((1, prefix), None, None)
        };
        assert_eq!(owner(0, OURS), AddressOwner::OursToReplace);
        assert_eq!(owner(VIP_SCOPE, OURS), AddressOwner::Ours);
        assert_eq!(owner(0, None), AddressOwner::Foreign);
    }

    #[test]
    fn permanent_and_unmarked_is_somebody_elses_on_every_kernel() {
        for kept in [true, false] {
            for addr in ["192.0.2.53", "2001:db8::53"] {
                let theirs = address(addr, None, None);
                assert_eq!(owner_of(&theirs, kept, None, None), AddressOwner::Foreign);
                // Also when we had leased it before: another program added it again.
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
        let dump = AddressDump::new(vec![wide6, wide4]);
        let find = |prefix: &str| dump.find(1, prefix.parse().unwrap()).is_some();
        assert!(find("2001:db8::53/128"));
        assert!(!find("192.0.2.53/32"));
    }

    #[test]
    fn a_route_of_ours_is_ours_wherever_another_programs_is_in_the_dump() {
        let prefix: Prefix = "2001:db8::/64".parse().unwrap();
        let route = |protocol: u8, oif: u32| Route {
            family: Family::Ipv6,
            dst: Some(prefix),
            gateway: None,
            oif: Some(oif),
            prefsrc: None,
            priority: 0,
            table: RT_TABLE_LOCAL,
            kind: RTN_LOCAL,
            protocol,
            expires: None,
            nexthops: Vec::new(),
        };
        let owner = |routes: &[Route]| {
            let mut dump = AddressDump::new(Vec::new());
            dump.routes = routes.to_vec();
            dump.owner((1, prefix), None, None)
        };
        let (ours, theirs) = (route(RTPROT_SIDECAST, 1), route(3, 1));
        for both in [[ours.clone(), theirs.clone()], [theirs.clone(), ours]] {
            assert_eq!(owner(&both), AddressOwner::Ours);
        }
        assert_eq!(owner(&[theirs]), AddressOwner::Foreign);
        assert_eq!(owner(&[route(RTPROT_SIDECAST, 2)]), AddressOwner::Nobody);
    }
}
