//! Waiting for something to become true: never a bare sleep.

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Asks until the answer is `Ok`, and returns it; after `limit` it panics with the last `Err`.
#[track_caller]
pub fn until<T, E: Display>(
    limit: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T, E>,
) -> T {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        let last = match probe() {
            Ok(value) => return value,
            Err(last) => last,
        };
        assert!(
            begun.elapsed() < limit,
            "waited {limit:?} in vain: {what}\nat last: {last}"
        );
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// A probe's answer from a condition, with the message for when it does not hold.
pub fn expect(condition: bool, otherwise: impl Display) -> Result<(), String> {
    if condition {
        Ok(())
    } else {
        Err(otherwise.to_string())
    }
}
