//! Sets of routes into as few UPDATEs as hold them (RFC 4271 §4.3, RFC 4760): withdrawals first, then
//! one attribute set after the other.
//!
//! IPv4 routes with an IPv4 next hop use the NLRI field; IPv6 routes, and IPv4 ones over an IPv6 next
//! hop (RFC 8950), use MP_REACH_NLRI with a single 16-byte next hop, which every receiver takes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::framer::HEADER_LEN;
use super::update::{Body, reach_value, write_prefix};
use super::{EncodeContext, Frame, Negotiated, PathAttributes, Type};
use crate::net::{Family, Prefix};
use crate::wire::Writer;

/// One UPDATE, ready to send, and the routes it speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    pub bytes: Vec<u8>,
    pub withdrawn: Vec<Prefix>,
    pub announced: Vec<Prefix>,
}

/// Makes UPDATEs one at a time, withdrawals first, so that whoever sends can stop when there is no
/// room and remember what has left.
#[derive(Debug)]
pub struct Packer {
    max_len: usize,
    batches: VecDeque<Batch>,
}

impl Packer {
    /// `attributes` are taken as they are to be seen by the peer, but LOCAL_PREF goes out on iBGP only.
    /// Routes that [`sendable`] refuses, and withdrawals of families not negotiated, are left out.
    pub fn new(
        withdrawn: &BTreeSet<Prefix>,
        announced: &BTreeMap<Prefix, PathAttributes>,
        negotiated: &Negotiated,
        max_len: usize,
    ) -> Self {
        let cx = EncodeContext::from(negotiated);
        let mut batches = VecDeque::new();
        for family in &negotiated.families {
            // Where IPv4 may come in MP_REACH_NLRI it also goes in MP_UNREACH_NLRI.
            let classic = *family == Family::Ipv4 && !negotiated.extended_next_hop;
            let of_family = withdrawn.iter().filter(|p| p.family() == *family);
            batches.push_back(Batch {
                carrier: if classic {
                    Carrier::Withdrawn
                } else {
                    Carrier::Unreach(*family)
                },
                attributes: Vec::new(),
                prefixes: of_family.copied().collect(),
            });
        }
        let mut groups = BTreeMap::<_, VecDeque<Prefix>>::new();
        for (prefix, attributes) in announced {
            if let Some(carrier) = carrier(prefix, attributes, negotiated) {
                let group = groups.entry((attributes, carrier)).or_default();
                group.push_back(*prefix);
            }
        }
        let announcements = groups
            .into_iter()
            .map(|((attributes, carrier), prefixes)| Batch {
                carrier,
                attributes: carrier.attributes(attributes, &cx),
                prefixes,
            });
        batches.extend(announcements);
        Self {
            max_len: max_len.min(negotiated.max_len()),
            batches,
        }
    }
}

impl Iterator for Packer {
    type Item = Packed;

    fn next(&mut self) -> Option<Packed> {
        loop {
            let packed = self.batches.front_mut()?.next_message(self.max_len);
            match packed {
                Some(packed) => return Some(packed),
                None => self.batches.pop_front(),
            };
        }
    }
}

/// The bytes alone of what a [`Packer`] makes.
pub fn pack(
    withdrawn: &BTreeSet<Prefix>,
    announced: &BTreeMap<Prefix, PathAttributes>,
    negotiated: &Negotiated,
    max_len: usize,
) -> impl Iterator<Item = Vec<u8>> + use<> {
    Packer::new(withdrawn, announced, negotiated, max_len).map(|packed| packed.bytes)
}

/// Whether the session can carry this route: its family is negotiated, the next hop is of that family
/// (or IPv6 for IPv4 where RFC 8950 is negotiated) and it fits a message of `max_len` bytes.
pub fn sendable(
    prefix: &Prefix,
    attributes: &PathAttributes,
    negotiated: &Negotiated,
    max_len: usize,
) -> bool {
    carrier(prefix, attributes, negotiated).is_some_and(|carrier| {
        let attributes = carrier.attributes(attributes, &negotiated.into());
        let length = carrier.overhead(&attributes) + wire_len(prefix);
        length <= max_len.min(negotiated.max_len())
    })
}

/// "That was all of this family" (RFC 4724 §2).
pub fn end_of_rib(family: Family) -> Vec<u8> {
    let body = Body {
        unreach_family: (family == Family::Ipv6).then_some(family),
        ..Body::default()
    };
    encode(&body).expect("an empty UPDATE fits")
}

/// `None` for a body longer than any length can say.
fn encode(body: &Body) -> Option<Vec<u8>> {
    Frame::encode(Type::Update, &body.encode().ok()?).ok()
}

/// Routes that can share a message.
#[derive(Debug)]
struct Batch {
    carrier: Carrier,
    /// All but MP_REACH_NLRI.
    attributes: Vec<u8>,
    prefixes: VecDeque<Prefix>,
}

/// The part of an UPDATE that the routes go into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Carrier {
    Withdrawn,
    Unreach(Family),
    Nlri(Ipv4Addr),
    Reach(Family, Ipv6Addr),
}

/// How to announce a route; `None` where the session cannot.
fn carrier(
    prefix: &Prefix,
    attributes: &PathAttributes,
    negotiated: &Negotiated,
) -> Option<Carrier> {
    let family = prefix.family();
    if !negotiated.families.contains(&family) || attributes.next_hop.is_unspecified() {
        return None;
    }
    match (family, attributes.next_hop) {
        (Family::Ipv4, IpAddr::V4(addr)) => Some(Carrier::Nlri(addr)),
        (Family::Ipv4, IpAddr::V6(_)) if !negotiated.extended_next_hop => None,
        (_, IpAddr::V6(addr)) => Some(Carrier::Reach(family, addr)),
        (Family::Ipv6, IpAddr::V4(_)) => None,
    }
}

impl Carrier {
    fn attributes(self, attributes: &PathAttributes, cx: &EncodeContext) -> Vec<u8> {
        let next_hop = match self {
            Self::Nlri(addr) => Some(addr),
            _ => None,
        };
        let mut w = Writer::new();
        attributes.write(&mut w, cx, next_hop);
        // A single attribute over 65535 bytes: pass any limit, so that the route is left out.
        w.finish()
            .unwrap_or_else(|_| vec![0; usize::from(u16::MAX)])
    }

    /// Bytes of a message that are not routes; an attribute with routes counts with a two-byte length.
    fn overhead(self, attributes: &[u8]) -> usize {
        let own = match self {
            Self::Withdrawn | Self::Nlri(_) => 0,
            Self::Unreach(_) => 4 + 3,
            Self::Reach(..) => 4 + 3 + 1 + 16 + 1,
        };
        HEADER_LEN + 2 + 2 + attributes.len() + own
    }
}

impl Batch {
    /// As many routes as fit; `None` when none is left or the next one never fits.
    fn next_message(&mut self, max_len: usize) -> Option<Packed> {
        let mut room = max_len.checked_sub(self.carrier.overhead(&self.attributes))?;
        let mut prefixes = Vec::new();
        let mut bytes = Vec::new();
        while let Some(prefix) = self.prefixes.front() {
            let Some(less) = room.checked_sub(wire_len(prefix)) else {
                break;
            };
            room = less;
            write_prefix(&mut bytes, prefix);
            prefixes.extend(self.prefixes.pop_front());
        }
        if prefixes.is_empty() {
            return None;
        }
        let mut body = Body {
            attributes: self.attributes.clone(),
            ..Body::default()
        };
        let mut withdrawal = false;
        match self.carrier {
            Carrier::Withdrawn => {
                withdrawal = true;
                body.withdrawn = bytes;
            }
            Carrier::Unreach(family) => {
                withdrawal = true;
                body.unreach_family = Some(family);
                body.unreach = bytes;
            }
            Carrier::Nlri(_) => body.nlri = bytes,
            Carrier::Reach(family, addr) => body.reach = reach_value(family, addr, None, &bytes),
        }
        let bytes = encode(&body)?;
        let (withdrawn, announced) = if withdrawal {
            (prefixes, Vec::new())
        } else {
            (Vec::new(), prefixes)
        };
        Some(Packed {
            bytes,
            withdrawn,
            announced,
        })
    }
}

fn wire_len(prefix: &Prefix) -> usize {
    1 + usize::from(prefix.len()).div_ceil(8)
}
