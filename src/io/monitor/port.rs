//! `port:` — which ports have a listener, by one sock_diag look-up for all TCP ports, and one for each
//! family's UDP ports.
//!
//! A look-up costs tens of microseconds and the kernel answers it at once, so it is made without
//! waiting. Where the kernel has no sock_diag, binding is tried instead, which knows less: it cannot
//! tell on which address somebody listens, nor who.

use crate::app::Protocol;
use crate::health::Outcome;
use crate::net::Family;
use crate::netlink::message::{Answer, Messages, Request};
use crate::netlink::sock_diag::{self, Socket, TCP_CLOSE, TCP_LISTEN};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{Ipv6V6Only, ReceiveTimeout, ReuseAddr};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrIn,
    SockaddrIn6, SockaddrLike, bind, recv, sendto, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// What is known about a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Somebody listens; with the reason for a warning, and the listeners whose accept queue is full.
    Open {
        warning: Option<String>,
        full: Vec<FullQueue>,
    },
    /// Nobody does, or nobody who counts: the reason.
    Closed(String),
    /// It could not be found out.
    Unknown(String),
}

/// A listener that at this moment drops new connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullQueue {
    pub cookie: u64,
    pub waiting: u32,
    pub backlog: u32,
}

impl PortState {
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }

    /// The result of a check, the accept queue aside.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Open { warning, .. } => Outcome::Pass(warning.clone().unwrap_or_default()),
            Self::Closed(why) => Outcome::Fail(why.clone()),
            Self::Unknown(why) => Outcome::Unavailable(why.clone()),
        }
    }
}

/// Looks ports up.
#[derive(Debug, Default)]
pub(super) struct Ports {
    socket: RefCell<Option<OwnedFd>>,
    seq: Cell<u32>,
    /// Protocols for which the kernel has no sock_diag; said once.
    missing: RefCell<BTreeSet<Protocol>>,
    /// What binding told a moment ago.
    tested: RefCell<BTreeMap<(Protocol, u16), (Instant, PortState)>>,
    /// By cookie, whether a socket is our own. Cookies are never used again.
    ours: RefCell<BTreeMap<u64, bool>>,
}

impl Ports {
    /// The state of each port.
    pub(super) fn look(
        &self,
        ports: &BTreeSet<(Protocol, u16)>,
    ) -> BTreeMap<(Protocol, u16), PortState> {
        let mut states = BTreeMap::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let of_protocol = ports.iter().filter(|(p, _)| *p == protocol);
            let wanted: Vec<u16> = of_protocol.map(|(_, port)| *port).collect();
            for chunk in wanted.chunks(PORTS_AT_ONCE) {
                let chunk = chunk.iter().copied().collect();
                let found = self.look_up(protocol, &chunk);
                for port in chunk {
                    let state = self.state(protocol, port, &found);
                    states.insert((protocol, port), state);
                }
            }
        }
        states
    }

    fn state(&self, protocol: Protocol, port: u16, found: &Found) -> PortState {
        let state = self.state_in(protocol, port, found);
        if !matches!(
            (&state, found),
            (PortState::Closed(_), Found::Sockets { split: true, .. })
        ) {
            return state;
        }
        // The table may have changed between the pieces of a long answer, and a socket slipped through.
        let alone = self.look_up(protocol, &BTreeSet::from([port]));
        self.state_in(protocol, port, &alone)
    }

    /// The sockets on these ports.
    fn look_up(&self, protocol: Protocol, ports: &BTreeSet<u16>) -> Found {
        if self.missing.borrow().contains(&protocol) {
            return Found::NoSockDiag;
        }
        match self.dump(protocol, ports) {
            Ok(found) => found,
            Err(error) if is_missing(error) => {
                log::warn!(
                    "the kernel does not list {protocol} sockets (sock_diag: {}): ports are tested by binding, and polled",
                    error.desc()
                );
                self.missing.borrow_mut().insert(protocol);
                Found::NoSockDiag
            }
            Err(error) => Found::Failed(error),
        }
    }

    fn dump(&self, protocol: Protocol, ports: &BTreeSet<u16>) -> Result<Found, Errno> {
        let state = match protocol {
            Protocol::Tcp => TCP_LISTEN,
            Protocol::Udp => TCP_CLOSE,
        };
        let mut sockets = Vec::new();
        let mut split = false;
        let room = (ports.len() * BYTES_OF_A_PORT).clamp(DATAGRAM, DATAGRAM_MAX);
        let requests = match protocol {
            Protocol::Tcp => vec![sock_diag::dump_tcp_listeners(ports)],
            Protocol::Udp => Family::ALL
                .map(|family| sock_diag::dump(family, protocol.number(), 1 << state, ports))
                .into(),
        };
        for request in requests {
            let request = request.map_err(|_| Errno::EMSGSIZE)?;
            split |= self.ask(&request, room, &mut sockets)? > 1;
        }
        sockets.retain(|s| s.state == state && ports.contains(&s.source_port));
        let new = |socket: &Socket| !self.ours.borrow().contains_key(&socket.cookie);
        if sockets.iter().any(new) {
            self.learn_owners(&sockets);
        }
        Ok(Found::Sockets { sockets, split })
    }

    /// Sends one request and reads its answers; says in how many datagrams they came. After an error the
    /// next request has a new socket, so that no late answer is taken for another's.
    fn ask(
        &self,
        request: &Request,
        room: usize,
        sockets: &mut Vec<Socket>,
    ) -> Result<usize, Errno> {
        let fd = match self.socket.take() {
            Some(fd) => fd,
            None => open()?,
        };
        let seq = self.seq.get().wrapping_add(1);
        self.seq.set(seq);
        let datagrams = exchange(&fd, &request.encode(seq), seq, room, sockets)?;
        self.socket.replace(Some(fd));
        Ok(datagrams)
    }

    fn state_in(&self, protocol: Protocol, port: u16, found: &Found) -> PortState {
        let sockets = match found {
            Found::NoSockDiag => return self.tested(protocol, port),
            Found::Failed(error) => {
                return PortState::Unknown(format!("cannot list sockets: {}", error.desc()));
            }
            Found::Sockets { sockets, .. } => sockets,
        };
        let on_port: Vec<&Socket> = sockets.iter().filter(|s| s.source_port == port).collect();
        let ours = self.ours.borrow();
        let is_ours = |socket: &Socket| ours.get(&socket.cookie).copied().unwrap_or(false);
        let others: Vec<&Socket> = on_port.iter().copied().filter(|s| !is_ours(s)).collect();
        judge(protocol, port, !on_port.is_empty(), &others)
    }

    /// Binding could keep the service itself from binding: it is not done again for each look at a port
    /// that is down.
    fn tested(&self, protocol: Protocol, port: u16) -> PortState {
        let now = Instant::now();
        let mut tested = self.tested.borrow_mut();
        tested.retain(|_, (at, _)| *at + TESTED_ANEW > now);
        let (_, state) = tested
            .entry((protocol, port))
            .or_insert_with(|| (now, bind_test(protocol, port)));
        state.clone()
    }

    /// Finds out which of these sockets this process holds. /proc is asked once in a socket's life.
    fn learn_owners(&self, sockets: &[Socket]) {
        let own = own_inodes();
        let mut ours = self.ours.borrow_mut();
        if ours.len() > REMEMBERED_COOKIES {
            ours.clear();
        }
        for socket in sockets {
            ours.entry(socket.cookie)
                .or_insert_with(|| own.contains(&socket.inode));
        }
    }
}

enum Found {
    Sockets {
        sockets: Vec<Socket>,
        /// Whether an answer came in several pieces.
        split: bool,
    },
    NoSockDiag,
    Failed(Errno),
}

/// What the sockets of others on a port mean. `any` says whether there are sockets at all.
fn judge(protocol: Protocol, port: u16, any: bool, others: &[&Socket]) -> PortState {
    let verb = match protocol {
        Protocol::Tcp => "listens on",
        Protocol::Udp => "is bound to",
    };
    let counted: Vec<&&Socket> = others
        .iter()
        .filter(|s| !s.source.is_loopback() || is_the_loopback_address(s.source))
        .collect();
    if counted.is_empty() {
        return PortState::Closed(match others.first() {
            Some(socket) => format!(
                "only {} {verb} {protocol} port {port}, which other hosts cannot reach",
                socket.source
            ),
            None if any => format!("only sidecast itself {verb} {protocol} port {port}"),
            None => format!("nothing {verb} {protocol} port {port}"),
        });
    }
    let warning = counted.iter().all(|s| s.source.is_loopback()).then(|| {
        let addr = counted.first().map(|s| s.source.to_string());
        format!(
            "{protocol} port {port} is open only on {}: other hosts cannot reach it without NAT",
            addr.unwrap_or_default()
        )
    });
    let full = counted.iter().filter(|s| s.accept_queue_is_full());
    PortState::Open {
        warning,
        full: full
            .map(|s| FullQueue {
                cookie: s.cookie,
                waiting: s.rqueue,
                backlog: s.wqueue,
            })
            .collect(),
    }
}

/// 127.0.0.1 and ::1, in contrast to what else is on the loopback: systemd-resolved on 127.0.0.53 is not
/// the service.
fn is_the_loopback_address(addr: IpAddr) -> bool {
    addr == Ipv4Addr::LOCALHOST || addr == Ipv6Addr::LOCALHOST
}

/// The inodes of our own sockets; none where there is no /proc.
fn own_inodes() -> BTreeSet<u32> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return BTreeSet::new();
    };
    entries
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|target| {
            let inode = target.to_str()?.strip_prefix("socket:[")?;
            inode.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

fn open() -> Result<OwnedFd, Errno> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    // The kernel answers within the call that asks; this is for the day it does not.
    setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(1))?;
    Ok(fd)
}

/// Says in how many datagrams, of `room` bytes at most, the sockets came.
fn exchange(
    fd: &OwnedFd,
    bytes: &[u8],
    seq: u32,
    room: usize,
    sockets: &mut Vec<Socket>,
) -> Result<usize, Errno> {
    sendto(
        fd.as_raw_fd(),
        bytes,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut buf = vec![0; room];
    let mut datagrams = 0;
    loop {
        let count = match recv(fd.as_raw_fd(), &mut buf, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error),
            Ok(count) => count,
        };
        let datagram = buf.get(..count).unwrap_or_default();
        let before = sockets.len();
        for message in Messages::new(datagram) {
            let message = message.map_err(|_| Errno::EBADMSG)?;
            if message.seq != seq {
                continue;
            }
            match message.answer().map_err(|_| Errno::EBADMSG)? {
                Answer::Data(payload) => {
                    sockets.push(Socket::decode(payload).map_err(|_| Errno::EBADMSG)?);
                }
                Answer::Done => return Ok(datagrams + usize::from(sockets.len() > before)),
                Answer::Refused { errno, .. } => return Err(Errno::from_raw(errno)),
                Answer::Overrun => return Err(Errno::ENOBUFS),
                Answer::Nothing => {}
            }
        }
        datagrams += usize::from(sockets.len() > before);
    }
}

/// Whether the kernel, or who guards it, has no sock_diag for us; else trying again may help.
fn is_missing(error: Errno) -> bool {
    matches!(
        error,
        Errno::ENOENT
            | Errno::EPROTONOSUPPORT
            | Errno::EAFNOSUPPORT
            | Errno::EOPNOTSUPP
            | Errno::EPERM
            | Errno::EACCES
            | Errno::ENOSYS
    )
}

/// Tries to bind the port on all addresses: only "address in use" says that somebody has it. No other
/// error may count as open (without the right to bind low ports every one of them would).
pub fn bind_test(protocol: Protocol, port: u16) -> PortState {
    let mut want = None;
    for family in Family::ALL {
        match try_bind(protocol, family, port) {
            Err(Errno::EADDRINUSE) => {
                return PortState::Open {
                    warning: None,
                    full: Vec::new(),
                };
            }
            Ok(()) => {}
            // A kernel without IPv6.
            Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) if family == Family::Ipv6 => {}
            Err(error) => want = Some(error),
        }
    }
    match want {
        Some(error) => PortState::Unknown(format!(
            "cannot tell whether {protocol} port {port} is in use: {}",
            error.desc()
        )),
        None => PortState::Closed(format!("{protocol} port {port} is free")),
    }
}

fn try_bind(protocol: Protocol, family: Family, port: u16) -> Result<(), Errno> {
    let (address_family, addr): (_, Box<dyn SockaddrLike>) = match family {
        Family::Ipv4 => (
            AddressFamily::Inet,
            Box::new(SockaddrIn::new(0, 0, 0, 0, port)),
        ),
        Family::Ipv6 => {
            let any = std::net::SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
            (AddressFamily::Inet6, Box::new(SockaddrIn6::from(any)))
        }
    };
    let kind = match protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let fd = socket(address_family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if protocol == Protocol::Tcp {
        // With it old connections in TIME_WAIT do not count; a listener still does.
        setsockopt(&fd, ReuseAddr, &true)?;
    }
    if family == Family::Ipv6 {
        setsockopt(&fd, Ipv6V6Only, &true)?;
    }
    bind(fd.as_raw_fd(), addr.as_ref())
}

/// Bytes of one answer. The kernel fills none further than the largest buffer it has seen, or than 8 KiB, less 320 bytes
/// of its own, before it has seen one; and none further than 32 KiB.
const DATAGRAM: usize = 8 * 1024 - 256;
const DATAGRAM_MAX: usize = 32 * 1024;
/// What the sockets of a port take in an answer, mostly.
const BYTES_OF_A_PORT: usize = 256;
/// Ports in one look-up: so few that the kernel chooses, and mostly answers in one piece.
const PORTS_AT_ONCE: usize = 128;
/// How long the result of binding is good for.
const TESTED_ANEW: Duration = Duration::from_millis(900);
/// Sockets whose owner is remembered.
const REMEMBERED_COOKIES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn socket_on(addr: &str, rqueue: u32) -> Socket {
        Socket {
            family: Family::Ipv4,
            state: TCP_LISTEN,
            source_port: 53,
            destination_port: 0,
            source: addr.parse().unwrap(),
            interface: 0,
            cookie: 1,
            rqueue,
            wqueue: 5,
            uid: 0,
            inode: 9,
            protocol: None,
        }
    }

    fn judged(addrs: &[&str]) -> PortState {
        let sockets: Vec<Socket> = addrs.iter().map(|a| socket_on(a, 0)).collect();
        judge(Protocol::Tcp, 53, true, &sockets.iter().collect::<Vec<_>>())
    }

    #[test]
    fn only_the_two_loopback_addresses_count_and_they_warn() {
        assert!(matches!(
            judged(&["127.0.0.53"]),
            PortState::Closed(why) if why.contains("127.0.0.53")
        ));
        for addr in ["127.0.0.1", "::1"] {
            assert!(matches!(
                judged(&["127.0.0.53", addr]),
                PortState::Open { warning: Some(text), .. } if text.contains(addr)
            ));
        }
        for addr in ["0.0.0.0", "::", "192.0.2.1"] {
            assert!(matches!(
                judged(&["127.0.0.1", addr]),
                PortState::Open { warning: None, .. }
            ));
        }
    }

    #[test]
    fn our_own_socket_is_named_when_it_is_the_only_one() {
        let state = judge(Protocol::Udp, 53, true, &[]);
        assert!(matches!(&state, PortState::Closed(why) if why.contains("sidecast itself")));
        assert!(state.outcome().is_fail());
        let nothing = judge(Protocol::Udp, 53, false, &[]);
        assert!(matches!(nothing, PortState::Closed(why) if why.contains("nothing")));
    }

    #[test]
    fn a_queue_is_full_when_it_is_past_its_backlog() {
        let full = |rqueue| match judge(Protocol::Tcp, 53, true, &[&socket_on("0.0.0.0", rqueue)]) {
            PortState::Open { full, .. } => full.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!((full(5), full(6)), (0, 1));
    }

    #[test]
    fn without_sock_diag_binding_is_tried() {
        let ports = Ports::default();
        let both = [Protocol::Tcp, Protocol::Udp];
        ports.missing.borrow_mut().extend(both);
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let socket = std::net::UdpSocket::bind("[::]:0").unwrap();
        let wanted = [
            (Protocol::Tcp, listener.local_addr().unwrap().port()),
            (Protocol::Udp, socket.local_addr().unwrap().port()),
        ];
        let is_open = |state: &PortState| state.is_open();
        assert!(ports.look(&wanted.into()).values().all(is_open));
    }
}
