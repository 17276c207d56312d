//! Listening sockets for BGP peers. The core decides which peer an accepted connection belongs to.

use crate::io::{bgp, sockopt};
use nix::sys::socket::{
    self as nixsocket, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6,
};
use smol::LocalExecutor;
use smol::channel::Sender;
use smol::future::FutureExt;
use smol::{Async, Timer};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

/// An accepted connection.
pub struct AcceptedConnection {
    pub stream: Async<TcpStream>,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// The listener's settings for one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpectedPeer {
    /// TCP MD5 key (RFC 2385): segments of this peer without the signature are dropped, its SYN
    /// included.
    pub password: Option<Vec<u8>>,
    /// RFC 5082.
    pub ttl_security: Option<u8>,
}

/// The sockets of one address; `[::]` has one for each family. Dropping it stops listening.
pub struct BgpListener {
    sockets: Vec<(Rc<Async<TcpListener>>, bool)>,
    expected: BTreeMap<IpAddr, ExpectedPeer>,
    _tasks: Vec<smol::Task<()>>,
}

impl BgpListener {
    /// Accepted connections go to `accepted`; its capacity bounds how many wait.
    pub fn open(
        executor: &LocalExecutor<'static>,
        addr: SocketAddr,
        accepted: &Sender<AcceptedConnection>,
    ) -> io::Result<Self> {
        let mut sockets = Vec::new();
        for addr in addresses(addr) {
            match listen(addr) {
                Ok(socket) => sockets.push((Rc::new(socket), addr.is_ipv4())),
                // A host without IPv6.
                Err(error)
                    if addr.ip().is_unspecified()
                        && error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => {}
                Err(error) => return Err(error),
            }
        }
        let task = |(socket, _): &(Rc<Async<TcpListener>>, bool)| {
            executor.spawn(accept_all(socket.clone(), accepted.clone()).boxed_local())
        };
        Ok(Self {
            _tasks: sockets.iter().map(task).collect(),
            sockets,
            expected: BTreeMap::new(),
        })
    }

    /// Sets MD5 keys and minimum TTL for these peers, and removes those of others.
    pub fn set_expected_peers(&mut self, peers: BTreeMap<IpAddr, ExpectedPeer>) {
        let before = std::mem::take(&mut self.expected);
        let key_of = |peers: &BTreeMap<IpAddr, ExpectedPeer>, addr| {
            let expected: Option<&ExpectedPeer> = peers.get(addr);
            expected.and_then(|expected| expected.password.clone())
        };
        for addr in before.keys().chain(peers.keys()) {
            let (old, new) = (key_of(&before, addr), key_of(&peers, addr));
            if old != new {
                self.set_key(*addr, &new.unwrap_or_default());
            }
        }
        self.set_min_ttl(&peers);
        self.expected = peers;
    }

    fn set_key(&self, peer: IpAddr, key: &[u8]) {
        for (socket, ipv4) in &self.sockets {
            if *ipv4 != peer.is_ipv4() {
                continue;
            }
            match sockopt::set_md5_key(socket, peer, key) {
                // There was no key to remove.
                Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
                Err(error) => {
                    log::error!("cannot set the TCP MD5 key for connections from {peer}: {error}")
                }
            }
        }
    }

    /// A listening socket for all peers can only require the lowest TTL of all; each accepted connection gets its own.
    fn set_min_ttl(&self, peers: &BTreeMap<IpAddr, ExpectedPeer>) {
        for (socket, ipv4) in &self.sockets {
            let of_family = peers.iter().filter(|(addr, _)| addr.is_ipv4() == *ipv4);
            let least = of_family
                .map(|(_, expected)| expected.ttl_security.map_or(0, sockopt::min_ttl))
                .min();
            if let Err(error) = sockopt::set_min_ttl(socket, *ipv4, least.unwrap_or(0)) {
                log::warn!("cannot set TTL security on the BGP listening socket: {error}");
            }
        }
    }
}

/// IPv4 and IPv6 have options of their own, so they have sockets of their own.
fn addresses(addr: SocketAddr) -> Vec<SocketAddr> {
    let both = addr.is_ipv6() && addr.ip().is_unspecified();
    let ipv4 = both.then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port())));
    ipv4.into_iter().chain([addr]).collect()
}

fn listen(addr: SocketAddr) -> io::Result<Async<TcpListener>> {
    let family = if addr.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd: OwnedFd = nixsocket::socket(family, SockType::Stream, flags, None)?;
    sockopt::set_listener_options(&fd, addr.is_ipv4())?;
    match addr {
        SocketAddr::V4(addr) => nixsocket::bind(fd.as_raw_fd(), &SockaddrIn::from(addr))?,
        SocketAddr::V6(addr) => nixsocket::bind(fd.as_raw_fd(), &SockaddrIn6::from(addr))?,
    }
    nixsocket::listen(&fd, Backlog::new(BACKLOG)?)?;
    Async::new_nonblocking(TcpListener::from(fd))
}

async fn accept_all(listener: Rc<Async<TcpListener>>, accepted: Sender<AcceptedConnection>) {
    loop {
        match accept(&listener).await {
            Ok(connection) => {
                if accepted.send(connection).await.is_err() {
                    return;
                }
            }
            Err(error) => log::debug!("cannot accept a BGP connection: {error}"),
        }
        // A flood of connections must not starve the other tasks of the loop.
        Timer::after(ACCEPT_INTERVAL).await;
    }
}

async fn accept(listener: &Async<TcpListener>) -> io::Result<AcceptedConnection> {
    let (stream, remote) = listener.read_with(TcpListener::accept).await?;
    Ok(AcceptedConnection {
        local: stream.local_addr()?,
        stream: bgp::accepted(stream)?,
        remote,
    })
}

/// Connections that may wait in the kernel.
const BACKLOG: i32 = 32;
const ACCEPT_INTERVAL: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_a_socket_for_each_family() {
        let of = |text: &str| -> Vec<String> {
            let addrs = addresses(text.parse().unwrap());
            addrs.iter().map(SocketAddr::to_string).collect()
        };
        assert_eq!(of("[::]:179"), ["0.0.0.0:179", "[::]:179"]);
        assert_eq!(of("0.0.0.0:179"), ["0.0.0.0:179"]);
        assert_eq!(of("10.0.0.2:1179"), ["10.0.0.2:1179"]);
    }

    #[test]
    fn keys_come_and_go_with_the_peers() {
        let executor = LocalExecutor::new();
        let (accepted, _connections) = smol::channel::bounded(1);
        // Port 0: whatever is free.
        let addr = "127.0.0.1:0".parse().unwrap();
        let mut acceptor = BgpListener::open(&executor, addr, &accepted).unwrap();
        let peer: IpAddr = "127.0.0.1".parse().unwrap();
        let signed = ExpectedPeer {
            password: Some(b"secret".to_vec()),
            ttl_security: Some(1),
        };
        let connects = |acceptor: &BgpListener| {
            let to = acceptor.sockets[0].0.get_ref().local_addr().unwrap();
            TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok()
        };
        assert!(connects(&acceptor));
        acceptor.set_expected_peers(BTreeMap::from_iter([(peer, signed)]));
        assert!(!connects(&acceptor), "without a signature");
        acceptor.set_expected_peers(BTreeMap::from_iter([(peer, ExpectedPeer::default())]));
        assert!(connects(&acceptor));
        acceptor.set_expected_peers(BTreeMap::new());
        assert!(connects(&acceptor));
    }
}
