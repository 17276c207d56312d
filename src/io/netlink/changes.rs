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
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;

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
    /// The watched neighbour at this address has another MAC than before.
    Mac(IpAddr),
    /// Changes were lost: look at everything again.
    Overrun,
}

/// Addresses of neighbours whose MAC matters; nobody holds it across an await.
pub type Watched = Rc<RefCell<BTreeSet<IpAddr>>>;

/// What is known of the neighbours.
struct Neighbours {
    /// Changes of routers count, for unnumbered peers.
    routers: bool,
    watched: Watched,
    macs: BTreeMap<IpAddr, [u8; 6]>,
}

/// A subscription to changes, in the network namespace of the thread that opens it.
pub struct Changes {
    socket: Socket,
    queue: VecDeque<Change>,
    neighbours: Neighbours,
    /// Our own additions count too.
    own: bool,
}

impl Changes {
    /// `routers`: routers among the neighbours count. On a busy link they change often.
    pub fn open(routers: bool) -> Result<Self, NetlinkError> {
        let socket = Socket::open(SockProtocol::NetlinkRoute)?;
        socket.receive_buffer(RECEIVE_BUFFER);
        socket.join(&[
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
            libc::RTNLGRP_NEIGH,
        ])?;
        Ok(Self {
            socket,
            queue: VecDeque::new(),
            neighbours: Neighbours {
                routers,
                watched: Watched::default(),
                macs: BTreeMap::new(),
            },
            own: false,
        })
    }

    /// Reports also what sidecast itself adds.
    #[must_use]
    pub fn with_own(self) -> Self {
        Self { own: true, ..self }
    }

    /// Reports also when one of these neighbours has another MAC.
    #[must_use]
    pub fn watching(mut self, watched: Watched) -> Self {
        self.neighbours.watched = watched;
        self
    }

    pub fn watched(&self) -> Watched {
        self.neighbours.watched.clone()
    }

    /// Waits for the next change. Dropping the future loses none.
    pub async fn next(&mut self) -> Result<Change, NetlinkError> {
        loop {
            if let Some(change) = self.queue.pop_front() {
                return Ok(change);
            }
            match self.socket.receive().await {
                Ok(datagram) => self.read(&datagram),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.overrun()?,
                Err(error) => return Err(failed(&error, REQUEST)),
            }
        }
    }

    fn read(&mut self, datagram: &[u8]) {
        for message in Messages::new(datagram) {
            let change = match message {
                // It may have been anything.
                Err(_) => Some(Change::Overrun),
                Ok(message) if matches!(message.kind, RTM_NEWNEIGH | RTM_DELNEIGH) => {
                    self.neighbours.change(&message)
                }
                Ok(message) => change(&message, self.own),
            };
            self.queue.extend(change);
        }
    }

    /// The kernel drops everything, without another word, until the queue was empty once: only what is
    /// looked at after that is followed by changes again.
    fn overrun(&mut self) -> Result<(), NetlinkError> {
        for _ in 0..QUEUED_MAX {
            match self.socket.try_receive() {
                Ok(datagram) => self.read(&datagram),
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
        _ => None,
    }
}

impl Neighbours {
    fn change(&mut self, message: &Message<'_>) -> Option<Change> {
        let Ok(neighbour) = Neighbour::decode(message.payload) else {
            return Some(Change::Overrun);
        };
        let Neighbour { addr, mac, .. } = neighbour.as_ref()?;
        let watched = self.watched.borrow();
        self.macs.retain(|addr, _| watched.contains(addr));
        if let Some(mac) = mac.filter(|_| watched.contains(addr)) {
            let before = self.macs.insert(*addr, mac);
            if before.is_some_and(|before| before != mac) {
                return Some(Change::Mac(*addr));
            }
        }
        let router = self.routers && neighbour?.is_router();
        router.then_some(Change::Neighbour)
    }
}

/// Enough for some thousand changes in one burst.
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// More datagrams than the buffer can hold.
const QUEUED_MAX: usize = 100_000;
const REQUEST: &str = "read netlink changes";
