//! `examples/reference.md`: what stands there between `<!-- NAME -->` and `<!-- end of NAME -->` is made from the
//! tables of keys, commands, calls, states, conditions and metrics. `SIDECAST_GOLDEN=write` writes it anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::commands::{COMMANDS, GLOBAL};
use super::spec::{Flag, Spec};
use crate::api::CALLS;
use crate::config::TABLES;
use crate::registry::AppState;
use crate::schema::Table;
use crate::view::metrics;
use crate::view::verdict::Condition;

#[test]
fn the_reference_is_that_of_the_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/reference.md");
    let page = fs::read_to_string(&path).unwrap();
    let mut made = page.clone();
    for (name, table) in tables() {
        made = replaced(&made, &name, &table);
    }
    if std::env::var_os("SIDECAST_GOLDEN").is_some() {
        // Whole at any moment: other tests read it.
        let new = path.with_extension("new");
        fs::write(&new, made).unwrap();
        fs::rename(&new, &path).unwrap();
        return;
    }
    let pairs = page.lines().zip(made.lines()).enumerate();
    let stale = pairs.filter(|(_, (is, should))| is != should).take(8);
    let stale: String = stale
        .map(|(at, (is, should))| format!("line {}\n is     {is}\n should {should}\n", at + 1))
        .collect();
    assert!(stale.is_empty(), "SIDECAST_GOLDEN=write mends it:\n{stale}");
    assert_eq!(page.lines().count(), made.lines().count());
}

#[test]
fn every_marker_of_the_reference_is_a_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/reference.md");
    let page = fs::read_to_string(path).unwrap();
    let markers = page.lines().filter_map(|line| line.strip_prefix("<!-- "));
    let markers: BTreeSet<&str> = markers
        .filter(|marker| !marker.starts_with("end of "))
        .map(|marker| marker.strip_suffix(" -->").unwrap())
        .collect();
    let known = tables();
    let known: BTreeSet<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(markers, known);
}

/// A text with what stands between two markers replaced.
fn replaced(page: &str, name: &str, table: &str) -> String {
    let (begin, end) = (
        format!("<!-- {name} -->\n"),
        format!("<!-- end of {name} -->\n"),
    );
    let (head, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("{begin}"));
    let (_, tail) = rest.split_once(&end).unwrap_or_else(|| panic!("{end}"));
    format!("{head}{begin}{table}{end}{tail}")
}

/// Each part by its name.
fn tables() -> Vec<(String, String)> {
    let keys = TABLES
        .iter()
        .map(|table| (format!("keys of {}", table.name), keys(table)));
    let mut all: Vec<_> = keys.collect();
    all.push(("commands".to_owned(), commands()));
    all.push(("calls".to_owned(), calls()));
    all.push(("states".to_owned(), states()));
    all.push(("conditions".to_owned(), conditions()));
    all.push(("metrics".to_owned(), metrics()));
    all
}

fn keys(table: &Table) -> String {
    let mut text = "| key | type | default | |\n| --- | --- | --- | --- |\n".to_owned();
    for key in (table.keys)() {
        let names: Vec<String> = key.names_in(table.name).map(|n| format!("`{n}`")).collect();
        let default = match key.default {
            _ if key.required => "required".to_owned(),
            "" => String::new(),
            text => format!("`{text}`"),
        };
        let needs_restart = match key.needs_restart {
            true => " Taken at the next start.",
            false => "",
        };
        let params = match key.params {
            several @ [_, ..] if table.prefix == "APP_" => {
                format!(" Parameter: `{}`.", several.join("`, `"))
            }
            _ => String::new(),
        };
        let (names, shape, doc) = (names.join(", "), key.shape, key.doc.trim());
        let row = format!("| {names} | {shape} | {default} | {doc}{needs_restart}{params} |");
        writeln!(text, "{row}").unwrap();
    }
    text
}

fn commands() -> String {
    let mut text = String::new();
    for spec in COMMANDS {
        command(&mut text, spec);
    }
    text += "### Options of every command\n\n| option | |\n| --- | --- |\n";
    GLOBAL.iter().for_each(|flag| option(&mut text, flag));
    text
}

fn command(text: &mut String, spec: &Spec) {
    let about = spec.about.split_whitespace().collect::<Vec<_>>().join(" ");
    let (usage, summary) = (spec.usage(), capital(spec.summary));
    write!(
        text,
        "### {}\n\n`{usage}`\n\n{summary}. {about}\n\n",
        spec.name
    )
    .unwrap();
    if spec.shown().count() + spec.flags.len() > 0 {
        *text += "| argument | |\n| --- | --- |\n";
        for argument in spec.shown() {
            writeln!(text, "| `{}` | {} |", argument.name, argument.doc).unwrap();
        }
        spec.flags.iter().for_each(|flag| option(text, flag));
        *text += "\n";
    }
    let exits = spec
        .exits
        .iter()
        .map(|(code, when)| format!("{code} {when}"));
    let exits = exits.collect::<Vec<_>>().join("; ");
    let examples = spec.examples.iter().map(|(line, _)| format!("`{line}`"));
    let examples = examples.collect::<Vec<_>>().join(", ");
    write!(text, "Exit codes: {exits}. Example: {examples}.\n\n").unwrap();
}

fn option(text: &mut String, flag: &Flag) {
    writeln!(text, "| `{}` | {} |", flag.both().trim(), flag.doc).unwrap();
}

fn calls() -> String {
    let mut text = "| call | methods | |\n| --- | --- | --- |\n".to_owned();
    for call in CALLS {
        let (path, params, methods) = (call.path, call.params, call.methods.as_str());
        writeln!(text, "| `{path}{params}` | {methods} | {} |", call.doc).unwrap();
    }
    text
}

fn states() -> String {
    let mut text = "| state | |\n| --- | --- |\n".to_owned();
    for state in AppState::ALL {
        writeln!(text, "| `{state}` | {} |", state.doc()).unwrap();
    }
    text
}

fn conditions() -> String {
    let mut text = "| condition | |\n| --- | --- |\n".to_owned();
    for condition in Condition::ALL {
        writeln!(text, "| `{}` | {} |", condition.as_str(), condition.doc()).unwrap();
    }
    text
}

/// Of an answer to `/metrics` with a sample of every family.
fn metrics() -> String {
    let mut text = "| metric | type | labels | |\n| --- | --- | --- | --- |\n".to_owned();
    let answer = metrics::tests::every_family();
    for family in answer.split("# HELP ").skip(1) {
        let mut lines = family.lines();
        let (name, help) = lines.next().unwrap().split_once(' ').unwrap();
        let kind = lines.next().unwrap().rsplit(' ').next().unwrap();
        let labels: BTreeSet<String> = lines.flat_map(labels).collect();
        let labels: Vec<String> = labels.into_iter().collect();
        writeln!(
            text,
            "| `{name}` | {kind} | {} | {help} |",
            labels.join(", ")
        )
        .unwrap();
    }
    text
}

/// The names of a sample's labels; the sample's values hold no `=`.
fn labels(sample: &str) -> Vec<String> {
    let Some((_, rest)) = sample.split_once('{') else {
        return Vec::new();
    };
    let parts: Vec<&str> = rest.split("=\"").collect();
    let names = parts[..parts.len() - 1].iter();
    names
        .map(|part| part.rsplit(['{', ',']).next().unwrap_or(part))
        .map(|name| format!("`{name}`"))
        .collect()
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}
