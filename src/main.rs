//! The program: arguments in, exit code out.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(sidecast::cli::main(std::env::args_os().skip(1)))
}
