//! `https:` — ureq and rustls on a thread of the blocking pool.

use super::Blocking;
use super::http::{MAX_BODY, USER_AGENT, Want};
use crate::health::Outcome;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

/// Asks over TLS. The roots are read once, at the first check.
#[derive(Default)]
pub(super) struct Client {
    /// By "certificates are not verified".
    agents: RefCell<BTreeMap<bool, Agent>>,
}

impl Client {
    pub(super) async fn check(
        &self,
        want: &Want<'_>,
        insecure: bool,
        blocking: &Blocking,
        timeout: Duration,
    ) -> Outcome {
        let known = self.agents.borrow().get(&insecure).cloned();
        let url = want.url.to_string();
        let headers = want.headers.to_vec();
        let reads_body = want.contains.is_some();
        let asked = blocking
            .run(timeout / 2, move || {
                let agent = known.unwrap_or_else(|| agent(insecure));
                let answer = ask(&agent, &url, &headers, timeout, reads_body);
                (agent, answer)
            })
            .await;
        let (agent, answer) = match asked {
            Ok(both) => both,
            Err(outcome) => return outcome,
        };
        self.agents.borrow_mut().insert(insecure, agent);
        match answer {
            Ok((status, body)) => want
                .judge_status(status)
                .unwrap_or_else(|| want.judge_body(&body)),
            Err(error) => Outcome::Fail(format!("asking {}: {error}", want.url.authority())),
        }
    }
}

/// The status, and the body where it is wanted.
fn ask(
    agent: &Agent,
    url: &str,
    headers: &[(String, String)],
    timeout: Duration,
    reads_body: bool,
) -> Result<(u16, Vec<u8>), ureq::Error> {
    let mut request = agent
        .get(url)
        .config()
        .timeout_global(Some(timeout))
        .build();
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let response = request.call()?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    if reads_body {
        let limit = u64::try_from(MAX_BODY).unwrap_or(u64::MAX);
        response
            .into_body()
            .into_reader()
            .take(limit)
            .read_to_end(&mut body)?;
    }
    Ok((status, body))
}

/// An agent that keeps no connection: each check opens its own, as a client would.
fn agent(insecure: bool) -> Agent {
    let tls = TlsConfig::builder()
        .disable_verification(insecure)
        .root_certs(roots())
        .build();
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .max_idle_connections(0)
        .user_agent(USER_AGENT)
        .tls_config(tls)
        .build()
        .into()
}

/// The system's certificate authorities, for services of one's own; Mozilla's, built in, where the image
/// has none.
pub(in crate::io) fn roots() -> RootCerts {
    let found = std::env::var_os("SSL_CERT_FILE")
        .into_iter()
        .chain(BUNDLES.iter().map(Into::into))
        .find_map(|path| std::fs::read(path).ok());
    let certs: Vec<_> = found
        .iter()
        .flat_map(|pem| parse_pem(pem))
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(cert)) => Some(cert),
            _ => None,
        })
        .collect();
    if certs.is_empty() {
        RootCerts::WebPki
    } else {
        RootCerts::Specific(Arc::new(certs))
    }
}

/// Debian and Alpine, Fedora, openSUSE.
const BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];
