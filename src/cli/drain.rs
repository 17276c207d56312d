//! `sidecast drain` and `undrain`: routes away before the service stops, fit for a preStop hook.

use super::Failure;
use super::client::{ANSWER, Client, DRAIN};
use super::register::pair;

/// Drains one app or all; with `wait` it returns when the routes are gone and `drain_time` is over.
pub fn drain(client: &Client, name: Option<&str>, wait: bool) -> Result<u8, Failure> {
    let mut params: Vec<_> = name.map(|n| pair("name", n)).into_iter().collect();
    if !wait {
        params.push(pair("wait", "0"));
    }
    let limit = if wait { DRAIN } else { ANSWER };
    let answer = client.call("POST", "/drain", &params, limit)?;
    if answer.is_ok() {
        Ok(0)
    } else {
        Err(answer.into_failure())
    }
}

pub fn undrain(client: &Client, name: Option<&str>) -> Result<u8, Failure> {
    let params: Vec<_> = name.map(|n| pair("name", n)).into_iter().collect();
    let answer = client.call("POST", "/undrain", &params, ANSWER)?;
    if answer.is_ok() {
        Ok(0)
    } else {
        Err(answer.into_failure())
    }
}
