//! Router advertisements (RFC 4861 §4.2) on the links of unnumbered peers. Such a router learns
//! its neighbor's address from them. The router lifetime is 0: this host is a BGP neighbor, not a default
//! router.
//!
//! Left out: answers to router solicitations; advertisements are sent every 10 s.

use crate::io::sockopt::{Icmp6Blocked, Icmp6Filter, Ipv6MulticastLoop};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    self as nixsocket, AddressFamily, MsgFlags, SetSockOpt, SockFlag, SockProtocol, SockType,
    SockaddrIn6, sockopt,
};
use smol::LocalExecutor;
use smol::Timer;
use smol::channel::{self, Receiver, Sender};
use smol::future::FutureExt;
use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

/// Sends router advertisements on a set of interfaces.
pub struct RouterAdvertiser {
    executor: Rc<LocalExecutor<'static>>,
    links: Vec<(String, Sender<()>, smol::Task<()>)>,
}

impl RouterAdvertiser {
    /// Sends on no interface yet.
    pub fn new(executor: &Rc<LocalExecutor<'static>>) -> Self {
        Self {
            executor: executor.clone(),
            links: Vec::new(),
        }
    }

    /// Sends on these interfaces from now on, and on no others.
    pub fn set(&mut self, interfaces: &BTreeSet<String>) {
        self.links.retain(|(name, ..)| interfaces.contains(name));
        for name in interfaces {
            if self.links.iter().all(|(known, ..)| known != name) {
                let (again, asked) = channel::bounded(1);
                let task = self
                    .executor
                    .spawn(advertise(name.clone(), asked).boxed_local());
                self.links.push((name.clone(), again, task));
            }
        }
    }

    /// Sends at once: the network changed, and a router may have come up.
    pub fn advertise_now(&self) {
        for (_, again, _) in &self.links {
            // If the channel is full, a request is pending already.
            let _ = again.try_send(());
        }
    }
}

async fn advertise(interface: String, again: Receiver<()>) {
    let mut socket = None;
    let mut last_error = None;
    loop {
        for _ in 0..BURST {
            let error = send_advertisement(&interface, &mut socket).err();
            if error != last_error {
                match error {
                    Some(error) => log::warn!("{}", error_text(&interface, error)),
                    None => log::info!("router advertisements on {interface}: sending again"),
                }
                last_error = error;
            }
            Timer::after(BURST_INTERVAL).await;
        }
        let asked = async {
            let _ = again.recv().await;
        };
        let due = async {
            Timer::after(INTERVAL).await;
        };
        asked.or(due).await;
    }
}

/// Sends one advertisement and one solicitation, so that the router advertises itself soon.
fn send_advertisement(interface: &str, socket: &mut Option<OwnedFd>) -> nix::Result<()> {
    let index = if_nametoindex(interface)?;
    let socket = match socket {
        Some(socket) => socket,
        None => socket.insert(open()?),
    };
    for (message, group) in [
        (&ADVERTISEMENT[..], ALL_NODES),
        (&SOLICITATION, ALL_ROUTERS),
    ] {
        let to = SockaddrIn6::from(SocketAddrV6::new(group, 0, 0, index));
        nixsocket::sendto(socket.as_raw_fd(), message, &to, MsgFlags::MSG_DONTWAIT)?;
    }
    Ok(())
}

/// The kernel writes the checksum, and takes the interface's link-local address as the source.
fn open() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let protocol = SockProtocol::IcmpV6;
    let socket = nixsocket::socket(AddressFamily::Inet6, SockType::Raw, flags, protocol)?;
    Icmp6Filter.set(&socket, &Icmp6Blocked::ALL)?;
    Ipv6MulticastLoop.set(&socket, &false)?;
    // Receivers drop advertisements with less (RFC 4861 §6.1.2).
    sockopt::Ipv6MulticastHops.set(&socket, &255)?;
    Ok(socket)
}

fn error_text(interface: &str, error: nix::errno::Errno) -> String {
    let mut text = format!(
        "cannot send router advertisements on {interface}: {}",
        error.desc()
    );
    if matches!(error, nix::errno::Errno::EPERM | nix::errno::Errno::EACCES) {
        text += " (CAP_NET_RAW is required); a router with an unnumbered neighbor, as FRR's \
                 `neighbor eth0 interface`, will not connect";
    }
    text
}

/// Type 134: hop limit, flags, router lifetime, reachable time and retransmission timer, all
/// unspecified or 0.
const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Type 133 (RFC 4861 §4.1).
const SOLICITATION: [u8; 8] = [133, 0, 0, 0, 0, 0, 0, 0];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Advertisements after a change: one may be lost while the link is coming up.
const BURST: u32 = 3;
const BURST_INTERVAL: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn what_is_missing_is_named() {
        let text = error_text("eth0", Errno::EPERM);
        assert!(
            text.contains("eth0") && text.contains("CAP_NET_RAW"),
            "{text}"
        );
        assert!(!error_text("eth0", Errno::ENODEV).contains("CAP_NET_RAW"));
    }
}
