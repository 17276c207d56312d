//! Launches commands (`exec:` monitors, hooks): the child first runs this binary as `sidecast exec-as`, which
//! sets limits, user and signal mask and then calls `exec(2)`. `pre_exec` would be unsafe code between fork
//! and exec of a process with threads.
//!
//! Commands of root keep the capabilities of the bounding set, unless `agent.exec_user` names another user.

use super::exhaustion::is_out_of_resources;
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

/// The internal subcommand that sets up a child and calls `exec(2)`.
pub const COMMAND: &str = "exec-as";

/// Builds commands that [`become_command`] executes. Clones share the user.
#[derive(Clone, Debug)]
pub struct Launcher {
    program: PathBuf,
    core_limit: Option<u64>,
    user: Rc<RefCell<Option<String>>>,
}

impl Launcher {
    /// `program` is this binary; `core_limit` is the soft RLIMIT_CORE to restore in children.
    pub fn new(program: impl Into<PathBuf>, core_limit: Option<u64>) -> Self {
        Self {
            program: program.into(),
            core_limit,
            user: Rc::default(),
        }
    }

    /// The running binary, even if its file was replaced since; `argv[0]` without /proc.
    pub fn own(core_limit: Option<u64>) -> Self {
        let link = Path::new("/proc/self/exe");
        let called = std::env::args_os().next().filter(|_| !link.exists());
        Self::new(
            called.map_or_else(|| link.to_owned(), PathBuf::from),
            core_limit,
        )
    }

    /// From now on commands run as this user (a name, a number, or `UID:GID`), else as the user of this process.
    pub fn run_as(&self, user: Option<String>) {
        self.user.replace(user);
    }

    /// A command without `SIDECAST_*` variables. Consul tokens are passed only to commands from the
    /// configuration (`trusted`) that run as the same user.
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

/// Other `CONSUL_*` variables are kept, since GoCast passes them to its scripts.
fn is_passed_on(name: &OsStr, with_tokens: bool) -> bool {
    let name = name.to_string_lossy();
    let is_secret = || name.contains("TOKEN") || name.contains("AUTH");
    let is_token = name.starts_with("CONSUL_") && is_secret();
    !name.starts_with("SIDECAST_") && (with_tokens || !is_token)
}

/// Whether the process has not called `exec(2)` yet.
pub fn is_starting(pid: i32) -> bool {
    // procfs does not block.
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| name.trim_end().as_bytes() == STARTING.to_bytes())
}

/// The child's side of [`Launcher::command`]: executes the command. Returns only on failure, with the reason.
pub fn become_command(args: &[OsString]) -> String {
    let [core_limit, user, kind, words @ ..] = args else {
        return format!("{COMMAND} is an internal command");
    };
    // Marks the process as starting until exec replaces the name; it fails only for invalid values.
    let _ = nix::sys::prctl::set_name(STARTING);
    let _ = SigSet::all().thread_unblock();
    close_inherited();
    if let Some(soft) = core_limit.to_str().and_then(|text| text.parse().ok()) {
        // It fails if the operator has lowered the hard limit since.
        let _ = getrlimit(Resource::RLIMIT_CORE)
            .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_CORE, soft, hard));
    }
    let mut account = None;
    if let Some(user) = user.to_str().filter(|user| !user.is_empty()) {
        match privilege::switch_user_for_command(user) {
            Ok(found) => account = found,
            Err(error) => return format!("agent.exec_user: {error}"),
        }
    }
    let run = |program: &OsStr, args: &[&OsStr]| {
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
            let error = run(OsStr::new(shell), &args);
            if !is_missing(&error) {
                return format!("cannot run {shell}: {error}");
            }
        }
        return NO_SHELL.to_owned();
    }
    let Some((program, args)) = words.split_first() else {
        return "no program".to_owned();
    };
    let error = run(program, args);
    let program = program.to_string_lossy();
    if is_missing(&error) {
        format!("no such program, or not executable: {program}")
    } else {
        format!("cannot run {program}: {error}")
    }
}

/// Retries while memory or processes are exhausted, which says nothing about the service, until the caller's
/// timeout kills the child.
fn exec(command: &mut Command) -> io::Error {
    loop {
        let error = command.exec();
        if !is_out_of_resources(&error) {
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

/// Our own descriptors are close-on-exec; these were inherited from our parent.
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
/// At most 15 bytes, the kernel's limit.
const STARTING: &std::ffi::CStr = c"sidecast-starts";
const NO_SHELL: &str = "no shell in this image, neither bash nor sh: use the list form {exec: [PROGRAM, ARGUMENT]}, or an image with a shell";

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
