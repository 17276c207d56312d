//! Writes the log to standard error without blocking. A reader may stop reading, and a write then blocks:
//! lines go to a bounded queue, and one thread writes them.
//!
//! `O_NONBLOCK` would also apply to other processes that share the descriptor, and `poll(2)` before a write
//! does not help, since a pipe with room for a page still blocks a longer line.

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

/// From now on lines are queued for the thread that [`start`] starts. Before that they are written directly:
/// other commands have no loop to block, and the demo must be single-threaded when it creates its user
/// namespace.
pub fn queue() {
    QUEUE.state().queued = true;
}

/// Starts the writing thread, after capabilities and user are set.
pub fn start() -> io::Result<()> {
    let thread = thread::Builder::new().name("log".to_owned());
    thread.spawn(write_all)?;
    QUEUE.state().started = true;
    Ok(())
}

/// Writes or queues a line. If the queue is full it is dropped and counted.
pub fn write(line: &[u8]) {
    let mut state = QUEUE.state();
    if !state.queued {
        drop(state);
        return write_one(line);
    }
    if state.bytes + line.len() > MAX_QUEUED_BYTES {
        state.dropped += 1;
        state.unreported += 1;
        return;
    }
    state.push(line);
}

/// Number of lines dropped since the start.
pub fn dropped() -> u64 {
    QUEUE.state().dropped
}

/// Waits for the queue to be written, `FLUSH_TIMEOUT` at most.
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
    // The result does not matter: the process exits.
    let _ = QUEUE
        .changed
        .wait_timeout_while(QUEUE.state(), FLUSH_TIMEOUT, waits);
}

/// Makes a panic queue its message, even if the queue is full, and abort the process.
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
        unreported: 0,
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
    /// Bytes of the queued lines and of the one being written.
    bytes: usize,
    dropped: u64,
    /// Dropped lines that were not reported yet.
    unreported: u64,
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

    /// Takes the number of unreported dropped lines once the queue is empty.
    fn written(&self, bytes: usize) -> u64 {
        let mut state = self.state();
        state.bytes -= bytes;
        self.changed.notify_all();
        match state.lines.is_empty() {
            true => std::mem::take(&mut state.unreported),
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
            log::warn!("{missing} log lines were dropped: standard error was not read");
        }
    }
}

/// Writes one line, however long that blocks. Errors are ignored: the reader is gone.
fn write_one(mut line: &[u8]) {
    let stderr = io::stderr();
    while !line.is_empty() {
        match nix::unistd::write(&stderr, line) {
            Ok(count) => line = line.get(count..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            // Another process set O_NONBLOCK on the shared descriptor.
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

/// Limit of the queue in bytes.
const MAX_QUEUED_BYTES: usize = 256 * 1024;
/// How long the exit waits for the queue to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    use std::time::Instant;

    /// In a process of its own, as is every user of standard error.
    #[test]
    fn unread_lines_are_dropped_counted_and_reported_once_the_reader_continues() {
        const INNER: &str = "SIDECAST_TEST_LINES";
        if std::env::var_os(INNER).is_some() {
            let target = env_logger::Target::Pipe(Box::new(Lines));
            env_logger::builder().target(target).init();
            queue();
            start().unwrap();
            // Four lines fill the pipe, and one is being written.
            (0..600).for_each(|_| write(&[b"x".repeat(1023), b"\n".to_vec()].concat()));
            let waiting = MAX_QUEUED_BYTES / 1024;
            assert!((600 - waiting as u64 - 70..=600 - waiting as u64).contains(&dropped()));
            println!("ready");
            let mut line = String::new();
            io::stdin().read_line(&mut line).unwrap();
            write(b"last\n");
            while QUEUE.state().bytes > 0 || QUEUE.state().unreported > 0 {
                thread::sleep(Duration::from_millis(1));
            }
            std::process::exit(0);
        }
        let name = "io::stderr::tests::unread_lines_are_dropped_counted_and_reported_once_the_reader_continues";
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture"]);
        child.env(INNER, "1").env("RUST_LOG", "warn");
        child.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.stderr(Stdio::piped()).spawn().unwrap();
        let mut report = io::BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(report.any(|line| line.unwrap().ends_with("ready")));
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let output = child.wait_with_output().unwrap();
        let report = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{report}");
        let logged = report
            .lines()
            .filter(|line| line.contains("log lines were dropped"));
        assert_eq!(logged.count(), 1);
        let taken = report.lines().filter(|line| line.starts_with("xx")).count();
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
            write(&vec![b'x'; MAX_QUEUED_BYTES]);
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
        assert!(began.elapsed() < Duration::from_secs(30));
        let output = begin().wait_with_output().unwrap();
        let report = String::from_utf8_lossy(&output.stderr).replace('x', "");
        assert!(report.contains("on purpose"), "{report}");
    }
}
