//! What an operator wants of one app: that it runs, drains, is in maintenance, or leaves because the
//! process ends. A drain is over when the peers have acknowledged the withdraw and `drain_time` has passed.
//!
//! ```text
//!              drain     leave    undrain              maintenance  no maintenance  asked  acknowledged  deadline
//! Run          Drain     Leave    -                    Maintenance  -               -      -             -
//! Maintenance  Drain     Leave    -                    -            Run             -      -             -
//! Drain        -         -        Run or Maintenance   (kept for after the drain)   Asked  Waiting       Done
//! Leave        -         -        -                    (kept for after the drain)   Asked  Waiting       Done
//! ```

use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    Run,
    /// The maintenance file is there.
    Maintenance,
    /// Drained by name, or with all others.
    Drain(Drain),
    /// The process is about to end.
    Leave(Drain),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drain {
    progress: Progress,
    /// The maintenance file is there too.
    maintenance: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// The routes are withdrawn; the peers' kernels are still to be asked whether they have it all.
    Withdrawn {
        wait_until: Instant,
    },
    Asked {
        wait_until: Instant,
    },
    /// The peers have the withdraw; clients on the way are served until then.
    Acknowledged {
        wait_until: Instant,
    },
    Done,
}

impl Intent {
    /// Begins a drain, or one because the process ends; one that has begun goes on. `announced`: for how
    /// long clients are still served where routes are out; `None` where there is nobody to wait for.
    pub fn drain(&mut self, now: Instant, leaving: bool, announced: Option<Duration>) {
        if self.is_leaving() {
            return;
        }
        let wait_until = now + announced.unwrap_or_default();
        let drain = Drain {
            progress: match announced {
                Some(_) => Progress::Withdrawn { wait_until },
                None => Progress::Acknowledged { wait_until },
            },
            maintenance: *self == Self::Maintenance,
        };
        *self = if leaving {
            Self::Leave(drain)
        } else {
            Self::Drain(drain)
        };
    }

    /// Ends a drain; the process ends all the same.
    pub fn undrain(&mut self) {
        if let Self::Drain(drain) = *self {
            *self = if drain.maintenance {
                Self::Maintenance
            } else {
                Self::Run
            };
        }
    }

    /// The maintenance file appeared or went.
    pub fn set_maintenance(&mut self, present: bool) {
        match self {
            Self::Drain(drain) | Self::Leave(drain) => drain.maintenance = present,
            Self::Run | Self::Maintenance if present => *self = Self::Maintenance,
            Self::Run | Self::Maintenance => *self = Self::Run,
        }
    }

    /// The peers are being asked whether they have the withdraw; `false` where that need not be.
    pub fn asked(&mut self) -> bool {
        if let Some(progress) = self.progress()
            && let Progress::Withdrawn { wait_until } = *progress
        {
            *progress = Progress::Asked { wait_until };
            return true;
        }
        false
    }

    /// The peers have what was sent before they were asked; `false` where nobody asked.
    pub fn acknowledged(&mut self) -> bool {
        if let Some(progress) = self.progress()
            && let Progress::Asked { wait_until } = *progress
        {
            *progress = Progress::Acknowledged { wait_until };
            return true;
        }
        false
    }

    /// Does what is due.
    pub fn settle(&mut self, now: Instant) {
        if let Some(progress) = self.progress()
            && let Progress::Acknowledged { wait_until } = *progress
            && wait_until <= now
        {
            *progress = Progress::Done;
        }
    }

    fn progress(&mut self) -> Option<&mut Progress> {
        match self {
            Self::Drain(drain) | Self::Leave(drain) => Some(&mut drain.progress),
            Self::Run | Self::Maintenance => None,
        }
    }

    /// A drain waits for the peers.
    pub fn is_unacknowledged(&self) -> bool {
        match self {
            Self::Drain(drain) | Self::Leave(drain) => matches!(
                drain.progress,
                Progress::Withdrawn { .. } | Progress::Asked { .. }
            ),
            Self::Run | Self::Maintenance => false,
        }
    }

    /// A drain is under way or done.
    pub fn is_leaving(&self) -> bool {
        matches!(self, Self::Drain(_) | Self::Leave(_))
    }

    /// There is no drain that is still under way.
    pub fn is_settled(&self) -> bool {
        match self {
            Self::Drain(drain) | Self::Leave(drain) => drain.is_done(),
            Self::Run | Self::Maintenance => true,
        }
    }

    /// The maintenance file is there.
    pub fn is_maintenance(&self) -> bool {
        match self {
            Self::Run => false,
            Self::Maintenance => true,
            Self::Drain(drain) | Self::Leave(drain) => drain.maintenance,
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Drain(Drain { progress, .. }) | Self::Leave(Drain { progress, .. }) => {
                match progress {
                    Progress::Acknowledged { wait_until } => Some(*wait_until),
                    _ => None,
                }
            }
            Self::Run | Self::Maintenance => None,
        }
    }
}

impl Drain {
    pub fn is_done(&self) -> bool {
        self.progress == Progress::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(2);

    fn name(intent: Intent) -> String {
        let of = |word: &str, drain: Drain| {
            let progress = match drain.progress {
                Progress::Withdrawn { .. } => "withdrawn",
                Progress::Asked { .. } => "asked",
                Progress::Acknowledged { .. } => "acknowledged",
                Progress::Done => "done",
            };
            let file = if drain.maintenance { ", file" } else { "" };
            format!("{word} {progress}{file}")
        };
        match intent {
            Intent::Run => "run".to_owned(),
            Intent::Maintenance => "maintenance".to_owned(),
            Intent::Drain(drain) => of("drain", drain),
            Intent::Leave(drain) => of("leave", drain),
        }
    }

    /// Every state with every event, and what its deadline brings.
    #[test]
    fn the_table_of_transitions() {
        let now = Instant::now();
        let draining = |leaving: bool, steps: usize| {
            let mut intent = Intent::Run;
            intent.drain(now, leaving, Some(WAIT));
            let ways: [fn(&mut Intent) -> bool; 2] = [Intent::asked, Intent::acknowledged];
            ways[..steps.min(2)]
                .iter()
                .for_each(|step| assert!(step(&mut intent)));
            if steps == 3 {
                intent.settle(now + WAIT);
            }
            intent
        };
        let states = [
            Intent::Run,
            Intent::Maintenance,
            draining(false, 0),
            draining(false, 1),
            draining(false, 2),
            draining(false, 3),
            draining(true, 0),
        ];
        type Event = fn(&mut Intent, Instant);
        let events: [(&str, Event); 8] = [
            ("drain", |intent, now| intent.drain(now, false, Some(WAIT))),
            ("leave", |intent, now| intent.drain(now, true, None)),
            ("undrain", |intent, _| intent.undrain()),
            ("file", |intent, _| intent.set_maintenance(true)),
            ("no file", |intent, _| intent.set_maintenance(false)),
            ("asked", |intent, _| {
                intent.asked();
            }),
            ("acknowledged", |intent, _| {
                intent.acknowledged();
            }),
            ("deadline", |intent, now| {
                let at = intent.deadline();
                intent.settle(at.unwrap_or(now));
            }),
        ];
        let mut table = String::new();
        for state in states {
            table += &format!("{}:", name(state));
            for (event, apply) in events {
                let mut intent = state;
                apply(&mut intent, now);
                if intent != state {
                    table += &format!(" {event} -> {};", name(intent));
                }
            }
            table += "\n";
        }
        println!("{table}");
        assert_eq!(table, TABLE);
    }

    const TABLE: &str = "\
run: drain -> drain withdrawn; leave -> leave acknowledged; file -> maintenance;
maintenance: drain -> drain withdrawn, file; leave -> leave acknowledged, file; no file -> run;
drain withdrawn: undrain -> run; file -> drain withdrawn, file; asked -> drain asked;
drain asked: undrain -> run; file -> drain asked, file; acknowledged -> drain acknowledged;
drain acknowledged: undrain -> run; file -> drain acknowledged, file; deadline -> drain done;
drain done: undrain -> run; file -> drain done, file;
leave withdrawn: file -> leave withdrawn, file; asked -> leave asked;
";
}
