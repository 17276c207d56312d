//! The moment a kernel's table changes: a netlink listener in the test's own process, for figures that
//! a spawned `ip` would blur by milliseconds.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
    socket,
};
use nix::sys::time::TimeVal;

use crate::net::Namespace;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Added,
    Removed,
}

/// Route changes of one namespace.
pub struct Routes {
    socket: OwnedFd,
}

impl Routes {
    /// Listens from now on.
    pub fn listen(namespace: &Namespace) -> Self {
        let socket = namespace
            .enter(|| {
                socket(
                    AddressFamily::Netlink,
                    SockType::Raw,
                    SockFlag::SOCK_CLOEXEC,
                    SockProtocol::NetlinkRoute,
                )
            })
            .expect("a netlink socket");
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS)).expect("anybody may listen");
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(0, 50_000)).expect("a timeout");
        // Room for a thousand routes that are removed at once, before the socket is read.
        setsockopt(&socket, RcvBufForce, &(16 << 20)).expect("root may");
        Self { socket }
    }

    /// What became of the host route to this address, counted from changes not yet waited for.
    pub fn seen(&self, address: IpAddr) -> Vec<Change> {
        let mut space = [0; 32 * 1024];
        let mut seen = Vec::new();
        while let Ok(length) = recv(self.socket.as_raw_fd(), &mut space, MsgFlags::empty()) {
            let received = space.get(..length).unwrap_or_default();
            let changes = messages(received).filter_map(host_route);
            let of_it = changes.filter(|(_, found)| *found == address);
            seen.extend(of_it.map(|(change, _)| change));
        }
        seen
    }

    /// When the host route to this address is added or removed, counted from changes not yet waited for.
    #[track_caller]
    pub fn wait(&self, change: Change, address: IpAddr, limit: Duration) -> Instant {
        self.wait_for_all(change, BTreeSet::from([address]), limit)
    }

    /// The same, for the last of these changes.
    #[track_caller]
    pub fn wait_for_all(
        &self,
        change: Change,
        mut addresses: BTreeSet<IpAddr>,
        limit: Duration,
    ) -> Instant {
        let begun = Instant::now();
        let mut space = [0; 32 * 1024];
        loop {
            match recv(self.socket.as_raw_fd(), &mut space, MsgFlags::empty()) {
                Ok(length) => {
                    let now = Instant::now();
                    let received = space.get(..length).unwrap_or_default();
                    let changes = messages(received).filter_map(host_route);
                    for (_, address) in changes.filter(|(found, _)| *found == change) {
                        addresses.remove(&address);
                    }
                    if addresses.is_empty() {
                        return now;
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => panic!("listening to routes: {error}"),
            }
            assert!(
                begun.elapsed() < limit,
                "waited {limit:?} in vain: {addresses:?} {change:?}"
            );
        }
    }
}

/// The messages of a datagram, each as its type and what follows the header (linux/netlink.h).
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let length = usize::try_from(length).ok()?;
        let body = bytes.get(16..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// What became of a host route in the main table: `struct rtmsg` (linux/rtnetlink.h), then attributes, of
/// which RTA_DST holds the address.
fn host_route((kind, body): (u16, &[u8])) -> Option<(Change, IpAddr)> {
    let change = match kind {
        libc::RTM_NEWROUTE => Change::Added,
        libc::RTM_DELROUTE => Change::Removed,
        _ => return None,
    };
    let table = *body.get(4)?;
    let mut attributes = body.get(12..)?;
    while let Some(head) = attributes.get(..4) {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        if u16::from_ne_bytes([head[2], head[3]]) == libc::RTA_DST {
            let octets = attributes.get(4..length)?;
            let address = match <[u8; 4]>::try_from(octets) {
                Ok(octets) => IpAddr::from(octets),
                Err(_) => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
            };
            let is_host = usize::from(*body.get(1)?) == octets.len() * 8;
            return (is_host && table == libc::RT_TABLE_MAIN).then_some((change, address));
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
    None
}

/// RTMGRP_IPV4_ROUTE and RTMGRP_IPV6_ROUTE.
const GROUPS: u32 = 0x40 | 0x400;
