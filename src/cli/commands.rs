//! The table of commands, arguments and flags. Parsing, `--help`, "did you mean", shell completions and
//! the man page derive from it.

use super::command::{ClientCommand, Command, Page, SECTIONS, SHELLS, Shell, StatusOptions};
pub use super::spec::{Argument, Exit, Flag, Spec, Value};
use super::usage_error::UsageError;
use crate::schema::nearest;

/// The command of that name.
pub fn command(name: &str) -> Option<&'static Spec> {
    COMMANDS.iter().find(|spec| spec.name == name)
}

/// The flag of that name, of any command: it may stand before the command.
pub fn long(name: &str) -> Option<&'static Flag> {
    every_flag().find(|flag| flag.long == name)
}

/// The flag with that letter.
pub fn short(letter: char) -> Option<&'static Flag> {
    every_flag().find(|flag| flag.short == Some(letter))
}

/// All flags: the global ones, then each command's own.
pub fn every_flag() -> impl Iterator<Item = &'static Flag> {
    let own = COMMANDS.iter().flat_map(|spec| spec.flags);
    GLOBAL.iter().chain(own)
}

/// Flags of every command.
pub const GLOBAL: &[Flag] = &[
    Flag::value(
        "config",
        "FILE",
        Value::File,
        "configuration (YAML); also SIDECAST_CONFIG",
    )
    .short('c'),
    Flag::value(
        "addr",
        "ADDR",
        Value::Text,
        "the running announcer: host:port or unix:/path; also SIDECAST_ADDR",
    ),
    Flag::switch(
        "verbose",
        "more log, twice with every BGP message; also RUST_LOG",
    )
    .short('v')
    .repeats(),
    Flag::value(
        "log-format",
        "FORMAT",
        Value::Words(&["text", "json"]),
        "text or json",
    ),
    Flag::switch("help", "this text; behind a command, that command's").short('h'),
    Flag::switch("version", "the version").short('V'),
];

const DONE: Exit = (0, "done");
const FAILED: Exit = (1, "it failed, was refused, or nothing answers");
const USAGE: Exit = (2, "bad usage or configuration");
/// Exit codes of commands that only print.
const PRINTED: &[Exit] = &[DONE, (1, "the output could not be written"), USAGE];
/// Exit codes of calls to the running announcer.
const CALL: &[Exit] = &[DONE, FAILED, USAGE];

const APP: Argument = Argument::new("NAME", "the app's name").of(Value::App);

/// In the order of the general help.
pub const COMMANDS: &[Spec] = &[
    Spec {
        name: "run",
        summary: "run the announcer (the default); configured by file, environment or both",
        about: "\
Checks the apps, announces the VIPs of those that are healthy, and serves the API,
until SIGTERM or SIGINT withdraws everything. SIGHUP reads the configuration again.
Without --config and SIDECAST_CONFIG the environment alone is the configuration.",
        arguments: &[],
        flags: &[Flag::switch(
            "dry-run",
            "run the monitors and say what would be done: no BGP session, nothing changed in the kernel",
        )],
        exits: &[
            (0, "it was stopped by a signal, and withdrew everything"),
            (
                1,
                "failure at run time, such as a configured address that is in use",
            ),
            USAGE,
        ],
        examples: &[(
            "sidecast run --config /etc/sidecast/config.yaml",
            "with a file",
        )],
        read: |args| {
            Ok(Command::Run {
                dry_run: args.has("dry-run"),
            })
        },
    },
    Spec {
        name: "check",
        summary: "validate the configuration and print it with where each value came from",
        about: "\
Reads file and environment as `run` does and changes nothing. The effective configuration
goes to standard output as YAML, secrets masked; warnings, and a last line with the counts,
go to standard error. All problems are reported at once, each with its line.",
        arguments: &[
            Argument::new("FILE", "the configuration, as --config names it")
                .optional()
                .of(Value::File),
        ],
        flags: &[Flag::switch(
            "quiet",
            "only warnings and problems: no configuration, no counts",
        )
        .short('q')],
        exits: &[
            (0, "it is valid, perhaps with warnings"),
            (1, "it is valid, and the output could not be written"),
            (2, "it is refused"),
        ],
        examples: &[
            ("sidecast check sidecast.yaml", "before a reload"),
            ("sidecast check --quiet sidecast.yaml", "in a script"),
        ],
        read: |args| {
            args.file_argument()?;
            Ok(Command::Check {
                quiet: args.has("quiet"),
            })
        },
    },
    Spec {
        name: "demo",
        summary: "show a withdraw and an announcement, in namespaces of its own",
        about: "\
Starts a router, a service and the announcer in a user and network namespace of their own,
kills the service and prints what happened when. It needs no root and touches nothing
outside; where namespaces are refused it names the cause and the remedy.",
        arguments: &[Argument {
            hidden: true,
            ..Argument::new("PART", "a process of the demo's own")
                .optional()
                .of(Value::Words(&["router", "service"]))
        }],
        flags: &[Flag::switch(
            "keep",
            "leave everything up until Enter is pressed",
        )],
        exits: &[
            DONE,
            (
                1,
                "no namespace could be made, or something did not happen in time",
            ),
        ],
        examples: &[("sidecast demo", "")],
        read: |args| {
            let keep = args.has("keep");
            Ok(match args.word()? {
                Some(part) => Command::DemoPart { part },
                None => Command::Demo { keep },
            })
        },
    },
    Spec {
        name: "status",
        summary: "peers, apps, VIPs and monitors of the running announcer",
        about: "\
What is wrong stands first. In colors on a terminal, unless NO_COLOR is set.",
        arguments: &[Argument::new("NAME", "this app alone")
            .optional()
            .of(Value::App)],
        flags: &[
            Flag::switch(
                "down",
                "only peers that are not established and apps that are not announced in full",
            ),
            Flag::switch("json", "as JSON, for programs"),
            Flag::switch("watch", "again every 2 s, until it is interrupted"),
        ],
        exits: &[
            (0, "the verdict is ok"),
            (1, "the verdict is another, or there is no such app"),
            USAGE,
            (3, "nothing answers"),
        ],
        examples: &[
            ("sidecast status --down", "what needs attention"),
            ("sidecast status dns", "one app"),
        ],
        read: |args| {
            Ok(Command::Client(ClientCommand::Status(StatusOptions {
                down: args.has("down"),
                json: args.has("json"),
                watch: args.has("watch"),
                name: args.word()?,
            })))
        },
    },
    Spec {
        name: "doctor",
        summary: "prove what works, layer by layer, or name the fault",
        about: "\
Asks the running announcer, which looks at the host too: capabilities, the way to each peer,
who answers there, sessions, listeners, VIPs, routes, Consul. Without one it looks itself, with
the configuration. It changes nothing. Each line begins with a check mark where all is well, with
a cross where something is at fault, followed by the next thing to do, or with a question mark
where it is not known.",
        arguments: &[],
        flags: &[Flag::switch("json", "as JSON, for programs")],
        exits: &[
            (0, "no fault was found; something may not be known"),
            (1, "there is a fault"),
            USAGE,
            (3, "nothing could be looked at"),
        ],
        examples: &[
            ("sidecast doctor", "beside the running announcer"),
            (
                "sidecast doctor --config /etc/sidecast/config.yaml",
                "before it is started",
            ),
        ],
        read: |args| {
            Ok(Command::Doctor {
                json: args.has("json"),
            })
        },
    },
    Spec {
        name: "register",
        summary: "add an app, or replace one that was registered so",
        about: "\
Registers an app with the running announcer. All its monitors must pass before it is
announced; the same call again changes nothing, a changed one replaces the app in place.",
        arguments: &[APP, Argument::new("VIP", "the VIP, as ADDRESS/LENGTH")],
        flags: &[
            Flag::value(
                "monitor",
                "M",
                Value::Text,
                "a check, such as port:udp:53 or http://127.0.0.1:8080/",
            )
            .repeats(),
            Flag::value(
                "nat",
                "N",
                Value::Text,
                "protocol:port:destination port, such as udp:53:8053",
            )
            .repeats(),
            Flag::value(
                "option",
                "K=V",
                Value::Text,
                "any other parameter of /register, such as interval=1s",
            )
            .repeats(),
        ],
        exits: CALL,
        examples: &[(
            "sidecast register dns 192.0.2.53/32 --monitor port:udp:53 --option interval=1s",
            "",
        )],
        read: |args| {
            Ok(Command::Client(ClientCommand::Register {
                name: args.required()?,
                vip: args.required()?,
                monitors: args.texts("monitor")?,
                nats: args.texts("nat")?,
                options: args.pairs("option")?,
            }))
        },
    },
    Spec {
        name: "unregister",
        summary: "withdraw an app and forget it",
        about: "An app that is not registered is no error.",
        arguments: &[APP],
        flags: &[],
        exits: CALL,
        examples: &[("sidecast unregister dns", "")],
        read: |args| {
            Ok(Command::Client(ClientCommand::Unregister {
                name: args.required()?,
            }))
        },
    },
    Spec {
        name: "drain",
        summary: "withdraw one app, or all; returns when it is done",
        about: "\
The routes are withdrawn while the service goes on; the command returns when they are gone
and no packet has come for a second, drain_time at the latest, and prints these steps with
their times: fit for a preStop hook. The drain lasts until `undrain`.",
        arguments: &[Argument::new("NAME", "this app; all without it")
            .optional()
            .of(Value::App)],
        flags: &[Flag::switch("no-wait", "return at once")],
        exits: CALL,
        examples: &[("sidecast drain dns", "before the service is stopped")],
        read: |args| {
            Ok(Command::Client(ClientCommand::Drain {
                name: args.word()?,
                wait: !args.has("no-wait"),
            }))
        },
    },
    Spec {
        name: "undrain",
        summary: "announce one app again, or all",
        about: "A single app, too, after all were drained.",
        arguments: &[Argument::new("NAME", "this app; all without it")
            .optional()
            .of(Value::App)],
        flags: &[],
        exits: CALL,
        examples: &[("sidecast undrain dns", "")],
        read: |args| {
            Ok(Command::Client(ClientCommand::Undrain {
                name: args.word()?,
            }))
        },
    },
    Spec {
        name: "reload",
        summary: "read the configuration again",
        about: "\
As SIGHUP, but it prints what changed, or what is wrong: then nothing is changed.",
        arguments: &[],
        flags: &[],
        exits: CALL,
        examples: &[("sidecast reload", "")],
        read: |_| Ok(Command::Client(ClientCommand::Reload)),
    },
    Spec {
        name: "healthcheck",
        summary: "exit 0 while the announcer is alive",
        about: "\
For a container's HEALTHCHECK and an exec probe: asks /healthz. Where listen_addr is \"off\"
there is no listener to ask, and it passes.",
        arguments: &[],
        flags: &[],
        exits: &[
            (0, "it is alive, or listen_addr is off"),
            (1, "nothing answers"),
            USAGE,
        ],
        examples: &[("sidecast healthcheck", "")],
        read: |_| Ok(Command::Healthcheck),
    },
    Spec {
        name: "completions",
        summary: "print the completion script of a shell",
        about: "\
Prints a script for the shell. Names of apps are asked of the running announcer.",
        arguments: &[Argument {
            also: &["apps"],
            ..Argument::new("SHELL", "bash, zsh or fish").of(Value::Words(SHELLS))
        }],
        flags: &[],
        exits: PRINTED,
        examples: &[
            (
                "sidecast completions bash > /etc/bash_completion.d/sidecast",
                "bash",
            ),
            (
                "sidecast completions zsh > /usr/local/share/zsh/site-functions/_sidecast",
                "zsh",
            ),
            (
                "sidecast completions fish > /etc/fish/completions/sidecast.fish",
                "fish",
            ),
        ],
        read: |args| {
            let word = args.required()?;
            Ok(match Shell::named(&word) {
                Some(shell) => Command::Completions(shell),
                None => Command::AppNames,
            })
        },
    },
    Spec {
        name: "man",
        summary: "the manual, in roff",
        about: "\
Section 8 is of the commands, section 5 of the configuration.",
        arguments: &[Argument::new("SECTION", "8, the default, or 5")
            .optional()
            .of(Value::Words(SECTIONS))],
        flags: &[],
        exits: PRINTED,
        examples: &[
            (
                "sidecast man > /usr/local/share/man/man8/sidecast.8",
                "the commands",
            ),
            (
                "sidecast man 5 > /usr/local/share/man/man5/sidecast.5",
                "the configuration",
            ),
        ],
        read: |args| {
            let section = args.word()?.unwrap_or_default();
            Ok(Command::Man(Page::of_section(&section)))
        },
    },
    Spec {
        name: "schema",
        summary: "the configuration as JSON Schema, for editors",
        about: "\
Draft 2020-12, with descriptions, defaults and formats. An editor that has a YAML language
server takes it from a first line `# yaml-language-server: $schema=sidecast.schema.json`.
What two keys mean to each other, `check` knows.",
        arguments: &[],
        flags: &[],
        exits: PRINTED,
        examples: &[("sidecast schema > sidecast.schema.json", "")],
        read: |_| Ok(Command::Schema),
    },
    Spec {
        name: "help",
        summary: "this text, or that of a command",
        about: "As --help.",
        arguments: &[Argument::new("COMMAND", "the command")
            .optional()
            .of(Value::Command)],
        flags: &[],
        exits: &[DONE, USAGE],
        examples: &[("sidecast help register", "")],
        read: |args| match args.word()? {
            Some(name) => named(&name).map(|spec| Command::Help(Some(spec.name))),
            None => Ok(Command::Help(None)),
        },
    },
];

/// The command of that name, or an error with the nearest one.
pub fn named(name: &str) -> Result<&'static Spec, UsageError> {
    command(name).ok_or_else(|| UsageError::UnknownCommand {
        name: name.to_owned(),
        near: nearest(name, COMMANDS.iter().map(|spec| spec.name)),
    })
}

impl Spec {
    /// Its own flags and those of all commands.
    pub fn all_flags(&self) -> impl Iterator<Item = &'static Flag> + use<> {
        self.flags.iter().chain(GLOBAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_name_means_one_thing_wherever_it_stands() {
        let mut longs: BTreeMap<&str, (bool, Option<char>)> = BTreeMap::new();
        let mut shorts = BTreeMap::new();
        for flag in every_flag() {
            let kind = (flag.value.is_some(), flag.short);
            assert_eq!(
                *longs.entry(flag.long).or_insert(kind),
                kind,
                "{}",
                flag.long
            );
            if let Some(short) = flag.short {
                assert_eq!(*shorts.entry(short).or_insert(flag.long), flag.long);
            }
        }
        let mut names: Vec<&str> = COMMANDS.iter().map(|spec| spec.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), COMMANDS.len());
    }

    #[test]
    fn every_command_is_described_in_full() {
        for spec in COMMANDS {
            assert!(
                !spec.summary.is_empty() && !spec.about.is_empty(),
                "{}",
                spec.name
            );
            assert!(
                spec.exits.iter().any(|(code, _)| *code == 0),
                "{}",
                spec.name
            );
            assert!(
                spec.examples
                    .iter()
                    .all(|(line, _)| { line.starts_with(&format!("sidecast {}", spec.name)) })
            );
            assert!(!spec.examples.is_empty(), "{}", spec.name);
            let mut optional = spec.arguments.iter().skip_while(|a| a.required);
            assert!(
                optional.all(|a| !a.required),
                "{}: required last",
                spec.name
            );
        }
    }

    /// Every example must be a valid command line.
    #[test]
    fn every_example_is_taken() {
        for (line, _) in COMMANDS.iter().flat_map(|spec| spec.examples) {
            let words = line.split_whitespace().skip(1);
            let words = words.take_while(|word| *word != ">").map(Into::into);
            super::super::args::parse(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
