//! `sidecast schema`: the configuration as JSON Schema (draft 2020-12), from the tables of keys. It
//! describes a file alone; variables and rules between keys are left to `check`.

use crate::config::TABLES;
use crate::schema::{FILE, Key, Shape, Split, Table};
use serde_json::{Map, Value, json};

/// The schema as text.
pub fn render() -> String {
    // A value of maps, texts and numbers can always be serialized.
    let text = serde_json::to_string_pretty(&schema()).unwrap_or_default();
    format!("{text}\n")
}

fn schema() -> Value {
    let tables = TABLES.iter();
    let defs: Map<String, Value> = tables
        .map(|table| (table.name.to_owned(), section(table)))
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sidecast",
        "description": "The configuration of sidecast, read as YAML",
        "type": "object",
        "properties": {
            "agent": {"$ref": "#/$defs/agent", "description": "The process itself"},
            "bgp": {"$ref": "#/$defs/bgp", "description": "The speaker and its peers"},
            "apps": {
                "type": ["array", "null"],
                "items": {"$ref": "#/$defs/apps"},
                "description": "What is announced",
            },
        },
        // A place for anchors.
        "patternProperties": {"^x-": true},
        "additionalProperties": false,
        "required": ["bgp"],
        "$defs": defs,
    })
}

fn section(table: &Table) -> Value {
    let keys = (table.keys)();
    let keys: Vec<&Key> = keys
        .into_iter()
        .filter(|key| key.scope & FILE != 0)
        .collect();
    let mut properties = Map::new();
    let mut rules: Vec<Value> = Vec::new();
    for key in &keys {
        let names: Vec<&str> = key.names_in(table.name).collect();
        for name in &names {
            let from_file = key.file == Some(name);
            let shape = if from_file { &Shape::Text } else { &key.shape };
            properties.insert((*name).to_owned(), property(key, shape, from_file));
        }
        let any: Vec<Value> = names
            .iter()
            .map(|name| json!({"required": [name]}))
            .collect();
        if key.required {
            rules.push(json!({"anyOf": any}));
        }
        if let Some(file) = key.file {
            rules.push(json!({"not": {
                "required": [key.name, file],
                "properties": {key.name: {"not": unset()}, file: {"not": unset()}},
            }}));
        }
    }
    let mut section = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if let (Some(map), false) = (section.as_object_mut(), rules.is_empty()) {
        map.insert("allOf".to_owned(), Value::Array(rules));
    }
    // Sections without keys are left out.
    let nothing = keys.iter().all(|key| !key.required);
    match nothing {
        true => json!({"anyOf": [section, unset()]}),
        false => section,
    }
}

/// Null and the empty text: not set.
fn unset() -> Value {
    json!({"enum": [null, ""]})
}

fn property(key: &Key, shape: &Shape, from_file: bool) -> Value {
    if key.doc.trim().starts_with("Ignored") {
        return json!({"description": key.doc.trim(), "deprecated": true});
    }
    let format = if from_file { None } else { format_of(key.name) };
    let value = value(shape, format);
    let mut property = match key.required {
        true => json!({"allOf": [value, {"not": {"enum": [null, "", []]}}]}),
        false => json!({"anyOf": [value, unset()]}),
    };
    let needs_restart = if key.needs_restart {
        " Taken at the next start."
    } else {
        ""
    };
    let doc = match from_file {
        true => format!("The file that has {}.", key.name),
        false => format!("{}{needs_restart}", key.doc.trim()),
    };
    if let Some(property) = property.as_object_mut() {
        property.insert("description".to_owned(), json!(doc));
        if !key.default.is_empty() && !key.required && !from_file {
            property.insert("default".to_owned(), default(key));
        }
    }
    property
}

/// The default as in a file.
fn default(key: &Key) -> Value {
    let text = key.default;
    match key.shape {
        Shape::Number(..) => text
            .parse::<u64>()
            .map_or_else(|_| json!(text), Value::from),
        Shape::Bool => json!(text == "true"),
        Shape::List(Split::Commas, _) if text.contains(',') => {
            text.split(',').map(str::trim).map(Value::from).collect()
        }
        _ if text == "false" => json!(false),
        _ if text == "0" => json!(0),
        _ => json!(text),
    }
}

fn value(shape: &Shape, format: Option<&Format>) -> Value {
    match shape {
        Shape::Text => match format {
            Some(format) => format.schema(),
            // Numbers and words such as true are accepted as texts.
            None => json!({"type": ["string", "number", "boolean"]}),
        },
        Shape::Words(words) => json!({"enum": words}),
        Shape::Bool => json!({"anyOf": [
            {"type": "boolean"},
            {"type": "string", "pattern": whole(BOOL)},
        ]}),
        Shape::Number(low, high) => json!({"anyOf": [
            {"type": "integer", "minimum": low, "maximum": high},
            {"type": "string", "pattern": whole(if *low == 0 { "0|[1-9][0-9]*" } else { "[1-9][0-9]*" })},
        ]}),
        Shape::Duration => json!({"anyOf": [
            {"type": "string", "pattern": whole(DURATION)},
            {"const": 0},
        ]}),
        Shape::List(Split::Commas, of) => {
            let array = json!({"type": "array", "items": value(of, format)});
            match in_commas(of, format) {
                Some(text) => json!({"anyOf": [array, text]}),
                None => array,
            }
        }
        Shape::List(Split::Semicolons, of) => json!({"anyOf": [
            {"type": "array", "items": value(of, format)},
            value(of, format),
        ]}),
        Shape::Map(table) => json!({"$ref": format!("#/$defs/{table}")}),
        Shape::Texts => json!({
            "type": "object",
            "additionalProperties": value(&Shape::Text, None),
        }),
        Shape::Either(one, other) => {
            json!({"anyOf": [value(one, format), value(other, format)]})
        }
    }
}

/// A list as one text; None: its items are maps.
fn in_commas(of: &Shape, format: Option<&Format>) -> Option<Value> {
    let item = match of {
        Shape::Text => match format {
            Some(format) => format.pattern.to_owned(),
            None => return Some(value(of, None)),
        },
        Shape::Words(words) => words.join("|"),
        Shape::Either(Shape::Words(words), Shape::Text) => {
            let text = format.map_or(".*", |format| format.pattern);
            format!("{}|{text}", words.join("|"))
        }
        _ => return None,
    };
    let item = format!("({item})?");
    let list = format!("\\s*{item}\\s*([,\\n]\\s*{item}\\s*)*");
    let list = json!({"type": "string", "pattern": whole(&list)});
    Some(match format.map(|format| format.numbers) {
        None | Some(Numbers::No) => list,
        Some(_) => json!({"anyOf": [list, value(of, format)]}),
    })
}

fn whole(pattern: &str) -> String {
    format!("^({pattern})$")
}

/// The pattern of a key's text, beyond its shape.
fn format_of(key: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.keys.contains(&key))
}

/// YAML 1.1's words (`schema/kinds.rs`); a reader of YAML 1.2 has them as texts.
const BOOL: &str =
    "[Tt][Rr][Uu][Ee]|[Yy][Ee][Ss]|[Oo][Nn]|[Yy]|[Ff][Aa][Ll][Ss][Ee]|[Nn][Oo]|[Oo][Ff][Ff]|[Nn]";
/// Go's `time.ParseDuration`, not negative.
const DURATION: &str = "0|(([0-9]+\\.?[0-9]*|\\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+";

/// The pattern of a text, and the numbers accepted as one: YAML reads `514` as a number.
struct Format {
    keys: &'static [&'static str],
    pattern: &'static str,
    numbers: Numbers,
}

#[derive(Clone, Copy)]
enum Numbers {
    No,
    /// Any, and true and false.
    Any,
    /// From the first to the second, both included.
    Within(u32, u32),
}

const fn format(keys: &'static [&'static str], pattern: &'static str) -> Format {
    let numbers = Numbers::No;
    Format {
        keys,
        pattern,
        numbers,
    }
}

impl Format {
    const fn or(self, numbers: Numbers) -> Self {
        Self { numbers, ..self }
    }

    fn schema(&self) -> Value {
        let pattern = whole(self.pattern);
        match self.numbers {
            Numbers::No => json!({"type": "string", "pattern": pattern}),
            Numbers::Any => json!({"type": ["string", "number", "boolean"], "pattern": pattern}),
            Numbers::Within(low, high) => json!({
                "type": ["string", "number"],
                "pattern": pattern,
                "minimum": low,
                "maximum": high,
            }),
        }
    }
}

macro_rules! ipv4 {
    () => {
        "[0-9]{1,3}(\\.[0-9]{1,3}){3}"
    };
}

macro_rules! ipv6 {
    () => {
        "[0-9A-Fa-f]{0,4}(:[0-9A-Fa-f]{0,4}){2,7}((\\.[0-9]{1,3}){3})?"
    };
}

macro_rules! prefix {
    () => {
        concat!("(", ipv4!(), "|", ipv6!(), ")/[0-9]{1,3}")
    };
}

macro_rules! socket {
    () => {
        concat!("(localhost|", ipv4!(), "|\\[", ipv6!(), "\\])?:[0-9]{1,5}")
    };
}

const FORMATS: &[Format] = &[
    format(&["local_as", "peer_as"], "0*[1-9][0-9]*|[0-9]+\\.[0-9]+")
        .or(Numbers::Within(1, u32::MAX)),
    format(&["router_id", "next_hop"], ipv4!()),
    format(&["next_hop6"], ipv6!()),
    format(&["local_ip"], concat!(ipv4!(), "|", ipv6!())),
    format(
        &["peer_ip"],
        concat!(
            ipv4!(),
            "|",
            ipv6!(),
            "(%[^/:%\\s]{1,15})?|%[^/:%\\s]{1,15}"
        ),
    ),
    format(&["vip", "api_allow", "allowed_vips"], prefix!()),
    format(&["nats"], "(tcp|udp):[0-9]+(:[0-9]+)?"),
    format(
        &["bgp_communities"],
        "[0-9]+:[0-9]+|[A-Za-z]+[-_][A-Za-z_-]+|[Bb][Ll][Aa][Cc][Kk][Hh][Oo][Ll][Ee]",
    ),
    format(&["large_communities"], "[0-9]+:[0-9]+:[0-9]+"),
    format(
        &["ext_communities"],
        "([Rr][Tt]|[Ss][Oo][Oo]):[0-9.]+:[0-9]+|0x[0-9A-Fa-f]{16}",
    ),
    format(&["origin"], "igp|egp|incomplete|unknown"),
    format(&["vip_presence"], "healthy|always"),
    format(&["drain_wait"], "traffic|fixed"),
    format(&["accept_queue"], "warn|fail|ignore"),
    format(&["allow_exec"], "config|env|consul|http|none"),
    format(&["flap_limit"], "[0-9]+/[0-9.]+[a-zµμ0-9.]*"),
    format(&["consul_addr"], "(https?://|unix:).+"),
    format(&["instance"], "[A-Za-z0-9_]+").or(Numbers::Any),
    format(&["vip_interface"], "[^/:%\\s]{1,15}").or(Numbers::Any),
    format(&["status"], "[1-5]xx|[1-5][0-9]{2}(-[1-5][0-9]{2})?").or(Numbers::Within(100, 599)),
    format(&["rcode"], "[0-9]{1,2}|[A-Za-z]{5,}").or(Numbers::Within(0, 15)),
    format(
        &["monitor", "monitors"],
        "port:(tcp|udp):[0-9]+|exec:[\\s\\S]+|consul|tcp:.+:[0-9]+|https?://.+|dns:.+|heartbeat:.+",
    ),
    format(
        &["listen_addr", "metrics_addr"],
        concat!("off|unix:/.+|", socket!()),
    ),
    format(&["listen"], socket!()),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_a_file_has_its_property() {
        let schema = schema();
        let mut count = 0;
        for table in TABLES {
            let def = &schema["$defs"][table.name];
            let object = if def["anyOf"].is_array() {
                &def["anyOf"][0]
            } else {
                def
            };
            for key in (table.keys)()
                .into_iter()
                .filter(|key| key.scope & FILE != 0)
            {
                for name in key.names_in(table.name) {
                    let property = &object["properties"][name];
                    assert!(
                        property["description"].is_string(),
                        "{}: {name}",
                        table.name
                    );
                    count += 1;
                }
            }
        }
        assert!(count > 100, "{count}");
    }

    #[test]
    fn every_format_is_of_a_key() {
        let known = |name: &str| {
            let mut tables = TABLES.iter();
            tables.any(|table| (table.keys)().iter().any(|key| key.name == name))
        };
        for name in FORMATS.iter().flat_map(|format| format.keys) {
            assert!(known(name), "{name}");
        }
    }

    #[test]
    fn what_is_referred_to_is_there() {
        let text = render();
        let schema = schema();
        let mut seen = 0;
        for rest in text.split("\"#/$defs/").skip(1) {
            let name = rest.split('"').next().unwrap();
            assert!(schema["$defs"][name].is_object(), "{name}");
            seen += 1;
        }
        assert!(seen > 5, "{seen}");
    }
}
