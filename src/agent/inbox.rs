//! Everything the loop waits for, in order of urgency, and the one timer.

use super::bfd::Bfd;
use super::calls::{Counted, Counting, ListenerKind};
use super::rereading::Reread;
use crate::core::Event;
use crate::io::bgp_listen::Accepted;
use crate::io::http::Call;
use crate::io::signal;
use smol::Timer;
use smol::channel::{self, Receiver, Sender};
use smol::future::{self, FutureExt};
use std::time::Instant;

/// What woke the loop.
pub enum Wake {
    Event(Event),
    Call(ListenerKind, Call),
    Counted(Counted),
    Accepted(Accepted),
    Signal(signal::Request),
    Reread(Box<Reread>),
    Bfd,
    Deadline,
}

pub struct Inbox {
    events: Receiver<Event>,
    /// What the peers send, apart from everything else: a full table must hold nothing up.
    from_peers: Receiver<Event>,
    calls: Receiver<Call>,
    metrics: Receiver<Call>,
    accepted: Receiver<Accepted>,
    signals: Receiver<signal::Request>,
    reread: Receiver<Box<Reread>>,
    timer: Timer,
    /// What `timer` is set to.
    timer_at: Option<Instant>,
}

/// The other ends.
pub struct InboxSenders {
    pub events: Sender<Event>,
    pub from_peers: Sender<Event>,
    pub calls: Sender<Call>,
    pub metrics: Sender<Call>,
    pub accepted: Sender<Accepted>,
    pub signals: Sender<signal::Request>,
    pub reread: Sender<Box<Reread>>,
}

pub fn open() -> (InboxSenders, Inbox) {
    let (events_in, events) = channel::bounded(EVENTS);
    let (peers_in, from_peers) = channel::bounded(FROM_PEERS);
    let (calls_in, calls) = channel::bounded(CALLS);
    let (metrics_in, metrics) = channel::bounded(CALLS);
    let (accepted_in, accepted) = channel::bounded(ACCEPTED);
    let (signals_in, signals) = channel::unbounded();
    let (reread_in, reread) = channel::bounded(1);
    let senders = InboxSenders {
        events: events_in,
        from_peers: peers_in,
        calls: calls_in,
        metrics: metrics_in,
        accepted: accepted_in,
        signals: signals_in,
        reread: reread_in,
    };
    let inbox = Inbox {
        events,
        from_peers,
        calls,
        metrics,
        accepted,
        signals,
        reread,
        timer: Timer::never(),
        timer_at: None,
    };
    (senders, inbox)
}

impl Inbox {
    /// Waits for the first thing to happen, at most until `deadline`.
    pub async fn next(
        &mut self,
        deadline: Option<Instant>,
        bfd: &Bfd,
        counting: &mut Counting,
    ) -> Wake {
        if deadline != self.timer_at {
            self.timer = deadline.map_or_else(Timer::never, Timer::at);
            self.timer_at = deadline;
        }
        let signal = receive(&self.signals, Wake::Signal);
        let accepted = receive(&self.accepted, Wake::Accepted);
        let event = receive(&self.events, Wake::Event);
        let call = receive(&self.calls, |call| Wake::Call(ListenerKind::Api, call));
        let metrics = receive(&self.metrics, |call| {
            Wake::Call(ListenerKind::Metrics, call)
        });
        let from_peers = receive(&self.from_peers, Wake::Event);
        let reread = receive(&self.reread, Wake::Reread);
        let counted = async {
            let counted = counting.next().await;
            counted.map_or(Wake::Deadline, Wake::Counted)
        };
        let timer = &mut self.timer;
        let due = async {
            timer.await;
            Wake::Deadline
        };
        let bfd = async {
            bfd.readable().await;
            Wake::Bfd
        };
        let urgent = signal.or(due).or(bfd).or(accepted).or(event);
        let wake = urgent
            .or(call)
            .or(metrics)
            .or(reread)
            .or(counted)
            .or(from_peers)
            .await;
        if matches!(wake, Wake::Deadline) {
            self.timer_at = None;
        }
        wake
    }

    /// What else has arrived, but no more than a handful.
    pub fn rest(&self) -> impl Iterator<Item = Event> {
        let events = std::iter::from_fn(|| self.events.try_recv().ok()).take(BATCH);
        let from_peers = std::iter::from_fn(|| self.from_peers.try_recv().ok()).take(FROM_PEERS);
        events.chain(from_peers)
    }

    /// Takes what peers still say and forgets it, until dropped.
    pub async fn forget_peers(&self) {
        while self.from_peers.recv().await.is_ok() {}
        future::pending().await
    }
}

/// A closed channel is nothing to act upon.
async fn receive<T>(from: &Receiver<T>, wake: impl FnOnce(T) -> Wake) -> Wake {
    from.recv().await.map_or(Wake::Deadline, wake)
}

/// Accepted connections waiting for the loop; the others wait in the kernel.
const ACCEPTED: usize = 16;
/// Events waiting for the loop, as many as one turn takes; whoever has more to say waits too.
const EVENTS: usize = 32;
/// Pieces of what the peers sent, up to 16 KiB each, waiting for the loop, and taken in one turn.
const FROM_PEERS: usize = 4;
/// Requests to one listener waiting for the loop; others wait in their connections.
const CALLS: usize = 16;
/// Events taken in one turn before deadlines are looked at.
const BATCH: usize = 32;
