//! An UPDATE checked in place (RFC 4271 §6.3 as RFC 7606 revises it; RFC 4760 §7, RFC 6793 §6, RFC 8950
//! §4): nothing of it is copied, whatever it holds.
//!
//! Left out: the leftmost AS of a path is not compared with the peer's (RFC 4271 §6.3 lets us), since a
//! route server's peers would fail it and no received route is used here. LOCAL_PREF that is missing on
//! iBGP is no error (RFC 4271 §5.1.5 asks senders for it, RFC 7606 §3 d only for the mandatory ones).
//! ADD-PATH (RFC 7911) is never offered, so prefixes have no identifiers.

use std::net::{IpAddr, Ipv6Addr};

use super::attribute::{EXTENDED_LENGTH, OPTIONAL, TRANSITIVE};
use super::definition::{DEFINITIONS, Shape, is_host};
use super::{
    AfiSafi, AttributeCause, AttributeCode, AttributeError, DecodeContext, Severity, UpdateError,
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

#[cfg(test)]
mod tests {
    use super::super::golden::{cx, hex, prefix};
    use super::super::{
        Frame, Message, Notification, ProtocolError, Received, SessionType, UpdateSummary, decode,
        receive,
    };
    use super::*;

    const ORIGIN: &str = "40010100 ";
    const AS_PATH: &str = "400206 0201 0000fde9 ";
    const NEXT_HOP: &str = "400304 0a000002 ";
    /// 192.0.2.53/32.
    const NLRI: &str = "20 c0000235";
    /// The value of MP_REACH_NLRI for 2001:db8::/32 via 2001:db8:1::2.
    const REACH: &str = "0002 01 10 20010db8000100000000000000000002 00 20 20010db8";
    /// 203.0.113.0/24.
    const WITHDRAWN: &str = "18 cb0071";

    /// What one route came to.
    #[derive(Debug, PartialEq)]
    enum Fate {
        /// Nothing is wrong.
        Announced,
        /// Announced, less attributes.
        Discard(Vec<AttributeError>),
        TreatAsWithdraw(Vec<AttributeError>),
        /// Subcode and data.
        Reset(u8, Vec<u8>),
    }

    fn body(withdrawn: &str, attributes: &str, nlri: &str) -> Vec<u8> {
        let counted = |text| {
            let bytes = hex(text);
            let length = u16::try_from(bytes.len()).unwrap();
            [length.to_be_bytes().as_slice(), bytes.as_slice()].concat()
        };
        [counted(withdrawn), counted(attributes), hex(nlri)].concat()
    }

    fn fate(cx: &DecodeContext, attributes: &str, nlri: &str) -> Fate {
        let frame = Frame {
            kind: 2,
            body: body(WITHDRAWN, attributes, nlri),
        };
        let full = decode(&frame, cx);
        match receive(&frame, cx) {
            Err(error) => {
                assert_eq!(full, Err(error.clone()));
                let Notification {
                    code,
                    subcode,
                    data,
                } = (&error).into();
                assert_eq!(code, 3);
                Fate::Reset(subcode, data)
            }
            Ok(Received::Update(summary)) => {
                let Ok(Message::Update(update)) = full else {
                    panic!("{full:?}");
                };
                assert!(update.withdrawn.contains(&prefix("203.0.113.0/24")));
                assert_eq!(update.withdrawn.len(), summary.withdrawn);
                let announced = update.announced.iter().map(|a| a.prefixes.len());
                assert_eq!(announced.sum::<usize>(), summary.announced);
                let UpdateSummary {
                    withdrawn,
                    announced,
                    problems,
                    ..
                } = summary;
                match (announced, problems) {
                    (0, problems) => {
                        assert!(withdrawn > 1, "the routes are lost");
                        Fate::TreatAsWithdraw(problems)
                    }
                    (_, problems) if problems.is_empty() => Fate::Announced,
                    (_, problems) => Fate::Discard(problems),
                }
            }
            Ok(other) => panic!("{other:?}"),
        }
    }

    fn error(code: AttributeCode, cause: AttributeCause) -> Vec<AttributeError> {
        vec![AttributeError { code, cause }]
    }

    fn discard(code: AttributeCode, cause: AttributeCause) -> Fate {
        Fate::Discard(error(code, cause))
    }

    fn withdraw(code: AttributeCode, cause: AttributeCause) -> Fate {
        Fate::TreatAsWithdraw(error(code, cause))
    }

    fn length(length: usize) -> AttributeCause {
        AttributeCause::Length { length }
    }

    fn flags(flags: u8) -> AttributeCause {
        AttributeCause::Flags { flags }
    }

    fn ibgp() -> DecodeContext {
        DecodeContext {
            session: SessionType::Ibgp,
            ..cx()
        }
    }

    fn old_speaker() -> DecodeContext {
        DecodeContext {
            four_octet_as: false,
            ..cx()
        }
    }

    /// `extra` stands behind the mandatory attributes of one IPv4 route.
    fn with(cx: &DecodeContext, extra: &str) -> Fate {
        let path = if cx.four_octet_as {
            AS_PATH
        } else {
            "400204 0201 fde9 "
        };
        fate(cx, &[ORIGIN, path, NEXT_HOP, extra].concat(), NLRI)
    }

    type Row = (&'static str, &'static str, Fate);

    /// One malformed attribute beside good ones; the section is RFC 7606's unless it says more.
    fn optional_rows() -> Vec<Row> {
        use AttributeCode as C;
        vec![
            (
                "§7.4 MED of 3 bytes",
                "800403 000000",
                withdraw(C::MULTI_EXIT_DISC, length(3)),
            ),
            (
                "§7.4 MED, empty",
                "800400",
                withdraw(C::MULTI_EXIT_DISC, length(0)),
            ),
            (
                "§3 c MED, transitive",
                "c00404 00000001",
                withdraw(C::MULTI_EXIT_DISC, flags(0xc0)),
            ),
            (
                "§3 c MED, well-known",
                "400404 00000001",
                withdraw(C::MULTI_EXIT_DISC, flags(0x40)),
            ),
            (
                "§7.5 LOCAL_PREF on eBGP",
                "400504 00000064",
                discard(C::LOCAL_PREF, AttributeCause::WrongSession),
            ),
            (
                "§7.5 malformed LOCAL_PREF on eBGP",
                "c00501 00",
                discard(C::LOCAL_PREF, AttributeCause::WrongSession),
            ),
            (
                "§7.6 ATOMIC_AGGREGATE of a byte",
                "400601 00",
                discard(C::ATOMIC_AGGREGATE, length(1)),
            ),
            (
                "§4 ATOMIC_AGGREGATE, empty as it is",
                "400600",
                Fate::Announced,
            ),
            (
                "§3 f ATOMIC_AGGREGATE, optional",
                "c00600",
                discard(C::ATOMIC_AGGREGATE, flags(0xc0)),
            ),
            (
                "§7.7 AGGREGATOR of 6 bytes",
                "c00706 fde9 0a000001",
                discard(C::AGGREGATOR, length(6)),
            ),
            (
                "§3 f AGGREGATOR, not transitive",
                "800708 0000fde9 0a000001",
                discard(C::AGGREGATOR, flags(0x80)),
            ),
            (
                "RFC 7607 §2 AGGREGATOR in AS 0",
                "c00708 00000000 0a000001",
                discard(C::AGGREGATOR, AttributeCause::AsZero),
            ),
            ("AGGREGATOR", "c00708 0000fde9 0a000001", Fate::Announced),
            (
                "§7.8 COMMUNITIES, empty",
                "c00800",
                withdraw(C::COMMUNITIES, length(0)),
            ),
            (
                "§7.8 COMMUNITIES of 5 bytes",
                "c00805 fde9006400",
                withdraw(C::COMMUNITIES, length(5)),
            ),
            (
                "§3 c COMMUNITIES, not transitive",
                "800804 fde90064",
                withdraw(C::COMMUNITIES, flags(0x80)),
            ),
            (
                "COMMUNITIES with a needless extended length",
                "d0080004 fde90064",
                Fate::Announced,
            ),
            (
                "COMMUNITIES with the partial bit",
                "e00804 fde90064",
                Fate::Announced,
            ),
            (
                "§7.9 ORIGINATOR_ID on eBGP",
                "800904 0a000001",
                discard(C::ORIGINATOR_ID, AttributeCause::WrongSession),
            ),
            (
                "§7.10 CLUSTER_LIST on eBGP",
                "800a04 0a000001",
                discard(C::CLUSTER_LIST, AttributeCause::WrongSession),
            ),
            (
                "§7.14 EXTENDED_COMMUNITIES of 7 bytes",
                "c01007 0002fde9000000",
                withdraw(C::EXTENDED_COMMUNITIES, length(7)),
            ),
            (
                "§7.14 EXTENDED_COMMUNITIES, empty",
                "c01000",
                withdraw(C::EXTENDED_COMMUNITIES, length(0)),
            ),
            (
                "§7.15 IPV6_EXT_COMMUNITIES of 8 bytes",
                "c01908 0002fde900000001",
                withdraw(C::IPV6_EXT_COMMUNITIES, length(8)),
            ),
            (
                "RFC 8092 §6 LARGE_COMMUNITIES of 8 bytes",
                "c02008 0000fde900000001",
                withdraw(C::LARGE_COMMUNITIES, length(8)),
            ),
            (
                "RFC 8092 §6 LARGE_COMMUNITIES, empty",
                "c02000",
                withdraw(C::LARGE_COMMUNITIES, length(0)),
            ),
            (
                "RFC 9234 §5 ONLY_TO_CUSTOMER of 2 bytes",
                "c02302 fde9",
                withdraw(C::ONLY_TO_CUSTOMER, length(2)),
            ),
            (
                "RFC 6793 §4.1 AS4_PATH from a new speaker",
                "c01106 0201 0000fde9",
                discard(C::AS4_PATH, AttributeCause::FromNewSpeaker),
            ),
            (
                "RFC 6793 §4.1 AS4_AGGREGATOR from a new speaker",
                "c01200",
                discard(C::AS4_AGGREGATOR, AttributeCause::FromNewSpeaker),
            ),
            (
                "RFC 4271 §5 unknown, optional and transitive",
                "c0c802 0102",
                Fate::Announced,
            ),
            (
                "RFC 4271 §5 unknown, optional, empty",
                "80c800",
                Fate::Announced,
            ),
            (
                "RFC 4271 §6.3 unknown, well-known",
                "40c802 0102",
                Fate::Reset(2, hex("40c8020102")),
            ),
            (
                "§3 g ORIGIN again, malformed",
                "400101 07",
                discard(C::ORIGIN, AttributeCause::Repeated),
            ),
            (
                "§3 g unknown attribute again",
                "c0c80101 c0c80102",
                discard(C(200), AttributeCause::Repeated),
            ),
            (
                "§4 the last attribute too long by one",
                "c00805 fde90064",
                withdraw(C::COMMUNITIES, AttributeCause::Overrun),
            ),
            (
                "§4 one byte of a header",
                "c0",
                withdraw(C(0), AttributeCause::Overrun),
            ),
            (
                "§4 two bytes of a header",
                "c008",
                withdraw(C::COMMUNITIES, AttributeCause::Overrun),
            ),
            (
                "§4 three bytes of an extended header",
                "d00800",
                withdraw(C::COMMUNITIES, AttributeCause::Overrun),
            ),
            (
                "§3 j MP_REACH_NLRI past the end",
                "800e05 0002",
                Fate::Reset(1, vec![]),
            ),
        ]
    }

    fn ibgp_rows() -> Vec<Row> {
        use AttributeCode as C;
        vec![
            ("LOCAL_PREF", "400504 00000064", Fate::Announced),
            (
                "§7.5 LOCAL_PREF of 5 bytes",
                "400505 0000006400",
                withdraw(C::LOCAL_PREF, length(5)),
            ),
            (
                "§3 c LOCAL_PREF, optional",
                "c00504 00000064",
                withdraw(C::LOCAL_PREF, flags(0xc0)),
            ),
            (
                "§7.9 ORIGINATOR_ID of 3 bytes",
                "800903 0a0000",
                withdraw(C::ORIGINATOR_ID, length(3)),
            ),
            (
                "§7.10 CLUSTER_LIST of 6 bytes",
                "800a06 0a0000010a00",
                withdraw(C::CLUSTER_LIST, length(6)),
            ),
            (
                "§7.10 CLUSTER_LIST, empty",
                "800a00",
                withdraw(C::CLUSTER_LIST, length(0)),
            ),
        ]
    }

    /// RFC 6793 §6: what comes from a speaker with two-octet AS numbers.
    fn old_speaker_rows() -> Vec<Row> {
        use AttributeCode as C;
        let malformed = |cause| discard(C::AS4_PATH, cause);
        vec![
            ("AS4_PATH", "c01106 0201 0000fde9", Fate::Announced),
            ("§6 AS4_PATH, empty", "c01100", malformed(length(0))),
            (
                "§6 AS4_PATH past its end",
                "c01106 0202 0000fde9",
                malformed(AttributeCause::MalformedPath),
            ),
            (
                "§6 AS4_PATH, unknown segment",
                "c01106 0901 0000fde9",
                malformed(AttributeCause::MalformedPath),
            ),
            (
                "§6 AS4_PATH, empty segment",
                "c01108 0201 0000fde9 0200",
                malformed(AttributeCause::MalformedPath),
            ),
            (
                "§3 AS4_PATH with a confederation",
                "c0110c 0301 0000fde9 0201 0000fde9",
                Fate::Announced,
            ),
            (
                "RFC 7607 §2 AS4_PATH with AS 0",
                "c01106 0201 00000000",
                malformed(AttributeCause::AsZero),
            ),
            (
                "§6 AS4_PATH, not transitive",
                "801106 0201 0000fde9",
                malformed(flags(0x80)),
            ),
            (
                "§6 AS4_AGGREGATOR of 6 bytes",
                "c01206 fde9 0a000001",
                discard(C::AS4_AGGREGATOR, length(6)),
            ),
            (
                "AGGREGATOR of 6 bytes",
                "c00706 fde9 0a000001",
                Fate::Announced,
            ),
            (
                "RFC 7606 §7.7 AGGREGATOR of 8 bytes",
                "c00708 0000fde9 0a000001",
                discard(C::AGGREGATOR, length(8)),
            ),
        ]
    }

    #[test]
    fn an_attribute_that_is_wrong_has_the_effect_its_section_asks_for() {
        for (cx, rows) in [
            (cx(), optional_rows()),
            (ibgp(), ibgp_rows()),
            (old_speaker(), old_speaker_rows()),
        ] {
            for (what, extra, expected) in rows {
                assert_eq!(with(&cx, extra), expected, "{what}");
            }
        }
    }

    /// RFC 7606 §7.1 to §7.3: the mandatory ones, each in place of the good one.
    #[test]
    fn a_mandatory_attribute_that_is_wrong_withdraws_the_routes() {
        use AttributeCode as C;
        let path = |cause| withdraw(C::AS_PATH, cause);
        let malformed = || path(AttributeCause::MalformedPath);
        let hop = |text: &str| {
            let cause = AttributeCause::NextHop(text.parse().unwrap());
            withdraw(C::NEXT_HOP, cause)
        };
        let rows = [
            (
                "§7.1 undefined",
                "40010103",
                withdraw(C::ORIGIN, AttributeCause::Value { value: 3 }),
            ),
            ("§7.1 empty", "400100", withdraw(C::ORIGIN, length(0))),
            (
                "§7.1 of 2 bytes",
                "400102 0000",
                withdraw(C::ORIGIN, length(2)),
            ),
            (
                "§3 c optional",
                "c0010100",
                withdraw(C::ORIGIN, flags(0xc0)),
            ),
            (
                "§3 c not transitive",
                "00010100",
                withdraw(C::ORIGIN, flags(0)),
            ),
            (
                "§7.3 of 5 bytes",
                "400305 0a00000200",
                withdraw(C::NEXT_HOP, length(5)),
            ),
            (
                "§7.3 of 16 bytes",
                "400310 20010db8000100000000000000000002",
                withdraw(C::NEXT_HOP, length(16)),
            ),
            (
                "RFC 4271 §6.3 unspecified",
                "400304 00000000",
                hop("0.0.0.0"),
            ),
            (
                "RFC 4271 §6.3 multicast",
                "400304 e0000001",
                hop("224.0.0.1"),
            ),
            (
                "RFC 4271 §6.3 broadcast",
                "400304 ffffffff",
                hop("255.255.255.255"),
            ),
        ];
        for (what, attribute, expected) in rows {
            let good = [ORIGIN, AS_PATH, NEXT_HOP];
            let code = hex(attribute)[1];
            let all: String = good
                .iter()
                .map(|g| if hex(g)[1] == code { attribute } else { *g })
                .collect();
            assert_eq!(fate(&cx(), &all, NLRI), expected, "{what}");
        }
        for (what, value, expected) in [
            ("§7.2 unknown segment type", "0501 0000fde9", malformed()),
            ("§7.2 segment past the end", "0202 0000fde9", malformed()),
            (
                "§7.2 one byte behind the last",
                "0201 0000fde9 02",
                malformed(),
            ),
            ("§7.2 empty segment", "0200", malformed()),
            ("§7.2 two-octet numbers", "0201 fde9", malformed()),
            ("RFC 5065 §5 confederation", "0301 0000fde9", malformed()),
            (
                "RFC 7607 §2 AS 0",
                "0202 0000fde9 00000000",
                path(AttributeCause::AsZero),
            ),
        ] {
            let length = hex(value).len();
            let attributes = format!("{ORIGIN} 4002{length:02x} {value} {NEXT_HOP}");
            assert_eq!(fate(&cx(), &attributes, NLRI), expected, "{what}");
        }
        let empty = format!("{ORIGIN} 400200 {NEXT_HOP}");
        assert_eq!(
            fate(&cx(), &empty, NLRI),
            Fate::Announced,
            "§4: may be empty"
        );
    }

    /// RFC 7606 §3 d; RFC 4760 §3 frees MP_REACH_NLRI from NEXT_HOP.
    #[test]
    fn a_missing_mandatory_attribute_withdraws_the_routes() {
        use AttributeCode as C;
        let missing = |code| withdraw(code, AttributeCause::Missing);
        let reach = format!("800e1a {REACH} ");
        for (attributes, nlri, expected) in [
            ([AS_PATH, NEXT_HOP, ""], NLRI, missing(C::ORIGIN)),
            ([ORIGIN, NEXT_HOP, ""], NLRI, missing(C::AS_PATH)),
            ([ORIGIN, AS_PATH, ""], NLRI, missing(C::NEXT_HOP)),
            ([ORIGIN, AS_PATH, &reach], NLRI, missing(C::NEXT_HOP)),
            ([ORIGIN, &reach, ""], "", missing(C::AS_PATH)),
            ([AS_PATH, &reach, ""], "", missing(C::ORIGIN)),
            ([ORIGIN, AS_PATH, &reach], "", Fate::Announced),
            ([&reach, ORIGIN, AS_PATH], "", Fate::Announced),
        ] {
            assert_eq!(
                fate(&cx(), &attributes.concat(), nlri),
                expected,
                "{attributes:?}"
            );
        }
    }

    /// RFC 7606 §3 h.
    #[test]
    fn of_several_errors_the_strongest_counts() {
        use AttributeCode as C;
        let problems = |fate| match fate {
            Fate::TreatAsWithdraw(problems) => problems.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(problems(with(&cx(), "400601 00 c00800")), 2);
        assert_eq!(problems(with(&cx(), "c00800 400601 00 800400")), 3);
        let reset = Fate::Reset(2, hex("40c800"));
        assert_eq!(with(&cx(), "c00800 400601 00 40c800"), reset);
        let twice = with(&cx(), "c00804 fde90064 c00800");
        assert_eq!(twice, discard(C::COMMUNITIES, AttributeCause::Repeated));
    }

    /// RFC 7606 §5.3, §7.11; RFC 4760 §7: the data is the whole attribute.
    #[test]
    fn routes_that_cannot_be_found_end_the_session() {
        let global = "20010db8000100000000000000000002";
        let rows = [
            ("§5.3 three bytes", "800e03 000201".to_owned()),
            ("§5.3 empty", "800e00".to_owned()),
            (
                "§5.3 no reserved byte",
                format!("800e14 000201 10 {global}"),
            ),
            (
                "§7.11 next hop past the end",
                format!("800e15 000201 20 {global} 00"),
            ),
            (
                "§7.11 next hop of 4 bytes",
                "800e09 000201 04 0a000002 00".to_owned(),
            ),
            (
                "§7.11 next hop of 24 bytes",
                format!("800e1d 000201 18 0000000000000000 {global} 00"),
            ),
            ("§7.11 no next hop", "800e05 000201 00 00".to_owned()),
            (
                "§5.3 a length of 129",
                format!("800e27 000201 10 {global} 00 81 {global} 00"),
            ),
            (
                "§5.3 a prefix past the end",
                format!("800e18 000201 10 {global} 00 20 2001"),
            ),
            ("§5.3 MP_UNREACH_NLRI of 2 bytes", "800f02 0002".to_owned()),
            (
                "§5.3 a withdrawn length of 129",
                format!("800f15 000201 81 {global} 00"),
            ),
            (
                "§5.3 a withdrawn prefix past the end",
                "800f06 000201 20 2001".to_owned(),
            ),
        ];
        for (what, attribute) in rows {
            let expected = Fate::Reset(9, hex(&attribute));
            assert_eq!(with(&cx(), &attribute), expected, "{what}");
        }
        let reach = format!("800e1a {REACH}");
        let twice = format!("{reach} {reach}");
        assert_eq!(with(&cx(), &twice), Fate::Reset(1, vec![]), "§3 g");
        let twice = "800f03 000201 800f03 000201";
        assert_eq!(with(&cx(), twice), Fate::Reset(1, vec![]), "§3 g");
    }

    /// RFC 8950 §4: a 16-byte next hop for IPv4 is a wrong length where nobody agreed on it.
    #[test]
    fn ipv4_over_ipv6_is_for_those_who_agreed_on_it() {
        let attribute = "800e1a 0001 01 10 fe800000000000000000000000000002 00 20 c0000235";
        let attributes = [ORIGIN, AS_PATH, attribute].concat();
        assert_eq!(fate(&cx(), &attributes, ""), Fate::Announced);
        let cx = DecodeContext {
            extended_next_hop: false,
            ..cx()
        };
        assert_eq!(fate(&cx, &attributes, ""), Fate::Reset(9, hex(attribute)));
        let classic = [ORIGIN, AS_PATH, "800e0e 0001 01 04 0a000002 00 20 c0000235"].concat();
        assert_eq!(fate(&cx, &classic, ""), Fate::Announced, "RFC 4760 §3");
    }

    #[test]
    fn a_multiprotocol_next_hop_that_is_no_host_withdraws_the_routes() {
        for (hop, text) in [
            ("00000000000000000000000000000000", "::"),
            ("ff020000000000000000000000000001", "ff02::1"),
        ] {
            let reach = format!("800e1a 0002 01 10 {hop} 00 20 20010db8");
            let cause = AttributeCause::NextHop(text.parse().unwrap());
            let attributes = [ORIGIN, AS_PATH, &reach].concat();
            let expected = withdraw(AttributeCode::MP_REACH_NLRI, cause);
            assert_eq!(fate(&cx(), &attributes, ""), expected);
        }
    }

    /// RFC 7606 §3 c: the routes are still found, and withdrawn.
    #[test]
    fn wrong_flags_on_mp_reach_withdraw_its_routes() {
        let attributes = format!("{ORIGIN}{AS_PATH} c00e1a {REACH}");
        let expected = withdraw(AttributeCode::MP_REACH_NLRI, flags(0xc0));
        assert_eq!(fate(&cx(), &attributes, ""), expected);
    }

    /// RFC 4760 §8: a family that was never offered is passed over, whatever it holds.
    #[test]
    fn a_family_not_negotiated_is_passed_over() {
        let vpn = AfiSafi { afi: 1, safi: 128 };
        for (cx, attribute, family) in [
            (cx(), "800e07 0001 80 00 00 ff ff", vpn),
            (cx(), "800f05 0001 80 ff ff", vpn),
            (
                only(Family::Ipv4),
                "800e09 0002 01 03 aabbcc 00 ff",
                Family::Ipv6.into(),
            ),
            (only(Family::Ipv4), "800f04 0002 01 ff", Family::Ipv6.into()),
        ] {
            let code = AttributeCode(hex(attribute)[1]);
            let expected = discard(code, AttributeCause::Family(family));
            assert_eq!(with(&cx, attribute), expected, "{attribute}");
        }
        let frame = Frame {
            kind: 2,
            body: body(WITHDRAWN, &[ORIGIN, AS_PATH, NEXT_HOP].concat(), NLRI),
        };
        let nothing = Received::Update(UpdateSummary::default());
        assert_eq!(receive(&frame, &only(Family::Ipv6)), Ok(nothing));
    }

    fn only(family: Family) -> DecodeContext {
        DecodeContext {
            families: [family].into(),
            ..cx()
        }
    }

    fn reset(body: Vec<u8>) -> (u8, u8, Vec<u8>) {
        let error = receive(&Frame { kind: 2, body }, &cx()).unwrap_err();
        let Notification {
            code,
            subcode,
            data,
        } = Notification::from(&error);
        (code, subcode, data)
    }

    /// RFC 4271 §6.3, first check, and the network fields (RFC 7606 §3 i, j).
    #[test]
    fn lengths_that_pass_the_message_end_the_session() {
        for text in [
            "",
            "00",
            "0000",
            "0000 00",
            "0001 0000",
            "0000 0001",
            "0005 20c0000235 00",
            "ffff 0000",
            "0000 ffff 40010100",
        ] {
            assert_eq!(reset(hex(text)), (3, 1, vec![]), "{text}");
        }
        let good = [ORIGIN, AS_PATH, NEXT_HOP].concat();
        for (withdrawn, nlri) in [
            ("", "21 c000023500"),
            ("", "20 c00002"),
            ("", "20 c0000235 18"),
            ("21 c000023500", ""),
            ("18 cb00", ""),
            ("ff", ""),
        ] {
            let attributes = if nlri.is_empty() { "" } else { &good };
            assert_eq!(
                reset(body(withdrawn, attributes, nlri)),
                (3, 10, vec![]),
                "{withdrawn} {nlri}"
            );
        }
    }

    /// RFC 7606 §5.2: attributes without routes are no reason to reset, unless one of them is wrong.
    #[test]
    fn an_error_without_routes_to_withdraw_ends_the_session() {
        assert_eq!(reset(body("", "40010107", "")), (3, 6, hex("40010107")));
        assert_eq!(reset(body(WITHDRAWN, "c00800", "")), (3, 5, hex("c00800")));
        assert_eq!(reset(body("", "40", "")), (3, 1, vec![]));
        assert_eq!(
            reset(body("", "40020100 800f03 000201", "")),
            (3, 11, vec![])
        );
        assert_eq!(
            reset(body(
                "",
                "800e15 000201 10 00000000000000000000000000000000 00",
                ""
            )),
            (
                3,
                8,
                hex("800e15 000201 10 00000000000000000000000000000000 00")
            )
        );
        let fine = |attributes: &str| {
            let body = body("", attributes, "");
            let frame = Frame { kind: 2, body };
            match receive(&frame, &cx()) {
                Ok(Received::Update(summary)) => summary,
                other => panic!("{attributes}: {other:?}"),
            }
        };
        assert_eq!(fine(ORIGIN), UpdateSummary::default());
        assert_eq!(
            fine("400601 00").problems.len(),
            1,
            "a discarded one is harmless"
        );
        // All that a MP_UNREACH_NLRI alone holds is withdrawn anyway.
        let unreach = fine("c00f08 000201 20 20010db8");
        assert_eq!((unreach.withdrawn, unreach.problems.len()), (1, 1));
    }

    /// RFC 4724 §2.
    #[test]
    fn end_of_rib_is_an_update_of_nothing_else() {
        let end = |body: Vec<u8>, cx: &DecodeContext| match receive(&Frame { kind: 2, body }, cx) {
            Ok(Received::Update(summary)) => summary.end_of_rib,
            other => panic!("{other:?}"),
        };
        let unreach = "800f03 000201";
        assert_eq!(end(body("", "", ""), &cx()), Some(Family::Ipv4));
        assert_eq!(end(body("", unreach, ""), &cx()), Some(Family::Ipv6));
        assert_eq!(
            end(body("", "800f03 000101", ""), &cx()),
            Some(Family::Ipv4)
        );
        assert_eq!(end(body("", unreach, ""), &only(Family::Ipv4)), None);
        assert_eq!(end(body("", "", ""), &only(Family::Ipv6)), None);
        assert_eq!(end(body(WITHDRAWN, unreach, ""), &cx()), None);
        assert_eq!(end(body("", &[unreach, ORIGIN].concat(), ""), &cx()), None);
    }

    /// RFC 4271 §4.3: bits behind the length are of no account, and what is in both is announced.
    #[test]
    fn prefixes_are_read_as_they_are_meant() {
        let attributes = [ORIGIN, AS_PATH, NEXT_HOP].concat();
        let body = body("14 c000ff 08 0a", &attributes, "14 c000ff 00");
        match decode(&Frame { kind: 2, body }, &cx()) {
            Ok(Message::Update(update)) => {
                assert_eq!(update.withdrawn, [prefix("10.0.0.0/8")]);
                let announced = &update.announced[0].prefixes;
                assert_eq!(*announced, [prefix("192.0.240.0/20"), prefix("0.0.0.0/0")]);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn data_that_is_too_long_is_cut_and_the_notification_is_sent() {
        let value = "00".repeat(5000);
        let attribute = format!("50c8 1388 {value}");
        let error = receive(
            &Frame {
                kind: 2,
                body: body("", &attribute, ""),
            },
            &cx(),
        )
        .unwrap_err();
        assert!(matches!(error, ProtocolError::Update(_)));
        let bytes = Notification::from(&error).encode();
        assert_eq!(bytes.len(), 4096);
    }
}
