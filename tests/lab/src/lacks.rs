//! Simulates a kernel that lacks a feature: a seccomp(2) filter, installed before the program starts, fails its
//! system calls.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::error::Error;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// The variable that names what the kernel of a [`crate::Child`] lacks: one of the names in [`call`].
pub const LACKS: &str = "LAB_LACKS";

/// Installs the filter for `what` in this process; it cannot be removed.
pub(crate) fn take_away(what: &str) -> Result<(), Box<dyn Error>> {
    let (number, arguments, errno) = call(what)?;
    let conditions = arguments.iter().map(|(index, value)| {
        let equal = SeccompCmpOp::Eq;
        SeccompCondition::new(*index, SeccompCmpArgLen::Dword, equal, *value)
    });
    let rule = SeccompRule::new(conditions.collect::<Result<_, _>>()?)?;
    let refuse = SeccompAction::Errno(u32::try_from(errno)?);
    let target: TargetArch = ARCH.try_into()?;
    let rules = BTreeMap::from([(number, vec![rule])]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, target)?;
    let program: BpfProgram = filter.try_into()?;
    apply_filter(&program)?;
    Ok(())
}

type Call = (i64, Vec<(u8, u64)>, i32);

/// The system call that is refused, with which arguments, and how.
fn call(what: &str) -> Result<Call, Box<dyn Error>> {
    let value = |constant: i32| u64::try_from(constant);
    Ok(match what {
        // Built without CONFIG_INET_DIAG.
        "sock_diag" => (
            libc::SYS_socket,
            vec![
                (0, value(libc::AF_NETLINK)?),
                (2, value(libc::NETLINK_SOCK_DIAG)?),
            ],
            libc::EPROTONOSUPPORT,
        ),
        "socket_filters" => (
            libc::SYS_setsockopt,
            vec![
                (1, value(libc::SOL_SOCKET)?),
                (2, value(libc::SO_ATTACH_FILTER)?),
            ],
            libc::EPERM,
        ),
        other => return Err(format!("{LACKS}={other}: nothing known by that name").into()),
    })
}
