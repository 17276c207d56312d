//! Interface addresses (`RTM_*ADDR`, `linux/if_addr.h`).
//!
//! ```text
//!  0        1            2       3       4       8
//! +--------+------------+-------+-------+-------+-----------
//! | family | prefix_len | flags | scope | index | attributes      struct ifaddrmsg
//! +--------+------------+-------+-------+-------+-----------
//! ```

use super::attr::Attrs;
use super::message::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, Request,
};
use super::{AF_INET, AF_INET6, AF_UNSPEC, NetlinkError};
use crate::net::Prefix;
use crate::wire::{Reader, WireError};
use std::net::IpAddr;
use std::time::Duration;

/// Seconds from now; `None` is for ever (the kernel's `INFINITY_LIFE_TIME`).
pub type Lifetime = Option<u32>;

/// `IFA_PROTO` of the addresses that we add: who put it there. Linux 5.18 and later keep it; 0 to 3 are
/// the kernel's own.
pub const IFAPROT_SIDECAST: u8 = 0x53;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface it is on.
    pub index: u32,
    pub prefix_len: u8,
    /// The host's own address (`IFA_LOCAL`, else `IFA_ADDRESS`).
    pub addr: IpAddr,
    /// IPv4 only: `lo:dns`; the kernel fills in the interface's name.
    pub label: Option<String>,
    /// `IFA_F_*`.
    pub flags: u32,
    pub valid: Lifetime,
    pub preferred: Lifetime,
    pub proto: Option<u8>,
    /// `RT_SCOPE_*`.
    pub scope: u8,
}

impl Address {
    /// From the payload of `RTM_NEWADDR` or `RTM_DELADDR`; `None` without an address.
    pub fn decode(payload: &[u8]) -> Result<Option<Self>, WireError> {
        let mut r = Reader::new(payload);
        r.take(1)?;
        let prefix_len = r.u8()?;
        let mut flags = u32::from(r.u8()?);
        let scope = r.u8()?;
        let index = r.u32_ne()?;
        let (mut local, mut address, mut label, mut proto) = (None, None, None, None);
        let (mut valid, mut preferred) = (None, None);
        for attr in Attrs::new(r.rest()) {
            let attr = attr?;
            match attr.kind {
                IFA_ADDRESS => address = Some(attr.addr()?),
                IFA_LOCAL => local = Some(attr.addr()?),
                IFA_LABEL => label = Some(attr.text()),
                IFA_FLAGS => flags = attr.u32()?,
                IFA_PROTO => proto = Some(attr.u8()?),
                IFA_CACHEINFO => {
                    let mut info = attr.reader();
                    preferred = lifetime(info.u32_ne()?);
                    valid = lifetime(info.u32_ne()?);
                }
                _ => {}
            }
        }
        // On a point-to-point link IFA_ADDRESS is the other end's.
        Ok(local.or(address).map(|addr| Self {
            index,
            prefix_len,
            addr,
            label,
            flags,
            valid,
            preferred,
            proto,
            scope,
        }))
    }

    /// The network it makes local or on-link, without host bits.
    pub fn prefix(&self) -> Option<Prefix> {
        Prefix::masked(self.addr, self.prefix_len).ok()
    }

    /// No lifetime ends it.
    pub fn is_permanent(&self) -> bool {
        self.valid.is_none()
    }

    /// Fit to be a source or a next hop: global, and neither deprecated nor still being checked.
    pub fn is_usable(&self) -> bool {
        self.scope == RT_SCOPE_UNIVERSE
            && self.flags & (IFA_F_DEPRECATED | IFA_F_TENTATIVE | IFA_F_DADFAILED) == 0
    }
}

fn lifetime(seconds: u32) -> Lifetime {
    (seconds != INFINITY_LIFE_TIME).then_some(seconds)
}

/// An address as we put it on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAddress {
    pub index: u32,
    pub prefix: Prefix,
    /// Cut to what fits a label ([`label`]); IPv6 addresses have none.
    pub label: Option<String>,
    /// Rounded up to seconds. `None`: permanent.
    pub lifetime: Option<Duration>,
}

impl NewAddress {
    /// Adds it; refused with `EEXIST` where it is.
    pub fn add(&self) -> Result<Request, NetlinkError> {
        self.request("add the address", NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds it, or gives the present one this lifetime. A permanent one becomes leased without a word,
    /// so look first.
    pub fn replace(&self) -> Result<Request, NetlinkError> {
        self.request("renew the address", NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn request(&self, name: &'static str, flags: u16) -> Result<Request, NetlinkError> {
        let Self {
            index,
            prefix,
            lifetime,
            ..
        } = self;
        let addr = prefix.addr();
        Request::new(name, RTM_NEWADDR, NLM_F_ACK | flags, |w| {
            w.raw(&header(addr, prefix.len(), *index));
            w.addr(IFA_LOCAL, addr);
            w.addr(IFA_ADDRESS, addr);
            if let (IpAddr::V4(_), Some(text)) = (addr, &self.label) {
                w.text(IFA_LABEL, text);
            }
            if addr.is_ipv6() {
                // On lo there is nobody to ask, and waiting would delay the announcement.
                w.u32(IFA_FLAGS, IFA_F_NODAD);
            }
            if let Some(cache) = self.cache_info(*lifetime) {
                w.bytes(IFA_CACHEINFO, &cache);
            }
            w.u8(IFA_PROTO, IFAPROT_SIDECAST);
        })
    }

    /// `struct ifa_cacheinfo`: preferred, valid, two stamps. A preferred lifetime of 0 keeps an IPv6
    /// VIP from being chosen as the source of the host's own connections; IPv4 has no such choice.
    fn cache_info(&self, lifetime: Option<Duration>) -> Option<Vec<u8>> {
        let is_v6 = self.prefix.addr().is_ipv6();
        if lifetime.is_none() && !is_v6 {
            return None;
        }
        let valid = lifetime.map_or(INFINITY_LIFE_TIME, whole_seconds);
        let preferred = if is_v6 { 0 } else { valid };
        let fields = [preferred, valid, 0, 0];
        Some(fields.iter().flat_map(|f| f.to_ne_bytes()).collect())
    }
}

/// Up to a whole second, at least one, and never the value that means for ever.
pub fn whole_seconds(lifetime: Duration) -> u32 {
    let seconds = lifetime.as_secs() + u64::from(lifetime.subsec_nanos() > 0);
    u32::try_from(seconds)
        .unwrap_or(u32::MAX)
        .clamp(1, INFINITY_LIFE_TIME - 1)
}

/// `lo:NAME`, cut to the 15 bytes of a label at a character's end, as GoCast cuts it.
pub fn label(interface: &str, name: &str) -> String {
    let mut label = format!("{interface}:{name}");
    while label.len() > LABEL_MAX {
        label.pop();
    }
    label
}

/// Removes an address.
pub fn remove(index: u32, prefix: Prefix) -> Result<Request, NetlinkError> {
    Request::new("remove the address", RTM_DELADDR, NLM_F_ACK, |w| {
        w.raw(&header(prefix.addr(), prefix.len(), index));
        w.addr(IFA_LOCAL, prefix.addr());
    })
}

/// All addresses of all interfaces.
pub fn dump() -> Result<Request, NetlinkError> {
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    Request::new("list the addresses", RTM_GETADDR, flags, |w| {
        w.raw(&[AF_UNSPEC; 8]);
    })
}

fn header(addr: IpAddr, prefix_len: u8, index: u32) -> [u8; 8] {
    let family = match addr {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    };
    let [a, b, c, d] = index.to_ne_bytes();
    [family, prefix_len, 0, RT_SCOPE_UNIVERSE, a, b, c, d]
}

pub const RTM_NEWADDR: u16 = 20;
pub const RTM_DELADDR: u16 = 21;
pub const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
pub const IFA_F_NODAD: u32 = 0x02;
pub const IFA_F_DADFAILED: u32 = 0x08;
pub const IFA_F_DEPRECATED: u32 = 0x20;
pub const IFA_F_TENTATIVE: u32 = 0x40;
pub const RT_SCOPE_UNIVERSE: u8 = 0;
const INFINITY_LIFE_TIME: u32 = u32::MAX;
/// `IFNAMSIZ` less the zero byte.
const LABEL_MAX: usize = 15;
