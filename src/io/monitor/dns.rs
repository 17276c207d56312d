//! `dns:` — a query is answered, over UDP, and over TCP when the answer is truncated (RFC 7766).

use super::is_own_want;
use crate::app::{QType, Rcode};
use crate::dns::{Answer, Question};
use crate::health::Outcome;
use crate::timer::Jitter;
use smol::Timer;
use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpStream, UdpSocket};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// What to ask whom, and which answer is good.
pub(super) struct Query<'a> {
    pub(super) name: &'a str,
    pub(super) qtype: QType,
    pub(super) server: SocketAddr,
    /// `None`: NOERROR with at least one record.
    pub(super) rcode: Option<Rcode>,
}

/// Asks, without a limit of time.
pub(super) async fn check(query: &Query<'_>, chance: &mut Jitter) -> Outcome {
    let question = Question {
        name: query.name.to_owned(),
        qtype: query.qtype.0,
    };
    let [a, b, ..] = chance.next_u64().to_be_bytes();
    let id = u16::from_be_bytes([a, b]);
    let bytes = match question.encode(id) {
        Ok(bytes) => bytes,
        Err(error) => return Outcome::fail(error),
    };
    match ask(query.server, &question, id, &bytes).await {
        Ok(answer) => judge(query, &answer),
        Err(error) if is_own_want(&error) => Outcome::unavailable(error),
        Err(error) => Outcome::Fail(format!("asking {}: {error}", query.server)),
    }
}

fn judge(query: &Query<'_>, answer: &Answer) -> Outcome {
    let got = Rcode(answer.rcode);
    match query.rcode {
        Some(wanted) if wanted == got => Outcome::pass(),
        Some(wanted) => Outcome::Fail(format!("answered {got}, not {wanted}")),
        None if got != NOERROR => Outcome::Fail(format!("answered {got}")),
        None if answer.answers == 0 => Outcome::Fail(format!(
            "answered NOERROR without a record of {}/{}",
            query.name, query.qtype
        )),
        None => Outcome::pass(),
    }
}

async fn ask(server: SocketAddr, question: &Question, id: u16, query: &[u8]) -> io::Result<Answer> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Connected: the kernel drops what comes from others, and a closed port is an error at once.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buf = [0; 4096];
    loop {
        let received = async { socket.recv(&mut buf).await.map(Some) }
            .or(async {
                Timer::after(RESEND).await;
                Ok(None)
            })
            .await?;
        let Some(count) = received else {
            socket.send(query).await?; // one of the two may have been lost
            continue;
        };
        let bytes = buf.get(..count).unwrap_or_default();
        match Answer::decode(bytes, question) {
            Ok(answer) if answer.is_to(id) && answer.truncated => {
                return ask_tcp(server, question, id, query).await;
            }
            Ok(answer) if answer.is_to(id) => return Ok(answer),
            // Late, forged or broken: the true answer may still come.
            _ => {}
        }
    }
}

async fn ask_tcp(
    server: SocketAddr,
    question: &Question,
    id: u16,
    query: &[u8],
) -> io::Result<Answer> {
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message).await?;
    match Answer::decode(&message, question) {
        Ok(answer) if answer.is_to(id) => Ok(answer),
        Ok(_) => Err(io::Error::other("another question was answered over TCP")),
        Err(error) => Err(io::Error::other(error)),
    }
}

const NOERROR: Rcode = Rcode(0);
/// Silence after which a query is sent again.
const RESEND: Duration = Duration::from_millis(700);
