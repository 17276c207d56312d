//! One client's connection: reads requests, hands each to the agent, writes its answer.

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
use crate::api::{Request, Response, Rest, Via};

/// A client's stream, of either kind.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl Duplex for TcpStream {}
impl Duplex for UnixStream {}

/// What a connection wants of the agent.
#[derive(Debug)]
pub enum Asked {
    Request(Box<Request>),
    /// The next piece of an answer that began before.
    Rest(Rest),
}

/// A request on its way to the agent, with the way back.
#[derive(Debug)]
pub struct Call {
    pub asked: Asked,
    reply: Sender<Response>,
}

impl Call {
    pub fn new(asked: Asked) -> (Self, Receiver<Response>) {
        let (reply, answer) = bounded(1);
        (Self { asked, reply }, answer)
    }

    /// Whether it is a request of that kind.
    pub fn asks(&self, kind: impl FnOnce(&Request) -> bool) -> bool {
        matches!(&self.asked, Asked::Request(request) if kind(request))
    }

    /// Never blocks; a client that went away is no error.
    pub fn answer(self, response: Response) {
        let _ = self.reply.try_send(response);
    }
}

/// Serves one connection to its end.
pub(super) async fn serve_connection(
    mut stream: Box<dyn Duplex>,
    via: Via,
    limits: Limits,
    calls: Sender<Call>,
) {
    let mut parser = Parser::new(limits.sizes, via);
    let mut first = true;
    while let Ok(Some(next)) = read_request(&mut stream, &mut parser, limits, first).await {
        first = false;
        let (response, shape) = match next {
            Next::Call(request, shape) => (ask(request, limits, &calls).await, shape),
            Next::Refused(response, shape) => (response, shape),
        };
        let sent = send(&mut stream, response, &shape, limits, &calls).await;
        if sent.is_err() || !shape.keep_alive {
            break;
        }
        // A pipeline has its turns like the others.
        future::yield_now().await;
    }
    linger(stream).await;
}

/// Answers a client for whom there is no place: what engines and balancers live by is answered all the
/// same, lest idle clients get a healthy announcer restarted; everybody else is told to come again.
pub(super) async fn serve_over_limit(
    mut stream: Box<dyn Duplex>,
    via: Via,
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
        Ok(Some(Next::Call(request, shape))) if PROBES.contains(&request.path.as_str()) => {
            let last = Shape {
                keep_alive: false,
                ..shape
            };
            encode(&ask(request, limits, &calls).await, &last)
        }
        _ => too_many(),
    };
    let last = Instant::now() + LINGER;
    if write_all(&mut stream, &answer, LINGER, last).await.is_ok() {
        linger(stream).await;
    }
}

/// Looks that change nothing and cost little.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// The same without waiting for anything: a fresh socket has room for so short an answer. What the
/// client sent already is read first, else the kernel would answer it with a reset.
pub(super) fn refuse_at_once(stream: Stream) {
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
    encode(&response, &LAST)
}

enum Next {
    Call(Box<Request>, Shape),
    Refused(Response, Shape),
}

/// How an answer has to look.
#[derive(Clone, Copy)]
struct Shape {
    is_head: bool,
    keep_alive: bool,
    is_11: bool,
}

/// The connection ends after it.
const LAST: Shape = Shape {
    is_head: false,
    keep_alive: false,
    is_11: true,
};

/// `None`: the connection ended, or was idle for too long.
async fn read_request(
    stream: &mut Box<dyn Duplex>,
    parser: &mut Parser,
    limits: Limits,
    first: bool,
) -> io::Result<Option<Next>> {
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
                let shape = Shape {
                    is_head: parsed.is_head,
                    keep_alive: parsed.keep_alive,
                    is_11: parsed.is_11,
                };
                return Ok(Some(match parsed.request {
                    Ok(request) => Next::Call(Box::new(request), shape),
                    Err(e) => {
                        let text = e.to_string();
                        let response = Response::error(e.status(), &text, parsed.wants_json);
                        Next::Refused(response, shape)
                    }
                }));
            }
            Ok(None) => {}
            Err(e) => return Ok(Some(last_words(e.status(), &e.to_string()))),
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
        match before(deadline, stream.read(&mut chunk)).await {
            Err(e) if e.kind() == io::ErrorKind::TimedOut && stage != Stage::Idle => {
                return Ok(Some(last_words(408, "the request did not come in time")));
            }
            Err(e) => return Err(e),
            Ok(0) if stage == Stage::Idle => return Ok(None),
            Ok(0) => return Ok(Some(last_words(400, "the request was cut short"))),
            Ok(length) => parser.push(chunk.get(..length).unwrap_or_default()),
        }
    }
}

/// An answer after which the connection ends.
fn last_words(status: u16, message: &str) -> Next {
    Next::Refused(Response::text(status, message), LAST)
}

/// Each stage of a request has its own deadline, so that neither can be stretched byte by byte.
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

async fn ask(request: Box<Request>, limits: Limits, calls: &Sender<Call>) -> Response {
    let json = request.wants_json();
    match answer(Asked::Request(request), limits, calls).await {
        Ok(Some(response)) => response,
        Ok(None) => Response::error(503, "sidecast is stopping", json),
        Err(_) => Response::error(504, "no answer in time", json),
    }
}

/// `None`: nobody answers any more.
async fn answer(
    asked: Asked,
    limits: Limits,
    calls: &Sender<Call>,
) -> io::Result<Option<Response>> {
    let (call, answer) = Call::new(asked);
    let asked = async {
        if calls.send(call).await.is_err() {
            return Ok(None);
        }
        Ok(answer.recv().await.ok())
    };
    before(Instant::now() + limits.reply, asked).await
}

/// Sends an answer; one that is made piece by piece as it is taken.
async fn send(
    stream: &mut Box<dyn Duplex>,
    mut response: Response,
    shape: &Shape,
    limits: Limits,
    calls: &Sender<Call>,
) -> io::Result<()> {
    let last = Instant::now() + limits.write * 6;
    let mut piece = encode(&response, shape);
    // A slow client holds one copy of it.
    response.body = Vec::new();
    let in_pieces = response.rest.is_some() && !shape.is_head;
    loop {
        write_all(stream, &piece, limits.write, last).await?;
        let Some(rest) = response.rest.filter(|_| in_pieces) else {
            break;
        };
        let next = answer(Asked::Rest(rest), limits, calls).await?;
        response = next.ok_or(io::ErrorKind::BrokenPipe)?;
        piece = framed(&std::mem::take(&mut response.body), shape);
    }
    match in_pieces {
        true if shape.is_11 => write_all(stream, b"0\r\n\r\n", limits.write, last).await,
        // Its end is the connection's.
        true => Err(io::ErrorKind::ConnectionAborted.into()),
        false => Ok(()),
    }
}

/// A piece of a body without a length (RFC 9112 §7.1).
fn framed(piece: &[u8], shape: &Shape) -> Vec<u8> {
    match shape.is_11 {
        true => [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat(),
        false => piece.to_vec(),
    }
}

/// The bytes of an answer, or of one with pieces to come the first of them; a HEAD's has no body
/// (RFC 9110 §9.3.2).
fn encode(response: &Response, shape: &Shape) -> Vec<u8> {
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
        true if shape.is_11 => push_header(&mut head, "Transfer-Encoding", "chunked"),
        true => {}
    }
    let stays = shape.keep_alive && (shape.is_11 || !in_pieces);
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
        _ if shape.is_head => {}
        true => bytes.extend(framed(&response.body, shape)),
        false => bytes.extend_from_slice(&response.body),
    }
    bytes
}

/// Control characters in a value would begin a header of somebody else's making.
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

/// Writes all of it; every part has to be taken within `limit`, and the whole answer until `last`, so
/// that a client which drains a byte at a time does not hold its place for ever.
async fn write_all(
    stream: &mut Box<dyn Duplex>,
    bytes: &[u8],
    limit: Duration,
    last: Instant,
) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let deadline = (Instant::now() + limit).min(last);
        let written = before(deadline, stream.write(rest)).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(())
}

/// Closes so that the last answer arrives: with unread bytes the kernel would reset the connection,
/// and the client might lose what it has not read yet.
async fn linger(mut stream: Box<dyn Duplex>) {
    if stream.close().await.is_err() {
        return;
    }
    let deadline = Instant::now() + LINGER;
    let mut chunk = [0_u8; 4096];
    let mut left = LINGER_BYTES;
    while let Ok(length) = before(deadline, stream.read(&mut chunk)).await {
        if length == 0 || length > left {
            return;
        }
        left -= length;
    }
}

async fn before<T>(deadline: Instant, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
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
        let mut shape = Shape {
            keep_alive: true,
            ..LAST
        };
        let response = Response::text(409, "held").with_header("X-A", "b\r\nSet-Cookie: c");
        let text = String::from_utf8(encode(&response, &shape)).unwrap();
        assert!(text.starts_with("HTTP/1.1 409 Conflict\r\n"));
        assert!(text.contains("\r\nContent-Length: 5\r\n"));
        assert!(text.contains("\r\nConnection: keep-alive\r\n"));
        assert!(text.contains("\r\nX-A: bSet-Cookie: c\r\n"));
        assert!(text.ends_with("\r\n\r\nheld\n"));
        shape.is_head = true;
        let head = String::from_utf8(encode(&response, &shape)).unwrap();
        assert!(head.contains("\r\nContent-Length: 5\r\n"));
        assert!(head.ends_with("\r\n\r\n"));
    }
}
