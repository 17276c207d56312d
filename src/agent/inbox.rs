//! What the event loop waits for, in order of priority, and its one timer.

use super::bfd::Bfd;
use super::calls::{CounterRead, CounterReads, ListenerKind};
use super::config_reader::ConfigRead;
use crate::core::Event;
use crate::io::bgp_listen::AcceptedConnection;
use crate::io::deadline_timer::DeadlineTimer;
use crate::io::http::Call;
use crate::io::signal;
use smol::channel::{self, Receiver, Sender};
use smol::future::{self, FutureExt};
use std::io;
use std::time::Instant;

/// What woke the loop.
pub enum Wake {
    Event(Event),
    Call(ListenerKind, Call),
    CounterRead(CounterRead),
    Accepted(AcceptedConnection),
    Signal(signal::Request),
    ConfigRead(Box<ConfigRead>),
    Bfd,
    Deadline,
}

/// The receiving ends of all channels of the event loop, and its timer.
pub struct Inbox {
    events: Receiver<Event>,
    /// Data from the peers, separate from everything else: a full table must not delay other events.
    from_peers: Receiver<Event>,
    calls: Receiver<Call>,
    metrics: Receiver<Call>,
    accepted: Receiver<AcceptedConnection>,
    signals: Receiver<signal::Request>,
    config_read: Receiver<Box<ConfigRead>>,
    timer: DeadlineTimer,
}

/// The sending ends of the inbox.
pub struct InboxSenders {
    pub events: Sender<Event>,
    pub from_peers: Sender<Event>,
    pub calls: Sender<Call>,
    pub metrics: Sender<Call>,
    pub accepted: Sender<AcceptedConnection>,
    pub signals: Sender<signal::Request>,
    pub config_read: Sender<Box<ConfigRead>>,
}

/// Opens the bounded channels of the event loop, and its timer.
pub fn open() -> io::Result<(InboxSenders, Inbox)> {
    let (events_in, events) = channel::bounded(EVENTS);
    let (peers_in, from_peers) = channel::bounded(FROM_PEERS);
    let (calls_in, calls) = channel::bounded(CALLS);
    let (metrics_in, metrics) = channel::bounded(CALLS);
    let (accepted_in, accepted) = channel::bounded(ACCEPTED);
    let (signals_in, signals) = channel::unbounded();
    let (reread_in, config_read) = channel::bounded(1);
    let senders = InboxSenders {
        events: events_in,
        from_peers: peers_in,
        calls: calls_in,
        metrics: metrics_in,
        accepted: accepted_in,
        signals: signals_in,
        config_read: reread_in,
    };
    let inbox = Inbox {
        events,
        from_peers,
        calls,
        metrics,
        accepted,
        signals,
        config_read,
        timer: DeadlineTimer::open()?,
    };
    Ok((senders, inbox))
}

impl Inbox {
    /// Waits for the next event, at most until `deadline`.
    pub async fn next(
        &mut self,
        deadline: Option<Instant>,
        bfd: &Bfd,
        counter_reads: &mut CounterReads,
    ) -> Wake {
        let signal = receive(&self.signals, Wake::Signal);
        let accepted = receive(&self.accepted, Wake::Accepted);
        let event = receive(&self.events, Wake::Event);
        let call = receive(&self.calls, |call| Wake::Call(ListenerKind::Api, call));
        let metrics = receive(&self.metrics, |call| {
            Wake::Call(ListenerKind::Metrics, call)
        });
        let from_peers = receive(&self.from_peers, Wake::Event);
        let config_read = receive(&self.config_read, Wake::ConfigRead);
        let counted = async {
            let counted = counter_reads.next().await;
            counted.map_or(Wake::Deadline, Wake::CounterRead)
        };
        let timer = &mut self.timer;
        let due = async {
            timer.wait(deadline).await;
            Wake::Deadline
        };
        let bfd = async {
            bfd.readable().await;
            Wake::Bfd
        };
        let urgent = signal.or(due).or(bfd).or(accepted).or(event);
        urgent
            .or(call)
            .or(metrics)
            .or(config_read)
            .or(counted)
            .or(from_peers)
            .await
    }

    /// More events that are pending, up to a limit.
    pub fn pending(&self) -> impl Iterator<Item = Event> {
        let events = std::iter::from_fn(|| self.events.try_recv().ok()).take(BATCH);
        let from_peers = std::iter::from_fn(|| self.from_peers.try_recv().ok()).take(FROM_PEERS);
        events.chain(from_peers)
    }

    /// Receives and discards data of the peers, until dropped.
    pub async fn discard_peer_events(&self) {
        while self.from_peers.recv().await.is_ok() {}
        future::pending().await
    }
}

/// Waits forever on a closed channel: the channel of calls is closed if there is no listener.
async fn receive<T>(from: &Receiver<T>, wake: impl FnOnce(T) -> Wake) -> Wake {
    match from.recv().await {
        Ok(item) => wake(item),
        Err(_) => future::pending().await,
    }
}

/// Accepted connections queued for the loop; further ones stay in the kernel's accept queue.
const ACCEPTED: usize = 16;
/// Events queued for the loop, as many as one iteration takes; senders of further ones wait.
const EVENTS: usize = 32;
/// Blocks of data from the peers, up to 16 KiB each, queued for the loop and taken in one iteration.
const FROM_PEERS: usize = 4;
/// Requests to one listener queued for the loop; further ones wait in their connections.
const CALLS: usize = 16;
/// Events taken in one iteration before deadlines are checked.
const BATCH: usize = 32;
