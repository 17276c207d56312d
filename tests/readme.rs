//! The documentation tells the truth: its configurations are taken, its tables name every key and no other, its links
//! lead somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const README: &str = include_str!("../README.md");
const REFERENCE: &str = include_str!("../examples/reference.md");
const OPERATIONS: &str = include_str!("../examples/operations.md");

/// The fenced blocks of one language.
fn blocks(page: &'static str, language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let found: Vec<&str> = page
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
    let (_, rest) = REFERENCE
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
    for yaml in [README, REFERENCE]
        .map(|page| blocks(page, "yaml"))
        .concat()
    {
        let loaded = load(Some(yaml), BTreeMap::new());
        assert!(!loaded.config.apps.is_empty());
    }
}

#[test]
fn the_sidecars_environment_is_taken() {
    let block = blocks(README, "sh")
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
    let (_, rest) = REFERENCE
        .split_once("\n| metric | type | labels | |\n")
        .unwrap();
    let table = rest.split("\n<!--").next().unwrap();
    assert!(metrics_in(product).len() > 15);
    assert_eq!(metrics_in(table), metrics_in(product));
}

#[test]
fn every_state_and_every_command_is_documented() {
    let (_, states) = REFERENCE.split_once("\n## States\n").unwrap();
    let states = states.split("\n## ").next().unwrap();
    for state in sidecast::registry::AppState::ALL {
        assert!(states.contains(&format!("`{state}`")), "{state}");
    }
    let (_, rest) = REFERENCE.split_once("\n## Commands\n").unwrap();
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
        assert!(described.contains(word), "{word} is not in the reference");
        count += 1;
    }
    assert!(count > 12, "{count}");
}

#[test]
fn every_key_is_documented_and_every_documented_key_exists() {
    let keys = |name: &str| -> BTreeSet<&str> {
        let tables = sidecast::config::TABLES.iter();
        let table = tables.into_iter().find(|table| table.name == name).unwrap();
        let all = (table.keys)().into_iter();
        all.flat_map(|key| key.names_in(name)).collect()
    };
    for heading in [
        "agent",
        "bgp",
        "bgp.peers",
        "bgp.bfd",
        "apps",
        "vip_config",
        "when_down",
    ] {
        let known = keys(heading);
        let documented = keys_of(heading);
        for key in &known {
            assert!(
                section(heading).contains(&format!("`{key}`")),
                "{heading}.{key} is not in the reference"
            );
        }
        for key in documented {
            assert!(
                known.contains(key),
                "the reference documents {heading}.{key}, which does not exist"
            );
        }
    }
}

/// A call from the node is one from elsewhere, which changes nothing without a token.
#[test]
fn no_example_drains_by_a_call_from_the_node() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kubernetes");
    let mut texts = vec![README.to_owned(), OPERATIONS.to_owned()];
    for entry in std::fs::read_dir(folder).unwrap() {
        texts.push(std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    let all: String = texts.concat().split_whitespace().collect();
    assert!(all.contains("preStop:{exec:") && all.contains("preStop:exec:"));
    assert!(!all.contains("preStop:{httpGet") && !all.contains("preStop:httpGet"));
}

/// What people read first stays short, and what they want next stands on its first screen.
#[test]
fn the_readme_is_short_and_links_the_rest_at_once() {
    assert!(README.lines().count() <= 200);
    let first: String = README.lines().take(20).collect();
    for page in ["examples/reference.md", "examples/operations.md"] {
        assert!(first.contains(&format!("]({page})")), "{page}");
    }
}

/// The image that the README builds is the one that the examples start.
#[test]
fn every_example_names_the_image_of_the_readme() {
    let (_, rest) = README
        .split_once("docker build -f Dockerfile.sidecar -t ")
        .unwrap();
    let image = rest.split_whitespace().next().unwrap();
    assert_eq!(image, concat!("sidecast:", env!("CARGO_PKG_VERSION")));
    let mut count = 0;
    for page in pages("examples", &["yaml", "hcl"]) {
        let text = std::fs::read_to_string(&page).unwrap();
        for line in text
            .lines()
            .filter(|line| line.trim_start().starts_with("image"))
        {
            let named = line.split([' ', '"', '=']).rfind(|word| !word.is_empty());
            let named = named.unwrap_or_default();
            if named.starts_with("sidecast") {
                assert_eq!(named, image, "{}", page.display());
                count += 1;
            }
        }
    }
    assert!(count >= 4, "{count}");
}

/// A YAML language server takes the schema from the first line.
#[test]
fn every_configuration_of_the_examples_names_its_schema() {
    let line = "# yaml-language-server: $schema=/usr/share/sidecast/sidecast.schema.json";
    assert!(REFERENCE.contains(line));
    let mut count = 0;
    for page in pages("examples", &["yaml"]) {
        let text = std::fs::read_to_string(&page).unwrap();
        // GoCast's own file stays as it is; the others hold Kubernetes objects and the like.
        if text.contains("\nbgp:\n") && !page.ends_with("gocast/before.yaml") {
            assert_eq!(text.lines().next(), Some(line), "{}", page.display());
            count += 1;
        }
    }
    assert_eq!(count, 3);
}

/// What `cargo package` takes along, and what it leaves.
#[test]
fn the_package_has_the_program_and_not_the_data_of_the_tests() {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["package", "--list", "--allow-dirty", "--offline", "--quiet"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let list = String::from_utf8_lossy(&output.stdout);
    let files: BTreeSet<&str> = list.lines().collect();
    for file in [
        "Cargo.lock",
        "LICENSE",
        "README.md",
        "src/main.rs",
        "src/README.md",
    ] {
        assert!(files.contains(file), "{file}");
    }
    let data = files.iter().find(|file| file.starts_with("tests/data/"));
    assert_eq!(data, None);
}

/// The files of a folder and those below, by their extensions.
fn pages(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if path.is_dir() {
                folders.push(path);
            } else if extension.is_some_and(|extension| extensions.contains(&extension)) {
                found.push(path);
            }
        }
    }
    found
}

/// A link within the repository leads to a file, and to a heading or an anchor in it.
#[test]
fn every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = vec![root.join("README.md"), root.join("tests/README.md")];
    all.extend(pages("examples", &["md"]));
    all.extend(pages(".github", &["md"]));
    all.extend(pages("tests/bench", &["md"]));
    let mut count = 0;
    for page in all {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => page.clone(),
                path => page.parent().unwrap().join(path),
            };
            let from = page.display();
            assert!(target.exists(), "{from}: {link}");
            if !anchor.is_empty() {
                let there = std::fs::read_to_string(&target).unwrap();
                assert!(anchors(&there).contains(anchor), "{from}: {link}");
            }
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
}

/// What a page can be linked at: its headings as GitHub writes them, and anchors of its own.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter_map(|line| {
        let title = line.trim_start_matches('#').strip_prefix(' ')?;
        line.starts_with('#').then_some(title)
    });
    let headings = headings.map(|title| {
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    });
    let own = page.split("<a id=\"").skip(1);
    let own = own.filter_map(|rest| rest.split('"').next().map(str::to_owned));
    headings.chain(own).collect()
}
