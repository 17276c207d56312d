//! Notifications from sock_diag that a socket on a monitored port was destroyed.
//!
//! The kernel reports every destroyed socket of the network namespace; a BPF filter on the socket passes only
//! our ports, and of hundreds of ports some between them. No capability is needed. If the filter is refused (seccomp,
//! `net.core.optmem_max`) a coarser one is attached, or none: other notifications are then dropped here, after waking
//! the process.

use crate::app::Protocol;
use crate::io::netlink::{attach_filter, detach_filter};
use crate::netlink::message::{Messages, Reply};
use crate::netlink::sock_diag::{
    DESTROY_GROUPS, IPPROTO_UDP, Socket, destroy_filter, unconnected_filter,
};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
    socket,
};
use smol::Async;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// An event of the subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketEvent {
    /// A listener, or a bound and unconnected socket, on a watched port was destroyed. There may be others:
    /// look the port up.
    Destroyed { protocol: Protocol, port: u16 },
    /// A connection to a watched port was destroyed, so there are clients. Reported once for each
    /// [`SocketEvents::watch_clients`].
    ClientSeen,
    /// Notifications were lost (ENOBUFS): look all ports up.
    Overrun,
}

/// A subscription to destroyed sockets.
#[derive(Debug)]
pub struct SocketEvents {
    socket: Async<OwnedFd>,
    ports: RefCell<BTreeSet<(Protocol, u16)>>,
    /// Whether the next destroyed connection is reported.
    clients: Cell<bool>,
    /// Connections of other ports that were destroyed since then.
    foreign: Cell<u32>,
    filter_level: Cell<SocketFilter>,
    pending: RefCell<VecDeque<SocketEvent>>,
}

/// What the filter in the kernel drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SocketFilter {
    /// All but our ports; of many ports, all but those and the ones between them.
    Ports,
    /// Connected sockets.
    Connections,
    Nothing,
}

impl SocketEvents {
    /// Subscribes; nothing is reported before [`SocketEvents::set_ports`].
    ///
    /// Fails where the kernel has no sock_diag (`EPROTONOSUPPORT`): then ports have to be polled.
    pub fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkSockDiag,
        )?;
        // SO_RCVBUFFORCE exceeds net.core.rmem_max; it fails in a user namespace.
        setsockopt(&fd, RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&fd, RcvBuf, &RECEIVE_BUFFER))?;
        // The filter before the groups: a busy host would fill the buffer.
        let filter_level = attach_finest_filter(&fd, &BTreeSet::new(), false, SocketFilter::Ports)?;
        let groups = DESTROY_GROUPS
            .iter()
            .fold(0, |mask, group| mask | 1 << (group - 1));
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self {
            socket: Async::new_nonblocking(fd)?,
            ports: RefCell::default(),
            clients: Cell::new(false),
            foreign: Cell::new(0),
            filter_level: Cell::new(filter_level),
            pending: RefCell::default(),
        })
    }

    /// Watches these ports from now on, and no others.
    pub fn set_ports(&self, ports: &BTreeSet<(Protocol, u16)>) -> io::Result<()> {
        if *self.ports.borrow() == *ports {
            return Ok(());
        }
        self.ports.replace(ports.clone());
        self.filter()
    }

    /// Reports the next client, once: a host may close thousands of connections a second. One is assumed after a thousand
    /// connections of ports that the filter passes besides ours.
    ///
    /// Fails where the kernel accepts no filter but one that drops connected sockets: no client is reported then.
    pub fn watch_clients(&self) -> io::Result<()> {
        self.clients.set(true);
        self.foreign.set(0);
        self.filter()?;
        match self.drops_connections() {
            true => Err(io::Error::other("the filter drops connections")),
            false => Ok(()),
        }
    }

    /// The filter passes no connection, so that no client is reported.
    pub fn drops_connections(&self) -> bool {
        self.filter_level.get() == SocketFilter::Connections
    }

    fn filter(&self) -> io::Result<()> {
        let ports = self.ports.borrow().iter().map(|(_, port)| *port).collect();
        // Without ports the filter passes nothing.
        let (fd, clients) = (self.socket.get_ref(), self.clients.get());
        self.filter_level.set(attach_finest_filter(
            fd,
            &ports,
            clients,
            self.filter_level.get(),
        )?);
        Ok(())
    }

    /// Waits for the next event. Dropping the future loses none.
    pub async fn next(&self) -> io::Result<SocketEvent> {
        loop {
            if let Some(event) = self.pending.borrow_mut().pop_front() {
                return Ok(event);
            }
            let receive = |fd: &OwnedFd| {
                let mut datagram = vec![0; DATAGRAM];
                let count = recv(fd.as_raw_fd(), &mut datagram, MsgFlags::MSG_DONTWAIT)?;
                datagram.truncate(count);
                Ok(datagram)
            };
            match self.socket.read_with(receive).await {
                Ok(datagram) => {
                    if self.read(&datagram) {
                        self.filter()?;
                    }
                }
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    self.drain()?;
                    return Ok(SocketEvent::Overrun);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// After ENOBUFS the kernel drops notifications until the queue is empty: it is emptied before the ports are
    /// looked up again.
    fn drain(&self) -> io::Result<()> {
        let mut buf = [0; 64];
        for _ in 0..QUEUED_MAX {
            match recv(
                self.socket.get_ref().as_raw_fd(),
                &mut buf,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        // Everything is looked at again anyway.
        self.pending.borrow_mut().clear();
        Ok(())
    }

    /// Counts a connection of another port that the filter of ports passed; `false`: there were too many to wait for one
    /// of ours.
    fn is_few_foreign(&self) -> bool {
        if self.filter_level.get() != SocketFilter::Ports {
            return true;
        }
        self.foreign.set(self.foreign.get().saturating_add(1));
        self.foreign.get() < MOST_FOREIGN
    }

    /// Decodes a datagram. An unreadable message counts as lost. `true`: a client was seen, and the filter has to
    /// change.
    fn read(&self, datagram: &[u8]) -> bool {
        let mut client_seen = false;
        let ports = self.ports.borrow();
        let mut pending = self.pending.borrow_mut();
        for message in Messages::new(datagram) {
            let event = match message.and_then(|m| m.reply().map(socket_of)) {
                Ok(None) => continue,
                Ok(Some(Ok(socket))) => {
                    let protocol = protocol_of(&socket);
                    let port = socket.source_port;
                    let ours = ports.contains(&(protocol, port));
                    if !ours && (socket.destination_port == 0 || self.is_few_foreign()) {
                        continue;
                    }
                    if socket.destination_port == 0 {
                        SocketEvent::Destroyed { protocol, port }
                    } else if protocol == Protocol::Tcp && self.clients.replace(false) {
                        client_seen = true;
                        SocketEvent::ClientSeen
                    } else {
                        continue;
                    }
                }
                Ok(Some(Err(_))) | Err(_) => SocketEvent::Overrun,
            };
            pending.push_back(event);
        }
        client_seen
    }
}

fn socket_of(answer: Reply<'_>) -> Option<Result<Socket, crate::wire::WireError>> {
    match answer {
        Reply::Data(payload) => Some(Socket::decode(payload)),
        _ => None,
    }
}

fn protocol_of(socket: &Socket) -> Protocol {
    match socket.protocol {
        Some(IPPROTO_UDP) => Protocol::Udp,
        _ => Protocol::Tcp,
    }
}

/// Attaches the most selective filter that the kernel accepts, and logs a change of its level.
fn attach_finest_filter(
    fd: &OwnedFd,
    ports: &BTreeSet<u16>,
    clients: bool,
    before: SocketFilter,
) -> io::Result<SocketFilter> {
    let Err(refused) = attach_filter(fd, &destroy_filter(ports, clients)) else {
        return Ok(SocketFilter::Ports);
    };
    let (filter_level, wakes) = match attach_filter(fd, &unconnected_filter()) {
        Ok(()) => (
            SocketFilter::Connections,
            "every listener that closes wakes sidecast",
        ),
        Err(_) => {
            // The previous filter passes the wrong ports.
            detach_filter(fd)?;
            (
                SocketFilter::Nothing,
                "every socket that closes wakes sidecast",
            )
        }
    };
    if filter_level != before {
        log::warn!(
            "cannot attach the socket filter for {} ports ({refused}): {wakes}",
            ports.len()
        );
    }
    Ok(filter_level)
}

/// Bytes of notifications that may wait: about 400 of them.
const RECEIVE_BUFFER: usize = 1 << 20;
const DATAGRAM: usize = 4096;
/// Connections of other ports that may wake the process before a client is assumed.
const MOST_FOREIGN: u32 = 1000;
/// More notifications than the buffer can hold.
const QUEUED_MAX: usize = 100_000;
