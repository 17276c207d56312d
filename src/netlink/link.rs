//! Interfaces (`RTM_*LINK`, `linux/if_link.h`).
//!
//! ```text
//!  0        1     2      4       8       12       16
//! +--------+-----+------+-------+-------+--------+-----------
//! | family | pad | type | index | flags | change | attributes      struct ifinfomsg
//! +--------+-----+------+-------+-------+--------+-----------
//! ```

use super::message::{NLM_F_ACK, NLM_F_DUMP, Request};
use super::{AF_UNSPEC, NetlinkError, attr::Attrs};
use crate::wire::{Reader, WireError};

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Administratively up and with carrier (`IFF_LOWER_UP`).
    pub running: bool,
    pub loopback: bool,
    /// How often the carrier came or went; 0 where the kernel does not count.
    pub carrier_changes: u32,
}

impl Link {
    /// From the payload of `RTM_NEWLINK` or `RTM_DELLINK`.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(payload);
        r.take(4)?;
        let index = r.u32_ne()?;
        let flags = r.u32_ne()?;
        r.take(4)?;
        let mut link = Self {
            index,
            name: String::new(),
            up: flags & IFF_UP != 0,
            running: flags & IFF_UP != 0 && flags & IFF_LOWER_UP != 0,
            loopback: flags & IFF_LOOPBACK != 0,
            carrier_changes: 0,
        };
        for attr in Attrs::new(r.rest()) {
            let attr = attr?;
            match attr.kind {
                IFLA_IFNAME => link.name = attr.text(),
                IFLA_CARRIER_CHANGES => link.carrier_changes = attr.u32()?,
                _ => {}
            }
        }
        Ok(link)
    }
}

/// All interfaces.
pub fn dump() -> Result<Request, NetlinkError> {
    Request::new("list the interfaces", RTM_GETLINK, NLM_F_DUMP, |w| {
        w.raw(&[AF_UNSPEC; 16]);
        w.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    })
}

/// One interface by its name.
pub fn by_name(name: &str) -> Result<Request, NetlinkError> {
    Request::new("find the interface", RTM_GETLINK, 0, |w| {
        w.raw(&[AF_UNSPEC; 16]);
        w.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        w.text(IFLA_IFNAME, name);
    })
}

/// Sets an interface up.
pub fn set_up(index: u32) -> Result<Request, NetlinkError> {
    Request::new("bring the interface up", RTM_NEWLINK, NLM_F_ACK, |w| {
        w.raw(&[0; 4]);
        w.raw(&index.to_ne_bytes());
        w.raw(&IFF_UP.to_ne_bytes());
        w.raw(&IFF_UP.to_ne_bytes());
    })
}

/// Changes an interface, or reports one.
pub const RTM_NEWLINK: u16 = 16;
/// Reports the removal of an interface.
pub const RTM_DELLINK: u16 = 17;
/// Lists interfaces, or finds one.
pub const RTM_GETLINK: u16 = 18;
const IFLA_IFNAME: u16 = 3;
const IFLA_CARRIER_CHANGES: u16 = 35;
const IFLA_EXT_MASK: u16 = 29;
/// Leaves out the statistics, the largest part of a dump.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;
const IFF_LOWER_UP: u32 = 0x1_0000;

#[cfg(test)]
mod tests {
    use super::super::golden::{attrs, golden, message, same, truncations};
    use super::*;

    #[test]
    fn asking_and_switching_on_are_what_ip_sends() {
        let golden = golden("ip-link-up");
        let requests = golden.requests();
        let tool = requests.last().unwrap();
        // `ip` wants to create what is missing, we do not.
        let mut ours = set_up(1).unwrap();
        ours.flags = tool.flags;
        same(&ours, tool, 16, &[]);
        let listing = super::super::golden::golden("ip-link-show");
        let asking = super::super::golden::golden("ip-link-show-dev");
        for (ours, tool) in [
            (dump(), listing.requests()[1]),
            (by_name("lo"), asking.requests()[1]),
        ] {
            let bytes = ours.unwrap().encode(1);
            let ours = message(&bytes);
            assert_eq!((ours.kind, ours.flags), (tool.kind, tool.flags));
            // `ip` wants other parts of the answer than we do (IFLA_EXT_MASK).
            let names = [ours, tool].map(|m| attrs(m.payload, 16).remove(&IFLA_IFNAME));
            assert_eq!(names[0], names[1]);
        }
    }

    #[test]
    fn the_kernels_list_is_read() {
        let golden = golden("ip-link-show");
        let links: Vec<Link> = golden
            .answers()
            .iter()
            .filter(|m| m.kind == RTM_NEWLINK)
            .map(|m| Link::decode(m.payload).unwrap())
            .collect();
        let lo = links.iter().find(|l| l.name == "lo").unwrap();
        assert!(lo.loopback && lo.up && lo.running && lo.index == 1);
        let v0 = links.iter().find(|l| l.name == "v0").unwrap();
        assert!(!v0.loopback && v0.running);
        assert_eq!((lo.carrier_changes, v0.carrier_changes), (0, 2));
        for message in golden.answers() {
            truncations(message.payload, Link::decode);
        }
    }
}
