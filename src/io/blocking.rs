//! Calls for files, which may block for ever where the file server is away: on threads of smol's pool,
//! never on the loop.
//!
//! They have no place among [`super::places`], those of `agent.check_threads`: checks that hang, which others
//! may have registered, must not keep the operator from a reload, nor a drain from being remembered.

use smol::Timer;
use smol::future::FutureExt;
use smol::lock::Semaphore;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The calls for one file, one after the other: where it hangs, it holds one thread and no more.
#[derive(Clone, Debug)]
pub struct Lane {
    turn: Arc<Semaphore>,
    /// Of [`MANY`].
    is_one_of_many: bool,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            is_one_of_many: false,
        }
    }
}

impl Lane {
    /// For one of as many files as there are apps: they share some threads, and where all of those hang
    /// they wait, but nobody else does.
    pub fn of_many() -> Self {
        Self {
            is_one_of_many: true,
            ..Self::default()
        }
    }

    /// Runs the call when its turn has come. It goes on also when nobody waits for it any more.
    pub async fn run<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> T {
        let turn = self.turn.acquire_arc().await;
        let place = match self.is_one_of_many {
            true => Some(MANY.acquire().await),
            false => None,
        };
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

/// All lanes of many files together. With 400 of `agent.check_threads` at most, 64 commands that start and a
/// few lanes by themselves this stays below the 500 threads of the pool: there is always one left.
static MANY: Semaphore = Semaphore::new(SHARED);
const SHARED: usize = 16;

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

    #[test]
    fn where_all_of_many_hang_a_file_by_itself_is_read() {
        let soon = Duration::from_millis(5);
        smol::block_on(async {
            let mut held = Vec::new();
            for _ in 0..SHARED {
                let ((go, wait), (begin, begun)) = (mpsc::channel::<()>(), mpsc::channel());
                let hangs = move || {
                    begin.send(()).expect("somebody waits for it");
                    wait.recv().is_ok()
                };
                let call = async move { Lane::of_many().run(hangs).await };
                held.push((go, smol::spawn(call)));
                begun.recv().expect("it begins");
            }
            assert!(Lane::of_many().run_within(soon, || Ok(())).await.is_err());
            assert_eq!(Lane::default().run(|| 7).await, 7);
            drop(held);
            assert_eq!(Lane::of_many().run(|| 8).await, 8);
        });
    }
}
