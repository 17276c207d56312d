//! The TCP connections of BGP sessions: bytes in, bytes out, nothing understood.
//!
//! A connection is one task. It connects, then reads and writes at the same time; what it reads and
//! how much it wrote go to the agent as events, what is to be written comes through its [`Link`].
//! What was read waits at the link until the agent takes it, which may ask the kernel for more at any
//! time: a process that was stopped for a while must not take its own silence for the peer's.
//! Closing first writes what is queued, so that a NOTIFICATION reaches the peer.

use crate::bgp::peer::{ConnId, Event};
use crate::io::sockopt::{self, SessionOptions};
use nix::sys::socket::{
    self as nixsocket, AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6,
};
use smol::LocalExecutor;
use smol::channel::{Receiver, Sender};
use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Async, Timer};
use std::cell::{OnceCell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

/// Where to connect and how.
#[derive(Clone, Debug)]
pub struct Target {
    pub remote: SocketAddr,
    /// Source address; the kernel's choice when absent.
    pub local: Option<IpAddr>,
    pub options: SessionOptions,
}

/// The agent's end of a connection. Dropping it closes the connection at once.
pub struct Link {
    commands: Sender<Command>,
    stream: Opened,
    unread: Unread,
    task: smol::Task<()>,
}

/// Empty until the connection is open.
type Opened = Rc<OnceCell<Async<TcpStream>>>;

/// What came from the kernel and was not taken yet; nobody holds it across an await.
type Unread = Rc<RefCell<Vec<u8>>>;

enum Command {
    Write(Vec<u8>),
    Close,
}

impl Link {
    /// Connects to `target`; everything that happens is passed to `events` through `wrap`.
    pub fn connect<T: 'static>(
        executor: &LocalExecutor<'static>,
        conn: ConnId,
        target: Target,
        events: Sender<T>,
        wrap: impl Fn(Event) -> T + 'static,
    ) -> Self {
        Self::spawn(executor, move |commands, slot, unread| async move {
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
                        carry(conn, stream, &unread, &commands, &events, &wrap).await;
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
        Self::spawn(executor, move |commands, slot, unread| async move {
            let stream = slot.get_or_init(|| stream);
            carry(conn, stream, &unread, &commands, &events, &wrap).await;
        })
    }

    fn spawn<F: Future<Output = ()> + 'static>(
        executor: &LocalExecutor<'static>,
        run: impl FnOnce(Receiver<Command>, Opened, Unread) -> F,
    ) -> Self {
        // The machine keeps at most 64 KiB unsent, so the queue is bounded by what it sends.
        let (commands, queue) = smol::channel::unbounded();
        let (stream, unread) = (Opened::default(), Unread::default());
        let task = executor.spawn(run(queue, stream.clone(), unread.clone()));
        Self {
            commands,
            stream,
            unread,
            task,
        }
    }

    /// What [`Event::Received`] speaks of.
    pub fn take(&self) -> Vec<u8> {
        self.unread.take()
    }

    /// The same, and what the kernel has beyond it. That the connection has ended is for its task to find.
    pub fn receive(&self) -> Vec<u8> {
        let mut bytes = self.take();
        let Some(stream) = self.stream.get() else {
            return bytes;
        };
        let mut buffer = [0; READ_BUFFER];
        for _ in 0..READS {
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

    /// Writes what is queued and closes, within a second whatever the peer does. `None`: there was
    /// nothing open that needs an ending.
    pub fn close(self, executor: &LocalExecutor<'static>) -> Option<smol::Task<()>> {
        self.stream.get()?;
        let _ = self.commands.try_send(Command::Close);
        let limit = async {
            Timer::after(CLOSING_LIMIT).await;
        };
        Some(executor.spawn(self.task.or(limit)))
    }

    /// Closes with a reset: what is queued or unacknowledged is lost.
    pub fn reset(self) {
        if let Some(stream) = self.stream.get()
            && let Err(error) = sockopt::reset_on_close(stream)
        {
            log::warn!("SO_LINGER: {error}");
        }
    }

    /// Whether the peer has acknowledged all that was written; true when there is no connection or
    /// the kernel cannot tell.
    pub fn all_acknowledged(&self) -> bool {
        self.stream.get().is_none_or(|stream| {
            self.commands.is_empty() && sockopt::all_acknowledged(stream).unwrap_or(true)
        })
    }

    /// Whether the peer is there and has acknowledged all that was written.
    pub fn is_answered(&self) -> bool {
        let stream = self.stream.get().filter(|_| self.commands.is_empty());
        stream.is_some_and(|stream| sockopt::is_answered(stream).unwrap_or(false))
    }

    /// The session is up, with this hold time: `TCP_USER_TIMEOUT` and what goes with it.
    pub fn set_user_timeout(&self, timeout: Option<Duration>) {
        let Some(stream) = self.stream.get() else {
            return;
        };
        if let Err(error) = sockopt::set_established(stream, timeout) {
            log::warn!("TCP_USER_TIMEOUT: {error}");
        }
    }
}

/// A socket with every option set before the first packet leaves.
async fn connect(target: &Target) -> io::Result<Async<TcpStream>> {
    let family = if target.remote.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = released_first(nixsocket::socket(family, SockType::Stream, flags, None)?);
    sockopt::set_session_options(&fd, target.remote, &target.options)?;
    if let Some(local) = target.local {
        let local = SocketAddr::new(local, 0);
        bind(&fd, local)
            .map_err(|e| io::Error::other(format!("source address {}: {e}", local.ip())))?;
    }
    let started = match target.remote {
        SocketAddr::V4(addr) => nixsocket::connect(fd.as_raw_fd(), &SockaddrIn::from(addr)),
        SocketAddr::V6(addr) => nixsocket::connect(fd.as_raw_fd(), &SockaddrIn6::from(addr)),
    };
    match started {
        Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = Async::new_nonblocking(TcpStream::from(fd))?;
    stream.writable().await?;
    match stream.get_ref().take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

/// An accepted connection as a session's socket.
pub fn accepted(stream: TcpStream) -> io::Result<Async<TcpStream>> {
    Async::new(TcpStream::from(released_first(stream.into())))
}

/// Moves a session's socket above all other descriptors, if the limit on them allows it. When we are
/// killed the kernel releases the highest one first, and the table of nf_tables takes it 10 ms: until the
/// connection is closed the router sends traffic to a host that nobody answers on.
fn released_first(socket: OwnedFd) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(&socket, SESSIONS_FROM).unwrap_or(socket)
}

fn bind(fd: &OwnedFd, local: SocketAddr) -> nix::Result<()> {
    match local {
        SocketAddr::V4(addr) => nixsocket::bind(fd.as_raw_fd(), &SockaddrIn::from(addr)),
        SocketAddr::V6(addr) => nixsocket::bind(fd.as_raw_fd(), &SockaddrIn6::from(addr)),
    }
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

/// Reads and writes until either ends, and says why.
async fn carry<T>(
    conn: ConnId,
    stream: &Async<TcpStream>,
    unread: &Unread,
    commands: &Receiver<Command>,
    events: &Sender<T>,
    wrap: &impl Fn(Event) -> T,
) {
    let reading = async {
        let reason = read(conn, stream, unread, events, wrap).await;
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
    unread: &Unread,
    events: &Sender<T>,
    wrap: &impl Fn(Event) -> T,
) -> String {
    let mut buffer = vec![0; READ_BUFFER];
    loop {
        // Waiting before reading, not after it was in vain: most reads bring one keepalive.
        if let Err(error) = stream.readable().await {
            return error.to_string();
        }
        let mut socket = stream.get_ref();
        match io::Read::read(&mut socket, &mut buffer) {
            Err(error) if is_nothing(&error) => {}
            Ok(0) => return "closed by the peer".to_owned(),
            Ok(n) => {
                unread.borrow_mut().extend(buffer.iter().take(n));
                // The bytes are put in when the agent takes the event.
                let bytes = Vec::new();
                if events
                    .send(wrap(Event::Received { conn, bytes }))
                    .await
                    .is_err()
                {
                    return "the agent is gone".to_owned();
                }
            }
            Err(error) => return error.to_string(),
        }
    }
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Ends with a reason when writing fails, with none when told to close.
async fn write<T>(
    conn: ConnId,
    mut stream: &Async<TcpStream>,
    commands: &Receiver<Command>,
    events: &Sender<T>,
    wrap: &impl Fn(Event) -> T,
) -> Option<String> {
    while let Ok(command) = commands.recv().await {
        let Command::Write(bytes) = command else {
            say_goodbye(stream).await;
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

/// Ends our half and waits a moment for the peer's, since closing with unread bytes would send a
/// reset that can overtake the NOTIFICATION.
async fn say_goodbye(mut stream: &Async<TcpStream>) {
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

/// The lowest descriptor of a session: others are fewer, but for HTTP connections, which end fast.
const SESSIONS_FROM: i32 = 48;
/// Bytes asked of the kernel at once: some four full messages.
const READ_BUFFER: usize = 16 * 1024;
/// How often the kernel is asked in one round of reading: a whole message is among so many bytes.
const READS: usize = 8;
/// How long a connection that is being closed may take over it.
const CLOSING_LIMIT: Duration = Duration::from_secs(1);
