//! A process and all that it started: what they use together, from proc(5).

use std::collections::BTreeMap;
use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The processes under one, itself included.
pub struct Family(Vec<u32>);

impl Family {
    pub fn of(first: u32) -> Self {
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for entry in fs::read_dir("/proc").expect("it is mounted").flatten() {
            let number = entry.file_name().to_string_lossy().parse().ok();
            // One may have ended meanwhile.
            if let Some(pid) = number
                && let Some(parent) = field(pid, 1)
            {
                children.entry(parent).or_default().push(pid);
            }
        }
        let (mut all, mut next) = (vec![first], 0);
        while let Some(one) = all.get(next).copied() {
            all.extend(children.remove(&one).unwrap_or_default());
            next += 1;
        }
        Self(all)
    }

    /// MiB, with shared pages divided among those that share them.
    pub fn memory(&self) -> f64 {
        let kib = self.0.iter().filter_map(|pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        });
        kib.sum::<f64>() / 1024.0
    }

    /// Milliseconds of all of them, and of those that have ended and were waited for.
    pub fn cpu(&self) -> f64 {
        let ticks = self
            .0
            .iter()
            .flat_map(|pid| (11..15).filter_map(|index| field(*pid, index)));
        // Linux counts in hundredths of a second.
        ticks.map(f64::from).sum::<f64>() * 10.0
    }

    /// SIGKILL for all of them.
    pub fn kill(&self) {
        for pid in &self.0 {
            end(*pid);
        }
    }

    /// SIGKILL for the one that speaks BGP: a shell starts it, or it is the first itself.
    pub fn kill_speaker(&self) {
        let name = |pid: &&u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let bird = self.0.iter().find(|pid| name(pid).trim() == "bird");
        end(*bird.or(self.0.first()).expect("itself"));
    }
}

fn end(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    // It may have ended with the one that started it.
    let _ = kill(pid, Signal::SIGKILL);
}

/// A field of /proc/PID/stat, counted from behind the name.
fn field(pid: u32, index: usize) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(index)?.parse().ok()
}

/// MiB of memory that may be used.
pub fn available() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").expect("it is mounted");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.expect("the kernel has it") / 1024.0
}
