//! Whole messages: header, dispatch by type, KEEPALIVE and ROUTE-REFRESH (RFC 4271 §4.1, §4.4; RFC 2918,
//! RFC 7313). OPEN, UPDATE and NOTIFICATION have their own files. Left out: route filters in a
//! ROUTE-REFRESH (RFC 5291).

use super::framer::MAX_LEN;
use super::{
    AfiSafi, DecodeContext, Frame, HeaderError, MessageType, Notification, Open, ProtocolError,
    UpdateSummary, validate,
};
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

/// ROUTE-REFRESH (RFC 2918 §3); an unknown family is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    pub family: AfiSafi,
    pub kind: RefreshKind,
}

/// The subtype (RFC 7313 §3.2); an unknown one is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshKind {
    Request,
    Begin,
    End,
    Unknown(u8),
}

impl Message {
    /// The whole message with its header. A NOTIFICATION's data is cut to what fits.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        match self {
            Self::Open(open) => {
                let bytes = Frame::encode(MessageType::Open, &open.encode_body()?)?;
                let (length, limit) = (bytes.len(), MAX_LEN);
                // RFC 8654 §4: an OPEN never grows.
                let fits = length <= limit;
                fits.then_some(bytes).ok_or(TooLong { length, limit })
            }
            Self::Notification(notification) => Ok(notification.encode()),
            Self::Keepalive => Frame::encode(MessageType::Keepalive, &[]),
            Self::RouteRefresh(refresh) => {
                Frame::encode(MessageType::RouteRefresh, &refresh.encode_body())
            }
        }
    }

    pub(super) fn kind(&self) -> MessageType {
        match self {
            Self::Open(_) => MessageType::Open,
            Self::Notification(_) => MessageType::Notification,
            Self::Keepalive => MessageType::Keepalive,
            Self::RouteRefresh(_) => MessageType::RouteRefresh,
        }
    }
}

/// Decodes and validates a message. The routes of an UPDATE are counted, not stored. Returns only errors
/// that reset the session.
pub fn decode_message(frame: &Frame, cx: &DecodeContext) -> Result<Received, ProtocolError> {
    let body = frame.body.as_slice();
    Ok(match kind(frame)? {
        MessageType::Open => Received::Open(Open::decode_body(body, cx)?),
        MessageType::Update => Received::Update(validate::check(body, cx)?),
        MessageType::Notification => Received::Notification(Notification::decode_body(body)?),
        MessageType::Keepalive => keepalive(body).map(|()| Received::Keepalive)?,
        MessageType::RouteRefresh => Received::RouteRefresh(RouteRefresh::decode_body(body, cx)?),
    })
}

fn kind(frame: &Frame) -> Result<MessageType, HeaderError> {
    MessageType::from_code(frame.kind).ok_or(HeaderError::BadType { kind: frame.kind })
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

    /// A request with outbound route filters (RFC 5291) has a bad length, since that capability is never
    /// offered; a BoRR or EoRR that is not four bytes long has an error of its own (RFC 7313 §5).
    fn decode_body(body: &[u8], cx: &DecodeContext) -> Result<Self, ProtocolError> {
        let subtype = body.get(2).copied();
        if cx.enhanced_route_refresh && matches!(subtype, Some(1 | 2)) && body.len() != 4 {
            let message = Frame::encode(MessageType::RouteRefresh, body).unwrap_or_default();
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
        let error = decode_message(&Frame { kind, body }, cx).expect_err("an error");
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
            let whole = Frame::encode(MessageType::RouteRefresh, &hex(body)).unwrap();
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
        let read = decode_message(&Frame { kind: 5, body }, &cx());
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
