//! The named counters of the NAT rules.

use super::super::NetlinkError;
use super::super::attr::{Attr, Attrs};
use super::super::message::Request;
use super::{
    Family, NFT_MSG_GETOBJ, NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS, NFTA_OBJ_DATA, NFTA_OBJ_NAME,
    NFTA_OBJ_TABLE, NLM_F_DUMP, Reader, WireError, request,
};

/// Packets and bytes of a named counter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    pub name: String,
    pub packets: u64,
    pub bytes: u64,
}

/// All counters of one table.
pub fn counters(family: Family, table: &str) -> Result<Request, NetlinkError> {
    request(
        "read the NAT counters",
        NFT_MSG_GETOBJ,
        NLM_F_DUMP,
        family,
        |w| {
            w.text(NFTA_OBJ_TABLE, table);
        },
    )
}

impl Counter {
    /// From the answers to [`counters`].
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(payload);
        r.take(4)?;
        let mut counter = Self::default();
        for attr in Attrs::new(r.rest()) {
            let attr = attr?;
            match attr.kind {
                NFTA_OBJ_NAME => counter.name = attr.text(),
                NFTA_OBJ_DATA => counter.read(attr)?,
                _ => {}
            }
        }
        Ok(counter)
    }

    fn read(&mut self, data: Attr<'_>) -> Result<(), WireError> {
        for attr in data.nested() {
            let attr = attr?;
            match attr.kind {
                NFTA_COUNTER_BYTES => self.bytes = attr.u64_be()?,
                NFTA_COUNTER_PACKETS => self.packets = attr.u64_be()?,
                _ => {}
            }
        }
        Ok(())
    }
}
