//! The shared library as others see it: its symbols, what it needs, and that it gets on with its neighbours.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Program, include_dir, run, shared_library};
use std::collections::BTreeSet;
use std::process::Command;

fn dynamic(which: &str) -> Vec<String> {
    let out = run(Command::new("nm").args(["-D", which]).arg(shared_library()));
    // Weak ones are asked for and not needed; they are nobody's.
    let weak = |l: &&str| l.split_whitespace().any(|word| word == "w");
    let lines = out.lines().filter(|l| !weak(l));
    lines.filter_map(|l| l.split_whitespace().next_back()).map(str::to_owned).collect()
}

#[test]
fn x35_it_exports_the_functions_of_the_header_and_nothing_else() {
    let header = std::fs::read_to_string(include_dir().join("klatch.h")).unwrap();
    let body = header.split("extern \"C\" {").nth(1).unwrap();
    let declared = body.split("\nKLATCH_API").skip(1).filter_map(|part| part.split('(').next());
    let mut declared: BTreeSet<String> =
        declared.map(|head| head.split([' ', '*', '\n']).next_back().unwrap().to_owned()).collect();
    // For tests.
    declared.insert("klatch_test_panic".into());
    let exported: BTreeSet<String> = dynamic("--defined-only").into_iter().collect();
    assert_eq!(exported, declared);
}

#[test]
fn x35_it_takes_nothing_from_the_hosts_libraries() {
    let taken = dynamic("--undefined-only");
    assert!(taken.len() > 50);
    let prefixes =
        ["SSL_", "EVP_", "CRYPTO_", "OPENSSL_", "X509_", "rd_kafka", "ZSTD_", "inflate", "deflate", "sasl_"];
    let crossed: Vec<_> = taken.iter().filter(|s| prefixes.iter().any(|p| s.starts_with(p))).collect();
    assert!(crossed.is_empty(), "{crossed:?}");
}

#[test]
fn x34_it_has_its_own_name_and_needs_no_static_tls() {
    let out = run(Command::new("readelf").args(["-d", "-W"]).arg(shared_library()));
    assert!(out.contains("Library soname: [libklatch.so.0]"), "{out}");
    assert!(out.contains("NODELETE") && !out.contains("STATIC_TLS"), "{out}");
    let needed: Vec<&str> =
        out.lines().filter(|l| l.contains("(NEEDED)")).filter_map(|l| l.split(['[', ']']).nth(1)).collect();
    for library in needed {
        let system =
            ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "libdl.so.2", "libpthread.so.0", "librt.so.1"];
        assert!(system.contains(&library) || library.starts_with("ld-linux"), "it needs {library}");
    }
}

/// X34, X35: forty libraries with static TLS came first, and a host's OpenSSL is at work beside ours.
#[test]
fn x34_x35_it_loads_late_and_beside_the_hosts_openssl() {
    let dir = tempfile::tempdir().unwrap();
    let mut neighbours = Vec::new();
    for n in 0..40 {
        let (source, library) = (dir.path().join("tls.c"), dir.path().join(format!("libtls{n}.so")));
        std::fs::write(
            &source,
            format!("__thread char tls{n}[16] = {{1}};\nint get{n}(void) {{ return tls{n}[0]; }}\n"),
        )
        .unwrap();
        let flags = ["-shared", "-fPIC", "-ftls-model=initial-exec", "-o"];
        run(Command::new("cc").args(flags).arg(&library).arg(&source));
        neighbours.push(library);
    }
    let program = Program::build("load", &["-ldl"]);
    let out = run(program.command().arg(shared_library()).args(&neighbours));
    assert!(out.starts_with("40 neighbours, "), "{out}");
}
