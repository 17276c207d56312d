//! The fuzz targets' bodies on the stable toolchain: what is known of real speakers and kernels, what
//! the fuzzer found worth keeping, and seeded damage to both, for a few seconds. `tests/fuzz/run` is the
//! long way.

#[path = "fuzz/bodies.rs"]
mod bodies;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use sidecast::timer::Rng;

#[test]
fn frames() {
    smoke(
        "frames",
        &messages(|message| [&[7, 0][..], message].concat()),
    );
}

#[test]
fn open() {
    smoke("open", &messages(|message| message[19..].to_vec()));
}

#[test]
fn update() {
    smoke(
        "update",
        &messages(|message| [&[0], &message[19..]].concat()),
    );
}

#[test]
fn bfd() {
    let packet = |state: u8, your: u8| {
        [
            &[40, 0x20, state << 6, 3, 24, 0, 0, 0, 9, 0, 0, 0, your][..],
            &[0, 4, 0x93, 0xe0, 0, 4, 0x93, 0xe0, 0, 0, 0, 0],
        ]
        .concat()
    };
    let life = [packet(1, 0), packet(2, 1), packet(3, 1), packet(0, 1)].concat();
    smoke("bfd", &[life]);
}

#[test]
fn netlink() {
    let mut seeds = Vec::new();
    for text in files("tests/data/netlink") {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let digits: String = lines
            .map(|line| line.trim_start_matches(['<', '>', ' ']))
            .collect();
        seeds.push(hex(&digits));
    }
    smoke("netlink", &seeds);
}

#[test]
fn http() {
    let seeds = [
        "\u{5}GET /register?name=a&vip=192.0.2.1%2f32&monitor=port:tcp:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "\u{3}POST /drain HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n\
         9;x=y\r\n{\"name\":1\r\n1\r\n}\r\n0\r\n\r\n",
        "\u{9}POST /heartbeat HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 6\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\nname=aGET / HTTP/1.1\r\nHost: b\r\n\r\n",
    ];
    smoke("http", &seeds.map(|text| text.as_bytes().to_vec()));
}

#[test]
fn params() {
    let seeds = [
        "name=dns (primary)\0vip=192.0.2.1/32,2001:db8::1/128\0monitor=port:udp:53\0monitor=exec:a; b\0\
         nat=udp:53:8053\0interval=1.5s\0rise=2\0flap_limit=3/90s\0med=7",
        "name=a\0vip=192.0.2.1/32\0when_down={med: 1000, bgp_communities: [graceful-shutdown, '65001:1']}\0\
         when_draining={\"as_path_prepend\": 3}\0next_hop6=2001:db8::9",
    ];
    smoke("params", &bytes(seeds));
}

#[test]
fn tags() {
    let seeds = [
        "enable_gocast\0gocast_vip=192.0.2.1/32\0gocast_monitor=consul\0gocast_nat=tcp:80:8080",
        "gocast_vip=192.0.2.1/32\0sidecast_vip=192.0.2.2/32\0sidecast_when_down={med: 1}\0sidecast_med=7",
    ];
    smoke("tags", &bytes(seeds));
}

#[test]
fn environment() {
    let seeds = [
        "BGP_LOCAL_AS=65001\0BGP_PEER_AS=65000\0BGP_PEER_IP=10.0.0.1\0APP_NAME=a\0APP_VIP=192.0.2.1/32\0\
         APP_MONITORS=port:tcp:80;{monitor: 'http://a', headers: {x: y}}\0APP_WHEN_DOWN={med: 7}",
        "BGP_LOCAL_AS=65001\0BGP_PEERS=[{peer_ip: 10.0.0.1, peer_as: 65000, bfd: {interval: 300ms}}]\0\
         CONFIG_YAML=agent: {listen_addr: 'off'}",
    ];
    smoke("environment", &bytes(seeds));
}

#[test]
fn configuration() {
    let mut seeds: Vec<Vec<u8>> = files("tests/data/config")
        .into_iter()
        .map(String::into_bytes)
        .collect();
    seeds.push(b"x-a: &a {b: [1, 2]}\nbgp:\n  <<: *a\n  local_as: 1\n".to_vec());
    smoke("configuration", &seeds);
}

#[test]
fn state() {
    let seeds = [
        "{\"drain_all\": true, \"drains\": [\"a\"], \"consul_passed\": [\"b\"], \"apps\": [{\"name\": \"a\", \
         \"vips\": [\"192.0.2.1/32\"], \"monitors\": [{\"monitor\": \"port:tcp:80\", \"rise\": 2}], \
         \"vip_config\": {\"med\": 1, \"when_down\": {\"med\": 2}}}], \
         \"consul\": [{\"id\": \"1\", \"service\": \"web\", \"passing\": true, \"tags\": [\"x\"]}]}",
        "drains: [\"a\"]\napps:\n  - {name: a, vips: [192.0.2.1/32], hold_down: \"off\"}\nconsul:\n  \
         - {id: a, service: b, passing: true, tags: []}\n",
    ];
    smoke("state", &bytes(seeds));
}

fn bytes<const N: usize>(texts: [&str; N]) -> Vec<Vec<u8>> {
    texts.map(|text| text.as_bytes().to_vec()).into()
}

/// The seeds and the corpus as they are, then damaged. No input may take long, nor all of them together
/// more memory than a small container has.
fn smoke(name: &str, seeds: &[Vec<u8>]) {
    let (_, body) = bodies::TARGETS
        .into_iter()
        .find(|(target, _)| *target == name)
        .expect("a target");
    let corpus =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fuzz/corpus/{name}.hex"));
    let corpus = fs::read_to_string(corpus).unwrap_or_default();
    let mut inputs = seeds.to_vec();
    inputs.extend(corpus.lines().map(hex));
    assert!(!inputs.is_empty());
    setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY).expect("less is always allowed");
    let timed = |input: &[u8]| {
        let begun = Instant::now();
        body(input);
        let took = begun.elapsed();
        assert!(took < SLOWEST, "{took:?}");
    };
    inputs.iter().for_each(|input| timed(input));
    let mut chance = Rng::new(0x51de_ca57);
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        let input = damaged(&inputs, &mut chance);
        if let Err(panic) = std::panic::catch_unwind(|| timed(&input)) {
            let digits: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("input: {digits}");
            std::panic::resume_unwind(panic);
        }
        if begun.elapsed() > LIMIT {
            break;
        }
    }
}

fn damaged(inputs: &[Vec<u8>], chance: &mut Rng) -> Vec<u8> {
    let mut below = |bound: usize| {
        let bound = u64::try_from(bound).unwrap_or(1);
        usize::try_from(chance.below(bound)).unwrap_or(0)
    };
    let mut bytes = inputs[below(inputs.len())].clone();
    for _ in 0..=below(4) {
        let at = below(bytes.len() + 1);
        match below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, [0, 1, 0x7f, 0x80, 0xff][below(5)]),
            2 => {
                let other = &inputs[below(inputs.len())];
                bytes.splice(at.., other[below(other.len() + 1)..].iter().copied());
            }
            3 if at < bytes.len() => drop(bytes.remove(at)),
            4 if at < bytes.len() => bytes[at] ^= 1 << below(8),
            _ if at < bytes.len() => bytes[at] = [0, 1, 4, 0x40, 0xfe, 0xff][below(6)],
            _ => {}
        }
    }
    bytes
}

/// The golden messages of `tests/data/bgp`.
fn messages(input: impl Fn(&[u8]) -> Vec<u8>) -> Vec<Vec<u8>> {
    let texts = files("tests/data/bgp").into_iter();
    let digits = texts.map(|text| text.lines().skip(1).collect::<String>());
    digits.map(|digits| input(&hex(&digits))).collect()
}

fn files(folder: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut paths: Vec<_> = fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    let texts: Vec<String> = paths
        .iter()
        .map(|path| fs::read_to_string(path).expect("text"))
        .collect();
    assert!(!texts.is_empty());
    texts
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| {
            let pair: String = pair.iter().collect();
            u8::from_str_radix(&pair, 16).expect("hexadecimal")
        })
        .collect()
}

/// On a busy machine, in a debug build.
const SLOWEST: Duration = Duration::from_secs(10);
/// Of address space: the stacks of a dozen threads are in it.
const MEMORY: u64 = 512 << 20;
const ROUNDS: usize = 200_000;
const LIMIT: Duration = Duration::from_secs(3);
