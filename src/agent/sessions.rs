//! The connections of all peers.

use super::Executor;
use crate::bgp::peer::ConnId;
use crate::core::{Event, Transport, Ttl};
use crate::discovery::PeerName;
use crate::io::bgp::{Link, Target};
use crate::io::sockopt::SessionOptions;
use smol::Timer;
use smol::channel::Sender;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

pub struct Sessions {
    executor: Executor,
    events: Sender<Event>,
    /// Shared with the task that waits for acknowledgements; nobody holds it across an await.
    links: Rc<RefCell<BTreeMap<(PeerName, ConnId), Link>>>,
    closing: Vec<smol::Task<()>>,
    awaiting: Option<smol::Task<()>>,
}

impl Sessions {
    pub fn new(executor: &Executor, events: Sender<Event>) -> Self {
        Self {
            executor: executor.clone(),
            events,
            links: Rc::default(),
            closing: Vec::new(),
            awaiting: None,
        }
    }

    pub fn connect(&mut self, peer: PeerName, conn: ConnId, transport: &Transport) {
        let name = peer.clone();
        let wrap = move |event| Event::Bgp {
            peer: name.clone(),
            event,
        };
        let link = Link::connect(
            &self.executor,
            conn,
            target(transport),
            self.events.clone(),
            wrap,
        );
        self.links.borrow_mut().insert((peer, conn), link);
    }

    pub fn send(&mut self, peer: PeerName, conn: ConnId, bytes: Vec<u8>) {
        if let Some(link) = self.links.borrow().get(&(peer, conn)) {
            link.send(bytes);
        }
    }

    pub fn close(&mut self, peer: PeerName, conn: ConnId) {
        let link = self.links.borrow_mut().remove(&(peer, conn));
        self.closing.retain(|task| !task.is_finished());
        self.closing
            .extend(link.and_then(|link| link.close(&self.executor)));
    }

    pub fn set_user_timeout(&mut self, peer: PeerName, conn: ConnId, timeout: Option<Duration>) {
        if let Some(link) = self.links.borrow().get(&(peer, conn)) {
            link.set_user_timeout(timeout);
        }
    }

    /// Looks every few milliseconds until all that was sent is acknowledged. The core does not wait
    /// for long, so this does not look for long.
    pub fn await_acknowledged(&mut self) {
        let (links, events) = (self.links.clone(), self.events.clone());
        self.awaiting = Some(self.executor.spawn(async move {
            for _ in 0..ACKNOWLEDGED_LOOKS {
                if links.borrow().values().all(Link::all_acknowledged) {
                    break;
                }
                Timer::after(ACKNOWLEDGED_EVERY).await;
            }
            let _ = events.send(Event::Acknowledged).await;
        }));
    }

    /// Waits for the connections that were told to close; each takes a second at most.
    pub async fn finish(&mut self) {
        for task in self.closing.drain(..) {
            task.await;
        }
    }
}

fn target(transport: &Transport) -> Target {
    let (ttl, ttl_security) = match transport.ttl {
        Ttl::System => (None, None),
        Ttl::Limit(ttl) => (Some(ttl), None),
        Ttl::Security { hops } => (None, Some(hops)),
    };
    Target {
        remote: transport.remote,
        local: transport.local,
        options: SessionOptions {
            ttl,
            ttl_security,
            password: transport
                .password
                .as_ref()
                .map(|secret| secret.expose().as_bytes().to_vec()),
        },
    }
}

const ACKNOWLEDGED_EVERY: Duration = Duration::from_millis(5);
/// A little over the second that the core waits.
const ACKNOWLEDGED_LOOKS: u32 = 220;
