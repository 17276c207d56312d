//! Checks the structure of the source: which room is on which floor, what it may import, that files of a
//! room do not import each other in a circle, which words the pure floors must not contain, how long
//! files and functions may be, and that public items are documented. Every rule is tried on a bad sample
//! first, so that a rule that finds nothing fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Rooms, floor by floor: a file or folder right under `src`.
const FLOORS: [&[&str]; 5] = [
    &["net", "small_set", "text", "timer", "wire"],
    &["bfd", "bgp", "consul", "dns", "netlink"],
    &[
        "api",
        "app",
        "config",
        "core",
        "diagnosis",
        "discovery",
        "doctor",
        "health",
        "path_proof",
        "plan",
        "registry",
        "schema",
        "view",
    ],
    &["io"],
    &["agent", "cli", "lib", "main"],
];

/// What a pure machine must not know: time, chance, the outside.
const FORBIDDEN: [&str; 9] = [
    "Instant::now",
    "SystemTime::now",
    "async ",
    "nix::",
    "smol::",
    "std::process",
    "std::env",
    "HashMap",
    "HashSet",
];

const LONGEST_FILE: usize = 500;

/// Lines of a function, its signature included.
const LONGEST_FUNCTION: usize = 60;

/// Functions that are the one `match` of a state machine, and their limit.
const STATE_MACHINES: [(&str, &str); 1] = [("bgp/peer.rs", "step")];
const LONGEST_STATE_MACHINE: usize = 150;

/// The files of floor 3 that import others of it: what performs I/O stands alone but for these.
const IO_IMPORTS: [(&str, &[&str]); 12] = [
    ("bgp", &["connect", "sockopt"]),
    ("bgp_listen", &["bgp", "sockopt"]),
    ("client", &["exhaustion"]),
    ("consul", &["client", "thread_slots"]),
    (
        "doctor",
        &[
            "bgp",
            "consul",
            "netlink",
            "privilege",
            "sock_diag",
            "speakers",
        ],
    ),
    ("launch", &["exhaustion", "privilege"]),
    (
        "monitor",
        &[
            "client",
            "connect",
            "exhaustion",
            "launch",
            "reaper",
            "sock_diag",
            "thread_slots",
        ],
    ),
    ("path_proof", &["netlink", "sockopt"]),
    ("reaper", &["launch"]),
    ("router_advert", &["sockopt"]),
    ("sock_events", &["netlink"]),
    ("speakers", &["sock_diag"]),
];

/// One source file, without its tests.
struct Source {
    path: String,
    room: String,
    code: Vec<(usize, String)>,
    /// All lines but those of tests, comments included.
    lines: Vec<(usize, String)>,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let room = path.split(['/', '.']).next().unwrap_or("").to_owned();
        // A module of tests alone has no code.
        let tests = path.contains("/tests/") || path.ends_with("/tests.rs");
        let text = if tests { "" } else { text };
        Self {
            path: path.to_owned(),
            room,
            code: code_lines(text),
            lines: lines_without_tests(text),
        }
    }

    /// Its module path: `bgp/peer.rs` and `bgp/peer/mod.rs` are `["bgp", "peer"]`.
    fn module(&self) -> Vec<String> {
        let path = self.path.trim_end_matches(".rs");
        let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
        if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
            parts.pop();
        }
        parts
    }

    fn floor(&self) -> Option<usize> {
        FLOORS
            .iter()
            .position(|floor| floor.contains(&self.room.as_str()))
    }

    /// The rooms it names by `crate::`, with the line.
    fn imports(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (number, line) in &self.code {
            for (at, _) in line.match_indices("crate::") {
                let rest = &line[at + "crate::".len()..];
                if let Some(group) = rest.strip_prefix('{') {
                    let parts = top_level(group);
                    found.extend(parts.into_iter().map(|part| (*number, room_of(&part))));
                } else {
                    found.push((*number, room_of(rest)));
                }
            }
        }
        found
    }
}

fn room_of(path: &str) -> String {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    path.trim().chars().take_while(|c| is_name(*c)).collect()
}

/// The parts of a `{a::{b, c}, d}` group, as far as they stand on one line.
fn top_level(group: &str) -> Vec<String> {
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// Numbered lines that are neither blank nor comment, up to the tests. A `use crate::{` group that is
/// broken over lines is joined, so that `imports` sees all of it.
fn code_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    let all: Vec<&str> = text.lines().collect();
    let mut skip_until: Option<String> = None;
    for (index, line) in all.iter().enumerate() {
        if let Some(end) = &skip_until {
            if *line == end {
                skip_until = None;
            }
            continue;
        }
        let trimmed = line.trim_start();
        if trimmed.starts_with("#[cfg(test)]") {
            let indent = &line[..line.len() - trimmed.len()];
            let next = all.get(index + 1).map_or("", |next| next.trim());
            if next.ends_with('{') {
                skip_until = Some(format!("{indent}}}"));
            }
            continue;
        }
        let behind = index > 0 && all[index - 1].trim_start().starts_with("#[cfg(test)]");
        if trimmed.is_empty() || trimmed.starts_with("//") || behind {
            continue;
        }
        if open && let Some((_, last)) = lines.last_mut() {
            last.push_str(trimmed);
            open = !trimmed.starts_with("};");
            continue;
        }
        let code = trimmed.split(" // ").next().unwrap_or(trimmed);
        open = code.contains("use crate::{") && !code.contains("};");
        lines.push((index + 1, code.to_owned()));
    }
    lines
}

/// The lines of a file without its test modules and test helpers.
fn lines_without_tests(text: &str) -> Vec<(usize, String)> {
    let all: Vec<&str> = text.lines().collect();
    let mut lines = Vec::new();
    let mut index = 0;
    while let Some(line) = all.get(index) {
        let indent = &line[..line.len() - line.trim_start().len()];
        if !line.trim_start().starts_with("#[cfg(test)]") {
            lines.push((index + 1, (*line).to_owned()));
            index += 1;
            continue;
        }
        index += 1;
        while all
            .get(index)
            .is_some_and(|l| l.trim_start().starts_with('#'))
        {
            index += 1;
        }
        // A statement or field ends on its line, an item with a body at its closing brace.
        if !all.get(index).is_some_and(|l| l.ends_with([';', ','])) {
            let end = format!("{indent}}}");
            while all.get(index).is_some_and(|l| *l != end) {
                index += 1;
            }
        }
        index += 1;
    }
    lines
}

/// The text of a file's `use` declarations, each as one path: `(is it public, segments)`.
fn used_paths(source: &Source) -> Vec<(bool, Vec<String>)> {
    let code: Vec<&str> = source
        .lines
        .iter()
        .map(|(_, line)| line.split("//").next().unwrap_or_default().trim())
        .collect();
    let code = code.join(" ");
    let mut paths = Vec::new();
    for statement in code.split(';') {
        let Some((before, declaration)) = statement.rsplit_once("use ") else {
            continue;
        };
        let before = before.trim_end();
        let public = before.ends_with("pub") || before.ends_with(')');
        if public || before.is_empty() || before.ends_with(['{', '}', ']']) {
            let declared = expanded(declaration);
            paths.extend(declared.into_iter().map(|path| (public, path)));
        }
    }
    for word in code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
        if word.contains("::") && word.starts_with(['s', 'c']) {
            let path: Vec<String> = word.split("::").map(str::to_owned).collect();
            if matches!(path[0].as_str(), "super" | "self" | "crate") {
                paths.push((false, path));
            }
        }
    }
    paths
}

/// The single paths of a `use` declaration: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expanded(declaration: &str) -> Vec<Vec<String>> {
    let Some((before, group)) = declaration.split_once('{') else {
        let path = declaration.split(" as ").next().unwrap_or_default();
        let segments = path.trim().split("::").map(|s| s.trim().to_owned());
        return vec![segments.filter(|s| !s.is_empty()).collect()];
    };
    let head: Vec<String> = before
        .trim()
        .split("::")
        .map(|s| s.trim().to_owned())
        .filter(|s| !s.is_empty())
        .collect();
    let mut paths = Vec::new();
    for part in top_level(group) {
        for tail in expanded(&part) {
            paths.push(head.iter().cloned().chain(tail).collect());
        }
    }
    paths
}

/// The modules of the crate, and what each takes in by `use`.
struct Modules {
    uses: BTreeMap<Vec<String>, Vec<(bool, Vec<String>)>>,
}

impl Modules {
    fn new(sources: &[Source]) -> Self {
        let modules = sources.iter().filter(|source| !source.lines.is_empty());
        let uses = modules.map(|source| (source.module(), used_paths(source)));
        Self {
            uses: uses.collect(),
        }
    }

    /// The module that a path in `from` leads to, through re-exports.
    fn target(&self, from: &[String], path: &[String], depth: usize) -> Option<Vec<String>> {
        let mut at = from.to_vec();
        let mut rest = path;
        match rest.first().map(String::as_str)? {
            "crate" => {
                at.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|s| s == "super") {
                    at.pop();
                    rest = &rest[1..];
                }
            }
            first => {
                let mut child = at.clone();
                child.push(first.to_owned());
                if !self.uses.contains_key(&child) {
                    return None;
                }
            }
        }
        while let Some(name) = rest.first() {
            let mut child = at.clone();
            child.push(name.clone());
            if !self.uses.contains_key(&child) {
                break;
            }
            at = child;
            rest = &rest[1..];
        }
        if let (Some(name), true) = (rest.first(), depth < 3) {
            let imported = self.uses.get(&at).into_iter().flatten();
            for (_, path) in imported.filter(|(_, path)| path.last() == Some(name)) {
                match self.target(&at, path, depth + 1) {
                    Some(found) if found != at => return Some(found),
                    _ => {}
                }
            }
        }
        Some(at)
    }

    /// By parent module: which of its children imports which other. Re-exports are not imports.
    fn between_siblings(&self) -> BTreeMap<Vec<String>, BTreeMap<String, BTreeSet<String>>> {
        let mut edges = BTreeMap::<Vec<String>, BTreeMap<String, BTreeSet<String>>>::new();
        for (from, uses) in &self.uses {
            for (public, path) in uses {
                let Some(to) = self.target(from, path, 0) else {
                    continue;
                };
                if *public && to.starts_with(from) {
                    continue;
                }
                let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                if let (true, Some(child), Some(other)) =
                    (common > 0, from.get(common), to.get(common))
                {
                    let children = edges.entry(from[..common].to_vec()).or_default();
                    let others = children.entry(child.clone()).or_default();
                    others.insert(other.clone());
                }
            }
        }
        edges
    }
}

/// Children of one module that import each other in a circle.
fn circles_of_siblings(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for (parent, edges) in Modules::new(sources).between_siblings() {
        for start in edges.keys() {
            let mut seen = BTreeSet::new();
            let mut next: Vec<&String> = edges[start].iter().collect();
            while let Some(child) = next.pop() {
                if child == start {
                    let parent = parent.join("/");
                    faults.push(format!(
                        "{parent}: {start} imports itself by way of others: {seen:?}"
                    ));
                    break;
                }
                if seen.insert(child) {
                    next.extend(edges.get(child).into_iter().flatten());
                }
            }
        }
    }
    faults
}

/// An import between files of floor 3 that is not in the table.
fn unlisted_io(sources: &[Source]) -> Vec<String> {
    let between = Modules::new(sources).between_siblings();
    let mut faults = Vec::new();
    for (from, imports) in between.get(&vec!["io".to_owned()]).into_iter().flatten() {
        let listed = IO_IMPORTS.iter().find(|(name, _)| name == from);
        let listed = listed.map_or(&[][..], |(_, others)| others);
        for to in imports.iter().filter(|to| !listed.contains(&to.as_str())) {
            faults.push(format!(
                "io/{from} imports io/{to}, which the table does not list"
            ));
        }
    }
    faults
}

/// A function that is longer than allowed.
fn long_functions(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, (number, line)) in source.lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        let body = source.lines[index..].iter();
        let length = match line.ends_with(['}', ';']) {
            true => 1,
            false => body.take_while(|(_, line)| *line != end).count() + 1,
        };
        let machine = STATE_MACHINES.contains(&(source.path.as_str(), name));
        let limit = match machine {
            true => LONGEST_STATE_MACHINE,
            false => LONGEST_FUNCTION,
        };
        if length > limit {
            let path = &source.path;
            faults.push(format!(
                "{path}:{number}: {name} has {length} lines, {limit} at most"
            ));
        }
    }
    faults
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    if let Some(after) = rest.strip_prefix("pub") {
        let scope = after.strip_prefix('(').and_then(|s| s.split_once(')'));
        rest = scope.map_or(after, |(_, after)| after).trim_start();
    }
    for word in ["const ", "async "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let name = rest.strip_prefix("fn ")?;
    Some(name.split(['(', '<']).next().unwrap_or(name))
}

/// A log call on floors 0 and 1, which return values for others to report.
fn logging(source: &Source) -> Vec<String> {
    if source.floor().is_none_or(|floor| floor > 1) {
        return Vec::new();
    }
    let logs = |line: &&(usize, String)| {
        let words = line
            .1
            .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
        words
            .into_iter()
            .any(|word| word == "log" || word.starts_with("log::"))
    };
    let found = source.code.iter().filter(logs);
    found
        .map(|(number, _)| format!("{}:{number}: logs on floor 0 or 1", source.path))
        .collect()
}

/// A public function, type, trait or constant without a doc comment.
fn undocumented(source: &Source) -> Vec<String> {
    const ITEMS: [&str; 9] = [
        "fn ", "const ", "async ", "struct ", "enum ", "trait ", "type ", "static ", "macro ",
    ];
    let mut faults = Vec::new();
    for (index, (number, line)) in source.lines.iter().enumerate() {
        let Some(item) = line.trim_start().strip_prefix("pub ") else {
            continue;
        };
        if !ITEMS.iter().any(|kind| item.starts_with(kind)) {
            continue;
        }
        let before = source.lines[..index].iter().rev();
        // Attributes, which may be broken over lines, stand between the comment and the item.
        let above = before.map(|(_, line)| line.trim()).find(|line| {
            !(line.starts_with("#[")
                || line.ends_with(")]")
                || line.starts_with("clippy::")
                || line.starts_with("reason ="))
        });
        if !above.is_some_and(|line| line.starts_with("///")) {
            faults.push(format!(
                "{}:{number}: no documentation: {item}",
                source.path
            ));
        }
    }
    faults
}

/// A file that no floor knows.
fn homeless(source: &Source) -> Vec<String> {
    match source.floor() {
        Some(_) => Vec::new(),
        None => vec![format!(
            "{}: stands on no floor: add it to the table",
            source.path
        )],
    }
}

/// An import from a higher floor, or on floors 0 and 1 from next door.
fn climbing(source: &Source) -> Vec<String> {
    let Some(own) = source.floor() else {
        return Vec::new();
    };
    let mut faults = Vec::new();
    for (line, room) in source.imports() {
        let Some(other) = FLOORS
            .iter()
            .position(|floor| floor.contains(&room.as_str()))
        else {
            continue;
        };
        let sibling = own <= 1 && other == own && room != source.room;
        if other > own || sibling {
            faults.push(format!(
                "{}:{line}: floor {own} uses {room} of floor {other}",
                source.path
            ));
        }
    }
    faults
}

/// A word on floors 0 to 2 that belongs above.
fn impure(source: &Source) -> Vec<String> {
    if source.floor().is_none_or(|floor| floor > 2) {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (line, code) in &source.code {
        for word in FORBIDDEN.iter().filter(|word| code.contains(**word)) {
            faults.push(format!("{}:{line}: `{word}`", source.path));
        }
    }
    faults
}

fn too_long(source: &Source) -> Vec<String> {
    let lines = source.code.len();
    if lines <= LONGEST_FILE {
        return Vec::new();
    }
    vec![format!(
        "{}: {lines} lines of code, {LONGEST_FILE} at most",
        source.path
    )]
}

/// Rooms of floors 2 to 4 that import each other in a circle.
fn circles(sources: &[Source]) -> Vec<String> {
    let mut uses: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for source in sources
        .iter()
        .filter(|s| s.floor().is_some_and(|floor| floor >= 2))
    {
        let rooms = source.imports().into_iter().map(|(_, room)| room);
        let others = rooms.filter(|room| *room != source.room);
        uses.entry(&source.room).or_default().extend(others);
    }
    let mut faults = Vec::new();
    for start in uses.keys() {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&str> = uses[start].iter().map(String::as_str).collect();
        while let Some(room) = next.pop() {
            if room == *start {
                faults.push(format!("{start} imports itself by way of others: {seen:?}"));
                break;
            }
            if seen.insert(room) {
                next.extend(uses.get(room).into_iter().flatten().map(String::as_str));
            }
        }
    }
    faults
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<Source>) {
        for entry in fs::read_dir(folder).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("it lies under src");
                let text = fs::read_to_string(&path).expect("a source is text");
                found.push(Source::new(name.to_str().expect("names are UTF-8"), &text));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    assert!(found.len() > 10, "there must be sources to look at");
    found
}

fn holds(rule: fn(&Source) -> Vec<String>) {
    let faults: Vec<String> = sources().iter().flat_map(rule).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_file_belongs_to_a_floor() {
    assert_eq!(homeless(&Source::new("utils/mod.rs", "")).len(), 1);
    assert!(homeless(&Source::new("bgp/peer/mod.rs", "")).is_empty());
    holds(homeless);
}

#[test]
fn no_file_imports_a_higher_floor() {
    let bad = [
        ("net.rs", "use crate::bgp::Peer;"),
        ("net.rs", "use crate::wire::Reader;"),
        ("bgp/peer.rs", "let x = crate::netlink::attr::X;"),
        ("core/mod.rs", "use crate::io::netlink::Socket;"),
        (
            "bgp/mod.rs",
            "use crate::{\n    net::Prefix,\n    core::{Core, Event},\n};",
        ),
        ("app.rs", "use crate::{net::{Asn, Prefix}, agent::Agent};"),
    ];
    for (path, text) in bad {
        assert_eq!(
            climbing(&Source::new(path, text)).len(),
            1,
            "{path}: {text}"
        );
    }
    let good = [
        (
            "bgp/peer.rs",
            "use crate::bgp::Message;\nuse crate::wire::Reader;",
        ),
        ("core/mod.rs", "use crate::config::Config;"),
        (
            "net.rs",
            "#[cfg(test)]\nmod tests {\n    use crate::bgp::Peer;\n}",
        ),
        ("net.rs", "// crate::core decides"),
    ];
    for (path, text) in good {
        assert!(
            climbing(&Source::new(path, text)).is_empty(),
            "{path}: {text}"
        );
    }
    holds(climbing);
}

#[test]
fn floors_0_to_2_use_no_clock_and_no_io() {
    for word in FORBIDDEN {
        let text = format!("let x = {word}();");
        assert_eq!(
            impure(&Source::new("core/mod.rs", &text)).len(),
            1,
            "{word}"
        );
        assert!(
            impure(&Source::new("io/mod.rs", &text)).is_empty(),
            "{word}"
        );
        let tested = format!("#[cfg(test)]\nmod tests {{\n    {text}\n}}\n");
        assert!(
            impure(&Source::new("core/mod.rs", &tested)).is_empty(),
            "{word}"
        );
        // What follows a test module counts again.
        let behind = format!("{tested}{text}");
        assert_eq!(
            impure(&Source::new("core/mod.rs", &behind)).len(),
            1,
            "{word}"
        );
    }
    holds(impure);
}

#[test]
fn no_file_exceeds_500_code_lines() {
    let text = |lines| "x();\n\n// why\n".repeat(lines);
    assert_eq!(
        too_long(&Source::new("net.rs", &text(LONGEST_FILE + 1))).len(),
        1
    );
    assert!(too_long(&Source::new("net.rs", &text(LONGEST_FILE))).is_empty());
    holds(too_long);
}

#[test]
fn rooms_have_no_import_cycles() {
    let room = |path, text| Source::new(path, text);
    let bad = [
        room("app.rs", "use crate::config::Config;"),
        room("config/mod.rs", "use crate::health::Health;"),
        room("health.rs", "use crate::app::App;"),
    ];
    assert_eq!(circles(&bad).len(), 3);
    assert!(circles(&bad[..2]).is_empty());
    let faults = circles(&sources());
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn files_of_a_room_do_not_import_each_other_in_a_circle() {
    let modules = |texts: &[(&str, &str)]| -> Vec<Source> {
        texts
            .iter()
            .map(|(path, text)| Source::new(path, text))
            .collect()
    };
    let bad = modules(&[
        ("bgp/mod.rs", "mod open;\nmod message;\npub use open::Open;"),
        ("bgp/open.rs", "use super::message::Context;"),
        ("bgp/message.rs", "use super::{\n    Frame, Open,\n};"),
    ]);
    assert_eq!(
        circles_of_siblings(&bad).len(),
        2,
        "also through a re-export"
    );
    let good = modules(&[
        (
            "bgp/mod.rs",
            "pub use open::Open;\npub use message::Message;",
        ),
        (
            "bgp/open.rs",
            "use super::SessionType;\n// super::message::Context",
        ),
        ("bgp/message.rs", "use crate::bgp::Open;"),
    ]);
    assert!(circles_of_siblings(&good).is_empty());
    let faults = circles_of_siblings(&sources());
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn files_of_floor_3_import_only_what_the_table_lists() {
    let bad = [
        Source::new("io/mod.rs", "pub mod bfd;\npub mod http;"),
        Source::new("io/bfd.rs", "use crate::io::http::Listener;"),
        Source::new("io/http.rs", "pub struct Listener;"),
    ];
    assert_eq!(unlisted_io(&bad).len(), 1);
    let faults = unlisted_io(&sources());
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    let all = sources();
    let between = Modules::new(&all).between_siblings();
    for (from, imports) in IO_IMPORTS {
        let real = &between[&vec!["io".to_owned()]][from];
        let unused = imports.iter().find(|to| !real.contains(**to));
        assert_eq!(
            unused, None,
            "io/{from} does not import it: take it off the table"
        );
    }
}

#[test]
fn no_function_is_longer_than_a_screen() {
    let function = |lines| format!("fn f() {{\n{}}}\n", "    x();\n".repeat(lines));
    let long = Source::new("net.rs", &function(LONGEST_FUNCTION - 1));
    assert_eq!(long_functions(&long).len(), 1);
    assert!(long_functions(&Source::new("net.rs", &function(LONGEST_FUNCTION - 2))).is_empty());
    let method = format!(
        "impl A {{\n    pub(super) async fn f() {{\n{}    }}\n}}\n",
        "        x();\n".repeat(60)
    );
    assert_eq!(long_functions(&Source::new("net.rs", &method)).len(), 1);
    holds(long_functions);
}

#[test]
fn floors_0_and_1_do_not_log() {
    for text in ["log::warn!(\"x\");", "use log::info;"] {
        assert_eq!(
            logging(&Source::new("bgp/peer.rs", text)).len(),
            1,
            "{text}"
        );
        assert!(
            logging(&Source::new("core/mod.rs", text)).is_empty(),
            "{text}"
        );
    }
    let other = "use consul::catalog::Catalog;";
    assert!(logging(&Source::new("consul/mod.rs", other)).is_empty());
    holds(logging);
}

#[test]
fn public_items_are_documented() {
    for item in [
        "pub fn f() {",
        "pub struct S;",
        "pub const C: u8 = 1;",
        "pub async fn f() {",
    ] {
        assert_eq!(
            undocumented(&Source::new("net.rs", item)).len(),
            1,
            "{item}"
        );
        let documented = format!("/// Does it.\n#[must_use]\n{item}");
        assert!(
            undocumented(&Source::new("net.rs", &documented)).is_empty(),
            "{item}"
        );
    }
    holds(undocumented);
}

/// Links are followed by `cargo doc`; names of files are not.
#[test]
fn the_maps_name_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["", "src", "src/core/tests", "tests"].map(|folder| root.join(folder));
    for map in ["src/README.md", "tests/README.md"] {
        let text = fs::read_to_string(root.join(map)).expect("it is there");
        let names = text.split('`').skip(1).step_by(2);
        let files: Vec<&str> = names
            .filter(|name| name.ends_with(".rs") && !name.contains([' ', '*']))
            .collect();
        assert!(files.len() > 5, "{map} names {} files", files.len());
        let missing = |file: &&str| !folders.iter().any(|folder| folder.join(file).exists());
        let missing: Vec<&str> = files.into_iter().filter(missing).collect();
        assert!(missing.is_empty(), "{map} names {missing:?}");
    }
}
