//! Calls that may block for ever, such as those for files of a file server that is away: on threads of
//! smol's pool, never on the loop.

use smol::Timer;
use smol::future::FutureExt;
use smol::lock::Semaphore;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The calls for one file, one after the other: where it hangs, it holds one thread and no more.
#[derive(Clone, Debug)]
pub struct Lane(Arc<Semaphore>);

impl Default for Lane {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Lane {
    /// Runs the call when its turn has come. It goes on also when nobody waits for it any more.
    pub async fn run<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> T {
        let turn = self.0.acquire_arc().await;
        let place = PLACES.acquire().await;
        smol::unblock(move || {
            let result = call();
            drop((turn, place));
            result
        })
        .await
    }

    /// The same, for no longer than `limit`; the next call waits for the end of this one all the same.
    ///
    /// # Errors
    /// The call's own, and `TimedOut`.
    pub async fn run_within<T: Send + 'static>(
        &self,
        limit: Duration,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let late = async {
            Timer::after(limit).await;
            let message = format!("no answer within {limit:?}, its file system may hang");
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        };
        self.run(call).or(late).await
    }
}

/// All lanes together: the pool would grow to 500 threads.
static PLACES: Semaphore = Semaphore::new(64);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_call_that_hangs_keeps_the_next_waiting_but_nobody_else() {
        let (go, wait) = mpsc::channel::<()>();
        let lane = Lane::default();
        let soon = Duration::from_millis(50);
        smol::block_on(async {
            let hangs = lane.run_within(soon, move || wait.recv().map_err(io::Error::other));
            assert_eq!(hangs.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert!(lane.run_within(soon, || Ok(())).await.is_err());
            assert_eq!(Lane::default().run(|| 7).await, 7);
            go.send(()).unwrap();
            assert_eq!(lane.run(|| 8).await, 8);
        });
    }
}
