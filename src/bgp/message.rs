//! Whole messages: header, dispatch by type, KEEPALIVE and ROUTE-REFRESH (RFC 4271 §4.1, §4.4; RFC 2918,
//! RFC 7313). OPEN, UPDATE and NOTIFICATION have their own files. Left out: route filters in a
//! ROUTE-REFRESH (RFC 5291).

use std::collections::BTreeSet;

use super::framer::MAX_LEN;
use super::{
    AfiSafi, Frame, HeaderError, Negotiated, Notification, Open, ProtocolError, SessionType, Type,
    UpdateSummary, inspect,
};
use crate::net::{Asn, Family, RouterId};
use crate::wire::{Reader, TooLong};

/// A message to send; UPDATEs are made by a [`Packer`](super::Packer).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Open(Open),
    Notification(Notification),
    Keepalive,
    RouteRefresh(RouteRefresh),
}

/// A checked message, without an UPDATE's routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    Open(Open),
    Update(UpdateSummary),
    Notification(Notification),
    Keepalive,
    RouteRefresh(RouteRefresh),
}

/// ROUTE-REFRESH (RFC 2918 §3); a family we do not know is to be ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    pub family: AfiSafi,
    pub kind: RefreshKind,
}

/// The subtype (RFC 7313 §3.2); what is unknown is to be ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshKind {
    Request,
    Begin,
    End,
    Unknown(u8),
}

/// What the meaning of received bytes depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeContext {
    pub local_as: Asn,
    pub local_router_id: RouterId,
    /// As configured; `None` takes any.
    pub peer_as: Option<Asn>,
    pub session: SessionType,
    /// AS numbers in paths are four octets wide (RFC 6793).
    pub four_octet_as: bool,
    pub families: BTreeSet<Family>,
    /// IPv4 routes may have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    pub enhanced_route_refresh: bool,
}

impl DecodeContext {
    /// Before the peer's OPEN: nothing is agreed on yet.
    pub fn before_open(local_as: Asn, local_router_id: RouterId, peer_as: Option<Asn>) -> Self {
        Self {
            local_as,
            local_router_id,
            peer_as,
            session: if peer_as == Some(local_as) {
                SessionType::Ibgp
            } else {
                SessionType::Ebgp
            },
            four_octet_as: false,
            families: BTreeSet::from([Family::Ipv4]),
            extended_next_hop: false,
            enhanced_route_refresh: false,
        }
    }

    /// After both OPENs.
    pub fn established(negotiated: &Negotiated) -> Self {
        Self {
            local_as: negotiated.local_as,
            local_router_id: negotiated.local_router_id,
            peer_as: Some(negotiated.peer_as),
            session: negotiated.session,
            four_octet_as: negotiated.four_octet_as,
            families: negotiated.families.clone(),
            extended_next_hop: negotiated.extended_next_hop,
            enhanced_route_refresh: negotiated.enhanced_route_refresh,
        }
    }
}

/// What the bytes of an UPDATE's attributes depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeContext {
    pub session: SessionType,
    pub four_octet_as: bool,
}

impl From<&Negotiated> for EncodeContext {
    fn from(negotiated: &Negotiated) -> Self {
        Self {
            session: negotiated.session,
            four_octet_as: negotiated.four_octet_as,
        }
    }
}

impl Message {
    /// The whole message with its header. A NOTIFICATION's data is cut to what fits.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        match self {
            Self::Open(open) => {
                let bytes = Frame::encode(Type::Open, &open.encode_body()?)?;
                let (length, limit) = (bytes.len(), MAX_LEN);
                // RFC 8654 §4: an OPEN never grows.
                let fits = length <= limit;
                fits.then_some(bytes).ok_or(TooLong { length, limit })
            }
            Self::Notification(notification) => Ok(notification.encode()),
            Self::Keepalive => Frame::encode(Type::Keepalive, &[]),
            Self::RouteRefresh(refresh) => {
                Frame::encode(Type::RouteRefresh, &refresh.encode_body())
            }
        }
    }

    pub(super) fn kind(&self) -> Type {
        match self {
            Self::Open(_) => Type::Open,
            Self::Notification(_) => Type::Notification,
            Self::Keepalive => Type::Keepalive,
            Self::RouteRefresh(_) => Type::RouteRefresh,
        }
    }
}

/// Checks a message and keeps only what a speaker acts on: an UPDATE's routes are looked at in place
/// and counted. Errors that end the session are returned, milder ones have no effect.
pub fn receive(frame: &Frame, cx: &DecodeContext) -> Result<Received, ProtocolError> {
    let body = frame.body.as_slice();
    Ok(match kind(frame)? {
        Type::Open => Received::Open(Open::decode_body(body, cx)?),
        Type::Update => Received::Update(inspect::check(body, cx)?),
        Type::Notification => Received::Notification(Notification::decode_body(body)?),
        Type::Keepalive => keepalive(body).map(|()| Received::Keepalive)?,
        Type::RouteRefresh => Received::RouteRefresh(RouteRefresh::decode_body(body, cx)?),
    })
}

fn kind(frame: &Frame) -> Result<Type, HeaderError> {
    Type::from_code(frame.kind).ok_or(HeaderError::BadType { kind: frame.kind })
}

fn keepalive(body: &[u8]) -> Result<(), HeaderError> {
    if body.is_empty() {
        Ok(())
    } else {
        Err(HeaderError::bad_length(body.len()))
    }
}

impl RouteRefresh {
    /// ```text
    /// | AFI | subtype (RFC 7313) | SAFI |
    /// |  2  |         1          |   1  |
    /// ```
    fn encode_body(&self) -> [u8; 4] {
        let [high, low] = self.family.afi.to_be_bytes();
        let kind = match self.kind {
            RefreshKind::Request => 0,
            RefreshKind::Begin => 1,
            RefreshKind::End => 2,
            RefreshKind::Unknown(kind) => kind,
        };
        [high, low, kind, self.family.safi]
    }

    /// Filters behind a request (RFC 5291) are a bad length, since we never offered to heed them; a
    /// marker that is not four bytes long has an error of its own (RFC 7313 §5).
    fn decode_body(body: &[u8], cx: &DecodeContext) -> Result<Self, ProtocolError> {
        let subtype = body.get(2).copied();
        if cx.enhanced_route_refresh && matches!(subtype, Some(1 | 2)) && body.len() != 4 {
            let message = Frame::encode(Type::RouteRefresh, body).unwrap_or_default();
            return Err(ProtocolError::RouteRefreshLength { message });
        }
        let fields = |mut r: Reader<'_>| {
            let fields = (r.u16()?, r.u8()?, r.u8()?);
            r.finish().map(|()| fields)
        };
        let (afi, subtype, safi) =
            fields(Reader::new(body)).map_err(|_| HeaderError::bad_length(body.len()))?;
        let kind = match subtype {
            0 => RefreshKind::Request,
            1 => RefreshKind::Begin,
            2 => RefreshKind::End,
            other => RefreshKind::Unknown(other),
        };
        let family = AfiSafi { afi, safi };
        Ok(Self { family, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden::{cx, hex};
    use super::*;

    fn fault(kind: u8, body: &str, cx: &DecodeContext) -> Notification {
        let body = hex(body);
        let error = receive(&Frame { kind, body }, cx).expect_err("an error");
        Notification::from(&error)
    }

    /// RFC 4271 §6.1, for frames that did not come through the framer too.
    #[test]
    fn a_length_or_type_that_cannot_be_is_a_header_error() {
        let cx = cx();
        let bad_length = |length: u8| Notification::new(1, 2, vec![0, length]);
        assert_eq!(fault(4, "00", &cx), bad_length(20));
        assert_eq!(fault(1, "04 fde9 005a", &cx), bad_length(24));
        assert_eq!(fault(3, "06", &cx), bad_length(20));
        assert_eq!(fault(5, "0001 00", &cx), bad_length(22));
        assert_eq!(fault(5, "0001 00 01 00", &cx), bad_length(24));
        assert_eq!(fault(9, "", &cx), Notification::new(1, 3, vec![9]));
    }

    /// RFC 7313 §5: the data is the whole message.
    #[test]
    fn a_refresh_marker_of_a_wrong_length_has_its_own_error() {
        for (body, length) in [("0001 01", 22), ("0001 02 01 00", 24)] {
            let notification = fault(5, body, &cx());
            assert_eq!((notification.code, notification.subcode), (7, 1));
            let whole = Frame::encode(Type::RouteRefresh, &hex(body)).unwrap();
            assert_eq!(notification.data, whole);
            let not_agreed = DecodeContext {
                enhanced_route_refresh: false,
                ..cx()
            };
            let expected = Notification::new(1, 2, vec![0, length]);
            assert_eq!(fault(5, body, &not_agreed), expected);
        }
    }

    /// RFC 2918 §4, RFC 7313 §5: to be ignored, so not an error.
    #[test]
    fn a_refresh_of_something_unknown_is_read() {
        let body = hex("4004 07 47");
        let read = receive(&Frame { kind: 5, body }, &cx());
        let refresh = RouteRefresh {
            family: AfiSafi {
                afi: 0x4004,
                safi: 0x47,
            },
            kind: RefreshKind::Unknown(7),
        };
        assert_eq!(read, Ok(Received::RouteRefresh(refresh)));
        assert_eq!(refresh.family.family(), None);
    }
}
