//! The command line: arguments in, an [`Invocation`] out. GoCast's flags are rewritten first.

use lexopt::{Arg, Parser, ValueExt};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// One call of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    pub command: Command,
    pub global: Global,
}

/// What every command may be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Global {
    pub config: Option<PathBuf>,
    /// Where the client commands find the running one.
    pub addr: Option<String>,
    /// 0 info, 1 debug, 2 and more trace.
    pub verbosity: u8,
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Run {
        dry_run: bool,
    },
    Check,
    Demo {
        keep: bool,
    },
    /// A process of the demo's own: `router` or `service`.
    DemoPart {
        part: String,
    },
    /// A call to the announcer that runs already.
    Ask(Ask),
    Healthcheck,
    Help,
    Version,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Status {
        json: bool,
        watch: bool,
    },
    Register {
        name: String,
        vip: String,
        monitors: Vec<String>,
        nats: Vec<String>,
        options: Vec<(String, String)>,
    },
    Unregister {
        name: String,
    },
    Drain {
        name: Option<String>,
        wait: bool,
    },
    Undrain {
        name: Option<String>,
    },
    Reload,
}

/// A command line that says something else.
#[derive(Debug)]
pub enum UsageError {
    Lexopt(lexopt::Error),
    UnknownCommand(String),
    Missing {
        command: &'static str,
        argument: &'static str,
    },
    Unexpected {
        command: &'static str,
        argument: String,
    },
    LogFormat(String),
    Verbosity(String),
    Option(String),
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lexopt(error) => write!(f, "{error}"),
            Self::UnknownCommand(name) => write!(f, "unknown command `{name}`"),
            Self::Missing { command, argument } => write!(f, "`{command}` needs {argument}"),
            Self::Unexpected { command, argument } => {
                write!(f, "`{command}` does not take `{argument}`")
            }
            Self::LogFormat(value) => write!(f, "--log-format: `{value}` is neither text nor json"),
            Self::Verbosity(value) => {
                write!(f, "-v: `{value}` is not a number: write -v=2, or -v alone")
            }
            Self::Option(value) => write!(f, "--option: `{value}` is not KEY=VALUE"),
        }
    }
}

impl std::error::Error for UsageError {}

impl From<lexopt::Error> for UsageError {
    fn from(error: lexopt::Error) -> Self {
        Self::Lexopt(error)
    }
}

pub const HELP: &str = "\
sidecast announces a service's anycast address by BGP while the service is healthy.

usage: sidecast [COMMAND] [OPTIONS]

commands:
  run [--dry-run]           run the announcer (the default); configured by file, environment or both
  check                     validate the configuration and print it with where each value came from
  demo [--keep]             show the main job in a second, in namespaces of its own
  status [--json] [--watch] peers, apps, VIPs and monitors of the running announcer
  register NAME VIP [--monitor M]... [--nat N]... [--option K=V]...
  unregister NAME
  drain [NAME] [--no-wait]  withdraw one app, or all; returns when it is done
  undrain [NAME]
  reload                    read the configuration again
  healthcheck               exit 0 while the announcer is alive

options:
  -c, --config FILE         configuration (YAML); also SIDECAST_CONFIG
      --addr ADDR           the running announcer: host:port or unix:/path; also SIDECAST_ADDR
  -v                        more log, twice with every BGP message; also RUST_LOG
      --log-format FORMAT   text or json
  -h, --help                this text
  -V, --version

exit codes: 0 done, 1 failure at run time, 2 bad usage or configuration
            (status: 1 something is down, 3 not reachable)
";

/// Reads the arguments behind the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let mut parser = Parser::from_args(rewrite_gocast(args.into_iter().collect())?);
    let mut raw = Raw::default();
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => raw.help = true,
            Arg::Short('V') | Arg::Long("version") => raw.version = true,
            Arg::Short('v') | Arg::Long("verbose") => {
                raw.global.verbosity = raw.global.verbosity.saturating_add(1)
            }
            Arg::Short('c') | Arg::Long("config") => {
                raw.global.config = Some(parser.value()?.into())
            }
            Arg::Long("addr") => raw.global.addr = Some(parser.value()?.string()?),
            Arg::Long("log-format") => {
                raw.global.log_format = log_format(&parser.value()?.string()?)?
            }
            Arg::Long("dry-run") => raw.flags.push("--dry-run"),
            Arg::Long("keep") => raw.flags.push("--keep"),
            Arg::Long("json") => raw.flags.push("--json"),
            Arg::Long("watch") => raw.flags.push("--watch"),
            Arg::Long("no-wait") => raw.flags.push("--no-wait"),
            Arg::Long("monitor") => raw.monitors.push(parser.value()?.string()?),
            Arg::Long("nat") => raw.nats.push(parser.value()?.string()?),
            Arg::Long("option") => raw.options.push(key_value(&parser.value()?.string()?)?),
            Arg::Value(word) => raw.words.push(word.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let global = raw.global.clone();
    Ok(Invocation {
        command: raw.command()?,
        global,
    })
}

fn log_format(value: &str) -> Result<LogFormat, UsageError> {
    match value {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(UsageError::LogFormat(value.to_owned())),
    }
}

fn key_value(text: &str) -> Result<(String, String), UsageError> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| UsageError::Option(text.to_owned()))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// The words and flags, not yet told apart by command.
#[derive(Default)]
struct Raw {
    global: Global,
    words: Vec<String>,
    flags: Vec<&'static str>,
    monitors: Vec<String>,
    nats: Vec<String>,
    options: Vec<(String, String)>,
    help: bool,
    version: bool,
}

impl Raw {
    fn command(mut self) -> Result<Command, UsageError> {
        if self.help {
            return Ok(Command::Help);
        }
        if self.version {
            return Ok(Command::Version);
        }
        let name = if self.words.is_empty() {
            "run".to_owned()
        } else {
            self.words.remove(0)
        };
        let (name, command): (&'static str, Command) = match name.as_str() {
            "run" => (
                "run",
                Command::Run {
                    dry_run: self.flag("--dry-run"),
                },
            ),
            "check" => ("check", Command::Check),
            "demo" => ("demo", self.demo()),
            "status" => ("status", self.status()),
            "register" => ("register", self.register()?),
            "unregister" => ("unregister", self.unregister()?),
            "drain" => ("drain", self.drain()),
            "undrain" => ("undrain", self.undrain()),
            "reload" => ("reload", Command::Ask(Ask::Reload)),
            "healthcheck" => ("healthcheck", Command::Healthcheck),
            "help" => ("help", Command::Help),
            _ => return Err(UsageError::UnknownCommand(name)),
        };
        self.nothing_left(name)?;
        Ok(command)
    }

    fn demo(&mut self) -> Command {
        match self.next_word() {
            Some(part) => Command::DemoPart { part },
            None => Command::Demo {
                keep: self.flag("--keep"),
            },
        }
    }

    fn status(&mut self) -> Command {
        let (json, watch) = (self.flag("--json"), self.flag("--watch"));
        Command::Ask(Ask::Status { json, watch })
    }

    fn register(&mut self) -> Result<Command, UsageError> {
        Ok(Command::Ask(Ask::Register {
            name: self.word("register", "the app's NAME")?,
            vip: self.word("register", "the VIP, as ADDRESS/LENGTH")?,
            monitors: std::mem::take(&mut self.monitors),
            nats: std::mem::take(&mut self.nats),
            options: std::mem::take(&mut self.options),
        }))
    }

    fn unregister(&mut self) -> Result<Command, UsageError> {
        let name = self.word("unregister", "the app's NAME")?;
        Ok(Command::Ask(Ask::Unregister { name }))
    }

    fn drain(&mut self) -> Command {
        let wait = !self.flag("--no-wait");
        Command::Ask(Ask::Drain {
            name: self.next_word(),
            wait,
        })
    }

    fn undrain(&mut self) -> Command {
        Command::Ask(Ask::Undrain {
            name: self.next_word(),
        })
    }

    fn next_word(&mut self) -> Option<String> {
        (!self.words.is_empty()).then(|| self.words.remove(0))
    }

    fn word(
        &mut self,
        command: &'static str,
        argument: &'static str,
    ) -> Result<String, UsageError> {
        self.next_word()
            .ok_or(UsageError::Missing { command, argument })
    }

    fn flag(&mut self, name: &str) -> bool {
        let before = self.flags.len();
        self.flags.retain(|flag| *flag != name);
        self.flags.len() != before
    }

    fn nothing_left(mut self, command: &'static str) -> Result<(), UsageError> {
        let option = |(given, name): (bool, &str)| given.then(|| name.to_owned());
        let left = self
            .next_word()
            .or_else(|| self.flags.pop().map(str::to_owned))
            .or_else(|| option((!self.monitors.is_empty(), "--monitor")))
            .or_else(|| option((!self.nats.is_empty(), "--nat")))
            .or_else(|| option((!self.options.is_empty(), "--option")));
        left.map_or(Ok(()), |argument| {
            Err(UsageError::Unexpected { command, argument })
        })
    }
}

/// GoCast's flags in our spelling: Go's `flag` takes one dash or two, and glog's switches say nothing
/// here but how much is logged.
fn rewrite_gocast(args: Vec<OsString>) -> Result<Vec<OsString>, UsageError> {
    let mut out = Vec::with_capacity(args.len());
    let mut args = args.into_iter().peekable();
    while let Some(arg) = args.next() {
        let Some(text) = arg.to_str().filter(|text| text.starts_with('-')) else {
            out.push(arg);
            continue;
        };
        if text == "--" {
            out.push(arg);
            out.extend(args);
            break;
        }
        let bare = text
            .strip_prefix("--")
            .or_else(|| text.strip_prefix('-'))
            .unwrap_or(text);
        let (name, value) = bare
            .split_once('=')
            .map_or((bare, None), |(name, value)| (name, Some(value)));
        match name {
            "config" => {
                out.push("--config".into());
                out.extend(value.map(OsString::from));
            }
            "logtostderr" | "alsologtostderr" => {}
            "vmodule" | "stderrthreshold" | "log_dir" | "log_backtrace_at" => {
                if value.is_none() {
                    args.next();
                }
            }
            "v" => {
                let digits =
                    |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                let level = match value {
                    Some(value) => Some(value.to_owned()),
                    None => args
                        .next_if(|next| next.to_str().is_some_and(digits))
                        .and_then(|next| next.into_string().ok()),
                };
                let times = level.as_deref().map_or(Ok(1), verbosity)?;
                out.extend(std::iter::repeat_n(OsString::from("-v"), times));
            }
            _ => out.push(arg),
        }
    }
    Ok(out)
}

/// glog's levels as GoCast used them: 2 shows check results, 4 the BGP library's debugging.
fn verbosity(level: &str) -> Result<usize, UsageError> {
    match level.parse::<i32>() {
        Ok(..=0) => Ok(0),
        Ok(1..=3) => Ok(1),
        Ok(4..) => Ok(2),
        Err(_) => Err(UsageError::Verbosity(level.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Invocation, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|e| e.to_string())
    }

    fn global(line: &str) -> Global {
        let invocation = run(line).unwrap();
        assert_eq!(
            invocation.command,
            Command::Run { dry_run: false },
            "{line}"
        );
        invocation.global
    }

    #[test]
    fn run_is_the_default_command() {
        assert_eq!(run("").unwrap().command, Command::Run { dry_run: false });
        assert_eq!(
            run("--dry-run").unwrap().command,
            Command::Run { dry_run: true }
        );
        assert_eq!(
            run("run --config x").unwrap().global.config,
            Some("x".into())
        );
    }

    #[test]
    fn gocast_command_lines_run_as_they_are() {
        for line in [
            "-config /etc/gocast.yaml",
            "--config /etc/gocast.yaml",
            "-config=/etc/gocast.yaml -logtostderr",
            "-logtostderr=true --config=/etc/gocast.yaml",
            "-alsologtostderr -stderrthreshold INFO -config /etc/gocast.yaml",
            "-vmodule=a=1 -log_dir /tmp -log_backtrace_at x:1 -config /etc/gocast.yaml",
        ] {
            let got = global(line);
            assert_eq!(
                (got.config, got.verbosity),
                (Some("/etc/gocast.yaml".into()), 0),
                "{line}"
            );
        }
        for (line, level) in [
            ("-v=2", 1),
            ("-v 2", 1),
            ("--v=4", 2),
            ("-v 0", 0),
            ("-v", 1),
            ("-v -v", 2),
            ("-vv", 2),
        ] {
            assert_eq!(global(line).verbosity, level, "{line}");
        }
    }

    /// As glog, which GoCast has it from.
    #[test]
    fn a_verbosity_that_is_no_number_is_refused() {
        for line in ["-v=x", "--v=x", "-v=", "-v=2x", "-v=99999999999"] {
            let error = run(line).unwrap_err();
            assert!(
                error.starts_with("-v: `") && error.contains("not a number"),
                "{line}: {error}"
            );
        }
        assert!(run("-v x").unwrap_err().contains("`x`"));
        assert_eq!(global("-v=-1").verbosity, 0);
    }

    #[test]
    fn commands_take_their_own_arguments_and_no_others() {
        assert_eq!(
            run("register dns 192.0.2.53/32 --monitor port:udp:53 --nat udp:53 --option rise=2")
                .unwrap()
                .command,
            Command::Ask(Ask::Register {
                name: "dns".into(),
                vip: "192.0.2.53/32".into(),
                monitors: vec!["port:udp:53".into()],
                nats: vec!["udp:53".into()],
                options: vec![("rise".into(), "2".into())],
            })
        );
        assert_eq!(
            run("drain --no-wait").unwrap().command,
            Command::Ask(Ask::Drain {
                name: None,
                wait: false
            })
        );
        assert_eq!(
            run("drain dns").unwrap().command,
            Command::Ask(Ask::Drain {
                name: Some("dns".into()),
                wait: true
            })
        );
        assert_eq!(
            run("register dns").unwrap_err(),
            "`register` needs the VIP, as ADDRESS/LENGTH"
        );
        assert_eq!(
            run("check --watch").unwrap_err(),
            "`check` does not take `--watch`"
        );
        assert_eq!(
            run("check this").unwrap_err(),
            "`check` does not take `this`"
        );
        assert_eq!(
            run("reload --nat x").unwrap_err(),
            "`reload` does not take `--nat`"
        );
        assert_eq!(run("rnu").unwrap_err(), "unknown command `rnu`");
        assert!(run("--confg x").unwrap_err().contains("--confg"));
        assert!(run("--log-format xml").unwrap_err().contains("xml"));
        assert!(
            run("register a b --option rise")
                .unwrap_err()
                .contains("KEY=VALUE")
        );
    }

    #[test]
    fn help_and_version_win_over_what_else_is_wrong() {
        assert_eq!(run("status --help").unwrap().command, Command::Help);
        assert_eq!(run("-V").unwrap().command, Command::Version);
    }
}
