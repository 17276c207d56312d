//! The kernel's side of addresses, routes and changes, each test in a network namespace of its own; what
//! came of it is asked of `ip`, not of ourselves.

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use sidecast::discovery::{Snapshot, Tables};
use sidecast::io::netlink::{
    Added, AddressChange, AddressChanged, Change, Changes, Kernel, Removed, Traffic, VipAddress,
};
use sidecast::net::Prefix;
use sidecast::netlink::NetlinkError;
use sidecast::netlink::nftables::{IPPROTO_TCP, IPPROTO_UDP, NatChange, NatRule};
use sidecast_lab::{in_namespace, run};
use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What `ip` says of one address of lo; null without it.
fn on_lo(addr: &str) -> serde_json::Value {
    let links: serde_json::Value = serde_json::from_str(&run("ip -j addr show dev lo")).unwrap();
    let addresses = links[0]["addr_info"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let found = addresses.into_iter().find(|a| a["local"] == addr);
    found.unwrap_or(serde_json::Value::Null)
}

fn vip(prefix: &str, lifetime: Option<u64>) -> VipAddress {
    VipAddress {
        interface: "lo".to_owned(),
        prefix: prefix.parse().unwrap(),
        label: Some("dns".to_owned()),
        lifetime: lifetime.map(Duration::from_secs),
    }
}

/// Removes a VIP that is ours.
async fn remove(
    kernel: &mut Kernel,
    interface: &str,
    prefix: Prefix,
) -> Result<Removed, NetlinkError> {
    let change = AddressChange::Remove(interface.to_owned(), prefix);
    match kernel.change_addresses(&[change]).await.pop() {
        Some(Ok(AddressChanged::Removed(removed))) => Ok(removed),
        Some(Err(error)) => Err(error),
        other => panic!("{other:?}"),
    }
}

fn until(limit: Duration, mut probe: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if probe() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    probe()
}

#[test]
fn a_vip_is_added_leased_renewed_and_removed() {
    in_namespace(|| {
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            for (prefix, preferred) in [("192.0.2.53/32", 300), ("2001:db8::53/128", 0)] {
                let addr = prefix.split('/').next().unwrap();
                let vip = vip(prefix, Some(300));
                assert_eq!(kernel.add_address(&vip).await, Ok(Added::Done));
                let seen = on_lo(addr);
                let valid = seen["valid_life_time"].as_u64().unwrap();
                assert!((290..=300).contains(&valid), "{seen}");
                let left = seen["preferred_life_time"].as_u64().unwrap();
                assert!(left <= preferred && left + 10 >= preferred, "{seen}");
                if addr.contains('.') {
                    assert_eq!(seen["label"], "lo:dns");
                }
                let longer = VipAddress {
                    lifetime: Some(Duration::from_secs(900)),
                    ..vip.clone()
                };
                assert_eq!(kernel.add_address(&longer).await, Ok(Added::Done));
                assert!(on_lo(addr)["valid_life_time"].as_u64().unwrap() > 800);
                let removed = remove(&mut kernel, "lo", vip.prefix).await;
                assert_eq!(removed, Ok(Removed::Done));
                assert!(on_lo(addr).is_null());
                let removed = remove(&mut kernel, "lo", vip.prefix).await;
                assert_eq!(removed, Ok(Removed::Absent));
            }
            assert!(
                run("ip link show lo").contains("LOWER_UP"),
                "lo is brought up"
            );
        });
    });
}

/// The kernel keeps the label of an address that is replaced.
#[test]
fn a_label_follows_the_app() {
    in_namespace(|| {
        run("ip link set lo up");
        let addr = "192.0.2.53";
        let under = |label: &str, lifetime: u64| VipAddress {
            label: Some(format!("lo:{label}")),
            ..vip("192.0.2.53/32", Some(lifetime))
        };
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            let mut add = async |label, lifetime| kernel.add_address(&under(label, lifetime)).await;
            assert_eq!(add("dns", 300).await, Ok(Added::Done));
            assert_eq!(add("web", 900).await, Ok(Added::Done));
            assert_eq!(on_lo(addr)["label"], "lo:web");
            assert!(on_lo(addr)["valid_life_time"].as_u64().unwrap() > 800);
            // One of ours from an earlier run, under the name that the app had then.
            let mut after = Kernel::open().unwrap();
            let adopted = after.add_address(&under("dns", 300)).await;
            assert_eq!(adopted, Ok(Added::Adopted));
            assert_eq!(on_lo(addr)["label"], "lo:dns");
            assert_eq!(
                remove(&mut after, "lo", under("dns", 300).prefix).await,
                Ok(Removed::Done)
            );
            assert!(on_lo(addr).is_null());
        });
    });
}

#[test]
fn a_foreign_address_is_used_and_left_alone() {
    in_namespace(|| {
        run("ip link set lo up");
        run("ip addr add 192.0.2.53/32 dev lo");
        run("ip addr add 2001:db8::53/128 dev lo nodad");
        run("ip -6 route add local 2001:db8:5::/64 dev lo table local");
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            for prefix in ["192.0.2.53/32", "2001:db8::53/128", "2001:db8:5::/64"] {
                let vip = vip(prefix, Some(300));
                assert_eq!(
                    kernel.add_address(&vip).await,
                    Ok(Added::Foreign),
                    "{prefix}"
                );
                let removed = remove(&mut kernel, "lo", vip.prefix).await;
                assert_eq!(removed, Ok(Removed::Foreign), "{prefix}");
            }
        });
        for addr in ["192.0.2.53", "2001:db8::53"] {
            assert_eq!(on_lo(addr)["valid_life_time"], u32::MAX, "still permanent");
        }
        let route = run("ip -6 route show table local 2001:db8:5::/64");
        assert!(
            route.contains("local") && !route.contains("expires"),
            "{route}"
        );
    });
}

/// One look serves for a burst of steps; what came after it is found all the same.
#[test]
fn an_address_that_came_a_moment_ago_is_seen() {
    in_namespace(|| {
        run("ip link set lo up");
        run("ip addr add 192.0.2.53/32 dev lo");
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            let first = vip("192.0.2.53/32", Some(300));
            assert_eq!(kernel.add_address(&first).await, Ok(Added::Foreign));
            for prefix in ["192.0.2.54/32", "2001:db8::54/128"] {
                run(&format!("ip addr add {prefix} dev lo"));
                let next = vip(prefix, Some(300));
                assert_eq!(kernel.add_address(&next).await, Ok(Added::Foreign));
                let addr = prefix.split('/').next().unwrap();
                assert_eq!(on_lo(addr)["valid_life_time"], u32::MAX, "{addr}");
            }
            // Ours, deleted by hand, put back, and removed right after that.
            let ours = vip("192.0.2.55/32", Some(300));
            assert_eq!(kernel.add_address(&ours).await, Ok(Added::Done));
            run("ip addr del 192.0.2.55/32 dev lo");
            assert_eq!(kernel.add_address(&ours).await, Ok(Added::Done));
            let removed = remove(&mut kernel, "lo", ours.prefix).await;
            assert_eq!(removed, Ok(Removed::Done));
            assert!(on_lo("192.0.2.55").is_null());
        });
    });
}

#[test]
fn leftover_addresses_are_adopted_by_ifa_proto_and_label() {
    in_namespace(|| {
        run("ip link set lo up");
        // GoCast's leftover: permanent, with its label.
        run("ip addr add 192.0.2.53/32 dev lo label lo:dns");
        smol::block_on(async {
            let mut killed = Kernel::open().unwrap();
            let others = ["192.0.2.54/32", "2001:db8::53/128", "2001:db8:5::/64"];
            for prefix in others {
                let before = VipAddress {
                    label: None,
                    ..vip(prefix, Some(60))
                };
                assert_eq!(killed.add_address(&before).await, Ok(Added::Done));
            }
            let mut next = Kernel::open().unwrap();
            for prefix in others.into_iter().chain(["192.0.2.53/32"]) {
                let vip = vip(prefix, Some(300));
                assert_eq!(next.add_address(&vip).await, Ok(Added::Adopted), "{prefix}");
                assert_eq!(next.add_address(&vip).await, Ok(Added::Done), "{prefix}");
            }
            for addr in ["192.0.2.53", "192.0.2.54", "2001:db8::53"] {
                let valid = on_lo(addr)["valid_life_time"].as_u64().unwrap();
                assert!((290..=300).contains(&valid), "{addr}: {valid}");
            }
            // Adopted a moment ago, and ours to remove.
            let prefix = "192.0.2.53/32".parse().unwrap();
            assert_eq!(remove(&mut next, "lo", prefix).await, Ok(Removed::Done));
        });
    });
}

#[test]
fn an_address_made_permanent_by_hand_is_no_longer_ours() {
    in_namespace(|| {
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            let vip = vip("192.0.2.53/32", Some(300));
            let unlabeled = VipAddress { label: None, ..vip };
            assert_eq!(kernel.add_address(&unlabeled).await, Ok(Added::Done));
            run("ip addr change 192.0.2.53/32 dev lo valid_lft forever preferred_lft forever");
            assert_eq!(kernel.add_address(&unlabeled).await, Ok(Added::Foreign));
            assert_eq!(on_lo("192.0.2.53")["valid_life_time"], u32::MAX);
        });
    });
}

#[test]
fn a_lease_that_nobody_renews_ends() {
    in_namespace(|| {
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            for prefix in ["192.0.2.53/32", "2001:db8::53/128"] {
                let vip = vip(prefix, Some(1));
                assert_eq!(kernel.add_address(&vip).await, Ok(Added::Done));
            }
        });
        assert!(until(PATIENCE, || {
            on_lo("192.0.2.53").is_null() && on_lo("2001:db8::53").is_null()
        }));
    });
}

#[test]
fn a_short_ipv6_prefix_is_local_as_a_whole() {
    in_namespace(|| {
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            let vip = vip("2001:db8:5::/64", Some(300));
            assert_eq!(kernel.add_address(&vip).await, Ok(Added::Done));
            let route = run("ip -6 route get 2001:db8:5::1234");
            assert!(route.starts_with("local 2001:db8:5::1234"), "{route}");
            let route = run("ip -6 route show table local 2001:db8:5::/64");
            assert!(
                route.contains("expires 2") || route.contains("expires 300"),
                "{route}"
            );
            assert_eq!(kernel.add_address(&vip).await, Ok(Added::Done), "renewed");
            let removed = remove(&mut kernel, "lo", vip.prefix).await;
            assert_eq!(removed, Ok(Removed::Done));
            assert_eq!(run("ip -6 route show table local 2001:db8:5::/64"), "");
        });
    });
}

#[test]
fn a_short_ipv6_prefix_of_somebody_else_with_another_metric_stands_beside_ours() {
    in_namespace(|| {
        run("ip link set lo up");
        run("ip -6 route add local 2001:db8:5::/64 dev lo table local metric 50");
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            let vip = vip("2001:db8:5::/64", Some(300));
            assert_eq!(kernel.add_address(&vip).await, Ok(Added::Done));
            assert_eq!(kernel.add_address(&vip).await, Ok(Added::Done), "renewed");
            let removed = remove(&mut kernel, "lo", vip.prefix).await;
            assert_eq!(removed, Ok(Removed::Done));
            let left = run("ip -6 route show table local 2001:db8:5::/64");
            assert!(
                left.contains("metric 50") && !left.contains("expires"),
                "{left}"
            );
            let removed = remove(&mut kernel, "lo", vip.prefix).await;
            assert_eq!(removed, Ok(Removed::Foreign));
        });
    });
}

/// The kernel has an IPv6 address once: another program's with a shorter prefix is the VIP's too.
#[test]
fn an_ipv6_address_counts_whatever_its_prefix_length() {
    in_namespace(|| {
        run("ip link set lo up");
        run("ip addr add 2001:db8::53/64 dev lo nodad");
        smol::block_on(async {
            let mut changes = Changes::open(false).unwrap();
            let mut kernel = Kernel::open().unwrap();
            let vip = vip("2001:db8::53/128", Some(300));
            assert_eq!(kernel.add_address(&vip).await, Ok(Added::Foreign));
            let snapshot = kernel.snapshot(&BTreeSet::new()).await.unwrap();
            let vips = snapshot.addresses.iter().filter_map(|a| a.vip());
            assert!(vips.collect::<BTreeSet<_>>().contains(&vip.prefix));
            run("ip addr del 2001:db8::53/64 dev lo");
            let removed = Some(vip.prefix);
            while changes.next().await != Ok(Change::Address { removed }) {}
        });
    });
}

#[test]
fn with_ipv6_disabled_the_error_says_so() {
    in_namespace(|| {
        run("ip link set lo up");
        run("sysctl -qw net.ipv6.conf.lo.disable_ipv6=1");
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            for prefix in ["2001:db8::53/128", "2001:db8:5::/64"] {
                let error = kernel
                    .add_address(&vip(prefix, Some(300)))
                    .await
                    .unwrap_err();
                let text = error.to_string();
                assert!(text.contains("disable_ipv6"), "{prefix}: {text}");
                assert!(error.is_permanent());
            }
        });
    });
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    in_namespace(|| {
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            let vip = VipAddress {
                interface: "vip0".to_owned(),
                ..vip("192.0.2.53/32", None)
            };
            let error = kernel.add_address(&vip).await.unwrap_err().to_string();
            assert!(error.contains("vip0"), "{error}");
        });
    });
}

#[test]
fn changes_are_reported_and_our_own_renewals_are_not() {
    in_namespace(|| {
        run("ip link set lo up");
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            let vip = vip("192.0.2.53/32", Some(300));
            kernel.add_address(&vip).await.unwrap();
            let mut changes = Changes::open(true).unwrap();
            kernel.add_address(&vip).await.unwrap();
            run("ip addr del 192.0.2.53/32 dev lo");
            let removed = Some(vip.prefix);
            assert_eq!(changes.next().await, Ok(Change::Address { removed }));
            run("ip link add v0 type veth peer name v1");
            assert_eq!(changes.next().await, Ok(Change::Link));
            run("ip addr add 10.0.0.2/24 dev v0");
            run("ip link set v1 up");
            run("ip link set v0 up");
            run("ip route add default via 10.0.0.1");
            let mut seen = BTreeSet::new();
            while !seen.contains("route") {
                let name = match changes.next().await.unwrap() {
                    Change::Route => "route",
                    Change::Address { removed: None } => "address",
                    _ => "other",
                };
                seen.insert(name);
            }
            assert!(seen.contains("address"));
        });
    });
}

#[test]
fn a_thousand_vips_take_a_moment() {
    in_namespace(|| {
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            let begun = Instant::now();
            let vips: Vec<_> = (0..1000)
                .map(|i| vip(&format!("198.18.{}.{}/32", i / 250, i % 250), Some(300)))
                .collect();
            for round in ["added", "renewed"] {
                for vip in &vips {
                    assert_eq!(kernel.add_address(vip).await, Ok(Added::Done), "{round}");
                }
            }
            assert_eq!(kernel.addresses_on_lo().await.unwrap().len(), 1000);
            for vip in &vips {
                let removed = remove(&mut kernel, "lo", vip.prefix).await;
                assert_eq!(removed, Ok(Removed::Done));
            }
            println!(
                "1000 VIPs added, renewed and removed in {:?}",
                begun.elapsed()
            );
            assert!(begun.elapsed() < Duration::from_secs(15));
        });
    });
}

/// More than fit one datagram, and of every kind.
#[test]
fn changes_that_go_together_have_results_of_their_own() {
    in_namespace(|| {
        run("ip addr add 192.0.2.53/32 dev lo");
        run("ip addr add 192.0.2.54/32 dev lo");
        let added = |added| Ok(AddressChanged::Added(added));
        let removed = |removed| Ok(AddressChanged::Removed(removed));
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            let many = |lifetime| -> Vec<AddressChange> {
                let prefix = |i: u32| match i % 2 {
                    0 => format!("198.18.{}.{}/32", i / 250, i % 250),
                    _ => format!("2001:db8::{i:x}/128"),
                };
                // With a label the address would be ours by that.
                let unlabeled = |i| VipAddress {
                    label: None,
                    ..vip(&prefix(i), Some(lifetime))
                };
                (0..300).map(|i| AddressChange::Add(unlabeled(i))).collect()
            };
            let mut changes = many(300);
            changes.insert(7, AddressChange::Add(vip("192.0.2.53/32", Some(300))));
            let nowhere = VipAddress {
                interface: "vip0".to_owned(),
                ..vip("192.0.2.55/32", None)
            };
            changes.insert(150, AddressChange::Add(nowhere));
            let remove =
                |prefix: &str| AddressChange::Remove("lo".to_owned(), prefix.parse().unwrap());
            changes.push(remove("192.0.2.54/32"));
            changes.push(remove("192.0.2.56/32"));
            let mut results = kernel.change_addresses(&changes).await;
            assert_eq!(results.pop(), Some(removed(Removed::Absent)));
            assert_eq!(results.pop(), Some(removed(Removed::Foreign)));
            let error = results.remove(150).unwrap_err().to_string();
            assert!(error.contains("no such interface: vip0"), "{error}");
            assert_eq!(results.remove(7), added(Added::Foreign));
            assert_eq!(results.len(), 300);
            assert!(results.iter().all(|r| *r == added(Added::Done)));
            // One was taken away and one taken over meanwhile.
            run("ip addr del 198.18.0.2/32 dev lo");
            run("ip addr change 198.18.0.4/32 dev lo valid_lft forever preferred_lft forever");
            let mut results = kernel.change_addresses(&many(900)).await;
            assert_eq!(results.remove(4), added(Added::Foreign));
            assert!(results.iter().all(|r| *r == added(Added::Done)));
            for addr in ["198.18.0.0", "198.18.0.2", "2001:db8::1", "2001:db8::12b"] {
                let seen = on_lo(addr);
                assert!(seen["valid_life_time"].as_u64().unwrap() > 800, "{seen}");
            }
            assert_eq!(on_lo("198.18.0.4")["valid_life_time"], u32::MAX);
        });
    });
}

/// The interface is known by its index, and the index goes with the interface.
#[test]
fn an_interface_made_anew_is_found_anew() {
    in_namespace(|| {
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            let on_it = VipAddress {
                interface: "v0".to_owned(),
                label: None,
                ..vip("192.0.2.53/32", Some(300))
            };
            for _ in 0..2 {
                run("ip link add v0 type veth peer name v1");
                assert_eq!(kernel.add_address(&on_it).await, Ok(Added::Done));
                assert!(run("ip addr show dev v0").contains("192.0.2.53"));
                run("ip link del v0");
            }
            let gone = remove(&mut kernel, "v0", on_it.prefix).await;
            assert_eq!(gone, Ok(Removed::Absent));
        });
    });
}

#[test]
fn a_snapshot_holds_what_discovery_reads() {
    in_namespace(|| {
        for command in [
            "ip link set lo up",
            "ip link add v0 type veth peer name v1",
            "ip link set v0 up",
            "ip link set v1 up",
            "ip addr add 10.0.0.2/24 dev v0",
            "ip addr add 2001:db8:1::2/64 dev v0 nodad",
            "ip route add default nexthop via 10.0.0.1 dev v0 nexthop via 10.0.0.3 dev v0",
            "ip -6 route add default via 2001:db8:1::1 dev v0",
            "ip neigh add fe80::1 dev v0 lladdr 02:00:00:00:00:01 router nud permanent",
            "ip addr add 192.0.2.53/32 dev lo",
        ] {
            run(command);
        }
        let snapshot = smol::block_on(async {
            let targets = BTreeSet::from(["10.0.0.9".parse().unwrap(), "fe80::9".parse().unwrap()]);
            Kernel::open().unwrap().snapshot(&targets).await.unwrap()
        });
        assert_eq!(snapshot.routes.len(), 2, "{:?}", snapshot.routes);
        assert!(snapshot.neighbors.iter().any(|n| n.is_router()));
        let sources: Vec<String> = snapshot
            .routes_to
            .iter()
            .map(|(to, route)| format!("{to} from {}", route.prefsrc.unwrap()))
            .collect();
        assert_eq!(
            sources,
            [
                "10.0.0.1 from 10.0.0.2",
                "10.0.0.3 from 10.0.0.2",
                "10.0.0.9 from 10.0.0.2",
                "2001:db8:1::1 from 2001:db8:1::2",
            ]
        );
    });
}

/// One message of 13 KB, where the socket expects a page or two.
#[test]
fn a_link_with_a_hundred_names_is_read_all_the_same() {
    in_namespace(|| {
        let names: Vec<String> = (0..100).map(|n| format!("altname {n:0>120}")).collect();
        run(&format!("ip link property add dev lo {}", names.join(" ")));
        run("ip link set lo up");
        let links = smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            let mut links = Vec::new();
            for _ in 0..2 {
                links.push(kernel.links().await.unwrap());
            }
            links
        });
        assert_eq!(links.len(), 2);
        for found in links {
            assert!(found.iter().any(|link| link.name == "lo"), "{found:?}");
        }
    });
}

/// VIP, protocol, port and destination port.
type Mapping<'a> = (&'a str, u8, u16, u16);

fn nat(rules: &[Mapping<'_>]) -> BTreeSet<NatRule> {
    let rule = |&(vip, protocol, listen, destination): &Mapping<'_>| NatRule {
        vip: vip.parse().unwrap(),
        protocol,
        listen,
        target: match vip.contains(':') {
            true => "2001:db8:1::2".parse().unwrap(),
            false => "10.0.0.2".parse().unwrap(),
        },
        destination,
        counter: format!("dns_{listen}"),
    };
    rules.iter().map(rule).collect()
}

/// Changes rules of the table "sidecast".
async fn change_nat(
    kernel: &mut Kernel,
    remove: &[Mapping<'_>],
    add: &[Mapping<'_>],
) -> Result<(), NetlinkError> {
    let (add, remove) = (nat(add), nat(remove));
    kernel
        .update_nat("sidecast", NatChange { add, remove })
        .await
}

/// The rules of every table, as `nft` says them.
fn rules() -> Vec<String> {
    let ruleset = run("nft list ruleset");
    let rules = ruleset.lines().filter(|line| line.contains("dnat"));
    rules.map(|line| line.trim().to_owned()).collect()
}

/// The host of the NAT tests: 10.0.0.2 and 2001:db8:1::2 on a veth, two VIPs on lo.
fn nat_host() {
    for command in [
        "ip link set lo up",
        "ip link add v0 type veth peer name v1",
        "ip link set v0 up",
        "ip link set v1 up",
        "ip addr add 10.0.0.2/24 dev v0",
        "ip addr add 2001:db8:1::2/64 dev v0 nodad",
        "ip addr add 192.0.2.53/32 dev lo",
        "ip addr add 2001:db8::53/128 dev lo nodad",
    ] {
        run(command);
    }
}

#[test]
fn nat_rules_are_refilled_and_never_doubled_and_go_with_the_process() {
    in_namespace(|| {
        run("nft add table ip docker");
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            let all = [
                ("192.0.2.53/32", IPPROTO_UDP, 53, 8053),
                ("198.51.100.128/26", IPPROTO_TCP, 80, 8080),
                ("2001:db8::53/128", IPPROTO_UDP, 53, 8053),
            ];
            for _ in 0..20 {
                change_nat(&mut kernel, &[], &all).await.unwrap();
                assert_eq!(rules().len(), 6, "each in prerouting and output");
                change_nat(&mut kernel, &all, &[]).await.unwrap();
                assert_eq!(rules(), Vec::<String>::new());
            }
            change_nat(&mut kernel, &[], &all).await.unwrap();
            let expected = [
                "ip daddr 192.0.2.53 udp dport 53 counter name \"dns_53\" dnat to 10.0.0.2:8053",
                "ip daddr 198.51.100.128/26 tcp dport 80 counter name \"dns_80\" dnat to 10.0.0.2:8080",
                "ip6 daddr 2001:db8::53 udp dport 53 counter name \"dns_53\" dnat to [2001:db8:1::2]:8053",
            ];
            for rule in expected {
                assert_eq!(rules().iter().filter(|r| *r == rule).count(), 2, "{rule}");
            }
            let ruleset = run("nft list ruleset");
            assert!(ruleset.contains("flags owner"), "{ruleset}");
            assert_eq!(
                ruleset.matches("priority dstnat - 5").count()
                    + ruleset.matches("priority -105").count(),
                4,
                "{ruleset}"
            );
            drop(kernel);
        });
        let gone = || run("nft list ruleset").trim() == "table ip docker {\n}";
        assert!(until(PATIENCE, gone), "{}", run("nft list ruleset"));
    });
}

#[test]
fn two_instances_have_a_table_each_and_a_stale_one_is_replaced() {
    in_namespace(|| {
        run("nft add table ip sidecast");
        run("nft add chain ip sidecast stale");
        smol::block_on(async {
            let rules_of = [("192.0.2.53/32", IPPROTO_UDP, 53, 8053)];
            let mut first = Kernel::open().unwrap();
            change_nat(&mut first, &[], &rules_of).await.unwrap();
            let mut second = Kernel::open().unwrap();
            change_nat(&mut second, &[], &rules_of).await.unwrap();
            let ruleset = run("nft list ruleset");
            assert!(!ruleset.contains("stale"), "{ruleset}");
            assert!(ruleset.contains("table ip sidecast {"), "{ruleset}");
            let own = format!("table ip sidecast_{} {{", std::process::id());
            assert!(ruleset.contains(&own), "{ruleset}");
            drop(first);
            assert!(until(PATIENCE, || rules().len() == 2));
            change_nat(&mut second, &rules_of, &[]).await.unwrap();
            assert_eq!(run("nft list ruleset").trim(), "");
        });
    });
}

#[test]
fn packets_of_the_host_are_counted_and_follow_a_changed_rule() {
    in_namespace(|| {
        nat_host();
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            for (vip, target) in [
                ("192.0.2.53/32", "10.0.0.2"),
                ("2001:db8::53/128", "2001:db8:1::2"),
            ] {
                let at = |port: u16| (target.parse::<std::net::IpAddr>().unwrap(), port);
                let services = [
                    UdpSocket::bind(at(8053)).unwrap(),
                    UdpSocket::bind(at(9053)).unwrap(),
                ];
                let client = UdpSocket::bind(at(0)).unwrap();
                let to = vip
                    .split('/')
                    .next()
                    .unwrap()
                    .parse::<std::net::IpAddr>()
                    .unwrap();
                client.connect((to, 53)).unwrap();
                let limit = Some(PATIENCE);
                let mut before = Vec::new();
                for (service, port) in services.iter().zip([8053, 9053]) {
                    service.set_read_timeout(limit).unwrap();
                    let rules = vec![(vip, IPPROTO_UDP, 53, port)];
                    change_nat(&mut kernel, &before, &rules).await.unwrap();
                    before = rules;
                    client.send(b"ping").unwrap();
                    let mut buffer = [0; 16];
                    let received = service.recv_from(&mut buffer);
                    assert!(received.is_ok(), "{vip} to {port}: {received:?}");
                }
                let counters = kernel.nat_counters().await.unwrap();
                assert_eq!(counters["dns_53"].packets, 2, "kept over the refill");
                change_nat(&mut kernel, &before, &[]).await.unwrap();
            }
        });
    });
}

fn many_vips(count: usize) -> Vec<String> {
    let vip = |i| format!("198.18.{}.{}/32", i / 250, i % 250);
    (0..count).map(vip).collect()
}

/// As `nat` takes them.
fn each_to_8053(vips: &[String]) -> Vec<Mapping<'_>> {
    vips.iter()
        .map(|vip| (vip.as_str(), IPPROTO_TCP, 53, 8053))
        .collect()
}

#[test]
fn a_thousand_mappings_are_one_step() {
    in_namespace(|| {
        smol::block_on(async {
            let vips = many_vips(1000);
            let all = each_to_8053(&vips);
            let mut kernel = Kernel::open().unwrap();
            change_nat(&mut kernel, &[], &all).await.unwrap();
            assert_eq!(rules().len(), 2000);
        });
    });
}

/// The table as `nft` says it, with the kernel's handles.
fn nat_handles() -> BTreeSet<String> {
    let table = run("nft -a list table ip sidecast");
    let rules = table.lines().filter(|line| line.contains(" dnat to "));
    rules.map(|line| line.trim().to_owned()).collect()
}

/// The others stay as they are, in their places: the one that lies in another's VIP comes after it.
#[test]
fn a_changed_mapping_among_a_thousand_touches_no_other() {
    in_namespace(|| {
        smol::block_on(async {
            let vips = many_vips(1000);
            let mut all = each_to_8053(&vips);
            all.push(("198.18.0.0/24", IPPROTO_TCP, 53, 9053));
            let mut kernel = Kernel::open().unwrap();
            change_nat(&mut kernel, &[], &all).await.unwrap();
            let before = nat_handles();
            assert_eq!(before.len(), 2002);
            let mut times = Vec::new();
            for destination in [8054, 8055, 8056] {
                let old = all[7];
                all[7].3 = destination;
                let began = std::time::Instant::now();
                change_nat(&mut kernel, &[old], &[all[7]]).await.unwrap();
                times.push(began.elapsed());
                let after = nat_handles();
                assert_eq!(after.len(), 2002);
                assert_eq!(before.difference(&after).count(), 2);
                let place = |rule: &str| {
                    let chain = run("nft list chain ip sidecast output");
                    let mut lines = chain.lines().filter(|line| line.contains("dnat"));
                    lines.position(|line| line.contains(rule)).unwrap()
                };
                let short = place("198.18.0.0/24");
                let changed = place(&format!("10.0.0.2:{destination}"));
                assert_eq!(changed, place("daddr 198.18.0.8 ") - 1);
                assert!(short < changed, "{short}, {changed}");
            }
            println!("one changed among a thousand: {times:?}");
            change_nat(&mut kernel, &all, &[]).await.unwrap();
            assert_eq!(run("nft list ruleset").trim(), "");
        });
    });
}

/// As under a rootless container engine: no process there may have larger buffers than the system's limit.
#[test]
fn in_a_user_namespace_hundreds_of_mappings_are_one_step() {
    const INNER: &str = "SIDECAST_TEST_IN_USER_NAMESPACE";
    if std::env::var_os(INNER).is_none() {
        let test = "in_a_user_namespace_hundreds_of_mappings_are_one_step";
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(INNER, "1")
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        if errors.contains("unshare failed") {
            println!("skipped: no user namespaces here: {errors}");
            return;
        }
        assert!(output.status.success(), "{output:?}");
        return;
    }
    smol::block_on(async {
        // What every system grants: 425,984 bytes, that is twice 212,992.
        let vips = many_vips(10_000);
        let all = each_to_8053(&vips);
        let mut kernel = Kernel::open().unwrap();
        let (first, others) = all.split_at(350);
        change_nat(&mut kernel, &[], first).await.unwrap();
        assert_eq!(rules().len(), 700);
        // 10 MB, which few systems grant.
        if let Err(error) = change_nat(&mut kernel, &[], others).await {
            assert!(error.to_string().contains("net.core.wmem_max"), "{error}");
            assert_eq!(rules().len(), 700, "all or nothing");
        }
    });
}

#[test]
fn persistent_nat_outlives_the_process_and_is_adopted() {
    in_namespace(|| {
        smol::block_on(async {
            let rules_of = [("192.0.2.53/32", IPPROTO_UDP, 53, 8053)];
            let mut first = Kernel::open().unwrap();
            change_nat(&mut first, &[], &rules_of).await.unwrap();
            match first.persist_nat().await {
                Ok(()) => {}
                Err(error) => {
                    println!("skipped: this kernel has no persistent tables: {error}");
                    return;
                }
            }
            drop(first);
            std::thread::sleep(Duration::from_millis(200));
            assert_eq!(rules().len(), 2);
            let mut next = Kernel::open().unwrap();
            change_nat(&mut next, &[], &rules_of).await.unwrap();
            assert_eq!(rules().len(), 2);
            assert!(run("nft list ruleset").contains("table ip sidecast {"));
            drop(next);
            assert!(until(PATIENCE, || rules().is_empty()));
        });
    });
}

#[test]
fn without_net_admin_reads_work_and_writes_name_the_capability() {
    in_namespace(|| {
        run("ip link set lo up");
        let none = rustix::thread::CapabilitySets {
            effective: rustix::thread::CapabilitySet::empty(),
            permitted: rustix::thread::CapabilitySet::empty(),
            inheritable: rustix::thread::CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, none).unwrap();
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            let _changes = Changes::open(true).unwrap();
            assert_eq!(
                kernel.snapshot(&BTreeSet::new()).await.unwrap().links.len(),
                1
            );
            let vip = vip("192.0.2.53/32", Some(300));
            let rules = [("192.0.2.53/32", IPPROTO_UDP, 53, 8053)];
            let errors = [
                kernel.add_address(&vip).await.unwrap_err(),
                change_nat(&mut kernel, &[], &rules).await.unwrap_err(),
            ];
            for error in errors {
                assert!(error.is_permanent(), "{error}");
                assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
            }
        });
    });
}

#[test]
fn a_refused_request_leaves_nothing_for_the_next_one() {
    in_namespace(|| {
        run("ip link set lo up");
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            // Both a rule in the VIP's family to a counter name that no kernel takes, many times over.
            let mut bad = NatChange::default();
            for port in 1..2000 {
                let mut rules = nat(&[("192.0.2.53/32", IPPROTO_UDP, port, port)]);
                let mut rule = rules.pop_first().unwrap();
                rule.counter = "x".repeat(300);
                bad.add.insert(rule);
            }
            assert!(kernel.update_nat("sidecast", bad).await.is_err());
            assert_eq!(rules(), Vec::<String>::new());
            let good = [("192.0.2.53/32", IPPROTO_UDP, 53, 8053)];
            change_nat(&mut kernel, &[], &good).await.unwrap();
            assert_eq!(rules().len(), 2);
        });
    });
}

/// What a client asks: over which protocol, at which address and port; the answer, if any comes.
type Question = (u8, std::net::SocketAddr);

fn ask((protocol, to): Question) -> Option<String> {
    use std::io::Read;
    let limit = Duration::from_secs(1);
    let mut buffer = [0; 64];
    let length = if protocol == IPPROTO_TCP {
        let mut stream = std::net::TcpStream::connect_timeout(&to, limit).ok()?;
        stream.set_read_timeout(Some(limit)).unwrap();
        stream.read(&mut buffer).ok()?
    } else {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(limit)).unwrap();
        // Connected: the answer has to come from the VIP, or it is dropped.
        socket.connect(to).ok()?;
        socket.send(b"who").ok()?;
        socket.recv(&mut buffer).ok()?
    };
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A client in a namespace of its own, reached over `v1`; it asks what it is sent.
fn client() -> (mpsc::Sender<Question>, mpsc::Receiver<Option<String>>) {
    let (questions, asked) = mpsc::channel::<Question>();
    let (answer, answers) = mpsc::channel();
    let (ready, begun) = mpsc::channel();
    let (go, wired) = mpsc::channel();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ready.send(nix::unistd::gettid()).unwrap();
        wired.recv().unwrap();
        for command in [
            "ip link set v1 up",
            "ip addr add 10.0.0.9/24 dev v1",
            "ip addr add 2001:db8:1::9/64 dev v1 nodad",
            "ip route add 192.0.2.0/24 via 10.0.0.2",
            "ip -6 route add 2001:db8::53/128 via 2001:db8:1::2",
        ] {
            run(command);
        }
        carries("v1");
        ready.send(nix::unistd::gettid()).unwrap();
        while let Ok(question) = asked.recv() {
            answer.send(ask(question)).unwrap();
        }
    });
    run(&format!("ip link set v1 netns {}", begun.recv().unwrap()));
    go.send(()).unwrap();
    begun.recv().unwrap();
    carries("v0");
    (questions, answers)
}

/// Waits until the link takes packets: the kernel switches its queue on from deferred work (`linkwatch`), up to
/// a second after it is up, and drops what is sent before.
fn carries(link: &str) {
    let is_up = || run(&format!("ip -o link show {link}")).contains("state UP");
    assert!(until(PATIENCE, is_up), "{link} is not up");
}

/// A service on `addr` that says its port, on TCP and UDP.
fn serve(addr: &str, port: u16) {
    use std::io::Write;
    let at = (addr.parse::<std::net::IpAddr>().unwrap(), port);
    let listener = std::net::TcpListener::bind(at).unwrap();
    let socket = UdpSocket::bind(at).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(format!("tcp {port}").as_bytes());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("udp {port}").as_bytes(), from);
        }
    });
}

/// Docker's chains, with a rule for the very port that is ours.
fn docker_chains(iptables: &str) {
    for rule in [
        "-N DOCKER",
        "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
        "-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER",
        "-A DOCKER -p tcp --dport 53 -j DNAT --to-destination 172.17.0.9:99",
        "-A DOCKER -p udp --dport 53 -j DNAT --to-destination 172.17.0.9:99",
    ] {
        run(&format!("{iptables} -w -t nat {rule}"));
    }
}

fn nat_carries_packets_beside(iptables: &str) {
    if Command::new(iptables).arg("--version").output().is_err() {
        println!("skipped: needs {iptables}");
        return;
    }
    nat_host();
    docker_chains(iptables);
    for target in ["10.0.0.2", "2001:db8:1::2"] {
        serve(target, 8053);
    }
    let (questions, answers) = client();
    let mut everything = Vec::new();
    for vip in ["192.0.2.53/32", "2001:db8::53/128"] {
        for protocol in [IPPROTO_TCP, IPPROTO_UDP] {
            everything.push((vip, protocol, 53, 8053));
        }
    }
    smol::block_on(async {
        let mut kernel = Kernel::open().unwrap();
        for _ in 0..20 {
            change_nat(&mut kernel, &everything, &[]).await.unwrap();
            change_nat(&mut kernel, &[], &everything).await.unwrap();
        }
        for &(vip, protocol, listen, _) in &everything {
            let addr = vip.split('/').next().unwrap().parse().unwrap();
            let question = (protocol, std::net::SocketAddr::new(addr, listen));
            let name = if protocol == IPPROTO_TCP {
                "tcp"
            } else {
                "udp"
            };
            let expected = Some(format!("{name} 8053"));
            questions.send(question).unwrap();
            assert_eq!(
                answers.recv().unwrap(),
                expected,
                "{question:?} from the client"
            );
            assert_eq!(ask(question), expected, "{question:?} from the host");
        }
        let ours = rules().into_iter().filter(|rule| rule.contains("8053"));
        assert_eq!(ours.count(), 8, "one in each chain");
        assert_eq!(kernel.nat_counters().await.unwrap()["dns_53"].packets, 8);
    });
}

#[test]
fn nat_carries_packets_beside_docker_on_iptables_nft() {
    in_namespace(|| nat_carries_packets_beside("iptables-nft"));
}

#[test]
fn nat_carries_packets_beside_docker_on_iptables_legacy() {
    in_namespace(|| nat_carries_packets_beside("iptables-legacy"));
}

/// What examples/operations.md says under Limits: the kernel takes the last address of such a prefix for a broadcast
/// address, and NAT comes before it looks.
#[test]
fn every_address_of_a_short_ipv4_prefix_answers_but_the_last_which_needs_nat() {
    in_namespace(|| {
        nat_host();
        serve("0.0.0.0", 80);
        serve("10.0.0.2", 8080);
        let (questions, answers) = client();
        let ask = |addr: &str| {
            let to = std::net::SocketAddr::new(addr.parse().unwrap(), 80);
            questions.send((IPPROTO_TCP, to)).unwrap();
            answers.recv().unwrap()
        };
        smol::block_on(async {
            let mut kernel = Kernel::open().unwrap();
            let vip = vip("192.0.2.0/24", Some(300));
            assert_eq!(kernel.add_address(&vip).await, Ok(Added::Done));
            for addr in ["192.0.2.0", "192.0.2.1", "192.0.2.127", "192.0.2.254"] {
                assert_eq!(ask(addr).as_deref(), Some("tcp 80"), "{addr}");
            }
            assert_eq!(ask("192.0.2.255"), None);
            let rules = [("192.0.2.0/24", IPPROTO_TCP, 80, 8080)];
            change_nat(&mut kernel, &[], &rules).await.unwrap();
            for addr in ["192.0.2.0", "192.0.2.254", "192.0.2.255"] {
                assert_eq!(ask(addr).as_deref(), Some("tcp 8080"), "{addr}");
            }
            let removed = remove(&mut kernel, "lo", vip.prefix).await;
            assert_eq!(removed, Ok(Removed::Done));
            assert!(!run("ip route show table local").contains("192.0.2.255"));
        });
    });
}

#[test]
fn lost_notifications_are_reported() {
    in_namespace(|| {
        run("ip link set lo up");
        smol::block_on(async {
            let mut changes = Changes::open(false).unwrap();
            let mut kernel = Kernel::open().unwrap();
            for i in 0..4000 {
                let prefix = format!("198.18.{}.{}/32", i / 250, i % 250);
                kernel.add_address(&vip(&prefix, Some(300))).await.unwrap();
            }
            // What is queued comes before the word that more was lost, or after it.
            assert_eq!(changes.next().await, Ok(Change::Overrun));
            // And the subscription lives on.
            run("ip link add v0 type veth peer name v1");
            let mut next = changes.next().await;
            while next == Ok(Change::Overrun) {
                next = changes.next().await;
            }
            assert_eq!(next, Ok(Change::Link));
        });
    });
}

/// What is reported until nothing has been for a while.
async fn reported(changes: &mut Changes) -> Vec<Change> {
    let mut all = Vec::new();
    loop {
        let next = async { Some(changes.next().await.unwrap()) };
        let quiet = async {
            smol::Timer::after(Duration::from_millis(200)).await;
            None
        };
        match smol::future::or(next, quiet).await {
            Some(change) => all.push(change),
            None => return all,
        }
    }
}

/// A link with carrier, whose neighbors are what the test says.
fn quiet_link() {
    run("ip link add v0 type veth peer name v1");
    for link in ["v0", "v1"] {
        run(&format!("ip link set {link} addrgenmode none"));
        run(&format!("ip link set {link} up"));
    }
    run("ip addr add 10.0.0.2/24 dev v0");
    run("ip addr add 2001:db8::2/64 dev v0 nodad");
}

fn neighbor(addr: impl std::fmt::Display, mac: u8, state: &str) {
    run(&format!(
        "ip neigh replace {addr} lladdr 02:00:00:00:00:0{mac} dev v0 {state}"
    ));
}

#[test]
fn each_new_mac_of_a_watched_neighbor_is_reported() {
    in_namespace(|| {
        quiet_link();
        smol::block_on(async {
            let mut changes = Changes::open(false).unwrap();
            let addrs = ["10.0.0.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap());
            changes.watch(addrs.into());
            for addr in addrs {
                let mac = vec![Change::Mac(addr)];
                neighbor(addr, 1, "nud stale");
                reported(&mut changes).await;
                for state in ["nud reachable", "nud stale", "nud probe"] {
                    neighbor(addr, 1, state);
                }
                assert_eq!(reported(&mut changes).await, []);
                for other in [2, 3, 1] {
                    neighbor(addr, other, "nud reachable");
                    assert_eq!(reported(&mut changes).await, mac, "{other}");
                    neighbor(addr, other, "nud stale");
                    assert_eq!(reported(&mut changes).await, [], "{other}");
                }
                // What is known outlives the entry, the subscription and what else is watched.
                run(&format!("ip neigh del {addr} dev v0"));
                changes.reopen().unwrap();
                changes.watch(
                    addrs
                        .into_iter()
                        .chain(["10.0.0.9".parse().unwrap()])
                        .collect(),
                );
                neighbor(addr, 1, "nud stale");
                assert_eq!(reported(&mut changes).await, []);
                neighbor(addr, 2, "nud stale");
                assert_eq!(reported(&mut changes).await, mac);
                changes.watch(addrs.into());
            }
            changes.watch(BTreeSet::new());
            for addr in addrs {
                neighbor(addr, 4, "nud stale");
            }
            assert_eq!(reported(&mut changes).await, []);
        });
    });
}

#[test]
fn routers_are_reported_while_that_is_asked_and_looked_up_when_it_begins() {
    in_namespace(|| {
        quiet_link();
        smol::block_on(async {
            let mut changes = Changes::open(false).unwrap().keeping(Tables::new());
            changes.tables().begin_dump();
            changes.tables().end_dump(Some(Snapshot::default()));
            neighbor("fe80::1", 1, "router nud stale");
            assert_eq!(reported(&mut changes).await, []);
            assert!(!changes.tables().pending().stale);
            changes.report_routers(true);
            assert!(changes.tables().pending().stale);
            neighbor("fe80::2", 2, "router nud stale");
            neighbor("10.0.0.3", 3, "nud stale");
            assert_eq!(reported(&mut changes).await, [Change::Neighbor]);
            changes.report_routers(false);
            neighbor("fe80::3", 3, "router nud stale");
            assert_eq!(reported(&mut changes).await, []);
        });
    });
}

/// A wire whose two ends are here: what leaves by the one arrives by the other, as from a router.
fn loop_of_wire() {
    for command in [
        "ip link set lo up",
        "ip link add out type veth peer name in",
        "ip link set out address 02:00:00:00:00:01 up",
        "ip link set in address 02:00:00:00:00:02 up",
        "ip addr add 10.9.0.1/24 dev out",
        "ip -6 addr add 2001:db8:9::1/64 dev out nodad",
        "ip neigh add 10.9.0.9 lladdr 02:00:00:00:00:02 dev out",
        "ip -6 neigh add 2001:db8:9::9 lladdr 02:00:00:00:00:02 dev out",
        "ip route add default via 10.9.0.9",
        "ip -6 route add default via 2001:db8:9::9",
    ] {
        run(command);
    }
}

fn send_by_wire(to: &str) {
    let to: IpAddr = to.parse().unwrap();
    let from: IpAddr = match to {
        IpAddr::V4(_) => "10.9.0.1".parse().unwrap(),
        IpAddr::V6(_) => "2001:db8:9::1".parse().unwrap(),
    };
    let socket = UdpSocket::bind((from, 0)).unwrap();
    setsockopt(&socket, BindToDevice, &"out".into()).unwrap();
    socket.send_to(b"x", (to, 9)).unwrap();
}

fn prefixes(texts: &[&str]) -> BTreeSet<Prefix> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn packets_for_vips_are_seen_when_they_come_by_an_interface() {
    in_namespace(|| {
        loop_of_wire();
        for vip in [
            "192.0.2.53/32",
            "192.0.2.54/32",
            "198.51.100.1/24",
            "2001:db8::53/128",
        ] {
            run(&format!("ip addr add {vip} dev lo"));
        }
        smol::block_on(async {
            let mut traffic = Traffic::open("seen").unwrap();
            let v4 = [
                "192.0.2.53/32",
                "192.0.2.54/32",
                "198.51.100.0/24",
                "198.51.100.7/32",
            ];
            let all = [&v4[..], &["2001:db8::53/128"]].concat();
            traffic.watch(prefixes(&all)).await.unwrap();
            assert_eq!(traffic.read().await.unwrap(), []);
            let begun = Instant::now();
            std::thread::sleep(Duration::from_millis(50));
            for to in ["192.0.2.53", "198.51.100.77", "2001:db8::53", "203.0.113.9"] {
                send_by_wire(to);
            }
            // One of the host's own, by lo.
            let own = UdpSocket::bind("0.0.0.0:0").unwrap();
            own.send_to(b"x", "192.0.2.54:9").unwrap();
            let seen = traffic.read().await.unwrap();
            let addrs: Vec<String> = seen.iter().map(|(addr, _)| addr.to_string()).collect();
            assert_eq!(addrs, ["192.0.2.53", "198.51.100.77", "2001:db8::53"]);
            let (first, now) = (seen[0].1, Instant::now());
            assert!(begun < first && first <= now, "{:?}", now - first);
            std::thread::sleep(Duration::from_millis(100));
            send_by_wire("192.0.2.53");
            let last = traffic.read().await.unwrap()[0].1;
            let later = last - first;
            assert!(later > Duration::from_millis(80), "{later:?}");
            // What was seen stays where others are watched, and a family without VIPs has no table.
            traffic.watch(prefixes(&["192.0.2.53/32"])).await.unwrap();
            send_by_wire("198.51.100.78");
            let seen = traffic.read().await.unwrap();
            let addrs: Vec<String> = seen.iter().map(|(addr, _)| addr.to_string()).collect();
            assert_eq!(addrs, ["192.0.2.53", "198.51.100.77"]);
            assert_eq!(run("nft list tables"), "table ip seen\n");
            traffic.watch(BTreeSet::new()).await.unwrap();
            assert_eq!(run("nft list tables"), "");
        });
    });
}

#[test]
fn tables_of_seen_packets_belong_to_their_sockets() {
    in_namespace(|| {
        run("ip link set lo up");
        smol::block_on(async {
            let vips = || prefixes(&["192.0.2.53/32"]);
            let mut one = Traffic::open("seen").unwrap();
            one.watch(vips()).await.unwrap();
            let mut other = Traffic::open("seen").unwrap();
            other.watch(vips()).await.unwrap();
            let mine = format!("table ip seen_{}\n", std::process::id());
            assert_eq!(run("nft list tables"), format!("table ip seen\n{mine}"));
            let flush = Command::new("nft").args(["flush", "ruleset"]).status();
            assert!(flush.unwrap().success());
            other.read().await.unwrap();
            drop(one);
            let left = || run("nft list tables");
            assert!(until(PATIENCE, || left() == mine), "{}", left());
            drop(other);
            assert!(until(PATIENCE, || left().is_empty()));
        });
    });
}

/// There is room for a limited number of addresses: more of them are an error, not an end of traffic.
#[test]
fn a_vip_with_more_addresses_than_can_be_seen_is_an_error() {
    in_namespace(|| {
        loop_of_wire();
        run("ip addr add 10.80.0.1/16 dev lo");
        smol::block_on(async {
            let mut traffic = Traffic::open("seen").unwrap();
            traffic.watch(prefixes(&["10.80.0.0/16"])).await.unwrap();
            let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
            setsockopt(&socket, BindToDevice, &"out".into()).unwrap();
            let send = |range: std::ops::Range<u32>| {
                for number in range {
                    let [.., high, low] = number.to_be_bytes();
                    socket
                        .send_to(b"x", (IpAddr::from([10, 80, high, low]), 9))
                        .unwrap();
                }
            };
            send(0..10_000);
            assert_eq!(traffic.read().await.map(|seen| seen.len()), Ok(10_000));
            send(10_000..20_000);
            let error = traffic.read().await.unwrap_err().to_string();
            assert!(error.contains("16384 addresses of VIPs"), "{error}");
        });
    });
}

/// How long the kernel may need on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
