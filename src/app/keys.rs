//! The keys of an app, wherever it is written, as tables.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use super::PathProof;
use crate::net::{Community, ExtCommunity, LargeCommunity, ParseError, PeerName, decimal};
use crate::schema::kinds::{
    FilePath, Interval, Number, Opt, OrOff, Parsed, Quoted, Set, Time, quoted,
};
use crate::schema::{Context, EVERYWHERE, Flatten, Kind, Section, Shape, ValueAt, duration};
use crate::section;
use crate::small_set::SmallSet;

section! {
    /// Intervals and thresholds of monitors, as written for an app or for one monitor.
    #[derive(Copy)]
    pub struct Timing {
        /// Between two checks; default: the agent's `monitor_interval`.
        interval: Opt<Interval>, scope = EVERYWHERE;
        /// A check that takes longer fails; default: the smaller of interval and 2 s, for `exec:` the interval.
        timeout: Opt<Interval>, scope = EVERYWHERE;
        /// Passes in a row until it counts as up; default 1.
        rise: Opt<Number<u32, 1, 1000>>, scope = EVERYWHERE;
        /// Failures in a row until it counts as down; default 1.
        fall: Opt<Number<u32, 1, 1000>>, scope = EVERYWHERE;
        /// The interval while the result is changing; default: the interval.
        fast_interval: Opt<Interval>, scope = EVERYWHERE;
    }
}

section! {
    /// What an app may set for itself.
    #[derive(PartialOrd, Ord)]
    pub struct AppOptions {
        /// How long it must have been healthy after start before the first announcement.
        start_delay: Time, default = "0", scope = EVERYWHERE;
        /// The longest wait of a drain, in which the service still answers; default: the agent's.
        drain_time: Time, default = "2s", scope = EVERYWHERE;
        /// `traffic`: a drain is over when no packet comes any more; `fixed`: after `drain_time`; default: the agent's.
        drain_wait: Parsed<DrainWait>, default = "traffic", scope = EVERYWHERE;
        /// While this file exists the app is in maintenance.
        maintenance_file: Opt<FilePath>;
        /// Flap damping: the first hold-down, doubled with each up to 1 m; `off`: none.
        hold_down: HoldDown, default = "1s", scope = EVERYWHERE;
        /// Flap damping: announcements after a withdraw, within this time, that are not held down.
        flap_limit: Quoted<FlapLimit>, default = "5/60s", scope = EVERYWHERE;
        /// `always`: the address is there from start to exit; default: the agent's.
        vip_presence: Parsed<VipPresence>, default = "healthy", scope = EVERYWHERE;
        /// Announced to these of our peers alone: `10.0.0.1`, `fe80::1%eth0`, or `%eth0` for the router on that
        /// interface; default: to all.
        peers: Set<Quoted<PeerName>>, scope = EVERYWHERE;
        /// Probes sent to its VIPs by way of each router show whether that forwards to this host; `auto`: where
        /// sidecast has CAP_NET_ADMIN; default: the agent's.
        path_proof: PathProof, default = "auto", scope = EVERYWHERE;
    }
}

impl AppOptions {
    /// `None`: coming back is never delayed.
    pub fn damping(&self) -> Option<Damping> {
        (!self.hold_down.is_zero()).then_some(Damping {
            hold_down: self.hold_down,
            flap_limit: self.flap_limit.limit,
            flap_window: self.flap_limit.window,
        })
    }
}

section! {
    /// How an app's routes look.
    pub struct VipConfig {
        /// The app's own path attributes.
        attributes: Flatten<Attributes>;
        /// What happens to the routes while the app is down: `withdraw`, attributes that are laid over its own, or
        /// `last_resort`: announced with `agent.last_resort` unless a `port:` monitor fails; default: the agent's.
        when_down: WhenDown, default = "withdraw", scope = EVERYWHERE;
        /// While it drains, for `drain_time`: `withdraw`, or attributes that are laid over its own, such as `{med: 1000}`.
        when_draining: RouteAction, default = "withdraw", scope = EVERYWHERE;
    }
}

section! {
    /// Path attributes that an operator may set. `None` and empty: not set.
    #[derive(PartialOrd, Ord)]
    pub struct Attributes {
        /// Communities (RFC 1997): `65001:100`, `no-export`, `graceful-shutdown`…; an app's are added to the global ones.
        communities: Set<Parsed<Community>>, name = "bgp_communities", in_bgp = Some("communities"),
            params = &["vip_communities", "communities", "bgp_communities"], scope = EVERYWHERE;
        /// Large communities (RFC 8092): `65001:1:2`; added likewise.
        large_communities: Set<Parsed<LargeCommunity>>, scope = EVERYWHERE;
        /// Extended communities (RFC 4360): `rt:65001:1`; added likewise.
        ext_communities: Set<Parsed<ExtCommunity>>, scope = EVERYWHERE;
        /// MULTI_EXIT_DISC.
        med: Opt<Number<u32, 0, { u32::MAX }>>, scope = EVERYWHERE;
        /// LOCAL_PREF, sent on iBGP only; 100 there.
        local_pref: Opt<Number<u32, 0, { u32::MAX }>>, scope = EVERYWHERE;
        /// How many more times our AS number is prepended, besides the one of eBGP.
        as_path_prepend: Opt<Number<u8, 0, 100>>, scope = EVERYWHERE;
        /// Default: the session's IPv4 address, else that of the interface to the peer.
        next_hop: Opt<NextHop4>, scope = EVERYWHERE;
        /// Default: the session's IPv6 address, else the global one of the interface to the peer.
        next_hop6: Opt<NextHop6>, scope = EVERYWHERE;
    }
}

impl Attributes {
    /// These overlaid with `over`: communities are added, other attributes replaced.
    pub fn overlaid(&self, over: &Self) -> Self {
        Self {
            communities: union(&self.communities, &over.communities),
            large_communities: union(&self.large_communities, &over.large_communities),
            ext_communities: union(&self.ext_communities, &over.ext_communities),
            med: over.med.or(self.med),
            local_pref: over.local_pref.or(self.local_pref),
            as_path_prepend: over.as_path_prepend.or(self.as_path_prepend),
            next_hop: over.next_hop.or(self.next_hop),
            next_hop6: over.next_hop6.or(self.next_hop6),
        }
    }

    /// Overlays `over`, keeping whichever value makes the route less preferred.
    pub fn less_attractive(&self, over: &Self) -> Self {
        self.overlaid(over).no_better_than(self)
    }

    /// The same, with nothing that routers rank before what `other` sets.
    pub fn no_better_than(self, other: &Self) -> Self {
        let local_prefs = [self.local_pref, other.local_pref];
        Self {
            med: self.med.max(other.med),
            as_path_prepend: self.as_path_prepend.max(other.as_path_prepend),
            local_pref: local_prefs.into_iter().flatten().min(),
            ..self
        }
    }
}

fn union<T: Ord + Copy>(one: &[T], other: &[T]) -> SmallSet<T> {
    one.iter().chain(other).copied().collect()
}

/// An IPv4 address that routers can reach.
pub struct NextHop4;

impl Kind for NextHop4 {
    type Value = Ipv4Addr;

    fn parse(text: &str) -> Result<Ipv4Addr, String> {
        match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(addr)) if is_next_hop(addr.into()) => Ok(addr),
            Ok(IpAddr::V6(_)) => {
                Err("should be an IPv4 address; an IPv6 one belongs in next_hop6".to_owned())
            }
            _ => Err("should be an IPv4 address that routers can reach".to_owned()),
        }
    }

    fn write(addr: &Ipv4Addr) -> Option<String> {
        Some(quoted(addr))
    }
}

/// A global IPv6 address.
pub struct NextHop6;

impl Kind for NextHop6 {
    type Value = Ipv6Addr;

    fn parse(text: &str) -> Result<Ipv6Addr, String> {
        match text.parse::<IpAddr>() {
            Ok(IpAddr::V6(addr)) if addr.is_unicast_link_local() => {
                Err("is link-local: should be a global IPv6 address (RFC 2545)".to_owned())
            }
            Ok(IpAddr::V6(addr)) if is_next_hop(addr.into()) => Ok(addr),
            Ok(IpAddr::V4(_)) => {
                Err("should be an IPv6 address; an IPv4 one belongs in next_hop".to_owned())
            }
            _ => Err("should be an IPv6 address that routers can reach".to_owned()),
        }
    }

    fn write(addr: &Ipv6Addr) -> Option<String> {
        Some(quoted(addr))
    }
}

fn is_next_hop(addr: IpAddr) -> bool {
    !addr.is_unspecified() && !addr.is_multicast() && !addr.is_loopback()
}

/// What happens to an app's routes while it is down or draining.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteAction {
    #[default]
    Withdraw,
    /// They stay, with these laid over the app's own attributes.
    Announce(Box<Attributes>),
    /// They stay with `agent.last_resort` overlaid, unless a monitor shows that nothing listens
    /// ([`MonitorSpec::Port`](super::MonitorSpec)). Only for an app that is down.
    LastResort,
}

impl Kind for RouteAction {
    type Value = Self;
    const SHAPE: Shape = Shape::Either(&Shape::Words(&["withdraw"]), &Shape::Map("when_down"));

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "withdraw" => Ok(Self::Withdraw),
            _ => Err("should be withdraw, or a map such as {med: 1000}".to_owned()),
        }
    }

    fn write(reaction: &Self) -> Option<String> {
        Some(match reaction {
            Self::Withdraw => "withdraw".to_owned(),
            Self::Announce(attributes) => attributes.in_braces("vip_config"),
            Self::LastResort => "last_resort".to_owned(),
        })
    }

    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Self> {
        if at.is_map() {
            let attributes = at.section(cx, Attributes::default())?;
            return Some(Self::Announce(Box::new(attributes)));
        }
        let reaction = Self::parse(at.node.text().unwrap_or_default());
        reaction.map_err(|message| at.problem(cx, message)).ok()
    }
}

/// What happens to the routes of an app that is down.
pub struct WhenDown;

impl Kind for WhenDown {
    type Value = RouteAction;
    const SHAPE: Shape = Shape::Either(
        &Shape::Words(&["withdraw", "last_resort"]),
        &Shape::Map("when_down"),
    );

    fn parse(text: &str) -> Result<RouteAction, String> {
        match text {
            "withdraw" => Ok(RouteAction::Withdraw),
            "last_resort" => Ok(RouteAction::LastResort),
            _ => Err("should be withdraw, last_resort, or a map such as {med: 1000}".to_owned()),
        }
    }

    fn write(reaction: &RouteAction) -> Option<String> {
        RouteAction::write(reaction)
    }

    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<RouteAction> {
        if at.is_map() {
            return RouteAction::read(cx, at);
        }
        let reaction = Self::parse(at.node.text().unwrap_or_default());
        reaction.map_err(|message| at.problem(cx, message)).ok()
    }
}

/// The attributes of an app that is announced although it is down: less preferred than those of a
/// healthy one. Keys that are not set keep their default.
pub struct LastResort;

impl Kind for LastResort {
    type Value = Attributes;
    const SHAPE: Shape = Shape::Map("when_down");

    fn parse(text: &str) -> Result<Attributes, String> {
        match text {
            Self::DEFAULT => Ok(Self::attributes()),
            _ => Err("should be a map such as {med: 4294967294, as_path_prepend: 10}".to_owned()),
        }
    }

    fn write(attributes: &Attributes) -> Option<String> {
        Some(attributes.in_braces("vip_config"))
    }

    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Attributes> {
        if at.is_map() {
            return at.section(cx, Self::attributes());
        }
        let attributes = Self::parse(at.node.text().unwrap_or_default());
        attributes.map_err(|message| at.problem(cx, message)).ok()
    }
}

impl LastResort {
    /// The attributes as they would be written.
    pub const DEFAULT: &str = "{bgp_communities: [graceful-shutdown], med: 4294967294, local_pref: 0, as_path_prepend: 10}";

    /// RFC 8326 §4: a router that honors graceful-shutdown sets local preference 0. The MED is one below the
    /// highest, which some routers read as "none".
    fn attributes() -> Attributes {
        Attributes {
            communities: SmallSet::from([Community::GRACEFUL_SHUTDOWN]),
            med: Some(u32::MAX - 1),
            local_pref: Some(0),
            as_path_prepend: Some(10),
            ..Attributes::default()
        }
    }
}

/// When the VIP is on the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum VipPresence {
    /// While the app is healthy, and a little longer.
    #[default]
    Healthy,
    /// From start to exit, for services that bind to it.
    Always,
}

impl fmt::Display for VipPresence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "healthy",
            Self::Always => "always",
        })
    }
}

impl FromStr for VipPresence {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        match s {
            "healthy" => Ok(Self::Healthy),
            "always" => Ok(Self::Always),
            _ => Err(ParseError::new(s, "healthy or always")),
        }
    }
}

/// What ends the wait of a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainWait {
    /// The end of the traffic, `drain_time` at the latest.
    #[default]
    Traffic,
    /// `drain_time` alone.
    Fixed,
}

impl fmt::Display for DrainWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Traffic => "traffic",
            Self::Fixed => "fixed",
        })
    }
}

impl FromStr for DrainWait {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        match s {
            "traffic" => Ok(Self::Traffic),
            "fixed" => Ok(Self::Fixed),
            _ => Err(ParseError::new(s, "traffic or fixed")),
        }
    }
}

/// Flap damping: `flap_limit` announcements in `flap_window` are immediate, later ones wait `hold_down`,
/// which doubles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damping {
    pub hold_down: Duration,
    pub flap_limit: u32,
    pub flap_window: Duration,
}

impl Damping {
    /// `hold_down` doubles up to this.
    pub const LONGEST: Duration = Duration::from_secs(60);
}

/// The first hold-down; zero: off.
pub struct HoldDown;

impl Kind for HoldDown {
    type Value = Duration;
    const SHAPE: Shape = OrOff::<Time>::SHAPE;

    fn parse(text: &str) -> Result<Duration, String> {
        match OrOff::<Time>::parse(text)?.unwrap_or_default() {
            long if long > Damping::LONGEST => Err("should be at most 1m".to_owned()),
            hold_down => Ok(hold_down),
        }
    }

    fn write(hold_down: &Duration) -> Option<String> {
        OrOff::<Time>::write(&Some(*hold_down).filter(|time| !time.is_zero()))
    }
}

/// A number of flaps in a time: `5/60s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlapLimit {
    pub limit: u32,
    pub window: Duration,
}

impl fmt::Display for FlapLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.limit, duration::Shown(self.window))
    }
}

impl FromStr for FlapLimit {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let error = || ParseError::new(s, "a number and a duration such as 5/60s");
        let (limit, window) = s.split_once('/').ok_or_else(error)?;
        let limit = decimal(limit).ok_or_else(error)?;
        let window = duration::parse(window)?;
        match limit == 0 || window.is_zero() {
            true => Err(error()),
            false => Ok(Self { limit, window }),
        }
    }
}
