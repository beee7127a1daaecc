//! `include/klatch.h` is what the sources generate (`KLATCH_BLESS=1` writes it), and a header that every compiler takes.
#![allow(clippy::unwrap_used)]

mod common;

use cbindgen::{Builder, Config, DocumentationStyle, EnumConfig, Language, Style};
use common::{crate_dir, include_dir, run};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// The modules in the order of the header: what is used is declared before.
const SECTIONS: &[&str] = &[
    "text",
    "version",
    "error",
    "callback",
    "engine",
    "builder",
    "hook",
    "publish",
    "batch",
    "publication",
    "history",
    "subscription",
    "event",
    "presence",
    "signal",
    "consumer",
    "log",
];

fn config() -> Config {
    let mut config = Config {
        language: Language::C,
        style: Style::Type,
        no_includes: true,
        usize_is_size_t: true,
        documentation_style: DocumentationStyle::Doxy,
        line_length: 120,
        enumeration: EnumConfig::default(),
        ..Config::default()
    };
    config.function.prefix = Some("KLATCH_API".into());
    config.function.must_use = Some("KLATCH_MUST_USE".into());
    config.export.include = ["klatch_free_fn", "klatch_str_t", "klatch_bytes_t"].map(String::from).into();
    config
}

/// Items of a module, as C.
fn items(module: &str) -> String {
    let source = crate_dir().join(format!("src/{module}.rs"));
    let bindings = Builder::new().with_config(config()).with_src(source).generate().unwrap();
    let mut out = Vec::new();
    bindings.write(&mut out);
    String::from_utf8(out).unwrap().trim().to_owned()
}

/// What a module says of itself, as a section's title and text.
fn about(module: &str) -> String {
    let text = std::fs::read_to_string(crate_dir().join(format!("src/{module}.rs"))).unwrap();
    let mut doc = text.lines().take_while(|l| l.starts_with("//!")).map(|l| &l[3..]);
    let title = doc.next().unwrap().trim().trim_end_matches('.');
    let line = "-".repeat(116usize.saturating_sub(title.len()));
    let text: String = doc.map(|l| format!(" *{l}\n")).collect();
    format!("/* {title} {line}\n{text} */\n")
}

/// Comments that fit on one line are on one.
fn compact(header: &str) -> String {
    let mut out = String::new();
    let mut lines = header.lines().peekable();
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let text = lines.peek().and_then(|l| l.trim_start().strip_prefix("* "));
        let Some(text) = text.filter(|_| line.trim() == "/**") else {
            out = out + line + "\n";
            continue;
        };
        lines.next();
        if lines.peek().is_some_and(|l| l.trim() == "*/") && text.len() < 130 {
            lines.next();
            writeln!(out, "{:indent$}/** {text} */", "").unwrap();
        } else {
            writeln!(out, "{line}\n{:indent$} * {text}", "").unwrap();
        }
    }
    // A number that is not the whole of its expression.
    out.replace(" -1\n", " (-1)\n")
}

fn generate() -> String {
    let part = |name: &str| std::fs::read_to_string(crate_dir().join("header").join(name)).unwrap();
    let story = std::fs::read_to_string(crate_dir().join("tests/c/story.c")).unwrap();
    // A comment in a comment would end it.
    let story = story.replace("/*", "//").replace(" */", "");
    let story: Vec<String> = story.lines().map(|l| format!(" *     {l}").trim_end().to_owned()).collect();
    let mut out = part("begin.h").replace("@STORY@", &story.join("\n"));
    for module in SECTIONS {
        write!(out, "\n\n{}\n{}", about(module), compact(&items(module))).unwrap();
        if *module == "text" {
            write!(out, "\n{}", part("text.h")).unwrap();
        }
    }
    out + &part("end.h")
}

#[test]
fn it_is_what_the_sources_generate() {
    let path = include_dir().join("klatch.h");
    let generated = generate();
    if std::env::var_os("KLATCH_BLESS").is_some() {
        std::fs::write(&path, generated).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(committed == generated, "include/klatch.h: run this test with KLATCH_BLESS=1");
}

/// A section that was forgotten would miss its functions.
#[test]
fn every_function_is_in_it() {
    let header = generate();
    let mut missing = Vec::new();
    for entry in std::fs::read_dir(crate_dir().join("src")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for name in text.split("extern \"C\" fn klatch_").skip(1).filter_map(|t| t.split('(').next()) {
            if !name.starts_with("test_") && !header.contains(&format!("klatch_{name}(")) {
                missing.push(name.to_owned());
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_codes_are_those_of_the_engine() {
    let header = generate();
    for code in klatch::Code::ALL {
        let line = format!("#define KLATCH_ERROR_{} {}\n", code.name().to_uppercase(), code.number());
        assert!(header.contains(&line), "{line}");
    }
    let named = header.matches("#define KLATCH_ERROR_").count();
    assert_eq!(named, klatch::Code::ALL.len());
}

/// Every function has a text, which names what it gives.
#[test]
fn every_function_is_documented() {
    let header = generate();
    let mut bare = Vec::new();
    let body = header.split("extern \"C\" {").nth(1).unwrap();
    for (at, _) in body.match_indices("\nKLATCH_API") {
        let declaration = body[at..].split(';').next().unwrap();
        let doc = body[..at].rsplit("\n\n").next().unwrap();
        let gives = !declaration.contains("**out_") || doc.contains("Gives") || doc.contains("gives");
        if !doc.starts_with("/**") || !gives {
            bare.push(format!("{doc}{declaration}"));
        }
    }
    assert!(bare.is_empty(), "{}", bare.join("\n"));
}

#[test]
fn every_compiler_takes_it_twice() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        "#include <klatch.h>\n#include \"klatch.h\"\nint main(void) { return (int)klatch_str(\"\").len; }\n";
    for (compiler, standard, ending) in [
        ("cc", "c11", "c"),
        ("cc", "c17", "c"),
        ("cc", "c2x", "c"),
        ("c++", "c++11", "cpp"),
        ("c++", "c++17", "cpp"),
        ("c++", "c++20", "cpp"),
    ] {
        let source = dir.path().join(format!("twice.{ending}"));
        std::fs::write(&source, text).unwrap();
        let warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"];
        run(Command::new(compiler)
            .arg(format!("-std={standard}"))
            .args(warnings)
            .arg("-I")
            .arg(include_dir())
            .args(["-fsyntax-only".as_ref(), source.as_path() as &Path]));
    }
}
