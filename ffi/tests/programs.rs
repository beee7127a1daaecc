//! C programs in `tests/c`: they are compiled with all warnings, linked with the shared library, and run; some under valgrind too.
#![allow(clippy::unwrap_used)]

mod common;

use common::Program;

/// The program in the header's first comment.
#[test]
fn the_story_of_the_header_is_a_program() {
    let out = Program::build("story", &[]).run();
    assert!(out.starts_with("chat at ws://127.0.0.1:") && out.ends_with("host: \"hello\"\n"), "{out}");
}

#[test]
fn every_function_does_what_it_says() {
    assert_eq!(Program::build("api", &[]).run(), "ok\n");
}
