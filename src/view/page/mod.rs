//! The status page. The server renders all of it, so that it can be read without scripts; its script fetches it again
//! and updates the elements in place, so that open and selected ones stay so. The Content-Security-Policy allows its
//! own style and script by their hashes and nothing else.

mod app;
mod frame;
mod markup;
mod selection;

use std::fmt::Display;

pub use app::app;
pub use frame::{MOST_CHANGES, begin, begin_apps, end};
pub use markup::Markup;
pub use selection::{Choice, Kind, MOST_APPS, Selection};

use super::verdict::Level;
use crate::core::{AppState, ChangeKind, HistoryChange};
use crate::path_proof::Finding;

/// Media type of the page.
pub const CONTENT_TYPE: &str = "text/html; charset=utf-8";

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// Content-Security-Policy of the page.
pub const POLICY: &str = "default-src 'none'; \
    style-src 'sha256-jwzCduxoDaXP6WdgiNd3L46YebTfchA+/YSh7FWSC28='; \
    script-src 'sha256-sIw7SkczCC+7eB8jfZ2s7mZXZQkkh7ueoPFGX/xRRXQ='; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The severity of a line, shown by a color, a sign and a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tone {
    Good,
    Bad,
    Wait,
    /// Neither good nor bad: intended by the operator, or unknown.
    Quiet,
}

impl From<&Finding> for Tone {
    fn from(finding: &Finding) -> Self {
        match finding {
            Finding::Yes | Finding::Partly => Self::Good,
            Finding::No(_) => Self::Bad,
            Finding::Elsewhere | Finding::NotSeen => Self::Wait,
            Finding::Unknown(_) => Self::Quiet,
        }
    }
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Wait => "wait",
            Self::Quiet => "quiet",
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Good => "✓",
            Self::Bad => "✗",
            Self::Wait => "!",
            Self::Quiet => "–",
        }
    }
}

impl From<Level> for Tone {
    fn from(level: Level) -> Self {
        match level {
            Level::Ok => Self::Good,
            Level::Starting | Level::Degraded => Self::Wait,
            Level::Failing => Self::Bad,
        }
    }
}

impl From<&HistoryChange> for Tone {
    /// By the new state of the app or peer.
    fn from(change: &HistoryChange) -> Self {
        let state = |state: &AppState| state.as_str() == change.to;
        match AppState::ALL.into_iter().find(state) {
            Some(state) => Kind::new(state, None).into(),
            None if change.kind == ChangeKind::Registration => Self::Quiet,
            None if change.to == "established" => Self::Good,
            None => Self::Bad,
        }
    }
}

impl From<Kind> for Tone {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Down | Kind::Invalid | Kind::NotAnnounced | Kind::NotForwarded => Self::Bad,
            Kind::InPart | Kind::HeldDown | Kind::Pending | Kind::Draining => Self::Wait,
            Kind::Drained | Kind::Maintenance => Self::Quiet,
            Kind::Up => Self::Good,
        }
    }
}

/// The sign of a line, hidden from screen readers: the line has it in words too.
fn mark(tone: Tone) -> &'static str {
    match tone {
        Tone::Good => "<span class=\"mark good\" aria-hidden=true>✓</span>",
        Tone::Bad => "<span class=\"mark bad\" aria-hidden=true>✗</span>",
        Tone::Wait => "<span class=\"mark wait\" aria-hidden=true>!</span>",
        Tone::Quiet => "<span class=\"mark quiet\" aria-hidden=true>–</span>",
    }
}

/// The state in a word.
fn tag(page: &mut Markup, tone: Tone, word: impl Display) {
    page.raw("<span class=\"tag ").raw(tone.class()).raw("\">");
    page.text(word).raw("</span>");
}

/// `1 route`, `2 routes`
fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}

#[cfg(test)]
#[path = "../../../tests/unit/page.rs"]
mod tests;
