//! HTTP client (RFC 9112) on top of ureq, over TCP, a unix socket or TLS: one request for each connection, no
//! redirects, no proxy.
//!
//! All calls block: callers on the loop use a thread of [`super::thread_slots`].

mod connect;
mod tls;

use connect::{Connect, Resolve, Unreachable};
use rustls::CertificateError;
use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tls::FileStamp;
pub use tls::TlsFiles;
use ureq::http::{self, HeaderName, HeaderValue, Request, Response, Uri};
use ureq::tls::TlsConfig;
use ureq::unversioned::resolver::Resolver;
use ureq::{Agent, AsSendBody, Timeout};

/// A client with one set of TLS settings.
pub struct Client {
    socket: Option<PathBuf>,
    files: TlsFiles,
    plain: Agent,
    /// Not locked while files are read.
    tls: Mutex<TlsState>,
    /// Notified when `TlsState::reading` ends.
    tls_read: Condvar,
    /// Bytes of the input buffer, which has to hold the head of a response: those that the largest head so far needed.
    input_size: AtomicUsize,
}

#[derive(Default)]
struct TlsState {
    agent: Option<TlsAgent>,
    /// A thread looks at the files, which may take forever, as on NFS without its server. No other request by TLS is
    /// sent until it ends.
    reading: bool,
}

/// An agent with loaded certificate authorities, which are costly to load.
struct TlsAgent {
    agent: Agent,
    made_at: Instant,
    /// Stamps of the loaded files.
    stamp: Vec<Option<FileStamp>>,
}

/// One request.
pub struct HttpRequest<'a> {
    /// `http://` or `https://`; by a unix socket only its path counts.
    pub url: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    /// Sent as a form by `POST`; `None`: `GET`.
    pub form: Option<&'a str>,
    /// Timeout for the whole exchange. It does not bound the name lookup.
    pub limit: Duration,
    /// Connect timeout, for all addresses of a name together.
    pub connect: Duration,
}

/// The head of a response; its body is read as it arrives.
pub struct HttpResponse(Response<ureq::Body>);

/// Why there is no response.
#[derive(Debug)]
pub enum Error {
    /// Name lookup or connect failed: what was tried, and the error.
    ConnectFailed(String, io::Error),
    /// The timeout expired.
    TimedOut,
    /// The timeout expired while another thread read the certificate files.
    FilesTimedOut,
    /// The connection ended early, or TLS refused it.
    Io(io::Error),
    /// The response or the request is not valid HTTP.
    InvalidHttp(String),
}

impl Client {
    /// `socket`: connect to this unix socket instead of the URL's host.
    pub fn new(socket: Option<PathBuf>, files: TlsFiles) -> Self {
        Self {
            plain: agent(socket.clone(), TlsConfig::default()),
            socket,
            files,
            tls: Mutex::default(),
            tls_read: Condvar::new(),
            input_size: AtomicUsize::new(BUFFER),
        }
    }

    /// Sends a request and waits for the head of the response.
    ///
    /// # Errors
    /// If no head came within the timeout. An error status is not an error.
    pub fn fetch(&self, wanted: &HttpRequest<'_>) -> Result<HttpResponse, Error> {
        match wanted.form {
            None => self.send(wanted, Request::get(uri(wanted.url)?).body(())),
            Some(form) => self.send(wanted, Request::post(uri(wanted.url)?).body(form)),
        }
    }

    fn send<B: AsSendBody + Copy>(
        &self,
        wanted: &HttpRequest<'_>,
        request: http::Result<Request<B>>,
    ) -> Result<HttpResponse, Error> {
        let began = Instant::now();
        let (mut parts, body) = request.map_err(invalid_request)?.into_parts();
        // Connections are not kept.
        let close = HeaderValue::from_static("close");
        parts.headers.insert("connection", close);
        let mut length = wanted.url.len();
        for (name, value) in wanted.headers {
            length += name.len() + value.len();
            // A line break would end the header and begin another.
            let clean = value.replace(|c: char| c.is_control() && c != '\t', "");
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(invalid_request)?;
            let value = HeaderValue::from_bytes(clean.as_bytes()).map_err(invalid_request)?;
            parts.headers.insert(name, value);
        }
        let agent = match parts.uri.scheme_str() {
            Some("https") => self.tls_agent(wanted.limit)?,
            _ => self.plain.clone(),
        };
        let run = |input: usize| {
            let request = Request::from_parts(parts.clone(), body);
            let left = wanted.limit.saturating_sub(began.elapsed());
            let request = agent.configure_request(request);
            let request = request
                .timeout_global(Some(left))
                .timeout_connect(Some(wanted.connect))
                .input_buffer_size(input)
                .max_response_header_size(input - 1)
                .output_buffer_size(BUFFER + length)
                .build();
            agent.run(request)
        };
        let mut input = self.input_size.load(Ordering::Relaxed);
        let answer = loop {
            match run(input) {
                Err(ureq::Error::LargeResponseHeader(..)) if input < LARGEST_INPUT => input *= 4,
                answer => break answer,
            }
        };
        let response = HttpResponse(answer?);
        self.input_size.fetch_max(input, Ordering::Relaxed);
        Ok(response)
    }

    /// An agent for TLS with the current files. Only one thread at a time looks at them, so that files that hang
    /// hold no more than that one beyond its `limit`.
    fn tls_agent(&self, limit: Duration) -> Result<Agent, Error> {
        let turn = self
            .tls_read
            .wait_timeout_while(self.tls(), limit, |tls| tls.reading);
        let (mut tls, waited) = turn.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(Error::FilesTimedOut);
        }
        tls.reading = true;
        let known = tls.agent.take();
        drop(tls);
        let current = self.current_agent(known);
        let mut tls = self.tls();
        tls.reading = false;
        self.tls_read.notify_one();
        let current = current?;
        let agent = current.agent.clone();
        tls.agent = Some(current);
        Ok(agent)
    }

    fn tls(&self) -> MutexGuard<'_, TlsState> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `known`, or another where a file changed since. Its connections may resume a session without verifying the
    /// certificate (RFC 8446 §2.2), so an agent is replaced after a short time.
    fn current_agent(&self, known: Option<TlsAgent>) -> Result<TlsAgent, Error> {
        let stamp = self.files.stamp();
        let is_current =
            |known: &TlsAgent| known.stamp == stamp && known.made_at.elapsed() < LIFETIME;
        if let Some(known) = known.filter(is_current) {
            return Ok(known);
        }
        let config = self.files.read().map_err(Error::Io)?;
        Ok(TlsAgent {
            agent: agent(self.socket.clone(), config),
            made_at: Instant::now(),
            stamp,
        })
    }
}

fn agent(socket: Option<PathBuf>, tls: TlsConfig) -> Agent {
    let resolve = Resolve {
        by_socket: socket.is_some(),
    };
    agent_with(socket, tls, resolve)
}

fn agent_with(socket: Option<PathBuf>, tls: TlsConfig, resolve: impl Resolver) -> Agent {
    let config = Agent::config_builder()
        .tls_config(tls)
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .user_agent(USER_AGENT)
        .max_idle_connections(0)
        .build();
    Agent::with_parts(config, Connect::new(socket), resolve)
}

/// What a URI must not hold by RFC 3986 and URLs hold nevertheless is escaped.
fn uri(url: &str) -> Result<Uri, Error> {
    let mut text = String::with_capacity(url.len());
    for c in url.chars() {
        match c {
            '<' => text.push_str("%3C"),
            '>' => text.push_str("%3E"),
            '`' => text.push_str("%60"),
            '"' => text.push_str("%22"),
            c => text.push(c),
        }
    }
    text.parse()
        .map_err(|error| Error::InvalidHttp(format!("{url}: {error}")))
}

impl HttpResponse {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    /// Calls `note` for every header field that is text.
    pub fn headers(&self, mut note: impl FnMut(&str, &str)) {
        for (name, value) in self.0.headers() {
            if let Ok(value) = value.to_str() {
                note(name.as_str(), value);
            }
        }
    }

    /// Reads the body until `enough` returns true for what has come, or it ends.
    ///
    /// # Errors
    /// If it ended early; `enough` has seen what came until then.
    pub fn read_until(mut self, mut enough: impl FnMut(&[u8]) -> bool) -> Result<Vec<u8>, Error> {
        let mut reader = self.0.body_mut().as_reader();
        let (mut body, mut buf) = (Vec::new(), [0; BUFFER]);
        while !enough(&body) {
            let count = reader.read(&mut buf).map_err(ureq::Error::from)?;
            if count == 0 {
                break;
            }
            body.extend_from_slice(buf.get(..count).unwrap_or_default());
        }
        Ok(body)
    }

    /// The whole body.
    ///
    /// # Errors
    /// If it ended early, or is longer than `max` bytes.
    pub fn read_all(self, max: usize) -> Result<Vec<u8>, Error> {
        let body = self.read_until(|body| body.len() > max)?;
        match body.len() > max {
            true => Err(Error::InvalidHttp(format!("more than {max} bytes"))),
            false => Ok(body),
        }
    }
}

impl Error {
    /// The I/O error, if there is one.
    pub fn cause(&self) -> Option<&io::Error> {
        match self {
            Self::ConnectFailed(_, cause) | Self::Io(cause) => Some(cause),
            Self::TimedOut | Self::FilesTimedOut | Self::InvalidHttp(_) => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectFailed(tried, cause) => write!(f, "{tried}: {cause}"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::FilesTimedOut => f.write_str("the certificate files cannot be read in time"),
            Self::Io(cause) => cause.fmt(f),
            Self::InvalidHttp(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

impl From<ureq::Error> for Error {
    fn from(error: ureq::Error) -> Self {
        match error {
            ureq::Error::Other(error) => match error.downcast::<Unreachable>() {
                Ok(unreachable) => Self::ConnectFailed(unreachable.tried, unreachable.cause),
                Err(error) => Self::InvalidHttp(error.to_string()),
            },
            ureq::Error::Timeout(Timeout::Connect) => {
                Self::ConnectFailed("connecting".to_owned(), io::ErrorKind::TimedOut.into())
            }
            ureq::Error::Timeout(_) => Self::TimedOut,
            // The connection ended inside a chunk header.
            ureq::Error::BodyStalled => Self::Io(io::ErrorKind::UnexpectedEof.into()),
            ureq::Error::Io(error) => Self::Io(with_verifier_reason(error)),
            ureq::Error::Rustls(error) => Self::Io(with_verifier_reason(io::Error::other(error))),
            error => Self::InvalidHttp(error.to_string()),
        }
    }
}

/// The request is not valid HTTP.
fn invalid_request(error: impl Into<http::Error>) -> Error {
    Error::InvalidHttp(error.into().to_string())
}

/// Replaces rustls' "other certificate error" by the verifier's reason.
fn with_verifier_reason(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(why))) => {
            io::Error::new(error.kind(), format!("invalid peer certificate: {why}"))
        }
        _ => error,
    }
}

/// The `User-Agent` of all requests.
pub const USER_AGENT: &str = concat!("sidecast/", env!("CARGO_PKG_VERSION"));
/// Bytes of a buffer; every check in progress has four. Input buffers grow with the heads of responses.
const BUFFER: usize = 4 * 1024;
/// Bytes of the largest input buffer: a longer head is an error.
const LARGEST_INPUT: usize = 16 * BUFFER;
/// How long TLS sessions may be resumed without verifying the certificate again.
const LIFETIME: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
