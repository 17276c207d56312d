//! Creates a user and network namespace, or explains why that is refused.

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};
use std::fmt;
use std::fs;
use std::io;

/// Why namespaces cannot be created, and how to allow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceError {
    /// `user.max_user_namespaces` is 0, or all are in use.
    NoneLeft,
    /// Debian's switch `kernel.unprivileged_userns_clone` is 0.
    Unprivileged,
    /// Ubuntu's AppArmor permits the namespace but denies every capability in it.
    AppArmor,
    /// A seccomp filter, as container engines install one.
    Seccomp,
    /// The kernel was built without them.
    NotBuilt,
    /// More than one thread runs already.
    Threads,
    Other(Errno),
}

impl fmt::Display for NamespaceError {
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
            Self::Other(errno) => write!(f, "cannot create namespaces: unshare: {}", errno.desc()),
        }
    }
}

impl std::error::Error for NamespaceError {}

/// Moves this process into a new user and network namespace, root inside both. Only a process with
/// one thread may.
pub fn enter() -> Result<(), NamespaceError> {
    let (uid, gid) = (Uid::current(), Gid::current());
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET) {
        // Root needs no user namespace to make a network namespace.
        if errno != Errno::EINVAL && uid.is_root() && unshare(CloneFlags::CLONE_NEWNET).is_ok() {
            return Ok(());
        }
        return Err(cause(errno, &NamespaceLimits::look()));
    }
    become_root(uid, gid).map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::EPERM, Errno::from_raw);
        cause(errno, &NamespaceLimits::look())
    })
}

/// Maps the caller to root inside (`user_namespaces(7)`).
fn become_root(uid: Uid, gid: Gid) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// The system's limits on namespaces.
#[derive(Clone, Debug, Default)]
struct NamespaceLimits {
    max_user_namespaces: Option<u64>,
    unprivileged_clone: Option<u64>,
    apparmor_restricts: Option<u64>,
    /// A seccomp filter is installed on us (`/proc/self/status`, mode 2).
    seccomp: bool,
}

impl NamespaceLimits {
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

fn cause(errno: Errno, machine: &NamespaceLimits) -> NamespaceError {
    match errno {
        Errno::ENOSPC | Errno::EUSERS => NamespaceError::NoneLeft,
        Errno::EINVAL => NamespaceError::Threads,
        Errno::ENOSYS if machine.seccomp => NamespaceError::Seccomp,
        Errno::ENOSYS => NamespaceError::NotBuilt,
        Errno::EPERM | Errno::EACCES => denied(errno, machine),
        other => NamespaceError::Other(other),
    }
}

/// EPERM has many causes; the most specific one that applies is named.
fn denied(errno: Errno, machine: &NamespaceLimits) -> NamespaceError {
    if machine.max_user_namespaces == Some(0) {
        NamespaceError::NoneLeft
    } else if machine.unprivileged_clone == Some(0) {
        NamespaceError::Unprivileged
    } else if machine.apparmor_restricts.is_some_and(|on| on != 0) {
        NamespaceError::AppArmor
    } else if machine.seccomp {
        NamespaceError::Seccomp
    } else {
        NamespaceError::Other(errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_of_eperm_is_distinguished() {
        let plain = NamespaceLimits::default();
        let with = |change: fn(&mut NamespaceLimits)| {
            let mut machine = plain.clone();
            change(&mut machine);
            machine
        };
        for (errno, machine, want) in [
            (Errno::ENOSPC, plain.clone(), NamespaceError::NoneLeft),
            (
                Errno::EPERM,
                with(|m| m.max_user_namespaces = Some(0)),
                NamespaceError::NoneLeft,
            ),
            (
                Errno::EPERM,
                with(|m| m.unprivileged_clone = Some(0)),
                NamespaceError::Unprivileged,
            ),
            (
                Errno::EACCES,
                with(|m| m.apparmor_restricts = Some(1)),
                NamespaceError::AppArmor,
            ),
            (
                Errno::EPERM,
                with(|m| m.seccomp = true),
                NamespaceError::Seccomp,
            ),
            (
                Errno::ENOSYS,
                with(|m| m.seccomp = true),
                NamespaceError::Seccomp,
            ),
            (Errno::ENOSYS, plain.clone(), NamespaceError::NotBuilt),
            (Errno::EINVAL, plain.clone(), NamespaceError::Threads),
            (Errno::EPERM, plain, NamespaceError::Other(Errno::EPERM)),
        ] {
            assert_eq!(cause(errno, &machine), want, "{errno} {machine:?}");
        }
    }

    #[test]
    fn every_refusal_says_what_to_do_or_what_is_missing() {
        for refused in [
            NamespaceError::NoneLeft,
            NamespaceError::Unprivileged,
            NamespaceError::AppArmor,
            NamespaceError::Seccomp,
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
        assert_eq!(enter(), Err(NamespaceError::Threads));
    }
}
