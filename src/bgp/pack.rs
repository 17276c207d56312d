//! Packs routes into the fewest possible UPDATEs (RFC 4271 §4.3, RFC 4760): withdrawals first, then the
//! announcements grouped by attributes.
//!
//! IPv4 routes with an IPv4 next hop use the NLRI field; IPv6 routes, and IPv4 ones over an IPv6 next
//! hop (RFC 8950), use MP_REACH_NLRI with a single 16-byte next hop, which every receiver accepts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::framer::HEADER_LEN;
use super::update::{Body, reach_value, write_prefix};
use super::{EncodeContext, Frame, MessageType, Negotiated, PathAttributes};
use crate::net::{Family, Prefix};
use crate::wire::Writer;

/// One encoded UPDATE and the routes in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedUpdate {
    pub bytes: Vec<u8>,
    pub withdrawn: Vec<Prefix>,
    pub announced: Vec<Prefix>,
}

/// Yields UPDATEs one at a time, withdrawals first, so that the caller can stop when its send buffer is
/// full.
#[derive(Debug)]
pub struct Packer {
    max_len: usize,
    batches: VecDeque<Batch>,
}

impl Packer {
    /// `announced` has the attributes as they go on the wire, except that LOCAL_PREF is sent on iBGP only.
    /// Routes that [`is_sendable`] refuses, and withdrawals of families not negotiated, are left out.
    pub fn new(
        withdrawn: &BTreeSet<Prefix>,
        announced: &BTreeMap<Prefix, PathAttributes>,
        negotiated: &Negotiated,
        max_len: usize,
    ) -> Self {
        let cx = EncodeContext::from(negotiated);
        let mut batches = VecDeque::new();
        for family in &negotiated.families {
            // IPv4 routes that may be announced in MP_REACH_NLRI are withdrawn in MP_UNREACH_NLRI.
            let classic = *family == Family::Ipv4 && !negotiated.extended_next_hop;
            let of_family = withdrawn.iter().filter(|p| p.family() == *family);
            batches.push_back(Batch {
                field: if classic {
                    NlriField::Withdrawn
                } else {
                    NlriField::Unreach(*family)
                },
                attributes: Vec::new(),
                prefixes: of_family.copied().collect(),
            });
        }
        let mut groups = BTreeMap::<_, VecDeque<Prefix>>::new();
        for (prefix, attributes) in announced {
            if let Some(field) = field(prefix, attributes, negotiated) {
                let group = groups.entry((attributes, field)).or_default();
                group.push_back(*prefix);
            }
        }
        let announcements = groups
            .into_iter()
            .map(|((attributes, field), prefixes)| Batch {
                field,
                attributes: field.attributes(attributes, &cx),
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
    type Item = PackedUpdate;

    fn next(&mut self) -> Option<PackedUpdate> {
        loop {
            let packed = self.batches.front_mut()?.next_message(self.max_len);
            match packed {
                Some(packed) => return Some(packed),
                None => self.batches.pop_front(),
            };
        }
    }
}

/// Whether the session can carry this route: its family is negotiated, the next hop is of that family
/// (or IPv6 for IPv4 where RFC 8950 is negotiated) and it fits a message of `max_len` bytes.
pub fn is_sendable(
    prefix: &Prefix,
    attributes: &PathAttributes,
    negotiated: &Negotiated,
    max_len: usize,
) -> bool {
    field(prefix, attributes, negotiated).is_some_and(|field| {
        let attributes = field.attributes(attributes, &negotiated.into());
        let length = field.overhead(&attributes) + wire_len(prefix);
        length <= max_len.min(negotiated.max_len())
    })
}

/// The End-of-RIB marker of a family (RFC 4724 §2).
pub fn end_of_rib(family: Family) -> Vec<u8> {
    let body = Body {
        unreach_family: (family == Family::Ipv6).then_some(family),
        ..Body::default()
    };
    encode(&body).expect("an empty UPDATE fits")
}

/// `None` for a body that does not fit its length fields.
fn encode(body: &Body) -> Option<Vec<u8>> {
    Frame::encode(MessageType::Update, &body.encode().ok()?).ok()
}

/// Routes that can share a message.
#[derive(Debug)]
struct Batch {
    field: NlriField,
    /// All but MP_REACH_NLRI.
    attributes: Vec<u8>,
    prefixes: VecDeque<Prefix>,
}

/// The part of an UPDATE that the routes go into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NlriField {
    Withdrawn,
    Unreach(Family),
    Nlri(Ipv4Addr),
    Reach(Family, Ipv6Addr),
}

/// How to announce a route; `None` where the session cannot.
fn field(
    prefix: &Prefix,
    attributes: &PathAttributes,
    negotiated: &Negotiated,
) -> Option<NlriField> {
    let family = prefix.family();
    if !negotiated.families.contains(&family) || attributes.next_hop.is_unspecified() {
        return None;
    }
    match (family, attributes.next_hop) {
        (Family::Ipv4, IpAddr::V4(addr)) => Some(NlriField::Nlri(addr)),
        (Family::Ipv4, IpAddr::V6(_)) if !negotiated.extended_next_hop => None,
        (_, IpAddr::V6(addr)) => Some(NlriField::Reach(family, addr)),
        (Family::Ipv6, IpAddr::V4(_)) => None,
    }
}

impl NlriField {
    fn attributes(self, attributes: &PathAttributes, cx: &EncodeContext) -> Vec<u8> {
        let next_hop = match self {
            Self::Nlri(addr) => Some(addr),
            _ => None,
        };
        let mut w = Writer::new();
        attributes.write(&mut w, cx, next_hop);
        // A single attribute over 65535 bytes: exceed any limit, so that the route is left out.
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
    fn next_message(&mut self, max_len: usize) -> Option<PackedUpdate> {
        let mut room = max_len.checked_sub(self.field.overhead(&self.attributes))?;
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
        match self.field {
            NlriField::Withdrawn => {
                withdrawal = true;
                body.withdrawn = bytes;
            }
            NlriField::Unreach(family) => {
                withdrawal = true;
                body.unreach_family = Some(family);
                body.unreach = bytes;
            }
            NlriField::Nlri(_) => body.nlri = bytes,
            NlriField::Reach(family, addr) => body.reach = reach_value(family, addr, &bytes),
        }
        let bytes = encode(&body)?;
        let (withdrawn, announced) = if withdrawal {
            (prefixes, Vec::new())
        } else {
            (Vec::new(), prefixes)
        };
        Some(PackedUpdate {
            bytes,
            withdrawn,
            announced,
        })
    }
}

fn wire_len(prefix: &Prefix) -> usize {
    1 + usize::from(prefix.len()).div_ceil(8)
}

#[cfg(test)]
mod tests {
    use super::super::golden::{addr, asn, frame, hex, negotiated, prefix};
    use super::super::reader::{Decoded, Update, decode};
    use super::super::{AsPath, DecodeContext, MAX_LEN, SessionType};
    use super::*;
    use crate::net::Community;
    use crate::small_set::SmallSet;
    use crate::timer::Rng;
    use std::collections::BTreeSet;

    type Routes = BTreeMap<Prefix, PathAttributes>;

    fn read(bytes: &[u8], negotiated: &Negotiated) -> Update {
        match decode(&frame(bytes), &DecodeContext::established(negotiated)) {
            Ok(Decoded::Update(update)) => update,
            other => panic!("{other:?}"),
        }
    }

    fn via(next_hop: &str) -> PathAttributes {
        PathAttributes {
            as_path: AsPath::sequence([asn(65000)]),
            ..PathAttributes::new(addr(next_hop))
        }
    }

    fn host4(n: u32) -> Prefix {
        Prefix::host(IpAddr::V4(Ipv4Addr::from_bits(0xc633_0000 + n)))
    }

    fn host6(n: u32) -> Prefix {
        let base = u128::from(0x2001_0db8_u32) << 96;
        Prefix::host(IpAddr::V6(Ipv6Addr::from_bits(base + u128::from(n))))
    }

    fn messages(
        withdrawn: &BTreeSet<Prefix>,
        announced: &Routes,
        negotiated: &Negotiated,
    ) -> Vec<Vec<u8>> {
        pack(withdrawn, announced, negotiated, MAX_LEN)
    }

    fn pack(
        withdrawn: &BTreeSet<Prefix>,
        announced: &Routes,
        negotiated: &Negotiated,
        max_len: usize,
    ) -> Vec<Vec<u8>> {
        let packed = Packer::new(withdrawn, announced, negotiated, max_len);
        packed.map(|packed| packed.bytes).collect()
    }

    #[test]
    fn nothing_to_say_is_no_message() {
        let none = messages(&BTreeSet::new(), &Routes::new(), &negotiated());
        assert_eq!(none, Vec::<Vec<u8>>::new());
    }

    #[test]
    fn end_of_rib_is_written_as_the_rfc_draws_it() {
        let head = "ffffffffffffffffffffffffffffffff";
        let ipv4 = hex(&format!("{head} 0017 02 0000 0000"));
        let ipv6 = hex(&format!("{head} 001d 02 0000 0006 800f03 0002 01"));
        assert_eq!(end_of_rib(Family::Ipv4), ipv4);
        assert_eq!(end_of_rib(Family::Ipv6), ipv6);
        for family in Family::ALL {
            let update = read(&end_of_rib(family), &negotiated());
            assert_eq!(update.end_of_rib, Some(family));
        }
    }

    /// RFC 7606 §5.1; a next hop of 16 bytes, which every receiver accepts.
    #[test]
    fn each_route_goes_where_its_next_hop_fits() {
        let routes = Routes::from([
            (prefix("192.0.2.53/32"), via("10.0.0.2")),
            (prefix("192.0.2.54/32"), via("2001:db8:1::2")),
            (prefix("2001:db8::53/128"), via("2001:db8:1::2")),
            (prefix("2001:db8::54/128"), via("10.0.0.2")),
            (prefix("192.0.2.55/32"), via("0.0.0.0")),
        ]);
        let negotiated = Negotiated {
            extended_next_hop: false,
            ..negotiated()
        };
        let sent = messages(&BTreeSet::new(), &routes, &negotiated);
        let head = "ffffffffffffffffffffffffffffffff";
        let attributes = "400101 00 400206 0201 0000fde8";
        let ipv4 = format!("{head} 0030 02 0000 0014 {attributes} 400304 0a000002 20 c0000235");
        let ipv6 = format!(
            "{head} 004d 02 0000 0036 800e26 0002 01 10 20010db8000100000000000000000002 00 \
             80 20010db8000000000000000000000053 {attributes}"
        );
        assert_eq!(sent, [hex(&ipv4), hex(&ipv6)]);
        let extended = Negotiated {
            extended_next_hop: true,
            ..negotiated
        };
        let sent = messages(&BTreeSet::new(), &routes, &extended);
        let over_ipv6 = format!(
            "{head} 0041 02 0000 002a 800e1a 0001 01 10 20010db8000100000000000000000002 00 \
             20 c0000236 {attributes}"
        );
        assert_eq!(sent, [hex(&ipv4), hex(&over_ipv6), hex(&ipv6)]);
    }

    #[test]
    fn a_family_that_was_not_negotiated_never_leaves() {
        let routes = Routes::from([
            (host4(1), via("10.0.0.2")),
            (host6(1), via("2001:db8:1::2")),
        ]);
        let withdrawn = BTreeSet::from([host4(2), host6(2)]);
        for family in Family::ALL {
            let one = Negotiated {
                families: SmallSet::from([family]),
                ..negotiated()
            };
            let sent: Vec<PackedUpdate> = Packer::new(&withdrawn, &routes, &one, MAX_LEN).collect();
            assert_eq!(sent.len(), 2);
            for packed in sent {
                let all = packed.withdrawn.iter().chain(&packed.announced);
                assert!(all.into_iter().all(|p| p.family() == family));
                assert!(!packed.bytes.is_empty());
            }
            for (prefix, attributes) in &routes {
                let can = is_sendable(prefix, attributes, &one, MAX_LEN);
                assert_eq!(can, prefix.family() == family);
            }
        }
    }

    /// The optimum: 23 bytes, the attributes once, five bytes a route.
    #[test]
    fn ten_thousand_routes_need_as_few_messages_as_hold_them() {
        let routes: Routes = (0..10_000).map(|n| (host4(n), via("10.0.0.2"))).collect();
        let negotiated = negotiated();
        let sent = messages(&BTreeSet::new(), &routes, &negotiated);
        let each = (MAX_LEN - 23 - 20) / 5;
        assert_eq!(sent.len(), 10_000_usize.div_ceil(each));
        let bytes: usize = sent.iter().map(Vec::len).sum();
        assert_eq!(bytes, 10_000 * 5 + sent.len() * (23 + 20));

        let extended = Negotiated {
            extended_message: true,
            ..negotiated.clone()
        };
        let withdrawn = routes.keys().copied().collect();
        let few = pack(&withdrawn, &Routes::new(), &extended, 65535);
        assert_eq!(few.len(), 1);
        let limited = pack(&withdrawn, &Routes::new(), &negotiated, 65535);
        assert!(
            limited.into_iter().all(|m| m.len() <= MAX_LEN),
            "not agreed on"
        );
    }

    /// More communities than fit a message: this route is left out, the others are sent.
    #[test]
    fn a_route_whose_attributes_do_not_fit_is_left_out() {
        let mut huge = via("10.0.0.2");
        huge.communities = (0..1100).map(Community).collect();
        let negotiated = negotiated();
        assert!(!is_sendable(&host4(1), &huge, &negotiated, MAX_LEN));
        let mut immense = huge.clone();
        immense.communities = (0..20_000).map(Community).collect();
        assert!(!is_sendable(&host4(3), &immense, &negotiated, MAX_LEN));
        let routes = Routes::from([
            (host4(1), huge),
            (host4(2), via("10.0.0.2")),
            (host4(3), immense),
        ]);
        let sent: Vec<PackedUpdate> =
            Packer::new(&BTreeSet::new(), &routes, &negotiated, MAX_LEN).collect();
        let announced: Vec<Prefix> = sent.into_iter().flat_map(|p| p.announced).collect();
        assert_eq!(announced, [host4(2)]);
    }

    /// A random set of routes over random sessions.
    fn some_routes(chance: &mut Rng) -> (BTreeSet<Prefix>, Routes) {
        let mut withdrawn = BTreeSet::new();
        let mut routes = Routes::new();
        let kinds = 1 + chance.below(4);
        for _ in 0..chance.below(1500) {
            let n = u32::try_from(chance.below(4000)).unwrap();
            let len = u8::try_from(chance.below(33)).unwrap();
            let prefix = match chance.below(2) {
                0 => Prefix::masked(host4(n << 4).addr(), len).unwrap(),
                _ => Prefix::masked(host6(n << 4).addr(), 96 + len).unwrap(),
            };
            let next_hop = match (prefix.family(), chance.below(4)) {
                (Family::Ipv4, 1..) => "10.0.0.2",
                _ => "2001:db8:1::2",
            };
            let kind = chance.below(kinds);
            let mut attributes = via(next_hop);
            attributes.med = Some(u32::try_from(kind).unwrap());
            attributes
                .as_path
                .prepend(asn(4_200_000_001), usize::try_from(kind).unwrap());
            attributes.local_pref = Some(100);
            attributes.communities = (0..u32::try_from(kind * 60).unwrap())
                .map(Community)
                .collect();
            if chance.below(5) == 0 {
                withdrawn.insert(prefix);
            } else {
                routes.insert(prefix, attributes);
            }
        }
        withdrawn.retain(|prefix| !routes.contains_key(prefix));
        (withdrawn, routes)
    }

    #[test]
    fn what_is_packed_is_what_is_read_whatever_was_agreed_on() {
        for seed in 0..30 {
            let mut chance = Rng::new(seed);
            let (withdrawn, routes) = some_routes(&mut chance);
            let flag = |chance: &mut Rng| chance.below(2) == 0;
            let mut negotiated = negotiated();
            negotiated.four_octet_as = flag(&mut chance);
            negotiated.extended_next_hop = flag(&mut chance);
            if flag(&mut chance) {
                negotiated.session = SessionType::Ibgp;
            }
            if flag(&mut chance) {
                negotiated.families = SmallSet::from([Family::Ipv4]);
            }
            let max_len = if flag(&mut chance) { MAX_LEN } else { 1000 };

            let mut got = Routes::new();
            let mut gone = BTreeSet::new();
            let mut announcing = false;
            for packed in Packer::new(&withdrawn, &routes, &negotiated, max_len) {
                assert!(packed.bytes.len() <= max_len, "seed {seed}");
                let update = read(&packed.bytes, &negotiated);
                assert!(
                    update.withdrawn.is_empty() || !announcing,
                    "withdrawals first"
                );
                assert_eq!(update.withdrawn, packed.withdrawn);
                for prefix in update.withdrawn {
                    assert!(gone.insert(prefix), "seed {seed}: {prefix} twice");
                }
                for announcement in update.announced {
                    announcing = true;
                    assert_eq!(announcement.prefixes, packed.announced);
                    for prefix in announcement.prefixes {
                        let twice = got.insert(prefix, announcement.attributes.clone());
                        assert_eq!(twice, None, "seed {seed}: {prefix} twice");
                    }
                }
            }
            let agreed = |prefix: &Prefix| negotiated.families.contains(&prefix.family());
            let expected: Routes = routes
                .iter()
                .filter(|(prefix, attributes)| {
                    is_sendable(prefix, attributes, &negotiated, max_len)
                })
                .map(|(prefix, attributes)| {
                    let local_pref = attributes
                        .local_pref
                        .filter(|_| negotiated.session == SessionType::Ibgp);
                    let attributes = PathAttributes {
                        local_pref,
                        ..attributes.clone()
                    };
                    (*prefix, attributes)
                })
                .collect();
            assert_eq!(got, expected, "seed {seed}");
            let expected = withdrawn.into_iter().filter(agreed).collect();
            assert_eq!(gone, expected, "seed {seed}");
        }
    }
}
