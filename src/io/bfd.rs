//! The UDP sockets of BFD: one to receive on for each family and number of hops, one to send from for
//! each session (RFC 5881 §4, §5; RFC 5883 §5).
//!
//! The loop receives when it wakes and before it evaluates detection timers: packets that waited in the
//! kernel while the machine was busy must not count as lost.

use crate::core::BfdPath;
use crate::discovery::PeerName;
use crate::timer::Rng;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    self as nixsocket, AddressFamily, ControlMessageOwned, MsgFlags, SetSockOpt, SockFlag,
    SockType, SockaddrIn, SockaddrIn6, SockaddrStorage, sockopt,
};
use smol::Async;
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::task::Poll;

/// All BFD sockets. Without a session there is none.
pub struct BfdSockets {
    receivers: Vec<(ReceiverKey, Async<UdpSocket>)>,
    senders: Vec<Sender>,
    /// The last logged error for each receiving socket that could not be opened.
    open_errors: Vec<(ReceiverKey, String)>,
    rng: Rng,
}

/// What a socket receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReceiverKey {
    port: u16,
    multihop: bool,
    ipv4: bool,
}

struct Sender {
    peer: PeerName,
    path: BfdPath,
    socket: UdpSocket,
}

/// One packet, its TTL checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub from: SocketAddr,
    pub multihop: bool,
    pub bytes: Vec<u8>,
}

impl BfdSockets {
    /// The seed chooses source ports.
    pub fn new(seed: u64) -> Self {
        Self {
            receivers: Vec::new(),
            senders: Vec::new(),
            open_errors: Vec::new(),
            rng: Rng::new(seed),
        }
    }

    /// Sends one packet, and opens the receiving socket. Failures are retried with the next packet; an
    /// unreachable peer shows by the detection time.
    pub fn send(&mut self, peer: &PeerName, path: BfdPath, bytes: &[u8]) {
        self.listen(path);
        let known = |sender: &&Sender| sender.peer == *peer && sender.path == path;
        let sent = match self.senders.iter().find(known) {
            Some(sender) => sender.socket.send_to(bytes, path.remote),
            None => self.open_sender(path).and_then(|socket| {
                self.close(peer);
                let sent = socket.send_to(bytes, path.remote);
                let peer = peer.clone();
                self.senders.push(Sender { peer, path, socket });
                sent
            }),
        };
        if let Err(error) = sent {
            log::debug!("peer {peer}: cannot send a BFD packet: {error}");
        }
    }

    /// Closes the sending socket of this peer.
    pub fn close(&mut self, peer: &PeerName) {
        self.senders.retain(|sender| sender.peer != *peer);
    }

    /// Waits until a packet has arrived.
    pub async fn readable(&self) {
        let sockets = self.receivers.iter();
        let mut waits: Vec<_> = sockets
            .map(|(_, socket)| Box::pin(socket.readable()))
            .collect();
        poll_fn(|cx| {
            let ready = waits
                .iter_mut()
                .any(|wait| wait.as_mut().poll(cx).is_ready());
            if ready {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Reads waiting packets, `MAX_DATAGRAMS_PER_TURN` from each socket at most.
    pub fn receive(&self, mut take: impl FnMut(Datagram)) {
        for (key, socket) in &self.receivers {
            for _ in 0..MAX_DATAGRAMS_PER_TURN {
                match receive(*key, socket.get_ref()) {
                    Ok(datagram) => datagram.into_iter().for_each(&mut take),
                    Err(_) => break,
                }
            }
        }
    }

    fn listen(&mut self, path: BfdPath) {
        let key = ReceiverKey {
            port: path.remote.port(),
            multihop: path.multihop,
            ipv4: path.remote.is_ipv4(),
        };
        if self.receivers.iter().any(|(known, _)| *known == key) {
            return;
        }
        match open_receiver(key) {
            Ok(socket) => {
                self.open_errors.retain(|(failed, _)| *failed != key);
                self.receivers.push((key, socket));
            }
            Err(error) => {
                let failed = (key, open_error_text(key, &error));
                if !self.open_errors.contains(&failed) {
                    log::error!("{}", failed.1);
                    self.open_errors.retain(|(earlier, _)| *earlier != key);
                    self.open_errors.push(failed);
                }
            }
        }
    }

    /// Bound to a port of its own in the range that RFC 5881 §4 asks for.
    fn open_sender(&mut self, path: BfdPath) -> io::Result<UdpSocket> {
        let ipv4 = path.remote.is_ipv4();
        let fd = open(ipv4)?;
        // CS6, network control; errors are ignored.
        let _ = if ipv4 {
            sockopt::Ipv4Tos.set(&fd, &DSCP_CS6)
        } else {
            sockopt::Ipv6TClass.set(&fd, &DSCP_CS6)
        };
        if ipv4 {
            sockopt::Ipv4Ttl.set(&fd, &libc::c_int::from(TTL))?;
        } else {
            sockopt::Ipv6Ttl.set(&fd, &libc::c_int::from(TTL))?;
        }
        let local = path.local.unwrap_or_else(|| unspecified(ipv4));
        let span = SOURCE_PORTS.1 - SOURCE_PORTS.0 + 1;
        for _ in 0..PORT_TRIES {
            let step = u16::try_from(self.rng.below(span.into())).unwrap_or(0);
            match bind(&fd, SocketAddr::new(local, SOURCE_PORTS.0 + step)) {
                Ok(()) => return Ok(UdpSocket::from(fd)),
                Err(Errno::EADDRINUSE) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::EADDRINUSE.into())
    }
}

fn open_receiver(key: ReceiverKey) -> io::Result<Async<UdpSocket>> {
    let fd = open(key.ipv4)?;
    if key.ipv4 {
        sockopt::Ipv4RecvTtl.set(&fd, &true)?;
    } else {
        sockopt::Ipv6V6Only.set(&fd, &true)?;
        sockopt::Ipv6RecvHopLimit.set(&fd, &true)?;
    }
    // No SO_REUSEPORT: the kernel would deal the packets out between the sockets.
    bind(&fd, SocketAddr::new(unspecified(key.ipv4), key.port))?;
    Async::new_nonblocking(UdpSocket::from(fd))
}

fn open(ipv4: bool) -> nix::Result<OwnedFd> {
    let family = if ipv4 {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    nixsocket::socket(family, SockType::Datagram, flags, None)
}

fn bind(fd: &OwnedFd, local: SocketAddr) -> nix::Result<()> {
    match local {
        SocketAddr::V4(addr) => nixsocket::bind(fd.as_raw_fd(), &SockaddrIn::from(addr)),
        SocketAddr::V6(addr) => nixsocket::bind(fd.as_raw_fd(), &SockaddrIn6::from(addr)),
    }
}

fn unspecified(ipv4: bool) -> IpAddr {
    if ipv4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}

/// One datagram; `None`: its TTL is too low, so it came over more hops than allowed.
fn receive(key: ReceiverKey, socket: &UdpSocket) -> nix::Result<Option<Datagram>> {
    let mut buffer = [0; MAX_PACKET_LEN];
    let mut control = nix::cmsg_space!(libc::c_int);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message = nixsocket::recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let ttl = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => Some(ttl),
        _ => None,
    });
    let from = message.address.and_then(|address| {
        let v4 = address
            .as_sockaddr_in()
            .map(|addr| SocketAddr::V4((*addr).into()));
        let v6 = || {
            address
                .as_sockaddr_in6()
                .map(|addr| SocketAddr::V6((*addr).into()))
        };
        v4.or_else(v6)
    });
    let length = message.bytes;
    let Some(from) = from else { return Ok(None) };
    if !key.multihop && ttl != Some(TTL.into()) {
        let ttl = ttl.map_or_else(|| "unknown".to_owned(), |ttl| ttl.to_string());
        log::debug!("BFD packet from {from} dropped: TTL {ttl}, not 255 (RFC 5881 section 5)");
        return Ok(None);
    }
    Ok(Some(Datagram {
        from,
        multihop: key.multihop,
        bytes: buffer.iter().take(length).copied().collect(),
    }))
}

fn open_error_text(key: ReceiverKey, error: &io::Error) -> String {
    let ReceiverKey { port, ipv4, .. } = key;
    let family = if ipv4 { "IPv4" } else { "IPv6" };
    if error.kind() == io::ErrorKind::AddrInUse {
        return format!(
            "BFD: cannot bind UDP port {port} ({family}): another BFD speaker (bfdd, BIRD, another sidecast) \
             uses it in this network namespace; BFD sessions stay down until it is free, BGP continues \
             without BFD"
        );
    }
    format!("BFD: cannot open UDP port {port} ({family}): {error}; BGP continues without BFD")
}

/// The TTL of sent packets, and the required TTL of received single-hop packets (RFC 5881 §5).
const TTL: u8 = 255;
/// DSCP CS6, shifted into the TOS byte.
const DSCP_CS6: libc::c_int = 0xc0;
/// RFC 5881 §4.
const SOURCE_PORTS: (u16, u16) = (49152, 65535);
const PORT_TRIES: usize = 64;
/// The length field is one byte.
const MAX_PACKET_LEN: usize = 255;
/// Datagrams taken from one socket in one turn.
const MAX_DATAGRAMS_PER_TURN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// A port of this test's own stands in for 3784, which the machine may use.
    fn path(remote: SocketAddr, multihop: bool) -> BfdPath {
        BfdPath {
            remote,
            local: Some(remote.ip()),
            multihop,
        }
    }

    fn name(addr: SocketAddr) -> PeerName {
        PeerName::new(addr.ip(), None)
    }

    fn free_port(addr: &str) -> Option<SocketAddr> {
        UdpSocket::bind((addr, 0)).ok()?.local_addr().ok()
    }

    fn received(sockets: &BfdSockets) -> Vec<Datagram> {
        let mut received = Vec::new();
        let begun = Instant::now();
        while received.is_empty() && begun.elapsed() < Duration::from_secs(1) {
            sockets.receive(|datagram| received.push(datagram));
        }
        received
    }

    #[test]
    fn a_packet_goes_out_with_ttl_255_from_the_right_range_and_is_heard() {
        for addr in ["127.0.0.1", "::1"] {
            let Some(to) = free_port(addr) else { continue };
            let mut sockets = BfdSockets::new(1);
            sockets.send(&name(to), path(to, false), b"hello");
            sockets.send(&name(to), path(to, false), b"again");
            smol::block_on(sockets.readable());
            let received = received(&sockets);
            assert_eq!(
                received.len(),
                2,
                "its own receiver is on that port, TTL 255"
            );
            assert_eq!(received[0].bytes, b"hello");
            assert!(received[0].from.port() >= 49152);
            assert_eq!(received[0].from, received[1].from, "one port for a session");
        }
    }

    #[test]
    fn over_one_hop_a_lower_ttl_is_dropped_and_over_several_it_is_not() {
        for (multihop, want) in [(false, 0), (true, 1)] {
            let to = free_port("127.0.0.1").unwrap();
            let mut sockets = BfdSockets::new(2);
            sockets.listen(path(to, multihop));
            let remote = UdpSocket::bind("127.0.0.1:0").unwrap();
            remote.set_ttl(254).unwrap();
            remote.send_to(b"from afar", to).unwrap();
            assert_eq!(received(&sockets).len(), want, "multihop {multihop}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_named_and_tried_again() {
        let other = UdpSocket::bind("0.0.0.0:0").unwrap();
        let to = SocketAddr::from(([127, 0, 0, 1], other.local_addr().unwrap().port()));
        let mut sockets = BfdSockets::new(3);
        sockets.listen(path(to, false));
        let report = &sockets.open_errors[0].1;
        assert!(report.contains("another BFD speaker"), "{report}");
        drop(other);
        sockets.listen(path(to, false));
        assert!(sockets.open_errors.is_empty() && sockets.receivers.len() == 1);
    }
}
