//! UPDATE (RFC 4271 §4.3, RFC 4760): in full, as counts, and back into bytes. What is wrong with one is
//! found in `inspect`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use super::attribute::{self, OPTIONAL};
use super::inspect::Inspected;
use super::{
    AfiSafi, AsPath, AttributeCode, AttributeError, EncodeContext, EncodeError, PathAttributes,
    RawAttribute,
};
use crate::net::{Asn, Community, ExtCommunity, Family, LargeCommunity, Origin, Prefix};
use crate::wire::{TooLong, Writer};

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

impl Inspected<'_> {
    /// The counts alone.
    pub(super) fn summary(self) -> UpdateSummary {
        let in_reach = self.reach.as_ref().map_or(0, |reach| reach.routes.len());
        let in_unreach = self.unreach.map_or(0, |routes| routes.len());
        let announced = self.nlri.len() + in_reach;
        let withdrawn = self.withdrawn.len() + in_unreach;
        let (announced, withdrawn) = if self.treat_as_withdraw {
            (0, withdrawn + announced)
        } else {
            (announced, withdrawn)
        };
        UpdateSummary {
            withdrawn,
            announced,
            end_of_rib: self.end_of_rib,
            problems: self.problems,
        }
    }

    /// Everything.
    pub(super) fn update(self) -> Update {
        let unreach = self.unreach.iter().flat_map(|routes| routes.iter());
        let mut withdrawn: Vec<Prefix> = self.withdrawn.iter().chain(unreach).collect();
        let mut announced = Vec::new();
        if self.treat_as_withdraw {
            let reach = self.reach.iter().flat_map(|reach| reach.routes.iter());
            withdrawn.extend(self.nlri.iter().chain(reach));
        } else {
            announced = self.announcements();
            // RFC 4271 §4.3: what is in both is announced.
            let both = announced.iter().flat_map(|a| &a.prefixes);
            let mut both: Vec<&Prefix> = both.collect();
            both.sort_unstable();
            withdrawn.retain(|prefix| both.binary_search(&prefix).is_err());
        }
        Update {
            withdrawn,
            announced,
            end_of_rib: self.end_of_rib,
            problems: self.problems,
        }
    }

    fn announcements(&self) -> Vec<Announcement> {
        let reach = self.reach.as_ref();
        let mp = reach.map(|r| (r.routes, Some(r.next_hop), r.link_local));
        let classic = (self.nlri, self.classic_next_hop(), None);
        std::iter::once(classic)
            .chain(mp)
            .filter(|(routes, ..)| routes.len() > 0)
            .filter_map(|(routes, next_hop, link_local)| {
                Some(Announcement {
                    prefixes: routes.iter().collect(),
                    attributes: self.path_attributes(next_hop?),
                    link_local,
                    others: self.others(),
                })
            })
            .collect()
    }

    fn classic_next_hop(&self) -> Option<IpAddr> {
        let octets: [u8; 4] = self.value(AttributeCode::NEXT_HOP)?.try_into().ok()?;
        Some(octets.into())
    }

    fn path_attributes(&self, next_hop: IpAddr) -> PathAttributes {
        let number = |code| {
            let octets: [u8; 4] = self.value(code)?.try_into().ok()?;
            Some(u32::from_be_bytes(octets))
        };
        PathAttributes {
            origin: match self.value(AttributeCode::ORIGIN) {
                Some([0]) => Origin::Igp,
                Some([1]) => Origin::Egp,
                _ => Origin::Incomplete,
            },
            as_path: self.as_path(),
            next_hop,
            med: number(AttributeCode::MULTI_EXIT_DISC),
            local_pref: number(AttributeCode::LOCAL_PREF),
            communities: self.set(AttributeCode::COMMUNITIES, |octets| {
                Community(u32::from_be_bytes(octets))
            }),
            large_communities: self.set(AttributeCode::LARGE_COMMUNITIES, large_community),
            ext_communities: self.set(AttributeCode::EXTENDED_COMMUNITIES, ExtCommunity),
        }
    }

    /// RFC 6793 §4.2.3.
    fn as_path(&self) -> AsPath {
        let value = self.value(AttributeCode::AS_PATH).unwrap_or_default();
        let path = AsPath::decode(value, self.four_octet_as);
        // An old speaker that aggregated made a path of its own.
        let aggregator = self.value(AttributeCode::AGGREGATOR);
        let stale = self.value(AttributeCode::AS4_AGGREGATOR).is_some()
            && aggregator.is_some_and(|v| !v.starts_with(&Asn::TRANS.as_u16().to_be_bytes()));
        match self.value(AttributeCode::AS4_PATH) {
            Some(as4) if !stale => path.merge(AsPath::decode(as4, true)),
            _ => path,
        }
    }

    fn value(&self, code: AttributeCode) -> Option<&[u8]> {
        let attribute = self.attributes.iter().find(|a| a.code == code)?;
        Some(attribute.value)
    }

    fn set<const N: usize, T: Ord>(
        &self,
        code: AttributeCode,
        make: impl Fn([u8; N]) -> T,
    ) -> BTreeSet<T> {
        let value = self.value(code).unwrap_or_default();
        let items = value.chunks_exact(N).filter_map(|c| c.try_into().ok());
        // As many as a message holds, in any order: inserted one by one they would be moved too often.
        let mut items: Vec<T> = items.map(make).collect();
        items.sort_unstable();
        items.into_iter().collect()
    }

    fn others(&self) -> Vec<RawAttribute> {
        self.attributes
            .iter()
            .filter(|attribute| !USED.contains(&attribute.code))
            .map(|attribute| RawAttribute {
                flags: attribute.flags,
                code: attribute.code,
                value: attribute.value.to_vec(),
            })
            .collect()
    }
}

/// What [`PathAttributes`] holds.
const USED: &[AttributeCode] = &[
    AttributeCode::ORIGIN,
    AttributeCode::AS_PATH,
    AttributeCode::NEXT_HOP,
    AttributeCode::MULTI_EXIT_DISC,
    AttributeCode::LOCAL_PREF,
    AttributeCode::COMMUNITIES,
    AttributeCode::EXTENDED_COMMUNITIES,
    AttributeCode::AS4_PATH,
    AttributeCode::LARGE_COMMUNITIES,
];

fn large_community(octets: [u8; 12]) -> LargeCommunity {
    let mut parts = octets
        .chunks_exact(4)
        .map(|part| part.iter().fold(0, |n, byte| n << 8 | u32::from(*byte)));
    let mut next = || parts.next().unwrap_or_default();
    LargeCommunity {
        global: next(),
        local1: next(),
        local2: next(),
    }
}

impl Update {
    /// The body of the one UPDATE that says all this; `others` and `problems` are not sent.
    pub(super) fn encode_body(&self, cx: &EncodeContext) -> Result<Vec<u8>, EncodeError> {
        let mut body = Body::default();
        for prefix in &self.withdrawn {
            match prefix.family() {
                Family::Ipv4 => write_prefix(&mut body.withdrawn, prefix),
                Family::Ipv6 => write_prefix(&mut body.unreach, prefix),
            }
        }
        body.unreach_family = match self.end_of_rib {
            Some(Family::Ipv6) => Some(Family::Ipv6),
            _ => (!body.unreach.is_empty()).then_some(Family::Ipv6),
        };
        let shared = self.announced.first().map(|first| &first.attributes);
        let mut classic = None;
        for announcement in &self.announced {
            let next_hop = announcement.attributes.next_hop;
            let same = shared.map(|first| PathAttributes {
                next_hop,
                ..first.clone()
            });
            if same.as_ref() != Some(&announcement.attributes) {
                return Err(EncodeError::Unshared);
            }
            let (family, nlri) = announcement.nlri().ok_or(EncodeError::Unshared)?;
            match (family, next_hop) {
                (Family::Ipv4, IpAddr::V4(addr)) if classic.is_none() => {
                    classic = Some(addr);
                    body.nlri = nlri;
                }
                (family, IpAddr::V6(addr)) if body.reach.is_empty() => {
                    body.reach = reach_value(family, addr, announcement.link_local, &nlri);
                }
                _ => return Err(EncodeError::Unshared),
            }
        }
        if let Some(attributes) = shared {
            let mut w = Writer::new();
            attributes.write(&mut w, cx, classic);
            body.attributes = w.finish()?;
        }
        Ok(body.encode()?)
    }
}

impl Announcement {
    /// The routes as they go on the wire; `None` where they are none or not of one family.
    fn nlri(&self) -> Option<(Family, Vec<u8>)> {
        let family = self.prefixes.first()?.family();
        let mut bytes = Vec::new();
        for prefix in &self.prefixes {
            write_prefix(&mut bytes, prefix);
        }
        let alike = self.prefixes.iter().all(|p| p.family() == family);
        alike.then_some((family, bytes))
    }
}

/// The parts of an UPDATE, each already in bytes.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub withdrawn: Vec<u8>,
    /// Whose routes `unreach` has; `None` for no MP_UNREACH_NLRI.
    pub unreach_family: Option<Family>,
    pub unreach: Vec<u8>,
    /// The value of MP_REACH_NLRI; empty for none.
    pub reach: Vec<u8>,
    /// All other attributes.
    pub attributes: Vec<u8>,
    pub nlri: Vec<u8>,
}

impl Body {
    /// RFC 7606 §5.1: MP_REACH_NLRI or MP_UNREACH_NLRI come first.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        let mut w = Writer::new();
        w.len_u16(|w| w.bytes(&self.withdrawn));
        w.len_u16(|w| {
            if !self.reach.is_empty() {
                attribute::write(w, OPTIONAL, AttributeCode::MP_REACH_NLRI, &self.reach);
            }
            if let Some(family) = self.unreach_family {
                let value = [&family_bytes(family), self.unreach.as_slice()].concat();
                attribute::write(w, OPTIONAL, AttributeCode::MP_UNREACH_NLRI, &value);
            }
            w.bytes(&self.attributes);
        });
        w.bytes(&self.nlri);
        w.finish()
    }
}

/// The value of MP_REACH_NLRI (RFC 4760 §3).
pub(super) fn reach_value(
    family: Family,
    next_hop: Ipv6Addr,
    link_local: Option<Ipv6Addr>,
    nlri: &[u8],
) -> Vec<u8> {
    let mut value = family_bytes(family).to_vec();
    value.push(if link_local.is_some() { 32 } else { 16 });
    value.extend_from_slice(&next_hop.octets());
    value.extend(link_local.iter().flat_map(Ipv6Addr::octets));
    value.push(0);
    value.extend_from_slice(nlri);
    value
}

/// AFI and SAFI.
fn family_bytes(family: Family) -> [u8; 3] {
    let AfiSafi { afi, safi } = family.into();
    let [high, low] = afi.to_be_bytes();
    [high, low, safi]
}

/// Length in bits, then as many bytes as hold them (RFC 4271 §4.3).
pub(super) fn write_prefix(to: &mut Vec<u8>, prefix: &Prefix) {
    let bytes = usize::from(prefix.len()).div_ceil(8);
    to.push(prefix.len());
    match prefix.addr() {
        IpAddr::V4(addr) => to.extend(addr.octets().into_iter().take(bytes)),
        IpAddr::V6(addr) => to.extend(addr.octets().into_iter().take(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden::{addr, asn, prefix};
    use super::*;

    fn via(next_hop: &str, prefixes: &[&str]) -> Announcement {
        Announcement {
            prefixes: prefixes.iter().map(|p| prefix(p)).collect(),
            attributes: PathAttributes {
                as_path: AsPath::sequence([asn(65001)]),
                ..PathAttributes::new(addr(next_hop))
            },
            link_local: None,
            others: Vec::new(),
        }
    }

    fn encode(announced: Vec<Announcement>) -> Result<Vec<u8>, EncodeError> {
        let update = Update {
            announced,
            ..Update::default()
        };
        update.encode_body(&EncodeContext::default())
    }

    #[test]
    fn one_update_has_one_set_of_attributes_and_a_next_hop_of_each_kind() {
        let four = via("10.0.0.2", &["192.0.2.53/32"]);
        let six = via("2001:db8:1::2", &["2001:db8::53/128"]);
        assert!(encode(vec![four.clone(), six.clone()]).is_ok());
        let mut other = six.clone();
        other.attributes.med = Some(1);
        for refused in [
            vec![four.clone(), other],
            vec![four.clone(), four.clone()],
            vec![six.clone(), six],
            vec![via("10.0.0.2", &["2001:db8::53/128"])],
            vec![via("10.0.0.2", &["192.0.2.53/32", "2001:db8::53/128"])],
            vec![via("10.0.0.2", &[])],
        ] {
            assert_eq!(encode(refused), Err(EncodeError::Unshared));
        }
    }

    /// RFC 4271 §4.3: as many bytes as hold the bits.
    #[test]
    fn a_prefix_takes_no_byte_too_many() {
        for (text, length) in [
            ("0.0.0.0/0", 1),
            ("10.0.0.0/8", 2),
            ("10.0.0.0/9", 3),
            ("::/0", 1),
        ] {
            let mut bytes = Vec::new();
            write_prefix(&mut bytes, &prefix(text));
            assert_eq!(bytes.len(), length, "{text}");
        }
    }
}
