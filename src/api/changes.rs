//! Changing calls.

use std::time::Instant;

use super::{ApiContext, ErrorResponse, ListenerScope, Reply, Request, Response};
use crate::app::{AppName, DrainRequest, Source};
use crate::config::{Refusal, parse_app_from_params};
use crate::core::Core;

/// `/register`. The same call again changes nothing, a changed one replaces the app in place.
pub(super) fn register(
    core: &mut Core,
    now: Instant,
    request: &Request,
) -> Result<(), ErrorResponse> {
    parse_app_from_params(&request.params, Source::Http, core.config())
        .and_then(|app| core.register(now, app))
        .map(drop)
        .map_err(|refusal| match refusal {
            Refusal::Policy { .. } => ErrorResponse::new(403, refusal.to_string()),
            Refusal::Conflict(message) => ErrorResponse::new(409, message),
            Refusal::Invalid(message) => invalid(message),
        })
}

fn invalid(message: impl std::fmt::Display) -> ErrorResponse {
    ErrorResponse::new(400, format!("Invalid request: {message}"))
}

/// `/unregister`: an unknown name is no error.
pub(super) fn unregister(
    core: &mut Core,
    context: &ApiContext<'_>,
    request: &Request,
) -> Result<(), ErrorResponse> {
    let name = name_param(request)
        .ok_or_else(|| ErrorResponse::new(400, "Invalid request, need app name specified"))?;
    // An invalid name names no app.
    if let Ok(name) = name.parse() {
        core.unregister_for(context.now, &name, Some(drain_request(request, context)));
    }
    Ok(())
}

pub(super) fn heartbeat(
    core: &mut Core,
    now: Instant,
    request: &Request,
) -> Result<(), ErrorResponse> {
    let name = name_param(request)
        .ok_or_else(|| ErrorResponse::new(400, "Invalid request, need app name specified"))?;
    let name = known(core, now, name)?;
    core.heartbeat(now, &name).ok_or_else(|| {
        ErrorResponse::new(404, format!("the app `{name}` has no heartbeat monitor"))
    })
}

/// Answered when the routes are gone and acknowledged, and no packet comes any more or `drain_time` has passed; `wait=0`:
/// at once.
pub(super) fn drain(
    core: &mut Core,
    context: &ApiContext<'_>,
    name: Option<&str>,
    request: &Request,
) -> Result<Reply, ErrorResponse> {
    let wait = match request.param("wait") {
        None | Some("" | "1" | "true" | "yes") => true,
        Some("0" | "false" | "no") => false,
        Some(other) => {
            let shown = other.escape_debug();
            return Err(ErrorResponse::new(
                400,
                format!("wait: `{shown}` is neither 0 nor 1"),
            ));
        }
    };
    let name = name
        .map(|name| known(core, context.now, name))
        .transpose()?;
    core.drain_for(
        context.now,
        name.as_ref(),
        Some(drain_request(request, context)),
    );
    if !wait {
        return Ok(Reply::Now(Response::empty()));
    }
    let json = request.wants_json();
    if core.drained(name.as_ref()) {
        return Ok(Reply::Now(super::drained(core, name.as_ref(), json)));
    }
    Ok(Reply::WhenDrained { name, json })
}

/// A drain belongs to the name: one that has no app at the moment can be undrained too.
pub(super) fn undrain(
    core: &mut Core,
    now: Instant,
    name: Option<&str>,
) -> Result<(), ErrorResponse> {
    let drained = |name: &str| {
        let name = name.parse().ok();
        name.filter(|name| core.is_drained_by_name(name))
    };
    let find = |name| known(core, now, name).or_else(|unknown| drained(name).ok_or(unknown));
    let name = name.map(find).transpose()?;
    core.undrain(now, name.as_ref());
    Ok(())
}

/// Who asks: our own commands give their name as User-Agent.
fn drain_request(request: &Request, context: &ApiContext<'_>) -> DrainRequest {
    let agent = request.header("user-agent").unwrap_or_default();
    let what = match agent.starts_with("sidecast/") {
        true => "the sidecast command",
        false => "HTTP",
    };
    let from = match request.via {
        ListenerScope::Loopback => "this host".to_owned(),
        ListenerScope::Tcp { caller, .. } => caller.to_string(),
        ListenerScope::Unix => "the Unix socket".to_owned(),
    };
    DrainRequest::new(&format!("{what} from {from}"), context.wall)
}

/// The parameter `name`; an empty one is none.
pub(super) fn name_param(request: &Request) -> Option<&str> {
    request.param("name").filter(|name| !name.is_empty())
}

fn known(core: &Core, now: Instant, name: &str) -> Result<AppName, ErrorResponse> {
    let app: Option<AppName> = name.parse().ok();
    app.filter(|app| core.app(now, app).is_some())
        .ok_or_else(|| unknown_app(name))
}

pub(super) fn unknown_app(name: &str) -> ErrorResponse {
    let shown: String = name.chars().take(80).collect();
    ErrorResponse::new(404, format!("there is no app `{}`", shown.escape_debug()))
}
