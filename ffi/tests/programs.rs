//! C programs in `tests/c`: they are compiled with all warnings, linked with the shared library, and run; some under valgrind and
//! AddressSanitizer too. What they say goes to their output: the library itself prints nothing.
#![allow(clippy::unwrap_used)]

mod common;

use common::Program;

const ASAN: &[&str] =
    &["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];

/// As it is, under valgrind, and with AddressSanitizer, which sees what C does with memory that the library gave it, and took back.
fn three_times(name: &str) {
    let program = Program::build(name, &[]);
    assert_eq!(program.run(), "ok\n");
    assert_eq!(program.valgrind(), "ok\n");
    assert_eq!(Program::build(name, ASAN).run(), "ok\n");
}

/// The program in the header's first comment.
#[test]
fn the_story_of_the_header_is_a_program() {
    let out = Program::build("story", &[]).run();
    assert!(out.starts_with("chat at ws://127.0.0.1:") && out.ends_with("host: \"hello\"\n"), "{out}");
}

#[test]
fn every_function_does_what_it_says() {
    three_times("api");
}

/// R23: the engine is used, stopped and freed in each of its callbacks, or says `would_deadlock`.
#[test]
fn r23_every_misuse_is_an_error() {
    three_times("abuse");
}

#[test]
fn x27_threads_wait_and_publish_while_everything_is_freed() {
    three_times("threads");
}

#[test]
fn nothing_is_left_of_what_was_freed() {
    three_times("leak");
}

/// R22: signals, limits, locale and directory of the host are as they were, and a client that goes away raises no SIGPIPE.
#[test]
fn r22_the_host_is_left_as_it_was() {
    assert_eq!(Program::build("host", &[]).run(), "ok\n");
}
