//! Standard error, where the log goes. Whoever reads it may stop reading, and a write then blocks for as
//! long: one thread writes, the others leave their lines in a bounded queue.
//!
//! The descriptor is inherited: `O_NONBLOCK` would be set for everybody who has it. Asking `poll(2)` first
//! does not help either, since a pipe with room for a page still blocks a longer line.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Takes lines for standard error; what is written in one call stays together.
pub struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From here on lines wait for the thread that [`start`] starts. Before that they are written at once, by
/// whoever has them: other commands have nobody to hold up, and the demo must have a single thread when it
/// makes its user namespace.
pub fn queue() {
    QUEUE.state().queued = true;
}

/// Starts the thread that writes. What this process may do has to be settled before.
pub fn start() -> io::Result<()> {
    let thread = thread::Builder::new().name("log".to_owned());
    thread.spawn(write_all)?;
    QUEUE.state().started = true;
    Ok(())
}

/// Writes a line, or queues it. Where too much waits already it is dropped and counted.
pub fn write(line: &[u8]) {
    let mut state = QUEUE.state();
    if !state.queued {
        drop(state);
        return write_one(line);
    }
    if state.bytes + line.len() > ROOM {
        state.dropped += 1;
        state.untold += 1;
        return;
    }
    state.push(line);
}

/// How many lines were dropped since the start.
pub fn dropped() -> u64 {
    QUEUE.state().dropped
}

/// Gives the thread a moment to write what waits.
pub fn finish() {
    let state = QUEUE.state();
    if state.bytes == 0 {
        return;
    }
    let started = state.started;
    drop(state);
    if !started && start().is_err() {
        return;
    }
    let waits = |state: &mut State| state.bytes > 0;
    // Either way it is over.
    let _ = QUEUE
        .changed
        .wait_timeout_while(QUEUE.state(), AT_EXIT, waits);
}

/// A panic says its last words on the same way, also when there is no room, and ends the process whatever
/// becomes of them.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let text = format!("sidecast: {panic}\n");
        QUEUE.state().push(text.as_bytes());
        finish();
        std::process::abort();
    }));
}

static QUEUE: Queue = Queue {
    state: Mutex::new(State {
        queued: false,
        started: false,
        lines: VecDeque::new(),
        bytes: 0,
        dropped: 0,
        untold: 0,
    }),
    changed: Condvar::new(),
};

struct Queue {
    state: Mutex<State>,
    /// A line came, or was written.
    changed: Condvar,
}

struct State {
    queued: bool,
    started: bool,
    lines: VecDeque<Vec<u8>>,
    /// Of the lines, and of the one that is being written.
    bytes: usize,
    dropped: u64,
    /// Dropped, which was not said yet.
    untold: u64,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Vec<u8> {
        let mut state = self.state();
        loop {
            if let Some(line) = state.lines.pop_front() {
                return line;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many lines were dropped before it flowed again.
    fn written(&self, bytes: usize) -> u64 {
        let mut state = self.state();
        state.bytes -= bytes;
        self.changed.notify_all();
        match state.lines.is_empty() {
            true => std::mem::take(&mut state.untold),
            false => 0,
        }
    }
}

impl State {
    fn push(&mut self, line: &[u8]) {
        self.bytes += line.len();
        self.lines.push_back(line.to_owned());
        QUEUE.changed.notify_all();
    }
}

fn write_all() {
    loop {
        let line = QUEUE.next();
        write_one(&line);
        let missing = QUEUE.written(line.len());
        if missing > 0 {
            log::warn!("nobody read standard error: {missing} lines of the log were dropped");
        }
    }
}

/// As long as it takes. What cannot be written, since the reader is gone, is nobody's any more.
fn write_one(mut line: &[u8]) {
    let stderr = io::stderr();
    while !line.is_empty() {
        match nix::unistd::write(&stderr, line) {
            Ok(count) => line = line.get(count..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            // Somebody else made the descriptor non-blocking.
            Err(Errno::EAGAIN) => {
                let mut writable = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut writable, PollTimeout::NONE).is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// Bytes that may wait.
const ROOM: usize = 256 * 1024;
/// How long the end of the process waits for the last lines.
const AT_EXIT: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    use std::time::Instant;

    /// In a process of its own, as is every user of standard error.
    #[test]
    fn what_nobody_reads_is_dropped_and_counted_and_said_when_it_flows_again() {
        const INNER: &str = "SIDECAST_TEST_LINES";
        if std::env::var_os(INNER).is_some() {
            let target = env_logger::Target::Pipe(Box::new(Lines));
            env_logger::builder().target(target).init();
            queue();
            start().unwrap();
            // Four lines fill the pipe, and one is being written.
            (0..600).for_each(|_| write(&[b"x".repeat(1023), b"\n".to_vec()].concat()));
            let waiting = ROOM / 1024;
            assert!((600 - waiting as u64 - 70..=600 - waiting as u64).contains(&dropped()));
            println!("ready");
            let mut line = String::new();
            io::stdin().read_line(&mut line).unwrap();
            write(b"last\n");
            while QUEUE.state().bytes > 0 || QUEUE.state().untold > 0 {
                thread::sleep(Duration::from_millis(1));
            }
            std::process::exit(0);
        }
        let name = "io::stderr::tests::what_nobody_reads_is_dropped_and_counted_and_said_when_it_flows_again";
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture"]);
        child.env(INNER, "1").env("RUST_LOG", "warn");
        child.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = io::BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().ends_with("ready")));
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let told = said
            .lines()
            .filter(|line| line.contains("lines of the log were dropped"));
        assert_eq!(told.count(), 1);
        let taken = said.lines().filter(|line| line.starts_with("xx")).count();
        assert!((256..=330).contains(&taken), "{taken}");
    }

    /// A panic of this very test, in a process of its own.
    #[test]
    fn a_panic_ends_the_process_also_when_nobody_reads() {
        const INNER: &str = "SIDECAST_TEST_PANIC";
        if std::env::var_os(INNER).is_some() {
            queue();
            start().unwrap();
            abort_on_panic();
            write(&vec![b'x'; ROOM]);
            panic!("on purpose");
        }
        let name = "io::stderr::tests::a_panic_ends_the_process_also_when_nobody_reads";
        let begin = || {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", name]).env(INNER, "1");
            child.stdout(Stdio::null()).stderr(Stdio::piped());
            child.spawn().unwrap()
        };
        let began = Instant::now();
        let mut child = begin();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(nix::libc::SIGABRT), "{status}");
        assert!(began.elapsed() < Duration::from_secs(5));
        let output = begin().wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).replace('x', "");
        assert!(said.contains("on purpose"), "{said}");
    }
}
