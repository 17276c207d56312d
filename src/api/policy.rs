//! Access control: the token, the caller's address, and protection against CSRF and DNS rebinding.
//! Decided by the headers, the socket's addresses and the trusted networks; no header (X-Forwarded-For)
//! replaces the address.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ListenerScope, Method, Request};
use crate::net::Prefix;

/// Why a request is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// A foreign name on a loopback listener (DNS rebinding).
    Host(String),
    /// A foreign page, named by `Origin` or `Referer`.
    Origin(String),
    CrossSite,
    /// A browser, by its `User-Agent`: a page may have made the call.
    Browser,
    /// An HTTP check of sidecast: its URL may come from a tag.
    Check,
    /// This address may not change anything.
    Caller(IpAddr),
    /// No token, or not the right one.
    Token {
        presented: bool,
    },
}

impl Denied {
    /// The HTTP status: 401 for the token, else 403.
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
            Self::Browser => f.write_str(
                "a browser may not change anything without a token: set agent.api_token, or use \
                 another client",
            ),
            Self::Check => f.write_str("an HTTP check may not change anything without a token"),
            Self::Caller(addr) => {
                let addr = Prefix::host(*addr);
                write!(
                    f,
                    "{} may not change anything without a token: add `agent.api_allow: [{addr}]`, or \
                     set agent.api_token",
                    addr.addr()
                )
            }
            Self::Token { presented: false } => f.write_str(
                "this call needs `Authorization: Bearer TOKEN` with the value of agent.api_token",
            ),
            Self::Token { presented: true } => {
                f.write_str("the bearer token is not the one of agent.api_token")
            }
        }
    }
}

/// Checks for every call: DNS rebinding and foreign pages are refused. A link from a foreign page may
/// open the status page.
pub fn check_read(request: &Request) -> Result<(), Denied> {
    check_host(request)?;
    check_origin(request, "origin")?;
    let link = matches!(request.method, Method::Get | Method::Head)
        && request.header("sec-fetch-mode") == Some("navigate");
    match request.header("sec-fetch-site") {
        Some("cross-site") if !link => Err(Denied::CrossSite),
        _ => Ok(()),
    }
}

/// Checks for a changing call: the token where one is set, else a caller that is trusted or allowed and
/// no sign of a foreign page. `trusted` and `allowed` are used for TCP only.
pub fn check_change(
    request: &Request,
    token: Option<&str>,
    trusted: &BTreeSet<Prefix>,
    allowed: &[Prefix],
) -> Result<(), Denied> {
    check_host(request)?;
    if token.is_some() && check_token(request, token).is_ok() {
        return Ok(());
    }
    check_page(request)?;
    check_token(request, token)?;
    match request.via {
        ListenerScope::Tcp { caller, .. } if !request.via.is_local() => {
            let mut taken = trusted.iter().chain(allowed);
            match taken.any(|prefix| prefix.contains(caller)) {
                true => Ok(()),
                false => Err(Denied::Caller(caller)),
            }
        }
        _ => Ok(()),
    }
}

fn check_host(request: &Request) -> Result<(), Denied> {
    let host = request.header("host").unwrap_or_default();
    match request.via {
        ListenerScope::Loopback if !is_local_name(host) => Err(Denied::Host(host.to_owned())),
        _ => Ok(()),
    }
}

/// Refuses calls that a page may have made. A page cannot choose these headers; those that programs send
/// too (`Accept-Language`, `Cookie`, `Sec-Fetch-Mode`) are not used.
fn check_page(request: &Request) -> Result<(), Denied> {
    check_origin(request, "origin")?;
    if request.header("referer") != Some("") {
        check_origin(request, "referer")?;
    }
    let site = request.header("sec-fetch-site");
    if let Some("cross-site" | "same-site") = site {
        return Err(Denied::CrossSite);
    }
    // Browsers send Sec-Fetch-Site to loopback addresses and over TLS only.
    let agent = request.header("user-agent").unwrap_or_default();
    let is_browser = agent.starts_with("Mozilla/") && !agent.contains("PowerShell");
    match site {
        _ if agent.starts_with("sidecast/") && agent.ends_with(CHECK_USER_AGENT) => {
            Err(Denied::Check)
        }
        Some("same-origin" | "none") => Ok(()),
        _ if is_browser => Err(Denied::Browser),
        _ => Ok(()),
    }
}

/// The suffix of an HTTP check's `User-Agent`. Its address is this host's, its URL may come from a tag.
pub const CHECK_USER_AGENT: &str = " (check)";

/// The header, if present, must name this origin.
fn check_origin(request: &Request, header: &str) -> Result<(), Denied> {
    let host = request.header("host").unwrap_or_default();
    match request.header(header) {
        Some(origin) if !is_same_origin(origin, host) => Err(Denied::Origin(origin.to_owned())),
        _ => Ok(()),
    }
}

/// The token, where one is set.
fn check_token(request: &Request, token: Option<&str>) -> Result<(), Denied> {
    let Some(token) = token else {
        return Ok(());
    };
    let presented = request
        .header("authorization")
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, presented)| presented.trim());
    match presented {
        Some(presented) if equal_in_constant_time(presented.as_bytes(), token.as_bytes()) => Ok(()),
        presented => Err(Denied::Token {
            presented: presented.is_some(),
        }),
    }
}

/// Constant time: depends on the length of `presented` alone.
fn equal_in_constant_time(presented: &[u8], secret: &[u8]) -> bool {
    let mut differences = u8::from(presented.len() != secret.len());
    let mut expected = secret.iter().cycle();
    for byte in presented {
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

/// `Origin` names scheme and authority, `Referer` a path behind them; ours is whatever Host says,
/// behind TLS or not.
fn is_same_origin(url: &str, host: &str) -> bool {
    let strip = |scheme: &str, port: &str| {
        let rest = url.strip_prefix(scheme)?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        Some(authority.strip_suffix(port).unwrap_or(authority))
    };
    let authority = strip("http://", ":80").or_else(|| strip("https://", ":443"));
    let host = host.strip_suffix(":80").unwrap_or(host);
    let host = host.strip_suffix(":443").unwrap_or(host);
    !host.is_empty() && authority.is_some_and(|a| a.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(via: ListenerScope, headers: &[(&str, &str)]) -> Request {
        let headers = headers
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Request::new(Method::Get, "/", headers, b"", via).unwrap()
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn from(caller: &str) -> ListenerScope {
        ListenerScope::Tcp {
            caller: addr(caller),
            local: addr("10.0.0.2"),
        }
    }

    /// A caller in a trusted network.
    fn tcp() -> ListenerScope {
        from("172.17.0.3")
    }

    fn change(request: &Request) -> Result<(), Denied> {
        let trusted = BTreeSet::from(["172.17.0.0/16".parse().unwrap()]);
        check_change(request, None, &trusted, &["10.9.0.0/16".parse().unwrap()])
    }

    #[test]
    fn a_loopback_listener_answers_to_addresses_and_localhost() {
        let ask = |host: &str| change(&request(ListenerScope::Loopback, &[("host", host)]));
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
        let elsewhere = request(tcp(), &[("host", "sidecast.example")]);
        assert_eq!(change(&elsewhere), Ok(()));
        let unix = request(ListenerScope::Unix, &[("host", "whatever")]);
        assert_eq!(change(&unix), Ok(()));
    }

    #[test]
    fn a_foreign_origin_is_refused() {
        let ask = |origin: &str| {
            let headers = [("host", "127.0.0.1:8179"), ("origin", origin)];
            check_read(&request(ListenerScope::Loopback, &headers))
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
        assert_eq!(change(&request(tcp(), &default_port)), Ok(()));
        assert!(change(&request(tcp(), &[("origin", "http://")])).is_err());
    }

    #[test]
    fn another_site_may_link_and_nothing_else() {
        let ask = |site: &str, mode: &str, changing: bool| {
            let headers = [
                ("host", "h"),
                ("sec-fetch-site", site),
                ("sec-fetch-mode", mode),
            ];
            let request = request(tcp(), &headers);
            match changing {
                true => change(&request),
                false => check_read(&request),
            }
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
        let ask =
            |value: &str| check_token(&request(tcp(), &[("authorization", value)]), Some("s3cret"));
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
        let none = request(tcp(), &[]);
        assert_eq!(
            check_token(&none, Some("s3cret")),
            Err(Denied::Token { presented: false })
        );
        assert_eq!(check_token(&none, None), Ok(()));
        assert_eq!(Denied::Token { presented: true }.status(), 401);
    }

    #[test]
    fn other_hosts_change_something_only_if_trusted_or_allowed() {
        let ask = |caller: &str| change(&request(from(caller), &[("host", "10.0.0.2:8080")]));
        for taken in ["127.0.0.1", "::1", "10.0.0.2", "172.17.255.9", "10.9.1.2"] {
            assert_eq!(ask(taken), Ok(()), "{taken}");
        }
        for (refused, line) in [
            ("10.0.0.1", "agent.api_allow: [10.0.0.1/32]"),
            ("2001:db8::5", "agent.api_allow: [2001:db8::5/128]"),
            ("fe80::1", "agent.api_allow: [fe80::1/128]"),
        ] {
            let denied = ask(refused).unwrap_err();
            assert_eq!(denied.status(), 403);
            let text = denied.to_string();
            assert!(text.contains(line) && text.contains("api_token"), "{text}");
            assert!(text.starts_with(refused), "{text}");
            assert_eq!(check_read(&request(from(refused), &[])), Ok(()));
        }
        for header in ["x-forwarded-for", "forwarded", "x-real-ip"] {
            let borrowed = request(from("10.0.0.1"), &[(header, "127.0.0.1")]);
            assert!(matches!(change(&borrowed), Err(Denied::Caller(_))));
        }
        let with = |headers| {
            let request = request(from("10.0.0.1"), headers);
            check_change(&request, Some("s3cret"), &BTreeSet::new(), &[])
        };
        // A token replaces all of these checks but the one against DNS rebinding.
        let page = [
            ("authorization", "Bearer s3cret"),
            ("user-agent", "Mozilla/5.0"),
            ("origin", "http://dashboard.example"),
        ];
        assert_eq!(with(&page), Ok(()));
        assert_eq!(with(&[]), Err(Denied::Token { presented: false }));
        let rebound = [("host", "evil.example"), page[0]];
        let rebound = request(ListenerScope::Loopback, &rebound);
        let denied = check_change(&rebound, Some("s3cret"), &BTreeSet::new(), &[]);
        assert!(matches!(denied, Err(Denied::Host(_))));
    }

    /// Headers as the programs send them, without the host's.
    fn recorded(name: &str) -> Vec<(String, String)> {
        let all = include_str!("../../tests/data/http/clients.txt");
        let mut sections = all.split("\n## ").skip(1);
        let section = sections.find(|section| section.lines().next() == Some(name));
        let lines = section.unwrap_or_else(|| panic!("{name} is not recorded"));
        let headers = lines
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "));
        headers
            .map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned()))
            .collect()
    }

    #[test]
    fn programs_are_accepted_and_browsers_are_not() {
        let ask = |name: &str| {
            let mut headers = recorded(name);
            headers.push(("host".to_owned(), "10.0.0.2:8080".to_owned()));
            change(&Request::new(Method::Get, "/", headers, b"", tcp()).unwrap())
        };
        for name in [
            "curl",
            "wget",
            "python requests",
            "python urllib",
            "Go net/http",
            "node fetch",
            "node:http",
            "axios",
            "Windows PowerShell 5.1",
            "PowerShell 7",
        ] {
            assert_eq!(ask(name), Ok(()), "{name}");
        }
        for page in ["<img>", "form", "fetch no-cors", "typed URL"] {
            for browser in ["Chromium", "Firefox"] {
                let name = format!("{browser} {page}");
                let status = ask(&name).map_err(|denied| denied.status());
                assert_eq!(status, Err(403), "{name}");
            }
        }
        // On a loopback address a browser says where a call comes from.
        for browser in ["Chromium", "Firefox"] {
            let ask = |page: &str| ask(&format!("{browser} {page}, loopback"));
            assert_eq!(ask("typed URL"), Ok(()));
            assert_eq!(ask("<img>"), Err(Denied::CrossSite));
        }
    }

    #[test]
    fn what_programs_send_too_is_no_sign_of_a_page() {
        let ask = |header| change(&request(tcp(), &[("host", "h"), header]));
        for header in [
            ("accept-language", "*"),
            ("cookie", "a=b"),
            ("sec-fetch-mode", "cors"),
            ("user-agent", "curl/8.0 (like Mozilla/5.0)"),
            ("user-agent", "sidecast/1.2.3"),
            ("referer", "http://h/page"),
            ("origin", "http://h"),
        ] {
            assert_eq!(ask(header), Ok(()), "{header:?}");
        }
        for header in [
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"),
            ("user-agent", "sidecast/1.2.3 (check)"),
            ("referer", "http://evil.example/page"),
            ("referer", "http://h.evil.example/h"),
            ("origin", "null"),
            ("sec-fetch-site", "same-site"),
        ] {
            let denied = ask(header).unwrap_err();
            assert_eq!(denied.status(), 403, "{header:?}");
        }
    }
}
