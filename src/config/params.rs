//! An app from parameters: `/register`'s, and the tags of a service in Consul.

use super::problem::{Problem, nearest};
use super::tree::{Entry, Node, Place, Tree};
use super::{Config, Refusal, apps, flow, keys};
use crate::app::{App, Source};

/// Reads `name`, `vip`…, `monitor`…, `nat`…, `vip_communities` and the options of an app. Empty values
/// mean "not given", but for an empty `monitor`, which is refused: the app would go unchecked. Whether the
/// app is permitted is not asked here.
pub fn parse_app_from_params(
    params: &[(String, String)],
    source: Source,
    config: &Config,
) -> Result<App, Refusal> {
    let node = node(params)?;
    let (app, problems) = apps::lone_app(&node, source, config);
    match (problems.into_iter().next(), app) {
        (Some(problem), _) => Err(refusal(problem)),
        (None, Some(app)) => Ok(app),
        (None, None) => Err(Refusal::Invalid("Invalid app name".to_owned())),
    }
}

/// Parameters that belong to the app itself; those of `keys::vip_config` are taken too.
const PLAIN: &[&str] = &[
    "name",
    "interval",
    "timeout",
    "rise",
    "fall",
    "fast_interval",
    "start_delay",
    "drain_time",
    "hold_down",
    "flap_limit",
    "vip_presence",
];

/// The same tree that a file would make.
fn node(params: &[(String, String)]) -> Result<Node, Refusal> {
    bounded(params)?;
    let mut node = map();
    let mut vip_config = map();
    let vip_keys = keys::vip_config();
    for (key, value) in params {
        let text = || Node::scalar(Place::Default, value.as_str());
        match key.as_str() {
            "monitor" => push(&mut node, "monitors", std::iter::once(value.as_str())),
            "nat" => {
                let given = Some(value.as_str()).filter(|value| !value.is_empty());
                push(&mut node, "nats", given.into_iter());
            }
            "vip" | "vips" => push(&mut node, "vips", commas(value)),
            "vip_communities" | "communities" | "bgp_communities" => {
                push(&mut vip_config, "bgp_communities", commas(value));
            }
            "when_down" | "when_draining" if flow::is_flow(value) => {
                let value = flow::read(value)
                    .map_err(|error| Refusal::Invalid(format!("{key}: {error}")))?;
                add(&mut vip_config, key, value);
            }
            _ if PLAIN.contains(&key.as_str()) => add(&mut node, key, text()),
            _ if vip_keys.contains(&key.as_str()) => add(&mut vip_config, key, text()),
            _ => return Err(unknown(key, &vip_keys)),
        }
    }
    add(&mut node, "vip_config", vip_config);
    Ok(node)
}

/// Bytes of one value; an `exec:` may be a small script.
const LONGEST_VALUE: usize = 8 * 1024;
/// Bytes of all names and values, as of a whole request.
const LONGEST_PARAMS: usize = 64 * 1024;

fn bounded(params: &[(String, String)]) -> Result<(), Refusal> {
    let mut whole = 0;
    for (key, value) in params {
        whole += key.len() + value.len();
        if value.len() > LONGEST_VALUE {
            // A key may be just as long.
            let key: String = key.chars().take(64).collect();
            let message = format!("{key}: is longer than {LONGEST_VALUE} bytes");
            return Err(Refusal::Invalid(message));
        }
    }
    match whole > LONGEST_PARAMS {
        true => Err(Refusal::Invalid(format!(
            "the parameters are longer than {LONGEST_PARAMS} bytes"
        ))),
        false => Ok(()),
    }
}

fn unknown(key: &str, vip_keys: &[&'static str]) -> Refusal {
    let others = ["vip", "monitor", "nat", "vip_communities"];
    let known = PLAIN.iter().chain(vip_keys).chain(&others).copied();
    Refusal::Invalid(match nearest(key, known) {
        Some(near) => format!("{key}: is no known parameter; did you mean `{near}`?"),
        None => format!("{key}: is no known parameter"),
    })
}

fn map() -> Node {
    Node {
        place: Place::Default,
        tree: Tree::Map(Vec::new()),
    }
}

fn commas(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|v| !v.is_empty())
}

/// The first of several counts, as in Go's `FormValue`.
fn add(node: &mut Node, key: &str, value: Node) {
    if node.entry(key).is_none() {
        node.set(key, value);
    }
}

fn push<'a>(node: &mut Node, key: &str, values: impl Iterator<Item = &'a str>) {
    let new = values.map(|value| Node::scalar(Place::Default, value));
    let entries = node.entries_mut();
    if let Some(Entry { node, .. }) = entries.iter_mut().find(|entry| entry.key == key) {
        if let Tree::List(items) = &mut node.tree {
            items.extend(new);
        }
        return;
    }
    let list = Node {
        place: Place::Default,
        tree: Tree::List(new.collect()),
    };
    node.set(key, list);
}

/// GoCast's words where it has some: scripts look for them.
fn refusal(problem: Problem) -> Refusal {
    let Problem {
        key,
        value,
        message,
        ..
    } = problem;
    let list = key.split('[').next().unwrap_or(&key);
    let param = match list {
        "vips" => "vip",
        "monitors" => "monitor",
        "nats" => "nat",
        "vip_config.bgp_communities" => "vip_communities",
        other => other.strip_prefix("vip_config.").unwrap_or(other),
    };
    let colon = if value.is_empty() { "" } else { ": " };
    let full = format!("{param}: {}{colon}{message}", value.escape_debug());
    let kind = value.split(':').next().unwrap_or_default();
    let gocast = match (param, kind) {
        ("name", "") => Some("Invalid app name"),
        ("name", _) => return Refusal::Invalid(format!("Invalid app name: {message}")),
        ("vip", _) if !message.starts_with("can be no VIP") => {
            Some("Invalid VIP specified, need ip/mask")
        }
        ("monitor", "exec") => Some("Invalid exec monitor, must specify command"),
        ("monitor", "port") if value.split(':').count() != 3 => {
            Some("Invalid port monitor, must specify proto:port")
        }
        _ => None,
    };
    Refusal::Invalid(gocast.map_or(full, str::to_owned))
}
