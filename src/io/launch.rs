//! How commands of the operator's begin: this program is run first, does in the new process what has to be
//! done there, and becomes the command. `exec(2)` resets neither a limit nor a user, and `pre_exec` would be
//! unsafe code in a process that has threads.
//!
//! What a child of root does otherwise is the operator's wish: it has all that the bounding set leaves.

use super::monitor::is_own_want;
use super::privilege;
use crate::app::ExecCommand;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

/// The hidden command by which this program knows that it is to become another one.
pub const COMMAND: &str = "exec-as";

/// Makes the commands that [`become_command`] completes. Clones share the user.
#[derive(Clone, Debug)]
pub struct Launcher {
    program: PathBuf,
    core_limit: Option<u64>,
    user: Rc<RefCell<Option<String>>>,
}

impl Launcher {
    /// `program` is this one; `core_limit`, the soft one, is what the process had before it took its own away.
    pub fn new(program: impl Into<PathBuf>, core_limit: Option<u64>) -> Self {
        Self {
            program: program.into(),
            core_limit,
            user: Rc::default(),
        }
    }

    /// This very program, also when its file was replaced meanwhile; without /proc what it was called by.
    pub fn own(core_limit: Option<u64>) -> Self {
        let link = Path::new("/proc/self/exe");
        let called = std::env::args_os().next().filter(|_| !link.exists());
        Self::new(
            called.map_or_else(|| link.to_owned(), PathBuf::from),
            core_limit,
        )
    }

    /// From now on commands run as this user (a name, a number, or `UID:GID`), else as we do.
    pub fn run_as(&self, user: Option<String>) {
        self.user.replace(user);
    }

    /// A command with an environment that holds none of our variables. The tokens of Consul go along only
    /// to what the operator wrote (`trusted`) and what runs as we do.
    pub fn command(&self, words: &ExecCommand, trusted: bool) -> Command {
        let user = self.user.borrow();
        let with_tokens = trusted && user.is_none();
        let mut command = Command::new(&self.program);
        let core_limit = self.core_limit.map(|limit| limit.to_string());
        command.arg(COMMAND).arg(core_limit.unwrap_or_default());
        command.arg(user.as_deref().unwrap_or_default());
        match words {
            ExecCommand::Shell(line) => command.args([SHELL, line]),
            ExecCommand::Argv(words) => command.arg(ARGV).args(words),
        };
        for (name, _) in std::env::vars_os() {
            if !is_passed_on(&name, with_tokens) {
                command.env_remove(name);
            }
        }
        command
    }
}

/// `CONSUL_HTTP_ADDR` and what else GoCast's scripts have found there so far stays.
fn is_passed_on(name: &OsStr, with_tokens: bool) -> bool {
    let name = name.to_string_lossy();
    let is_secret = || name.contains("TOKEN") || name.contains("AUTH");
    let is_token = name.starts_with("CONSUL_") && is_secret();
    !name.starts_with("SIDECAST_") && (with_tokens || !is_token)
}

/// Whether the process has not become its command yet.
pub fn is_starting(pid: i32) -> bool {
    // The kernel's, which never waits; without it nothing hangs.
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| name.trim_end().as_bytes() == STARTING.to_bytes())
}

/// The other half of [`Launcher::command`]: becomes the command. It returns only where that failed, with
/// the reason.
pub fn become_command(args: &[OsString]) -> String {
    let [core_limit, user, kind, words @ ..] = args else {
        return format!("{COMMAND} is not for you");
    };
    // A name that says so until it is the command's; the others fail only for impossible values.
    let _ = nix::sys::prctl::set_name(STARTING);
    let _ = SigSet::all().thread_unblock();
    close_inherited();
    if let Some(soft) = core_limit.to_str().and_then(|text| text.parse().ok()) {
        // A hard limit that was lowered meanwhile is the operator's.
        let _ = getrlimit(Resource::RLIMIT_CORE)
            .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_CORE, soft, hard));
    }
    let mut account = None;
    if let Some(user) = user.to_str().filter(|user| !user.is_empty()) {
        match privilege::become_for_command(user) {
            Ok(found) => account = found,
            Err(error) => return format!("agent.exec_user: {error}"),
        }
    }
    let begin = |program: &OsStr, args: &[&OsStr]| {
        let mut command = Command::new(program);
        command.args(args);
        if let Some(account) = &account {
            let names = ["USER", "LOGNAME"].map(|variable| (variable, &account.name));
            command.envs(names).env("HOME", &account.dir);
        }
        exec(&mut command)
    };
    let words: Vec<&OsStr> = words.iter().map(OsString::as_os_str).collect();
    if kind == SHELL {
        for shell in ["bash", "sh"] {
            let args = [&[OsStr::new("-c")], &*words].concat();
            let error = begin(OsStr::new(shell), &args);
            if !is_missing(&error) {
                return format!("cannot run {shell}: {error}");
            }
        }
        return NO_SHELL.to_owned();
    }
    let Some((program, args)) = words.split_first() else {
        return "no program".to_owned();
    };
    let error = begin(program, args);
    let program = program.to_string_lossy();
    if is_missing(&error) {
        format!("no such program, or not executable: {program}")
    } else {
        format!("cannot run {program}: {error}")
    }
}

/// Our own want of memory or processes says nothing about the service: it is tried again until whoever
/// waits for the command gives it up.
fn exec(command: &mut Command) -> io::Error {
    loop {
        let error = command.exec();
        if !is_own_want(&error) {
            return error;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::PermissionDenied
    )
}

/// Ours close by themselves; these were left to us by whoever started us.
fn close_inherited() {
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let numbers: Vec<i32> = match fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries.flatten().filter_map(number).collect(),
        // Without /proc, those that a shell could have opened.
        Err(_) => (0..256).collect(),
    };
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // The folder's own is among them, and closed by now.
        let _ = nix::unistd::close(number);
    }
}

const SHELL: &str = "shell";
const ARGV: &str = "argv";
/// As long as the kernel takes.
const STARTING: &std::ffi::CStr = c"sidecast-starts";
const NO_SHELL: &str = "there is no shell in this image, neither bash nor sh: use the list form {exec: [PROGRAM, ARGUMENT]} or an image with a shell";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_variables_stay_ours() {
        let passed = |name: &str, tokens| is_passed_on(OsStr::new(name), tokens);
        for name in ["PATH", "CONSUL_HTTP_ADDR", "CONSUL_NODE", "SIDECASTING"] {
            assert!(passed(name, true) && passed(name, false), "{name}");
        }
        for name in [
            "SIDECAST_BGP_PASSWORD",
            "SIDECAST_CONFIG_YAML",
            "SIDECAST_APP",
        ] {
            assert!(!passed(name, true) && !passed(name, false), "{name}");
        }
        for name in ["CONSUL_TOKEN", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_AUTH"] {
            assert!(passed(name, true) && !passed(name, false), "{name}");
        }
    }
}
