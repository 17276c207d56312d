//! All lines, in the order of the layers and not too many of each.

use std::fmt;

use serde_json::{Value, json};

use super::line::{Line, Mark, Topic};
use super::{Announcer, Case, Findings, apps, consul, host, peers};

/// The report of doctor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    lines: Vec<Line>,
}

/// How many lines of each kind there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub faults: usize,
    pub unknown: usize,
    pub ok: usize,
}

impl Report {
    /// Of what is known and what was looked at.
    pub fn new(case: &Case, findings: &Findings) -> Self {
        let mut lines = vec![Self::of_announcer(&case.announcer)];
        if case.reload_failed {
            lines.push(Line::fault(
                Topic::Configuration,
                "the last reload failed: the configuration before it holds",
                "sidecast check names what is wrong",
            ));
        }
        lines.push(host::capability(case, findings));
        lines.extend(host::kernel(case, findings));
        lines.extend(host::rp_filter(case, findings));
        lines.extend(no_peer(case));
        for peer in &case.peers {
            lines.push(peers::interface(case, peer));
            lines.push(peers::tcp(peer, findings));
            lines.extend(peers::speaker(case, peer, findings));
            lines.push(peers::session(peer));
        }
        lines.extend(left_out(Topic::Session, "peers", case.left_out.peers));
        for app in &case.apps {
            lines.push(apps::state(app));
            lines.extend(left_out(
                Topic::Vip,
                &format!("VIPs of {}", app.name),
                app.more_vips,
            ));
            let monitors = app.monitors.iter();
            lines.extend(monitors.map(|m| apps::monitor(case, app, m, findings)));
            for vip in &app.vips {
                lines.extend(apps::vip(case, app, vip, findings));
                lines.extend(apps::routes(case, app, vip));
                lines.extend(apps::path(vip));
            }
        }
        lines.extend(left_out(Topic::App, "apps", case.left_out.apps));
        lines.extend(consul::consul(case, findings));
        Self::of(lines)
    }

    /// Whether an announcer runs.
    pub fn of_announcer(announcer: &Announcer) -> Line {
        let topic = Topic::Sidecast;
        match announcer {
            Announcer::Runs => Line::ok(
                topic,
                concat!("version ", env!("CARGO_PKG_VERSION"), " runs"),
            ),
            Announcer::NotFound(why) => Line::unknown(
                topic,
                format!("no answer of an announcer: {why}"),
            )
            .then(
                "start it, or name its API with --addr; the lines below are of its configuration",
            ),
            Announcer::NoAnswer(why) => Line::fault(
                topic,
                why,
                "see what listens there, and the log of sidecast",
            ),
        }
    }

    /// Of these lines: by layer, and in each of them the worst where they are too many.
    pub fn of(mut lines: Vec<Line>) -> Self {
        lines.sort_by_key(|line| line.topic);
        let mut report = Vec::new();
        for layer in lines.chunk_by(|one, other| one.topic == other.topic) {
            bound(layer, &mut report);
        }
        Self { lines: report }
    }

    /// The same with these lines too.
    #[must_use]
    pub fn with(self, lines: impl IntoIterator<Item = Line>) -> Self {
        Self::of(self.lines.into_iter().chain(lines).collect())
    }

    /// The lines, in order.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The counts.
    pub fn summary(&self) -> Summary {
        let count = |mark| self.lines.iter().filter(|line| line.mark == mark).count();
        Summary {
            faults: count(Mark::Fault),
            unknown: count(Mark::Unknown),
            ok: count(Mark::Ok),
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        let line = |line: &Line| {
            json!({
                "mark": line.mark.as_str(),
                "topic": line.topic.as_str(),
                "text": line.text,
                "next": line.next,
            })
        };
        let lines: Vec<Value> = self.lines.iter().map(line).collect();
        let Summary {
            faults,
            unknown,
            ok,
        } = self.summary();
        json!({ "faults": faults, "unknown": unknown, "ok": ok, "lines": lines })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            faults,
            unknown,
            ok,
        } = self;
        let plural = if *faults == 1 { "" } else { "s" };
        write!(f, "{faults} fault{plural}, {unknown} unknown, {ok} ok")
    }
}

/// The worst lines of a layer, and how many more there are.
fn bound(layer: &[Line], report: &mut Vec<Line>) {
    if layer.len() <= MOST_LINES {
        report.extend_from_slice(layer);
        return;
    }
    let mut sorted = layer.to_vec();
    sorted.sort_by_key(|line| line.mark);
    let rest = sorted.split_off(MOST_LINES);
    report.extend(sorted);
    if let Some(first) = rest.first() {
        report.push(Line {
            text: format!("{} more lines are left out", rest.len()),
            next: Some("repair what is named, and ask again".to_owned()),
            ..first.clone()
        });
    }
}

fn no_peer(case: &Case) -> Option<Line> {
    let topic = Topic::Interface;
    if let Some(why) = &case.no_peer {
        return Some(Line::fault(
            topic,
            format!("no peer: {why}"),
            peers::remedy_of_obstacle(why),
        ));
    }
    let text = "no peer: the kernel's tables are not read yet";
    case.peers.is_empty().then(|| Line::unknown(topic, text))
}

/// A line for what was not looked at.
fn left_out(topic: Topic, what: &str, count: usize) -> Option<Line> {
    let text = format!("{count} more {what} were not looked at");
    let line = Line::unknown(topic, text).then("sidecast status shows all of them");
    (count > 0).then_some(line)
}

/// Lines of one layer.
const MOST_LINES: usize = 40;
