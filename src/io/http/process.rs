//! What the kernel says of this process, for the metrics (proc(5)).

use std::fs;

use crate::view::metrics::Process;

/// `None` where /proc is not mounted or not readable.
pub fn process() -> Option<Process> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let open_fds = fs::read_dir("/proc/self/fd").ok()?.count();
    let mut process = parse(&stat, &status, &limits, &boot)?;
    // One of them is the directory itself.
    process.open_fds = u64::try_from(open_fds).ok()?.saturating_sub(1);
    Some(process)
}

fn parse(stat: &str, status: &str, limits: &str, boot: &str) -> Option<Process> {
    // The name stands in brackets and may hold anything: fields are counted behind the last one.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| {
        let text = fields.get(field.checked_sub(FIRST_BEHIND_NAME)?)?;
        text.parse::<u32>().ok().map(f64::from)
    };
    let kilobytes = |key: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(key))?;
        let value: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(value)
    };
    let max_fds = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"))?
        .split_whitespace()
        .next()?;
    let booted: u32 = boot
        .lines()
        .find_map(|l| l.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    Some(Process {
        cpu_seconds: (ticks(UTIME)? + ticks(STIME)?) / USER_HZ,
        resident_bytes: kilobytes("VmRSS:")? * 1024,
        virtual_bytes: kilobytes("VmSize:")? * 1024,
        open_fds: 0,
        max_fds: max_fds.parse().unwrap_or(u64::MAX),
        threads: kilobytes("Threads:")?,
        start_seconds: f64::from(booted) + ticks(STARTTIME)? / USER_HZ,
    })
}

/// Field numbers of proc_pid_stat(5), which counts from 1.
const FIRST_BEHIND_NAME: usize = 3;
const UTIME: usize = 14;
const STIME: usize = 15;
const STARTTIME: usize = 22;
/// Linux shows ticks to programs at this rate on every architecture we build for, whatever its own.
const USER_HZ: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive() {
        let process = process().unwrap();
        assert!(process.resident_bytes > 100_000);
        assert!(process.virtual_bytes >= process.resident_bytes);
        assert!(process.open_fds >= 3 && process.max_fds >= process.open_fds);
        assert!(process.threads >= 1);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        assert!((now - 86_400.0..now + 5.0).contains(&process.start_seconds));
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 1 1 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 3 0 1000 0 0";
        let status = "Name:\ta\nVmSize:\t  20 kB\nVmRSS:\t 10 kB\nThreads:\t3\n";
        let limits = "Limit Soft Hard Units\nMax open files            1024  524288  files\n";
        let process = parse(stat, status, limits, "cpu 1\nbtime 1700000000\n").unwrap();
        assert!((process.cpu_seconds - 2.0).abs() < 1e-9);
        assert!((process.start_seconds - 1_700_000_010.0).abs() < 1e-9);
        assert_eq!((process.resident_bytes, process.threads), (10_240, 3));
        assert_eq!(process.max_fds, 1024);
        assert!(parse("", "", "", "").is_none());
    }
}
