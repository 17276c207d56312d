//! What the kernel counted: the counters and the ICMP errors of the table.

use super::super::super::NetlinkError;
use super::super::super::attr::{Attr, Attrs};
use super::super::super::message::{NLM_F_DUMP, Request};
use super::super::expression::NFTA_EXPR_DATA;
use super::super::{
    Counter, NFT_MSG_GETOBJ, NFT_MSG_GETRULE, NFTA_COUNTER_PACKETS, NFTA_OBJ_TABLE,
    NFTA_RULE_TABLE, Reader, WireError,
};
use super::{
    NFT_MSG_GETSETELEM, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE, Probe, ProbeError, errors_of, inet,
};
use crate::net::Family;
use std::net::IpAddr;

/// Asks for all counters of the table; see [`returned`].
pub fn counters(name: &str) -> Result<Request, NetlinkError> {
    let read = "read the counters of the probes";
    inet(read, NFT_MSG_GETOBJ, NLM_F_DUMP, |w| {
        w.text(NFTA_OBJ_TABLE, name);
    })
}

/// From an answer to [`counters`]: how many of these probes came back; `None` for other objects.
pub fn returned(payload: &[u8]) -> Result<Option<(Probe, u64)>, WireError> {
    let counter = Counter::decode(payload)?;
    Ok(Probe::from_counter_name(&counter.name).map(|probe| (probe, counter.packets)))
}

/// Asks for the ICMP errors of one family; see [`ProbeError::decode`].
pub fn errors(name: &str, family: Family) -> Result<Request, NetlinkError> {
    let read = "read the ICMP errors of the probes";
    inet(read, NFT_MSG_GETSETELEM, NLM_F_DUMP, |w| {
        w.text(NFTA_SET_ELEM_LIST_TABLE, name);
        w.text(NFTA_SET_ELEM_LIST_SET, errors_of(family).name);
    })
}

/// Asks for the rules of the table; there are `RULES` of them.
pub fn list_rules(name: &str) -> Result<Request, NetlinkError> {
    let list = "list the rules of the probes";
    inet(list, NFT_MSG_GETRULE, NLM_F_DUMP, |w| {
        w.text(NFTA_RULE_TABLE, name);
    })
}

impl Probe {
    fn read(r: &mut Reader<'_>, family: Family) -> Result<Self, WireError> {
        let vip = read_addr(r, family)?;
        let tag = r.u16()?;
        r.take(2)?;
        Ok(Self { vip, tag })
    }

    pub(super) fn from_counter_name(name: &str) -> Option<Self> {
        let (tag, vip) = name.strip_prefix("peer")?.split_once('_')?;
        Some(Self {
            vip: vip.replace('-', ":").parse().ok()?,
            tag: tag.parse().ok()?,
        })
    }
}

impl ProbeError {
    /// From one of the answers to [`errors`].
    pub fn decode(family: Family, payload: &[u8]) -> Result<Vec<Self>, WireError> {
        let mut r = Reader::new(payload);
        r.take(4)?;
        let mut errors = Vec::new();
        for attr in Attrs::new(r.rest()) {
            let attr = attr?;
            if attr.kind == NFTA_SET_ELEM_LIST_ELEMENTS {
                for element in attr.nested() {
                    errors.extend(Self::element(family, element?)?);
                }
            }
        }
        Ok(errors)
    }

    fn element(family: Family, element: Attr<'_>) -> Result<Option<Self>, WireError> {
        let (mut error, mut count) = (None, 0);
        for attr in element.nested() {
            let attr = attr?;
            match attr.kind {
                NFTA_SET_ELEM_KEY => {
                    for value in attr.nested() {
                        error = Some(Self::read(value?.reader(), family)?);
                    }
                }
                NFTA_SET_ELEM_EXPR => count = packets(attr)?,
                _ => {}
            }
        }
        Ok(error.map(|error: Self| Self { count, ..error }))
    }

    fn read(mut r: Reader<'_>, family: Family) -> Result<Self, WireError> {
        let probe = Probe::read(&mut r, family)?;
        let from = read_addr(&mut r, family)?;
        let kind = r.u8()?;
        r.take(3)?;
        let code = r.u8()?;
        Ok(Self {
            probe,
            from,
            kind,
            code,
            count: 0,
        })
    }
}

/// The packets of a `counter` expression.
fn packets(counter: Attr<'_>) -> Result<u64, WireError> {
    let mut packets = 0;
    for attr in counter.nested() {
        let attr = attr?;
        if attr.kind == NFTA_EXPR_DATA {
            for attr in attr.nested() {
                let attr = attr?;
                if attr.kind == NFTA_COUNTER_PACKETS {
                    packets = attr.u64_be()?;
                }
            }
        }
    }
    Ok(packets)
}

fn read_addr(r: &mut Reader<'_>, family: Family) -> Result<IpAddr, WireError> {
    match family {
        Family::Ipv4 => r.array::<4>().map(IpAddr::from),
        Family::Ipv6 => r.array::<16>().map(IpAddr::from),
    }
}

const NFTA_SET_ELEM_EXPR: u16 = 7;
