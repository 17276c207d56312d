//! The connections of all peers.

use super::Executor;
use crate::bgp::peer::{self, ConnId};
use crate::core::{Core, Event, Transport, Ttl};
use crate::discovery::PeerName;
use crate::io::bgp::{Link, Target};
use crate::io::sockopt::{self, SessionOptions};
use smol::channel::Sender;
use smol::{Async, Timer};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

pub struct Sessions {
    executor: Executor,
    events: Sender<Event>,
    /// Shared with the task that waits for acknowledgements; nobody holds it across an await.
    links: Rc<RefCell<BTreeMap<(PeerName, ConnId), Link>>>,
    closing: Vec<smol::Task<()>>,
    /// Connections taken from peers so far.
    accepted: u64,
    awaiting: Option<smol::Task<()>>,
}

impl Sessions {
    pub fn new(executor: &Executor, events: Sender<Event>) -> Self {
        Self {
            executor: executor.clone(),
            events,
            links: Rc::default(),
            closing: Vec::new(),
            accepted: 0,
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

    /// Takes a connection that the peer has opened, if it can have what its session needs.
    pub fn accept(
        &mut self,
        peer: PeerName,
        transport: &Transport,
        stream: Async<TcpStream>,
    ) -> io::Result<ConnId> {
        self.closing.retain(|task| !task.is_finished());
        if self.closing.len() >= CLOSING_MOST {
            return Err(io::Error::other(
                "too many connections of it are being closed",
            ));
        }
        // The key came with the connection.
        let options = SessionOptions {
            password: None,
            ..target(transport).options
        };
        sockopt::set_session_options(&stream, transport.remote, &options)?;
        self.accepted += 1;
        let conn = ConnId::accepted(self.accepted);
        let name = peer.clone();
        let wrap = move |event| Event::Bgp {
            peer: name.clone(),
            event,
        };
        let link = Link::accepted(&self.executor, conn, stream, self.events.clone(), wrap);
        self.links.borrow_mut().insert((peer, conn), link);
        Ok(conn)
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

    /// A connection or an attempt that ended by itself is nobody's to close: its socket goes here. What
    /// was received is put into its event.
    pub fn take_note(&mut self, peer: &PeerName, event: &mut peer::Event) {
        use peer::Event::{Closed, ConnectFailed, Received};
        match event {
            Closed { conn, .. } | ConnectFailed { conn, .. } => {
                self.links.borrow_mut().remove(&(peer.clone(), *conn));
            }
            Received { conn, bytes } => {
                let links = self.links.borrow();
                *bytes = links
                    .get(&(peer.clone(), *conn))
                    .map_or_else(Vec::new, Link::take);
            }
            _ => {}
        }
    }

    /// One full round of reading: gives the core what has arrived on every connection, and who has
    /// acknowledged all, since a probe may have been answered while nobody looked.
    pub fn receive(&self, core: &mut Core, now: Instant) {
        for ((peer, conn), link) in self.links.borrow().iter() {
            let bytes = link.receive();
            if !bytes.is_empty() {
                let (peer, conn) = (peer.clone(), *conn);
                let event = peer::Event::Received { conn, bytes };
                core.handle(now, Event::Bgp { peer, event });
            }
            if link.is_answered() {
                let (peer, conn) = (peer.clone(), *conn);
                let event = peer::Event::Acknowledged { conn };
                core.handle(now, Event::Bgp { peer, event });
            }
        }
    }

    pub fn set_user_timeout(&mut self, peer: PeerName, conn: ConnId, timeout: Option<Duration>) {
        if let Some(link) = self.links.borrow().get(&(peer, conn)) {
            link.set_user_timeout(timeout);
        }
    }

    pub fn reset(&mut self, peer: PeerName, conn: ConnId) {
        if let Some(link) = self.links.borrow_mut().remove(&(peer, conn)) {
            link.reset();
        }
    }

    /// Looks every few milliseconds whether the peer has acknowledged what was sent to it. The machine
    /// does not wait for long, so this does not look for long.
    pub fn probe(&mut self, peer: PeerName, conn: ConnId) {
        let (links, events) = (self.links.clone(), self.events.clone());
        let key = (peer, conn);
        let watch = async move {
            for _ in 0..ACKNOWLEDGED_LOOKS {
                Timer::after(ACKNOWLEDGED_EVERY).await;
                let answered = links.borrow().get(&key).map(Link::is_answered);
                match answered {
                    None => return,
                    Some(false) => {}
                    Some(true) => {
                        let (peer, event) = (key.0, peer::Event::Acknowledged { conn });
                        let _ = events.send(Event::Bgp { peer, event }).await;
                        return;
                    }
                }
            }
        };
        self.executor.spawn(watch).detach();
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

/// Connections on their way out, of all peers: beyond that no more are taken in.
const CLOSING_MOST: usize = 64;
const ACKNOWLEDGED_EVERY: Duration = Duration::from_millis(5);
/// A little over the second that the core waits.
const ACKNOWLEDGED_LOOKS: u32 = 220;

#[cfg(test)]
mod tests {
    use super::*;
    use smol::channel;
    use std::net::{SocketAddr, TcpListener};

    fn transport(remote: SocketAddr) -> Transport {
        Transport {
            remote,
            local: None,
            interface: None,
            password: None,
            ttl: Ttl::System,
        }
    }

    /// The event as the agent takes it.
    async fn next(sessions: &mut Sessions, events: &channel::Receiver<Event>) -> peer::Event {
        let Event::Bgp { peer, mut event } = events.recv().await.unwrap() else {
            panic!("of something else");
        };
        sessions.take_note(&peer, &mut event);
        event
    }

    #[test]
    fn what_ended_by_itself_leaves_no_socket_behind() {
        let executor = Executor::default();
        let (out, events) = channel::bounded(8);
        let mut sessions = Sessions::new(&executor, out);
        let name = PeerName::new(std::net::IpAddr::from([127, 0, 0, 1]), None);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let transport = transport(listener.local_addr().unwrap());
        smol::block_on(executor.run(async {
            sessions.connect(name.clone(), ConnId(1), &transport);
            let event = next(&mut sessions, &events).await;
            assert!(matches!(event, peer::Event::Connected { .. }), "{event:?}");
            assert_eq!(sessions.links.borrow().len(), 1);
            drop(listener.accept().unwrap());
            let event = next(&mut sessions, &events).await;
            assert!(matches!(event, peer::Event::Closed { .. }), "{event:?}");
            assert!(sessions.links.borrow().is_empty());
            drop(listener);
            sessions.connect(name.clone(), ConnId(2), &transport);
            let event = next(&mut sessions, &events).await;
            assert!(
                matches!(event, peer::Event::ConnectFailed { .. }),
                "{event:?}"
            );
            assert!(sessions.links.borrow().is_empty());
        }));
    }
}
