//! The commands with their arguments, as parsed.

use std::path::PathBuf;

/// A parsed command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    pub command: Command,
    pub global: Global,
}

/// Options of every command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Global {
    pub config: Option<PathBuf>,
    /// The address of the running announcer, for client commands.
    pub addr: Option<String>,
    /// 0 info, 1 debug, 2 and more trace.
    pub verbosity: u8,
    pub log_format: LogFormat,
}

/// The format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// A command with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Run {
        dry_run: bool,
    },
    Check {
        quiet: bool,
    },
    Demo {
        keep: bool,
    },
    /// A process of the demo: `router` or `service`.
    DemoPart {
        part: String,
    },
    /// A call to the running announcer.
    Client(ClientCommand),
    Doctor {
        json: bool,
    },
    Healthcheck,
    Completions(Shell),
    Man(Page),
    Schema,
    /// App names for a shell's completion.
    AppNames,
    /// The general help, or that of a command.
    Help(Option<&'static str>),
    Version,
}

/// The commands that call the running announcer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCommand {
    Status(StatusOptions),
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

/// Options of `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusOptions {
    /// This app alone.
    pub name: Option<String>,
    /// Only peers and apps with a problem.
    pub down: bool,
    pub json: bool,
    /// Repeats until interrupted.
    pub watch: bool,
}

/// A shell with completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    /// In the order of [`SHELLS`].
    pub const ALL: [Self; 3] = [Self::Bash, Self::Zsh, Self::Fish];

    /// The shell of that name.
    pub fn named(name: &str) -> Option<Self> {
        let index = SHELLS.iter().position(|shell| *shell == name)?;
        Self::ALL.get(index).copied()
    }
}

/// A page of the manual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Commands,
    Configuration,
}

impl Page {
    /// The manual section.
    pub fn of_section(section: &str) -> Self {
        match section {
            "5" => Self::Configuration,
            _ => Self::Commands,
        }
    }
}

/// The shells, as they are named.
pub const SHELLS: &[&str] = &["bash", "zsh", "fish"];
/// The sections, as they are named.
pub const SECTIONS: &[&str] = &["8", "5"];
