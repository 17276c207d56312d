//! The smallest HTTP client that can ask sidecast's API from inside a namespace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::net::Namespace;

/// An HTTP response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("no JSON: {error}\n{}", self.body))
    }
}

/// `GET path`.
pub fn get(namespace: &Namespace, to: SocketAddr, path: &str) -> std::io::Result<Reply> {
    request(namespace, to, "GET", path, "")
}

/// One request on a connection of its own; a body is sent as a form.
pub fn request(
    namespace: &Namespace,
    to: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<Reply> {
    let mut stream = namespace.enter(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    stream.set_read_timeout(Some(ANSWER))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    if !body.is_empty() {
        let length = body.len();
        head += "Content-Type: application/x-www-form-urlencoded\r\n";
        head += &format!("Content-Length: {length}\r\n");
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| std::io::Error::other(format!("no HTTP answer: {answer:?}")))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = match head.contains("\r\nTransfer-Encoding: chunked") {
        true => joined(body).ok_or_else(|| std::io::Error::other("the chunks end too early"))?,
        false => body.to_owned(),
    };
    Ok(Reply {
        status: status.ok_or_else(|| std::io::Error::other(format!("no status: {head}")))?,
        head: head.to_owned(),
        body,
    })
}

/// What is in the chunks, where the last one is there.
fn joined(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body += after.get(..size)?;
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
}

/// To connect.
const PATIENCE: Duration = Duration::from_secs(10);
/// Draining may take its time, and a long answer on a busy machine.
const ANSWER: Duration = Duration::from_secs(60);
