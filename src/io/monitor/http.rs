//! `http:` and `https:` — what to ask, and which answer is good.

use super::is_own_want;
use crate::api::CHECK;
use crate::app::{HttpUrl, StatusRanges};
use crate::health::Outcome;
use crate::io::client::{Answer, Ask, Client, Error, USER_AGENT};
use std::io;
use std::time::Duration;

/// What to ask, and which answer is good.
pub(super) struct Want {
    pub(super) url: HttpUrl,
    pub(super) status: StatusRanges,
    pub(super) contains: Option<String>,
    pub(super) headers: Vec<(String, String)>,
}

impl Want {
    /// Asks, and blocks meanwhile.
    pub(super) fn check(&self, client: &Client, timeout: Duration) -> Outcome {
        let agent = format!("{USER_AGENT}{CHECK}");
        let written = self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        // What is written replaces ours.
        let headers: Vec<_> = std::iter::once(("user-agent", &*agent))
            .chain(written)
            .collect();
        let answer = client.ask(&Ask {
            url: &self.url.to_string(),
            headers: &headers,
            form: None,
            limit: timeout,
            connect: timeout,
        });
        match answer.and_then(|answer| self.judge(answer)) {
            Ok(outcome) => outcome,
            Err(error) => self.failure(&error, timeout),
        }
    }

    fn judge(&self, answer: Answer) -> Result<Outcome, Error> {
        let status = answer.status();
        if !self.status.contains(status) {
            let message = format!("status {status}, wanted {}", self.status);
            return Ok(Outcome::Fail(message));
        }
        let Some(text) = &self.contains else {
            return Ok(Outcome::pass());
        };
        let mut found = false;
        let read = answer.read_until(|body| {
            found = holds(body, text);
            found || body.len() >= MAX_BODY
        });
        match read {
            // What came before a connection's end says enough.
            Err(Error::Broken(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            read => drop(read?),
        }
        Ok(match found {
            true => Outcome::pass(),
            false => Outcome::Fail(format!("the body does not contain {text:?}")),
        })
    }

    /// What it means that there is no answer.
    fn failure(&self, error: &Error, timeout: Duration) -> Outcome {
        match error {
            Error::Late => super::late(timeout),
            Error::Unreachable(_, cause) if cause.kind() == io::ErrorKind::TimedOut => {
                super::late(timeout)
            }
            error if error.cause().is_some_and(is_own_want) => Outcome::unavailable(error),
            error => Outcome::Fail(format!("asking {}: {error}", self.url.authority())),
        }
    }
}

fn holds(body: &[u8], text: &str) -> bool {
    text.is_empty() || body.windows(text.len()).any(|part| part == text.as_bytes())
}

/// Bytes of a body that are looked at.
const MAX_BODY: usize = 256 * 1024;
