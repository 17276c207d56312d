//! `http:` and `https:` — one request on a connection of its own (RFC 9112), no redirect followed, no proxy.
//!
//! Left out: trailers, transfer codings but chunked, content codings (none is asked for).

use super::is_own_want;
use crate::app::{HttpUrl, StatusRanges};
use crate::health::Outcome;
use crate::io::stream::{Stream, read_more};
use smol::io::AsyncWriteExt;
use std::fmt::Write as _;
use std::io;

/// What to ask, and which answer is good.
pub(super) struct Want<'a> {
    pub(super) url: &'a HttpUrl,
    pub(super) status: &'a StatusRanges,
    pub(super) contains: Option<&'a str>,
    pub(super) headers: &'a [(String, String)],
}

impl Want<'_> {
    /// Judges the status alone; `None`: the body has to be looked at.
    fn judge_status(&self, status: u16) -> Option<Outcome> {
        if !self.status.contains(status) {
            return Some(Outcome::Fail(format!(
                "status {status}, wanted {}",
                self.status
            )));
        }
        self.contains.is_none().then(Outcome::pass)
    }

    fn judge_body(&self, body: &[u8]) -> Outcome {
        match self.contains {
            Some(text) if !holds(body, text) => {
                Outcome::Fail(format!("the body does not contain {text:?}"))
            }
            _ => Outcome::pass(),
        }
    }

    fn request(&self) -> String {
        let mut request = format!("GET {} HTTP/1.1\r\n", self.url.path);
        let ours = [
            ("Host", self.url.authority()),
            ("User-Agent", USER_AGENT.to_owned()),
            ("Accept", "*/*".to_owned()),
        ];
        let given = |name: &str| {
            self.headers
                .iter()
                .any(|(n, _)| n.eq_ignore_ascii_case(name))
        };
        for (name, value) in ours.iter().filter(|(name, _)| !given(name)) {
            let _ = write!(request, "{name}: {value}\r\n");
        }
        for (name, value) in self.headers {
            // A line break would end the header and begin another.
            let clean = |text: &str| text.replace(['\r', '\n', '\0'], " ");
            let _ = write!(request, "{}: {}\r\n", clean(name), clean(value));
        }
        request.push_str("Connection: close\r\n\r\n");
        request
    }
}

/// Asks over an open connection, without a limit of time.
pub(super) async fn check(want: &Want<'_>, stream: Stream) -> Outcome {
    match exchange(want, stream).await {
        Ok(outcome) => outcome,
        Err(error) => failure(want, &error),
    }
}

/// What it means that there is no answer.
pub(super) fn failure(want: &Want<'_>, error: &io::Error) -> Outcome {
    if is_own_want(error) {
        return Outcome::unavailable(error);
    }
    Outcome::Fail(format!("asking {}: {error}", want.url.authority()))
}

async fn exchange(want: &Want<'_>, mut stream: Stream) -> io::Result<Outcome> {
    stream.write_all(want.request().as_bytes()).await?;
    stream.flush().await?;
    let mut received = Vec::new();
    let head = receive_head(&mut stream, &mut received, &mut |_, _| {}).await?;
    if let Some(outcome) = want.judge_status(head.status) {
        return Ok(outcome);
    }
    let mut body = Body::new(head.framing);
    body.push(&received)?;
    while !body.is_complete()
        && body.bytes.len() < MAX_BODY
        && !want.judge_body(&body.bytes).is_pass()
    {
        let mut more = Vec::new();
        match read_more(&mut stream, &mut more).await {
            Ok(true) => body.push(&more)?,
            Ok(false) => break,
            // TLS that ends without a close_notify. What came says enough.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(want.judge_body(&body.bytes))
}

/// Reads until a header is whole and returns it; `received` keeps what came behind it. Its fields are told
/// to `note`.
pub(in crate::io) async fn receive_head(
    stream: &mut Stream,
    received: &mut Vec<u8>,
    note: &mut dyn FnMut(&str, &str),
) -> io::Result<Head> {
    loop {
        if let Some(head) = read_head(received, note)? {
            received.drain(..head.length);
            // 1xx are only announcements (RFC 9110 §15.2).
            if !(100..200).contains(&head.status) {
                return Ok(head);
            }
            continue;
        }
        if received.len() > MAX_HEAD {
            return Err(io::Error::other("the header is too long"));
        }
        if !read_more(stream, received).await? {
            let message = "closed before a whole header came";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
    }
}

/// What a response's header says.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::io) struct Head {
    pub(in crate::io) status: u16,
    pub(in crate::io) length: usize,
    pub(in crate::io) framing: Framing,
}

/// How the end of a body is known (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::io) enum Framing {
    Chunked,
    Length(usize),
    UntilClose,
}

/// The header, or `None` while it is incomplete; a whole one's fields are told to `note`.
fn read_head(bytes: &[u8], note: &mut dyn FnMut(&str, &str)) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes).map_err(io::Error::other)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let value = |name: &str| {
        let mut found = response.headers.iter();
        let header = found.find(|h| h.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok().map(str::trim)
    };
    for header in &*response.headers {
        if let Ok(text) = std::str::from_utf8(header.value) {
            note(header.name, text);
        }
    }
    let chunked =
        value("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().ends_with("chunked"));
    let length_field = value("content-length").and_then(|v| v.parse().ok());
    let status = response.code.unwrap_or_default();
    Ok(Some(Head {
        status,
        length,
        framing: match length_field {
            _ if matches!(status, 204 | 304) => Framing::Length(0),
            _ if chunked => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        },
    }))
}

/// A body as it comes in.
#[derive(Debug)]
pub(in crate::io) struct Body {
    framing: Framing,
    pub(in crate::io) bytes: Vec<u8>,
    /// Of a chunked body: what is not taken apart yet.
    raw: Vec<u8>,
    /// Of a chunked body: bytes of the present chunk still to come, its line end included.
    chunk_left: usize,
    ended: bool,
}

impl Body {
    pub(in crate::io) fn new(framing: Framing) -> Self {
        Self {
            framing,
            bytes: Vec::new(),
            raw: Vec::new(),
            chunk_left: 0,
            ended: false,
        }
    }

    pub(in crate::io) fn is_complete(&self) -> bool {
        match self.framing {
            Framing::Chunked => self.ended,
            Framing::Length(length) => self.bytes.len() >= length,
            Framing::UntilClose => false,
        }
    }

    pub(in crate::io) fn push(&mut self, more: &[u8]) -> io::Result<()> {
        match self.framing {
            Framing::Chunked => {
                self.raw.extend_from_slice(more);
                return self.dechunk();
            }
            Framing::Length(length) => {
                let room = length.saturating_sub(self.bytes.len()).min(more.len());
                self.bytes.extend(more.iter().take(room));
            }
            Framing::UntilClose => self.bytes.extend_from_slice(more),
        }
        Ok(())
    }

    /// RFC 9112 §7.1. Each chunk is its size in hex, a line end, so many bytes, a line end.
    fn dechunk(&mut self) -> io::Result<()> {
        let raw = std::mem::take(&mut self.raw);
        let mut rest = raw.as_slice();
        while !self.ended {
            if self.chunk_left > 0 {
                let (head, tail) = rest.split_at(self.chunk_left.min(rest.len()));
                // The last two bytes of a chunk are its line end.
                let text = self.chunk_left.saturating_sub(LINE_END).min(head.len());
                self.bytes.extend(head.iter().take(text));
                self.chunk_left -= head.len();
                rest = tail;
                if self.chunk_left > 0 {
                    break;
                }
            }
            match httparse::parse_chunk_size(rest) {
                Ok(httparse::Status::Complete((_, 0))) => self.ended = true,
                Ok(httparse::Status::Complete((start, size))) => {
                    rest = rest.get(start..).unwrap_or_default();
                    self.chunk_left = usize::try_from(size)
                        .ok()
                        .and_then(|size| size.checked_add(LINE_END))
                        .ok_or_else(|| io::Error::other("a chunk without end"))?;
                }
                Ok(httparse::Status::Partial) if rest.len() <= MAX_CHUNK_LINE => break,
                _ => return Err(io::Error::other("broken chunks")),
            }
        }
        self.raw = rest.to_vec();
        Ok(())
    }
}

fn holds(body: &[u8], text: &str) -> bool {
    text.is_empty() || body.windows(text.len()).any(|part| part == text.as_bytes())
}

pub(in crate::io) const USER_AGENT: &str = concat!("sidecast/", env!("CARGO_PKG_VERSION"));
/// Bytes of a body that are looked at.
const MAX_BODY: usize = 256 * 1024;
const MAX_HEAD: usize = 64 * 1024;
const MAX_CHUNK_LINE: usize = 4096;
const LINE_END: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_say_status_and_framing() {
        let head = |text: &str| read_head(text.as_bytes(), &mut |_, _| {}).unwrap();
        assert_eq!(head("HTTP/1.1 200 OK\r\nContent-Le"), None);
        let text = "HTTP/1.1 206 Part\r\nContent-Length: 7\r\n\r\nbody";
        assert_eq!(
            head(text),
            Some(Head {
                status: 206,
                length: text.len() - 4,
                framing: Framing::Length(7)
            })
        );
        let chunked =
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: gzip, Chunked\r\n\r\n";
        assert_eq!(head(chunked).unwrap().framing, Framing::Chunked);
        assert_eq!(
            head("HTTP/1.0 302 Found\r\n\r\n").unwrap().framing,
            Framing::UntilClose
        );
        assert_eq!(
            head("HTTP/1.1 204 No Content\r\n\r\n").unwrap().framing,
            Framing::Length(0)
        );
        assert!(read_head(b"SSH-2.0-OpenSSH_9.2\r\n", &mut |_, _| {}).is_err());
    }

    #[test]
    fn chunks_are_joined_however_they_arrive() {
        let wire = b"5;ext=1\r\nhello\r\n1\r\n \r\n6\r\nworld!\r\n0\r\n\r\n";
        for step in 1..wire.len() {
            let mut body = Body::new(Framing::Chunked);
            for part in wire.chunks(step) {
                body.push(part).unwrap();
            }
            assert!(body.is_complete(), "{step}");
            assert_eq!(body.bytes, b"hello world!", "{step}");
        }
        for end in 0..wire.len() - 4 {
            let mut body = Body::new(Framing::Chunked);
            body.push(&wire[..end]).unwrap();
            assert!(!body.is_complete(), "{end}");
        }
        let push = |bytes: &[u8]| Body::new(Framing::Chunked).push(bytes);
        assert!(push(b"xyz\r\n").is_err());
        assert!(push(b"ffffffffffffffff\r\nx").is_err());
    }

    #[test]
    fn a_body_ends_at_its_length() {
        let mut body = Body::new(Framing::Length(3));
        body.push(b"ab").unwrap();
        assert!(!body.is_complete());
        body.push(b"cdef").unwrap();
        assert_eq!((body.is_complete(), body.bytes), (true, b"abc".to_vec()));
    }

    #[test]
    fn given_headers_replace_ours_and_cannot_break_out() {
        let url = "http://[::1]:8080/healthz?x=1".parse().unwrap();
        let headers = [
            ("host".to_owned(), "service.example".to_owned()),
            ("X-A".to_owned(), "1\r\nX-B: 2".to_owned()),
        ];
        let want = Want {
            url: &url,
            status: &StatusRanges::default(),
            contains: None,
            headers: &headers,
        };
        let request = want.request();
        assert!(request.starts_with("GET /healthz?x=1 HTTP/1.1\r\nUser-Agent: sidecast/"));
        assert!(request.contains("host: service.example\r\n") && !request.contains("Host:"));
        assert!(request.contains("X-A: 1  X-B: 2\r\n"));
        let plain = Want {
            headers: &[],
            ..want
        };
        assert!(plain.request().contains("Host: [::1]:8080\r\n"));
    }
}
