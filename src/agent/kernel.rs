//! The kernel's side: steps performed strictly in order, and a look at its tables whenever they change.

use super::Executor;
use crate::config::{Bgp, Config, Remote};
use crate::core::{Event, StepError, StepId, StepResult};
use crate::discovery;
use crate::io::netlink::{Added, Change, Changes, Kernel, Removed, VipAddress};
use crate::net::Prefix;
use crate::netlink::{NetlinkError, nftables};
use crate::plan::{NatRule, NatTable, Step};
use smol::Timer;
use smol::channel::{self, Receiver, Sender};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// What to look for in the kernel's tables.
struct Wanted {
    bgp: Bgp,
    vips: BTreeSet<Prefix>,
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

pub struct KernelTasks {
    steps: Sender<(StepId, Step)>,
    wanted: Sender<Wanted>,
    _tasks: [smol::Task<()>; 3],
}

impl KernelTasks {
    pub fn open(
        executor: &Executor,
        events: Sender<Event>,
        config: &Config,
        dry_run: bool,
    ) -> io::Result<Self> {
        let error = |error: NetlinkError| io::Error::other(format!("netlink: {error}"));
        let (steps, steps_in) = channel::unbounded();
        let (wanted, wanted_in) = channel::unbounded();
        let (dirty, dirty_in) = channel::bounded(1);
        let unnumbered = config
            .bgp
            .peers
            .iter()
            .any(|peer| matches!(peer.remote, Remote::Interface(_)));
        let changes = Changes::open(unnumbered).map_err(error)?;
        let names = Names::new(config);
        let tasks = if dry_run {
            executor.spawn(perform_none(steps_in, events.clone()))
        } else {
            let kernel = Kernel::open().map_err(error)?;
            executor.spawn(perform_all(kernel, names, steps_in, events.clone()))
        };
        let reader = Kernel::open().map_err(error)?;
        Ok(Self {
            steps,
            wanted,
            _tasks: [
                tasks,
                executor.spawn(look_all(reader, wanted_in, dirty_in, events.clone())),
                executor.spawn(watch(changes, dirty, events)),
            ],
        })
    }

    pub fn step(&self, id: StepId, step: Step) {
        // The task lives as long as we do.
        let _ = self.steps.try_send((id, step));
    }

    pub fn look(&self, bgp: Bgp, vips: BTreeSet<Prefix>) {
        let _ = self.wanted.try_send(Wanted { bgp, vips });
    }
}

async fn perform_all(
    mut kernel: Kernel,
    names: Names,
    steps: Receiver<(StepId, Step)>,
    events: Sender<Event>,
) {
    while let Ok((id, step)) = steps.recv().await {
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

/// The core's rules as nf_tables has them, each with a counter of its own.
fn nft(table: NatTable, name: &str) -> nftables::NatTable {
    let rule = |rule: NatRule| nftables::NatRule {
        counter: nftables::counter_name(
            &rule.vip.addr().to_string(),
            rule.protocol.number(),
            rule.listen,
        ),
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

/// A dry run says what it would do, and lets the core go on as if it were done.
async fn perform_none(steps: Receiver<(StepId, Step)>, events: Sender<Event>) {
    while let Ok((step, what)) = steps.recv().await {
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
    wanted: Receiver<Wanted>,
    dirty: Receiver<()>,
    events: Sender<Event>,
) {
    let Ok(mut current) = wanted.recv().await else {
        return;
    };
    loop {
        while let Ok(newer) = wanted.try_recv() {
            current = newer;
        }
        let targets = targets(&current.bgp);
        match kernel.snapshot(&targets).await {
            Ok(snapshot) => {
                let network = discovery::network(&snapshot, &current.bgp, &current.vips);
                if events.send(Event::Network(network)).await.is_err() {
                    return;
                }
            }
            Err(error) => log::warn!("cannot read the kernel's tables: {error}"),
        }
        let newer = async { wanted.recv().await.map(Some) };
        let changed = async {
            let _ = dirty.recv().await;
            // A link that comes up changes a dozen things at once.
            Timer::after(SETTLE).await;
            let _ = dirty.try_recv();
            Ok(None)
        };
        match smol::future::or(newer, changed).await {
            Ok(Some(newer)) => current = newer,
            Ok(None) => {}
            Err(_) => return,
        }
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

async fn watch(mut changes: Changes, dirty: Sender<()>, events: Sender<Event>) {
    loop {
        match changes.next().await {
            Ok(Change::Address {
                removed: Some(prefix),
            }) => {
                if events.send(Event::AddressLost(prefix)).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(error) => {
                log::warn!("changes in the kernel's tables are not seen any more: {error}");
                return;
            }
        }
        // A full channel says already that there is something to look at.
        let _ = dirty.try_send(());
    }
}

/// How long the tables are left to settle before they are read again.
const SETTLE: Duration = Duration::from_millis(20);
