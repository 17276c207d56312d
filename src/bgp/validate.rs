//! Validation of a received UPDATE: only errors that reset the session are reported (RFC 4271 §6.3 as RFC
//! 7606 revises it, RFC 4760 §7, RFC 8950 §4). Received routes are not stored, so errors whose handling is
//! "treat-as-withdraw" or "attribute discard" have no effect here.
//!
//! Attribute values matter in one case: in an UPDATE without reachable routes an attribute error resets
//! the session, since the NLRI may be hidden in the malformed part (RFC 7606 §5.2). Left out: the leftmost
//! AS of a path is not compared with the peer's (optional in RFC 4271 §6.3), since route servers fail it. The
//! address of a next hop is not looked at, only its length (RFC 7606 §7.3, §7.11): four bytes hide no NLRI, and a
//! NEXT_HOP without NLRI is to be ignored (RFC 4760 §3). ADD-PATH (RFC 7911) is never offered, so
//! prefixes have no identifiers.

use super::attribute::{EXTENDED_LENGTH, OPTIONAL, TRANSITIVE};
use super::{AfiSafi, AttributeCode, DecodeContext, SessionType, UpdateError};
use crate::net::Family;
use crate::wire::{Reader, WireError};

/// Counts of a validated UPDATE; its routes are not stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateSummary {
    /// Routes, of negotiated families.
    pub withdrawn: usize,
    pub announced: usize,
    pub end_of_rib: Option<Family>,
}

/// ```text
/// | length | withdrawn routes | length | path attributes | NLRI to the message's end |
/// |    2   |                  |    2   |                 |                           |
/// ```
pub(super) fn check(body: &[u8], cx: &DecodeContext) -> Result<UpdateSummary, UpdateError> {
    let (withdrawn, attributes, nlri) =
        split_fields(body).map_err(|_| UpdateError::AttributeListLength)?;
    let ipv4 = cx.families.contains(&Family::Ipv4);
    let ipv4_field = |bytes| match count_prefixes(Family::Ipv4, bytes) {
        // A family that was not negotiated is parsed and ignored.
        Some(routes) => Ok(if ipv4 { routes } else { 0 }),
        None => Err(UpdateError::InvalidNetworkField),
    };
    let empty = withdrawn.is_empty() && attributes.is_empty() && nlri.is_empty();
    let mut check = Check {
        cx,
        summary: UpdateSummary {
            withdrawn: ipv4_field(withdrawn)?,
            announced: ipv4_field(nlri)?,
            end_of_rib: (empty && ipv4).then_some(Family::Ipv4),
        },
        seen: [false; 256],
        announces_routes: !nlri.is_empty(),
        treat_as_withdraw: None,
    };
    check.attributes(attributes)?;
    check.finish()
}

type UpdateFields<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Withdrawn routes, path attributes and NLRI.
fn split_fields(body: &[u8]) -> Result<UpdateFields<'_>, WireError> {
    let mut r = Reader::new(body);
    let length = r.u16()?;
    let withdrawn = r.take(usize::from(length))?;
    let length = r.u16()?;
    let attributes = r.take(usize::from(length))?;
    Ok((withdrawn, attributes, r.rest()))
}

/// How many routes there are; `None` where a length passes the family's width or the bytes end inside a
/// prefix (RFC 7606 §5.3).
fn count_prefixes(family: Family, bytes: &[u8]) -> Option<usize> {
    let mut r = Reader::new(bytes);
    let mut routes = 0;
    while !r.is_empty() {
        let len = r.u8().ok().filter(|len| *len <= family.width())?;
        r.take(usize::from(len.div_ceil(8))).ok()?;
        routes += 1;
    }
    Some(routes)
}

#[derive(Clone, Copy)]
struct Attribute<'a> {
    flags: u8,
    code: AttributeCode,
    value: &'a [u8],
    /// From the flags on.
    whole: &'a [u8],
}

impl Attribute<'_> {
    fn error(&self, subcode: u8) -> UpdateError {
        let attribute = self.whole.to_vec();
        UpdateError::Attribute { subcode, attribute }
    }

    fn carries_routes(&self) -> bool {
        matches!(
            self.code,
            AttributeCode::MP_REACH_NLRI | AttributeCode::MP_UNREACH_NLRI
        )
    }
}

/// The state of a validation.
struct Check<'c> {
    cx: &'c DecodeContext,
    summary: UpdateSummary,
    /// By type code.
    seen: [bool; 256],
    /// The message announces routes of any family.
    announces_routes: bool,
    /// The first error whose handling is treat-as-withdraw (RFC 7606 §2).
    treat_as_withdraw: Option<UpdateError>,
}

impl Check<'_> {
    fn attributes(&mut self, bytes: &[u8]) -> Result<(), UpdateError> {
        let mut r = Reader::new(bytes);
        while !r.is_empty() {
            let from_here = { r }.rest();
            let Ok(attribute) = read_attribute(&mut r) else {
                return self.overrun(from_here);
            };
            self.attribute(&attribute)?;
        }
        Ok(())
    }

    /// An attribute or its header exceeds the attribute list: the following attributes are lost, the NLRI
    /// field is not (RFC 7606 §4).
    fn overrun(&mut self, whole: &[u8]) -> Result<(), UpdateError> {
        let attribute = Attribute {
            flags: 0,
            code: AttributeCode(whole.get(1).copied().unwrap_or_default()),
            value: &[],
            whole,
        };
        let error = attribute.error(MALFORMED_LIST);
        match attribute.carries_routes() {
            true => Err(error),
            false if self.announces_routes => Ok(()),
            false => Err(self.treat_as_withdraw.take().unwrap_or(error)),
        }
    }

    fn attribute(&mut self, attribute: &Attribute<'_>) -> Result<(), UpdateError> {
        let code = usize::from(attribute.code.0);
        let seen = self.seen.get_mut(code);
        if seen.is_some_and(|seen| std::mem::replace(seen, true)) {
            // Only the first one counts, but routes that come twice cannot be (RFC 7606 §3 g).
            return match attribute.carries_routes() {
                true => Err(attribute.error(MALFORMED_LIST)),
                false => Ok(()),
            };
        }
        match attribute.code {
            AttributeCode::MP_REACH_NLRI => self.mp_reach(attribute),
            AttributeCode::MP_UNREACH_NLRI => self.mp_unreach(attribute),
            _ => {
                let Some(definition) = DEFINITIONS.iter().find(|d| d.0 == attribute.code) else {
                    return match attribute.flags & OPTIONAL {
                        0 => Err(attribute.error(UNRECOGNIZED)),
                        _ => Ok(()),
                    };
                };
                let (_, flags, value_format) = *definition;
                if let Some(subcode) = value_format.treat_as_withdraw(attribute, flags, self.cx) {
                    self.treat_as_withdraw
                        .get_or_insert(attribute.error(subcode));
                }
                Ok(())
            }
        }
    }

    /// ```text
    /// | AFI | SAFI | length | next hop | reserved | NLRI |
    /// |  2  |   1  |    1   |          |     1    |      |
    /// ```
    fn mp_reach(&mut self, attribute: &Attribute<'_>) -> Result<(), UpdateError> {
        let malformed = |_| attribute.error(OPTIONAL_ATTRIBUTE);
        let mut r = Reader::new(attribute.value);
        let family = read_family(&mut r).map_err(malformed)?;
        let length = r.u8().map_err(malformed)?;
        let next_hop = r.take(usize::from(length)).map_err(malformed)?;
        let _reserved = r.u8().map_err(malformed)?;
        let nlri = r.rest();
        self.announces_routes |= !nlri.is_empty();
        let Some(family) = self.negotiated_family(family, attribute)? else {
            return Ok(());
        };
        let routes = count_prefixes(family, nlri);
        let (true, Some(routes)) = (self.is_next_hop_length(family, next_hop.len()), routes) else {
            return Err(attribute.error(OPTIONAL_ATTRIBUTE));
        };
        self.summary.announced += routes;
        Ok(())
    }

    /// RFC 2545 §3: one IPv6 address or two; for IPv4 routes only where RFC 8950 is agreed on.
    fn is_next_hop_length(&self, family: Family, length: usize) -> bool {
        match length {
            4 => family == Family::Ipv4,
            16 | 32 => family == Family::Ipv6 || self.cx.extended_next_hop,
            _ => false,
        }
    }

    /// ```text
    /// | AFI | SAFI | withdrawn routes |
    /// ```
    fn mp_unreach(&mut self, attribute: &Attribute<'_>) -> Result<(), UpdateError> {
        let mut r = Reader::new(attribute.value);
        let malformed = |_| attribute.error(OPTIONAL_ATTRIBUTE);
        let family = read_family(&mut r).map_err(malformed)?;
        let Some(family) = self.negotiated_family(family, attribute)? else {
            return Ok(());
        };
        let routes = count_prefixes(family, r.rest()).ok_or(attribute.error(OPTIONAL_ATTRIBUTE))?;
        self.summary.withdrawn += routes;
        // RFC 4724 §2: alone and empty it ends the initial routes of its family.
        if routes == 0 && self.summary == UpdateSummary::default() {
            self.summary.end_of_rib = Some(family);
        }
        Ok(())
    }

    /// The family of MP_REACH_NLRI or MP_UNREACH_NLRI; `None`: it is not negotiated, and its routes are not parsed
    /// (RFC 4760 §8). Wrong flags then reset the session, since the routes cannot be treated as withdrawn (RFC
    /// 7606 §3 c, j).
    fn negotiated_family(
        &mut self,
        family: AfiSafi,
        attribute: &Attribute<'_>,
    ) -> Result<Option<Family>, UpdateError> {
        let family = family.family().filter(|f| self.cx.families.contains(f));
        if attribute.flags & OPTIONAL_TRANSITIVE != OPTIONAL {
            let error = attribute.error(FLAGS);
            if family.is_none() {
                return Err(error);
            }
            self.treat_as_withdraw.get_or_insert(error);
        }
        Ok(family)
    }

    /// RFC 7606 §5.2: an attribute error in an UPDATE without reachable routes resets the session, since the
    /// malformed part may hide the NLRI. If MP_UNREACH_NLRI is the only attribute, its routes are withdrawn anyway.
    fn finish(mut self) -> Result<UpdateSummary, UpdateError> {
        let mp_unreach = usize::from(AttributeCode::MP_UNREACH_NLRI.0);
        let mut seen = self.seen.iter().enumerate();
        let others = seen.any(|(code, seen)| *seen && code != mp_unreach);
        match self.treat_as_withdraw {
            Some(error) if !self.announces_routes && others => return Err(error),
            _ => {}
        }
        if others {
            self.summary.end_of_rib = None;
        }
        Ok(self.summary)
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

fn read_family(r: &mut Reader<'_>) -> Result<AfiSafi, WireError> {
    Ok(AfiSafi {
        afi: r.u16()?,
        safi: r.u8()?,
    })
}

/// Subcodes of an UPDATE Message Error (RFC 4271 §6.3, RFC 4760 §7).
const MALFORMED_LIST: u8 = 1;
const UNRECOGNIZED: u8 = 2;
const FLAGS: u8 = 4;
const LENGTH: u8 = 5;
const ORIGIN: u8 = 6;
const OPTIONAL_ATTRIBUTE: u8 = 9;
const AS_PATH: u8 = 11;

/// The valid values of an attribute (RFC 7606 §7, RFC 8092 §6, RFC 9234 §5).
#[derive(Clone, Copy)]
enum ValueFormat {
    Exactly(usize),
    /// One or more of so many bytes.
    Items(usize),
    Origin,
    AsPath,
    /// Known, and discarded when malformed (RFC 7606 §7.6, §7.7; RFC 6793 §6).
    Discarded,
}

const WELL_KNOWN: u8 = TRANSITIVE;
const OPTIONAL_TRANSITIVE: u8 = OPTIONAL | TRANSITIVE;

/// With the optional and transitive bits of each; those that carry routes have a reader of their own.
const DEFINITIONS: &[(AttributeCode, u8, ValueFormat)] = &[
    (AttributeCode::ORIGIN, WELL_KNOWN, ValueFormat::Origin),
    (AttributeCode::AS_PATH, WELL_KNOWN, ValueFormat::AsPath),
    (AttributeCode::NEXT_HOP, WELL_KNOWN, ValueFormat::Exactly(4)),
    (
        AttributeCode::MULTI_EXIT_DISC,
        OPTIONAL,
        ValueFormat::Exactly(4),
    ),
    (
        AttributeCode::LOCAL_PREF,
        WELL_KNOWN,
        ValueFormat::Exactly(4),
    ),
    (
        AttributeCode::ATOMIC_AGGREGATE,
        WELL_KNOWN,
        ValueFormat::Discarded,
    ),
    (
        AttributeCode::AGGREGATOR,
        OPTIONAL_TRANSITIVE,
        ValueFormat::Discarded,
    ),
    (
        AttributeCode::COMMUNITIES,
        OPTIONAL_TRANSITIVE,
        ValueFormat::Items(4),
    ),
    (
        AttributeCode::ORIGINATOR_ID,
        OPTIONAL,
        ValueFormat::Exactly(4),
    ),
    (AttributeCode::CLUSTER_LIST, OPTIONAL, ValueFormat::Items(4)),
    (
        AttributeCode::EXTENDED_COMMUNITIES,
        OPTIONAL_TRANSITIVE,
        ValueFormat::Items(8),
    ),
    (
        AttributeCode::AS4_PATH,
        OPTIONAL_TRANSITIVE,
        ValueFormat::Discarded,
    ),
    (
        AttributeCode::AS4_AGGREGATOR,
        OPTIONAL_TRANSITIVE,
        ValueFormat::Discarded,
    ),
    (
        AttributeCode::IPV6_EXT_COMMUNITIES,
        OPTIONAL_TRANSITIVE,
        ValueFormat::Items(20),
    ),
    (
        AttributeCode::LARGE_COMMUNITIES,
        OPTIONAL_TRANSITIVE,
        ValueFormat::Items(12),
    ),
    (
        AttributeCode::ONLY_TO_CUSTOMER,
        OPTIONAL_TRANSITIVE,
        ValueFormat::Exactly(4),
    ),
];

const IBGP_ONLY: [AttributeCode; 3] = [
    AttributeCode::LOCAL_PREF,
    AttributeCode::ORIGINATOR_ID,
    AttributeCode::CLUSTER_LIST,
];

impl ValueFormat {
    /// The subcode of an error whose handling is treat-as-withdraw.
    fn treat_as_withdraw(
        self,
        attribute: &Attribute<'_>,
        flags: u8,
        cx: &DecodeContext,
    ) -> Option<u8> {
        let value = attribute.value;
        match self {
            Self::Discarded => None,
            // On eBGP it is discarded unread (RFC 7606 §7.5, §7.9, §7.10).
            _ if cx.session == SessionType::Ebgp && IBGP_ONLY.contains(&attribute.code) => None,
            _ if attribute.flags & OPTIONAL_TRANSITIVE != flags => Some(FLAGS),
            Self::Exactly(size) => (value.len() != size).then_some(LENGTH),
            Self::Items(size) => (value.is_empty() || value.len() % size != 0).then_some(LENGTH),
            Self::Origin => match value {
                [0..=2] => None,
                [_] => Some(ORIGIN),
                _ => Some(LENGTH),
            },
            Self::AsPath => (!is_valid_as_path(value, cx.four_octet_as)).then_some(AS_PATH),
        }
    }
}

/// Whether all segments are non-empty sets or sequences without AS 0 (RFC 7606 §7.2, RFC 7607). Confederation
/// segments are valid only inside a confederation (RFC 5065 §5).
fn is_valid_as_path(value: &[u8], four_octet_as: bool) -> bool {
    let width = if four_octet_as { 4 } else { 2 };
    let mut r = Reader::new(value);
    while !r.is_empty() {
        let (Ok(kind), Ok(length)) = (r.u8(), r.u8()) else {
            return false;
        };
        let Ok(numbers) = r.take(usize::from(length) * width) else {
            return false;
        };
        let zero = |number: &[u8]| number.iter().all(|byte| *byte == 0);
        if !(1..=2).contains(&kind) || length == 0 || numbers.chunks(width).any(zero) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::golden::{cx, hex};
    use super::super::{Frame, Notification, Received, decode_message};
    use super::*;

    const GOOD_ORIGIN: &str = "40010100 ";
    const GOOD_PATH: &str = "400206 0201 0000fde9 ";
    const GOOD_HOP: &str = "400304 0a000002 ";
    /// 192.0.2.53/32.
    const NLRI: &str = "20 c0000235";
    /// The value of MP_REACH_NLRI for 2001:db8::/32 via 2001:db8:1::2.
    const REACH: &str = "0002 01 10 20010db8000100000000000000000002 00 20 20010db8";
    /// 203.0.113.0/24.
    const WITHDRAWN: &str = "18 cb0071";

    /// The session ends with this subcode and data.
    type Reset = (u8, Vec<u8>);

    fn body(withdrawn: &str, attributes: &str, nlri: &str) -> Vec<u8> {
        let counted = |text| {
            let bytes = hex(text);
            let length = u16::try_from(bytes.len()).unwrap();
            [length.to_be_bytes().as_slice(), bytes.as_slice()].concat()
        };
        [counted(withdrawn), counted(attributes), hex(nlri)].concat()
    }

    fn received(cx: &DecodeContext, body: Vec<u8>) -> Result<UpdateSummary, Reset> {
        match decode_message(&Frame { kind: 2, body }, cx) {
            Ok(Received::Update(summary)) => Ok(summary),
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                let notification = Notification::from(&error);
                assert_eq!(notification.code, 3);
                Err((notification.subcode, notification.data))
            }
        }
    }

    fn counted(withdrawn: usize, announced: usize) -> Result<UpdateSummary, Reset> {
        Ok(UpdateSummary {
            withdrawn,
            announced,
            end_of_rib: None,
        })
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

    fn only(family: Family) -> DecodeContext {
        DecodeContext {
            families: [family].into(),
            ..cx()
        }
    }

    /// `extra` follows the mandatory attributes of one IPv4 route.
    fn with(cx: &DecodeContext, extra: &str) -> Result<UpdateSummary, Reset> {
        let path = match cx.four_octet_as {
            true => GOOD_PATH,
            false => "400204 0201 fde9 ",
        };
        let attributes = [GOOD_ORIGIN, path, GOOD_HOP, extra].concat();
        received(cx, body(WITHDRAWN, &attributes, NLRI))
    }

    /// An attribute after valid ones, and the subcode of its error in an UPDATE without routes. Sections are
    /// those of RFC 7606 unless another RFC is named.
    #[rustfmt::skip]
    const ROWS: &[(&str, &str, u8)] = &[
        ("§7.4 MED of 3 bytes", "800403 000000", LENGTH),
        ("§7.4 MED, empty", "800400", LENGTH),
        ("§3 c MED, transitive", "c00404 00000001", FLAGS),
        ("§3 c MED, well-known", "400404 00000001", FLAGS),
        ("§7.5 LOCAL_PREF on eBGP", "400504 00000064", 0),
        ("§7.5 malformed LOCAL_PREF on eBGP", "c00501 00", 0),
        ("§7.6 ATOMIC_AGGREGATE of a byte", "400601 00", 0),
        ("§4 ATOMIC_AGGREGATE, empty as it is", "400600", 0),
        ("§3 f ATOMIC_AGGREGATE, optional", "c00600", 0),
        ("§7.7 AGGREGATOR of 6 bytes", "c00706 fde9 0a000001", 0),
        ("§3 f AGGREGATOR, not transitive", "800708 0000fde9 0a000001", 0),
        ("RFC 7607 §2 AGGREGATOR in AS 0", "c00708 00000000 0a000001", 0),
        ("§7.8 COMMUNITIES, empty", "c00800", LENGTH),
        ("§7.8 COMMUNITIES of 5 bytes", "c00805 fde9006400", LENGTH),
        ("§3 c COMMUNITIES, not transitive", "800804 fde90064", FLAGS),
        ("COMMUNITIES with a needless extended length", "d0080004 fde90064", 0),
        ("COMMUNITIES with the partial bit", "e00804 fde90064", 0),
        ("§7.9 ORIGINATOR_ID on eBGP", "800904 0a000001", 0),
        ("§7.10 CLUSTER_LIST on eBGP", "800a04 0a000001", 0),
        ("§7.14 EXTENDED_COMMUNITIES of 7 bytes", "c01007 0002fde9000000", LENGTH),
        ("§7.14 EXTENDED_COMMUNITIES, empty", "c01000", LENGTH),
        ("§7.15 IPV6_EXT_COMMUNITIES of 8 bytes", "c01908 0002fde900000001", LENGTH),
        ("RFC 8092 §6 LARGE_COMMUNITIES of 8 bytes", "c02008 0000fde900000001", LENGTH),
        ("RFC 8092 §6 LARGE_COMMUNITIES, empty", "c02000", LENGTH),
        ("RFC 9234 §5 ONLY_TO_CUSTOMER of 2 bytes", "c02302 fde9", LENGTH),
        ("RFC 6793 §4.1 AS4_PATH from a new speaker", "c01106 0201 0000fde9", 0),
        ("RFC 6793 §4.1 AS4_AGGREGATOR from a new speaker", "c01200", 0),
        ("RFC 4271 §5 unknown, optional and transitive", "c0c802 0102", 0),
        ("RFC 4271 §5 unknown, optional, empty", "80c800", 0),
        ("§3 g ORIGIN again, malformed", "400101 07", 0),
        ("§3 g unknown attribute again", "c0c80101 c0c80102", 0),
        ("§4 the last attribute too long by one", "c00805 fde90064", MALFORMED_LIST),
        ("§4 one byte of a header", "c0", MALFORMED_LIST),
        ("§4 two bytes of a header", "c008", MALFORMED_LIST),
        ("§4 three bytes of an extended header", "d00800", MALFORMED_LIST),
    ];

    #[rustfmt::skip]
    const IBGP_ROWS: &[(&str, &str, u8)] = &[
        ("LOCAL_PREF", "400504 00000064", 0),
        ("§7.5 LOCAL_PREF of 5 bytes", "400505 0000006400", LENGTH),
        ("§3 c LOCAL_PREF, optional", "c00504 00000064", FLAGS),
        ("§7.9 ORIGINATOR_ID of 3 bytes", "800903 0a0000", LENGTH),
        ("§7.10 CLUSTER_LIST of 6 bytes", "800a06 0a0000010a00", LENGTH),
        ("§7.10 CLUSTER_LIST, empty", "800a00", LENGTH),
    ];

    /// RFC 6793 §6: what comes from a speaker with two-octet AS numbers.
    #[rustfmt::skip]
    const OLD_SPEAKER_ROWS: &[(&str, &str, u8)] = &[
        ("AS4_PATH", "c01106 0201 0000fde9", 0),
        ("§6 AS4_PATH, empty", "c01100", 0),
        ("§6 AS4_PATH past its end", "c01106 0202 0000fde9", 0),
        ("§6 AS4_PATH, not transitive", "801106 0201 0000fde9", 0),
        ("§6 AS4_AGGREGATOR of 6 bytes", "c01206 fde9 0a000001", 0),
        ("RFC 7606 §7.7 AGGREGATOR of 8 bytes", "c00708 0000fde9 0a000001", 0),
    ];

    /// The expected result where the message has no reachable routes.
    fn unsure(subcode: u8, attribute: &str) -> Result<UpdateSummary, Reset> {
        match subcode {
            0 => counted(1, 0),
            MALFORMED_LIST | AS_PATH => Err((subcode, Vec::new())),
            subcode => Err((subcode, hex(attribute))),
        }
    }

    #[test]
    fn a_wrong_attribute_ends_the_session_only_where_no_route_is_to_be_seen() {
        for (cx, rows) in [
            (cx(), ROWS),
            (ibgp(), IBGP_ROWS),
            (old_speaker(), OLD_SPEAKER_ROWS),
        ] {
            for (what, extra, subcode) in rows {
                assert_eq!(with(&cx, extra), counted(1, 1), "{what}");
                let path = if cx.four_octet_as { GOOD_PATH } else { "" };
                let attributes = [GOOD_ORIGIN, path, extra].concat();
                let alone = received(&cx, body(WITHDRAWN, &attributes, ""));
                assert_eq!(alone, unsure(*subcode, extra), "{what}, no routes");
            }
        }
    }

    /// RFC 7606 §7.1 to §7.3: the mandatory ones, each in place of the good one.
    #[rustfmt::skip]
    const MANDATORY_ROWS: &[(&str, &str, u8)] = &[
        ("§7.1 undefined", "40010103", ORIGIN),
        ("§7.1 empty", "400100", LENGTH),
        ("§7.1 of 2 bytes", "400102 0000", LENGTH),
        ("§3 c optional", "c0010100", FLAGS),
        ("§3 c not transitive", "00010100", FLAGS),
        ("§7.3 of 5 bytes", "400305 0a00000200", LENGTH),
        ("§7.3 of 16 bytes", "400310 20010db8000100000000000000000002", LENGTH),
        ("RFC 4760 §3 unspecified", "400304 00000000", 0),
        ("RFC 4760 §3 multicast", "400304 e0000001", 0),
        ("RFC 4760 §3 broadcast", "400304 ffffffff", 0),
        ("§7.2 unknown segment type", "400206 0501 0000fde9", AS_PATH),
        ("§7.2 segment past the end", "400206 0202 0000fde9", AS_PATH),
        ("§7.2 one byte behind the last", "400207 0201 0000fde9 02", AS_PATH),
        ("§7.2 empty segment", "400202 0200", AS_PATH),
        ("§7.2 two-octet numbers", "400204 0201 fde9", AS_PATH),
        ("RFC 5065 §5 confederation", "400206 0301 0000fde9", AS_PATH),
        ("RFC 7607 §2 AS 0", "40020a 0202 0000fde9 00000000", AS_PATH),
        ("§4 an empty path", "400200", 0),
    ];

    #[test]
    fn so_does_a_mandatory_one() {
        for (what, attribute, subcode) in MANDATORY_ROWS {
            let code = hex(attribute)[1];
            let all: String = [GOOD_ORIGIN, GOOD_PATH, GOOD_HOP]
                .map(|good| {
                    if hex(good)[1] == code {
                        *attribute
                    } else {
                        good
                    }
                })
                .concat();
            let routes = received(&cx(), body(WITHDRAWN, &all, NLRI));
            assert_eq!(routes, counted(1, 1), "{what}");
            let alone = received(&cx(), body(WITHDRAWN, &all, ""));
            assert_eq!(alone, unsure(*subcode, attribute), "{what}, no routes");
        }
        // A missing one makes the routes treated as withdrawn; without routes none is required (§3 d).
        for attributes in [GOOD_ORIGIN, GOOD_PATH, GOOD_HOP, ""] {
            for nlri in [NLRI, ""] {
                let routes = usize::from(!nlri.is_empty());
                let got = received(&cx(), body(WITHDRAWN, attributes, nlri));
                assert_eq!(got, counted(1, routes), "{attributes}");
            }
        }
    }

    /// RFC 4271 §6.3, RFC 7606 §3 g and j, whatever stands before it.
    #[test]
    fn some_errors_end_the_session_beside_any_route() {
        let unknown = "40c802 0102";
        for before in ["", "c00800", "400601 00 800400"] {
            let got = with(&cx(), &[before, unknown].concat());
            assert_eq!(got, Err((UNRECOGNIZED, hex(unknown))));
        }
        assert_eq!(with(&cx(), "800e05 0002"), Err((MALFORMED_LIST, vec![])));
        let mp_reach = format!("800e1a {REACH}");
        for twice in [format!("{mp_reach} {mp_reach}"), "800f03 000201".repeat(2)] {
            assert_eq!(with(&cx(), &twice), Err((MALFORMED_LIST, vec![])));
        }
    }

    /// RFC 7606 §5.3, §7.11; RFC 4760 §7: the data is the whole attribute.
    #[test]
    fn routes_that_cannot_be_found_end_the_session() {
        let global = "20010db8000100000000000000000002";
        #[rustfmt::skip]
        let rows = [
            ("§5.3 three bytes", "800e03 000201".to_owned()),
            ("§5.3 empty", "800e00".to_owned()),
            ("§5.3 no reserved byte", format!("800e14 000201 10 {global}")),
            ("§7.11 next hop past the end", format!("800e15 000201 20 {global} 00")),
            ("§7.11 next hop of 4 bytes", "800e09 000201 04 0a000002 00".to_owned()),
            ("§7.11 next hop of 24 bytes", format!("800e1d 000201 18 0000000000000000 {global} 00")),
            ("§7.11 no next hop", "800e05 000201 00 00".to_owned()),
            ("§5.3 a length of 129", format!("800e27 000201 10 {global} 00 81 {global} 00")),
            ("§5.3 a prefix past the end", format!("800e18 000201 10 {global} 00 20 2001")),
            ("§5.3 MP_UNREACH_NLRI of 2 bytes", "800f02 0002".to_owned()),
            ("§5.3 a withdrawn length of 129", format!("800f15 000201 81 {global} 00")),
            ("§5.3 a withdrawn prefix past the end", "800f06 000201 20 2001".to_owned()),
        ];
        for (what, attribute) in rows {
            let expected = Err((OPTIONAL_ATTRIBUTE, hex(&attribute)));
            assert_eq!(with(&cx(), &attribute), expected, "{what}");
        }
    }

    /// RFC 8950 §4: a 16-byte next hop for IPv4 is a wrong length where it was not negotiated.
    #[test]
    fn ipv4_over_ipv6_is_for_those_who_agreed_on_it() {
        let attribute = "800e1a 0001 01 10 fe800000000000000000000000000002 00 20 c0000235";
        let attributes = [GOOD_ORIGIN, GOOD_PATH, attribute].concat();
        let got = |cx: &DecodeContext| received(cx, body("", &attributes, ""));
        assert_eq!(got(&cx()), counted(0, 1));
        let cx = DecodeContext {
            extended_next_hop: false,
            ..cx()
        };
        assert_eq!(got(&cx), Err((OPTIONAL_ATTRIBUTE, hex(attribute))));
        let ipv4_field = "800e0e 0001 01 04 0a000002 00 20 c0000235";
        let ipv4_field = [GOOD_ORIGIN, GOOD_PATH, ipv4_field].concat();
        let got = received(&cx, body("", &ipv4_field, ""));
        assert_eq!(got, counted(0, 1), "RFC 4760 §3");
    }

    /// RFC 7606 §3 c, j: routes that are found can be taken as withdrawn, those of a family that was not
    /// negotiated are not looked for. BIRD and FRR reset there too.
    #[test]
    fn wrong_flags_on_routes_end_the_session_where_the_routes_are_not_found() {
        let mp_reach = format!("c00e1a {REACH}");
        let attributes = [GOOD_ORIGIN, GOOD_PATH, &mp_reach].concat();
        let got = |cx: &DecodeContext| received(cx, body("", &attributes, ""));
        assert_eq!(got(&cx()), counted(0, 1));
        assert_eq!(got(&only(Family::Ipv4)), Err((FLAGS, hex(&mp_reach))));
        let mp_unreach = "c00f08 000201 20 20010db8";
        assert_eq!(with(&cx(), mp_unreach), counted(2, 1));
        let got = with(&only(Family::Ipv4), mp_unreach);
        assert_eq!(got, Err((FLAGS, hex(mp_unreach))));
    }

    /// RFC 7606 §7.11 names only a wrong length as malformed.
    #[test]
    fn a_multiprotocol_next_hop_that_is_no_host_resets_no_session() {
        for hop in [
            "00000000000000000000000000000000",
            "ff020000000000000000000000000001",
        ] {
            let mp_reach = format!("800e1a 0002 01 10 {hop} 00 20 20010db8");
            let attributes = [GOOD_ORIGIN, GOOD_PATH, &mp_reach].concat();
            assert_eq!(received(&cx(), body("", &attributes, "")), counted(0, 1));
            let mp_reach = format!("800e15 0002 01 10 {hop} 00");
            assert_eq!(received(&cx(), body("", &mp_reach, "")), counted(0, 0));
        }
    }

    /// RFC 4760 §8: a family that was never offered is passed over, whatever it holds.
    #[test]
    fn a_family_not_negotiated_is_passed_over() {
        for (cx, attribute) in [
            (cx(), "800e07 0001 80 00 00 ff ff"),
            (cx(), "800f05 0001 80 ff ff"),
            (only(Family::Ipv4), "800e09 0002 01 03 aabbcc 00 ff"),
            (only(Family::Ipv4), "800f04 0002 01 ff"),
        ] {
            assert_eq!(with(&cx, attribute), counted(1, 1), "{attribute}");
        }
        let attributes = [GOOD_ORIGIN, GOOD_PATH, GOOD_HOP].concat();
        let got = received(&only(Family::Ipv6), body(WITHDRAWN, &attributes, NLRI));
        assert_eq!(got, counted(0, 0));
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
            assert_eq!(received(&cx(), hex(text)), Err((1, vec![])), "{text}");
        }
        let good = [GOOD_ORIGIN, GOOD_PATH, GOOD_HOP].concat();
        for (withdrawn, nlri) in [
            ("", "21 c000023500"),
            ("", "20 c00002"),
            ("", "20 c0000235 18"),
            ("21 c000023500", ""),
            ("18 cb00", ""),
            ("ff", ""),
        ] {
            let attributes = if nlri.is_empty() { "" } else { &good };
            let got = received(&cx(), body(withdrawn, attributes, nlri));
            assert_eq!(got, Err((10, vec![])), "{withdrawn} {nlri}");
        }
    }

    /// RFC 7606 §5.2: attributes without routes are no reason to reset, unless one of them is wrong.
    #[test]
    fn an_error_without_routes_to_withdraw_ends_the_session() {
        let got = |withdrawn, attributes| received(&cx(), body(withdrawn, attributes, ""));
        assert_eq!(got("", "40010107"), Err((ORIGIN, hex("40010107"))));
        assert_eq!(got(WITHDRAWN, "c00800"), Err((LENGTH, hex("c00800"))));
        assert_eq!(got("", "40"), Err((MALFORMED_LIST, vec![])));
        let path = "40020100 800f03 000201";
        assert_eq!(got("", path), Err((AS_PATH, vec![])));
        assert_eq!(got("", GOOD_ORIGIN), counted(0, 0));
        assert_eq!(got("", "400601 00"), counted(0, 0), "a discarded one");
        // If MP_UNREACH_NLRI is the only attribute, its routes are withdrawn anyway.
        assert_eq!(got("", "c00f08 000201 20 20010db8"), counted(1, 0));
        let first = "40010107 c00800";
        assert_eq!(got("", first), Err((ORIGIN, hex("40010107"))), "the first");
    }

    /// RFC 4724 §2.
    #[test]
    fn end_of_rib_is_an_update_of_nothing_else() {
        let end = |body: Vec<u8>, cx: &DecodeContext| received(cx, body).unwrap().end_of_rib;
        let mp_unreach = "800f03 000201";
        assert_eq!(end(body("", "", ""), &cx()), Some(Family::Ipv4));
        assert_eq!(end(body("", mp_unreach, ""), &cx()), Some(Family::Ipv6));
        let ipv4 = body("", "800f03 000101", "");
        assert_eq!(end(ipv4, &cx()), Some(Family::Ipv4));
        assert_eq!(end(body("", mp_unreach, ""), &only(Family::Ipv4)), None);
        assert_eq!(end(body("", "", ""), &only(Family::Ipv6)), None);
        assert_eq!(end(body(WITHDRAWN, mp_unreach, ""), &cx()), None);
        let more = [mp_unreach, GOOD_ORIGIN].concat();
        assert_eq!(end(body("", &more, ""), &cx()), None);
    }

    #[test]
    fn data_that_is_too_long_is_cut_and_the_notification_is_sent() {
        let attribute = format!("50c8 1388 {}", "00".repeat(5000));
        let body = body("", &attribute, "");
        let error = decode_message(&Frame { kind: 2, body }, &cx()).unwrap_err();
        assert_eq!(Notification::from(&error).encode().len(), 4096);
    }
}
