//! Netlink attributes: a length, a kind, a payload, and padding to four bytes (`linux/netlink.h`).
//!
//! ```text
//!  0      2      4
//! +------+------+-----------------+---------+
//! | len  | kind | payload         | padding |     len counts the four bytes of the header, not the
//! +------+------+-----------------+---------+     padding; the kind's two top bits are flags
//! ```
//!
//! Integers are in the host's order unless a name ends in `_be`.

use crate::wire::{Reader, TooLong, WireError};
use std::net::IpAddr;

/// Writes attributes. The first length that does not fit its field is kept until [`AttrWriter::finish`],
/// so that nested closures need no error handling.
#[derive(Debug, Default)]
pub struct AttrWriter {
    buf: Vec<u8>,
    error: Option<TooLong>,
}

impl AttrWriter {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes outside of attributes: the fixed header of a family, or a message inside a batch.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// An attribute whose payload `body` writes.
    fn with(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let at = self.open(kind);
        body(self);
        self.close(at);
    }

    /// Begins an attribute; returns where.
    fn open(&mut self, kind: u16) -> usize {
        let at = self.buf.len();
        self.raw(&[0; 2]);
        self.raw(&kind.to_ne_bytes());
        at
    }

    /// Ends the attribute that began there.
    fn close(&mut self, at: usize) {
        let length = self.buf.len() - at;
        match u16::try_from(length) {
            Ok(length) => self.patch(at, length.to_ne_bytes()),
            Err(_) => {
                let limit = usize::from(u16::MAX);
                self.error.get_or_insert(TooLong { length, limit });
            }
        }
        self.buf.resize(align(self.buf.len()), 0);
    }

    fn patch<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        for (slot, byte) in self.buf.iter_mut().skip(at).zip(bytes) {
            *slot = byte;
        }
    }

    /// Attributes inside an attribute, marked with `NLA_F_NESTED`.
    pub fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        self.with(kind | NLA_F_NESTED, body);
    }

    /// An attribute of these bytes.
    pub fn bytes(&mut self, kind: u16, bytes: &[u8]) {
        self.with(kind, |w| w.raw(bytes));
    }

    /// A NUL-terminated string, as the kernel's `nla_strcmp` and `nft` require.
    pub fn text(&mut self, kind: u16, text: &str) {
        self.with(kind, |w| {
            w.raw(text.as_bytes());
            w.raw(&[0]);
        });
    }

    /// An attribute of one byte.
    pub fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    /// An attribute of two bytes, big endian.
    pub fn u16_be(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute of four bytes.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// An attribute of four bytes, big endian.
    pub fn u32_be(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute of four or sixteen bytes.
    pub fn addr(&mut self, kind: u16, addr: IpAddr) {
        match addr {
            IpAddr::V4(a) => self.bytes(kind, &a.octets()),
            IpAddr::V6(a) => self.bytes(kind, &a.octets()),
        }
    }

    /// The bytes, or the first length that did not fit.
    pub fn finish(self) -> Result<Vec<u8>, TooLong> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.buf),
        }
    }
}

/// One attribute: its kind without the flags, and its payload.
#[derive(Clone, Copy, Debug)]
pub struct Attr<'a> {
    pub kind: u16,
    payload: &'a [u8],
}

impl<'a> Attr<'a> {
    /// The payload.
    pub fn bytes(&self) -> &'a [u8] {
        self.payload
    }

    /// A reader over the payload.
    pub fn reader(&self) -> Reader<'a> {
        Reader::new(self.payload)
    }

    /// The attributes inside this one.
    pub fn nested(&self) -> Attrs<'a> {
        Attrs::new(self.payload)
    }

    /// The payload as one byte.
    pub fn u8(&self) -> Result<u8, WireError> {
        self.reader().u8()
    }

    /// The payload as two bytes, big endian.
    pub fn u16_be(&self) -> Result<u16, WireError> {
        self.reader().u16()
    }

    /// The payload as four bytes.
    pub fn u32(&self) -> Result<u32, WireError> {
        self.reader().u32_ne()
    }

    /// The payload as four bytes, big endian.
    pub fn u32_be(&self) -> Result<u32, WireError> {
        self.reader().u32()
    }

    /// The payload as eight bytes, big endian.
    pub fn u64_be(&self) -> Result<u64, WireError> {
        self.reader().u64()
    }

    /// The string up to its NUL, or all of it. Invalid UTF-8 is replaced.
    pub fn text(&self) -> String {
        let text = self.payload.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    /// An address by the payload's length, four or sixteen bytes.
    pub fn addr(&self) -> Result<IpAddr, WireError> {
        let mut r = self.reader();
        match r.remaining() {
            16 => r.array::<16>().map(IpAddr::from),
            _ => {
                let addr = r.array::<4>().map(IpAddr::from)?;
                r.finish().map(|()| addr)
            }
        }
    }
}

/// The attributes in a piece of a message, one after the other. After an error it ends.
#[derive(Clone, Debug)]
pub struct Attrs<'a> {
    rest: Reader<'a>,
}

impl<'a> Attrs<'a> {
    /// The attributes in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: Reader::new(bytes),
        }
    }

    fn read(&mut self) -> Result<Attr<'a>, WireError> {
        let length = usize::from(self.rest.u16_ne()?);
        let kind = self.rest.u16_ne()? & NLA_TYPE_MASK;
        let payload_len = length.checked_sub(HEADER).ok_or(WireError::Truncated {
            wanted: HEADER,
            left: length,
        })?;
        let payload = self.rest.take(payload_len)?;
        // The last attribute may come without its padding.
        let padding = (align(length) - length).min(self.rest.remaining());
        self.rest.take(padding)?;
        Ok(Attr { kind, payload })
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<Attr<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let attr = self.read();
        if attr.is_err() {
            self.rest.rest();
        }
        Some(attr)
    }
}

/// `NLA_ALIGN`.
pub fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

const HEADER: usize = 4;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_written_as_it_is_read() {
        let mut w = AttrWriter::new();
        w.u32(1, 7);
        w.nest(2, |w| {
            w.text(3, "lo");
            w.u8(4, 9);
        });
        w.addr(5, "192.0.2.1".parse().unwrap());
        let bytes = w.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let attrs: Vec<_> = Attrs::new(&bytes).map(Result::unwrap).collect();
        let kinds: Vec<_> = attrs.iter().map(|a| a.kind).collect();
        assert_eq!(kinds, [1, 2, 5]);
        assert_eq!(attrs[0].u32(), Ok(7));
        let inner: Vec<_> = attrs[1].nested().map(Result::unwrap).collect();
        assert_eq!(inner[0].text(), "lo");
        assert_eq!(inner[0].bytes(), b"lo\0");
        assert_eq!(inner[1].u8(), Ok(9));
        assert_eq!(attrs[2].addr().unwrap().to_string(), "192.0.2.1");
    }

    #[test]
    fn a_length_that_does_not_fit_is_an_error() {
        let mut w = AttrWriter::new();
        w.nest(1, |w| w.bytes(2, &[0; 65536]));
        assert_eq!(
            w.finish(),
            Err(TooLong {
                length: 65540,
                limit: 65535
            })
        );
    }

    #[test]
    fn a_length_past_the_end_or_below_the_header_ends_the_reading() {
        for bytes in [[8, 0, 1, 0, 0, 0], [3, 0, 1, 0, 0, 0]] {
            let mut attrs = Attrs::new(&bytes);
            assert!(attrs.next().unwrap().is_err());
            assert!(attrs.next().is_none());
        }
    }

    #[test]
    fn the_last_padding_may_be_missing() {
        let mut attrs = Attrs::new(&[5, 0, 1, 0, 9]);
        assert_eq!(attrs.next().unwrap().unwrap().u8(), Ok(9));
        assert!(attrs.next().is_none());
    }
}
