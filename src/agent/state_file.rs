//! The state file: read at start, written shortly after a change.

use super::Executor;
use crate::config::{Config, SavedState};
use crate::core::Core;
use crate::io::blocking::BlockingQueue;
use crate::io::state_file;
use smol::Timer;
use smol::channel::{self, Receiver, Sender};
use smol::future::FutureExt;
use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The state file, where one is configured.
pub struct StateFile {
    /// Texts to be written; a newer one replaces an older one.
    texts: Sender<String>,
    writer: smol::Task<()>,
    /// The last read or write failed or timed out.
    failing: Rc<Cell<bool>>,
    /// When it is to be written.
    due: Option<Instant>,
    not_before: Instant,
}

impl StateFile {
    /// Restores the core's state. A file that cannot be read is logged and ignored.
    pub async fn open(executor: &Executor, core: &mut Core, now: Instant) -> Option<Self> {
        let path = core.config().agent.state_file.clone()?;
        let blocking = BlockingQueue::default();
        let file = path.clone();
        let text = blocking
            .run_within(READ_TIMEOUT, move || {
                state_file::read(&file, SavedState::MAX_BYTES)
            })
            .await;
        let failing = Rc::new(Cell::new(text.is_err()));
        let written = text.unwrap_or_else(|error| {
            log::warn!("agent.state_file: {}: {error}; {LOST}", path.display());
            None
        });
        let written = written.unwrap_or_default();
        let mut due = None;
        if !written.is_empty() {
            match read(&written, core.config()) {
                Ok(memory) => {
                    core.restore(now, memory);
                    // Earlier versions wrote YAML: it is replaced by JSON at once.
                    due = (!SavedState::is_json(&written)).then_some(now);
                }
                Err(error) => log::warn!("agent.state_file: {}: {error}; {LOST}", path.display()),
            }
        }
        let (texts, queue) = channel::bounded(1);
        Some(Self {
            texts,
            writer: executor
                .spawn(write_all(blocking, path, written, queue, failing.clone()).boxed_local()),
            failing,
            due,
            not_before: now,
        })
    }

    /// Writes the state when it changed and is due.
    pub fn save_when_due(&mut self, core: &mut Core, now: Instant) {
        if core.take_state_changed() && self.due.is_none() {
            self.due = Some((now + SAVE_DELAY).max(self.not_before));
        }
        if self.due.is_some_and(|due| due <= now) {
            self.write(core, now);
        }
    }

    /// Whether the last read or write succeeded.
    pub fn is_written(&self) -> bool {
        !self.failing.get()
    }

    /// When the file is to be written.
    pub fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Writes pending changes before exit, without waiting for a hanging disk.
    pub async fn close(mut self, core: &mut Core, now: Instant) {
        if core.take_state_changed() || self.due.is_some() {
            self.write(core, now);
        }
        self.texts.close();
        let late = async {
            Timer::after(EXIT_TIMEOUT).await;
        };
        self.writer.or(late).await;
    }

    fn write(&mut self, core: &Core, now: Instant) {
        self.due = None;
        self.not_before = now + SAVE_INTERVAL;
        // The writer ends only when this process does.
        let _ = self.texts.force_send(core.saved_state().to_json());
    }
}

/// Writes each text, retrying what failed.
async fn write_all(
    blocking: BlockingQueue,
    path: PathBuf,
    mut written: String,
    texts: Receiver<String>,
    failing: Rc<Cell<bool>>,
) {
    let mut reported = false;
    let mut next = texts.recv().await;
    while let Ok(text) = next {
        let failed = if text == written {
            None
        } else if text.len() > SavedState::MAX_BYTES {
            Some(io::Error::from(io::ErrorKind::FileTooLarge))
        } else {
            let (file, bytes) = (path.clone(), text.clone());
            let write = move || state_file::write(&file, &bytes);
            blocking.run_within(WRITE_TIMEOUT, write).await.err()
        };
        let Some(error) = failed else {
            (written, reported) = (text, false);
            failing.set(false);
            next = texts.recv().await;
            continue;
        };
        failing.set(true);
        if !std::mem::replace(&mut reported, true) {
            log::warn!(
                "agent.state_file: {}: {error}; a restart loses what changed since it was last written",
                path.display()
            );
        }
        let again = async {
            Timer::after(SAVE_INTERVAL).await;
            Ok(text)
        };
        next = texts.recv().or(again).await;
    }
}

fn read(text: &str, config: &Config) -> Result<SavedState, String> {
    let (memory, problems) = SavedState::read(text, config)?;
    for problem in problems {
        log::warn!("agent.state_file: not restored: {problem}");
    }
    Ok(memory)
}

/// What an unreadable file means.
const LOST: &str = "apps registered by HTTP and drains of the previous process are lost";
/// Changes within this time are written together.
const SAVE_DELAY: Duration = Duration::from_millis(100);
/// Time between two writes, at least.
const SAVE_INTERVAL: Duration = Duration::from_secs(2);
/// How long the start waits for the file, in which this host may be saved as drained.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a write may take before it counts as hanging.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the exit waits for the last write.
const EXIT_TIMEOUT: Duration = Duration::from_millis(500);
