//! VIPs added, renewed and removed, many in one datagram.
//!
//! An address that another program added is used and never changed; one with our IFA_PROTO or label is adopted
//! and gets our lifetime. An address of this process is taken to be present until the kernel reports otherwise;
//! any other existing one is looked up before it is changed.

use super::kernel::Kernel;
use super::owner::{AddressDump, AddressOwner};
use crate::net::Family;
use crate::netlink::address::{self};
use crate::netlink::link::{self, Link};
use crate::netlink::route::{self, LocalRoute, RT_TABLE_LOCAL, RTN_LOCAL, Route};
use crate::netlink::{EACCES, EAFNOSUPPORT, EEXIST, ENODEV, EOPNOTSUPP, NetlinkError};
use nix::libc;
use smol::Timer;
use std::net::IpAddr;
use std::time::Duration;

use super::vips::{
    Added, AddressChange, AddressChanged, Job, Outcome, Outcomes, Removed, VipAddress,
};

impl Kernel {
    /// Adds a VIP, or renews the lifetime of an existing one of ours.
    pub async fn add_address(&mut self, vip: &VipAddress) -> Result<Added, NetlinkError> {
        let change = AddressChange::Add(vip.clone());
        match self.change_addresses(&[change]).await.pop() {
            Some(Ok(AddressChanged::Added(added))) => Ok(added),
            Some(Err(error)) => Err(error),
            Some(Ok(AddressChanged::Removed(_))) | None => Ok(Added::Done),
        }
    }

    /// Performs these changes of distinct VIPs; the results are in the same order.
    pub async fn change_addresses(&mut self, changes: &[AddressChange]) -> Vec<Outcome> {
        self.vips.catch_up();
        let mut outcomes = Outcomes {
            all: vec![None; changes.len()],
            new_ipv6: Vec::new(),
        };
        let mut queue = Vec::new();
        for (number, change) in changes.iter().enumerate() {
            match self.job(number, change).await {
                Ok(Some(job)) => queue.push(job),
                Ok(None) => outcomes.set(number, Ok(AddressChanged::Removed(Removed::Absent))),
                Err(error) => outcomes.set(number, Err(error)),
            }
        }
        let unclear = self.change_known(queue, &mut outcomes).await;
        if !unclear.is_empty() {
            self.dump_and_change(unclear, &mut outcomes).await;
        }
        for (number, key) in std::mem::take(&mut outcomes.new_ipv6) {
            if let Err(error) = self.wait_until_local(key.1.addr()).await {
                self.vips.owned.remove(&key);
                outcomes.set(number, Err(error));
            }
        }
        let all = outcomes.all.into_iter().zip(changes);
        all.filter_map(|(outcome, change)| match change {
            AddressChange::Add(vip) => Some(outcome?.map_err(|error| in_words(error, vip))),
            AddressChange::Remove(..) => outcome,
        })
        .collect()
    }

    /// `None`: nothing to do, since the interface to remove it from does not exist.
    async fn job(
        &mut self,
        number: usize,
        change: &AddressChange,
    ) -> Result<Option<Job>, NetlinkError> {
        let vip = match change {
            AddressChange::Add(vip) => vip,
            AddressChange::Remove(interface, prefix) => {
                return match self.interface(interface).await {
                    Ok(link) => Ok(Some(Job {
                        number,
                        key: (link.index, *prefix),
                        label: None,
                        lifetime: None,
                        removes: true,
                    })),
                    Err(error) if error.errno() == Some(ENODEV) => Ok(None),
                    Err(error) => Err(error),
                };
            }
        };
        let link = self.interface(&vip.interface).await?;
        if link.loopback && !link.up {
            self.route.acknowledged(&link::set_up(link.index)?).await?;
            self.vips.links.clear();
        }
        let label = vip.label.as_deref().map(|label| {
            let name = label.strip_prefix(&vip.interface);
            let name = name.and_then(|rest| rest.strip_prefix(':'));
            address::label(&vip.interface, name.unwrap_or(label))
        });
        Ok(Some(Job {
            number,
            key: (link.index, vip.prefix),
            label,
            lifetime: vip.lifetime,
            removes: false,
        }))
    }

    /// Sends the changes that need no dump; returns the others.
    async fn change_known(&mut self, queue: Vec<Job>, outcomes: &mut Outcomes) -> Vec<Job> {
        let (mut unclear, mut sent, mut requests) = (Vec::new(), Vec::new(), Vec::new());
        for job in queue {
            match self.vips.first_request(&job) {
                Ok(Some(request)) => {
                    requests.push(request);
                    sent.push(job);
                }
                Ok(None) => unclear.push(job),
                Err(error) => outcomes.set(job.number, Err(error)),
            }
        }
        let results = self.route.each(&requests).await;
        for (job, result) in sent.into_iter().zip(results) {
            match result {
                // The address exists, or an acknowledgment was lost.
                Err(error) if matches!(error.errno(), Some(EEXIST | libc::ENOBUFS)) => {
                    unclear.push(job);
                }
                result => self.vips.apply_result(&job, Added::Done, result, outcomes),
            }
        }
        unclear
    }

    /// Performs changes of addresses whose owner is not known: one dump for all of them.
    async fn dump_and_change(&mut self, queue: Vec<Job>, outcomes: &mut Outcomes) {
        let dump = match self.dumped(&queue).await {
            Ok(dump) => dump,
            Err(error) => {
                let numbers = queue.iter().map(|job| job.number);
                return numbers.for_each(|number| outcomes.set(number, Err(error.clone())));
            }
        };
        let (mut sent, mut requests) = (Vec::new(), Vec::new());
        for job in queue {
            let owned = self.vips.owned.get(&job.key);
            let added = owned.map_or(Added::Adopted, |_| Added::Done);
            let leased = owned.map(|owned| owned.leased);
            let owner = dump.owner(job.key, leased, job.label.as_deref());
            match owner {
                AddressOwner::Foreign => self.vips.keep_foreign(&job, outcomes),
                AddressOwner::Nobody if job.removes => self.vips.absent(&job, outcomes),
                AddressOwner::OursToReplace if !job.removes => {
                    let result = self.replace(&job).await;
                    self.vips.apply_result(&job, added, result, outcomes);
                }
                _ => match job.request() {
                    Ok(request) => {
                        requests.push(request);
                        sent.push((job, added));
                    }
                    Err(error) => outcomes.set(job.number, Err(error)),
                },
            }
        }
        let results = self.route.each(&requests).await;
        for ((job, added), result) in sent.into_iter().zip(results) {
            self.vips.apply_result(&job, added, result, outcomes);
        }
    }

    /// Deletes and adds an IPv4 address in one datagram, since NLM_F_REPLACE keeps label and scope. Meanwhile a
    /// route of our own keeps it local: no packet is lost.
    async fn replace(&mut self, job: &Job) -> Result<(), NetlinkError> {
        let (index, prefix) = job.key;
        // On lo, since the routes of an interface go with its last address.
        let (lifetime, metric) = (None, Some(METRIC_BESIDE));
        let beside = LocalRoute {
            index: LOOPBACK_INDEX,
            prefix,
            lifetime,
            metric,
        };
        let remove = address::remove(index, prefix)?;
        let requests = [beside.add()?, remove, job.add()?, beside.remove()?];
        let mut results = self.route.each(&requests).await;
        results.swap_remove(2)
    }

    async fn dumped(&mut self, queue: &[Job]) -> Result<AddressDump, NetlinkError> {
        let (routes, addresses): (Vec<&Job>, _) = queue.iter().partition(|job| job.is_route());
        let mut dump = AddressDump::new(match addresses.is_empty() {
            true => Vec::new(),
            false => self.addresses().await?,
        });
        if !routes.is_empty() {
            let each = |_, payload: &[u8]| {
                Ok(Route::decode(payload)?
                    .filter(|route| route.table == RT_TABLE_LOCAL && route.kind == RTN_LOCAL))
            };
            let request = route::dump(Family::Ipv6, RT_TABLE_LOCAL)?;
            dump.routes = self.route.list(&request, each).await?;
        }
        Ok(dump)
    }

    /// The kernel acknowledges an IPv6 address before it takes packets for it: the `local` route comes
    /// from queued work (`addrconf_dad_work`), some milliseconds later. An announcement has to wait for
    /// it, or the first client is refused.
    async fn wait_until_local(&mut self, addr: IpAddr) -> Result<(), NetlinkError> {
        for _ in 0..LOCAL_ATTEMPTS {
            if self
                .route_to(addr)
                .await?
                .is_some_and(|route| route.kind == RTN_LOCAL)
            {
                return Ok(());
            }
            Timer::after(LOCAL_INTERVAL).await;
        }
        log::warn!("{addr}: no local route after 0.5 s; first packets may be refused");
        Ok(())
    }

    async fn interface(&mut self, name: &str) -> Result<Link, NetlinkError> {
        if let Some(link) = self.vips.links.get(name) {
            return Ok(link.clone());
        }
        let request = link::by_name(name)?;
        let each = |_, payload: &[u8]| Link::decode(payload).map(Some);
        let found = self.route.collect(&request, each).await;
        let absent = || NetlinkError::Errno {
            errno: ENODEV,
            message: Some(format!("no such interface: {name}")),
            request: request.name,
        };
        match found {
            Ok(links) => {
                let link = links.into_iter().next().ok_or_else(absent)?;
                self.vips.links.insert(name.to_owned(), link.clone());
                Ok(link)
            }
            Err(error) if error.errno() == Some(ENODEV) => Err(absent()),
            Err(error) => Err(error),
        }
    }
}

/// Explains the errors of disabled or missing IPv6.
fn in_words(error: NetlinkError, vip: &VipAddress) -> NetlinkError {
    if vip.prefix.family() != Family::Ipv6 {
        return error;
    }
    match error {
        NetlinkError::Errno { errno, request, .. } if errno == EACCES => NetlinkError::Errno {
            errno,
            message: Some(format!(
                "IPv6 is disabled on {name}; enable it by sysctl net.ipv6.conf.{name}.disable_ipv6=0",
                name = vip.interface
            )),
            request,
        },
        NetlinkError::Errno { errno, request, .. }
            if errno == EOPNOTSUPP || errno == EAFNOSUPPORT =>
        {
            NetlinkError::Errno {
                errno,
                message: Some("IPv6 is disabled in this kernel".to_owned()),
                request,
            }
        }
        error => error,
    }
}

/// The index of lo (`LOOPBACK_IFINDEX`).
const LOOPBACK_INDEX: u32 = 1;
/// The metric of a route beside the kernel's own.
const METRIC_BESIDE: u32 = 1;
/// The interval and the number of lookups until a new IPv6 address is local.
const LOCAL_INTERVAL: Duration = Duration::from_millis(1);
const LOCAL_ATTEMPTS: u32 = 500;
