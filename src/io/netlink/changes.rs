//! Notifications of changed links, addresses, routes and neighbors (`ip monitor`). A filter in the kernel drops those of
//! neighbors that nobody here asks about: on a busy link there are some each second.

use super::socket::{Socket, io_error};
use crate::discovery::{Entry, Tables};
use crate::net::{Family, Prefix};
use crate::netlink::address::{Address, IFAPROT_SIDECAST, RTM_DELADDR, RTM_NEWADDR};
use crate::netlink::link::{Link, RTM_DELLINK, RTM_NEWLINK};
use crate::netlink::message::{Message, Messages};
use crate::netlink::neighbor::{self, Known, Neighbor, RTM_DELNEIGH, RTM_NEWNEIGH};
use crate::netlink::route::{
    RT_TABLE_LOCAL, RT_TABLE_MAIN, RTM_DELROUTE, RTM_NEWROUTE, RTPROT_SIDECAST, Route,
};
use crate::netlink::{AF_UNSPEC, NetlinkError};
use crate::wire::WireError;
use nix::libc;
use nix::sys::socket::SockProtocol;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;

/// One change. Additions by sidecast itself are not reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// An interface was added, removed, or changed its state.
    Link,
    /// An address was added, or this one was removed; the `local` route of an IPv6 prefix counts as one.
    Address { removed: Option<Prefix> },
    /// A route of the main table.
    Route,
    /// An IPv6 neighbor with the router flag was added, changed or removed.
    Neighbor,
    /// The watched neighbor at this address changed its MAC address.
    Mac(IpAddr),
    /// Notifications were lost (ENOBUFS): read all tables again.
    Overrun,
}

/// The watched neighbors, and what is known of them.
#[derive(Default)]
struct Neighbors {
    /// Report changes of routers, for unnumbered peers.
    routers: bool,
    watched: Vec<(IpAddr, Option<Known>)>,
    /// The kernel has refused the filter, which was logged.
    unfiltered: bool,
}

/// A subscription to changes, in the network namespace of the thread that opens it.
pub struct Changes {
    socket: Socket,
    queue: VecDeque<Change>,
    neighbors: Neighbors,
    /// Report sidecast's own additions too.
    own: bool,
    /// Updated by every notification; notifications that do not change them are then not reported.
    tables: Option<Tables>,
}

impl Changes {
    /// `routers`: report changes of neighbors with the router flag. On a busy link they are frequent.
    pub fn open(routers: bool) -> Result<Self, NetlinkError> {
        let mut neighbors = Neighbors {
            routers,
            ..Neighbors::default()
        };
        Ok(Self {
            socket: subscribe(&mut neighbors)?,
            queue: VecDeque::new(),
            neighbors,
            own: false,
            tables: None,
        })
    }

    /// Reports also what sidecast itself adds.
    #[must_use]
    pub fn including_own(self) -> Self {
        Self { own: true, ..self }
    }

    /// Updates these tables with every notification.
    #[must_use]
    pub fn keeping(self, tables: Tables) -> Self {
        Self {
            tables: Some(tables),
            ..self
        }
    }

    /// The tables that changes are applied to; empty at first.
    pub fn tables(&mut self) -> &mut Tables {
        self.tables.get_or_insert_default()
    }

    /// Reports also changed MAC addresses of these neighbors, and of no others.
    pub fn watch(&mut self, addrs: BTreeSet<IpAddr>) {
        let watched = &self.neighbors.watched;
        if watched.iter().map(|(addr, _)| addr).eq(&addrs) {
            return;
        }
        let before = |addr| watched.iter().copied().find(|(known, _)| *known == addr);
        let addrs = addrs.into_iter();
        self.neighbors.watched = addrs.map(|a| before(a).unwrap_or((a, None))).collect();
        self.neighbors.attach_filter(&self.socket);
    }

    /// Whether changes of neighbors with the router flag are reported from now on.
    pub fn report_routers(&mut self, routers: bool) {
        if self.neighbors.routers == routers {
            return;
        }
        self.neighbors.routers = routers;
        self.neighbors.attach_filter(&self.socket);
        if routers {
            // The filter has dropped their changes so far.
            self.lose();
        }
    }

    /// Opens the subscription again after it failed. The caller has to dump the tables, for the missed changes.
    pub fn reopen(&mut self) -> Result<(), NetlinkError> {
        self.socket = subscribe(&mut self.neighbors)?;
        self.lose();
        Ok(())
    }

    /// Reads all queued notifications without waiting. The tables then match the kernel's, and the changes are queued.
    pub fn catch_up(&mut self) {
        for _ in 0..QUEUED_MAX {
            match self.socket.try_receive() {
                Ok(datagram) => self.read(&datagram),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    let _ = self.overrun();
                }
                // [`Changes::next`] returns the error if it persists.
                Err(_) => return,
            }
        }
    }

    /// Waits for the next change. Dropping the future loses none.
    pub async fn next(&mut self) -> Result<Change, NetlinkError> {
        loop {
            for _ in 0..IN_A_ROW {
                if let Some(change) = self.queue.pop_front() {
                    return Ok(change);
                }
                match self.socket.receive().await {
                    Ok(datagram) => self.read(&datagram),
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.overrun()?,
                    Err(error) => return Err(io_error(&error, REQUEST)),
                }
            }
            // A full routing table causes a million notifications.
            smol::future::yield_now().await;
        }
    }

    fn read(&mut self, datagram: &[u8]) {
        for message in Messages::new(datagram) {
            let entry = message.and_then(|message| entry(&message));
            let change = match entry {
                // An unreadable message counts as a lost notification.
                Err(_) => {
                    self.lose();
                    Some(Change::Overrun)
                }
                Ok(None) => None,
                Ok(Some(entry)) => self.take(entry),
            };
            self.queue.extend(change);
        }
    }

    fn take(&mut self, entry: Entry) -> Option<Change> {
        let change = match &entry {
            Entry::Neighbor(neighbor) | Entry::NeighborGone(neighbor) => {
                self.neighbors.change(neighbor, &self.socket)
            }
            entry => change(entry, self.own),
        };
        let Some(tables) = &mut self.tables else {
            return change;
        };
        let matters = tables.apply(entry);
        let news = matches!(
            change,
            Some(Change::Address { removed: Some(_) } | Change::Mac(_))
        );
        change.filter(|_| matters || news)
    }

    fn lose(&mut self) {
        if let Some(tables) = &mut self.tables {
            tables.expire();
        }
    }

    /// After ENOBUFS the kernel drops notifications until the queue is empty: it is emptied before the tables
    /// are read again.
    fn overrun(&mut self) -> Result<(), NetlinkError> {
        for _ in 0..QUEUED_MAX {
            match self.socket.try_receive() {
                Ok(datagram) => self.read(&datagram),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(io_error(&error, REQUEST)),
            }
        }
        // Reading the tables again shows everything but removals of our own addresses.
        let removed = |c: &Change| matches!(c, Change::Address { removed: Some(_) });
        self.queue.retain(removed);
        self.queue.push_back(Change::Overrun);
        self.lose();
        Ok(())
    }
}

/// Decodes a message; `None`: its type is not used here.
fn entry(message: &Message<'_>) -> Result<Option<Entry>, WireError> {
    let payload = message.payload;
    Ok(match message.kind {
        // Messages of family AF_BRIDGE are about the ports of a bridge.
        RTM_NEWLINK | RTM_DELLINK if payload.first() != Some(&AF_UNSPEC) => None,
        RTM_NEWLINK => Some(Entry::Link(Link::decode(payload)?)),
        RTM_DELLINK => Some(Entry::LinkGone(Link::decode(payload)?.index)),
        RTM_NEWADDR => Address::decode(payload)?.map(Entry::Address),
        RTM_DELADDR => Address::decode(payload)?.map(Entry::AddressGone),
        RTM_NEWROUTE => Route::decode(payload)?.map(Entry::Route),
        RTM_DELROUTE => Route::decode(payload)?.map(Entry::RouteGone),
        RTM_NEWNEIGH => Neighbor::decode(payload)?.map(Entry::Neighbor),
        RTM_DELNEIGH => Neighbor::decode(payload)?.map(Entry::NeighborGone),
        _ => None,
    })
}

fn change(entry: &Entry, own: bool) -> Option<Change> {
    match entry {
        Entry::Link(_) | Entry::LinkGone(_) => Some(Change::Link),
        Entry::Address(address) => {
            // Our own renewals.
            let ours = address.proto == Some(IFAPROT_SIDECAST);
            (own || !ours).then_some(Change::Address { removed: None })
        }
        Entry::AddressGone(address) => {
            let removed = address.vip();
            Some(Change::Address { removed })
        }
        Entry::Route(route) | Entry::RouteGone(route) if route.table == RT_TABLE_MAIN => {
            Some(Change::Route)
        }
        Entry::RouteGone(route) => {
            let ours = route.table == RT_TABLE_LOCAL && route.protocol == RTPROT_SIDECAST;
            // An IPv4 route of ours exists only while its address is replaced.
            let ours = ours && route.family == Family::Ipv6;
            let removed = route.dst.filter(|_| ours)?;
            Some(Change::Address {
                removed: Some(removed),
            })
        }
        Entry::Route(_) | Entry::Neighbor(_) | Entry::NeighborGone(_) => None,
    }
}

/// Opens a socket that receives the notifications.
fn subscribe(neighbors: &mut Neighbors) -> Result<Socket, NetlinkError> {
    let socket = Socket::open(SockProtocol::NetlinkRoute)?;
    socket.receive_buffer(RECEIVE_BUFFER);
    // The filter before the groups: what it would drop is not queued.
    neighbors.attach_filter(&socket);
    socket.join(&[
        libc::RTNLGRP_LINK,
        libc::RTNLGRP_IPV4_IFADDR,
        libc::RTNLGRP_IPV6_IFADDR,
        libc::RTNLGRP_IPV4_ROUTE,
        libc::RTNLGRP_IPV6_ROUTE,
        libc::RTNLGRP_NEIGH,
    ])?;
    Ok(socket)
}

impl Neighbors {
    /// Notes what is new of a watched neighbor, and has the kernel drop it from then on.
    fn change(&mut self, neighbor: &Neighbor, socket: &Socket) -> Option<Change> {
        let Neighbor {
            addr, mac, flags, ..
        } = *neighbor;
        let mut watched = self.watched.iter_mut();
        let known = watched.find(|(of, _)| *of == addr);
        if let (Some((_, known)), Some(mac)) = (known, mac) {
            let now = Known { mac, flags };
            let before = known.replace(now);
            if before != Some(now) {
                self.attach_filter(socket);
            }
            if before.is_some_and(|before| before.mac != mac) {
                return Some(Change::Mac(addr));
            }
        }
        let router = self.routers && neighbor.is_router();
        router.then_some(Change::Neighbor)
    }

    /// Has the kernel drop notifications of neighbors that change nothing. Where it refuses, they wake the process and
    /// are dropped here.
    fn attach_filter(&mut self, socket: &Socket) {
        let filter = neighbor::filter(&self.watched, self.routers);
        let attached = socket.filter(&filter);
        if let Err(error) = &attached
            && !self.unfiltered
        {
            let watched = self.watched.len();
            log::debug!("cannot attach the filter for {watched} neighbors: {error}");
        }
        self.unfiltered = attached.is_err();
    }
}

/// Enough for some thousand changes in one burst.
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// More datagrams than the buffer can hold.
const QUEUED_MAX: usize = 100_000;
/// Datagrams read before the task yields.
const IN_A_ROW: usize = 32;
const REQUEST: &str = "read netlink changes";
