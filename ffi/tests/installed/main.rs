//! What `ffi/install` lays out, and what is built with it: C++ programs, projects of pkg-config and CMake, and the examples.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod cpp;
mod examples;
mod packages;

use common::{crate_dir, run, shared_library};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

/// Everything is installed here once, from the libraries that cargo has built for this test.
fn prefix() -> &'static Path {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = folder();
        let built = shared_library();
        run(Command::new(crate_dir().join("install"))
            .arg("--prefix")
            .arg(dir.path())
            .arg("--built")
            .arg(built.parent().unwrap()));
        dir
    })
    .path()
}

/// A folder that goes with the value.
fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A command that finds what is installed as users would have it: by pkg-config, and the shared library when it runs.
fn with_prefix(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("PKG_CONFIG_PATH", prefix().join("lib/pkgconfig"));
    command.env("LD_LIBRARY_PATH", prefix().join("lib"));
    command
}

/// What pkg-config says of a package.
fn flags(package: &str) -> Vec<String> {
    let out = run(with_prefix("pkg-config").args(["--cflags", "--libs", package]));
    out.split_whitespace().map(str::to_owned).collect()
}
