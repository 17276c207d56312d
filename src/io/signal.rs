//! Signals as a stream (contract: SIGTERM and SIGINT stop, SIGHUP reloads, SIGUSR2 leaves quietly).

use async_signal::{Signal, Signals};
use nix::sys::signal::{SigSet, Signal as Number};
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

/// Lets signals wait from the first moment on until somebody listens to them: init's are otherwise lost
/// without a handler, everybody else's end the process.
pub fn hold() {
    let ours = [
        Number::SIGTERM,
        Number::SIGINT,
        Number::SIGHUP,
        Number::SIGUSR2,
    ];
    // It fails only for an unknown way to change the mask.
    let _ = ours.into_iter().collect::<SigSet>().thread_block();
}

/// The signals sidecast listens to. SIGCHLD belongs to [`crate::io::reaper`].
pub struct Requests(Signals);

impl Requests {
    /// Installs the handlers; from here on those signals no longer end the process. What waited comes
    /// now, and so does what a parent had blocked, which nobody means for its child.
    pub fn open() -> io::Result<Self> {
        let signals = Signals::new([Signal::Term, Signal::Int, Signal::Hup, Signal::Usr2])?;
        SigSet::all().thread_unblock()?;
        Ok(Self(signals))
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
