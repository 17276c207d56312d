//! Variables that set no key: the path of the configuration.

use std::collections::BTreeMap;
use std::path::Path;

use crate::schema::Context;
use crate::schema::tree::Place;

pub(super) type Env = BTreeMap<String, String>;

/// A variable's value; empty is not set.
pub(super) fn value<'e>(env: &'e Env, name: &str) -> Option<&'e str> {
    env.get(name).map(String::as_str).filter(|v| !v.is_empty())
}

/// The file's name and text: from the flag, else from the environment. `Err`: the problem was reported.
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
            // A variable is named by its place.
            let key = if flag.is_some() { name } else { "" };
            cx.problem(&place, key, text, message);
            Err(())
        }
    }
}
