//! Signals as a stream (contract: SIGTERM and SIGINT stop, SIGHUP reloads, SIGUSR2 leaves quietly).

use async_signal::{Signal, Signals};
use smol::stream::StreamExt;
use std::io;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// SIGUSR2.
    StopQuietly,
}

/// The signals sidecast listens to. SIGCHLD belongs to [`crate::io::reaper`].
pub struct Requests(Signals);

impl Requests {
    /// Installs the handlers; from here on those signals no longer end the process.
    pub fn open() -> io::Result<Self> {
        Signals::new([Signal::Term, Signal::Int, Signal::Hup, Signal::Usr2]).map(Self)
    }

    /// The next request; `Stop` when the stream breaks, since nobody could stop us any more.
    pub async fn next(&mut self) -> Request {
        match self.0.next().await {
            Some(Ok(Signal::Hup)) => Request::Reload,
            Some(Ok(Signal::Usr2)) => Request::StopQuietly,
            _ => Request::Stop,
        }
    }
}
