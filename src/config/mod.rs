//! The operator's configuration, from file and environment, as types that are valid by construction.
//!
//! This is the only place where configuration is checked: past it nothing is checked again, but for
//! what only the kernel's tables can tell (gateways and the host's own addresses inside a VIP).

mod agent;
mod apps;
mod bgp;
mod env;
mod flow;
mod load;
mod monitor;
mod params;
mod policy;
mod raw;
mod render;
mod saved_state;
mod tables;
mod tags;
mod variables;

pub use agent::{Agent, Consul};
pub use bgp::{Bfd, Bgp, LocalIp, PeerSettings};
pub use load::{Loaded, load};
pub use params::parse_app_from_params;
pub use policy::{Policy, Refusal};
pub use raw::RawConfig;
pub use render::render;
pub use saved_state::SavedState;
pub use tables::TABLES;
pub use tags::{is_tagged, parse_app_from_tags};

pub use crate::schema::kinds::Secret;
pub use crate::schema::tree::Place;
pub use crate::schema::{Problem, Problems};

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::app::App;
use crate::net::{ParseError, PeerName};

/// Everything that was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub agent: Agent,
    pub bgp: Bgp,
    /// From the file, then the one of the environment. Names and VIPs are unique.
    pub apps: Vec<App>,
    /// Warnings: values that are accepted but hardly intended, a sentence each.
    pub warnings: Vec<String>,
}

/// Where a server listens. No address: it is switched off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    pub addrs: Vec<ListenAddr>,
    /// The default is used: an address in use is no error.
    pub defaulted: bool,
}

impl Listen {
    /// Whether the server is switched off.
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

/// How long an address lives without renewal.
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
    /// The router on this interface, whatever its address (unnumbered).
    Interface(String),
    /// Every default gateway.
    #[default]
    Gateway,
}

impl Remote {
    /// The peer of this address or interface; `None`: it is discovered.
    pub fn name(&self) -> Option<PeerName> {
        match self {
            Self::Addr(addr, scope) => Some(PeerName::new(*addr, scope.as_deref())),
            Self::Interface(name) => Some(PeerName::on(name)),
            Self::Gateway => None,
        }
    }
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
        let name: PeerName = s.parse()?;
        Ok(match (name.addr(), name.scope()) {
            (Some(addr), scope) => Self::Addr(addr, scope.map(str::to_owned)),
            (None, scope) => Self::Interface(scope.unwrap_or_default().to_owned()),
        })
    }
}

#[cfg(test)]
mod tests;
