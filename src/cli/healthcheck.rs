//! `sidecast healthcheck`: for a container's HEALTHCHECK and an exec probe.

use std::path::Path;
use std::time::Duration;

use super::Failure;
use super::client::{Client, Lookup};

/// 0 when `/healthz` answers 200, and when the listener is switched off: then there is no listener to ask,
/// and the process is there or the container would not be.
pub fn run(addr: Option<&str>, config: Option<&Path>) -> Result<u8, Failure> {
    let client = match Client::find(addr, config)? {
        Lookup::Client(client) => client,
        Lookup::SwitchedOff => return Ok(0),
    };
    let answer = client.call("GET", "/healthz", &[], TIMEOUT)?;
    if answer.is_ok() {
        Ok(0)
    } else {
        Err(answer.into_failure())
    }
}

const TIMEOUT: Duration = Duration::from_secs(5);
