//! What the page is made of, over made-up apps and peers.

use super::*;

#[test]
fn the_policy_allows_exactly_what_the_page_has() {
    for (tag, inner) in [("style", STYLE), ("script", SCRIPT)] {
        let source = format!("{tag}-src 'sha256-{}'", base64(&sha256(inner.as_bytes())));
        assert!(POLICY.contains(&source), "mod.rs wants {source}");
        assert!(!inner.contains(&format!("</{tag}")));
    }
}

#[test]
fn the_page_needs_nothing_from_elsewhere_and_writes_no_markup() {
    for word in [
        "://",
        "src=",
        "url(",
        "@import",
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "style=",
        "onclick",
    ] {
        assert!(!STYLE.contains(word) && !SCRIPT.contains(word), "{word}");
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(group);
        for index in 0..4_usize {
            let digit = (bits >> (18 - 6 * index)) & 63;
            text.push(if index <= chunk.len() {
                char::from(DIGITS[digit as usize])
            } else {
                '='
            });
        }
    }
    text
}

/// FIPS 180-4, with the constants made as it says: from the roots of the first primes.
fn sha256(message: &[u8]) -> Vec<u8> {
    let primes: Vec<u32> = (2..312).filter(|n| (2..*n).all(|d| n % d != 0)).collect();
    let k: Vec<u32> = primes
        .iter()
        .take(64)
        .map(|p| root_fraction(*p, 3))
        .collect();
    let mut h: Vec<u32> = primes
        .iter()
        .take(8)
        .map(|p| root_fraction(*p, 2))
        .collect();
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend((message.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks(64) {
        let mut w: Vec<u32> = block
            .chunks(4)
            .map(|b| u32::from_be_bytes(b.try_into().unwrap()))
            .collect();
        for i in 16..64 {
            let (a, b) = (w[i - 15], w[i - 2]);
            let s0 = a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3);
            let s1 = b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10);
            let sum = w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]);
            w.push(sum.wrapping_add(s1));
        }
        let mut v = h.clone();
        for i in 0..64 {
            let s1 = v[4].rotate_right(6) ^ v[4].rotate_right(11) ^ v[4].rotate_right(25);
            let choice = (v[4] & v[5]) ^ (!v[4] & v[6]);
            let t1 = [s1, choice, k[i], w[i]]
                .iter()
                .fold(v[7], |a, b| a.wrapping_add(*b));
            let s0 = v[0].rotate_right(2) ^ v[0].rotate_right(13) ^ v[0].rotate_right(22);
            let majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
            v.rotate_right(1);
            v[4] = v[4].wrapping_add(t1);
            v[0] = t1.wrapping_add(s0).wrapping_add(majority);
        }
        for (sum, word) in h.iter_mut().zip(v) {
            *sum = sum.wrapping_add(word);
        }
    }
    h.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// The first 32 bits behind the point of the `n`th root, exactly: by bisection over 128 bits.
fn root_fraction(prime: u32, n: u32) -> u32 {
    let (mut low, mut high) = (0_u128, 1 << 37);
    let target = u128::from(prime) << (32 * n);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if middle.pow(n) <= target {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low & 0xffff_ffff) as u32
}

#[test]
fn the_hash_is_the_standard_one() {
    let hex: String = sha256(b"abc").iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        hex,
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}
