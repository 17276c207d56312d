//! What outlives a restart: read when the agent starts, written some time after it changed.

use super::Executor;
use crate::config::{Config, SavedState};
use crate::core::Core;
use crate::io::blocking::Lane;
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
    /// What is to be written; of two the newer one.
    texts: Sender<String>,
    writer: smol::Task<()>,
    /// It could be neither read nor written the last time, or did not answer.
    failing: Rc<Cell<bool>>,
    /// When it is to be written.
    due: Option<Instant>,
    not_before: Instant,
}

impl StateFile {
    /// Gives the core what is remembered. A file that cannot be read is no reason not to start.
    pub async fn open(executor: &Executor, core: &mut Core, now: Instant) -> Option<Self> {
        let path = core.config().agent.state_file.clone()?;
        let lane = Lane::default();
        let file = path.clone();
        let text = lane
            .run_within(READ, move || state_file::read(&file, SavedState::LONGEST))
            .await;
        let failing = Rc::new(Cell::new(text.is_err()));
        let written = text.unwrap_or_else(|error| {
            log::warn!("agent.state_file: {}: {error}", path.display());
            None
        });
        let written = written.unwrap_or_default();
        let mut due = None;
        if !written.is_empty() {
            match read(&written, core.config()) {
                Ok(memory) => {
                    core.remember(now, memory);
                    // A version of before wrote YAML, which is read this once.
                    due = (!SavedState::is_json(&written)).then_some(now);
                }
                Err(error) => log::warn!("agent.state_file: {}: {error}", path.display()),
            }
        }
        let (texts, queue) = channel::bounded(1);
        Some(Self {
            texts,
            writer: executor.spawn(write_all(lane, path, written, queue, failing.clone())),
            failing,
            due,
            not_before: now,
        })
    }

    /// Takes note that something changed; has what is due written.
    pub fn keep(&mut self, core: &mut Core, now: Instant) {
        if core.take_remembers() && self.due.is_none() {
            self.due = Some((now + SOON).max(self.not_before));
        }
        if self.due.is_some_and(|due| due <= now) {
            self.write(core, now);
        }
    }

    /// Whether what changed since is remembered as well.
    pub fn is_written(&self) -> bool {
        !self.failing.get()
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Writes what is not written yet, before the end. A disk that hangs is not waited for.
    pub async fn close(mut self, core: &mut Core, now: Instant) {
        if core.take_remembers() || self.due.is_some() {
            self.write(core, now);
        }
        self.texts.close();
        let late = async {
            Timer::after(AT_EXIT).await;
        };
        self.writer.or(late).await;
    }

    fn write(&mut self, core: &Core, now: Instant) {
        self.due = None;
        self.not_before = now + SELDOM;
        // The writer ends only when we do.
        let _ = self.texts.force_send(core.memory().to_json());
    }
}

/// Writes what comes, and again what could not be written.
async fn write_all(
    lane: Lane,
    path: PathBuf,
    mut written: String,
    texts: Receiver<String>,
    failing: Rc<Cell<bool>>,
) {
    let mut told = false;
    let mut next = texts.recv().await;
    while let Ok(text) = next {
        let failed = if text == written {
            None
        } else if text.len() > SavedState::LONGEST {
            Some(io::Error::from(io::ErrorKind::FileTooLarge))
        } else {
            let (file, bytes) = (path.clone(), text.clone());
            let write = move || state_file::write(&file, &bytes);
            lane.run_within(WRITE, write).await.err()
        };
        let Some(error) = failed else {
            (written, told) = (text, false);
            failing.set(false);
            next = texts.recv().await;
            continue;
        };
        failing.set(true);
        if !std::mem::replace(&mut told, true) {
            log::warn!("agent.state_file: {}: {error}", path.display());
        }
        let again = async {
            Timer::after(SELDOM).await;
            Ok(text)
        };
        next = texts.recv().or(again).await;
    }
}

fn read(text: &str, config: &Config) -> Result<SavedState, String> {
    let (memory, problems) = SavedState::read(text, config)?;
    for problem in problems {
        log::warn!("agent.state_file: not taken: {problem}");
    }
    Ok(memory)
}

/// What changes together is written together.
const SOON: Duration = Duration::from_millis(100);
/// Time between two writes, at least.
const SELDOM: Duration = Duration::from_secs(2);
/// How long the start waits for a file that may say that this host is drained.
const READ: Duration = Duration::from_secs(2);
/// How long a write may take before it is told to hang.
const WRITE: Duration = Duration::from_secs(5);
/// How long the end waits for the last one.
const AT_EXIT: Duration = Duration::from_millis(500);
