//! An UPDATE checked in place (RFC 4271 §6.3 as RFC 7606 revises it; RFC 4760 §7, RFC 6793 §6, RFC 8950
//! §4): nothing of it is copied, whatever it holds.
//!
//! Left out: the leftmost AS of a path is not compared with the peer's (RFC 4271 §6.3 lets us), since a
//! route server's peers would fail it and no received route is used here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::attribute::{EXTENDED_LENGTH, OPTIONAL, TRANSITIVE, check_path};
use super::{
    AfiSafi, AttributeCause, AttributeCode, AttributeError, DecodeContext, SessionType, Severity,
    UpdateError,
};
use crate::net::{Family, Prefix};
use crate::wire::{Reader, WireError};

/// An UPDATE whose fields can be read.
#[derive(Debug)]
pub(super) struct Inspected<'a> {
    pub withdrawn: Routes<'a>,
    pub nlri: Routes<'a>,
    pub reach: Option<Reach<'a>>,
    pub unreach: Option<Routes<'a>>,
    /// Those that are neither discarded nor MP_REACH_NLRI or MP_UNREACH_NLRI.
    pub attributes: Vec<Attribute<'a>>,
    /// What is announced counts as withdrawn (RFC 7606 §2).
    pub treat_as_withdraw: bool,
    pub end_of_rib: Option<Family>,
    pub problems: Vec<AttributeError>,
    pub four_octet_as: bool,
}

/// MP_REACH_NLRI of a family that is negotiated.
#[derive(Debug)]
pub(super) struct Reach<'a> {
    pub routes: Routes<'a>,
    pub next_hop: IpAddr,
    pub link_local: Option<Ipv6Addr>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Attribute<'a> {
    pub flags: u8,
    pub code: AttributeCode,
    pub value: &'a [u8],
    /// From the flags on.
    whole: &'a [u8],
}

/// Routes that have all been read once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Routes<'a> {
    family: Family,
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Routes<'a> {
    /// `None` where a length passes the family's width or the bytes end inside a prefix (RFC 7606
    /// §5.3).
    fn read(family: Family, bytes: &'a [u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        let mut count = 0;
        while !r.is_empty() {
            read_prefix(&mut r, family)?;
            count += 1;
        }
        Some(Self {
            family,
            bytes,
            count,
        })
    }

    fn none(family: Family) -> Self {
        Self {
            family,
            bytes: &[],
            count: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn iter(&self) -> impl Iterator<Item = Prefix> + use<'a> {
        let family = self.family;
        let mut r = Reader::new(self.bytes);
        std::iter::from_fn(move || read_prefix(&mut r, family))
    }
}

/// Bits behind the length mean nothing (RFC 4271 §4.3).
fn read_prefix(r: &mut Reader<'_>, family: Family) -> Option<Prefix> {
    let len = r.u8().ok().filter(|len| *len <= family.width())?;
    let bytes = r.take(usize::from(len).div_ceil(8)).ok()?;
    let addr = match family {
        Family::Ipv4 => IpAddr::V4(padded::<4>(bytes).into()),
        Family::Ipv6 => IpAddr::V6(padded::<16>(bytes).into()),
    };
    Prefix::masked(addr, len).ok()
}

fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut all = [0; N];
    all.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    all
}

impl<'a> Inspected<'a> {
    /// ```text
    /// | length | withdrawn routes | length | path attributes | NLRI to the message's end |
    /// |    2   |                  |    2   |                 |                           |
    /// ```
    pub fn new(body: &'a [u8], cx: &DecodeContext) -> Result<Self, UpdateError> {
        let (withdrawn, attributes, nlri) =
            sections(body).map_err(|_| UpdateError::AttributeListLength)?;
        let empty = withdrawn.is_empty() && attributes.is_empty() && nlri.is_empty();
        let ipv4 = cx.families.contains(&Family::Ipv4);
        let classic = |bytes| {
            let routes =
                Routes::read(Family::Ipv4, bytes).ok_or(UpdateError::InvalidNetworkField)?;
            // Not agreed on: readable, and ignored.
            Ok::<_, UpdateError>(if ipv4 {
                routes
            } else {
                Routes::none(Family::Ipv4)
            })
        };
        let inspected = Self {
            withdrawn: classic(withdrawn)?,
            nlri: classic(nlri)?,
            reach: None,
            unreach: None,
            attributes: Vec::new(),
            treat_as_withdraw: false,
            end_of_rib: (empty && ipv4).then_some(Family::Ipv4),
            problems: Vec::new(),
            four_octet_as: cx.four_octet_as,
        };
        let mut check = Check {
            cx,
            inspected,
            seen: [false; 256],
            encodes_reachable: !nlri.is_empty(),
            worst: None,
        };
        check.attributes(attributes)?;
        check.missing()?;
        check.unsure_of_routes()?;
        Ok(check.finish())
    }
}

type Sections<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn sections(body: &[u8]) -> Result<Sections<'_>, WireError> {
    let mut r = Reader::new(body);
    let length = r.u16()?;
    let withdrawn = r.take(usize::from(length))?;
    let length = r.u16()?;
    let attributes = r.take(usize::from(length))?;
    Ok((withdrawn, attributes, r.rest()))
}

/// What is known halfway through.
struct Check<'a, 'c> {
    cx: &'c DecodeContext,
    inspected: Inspected<'a>,
    /// By type code.
    seen: [bool; 256],
    /// The message announces something, of whatever family.
    encodes_reachable: bool,
    /// The first error that was more than a discarded attribute.
    worst: Option<(AttributeError, &'a [u8])>,
}

impl<'a> Check<'a, '_> {
    fn attributes(&mut self, bytes: &'a [u8]) -> Result<(), UpdateError> {
        let mut r = Reader::new(bytes);
        while !r.is_empty() {
            let from_here = r;
            match read_attribute(&mut r) {
                Ok(attribute) => self.attribute(attribute)?,
                // RFC 7606 §4: what follows is lost, the NLRI field is not.
                Err(_) => {
                    let whole = { from_here }.rest();
                    let code = whole.get(1).copied().unwrap_or_default();
                    let code = AttributeCode(code);
                    return self.note(code, AttributeCause::Overrun, whole);
                }
            }
        }
        Ok(())
    }

    fn attribute(&mut self, attribute: Attribute<'a>) -> Result<(), UpdateError> {
        let Attribute {
            flags,
            code,
            value,
            whole,
        } = attribute;
        if self.seen(code) {
            return self.note(code, AttributeCause::Repeated, whole);
        }
        if let Some(seen) = self.seen.get_mut(usize::from(code.0)) {
            *seen = true;
        }
        let Some(definition) = DEFINITIONS.iter().find(|d| d.code == code) else {
            if flags & OPTIONAL == 0 {
                return self.note(code, AttributeCause::UnrecognizedWellKnown, whole);
            }
            self.inspected.attributes.push(attribute);
            return Ok(());
        };
        if let Some(cause) = definition.not_for(self.cx) {
            return self.note(code, cause, whole);
        }
        let carries_routes = matches!(definition.shape, Shape::Reach | Shape::Unreach);
        if flags & (OPTIONAL | TRANSITIVE) != definition.flags {
            self.note(code, AttributeCause::Flags { flags }, whole)?;
            // Its routes are still needed, to be taken as withdrawn.
            if !carries_routes {
                return Ok(());
            }
        }
        match definition.shape {
            Shape::Reach => self.reach(value, whole)?,
            Shape::Unreach => self.unreach(value, whole)?,
            shape => match shape.check(value, self.cx.four_octet_as) {
                Ok(()) => self.inspected.attributes.push(attribute),
                Err(cause) => self.note(code, cause, whole)?,
            },
        }
        Ok(())
    }

    /// ```text
    /// | AFI | SAFI | length | next hop | reserved | NLRI |
    /// |  2  |   1  |    1   |          |     1    |      |
    /// ```
    fn reach(&mut self, value: &'a [u8], whole: &'a [u8]) -> Result<(), UpdateError> {
        const CODE: AttributeCode = AttributeCode::MP_REACH_NLRI;
        let fields = |mut r: Reader<'a>| {
            let family = AfiSafi {
                afi: r.u16()?,
                safi: r.u8()?,
            };
            let length = r.u8()?;
            let next_hop = r.take(usize::from(length))?;
            let _reserved = r.u8()?;
            Ok::<_, WireError>((family, next_hop, r.rest()))
        };
        let length = AttributeCause::Length {
            length: value.len(),
        };
        let Ok((afi_safi, next_hop, nlri)) = fields(Reader::new(value)) else {
            return self.note(CODE, length, whole);
        };
        self.encodes_reachable |= !nlri.is_empty();
        let Some(family) = self.negotiated(afi_safi) else {
            return self.note(CODE, AttributeCause::Family(afi_safi), whole);
        };
        let Some((next_hop, link_local)) = self.next_hop(family, next_hop) else {
            return self.note(CODE, length, whole);
        };
        let Some(routes) = Routes::read(family, nlri) else {
            return self.note(CODE, AttributeCause::Nlri, whole);
        };
        if !is_host(next_hop) {
            self.note(CODE, AttributeCause::NextHop(next_hop), whole)?;
        }
        self.inspected.reach = Some(Reach {
            routes,
            next_hop,
            link_local,
        });
        Ok(())
    }

    /// RFC 2545 §3: one IPv6 address or two; for IPv4 routes only where RFC 8950 is agreed on.
    fn next_hop(&self, family: Family, bytes: &[u8]) -> Option<(IpAddr, Option<Ipv6Addr>)> {
        let mut r = Reader::new(bytes);
        let ipv6 = family == Family::Ipv6 || self.cx.extended_next_hop;
        let next_hop = match bytes.len() {
            4 if family == Family::Ipv4 => IpAddr::V4(r.array::<4>().ok()?.into()),
            16 | 32 if ipv6 => IpAddr::V6(r.array::<16>().ok()?.into()),
            _ => return None,
        };
        Some((next_hop, r.array::<16>().ok().map(Ipv6Addr::from)))
    }

    /// ```text
    /// | AFI | SAFI | withdrawn routes |
    /// ```
    fn unreach(&mut self, value: &'a [u8], whole: &'a [u8]) -> Result<(), UpdateError> {
        const CODE: AttributeCode = AttributeCode::MP_UNREACH_NLRI;
        let fields = |mut r: Reader<'a>| {
            let family = AfiSafi {
                afi: r.u16()?,
                safi: r.u8()?,
            };
            Ok::<_, WireError>((family, r.rest()))
        };
        let Ok((afi_safi, nlri)) = fields(Reader::new(value)) else {
            let length = value.len();
            return self.note(CODE, AttributeCause::Length { length }, whole);
        };
        let Some(family) = self.negotiated(afi_safi) else {
            return self.note(CODE, AttributeCause::Family(afi_safi), whole);
        };
        match Routes::read(family, nlri) {
            Some(routes) => {
                self.inspected.unreach = Some(routes);
                Ok(())
            }
            None => self.note(CODE, AttributeCause::Nlri, whole),
        }
    }

    fn negotiated(&self, family: AfiSafi) -> Option<Family> {
        family.family().filter(|f| self.cx.families.contains(f))
    }

    fn seen(&self, code: AttributeCode) -> bool {
        self.seen.get(usize::from(code.0)) == Some(&true)
    }

    /// RFC 4271 §5, RFC 4760 §3: NEXT_HOP belongs to the NLRI field.
    fn missing(&mut self) -> Result<(), UpdateError> {
        let in_reach = self.inspected.reach.as_ref().map_or(0, |r| r.routes.len());
        let in_nlri = self.inspected.nlri.len();
        for (code, wanted) in [
            (AttributeCode::ORIGIN, in_nlri + in_reach > 0),
            (AttributeCode::AS_PATH, in_nlri + in_reach > 0),
            (AttributeCode::NEXT_HOP, in_nlri > 0),
        ] {
            if wanted && !self.seen(code) {
                self.note(code, AttributeCause::Missing, &[])?;
            }
        }
        Ok(())
    }

    /// RFC 7606 §5.2: attributes of no route, one of them wrong: perhaps it hides the routes that
    /// should be taken as withdrawn.
    fn unsure_of_routes(&mut self) -> Result<(), UpdateError> {
        let unreach = usize::from(AttributeCode::MP_UNREACH_NLRI.0);
        let others = self
            .seen
            .iter()
            .enumerate()
            .any(|(code, seen)| *seen && code != unreach);
        match self.worst.take() {
            Some((error, whole))
                if !self.encodes_reachable
                    && (others || error.cause == AttributeCause::Overrun) =>
            {
                Err(UpdateError::Attribute {
                    error,
                    attribute: whole.to_vec(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Keeps a mild error, returns one that ends the session.
    fn note(
        &mut self,
        code: AttributeCode,
        cause: AttributeCause,
        whole: &'a [u8],
    ) -> Result<(), UpdateError> {
        let error = AttributeError { code, cause };
        match error.severity(whole) {
            Severity::Reset(_) => {
                return Err(UpdateError::Attribute {
                    error,
                    attribute: whole.to_vec(),
                });
            }
            Severity::TreatAsWithdraw => {
                self.inspected.treat_as_withdraw = true;
                self.worst.get_or_insert((error.clone(), whole));
            }
            Severity::Discard => {}
        }
        self.inspected.problems.push(error);
        Ok(())
    }

    /// RFC 4724 §2: a MP_UNREACH_NLRI alone and empty ends the initial routes of its family.
    fn finish(mut self) -> Inspected<'a> {
        let alone = self.seen.iter().filter(|seen| **seen).count() == 1
            && self.inspected.withdrawn.len() + self.inspected.nlri.len() == 0;
        if let Some(routes) = self.inspected.unreach.filter(|r| alone && r.len() == 0) {
            self.inspected.end_of_rib = Some(routes.family);
        }
        self.inspected
    }
}

fn read_attribute<'a>(r: &mut Reader<'a>) -> Result<Attribute<'a>, WireError> {
    let from_here = { *r }.rest();
    let flags = r.u8()?;
    let code = AttributeCode(r.u8()?);
    let length = if flags & EXTENDED_LENGTH == 0 {
        u16::from(r.u8()?)
    } else {
        r.u16()?
    };
    let value = r.take(usize::from(length))?;
    let used = from_here.len() - r.remaining();
    Ok(Attribute {
        flags,
        code,
        value,
        whole: from_here.get(..used).unwrap_or(from_here),
    })
}

/// Whether it can be one host's address (RFC 4271 §6.3).
fn is_host(addr: IpAddr) -> bool {
    let broadcast = addr == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(addr.is_unspecified() || addr.is_loopback() || addr.is_multicast() || broadcast)
}

/// What is known of an attribute.
struct Definition {
    code: AttributeCode,
    /// Optional and transitive bits.
    flags: u8,
    shape: Shape,
}

#[derive(Clone, Copy)]
enum Shape {
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
const DEFINITIONS: &[Definition] = &[
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
    fn not_for(&self, cx: &DecodeContext) -> Option<AttributeCause> {
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
    fn check(self, value: &[u8], four_octet_as: bool) -> Result<(), AttributeCause> {
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
