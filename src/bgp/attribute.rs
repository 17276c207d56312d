//! Path attributes (RFC 4271 §4.3, §5) as they are announced: origin, AS path (RFC 6793 for speakers
//! with two-octet AS numbers), next hop (RFC 4760, 8950), MED, local preference, communities (RFC
//! 1997, 4360, 8092). Left out: attributes that only a speaker which propagates routes sends
//! (AGGREGATOR, ORIGINATOR_ID, CLUSTER_LIST, AS_SET). Received attributes are checked in `validate`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::{EncodeContext, SessionType};
use crate::net::{Asn, Community, ExtCommunity, LargeCommunity, Origin};
use crate::small_set::SmallSet;
use crate::wire::Writer;

/// A path attribute's type code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttributeCode(pub u8);

impl AttributeCode {
    /// RFC 4271 §5.1.1.
    pub const ORIGIN: Self = Self(1);
    /// RFC 4271 §5.1.2.
    pub const AS_PATH: Self = Self(2);
    /// RFC 4271 §5.1.3.
    pub const NEXT_HOP: Self = Self(3);
    /// RFC 4271 §5.1.4.
    pub const MULTI_EXIT_DISC: Self = Self(4);
    /// RFC 4271 §5.1.5.
    pub const LOCAL_PREF: Self = Self(5);
    /// RFC 4271 §5.1.6.
    pub const ATOMIC_AGGREGATE: Self = Self(6);
    /// RFC 4271 §5.1.7.
    pub const AGGREGATOR: Self = Self(7);
    /// RFC 1997.
    pub const COMMUNITIES: Self = Self(8);
    /// RFC 4456 §8.
    pub const ORIGINATOR_ID: Self = Self(9);
    /// RFC 4456 §8.
    pub const CLUSTER_LIST: Self = Self(10);
    /// RFC 4760 §3.
    pub const MP_REACH_NLRI: Self = Self(14);
    /// RFC 4760 §4.
    pub const MP_UNREACH_NLRI: Self = Self(15);
    /// RFC 4360 §2.
    pub const EXTENDED_COMMUNITIES: Self = Self(16);
    /// RFC 6793 §3.
    pub const AS4_PATH: Self = Self(17);
    /// RFC 6793 §3.
    pub const AS4_AGGREGATOR: Self = Self(18);
    /// RFC 5701 §2.
    pub const IPV6_EXT_COMMUNITIES: Self = Self(25);
    /// RFC 8092 §3.
    pub const LARGE_COMMUNITIES: Self = Self(32);
    /// RFC 9234 §5.
    pub const ONLY_TO_CUSTOMER: Self = Self(35);
}

/// IANA's names.
const NAMES: &[(AttributeCode, &str)] = &[
    (AttributeCode::ORIGIN, "ORIGIN"),
    (AttributeCode::AS_PATH, "AS_PATH"),
    (AttributeCode::NEXT_HOP, "NEXT_HOP"),
    (AttributeCode::MULTI_EXIT_DISC, "MULTI_EXIT_DISC"),
    (AttributeCode::LOCAL_PREF, "LOCAL_PREF"),
    (AttributeCode::ATOMIC_AGGREGATE, "ATOMIC_AGGREGATE"),
    (AttributeCode::AGGREGATOR, "AGGREGATOR"),
    (AttributeCode::COMMUNITIES, "COMMUNITIES"),
    (AttributeCode::ORIGINATOR_ID, "ORIGINATOR_ID"),
    (AttributeCode::CLUSTER_LIST, "CLUSTER_LIST"),
    (AttributeCode::MP_REACH_NLRI, "MP_REACH_NLRI"),
    (AttributeCode::MP_UNREACH_NLRI, "MP_UNREACH_NLRI"),
    (AttributeCode::EXTENDED_COMMUNITIES, "EXTENDED_COMMUNITIES"),
    (AttributeCode::AS4_PATH, "AS4_PATH"),
    (AttributeCode::AS4_AGGREGATOR, "AS4_AGGREGATOR"),
    (AttributeCode::IPV6_EXT_COMMUNITIES, "IPV6_EXT_COMMUNITIES"),
    (AttributeCode::LARGE_COMMUNITIES, "LARGE_COMMUNITIES"),
    (AttributeCode::ONLY_TO_CUSTOMER, "ONLY_TO_CUSTOMER"),
];

impl fmt::Display for AttributeCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(code, _)| code == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "attribute {}", self.0),
        }
    }
}

/// The path attributes of a route. An attribute that is `None` or empty is not sent: an empty COMMUNITIES would
/// be malformed (RFC 7606 §7.8).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathAttributes {
    pub origin: Origin,
    pub as_path: AsPath,
    pub next_hop: IpAddr,
    pub med: Option<u32>,
    /// Sent on iBGP only (RFC 4271 §5.1.5).
    pub local_pref: Option<u32>,
    pub communities: SmallSet<Community>,
    pub large_communities: SmallSet<LargeCommunity>,
    pub ext_communities: SmallSet<ExtCommunity>,
}

impl PathAttributes {
    /// Only the mandatory attributes: origin IGP, an empty path.
    pub fn new(next_hop: IpAddr) -> Self {
        Self {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            next_hop,
            med: None,
            local_pref: None,
            communities: SmallSet::default(),
            large_communities: SmallSet::default(),
            ext_communities: SmallSet::default(),
        }
    }
}

impl PathAttributes {
    /// All but MP_REACH_NLRI, in ascending order; `next_hop` where the routes are in the NLRI field.
    pub(super) fn write(&self, w: &mut Writer, cx: &EncodeContext, next_hop: Option<Ipv4Addr>) {
        let origin = match self.origin {
            Origin::Igp => 0,
            Origin::Egp => 1,
            Origin::Incomplete => 2,
        };
        let list = |w: &mut Writer, code, value: Vec<u8>| {
            // RFC 7606 §4: none of these may be empty.
            if !value.is_empty() {
                write(w, OPTIONAL | TRANSITIVE, code, &value);
            }
        };
        write(w, TRANSITIVE, AttributeCode::ORIGIN, &[origin]);
        let path = self.as_path.encode(cx.four_octet_as);
        write(w, TRANSITIVE, AttributeCode::AS_PATH, &path);
        if let Some(addr) = next_hop {
            write(w, TRANSITIVE, AttributeCode::NEXT_HOP, &addr.octets());
        }
        if let Some(med) = self.med {
            let value = med.to_be_bytes();
            write(w, OPTIONAL, AttributeCode::MULTI_EXIT_DISC, &value);
        }
        if let Some(local_pref) = self.local_pref.filter(|_| cx.session == SessionType::Ibgp) {
            let value = local_pref.to_be_bytes();
            write(w, TRANSITIVE, AttributeCode::LOCAL_PREF, &value);
        }
        let communities = self.communities.iter().flat_map(|c| c.0.to_be_bytes());
        list(w, AttributeCode::COMMUNITIES, communities.collect());
        let extended = self.ext_communities.iter().flat_map(|c| c.0);
        list(w, AttributeCode::EXTENDED_COMMUNITIES, extended.collect());
        if !cx.four_octet_as && !self.as_path.fits_two_octets() {
            list(w, AttributeCode::AS4_PATH, self.as_path.encode(true));
        }
        let large = self.large_communities.iter();
        let large = large.flat_map(|c| [c.global, c.local1, c.local2]);
        let large = large.flat_map(u32::to_be_bytes).collect();
        list(w, AttributeCode::LARGE_COMMUNITIES, large);
    }
}

/// Attribute flags (RFC 4271 §4.3).
pub(super) const OPTIONAL: u8 = 0x80;
pub(super) const TRANSITIVE: u8 = 0x40;
pub(super) const EXTENDED_LENGTH: u8 = 0x10;

/// One attribute, with the extended length only where it is needed.
///
/// ```text
/// | flags | type | length | value |
/// |   1   |   1  | 1 or 2 |       |
/// ```
pub(super) fn write(w: &mut Writer, flags: u8, code: AttributeCode, value: &[u8]) {
    if u8::try_from(value.len()).is_ok() {
        w.bytes(&[flags, code.0]);
        w.len_u8(|w| w.bytes(value));
    } else {
        w.bytes(&[flags | EXTENDED_LENGTH, code.0]);
        w.len_u16(|w| w.bytes(value));
    }
}

/// AS_PATH (RFC 4271 §4.3 b) of routes that we originate: one sequence, the nearest AS first. The numbers
/// are kept in four octets whatever was negotiated.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AsPath(pub Vec<u32>);

impl AsPath {
    /// A path of these AS numbers, the nearest first.
    pub fn sequence(asns: impl IntoIterator<Item = Asn>) -> Self {
        Self(asns.into_iter().map(Asn::get).collect())
    }

    /// Puts `asn` in front, `times` times (RFC 4271 §5.1.2).
    pub fn prepend(&mut self, asn: Asn, times: usize) {
        self.0.splice(..0, std::iter::repeat_n(asn.get(), times));
    }

    /// The value of AS_PATH or, four octets wide, AS4_PATH; a long one is several segments.
    ///
    /// ```text
    /// | type | count | AS | AS | … |  and so on
    /// |   1  |   1   | 2 or 4 each |
    /// ```
    fn encode(&self, four_octet: bool) -> Vec<u8> {
        let mut w = Vec::new();
        for part in self.0.chunks(SEGMENT_MAX) {
            w.push(SEQUENCE);
            w.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
            for asn in part {
                if four_octet {
                    w.extend_from_slice(&asn.to_be_bytes());
                } else {
                    let short = u16::try_from(*asn).unwrap_or(Asn::TRANS.as_u16());
                    w.extend_from_slice(&short.to_be_bytes());
                }
            }
        }
        w
    }

    fn fits_two_octets(&self) -> bool {
        self.0.iter().all(|asn| *asn <= u32::from(u16::MAX))
    }
}

/// AS_SEQUENCE.
const SEQUENCE: u8 = 2;

/// AS numbers that one segment can count.
const SEGMENT_MAX: usize = 255;

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&numbers.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden::{addr, asn, hex};
    use super::*;
    use crate::wire::Reader;

    const NEW_SPEAKER: EncodeContext = EncodeContext {
        session: SessionType::Ebgp,
        four_octet_as: true,
    };

    fn written(attributes: &PathAttributes, cx: &EncodeContext) -> Vec<u8> {
        let mut w = Writer::new();
        attributes.write(&mut w, cx, Some(Ipv4Addr::new(10, 0, 0, 2)));
        w.finish().unwrap()
    }

    /// RFC 4271 §5.1.2 b.
    #[test]
    fn our_as_is_put_in_front() {
        let mut path = AsPath::default();
        path.prepend(asn(1), 0);
        assert_eq!(path, AsPath::sequence([]));
        path.prepend(asn(1), 2);
        path.prepend(asn(2), 1);
        assert_eq!(path.to_string(), "2 1 1");
    }

    #[test]
    fn a_sequence_too_long_for_one_segment_is_written_as_two() {
        let value = AsPath(vec![7; 300]).encode(false);
        let (first, second) = value.split_at(2 + 255 * 2);
        assert_eq!(first[..2], [SEQUENCE, 255]);
        assert_eq!(second[..2], [SEQUENCE, 45]);
        assert_eq!(second.len(), 2 + 45 * 2);
    }

    /// RFC 6793 §4.2.2: AS_TRANS where a number does not fit, and the real path in AS4_PATH.
    #[test]
    fn an_old_speaker_gets_as_trans_and_as4_path_only_where_it_must() {
        let cx = EncodeContext {
            four_octet_as: false,
            session: SessionType::Ebgp,
        };
        let mut attributes = PathAttributes {
            as_path: AsPath::sequence([asn(65001), asn(65002)]),
            ..PathAttributes::new(addr("10.0.0.2"))
        };
        let small = hex("400101 00 400206 0202 fde9 fdea 400304 0a000002");
        assert_eq!(written(&attributes, &cx), small);
        attributes.as_path.prepend(asn(4_200_000_001), 1);
        let large = hex("400101 00 400208 0203 5ba0 fde9 fdea 400304 0a000002 \
             c0110e 0203 fa56ea01 0000fde9 0000fdea");
        assert_eq!(written(&attributes, &cx), large);
        let new = written(&attributes, &NEW_SPEAKER);
        let expected = hex("400101 00 40020e 0203 fa56ea01 0000fde9 0000fdea 400304 0a000002");
        assert_eq!(new, expected, "never to a new speaker");
    }

    #[test]
    fn attributes_stand_in_ascending_order_and_none_is_empty() {
        let attributes = PathAttributes {
            as_path: AsPath::sequence([asn(70000)]),
            med: Some(1),
            local_pref: Some(100),
            communities: SmallSet::from([Community::GRACEFUL_SHUTDOWN]),
            large_communities: SmallSet::from(["1:2:3".parse().unwrap()]),
            ext_communities: SmallSet::from(["rt:65001:1".parse().unwrap()]),
            ..PathAttributes::new(addr("10.0.0.2"))
        };
        for (session, expected) in [
            (SessionType::Ebgp, vec![1, 2, 3, 4, 8, 16, 17, 32]),
            (SessionType::Ibgp, vec![1, 2, 3, 4, 5, 8, 16, 17, 32]),
        ] {
            let cx = EncodeContext {
                session,
                four_octet_as: false,
            };
            let bytes = written(&attributes, &cx);
            assert_eq!(
                codes(&bytes),
                expected,
                "RFC 4271 §5.1.5: LOCAL_PREF stays inside"
            );
        }
        let bare = PathAttributes::new(addr("10.0.0.2"));
        let bytes = written(&bare, &NEW_SPEAKER);
        assert_eq!(bytes, hex("400101 00 400200 400304 0a000002"));
    }

    /// Type codes; no value but AS_PATH's may be empty, and no length longer than it needs to be.
    fn codes(bytes: &[u8]) -> Vec<u8> {
        let mut r = Reader::new(bytes);
        let mut codes = Vec::new();
        while !r.is_empty() {
            let flags = r.u8().unwrap();
            let code = r.u8().unwrap();
            let length = if flags & EXTENDED_LENGTH == 0 {
                usize::from(r.u8().unwrap())
            } else {
                let length = usize::from(r.u16().unwrap());
                assert!(length > 255, "attribute {code}");
                length
            };
            assert!(length > 0 || code == 2, "attribute {code} is empty");
            r.take(length).unwrap();
            codes.push(code);
        }
        codes
    }

    #[test]
    fn a_long_attribute_says_so_in_its_flags() {
        for (count, head) in [(63, "c008fc"), (64, "d0080100")] {
            let attributes = PathAttributes {
                communities: (0..count).map(Community).collect(),
                ..PathAttributes::new(addr("10.0.0.2"))
            };
            let bytes = written(&attributes, &NEW_SPEAKER);
            let communities = &bytes[hex("400101 00 400200 400304 0a000002").len()..];
            assert!(communities.starts_with(&hex(head)), "{count}");
            assert_eq!(codes(&bytes), [1, 2, 3, 8]);
        }
    }
}
