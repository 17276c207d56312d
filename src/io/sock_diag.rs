//! Requests to sock_diag, answered within the call.

use crate::netlink::message::{Messages, Reply, Request};
use crate::netlink::sock_diag::Socket;
use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
    setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::{AsRawFd, OwnedFd};

/// The inodes of our own sockets; none where there is no /proc.
pub fn own_inodes() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|target| {
            let inode = target.to_str()?.strip_prefix("socket:[")?;
            inode.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// A socket for requests.
pub fn open() -> Result<OwnedFd, Errno> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    // The kernel answers within sendto; the timeout is a safeguard.
    setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(1))?;
    Ok(fd)
}

/// Sends one request with the sequence number `seq`, and adds the sockets of its answer to `sockets`. Returns the
/// number of datagrams, of at most `room` bytes each, in which the sockets came.
pub fn exchange(
    fd: &OwnedFd,
    request: &Request,
    seq: u32,
    room: usize,
    sockets: &mut Vec<Socket>,
) -> Result<usize, Errno> {
    sendto(
        fd.as_raw_fd(),
        &request.encode(seq),
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut buf = vec![0; room];
    let mut datagrams = 0;
    loop {
        let count = match recv(fd.as_raw_fd(), &mut buf, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error),
            Ok(count) => count,
        };
        let datagram = buf.get(..count).unwrap_or_default();
        let before = sockets.len();
        for message in Messages::new(datagram) {
            let message = message.map_err(|_| Errno::EBADMSG)?;
            if message.seq != seq {
                continue;
            }
            match message.reply().map_err(|_| Errno::EBADMSG)? {
                Reply::Data(payload) => {
                    sockets.push(Socket::decode(payload).map_err(|_| Errno::EBADMSG)?);
                    if !request.is_dump() {
                        return Ok(1);
                    }
                }
                Reply::Done => return Ok(datagrams + usize::from(sockets.len() > before)),
                Reply::Error { errno, .. } => return Err(Errno::from_raw(errno)),
                Reply::Overrun => return Err(Errno::ENOBUFS),
                Reply::Noop => {}
            }
        }
        datagrams += usize::from(sockets.len() > before);
    }
}
