//! Path attributes (RFC 4271 §4.3, §5) as they are announced: origin, AS path (RFC 6793 for speakers
//! with two-octet AS numbers), next hop (RFC 4760, 8950), MED, local preference, communities (RFC
//! 1997, 4360, 8092).

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::net::{Asn, Community, ExtCommunity, LargeCommunity, Origin};

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
        let _ = (asn, times);
        todo!()
    }
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
