//! `klatch.hpp`: programs in `tests/cpp`, compiled with all warnings, and what it has of `klatch.h`.

use crate::common::{crate_dir, include_dir, run};
use crate::{flags, folder, with_prefix};
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const WARNINGS: &[&str] = &["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"];
const ASAN: &[&str] =
    &["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];

/// g++, and clang++ if it is there.
fn compilers() -> Vec<&'static str> {
    let there = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    ["g++", "clang++"].into_iter().filter(there).collect()
}

/// A program of these sources, in a folder of its own.
fn build(sources: &[&str], standard: &str, extra: &[&str]) -> TempDir {
    let dir = folder();
    let tests = crate_dir().join("tests/cpp");
    let client = dir.path().join("client.o");
    run(Command::new("cc")
        .args(["-std=c11", "-D_GNU_SOURCE", "-g", "-c", "-I"])
        .arg(include_dir())
        .arg("-o")
        .arg(&client)
        .arg(tests.join("client.c")));
    run(Command::new("g++")
        .arg(format!("-std={standard}"))
        .args(["-O1", "-g"])
        .args(WARNINGS)
        .args(extra)
        .args(sources.iter().map(|name| tests.join(name)))
        .arg(&client)
        .args(flags("klatch"))
        .arg("-lpthread")
        .arg("-o")
        .arg(dir.path().join("program")));
    dir
}

fn run_in(dir: &Path, before: &[&str]) -> String {
    let program = dir.join("program");
    match before {
        [] => run(with_prefix(program).current_dir(dir)),
        [first, rest @ ..] => run(with_prefix(first).args(rest).arg(program).current_dir(dir)),
    }
}

const VALGRIND: &[&str] = &[
    "valgrind",
    "--quiet",
    "--error-exitcode=99",
    "--leak-check=full",
    "--errors-for-leak-kinds=definite",
    "--show-leak-kinds=definite",
    "--fair-sched=yes",
];

#[test]
fn everything_is_what_it_is_in_c() {
    let sources = &["api.cpp", "other.cpp"];
    for standard in ["c++17", "c++20"] {
        let program = build(sources, standard, &[]);
        assert_eq!(run_in(program.path(), &[]), "ok\n");
    }
    let program = build(sources, "c++17", &[]);
    assert_eq!(run_in(program.path(), VALGRIND), "ok\n");
    let program = build(sources, "c++17", ASAN);
    assert_eq!(run_in(program.path(), &[]), "ok\n");
}

/// R23: from every callback everything may be called, and an exception ends nothing.
#[test]
fn r23_callbacks_may_stop_free_publish_and_throw() {
    let program = build(&["callbacks.cpp"], "c++17", &[]);
    assert_eq!(run_in(program.path(), &[]), "ok\n");
    // What it stored there would be a duplicate of nothing, and is not looked at.
    let program = build(&["callbacks.cpp"], "c++17", &[]);
    assert_eq!(run_in(program.path(), VALGRIND), "ok\n");
    let program = build(&["callbacks.cpp"], "c++17", ASAN);
    assert_eq!(run_in(program.path(), &[]), "ok\n");
}

/// With all warnings, twice, by every compiler that is here, and in programs without exceptions too.
#[test]
fn every_compiler_takes_the_header_twice() {
    let dir = folder();
    let source = dir.path().join("twice.cpp");
    let text = "#include <klatch.hpp>\n#include \"klatch.hpp\"\n\
        int main() {\n    klatch::Builder builder;\n\
        builder.on_publish([](const klatch::Request &) { return klatch::Answer::allow(); });\n    auto engine = builder.start();\n\
        if (!engine || !engine->on_event([](const klatch::Event *) {})) return 1;\n    return engine->history(\"r\")->empty();\n}\n";
    fs::write(&source, text).unwrap();
    for compiler in compilers() {
        for standard in ["c++17", "c++20"] {
            for more in [&[][..], &["-fno-exceptions", "-fno-rtti"][..]] {
                run(Command::new(compiler)
                    .arg(format!("-std={standard}"))
                    .args(WARNINGS)
                    .args(["-Wsign-conversion", "-Wold-style-cast"])
                    .args(more)
                    .arg("-I")
                    .arg(include_dir())
                    .arg("-fsyntax-only")
                    .arg(&source));
            }
        }
    }
}

/// The program in the header's first comment, and the one in the README.
#[test]
fn its_story_is_a_program() {
    let text = fs::read_to_string(include_dir().join("klatch.hpp")).unwrap();
    let comment = text.split("*/").next().unwrap();
    let lines = comment.lines().filter_map(|l| l.strip_prefix(" *     "));
    let story: String = lines.map(|l| format!("{l}\n")).collect();
    let dir = folder();
    fs::write(dir.path().join("story.cpp"), story).unwrap();
    run(Command::new("g++")
        .args(["-std=c++17", "-O1"])
        .args(WARNINGS)
        .arg(dir.path().join("story.cpp"))
        .args(flags("klatch"))
        .arg("-o")
        .arg(dir.path().join("program")));
    assert_eq!(run_in(dir.path(), &[]), "host: \"hello\"\n");
}

/// Every function and every constant of C is reached from C++.
#[test]
fn nothing_of_c_is_missing() {
    let c = fs::read_to_string(include_dir().join("klatch.h")).unwrap();
    let cpp = fs::read_to_string(include_dir().join("klatch.hpp")).unwrap();
    let body = c.split("extern \"C\" {").nth(1).unwrap();
    let functions = body.split("\nKLATCH_API").skip(1).filter_map(|part| part.split('(').next());
    let functions = functions.map(|head| head.split([' ', '*', '\n']).next_back().unwrap());
    let constants = body.split("#define ").skip(1).filter_map(|part| part.split([' ', '\n']).next());
    // Codes are numbers in C++ too.
    let constants = constants.filter(|name| !name.starts_with("KLATCH_ERROR_"));
    let word = |name: &str| {
        cpp.match_indices(name)
            .any(|(at, _)| !cpp[at + name.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    let names: Vec<&str> = functions.chain(constants).collect();
    assert!(names.len() > 130, "{}", names.len());
    let missing: Vec<_> = names.into_iter().filter(|name| !word(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
