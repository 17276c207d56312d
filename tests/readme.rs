//! The README tells the truth: its configurations are taken, its tables name every key and no other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const README: &str = include_str!("../README.md");

/// The fenced blocks of one language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let found: Vec<&str> = README
        .split(fence.as_str())
        .skip(1)
        .filter_map(|rest| rest.split("\n```").next())
        .collect();
    assert!(!found.is_empty(), "no {language} block");
    found
}

fn load(yaml: Option<&str>, mut env: BTreeMap<String, String>) -> sidecast::config::Loaded {
    if let Some(yaml) = yaml {
        env.insert("SIDECAST_CONFIG_YAML".into(), yaml.into());
    }
    let mut read = |path: &Path| Err(std::io::Error::other(format!("{}", path.display())));
    sidecast::config::load(None, &env, &mut read).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The text between one heading and the next.
fn section(heading: &str) -> &'static str {
    let (_, rest) = README
        .split_once(&format!("\n### {heading}\n"))
        .expect(heading);
    rest.split("\n#").next().unwrap_or(rest)
}

/// The words in backticks in the first column of a section's table.
fn keys_of(heading: &str) -> BTreeSet<&'static str> {
    let rows = section(heading)
        .lines()
        .filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split(" | ").next())
        .flat_map(|cell| cell.split('`').step_by(2))
        .collect()
}

#[test]
fn every_configuration_is_taken() {
    for yaml in blocks("yaml") {
        let loaded = load(Some(yaml), BTreeMap::new());
        assert!(!loaded.config.apps.is_empty());
    }
}

#[test]
fn the_sidecars_environment_is_taken() {
    let block = blocks("sh")
        .into_iter()
        .find(|block| block.contains("SIDECAST_APP_VIP"))
        .unwrap();
    let env = block
        .split_whitespace()
        .filter_map(|word| word.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert_eq!(load(None, env).config.apps.len(), 1);
}

/// Whatever starts with `sidecast_` in a text.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    text.split(word)
        .filter(|word| word.starts_with("sidecast_") && word.len() > "sidecast_".len())
        .collect()
}

#[test]
fn every_metric_is_in_the_table_and_no_other() {
    let source = include_str!("../src/view/metrics.rs");
    let (product, _) = source.split_once("#[cfg(test)]").unwrap();
    let (_, rest) = README.split_once("\n| metric | labels | |\n").unwrap();
    let table = rest.split("\n\n").next().unwrap();
    assert!(metrics_in(product).len() > 15);
    assert_eq!(metrics_in(table), metrics_in(product));
}

#[test]
fn every_state_and_every_command_is_documented() {
    for state in sidecast::registry::AppState::ALL {
        assert!(README.contains(&format!("`{state}`")), "{state}");
    }
    let (_, rest) = README.split_once("\n## Command line\n").unwrap();
    let described = rest.split("\n## ").next().unwrap();
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_sidecast"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, commands) = help.split_once("commands:\n").unwrap();
    let (commands, options) = commands.split_once("\n\n").unwrap();
    let names = commands
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let flags = options
        .split_whitespace()
        .filter(|word| word.starts_with("--"))
        .filter(|word| !["--help,", "--help", "--version"].contains(word));
    let mut count = 0;
    for word in names.chain(flags) {
        assert!(described.contains(word), "{word} is not in the README");
        count += 1;
    }
    assert!(count > 12, "{count}");
}

#[test]
fn every_key_is_documented_and_every_documented_key_exists() {
    let keys = |name: &str| -> BTreeSet<&str> {
        let tables = sidecast::config::TABLES.iter();
        let table = tables.into_iter().find(|table| table.name == name).unwrap();
        let ignored = ["iptables_binary", "family"];
        let all = (table.keys)().into_iter();
        all.flat_map(|key| key.names_in(name))
            .filter(|key| !ignored.contains(key))
            .collect()
    };
    let mut app = keys("apps");
    app.extend(keys("vip_config"));
    for (heading, known) in [
        ("agent", keys("agent")),
        ("bgp", keys("bgp")),
        ("apps", app),
    ] {
        let documented = keys_of(heading);
        for key in &known {
            assert!(
                section(heading).contains(&format!("`{key}`")),
                "{heading}.{key} is not in the README"
            );
        }
        for key in documented {
            assert!(
                known.contains(key),
                "the README documents {heading}.{key}, which does not exist"
            );
        }
    }
}

/// A call from the node is one from elsewhere, which changes nothing without a token.
#[test]
fn no_example_drains_by_a_call_from_the_node() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kubernetes");
    let mut texts = vec![README.to_owned()];
    for entry in std::fs::read_dir(folder).unwrap() {
        texts.push(std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    let all: String = texts.concat().split_whitespace().collect();
    assert!(all.contains("preStop:{exec:") && all.contains("preStop:exec:"));
    assert!(!all.contains("preStop:{httpGet") && !all.contains("preStop:httpGet"));
}
