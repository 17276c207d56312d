//! Whole messages from `tests/data/bgp/*.hex`: a first comment that says what it is, then hexadecimal
//! digits, written down from the field diagrams of the RFCs or captured from other speakers. Each is
//! read, cut short at every byte, and written again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::net::{Asn, Prefix, RouterId};
use crate::small_set::SmallSet;

mod tests;

/// By name, without `.hex`.
pub(super) fn load() -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bgp");
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "hex") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let (comment, digits) = text.split_once('\n').unwrap();
        assert!(comment.starts_with("# "), "{name}: no comment first");
        all.insert(name, hex(digits));
    }
    assert!(!all.is_empty(), "{} holds no message", folder.display());
    all
}

/// Spaces and line ends do not count.
pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    assert!(digits.len().is_multiple_of(2), "half a byte in {text}");
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

pub(super) fn asn(value: u32) -> Asn {
    Asn::new(value).unwrap()
}

pub(super) fn id(text: &str) -> RouterId {
    text.parse().unwrap()
}

pub(super) fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// AS 65000, identifier 10.0.0.1, with a peer of AS 65001; every capability is negotiated.
pub(super) fn negotiated() -> Negotiated {
    Negotiated {
        session: SessionType::Ebgp,
        local_as: asn(65000),
        peer_as: asn(65001),
        local_router_id: id("10.0.0.1"),
        peer_router_id: id("10.0.0.2"),
        hold_time: Some(Duration::from_secs(90)),
        families: SmallSet::from(Family::ALL),
        four_octet_as: true,
        route_refresh: true,
        enhanced_route_refresh: true,
        extended_message: false,
        extended_next_hop: true,
        graceful_restart: None,
        hostname: None,
        peer_capabilities: Vec::new(),
    }
}

pub(super) fn cx() -> DecodeContext {
    DecodeContext::established(&negotiated())
}

/// The one frame in `bytes`.
pub(super) fn frame(bytes: &[u8]) -> Frame {
    let mut framer = Framer::new();
    framer.push(bytes);
    let frame = framer.next(MAX_LEN).unwrap().unwrap();
    assert_eq!(framer.buffered(), 0);
    frame
}
