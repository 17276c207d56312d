//! The table of calls: path, methods and documentation. Routing, the `Allow` header and
//! `examples/reference.md` derive from it.

use super::Method;

/// One call of the API.
pub struct Call {
    /// The path to match; `NAME` matches an app's name, which may hold slashes.
    pub path: &'static str,
    /// The parameters it takes, as one would write them behind the path.
    pub params: &'static str,
    pub methods: Methods,
    /// What it does and answers, in Markdown.
    pub doc: &'static str,
    /// The route that it makes; the argument is the text that `NAME` matched.
    route: fn(&str) -> Route,
}

/// Which methods a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Methods {
    /// GoCast's calls accept any.
    Any,
    Read,
    ReadOrPost,
    Post,
}

impl Methods {
    /// Whether a request by this method is taken.
    pub(super) fn include(self, method: Method) -> bool {
        match self {
            Self::Any => true,
            Self::Read => matches!(method, Method::Get | Method::Head),
            // HEAD must not change anything.
            Self::ReadOrPost => matches!(method, Method::Get | Method::Post),
            Self::Post => method == Method::Post,
        }
    }

    /// As the `Allow` header has them (RFC 9110 §10.2.1).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Read => "GET, HEAD",
            Self::ReadOrPost => "GET, POST",
            Self::Post => "POST",
        }
    }
}

/// What a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Read(Read),
    Doctor,
    Change(Change),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Page,
    Info,
    Apps,
    App(String),
    Events,
    Verdict,
    Healthz,
    Readyz,
    Metrics,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Register,
    Unregister,
    Drain,
    Undrain,
    DrainApp(String),
    UndrainApp(String),
    Heartbeat,
    Reload,
}

/// All calls. The first row that matches is taken, so that `/apps/NAME` stands behind its verbs.
pub const CALLS: &[Call] = &[
    Call {
        path: "/register",
        params: "?name=&vip=&monitor=&nat=&vip_communities=",
        methods: Methods::Any,
        doc: "Adds an app, or replaces it in place; the same call again changes nothing. `monitor` and `nat` as often as \
              needed; every key of an app with a parameter. 200; 400 with the reason, 403 where the policy refuses, with \
              the key to set, 409 where another app holds the VIP or another source the name.",
        route: |_| Route::Change(Change::Register),
    },
    Call {
        path: "/unregister",
        params: "?name=",
        methods: Methods::Any,
        doc: "Withdraws an app and forgets it; one of another source is withdrawn and drained. 200, for an unknown name too; \
              400 without a name.",
        route: |_| Route::Change(Change::Unregister),
    },
    Call {
        path: "/info",
        params: "",
        methods: Methods::Any,
        doc: "The first peer with GoBGP's keys, all of them under `peers`.",
        route: |_| Route::Read(Read::Info),
    },
    Call {
        path: "/apps",
        params: "",
        methods: Methods::Read,
        doc: "State, reason, VIPs with what each peer was sent, monitors and NAT of all apps; the verdict's level in the header \
              `Sidecast-Verdict`.",
        route: |_| Route::Read(Read::Apps),
    },
    Call {
        path: "/apps/NAME/drain",
        params: "?wait=0",
        methods: Methods::Post,
        doc: "As `/drain?name=`.",
        route: |name| Route::Change(Change::DrainApp(name.to_owned())),
    },
    Call {
        path: "/apps/NAME/undrain",
        params: "",
        methods: Methods::Post,
        doc: "As `/undrain?name=`.",
        route: |name| Route::Change(Change::UndrainApp(name.to_owned())),
    },
    Call {
        path: "/apps/NAME",
        params: "",
        methods: Methods::Read,
        doc: "The same of one app. 404 where there is none.",
        route: |name| Route::Read(Read::App(name.to_owned())),
    },
    Call {
        path: "/drain",
        params: "?name=&wait=0",
        methods: Methods::ReadOrPost,
        doc: "Withdraws an app, or all without a name, and answers with the steps of each drain when it is over; with `wait=0` \
              at once. It is kept across re-registration and reload, with `state_file` over a restart.",
        route: |_| Route::Change(Change::Drain),
    },
    Call {
        path: "/undrain",
        params: "?name=",
        methods: Methods::ReadOrPost,
        doc: "Announces an app again, or all without a name.",
        route: |_| Route::Change(Change::Undrain),
    },
    Call {
        path: "/heartbeat",
        params: "?name=",
        methods: Methods::ReadOrPost,
        doc: "Feeds the `heartbeat:` monitors of an app. 404 where there is none.",
        route: |_| Route::Change(Change::Heartbeat),
    },
    Call {
        path: "/reload",
        params: "",
        methods: Methods::Post,
        doc: "Reads the configuration again, as SIGHUP: 200 with what changed, 400 with the errors, and then nothing changes.",
        route: |_| Route::Change(Change::Reload),
    },
    Call {
        path: "/events",
        params: "",
        methods: Methods::Read,
        doc: "The last 500 changes of apps and peers, oldest first.",
        route: |_| Route::Read(Read::Events),
    },
    Call {
        path: "/verdict",
        params: "",
        methods: Methods::Read,
        doc: "The verdict: its level, and the conditions that hold with app, peer and reason.",
        route: |_| Route::Read(Read::Verdict),
    },
    Call {
        path: "/doctor",
        params: "",
        methods: Methods::Read,
        doc: "What `sidecast doctor --json` prints: the host is looked at, which takes up to 3 s; calls within a second share an \
              answer. `lines` in the order of the layers, each with `mark` (`ok`, `fault`, `unknown`), `topic`, `text` and \
              `next`; their counts in `ok`, `faults` and `unknown`.",
        route: |_| Route::Doctor,
    },
    Call {
        path: "/healthz",
        params: "",
        methods: Methods::Read,
        doc: "200 while the process is alive.",
        route: |_| Route::Read(Read::Healthz),
    },
    Call {
        path: "/readyz",
        params: "",
        methods: Methods::Read,
        doc: "200 once every app was announced, and it stays so when a session goes; 503 before, while all apps drain and when \
              stopping. The second line is the verdict.",
        route: |_| Route::Read(Read::Readyz),
    },
    Call {
        path: "/metrics",
        params: "",
        methods: Methods::Read,
        doc: "Prometheus text.",
        route: |_| Route::Read(Read::Metrics),
    },
    Call {
        path: "/",
        params: "",
        methods: Methods::Read,
        doc: "The status page.",
        route: |_| Route::Read(Read::Page),
    },
];

impl Call {
    /// The route of a path; `None`: the path is not this call's.
    fn matches(&self, path: &str) -> Option<Route> {
        let name = match self.path.split_once("NAME") {
            None => (path == self.path).then_some("")?,
            Some((before, after)) => path.strip_prefix(before)?.strip_suffix(after)?,
        };
        Some((self.route)(name))
    }
}

/// The call of a path, and what it means.
pub(super) fn route(path: &str) -> Option<(&'static Call, Route)> {
    let path = if path == "/apps/" { "/apps" } else { path };
    CALLS
        .iter()
        .find_map(|call| Some((call, call.matches(path)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_found_by_its_path() {
        for call in CALLS {
            let path = call.path.replace("NAME", "a/b");
            let (found, route) = route(&path).unwrap();
            assert_eq!(found.path, call.path);
            assert_eq!(route, (call.route)("a/b"), "{path}");
        }
    }

    #[test]
    fn a_name_may_be_a_verb_and_hold_slashes() {
        let app = |name: &str| Route::Read(Read::App(name.to_owned()));
        let drain = |name: &str| Route::Change(Change::DrainApp(name.to_owned()));
        for (path, want) in [
            ("/apps/", Some(Route::Read(Read::Apps))),
            ("/apps/drain", Some(app("drain"))),
            ("/apps/a/drain/b", Some(app("a/drain/b"))),
            ("/apps/a/drain/drain", Some(drain("a/drain"))),
            ("/apps//drain", Some(drain(""))),
            ("/appsx", None),
            ("", None),
            ("/metrics/", None),
        ] {
            assert_eq!(route(path).map(|(_, route)| route), want, "{path}");
        }
    }
}
