//! `sidecast status`: peers, apps, VIPs and monitors of the running announcer, as tables.

use std::io::Write;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::Failure;
use super::client::{ANSWER, CallError, Client};
use crate::text::misleads;
use crate::view::time::age;

/// 0: all is well; 1: something is down; 3: not reachable. With `watch` it goes on until it is
/// stopped or nobody reads it any more.
pub fn run(client: &Client, json: bool, watch: bool, out: &mut impl Write) -> Result<u8, Failure> {
    loop {
        let (text, code) = match fetch(client) {
            Ok(status) => (status.render(json), status.code()),
            Err(Trouble::Call(e)) if watch => (format!("{e}\n"), UNREACHABLE),
            Err(Trouble::Call(e)) => {
                let code = if e.is_unreachable() { UNREACHABLE } else { 1 };
                return Err(Failure {
                    code,
                    message: format!("sidecast: {e}"),
                });
            }
            Err(Trouble::Refused(failure)) => return Err(failure),
        };
        let screen = if watch && !json {
            format!("{CLEAR}{text}")
        } else {
            text
        };
        let written = out.write_all(screen.as_bytes()).and_then(|()| out.flush());
        if !watch || written.is_err() {
            return Ok(code);
        }
        thread::sleep(PERIOD);
    }
}

enum Trouble {
    Call(CallError),
    Refused(Failure),
}

/// What `/info` and `/apps` said.
struct Status {
    peers: Vec<Value>,
    apps: Vec<Value>,
}

fn fetch(client: &Client) -> Result<Status, Trouble> {
    let get = |path: &str| {
        let answer = client
            .call("GET", path, &[], ANSWER)
            .map_err(Trouble::Call)?;
        if !answer.is_ok() {
            return Err(Trouble::Refused(answer.into_failure()));
        }
        answer.json().ok_or_else(|| {
            Trouble::Refused(Failure::run(format!(
                "sidecast: {path} is not answered as sidecast does; --addr names another address"
            )))
        })
    };
    let list = |value: Value| match value {
        Value::Array(items) => items,
        _ => Vec::new(),
    };
    Ok(Status {
        apps: list(get("/apps")?),
        peers: list(get("/info")?["peers"].take()),
    })
}

impl Status {
    fn code(&self) -> u8 {
        let established = |p: &Value| p["state"]["session_state"] == 6;
        let up = |a: &Value| a["state"] == "up" && a["announced"] == true;
        let peers = !self.peers.is_empty() && self.peers.iter().all(established);
        u8::from(!(peers && self.apps.iter().all(up)))
    }

    fn render(&self, json: bool) -> String {
        if json {
            return format!("{}\n", json!({ "peers": self.peers, "apps": self.apps }));
        }
        let tables = [self.peers(), self.apps(), self.monitors()];
        let shown: Vec<String> = tables.into_iter().filter(|t| !t.is_empty()).collect();
        shown.join("\n")
    }

    fn peers(&self) -> String {
        let mut table = Table::new(&["PEER", "STATE", "FOR", "AS", "ROUTES", "WHY"]);
        for peer in &self.peers {
            let state = &peer["state"];
            let up = state["session_state"] == 6;
            table.row([
                text(&peer["name"]),
                text(&state["session_state_name"]),
                span(&state["age"]),
                match text(&state["peer_as"]).as_str() {
                    "0" => "any".to_owned(),
                    asn => asn.to_owned(),
                },
                text(&state["announced"]),
                if up {
                    String::new()
                } else {
                    text(&state["last_error"])
                },
            ]);
        }
        if self.peers.is_empty() {
            return "no peers: none is configured or found yet\n".to_owned();
        }
        table.render()
    }

    fn apps(&self) -> String {
        let mut table = Table::new(&["APP", "STATE", "FOR", "VIP", "ANNOUNCED", "WHY"]);
        for app in &self.apps {
            let mut first = true;
            for vip in app["vip_status"].as_array().into_iter().flatten() {
                let head = |value: String| if first { value } else { String::new() };
                let problem = text(&vip["problem"]);
                table.row([
                    head(text(&app["name"])),
                    head(text(&app["state"])),
                    head(span(&app["age"])),
                    text(&vip["vip"]),
                    if vip["announced"] == true {
                        "yes"
                    } else {
                        "no"
                    }
                    .to_owned(),
                    if problem.is_empty() {
                        head(text(&app["why"]))
                    } else {
                        problem
                    },
                ]);
                first = false;
            }
        }
        if self.apps.is_empty() {
            return "no apps: none is configured or registered\n".to_owned();
        }
        table.render()
    }

    fn monitors(&self) -> String {
        let mut table = Table::new(&["APP", "MONITOR", "RESULT", "AGE", "TOOK", "WHY"]);
        for app in &self.apps {
            for monitor in app["monitors"].as_array().into_iter().flatten() {
                let name = text(&monitor["name"]);
                let spec = text(&monitor["monitor"]);
                let result = text(&monitor["result"]);
                table.row([
                    text(&app["name"]),
                    if spec.contains(':') { spec } else { name },
                    if result.is_empty() {
                        "none yet".to_owned()
                    } else {
                        result
                    },
                    span(&monitor["age"]),
                    took(&monitor["duration"]),
                    text(&monitor["message"]),
                ]);
            }
        }
        if table.rows.is_empty() {
            return String::new();
        }
        table.render()
    }
}

/// A value as text. What came from a service's output must not reach the terminal as commands.
fn text(value: &Value) -> String {
    let raw = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    raw.chars()
        .map(|c| if misleads(c) { ' ' } else { c })
        .collect()
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

/// Columns as wide as their widest cell; the last one is as long as it is.
struct Table<const N: usize> {
    head: [&'static str; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    fn new(head: &[&'static str; N]) -> Self {
        Self {
            head: *head,
            rows: Vec::new(),
        }
    }

    fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    fn render(&self) -> String {
        let head = self.head.map(str::to_owned);
        let all: Vec<&[String; N]> = std::iter::once(&head).chain(&self.rows).collect();
        let mut widths = [0; N];
        for row in &all {
            for (width, cell) in widths.iter_mut().zip(row.iter()) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut out = String::new();
        for row in all {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(row) {
                let width = *width;
                line.push_str(&format!("{cell:<width$}  "));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

const CLEAR: &str = "\x1b[H\x1b[2J";
const PERIOD: Duration = Duration::from_secs(2);
const UNREACHABLE: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            peers: vec![json!({
                "name": "10.0.0.1",
                "state": {"session_state": 6, "session_state_name": "established", "age": 252.0,
                          "peer_as": 65000, "announced": 2, "last_error": "old"},
            })],
            apps: vec![json!({
                "name": "dns", "state": "up", "announced": true, "age": 3.5, "why": "all monitors pass",
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
PEER      STATE        FOR    AS     ROUTES  WHY
10.0.0.1  established  4m12s  65000  2

APP  STATE  FOR  VIP               ANNOUNCED  WHY
dns  up     3s   192.0.2.53/32     yes        all monitors pass
                 2001:db8::53/128  no         no next hop

APP  MONITOR      RESULT    AGE  TOOK  WHY
dns  port:udp:53  pass      0s   <1ms
dns  exec_1       none yet             a [2Jb
";
        assert_eq!(status().render(false), want);
    }

    #[test]
    fn the_exit_code_tells_what_is_down() {
        assert_eq!(status().code(), 0);
        let mut down = status();
        down.apps[0]["state"] = json!("draining");
        assert_eq!(down.code(), 1);
        let mut idle = status();
        idle.peers[0]["state"]["session_state"] = json!(3);
        assert_eq!(idle.code(), 1);
        let mut alone = status();
        alone.peers.clear();
        assert_eq!(alone.code(), 1, "without a peer nobody is told");
        let mut unheard = status();
        unheard.apps[0]["announced"] = json!(false);
        assert_eq!(unheard.code(), 1);
        assert!(idle.render(false).contains("old"));
    }

    #[test]
    fn an_empty_announcer_says_so() {
        let empty = Status {
            peers: Vec::new(),
            apps: Vec::new(),
        };
        assert!(empty.render(false).contains("no apps"));
        assert_eq!(empty.render(true), "{\"apps\":[],\"peers\":[]}\n");
    }
}
