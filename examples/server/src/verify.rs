//! `klatch-server verify`.

use crate::cli::Verify;
use crate::failure::Failure;
use crate::say;

/// Checks a log and prints what it found.
pub fn run(args: &Verify) -> Result<(), Failure> {
    let report = klatch::log::verify(&args.dir).map_err(|e| Failure::run(e.to_string()))?;
    if args.json {
        let json = serde_json::to_string(&report).map_err(|e| Failure::run(e.to_string()))?;
        say(format_args!("{json}\n"));
    } else {
        say(&report);
    }
    let dir = args.dir.display();
    if !report.is_sound() {
        return Err(Failure::run(format!(
            "{dir}: the log is damaged. Restore it from a copy, or start with --accept-damage to go on without what is lost"
        )));
    }
    if report.id.is_none() {
        return Err(Failure::run(format!("{dir}: there is no log here")));
    }
    Ok(())
}
