//! Consul's HTTP API for a node's services and checks: paths, answers, and the index of the next blocking
//! query. A codec without I/O.
//!
//! Sources: Consul's API documentation of `/v1/catalog/node/:node`, `/v1/catalog/node-services/:node`,
//! `/v1/health/node/:node`, `/v1/agent/checks`, `/v1/agent/self`, and of blocking queries. Unused fields are
//! ignored, so that other versions of Consul can be read. Left out: hashes
//! (`X-Consul-ContentHash`), which only endpoints return that are not used here.

mod catalog;
mod checks;
mod index;
mod request;
mod response;

pub use catalog::{Catalog, Service, node_name};
pub use checks::{
    AgentChecks, Check, Checks, ServiceHealth, Status, agent_checks, node_checks, service_health,
};
pub use index::{Index, QueryRateLimit};
pub use request::QueryScope;
pub use response::{Headers, Response, ResponseError};

/// The queries sent to Consul.
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
