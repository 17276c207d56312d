//! The moment a kernel's table changes: a netlink listener in the test's own process, for figures that
//! a spawned `ip` would blur by milliseconds.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt::ReceiveTimeout;
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
        Self { socket }
    }

    /// What became of the host route to this address, counted from changes not yet waited for.
    pub fn seen(&self, address: IpAddr) -> Vec<Change> {
        let mut space = [0; 32 * 1024];
        let mut seen = Vec::new();
        while let Ok(length) = recv(self.socket.as_raw_fd(), &mut space, MsgFlags::empty()) {
            let received = space.get(..length).unwrap_or_default();
            for message in messages(received) {
                let changes = [Change::Added, Change::Removed].into_iter();
                seen.extend(changes.filter(|change| is(message, *change, address)));
            }
        }
        seen
    }

    /// When the host route to this address is added or removed, counted from changes not yet waited for.
    #[track_caller]
    pub fn wait(&self, change: Change, address: IpAddr, limit: Duration) -> Instant {
        let begun = Instant::now();
        let mut space = [0; 32 * 1024];
        loop {
            match recv(self.socket.as_raw_fd(), &mut space, MsgFlags::empty()) {
                Ok(length) => {
                    let now = Instant::now();
                    let received = space.get(..length).unwrap_or_default();
                    if messages(received).any(|message| is(message, change, address)) {
                        return now;
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => panic!("listening to routes: {error}"),
            }
            assert!(
                begun.elapsed() < limit,
                "waited {limit:?} in vain: {address} {change:?}"
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

/// Whether this is about the host route to `address` in the main table: `struct rtmsg`
/// (linux/rtnetlink.h), then attributes, of which RTA_DST holds the address.
fn is((kind, body): (u16, &[u8]), change: Change, address: IpAddr) -> bool {
    let wanted = match change {
        Change::Added => libc::RTM_NEWROUTE,
        Change::Removed => libc::RTM_DELROUTE,
    };
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let bits = octets.len() * 8;
    let length = body.get(1).copied().map(usize::from);
    let table = body.get(4).copied();
    let holds = body.get(12..).unwrap_or_default();
    kind == wanted
        && length == Some(bits)
        && table == Some(libc::RT_TABLE_MAIN)
        && holds.windows(octets.len()).any(|window| window == octets)
}

/// RTMGRP_IPV4_ROUTE and RTMGRP_IPV6_ROUTE.
const GROUPS: u32 = 0x40 | 0x400;
