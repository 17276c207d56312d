//! The calls that change something.

use std::time::Instant;

use super::{Refused, Reply, Request, Response};
use crate::app::{AppName, Source};
use crate::config::{Refusal, parse_app_from_params};
use crate::core::Core;

/// `/register`. The same call again changes nothing, a changed one replaces the app in place.
pub(super) fn register(core: &mut Core, now: Instant, request: &Request) -> Result<(), Refused> {
    parse_app_from_params(&request.params, Source::Http, core.config())
        .and_then(|app| core.register(now, app))
        .map(drop)
        .map_err(|refusal| match refusal {
            Refusal::Policy { .. } => Refused::new(403, refusal.to_string()),
            Refusal::Conflict(message) => Refused::new(409, message),
            Refusal::Invalid(message) => invalid(message),
        })
}

fn invalid(message: impl std::fmt::Display) -> Refused {
    Refused::new(400, format!("Invalid request: {message}"))
}

/// `/unregister`: an unknown name is no error.
pub(super) fn unregister(core: &mut Core, now: Instant, request: &Request) -> Result<(), Refused> {
    let name = named(request)
        .ok_or_else(|| Refused::new(400, "Invalid request, need app name specified"))?;
    // A text that is no name names no app.
    if let Ok(name) = name.parse() {
        core.unregister(now, &name);
    }
    Ok(())
}

pub(super) fn heartbeat(core: &mut Core, now: Instant, request: &Request) -> Result<(), Refused> {
    let name = named(request)
        .ok_or_else(|| Refused::new(400, "Invalid request, need app name specified"))?;
    let name = known(core, now, name)?;
    core.heartbeat(now, &name)
        .ok_or_else(|| Refused::new(404, format!("the app `{name}` has no heartbeat monitor")))
}

/// Answered when the routes are gone, acknowledged and `drain_time` has passed; `wait=0`: at once.
pub(super) fn drain(
    core: &mut Core,
    now: Instant,
    name: Option<&str>,
    request: &Request,
) -> Result<Reply, Refused> {
    let wait = match request.param("wait") {
        None | Some("" | "1" | "true" | "yes") => true,
        Some("0" | "false" | "no") => false,
        Some(other) => {
            let shown = other.escape_debug();
            return Err(Refused::new(
                400,
                format!("wait: `{shown}` is neither 0 nor 1"),
            ));
        }
    };
    let name = name.map(|name| known(core, now, name)).transpose()?;
    core.drain(now, name.as_ref());
    let response = Response::empty();
    if !wait || core.drained(name.as_ref()) {
        return Ok(Reply::Now(response));
    }
    Ok(Reply::WhenDrained { name, response })
}

/// A drain belongs to the name: one that has no app at the moment can be undrained too.
pub(super) fn undrain(core: &mut Core, now: Instant, name: Option<&str>) -> Result<(), Refused> {
    let drained = |name: &str| {
        let name = name.parse().ok();
        name.filter(|name| core.is_drained_by_name(name))
    };
    let find = |name| known(core, now, name).or_else(|unknown| drained(name).ok_or(unknown));
    let name = name.map(find).transpose()?;
    core.undrain(now, name.as_ref());
    Ok(())
}

/// The parameter `name`; an empty one is none.
pub(super) fn named(request: &Request) -> Option<&str> {
    request.param("name").filter(|name| !name.is_empty())
}

fn known(core: &Core, now: Instant, name: &str) -> Result<AppName, Refused> {
    let app: Option<AppName> = name.parse().ok();
    app.filter(|app| core.app(now, app).is_some())
        .ok_or_else(|| unknown_app(name))
}

pub(super) fn unknown_app(name: &str) -> Refused {
    let shown: String = name.chars().take(80).collect();
    Refused::new(404, format!("there is no app `{}`", shown.escape_debug()))
}
