//! The kernel's side: steps performed strictly in order, and a look at its tables whenever they change.

use super::Executor;
use super::carriers::Carriers;
use crate::api::NatCounters;
use crate::config::{Bgp, Config, Remote};
use crate::core::{Event, Predecessor, StepError, StepId, StepResult};
use crate::discovery::{self, Snapshot};
use crate::io::netlink::{Added, Change, Changes, Kernel, Removed, VipAddress, Watched};
use crate::net::Prefix;
use crate::netlink::address::{self, Address, IFAPROT_SIDECAST};
use crate::netlink::{NetlinkError, nftables};
use crate::plan::{NatRule, NatTable, Step};
use smol::Timer;
use smol::channel::{self, Receiver, Sender};
use smol::future::FutureExt;
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// What to look for in the kernel's tables.
struct Wanted {
    bgp: Bgp,
    vips: BTreeSet<Prefix>,
}

/// Whose addresses are on lo.
#[derive(Clone, Copy)]
enum Addresses {
    Real,
    /// A dry run's are nowhere: they count as being there.
    Pretended,
}

/// What ours is called in the kernel.
struct Names {
    /// Where the VIPs are.
    interface: String,
    nat_table: String,
}

impl Names {
    fn new(config: &Config) -> Self {
        let agent = &config.agent;
        Self {
            interface: agent
                .vip_interface
                .clone()
                .unwrap_or_else(|| "lo".to_owned()),
            nat_table: match &agent.instance {
                Some(instance) => format!("sidecast_{instance}"),
                None => "sidecast".to_owned(),
            },
        }
    }
}

/// What the task that changes the kernel's tables does.
enum Work {
    Step(StepId, Step),
    /// The NAT tables shall outlive this process.
    PersistNat,
    /// What the NAT counters say.
    CountNat(Sender<NatCounters>),
    /// NAT that the process before us left, and that we did not want, is to go.
    ClearLeftNat,
}

pub struct KernelTasks {
    executor: Executor,
    events: Sender<Event>,
    work: Sender<Work>,
    wanted: Sender<Wanted>,
    dirty: Sender<()>,
    /// The changes that are watched have those of the neighbours among them.
    neighbours: bool,
    /// The peers on our links, and the routers towards the others.
    next_hops: Watched,
    /// There are NAT rules, or will be.
    has_nat: bool,
    working: Option<smol::Task<()>>,
    watching: smol::Task<()>,
    _clearing: smol::Task<()>,
    _looking: smol::Task<()>,
}

impl KernelTasks {
    pub fn open(
        executor: &Executor,
        events: Sender<Event>,
        config: &Config,
        dry_run: bool,
    ) -> io::Result<Self> {
        let error = |error: NetlinkError| io::Error::other(format!("netlink: {error}"));
        let (work, work_in) = channel::unbounded();
        let (wanted, wanted_in) = channel::unbounded();
        let (dirty, dirty_in) = channel::bounded(1);
        let neighbours = is_unnumbered(&config.bgp);
        let next_hops = Watched::default();
        let changes = Changes::open(neighbours).map_err(error)?;
        let changes = changes.watching(next_hops.clone());
        let names = Names::new(config);
        let working = if dry_run {
            executor.spawn(perform_none(work_in, events.clone()))
        } else {
            let kernel = Kernel::open().map_err(error)?;
            executor.spawn(perform_all(kernel, names, work_in, events.clone()))
        };
        let addresses = if dry_run {
            Addresses::Pretended
        } else {
            Addresses::Real
        };
        let reader = Kernel::open().map_err(error)?;
        let ours = config.agent.vip_interface.clone().filter(|_| !dry_run);
        Ok(Self {
            _clearing: executor.spawn(clear_left_nat(work.clone())),
            work,
            wanted,
            has_nat: false,
            working: Some(working),
            _looking: executor.spawn(look_all(
                reader,
                addresses,
                wanted_in,
                dirty_in,
                events.clone(),
                next_hops.clone(),
                ours,
            )),
            watching: executor.spawn(watch(changes, neighbours, dirty.clone(), events.clone())),
            next_hops,
            executor: executor.clone(),
            events,
            dirty,
            neighbours,
        })
    }

    pub fn step(&mut self, id: StepId, step: Step) {
        if let Step::ReplaceNat(table) = &step {
            self.has_nat = !table.rules.is_empty();
        }
        // The task lives as long as we do.
        let _ = self.work.try_send(Work::Step(id, step));
    }

    pub fn has_nat(&self) -> bool {
        self.has_nat
    }

    /// What the NAT counters say; empty where the kernel takes too long, for whoever asks is answered
    /// either way.
    pub fn nat_counters(&self) -> impl Future<Output = NatCounters> + use<> {
        let (reply, answer) = channel::bounded(1);
        let _ = self.work.try_send(Work::CountNat(reply));
        let answered = async move { answer.recv().await.unwrap_or_default() };
        let too_late = async {
            Timer::after(COUNT_WITHIN).await;
            NatCounters::new()
        };
        answered.or(too_late)
    }

    /// To be done before [`KernelTasks::finish`] is over.
    pub fn persist_nat(&self) {
        let _ = self.work.try_send(Work::PersistNat);
    }

    pub fn look(&mut self, bgp: Bgp, vips: BTreeSet<Prefix>) {
        if !self.neighbours && is_unnumbered(&bgp) {
            match Changes::open(true) {
                Ok(changes) => {
                    let changes = changes.watching(self.next_hops.clone());
                    let (dirty, events) = (self.dirty.clone(), self.events.clone());
                    self.watching = self.executor.spawn(watch(changes, true, dirty, events));
                    self.neighbours = true;
                }
                Err(error) => log::warn!("cannot watch the neighbours: {error}"),
            }
        }
        let _ = self.wanted.try_send(Wanted { bgp, vips });
    }

    /// Waits for what is still to be done, a second at most.
    pub async fn finish(&mut self) {
        self.work.close();
        if let Some(working) = self.working.take() {
            let limit = async {
                Timer::after(FINISH).await;
            };
            working.or(limit).await;
        }
    }
}

async fn perform_all(
    mut kernel: Kernel,
    names: Names,
    work: Receiver<Work>,
    events: Sender<Event>,
) {
    while let Ok(work) = work.recv().await {
        let (id, step) = match work {
            Work::Step(id, step) => (id, step),
            other => {
                see_to_nat(&mut kernel, &names, other).await;
                continue;
            }
        };
        let result = perform(&mut kernel, &names, step)
            .await
            .map_err(|error| StepError {
                permanent: error.is_permanent(),
                message: error.to_string(),
            });
        if events.send(Event::Done { step: id, result }).await.is_err() {
            return;
        }
    }
}

/// What is done beside the steps: nothing waits for it to succeed.
async fn see_to_nat(kernel: &mut Kernel, names: &Names, work: Work) {
    match work {
        Work::PersistNat => {
            if let Err(error) = kernel.persist_nat().await {
                log::warn!("NAT rules will not outlive this process: {error}");
            }
        }
        Work::CountNat(reply) => {
            let counters = kernel.nat_counters().await.unwrap_or_else(|error| {
                log::warn!("cannot read the NAT counters: {error}");
                NatCounters::new()
            });
            let _ = reply.try_send(counters);
        }
        Work::ClearLeftNat => {
            // A kernel without nf_tables has nothing to clear.
            if let Err(error) = kernel.clear_left_nat(&names.nat_table).await {
                log::debug!("NAT that may have been left: {error}");
            }
        }
        // A step has an answer, and is performed where that is made.
        Work::Step(..) => {}
    }
}

async fn perform(
    kernel: &mut Kernel,
    names: &Names,
    step: Step,
) -> Result<StepResult, NetlinkError> {
    match step {
        Step::AddAddress {
            prefix,
            label,
            lifetime,
            ..
        } => {
            let interface = names.interface.clone();
            let vip = VipAddress {
                interface,
                prefix,
                label,
                lifetime,
            };
            Ok(match kernel.add_address(&vip).await? {
                Added::Done => StepResult::Done,
                Added::Foreign => StepResult::Foreign,
                Added::Adopted => StepResult::Adopted,
            })
        }
        Step::RemoveAddress { prefix } => Ok(
            match kernel.remove_address(&names.interface, prefix).await? {
                Removed::Foreign => StepResult::Foreign,
                Removed::Done | Removed::Absent => StepResult::Done,
            },
        ),
        Step::ReplaceNat(table) => kernel
            .replace_nat(&nft(table, &names.nat_table))
            .await
            .map(|()| StepResult::Done),
    }
}

/// The core's rules as nf_tables has them. All VIPs of an app share one counter for a mapping.
fn nft(table: NatTable, name: &str) -> nftables::NatTable {
    let rule = |rule: NatRule| nftables::NatRule {
        counter: nftables::counter_name(rule.app.as_str(), rule.protocol.number(), rule.listen),
        vip: rule.vip,
        protocol: rule.protocol.number(),
        listen: rule.listen,
        target: rule.target,
        destination: rule.destination,
    };
    let rules = table.rules.into_iter().map(rule).collect();
    nftables::NatTable {
        name: name.to_owned(),
        rules,
    }
}

fn is_unnumbered(bgp: &Bgp) -> bool {
    let mut peers = bgp.peers.iter();
    peers.any(|peer| matches!(peer.remote, Remote::Interface(_)))
}

/// What a process before us left: addresses on their lease that we announce, too. Apps that are not in
/// the configuration come later: with those any address that bears our mark counts.
pub async fn predecessor(config: &Config) -> Option<Predecessor> {
    let mut kernel = Kernel::open().ok()?;
    let addresses = kernel.addresses_on_lo().await.ok()?;
    let later = config.agent.consul.is_some() || config.agent.state_file.is_some();
    let wanted = |addr: IpAddr| {
        let mut vips = config.apps.iter().flat_map(|app| &app.vips);
        vips.any(|vip| vip.prefix().contains(addr))
    };
    let labelled = |label: &str| {
        let mut apps = config.apps.iter();
        apps.any(|app| label == address::label("lo", app.name.as_str()))
    };
    let ours = |a: &Address| {
        let marked = a.proto == Some(IFAPROT_SIDECAST);
        let label = a.label.as_deref().is_some_and(labelled);
        !a.is_permanent() && ((marked && (later || wanted(a.addr))) || (label && wanted(a.addr)))
    };
    let left = addresses.iter().find(|a| ours(a))?;
    let needs_nat = config.apps.iter().any(|app| !app.nats.is_empty());
    let forwarding = !needs_nat || kernel.has_nat(&Names::new(config).nat_table).await;
    log::info!(
        "taking over from a process before this one: {} is there",
        left.addr
    );
    Some(Predecessor { forwarding })
}

/// A dry run says what it would do, and lets the core go on as if it were done.
async fn perform_none(work: Receiver<Work>, events: Sender<Event>) {
    while let Ok(work) = work.recv().await {
        let Work::Step(step, what) = work else {
            continue;
        };
        log::info!("dry run: would {what}");
        if events
            .send(Event::Done {
                step,
                result: Ok(StepResult::Done),
            })
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Looks at the tables when the core wants to know something else, or when they changed.
async fn look_all(
    mut kernel: Kernel,
    addresses: Addresses,
    wanted: Receiver<Wanted>,
    dirty: Receiver<()>,
    events: Sender<Event>,
    next_hops: Watched,
    // What to bring up where it is down, while there are VIPs; a dry run changes nothing.
    interface: Option<String>,
) {
    let Ok(mut current) = wanted.recv().await else {
        return;
    };
    let mut carriers = Carriers::default();
    loop {
        while let Ok(newer) = wanted.try_recv() {
            current = newer;
        }
        let targets = targets(&current.bgp);
        let mut failed = false;
        match kernel.snapshot(&targets).await {
            Ok(snapshot) => {
                if let Some(interface) = interface.as_ref().filter(|_| !current.vips.is_empty()) {
                    bring_up(&mut kernel, &snapshot, interface).await;
                }
                let mut network = discovery::network(&snapshot, &current.bgp, &current.vips);
                match addresses {
                    Addresses::Real => carriers.follow(&mut kernel, &snapshot, &network).await,
                    Addresses::Pretended => network.on_loopback.extend(&current.vips),
                }
                let peers = network.peers.values();
                let hops = peers.map(|peer| peer.gateway.unwrap_or(peer.remote));
                next_hops.replace(hops.collect());
                if events.send(Event::Network(network)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                log::warn!("cannot read the kernel's tables, trying again: {error}");
                failed = true;
            }
        }
        let again = async {
            if !failed {
                std::future::pending().await
            }
            Timer::after(LOOK_AGAIN).await;
            Ok(None)
        };
        let newer = async { wanted.recv().await.map(Some) };
        let changed = async {
            let _ = dirty.recv().await;
            // A link that comes up changes a dozen things at once.
            Timer::after(SETTLE).await;
            let _ = dirty.try_recv();
            Ok(None)
        };
        match smol::future::or(newer, smol::future::or(changed, again)).await {
            Ok(Some(newer)) => current = newer,
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

async fn bring_up(kernel: &mut Kernel, snapshot: &Snapshot, interface: &str) {
    match kernel.bring_up(&snapshot.links, interface).await {
        Ok(false) => {}
        Ok(true) => log::warn!("{interface} was down: it is up now"),
        Err(error) => log::warn!("cannot bring {interface} up: {error}"),
    }
}

fn targets(bgp: &Bgp) -> BTreeSet<IpAddr> {
    let remotes = bgp.peers.iter().map(|peer| &peer.remote);
    remotes
        .filter_map(|remote| match remote {
            Remote::Addr(addr, _) => Some(*addr),
            Remote::Interface(_) | Remote::Gateway => None,
        })
        .collect()
}

/// By then every app has had its first checks: rules that were left for us have been taken over.
async fn clear_left_nat(work: Sender<Work>) {
    Timer::after(CLEAR_LEFT_AFTER).await;
    let _ = work.send(Work::ClearLeftNat).await;
}

async fn watch(mut changes: Changes, neighbours: bool, dirty: Sender<()>, events: Sender<Event>) {
    loop {
        match changes.next().await {
            Ok(Change::Address {
                removed: Some(prefix),
            }) => {
                if events.send(Event::AddressLost(prefix)).await.is_err() {
                    return;
                }
            }
            Ok(Change::Mac(addr)) => {
                if events.send(Event::MacChanged(addr)).await.is_err() {
                    return;
                }
                continue;
            }
            Ok(_) => {}
            Err(error) => {
                log::warn!("changes in the kernel's tables are not seen for the moment: {error}");
                changes = reopen(neighbours).await.watching(changes.watched());
                log::info!("changes in the kernel's tables are seen again");
            }
        }
        // A full channel says already that there is something to look at.
        let _ = dirty.try_send(());
    }
}

/// A new subscription, however long it takes; what was missed is looked at afterwards.
async fn reopen(neighbours: bool) -> Changes {
    loop {
        Timer::after(LOOK_AGAIN).await;
        match Changes::open(neighbours) {
            Ok(changes) => return changes,
            Err(error) => log::debug!("netlink: {error}"),
        }
    }
}

/// After a failed look at the tables, or a broken subscription.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const CLEAR_LEFT_AFTER: Duration = Duration::from_secs(8);
/// How long an answer waits for the NAT counters.
const COUNT_WITHIN: Duration = Duration::from_millis(500);
/// How long leaving waits for the kernel.
const FINISH: Duration = Duration::from_secs(1);
/// How long the tables are left to settle before they are read again.
const SETTLE: Duration = Duration::from_millis(20);
