//! The environment, which overrides the file: every key has a variable, an unknown variable is an error.

use std::sync::Arc;

use super::env::{Env, value};
use super::tables;
use crate::schema::kinds::Bool;
use crate::schema::tree::{Node, Place, Tree};
use crate::schema::{Context, Key, Kind, nearest, read_value_file, yaml};

/// Overrides values of the tree by variables. Returns the app of `SIDECAST_APP_*`.
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
                set_path(app, key, path, node);
            }
            _ => set_path(root, key, &path, node),
        }
    }
    app
}

fn is_other(name: &str) -> bool {
    name == "SIDECAST_CONFIG_YAML_FILE" || tables::NON_KEY_VARIABLES.contains(&name)
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
    // The text is not shown: a peer may hold a password.
    let report = |error: yaml::YamlError| cx.problem(place, &path.join("."), "", error.message);
    yaml::parse(text, &|_| place.clone()).map_err(report).ok()
}

/// Sets a value and removes keys that exclude it: a lower source must not win by another name. A section
/// that is no map is left alone, to be reported.
fn set_path(node: &mut Node, key: &Key, path: &[&str], value: Node) {
    let Some((name, rest)) = path.split_first() else {
        return;
    };
    if !node.is_unset() && !matches!(node.tree, Tree::Map(_)) {
        return;
    }
    if rest.is_empty() {
        let kept = |place: &Place| matches!(place, Place::Env(_));
        let excludes = |other: &str| {
            let pairs = EXCLUSIVE_KEYS
                .iter()
                .flat_map(|(a, b)| [(*a, *b), (*b, *a)]);
            let same = key.names_in("").any(|alias| alias == other);
            other != *name && (same || pairs.into_iter().any(|pair| pair == (*name, other)))
        };
        node.entries_mut()
            .retain(|entry| !excludes(&entry.key) || kept(&entry.place));
        node.set(name, value);
        return;
    }
    let Some(index) = node.entries_mut().iter().position(|e| e.key == *name) else {
        let mut section = Node::map(value.place.clone());
        set_path(&mut section, key, rest, value);
        node.set(name, section);
        return;
    };
    if let Some(entry) = node.entries_mut().get_mut(index) {
        // SIDECAST_BGP_BFD=false wins over variables of its details; `true` is replaced by them.
        let word = entry.node.text().map(Bool::parse);
        let off = word == Some(Ok(false)) && matches!(entry.place, Place::Env(_));
        if matches!(word, Some(Ok(_))) && !off {
            entry.node.tree = Tree::Null;
        }
        set_path(&mut entry.node, key, rest, value);
    }
}

/// Keys that exclude each other, besides aliases.
const EXCLUSIVE_KEYS: &[(&str, &str)] = &[("peer_ip", "peers"), ("multihop", "ttl_security")];

/// Variables that Kubernetes and Docker inject for a service named `sidecast`.
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
