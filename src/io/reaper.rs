//! Spawns and reaps child processes.
//!
//! As PID 1 of a container sidecast also reaps orphans. Two reapers would steal each other's statuses, so one
//! loop over `waitpid(-1)` hands them out by pid. Nothing else in the process may wait for a child.
//!
//! `vfork(2)` blocks until the child calls exec, so children are spawned on other threads. A child may exit
//! before its pid is known here, so unknown pids are not reaped while a spawn is in progress.

use super::launch::Launcher;
use async_signal::{Signal, Signals};
use nix::errno::Errno;
use nix::sys::signal::{Signal as Kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use smol::stream::StreamExt;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

/// Spawns commands and reaps them. Clones share their state.
#[derive(Clone, Debug)]
pub struct Reaper {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    launcher: Launcher,
    /// By pid, the children with a [`Child`].
    children: RefCell<BTreeMap<i32, Entry>>,
    /// Cloned by every spawn in progress: its reference count tells whether there is one.
    starting: Arc<()>,
}

#[derive(Debug, Default)]
struct Entry {
    exit: Option<Exit>,
    waker: Option<Waker>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    /// Whether the exit code is 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(number) => match Kill::try_from(*number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
        }
    }
}

impl Reaper {
    /// A reaper that launches commands by `launcher`.
    pub fn new(launcher: Launcher) -> Self {
        let shared = Shared {
            launcher,
            children: RefCell::default(),
            starting: Arc::default(),
        };
        Self {
            shared: Rc::new(shared),
        }
    }

    /// Builds the commands to spawn.
    pub fn launcher(&self) -> &Launcher {
        &self.shared.launcher
    }

    /// Starts `command` as the leader of a process group of its own.
    ///
    /// The status comes only while [`Reaper::run`] runs on the same thread.
    pub async fn spawn(&self, mut command: Command) -> io::Result<Child> {
        let starting = self.shared.starting.clone();
        let start = move || {
            let child = command.process_group(0).spawn()?;
            Ok::<_, io::Error>(Started {
                pid: i32::try_from(child.id()).map_err(io::Error::other)?,
                child: Some(child),
                _starting: starting,
            })
        };
        let mut started = smol::unblock(start).await?;
        let pid = started.pid;
        self.shared
            .children
            .borrow_mut()
            .insert(pid, Entry::default());
        let child = started.child.take();
        drop(started);
        // It may have exited already, and others that could not be reaped meanwhile.
        self.reap_exited();
        let mut child = child.ok_or(io::ErrorKind::NotFound)?;
        Ok(Child {
            pid,
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            reaper: self.clone(),
        })
    }

    /// Reaps children for the life of the process. Returns only if SIGCHLD cannot be handled.
    pub async fn run(&self) -> io::Result<()> {
        let mut signals = Signals::new([Signal::Child])?;
        loop {
            // Before the first wait, for children that exited before the handler was installed.
            self.reap_exited();
            if signals.next().await.transpose()?.is_none() {
                return Ok(());
            }
        }
    }

    /// Reaps all exited children: one SIGCHLD may be for several of them.
    fn reap_exited(&self) {
        let children = self.shared.children.borrow();
        let alive = children.iter().filter(|(_, entry)| entry.exit.is_none());
        let alive: Vec<i32> = alive.map(|(pid, _)| *pid).collect();
        drop(children);
        for pid in alive {
            self.reap(Id::Pid(Pid::from_raw(pid)));
        }
        // An unknown pid may be a child whose spawn is in progress.
        while Arc::strong_count(&self.shared.starting) == 1 && self.reap(Id::All) {}
    }

    /// Reaps one exited process, if any. The process group of a child is killed before its pid is released,
    /// with what it left in the background.
    fn reap(&self, who: Id<'_>) -> bool {
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let dead = match waitid(who, peek) {
            Ok(status) => status.pid(),
            Err(Errno::ECHILD) => None,
            Err(error) => {
                log::warn!("cannot reap child processes: {error}");
                None
            }
        };
        let Some(pid) = dead else { return false };
        if self.shared.children.borrow().contains_key(&pid.as_raw()) {
            // It fails only if the group is empty.
            let _ = killpg(pid, Kill::SIGKILL);
        }
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => self.record_exit(pid, Exit::Code(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                self.record_exit(pid, Exit::Signal(signal as i32));
            }
            Ok(_) | Err(_) => {}
        }
        true
    }

    fn record_exit(&self, pid: Pid, exit: Exit) {
        let mut children = self.shared.children.borrow_mut();
        let Some(entry) = children.get_mut(&pid.as_raw()) else {
            return; // an orphan, or a child that was given up and killed
        };
        entry.exit = Some(exit);
        let waker = entry.waker.take();
        drop(children);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A spawned child that was not handed over yet; dropped, it is killed with its group.
struct Started {
    pid: i32,
    child: Option<std::process::Child>,
    /// Until it is handed over no unknown pid is reaped, so the pid cannot be reused.
    _starting: Arc<()>,
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.child.is_some() {
            // It fails only for a group that is gone.
            let _ = killpg(Pid::from_raw(self.pid), Kill::SIGKILL);
        }
    }
}

/// A running child. Dropping it kills its whole process group, unless it has ended.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    pub stdin: Option<ChildStdin>,
    pub stdout: Option<ChildStdout>,
    pub stderr: Option<ChildStderr>,
    reaper: Reaper,
}

impl Child {
    /// The process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for the exit. May be called again.
    pub async fn exited(&self) -> Exit {
        poll_fn(|cx| {
            let mut children = self.reaper.shared.children.borrow_mut();
            let entry = children.entry(self.pid).or_default();
            match entry.exit {
                Some(exit) => Poll::Ready(exit),
                None => {
                    entry.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Whether it was reaped.
    pub fn has_ended(&self) -> bool {
        let children = self.reaper.shared.children.borrow();
        let entry = children.get(&self.pid);
        entry.is_none_or(|entry| entry.exit.is_some())
    }

    /// Kills the process group, unless the child was reaped: its pid may have been reused.
    pub fn kill_group(&self) {
        if !self.has_ended() {
            // It fails only for a group that is gone.
            let _ = killpg(Pid::from_raw(self.pid), Kill::SIGKILL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill_group();
        self.reaper.shared.children.borrow_mut().remove(&self.pid);
    }
}
