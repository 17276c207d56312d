//! Conntrack entries, over ctnetlink (`linux/netfilter/nfnetlink_conntrack.h`).
//!
//! A UDP flow keeps the DNAT destination of its first packet for as long as its conntrack entry lives. When
//! a NAT rule changes, the entries of its flows are listed and deleted by their original tuple, so that the
//! next packet is translated by the new rule. Left out: everything else of ctnetlink.

use super::attr::{Attr, AttrWriter, Attrs};
use super::message::{NLM_F_ACK, NLM_F_DUMP, Request};
use super::nftables::NatRule;
use super::{AF_INET, AF_INET6, NetlinkError};
use crate::net::Family;
use crate::wire::{Reader, WireError};
use std::net::IpAddr;

/// The original tuple of a flow: addresses and ports before translation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// `IPPROTO_*`.
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
}

impl Tuple {
    /// The original tuple of an entry; `None` for protocols without ports.
    pub fn decode(payload: &[u8]) -> Result<Option<Self>, WireError> {
        let mut r = Reader::new(payload);
        r.take(4)?;
        for attr in Attrs::new(r.rest()) {
            let attr = attr?;
            if attr.kind == CTA_TUPLE_ORIG {
                return PartialTuple::read(attr).map(PartialTuple::complete);
            }
        }
        Ok(None)
    }

    /// Whether the flow is addressed to the VIP and port of this NAT rule.
    pub fn matches(&self, rule: &NatRule) -> bool {
        self.protocol == rule.protocol
            && self.destination_port == rule.listen
            && rule.vip.contains(self.destination)
    }

    /// Deletes the entry; `ENOENT` if there is none.
    pub fn delete(&self) -> Result<Request, NetlinkError> {
        let kind = SUBSYSTEM << 8 | IPCTNL_MSG_CT_DELETE;
        Request::new("delete a tracked flow", kind, NLM_F_ACK, |w| {
            w.raw(&[code(Family::of(self.destination)), 0, 0, 0]);
            w.nest(CTA_TUPLE_ORIG, |w| {
                w.nest(CTA_TUPLE_IP, |w| {
                    let (source, destination) = ip_kinds(self.destination);
                    w.addr(source, self.source);
                    w.addr(destination, self.destination);
                });
                w.nest(CTA_TUPLE_PROTO, |w| {
                    w.u8(CTA_PROTO_NUM, self.protocol);
                    w.u16_be(CTA_PROTO_SRC_PORT, self.source_port);
                    w.u16_be(CTA_PROTO_DST_PORT, self.destination_port);
                });
            });
        })
    }
}

/// Lists the flows of a family, all or those of one NAT rule. Kernels before 5.8 ignore the filter, so the
/// caller filters again by [`Tuple::matches`].
pub fn dump(family: Family, only: Option<&NatRule>) -> Result<Request, NetlinkError> {
    let kind = SUBSYSTEM << 8 | IPCTNL_MSG_CT_GET;
    Request::new("list the tracked flows", kind, NLM_F_DUMP, |w| {
        w.raw(&[code(family), 0, 0, 0]);
        if let Some(rule) = only {
            filter(w, rule);
        }
    })
}

/// `CTA_TUPLE_ORIG` with some fields, and the flags of those that are compared. There is no mask, so
/// [`Tuple::matches`] filters by prefix. It also filters by IPv6 address: given one, kernels up to Linux 6.18 list
/// every flow but those that match.
fn filter(w: &mut AttrWriter, rule: &NatRule) {
    let mut flags = F_PROTO_NUM | F_PROTO_DST_PORT;
    w.nest(CTA_TUPLE_ORIG, |w| {
        if rule.vip.is_host() && rule.vip.family() == Family::Ipv4 {
            flags |= F_IP_DST;
            w.nest(CTA_TUPLE_IP, |w| {
                let (_, destination) = ip_kinds(rule.vip.addr());
                w.addr(destination, rule.vip.addr());
            });
        }
        w.nest(CTA_TUPLE_PROTO, |w| {
            w.u8(CTA_PROTO_NUM, rule.protocol);
            w.u16_be(CTA_PROTO_DST_PORT, rule.listen);
        });
    });
    w.nest(CTA_FILTER, |w| w.u32(CTA_FILTER_ORIG_FLAGS, flags));
}

#[derive(Default)]
struct PartialTuple {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    protocol: Option<u8>,
    source_port: Option<u16>,
    destination_port: Option<u16>,
}

impl PartialTuple {
    fn read(tuple: Attr<'_>) -> Result<Self, WireError> {
        let mut parts = Self::default();
        for attr in tuple.nested() {
            let attr = attr?;
            match attr.kind {
                CTA_TUPLE_IP => parts.ip(attr)?,
                CTA_TUPLE_PROTO => parts.proto(attr)?,
                _ => {}
            }
        }
        Ok(parts)
    }

    fn ip(&mut self, ip: Attr<'_>) -> Result<(), WireError> {
        for attr in ip.nested() {
            let attr = attr?;
            match attr.kind {
                CTA_IP_V4_SRC | CTA_IP_V6_SRC => self.source = Some(attr.addr()?),
                CTA_IP_V4_DST | CTA_IP_V6_DST => self.destination = Some(attr.addr()?),
                _ => {}
            }
        }
        Ok(())
    }

    fn proto(&mut self, proto: Attr<'_>) -> Result<(), WireError> {
        for attr in proto.nested() {
            let attr = attr?;
            match attr.kind {
                CTA_PROTO_NUM => self.protocol = Some(attr.u8()?),
                CTA_PROTO_SRC_PORT => self.source_port = Some(attr.u16_be()?),
                CTA_PROTO_DST_PORT => self.destination_port = Some(attr.u16_be()?),
                _ => {}
            }
        }
        Ok(())
    }

    fn complete(self) -> Option<Tuple> {
        Some(Tuple {
            source: self.source?,
            destination: self.destination?,
            protocol: self.protocol?,
            source_port: self.source_port?,
            destination_port: self.destination_port?,
        })
    }
}

/// Source and destination attribute of an address's family.
fn ip_kinds(addr: IpAddr) -> (u16, u16) {
    match addr {
        IpAddr::V4(_) => (CTA_IP_V4_SRC, CTA_IP_V4_DST),
        IpAddr::V6(_) => (CTA_IP_V6_SRC, CTA_IP_V6_DST),
    }
}

fn code(family: Family) -> u8 {
    match family {
        Family::Ipv4 => AF_INET,
        Family::Ipv6 => AF_INET6,
    }
}

const SUBSYSTEM: u16 = 1; // NFNL_SUBSYS_CTNETLINK
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
// CTA_FILTER_F_* of net/netfilter/nf_internals.h, which no uapi header has.
const F_IP_DST: u32 = 1 << 1;
const F_PROTO_NUM: u32 = 1 << 3;
const F_PROTO_DST_PORT: u32 = 1 << 5;

#[cfg(test)]
mod tests {
    use super::super::golden::{attrs, golden, message, same, truncations};
    use super::super::nftables::{IPPROTO_TCP, IPPROTO_UDP};
    use super::*;

    fn flow() -> Tuple {
        Tuple {
            source: "10.0.0.9".parse().unwrap(),
            destination: "192.0.2.53".parse().unwrap(),
            protocol: IPPROTO_UDP,
            source_port: 1000,
            destination_port: 53,
        }
    }

    #[test]
    fn a_flow_is_read_and_deleted_as_conntrack_does_it() {
        let golden = golden("conntrack-delete");
        let answers = golden.answers();
        let listed = answers
            .iter()
            .find(|m| m.kind == SUBSYSTEM << 8)
            .expect("IPCTNL_MSG_CT_NEW");
        assert_eq!(Tuple::decode(listed.payload), Ok(Some(flow())));
        truncations(listed.payload, Tuple::decode);

        // `conntrack` repeats the whole entry; the kernel finds it by the original tuple.
        let requests = golden.requests();
        let tool = requests.iter().find(|m| m.kind & 0xff == 2).unwrap();
        let bytes = flow().delete().unwrap().encode(1);
        let ours = message(&bytes);
        assert_eq!((ours.kind, ours.flags), (tool.kind, tool.flags));
        assert_eq!(ours.payload[..4], tool.payload[..4]);
        let (ours, theirs) = (attrs(ours.payload, 4), attrs(tool.payload, 4));
        assert_eq!(ours[&CTA_TUPLE_ORIG], theirs[&CTA_TUPLE_ORIG]);
        assert_eq!(ours.len(), 1);
    }

    #[test]
    fn asking_for_all_is_what_conntrack_asks() {
        let golden = golden("conntrack-list");
        same(
            &dump(Family::Ipv4, None).unwrap(),
            &golden.requests()[0],
            4,
            &[],
        );
    }

    /// No tool that we recorded sends a filter: the bytes follow `ctnetlink_alloc_filter` and `nf_internals.h` of
    /// Linux, and tests/kernel.rs checks them with a real kernel.
    #[test]
    fn a_filter_is_a_tuple_in_part_and_which_parts_count() {
        let rule = NatRule {
            vip: "192.0.2.53/32".parse().unwrap(),
            protocol: IPPROTO_UDP,
            listen: 53,
            target: "10.0.0.2".parse().unwrap(),
            destination: 8053,
            counter: "dns_udp_53".to_owned(),
        };
        let bytes = dump(Family::Ipv4, Some(&rule)).unwrap().encode(1);
        let ours = attrs(message(&bytes).payload, 4);
        let flags = [8, 0, 1, 0, 0x2a, 0, 0, 0];
        assert_eq!(ours[&CTA_FILTER], flags);
        // Protocol and port in network order, behind the address.
        let tuple = [
            &[12, 0, 1, 0x80, 8, 0, 2, 0, 192, 0, 2, 53][..],
            &[
                20, 0, 2, 0x80, 5, 0, 1, 0, 17, 0, 0, 0, 6, 0, 3, 0, 0, 53, 0, 0,
            ],
        ];
        assert_eq!(ours[&CTA_TUPLE_ORIG], tuple.concat());
    }

    #[test]
    fn a_flow_is_for_a_mapping_by_address_protocol_and_port() {
        let rule = NatRule {
            vip: "192.0.2.0/24".parse().unwrap(),
            protocol: IPPROTO_UDP,
            listen: 53,
            target: "10.0.0.2".parse().unwrap(),
            destination: 8053,
            counter: "dns_udp_53".to_owned(),
        };
        assert!(flow().matches(&rule));
        let tcp = NatRule {
            protocol: IPPROTO_TCP,
            ..rule.clone()
        };
        assert!(!flow().matches(&tcp));
        let port = NatRule {
            listen: 54,
            ..rule.clone()
        };
        assert!(!flow().matches(&port));
        let vip = "198.51.100.0/24".parse().unwrap();
        assert!(!flow().matches(&NatRule { vip, ..rule }));
    }
}
