//! What each path attribute may look like: flags, length, content (RFC 7606 §7 and the RFCs it revises;
//! RFC 6793 §6, RFC 7607 §2, RFC 8092 §6, RFC 9234 §5).

use std::net::{IpAddr, Ipv4Addr};

use super::attribute::{OPTIONAL, TRANSITIVE, check_path};
use super::{AttributeCause, AttributeCode, DecodeContext, SessionType};

/// What is known of an attribute.
pub(super) struct Definition {
    pub code: AttributeCode,
    /// Optional and transitive bits.
    pub flags: u8,
    pub shape: Shape,
}

#[derive(Clone, Copy)]
pub(super) enum Shape {
    Exactly(usize),
    /// One or more of so many bytes.
    Items(usize),
    Origin,
    AsPath,
    NextHop,
    Aggregator,
    As4Path,
    As4Aggregator,
    Reach,
    Unreach,
}

const WELL_KNOWN: u8 = TRANSITIVE;
const BOTH: u8 = OPTIONAL | TRANSITIVE;

#[rustfmt::skip]
pub(super) const DEFINITIONS: &[Definition] = &[
    Definition { code: AttributeCode::ORIGIN, flags: WELL_KNOWN, shape: Shape::Origin },
    Definition { code: AttributeCode::AS_PATH, flags: WELL_KNOWN, shape: Shape::AsPath },
    Definition { code: AttributeCode::NEXT_HOP, flags: WELL_KNOWN, shape: Shape::NextHop },
    Definition { code: AttributeCode::MULTI_EXIT_DISC, flags: OPTIONAL, shape: Shape::Exactly(4) },
    Definition { code: AttributeCode::LOCAL_PREF, flags: WELL_KNOWN, shape: Shape::Exactly(4) },
    Definition { code: AttributeCode::ATOMIC_AGGREGATE, flags: WELL_KNOWN, shape: Shape::Exactly(0) },
    Definition { code: AttributeCode::AGGREGATOR, flags: BOTH, shape: Shape::Aggregator },
    Definition { code: AttributeCode::COMMUNITIES, flags: BOTH, shape: Shape::Items(4) },
    Definition { code: AttributeCode::ORIGINATOR_ID, flags: OPTIONAL, shape: Shape::Exactly(4) },
    Definition { code: AttributeCode::CLUSTER_LIST, flags: OPTIONAL, shape: Shape::Items(4) },
    Definition { code: AttributeCode::MP_REACH_NLRI, flags: OPTIONAL, shape: Shape::Reach },
    Definition { code: AttributeCode::MP_UNREACH_NLRI, flags: OPTIONAL, shape: Shape::Unreach },
    Definition { code: AttributeCode::EXTENDED_COMMUNITIES, flags: BOTH, shape: Shape::Items(8) },
    Definition { code: AttributeCode::AS4_PATH, flags: BOTH, shape: Shape::As4Path },
    Definition { code: AttributeCode::AS4_AGGREGATOR, flags: BOTH, shape: Shape::As4Aggregator },
    Definition { code: AttributeCode::IPV6_EXT_COMMUNITIES, flags: BOTH, shape: Shape::Items(20) },
    Definition { code: AttributeCode::LARGE_COMMUNITIES, flags: BOTH, shape: Shape::Items(12) },
    Definition { code: AttributeCode::ONLY_TO_CUSTOMER, flags: BOTH, shape: Shape::Exactly(4) },
];

impl Definition {
    /// Attributes that this peer has no business to send are dropped unread (RFC 7606 §7.5, §7.9,
    /// §7.10; RFC 6793 §4.1).
    pub fn not_for(&self, cx: &DecodeContext) -> Option<AttributeCause> {
        match self.code {
            AttributeCode::LOCAL_PREF
            | AttributeCode::ORIGINATOR_ID
            | AttributeCode::CLUSTER_LIST => {
                (cx.session == SessionType::Ebgp).then_some(AttributeCause::WrongSession)
            }
            AttributeCode::AS4_PATH | AttributeCode::AS4_AGGREGATOR => {
                cx.four_octet_as.then_some(AttributeCause::FromNewSpeaker)
            }
            _ => None,
        }
    }
}

impl Shape {
    /// RFC 7606 §7, RFC 6793 §6, RFC 7607 §2, RFC 8092 §6.
    pub fn check(self, value: &[u8], four_octet_as: bool) -> Result<(), AttributeCause> {
        let length = AttributeCause::Length {
            length: value.len(),
        };
        match self {
            Self::Exactly(size) if value.len() == size => Ok(()),
            Self::Items(size) if !value.is_empty() && value.len() % size == 0 => Ok(()),
            Self::Origin => match value {
                [0..=2] => Ok(()),
                [value] => Err(AttributeCause::Value { value: *value }),
                _ => Err(length),
            },
            Self::AsPath => check_path(value, four_octet_as, false),
            Self::NextHop => {
                let addr: [u8; 4] = value.try_into().map_err(|_| length)?;
                let addr = IpAddr::V4(addr.into());
                if is_host(addr) {
                    Ok(())
                } else {
                    Err(AttributeCause::NextHop(addr))
                }
            }
            Self::Aggregator if four_octet_as => check_aggregator::<8>(value, 4).ok_or(length)?,
            Self::Aggregator => check_aggregator::<6>(value, 2).ok_or(length)?,
            Self::As4Aggregator => check_aggregator::<8>(value, 4).ok_or(length)?,
            Self::As4Path if value.len() >= 6 => check_path(value, true, true),
            Self::As4Path | Self::Exactly(_) | Self::Items(_) => Err(length),
            Self::Reach | Self::Unreach => Ok(()),
        }
    }
}

/// An AS number and an address; `None` where the length is not `N`.
fn check_aggregator<const N: usize>(
    value: &[u8],
    width: usize,
) -> Option<Result<(), AttributeCause>> {
    let value: [u8; N] = value.try_into().ok()?;
    let zero = value.iter().take(width).all(|byte| *byte == 0);
    Some(if zero {
        Err(AttributeCause::AsZero)
    } else {
        Ok(())
    })
}

/// Whether it can be one host's address (RFC 4271 §6.3).
pub(super) fn is_host(addr: IpAddr) -> bool {
    let broadcast = addr == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(addr.is_unspecified() || addr.is_loopback() || addr.is_multicast() || broadcast)
}
