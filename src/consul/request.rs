//! The paths of the queries.

use std::fmt::Write as _;
use std::time::Duration;

use super::Query;

/// Node, datacenter, namespace and consistency mode of the queries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryScope {
    /// The node's name.
    pub node: String,
    pub datacenter: Option<String>,
    pub namespace: Option<String>,
    /// Consistency mode `stale`: any server may answer.
    pub stale: bool,
}

impl QueryScope {
    /// Path and query. With an index the answer comes when there is a newer one, or after `wait`.
    pub fn path(&self, query: Query, index: Option<u64>, wait: Duration) -> String {
        let mut path = match query {
            Query::Node => return "/v1/agent/self".to_owned(),
            Query::Services => format!("/v1/catalog/node/{}", encode(&self.node)),
            Query::NodeChecks => format!("/v1/health/node/{}", encode(&self.node)),
            Query::AgentChecks => "/v1/agent/checks".to_owned(),
        };
        let mut separator = '?';
        let mut add = |name: &str, value: Option<&str>| {
            let value = value.map(|value| format!("={}", encode(value)));
            // Writing to a string cannot fail.
            let _ = write!(path, "{separator}{name}{}", value.unwrap_or_default());
            separator = '&';
        };
        if query != Query::AgentChecks {
            if let Some(datacenter) = &self.datacenter {
                add("dc", Some(datacenter));
            }
            if self.stale {
                add("stale", None);
            }
            if let Some(index) = index {
                add("index", Some(&index.to_string()));
                add("wait", Some(&format!("{}ms", wait.as_millis())));
            }
        }
        if let Some(namespace) = &self.namespace {
            add("ns", Some(namespace));
        }
        path
    }
}

/// RFC 3986 §2.1: everything but unreserved characters.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_say_what_is_asked_and_how() {
        let wait = Duration::from_secs(30);
        let plain = QueryScope {
            node: "n1.dc".into(),
            ..QueryScope::default()
        };
        assert_eq!(
            plain.path(Query::Services, None, wait),
            "/v1/catalog/node/n1.dc"
        );
        assert_eq!(
            plain.path(Query::NodeChecks, Some(7), wait),
            "/v1/health/node/n1.dc?index=7&wait=30000ms"
        );
        let all = QueryScope {
            node: "a/b?c ä".into(),
            datacenter: Some("dc 1".into()),
            namespace: Some("team&x".into()),
            stale: true,
        };
        assert_eq!(
            all.path(Query::Services, Some(1), wait),
            "/v1/catalog/node/a%2Fb%3Fc%20%C3%A4?dc=dc%201&stale&index=1&wait=30000ms&ns=team%26x"
        );
        assert_eq!(
            all.path(Query::AgentChecks, Some(1), wait),
            "/v1/agent/checks?ns=team%26x"
        );
        assert_eq!(all.path(Query::Node, None, wait), "/v1/agent/self");
    }
}
