//! Inputs and outputs of the prover.

use std::net::IpAddr;

/// Where the probes of a peer leave the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// Interface index.
    pub interface: u32,
    /// Its name, for `SO_BINDTODEVICE`.
    pub name: String,
    /// Never a VIP.
    pub source: IpAddr,
    /// The gateway of that interface: the route of a probe has to name it.
    pub gateway: IpAddr,
}

/// The number of a peer in probes and kernel counters: the payload bytes after the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerTag(pub u16);

/// What one counter in the kernel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub vip: IpAddr,
    pub tag: PeerTag,
}

/// Work for the shell, to be performed in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The kernel counts these from now on, each from 0; one batch, in which `remove` is first. What carries another
    /// token than before is made anew. Answered by one [`Event::Counting`].
    Count {
        token: u64,
        /// UDP port of the probes.
        port: u16,
        add: Vec<Target>,
        remove: Vec<Target>,
    },
    /// Ask for the route (RTM_GETROUTE) from the source to the VIP by the interface; only if it names
    /// `egress.gateway` send one datagram from each source port. Answered by one [`Event::Sent`].
    Send {
        target: Target,
        egress: Egress,
        token: u64,
        port: u16,
        ttl: u8,
        source_ports: Vec<u16>,
    },
    /// Read all counters and ICMP errors; answered by one [`Event::Counters`] or [`Event::Uncounted`].
    Read,
    /// Nothing is proven any more: remove chains, maps and counters.
    Remove,
}

/// The answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// To [`Output::Count`], in the order of the batches.
    Counting(Result<(), CountError>),
    /// To [`Output::Send`]: the number of datagrams that left.
    Sent {
        target: Target,
        result: Result<u32, SendError>,
    },
    /// To [`Output::Read`]: totals since the counters were made.
    Counters {
        /// Probes that came back.
        returned: Vec<(Target, u64)>,
        /// Those of one kind that were not repeated for long may be missing, and count from 0 when they come again.
        errors: Vec<PathError>,
    },
    /// To [`Output::Read`]: the counters are gone, or cannot be read; nothing is counted any more.
    Uncounted(CountError),
}

/// Why the kernel does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CountError {
    /// EPERM: this needs CAP_NET_ADMIN.
    NoPermission,
    Kernel(String),
}

/// Why no probe has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The route to the VIP does not name the expected gateway; what it is in place of that.
    OtherRoute(String),
    /// `sendto` was refused (EPERM).
    LocalFirewall,
    /// The host does not have the source address.
    NoSource,
    Failed(String),
}

/// ICMP errors of one kind that quote a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathError {
    pub target: Target,
    /// Who sent them.
    pub from: IpAddr,
    /// ICMP type (RFC 792), for IPv6 that of ICMPv6 (RFC 4443).
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    pub count: u64,
}
