//! `--help`, from the table of commands.

use super::commands::{COMMANDS, Flag, GLOBAL, Spec};

/// All commands, or one.
pub fn help(command: Option<&Spec>) -> String {
    command.map_or_else(general, of)
}

fn general() -> String {
    let commands = COMMANDS
        .iter()
        .map(|spec| (spec.short_usage(), spec.summary.to_owned()));
    format!(
        "{ABOUT}\n\nusage: sidecast [COMMAND] [OPTIONS]\n\ncommands:\n{}\noptions:\n{}\n{EXITS}\n\
         `sidecast COMMAND --help` explains a command.\n",
        columns(commands),
        columns(GLOBAL.iter().map(flag)),
    )
}

/// Usage, arguments, flags, exit codes and an example.
fn of(spec: &Spec) -> String {
    let mut text = format!(
        "sidecast {}: {}\n\nusage: {}\n\n{}\n",
        spec.name,
        spec.summary,
        spec.usage(),
        spec.about
    );
    let arguments = spec.shown().map(|a| (a.name.to_owned(), a.doc.to_owned()));
    let exits = spec.exits.iter();
    for (title, lines) in [
        ("arguments", columns(arguments)),
        ("options", columns(spec.flags.iter().map(flag))),
        ("options of every command", columns(GLOBAL.iter().map(flag))),
        (
            "exit codes",
            columns(exits.map(|(code, when)| (code.to_string(), (*when).to_owned()))),
        ),
    ] {
        if !lines.is_empty() {
            text += &format!("\n{title}:\n{lines}");
        }
    }
    text += if spec.examples.len() == 1 {
        "\nexample:\n"
    } else {
        "\nexamples:\n"
    };
    let examples = spec.examples.iter();
    text + &columns(examples.map(|(line, what)| ((*line).to_owned(), (*what).to_owned())))
}

fn flag(flag: &Flag) -> (String, String) {
    let several = if flag.repeats && flag.value.is_some() {
        "; repeatable"
    } else {
        ""
    };
    (flag.both(), format!("{}{several}", flag.doc))
}

/// Two indented columns.
fn columns(rows: impl Iterator<Item = (String, String)>) -> String {
    let rows: Vec<_> = rows.collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, text): &(String, String)| {
        let line = format!("  {name:<width$}  {text}");
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}

/// The first line of the general help.
pub const ABOUT: &str =
    "sidecast announces a service's anycast address by BGP while the service is healthy.";

const EXITS: &str = "\
exit codes: 0 done, 1 failure at run time, 2 bad usage or configuration
            (status: 1 the verdict is not ok; status, doctor: 3 not reachable)
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::commands::command;

    #[test]
    fn the_general_help_names_every_command_and_fits_a_terminal() {
        let text = help(None);
        for spec in COMMANDS {
            assert!(text.contains(&format!("\n  {}", spec.name)), "{text}");
        }
        let long = text.lines().find(|line| line.len() > 100);
        assert_eq!(long, None);
    }

    #[test]
    fn the_help_of_a_command_says_it_all() {
        let want = "\
sidecast drain: withdraw one app, or all; returns when it is done

usage: sidecast drain [NAME] [--no-wait]

The routes are withdrawn while the service goes on; the command returns when they are gone
and no packet has come for a second, drain_time at the latest, and prints these steps with
their times: fit for a preStop hook. The drain lasts until `undrain`.

arguments:
  NAME  this app; all without it

options:
      --no-wait  return at once

options of every command:
  -c, --config FILE        configuration (YAML); also SIDECAST_CONFIG
      --addr ADDR          the running announcer: host:port or unix:/path; also SIDECAST_ADDR
  -v, --verbose            more log, twice with every BGP message; also RUST_LOG
      --log-format FORMAT  text or json
  -h, --help               this text; behind a command, that command's
  -V, --version            the version

exit codes:
  0  done
  1  it failed, was refused, or nothing answers
  2  bad usage or configuration

example:
  sidecast drain dns  before the service is stopped
";
        assert_eq!(help(command("drain")), want);
        let demo = help(command("demo"));
        assert!(
            !demo.contains("PART") && !demo.contains("router]"),
            "{demo}"
        );
        let register = help(command("register"));
        assert!(
            register.contains("usage: sidecast register NAME VIP [--monitor M]... [--nat N]... [--option K=V]...\n"),
            "{register}"
        );
    }
}
