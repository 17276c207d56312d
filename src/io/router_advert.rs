//! Router advertisements (RFC 4861 §4.2) on the links of unnumbered peers. Such a router knows its
//! neighbor by these alone. The router lifetime is 0: we are somebody to speak BGP with, nobody to send
//! packets through.
//!
//! Left out: answers to solicitations; we speak again soon enough.

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
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

/// Speaks on a set of interfaces.
pub struct Advertiser {
    executor: Rc<LocalExecutor<'static>>,
    links: BTreeMap<String, (Sender<()>, smol::Task<()>)>,
}

impl Advertiser {
    pub fn new(executor: &Rc<LocalExecutor<'static>>) -> Self {
        Self {
            executor: executor.clone(),
            links: BTreeMap::new(),
        }
    }

    /// From now on it speaks on these and on no others.
    pub fn set(&mut self, interfaces: &BTreeSet<String>) {
        self.links.retain(|name, _| interfaces.contains(name));
        for name in interfaces {
            if !self.links.contains_key(name) {
                let (again, asked) = channel::bounded(1);
                let task = self.executor.spawn(speak(name.clone(), asked));
                self.links.insert(name.clone(), (again, task));
            }
        }
    }

    /// Something changed in the network: a router that came up should not wait for us.
    pub fn again(&self) {
        for (again, _) in self.links.values() {
            // A full channel says it already.
            let _ = again.try_send(());
        }
    }
}

async fn speak(interface: String, again: Receiver<()>) {
    let mut socket = None;
    let mut complaint = None;
    loop {
        for _ in 0..BURST {
            let said = say(&interface, &mut socket).err();
            if said != complaint {
                match said {
                    Some(error) => log::warn!("{}", in_words(&interface, error)),
                    None => log::info!("router advertisements on {interface}: sent again"),
                }
                complaint = said;
            }
            Timer::after(BETWEEN).await;
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

/// One advertisement, and one solicitation: the router's own may be a while away.
fn say(interface: &str, socket: &mut Option<OwnedFd>) -> nix::Result<()> {
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
    // Whoever receives one with less drops it (RFC 4861 §6.1.2).
    sockopt::Ipv6MulticastHops.set(&socket, &255)?;
    Ok(socket)
}

fn in_words(interface: &str, error: nix::errno::Errno) -> String {
    let mut text = format!("no router advertisements on {interface}: {}", error.desc());
    if matches!(error, nix::errno::Errno::EPERM | nix::errno::Errno::EACCES) {
        text += " (they need CAP_NET_RAW); a router that knows us by its interface alone, as FRR's \
                 `neighbor eth0 interface`, will not speak to us";
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
/// After a change: one may be lost while the link is still coming up.
const BURST: u32 = 3;
const BETWEEN: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn what_is_missing_is_named() {
        let text = in_words("eth0", Errno::EPERM);
        assert!(
            text.contains("eth0") && text.contains("CAP_NET_RAW"),
            "{text}"
        );
        assert!(!in_words("eth0", Errno::ENODEV).contains("CAP_NET_RAW"));
    }
}
