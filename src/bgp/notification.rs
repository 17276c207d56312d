//! NOTIFICATION (RFC 4271 §4.5, §6), its codes and their names: Cease (RFC 4486, 8538, 9384), shutdown
//! communication (RFC 9003), FSM errors (RFC 6608), ROUTE-REFRESH errors (RFC 7313), send hold timer (RFC 9687).

use std::fmt;

use super::framer::{HEADER_LEN, MAX_LEN};
use super::{
    AfiSafi, AttributeCode, Capability, Cease, Frame, HeaderError, MessageType, OpenError,
    ProtocolError, UnexpectedIn, UpdateError, capability,
};
use crate::net::Family;
use crate::small_set::SmallSet;
use crate::wire::Reader;

/// A NOTIFICATION.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    pub code: u8,
    pub subcode: u8,
    pub data: Vec<u8>,
}

impl Notification {
    /// A NOTIFICATION of these fields.
    pub fn new(code: u8, subcode: u8, data: Vec<u8>) -> Self {
        Self {
            code,
            subcode,
            data,
        }
    }

    /// A Cease. `reason` is the shutdown communication, sent with a shutdown or reset only (RFC 9003), cut to fit.
    pub fn cease(cease: Cease, reason: Option<&str>) -> Self {
        let reason = reason.filter(|text| !text.is_empty() && cease.carries_communication());
        let data = reason.map_or_else(Vec::new, |text| {
            // The longest prefix of whole characters that fits a one-byte length.
            let (length, text) = (0..=u8::MAX)
                .rev()
                .find_map(|length| Some((length, text.get(..usize::from(length))?)))
                .unwrap_or_default();
            std::iter::once(length).chain(text.bytes()).collect()
        });
        Self::new(CEASE, cease.subcode(), data)
    }

    /// The whole message. Data that does not fit 4096 bytes is cut.
    pub fn encode(&self) -> Vec<u8> {
        let head = [self.code, self.subcode].into_iter();
        let body: Vec<u8> = head
            .chain(self.data.iter().copied())
            .take(MAX_LEN - HEADER_LEN)
            .collect();
        Frame::encode(MessageType::Notification, &body).expect("4096 bytes fit the length field")
    }

    /// There is no error to send for a bad NOTIFICATION (RFC 4271 §6.4), unless it is too short to be
    /// one.
    pub(super) fn decode_body(body: &[u8]) -> Result<Self, HeaderError> {
        match body {
            [code, subcode, data @ ..] => Ok(Self::new(*code, *subcode, data.to_vec())),
            _ => Err(HeaderError::bad_length(body.len())),
        }
    }

    /// The Cease subcode, if known; for a Hard Reset that of the NOTIFICATION inside (RFC 8538 §3).
    pub fn as_cease(&self) -> Option<Cease> {
        let own = Cease::from_subcode(self.subcode).filter(|_| self.code == CEASE)?;
        let inner = self.inside_hard_reset().filter(|inner| inner.code == CEASE);
        let inner = inner.and_then(|inner| Cease::from_subcode(inner.subcode));
        Some(inner.unwrap_or(own))
    }

    /// OPEN Message Error (RFC 4271 §6.2).
    pub fn rejects_open(&self) -> bool {
        self.code == OPEN_ERROR
    }

    /// Finite State Machine Error (RFC 4271 §6.6), without a subcode of RFC 6608.
    pub(super) fn is_fsm_error(&self) -> bool {
        (self.code, self.subcode) == (FSM_ERROR, 0)
    }

    /// The NOTIFICATION inside a Hard Reset (RFC 8538 §3).
    fn inside_hard_reset(&self) -> Option<Self> {
        if (self.code, self.subcode) != (CEASE, Cease::HardReset.subcode()) {
            return None;
        }
        Self::decode_body(&self.data).ok()
    }

    /// The shutdown communication of the peer's operator (RFC 9003), without control characters.
    pub fn reason(&self) -> Option<String> {
        let inner = self.inside_hard_reset();
        let Self {
            code,
            subcode,
            data,
        } = inner.as_ref().unwrap_or(self);
        if *code != CEASE || !Cease::from_subcode(*subcode)?.carries_communication() {
            return None;
        }
        let (length, text) = data.split_first()?;
        let text = text.get(..usize::from(*length)).unwrap_or(text);
        // RFC 9003 §4: untrusted text that goes into a log.
        let fit = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = String::from_utf8_lossy(text).chars().map(fit).collect();
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// The capabilities that an Unsupported Capability (2/7) lists; `None` for any other.
    pub fn unsupported_capabilities(&self) -> Option<Vec<Capability>> {
        if (self.code, self.subcode) != (2, 7) {
            return None;
        }
        Some(Capability::read_all(Reader::new(&self.data)).unwrap_or_default())
    }

    /// The data as text, for codes whose data is defined.
    fn data_text(&self) -> Option<String> {
        let mut r = Reader::new(&self.data);
        match (self.code, self.subcode) {
            (1, 2) => Some(format!("length {}", r.u16().ok()?)),
            (1, 3) => Some(format!("type {}", r.u8().ok()?)),
            (2, 1) => Some(format!("peer supports version {}", r.u16().ok()?)),
            (2, 7) => {
                let all = self.unsupported_capabilities()?;
                let codes: Vec<_> = all.iter().map(|c| c.code().to_string()).collect();
                (!codes.is_empty()).then(|| format!("capability {}", codes.join(", ")))
            }
            (3, 3) => Some(AttributeCode(r.u8().ok()?).to_string()),
            (3, 2 | 4..=6 | 8 | 9) => {
                let _flags = r.u8().ok()?;
                Some(AttributeCode(r.u8().ok()?).to_string())
            }
            (5, 1..=3) => {
                let kind = r.u8().ok()?;
                Some(match MessageType::from_code(kind) {
                    Some(kind) => kind.to_string(),
                    None => format!("type {kind}"),
                })
            }
            (CEASE, 1) => {
                let (afi, safi) = (r.u16().ok()?, r.u8().ok()?);
                Some(format!(
                    "{}, {} routes",
                    AfiSafi { afi, safi },
                    r.u32().ok()?
                ))
            }
            _ => self.reason().map(|reason| format!("\"{reason}\"")),
        }
    }
}

impl fmt::Display for Notification {
    /// `Cease / Administrative Shutdown (6/2): "rack moves at 12:00"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(inner) = self.inside_hard_reset() {
            return write!(f, "Hard Reset (6/9): {}", WithoutNested(&inner));
        }
        WithoutNested(self).fmt(f)
    }
}

/// Displays a NOTIFICATION without the one inside a Hard Reset.
struct WithoutNested<'a>(&'a Notification);

impl fmt::Display for WithoutNested<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Notification { code, subcode, .. } = self.0;
        let find = |subcode| {
            NAMES
                .iter()
                .find(|(c, s, _)| (c, s) == (code, &subcode))
                .map(|(.., name)| *name)
        };
        match find(0) {
            Some(error) => f.write_str(error)?,
            None => f.write_str("Unknown Error")?,
        }
        match find(*subcode).filter(|_| *subcode != 0) {
            Some(name) => write!(f, " / {name} ({code}/{subcode})")?,
            None => write!(f, " ({code}/{subcode})")?,
        }
        match self.0.data_text() {
            Some(data_text) => write!(f, ": {data_text}"),
            None => Ok(()),
        }
    }
}

/// IANA's registry "BGP Error (Notification) Codes" with the subcodes; the row with subcode 0 names the code itself.
const NAMES: &[(u8, u8, &str)] = &[
    (1, 0, "Message Header Error"),
    (1, 1, "Connection Not Synchronized"),
    (1, 2, "Bad Message Length"),
    (1, 3, "Bad Message Type"),
    (2, 0, "OPEN Message Error"),
    (2, 1, "Unsupported Version Number"),
    (2, 2, "Bad Peer AS"),
    (2, 3, "Bad BGP Identifier"),
    (2, 4, "Unsupported Optional Parameter"),
    (2, 5, "Authentication Failure"),
    (2, 6, "Unacceptable Hold Time"),
    (2, 7, "Unsupported Capability"),
    (2, 11, "Role Mismatch"),
    (3, 0, "UPDATE Message Error"),
    (3, 1, "Malformed Attribute List"),
    (3, 2, "Unrecognized Well-known Attribute"),
    (3, 3, "Missing Well-known Attribute"),
    (3, 4, "Attribute Flags Error"),
    (3, 5, "Attribute Length Error"),
    (3, 6, "Invalid ORIGIN Attribute"),
    (3, 7, "AS Routing Loop"),
    (3, 8, "Invalid NEXT_HOP Attribute"),
    (3, 9, "Optional Attribute Error"),
    (3, 10, "Invalid Network Field"),
    (3, 11, "Malformed AS_PATH"),
    (4, 0, "Hold Timer Expired"),
    (5, 0, "Finite State Machine Error"),
    (5, 1, "Unexpected Message in OpenSent"),
    (5, 2, "Unexpected Message in OpenConfirm"),
    (5, 3, "Unexpected Message in Established"),
    (6, 0, "Cease"),
    (6, 1, "Maximum Number of Prefixes Reached"),
    (6, 2, "Administrative Shutdown"),
    (6, 3, "Peer De-configured"),
    (6, 4, "Administrative Reset"),
    (6, 5, "Connection Rejected"),
    (6, 6, "Other Configuration Change"),
    (6, 7, "Connection Collision Resolution"),
    (6, 8, "Out of Resources"),
    (6, 9, "Hard Reset"),
    (6, 10, "BFD Down"),
    (7, 0, "ROUTE-REFRESH Message Error"),
    (7, 1, "Invalid Message Length"),
    (8, 0, "Send Hold Timer Expired"),
];

const OPEN_ERROR: u8 = 2;
const FSM_ERROR: u8 = 5;
const CEASE: u8 = 6;

impl From<&ProtocolError> for Notification {
    fn from(error: &ProtocolError) -> Self {
        let new = |code, subcode, data: &[u8]| Self::new(code, subcode, data.to_vec());
        match error {
            ProtocolError::Header(error) => match error {
                HeaderError::NotSynchronized => new(1, 1, &[]),
                HeaderError::BadLength { length } => new(1, 2, &length.to_be_bytes()),
                HeaderError::BadType { kind } => new(1, 3, &[*kind]),
            },
            ProtocolError::Open(error) => match error {
                OpenError::Malformed => new(2, 0, &[]),
                // "The largest locally-supported version number less than the one the peer bid".
                OpenError::UnsupportedVersion { .. } => new(2, 1, &[0, 4]),
                OpenError::BadPeerAs { .. } => new(2, 2, &[]),
                OpenError::BadIdentifier { .. } => new(2, 3, &[]),
                OpenError::UnsupportedParameter { .. } => new(2, 4, &[]),
                OpenError::UnacceptableHoldTime { .. } => new(2, 6, &[]),
                OpenError::NoCommonFamily { ours } => new(2, 7, &multiprotocol(ours)),
            },
            ProtocolError::Update(error) => match error {
                UpdateError::AttributeListLength => new(3, 1, &[]),
                UpdateError::InvalidNetworkField => new(3, 10, &[]),
                UpdateError::Attribute { subcode, attribute } => match subcode {
                    // RFC 4271 §6.3 names no data for these two.
                    1 | 11 => new(3, *subcode, &[]),
                    _ => new(3, *subcode, attribute),
                },
            },
            ProtocolError::HoldTimerExpired => new(4, 0, &[]),
            ProtocolError::UnexpectedMessage { state, kind } => {
                let subcode = match state {
                    UnexpectedIn::OpenSent => 1,
                    UnexpectedIn::OpenConfirm => 2,
                    UnexpectedIn::Established => 3,
                };
                new(5, subcode, &[kind.code()])
            }
            ProtocolError::Cease { cease, reason } => Self::cease(*cease, reason.as_deref()),
            ProtocolError::RouteRefreshLength { message } => new(7, 1, message),
            ProtocolError::SendHoldTimerExpired => new(8, 0, &[]),
        }
    }
}

/// Capabilities as an Unsupported Capability lists them (RFC 5492 §5).
fn multiprotocol(families: &SmallSet<Family>) -> Vec<u8> {
    let list: Vec<Capability> = families
        .iter()
        .map(|family| Capability::Multiprotocol((*family).into()))
        .collect();
    capability::encode_all(&list).unwrap_or_default()
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(error) => error.fmt(f),
            Self::Open(error) => error.fmt(f),
            Self::Update(_) => Notification::from(self).fmt(f),
            Self::RouteRefreshLength { message } => {
                write!(f, "ROUTE-REFRESH of {} bytes", message.len())
            }
            Self::HoldTimerExpired => f.write_str("hold timer expired"),
            Self::SendHoldTimerExpired => f.write_str("send hold timer expired"),
            Self::UnexpectedMessage { state, kind } => {
                write!(f, "{kind} not expected in {state:?}")
            }
            Self::Cease { cease, reason } => Notification::cease(*cease, reason.as_deref()).fmt(f),
        }
    }
}

impl std::error::Error for ProtocolError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(code: u8, subcode: u8, data: &[u8]) -> String {
        Notification::new(code, subcode, data.to_vec()).to_string()
    }

    #[test]
    fn a_notification_is_displayed_by_name() {
        let rows = [
            (
                1,
                1,
                &b""[..],
                "Message Header Error / Connection Not Synchronized (1/1)",
            ),
            (
                1,
                2,
                &[0, 18],
                "Message Header Error / Bad Message Length (1/2): length 18",
            ),
            (
                1,
                3,
                &[9],
                "Message Header Error / Bad Message Type (1/3): type 9",
            ),
            (
                2,
                1,
                &[0, 3],
                "OPEN Message Error / Unsupported Version Number (2/1): peer supports version 3",
            ),
            (2, 2, &[], "OPEN Message Error / Bad Peer AS (2/2)"),
            (
                2,
                7,
                &[1, 4, 0, 2, 0, 1, 6, 0],
                "OPEN Message Error / Unsupported Capability (2/7): capability 1, 6",
            ),
            (
                2,
                7,
                &[],
                "OPEN Message Error / Unsupported Capability (2/7)",
            ),
            (
                3,
                3,
                &[1],
                "UPDATE Message Error / Missing Well-known Attribute (3/3): ORIGIN",
            ),
            (
                3,
                5,
                &[0xc0, 8, 0],
                "UPDATE Message Error / Attribute Length Error (3/5): COMMUNITIES",
            ),
            (
                3,
                11,
                &[],
                "UPDATE Message Error / Malformed AS_PATH (3/11)",
            ),
            (4, 0, &[], "Hold Timer Expired (4/0)"),
            (
                5,
                2,
                &[2],
                "Finite State Machine Error / Unexpected Message in OpenConfirm (5/2): UPDATE",
            ),
            (
                6,
                1,
                &[0, 2, 1, 0, 0, 0, 100],
                "Cease / Maximum Number of Prefixes Reached (6/1): ipv6 unicast, 100 routes",
            ),
            (
                6,
                1,
                &[],
                "Cease / Maximum Number of Prefixes Reached (6/1)",
            ),
            (
                6,
                2,
                b"\x04noon",
                "Cease / Administrative Shutdown (6/2): \"noon\"",
            ),
            (6, 5, &[], "Cease / Connection Rejected (6/5)"),
            (6, 7, &[], "Cease / Connection Collision Resolution (6/7)"),
            (
                6,
                9,
                &[6, 4, 3, b'n', b'o', b'w'],
                "Hard Reset (6/9): Cease / Administrative Reset (6/4): \"now\"",
            ),
            (
                6,
                9,
                &[6, 9, 6, 9],
                "Hard Reset (6/9): Cease / Hard Reset (6/9)",
            ),
            (6, 9, &[6], "Cease / Hard Reset (6/9)"),
            (6, 10, &[], "Cease / BFD Down (6/10)"),
            (6, 99, &[], "Cease (6/99)"),
            (
                7,
                1,
                &[],
                "ROUTE-REFRESH Message Error / Invalid Message Length (7/1)",
            ),
            (8, 0, &[], "Send Hold Timer Expired (8/0)"),
            (77, 1, &[1], "Unknown Error (77/1)"),
        ];
        for (code, subcode, data, expected) in rows {
            assert_eq!(words(code, subcode, data), expected);
        }
    }

    /// RFC 9003 §2, §4.
    #[test]
    fn any_shutdown_communication_is_read() {
        let reason = |data: &[u8]| Notification::new(6, 2, data.to_vec()).reason();
        assert_eq!(reason(b"\x05hello"), Some("hello".to_owned()));
        assert_eq!(reason(b""), None);
        assert_eq!(reason(b"\x00"), None);
        assert_eq!(
            reason(b"\x05hel"),
            Some("hel".to_owned()),
            "too long a length"
        );
        assert_eq!(reason(b"\x02hello"), Some("he".to_owned()), "bytes behind");
        assert_eq!(reason(b"\x03a\nb"), Some("a b".to_owned()), "one line");
        assert_eq!(reason(b"\x04\x1b[2J"), Some("[2J".to_owned()), "no escapes");
        assert_eq!(reason(b"\x02\xffx"), Some("\u{fffd}x".to_owned()));
        let other = Notification::new(6, 3, b"\x05hello".to_vec());
        assert_eq!(other.reason(), None, "no such thing with this subcode");
    }

    #[test]
    fn our_shutdown_communication_fits_one_length_byte_and_ends_at_a_character() {
        let cease = |text: &str| Notification::cease(Cease::AdministrativeShutdown, Some(text));
        assert_eq!(cease("noon").data, b"\x04noon");
        assert_eq!(cease("").data, b"");
        let long = "ä".repeat(200);
        let cut = cease(&long);
        assert_eq!(cut.data.len(), 255);
        assert_eq!(cut.reason(), Some("ä".repeat(127)));
        assert_eq!(cease(&"x".repeat(255)).data.len(), 256);
        let deconfigured = Notification::cease(Cease::PeerDeconfigured, Some("why"));
        assert_eq!(
            deconfigured.data, b"",
            "RFC 9003 §2: with two subcodes alone"
        );
    }

    /// RFC 8538 §3.
    #[test]
    fn a_hard_reset_holds_what_it_is_about() {
        let hard = Notification::new(6, 9, b"\x06\x04\x03now".to_vec());
        assert_eq!(hard.as_cease(), Some(Cease::AdministrativeReset));
        assert_eq!(hard.reason(), Some("now".to_owned()));
        let empty = Notification::new(6, 9, Vec::new());
        assert_eq!(empty.as_cease(), Some(Cease::HardReset));
        assert_eq!(Notification::new(4, 0, Vec::new()).as_cease(), None);
        assert_eq!(Notification::new(6, 0, Vec::new()).as_cease(), None);
    }

    #[test]
    fn subcodes_read_back() {
        for cease in Cease::ALL {
            assert_eq!(Cease::from_subcode(cease.subcode()), Some(cease));
        }
    }

    /// RFC 4271 §6.1, §6.5 to §6.7; RFC 6608 §3, RFC 7313 §5, RFC 9687 §4. The causes of OPEN and
    /// UPDATE have their rows beside their decoders.
    #[test]
    fn every_cause_has_its_code_subcode_and_data() {
        let unexpected = |state| ProtocolError::UnexpectedMessage {
            state,
            kind: MessageType::Update,
        };
        let rows = [
            (HeaderError::NotSynchronized.into(), (1, 1, vec![])),
            (
                HeaderError::BadLength { length: 18 }.into(),
                (1, 2, vec![0, 18]),
            ),
            (HeaderError::BadType { kind: 9 }.into(), (1, 3, vec![9])),
            (ProtocolError::HoldTimerExpired, (4, 0, vec![])),
            (unexpected(UnexpectedIn::OpenSent), (5, 1, vec![2])),
            (unexpected(UnexpectedIn::OpenConfirm), (5, 2, vec![2])),
            (unexpected(UnexpectedIn::Established), (5, 3, vec![2])),
            (
                ProtocolError::Cease {
                    cease: Cease::CollisionResolution,
                    reason: None,
                },
                (6, 7, vec![]),
            ),
            (
                ProtocolError::RouteRefreshLength {
                    message: vec![1, 2],
                },
                (7, 1, vec![1, 2]),
            ),
            (ProtocolError::SendHoldTimerExpired, (8, 0, vec![])),
        ];
        for (error, (code, subcode, data)) in rows {
            let expected = Notification::new(code, subcode, data);
            assert_eq!(Notification::from(&error), expected, "{error}");
        }
    }

    /// RFC 4271 §6.4: nothing is sent about a NOTIFICATION, so anything that has two bytes is one.
    #[test]
    fn any_notification_is_read() {
        for body in [&[0, 0][..], &[255, 255], &[6, 2, 200], &[3, 5, 0xc0]] {
            let read = Notification::decode_body(body).unwrap();
            assert!(!read.to_string().is_empty());
            assert_eq!(read.encode().get(HEADER_LEN..), Some(body));
        }
        assert_eq!(
            Notification::decode_body(&[6]),
            Err(HeaderError::BadLength { length: 20 })
        );
    }
}
