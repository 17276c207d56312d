//! Being told by the kernel, in the moment it happens, that a socket on one of our ports is gone.
//!
//! The kernel reports every socket of the network namespace that is destroyed; a filter inside the
//! kernel lets only our ports through. No capability is needed. Where the filter is refused (seccomp,
//! `net.core.optmem_max`) a coarser one serves, and in the end none: what comes through besides is
//! dropped here, at the price of being woken for it.

use crate::app::Protocol;
use crate::netlink::message::{Answer, Messages};
use crate::netlink::sock_diag::{
    DESTROY_GROUPS, FilterOp, IPPROTO_UDP, Socket, destroy_filter, unconnected_filter,
};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
    socket,
};
use nix::{libc, setsockopt_impl, sockopt_impl};
use smol::Async;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// What the subscription says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketEvent {
    /// A listener, or a bound and unconnected socket, on a watched port is gone. Others may still be
    /// there: look.
    Destroyed { protocol: Protocol, port: u16 },
    /// A connection to a watched port has ended: there are clients. Said once for each
    /// [`SocketEvents::watch_clients`].
    Used,
    /// Notifications were lost: look at everything.
    Overrun,
}

/// A subscription to destroyed sockets.
#[derive(Debug)]
pub struct SocketEvents {
    socket: Async<OwnedFd>,
    ports: RefCell<BTreeSet<(Protocol, u16)>>,
    /// Whether the next end of a connection is to be told.
    clients: Cell<bool>,
    sieve: Cell<SocketFilter>,
    pending: RefCell<VecDeque<SocketEvent>>,
}

/// What the kernel keeps from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SocketFilter {
    /// All but our ports.
    Ports,
    /// Connections.
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
        // Beyond the system's limit where that is allowed; in a user namespace it is not.
        setsockopt(&fd, RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&fd, RcvBuf, &RECEIVE_BUFFER))?;
        // The filter comes first: a busy host would fill the buffer before it.
        let sieve = sift(&fd, &BTreeSet::new(), false, SocketFilter::Ports)?;
        let groups = DESTROY_GROUPS
            .iter()
            .fold(0, |mask, group| mask | 1 << (group - 1));
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self {
            socket: Async::new_nonblocking(fd)?,
            ports: RefCell::default(),
            clients: Cell::new(false),
            sieve: Cell::new(sieve),
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

    /// Asks to be told of the next client, once: a host may close thousands of connections a second.
    pub fn watch_clients(&self) -> io::Result<()> {
        self.clients.set(true);
        self.filter()
    }

    fn filter(&self) -> io::Result<()> {
        let ports = self.ports.borrow().iter().map(|(_, port)| *port).collect();
        // Without ports there is nothing to be told.
        let (fd, clients) = (self.socket.get_ref(), self.clients.get());
        self.sieve.set(sift(fd, &ports, clients, self.sieve.get())?);
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

    /// The kernel drops every further notification, without another word, until the queue was empty once:
    /// only what is looked at after that is followed by notifications again.
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

    /// Takes a datagram apart. What cannot be read might have been ours, so it counts as lost. `true`: the
    /// filter is to change, for a client was seen.
    fn read(&self, datagram: &[u8]) -> bool {
        let mut used = false;
        let ports = self.ports.borrow();
        let mut pending = self.pending.borrow_mut();
        for message in Messages::new(datagram) {
            let event = match message.and_then(|m| m.answer().map(socket_of)) {
                Ok(None) => continue,
                Ok(Some(Ok(socket))) => {
                    let protocol = protocol_of(&socket);
                    let port = socket.source_port;
                    if !ports.contains(&(protocol, port)) {
                        continue;
                    }
                    if socket.destination_port == 0 {
                        SocketEvent::Destroyed { protocol, port }
                    } else if protocol == Protocol::Tcp && self.clients.replace(false) {
                        used = true;
                        SocketEvent::Used
                    } else {
                        continue;
                    }
                }
                Ok(Some(Err(_))) | Err(_) => SocketEvent::Overrun,
            };
            pending.push_back(event);
        }
        used
    }
}

fn socket_of(answer: Answer<'_>) -> Option<Result<Socket, crate::wire::WireError>> {
    match answer {
        Answer::Data(payload) => Some(Socket::decode(payload)),
        _ => None,
    }
}

fn protocol_of(socket: &Socket) -> Protocol {
    match socket.protocol {
        Some(IPPROTO_UDP) => Protocol::Udp,
        _ => Protocol::Tcp,
    }
}

/// Attaches the finest filter that the kernel takes, and says once that it is another sort than before.
fn sift(
    fd: &OwnedFd,
    ports: &BTreeSet<u16>,
    clients: bool,
    before: SocketFilter,
) -> io::Result<SocketFilter> {
    let Err(refused) = attach(fd, &destroy_filter(ports, clients)) else {
        return Ok(SocketFilter::Ports);
    };
    let (sieve, wakes) = match attach(fd, &unconnected_filter()) {
        Ok(()) => (
            SocketFilter::Connections,
            "every listener that closes wakes us",
        ),
        Err(_) => {
            // The filter before lets the wrong ports through.
            match setsockopt(fd, DetachFilter, &0) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
            (SocketFilter::Nothing, "every socket that closes wakes us")
        }
    };
    if sieve != before {
        log::warn!(
            "the kernel takes no socket filter for {} ports ({refused}): {wakes}",
            ports.len()
        );
    }
    Ok(sieve)
}

/// Replaces the filter; the kernel does it in one step, or leaves the one before.
fn attach(fd: &OwnedFd, filter: &[FilterOp]) -> io::Result<()> {
    let mut ops: Vec<libc::sock_filter> = filter.iter().map(kernel_op).collect();
    let program = libc::sock_fprog {
        len: u16::try_from(ops.len()).map_err(io::Error::other)?,
        filter: ops.as_mut_ptr(),
    };
    // The kernel copies the program within the call, while `ops` is still there.
    Ok(setsockopt(fd, AttachFilter, &program)?)
}

fn kernel_op(op: &FilterOp) -> libc::sock_filter {
    libc::sock_filter {
        code: op.code,
        jt: op.jt,
        jf: op.jf,
        k: op.k,
    }
}

sockopt_impl!(
    /// A classic BPF program that sees every message before it is queued.
    AttachFilter,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_ATTACH_FILTER,
    libc::sock_fprog
);

sockopt_impl!(
    /// Takes the filter away; its value is not looked at.
    DetachFilter,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_DETACH_FILTER,
    libc::c_int
);

/// Bytes of notifications that may wait: about 400 of them.
const RECEIVE_BUFFER: usize = 1 << 20;
const DATAGRAM: usize = 4096;
/// More notifications than the buffer can hold.
const QUEUED_MAX: usize = 100_000;
