//! Runs tests that are found when they are run, each under a name of its own, as cargo's own harness would.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A test: its name, and what to do.
pub type Test<'a> = (String, Box<dyn Fn() -> Result<(), String> + Sync + 'a>);

/// The tests that the arguments ask for; arguments are filters as usual. None: there is nothing to run.
fn chosen<'a>(tests: Vec<Test<'a>>, args: &[String]) -> Option<Vec<Test<'a>>> {
    let flag = |name: &str| args.iter().any(|a| a == name);
    if flag("--ignored") {
        return None;
    }
    let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let hit = |name: &str| {
        let hits = |f: &&String| if flag("--exact") { name == **f } else { name.contains(f.as_str()) };
        filters.is_empty() || filters.iter().any(hits)
    };
    let tests: Vec<Test<'a>> = tests.into_iter().filter(|(name, _)| hit(name)).collect();
    if flag("--list") {
        for (name, _) in &tests {
            let _ = writeln!(std::io::stdout(), "{name}: test");
        }
        return None;
    }
    Some(tests)
}

/// Runs them on so many threads.
pub fn run(tests: Vec<Test<'_>>, threads: usize) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(tests) = chosen(tests, &args) else { return ExitCode::SUCCESS };
    // Tests fail by what they return. Hooks of theirs that panic are in haste: naming the functions of a large program, which
    // RUST_BACKTRACE asks for, takes longer than the engine waits for them.
    std::panic::set_hook(Box::new(|info| {
        let _ = writeln!(std::io::stderr(), "{info}");
    }));
    let mut out = std::io::stdout();
    let _ = writeln!(out, "\nrunning {} tests", tests.len());
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((name, test)) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = test();
                    let word = if result.is_ok() { "ok" } else { "FAILED" };
                    let _ = writeln!(std::io::stdout(), "test {name} ... {word}");
                    if let Err(e) = result
                        && let Ok(mut failures) = failures.lock()
                    {
                        failures.push(format!("---- {name} ----\n{e}\n"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    for failure in &failures {
        let _ = writeln!(out, "\n{failure}");
    }
    let (word, failed) = (if failures.is_empty() { "ok" } else { "FAILED" }, failures.len());
    let _ = writeln!(out, "\ntest result: {word}. {} passed; {failed} failed", tests.len() - failed);
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
