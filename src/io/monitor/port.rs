//! `port:` — finds the listeners of ports by sock_diag: one dump for all TCP ports, and one for the UDP ports of
//! each family. A socket that was found is then asked for by its address and cookie for a minute: a dump walks all
//! buckets of the kernel's table, up to 64 Ki, which takes longer than anything else that an idle process does.
//!
//! A dump takes less than a millisecond and is answered within the call, so it runs on the loop. On kernels
//! without sock_diag `bind(2)` is tried instead, which tells neither the address nor the owner of a listener.

use crate::app::Protocol;
use crate::health::{ON_WILDCARD, Outcome};
use crate::io::sock_diag::{exchange, open, own_inodes};
use crate::net::Family;
use crate::netlink::message::Request;
use crate::netlink::sock_diag::{self, Socket, TCP_CLOSE, TCP_LISTEN};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{Ipv6V6Only, ReuseAddr};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, bind, setsockopt,
    socket,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// What is known about a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortState {
    /// There is a listener; with a warning, and the listeners whose accept queue is full.
    Open {
        warning: Option<String>,
        full: Vec<FullQueue>,
    },
    /// No listener, or only ones that do not count: the reason.
    Closed(String),
    /// It could not be determined: the reason.
    Unknown(String),
}

/// A listener whose accept queue is full, so that new connections are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullQueue {
    pub cookie: u64,
    pub waiting: u32,
    pub backlog: u32,
}

impl PortState {
    /// Whether there is a listener.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }

    /// The result of a check, the accept queue aside.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Open { warning, .. } => Outcome::Pass(warning.clone().unwrap_or_default()),
            Self::Closed(why) => Outcome::NoListener(why.clone()),
            Self::Unknown(why) => Outcome::Unavailable(why.clone()),
        }
    }
}

/// Looks ports up.
#[derive(Debug, Default)]
pub(super) struct Ports {
    socket: RefCell<Option<OwnedFd>>,
    seq: Cell<u32>,
    /// Protocols without sock_diag in this kernel; logged once.
    missing: RefCell<BTreeSet<Protocol>>,
    /// Recent results of `bind(2)`.
    tested: RefCell<BTreeMap<(Protocol, u16), (Instant, PortState)>>,
    /// By cookie, whether a socket is of this process. Cookies are never reused.
    own_sockets: RefCell<BTreeMap<u64, bool>>,
    /// The few sockets of a port by the last dump, and when that was.
    found: RefCell<BTreeMap<(Protocol, u16), FoundSockets>>,
}

#[derive(Debug)]
struct FoundSockets {
    dumped_at: Instant,
    sockets: Vec<Socket>,
    /// A dump lists them all, but the kernel did not find each when it was asked for it alone: of several sockets with
    /// one address (`SO_REUSEPORT`) it always finds the same.
    by_dump_only: bool,
}

impl FoundSockets {
    fn is_recent(&self) -> bool {
        self.dumped_at.elapsed() < DUMPED_ANEW
    }
}

impl Ports {
    /// The state of each port.
    pub(super) fn port_states(
        &self,
        ports: &BTreeSet<(Protocol, u16)>,
    ) -> BTreeMap<(Protocol, u16), PortState> {
        let mut states = BTreeMap::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let of_protocol = ports.iter().filter(|(p, _)| *p == protocol);
            let mut wanted: Vec<u16> = of_protocol.map(|(_, port)| *port).collect();
            let few = wanted.len() <= FOUND_ALONE;
            if few {
                wanted.retain(|&port| {
                    let Some(sockets) = self.find_again(protocol, port) else {
                        return true;
                    };
                    let state = self.state(protocol, port, &sockets);
                    states.insert((protocol, port), state);
                    false
                });
            }
            for chunk in wanted.chunks(PORTS_AT_ONCE) {
                let chunk = chunk.iter().copied().collect();
                let found = self.look_up(protocol, &chunk);
                for port in chunk {
                    if few {
                        self.remember(protocol, port, &found);
                    }
                    let state = self.state(protocol, port, &found);
                    states.insert((protocol, port), state);
                }
            }
        }
        states
    }

    /// The sockets of a port, if each that the last dump found is still there. Others may have come since, which makes
    /// the port no less open. The next dump, at most a minute later, shows whether the accept queue of a new listener is
    /// full or a new UDP socket is on the wildcard address. Both are notes; with `accept_queue: fail` the check of a new
    /// listener with a full queue fails up to a minute late.
    fn find_again(&self, protocol: Protocol, port: u16) -> Option<PortLookup> {
        let found = self.found.borrow();
        let before = found
            .get(&(protocol, port))
            .filter(|found| found.is_recent() && !found.by_dump_only)?;
        let mut sockets = Vec::new();
        for socket in &before.sockets {
            let request = sock_diag::find(protocol.number(), socket).ok()?;
            self.ask(&request, DATAGRAM, &mut sockets).ok()?;
        }
        let states = |sockets: &[Socket]| sockets.iter().map(|s| s.state).collect::<Vec<u8>>();
        let same = states(&sockets) == states(&before.sockets);
        same.then_some(PortLookup::Sockets {
            sockets,
            split: false,
        })
    }

    /// Remembers the sockets of a port for [`Ports::find_again`]: one or two, not all of them ours, since another
    /// socket would open the port, and none that the kernel would not find or whose warning another socket could end.
    fn remember(&self, protocol: Protocol, port: u16, found: &PortLookup) {
        let mut all = self.found.borrow_mut();
        all.retain(|_, found| found.is_recent());
        let before = all.get(&(protocol, port));
        if before.is_some_and(|before| before.by_dump_only) {
            return;
        }
        // Those before are there only if one of them was not found just now.
        let before = all.remove(&(protocol, port));
        let PortLookup::Sockets { sockets, .. } = found else {
            return;
        };
        let on_port = sockets.iter().filter(|s| s.source_port == port);
        let on_port: Vec<Socket> = on_port.cloned().collect();
        let can_be_found = |socket: &Socket| {
            let mapped = socket.family == Family::Ipv6 && socket.source.is_ipv4();
            !mapped && !socket.source.is_loopback()
        };
        let all_ours = on_port.iter().all(|socket| self.is_ours(socket));
        if (1..=2).contains(&on_port.len()) && !all_ours && on_port.iter().all(can_be_found) {
            let is_listed = |socket: &Socket| on_port.iter().any(|s| s.cookie == socket.cookie);
            let by_dump_only = before.is_some_and(|before| before.sockets.iter().all(is_listed));
            let found = FoundSockets {
                dumped_at: Instant::now(),
                sockets: on_port,
                by_dump_only,
            };
            all.insert((protocol, port), found);
        }
    }

    fn state(&self, protocol: Protocol, port: u16, found: &PortLookup) -> PortState {
        let state = self.state_in(protocol, port, found);
        if !matches!(
            (&state, found),
            (
                PortState::Closed(_),
                PortLookup::Sockets { split: true, .. }
            )
        ) {
            return state;
        }
        // The table may have changed between the datagrams of a long dump, which missed a socket.
        let alone = self.look_up(protocol, &BTreeSet::from([port]));
        self.state_in(protocol, port, &alone)
    }

    /// The sockets on these ports.
    fn look_up(&self, protocol: Protocol, ports: &BTreeSet<u16>) -> PortLookup {
        if self.missing.borrow().contains(&protocol) {
            return PortLookup::NoSockDiag;
        }
        match self.dump(protocol, ports) {
            Ok(found) => found,
            Err(error) if is_missing(error) => {
                log::warn!(
                    "the kernel does not list {protocol} sockets (sock_diag: {}): ports are tested by binding at every interval",
                    error.desc()
                );
                self.missing.borrow_mut().insert(protocol);
                PortLookup::NoSockDiag
            }
            Err(error) => PortLookup::Failed(error),
        }
    }

    fn dump(&self, protocol: Protocol, ports: &BTreeSet<u16>) -> Result<PortLookup, Errno> {
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
        let new = |socket: &Socket| !self.own_sockets.borrow().contains_key(&socket.cookie);
        if sockets.iter().any(new) {
            self.record_owners(&sockets);
        }
        Ok(PortLookup::Sockets { sockets, split })
    }

    /// Sends one request and reads its answers; says in how many datagrams they came. After an error the next request
    /// has a new socket, so that no late answer is taken for another's; that a socket was not found is no error but
    /// the whole answer.
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
        let result = exchange(&fd, request, seq, room, sockets);
        if matches!(result, Ok(_) | Err(Errno::ENOENT | Errno::ESTALE)) {
            self.socket.replace(Some(fd));
        }
        result
    }

    fn state_in(&self, protocol: Protocol, port: u16, found: &PortLookup) -> PortState {
        let sockets = match found {
            PortLookup::NoSockDiag => return self.tested(protocol, port),
            PortLookup::Failed(error) => {
                return PortState::Unknown(format!("cannot list sockets: {}", error.desc()));
            }
            PortLookup::Sockets { sockets, .. } => sockets,
        };
        let on_port: Vec<&Socket> = sockets.iter().filter(|s| s.source_port == port).collect();
        let others = on_port.iter().copied().filter(|s| !self.is_ours(s));
        let others: Vec<&Socket> = others.collect();
        state_from_sockets(protocol, port, !on_port.is_empty(), &others)
    }

    /// Whether a socket that a dump found is of this process.
    fn is_ours(&self, socket: &Socket) -> bool {
        let own_sockets = self.own_sockets.borrow();
        own_sockets.get(&socket.cookie).copied().unwrap_or(false)
    }

    /// A trial bind could make the service's own bind fail, so its result is cached.
    fn tested(&self, protocol: Protocol, port: u16) -> PortState {
        let now = Instant::now();
        let mut tested = self.tested.borrow_mut();
        tested.retain(|_, (at, _)| *at + TESTED_ANEW > now);
        let (_, state) = tested
            .entry((protocol, port))
            .or_insert_with(|| (now, bind_test(protocol, port)));
        state.clone()
    }

    /// Determines which of these sockets belong to this process, from /proc, once for each socket.
    fn record_owners(&self, sockets: &[Socket]) {
        let own = own_inodes();
        let mut own_sockets = self.own_sockets.borrow_mut();
        if own_sockets.len() > REMEMBERED_COOKIES {
            own_sockets.clear();
            // Until a dump lists them again, their owners are not known.
            self.found.borrow_mut().clear();
        }
        for socket in sockets {
            own_sockets
                .entry(socket.cookie)
                .or_insert_with(|| own.contains(&socket.inode));
        }
    }
}

enum PortLookup {
    Sockets {
        sockets: Vec<Socket>,
        /// Whether an answer came in several pieces.
        split: bool,
    },
    NoSockDiag,
    Failed(Errno),
}

/// The state of a port by the sockets of other processes. `any`: there are sockets at all.
fn state_from_sockets(protocol: Protocol, port: u16, any: bool, others: &[&Socket]) -> PortState {
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
    let everywhere = counted.iter().any(|s| s.source.is_unspecified());
    let on_wildcard = (everywhere && protocol == Protocol::Udp).then(|| ON_WILDCARD.to_owned());
    let warning = warning.or(on_wildcard);
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

/// Whether sock_diag is missing or forbidden (seccomp); after other errors a retry may help.
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

/// Tries to bind the port on all addresses: only EADDRINUSE means that it is open. Other errors must not
/// count as open: without CAP_NET_BIND_SERVICE every low port would.
fn bind_test(protocol: Protocol, port: u16) -> PortState {
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

/// Bytes of one datagram. The kernel fills a datagram up to the largest receive buffer it has seen on the socket, at
/// most 32 KiB; before the first receive up to 8 KiB, of which it needs 320 bytes itself.
const DATAGRAM: usize = 8 * 1024 - 256;
const DATAGRAM_MAX: usize = 32 * 1024;
/// Typical bytes in an answer for the sockets of one port.
const BYTES_OF_A_PORT: usize = 256;
/// Ports in one lookup: few enough that the kernel filters them, and that the answer mostly fits one datagram.
const PORTS_AT_ONCE: usize = 128;
/// Ports of one protocol that are asked for one by one; above this a dump costs less.
const FOUND_ALONE: usize = 4;
/// After this time the sockets of a port are listed again.
const DUMPED_ANEW: Duration = Duration::from_secs(59);
/// How long a result of `bind(2)` is cached.
const TESTED_ANEW: Duration = Duration::from_millis(900);
/// Sockets whose owner is remembered.
const REMEMBERED_COOKIES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::sockopt::ReusePort;
    use sidecast_lab::run;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    fn socket_on(addr: &str, rqueue: u32) -> Socket {
        Socket {
            family: Family::Ipv4,
            state: TCP_LISTEN,
            source_port: 53,
            destination_port: 0,
            source: addr.parse().unwrap(),
            destination: Ipv4Addr::UNSPECIFIED.into(),
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
        state_from_sockets(Protocol::Tcp, 53, true, &sockets.iter().collect::<Vec<_>>())
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
    fn a_udp_socket_on_the_wildcard_address_is_said_to_be_there() {
        let outcome = |protocol, addr| {
            state_from_sockets(protocol, 53, true, &[&socket_on(addr, 0)]).outcome()
        };
        for addr in ["0.0.0.0", "::"] {
            assert!(outcome(Protocol::Udp, addr).is_on_wildcard());
            assert_eq!(outcome(Protocol::Tcp, addr), Outcome::pass());
        }
        assert_eq!(outcome(Protocol::Udp, "192.0.2.1"), Outcome::pass());
    }

    #[test]
    fn our_own_socket_is_named_when_it_is_the_only_one() {
        let state = state_from_sockets(Protocol::Udp, 53, true, &[]);
        assert!(matches!(&state, PortState::Closed(why) if why.contains("sidecast itself")));
        assert!(state.outcome().is_fail());
        let nothing = state_from_sockets(Protocol::Udp, 53, false, &[]);
        assert!(matches!(nothing, PortState::Closed(why) if why.contains("nothing")));
    }

    #[test]
    fn a_queue_is_full_when_it_is_past_its_backlog() {
        let full = |rqueue| match state_from_sockets(
            Protocol::Tcp,
            53,
            true,
            &[&socket_on("0.0.0.0", rqueue)],
        ) {
            PortState::Open { full, .. } => full.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!((full(5), full(6)), (0, 1));
    }

    /// How many requests it takes to judge a port.
    fn requests(ports: &Ports, protocol: Protocol, port: u16) -> (bool, u32) {
        let before = ports.seq.get();
        let states = ports.port_states(&BTreeSet::from([(protocol, port)]));
        let is_open = states.values().all(PortState::is_open);
        (is_open, ports.seq.get() - before)
    }

    /// Judges a port as if its sockets were of another process: those of this one do not count.
    fn judge_as_foreign(ports: &Ports, protocol: Protocol, port: u16) {
        requests(ports, protocol, port);
        let mut own_sockets = ports.own_sockets.borrow_mut();
        own_sockets.values_mut().for_each(|own| *own = false);
        drop(own_sockets);
        requests(ports, protocol, port);
    }

    #[test]
    fn a_socket_that_was_found_is_asked_for_alone_until_it_is_gone() {
        let ports = Ports::default();
        for addr in ["0.0.0.0:0", "[::]:0"] {
            let listener = std::net::TcpListener::bind(addr).unwrap();
            let socket = std::net::UdpSocket::bind(addr).unwrap();
            let tcp = listener.local_addr().unwrap().port();
            let udp = socket.local_addr().unwrap().port();
            judge_as_foreign(&ports, Protocol::Tcp, tcp);
            judge_as_foreign(&ports, Protocol::Udp, udp);
            assert_eq!(requests(&ports, Protocol::Tcp, tcp), (true, 1), "{addr}");
            assert_eq!(requests(&ports, Protocol::Udp, udp), (true, 1), "{addr}");
            drop((listener, socket));
            assert_eq!(requests(&ports, Protocol::Tcp, tcp), (false, 2), "{addr}");
            assert_eq!(requests(&ports, Protocol::Udp, udp), (false, 3), "{addr}");
            assert_eq!(requests(&ports, Protocol::Tcp, tcp), (false, 1), "{addr}");
        }
    }

    #[test]
    fn another_socket_of_the_same_address_is_not_taken_for_the_one_before() {
        let ports = Ports::default();
        let first = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let addr = first.local_addr().unwrap();
        judge_as_foreign(&ports, Protocol::Tcp, addr.port());
        let before = ports.found.borrow().values().next().unwrap().sockets[0].cookie;
        drop(first);
        let _second = std::net::TcpListener::bind(addr).unwrap();
        assert_eq!(requests(&ports, Protocol::Tcp, addr.port()).1, 2);
        judge_as_foreign(&ports, Protocol::Tcp, addr.port());
        let after = ports.found.borrow().values().next().unwrap().sockets[0].cookie;
        assert_ne!(before, after);
    }

    /// A UDP socket with `SO_REUSEPORT`.
    fn reuse_port(port: u16) -> OwnedFd {
        let kind = SockType::Datagram;
        let fd = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&fd, ReusePort, &true).unwrap();
        bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port)).unwrap();
        fd
    }

    #[test]
    fn two_sockets_of_one_address_are_listed_for_a_minute_after_one_was_not_found() {
        let ports = Ports::default();
        let first = std::net::UdpSocket::from(reuse_port(0));
        let port = first.local_addr().unwrap().port();
        let second = reuse_port(port);
        let netlink_socket = || {
            let socket = ports.socket.borrow();
            let fd = socket.as_ref().unwrap().as_raw_fd();
            std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap()
        };
        judge_as_foreign(&ports, Protocol::Udp, port);
        let before = netlink_socket();
        // The dump takes two requests, one for each family.
        let (is_open, asked) = requests(&ports, Protocol::Udp, port);
        assert!(is_open && asked > 2, "{asked}");
        for _ in 0..3 {
            assert_eq!(requests(&ports, Protocol::Udp, port), (true, 2));
        }
        assert_eq!(netlink_socket(), before);

        drop(second);
        for found in ports.found.borrow_mut().values_mut() {
            found.dumped_at -= DUMPED_ANEW;
        }
        assert_eq!(requests(&ports, Protocol::Udp, port), (true, 2));
        assert_eq!(requests(&ports, Protocol::Udp, port), (true, 1));
    }

    #[test]
    fn a_socket_on_the_loopback_address_is_listed_anew_each_time() {
        // Another socket would end the warning.
        let ports = Ports::default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        judge_as_foreign(&ports, Protocol::Tcp, port);
        assert!(ports.found.borrow().is_empty());
    }

    #[test]
    fn sockets_of_this_process_alone_are_listed_anew_each_time() {
        // Another socket would open the port.
        let ports = Ports::default();
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        for _ in 0..3 {
            assert_eq!(requests(&ports, Protocol::Udp, port), (false, 2));
        }
    }

    #[test]
    fn sockets_whose_owner_is_no_longer_known_are_listed_anew() {
        let ports = Ports::default();
        let [first, second] = [(); 2].map(|()| std::net::UdpSocket::bind("0.0.0.0:0").unwrap());
        let [first_port, second_port] =
            [&first, &second].map(|socket| socket.local_addr().unwrap().port());
        judge_as_foreign(&ports, Protocol::Udp, first_port);
        assert_eq!(requests(&ports, Protocol::Udp, first_port), (true, 1));
        let cookies = (0..u64::MAX).rev().take(REMEMBERED_COOKIES + 1);
        let mut own_sockets = ports.own_sockets.borrow_mut();
        own_sockets.extend(cookies.map(|cookie| (cookie, false)));
        drop(own_sockets);
        requests(&ports, Protocol::Udp, second_port);
        // It is of this process.
        assert_eq!(requests(&ports, Protocol::Udp, first_port), (false, 2));
    }

    #[test]
    fn binding_tells_in_use_from_everything_else() {
        sidecast_lab::in_namespace(|| {
            run("ip link set lo up");
            for addr in ["0.0.0.0:5000", "[::]:5000"] {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    let test = || bind_test(protocol, 5000);
                    assert!(matches!(test(), PortState::Closed(_)));
                    if protocol == Protocol::Udp {
                        let _service = UdpSocket::bind(addr).unwrap();
                        assert!(test().is_open(), "{addr}");
                        continue;
                    }
                    let service = TcpListener::bind(addr).unwrap();
                    assert!(test().is_open(), "{addr}");
                    // The end that closes first is left in TIME_WAIT.
                    let client = TcpStream::connect("127.0.0.1:5000").unwrap();
                    drop(service.accept().unwrap());
                    drop((client, service));
                    assert!(run("ss -Htan state time-wait").contains(":5000"));
                    assert!(matches!(test(), PortState::Closed(_)), "{:?}", test());
                }
            }
            // No right to bind: nothing is known, and it must not look like "in use".
            let mut sets = rustix::thread::capabilities(None).unwrap();
            sets.effective = rustix::thread::CapabilitySet::empty();
            rustix::thread::set_capabilities(None, sets).unwrap();
            let state = bind_test(Protocol::Tcp, 80);
            assert!(
                matches!(&state, PortState::Unknown(why) if why.contains("Permission denied")),
                "{state:?}"
            );
        });
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
        assert!(ports.port_states(&wanted.into()).values().all(is_open));
    }
}
