//! Over TLS: ureq and rustls on a thread of the blocking pool.

use super::{BLOCKING, MAX_BODY};
use crate::config::Consul;
use crate::consul::Answer;
use crate::io::monitor::http::USER_AGENT;
use crate::io::monitor::https::roots;
use smol::lock::Semaphore;
use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

/// The files are read at the first request, and again after every failure and reload: they may have been
/// renewed.
pub(super) struct Client {
    files: Files,
    agent: RefCell<Option<Agent>>,
    /// How often the files were to be read anew.
    renewals: Cell<u64>,
    places: Arc<Semaphore>,
}

#[derive(Clone)]
struct Files {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Client {
    pub(super) fn new(settings: &Consul) -> Self {
        Self {
            files: Files {
                ca: settings.ca_file.clone(),
                cert: settings.cert_file.clone(),
                key: settings.key_file.clone(),
            },
            agent: RefCell::new(None),
            renewals: Cell::new(0),
            places: Arc::new(Semaphore::new(BLOCKING)),
        }
    }

    /// The next request reads the files anew.
    pub(super) fn forget(&self) {
        self.agent.replace(None);
        self.renewals.set(self.renewals.get() + 1);
    }

    pub(super) async fn get(
        &self,
        url: String,
        token: Option<String>,
        limit: Duration,
    ) -> io::Result<Answer> {
        let place = self.places.acquire_arc().await;
        let known = self.agent.borrow().clone();
        let renewals = self.renewals.get();
        let files = self.files.clone();
        let asked = smol::unblock(move || {
            let _place = place;
            let agent = match known {
                Some(agent) => agent,
                None => files.agent()?,
            };
            let answer = ask(&agent, &url, token.as_deref(), limit)?;
            io::Result::Ok((agent, answer))
        });
        let (agent, answer) = asked.await.inspect_err(|_| {
            self.agent.replace(None);
        })?;
        // Since a renewal meanwhile the files may hold something else.
        if renewals == self.renewals.get() {
            self.agent.replace(Some(agent));
        }
        Ok(answer)
    }
}

fn ask(agent: &Agent, url: &str, token: Option<&str>, limit: Duration) -> io::Result<Answer> {
    let config = agent.get(url).config().timeout_global(Some(limit)).build();
    let mut request = config.header("Accept", "application/json");
    if let Some(token) = token {
        request = request.header("X-Consul-Token", token);
    }
    let response = request.call().map_err(io::Error::other)?;
    let mut answer = Answer {
        status: response.status().as_u16(),
        ..Answer::default()
    };
    for (name, value) in response.headers() {
        if let Ok(value) = value.to_str() {
            answer.headers.note(name.as_str(), value);
        }
    }
    let limit = u64::try_from(MAX_BODY).unwrap_or(u64::MAX);
    let body = response.into_body().into_with_config().limit(limit);
    answer.body = body.read_to_vec().map_err(io::Error::other)?;
    Ok(answer)
}

impl Files {
    /// An agent that keeps no connection: one that Consul closed meanwhile would look like an outage.
    fn agent(&self) -> io::Result<Agent> {
        let root_certs = match &self.ca {
            Some(path) => RootCerts::Specific(Arc::new(certificates(path)?)),
            None => roots(),
        };
        let client_cert = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let chain = certificates(cert)?;
                Some(ClientCert::new_with_certs(&chain, private_key(key)?))
            }
            _ => None,
        };
        let tls = TlsConfig::builder()
            .root_certs(root_certs)
            .client_cert(client_cert)
            .build();
        Ok(Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .max_idle_connections(0)
            .user_agent(USER_AGENT)
            .tls_config(tls)
            .build()
            .into())
    }
}

fn certificates(path: &Path) -> io::Result<Vec<Certificate<'static>>> {
    let pem = read(path)?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(io::Error::other(format!(
            "{}: holds no certificate",
            path.display()
        )));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> io::Result<PrivateKey<'static>> {
    let pem = read(path)?;
    let key = parse_pem(&pem).find_map(|item| match item {
        Ok(PemItem::PrivateKey(key)) => Some(key),
        _ => None,
    });
    key.ok_or_else(|| io::Error::other(format!("{}: holds no private key", path.display())))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
