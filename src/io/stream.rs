//! A connection, whatever carries it: TCP, a unix socket, TLS over either.

use smol::Timer;
use smol::future::FutureExt;
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use smol::net::TcpStream;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

pub(super) type Stream = Box<dyn Duplex>;

pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// Opens a connection to the first of these that takes one. Each has its share of the time left, so that
/// one that is silent does not hide the next. What the last one said where none did; `None`: there are none.
pub(super) async fn connect(
    addrs: &[SocketAddr],
    deadline: Instant,
) -> Result<TcpStream, Option<(SocketAddr, io::Error)>> {
    let mut last = None;
    for (index, addr) in addrs.iter().enumerate() {
        let left = u32::try_from(addrs.len() - index).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        let attempt = TcpStream::connect(addr).or(async {
            Timer::after(share).await;
            Err(io::ErrorKind::TimedOut.into())
        });
        match attempt.await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some((*addr, error)),
        }
    }
    Err(last)
}

/// Appends what comes next; false at the end.
pub(super) async fn read_more(stream: &mut Stream, received: &mut Vec<u8>) -> io::Result<bool> {
    let mut buf = vec![0; READ];
    let count = stream.read(&mut buf).await?;
    received.extend_from_slice(buf.get(..count).unwrap_or_default());
    Ok(count > 0)
}

/// Bytes of a read. A thousand checks that wait for their answers at once have one such buffer each.
const READ: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, listen};
    use std::net::TcpListener;
    use std::time::Duration;

    #[test]
    fn an_address_that_is_silent_does_not_hide_the_next() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        listen(&silent, Backlog::new(0).unwrap()).unwrap();
        let addr = silent.local_addr().unwrap();
        // The queue is full: whoever comes now is not answered.
        let _first = std::net::TcpStream::connect(addr).unwrap();
        let serving = TcpListener::bind("127.0.0.1:0").unwrap();
        let next = serving.local_addr().unwrap();
        let ask = |addrs: &[SocketAddr]| {
            let deadline = Instant::now() + Duration::from_secs(1);
            smol::block_on(connect(addrs, deadline))
        };
        assert_eq!(
            ask(&[addr, next]).unwrap().peer_addr().unwrap(),
            next,
            "the first one had half the time"
        );
        let (last, error) = ask(&[addr]).unwrap_err().unwrap();
        assert_eq!((last, error.kind()), (addr, io::ErrorKind::TimedOut));
        assert!(ask(&[]).unwrap_err().is_none());
    }
}
