//! What changes in the kernel's tables, as it happens.

use super::socket::{Socket, failed};
use crate::net::Prefix;
use crate::netlink::NetlinkError;
use crate::netlink::address::{Address, IFAPROT_SIDECAST, RTM_DELADDR, RTM_NEWADDR};
use crate::netlink::link::{RTM_DELLINK, RTM_NEWLINK};
use crate::netlink::message::{Message, Messages};
use crate::netlink::neighbour::{Neighbour, RTM_DELNEIGH, RTM_NEWNEIGH};
use crate::netlink::route::{
    RT_TABLE_LOCAL, RT_TABLE_MAIN, RTM_DELROUTE, RTM_NEWROUTE, RTPROT_SIDECAST, Route,
};
use nix::libc;
use nix::sys::socket::SockProtocol;
use std::collections::VecDeque;
use std::io;

/// One change. What we do ourselves is not reported, but for removals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// An interface came, went, or changed its state.
    Link,
    /// An address came, or this one went: an IPv6 prefix's `local` route counts as one.
    Address { removed: Option<Prefix> },
    /// A route of the main table.
    Route,
    /// A router among the IPv6 neighbours came or went.
    Neighbour,
    /// Changes were lost: look at everything again.
    Overrun,
}

/// A subscription to changes, in the network namespace of the thread that opens it.
pub struct Changes {
    socket: Socket,
    queue: VecDeque<Change>,
    /// Our own additions count too.
    own: bool,
}

impl Changes {
    /// `neighbours` is for unnumbered peers only: on a busy link there are many of these changes.
    pub fn open(neighbours: bool) -> Result<Self, NetlinkError> {
        let socket = Socket::open(SockProtocol::NetlinkRoute)?;
        socket.receive_buffer(RECEIVE_BUFFER);
        socket.join(&[
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
        ])?;
        if neighbours {
            socket.join(&[libc::RTNLGRP_NEIGH])?;
        }
        Ok(Self {
            socket,
            queue: VecDeque::new(),
            own: false,
        })
    }

    /// Reports also what sidecast itself adds.
    #[must_use]
    pub fn with_own(self) -> Self {
        Self { own: true, ..self }
    }

    /// Waits for the next change. Dropping the future loses none.
    pub async fn next(&mut self) -> Result<Change, NetlinkError> {
        loop {
            if let Some(change) = self.queue.pop_front() {
                return Ok(change);
            }
            match self.socket.receive().await {
                Ok(length) => self.read(length),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.overrun()?,
                Err(error) => return Err(failed(&error, REQUEST)),
            }
        }
    }

    fn read(&mut self, length: usize) {
        let own = self.own;
        let datagram = Messages::new(self.socket.received(length));
        // A message that cannot be read may have been anything.
        let changes = datagram.filter_map(|m| m.map_or(Some(Change::Overrun), |m| change(&m, own)));
        self.queue.extend(changes);
    }

    /// The kernel drops everything, without another word, until the queue was empty once: only what is
    /// looked at after that is followed by changes again.
    fn overrun(&mut self) -> Result<(), NetlinkError> {
        for _ in 0..QUEUED_MAX {
            match self.socket.try_receive() {
                Ok(length) => self.read(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(failed(&error, REQUEST)),
            }
        }
        // Looking again tells all but what went and was put there by us.
        let removed = |c: &Change| matches!(c, Change::Address { removed: Some(_) });
        self.queue.retain(removed);
        self.queue.push_back(Change::Overrun);
        Ok(())
    }
}

fn change(message: &Message<'_>, own: bool) -> Option<Change> {
    match message.kind {
        RTM_NEWLINK | RTM_DELLINK => Some(Change::Link),
        RTM_NEWADDR | RTM_DELADDR => {
            let removed = message.kind == RTM_DELADDR;
            let Ok(address) = Address::decode(message.payload) else {
                return Some(Change::Overrun);
            };
            let address = address?;
            if removed {
                let removed = address.vip();
                return Some(Change::Address { removed });
            }
            // Our own renewals.
            let ours = address.proto == Some(IFAPROT_SIDECAST);
            (own || !ours).then_some(Change::Address { removed: None })
        }
        RTM_NEWROUTE | RTM_DELROUTE => {
            let Ok(route) = Route::decode(message.payload) else {
                return Some(Change::Overrun);
            };
            let route = route?;
            if route.table == RT_TABLE_MAIN {
                return Some(Change::Route);
            }
            let ours = route.table == RT_TABLE_LOCAL && route.protocol == RTPROT_SIDECAST;
            let removed = route.dst.filter(|_| ours && message.kind == RTM_DELROUTE)?;
            Some(Change::Address {
                removed: Some(removed),
            })
        }
        RTM_NEWNEIGH | RTM_DELNEIGH => {
            let Ok(neighbour) = Neighbour::decode(message.payload) else {
                return Some(Change::Overrun);
            };
            neighbour?.is_router().then_some(Change::Neighbour)
        }
        _ => None,
    }
}

/// Enough for some thousand changes in one burst.
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// More datagrams than the buffer can hold.
const QUEUED_MAX: usize = 100_000;
const REQUEST: &str = "read netlink changes";
