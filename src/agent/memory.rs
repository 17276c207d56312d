//! What outlives a restart: read when the agent starts, written some time after it changed.

use crate::config::{Config, Memory};
use crate::core::Core;
use crate::io::state_file;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The state file, where one is configured.
pub struct StateFile {
    path: PathBuf,
    /// What it holds.
    written: String,
    /// When it is to be written.
    due: Option<Instant>,
    not_before: Instant,
    /// It cannot be written, which was said.
    failing: bool,
}

impl StateFile {
    /// Gives the core what is remembered. A file that cannot be read is no reason not to start.
    pub fn open(core: &mut Core, now: Instant) -> Option<Self> {
        let path = core.config().agent.state_file.clone()?;
        let text = state_file::read(&path).unwrap_or_else(|error| {
            log::warn!("agent.state_file: {}: {error}", path.display());
            None
        });
        let written = text.unwrap_or_default();
        if !written.is_empty() {
            match read(&written, core.config()) {
                Ok(memory) => core.remember(now, memory),
                Err(error) => log::warn!("agent.state_file: {}: {error}", path.display()),
            }
        }
        Some(Self {
            path,
            written,
            due: None,
            not_before: now,
            failing: false,
        })
    }

    /// Takes note that something changed; writes what is due.
    pub fn keep(&mut self, core: &mut Core, now: Instant) {
        if core.take_remembers() && self.due.is_none() {
            self.due = Some((now + SOON).max(self.not_before));
        }
        if self.due.is_some_and(|due| due <= now) {
            self.write(core, now);
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Writes what is not written yet, before the end.
    pub fn close(&mut self, core: &mut Core, now: Instant) {
        if core.take_remembers() || self.due.is_some() {
            self.write(core, now);
        }
    }

    /// On this thread: a few kilobytes, rarely.
    fn write(&mut self, core: &Core, now: Instant) {
        self.due = None;
        self.not_before = now + SELDOM;
        let text = core.memory().to_yaml();
        if text == self.written {
            return;
        }
        match state_file::write(&self.path, &text) {
            Ok(()) => {
                self.written = text;
                self.failing = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    log::warn!("agent.state_file: {}: {error}", self.path.display());
                }
                self.due = Some(self.not_before);
            }
        }
    }
}

fn read(text: &str, config: &Config) -> Result<Memory, String> {
    let (memory, problems) = Memory::read(text, config)?;
    for problem in problems {
        log::warn!("agent.state_file: not taken: {problem}");
    }
    Ok(memory)
}

/// What changes together is written together.
const SOON: Duration = Duration::from_millis(100);
/// Time between two writes, at least.
const SELDOM: Duration = Duration::from_secs(2);
