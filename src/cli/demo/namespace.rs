//! A user and network namespace of our own, or the sentence that says why there is none.

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};
use std::fmt;
use std::fs;
use std::io;

/// Why the machine gives us no namespaces, and what would change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `user.max_user_namespaces` is 0, or all are in use.
    NoneLeft,
    /// Debian's switch `kernel.unprivileged_userns_clone` is 0.
    Unprivileged,
    /// Ubuntu's AppArmor lets a namespace be made but nothing be done in it.
    AppArmor,
    /// A seccomp filter, as container engines install one.
    Seccomp,
    /// The kernel was built without them.
    NotBuilt,
    /// More than one thread runs already.
    Threads,
    Other(Errno),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoneLeft => f.write_str(
                "this machine allows no more user namespaces (user.max_user_namespaces): \
                 sudo sysctl user.max_user_namespaces=1000, or run the demo as root",
            ),
            Self::Unprivileged => f.write_str(
                "user namespaces are for root only here (kernel.unprivileged_userns_clone is 0): \
                 sudo sysctl kernel.unprivileged_userns_clone=1, or run the demo as root",
            ),
            Self::AppArmor => f.write_str(
                "AppArmor restricts unprivileged user namespaces here, as Ubuntu does since 24.04: \
                 sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run the demo as root",
            ),
            Self::Seccomp => f.write_str(
                "a seccomp filter refuses namespaces, as container engines' default profiles do: \
                 run the demo outside the container, or start the container with \
                 --security-opt seccomp=unconfined",
            ),
            Self::NotBuilt => f.write_str("this kernel was built without user or network namespaces"),
            Self::Threads => f.write_str("namespaces must be made before the first thread is started"),
            Self::Other(errno) => write!(f, "no namespaces to be had: unshare: {}", errno.desc()),
        }
    }
}

impl std::error::Error for Refused {}

/// Moves this process into a new user and network namespace, root inside both. Only a process with
/// one thread may.
pub fn enter() -> Result<(), Refused> {
    let (uid, gid) = (Uid::current(), Gid::current());
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET) {
        // Root needs no user namespace to make a network namespace.
        if errno != Errno::EINVAL && uid.is_root() && unshare(CloneFlags::CLONE_NEWNET).is_ok() {
            return Ok(());
        }
        return Err(cause(errno, &Machine::look()));
    }
    become_root(uid, gid).map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::EPERM, Errno::from_raw);
        cause(errno, &Machine::look())
    })
}

/// Maps the caller to root inside (`user_namespaces(7)`).
fn become_root(uid: Uid, gid: Gid) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// What the machine says about namespaces.
#[derive(Clone, Debug, Default)]
struct Machine {
    max_user_namespaces: Option<u64>,
    unprivileged_clone: Option<u64>,
    apparmor_restricts: Option<u64>,
    /// A seccomp filter is installed on us (`/proc/self/status`, mode 2).
    seccomp: bool,
}

impl Machine {
    fn look() -> Self {
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            max_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
            unprivileged_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            seccomp: status.lines().any(|line| {
                line.strip_prefix("Seccomp:")
                    .is_some_and(|mode| mode.trim() == "2")
            }),
        }
    }
}

fn cause(errno: Errno, machine: &Machine) -> Refused {
    match errno {
        Errno::ENOSPC | Errno::EUSERS => Refused::NoneLeft,
        Errno::EINVAL => Refused::Threads,
        Errno::ENOSYS if machine.seccomp => Refused::Seccomp,
        Errno::ENOSYS => Refused::NotBuilt,
        Errno::EPERM | Errno::EACCES => denied(errno, machine),
        other => Refused::Other(other),
    }
}

/// Permission is denied in one way for many reasons; the most specific one that holds is named.
fn denied(errno: Errno, machine: &Machine) -> Refused {
    if machine.max_user_namespaces == Some(0) {
        Refused::NoneLeft
    } else if machine.unprivileged_clone == Some(0) {
        Refused::Unprivileged
    } else if machine.apparmor_restricts.is_some_and(|on| on != 0) {
        Refused::AppArmor
    } else if machine.seccomp {
        Refused::Seccomp
    } else {
        Refused::Other(errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_told_apart() {
        let plain = Machine::default();
        let with = |change: fn(&mut Machine)| {
            let mut machine = plain.clone();
            change(&mut machine);
            machine
        };
        for (errno, machine, want) in [
            (Errno::ENOSPC, plain.clone(), Refused::NoneLeft),
            (
                Errno::EPERM,
                with(|m| m.max_user_namespaces = Some(0)),
                Refused::NoneLeft,
            ),
            (
                Errno::EPERM,
                with(|m| m.unprivileged_clone = Some(0)),
                Refused::Unprivileged,
            ),
            (
                Errno::EACCES,
                with(|m| m.apparmor_restricts = Some(1)),
                Refused::AppArmor,
            ),
            (Errno::EPERM, with(|m| m.seccomp = true), Refused::Seccomp),
            (Errno::ENOSYS, with(|m| m.seccomp = true), Refused::Seccomp),
            (Errno::ENOSYS, plain.clone(), Refused::NotBuilt),
            (Errno::EINVAL, plain.clone(), Refused::Threads),
            (Errno::EPERM, plain, Refused::Other(Errno::EPERM)),
        ] {
            assert_eq!(cause(errno, &machine), want, "{errno} {machine:?}");
        }
    }

    #[test]
    fn every_refusal_says_what_to_do_or_what_is_missing() {
        for refused in [
            Refused::NoneLeft,
            Refused::Unprivileged,
            Refused::AppArmor,
            Refused::Seccomp,
        ] {
            let text = refused.to_string();
            assert!(
                text.contains("sysctl") || text.contains("--security-opt"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_process_with_threads_gets_the_sentence_about_threads() {
        // The test runner's threads are enough.
        assert_eq!(enter(), Err(Refused::Threads));
    }
}
