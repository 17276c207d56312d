//! An app from parameters: those of `/register`, or a Consul service's tags.

use std::io;
use std::path::Path;

use super::apps::{Rules, app};
use super::{Config, Refusal, flow, tables};
use crate::app::{App, Source};
use crate::schema::tree::{Entry, Node, Place, Tree};
use crate::schema::{Context, Key, Problem, Shape, Split, nearest};

/// Reads `name`, `vip`…, `monitor`…, `nat`…, `vip_communities` and the options of an app. Empty values
/// mean "not given", but for an empty `monitor`, which is refused: the app would go unchecked. The
/// policy is not applied here.
pub fn parse_app_from_params(
    params: &[(String, String)],
    source: Source,
    config: &Config,
) -> Result<App, Refusal> {
    let node = node(params)?;
    let (app, problems) = single_app(&node, source, config);
    let rank =
        |problem: &Problem| tables::parameters().position(|(key, _)| key.name == name_of(problem));
    let first = problems
        .into_iter()
        .min_by_key(|problem| rank(problem).unwrap_or(usize::MAX));
    match (first, app) {
        (Some(problem), _) => Err(refusal(problem)),
        (None, Some(app)) => Ok(app),
        (None, None) => Err(Refusal::Invalid("Invalid app name".to_owned())),
    }
}

/// Reads an app that is not in the configuration, and its problems. It cannot name files to be read.
pub(super) fn single_app(
    node: &Node,
    source: Source,
    config: &Config,
) -> (Option<App>, Vec<Problem>) {
    let mut nothing = |_: &Path| Err(io::ErrorKind::Unsupported.into());
    let mut cx = Context::new(tables::TABLES, &mut nothing);
    let rules = Rules::new(&config.agent, None);
    let app = app(&mut cx, "", node, source, &rules);
    (app, cx.problems)
}

/// The same tree that a file would make.
fn node(params: &[(String, String)]) -> Result<Node, Refusal> {
    check_limits(params)?;
    let mut node = Node::map(Place::Default);
    let mut vip_config = Node::map(Place::Default);
    for (param, value) in params {
        let Some((key, in_vip_config)) = key_of_param(param) else {
            return Err(unknown(param));
        };
        let section = if in_vip_config {
            &mut vip_config
        } else {
            &mut node
        };
        match key.shape {
            Shape::List(Split::Commas, _) if !key.params.is_empty() => {
                push(section, key, split_commas(value))
            }
            // An empty monitor is refused: the app would go unchecked.
            Shape::List(..) if !key.params.is_empty() => {
                let is_set = !value.is_empty() || key.name == "monitors";
                push(section, key, is_set.then_some(value.as_str()).into_iter());
            }
            shape if shape.is_map() && flow::is_flow(value) => {
                let value = flow::read(value)
                    .map_err(|error| Refusal::Invalid(format!("{param}: {error}")))?;
                add(section, key.name, value);
            }
            _ => add(
                section,
                key.name,
                Node::scalar(Place::Default, value.as_str()),
            ),
        }
    }
    add(&mut node, "vip_config", vip_config);
    Ok(node)
}

/// Bytes of one value; an `exec:` may be a small script.
const MAX_VALUE_BYTES: usize = 8 * 1024;
/// Bytes of all names and values, as of a whole request.
const MAX_PARAMS_BYTES: usize = 64 * 1024;

fn check_limits(params: &[(String, String)]) -> Result<(), Refusal> {
    let mut whole = 0;
    for (key, value) in params {
        whole += key.len() + value.len();
        if value.len() > MAX_VALUE_BYTES {
            // A key may be as long as a value.
            let key: String = key.chars().take(64).collect();
            let message = format!("{key}: is longer than {MAX_VALUE_BYTES} bytes");
            return Err(Refusal::Invalid(message));
        }
    }
    match whole > MAX_PARAMS_BYTES {
        true => Err(Refusal::Invalid(format!(
            "the parameters are longer than {MAX_PARAMS_BYTES} bytes"
        ))),
        false => Ok(()),
    }
}

fn key_of_param(param: &str) -> Option<(&'static Key, bool)> {
    tables::parameters().find(|(key, _)| key.params_of().contains(&param))
}

fn unknown(param: &str) -> Refusal {
    let known = tables::parameters().flat_map(|(key, _)| key.params_of());
    Refusal::Invalid(match nearest(param, known) {
        Some(near) => format!("{param}: is no known parameter; did you mean `{near}`?"),
        None => format!("{param}: is no known parameter"),
    })
}

fn split_commas(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|v| !v.is_empty())
}

/// The first of several counts, as in Go's `FormValue`.
fn add(node: &mut Node, key: &str, value: Node) {
    if node.entry(key).is_none() {
        node.set(key, value);
    }
}

fn push<'a>(node: &mut Node, key: &Key, values: impl Iterator<Item = &'a str>) {
    let new = values.map(|value| Node::scalar(Place::Default, value));
    let entries = node.entries_mut();
    if let Some(Entry { node, .. }) = entries.iter_mut().find(|entry| entry.key == key.name) {
        if let Tree::List(items) = &mut node.tree {
            items.extend(new);
        }
        return;
    }
    let list = Node {
        place: Place::Default,
        tree: Tree::List(new.collect()),
    };
    node.set(key.name, list);
}

/// The name of the key that a problem is about.
fn name_of(problem: &Problem) -> &str {
    let key = problem.key.split('[').next().unwrap_or_default();
    key.strip_prefix("vip_config.").unwrap_or(key)
}

/// GoCast's messages where it has one: scripts match them.
fn refusal(problem: Problem) -> Refusal {
    let name = name_of(&problem).to_owned();
    let Problem { value, message, .. } = problem;
    let param = match tables::parameters().find(|(key, _)| key.name == name) {
        Some((key, _)) => key.params_of()[0],
        None => &name,
    };
    let colon = if value.is_empty() { "" } else { ": " };
    let full = format!("{param}: {}{colon}{message}", value.escape_debug());
    let kind = value.split(':').next().unwrap_or_default();
    let gocast = match (param, kind) {
        ("name", "") => Some("Invalid app name"),
        ("name", _) => return Refusal::Invalid(format!("Invalid app name: {message}")),
        ("vip", _) if !message.starts_with("cannot be a VIP") => {
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
