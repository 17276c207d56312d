//! Encoding of an UPDATE (RFC 4271 §4.3, RFC 4760). Received ones are checked in `validate`.

use std::net::{IpAddr, Ipv6Addr};

use super::attribute::{self, OPTIONAL};
use super::{AfiSafi, AttributeCode};
use crate::net::{Family, Prefix};
use crate::wire::{TooLong, Writer};

/// The encoded fields of an UPDATE.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub withdrawn: Vec<u8>,
    /// The family of `unreach`; `None`: no MP_UNREACH_NLRI.
    pub unreach_family: Option<Family>,
    pub unreach: Vec<u8>,
    /// The value of MP_REACH_NLRI; empty for none.
    pub reach: Vec<u8>,
    /// All other attributes.
    pub attributes: Vec<u8>,
    pub nlri: Vec<u8>,
}

impl Body {
    /// RFC 7606 §5.1: MP_REACH_NLRI or MP_UNREACH_NLRI come first.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        let mut w = Writer::new();
        w.len_u16(|w| w.bytes(&self.withdrawn));
        w.len_u16(|w| {
            if !self.reach.is_empty() {
                attribute::write(w, OPTIONAL, AttributeCode::MP_REACH_NLRI, &self.reach);
            }
            if let Some(family) = self.unreach_family {
                let value = [&family_bytes(family), self.unreach.as_slice()].concat();
                attribute::write(w, OPTIONAL, AttributeCode::MP_UNREACH_NLRI, &value);
            }
            w.bytes(&self.attributes);
        });
        w.bytes(&self.nlri);
        w.finish()
    }
}

/// The value of MP_REACH_NLRI (RFC 4760 §3).
pub(super) fn reach_value(family: Family, next_hop: Ipv6Addr, nlri: &[u8]) -> Vec<u8> {
    let mut value = family_bytes(family).to_vec();
    value.push(16);
    value.extend_from_slice(&next_hop.octets());
    value.push(0);
    value.extend_from_slice(nlri);
    value
}

/// AFI and SAFI.
fn family_bytes(family: Family) -> [u8; 3] {
    let AfiSafi { afi, safi } = family.into();
    let [high, low] = afi.to_be_bytes();
    [high, low, safi]
}

/// Length in bits, then as many bytes as hold them (RFC 4271 §4.3).
pub(super) fn write_prefix(to: &mut Vec<u8>, prefix: &Prefix) {
    let bytes = usize::from(prefix.len()).div_ceil(8);
    to.push(prefix.len());
    match prefix.addr() {
        IpAddr::V4(addr) => to.extend(addr.octets().into_iter().take(bytes)),
        IpAddr::V6(addr) => to.extend(addr.octets().into_iter().take(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden::prefix;
    use super::*;

    /// RFC 4271 §4.3: as many bytes as hold the bits.
    #[test]
    fn a_prefix_takes_no_byte_too_many() {
        for (text, length) in [
            ("0.0.0.0/0", 1),
            ("10.0.0.0/8", 2),
            ("10.0.0.0/9", 3),
            ("::/0", 1),
        ] {
            let mut bytes = Vec::new();
            write_prefix(&mut bytes, &prefix(text));
            assert_eq!(bytes.len(), length, "{text}");
        }
    }
}
