//! What the operator wrote, in a file and in the environment, as types that can only be valid.
//!
//! This is the only place where configuration is checked: past it nothing is checked again, but for
//! what only the kernel's tables can tell (gateways and the host's own addresses inside a VIP).

mod agent;
mod apps;
mod bgp;
mod env;
mod flow;
mod load;
mod memory;
mod monitor;
mod params;
mod policy;
mod render;
mod tables;
mod tags;
mod written;

pub use agent::{Agent, Consul};
pub use bgp::{Bfd, Bgp, LocalIp, PeerSettings};
pub use load::{Loaded, load};
pub use memory::SavedState;
pub use params::parse_app_from_params;
pub use policy::{Policy, Refusal};
pub use render::render;
pub use tables::{TABLES, reference};
pub use tags::{is_tagged, parse_app_from_tags};
pub use written::Written;

pub use crate::schema::kinds::Secret;
pub use crate::schema::tree::Place;
pub use crate::schema::{Problem, Problems};

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::app::App;
use crate::net::ParseError;

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

/// Where a peer is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remote {
    /// An address; a link-local one has the interface as its scope.
    Addr(IpAddr, Option<String>),
    /// Whoever is the router on this interface (unnumbered).
    Interface(String),
    /// Every default gateway.
    #[default]
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

#[cfg(test)]
mod tests;
