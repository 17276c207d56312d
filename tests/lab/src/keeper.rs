//! Cleans up when the test binary itself is killed. Children die with their thread, but not those that change
//! their user (FRR): the kernel then clears PR_SET_PDEATHSIG (prctl(2)). So a small process of our own waits until
//! our end of a pipe is closed.

use std::fs;
use std::io::{Read, Result};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Starts the keeper, once.
pub(crate) fn hire() {
    let mut keeper = KEEPER.lock().unwrap_or_else(PoisonError::into_inner);
    keeper.get_or_insert_with(|| {
        Command::new("/proc/self/exe")
            .args([ARGUMENT, &prefix(std::process::id())])
            .stdin(Stdio::piped())
            // Ctrl-C must end the test binary only; the keeper then cleans up.
            .process_group(0)
            .spawn()
            .expect("the keeper starts")
    });
}

/// Ends it, at the end of a run.
pub(crate) fn dismiss() {
    let mut keeper = KEEPER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(mut keeper) = keeper.take() {
        drop(keeper.stdin.take());
        let _ = keeper.wait();
    }
}

/// The keeper process: waits, then ends every process with a folder of these labs in its command line, and
/// removes the folders.
pub(crate) fn keep(prefix: &str) -> Result<()> {
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let ours = String::from_utf8_lossy(&line).contains(&format!("/{prefix}"));
        if ours {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// How the folders of a test process begin.
pub(crate) fn prefix(process: u32) -> String {
    format!("sidecast-lab.{process}.")
}

static KEEPER: Mutex<Option<Child>> = Mutex::new(None);

/// First argument by which the test binary knows that it is to be the keeper.
pub(crate) const ARGUMENT: &str = "--lab-keeper";
