//! One client connection: reads requests, passes each to the agent, writes the response.

use std::io;
use std::time::{Duration, Instant, SystemTime};

use smol::Timer;
use smol::channel::{Receiver, Sender, bounded};
use smol::future::{self, Future};
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use smol::net::TcpStream;
use smol::net::unix::UnixStream;

use super::parse::Parser;
use super::{Limits, Stream};
use crate::api::{Continuation, ListenerScope, Request, Response};

/// A client's stream, of either kind.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl Duplex for TcpStream {}
impl Duplex for UnixStream {}

/// What a connection requests from the agent.
#[derive(Debug)]
pub enum CallKind {
    Request(Box<Request>),
    /// The next piece of a response in progress.
    Continuation(Continuation),
}

/// A request to the agent, with the channel for its response.
#[derive(Debug)]
pub struct Call {
    pub kind: CallKind,
    reply: Sender<Response>,
}

impl Call {
    /// A call, and the receiver of its response.
    pub fn new(kind: CallKind) -> (Self, Receiver<Response>) {
        let (reply, answer) = bounded(1);
        (Self { kind, reply }, answer)
    }

    /// Whether it is a request of that kind.
    pub fn asks(&self, kind: impl FnOnce(&Request) -> bool) -> bool {
        matches!(&self.kind, CallKind::Request(request) if kind(request))
    }

    /// Sends the response. Never blocks; a client that has disconnected is no error.
    pub fn answer(self, response: Response) {
        let _ = self.reply.try_send(response);
    }
}

/// Serves one connection to its end.
pub(super) async fn serve_connection(
    mut stream: Box<dyn Duplex>,
    via: ListenerScope,
    limits: Limits,
    calls: Sender<Call>,
) {
    let mut parser = Parser::new(limits.sizes, via);
    let mut first = true;
    while let Ok(Some(next)) = read_request(&mut stream, &mut parser, limits, first).await {
        first = false;
        let (response, framing) = match next {
            NextRequest::Call(request, framing) => {
                (dispatch(request, limits, &calls).await, framing)
            }
            NextRequest::Refused(response, framing) => (response, framing),
        };
        let sent = send(&mut stream, response, &framing, limits, &calls).await;
        if sent.is_err() || !framing.keep_alive {
            break;
        }
        // Pipelined requests take turns with other connections.
        future::yield_now().await;
    }
    linger(stream).await;
}

/// Serves a client above the connection limit: `/healthz` and `/readyz` are answered, so that idle clients
/// cannot get a healthy process restarted by its container engine; anything else gets 503.
pub(super) async fn serve_over_limit(
    mut stream: Box<dyn Duplex>,
    via: ListenerScope,
    limits: Limits,
    calls: Sender<Call>,
) {
    let hurried = Limits {
        head: LINGER.min(limits.head),
        body: LINGER.min(limits.body),
        ..limits
    };
    let mut parser = Parser::new(limits.sizes, via);
    let answer = match read_request(&mut stream, &mut parser, hurried, true).await {
        Ok(Some(NextRequest::Call(request, framing)))
            if PROBE_PATHS.contains(&request.path.as_str()) =>
        {
            let last = ResponseFraming {
                keep_alive: false,
                ..framing
            };
            encode(&dispatch(request, limits, &calls).await, &last)
        }
        _ => too_many(),
    };
    let last = Instant::now() + LINGER;
    if write_all(&mut stream, &answer, LINGER, last).await.is_ok() {
        linger(stream).await;
    }
}

/// Paths of health probes, which are answered above the limit too.
const PROBE_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// Answers 503 without waiting: a new socket's send buffer has room for it. Reads what has arrived first,
/// since closing with unread bytes would send a reset.
pub(super) fn refuse_without_waiting(stream: Stream) {
    fn refuse(mut stream: impl io::Read + io::Write) {
        let mut chunk = [0_u8; 4096];
        let _ = stream.read(&mut chunk);
        let _ = stream.write(&too_many());
    }
    match stream {
        Stream::Tcp(stream) => {
            if stream.set_nonblocking(true).is_ok() {
                refuse(stream);
            }
        }
        Stream::Unix(stream) => {
            if stream.set_nonblocking(true).is_ok() {
                refuse(stream);
            }
        }
    }
}

fn too_many() -> Vec<u8> {
    let response =
        Response::text(503, "too many connections, try again").with_header("Retry-After", "1");
    encode(&response, &CLOSE)
}

enum NextRequest {
    Call(Box<Request>, ResponseFraming),
    Refused(Response, ResponseFraming),
}

/// Framing of a response.
#[derive(Clone, Copy)]
struct ResponseFraming {
    is_head: bool,
    keep_alive: bool,
    is_http11: bool,
}

/// Framing of the last response of a connection.
const CLOSE: ResponseFraming = ResponseFraming {
    is_head: false,
    keep_alive: false,
    is_http11: true,
};

/// `None`: the connection ended, or was idle for too long.
async fn read_request(
    stream: &mut Box<dyn Duplex>,
    parser: &mut Parser,
    limits: Limits,
    first: bool,
) -> io::Result<Option<NextRequest>> {
    let allowed = |stage| match stage {
        Stage::Idle if !first => limits.idle,
        Stage::Idle | Stage::Head => limits.head,
        Stage::Body => limits.body,
    };
    let mut stage = Stage::of(parser);
    let mut deadline = Instant::now() + allowed(stage);
    let mut chunk = [0_u8; 4096];
    loop {
        match parser.poll() {
            Ok(Some(parsed)) => {
                let framing = ResponseFraming {
                    is_head: parsed.is_head,
                    keep_alive: parsed.keep_alive,
                    is_http11: parsed.is_http11,
                };
                return Ok(Some(match parsed.request {
                    Ok(request) => NextRequest::Call(Box::new(request), framing),
                    Err(e) => {
                        let text = e.to_string();
                        let response = Response::error(e.status(), &text, parsed.wants_json);
                        NextRequest::Refused(response, framing)
                    }
                }));
            }
            Ok(None) => {}
            Err(e) => return Ok(Some(final_response(e.status(), &e.to_string()))),
        }
        if parser.take_continue() {
            let last = Instant::now() + limits.write;
            write_all(stream, b"HTTP/1.1 100 Continue\r\n\r\n", limits.write, last).await?;
        }
        let now_at = Stage::of(parser);
        if now_at != stage {
            stage = now_at;
            deadline = Instant::now() + allowed(stage);
        }
        match with_deadline(deadline, stream.read(&mut chunk)).await {
            Err(e) if e.kind() == io::ErrorKind::TimedOut && stage != Stage::Idle => {
                return Ok(Some(final_response(
                    408,
                    "the request did not come in time",
                )));
            }
            Err(e) => return Err(e),
            Ok(0) if stage == Stage::Idle => return Ok(None),
            Ok(0) => return Ok(Some(final_response(400, "the request was cut short"))),
            Ok(length) => parser.push(chunk.get(..length).unwrap_or_default()),
        }
    }
}

/// A response after which the connection is closed.
fn final_response(status: u16, message: &str) -> NextRequest {
    NextRequest::Refused(Response::text(status, message), CLOSE)
}

/// Each stage of a request has its own deadline, so that a client cannot extend it byte by byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    Head,
    Body,
}

impl Stage {
    fn of(parser: &Parser) -> Self {
        if parser.is_idle() {
            Self::Idle
        } else if parser.in_body() {
            Self::Body
        } else {
            Self::Head
        }
    }
}

async fn dispatch(request: Box<Request>, limits: Limits, calls: &Sender<Call>) -> Response {
    let json = request.wants_json();
    match answer(CallKind::Request(request), limits, calls).await {
        Ok(Some(response)) => response,
        Ok(None) => Response::error(503, "sidecast is stopping", json),
        Err(_) => Response::error(504, "no answer in time", json),
    }
}

/// `None`: the agent is stopping.
async fn answer(
    kind: CallKind,
    limits: Limits,
    calls: &Sender<Call>,
) -> io::Result<Option<Response>> {
    let (call, answer) = Call::new(kind);
    let kind = async {
        if calls.send(call).await.is_err() {
            return Ok(None);
        }
        Ok(answer.recv().await.ok())
    };
    with_deadline(Instant::now() + limits.reply, kind).await
}

/// Sends a response; a large one is generated in pieces as the client reads it.
async fn send(
    stream: &mut Box<dyn Duplex>,
    mut response: Response,
    framing: &ResponseFraming,
    limits: Limits,
    calls: &Sender<Call>,
) -> io::Result<()> {
    let last = Instant::now() + limits.write * 6;
    let mut piece = encode(&response, framing);
    // The body is in `piece`: a slow client holds one copy.
    response.body = Vec::new();
    let in_pieces = response.rest.is_some() && !framing.is_head;
    loop {
        write_all(stream, &piece, limits.write, last).await?;
        let Some(rest) = response.rest.filter(|_| in_pieces) else {
            break;
        };
        let next = answer(CallKind::Continuation(rest), limits, calls).await?;
        response = next.ok_or(io::ErrorKind::BrokenPipe)?;
        piece = framed(&std::mem::take(&mut response.body), framing);
    }
    match in_pieces {
        true if framing.is_http11 => write_all(stream, b"0\r\n\r\n", limits.write, last).await,
        // HTTP/1.0: the body ends with the connection.
        true => Err(io::ErrorKind::ConnectionAborted.into()),
        false => Ok(()),
    }
}

/// A piece of a body without a length (RFC 9112 §7.1). An empty one is left out: a chunk of size 0 ends the body.
fn framed(piece: &[u8], framing: &ResponseFraming) -> Vec<u8> {
    match framing.is_http11 && !piece.is_empty() {
        true => [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat(),
        false => piece.to_vec(),
    }
}

/// The bytes of an answer, or of one with pieces to come the first of them; a HEAD's has no body
/// (RFC 9110 §9.3.2).
fn encode(response: &Response, framing: &ResponseFraming) -> Vec<u8> {
    let in_pieces = response.rest.is_some();
    let mut head = format!(
        "HTTP/1.1 {} {}\r\nDate: {}\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n",
        response.status,
        reason(response.status),
        http_date(SystemTime::now()),
    );
    match in_pieces {
        false => push_header(
            &mut head,
            "Content-Length",
            &response.body.len().to_string(),
        ),
        true if framing.is_http11 => push_header(&mut head, "Transfer-Encoding", "chunked"),
        true => {}
    }
    let stays = framing.keep_alive && (framing.is_http11 || !in_pieces);
    let connection = if stays { "keep-alive" } else { "close" };
    push_header(&mut head, "Connection", connection);
    if !response.content_type.is_empty() {
        push_header(&mut head, "Content-Type", response.content_type);
    }
    for (name, value) in &response.headers {
        push_header(&mut head, name, value);
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    match in_pieces {
        _ if framing.is_head => {}
        true => bytes.extend(framed(&response.body, framing)),
        false => bytes.extend_from_slice(&response.body),
    }
    bytes
}

/// Control characters are dropped: they would allow header injection.
fn push_header(head: &mut String, name: &str, value: &str) {
    head.push_str(name);
    head.push_str(": ");
    head.extend(value.chars().filter(|c| !c.is_control()));
    head.push_str("\r\n");
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}

/// IMF-fixdate (RFC 9110 §5.6.7).
fn http_date(at: SystemTime) -> String {
    let seconds = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    let civil = crate::view::time::civil(days);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"]
        .into_iter()
        .cycle()
        .nth(usize::try_from(days % 7).unwrap_or(0))
        .unwrap_or("Thu");
    let month = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]
    .into_iter()
    .nth(usize::from(civil.month.saturating_sub(1)))
    .unwrap_or("Jan");
    format!(
        "{weekday}, {:02} {month} {:04} {:02}:{:02}:{:02} GMT",
        civil.day,
        civil.year,
        clock / 3600,
        clock / 60 % 60,
        clock % 60
    )
}

/// Writes all bytes; each part within `limit` and all of them before `last`, so that a client that reads
/// byte by byte does not hold its slot forever.
async fn write_all(
    stream: &mut Box<dyn Duplex>,
    bytes: &[u8],
    limit: Duration,
    last: Instant,
) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let deadline = (Instant::now() + limit).min(last);
        let written = with_deadline(deadline, stream.write(rest)).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(())
}

/// Lingering close: sends FIN and discards input. Closing with unread bytes would reset the connection, and
/// the client might lose the response.
async fn linger(mut stream: Box<dyn Duplex>) {
    if stream.close().await.is_err() {
        return;
    }
    let deadline = Instant::now() + LINGER;
    let mut chunk = [0_u8; 4096];
    let mut left = LINGER_BYTES;
    while let Ok(length) = with_deadline(deadline, stream.read(&mut chunk)).await {
        if length == 0 || length > left {
            return;
        }
        left -= length;
    }
}

async fn with_deadline<T>(
    deadline: Instant,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    future::or(work, async {
        Timer::at(deadline).await;
        Err(io::ErrorKind::TimedOut.into())
    })
    .await
}

const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_imf_fixdates() {
        let at = |seconds| http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(1_709_164_800), "Thu, 29 Feb 2024 00:00:00 GMT");
    }

    #[test]
    fn an_answer_has_its_length_and_cannot_be_split() {
        let mut framing = ResponseFraming {
            keep_alive: true,
            ..CLOSE
        };
        let response = Response::text(409, "held").with_header("X-A", "b\r\nSet-Cookie: c");
        let text = String::from_utf8(encode(&response, &framing)).unwrap();
        assert!(text.starts_with("HTTP/1.1 409 Conflict\r\n"));
        assert!(text.contains("\r\nContent-Length: 5\r\n"));
        assert!(text.contains("\r\nConnection: keep-alive\r\n"));
        assert!(text.contains("\r\nX-A: bSet-Cookie: c\r\n"));
        assert!(text.ends_with("\r\n\r\nheld\n"));
        framing.is_head = true;
        let head = String::from_utf8(encode(&response, &framing)).unwrap();
        assert!(head.contains("\r\nContent-Length: 5\r\n"));
        assert!(head.ends_with("\r\n\r\n"));
    }

    #[test]
    fn an_empty_piece_does_not_end_a_body_in_pieces() {
        let old = ResponseFraming {
            is_http11: false,
            ..CLOSE
        };
        for framing in [CLOSE, old] {
            assert_eq!(framed(b"", &framing), b"");
        }
        assert_eq!(framed(b"one", &CLOSE), b"3\r\none\r\n");
        assert_eq!(framed(b"one", &old), b"one");
    }
}
