//! Projects of others, in `tests/consumers`, that find klatch by pkg-config and by CMake, shared and static.

use crate::common::{crate_dir, run};
use crate::{flags, folder, prefix, with_prefix};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A copy of a consumer's project.
fn project(name: &str) -> TempDir {
    let copy = folder();
    for entry in fs::read_dir(crate_dir().join("tests/consumers").join(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// The libraries that a program asks for when it starts.
fn needs(program: &Path) -> String {
    run(Command::new("readelf").args(["-d", "-W"]).arg(program))
}

fn hello() -> String {
    format!("klatch {}\n", env!("CARGO_PKG_VERSION"))
}

#[test]
fn a_makefile_finds_it_by_pkg_config() {
    for (package, shared) in [("klatch", true), ("klatch-static", false)] {
        let project = project("pkg-config");
        run(with_prefix("make").arg("-C").arg(project.path()).arg(format!("PACKAGE={package}")));
        let program = project.path().join("hello");
        assert_eq!(needs(&program).contains("[libklatch.so.0]"), shared, "{package}");
        if shared {
            assert_eq!(run(&mut with_prefix(&program)), hello());
        } else {
            assert_eq!(run(&mut Command::new(&program)), hello());
        }
    }
}

#[test]
fn cmake_finds_both_libraries() {
    let project = project("cmake");
    let build = project.path().join("build");
    let prefix_path = format!("-DCMAKE_PREFIX_PATH={}", prefix().display());
    run(Command::new("cmake").arg("-S").arg(project.path()).arg("-B").arg(&build).arg(prefix_path));
    run(Command::new("cmake").arg("--build").arg(&build));
    assert!(needs(&build.join("shared")).contains("[libklatch.so.0]"));
    assert!(!needs(&build.join("static")).contains("libklatch"));
    // CMake has written where the library is.
    assert_eq!(run(&mut Command::new(build.join("shared"))), hello());
    assert_eq!(run(&mut Command::new(build.join("static"))), hello());
}

/// Whoever asks for a version that this is not is told so.
#[test]
fn cmake_takes_no_other_version() {
    for (wanted, found) in [
        ("0.1", true),
        ("0.1.0 EXACT", true),
        ("0.1.1", false),
        ("0.0", false),
        ("0.2", false),
        ("1.0", false),
    ] {
        let project = folder();
        let text = format!(
            "cmake_minimum_required(VERSION 3.13)\nproject(version CXX)\nfind_package(klatch {wanted})\n\
             if(NOT klatch_FOUND)\n  message(FATAL_ERROR \"it is another version\")\nendif()\n"
        );
        fs::write(project.path().join("CMakeLists.txt"), text).unwrap();
        let prefix_path = format!("-DCMAKE_PREFIX_PATH={}", prefix().display());
        let output = Command::new("cmake")
            .args(["-S", ".", "-B", "build", &prefix_path])
            .current_dir(project.path())
            .output()
            .unwrap();
        assert_eq!(output.status.success(), found, "{wanted}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Names no place: the folder as a whole may go elsewhere.
#[test]
fn what_is_installed_may_be_moved() {
    let elsewhere = folder();
    run(Command::new("cp").arg("-a").arg(prefix()).arg(elsewhere.path().join("moved")));
    let moved = elsewhere.path().join("moved");
    let out = run(Command::new("pkg-config")
        .env("PKG_CONFIG_PATH", moved.join("lib/pkgconfig"))
        .args(["--variable=prefix", "klatch"]));
    assert_eq!(fs::canonicalize(out.trim()).unwrap(), fs::canonicalize(&moved).unwrap());
    for name in ["pkgconfig/klatch.pc", "pkgconfig/klatch-static.pc", "cmake/klatch/klatchConfig.cmake"] {
        let text = fs::read_to_string(moved.join("lib").join(name)).unwrap();
        assert!(!text.contains(prefix().to_str().unwrap()) && !text.contains('@'), "{name}: {text}");
    }
}

/// X35: of the archive, nothing but the header's functions can be seen, so a host's own OpenSSL stays its own.
#[test]
fn x35_the_archive_shows_its_functions_and_nothing_else() {
    let archive = prefix().join("lib/libklatch.a");
    let out =
        run(Command::new("nm").args(["--defined-only", "--extern-only", "--format=posix"]).arg(&archive));
    let names: Vec<&str> = out
        .lines()
        .filter_map(|l| l.split(' ').next())
        .filter(|n| !n.is_empty() && !n.contains("klatch.o"))
        .collect();
    assert!(names.len() > 100);
    let foreign: Vec<_> = names.iter().filter(|n| !n.starts_with("klatch_")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

/// A program with the archive inside and an OpenSSL of its own: it is asked for its version, which is not that of the one inside.
#[test]
fn x35_a_host_with_the_archive_keeps_its_own_openssl() {
    let dir = folder();
    let source = "#include <klatch.h>\n#include <stdio.h>\n\
                  static const char *of_the_host(int what) { (void)what; return \"the host's\"; }\n\
                  const char *OpenSSL_version(int what) { return of_the_host(what); }\n\
                  unsigned int OPENSSL_ia32cap_P[10];\n\
                  int main(void) {\n    klatch_engine_t *engine = NULL;\n    klatch_builder_t *builder = klatch_builder_new();\n\
                  klatch_error_t *error = klatch_builder_log(builder, klatch_str(\"memory\"));\n\
                  if (error == NULL) error = klatch_builder_start(builder, &engine);\n    if (error != NULL) return 1;\n\
                  klatch_engine_free(engine);\n    puts(OpenSSL_version(0));\n    return 0;\n}\n";
    fs::write(dir.path().join("host.c"), source).unwrap();
    let program: PathBuf = dir.path().join("host");
    run(Command::new("cc")
        .arg("-o")
        .arg(&program)
        .arg(dir.path().join("host.c"))
        .args(flags("klatch-static")));
    assert_eq!(run(&mut Command::new(&program)), "the host's\n");
}
