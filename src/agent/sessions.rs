//! The connections of all peers.

use super::Executor;
use crate::bgp::peer::{self, ConnId};
use crate::core::{Core, Event, Transport};
use crate::discovery::PeerName;
use crate::io::bgp::{ConnectionHandle, Target};
use crate::io::sockopt::{self, SessionOptions};
use crate::io::speakers;
use crate::small_set::SmallSet;
use smol::channel::Sender;
use smol::future::FutureExt;
use smol::{Async, Timer};
use std::cell::RefCell;
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The TCP connections of all BGP sessions.
pub struct Sessions {
    executor: Executor,
    events: Sender<Event>,
    /// Shared with the task that waits for acknowledgments; it is never held across an await.
    links: Rc<RefCell<Vec<Link>>>,
    closing: Vec<smol::Task<()>>,
    /// Connections taken from peers so far.
    accepted: u64,
    awaiting: Option<smol::Task<()>>,
}

/// The socket of one connection.
struct Link {
    peer: PeerName,
    conn: ConnId,
    handle: ConnectionHandle,
}

impl Sessions {
    /// No connections yet.
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

    /// Looks for another program's session with the peer and sends the result as an event; without a local address
    /// it does nothing.
    pub fn find_other_speaker(&self, peer: PeerName, transport: &Transport) {
        let (events, remote) = (self.events.clone(), transport.remote);
        let Some(local) = transport.local else { return };
        let look = async move {
            let found = smol::unblock(move || speakers::find(local, remote)).await;
            let speaker = found.map(|speaker| speaker.to_string());
            let _ = events.send(Event::OtherSpeaker { peer, speaker }).await;
        };
        self.executor.spawn(look.boxed_local()).detach();
    }

    /// Begins a connection; its events carry `conn`.
    pub fn connect(&mut self, peer: PeerName, conn: ConnId, transport: &Transport) {
        let name = peer.clone();
        let wrap = move |event| Event::Bgp {
            peer: name.clone(),
            event,
        };
        let handle = ConnectionHandle::connect(
            &self.executor,
            conn,
            Target::from(transport),
            self.events.clone(),
            wrap,
        );
        self.links.borrow_mut().push(Link { peer, conn, handle });
    }

    /// Accepts a connection of a peer, if its socket options can be set.
    pub fn accept(
        &mut self,
        peer: PeerName,
        transport: &Transport,
        stream: Async<TcpStream>,
    ) -> io::Result<ConnId> {
        self.closing.retain(|task| !task.is_finished());
        if self.closing.len() >= MAX_CLOSING {
            return Err(io::Error::other(
                "too many connections of all peers are still closing",
            ));
        }
        // An accepted socket inherits the listener's MD5 key.
        let options = SessionOptions {
            password: None,
            ..Target::from(transport).options
        };
        sockopt::set_session_options(&stream, transport.remote, &options)?;
        self.accepted += 1;
        let conn = ConnId::accepted(self.accepted);
        let name = peer.clone();
        let wrap = move |event| Event::Bgp {
            peer: name.clone(),
            event,
        };
        let handle =
            ConnectionHandle::accepted(&self.executor, conn, stream, self.events.clone(), wrap);
        self.links.borrow_mut().push(Link { peer, conn, handle });
        Ok(conn)
    }

    /// Queues bytes on a connection.
    pub fn send(&mut self, peer: PeerName, conn: ConnId, bytes: Vec<u8>) {
        if let Some(handle) = find(&self.links.borrow(), &peer, conn) {
            handle.send(bytes);
        }
    }

    /// Closes a connection once its bytes are sent.
    pub fn close(&mut self, peer: PeerName, conn: ConnId) {
        let handle = self.remove(&peer, conn);
        self.closing.retain(|task| !task.is_finished());
        self.closing
            .extend(handle.and_then(|handle| handle.close(&self.executor)));
    }

    /// Drops the socket of a connection that was closed or could not be opened, and puts received bytes into
    /// their event.
    pub fn note_event(&mut self, peer: &PeerName, event: &mut peer::Event) {
        use peer::Event::{Closed, ConnectFailed, Received};
        match event {
            Closed { conn, .. } | ConnectFailed { conn, .. } => {
                self.remove(peer, *conn);
            }
            Received { conn, bytes } => {
                let links = self.links.borrow();
                let handle = find(&links, peer, *conn);
                *bytes = handle.map_or_else(Vec::new, ConnectionHandle::take);
            }
            _ => {}
        }
    }

    /// Reads every connection once and passes on pending bytes and acknowledgments of probes.
    pub fn receive(&self, core: &mut Core, now: Instant) {
        for link in self.links.borrow().iter() {
            let bytes = link.handle.receive();
            if !bytes.is_empty() {
                let (peer, conn) = (link.peer.clone(), link.conn);
                let event = peer::Event::Received { conn, bytes };
                core.handle(now, Event::Bgp { peer, event });
            }
            if link.handle.is_established_and_acknowledged() {
                let (peer, conn) = (link.peer.clone(), link.conn);
                let event = peer::Event::Acknowledged { conn };
                core.handle(now, Event::Bgp { peer, event });
            }
        }
    }

    /// Tells the core how many bytes each peer's TCP has acknowledged, for views.
    pub fn note_acknowledged(&self, core: &mut Core) {
        for link in self.links.borrow().iter() {
            if let Some(bytes) = link.handle.acknowledged(!link.conn.is_accepted()) {
                core.note_acknowledged(&link.peer, link.conn, bytes);
            }
        }
    }

    /// Sets TCP_USER_TIMEOUT; `None`: the kernel's default.
    pub fn set_user_timeout(&mut self, peer: PeerName, conn: ConnId, timeout: Option<Duration>) {
        if let Some(handle) = find(&self.links.borrow(), &peer, conn) {
            handle.set_user_timeout(timeout);
        }
    }

    /// Closes a connection with a TCP RST.
    pub fn reset(&mut self, peer: PeerName, conn: ConnId) {
        if let Some(handle) = self.remove(&peer, conn) {
            handle.reset();
        }
    }

    /// Polls every few milliseconds whether the peer has acknowledged everything sent (SIOCOUTQ), for a
    /// little over a second.
    pub fn probe(&mut self, peer: PeerName, conn: ConnId) {
        let (links, events) = (self.links.clone(), self.events.clone());
        let watch = async move {
            for _ in 0..ACK_POLLS {
                Timer::after(ACK_POLL_INTERVAL).await;
                let answered = find(&links.borrow(), &peer, conn)
                    .map(ConnectionHandle::is_established_and_acknowledged);
                match answered {
                    None => return,
                    Some(false) => {}
                    Some(true) => {
                        let event = peer::Event::Acknowledged { conn };
                        let _ = events.send(Event::Bgp { peer, event }).await;
                        return;
                    }
                }
            }
        };
        self.executor.spawn(watch.boxed_local()).detach();
    }

    /// Polls every few milliseconds, at first every one, until these peers have acknowledged everything sent, for a
    /// little over a second: then it says nothing, and the core's own time for it is over.
    pub fn await_acknowledged(&mut self, peers: SmallSet<PeerName>) {
        let (links, events) = (self.links.clone(), self.events.clone());
        let wait = async move {
            for poll in 0..ACK_POLLS {
                let done = {
                    let links = links.borrow();
                    let mut awaited = links.iter().filter(|link| peers.contains(&link.peer));
                    awaited.all(|link| link.handle.all_acknowledged())
                };
                if done {
                    let _ = events.send(Event::Acknowledged).await;
                    return;
                }
                let interval = match poll {
                    0..5 => Duration::from_millis(1),
                    _ => ACK_POLL_INTERVAL,
                };
                Timer::after(interval).await;
            }
        };
        self.awaiting = Some(self.executor.spawn(wait.boxed_local()));
    }

    /// Waits for closing connections; each takes a second at most.
    pub async fn finish(&mut self) {
        for task in self.closing.drain(..) {
            task.await;
        }
    }

    fn remove(&self, peer: &PeerName, conn: ConnId) -> Option<ConnectionHandle> {
        let mut links = self.links.borrow_mut();
        let index = links.iter().position(|link| link.is(peer, conn))?;
        Some(links.remove(index).handle)
    }
}

impl Link {
    fn is(&self, peer: &PeerName, conn: ConnId) -> bool {
        self.conn == conn && self.peer == *peer
    }
}

fn find<'l>(links: &'l [Link], peer: &PeerName, conn: ConnId) -> Option<&'l ConnectionHandle> {
    let link = links.iter().find(|link| link.is(peer, conn))?;
    Some(&link.handle)
}

/// The limit of closing connections of all peers, beyond which no more are accepted.
const MAX_CLOSING: usize = 64;
const ACK_POLL_INTERVAL: Duration = Duration::from_millis(5);
/// A little over the second that the core waits.
const ACK_POLLS: u32 = 220;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Ttl;
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
        sessions.note_event(&peer, &mut event);
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
            sessions.connect(name.clone(), ConnId::outgoing(1), &transport);
            let event = next(&mut sessions, &events).await;
            assert!(matches!(event, peer::Event::Connected { .. }), "{event:?}");
            assert_eq!(sessions.links.borrow().len(), 1);
            drop(listener.accept().unwrap());
            let event = next(&mut sessions, &events).await;
            assert!(matches!(event, peer::Event::Closed { .. }), "{event:?}");
            assert!(sessions.links.borrow().is_empty());
            drop(listener);
            sessions.connect(name.clone(), ConnId::outgoing(2), &transport);
            let event = next(&mut sessions, &events).await;
            assert!(
                matches!(event, peer::Event::ConnectFailed { .. }),
                "{event:?}"
            );
            assert!(sessions.links.borrow().is_empty());
        }));
    }
}
