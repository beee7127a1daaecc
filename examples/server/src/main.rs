//! The program `klatch-server`; what it does is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(klatch_server::run(std::env::args_os()))
}
