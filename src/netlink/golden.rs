//! Bytes of the real tools, from `tests/data/netlink/*.hex`: a first comment with the command, then one
//! datagram after the other, `>` sent by the tool and `<` received.

use super::attr::{AttrWriter, Attrs};
use super::message::{Message, Messages, Request};
use std::collections::BTreeMap;
use std::path::Path;

/// The datagrams of one run of a tool.
pub struct Golden {
    pub sent: Vec<Vec<u8>>,
    pub received: Vec<Vec<u8>>,
}

/// Every file, by its name without the ending.
pub fn all() -> BTreeMap<String, Golden> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/netlink");
    let files: BTreeMap<String, Golden> = std::fs::read_dir(&folder)
        .expect("the folder of golden bytes")
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "hex"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, parse(&std::fs::read_to_string(path).unwrap()))
        })
        .collect();
    assert!(files.len() > 10, "golden bytes are missing: {folder:?}");
    files
}

/// The file of this name.
pub fn golden(name: &str) -> Golden {
    all()
        .remove(name)
        .unwrap_or_else(|| panic!("no {name}.hex"))
}

fn parse(text: &str) -> Golden {
    assert!(text.starts_with("# "), "the command line comes first");
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    let mut last_sent = true;
    for line in text
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
    {
        let (mark, hex) = line.split_at(2);
        let bytes = (0..hex.len() / 2)
            .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex digits"));
        match mark {
            "> " => sent.push(Vec::new()),
            "< " => received.push(Vec::new()),
            _ => {}
        }
        last_sent = match mark {
            "> " => true,
            "< " => false,
            _ => last_sent,
        };
        let all = if last_sent { &mut sent } else { &mut received };
        all.last_mut().unwrap().extend(bytes);
    }
    Golden { sent, received }
}

impl Golden {
    /// The messages that the tool sent.
    pub fn requests(&self) -> Vec<Message<'_>> {
        // `ip` sends more of its buffer than the message: the rest is ignored.
        let all = self
            .sent
            .iter()
            .flat_map(|d| Messages::new(d).map_while(Result::ok));
        all.collect()
    }

    /// The messages that the kernel sent.
    pub fn answers(&self) -> Vec<Message<'_>> {
        let all = self.received.iter().flat_map(|d| Messages::new(d));
        all.map(Result::unwrap).collect()
    }
}

/// Our request as sent, with sequence number 1.
pub fn encoded(request: &Request) -> Vec<u8> {
    request.encode(1)
}

/// The first message of a datagram.
pub fn message(bytes: &[u8]) -> Message<'_> {
    Messages::new(bytes).next().unwrap().unwrap()
}

/// A payload's attributes behind a fixed header of `header` bytes.
pub fn attrs(payload: &[u8], header: usize) -> BTreeMap<u16, Vec<u8>> {
    Attrs::new(&payload[header..])
        .map(|attr| attr.unwrap())
        .map(|attr| (attr.kind, attr.bytes().to_vec()))
        .collect()
}

/// Same kind, flags, header and attributes; `but` are kinds that we add and the tool does not.
pub fn same(ours: &Request, tool: &Message<'_>, header: usize, but: &[u16]) {
    let bytes = encoded(ours);
    let ours = message(&bytes);
    assert_eq!((ours.kind, ours.flags), (tool.kind, tool.flags));
    assert_eq!(ours.payload[..header], tool.payload[..header], "header");
    let mut left = attrs(ours.payload, header);
    left.retain(|kind, _| !but.contains(kind));
    assert_eq!(left, attrs(tool.payload, header));
}

/// No truncation of a payload may panic, and none may be read as if it were whole.
pub fn truncations<T>(payload: &[u8], decode: impl Fn(&[u8]) -> T) {
    for end in 0..payload.len() {
        decode(&payload[..end]);
    }
}

#[test]
fn every_golden_datagram_is_a_row_of_messages_and_no_truncation_panics() {
    for (name, golden) in all() {
        for datagram in &golden.received {
            for message in Messages::new(datagram) {
                let message = message.unwrap_or_else(|e| panic!("{name}: {e}"));
                message.reply().unwrap_or_else(|e| panic!("{name}: {e}"));
            }
            for end in 0..datagram.len() {
                for message in Messages::new(&datagram[..end]).map_while(Result::ok) {
                    let _ = message.reply();
                }
            }
        }
    }
}

#[test]
fn the_writer_writes_what_the_reader_read() {
    for (name, golden) in all()
        .iter()
        .filter(|(name, _)| name.starts_with("ip-addr-add"))
    {
        for message in golden.requests() {
            let mut w = AttrWriter::new();
            w.raw(&message.payload[..8]);
            for attr in Attrs::new(&message.payload[8..]) {
                let attr = attr.unwrap();
                w.bytes(attr.kind, attr.bytes());
            }
            assert_eq!(w.finish().unwrap(), message.payload, "{name}");
        }
    }
}

#[test]
fn no_broken_payload_panics() {
    use super::{address, conntrack, link, neighbor, nftables, route};
    let mut state = 7u64;
    let mut chance = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % below
    };
    for golden in all().values() {
        for datagram in golden.received.iter().filter(|d| !d.is_empty()) {
            for _ in 0..50 {
                let mut broken = datagram.clone();
                for _ in 0..4 {
                    let at = chance(broken.len());
                    broken[at] = u8::try_from(chance(256)).unwrap();
                }
                for message in Messages::new(&broken).map_while(Result::ok) {
                    let _ = message.reply();
                    let _ = address::Address::decode(message.payload);
                    let _ = link::Link::decode(message.payload);
                    let _ = route::Route::decode(message.payload).map(|r| r.map(|r| r.next_hops()));
                    let _ = neighbor::Neighbor::decode(message.payload);
                    let _ = nftables::Counter::decode(message.payload);
                    let _ = nftables::ListedRule::decode(message.payload);
                    let _ = nftables::seen::SeenAddress::decode(message.payload);
                    let _ = nftables::is_owned(message.payload);
                    let _ = nftables::probes::returned(message.payload);
                    for family in crate::net::Family::ALL {
                        let _ = nftables::probes::ProbeError::decode(family, message.payload);
                    }
                    let _ = conntrack::Tuple::decode(message.payload);
                }
            }
        }
    }
}
