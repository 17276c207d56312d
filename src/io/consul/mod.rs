//! Asking Consul: one request, one whole answer. Over TCP, a unix socket, or TLS.
//!
//! Left out: proxies (an agent is a neighbour), compression, connections that are kept.

mod http;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;

use crate::app::HttpUrl;
use crate::config::{Consul, Secret};
use crate::consul::Answer;
use crate::io::stream::{self, Stream};
use smol::Timer;
use smol::future::FutureExt;
use smol::lock::Semaphore;
use smol::net;
use smol::net::unix::UnixStream;
use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Knows where Consul is and how to get in.
pub struct Client {
    place: Place,
    token: RefCell<Option<Secret>>,
    /// Where the token is from, where it may be replaced.
    token_file: RefCell<Option<PathBuf>>,
    /// That file could not be read, which was said.
    unreadable: Cell<bool>,
    reading: Arc<Semaphore>,
    /// How often the token came from the configuration anew.
    renewals: Cell<u64>,
}

enum Place {
    Tcp(HttpUrl),
    Unix(PathBuf),
    Tls(HttpUrl, tls::Client),
}

impl Client {
    pub fn new(settings: &Consul) -> io::Result<Self> {
        let place = match settings.unix_path() {
            Some(path) => Place::Unix(path.to_owned()),
            None => {
                let url: HttpUrl = settings.addr.parse().map_err(io::Error::other)?;
                if url.tls {
                    Place::Tls(url, tls::Client::new(settings))
                } else {
                    Place::Tcp(url)
                }
            }
        };
        Ok(Self {
            place,
            token: RefCell::new(settings.token.clone()),
            token_file: RefCell::new(settings.token_file.clone()),
            unreadable: Cell::new(false),
            reading: Arc::new(Semaphore::new(1)),
            renewals: Cell::new(0),
        })
    }

    /// From the next request on: the token of these settings, and the files of TLS as they are by then.
    pub fn renew(&self, settings: &Consul) {
        self.token.replace(settings.token.clone());
        self.token_file.replace(settings.token_file.clone());
        self.renewals.set(self.renewals.get() + 1);
        if let Place::Tls(_, client) = &self.place {
            client.forget();
        }
    }

    /// Reads the token's file again: whoever rotates it does not tell us. One that cannot be read, or is
    /// empty while it is being written, leaves the token that is known.
    pub async fn reread_token(&self) {
        let Some(path) = self.token_file.borrow().clone() else {
            return;
        };
        // One look at a time: a pipe or a dead file server keeps its thread.
        let Some(place) = self.reading.try_acquire_arc() else {
            return;
        };
        let renewals = self.renewals.get();
        let file = path.clone();
        let read = smol::unblock(move || {
            let read = read_token(&file);
            drop(place);
            read
        });
        let late = async {
            Timer::after(FILE).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        let read = read.or(late).await;
        // Since a reload meanwhile another token may count.
        if renewals == self.renewals.get() {
            self.take_token(&path, read);
        }
    }

    fn take_token(&self, path: &Path, read: io::Result<Secret>) {
        match read {
            Ok(token) => {
                self.unreadable.set(false);
                let before = self.token.replace(Some(token));
                if before != *self.token.borrow() {
                    log::info!("agent.consul_token_file: there is another token now");
                }
            }
            Err(error) => {
                if !self.unreadable.replace(true) {
                    let path = path.display();
                    log::warn!(
                        "agent.consul_token_file: {path}: {error}: the token read before stays"
                    );
                }
            }
        }
    }

    /// `GET path`; an error where no whole answer came within `limit`.
    pub async fn get(&self, path: &str, limit: Duration) -> io::Result<Answer> {
        let late = async {
            Timer::after(limit).await;
            let message = format!("no answer within {:.1} s", limit.as_secs_f64());
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        };
        let asked = async { self.ask(path).await.map_err(|error| self.at(&error)) };
        let answer = asked.or(late).await;
        if let (Err(_), Place::Tls(_, client)) = (&answer, &self.place) {
            client.forget();
        }
        answer
    }

    async fn ask(&self, path: &str) -> io::Result<Answer> {
        let stream = self.open().await?;
        let token = self.token.borrow().clone();
        let token = token.as_ref().map(Secret::expose);
        match &self.place {
            Place::Tcp(url) | Place::Tls(url, _) => {
                http::exchange(stream, &url.authority(), &join(url, path), token).await
            }
            Place::Unix(_) => http::exchange(stream, "localhost", path, token).await,
        }
    }

    async fn open(&self) -> io::Result<Stream> {
        match &self.place {
            Place::Tcp(url) => connect(url).await,
            Place::Tls(url, client) => client.open(&url.host, connect(url).await?).await,
            Place::Unix(socket) => Ok(Box::new(UnixStream::connect(socket).await?)),
        }
    }

    fn at(&self, error: &io::Error) -> io::Error {
        let place = match &self.place {
            Place::Tcp(url) | Place::Tls(url, _) => url.authority(),
            Place::Unix(socket) => socket.display().to_string(),
        };
        io::Error::new(error.kind(), format!("{place}: {error}"))
    }
}

fn read_token(path: &Path) -> io::Result<Secret> {
    let text = std::fs::read_to_string(path)?;
    let empty = || io::Error::new(io::ErrorKind::InvalidData, "the file is empty");
    Secret::in_file(&text).ok_or_else(empty)
}

async fn connect(url: &HttpUrl) -> io::Result<Stream> {
    let deadline = Instant::now() + CONNECT;
    let addrs = net::resolve((url.host.as_str(), url.port)).await?;
    match stream::connect(&addrs, deadline).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(Some((addr, error))) => {
            let message = format!("connecting to {addr}: {error}");
            Err(io::Error::new(error.kind(), message))
        }
        Err(None) => Err(io::Error::other("the name has no address")),
    }
}

/// A path below the address's own.
fn join(url: &HttpUrl, path: &str) -> String {
    format!("{}{path}", url.path.trim_end_matches('/'))
}

/// How long reading the token's file may take.
const FILE: Duration = Duration::from_secs(1);
/// For all of a name's addresses together; a long poll's patience would go to the first that is silent.
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes of an answer: a node with thousands of services has a few million.
const MAX_BODY: usize = 32 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use std::time::Instant;

    fn client(file: &Path) -> Client {
        Client {
            place: Place::Unix(PathBuf::new()),
            token: RefCell::new(Some(Secret::new("first"))),
            token_file: RefCell::new(Some(file.to_owned())),
            unreadable: Cell::default(),
            reading: Arc::new(Semaphore::new(1)),
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
        for limit in [FILE * 2, FILE / 4] {
            let began = Instant::now();
            smol::block_on(hung.reread_token());
            assert!(began.elapsed() < limit, "{:?}", began.elapsed());
            assert!(is_token(&hung, "first"));
        }
        // Whoever writes lets the thread go.
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
}
