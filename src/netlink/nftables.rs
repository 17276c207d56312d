//! NAT of VIPs in nf_tables, over nfnetlink (`linux/netfilter/nf_tables.h`, `nfnetlink.h`).
//!
//! ```text
//!  0        1         2        4
//! +--------+---------+--------+-----------
//! | family | version | res_id | attributes      struct nfgenmsg, res_id in network order
//! +--------+---------+--------+-----------
//! ```
//!
//! One table for each family with a prerouting and an output chain of type nat. Each chain has one rule for every
//! [`NatRule`]; the table has named counters that survive a replacement of the rules. A change is one batch of added
//! and removed rules (`change.rs`), which the kernel applies as a whole or not at all. Left out: everything else
//! that nf_tables can do.

use super::attr::{AttrWriter, Attrs};
use super::message::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_ECHO, Request};
use super::{AF_INET, AF_INET6, AF_UNSPEC, NetlinkError};
use crate::net::{Family, Prefix};
use crate::wire::{Reader, WireError};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

mod change;
mod counter;
mod expression;
pub mod probes;
pub mod seen;
mod set;

pub use change::{ChangeBatch, ListedRule, NatChange, Tables};
pub use counter::{Counter, counters};

use expression::{
    NFT_META_L4PROTO, NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER, NFTA_DATA_VALUE,
    NFTA_LIST_ELEM, REG_1, equals, expression, immediate, meta, payload,
};

/// The desired NAT rules of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatTable {
    /// `sidecast`, `sidecast_INSTANCE`.
    pub name: String,
    pub rules: BTreeSet<NatRule>,
}

/// Traffic to `vip` and `listen` goes to `target` and `destination`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NatRule {
    pub vip: Prefix,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u8,
    pub listen: u16,
    /// Of the VIP's family.
    pub target: IpAddr,
    pub destination: u16,
    /// The named counter of the rule; rules may share one. See [`counter_name`].
    pub counter: String,
}

/// The lifetime of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// `NFT_TABLE_F_OWNER`: the kernel deletes it when the socket that created it closes (Linux 5.12).
    Owner,
    /// Also `NFT_TABLE_F_PERSIST`: it outlives the socket, and the next process takes it over (Linux 6.9).
    Persistent,
    /// No owner: it stays until it is deleted.
    Unowned,
}

/// The counters of each family's installed table, with the number of rules that use each. A family without a
/// table has no entry.
pub type InstalledTables = BTreeMap<Family, BTreeMap<String, usize>>;

/// The batch after which the tables hold exactly these rules. `installed` are our tables, which are kept;
/// `stale_families` are the families in which a table of an earlier process is deleted first.
pub fn replace(
    table: &NatTable,
    installed: &InstalledTables,
    stale_families: &BTreeSet<Family>,
    ownership: Ownership,
) -> Result<Batch, NetlinkError> {
    let mut requests = vec![batch_marker(NFNL_MSG_BATCH_BEGIN)?];
    for family in Family::ALL {
        if stale_families.contains(&family) {
            requests.push(delete_table(family, &table.name)?);
        }
        let rules: Vec<&NatRule> = table
            .rules
            .iter()
            .filter(|rule| of_family(rule, family))
            .collect();
        match (rules.is_empty(), installed.get(&family)) {
            (true, None) => {}
            (true, Some(_)) => requests.push(delete_table(family, &table.name)?),
            (false, counters) => {
                push_table(&mut requests, family, table, &rules, counters, ownership)?
            }
        }
    }
    Batch::end(requests)
}

/// Messages that the kernel applies all or none of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub requests: Vec<Request>,
    /// Index of the request that the kernel acknowledges.
    pub acknowledged: usize,
    /// The batch changes nothing and is not sent.
    pub is_empty: bool,
}

impl Batch {
    /// Completes a batch: NFNL_MSG_BATCH_END is not acknowledged, the last change before it is.
    fn end(mut requests: Vec<Request>) -> Result<Self, NetlinkError> {
        let acknowledged = requests.len().saturating_sub(1);
        if let Some(last) = requests.last_mut() {
            last.flags |= NLM_F_ACK;
        }
        let is_empty = acknowledged == 0;
        requests.push(batch_marker(NFNL_MSG_BATCH_END)?);
        Ok(Self {
            requests,
            acknowledged,
            is_empty,
        })
    }
}

/// The tables that exist after a [`replace`].
pub fn installed(table: &NatTable) -> InstalledTables {
    let mut installed = InstalledTables::new();
    for rule in &table.rules {
        let counters = installed.entry(rule.vip.family()).or_default();
        *counters.entry(rule.counter.clone()).or_default() += 1;
    }
    installed
}

fn push_table(
    requests: &mut Vec<Request>,
    family: Family,
    table: &NatTable,
    rules: &[&NatRule],
    installed: Option<&BTreeMap<String, usize>>,
    ownership: Ownership,
) -> Result<(), NetlinkError> {
    let name = &table.name;
    if installed.is_none() {
        new_table_with_chains(requests, family, name, ownership)?;
    } else {
        requests.push(flush_rules(family, name)?);
    }
    let none = BTreeMap::new();
    let there = installed.unwrap_or(&none);
    let wanted: BTreeSet<&str> = rules.iter().map(|rule| rule.counter.as_str()).collect();
    for counter in wanted.iter().filter(|name| !there.contains_key(**name)) {
        requests.push(new_counter(family, name, counter)?);
    }
    for (chain, _) in CHAINS {
        for rule in rules {
            requests.push(new_rule(family, name, chain, rule, None)?);
        }
    }
    for counter in there
        .keys()
        .filter(|counter| !wanted.contains(counter.as_str()))
    {
        requests.push(delete_counter(family, name, counter)?);
    }
    Ok(())
}

fn new_table_with_chains(
    requests: &mut Vec<Request>,
    family: Family,
    name: &str,
    ownership: Ownership,
) -> Result<(), NetlinkError> {
    requests.push(new_table(family, name, ownership)?);
    for (chain, hook) in CHAINS {
        requests.push(new_chain(family, name, chain, hook)?);
    }
    Ok(())
}

/// A counter name that `nft` can parse, made of the app's name, protocol and port. If the app's name had
/// to be changed or cut, its FNV-1a hash keeps the counters of different apps apart.
pub fn counter_name(app: &str, protocol: u8, listen: u16) -> String {
    let protocol = match protocol {
        IPPROTO_UDP => "udp",
        _ => "tcp",
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.';
    let mut name: String = app
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .take(COUNTER_MAX)
        .collect();
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        name.insert_str(0, "app_");
    }
    if name != app {
        let hash = app.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        name.push_str(&format!("_{hash:08x}"));
    }
    format!("{name}_{protocol}_{listen}")
}

/// `NFNL_MSG_BATCH_BEGIN` or `NFNL_MSG_BATCH_END`.
fn batch_marker(kind: u16) -> Result<Request, NetlinkError> {
    Request::new("change the NAT table", kind, 0, |w| {
        let [high, low] = SUBSYSTEM.to_be_bytes();
        w.raw(&[AF_UNSPEC, NFNETLINK_V0, high, low]);
    })
}

fn request(
    name: &'static str,
    kind: u16,
    flags: u16,
    family: Family,
    body: impl FnOnce(&mut AttrWriter),
) -> Result<Request, NetlinkError> {
    request_in(name, kind, flags, code(family), body)
}

/// A request about tables of this `NFPROTO_*`.
fn request_in(
    name: &'static str,
    kind: u16,
    flags: u16,
    protocol: u8,
    body: impl FnOnce(&mut AttrWriter),
) -> Result<Request, NetlinkError> {
    Request::new(name, SUBSYSTEM << 8 | kind, flags, |w| {
        w.raw(&[protocol, NFNETLINK_V0, 0, 0]);
        body(w);
    })
}

impl Ownership {
    /// `NFT_TABLE_F_*`.
    fn flags(self) -> u32 {
        match self {
            Self::Owner => NFT_TABLE_F_OWNER,
            Self::Persistent => NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST,
            Self::Unowned => 0,
        }
    }
}

fn new_table(family: Family, name: &str, ownership: Ownership) -> Result<Request, NetlinkError> {
    request(
        "create the NAT table",
        NFT_MSG_NEWTABLE,
        NLM_F_CREATE,
        family,
        |w| {
            w.text(NFTA_TABLE_NAME, name);
            w.u32_be(NFTA_TABLE_FLAGS, ownership.flags());
        },
    )
}

fn delete_table(family: Family, name: &str) -> Result<Request, NetlinkError> {
    request("delete the NAT table", NFT_MSG_DELTABLE, 0, family, |w| {
        w.text(NFTA_TABLE_NAME, name);
    })
}

/// A base chain that runs just before those of Docker and firewalld: the first DNAT of a flow applies.
fn new_chain(family: Family, table: &str, chain: &str, hook: u32) -> Result<Request, NetlinkError> {
    request(
        "create the NAT chain",
        NFT_MSG_NEWCHAIN,
        NLM_F_CREATE,
        family,
        |w| {
            w.text(NFTA_CHAIN_TABLE, table);
            w.text(NFTA_CHAIN_NAME, chain);
            base_chain(w, "nat", hook, PRIORITY);
        },
    )
}

/// What makes a chain a base chain: its type, its hook with a priority, and the policy `accept`.
fn base_chain(w: &mut AttrWriter, kind: &str, hook: u32, priority: i32) {
    w.text(NFTA_CHAIN_TYPE, kind);
    w.u32_be(NFTA_CHAIN_POLICY, NF_ACCEPT);
    w.nest(NFTA_CHAIN_HOOK, |w| {
        w.u32_be(NFTA_HOOK_HOOKNUM, hook);
        w.bytes(NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
    });
}

/// All rules of all chains of the table.
fn flush_rules(family: Family, table: &str) -> Result<Request, NetlinkError> {
    request("flush the NAT table", NFT_MSG_DELRULE, 0, family, |w| {
        w.text(NFTA_RULE_TABLE, table);
    })
}

fn new_counter(family: Family, table: &str, name: &str) -> Result<Request, NetlinkError> {
    request(
        "create the NAT counter",
        NFT_MSG_NEWOBJ,
        NLM_F_CREATE,
        family,
        |w| {
            w.text(NFTA_OBJ_TABLE, table);
            w.text(NFTA_OBJ_NAME, name);
            w.u32_be(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
            w.nest(NFTA_OBJ_DATA, |w| {
                w.bytes(NFTA_COUNTER_BYTES, &[0; 8]);
                w.bytes(NFTA_COUNTER_PACKETS, &[0; 8]);
            });
        },
    )
}

fn delete_counter(family: Family, table: &str, name: &str) -> Result<Request, NetlinkError> {
    request("delete the NAT counter", NFT_MSG_DELOBJ, 0, family, |w| {
        w.text(NFTA_OBJ_TABLE, table);
        w.text(NFTA_OBJ_NAME, name);
        w.u32_be(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
    })
}

/// `ip daddr VIP PROTOCOL dport LISTEN counter name NAME dnat to TARGET:DESTINATION`, before the rule of
/// this handle, else at the end.
fn new_rule(
    family: Family,
    table: &str,
    chain: &str,
    rule: &NatRule,
    before: Option<u64>,
) -> Result<Request, NetlinkError> {
    let flags = match before {
        Some(_) => NLM_F_CREATE,
        None => NLM_F_CREATE | NLM_F_APPEND,
    };
    request("add the NAT rule", NFT_MSG_NEWRULE, flags, family, |w| {
        w.text(NFTA_RULE_TABLE, table);
        w.text(NFTA_RULE_CHAIN, chain);
        w.nest(NFTA_RULE_EXPRESSIONS, |w| {
            match_destination(w, rule.vip);
            meta(w, NFT_META_L4PROTO);
            equals(w, &[rule.protocol]);
            payload(w, NFT_PAYLOAD_TRANSPORT_HEADER, DPORT_OFFSET, 2);
            equals(w, &rule.listen.to_be_bytes());
            expression(w, "objref", |w| {
                w.u32_be(NFTA_OBJREF_IMM_TYPE, NFT_OBJECT_COUNTER);
                w.bytes(NFTA_OBJREF_IMM_NAME, rule.counter.as_bytes());
            });
            immediate(w, REG_1, &octets(rule.target));
            immediate(w, REG_2, &rule.destination.to_be_bytes());
            expression(w, "nat", |w| {
                w.u32_be(NFTA_NAT_TYPE, NFT_NAT_DNAT);
                w.u32_be(NFTA_NAT_FAMILY, u32::from(code(family)));
                w.u32_be(NFTA_NAT_REG_ADDR_MIN, REG_1);
                w.u32_be(NFTA_NAT_REG_PROTO_MIN, REG_2);
                w.u32_be(NFTA_NAT_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED);
            });
        });
        if let Some(handle) = before {
            w.bytes(NFTA_RULE_POSITION, &handle.to_be_bytes());
        }
    })
}

/// Compares the leading bits of the destination address. If they are whole bytes, only these are loaded, as by
/// `nft`; else the whole address is loaded and masked.
fn match_destination(w: &mut AttrWriter, vip: Prefix) {
    let (offset, width) = match vip.family() {
        Family::Ipv4 => (IPV4_DADDR_OFFSET, 4),
        Family::Ipv6 => (IPV6_DADDR_OFFSET, 16),
    };
    let addr = octets(vip.addr());
    let bits = usize::from(vip.len());
    if bits % 8 == 0 && bits > 0 {
        let length = bits / 8;
        payload(w, NFT_PAYLOAD_NETWORK_HEADER, offset, vip.len() / 8);
        equals(w, addr.get(..length).unwrap_or(&addr));
        return;
    }
    payload(w, NFT_PAYLOAD_NETWORK_HEADER, offset, width);
    expression(w, "bitwise", |w| {
        w.u32_be(NFTA_BITWISE_SREG, REG_1);
        w.u32_be(NFTA_BITWISE_DREG, REG_1);
        w.u32_be(NFTA_BITWISE_LEN, u32::from(width));
        w.nest(NFTA_BITWISE_MASK, |w| w.bytes(NFTA_DATA_VALUE, &mask(vip)));
        let zeros = vec![0; addr.len()];
        w.nest(NFTA_BITWISE_XOR, |w| w.bytes(NFTA_DATA_VALUE, &zeros));
    });
    equals(w, &addr);
}

fn mask(vip: Prefix) -> Vec<u8> {
    let ones: IpAddr = match vip.family() {
        Family::Ipv4 => IpAddr::from([0xff; 4]),
        Family::Ipv6 => IpAddr::from([0xff; 16]),
    };
    octets(Prefix::masked(ones, vip.len()).map_or(ones, |mask| mask.addr()))
}

/// Asks for one table; `ENOENT` if it does not exist.
pub fn find_table(family: Family, name: &str) -> Result<Request, NetlinkError> {
    request("find the NAT table", NFT_MSG_GETTABLE, 0, family, |w| {
        w.text(NFTA_TABLE_NAME, name);
    })
}

/// Whether a message of this kind is a rule (`NFT_MSG_NEWRULE`).
pub fn is_rule(kind: u16) -> bool {
    kind == SUBSYSTEM << 8 | NFT_MSG_NEWRULE
}

/// Whether the table in a reply to [`find_table`] is owned by another socket than the one of this port id.
pub fn is_owned_by_another(payload: &[u8], port: u32) -> Result<bool, WireError> {
    let owner = table_attr(payload, NFTA_TABLE_OWNER)?;
    Ok(is_owned(payload)? && owner != Some(port))
}

/// Whether the table in a reply to [`find_table`] has an owner, which is a running process.
pub fn is_owned(payload: &[u8]) -> Result<bool, WireError> {
    Ok(table_flags(payload)? & NFT_TABLE_F_OWNER != 0)
}

/// Whether the table is persistent and its owner has closed its socket (the kernel's `nft_table_is_orphan`).
pub fn is_orphan(payload: &[u8]) -> Result<bool, WireError> {
    let flags = table_flags(payload)?;
    Ok(flags & (NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST) == NFT_TABLE_F_PERSIST)
}

fn table_flags(payload: &[u8]) -> Result<u32, WireError> {
    Ok(table_attr(payload, NFTA_TABLE_FLAGS)?.unwrap_or(0))
}

fn table_attr(payload: &[u8], kind: u16) -> Result<Option<u32>, WireError> {
    let mut r = Reader::new(payload);
    r.take(4)?;
    for attr in Attrs::new(r.rest()) {
        let attr = attr?;
        if attr.kind == kind {
            return attr.u32_be().map(Some);
        }
    }
    Ok(None)
}

/// The batch that deletes these families' tables.
pub fn delete(name: &str, families: &BTreeSet<Family>) -> Result<Batch, NetlinkError> {
    let nothing = NatTable {
        name: name.to_owned(),
        rules: BTreeSet::new(),
    };
    let none = InstalledTables::new();
    replace(&nothing, &none, families, Ownership::Unowned)
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// A rule whose VIP and target are of different families belongs to no table.
fn of_family(rule: &NatRule, family: Family) -> bool {
    rule.vip.family() == family && Family::of(rule.target) == family
}

fn code(family: Family) -> u8 {
    match family {
        Family::Ipv4 => AF_INET,
        Family::Ipv6 => AF_INET6,
    }
}

/// Name and hook of each chain.
const CHAINS: [(&str, u32); 2] = [
    ("prerouting", NF_INET_PRE_ROUTING),
    ("output", NF_INET_LOCAL_OUT),
];
/// `dstnat - 5`.
const PRIORITY: i32 = -105;
/// Leaves room in the 256 bytes of a name.
const COUNTER_MAX: usize = 100;

const SUBSYSTEM: u16 = 10; // NFNL_SUBSYS_NFTABLES
const NFNETLINK_V0: u8 = 0;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_NEWOBJ: u16 = 18;
const NFT_MSG_GETOBJ: u16 = 19;
const NFT_MSG_DELOBJ: u16 = 20;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_TABLE_OWNER: u16 = 7;
const NFT_TABLE_F_OWNER: u32 = 2;
const NFT_TABLE_F_PERSIST: u32 = 4;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_LOCAL_OUT: u32 = 3;
const NF_ACCEPT: u32 = 1;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_POSITION: u16 = 6;
const IPV4_DADDR_OFFSET: u32 = 16;
const IPV6_DADDR_OFFSET: u32 = 24;
const DPORT_OFFSET: u32 = 2;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_OBJREF_IMM_TYPE: u16 = 1;
const NFTA_OBJREF_IMM_NAME: u16 = 2;
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
const NFTA_NAT_FLAGS: u16 = 7;
const NFT_NAT_DNAT: u32 = 1;
const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;
const NFTA_OBJ_TABLE: u16 = 1;
const NFTA_OBJ_NAME: u16 = 2;
const NFTA_OBJ_TYPE: u16 = 3;
const NFTA_OBJ_DATA: u16 = 4;
const NFT_OBJECT_COUNTER: u32 = 1;
const NFTA_COUNTER_BYTES: u16 = 1;
const NFTA_COUNTER_PACKETS: u16 = 2;
const REG_2: u32 = 2;
/// TCP.
pub const IPPROTO_TCP: u8 = 6;
/// UDP.
pub const IPPROTO_UDP: u8 = 17;

#[cfg(test)]
mod tests {
    use super::super::golden::{attrs, golden, message, same, truncations};
    use super::*;

    fn rule(vip: &str, protocol: u8, ports: (u16, u16), counter: &str) -> NatRule {
        let vip: Prefix = vip.parse().unwrap();
        let target = match vip.family() {
            Family::Ipv4 => "10.0.0.2",
            Family::Ipv6 => "2001:db8:1::2",
        };
        NatRule {
            vip,
            protocol,
            listen: ports.0,
            target: target.parse().unwrap(),
            destination: ports.1,
            counter: counter.to_owned(),
        }
    }

    fn table() -> NatTable {
        NatTable {
            name: "sidecast".to_owned(),
            rules: BTreeSet::from([
                rule("192.0.2.0/24", IPPROTO_TCP, (80, 8080), "web_tcp_80"),
                rule("192.0.2.53/32", IPPROTO_UDP, (53, 8053), "dns_udp_53"),
                rule("198.51.100.128/26", IPPROTO_TCP, (80, 8080), "web_tcp_80"),
                rule("2001:db8::53/128", IPPROTO_UDP, (53, 8053), "dns_udp_53"),
                rule("2001:db8:5::/61", IPPROTO_UDP, (53, 8053), "dns_udp_53"),
            ]),
        }
    }

    fn kinds(batch: &Batch) -> Vec<u16> {
        let kinds = batch.requests.iter().map(|r| r.kind & 0xff);
        kinds.collect()
    }

    #[test]
    fn a_table_is_what_nft_makes_of_the_same_words() {
        let nothing = (InstalledTables::new(), BTreeSet::new());
        let batch = replace(&table(), &nothing.0, &nothing.1, Ownership::Unowned).unwrap();
        let bytes: Vec<Vec<u8>> = batch.requests.iter().map(|r| r.encode(1)).collect();
        let golden = golden("nft-f");
        for kind in [
            NFT_MSG_NEWTABLE,
            NFT_MSG_NEWCHAIN,
            NFT_MSG_NEWOBJ,
            NFT_MSG_NEWRULE,
        ] {
            let kind = SUBSYSTEM << 8 | kind;
            let ours: Vec<&[u8]> = bytes
                .iter()
                .map(|bytes| message(bytes))
                .filter(|m| m.kind == kind)
                .map(|m| m.payload)
                .collect();
            let requests = golden.requests();
            let nfts: Vec<&[u8]> = requests
                .iter()
                .filter(|m| m.kind == kind)
                .map(|m| m.payload)
                .collect();
            assert!(!nfts.is_empty());
            // `nft` makes an app's counter once; the order of the two is its own.
            let sorted = |mut all: Vec<Vec<u8>>| {
                if kind & 0xff == NFT_MSG_NEWOBJ {
                    all.sort();
                }
                all
            };
            let owned = |all: Vec<&[u8]>| sorted(all.into_iter().map(<[u8]>::to_vec).collect());
            assert_eq!(ours.len(), nfts.len(), "kind {kind:#x}");
            for (ours, nfts) in owned(ours).iter().zip(&owned(nfts)) {
                assert_eq!(ours, nfts, "kind {kind:#x}");
            }
        }
    }

    #[test]
    fn an_owned_table_is_what_nft_makes_of_the_same_words() {
        let golden = golden("nft-owner");
        let ours = new_table(Family::Ipv4, "owned", Ownership::Owner).unwrap();
        let kind = SUBSYSTEM << 8 | NFT_MSG_NEWTABLE;
        let requests = golden.requests();
        let nfts = requests.iter().find(|m| m.kind == kind).unwrap();
        let bytes = ours.encode(1);
        assert_eq!(message(&bytes).payload, nfts.payload);
        for (ours, nfts) in [
            (NFNL_MSG_BATCH_BEGIN, requests.first()),
            (NFNL_MSG_BATCH_END, requests.last()),
        ] {
            let bytes = batch_marker(ours).unwrap().encode(1);
            assert_eq!(message(&bytes).payload, nfts.unwrap().payload);
        }
    }

    #[test]
    fn deletions_are_what_nft_sends() {
        let v4 = Family::Ipv4;
        for (name, ours) in [
            ("nft-flush-table", flush_rules(v4, "sidecast")),
            (
                "nft-delete-counter",
                delete_counter(v4, "sidecast", "web_tcp_80"),
            ),
            ("nft-delete-table", delete_table(v4, "sidecast")),
        ] {
            let ours = ours.unwrap();
            let golden = golden(name);
            let requests = golden.requests();
            let tool = requests.iter().find(|m| m.kind == ours.kind).unwrap();
            let bytes = ours.encode(1);
            let ours = message(&bytes);
            assert_eq!(
                (ours.flags, &ours.payload[..4]),
                (tool.flags, &tool.payload[..4])
            );
            // `nft` sends an empty NFTA_OBJ_DATA.
            let mut tools = attrs(tool.payload, 4);
            tools.retain(|kind, value| *kind != NFTA_OBJ_DATA || !value.is_empty());
            assert_eq!(attrs(ours.payload, 4), tools);
        }
    }

    #[test]
    fn a_table_is_looked_for_as_nft_does() {
        let golden = golden("nft-list-table");
        let requests = golden.requests();
        let mut ours = find_table(Family::Ipv4, "sidecast").unwrap();
        let tool = requests.iter().find(|m| m.kind == ours.kind).unwrap();
        // `nft` wants an acknowledgment beside the reply.
        ours.flags |= NLM_F_ACK;
        same(&ours, tool, 4, &[]);
        let kind = SUBSYSTEM << 8 | NFT_MSG_NEWTABLE;
        let answers = golden.answers();
        let answer = answers.iter().find(|m| m.kind == kind).unwrap();
        assert_eq!(is_owned(answer.payload), Ok(false));
        assert_eq!(is_orphan(answer.payload), Ok(false));
    }

    /// `nft` 1.0.6 does not know the word `persist`; `linux/netfilter/nf_tables.h` has its bit.
    #[test]
    fn an_orphaned_table_is_persistent_and_has_no_owner() {
        for (flags, owned, left) in [
            (0, false, false),
            (NFT_TABLE_F_OWNER, true, false),
            (NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST, true, false),
            (NFT_TABLE_F_PERSIST, false, true),
        ] {
            let mut w = AttrWriter::new();
            w.raw(&[AF_INET, NFNETLINK_V0, 0, 0]);
            w.u32_be(NFTA_TABLE_FLAGS, flags);
            let payload = w.finish().unwrap();
            assert_eq!(is_owned(&payload), Ok(owned));
            assert_eq!(is_orphan(&payload), Ok(left));
        }
        let persistent = new_table(Family::Ipv4, "owned", Ownership::Persistent).unwrap();
        let bytes = persistent.encode(1);
        let flags = &attrs(message(&bytes).payload, 4)[&NFTA_TABLE_FLAGS];
        assert_eq!(flags[..], [0, 0, 0, 6]);
    }

    #[test]
    fn a_refill_flushes_and_keeps_the_counters_that_stay() {
        let mut next = table();
        next.rules
            .retain(|rule| rule.vip.family() == Family::Ipv4 && rule.listen == 53);
        next.rules.insert(rule(
            "192.0.2.54/32",
            IPPROTO_TCP,
            (25, 2525),
            "mail_tcp_25",
        ));
        let batch = replace(
            &next,
            &installed(&table()),
            &BTreeSet::new(),
            Ownership::Owner,
        )
        .unwrap();
        assert_eq!(
            kinds(&batch),
            [
                NFNL_MSG_BATCH_BEGIN,
                NFT_MSG_DELRULE,
                NFT_MSG_NEWOBJ, // mail_tcp_25
                NFT_MSG_NEWRULE,
                NFT_MSG_NEWRULE,
                NFT_MSG_NEWRULE,
                NFT_MSG_NEWRULE,
                NFT_MSG_DELOBJ,   // web_tcp_80
                NFT_MSG_DELTABLE, // IPv6 has no rule any more
                NFNL_MSG_BATCH_END,
            ]
        );
        assert_eq!(batch.acknowledged, 8);
    }

    #[test]
    fn nothing_to_do_is_an_empty_batch() {
        let none = NatTable::default();
        let batch = replace(
            &none,
            &InstalledTables::new(),
            &BTreeSet::new(),
            Ownership::Owner,
        )
        .unwrap();
        assert!(batch.is_empty);
    }

    #[test]
    fn a_stale_table_is_deleted_in_the_same_batch() {
        let stale_families = BTreeSet::from([Family::Ipv4, Family::Ipv6]);
        let mut table = table();
        table.rules.retain(|rule| rule.vip.family() == Family::Ipv4);
        let batch = replace(
            &table,
            &InstalledTables::new(),
            &stale_families,
            Ownership::Owner,
        )
        .unwrap();
        let kinds = kinds(&batch);
        assert_eq!(kinds[1..3], [NFT_MSG_DELTABLE, NFT_MSG_NEWTABLE]);
        assert_eq!(kinds[kinds.len() - 2], NFT_MSG_DELTABLE);
    }

    #[test]
    fn counters_are_read() {
        let golden = golden("nft-list-counters");
        let ours = counters(Family::Ipv4, "sidecast").unwrap().encode(1);
        let requests = golden.requests();
        assert_eq!(message(&ours).payload, requests[0].payload);
        let answers = golden.answers();
        let all: Vec<Counter> = answers
            .iter()
            .filter(|m| m.kind == SUBSYSTEM << 8 | NFT_MSG_NEWOBJ)
            .map(|m| Counter::decode(m.payload).unwrap())
            .collect();
        let names: Vec<&str> = all.iter().map(|c| c.name.as_str()).collect();
        // `nft` asked for both families.
        assert_eq!(names, ["dns_udp_53", "web_tcp_80", "dns_udp_53"]);
        for message in answers {
            truncations(message.payload, Counter::decode);
            truncations(message.payload, is_owned);
        }
    }

    #[test]
    fn counter_names_are_words_that_nft_can_say_and_differ() {
        assert_eq!(counter_name("dns", IPPROTO_UDP, 53), "dns_udp_53");
        let odd = counter_name("d\u{e4}ns app", IPPROTO_TCP, 53);
        assert!(odd.starts_with("d_ns_app_"), "{odd}");
        assert_ne!(odd, counter_name("d\u{f6}ns app", IPPROTO_TCP, 53));
        assert!(counter_name("7up", IPPROTO_TCP, 1).starts_with("app_7up_"));
        assert!(counter_name(&"x".repeat(255), IPPROTO_TCP, 65535).len() < 128);
    }
}
