//! The demo's service: answers every TCP connection with a line.

use std::io::{self, Write};
use std::net::{Ipv6Addr, TcpListener};

/// Serves until killed.
pub fn run() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
    loop {
        let (mut stream, from) = listener.accept()?;
        // A client that has closed is no error.
        let _ = writeln!(stream, "hello {}, this is the demo's service", from.ip());
    }
}

/// Where the service listens.
pub const PORT: u16 = 8053;
