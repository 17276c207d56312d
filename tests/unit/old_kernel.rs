//! What runs on kernels older than the one at hand: requests go to the real kernel through a proxy that
//! takes from them, and from the answers, what those kernels do not know. A socket to the proxy has none
//! of netlink's options either: no strict check, no sentence in an error, no cap on what it repeats.

use super::kernel::Kernel;
use super::probes::ProbeCounters;
use super::socket::Socket;
use super::vips::{Added, AddressChange, AddressChanged, Removed, VipAddress};
use crate::net::Prefix;
use crate::netlink::address::{RTM_DELADDR, RTM_NEWADDR};
use crate::netlink::attr::Attrs;
use crate::netlink::message::{Message, Messages};
use crate::netlink::nftables::probes::{Counted, Probe};
use crate::netlink::nftables::{IPPROTO_UDP, NatChange, NatRule};
use crate::netlink::{EINVAL, ENOENT, EOPNOTSUPP, NetlinkError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, UnixAddr, bind, recv,
    send, socket, socketpair,
};
use sidecast_lab::run;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What a kernel lacks or refuses.
#[derive(Clone, Copy, Default)]
struct Age {
    /// Before 5.18: no `IFA_PROTO`.
    no_marks: bool,
    /// Before 5.12: how it refuses the owner flag.
    no_owner: Option<i32>,
    /// Not an age: the first removal of an address fails.
    busy_once: bool,
}

/// A socket to a kernel of that age.
fn old(protocol: SockProtocol, age: Age) -> Socket {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap();
    bind(theirs.as_raw_fd(), &as_if_the_kernels()).unwrap();
    let flags = SockFlag::SOCK_CLOEXEC;
    let real = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).unwrap();
    bind(real.as_raw_fd(), &NetlinkAddr::new(0, 0)).unwrap();
    std::thread::spawn(move || pass_on(&theirs, &real, age));
    Socket::with_socket(ours)
}

/// A name that reads as port 0 where one of netlink is expected: it is looked at of every datagram.
fn as_if_the_kernels() -> UnixAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let mut name = [0; 9];
    name[5..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_ne_bytes());
    UnixAddr::new_abstract(&name).unwrap()
}

/// Until our end is closed; the real socket goes then, as it would have.
fn pass_on(ours: &OwnedFd, real: &OwnedFd, mut age: Age) {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let interest = PollFlags::POLLIN;
        let mut fds = [
            PollFd::new(ours.as_fd(), interest),
            PollFd::new(real.as_fd(), interest),
        ];
        poll(&mut fds, PollTimeout::NONE).unwrap();
        let ready = fds.map(|fd| fd.any().unwrap_or(false));
        if ready[1] {
            let length = recv(real.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
            let answer = age.answer(&buffer[..length]);
            // Whoever asked may be gone.
            let _ = send(ours.as_raw_fd(), &answer, MsgFlags::MSG_NOSIGNAL);
        } else if ready[0] {
            let length = recv(ours.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap_or(0);
            if length == 0 {
                return;
            }
            match age.refusal(&buffer[..length]) {
                Some(refusal) => drop(send(ours.as_raw_fd(), &refusal, MsgFlags::MSG_NOSIGNAL)),
                None => {
                    let request = age.request(&buffer[..length]);
                    send(real.as_raw_fd(), &request, MsgFlags::empty()).unwrap();
                }
            }
        }
    }
}

impl Age {
    fn request(self, datagram: &[u8]) -> Vec<u8> {
        self.answer(datagram)
    }

    /// The datagram without what this kernel does not know.
    fn answer(self, datagram: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for message in Messages::new(datagram) {
            let message = message.unwrap();
            let payload = match message.kind == RTM_NEWADDR && self.no_marks {
                true => without(message.payload, IFA_PROTO),
                false => message.payload.to_vec(),
            };
            out.extend(encoded(&message, message.kind, &payload));
        }
        out
    }

    /// What it says to a request that it does not take.
    fn refusal(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        for message in Messages::new(datagram) {
            let message = message.unwrap();
            let owner =
                message.kind == NFT_NEWTABLE && flags_of_table(message.payload) & OWNER != 0;
            let busy = message.kind == RTM_DELADDR && std::mem::take(&mut self.busy_once);
            let errno = self.no_owner.filter(|_| owner).or(busy.then_some(EBUSY));
            if let Some(errno) = errno {
                // The errno, and the request as it came.
                let mut payload = (-errno).to_ne_bytes().to_vec();
                payload.extend(encoded(&message, message.kind, message.payload));
                return Some(encoded(&message, NLMSG_ERROR, &payload));
            }
        }
        None
    }
}

fn encoded(message: &Message<'_>, kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(message.flags.to_ne_bytes());
    bytes.extend(message.seq.to_ne_bytes());
    bytes.extend(message.port.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The payload of an address message without one attribute.
fn without(payload: &[u8], kind: u16) -> Vec<u8> {
    let (head, attrs) = payload.split_at(8);
    let mut bytes = head.to_vec();
    for attr in Attrs::new(attrs) {
        let attr = attr.unwrap();
        if attr.kind != kind {
            bytes.extend(u16::try_from(4 + attr.bytes().len()).unwrap().to_ne_bytes());
            bytes.extend(attr.kind.to_ne_bytes());
            bytes.extend(attr.bytes());
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    bytes
}

fn flags_of_table(payload: &[u8]) -> u32 {
    let attrs = Attrs::new(payload.get(4..).unwrap_or_default());
    let flags = attrs.flatten().find(|attr| attr.kind == NFTA_TABLE_FLAGS);
    flags.map_or(0, |attr| attr.u32_be().unwrap())
}

/// Runs a test in a network namespace of its own, with a loopback.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    sidecast_lab::in_namespace(|| {
        run("ip link set lo up");
        test();
    });
}

fn kernel(age: Age) -> Kernel {
    Kernel::with_socket(
        old(SockProtocol::NetlinkRoute, age),
        old(SockProtocol::NetlinkNetFilter, age),
    )
}

const UNMARKED: Age = Age {
    no_marks: true,
    no_owner: None,
    busy_once: false,
};

fn vip(prefix: &str, lifetime: Option<u64>) -> VipAddress {
    VipAddress {
        interface: "lo".to_owned(),
        prefix: prefix.parse().unwrap(),
        label: Some("dns".to_owned()),
        lifetime: lifetime.map(Duration::from_secs),
    }
}

/// Removes a VIP from lo.
async fn remove(kernel: &mut Kernel, prefix: Prefix) -> Result<Removed, NetlinkError> {
    let change = AddressChange::Remove("lo".to_owned(), prefix);
    match kernel.change_addresses(&[change]).await.pop() {
        Some(Ok(AddressChanged::Removed(removed))) => Ok(removed),
        Some(Err(error)) => Err(error),
        other => panic!("{other:?}"),
    }
}

const VIPS: [&str; 2] = ["192.0.2.53/32", "2001:db8::53/128"];

#[test]
fn without_marks_a_vip_is_added_renewed_and_removed() {
    in_namespace(|| {
        smol::block_on(async {
            for lifetime in [Some(300), None] {
                let mut kernel = kernel(UNMARKED);
                for prefix in VIPS {
                    let vip = vip(prefix, lifetime);
                    assert_eq!(kernel.add_address(&vip).await, Ok(Added::Done));
                    assert!(!run("ip -d addr show dev lo").contains("proto 0x53"));
                    assert_eq!(kernel.add_address(&vip).await, Ok(Added::Done), "renewed");
                    let removed = remove(&mut kernel, vip.prefix).await;
                    assert_eq!(removed, Ok(Removed::Done), "{prefix} {lifetime:?}");
                }
            }
        });
    });
}

/// Nothing but our own memory says that it is ours.
#[test]
fn without_marks_a_removal_that_failed_is_made_up_for() {
    in_namespace(|| {
        smol::block_on(async {
            let age = Age {
                busy_once: true,
                ..UNMARKED
            };
            for prefix in VIPS {
                let mut kernel = kernel(age);
                let vip = VipAddress {
                    label: None,
                    ..vip(prefix, None)
                };
                assert_eq!(kernel.add_address(&vip).await, Ok(Added::Done));
                let refused = remove(&mut kernel, vip.prefix).await;
                assert_eq!(refused.unwrap_err().errno(), Some(EBUSY));
                let removed = remove(&mut kernel, vip.prefix).await;
                assert_eq!(removed, Ok(Removed::Done), "{prefix}");
            }
        });
    });
}

#[test]
fn without_marks_what_was_left_is_adopted_by_label_and_shape() {
    in_namespace(|| {
        smol::block_on(async {
            let mut killed = kernel(UNMARKED);
            for prefix in VIPS {
                assert_eq!(
                    killed.add_address(&vip(prefix, Some(60))).await,
                    Ok(Added::Done)
                );
            }
            run("ip addr add 192.0.2.54/32 dev lo");
            run("ip addr add 2001:db8::54/128 dev lo nodad");
            let mut next = kernel(UNMARKED);
            for prefix in VIPS {
                let added = next.add_address(&vip(prefix, Some(300))).await;
                assert_eq!(added, Ok(Added::Adopted), "{prefix}");
            }
            for theirs in ["192.0.2.54/32", "2001:db8::54/128"] {
                let vip = vip(theirs, Some(300));
                assert_eq!(next.add_address(&vip).await, Ok(Added::Foreign), "{theirs}");
                let removed = remove(&mut next, vip.prefix).await;
                assert_eq!(removed, Ok(Removed::Foreign), "{theirs}");
            }
        });
    });
}

/// Also says that the tables read the same where the kernel does not heed what a dump asks for.
#[test]
fn without_a_strict_check_the_snapshot_is_the_same() {
    in_namespace(|| {
        for command in [
            "ip link add v0 type veth peer name v1",
            "ip link set v0 up",
            "ip link set v1 up",
            "ip addr add 10.0.0.2/24 dev v0",
            "ip addr add 2001:db8:1::2/64 dev v0 nodad",
            "ip route add default via 10.0.0.1",
            "ip -6 route add default via 2001:db8:1::1 dev v0",
            "ip neigh add fe80::1 dev v0 lladdr 02:00:00:00:00:01 router nud permanent",
            "ip addr add 192.0.2.53/32 dev lo",
        ] {
            run(command);
        }
        smol::block_on(async {
            let targets = BTreeSet::from(["10.0.0.9".parse().unwrap()]);
            let begun = Instant::now();
            loop {
                let real = Kernel::open().unwrap().snapshot(&targets).await.unwrap();
                let seen = kernel(Age::default()).snapshot(&targets).await.unwrap();
                assert_eq!(real.routes.len(), 2);
                if real == seen {
                    break;
                }
                // The links have just come up: multicast groups join, addresses are probed.
                if begun.elapsed() > Duration::from_secs(20) {
                    assert_eq!(real, seen);
                }
            }
        });
    });
}

#[test]
fn without_sentences_an_error_still_says_what_is_wrong() {
    in_namespace(|| {
        run("sysctl -qw net.ipv6.conf.lo.disable_ipv6=1");
        smol::block_on(async {
            let mut kernel = kernel(Age::default());
            let error = kernel.add_address(&vip(VIPS[1], None)).await.unwrap_err();
            assert!(error.to_string().contains("disable_ipv6"), "{error}");
            let nowhere = VipAddress {
                interface: "vip0".to_owned(),
                ..vip(VIPS[0], None)
            };
            let error = kernel.add_address(&nowhere).await.unwrap_err();
            assert!(
                error.to_string().contains("no such interface: vip0"),
                "{error}"
            );
            // And the next answer is not taken for this one's.
            assert_eq!(
                kernel.add_address(&vip(VIPS[0], None)).await,
                Ok(Added::Done)
            );
        });
    });
}

fn nat(rules: &[(&str, u16)]) -> BTreeSet<NatRule> {
    let rule = |(vip, listen): &(&str, u16)| NatRule {
        vip: vip.parse().unwrap(),
        protocol: IPPROTO_UDP,
        listen: *listen,
        target: "10.0.0.2".parse().unwrap(),
        destination: 8053,
        counter: format!("dns_{listen}"),
    };
    rules.iter().map(rule).collect()
}

/// Changes rules of the table "sidecast".
async fn change_nat(
    kernel: &mut Kernel,
    remove: &[(&str, u16)],
    add: &[(&str, u16)],
) -> Result<(), NetlinkError> {
    let (add, remove) = (nat(add), nat(remove));
    kernel
        .update_nat("sidecast", NatChange { add, remove })
        .await
}

fn rules() -> usize {
    run("nft list ruleset").matches("dnat to").count()
}

/// Before Linux 5.12 the table is an ordinary one: it outlives a killed process, and the next replaces it.
#[test]
fn without_the_owner_flag_the_table_is_ordinary_and_replaced_at_start() {
    in_namespace(|| {
        for errno in [EINVAL, EOPNOTSUPP] {
            let age = Age {
                no_owner: Some(errno),
                ..Age::default()
            };
            smol::block_on(async {
                let mut killed = kernel(age);
                change_nat(&mut killed, &[], &[(VIPS[0], 53)])
                    .await
                    .unwrap();
                let ruleset = run("nft list ruleset");
                assert!(rules() == 2 && !ruleset.contains("owner"), "{ruleset}");
                change_nat(&mut killed, &[], &[(VIPS[0], 54)])
                    .await
                    .unwrap();
                assert_eq!(rules(), 4, "refilled in place");
                killed.persist_nat().await.unwrap();
                drop(killed);
                assert_eq!(rules(), 4);
                let mut next = kernel(age);
                assert!(next.has_stale_nat("sidecast").await);
                change_nat(&mut next, &[], &[(VIPS[0], 55)]).await.unwrap();
                assert_eq!(rules(), 2, "one table, and its own rules alone");
                assert_eq!(next.nat_counters().await.unwrap().len(), 1);
                change_nat(&mut next, &[(VIPS[0], 55)], &[]).await.unwrap();
                assert_eq!(run("nft list ruleset").trim(), "");
            });
        }
    });
}

/// Without an owner of the table others can change it: that is noticed when it is looked at, and at the next
/// change at the latest where what has to change is gone.
#[test]
fn what_others_change_in_an_ordinary_table_is_put_back() {
    in_namespace(|| {
        let age = Age {
            no_owner: Some(EOPNOTSUPP),
            ..Age::default()
        };
        smol::block_on(async {
            let mut kernel = kernel(age);
            let both = [(VIPS[0], 53), (VIPS[0], 54)];
            change_nat(&mut kernel, &[], &both).await.unwrap();
            assert!(kernel.is_nat_unowned());
            assert!(!kernel.verify_nat().await.unwrap(), "as it was made");
            for foreign in [
                "nft flush chain ip sidecast output",
                "nft flush ruleset",
                "nft flush table ip sidecast",
                "nft insert rule ip sidecast prerouting counter",
            ] {
                run(foreign);
                assert!(kernel.verify_nat().await.unwrap(), "{foreign}");
                assert_eq!(rules(), 4, "{foreign}");
                assert!(!kernel.verify_nat().await.unwrap(), "{foreign}");
            }
            for (port, foreign) in [
                (55, "nft flush chain ip sidecast output"),
                (56, "nft flush ruleset"),
                (57, "nft delete table ip sidecast"),
            ] {
                run(foreign);
                let (old, new) = ((VIPS[0], port - 1), (VIPS[0], port));
                change_nat(&mut kernel, &[old], &[new]).await.unwrap();
                assert_eq!(rules(), 4, "{foreign}");
                let table = run("nft list table ip sidecast");
                assert_eq!(table.matches(&format!("dport {port}")).count(), 2);
            }
            change_nat(&mut kernel, &[both[0], (VIPS[0], 57)], &[])
                .await
                .unwrap();
            assert_eq!(run("nft list ruleset").trim(), "");
        });
    });
}

/// What is wrong besides is not hidden by the second attempt.
#[test]
fn a_rule_that_no_kernel_takes_is_refused_with_and_without_the_owner_flag() {
    in_namespace(|| {
        let good = [(VIPS[0], 53)];
        let mut rule = nat(&good).pop_first().unwrap();
        rule.counter = "x".repeat(300);
        let bad = NatChange {
            add: [rule].into(),
            ..NatChange::default()
        };
        for no_owner in [None, Some(EOPNOTSUPP)] {
            let mut kernel = kernel(Age {
                no_owner,
                ..Age::default()
            });
            smol::block_on(async {
                kernel
                    .update_nat("sidecast", bad.clone())
                    .await
                    .unwrap_err();
                assert_eq!(run("nft list ruleset").trim(), "");
                change_nat(&mut kernel, &[], &good).await.unwrap();
                change_nat(&mut kernel, &good, &[]).await.unwrap();
            });
        }
    });
}

/// Where nobody owns the table others can delete it, or its rules: nothing that was sent then is taken for lost.
#[test]
fn probes_are_not_counted_after_another_program_deleted_the_table_or_its_rules() {
    in_namespace(|| {
        let age = Age {
            no_owner: Some(EOPNOTSUPP),
            ..Age::default()
        };
        let probe = Probe {
            vip: "192.0.2.53".parse().unwrap(),
            tag: 1,
        };
        let probes = Counted::from([(probe, 9)]);
        let none = BTreeSet::new();
        smol::block_on(async {
            let open = || ProbeCounters::with_socket(old(SockProtocol::NetlinkNetFilter, age));
            let mut counters = open();
            for harm in [
                "nft flush ruleset",
                "nft flush chain inet sidecast prerouting",
                "nft flush table inet sidecast",
            ] {
                let counted = counters.count("sidecast", 7, &probes, &none).await;
                assert_eq!(counted, Ok(()), "before {harm}");
                let ruleset = run("nft list ruleset");
                assert!(!ruleset.contains("owner"), "{ruleset}");
                let readings = counters.read().await.unwrap();
                assert_eq!(readings.returned, [(probe, 0)]);
                run(harm);
                let error = counters.read().await.unwrap_err();
                assert_eq!(error.errno(), Some(ENOENT), "{harm}: {error}");
                let after = counters.read().await.unwrap();
                assert!(after.returned.is_empty(), "{after:?}");
            }
            counters.count("sidecast", 7, &probes, &none).await.unwrap();
            run("nft flush ruleset");
            let (nothing, gone) = (Counted::new(), BTreeSet::from([probe]));
            let changed = counters.count("sidecast", 7, &nothing, &gone);
            assert_eq!(changed.await.unwrap_err().errno(), Some(ENOENT));
            counters.count("sidecast", 7, &probes, &none).await.unwrap();
            drop(counters);
            // What a killed process leaves on such a kernel is replaced at the next start.
            let mut next = open();
            next.count("sidecast", 8, &probes, &none).await.unwrap();
            assert_eq!(run("nft list tables").trim(), "table inet sidecast");
            next.remove().await.unwrap();
            assert_eq!(run("nft list ruleset").trim(), "");
        });
    });
}

const IFA_PROTO: u16 = 11;
const NLMSG_ERROR: u16 = 2;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE`.
const NFT_NEWTABLE: u16 = 10 << 8;
const NFTA_TABLE_FLAGS: u16 = 2;
const OWNER: u32 = 2;

const EBUSY: i32 = 16;
