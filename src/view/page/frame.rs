//! The page around the list of apps: the verdict and the peers above it, the last changes below.

use std::time::{Duration, Instant, SystemTime};

use super::markup::Markup;
use super::selection::{Kind, MOST_APPS, Selection};
use super::{SCRIPT, STYLE, Tone, capitalized, count, mark, tag};
use crate::bgp::peer::StateName;
use crate::core::{ChangeOf, Core, HistoryChange, HistoryEvent, PeerView};
use crate::view::time::{age, rfc3339};
use crate::view::verdict::{Level, Verdict};

/// The page down to where the apps begin.
pub fn begin(core: &Core, verdict: &Verdict, peers: &[PeerView], wall: SystemTime) -> Markup {
    let mut page = Markup::default();
    let line = verdict.line();
    page.raw("<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n");
    page.raw("<meta name=viewport content=\"width=device-width, initial-scale=1\">\n");
    page.raw("<meta name=color-scheme content=\"light dark\">\n<title>");
    page.raw(Tone::from(verdict.level).sign()).raw(" ");
    page.text(&line).raw(" · sidecast</title>\n<style>");
    page.raw(STYLE)
        .raw("</style>\n</head>\n<body>\n<main>\n<header><h1>sidecast</h1>");
    identity(&mut page, core);
    let now = rfc3339(wall);
    page.raw("<time id=clock datetime=\"").text(&now);
    let of_day = now.get(11..19).unwrap_or_default();
    page.raw("\">as of ")
        .text(of_day)
        .raw(" UTC</time></header>\n");
    page.raw("<noscript data-keep><p class=soft>Without scripts the page stays as it was when it was loaded.</p></noscript>\n");
    report(&mut page, verdict, &line);
    page.raw("<h2 id=peers>Peers</h2>\n<ul class=card aria-labelledby=peers>");
    for peer in peers {
        one_peer(&mut page, peer);
    }
    let no_peer = core.no_peer_reason().map(ToString::to_string);
    let none = no_peer.unwrap_or_else(|| "no peer is configured".to_owned());
    if peers.is_empty() {
        page.raw("<li class=row>").raw(mark(Tone::Bad));
        page.raw("<span class=\"wide bad\">")
            .text(capitalized(&none));
        page.raw("</span></li>");
    }
    page.raw("</ul>\n");
    page
}

/// Which host this is.
fn identity(page: &mut Markup, core: &Core) {
    page.raw("<span class=soft>");
    if let Some(hostname) = core.hostname() {
        page.name(hostname).raw(" · ");
    }
    page.raw("version ").text(env!("CARGO_PKG_VERSION"));
    page.raw(" · AS ").text(core.config().bgp.local_as.get());
    match core.router_id() {
        Some(id) => page.raw(" · router ID ").text(id),
        None => page.raw(" · no router ID yet"),
    };
    page.raw("</span>");
}

/// The verdict, its further reasons, and what is no fault.
fn report(page: &mut Markup, verdict: &Verdict, line: &str) {
    let tone = Tone::from(verdict.level);
    page.raw("<p id=verdict role=status class=")
        .raw(tone.class());
    page.raw(">").raw(mark(tone)).raw("<span>");
    page.name(line).raw("</span></p>\n<ul id=reasons>");
    if verdict.level != Level::Starting {
        let others = verdict.reasons.iter().skip(1).take(MOST_REASONS);
        let shown = others.len();
        for reason in others {
            page.raw("<li>").name(&reason.text).raw("</li>");
        }
        let left = verdict.count.saturating_sub(1 + shown);
        if left > 0 {
            page.raw("<li>and ").text(left).raw(" more</li>");
        }
    }
    for warning in &verdict.warnings {
        page.raw("<li class=soft>warning: ")
            .name(warning)
            .raw("</li>");
    }
    page.raw("</ul>\n");
}

fn one_peer(page: &mut Markup, peer: &PeerView) {
    let up = peer.state == StateName::Established;
    let cut = peer.no_carrier || peer.unreachable.is_some();
    let doubtful = cut || peer.bfd_up == Some(false) || peer.unanswered > SOON;
    let tone = match (up, doubtful) {
        (true, false) => Tone::Good,
        (true, true) => Tone::Wait,
        (false, _) => Tone::Bad,
    };
    page.raw("<li class=row data-key=\"")
        .text(&peer.name)
        .raw("\">");
    page.raw(mark(tone)).raw("<span class=name>");
    page.name(&peer.name).raw("</span><span class=mid>");
    let negotiated = peer.negotiated.as_ref();
    match negotiated.map(|n| n.peer_as).or(peer.peer_as) {
        Some(asn) => page.raw("AS ").text(asn.get()),
        None => page.raw("any AS"),
    };
    if let Some(negotiated) = negotiated {
        page.raw(" · router ID ").text(negotiated.peer_router_id);
        if let Some(hostname) = &negotiated.hostname {
            page.raw(" · ").name(hostname);
        }
    }
    if up || peer.announced > 0 {
        page.raw(" · ").text(count(peer.announced, "route"));
    }
    if peer.flaps > 0 {
        page.raw(" · lost ").text(peer.flaps).raw("×");
    }
    if let Some(bfd_up) = peer.bfd_up {
        page.raw(if bfd_up { " · BFD up" } else { " · BFD down" });
    }
    page.raw("</span>");
    tag(page, tone, peer.state);
    page.raw("<span class=num>")
        .text(age(peer.since))
        .raw("</span>");
    let silent = peer.unanswered.filter(|silent| Some(*silent) > SOON);
    let silent = silent.map(|silent| format!("has acknowledged nothing for {}", age(silent)));
    let carrier = peer.no_carrier.then(|| "no carrier".to_owned());
    let carrier = carrier.or(peer.unreachable.as_ref().map(ToString::to_string));
    let error = peer.last_error.clone().filter(|_| !up);
    for why in carrier.into_iter().chain(silent).chain(error) {
        page.raw("<span class=why>").name(why).raw("</span>");
    }
    page.raw("</li>");
}

/// The heading of the apps, and the counts by state, which select them.
pub fn begin_apps(page: &mut Markup, selection: &Selection) {
    page.raw("<h2 id=list>Apps</h2>\n<nav aria-label=\"Apps by state\">");
    page.raw("<label hidden data-keep>Search <input id=q type=search placeholder=\"name, VIP or reason\"></label>");
    chooser(page, selection, None, selection.all());
    for (kind, count) in &selection.counts {
        chooser(page, selection, Some(*kind), *count);
    }
    // The selected state is shown even when no app is in it any more.
    let chosen = selection.choice.kind;
    if let Some(kind) = chosen.filter(|kind| !selection.counts.contains_key(kind)) {
        chooser(page, selection, Some(kind), 0);
    }
    page.raw("</nav>\n<ul class=card id=apps aria-labelledby=list>");
    if selection.names.is_empty() {
        page.raw("<li class=row><span class=\"wide soft\">");
        page.raw(match selection.all() {
            0 => "No app is configured or registered.",
            _ => "No app matches.",
        });
        page.raw("</span></li>");
    }
}

/// One count, a link to what it counts.
fn chooser(page: &mut Markup, selection: &Selection, kind: Option<Kind>, count: usize) {
    let name = kind.map_or("all", Kind::as_str);
    let mut query = form_urlencoded::Serializer::new(String::new());
    if let Some(kind) = kind {
        query.append_pair("state", kind.as_str());
    }
    if !selection.choice.search.is_empty() {
        query.append_pair("q", &selection.choice.search);
    }
    page.raw("<a href=\"?").text(query.finish()).raw("\"");
    page.raw(" data-key=\"").text(name).raw("\"");
    if selection.choice.kind == kind {
        page.raw(" aria-current=true");
    }
    page.raw(">").text(name).raw(" <span class=count>");
    page.text(count).raw("</span></a>");
}

/// The end of the apps, the last changes and the end of the page.
pub fn end<'a>(
    page: &mut Markup,
    selection: &Selection,
    changes: impl IntoIterator<Item = &'a HistoryEvent>,
    now: Instant,
) {
    page.raw("</ul>\n<p class=soft id=left>");
    if let Some(left) = selection.chosen.checked_sub(selection.names.len()) {
        if left > 0 {
            page.raw("These are the worst ").text(MOST_APPS);
            page.raw(" of ").text(selection.chosen);
            page.raw("; ").text(left).raw(" are left out.");
        }
    }
    page.raw(
        "</p>\n<h2 id=last>Last changes</h2>\n<ul class=\"card changes\" aria-labelledby=last>",
    );
    let before = page.size();
    for change in changes {
        page.raw("<li class=row data-key=")
            .text(change.seq)
            .raw(">");
        page.raw(mark(Tone::from(&change.change)));
        page.raw("<span class=name>");
        match &change.change.of {
            ChangeOf::App(app) => page.name(app),
            ChangeOf::Peer(peer) => page.name(peer),
        };
        page.raw("</span>");
        page.raw("<span class=wide>");
        step(page, &change.change);
        page.raw("</span><span class=num>");
        let ago = now.saturating_duration_since(change.at);
        page.text(age(ago)).raw(" ago</span></li>");
    }
    if page.size() == before {
        page.raw(
            "<li class=row><span class=\"wide soft\">Nothing has changed since start.</span></li>",
        );
    }
    page.raw("</ul>\n</main>\n<script>")
        .raw(SCRIPT)
        .raw("</script>\n</body>\n</html>\n");
}

/// `up → down: connection refused`
pub fn step(page: &mut Markup, change: &HistoryChange) {
    let word = |state: &str| state.replace('_', " ");
    page.text(word(change.from)).raw(" → ");
    page.text(word(change.to)).raw(": ").name(&change.why);
}

/// Changes that are shown below the apps.
pub const MOST_CHANGES: usize = 12;
/// Further reasons of the verdict.
const MOST_REASONS: usize = 4;
/// How long a peer's kernel may take to acknowledge what was sent.
const SOON: Option<Duration> = Some(Duration::from_secs(3));
