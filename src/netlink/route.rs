//! Routes (`RTM_*ROUTE`, `linux/rtnetlink.h`).
//!
//! ```text
//!  0        1         2         3     4       5          6       7      8       12
//! +--------+---------+---------+-----+-------+----------+-------+------+-------+-----------
//! | family | dst_len | src_len | tos | table | protocol | scope | type | flags | attributes   struct rtmsg
//! +--------+---------+---------+-----+-------+----------+-------+------+-------+-----------
//! ```
//!
//! Left out: policy rules, metrics, encapsulation, next-hop objects (their kernel answers carry the
//! gateways beside the id).

use super::address::{Lifetime, RT_SCOPE_HOST, RT_SCOPE_UNIVERSE, whole_seconds};
use super::attr::{Attr, Attrs};
use super::message::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, Request};
use super::{AF_INET, AF_INET6, NetlinkError};
use crate::net::{Family, Prefix};
use crate::wire::{Reader, WireError};
use std::net::IpAddr;
use std::time::Duration;

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub family: Family,
    /// `None`: the default route.
    pub dst: Option<Prefix>,
    /// The next hop, of this family, or IPv6 for an IPv4 route (`RTA_VIA`, as for RFC 8950).
    pub gateway: Option<IpAddr>,
    /// Interface index.
    pub oif: Option<u32>,
    /// `RTA_PREFSRC`: in answers to [`lookup`] the source that would be used.
    pub prefsrc: Option<IpAddr>,
    /// Smaller is preferred.
    pub priority: u32,
    pub table: u32,
    /// `RTN_*`.
    pub kind: u8,
    /// `RTPROT_*`: the program that added it.
    pub protocol: u8,
    /// IPv6: seconds left; `None` is infinite.
    pub expires: Lifetime,
    /// Multipath next hops; empty for a single one, which is in `gateway` and `oif`.
    pub nexthops: Vec<NextHop>,
}

/// One next hop of a multipath route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    pub gateway: Option<IpAddr>,
    pub oif: u32,
    /// `RTNH_F_*`.
    pub flags: u8,
}

impl Route {
    /// From the payload of `RTM_NEWROUTE` or `RTM_DELROUTE`; `None` for families that are not IP.
    pub fn decode(payload: &[u8]) -> Result<Option<Self>, WireError> {
        let mut r = Reader::new(payload);
        let family = match r.u8()? {
            AF_INET => Family::Ipv4,
            AF_INET6 => Family::Ipv6,
            _ => return Ok(None),
        };
        let dst_len = r.u8()?;
        r.take(2)?;
        let table = u32::from(r.u8()?);
        let protocol = r.u8()?;
        r.take(1)?;
        let kind = r.u8()?;
        r.take(4)?;
        let mut route = Self {
            family,
            dst: None,
            gateway: None,
            oif: None,
            prefsrc: None,
            priority: 0,
            table,
            kind,
            protocol,
            expires: None,
            nexthops: Vec::new(),
        };
        for attr in Attrs::new(r.rest()) {
            route.attribute(attr?, dst_len)?;
        }
        Ok(Some(route))
    }

    fn attribute(&mut self, attr: Attr<'_>, dst_len: u8) -> Result<(), WireError> {
        match attr.kind {
            // A prefix with host bits or too long cannot come from the kernel's tables.
            RTA_DST => self.dst = Prefix::masked(attr.addr()?, dst_len).ok(),
            RTA_OIF => self.oif = Some(attr.u32()?),
            RTA_GATEWAY => self.gateway = Some(attr.addr()?),
            RTA_VIA => self.gateway = via(attr)?,
            RTA_PRIORITY => self.priority = attr.u32()?,
            RTA_PREFSRC => self.prefsrc = Some(attr.addr()?),
            RTA_TABLE => self.table = attr.u32()?,
            RTA_MULTIPATH => self.nexthops = decode_multipath(attr)?,
            RTA_CACHEINFO => {
                // struct rta_cacheinfo: clntref, lastuse, expires in USER_HZ ticks, 0 for never.
                let mut info = attr.reader();
                info.take(8)?;
                let ticks = info.u32_ne()?;
                self.expires = (ticks != 0).then_some(ticks / USER_HZ);
            }
            _ => {}
        }
        Ok(())
    }

    /// A unicast default route of the main table.
    pub fn is_default(&self) -> bool {
        let any = self.dst.is_none_or(|dst| dst.len() == 0);
        any && self.kind == RTN_UNICAST && self.table == RT_TABLE_MAIN
    }

    /// Gateway and interface of every next hop, single or multipath, without dead ones.
    pub fn next_hops(&self) -> Vec<(Option<IpAddr>, Option<u32>)> {
        if self.nexthops.is_empty() {
            return vec![(self.gateway, self.oif)];
        }
        let alive = self.nexthops.iter().filter(|n| n.flags & RTNH_F_DEAD == 0);
        alive.map(|n| (n.gateway, Some(n.oif))).collect()
    }
}

/// `struct rtvia`: a family of two bytes, then the address.
fn via(attr: Attr<'_>) -> Result<Option<IpAddr>, WireError> {
    let mut r = attr.reader();
    let family = r.u16_ne()?;
    if family == u16::from(AF_INET) {
        return r.array::<4>().map(|a| Some(IpAddr::from(a)));
    }
    if family == u16::from(AF_INET6) {
        return r.array::<16>().map(|a| Some(IpAddr::from(a)));
    }
    Ok(None)
}

/// `struct rtnexthop`s: length, flags, hops, interface, attributes; aligned to four.
fn decode_multipath(attr: Attr<'_>) -> Result<Vec<NextHop>, WireError> {
    let mut r = attr.reader();
    let mut hops = Vec::new();
    while !r.is_empty() {
        let length = usize::from(r.u16_ne()?);
        let flags = r.u8()?;
        r.take(1)?;
        let oif = r.u32_ne()?;
        let rest = length.checked_sub(8).ok_or(WireError::Truncated {
            wanted: 8,
            left: length,
        })?;
        let mut gateway = None;
        for attr in Attrs::new(r.take(rest)?) {
            let attr = attr?;
            match attr.kind {
                RTA_GATEWAY => gateway = Some(attr.addr()?),
                RTA_VIA => gateway = via(attr)?,
                _ => {}
            }
        }
        r.take((super::attr::align(length) - length).min(r.remaining()))?;
        hops.push(NextHop {
            gateway,
            oif,
            flags,
        });
    }
    Ok(hops)
}

/// The routes of one family and table; kernels before Linux 4.20 ignore the filter and dump all tables. If the
/// table does not exist, the error is `ENOENT`.
pub fn dump(family: Family, table: u32) -> Result<Request, NetlinkError> {
    Request::new("list the routes", RTM_GETROUTE, NLM_F_DUMP, |w| {
        w.raw(&[code(family)]);
        w.raw(&[0; 11]);
        w.u32(RTA_TABLE, table);
    })
}

/// The route and source address that the kernel would use for `addr` now (`ip route get`). Link-local addresses
/// need `oif`.
pub fn lookup(addr: IpAddr, oif: Option<u32>) -> Result<Request, NetlinkError> {
    lookup_from(addr, None, oif)
}

/// The route that a socket bound to this interface and source would use, also for an address of this host
/// (`ip route get ADDR from SOURCE oif INTERFACE`). The source is left out for IPv6: a lookup with a source does
/// not require the interface (`ip6_route_output_flags`), and finds the address on `lo`.
pub fn lookup_bound(addr: IpAddr, source: IpAddr, oif: u32) -> Result<Request, NetlinkError> {
    let source = Some(source).filter(IpAddr::is_ipv4);
    lookup_from(addr, source, Some(oif))
}

fn lookup_from(
    addr: IpAddr,
    source: Option<IpAddr>,
    oif: Option<u32>,
) -> Result<Request, NetlinkError> {
    let family = Family::of(addr);
    let source_len = source.map_or(0, |source| Family::of(source).width());
    Request::new("look up the route", RTM_GETROUTE, 0, |w| {
        w.raw(&[code(family), family.width(), source_len]);
        w.raw(&[0; 9]);
        w.addr(RTA_DST, addr);
        if let Some(source) = source {
            w.addr(RTA_SRC, source);
        }
        if let Some(oif) = oif {
            w.u32(RTA_OIF, oif);
        }
    })
}

/// A `local` route on the interface `index` (lo). It makes every address of an IPv6 prefix local, which an
/// address with that prefix length would not; and an IPv4 address while it is replaced. `lifetime`, of IPv6 only, is
/// rounded up to seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalRoute {
    pub index: u32,
    pub prefix: Prefix,
    pub lifetime: Option<Duration>,
    /// `None`: the kernel's default. An IPv4 address has its own route with 0.
    pub metric: Option<u32>,
}

impl LocalRoute {
    /// Adds it; `EEXIST` if it exists.
    pub fn add(&self) -> Result<Request, NetlinkError> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.request("add the local route", RTM_NEWROUTE, flags)
    }

    /// Gives it this lifetime.
    pub fn replace(&self) -> Result<Request, NetlinkError> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.request("renew the local route", RTM_NEWROUTE, flags)
    }

    /// Deletes it; `ESRCH` if it does not exist.
    pub fn remove(&self) -> Result<Request, NetlinkError> {
        self.request("remove the local route", RTM_DELROUTE, NLM_F_ACK)
    }

    fn request(&self, name: &'static str, kind: u16, flags: u16) -> Result<Request, NetlinkError> {
        let Self {
            index,
            prefix,
            lifetime,
            metric,
        } = self;
        let scope = match prefix.family() {
            Family::Ipv4 => RT_SCOPE_HOST,
            Family::Ipv6 => RT_SCOPE_UNIVERSE,
        };
        let header = [
            code(prefix.family()),
            prefix.len(),
            0,
            0,
            TABLE_LOCAL,
            RTPROT_SIDECAST,
            scope,
            RTN_LOCAL,
        ];
        Request::new(name, kind, flags, |w| {
            w.raw(&header);
            w.raw(&[0; 4]);
            w.addr(RTA_DST, prefix.addr());
            if let Some(metric) = metric {
                w.u32(RTA_PRIORITY, *metric);
            }
            if let Some(lifetime) = lifetime {
                w.u32(RTA_EXPIRES, whole_seconds(*lifetime));
            }
            w.u32(RTA_OIF, *index);
        })
    }
}

fn code(family: Family) -> u8 {
    match family {
        Family::Ipv4 => AF_INET,
        Family::Ipv6 => AF_INET6,
    }
}

/// Adds a route, or reports one.
pub const RTM_NEWROUTE: u16 = 24;
/// Deletes a route, or reports its removal.
pub const RTM_DELROUTE: u16 = 25;
/// Lists routes, or looks one up.
pub const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_CACHEINFO: u16 = 12;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_EXPIRES: u16 = 23;
const RTNH_F_DEAD: u8 = 1;
/// A gateway or direct route.
pub const RTN_UNICAST: u8 = 1;
/// The destination is this host.
pub const RTN_LOCAL: u8 = 2;
/// The main table.
pub const RT_TABLE_MAIN: u32 = 254;
/// The table of local addresses.
pub const RT_TABLE_LOCAL: u32 = 255;
const TABLE_LOCAL: u8 = 255;
/// `rtm_protocol` of the routes that we add; from 4 on the numbers are free for daemons.
pub const RTPROT_SIDECAST: u8 = 0x53;
/// `USER_HZ`, the ticks per second in the kernel's interfaces; 100 on every architecture we build for.
const USER_HZ: u32 = 100;

#[cfg(test)]
mod tests {
    use super::super::golden::{Golden, golden, same, truncations};
    use super::*;

    fn routes(golden: &Golden) -> Vec<Route> {
        let answers = golden.answers();
        let routes = answers.iter().filter(|m| m.kind == RTM_NEWROUTE);
        routes
            .map(|m| Route::decode(m.payload).unwrap().unwrap())
            .collect()
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn asking_for_a_way_is_what_ip_asks() {
        let golden4 = golden("ip-route-get4");
        // `ip` also asks for the table that was used (RTM_F_LOOKUP_TABLE in the header's flags).
        let ours = lookup(addr("10.0.0.1"), None).unwrap().encode(1);
        let tool = golden4.requests()[0];
        assert_eq!(ours[16..24], tool.payload[..8]);
        assert_eq!(ours[28..], tool.payload[12..]);
        let [route] = routes(&golden4).try_into().unwrap();
        assert_eq!(route.prefsrc, Some(addr("10.0.0.2")));
        assert_eq!((route.oif, route.kind), (Some(3), RTN_UNICAST));
        let [route] = routes(&golden("ip-route-get6")).try_into().unwrap();
        assert_eq!(route.prefsrc, Some(addr("2001:db8:1::2")));
        assert_eq!(route.gateway, None);
    }

    #[test]
    fn asking_for_the_way_of_a_bound_socket_is_what_ip_asks() {
        let (source4, source6) = (addr("10.0.1.2"), addr("2001:db8:1::2"));
        for (name, vip, source, gateway) in [
            ("ip-route-get-oif4", "192.0.2.53", source4, "10.0.1.1"),
            (
                "ip-route-get-oif6",
                "2001:db8:53::1",
                source6,
                "2001:db8:1::1",
            ),
        ] {
            let golden = golden(name);
            let ours = lookup_bound(addr(vip), source, 2).unwrap().encode(1);
            let tool = golden.requests()[0];
            assert_eq!(ours[16..24], tool.payload[..8]);
            assert_eq!(ours[28..], tool.payload[12..]);
            let [route] = routes(&golden).try_into().unwrap();
            assert_eq!((route.kind, route.oif), (RTN_UNICAST, Some(2)));
            assert_eq!(route.gateway, Some(addr(gateway)));
        }
    }

    #[test]
    fn a_local_route_is_what_ip_sends() {
        let route = LocalRoute {
            index: 1,
            prefix: "2001:db8:5::/64".parse().unwrap(),
            lifetime: Some(Duration::from_secs(300)),
            metric: None,
        };
        let add = golden("ip-route-local6");
        same(&route.add().unwrap(), &add.requests()[0], 12, &[]);
        let renewed = LocalRoute {
            lifetime: Some(Duration::from_secs(180)),
            ..route.clone()
        };
        let replace = golden("ip-route-replace6");
        let requests = replace.requests();
        same(
            &renewed.replace().unwrap(),
            requests.last().unwrap(),
            12,
            &[],
        );
        let without = LocalRoute {
            lifetime: None,
            ..route
        };
        let del = golden("ip-route-del6");
        same(&without.remove().unwrap(), &del.requests()[0], 12, &[]);
        let beside = LocalRoute {
            index: 1,
            prefix: "192.0.2.53/32".parse().unwrap(),
            lifetime: None,
            metric: Some(1),
        };
        let (add, del) = (golden("ip-route-local4"), golden("ip-route-del4"));
        same(&beside.add().unwrap(), &add.requests()[0], 12, &[]);
        same(&beside.remove().unwrap(), &del.requests()[0], 12, &[]);
    }

    #[test]
    fn asking_for_a_table_is_what_ip_asks() {
        for (name, family) in [
            ("ip-route-show-main4", Family::Ipv4),
            ("ip-route-show-main6", Family::Ipv6),
        ] {
            let ours = dump(family, RT_TABLE_MAIN).unwrap();
            same(&ours, &golden(name).requests()[0], 12, &[]);
        }
    }

    #[test]
    fn multipath_and_via_are_read() {
        let golden = golden("ip-route-show4");
        let all = routes(&golden);
        let default = all.iter().find(|r| r.is_default()).unwrap();
        let next_hops = [
            (Some(addr("10.0.0.1")), Some(3)),
            (Some(addr("10.0.0.3")), Some(3)),
        ];
        assert_eq!(default.next_hops(), next_hops);
        let via = all
            .iter()
            .find(|r| r.dst == "203.0.113.0/24".parse().ok())
            .unwrap();
        assert_eq!(via.gateway, Some(addr("fe80::1")));
        for message in golden.answers() {
            truncations(message.payload, Route::decode);
        }
    }

    #[test]
    fn the_ipv6_default_route_is_read() {
        let all = routes(&golden("ip-route-show6"));
        let default = all.iter().find(|r| r.is_default()).unwrap();
        assert_eq!(
            default.next_hops(),
            [(Some(addr("2001:db8:1::1")), Some(3))]
        );
        assert!(
            all.iter()
                .any(|r| r.table == RT_TABLE_LOCAL && r.kind == RTN_LOCAL)
        );
    }
}
