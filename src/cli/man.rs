//! `sidecast man`: the manual in roff, section 8 from the table of commands and section 5 from the tables of
//! keys.

use super::command::Page;
use super::commands::{COMMANDS, Flag, GLOBAL, Spec};
use super::help::ABOUT;
use crate::config::TABLES;
use crate::schema::{Key, Table};
use std::fmt::Write;

impl Page {
    /// The page in roff.
    pub fn render(self) -> String {
        match self {
            Self::Commands => commands(),
            Self::Configuration => configuration(),
        }
    }
}

fn commands() -> String {
    let mut page = title(8, "System Administration");
    page += "\\- announces a service's anycast address by BGP\n";
    page += ".SH SYNOPSIS\n.nf\n";
    for spec in COMMANDS {
        let _ = writeln!(page, "{}", roff(&spec.usage()));
    }
    page += ".fi\n.SH DESCRIPTION\n";
    page += &paragraph(ABOUT);
    page += &paragraph(DESCRIPTION);
    page += ".SH COMMANDS\n";
    for spec in COMMANDS {
        command(&mut page, spec);
    }
    page += ".SH OPTIONS\nEvery command takes these.\n";
    GLOBAL.iter().for_each(|flag| option(&mut page, flag));
    page += ".SH EXIT STATUS\n";
    page += &paragraph(
        "0 done, 1 failure at run time, 2 bad usage or configuration, 3 nothing answers (status). \
         What a command makes of these stands with it.",
    );
    page += ".SH ENVIRONMENT\n";
    for (name, what) in ENVIRONMENT {
        entry(&mut page, name, what);
    }
    page += ".SH FILES\n";
    entry(&mut page, "/etc/sidecast/config.yaml", FILE);
    page + ".SH SEE ALSO\n.BR sidecast (5)\n"
}

fn command(page: &mut String, spec: &Spec) {
    let _ = writeln!(page, ".SS \"{}\"", quoted(&spec.usage()));
    let summary = capital(spec.summary);
    *page += &paragraph(&format!("{summary}. {}", spec.about));
    for argument in spec.shown() {
        entry(page, argument.name, argument.doc);
    }
    spec.flags.iter().for_each(|flag| option(page, flag));
    let exits: Vec<String> = spec
        .exits
        .iter()
        .map(|(code, when)| format!("{code} {when}"))
        .collect();
    let _ = write!(
        page,
        ".PP\nExit status: {}.\n.PP\n.nf\n",
        roff(&exits.join("; "))
    );
    for (line, _) in spec.examples {
        let _ = writeln!(page, ".RS 4\n{}\n.RE", roff(line));
    }
    *page += ".fi\n";
}

fn option(page: &mut String, flag: &Flag) {
    let both = flag.both();
    entry(page, both.trim_start(), flag.doc);
}

fn configuration() -> String {
    let mut page = title(5, "File Formats");
    page += "\\- the configuration of sidecast\n.SH DESCRIPTION\n";
    CONFIGURATION
        .split("\n\n")
        .for_each(|text| page += &paragraph(text));
    for table in TABLES {
        section(&mut page, table);
    }
    page += ".SH EXAMPLE\n.nf\n.RS 4\n";
    for line in EXAMPLE.lines() {
        let _ = writeln!(page, "{}", roff(line));
    }
    page + ".RE\n.fi\n.SH SEE ALSO\n.BR sidecast (8)\n"
}

fn section(page: &mut String, table: &Table) {
    let _ = writeln!(
        page,
        ".SH \"KEYS OF {}\"",
        quoted(&table.name.to_uppercase())
    );
    if !table.prefix.is_empty() {
        *page += &paragraph(&format!(
            "Variables: SIDECAST_{} and the key in capital letters.",
            table.prefix
        ));
    }
    for key in (table.keys)() {
        let names: Vec<&str> = key.names_in(table.name).collect();
        entry(page, &names.join(", "), &described(key));
    }
}

/// Type, default and documentation of a key.
fn described(key: &Key) -> String {
    let default = match key.default {
        _ if key.required => "; required".to_owned(),
        "" => String::new(),
        text => format!("; default {text}"),
    };
    let needs_restart = if key.needs_restart {
        " Taken at the next start."
    } else {
        ""
    };
    let kind = format!("{}{default}", key.shape).replace('`', "");
    format!(
        "({kind}) {}{needs_restart}",
        key.doc.trim().replace('`', "")
    )
}

/// The head, up to the name.
fn title(section: u8, volume: &str) -> String {
    let version = concat!("sidecast ", env!("CARGO_PKG_VERSION"));
    format!(".TH SIDECAST {section} \"\" \"{version}\" \"{volume}\"\n.SH NAME\nsidecast ")
}

fn entry(page: &mut String, name: &str, text: &str) {
    let _ = write!(page, ".TP\n.B \"{}\"\n{}\n", quoted(name), roff(text));
}

fn paragraph(text: &str) -> String {
    format!(".PP\n{}\n", roff(text))
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

/// As an argument in quotes.
fn quoted(text: &str) -> String {
    roff(text).replace('"', "\\(dq")
}

/// Escapes text for groff (groff(7), groff_char(7)).
fn roff(text: &str) -> String {
    let mut out = String::new();
    for (index, line) in text.lines().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        if line.starts_with(['.', '\'']) {
            out += "\\&";
        }
        for c in line.chars() {
            match c {
                '\\' => out += "\\e",
                '-' => out += "\\-",
                '\'' => out += "\\(aq",
                '`' => out += "\\(ga",
                '^' => out += "\\(ha",
                '~' => out += "\\(ti",
                '…' => out += "...",
                c if c.is_ascii() => out.push(c),
                c => out += &format!("\\[u{:04X}]", u32::from(c)),
            }
        }
    }
    out
}

const DESCRIPTION: &str = "\
It sits beside one service, in its pod, container network or machine, checks that the service
works and announces its VIPs to the routers. When a check fails the route is withdrawn, and
another site gets the traffic.";

const FILE: &str = "\
The usual configuration. The client commands look here for the address and the token when nothing else
names them; `run` and `check` read only what they are reported.";

const ENVIRONMENT: &[(&str, &str)] = &[
    ("SIDECAST_CONFIG", "the configuration's file, as --config"),
    ("SIDECAST_CONFIG_YAML", "a whole configuration"),
    ("SIDECAST_ADDR", "the running announcer, as --addr"),
    (
        "SIDECAST_*",
        "every key of the configuration: see sidecast(5)",
    ),
    ("RUST_LOG", "what is logged, in place of -v: sidecast=debug"),
    ("NO_COLOR", "no colors, whatever it says"),
];

const CONFIGURATION: &str = "\
YAML, with the sections agent, bgp and apps. Durations are written as 10s, 1m30s, 1.5s or 500ms. A key
that is unknown is an error, with its line and the nearest known key.

Every key has a variable: SIDECAST_, its section and its name in capital letters, such as
SIDECAST_BGP_PEER_IP. Lists are split at newlines where there is one, else at semicolons for
monitors and NATs and at commas elsewhere. With _FILE appended a value is read from that file. A flag
comes before a variable, a variable before the file, the file before the default.

sidecast check FILE prints the effective configuration with where each value came from.";

const EXAMPLE: &str = "\
bgp:
  local_as: 65001
  peer_as: 65000
  peer_ip: 10.0.0.1
apps:
  - name: dns
    vips: [192.0.2.53/32, 2001:db8::53/128]
    monitors: [\"port:udp:53\"]
    interval: 1s
";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn both_pages_tell_of_all_there_is() {
        let page = Page::Commands.render();
        for spec in COMMANDS {
            let head = format!(".SS \"{}\"\n", quoted(&spec.usage()));
            assert!(page.contains(&head), "{}", spec.name);
        }
        let page = Page::Configuration.render();
        let mut count = 0;
        for table in TABLES {
            for key in (table.keys)() {
                let names: Vec<&str> = key.names_in(table.name).collect();
                let head = format!("\n.B \"{}\"\n", names.join(", "));
                assert!(page.contains(&head), "{names:?}");
                count += 1;
            }
        }
        assert!(count > 80, "{count}");
    }

    #[test]
    fn the_example_is_taken() {
        let env = BTreeMap::from([("SIDECAST_CONFIG_YAML".to_owned(), EXAMPLE.to_owned())]);
        let loaded = crate::config::load(None, &env, &mut |_| Ok(String::new())).unwrap();
        assert_eq!(loaded.config.warnings, [""; 0]);
    }

    #[test]
    fn nothing_in_a_text_is_a_request() {
        assert_eq!(
            roff(".x\n'y\na\\b -1 ä…"),
            "\\&.x\n\\&\\(aqy\na\\eb \\-1 \\[u00E4]..."
        );
        assert_eq!(quoted("say \"x\""), "say \\(dqx\\(dq");
    }
}
