//! A response of Consul, and whether its status and headers allow its body to be trusted.

use std::fmt;

/// The headers that are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// `X-Consul-Index`
    pub index: Option<String>,
    /// `X-Consul-KnownLeader`
    pub known_leader: Option<String>,
    /// `X-Consul-Results-Filtered-By-ACLs`
    pub filtered: Option<String>,
}

impl Headers {
    /// Stores a header; its name is compared without case.
    pub fn set(&mut self, name: &str, value: &str) {
        let field = if name.eq_ignore_ascii_case("X-Consul-Index") {
            &mut self.index
        } else if name.eq_ignore_ascii_case("X-Consul-KnownLeader") {
            &mut self.known_leader
        } else if name.eq_ignore_ascii_case("X-Consul-Results-Filtered-By-ACLs") {
            &mut self.filtered
        } else {
            return;
        };
        *field = Some(value.trim().to_owned());
    }
}

/// A complete response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
}

impl Response {
    /// Rejects errors, and responses of a cluster without a leader, which may be arbitrarily old.
    pub fn check(&self) -> Result<(), ResponseError> {
        match self.status {
            200 => {}
            401 | 403 => return Err(ResponseError::Denied(self.excerpt())),
            status => return Err(ResponseError::Status(status, self.excerpt())),
        }
        let leader = self.headers.known_leader.as_deref();
        if leader.is_some_and(|leader| leader.eq_ignore_ascii_case("false")) {
            return Err(ResponseError::NoLeader);
        }
        Ok(())
    }

    /// Whether Consul left out entries that the token may not read: a missing entry may exist.
    pub fn is_filtered(&self) -> bool {
        let filtered = self.headers.filtered.as_deref();
        filtered.is_some_and(|filtered| filtered.eq_ignore_ascii_case("true"))
    }

    /// The first line of the body, fit for a log.
    fn excerpt(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let line = text.lines().next().unwrap_or_default().trim();
        line.chars()
            .take(EXCERPT)
            .flat_map(char::escape_debug)
            .collect()
    }
}

/// Why a response cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// The token is unknown, has expired or lacks the permission.
    Denied(String),
    Status(u16, String),
    /// The servers have no leader.
    NoLeader,
    /// The body is not what the endpoint returns; holds what was expected.
    Malformed(&'static str),
    /// The node is not in it: it does not exist, or the token may not see it.
    NoNode,
    /// An empty list of checks, though every node with an agent has one.
    NoChecks,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(report) => write!(
                f,
                "permission denied by ACLs ({report}): the token needs node:read and service:read, and agent:read for the node's name"
            ),
            Self::Status(status, report) if report.is_empty() => write!(f, "status {status}"),
            Self::Status(status, report) => write!(f, "status {status}: {report}"),
            Self::NoLeader => f.write_str("the cluster has no leader"),
            Self::Malformed(wanted) => write!(f, "the response is not {wanted}"),
            Self::NoNode => f.write_str(
                "the node is not in the response: it has another name in Consul, or the token lacks node:read",
            ),
            Self::NoChecks => f.write_str(
                "the node has no checks, not even serfHealth: the token lacks node:read or service:read",
            ),
        }
    }
}

impl std::error::Error for ResponseError {}

const EXCERPT: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Response {
        let mut answer = Response {
            status,
            body: body.into(),
            ..Response::default()
        };
        headers
            .iter()
            .for_each(|(name, value)| answer.headers.set(name, value));
        answer
    }

    #[test]
    fn errors_are_said_in_words() {
        let report = |status, body| answer(status, &[], body).check().unwrap_err().to_string();
        assert_eq!(
            report(500, "No cluster leader\n"),
            "status 500: No cluster leader"
        );
        assert_eq!(report(502, ""), "status 502");
        assert_eq!(report(301, "\u{1b}[31m"), "status 301: \\u{1b}[31m");
        assert!(report(403, "Permission denied").contains("(Permission denied): the token needs"));
        assert!(report(429, &"x".repeat(9999)).len() < 300);
    }

    #[test]
    fn a_leaderless_cluster_and_filtered_results_are_noticed() {
        let leaderless = answer(200, &[("x-consul-knownleader", "false")], "[]");
        assert_eq!(leaderless.check(), Err(ResponseError::NoLeader));
        let headers = [
            ("X-Consul-Knownleader", "true"),
            ("X-Consul-Results-Filtered-By-ACLs", " true "),
        ];
        let filtered = answer(200, &headers, "[]");
        assert_eq!(filtered.check(), Ok(()));
        assert!(filtered.is_filtered());
        assert!(!answer(200, &[("x-other", "true")], "").is_filtered());
    }
}
