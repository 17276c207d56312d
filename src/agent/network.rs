//! The kernel's tables for the core: dumped at start, after lost notifications and once a minute, and
//! updated by notifications in between.

use super::carriers::Carriers;
use crate::config::{Bgp, Remote};
use crate::core::Event;
use crate::discovery::{self, Network, Snapshot};
use crate::io::netlink::{Change, Changes, Kernel};
use crate::net::Prefix;
use crate::netlink::NetlinkError;
use crate::netlink::route::Route;
use smol::Timer;
use smol::channel::{Receiver, Sender};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

/// The input for deriving the network from the kernel's tables.
pub struct SnapshotRequest {
    pub bgp: Bgp,
    pub vips: BTreeSet<Prefix>,
}

/// Where the addresses on lo are taken from.
#[derive(Clone, Copy)]
pub enum AddressSource {
    Real,
    /// A dry run adds none: desired VIPs count as present.
    DryRun,
}

/// Reads the tables and follows their notifications.
pub struct NetworkReader {
    pub kernel: Kernel,
    pub changes: Changes,
    pub addresses: AddressSource,
    pub events: Sender<Event>,
    /// The interface that is set up if it is down while there are VIPs; a dry run changes nothing.
    pub interface: Option<String>,
}

/// The schedule of dumps.
struct DumpSchedule {
    /// The last dump; `None` before the first.
    last: Option<Instant>,
    not_before: Instant,
}

/// The event loop has ended.
struct Closed;

/// What ended a wait.
enum WakeReason {
    SnapshotRequest(Box<SnapshotRequest>),
    Changed(Change),
    Due,
}

impl NetworkReader {
    /// Runs until the event loop ends.
    pub async fn run(mut self, wanted: Receiver<SnapshotRequest>) {
        let Ok(mut current) = wanted.recv().await else {
            return;
        };
        let mut schedule = DumpSchedule {
            last: None,
            not_before: Instant::now(),
        };
        let mut carriers = Carriers::default();
        loop {
            while let Ok(newer) = wanted.try_recv() {
                current = newer;
            }
            self.changes.report_routers(is_unnumbered(&current.bgp));
            let targets = current.bgp.peer_addresses();
            self.changes.tables().set_targets(targets);
            let looked = self.update(&mut schedule, &current, &mut carriers).await;
            let failed = match looked {
                Ok(Ok(())) => false,
                Ok(Err(error)) => {
                    log::warn!("cannot dump the kernel's tables: {error}; retrying");
                    schedule.not_before = Instant::now() + RETRY_AFTER;
                    true
                }
                Err(Closed) => return,
            };
            match self.wait(&mut schedule, &wanted, failed).await {
                Ok(Some(newer)) => current = newer,
                Ok(None) => {}
                Err(Closed) => return,
            }
        }
    }

    /// Updates the tables and sends the derived network to the core.
    async fn update(
        &mut self,
        schedule: &mut DumpSchedule,
        wanted: &SnapshotRequest,
        carriers: &mut Carriers,
    ) -> Result<Result<(), NetlinkError>, Closed> {
        let stale = self.changes.tables().pending().stale;
        if stale
            && schedule.not_before <= Instant::now()
            && let Err(error) = self.dump(schedule).await?
        {
            return Ok(Err(error));
        }
        if schedule.last.is_none() {
            return Ok(Ok(()));
        }
        // The tables include every notification sent to the core so far.
        self.changes.catch_up();
        if self.changes.tables().pending().next_hops {
            self.changes.tables().begin_lookups();
            let targets = self.changes.tables().targets();
            match self.kernel.next_hops(targets).await {
                Ok(next_hops) => self.changes.tables().set_lookups(next_hops),
                Err(error) => {
                    self.changes.tables().expire();
                    return Ok(Err(error));
                }
            }
        }
        self.changes.tables().take_changed();
        let snapshot = self.changes.tables().snapshot();
        let interface = self.interface.as_ref();
        if let Some(interface) = interface.filter(|_| !wanted.vips.is_empty()) {
            bring_up(&mut self.kernel, &snapshot, interface).await;
        }
        let mut network = discovery::derive(&snapshot, &wanted.bgp, &wanted.vips);
        match self.addresses {
            AddressSource::Real => {
                carriers
                    .flush_stale_neighbors(&mut self.kernel, &snapshot, &network)
                    .await;
            }
            AddressSource::DryRun => network.on_loopback.extend(&wanted.vips),
        }
        self.changes.watch(watched_neighbors(&snapshot, &network));
        let sent = self.events.send(Event::Network(network)).await;
        sent.map(Ok).map_err(|_| Closed)
    }

    /// Dumps the tables. Notifications during the dump are passed on at once: a full routing table takes
    /// seconds.
    async fn dump(
        &mut self,
        schedule: &mut DumpSchedule,
    ) -> Result<Result<(), NetlinkError>, Closed> {
        self.changes.tables().begin_dump();
        let begun = Instant::now();
        let mut dump = pin!(self.kernel.dump());
        let dumped = loop {
            let read = async { Ok(dump.as_mut().await) };
            let change = async { Err(next_change(&mut self.changes).await) };
            match smol::future::or(read, change).await {
                Ok(dumped) => break dumped,
                Err(change) => drop(forward(&self.events, change).await?),
            }
        };
        let (snapshot, result) = match dumped {
            Ok(snapshot) => (Some(snapshot), Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.changes.tables().end_dump(snapshot);
        if result.is_ok() {
            schedule.dumped(begun, Instant::now());
        }
        Ok(result)
    }

    /// Waits for a change of the tables, or a new request.
    async fn wait(
        &mut self,
        schedule: &mut DumpSchedule,
        wanted: &Receiver<SnapshotRequest>,
        failed: bool,
    ) -> Result<Option<SnapshotRequest>, Closed> {
        let mut at = failed.then_some(schedule.not_before);
        loop {
            let pending = self.changes.tables().pending();
            if pending.stale {
                // A link that comes up causes a dozen notifications.
                let due = schedule.not_before.max(Instant::now() + DEBOUNCE);
                at = Some(at.map_or(due, |at| at.min(due)));
            }
            let newer = async {
                wanted
                    .recv()
                    .await
                    .map(|wanted| WakeReason::SnapshotRequest(Box::new(wanted)))
                    .map_err(|_| Closed)
            };
            let changed = async { Ok(WakeReason::Changed(next_change(&mut self.changes).await)) };
            let due = async {
                match at {
                    Some(at) => Timer::at(at).await,
                    None => std::future::pending().await,
                };
                Ok(WakeReason::Due)
            };
            match smol::future::or(newer, smol::future::or(due, changed)).await? {
                WakeReason::SnapshotRequest(newer) => {
                    if schedule.is_long_ago(Instant::now()) {
                        self.changes.tables().expire();
                    }
                    return Ok(Some(*newer));
                }
                WakeReason::Due => return Ok(None),
                WakeReason::Changed(change) => {
                    let soon = Instant::now() + DEBOUNCE;
                    if forward(&self.events, change).await? && !failed {
                        at = Some(at.map_or(soon, |at| at.min(soon)));
                    }
                }
            }
        }
    }
}

impl DumpSchedule {
    /// Limits dumps to a fraction of the time, however large the tables are.
    fn dumped(&mut self, begun: Instant, now: Instant) {
        self.last = Some(now);
        self.not_before = now + ((now - begun) * DUMP_SPACING).min(DUMP_INTERVAL);
    }

    fn is_long_ago(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| last + DUMP_INTERVAL <= now)
    }
}

/// The next change. A failed subscription is reopened; a dump then finds the changes it missed.
async fn next_change(changes: &mut Changes) -> Change {
    let mut broken = false;
    loop {
        match changes.next().await {
            Ok(change) => return change,
            Err(error) if !broken => {
                log::warn!("netlink subscription failed: {error}; reopening it");
                broken = true;
            }
            Err(error) => log::debug!("netlink: {error}"),
        }
        Timer::after(RETRY_AFTER).await;
        match changes.reopen() {
            Ok(()) => {
                log::info!("netlink subscription restored");
                return Change::Overrun;
            }
            Err(error) => log::debug!("netlink: {error}"),
        }
    }
}

/// Passes urgent changes to the core; `true` if the tables changed too.
async fn forward(events: &Sender<Event>, change: Change) -> Result<bool, Closed> {
    let (event, otherwise) = match change {
        Change::Address {
            removed: Some(prefix),
        } => (Event::AddressLost(prefix), true),
        Change::Mac(addr) => (Event::MacChanged(addr), false),
        _ => return Ok(true),
    };
    let sent = events.send(event).await;
    sent.map(|()| otherwise).map_err(|_| Closed)
}

/// The directly connected peers, and the next hops to the other peers. Default gateways of IPv6 too: the tables tell
/// by their neighbor entries whether one is a peer by another address.
fn watched_neighbors(snapshot: &Snapshot, network: &Network) -> BTreeSet<IpAddr> {
    let peers = network.peers.values();
    let hops = peers.map(|peer| peer.gateway.unwrap_or(peer.remote));
    let defaults = snapshot.routes.iter().filter(|route| route.is_default());
    let gateways = defaults.flat_map(Route::next_hops);
    let gateways = gateways.filter_map(|(gateway, _)| gateway.filter(IpAddr::is_ipv6));
    hops.chain(gateways).collect()
}

async fn bring_up(kernel: &mut Kernel, snapshot: &Snapshot, interface: &str) {
    match kernel.bring_up(&snapshot.links, interface).await {
        Ok(false) => {}
        Ok(true) => log::warn!("{interface} was down: brought it up, VIPs on it need that"),
        Err(error) => log::warn!("cannot bring {interface} up: {error}"),
    }
}

/// The delay after a failed dump or subscription.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long notifications are debounced.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// No dump for this many times the duration of the last one.
const DUMP_SPACING: u32 = 20;
/// The interval of dumps, and the longest delay between two.
const DUMP_INTERVAL: Duration = Duration::from_secs(50);

/// Whether a peer is configured by its interface alone, which needs neighbor notifications.
pub fn is_unnumbered(bgp: &Bgp) -> bool {
    let mut peers = bgp.peers.iter();
    peers.any(|peer| matches!(peer.remote, Remote::Interface(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Family;
    use crate::netlink::route::{RT_TABLE_MAIN, RTN_UNICAST};

    #[test]
    fn default_gateways_of_ipv6_are_watched_without_being_peers() {
        let route = |gateway: &str, dst: Option<&str>| {
            let gateway: IpAddr = gateway.parse().unwrap();
            Route {
                family: Family::of(gateway),
                dst: dst.map(|dst| dst.parse::<Prefix>().unwrap()),
                gateway: Some(gateway),
                oif: Some(2),
                prefsrc: None,
                priority: 0,
                table: RT_TABLE_MAIN,
                kind: RTN_UNICAST,
                protocol: 3,
                expires: None,
                nexthops: Vec::new(),
            }
        };
        let snapshot = Snapshot {
            routes: vec![
                route("fe80::1", None),
                route("fe80::2", Some("2001:db8::/32")),
                route("10.0.0.1", None),
            ],
            ..Snapshot::default()
        };
        let watched = watched_neighbors(&snapshot, &Network::default());
        assert_eq!(watched, ["fe80::1".parse().unwrap()].into());
    }
}
