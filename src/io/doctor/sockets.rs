//! The listeners on the ports of monitors, by sock_diag.

use crate::app::Protocol;
use crate::doctor::{Case, Findings};
use crate::io::netlink::Socket;
use crate::io::sock_diag::own_inodes;
use crate::net::Family;
use crate::netlink::NetlinkError;
use crate::netlink::message::Request;
use crate::netlink::sock_diag::{self, TCP_CLOSE, TCP_LISTEN};
use nix::sys::socket::SockProtocol;
use std::collections::BTreeSet;

/// Fills in the listeners.
///
/// # Errors
/// The kernel does not list sockets.
pub(super) async fn look(case: &Case, findings: &mut Findings) -> Result<(), NetlinkError> {
    let mut netlink = Socket::open(SockProtocol::NetlinkSockDiag)?;
    let ports = case.ports();
    let of = |protocol| {
        let ports = ports.iter().filter(|(of, _)| *of == protocol);
        ports.map(|(_, port)| *port).collect::<BTreeSet<u16>>()
    };
    // Sent even without ports, to find out whether the kernel lists sockets.
    let tcp = of(Protocol::Tcp);
    let request = sock_diag::dump_tcp_listeners(&tcp)?;
    listeners(&mut netlink, Protocol::Tcp, &request, &tcp, findings).await?;
    let udp = of(Protocol::Udp);
    for family in Family::ALL.into_iter().filter(|_| !udp.is_empty()) {
        let request = sock_diag::dump(family, Protocol::Udp.number(), 1 << TCP_CLOSE, &udp)?;
        listeners(&mut netlink, Protocol::Udp, &request, &udp, findings).await?;
    }
    Ok(())
}

/// Adds the listeners of other processes to `findings`.
async fn listeners(
    netlink: &mut Socket,
    protocol: Protocol,
    request: &Request,
    ports: &BTreeSet<u16>,
    findings: &mut Findings,
) -> Result<(), NetlinkError> {
    let state = match protocol {
        Protocol::Tcp => TCP_LISTEN,
        Protocol::Udp => TCP_CLOSE,
    };
    let each = |_, payload: &[u8]| sock_diag::Socket::decode(payload).map(Some);
    let sockets = netlink.collect(request, each).await?;
    let own = own_inodes();
    for socket in sockets {
        let counts = socket.state == state && ports.contains(&socket.source_port);
        if counts && !own.contains(&socket.inode) {
            let port = (protocol, socket.source_port);
            let addrs = findings.listeners.entry(port).or_default();
            addrs.insert(socket.source);
        }
    }
    Ok(())
}
