//! Whether an answer can be believed at all, before its body is read.

use std::fmt;

/// The headers that matter, as they came.
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
    /// Takes note of a header, whose name may be written in any case.
    pub fn note(&mut self, name: &str, value: &str) {
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

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
}

impl Answer {
    /// Refuses what says nothing about the node: an error, or a cluster without a leader, whose servers
    /// may remember anything.
    pub fn check(&self) -> Result<(), AnswerError> {
        match self.status {
            200 => {}
            401 | 403 => return Err(AnswerError::Denied(self.excerpt())),
            status => return Err(AnswerError::Status(status, self.excerpt())),
        }
        let leader = self.headers.known_leader.as_deref();
        if leader.is_some_and(|leader| leader.eq_ignore_ascii_case("false")) {
            return Err(AnswerError::NoLeader);
        }
        Ok(())
    }

    /// The token may not see all there is: what is missing may exist.
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

/// Why an answer says nothing about the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerError {
    /// The token is unknown, has expired, or may not.
    Denied(String),
    Status(u16, String),
    /// The servers have no leader.
    NoLeader,
    /// The body is not what the endpoint answers: what was wanted of it.
    Malformed(&'static str),
    /// The node is not in it: it does not exist, or the token may not see it.
    NoNode,
    /// An empty list of checks, though every node with an agent has one.
    NoChecks,
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(said) => write!(
                f,
                "the ACLs do not allow it ({said}): the token needs node:read and service:read, and agent:read for the node's name"
            ),
            Self::Status(status, said) if said.is_empty() => write!(f, "status {status}"),
            Self::Status(status, said) => write!(f, "status {status}: {said}"),
            Self::NoLeader => f.write_str("the cluster has no leader"),
            Self::Malformed(wanted) => write!(f, "the answer is not {wanted}"),
            Self::NoNode => f.write_str(
                "the node is not in the answer: it has another name in Consul, or the token may not see it (node:read)",
            ),
            Self::NoChecks => f.write_str(
                "the node has no checks at all, not even its own: the token may not see them (node:read, service:read)",
            ),
        }
    }
}

impl std::error::Error for AnswerError {}

const EXCERPT: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut answer = Answer {
            status,
            body: body.into(),
            ..Answer::default()
        };
        headers
            .iter()
            .for_each(|(name, value)| answer.headers.note(name, value));
        answer
    }

    #[test]
    fn errors_are_said_in_words() {
        let said = |status, body| answer(status, &[], body).check().unwrap_err().to_string();
        assert_eq!(
            said(500, "No cluster leader\n"),
            "status 500: No cluster leader"
        );
        assert_eq!(said(502, ""), "status 502");
        assert_eq!(said(301, "\u{1b}[31m"), "status 301: \\u{1b}[31m");
        assert!(said(403, "Permission denied").contains("(Permission denied): the token needs"));
        assert!(said(429, &"x".repeat(9999)).len() < 300);
    }

    #[test]
    fn a_leaderless_cluster_and_filtered_results_are_noticed() {
        let leaderless = answer(200, &[("x-consul-knownleader", "false")], "[]");
        assert_eq!(leaderless.check(), Err(AnswerError::NoLeader));
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
