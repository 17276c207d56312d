//! What the kernel refuses, and what vanishes while a step is under way.

use std::time::Duration;

use super::bench::{Bench, config, prefix, secs};
use crate::core::{Event, StepError, StepResult};

const DNS: &str = "{name: dns, vip: 192.0.2.53/32, monitors: [\"port:udp:53\"], interval: 1s, hold_down: \"off\"}";
const VIP: &str = "192.0.2.53/32";
const MONITOR: &str = "port:udp:53";

fn announcing() -> Bench {
    let mut bench = Bench::with_outcomes(config("", DNS), &[(MONITOR, true)]);
    assert!(bench.is_announced(VIP));
    bench.done();
    bench
}

fn fail(bench: &mut Bench, permanent: bool) {
    let message = "no buffer space".to_owned();
    let error = StepError { message, permanent };
    bench.failing.insert(prefix(VIP), error);
}

/// The kernel takes one step, and the address goes again before its answer is there.
fn vanish_meanwhile(bench: &mut Bench, result: Result<StepResult, StepError>) {
    let held = bench.held.as_mut().and_then(Vec::pop);
    let (id, _) = held.expect("a step is under way");
    bench.event(Event::AddressLost(prefix(VIP)));
    bench.event(Event::Done { step: id, result });
}

#[test]
fn an_address_whose_removal_failed_is_renewed_when_it_is_wanted_again() {
    // Wanted again while the removal waits for its next attempt, and after its lease was left to end.
    for down in [14, 200] {
        let mut bench = announcing();
        bench.says(MONITOR, false);
        fail(&mut bench, true);
        bench.advance(secs(down));
        assert_eq!(bench.done(), [format!("withdraw {VIP}")]);
        bench.failing.clear();
        bench.says(MONITOR, true);
        bench.advance(secs(1));
        assert!(bench.is_announced(VIP));
        assert_eq!(bench.app("dns").vips[0].problem, None, "nothing fails now");
        bench.done();
        // The lease is 270 s.
        bench.advance(secs(200));
        let renewed = bench
            .done()
            .iter()
            .filter(|did| did.starts_with("renew"))
            .count();
        assert!(renewed >= 2, "after {down} s: {renewed}");
    }
}

#[test]
fn a_lease_runs_out_while_a_removal_is_owed() {
    let mut bench = announcing();
    bench.says(MONITOR, false);
    fail(&mut bench, false);
    bench.advance(secs(600));
    assert_eq!(bench.done(), [format!("withdraw {VIP}")]);
    // The kernel ends it.
    bench.failing.clear();
    bench.addresses.clear();
    bench.event(Event::AddressLost(prefix(VIP)));
    bench.advance(secs(60));
    assert_eq!(bench.done(), [""; 0], "nothing is left to be removed");
}

/// A renewal that will not work for half a minute must not keep the address on lo at the exit.
#[test]
fn a_removal_does_not_wait_for_the_sake_of_a_renewal_that_failed() {
    let mut bench = announcing();
    fail(&mut bench, true);
    bench.advance(secs(91));
    bench.failing.clear();
    bench.says(MONITOR, false);
    bench.advance(secs(12));
    assert_eq!(
        bench.done(),
        [format!("withdraw {VIP}"), format!("remove {VIP}")]
    );
}

#[test]
fn a_renewal_that_fails_is_tried_again_before_the_lease_ends() {
    let mut bench = announcing();
    fail(&mut bench, false);
    bench.advance(secs(100));
    assert_eq!(bench.done(), [""; 0]);
    assert!(bench.is_announced(VIP));
    bench.failing.clear();
    bench.advance(secs(11));
    assert_eq!(bench.done(), [format!("renew {VIP}")]);
    bench.advance(secs(68));
    assert_eq!(bench.done(), [""; 0], "once, and then at a third");
}

/// Whether the answer or the loss came first cannot be known: the address is added once more, and once only.
#[test]
fn an_address_removed_during_a_step_is_added_again() {
    let error = || StepError {
        message: "no buffer space".to_owned(),
        permanent: false,
    };
    for result in [Ok(StepResult::Done), Ok(StepResult::Foreign), Err(error())] {
        let mut bench = announcing();
        bench.held = Some(Vec::new());
        bench.event(Event::AddressLost(prefix(VIP)));
        vanish_meanwhile(&mut bench, result.clone());
        bench.advance(Duration::from_millis(300));
        let held = bench.held.take().expect("it was a list");
        assert_eq!(held.len(), 1, "after {result:?}: {held:?}");
        bench.addresses.clear();
        for (id, step) in held {
            bench.step(id, &step);
        }
        bench.advance(secs(1));
        let added = bench
            .done()
            .iter()
            .filter(|did| did.starts_with("add"))
            .count();
        assert_eq!(added, 1, "after {result:?}");
        assert!(bench.is_announced(VIP));
    }
}
