//! `sidecast status`: peers, apps, VIPs and monitors of the running announcer, as tables, problems
//! first.

use std::io::Write;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{ANSWER_TIMEOUT, CallError, Client};
use super::color::{Color, Tone};
use super::command::StatusOptions;
use super::table::{Cell, Table};
use super::values::{items, text};
use super::{Failure, output, routes};
use crate::schema::nearest;
use crate::view::time::age;

/// 0: the verdict is ok; 1: it is another; 3: not reachable. With `watch` it goes on until it is
/// stopped or its output is closed.
pub fn run(
    client: &Client,
    options: &StatusOptions,
    color: Color,
    out: &mut impl Write,
) -> Result<u8, Failure> {
    loop {
        let (text, code) = match fetch(client).and_then(|status| status.of(options)) {
            Ok(status) => (status.render(options, color), status.code()),
            Err(StatusError::Call(e)) if options.watch => (format!("{e}\n"), UNREACHABLE),
            Err(StatusError::Call(e)) => {
                let code = if e.is_unreachable() { UNREACHABLE } else { 1 };
                return Err(Failure {
                    code,
                    message: format!("sidecast: {e}"),
                });
            }
            Err(StatusError::Refused(failure)) => return Err(failure),
        };
        let screen = if options.watch && !options.json {
            format!("{CLEAR}{text}")
        } else {
            text
        };
        let read = output::write(out, &screen)?;
        if !options.watch || !read {
            return Ok(code);
        }
        thread::sleep(PERIOD);
    }
}

enum StatusError {
    Call(CallError),
    Refused(Failure),
}

/// The answers of `/verdict`, `/info` and `/apps`.
struct Status {
    verdict: Value,
    peers: Vec<Value>,
    apps: Vec<Value>,
}

fn fetch(client: &Client) -> Result<Status, StatusError> {
    let get = |path: &str| {
        let answer = client
            .call("GET", path, &[], ANSWER_TIMEOUT)
            .map_err(StatusError::Call)?;
        if !answer.is_ok() {
            return Err(StatusError::Refused(answer.into_failure()));
        }
        answer.json().ok_or_else(|| {
            StatusError::Refused(Failure::run(format!(
                "sidecast: the answer to {path} is not sidecast's; --addr names another address"
            )))
        })
    };
    let list = |value: Value| match value {
        Value::Array(items) => items,
        _ => Vec::new(),
    };
    Ok(Status {
        verdict: get("/verdict")?,
        apps: list(get("/apps")?),
        peers: list(get("/info")?["peers"].take()),
    })
}

impl Status {
    /// The one app that was asked for.
    fn of(mut self, options: &StatusOptions) -> Result<Self, StatusError> {
        let Some(name) = &options.name else {
            return Ok(self);
        };
        let names: Vec<String> = self.apps.iter().map(|app| text(&app["name"])).collect();
        self.apps.retain(|app| app["name"] == name.as_str());
        if self.apps.is_empty() {
            let near = nearest(name, names.iter().map(String::as_str));
            let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            let message = format!("sidecast: no app `{name}`{near}");
            return Err(StatusError::Refused(Failure::run(message)));
        }
        self.verdict = verdict_of(&self.apps);
        Ok(self)
    }

    fn code(&self) -> u8 {
        u8::from(self.verdict["verdict"] != "ok")
    }

    fn render(&self, options: &StatusOptions, color: Color) -> String {
        let mut peers: Vec<&Value> = self.peers.iter().collect();
        let mut apps: Vec<&Value> = self.apps.iter().collect();
        if options.down {
            peers.retain(|peer| !established(peer));
            apps.retain(|app| rank(app) != Rank::Well);
        }
        if options.json {
            let all = json!({ "verdict": self.verdict, "peers": peers, "apps": apps });
            return format!("{all}\n");
        }
        // What is down comes first, by name.
        let (up, mut peers): (Vec<_>, Vec<_>) = peers.into_iter().partition(|p| established(p));
        peers.extend(up);
        apps.sort_by_key(|app| rank(app));
        let routes = apps.first().filter(|_| options.name.is_some());
        let tables = [
            self.peers(&peers, color),
            self.apps(&apps, color),
            routes.map_or_else(String::new, |app| routes::render(app)),
            paths(&apps, color),
            monitors(&apps, color),
        ];
        let tables = tables.into_iter().filter(|t| !t.is_empty());
        let mut shown: Vec<String> = [self.verdict()].into_iter().chain(tables).collect();
        if shown.len() == 1 {
            shown.push(format!(
                "nothing is down: {}, {}\n",
                counted(self.peers.len(), "peer"),
                counted(self.apps.len(), "app")
            ));
        }
        shown.join("\n")
    }

    /// The verdict's line, the other reasons and the warnings.
    fn verdict(&self) -> String {
        let mut report = format!("{}\n", text(&self.verdict["line"]));
        for reason in items(&self.verdict, "reasons").skip(1) {
            report += &format!("  {}\n", text(&reason["text"]));
        }
        for warning in items(&self.verdict, "warnings") {
            report += &format!("warning: {}\n", text(warning));
        }
        report
    }

    fn peers(&self, peers: &[&Value], color: Color) -> String {
        if self.peers.is_empty() {
            return match text(&self.verdict["no_peer"]) {
                none if none.is_empty() => "no peers: none is configured\n".to_owned(),
                why => format!("no peers: {why}\n"),
            };
        }
        let mut table = Table::new(&["PEER", "STATE", "FOR", "AS", "ROUTES", "WHY"]);
        for peer in peers {
            let state = &peer["state"];
            let up = established(peer);
            let tone = if up { Tone::Good } else { Tone::Bad };
            table.row([
                text(&peer["name"]).into(),
                Cell::new(text(&state["session_state_name"]), tone),
                span(&state["age"]).into(),
                match text(&state["peer_as"]).as_str() {
                    "0" => "any".into(),
                    asn => asn.into(),
                },
                text(&state["announced"]).into(),
                if up {
                    Cell::default()
                } else {
                    text(&state["last_error"]).into()
                },
            ]);
        }
        if table.is_empty() {
            return String::new();
        }
        table.render(color)
    }

    fn apps(&self, apps: &[&Value], color: Color) -> String {
        if self.apps.is_empty() {
            return "no apps: none is configured or registered\n".to_owned();
        }
        let mut table = Table::new(&["APP", "STATE", "FOR", "VIP", "ANNOUNCED", "WHY"]);
        for app in apps {
            let tone = rank(app).tone();
            for (index, vip) in items(app, "vip_status").enumerate() {
                let head = |value: String| if index == 0 { value } else { String::new() };
                let problem = text(&vip["problem"]);
                let (announced, spoken) = match vip["announced"] == true {
                    true if app["last_resort"] == true => (last_resort(app), Tone::Bad),
                    true => ("yes".to_owned(), Tone::Good),
                    false if tone == Tone::Good => ("no".to_owned(), Tone::Bad),
                    false => ("no".to_owned(), tone),
                };
                table.row([
                    head(text(&app["name"])).into(),
                    Cell::new(head(text(&app["state"])), tone),
                    head(span(&app["age"])).into(),
                    text(&vip["vip"]).into(),
                    Cell::new(announced, spoken),
                    if problem.is_empty() {
                        head(why(app)).into()
                    } else {
                        problem.into()
                    },
                ]);
            }
        }
        if table.is_empty() {
            return String::new();
        }
        table.render(color)
    }
}

/// The verdict on the one app that was requested.
fn verdict_of(apps: &[Value]) -> Value {
    let app = apps.first().unwrap_or(&Value::Null);
    let verdict = text(&app["verdict"]);
    let line = match text(&app["reasons"][0]["text"]) {
        none if none.is_empty() => {
            let (name, state) = (text(&app["name"]), text(&app["state"]));
            format!("{verdict}: app {name} is {state}")
        }
        first => format!("{verdict}: {first}"),
    };
    json!({ "verdict": verdict, "line": line, "reasons": app["reasons"] })
}

/// The reason of the app's state; for a drain also who requested it, and when.
fn why(app: &Value) -> String {
    let why = text(&app["why"]);
    let drain = &app["drain"];
    match (text(&drain["since"]), text(&drain["by"])) {
        (since, _) if since.is_empty() => why,
        (since, by) if why.contains(&by) => format!("{why}, since {since}"),
        (since, by) => format!("{why}: {by}, since {since}"),
    }
}

/// Since when it has been announced although it is down.
fn last_resort(app: &Value) -> String {
    format!("last resort since {}", text(&app["last_resort_since"]))
}

/// The path proof of each VIP and peer.
fn paths(apps: &[&Value], color: Color) -> String {
    let mut table = Table::new(&["VIP", "PEER", "PATH"]);
    for vip in apps.iter().flat_map(|app| items(app, "vip_status")) {
        for path in items(vip, "paths") {
            let proof = text(&path["proof"]);
            let proof = match path["state"].as_str() {
                Some("yes" | "partly") => Cell::new(proof, Tone::Good),
                Some("no") => Cell::new(proof, Tone::Bad),
                Some("unknown") => proof.into(),
                _ => Cell::new(proof, Tone::Warn),
            };
            table.row([text(&vip["vip"]).into(), text(&path["peer"]).into(), proof]);
        }
    }
    if table.is_empty() {
        return String::new();
    }
    table.render(color)
}

fn monitors(apps: &[&Value], color: Color) -> String {
    let mut table = Table::new(&["APP", "MONITOR", "RESULT", "AGE", "TOOK", "WHY"]);
    for app in apps {
        let mut monitors: Vec<&Value> = items(app, "monitors").collect();
        monitors.sort_by_key(|monitor| match monitor["result"].as_str() {
            Some("fail") => 0,
            Some("unavailable") => 1,
            _ => 2,
        });
        for monitor in monitors {
            let name = text(&monitor["name"]);
            let spec = text(&monitor["monitor"]);
            let (result, tone) = match text(&monitor["result"]).as_str() {
                "" => ("none yet".to_owned(), Tone::Warn),
                "pass" => ("pass".to_owned(), Tone::Good),
                "fail" => ("fail".to_owned(), Tone::Bad),
                other => (other.to_owned(), Tone::Warn),
            };
            table.row([
                text(&app["name"]).into(),
                if spec.contains(':') { spec } else { name }.into(),
                Cell::new(result, tone),
                span(&monitor["age"]).into(),
                took(&monitor["duration"]).into(),
                text(&monitor["message"]).into(),
            ]);
        }
    }
    if table.is_empty() {
        return String::new();
    }
    table.render(color)
}

fn established(peer: &Value) -> bool {
    peer["state"]["session_state"] == 6
}

/// The severity of an app's state, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Should be announced and is not.
    Failing,
    /// Announced in part, or not yet.
    Degraded,
    /// Drained or in maintenance.
    TakenAway,
    Well,
}

impl Rank {
    fn tone(self) -> Tone {
        match self {
            Self::Failing => Tone::Bad,
            Self::Degraded | Self::TakenAway => Tone::Warn,
            Self::Well => Tone::Good,
        }
    }
}

/// By the app's own verdict, and by its state where that says more.
fn rank(app: &Value) -> Rank {
    let is_up = app["state"] == "up";
    match app["verdict"].as_str() {
        Some("failing") => Rank::Failing,
        Some("degraded") => Rank::Degraded,
        _ if is_up => Rank::Well,
        _ if app["state"] == "pending" => Rank::Degraded,
        _ => Rank::TakenAway,
    }
}

/// `1 app`, `2 apps`.
pub(super) fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

fn span(value: &Value) -> String {
    seconds(value).map_or_else(String::new, age)
}

fn took(value: &Value) -> String {
    match seconds(value) {
        None => String::new(),
        Some(took) if took < Duration::from_millis(1) => "<1ms".to_owned(),
        Some(took) if took < Duration::from_secs(1) => format!("{}ms", took.as_millis()),
        Some(took) => format!("{:.1}s", took.as_secs_f64()),
    }
}

fn seconds(value: &Value) -> Option<Duration> {
    Duration::try_from_secs_f64(value.as_f64()?).ok()
}

const CLEAR: &str = "\x1b[H\x1b[2J";
const PERIOD: Duration = Duration::from_secs(2);
const UNREACHABLE: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            verdict: json!({
                "verdict": "degraded", "line": "degraded: app dns: no next hop (and 1 more)",
                "reasons": [{"text": "app dns: no next hop"}, {"text": "peer 10.0.0.2: active"}],
                "warnings": ["open to all"],
            }),
            peers: vec![json!({
                "name": "10.0.0.1",
                "state": {"session_state": 6, "session_state_name": "established", "age": 252.0,
                          "peer_as": 65000, "announced": 2, "last_error": "old"},
            })],
            apps: vec![json!({
                "name": "dns", "state": "up", "announced": true, "age": 3.5, "why": "all monitors pass",
                "verdict": "degraded",
                "vip_status": [
                    {"vip": "192.0.2.53/32", "announced": true, "problem": null},
                    {"vip": "2001:db8::53/128", "announced": false, "problem": "no next hop"},
                ],
                "monitors": [
                    {"name": "port_0", "monitor": "port:udp:53", "result": "pass", "age": 0.4,
                     "duration": 0.0004, "message": ""},
                    {"name": "exec_1", "monitor": "exec", "result": null, "age": null,
                     "duration": null, "message": "a\u{1b}[2Jb"},
                ],
            })],
        }
    }

    #[test]
    fn a_table_says_it_all() {
        let want = "\
degraded: app dns: no next hop (and 1 more)
  peer 10.0.0.2: active
warning: open to all

PEER      STATE        FOR    AS     ROUTES  WHY
10.0.0.1  established  4m12s  65000  2

APP  STATE  FOR  VIP               ANNOUNCED  WHY
dns  up     3s   192.0.2.53/32     yes        all monitors pass
                 2001:db8::53/128  no         no next hop

APP  MONITOR      RESULT    AGE  TOOK  WHY
dns  port:udp:53  pass      0s   <1ms
dns  exec_1       none yet             a [2Jb
";
        assert_eq!(status().render(&StatusOptions::default(), Color::OFF), want);
    }

    #[test]
    fn the_path_of_each_vip_by_each_peer_has_a_line() {
        let mut status = status();
        status.apps[0]["vip_status"][0]["paths"] = json!([
            {"peer": "10.0.0.1", "state": "yes", "proof": "yes (16/16)"},
            {"peer": "10.0.0.9", "state": "no", "proof": "no (0/16: 10.0.0.9 says no route)"},
        ]);
        let want = "
VIP            PEER      PATH
192.0.2.53/32  10.0.0.1  yes (16/16)
192.0.2.53/32  10.0.0.9  no (0/16: 10.0.0.9 says no route)

APP  MONITOR";
        let shown = status.render(&StatusOptions::default(), Color::OFF);
        assert!(shown.contains(want), "{shown}");
    }

    #[test]
    fn the_exit_code_is_the_verdicts() {
        for (verdict, code) in [("ok", 0), ("starting", 1), ("degraded", 1), ("failing", 1)] {
            let mut status = status();
            status.verdict["verdict"] = json!(verdict);
            assert_eq!(status.code(), code, "{verdict}");
        }
    }

    #[test]
    fn an_empty_announcer_says_so() {
        let empty = Status {
            verdict: json!({"line": "degraded", "no_peer": "no default gateway"}),
            peers: Vec::new(),
            apps: Vec::new(),
        };
        assert!(
            empty
                .render(&StatusOptions::default(), Color::OFF)
                .contains("no apps")
        );
        let json = StatusOptions {
            json: true,
            ..StatusOptions::default()
        };
        let shown = empty.render(&StatusOptions::default(), Color::OFF);
        assert!(shown.contains("no peers: no default gateway\n"), "{shown}");
        let all: Value = serde_json::from_str(&empty.render(&json, Color::OFF)).unwrap();
        assert_eq!((&all["apps"], &all["peers"]), (&json!([]), &json!([])));
    }

    fn app(name: &str, state: &str, announced: bool) -> Value {
        let verdict = match state {
            "drained" => "ok",
            "held_down" => "degraded",
            _ if announced => "ok",
            _ => "failing",
        };
        json!({
            "name": name, "state": state, "announced": announced, "age": 1, "why": "",
            "verdict": verdict, "reasons": [],
            "vip_status": [{"vip": "192.0.2.1/32", "announced": announced, "problem": null}],
            "monitors": [
                {"name": "a", "monitor": "port:tcp:1", "result": "pass", "message": ""},
                {"name": "b", "monitor": "port:tcp:2",
                 "result": if announced { "pass" } else { "fail" }, "message": ""},
            ],
        })
    }

    fn several() -> Status {
        let mut status = status();
        status.apps = vec![
            app("well", "up", true),
            app("away", "drained", false),
            app("held", "held_down", false),
            app("dead", "down", false),
            app("unheard", "up", false),
        ];
        let mut idle = status.peers[0].clone();
        idle["name"] = json!("10.0.0.9");
        idle["state"]["session_state"] = json!(1);
        status.peers.push(idle);
        status
    }

    /// The first words of the lines of a table.
    fn column(text: &str, table: usize) -> Vec<&str> {
        // Behind the verdict.
        let table = text.split("\n\n").nth(table + 1).unwrap_or_default();
        let lines = table.lines().skip(1);
        lines
            .filter_map(|line| line.split_whitespace().next())
            .collect()
    }

    #[test]
    fn what_is_wrong_stands_first() {
        let text = several().render(&StatusOptions::default(), Color::OFF);
        assert_eq!(column(&text, 0), ["10.0.0.9", "10.0.0.1"]);
        assert_eq!(
            column(&text, 1),
            ["dead", "unheard", "held", "away", "well"]
        );
        let monitors = text.lines().filter(|line| line.contains("port:"));
        let first = monitors.take(2).map(|line| line.split_whitespace().nth(1));
        assert_eq!(
            first.collect::<Vec<_>>(),
            [Some("port:tcp:2"), Some("port:tcp:1")],
            "{text}"
        );
    }

    #[test]
    fn down_leaves_out_what_is_well() {
        let options = StatusOptions {
            down: true,
            ..StatusOptions::default()
        };
        let text = several().render(&options, Color::OFF);
        assert_eq!(column(&text, 0), ["10.0.0.9"]);
        assert_eq!(column(&text, 1), ["dead", "unheard", "held", "away"]);
        assert!(!text.contains("well"), "{text}");
        let mut well = several();
        well.apps.truncate(1);
        well.peers.truncate(1);
        assert_eq!(
            well.render(&options, Color::OFF).split("\n\n").nth(1),
            Some("nothing is down: 1 peer, 1 app\n")
        );
        well.apps = status().apps;
        let partly = well.render(&options, Color::OFF);
        assert!(
            partly.contains("no next hop"),
            "one VIP of two is missing: {partly}"
        );
        let json = StatusOptions {
            json: true,
            ..options
        };
        let value: Value = serde_json::from_str(&several().render(&json, Color::OFF)).unwrap();
        assert_eq!(value["apps"].as_array().unwrap().len(), 4);
        assert_eq!(value["apps"][0]["name"], "away", "JSON keeps its order");
    }

    #[test]
    fn one_app_is_found_by_its_name() {
        let named = |name: &str| {
            let name = Some(name.to_owned());
            several().of(&StatusOptions {
                name,
                ..StatusOptions::default()
            })
        };
        let one = named("well").ok().unwrap();
        assert_eq!(
            (one.apps.len(), one.apps[0]["name"].as_str()),
            (1, Some("well"))
        );
        assert_eq!(one.verdict["line"], "ok: app well is up");
        assert_eq!(one.code(), 0, "whatever the others are");
        let Err(StatusError::Refused(failure)) = named("wel") else {
            panic!("there is none");
        };
        assert_eq!(
            failure.message,
            "sidecast: no app `wel`; did you mean `well`?"
        );
        assert_eq!(failure.code, 1);
    }

    #[test]
    fn on_a_terminal_states_have_colors() {
        let text = several().render(&StatusOptions::default(), Color::ON);
        assert!(text.contains("\x1b[1;31mdown\x1b[0m"), "{text:?}");
        assert!(text.contains("\x1b[33mdrained\x1b[0m"), "{text:?}");
        assert!(text.contains("\x1b[32mestablished\x1b[0m"), "{text:?}");
    }
}
