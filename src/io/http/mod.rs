//! The HTTP server: bytes to [`crate::api::Request`]s and [`crate::api::Response`]s back (RFC 9112), with every
//! resource of a client bounded in size and time. Requests go to the agent over one bounded channel, so that
//! under load clients wait and the agent does not.

mod connection;
mod listen;
mod parse;
mod slots;

use std::io;
use std::net;
use std::os::unix;
use std::rc::{Rc, Weak};
use std::time::Duration;

use smol::channel::Sender;
use smol::future::FutureExt;
use smol::net::TcpStream;
use smol::net::unix::UnixStream;
use smol::{Async, LocalExecutor, Timer, future};

pub use connection::{Call, CallKind};
pub use listen::{ListenError, Listener};
pub use parse::{ParseError, Parsed, Parser, Sizes};

use crate::api::ListenerScope;
use connection::Duplex;
use listen::Socket;
use slots::{ConnectionSlot, ConnectionSlots, Kind};

/// Limits for one client and for all together.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub sizes: Sizes,
    /// Connections at once over all listeners; further ones get 503, but for /healthz and /readyz. Of
    /// them 8 are kept for this host, and another address has at most 16.
    pub connections: usize,
    /// From the first byte (or the connection) to the end of the head.
    pub head: Duration,
    /// For the body.
    pub body: Duration,
    /// Without a byte between two requests.
    pub idle: Duration,
    /// For a client to take any part of an answer.
    pub write: Duration,
    /// For the agent to answer; a drain waits for its `drain_time`.
    pub reply: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sizes: Sizes {
                // Together 64 KiB.
                head: 8 * 1024,
                body: 56 * 1024,
            },
            connections: 64,
            head: Duration::from_secs(1),
            body: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            write: Duration::from_secs(10),
            reply: Duration::from_secs(3600),
        }
    }
}

/// Serves for as long as the executor runs. Each request is answered by [`Call::answer`]; a call that is dropped
/// unanswered gets 503.
pub fn serve(
    executor: &Rc<LocalExecutor<'static>>,
    listeners: Vec<Listener>,
    limits: Limits,
    calls: Sender<Call>,
) {
    let shared = ServerState {
        executor: Rc::downgrade(executor),
        limits,
        places: ConnectionSlots::new(limits.connections),
        calls,
    };
    for listener in listeners {
        executor
            .spawn(accept_all(listener, shared.clone()).boxed_local())
            .detach();
    }
}

#[derive(Clone)]
struct ServerState {
    /// Weak: tasks live in the executor, and have to go with it.
    executor: Weak<LocalExecutor<'static>>,
    limits: Limits,
    places: ConnectionSlots,
    calls: Sender<Call>,
}

enum AnyListener {
    Tcp {
        listener: Async<net::TcpListener>,
        loopback: bool,
    },
    Unix(Async<unix::net::UnixListener>),
}

/// A connection that was accepted, before anything is spent on it.
enum Stream {
    Tcp(net::TcpStream),
    Unix(unix::net::UnixStream),
}

impl AnyListener {
    async fn accept(&self) -> io::Result<(Stream, ListenerScope)> {
        match self {
            Self::Tcp { listener, loopback } => {
                let (stream, peer) = listener.read_with(net::TcpListener::accept).await?;
                let via = match loopback {
                    true => ListenerScope::Loopback,
                    false => ListenerScope::Tcp {
                        caller: peer.ip().to_canonical(),
                        local: stream.local_addr()?.ip().to_canonical(),
                    },
                };
                Ok((Stream::Tcp(stream), via))
            }
            Self::Unix(listener) => {
                let accept = unix::net::UnixListener::accept;
                let (stream, _) = listener.read_with(accept).await?;
                Ok((Stream::Unix(stream), ListenerScope::Unix))
            }
        }
    }
}

async fn accept_all(listener: Listener, shared: ServerState) {
    let name = listener.to_string();
    let loopback = listener.is_loopback();
    // Dropping it at the end of this task removes the socket file.
    let (made, _file) = match listener.socket {
        Socket::Tcp(socket) => {
            let made = Async::new(socket);
            (
                made.map(|listener| AnyListener::Tcp { listener, loopback }),
                None,
            )
        }
        Socket::Unix(socket, file) => (Async::new(socket).map(AnyListener::Unix), Some(file)),
    };
    let acceptor = match made {
        Ok(acceptor) => acceptor,
        Err(e) => return log::error!("{name}: cannot accept connections: {e}"),
    };
    let mut pause = Duration::ZERO;
    loop {
        match acceptor.accept().await {
            Ok((stream, via)) => {
                pause = Duration::ZERO;
                shared.take(stream, via);
                // While more connections wait, accepting never does: those that are served take turns with it.
                future::yield_now().await;
            }
            // The client closed the connection before it was accepted.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                // Out of descriptors (EMFILE): the socket stays readable, so pause.
                if pause.is_zero() {
                    log::warn!("{name}: cannot accept a connection: {e}; retrying");
                }
                pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                Timer::after(pause).await;
            }
        }
    }
}

impl ServerState {
    fn take(&self, stream: Stream, via: ListenerScope) {
        let Some(place) = self.places.take(via) else {
            return connection::refuse_without_waiting(stream);
        };
        // Registration with the reactor fails only for a closed socket.
        let _ = match stream {
            Stream::Tcp(stream) => TcpStream::try_from(stream).map(|stream| {
                // Answers are written whole: waiting to fill a segment only delays them.
                let _ = stream.set_nodelay(true);
                self.serve_connection(stream, via, place);
            }),
            Stream::Unix(stream) => {
                UnixStream::try_from(stream).map(|stream| self.serve_connection(stream, via, place))
            }
        };
    }

    fn serve_connection(
        &self,
        stream: impl Duplex + 'static,
        via: ListenerScope,
        place: ConnectionSlot,
    ) {
        let Some(executor) = self.executor.upgrade() else {
            return;
        };
        let (limits, calls) = (self.limits, self.calls.clone());
        let task = async move {
            match place.kind {
                Kind::Served => {
                    connection::serve_connection(Box::new(stream), via, limits, calls).await
                }
                Kind::OverLimit => {
                    connection::serve_over_limit(Box::new(stream), via, limits, calls).await
                }
            }
            drop(place);
        };
        executor.spawn(task.boxed_local()).detach();
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
