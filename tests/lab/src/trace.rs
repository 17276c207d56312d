//! What a running process calls, from `strace`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::announcer::Sidecast;
use crate::net::Namespace;

/// A running `strace` of all threads of a process.
pub struct Trace {
    strace: Child,
    file: PathBuf,
}

impl Trace {
    /// Returns when it is attached.
    #[track_caller]
    pub fn begin(namespace: &Namespace, sidecast: &Sidecast) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = namespace.dir().join(format!("trace{number}"));
        let mut strace = Command::new("strace");
        // Enough of each argument for a line of the log.
        strace.args(["-f", "-s", "128", "-o"]).arg(&file);
        strace.args(["-p", &sidecast.id().to_string()]);
        let mut strace = strace.stderr(Stdio::piped()).spawn().expect("strace runs");
        // It says so when it is attached.
        let mut report = BufReader::new(strace.stderr.take().expect("a pipe"));
        let mut line = String::new();
        report.read_line(&mut line).expect("it speaks");
        assert!(line.contains("attached"), "{line}");
        std::thread::spawn(move || std::io::copy(&mut report, &mut std::io::sink()));
        Self { strace, file }
    }

    /// All calls so far, in their order.
    pub fn so_far(&self) -> String {
        fs::read_to_string(&self.file).expect("a trace")
    }

    /// All calls until now, in their order.
    pub fn end(mut self) -> String {
        let pid = Pid::from_raw(i32::try_from(self.strace.id()).expect("a pid"));
        kill(pid, Signal::SIGINT).expect("a child of ours");
        self.strace.wait().expect("a child of ours");
        self.so_far()
    }
}
