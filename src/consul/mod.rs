//! Consul's HTTP API, as far as a node's services and checks go: what its answers say, and which index
//! the next blocking query asks from. Bytes in, types out; nothing here asks anybody.
//!
//! Sources: Consul's API documentation of `/v1/catalog/node/:node`, `/v1/catalog/node-services/:node`,
//! `/v1/health/node/:node`, `/v1/agent/checks`, `/v1/agent/self`, and of blocking queries. Fields that are
//! not used are not looked at, so that an older or newer Consul is read all the same. Left out: hashes
//! (`X-Consul-ContentHash`), which only endpoints have that are not asked.

mod answer;
mod catalog;
mod checks;
mod index;
mod request;

pub use answer::{Answer, AnswerError, Headers};
pub use catalog::{Catalog, Service, node_name};
pub use checks::{AgentChecks, Check, Checks, Status, Verdict, agent_checks, judge, node_checks};
pub use index::{Index, Pace};
pub use request::Scope;

/// What is asked of Consul, each as a query of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Query {
    /// The name of the local agent's node.
    Node,
    /// The services registered on the node.
    Services,
    /// The cluster's view of the node's checks.
    NodeChecks,
    /// The local agent's view of its checks.
    AgentChecks,
}
