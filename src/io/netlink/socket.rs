//! One netlink socket: requests are answered in order, each within a bounded time.

use crate::netlink::NetlinkError;
use crate::netlink::message::{Answer, Message, Messages, Request};
use crate::wire::WireError;
use async_io::{Async, Timer};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvmsg, send,
    setsockopt, socket, sockopt,
};
use nix::{libc, setsockopt_impl, sockopt_impl};
use smol::future::FutureExt;
use std::cell::Cell;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

sockopt_impl!(
    /// `NETLINK_EXT_ACK`: errors come with a sentence.
    ExtAck,
    SetOnly,
    libc::SOL_NETLINK,
    libc::NETLINK_EXT_ACK,
    bool
);
sockopt_impl!(
    /// `NETLINK_CAP_ACK`: errors do not repeat the request.
    CapAck,
    SetOnly,
    libc::SOL_NETLINK,
    libc::NETLINK_CAP_ACK,
    bool
);
sockopt_impl!(
    /// `NETLINK_GET_STRICT_CHK`: the kernel heeds what a dump asks for (Linux 4.20).
    StrictCheck,
    SetOnly,
    libc::SOL_NETLINK,
    libc::NETLINK_GET_STRICT_CHK,
    bool
);
sockopt_impl!(
    /// `NETLINK_ADD_MEMBERSHIP`: joins a multicast group.
    AddMembership,
    SetOnly,
    libc::SOL_NETLINK,
    libc::NETLINK_ADD_MEMBERSHIP,
    u32
);

/// A socket of one netlink family in the network namespace of the thread that opens it.
pub struct Socket {
    fd: Async<OwnedFd>,
    seq: u32,
    /// A request failed: more answers to it may be queued, or lost.
    stale: bool,
    /// Bytes of the largest datagram that is read whole.
    room: Cell<usize>,
}

impl Socket {
    pub fn open(protocol: SockProtocol) -> Result<Self, NetlinkError> {
        const REQUEST: &str = "open a netlink socket";
        let open = || -> io::Result<Async<OwnedFd>> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
            // Old kernels have not all of these, and can do without them.
            let _ = setsockopt(&fd, ExtAck, &true);
            let _ = setsockopt(&fd, CapAck, &true);
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            Async::new_nonblocking(fd)
        };
        Ok(Self {
            fd: open().map_err(|error| failed(&error, REQUEST))?,
            seq: 0,
            stale: false,
            room: Cell::new(ROOM),
        })
    }

    /// Over a descriptor at whose other end somebody plays the kernel.
    #[cfg(test)]
    pub(super) fn over(fd: OwnedFd) -> Self {
        Self {
            fd: Async::new(fd).expect("a descriptor"),
            seq: 0,
            stale: false,
            room: Cell::new(ROOM),
        }
    }

    /// Makes the kernel heed the filters of dumps, where it can.
    pub fn strict(self) -> Self {
        let _ = setsockopt(&self.fd, StrictCheck, &true);
        self
    }

    /// Joins multicast groups, by their number.
    pub fn join(&self, groups: &[u32]) -> Result<(), NetlinkError> {
        for group in groups {
            setsockopt(&self.fd, AddMembership, group)
                .map_err(|errno| failed(&errno.into(), "subscribe to netlink changes"))?;
        }
        Ok(())
    }

    /// Room for what the kernel reports while we are busy. More than the system's limit only with
    /// CAP_NET_ADMIN.
    pub fn receive_buffer(&self, bytes: usize) {
        if setsockopt(&self.fd, sockopt::RcvBufForce, &bytes).is_err() {
            let _ = setsockopt(&self.fd, sockopt::RcvBuf, &bytes);
        }
    }

    /// Room for one datagram of this size. In a user namespace no more than the system's limit.
    fn send_buffer(&self, bytes: usize) {
        if setsockopt(&self.fd, sockopt::SndBufForce, &bytes).is_err() {
            let _ = setsockopt(&self.fd, sockopt::SndBuf, &bytes);
        }
    }

    /// Performs a request that is answered by an acknowledgement alone.
    pub async fn acknowledged(&mut self, request: &Request) -> Result<(), NetlinkError> {
        self.exchange(request, |_| Ok(())).await
    }

    /// Performs a request and hands every message of its answer to `each`. A dump that the kernel calls
    /// inconsistent, or that did not fit, is made again, and `each` then sees everything anew.
    pub async fn collect<T>(
        &mut self,
        request: &Request,
        mut each: impl FnMut(u16, &[u8]) -> Result<Option<T>, WireError>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut all = Vec::new();
            let mut interrupted = false;
            let room = self.room.get();
            let read = |message: &Message<'_>| {
                interrupted |= message.dump_interrupted();
                all.extend(each(message.kind, message.payload)?);
                Ok(())
            };
            match self.exchange(request, read).await {
                Ok(()) if interrupted => {}
                Ok(()) => return Ok(all),
                // The next one has room for what was larger.
                Err(_) if self.room.get() > room => {}
                Err(error) => return Err(error),
            }
        }
        Err(NetlinkError::Changing {
            request: request.name,
        })
    }

    async fn exchange(
        &mut self,
        request: &Request,
        mut each: impl FnMut(&Message<'_>) -> Result<(), WireError>,
    ) -> Result<(), NetlinkError> {
        let seq = self.number(1);
        self.send(&request.encode(seq), request.name).await?;
        let expects = Expected {
            first: seq,
            last: seq,
            requests: std::slice::from_ref(request),
            dump: request.is_dump(),
            acknowledged: request.wants_ack(),
        };
        self.answers(expects, &mut each).await
    }

    /// Performs several requests sent as one datagram. The last one that asks for an acknowledgement
    /// ends the wait; the first refusal is the result.
    pub async fn batch(&mut self, requests: &[Request], last: usize) -> Result<(), NetlinkError> {
        let count = u32::try_from(requests.len()).unwrap_or(u32::MAX);
        let first = self.number(count);
        let numbered = requests.iter().zip(first..);
        let bytes: Vec<u8> = numbered.flat_map(|(r, seq)| r.encode(seq)).collect();
        let Some(request) = requests.get(last) else {
            return Ok(());
        };
        if bytes.len() > SEND_BUFFER {
            // The kernel takes a batch as one datagram, whatever its size, if the buffer has room.
            self.send_buffer(bytes.len());
        }
        self.send(&bytes, request.name)
            .await
            .map_err(|error| too_long(error, bytes.len()))?;
        let expects = Expected {
            first,
            last: first.wrapping_add(u32::try_from(last).unwrap_or(u32::MAX)),
            requests,
            dump: false,
            acknowledged: true,
        };
        self.answers(expects, &mut |_| Ok(())).await
    }

    /// The first of `count` new sequence numbers.
    fn number(&mut self, count: u32) -> u32 {
        // A batch's numbers rise without a wrap inside it.
        if self.seq > u32::MAX / 2 {
            self.seq = 0;
        }
        let first = self.seq + 1;
        self.seq += count;
        first
    }

    async fn send(&mut self, bytes: &[u8], request: &'static str) -> Result<(), NetlinkError> {
        if std::mem::take(&mut self.stale) {
            self.drop_stale();
        }
        let write = |fd: &OwnedFd| Ok(send(fd.as_raw_fd(), bytes, MsgFlags::empty())?);
        let sent = self
            .fd
            .write_with(write)
            .or(expired(Instant::now() + TIME_LIMIT))
            .await;
        match sent {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(NetlinkError::Timeout { request })
            }
            Err(error) => Err(failed(&error, request)),
        }
    }

    /// Empties the queue, so that neither its answers nor its overrun are taken for the next one's.
    fn drop_stale(&mut self) {
        for _ in 0..STALE_DATAGRAMS {
            match self.try_receive() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
    }

    /// Reads until the answer is complete. Answers to earlier requests, given up by then, are dropped.
    async fn answers(
        &mut self,
        expects: Expected<'_>,
        each: &mut impl FnMut(&Message<'_>) -> Result<(), WireError>,
    ) -> Result<(), NetlinkError> {
        // Also when the caller gives up and drops this future.
        self.stale = true;
        self.read_answers(expects, each).await?;
        self.stale = false;
        Ok(())
    }

    async fn read_answers(
        &mut self,
        expects: Expected<'_>,
        each: &mut impl FnMut(&Message<'_>) -> Result<(), WireError>,
    ) -> Result<(), NetlinkError> {
        let request = expects.name(expects.last);
        let deadline = Instant::now() + TIME_LIMIT;
        loop {
            let datagram = match self.receive().or(expired(deadline)).await {
                Ok(datagram) => datagram,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(NetlinkError::Timeout { request });
                }
                Err(error) => return Err(failed(&error, request)),
            };
            for message in Messages::new(&datagram) {
                let message = message.map_err(|error| malformed(error, request))?;
                if expects.ended_by(&message, each)? {
                    return Ok(());
                }
            }
        }
    }

    /// The next datagram from the kernel, whole. Nothing is kept for it while none is there: a socket waits most of
    /// its life.
    pub(super) async fn receive(&self) -> io::Result<Vec<u8>> {
        let read = |fd: &OwnedFd| receive_from_kernel(fd, &self.room);
        self.fd.read_with(read).await
    }

    /// As [`Socket::receive`], but `WouldBlock` where there is none.
    pub(super) fn try_receive(&self) -> io::Result<Vec<u8>> {
        receive_from_kernel(self.fd.get_ref(), &self.room)
    }
}

/// Reads one datagram, whole; what other processes send is dropped.
fn receive_from_kernel(fd: &OwnedFd, room: &Cell<usize>) -> io::Result<Vec<u8>> {
    let mut datagram = vec![0; room.get()];
    for _ in 0..FOREIGN_DATAGRAMS {
        let mut slices = [IoSliceMut::new(&mut datagram)];
        let received =
            recvmsg::<NetlinkAddr>(fd.as_raw_fd(), &mut slices, None, MsgFlags::empty())?;
        if received.address.is_some_and(|from| from.pid() != 0) {
            continue;
        }
        let truncated = received.flags.contains(MsgFlags::MSG_TRUNC);
        let length = received.bytes;
        if truncated {
            // Lost in part: as good as an overrun, and the next one shall fit.
            room.set((room.get() * 2).min(ROOM_MAX));
            return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
        }
        datagram.truncate(length);
        return Ok(datagram);
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Which answers belong to a request, and which of them ends it.
struct Expected<'a> {
    first: u32,
    last: u32,
    /// Those sent, numbered from `first` on.
    requests: &'a [Request],
    dump: bool,
    acknowledged: bool,
}

impl Expected<'_> {
    /// What the request of this number asks for.
    fn name(&self, seq: u32) -> &'static str {
        let index = usize::try_from(seq.wrapping_sub(self.first)).unwrap_or(usize::MAX);
        self.requests.get(index).map_or("use netlink", |r| r.name)
    }

    fn ended_by(
        &self,
        message: &Message<'_>,
        each: &mut impl FnMut(&Message<'_>) -> Result<(), WireError>,
    ) -> Result<bool, NetlinkError> {
        if !(self.first..=self.last).contains(&message.seq) {
            return Ok(false);
        }
        let request = self.name(message.seq);
        match message
            .answer()
            .map_err(|error| malformed(error, request))?
        {
            Answer::Data(_) => {
                each(message).map_err(|error| malformed(error, request))?;
                // A single answer without an acknowledgement behind it is all there is.
                Ok(!self.dump && !self.acknowledged)
            }
            Answer::Done => Ok(message.seq == self.last),
            Answer::Refused { errno, message } => Err(NetlinkError::Errno {
                errno,
                message,
                request,
            }),
            Answer::Nothing => Ok(false),
            Answer::Overrun => Err(NetlinkError::Errno {
                errno: libc::ENOBUFS,
                message: None,
                request,
            }),
        }
    }
}

/// The timer reaches the reactor only when the answer is not there at once, which it mostly is.
async fn expired<T>(deadline: Instant) -> io::Result<T> {
    Timer::at(deadline).await;
    Err(io::ErrorKind::TimedOut.into())
}

pub(super) fn failed(error: &io::Error, request: &'static str) -> NetlinkError {
    NetlinkError::Errno {
        errno: error.raw_os_error().unwrap_or(libc::EIO),
        message: None,
        request,
    }
}

/// What helps where the kernel has no room for a batch.
fn too_long(error: NetlinkError, bytes: usize) -> NetlinkError {
    match error {
        NetlinkError::Errno {
            errno: libc::EMSGSIZE,
            request,
            ..
        } => NetlinkError::Errno {
            errno: libc::EMSGSIZE,
            message: Some(format!(
                "all rules go in one batch, of {bytes} bytes: without CAP_NET_ADMIN over the whole system \
                 net.core.wmem_max has to be {} or more",
                bytes.div_ceil(2) + 32
            )),
            request,
        },
        error => error,
    }
}

fn malformed(error: WireError, request: &'static str) -> NetlinkError {
    NetlinkError::Malformed { error, request }
}

/// The kernel answers within microseconds, but not while somebody holds the rtnl lock.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// The kernel fills a dump's datagrams as far as the largest buffer it has seen on the socket, but not over 32 KiB;
/// the first one, when it has seen none, as far as a page or 8 KiB, whichever is less (`NLMSG_GOODSIZE`). Only a single
/// message can be larger. Of the 8 KiB the kernel takes 320 bytes for itself, and an allocator some.
const ROOM: usize = 8 * 1024 - 256;
const ROOM_MAX: usize = 1024 * 1024;
/// The least that every system grants, doubled by the kernel.
const SEND_BUFFER: usize = 128 * 1024;
/// More than fit any receive buffer that we ask for.
const STALE_DATAGRAMS: usize = 10_000;
const DUMP_ATTEMPTS: usize = 8;
/// Datagrams of other processes dropped in one go before the reactor is asked again.
const FOREIGN_DATAGRAMS: usize = 16;
