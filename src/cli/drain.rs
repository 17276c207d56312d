//! `sidecast drain` and `undrain`: withdraws routes before the service stops, for a preStop hook.

use std::io::Write;

use serde_json::Value;

use super::client::{ANSWER_TIMEOUT, Client, DRAIN_TIMEOUT};
use super::register::pair;
use super::{Failure, output};

/// Drains one app or all; with `wait` it returns when the routes are gone and packets have stopped coming, `drain_time`
/// at the latest, and prints the steps with their times.
pub fn drain(
    client: &Client,
    name: Option<&str>,
    wait: bool,
    out: &mut impl Write,
) -> Result<u8, Failure> {
    let mut params: Vec<_> = name.map(|n| pair("name", n)).into_iter().collect();
    if !wait {
        params.push(pair("wait", "0"));
    }
    let limit = if wait { DRAIN_TIMEOUT } else { ANSWER_TIMEOUT };
    let answer = client.call("POST", "/drain", &params, limit)?;
    if answer.is_ok() {
        output::write(out, &steps(&answer.body))?;
        Ok(0)
    } else {
        Err(answer.into_failure())
    }
}

/// A line for each app of `{"drained": […]}`; empty for any other answer.
fn steps(body: &str) -> String {
    let parsed: Option<Value> = serde_json::from_slice(body.as_bytes()).ok();
    let drained = parsed.as_ref().and_then(|v| v.get("drained"));
    let apps = drained.and_then(Value::as_array).into_iter().flatten();
    let lines = apps.filter_map(|app| {
        let (name, text) = (app.get("app")?.as_str()?, app.get("text")?.as_str()?);
        Some(format!("{name}: {text}\n"))
    });
    lines.collect()
}

/// Ends the drain of one app, or of all.
pub fn undrain(client: &Client, name: Option<&str>) -> Result<u8, Failure> {
    let params: Vec<_> = name.map(|n| pair("name", n)).into_iter().collect();
    let answer = client.call("POST", "/undrain", &params, ANSWER_TIMEOUT)?;
    if answer.is_ok() {
        Ok(0)
    } else {
        Err(answer.into_failure())
    }
}
