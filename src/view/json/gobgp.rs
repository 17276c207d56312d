//! What `/info` has of GoBGP's messages beyond plain numbers: capabilities as protobuf's `Any` (gobgp.proto and
//! capability.proto of GoBGP 2), written as Go's encoding/json writes them.

use serde::Serialize;

use crate::bgp::{AfiSafi, Capability, GracefulRestart, Negotiated};
use crate::core::Ttl;

/// `message EbgpMultihop`; both are left out for iBGP.
#[derive(Serialize)]
pub(super) struct EbgpMultihop {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    multihop_ttl: Option<u8>,
}

impl From<Ttl> for EbgpMultihop {
    fn from(ttl: Ttl) -> Self {
        let multihop_ttl = match ttl {
            Ttl::Limit(limit) => Some(limit),
            Ttl::System | Ttl::Security { .. } => None,
        };
        Self {
            enabled: multihop_ttl.is_some(),
            multihop_ttl,
        }
    }
}

/// `google.protobuf.Any`, its value in base64; an empty one is left out.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Any {
    type_url: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    value: String,
}

/// What the peer's OPEN offered; nothing without a session.
pub(super) fn capabilities(negotiated: Option<&Negotiated>) -> Vec<Any> {
    let theirs = negotiated.map_or(&[][..], |negotiated| &negotiated.peer_capabilities);
    theirs.iter().map(capability).collect()
}

fn capability(capability: &Capability) -> Any {
    let mut message = Message::default();
    let name = match capability {
        Capability::Multiprotocol(family) => {
            message.message(1, of_family(*family));
            "MultiProtocolCapability"
        }
        Capability::RouteRefresh => "RouteRefreshCapability",
        Capability::ExtendedNextHop(tuples) => {
            for tuple in tuples {
                let mut inner = Message::default();
                inner.message(1, of_numbers(tuple.afi, tuple.safi));
                inner.message(2, of_numbers(tuple.next_hop_afi, 1));
                message.message(1, inner);
            }
            "ExtendedNexthopCapability"
        }
        Capability::GracefulRestart(restart) => {
            message = graceful_restart(restart);
            "GracefulRestartCapability"
        }
        Capability::FourOctetAs(asn) => {
            message.number(1, u64::from(*asn));
            "FourOctetASNCapability"
        }
        Capability::EnhancedRouteRefresh => "EnhancedRouteRefreshCapability",
        Capability::Fqdn { hostname, domain } => {
            message.bytes(1, hostname.as_bytes());
            message.bytes(2, domain.as_bytes());
            "FqdnCapability"
        }
        Capability::ExtendedMessage => {
            message.number(1, u64::from(capability.code()));
            "UnknownCapability"
        }
        Capability::Unknown { code, value } => {
            message.number(1, u64::from(*code));
            message.bytes(2, value);
            "UnknownCapability"
        }
    };
    Any {
        type_url: format!("type.googleapis.com/gobgpapi.{name}"),
        value: base64(&message.0),
    }
}

/// The flags as the four bits in front of the restart time, and each family's.
fn graceful_restart(restart: &GracefulRestart) -> Message {
    let mut message = Message::default();
    let flags = u64::from(restart.restarted) << 3 | u64::from(restart.notification) << 2;
    message.number(1, flags);
    message.number(2, u64::from(restart.restart_time));
    for of in &restart.families {
        let mut inner = Message::default();
        inner.message(1, of_family(of.family));
        inner.number(2, u64::from(of.forwarding) << 7);
        message.message(3, inner);
    }
    message
}

fn of_family(family: AfiSafi) -> Message {
    of_numbers(family.afi, u16::from(family.safi))
}

fn of_numbers(afi: u16, safi: u16) -> Message {
    let mut message = Message::default();
    message.number(1, u64::from(afi));
    message.number(2, u64::from(safi));
    message
}

/// A protobuf message as it is written: what is zero or empty is left out.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, field: u8, value: u64) {
        if value > 0 {
            self.0.push(field << 3);
            self.varint(value);
        }
    }

    fn bytes(&mut self, field: u8, value: &[u8]) {
        if !value.is_empty() {
            self.delimited(field, value);
        }
    }

    /// One that is there, be it empty.
    fn message(&mut self, field: u8, value: Self) {
        self.delimited(field, &value.0);
    }

    fn delimited(&mut self, field: u8, value: &[u8]) {
        self.0.push(field << 3 | 2);
        self.varint(u64::try_from(value.len()).unwrap_or_default());
        self.0.extend_from_slice(value);
    }

    /// Seven bits a byte, the lowest first.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    let digit = |bits: u32| char::from(DIGITS[usize::try_from(bits & 63).unwrap_or_default()]);
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or_default());
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        text.push(digit(group >> 18));
        text.push(digit(group >> 12));
        text.push(if chunk.len() > 1 {
            digit(group >> 6)
        } else {
            '='
        });
        text.push(if chunk.len() > 2 { digit(group) } else { '=' });
    }
    text
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::{ExtendedNextHop, RestartFamily};

    #[test]
    fn capabilities_are_the_bytes_that_protobuf_makes() {
        let of = |of: Capability| {
            let Any { type_url, value } = capability(&of);
            let name = type_url.rsplit('.').next().unwrap_or_default().to_owned();
            format!("{name} {value}")
        };
        let family = AfiSafi { afi: 1, safi: 1 };
        let restart = GracefulRestart {
            restarted: true,
            notification: false,
            restart_time: 120,
            families: vec![RestartFamily {
                family,
                forwarding: true,
            }],
        };
        for (capability, wanted) in [
            // 0a 04 08 01 10 01
            (
                Capability::Multiprotocol(family),
                "MultiProtocolCapability CgQIARAB",
            ),
            (Capability::RouteRefresh, "RouteRefreshCapability "),
            // 08 e8 fb 03
            (
                Capability::FourOctetAs(65000),
                "FourOctetASNCapability COj7Aw==",
            ),
            // 0a 0c 0a 04 08 01 10 01 12 04 08 02 10 01
            (
                Capability::ExtendedNextHop(vec![ExtendedNextHop::IPV4_OVER_IPV6]),
                "ExtendedNexthopCapability CgwKBAgBEAESBAgCEAE=",
            ),
            // 08 08 10 78 1a 09 0a 04 08 01 10 01 10 80 01
            (
                Capability::GracefulRestart(restart),
                "GracefulRestartCapability CAgQeBoJCgQIARABEIAB",
            ),
            // 0a 01 61
            (
                Capability::Fqdn {
                    hostname: "a".to_owned(),
                    domain: String::new(),
                },
                "FqdnCapability CgFh",
            ),
            // 08 45 12 01 ff
            (
                Capability::Unknown {
                    code: 69,
                    value: vec![255],
                },
                "UnknownCapability CEUSAf8=",
            ),
        ] {
            assert_eq!(of(capability), wanted);
        }
    }
}
