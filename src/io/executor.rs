//! Tasks on one thread.

use smol::Task;
use std::future::Future;
use std::pin::Pin;

/// smol's, with every task in a box: tasks are begun seldom, and what runs one is compiled once for all
/// in place of 2 KB for each kind.
#[derive(Default)]
pub struct LocalExecutor(smol::LocalExecutor<'static>);

impl LocalExecutor {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) -> Task<()> {
        let future: Pin<Box<dyn Future<Output = ()>>> = Box::pin(future);
        self.0.spawn(future)
    }

    /// Runs the tasks for as long as `future` takes.
    pub async fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.run(future).await
    }
}
