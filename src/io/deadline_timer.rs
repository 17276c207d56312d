//! The timer of the event loop, a timerfd(2).
//!
//! Setting a timer of async-io wakes the thread that polls, which then computes its timeout anew: two wake-ups for each
//! deadline. A timerfd among its descriptors is set without it.

use async_io::Async;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use smol::{Timer, future};
use std::io;
use std::task::Poll;
use std::time::{Duration, Instant};

/// One deadline at a time.
pub struct DeadlineTimer {
    fd: Async<TimerFd>,
    set_to: Option<Instant>,
}

impl DeadlineTimer {
    /// Without a deadline.
    ///
    /// # Errors
    /// The kernel's: too many open files.
    pub fn open() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        Ok(Self {
            fd: Async::new_nonblocking(fd)?,
            set_to: None,
        })
    }

    /// Waits until `deadline`; without one forever.
    pub async fn wait(&mut self, deadline: Option<Instant>) {
        self.set(deadline);
        let registered = future::poll_fn(|context| {
            if deadline.is_some_and(|at| at <= Instant::now()) {
                return Poll::Ready(Ok(()));
            }
            loop {
                match self.fd.poll_readable(context) {
                    // An event may be left from a deadline before; after it the descriptor is to be registered again.
                    // The registration outlives this future.
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        if let Err(error) = registered.await {
            log::error!(
                "cannot register the timerfd of the event loop with epoll: {error}; using a timer of the reactor"
            );
            deadline.map_or_else(Timer::never, Timer::at).await;
        }
    }

    fn set(&mut self, deadline: Option<Instant>) {
        if deadline == self.set_to {
            return;
        }
        self.set_to = deadline;
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let timer = self.fd.get_ref();
        // The calls fail only for arguments that do not occur here.
        let _ = match left {
            None => timer.unset(),
            // Zero would disarm the timer, and the caller does not wait for it.
            Some(Duration::ZERO) => Ok(()),
            Some(left) => {
                let once = Expiration::OneShot(TimeSpec::from_duration(left));
                timer.set(once, TimerSetTimeFlags::empty())
            }
        };
    }
}
