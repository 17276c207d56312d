//! Neighbors (`RTM_*NEIGH`, `linux/neighbor.h`).
//!
//! ```text
//!  0        1     4       8       10      11     12
//! +--------+-----+-------+-------+-------+------+-----------
//! | family | pad | index | state | flags | type | attributes      struct ndmsg
//! +--------+-----+-------+-------+-------+------+-----------
//! ```

use super::attr::Attrs;
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

#[cfg(test)]
mod tests {
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
}
