//! The rules of the table, expression by expression as `nft` writes them.

use super::super::super::attr::AttrWriter;
use super::super::super::message::{NLM_F_APPEND, NLM_F_CREATE, Request};
use super::super::super::{AF_INET, AF_INET6, NetlinkError};
use super::super::expression::{
    NFT_META_L4PROTO, NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER, NFTA_EXPR_DATA,
    NFTA_EXPR_NAME, NFTA_IMMEDIATE_DATA, NFTA_IMMEDIATE_DREG, NFTA_LIST_ELEM, REG_1, compare,
    equals, expression, meta, payload, payload_into,
};
use super::super::{
    IPPROTO_UDP, IPV4_DADDR_OFFSET, IPV6_DADDR_OFFSET, NFT_MSG_NEWRULE, NFTA_RULE_CHAIN,
    NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE,
};
use super::{PORTS, ProbeTable, Set, errors_of, inet, returned_by, vips_of};
use crate::net::Family;

/// How many rules the table has.
pub const RULES: usize = 13;

impl ProbeTable {
    pub(super) fn push_rules(&self, requests: &mut Vec<Request>) -> Result<(), NetlinkError> {
        for family in Family::ALL {
            requests.push(self.rule("returned", |w| count_returned(w, family))?);
        }
        requests.push(self.rule("returned", drop_packet)?);
        for family in Family::ALL {
            let quote = Quote::of(family);
            requests.push(self.rule(quote.chain, |w| drop_redirect(w, family))?);
            requests.push(self.rule(quote.chain, |w| {
                self.match_quote(w, &quote);
                count_error(w, family);
            })?);
            requests.push(self.rule(quote.chain, |w| {
                self.match_quote(w, &quote);
                source_in(w, &quote, vips_of(family));
                drop_packet(w);
            })?);
        }
        requests.push(self.rule("prerouting", |w| {
            meta(w, NFT_META_IIF);
            compare(w, NFT_CMP_NEQ, &LOOPBACK_IFINDEX.to_ne_bytes());
            self.match_probe(w);
            go_to(w, "returned");
        })?);
        for family in Family::ALL {
            let quote = Quote::of(family);
            requests.push(self.rule("prerouting", |w| {
                match_protocol(w, family, quote.protocol);
                go_to(w, quote.chain);
            })?);
        }
        requests.push(self.rule("output", |w| {
            self.match_probe(w);
            w.nest(NFTA_LIST_ELEM, |w| w.text(NFTA_EXPR_NAME, "notrack"));
        })?);
        Ok(())
    }

    fn rule(
        &self,
        chain: &str,
        expressions: impl FnOnce(&mut AttrWriter),
    ) -> Result<Request, NetlinkError> {
        let flags = NLM_F_CREATE | NLM_F_APPEND;
        inet("add a rule of the probes", NFT_MSG_NEWRULE, flags, |w| {
            w.text(NFTA_RULE_TABLE, &self.name);
            w.text(NFTA_RULE_CHAIN, chain);
            w.nest(NFTA_RULE_EXPRESSIONS, expressions);
        })
    }

    /// `udp dport @ports @th,64,64 TOKEN`.
    fn match_probe(&self, w: &mut AttrWriter) {
        meta(w, NFT_META_L4PROTO);
        equals(w, &[IPPROTO_UDP]);
        payload(w, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2);
        lookup(w, PORTS);
        payload(w, NFT_PAYLOAD_TRANSPORT_HEADER, UDP_HEADER, 8);
        equals(w, &self.token.to_be_bytes());
    }

    /// The token in a quoted probe.
    fn match_quote(&self, w: &mut AttrWriter, quote: &Quote) {
        payload(w, NFT_PAYLOAD_TRANSPORT_HEADER, quote.token, 8);
        equals(w, &self.token.to_be_bytes());
    }
}

/// Offsets, in bytes, of the fields of an ICMP error and of the probe that it quotes, from the start of the
/// ICMP header unless noted.
struct Quote {
    chain: &'static str,
    /// `IPPROTO_ICMP`, `IPPROTO_ICMPV6`.
    protocol: u8,
    redirect: u8,
    addr_len: u8,
    /// The error's source, in its IP header.
    source: u32,
    /// The destination of the quoted packet.
    destination: u32,
    token: u32,
}

impl Quote {
    fn of(family: Family) -> Self {
        // The ICMP header and the IP header of the quoted packet.
        let (v4, v6) = (8 + 20, 8 + 40);
        match family {
            Family::Ipv4 => Self {
                chain: "icmp4",
                protocol: IPPROTO_ICMP,
                redirect: 5,
                addr_len: 4,
                source: 12,
                destination: 8 + IPV4_DADDR_OFFSET,
                token: v4 + UDP_HEADER,
            },
            Family::Ipv6 => Self {
                chain: "icmp6",
                protocol: IPPROTO_ICMPV6,
                redirect: 137,
                addr_len: 16,
                source: 8,
                destination: 8 + IPV6_DADDR_OFFSET,
                token: v6 + UDP_HEADER,
            },
        }
    }
}

/// `counter name ip daddr . @th,128,16 map @returned4`.
fn count_returned(w: &mut AttrWriter, family: Family) {
    match_protocol(w, family, IPPROTO_UDP);
    let (offset, length) = match family {
        Family::Ipv4 => (IPV4_DADDR_OFFSET, 4),
        Family::Ipv6 => (IPV6_DADDR_OFFSET, 16),
    };
    let mut key = Concatenation::default();
    key.load(w, NFT_PAYLOAD_NETWORK_HEADER, offset, length);
    key.load(w, NFT_PAYLOAD_TRANSPORT_HEADER, TAG_OFFSET, 2);
    let map = returned_by(family);
    expression(w, "objref", |w| {
        w.u32_be(NFTA_OBJREF_SET_SREG, REG_1);
        w.bytes(NFTA_OBJREF_SET_NAME, map.name.as_bytes());
        w.u32_be(NFTA_OBJREF_SET_ID, map.id);
    });
}

/// `icmp type redirect @th,192,32 @vips4 drop`: the destination of the quoted packet, and in ICMPv6 the
/// destination that the redirect is about (RFC 4861 §4.5), have the same offset.
fn drop_redirect(w: &mut AttrWriter, family: Family) {
    let quote = Quote::of(family);
    payload(w, NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1);
    equals(w, &[quote.redirect]);
    payload(w, NFT_PAYLOAD_TRANSPORT_HEADER, REDIRECTED, quote.addr_len);
    lookup(w, vips_of(family));
    drop_packet(w);
}

/// `update @errors4 { @th,192,32 . @th,352,16 . ip saddr . icmp type . icmp code counter }`.
fn count_error(w: &mut AttrWriter, family: Family) {
    let quote = Quote::of(family);
    let mut key = Concatenation::default();
    let transport = NFT_PAYLOAD_TRANSPORT_HEADER;
    key.load(w, transport, quote.destination, quote.addr_len);
    key.load(w, transport, quote.token + 8, 2);
    key.load(w, NFT_PAYLOAD_NETWORK_HEADER, quote.source, quote.addr_len);
    key.load(w, transport, 0, 1);
    key.load(w, transport, 1, 1);
    let set = errors_of(family);
    expression(w, "dynset", |w| {
        w.u32_be(NFTA_DYNSET_SREG_KEY, REG_1);
        w.u32_be(NFTA_DYNSET_OP, NFT_DYNSET_OP_UPDATE);
        w.text(NFTA_DYNSET_SET_NAME, set.name);
        w.u32_be(NFTA_DYNSET_SET_ID, set.id);
        w.nest(NFTA_DYNSET_EXPR, |w| {
            w.text(NFTA_EXPR_NAME, "counter");
            w.nest(NFTA_EXPR_DATA, |_| {});
        });
    });
}

fn source_in(w: &mut AttrWriter, quote: &Quote, set: Set) {
    payload(w, NFT_PAYLOAD_NETWORK_HEADER, quote.source, quote.addr_len);
    lookup(w, set);
}

fn match_protocol(w: &mut AttrWriter, family: Family, protocol: u8) {
    meta(w, NFT_META_NFPROTO);
    equals(
        w,
        &[match family {
            Family::Ipv4 => AF_INET,
            Family::Ipv6 => AF_INET6,
        }],
    );
    meta(w, NFT_META_L4PROTO);
    equals(w, &[protocol]);
}

/// Loads the fields of a key into consecutive 4-byte registers.
#[derive(Default)]
struct Concatenation {
    /// Registers in use.
    used: u32,
}

impl Concatenation {
    fn load(&mut self, w: &mut AttrWriter, base: u32, offset: u32, length: u8) {
        // The 16-byte registers overlap the 4-byte ones and have numbers of their own.
        let register = match self.used % 4 {
            0 => REG_1 + self.used / 4,
            _ => NFT_REG32_00 + self.used,
        };
        payload_into(w, register, base, offset, length);
        self.used += u32::from(length).div_ceil(4);
    }
}

fn lookup(w: &mut AttrWriter, set: Set) {
    expression(w, "lookup", |w| {
        w.u32_be(NFTA_LOOKUP_SREG, REG_1);
        w.text(NFTA_LOOKUP_SET, set.name);
        w.u32_be(NFTA_LOOKUP_SET_ID, set.id);
    });
}

fn go_to(w: &mut AttrWriter, chain: &str) {
    verdict(w, NFT_GOTO, Some(chain));
}

fn drop_packet(w: &mut AttrWriter) {
    verdict(w, NF_DROP, None);
}

fn verdict(w: &mut AttrWriter, code: i32, chain: Option<&str>) {
    expression(w, "immediate", |w| {
        w.u32_be(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
        w.nest(NFTA_IMMEDIATE_DATA, |w| {
            w.nest(NFTA_DATA_VERDICT, |w| {
                w.bytes(NFTA_VERDICT_CODE, &code.to_be_bytes());
                if let Some(chain) = chain {
                    w.text(NFTA_VERDICT_CHAIN, chain);
                }
            });
        });
    });
}

/// Bytes.
const UDP_HEADER: u32 = 8;
/// Behind the UDP header and the token.
const TAG_OFFSET: u32 = UDP_HEADER + 8;
const REDIRECTED: u32 = 24;
/// `lo` has this index in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_ICMPV6: u8 = 58;
const NFT_META_IIF: u32 = 4;
const NFT_META_NFPROTO: u32 = 15;
const NFT_CMP_NEQ: u32 = 1;
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG32_00: u32 = 8;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NF_DROP: i32 = 0;
const NFT_GOTO: i32 = -4;
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_SET_ID: u16 = 4;
const NFTA_OBJREF_SET_SREG: u16 = 3;
const NFTA_OBJREF_SET_NAME: u16 = 4;
const NFTA_OBJREF_SET_ID: u16 = 5;
const NFTA_DYNSET_SET_NAME: u16 = 1;
const NFTA_DYNSET_SET_ID: u16 = 2;
const NFTA_DYNSET_OP: u16 = 3;
const NFTA_DYNSET_SREG_KEY: u16 = 4;
const NFTA_DYNSET_EXPR: u16 = 7;
const NFT_DYNSET_OP_UPDATE: u32 = 1;
