//! One monitor, as a string or as a map.

use std::mem::swap;
use std::time::Duration;

use crate::app::{AcceptQueue, ExecCommand, Monitor, MonitorSpec, Rcode, StatusRanges, Timing};
use crate::schema::kinds::{
    Bool, MASK, Opt, Parsed, Quoted, Text, Validate, ensure, list, parsed, quoted,
};
use crate::schema::tree::{Node, Place, Tree};
use crate::schema::{
    Context, Fields, Flatten, Kind, Line, Section, Shape, Split, ValueAt, shown, yaml,
};
use crate::section;

section! {
    /// The keys of a monitor that is a map.
    pub struct MonitorKeys {
        /// The string form: `port:tcp:80`, `http://127.0.0.1/`…
        monitor: Opt<Quoted<MonitorSpec>>;
        /// In place of `monitor`: a command for a shell, or a list of a program and its arguments.
        exec: Opt<ExecCommand>;
        /// Label in metrics and `/apps`.
        name: Opt<Name>;
        /// Overrides the app's.
        timing: Flatten<Timing>;
        /// What a full accept queue means for a port: `warn`, `fail` or `ignore`.
        accept_queue: Parsed<AcceptQueue>, default = "warn", only_for = "port";
        /// Accepted status of http: `200`, `2xx`, ranges, several; default: 2xx and 3xx.
        status: StatusRanges, default = "200-399", only_for = "http";
        /// Text that the body of http must contain.
        contains: Opt<Text>, only_for = "http";
        /// Headers sent with http.
        headers: Headers, only_for = "http";
        /// The certificate of https is not verified.
        insecure: Bool, default = "false", only_for = "http";
        /// The DNS RCODE that passes, instead of NOERROR with an answer.
        rcode: Opt<Parsed<Rcode>>, only_for = "dns";
    }
}

/// A monitor as written, before the app's timing is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorEntry {
    pub spec: MonitorSpec,
    pub name: Option<String>,
    timing: Timing,
}

impl MonitorEntry {
    /// With the app's timing, and the agent's interval, where it has none of its own.
    pub fn monitor(&self, app: &Timing, interval: Duration) -> Monitor {
        let own = &self.timing;
        let interval = own.interval.or(app.interval).unwrap_or(interval);
        let patience = match self.spec {
            MonitorSpec::Exec(_) => interval,
            _ => interval.min(Duration::from_secs(2)),
        };
        Monitor {
            spec: self.spec.clone(),
            name: self.name.clone(),
            interval,
            timeout: own.timeout.or(app.timeout).unwrap_or(patience),
            rise: own.rise.or(app.rise).unwrap_or(1),
            fall: own.fall.or(app.fall).unwrap_or(1),
            fast_interval: own.fast_interval.or(app.fast_interval),
        }
    }
}

impl Kind for MonitorEntry {
    type Value = Self;
    const SHAPE: Shape = Shape::Either(&Shape::Text, &Shape::Map("monitors"));

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self {
            spec: parsed(text)?,
            name: None,
            timing: Timing::default(),
        })
    }

    fn write(_: &Self) -> Option<String> {
        None
    }

    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Self> {
        let braces = in_braces(cx, at)?;
        let node = braces.as_ref().unwrap_or(&at.node);
        let read = match &node.tree {
            Tree::Map(_) => return from_map(cx, &at.path, node),
            Tree::Scalar(text) => Self::parse(text),
            _ => Err("should be a monitor such as port:tcp:80".to_owned()),
        };
        let report = |message| cx.problem(&at.place, &at.path, &shown(&node.tree), message);
        read.map_err(report).ok()
    }
}

/// Reads an item in braces, in a variable, as a map. `None`: it is invalid, which was reported.
fn in_braces(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Option<Node>> {
    let text = at.node.text().filter(|text| text.starts_with('{'));
    let (Some(text), Place::Env(_)) = (text, &at.place) else {
        return Some(None);
    };
    let node = yaml::parse(text, &|_| at.place.clone());
    // The text is not shown: a header may be a secret.
    let report = |error: yaml::YamlError| cx.problem(&at.place, &at.path, "", error.message);
    node.map_err(report).ok().map(Some)
}

fn from_map(cx: &mut Context<'_>, path: &str, node: &Node) -> Option<MonitorEntry> {
    let f = &Fields::open(cx, path, Some(node), &MonitorKeys::keys());
    let mut keys = MonitorKeys::default();
    keys.read(cx, f);
    let mut spec = match (f.has("monitor"), f.has("exec")) {
        (true, false) => keys.monitor.take()?,
        (false, true) => MonitorSpec::Exec(keys.exec.take()?),
        (true, true) => {
            f.problem(cx, "exec", "replaces monitor: set one of them");
            return None;
        }
        (false, false) => {
            let message =
                "is missing: such as port:tcp:80 (or exec with a program and its arguments)";
            cx.problem(&f.place, &f.path("monitor"), "", message);
            return None;
        }
    };
    for key in MonitorKeys::keys() {
        if f.has(key.name) && !key.is_for(spec.kind()) {
            let message = format!("is only for {} monitors", key.only_for);
            f.problem(cx, key.name, message);
        }
    }
    swap_options(&mut spec, &mut keys);
    Some(MonitorEntry {
        spec,
        name: keys.name,
        timing: keys.timing,
    })
}

/// Swaps the options of one monitor kind between the monitor and its keys.
fn swap_options(spec: &mut MonitorSpec, keys: &mut MonitorKeys) {
    match spec {
        MonitorSpec::Port { accept_queue, .. } => swap(accept_queue, &mut keys.accept_queue),
        MonitorSpec::Http {
            status,
            contains,
            headers,
            insecure,
            ..
        } => {
            swap(status, &mut keys.status);
            swap(contains, &mut keys.contains);
            swap(headers, &mut keys.headers);
            swap(insecure, &mut keys.insecure);
        }
        MonitorSpec::Dns { rcode, .. } => swap(rcode, &mut keys.rcode),
        _ => {}
    }
}

/// The keys that describe a monitor.
pub(super) fn lines(monitor: &Monitor) -> Vec<Line> {
    let mut spec = monitor.spec.clone();
    let mut keys = MonitorKeys {
        name: monitor.name.clone(),
        timing: Timing {
            interval: Some(monitor.interval),
            timeout: Some(monitor.timeout),
            rise: Some(monitor.rise),
            fall: Some(monitor.fall),
            fast_interval: monitor.fast_interval,
        },
        ..MonitorKeys::default()
    };
    swap_options(&mut spec, &mut keys);
    match spec {
        MonitorSpec::Exec(command @ ExecCommand::Argv(_)) => keys.exec = Some(command),
        spec => keys.monitor = Some(spec),
    }
    let mut lines = keys.lines();
    lines.retain(|line| line.key.is_for(monitor.spec.kind()));
    lines
}

/// What a monitor may be called.
pub struct Name;

impl Validate for Name {
    type Of = Text;

    fn validate(name: &String) -> Result<(), String> {
        let fits = name.len() <= 100 && !name.contains(crate::text::needs_escape);
        ensure(fits, "should be a name of at most 100 bytes")
    }
}

/// One text for a shell, or a list: a program and its arguments.
impl Kind for ExecCommand {
    type Value = Self;
    const SHAPE: Shape = Shape::Either(&Shape::Text, &Shape::List(Split::Commas, &Shape::Text));

    fn parse(text: &str) -> Result<Self, String> {
        Self::shell(text).ok_or_else(|| {
            "should be a command, or a list of a program and its arguments".to_owned()
        })
    }

    fn write(command: &Self) -> Option<String> {
        match command {
            Self::Argv(words) => Some(list(words)),
            Self::Shell(text) => Some(quoted(text)),
        }
    }

    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Self> {
        let command = match &at.node.tree {
            Tree::List(items) => {
                let word = |item: &Node| match &item.tree {
                    Tree::Scalar(text) => Some(text.clone()),
                    _ => None,
                };
                let words: Option<Vec<String>> = items.iter().map(word).collect();
                words.and_then(Self::argv)
            }
            _ => at.node.text().and_then(Self::shell),
        };
        if command.is_none() {
            let message = "should be a command, or a list of a program and its arguments";
            cx.problem(&at.place, &at.path, "", message);
        }
        command
    }
}

/// One status, several, or ranges of them.
impl Kind for StatusRanges {
    type Value = Self;
    const SHAPE: Shape = Shape::List(Split::Commas, &Shape::Text);

    fn parse(text: &str) -> Result<Self, String> {
        parsed(text)
    }

    fn write(status: &Self) -> Option<String> {
        Some(quoted(status))
    }

    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Self> {
        let parts = at.items(cx, Split::Commas)?;
        let texts: Vec<&str> = parts.iter().filter_map(|item| item.node.text()).collect();
        let text = texts.join(",");
        let report = |message| cx.problem(&at.place, &at.path, &text, message);
        parsed(&text).map_err(report).ok()
    }
}

/// A map of names and values (RFC 9110 §5). Values may be secret, such as Authorization: they are never
/// shown.
pub struct Headers;

impl Kind for Headers {
    type Value = Vec<(String, String)>;
    const SHAPE: Shape = Shape::Texts;

    fn parse(_: &str) -> Result<Self::Value, String> {
        Ok(Vec::new())
    }

    fn write(headers: &Self::Value) -> Option<String> {
        let names = headers
            .iter()
            .map(|(name, _)| format!("{}: {MASK}", quoted(name)));
        let names: Vec<String> = names.collect();
        (!names.is_empty()).then(|| format!("{{{}}}", names.join(", ")))
    }

    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Self::Value> {
        let Tree::Map(entries) = &at.node.tree else {
            cx.problem(
                &at.place,
                &at.path,
                "",
                "should be a map of names and values",
            );
            return None;
        };
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let mut headers = Vec::new();
        for header in entries {
            let name = header.key.as_str();
            let value = header.node.text().unwrap_or_default();
            let clean = !value.chars().any(|c| c.is_control() && c != '\t');
            if !name.is_empty() && name.bytes().all(token) && clean {
                headers.push((name.to_owned(), value.to_owned()));
            } else {
                let message = "should be a header's name and a single line";
                cx.problem(&header.place, &at.path, name, message);
            }
        }
        Some(headers)
    }
}
