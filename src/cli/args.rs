//! The command line: arguments in, an [`Invocation`] out, by the table of commands. GoCast's flags are
//! rewritten first.

use super::command::{Command, Global, Invocation, LogFormat};
use super::commands::{self, named};
use super::spec::{Flag, ParsedArgs, Spec, Value};
use super::usage_error::UsageError;
use crate::schema::nearest;
use lexopt::{Arg, Parser};
use std::ffi::OsString;
use std::path::PathBuf;

/// Reads the arguments behind the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let args = rewrite_gocast(args.into_iter().collect())?;
    let mut parser = Parser::from_args(args.clone());
    let mut parsed = ParsedArgs::default();
    while let Some(arg) = parser.next()? {
        let flag = match arg {
            Arg::Value(word) => {
                parsed.words.push_back(word);
                continue;
            }
            Arg::Short(letter) => commands::short(letter),
            Arg::Long(name) => commands::long(name),
        };
        let Some(flag) = flag else {
            let unknown = match arg {
                Arg::Short(letter) => spelled(&args, letter),
                Arg::Long(name) => format!("--{name}"),
                Arg::Value(_) => continue,
            };
            return Err(parsed.unknown_flag(unknown));
        };
        let value = flag.value.map(|_| parser.value()).transpose()?;
        parsed.flags.push((flag, value));
    }
    parsed.invocation()
}

/// The argument that an unknown letter came from: `-json` is parsed as four letters.
fn spelled(args: &[OsString], letter: char) -> String {
    let texts = args.iter().filter_map(|arg| arg.to_str());
    let cluster = |text: &&str| text.starts_with('-') && !text.starts_with("--");
    let mut found = texts.filter(cluster).filter(|text| text.contains(letter));
    found
        .next()
        .map_or_else(|| format!("-{letter}"), str::to_owned)
}

impl ParsedArgs {
    fn invocation(mut self) -> Result<Invocation, UsageError> {
        let mut global = self.global()?;
        if self.has("help") {
            let command = self.word()?.map(|name| named(&name)).transpose()?;
            let command = Command::Help(command.map(|spec| spec.name));
            return Ok(Invocation { command, global });
        }
        if self.has("version") {
            let command = Command::Version;
            return Ok(Invocation { command, global });
        }
        let name = self.word()?;
        let spec = named(name.as_deref().unwrap_or("run"))?;
        self.fits(spec)?;
        let command = (spec.read)(&mut self)?;
        global.config = self.file.or(global.config);
        Ok(Invocation { command, global })
    }

    fn global(&self) -> Result<Global, UsageError> {
        let last = |long| self.texts(long).map(|mut texts| texts.pop());
        let verbosity = self.flags.iter().filter(|(flag, _)| flag.long == "verbose");
        Ok(Global {
            config: self.values("config").last().map(PathBuf::from),
            addr: last("addr")?,
            verbosity: u8::try_from(verbosity.count()).unwrap_or(u8::MAX),
            log_format: last("log-format")?
                .map_or(Ok(LogFormat::default()), |value| log_format(&value))?,
        })
    }

    /// Checks the number of arguments, and that every flag is the command's.
    fn fits(&self, spec: &'static Spec) -> Result<(), UsageError> {
        let command = spec.name;
        let count = self.words.len();
        if let Some(missing) = spec.arguments.iter().skip(count).find(|a| a.required) {
            return Err(UsageError::Missing {
                command,
                argument: missing.doc,
            });
        }
        let unexpected = |argument: String| Err(UsageError::Unexpected { command, argument });
        if let Some(word) = self.words.get(spec.arguments.len()) {
            return unexpected(word.to_string_lossy().into_owned());
        }
        for (argument, word) in spec.arguments.iter().zip(&self.words) {
            if let Value::Words(words) = argument.value
                && !words.iter().chain(argument.also).any(|known| word == known)
            {
                return Err(UsageError::NotOneOf {
                    command,
                    argument: word.to_string_lossy().into_owned(),
                    words,
                });
            }
        }
        let known = |flag: &Flag| spec.all_flags().any(|own| own.long == flag.long);
        match self.flags.iter().find(|(flag, _)| !known(flag)) {
            Some((flag, _)) => unexpected(format!("--{}", flag.long)),
            None => Ok(()),
        }
    }

    /// The error for an unknown flag, suggesting one that the named command takes.
    fn unknown_flag(&self, written: String) -> UsageError {
        let command = self.words.front().and_then(|word| word.to_str());
        let command = command.and_then(commands::command);
        let bare = written.trim_start_matches('-');
        let near = match command {
            Some(spec) => nearest(bare, spec.all_flags().map(|flag| flag.long)),
            None => nearest(bare, commands::every_flag().map(|flag| flag.long)),
        };
        // A single letter has no useful suggestion.
        let near = near.filter(|_| bare.len() > 1);
        UsageError::UnknownFlag {
            command: command.map(|spec| spec.name),
            near,
            written,
        }
    }
}

fn log_format(value: &str) -> Result<LogFormat, UsageError> {
    match value {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(UsageError::LogFormat(value.to_owned())),
    }
}

/// Rewrites GoCast's flags: Go's `flag` takes one dash or two, and of glog's flags only the level has an
/// effect.
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
    use crate::cli::command::ClientCommand;

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
            Command::Client(ClientCommand::Register {
                name: "dns".into(),
                vip: "192.0.2.53/32".into(),
                monitors: vec!["port:udp:53".into()],
                nats: vec!["udp:53".into()],
                options: vec![("rise".into(), "2".into())],
            })
        );
        assert_eq!(
            run("drain --no-wait").unwrap().command,
            Command::Client(ClientCommand::Drain {
                name: None,
                wait: false
            })
        );
        assert_eq!(
            run("drain dns").unwrap().command,
            Command::Client(ClientCommand::Drain {
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
            run("check this that").unwrap_err(),
            "`check` does not take `that`"
        );
        assert_eq!(
            run("reload --nat x").unwrap_err(),
            "`reload` does not take `--nat`"
        );
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
        assert_eq!(
            run("status --help").unwrap().command,
            Command::Help(Some("status"))
        );
        assert_eq!(
            run("--help --json register").unwrap().command,
            Command::Help(Some("register"))
        );
        for general in ["--help", "help", "-h"] {
            assert_eq!(run(general).unwrap().command, Command::Help(None));
        }
        assert_eq!(
            run("help drain").unwrap().command,
            Command::Help(Some("drain"))
        );
        assert_eq!(run("-V").unwrap().command, Command::Version);
    }

    #[test]
    fn what_was_probably_meant_is_named() {
        for (line, error) in [
            ("rnu", "unknown command `rnu`; did you mean `run`?"),
            ("chekc", "unknown command `chekc`; did you mean `check`?"),
            (
                "regsiter --help",
                "unknown command `regsiter`; did you mean `register`?",
            ),
            (
                "help stauts",
                "unknown command `stauts`; did you mean `status`?",
            ),
            ("frobnicate", "unknown command `frobnicate`"),
            (
                "sidecast.yaml",
                "unknown command `sidecast.yaml`; a configuration is named with --config sidecast.yaml",
            ),
            (
                "--confg x",
                "unknown flag `--confg`; did you mean `--config`?",
            ),
            (
                "status --jsno",
                "unknown flag `--jsno`; did you mean `--json`?",
            ),
            (
                "status -json",
                "unknown flag `-json`; did you mean `--json`?",
            ),
            // Of its own command, though another has one that is as near.
            (
                "drain --nowait",
                "unknown flag `--nowait`; did you mean `--no-wait`?",
            ),
            ("status -x", "unknown flag `-x`"),
            ("status --frobnicate", "unknown flag `--frobnicate`"),
        ] {
            assert_eq!(run(line).unwrap_err(), error, "{line}");
        }
    }

    #[test]
    fn the_file_to_check_may_be_an_argument() {
        for line in ["check x.yaml", "check --config x.yaml", "-c x.yaml check"] {
            assert_eq!(run(line).unwrap().global.config, Some("x.yaml".into()));
        }
        let quiet = run("check -q x.yaml").unwrap();
        assert_eq!(quiet.command, Command::Check { quiet: true });
        let two = run("check --config x.yaml y.yaml").unwrap_err();
        assert!(
            two.contains("--config") && two.contains("`y.yaml`"),
            "{two}"
        );
    }

    #[test]
    fn the_demos_own_parts_are_no_others() {
        let part = "router".to_owned();
        assert_eq!(
            run("demo router").unwrap().command,
            Command::DemoPart { part }
        );
        assert_eq!(
            run("demo routers").unwrap_err(),
            "`demo` does not take `routers`; it takes one of router, service"
        );
    }

    #[test]
    fn an_error_names_the_help_that_tells_more() {
        let command = |line: &str| {
            let words = line.split_whitespace().map(OsString::from);
            parse(words).unwrap_err().command()
        };
        assert_eq!(command("register dns"), Some("register"));
        assert_eq!(command("status --jsno"), Some("status"));
        assert_eq!(command("--jsno"), None);
    }
}
