//! klatch as a program: `klatch-server` serves rooms, history and a page, `verify` checks a log, `replay` plays recorded
//! chat against a server. See `--help` and docs/configuration.md.

mod cli;
mod config;
mod failure;
mod files;
mod progress;
mod replay;
mod serve;
mod signals;
mod units;
mod verify;

use clap::Parser;
use cli::{Cli, Command};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => serve::run(&cli.serve),
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Verify(args)) => verify::run(&args),
        Some(Command::Replay(args)) => replay::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody to tell where stderr is closed.
            let _ = writeln!(std::io::stderr(), "klatch-server: {failure}");
            ExitCode::from(failure.status())
        }
    }
}

/// Prints to stdout at once, also where that is a pipe. Whoever closed it does not want to know.
fn say(text: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}
