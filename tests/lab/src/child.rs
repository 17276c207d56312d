//! Child processes inside a namespace: killed with the value that owns them, their output kept and
//! shown when the test fails.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lacks::{LACKS, take_away};
use crate::net::Namespace;
use crate::until::until;

/// A running program.
pub struct Child {
    name: String,
    process: std::process::Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Starts a program in a namespace, with an empty environment but for `PATH` and `env`. Its output
    /// goes to a file named after `name`, which a restart continues.
    pub fn start(
        namespace: &Namespace,
        name: &str,
        program: &str,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        Self::start_beside(namespace, name, program, args, env, None)
    }

    /// With another standard error.
    pub fn start_beside(
        namespace: &Namespace,
        name: &str,
        program: &str,
        args: &[&str],
        env: &[(&str, &str)],
        stderr: Option<OwnedFd>,
    ) -> Self {
        let log = namespace.dir().join(format!("{name}.log"));
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log file");
        let mut command = Command::new("/proc/self/exe");
        command
            .args([CHILD, program])
            .args(args)
            .env_clear()
            .env("PATH", PATH)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second descriptor"))
            .stderr(stderr.map_or_else(|| output.into(), Stdio::from));
        let process = namespace
            .enter(|| command.spawn())
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        Self {
            name: name.to_owned(),
            process,
            log,
            ended: None,
        }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal to the process (not to children of its own).
    pub fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            kill(pid(self.id()), signal).expect("a child of ours");
        }
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.process.try_wait().expect("a child of ours");
        }
        self.ended
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        until(limit, &what, || self.ended().ok_or("still running"))
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait(Duration::from_secs(60));
    }

    /// What it printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Fails with its output when it has ended already.
    #[track_caller]
    pub fn must_run(&mut self) {
        if let Some(status) = self.ended() {
            panic!("{} ended: {status}\n{}", self.name, self.output());
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended().is_none() {
            // Both fail only if the process has already ended.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let tail = &lines[lines.len().saturating_sub(SHOWN)..];
            // In one piece, since other tests print at the same time.
            let text = format!("--- {}:\n{}\n---\n", self.name, tail.join("\n"));
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }
}

/// The other half of [`Child::start`], in the new process: the child dies with the thread that started
/// it, also when that one is killed. Becomes the program; returns only when that failed.
pub(crate) fn become_program(program: &str, args: &[String]) -> std::io::Error {
    if let Err(error) = set_pdeathsig(Signal::SIGKILL) {
        return error.into();
    }
    let mut command = Command::new(program);
    command.args(args).env_remove(LACKS);
    if let Ok(what) = std::env::var(LACKS)
        && let Err(error) = take_away(&what)
    {
        return std::io::Error::other(error.to_string());
    }
    command.exec()
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("a pid fits"))
}

/// First argument by which the test binary knows that it is to become another program.
pub(crate) const CHILD: &str = "--lab-child";

/// Routers live in `sbin`, which an ordinary user's `PATH` lacks.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Lines of output shown when a test fails.
const SHOWN: usize = 60;

/// Copies a program by another process: a child that another test starts meanwhile would hold our descriptor
/// of it open for a moment, and what is open for writing cannot be run (ETXTBSY).
///
/// # Panics
///
/// Where it cannot be copied.
pub fn copy_program(from: impl AsRef<std::ffi::OsStr>, to: impl AsRef<std::ffi::OsStr>) {
    let copied = Command::new("cp").arg(from).arg(to).status();
    assert!(copied.expect("cp").success());
}
