//! Asks Consul about this node.

use crate::config::{Consul, is_tagged};
use crate::consul::{Catalog, Checks, Query, QueryScope, Status, node_checks, node_name};
use crate::doctor::{Case, ConsulNode};
use crate::io::consul::Client;
use std::io;
use std::time::Duration;

/// `None` where Consul is not configured.
pub(super) async fn ask(case: &Case) -> Option<Result<ConsulNode, String>> {
    let settings = case.consul.as_ref()?;
    Some(node(settings).await.map_err(|error| error.to_string()))
}

async fn node(settings: &Consul) -> io::Result<ConsulNode> {
    let client = Client::new(settings)?.with_shared_slots();
    client.reread_token().await;
    let mut scope = QueryScope {
        node: String::new(),
        datacenter: settings.datacenter.clone(),
        namespace: settings.namespace.clone(),
        stale: settings.stale,
    };
    let get = async |scope: &QueryScope, query| {
        let path = scope.path(query, None, Duration::ZERO);
        client.get(&path, LIMIT).await
    };
    scope.node = match &settings.node {
        Some(node) => node.clone(),
        None if settings.is_local() => {
            node_name(&get(&scope, Query::Node).await?).map_err(io::Error::other)?
        }
        None => return Err(io::Error::other("CONSUL_NODE is not set")),
    };
    let services = get(&scope, Query::Services).await?;
    let Catalog { services, complete } =
        Catalog::read(&services, &scope.node).map_err(io::Error::other)?;
    let checks = get(&scope, Query::NodeChecks).await?;
    let checks = node_checks(&checks).map_err(io::Error::other)?;
    let tagged = services.iter();
    let tagged = tagged.filter(|service| is_tagged(&service.tags, &settings.match_tag));
    Ok(ConsulNode {
        name: scope.node,
        services: services.len(),
        tagged: tagged.count(),
        failing: failing(&checks, settings.warning_passes),
        complete: complete && checks.complete,
    })
}

/// The checks of the node itself that do not pass.
fn failing(checks: &Checks, warning_passes: bool) -> Vec<String> {
    let of_node = checks
        .all
        .iter()
        .filter(|check| check.service_id.is_empty());
    let failing = of_node.filter_map(|check| {
        let word = match check.status {
            Status::Passing => return None,
            Status::Warning if warning_passes => return None,
            Status::Warning => "warning",
            Status::Critical => "critical",
            Status::NotRun => "not run yet",
        };
        let output = match check.output.as_str() {
            "" => String::new(),
            output => format!(": {output}"),
        };
        Some(format!("{} is {word}{output}", check.name))
    });
    failing.take(MOST_CHECKS).collect()
}

/// The timeout of each of the three queries.
const LIMIT: Duration = Duration::from_secs(1);
const MOST_CHECKS: usize = 8;
