//! Loads file and environment into one configuration, or returns all their problems.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::env::{self, Env};
use super::policy::Policy;
use super::{Config, agent, apps, bgp, tables, variables};
use crate::schema::tree::{Node, Place, Tree};
use crate::schema::{Context, Fields, Key, Problems, Shape, Table, form, yaml};

/// A configuration, and where its values came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub config: Config,
    /// The place of every value that was written, by the path of its key (`bgp.peers[0].port`).
    pub origins: BTreeMap<String, Place>,
    /// The name of the file, where there is one.
    pub file: Option<String>,
}

/// Reads the configuration: the file that `--config` names, else the one of the environment, else
/// none; and the environment over it. `env` is the whole environment.
///
/// # Errors
/// Every problem at once.
pub fn load(
    flag: Option<&str>,
    env: &BTreeMap<String, String>,
    read_file: &mut dyn FnMut(&Path) -> io::Result<String>,
) -> Result<Loaded, Problems> {
    let mut cx = Context::new(tables::TABLES, read_file);
    let done = read(&mut cx, flag, env);
    cx.problems.sort_unstable();
    cx.problems.dedup();
    match done {
        Some((mut config, file)) if cx.problems.is_empty() => {
            config.warnings = cx.warnings;
            let origins = cx.origins;
            Ok(Loaded {
                config,
                origins,
                file,
            })
        }
        _ => Err(Problems(cx.problems)),
    }
}

/// `None`: the source cannot be read, which was reported.
fn read(cx: &mut Context<'_>, flag: Option<&str>, env: &Env) -> Option<(Config, Option<String>)> {
    let source = env::source(cx, flag, env).ok()?;
    let mut root = match &source {
        Some((name, text)) => file(cx, name, text)?,
        None => Node::map(Place::Default),
    };
    if root.is_unset() {
        root = Node::map(Place::Default);
    }
    if let Tree::Map(entries) = &mut root.tree {
        // Extension fields for anchors, as in Compose files.
        entries.retain(|entry| !entry.key.starts_with("x-"));
    }
    let app = variables::overlay(cx, &mut root, env);
    let config = sections(cx, &root, app.as_ref(), env);
    Some((config, source.map(|(name, _)| name)))
}

fn file(cx: &mut Context<'_>, name: &str, text: &str) -> Option<Node> {
    let name: Arc<str> = name.into();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match yaml::parse(text, &|line| Place::File(name.clone(), line)) {
        Ok(node) => Some(node),
        Err(error) => {
            let mut message = error.message;
            if let Some(mark) = error.mark {
                let shown = form::excerpt(text, mark, &secrets(cx.tables));
                message = format!("{message}\n{shown}");
            }
            let place = Place::File(name, error.mark.map_or(1, |(line, _)| line));
            cx.problem(&place, "", "", message);
            None
        }
    }
}

/// Keys whose values are secret.
fn secrets(tables: &[Table]) -> Vec<&'static str> {
    let keys = tables.iter().flat_map(|table| (table.keys)());
    let secret = keys.filter(|key| key.file.is_some() || matches!(key.shape, Shape::Texts));
    secret.map(|key| key.name).collect()
}

fn sections(cx: &mut Context<'_>, root: &Node, app: Option<&Node>, env: &Env) -> Config {
    let key = |name| Key::new(name, Shape::Texts);
    let known = ["agent", "bgp", "apps"].map(key);
    let f = &Fields::open(cx, "", Some(root), &known.each_ref());
    let [agent, bgp, apps] = ["agent", "bgp", "apps"].map(|name| f.at(cx, name).map(|at| at.node));
    let agent = agent::agent(cx, agent.as_deref(), env);
    let bgp = bgp::bgp(cx, bgp.as_deref());
    let policy = Policy::new(&agent, &bgp);
    let apps = apps::apps(cx, apps.as_deref(), app, &agent, &policy);
    Config {
        agent,
        bgp,
        apps,
        warnings: Vec::new(),
    }
}
