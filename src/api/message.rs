//! A request as the API sees it and the answer it gives: no bytes, no sockets.
//!
//! Parameters come from the query of every method and from a form or JSON body of `POST`; repeated
//! keys stay, in order.

use std::fmt;
use std::net::IpAddr;

use serde_json::Value;

use super::continuation::Continuation;

/// The methods that are distinguished; GoCast's own calls take any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Other,
}

impl Method {
    /// Methods are case-sensitive (RFC 9110 §9.1).
    pub fn parse(token: &str) -> Self {
        match token {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            _ => Self::Other,
        }
    }
}

/// The listener of a request: decides which `Host` is accepted and whether it may change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerScope {
    /// A TCP listener bound to a loopback address: browsers on this machine reach it, so that names
    /// which were rebound to it have to be refused.
    Loopback,
    /// Another TCP listener, with the addresses of both ends of the connection.
    Tcp {
        caller: IpAddr,
        local: IpAddr,
    },
    Unix,
}

impl ListenerScope {
    /// Whether the request comes from this host.
    pub fn is_local(self) -> bool {
        match self {
            Self::Loopback | Self::Unix => true,
            // A spoofed source address of ours never completes the handshake.
            Self::Tcp { caller, local } => caller.is_loopback() || caller == local,
        }
    }
}

/// One request, decoded.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    /// Percent-decoded, always with a leading `/` (or `*`).
    pub path: String,
    pub params: Vec<(String, String)>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub via: ListenerScope,
}

/// Why a well-formed HTTP request is not a valid call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    Target,
    ContentType(String),
    Json(String),
    JsonShape { key: String },
    Form,
    TooManyParameters,
}

impl RequestError {
    /// The status that goes with it.
    pub fn status(&self) -> u16 {
        match self {
            Self::ContentType(_) => 415,
            _ => 400,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target => f.write_str("the path is not valid percent-encoded UTF-8"),
            Self::ContentType(found) => write!(
                f,
                "a body of type `{found}` is not understood, send application/x-www-form-urlencoded or application/json"
            ),
            Self::Json(why) => write!(f, "the body is not valid JSON: {why}"),
            Self::JsonShape { key } if key.is_empty() => {
                f.write_str("the JSON body has to be an object of parameters")
            }
            Self::JsonShape { key } => write!(
                f,
                "`{key}` in the JSON body has to be a text, a number, a boolean or a list of those"
            ),
            Self::Form => f.write_str("the query or the form is not UTF-8"),
            Self::TooManyParameters => {
                write!(f, "more than {MAX_PARAMETERS} parameters in one request")
            }
        }
    }
}

impl std::error::Error for RequestError {}

impl Request {
    /// Makes a request of its parts; `target` is as on the request line.
    pub fn new(
        method: Method,
        target: &str,
        mut headers: Vec<(String, String)>,
        body: &[u8],
        via: ListenerScope,
    ) -> Result<Self, RequestError> {
        let (authority, origin_form) = split_target(target);
        if let Some(authority) = authority {
            // The target's authority takes the place of Host (RFC 9112 §3.2.2).
            headers.retain(|(name, _)| name != "host");
            headers.push(("host".to_owned(), authority.to_owned()));
        }
        let without_fragment = origin_form.split('#').next().unwrap_or_default();
        let (path, query) = without_fragment
            .split_once('?')
            .unwrap_or((without_fragment, ""));
        let mut params = Vec::new();
        extend_from_form(&mut params, query.as_bytes());
        let path = percent_decode(path).ok_or(RequestError::Target)?;
        let mut request = Self {
            method,
            path,
            params,
            headers,
            via,
        };
        if method == Method::Post && !body.is_empty() {
            request.add_body(body)?;
        }
        if request.params.len() > MAX_PARAMETERS {
            return Err(RequestError::TooManyParameters);
        }
        // The form decoder replaces invalid UTF-8 by U+FFFD: two names must not become one.
        let broken = |text: &String| text.contains(char::REPLACEMENT_CHARACTER);
        if request
            .params
            .iter()
            .any(|(key, value)| broken(key) || broken(value))
        {
            return Err(RequestError::Form);
        }
        Ok(request)
    }

    /// The first header of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// The first parameter of that name.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// Whether errors go out as JSON.
    pub fn wants_json(&self) -> bool {
        asks_for_json(&self.headers)
    }

    fn add_body(&mut self, body: &[u8]) -> Result<(), RequestError> {
        let content_type = self
            .header("content-type")
            .unwrap_or("application/x-www-form-urlencoded");
        let kind = content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        if kind == "application/x-www-form-urlencoded" {
            let text = std::str::from_utf8(body).map_err(|_| RequestError::Form)?;
            extend_from_form(&mut self.params, text.trim_end().as_bytes());
            Ok(())
        } else if kind == "application/json" || kind.ends_with("+json") {
            extend_from_json(&mut self.params, body)
        } else {
            Err(RequestError::ContentType(kind))
        }
    }
}

/// Whether `Accept` names JSON; `*/*` does not, so that curl gets text. Header names in lower case.
pub fn asks_for_json(headers: &[(String, String)]) -> bool {
    headers
        .iter()
        .filter(|(name, _)| name == "accept")
        .flat_map(|(_, value)| value.split(','))
        .any(|item| {
            let mut parts = item.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            kind.eq_ignore_ascii_case("application/json")
                && !parts.any(|p| {
                    p.strip_prefix("q=")
                        .and_then(|q| q.parse::<f64>().ok())
                        .is_some_and(|q| q <= 0.0)
                })
        })
}

/// `http://host/path` into authority and path; anything else is a path already.
fn split_target(target: &str) -> (Option<&str>, &str) {
    let lower = target.get(..8).unwrap_or(target).to_ascii_lowercase();
    let rest = if lower.starts_with("http://") {
        target.get(7..)
    } else if lower.starts_with("https://") {
        target.get(8..)
    } else {
        None
    };
    let Some(rest) = rest else {
        return (None, target);
    };
    match rest.find(['/', '?', '#']) {
        None => (Some(rest), "/"),
        Some(at) => {
            let (authority, path) = rest.split_at(at);
            if path.starts_with('/') {
                (Some(authority), path)
            } else {
                // An empty path with a query: no call of ours has that form.
                (Some(authority), "/")
            }
        }
    }
}

fn extend_from_form(params: &mut Vec<(String, String)>, text: &[u8]) {
    // One more than is taken is enough to know that there are too many.
    let room = (MAX_PARAMETERS + 1).saturating_sub(params.len());
    params.extend(form_urlencoded::parse(text).into_owned().take(room));
}

fn extend_from_json(params: &mut Vec<(String, String)>, body: &[u8]) -> Result<(), RequestError> {
    let value: Value =
        serde_json::from_slice(body).map_err(|e| RequestError::Json(e.to_string()))?;
    let Value::Object(map) = value else {
        return Err(RequestError::JsonShape { key: String::new() });
    };
    for (key, value) in map {
        match value {
            Value::Null => {}
            Value::Array(items) => {
                for item in items {
                    let text = scalar(&item)
                        .ok_or_else(|| RequestError::JsonShape { key: key.clone() })?;
                    params.push((key.clone(), text));
                }
            }
            single => {
                let text =
                    scalar(&single).ok_or_else(|| RequestError::JsonShape { key: key.clone() })?;
                params.push((key, text));
            }
        }
    }
    Ok(())
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// Decodes `%XX`; a `%` that begins no escape and bytes that are not UTF-8 are refused.
fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok()
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Empty: no Content-Type is sent.
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The continuation of a body that is sent in chunks.
    pub rest: Option<Continuation>,
}

impl Response {
    /// 200 without a body, as GoCast answers its changing calls.
    pub fn empty() -> Self {
        Self {
            status: 200,
            content_type: "",
            headers: Vec::new(),
            body: Vec::new(),
            rest: None,
        }
    }

    /// An answer with a body.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            content_type,
            headers: Vec::new(),
            body: body.into(),
            rest: None,
        }
    }

    /// One line of text; the newline is added.
    pub fn text(status: u16, line: &str) -> Self {
        Self::new(status, TEXT, format!("{line}\n"))
    }

    /// A JSON body, with a newline.
    pub fn json(status: u16, value: &Value) -> Self {
        Self::new(status, JSON, format!("{value}\n"))
    }

    /// An error in the form the client asked for: a line of text, or `{"error": …}`.
    pub fn error(status: u16, message: &str, json: bool) -> Self {
        if json {
            Self::json(status, &serde_json::json!({ "error": message }))
        } else {
            Self::text(status, message)
        }
    }

    /// Adds a header.
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// More than an app at its bounds needs: 64 VIPs, 32 monitors and 64 NATs.
const MAX_PARAMETERS: usize = 256;

/// The content type of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// The content type of JSON.
pub const JSON: &str = "application/json";

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &str) -> Request {
        Request::new(Method::Get, target, Vec::new(), b"", ListenerScope::Unix).unwrap()
    }

    fn post(kind: Option<&str>, body: &[u8]) -> Result<Request, RequestError> {
        let headers = kind
            .map(|k| ("content-type".to_owned(), k.to_owned()))
            .into_iter()
            .collect();
        Request::new(
            Method::Post,
            "/register?name=a",
            headers,
            body,
            ListenerScope::Unix,
        )
    }

    #[test]
    fn query_parameters_keep_order_and_repetition() {
        let r = get("/register?name=dns&monitor=port:udp:53&monitor=exec:a%20b+c&nat=&x");
        let pairs: Vec<_> = r
            .params
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [
                ("name", "dns"),
                ("monitor", "port:udp:53"),
                ("monitor", "exec:a b c"),
                ("nat", ""),
                ("x", "")
            ]
        );
        assert_eq!(r.path, "/register");
    }

    #[test]
    fn form_and_json_bodies_give_the_same_parameters() {
        let form = post(None, b"vip=192.0.2.1/32&monitor=a&monitor=b\n").unwrap();
        let json = post(
            Some("application/json; charset=utf-8"),
            br#"{"vip":"192.0.2.1/32","monitor":["a","b"]}"#,
        )
        .unwrap();
        let mut left = form.params.clone();
        let mut right = json.params.clone();
        left.sort();
        right.sort();
        assert_eq!(left, right);
        assert_eq!(form.param("name"), Some("a"));
    }

    #[test]
    fn json_numbers_and_booleans_are_texts_and_null_is_absent() {
        let r = post(
            Some("application/json"),
            br#"{"rise":3,"wait":false,"nat":null}"#,
        )
        .unwrap();
        assert_eq!(r.param("rise"), Some("3"));
        assert_eq!(r.param("wait"), Some("false"));
        assert_eq!(r.param("nat"), None);
    }

    #[test]
    fn bodies_that_cannot_be_understood_say_why() {
        assert!(matches!(
            post(Some("text/xml"), b"<a/>"),
            Err(RequestError::ContentType(_))
        ));
        assert_eq!(post(Some("text/xml"), b"<a/>").unwrap_err().status(), 415);
        assert!(matches!(
            post(Some("application/json"), b"{"),
            Err(RequestError::Json(_))
        ));
        assert!(matches!(
            post(Some("application/json"), b"[1]"),
            Err(RequestError::JsonShape { .. })
        ));
        assert!(matches!(
            post(Some("application/json"), br#"{"a":{"b":1}}"#),
            Err(RequestError::JsonShape { .. })
        ));
        assert!(matches!(post(None, b"a=\xff"), Err(RequestError::Form)));
        // Nested deeper than the parser follows: refused, not overflowed.
        let deep = "[".repeat(60_000);
        assert!(matches!(
            post(Some("application/json"), deep.as_bytes()),
            Err(RequestError::Json(_))
        ));
    }

    #[test]
    fn parameters_are_counted_wherever_they_stand() {
        let many = |count: usize| vec!["a=1"; count].join("&");
        let ask = |query: usize, kind: &str, body: &str| {
            let headers = vec![("content-type".to_owned(), kind.to_owned())];
            let target = format!("/register?{}", many(query));
            Request::new(
                Method::Post,
                &target,
                headers,
                body.as_bytes(),
                ListenerScope::Unix,
            )
            .map(|request| request.params.len())
        };
        let form = "application/x-www-form-urlencoded";
        assert_eq!(ask(256, form, ""), Ok(256));
        assert_eq!(ask(100, form, &many(156)), Ok(256));
        let too_many = Err(RequestError::TooManyParameters);
        assert_eq!(ask(257, form, ""), too_many);
        assert_eq!(ask(100, form, &many(157)), too_many);
        let json = format!("{{\"a\":[{}]}}", vec!["1"; 257].join(","));
        assert_eq!(ask(0, "application/json", &json), too_many);
    }

    #[test]
    fn an_empty_body_needs_no_type() {
        assert!(post(Some("text/xml"), b"").is_ok());
    }

    #[test]
    fn the_body_of_other_methods_is_no_parameter() {
        let r = Request::new(Method::Other, "/a", Vec::new(), b"x=1", ListenerScope::Unix).unwrap();
        assert!(r.params.is_empty());
    }

    #[test]
    fn paths_are_decoded_and_bad_ones_refused() {
        assert_eq!(get("/apps/a%20b%2fc").path, "/apps/a b/c");
        assert_eq!(get("/apps#x?y=1").path, "/apps");
        for bad in ["/%", "/%4", "/%zz", "/%ff", "/%+1"] {
            assert!(
                Request::new(Method::Get, bad, Vec::new(), b"", ListenerScope::Unix).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn absolute_targets_replace_host() {
        let headers = vec![("host".to_owned(), "localhost".to_owned())];
        let r = Request::new(
            Method::Get,
            "HTTP://evil.example:1/apps?x=1",
            headers,
            b"",
            ListenerScope::Loopback,
        )
        .unwrap();
        assert_eq!(r.header("host"), Some("evil.example:1"));
        assert_eq!(r.path, "/apps");
        assert_eq!(r.param("x"), Some("1"));
        assert_eq!(get("http://h").path, "/");
        assert_eq!(get("http://h?x").path, "/");
    }

    #[test]
    fn json_is_wanted_only_when_named() {
        let ask = |accept: &str| {
            let headers = vec![("accept".to_owned(), accept.to_owned())];
            Request::new(Method::Get, "/", headers, b"", ListenerScope::Unix)
                .unwrap()
                .wants_json()
        };
        assert!(ask("application/json"));
        assert!(ask("text/html, Application/JSON;q=0.5"));
        assert!(!ask("*/*"));
        assert!(!ask("text/html"));
        assert!(!ask("application/json;q=0"));
        assert!(!get("/").wants_json());
    }

    #[test]
    fn errors_take_the_form_asked_for() {
        assert_eq!(
            Response::error(409, "held \"here\"", true).body,
            b"{\"error\":\"held \\\"here\\\"\"}\n"
        );
        assert_eq!(Response::error(409, "held", false).body, b"held\n");
    }
}
