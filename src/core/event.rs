//! The core's events (in) and outputs (out).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::ConsulReport;
use crate::app::{AppName, MonitorSpec, Protocol, VipTarget};
use crate::bgp::peer::{self, ConnId};
use crate::config::{Bgp, PeerSettings, Secret};
use crate::discovery::{Network, PeerName, PeerNetwork};
use crate::health::Outcome;
use crate::net::Prefix;
use crate::path_proof;
use crate::plan::Step;
use crate::registry::{AppState, MonitorId};
use crate::small_set::SmallSet;

/// Input to the core.
#[derive(Debug)]
pub enum Event {
    /// A check is queued behind `agent.check_threads` others. It is answered within its timeout, or this
    /// event repeats.
    CheckQueued {
        monitor: MonitorId,
    },
    /// The answer to [`Output::Check`].
    Checked {
        monitor: MonitorId,
        outcome: Outcome,
        took: Duration,
    },
    /// The kernel reported a destroyed socket (sock_diag): the monitors of that port check again at
    /// once.
    SocketDestroyed {
        protocol: Protocol,
        port: u16,
    },
    /// Clients connect to a monitored TCP port. The kernel reports the end of a listener late when
    /// connections to it are half-open, so these ports are checked every 1.2 s for a while.
    ClientsSeen,
    /// Socket notifications were lost (ENOBUFS): every port monitor checks again at once.
    RecheckPorts,
    /// What the kernel's links, addresses, routes and neighbors mean for the peers.
    Network(Network),
    /// The link-layer address of a peer or of its gateway has changed.
    MacChanged(IpAddr),
    /// The kernel reported an address removed.
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
    /// The answer to [`Output::FindOtherSpeaker`]; `None`: there is none.
    OtherSpeaker {
        peer: PeerName,
        speaker: Option<String>,
    },
    /// A BFD packet, from a socket of one hop or of several; over one hop its TTL was 255.
    Bfd {
        from: SocketAddr,
        multihop: bool,
        bytes: Vec<u8>,
    },
    /// The answer to an [`Output::PathProof`].
    PathProof(path_proof::Event),
    /// The answer to [`Output::AwaitAcknowledged`].
    Acknowledged,
    /// What was seen of the VIPs of the last [`Output::WatchTraffic`], every 100 ms: the addresses that got packets by a
    /// real interface, in order, and when the last one arrived; or why that cannot be seen, once.
    Traffic {
        at: Instant,
        last_packets: Result<Vec<(IpAddr, Instant)>, String>,
    },
    /// SIGTERM or SIGINT; the second one skips the waits.
    Stop,
    /// SIGUSR2: exit for an upgrade, without a withdraw and without a Cease.
    StopForRestart,
    /// The result of a Consul query.
    Consul(ConsulReport),
    /// An app's maintenance file was created or removed.
    Maintenance {
        app: AppName,
        present: bool,
    },
    /// The maintenance file cannot be looked up, and why; `None`: it can again.
    MaintenanceUnclear {
        app: AppName,
        problem: Option<String>,
    },
}

/// Work for the shell, to be performed in the order given.
#[derive(Debug)]
pub enum Output {
    /// Perform one check; answered by exactly one [`Event::Checked`], unless it is abandoned.
    Check {
        monitor: MonitorId,
        spec: MonitorSpec,
        timeout: Duration,
        /// The VIPs that a monitor of the second stage probes, each alone; all have to pass.
        targets: Vec<VipTarget>,
    },
    /// Cancel a running check: the command that it runs is killed.
    CancelCheck {
        monitor: MonitorId,
    },
    /// [`super::Core::ports`] has changed.
    PortsChanged,
    /// An app's maintenance file changed; `None`: it has none.
    WatchMaintenanceFile {
        app: AppName,
        file: Option<PathBuf>,
    },
    /// Answered by one [`Event::Done`].
    Step {
        id: StepId,
        step: Step,
    },
    /// Look for another program of this host that has a session with the peer from our address; answered by
    /// [`Event::OtherSpeaker`].
    FindOtherSpeaker {
        peer: PeerName,
        transport: Transport,
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
    /// Close with a TCP RST.
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
    /// Work of the proof of the path.
    PathProof(path_proof::Output),
    /// [`super::Core::transports`] has changed.
    PeersChanged,
    /// Answer [`Event::Acknowledged`] once the kernels of these peers have acknowledged all bytes sent so far.
    AwaitAcknowledged {
        peers: SmallSet<PeerName>,
    },
    /// Watch the packets for these VIPs and no others; answered by [`Event::Traffic`] until there are none.
    WatchTraffic {
        vips: BTreeSet<Prefix>,
    },
    Transition(Transition),
    /// Read the kernel's tables again: the VIPs or the peers' settings changed.
    ReadNetwork,
    /// Exit the process; always the last output.
    Exit {
        code: u8,
        why: String,
    },
}

/// Identifies a step; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepId(pub u64);

/// How a step succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepResult {
    Done,
    /// Another program added the address: it is used, but never removed and never given a lifetime.
    Foreign,
    /// The address is sidecast's own, from an earlier run.
    Adopted,
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepError {
    pub message: String,
    /// Retrying alone does not help (EPERM, EOPNOTSUPP): retried every 30 s.
    pub permanent: bool,
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StepError {}

/// Addresses and options of the TCP connection to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transport {
    pub remote: SocketAddr,
    /// The address to bind; `None` leaves the choice to the kernel.
    pub local: Option<IpAddr>,
    /// The interface of a link-local peer.
    pub interface: Option<String>,
    /// RFC 2385.
    pub password: Option<Secret>,
    pub ttl: Ttl,
}

impl Transport {
    /// The transport to a peer, from the network and the settings.
    pub fn to(peer: &PeerNetwork, settings: &PeerSettings, bgp: &Bgp) -> Self {
        let ttl = Ttl::of(settings, bgp);
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

/// The addresses of a BFD session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BfdPath {
    /// With port 3784 (single hop) or 4784 (multihop), and the scope of a link-local address.
    pub remote: SocketAddr,
    /// The address to send from; `None` leaves the choice to the kernel.
    pub local: Option<IpAddr>,
    pub multihop: bool,
}

/// Why an incoming connection is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    Unknown,
    /// It was made to an anycast address, whose next connection may reach another host.
    ToVip,
    Stopping,
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "not a configured peer",
            Self::ToVip => "it was made to a VIP; the peer must use the host's own address",
            Self::Stopping => "sidecast is stopping",
        })
    }
}

/// What a previous sidecast left in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// The forwarding state is preserved (RFC 4724): its NAT table exists, or none is needed.
    pub forwarding: bool,
}

/// The hop limit of a session's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// The kernel's default (iBGP).
    System,
    /// Send with this one.
    Limit(u8),
    /// RFC 5082: send with 255, take only what has come at most this many hops.
    Security { hops: u8 },
}

impl Ttl {
    /// As the settings of a peer have it.
    pub(super) fn of(settings: &PeerSettings, bgp: &Bgp) -> Self {
        let ibgp = settings.peer_as == Some(bgp.local_as);
        match (settings.ttl_security, settings.multihop) {
            (Some(hops), _) => Self::Security { hops },
            (None, Some(limit)) if !ibgp => Self::Limit(limit),
            _ => Self::System,
        }
    }
}

/// An app went from one state to another, or became a last resort, or is none any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Sequence number, from 1.
    pub seq: u64,
    pub app: AppName,
    pub from: AppState,
    pub to: AppState,
    /// It is announced as last resort from now on.
    pub last_resort: bool,
    pub why: String,
    pub at: Instant,
}
