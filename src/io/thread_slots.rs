//! Thread slots for blocking calls, as HTTP checks and name lookups: they bound the number of threads of
//! smol's pool in use.

use smol::Timer;
use smol::future::FutureExt;
use smol::lock::{Semaphore, SemaphoreGuardArc};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A bounded number of concurrent blocking calls.
#[derive(Clone)]
pub struct ThreadSlots(Arc<Semaphore>);

/// One slot. A hanging call holds it until it returns, even if nothing waits for its result any more.
pub struct ThreadSlot {
    _places: SemaphoreGuardArc,
    /// The permit of a monitor, which has one call at a time.
    turn: Option<SemaphoreGuardArc>,
}

/// Why a call has no result within its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallTimeout {
    /// It is still running.
    Running,
    /// It was not started: the system gives no more threads.
    NotStarted,
}

impl ThreadSlots {
    /// `count` slots.
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count)))
    }

    /// Waits for a free slot.
    pub async fn take(&self) -> ThreadSlot {
        ThreadSlot {
            _places: self.0.acquire_arc().await,
            turn: None,
        }
    }

    /// A slot, if one is free.
    pub fn try_take(&self) -> Option<ThreadSlot> {
        Some(ThreadSlot {
            _places: self.0.try_acquire_arc()?,
            turn: None,
        })
    }
}

impl ThreadSlot {
    /// Holds this permit too until the call returns.
    pub fn with_permit(mut self, turn: SemaphoreGuardArc) -> Self {
        self.turn = Some(turn);
        self
    }

    /// Runs `call` on a thread of the pool. A result after `limit` is dropped.
    pub async fn run<T: Send + 'static>(
        self,
        limit: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CallTimeout> {
        let begun = Arc::new(AtomicBool::new(false));
        let begins = begun.clone();
        let returned = smol::unblock(move || {
            begins.store(true, Ordering::Relaxed);
            let result = call();
            drop(self);
            result
        });
        let overdue = async {
            Timer::after(limit).await;
            match begun.load(Ordering::Relaxed) {
                true => Err(CallTimeout::Running),
                false => Err(CallTimeout::NotStarted),
            }
        };
        async { Ok(returned.await) }.or(overdue).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smol::future;
    use std::sync::mpsc;

    #[test]
    fn a_call_that_hangs_keeps_its_place_until_it_returns() {
        let places = ThreadSlots::new(1);
        let (end, hangs) = mpsc::channel::<()>();
        let limit = Duration::from_millis(50);
        let place = future::block_on(places.take());
        let call = place.run(limit, move || hangs.recv().is_err());
        assert_eq!(future::block_on(call), Err(CallTimeout::Running));
        assert!(places.try_take().is_none());
        drop(end);
        let place = future::block_on(places.take());
        let call = place.run(Duration::from_secs(5), || 7);
        assert_eq!(future::block_on(call), Ok(7));
        // The call has returned its result, but its slot may be released a little later.
        drop(future::block_on(places.take()));
    }
}
