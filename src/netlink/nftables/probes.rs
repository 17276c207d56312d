//! The table that counts which probes of a VIP's path come back.
//!
//! A probe is a UDP datagram to a VIP, sent to a router, which sends it back if it has our route. Its payload:
//!
//! ```text
//!  0                8      10
//! +----------------+------+
//! | token          | tag  |     both in network order; the token is of this process, the tag of a peer
//! +----------------+------+
//! ```
//!
//! The table in the words of `nft`, for IPv4 (the sets, maps and chains whose names end in 6 are the same for
//! IPv6, but for the offsets; `nft` 1.0.6 cannot parse the raw payload beside the typed sets):
//!
//! ```text
//! table inet sidecast { flags owner
//!   map returned4 { type ipv4_addr . inet_service : counter }                   VIP and tag
//!   set vips4 { type ipv4_addr }
//!   set ports { type inet_service }
//!   set errors4 { type ipv4_addr . inet_service . ipv4_addr . icmp_type . icmp_code; flags dynamic,timeout }
//!   chain prerouting { type filter hook prerouting priority -460
//!     iif != lo udp dport @ports @th,64,64 TOKEN goto returned
//!     meta nfproto ipv4 meta l4proto icmp goto icmp4 }
//!   chain returned { counter name ip daddr . @th,128,16 map @returned4; …6; drop }
//!   chain icmp4 {
//!     icmp type redirect @th,192,32 @vips4 drop                                 of a VIP of ours
//!     @th,288,64 TOKEN update @errors4 { @th,192,32 . @th,352,16 . ip saddr . icmp type . icmp code counter }
//!     @th,288,64 TOKEN ip saddr @vips4 drop }                                   another holder of the VIP
//!   chain output { type filter hook output priority -460
//!     udp dport @ports @th,64,64 TOKEN notrack }
//! }
//! ```
//!
//! The priority is before defragmentation (-400), raw (-300) and connection tracking (-200), so that neither
//! reverse path filters nor NAT apply to a probe that comes back. The port of the quoted datagram is not compared:
//! the token identifies our probes. Left out: ICMP errors that quote fewer than ten bytes of the payload, or a
//! datagram with IP options or extension headers, which probes do not have.

use super::super::NetlinkError;
use super::super::attr::AttrWriter;
use super::super::message::{NLM_F_CREATE, Request};
use super::set::{
    NFTA_SET_DESC, NFTA_SET_DESC_SIZE, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS,
    NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_SET_ID, NFTA_SET_ELEM_LIST_TABLE,
    NFTA_SET_ELEM_OBJREF, NFTA_SET_FLAGS, NFTA_SET_ID, NFTA_SET_KEY_LEN, NFTA_SET_KEY_TYPE,
    NFTA_SET_NAME, NFTA_SET_OBJ_TYPE, NFTA_SET_TABLE, NFTA_SET_TIMEOUT,
};
use super::{
    Batch, NF_INET_LOCAL_OUT, NF_INET_PRE_ROUTING, NFNL_MSG_BATCH_BEGIN, NFT_MSG_DELOBJ,
    NFT_MSG_DELTABLE, NFT_MSG_GETTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWOBJ, NFT_MSG_NEWTABLE,
    NFT_OBJECT_COUNTER, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, NFTA_COUNTER_BYTES,
    NFTA_COUNTER_PACKETS, NFTA_DATA_VALUE, NFTA_LIST_ELEM, NFTA_OBJ_DATA, NFTA_OBJ_NAME,
    NFTA_OBJ_TABLE, NFTA_OBJ_TYPE, NFTA_TABLE_FLAGS, NFTA_TABLE_NAME, Ownership, base_chain,
    batch_marker, octets, request_in,
};
use crate::net::Family;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

mod readings;
mod rules;

pub use readings::{counters, errors, list_rules, returned};
pub use rules::RULES;

/// What one counter counts: probes to a VIP with the tag of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    pub vip: IpAddr,
    pub tag: u16,
}

/// The table's name, and what its rules match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTable {
    pub name: String,
    /// The first eight bytes of the payload.
    pub token: u64,
}

/// The probes that are counted, each with its destination port.
pub type Counted = BTreeMap<Probe, u16>;

/// ICMP errors that quoted a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeError {
    pub probe: Probe,
    /// Their source.
    pub from: IpAddr,
    /// Type of ICMP or ICMPv6.
    pub kind: u8,
    pub code: u8,
    pub count: u64,
}

impl ProbeTable {
    /// Creates the table and counts these probes; `stale`: a table of that name without an owner is deleted
    /// first.
    pub fn create(
        &self,
        counted: &Counted,
        stale: bool,
        ownership: Ownership,
    ) -> Result<Batch, NetlinkError> {
        let mut requests = begin()?;
        if stale {
            requests.push(self.delete_table()?);
        }
        let create = "create the table of the probes";
        requests.push(inet(create, NFT_MSG_NEWTABLE, NLM_F_CREATE, |w| {
            w.text(NFTA_TABLE_NAME, &self.name);
            w.u32_be(NFTA_TABLE_FLAGS, ownership.flags());
        })?);
        for (chain, hook) in CHAINS {
            requests.push(self.new_chain(chain, hook)?);
        }
        for set in SETS {
            requests.push(self.new_set(&set)?);
        }
        let none = Counted::new();
        self.push_change(&mut requests, &none, &BTreeSet::new(), counted)?;
        self.push_rules(&mut requests)?;
        Batch::end(requests)
    }

    /// Deletes the table.
    pub fn delete(&self) -> Result<Batch, NetlinkError> {
        let mut requests = begin()?;
        requests.push(self.delete_table()?);
        Batch::end(requests)
    }

    /// Stops counting the probes in `gone`, then counts those in `new` from 0. `counted` are the probes counted so
    /// far, which include all of `gone`.
    pub fn change(
        &self,
        counted: &Counted,
        gone: &BTreeSet<Probe>,
        new: &Counted,
    ) -> Result<Batch, NetlinkError> {
        let mut requests = begin()?;
        self.push_change(&mut requests, counted, gone, new)?;
        Batch::end(requests)
    }

    /// Deletes these entries of the errors.
    pub fn forget_errors(&self, errors: &[ProbeError]) -> Result<Batch, NetlinkError> {
        let mut requests = begin()?;
        for family in Family::ALL {
            let of = errors.iter();
            let of = of.filter(|error| Family::of(error.probe.vip) == family);
            let keys: Vec<Element> = of.map(|error| (error.key(), None)).collect();
            self.push_elements(&mut requests, NFT_MSG_DELSETELEM, errors_of(family), &keys)?;
        }
        Batch::end(requests)
    }

    fn push_change(
        &self,
        requests: &mut Vec<Request>,
        counted: &Counted,
        gone: &BTreeSet<Probe>,
        new: &Counted,
    ) -> Result<(), NetlinkError> {
        // A VIP or port is in its set as long as one counted probe uses it.
        let stays = |probe: &Probe| !gone.contains(probe);
        let vip_stays = |vip: IpAddr| {
            let any = |tag| Probe { vip, tag };
            let mut of_vip = counted.range(any(0)..=any(u16::MAX));
            of_vip.any(|(probe, _)| stays(probe))
        };
        let port_stays = |port| {
            let mut all = counted.iter();
            all.any(|(probe, of)| *of == port && stays(probe))
        };
        let members = |probes: Counted| {
            let ports: BTreeSet<u16> = probes.values().copied().collect();
            Members {
                vips: probes
                    .keys()
                    .map(|probe| probe.vip)
                    .filter(|vip| !vip_stays(*vip))
                    .collect(),
                ports: ports
                    .into_iter()
                    .filter(|port| !port_stays(*port))
                    .collect(),
                probes,
            }
        };
        let old = gone.iter();
        let old = old.filter_map(|probe| Some((*probe, *counted.get(probe)?)));
        let old = members(old.collect());
        self.push_members(requests, NFT_MSG_DELSETELEM, &old)?;
        for probe in old.probes.keys() {
            requests.push(self.counter(NFT_MSG_DELOBJ, *probe)?);
        }
        let new = members(new.clone());
        for probe in new.probes.keys() {
            requests.push(self.counter(NFT_MSG_NEWOBJ, *probe)?);
        }
        self.push_members(requests, NFT_MSG_NEWSETELEM, &new)
    }

    fn push_members(
        &self,
        requests: &mut Vec<Request>,
        kind: u16,
        members: &Members,
    ) -> Result<(), NetlinkError> {
        let is_new = kind == NFT_MSG_NEWSETELEM;
        for family in Family::ALL {
            let probes = members.probes.keys();
            let probes = probes.filter(|probe| Family::of(probe.vip) == family);
            let counter = |probe: &Probe| is_new.then(|| probe.counter_name());
            let counters = probes.map(|probe| (probe.key(), counter(probe)));
            let counters: Vec<Element> = counters.collect();
            self.push_elements(requests, kind, returned_by(family), &counters)?;
            let vips = members.vips.iter();
            let vips = vips.filter(|vip| Family::of(**vip) == family);
            let vips: Vec<Element> = vips.map(|vip| (octets(*vip), None)).collect();
            self.push_elements(requests, kind, vips_of(family), &vips)?;
        }
        let ports = members.ports.iter();
        let ports: Vec<Element> = ports.map(|p| (p.to_be_bytes().to_vec(), None)).collect();
        self.push_elements(requests, kind, PORTS, &ports)
    }

    fn delete_table(&self) -> Result<Request, NetlinkError> {
        let delete = "delete the table of the probes";
        inet(delete, NFT_MSG_DELTABLE, 0, |w| {
            w.text(NFTA_TABLE_NAME, &self.name);
        })
    }

    fn new_chain(&self, chain: &str, hook: Option<u32>) -> Result<Request, NetlinkError> {
        let create = "create a chain of the probes";
        inet(create, NFT_MSG_NEWCHAIN, NLM_F_CREATE, |w| {
            w.text(NFTA_CHAIN_TABLE, &self.name);
            w.text(NFTA_CHAIN_NAME, chain);
            if let Some(hook) = hook {
                base_chain(w, "filter", hook, PRIORITY);
            }
        })
    }

    fn new_set(&self, set: &Set) -> Result<Request, NetlinkError> {
        let create = "create a set of the probes";
        inet(create, NFT_MSG_NEWSET, NLM_F_CREATE, |w| {
            w.text(NFTA_SET_TABLE, &self.name);
            w.text(NFTA_SET_NAME, set.name);
            w.u32_be(NFTA_SET_FLAGS, set.flags);
            w.u32_be(NFTA_SET_KEY_TYPE, concatenation(set.fields));
            w.u32_be(NFTA_SET_KEY_LEN, set.key_len);
            if set.flags & NFT_SET_OBJECT != 0 {
                w.u32_be(NFTA_SET_OBJ_TYPE, NFT_OBJECT_COUNTER);
            }
            w.u32_be(NFTA_SET_ID, set.id);
            if set.flags & NFT_SET_TIMEOUT != 0 {
                w.nest(NFTA_SET_DESC, |w| {
                    w.u32_be(NFTA_SET_DESC_SIZE, MAX_ERRORS);
                });
                w.bytes(NFTA_SET_TIMEOUT, &ERROR_TIMEOUT_MS.to_be_bytes());
            }
        })
    }

    fn push_elements(
        &self,
        requests: &mut Vec<Request>,
        kind: u16,
        set: Set,
        elements: &[Element],
    ) -> Result<(), NetlinkError> {
        for some in elements.chunks(MAX_ELEMENTS_PER_REQUEST) {
            let change = "change a set of the probes";
            let flags = match kind {
                NFT_MSG_NEWSETELEM => NLM_F_CREATE,
                _ => 0,
            };
            requests.push(inet(change, kind, flags, |w| {
                w.text(NFTA_SET_ELEM_LIST_TABLE, &self.name);
                w.text(NFTA_SET_ELEM_LIST_SET, set.name);
                w.u32_be(NFTA_SET_ELEM_LIST_SET_ID, set.id);
                w.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
                    for (key, counter) in some {
                        w.nest(NFTA_LIST_ELEM, |w| {
                            w.nest(NFTA_SET_ELEM_KEY, |w| w.bytes(NFTA_DATA_VALUE, key));
                            if let Some(counter) = counter {
                                w.text(NFTA_SET_ELEM_OBJREF, counter);
                            }
                        });
                    }
                });
            })?);
        }
        Ok(())
    }

    fn counter(&self, kind: u16, probe: Probe) -> Result<Request, NetlinkError> {
        let is_new = kind == NFT_MSG_NEWOBJ;
        let flags = if is_new { NLM_F_CREATE } else { 0 };
        inet("change a counter of the probes", kind, flags, |w| {
            w.text(NFTA_OBJ_TABLE, &self.name);
            w.text(NFTA_OBJ_NAME, &probe.counter_name());
            w.u32_be(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
            if is_new {
                w.nest(NFTA_OBJ_DATA, |w| {
                    w.bytes(NFTA_COUNTER_BYTES, &[0; 8]);
                    w.bytes(NFTA_COUNTER_PACKETS, &[0; 8]);
                });
            }
        })
    }
}

/// Asks for the table of this name; `ENOENT` if it does not exist.
pub fn find(name: &str) -> Result<Request, NetlinkError> {
    inet("find the table of the probes", NFT_MSG_GETTABLE, 0, |w| {
        w.text(NFTA_TABLE_NAME, name);
    })
}

impl Probe {
    /// The key of its counter: the address and the tag, each padded to four bytes.
    fn key(self) -> Vec<u8> {
        let mut key = octets(self.vip);
        key.extend(self.tag.to_be_bytes());
        key.extend([0; 2]);
        key
    }

    /// A name that `nft` can parse, which takes no colon.
    fn counter_name(self) -> String {
        let vip = self.vip.to_string().replace(':', "-");
        format!("peer{}_{vip}", self.tag)
    }
}

impl ProbeError {
    fn key(&self) -> Vec<u8> {
        let mut key = self.probe.key();
        key.extend(octets(self.from));
        key.extend([self.kind, 0, 0, 0, self.code, 0, 0, 0]);
        key
    }
}

fn begin() -> Result<Vec<Request>, NetlinkError> {
    Ok(vec![batch_marker(NFNL_MSG_BATCH_BEGIN)?])
}

/// A request about a table of both families.
fn inet(
    name: &'static str,
    kind: u16,
    flags: u16,
    body: impl FnOnce(&mut AttrWriter),
) -> Result<Request, NetlinkError> {
    request_in(name, kind, flags, NFPROTO_INET, body)
}

/// What a change adds or removes.
struct Members {
    probes: Counted,
    vips: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

/// The key of a set element, and the name of the counter that a map has for it.
type Element = (Vec<u8>, Option<String>);

/// A set or map of the table.
#[derive(Clone, Copy)]
struct Set {
    name: &'static str,
    /// Its number in the batch that creates it.
    id: u32,
    /// `NFT_SET_*`.
    flags: u32,
    /// `nft`'s numbers for the types of the key's fields; only `nft list` uses them.
    fields: &'static [u32],
    /// Length of the key in bytes; each field is padded to four.
    key_len: u32,
}

fn returned_by(family: Family) -> Set {
    match family {
        Family::Ipv4 => SETS[0],
        Family::Ipv6 => SETS[1],
    }
}

fn vips_of(family: Family) -> Set {
    match family {
        Family::Ipv4 => SETS[2],
        Family::Ipv6 => SETS[3],
    }
}

fn errors_of(family: Family) -> Set {
    match family {
        Family::Ipv4 => SETS[4],
        Family::Ipv6 => SETS[5],
    }
}

/// `nft`'s number for the type of a concatenation: six bits for each field.
fn concatenation(fields: &[u32]) -> u32 {
    fields.iter().fold(0, |all, field| all << 6 | field)
}

const SETS: [Set; 7] = [
    Set {
        name: "returned4",
        id: 1,
        flags: NFT_SET_OBJECT,
        fields: &[IPV4_ADDR, INET_SERVICE],
        key_len: 8,
    },
    Set {
        name: "returned6",
        id: 2,
        flags: NFT_SET_OBJECT,
        fields: &[IPV6_ADDR, INET_SERVICE],
        key_len: 20,
    },
    Set {
        name: "vips4",
        id: 3,
        flags: 0,
        fields: &[IPV4_ADDR],
        key_len: 4,
    },
    Set {
        name: "vips6",
        id: 4,
        flags: 0,
        fields: &[IPV6_ADDR],
        key_len: 16,
    },
    Set {
        name: "errors4",
        id: 5,
        flags: NFT_SET_TIMEOUT | NFT_SET_EVAL,
        fields: &[IPV4_ADDR, INET_SERVICE, IPV4_ADDR, ICMP_TYPE, ICMP_CODE],
        key_len: 20,
    },
    Set {
        name: "errors6",
        id: 6,
        flags: NFT_SET_TIMEOUT | NFT_SET_EVAL,
        fields: &[IPV6_ADDR, INET_SERVICE, IPV6_ADDR, ICMPV6_TYPE, ICMPV6_CODE],
        key_len: 44,
    },
    PORTS,
];
const PORTS: Set = Set {
    name: "ports",
    id: 7,
    flags: 0,
    fields: &[INET_SERVICE],
    key_len: 2,
};

/// Name and hook of each chain.
const CHAINS: [(&str, Option<u32>); 5] = [
    ("returned", None),
    ("icmp4", None),
    ("icmp6", None),
    ("prerouting", Some(NF_INET_PRE_ROUTING)),
    ("output", Some(NF_INET_LOCAL_OUT)),
];
/// Before `NF_IP_PRI_RAW_BEFORE_DEFRAG` (-450).
const PRIORITY: i32 = -460;
/// Entries of each family's set of errors: bounds the memory that a sender of forged ICMP errors can fill.
const MAX_ERRORS: u32 = 1024;
/// An entry is deleted after this time without another such error.
const ERROR_TIMEOUT_MS: u64 = 600_000;
/// Keeps the list below the 64 KiB of an attribute.
const MAX_ELEMENTS_PER_REQUEST: usize = 256;

const NFPROTO_INET: u8 = 1;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFT_SET_EVAL: u32 = 0x20;
const NFT_SET_OBJECT: u32 = 0x40;
const IPV4_ADDR: u32 = 7;
const IPV6_ADDR: u32 = 8;
const INET_SERVICE: u32 = 13;
const ICMP_TYPE: u32 = 14;
const ICMPV6_TYPE: u32 = 29;
const ICMP_CODE: u32 = 32;
const ICMPV6_CODE: u32 = 33;

#[cfg(test)]
mod tests;
