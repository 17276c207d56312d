//! The log on standard error: a line of text, or a JSON object, an entry.

use super::command::LogFormat;
use crate::diagnosis::MESSAGES;
use crate::io::stderr::Lines;
use crate::text::SingleLine;
use crate::view::time::rfc3339;
use env_logger::Target;
use env_logger::fmt::Formatter;
use log::{LevelFilter, Record};
use std::io::{self, Write};
use std::time::SystemTime;

/// Installs the logger. `RUST_LOG` replaces `-v` and the default levels.
pub fn start(verbosity: u8, format: LogFormat) {
    let level = match verbosity {
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    // One line for each BGP message only from -vv.
    let messages = match verbosity {
        0 | 1 => LevelFilter::Info,
        _ => LevelFilter::Debug,
    };
    let mut builder = env_logger::Builder::new();
    match std::env::var("RUST_LOG") {
        Ok(filters) if !filters.is_empty() => builder.parse_filters(&filters),
        // Libraries log warnings only, unless RUST_LOG asks for more.
        _ => builder
            .filter_level(LevelFilter::Warn)
            .filter_module("sidecast", level)
            .filter_module(MESSAGES, messages),
    };
    builder.target(Target::Pipe(Box::new(Lines)));
    match format {
        LogFormat::Text => builder.format(text),
        LogFormat::Json => builder.format(json),
    };
    // A second start, as tests do, keeps the first logger.
    let _ = builder.try_init();
}

fn text(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    writeln!(
        out,
        "{} {:<5} {}",
        rfc3339(SystemTime::now()),
        record.level(),
        // Remote texts are escaped: none may look like a log line of its own.
        SingleLine(record.args())
    )
}

fn json(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let entry = serde_json::json!({
        "time": rfc3339(SystemTime::now()),
        "level": record.level().as_str().to_ascii_lowercase(),
        "target": record.target(),
        "message": record.args().to_string(),
    });
    writeln!(out, "{entry}")
}
