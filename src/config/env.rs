//! The environment over the file: every key has a variable, and a variable nobody knows is an error.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::tables;
use crate::schema::kinds::Bool;
use crate::schema::tree::{Node, Place, Tree};
use crate::schema::{Context, Key, Kind, nearest, read_value_file, yaml};

pub(super) type Env = BTreeMap<String, String>;

/// A variable's value; empty is not set.
pub(super) fn value<'e>(env: &'e Env, name: &str) -> Option<&'e str> {
    env.get(name).map(String::as_str).filter(|v| !v.is_empty())
}

/// The file's name and text: the flag's, else the environment's. `Err`: it was said why not.
pub(super) fn source(
    cx: &mut Context<'_>,
    flag: Option<&str>,
    env: &Env,
) -> Result<Option<(String, String)>, ()> {
    const YAML: &str = "SIDECAST_CONFIG_YAML";
    const YAML_FILE: &str = "SIDECAST_CONFIG_YAML_FILE";
    let named = |name: &'static str| value(env, name).map(|v| (Place::Env(name.into()), name, v));
    let file = match flag.filter(|flag| !flag.is_empty()) {
        Some(flag) => Some((Place::Flag, "--config", flag)),
        None => {
            let all = [named("SIDECAST_CONFIG"), named(YAML), named(YAML_FILE)];
            let mut all = all.into_iter().flatten();
            let first = all.next();
            if let (Some(_), Some((place, ..))) = (&first, all.next()) {
                let message = "only one of SIDECAST_CONFIG, SIDECAST_CONFIG_YAML and SIDECAST_CONFIG_YAML_FILE may be set";
                cx.problem(&place, "", "", message);
                return Err(());
            }
            first
        }
    };
    let Some((place, name, text)) = file else {
        return Ok(None);
    };
    if name == YAML {
        return Ok(Some((YAML.to_owned(), text.to_owned())));
    }
    match (cx.read_file)(Path::new(text)) {
        Ok(content) => Ok(Some((text.to_owned(), content))),
        Err(error) => {
            let message = format!("the file cannot be read: {error}");
            cx.problem(&place, name, text, message);
            Err(())
        }
    }
}

/// Lays the variables over the tree. What they say of the one app of a sidecar is handed back.
pub(super) fn overlay(cx: &mut Context<'_>, root: &mut Node, env: &Env) -> Option<Node> {
    let mut app: Option<Node> = None;
    for (name, text) in env {
        let Some(rest) = name.strip_prefix("SIDECAST_") else {
            continue;
        };
        if text.is_empty() || is_injected(name, text) || is_other(name) {
            continue;
        }
        let place = Place::Env(Arc::from(name.as_str()));
        let Some((key, path, text)) = variable(cx, &place, name, rest, text, env) else {
            continue;
        };
        let Some(node) = structured(cx, &place, key, &path, &text) else {
            continue;
        };
        match path.split_first() {
            Some((&"app", path)) => {
                let app = app.get_or_insert_with(|| Node::map(place));
                put(app, key, path, node);
            }
            _ => put(root, key, &path, node),
        }
    }
    app
}

fn is_other(name: &str) -> bool {
    name == "SIDECAST_CONFIG_YAML_FILE" || tables::OTHER_VARIABLES.contains(&name)
}

/// The key that a variable sets, and the value, read from a file where the name ends in `_FILE`.
fn variable(
    cx: &mut Context<'_>,
    place: &Place,
    name: &str,
    rest: &str,
    text: &str,
    env: &Env,
) -> Option<(&'static Key, Vec<&'static str>, String)> {
    if let Some((key, path)) = tables::variable(rest) {
        return Some((key, path, text.to_owned()));
    }
    let direct = rest.strip_suffix("_FILE");
    let Some((key, path)) = direct.and_then(tables::variable) else {
        let known = tables::variables();
        let message = match nearest(name, known.iter().map(String::as_str)) {
            Some(near) => format!("is no known variable; did you mean {near}?"),
            None => "is no known variable".to_owned(),
        };
        cx.problem(place, "", "", message);
        return None;
    };
    let direct = name.strip_suffix("_FILE").unwrap_or(name);
    if value(env, direct).is_some() {
        let message = format!("set either this or {direct}, not both");
        cx.problem(place, &path.join("."), "", message);
        return None;
    }
    match read_value_file(cx, text) {
        Ok(text) if text.is_empty() => None,
        Ok(text) => Some((key, path, text)),
        Err(message) => {
            cx.problem(place, &path.join("."), text, message);
            None
        }
    }
}

/// Keys that hold maps take YAML in braces or brackets.
fn structured(
    cx: &mut Context<'_>,
    place: &Place,
    key: &Key,
    path: &[&str],
    text: &str,
) -> Option<Node> {
    if !key.shape.is_map() || !text.trim_start().starts_with(['{', '[']) {
        return Some(Node::scalar(place.clone(), text));
    }
    // The text is not told: a peer may hold a password.
    let told = |error: yaml::YamlError| cx.problem(place, &path.join("."), "", error.message);
    yaml::parse(text, &|_| place.clone()).map_err(told).ok()
}

/// Sets a value, and removes what it stands against: a lower source must not win by another name.
/// A section that is no map stays as it is, so that it is told.
fn put(node: &mut Node, key: &Key, path: &[&str], value: Node) {
    let Some((name, rest)) = path.split_first() else {
        return;
    };
    if !node.is_unset() && !matches!(node.tree, Tree::Map(_)) {
        return;
    }
    if rest.is_empty() {
        let kept = |place: &Place| matches!(place, Place::Env(_));
        let against = |other: &str| {
            let pairs = AGAINST.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]);
            let same = key.names_in("").any(|alias| alias == other);
            other != *name && (same || pairs.into_iter().any(|pair| pair == (*name, other)))
        };
        node.entries_mut()
            .retain(|entry| !against(&entry.key) || kept(&entry.place));
        node.set(name, value);
        return;
    }
    let Some(index) = node.entries_mut().iter().position(|e| e.key == *name) else {
        let mut section = Node::map(value.place.clone());
        put(&mut section, key, rest, value);
        node.set(name, section);
        return;
    };
    if let Some(entry) = node.entries_mut().get_mut(index) {
        // SIDECAST_BGP_BFD=false stays, whatever its details say; another truth value yields to them.
        let word = entry.node.text().map(Bool::parse);
        let off = word == Some(Ok(false)) && matches!(entry.place, Place::Env(_));
        if matches!(word, Some(Ok(_))) && !off {
            entry.node.tree = Tree::Null;
        }
        put(&mut entry.node, key, rest, value);
    }
}

/// Beside the names of one key: what stands in place of another.
const AGAINST: &[(&str, &str)] = &[("peer_ip", "peers"), ("multihop", "ttl_security")];

/// Variables that Kubernetes and Docker make for a service that is called like us.
fn is_injected(name: &str, value: &str) -> bool {
    let ends_word = |rest: &str| rest.is_empty() || rest.starts_with('_');
    let after = |part: &str| name.split_once(part).map(|(_, rest)| rest);
    let numbered = |rest: &str| {
        let protocol = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        protocol.len() < rest.len()
            && ["_TCP", "_UDP", "_SCTP"]
                .iter()
                .any(|p| protocol.strip_prefix(p).is_some_and(ends_word))
    };
    name.ends_with("_SERVICE_HOST")
        || after("_SERVICE_PORT").is_some_and(ends_word)
        || after("_PORT_").is_some_and(numbered)
        || (name.ends_with("_PORT")
            && ["tcp://", "udp://", "sctp://"]
                .iter()
                .any(|scheme| value.starts_with(scheme)))
}
