//! Socket options that nix does not have, and the sets of options of BGP sockets.
//!
//! TCP MD5 signatures (RFC 2385, `linux/tcp.h`), GTSM (RFC 5082, `IP_MINTTL` and
//! `IPV6_MINHOPCOUNT`), how much the peer has acknowledged (`TCP_INFO`), and the options of a send-only
//! raw ICMPv6 socket (`linux/icmpv6.h`).

use nix::libc;
use nix::sys::socket::{GetSockOpt, SetSockOpt, sockopt};
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

/// `struct tcp_md5sig` of `linux/tcp.h`. Setting an empty key removes the one for that address.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TcpMd5Sig {
    addr: [u8; 128],
    flags: u8,
    prefixlen: u8,
    keylen: u16,
    ifindex: i32,
    key: [u8; TCP_MD5SIG_MAXKEYLEN],
}

/// `TCP_MD5SIG_MAXKEYLEN`, bytes.
pub const TCP_MD5SIG_MAXKEYLEN: usize = 80;

impl fmt::Debug for TcpMd5Sig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpMd5Sig").finish_non_exhaustive()
    }
}

impl TcpMd5Sig {
    /// A key for one peer; `None` when it is longer than 80 bytes.
    pub fn new(peer: IpAddr, key: &[u8]) -> Option<Self> {
        let keylen = u16::try_from(key.len())
            .ok()
            .filter(|_| key.len() <= TCP_MD5SIG_MAXKEYLEN)?;
        let mut padded = [0; TCP_MD5SIG_MAXKEYLEN];
        padded
            .iter_mut()
            .zip(key)
            .for_each(|(slot, byte)| *slot = *byte);
        let mut addr = [0; 128];
        let bytes = sockaddr(peer);
        addr.iter_mut()
            .zip(bytes)
            .for_each(|(slot, byte)| *slot = byte);
        Some(Self {
            addr,
            flags: 0,
            prefixlen: 0,
            keylen,
            ifindex: 0,
            key: padded,
        })
    }
}

/// `struct sockaddr_in` or `sockaddr_in6` with port 0: family, port, and for IPv6 the flow, then the
/// address.
fn sockaddr(addr: IpAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    let family = if addr.is_ipv4() { AF_INET } else { AF_INET6 };
    bytes.extend(family.to_ne_bytes());
    bytes.extend([0; 2]);
    match addr {
        IpAddr::V4(addr) => bytes.extend(addr.octets()),
        IpAddr::V6(addr) => {
            bytes.extend([0; 4]);
            bytes.extend(addr.octets());
        }
    }
    bytes
}

/// `AF_INET` and `AF_INET6` in the width of `sa_family_t`.
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

sockopt_impl!(
    /// TCP MD5 signature key of one peer (RFC 2385).
    TcpMd5,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_MD5SIG,
    TcpMd5Sig
);
sockopt_impl!(
    /// Packets with a smaller TTL are dropped (RFC 5082).
    IpMinTtl,
    Both,
    libc::IPPROTO_IP,
    libc::IP_MINTTL,
    u8
);
sockopt_impl!(
    /// Packets with a smaller hop limit are dropped (RFC 5082). nix and libc lack the number.
    Ipv6MinHopCount,
    Both,
    libc::IPPROTO_IPV6,
    IPV6_MINHOPCOUNT,
    libc::c_int
);
const IPV6_MINHOPCOUNT: libc::c_int = 73;
sockopt_impl!(
    /// An address may be bound before the host has it. nix and libc lack the number.
    Ipv6Freebind,
    Both,
    libc::IPPROTO_IPV6,
    IPV6_FREEBIND,
    bool
);
const IPV6_FREEBIND: libc::c_int = 78;
sockopt_impl!(
    /// Whether our own multicast packets come back to this host.
    Ipv6MulticastLoop,
    Both,
    libc::IPPROTO_IPV6,
    libc::IPV6_MULTICAST_LOOP,
    bool
);
sockopt_impl!(
    /// ICMPv6 types that a raw socket does not receive, a bit each (RFC 3542 §3.2).
    Icmp6Filter,
    SetOnly,
    libc::IPPROTO_ICMPV6,
    ICMPV6_FILTER,
    Icmp6Blocked
);
const ICMPV6_FILTER: libc::c_int = 1;
sockopt_impl!(
    /// The longest wait between two retransmissions, in milliseconds (Linux 6.15). libc lacks the number.
    TcpRtoMaxMs,
    Both,
    libc::IPPROTO_TCP,
    TCP_RTO_MAX_MS,
    u32
);
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// `struct icmp6_filter` of `linux/icmpv6.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Icmp6Blocked([u32; 8]);

impl Icmp6Blocked {
    /// All types.
    pub const ALL: Self = Self([u32::MAX; 8]);
}

/// `struct tcp_info` of `linux/tcp.h` as far as `tcpi_notsent_bytes` (Linux 4.6).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    bytes: [u8; 8],
    rto_ato_mss: [u32; 4],
    unacked: u32,
    sacked_to_total_retrans: [u32; 19],
    pacing_rates: [u64; 2],
    bytes_acked: u64,
    bytes_received: u64,
    segs: [u32; 2],
    notsent_bytes: u32,
    min_rtt: u32,
}

sockopt_impl!(
    /// What the kernel knows of a TCP connection.
    TcpInfoOpt,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    TcpInfo
);

/// Whether the other side has acknowledged everything that was written to the socket.
pub fn all_acknowledged(fd: &impl AsFd) -> nix::Result<bool> {
    let info = TcpInfoOpt.get(fd)?;
    Ok(info.unacked == 0 && info.notsent_bytes == 0)
}

/// Whether the connection is established and the other side has acknowledged everything. The state is checked because
/// a connection that was reset has nothing unacknowledged either.
pub fn is_established_and_acknowledged(fd: &impl AsFd) -> nix::Result<bool> {
    let info = TcpInfoOpt.get(fd)?;
    let [state, ..] = info.bytes;
    Ok(state == TCP_ESTABLISHED && info.unacked == 0 && info.notsent_bytes == 0)
}

/// How many bytes the other side has acknowledged. `opened`: this host opened the connection, and the kernel counts
/// its SYN too.
pub fn acknowledged(fd: &impl AsFd, opened: bool) -> nix::Result<u64> {
    let info = TcpInfoOpt.get(fd)?;
    Ok(info.bytes_acked.saturating_sub(u64::from(opened)))
}

/// `linux/tcp_states.h`.
const TCP_ESTABLISHED: u8 = 1;

/// SO_LINGER with 0 s: closing sends a RST and discards unsent data.
pub fn reset_on_close(fd: &impl AsFd) -> nix::Result<()> {
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    sockopt::Linger.set(fd, &at_once)
}

/// Socket options of one BGP session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// TTL of sent packets; `None`: the kernel's default.
    pub ttl: Option<u8>,
    /// GTSM: the peer is at most so many hops away (RFC 5082).
    pub ttl_security: Option<u8>,
    /// TCP MD5 key (RFC 2385).
    pub password: Option<Vec<u8>>,
}

/// Sets the options before `connect`, so that the SYN carries them already.
pub fn set_session_options(
    fd: &impl AsFd,
    peer: SocketAddr,
    options: &SessionOptions,
) -> nix::Result<()> {
    let ipv4 = peer.is_ipv4();
    sockopt::TcpNoDelay.set(fd, &true)?;
    enable_keepalive(fd)?;
    set_dscp(fd, ipv4);
    if let Some(key) = &options.password {
        set_md5_key(fd, peer.ip(), key)?;
    }
    if let Some(ttl) = options.ttl_security.map_or(options.ttl, |_| Some(255)) {
        set_ttl(fd, ipv4, ttl)?;
    }
    match options.ttl_security {
        Some(hops) => set_min_ttl(fd, ipv4, min_ttl(hops)),
        None => Ok(()),
    }
}

/// TCP keepalive until the session is established and its hold timer takes over: a peer that loses power
/// before its OPEN would otherwise block the connection for four minutes.
fn enable_keepalive(fd: &impl AsFd) -> nix::Result<()> {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    sockopt::KeepAlive.set(fd, &true)?;
    sockopt::TcpKeepIdle.set(fd, &seconds(KEEPALIVE_INTERVAL))?;
    sockopt::TcpKeepInterval.set(fd, &seconds(KEEPALIVE_INTERVAL))?;
    set_user_timeout(fd, Some(UNACKED_TIMEOUT))
}

/// How often a peer is probed that has not sent its OPEN, and how long it may leave everything
/// unacknowledged.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const UNACKED_TIMEOUT: Duration = Duration::from_secs(15);

/// Options of an established session: no TCP keepalive, TCP_USER_TIMEOUT of the hold time (a peer that
/// acknowledges or reads nothing for so long has received no KEEPALIVE either), and at most a second between
/// retransmissions, so that queued bytes are sent soon after an outage of the path.
pub fn set_established(fd: &impl AsFd, hold_time: Option<Duration>) -> nix::Result<()> {
    sockopt::KeepAlive.set(fd, &false)?;
    set_user_timeout(fd, hold_time)?;
    if hold_time.is_some() {
        // Kernels without this option double the wait (exponential backoff). It is not set without a user timeout:
        // the kernel would then give up sooner, after `tcp_retries2` retransmissions.
        let _ = TcpRtoMaxMs.set(fd, &RETRANSMIT_EVERY);
    }
    Ok(())
}

/// Milliseconds; the minimum of TCP_RTO_MAX_MS.
const RETRANSMIT_EVERY: u32 = 1000;

/// Options of a listening socket. It sends with TTL 255, as peers with GTSM require.
pub fn set_listener_options(fd: &impl AsFd, ipv4: bool) -> nix::Result<()> {
    sockopt::ReuseAddr.set(fd, &true)?;
    if ipv4 {
        sockopt::IpFreebind.set(fd, &true)?;
    } else {
        sockopt::Ipv6V6Only.set(fd, &true)?;
        Ipv6Freebind.set(fd, &true)?;
    }
    set_dscp(fd, ipv4);
    set_ttl(fd, ipv4, 255)
}

/// The key of one peer, also on a socket that listens; an empty one removes it.
pub fn set_md5_key(fd: &impl AsFd, peer: IpAddr, key: &[u8]) -> nix::Result<()> {
    let key = TcpMd5Sig::new(peer, key).ok_or(nix::errno::Errno::EMSGSIZE)?;
    TcpMd5.set(fd, &key)
}

/// Packets with a smaller TTL are dropped; 0 drops none.
pub fn set_min_ttl(fd: &impl AsFd, ipv4: bool, least: u8) -> nix::Result<()> {
    if ipv4 {
        IpMinTtl.set(fd, &least)
    } else {
        Ipv6MinHopCount.set(fd, &libc::c_int::from(least))
    }
}

/// A packet from `hops` hops away, sent with 255, arrives with this.
pub fn min_ttl(hops: u8) -> u8 {
    255 - hops.saturating_sub(1)
}

/// TTL or hop limit of unicast packets.
pub fn set_ttl(fd: &impl AsFd, ipv4: bool, ttl: u8) -> nix::Result<()> {
    let ttl = libc::c_int::from(ttl);
    if ipv4 {
        sockopt::Ipv4Ttl.set(fd, &ttl)
    } else {
        sockopt::Ipv6Ttl.set(fd, &ttl)
    }
}

/// Sets DSCP CS6, network control (RFC 4594 §3.1). Errors are ignored.
fn set_dscp(fd: &impl AsFd, ipv4: bool) {
    let _ = if ipv4 {
        sockopt::Ipv4Tos.set(fd, &DSCP_CS6)
    } else {
        sockopt::Ipv6TClass.set(fd, &DSCP_CS6)
    };
}

/// DSCP CS6, shifted into the TOS byte.
const DSCP_CS6: libc::c_int = 0xc0;

/// How long written data may stay unacknowledged before the kernel gives the connection up; `None`
/// leaves it to the system's retransmissions.
fn set_user_timeout(fd: &impl AsFd, timeout: Option<Duration>) -> nix::Result<()> {
    let millis = timeout.map_or(0, |t| u32::try_from(t.as_millis()).unwrap_or(u32::MAX));
    sockopt::TcpUserTimeout.set(fd, &millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn structs_have_the_sizes_of_the_kernel_headers() {
        assert_eq!(size_of::<TcpMd5Sig>(), 216);
        assert_eq!(size_of::<TcpInfo>(), 152);
        assert_eq!(size_of::<Icmp6Blocked>(), 32);
    }

    #[test]
    fn session_options_are_taken_by_the_kernel() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(socket) = TcpListener::bind(addr) else {
                continue;
            };
            let peer = socket.local_addr().unwrap();
            let options = SessionOptions {
                ttl: Some(64),
                ttl_security: Some(1),
                password: None,
            };
            set_session_options(&socket, peer, &options).unwrap();
            if peer.is_ipv4() {
                assert_eq!(IpMinTtl.get(&socket).unwrap(), 255);
                assert_eq!(
                    sockopt::Ipv4Ttl.get(&socket).unwrap(),
                    255,
                    "GTSM sends with 255"
                );
            } else {
                assert_eq!(Ipv6MinHopCount.get(&socket).unwrap(), 255);
            }
        }
    }

    #[test]
    fn a_dead_peer_is_looked_for_until_there_is_a_session() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap();
        let stream = TcpStream::connect(peer).unwrap();
        let timeout = || sockopt::TcpUserTimeout.get(&stream).unwrap();
        set_session_options(&stream, peer, &SessionOptions::default()).unwrap();
        assert!(sockopt::KeepAlive.get(&stream).unwrap());
        assert_eq!(timeout(), 15_000);
        let patience = TcpRtoMaxMs.get(&stream);
        set_established(&stream, None).unwrap();
        assert!(!sockopt::KeepAlive.get(&stream).unwrap());
        assert_eq!(timeout(), 0, "a hold time of zero waits forever");
        assert_eq!(TcpRtoMaxMs.get(&stream), patience);
        set_established(&stream, Some(Duration::from_secs(90))).unwrap();
        assert_eq!(timeout(), 90_000);
        if patience.is_ok() {
            assert_eq!(TcpRtoMaxMs.get(&stream), Ok(1000));
        }
    }

    #[test]
    fn a_key_longer_than_the_kernel_takes_is_refused() {
        let peer = "192.0.2.1".parse().unwrap();
        assert!(TcpMd5Sig::new(peer, &[b'x'; 80]).is_some());
        assert!(TcpMd5Sig::new(peer, &[b'x'; 81]).is_none());
    }

    #[test]
    fn data_counts_as_acknowledged_once_the_other_side_has_it() {
        use std::io::Write;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        stream.write_all(b"route").unwrap();
        let start = std::time::Instant::now();
        while !all_acknowledged(&stream).unwrap() {
            assert!(start.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        }
        other.write_all(b"keepalive").unwrap();
        let count = || (acknowledged(&stream, true), acknowledged(&other, false));
        while count() != (Ok(5), Ok(9)) {
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}", count());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
