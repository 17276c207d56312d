//! One netlink socket: requests are answered in order, each within a bounded time.

use super::filter::{attach_filter, detach_filter};
use crate::netlink::NetlinkError;
use crate::netlink::bpf::BpfInstruction;
use crate::netlink::message::{Message, Messages, Reply, Request};
use crate::wire::WireError;
use async_io::{Async, Timer};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recvmsg, send, setsockopt, socket, sockopt,
};
use nix::{libc, setsockopt_impl, sockopt_impl};
use smol::future::FutureExt;
use std::cell::Cell;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

sockopt_impl!(
    /// `NETLINK_EXT_ACK`: errors have a message.
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
    /// `NETLINK_GET_STRICT_CHK`: the kernel applies the filters of dumps (Linux 4.20).
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

/// What is done with each message of a reply.
type EachMessage<'a> = &'a mut dyn FnMut(&Message<'_>) -> Result<(), WireError>;

/// A socket of one netlink family in the network namespace of the thread that opens it.
pub struct Socket {
    fd: Async<OwnedFd>,
    seq: u32,
    /// A request failed: more replies to it may be queued.
    has_stale_replies: bool,
    /// Bytes of the largest datagram that is read whole.
    buffer_size: Cell<usize>,
}

impl Socket {
    /// Opens a socket of this netlink family.
    pub fn open(protocol: SockProtocol) -> Result<Self, NetlinkError> {
        const REQUEST: &str = "open a netlink socket";
        let open = || -> io::Result<Async<OwnedFd>> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
            // Optional: old kernels lack some of these.
            let _ = setsockopt(&fd, ExtAck, &true);
            let _ = setsockopt(&fd, CapAck, &true);
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            Async::new_nonblocking(fd)
        };
        Ok(Self {
            fd: open().map_err(|error| io_error(&error, REQUEST))?,
            seq: 0,
            has_stale_replies: false,
            buffer_size: Cell::new(BUFFER_SIZE),
        })
    }

    /// Makes the kernel apply the filters of dumps, if it can.
    pub fn strict(self) -> Self {
        let _ = setsockopt(&self.fd, StrictCheck, &true);
        self
    }

    /// Receives only what the filter passes. Fails if the kernel refuses it: everything is then received.
    pub(super) fn filter(&self, filter: &[BpfInstruction]) -> io::Result<()> {
        attach_filter(&self.fd, filter).inspect_err(|_| {
            // The one before may drop what is now wanted. The kernel refuses to take none away.
            let _ = detach_filter(&self.fd);
        })
    }

    /// Joins multicast groups, by their number.
    pub fn join(&self, groups: &[u32]) -> Result<(), NetlinkError> {
        for group in groups {
            setsockopt(&self.fd, AddMembership, group)
                .map_err(|errno| io_error(&errno.into(), "subscribe to netlink changes"))?;
        }
        Ok(())
    }

    /// Sets the receive buffer. More than `net.core.rmem_max` requires CAP_NET_ADMIN.
    pub fn receive_buffer(&self, bytes: usize) {
        if setsockopt(&self.fd, sockopt::RcvBufForce, &bytes).is_err() {
            let _ = setsockopt(&self.fd, sockopt::RcvBuf, &bytes);
        }
    }

    /// Sets the send buffer. In a user namespace no more than `net.core.wmem_max`.
    fn send_buffer(&self, bytes: usize) {
        if setsockopt(&self.fd, sockopt::SndBufForce, &bytes).is_err() {
            let _ = setsockopt(&self.fd, sockopt::SndBuf, &bytes);
        }
    }

    /// Performs a request that is answered by an acknowledgment alone.
    pub async fn acknowledged(&mut self, request: &Request) -> Result<(), NetlinkError> {
        self.exchange(request, &mut |_| Ok(())).await
    }

    /// Performs a request and passes every message of its reply to `each`. A dump that was interrupted by a
    /// change, or did not fit the buffer, is repeated, and `each` is called again for all of it.
    pub async fn collect<T>(
        &mut self,
        request: &Request,
        mut each: impl FnMut(u16, &[u8]) -> Result<Option<T>, WireError>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut all = Vec::new();
            let mut read = |message: &Message<'_>| {
                all.extend(each(message.kind, message.payload)?);
                Ok(())
            };
            if self.dump(request, &mut read).await? {
                return Ok(all);
            }
        }
        Err(NetlinkError::Changing {
            request: request.name,
        })
    }

    /// Performs a request once; whether its reply is whole.
    async fn dump(
        &mut self,
        request: &Request,
        each: EachMessage<'_>,
    ) -> Result<bool, NetlinkError> {
        let buffer_size = self.buffer_size.get();
        let mut interrupted = false;
        let mut read = |message: &Message<'_>| {
            interrupted |= message.dump_interrupted();
            each(message)
        };
        match self.exchange(request, &mut read).await {
            Ok(()) => Ok(!interrupted),
            // The buffer has grown: try again.
            Err(_) if self.buffer_size.get() > buffer_size => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// As [`Socket::collect`], of a routing table that need not exist: the kernel makes one with its
    /// first route.
    pub async fn list<T>(
        &mut self,
        request: &Request,
        each: impl FnMut(u16, &[u8]) -> Result<Option<T>, WireError>,
    ) -> Result<Vec<T>, NetlinkError> {
        match self.collect(request, each).await {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(Vec::new()),
            listed => listed,
        }
    }

    async fn exchange(
        &mut self,
        request: &Request,
        each: EachMessage<'_>,
    ) -> Result<(), NetlinkError> {
        let seq = self.next_sequence(1);
        self.send(&request.encode(seq), request.name).await?;
        let expects = ExpectedReplies {
            first: seq,
            last: seq,
            requests: std::slice::from_ref(request),
            dump: request.is_dump(),
            acknowledged: request.wants_ack(),
        };
        self.replies(expects, each).await
    }

    /// Performs several requests sent as one datagram. The last one that asks for an acknowledgment
    /// ends the wait; the first refusal is the result.
    pub async fn batch(&mut self, requests: &[Request], last: usize) -> Result<(), NetlinkError> {
        self.batch_echoed(requests, last, &mut |_, _| Ok(())).await
    }

    /// As [`Socket::batch`]; passes echoed messages to `each`, with the index of their request.
    pub async fn batch_echoed(
        &mut self,
        requests: &[Request],
        last: usize,
        each: &mut dyn FnMut(usize, &Message<'_>) -> Result<(), WireError>,
    ) -> Result<(), NetlinkError> {
        let count = u32::try_from(requests.len()).unwrap_or(u32::MAX);
        let first = self.next_sequence(count);
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
        let expects = ExpectedReplies {
            first,
            last: first.wrapping_add(u32::try_from(last).unwrap_or(u32::MAX)),
            requests,
            dump: false,
            acknowledged: true,
        };
        let index = |seq: u32| usize::try_from(seq.wrapping_sub(first)).unwrap_or(usize::MAX);
        let mut read = |message: &Message<'_>| each(index(message.seq), message);
        self.replies(expects, &mut read).await
    }

    /// The port id of this socket.
    pub fn port(&self) -> Option<u32> {
        let addr = getsockname::<NetlinkAddr>(self.fd.get_ref().as_raw_fd()).ok()?;
        Some(addr.pid())
    }

    /// Performs independent requests, many in one datagram, each acknowledged or refused separately. The results are
    /// in the order of the requests. Requests sent before the socket failed may have been performed.
    pub async fn each(&mut self, requests: &[Request]) -> Vec<Result<(), NetlinkError>> {
        let mut results = Vec::with_capacity(requests.len());
        for together in datagrams(requests) {
            results.extend(self.share_datagram(together).await);
        }
        results
    }

    async fn share_datagram(&mut self, requests: &[Request]) -> Vec<Result<(), NetlinkError>> {
        let first = self.next_sequence(u32::try_from(requests.len()).unwrap_or(u32::MAX));
        let numbered = requests.iter().zip(first..);
        let bytes: Vec<u8> = numbered.flat_map(|(r, seq)| r.encode(seq)).collect();
        let mut results: Vec<Option<Result<(), NetlinkError>>> = vec![None; requests.len()];
        let name = requests.first().map_or("use netlink", |r| r.name);
        let done = match self.send(&bytes, name).await {
            Ok(()) => {
                self.has_stale_replies = true;
                self.read_each(first, requests, &mut results).await
            }
            Err(error) => Err(error),
        };
        if done.is_ok() {
            self.has_stale_replies = false;
        }
        let results = results.into_iter();
        results
            .map(|result| result.unwrap_or_else(|| done.clone()))
            .collect()
    }

    /// Reads until every request has its answer.
    async fn read_each(
        &self,
        first: u32,
        requests: &[Request],
        results: &mut [Option<Result<(), NetlinkError>>],
    ) -> Result<(), NetlinkError> {
        let name = requests.first().map_or("use netlink", |r| r.name);
        let deadline = Instant::now() + TIME_LIMIT;
        let mut missing = requests.len();
        while missing > 0 {
            let datagram = self.datagram(deadline, name).await?;
            for message in Messages::new(&datagram) {
                let message = message.map_err(|error| malformed(error, name))?;
                let index = usize::try_from(message.seq.wrapping_sub(first)).unwrap_or(usize::MAX);
                let slot = results.get_mut(index).filter(|slot| slot.is_none());
                let (Some(slot), Some(request)) = (slot, requests.get(index)) else {
                    continue;
                };
                *slot = acknowledgment(&message, request.name)?;
                missing -= usize::from(slot.is_some());
            }
        }
        Ok(())
    }

    /// The next datagram, until `deadline`.
    async fn datagram(
        &self,
        deadline: Instant,
        request: &'static str,
    ) -> Result<Vec<u8>, NetlinkError> {
        match self.receive().or(expired(deadline)).await {
            Ok(datagram) => Ok(datagram),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(NetlinkError::Timeout { request })
            }
            Err(error) => Err(io_error(&error, request)),
        }
    }

    /// The first of `count` new sequence numbers.
    fn next_sequence(&mut self, count: u32) -> u32 {
        // A batch's numbers rise without a wrap inside it.
        if self.seq > u32::MAX / 2 {
            self.seq = 0;
        }
        let first = self.seq + 1;
        self.seq += count;
        first
    }

    async fn send(&mut self, bytes: &[u8], request: &'static str) -> Result<(), NetlinkError> {
        if std::mem::take(&mut self.has_stale_replies) {
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
            Err(error) => Err(io_error(&error, request)),
        }
    }

    /// Empties the queue, so that old replies are not taken for those of the next request.
    fn drop_stale(&mut self) {
        for _ in 0..STALE_DATAGRAMS {
            match self.try_receive() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
    }

    /// Reads until the reply is complete. Replies to earlier requests are dropped.
    async fn replies(
        &mut self,
        expects: ExpectedReplies<'_>,
        each: EachMessage<'_>,
    ) -> Result<(), NetlinkError> {
        // Stays set if the caller drops this future.
        self.has_stale_replies = true;
        self.read_replies(expects, each).await?;
        self.has_stale_replies = false;
        Ok(())
    }

    async fn read_replies(
        &mut self,
        expects: ExpectedReplies<'_>,
        each: EachMessage<'_>,
    ) -> Result<(), NetlinkError> {
        let request = expects.name(expects.last);
        let deadline = Instant::now() + TIME_LIMIT;
        let mut number: u32 = 0;
        loop {
            number = number.wrapping_add(1);
            if number % IN_A_ROW == 0 {
                // A dump of a full table is some thousands.
                smol::future::yield_now().await;
            }
            let datagram = self.datagram(deadline, request).await?;
            for message in Messages::new(&datagram) {
                let message = message.map_err(|error| malformed(error, request))?;
                if expects.is_completed_by(&message, each)? {
                    return Ok(());
                }
            }
        }
    }

    /// The next datagram from the kernel. Its buffer is allocated when one is there: most of the time none is.
    pub(super) async fn receive(&self) -> io::Result<Vec<u8>> {
        let read = |fd: &OwnedFd| receive_from_kernel(fd, &self.buffer_size);
        self.fd.read_with(read).await
    }

    /// As [`Socket::receive`], but `WouldBlock` where there is none.
    pub(super) fn try_receive(&self) -> io::Result<Vec<u8>> {
        receive_from_kernel(self.fd.get_ref(), &self.buffer_size)
    }
}

/// Reads one whole datagram; those of other processes are dropped.
fn receive_from_kernel(fd: &OwnedFd, buffer_size: &Cell<usize>) -> io::Result<Vec<u8>> {
    let mut datagram = vec![0; buffer_size.get()];
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
            // Truncated: treat it as an overrun, and enlarge the buffer.
            buffer_size.set((buffer_size.get() * 2).min(BUFFER_SIZE_MAX));
            return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
        }
        datagram.truncate(length);
        return Ok(datagram);
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Which replies belong to a request, and which of them completes it.
struct ExpectedReplies<'a> {
    first: u32,
    last: u32,
    /// Those sent, numbered from `first` on.
    requests: &'a [Request],
    dump: bool,
    acknowledged: bool,
}

impl ExpectedReplies<'_> {
    /// What the request of this number asks for.
    fn name(&self, seq: u32) -> &'static str {
        let index = usize::try_from(seq.wrapping_sub(self.first)).unwrap_or(usize::MAX);
        self.requests.get(index).map_or("use netlink", |r| r.name)
    }

    fn is_completed_by(
        &self,
        message: &Message<'_>,
        each: EachMessage<'_>,
    ) -> Result<bool, NetlinkError> {
        if !(self.first..=self.last).contains(&message.seq) {
            return Ok(false);
        }
        let request = self.name(message.seq);
        match message.reply().map_err(|error| malformed(error, request))? {
            Reply::Data(_) => {
                each(message).map_err(|error| malformed(error, request))?;
                // A single reply without an acknowledgment after it completes the request.
                Ok(!self.dump && !self.acknowledged)
            }
            Reply::Done => Ok(message.seq == self.last),
            Reply::Error { errno, message } => Err(NetlinkError::Errno {
                errno,
                message,
                request,
            }),
            Reply::Noop => Ok(false),
            Reply::Overrun => Err(NetlinkError::Errno {
                errno: libc::ENOBUFS,
                message: None,
                request,
            }),
        }
    }
}

/// Cuts requests into datagrams that the kernel's buffers and ours hold, with all their answers.
fn datagrams(mut rest: &[Request]) -> impl Iterator<Item = &[Request]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fit = rest
            .iter()
            .take(MAX_REQUESTS_PER_DATAGRAM)
            .take_while(|request| {
                bytes += request.encoded_len();
                bytes <= MAX_DATAGRAM_BYTES
            });
        // A single request is sent whatever its length.
        let (now, later) = rest.split_at(fit.count().max(1).min(rest.len()));
        rest = later;
        (!now.is_empty()).then_some(now)
    })
}

/// The result of a request, if the message completes it; `None`: it does not.
fn acknowledgment(
    message: &Message<'_>,
    request: &'static str,
) -> Result<Option<Result<(), NetlinkError>>, NetlinkError> {
    let answer = message.reply();
    Ok(match answer.map_err(|error| malformed(error, request))? {
        Reply::Done => Some(Ok(())),
        Reply::Error { errno, message } => Some(Err(NetlinkError::Errno {
            errno,
            message,
            request,
        })),
        Reply::Data(_) | Reply::Noop => None,
        Reply::Overrun => {
            return Err(NetlinkError::Errno {
                errno: libc::ENOBUFS,
                message: None,
                request,
            });
        }
    })
}

/// Polled after the reply, so that the timer is registered only if the reply is not there at once.
async fn expired<T>(deadline: Instant) -> io::Result<T> {
    Timer::at(deadline).await;
    Err(io::ErrorKind::TimedOut.into())
}

pub(super) fn io_error(error: &io::Error, request: &'static str) -> NetlinkError {
    NetlinkError::Errno {
        errno: error.raw_os_error().unwrap_or(libc::EIO),
        message: None,
        request,
    }
}

/// Explains EMSGSIZE: the send buffer is too small for the batch.
fn too_long(error: NetlinkError, bytes: usize) -> NetlinkError {
    match error {
        NetlinkError::Errno {
            errno: libc::EMSGSIZE,
            request,
            ..
        } => NetlinkError::Errno {
            errno: libc::EMSGSIZE,
            message: Some(format!(
                "all rules are one batch of {bytes} bytes: without CAP_NET_ADMIN in the initial user namespace \
                 net.core.wmem_max must be {} or more",
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

/// The kernel answers within microseconds, but not while another process holds the rtnl lock.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// The kernel fills a dump's datagrams as far as the largest buffer it has seen on the socket, but not over 32 KiB;
/// the first one, when it has seen none, as far as a page or 8 KiB, whichever is less (`NLMSG_GOODSIZE`). Only a single
/// message can be larger. Of the 8 KiB the kernel takes 320 bytes for itself, and an allocator some.
const BUFFER_SIZE: usize = 8 * 1024 - 256;
const BUFFER_SIZE_MAX: usize = 1024 * 1024;
/// The least that every system grants, doubled by the kernel.
const SEND_BUFFER: usize = 128 * 1024;
/// More than fit any receive buffer that we ask for.
const STALE_DATAGRAMS: usize = 10_000;
const DUMP_ATTEMPTS: usize = 8;
/// Datagrams of one answer read before the task yields.
const IN_A_ROW: u32 = 8;
/// Requests in one datagram. The kernel queues an acknowledgment of 768 bytes, by its own count, for each
/// before it returns; the smallest buffer in use, of 208 KiB, has room for twice as many, and for refusals,
/// which are longer.
const MAX_REQUESTS_PER_DATAGRAM: usize = 128;
const MAX_DATAGRAM_BYTES: usize = 32 * 1024;
/// Datagrams of other processes dropped in one go before the reactor is asked again.
const FOREIGN_DATAGRAMS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::NLM_F_ACK;

    impl Socket {
        /// Uses one end of a socket pair; the test plays the kernel on the other.
        pub(in crate::io::netlink) fn with_socket(fd: OwnedFd) -> Self {
            Self {
                fd: Async::new(fd).expect("a descriptor"),
                seq: 0,
                has_stale_replies: false,
                buffer_size: Cell::new(BUFFER_SIZE),
            }
        }
    }

    fn requests(count: usize, payload: usize) -> Vec<Request> {
        let request = Request::new("test", 20, NLM_F_ACK, |w| w.raw(&vec![0; payload])).unwrap();
        vec![request; count]
    }

    #[test]
    fn a_datagram_is_bounded_in_requests_and_in_bytes() {
        let sizes = |requests: &[Request]| datagrams(requests).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(sizes(&requests(300, 60)), [128, 128, 44]);
        assert_eq!(sizes(&requests(100, 1008)), [32, 32, 32, 4]);
        assert_eq!(
            sizes(&requests(2, 100_000)),
            [1, 1],
            "one goes all the same"
        );
        assert_eq!(sizes(&[]), [0_usize; 0]);
    }
}
