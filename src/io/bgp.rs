//! The TCP connections of BGP sessions, as byte streams.
//!
//! A connection is one task. It connects, then reads and writes concurrently; what it reads and how much
//! it wrote go to the agent as events, bytes to write come through its [`ConnectionHandle`]. Received bytes stay there
//! until the agent takes them. Before the agent evaluates hold timers it reads the socket itself: a process
//! that was stopped for a while must not mistake its own pause for the peer's silence. Closing writes queued
//! bytes first, so that a NOTIFICATION reaches the peer.

use crate::bgp::peer::{ConnId, Event};
use crate::core::{Transport, Ttl};
use crate::io::connect;
use crate::io::sockopt::{self, SessionOptions};
use smol::LocalExecutor;
use smol::channel::{Receiver, Sender};
use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Async, Timer};
use std::cell::{OnceCell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

/// Destination, source address and socket options of a connection.
#[derive(Clone, Debug)]
pub struct Target {
    pub remote: SocketAddr,
    /// Source address; the kernel's choice when absent.
    pub local: Option<IpAddr>,
    pub options: SessionOptions,
}

impl From<&Transport> for Target {
    fn from(transport: &Transport) -> Self {
        let (ttl, ttl_security) = match transport.ttl {
            Ttl::System => (None, None),
            Ttl::Limit(ttl) => (Some(ttl), None),
            Ttl::Security { hops } => (None, Some(hops)),
        };
        let password = transport.password.as_ref();
        Self {
            remote: transport.remote,
            local: transport.local,
            options: SessionOptions {
                ttl,
                ttl_security,
                password: password.map(|secret| secret.expose().as_bytes().to_vec()),
            },
        }
    }
}

/// The agent's end of a connection. Dropping it closes the connection at once.
pub struct ConnectionHandle {
    commands: Sender<Command>,
    stream: SharedStream,
    receive_buffer: ReceiveBuffer,
    task: smol::Task<()>,
}

/// Empty until the connection is open.
type SharedStream = Rc<OnceCell<Async<TcpStream>>>;

/// Received bytes that the agent has not taken yet; never borrowed across an await.
type ReceiveBuffer = Rc<RefCell<Vec<u8>>>;

enum Command {
    Write(Vec<u8>),
    Close,
}

impl ConnectionHandle {
    /// Connects to `target`; everything that happens is passed to `events` through `wrap`.
    pub fn connect<T: 'static>(
        executor: &LocalExecutor<'static>,
        conn: ConnId,
        target: Target,
        events: Sender<T>,
        wrap: impl Fn(Event) -> T + 'static,
    ) -> Self {
        Self::spawn(executor, move |commands, slot, receive_buffer| async move {
            match connect(&target).await {
                Ok(stream) => {
                    let (local, remote) = addresses(&stream, target.remote);
                    let stream = slot.get_or_init(|| stream);
                    let connected = Event::Connected {
                        conn,
                        local,
                        remote,
                    };
                    if events.send(wrap(connected)).await.is_ok() {
                        transfer(conn, stream, &receive_buffer, &commands, &events, &wrap).await;
                    }
                }
                Err(error) => {
                    let _ = events
                        .send(wrap(Event::ConnectFailed {
                            conn,
                            error: error.to_string(),
                        }))
                        .await;
                }
            }
        })
    }

    /// Takes over a connection that was accepted.
    pub fn accepted<T: 'static>(
        executor: &LocalExecutor<'static>,
        conn: ConnId,
        stream: Async<TcpStream>,
        events: Sender<T>,
        wrap: impl Fn(Event) -> T + 'static,
    ) -> Self {
        Self::spawn(executor, move |commands, slot, receive_buffer| async move {
            let stream = slot.get_or_init(|| stream);
            transfer(conn, stream, &receive_buffer, &commands, &events, &wrap).await;
        })
    }

    fn spawn<F: Future<Output = ()> + 'static>(
        executor: &LocalExecutor<'static>,
        run: impl FnOnce(Receiver<Command>, SharedStream, ReceiveBuffer) -> F,
    ) -> Self {
        // The machine keeps at most 64 KiB unsent, so the queue is bounded by what it sends.
        let (commands, queue) = smol::channel::unbounded();
        let (stream, receive_buffer) = (SharedStream::default(), ReceiveBuffer::default());
        let task = executor.spawn(run(queue, stream.clone(), receive_buffer.clone()).boxed_local());
        Self {
            commands,
            stream,
            receive_buffer,
            task,
        }
    }

    /// Takes the bytes that [`Event::Received`] announced.
    pub fn take(&self) -> Vec<u8> {
        self.receive_buffer.take()
    }

    /// As [`ConnectionHandle::take`], and then reads the socket without blocking. EOF and errors are left to the
    /// connection's task.
    pub fn receive(&self) -> Vec<u8> {
        let mut bytes = self.take();
        let Some(stream) = self.stream.get() else {
            return bytes;
        };
        let mut buffer = [0; READ_BUFFER];
        for _ in 0..MAX_READS {
            match io::Read::read(&mut stream.get_ref(), &mut buffer) {
                Ok(length) if length > 0 => bytes.extend(buffer.iter().take(length)),
                _ => break,
            }
        }
        bytes
    }

    /// Queues bytes.
    pub fn send(&self, bytes: Vec<u8>) {
        // A closed queue means the task ended; its last event says why.
        let _ = self.commands.try_send(Command::Write(bytes));
    }

    /// Writes queued bytes and closes within a second. `None`: there was no open connection.
    pub fn close(self, executor: &LocalExecutor<'static>) -> Option<smol::Task<()>> {
        self.stream.get()?;
        let _ = self.commands.try_send(Command::Close);
        let limit = async {
            Timer::after(CLOSING_LIMIT).await;
        };
        Some(executor.spawn(self.task.or(limit).boxed_local()))
    }

    /// Closes with a reset: what is queued or unacknowledged is lost.
    pub fn reset(self) {
        if let Some(stream) = self.stream.get()
            && let Err(error) = sockopt::reset_on_close(stream)
        {
            log::warn!("cannot set SO_LINGER, closing without a reset: {error}");
        }
    }

    /// Whether the peer has acknowledged all that was written; true when there is no connection or
    /// the kernel cannot tell.
    pub fn all_acknowledged(&self) -> bool {
        self.stream.get().is_none_or(|stream| {
            self.commands.is_empty() && sockopt::all_acknowledged(stream).unwrap_or(true)
        })
    }

    /// How many bytes the peer's TCP has acknowledged; `None`: unknown. `opened`: this host opened the connection.
    pub fn acknowledged(&self, opened: bool) -> Option<u64> {
        sockopt::acknowledged(self.stream.get()?, opened).ok()
    }

    /// Whether TCP is in ESTABLISHED and the peer has acknowledged everything that was written.
    pub fn is_established_and_acknowledged(&self) -> bool {
        let stream = self.stream.get().filter(|_| self.commands.is_empty());
        stream
            .is_some_and(|stream| sockopt::is_established_and_acknowledged(stream).unwrap_or(false))
    }

    /// Sets the socket options of an established session with this hold time.
    pub fn set_user_timeout(&self, timeout: Option<Duration>) {
        let Some(stream) = self.stream.get() else {
            return;
        };
        if let Err(error) = sockopt::set_established(stream, timeout) {
            log::warn!("cannot set TCP_USER_TIMEOUT to the hold time: {error}");
        }
    }
}

/// Connects, with every option set before the first packet leaves.
///
/// # Errors
/// Those of the socket calls, and of the connection; there is no timeout.
pub async fn connect(target: &Target) -> io::Result<Async<TcpStream>> {
    let fd = move_to_high_fd(connect::socket(target.remote)?);
    sockopt::set_session_options(&fd, target.remote, &target.options)?;
    if let Some(local) = target.local {
        let local = SocketAddr::new(local, 0);
        connect::bind(&fd, local)
            .map_err(|e| io::Error::other(format!("source address {}: {e}", local.ip())))?;
    }
    connect::connect(fd, target.remote).await
}

/// An accepted connection as a session's socket.
pub fn accepted(stream: TcpStream) -> io::Result<Async<TcpStream>> {
    Async::new(TcpStream::from(move_to_high_fd(stream.into())))
}

/// Moves a session's socket to a high descriptor, if RLIMIT_NOFILE allows it. When the process is killed the
/// kernel closes descriptors from the highest down, and releasing the nf_tables socket takes 10 ms: the
/// router must see the closed session before that, or it sends traffic to a dead host.
fn move_to_high_fd(socket: OwnedFd) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(&socket, FIRST_SESSION_FD).unwrap_or(socket)
}

/// Both ends; a connection that broke this early is noticed by the first read.
fn addresses(stream: &Async<TcpStream>, remote: SocketAddr) -> (SocketAddr, SocketAddr) {
    let unspecified = SocketAddr::new(
        if remote.is_ipv4() {
            IpAddr::from([0; 4])
        } else {
            IpAddr::from([0; 16])
        },
        0,
    );
    let local = stream.get_ref().local_addr().unwrap_or(unspecified);
    (local, stream.get_ref().peer_addr().unwrap_or(remote))
}

/// Reads and writes until either ends, and reports why.
async fn transfer<T>(
    conn: ConnId,
    stream: &Async<TcpStream>,
    receive_buffer: &ReceiveBuffer,
    commands: &Receiver<Command>,
    events: &Sender<T>,
    wrap: &impl Fn(Event) -> T,
) {
    let reading = async {
        let reason = read(conn, stream, receive_buffer, events, wrap).await;
        Some(reason)
    };
    let writing = async { write(conn, stream, commands, events, wrap).await };
    if let Some(reason) = writing.or(reading).await {
        let _ = events.send(wrap(Event::Closed { conn, reason })).await;
    }
}

async fn read<T>(
    conn: ConnId,
    stream: &Async<TcpStream>,
    receive_buffer: &ReceiveBuffer,
    events: &Sender<T>,
    wrap: &impl Fn(Event) -> T,
) -> String {
    let mut buffer = vec![0; READ_BUFFER];
    loop {
        // Wait before each read, not after EAGAIN: most reads return one KEEPALIVE, and the next would return EAGAIN.
        if let Err(error) = stream.readable().await {
            return error.to_string();
        }
        let mut socket = stream.get_ref();
        match io::Read::read(&mut socket, &mut buffer) {
            Err(error) if is_would_block(&error) => {}
            Ok(0) => return "connection closed by the peer".to_owned(),
            Ok(n) => {
                receive_buffer.borrow_mut().extend(buffer.iter().take(n));
                // The agent fills in the bytes when it takes the event.
                let bytes = Vec::new();
                if events
                    .send(wrap(Event::Received { conn, bytes }))
                    .await
                    .is_err()
                {
                    return "sidecast is stopping".to_owned();
                }
            }
            Err(error) => return error.to_string(),
        }
    }
}

fn is_would_block(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Returns a reason if writing fails, `None` after `Command::Close`.
async fn write<T>(
    conn: ConnId,
    mut stream: &Async<TcpStream>,
    commands: &Receiver<Command>,
    events: &Sender<T>,
    wrap: &impl Fn(Event) -> T,
) -> Option<String> {
    while let Ok(command) = commands.recv().await {
        let Command::Write(bytes) = command else {
            shutdown_and_drain(stream).await;
            return None;
        };
        if let Err(error) = stream.write_all(&bytes).await {
            return Some(error.to_string());
        }
        let sent = Event::Sent {
            conn,
            bytes: bytes.len(),
        };
        let _ = events.send(wrap(sent)).await;
    }
    None
}

/// Sends FIN and reads until the peer's FIN: closing with unread bytes would send a reset that can overtake
/// the NOTIFICATION.
async fn shutdown_and_drain(mut stream: &Async<TcpStream>) {
    if stream
        .get_ref()
        .shutdown(std::net::Shutdown::Write)
        .is_err()
    {
        return;
    }
    let mut buffer = [0; 1024];
    while matches!(stream.read(&mut buffer).await, Ok(n) if n > 0) {}
}

/// The lowest descriptor of a session; apart from short-lived HTTP connections fewer are in use.
const FIRST_SESSION_FD: i32 = 48;
/// Bytes of one read: four messages of maximum length.
const READ_BUFFER: usize = 16 * 1024;
/// The most reads of [`ConnectionHandle::receive`]: together they contain a whole message.
const MAX_READS: usize = 8;
/// The timeout of an orderly close.
const CLOSING_LIMIT: Duration = Duration::from_secs(1);
