//! What comes into the core and what goes out of it.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use super::Report;
use crate::app::{AppName, MonitorSpec, Protocol};
use crate::bgp::peer::{self, ConnId};
use crate::config::{Bgp, PeerSettings, Secret};
use crate::discovery::{Network, PeerName, PeerNetwork};
use crate::health::Outcome;
use crate::net::Prefix;
use crate::plan::Step;
use crate::registry::{AppState, MonitorId};

/// Something happened outside.
#[derive(Debug)]
pub enum Event {
    /// A check has not begun yet, as it waits for a place; its answer comes within its timeout and a little, or
    /// this comes again.
    CheckWaits {
        monitor: MonitorId,
    },
    /// The answer to [`Output::Check`].
    Checked {
        monitor: MonitorId,
        outcome: Outcome,
        took: Duration,
    },
    /// The kernel reported a socket gone: the monitors of that port look again at once.
    SocketDestroyed {
        protocol: Protocol,
        port: u16,
    },
    /// Clients come to a monitored TCP port. The kernel reports a listener's end late when some of their
    /// connections are half-open: ports are looked at every second or so for a while.
    ClientsSeen,
    /// Every port's monitor looks again at once: what the kernel had to tell of sockets was lost.
    RecheckPorts,
    /// The kernel's tables, as far as they concern us.
    Network(Network),
    /// The neighbor at this address, a peer or the router towards one, has another MAC than before.
    MacChanged(IpAddr),
    /// An address of ours went away though nobody asked us.
    AddressLost(Prefix),
    /// The answer to [`Output::Step`].
    Done {
        step: StepId,
        result: Result<StepResult, StepError>,
    },
    Bgp {
        peer: PeerName,
        event: peer::Event,
    },
    /// A BFD packet, from a socket of one hop or of several; over one hop its TTL was 255.
    Bfd {
        from: SocketAddr,
        multihop: bool,
        bytes: Vec<u8>,
    },
    /// The answer to [`Output::AwaitAcknowledged`].
    Acknowledged,
    /// SIGTERM or SIGINT; the second one skips the waits.
    Stop,
    /// SIGUSR2: leave without a withdraw and without a Cease.
    StopQuietly,
    /// What Consul said, or that it said nothing.
    Consul(Report),
    /// An app's maintenance file appeared or went.
    Maintenance {
        app: AppName,
        present: bool,
    },
    /// Whether it is there cannot be told, and why; or it can be told again.
    MaintenanceUnclear {
        app: AppName,
        problem: Option<String>,
    },
}

/// Something is to be done, in the order given.
#[derive(Debug)]
pub enum Output {
    /// Perform one check; answered by exactly one [`Event::Checked`], unless it is abandoned.
    Check {
        monitor: MonitorId,
        spec: MonitorSpec,
        timeout: Duration,
    },
    /// A check that is under way has nobody who waits for it: what it runs is to be killed.
    Abandon {
        monitor: MonitorId,
    },
    /// [`super::Core::ports`] has changed.
    PortsChanged,
    /// [`super::Core::maintenance_files`] has changed.
    MaintenanceFilesChanged,
    /// Answered by one [`Event::Done`].
    Step {
        id: StepId,
        step: Step,
    },
    Connect {
        peer: PeerName,
        conn: ConnId,
        transport: Transport,
    },
    Send {
        peer: PeerName,
        conn: ConnId,
        bytes: Vec<u8>,
    },
    Close {
        peer: PeerName,
        conn: ConnId,
    },
    /// Close with a reset at once.
    Reset {
        peer: PeerName,
        conn: ConnId,
    },
    /// Answer [`peer::Event::Acknowledged`] if the peer acknowledges within a second.
    Probe {
        peer: PeerName,
        conn: ConnId,
    },
    SetUserTimeout {
        peer: PeerName,
        conn: ConnId,
        timeout: Option<Duration>,
    },
    /// Send one BFD packet, always from the same port.
    SendBfd {
        peer: PeerName,
        path: BfdPath,
        bytes: Vec<u8>,
    },
    /// No more BFD packets to this peer.
    CloseBfd {
        peer: PeerName,
    },
    /// [`super::Core::transports`] has changed.
    PeersChanged,
    /// Answer [`Event::Acknowledged`] once the peers' kernels have acknowledged all bytes sent so far.
    AwaitAcknowledged,
    Transition(Transition),
    /// The VIPs or the peers' settings changed: look at the kernel's tables anew.
    NetworkWanted,
    /// The last output: nothing is left to do.
    Exit {
        code: u8,
        why: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepId(pub u64);

/// How a step succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepResult {
    Done,
    /// The address was there before us and is not ours: it is used, never removed, never leased.
    Foreign,
    /// The address was there and is ours, from an earlier run.
    Adopted,
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepError {
    pub message: String,
    /// It will not get better by itself (no permission, not supported): retried rarely.
    pub permanent: bool,
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StepError {}

/// All a socket to a peer needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transport {
    pub remote: SocketAddr,
    /// The address to bind; `None` leaves the choice to the kernel.
    pub local: Option<IpAddr>,
    /// The interface the peer is on, where its address alone does not say (link-local).
    pub interface: Option<String>,
    /// RFC 2385.
    pub password: Option<Secret>,
    pub ttl: Ttl,
}

impl Transport {
    /// The way to a peer, as the network and the settings have it.
    pub(super) fn to(peer: &PeerNetwork, settings: &PeerSettings, bgp: &Bgp) -> Self {
        let ibgp = settings.peer_as == Some(bgp.local_as);
        let ttl = match (settings.ttl_security, settings.multihop) {
            (Some(hops), _) => Ttl::Security { hops },
            (None, Some(limit)) if !ibgp => Ttl::Limit(limit),
            _ => Ttl::System,
        };
        let remote = match peer.remote {
            IpAddr::V4(_) => SocketAddr::new(peer.remote, settings.port),
            IpAddr::V6(addr) => SocketAddrV6::new(addr, settings.port, 0, peer.scope_id).into(),
        };
        let link_local = matches!(peer.remote, IpAddr::V6(addr) if addr.is_unicast_link_local());
        Self {
            remote,
            local: peer.local,
            interface: peer.interface.clone().filter(|_| link_local),
            password: settings.password.clone(),
            ttl,
        }
    }
}

/// Between which addresses a BFD session runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BfdPath {
    /// With the port of one hop or of several, and the interface of a link-local address.
    pub remote: SocketAddr,
    /// The address to send from; `None` leaves the choice to the kernel.
    pub local: Option<IpAddr>,
    pub multihop: bool,
}

/// Why a connection that somebody opened to us is not a peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    Unknown,
    /// It came to an anycast address: the next one may reach another host.
    ToVip,
    Stopping,
}

impl fmt::Display for NotAdmitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "no peer of ours",
            Self::ToVip => "it came to a VIP; the peer must use the host's own address",
            Self::Stopping => "we are stopping",
        })
    }
}

/// What a process before us left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// Packets still reach the services as they did: its NAT table stands, or needs none.
    pub forwarding: bool,
}

/// The hop limit of a session's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// Whatever the kernel's default is (iBGP).
    System,
    /// Send with this one.
    Limit(u8),
    /// RFC 5082: send with 255, take only what has come at most this many hops.
    Security { hops: u8 },
}

/// An app went from one state to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Counts from 1 and never repeats.
    pub seq: u64,
    pub app: AppName,
    pub from: AppState,
    pub to: AppState,
    pub why: String,
    pub at: Instant,
}
