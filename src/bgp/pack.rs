//! Sets of routes into as few UPDATEs as hold them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Negotiated, PathAttributes};
use crate::net::{Family, Prefix};

/// One UPDATE, ready to send, and the routes it speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    pub bytes: Vec<u8>,
    pub withdrawn: Vec<Prefix>,
    pub announced: Vec<Prefix>,
}

/// Makes UPDATEs one at a time, withdrawals first, so that whoever sends can stop when there is no
/// room and remember what has left.
#[derive(Debug)]
pub struct Packer<'a> {
    negotiated: &'a Negotiated,
    max_len: usize,
}

impl<'a> Packer<'a> {
    /// `attributes` are taken as they are to be seen by the peer, but LOCAL_PREF goes out on iBGP only.
    /// Routes that [`sendable`] refuses, and withdrawals of families not negotiated, are left out.
    pub fn new(
        withdrawn: &'a BTreeSet<Prefix>,
        announced: &'a BTreeMap<Prefix, PathAttributes>,
        negotiated: &'a Negotiated,
        max_len: usize,
    ) -> Self {
        let _ = (withdrawn, announced);
        Self {
            negotiated,
            max_len,
        }
    }
}

impl Iterator for Packer<'_> {
    type Item = Packed;

    fn next(&mut self) -> Option<Packed> {
        let _ = (self.negotiated, self.max_len);
        todo!()
    }
}

/// The bytes alone of what a [`Packer`] makes.
pub fn pack<'a>(
    withdrawn: &'a BTreeSet<Prefix>,
    announced: &'a BTreeMap<Prefix, PathAttributes>,
    negotiated: &'a Negotiated,
    max_len: usize,
) -> impl Iterator<Item = Vec<u8>> + 'a {
    Packer::new(withdrawn, announced, negotiated, max_len).map(|packed| packed.bytes)
}

/// Whether the session can carry this route: its family is negotiated, the next hop is of that family
/// (or IPv6 for IPv4 where RFC 8950 is negotiated) and it fits a message of `max_len` bytes.
pub fn sendable(
    prefix: &Prefix,
    attributes: &PathAttributes,
    negotiated: &Negotiated,
    max_len: usize,
) -> bool {
    let _ = (prefix, attributes, negotiated, max_len);
    todo!()
}

/// "That was all of this family" (RFC 4724 §2).
pub fn end_of_rib(family: Family) -> Vec<u8> {
    let _ = family;
    todo!()
}
