//! Netlink messages: requests, and the kernel's answers (`linux/netlink.h`).
//!
//! ```text
//!  0        4      6       8      12     16
//! +--------+------+-------+------+------+---------+
//! | len    | kind | flags | seq  | port | payload |     in the host's byte order, padded to four
//! +--------+------+-------+------+------+---------+
//! ```
//!
//! An answer is one or more messages of a family, or an `NLMSG_ERROR` that with errno 0 means "done".
//! With `NETLINK_EXT_ACK` the kernel adds an error text, with `NETLINK_CAP_ACK` it does not repeat the
//! request. Left out: cookies and policies in the extended ack.

use super::NetlinkError;
use super::attr::{Attr, AttrWriter, Attrs, align};
use crate::wire::{Reader, WireError};

/// One request, encoded but for its sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it does, for error messages: "add the address".
    pub name: &'static str,
    pub kind: u16,
    /// `NLM_F_*`; `NLM_F_REQUEST` is always added.
    pub flags: u16,
    payload: Vec<u8>,
}

impl Request {
    /// A request whose payload `body` writes: first the family's fixed header, then attributes.
    pub fn new(
        name: &'static str,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut AttrWriter),
    ) -> Result<Self, NetlinkError> {
        let mut payload = AttrWriter::new();
        body(&mut payload);
        Self::with_payload(name, kind, flags, payload)
    }

    fn with_payload(
        name: &'static str,
        kind: u16,
        flags: u16,
        payload: AttrWriter,
    ) -> Result<Self, NetlinkError> {
        let payload = payload.finish().map_err(|error| NetlinkError::TooLong {
            request: name,
            error,
        })?;
        Ok(Self {
            name,
            kind,
            flags: flags | NLM_F_REQUEST,
            payload,
        })
    }

    /// Bytes of the whole message.
    pub fn encoded_len(&self) -> usize {
        align(HEADER + self.payload.len())
    }

    /// The whole message.
    pub fn encode(&self, seq: u32) -> Vec<u8> {
        let length = HEADER + self.payload.len();
        let mut bytes = Vec::with_capacity(align(length));
        // Only a batch can come near 4 GiB, and a batch is many messages; none has such a payload.
        let field = u32::try_from(length).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&field.to_ne_bytes());
        bytes.extend_from_slice(&self.kind.to_ne_bytes());
        bytes.extend_from_slice(&self.flags.to_ne_bytes());
        bytes.extend_from_slice(&seq.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.payload);
        bytes.resize(align(length), 0);
        bytes
    }

    /// Whether the kernel acknowledges it (`NLM_F_ACK`).
    pub fn wants_ack(&self) -> bool {
        self.flags & NLM_F_ACK != 0
    }

    /// Whether it lists a table (`NLM_F_DUMP`).
    pub fn is_dump(&self) -> bool {
        self.flags & NLM_F_DUMP == NLM_F_DUMP
    }
}

/// One message out of a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
    /// Port id; 0 in messages that the kernel sends unasked.
    pub port: u32,
    pub payload: &'a [u8],
}

/// What a message means for the request that it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// A message of the family.
    Data(&'a [u8]),
    /// The request was carried out, or the dump is complete.
    Done,
    /// `NLMSG_ERROR`: a positive errno, and the text of the extended ack.
    Error { errno: i32, message: Option<String> },
    /// `NLMSG_NOOP` and other control messages.
    Noop,
    /// `NLMSG_OVERRUN`: messages were lost.
    Overrun,
}

impl<'a> Message<'a> {
    /// `NLM_F_DUMP_INTR`: the table changed during the dump, which has to be repeated.
    pub fn dump_interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }

    /// What the message means for its request.
    pub fn reply(&self) -> Result<Reply<'a>, WireError> {
        match self.kind {
            NLMSG_ERROR => self.error(),
            NLMSG_DONE => self.done(),
            NLMSG_OVERRUN => Ok(Reply::Overrun),
            kind if kind < NLMSG_MIN_TYPE => Ok(Reply::Noop),
            _ => Ok(Reply::Data(self.payload)),
        }
    }

    /// `struct nlmsgerr`: the errno, then the request's header, its payload unless capped, attributes.
    fn error(&self) -> Result<Reply<'a>, WireError> {
        let mut r = Reader::new(self.payload);
        let errno = r.array().map(i32::from_ne_bytes)?;
        if errno == 0 {
            return Ok(Reply::Done);
        }
        let echoed = u64::from(r.u32_ne()?);
        r.take(HEADER - 4)?;
        if self.flags & NLM_F_CAPPED == 0 {
            let payload = usize::try_from(echoed).unwrap_or(usize::MAX);
            r.take(align(payload.saturating_sub(HEADER)).min(r.remaining()))?;
        }
        Ok(error_reply(errno, self.extack_message(r)))
    }

    /// A dump's end carries an errno too; kernels before 4.17 may leave it out.
    fn done(&self) -> Result<Reply<'a>, WireError> {
        let mut r = Reader::new(self.payload);
        if r.is_empty() {
            return Ok(Reply::Done);
        }
        match r.array().map(i32::from_ne_bytes)? {
            errno if errno < 0 => Ok(error_reply(errno, self.extack_message(r))),
            _ => Ok(Reply::Done),
        }
    }

    /// `NLMSGERR_ATTR_MSG` among the attributes after the error. Malformed attributes give `None`, not an error, so
    /// that the errno is not lost.
    fn extack_message(&self, mut rest: Reader<'a>) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        Attrs::new(rest.rest())
            .map_while(Result::ok)
            .find(|attr| attr.kind == NLMSGERR_ATTR_MSG)
            .map(|attr: Attr<'_>| attr.text())
    }
}

fn error_reply<'a>(errno: i32, message: Option<String>) -> Reply<'a> {
    Reply::Error {
        errno: errno.saturating_neg(),
        message,
    }
}

/// The messages of one datagram. After an error it ends.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: Reader<'a>,
}

impl<'a> Messages<'a> {
    /// The messages in a datagram.
    pub fn new(datagram: &'a [u8]) -> Self {
        Self {
            rest: Reader::new(datagram),
        }
    }

    fn read(&mut self) -> Result<Message<'a>, WireError> {
        let length = usize::try_from(self.rest.u32_ne()?).unwrap_or(usize::MAX);
        let message = Message {
            kind: self.rest.u16_ne()?,
            flags: self.rest.u16_ne()?,
            seq: self.rest.u32_ne()?,
            port: self.rest.u32_ne()?,
            payload: self
                .rest
                .take(length.checked_sub(HEADER).ok_or(WireError::Truncated {
                    wanted: HEADER,
                    left: length,
                })?)?,
        };
        let padding = (align(length) - length).min(self.rest.remaining());
        self.rest.take(padding)?;
        Ok(message)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let message = self.read();
        if message.is_err() {
            self.rest.rest();
        }
        Some(message)
    }
}

/// A request to the kernel.
pub const NLM_F_REQUEST: u16 = 0x1;
/// Asks for an acknowledgment.
pub const NLM_F_ACK: u16 = 0x4;
/// Returns what was created.
pub const NLM_F_ECHO: u16 = 0x8;
/// Asks for all entries of a table.
pub const NLM_F_DUMP: u16 = 0x300;
/// Replaces an existing object.
pub const NLM_F_REPLACE: u16 = 0x100;
/// Fails if the object exists.
pub const NLM_F_EXCL: u16 = 0x200;
/// Creates the object if it does not exist.
pub const NLM_F_CREATE: u16 = 0x400;
/// Adds at the end of the list.
pub const NLM_F_APPEND: u16 = 0x800;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;

/// An error, or with errno 0 an acknowledgment.
pub const NLMSG_ERROR: u16 = 2;
/// The end of a dump.
pub const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
const NLMSG_MIN_TYPE: u16 = 16;
const NLMSGERR_ATTR_MSG: u16 = 1;

const HEADER: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// A message from the kernel, from its parts.
    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let length = u32::try_from(16 + payload.len()).unwrap();
        bytes.extend(length.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    }

    fn reply(bytes: &[u8]) -> Reply<'_> {
        let message = Messages::new(bytes).next().unwrap().unwrap();
        message.reply().unwrap()
    }

    /// `struct nlmsgerr` of errno 1 with the sentence "no" behind it.
    fn refusal(echoed: &[u8], flags: u16) -> Vec<u8> {
        let mut payload = (-1i32).to_ne_bytes().to_vec();
        payload.extend(message(20, 0, echoed));
        payload.extend([7, 0, 1, 0, b'n', b'o', 0, 0]);
        message(NLMSG_ERROR, flags, &payload)
    }

    #[test]
    fn the_sentence_of_a_refusal_is_found_behind_the_echoed_request_or_its_header_alone() {
        let report = Reply::Error {
            errno: 1,
            message: Some("no".to_owned()),
        };
        assert_eq!(reply(&refusal(&[9; 12], NLM_F_ACK_TLVS)), report);
        assert_eq!(reply(&refusal(&[], NLM_F_ACK_TLVS | NLM_F_CAPPED)), report);
        let silent = Reply::Error {
            errno: 1,
            message: None,
        };
        assert_eq!(reply(&refusal(&[], NLM_F_CAPPED)), silent);
    }

    #[test]
    fn a_dump_ends_well_or_with_an_errno() {
        assert_eq!(reply(&message(NLMSG_DONE, 2, &[0; 4])), Reply::Done);
        assert_eq!(reply(&message(NLMSG_DONE, 2, &[])), Reply::Done);
        let errno = 4i32;
        let message_of_it = message(NLMSG_DONE, 2, &(-errno).to_ne_bytes());
        let message = None;
        assert_eq!(reply(&message_of_it), Reply::Error { errno, message });
    }

    #[test]
    fn an_acknowledgment_is_an_error_of_zero() {
        let mut payload = vec![0; 4];
        payload.extend(message(20, 0, &[]));
        assert_eq!(reply(&message(NLMSG_ERROR, 0, &payload)), Reply::Done);
    }

    #[test]
    fn several_messages_share_a_datagram() {
        let mut datagram = message(20, 2, &[1, 2, 3]);
        datagram.push(0); // padding
        datagram.extend(message(20, 2 | NLM_F_DUMP_INTR, &[4]));
        let all: Vec<Message<'_>> = Messages::new(&datagram).map(Result::unwrap).collect();
        assert_eq!((all[0].payload, all[1].payload), (&[1, 2, 3][..], &[4][..]));
        assert!(!all[0].dump_interrupted() && all[1].dump_interrupted());
    }

    #[test]
    fn wrong_lengths_are_errors_and_end_the_datagram() {
        for length in [0u32, 15, 64, u32::MAX] {
            let mut bytes = message(20, 0, &[]);
            bytes.splice(..4, length.to_ne_bytes());
            let mut messages = Messages::new(&bytes);
            assert!(messages.next().unwrap().is_err(), "{length}");
            assert!(messages.next().is_none());
        }
    }

    #[test]
    fn a_request_is_padded_and_says_its_true_length() {
        let request = Request::new("test", 20, NLM_F_ACK, |w| w.raw(&[1, 2, 3])).unwrap();
        let bytes = request.encode(9);
        assert_eq!(bytes.len(), 20);
        assert_eq!(bytes[..4], 19u32.to_ne_bytes());
        assert!(request.wants_ack() && !request.is_dump());
    }
}
