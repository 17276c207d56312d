//! Holds the floors of the house: which file stands on which floor, what it may look down on, which
//! words stay out of the pure floors, and how long a file may grow. Every rule is proven on a bad
//! sample first, so that a rule that sees nothing fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Rooms, floor by floor: a file or folder right under `src`.
const FLOORS: [&[&str]; 5] = [
    &["net", "text", "timer", "wire"],
    &["bfd", "bgp", "consul", "dns", "netlink"],
    &[
        "api",
        "app",
        "config",
        "core",
        "discovery",
        "health",
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

/// One source file, without its tests.
struct Source {
    path: String,
    room: String,
    code: Vec<(usize, String)>,
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
        }
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
fn every_file_stands_on_a_floor() {
    assert_eq!(homeless(&Source::new("utils/mod.rs", "")).len(), 1);
    assert!(homeless(&Source::new("bgp/peer/mod.rs", "")).is_empty());
    holds(homeless);
}

#[test]
fn nobody_looks_up() {
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
fn the_pure_floors_know_neither_clock_nor_outside() {
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
fn no_file_is_longer_than_a_person_reads() {
    let text = |lines| "x();\n\n// why\n".repeat(lines);
    assert_eq!(
        too_long(&Source::new("net.rs", &text(LONGEST_FILE + 1))).len(),
        1
    );
    assert!(too_long(&Source::new("net.rs", &text(LONGEST_FILE))).is_empty());
    holds(too_long);
}

#[test]
fn rooms_do_not_import_each_other_in_a_circle() {
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
