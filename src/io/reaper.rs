//! Child processes: the one place that collects exit statuses.
//!
//! As PID 1 of a container we inherit other people's orphans, which have to be collected too. Two
//! collectors would steal each other's statuses, so there is one loop over `waitpid(-1)`, and it hands
//! the statuses out by pid. It runs on the thread that spawns: a child is registered before the loop can
//! run again, however fast it died. Nobody else in the process may wait for a child.

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
use std::task::{Poll, Waker};

/// Spawns children and collects their statuses. Clones share everything.
#[derive(Clone, Debug, Default)]
pub struct Reaper {
    /// By pid, the children somebody still asks for.
    children: Rc<RefCell<BTreeMap<i32, Entry>>>,
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
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts `command` as the leader of a process group of its own.
    ///
    /// The status comes only while [`Reaper::run`] runs on the same thread.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let mut child = command.process_group(0).spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        self.children.borrow_mut().insert(pid, Entry::default());
        Ok(Child {
            pid,
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            reaper: self.clone(),
        })
    }

    /// Collects statuses for as long as the process lives. It ends only when SIGCHLD cannot be had.
    pub async fn run(&self) -> io::Result<()> {
        let mut signals = Signals::new([Signal::Child])?;
        loop {
            // First, for what died before the signal was asked for.
            self.sweep();
            if signals.next().await.transpose()?.is_none() {
                return Ok(());
            }
        }
    }

    /// Collects everybody who has died; one signal may stand for many. A child's whole group is killed
    /// while its number is still its own: what it left in the background goes with it.
    fn sweep(&self) {
        loop {
            let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            let pid = match waitid(Id::All, peek) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(status) => status.pid(),
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    log::warn!("cannot collect exit statuses: {error}");
                    return;
                }
            };
            let Some(pid) = pid else { return };
            if self.children.borrow().contains_key(&pid.as_raw()) {
                // It fails only where nobody else is left in the group.
                let _ = killpg(pid, Kill::SIGKILL);
            }
            match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.collected(pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.collected(pid, Exit::Signal(signal as i32));
                }
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn collected(&self, pid: Pid, exit: Exit) {
        let mut children = self.children.borrow_mut();
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
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for the end. It may be asked again, and answers the same.
    pub async fn exited(&self) -> Exit {
        poll_fn(|cx| {
            let mut children = self.reaper.children.borrow_mut();
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

    /// Kills the process group. A status that was collected already means the number may belong to
    /// somebody else by now: then nothing is done.
    pub fn kill_group(&self) {
        let alive = self
            .reaper
            .children
            .borrow()
            .get(&self.pid)
            .is_some_and(|entry| entry.exit.is_none());
        if alive {
            // It fails only for a group that is gone.
            let _ = killpg(Pid::from_raw(self.pid), Kill::SIGKILL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill_group();
        self.reaper.children.borrow_mut().remove(&self.pid);
    }
}
