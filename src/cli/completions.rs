//! `sidecast completions`: shell completions, from the table of commands. App names come from the
//! running announcer while the shell waits.

use super::client::Client;
use super::command::Shell;
use super::commands::{Argument, COMMANDS, Flag, GLOBAL, Spec, Value, every_flag, long};
use super::help::ABOUT;
use std::fmt::Write;
use std::time::Duration;

impl Shell {
    /// The script that the shell reads.
    pub fn script(self) -> String {
        match self {
            Self::Bash => bash(),
            Self::Zsh => zsh(),
            Self::Fish => fish(),
        }
    }
}

/// The app names of the running announcer, one a line; none if it does not answer soon.
pub fn apps(client: &Client) -> String {
    let answer = client.call("GET", "/apps", &[], SOON).ok();
    let apps = answer.and_then(|answer| answer.json());
    let apps = apps.as_ref().and_then(|apps| apps.as_array());
    let names = apps
        .into_iter()
        .flatten()
        .filter_map(|app| app["name"].as_str());
    names.map(|name| format!("{name}\n")).collect()
}

fn bash() -> String {
    let mut text = format!("# bash completion for sidecast. {ABOUT}\n{BASH_HEAD}");
    for flag in every_flag().filter(seen_first) {
        let Some((_, value)) = flag.value else {
            continue;
        };
        let offer = match value {
            Value::File => "_sidecast_files".to_owned(),
            Value::Words(words) => format!("_sidecast_words \"{}\"", words.join(" ")),
            _ => ":".to_owned(),
        };
        let _ = writeln!(
            text,
            "        {}) {offer}; return ;;",
            spelled(flag).join("|")
        );
    }
    text += "    esac\n    for ((i = 1; i < cword; i++)); do\n        case ${words[i]} in\n";
    let _ = writeln!(
        text,
        "            {})\n                [[ ${{words[i + 1]}} == = ]] && ((i++))\n                ((i++))\n                ;;",
        with_value().join("|")
    );
    let global: Vec<String> = GLOBAL.iter().flat_map(spelled).collect();
    text += &BASH_LOOP.replace("GLOBAL", &global.join(" "));
    for spec in COMMANDS {
        let flags: Vec<String> = spec.flags.iter().flat_map(spelled).collect();
        let _ = writeln!(text, "        {})", spec.name);
        let _ = writeln!(text, "            flags+=\" {}\"", flags.join(" "));
        for (index, argument) in spec.shown().enumerate() {
            let offer = match argument.value {
                Value::Text => continue,
                Value::File => "_sidecast_files".to_owned(),
                Value::App => "_sidecast_apps".to_owned(),
                Value::Command => format!("_sidecast_words \"{}\"", names()),
                Value::Words(words) => format!("_sidecast_words \"{}\"", words.join(" ")),
            };
            let _ = writeln!(
                text,
                "            [[ $place -eq {index} ]] && offer='{offer}'"
            );
        }
        text += "            ;;\n";
    }
    let of_run: Vec<String> = COMMANDS
        .first()
        .into_iter()
        .flat_map(|run| run.flags)
        .flat_map(spelled)
        .collect();
    let _ = writeln!(
        text,
        "        '')\n            flags+=\" {}\"\n            offer='_sidecast_words \"{}\"' ;;",
        of_run.join(" "),
        names()
    );
    text + BASH_TAIL
}

/// Whether no command before has the same flag.
fn seen_first(flag: &&'static Flag) -> bool {
    long(flag.long).is_some_and(|first| std::ptr::eq(first, *flag))
}

/// Every flag that takes the next word.
fn with_value() -> Vec<String> {
    let flags = every_flag().filter(seen_first);
    let flags = flags.filter(|flag| flag.value.is_some());
    flags.flat_map(spelled).collect()
}

/// Each way to write it.
fn spelled(flag: &Flag) -> Vec<String> {
    let short = flag.short.map(|short| format!("-{short}"));
    let long = format!("--{}", flag.long);
    short.into_iter().chain([long]).collect()
}

fn names() -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|spec| spec.name).collect();
    names.join(" ")
}

fn zsh() -> String {
    let mut text = format!("#compdef sidecast\n# zsh completion for sidecast. {ABOUT}\n{ZSH_HEAD}");
    let described = COMMANDS.iter();
    let described =
        described.map(|spec| format!("        '{}:{}'\n", spec.name, zsh_text(spec.summary)));
    let commands: String = described.collect();
    text += &ZSH_COMMANDS.replace("COMMANDS", &commands);
    text += "    local -a every\n    every=(\n";
    for flag in GLOBAL {
        let _ = writeln!(text, "        {}", zsh_flag(flag));
    }
    text += "    )\n    local curcontext=\"$curcontext\" state line ret=1\n    _arguments -C $every \\\n";
    for flag in COMMANDS.first().into_iter().flat_map(|run| run.flags) {
        let _ = writeln!(text, "        {} \\", zsh_flag(flag));
    }
    text += "        '1:command:_sidecast_commands' '*::argument:->argument' && ret=0\n";
    text += "    [[ $state == argument ]] || return ret\n    case $words[1] in\n";
    for spec in COMMANDS {
        let _ = write!(text, "        {}) _arguments $every", spec.name);
        for flag in spec.flags {
            let _ = write!(text, " \\\n            {}", zsh_flag(flag));
        }
        for (index, argument) in spec.shown().enumerate() {
            let _ = write!(
                text,
                " \\\n            {}",
                zsh_argument(index + 1, argument)
            );
        }
        text += " && ret=0 ;;\n";
    }
    text + "    esac\n    return ret\n}\n\n_sidecast \"$@\"\n"
}

fn zsh_flag(flag: &Flag) -> String {
    let action = match flag.value {
        None => String::new(),
        Some((name, value)) => format!(":{name}:{}", zsh_action(value)),
    };
    let value = if flag.value.is_some() { "=" } else { "" };
    let doc = zsh_text(flag.doc);
    let star = if flag.repeats { "*" } else { "" };
    match flag.short {
        // A flag that was given in either way is not offered again.
        Some(short) if !flag.repeats => {
            let (plus, both) = (if value.is_empty() { "" } else { "+" }, flag.long);
            format!(
                "'(-{short} --{both})'-{short}{plus}'[{doc}]{action}' '(-{short} --{both})'--{both}{value}'[{doc}]{action}'"
            )
        }
        Some(short) => format!(
            "'{star}-{short}[{doc}]{action}' '{star}--{}{value}[{doc}]{action}'",
            flag.long
        ),
        None => format!("'{star}--{}{value}[{doc}]{action}'", flag.long),
    }
}

fn zsh_argument(place: usize, argument: &Argument) -> String {
    let optional = if argument.required { "" } else { ":" };
    let action = zsh_action(argument.value);
    format!("'{place}:{optional}{}:{action}'", zsh_text(argument.doc))
}

fn zsh_action(value: Value) -> String {
    match value {
        Value::Text => " ".to_owned(),
        Value::File => "_files".to_owned(),
        Value::App => "_sidecast_apps".to_owned(),
        Value::Command => "_sidecast_commands".to_owned(),
        Value::Words(words) => format!("({})", words.join(" ")),
    }
}

/// Inside single quotes, where brackets and colons would end a description.
fn zsh_text(text: &str) -> String {
    let text = text.replace('\'', "'\\''");
    let text = text.replace('[', "\\[").replace(']', "\\]");
    text.replace(':', "\\:")
}

fn fish() -> String {
    let head = FISH_HEAD.replace("VALUED", &with_value().join(" "));
    let mut text = format!("# fish completion for sidecast. {ABOUT}\n{head}");
    for flag in GLOBAL {
        let _ = writeln!(text, "complete -c sidecast{}", fish_flag(flag));
    }
    let none = "not __sidecast_command";
    for flag in COMMANDS.first().into_iter().flat_map(|run| run.flags) {
        let _ = writeln!(text, "complete -c sidecast -n '{none}'{}", fish_flag(flag));
    }
    for spec in COMMANDS {
        let (name, summary) = (spec.name, fish_text(spec.summary));
        let _ = writeln!(
            text,
            "complete -c sidecast -n '{none}' -a {name} -d '{summary}'"
        );
    }
    for spec in COMMANDS {
        fish_command(&mut text, spec);
    }
    text
}

fn fish_command(text: &mut String, spec: &Spec) {
    let name = spec.name;
    for flag in spec.flags {
        let _ = writeln!(
            text,
            "complete -c sidecast -n '__sidecast_command {name}'{}",
            fish_flag(flag)
        );
    }
    for (place, argument) in spec.shown().enumerate() {
        let offer = match argument.value {
            Value::Text => continue,
            Value::File => " -F".to_owned(),
            Value::App => " -a '(sidecast completions apps 2>/dev/null)'".to_owned(),
            Value::Command => format!(" -a '{}'", names()),
            Value::Words(words) => format!(" -a '{}'", words.join(" ")),
        };
        let doc = fish_text(argument.doc);
        let _ = writeln!(
            text,
            "complete -c sidecast -n '__sidecast_command {name} {place}'{offer} -d '{doc}'"
        );
    }
}

fn fish_flag(flag: &Flag) -> String {
    let short = flag.short.map(|short| format!(" -s {short}"));
    let value = match flag.value {
        None => String::new(),
        Some((_, Value::File)) => " -r -F".to_owned(),
        Some((_, Value::Words(words))) => format!(" -x -a '{}'", words.join(" ")),
        Some(_) => " -x".to_owned(),
    };
    let (short, doc) = (short.unwrap_or_default(), fish_text(flag.doc));
    format!("{short} -l {}{value} -d '{doc}'", flag.long)
}

fn fish_text(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

/// The user waits for the completion.
const SOON: Duration = Duration::from_secs(1);

const BASH_HEAD: &str = r#"
_sidecast_words() {
    local word
    while IFS= read -r word; do
        COMPREPLY+=("$word")
    done < <(compgen -W "$1" -- "$cur")
}

_sidecast_files() {
    local file
    compopt -o filenames 2>/dev/null
    while IFS= read -r file; do
        COMPREPLY+=("$file")
    done < <(compgen -f -- "$cur")
}

# A name may hold whatever can be seen: it is quoted.
_sidecast_apps() {
    local name
    while IFS= read -r name; do
        [[ $name == "$cur"* ]] && COMPREPLY+=("$(printf %q "$name")")
    done < <("${COMP_WORDS[0]}" completions apps 2>/dev/null)
}

_sidecast() {
    local cur prev flags offer='' command='' place=0 i cword=$COMP_CWORD
    local -a words=("${COMP_WORDS[@]}")
    COMPREPLY=()
    cur=${words[cword]}
    prev=${words[cword - 1]}
    # `--config=x` comes as three words.
    if [[ $cur == = ]]; then
        cur=''
    elif [[ $prev == = && $cword -gt 2 ]]; then
        prev=${words[cword - 2]}
    fi
    case $prev in
"#;

const BASH_LOOP: &str = r#"            -*|=) ;;
            *)
                if [[ -z $command ]]; then
                    command=${words[i]}
                else
                    ((place++))
                fi
                ;;
        esac
    done
    flags='GLOBAL'
    case $command in
"#;

const BASH_TAIL: &str = r#"    esac
    if [[ $cur == -* ]]; then
        _sidecast_words "$flags"
    elif [[ -n $offer ]]; then
        eval "$offer"
    fi
}

complete -F _sidecast sidecast
"#;

const ZSH_HEAD: &str = r#"
_sidecast_apps() {
    local -a names
    names=("${(@f)$(sidecast completions apps 2>/dev/null)}")
    (( $#names )) && compadd -- ${names:#}
}
"#;

const ZSH_COMMANDS: &str = r#"
_sidecast_commands() {
    local -a commands
    commands=(
COMMANDS    )
    _describe command commands
}

_sidecast() {
"#;

const FISH_HEAD: &str = r#"
# Whether a command was given: this one, with so many arguments behind it.
function __sidecast_command
    set -l words (commandline -opc)
    set -e words[1]
    set -l plain
    set -l skip 0
    for word in $words
        if test $skip -eq 1
            set skip 0
            continue
        end
        switch $word
            case VALUED
                set skip 1
            case '-*'
            case '*'
                set -a plain $word
        end
    end
    if test (count $argv) -eq 0
        test (count $plain) -gt 0
        return
    end
    test "$plain[1]" = "$argv[1]"
    or return
    if test (count $argv) -gt 1
        test (count $plain) -eq (math $argv[2] + 1)
    end
end

complete -c sidecast -f
"#;
