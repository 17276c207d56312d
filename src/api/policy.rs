//! Who may ask: the token, and what keeps a browser from being used against its owner.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Method, Request, Via};

/// Why a request is not served, whatever it asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// A name that was rebound to a loopback address.
    Host(String),
    /// A page from elsewhere.
    Origin(String),
    CrossSite,
    /// No token, or not the right one.
    Token {
        given: bool,
    },
}

impl Denied {
    pub fn status(&self) -> u16 {
        match self {
            Self::Token { .. } => 401,
            _ => 403,
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(
                f,
                "Host `{}` is refused on a loopback listener: use its address or localhost",
                host.escape_debug()
            ),
            Self::Origin(origin) => {
                write!(f, "requests from {} are refused", origin.escape_debug())
            }
            Self::CrossSite => f.write_str("requests from another site are refused"),
            Self::Token { given: false } => f.write_str(
                "this call needs `Authorization: Bearer TOKEN` with the value of agent.api_token",
            ),
            Self::Token { given: true } => {
                f.write_str("the bearer token is not the one of agent.api_token")
            }
        }
    }
}

/// What holds for every call: DNS rebinding and foreign pages are refused. `changing`: the call
/// changes something.
pub fn check_browser(request: &Request, changing: bool) -> Result<(), Denied> {
    let host = request.header("host").unwrap_or_default();
    if request.via == Via::Loopback && !is_local_name(host) {
        return Err(Denied::Host(host.to_owned()));
    }
    let foreign = |origin: &&str| !is_same_origin(origin, host);
    if let Some(origin) = request.header("origin").filter(foreign) {
        return Err(Denied::Origin(origin.to_owned()));
    }
    // A link from elsewhere may show a page, it may not change anything.
    let link = !changing
        && matches!(request.method, Method::Get | Method::Head)
        && request.header("sec-fetch-mode") == Some("navigate");
    match request.header("sec-fetch-site") {
        Some("cross-site") if !link => Err(Denied::CrossSite),
        Some("same-site") if changing => Err(Denied::CrossSite),
        _ => Ok(()),
    }
}

/// Changing calls carry the token, where one is set.
pub fn check_token(request: &Request, token: Option<&str>) -> Result<(), Denied> {
    let Some(token) = token else {
        return Ok(());
    };
    let given = request
        .header("authorization")
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, given)| given.trim());
    match given {
        Some(given) if equal_in_constant_time(given.as_bytes(), token.as_bytes()) => Ok(()),
        given => Err(Denied::Token {
            given: given.is_some(),
        }),
    }
}

/// The time depends on the length of what was given alone: how much of it was right does not show.
fn equal_in_constant_time(given: &[u8], secret: &[u8]) -> bool {
    let mut differences = u8::from(given.len() != secret.len());
    let mut expected = secret.iter().cycle();
    for byte in given {
        differences |= byte ^ expected.next().copied().unwrap_or(!byte);
    }
    std::hint::black_box(differences) == 0
}

/// An address or `localhost`, with or without a port. Absent (HTTP/1.0): no browser sent it.
fn is_local_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bracketed = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    let is_ipv6 = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    let bare = name.strip_suffix('.').unwrap_or(name);
    host.is_empty()
        || bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<Ipv4Addr>().is_ok()
        || bracketed.is_some_and(is_ipv6)
        || is_ipv6(host)
}

/// `Origin` names scheme and authority; ours is whatever Host says, behind TLS or not.
fn is_same_origin(origin: &str, host: &str) -> bool {
    let authority = origin
        .strip_prefix("http://")
        .map(|a| a.strip_suffix(":80").unwrap_or(a))
        .or_else(|| {
            let a = origin.strip_prefix("https://")?;
            Some(a.strip_suffix(":443").unwrap_or(a))
        });
    let host = host.strip_suffix(":80").unwrap_or(host);
    let host = host.strip_suffix(":443").unwrap_or(host);
    !host.is_empty() && authority.is_some_and(|a| a.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(via: Via, headers: &[(&str, &str)]) -> Request {
        let headers = headers
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Request::new(Method::Get, "/", headers, b"", via).unwrap()
    }

    #[test]
    fn a_loopback_listener_answers_to_addresses_and_localhost() {
        let ask = |host: &str| check_browser(&request(Via::Loopback, &[("host", host)]), true);
        for host in [
            "127.0.0.1:8179",
            "localhost",
            "LocalHost:8179",
            "localhost.",
            "[::1]:8179",
            "192.0.2.1",
            "127.0.0.1.",
            "::1",
            "",
        ] {
            assert_eq!(ask(host), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8179",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1:8179.evil.example",
            "localhost:8179.evil.example",
            "[::1]:8179.evil.example",
            "[::1].evil.example:8179",
            "127.0.0.1:8179:evil",
            "[::1",
            "[evil]",
        ] {
            assert!(ask(host).is_err(), "{host}");
        }
        let elsewhere = request(Via::Tcp, &[("host", "sidecast.example")]);
        assert_eq!(check_browser(&elsewhere, true), Ok(()));
        let unix = request(Via::Unix, &[("host", "whatever")]);
        assert_eq!(check_browser(&unix, true), Ok(()));
    }

    #[test]
    fn a_foreign_origin_is_refused() {
        let ask = |origin: &str| {
            let headers = [("host", "127.0.0.1:8179"), ("origin", origin)];
            check_browser(&request(Via::Loopback, &headers), false)
        };
        assert_eq!(ask("http://127.0.0.1:8179"), Ok(()));
        assert_eq!(ask("https://127.0.0.1:8179"), Ok(()));
        for origin in [
            "null",
            "",
            "http://evil.example",
            "http://127.0.0.1",
            "http://127.0.0.1:3000",
            "file://127.0.0.1:8179",
        ] {
            assert!(matches!(ask(origin), Err(Denied::Origin(_))), "{origin}");
        }
        let default_port = [("host", "h"), ("origin", "http://h:80")];
        assert_eq!(
            check_browser(&request(Via::Tcp, &default_port), true),
            Ok(())
        );
        assert!(check_browser(&request(Via::Tcp, &[("origin", "http://")]), true).is_err());
    }

    #[test]
    fn another_site_may_link_and_nothing_else() {
        let ask = |site: &str, mode: &str, changing: bool| {
            let headers = [
                ("host", "h"),
                ("sec-fetch-site", site),
                ("sec-fetch-mode", mode),
            ];
            check_browser(&request(Via::Tcp, &headers), changing)
        };
        assert_eq!(ask("cross-site", "navigate", false), Ok(()));
        assert_eq!(ask("cross-site", "navigate", true), Err(Denied::CrossSite));
        assert_eq!(ask("cross-site", "no-cors", false), Err(Denied::CrossSite));
        assert_eq!(ask("same-site", "no-cors", true), Err(Denied::CrossSite));
        assert_eq!(ask("same-origin", "cors", true), Ok(()));
        assert_eq!(ask("none", "navigate", true), Ok(()));
    }

    #[test]
    fn a_token_is_compared_whole() {
        let ask = |value: &str| {
            check_token(
                &request(Via::Tcp, &[("authorization", value)]),
                Some("s3cret"),
            )
        };
        assert_eq!(ask("Bearer s3cret"), Ok(()));
        assert_eq!(ask("bearer  s3cret"), Ok(()));
        for wrong in [
            "Bearer s3cre",
            "Bearer s3crets",
            "Bearer s3crets3cret",
            "Bearer ",
            "Bearer",
            "Basic s3cret",
            "s3cret",
            "Bearer S3cret",
        ] {
            assert!(matches!(ask(wrong), Err(Denied::Token { .. })), "{wrong}");
        }
        let none = request(Via::Tcp, &[]);
        assert_eq!(
            check_token(&none, Some("s3cret")),
            Err(Denied::Token { given: false })
        );
        assert_eq!(check_token(&none, None), Ok(()));
        assert_eq!(Denied::Token { given: true }.status(), 401);
    }
}
