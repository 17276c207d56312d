//! Child processes: the one place that collects exit statuses.
//!
//! As PID 1 of a container we inherit other people's orphans, which have to be collected too. Two
//! collectors would steal each other's statuses, so there is one loop over `waitpid(-1)`, and it hands
//! the statuses out by pid. Nobody else in the process may wait for a child.
//!
//! `vfork(2)` waits until the child has become its program: commands are started on other threads. A child
//! may die before its number is known here, so that nobody unknown is collected while one is being started.

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

/// Starts commands and collects their statuses. Clones share everything.
#[derive(Clone, Debug)]
pub struct Reaper {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    launcher: Launcher,
    /// By pid, the children somebody still asks for.
    children: RefCell<BTreeMap<i32, Entry>>,
    /// Held a second time by everybody who is starting a child.
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
        // It may be dead by now, and so may others who had to wait for this.
        self.sweep();
        let mut child = child.ok_or(io::ErrorKind::NotFound)?;
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

    /// Collects everybody who has died; one signal may stand for many.
    fn sweep(&self) {
        let children = self.shared.children.borrow();
        let alive = children.iter().filter(|(_, entry)| entry.exit.is_none());
        let alive: Vec<i32> = alive.map(|(pid, _)| *pid).collect();
        drop(children);
        for pid in alive {
            self.collect(Id::Pid(Pid::from_raw(pid)));
        }
        // Whoever is not known may be a child that is just being started.
        while Arc::strong_count(&self.shared.starting) == 1 && self.collect(Id::All) {}
    }

    /// Collects one who has died, if there is one. A child's whole group is killed while its number is
    /// still its own: what it left in the background goes with it.
    fn collect(&self, who: Id<'_>) -> bool {
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let dead = match waitid(who, peek) {
            Ok(status) => status.pid(),
            Err(Errno::ECHILD) => None,
            Err(error) => {
                log::warn!("cannot collect exit statuses: {error}");
                None
            }
        };
        let Some(pid) = dead else { return false };
        if self.shared.children.borrow().contains_key(&pid.as_raw()) {
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
        true
    }

    fn collected(&self, pid: Pid, exit: Exit) {
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

/// A child that nobody has taken yet; dropped, it is killed with its group.
struct Started {
    pid: i32,
    child: Option<std::process::Child>,
    /// Until it is taken nobody unknown is collected, so the number is its own.
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
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for the end. It may be asked again, and answers the same.
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

    pub fn has_ended(&self) -> bool {
        let children = self.reaper.shared.children.borrow();
        let entry = children.get(&self.pid);
        entry.is_none_or(|entry| entry.exit.is_some())
    }

    /// Kills the process group. A status that was collected already means the number may belong to
    /// somebody else by now: then nothing is done.
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
