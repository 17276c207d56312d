//! UPDATEs in full, as a router would read them: the announcer checks what it is sent and keeps no route,
//! so only tests need this. Unit tests, scenarios and fuzz targets include this file.

#![allow(dead_code, reason = "none of those who include it uses everything")]

use std::net::{IpAddr, Ipv6Addr};

use sidecast::bgp::{
    AfiSafi, AsPath, AttributeCode, DecodeContext, Frame, MessageType, Notification, Open,
    PathAttributes, ProtocolError, Received, RouteRefresh, decode_message,
};
use sidecast::net::{Community, ExtCommunity, Family, LargeCommunity, Origin, Prefix};
use sidecast::wire::{Reader, WireError};

/// A decoded message, with the routes of an UPDATE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    Open(Open),
    Update(Update),
    Notification(Notification),
    Keepalive,
    RouteRefresh(RouteRefresh),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    pub withdrawn: Vec<Prefix>,
    /// At most one from the NLRI field and one from MP_REACH_NLRI.
    pub announced: Vec<Announcement>,
    pub end_of_rib: Option<Family>,
}

/// Routes that share their attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub prefixes: Vec<Prefix>,
    /// `as_path` without the bounds of segments.
    pub attributes: PathAttributes,
    /// The second address of a 32-byte next hop (RFC 2545 §3).
    pub link_local: Option<Ipv6Addr>,
    /// Flags, code and value of those that [`PathAttributes`] has no place for, in order of arrival.
    pub others: Vec<(u8, AttributeCode, Vec<u8>)>,
}

/// A message that the announcer's own check has passed. Attributes that are wrong read as absent.
pub fn decode(frame: &Frame, cx: &DecodeContext) -> Result<Decoded, ProtocolError> {
    Ok(match decode_message(frame, cx)? {
        Received::Open(open) => Decoded::Open(open),
        Received::Update(summary) => {
            assert_eq!(frame.kind, MessageType::Update.code());
            let mut update = read(&frame.body, cx).expect("it was checked");
            update.end_of_rib = summary.end_of_rib;
            Decoded::Update(update)
        }
        Received::Notification(notification) => Decoded::Notification(notification),
        Received::Keepalive => Decoded::Keepalive,
        Received::RouteRefresh(refresh) => Decoded::RouteRefresh(refresh),
    })
}

struct Attribute<'a> {
    flags: u8,
    code: AttributeCode,
    value: &'a [u8],
}

fn read(body: &[u8], cx: &DecodeContext) -> Result<Update, WireError> {
    let mut r = Reader::new(body);
    let length = r.u16()?;
    let withdrawn = r.take(length.into())?;
    let length = r.u16()?;
    let mut attributes = Vec::new();
    let mut rest = r.sub(length.into())?;
    while let Some(attribute) = read_attribute(&mut rest) {
        let again = |known: &Attribute<'_>| known.code == attribute.code;
        if !attributes.iter().any(again) {
            attributes.push(attribute);
        }
    }
    let mut update = Update {
        withdrawn: prefixes(Family::Ipv4, withdrawn, cx)?,
        ..Update::default()
    };
    let value = |code| attributes.iter().find(|a| a.code == code).map(|a| a.value);
    let nlri = prefixes(Family::Ipv4, r.rest(), cx)?;
    let next_hop = value(AttributeCode::NEXT_HOP).and_then(|v| <[u8; 4]>::try_from(v).ok());
    if let (false, Some(next_hop)) = (nlri.is_empty(), next_hop) {
        let announcement = announcement(nlri, next_hop.into(), None, &attributes, cx);
        update.announced.push(announcement);
    }
    if let Some(value) = value(AttributeCode::MP_UNREACH_NLRI) {
        let mut r = Reader::new(value);
        if let Some(family) = family(&mut r)? {
            update.withdrawn.extend(prefixes(family, r.rest(), cx)?);
        }
    }
    if let Some(value) = value(AttributeCode::MP_REACH_NLRI) {
        let mut r = Reader::new(value);
        let family = family(&mut r)?.filter(|family| cx.families.contains(family));
        if let Some(family) = family {
            let length = r.u8()?;
            let mut hop = r.sub(length.into())?;
            let next_hop = match length {
                4 => IpAddr::from(hop.array::<4>()?),
                _ => IpAddr::from(hop.array::<16>()?),
            };
            let link_local = hop.array::<16>().ok().map(Ipv6Addr::from);
            let _reserved = r.u8()?;
            let routes = prefixes(family, r.rest(), cx)?;
            if !routes.is_empty() {
                let announcement = announcement(routes, next_hop, link_local, &attributes, cx);
                update.announced.push(announcement);
            }
        }
    }
    Ok(update)
}

fn read_attribute<'a>(r: &mut Reader<'a>) -> Option<Attribute<'a>> {
    let (flags, code) = (r.u8().ok()?, r.u8().ok()?);
    let length = match flags & 0x10 {
        0 => r.u8().ok()?.into(),
        _ => r.u16().ok()?.into(),
    };
    Some(Attribute {
        flags,
        code: AttributeCode(code),
        value: r.take(length).ok()?,
    })
}

fn family(r: &mut Reader<'_>) -> Result<Option<Family>, WireError> {
    let (afi, safi) = (r.u16()?, r.u8()?);
    Ok(AfiSafi { afi, safi }.family())
}

/// None where the family is not agreed on.
fn prefixes(family: Family, bytes: &[u8], cx: &DecodeContext) -> Result<Vec<Prefix>, WireError> {
    let mut r = Reader::new(bytes);
    let mut prefixes = Vec::new();
    while !r.is_empty() && cx.families.contains(&family) {
        let len = r.u8()?;
        let bytes = r.take(usize::from(len.div_ceil(8)))?;
        let mut addr = [0; 16];
        addr.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        let addr = match family {
            Family::Ipv4 => IpAddr::from([addr[0], addr[1], addr[2], addr[3]]),
            Family::Ipv6 => IpAddr::from(addr),
        };
        prefixes.extend(Prefix::masked(addr, len));
    }
    Ok(prefixes)
}

fn announcement(
    prefixes: Vec<Prefix>,
    next_hop: IpAddr,
    link_local: Option<Ipv6Addr>,
    attributes: &[Attribute<'_>],
    cx: &DecodeContext,
) -> Announcement {
    let mut read = PathAttributes::new(next_hop);
    read.origin = Origin::Incomplete;
    let mut others = Vec::new();
    let mut as4_path = None;
    for Attribute { flags, code, value } in attributes {
        let number = <[u8; 4]>::try_from(*value).ok().map(u32::from_be_bytes);
        match *code {
            AttributeCode::ORIGIN if *value == [0] => read.origin = Origin::Igp,
            AttributeCode::ORIGIN if *value == [1] => read.origin = Origin::Egp,
            AttributeCode::AS_PATH => read.as_path = as_path(value, cx.four_octet_as),
            AttributeCode::AS4_PATH => as4_path = Some(as_path(value, true)),
            AttributeCode::MULTI_EXIT_DISC => read.med = number,
            AttributeCode::LOCAL_PREF => read.local_pref = number,
            AttributeCode::COMMUNITIES => {
                read.communities = items(value, |item| Community(u32::from_be_bytes(item)));
            }
            AttributeCode::EXTENDED_COMMUNITIES => {
                read.ext_communities = items(value, ExtCommunity);
            }
            AttributeCode::LARGE_COMMUNITIES => {
                read.large_communities = items(value, |item: [u8; 12]| {
                    let mut r = Reader::new(&item);
                    let mut number = || r.u32().expect("12 bytes");
                    LargeCommunity {
                        global: number(),
                        local1: number(),
                        local2: number(),
                    }
                });
            }
            AttributeCode::ORIGIN | AttributeCode::NEXT_HOP => {}
            AttributeCode::MP_REACH_NLRI | AttributeCode::MP_UNREACH_NLRI => {}
            code => others.push((*flags, code, value.to_vec())),
        }
    }
    // We send the whole path in an AS4_PATH, so nothing has to be put in front (RFC 6793 §4.2.3).
    read.as_path = as4_path.unwrap_or(read.as_path);
    Announcement {
        prefixes,
        attributes: read,
        link_local,
        others,
    }
}

fn as_path(value: &[u8], four_octet_as: bool) -> AsPath {
    let mut r = Reader::new(value);
    let mut path = AsPath::default();
    while let (Ok(_kind), Ok(count)) = (r.u8(), r.u8()) {
        for _ in 0..count {
            let asn = match four_octet_as {
                true => r.u32(),
                false => r.u16().map(u32::from),
            };
            path.0.extend(asn);
        }
    }
    path
}

fn items<const N: usize, T, C: FromIterator<T>>(value: &[u8], item: impl Fn([u8; N]) -> T) -> C {
    let items = value.chunks_exact(N).filter_map(|c| c.try_into().ok());
    items.map(item).collect()
}
