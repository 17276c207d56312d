//! Durations as Go writes them (`time.ParseDuration`): `10s`, `1m30s`, `1.5s`, `500ms`. Not negative.

use std::fmt;
use std::time::Duration;

use crate::net::ParseError;

/// A bare `0` is zero; any other bare number is refused, because GoCast reads it as nanoseconds.
pub fn parse(s: &str) -> Result<Duration, ParseError> {
    const EXPECTED: &str = "a duration such as 10s, 1m30s, 1.5s or 500ms";
    const BARE: &str = "a duration: a unit is missing (GoCast reads a bare number as nanoseconds); write 10s, 1m30s, 1.5s or 500ms";
    if s == "0" {
        return Ok(Duration::ZERO);
    }
    if !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(ParseError::new(s, BARE));
    }
    nanos(s)
        .map(Duration::from_nanos)
        .ok_or_else(|| ParseError::new(s, EXPECTED))
}

fn nanos(s: &str) -> Option<u64> {
    let mut rest = s;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(unit_at);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(scaled(number, *nanos)?)?;
        rest = tail;
    }
    (!s.is_empty()).then_some(total)
}

/// A decimal number times the unit; digits below a nanosecond are dropped, as in Go.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut total = whole.checked_mul(unit)?;
    let mut scale = unit;
    for digit in fraction.chars().take(19) {
        scale /= 10;
        total = total.checked_add(u64::from(digit.to_digit(10)?).checked_mul(scale)?)?;
    }
    Some(total)
}

/// Longest first; the micro sign and the Greek letter are both taken, as in Go.
const UNITS: &[(&str, u64)] = &[
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ns", 1),
];

/// Writes a duration so that `parse` reads the same one back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown(pub Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_zero() {
            return f.write_str("0s");
        }
        let mut left = self.0.as_nanos();
        for (name, nanos) in UNITS.iter().filter(|(name, _)| name.is_ascii()) {
            let count = left / u128::from(*nanos);
            if count > 0 {
                write!(f, "{count}{name}")?;
                left -= count * u128::from(*nanos);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("1.5s", 1500),
            (".5s", 500),
            ("1.s", 1000),
            ("500ms", 500),
            ("2h", 7_200_000),
            ("1h0m0.25s", 3_600_250),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse("15us"), parse("15µs"));
        assert_eq!(parse("1ns"), Ok(Duration::from_nanos(1)));
    }

    #[test]
    fn a_bare_number_is_refused_with_what_to_write() {
        let error = parse("10").unwrap_err().to_string();
        assert!(error.contains("write 10s"), "{error}");
        for text in [
            "",
            "s",
            "-1s",
            "+1s",
            "1x",
            "1.2.3s",
            "1s ",
            "99999999999h",
            ".s",
            "1 s",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for nanos in [0, 1, 1500, 1_500_000_000, 5_430_000_000_001, 90_000_000_000] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(parse(&Shown(duration).to_string()), Ok(duration));
        }
        assert_eq!(Shown(Duration::from_secs(90)).to_string(), "1m30s");
        assert_eq!(Shown(Duration::from_millis(1500)).to_string(), "1s500ms");
    }
}
