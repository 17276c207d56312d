//! The capabilities of our OPEN, without those that the peer refused (RFC 5492 §3).

use super::PeerConfig;
use crate::bgp::{
    AfiSafi, Capability, ExtendedNextHop, GracefulRestart, Notification, Open, RestartFamily,
};
use crate::net::Family;

/// The capabilities for the next OPEN. Refused ones are left out until a session was established and
/// ended: it may be another router by then.
#[derive(Debug, Default)]
pub(super) struct OfferedCapabilities {
    level: Level,
    without: Vec<Capability>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Level {
    #[default]
    Everything,
    /// Only multiprotocol and four-octet AS.
    Basic,
    /// No optional parameter at all.
    Nothing,
}

impl OfferedCapabilities {
    /// Our OPEN; `restarted` is RFC 4724's R flag.
    pub(super) fn open(&self, config: &PeerConfig, restarted: bool) -> Open {
        let mut open = Open::new(
            config.local_as,
            config.hold_time,
            config.router_id,
            capabilities(config, restarted),
        );
        open.capabilities
            .retain(|capability| self.offers(capability));
        open
    }

    fn offers(&self, capability: &Capability) -> bool {
        let basic = matches!(
            capability,
            Capability::Multiprotocol(_) | Capability::FourOctetAs(_)
        );
        let level = match self.level {
            Level::Everything => true,
            Level::Basic => basic,
            Level::Nothing => false,
        };
        level && !self.without.iter().any(|refused| same(refused, capability))
    }

    /// Takes the NOTIFICATION that answered `open`; returns whether the next OPEN offers less.
    pub(super) fn refused(&mut self, notification: &Notification, open: &Open) -> bool {
        if (notification.code, notification.subcode) == UNSUPPORTED_PARAMETER {
            let had = !open.capabilities.is_empty();
            self.level = Level::Nothing;
            return had;
        }
        let Some(refused) = notification.unsupported_capabilities() else {
            return false;
        };
        let offered = open.capabilities.iter();
        let named: Vec<Capability> = offered
            .filter(|capability| refused.iter().any(|refused| same(refused, capability)))
            .cloned()
            .collect();
        if !named.is_empty() {
            self.without.extend(named);
            return true;
        }
        // The data lists no capability, or only ones that we did not offer.
        self.level = match self.level {
            Level::Everything => Level::Basic,
            Level::Basic if !open.capabilities.is_empty() => Level::Nothing,
            Level::Basic | Level::Nothing => {
                *self = Self::default();
                return false;
            }
        };
        true
    }

    /// Offers everything again.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Unsupported Optional Parameter (RFC 4271 §6.2).
const UNSUPPORTED_PARAMETER: (u8, u8) = (2, 4);

/// Whether the capability codes are equal; multiprotocol capabilities of different families differ.
fn same(a: &Capability, b: &Capability) -> bool {
    match (a, b) {
        (Capability::Multiprotocol(a), Capability::Multiprotocol(b)) => a == b,
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

fn capabilities(config: &PeerConfig, restarted: bool) -> Vec<Capability> {
    let families = config.families.iter().map(|family| AfiSafi::from(*family));
    let mut capabilities: Vec<_> = families.clone().map(Capability::Multiprotocol).collect();
    capabilities.push(Capability::FourOctetAs(config.local_as.get()));
    capabilities.push(Capability::RouteRefresh);
    capabilities.push(Capability::EnhancedRouteRefresh);
    capabilities.push(Capability::ExtendedMessage);
    if config.families.contains(&Family::Ipv4) {
        let over_ipv6 = vec![ExtendedNextHop::IPV4_OVER_IPV6];
        capabilities.push(Capability::ExtendedNextHop(over_ipv6));
    }
    if config.graceful_restart > 0 {
        let forwarding = restarted && config.forwarding_preserved;
        capabilities.push(Capability::GracefulRestart(GracefulRestart {
            restarted,
            // With this flag (RFC 8538) the router would keep our routes after a NOTIFICATION and when its hold
            // timer expires. It should remove the routes of a host that died.
            notification: false,
            restart_time: config.graceful_restart.min(4095),
            families: families
                .map(|family| RestartFamily { family, forwarding })
                .collect(),
        }));
    }
    if let Some(hostname) = &config.hostname {
        capabilities.push(Capability::Fqdn {
            hostname: hostname.clone(),
            domain: String::new(),
        });
    }
    capabilities
}
