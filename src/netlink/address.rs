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

/// Seconds from now; `None` is infinite (the kernel's `INFINITY_LIFE_TIME`).
pub type Lifetime = Option<u32>;

/// `IFA_PROTO` of the addresses that sidecast adds, by which it recognizes them. Linux 5.18 and later
/// store it; 0 to 3 are reserved for the kernel.
pub const IFAPROT_SIDECAST: u8 = 0x53;

/// An address of an interface.
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

    /// The prefix that the kernel makes local or on-link for this address, without host bits.
    pub fn prefix(&self) -> Option<Prefix> {
        Prefix::masked(self.addr, self.prefix_len).ok()
    }

    /// The VIP of this address. An IPv6 address exists once on an interface whatever its prefix length, and
    /// does not make its prefix local: its VIP is the /128.
    pub fn vip(&self) -> Option<Prefix> {
        match self.addr {
            IpAddr::V4(_) => self.prefix(),
            IpAddr::V6(_) => Some(Prefix::host(self.addr)),
        }
    }

    /// Whether its valid lifetime is infinite.
    pub fn is_permanent(&self) -> bool {
        self.valid.is_none()
    }

    /// Whether sockets can be bound to it: neither tentative nor a failed duplicate.
    pub fn is_bindable(&self) -> bool {
        self.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) == 0
    }

    /// An IPv6 privacy address (RFC 8981). For IPv4 the flag means a secondary one.
    pub fn is_temporary(&self) -> bool {
        self.addr.is_ipv6() && self.flags & IFA_F_TEMPORARY != 0
    }

    /// Usable as a source address or a next hop: global scope, neither deprecated nor tentative.
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
    /// Adds it; `EEXIST` if it exists.
    pub fn add(&self) -> Result<Request, NetlinkError> {
        self.request("add the address", NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds it, or sets the lifetime of the existing one. The kernel also gives a permanent address of
    /// another program that lifetime: check the owner first.
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
            // No duplicate address detection: on lo it would only delay the announcement.
            let flags = if addr.is_ipv6() { IFA_F_NODAD } else { 0 };
            w.raw(&header(addr, prefix.len(), flags, VIP_SCOPE, *index));
            w.addr(IFA_LOCAL, addr);
            w.addr(IFA_ADDRESS, addr);
            if let (IpAddr::V4(_), Some(text)) = (addr, &self.label) {
                w.text(IFA_LABEL, text);
            }
            if let Some(cache) = self.cache_info(*lifetime) {
                w.bytes(IFA_CACHEINFO, &cache);
            }
            w.u8(IFA_PROTO, IFAPROT_SIDECAST);
        })
    }

    /// `struct ifa_cacheinfo`: preferred, valid, two stamps. A preferred lifetime of 0 keeps an IPv6
    /// VIP from being chosen as the source of the host's own connections; for IPv4 the scope does that.
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

/// Rounded up to seconds: at least 1, and less than `INFINITY_LIFE_TIME`.
pub fn whole_seconds(lifetime: Duration) -> u32 {
    let part = u64::from(lifetime.subsec_nanos() > 0);
    let seconds = lifetime.as_secs().saturating_add(part);
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
        w.raw(&header(
            prefix.addr(),
            prefix.len(),
            0,
            RT_SCOPE_UNIVERSE,
            index,
        ));
        w.addr(IFA_LOCAL, prefix.addr());
        // Without this attribute the kernel would not compare the prefix length.
        w.addr(IFA_ADDRESS, prefix.addr());
    })
}

/// All addresses of all interfaces.
pub fn dump() -> Result<Request, NetlinkError> {
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    Request::new("list the addresses", RTM_GETADDR, flags, |w| {
        w.raw(&[AF_UNSPEC; 8]);
    })
}

/// For IPv6 the kernel takes the scope from the address.
fn header(addr: IpAddr, prefix_len: u8, flags: u8, scope4: u8, index: u32) -> [u8; 8] {
    let (family, scope) = match addr {
        IpAddr::V4(_) => (AF_INET, scope4),
        IpAddr::V6(_) => (AF_INET6, RT_SCOPE_UNIVERSE),
    };
    let [a, b, c, d] = index.to_ne_bytes();
    [family, prefix_len, flags, scope, a, b, c, d]
}

/// Adds an address, or reports one.
pub const RTM_NEWADDR: u16 = 20;
/// Deletes an address, or reports its removal.
pub const RTM_DELADDR: u16 = 21;
/// Lists addresses.
pub const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
const IFA_F_NODAD: u8 = 0x02;
/// An IPv6 privacy address; for IPv4 a secondary address.
pub const IFA_F_TEMPORARY: u32 = 0x01;
const IFA_F_DADFAILED: u32 = 0x08;
/// The preferred lifetime has passed.
pub const IFA_F_DEPRECATED: u32 = 0x20;
/// Duplicate address detection is running.
pub const IFA_F_TENTATIVE: u32 = 0x40;
/// Global scope.
pub const RT_SCOPE_UNIVERSE: u8 = 0;
/// Of this host alone.
pub const RT_SCOPE_HOST: u8 = 254;
/// The scope of an IPv4 VIP. The kernel replies from the address all the same, but does not select it as the source
/// of the host's own packets where the outgoing interface has no other address (`inet_select_addr`).
pub const VIP_SCOPE: u8 = RT_SCOPE_HOST;
const INFINITY_LIFE_TIME: u32 = u32::MAX;
/// `IFNAMSIZ` less the zero byte.
const LABEL_MAX: usize = 15;

#[cfg(test)]
mod tests {
    use super::super::golden::{attrs, golden, message, same, truncations};
    use super::super::message::Reply;
    use super::*;

    fn new(prefix: &str, seconds: u64) -> NewAddress {
        NewAddress {
            index: 1,
            prefix: prefix.parse().unwrap(),
            label: Some(label("lo", "dns")),
            lifetime: Some(Duration::from_secs(seconds)),
        }
    }

    #[test]
    fn adding_and_renewing_are_what_ip_sends_and_our_mark() {
        for (name, ours) in [
            ("ip-addr-add4", new("192.0.2.53/32", 300).add()),
            ("ip-addr-add6", new("2001:db8::53/128", 300).add()),
        ] {
            let golden = golden(name);
            same(&ours.unwrap(), &golden.requests()[0], 8, &[IFA_PROTO]);
            assert_eq!(golden.answers()[0].reply(), Ok(Reply::Done));
        }
        // `ip addr change` is a replace without a create, and takes the label anew.
        let golden = golden("ip-addr-change4");
        let mut ours = new("192.0.2.53/32", 180).replace().unwrap();
        assert_eq!(ours.flags & NLM_F_REPLACE, NLM_F_REPLACE);
        ours.flags = golden.requests()[0].flags;
        same(&ours, &golden.requests()[0], 8, &[IFA_PROTO]);
    }

    #[test]
    fn our_mark_is_on_every_address() {
        // `ip` 6.1 cannot write IFA_PROTO; `linux/if_addr.h` says one byte.
        for prefix in ["192.0.2.53/32", "2001:db8::53/128"] {
            for request in [new(prefix, 300).add(), new(prefix, 300).replace()] {
                let bytes = request.unwrap().encode(1);
                let attrs = attrs(message(&bytes).payload, 8);
                assert_eq!(attrs[&IFA_PROTO], [0x53]);
            }
        }
    }

    #[test]
    fn removing_is_what_ip_sends_and_the_kernel_refuses_in_words() {
        let ours = remove(1, "192.0.2.53/32".parse().unwrap()).unwrap();
        same(&ours, &golden("ip-addr-del4").requests()[0], 8, &[]);
        let ours = remove(1, "2001:db8::53/128".parse().unwrap()).unwrap();
        let golden6 = golden("ip-addr-del6");
        same(&ours, golden6.requests().last().unwrap(), 8, &[]);
        let absent = golden("ip-addr-del-absent");
        let answer = absent.answers()[0].reply();
        let message = Some("ipv4: Address not found".to_owned());
        let errno = super::super::EADDRNOTAVAIL;
        assert_eq!(answer, Ok(Reply::Error { errno, message }));
    }

    #[test]
    fn the_kernels_list_is_read() {
        let golden = golden("ip-addr-show");
        let requests = golden.requests();
        let tool = requests.iter().find(|m| m.kind == RTM_GETADDR).unwrap();
        same(&dump().unwrap(), tool, 8, &[]);
        let addresses: Vec<Address> = golden
            .answers()
            .iter()
            .filter(|m| m.kind == RTM_NEWADDR)
            .map(|m| Address::decode(m.payload).unwrap().unwrap())
            .collect();
        let vip = addresses
            .iter()
            .find(|a| a.addr.to_string() == "192.0.2.53")
            .unwrap();
        assert_eq!(vip.label.as_deref(), Some("lo:dns"));
        assert_eq!((vip.index, vip.prefix_len), (1, 32));
        assert!(vip.valid.is_some_and(|v| (170..=180).contains(&v)));
        assert!(vip.is_usable());
        let vip = addresses
            .iter()
            .find(|a| a.addr.to_string() == "2001:db8::53")
            .unwrap();
        assert!(!vip.is_usable(), "deprecated: never a source");
        assert_eq!(vip.preferred, Some(0));
        let own = addresses
            .iter()
            .find(|a| a.addr.to_string() == "10.0.0.2")
            .unwrap();
        assert!(own.is_permanent() && own.is_usable());
        assert!(addresses.iter().any(|a| a.scope != RT_SCOPE_UNIVERSE));
        for message in golden.answers() {
            truncations(message.payload, Address::decode);
        }
    }

    #[test]
    fn a_label_is_cut_to_fifteen_bytes_at_a_character() {
        assert_eq!(label("lo", "app1longname"), "lo:app1longname");
        assert_eq!(label("lo", "app1longname2"), "lo:app1longname");
        assert_eq!(
            label("lo", "\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}").len(),
            15
        );
        assert_eq!(
            label("lo", "a\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}").len(),
            14
        );
    }

    #[test]
    fn lifetimes_are_whole_seconds_and_never_for_ever() {
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::ZERO), 1);
        assert_eq!(whole_seconds(Duration::from_millis(5001)), 6);
        assert_eq!(whole_seconds(Duration::MAX), u32::MAX - 1);
    }
}
