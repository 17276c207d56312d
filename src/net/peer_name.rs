//! How a BGP peer is named: by its address, or by the interface on which it is the router.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::ParseError;

/// A peer's address, with the interface where the address alone is ambiguous: `10.0.0.1`,
/// `fe80::1%eth0`; or the interface alone, `%eth0`. IPv4 comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerName {
    /// `None`: whoever is the router on the interface.
    addr: Option<IpAddr>,
    scope: Option<String>,
}

impl PeerName {
    /// The scope is kept for link-local addresses only.
    pub fn new(addr: IpAddr, scope: Option<&str>) -> Self {
        Self {
            addr: Some(addr),
            scope: scope.filter(|_| is_link_local(addr)).map(str::to_owned),
        }
    }

    /// `%eth0`: the router on an interface, as long as none is known there.
    pub fn on(interface: &str) -> Self {
        Self {
            addr: None,
            scope: Some(interface.to_owned()),
        }
    }

    /// The address without its scope.
    pub fn addr(&self) -> Option<IpAddr> {
        self.addr
    }

    /// The interface, of a link-local address or of a peer without one.
    pub fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    /// Whether an operator who writes this means `peer`: `%eth0` means whoever is the router there.
    pub fn means(&self, peer: &Self) -> bool {
        self == peer || (self.addr.is_none() && self.scope == peer.scope)
    }

    /// Whether the peers that an operator wrote include this one; none written: all are meant.
    pub fn is_among(&self, written: &[Self]) -> bool {
        written.is_empty() || written.iter().any(|name| name.means(self))
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(addr) = &self.addr {
            addr.fmt(f)?;
        }
        match &self.scope {
            Some(scope) => write!(f, "%{scope}"),
            None => Ok(()),
        }
    }
}

impl FromStr for PeerName {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let parse = || {
            let (addr, scope) = match s.split_once('%') {
                Some((addr, scope)) => (addr, Some(scope)),
                None => (s, None),
            };
            if scope.is_some_and(|name| !is_interface_name(name)) {
                return None;
            }
            if let (true, Some(name)) = (addr.is_empty(), scope) {
                return Some(Self::on(name));
            }
            let addr: IpAddr = addr.parse().ok()?;
            let usable = !addr.is_unspecified() && !addr.is_multicast();
            let scoped = is_link_local(addr) == scope.is_some();
            (usable && scoped).then(|| Self::new(addr, scope))
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

/// fe80::/10: an address that needs its interface named. IPv4's 169.254.0.0/16 does not.
pub fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(_) => false,
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

/// The kernel's rule (net/core/dev.c, dev_valid_name): 1 to 15 bytes, no slash, colon or space.
pub fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name
            .chars()
            .any(|c| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PeerName {
        text.parse().unwrap()
    }

    #[test]
    fn an_interface_means_whoever_is_the_router_there() {
        for (written, peer, means) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("fd00::1", "fd00::1", true),
            ("fe80::1%eth0", "fe80::1%eth0", true),
            ("fe80::1%eth0", "fe80::1%eth1", false),
            ("fe80::1%eth0", "%eth0", false),
            ("%eth0", "%eth0", true),
            ("%eth0", "fe80::1%eth0", true),
            ("%eth0", "fe80::1%eth1", false),
            ("%eth0", "10.0.0.1", false),
        ] {
            assert_eq!(name(written).means(&name(peer)), means, "{written} {peer}");
            let among = name(peer).is_among(&[name(written)]);
            assert_eq!(among, means, "{written} {peer}");
            assert!(name(peer).is_among(&[]));
            assert_eq!(name(peer).to_string(), peer);
        }
    }

    #[test]
    fn what_is_no_peer_is_refused() {
        for text in [
            "",
            "%",
            "eth0",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1%eth0",
            "fe80::1",
            "10.0.0.1%eth0",
            "10.0.0.1/32",
            "fe80::1%",
            "fe80::1%a/b",
        ] {
            assert!(text.parse::<PeerName>().is_err(), "{text}");
        }
    }
}
