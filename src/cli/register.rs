//! `sidecast register` and `unregister`: the HTTP API from a shell.

use super::Failure;
use super::client::{ANSWER_TIMEOUT, Client};
use crate::app::Vip;

/// Registers an app. Options go as they are: `interval`, `rise`, `vip_communities`….
pub fn register(
    client: &Client,
    name: &str,
    vip: &str,
    monitors: &[String],
    nats: &[String],
    options: &[(String, String)],
) -> Result<u8, Failure> {
    check_vips(vip)?;
    let mut params = vec![pair("name", name), pair("vip", vip)];
    params.extend(monitors.iter().map(|m| pair("monitor", m)));
    params.extend(nats.iter().map(|n| pair("nat", n)));
    params.extend(options.iter().cloned());
    let answer = client.call("POST", "/register", &params, ANSWER_TIMEOUT)?;
    if answer.is_ok() {
        Ok(0)
    } else {
        Err(answer.into_failure())
    }
}

/// Unregisters an app; one that is not registered is no error.
pub fn unregister(client: &Client, name: &str) -> Result<u8, Failure> {
    let answer = client.call("POST", "/unregister", &[pair("name", name)], ANSWER_TIMEOUT)?;
    if answer.is_ok() {
        Ok(0)
    } else {
        Err(answer.into_failure())
    }
}

/// Checked here for a better message: the API keeps GoCast's text for an invalid VIP.
fn check_vips(list: &str) -> Result<(), Failure> {
    for vip in list.split(',').map(str::trim) {
        Vip::parse(vip).map_err(|e| Failure::usage(format!("sidecast: {e}")))?;
    }
    Ok(())
}

pub(super) fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vip_without_a_length_gets_a_hint() {
        assert!(check_vips("192.0.2.1/32, 2001:db8::1/128").is_ok());
        let failure = check_vips("192.0.2.1").unwrap_err();
        assert_eq!(failure.code, 2);
        assert!(failure.message.contains("write 192.0.2.1/32"), "{failure}");
        assert!(check_vips("").is_err());
    }
}
