//! OPEN (RFC 4271 §4.2, §6.2) with extended optional parameters (RFC 9072). Unique
//! identifiers are RFC 6286's, AS 0 is refused (RFC 7607). Left out: every optional parameter but
//! capabilities (RFC 5492).

use std::net::Ipv4Addr;

use super::{
    Capability, DecodeContext, ExtendedNextHop, GracefulRestart, HeaderError, OpenError,
    ProtocolError, capability,
};
use crate::net::{Asn, Family, RouterId};
use crate::small_set::SmallSet;
use crate::wire::{Reader, TooLong, WireError, Writer};

/// An OPEN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The AS number: that of the four-octet AS capability, if present.
    pub asn: Asn,
    /// The field "My Autonomous System", [`Asn::TRANS`] where `asn` does not fit.
    pub my_as16: u16,
    /// Seconds; 0 or at least 3.
    pub hold_time: u16,
    pub router_id: RouterId,
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// An OPEN to send; the four-octet AS capability (RFC 6793) is added in front if it is missing.
    pub fn new(
        asn: Asn,
        hold_time: u16,
        router_id: RouterId,
        capabilities: Vec<Capability>,
    ) -> Self {
        let mut capabilities = capabilities;
        if !capabilities
            .iter()
            .any(|c| matches!(c, Capability::FourOctetAs(_)))
        {
            capabilities.insert(0, Capability::FourOctetAs(asn.get()));
        }
        Self {
            asn,
            my_as16: asn.as_u16(),
            hold_time,
            router_id,
            capabilities,
        }
    }

    /// Whether a capability with exactly this value is offered.
    pub fn has_capability(&self, capability: &Capability) -> bool {
        self.capabilities.contains(capability)
    }

    /// The offered families: IPv4 alone without a multiprotocol capability (RFC 4760 §8).
    pub fn families(&self) -> SmallSet<Family> {
        let mut named = self
            .capabilities
            .iter()
            .filter_map(|capability| match capability {
                Capability::Multiprotocol(family) => Some(family.family()),
                _ => None,
            })
            .peekable();
        if named.peek().is_none() {
            return [Family::Ipv4].into();
        }
        named.flatten().collect()
    }

    pub(super) fn ipv4_over_ipv6(&self) -> bool {
        self.capabilities.iter().any(|capability| {
            matches!(capability, Capability::ExtendedNextHop(list)
                if list.contains(&ExtendedNextHop::IPV4_OVER_IPV6))
        })
    }

    /// RFC 4724 §3: of several the last one counts.
    pub(super) fn graceful_restart(&self) -> Option<&GracefulRestart> {
        let mut all = self.capabilities.iter().rev();
        all.find_map(|capability| match capability {
            Capability::GracefulRestart(restart) => Some(restart),
            _ => None,
        })
    }

    pub(super) fn four_octet_as(&self) -> Option<u32> {
        four_octet_as(&self.capabilities)
    }

    pub(super) fn hostname(&self) -> Option<&str> {
        self.capabilities
            .iter()
            .find_map(|capability| match capability {
                Capability::Fqdn { hostname, .. } => Some(hostname.as_str()),
                _ => None,
            })
    }

    /// The body. All capabilities go into one parameter; lengths over 255 make the parameters extended
    /// ones (RFC 9072 §2).
    ///
    /// ```text
    /// | version | my AS | hold time | BGP identifier | length | 2 | length | capabilities |
    /// |    1    |   2   |     2     |       4        |    1   | 1 |    1   |              |
    /// ```
    pub(super) fn encode_body(&self) -> Result<Vec<u8>, TooLong> {
        let capabilities = capability::encode_all(&self.capabilities)?;
        let mut w = Writer::new();
        w.u8(VERSION);
        w.u16(self.my_as16);
        w.u16(self.hold_time);
        w.bytes(&self.router_id.addr().octets());
        if capabilities.is_empty() {
            w.u8(0);
        } else if capabilities.len() + 2 <= usize::from(u8::MAX) {
            w.len_u8(|w| {
                w.u8(CAPABILITIES);
                w.len_u8(|w| w.bytes(&capabilities));
            });
        } else {
            w.u8(EXTENDED);
            w.u8(EXTENDED);
            w.len_u16(|w| {
                w.u8(CAPABILITIES);
                w.len_u16(|w| w.bytes(&capabilities));
            });
        }
        w.finish()
    }

    /// Decodes and validates a body of at least ten bytes.
    pub(super) fn decode_body(body: &[u8], cx: &DecodeContext) -> Result<Self, ProtocolError> {
        let mut r = Reader::new(body);
        let fixed = |r: &mut Reader<'_>| {
            Ok::<_, WireError>((r.u8()?, r.u16()?, r.u16()?, Ipv4Addr::from(r.u32()?)))
        };
        let (version, my_as16, hold_time, id) =
            fixed(&mut r).map_err(|_| HeaderError::bad_length(body.len()))?;
        if version != VERSION {
            return Err(OpenError::UnsupportedVersion { version }.into());
        }
        let capabilities = read_parameters(r)?;
        let got = four_octet_as(&capabilities).unwrap_or(u32::from(my_as16));
        let asn = Asn::new(got)
            .filter(|asn| my_as16 != 0 && cx.peer_as.is_none_or(|expected| expected == *asn))
            .ok_or(OpenError::BadPeerAs {
                got: if my_as16 == 0 { 0 } else { got },
                expected: cx.peer_as,
            })?;
        if matches!(hold_time, 1 | 2) {
            return Err(OpenError::UnacceptableHoldTime { seconds: hold_time }.into());
        }
        let router_id = RouterId::new(id)
            .filter(|id| asn != cx.local_as || *id != cx.local_router_id)
            .ok_or(OpenError::BadIdentifier { id })?;
        Ok(Self {
            asn,
            my_as16,
            hold_time,
            router_id,
            capabilities,
        })
    }
}

fn four_octet_as(capabilities: &[Capability]) -> Option<u32> {
    capabilities.iter().find_map(|capability| match capability {
        Capability::FourOctetAs(asn) => Some(*asn),
        _ => None,
    })
}

/// The optional parameters, from their length on. They are extended if the first type is 255; a length of 255
/// alone is not enough (RFC 9072 §2).
fn read_parameters(mut r: Reader<'_>) -> Result<Vec<Capability>, OpenError> {
    let malformed = |_| OpenError::Malformed;
    let length = r.u8().map_err(malformed)?;
    let mut ahead = r;
    let extended = length != 0 && ahead.u8() == Ok(EXTENDED);
    let length = if extended {
        r = ahead;
        r.u16().map_err(malformed)?
    } else {
        u16::from(length)
    };
    let mut parameters = r.sub(usize::from(length)).map_err(malformed)?;
    r.finish().map_err(malformed)?;
    let mut capabilities = Vec::new();
    while !parameters.is_empty() {
        let kind = parameters.u8().map_err(malformed)?;
        let length = if extended {
            parameters.u16().map_err(malformed)?
        } else {
            u16::from(parameters.u8().map_err(malformed)?)
        };
        let value = parameters.sub(usize::from(length)).map_err(malformed)?;
        if kind != CAPABILITIES {
            return Err(OpenError::UnsupportedParameter { kind });
        }
        capabilities.extend(Capability::read_all(value).map_err(malformed)?);
    }
    Ok(capabilities)
}

const VERSION: u8 = 4;

/// Parameter type "Capabilities" (RFC 5492 §4).
const CAPABILITIES: u8 = 2;

/// Parameter type and length that announce extended parameters (RFC 9072 §2).
const EXTENDED: u8 = 255;

#[cfg(test)]
mod tests {
    use super::super::golden::{asn, hex, id};
    use super::super::{
        AfiSafi, Frame, MAX_LEN, MAX_LEN_EXTENDED, Message, Negotiated, Notification, Received,
        RestartFamily, SessionType, decode_message,
    };
    use super::*;
    use std::time::Duration;

    fn context() -> DecodeContext {
        DecodeContext::before_open(asn(65000), id("10.0.0.1"), Some(asn(65001)))
    }

    fn read(body: &str, cx: &DecodeContext) -> Result<Open, ProtocolError> {
        let frame = Frame {
            kind: 1,
            body: hex(body),
        };
        decode_message(&frame, cx).map(|message| match message {
            Received::Open(open) => open,
            other => panic!("{other:?}"),
        })
    }

    /// Code, subcode and data.
    fn refusal(body: &str, cx: &DecodeContext) -> (u8, u8, Vec<u8>) {
        let error = read(body, cx).expect_err(body);
        let Notification {
            code,
            subcode,
            data,
        } = Notification::from(&error);
        (code, subcode, data)
    }

    /// RFC 4271 §6.2, a row for each paragraph; RFC 5492 §5, RFC 6286 §2, RFC 6793 §3, RFC 7607 §2.
    #[test]
    fn an_open_is_refused_with_the_code_of_its_fault() {
        let rows = [
            ("version 3", "03 fde9 005a 0a000002 00", (2, 1, vec![0, 4])),
            ("version 5", "05 fde9 005a 0a000002 00", (2, 1, vec![0, 4])),
            ("another AS", "04 fdea 005a 0a000002 00", (2, 2, vec![])),
            ("AS 0", "04 0000 005a 0a000002 00", (2, 2, vec![])),
            (
                "AS 0 in two octets, right in four",
                "04 0000 005a 0a000002 08 0206 4104 0000fde9",
                (2, 2, vec![]),
            ),
            (
                "AS 0 in four octets",
                "04 fde9 005a 0a000002 08 0206 4104 00000000",
                (2, 2, vec![]),
            ),
            (
                "another AS in four octets",
                "04 fde9 005a 0a000002 08 0206 4104 0001fde9",
                (2, 2, vec![]),
            ),
            ("identifier 0", "04 fde9 005a 00000000 00", (2, 3, vec![])),
            (
                "authentication, given up by RFC 4271",
                "04 fde9 005a 0a000002 03 0101 00",
                (2, 4, vec![]),
            ),
            ("hold time 1", "04 fde9 0001 0a000002 00", (2, 6, vec![])),
            ("hold time 2", "04 fde9 0002 0a000002 00", (2, 6, vec![])),
            (
                "parameters past the end",
                "04 fde9 005a 0a000002 05 0200",
                (2, 0, vec![]),
            ),
            (
                "bytes behind the parameters",
                "04 fde9 005a 0a000002 02 0200 00",
                (2, 0, vec![]),
            ),
            (
                "a parameter past the parameters",
                "04 fde9 005a 0a000002 04 0204 0200",
                (2, 0, vec![]),
            ),
            (
                "a capability past its parameter",
                "04 fde9 005a 0a000002 06 0204 4104 0000",
                (2, 0, vec![]),
            ),
            (
                "an unknown capability past its parameter",
                "04 fde9 005a 0a000002 04 0202 c804",
                (2, 0, vec![]),
            ),
            (
                "half a capability header",
                "04 fde9 005a 0a000002 03 0201 41",
                (2, 0, vec![]),
            ),
            (
                "a multiprotocol capability of three bytes",
                "04 fde9 005a 0a000002 07 0205 0103 000100",
                (2, 0, vec![]),
            ),
            (
                "a graceful restart capability that ends inside a family",
                "04 fde9 005a 0a000002 09 0207 4005 0078 000101",
                (2, 0, vec![]),
            ),
            (
                "extended parameters without their length",
                "04 fde9 005a 0a000002 ff ff 00",
                (2, 0, vec![]),
            ),
            (
                "extended parameters past the end",
                "04 fde9 005a 0a000002 ff ff 0009 02 0002 0200",
                (2, 0, vec![]),
            ),
        ];
        for (what, body, expected) in rows {
            assert_eq!(refusal(body, &context()), expected, "{what}");
        }
    }

    #[test]
    fn what_looks_odd_and_is_allowed_is_taken() {
        for (what, body) in [
            ("hold time 0", "04 fde9 0000 0a000002 00"),
            ("hold time 3", "04 fde9 0003 0a000002 00"),
            (
                "a multicast identifier, RFC 6286 §2.1",
                "04 fde9 005a e0000001 00",
            ),
            (
                "our identifier in another AS, RFC 6286 §2.2",
                "04 fde9 005a 0a000001 00",
            ),
            ("an empty parameter", "04 fde9 005a 0a000002 02 0200"),
            (
                "an unknown capability",
                "04 fde9 005a 0a000002 05 0203 c801 ff",
            ),
            (
                "short extended parameters, RFC 9072 §2",
                "04 fde9 005a 0a000002 01 ff 0007 02 0004 c802 0102",
            ),
            (
                "a name that is no text, kept",
                "04 fde9 005a 0a000002 07 0205 4903 01ff 00",
            ),
            (
                "AS_TRANS where four octets say the same, RFC 6793 §9",
                "04 5ba0 005a 0a000002 08 0206 4104 0000fde9",
            ),
        ] {
            let open = read(body, &context()).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(open.asn, asn(65001), "{what}");
        }
    }

    /// RFC 6286 §2.2.
    #[test]
    fn our_own_identifier_is_refused_inside_our_as_alone() {
        let body = "04 fde8 005a 0a000001 00";
        let cx = DecodeContext {
            peer_as: None,
            ..context()
        };
        assert_eq!(refusal(body, &cx), (2, 3, vec![]));
    }

    /// RFC 9072 §2: nothing is remembered from one OPEN to the next, and 255 bytes are not yet
    /// extended.
    #[test]
    fn parameters_become_extended_at_256_bytes() {
        let with = |value: usize| {
            let unknown = Capability::Unknown {
                code: 200,
                value: vec![7; value],
            };
            Open::new(asn(65001), 90, id("10.0.0.2"), vec![unknown])
        };
        for (value, length, kind) in [(244, 254, 2), (245, 255, 2), (246, 255, 255)] {
            let open = with(value);
            let body = open.encode_body().unwrap();
            assert_eq!((body[9], body[10]), (length, kind), "{value}");
            assert_eq!(Open::decode_body(&body, &context()), Ok(open), "{value}");
        }
        assert!(
            with(256).encode_body().is_err(),
            "one capability is at most 255"
        );
    }

    fn offer(number: u32, hold_time: u16, capabilities: Vec<Capability>) -> Open {
        Open {
            capabilities,
            ..Open::new(asn(number), hold_time, id("10.0.0.9"), Vec::new())
        }
    }

    fn mp(family: Family) -> Capability {
        Capability::Multiprotocol(family.into())
    }

    #[test]
    fn only_what_both_offer_is_agreed_on() {
        let restart = |restart_time, notification| {
            Capability::GracefulRestart(GracefulRestart {
                restart_time,
                notification,
                families: vec![RestartFamily {
                    family: Family::Ipv4.into(),
                    forwarding: true,
                }],
                ..GracefulRestart::default()
            })
        };
        let enhe = || Capability::ExtendedNextHop(vec![ExtendedNextHop::IPV4_OVER_IPV6]);
        let ours = Open::new(
            asn(65000),
            90,
            id("10.0.0.1"),
            vec![
                mp(Family::Ipv4),
                mp(Family::Ipv6),
                Capability::RouteRefresh,
                Capability::EnhancedRouteRefresh,
                Capability::ExtendedMessage,
                enhe(),
                restart(120, true),
            ],
        );
        let all = Negotiated::new(
            &ours,
            &Open {
                asn: asn(65001),
                hold_time: 30,
                ..ours.clone()
            },
        );
        let all = all.unwrap();
        assert_eq!(all.session, SessionType::Ebgp);
        assert_eq!(all.hold_time, Some(Duration::from_secs(30)));
        assert_eq!(all.keepalive(), Some(Duration::from_secs(10)));
        assert_eq!(all.families, SmallSet::from(Family::ALL));
        assert_eq!(all.max_len(), MAX_LEN_EXTENDED);
        assert!(all.four_octet_as && all.route_refresh && all.enhanced_route_refresh);
        assert!(all.extended_next_hop);
        let twice = vec![restart(60, false), restart(90, false)];
        let twice = Negotiated::new(&ours, &offer(65001, 9, twice)).unwrap();
        let restart_time = twice.graceful_restart.map(|restart| restart.restart_time);
        assert_eq!(
            restart_time,
            Some(90),
            "RFC 4724 §3: all but the last are ignored"
        );
        let restart = all.graceful_restart.unwrap();
        let forwarding = restart.families.iter().filter(|f| f.forwarding);
        assert!(forwarding.map(|f| f.family).eq([Family::Ipv4.into()]));

        let bare = Negotiated::new(&ours, &offer(65000, 0, Vec::new())).unwrap();
        assert_eq!(bare.session, SessionType::Ibgp);
        assert_eq!(
            bare.hold_time, None,
            "zero is no timer, not a timer of zero"
        );
        assert_eq!(bare.keepalive(), None);
        assert_eq!(bare.families, SmallSet::from([Family::Ipv4]), "RFC 4760 §8");
        assert_eq!(bare.max_len(), MAX_LEN);
        assert!(!bare.four_octet_as && !bare.route_refresh && !bare.extended_next_hop);
        assert_eq!(bare.graceful_restart, None);

        let only6 = Negotiated::new(&ours, &offer(65001, 9, vec![mp(Family::Ipv6), enhe()]));
        let only6 = only6.unwrap();
        assert_eq!(only6.families, SmallSet::from([Family::Ipv6]));
        assert!(!only6.extended_next_hop, "there is no IPv4 to carry");
        let old = Negotiated::new(&ours, &offer(65001, 9, vec![enhe()])).unwrap();
        assert!(!old.extended_next_hop, "it knows no MP_REACH_NLRI");
    }

    /// RFC 5492 §5: the data lists the capabilities that we require.
    #[test]
    fn no_common_family_is_an_unsupported_capability() {
        let vpn = Capability::Multiprotocol(AfiSafi { afi: 1, safi: 128 });
        let ours = offer(65000, 90, vec![mp(Family::Ipv4), mp(Family::Ipv6)]);
        let error = Negotiated::new(&ours, &offer(65001, 90, vec![vpn])).unwrap_err();
        let notification = Notification::from(&ProtocolError::from(error));
        assert_eq!((notification.code, notification.subcode), (2, 7));
        assert_eq!(notification.data, hex("0104 0001 0001 0104 0002 0001"));
        let listed = notification.unsupported_capabilities().unwrap();
        assert_eq!(listed, [mp(Family::Ipv4), mp(Family::Ipv6)]);
    }

    #[test]
    fn an_open_is_never_longer_than_4096_bytes() {
        let unknown = Capability::Unknown {
            code: 200,
            value: vec![0; 255],
        };
        let open = offer(65000, 90, vec![unknown; 20]);
        assert!(Message::Open(open).encode().is_err());
    }
}
