//! A new configuration, and in words what it changed.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::app::{App, AppName};
use crate::config::{Agent, Bgp, Config, Consul, Policy, Refusal, Secret};
use crate::registry::{Configured, Registered, Registry};

/// Brings the registry in line with `new` and lists what changed.
pub(super) fn reload(
    registry: &mut Registry,
    now: Instant,
    old: &Config,
    new: &Config,
) -> Vec<String> {
    let mut changes = agent(&old.agent, &new.agent);
    changes.extend(bgp(&old.bgp, &new.bgp));
    let agent = Agent {
        consul: old.agent.consul.clone(),
        ..new.agent.clone()
    };
    let policy = Policy::new(&agent, &new.bgp);
    registry.set_settings(now, agent, policy);
    let (gone, configured) = registry.configure(now, &new.apps);
    changes.extend(gone.iter().map(|name| format!("app {name}: removed")));
    for (app, configured) in new.apps.iter().zip(configured) {
        let name = &configured.name;
        if let Some(what) = what_changed(&configured, app) {
            changes.push(format!("app {name}: {what}"));
        }
        if let Some(refusal) = configured.refusal {
            changes.push(format!("app {name}: not announced: {refusal}"));
        }
    }
    changes
}

/// `None`: nothing.
fn what_changed(configured: &Configured, app: &App) -> Option<String> {
    let before = configured.before.as_ref();
    let renamed = before.filter(|before| before.name != app.name);
    let renamed = renamed.map(|before| format!("was {} before", before.name));
    let what = match (configured.done, before) {
        (Registered::Unchanged, _) => return renamed,
        (Registered::Replaced, Some(before)) => differences(before, app),
        _ => "added".to_owned(),
    };
    Some(match renamed {
        Some(renamed) => format!("{renamed}, {what}"),
        None => what,
    })
}

/// What HTTP and Consul registered and a new policy forbids, or allows again.
pub(super) fn judged(
    before: &BTreeMap<AppName, Refusal>,
    after: &BTreeMap<AppName, Refusal>,
    registry: &Registry,
) -> Vec<String> {
    let refused = after
        .iter()
        .filter(|(name, refusal)| before.get(*name) != Some(refusal))
        .map(|(name, refusal)| format!("app {name}: not announced any more: {refusal}"));
    let permitted = before
        .keys()
        .filter(|name| !after.contains_key(*name) && registry.definition(name).is_some());
    let permitted = permitted.map(|name| format!("app {name}: permitted again"));
    refused.chain(permitted).collect()
}

fn differences(old: &App, new: &App) -> String {
    let parts = [
        ("source", old.source == new.source),
        ("vips", old.vips == new.vips),
        ("monitors", old.monitors == new.monitors),
        ("nats", old.nats == new.nats),
        ("attributes", old.attributes == new.attributes),
        ("when_down", old.when_down == new.when_down),
        ("when_draining", old.when_draining == new.when_draining),
        ("start_delay", old.start_delay == new.start_delay),
        ("drain_time", old.drain_time == new.drain_time),
        ("damping", old.damping == new.damping),
        (
            "maintenance_file",
            old.maintenance_file == new.maintenance_file,
        ),
        ("vip_presence", old.vip_presence == new.vip_presence),
    ];
    let changed = parts
        .iter()
        .filter(|(_, same)| !same)
        .map(|(name, _)| *name);
    let changed: Vec<&str> = changed.collect();
    if changed.is_empty() {
        "tried again".to_owned()
    } else {
        format!("changed {}", changed.join(", "))
    }
}

fn agent(old: &Agent, new: &Agent) -> Vec<String> {
    let live = [
        ("cleanup_timer", old.cleanup_timer == new.cleanup_timer),
        ("vip_linger", old.vip_linger == new.vip_linger),
        ("vip_lease", old.vip_lease == new.vip_lease),
        ("api_token", old.api_token == new.api_token),
        ("api_allow", old.api_allow == new.api_allow),
        ("consul_token", token(old) == token(new)),
        ("allow_exec", old.allow_exec == new.allow_exec),
        ("allowed_vips", old.allowed_vips == new.allowed_vips),
        ("max_http_apps", old.max_http_apps == new.max_http_apps),
        ("max_vips", old.max_vips == new.max_vips),
        ("max_drain", old.max_drain == new.max_drain),
        ("on_change", old.on_change == new.on_change),
        ("exec_user", old.exec_user == new.exec_user),
        (
            "monitor_interval",
            old.monitor_interval == new.monitor_interval,
        ),
        ("drain_time", old.drain_time == new.drain_time),
        ("vip_presence", old.vip_presence == new.vip_presence),
    ];
    let at_start = [
        ("listen_addr", old.listen == new.listen),
        ("metrics_addr", old.metrics == new.metrics),
        ("vip_interface", old.vip_interface == new.vip_interface),
        (
            "max_connections",
            old.max_connections == new.max_connections,
        ),
        ("check_threads", old.check_threads == new.check_threads),
        ("state_file", old.state_file == new.state_file),
        ("instance", old.instance == new.instance),
        ("user", old.user == new.user),
        ("consul_*", old.consul == with_token_of(old, &new.consul)),
    ];
    let live = live.iter().filter(|(_, same)| !same);
    let at_start = at_start.iter().filter(|(_, same)| !same);
    live.map(|(name, _)| format!("agent.{name}: changed"))
        .chain(at_start.map(|(name, _)| format!("agent.{name}: changed, taken at the next start")))
        .collect()
}

fn token(agent: &Agent) -> Option<&Secret> {
    agent.consul.as_ref()?.token.as_ref()
}

/// The new settings but for the token: what is left is taken at the next start only.
fn with_token_of(old: &Agent, new: &Option<Consul>) -> Option<Consul> {
    let old = old.consul.as_ref();
    Some(Consul {
        token: old.and_then(|consul| consul.token.clone()),
        token_file: old.and_then(|consul| consul.token_file.clone()),
        ..new.clone()?
    })
}

fn bgp(old: &Bgp, new: &Bgp) -> Vec<String> {
    let mut changes = Vec::new();
    let global = [
        ("local_as", old.local_as == new.local_as),
        ("router_id", old.router_id == new.router_id),
        (
            "local_ip",
            (old.local_ip4, old.local_ip6) == (new.local_ip4, new.local_ip6),
        ),
        ("attributes", old.attributes == new.attributes),
        ("origin", old.origin == new.origin),
        ("listen", old.listen == new.listen),
    ];
    let changed = global.iter().filter(|(_, same)| !same);
    changes.extend(changed.map(|(name, _)| format!("bgp.{name}: changed")));
    let find = |bgp: &Bgp, remote: &_| bgp.peers.iter().find(|p| p.remote == *remote).cloned();
    for peer in &old.peers {
        if find(new, &peer.remote).is_none() {
            changes.push(format!("peer {}: removed", peer.remote));
        }
    }
    for peer in &new.peers {
        match find(old, &peer.remote) {
            None => changes.push(format!("peer {}: added", peer.remote)),
            Some(before) if before != *peer => {
                changes.push(format!("peer {}: settings changed", peer.remote));
            }
            Some(_) => {}
        }
    }
    changes
}
