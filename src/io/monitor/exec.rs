//! `exec:` — a command passes when it exits 0 in time.

use super::{Owner, is_own_want};
use crate::app::ExecCommand;
use crate::health::Outcome;
use crate::io::reaper::{Child, Reaper};
use smol::future::{self, FutureExt};
use smol::io::AsyncReadExt;
use smol::lock::Semaphore;
use smol::{Async, Timer};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Runs commands, a bounded number at a time.
pub(super) struct Commands {
    reaper: Reaper,
    places: Semaphore,
}

impl Commands {
    pub(super) fn new(reaper: Reaper) -> Self {
        Self {
            reaper,
            places: Semaphore::new(COMMANDS),
        }
    }

    /// Runs the command in a process group of its own and kills the whole group at `timeout`, which
    /// begins when it starts. A command that finds no place was not checked.
    pub(super) async fn check(
        &self,
        command: &ExecCommand,
        owner: Option<&Owner>,
        timeout: Duration,
    ) -> Outcome {
        let place = async { Some(self.places.acquire().await) };
        let expired = async {
            Timer::after(timeout.min(PATIENCE)).await;
            None
        };
        match place.or(expired).await {
            Some(_place) => check(&self.reaper, command, owner, timeout).await,
            None => Outcome::unavailable(format!("{COMMANDS} commands are running already")),
        }
    }
}

async fn check(
    reaper: &Reaper,
    command: &ExecCommand,
    owner: Option<&Owner>,
    timeout: Duration,
) -> Outcome {
    let (child, output) = match spawn(reaper, command, owner) {
        Ok(started) => started,
        Err(outcome) => return outcome,
    };
    let mut tail = Tail::default();
    let exit = async { Some(child.exited().await) }
        .or(async {
            tail.follow(&output).await;
            future::pending().await
        })
        .or(async {
            Timer::after(timeout).await;
            None
        })
        .await;
    // Kills the group before its leader's status is collected, while the number is surely its own.
    drop(child);
    tail.read_ready(&output);
    let line = tail.last_line();
    match exit {
        Some(exit) if exit.success() => Outcome::Pass(line),
        Some(exit) => Outcome::Fail(with_line(exit.to_string(), &line)),
        None => Outcome::Fail(with_line(
            format!("not done after {timeout:?}, killed"),
            &line,
        )),
    }
}

fn with_line(what: String, line: &str) -> String {
    match line {
        "" => what,
        line => format!("{what}: {line}"),
    }
}

/// The child, and the pipe that both its outputs go to.
fn spawn(
    reaper: &Reaper,
    command: &ExecCommand,
    owner: Option<&Owner>,
) -> Result<(Child, Async<File>), Outcome> {
    // Our own want (descriptors, processes, memory) says nothing about the service.
    let own_want = |error: io::Error| Outcome::unavailable(format!("cannot run a check: {error}"));
    let (ours, theirs) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|errno| own_want(errno.into()))?;
    let output = Async::new(File::from(ours)).map_err(own_want)?;
    let attempts: Vec<Vec<&str>> = match command {
        ExecCommand::Shell(line) => ["bash", "sh"].map(|sh| vec![sh, "-c", line]).into(),
        ExecCommand::Argv(words) => vec![words.iter().map(String::as_str).collect()],
    };
    for words in &attempts {
        let Some((program, arguments)) = words.split_first() else {
            break;
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(theirs.try_clone().map_err(own_want)?)
            .stderr(theirs.try_clone().map_err(own_want)?);
        if let Some(owner) = owner {
            command
                .env("SIDECAST_APP", &owner.app)
                .env("SIDECAST_MONITOR", &owner.monitor);
        }
        match reaper.spawn(&mut command) {
            Ok(child) => return Ok((child, output)),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::PermissionDenied
                ) => {}
            Err(error) if is_own_want(&error) => return Err(own_want(error)),
            Err(error) => return Err(Outcome::Fail(format!("cannot run {program}: {error}"))),
        }
    }
    Err(Outcome::Fail(match command {
        ExecCommand::Shell(_) => {
            "there is no shell in this image, neither bash nor sh: use the list form {exec: [PROGRAM, ARGUMENT]} or an image with a shell".to_owned()
        }
        ExecCommand::Argv(words) => {
            let program = words.first().map_or("", String::as_str);
            format!("no such program, or not executable: {program}")
        }
    }))
}

/// The end of what a command printed.
#[derive(Default)]
struct Tail {
    kept: VecDeque<u8>,
    seen: usize,
}

impl Tail {
    /// Reads until the last writer closed. A command that prints without end is slowed down, so that it
    /// takes neither the processor nor memory; it is never cut off, which would kill it with SIGPIPE.
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
/// How long a command waits for others to end: less than the core waits for an answer beyond the timeout.
const PATIENCE: Duration = Duration::from_secs(4);
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
