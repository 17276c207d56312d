//! The BPF filter of a socket, which sees every message before it is queued.

use crate::netlink::bpf::BpfInstruction;
use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::{libc, setsockopt_impl, sockopt_impl};
use std::io;
use std::os::fd::AsFd;

/// Replaces the filter; the kernel does it in one step, or leaves the one before.
pub fn attach_filter(fd: &impl AsFd, filter: &[BpfInstruction]) -> io::Result<()> {
    let mut ops: Vec<libc::sock_filter> = filter.iter().map(kernel_op).collect();
    let program = libc::sock_fprog {
        len: u16::try_from(ops.len()).map_err(io::Error::other)?,
        filter: ops.as_mut_ptr(),
    };
    // The kernel copies the program within the call, while `ops` is still there.
    Ok(setsockopt(fd, AttachFilter, &program)?)
}

/// Takes the filter away, if there is one.
pub fn detach_filter(fd: &impl AsFd) -> io::Result<()> {
    match setsockopt(fd, DetachFilter, &0) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn kernel_op(op: &BpfInstruction) -> libc::sock_filter {
    libc::sock_filter {
        code: op.code,
        jt: op.jt,
        jf: op.jf,
        k: op.k,
    }
}

sockopt_impl!(
    /// A classic BPF program that sees every message before it is queued.
    AttachFilter,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_ATTACH_FILTER,
    libc::sock_fprog
);

sockopt_impl!(
    /// Takes the filter away; its value is not looked at.
    DetachFilter,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_DETACH_FILTER,
    libc::c_int
);
