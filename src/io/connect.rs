//! A TCP connection whose socket is made, bound and given its options before it connects.

use nix::errno::Errno;
use nix::sys::socket::{
    self as nixsocket, AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6,
};
use smol::Async;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

/// A socket of the address's family, neither blocking nor inherited by children.
pub fn socket(to: SocketAddr) -> nix::Result<OwnedFd> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    nixsocket::socket(family, SockType::Stream, flags, None)
}

/// Sets the source address.
pub fn bind(fd: &OwnedFd, local: SocketAddr) -> nix::Result<()> {
    match local {
        SocketAddr::V4(addr) => nixsocket::bind(fd.as_raw_fd(), &SockaddrIn::from(addr)),
        SocketAddr::V6(addr) => nixsocket::bind(fd.as_raw_fd(), &SockaddrIn6::from(addr)),
    }
}

/// Connects and waits until that has succeeded or failed, without a timeout.
pub async fn connect(fd: OwnedFd, to: SocketAddr) -> io::Result<Async<TcpStream>> {
    let started = match to {
        SocketAddr::V4(addr) => nixsocket::connect(fd.as_raw_fd(), &SockaddrIn::from(addr)),
        SocketAddr::V6(addr) => nixsocket::connect(fd.as_raw_fd(), &SockaddrIn6::from(addr)),
    };
    match started {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = Async::new_nonblocking(TcpStream::from(fd))?;
    stream.writable().await?;
    match stream.get_ref().take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}
