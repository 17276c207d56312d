//! Asking Consul: one request, one whole answer. Over TCP, a unix socket, or TLS.
//!
//! Left out: proxies (an agent is a neighbour), compression, connections that are kept.

use crate::app::HttpUrl;
use crate::config::{Consul, Secret};
use crate::consul::{Answer, Headers};
use crate::io::client::{self, Ask, Error, Files};
use crate::io::places::{Place, Places};
use smol::Timer;
use smol::future::FutureExt;
use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Knows where Consul is and how to get in.
pub struct Client {
    client: Arc<client::Client>,
    /// Without a slash at its end.
    url: String,
    /// The address, as a person knows it.
    place: String,
    token: RefCell<Option<Secret>>,
    /// Where the token is from, where it may be replaced.
    token_file: RefCell<Option<PathBuf>>,
    /// That file could not be read, which was said.
    unreadable: Cell<bool>,
    reading: Places,
    /// Beside those of checks: neither takes the other's.
    asking: Places,
    /// How often the token came from the configuration anew.
    renewals: Cell<u64>,
}

impl Client {
    pub fn new(settings: &Consul) -> io::Result<Self> {
        let (place, url) = match settings.unix_path() {
            Some(path) => (path.display().to_string(), "http://localhost".to_owned()),
            None => {
                let url: HttpUrl = settings.addr.parse().map_err(io::Error::other)?;
                (url.authority(), url.to_string())
            }
        };
        let files = Files {
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
            unreadable: Cell::new(false),
            reading: Places::new(1),
            asking: Places::new(QUERIES),
            renewals: Cell::new(0),
        })
    }

    /// From the next request on: the token of these settings.
    pub fn renew(&self, settings: &Consul) {
        self.token.replace(settings.token.clone());
        self.token_file.replace(settings.token_file.clone());
        self.renewals.set(self.renewals.get() + 1);
    }

    /// Reads the token's file again: whoever rotates it does not tell us. One that cannot be read, or is
    /// empty while it is being written, leaves the token that is known.
    pub async fn reread_token(&self) {
        let Some(path) = self.token_file.borrow().clone() else {
            return;
        };
        // One look at a time: a pipe or a dead file server keeps its thread.
        let Some(place) = self.reading.try_take() else {
            return;
        };
        let renewals = self.renewals.get();
        let file = path.clone();
        let read = place.run(FILE, move || read_token(&file)).await;
        let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
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
                    log::info!("agent.consul_token_file: token changed");
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
        let message = || format!("no answer within {:.1} s", limit.as_secs_f64());
        let late = async {
            Timer::after(limit).await;
            Err(io::Error::new(io::ErrorKind::TimedOut, message()))
        };
        let asked = async {
            let place = self.asking.take().await;
            let asked = self.ask(place, path, limit).await;
            asked.map_err(|error| match error {
                Error::Late => io::Error::new(io::ErrorKind::TimedOut, message()),
                error => io::Error::other(format!("{}: {error}", self.place)),
            })
        };
        asked.or(late).await
    }

    async fn ask(&self, place: Place, path: &str, limit: Duration) -> Result<Answer, Error> {
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
            let ask = Ask {
                url: &url,
                headers: &headers,
                form: None,
                limit,
                connect: CONNECT,
            };
            whole(client.ask(&ask)?)
        });
        asked.await.unwrap_or(Err(Error::Late))
    }
}

/// Queries under way end now.
impl Drop for Client {
    fn drop(&mut self) {
        self.client.shutdown();
    }
}

/// Half an answer is an error.
fn whole(answer: client::Answer) -> Result<Answer, Error> {
    let mut headers = Headers::default();
    answer.headers(|name, value| headers.note(name, value));
    Ok(Answer {
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

/// How long reading the token's file may take.
const FILE: Duration = Duration::from_secs(1);
/// For all of a name's addresses together; a long poll's patience would go to the first that is silent.
const CONNECT: Duration = Duration::from_secs(5);
/// Two long polls and the agent's own view, and one that hangs still.
const QUERIES: usize = 4;
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
            client: Arc::new(client::Client::new(None, Files::default())),
            url: String::new(),
            place: String::new(),
            token: RefCell::new(Some(Secret::new("first"))),
            token_file: RefCell::new(Some(file.to_owned())),
            unreadable: Cell::default(),
            reading: Places::new(1),
            asking: Places::new(QUERIES),
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
