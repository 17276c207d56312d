//! A new configuration, and in words what it changed.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::app::{App, AppName};
use crate::config::{Agent, Bgp, Config, Policy, Refusal};
use crate::registry::{Configured, Registered, Registry};
use crate::schema::Section;

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
        ("when_down", old.when_down == new.when_down),
        ("when_draining", old.when_draining == new.when_draining),
    ];
    let parts = parts
        .iter()
        .filter(|(_, same)| !same)
        .map(|(name, _)| *name);
    let attributes = old.attributes.changes(&new.attributes).into_iter();
    let options = old.options.changes(&new.options).into_iter();
    let changed: Vec<&str> = parts
        .chain(attributes.chain(options).map(|key| key.name))
        .collect();
    if changed.is_empty() {
        "tried again".to_owned()
    } else {
        format!("changed {}", changed.join(", "))
    }
}

/// What counts at once, then what the next start takes.
fn agent(old: &Agent, new: &Agent) -> Vec<String> {
    let consul = |agent: &Agent| agent.consul.clone().unwrap_or_default();
    let mut changed = old.changes(new);
    changed.extend(consul(old).changes(&consul(new)));
    changed.sort_by_key(|key| key.at_start);
    let told = changed.into_iter().map(|key| match key.at_start {
        true => format!("agent.{}: changed, taken at the next start", key.name),
        false => format!("agent.{}: changed", key.name),
    });
    told.collect()
}

fn bgp(old: &Bgp, new: &Bgp) -> Vec<String> {
    let mut changes: Vec<String> = old
        .changes(new)
        .into_iter()
        .map(|key| format!("bgp.{}: changed", key.name_in("bgp")))
        .collect();
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
