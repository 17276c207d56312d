//! Places for calls that block: a check by HTTP, the look-up of a name. Each has a thread of smol's pool, which
//! would grow to hundreds.

use smol::Timer;
use smol::future::FutureExt;
use smol::lock::{Semaphore, SemaphoreGuardArc};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A bounded number of calls at once.
#[derive(Clone)]
pub struct Places(Arc<Semaphore>);

/// One of them. A call that hangs keeps it until it returns, also when nobody waits for it any more.
pub struct Place {
    _places: SemaphoreGuardArc,
    /// That of a monitor, which has one call at a time.
    turn: Option<SemaphoreGuardArc>,
}

/// Why a call has no result in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// It hangs.
    Hangs,
    /// No thread took it up: the system gives us no more of them.
    NoThread,
}

impl Places {
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count)))
    }

    /// Waits until one is free.
    pub async fn take(&self) -> Place {
        Place {
            _places: self.0.acquire_arc().await,
            turn: None,
        }
    }

    pub fn try_take(&self) -> Option<Place> {
        Some(Place {
            _places: self.0.try_acquire_arc()?,
            turn: None,
        })
    }
}

impl Place {
    /// Keeps this as well until the call returns.
    pub fn with_turn(mut self, turn: SemaphoreGuardArc) -> Self {
        self.turn = Some(turn);
        self
    }

    /// Runs `call` on a thread of the pool. What it returns after `limit` is lost.
    pub async fn run<T: Send + 'static>(
        self,
        limit: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Overdue> {
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
                true => Err(Overdue::Hangs),
                false => Err(Overdue::NoThread),
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
        let places = Places::new(1);
        let (end, hangs) = mpsc::channel::<()>();
        let limit = Duration::from_millis(50);
        let place = future::block_on(places.take());
        let call = place.run(limit, move || hangs.recv().is_err());
        assert_eq!(future::block_on(call), Err(Overdue::Hangs));
        assert!(places.try_take().is_none());
        drop(end);
        let place = future::block_on(places.take());
        let call = place.run(Duration::from_secs(5), || 7);
        assert_eq!(future::block_on(call), Ok(7));
        // Nobody waited for its end, which may be a moment later.
        drop(future::block_on(places.take()));
    }
}
