//! The HTTP API over the core: routing, policy and answers.
//!
//! GoCast's calls keep their statuses, bodies and reasons: scripts match them.

mod calls;
mod changes;
mod chunks;
mod continuation;
mod message;
mod policy;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

pub use calls::{CALLS, Call};
pub use chunks::next_chunk;
pub use continuation::Continuation;
pub use message::{
    JSON, ListenerScope, Method, Request, RequestError, Response, TEXT, asks_for_json,
};
pub use policy::{CHECK_USER_AGENT, Denied};

use crate::app::AppName;
use crate::core::{AppStatus, AppView, Core, DrainReport, NatCount};
use crate::netlink::nftables::{self, Counter};
use crate::view;
use crate::view::metrics::{LastReload, Process};
use crate::view::page::{self, Choice, Selection};
use crate::view::verdict::{Level, Reason, Verdict, of_app, worst_of_app};
use calls::{Change, Methods, Read, Route, route};
use continuation::Listing;

/// What answers need besides the core.
pub struct ApiContext<'a> {
    pub now: Instant,
    /// The time of day.
    pub wall: SystemTime,
    /// Called for the metrics only, since it reads a few files of /proc.
    pub process: &'a dyn Fn() -> Option<Process>,
    pub reload: LastReload,
    /// The longest iteration of the event loop so far.
    pub longest_turn: Duration,
    /// Log lines dropped because standard error was not read.
    pub log_lines_dropped: u64,
    /// `None`: there is no state file.
    pub state_file_written: Option<bool>,
    /// `None`: Consul is not configured.
    pub consul_up: Option<bool>,
    /// The kernel's NAT counters; empty unless they were requested.
    pub nat: &'a Rc<NatCounters>,
}

/// The kernel's NAT counters by their names.
pub type NatCounters = BTreeMap<String, Counter>;

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Now(Response),
    /// [`drained`] makes the answer once [`Core::drained`] reports the end for `name`; `None`: all apps.
    WhenDrained {
        name: Option<AppName>,
        json: bool,
    },
    /// The configuration is to be read and given to the core; [`reloaded`] makes the answer.
    Reload {
        json: bool,
    },
    /// The host has to be examined; the answer is a [`Report`](crate::doctor::Report).
    Doctor,
}

/// Answers a request to the API.
pub fn handle(core: &mut Core, context: &ApiContext<'_>, request: &Request) -> Reply {
    let json = request.wants_json();
    let outcome = route(&request.path)
        .ok_or_else(|| not_found(&request.path))
        .and_then(|(call, route)| {
            permit(core, request, &route)?;
            check_method(request, call.methods)?;
            perform(core, context, request, route)
        });
    outcome.unwrap_or_else(|error| Reply::Now(error.into_response(json)))
}

/// Whether the answer shows NAT counters, which have to be read from the kernel first.
pub fn shows_nat(request: &Request) -> bool {
    let shows =
        |read: &Read| matches!(read, Read::Page | Read::Apps | Read::App(_) | Read::Metrics);
    matches!(route(&request.path), Some((_, Route::Read(read))) if shows(&read))
}

/// Answers a request to the metrics listener, which knows three paths and changes nothing.
pub fn handle_metrics(core: &Core, context: &ApiContext<'_>, request: &Request) -> Response {
    let json = request.wants_json();
    let read = match route(&request.path) {
        Some((_, Route::Read(read @ (Read::Healthz | Read::Readyz | Read::Metrics)))) => read,
        _ => return not_found(&request.path).into_response(json),
    };
    let allowed = check_method(request, Methods::Read)
        .and_then(|()| policy::check_read(request).map_err(ErrorResponse::from));
    match allowed {
        Ok(()) => show(core, context, read, json),
        Err(error) => error.into_response(json),
    }
}

/// The answer to a reload: what changed, or what is wrong, a line each.
pub fn reloaded(outcome: Result<&[String], &str>, json: bool) -> Response {
    match outcome {
        Ok(changes) if json => Response::json(200, &json!({ "changes": changes })),
        Ok([]) => Response::text(200, "nothing changed"),
        Ok(changes) => Response::text(200, &changes.join("\n")),
        Err(problems) => Response::error(400, problems, json),
    }
}

/// The answer to a drain that is done: its steps, for each app.
pub fn drained(core: &Core, name: Option<&AppName>, json: bool) -> Response {
    let reports = core.drain_reports(name);
    if json {
        let drained: Vec<_> = reports.iter().map(view::drain::json).collect();
        return Response::json(200, &json!({ "drained": drained }));
    }
    let line = |report: &DrainReport| format!("{}: {}", report.app, report.steps);
    match reports.as_slice() {
        [] => Response::empty(),
        reports => {
            let lines: Vec<String> = reports.iter().map(line).collect();
            Response::text(200, &lines.join("\n"))
        }
    }
}

/// An error answer: status, text and a header.
#[derive(Debug)]
struct ErrorResponse {
    status: u16,
    message: String,
    header: Option<(&'static str, &'static str)>,
}

impl ErrorResponse {
    fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            header: None,
        }
    }

    fn into_response(self, json: bool) -> Response {
        let response = Response::error(self.status, &self.message, json);
        match self.header {
            Some((name, value)) => response.with_header(name, value),
            None => response,
        }
    }
}

impl From<Denied> for ErrorResponse {
    fn from(denied: Denied) -> Self {
        let mut error = Self::new(denied.status(), denied.to_string());
        if denied.status() == 401 {
            error.header = Some(("WWW-Authenticate", "Bearer"));
        }
        error
    }
}

fn not_found(path: &str) -> ErrorResponse {
    let shown: String = path.chars().take(80).collect();
    ErrorResponse::new(404, format!("there is no {}", shown.escape_debug()))
}

fn check_method(request: &Request, methods: Methods) -> Result<(), ErrorResponse> {
    if methods.include(request.method) {
        return Ok(());
    }
    let allow = methods.as_str();
    Err(ErrorResponse {
        status: 405,
        message: format!("{} takes {allow}", request.path.escape_debug()),
        header: Some(("Allow", allow)),
    })
}

fn permit(core: &Core, request: &Request, route: &Route) -> Result<(), ErrorResponse> {
    match route {
        Route::Read(_) | Route::Doctor => policy::check_read(request)?,
        Route::Change(_) => {
            let agent = &core.config().agent;
            let token = agent.api_token.as_ref().map(|token| token.expose());
            policy::check_change(request, token, &core.trusted_networks(), &agent.api_allow)?;
        }
    }
    Ok(())
}

fn perform(
    core: &mut Core,
    context: &ApiContext<'_>,
    request: &Request,
    route: Route,
) -> Result<Reply, ErrorResponse> {
    let now = context.now;
    let done = |()| Reply::Now(Response::empty());
    match route {
        Route::Read(Read::App(name)) => {
            let view = name.parse().ok().and_then(|name| core.app(now, &name));
            let mut view = view.ok_or_else(|| changes::unknown_app(&name))?;
            add_nat_count(&mut view, context.nat);
            let standing = app_verdict(core, now, &view.name);
            let body = view::json::app(&view, &standing, context.wall);
            Ok(Reply::Now(Response::json(200, &body)))
        }
        Route::Read(Read::Page) => {
            let choice = Choice::new(&request.params);
            Ok(Reply::Now(show_page(core, context, choice)))
        }
        Route::Doctor => Ok(Reply::Doctor),
        Route::Read(read) => Ok(Reply::Now(show(core, context, read, request.wants_json()))),
        Route::Change(Change::Register) => changes::register(core, now, request).map(done),
        Route::Change(Change::Unregister) => changes::unregister(core, context, request).map(done),
        Route::Change(Change::Heartbeat) => changes::heartbeat(core, now, request).map(done),
        Route::Change(Change::Drain) => {
            let name = changes::name_param(request);
            changes::drain(core, context, name, request)
        }
        Route::Change(Change::DrainApp(name)) => {
            changes::drain(core, context, Some(&name), request)
        }
        Route::Change(Change::Undrain) => {
            changes::undrain(core, now, changes::name_param(request)).map(done)
        }
        Route::Change(Change::UndrainApp(name)) => {
            changes::undrain(core, now, Some(&name)).map(done)
        }
        Route::Change(Change::Reload) => Ok(Reply::Reload {
            json: request.wants_json(),
        }),
    }
}

/// The calls that cannot fail.
fn show(core: &Core, context: &ApiContext<'_>, read: Read, json: bool) -> Response {
    let now = context.now;
    match read {
        Read::Page => show_page(core, context, Choice::default()),
        Read::Info => Response::json(200, &view::json::info(&core.peers(now), context.wall)),
        Read::Apps | Read::App(_) => {
            let level = verdict(core, context).level.as_str();
            chunks::begin(core, context, Listing::Apps).with_header("Sidecast-Verdict", level)
        }
        Read::Verdict => Response::json(200, &view::json::verdict(&verdict(core, context), core)),
        Read::Events => Response::json(200, &view::json::events(core.events(), now, context.wall)),
        Read::Healthz => Response::text(200, "ok"),
        Read::Readyz => match core.ready() {
            Ok(()) => Response::text(200, &format!("ready\n{}", verdict(core, context).line())),
            Err(why) => {
                let line = verdict(core, context).line();
                Response::error(503, &format!("not ready: {why}\n{line}"), json)
            }
        },
        Read::Metrics => chunks::begin(core, context, Listing::Metrics),
    }
}

fn show_page(core: &Core, context: &ApiContext<'_>, choice: Choice) -> Response {
    let peers = core.peers(context.now);
    let worst = |app: &AppStatus| worst_of_app(app, &peers);
    let shown = Selection::new(choice, core.app_statuses(context.now), worst);
    chunks::begin(core, context, Listing::Page(Rc::new(shown)))
        .with_header("Content-Security-Policy", page::POLICY)
        .with_header("Referrer-Policy", "no-referrer")
}

fn verdict(core: &Core, context: &ApiContext<'_>) -> Verdict {
    Verdict::of(core, context.now, !context.reload.successful)
}

/// The verdict on one app.
fn app_verdict(core: &Core, now: Instant, name: &AppName) -> (Level, Vec<Reason>) {
    let standing = core.app_status(now, name);
    let peers = || core.peers(now);
    standing.map_or((Level::Ok, Vec::new()), |app| of_app(&app, &peers()))
}

fn add_nat_count(app: &mut AppView, counters: &NatCounters) {
    for nat in &mut app.nats {
        let (protocol, listen) = (nat.spec.protocol.number(), nat.spec.listen);
        let name = nftables::counter_name(app.name.as_str(), protocol, listen);
        nat.count = counters.get(&name).map(|counter| NatCount {
            packets: counter.packets,
            bytes: counter.bytes,
        });
    }
}

#[cfg(test)]
mod tests;
