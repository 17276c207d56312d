//! sock_diag (`linux/sock_diag.h`, `linux/inet_diag.h`): lists sockets, reads the notifications of destroyed
//! ones, and builds the BPF filter that passes only those of our ports.
//!
//! ```text
//! inet_diag_req_v2                              inet_diag_msg
//!  0 family  1 protocol  2 ext  3 pad            0 family  1 state  2 timer  3 retrans
//!  4 states (one bit each)                       4 inet_diag_sockid
//!  8 inet_diag_sockid                           52 expires  56 rqueue  60 wqueue  64 uid  68 inode
//!
//! inet_diag_sockid: 0 sport  2 dport (big endian)  4 src[16]  20 dst[16]  36 interface  40 cookie
//! ```
//!
//! Left out: all extensions (memory, TCP_INFO, cgroups) and `SOCK_DESTROY`.

use super::attr::{AttrWriter, Attrs};
use super::bpf::{
    ACCEPT, BpfInstruction, DROP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, LOAD_HALF, op,
};
use super::message::{NLM_F_DUMP, Request};
use super::{AF_INET, AF_INET6, NetlinkError};
use crate::net::Family;
use crate::wire::{Reader, WireError};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// Asks for all sockets of a family and protocol (`IPPROTO_*`) in one of `states` (bits, `1 << TCP_*`)
/// whose source port is one of `ports`; no ports: all sockets.
///
/// The kernel filters by port, unless the ports make more than [`MAX_RANGES`] ranges: then it sends all
/// sockets, and the caller filters.
pub fn dump(
    family: Family,
    protocol: u8,
    states: u32,
    ports: &BTreeSet<u16>,
) -> Result<Request, NetlinkError> {
    let ranges = ranges(ports, 1);
    Request::new("list the sockets", SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, |w| {
        w.raw(&[family_number(family), protocol, 0, 0]);
        w.raw(&states.to_ne_bytes());
        w.raw(&[0; SOCKID]);
        if !ranges.is_empty() && ranges.len() <= MAX_RANGES {
            w.bytes(INET_DIAG_REQ_BYTECODE, &port_bytecode(&ranges, SOURCE_PORT));
        }
    })
}

/// Asks for the established TCP connections to a port of other hosts or of this one.
pub fn dump_connections_to(family: Family, port: u16) -> Result<Request, NetlinkError> {
    Request::new(
        "list the connections",
        SOCK_DIAG_BY_FAMILY,
        NLM_F_DUMP,
        |w| {
            w.raw(&[family_number(family), IPPROTO_TCP, 0, 0]);
            w.raw(&(1u32 << TCP_ESTABLISHED).to_ne_bytes());
            w.raw(&[0; SOCKID]);
            let bytecode = port_bytecode(&[port..=port], DESTINATION_PORT);
            w.bytes(INET_DIAG_REQ_BYTECODE, &bytecode);
        },
    )
}

/// Asks for the TCP listeners of both families on `ports` with one request: the older form
/// (`TCPDIAG_GETSOCK`, `struct inet_diag_req`), whose dump the kernel does not limit to a family.
///
/// ```text
/// 0 family  1 src_len  2 dst_len  3 ext  4 inet_diag_sockid  52 states  56 dbs
/// ```
pub fn dump_tcp_listeners(ports: &BTreeSet<u16>) -> Result<Request, NetlinkError> {
    let ranges = ranges(ports, 1);
    Request::new("list the TCP listeners", TCPDIAG_GETSOCK, NLM_F_DUMP, |w| {
        w.raw(&[AF_INET, 0, 0, 0]);
        w.raw(&[0; SOCKID]);
        w.raw(&(1u32 << TCP_LISTEN).to_ne_bytes());
        w.raw(&[0; 4]);
        if !ranges.is_empty() && ranges.len() <= MAX_RANGES {
            w.bytes(INET_DIAG_REQ_BYTECODE, &port_bytecode(&ranges, SOURCE_PORT));
        }
    })
}

/// Asks for one socket by its address, port, interface and cookie, which the kernel finds by hash where a dump walks all
/// buckets. It answers ENOENT where nothing is bound to that address and port, ESTALE where it finds another socket: also one
/// of the same address and port (`SO_REUSEPORT`).
///
/// The socket must not be connected, and of IPv6 not be bound to an IPv4 address.
pub fn find(protocol: u8, socket: &Socket) -> Result<Request, NetlinkError> {
    let address = |w: &mut AttrWriter, addr: IpAddr| {
        let mut bytes = [0; 16];
        match addr {
            IpAddr::V4(addr) => bytes[..4].copy_from_slice(&addr.octets()),
            IpAddr::V6(addr) => bytes = addr.octets(),
        }
        w.raw(&bytes);
    };
    let any = match socket.family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let own = (socket.source_port, socket.source);
    // "src and dst are swapped for historical reasons" (udp_dump_one).
    let [source, destination] = if protocol == IPPROTO_UDP {
        [(0, any), own]
    } else {
        [own, (0, any)]
    };
    Request::new("find the socket", SOCK_DIAG_BY_FAMILY, 0, |w| {
        w.raw(&[family_number(socket.family), protocol, 0, 0]);
        w.raw(&(1u32 << socket.state).to_ne_bytes());
        w.raw(&source.0.to_be_bytes());
        w.raw(&destination.0.to_be_bytes());
        address(w, source.1);
        address(w, destination.1);
        w.raw(&socket.interface.to_ne_bytes());
        // The lower word first.
        let [a, b, c, d, e, f, g, h] = socket.cookie.to_be_bytes();
        w.raw(&u32::from_be_bytes([e, f, g, h]).to_ne_bytes());
        w.raw(&u32::from_be_bytes([a, b, c, d]).to_ne_bytes());
    })
}

/// A socket, in the answer to [`dump`] or in a notification of its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    pub family: Family,
    /// `TCP_*`; an unconnected UDP socket is in `TCP_CLOSE`.
    pub state: u8,
    pub source_port: u16,
    /// 0: not connected.
    pub destination_port: u16,
    pub source: IpAddr,
    /// Unspecified: not connected.
    pub destination: IpAddr,
    /// The interface it is bound to, or 0.
    pub interface: u32,
    /// Identifies the socket until the next boot; the kernel never reuses a cookie.
    pub cookie: u64,
    /// Of a listener: connections that wait to be accepted; else bytes to read.
    pub rqueue: u32,
    /// Of a listener: how many may wait (its backlog); else bytes not yet acknowledged.
    pub wqueue: u32,
    pub uid: u32,
    /// As in `/proc/PID/fd` (`socket:[N]`); 0 when no descriptor is left.
    pub inode: u32,
    /// `IPPROTO_*`, which only notifications carry.
    pub protocol: Option<u8>,
}

impl Socket {
    /// Reads an `inet_diag_msg` and the attributes behind it.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(payload);
        let [family, state, _timer, _retrans] = r.array()?;
        let family = match family {
            AF_INET6 => Family::Ipv6,
            _ => Family::Ipv4,
        };
        let (source_port, destination_port) = (r.u16()?, r.u16()?);
        let source = address(family, r.array()?);
        let destination = address(family, r.array()?);
        let interface = r.u32_ne()?;
        let cookie = u64::from(r.u32_ne()?) | u64::from(r.u32_ne()?) << 32;
        let _expires = r.u32_ne()?;
        let mut socket = Self {
            family,
            state,
            source_port,
            destination_port,
            source,
            destination,
            interface,
            cookie,
            rqueue: r.u32_ne()?,
            wqueue: r.u32_ne()?,
            uid: r.u32_ne()?,
            inode: r.u32_ne()?,
            protocol: None,
        };
        for attr in Attrs::new(r.rest()) {
            let attr = attr?;
            if attr.kind == INET_DIAG_PROTOCOL {
                socket.protocol = Some(attr.u8()?);
            }
        }
        Ok(socket)
    }

    /// Whether more connections wait than the listener allows, so that new ones are dropped
    /// (`sk_acceptq_is_full`).
    pub fn accept_queue_is_full(&self) -> bool {
        self.state == TCP_LISTEN && self.rqueue > self.wqueue
    }
}

/// The address of a socket, an IPv4 one also where an IPv6 socket has it mapped.
fn address(family: Family, bytes: [u8; 16]) -> IpAddr {
    match family {
        Family::Ipv6 => IpAddr::from(bytes).to_canonical(),
        Family::Ipv4 => {
            let [a, b, c, d, ..] = bytes;
            Ipv4Addr::new(a, b, c, d).into()
        }
    }
}

/// The filter for `SO_ATTACH_FILTER` on a socket subscribed to the destroy groups. It passes
/// notifications of sockets whose source port is one of `ports` and that have no destination port (listeners,
/// unconnected UDP sockets, and connections that were not accepted), so that a host that closes thousands of
/// connections a second does not wake us. With `clients` it also passes those of connected sockets of these ports.
///
/// Offsets count from the `nlmsghdr`. TCP and UDP are not distinguished. If the ports make more than
/// [`MAX_FILTER_RANGES`] ranges, the closest are joined: the filter then passes the ports between them too.
pub fn destroy_filter(ports: &BTreeSet<u16>, clients: bool) -> Vec<BpfInstruction> {
    let ranges = (1..=u16::MAX)
        .map(|distance| ranges(ports, distance))
        .find(|ranges| ranges.len() <= MAX_FILTER_RANGES);
    let mut program = unconnected_filter();
    // The port ranges replace its final accept.
    program.pop();
    if clients {
        program.clear();
    }
    program.push(op(LOAD_HALF, 0, 0, OFFSET_SPORT));
    // Each range has its own accept: a jump reaches no further than 255 instructions.
    for range in ranges.iter().flatten() {
        program.push(op(JUMP_GREATER_EQUAL, 0, 2, u32::from(*range.start())));
        program.push(op(JUMP_GREATER, 1, 0, u32::from(*range.end())));
        program.push(ACCEPT);
    }
    program.push(DROP);
    program
}

/// The filter that passes notifications of all sockets without a destination port.
pub fn unconnected_filter() -> Vec<BpfInstruction> {
    vec![
        op(LOAD_HALF, 0, 0, OFFSET_DPORT),
        op(JUMP_EQUAL, 1, 0, 0),
        DROP,
        ACCEPT,
    ]
}

/// The program for `INET_DIAG_REQ_BYTECODE`: "the port is in one of these ranges", laid out as by `ss`, with the
/// opcodes "at least" and "at most" of the source or the destination port. Each instruction jumps ahead by `yes`
/// bytes or by `no`; a jump exactly to the end accepts the socket, one four bytes past it rejects it.
fn port_bytecode(ranges: &[RangeInclusive<u16>], [at_least, at_most]: [u8; 2]) -> Vec<u8> {
    let mut code = Vec::new();
    let mut op = |kind: u8, yes: u8, no: u16| {
        code.extend_from_slice(&[kind, yes]);
        code.extend_from_slice(&no.to_ne_bytes());
    };
    for (index, range) in ranges.iter().enumerate() {
        if index > 0 {
            // The previous range matched: jump to the next such jump, or to the end.
            op(INET_DIAG_BC_JMP, 4, 20);
        }
        op(at_least, 8, 20);
        op(INET_DIAG_BC_NOP, 0, *range.start());
        op(at_most, 8, 12);
        op(INET_DIAG_BC_NOP, 0, *range.end());
    }
    code
}

/// Ranges of ports that are at most `distance` apart; 1: no range has another port.
fn ranges(ports: &BTreeSet<u16>, distance: u16) -> Vec<RangeInclusive<u16>> {
    let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
    for &port in ports {
        match ranges.last_mut() {
            Some(last) if port - last.end() <= distance => *last = *last.start()..=port,
            _ => ranges.push(port..=port),
        }
    }
    ranges
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::Ipv4 => AF_INET,
        Family::Ipv6 => AF_INET6,
    }
}

/// Port ranges in the filter of one dump: the kernel's check of the program takes quadratic time in its length.
pub const MAX_RANGES: usize = 256;
/// Port ranges in a notification filter. The kernel counts two programs against `net.core.optmem_max` (20 KiB by
/// default on older kernels) while one replaces the other, with 32 bytes for a range.
pub const MAX_FILTER_RANGES: usize = 256;

/// TCP.
pub const IPPROTO_TCP: u8 = 6;
/// UDP.
pub const IPPROTO_UDP: u8 = 17;
/// An established connection.
pub const TCP_ESTABLISHED: u8 = 1;
/// Closed; also a bound UDP socket.
pub const TCP_CLOSE: u8 = 7;
/// A listener.
pub const TCP_LISTEN: u8 = 10;

/// Multicast groups of the notifications of destroyed sockets: TCP and UDP over IPv4, then over IPv6.
pub const DESTROY_GROUPS: [u32; 4] = [1, 2, 3, 4];

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const TCPDIAG_GETSOCK: u16 = 18;
const SOCKID: usize = 48;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_PROTOCOL: u16 = 10;
const INET_DIAG_BC_NOP: u8 = 0;
const INET_DIAG_BC_JMP: u8 = 1;
/// INET_DIAG_BC_S_GE and INET_DIAG_BC_S_LE.
const SOURCE_PORT: [u8; 2] = [2, 3];
/// INET_DIAG_BC_D_GE and INET_DIAG_BC_D_LE.
const DESTINATION_PORT: [u8; 2] = [4, 5];
/// Where a notification has its ports, from the `nlmsghdr` on.
const OFFSET_SPORT: u32 = 20;
const OFFSET_DPORT: u32 = 22;

#[cfg(test)]
mod tests {
    use super::super::bpf::passes;
    use super::*;
    use crate::netlink::message::{Messages, Reply};

    /// What `ss` sent and what it was answered, one datagram each.
    fn golden(text: &str) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        let mut into_sent = false;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (mark, hex) = line.split_at(2);
            match mark {
                "> " => sent.push(Vec::new()),
                "< " => received.push(Vec::new()),
                _ => {}
            }
            into_sent = mark == "> " || (mark == "  " && into_sent);
            let datagrams = if into_sent { &mut sent } else { &mut received };
            let bytes = (0..hex.len() / 2)
                .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex digits"));
            datagrams.last_mut().expect("a mark first").extend(bytes);
        }
        (sent, received)
    }

    fn sockets(datagrams: &[Vec<u8>]) -> Vec<Socket> {
        let messages = datagrams.iter().flat_map(|d| Messages::new(d));
        messages
            .filter_map(|m| match m.unwrap().reply().unwrap() {
                Reply::Data(payload) => Some(Socket::decode(payload).unwrap()),
                _ => None,
            })
            .collect()
    }

    const ALL_STATES: u32 = 0xfff;
    const SS_LISTENING: u32 = 1 << TCP_LISTEN | 1 << TCP_CLOSE;
    const SS_SEQ: u32 = 123_456;

    const TCP4: &str = include_str!("../../tests/data/netlink/ss-tcp4-listen.hex");
    const TCP6: &str = include_str!("../../tests/data/netlink/ss-tcp6-listen.hex");
    const UDP4_TWO: &str = include_str!("../../tests/data/netlink/ss-udp4-two.hex");
    const UDP4_RANGES2: &str = include_str!("../../tests/data/netlink/ss-udp4-ranges2.hex");
    const UDP4_RANGES3: &str = include_str!("../../tests/data/netlink/ss-udp4-ranges3.hex");
    const UDP6_RANGE: &str = include_str!("../../tests/data/netlink/ss-udp6-range.hex");
    const EVENTS: &str = include_str!("../../tests/data/netlink/ss-events.hex");

    const TCP4_CONNECTIONS: &str = include_str!("../../tests/data/netlink/ss-tcp4-connections.hex");

    #[test]
    fn connections_to_a_port_are_listed_with_both_their_ends() {
        let (sent, received) = golden(TCP4_CONNECTIONS);
        let request = dump_connections_to(Family::Ipv4, 179).unwrap();
        assert_eq!(vec![request.encode(SS_SEQ)], sent);
        let [socket] = &sockets(&received)[..] else {
            panic!("one connection");
        };
        assert_eq!(socket.state, TCP_ESTABLISHED);
        assert_eq!((socket.source_port, socket.destination_port), (40179, 179));
        let ends = (socket.source, socket.destination);
        let addr = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(ends, (addr("127.0.0.2"), addr("127.0.0.1")));
        assert_ne!(socket.inode, 0);
    }

    #[test]
    fn requests_are_byte_for_byte_what_ss_sends() {
        use Family::{Ipv4, Ipv6};
        let ports = |list: &[RangeInclusive<u16>]| list.iter().cloned().flatten().collect();
        let two = [53..=60, 8053..=8053];
        let three = [53..=53, 80..=90, 8053..=8053];
        let cases: [(&str, Family, u8, u32, BTreeSet<u16>); 5] = [
            (TCP4, Ipv4, IPPROTO_TCP, SS_LISTENING, ports(&[])),
            (TCP6, Ipv6, IPPROTO_TCP, SS_LISTENING, ports(&[])),
            (UDP6_RANGE, Ipv6, IPPROTO_UDP, ALL_STATES, ports(&two[..1])),
            (UDP4_RANGES2, Ipv4, IPPROTO_UDP, ALL_STATES, ports(&two)),
            (UDP4_RANGES3, Ipv4, IPPROTO_UDP, ALL_STATES, ports(&three)),
        ];
        for (text, family, protocol, states, ports) in cases {
            let (sent, _) = golden(text);
            let request = dump(family, protocol, states, &ports).unwrap();
            assert_eq!(vec![request.encode(SS_SEQ)], sent, "{ports:?}");
        }
    }

    /// Written by hand from `linux/inet_diag.h`: no current tool sends it.
    #[test]
    fn the_older_request_has_the_states_behind_the_socket() {
        let request = dump_tcp_listeners(&[80].into()).unwrap().encode(7);
        let (header, body) = request.split_at(16);
        assert_eq!(header[..4], (16 + 60 + 4 + 16u32).to_ne_bytes());
        assert_eq!(header[4..6], 18u16.to_ne_bytes());
        assert_eq!(body[..4], [AF_INET, 0, 0, 0]);
        assert_eq!(body[52..60], [0, 4, 0, 0, 0, 0, 0, 0]);
        let newer = dump(Family::Ipv4, IPPROTO_TCP, 1 << TCP_LISTEN, &[80].into());
        assert!(
            newer.unwrap().encode(7).ends_with(&body[60..]),
            "the filter"
        );
    }

    #[test]
    fn answers_to_ss_are_read() {
        let listeners = sockets(&golden(TCP4).1);
        let [listener] = listeners.as_slice() else {
            panic!("{listeners:?}")
        };
        assert_eq!((listener.state, listener.source_port), (TCP_LISTEN, 5000));
        assert_eq!((listener.rqueue, listener.wqueue), (0, 7));
        assert_eq!((listener.cookie, listener.inode), (4127, 17332));
        assert_eq!(listener.source, IpAddr::from([0, 0, 0, 0]));

        let v6 = sockets(&golden(TCP6).1);
        assert_eq!((v6[0].family, v6[0].source_port), (Family::Ipv6, 5001));

        let udp = sockets(&golden(UDP4_TWO).1);
        let bound: Vec<_> = udp
            .iter()
            .map(|s| (s.state, s.source_port, s.source))
            .collect();
        assert_eq!(
            bound,
            [
                (TCP_CLOSE, 8053, IpAddr::from([0, 0, 0, 0])),
                (TCP_CLOSE, 53, IpAddr::from([127, 0, 0, 53]))
            ]
        );
        let v6 = sockets(&golden(UDP6_RANGE).1);
        assert_eq!(v6[0].source.to_string(), "::1");
    }

    #[test]
    fn notifications_name_the_protocol_and_keep_the_port() {
        let (_, received) = golden(EVENTS);
        let ends: Vec<_> = sockets(&received)
            .iter()
            .map(|s| (s.protocol, s.source_port, s.destination_port))
            .collect();
        let udp = Some(IPPROTO_UDP);
        assert_eq!(
            ends,
            [(udp, 8053, 0), (udp, 53, 0), (Some(IPPROTO_TCP), 5000, 0)]
        );
    }

    #[test]
    fn every_truncation_of_an_answer_is_an_error_and_never_a_panic() {
        for text in [TCP4, TCP6, UDP4_TWO, UDP6_RANGE, EVENTS] {
            let (_, received) = golden(text);
            assert!(!received.is_empty(), "an empty golden");
            for datagram in received {
                let payload = &datagram[16..];
                for end in 0..payload.len().min(72) {
                    assert!(Socket::decode(&payload[..end]).is_err());
                }
                for end in 72..payload.len() {
                    let _ = Socket::decode(&payload[..end]);
                }
            }
        }
    }

    #[test]
    fn mapped_addresses_are_ipv4_addresses() {
        let mut bytes = [0; 16];
        bytes[10..].copy_from_slice(&[0xff, 0xff, 127, 0, 0, 53]);
        assert_eq!(address(Family::Ipv6, bytes), IpAddr::from([127, 0, 0, 53]));
    }

    #[test]
    fn too_many_ranges_fall_back_to_everything() {
        let ports: BTreeSet<u16> = (0..3000).map(|i| 2 * i + 1).collect();
        let all = dump(Family::Ipv4, IPPROTO_UDP, 1, &BTreeSet::new()).unwrap();
        assert_eq!(dump(Family::Ipv4, IPPROTO_UDP, 1, &ports).unwrap(), all);
        let filter = destroy_filter(&ports, false);
        assert!(run(&filter, 4, 0) && !run(&filter, 5, 80));
    }

    #[test]
    fn many_ports_pass_the_filter_with_and_without_clients() {
        // Pairs of ports in every hundred: 655 pairs, which 256 ranges do not hold.
        let ports: BTreeSet<u16> = (0..655).flat_map(|i| [100 * i + 1, 100 * i + 40]).collect();
        for clients in [false, true] {
            let filter = destroy_filter(&ports, clients);
            assert!(filter.len() <= 4 + 3 * MAX_FILTER_RANGES);
            for port in &ports {
                assert!(run(&filter, *port, 0), "{port}");
                assert_eq!(run(&filter, *port, 40000), clients, "{port}");
            }
            assert!(!run(&filter, 0, 0) && !run(&filter, 65535, 0));
        }
        // One pair of neighbors too many: only these are joined.
        let ports: BTreeSet<u16> = (0..256).map(|i| 100 * i + 1).chain([3]).collect();
        let passed = |port: &u16| run(&destroy_filter(&ports, true), *port, 40000);
        let others: Vec<u16> = (0..1000)
            .filter(|port| !ports.contains(port))
            .filter(passed)
            .collect();
        assert_eq!(others, [2]);
    }

    /// Whether a filter passes a message with these ports.
    fn run(program: &[BpfInstruction], sport: u16, dport: u16) -> bool {
        let ports = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
        passes(program, &[vec![0; 20], ports].concat())
    }

    #[test]
    fn the_filter_lets_through_our_ports_without_a_destination() {
        let ports: BTreeSet<u16> = [53, 80, 81, 82, 443, 65535].into();
        let filter = destroy_filter(&ports, false);
        for port in 0..=u16::MAX {
            assert_eq!(run(&filter, port, 0), ports.contains(&port), "{port}");
            assert!(!run(&filter, port, 40000));
        }
        let clients = destroy_filter(&[80].into(), true);
        assert!(run(&clients, 80, 5) && run(&clients, 80, 0) && !run(&clients, 81, 5));
        let none = destroy_filter(&BTreeSet::new(), false);
        assert!(!run(&none, 0, 0) && !run(&none, 53, 0));
        let odd: BTreeSet<u16> = (0..1000).map(|i| 2 * i + 1).collect();
        let filter = destroy_filter(&odd, false);
        assert!(filter.len() <= 4096);
        assert!(run(&filter, 1999, 0) && !run(&filter, 2000, 0));
    }
}
