//! Asking over HTTP (RFC 9112), by ureq: over TCP, a unix socket, or TLS. One request on a connection of its
//! own, no redirect followed, no proxy.
//!
//! Everything here blocks its thread; whoever may not wait asks on a thread of [`super::places`].

mod connect;
mod tls;

use connect::{Connect, Resolve, Unreachable};
use rustls::CertificateError;
use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
pub use tls::Files;
use tls::Stamp;
use ureq::http::{self, HeaderName, HeaderValue, Request, Response, Uri};
use ureq::tls::TlsConfig;
use ureq::{Agent, AsSendBody, Timeout};

/// Knows how to reach whom; one for each set of TLS settings.
pub struct Client {
    socket: Option<PathBuf>,
    files: Files,
    plain: Agent,
    /// Only threads that ask take this lock, never the loop.
    secure: Mutex<Option<Secure>>,
}

/// What is costly to make: it holds the authorities.
struct Secure {
    agent: Agent,
    made_at: Instant,
    /// Of the files that it was made of.
    stamp: Vec<Option<Stamp>>,
}

/// One request.
pub struct Ask<'a> {
    /// `http://` or `https://`; by a unix socket only its path counts.
    pub url: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    /// Sent as a form by `POST`; `None`: `GET`.
    pub form: Option<&'a str>,
    /// For all of it, up to the last byte of the answer's body. What cannot be bounded is the look-up of a
    /// name.
    pub limit: Duration,
    /// Within the limit, for all addresses of a name together.
    pub connect: Duration,
}

/// The head of an answer. Its body is read as it comes.
pub struct Answer(Response<ureq::Body>);

/// Why there is no answer.
#[derive(Debug)]
pub enum Error {
    /// There was no connection: what was tried, and what the system said.
    Unreachable(String, io::Error),
    /// The limit passed.
    Late,
    /// The connection ended early, or TLS refused it.
    Broken(io::Error),
    /// What came is no HTTP, or what was asked cannot be said in it.
    Foreign(String),
}

impl Client {
    /// By a unix socket, where there is one.
    pub fn new(socket: Option<PathBuf>, files: Files) -> Self {
        Self {
            plain: agent(socket.clone(), TlsConfig::default()),
            socket,
            files,
            secure: Mutex::default(),
        }
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    /// Where no head came within the limit. A status is none.
    pub fn ask(&self, ask: &Ask<'_>) -> Result<Answer, Error> {
        match ask.form {
            None => self.send(ask, Request::get(uri(ask.url)?).body(())),
            Some(form) => self.send(ask, Request::post(uri(ask.url)?).body(form)),
        }
    }

    fn send<B: AsSendBody + Copy>(
        &self,
        ask: &Ask<'_>,
        request: http::Result<Request<B>>,
    ) -> Result<Answer, Error> {
        let began = Instant::now();
        let (mut parts, body) = request.map_err(unsayable)?.into_parts();
        // Connections are not kept.
        let close = HeaderValue::from_static("close");
        parts.headers.insert("connection", close);
        let mut length = ask.url.len();
        for (name, value) in ask.headers {
            length += name.len() + value.len();
            // A line break would end the header and begin another.
            let clean = value.replace(|c: char| c.is_control() && c != '\t', "");
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(unsayable)?;
            let value = HeaderValue::from_bytes(clean.as_bytes()).map_err(unsayable)?;
            parts.headers.insert(name, value);
        }
        let agent = match parts.uri.scheme_str() {
            Some("https") => self.secure()?,
            _ => self.plain.clone(),
        };
        let run = |input: usize| {
            let request = Request::from_parts(parts.clone(), body);
            let left = ask.limit.saturating_sub(began.elapsed());
            let request = agent.configure_request(request);
            let request = request
                .timeout_global(Some(left))
                .timeout_connect(Some(ask.connect))
                .input_buffer_size(input)
                .max_response_header_size(input - 1)
                .output_buffer_size(BUFFER + length)
                .build();
            agent.run(request)
        };
        // The head of an answer has to fit in the buffer.
        let answer = match run(BUFFER) {
            Err(ureq::Error::LargeResponseHeader(..)) => run(LARGE_HEAD),
            answer => answer,
        };
        Ok(Answer(answer?))
    }

    /// An agent for TLS with the files as they are now. Its connections may resume a session without a look
    /// at the certificate (RFC 8446 §2.2), so that none lives long.
    fn secure(&self) -> Result<Agent, Error> {
        let stamp = self.files.stamp();
        let mut secure = self.secure.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*secure
            && known.stamp == stamp
            && known.made_at.elapsed() < LIFETIME
        {
            return Ok(known.agent.clone());
        }
        *secure = None;
        let config = self.files.read().map_err(Error::Broken)?;
        let agent = agent(self.socket.clone(), config);
        *secure = Some(Secure {
            agent: agent.clone(),
            made_at: Instant::now(),
            stamp,
        });
        Ok(agent)
    }

    /// Ends all requests under way, each with an error; there are no others after it. A connection that is
    /// just being opened ends when it is open or its time is over.
    pub fn shutdown(&self) {
        self.plain.clone().shutdown();
        let secure = self.secure.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(secure) = &*secure {
            secure.agent.clone().shutdown();
        }
    }
}

fn agent(socket: Option<PathBuf>, tls: TlsConfig) -> Agent {
    let config = Agent::config_builder()
        .tls_config(tls)
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .user_agent(USER_AGENT)
        .max_idle_connections(0)
        .build();
    let resolve = Resolve {
        by_socket: socket.is_some(),
    };
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
        .map_err(|error| Error::Foreign(format!("{url}: {error}")))
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    /// Tells the fields of the header that are text.
    pub fn headers(&self, mut note: impl FnMut(&str, &str)) {
        for (name, value) in self.0.headers() {
            if let Ok(value) = value.to_str() {
                note(name.as_str(), value);
            }
        }
    }

    /// Hands over all that was received of the body whenever more came, until `enough` says so or the body
    /// ends.
    ///
    /// # Errors
    /// Where it ended early; what came until then was handed over.
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
    /// Where it ended early, or is longer than `max` bytes.
    pub fn read_all(self, max: usize) -> Result<Vec<u8>, Error> {
        let body = self.read_until(|body| body.len() > max)?;
        match body.len() > max {
            true => Err(Error::Foreign(format!("more than {max} bytes"))),
            false => Ok(body),
        }
    }
}

impl Error {
    /// What the system said.
    pub fn cause(&self) -> Option<&io::Error> {
        match self {
            Self::Unreachable(_, cause) | Self::Broken(cause) => Some(cause),
            Self::Late | Self::Foreign(_) => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(tried, cause) => write!(f, "{tried}: {cause}"),
            Self::Late => f.write_str("no answer in time"),
            Self::Broken(cause) => cause.fmt(f),
            Self::Foreign(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

impl From<ureq::Error> for Error {
    fn from(error: ureq::Error) -> Self {
        match error {
            ureq::Error::Other(error) => match error.downcast::<Unreachable>() {
                Ok(unreachable) => Self::Unreachable(unreachable.tried, unreachable.cause),
                Err(error) => Self::Foreign(error.to_string()),
            },
            ureq::Error::Timeout(Timeout::Connect) => {
                Self::Unreachable("connecting".to_owned(), io::ErrorKind::TimedOut.into())
            }
            ureq::Error::Timeout(_) => Self::Late,
            // It ended in the midst of a chunk's head.
            ureq::Error::BodyStalled => Self::Broken(io::ErrorKind::UnexpectedEof.into()),
            ureq::Error::Io(error) => Self::Broken(explained(error)),
            ureq::Error::Rustls(error) => Self::Broken(explained(io::Error::other(error))),
            error => Self::Foreign(error.to_string()),
        }
    }
}

/// What was asked cannot be said in HTTP.
fn unsayable(error: impl Into<http::Error>) -> Error {
    Error::Foreign(error.into().to_string())
}

/// What rustls has no word of its own for is said in the verifier's.
fn explained(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(why))) => {
            io::Error::new(error.kind(), format!("invalid peer certificate: {why}"))
        }
        _ => error,
    }
}

pub const USER_AGENT: &str = concat!("sidecast/", env!("CARGO_PKG_VERSION"));
/// Bytes of a buffer: as many checks as there are places have four of them at once.
const BUFFER: usize = 4 * 1024;
const LARGE_HEAD: usize = 64 * 1024;
/// How long a server's certificate may be believed without being looked at again.
const LIFETIME: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
