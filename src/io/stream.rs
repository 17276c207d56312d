//! A connection, whatever carries it: TCP, a unix socket, TLS over either.

use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use std::io;

pub(super) type Stream = Box<dyn Duplex>;

pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// Appends what comes next; false at the end.
pub(super) async fn read_more(stream: &mut Stream, received: &mut Vec<u8>) -> io::Result<bool> {
    let mut buf = vec![0; 32 * 1024];
    let count = stream.read(&mut buf).await?;
    received.extend_from_slice(buf.get(..count).unwrap_or_default());
    Ok(count > 0)
}
