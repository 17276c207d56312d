//! One request on a connection of its own (RFC 9112).

use super::MAX_BODY;
use crate::consul::{Answer, Headers};
use crate::io::monitor::http::{Body, Framing, USER_AGENT, receive_head};
use crate::io::stream::{Stream, read_more};
use smol::io::AsyncWriteExt;
use std::io;

/// Asks and reads the whole answer; half of one is an error.
pub(super) async fn exchange(
    mut stream: Stream,
    host: &str,
    path: &str,
    token: Option<&str>,
) -> io::Result<Answer> {
    stream
        .write_all(request(host, path, token).as_bytes())
        .await?;
    stream.flush().await?;
    let mut received = Vec::new();
    let mut headers = Headers::default();
    let mut note = |name: &str, value: &str| headers.note(name, value);
    let head = receive_head(&mut stream, &mut received, &mut note).await?;
    let mut body = Body::new(head.framing);
    body.push(&received)?;
    while !body.is_complete() {
        if body.bytes.len() > MAX_BODY {
            return Err(io::Error::other(format!("more than {MAX_BODY} bytes")));
        }
        let mut more = Vec::new();
        if !read_more(&mut stream, &mut more).await? {
            if head.framing == Framing::UntilClose {
                break;
            }
            return Err(short());
        }
        body.push(&more)?;
    }
    Ok(Answer {
        status: head.status,
        headers,
        body: body.bytes,
    })
}

fn request(host: &str, path: &str, token: Option<&str>) -> String {
    // A line break would end the header and begin another.
    let clean = |text: &str| text.replace(|c: char| c.is_control(), "");
    let token = token.map(|token| format!("X-Consul-Token: {}\r\n", clean(token)));
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\nAccept: application/json\r\n\
         {}Connection: close\r\n\r\n",
        token.unwrap_or_default()
    )
}

fn short() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "closed before the whole answer came",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use smol::io::{AsyncRead, AsyncWrite, Cursor};

    /// Reads from a script, writes to nowhere.
    fn ask(answer: &[u8]) -> io::Result<Answer> {
        struct Script(Cursor<Vec<u8>>);
        impl AsyncRead for Script {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &mut [u8],
            ) -> std::task::Poll<io::Result<usize>> {
                std::pin::Pin::new(&mut self.0).poll_read(cx, buf)
            }
        }
        impl AsyncWrite for Script {
            fn poll_write(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                buf: &[u8],
            ) -> std::task::Poll<io::Result<usize>> {
                std::task::Poll::Ready(Ok(buf.len()))
            }
            fn poll_flush(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                std::task::Poll::Ready(Ok(()))
            }
            fn poll_close(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                std::task::Poll::Ready(Ok(()))
            }
        }
        smol::block_on(exchange(
            Box::new(Script(Cursor::new(answer.to_vec()))),
            "c",
            "/v1",
            None,
        ))
    }

    #[test]
    fn half_an_answer_is_none() {
        let whole = b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n";
        let answer = ask(whole).unwrap();
        assert_eq!(
            (answer.status, answer.body.as_slice()),
            (200, b"[]".as_slice())
        );
        assert_eq!(answer.headers.index.as_deref(), Some("7"));
        for end in 0..whole.len() - 4 {
            assert!(ask(&whole[..end]).is_err(), "{end}");
        }
        let whole = b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\nnull";
        assert_eq!(ask(whole).unwrap().body, b"null");
        for end in 0..whole.len() {
            assert!(ask(&whole[..end]).is_err(), "{end}");
        }
        assert_eq!(ask(b"HTTP/1.0 200 OK\r\n\r\n{}").unwrap().body, b"{}");
        assert!(ask(b"SSH-2.0-OpenSSH\r\n").is_err());
    }

    #[test]
    fn a_token_cannot_break_out() {
        let request = request("c:8500", "/v1/x", Some("a\r\nX-Evil: 1"));
        assert!(request.contains("\r\nX-Consul-Token: aX-Evil: 1\r\n"));
        assert!(request.starts_with("GET /v1/x HTTP/1.1\r\nHost: c:8500\r\n"));
    }
}
