//! Neighbors (`RTM_*NEIGH`, `linux/neighbor.h`).
//!
//! ```text
//!  0        1     4       8       10      11     12
//! +--------+-----+-------+-------+-------+------+-----------
//! | family | pad | index | state | flags | type | attributes      struct ndmsg
//! +--------+-----+-------+-------+-------+------+-----------
//! ```

use super::attr::Attrs;
use super::bpf::{
    ACCEPT, BpfInstruction, Content, DROP, JUMP_EQUAL, LOAD_HALF, byte, half, op, when, word,
};
use super::message::{NLM_F_ACK, NLM_F_DUMP, Request};
use super::{AF_INET, AF_INET6, NetlinkError};
use crate::wire::{Reader, WireError};
use std::net::IpAddr;

/// An entry of the neighbor table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// Index of the interface that the entry belongs to.
    pub index: u32,
    pub addr: IpAddr,
    /// `NUD_*`.
    pub state: u16,
    /// `NTF_*`.
    pub flags: u8,
    /// `NDA_LLADDR` of an Ethernet neighbor; `None` before it was resolved.
    pub mac: Option<[u8; 6]>,
}

impl Neighbor {
    /// From the payload of `RTM_NEWNEIGH` or `RTM_DELNEIGH`; `None` for entries without an address (a
    /// bridge's).
    pub fn decode(payload: &[u8]) -> Result<Option<Self>, WireError> {
        let mut r = Reader::new(payload);
        r.take(4)?;
        let index = r.u32_ne()?;
        let state = r.u16_ne()?;
        let flags = r.u8()?;
        r.take(1)?;
        let (mut addr, mut mac) = (None, None);
        for attr in Attrs::new(r.rest()) {
            let attr = attr?;
            match attr.kind {
                NDA_DST => addr = Some(attr.addr()?),
                NDA_LLADDR => mac = attr.reader().array().ok(),
                _ => {}
            }
        }
        Ok(addr.map(|addr| Self {
            index,
            addr,
            state,
            flags,
            mac,
        }))
    }

    /// Its neighbor advertisement had the router flag (RFC 4861 §4.4).
    pub fn is_router(&self) -> bool {
        self.flags & NTF_ROUTER != 0
    }

    /// `NUD_FAILED` or `NUD_INCOMPLETE`: address resolution got no answer.
    pub fn is_failed(&self) -> bool {
        self.state & (NUD_FAILED | NUD_INCOMPLETE) != 0
    }
}

/// All IPv6 neighbors. IPv4 entries have no router flag.
pub fn dump() -> Result<Request, NetlinkError> {
    Request::new("list the neighbors", RTM_GETNEIGH, NLM_F_DUMP, |w| {
        w.raw(&[AF_INET6]);
        w.raw(&[0; 11]);
    })
}

/// One neighbor.
pub fn by_addr(index: u32, addr: IpAddr) -> Result<Request, NetlinkError> {
    one("find the neighbor", RTM_GETNEIGH, 0, index, addr)
}

/// Deletes a neighbor entry: the next packet to it starts address resolution again.
pub fn remove(index: u32, addr: IpAddr) -> Result<Request, NetlinkError> {
    one("delete the neighbor", RTM_DELNEIGH, NLM_F_ACK, index, addr)
}

fn one(
    name: &'static str,
    kind: u16,
    flags: u16,
    index: u32,
    addr: IpAddr,
) -> Result<Request, NetlinkError> {
    let family = match addr {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    };
    Request::new(name, kind, flags, |w| {
        w.raw(&[family, 0, 0, 0]);
        w.raw(&index.to_ne_bytes());
        w.raw(&[0; 4]);
        w.addr(NDA_DST, addr);
    })
}

/// What is known of a neighbor whose changes are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub mac: [u8; 6],
    /// `NTF_*`.
    pub flags: u8,
}

/// The filter for a socket that receives notifications. Of neighbors it passes those at watched addresses with another
/// MAC address or other flags than is known, or of which nothing is known; with `routers` also all of IPv6. Every other
/// change of a neighbor's state (NUD_STALE, NUD_REACHABLE) is dropped.
///
/// `neigh_fill_info` (`net/core/neighbour.c`) puts NDA_DST first, then NDA_LLADDR if the state is one of NUD_VALID. Other
/// notifications of neighbors (a bridge's) begin with another attribute.
pub fn filter(watched: &[(IpAddr, Option<Known>)], routers: bool) -> Vec<BpfInstruction> {
    let kind = |kind: u16| u16::from_be_bytes(kind.to_ne_bytes()).into();
    let mut program = vec![
        op(LOAD_HALF, 0, 0, OFFSET_TYPE),
        op(JUMP_EQUAL, 2, 0, kind(RTM_NEWNEIGH)),
        op(JUMP_EQUAL, 1, 0, kind(RTM_DELNEIGH)),
        ACCEPT,
    ];
    if routers {
        program.extend(when(&[byte(OFFSET_FAMILY, AF_INET6)], vec![ACCEPT]));
    }
    for (addr, known) in watched {
        program.extend(when_news(*addr, *known));
    }
    program.push(DROP);
    program
}

/// Passes what is new of the neighbor at this address, and drops the rest of it.
fn when_news(addr: IpAddr, known: Option<Known>) -> Vec<BpfInstruction> {
    let hardware = OFFSET_ATTRIBUTES + u32::from(destination_len(addr));
    let mac = hardware + ATTRIBUTE_HEADER;
    let mut news = Vec::new();
    if let Some(known) = known {
        let [a, b, c, d, e, f] = known.mac;
        let same = [
            byte(OFFSET_FLAGS, known.flags),
            word(mac, [a, b, c, d]),
            half(mac + 4, [e, f]),
        ];
        news.extend(when(&same, vec![DROP]));
    }
    news.push(ACCEPT);
    let mut of_it = when(&[half(hardware + 2, NDA_LLADDR.to_ne_bytes())], news);
    of_it.push(DROP);
    when(&destination(addr), of_it)
}

/// NDA_DST as the first attribute of a notification.
fn destination(addr: IpAddr) -> Vec<Content> {
    let value = OFFSET_ATTRIBUTES + ATTRIBUTE_HEADER;
    let length = half(OFFSET_ATTRIBUTES, destination_len(addr).to_ne_bytes());
    let kind = half(OFFSET_ATTRIBUTES + 2, NDA_DST.to_ne_bytes());
    let mut contents = vec![length, kind];
    match addr {
        IpAddr::V4(addr) => contents.push(word(value, addr.octets())),
        IpAddr::V6(addr) => {
            let segments = addr.segments().into_iter();
            let offsets = (value..).step_by(2);
            contents.extend(
                offsets
                    .zip(segments)
                    .map(|(at, s)| half(at, s.to_be_bytes())),
            );
        }
    }
    contents
}

/// The length of NDA_DST, its header included.
fn destination_len(addr: IpAddr) -> u16 {
    match addr {
        IpAddr::V4(_) => 8,
        IpAddr::V6(_) => 20,
    }
}

/// Reports a neighbor.
pub const RTM_NEWNEIGH: u16 = 28;
/// Deletes a neighbor, or reports its removal.
pub const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// The neighbor is a router.
pub const NTF_ROUTER: u8 = 0x80;
const NUD_INCOMPLETE: u16 = 0x01;
const NUD_FAILED: u16 = 0x20;
/// Where a notification has its `nlmsg_type`, then parts of its `ndmsg`, then the attributes.
const OFFSET_TYPE: u32 = 4;
const OFFSET_FAMILY: u32 = 16;
const OFFSET_FLAGS: u32 = 26;
const OFFSET_ATTRIBUTES: u32 = 28;
/// Length and type.
const ATTRIBUTE_HEADER: u32 = 4;

#[cfg(test)]
mod tests {
    use super::super::bpf::passes;
    use super::super::golden::{golden, message, truncations};
    use super::*;

    #[test]
    fn the_kernels_list_is_read() {
        let golden = golden("ip-neigh-show");
        let tool = golden.requests()[0];
        let bytes = dump().unwrap().encode(1);
        let ours = message(&bytes);
        assert_eq!((ours.kind, ours.flags), (tool.kind, tool.flags));
        assert_eq!(ours.payload, tool.payload);
        let answers = golden.answers();
        let neighbors: Vec<Neighbor> = answers
            .iter()
            .filter(|m| m.kind == RTM_NEWNEIGH)
            .filter_map(|m| Neighbor::decode(m.payload).unwrap())
            .collect();
        let peer = neighbors.iter().find(|n| n.addr.to_string() == "fe80::1");
        let peer = peer.unwrap();
        assert_eq!(peer.index, 3);
        assert!(peer.mac.is_some());
        assert!(!peer.is_failed());
        for message in golden.answers() {
            truncations(message.payload, Neighbor::decode);
        }
    }

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const KNOWN: Known = Known { mac: MAC, flags: 0 };
    const ADDRESSES: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A notification as `neigh_fill_info` makes it.
    fn notification(kind: u16, addr: IpAddr, flags: u8, mac: Option<[u8; 6]>) -> Vec<u8> {
        let family = if addr.is_ipv4() { AF_INET } else { AF_INET6 };
        let request = Request::new("test", kind, 0, |w| {
            w.raw(&[family, 0, 0, 0, 3, 0, 0, 0, 4, 0, flags, 1]);
            w.addr(NDA_DST, addr);
            if let Some(mac) = mac {
                w.bytes(NDA_LLADDR, &mac);
            }
            // NDA_PROBES.
            w.bytes(4, &[0; 4]);
        });
        request.unwrap().encode(0)
    }

    fn watching(known: Option<Known>, routers: bool) -> Vec<BpfInstruction> {
        filter(&ADDRESSES.map(|text| (addr(text), known)), routers)
    }

    #[test]
    fn of_a_watched_neighbor_what_is_new_passes() {
        let (nothing, known) = (watching(None, false), watching(Some(KNOWN), false));
        for kind in [RTM_NEWNEIGH, RTM_DELNEIGH] {
            for addr in ADDRESSES.map(addr) {
                let with = |flags, mac| notification(kind, addr, flags, mac);
                assert!(passes(&nothing, &with(0, Some(MAC))), "{addr}");
                assert!(!passes(&nothing, &with(0, None)), "{addr}");
                assert!(!passes(&known, &with(0, Some(MAC))), "{addr}");
                assert!(!passes(&known, &with(0, None)), "{addr}");
                assert!(passes(&known, &with(NTF_ROUTER, Some(MAC))), "{addr}");
                for at in 0..6 {
                    let mut other = MAC;
                    other[at] += 1;
                    assert!(passes(&known, &with(0, Some(other))), "{addr} {at}");
                }
            }
        }
    }

    #[test]
    fn each_neighbor_is_compared_with_its_own_mac() {
        let other = Known {
            mac: OTHER,
            flags: 0,
        };
        let [four, six] = ADDRESSES.map(addr);
        let far = addr("192.0.2.9");
        let filter = filter(
            &[(four, Some(KNOWN)), (far, None), (six, Some(other))],
            false,
        );
        let passed = |addr, mac| passes(&filter, &notification(RTM_NEWNEIGH, addr, 0, Some(mac)));
        let of = |addr| [passed(addr, MAC), passed(addr, OTHER)];
        assert_eq!(of(four), [false, true]);
        assert_eq!(of(far), [true, true]);
        assert_eq!(of(six), [true, false]);
    }

    #[test]
    fn neighbors_that_are_not_watched_are_dropped_unless_they_may_be_routers() {
        for (routers, known) in [(false, None), (false, Some(KNOWN)), (true, Some(KNOWN))] {
            let filter = watching(known, routers);
            for text in [
                "192.0.2.2",
                "193.0.2.1",
                "2001:db8::2",
                "2002:db8::1",
                "fe80::1",
            ] {
                let message = notification(RTM_NEWNEIGH, addr(text), NTF_ROUTER, Some(OTHER));
                let may_be = routers && addr(text).is_ipv6();
                assert_eq!(passes(&filter, &message), may_be, "{text}");
            }
            let [four, six] = ADDRESSES.map(|a| notification(RTM_NEWNEIGH, addr(a), 0, Some(MAC)));
            assert_eq!(passes(&filter, &four), known.is_none());
            assert_eq!(passes(&filter, &six), known.is_none() || routers);
        }
    }

    #[test]
    fn what_is_not_of_a_neighbor_passes_and_what_a_bridge_says_does_not() {
        let filter = watching(Some(KNOWN), false);
        for kind in [16, 20, 24, 25, 30] {
            assert!(
                passes(&filter, &notification(kind, addr("192.0.2.1"), 0, None)),
                "{kind}"
            );
        }
        // NLMSG_DONE, without a payload.
        let header = [16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(passes(&filter, &header));
        let of_bridge = Request::new("test", RTM_NEWNEIGH, 0, |w| {
            w.raw(&[7, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0]);
            w.bytes(NDA_LLADDR, &OTHER);
            w.addr(NDA_DST, addr("192.0.2.1"));
        });
        assert!(!passes(&filter, &of_bridge.unwrap().encode(0)));
    }

    #[test]
    fn a_truncated_notification_is_dropped() {
        for addr in ADDRESSES.map(addr) {
            let whole = notification(RTM_NEWNEIGH, addr, 0, Some(OTHER));
            let mac_end = 28 + usize::from(destination_len(addr)) + 4 + 6;
            let filter = watching(Some(KNOWN), false);
            for length in 6..whole.len() {
                let passed = passes(&filter, &whole[..length]);
                // The MAC addresses differ in their last byte.
                assert_eq!(passed, length >= mac_end, "{addr} {length}");
            }
        }
    }

    #[test]
    fn the_kernels_own_messages_are_laid_out_as_the_filter_reads_them() {
        let golden = golden("ip-neigh-show");
        let mut seen = 0;
        for message in golden.answers() {
            if message.kind != RTM_NEWNEIGH {
                continue;
            }
            let neighbor = Neighbor::decode(message.payload).unwrap().unwrap();
            let request = Request::new("test", message.kind, 0, |w| w.raw(message.payload));
            let bytes = request.unwrap().encode(0);
            let passed = |known| passes(&filter(&[(neighbor.addr, known)], false), &bytes);
            assert_eq!(passed(None), neighbor.mac.is_some());
            let Some(mac) = neighbor.mac else { continue };
            let flags = neighbor.flags;
            assert!(!passed(Some(Known { mac, flags })));
            assert!(passed(Some(Known { mac: OTHER, flags })));
            seen += 1;
        }
        assert!(seen > 0, "no neighbor with a MAC address");
    }
}
