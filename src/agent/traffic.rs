//! Watches the packets to VIPs that drain. It is a task of its own, so that it and the changes of addresses do not wait
//! for each other.

use super::{Executor, kernel};
use crate::config::Config;
use crate::core::Event;
use crate::io::netlink::Traffic;
use crate::net::Prefix;
use smol::Timer;
use smol::channel::{self, Receiver, Sender};
use smol::future::FutureExt;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Watches the packets of the VIPs that the core names.
pub struct TrafficWatch {
    executor: Executor,
    events: Sender<Event>,
    /// The name of its nf_tables table; `None` in a dry run, which changes nothing in the kernel.
    table: Option<String>,
    watching: Option<Watching>,
}

struct Watching {
    vips: Sender<BTreeSet<Prefix>>,
    /// When the task ends, the socket that owns the table is closed.
    _task: smol::Task<()>,
}

impl TrafficWatch {
    /// Watches nothing yet.
    pub fn new(
        executor: &Executor,
        events: &Sender<Event>,
        config: &Config,
        dry_run: bool,
    ) -> Self {
        Self {
            executor: executor.clone(),
            events: events.clone(),
            table: (!dry_run).then(|| kernel::seen_table(config)),
            watching: None,
        }
    }

    /// Watches these VIPs and no others. The times of their last packets are sent as [`Event::Traffic`].
    pub fn watch(&mut self, vips: BTreeSet<Prefix>) {
        let Some(table) = &self.table else { return };
        if vips.is_empty() {
            self.watching = None;
            return;
        }
        // A task that failed has closed its channel: the next attempt is a new one.
        if let Some(watching) = &self.watching
            && watching.vips.try_send(vips.clone()).is_ok()
        {
            return;
        }
        let (sender, changes) = channel::unbounded();
        let watch = watch(table.clone(), vips, changes, self.events.clone());
        self.watching = Some(Watching {
            vips: sender,
            _task: self.executor.spawn(watch.boxed_local()),
        });
    }
}

async fn watch(
    table: String,
    vips: BTreeSet<Prefix>,
    changes: Receiver<BTreeSet<Prefix>>,
    events: Sender<Event>,
) {
    let failed = async {
        let mut traffic = Traffic::open(&table)?;
        traffic.watch(vips).await?;
        loop {
            let change = async { changes.recv().await.ok() };
            let pause = async {
                Timer::after(INTERVAL).await;
                None
            };
            if let Some(vips) = change.or(pause).await {
                traffic.watch(vips).await?;
                continue;
            }
            // Taken before the read: packets that arrive during it may be missing from the answer.
            let at = Instant::now();
            let last_packets = Ok(traffic.read().await?);
            if events
                .send(Event::Traffic { at, last_packets })
                .await
                .is_err()
            {
                return Ok(());
            }
        }
    };
    let ended: Result<(), crate::netlink::NetlinkError> = failed.await;
    if let Err(error) = ended {
        let last_packets = Err(error.to_string());
        let at = Instant::now();
        let _ = events.send(Event::Traffic { at, last_packets }).await;
    }
}

/// The interval of reading the table.
const INTERVAL: Duration = Duration::from_millis(100);
