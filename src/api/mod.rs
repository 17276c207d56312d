//! What the outside may ask, and what it is answered: routing, policy and wording over the core.
//!
//! GoCast's calls keep their statuses, bodies and reasons; scripts look for them.

mod changes;
mod message;
mod pieces;
mod policy;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

pub use message::{JSON, Method, Request, RequestError, Response, TEXT, Via, asks_for_json};
pub use pieces::{Rest, go_on};
pub use policy::{CHECK, Denied};

use crate::app::AppName;
use crate::core::{AppView, Core, Counted};
use crate::netlink::nftables::{self, Counter};
use crate::view::metrics::{Process, Reload};
use crate::view::{self, page};
use pieces::Listing;

/// What the answers need besides the core.
pub struct World<'a> {
    pub now: Instant,
    /// The time of day.
    pub wall: SystemTime,
    /// Asked for the metrics alone: it costs a few files.
    pub process: &'a dyn Fn() -> Option<Process>,
    pub reload: Reload,
    /// The longest turn of the loop so far.
    pub longest_turn: Duration,
    /// Lines of the log that nobody took.
    pub log_lines_dropped: u64,
    /// `None`: there is no state file.
    pub state_file_written: Option<bool>,
    /// `None`: Consul is not configured.
    pub consul_up: Option<bool>,
    /// What the kernel's NAT counters say; empty where nobody asked it.
    pub nat: &'a Rc<NatCounters>,
}

/// The kernel's NAT counters by their names.
pub type NatCounters = BTreeMap<String, Counter>;

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Now(Response),
    /// To be sent once [`Core::drained`] says so for `name`; `None` is all of them.
    WhenDrained {
        name: Option<AppName>,
        response: Response,
    },
    /// The configuration is to be read and given to the core; [`reloaded`] makes the answer.
    Reload {
        json: bool,
    },
}

/// Answers a request to the API.
pub fn handle(core: &mut Core, world: &World<'_>, request: &Request) -> Reply {
    let json = request.wants_json();
    let outcome = route(&request.path)
        .ok_or_else(|| not_found(&request.path))
        .and_then(|route| {
            permit(core, request, &route)?;
            perform(core, world, request, route)
        });
    outcome.unwrap_or_else(|refused| Reply::Now(refused.into_response(json)))
}

/// Whether the answer shows what NAT has carried: the kernel is to be asked first.
pub fn shows_nat(request: &Request) -> bool {
    let shows = |read: &Read| matches!(read, Read::Apps | Read::App(_) | Read::Metrics);
    matches!(route(&request.path), Some(Route::Read(read)) if shows(&read))
}

/// Answers a request to the metrics listener, which knows three paths and changes nothing.
pub fn handle_metrics(core: &Core, world: &World<'_>, request: &Request) -> Response {
    let json = request.wants_json();
    let read = match route(&request.path) {
        Some(Route::Read(read @ (Read::Healthz | Read::Readyz | Read::Metrics))) => read,
        _ => return not_found(&request.path).into_response(json),
    };
    let allowed = check_method(request, Methods::Read)
        .and_then(|()| policy::check_read(request).map_err(Refused::from));
    match allowed {
        Ok(()) => show(core, world, read, json),
        Err(refused) => refused.into_response(json),
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

/// Why a request is not done: status, text, and headers that go with it.
#[derive(Debug)]
struct Refused {
    status: u16,
    message: String,
    header: Option<(&'static str, &'static str)>,
}

impl Refused {
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

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Self {
        let mut refused = Self::new(denied.status(), denied.to_string());
        if denied.status() == 401 {
            refused.header = Some(("WWW-Authenticate", "Bearer"));
        }
        refused
    }
}

/// What a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    Read(Read),
    Change(Change),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Read {
    Page,
    Info,
    Apps,
    App(String),
    Events,
    Healthz,
    Readyz,
    Metrics,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Register,
    Unregister,
    Drain,
    Undrain,
    DrainApp(String),
    UndrainApp(String),
    Heartbeat,
    Reload,
}

fn route(path: &str) -> Option<Route> {
    let read = |read| Some(Route::Read(read));
    let change = |change| Some(Route::Change(change));
    match path {
        "/" => read(Read::Page),
        "/info" => read(Read::Info),
        "/apps" | "/apps/" => read(Read::Apps),
        "/events" => read(Read::Events),
        "/healthz" => read(Read::Healthz),
        "/readyz" => read(Read::Readyz),
        "/metrics" => read(Read::Metrics),
        "/register" => change(Change::Register),
        "/unregister" => change(Change::Unregister),
        "/drain" => change(Change::Drain),
        "/undrain" => change(Change::Undrain),
        "/heartbeat" => change(Change::Heartbeat),
        "/reload" => change(Change::Reload),
        _ => {
            let rest = path.strip_prefix("/apps/")?;
            // A name may hold a slash: only the last segment can be a verb.
            match rest.rsplit_once('/') {
                Some((name, "drain")) => change(Change::DrainApp(name.to_owned())),
                Some((name, "undrain")) => change(Change::UndrainApp(name.to_owned())),
                _ => read(Read::App(rest.to_owned())),
            }
        }
    }
}

fn not_found(path: &str) -> Refused {
    let shown: String = path.chars().take(80).collect();
    Refused::new(404, format!("there is no {}", shown.escape_debug()))
}

/// Which methods a call takes.
#[derive(Clone, Copy)]
enum Methods {
    /// GoCast's calls never asked.
    Any,
    Read,
    ReadOrPost,
    Post,
}

impl Route {
    fn methods(&self) -> Methods {
        match self {
            Self::Read(Read::Info) => Methods::Any,
            Self::Read(_) => Methods::Read,
            Self::Change(Change::Register | Change::Unregister) => Methods::Any,
            Self::Change(Change::Drain | Change::Undrain | Change::Heartbeat) => {
                Methods::ReadOrPost
            }
            Self::Change(Change::Reload | Change::DrainApp(_) | Change::UndrainApp(_)) => {
                Methods::Post
            }
        }
    }
}

fn check_method(request: &Request, methods: Methods) -> Result<(), Refused> {
    let allow = match (methods, request.method) {
        (Methods::Any, _) => return Ok(()),
        (Methods::Read, Method::Get | Method::Head) => return Ok(()),
        (Methods::Read, _) => "GET, HEAD",
        // HEAD is no way to ask for a change.
        (Methods::ReadOrPost, Method::Get | Method::Post) => return Ok(()),
        (Methods::ReadOrPost, _) => "GET, POST",
        (Methods::Post, Method::Post) => return Ok(()),
        (Methods::Post, _) => "POST",
    };
    Err(Refused {
        status: 405,
        message: format!("{} takes {allow}", request.path.escape_debug()),
        header: Some(("Allow", allow)),
    })
}

fn permit(core: &Core, request: &Request, route: &Route) -> Result<(), Refused> {
    match route {
        Route::Read(_) => policy::check_read(request)?,
        Route::Change(_) => {
            let agent = &core.config().agent;
            let token = agent.api_token.as_ref().map(|token| token.expose());
            policy::check_change(request, token, &core.near(), &agent.api_allow)?;
        }
    }
    check_method(request, route.methods())
}

fn perform(
    core: &mut Core,
    world: &World<'_>,
    request: &Request,
    route: Route,
) -> Result<Reply, Refused> {
    let now = world.now;
    let done = |()| Reply::Now(Response::empty());
    match route {
        Route::Read(Read::App(name)) => {
            let view = name.parse().ok().and_then(|name| core.app(now, &name));
            let mut view = view.ok_or_else(|| changes::unknown_app(&name))?;
            count(&mut view, world.nat);
            let body = view::json::app(&view, world.wall);
            Ok(Reply::Now(Response::json(200, &body)))
        }
        Route::Read(read) => Ok(Reply::Now(show(core, world, read, request.wants_json()))),
        Route::Change(Change::Register) => changes::register(core, now, request).map(done),
        Route::Change(Change::Unregister) => changes::unregister(core, now, request).map(done),
        Route::Change(Change::Heartbeat) => changes::heartbeat(core, now, request).map(done),
        Route::Change(Change::Drain) => {
            let name = changes::named(request);
            changes::drain(core, now, name, request)
        }
        Route::Change(Change::DrainApp(name)) => changes::drain(core, now, Some(&name), request),
        Route::Change(Change::Undrain) => {
            changes::undrain(core, now, changes::named(request)).map(done)
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
fn show(core: &Core, world: &World<'_>, read: Read, json: bool) -> Response {
    let now = world.now;
    match read {
        Read::Page => Response::new(200, "text/html; charset=utf-8", page::HTML)
            .with_header("Content-Security-Policy", page::POLICY)
            .with_header("Referrer-Policy", "no-referrer"),
        Read::Info => Response::json(200, &view::json::info(&core.peers(now), world.wall)),
        Read::Apps | Read::App(_) => pieces::begin(core, world, Listing::Apps),
        Read::Events => Response::json(200, &view::json::events(core.events(), now, world.wall)),
        Read::Healthz => Response::text(200, "ok"),
        Read::Readyz => match core.ready() {
            Ok(()) => Response::text(200, "ready"),
            Err(why) => Response::error(503, &format!("not ready: {why}"), json),
        },
        Read::Metrics => pieces::begin(core, world, Listing::Metrics),
    }
}

fn count(app: &mut AppView, counters: &NatCounters) {
    for nat in &mut app.nats {
        let (protocol, listen) = (nat.spec.protocol.number(), nat.spec.listen);
        let name = nftables::counter_name(app.name.as_str(), protocol, listen);
        nat.counted = counters.get(&name).map(|counter| Counted {
            packets: counter.packets,
            bytes: counter.bytes,
        });
    }
}

#[cfg(test)]
mod tests;
