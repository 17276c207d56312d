//! `exec:` — a command passes when it exits 0 in time.

use super::CheckOwner;
use crate::app::ExecCommand;
use crate::health::Outcome;
use crate::io::launch;
use crate::io::reaper::{Child, Reaper};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use smol::future::{self, FutureExt};
use smol::io::AsyncReadExt;
use smol::lock::Semaphore;
use smol::{Async, Timer};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;

/// Runs commands, a bounded number at a time.
pub(super) struct Commands {
    reaper: Reaper,
    slots: Semaphore,
    /// Killed at their timeout and not exited yet: a process in an uninterruptible sleep exits later.
    killed: RefCell<Vec<(ExecCommand, Child)>>,
}

impl Commands {
    pub(super) fn new(reaper: Reaper) -> Self {
        Self {
            reaper,
            slots: Semaphore::new(COMMANDS),
            killed: RefCell::default(),
        }
    }

    /// Runs the command in a process group of its own and kills the whole group at `timeout`, which
    /// starts with the command. Without a free slot, or if it cannot be started, the outcome is unavailable.
    pub(super) async fn check(
        &self,
        command: &ExecCommand,
        owner: Option<&CheckOwner>,
        timeout: Duration,
    ) -> Outcome {
        let place = async { Some(self.slots.acquire().await) };
        match place.or(after(timeout.min(SLOT_WAIT))).await {
            Some(_place) if self.is_killed_and_running(command) => Outcome::unavailable(
                "the previous run was killed at its timeout and has not exited: it is blocked in the kernel",
            ),
            Some(_place) => self.run(command, owner, timeout).await,
            None => Outcome::unavailable(format!("no slot free: {COMMANDS} commands are running")),
        }
    }

    fn is_killed_and_running(&self, command: &ExecCommand) -> bool {
        let mut killed = self.killed.borrow_mut();
        killed.retain(|(_, child)| !child.has_ended());
        killed.iter().any(|(known, _)| known == command)
    }

    async fn run(
        &self,
        command: &ExecCommand,
        owner: Option<&CheckOwner>,
        timeout: Duration,
    ) -> Outcome {
        let late = async {
            Timer::after(timeout).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        let started = self.start(command, owner).or(late).await;
        let (child, output) = match started {
            Ok(started) => started,
            // Exhausted descriptors, processes or memory say nothing about the service.
            Err(error) => return Outcome::unavailable(format!("cannot run a check: {error}")),
        };
        let mut tail = Tail::default();
        let exit = async { Some(child.exited().await) }
            .or(async {
                tail.follow(&output).await;
                future::pending().await
            })
            .or(after(timeout))
            .await;
        let starting = exit.is_none() && launch::is_starting(child.pid());
        if exit.is_none() {
            // The whole group, before its leader is reaped and its pid could be reused.
            child.kill_group();
            let ended = async { Some(child.exited().await) };
            if ended.or(after(EXIT_WAIT)).await.is_none() {
                self.killed.borrow_mut().push((command.clone(), child));
            }
        }
        tail.read_ready(&output);
        let line = tail.last_line();
        match exit {
            Some(exit) if exit.success() => Outcome::Pass(line),
            Some(exit) => Outcome::Fail(with_line(exit.to_string(), &line)),
            None if starting => Outcome::unavailable(format!(
                "could not be started within {timeout:?}; its file system may hang"
            )),
            None => Outcome::Fail(with_line(
                format!("timed out after {timeout:?}, killed"),
                &line,
            )),
        }
    }

    /// The child, and the pipe that both its outputs go to.
    async fn start(
        &self,
        words: &ExecCommand,
        owner: Option<&CheckOwner>,
    ) -> io::Result<(Child, Async<File>)> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        // An image may have no /dev/null.
        let (nothing, _) = pipe2(OFlag::O_CLOEXEC)?;
        let output = Async::new(File::from(ours))?;
        let trusted = owner.is_none_or(|owner| owner.trusted);
        let mut command = self.reaper.launcher().command(words, trusted);
        command
            .stdin(nothing)
            .stdout(theirs.try_clone()?)
            .stderr(theirs);
        if let Some(owner) = owner {
            command
                .env("SIDECAST_APP", &owner.app)
                .env("SIDECAST_MONITOR", &owner.monitor);
        }
        Ok((self.reaper.spawn(command).await?, output))
    }
}

async fn after<T>(time: Duration) -> Option<T> {
    Timer::after(time).await;
    None
}

fn with_line(what: String, line: &str) -> String {
    match line {
        "" => what,
        line => format!("{what}: {line}"),
    }
}

/// The end of what a command printed.
#[derive(Default)]
struct Tail {
    kept: VecDeque<u8>,
    seen: usize,
}

impl Tail {
    /// Reads until all writers have closed. Endless output is throttled, so that it uses neither CPU nor
    /// memory; the pipe is not closed, which would kill the command with SIGPIPE.
    async fn follow(&mut self, mut output: &Async<File>) {
        let mut buf = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut buf).await {
            self.push(buf.get(..count).unwrap_or_default());
            if self.seen > FREE_OUTPUT {
                Timer::after(Duration::from_millis(1)).await;
            }
        }
    }

    /// Takes what is in the pipe already; what the command left in it when it ended.
    fn read_ready(&mut self, output: &Async<File>) {
        let mut buf = [0; 4096];
        for _ in 0..PIPE / buf.len() {
            match output.get_ref().read(&mut buf) {
                Ok(count @ 1..) => self.push(buf.get(..count).unwrap_or_default()),
                _ => return,
            }
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.seen = self.seen.saturating_add(bytes.len());
        self.kept.extend(bytes);
        let surplus = self.kept.len().saturating_sub(KEPT_OUTPUT);
        self.kept.drain(..surplus);
    }

    /// The last line with anything on it, fit to be shown.
    fn last_line(&self) -> String {
        let bytes: Vec<u8> = self.kept.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        line.unwrap_or_default()
            .chars()
            .filter(|c| !c.is_control())
            .take(SHOWN_LINE)
            .collect()
    }
}

/// Commands that run at a time; the others wait.
const COMMANDS: usize = 64;
/// How long a command waits for a slot; shorter than the core's grace time for a missing outcome.
const SLOT_WAIT: Duration = Duration::from_secs(4);
/// How long a killed command may take to end.
const EXIT_WAIT: Duration = Duration::from_millis(100);
/// Bytes of output kept to find the last line in.
const KEPT_OUTPUT: usize = 4096;
/// Bytes of output after which reading is slowed down, to 4 MiB a second.
const FREE_OUTPUT: usize = 1 << 20;
/// Bytes a pipe holds.
const PIPE: usize = 1 << 16;
/// Characters of the last line that are shown.
const SHOWN_LINE: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_found_in_the_end_of_the_output() {
        let mut tail = Tail::default();
        tail.push(b"first\nsecond \x1b[1m\n\n  \n");
        assert_eq!(tail.last_line(), "second [1m");
        for _ in 0..10_000 {
            tail.push(b"many words without end ");
        }
        assert!(tail.kept.len() <= KEPT_OUTPUT);
        assert_eq!(tail.last_line().chars().count(), SHOWN_LINE);
        assert_eq!(Tail::default().last_line(), "");
    }
}
