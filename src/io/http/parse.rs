//! Incremental HTTP/1 request parser (RFC 9112), as far as a small server needs it.
//!
//! Left out: trailers are skipped, obsolete line folding is refused, no transfer coding but `chunked`.
//! Ambiguous framing (Content-Length with Transfer-Encoding, two lengths, a bare CR) is refused, against
//! request smuggling through a proxy.

use std::fmt;

use crate::api::{ListenerScope, Method, Request, RequestError, asks_for_json};

/// Limits of one request, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub head: usize,
    pub body: usize,
}

/// A request, and how to answer it on its connection.
#[derive(Debug)]
pub struct Parsed {
    pub request: Result<Request, RequestError>,
    pub keep_alive: bool,
    /// A response without Content-Length may be chunked.
    pub is_http11: bool,
    /// The method is HEAD: the response has no body.
    pub is_head: bool,
    /// Errors are sent as JSON.
    pub wants_json: bool,
}

/// Why the bytes are not a request; the connection is closed after the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    Syntax,
    HeadTooLarge,
    BodyTooLarge,
    BothLengths,
    BadLength,
    BadChunk,
    TransferCoding,
    Version,
    NoHost,
    TwoHosts,
    Expectation,
}

impl ParseError {
    /// The status code of the response.
    pub fn status(self) -> u16 {
        match self {
            Self::HeadTooLarge => 431,
            Self::BodyTooLarge => 413,
            Self::TransferCoding => 501,
            Self::Version => 505,
            Self::Expectation => 417,
            _ => 400,
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "this is not an HTTP request",
            Self::HeadTooLarge => "the request head is too large",
            Self::BodyTooLarge => "the request body is too large",
            Self::BothLengths => "Content-Length and Transfer-Encoding together",
            Self::BadLength => "Content-Length is not one number",
            Self::BadChunk => "the chunked body is malformed",
            Self::TransferCoding => "unsupported transfer coding: only chunked is supported",
            Self::Version => "only HTTP/1.0 and HTTP/1.1 are supported",
            Self::NoHost => "HTTP/1.1 needs a Host header",
            Self::TwoHosts => "more than one Host header",
            Self::Expectation => "unsupported expectation: only 100-continue is supported",
        })
    }
}

impl std::error::Error for ParseError {}

/// The head of a request whose body is being read.
#[derive(Debug)]
struct Head {
    method: Method,
    target: String,
    headers: Vec<(String, String)>,
    keep_alive: bool,
    is_http11: bool,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Length(usize),
    Chunked(Chunked),
}

/// Takes bytes and returns requests; bytes after a request belong to the next one.
#[derive(Debug)]
pub struct Parser {
    sizes: Sizes,
    via: ListenerScope,
    buffer: Vec<u8>,
    head: Option<Head>,
    /// Line breaks before the head that is next.
    blank: usize,
    wants_continue: bool,
}

impl Parser {
    /// A parser for the requests of one connection.
    pub fn new(sizes: Sizes, via: ListenerScope) -> Self {
        Self {
            sizes,
            via,
            buffer: Vec::new(),
            head: None,
            blank: 0,
            wants_continue: false,
        }
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// No byte of the next request has come.
    pub fn is_idle(&self) -> bool {
        self.head.is_none() && self.buffer.is_empty()
    }

    /// The head has come, its body has not.
    pub fn in_body(&self) -> bool {
        self.head.is_some()
    }

    /// True once when the client waits for `100 Continue` before it sends the body.
    pub fn take_continue(&mut self) -> bool {
        std::mem::take(&mut self.wants_continue) && self.buffer.is_empty()
    }

    /// The next whole request. `None`: more bytes are needed.
    pub fn poll(&mut self) -> Result<Option<Parsed>, ParseError> {
        if self.head.is_none() {
            self.head = self.read_head()?;
        }
        let Some(head) = &mut self.head else {
            return Ok(None);
        };
        let body = match &mut head.body {
            Body::Length(length) if self.buffer.len() < *length => return Ok(None),
            Body::Length(length) => self.buffer.drain(..*length).collect(),
            Body::Chunked(chunked) => match chunked.read(&mut self.buffer)? {
                Some(body) => body,
                None => return Ok(None),
            },
        };
        self.wants_continue = false;
        let Some(head) = self.head.take() else {
            return Ok(None);
        };
        Ok(Some(Parsed {
            keep_alive: head.keep_alive,
            is_http11: head.is_http11,
            is_head: head.method == Method::Head,
            wants_json: asks_for_json(&head.headers),
            request: Request::new(head.method, &head.target, head.headers, &body, self.via),
        }))
    }

    fn read_head(&mut self) -> Result<Option<Head>, ParseError> {
        // Empty lines before a request line are skipped (RFC 9112 §2.2), but not without end.
        let blank = self
            .buffer
            .iter()
            .take_while(|b| matches!(b, b'\r' | b'\n'))
            .count();
        self.buffer.drain(..blank);
        self.blank += blank;
        if self.blank > MAX_BLANK {
            return Err(ParseError::Syntax);
        }
        let window = self.buffer.get(..self.sizes.head).unwrap_or(&self.buffer);
        let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut raw = httparse::Request::new(&mut slots);
        let length = match raw.parse(window) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if self.buffer.len() >= self.sizes.head => {
                return Err(ParseError::HeadTooLarge);
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(ParseError::HeadTooLarge),
            Err(httparse::Error::Version) => return Err(ParseError::Version),
            Err(_) => return Err(ParseError::Syntax),
        };
        let (head, expects) = make_head(&raw, self.sizes)?;
        self.buffer.drain(..length);
        self.blank = 0;
        self.wants_continue = expects;
        Ok(Some(head))
    }
}

/// The head, and whether the client waits for `100 Continue`.
fn make_head(raw: &httparse::Request<'_, '_>, sizes: Sizes) -> Result<(Head, bool), ParseError> {
    let mut headers = Vec::with_capacity(raw.headers.len());
    for header in raw.headers.iter() {
        let value = header.value.trim_ascii();
        headers.push((
            header.name.to_ascii_lowercase(),
            // Bytes past ASCII are opaque (RFC 9110 §5.5); no rule of ours reads them.
            String::from_utf8_lossy(value).into_owned(),
        ));
    }
    let method = raw.method.ok_or(ParseError::Syntax)?;
    let target = raw.path.ok_or(ParseError::Syntax)?;
    if !(target.starts_with('/') || target == "*" || target.contains("://")) {
        return Err(ParseError::Syntax);
    }
    let is_http11 = raw.version == Some(1);
    check_host(&headers, is_http11)?;
    let body = framing(&headers, is_http11, sizes)?;
    let has_body = !matches!(body, Body::Length(0));
    let expects = match find(&headers, "expect") {
        Some(value) if value.eq_ignore_ascii_case("100-continue") => is_http11 && has_body,
        Some(_) => return Err(ParseError::Expectation),
        None => false,
    };
    let keep_alive = if has_token(&headers, "connection", "close") {
        false
    } else {
        is_http11 || has_token(&headers, "connection", "keep-alive")
    };
    let head = Head {
        method: Method::parse(method),
        target: target.to_owned(),
        headers,
        keep_alive,
        is_http11,
        body,
    };
    Ok((head, expects))
}

/// RFC 9112 §3.2: at most one Host field, which HTTP/1.1 requires.
fn check_host(headers: &[(String, String)], is_http11: bool) -> Result<(), ParseError> {
    match headers.iter().filter(|(name, _)| name == "host").count() {
        0 if is_http11 => Err(ParseError::NoHost),
        0 | 1 => Ok(()),
        _ => Err(ParseError::TwoHosts),
    }
}

/// RFC 9112 §6.3: how long the body is.
fn framing(
    headers: &[(String, String)],
    is_http11: bool,
    sizes: Sizes,
) -> Result<Body, ParseError> {
    let mut codings = headers
        .iter()
        .filter(|(name, _)| name == "transfer-encoding")
        .map(|(_, value)| value.as_str());
    let mut lengths = headers
        .iter()
        .filter(|(name, _)| name == "content-length")
        .map(|(_, value)| value.as_str());
    match (codings.next(), lengths.next()) {
        (Some(_), Some(_)) => Err(ParseError::BothLengths),
        (Some(coding), None) => {
            if codings.next().is_some() || !coding.eq_ignore_ascii_case("chunked") {
                return Err(ParseError::TransferCoding);
            }
            // RFC 9112 §6.1: an HTTP/1.0 message with a coding has faulty framing.
            if !is_http11 {
                return Err(ParseError::BadLength);
            }
            Ok(Body::Chunked(Chunked::new(sizes.body)))
        }
        (None, Some(length)) => {
            if lengths.next().is_some()
                || length.is_empty()
                || !length.bytes().all(|b| b.is_ascii_digit())
            {
                return Err(ParseError::BadLength);
            }
            // Only digits: what does not fit a usize is too large.
            let length = length.parse().map_err(|_| ParseError::BodyTooLarge)?;
            if length > sizes.body {
                return Err(ParseError::BodyTooLarge);
            }
            Ok(Body::Length(length))
        }
        (None, None) => Ok(Body::Length(0)),
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(n, _)| n == name)
        .map(|(_, v)| v.as_str())
}

fn has_token(headers: &[(String, String)], name: &str, token: &str) -> bool {
    headers
        .iter()
        .filter(|(n, _)| n == name)
        .flat_map(|(_, value)| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// Decoder of a chunked body (RFC 9112 §7.1). It is not httparse's: `parse_chunk_size` takes a line without a size
/// for the last chunk and a bare LF inside an extension, and `parse_headers` a bare LF at the end of a trailer.
#[derive(Debug)]
pub struct Chunked {
    limit: usize,
    /// Bytes of the current chunk still to come; `None`: a size line is next.
    left: Option<usize>,
    in_trailer: bool,
    /// Bytes of size lines and trailers so far: they are bounded as well.
    overhead: usize,
    body: Vec<u8>,
}

impl Chunked {
    /// `limit`: bytes of body that are taken.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            left: None,
            in_trailer: false,
            overhead: 0,
            body: Vec::new(),
        }
    }

    /// Takes what is complete out of `buffer`; the body once its last chunk has come.
    pub fn read(&mut self, buffer: &mut Vec<u8>) -> Result<Option<Vec<u8>>, ParseError> {
        let mut rest = buffer.as_slice();
        let outcome = loop {
            if let Some(left) = self.left {
                let have = left.min(rest.len());
                let (data, after) = rest.split_at(have);
                self.body.extend_from_slice(data);
                rest = after;
                self.left = Some(left - have);
                if left > have {
                    break None;
                }
                match rest {
                    [b'\r', b'\n', after @ ..] => {
                        rest = after;
                        self.left = None;
                    }
                    [] | [b'\r'] => break None,
                    _ => return Err(ParseError::BadChunk),
                }
                continue;
            }
            let Some((line, after)) = take_line(rest, MAX_CHUNK_LINE)? else {
                break None;
            };
            rest = after;
            self.overhead += line.len() + 2;
            if self.overhead > self.limit.max(MAX_CHUNK_LINE) {
                return Err(ParseError::BodyTooLarge);
            }
            if self.in_trailer {
                if line.is_empty() {
                    break Some(std::mem::take(&mut self.body));
                }
                continue;
            }
            match chunk_size(line)? {
                0 => self.in_trailer = true,
                size if size > self.limit - self.body.len() => {
                    return Err(ParseError::BodyTooLarge);
                }
                size => self.left = Some(size),
            }
        };
        let used = buffer.len() - rest.len();
        buffer.drain(..used);
        Ok(outcome)
    }
}

/// A line, and what follows it.
type Split<'a> = (&'a [u8], &'a [u8]);

/// A line that ends in CRLF; a bare LF or CR is refused.
fn take_line(bytes: &[u8], max: usize) -> Result<Option<Split<'_>>, ParseError> {
    match bytes.iter().position(|b| *b == b'\n') {
        Some(at) if at <= max => {
            let (line, after) = bytes.split_at(at);
            let line = line.strip_suffix(b"\r").ok_or(ParseError::BadChunk)?;
            let after = after.strip_prefix(b"\n").unwrap_or_default();
            if line.contains(&b'\r') {
                return Err(ParseError::BadChunk);
            }
            Ok(Some((line, after)))
        }
        None if bytes.len() <= max => Ok(None),
        _ => Err(ParseError::BadChunk),
    }
}

fn chunk_size(line: &[u8]) -> Result<usize, ParseError> {
    let digits = line.split(|b| *b == b';').next().unwrap_or_default();
    let digits = digits.trim_ascii_end();
    let text = std::str::from_utf8(digits).map_err(|_| ParseError::BadChunk)?;
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ParseError::BadChunk);
    }
    usize::from_str_radix(text, 16).map_err(|_| ParseError::BodyTooLarge)
}

const MAX_HEADERS: usize = 64;
const MAX_BLANK: usize = 16;
const MAX_CHUNK_LINE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes {
        head: 8192,
        body: 65536,
    };

    fn parser() -> Parser {
        Parser::new(SIZES, ListenerScope::Loopback)
    }

    fn all(bytes: &[u8]) -> Result<Vec<Parsed>, ParseError> {
        let mut p = parser();
        p.push(bytes);
        let mut out = Vec::new();
        while let Some(parsed) = p.poll()? {
            out.push(parsed);
        }
        Ok(out)
    }

    fn fails(bytes: &str) -> ParseError {
        match all(bytes.as_bytes()) {
            Err(e) => e,
            Ok(got) => panic!("{bytes:?} gave {got:?}"),
        }
    }

    #[test]
    fn a_get_by_either_version() {
        let r = &all(b"GET /a?x=1 HTTP/1.1\r\nHost: h\r\n\r\n").unwrap()[0];
        assert!(r.keep_alive);
        assert_eq!(r.request.as_ref().unwrap().param("x"), Some("1"));
        let r = &all(b"GET /a HTTP/1.0\r\n\r\n").unwrap()[0];
        assert!(!r.keep_alive);
        let r = &all(b"GET /a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").unwrap()[0];
        assert!(r.keep_alive);
        let r = &all(b"HEAD /a HTTP/1.1\r\nhost:h\r\nConnection: foo, close\r\n\r\n").unwrap()[0];
        assert!(!r.keep_alive && r.is_head);
    }

    #[test]
    fn pipelined_requests_come_one_after_the_other() {
        let got = all(
            b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nx=1\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n",
        )
        .unwrap();
        assert_eq!(got.len(), 2);
        assert_eq!(got[0].request.as_ref().unwrap().param("x"), Some("1"));
        assert_eq!(got[1].request.as_ref().unwrap().path, "/b");
    }

    #[test]
    fn any_chunking_gives_the_same_request() {
        let whole = b"POST /r?name=n HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4;e=\"1\"\r\nvip=\r\nA\r\n1.2.3.4/32\r\n0\r\nTrailer: t\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n";
        for size in 1..whole.len() {
            let mut p = parser();
            let mut out = Vec::new();
            for piece in whole.chunks(size) {
                p.push(piece);
                while let Some(parsed) = p.poll().unwrap() {
                    out.push(parsed.request.unwrap());
                }
            }
            assert_eq!(out.len(), 2, "pieces of {size}");
            assert_eq!(out[0].param("vip"), Some("1.2.3.4/32"));
            assert_eq!(out[1].path, "/b");
            assert!(p.is_idle());
        }
    }

    #[test]
    fn empty_lines_before_a_request_are_few_however_they_come() {
        for size in [1, 2, 11, 64] {
            let poll = |blank: usize| {
                let whole = "\r\n".repeat(blank) + "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
                let mut p = parser();
                let mut found = false;
                for piece in whole.as_bytes().chunks(size) {
                    p.push(piece);
                    found |= p.poll()?.is_some();
                }
                Ok(found)
            };
            assert_eq!(poll(8), Ok(true), "pieces of {size}");
            assert_eq!(poll(9), Err(ParseError::Syntax), "pieces of {size}");
        }
    }

    #[test]
    fn every_truncation_waits_for_more() {
        let whole = b"POST /r HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\na=b&c";
        for end in 0..whole.len() {
            let mut p = parser();
            p.push(&whole[..end]);
            assert!(p.poll().unwrap().is_none(), "{end}");
        }
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        let head = "POST / HTTP/1.1\r\nHost: h\r\n";
        let bad = |rest: &str| fails(&format!("{head}{rest}\r\n\r\n"));
        assert_eq!(
            bad("Content-Length: 3\r\nTransfer-Encoding: chunked"),
            ParseError::BothLengths
        );
        assert_eq!(
            bad("Content-Length: 3\r\nContent-Length: 3"),
            ParseError::BadLength
        );
        for length in ["3, 3", "+3", "-1", "0x3", "", "3 3"] {
            assert_eq!(
                bad(&format!("Content-Length: {length}")),
                ParseError::BadLength,
                "{length}"
            );
        }
        assert_eq!(
            bad("Transfer-Encoding: gzip, chunked"),
            ParseError::TransferCoding
        );
        assert_eq!(
            bad("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
            ParseError::TransferCoding
        );
        assert_eq!(bad("Transfer-Encoding : chunked"), ParseError::Syntax);
        assert_eq!(bad("X: a\r\n folded"), ParseError::Syntax);
        assert_eq!(
            fails("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            ParseError::BadLength
        );
    }

    #[test]
    fn host_is_needed_once() {
        assert_eq!(fails("GET / HTTP/1.1\r\n\r\n"), ParseError::NoHost);
        assert_eq!(
            fails("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
            ParseError::TwoHosts
        );
    }

    #[test]
    fn bad_chunks_are_refused() {
        let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        let long_line = "1".repeat(300);
        for (rest, error) in [
            ("g\r\n", ParseError::BadChunk),
            ("\r\n", ParseError::BadChunk),
            (" \r\n", ParseError::BadChunk),
            (";x\r\n", ParseError::BadChunk),
            (" 1\r\n", ParseError::BadChunk),
            ("-1\r\n", ParseError::BadChunk),
            ("1\na\r\n", ParseError::BadChunk),
            ("1;x\ny\r\na\r\n", ParseError::BadChunk),
            ("1;x\ry\r\na\r\n", ParseError::BadChunk),
            ("0\r\nX: y\n\r\n", ParseError::BadChunk),
            ("1\r\nab\r\n", ParseError::BadChunk),
            ("0\r\nX: y\rz\r\n", ParseError::BadChunk),
            ("fffffffffffffffffffff\r\n", ParseError::BodyTooLarge),
            ("ffffffffffffffff\r\n", ParseError::BodyTooLarge),
            ("10001\r\n", ParseError::BodyTooLarge),
            (&long_line, ParseError::BadChunk),
        ] {
            assert_eq!(fails(&format!("{head}{rest}")), error, "{rest:?}");
        }
        // Many one-byte chunks and endless trailers are bounded as well.
        let many = "1\r\na\r\n".repeat(40_000);
        assert_eq!(fails(&format!("{head}{many}")), ParseError::BodyTooLarge);
        let trailers = "X: y\r\n".repeat(40_000);
        assert_eq!(
            fails(&format!("{head}0\r\n{trailers}")),
            ParseError::BodyTooLarge
        );
    }

    #[test]
    fn sizes_are_kept() {
        let pad = "a".repeat(9000);
        assert_eq!(
            fails(&format!("GET /{pad} HTTP/1.1\r\nHost: h\r\n\r\n")),
            ParseError::HeadTooLarge
        );
        let many = "A: b\r\n".repeat(100);
        assert_eq!(
            fails(&format!("GET / HTTP/1.1\r\n{many}\r\n")),
            ParseError::HeadTooLarge
        );
        for length in ["65537", "99999999999999999999999"] {
            assert_eq!(
                fails(&format!(
                    "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"
                )),
                ParseError::BodyTooLarge
            );
        }
        // A body behind a head that just fits is no part of the head.
        let body = "x".repeat(65536);
        let ok = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 65536\r\n\r\n{body}");
        assert_eq!(all(ok.as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_http_is_refused() {
        for bytes in [
            "\x16\x03\x01\x02\x00\x01\x00\x01\u{fffd}\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
            "GET apps HTTP/1.1\r\nHost: h\r\n\r\n",
            "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n",
        ] {
            assert_eq!(fails(bytes), ParseError::Syntax, "{bytes:?}");
        }
        assert_eq!(
            fails("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            ParseError::Version
        );
    }

    #[test]
    fn a_client_that_waits_is_told_to_go_on() {
        let mut p = parser();
        p.push(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n");
        assert!(p.poll().unwrap().is_none());
        assert!(p.take_continue());
        assert!(!p.take_continue());
        p.push(b"x=1");
        assert!(p.poll().unwrap().is_some());
        // One that did not wait gets no 100 Continue.
        p.push(
            b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nx=",
        );
        assert!(p.poll().unwrap().is_none());
        assert!(!p.take_continue());
        assert_eq!(
            fails("POST / HTTP/1.1\r\nHost: h\r\nExpect: tea\r\nContent-Length: 1\r\n\r\n"),
            ParseError::Expectation
        );
    }

    #[test]
    fn no_bytes_make_it_panic_or_grow() {
        let valid: [&[u8]; 3] = [
            b"POST /register?name=a&vip=192.0.2.1/32 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nx=1",
            b"POST /drain HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nx=1\r\n0\r\n\r\n",
            b"GET /apps/%41 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        ];
        let mut rng = crate::timer::Rng::new(7);
        for round in 0..10_000_u64 {
            let mut bytes = valid[usize::try_from(round % 3).unwrap()].to_vec();
            for _ in 0..=rng.below(4) {
                let at = usize::try_from(rng.below(u64::try_from(bytes.len()).unwrap())).unwrap();
                match rng.below(3) {
                    0 => bytes[at] = u8::try_from(rng.below(256)).unwrap(),
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, u8::try_from(rng.below(256)).unwrap()),
                }
            }
            let mut p = parser();
            for piece in bytes.chunks(usize::try_from(rng.below(40)).unwrap() + 1) {
                p.push(piece);
                let mut requests = 0;
                while let Ok(Some(_)) = p.poll() {
                    requests += 1;
                    assert!(requests < 100);
                }
            }
        }
    }
}
