//! Which apps the page shows: all or those of one kind, those that a search finds, the worst first and not
//! too many.

use std::collections::BTreeMap;

use crate::app::AppName;
use crate::core::{AppState, AppStatus};
use crate::view::verdict::{Condition, Level};

/// The state of an app on the page, worst first. An app that is up counts as up only if it is announced to all
/// peers that should have its routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Down,
    Invalid,
    NotAnnounced,
    NotForwarded,
    InPart,
    HeldDown,
    Pending,
    Draining,
    Drained,
    Maintenance,
    Up,
}

impl Kind {
    /// All kinds, the worst first.
    pub const ALL: [Self; 11] = [
        Self::Down,
        Self::Invalid,
        Self::NotAnnounced,
        Self::NotForwarded,
        Self::InPart,
        Self::HeldDown,
        Self::Pending,
        Self::Draining,
        Self::Drained,
        Self::Maintenance,
        Self::Up,
    ];

    /// Of an app with this state and this worst reason of its own verdict.
    pub fn new(state: AppState, worst: Option<(Level, Condition)>) -> Self {
        match (state, worst) {
            (AppState::Down, _) => Self::Down,
            (AppState::Invalid, _) => Self::Invalid,
            (AppState::Up, Some((_, Condition::PathNo))) => Self::NotForwarded,
            (AppState::Up, Some((Level::Failing, _))) => Self::NotAnnounced,
            (AppState::Up, Some((Level::Degraded, _))) => Self::InPart,
            (AppState::Up, _) => Self::Up,
            (AppState::HeldDown, _) => Self::HeldDown,
            (AppState::Pending, _) => Self::Pending,
            (AppState::Draining, _) => Self::Draining,
            (AppState::Drained, _) => Self::Drained,
            (AppState::Maintenance, _) => Self::Maintenance,
        }
    }

    /// As the page and its query name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Invalid => "invalid",
            Self::NotAnnounced => "not announced",
            Self::NotForwarded => "not forwarded",
            Self::InPart => "partly announced",
            Self::HeldDown => "held down",
            Self::Pending => "pending",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Maintenance => "maintenance",
            Self::Up => "up",
        }
    }
}

/// The filter in the page's query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// `None`: all.
    pub kind: Option<Kind>,
    /// In lower case; empty: nothing is searched for.
    pub search: String,
}

impl Choice {
    /// From `state` and `q`; an unknown value is ignored.
    pub fn new(params: &[(String, String)]) -> Self {
        let value = |key: &str| {
            let found = params.iter().find(|(name, _)| name == key);
            found.map_or("", |(_, value)| value.as_str())
        };
        let kind = Kind::ALL.into_iter();
        let search: String = value("q").trim().chars().take(LONGEST_SEARCH).collect();
        Self {
            kind: kind
                .into_iter()
                .find(|kind| kind.as_str() == value("state")),
            search: search.to_lowercase(),
        }
    }

    fn finds(&self, app: &AppStatus) -> bool {
        let has = |text: &str| text.to_lowercase().contains(&self.search);
        self.search.is_empty()
            || has(app.name.as_str())
            || has(&app.why)
            || app.vips.iter().any(|vip| has(&vip.prefix.to_string()))
    }
}

/// The apps that are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub choice: Choice,
    /// Of all apps.
    pub counts: BTreeMap<Kind, usize>,
    /// The worst first, at most [`MOST_APPS`].
    pub names: Vec<AppName>,
    /// How many apps match, including those left out.
    pub chosen: usize,
}

impl Selection {
    /// Selects from all apps; `worst` returns the worst reason of one app's own verdict.
    pub fn new(
        choice: Choice,
        apps: impl IntoIterator<Item = AppStatus>,
        worst: impl Fn(&AppStatus) -> Option<(Level, Condition)>,
    ) -> Self {
        let mut counts = BTreeMap::new();
        let mut chosen: Vec<(Kind, AppName)> = Vec::new();
        for app in apps {
            let kind = Kind::new(app.state, worst(&app));
            *counts.entry(kind).or_default() += 1;
            if choice.kind.is_none_or(|wanted| wanted == kind) && choice.finds(&app) {
                chosen.push((kind, app.name));
            }
        }
        chosen.sort_unstable();
        Self {
            choice,
            counts,
            chosen: chosen.len(),
            names: chosen
                .into_iter()
                .take(MOST_APPS)
                .map(|(_, name)| name)
                .collect(),
        }
    }

    /// How many apps there are.
    pub fn all(&self) -> usize {
        self.counts.values().sum()
    }
}

/// How many apps the page shows at most.
pub const MOST_APPS: usize = 100;
/// Characters of a search that count.
const LONGEST_SEARCH: usize = 250;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::VipStatus;

    fn app(name: &str, state: AppState) -> AppStatus {
        AppStatus {
            name: name.parse().unwrap(),
            state,
            since: Duration::ZERO,
            why: format!("why {name}"),
            vips: vec![VipStatus {
                prefix: "2001:db8::53/128".parse().unwrap(),
                wanted: true,
                probed: None,
                problem: None,
                announced_to: 0,
                lacking: Vec::new(),
                unproven: Vec::new(),
            }],
            last_resort: None,
            leaving: false,
            monitored: true,
            hides_answers: false,
        }
    }

    fn select(query: &[(&str, &str)], apps: Vec<AppStatus>) -> Selection {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let params: Vec<(String, String)> = query.iter().map(owned).collect();
        Selection::new(Choice::new(&params), apps, |app| match app.name.as_str() {
            "unheard" => Some((Level::Failing, Condition::NotAnnounced)),
            "half" => Some((Level::Degraded, Condition::SomePeers)),
            "denied" => Some((Level::Failing, Condition::PathNo)),
            _ => None,
        })
    }

    fn few() -> Vec<AppStatus> {
        vec![
            app("a", AppState::Up),
            app("denied", AppState::Up),
            app("half", AppState::Up),
            app("unheard", AppState::Up),
            app("b", AppState::Maintenance),
            app("z", AppState::Down),
        ]
    }

    fn names(selection: &Selection) -> Vec<&str> {
        selection.names.iter().map(|name| name.as_str()).collect()
    }

    #[test]
    fn the_worst_comes_first_and_what_no_peer_has_is_not_called_up() {
        let all = select(&[], few());
        assert_eq!(names(&all), ["z", "unheard", "denied", "half", "b", "a"]);
        assert_eq!((all.all(), all.chosen, all.counts[&Kind::Up]), (6, 6, 1));
        let of = |query: &[(&str, &str)]| names(&select(query, few())).join(" ");
        assert_eq!(of(&[("state", "not announced")]), "unheard");
        assert_eq!(of(&[("state", "up")]), "a");
        assert_eq!(of(&[("state", "no such")]), "z unheard denied half b a");
        assert_eq!(of(&[("state", "not forwarded")]), "denied");
        assert_eq!(of(&[("q", " HAL ")]), "half");
        assert_eq!(of(&[("q", "db8::53")]), "z unheard denied half b a");
        assert_eq!(of(&[("q", "why z"), ("state", "up")]), "");
    }

    #[test]
    fn beyond_a_hundred_the_others_are_counted() {
        let state = |n| match n {
            900.. => AppState::Pending,
            _ => AppState::Up,
        };
        let apps = (0..1000).map(|n| app(&format!("app{n:03}"), state(n)));
        let shown = select(&[], apps.collect());
        assert_eq!((shown.names.len(), shown.chosen), (100, 1000));
        assert_eq!(names(&shown)[0], "app900");
        assert!(shown.names.iter().all(|name| name.as_str() >= "app900"));
    }
}
