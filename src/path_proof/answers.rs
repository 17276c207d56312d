//! What the shell's answers mean: which probes came back, and what follows from that.

use std::time::{Duration, Instant};

use super::probed::{Counted, Stage};
use super::{
    Change, ChangeKind, CountError, Output, PathError, Prover, RETRY, Target, VERDICT_AFTER,
};

impl Prover {
    /// A batch is counted from now on, or nothing is.
    pub(super) fn counting_answered(&mut self, now: Instant, result: Result<(), CountError>) {
        match self.counting.answer(result) {
            Ok(targets) => {
                for target in targets {
                    if let Some(probed) = self.targets.get_mut(&target)
                        && probed.counted == Counted::Asked
                    {
                        probed.counted = Counted::Yes;
                        self.begin(now, target);
                    }
                }
            }
            Err(error) => {
                self.counting.fail(now, error);
                self.uncount_all(now);
            }
        }
    }

    /// Nothing is counted any more: what is under way comes back unseen.
    pub(super) fn uncount_all(&mut self, now: Instant) {
        let removal = self.counting.clear();
        self.outputs.extend(removal);
        self.awaited.clear();
        let targets: Vec<Target> = self.targets.keys().copied().collect();
        for target in targets {
            let link = self.link(&target);
            let in_line = link.is_some_and(|link| link.rounds.contains(&target));
            self.stop_sending(&target);
            if let Some(probed) = self.targets.get_mut(&target) {
                // What called for a round is in the outcomes, and does not call again.
                probed.round_wanted |= in_line || probed.rounding;
                probed.counter_reset(Counted::No);
            }
            if self.counting.denied().is_none() {
                self.begin(now, target);
            }
            self.note_finding(&target);
        }
    }

    /// More came back than were sent: another host sends probes with our token, or the path duplicates them. Nothing is
    /// known of these targets, and they are asked again later.
    fn exceeded(&mut self, now: Instant, targets: Vec<Target>) {
        for target in targets {
            if self.proof(&target).is_none() {
                self.forget(now, target);
                continue;
            }
            self.stop_sending(&target);
            self.uncount(&target);
            if let Some(probed) = self.targets.get_mut(&target) {
                probed.exceeded(now + RETRY);
            }
            self.begin(now, target);
            self.note_finding(&target);
        }
        // What is under way to other targets is lost with the token.
        if self.renewed_at.is_none_or(|at| at + RETRY <= now) {
            self.renewed_at = Some(now);
            self.token = self.rng.next_u64();
            self.uncount_all(now);
        }
    }

    /// Reads the counters; if a read is in flight, once more after it.
    pub(super) fn read(&mut self, now: Instant) {
        self.reading.at = None;
        match self.reading.asked {
            Some(_) => self.reading.again = true,
            None => {
                self.reading.asked = Some(now);
                self.outputs.push_back(Output::Read);
            }
        }
    }

    /// Judges all targets with a probe under way.
    pub(super) fn counters(
        &mut self,
        now: Instant,
        returned: &[(Target, u64)],
        errors: &[PathError],
    ) {
        let read = self.reading.asked.take().unwrap_or(now);
        let mut exceeded = Vec::new();
        for (target, total) in returned {
            let Some(probed) = self.targets.get_mut(target) else {
                continue;
            };
            if probed.counted == Counted::Yes && !probed.note_returned(*total) {
                exceeded.push(*target);
                self.awaited.remove(target);
            }
        }
        let awaited: Vec<Target> = self.awaited.iter().copied().collect();
        for target in &awaited {
            if let Some(probed) = self.targets.get_mut(target) {
                probed.settle(read);
            }
        }
        for error in errors {
            if let Some(probed) = self.targets.get_mut(&error.target) {
                probed.note_error(error.target.vip, error);
            }
        }
        for target in &awaited {
            self.judge(now, target);
            self.await_returns(now, target, false);
        }
        if !exceeded.is_empty() {
            self.exceeded(now, exceeded);
        }
        if std::mem::take(&mut self.reading.again) {
            self.read(now);
        }
    }

    /// Sets when the counters are read for this target; `sent`: something has just left.
    pub(super) fn await_returns(&mut self, now: Instant, target: &Target, sent: bool) {
        let Some(probed) = self
            .targets
            .get(target)
            .filter(|probed| probed.is_awaited())
        else {
            self.awaited.remove(target);
            return;
        };
        self.awaited.insert(*target);
        let soon = probed.rounding && sent;
        let at = match probed.stage {
            // Each step reads.
            Stage::Burst { .. } => return,
            Stage::Rotation | Stage::Gone if soon => Some(now + ROUND_TRIP),
            Stage::Rotation | Stage::Gone => probed.lost_at().map(|at| at.max(now)),
        };
        let known = self.reading.at;
        self.reading.at = [known, at].into_iter().flatten().min();
    }

    /// Draws the conclusions from what is known of a target.
    pub(super) fn judge(&mut self, now: Instant, target: &Target) {
        let Some(probed) = self.targets.get_mut(target) else {
            return;
        };
        probed.overdue = now >= probed.since + VERDICT_AFTER;
        match probed.stage {
            Stage::Burst { .. } if probed.withdrawn => {
                if let Some(at) = probed.lost_since() {
                    let after = at.saturating_duration_since(probed.since);
                    self.gone(now, *target, after);
                }
            }
            Stage::Burst { .. } => {
                if let Some(at) = probed.first_back() {
                    let after = at.saturating_duration_since(probed.since);
                    probed.forwarded_after = Some(after);
                    probed.forget_before_first();
                    self.changes.push_back(Change {
                        target: *target,
                        what: ChangeKind::Forwarded(after),
                    });
                    return self.enter_rotation(now, *target, true);
                }
            }
            Stage::Rotation => {
                if probed.is_premature() {
                    self.steps.set(*target, Some(probed.since + VERDICT_AFTER));
                }
                if std::mem::take(&mut probed.round_wanted)
                    && let Some(link) = self.link(target)
                {
                    link.rounds.insert(*target);
                }
            }
            Stage::Gone => {}
        }
        self.note_finding(target);
    }

    /// Emits a change where the finding is another.
    pub(super) fn note_finding(&mut self, target: &Target) {
        let Some(finding) = self.proof(target).map(|proof| proof.finding.as_str()) else {
            return;
        };
        if let Some(probed) = self.targets.get_mut(target)
            && probed.shown != finding
        {
            probed.shown = finding;
            self.changes.push_back(Change {
                target: *target,
                what: ChangeKind::Finding,
            });
        }
    }
}

/// How soon a full round is looked at first.
const ROUND_TRIP: Duration = Duration::from_millis(20);
