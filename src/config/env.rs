//! The environment over the file: every key has a variable, and a variable nobody knows is an error.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::fields::{Cx, read_bool, read_value_file};
use super::keys;
use super::problem::nearest;
use super::tree::{self, Node, Place};

pub(super) type Env = BTreeMap<String, String>;

/// A variable's value; empty is not set.
pub(super) fn value<'e>(env: &'e Env, name: &str) -> Option<&'e str> {
    env.get(name).map(String::as_str).filter(|v| !v.is_empty())
}

/// The file's name and text: the flag's, else the environment's. `Err`: it was said why not.
pub(super) fn source(
    cx: &mut Cx<'_>,
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
pub(super) fn overlay(cx: &mut Cx<'_>, root: &mut Node, env: &Env) -> Option<Node> {
    let mut app: Option<Node> = None;
    for (name, text) in env {
        let Some(rest) = name.strip_prefix("SIDECAST_") else {
            continue;
        };
        if text.is_empty() || is_injected(name, text) || is_other(name) {
            continue;
        }
        let place = Place::Env(Arc::from(name.as_str()));
        let Some((path, text)) = variable(cx, &place, name, rest, text, env) else {
            continue;
        };
        let Some(node) = structured(cx, &place, &path, &text) else {
            continue;
        };
        match path.split_first() {
            Some((&"app", path)) => {
                let app = app.get_or_insert_with(|| Node {
                    place: place.clone(),
                    tree: tree::Tree::Map(Vec::new()),
                });
                put(app, path, node);
            }
            _ => put(root, &path, node),
        }
    }
    app
}

fn is_other(name: &str) -> bool {
    name == "SIDECAST_CONFIG_YAML_FILE" || keys::OTHER_VARIABLES.contains(&name)
}

/// The key that a variable sets, and the value, read from a file where the name ends in `_FILE`.
fn variable(
    cx: &mut Cx<'_>,
    place: &Place,
    name: &str,
    rest: &str,
    text: &str,
    env: &Env,
) -> Option<(Vec<&'static str>, String)> {
    if let Some(path) = keys::variable(rest) {
        return Some((path, text.to_owned()));
    }
    let direct = rest.strip_suffix("_FILE");
    let Some(path) = direct.and_then(keys::variable) else {
        let known = keys::variables();
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
        Ok(text) => Some((path, text)),
        Err(message) => {
            cx.problem(place, &path.join("."), text, message);
            None
        }
    }
}

/// Keys that hold maps take YAML in braces or brackets.
fn structured(cx: &mut Cx<'_>, place: &Place, path: &[&str], text: &str) -> Option<Node> {
    let last = path.last().copied().unwrap_or_default();
    let maps = ["peers", "bfd", "when_down", "when_draining"].contains(&last);
    if !maps || !text.trim_start().starts_with(['{', '[']) {
        return Some(Node::scalar(place.clone(), text));
    }
    match tree::parse(text, &|_| place.clone()) {
        Ok(node) => Some(node),
        Err(error) => {
            // The text is not told: a peer may hold a password.
            cx.problem(place, &path.join("."), "", error.message);
            None
        }
    }
}

/// Sets a value, and removes what it stands against: a lower source must not win by another name.
/// A section that is no map stays as it is, so that it is told.
fn put(node: &mut Node, path: &[&str], value: Node) {
    let Some((key, rest)) = path.split_first() else {
        return;
    };
    if !node.is_unset() && !matches!(node.tree, tree::Tree::Map(_)) {
        return;
    }
    if rest.is_empty() {
        let against = AGAINST.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]);
        for (_, other) in against.filter(|(one, _)| one == key) {
            let kept = |place: &Place| matches!(place, Place::Env(_));
            node.entries_mut()
                .retain(|entry| entry.key != other || kept(&entry.place));
        }
        node.set(key, value);
        return;
    }
    let place = value.place.clone();
    let Some(index) = node.entries_mut().iter().position(|e| e.key == *key) else {
        let mut section = Node {
            place,
            tree: tree::Tree::Map(Vec::new()),
        };
        put(&mut section, rest, value);
        node.set(key, section);
        return;
    };
    if let Some(entry) = node.entries_mut().get_mut(index) {
        // SIDECAST_BGP_BFD=false stays, whatever its details say; another truth value yields to them.
        let word = entry.node.text().map(read_bool);
        let off = word == Some(Ok(false)) && matches!(entry.place, Place::Env(_));
        if matches!(word, Some(Ok(_))) && !off {
            entry.node.tree = tree::Tree::Null;
        }
        put(&mut entry.node, rest, value);
    }
}

const AGAINST: &[(&str, &str)] = &[
    ("peer_as", "remote_as"),
    ("peer_ip", "peers"),
    ("password", "password_file"),
    ("api_token", "api_token_file"),
    ("consul_token", "consul_token_file"),
    ("multihop", "ttl_security"),
    ("vip", "vips"),
];

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
