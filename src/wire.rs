//! Bounds-checked reading and writing of the bytes of a protocol.
//!
//! All protocols read input by [`Reader`]: every read is checked, nested fields get a reader of their own by
//! [`Reader::sub`], and trailing bytes are an error. [`Writer`] fills in lengths afterwards
//! and keeps the first length that did not fit its field, so that encoders need one check at the
//! end.

use std::fmt;

/// Input that is truncated, or has bytes after its last field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// A read of `wanted` bytes where only `left` remain.
    Truncated { wanted: usize, left: usize },
    /// `left` bytes follow the last field.
    Trailing { left: usize },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { wanted, left } => {
                write!(f, "truncated: {wanted} bytes expected, {left} left")
            }
            Self::Trailing { left } => write!(f, "{left} trailing bytes"),
        }
    }
}

impl std::error::Error for WireError {}

/// A cursor over received bytes. Multi-byte integers are big endian unless the name ends in `_ne`
/// (native endian, as netlink has them).
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader over all of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes the next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(WireError::Truncated {
            wanted: n,
            left: self.rest.len(),
        })?;
        self.rest = rest;
        Ok(head)
    }

    /// Takes everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// A reader over the next `n` bytes; nothing inside can reach past them.
    pub fn sub(&mut self, n: usize) -> Result<Reader<'a>, WireError> {
        self.take(n).map(Reader::new)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(WireError::Truncated {
                wanted: N,
                left: self.rest.len(),
            })?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// The next two bytes, big endian.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next four bytes, big endian.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next eight bytes, big endian.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next two bytes, native endian.
    pub fn u16_ne(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_ne_bytes)
    }

    /// The next four bytes, native endian.
    pub fn u32_ne(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_ne_bytes)
    }

    /// Checks that nothing is left: trailing bytes are an error.
    pub fn finish(self) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(WireError::Trailing { left }),
        }
    }
}

/// A length that does not fit its length field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    pub length: usize,
    /// The largest length the field can hold.
    pub limit: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes where {} fit", self.length, self.limit)
    }
}

impl std::error::Error for TooLong {}

/// A growing buffer. Lengths are written by [`Writer::len_u8`] and [`Writer::len_u16`] around the
/// closure that writes what they count; the first one that does not fit is kept until
/// [`Writer::finish`].
#[derive(Debug, Default)]
pub struct Writer {
    buf: Vec<u8>,
    error: Option<TooLong>,
}

impl Writer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// Writes one byte.
    pub fn u8(&mut self, value: u8) {
        self.buf.push(value);
    }

    /// Writes two bytes, big endian.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    /// Writes four bytes, big endian.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    /// Writes eight bytes, big endian.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    /// Writes two bytes, native endian.
    pub fn u16_ne(&mut self, value: u16) {
        self.bytes(&value.to_ne_bytes());
    }

    /// Writes four bytes, native endian.
    pub fn u32_ne(&mut self, value: u32) {
        self.bytes(&value.to_ne_bytes());
    }

    /// Writes these bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// Writes a one-byte length and then what `body` writes.
    pub fn len_u8(&mut self, body: impl FnOnce(&mut Self)) {
        self.length_prefixed::<1>(0, body);
    }

    /// Writes a two-byte big-endian length and then what `body` writes.
    pub fn len_u16(&mut self, body: impl FnOnce(&mut Self)) {
        self.length_prefixed::<2>(0, body);
    }

    /// As [`Writer::len_u16`], for a length that also covers `extra` bytes written elsewhere.
    pub fn len_u16_with(&mut self, extra: usize, body: impl FnOnce(&mut Self)) {
        self.length_prefixed::<2>(extra, body);
    }

    fn length_prefixed<const WIDTH: usize>(&mut self, extra: usize, body: impl FnOnce(&mut Self)) {
        let at = self.buf.len();
        self.bytes(&[0; WIDTH]);
        body(self);
        let length = self.buf.len() - at - WIDTH + extra;
        let limit = (1 << (8 * WIDTH)) - 1;
        if length > limit {
            self.error.get_or_insert(TooLong { length, limit });
            return;
        }
        let bytes = length.to_be_bytes();
        let low = bytes.len() - WIDTH;
        for (slot, byte) in self
            .buf
            .iter_mut()
            .skip(at)
            .zip(bytes.into_iter().skip(low))
        {
            *slot = byte;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_checked_and_leave_the_rest_alone() {
        let mut r = Reader::new(&[1, 2, 3, 4]);
        assert_eq!(r.u8(), Ok(1));
        assert_eq!(r.u32(), Err(WireError::Truncated { wanted: 4, left: 3 }));
        assert_eq!(r.u16(), Ok(0x0203), "a failed read takes nothing");
        assert_eq!(r.finish(), Err(WireError::Trailing { left: 1 }));
    }

    #[test]
    fn a_sub_reader_cannot_reach_past_its_length() {
        let mut r = Reader::new(&[9, 8, 7]);
        let mut inner = r.sub(2).unwrap();
        assert!(inner.take(3).is_err());
        assert_eq!(inner.rest(), &[9, 8]);
        assert_eq!(r.remaining(), 1);
        assert!(r.sub(2).is_err());
    }

    #[test]
    fn lengths_are_patched_back_around_their_bodies() {
        let mut w = Writer::new();
        w.len_u16(|w| {
            w.u8(0xaa);
            w.len_u8(|w| w.bytes(&[1, 2, 3]));
        });
        assert_eq!(w.finish().unwrap(), [0, 5, 0xaa, 3, 1, 2, 3]);
    }

    #[test]
    fn a_length_that_does_not_fit_is_an_error_and_not_a_wrong_length() {
        let mut w = Writer::new();
        w.len_u8(|w| w.bytes(&[0; 256]));
        w.len_u8(|w| w.bytes(&[0; 300]));
        let first = TooLong {
            length: 256,
            limit: 255,
        };
        assert_eq!(w.finish(), Err(first));

        let mut w = Writer::new();
        w.len_u8(|w| w.bytes(&[0; 255]));
        assert_eq!(w.finish().unwrap().len(), 256);
    }

    #[test]
    fn extra_bytes_count_in_a_length_that_covers_them() {
        let mut w = Writer::new();
        w.len_u16_with(18, |w| w.u8(4));
        assert_eq!(w.finish().unwrap(), [0, 19, 4]);
    }
}
