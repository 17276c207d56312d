//! The demo's router: a BGP listener that prints one line for each event.

use crate::bgp::{
    Capability, Cease, DecodeContext, Framer, MAX_LEN, Message, Negotiated, Notification, Open,
    Received, decode_message,
};
use crate::net::{Asn, Family, Prefix, RouterId};
use crate::wire::{Reader, WireError};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

/// The router's address, which is its router ID too.
pub const ADDR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const AS: u32 = 65000;
const PORT: u16 = 179;

/// Serves one session after the other until killed. `listening`, `established`, `announced PREFIX`,
/// `withdrawn PREFIX` and `closed` go to standard output.
pub fn run() -> io::Result<()> {
    let listener = TcpListener::bind((ADDR, PORT))?;
    say("listening")?;
    loop {
        let (stream, _) = listener.accept()?;
        let mut session = Session::new(stream)?;
        let ended = session.run();
        if session.negotiated.is_some() {
            say("closed")?;
        }
        if let Err(error) = ended {
            log::debug!("session: {error}");
        }
    }
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

struct Session {
    stream: TcpStream,
    framer: Framer,
    ours: Open,
    negotiated: Option<Negotiated>,
    established: bool,
}

impl Session {
    fn new(stream: TcpStream) -> io::Result<Self> {
        // Of our own hold time: a silent peer does not hold the listener forever.
        stream.set_read_timeout(Some(Duration::from_secs(u64::from(HOLD_TIME))))?;
        let asn = Asn::new(AS).ok_or(io::ErrorKind::InvalidInput)?;
        let router_id = RouterId::new(ADDR).ok_or(io::ErrorKind::InvalidInput)?;
        let families = Family::ALL.map(|family| Capability::Multiprotocol(family.into()));
        Ok(Self {
            stream,
            framer: Framer::new(),
            ours: Open::new(asn, HOLD_TIME, router_id, families.to_vec()),
            negotiated: None,
            established: false,
        })
    }

    /// Runs until the session ends; an orderly end is `Ok`.
    fn run(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let n = self.stream.read(&mut buffer)?;
            if n == 0 {
                return Ok(());
            }
            self.framer.push(buffer.get(..n).unwrap_or_default());
            while let Some(frame) = self.framer.next(MAX_LEN).map_err(io::Error::other)? {
                let received =
                    decode_message(&frame, &self.context()).map_err(|error| self.refuse(&error))?;
                if let Received::Update(_) = received {
                    print(&frame.body)?;
                } else if !self.take(received)? {
                    return Ok(());
                }
            }
        }
    }

    fn context(&self) -> DecodeContext {
        match &self.negotiated {
            Some(negotiated) => DecodeContext::established(negotiated),
            None => DecodeContext::before_open(self.ours.asn, self.ours.router_id, None),
        }
    }

    fn refuse(&mut self, error: &crate::bgp::ProtocolError) -> io::Error {
        // The session ends either way; a lost NOTIFICATION does not matter here.
        let _ = self.send(&Message::Notification(error.into()));
        io::Error::other(error.to_string())
    }

    /// `false`: the peer ended the session.
    fn take(&mut self, received: Received) -> io::Result<bool> {
        match received {
            Received::Open(theirs) if self.negotiated.is_none() => {
                self.negotiated =
                    Some(Negotiated::new(&self.ours, &theirs).map_err(io::Error::other)?);
                self.send(&Message::Open(self.ours.clone()))?;
                self.send(&Message::Keepalive)?;
            }
            Received::Open(_) => {
                self.send(&Message::Notification(Notification::cease(
                    Cease::ConnectionRejected,
                    None,
                )))?;
                return Ok(false);
            }
            Received::Keepalive if !self.established => {
                self.established = true;
                say("established")?;
            }
            Received::Keepalive => self.send(&Message::Keepalive)?,
            Received::Notification(_) => return Ok(false),
            Received::RouteRefresh(_) | Received::Update(_) => {}
        }
        Ok(true)
    }

    fn send(&mut self, message: &Message) -> io::Result<()> {
        let bytes = message.encode().map_err(io::Error::other)?;
        self.stream.write_all(&bytes)
    }
}

/// The demo has one route, of IPv4: all there is to read of an UPDATE is its first and its last field
/// (RFC 4271 §4.3).
fn print(update: &[u8]) -> io::Result<()> {
    let fields = |mut r: Reader<'_>| {
        let length = r.u16()?;
        let withdrawn = prefixes(r.sub(length.into())?)?;
        let length = r.u16()?;
        let _attributes = r.take(length.into())?;
        Ok::<_, WireError>((withdrawn, prefixes(r)?))
    };
    let (withdrawn, announced) = fields(Reader::new(update)).map_err(io::Error::other)?;
    for prefix in withdrawn {
        say(&format!("withdrawn {prefix}"))?;
    }
    for prefix in announced {
        say(&format!("announced {prefix}"))?;
    }
    Ok(())
}

fn prefixes(mut r: Reader<'_>) -> Result<Vec<Prefix>, WireError> {
    let mut prefixes = Vec::new();
    while !r.is_empty() {
        let len = r.u8()?;
        let mut addr = [0; 4];
        let bytes = r.take(usize::from(len.div_ceil(8)))?;
        addr.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        prefixes.extend(Prefix::masked(addr.into(), len));
    }
    Ok(prefixes)
}

/// Seconds.
const HOLD_TIME: u16 = 9;
