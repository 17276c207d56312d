//! One app: a line that expands to its details.

use std::time::{Instant, SystemTime};

use super::frame::step;
use super::markup::Markup;
use super::selection::Kind;
use super::{Tone, count, mark, tag};
use crate::core::{AppState, AppView, HistoryEvent, MonitorView, PathView, RouteView, VipView};
use crate::health::Outcome;
use crate::view::json::shown_spec;
use crate::view::time::{age, rfc3339};
use crate::view::verdict::{Condition, Level, Reason};

/// An app and how it stands, with its last transitions, the newest first; `open` to begin with.
pub fn app<'a>(
    page: &mut Markup,
    view: &AppView,
    standing: &(Level, Vec<Reason>),
    changes: impl IntoIterator<Item = &'a HistoryEvent>,
    (now, wall): (Instant, SystemTime),
    open: bool,
) {
    let (_, reasons) = standing;
    let worst = reasons.first().map(|worst| (worst.level, worst.condition));
    let kind = Kind::new(view.state, worst);
    page.raw("<li data-key=\"").text(&view.name).raw("\">");
    page.raw(if open { "<details open>" } else { "<details>" });
    let healthy = kind == Kind::Up && view.announced;
    // A peer without a session has a line of its own, and need not be repeated for each app.
    let by_peer = |reason: &Reason| reason.condition == Condition::SomePeers;
    let short = healthy || (kind == Kind::InPart && reasons.iter().all(by_peer));
    page.raw(match (healthy, short) {
        (true, _) => "<summary class=\"row short healthy\">",
        (false, true) => "<summary class=\"row short\">",
        (false, false) => "<summary class=row>",
    });
    page.raw(mark(kind.into()));
    name_and_vips(page, view);
    match view.last_resort {
        Some(_) => tag(page, Tone::Bad, "last resort"),
        None => tag(page, kind.into(), kind.as_str()),
    }
    page.raw("<span class=num>")
        .text(age(view.since))
        .raw("</span>");
    let why = reasons.first().filter(|_| view.state == AppState::Up);
    if !short {
        let why = why.map_or(&*view.why, |reason| &reason.text);
        page.raw("<span class=why>").name(why).raw("</span>");
    }
    page.raw("</summary>\n<div class=detail>");
    facts(page, view, wall);
    page.raw("<h3>Announced</h3><ul>");
    for vip in &view.vips {
        one_vip(page, vip);
    }
    page.raw("</ul>");
    if !view.monitors.is_empty() {
        page.raw("<h3>Monitors</h3><ul>");
        for monitor in &view.monitors {
            one_monitor(page, monitor);
        }
        page.raw("</ul>");
    }
    nats(page, view);
    history(page, changes, now);
    page.raw("</div></details></li>\n");
}

/// Its name, its first VIP and how many more there are.
fn name_and_vips(page: &mut Markup, view: &AppView) {
    page.raw("<span class=name>")
        .name(&view.name)
        .raw("</span><span class=mid>");
    if let Some(vip) = view.vips.first() {
        page.raw("<code>").text(vip.prefix).raw("</code>");
    }
    if view.vips.len() > 1 {
        page.raw(" +").text(view.vips.len() - 1);
    }
    page.raw("</span>");
}

/// The app's state, reason and source, in a sentence.
fn facts(page: &mut Markup, view: &AppView, wall: SystemTime) {
    page.raw("<p>").text(view.state.as_str().replace('_', " "));
    page.raw(" for ").text(age(view.since));
    page.raw(", ").name(&view.why);
    page.raw("; registered by ").text(view.source);
    list(page, "; announced to", &view.peers);
    if !view.peers.is_empty() {
        page.raw(" only");
    }
    if let Some(since) = view.last_resort {
        page.raw("; announced as a last resort for ")
            .text(age(since));
    }
    if let Some(drain) = &view.drain {
        page.raw("; requested by ");
        page.name(drain.by.as_deref().unwrap_or("an earlier process"));
        page.raw(" at ").text(rfc3339(drain.at(wall)));
    }
    if let Some(left) = view.held_for {
        page.raw("; held down for ").text(age(left)).raw(" more");
    }
    if view.flaps > 0 {
        let times = count(view.flaps, "time");
        page.raw("; announced again ")
            .text(times)
            .raw(" within the window of flap_limit");
    }
    if let Some(problem) = &view.maintenance_problem {
        page.raw("; maintenance file: ").name(problem);
    }
    page.raw("</p>");
}

/// A VIP, what was announced to each peer, and the peers without it.
fn one_vip(page: &mut Markup, vip: &VipView) {
    let refused = |path: &PathView| Tone::from(&path.proof.finding) == Tone::Bad;
    let tone = match (&vip.problem, vip.announced) {
        (None, true) if vip.paths.iter().any(refused) => Tone::Bad,
        (None, true) if vip.lacking.is_empty() => Tone::Good,
        (None, true) => Tone::Wait,
        (None, false) if !vip.wanted => Tone::Quiet,
        _ => Tone::Bad,
    };
    page.raw("<li class=row>")
        .raw(mark(tone))
        .raw("<span class=wide><code>");
    page.text(vip.prefix).raw("</code> ");
    page.raw(match (vip.announced, vip.wanted) {
        (true, _) => "announced",
        (false, true) => "not announced",
        (false, false) => "not to be announced",
    });
    if !vip.addressed && (vip.wanted || vip.announced) {
        page.raw(", the address is not on the host");
    }
    if vip.foreign {
        page.raw(", the address was added by another program");
    }
    page.raw("</span>");
    if let Some(problem) = &vip.problem {
        page.raw("<span class=\"why bad\">")
            .name(problem)
            .raw("</span>");
    }
    page.raw("</li>");
    for route in &vip.routes {
        one_route(page, route);
    }
    for path in &vip.paths {
        let tone = Tone::from(&path.proof.finding);
        page.raw("<li class=\"row sub\">").raw(mark(tone));
        page.raw("<span class=wide>path by ").name(&path.peer);
        page.raw(": ").text(&path.proof).raw("</span></li>");
    }
    for lack in &vip.lacking {
        page.raw("<li class=\"row sub\">").raw(mark(Tone::Bad));
        page.raw("<span class=wide>not to ").name(&lack.peer);
        page.raw(": ").text(lack.why).raw("</span></li>");
    }
}

/// A route, with its attributes as sent.
fn one_route(page: &mut Markup, route: &RouteView) {
    let sent = &route.attributes;
    page.raw(
        "<li class=\"row sub\"><span class=mark aria-hidden=true>→</span><span class=wide>to ",
    );
    page.name(&route.peer)
        .raw(": next hop ")
        .text(sent.next_hop);
    let path = sent.as_path.to_string();
    match path.as_str() {
        "" => page.raw(", empty AS path"),
        path => page.raw(", AS path ").text(path),
    };
    page.raw(", origin ").text(sent.origin);
    if let Some(med) = sent.med {
        page.raw(", MED ").text(med);
    }
    if let Some(local_pref) = sent.local_pref {
        page.raw(", local-pref ").text(local_pref);
    }
    list(page, ", communities", &sent.communities);
    list(page, ", large", &sent.large_communities);
    list(page, ", extended", &sent.ext_communities);
    page.raw("</span><span class=num>").text(age(route.since));
    page.raw(match route.acknowledged {
        true => ", acknowledged</span></li>",
        false => ", <strong>not acknowledged</strong></span></li>",
    });
}

fn list<T: ToString>(page: &mut Markup, name: &'static str, values: impl IntoIterator<Item = T>) {
    let mut before = name;
    for value in values {
        page.raw(before).raw(" ").text(value.to_string());
        before = "";
    }
}

fn one_monitor(page: &mut Markup, monitor: &MonitorView) {
    let tone = match &monitor.last {
        Some(Outcome::Pass(_)) => Tone::Good,
        Some(Outcome::Fail(_) | Outcome::NoListener(_) | Outcome::TakenOut(_)) => Tone::Bad,
        Some(Outcome::Unavailable(_)) | None => Tone::Wait,
    };
    // A kind alone says less than what the monitor is called.
    let label = match shown_spec(&monitor.spec) {
        kind if kind.contains(':') => kind,
        _ => &monitor.label,
    };
    page.raw("<li class=row>").raw(mark(tone));
    page.raw("<span class=wide><code>")
        .name(label)
        .raw("</code> ");
    match &monitor.last {
        Some(last) => page.name(last.message()),
        None => page.raw("not checked yet"),
    };
    page.raw("</span><span class=num>");
    if let Some(took) = monitor.took {
        let took = took.as_secs_f64() * 1000.0;
        page.text(format_args!("{took:.1} ms"));
    }
    if let Some(since) = monitor.age {
        page.raw(", ").text(age(since)).raw(" ago");
    }
    page.raw("</span></li>");
}

fn nats(page: &mut Markup, view: &AppView) {
    if view.nats.is_empty() {
        return;
    }
    page.raw("<h3>NAT</h3><ul>");
    for nat in &view.nats {
        page.raw("<li class=row><span class=mark aria-hidden=true>⇄</span>");
        page.raw("<span class=wide><code>").text(nat.spec);
        page.raw("</code></span><span class=num>");
        if let Some(counted) = nat.count {
            page.text(counted.packets)
                .raw(" flows, ")
                .text(counted.bytes);
            page.raw(" bytes");
        }
        page.raw("</span></li>");
    }
    page.raw("</ul>");
}

fn history<'a>(
    page: &mut Markup,
    changes: impl IntoIterator<Item = &'a HistoryEvent>,
    now: Instant,
) {
    let mut changes = changes.into_iter().peekable();
    if changes.peek().is_none() {
        return;
    }
    page.raw("<h3>Last changes</h3><ul>");
    for change in changes {
        let ago = now.saturating_duration_since(change.at);
        page.raw("<li class=row>")
            .raw(mark(Tone::from(&change.change)));
        page.raw("<span class=wide>");
        step(page, &change.change);
        page.raw("</span><span class=num>").text(age(ago));
        page.raw(" ago</span></li>");
    }
    page.raw("</ul>");
}
