//! `sidecast register` and `unregister`: the HTTP API from a shell.

use super::Failure;
use super::client::{ANSWER, Client};

/// Registers an app. Options go as they are: `interval`, `rise`, `vip_communities`….
pub fn register(
    client: &Client,
    name: &str,
    vip: &str,
    monitors: &[String],
    nats: &[String],
    options: &[(String, String)],
) -> Result<u8, Failure> {
    let mut params = vec![pair("name", name), pair("vip", vip)];
    params.extend(monitors.iter().map(|m| pair("monitor", m)));
    params.extend(nats.iter().map(|n| pair("nat", n)));
    params.extend(options.iter().cloned());
    let answer = client.call("POST", "/register", &params, ANSWER)?;
    if answer.is_ok() {
        Ok(0)
    } else {
        Err(answer.into_failure())
    }
}

/// Unregisters an app; one that nobody knows is no error.
pub fn unregister(client: &Client, name: &str) -> Result<u8, Failure> {
    let answer = client.call("POST", "/unregister", &[pair("name", name)], ANSWER)?;
    if answer.is_ok() {
        Ok(0)
    } else {
        Err(answer.into_failure())
    }
}

pub(super) fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}
