//! Splits the byte stream into messages (RFC 4271 §4.1, §6.1; RFC 8654 for longer ones).

use std::fmt;

use crate::wire::{Reader, TooLong, Writer};

/// The longest message, header included (RFC 4271 §4.1).
pub const MAX_LEN: usize = 4096;

/// The longest message after the Extended Message capability was negotiated (RFC 8654 §4).
pub const MAX_LEN_EXTENDED: usize = 65535;

pub(super) const HEADER_LEN: usize = 19;

pub(super) const MARKER: [u8; 16] = [0xff; 16];

/// The message type (RFC 4271 §4.1, RFC 2918 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageType {
    Open,
    Update,
    Notification,
    Keepalive,
    RouteRefresh,
}

impl MessageType {
    /// All known types.
    pub const ALL: [Self; 5] = [
        Self::Open,
        Self::Update,
        Self::Notification,
        Self::Keepalive,
        Self::RouteRefresh,
    ];

    /// `None` for an unknown code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The code in the message header.
    pub fn code(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "OPEN",
            Self::Update => "UPDATE",
            Self::Notification => "NOTIFICATION",
            Self::Keepalive => "KEEPALIVE",
            Self::RouteRefresh => "ROUTE-REFRESH",
        })
    }
}

/// One message without its header; `kind` is a [`MessageType`]'s code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub body: Vec<u8>,
}

impl Frame {
    /// A whole message: the header, then `body`.
    ///
    /// ```text
    /// | marker, all ones | length | type | body |
    /// |        16        |    2   |   1  |      |
    /// ```
    pub(super) fn encode(kind: MessageType, body: &[u8]) -> Result<Vec<u8>, TooLong> {
        let mut w = Writer::new();
        w.bytes(&MARKER);
        w.len_u16_with(MARKER.len() + 2, |w| {
            w.u8(kind.code());
            w.bytes(body);
        });
        w.finish()
    }
}

/// Why a header ends the session (RFC 4271 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The marker is not all ones.
    NotSynchronized,
    /// The length is impossible, at all or for the type.
    BadLength {
        length: u16,
    },
    BadType {
        kind: u8,
    },
}

impl HeaderError {
    /// For a body that is too short or too long for its type.
    pub(super) fn bad_length(body: usize) -> Self {
        Self::BadLength {
            length: u16::try_from(body + HEADER_LEN).unwrap_or(u16::MAX),
        }
    }
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSynchronized => f.write_str("message marker is not all ones"),
            Self::BadLength { length } => write!(f, "message length {length} is impossible"),
            Self::BadType { kind } => write!(f, "message type {kind} is unknown"),
        }
    }
}

impl std::error::Error for HeaderError {}

/// Buffers received bytes and hands out whole messages.
#[derive(Debug, Default)]
pub struct Framer {
    buf: Vec<u8>,
    /// Bytes of `buf` that are already handed out.
    consumed: usize,
}

impl Framer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes as they came from the connection.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.consumed > 0 {
            self.buf.drain(..self.consumed);
            self.consumed = 0;
        }
        self.buf.extend_from_slice(bytes);
    }

    /// The next whole message; `None` while it is incomplete. `max_len` is [`MAX_LEN`], or
    /// [`MAX_LEN_EXTENDED`] once that is negotiated. Each field of the header is
    /// checked as soon as it has come, without waiting for the body of an invalid message.
    pub fn next(&mut self, max_len: usize) -> Result<Option<Frame>, HeaderError> {
        let waiting = self.buf.get(self.consumed..).unwrap_or_default();
        let Some((kind, length)) = check_header(waiting, max_len)? else {
            return Ok(None);
        };
        let Some(body) = waiting.get(HEADER_LEN..length) else {
            return Ok(None);
        };
        let body = body.to_vec();
        self.consumed += length;
        Ok(Some(Frame { kind, body }))
    }
}

/// Type and length, once both have come. In the order of RFC 4271 §6.1: marker, length, type.
fn check_header(bytes: &[u8], max_len: usize) -> Result<Option<(u8, usize)>, HeaderError> {
    if bytes.iter().zip(MARKER).any(|(got, want)| *got != want) {
        return Err(HeaderError::NotSynchronized);
    }
    let mut r = Reader::new(bytes);
    let Ok(length) = r.take(MARKER.len()).and_then(|_| r.u16()) else {
        return Ok(None);
    };
    let bad_length = HeaderError::BadLength { length };
    let size = usize::from(length);
    if size < HEADER_LEN || size > max_len {
        return Err(bad_length);
    }
    let Ok(kind) = r.u8() else {
        return Ok(None);
    };
    let fits = match MessageType::from_code(kind).ok_or(HeaderError::BadType { kind })? {
        // RFC 8654 §4: these two never grow.
        MessageType::Open => (29..=MAX_LEN).contains(&size),
        MessageType::Keepalive => size == HEADER_LEN,
        MessageType::Update => size >= 23,
        MessageType::Notification => size >= 21,
        // The length of the body is checked with its subtype (RFC 7313 §5).
        MessageType::RouteRefresh => true,
    };
    if fits {
        Ok(Some((kind, size)))
    } else {
        Err(bad_length)
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden::load;
    use super::*;
    use crate::timer::Rng;

    impl Framer {
        /// Bytes waiting for the rest of their message.
        pub(in crate::bgp) fn buffered(&self) -> usize {
            self.buf.len() - self.consumed
        }
    }

    fn header(length: u16, kind: u8) -> Vec<u8> {
        let mut bytes = MARKER.to_vec();
        bytes.extend(length.to_be_bytes());
        bytes.push(kind);
        bytes
    }

    fn judge(bytes: &[u8], max_len: usize) -> Result<Option<Frame>, HeaderError> {
        let mut framer = Framer::new();
        framer.push(bytes);
        framer.next(max_len)
    }

    /// RFC 4271 §6.1, second paragraph.
    #[test]
    fn a_marker_that_is_not_all_ones_is_seen_at_its_first_byte() {
        assert_eq!(judge(&[0xff; 15], MAX_LEN), Ok(None));
        assert_eq!(
            judge(&[0xff, 0xfe], MAX_LEN),
            Err(HeaderError::NotSynchronized)
        );
        assert_eq!(
            judge(b"HTTP/1.1", MAX_LEN),
            Err(HeaderError::NotSynchronized)
        );
        let mut bytes = header(19, 4);
        bytes[15] = 0;
        assert_eq!(judge(&bytes, MAX_LEN), Err(HeaderError::NotSynchronized));
    }

    /// RFC 4271 §6.1, third paragraph; RFC 8654 §4.
    #[test]
    fn a_length_is_judged_before_the_body_is_there() {
        let open = MessageType::Open.code();
        let update = MessageType::Update.code();
        let notification = MessageType::Notification.code();
        let keepalive = MessageType::Keepalive.code();
        let refresh = MessageType::RouteRefresh.code();
        let bad = [
            (0, update, MAX_LEN),
            (18, update, MAX_LEN),
            (4097, update, MAX_LEN),
            (65535, notification, MAX_LEN),
            (28, open, MAX_LEN),
            (22, update, MAX_LEN),
            (20, notification, MAX_LEN),
            (20, keepalive, MAX_LEN),
            (20, keepalive, MAX_LEN_EXTENDED),
            (4097, open, MAX_LEN_EXTENDED),
        ];
        for (length, kind, max_len) in bad {
            assert_eq!(
                judge(&header(length, kind), max_len),
                Err(HeaderError::BadLength { length }),
                "{length} for type {kind}"
            );
        }
        let good = [
            (29, open, MAX_LEN),
            (23, update, MAX_LEN),
            (4096, update, MAX_LEN),
            (65535, update, MAX_LEN_EXTENDED),
            (4097, notification, MAX_LEN_EXTENDED),
            (21, notification, MAX_LEN),
            (23, refresh, MAX_LEN),
        ];
        for (length, kind, max_len) in good {
            assert_eq!(judge(&header(length, kind), max_len), Ok(None));
        }
        let error = judge(&header(4097, 0)[..18], MAX_LEN);
        assert_eq!(error, Err(HeaderError::BadLength { length: 4097 }));
    }

    /// RFC 4271 §6.1, last paragraph.
    #[test]
    fn an_unknown_type_is_an_error_and_not_a_crash() {
        for kind in [0, 6, 128, 255] {
            assert_eq!(
                judge(&header(19, kind), MAX_LEN),
                Err(HeaderError::BadType { kind })
            );
        }
    }

    #[test]
    fn an_error_stays_one() {
        let mut framer = Framer::new();
        framer.push(&header(19, 4));
        framer.push(&header(18, 4));
        assert!(matches!(framer.next(MAX_LEN), Ok(Some(_))));
        for _ in 0..2 {
            let error = Err(HeaderError::BadLength { length: 18 });
            assert_eq!(framer.next(MAX_LEN), error);
        }
    }

    #[test]
    fn any_chunking_gives_the_same_frames() {
        let messages: Vec<Vec<u8>> = load().into_values().collect();
        let stream = messages.concat();
        for seed in 0..200 {
            let mut chance = Rng::new(seed);
            let longest = 1 + chance.below(300);
            let mut framer = Framer::new();
            let mut rest = stream.as_slice();
            let mut got = Vec::new();
            while !rest.is_empty() {
                let size = usize::try_from(1 + chance.below(longest)).unwrap();
                let (chunk, after) = rest.split_at(size.min(rest.len()));
                framer.push(chunk);
                rest = after;
                // Not always drained at once.
                while !chance.next_u64().is_multiple_of(4) || rest.is_empty() {
                    match framer.next(MAX_LEN).unwrap() {
                        Some(frame) => got.push(frame),
                        None => break,
                    }
                }
            }
            let kinds = got.iter().map(|frame| {
                let kind = MessageType::from_code(frame.kind).unwrap();
                Frame::encode(kind, &frame.body).unwrap()
            });
            assert_eq!(kinds.collect::<Vec<_>>(), messages, "seed {seed}");
            assert_eq!(framer.buffered(), 0, "seed {seed}");
        }
    }
}
