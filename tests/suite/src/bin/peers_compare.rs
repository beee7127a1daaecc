//! What slow and dead peers cost the others, case by case, in interleaved runs. `tests/load/peers-compare` builds and runs it.

// A measuring program: it talks by its output and ends with a panic.
#![allow(clippy::print_stdout)]

use klatch_suite::compare::{self, CASES, Case, Options};
use klatch_suite::report::{HEAD, line, row};
use std::path::Path;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str, default: &str| {
        let at = args.iter().position(|a| *a == format!("--{name}"));
        at.map_or(default.to_owned(), |at| args.get(at + 1).cloned().unwrap_or_default())
    };
    let number = |name: &str, default: &str| -> f64 {
        option(name, default).parse().unwrap_or_else(|e| panic!("--{name}: {e}"))
    };
    let rounds = number("rounds", "3") as usize;
    let programs = std::env::current_exe().unwrap_or_else(|e| panic!("where am I? {e}"));
    let options = Options {
        seconds: number("seconds", "10"),
        cores: option("cores", "1"),
        programs: programs.parent().unwrap_or(Path::new(".")).to_owned(),
    };
    let only = option("only", "");
    let chosen = |case: &Case| only.is_empty() || only.split(',').any(|name| name == case.name());
    let cases: Vec<Case> = CASES.into_iter().filter(chosen).collect();
    assert!(!cases.is_empty(), "--only takes some of {:?}", CASES.map(Case::name));

    println!("{}", machine());
    let mut rows = Vec::new();
    for case in cases {
        let pairs: Vec<_> = (1..=rounds)
            .map(|round| {
                [false, true].map(|disturbed| {
                    let outcome = one(case, disturbed, &options);
                    let state = if disturbed { "disturbed" } else { "undisturbed" };
                    println!("{} {round} {state}: {}; load {}", case.name(), line(&outcome), load());
                    outcome
                })
            })
            .collect();
        let load = case.load();
        println!(
            "{}: {} members are measured beside {} others; {} publishes a second of {} bytes for {} s, {} of each",
            case.name(),
            load.members,
            load.others,
            load.rate,
            load.bytes,
            options.seconds,
            rounds,
        );
        rows.push(row(case, &pairs));
        println!("{}", rows.last().map_or("", String::as_str));
    }
    println!("\n{}\n\n{HEAD}\n{}", machine(), rows.join("\n"));
}

/// On a thread of its own, which may change to another network.
fn one(case: Case, disturbed: bool, options: &Options) -> compare::Outcome {
    let options = options.clone();
    let run = std::thread::spawn(move || compare::run(case, disturbed, &options));
    run.join().unwrap_or_else(|_| std::process::exit(1))
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let field = |name| {
        let lines = info.lines().filter_map(move |l| l.strip_prefix(name)?.split_once(": "));
        lines.map(|(_, value)| value.to_owned()).collect::<Vec<_>>()
    };
    let names = field("model name");
    format!(
        "{} x {}, Linux {}, load {}",
        names.len(),
        names.first().map_or("?", String::as_str),
        read("/proc/sys/kernel/osrelease").trim(),
        load(),
    )
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}
