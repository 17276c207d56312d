//! Clients that send real packets.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::net::Namespace;

/// Connects from `namespace` and returns the name of the host that answered.
pub fn ask_tcp(namespace: &Namespace, to: SocketAddr) -> std::io::Result<String> {
    let mut stream = namespace.enter(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut name = String::new();
    stream.read_to_string(&mut name)?;
    Ok(name)
}

/// Sends a datagram from `namespace` and returns the name of the host that answered. Only an answer from
/// the address that was asked counts.
pub fn ask_udp(namespace: &Namespace, to: SocketAddr) -> std::io::Result<String> {
    let from = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = namespace.enter(|| UdpSocket::bind(from))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"who?")?;
    let mut space = [0; 512];
    let length = receive(&socket, &mut space)?;
    let name = space.get(..length).unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// The next datagram of a socket with a time limit: `recv` does not go on after a signal, which a machine that is frozen and
/// thawed sends too.
pub fn receive(socket: &UdpSocket, space: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match socket.recv(space) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => return received,
        }
    }
}

/// The timeout of one request: short, so that a lost packet does not delay the next request for long.
const PATIENCE: Duration = Duration::from_millis(300);
