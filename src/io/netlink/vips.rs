//! The addresses that this process added or adopted, as the kernel last reported them, and the first request of each
//! change.

use super::owner::is_route;
use super::socket::Socket;
use crate::net::{Family, Prefix};
use crate::netlink::address::{
    self, Address, IFAPROT_SIDECAST, NewAddress, RTM_DELADDR, RTM_NEWADDR,
};
use crate::netlink::link::{Link, RTM_DELLINK, RTM_NEWLINK};
use crate::netlink::message::{Message, Messages, Request};
use crate::netlink::route::LocalRoute;
use crate::netlink::{EADDRNOTAVAIL, ENOENT, NetlinkError};
use nix::libc;
use nix::sys::socket::SockProtocol;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

/// A VIP to add to its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipAddress {
    /// The interface's name, mostly `lo`.
    pub interface: String,
    pub prefix: Prefix,
    /// `lo:NAME` or the app's NAME alone; cut to what fits. IPv6 has none.
    pub label: Option<String>,
    /// `None`: permanent.
    pub lifetime: Option<Duration>,
}

/// How an address was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It was added, or renewed, as ours.
    Done,
    /// Another program had added it: it is used, and never removed or changed.
    Foreign,
    /// An earlier run of sidecast had added it; it has our lifetime now.
    Adopted,
}

/// How an address was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    Done,
    /// It did not exist.
    Absent,
    /// It belongs to another program and stays.
    Foreign,
}

/// A change of one VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressChange {
    /// Adds it, or renews the lifetime of one of ours.
    Add(VipAddress),
    /// Removes it from the interface of this name, if it is ours.
    Remove(String, Prefix),
}

/// The result of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressChanged {
    Added(Added),
    Removed(Removed),
}

/// The VIPs that this process added, and the interfaces they are on.
#[derive(Default)]
pub(super) struct Vips {
    pub(super) notifications: Notifications,
    /// By name; empty after any change of an interface.
    pub(super) links: BTreeMap<String, Link>,
    /// What we added or adopted, by interface.
    pub(super) owned: BTreeMap<(u32, Prefix), Owned>,
}

/// Subscription to changes of addresses and interfaces. It is read, without waiting, before each decision. The kernel
/// queues a notification before it acknowledges the change, so that reading the queue is as good as a dump.
#[derive(Default)]
pub(super) enum Notifications {
    /// Before the first VIP.
    #[default]
    Unopened,
    Open(Socket),
    /// Every decision needs a dump.
    Unavailable,
}

pub(super) struct Owned {
    /// Whether it has a lifetime.
    pub(super) leased: bool,
    pub(super) label: Option<Box<str>>,
    pub(super) seen: Presence,
}

/// The presence of an address of ours, as last reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Present,
    Gone,
    /// Another program changed it, or a notification was lost.
    Unknown,
}

/// A change in progress.
pub(super) struct Job {
    /// Its index among the changes.
    pub(super) number: usize,
    /// With the interface's index.
    pub(super) key: (u32, Prefix),
    pub(super) label: Option<String>,
    pub(super) lifetime: Option<Duration>,
    pub(super) removes: bool,
}

pub(super) type Outcome = Result<AddressChanged, NetlinkError>;

/// The results of several changes, in their order.
pub(super) struct Outcomes {
    pub(super) all: Vec<Option<Outcome>>,
    /// IPv6 ones that were not known before: their number and what has to become local.
    pub(super) new_ipv6: Vec<(usize, (u32, Prefix))>,
}

impl Vips {
    /// The first request of a change; `None`: a dump is needed first.
    pub(super) fn first_request(&self, job: &Job) -> Result<Option<Request>, NetlinkError> {
        let owned = self.owned.get(&job.key);
        Ok(match (job.removes, owned) {
            (false, None) => Some(job.add()?),
            (false, Some(owned)) if owned.seen == Presence::Gone => Some(job.add()?),
            (false, Some(owned)) if owned.seen == Presence::Present => {
                let same = job.label.is_none() || owned.label.as_deref() == job.label.as_deref();
                same.then(|| job.request()).transpose()?
            }
            (true, Some(owned)) if owned.seen == Presence::Present => Some(job.request()?),
            _ => None,
        })
    }

    /// Takes the kernel's reply.
    pub(super) fn apply_result(
        &mut self,
        job: &Job,
        added: Added,
        result: Result<(), NetlinkError>,
        outcomes: &mut Outcomes,
    ) {
        match result {
            // It was removed before the kernel got the request.
            Err(error)
                if job.removes
                    && matches!(error.errno(), Some(EADDRNOTAVAIL | libc::ESRCH | ENOENT)) =>
            {
                self.absent(job, outcomes);
            }
            Err(error) => outcomes.set(job.number, Err(error)),
            // Only now: without IFA_PROTO this entry is what identifies the address as ours.
            Ok(()) if job.removes => {
                self.owned.remove(&job.key);
                outcomes.set(job.number, Ok(AddressChanged::Removed(Removed::Done)));
            }
            Ok(()) => {
                // Routes are not reported here.
                let seen = if job.is_route() {
                    Presence::Unknown
                } else {
                    Presence::Present
                };
                let owned = Owned {
                    leased: job.lifetime.is_some(),
                    label: job.label.as_deref().map(Box::from),
                    seen,
                };
                let known = self.owned.insert(job.key, owned).is_some();
                outcomes.added(job, known, added);
            }
        }
    }

    pub(super) fn absent(&mut self, job: &Job, outcomes: &mut Outcomes) {
        self.owned.remove(&job.key);
        outcomes.set(job.number, Ok(AddressChanged::Removed(Removed::Absent)));
    }

    /// The address belongs to another program.
    pub(super) fn keep_foreign(&mut self, job: &Job, outcomes: &mut Outcomes) {
        let known = self.owned.remove(&job.key).is_some();
        if job.removes {
            outcomes.set(job.number, Ok(AddressChanged::Removed(Removed::Foreign)));
        } else {
            outcomes.added(job, known, Added::Foreign);
        }
    }

    /// Without notifications, for tests that play the kernel.
    #[cfg(test)]
    pub(super) fn without_notifications() -> Self {
        Self {
            notifications: Notifications::Unavailable,
            ..Self::default()
        }
    }

    /// Reads the queued notifications.
    pub(super) fn catch_up(&mut self) {
        if matches!(self.notifications, Notifications::Unopened) {
            self.notifications = open_notifications();
        }
        let mut lost = false;
        loop {
            let Notifications::Open(socket) = &self.notifications else {
                return self.invalidate();
            };
            match socket.try_receive() {
                Ok(datagram) => {
                    for message in Messages::new(&datagram) {
                        match message {
                            Ok(message) => self.notified(&message),
                            Err(_) => lost = true,
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The kernel drops everything until the queue is empty: what is in it came before.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
                Err(error) => {
                    log::debug!("cannot read address notifications: {error}");
                    self.notifications = Notifications::Unavailable;
                }
            }
        }
        if lost {
            self.invalidate();
        }
    }

    /// Marks all addresses as unknown: notifications were lost.
    pub(super) fn invalidate(&mut self) {
        self.links.clear();
        self.owned
            .values_mut()
            .for_each(|m| m.seen = Presence::Unknown);
    }

    pub(super) fn notified(&mut self, message: &Message<'_>) {
        match message.kind {
            RTM_NEWLINK | RTM_DELLINK => self.links.clear(),
            RTM_NEWADDR | RTM_DELADDR => {
                let Ok(address) = Address::decode(message.payload) else {
                    return self.invalidate();
                };
                let Some(address) = address else { return };
                let Some(prefix) = address.vip() else { return };
                if let Some(owned) = self.owned.get_mut(&(address.index, prefix)) {
                    let marked = address.proto == Some(IFAPROT_SIDECAST);
                    owned.seen = match message.kind {
                        RTM_DELADDR => Presence::Gone,
                        _ if marked => Presence::Present,
                        _ => Presence::Unknown,
                    };
                }
            }
            _ => {}
        }
    }
}

/// Subscribes to addresses and interfaces only.
fn open_notifications() -> Notifications {
    let open = || {
        let socket = Socket::open(SockProtocol::NetlinkRoute)?;
        socket.join(&[
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
        ])?;
        Ok::<_, NetlinkError>(socket)
    };
    open().map_or(Notifications::Unavailable, Notifications::Open)
}

impl Outcomes {
    pub(super) fn added(&mut self, job: &Job, known: bool, added: Added) {
        if job.key.1.family() == Family::Ipv6 && !known {
            self.new_ipv6.push((job.number, job.key));
        }
        self.set(job.number, Ok(AddressChanged::Added(added)));
    }

    pub(super) fn set(&mut self, number: usize, outcome: Outcome) {
        if let Some(slot) = self.all.get_mut(number) {
            *slot = Some(outcome);
        }
    }
}

impl Job {
    pub(super) fn is_route(&self) -> bool {
        is_route(self.key.1)
    }

    pub(super) fn address(&self) -> NewAddress {
        let (index, prefix) = self.key;
        NewAddress {
            index,
            prefix,
            label: self.label.clone(),
            lifetime: self.lifetime,
        }
    }

    pub(super) fn route(&self) -> LocalRoute {
        let (index, prefix) = self.key;
        LocalRoute {
            index,
            prefix,
            lifetime: self.lifetime,
            metric: None,
        }
    }

    /// The request to add it, which the kernel refuses if it exists.
    pub(super) fn add(&self) -> Result<Request, NetlinkError> {
        match self.is_route() {
            true => self.route().add(),
            false => self.address().add(),
        }
    }

    /// The request to add, renew or remove it, whichever program owns it.
    pub(super) fn request(&self) -> Result<Request, NetlinkError> {
        match (self.removes, self.is_route()) {
            (true, true) => self.route().remove(),
            (true, false) => address::remove(self.key.0, self.key.1),
            (false, true) => self.route().replace(),
            (false, false) => self.address().replace(),
        }
    }
}
