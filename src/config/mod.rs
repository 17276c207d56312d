//! What the operator wrote, in a file and in the environment, as types that can only be valid.
//!
//! This is the only place where configuration is checked: past it nothing is checked again, but for
//! what only the kernel's tables can tell (gateways and the host's own addresses inside a VIP).

mod agent;
mod apps;
mod bgp;
mod env;
mod fields;
mod flow;
mod keys;
mod load;
mod memory;
mod monitor;
mod params;
mod policy;
mod problem;
mod render;
mod tags;
mod tree;
mod written;

pub use load::{Loaded, load};
pub use memory::Memory;
pub use params::parse_app_from_params;
pub use policy::{Policy, Refusal};
pub use problem::{Problem, Problems};
pub use render::render;
pub use tags::{is_tagged, parse_app_from_tags};
pub use tree::Place;
pub use written::Written;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::app::{App, AppDefaults, Attributes, Source, VipPresence};
use crate::net::{Asn, Family, Origin, ParseError, Prefix, RouterId};

/// Everything that was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub agent: Agent,
    pub bgp: Bgp,
    /// From the file, then the one of the environment. Names and VIPs are unique.
    pub apps: Vec<App>,
    /// What is taken but hardly meant, a sentence each.
    pub warnings: Vec<String>,
}

/// The process itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    pub listen: Listen,
    pub metrics: Listen,
    pub monitor_interval: Duration,
    pub cleanup_timer: Duration,
    /// How long an address stays after a withdraw; `None`: until `cleanup_timer`.
    pub vip_linger: Option<Duration>,
    pub vip_presence: VipPresence,
    pub vip_lease: Lease,
    /// `None`: addresses are managed elsewhere.
    pub vip_interface: Option<String>,
    pub drain_time: Duration,
    pub api_token: Option<Secret>,
    /// Who else may change something without a token, besides what is near.
    pub api_allow: Vec<Prefix>,
    /// Sources whose `exec:` monitors run.
    pub allow_exec: BTreeSet<Source>,
    /// `None`: any VIP.
    pub allowed_vips: Option<Vec<Prefix>>,
    pub max_http_apps: usize,
    /// Of all apps together.
    pub max_vips: usize,
    /// The longest `drain_time` that HTTP and Consul may ask for.
    pub max_drain: Duration,
    pub max_connections: usize,
    /// Calls that block, at once.
    pub check_threads: usize,
    pub state_file: Option<PathBuf>,
    pub instance: Option<String>,
    pub user: Option<String>,
    /// Whom exec monitors and hooks run as; `None`: as we do.
    pub exec_user: Option<String>,
    /// A program and its arguments; empty: none.
    pub on_change: Vec<String>,
    /// `None`: discovery is off.
    pub consul: Option<Consul>,
}

impl Agent {
    pub fn app_defaults(&self) -> AppDefaults {
        AppDefaults {
            interval: self.monitor_interval,
            drain_time: self.drain_time,
            vip_presence: self.vip_presence,
        }
    }
}

/// Where a server listens. No address: it is switched off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    pub addrs: Vec<ListenAddr>,
    /// Nobody wrote it: an address that is taken is no error.
    pub defaulted: bool,
}

impl Listen {
    pub fn is_off(&self) -> bool {
        self.addrs.is_empty()
    }
}

/// One address of a server, also the client commands' `--addr`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListenAddr {
    /// `:8080`: every address of both families.
    Any(u16),
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any(port) => write!(f, ":{port}"),
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for ListenAddr {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let parse = || {
            if let Some(path) = s.strip_prefix("unix:") {
                // sun_path holds 108 bytes, the terminating zero included (unix(7)).
                return (path.starts_with('/') && path.len() < 108)
                    .then(|| Self::Unix(PathBuf::from(path)));
            }
            let named = s.replacen("localhost:", "127.0.0.1:", 1);
            if let Some(port) = named.strip_prefix(':') {
                return crate::app::port(port).map(Self::Any);
            }
            let addr: SocketAddr = named.parse().ok()?;
            (addr.port() != 0).then_some(Self::Tcp(addr))
        };
        parse().ok_or_else(|| {
            ParseError::new(
                s,
                "an address to listen on: 127.0.0.1:8179, [::1]:8179, :8179 or unix:/run/sidecast.sock",
            )
        })
    }
}

/// How long an address lives when nobody renews it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lease {
    /// Long enough for the longest hold time and graceful restart.
    #[default]
    Auto,
    Off,
    Fixed(Duration),
}

/// A text that must not be seen: `Debug` hides it, there is no `Display`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// What a file that holds a secret and nothing else says; `None`: it is empty.
    pub fn in_file(text: &str) -> Option<Self> {
        let text = fields::value_in_file(text);
        (!text.is_empty()).then(|| Self::new(text))
    }

    /// The text itself, for the wire only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Discovery of apps in Consul.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consul {
    /// Scheme, host and port, and a path before `/v1` if there is one; without `/v1`. Or `unix:PATH`.
    pub addr: String,
    /// `CONSUL_NODE`; `None`: a local agent is asked for its node's name.
    pub node: Option<String>,
    pub token: Option<Secret>,
    /// Where `token` was read from: it may hold another one by now.
    pub token_file: Option<PathBuf>,
    /// `CONSUL_STALE=true`.
    pub stale: bool,
    pub query_interval: Duration,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub datacenter: Option<String>,
    pub namespace: Option<String>,
    pub match_tag: String,
    /// How long what is known stays while Consul is away; `None`: for ever.
    pub grace: Option<Duration>,
    /// A `warning` check counts as passing.
    pub warning_passes: bool,
}

impl Consul {
    /// The socket of a local agent, where the address is one.
    pub fn unix_path(&self) -> Option<&Path> {
        self.addr.strip_prefix("unix:").map(Path::new)
    }

    /// Whether it is this host's own agent that is asked.
    pub fn is_local(&self) -> bool {
        let url = self.addr.parse::<crate::app::HttpUrl>();
        let host = url.map(|url| url.host).unwrap_or_default();
        let addr: Option<IpAddr> = host.parse().ok();
        self.unix_path().is_some()
            || host.eq_ignore_ascii_case("localhost")
            || addr.is_some_and(|addr| addr.is_loopback())
    }
}

/// The speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bgp {
    pub local_as: Asn,
    /// Never empty. With `discover` the one entry is the model for every gateway.
    pub peers: Vec<PeerSettings>,
    /// No peer is written: the default gateways are the peers.
    pub discover: bool,
    pub router_id: Option<RouterId>,
    pub local_ip4: Option<Ipv4Addr>,
    pub local_ip6: Option<Ipv6Addr>,
    /// For all apps and peers; a peer's are laid over them, an app's over both.
    pub attributes: Attributes,
    pub origin: Origin,
    /// Where sessions are accepted; `None`: nowhere.
    pub listen: Option<SocketAddr>,
}

/// One peer, or the model of the discovered ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    pub remote: Remote,
    /// `None`: any AS is accepted.
    pub peer_as: Option<Asn>,
    /// Seconds; 0: neither keepalives nor expiry (RFC 4271 §4.2).
    pub hold_time: u16,
    /// The longest wait between two attempts.
    pub connect_retry: Duration,
    pub port: u16,
    /// TCP MD5 (RFC 2385), at most 80 bytes.
    pub password: Option<Secret>,
    /// TTL of what we send on eBGP; `None` where `ttl_security` is set.
    pub multihop: Option<u8>,
    /// GTSM hops, at least 1 (RFC 5082).
    pub ttl_security: Option<u8>,
    /// Never empty.
    pub families: BTreeSet<Family>,
    pub passive: bool,
    /// Restart time to advertise, seconds, at most 4095 (RFC 4724 §3); 0: off.
    pub graceful_restart: u16,
    pub bfd: Option<Bfd>,
    /// The peer's own, else the global one.
    pub local_ip4: Option<Ipv4Addr>,
    pub local_ip6: Option<Ipv6Addr>,
    /// The peer's own only: laid over `Bgp::attributes`, an app's over both.
    pub attributes: Attributes,
    /// The peer's own only.
    pub origin: Option<Origin>,
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remote {
    /// An address; a link-local one has the interface as its scope.
    Addr(IpAddr, Option<String>),
    /// Whoever is the router on this interface (unnumbered).
    Interface(String),
    /// Every default gateway.
    Gateway,
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr, None) => addr.fmt(f),
            Self::Addr(addr, Some(scope)) => write!(f, "{addr}%{scope}"),
            Self::Interface(name) => write!(f, "%{name}"),
            Self::Gateway => f.write_str("gateway"),
        }
    }
}

impl FromStr for Remote {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let parse = || {
            let (addr, scope) = match s.split_once('%') {
                Some((addr, scope)) => (addr, Some(scope.to_owned())),
                None => (s, None),
            };
            if scope
                .as_deref()
                .is_some_and(|name| !is_interface_name(name))
            {
                return None;
            }
            if let (true, Some(name)) = (addr.is_empty(), scope.clone()) {
                return Some(Self::Interface(name));
            }
            let addr: IpAddr = addr.parse().ok()?;
            let link_local = matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local());
            let usable = !addr.is_unspecified() && !addr.is_multicast();
            (usable && link_local == scope.is_some()).then_some(Self::Addr(addr, scope))
        };
        parse().ok_or_else(|| {
            ParseError::new(
                s,
                "a peer: an address such as 10.0.0.1 or 2001:db8::1, a link-local one with its interface \
                 such as fe80::1%eth0, or %eth0 for the router on that interface",
            )
        })
    }
}

/// The kernel's rule (net/core/dev.c, dev_valid_name): 1 to 15 bytes, no slash, colon or space.
pub(crate) fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name
            .chars()
            .any(|c| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control())
}

/// Bidirectional forwarding detection (RFC 5880).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bfd {
    pub interval: Duration,
    pub multiplier: u8,
    pub multihop: bool,
}

impl Default for Bfd {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(300),
            multiplier: 3,
            multihop: false,
        }
    }
}

#[cfg(test)]
mod tests;
