//! `http:` and `https:` — sends a request and evaluates the response.

use super::vip;
use crate::api::CHECK_USER_AGENT;
use crate::app::{HttpUrl, StatusRanges, VipTarget};
use crate::health::Outcome;
use crate::io::client::{Client, Error, HttpRequest, HttpResponse, USER_AGENT};
use crate::io::exhaustion::is_out_of_resources;
use std::io;
use std::time::{Duration, Instant};

/// The request and the expected response.
#[derive(Clone)]
pub(super) struct HttpCheck {
    pub(super) url: HttpUrl,
    pub(super) status: StatusRanges,
    pub(super) contains: Option<String>,
    pub(super) headers: Vec<(String, String)>,
}

impl HttpCheck {
    /// Asks each of these in place of the URL's host, one after the other, and blocks meanwhile.
    pub(super) fn check_each(
        &self,
        client: &Client,
        targets: &[VipTarget],
        timeout: Duration,
    ) -> Outcome {
        let deadline = Instant::now() + timeout;
        let asked = targets.iter().enumerate().map(|(index, target)| {
            let url = HttpUrl {
                host: target.addr.to_string(),
                ..self.url.clone()
            };
            let check = Self {
                url,
                ..self.clone()
            };
            check.check(client, vip::share(deadline, targets.len() - index))
        });
        vip::together(targets, asked)
    }

    /// Sends the request; blocks the thread.
    pub(super) fn check(&self, client: &Client, timeout: Duration) -> Outcome {
        let agent = format!("{USER_AGENT}{CHECK_USER_AGENT}");
        let written = self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        // Configured headers replace ours.
        let headers: Vec<_> = std::iter::once(("user-agent", &*agent))
            .chain(written)
            .collect();
        let answer = client.fetch(&HttpRequest {
            url: &self.url.to_string(),
            headers: &headers,
            form: None,
            limit: timeout,
            connect: timeout,
        });
        match answer.and_then(|answer| self.evaluate(answer)) {
            Ok(outcome) => outcome,
            Err(error) => self.failure(&error, timeout),
        }
    }

    fn evaluate(&self, answer: HttpResponse) -> Result<Outcome, Error> {
        let status = answer.status();
        if !self.status.contains(status) {
            let message = format!("status {status}, wanted {}", self.status);
            return Ok(Outcome::Fail(message));
        }
        let Some(text) = &self.contains else {
            return Ok(Outcome::pass());
        };
        let mut search = Search { text, from: 0 };
        let mut found = false;
        let read = answer.read_until(|body| {
            found = search.finds_in(body);
            found || body.len() >= MAX_BODY
        });
        match read {
            // The body received before an early end is evaluated.
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            read => drop(read?),
        }
        Ok(match found {
            true => Outcome::pass(),
            false => Outcome::Fail(format!("the body does not contain {text:?}")),
        })
    }

    /// The outcome of a request without a response.
    fn failure(&self, error: &Error, timeout: Duration) -> Outcome {
        match error {
            Error::TimedOut => super::late(timeout),
            Error::ConnectFailed(_, cause) if cause.kind() == io::ErrorKind::TimedOut => {
                super::late(timeout)
            }
            Error::FilesTimedOut => Outcome::unavailable(error),
            error if error.cause().is_some_and(is_out_of_resources) => Outcome::unavailable(error),
            error => Outcome::Fail(format!("request to {}: {error}", self.url.authority())),
        }
    }
}

/// Searches a body for a text while it arrives.
struct Search<'a> {
    text: &'a str,
    /// The text does not begin before this offset.
    from: usize,
}

impl Search<'_> {
    /// Whether the text is in `body`, which begins with the bytes of the call before.
    fn finds_in(&mut self, body: &[u8]) -> bool {
        let rest = body.get(self.from..).unwrap_or_default();
        let text = self.text.as_bytes();
        let found = text.is_empty() || rest.windows(text.len()).any(|part| part == text);
        // The last bytes may be the beginning of the text.
        self.from = (body.len() + 1).saturating_sub(text.len());
        found
    }
}

/// Bytes of a body that are looked at.
const MAX_BODY: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_wherever_the_reads_end_and_no_byte_is_searched_again() {
        let text = "ab-abc";
        for offset in 0..40 {
            let body = ["ab-ab".repeat(8).split_at(offset).0, text, "ab-ab"].concat();
            let body = body.as_bytes();
            let end = (text.len()..)
                .find(|end| body[..*end].ends_with(text.as_bytes()))
                .unwrap();
            for size in 1..=body.len() {
                let mut search = Search { text, from: 0 };
                let (mut found, mut searched) = (None, 0);
                for read in (size..body.len()).step_by(size).chain([body.len()]) {
                    searched += read - search.from;
                    if search.finds_in(&body[..read]) {
                        found = Some(read);
                        break;
                    }
                }
                let found = found.unwrap();
                assert!(found >= end && found < end + size, "{offset} {size}");
                let overlap = (text.len() - 1) * found.div_ceil(size);
                assert!(searched <= found + overlap, "{offset} {size}: {searched}");
            }
        }
    }

    #[test]
    fn what_is_not_in_a_body_is_not_found() {
        let found = |text: &str, bodies: &[&str]| {
            let mut search = Search { text, from: 0 };
            bodies.iter().any(|body| search.finds_in(body.as_bytes()))
        };
        assert!(!found("ok", &["", "o", "oo", "oo k"]));
        assert!(!found("longer than the body", &["", "l"]));
        assert!(found("", &[""]));
    }
}
