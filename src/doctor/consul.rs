//! Lines on Consul: whether it answers, and its view of this node.

use super::line::{Line, Topic};
use super::{Case, Findings};

/// None where Consul is not configured.
pub(super) fn consul(case: &Case, findings: &Findings) -> Vec<Line> {
    let topic = Topic::Consul;
    let Some(settings) = &case.consul else {
        return Vec::new();
    };
    let node = match &findings.consul {
        None => return vec![Line::unknown(topic, "it was not asked")],
        Some(Err(why)) => {
            let text = format!("{}: {why}", settings.addr);
            let next = "start the agent, or correct agent.consul_addr, consul_token or CONSUL_NODE; until then the \
                        last known state holds";
            return vec![Line::fault(topic, text, next)];
        }
        Some(Ok(node)) => node,
    };
    let (name, tag) = (&node.name, &settings.match_tag);
    let counts = format!(
        "node {name}: answers; services: {}, with the tag {tag}: {}",
        node.services, node.tagged
    );
    let mut lines = vec![match node.tagged {
        0 => Line::unknown(topic, counts).then(format!(
            "register a service with the tags {tag} and gocast_vip=ADDRESS/LENGTH"
        )),
        _ => Line::ok(topic, counts),
    }];
    if !node.complete {
        lines.push(Line::fault(
            topic,
            format!("node {name}: the ACL token does not show everything"),
            "give the token node:read and service:read",
        ));
    }
    for failing in &node.failing {
        lines.push(Line::fault(
            topic,
            format!("node {name}: {failing}"),
            "repair the node, or end its maintenance: every service on it counts as failing",
        ));
    }
    lines
}
