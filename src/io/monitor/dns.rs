//! `dns:` — sends a query over UDP, and over TCP if the response is truncated (RFC 7766).

use crate::app::{QType, Rcode};
use crate::dns::{NameError, Question, Response};
use crate::health::Outcome;
use crate::io::exhaustion::is_out_of_resources;
use crate::timer::Rng;
use smol::Timer;
use smol::future::FutureExt;
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use smol::net::{TcpStream, UdpSocket};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// The query, and the expected response.
pub(super) struct Query<'a> {
    pub(super) name: &'a str,
    pub(super) qtype: QType,
    /// `None`: NOERROR with at least one record.
    pub(super) rcode: Option<Rcode>,
}

impl Query<'_> {
    /// The question, the message ID, and the encoded query.
    pub(super) fn encode(&self, chance: &mut Rng) -> Result<(Question, u16, Vec<u8>), NameError> {
        let question = Question {
            name: self.name.to_owned(),
            qtype: self.qtype.0,
        };
        let [a, b, ..] = chance.next_u64().to_be_bytes();
        let id = u16::from_be_bytes([a, b]);
        let bytes = question.encode(id)?;
        Ok((question, id, bytes))
    }
}

/// Sends the query to one server and waits for the response, without a timeout.
pub(super) async fn check(query: &Query<'_>, server: SocketAddr, chance: &mut Rng) -> Outcome {
    let (question, id, bytes) = match query.encode(chance) {
        Ok(encoded) => encoded,
        Err(error) => return Outcome::fail(error),
    };
    match ask(server, &question, id, &bytes).await {
        Ok(answer) => evaluate(query, &answer),
        Err(error) if is_out_of_resources(&error) => Outcome::unavailable(error),
        Err(error) => Outcome::Fail(format!("query to {server}: {error}")),
    }
}

pub(super) fn evaluate(query: &Query<'_>, answer: &Response) -> Outcome {
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

async fn ask(
    server: SocketAddr,
    question: &Question,
    id: u16,
    query: &[u8],
) -> io::Result<Response> {
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
        match Response::decode(bytes, question) {
            Ok(answer) if answer.is_response_to(id) && answer.truncated => {
                let stream = TcpStream::connect(server).await?;
                return ask_over(stream, question, id, query).await;
            }
            Ok(answer) if answer.is_response_to(id) => return Ok(answer),
            // Late, forged or malformed: the response may still come.
            _ => {}
        }
    }
}

/// Asks again over TCP.
pub(super) async fn ask_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    question: &Question,
    id: u16,
    query: &[u8],
) -> io::Result<Response> {
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message).await?;
    match Response::decode(&message, question) {
        Ok(answer) if answer.is_response_to(id) => Ok(answer),
        Ok(_) => Err(io::Error::other(
            "the response over TCP is to another question",
        )),
        Err(error) => Err(io::Error::other(error)),
    }
}

const NOERROR: Rcode = Rcode(0);
/// Time without a response after which the query is sent again.
pub(super) const RESEND: Duration = Duration::from_millis(700);
