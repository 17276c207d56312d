//! What was looked at on the host, as plain values.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::app::Protocol;
use crate::bgp::{DecodeContext, Framer, MAX_LEN, Received, decode_message};
use crate::net::{Asn, RouterId};

/// All findings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Why CAP_NET_ADMIN is missing, and how to get it; `None`: it is held.
    pub no_net_admin: Option<String>,
    /// Why the kernel does not list sockets.
    pub no_sock_diag: Option<String>,
    /// Why NAT rules cannot be set; `None`: they can, or no app has any.
    pub no_nat: Option<String>,
    /// Why the interface of the VIPs takes no IPv6 address; `None`: it does, or no IPv6 VIP was examined.
    pub no_ipv6: Option<String>,
    /// The kernel's effective `rp_filter` by interface: the larger of its own and that of `all`.
    pub rp_filter: Vec<(String, u8)>,
    /// The addresses of listening TCP and bound UDP sockets, by port, those of sidecast left out.
    pub listeners: BTreeMap<(Protocol, u16), BTreeSet<IpAddr>>,
    /// Another program's session with a peer from our address, in words, by the peer's address and port.
    pub speakers: Vec<(SocketAddr, String)>,
    /// Connections that were tried, by the peer's address and port.
    pub dialed: Vec<(SocketAddr, Dialed)>,
    /// Whether the kernel delivers an address to this host.
    pub local: BTreeMap<IpAddr, bool>,
    /// Connections from this host to a VIP; the error where none was made.
    pub answers: Vec<(SocketAddr, Result<(), String>)>,
    /// Consul's view of this node; `None`: Consul was not queried.
    pub consul: Option<Result<ConsulNode, String>>,
}

impl Findings {
    /// Another program's session with this peer.
    pub fn speaker(&self, peer: SocketAddr) -> Option<&str> {
        found(&self.speakers, peer).map(String::as_str)
    }

    /// How the connection to this peer ended.
    pub fn dialed(&self, peer: SocketAddr) -> Option<&Dialed> {
        found(&self.dialed, peer)
    }

    /// How the connection to this port of a VIP ended.
    pub fn answer(&self, vip: SocketAddr) -> Option<&Result<(), String>> {
        found(&self.answers, vip)
    }
}

fn found<T>(of: &[(SocketAddr, T)], at: SocketAddr) -> Option<&T> {
    of.iter()
        .find(|(one, _)| *one == at)
        .map(|(_, found)| found)
}

/// How an attempt to connect to a peer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialed {
    /// It sent an OPEN (RFC 4271 §4.2).
    Open {
        asn: Asn,
        router_id: Ipv4Addr,
    },
    /// It sent a NOTIFICATION, in words.
    Notification(String),
    /// It accepted and sent nothing in time.
    Silent,
    /// It accepted and closed without a byte.
    Closed,
    /// What it sent is not BGP.
    NotBgp,
    Refused,
    TimedOut,
    /// Any other error.
    Failed(String),
}

impl Dialed {
    /// By the first bytes of the other side; `None`: more are needed.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut framer = Framer::new();
        framer.push(bytes);
        let frame = match framer.next(MAX_LEN) {
            Ok(frame) => frame?,
            Err(_) => return Some(Self::NotBgp),
        };
        // Neither our AS number nor our router id is compared with its own here.
        let any = RouterId::new(Ipv4Addr::BROADCAST)?;
        let cx = DecodeContext::before_open(Asn::TRANS, any, None);
        Some(match decode_message(&frame, &cx) {
            Ok(Received::Open(open)) => Self::Open {
                asn: open.asn,
                router_id: open.router_id.addr(),
            },
            Ok(Received::Notification(notification)) => {
                Self::Notification(notification.to_string())
            }
            Ok(_) => Self::NotBgp,
            Err(error) => Self::Failed(format!("its OPEN is invalid: {error}")),
        })
    }
}

/// Consul's view of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsulNode {
    pub name: String,
    /// Registered on it, and how many of them have the tag that is looked for.
    pub services: usize,
    pub tagged: usize,
    /// The node's own checks that do not pass, with their output.
    pub failing: Vec<String>,
    /// The token sees all of it.
    pub complete: bool,
}
