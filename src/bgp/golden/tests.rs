//! The meaning of every golden message, and the result of decoding a damaged one.

use super::super::reader::{Announcement, Decoded, Update, decode};
use super::super::*;
use super::{addr, asn, cx, frame, hex, id, load, prefix};
use crate::net::Origin;
use crate::small_set::SmallSet;
use crate::timer::Rng;

/// What is in a golden file, how it is read, and whether we would write it the same way.
struct Golden {
    cx: DecodeContext,
    message: Decoded,
    ours: bool,
}

fn golden(message: Decoded) -> Golden {
    Golden {
        cx: DecodeContext {
            peer_as: None,
            ..cx()
        },
        message,
        ours: true,
    }
}

/// Only decoded: another speaker encodes the same content differently.
fn theirs(message: Decoded) -> Golden {
    Golden {
        ours: false,
        ..golden(message)
    }
}

fn ibgp(golden: Golden) -> Golden {
    Golden {
        cx: DecodeContext {
            session: SessionType::Ibgp,
            ..golden.cx
        },
        ..golden
    }
}

fn open(number: u32, hold_time: u16, router_id: &str, capabilities: Vec<Capability>) -> Decoded {
    Decoded::Open(Open {
        asn: asn(number),
        my_as16: asn(number).as_u16(),
        hold_time,
        router_id: id(router_id),
        capabilities,
    })
}

fn withdraw(prefixes: &[&str]) -> Decoded {
    Decoded::Update(Update {
        withdrawn: prefixes.iter().map(|p| prefix(p)).collect(),
        ..Update::default()
    })
}

fn announce(announced: Vec<Announcement>) -> Decoded {
    Decoded::Update(Update {
        announced,
        ..Update::default()
    })
}

fn routes(prefixes: &[&str], attributes: PathAttributes) -> Announcement {
    Announcement {
        prefixes: prefixes.iter().map(|p| prefix(p)).collect(),
        attributes,
        link_local: None,
        others: Vec::new(),
    }
}

fn via(next_hop: &str) -> PathAttributes {
    PathAttributes {
        as_path: AsPath::sequence([asn(65001)]),
        ..PathAttributes::new(addr(next_hop))
    }
}

fn end_of(family: Family) -> Decoded {
    Decoded::Update(Update {
        end_of_rib: Some(family),
        ..Update::default()
    })
}

fn notification(code: u8, subcode: u8, data: &[u8]) -> Decoded {
    Decoded::Notification(Notification::new(code, subcode, data.to_vec()))
}

fn refresh(family: Family, kind: RefreshKind) -> Decoded {
    Decoded::RouteRefresh(RouteRefresh {
        family: family.into(),
        kind,
    })
}

fn unknown(code: u8, value: &[u8]) -> Capability {
    Capability::Unknown {
        code,
        value: value.to_vec(),
    }
}

const TEXT: &[u8] = b"\x13rack moves at 12:00";

fn opens() -> Vec<(&'static str, Golden)> {
    let mp = |family: Family| Capability::Multiprotocol(family.into());
    let gobgp = vec![
        Capability::RouteRefresh,
        Capability::Fqdn {
            hostname: "vm".to_owned(),
            domain: String::new(),
        },
        mp(Family::Ipv4),
        Capability::FourOctetAs(65001),
        Capability::ExtendedNextHop(vec![ExtendedNextHop::IPV4_OVER_IPV6]),
    ];
    let kept = |family: Family, forwarding| RestartFamily {
        family: family.into(),
        forwarding,
    };
    let bird = vec![
        mp(Family::Ipv4),
        mp(Family::Ipv6),
        Capability::RouteRefresh,
        Capability::ExtendedMessage,
        Capability::GracefulRestart(GracefulRestart {
            restart_time: 120,
            families: vec![kept(Family::Ipv4, false), kept(Family::Ipv6, false)],
            ..GracefulRestart::default()
        }),
        Capability::FourOctetAs(4_200_000_001),
        Capability::EnhancedRouteRefresh,
        unknown(71, &[]),
    ];
    let frr = vec![
        mp(Family::Ipv4),
        mp(Family::Ipv6),
        unknown(128, &[]),
        Capability::RouteRefresh,
        Capability::EnhancedRouteRefresh,
        Capability::FourOctetAs(4_200_000_001),
        Capability::ExtendedMessage,
        unknown(69, &[0, 1, 1, 1, 0, 2, 1, 1]),
        Capability::Fqdn {
            hostname: "edge-1".to_owned(),
            domain: String::new(),
        },
        Capability::GracefulRestart(GracefulRestart {
            restarted: true,
            notification: true,
            restart_time: 120,
            families: Vec::new(),
        }),
        unknown(71, &hex("00010180000000 00020180000000")),
    ];
    let many = vec![
        mp(Family::Ipv4),
        mp(Family::Ipv6),
        Capability::RouteRefresh,
        Capability::GracefulRestart(GracefulRestart {
            restarted: false,
            notification: true,
            restart_time: 120,
            families: vec![kept(Family::Ipv4, true), kept(Family::Ipv6, false)],
        }),
        Capability::FourOctetAs(4_200_000_001),
        Capability::ExtendedMessage,
        Capability::EnhancedRouteRefresh,
        unknown(71, &[0, 1, 1, 0x80, 0, 0x0e, 0x10]),
    ];
    let up_to = |n: u8| (0..n).collect::<Vec<u8>>();
    let classic = vec![Capability::FourOctetAs(65001), unknown(200, &up_to(245))];
    let extended = vec![
        Capability::FourOctetAs(65001),
        unknown(200, &up_to(250)),
        unknown(201, &[0xaa; 40]),
    ];
    let two = "10.0.0.2";
    vec![
        ("gobgp_open", golden(open(65001, 90, two, gobgp))),
        ("bird_open", golden(open(4_200_000_001, 240, two, bird))),
        ("frr_open", theirs(open(4_200_000_001, 180, two, frr))),
        ("open_255_classic", golden(open(65001, 90, two, classic))),
        ("open_extended", golden(open(65001, 90, two, extended))),
        (
            "open_no_capabilities",
            golden(open(65000, 0, "10.0.0.1", Vec::new())),
        ),
        (
            "open_one_parameter_each",
            theirs(open(4_200_000_001, 180, "192.0.2.1", many)),
        ),
    ]
    .into_iter()
    .map(|(name, golden)| {
        let cx = DecodeContext::before_open(asn(65000), id("10.9.9.9"), None);
        (name, Golden { cx, ..golden })
    })
    .collect()
}

fn announcements() -> Vec<(&'static str, Golden)> {
    let dns4 = "192.0.2.53/32";
    let dns6 = "2001:db8::53/128";
    let global = "2001:db8:1::2";
    let ibgp_attributes = PathAttributes {
        origin: Origin::Incomplete,
        med: Some(50),
        local_pref: Some(100),
        ext_communities: SmallSet::from(["rt:65001:1".parse().unwrap()]),
        large_communities: SmallSet::from(["65001:1:2".parse().unwrap()]),
        ..PathAttributes::new(addr("10.0.0.2"))
    };
    let raw = |flags, code, value: &str| (flags, code, hex(value));
    let reflected = Announcement {
        others: vec![
            raw(0x40, AttributeCode::ATOMIC_AGGREGATE, ""),
            raw(0xc0, AttributeCode::AGGREGATOR, "0000fdf2 c0000201"),
            raw(0x80, AttributeCode::ORIGINATOR_ID, "c0000202"),
            raw(0x80, AttributeCode::CLUSTER_LIST, "c0000203 c0000204"),
            raw(0xe0, AttributeCode(200), "0102"),
        ],
        ..routes(
            &["10.10.8.0/21"],
            PathAttributes {
                as_path: AsPath(vec![65010, 65020, 65034, 65035]),
                local_pref: Some(200),
                ..via("10.0.0.2")
            },
        )
    };
    let both = Decoded::Update(Update {
        withdrawn: vec![prefix("203.0.113.0/24"), prefix("2001:db8:3::/48")],
        announced: vec![
            routes(&[dns4], via("10.0.0.2")),
            routes(&[dns6], via(global)),
        ],
        ..Update::default()
    });
    let with_community = PathAttributes {
        communities: SmallSet::from(["65001:100".parse().unwrap()]),
        ..via("10.0.0.2")
    };
    let shared_link = Announcement {
        link_local: Some("fe80::2".parse().unwrap()),
        ..routes(&[dns6], via(global))
    };
    let old = Golden {
        cx: DecodeContext {
            four_octet_as: false,
            ..cx()
        },
        ..golden(announce(vec![routes(
            &[dns4],
            PathAttributes {
                as_path: AsPath::sequence([asn(4_200_000_001), asn(65001)]),
                ..via("10.0.0.2")
            },
        )]))
    };
    let one = |announcement| announce(vec![announcement]);
    let ibgp_routes = routes(&["0.0.0.0/0", "198.51.100.0/24"], ibgp_attributes);
    vec![
        ("update_ipv4", golden(one(routes(&[dns4], with_community)))),
        ("update_ipv4_ibgp", ibgp(golden(one(ibgp_routes)))),
        (
            "update_ipv6",
            golden(one(routes(&[dns6, "2001:db8:2::/48"], via(global)))),
        ),
        ("update_ipv6_link_local", theirs(one(shared_link))),
        (
            "update_ipv4_over_ipv6",
            golden(one(routes(&[dns4], via("fe80::2")))),
        ),
        ("update_both_families", theirs(both)),
        ("update_old_speaker", old),
        ("update_reflected", ibgp(theirs(one(reflected)))),
    ]
}

/// How other speakers encoded one route of each family.
fn captured() -> Vec<(&'static str, Golden)> {
    let via = |next_hop| PathAttributes {
        as_path: AsPath::sequence([asn(4_200_000_001)]),
        ..PathAttributes::new(addr(next_hop))
    };
    let bird4 = PathAttributes {
        communities: SmallSet::from(["65001:100".parse().unwrap()]),
        ext_communities: SmallSet::from(["rt:65001:1".parse().unwrap()]),
        large_communities: SmallSet::from(["65001:1:2".parse().unwrap()]),
        ..via("10.0.0.2")
    };
    let frr = |next_hop| PathAttributes {
        med: Some(0),
        ..via(next_hop)
    };
    let one = |route, attributes| announce(vec![routes(&[route], attributes)]);
    let (dns4, dns6) = ("192.0.2.53/32", "2001:db8::53/128");
    vec![
        ("bird_update_ipv4", golden(one(dns4, bird4))),
        ("bird_update_ipv6", theirs(one(dns6, via("2001:db8:1::2")))),
        ("frr_update_ipv4", theirs(one(dns4, frr("10.0.0.2")))),
        ("frr_update_ipv6", theirs(one(dns6, frr("::ffff:10.0.0.2")))),
    ]
}

fn others() -> Vec<(&'static str, Golden)> {
    let shutdown = notification(6, 2, TEXT);
    let hard_reset = notification(6, 9, &[&[6, 4], TEXT].concat());
    vec![
        ("keepalive", golden(Decoded::Keepalive)),
        (
            "update_withdraw_ipv4",
            golden(withdraw(&["192.0.2.53/32", "198.51.100.0/24"])),
        ),
        (
            "update_withdraw_ipv6",
            golden(withdraw(&["2001:db8::53/128"])),
        ),
        ("end_of_rib_ipv4", golden(end_of(Family::Ipv4))),
        ("end_of_rib_ipv6", golden(end_of(Family::Ipv6))),
        ("notification_shutdown", golden(shutdown)),
        (
            "notification_max_prefix",
            golden(notification(6, 1, &[0, 1, 1, 0, 0, 0, 100])),
        ),
        ("notification_hold_timer", golden(notification(4, 0, &[]))),
        ("notification_hard_reset", golden(hard_reset)),
        ("notification_one_byte", golden(notification(5, 2, &[2]))),
        (
            "route_refresh_ipv6",
            golden(refresh(Family::Ipv6, RefreshKind::Request)),
        ),
        (
            "route_refresh_begin",
            golden(refresh(Family::Ipv4, RefreshKind::Begin)),
        ),
    ]
}

/// Every file has its meaning here and the other way round.
fn table() -> Vec<(&'static str, Vec<u8>, Golden)> {
    let mut files = load();
    let all = [opens(), announcements(), captured(), others()]
        .into_iter()
        .flatten();
    let table = all
        .map(|(name, golden)| {
            let bytes = files.remove(name);
            (
                name,
                bytes.unwrap_or_else(|| panic!("no {name}.hex")),
                golden,
            )
        })
        .collect();
    assert!(files.is_empty(), "not in the table: {:?}", files);
    table
}

/// How many routes are announced and withdrawn.
fn routes_in(update: &Update) -> (usize, usize) {
    let announced = update.announced.iter().map(|a| a.prefixes.len()).sum();
    (announced, update.withdrawn.len())
}

#[test]
fn every_golden_message_means_what_it_says() {
    for (name, bytes, golden) in table() {
        let frame = frame(&bytes);
        let received = decode(&frame, &golden.cx);
        assert_eq!(received.as_ref(), Ok(&golden.message), "{name}");
        if let Decoded::Update(update) = golden.message {
            let (announced, withdrawn) = routes_in(&update);
            let summary = UpdateSummary {
                announced,
                withdrawn,
                end_of_rib: update.end_of_rib,
            };
            let got = decode_message(&frame, &golden.cx);
            assert_eq!(got, Ok(Received::Update(summary)), "{name}");
        }
    }
}

/// As the announcer would send it.
fn written(message: &Decoded, cx: &DecodeContext) -> Vec<u8> {
    let message = match message.clone() {
        Decoded::Open(open) => Message::Open(open),
        Decoded::Notification(notification) => Message::Notification(notification),
        Decoded::Keepalive => Message::Keepalive,
        Decoded::RouteRefresh(refresh) => Message::RouteRefresh(refresh),
        Decoded::Update(update) => {
            if let Some(family) = update.end_of_rib {
                return end_of_rib(family);
            }
            let mut negotiated = super::negotiated();
            negotiated.session = cx.session;
            negotiated.four_octet_as = cx.four_octet_as;
            negotiated.extended_next_hop = update.announced.iter().any(|announcement| {
                let next_hop = announcement.attributes.next_hop;
                next_hop.is_ipv6() && announcement.prefixes[0].family() == Family::Ipv4
            });
            let routes = update.announced.iter().flat_map(|announcement| {
                let routes = announcement.prefixes.iter();
                routes.map(|prefix| (*prefix, announcement.attributes.clone()))
            });
            let withdrawn = update.withdrawn.iter().copied().collect();
            let packed = Packer::new(&withdrawn, &routes.collect(), &negotiated, MAX_LEN);
            return packed.flat_map(|packed| packed.bytes).collect();
        }
    };
    message.encode().unwrap()
}

#[test]
fn every_golden_message_of_our_own_making_is_written_the_same() {
    for (name, bytes, golden) in table() {
        let written = written(&golden.message, &golden.cx);
        if golden.ours {
            assert_eq!(written, bytes, "{name}");
        } else if !matches!(golden.message, Decoded::Update(_)) {
            let again = decode(&frame(&written), &golden.cx);
            assert_eq!(again, Ok(golden.message), "{name}");
        }
    }
}

#[test]
fn a_message_cut_short_is_incomplete_and_its_header_is_no_error() {
    for (name, bytes, _) in table() {
        for end in 0..bytes.len() {
            let mut framer = Framer::new();
            framer.push(&bytes[..end]);
            assert_eq!(framer.next(MAX_LEN), Ok(None), "{name} cut at {end}");
            assert_eq!(framer.buffered(), end);
        }
    }
}

/// The message is cut short, and the length in its header agrees with that.
#[test]
fn a_message_that_ends_early_is_an_error_of_its_kind_or_a_smaller_message() {
    for (name, bytes, golden) in table() {
        let whole = frame(&bytes);
        for end in 0..whole.body.len() {
            let short = Frame {
                kind: whole.kind,
                body: whole.body[..end].to_vec(),
            };
            let got = decode(&short, &golden.cx);
            match (MessageType::from_code(whole.kind).unwrap(), got) {
                // Data may end anywhere; so may routes, between two of them.
                (MessageType::Notification, Ok(_)) => assert!(end >= 2, "{name} cut at {end}"),
                (MessageType::Update, Ok(Decoded::Update(update))) => {
                    let Decoded::Update(full) = &golden.message else {
                        panic!("{name}");
                    };
                    let count = |(announced, withdrawn)| announced + withdrawn;
                    let (got, full) = (count(routes_in(&update)), count(routes_in(full)));
                    assert!(got < full, "{name} cut at {end}");
                }
                (kind, Err(error)) => {
                    let code = Notification::from(&error).code;
                    let own = match kind {
                        MessageType::Open => 2,
                        MessageType::Update => 3,
                        MessageType::RouteRefresh => 7,
                        MessageType::Notification | MessageType::Keepalive => 1,
                    };
                    assert!(code == own || code == 1, "{name} cut at {end}: {error}");
                }
                (_, Ok(message)) => panic!("{name} cut at {end} is {message:?}"),
            }
        }
    }
}

/// One byte at a time, several values in every place: nothing panics, and every error has a valid code.
#[test]
fn no_changed_byte_is_worse_than_an_error() {
    for (_, bytes, golden) in table() {
        let whole = frame(&bytes);
        for at in 0..whole.body.len() {
            for value in [0, 1, 2, 3, 0x0f, 0x21, 0x40, 0x7f, 0x80, 0xc0, 0xfe, 0xff] {
                let mut changed = whole.clone();
                changed.body[at] = value;
                let got = decode(&changed, &golden.cx);
                if let Err(error) = &got {
                    let notification = Notification::from(error);
                    assert!((1..=3).contains(&notification.code) || notification.code == 7);
                    assert!(notification.encode().len() <= MAX_LEN);
                }
            }
        }
    }
}

/// Some bytes of `body` changed, cut out or doubled, or another message's put in.
fn mutated(body: &[u8], other: &[u8], chance: &mut Rng) -> Vec<u8> {
    let mut body = body.to_vec();
    let below = |chance: &mut Rng, n: usize| {
        let n = u64::try_from(n).unwrap();
        usize::try_from(chance.below(n)).unwrap()
    };
    for _ in 0..=chance.below(3) {
        let at = below(chance, body.len() + 1);
        let length = below(chance, 8).min(body.len() - at);
        match chance.below(4) {
            0 => body[at..at + length].fill(u8::try_from(chance.below(256)).unwrap()),
            1 => drop(body.drain(at..at + length)),
            2 => {
                let from = below(chance, other.len() + 1);
                let piece = other[from..].iter().take(24).copied();
                body.splice(at..at, piece);
            }
            _ => {
                if let Some(byte) = body.get_mut(at) {
                    *byte = byte.wrapping_add(if chance.below(2) == 0 { 1 } else { 0xff });
                }
            }
        }
    }
    body
}

/// Encoding a decoded message and decoding it again gives the same message. UPDATEs are left out: they are encoded
/// from routes, not from a decoded message.
fn reads_back(message: &Decoded, cx: &DecodeContext) {
    if !matches!(message, Decoded::Update(_)) {
        let again = decode(&frame(&written(message, cx)), cx);
        assert_eq!(again.as_ref(), Ok(message));
    }
}

#[test]
fn random_damage_never_panics_and_what_is_left_reads_back() {
    let table = table();
    let mut chance = Rng::new(7);
    let mut read = 0;
    for round in 0..400 {
        for (index, (_, bytes, golden)) in table.iter().enumerate() {
            let (_, other, _) = &table[(index + round) % table.len()];
            let whole = frame(bytes);
            let body = mutated(&whole.body, &frame(other).body, &mut chance);
            let damaged = Frame {
                kind: whole.kind,
                body,
            };
            let got = decode(&damaged, &golden.cx);
            match got {
                Ok(message) => {
                    read += 1;
                    reads_back(&message, &golden.cx);
                    if let Decoded::Notification(notification) = message {
                        assert!(!notification.to_string().is_empty());
                    }
                }
                Err(error) => {
                    assert_ne!(Notification::from(&error).code, 0);
                    assert!(!error.to_string().is_empty());
                }
            }
        }
    }
    assert!(read > 1000, "damage is mild enough to reach everything");
}
