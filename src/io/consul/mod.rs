//! HTTP client for Consul, over TCP, a unix socket or TLS. A query whose future is dropped ends by its timeout, or
//! with the process.
//!
//! Left out: proxies (the agent is on this host or near it), compression, connections that are kept.

use crate::app::HttpUrl;
use crate::config::{Consul, Secret};
use crate::consul::{Headers, Response};
use crate::io::client::{self, Error, HttpRequest, TlsFiles};
use crate::io::thread_slots::{ThreadSlot, ThreadSlots};
use smol::Timer;
use smol::future::FutureExt;
use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// The address of Consul, its TLS files and the ACL token.
pub struct Client {
    client: Arc<client::Client>,
    /// Without a slash at its end.
    url: String,
    /// The address for error messages.
    place: String,
    token: RefCell<Option<Secret>>,
    /// `agent.consul_token_file`.
    token_file: RefCell<Option<PathBuf>>,
    /// Reading that file failed, which was logged.
    token_file_failed: Cell<bool>,
    file_slot: ThreadSlots,
    /// Not shared with checks, so that neither exhausts the other's threads.
    query_slots: ThreadSlots,
    /// Number of times the configuration set the token.
    renewals: Cell<u64>,
}

impl Client {
    /// A client with these settings.
    ///
    /// # Errors
    /// If the address is not a valid URL.
    pub fn new(settings: &Consul) -> io::Result<Self> {
        let (place, url) = match settings.unix_path() {
            Some(path) => (path.display().to_string(), "http://localhost".to_owned()),
            None => {
                let url: HttpUrl = settings.addr.parse().map_err(io::Error::other)?;
                (url.authority(), url.to_string())
            }
        };
        let files = TlsFiles {
            ca: settings.ca_file.clone(),
            identity: settings.cert_file.clone().zip(settings.key_file.clone()),
            insecure: false,
        };
        let socket = settings.unix_path().map(Path::to_owned);
        Ok(Self {
            client: Arc::new(client::Client::new(socket, files)),
            url: url.trim_end_matches('/').to_owned(),
            place,
            token: RefCell::new(settings.token.clone()),
            token_file: RefCell::new(settings.token_file.clone()),
            token_file_failed: Cell::new(false),
            file_slot: ThreadSlots::new(1),
            query_slots: ThreadSlots::new(QUERIES),
            renewals: Cell::new(0),
        })
    }

    /// With thread slots that all such clients of the process share: for clients that are made again and again, of
    /// which each would lose a thread to a file that hangs.
    pub fn with_shared_slots(self) -> Self {
        Self {
            file_slot: SHARED_FILE_SLOT.clone(),
            query_slots: SHARED_QUERY_SLOT.clone(),
            ..self
        }
    }

    /// Uses the token of these settings from the next request on.
    pub fn set_token(&self, settings: &Consul) {
        self.token.replace(settings.token.clone());
        self.token_file.replace(settings.token_file.clone());
        self.renewals.set(self.renewals.get() + 1);
    }

    /// Reads the token file again, since its rotation is not notified. If it cannot be read or is empty, the
    /// current token stays.
    pub async fn reread_token(&self) {
        let Some(path) = self.token_file.borrow().clone() else {
            return;
        };
        // One read at a time: with a FIFO or a dead file server the call keeps its thread.
        let Some(place) = self.file_slot.try_take() else {
            return;
        };
        let renewals = self.renewals.get();
        let file = path.clone();
        let read = place.run(FILE, move || read_token(&file)).await;
        let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        // A reload meanwhile set another token.
        if renewals == self.renewals.get() {
            self.take_token(&path, read);
        }
    }

    fn take_token(&self, path: &Path, read: io::Result<Secret>) {
        match read {
            Ok(token) => {
                self.token_file_failed.set(false);
                let before = self.token.replace(Some(token));
                if before != *self.token.borrow() {
                    log::info!("agent.consul_token_file: token changed");
                }
            }
            Err(error) => {
                if !self.token_file_failed.replace(true) {
                    let path = path.display();
                    log::warn!(
                        "agent.consul_token_file: {path}: {error}; keeping the current token"
                    );
                }
            }
        }
    }

    /// `GET path`; an error where no whole answer came within `limit`.
    pub async fn get(&self, path: &str, limit: Duration) -> io::Result<Response> {
        let message = || format!("no answer within {:.1} s", limit.as_secs_f64());
        let late = async {
            Timer::after(limit).await;
            Err(io::Error::new(io::ErrorKind::TimedOut, message()))
        };
        let asked = async {
            let place = self.query_slots.take().await;
            let asked = self.ask(place, path, limit).await;
            asked.map_err(|error| match error {
                Error::TimedOut => io::Error::new(io::ErrorKind::TimedOut, message()),
                error => io::Error::other(format!("{}: {error}", self.place)),
            })
        };
        asked.or(late).await
    }

    async fn ask(&self, place: ThreadSlot, path: &str, limit: Duration) -> Result<Response, Error> {
        let client = self.client.clone();
        let url = format!("{}{path}", self.url);
        let token = self.token.borrow().clone();
        let asked = place.run(limit, move || {
            let token = token
                .as_ref()
                .map(|token| ("X-Consul-Token", token.expose()));
            let headers: Vec<_> = [("Accept", "application/json")]
                .into_iter()
                .chain(token)
                .collect();
            let ask = HttpRequest {
                url: &url,
                headers: &headers,
                form: None,
                limit,
                connect: CONNECT,
            };
            read_response(client.fetch(&ask)?)
        });
        asked.await.unwrap_or(Err(Error::TimedOut))
    }
}

/// Reads the whole response; a truncated one is an error.
fn read_response(answer: client::HttpResponse) -> Result<Response, Error> {
    let mut headers = Headers::default();
    answer.headers(|name, value| headers.set(name, value));
    Ok(Response {
        status: answer.status(),
        headers,
        body: answer.read_all(MAX_BODY)?,
    })
}

fn read_token(path: &Path) -> io::Result<Secret> {
    let text = std::fs::read_to_string(path)?;
    let empty = || io::Error::new(io::ErrorKind::InvalidData, "the file is empty");
    Secret::in_file(&text).ok_or_else(empty)
}

/// For [`Client::with_shared_slots`]: one file and one query at a time.
static SHARED_FILE_SLOT: LazyLock<ThreadSlots> = LazyLock::new(|| ThreadSlots::new(1));
static SHARED_QUERY_SLOT: LazyLock<ThreadSlots> = LazyLock::new(|| ThreadSlots::new(1));
/// How long reading the token's file may take.
const FILE: Duration = Duration::from_secs(1);
/// The connect timeout for all addresses of a name together. Without it, the first address that does not answer would
/// use up the timeout of a blocking query.
const CONNECT: Duration = Duration::from_secs(5);
/// Concurrent queries: two blocking queries, one for the agent's own checks, and one that still hangs.
const QUERIES: usize = 4;
/// Bytes of an answer: a node with thousands of services has a few million.
const MAX_BODY: usize = 32 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, listen};
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    fn client(file: &Path) -> Client {
        Client {
            client: Arc::new(client::Client::new(None, TlsFiles::default())),
            url: String::new(),
            place: String::new(),
            token: RefCell::new(Some(Secret::new("first"))),
            token_file: RefCell::new(Some(file.to_owned())),
            token_file_failed: Cell::default(),
            file_slot: ThreadSlots::new(1),
            query_slots: ThreadSlots::new(QUERIES),
            renewals: Cell::default(),
        }
    }

    fn is_token(client: &Client, token: &str) -> bool {
        client.token.borrow().as_ref().map(Secret::expose) == Some(token)
    }

    #[test]
    fn a_token_file_that_hangs_holds_nobody_up() {
        let folder = std::env::temp_dir().join(format!("sidecast-token-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("token");
        let hung = client(&file);
        mkfifo(&file, Mode::S_IRWXU).unwrap();
        // The first time it is waited for, then known to hang.
        for limit in [FILE * 10, FILE * 9 / 10] {
            let began = Instant::now();
            smol::block_on(hung.reread_token());
            assert!(began.elapsed() < limit, "{:?}", began.elapsed());
            assert!(is_token(&hung, "first"));
        }
        // Opening the FIFO for writing unblocks the thread.
        std::fs::write(&file, "").unwrap();
        std::fs::remove_file(&file).unwrap();
        let plain = client(&file);
        for (text, token) in [("second\n", "second"), ("", "second"), ("third", "third")] {
            std::fs::write(&file, text).unwrap();
            smol::block_on(plain.reread_token());
            assert!(is_token(&plain, token), "{text:?}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_blocking_query_to_an_address_that_is_silent_fails_at_the_connect_timeout() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        listen(&silent, Backlog::new(0).unwrap()).unwrap();
        let addr = silent.local_addr().unwrap();
        // The accept queue is full: the next SYN is dropped.
        let _first = TcpStream::connect(addr).unwrap();
        let mut asking = client(Path::new(""));
        asking.url = format!("http://{addr}");
        let began = Instant::now();
        let asked = asking.get("/v1/health/node/a?index=5&wait=50s", CONNECT * 12);
        let error = smol::block_on(asked).unwrap_err().to_string();
        let took = began.elapsed();
        assert!(error.contains("connecting: timed out"), "{error}");
        assert!(took >= CONNECT && took < CONNECT * 2, "{took:?}");
    }
}
