//! Applies a new configuration and lists what it changed.

use std::time::Instant;

use crate::app::{App, AppName};
use crate::config::{Agent, Bgp, Config, Policy, Refusal};
use crate::registry::{ConfiguredApp, RegisterOutcome, Registry};
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
        vip_interface: old.agent.vip_interface.clone(),
        ..new.agent.clone()
    };
    let policy = Policy::new(&agent, &new.bgp);
    let last_resort = agent.last_resort_beside(&new.bgp);
    registry.set_settings(now, agent, last_resort, policy);
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
fn what_changed(configured: &ConfiguredApp, app: &App) -> Option<String> {
    let before = configured.before.as_ref();
    let renamed = before.filter(|before| before.name != app.name);
    let renamed = renamed.map(|before| format!("was {} before", before.name));
    let what = match (configured.done, before) {
        (RegisterOutcome::Unchanged, _) => return renamed,
        (RegisterOutcome::Replaced, Some(before)) => differences(before, app),
        _ => "added".to_owned(),
    };
    Some(match renamed {
        Some(renamed) => format!("{renamed}, {what}"),
        None => what,
    })
}

/// Apps of HTTP and Consul that the new policy refuses, or permits again.
pub(super) fn policy_changes(
    before: &[(AppName, Refusal)],
    after: &[(AppName, Refusal)],
    registry: &Registry,
) -> Vec<String> {
    let refused = after
        .iter()
        .filter(|(name, refusal)| of(before, name) != Some(refusal))
        .map(|(name, refusal)| format!("app {name}: withdrawn: {refusal}"));
    let permitted = before
        .iter()
        .map(|(name, _)| name)
        .filter(|name| of(after, name).is_none() && registry.definition(name).is_some());
    let permitted = permitted.map(|name| format!("app {name}: permitted again"));
    refused.chain(permitted).collect()
}

fn of<'r>(refused: &'r [(AppName, Refusal)], name: &AppName) -> Option<&'r Refusal> {
    let at = refused.binary_search_by(|(of, _)| of.cmp(name));
    refused.get(at.ok()?).map(|(_, refusal)| refusal)
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

/// Keys that take effect at once, then those that need a restart.
fn agent(old: &Agent, new: &Agent) -> Vec<String> {
    let consul = |agent: &Agent| agent.consul.clone().unwrap_or_default();
    let mut changed = old.changes(new);
    changed.extend(consul(old).changes(&consul(new)));
    let at_once = changed.iter().filter(|key| !key.needs_restart);
    let at_once = at_once.map(|key| format!("agent.{}: changed", key.name));
    let later = changed.iter().filter(|key| key.needs_restart);
    let later = later.map(|key| {
        format!(
            "agent.{}: changed, takes effect at the next start",
            key.name
        )
    });
    at_once.chain(later).collect()
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
