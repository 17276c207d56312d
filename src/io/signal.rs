//! Signals as a stream: SIGTERM and SIGINT stop, SIGHUP reloads, SIGUSR2 stops for a restart, keeping routes
//! and addresses (RFC 4724).

use async_signal::{Signal, Signals};
use nix::sys::signal::{SigSet, Signal as Number};
use smol::stream::StreamExt;
use std::io;

/// What a signal requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// SIGUSR2.
    StopForRestart,
}

/// Blocks the handled signals until [`Requests::open`]: before that PID 1 would lose them, and any other
/// process would be killed by them.
pub fn block() {
    let ours = [
        Number::SIGTERM,
        Number::SIGINT,
        Number::SIGHUP,
        Number::SIGUSR2,
    ];
    // It fails only for an invalid argument.
    let _ = ours.into_iter().collect::<SigSet>().thread_block();
}

/// The signals sidecast listens to. SIGCHLD belongs to [`crate::io::reaper`].
pub struct Requests(Signals);

impl Requests {
    /// Installs the handlers and unblocks all signals, also those that the parent had blocked.
    pub fn open() -> io::Result<Self> {
        let signals = Signals::new([Signal::Term, Signal::Int, Signal::Hup, Signal::Usr2])?;
        SigSet::all().thread_unblock()?;
        Ok(Self(signals))
    }

    /// The next request; `Stop` if the stream fails, since no signal could stop the process any more.
    pub async fn next(&mut self) -> Request {
        match self.0.next().await {
            Some(Ok(Signal::Hup)) => Request::Reload,
            Some(Ok(Signal::Usr2)) => Request::StopForRestart,
            _ => Request::Stop,
        }
    }
}
