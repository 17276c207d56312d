//! `on_change`: a program that gets every transition on standard input. It may fail or hang; only later
//! runs of it wait.

use super::Executor;
use crate::app::ExecCommand;
use crate::core::Transition;
use crate::io::reaper::Reaper;
use crate::view::time::rfc3339;
use smol::channel::{self, Receiver, Sender};
use smol::future::FutureExt;
use smol::io::AsyncWriteExt;
use smol::{Async, Timer};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

/// The `on_change` program and its queue.
pub struct Hooks {
    executor: Executor,
    reaper: Reaper,
    command: Vec<String>,
    /// `None`: no program is configured.
    queue: Option<Sender<String>>,
}

impl Hooks {
    /// Starts with the configured program; an empty command is none.
    pub fn new(executor: &Executor, reaper: Reaper, command: &[String]) -> Self {
        let mut hooks = Self {
            executor: executor.clone(),
            reaper,
            command: Vec::new(),
            queue: None,
        };
        hooks.set_command(command);
        hooks
    }

    /// Uses this program from now on. Queued transitions still go to the one before.
    pub fn set_command(&mut self, command: &[String]) {
        if self.command == command {
            return;
        }
        self.command = command.to_vec();
        self.queue = (!command.is_empty()).then(|| {
            let (sender, receiver) = channel::bounded(QUEUE);
            let running = run(self.reaper.clone(), self.command.clone(), receiver);
            self.executor.spawn(running.boxed_local()).detach();
            sender
        });
    }

    /// Queues one transition for the program.
    pub fn enqueue(&self, transition: &Transition) {
        let Some(queue) = &self.queue else { return };
        let line = serde_json::json!({
            "time": rfc3339(SystemTime::now()),
            "seq": transition.seq,
            "app": transition.app.as_str(),
            "from": transition.from.to_string(),
            "to": transition.to.to_string(),
            "last_resort": transition.last_resort,
            "why": transition.why,
        });
        if queue.try_send(line.to_string()).is_err() {
            log::warn!("on_change: queue full ({QUEUE} transitions), dropped: {line}");
        }
    }
}

async fn run(reaper: Reaper, command: Vec<String>, queue: Receiver<String>) {
    while let Ok(line) = queue.recv().await {
        if let Err(error) = run_once(&reaper, &command, &line).await {
            let command = command.join(" ");
            log::warn!("on_change: {command}: {error}; the transition was not reported");
        }
    }
}

/// Returns when the program has been reaped, also when that takes long after SIGKILL: one run at a time.
async fn run_once(reaper: &Reaper, words: &[String], line: &str) -> io::Result<()> {
    let words = ExecCommand::argv(words.to_vec()).ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = reaper.launcher().command(&words, true);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = reaper.spawn(command).await?;
    let stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut stdin = Async::new(File::from(OwnedFd::from(stdin)))?;
    let finished = async {
        // A program that does not read its input is no error.
        let _ = stdin.write_all(format!("{line}\n").as_bytes()).await;
        drop(stdin);
        Some(child.exited().await)
    };
    let late = async {
        Timer::after(LIMIT).await;
        None
    };
    match finished.or(late).await {
        Some(exit) if exit.success() => Ok(()),
        Some(exit) => Err(io::Error::other(exit.to_string())),
        None => {
            child.kill_group();
            child.exited().await;
            let message = format!("not done after {} s, killed", LIMIT.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        }
    }
}

/// Transitions waiting while the program runs.
const QUEUE: usize = 64;
const LIMIT: Duration = Duration::from_secs(30);
