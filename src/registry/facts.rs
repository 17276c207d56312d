//! What the registry has to know of the network: which addresses no VIP may contain, where NAT sends
//! packets, and which family has no next hop.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::app::App;
use crate::net::{Family, Prefix};

/// What is known of the network. The default knows nothing and forbids nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `false` until the kernel's tables were read once.
    pub known: bool,
    /// Addresses that a VIP would cut off, each with what it is.
    pub forbidden: BTreeMap<IpAddr, &'static str>,
    pub nat_target: BTreeMap<Family, IpAddr>,
    /// Families for which no peer has a next hop of ours.
    pub no_next_hop: BTreeMap<Family, String>,
}

/// Why a VIP cannot be announced now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It contains an address that this host has to reach, or is.
    CutsOff {
        vip: Prefix,
        addr: IpAddr,
        what: &'static str,
    },
    /// Another app holds it.
    Held {
        vip: Prefix,
        by: String,
    },
    /// Another instance of the same service holds it, and this one stands by.
    Standby {
        vip: Prefix,
        by: String,
    },
    NoNatTarget {
        family: Family,
    },
    NoNextHop {
        vip: Prefix,
        why: String,
    },
}

impl Problem {
    pub fn cuts_off(&self) -> bool {
        matches!(
            self,
            Self::CutsOff { .. } | Self::Held { .. } | Self::Standby { .. }
        )
    }

    pub fn is_standby(&self) -> bool {
        matches!(self, Self::Standby { .. })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutsOff { vip, addr, what } => {
                write!(
                    f,
                    "VIP {vip} contains {what} {addr} and would cut the host off"
                )
            }
            Self::Held { vip, by } => write!(f, "VIP {vip} is held by app {by}"),
            Self::Standby { vip, by } => write!(f, "standby: VIP {vip} is held by {by}"),
            Self::NoNatTarget { family } => {
                write!(
                    f,
                    "there is no local {family} address that NAT could send packets to"
                )
            }
            Self::NoNextHop { vip, why } => write!(f, "VIP {vip} has no next hop: {why}"),
        }
    }
}

impl Facts {
    /// An address that this VIP would cut off.
    pub fn cut_off(&self, vip: &Prefix) -> Option<Problem> {
        let (addr, what) = self
            .forbidden
            .iter()
            .find(|(addr, _)| vip.contains(**addr))?;
        Some(Problem::CutsOff {
            vip: *vip,
            addr: *addr,
            what,
        })
    }

    /// What stands against this VIP of `app`.
    pub fn problem(&self, app: &App, vip: &Prefix) -> Option<Problem> {
        if !self.known {
            return None;
        }
        if let Some(problem) = self.cut_off(vip) {
            return Some(problem);
        }
        let family = vip.family();
        if !app.nats.is_empty() && !self.nat_target.contains_key(&family) {
            return Some(Problem::NoNatTarget { family });
        }
        let explicit = match family {
            Family::Ipv4 => app.attributes.next_hop.is_some(),
            Family::Ipv6 => app.attributes.next_hop6.is_some(),
        };
        let why = self.no_next_hop.get(&family).filter(|_| !explicit)?;
        Some(Problem::NoNextHop {
            vip: *vip,
            why: why.clone(),
        })
    }
}
