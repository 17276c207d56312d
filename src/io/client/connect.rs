//! Connectors for ureq: its own for TCP and TLS, and one for unix sockets.

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, RustlsConnector, TcpConnector,
    Transport,
};

/// A failed lookup or connect, passed through ureq as its error's source.
#[derive(Debug)]
pub(super) struct Unreachable {
    pub(super) tried: String,
    pub(super) cause: io::Error,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.tried, self.cause)
    }
}

impl std::error::Error for Unreachable {}

fn unreachable(tried: String, cause: io::Error) -> ureq::Error {
    ureq::Error::Other(Box::new(Unreachable { tried, cause }))
}

#[derive(Debug)]
pub(super) struct Connect {
    socket: Option<PathBuf>,
    tcp: TcpConnector,
    tls: RustlsConnector,
}

impl Connect {
    pub(super) fn new(socket: Option<PathBuf>) -> Self {
        Self {
            socket,
            tcp: TcpConnector::default(),
            tls: RustlsConnector::default(),
        }
    }

    fn open(&self, details: &ConnectionDetails<'_>) -> Result<Box<dyn Transport>, ureq::Error> {
        if let Some(path) = &self.socket {
            return Ok(Box::new(UnixTransport::open(path, details)?));
        }
        match self.tcp.connect(details, None::<()>) {
            Ok(Some(transport)) => Ok(Box::new(transport)),
            Ok(None) => Err(ureq::Error::ConnectionFailed),
            Err(ureq::Error::Io(cause)) => {
                let place = details.uri.authority().map_or("", |a| a.as_str());
                Err(unreachable(format!("connecting to {place}"), cause))
            }
            Err(error) => Err(error),
        }
    }
}

impl Connector for Connect {
    type Out = Box<dyn Transport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let opened = self.open(details)?;
        // Timeouts differ between requests, but the TLS configuration is the agent's and must not be rebuilt for each
        // request.
        let details = ConnectionDetails {
            uri: details.uri,
            addrs: details.addrs.clone(),
            config: details.config,
            request_level: false,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        let secured = self.tls.connect(&details, Some(opened))?;
        Ok(secured.map(|transport| Box::new(transport) as Self::Out))
    }
}

/// Resolves names on the calling thread.
#[derive(Debug)]
pub(super) struct Resolve {
    /// The connection goes to a unix socket: nothing is resolved.
    pub(super) by_socket: bool,
}

impl Resolver for Resolve {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut found = self.empty();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let default = if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let port = uri.port_u16().unwrap_or(default);
        if self.by_socket {
            found.push(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
            return Ok(found);
        }
        let addrs = (host, port).to_socket_addrs();
        let failed = |cause| unreachable(format!("looking up {host}"), cause);
        for addr in addrs.map_err(failed)?.take(MAX_ADDRS) {
            found.push(addr);
        }
        match found.is_empty() {
            true => Err(ureq::Error::HostNotFound),
            false => Ok(found),
        }
    }
}

/// The capacity of ureq's address list.
const MAX_ADDRS: usize = 16;

/// A connection by a unix socket.
#[derive(Debug)]
struct UnixTransport {
    stream: UnixStream,
    buffers: LazyBuffers,
}

impl UnixTransport {
    fn open(path: &Path, details: &ConnectionDetails<'_>) -> Result<Self, ureq::Error> {
        let opened = connect_unix(path, details.timeout);
        let failed = |cause| unreachable(format!("connecting to {}", path.display()), cause);
        let stream = opened.map_err(failed)?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Self { stream, buffers })
    }
}

impl Transport for UnixTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let mut stream = &self.stream;
        stream.set_write_timeout(left(timeout)?)?;
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        stream
            .write_all(output)
            .map_err(|error| late(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let mut stream = &self.stream;
        let left = left(timeout)?;
        let began = Instant::now();
        let input = self.buffers.input_append_buf();
        let count = loop {
            let left = left.map(|left| left.saturating_sub(began.elapsed()).max(SHORTEST));
            stream.set_read_timeout(left)?;
            match stream.read(input) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(|error| late(error, timeout))?,
            }
        };
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    /// Connections are not kept.
    fn is_open(&mut self) -> bool {
        false
    }
}

/// Connects; waits for room in a full backlog no longer than the timeout.
fn connect_unix(path: &Path, timeout: NextTimeout) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let stream = UnixStream::from(fd);
    stream.set_write_timeout(left(timeout).map_err(ureq::Error::into_io)?)?;
    match connect(stream.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::EAGAIN) => Err(io::ErrorKind::TimedOut.into()),
        connected => Ok(connected.map(|()| stream)?),
    }
}

/// `None`: there is no limit.
fn left(timeout: NextTimeout) -> Result<Option<Duration>, ureq::Error> {
    match timeout.after.is_zero() {
        true => Err(ureq::Error::Timeout(timeout.reason)),
        false => Ok(timeout.not_zero().map(|left| (*left).max(SHORTEST))),
    }
}

/// SO_RCVTIMEO and SO_SNDTIMEO end a call with EAGAIN.
fn late(error: io::Error, timeout: NextTimeout) -> ureq::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => ureq::Error::Timeout(timeout.reason),
        _ => error.into(),
    }
}

/// A zero timeout would mean none.
const SHORTEST: Duration = Duration::from_millis(1);
