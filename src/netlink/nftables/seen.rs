//! When the last packet for each address of a VIP arrived, while VIPs drain.
//!
//! ```text
//! table ip sidecast_drain {
//!     flags owner
//!     set vips { type ipv4_addr; flags interval; elements = { 192.0.2.53 } }
//!     set seen { type ipv4_addr; size 16384; flags dynamic,timeout; timeout 1m }
//!     chain prerouting {
//!         type filter hook prerouting priority -459; policy accept;
//!         iif != "lo" ip daddr @vips update @seen { ip daddr counter }
//!     }
//! }
//! ```
//!
//! Each packet renews the lifetime of its address in `seen`, so what is left of it says when the last one arrived; the
//! counter is for an operator who lists the table. The chain runs before connection tracking and NAT: a packet is
//! recorded under the VIP that the client sent it to, whatever the protocol. `vips` excludes other addresses of the
//! host, of which there may be more than `seen` has room for.

use super::super::NetlinkError;
use super::super::attr::{Attr, AttrWriter, Attrs};
use super::super::message::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Request};
use super::expression::{NFT_CMP_NEQ, NFT_META_IIF, NFTA_EXPR_DATA, NFTA_EXPR_NAME, compare, meta};
use super::set::{
    NFT_SET_ELEM_INTERVAL_END, NFTA_SET_DESC, NFTA_SET_DESC_SIZE, NFTA_SET_ELEM_EXPIRATION,
    NFTA_SET_ELEM_FLAGS, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_FLAGS, NFTA_SET_ID, NFTA_SET_KEY_LEN, NFTA_SET_KEY_TYPE,
    NFTA_SET_NAME, NFTA_SET_TABLE, NFTA_SET_TIMEOUT,
};
use super::{
    BTreeSet, Batch, Family, IPV4_DADDR_OFFSET, IPV6_DADDR_OFFSET, IpAddr, NF_INET_PRE_ROUTING,
    NFNL_MSG_BATCH_BEGIN, NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWTABLE,
    NFT_PAYLOAD_NETWORK_HEADER, NFT_TABLE_F_OWNER, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE,
    NFTA_DATA_VALUE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE, NFTA_TABLE_FLAGS,
    NFTA_TABLE_NAME, Prefix, REG_1, Reader, WireError, base_chain, batch_marker, expression,
    octets, payload, request,
};
use std::time::Duration;

/// An address of a VIP that packets were sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenAddress {
    pub addr: IpAddr,
    /// How long ago the last packet arrived.
    pub ago: Duration,
}

/// Size of `seen` in each family; when it is full, packets to further addresses of VIPs are not recorded.
pub const MAX_SEEN: usize = 16384;

/// The batch after which packets for `vips` are recorded and those for other VIPs of `before` are not. A family's
/// table exists while one of its VIPs is watched, and is owned by the socket that created it (Linux 5.12).
pub fn watch(
    table: &str,
    before: &BTreeSet<Prefix>,
    vips: &BTreeSet<Prefix>,
) -> Result<Batch, NetlinkError> {
    let mut requests = vec![batch_marker(NFNL_MSG_BATCH_BEGIN)?];
    for (family, ids) in Family::ALL.into_iter().zip([[1, 2], [3, 4]]) {
        let (before, vips) = (outermost(before, family), outermost(vips, family));
        match (before.is_empty(), vips.is_empty()) {
            _ if before == vips => {}
            (_, true) => requests.push(delete_table(family, table)?),
            (true, false) => {
                push_table(&mut requests, family, table, ids)?;
                push_vips(&mut requests, family, table, &vips)?;
                requests.push(new_rule(family, table, ids)?);
            }
            (false, false) => {
                requests.push(flush_vips(family, table)?);
                push_vips(&mut requests, family, table, &vips)?;
            }
        }
    }
    Batch::end(requests)
}

/// The VIPs of a family that no other VIP contains: the intervals of a set must not overlap.
fn outermost(vips: &BTreeSet<Prefix>, family: Family) -> Vec<Prefix> {
    let mut outermost: Vec<Prefix> = Vec::new();
    // A prefix sorts before those that it contains.
    for vip in vips.iter().filter(|vip| vip.family() == family) {
        if !outermost.last().is_some_and(|last| last.covers(vip)) {
            outermost.push(*vip);
        }
    }
    outermost
}

fn push_table(
    requests: &mut Vec<Request>,
    family: Family,
    table: &str,
    [vips, seen]: [u32; 2],
) -> Result<(), NetlinkError> {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    requests.push(request(CREATE, NFT_MSG_NEWTABLE, flags, family, |w| {
        w.text(NFTA_TABLE_NAME, table);
        w.u32_be(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER);
    })?);
    requests.push(request(
        CREATE,
        NFT_MSG_NEWCHAIN,
        NLM_F_CREATE,
        family,
        |w| {
            w.text(NFTA_CHAIN_TABLE, table);
            w.text(NFTA_CHAIN_NAME, CHAIN);
            base_chain(w, "filter", NF_INET_PRE_ROUTING, PRIORITY);
        },
    )?);
    requests.push(new_set(
        family,
        table,
        (VIPS, vips),
        NFT_SET_INTERVAL,
        |_| {},
    )?);
    let flags = NFT_SET_TIMEOUT | NFT_SET_EVAL;
    requests.push(new_set(family, table, (SEEN, seen), flags, |w| {
        w.nest(NFTA_SET_DESC, |w| {
            w.u32_be(
                NFTA_SET_DESC_SIZE,
                u32::try_from(MAX_SEEN).unwrap_or(u32::MAX),
            );
        });
        w.bytes(NFTA_SET_TIMEOUT, &LIFETIME_MS.to_be_bytes());
    })?);
    Ok(())
}

/// A set of addresses; `id` names it within the batch.
fn new_set(
    family: Family,
    table: &str,
    (name, id): (&str, u32),
    flags: u32,
    more: impl FnOnce(&mut AttrWriter),
) -> Result<Request, NetlinkError> {
    let (key_type, key_len) = match family {
        Family::Ipv4 => (NFT_TYPE_IPADDR, 4),
        Family::Ipv6 => (NFT_TYPE_IP6ADDR, 16),
    };
    request(CREATE, NFT_MSG_NEWSET, NLM_F_CREATE, family, |w| {
        w.text(NFTA_SET_TABLE, table);
        w.text(NFTA_SET_NAME, name);
        w.u32_be(NFTA_SET_FLAGS, flags);
        w.u32_be(NFTA_SET_KEY_TYPE, key_type);
        w.u32_be(NFTA_SET_KEY_LEN, key_len);
        w.u32_be(NFTA_SET_ID, id);
        more(w);
    })
}

/// Adds the intervals, in as many messages as their lists need: a list has at most 64 KiB.
fn push_vips(
    requests: &mut Vec<Request>,
    family: Family,
    table: &str,
    vips: &[Prefix],
) -> Result<(), NetlinkError> {
    let mut first = Some(Edge {
        addr: vec![0; usize::from(family.width() / 8)],
        is_end: true,
    });
    for some in vips.chunks(VIPS_IN_MESSAGE) {
        // As `nft` does: the lowest address is marked as the end of an interval.
        let edges = first.take().into_iter();
        let edges: Vec<Edge> = edges.chain(some.iter().flat_map(edges_of)).collect();
        requests.push(request(
            CREATE,
            NFT_MSG_NEWSETELEM,
            NLM_F_CREATE,
            family,
            |w| {
                w.text(NFTA_SET_ELEM_LIST_TABLE, table);
                w.text(NFTA_SET_ELEM_LIST_SET, VIPS);
                w.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
                    for (number, edge) in (1..).zip(&edges) {
                        write_edge(w, number, edge);
                    }
                });
            },
        )?);
    }
    Ok(())
}

/// The first address of an interval, or the first one after it (`is_end`).
struct Edge {
    addr: Vec<u8>,
    is_end: bool,
}

/// The kernel does not look at the numbers of a list's members; `nft` counts them.
fn write_edge(w: &mut AttrWriter, number: u16, edge: &Edge) {
    w.nest(number, |w| {
        if edge.is_end {
            w.u32_be(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
        }
        w.nest(NFTA_SET_ELEM_KEY, |w| w.bytes(NFTA_DATA_VALUE, &edge.addr));
    });
}

/// An interval up to the last address of the family has no end element.
fn edges_of(vip: &Prefix) -> impl Iterator<Item = Edge> + use<> {
    let host_bits = u32::from(vip.family().width() - vip.len());
    let behind = match vip.addr() {
        IpAddr::V4(addr) => {
            let size = 1_u32.checked_shl(host_bits);
            let behind = size.and_then(|size| u32::from(addr).checked_add(size));
            behind.map(|behind| behind.to_be_bytes().to_vec())
        }
        IpAddr::V6(addr) => {
            let size = 1_u128.checked_shl(host_bits);
            let behind = size.and_then(|size| u128::from(addr).checked_add(size));
            behind.map(|behind| behind.to_be_bytes().to_vec())
        }
    };
    let edge = |is_end| move |addr| Edge { addr, is_end };
    let start = Some(octets(vip.addr()));
    let edges = [start.map(edge(false)), behind.map(edge(true))];
    edges.into_iter().flatten()
}

/// Deletes all elements of `vips`.
fn flush_vips(family: Family, table: &str) -> Result<Request, NetlinkError> {
    request(CREATE, NFT_MSG_DELSETELEM, 0, family, |w| {
        w.text(NFTA_SET_ELEM_LIST_TABLE, table);
        w.text(NFTA_SET_ELEM_LIST_SET, VIPS);
    })
}

fn delete_table(family: Family, table: &str) -> Result<Request, NetlinkError> {
    let name = "delete the table of seen packets";
    request(name, NFT_MSG_DELTABLE, 0, family, |w| {
        w.text(NFTA_TABLE_NAME, table);
    })
}

/// `iif != "lo" ip daddr @vips update @seen { ip daddr counter }`
fn new_rule(family: Family, table: &str, [vips, seen]: [u32; 2]) -> Result<Request, NetlinkError> {
    let (offset, width) = match family {
        Family::Ipv4 => (IPV4_DADDR_OFFSET, 4),
        Family::Ipv6 => (IPV6_DADDR_OFFSET, 16),
    };
    let flags = NLM_F_CREATE | NLM_F_APPEND;
    request(CREATE, NFT_MSG_NEWRULE, flags, family, |w| {
        w.text(NFTA_RULE_TABLE, table);
        w.text(NFTA_RULE_CHAIN, CHAIN);
        w.nest(NFTA_RULE_EXPRESSIONS, |w| {
            meta(w, NFT_META_IIF);
            compare(w, NFT_CMP_NEQ, &LOOPBACK_IFINDEX.to_ne_bytes());
            payload(w, NFT_PAYLOAD_NETWORK_HEADER, offset, width);
            expression(w, "lookup", |w| {
                w.u32_be(NFTA_LOOKUP_SREG, REG_1);
                w.text(NFTA_LOOKUP_SET, VIPS);
                w.u32_be(NFTA_LOOKUP_SET_ID, vips);
            });
            payload(w, NFT_PAYLOAD_NETWORK_HEADER, offset, width);
            expression(w, "dynset", |w| {
                w.u32_be(NFTA_DYNSET_SREG_KEY, REG_1);
                w.u32_be(NFTA_DYNSET_OP, NFT_DYNSET_OP_UPDATE);
                w.text(NFTA_DYNSET_SET_NAME, SEEN);
                w.u32_be(NFTA_DYNSET_SET_ID, seen);
                w.nest(NFTA_DYNSET_EXPR, |w| {
                    w.text(NFTA_EXPR_NAME, "counter");
                    w.nest(NFTA_EXPR_DATA, |_| {});
                });
            });
        });
    })
}

/// Lists the addresses of a family that packets were seen for.
pub fn seen(family: Family, table: &str) -> Result<Request, NetlinkError> {
    let name = "list the addresses of seen packets";
    request(name, NFT_MSG_GETSETELEM, NLM_F_DUMP, family, |w| {
        w.text(NFTA_SET_ELEM_LIST_TABLE, table);
        w.text(NFTA_SET_ELEM_LIST_SET, SEEN);
    })
}

impl SeenAddress {
    /// From one message of the answer to [`seen`].
    pub fn decode(payload: &[u8]) -> Result<Vec<Self>, WireError> {
        let mut r = Reader::new(payload);
        r.take(4)?;
        let mut all = Vec::new();
        for attr in Attrs::new(r.rest()) {
            let attr = attr?;
            if attr.kind == NFTA_SET_ELEM_LIST_ELEMENTS {
                for element in attr.nested() {
                    all.extend(Self::of_element(&element?)?);
                }
            }
        }
        Ok(all)
    }

    fn of_element(element: &Attr<'_>) -> Result<Option<Self>, WireError> {
        let (mut addr, mut left) = (None, None);
        for attr in element.nested() {
            let attr = attr?;
            match attr.kind {
                NFTA_SET_ELEM_KEY => {
                    for value in attr.nested() {
                        let value = value?;
                        if value.kind == NFTA_DATA_VALUE {
                            addr = Some(value.addr()?);
                        }
                    }
                }
                NFTA_SET_ELEM_EXPIRATION => left = Some(attr.u64_be()?),
                _ => {}
            }
        }
        let ago = LIFETIME_MS.saturating_sub(left.unwrap_or(0));
        let ago = Duration::from_millis(ago);
        Ok(addr.map(|addr| Self { addr, ago }))
    }
}

const CREATE: &str = "watch the packets of VIPs";
const CHAIN: &str = "prerouting";
/// The VIPs that are watched.
const VIPS: &str = "vips";
/// The addresses that got packets.
const SEEN: &str = "seen";
/// Before raw, connection tracking and NAT, and just after -460, where the probes of [`super::probes`] are dropped.
const PRIORITY: i32 = -459;
/// How long an address stays in `seen` after its last packet.
const LIFETIME_MS: u64 = 60_000;
/// An interval takes up to 76 bytes.
const VIPS_IN_MESSAGE: usize = 512;
/// `lo` has this index in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;

const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFT_SET_INTERVAL: u32 = 0x4;
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFT_SET_EVAL: u32 = 0x20;
/// `nft`'s number for `ipv4_addr`.
const NFT_TYPE_IPADDR: u32 = 7;
/// `nft`'s number for `ipv6_addr`.
const NFT_TYPE_IP6ADDR: u32 = 8;
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_SET_ID: u16 = 4;
const NFTA_DYNSET_SET_NAME: u16 = 1;
const NFTA_DYNSET_SET_ID: u16 = 2;
const NFTA_DYNSET_OP: u16 = 3;
const NFTA_DYNSET_SREG_KEY: u16 = 4;
const NFTA_DYNSET_EXPR: u16 = 7;
const NFT_DYNSET_OP_UPDATE: u32 = 1;

#[cfg(test)]
mod tests {
    use super::super::super::golden::{attrs, encoded, golden, message, truncations};
    use super::super::SUBSYSTEM;
    use super::*;
    use std::collections::BTreeMap;

    const TABLE: &str = "sidecast_drain";

    fn prefixes(texts: &[&str]) -> BTreeSet<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn kinds(batch: &Batch) -> Vec<u16> {
        batch.requests.iter().map(|r| r.kind & 0xff).collect()
    }

    /// Family and attributes of the messages of one kind, without `nft`'s user data of a set and the set id that it
    /// adds to elements.
    type Parts = Vec<(u8, BTreeMap<u16, Vec<u8>>)>;

    fn parts<'a>(payloads: impl Iterator<Item = &'a [u8]>, but: u16) -> Parts {
        let part = |payload: &[u8]| {
            let mut attrs = attrs(payload, 4);
            attrs.remove(&but);
            (payload[0], attrs)
        };
        payloads.map(part).collect()
    }

    fn same_messages(batch: &Batch, file: &str, kind: u16, but: u16) {
        let bytes: Vec<Vec<u8>> = batch.requests.iter().map(encoded).collect();
        let ours = bytes.iter().map(|bytes| message(bytes));
        let golden = golden(file);
        let requests = golden.requests();
        let of_kind = |number: u16| number == SUBSYSTEM << 8 | kind;
        let ours = ours.filter(|m| of_kind(m.kind)).map(|m| m.payload);
        let nfts = requests.iter().filter(|m| of_kind(m.kind));
        let (ours, nfts) = (parts(ours, but), parts(nfts.map(|m| m.payload), but));
        assert!(!nfts.is_empty(), "{file}: kind {kind}");
        assert_eq!(ours, nfts, "{file}: kind {kind}");
    }

    #[test]
    fn the_table_is_what_nft_makes_of_the_same_words() {
        let vips = prefixes(&[
            "192.0.2.53/32",
            "198.51.100.128/26",
            "2001:db8::53/128",
            "2001:db8:5::/61",
        ]);
        let batch = watch(TABLE, &BTreeSet::new(), &vips).unwrap();
        for (kind, but) in [
            (NFT_MSG_NEWTABLE, NFTA_TABLE_FLAGS),
            (NFT_MSG_NEWCHAIN, 0),
            (NFT_MSG_NEWSET, NFTA_SET_USERDATA),
            (NFT_MSG_NEWSETELEM, NFTA_SET_ELEM_LIST_SET_ID),
            (NFT_MSG_NEWRULE, 0),
        ] {
            same_messages(&batch, "nft-seen", kind, but);
        }
        let table = encoded(&batch.requests[1]);
        let flags = &attrs(message(&table).payload, 4)[&NFTA_TABLE_FLAGS];
        assert_eq!(flags[..], NFT_TABLE_F_OWNER.to_be_bytes());
    }

    #[test]
    fn other_vips_take_the_place_of_those_before_as_nft_does_it() {
        let before = prefixes(&["192.0.2.53/32", "198.51.100.128/26", "2001:db8::53/128"]);
        let after = prefixes(&["192.0.2.53/32", "192.0.2.54/32", "2001:db8::53/128"]);
        let batch = watch(TABLE, &before, &after).unwrap();
        let lines = [NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM];
        assert_eq!(kinds(&batch)[1..3], lines, "IPv6 stays as it is");
        for kind in lines {
            same_messages(&batch, "nft-change-vips", kind, NFTA_SET_ELEM_LIST_SET_ID);
        }
    }

    #[test]
    fn a_family_has_a_table_while_one_of_its_vips_is_watched() {
        let (v4, both) = (
            &["192.0.2.53/32"][..],
            &["192.0.2.53/32", "2001:db8::53/128"][..],
        );
        let change = |before: &[&str], after: &[&str]| {
            let batch = watch(TABLE, &prefixes(before), &prefixes(after)).unwrap();
            let count = |kind| kinds(&batch).iter().filter(|k| **k == kind).count();
            (
                batch.is_empty,
                count(NFT_MSG_NEWTABLE),
                count(NFT_MSG_DELTABLE),
            )
        };
        assert_eq!(change(&[], both), (false, 2, 0));
        assert_eq!(change(v4, both), (false, 1, 0));
        assert_eq!(change(both, v4), (false, 0, 1));
        assert_eq!(change(both, &[]), (false, 0, 2));
        assert_eq!(change(both, both), (true, 0, 0));
        assert_eq!(change(&[], &[]), (true, 0, 0));
    }

    #[test]
    fn intervals_do_not_overlap_and_fit_their_messages() {
        let vips = prefixes(&[
            "192.0.2.0/24",
            "192.0.2.53/32",
            "192.0.3.0/24",
            "10.0.0.0/8",
        ]);
        let outer = prefixes(&["192.0.2.0/24", "192.0.3.0/24", "10.0.0.0/8"]);
        let outer: Vec<Prefix> = outer.into_iter().collect();
        assert_eq!(outermost(&vips, Family::Ipv4), outer);
        let edges = |vip: &str| edges_of(&vip.parse().unwrap()).count();
        assert_eq!((edges("239.0.0.0/8"), edges("255.255.255.255/32")), (2, 1));
        assert_eq!(edges("ffff::/16"), 1);
        for prefix in ["10.0.", "2001:db8::"] {
            let many = (0..10_000_u32).map(|n| match prefix {
                "10.0." => format!("10.1.{}.{}/32", n / 256, n % 256),
                _ => format!("2001:db8::{n:x}/128"),
            });
            let many: BTreeSet<Prefix> = many.map(|vip| vip.parse().unwrap()).collect();
            let batch = watch(TABLE, &BTreeSet::new(), &many).unwrap();
            let lists = kinds(&batch)
                .into_iter()
                .filter(|k| *k == NFT_MSG_NEWSETELEM);
            assert_eq!(lists.count(), 20);
        }
    }

    #[test]
    fn what_was_seen_is_read() {
        let all: Vec<(String, u64)> = ["nft-list-seen4", "nft-list-seen6"]
            .into_iter()
            .flat_map(|file| {
                let golden = golden(file);
                let answers = golden.answers();
                let elements = answers.iter();
                let elements = elements.filter(|m| m.kind == SUBSYSTEM << 8 | NFT_MSG_NEWSETELEM);
                let seen: Vec<SeenAddress> = elements
                    .flat_map(|m| SeenAddress::decode(m.payload).unwrap())
                    .collect();
                for message in answers {
                    truncations(message.payload, SeenAddress::decode);
                }
                seen
            })
            .map(|seen| {
                (
                    seen.addr.to_string(),
                    seen.ago.as_millis().try_into().unwrap(),
                )
            })
            .collect();
        println!("{all:?}");
        let addrs: Vec<&str> = all.iter().map(|(addr, _)| addr.as_str()).collect();
        assert_eq!(addrs, ["198.51.100.140", "192.0.2.53", "2001:db8::53"]);
        // `nft` listed them at once.
        assert!(
            all.iter().all(|(_, ago)| (1..1000).contains(ago)),
            "{all:?}"
        );
        for (family, file) in Family::ALL
            .into_iter()
            .zip(["nft-list-seen4", "nft-list-seen6"])
        {
            let ours = encoded(&seen(family, TABLE).unwrap());
            let golden = golden(file);
            let requests = golden.requests();
            let tool = requests
                .iter()
                .find(|m| m.kind == message(&ours).kind)
                .unwrap();
            let whole = |payload| attrs(payload, 4);
            assert_eq!(whole(message(&ours).payload), whole(tool.payload));
        }
    }

    const NFTA_SET_USERDATA: u16 = 13;
    const NFTA_SET_ELEM_LIST_SET_ID: u16 = 4;
}
