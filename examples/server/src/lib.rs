//! klatch as a program: `klatch-server` serves rooms, history and a page, `verify` checks a log, `replay` plays recorded
//! chat against a server. See `--help` and docs/configuration.md.
//!
//! A library, so that the packages of other languages can bring the same program along.

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

use clap::{CommandFactory, FromArgMatches};
use cli::{Cli, Command};
use std::ffi::OsString;
use std::io::Write;

/// Runs the program with these arguments, the first of which is its name, and returns its status. It prints, and has SIGTERM and SIGINT
/// for itself.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    // Under the name that it was called by.
    let name = args.first().map(|n| n.to_string_lossy().into_owned()).filter(|n| n.starts_with("python"));
    let mut command = Cli::command();
    if let Some(name) = name {
        command = command.bin_name(name);
    }
    let cli = match command.try_get_matches_from(args).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version go to stdout and are no failure.
            let _ = e.print();
            return e.exit_code() as u8;
        }
    };
    let done = match cli.command {
        None => serve::run(&cli.serve),
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Verify(args)) => verify::run(&args),
        Some(Command::Replay(args)) => replay::run(&args),
    };
    match done {
        Ok(()) => 0,
        Err(failure) => {
            // Nobody to tell where stderr is closed.
            let _ = writeln!(std::io::stderr(), "klatch-server: {failure}");
            failure.status()
        }
    }
}

/// Prints to stdout at once, also where that is a pipe. Whoever closed it does not want to know.
fn say(text: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}
