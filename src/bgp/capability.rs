//! Capabilities of an OPEN (RFC 5492): multiprotocol (4760), route refresh (2918, 7313), extended next
//! hop (8950), extended message (8654), graceful restart (4724, 8538), four-octet AS (6793), FQDN
//! (draft-walton-bgp-hostname-capability). Left out: ADD-PATH (7911), roles (9234) and the rest; a
//! peer's are kept as `Unknown`.

use super::AfiSafi;
use crate::wire::{Reader, TooLong, WireError, Writer};

/// One capability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// RFC 4760 §8.
    Multiprotocol(AfiSafi),
    /// RFC 2918 §2.
    RouteRefresh,
    /// RFC 8950 §4.
    ExtendedNextHop(Vec<ExtendedNextHop>),
    /// RFC 8654 §3.
    ExtendedMessage,
    /// RFC 4724 §3.
    GracefulRestart(GracefulRestart),
    /// RFC 6793 §3; 0 only as received.
    FourOctetAs(u32),
    /// RFC 7313 §3.
    EnhancedRouteRefresh,
    /// Host and domain name, informational.
    Fqdn {
        hostname: String,
        domain: String,
    },
    Unknown {
        code: u8,
        value: Vec<u8>,
    },
}

impl Capability {
    /// IANA's registry "Capability Codes".
    pub fn code(&self) -> u8 {
        match self {
            Self::Multiprotocol(_) => 1,
            Self::RouteRefresh => 2,
            Self::ExtendedNextHop(_) => 5,
            Self::ExtendedMessage => 6,
            Self::GracefulRestart(_) => 64,
            Self::FourOctetAs(_) => 65,
            Self::EnhancedRouteRefresh => 70,
            Self::Fqdn { .. } => 73,
            Self::Unknown { code, .. } => *code,
        }
    }

    /// Code, length and value. A value over 255 bytes makes [`Writer::finish`] fail.
    pub(super) fn write(&self, w: &mut Writer) {
        w.u8(self.code());
        w.len_u8(|w| match self {
            Self::Multiprotocol(family) => {
                w.u16(family.afi);
                w.u8(0);
                w.u8(family.safi);
            }
            Self::RouteRefresh | Self::ExtendedMessage | Self::EnhancedRouteRefresh => {}
            Self::ExtendedNextHop(list) => list.iter().for_each(|entry| {
                w.u16(entry.afi);
                w.u16(entry.safi);
                w.u16(entry.next_hop_afi);
            }),
            Self::GracefulRestart(restart) => restart.write(w),
            Self::FourOctetAs(asn) => w.u32(*asn),
            Self::Fqdn { hostname, domain } => {
                for name in [hostname, domain] {
                    w.len_u8(|w| w.bytes(name.as_bytes()));
                }
            }
            Self::Unknown { value, .. } => w.bytes(value),
        });
    }

    /// All capabilities of one parameter. A known capability of wrong length is an error; an unknown one is kept.
    pub(super) fn read_all(mut r: Reader<'_>) -> Result<Vec<Self>, WireError> {
        let mut all = Vec::new();
        while !r.is_empty() {
            let code = r.u8()?;
            let length = r.u8()?;
            all.push(Self::read(code, r.sub(usize::from(length))?)?);
        }
        Ok(all)
    }

    fn read(code: u8, mut r: Reader<'_>) -> Result<Self, WireError> {
        let capability = match code {
            1 => {
                let afi = r.u16()?;
                let _reserved = r.u8()?;
                let safi = r.u8()?;
                Self::Multiprotocol(AfiSafi { afi, safi })
            }
            2 => Self::RouteRefresh,
            5 => {
                let mut list = Vec::new();
                while !r.is_empty() {
                    list.push(ExtendedNextHop {
                        afi: r.u16()?,
                        safi: r.u16()?,
                        next_hop_afi: r.u16()?,
                    });
                }
                Self::ExtendedNextHop(list)
            }
            6 => Self::ExtendedMessage,
            64 => Self::GracefulRestart(GracefulRestart::read(&mut r)?),
            65 => Self::FourOctetAs(r.u32()?),
            70 => Self::EnhancedRouteRefresh,
            73 => Self::read_fqdn(r.rest()),
            _ => Self::Unknown {
                code,
                value: r.rest().to_vec(),
            },
        };
        r.finish()?;
        Ok(capability)
    }

    /// Implementations differ in this draft: a value that is not two names is kept as `Unknown`.
    fn read_fqdn(value: &[u8]) -> Self {
        let name = |r: &mut Reader<'_>| {
            let length = r.u8().ok()?;
            let name = std::str::from_utf8(r.take(usize::from(length)).ok()?).ok()?;
            (!name.contains(char::is_control)).then(|| name.to_owned())
        };
        let mut r = Reader::new(value);
        match (name(&mut r), name(&mut r), r.is_empty()) {
            (Some(hostname), Some(domain), true) => Self::Fqdn { hostname, domain },
            _ => Self::Unknown {
                code: 73,
                value: value.to_vec(),
            },
        }
    }
}

/// The value of an Unsupported Capability (RFC 5492 §5) or of a Capabilities parameter.
pub(super) fn encode_all<'a>(
    capabilities: impl IntoIterator<Item = &'a Capability>,
) -> Result<Vec<u8>, TooLong> {
    let mut w = Writer::new();
    for capability in capabilities {
        capability.write(&mut w);
    }
    w.finish()
}

/// Routes of `afi` and `safi` may have a next hop of `next_hop_afi` (RFC 8950 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedNextHop {
    pub afi: u16,
    pub safi: u16,
    pub next_hop_afi: u16,
}

impl ExtendedNextHop {
    /// IPv4 unicast over an IPv6 next hop.
    pub const IPV4_OVER_IPV6: Self = Self {
        afi: 1,
        safi: 1,
        next_hop_afi: 2,
    };
}

/// The graceful restart capability (RFC 4724 §3, RFC 8538 §2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// R: the sender has restarted.
    pub restarted: bool,
    /// N: the routes are kept after a NOTIFICATION and the expiry of the hold timer too (RFC 8538).
    pub notification: bool,
    /// Seconds, at most 4095.
    pub restart_time: u16,
    pub families: Vec<RestartFamily>,
}

impl GracefulRestart {
    /// ```text
    /// | R N 0 0 | restart time, 12 bits |  then  | AFI | AFI | SAFI | F ... |  each
    /// ```
    fn write(&self, w: &mut Writer) {
        let r = if self.restarted { 0x8000 } else { 0 };
        let n = if self.notification { 0x4000 } else { 0 };
        w.u16(r | n | self.restart_time.min(0x0fff));
        for entry in &self.families {
            w.u16(entry.family.afi);
            w.u8(entry.family.safi);
            w.u8(if entry.forwarding { 0x80 } else { 0 });
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let head = r.u16()?;
        let mut families = Vec::new();
        while !r.is_empty() {
            families.push(RestartFamily {
                family: AfiSafi {
                    afi: r.u16()?,
                    safi: r.u8()?,
                },
                forwarding: r.u8()? & 0x80 != 0,
            });
        }
        Ok(Self {
            restarted: head & 0x8000 != 0,
            notification: head & 0x4000 != 0,
            restart_time: head & 0x0fff,
            families,
        })
    }
}

/// One family of a graceful restart capability (RFC 4724 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartFamily {
    pub family: AfiSafi,
    /// F: forwarding was preserved over the restart.
    pub forwarding: bool,
}

#[cfg(test)]
mod tests {
    use super::super::golden::hex;
    use super::*;

    fn samples() -> Vec<(&'static str, Capability)> {
        let family = |afi, safi| AfiSafi { afi, safi };
        vec![
            ("0104 0001 00 01", Capability::Multiprotocol(family(1, 1))),
            (
                "0104 4004 00 47",
                Capability::Multiprotocol(family(0x4004, 0x47)),
            ),
            ("0200", Capability::RouteRefresh),
            (
                "0506 0001 0001 0002",
                Capability::ExtendedNextHop(vec![ExtendedNextHop::IPV4_OVER_IPV6]),
            ),
            ("0600", Capability::ExtendedMessage),
            (
                "4002 8fff",
                Capability::GracefulRestart(GracefulRestart {
                    restarted: true,
                    restart_time: 4095,
                    ..GracefulRestart::default()
                }),
            ),
            (
                "4006 4078 0002 01 80",
                Capability::GracefulRestart(GracefulRestart {
                    restarted: false,
                    notification: true,
                    restart_time: 120,
                    families: vec![RestartFamily {
                        family: family(2, 1),
                        forwarding: true,
                    }],
                }),
            ),
            ("4104 fa56ea01", Capability::FourOctetAs(4_200_000_001)),
            ("4600", Capability::EnhancedRouteRefresh),
            (
                "4908 02 7231 04 74657374",
                Capability::Fqdn {
                    hostname: "r1".to_owned(),
                    domain: "test".to_owned(),
                },
            ),
            (
                "4504 00010103",
                Capability::Unknown {
                    code: 69, // ADD-PATH: never offered, ignored
                    value: vec![0, 1, 1, 3],
                },
            ),
        ]
    }

    #[test]
    fn each_is_read_and_written_the_same() {
        for (text, capability) in samples() {
            let bytes = hex(text);
            let read = Capability::read_all(Reader::new(&bytes));
            assert_eq!(read, Ok(vec![capability.clone()]), "{text}");
            assert_eq!(encode_all([&capability]), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn one_cut_short_is_an_error() {
        for (text, _) in samples() {
            let bytes = hex(text);
            for end in 1..bytes.len() {
                let cut = Reader::new(&bytes[..end]);
                assert!(Capability::read_all(cut).is_err(), "{text} cut at {end}");
            }
        }
    }

    #[test]
    fn a_wrong_length_is_an_error_where_the_capability_is_known() {
        for text in [
            "0103 0001 00",
            "0105 0001 00 01 00",
            "0201 00",
            "0507 0001 0001 0002 00",
            "0601 00",
            "4001 00",
            "4003 0078 00",
            "4103 00fde9",
            "4105 0000fde900",
            "4601 00",
        ] {
            let bytes = hex(text);
            assert!(Capability::read_all(Reader::new(&bytes)).is_err(), "{text}");
        }
        for text in [
            "4900",
            "4901 05",
            "4903 01 0a 00",
            "4904 01 61 00 00",
            "c800",
        ] {
            let bytes = hex(text);
            let read = Capability::read_all(Reader::new(&bytes)).unwrap();
            assert!(matches!(read[..], [Capability::Unknown { .. }]), "{text}");
            assert_eq!(encode_all(&read), Ok(bytes), "{text}");
        }
    }
}
