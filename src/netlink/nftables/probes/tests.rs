use super::super::super::golden::{Golden, attrs, golden, message, truncations};
use super::super::{NFT_MSG_NEWRULE, SUBSYSTEM};
use super::*;

fn table() -> ProbeTable {
    ProbeTable {
        name: "sidecast".to_owned(),
        token: 0x0102_0304_0506_0708,
    }
}

fn probe(vip: &str, tag: u16) -> Probe {
    let vip = vip.parse().unwrap();
    Probe { vip, tag }
}

fn counted() -> Counted {
    of_port(9, &[probe("192.0.2.53", 1), probe("2001:db8:53::1", 1)])
}

fn of_port(port: u16, probes: &[Probe]) -> Counted {
    probes.iter().map(|probe| (*probe, port)).collect()
}

/// The payloads of one kind of message.
fn ours(batch: &Batch, kind: u16) -> Vec<Vec<u8>> {
    let of_kind = batch.requests.iter();
    let of_kind = of_kind.filter(|request| request.kind == SUBSYSTEM << 8 | kind);
    let payload = |request: &Request| message(&request.encode(1)).payload.to_vec();
    of_kind.map(payload).collect()
}

fn tools(golden: &Golden, kind: u16) -> Vec<Vec<u8>> {
    let requests = golden.requests();
    let of_kind = requests.iter();
    let of_kind = of_kind.filter(|message| message.kind == SUBSYSTEM << 8 | kind);
    let all: Vec<_> = of_kind.map(|message| message.payload.to_vec()).collect();
    assert!(!all.is_empty(), "nothing of kind {kind}");
    all
}

#[test]
fn sets_counters_and_elements_are_what_nft_makes() {
    let golden = golden("nft-probe-sets");
    let batch = table().create(&counted(), false, Ownership::Unowned);
    let batch = batch.unwrap();
    for kind in [NFT_MSG_NEWTABLE, NFT_MSG_NEWOBJ] {
        assert_eq!(ours(&batch, kind), tools(&golden, kind), "kind {kind}");
    }
    // `nft` fills a set before it makes the next.
    let sorted = |mut all: Vec<Vec<u8>>| {
        all.sort();
        all
    };
    let kind = NFT_MSG_NEWSETELEM;
    assert_eq!(sorted(ours(&batch, kind)), sorted(tools(&golden, kind)));
    let (ours, tools) = (ours(&batch, NFT_MSG_NEWSET), tools(&golden, NFT_MSG_NEWSET));
    assert_eq!(ours.len(), tools.len());
    for (ours, tool) in ours.iter().zip(&tools) {
        // NFTA_SET_USERDATA: only `nft` uses it.
        let mut tool = attrs(tool, 4);
        assert!(tool.remove(&13).is_some());
        assert_eq!(attrs(ours, 4), tool);
    }
}

/// `nft` 1.0.6 takes no raw payload in the key of a map of counters: the file has the source port there.
#[test]
fn chains_and_rules_are_what_nft_makes() {
    let golden = golden("nft-probe-rules");
    let batch = table().create(&counted(), false, Ownership::Unowned);
    let batch = batch.unwrap();
    let (our_rules, mut nft_rules) = (
        ours(&batch, NFT_MSG_NEWRULE),
        tools(&golden, NFT_MSG_NEWRULE),
    );
    assert_eq!(our_rules.len(), RULES);
    let field = |offset: u8| {
        let base = [8, 0, 2, 0, 0, 0, 0, 2];
        [base, [8, 0, 3, 0, 0, 0, 0, offset]].concat()
    };
    for rule in &mut nft_rules[..2] {
        let at = rule
            .windows(16)
            .position(|bytes| bytes == field(0))
            .expect("the source port");
        rule.splice(at..at + 16, field(16));
    }
    for (ours, nfts) in our_rules.iter().zip(&nft_rules) {
        assert_eq!(attrs(ours, 4)[&2], attrs(nfts, 4)[&2], "the chain");
        assert_eq!(ours, nfts);
    }
    assert_eq!(our_rules.len(), nft_rules.len());
    let chains = |all: Vec<Vec<u8>>| -> Vec<_> {
        let all = all.iter().map(|chain| attrs(chain, 4));
        all.collect()
    };
    let kind = NFT_MSG_NEWCHAIN;
    assert_eq!(chains(ours(&batch, kind)), chains(tools(&golden, kind)));
}

#[test]
fn an_element_is_deleted_as_with_nft() {
    let golden = golden("nft-probe-delete");
    let one = probe("192.0.2.53", 1);
    let gone = BTreeSet::from([one]);
    let batch = table().change(&of_port(9, &[one]), &gone, &Counted::new());
    let [ours, _, _] = &ours(&batch.unwrap(), NFT_MSG_DELSETELEM)[..] else {
        panic!("from the map, the VIPs and the ports");
    };
    let mut ours = attrs(ours, 4);
    assert!(ours.remove(&NFTA_SET_ELEM_LIST_SET_ID).is_some());
    let [tool] = &tools(&golden, NFT_MSG_DELSETELEM)[..] else {
        panic!("one element");
    };
    assert_eq!(ours, attrs(tool, 4));
}

#[test]
fn errors_and_counters_are_read() {
    let golden = golden("nft-probe-errors");
    let answers = golden.answers();
    let elements = || {
        let all = answers.iter();
        all.filter(|message| message.kind == SUBSYSTEM << 8 | NFT_MSG_NEWSETELEM)
    };
    let of = |family: Family| -> Vec<ProbeError> {
        let set = errors_of(family).name;
        let of_set = elements().filter(|message| {
            let name = &attrs(message.payload, 4)[&NFTA_SET_ELEM_LIST_SET];
            name.strip_suffix(&[0]) == Some(set.as_bytes())
        });
        let errors = of_set.flat_map(|m| ProbeError::decode(family, m.payload).unwrap());
        errors.collect()
    };
    let error = |vip, tag, from: &str, (kind, code), count| ProbeError {
        probe: probe(vip, tag),
        from: from.parse().unwrap(),
        kind,
        code,
        count,
    };
    let mut v4 = of(Family::Ipv4);
    v4.sort();
    assert_eq!(
        v4,
        [
            error("192.0.2.53", 1, "10.0.1.1", (3, 1), 7),
            error("192.0.2.53", 2, "192.0.2.53", (3, 3), 2),
        ]
    );
    assert_eq!(
        of(Family::Ipv6),
        [error("2001:db8:53::1", 1, "2001:db8:1::1", (1, 0), 3)]
    );
    let ours = errors("sidecast", Family::Ipv4).unwrap().encode(1);
    let requests = golden.requests();
    let asked = requests
        .iter()
        .filter(|m| m.kind == SUBSYSTEM << 8 | NFT_MSG_GETSETELEM)
        .map(|m| attrs(m.payload, 4));
    assert!(
        asked
            .into_iter()
            .any(|a| a == attrs(message(&ours).payload, 4))
    );
    let objects = answers
        .iter()
        .filter(|m| m.kind == SUBSYSTEM << 8 | NFT_MSG_NEWOBJ)
        .filter_map(|m| returned(m.payload).unwrap());
    let objects: Counted = objects.map(|(probe, _)| (probe, 9)).collect();
    assert_eq!(objects, counted());
    for message in answers {
        for family in Family::ALL {
            truncations(message.payload, |p| ProbeError::decode(family, p));
        }
        truncations(message.payload, returned);
    }
}

/// The names of the sets from which elements are deleted, and to which elements are added.
fn changed_sets(counted: &Counted, gone: &[Probe], new: &Counted) -> [Vec<String>; 2] {
    let gone = gone.iter().copied().collect();
    let batch = table().change(counted, &gone, new).unwrap();
    [NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM].map(|kind| {
        let names = ours(&batch, kind).into_iter().map(|payload| {
            let name = attrs(&payload, 4)[&NFTA_SET_ELEM_LIST_SET].clone();
            String::from_utf8(name).unwrap().replace('\0', "")
        });
        names.collect()
    })
}

#[test]
fn a_vip_and_a_port_are_in_their_sets_as_long_as_one_probe_has_them() {
    let [first, second] = [1, 2].map(|tag| probe("192.0.2.53", tag));
    let one = of_port(9, &[first]);
    let none = Counted::new();
    let nothing: [&[&str]; 2] = [&[], &[]];
    assert_eq!(changed_sets(&one, &[], &none), nothing);
    let added = changed_sets(&one, &[], &of_port(9, &[second]));
    assert_eq!(added, [&[][..], &["returned4"]]);
    let both = of_port(9, &[first, second]);
    let removed = changed_sets(&both, &[second], &none);
    assert_eq!(removed, [&["returned4"][..], &[]]);
    let all = ["returned4", "vips4", "ports"];
    assert_eq!(
        changed_sets(&both, &[first, second], &none),
        [&all[..], &[]]
    );
    let other_port = changed_sets(&one, &[first], &of_port(7, &[first]));
    assert_eq!(other_port, [&all, &all]);
    assert!(
        table()
            .change(&one, &BTreeSet::new(), &none)
            .unwrap()
            .is_empty
    );
}

#[test]
fn names_of_counters_are_read_as_they_are_written() {
    for vip in ["192.0.2.53", "2001:db8:53::1", "::ffff:192.0.2.53", "::"] {
        let probe = probe(vip, 65535);
        let name = probe.counter_name();
        assert!(!name.contains(':'), "{name}");
        assert_eq!(Probe::from_counter_name(&name), Some(probe));
    }
    for other in [
        "",
        "peer",
        "peer1",
        "peer1_",
        "dns_udp_53",
        "peer70000_192.0.2.53",
    ] {
        assert_eq!(Probe::from_counter_name(other), None);
    }
}

/// Ten thousand VIPs go in messages that fit.
#[test]
fn a_list_of_elements_fits_its_attribute() {
    let many =
        (0..10_000u16).map(|i| probe(&format!("2001:db8:ffff:ffff:ffff:ffff:ffff:{i:x}"), 65535));
    let many: Counted = many.map(|probe| (probe, 9)).collect();
    let batch = table().create(&many, true, Ownership::Owner).unwrap();
    let longest = batch.requests.iter().map(Request::encoded_len).max();
    assert!(longest.unwrap() < 65_000, "{longest:?}");
    assert_eq!(ours(&batch, NFT_MSG_NEWOBJ).len(), 10_000);
    assert_eq!(ours(&batch, NFT_MSG_DELTABLE).len(), 1);
}
