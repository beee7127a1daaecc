//! The repository's own rules, as a test: what may use what, and what must be absent.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn files(dir: &Path, endings: &[&str], out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            let generated = ["target", "node_modules", "fixtures", "klatch-data"].contains(&&*name);
            if !generated && !name.starts_with('.') {
                files(&path, endings, out);
            }
        } else if endings.iter().any(|e| name.ends_with(e)) {
            out.push(path);
        }
    }
}

fn sources(dir: &str) -> Vec<(String, String)> {
    let mut paths = Vec::new();
    files(&root().join(dir), &[".rs"], &mut paths);
    assert!(!paths.is_empty(), "no sources under {dir}");
    let relative = |p: &Path| p.strip_prefix(root()).unwrap().display().to_string();
    paths.into_iter().map(|p| (relative(&p), fs::read_to_string(&p).unwrap())).collect()
}

/// Lines of code: without comments, and without a module of tests at the end of a file.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    text[..end].lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//"))
}

fn violations(dir: &str, forbidden: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources(dir) {
        // The failing disk is a test's, though a file of its own.
        if path.ends_with("/tests.rs") || path.contains("/tests/") || path.ends_with("/log/faulty.rs") {
            continue;
        }
        for (i, line) in code(&text) {
            for f in forbidden.iter().filter(|f| line.contains(*f)) {
                found.push(format!("{path}:{}: {f}: {}", i + 1, line.trim()));
            }
        }
    }
    found
}

/// Modules from the bottom up, each with what it must not use. Leaves may use only each other.
const UPWARD: &[(&str, &[&str])] = &[
    ("log", &["view", "protocol", "session", "broker", "room", "server", "engine"]),
    ("view", &["log", "protocol", "session", "broker", "room", "server", "engine"]),
    ("protocol", &["log", "view", "session", "broker", "room", "server", "engine"]),
    ("session", &["log", "view", "protocol", "broker", "room", "server", "engine"]),
    (
        "room",
        &[
            "log",
            "session",
            "server",
            "engine",
            "broker::embedded",
            "broker::kafka",
            "broker::memory",
            "broker::storage",
        ],
    ),
    ("broker", &["session", "server", "engine"]),
    ("server", &["engine", "log", "broker::embedded", "broker::kafka", "broker::memory", "broker::storage"]),
    ("config", &["log", "view", "protocol", "session", "broker", "room", "server", "engine"]),
];

#[test]
fn nothing_points_upward() {
    let mut found = Vec::new();
    for (module, forbidden) in UPWARD {
        let paths: Vec<String> = forbidden.iter().map(|f| format!("crate::{f}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        found.extend(violations(&format!("core/src/{module}"), &paths));
    }
    for leaf in ["codes", "error", "ids", "message", "command", "clock", "metrics", "events", "hooks"] {
        let path = format!("core/src/{leaf}.rs");
        let text = fs::read_to_string(root().join(&path)).unwrap();
        for (i, line) in code(&text) {
            if UPWARD.iter().any(|(m, _)| *m != "config" && line.contains(&format!("crate::{m}::"))) {
                found.push(format!("{path}:{}: {}", i + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "these point upward:\n{}", found.join("\n"));
}

#[test]
fn sans_io_modules_know_no_tokio_no_sockets_and_no_clock() {
    let mut found = Vec::new();
    for module in ["protocol", "session", "log", "view"] {
        let forbidden = ["tokio", "std::net", "mio::", "SystemTime", "Instant::now", "hyper::"];
        found.extend(violations(&format!("core/src/{module}"), &forbidden));
    }
    assert!(found.is_empty(), "these are not sans I/O:\n{}", found.join("\n"));
}

#[test]
fn each_library_has_its_place() {
    let mut found = Vec::new();
    for (library, place) in [
        ("hyper::", "core/src/server/"),
        ("tungstenite::", "core/src/server/"),
        ("mio::", "core/src/server/"),
        ("fjall::", "core/src/view/"),
        ("SystemTime", "core/src/clock.rs"),
        ("rdkafka::", "core/src/broker/kafka/"),
        ("klatch_kafka_ext", "core/src/broker/kafka/"),
    ] {
        found.extend(violations("core/src", &[library]).into_iter().filter(|v| !v.starts_with(place)));
    }
    assert!(found.is_empty(), "used outside its place:\n{}", found.join("\n"));
}

/// What is unsafe of Kafka is in one small crate.
#[test]
fn the_crate_with_unsafe_is_small() {
    let all = sources("core/kafka-ext");
    let lines: usize = all.iter().map(|(_, text)| text.lines().count()).sum();
    assert!(lines < 240, "{lines} lines");
    let blocks: usize = all.iter().map(|(_, text)| text.matches("unsafe {").count()).sum();
    let reasons: usize = all.iter().map(|(_, text)| text.matches("// SAFETY: ").count()).sum();
    assert!(blocks > 5 && reasons >= blocks, "{blocks} blocks, {reasons} reasons");
}

/// The faces of C hold no policy, print nothing, and say of each unsafe block why it holds; clippy counts the blocks of the crate's lint.
#[test]
fn the_c_library_is_thin_and_silent() {
    let forbidden = [".unwrap()", "println!", "print!(", "dbg!", "todo!", "unimplemented!", ".expect("];
    let found = violations("ffi/src", &forbidden);
    assert!(found.is_empty(), "not allowed in ffi:\n{}", found.join("\n"));
    let manifest = fs::read_to_string(root().join("ffi/Cargo.toml")).unwrap();
    for lint in ["undocumented_unsafe_blocks", "unsafe_op_in_unsafe_fn"] {
        assert!(manifest.contains(&format!("{lint} = \"deny\"")), "{lint}");
    }
    let long: Vec<_> =
        sources("ffi/src").into_iter().filter(|(_, text)| text.lines().count() > 550).collect();
    assert!(long.is_empty(), "{:?}", long.iter().map(|(path, _)| path).collect::<Vec<_>>());
    // Every function of the ABI runs inside the guard, or does nothing that can panic.
    for (path, text) in sources("ffi/src") {
        for body in text.split("pub unsafe extern \"C\" fn ").skip(1) {
            let name = body.split('(').next().unwrap_or_default();
            let body = body.split("\n}\n").next().unwrap_or_default();
            let guarded = ["guard(", "guard::value(", "register(", "change(", "open(", "text(", "free("];
            let is_plain = body.contains(".as_ref() }") && !body.contains("handle::");
            assert!(is_plain || guarded.iter().any(|g| body.contains(g)), "{path}: {name} is not guarded");
        }
    }
}

#[test]
fn core_has_no_unsafe_no_unwrap_and_prints_nothing() {
    let forbidden =
        ["unsafe ", ".unwrap()", "println!", "print!(", "dbg!", "todo!", "unimplemented!", "panic!("];
    let found = violations("core/src", &forbidden);
    assert!(found.is_empty(), "not allowed in core:\n{}", found.join("\n"));
}

#[test]
fn no_unbounded_queue_in_core() {
    let found: Vec<_> = violations("core/src", &["mpsc::channel()", "unbounded_channel"])
        .into_iter()
        // These two carry one message a shard, and one in all.
        .filter(|v| !v.starts_with("core/src/engine/builder.rs"))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn files_have_one_noun() {
    let mut long = Vec::new();
    for dir in ["core/src", "core/benches", "examples", "ffi", "tests/harness", "tests/kafka", "tests/suite"]
    {
        for (path, text) in sources(dir) {
            let n = text.lines().count();
            if n > 800 {
                long.push(format!("{path}: {n} lines"));
            }
        }
    }
    assert!(long.is_empty(), "which second noun has moved in?\n{}", long.join("\n"));
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut paths = Vec::new();
    files(&root(), &[".md"], &mut paths);
    let mut broken = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|l| l.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            // Not every `](` is a link: code has them too.
            let local = target.contains(['/', '.']) && !target.contains("://");
            if local && !path.parent().unwrap().join(target).exists() {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_guarantees_name_tests_that_exist() {
    let text = fs::read_to_string(root().join("docs/guarantees.md")).unwrap();
    let named: Vec<_> =
        text.split('`').filter(|t| t.starts_with("tests/") || t.starts_with("core/")).collect();
    assert!(named.len() > 5);
    let missing: Vec<_> = named.into_iter().filter(|t| !root().join(t).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Every public failure of the table, under its id.
fn case_ids() -> Vec<String> {
    let ids = |letter, last| (1..=last).map(move |n: u32| format!("{letter}{n:02}"));
    ids('R', 25).chain(ids('X', 36)).collect()
}

/// Tests of Node's, whose names are sentences, as if they were functions: `test("id: it ends")` is `fn id_it_ends(`.
fn javascript() -> Vec<(String, String)> {
    let mut paths = Vec::new();
    files(&root().join("bindings/node/tests"), &[".test.js"], &mut paths);
    let name = |text: &str| {
        let quote = text.chars().next()?;
        let name = text[1..].split(quote).next()?;
        let words: Vec<&str> = name.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
        ['"', '`'].contains(&quote).then(|| format!("fn {}(", words.join("_").to_lowercase()))
    };
    let functions = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let names: Vec<String> =
            text.split(" test(").flat_map(|t| t.split("\ntest(")).skip(1).filter_map(name).collect();
        (path.strip_prefix(root()).unwrap().display().to_string(), names.join("\n"))
    };
    paths.into_iter().map(functions).collect()
}

#[test]
fn the_table_of_cases_is_true() {
    let table = fs::read_to_string(root().join("tests/cases/README.md")).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|l| l.starts_with("| R") || l.starts_with("| X"))
        .map(|l| l.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let mut listed: Vec<&str> = rows.iter().map(|r| r[0]).collect();
    listed.sort_unstable();
    assert_eq!(listed, case_ids(), "each id once");

    let mut tests: Vec<(String, String)> =
        ["core", "ffi", "tests", "examples"].into_iter().flat_map(sources).collect();
    // Python's, whose functions are `def test_x29_...`.
    let mut paths = Vec::new();
    files(&root().join("bindings/python/tests"), &[".py"], &mut paths);
    let relative = |p: &Path| p.strip_prefix(root()).unwrap().display().to_string();
    let python = |p: &PathBuf| (relative(p), fs::read_to_string(p).unwrap().replace("def test_", "fn test_"));
    tests.extend(paths.iter().map(python));
    tests.extend(javascript());
    let mut wrong = Vec::new();
    for row in &rows {
        let (id, shown) = (row[0], row[2]);
        let named: Vec<&str> = shown
            .split('`')
            .filter(|t| [".rs::", ".py::", ".js::"].iter().any(|kind| t.contains(kind)))
            .collect();
        if named.is_empty() && !shown.starts_with("not yet: ") {
            wrong.push(format!("{id} has neither a test nor a reason"));
        }
        for name in named {
            let (path, function) = name.rsplit_once("::").unwrap();
            let text = tests.iter().find(|(p, _)| p == path).map(|(_, text)| text.as_str());
            if !text.is_some_and(|t| t.contains(&format!("fn {function}("))) {
                wrong.push(format!("{id}: {name} does not exist"));
            }
        }
    }
    // The other way round: a test that carries an id is in that id's row.
    for (path, text) in &tests {
        for function in text.split("fn ").skip(1).filter_map(|t| t.split('(').next()) {
            let id =
                function.trim_start_matches("test_").split('_').next().unwrap_or_default().to_uppercase();
            if let Some(row) = rows.iter().find(|r| r[0] == id)
                && !row[2].contains(&format!("{path}::{function}`"))
            {
                wrong.push(format!("{id}: the table does not name {path}::{function}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
