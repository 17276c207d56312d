//! The result of the probes, and its names.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::SendError;
use crate::net::Family;
use crate::schema::duration::Shown;

/// What the last probes of a VIP by way of one peer show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    pub finding: Finding,
    /// How many of the last probes came back.
    pub returned: usize,
    /// How many these were.
    pub probes: usize,
    /// The peer is several hops away: what is proven is the forwarding of the first router.
    pub first_hop: Option<IpAddr>,
    /// The time between two probes, where the limit of the interface makes it longer than configured.
    pub stretched: Option<Duration>,
    /// From the announcement to the first probe that came back.
    pub forwarded_after: Option<Duration>,
}

/// The meaning of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// All came back.
    Yes,
    /// Some did, as with ECMP.
    Partly,
    /// None did, and another holder of the VIP answers.
    Elsewhere,
    /// None did, and a router has sent an ICMP error.
    No(Refusal),
    /// None did, and no ICMP error was received.
    NotSeen,
    Unknown(Unproven),
}

/// The ICMP error that answers a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub from: IpAddr,
    pub why: RefusalReason,
}

/// RFC 792 and RFC 1812 §5.2.7; for IPv6 RFC 4443 §3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    NoRoute,
    HostUnreachable,
    PortUnreachable,
    Prohibited,
    /// Another code of Destination Unreachable.
    Unreachable(u8),
    /// Time exceeded: the router has forwarded the probe to this host, and so on.
    GoesOn,
}

/// Why nothing is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unproven {
    /// The first probes are under way.
    Starting,
    NoPermission,
    /// The kernel refuses to count.
    Kernel(String),
    /// There is no route to the peer.
    NoInterface,
    /// The interface has no default route of this family.
    NoGateway(Family, String),
    /// Of several routers on the link this one gets the probes.
    OtherGateway(IpAddr),
    /// The interface has no address of this family.
    NoSource(Family, String),
    /// The kernel's route for probes is another.
    OtherRoute(String),
    LocalFirewall,
    Failed(String),
    /// Another host sends probes with our token, or the path duplicates them.
    Excess,
}

impl Proof {
    /// The share that came back; `None`: no probe was judged yet.
    pub fn share(&self) -> Option<f64> {
        let [returned, probes] =
            [self.returned, self.probes].map(|n| u32::try_from(n).unwrap_or(0));
        (probes > 0).then(|| f64::from(returned) / f64::from(probes))
    }
}

impl Finding {
    /// All names that [`Finding::as_str`] gives.
    pub const NAMES: [&'static str; 6] =
        ["yes", "partly", "elsewhere", "no", "not_seen", "unknown"];

    /// Whether no probe comes back, and that is no other holder's doing.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::No(_) | Self::NotSeen)
    }

    /// As the metric's label has it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Partly => "partly",
            Self::Elsewhere => "elsewhere",
            Self::No(_) => "no",
            Self::NotSeen => "not_seen",
            Self::Unknown(_) => "unknown",
        }
    }
}

impl Refusal {
    /// The meaning of an ICMP error; `None`: it is no refusal.
    pub fn of(from: IpAddr, kind: u8, code: u8) -> Option<Self> {
        use RefusalReason as Why;
        let why = match (Family::of(from), kind, code) {
            (Family::Ipv4, 3, 0 | 5 | 6) | (Family::Ipv6, 1, 0 | 6) => Why::NoRoute,
            (Family::Ipv4, 3, 1 | 7) | (Family::Ipv6, 1, 3) => Why::HostUnreachable,
            (Family::Ipv4, 3, 3) | (Family::Ipv6, 1, 4) => Why::PortUnreachable,
            (Family::Ipv4, 3, 9 | 10 | 13) | (Family::Ipv6, 1, 1 | 5) => Why::Prohibited,
            (Family::Ipv4, 3, code) | (Family::Ipv6, 1, code) => Why::Unreachable(code),
            (Family::Ipv4, 11, _) | (Family::Ipv6, 3, _) => Why::GoesOn,
            _ => return None,
        };
        Some(Self { from, why })
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = format_args!("{}/{}", self.returned, self.probes);
        match &self.finding {
            Finding::Yes => write!(f, "yes ({share})")?,
            Finding::Partly => write!(f, "partly ({share})")?,
            Finding::Elsewhere => {
                write!(f, "elsewhere ({share}: another holder of the VIP answers)")?;
            }
            Finding::No(refusal) => write!(f, "no ({share}: {refusal})")?,
            Finding::NotSeen => write!(f, "not seen ({share}, no answer)")?,
            Finding::Unknown(why) => return write!(f, "unknown: {why}"),
        }
        if let Some(hop) = self.first_hop {
            write!(f, " by first hop {hop}")?;
        }
        match self.stretched {
            Some(interval) => write!(f, ", a probe every {}", Shown(interval)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.from;
        match self.why {
            RefusalReason::NoRoute => write!(f, "{from} says no route"),
            RefusalReason::HostUnreachable => write!(f, "{from} says host unreachable"),
            RefusalReason::PortUnreachable => write!(f, "{from} says port unreachable"),
            RefusalReason::Prohibited => write!(f, "{from} says prohibited"),
            RefusalReason::Unreachable(code) => write!(f, "{from} says unreachable, code {code}"),
            RefusalReason::GoesOn => write!(f, "goes on to {from}"),
        }
    }
}

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("the first probes are under way"),
            Self::NoPermission => f.write_str("no CAP_NET_ADMIN"),
            Self::Kernel(why) => write!(f, "the kernel does not count probes: {why}"),
            Self::NoInterface => f.write_str("no route to the peer"),
            Self::NoGateway(family, interface) => {
                write!(f, "no {} gateway on {interface}", version(*family))
            }
            Self::OtherGateway(gateway) => write!(f, "probes leave by {gateway}"),
            Self::NoSource(family, interface) => {
                write!(f, "{interface} has no {} address", version(*family))
            }
            Self::OtherRoute(route) => f.write_str(route),
            Self::LocalFirewall => f.write_str("local firewall"),
            Self::Failed(why) => write!(f, "cannot send: {why}"),
            Self::Excess => f.write_str("more probes came back than were sent"),
        }
    }
}

fn version(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    }
}

impl From<SendError> for Unproven {
    fn from(error: SendError) -> Self {
        match error {
            SendError::OtherRoute(route) => Self::OtherRoute(route),
            SendError::LocalFirewall => Self::LocalFirewall,
            SendError::NoSource => Self::Failed("the source address is gone".to_owned()),
            SendError::Failed(why) => Self::Failed(why),
        }
    }
}
