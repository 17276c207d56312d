//! Reloads the configuration on another thread, one reload at a time.

use super::calls::ReloadCall;
use super::{Executor, Reload};
use crate::config::Config;
use crate::io::blocking::BlockingQueue;
use smol::channel::Sender;
use smol::future::FutureExt;
use std::io;
use std::time::Duration;

/// Reads the configuration for reloads.
pub struct ConfigReader {
    executor: Executor,
    reload: Reload,
    blocking: BlockingQueue,
    out: Sender<Box<ConfigRead>>,
    running: bool,
    /// Calls that came after the running reload began. It may have read the files already, so another one follows.
    again: Option<Vec<ReloadCall>>,
}

/// The configuration that was read, and the calls that wait for the result.
pub struct ConfigRead {
    pub config: Result<Config, String>,
    pub calls: Vec<ReloadCall>,
}

impl ConfigReader {
    /// Nothing is being read.
    pub fn new(executor: &Executor, reload: Reload, out: Sender<Box<ConfigRead>>) -> Self {
        Self {
            executor: executor.clone(),
            reload,
            blocking: BlockingQueue::default(),
            out,
            running: false,
            again: None,
        }
    }

    /// Starts a reload, or queues one after the running one. `call` waits for the outcome.
    pub fn ask(&mut self, call: Option<ReloadCall>) {
        self.again.get_or_insert_default().extend(call);
        self.start();
    }

    /// The outcome was taken.
    pub fn done(&mut self) {
        self.running = false;
        self.start();
    }

    fn start(&mut self) {
        if self.running {
            return;
        }
        let Some(calls) = self.again.take() else {
            return;
        };
        self.running = true;
        let (blocking, reload, out) =
            (self.blocking.clone(), self.reload.clone(), self.out.clone());
        let read = async move {
            let read = blocking.run_within(LIMIT, move || reload().map_err(io::Error::other));
            let config = read.await.map_err(|error| error.to_string());
            // The send fails only after the event loop has ended.
            let _ = out.send(Box::new(ConfigRead { config, calls })).await;
        };
        self.executor.spawn(read.boxed_local()).detach();
    }
}

/// The timeout of a read; the callers then get an error.
const LIMIT: Duration = Duration::from_secs(5);
