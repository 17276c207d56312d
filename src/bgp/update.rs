//! UPDATE (RFC 4271 §4.3, §6.3; RFC 4760; RFC 7606).

use std::net::Ipv6Addr;

use super::{AttributeError, PathAttributes, RawAttribute};
use crate::net::{Family, Prefix};

/// An UPDATE in full, for whoever wants to look at one. A speaker that keeps no routes uses
/// [`UpdateSummary`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Routes of both families that are taken away; also those announced with attributes that RFC
    /// 7606 treats as a withdrawal.
    pub withdrawn: Vec<Prefix>,
    /// At most one from the NLRI field and one from MP_REACH_NLRI; they share all but the next hop.
    pub announced: Vec<Announcement>,
    pub end_of_rib: Option<Family>,
    /// What was wrong and did not end the session.
    pub problems: Vec<AttributeError>,
}

/// Routes that share their attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub prefixes: Vec<Prefix>,
    pub attributes: PathAttributes,
    /// The second address of a 32-byte next hop (RFC 2545 §3).
    pub link_local: Option<Ipv6Addr>,
    /// Attributes that we know nothing of or do not use, in order of arrival.
    pub others: Vec<RawAttribute>,
}

/// What remains of an UPDATE that was checked and dropped: nothing grows with its routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateSummary {
    pub withdrawn: usize,
    pub announced: usize,
    pub end_of_rib: Option<Family>,
    /// What was wrong and did not end the session.
    pub problems: Vec<AttributeError>,
}
