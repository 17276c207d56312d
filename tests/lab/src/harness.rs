//! Runs a target's tests in parallel threads, with a third outcome that libtest does not know: skipped,
//! because root or a program is missing. Understands the arguments `cargo test` passes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::child::{CHILD, become_program};
use crate::keeper;
use crate::service::{TCP, UDP, serve};

/// One test: its name, the programs it needs, and what it does.
#[derive(Clone, Copy)]
pub struct Test {
    name: &'static str,
    needs: &'static [&'static str],
    run: fn(),
    limit: Duration,
}

impl Test {
    pub const fn new(name: &'static str, needs: &'static [&'static str], run: fn()) -> Self {
        Self {
            name,
            needs,
            run,
            limit: LIMIT,
        }
    }

    /// Its time limit, where it differs from that of other tests.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Why it cannot run on this machine.
    fn lacks(&self) -> Option<String> {
        if !nix::unistd::geteuid().is_root() {
            return Some("needs root, to make network namespaces".to_owned());
        }
        let missing = self.needs.iter().find(|thing| program(thing).is_none())?;
        Some(format!("needs {missing}: run tests/setup"))
    }
}

/// The `main` of a test target; `sidecast` is the binary under test.
pub fn main(sidecast: &'static str, tests: &[Test]) -> ExitCode {
    if let Some(code) = begin(sidecast) {
        return code;
    }
    let wish = Selection::parse(std::env::args().skip(1));
    let chosen: Vec<Test> = tests
        .iter()
        .filter(|test| wish.matches(test.name))
        .copied()
        .collect();
    if wish.list {
        for test in &chosen {
            println!("{}: test", test.name);
        }
        return ExitCode::SUCCESS;
    }
    run(&chosen, wish.threads, tests.len() - chosen.len())
}

/// The first thing a binary with labs in it does, for the same binary is started again to be a service
/// or to become another program: then there is an exit code, and nothing else to do.
pub fn begin(sidecast: &'static str) -> Option<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [CHILD, program, ..] => Some(failed(&become_program(program, &args[2..]))),
        [kind @ (TCP | UDP), name, port] => Some(match serve(kind, name, port) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        }),
        [keeper::ARGUMENT, prefix] => Some(match keeper::keep(prefix) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        }),
        _ => {
            BINARY.get_or_init(|| sidecast);
            None
        }
    }
}

/// The sidecast under test: `SIDECAST_BIN`, else the one cargo built for this target.
pub fn binary() -> String {
    std::env::var("SIDECAST_BIN")
        .unwrap_or_else(|_| (*BINARY.get().expect("main has set it")).to_owned())
}

fn failed(error: &std::io::Error) -> ExitCode {
    eprintln!("{error}");
    ExitCode::FAILURE
}

/// What the command line asks for.
struct Selection {
    filters: Vec<String>,
    skip: Vec<String>,
    exact: bool,
    list: bool,
    threads: usize,
}

impl Selection {
    fn parse(mut args: impl Iterator<Item = String>) -> Self {
        let mut wish = Self {
            filters: Vec::new(),
            skip: Vec::new(),
            exact: false,
            list: false,
            threads: std::env::var("RUST_TEST_THREADS")
                .ok()
                .and_then(|text| text.parse().ok())
                .unwrap_or(THREADS),
        };
        while let Some(arg) = args.next() {
            let (flag, value) = arg.split_once('=').map_or((&*arg, None), |(flag, value)| {
                (flag, Some(value.to_owned()))
            });
            let mut value = || value.clone().or_else(|| args.next());
            match flag {
                "--exact" => wish.exact = true,
                "--list" => wish.list = true,
                "--skip" => wish.skip.extend(value()),
                "--test-threads" => {
                    let threads = value().and_then(|text| text.parse().ok());
                    wish.threads = threads.unwrap_or(wish.threads);
                }
                "--format" | "--color" | "--logfile" | "-Z" | "--report-time" => drop(value()),
                other if other.starts_with('-') => {}
                filter => wish.filters.push(filter.to_owned()),
            }
        }
        wish
    }

    fn matches(&self, name: &str) -> bool {
        let hit = |filter: &String| {
            if self.exact {
                name == filter
            } else {
                name.contains(&**filter)
            }
        };
        (self.filters.is_empty() || self.filters.iter().any(hit)) && !self.skip.iter().any(hit)
    }
}

fn run(tests: &[Test], threads: usize, filtered: usize) -> ExitCode {
    println!("\nrunning {} tests", tests.len());
    let begun = Instant::now();
    let (done, results) = channel();
    let mut waiting = tests.iter().copied();
    let mut running: BTreeMap<&'static str, (Instant, Duration)> = BTreeMap::new();
    let (mut passed, mut failures, mut skipped) = (0, Vec::new(), 0);
    loop {
        while running.len() < threads.max(1) {
            let Some(test) = waiting.next() else { break };
            if let Some(reason) = test.lacks() {
                println!("test {} ... skipped: {reason}", test.name);
                skipped += 1;
                continue;
            }
            running.insert(test.name, (Instant::now(), test.limit));
            start(test, done.clone());
        }
        if running.is_empty() {
            break;
        }
        let (name, ok) = next(&results, &running);
        let took = running.remove(name).map(|(since, _)| since.elapsed());
        let word = if ok { "ok" } else { "FAILED" };
        println!("test {name} ... {word} ({:.1?})", took.unwrap_or_default());
        if ok {
            passed += 1;
        } else {
            failures.push(name);
        }
    }
    keeper::dismiss();
    for name in &failures {
        println!("    failed: {name}");
    }
    let word = if failures.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {} failed; {skipped} ignored; 0 measured; {filtered} filtered out; finished in {:.2?}\n",
        failures.len(),
        begun.elapsed()
    );
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(101)
    }
}

/// Each test has a thread of its own: namespaces are entered by thread, and children die with it.
fn start(test: Test, done: Sender<(&'static str, bool)>) {
    std::thread::Builder::new()
        .name(test.name.to_owned())
        .spawn(move || {
            let ok = std::panic::catch_unwind(test.run).is_ok();
            // The channel is closed only after the harness has timed out.
            let _ = done.send((test.name, ok));
        })
        .expect("a thread");
}

/// The next result. A test that hangs ends the whole run, since a thread cannot be stopped.
fn next(
    results: &Receiver<(&'static str, bool)>,
    running: &BTreeMap<&'static str, (Instant, Duration)>,
) -> (&'static str, bool) {
    loop {
        match results.recv_timeout(Duration::from_secs(1)) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => unreachable!("the sender is kept in `run`"),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let mut tests = running.iter();
        if let Some((name, (_, limit))) = tests.find(|(_, (since, limit))| since.elapsed() > *limit)
        {
            println!("test {name} ... FAILED (hangs after {limit:?})");
            println!("test result: FAILED. 0 passed; 1 failed; 0 ignored");
            keeper::dismiss();
            std::process::exit(101);
        }
    }
}

/// Where a program is: installed, or put into the cache by `tests/setup`. An absolute path is itself.
pub fn program(name: &str) -> Option<PathBuf> {
    let folders = FOLDERS.iter().map(PathBuf::from);
    let cached =
        ["bin", "root/usr/sbin", "root/usr/bin", "venv/bin", ""].map(|sub| cache().join(sub));
    let mut places = folders.chain(cached).map(|folder| folder.join(name));
    places.find(|path| path.exists() && !path.is_dir())
}

/// Where `tests/setup` puts what it does not install: programs in `bin`, in `root` those that run only in
/// images, with their libraries, and in `machine` an emulator and what it boots.
pub fn cache() -> PathBuf {
    let set = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    set.unwrap_or_else(home).join("sidecast-tests")
}

static BINARY: OnceLock<&'static str> = OnceLock::new();

/// Labs mostly wait, so more of them than processors run at once; figures stay fair with few.
const THREADS: usize = 4;

/// How long one test may take; one of them compiles, on a machine that may be slow and busy.
const LIMIT: Duration = Duration::from_secs(1800);

/// Where programs are looked for.
const FOLDERS: [&str; 7] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/usr/lib/frr",
];
