//! Path attributes (RFC 4271 §4.3, §5) as they are announced: origin, AS path (RFC 6793 for speakers
//! with two-octet AS numbers), next hop (RFC 4760, 8950), MED, local preference, communities (RFC
//! 1997, 4360, 8092).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::{AttributeCause, EncodeContext, SessionType};
use crate::net::{Asn, Community, ExtCommunity, LargeCommunity, Origin};
use crate::wire::{Reader, WireError, Writer};

/// A path attribute's type code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttributeCode(pub u8);

impl AttributeCode {
    pub const ORIGIN: Self = Self(1);
    pub const AS_PATH: Self = Self(2);
    pub const NEXT_HOP: Self = Self(3);
    pub const MULTI_EXIT_DISC: Self = Self(4);
    pub const LOCAL_PREF: Self = Self(5);
    pub const ATOMIC_AGGREGATE: Self = Self(6);
    pub const AGGREGATOR: Self = Self(7);
    pub const COMMUNITIES: Self = Self(8);
    pub const ORIGINATOR_ID: Self = Self(9);
    pub const CLUSTER_LIST: Self = Self(10);
    pub const MP_REACH_NLRI: Self = Self(14);
    pub const MP_UNREACH_NLRI: Self = Self(15);
    pub const EXTENDED_COMMUNITIES: Self = Self(16);
    pub const AS4_PATH: Self = Self(17);
    pub const AS4_AGGREGATOR: Self = Self(18);
    pub const IPV6_EXT_COMMUNITIES: Self = Self(25);
    pub const LARGE_COMMUNITIES: Self = Self(32);
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

/// What a route is announced with. What is `None` or empty is not sent: an empty COMMUNITIES would be
/// malformed (RFC 7606 §7.8).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathAttributes {
    pub origin: Origin,
    pub as_path: AsPath,
    pub next_hop: IpAddr,
    pub med: Option<u32>,
    /// Sent on iBGP only (RFC 4271 §5.1.5).
    pub local_pref: Option<u32>,
    pub communities: BTreeSet<Community>,
    pub large_communities: BTreeSet<LargeCommunity>,
    pub ext_communities: BTreeSet<ExtCommunity>,
}

impl PathAttributes {
    /// Only what is mandatory: origin IGP, an empty path.
    pub fn new(next_hop: IpAddr) -> Self {
        Self {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            next_hop,
            med: None,
            local_pref: None,
            communities: BTreeSet::new(),
            large_communities: BTreeSet::new(),
            ext_communities: BTreeSet::new(),
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

/// AS_PATH (RFC 4271 §4.3 b).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AsPath(pub Vec<Segment>);

/// One segment; the numbers are four octets wide whatever the session speaks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// Unordered.
    Set(Vec<u32>),
    /// Ordered, the nearest AS first.
    Sequence(Vec<u32>),
}

impl AsPath {
    /// A single sequence; empty for none.
    pub fn sequence(asns: impl IntoIterator<Item = Asn>) -> Self {
        let asns: Vec<u32> = asns.into_iter().map(Asn::get).collect();
        if asns.is_empty() {
            Self::default()
        } else {
            Self(vec![Segment::Sequence(asns)])
        }
    }

    /// Puts `asn` in front, `times` times (RFC 4271 §5.1.2).
    pub fn prepend(&mut self, asn: Asn, times: usize) {
        if times == 0 {
            return;
        }
        let front = std::iter::repeat_n(asn.get(), times);
        match self.0.first_mut() {
            Some(Segment::Sequence(asns)) if asns.len() + times <= SEGMENT_MAX => {
                asns.splice(..0, front);
            }
            _ => self.0.insert(0, Segment::Sequence(front.collect())),
        }
    }

    /// How many AS numbers count when paths are compared: a set is one (RFC 4271 §9.1.2.2).
    pub fn hops(&self) -> usize {
        self.0
            .iter()
            .map(|segment| match segment {
                Segment::Set(_) => 1,
                Segment::Sequence(asns) => asns.len(),
            })
            .sum()
    }

    /// The value of AS_PATH or, four octets wide, AS4_PATH.
    ///
    /// ```text
    /// | type | count | AS | AS | … |  and so on
    /// |   1  |   1   | 2 or 4 each |
    /// ```
    fn encode(&self, four_octet: bool) -> Vec<u8> {
        let mut w = Vec::new();
        for segment in &self.0 {
            let (kind, asns) = match segment {
                Segment::Set(asns) => (SET, asns),
                Segment::Sequence(asns) => (SEQUENCE, asns),
            };
            for part in asns.chunks(SEGMENT_MAX) {
                w.push(kind);
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
        }
        w
    }

    fn fits_two_octets(&self) -> bool {
        self.0.iter().all(|segment| {
            let (Segment::Set(asns) | Segment::Sequence(asns)) = segment;
            asns.iter().all(|asn| *asn <= u32::from(u16::MAX))
        })
    }

    /// Reads a value that [`check_path`] has passed; what does not read ends the path. Segments of
    /// confederations, possible in an AS4_PATH, are left out (RFC 6793 §6).
    pub(super) fn decode(value: &[u8], four_octet: bool) -> Self {
        let mut r = Reader::new(value);
        let mut segments = Vec::new();
        while let Ok((kind, numbers)) = read_segment(&mut r, four_octet) {
            let numbers = asns(numbers, four_octet);
            match kind {
                SET => segments.push(Segment::Set(numbers.collect())),
                SEQUENCE => segments.push(Segment::Sequence(numbers.collect())),
                _ => {}
            }
        }
        Self(segments)
    }

    /// The path as a speaker of four-octet numbers would have sent it: `as4`, with what only `self`
    /// has in front (RFC 6793 §4.2.3).
    pub(super) fn merge(self, as4: Self) -> Self {
        let Some(mut more) = self.hops().checked_sub(as4.hops()) else {
            return self;
        };
        let mut segments = Vec::new();
        for segment in self.0 {
            if more == 0 {
                break;
            }
            match segment {
                Segment::Set(asns) => {
                    segments.push(Segment::Set(asns));
                    more -= 1;
                }
                Segment::Sequence(mut asns) => {
                    asns.truncate(more);
                    more -= asns.len();
                    segments.push(Segment::Sequence(asns));
                }
            }
        }
        let mut rest = as4.0.into_iter();
        match (segments.last_mut(), rest.next()) {
            // Keeps one sequence one sequence.
            (Some(Segment::Sequence(front)), Some(Segment::Sequence(back)))
                if front.len() + back.len() <= SEGMENT_MAX =>
            {
                front.extend(back);
            }
            (_, Some(next)) => segments.push(next),
            (_, None) => {}
        }
        segments.extend(rest);
        Self(segments)
    }
}

/// Segment types (RFC 4271 §4.3 b, RFC 5065 §3).
const SET: u8 = 1;
const SEQUENCE: u8 = 2;
const CONFED_SEQUENCE: u8 = 3;
const CONFED_SET: u8 = 4;

/// AS numbers that one segment can count.
const SEGMENT_MAX: usize = 255;

/// A segment's type and its numbers, still as bytes.
fn read_segment<'a>(r: &mut Reader<'a>, four_octet: bool) -> Result<(u8, &'a [u8]), WireError> {
    let (kind, count) = (r.u8()?, r.u8()?);
    let asns = r.take(usize::from(count) * width(four_octet))?;
    Ok((kind, asns))
}

fn width(four_octet: bool) -> usize {
    if four_octet { 4 } else { 2 }
}

fn asns(bytes: &[u8], four_octet: bool) -> impl Iterator<Item = u32> {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
    bytes.chunks_exact(width(four_octet)).map(number)
}

/// RFC 7606 §7.2, RFC 7607. `confederations`: their segments may be there, to be ignored (AS4_PATH); in
/// an AS_PATH they are for members alone (RFC 5065 §5).
pub(super) fn check_path(
    value: &[u8],
    four_octet: bool,
    confederations: bool,
) -> Result<(), AttributeCause> {
    let mut r = Reader::new(value);
    while !r.is_empty() {
        let (kind, numbers) =
            read_segment(&mut r, four_octet).map_err(|_| AttributeCause::MalformedPath)?;
        let known = match kind {
            SET | SEQUENCE => true,
            CONFED_SEQUENCE | CONFED_SET => confederations,
            _ => false,
        };
        if !known || numbers.is_empty() {
            return Err(AttributeCause::MalformedPath);
        }
        if asns(numbers, four_octet).any(|asn| asn == 0) {
            return Err(AttributeCause::AsZero);
        }
    }
    Ok(())
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |asns: &[u32], by| asns.iter().map(u32::to_string).collect::<Vec<_>>().join(by);
        for (index, segment) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            match segment {
                Segment::Sequence(asns) => f.write_str(&join(asns, " "))?,
                Segment::Set(asns) => write!(f, "{{{}}}", join(asns, ","))?,
            }
        }
        Ok(())
    }
}

/// A received attribute that we never send, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawAttribute {
    pub flags: u8,
    pub code: AttributeCode,
    pub value: Vec<u8>,
}
