//! Points in time and ages as people and programs read them.

use std::time::{Duration, SystemTime};

/// A day of the proleptic Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    pub year: u64,
    pub month: u8,
    pub day: u8,
}

/// The date `days` days after 1970-01-01, by eras of 400 years that begin in March.
pub fn civil(days: u64) -> Civil {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    Civil {
        year: year_of_era + era * 400 + u64::from(month <= 2),
        month: u8::try_from(month).unwrap_or(1),
        day: u8::try_from(day).unwrap_or(1),
    }
}

/// `2024-02-29T12:30:05.250Z` (RFC 3339).
pub fn rfc3339(at: SystemTime) -> String {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let (days, clock) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let date = civil(days);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        date.year,
        date.month,
        date.day,
        clock / 3600,
        clock / 60 % 60,
        clock % 60,
        since.subsec_millis()
    )
}

/// `3s`, `4m12s`, `5h03m`, `12d07h`: two units at most, for a table.
pub fn age(age: Duration) -> String {
    let s = age.as_secs();
    match s {
        0..=59 => format!("{s}s"),
        60..=3_599 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..=86_399 => format!("{}h{:02}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_turn_at_leap_days_and_centuries() {
        let ymd = |days| {
            let c = civil(days);
            (c.year, c.month, c.day)
        };
        assert_eq!(ymd(0), (1970, 1, 1));
        assert_eq!(ymd(11_016), (2000, 2, 29));
        assert_eq!(ymd(11_017), (2000, 3, 1));
        assert_eq!(ymd(47_540), (2100, 2, 28));
        assert_eq!(ymd(47_541), (2100, 3, 1));
        assert_eq!(ymd(19_722), (2023, 12, 31));
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_709_209_805_250);
        assert_eq!(rfc3339(at), "2024-02-29T12:30:05.250Z");
    }

    #[test]
    fn ages_have_two_units() {
        let of = |s| age(Duration::from_secs(s));
        assert_eq!(of(3), "3s");
        assert_eq!(of(252), "4m12s");
        assert_eq!(of(18_180), "5h03m");
        assert_eq!(of(1_062_000), "12d07h");
    }
}
