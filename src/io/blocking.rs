//! File system calls on threads of smol's pool: they may block forever, as on NFS without its server.
//!
//! They do not count against the thread slots of checks (`agent.check_threads`): hanging checks, which any client
//! may have registered, must block neither a reload nor the state file.

use smol::Timer;
use smol::future::FutureExt;
use smol::lock::Semaphore;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Runs the calls for one file one after the other, so that a hanging file system holds one thread at most.
#[derive(Clone, Debug)]
pub struct BlockingQueue {
    turn: Arc<Semaphore>,
    /// Its calls run on the [`SHARED_THREADS`].
    has_shared_threads: bool,
}

impl Default for BlockingQueue {
    fn default() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            has_shared_threads: false,
        }
    }
}

impl BlockingQueue {
    /// For one of many files, as each app may have one: they share a few threads, and if all of those hang,
    /// only these files wait.
    pub fn with_shared_threads() -> Self {
        Self {
            has_shared_threads: true,
            ..Self::default()
        }
    }

    /// Runs the call when the ones before it have returned. It continues if this future is dropped.
    pub async fn run<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> T {
        let turn = self.turn.acquire_arc().await;
        let place = match self.has_shared_threads {
            true => Some(SHARED_THREADS.acquire().await),
            false => None,
        };
        smol::unblock(move || {
            let result = call();
            drop((turn, place));
            result
        })
        .await
    }

    /// The same with a timeout; the next call still waits until this one returns.
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
            let message = format!("no answer within {limit:?}; its file system may hang");
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        };
        self.run(call).or(late).await
    }
}

/// Threads shared by all queues of many files. With `agent.check_threads` (at most 400), 64 starting commands
/// and a few single queues the sum stays below the 500 threads of the pool.
static SHARED_THREADS: Semaphore = Semaphore::new(SHARED_THREAD_COUNT);
const SHARED_THREAD_COUNT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_call_that_hangs_keeps_the_next_waiting_but_nobody_else() {
        let (go, wait) = mpsc::channel::<()>();
        let queue = BlockingQueue::default();
        let soon = Duration::from_millis(50);
        smol::block_on(async {
            let hangs = queue.run_within(soon, move || wait.recv().map_err(io::Error::other));
            assert_eq!(hangs.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert!(queue.run_within(soon, || Ok(())).await.is_err());
            assert_eq!(BlockingQueue::default().run(|| 7).await, 7);
            go.send(()).unwrap();
            assert_eq!(queue.run(|| 8).await, 8);
        });
    }

    #[test]
    fn where_all_of_many_hang_a_file_by_itself_is_read() {
        let soon = Duration::from_millis(5);
        smol::block_on(async {
            let mut held = Vec::new();
            for _ in 0..SHARED_THREAD_COUNT {
                let ((go, wait), (begin, begun)) = (mpsc::channel::<()>(), mpsc::channel());
                let hangs = move || {
                    begin.send(()).expect("the task waits for it");
                    wait.recv().is_ok()
                };
                let call = async move { BlockingQueue::with_shared_threads().run(hangs).await };
                held.push((go, smol::spawn(call)));
                begun.recv().expect("it begins");
            }
            assert!(
                BlockingQueue::with_shared_threads()
                    .run_within(soon, || Ok(()))
                    .await
                    .is_err()
            );
            assert_eq!(BlockingQueue::default().run(|| 7).await, 7);
            drop(held);
            assert_eq!(BlockingQueue::with_shared_threads().run(|| 8).await, 8);
        });
    }
}
