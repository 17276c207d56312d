//! The kernel tasks: perform steps in order, address changes in batches.

use super::Executor;
use super::network::{AddressSource, NetworkReader, SnapshotRequest, is_unnumbered};
use crate::api::NatCounters;
use crate::config::{Bgp, Config};
use crate::core::{Event, Predecessor, StepError, StepId, StepResult};
use crate::discovery::Tables;
use crate::io::netlink::{
    Added, AddressChange, AddressChanged, Changes, Kernel, Removed, VipAddress,
};
use crate::net::Prefix;
use crate::netlink::address::{self, Address, IFAPROT_SIDECAST};
use crate::netlink::{NetlinkError, nftables};
use crate::plan::{NatChange, NatRule, Step};
use smol::Timer;
use smol::channel::{self, Receiver, RecvError, Sender};
use smol::future::FutureExt;
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Names of sidecast's objects in the kernel.
struct KernelNames {
    /// The interface of the VIPs.
    interface: String,
    nat_table: String,
}

impl KernelNames {
    fn new(config: &Config) -> Self {
        let agent = &config.agent;
        Self {
            interface: agent
                .vip_interface
                .clone()
                .unwrap_or_else(|| "lo".to_owned()),
            nat_table: nat_table(config),
        }
    }
}

/// The name of the nf_tables table that records packets to draining VIPs.
pub fn seen_table(config: &Config) -> String {
    format!("{}_drain", KernelNames::new(config).nat_table)
}

/// The name of the nf_tables table of NAT.
pub fn nat_table(config: &Config) -> String {
    match &config.agent.instance {
        Some(instance) => format!("sidecast_{instance}"),
        None => "sidecast".to_owned(),
    }
}

/// Work of the task that changes the kernel's tables.
enum Work {
    Step(StepId, Step),
    /// Make the NAT tables persist after this process exits.
    PersistNat,
    /// Read the NAT counters.
    CountNat(Sender<NatCounters>),
    /// Remove stale NAT tables of a previous process.
    ClearStaleNat,
    /// Restore NAT rules that another program changed.
    VerifyNat,
}

/// The tasks that change, read and watch the kernel's tables.
pub struct KernelTasks {
    work: Sender<Work>,
    wanted: Sender<SnapshotRequest>,
    /// NAT rules exist, or existed before.
    has_stale_nat: bool,
    working: Option<smol::Task<()>>,
    _clearing: smol::Task<()>,
    _looking: smol::Task<()>,
}

impl KernelTasks {
    /// Opens the netlink sockets and starts the tasks.
    pub fn open(
        executor: &Executor,
        events: Sender<Event>,
        config: &Config,
        dry_run: bool,
    ) -> io::Result<Self> {
        let error = |error: NetlinkError| io::Error::other(format!("netlink: {error}"));
        let (work, work_in) = channel::unbounded();
        let (wanted, wanted_in) = channel::unbounded();
        let changes = Changes::open(is_unnumbered(&config.bgp)).map_err(error)?;
        let changes = changes.keeping(Tables::new());
        let names = KernelNames::new(config);
        let working = if dry_run {
            executor.spawn(dry_run_worker(work_in, events.clone()).boxed_local())
        } else {
            let kernel = Kernel::open().map_err(error)?;
            executor.spawn(kernel_worker(kernel, names, work_in, events.clone()).boxed_local())
        };
        let addresses = if dry_run {
            AddressSource::DryRun
        } else {
            AddressSource::Real
        };
        let looking = NetworkReader {
            kernel: Kernel::open().map_err(error)?,
            changes,
            addresses,
            events,
            interface: config.agent.vip_interface.clone().filter(|_| !dry_run),
        };
        Ok(Self {
            _clearing: executor.spawn(clear_stale_nat(work.clone()).boxed_local()),
            work,
            wanted,
            has_stale_nat: false,
            working: Some(working),
            _looking: executor.spawn(looking.run(wanted_in).boxed_local()),
        })
    }

    /// Queues one step; it is answered by [`Event::Done`].
    pub fn step(&mut self, id: StepId, step: Step) {
        if let Step::UpdateNat(change) = &step {
            self.has_stale_nat |= !change.add.is_empty();
        }
        // The task runs until the process ends.
        let _ = self.work.try_send(Work::Step(id, step));
    }

    /// Whether stale NAT rules of a previous process may be left.
    pub fn has_stale_nat(&self) -> bool {
        self.has_stale_nat
    }

    /// Reads the NAT counters; empty if that takes too long.
    pub fn nat_counters(&self) -> impl Future<Output = NatCounters> + use<> {
        let (reply, answer) = channel::bounded(1);
        let _ = self.work.try_send(Work::CountNat(reply));
        let answered = async move { answer.recv().await.unwrap_or_default() };
        let too_late = async {
            Timer::after(COUNTERS_TIMEOUT).await;
            NatCounters::new()
        };
        answered.or(too_late)
    }

    /// To be done before [`KernelTasks::finish`] is over.
    pub fn persist_nat(&self) {
        let _ = self.work.try_send(Work::PersistNat);
    }

    /// Requests the kernel's tables; answered by [`Event::Network`].
    pub fn request_snapshot(&mut self, bgp: Bgp, vips: BTreeSet<Prefix>) {
        let _ = self.wanted.try_send(SnapshotRequest { bgp, vips });
    }

    /// Waits for what is still to be done, a second at most.
    pub async fn finish(&mut self) {
        self.work.close();
        if let Some(working) = self.working.take() {
            let limit = async {
                Timer::after(FINISH_TIMEOUT).await;
            };
            working.or(limit).await;
        }
    }
}

async fn kernel_worker(
    mut kernel: Kernel,
    names: KernelNames,
    work: Receiver<Work>,
    events: Sender<Event>,
) {
    let mut verify_at = Instant::now() + VERIFY_NAT;
    let mut next = None;
    loop {
        let now = match next.take() {
            Some(work) => work,
            None => match next_work(&kernel, &work, &mut verify_at).await {
                Ok(work) => work,
                Err(_) => return,
            },
        };
        let mut steps = Vec::new();
        match now {
            Work::Step(id, step) => match address_change(&names, step) {
                Ok(change) => {
                    steps.push((id, change));
                    next = take_changes(&names, &work, &mut steps);
                }
                Err(change) => {
                    let done = kernel.update_nat(&names.nat_table, nft(change)).await;
                    let result = done.map(|()| StepResult::Done);
                    if !answer(&events, id, result).await {
                        return;
                    }
                }
            },
            other => perform_nat_work(&mut kernel, &names, other).await,
        }
        let (ids, changes): (Vec<StepId>, Vec<AddressChange>) = steps.into_iter().unzip();
        let results = kernel.change_addresses(&changes).await;
        for (id, result) in ids.into_iter().zip(results) {
            if !answer(&events, id, result.map(outcome)).await {
                return;
            }
        }
    }
}

/// Takes further queued address changes into the batch; also returns the first work of another kind.
fn take_changes(
    names: &KernelNames,
    work: &Receiver<Work>,
    steps: &mut Vec<(StepId, AddressChange)>,
) -> Option<Work> {
    while steps.len() < MAX_BATCH {
        match work.try_recv().ok()? {
            Work::Step(id, step) => match address_change(names, step) {
                Ok(change) => steps.push((id, change)),
                Err(change) => return Some(Work::Step(id, Step::UpdateNat(change))),
            },
            other => return Some(other),
        }
    }
    None
}

/// `false` when the event loop has ended.
async fn answer(
    events: &Sender<Event>,
    step: StepId,
    result: Result<StepResult, NetlinkError>,
) -> bool {
    let result = result.map_err(|error| StepError {
        permanent: error.is_permanent(),
        message: error.to_string(),
    });
    events.send(Event::Done { step, result }).await.is_ok()
}

/// The step as an address change; `Err`: it is a NAT change.
fn address_change(names: &KernelNames, step: Step) -> Result<AddressChange, NatChange> {
    let interface = || names.interface.clone();
    match step {
        Step::AddAddress {
            prefix,
            label,
            lifetime,
            ..
        } => Ok(AddressChange::Add(VipAddress {
            interface: interface(),
            prefix,
            label,
            lifetime,
        })),
        Step::RemoveAddress { prefix } => Ok(AddressChange::Remove(interface(), prefix)),
        Step::UpdateNat(change) => Err(change),
    }
}

fn outcome(changed: AddressChanged) -> StepResult {
    match changed {
        AddressChanged::Added(Added::Foreign) | AddressChanged::Removed(Removed::Foreign) => {
            StepResult::Foreign
        }
        AddressChanged::Added(Added::Adopted) => StepResult::Adopted,
        AddressChanged::Added(Added::Done)
        | AddressChanged::Removed(Removed::Done | Removed::Absent) => StepResult::Done,
    }
}

/// The next work. NAT tables that other programs can change are checked once a minute.
async fn next_work(
    kernel: &Kernel,
    work: &Receiver<Work>,
    verify_at: &mut Instant,
) -> Result<Work, RecvError> {
    if !kernel.is_nat_unowned() {
        return work.recv().await;
    }
    let verify = async {
        Timer::at(*verify_at).await;
        *verify_at = Instant::now() + VERIFY_NAT;
        Ok(Work::VerifyNat)
    };
    work.recv().or(verify).await
}

/// Work that is not a step: errors are only logged.
async fn perform_nat_work(kernel: &mut Kernel, names: &KernelNames, work: Work) {
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
        Work::ClearStaleNat => {
            // A kernel without nf_tables has nothing to clear.
            if let Err(error) = kernel.clear_stale_nat(&names.nat_table).await {
                log::debug!("cannot list stale NAT tables: {error}");
            }
        }
        Work::VerifyNat => match kernel.verify_nat().await {
            Ok(false) => {}
            Ok(true) => {
                log::warn!("the NAT rules were changed by another program: they are restored")
            }
            Err(error) => log::warn!("cannot look at the NAT rules: {error}"),
        },
        // Steps are performed by the caller, which sends their events.
        Work::Step(..) => {}
    }
}

/// Converts the core's rules to nf_tables rules. All VIPs of an app share one counter for a mapping.
fn nft(change: NatChange) -> nftables::NatChange {
    let rule = |rule: NatRule| nftables::NatRule {
        counter: nftables::counter_name(rule.app.as_str(), rule.protocol.number(), rule.listen),
        vip: rule.vip,
        protocol: rule.protocol.number(),
        listen: rule.listen,
        target: rule.target,
        destination: rule.destination,
    };
    nftables::NatChange {
        add: change.add.into_iter().map(rule).collect(),
        remove: change.remove.into_iter().map(rule).collect(),
    }
}

/// Finds a previous process by its leased addresses of our VIPs. If apps may come later (Consul, state
/// file), any address with our IFA_PROTO counts.
pub async fn predecessor(config: &Config) -> Option<Predecessor> {
    let mut kernel = Kernel::open().ok()?;
    let addresses = kernel.addresses_on_lo().await.ok()?;
    let later = config.agent.consul.is_some() || config.agent.state_file.is_some();
    let wanted = |addr: IpAddr| {
        let mut vips = config.apps.iter().flat_map(|app| &app.vips);
        vips.any(|vip| vip.prefix().contains(addr))
    };
    let labeled = |label: &str| {
        let mut apps = config.apps.iter();
        apps.any(|app| label == address::label("lo", app.name.as_str()))
    };
    let ours = |a: &Address| {
        let marked = a.proto == Some(IFAPROT_SIDECAST);
        let label = a.label.as_deref().is_some_and(labeled);
        !a.is_permanent() && ((marked && (later || wanted(a.addr))) || (label && wanted(a.addr)))
    };
    let left = addresses.iter().find(|a| ours(a))?;
    let needs_nat = config.apps.iter().any(|app| !app.nats.is_empty());
    let forwarding = !needs_nat
        || kernel
            .has_stale_nat(&KernelNames::new(config).nat_table)
            .await;
    log::info!(
        "taking over from a previous process: its address {} is present",
        left.addr
    );
    Some(Predecessor { forwarding })
}

/// Dry run: logs each step and reports it as done.
async fn dry_run_worker(work: Receiver<Work>, events: Sender<Event>) {
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

/// Removes stale NAT tables after a delay, in which every app has its first checks and rules of the previous process
/// are adopted.
async fn clear_stale_nat(work: Sender<Work>) {
    Timer::after(CLEAR_STALE_AFTER).await;
    let _ = work.send(Work::ClearStaleNat).await;
}

/// Address changes in one batch.
const MAX_BATCH: usize = 128;
const CLEAR_STALE_AFTER: Duration = Duration::from_secs(8);
/// The core's resync interval.
const VERIFY_NAT: Duration = Duration::from_secs(60);
/// How long an answer waits for the NAT counters.
const COUNTERS_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the exit waits for the kernel.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);
