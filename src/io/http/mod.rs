//! The HTTP server: bytes to [`crate::api::Request`]s and [`crate::api::Response`]s back (RFC 9112), with every resource a
//! client can hold bounded in size and time. What a request means is the api's business; each goes
//! over one bounded channel, so that a flood of clients waits and the agent does not.

mod connection;
mod listen;
mod parse;
mod places;

use std::io;
use std::net;
use std::os::unix;
use std::rc::{Rc, Weak};
use std::time::Duration;

use smol::channel::Sender;
use smol::net::TcpStream;
use smol::net::unix::UnixStream;
use smol::{Async, LocalExecutor, Timer, future};

pub use connection::{Asked, Call};
pub use listen::{ListenError, Listener};
pub use parse::{ParseError, Parsed, Parser, Sizes};

use crate::api::Via;
use connection::Duplex;
use listen::Socket;
use places::{Kind, Place, Places};

/// What one client, and all of them, may take.
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

/// Serves until it is dropped, or until the channel's other end is. Each request is answered by
/// [`Call::answer`]; a call that is dropped unanswered gets 503.
pub async fn serve(listeners: Vec<Listener>, limits: Limits, calls: Sender<Call>) {
    if listeners.is_empty() {
        return calls.closed().await;
    }
    let executor = Rc::new(LocalExecutor::new());
    let shared = Shared {
        executor: Rc::downgrade(&executor),
        limits,
        places: Places::new(limits.connections),
        calls,
    };
    for listener in listeners {
        executor
            .spawn(accept_all(listener, shared.clone()))
            .detach();
    }
    executor.run(shared.calls.closed()).await;
}

#[derive(Clone)]
struct Shared {
    /// Weak: tasks live in the executor, and have to go with it.
    executor: Weak<LocalExecutor<'static>>,
    limits: Limits,
    places: Places,
    calls: Sender<Call>,
}

enum Acceptor {
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

impl Acceptor {
    async fn accept(&self) -> io::Result<(Stream, Via)> {
        match self {
            Self::Tcp { listener, loopback } => {
                let (stream, peer) = listener.read_with(net::TcpListener::accept).await?;
                let via = match loopback {
                    true => Via::Loopback,
                    false => Via::Tcp {
                        caller: peer.ip().to_canonical(),
                        local: stream.local_addr()?.ip().to_canonical(),
                    },
                };
                Ok((Stream::Tcp(stream), via))
            }
            Self::Unix(listener) => {
                let accept = unix::net::UnixListener::accept;
                let (stream, _) = listener.read_with(accept).await?;
                Ok((Stream::Unix(stream), Via::Unix))
            }
        }
    }
}

async fn accept_all(listener: Listener, shared: Shared) {
    let name = listener.to_string();
    let loopback = listener.is_loopback();
    // The file lives as long as this task.
    let (made, _file) = match listener.socket {
        Socket::Tcp(socket) => {
            let made = Async::new(socket);
            (
                made.map(|listener| Acceptor::Tcp { listener, loopback }),
                None,
            )
        }
        Socket::Unix(socket, file) => (Async::new(socket).map(Acceptor::Unix), Some(file)),
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
            // The client went away before we came: no trouble of ours.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                // Out of descriptors: the socket stays readable, so that only time helps.
                if pause.is_zero() {
                    log::warn!("{name}: cannot accept a connection: {e}; trying again");
                }
                pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                Timer::after(pause).await;
            }
        }
    }
}

impl Shared {
    fn take(&self, stream: Stream, via: Via) {
        let Some(place) = self.places.take(via) else {
            return connection::refuse_at_once(stream);
        };
        // A socket that the reactor does not take is one that is gone.
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

    fn serve_connection(&self, stream: impl Duplex + 'static, via: Via, place: Place) {
        let Some(executor) = self.executor.upgrade() else {
            return;
        };
        let (limits, calls) = (self.limits, self.calls.clone());
        let task = async move {
            match place.kind {
                Kind::Served => {
                    connection::serve_connection(Box::new(stream), via, limits, calls).await
                }
                Kind::Hurried => {
                    connection::serve_over_limit(Box::new(stream), via, limits, calls).await
                }
            }
            drop(place);
        };
        executor.spawn(task).detach();
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
