//! Services that answer with their host's name, over TCP and UDP, IPv4 and IPv6: processes of their
//! own, so that they can be killed.

use std::io::{IoSlice, IoSliceMut, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::sockopt::Ipv6RecvPacketInfo;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt,
};

use crate::child::Child;
use crate::net::Namespace;
use crate::probe::{ask_tcp, ask_udp};
use crate::until::until;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

/// A service on the wildcard address of both families. Answers every connection or datagram with a name.
pub struct Service {
    namespace_name: String,
    transport: Transport,
    port: u16,
    child: Child,
}

impl Service {
    /// Starts it and waits until it answers on the loopback address.
    #[track_caller]
    pub fn start(namespace: &Namespace, transport: Transport, port: u16) -> Self {
        let name = namespace.name();
        let kind = match transport {
            Transport::Tcp => TCP,
            Transport::Udp => UDP,
        };
        let child = Child::start(
            namespace,
            &format!("{name}-{transport:?}-{port}"),
            "/proc/self/exe",
            &[kind, name, &port.to_string()],
            &[],
        );
        let local = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        until(
            Duration::from_secs(60),
            "the service answers",
            || match transport {
                Transport::Tcp => ask_tcp(namespace, local),
                Transport::Udp => ask_udp(namespace, local),
            },
        );
        Self {
            namespace_name: name.to_owned(),
            transport,
            port,
            child,
        }
    }

    /// SIGKILL. The kernel has closed its sockets when this returns.
    pub fn kill(&mut self) {
        self.child.kill();
    }

    /// SIGSTOP or SIGCONT: hangs or resumes it.
    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    /// Starts it again after [`Service::kill`].
    #[track_caller]
    pub fn restart(&mut self, namespace: &Namespace) {
        assert_eq!(namespace.name(), self.namespace_name, "the same host");
        self.kill();
        *self = Self::start(namespace, self.transport, self.port);
    }
}

/// The service process: serves forever.
pub(crate) fn serve(kind: &str, name: &str, port: &str) -> std::io::Result<()> {
    let port: u16 = port.parse().map_err(std::io::Error::other)?;
    let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    if kind == TCP {
        let listener = TcpListener::bind(everywhere)?;
        loop {
            let (mut stream, _) = listener.accept()?;
            // A client that closed the connection is no error.
            let _ = stream.write_all(name.as_bytes());
        }
    }
    serve_udp(&UdpSocket::bind(everywhere)?, name)
}

/// Answers from the address that was asked: on the wildcard address the kernel would choose another one
/// than the VIP. One socket of the IPv6 kind carries IPv4 too, as mapped addresses.
fn serve_udp(socket: &UdpSocket, name: &str) -> std::io::Result<()> {
    setsockopt(socket, Ipv6RecvPacketInfo, &true)?;
    loop {
        let mut space = [0; 512];
        let mut control = nix::cmsg_space!(nix::libc::in6_pktinfo);
        let mut buffers = [IoSliceMut::new(&mut space)];
        let received = recvmsg::<SockaddrIn6>(
            socket.as_raw_fd(),
            &mut buffers,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let asked = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv6PacketInfo(mut info) => {
                // The answer goes out where the routes say.
                info.ipi6_ifindex = 0;
                Some(info)
            }
            _ => None,
        });
        let info = asked.ok_or_else(|| std::io::Error::other("no packet info"))?;
        // The client may be gone: an ICMP error is no reason to stop serving.
        let _ = sendmsg(
            socket.as_raw_fd(),
            &[IoSlice::new(name.as_bytes())],
            &[ControlMessage::Ipv6PacketInfo(&info)],
            MsgFlags::empty(),
            received.address.as_ref(),
        );
    }
}

/// First arguments by which the test binary knows that it is to be a service.
pub(crate) const TCP: &str = "--lab-tcp";
pub(crate) const UDP: &str = "--lab-udp";
