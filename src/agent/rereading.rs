//! The configuration read again, its files beside the loop: one time after the other.

use super::calls::ReloadCall;
use super::{Executor, Reload};
use crate::config::Config;
use crate::io::blocking::Lane;
use smol::channel::Sender;
use std::io;
use std::time::Duration;

pub struct Rereading {
    executor: Executor,
    reload: Reload,
    lane: Lane,
    out: Sender<Box<Reread>>,
    running: bool,
    /// Asked for since the running one began, which may have read the files as they were before.
    again: Option<Vec<ReloadCall>>,
}

/// What was read, and who asked for it.
pub struct Reread {
    pub config: Result<Config, String>,
    pub calls: Vec<ReloadCall>,
}

impl Rereading {
    pub fn new(executor: &Executor, reload: Reload, out: Sender<Box<Reread>>) -> Self {
        Self {
            executor: executor.clone(),
            reload,
            lane: Lane::default(),
            out,
            running: false,
            again: None,
        }
    }

    /// Has the configuration read; somebody may wait for the outcome.
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
        let (lane, reload, out) = (self.lane.clone(), self.reload.clone(), self.out.clone());
        let read = async move {
            let read = lane.run_within(LIMIT, move || reload().map_err(io::Error::other));
            let config = read.await.map_err(|error| error.to_string());
            // Without a receiver the agent is gone.
            let _ = out.send(Box::new(Reread { config, calls })).await;
        };
        self.executor.spawn(read).detach();
    }
}

/// How long reading may take: a client that asked for it should hear why it did not happen.
const LIMIT: Duration = Duration::from_secs(5);
