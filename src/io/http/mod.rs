//! The HTTP server: bytes to [`crate::api::Request`]s and [`crate::api::Response`]s back (RFC 9112), with every resource a
//! client can hold bounded in size and time. What a request means is the api's business; each goes
//! over one bounded channel, so that a flood of clients waits and the agent does not.

mod connection;
mod listen;
mod parse;

use std::cell::Cell;
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;

use smol::Timer;
use smol::channel::Sender;
use smol::net::TcpListener;
use smol::net::unix::UnixListener;

pub use connection::Call;
pub use listen::{ListenError, Listener};
pub use parse::{ParseError, Parsed, Parser, Sizes};

use crate::api::Via;
use connection::Duplex;
use listen::Socket;
use smol::LocalExecutor;

/// What one client, and all of them, may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub sizes: Sizes,
    /// Connections at once over all listeners; further ones get 503, but for /healthz and /readyz.
    pub connections: usize,
    /// From the first byte (or the connection) to the end of the head, and again for the body.
    pub request: Duration,
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
            request: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            write: Duration::from_secs(10),
            reply: Duration::from_secs(3600),
        }
    }
}

/// Serves until it is dropped, or until the channel's other end is. Each request is answered by
/// [`Call::answer`]; a call that is dropped unanswered gets 503.
pub async fn serve(listeners: Vec<Listener>, limits: Limits, calls: Sender<Call>) {
    let executor = Rc::new(LocalExecutor::new());
    let shared = Shared {
        executor: Rc::downgrade(&executor),
        limits,
        open: Rc::new(Cell::new(0)),
        refusing: Rc::new(Cell::new(0)),
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
    open: Rc<Cell<usize>>,
    refusing: Rc<Cell<usize>>,
    calls: Sender<Call>,
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    async fn accept(&self) -> io::Result<Box<dyn Duplex>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Answers are written whole: waiting to fill a segment only delays them.
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

async fn accept_all(listener: Listener, shared: Shared) {
    let name = listener.to_string();
    let via = listener.via;
    // The file lives as long as this task.
    let (made, _file) = match listener.socket {
        Socket::Tcp(socket) => (TcpListener::try_from(socket).map(Acceptor::Tcp), None),
        Socket::Unix(socket, file) => (
            UnixListener::try_from(socket).map(Acceptor::Unix),
            Some(file),
        ),
    };
    let acceptor = match made {
        Ok(acceptor) => acceptor,
        Err(e) => return log::error!("{name}: cannot accept connections: {e}"),
    };
    let mut pause = Duration::ZERO;
    loop {
        match acceptor.accept().await {
            Ok(stream) => {
                pause = Duration::ZERO;
                shared.take(stream, via);
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
    fn take(&self, stream: Box<dyn Duplex>, via: Via) {
        let Some(executor) = self.executor.upgrade() else {
            return;
        };
        let limits = self.limits;
        if let Some(slot) = Slot::take(&self.open, limits.connections) {
            let calls = self.calls.clone();
            executor
                .spawn(async move {
                    let _slot = slot;
                    connection::converse(stream, via, limits, calls).await;
                })
                .detach();
        } else if let Some(slot) = Slot::take(&self.refusing, limits.connections) {
            let calls = self.calls.clone();
            executor
                .spawn(async move {
                    let _slot = slot;
                    connection::squeeze(stream, via, limits, calls).await;
                })
                .detach();
        } else {
            connection::refuse_at_once(stream);
        }
    }
}

/// One of a bounded number, given back when dropped.
struct Slot(Rc<Cell<usize>>);

impl Slot {
    fn take(count: &Rc<Cell<usize>>, limit: usize) -> Option<Self> {
        (count.get() < limit).then(|| {
            count.set(count.get() + 1);
            Self(Rc::clone(count))
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
