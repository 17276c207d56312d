//! Metrics of this process from /proc (`proc_pid_stat(5)`, `proc_pid_limits(5)`), and protection of its memory.

use crate::view::metrics::Process;
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{SysconfVar, sysconf};
use std::fs;

/// `None` where /proc is not readable.
pub fn read() -> Option<Process> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let boot = boot_time().unwrap_or(0.0);
    let ticks = positive(sysconf(SysconfVar::CLK_TCK).ok()??)?;
    let page = positive(sysconf(SysconfVar::PAGE_SIZE).ok()??)?;
    let mut process = parse(&stat, ticks, page)?;
    process.start_seconds += boot;
    process.open_fds = u64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()?;
    process.max_fds = getrlimit(Resource::RLIMIT_NOFILE).ok()?.0;
    Some(process)
}

/// This host's name without its domain; `None` where it has none.
pub fn hostname() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    let first = name.split('.').next().unwrap_or_default();
    (!first.is_empty()).then(|| first.to_owned())
}

/// Protects memory, which holds passwords and tokens, from other processes of the same user
/// (`PR_SET_DUMPABLE`) and from core files. Call it after the last change of user, which resets the flag, and
/// after writing `uid_map`, which needs it. Returns the previous soft RLIMIT_CORE, for children.
pub fn protect_memory() -> Option<u64> {
    let kept = set_dumpable(false).and_then(|()| no_core());
    kept.inspect_err(|error| {
        log::warn!(
            "cannot protect memory, other processes of this user can read passwords and tokens: {error}"
        );
    })
    .ok()
}

/// Sets only the soft limit, so that children can raise it again.
fn no_core() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    setrlimit(Resource::RLIMIT_CORE, 0, hard)?;
    Ok(soft)
}

fn positive(value: nix::libc::c_long) -> Option<u32> {
    u32::try_from(value).ok().filter(|value| *value > 0)
}

/// Seconds since 1970 at which the machine started.
fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines()
        .find_map(|line| line.strip_prefix("btime ")?.parse().ok())
}

/// The fields behind the program's name, which may hold spaces and brackets itself.
fn parse(stat: &str, ticks: u32, page: u32) -> Option<Process> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // The first one here is field 3 of the manual page.
    let field = |number: usize| fields.get(number - 3);
    let seconds = |number: usize| Some(field(number)?.parse::<f64>().ok()? / f64::from(ticks));
    let number = |number: usize| field(number)?.parse::<u64>().ok();
    Some(Process {
        cpu_seconds: seconds(14)? + seconds(15)?,
        threads: number(20)?,
        start_seconds: seconds(22)?,
        virtual_bytes: number(23)?,
        resident_bytes: number(24)? * u64::from(page),
        open_fds: 0,
        max_fds: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_move_the_fields() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 900 0 0 0 25 75 0 0 20 0 3 0 400 5000000 321 18446744073709551615";
        let process = parse(stat, 100, 4096).unwrap();
        assert_eq!(process.cpu_seconds, 1.0);
        assert_eq!((process.threads, process.virtual_bytes), (3, 5_000_000));
        assert_eq!(process.resident_bytes, 321 * 4096);
        assert_eq!(process.start_seconds, 4.0);
    }

    #[test]
    fn this_process_is_read() {
        let process = read().unwrap();
        assert!(process.resident_bytes > 0 && process.open_fds > 2 && process.threads > 0);
        assert!(process.start_seconds > 1_600_000_000.0);
    }
}
