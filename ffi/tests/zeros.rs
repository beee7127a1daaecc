//! Every function of the header is called with nothing but zeros, with handles that have been freed, and with a panic inside: by programs that
//! are made of the header, so that no function is left out.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Program, include_dir};
use std::fmt::Write;

struct Function {
    name: String,
    result: String,
    parameters: Vec<String>,
}

/// Handles: what is freed stays a handle.
const HANDLES: &[&str] = &["engine", "builder", "batch", "subscription", "consume", "consumer", "request"];

fn functions() -> Vec<Function> {
    let header = std::fs::read_to_string(include_dir().join("klatch.h")).unwrap();
    let body = header.split("extern \"C\" {").nth(1).unwrap();
    let declarations = body.split("\nKLATCH_API").skip(1).map(|part| part.split(';').next().unwrap());
    let functions: Vec<Function> = declarations
        .map(|declaration| {
            let text = declaration.replace("KLATCH_MUST_USE", " ").replace('\n', " ");
            let (head, parameters) = text.trim().trim_end_matches(')').split_once('(').unwrap();
            let at = head
                .find("klatch_")
                .map(|first| head[first..].rfind("klatch_").map_or(first, |last| first + last));
            let (result, name) = head.split_at(at.unwrap());
            let parameters = parameters.split(',').map(|p| p.trim().to_owned());
            Function {
                name: name.trim().to_owned(),
                result: result.trim().to_owned(),
                parameters: parameters.filter(|p| p != "void").collect(),
            }
        })
        .collect();
    assert!(functions.len() > 120, "{}", functions.len());
    functions
}

/// Whether a parameter is a place for a result.
fn is_out(parameter: &str) -> bool {
    parameter.contains("*out_") || parameter.contains("** out_")
}

fn zero(parameter: &str) -> String {
    if parameter.starts_with("klatch_str_t") {
        "klatch_str_n(NULL, 0)".into()
    } else if parameter.starts_with("klatch_bytes_t") {
        "klatch_bytes(NULL, 0)".into()
    } else if parameter.contains('*') || parameter.contains("_fn ") {
        "NULL".into()
    } else {
        "0".into()
    }
}

/// Whether the first parameter is a handle, as the function's owner.
fn handle(function: &Function) -> Option<&'static str> {
    let first = function.parameters.first()?;
    HANDLES.iter().copied().find(|h| first.contains(&format!("klatch_{h}_t *{h}")))
}

fn call(function: &Function, argument: impl Fn(usize, &str) -> String) -> String {
    let arguments: Vec<String> =
        function.parameters.iter().enumerate().map(|(i, p)| argument(i, p)).collect();
    format!("{}({})", function.name, arguments.join(", "))
}

fn is_fallible(function: &Function) -> bool {
    function.result.starts_with("klatch_error_t")
}

fn program(body: &str) -> String {
    format!(
        "#include \"check.h\"\nvoid klatch_test_panic(uint32_t calls);\n\nint main(void) {{\n{body}    puts(\"ok\");\n    return 0;\n}}\n"
    )
}

/// Runs what `line` makes of each function.
fn each(name: &str, begin: &str, least: usize, line: impl Fn(&Function) -> Option<String>) {
    let mut body = begin.to_owned();
    let mut lines = 0;
    for function in functions() {
        if let Some(line) = line(&function) {
            writeln!(body, "    {line};").unwrap();
            lines += 1;
        }
    }
    assert!(lines >= least, "{lines} lines");
    if begin.contains("*engine") {
        body.push_str("    klatch_engine_free(engine);\n");
    }
    let text = program(&body);
    let built = Program::build_text(name, &text, &["-I", env!("CARGO_MANIFEST_DIR")]);
    assert_eq!(built.run(), "ok\n");
    assert_eq!(built.valgrind(), "ok\n");
}

#[test]
fn zeros_are_survived() {
    each("zeros", "", 120, |f| {
        let call = call(f, |_, p| zero(p));
        Some(match (is_fallible(f), &*f.name) {
            // Turning off what is not on.
            (true, "klatch_log_set") => format!("FAILS({call}, KLATCH_ERROR_BAD_REQUEST)"),
            (true, _) => format!("FAILS({call}, KLATCH_ERROR_BAD_REQUEST)"),
            (false, name) if name.ends_with("_new") => {
                format!("{}_free({call})", name.trim_end_matches("_new"))
            }
            (false, _) => format!("(void){call}"),
        })
    });
}

/// The same with places for the results, which are NULL or as they were afterwards.
#[test]
fn places_for_results_are_empty_after_a_failure() {
    let begin = "    void *place;\n    memset(&place, 0xAB, sizeof place);\n";
    each("places", begin, 10, |f| {
        let out = f.parameters.iter().find(|p| p.contains("**out_"))?;
        let kind = out.split("**").next().unwrap();
        let call = call(f, |_, p| if p == out { format!("({kind}**)&place") } else { zero(p) });
        Some(format!(
            "FAILS({call}, KLATCH_ERROR_BAD_REQUEST); CHECK(place == NULL); memset(&place, 0xAB, sizeof place)"
        ))
    });
}

/// X27, for calls that come after the handle was freed: twice, by accident, or by another thread.
#[test]
fn x27_handles_that_were_freed_are_told() {
    let begin = r#"    klatch_builder_t *builder = klatch_builder_new();
    klatch_engine_t *engine = engine_in_memory(NULL);
    klatch_batch_t *batch = klatch_batch_new();
    klatch_consume_t *consume = klatch_consume_new();
    klatch_subscription_t *subscription;
    OK(klatch_engine_subscribe(engine, S("lobby"), 0, &subscription));
    void *place, **out = &place;
    klatch_builder_free(builder);
    klatch_batch_free(batch);
    klatch_consume_free(consume);
    klatch_subscription_free(subscription);
    klatch_engine_free(engine);
"#;
    each("freed", begin, 40, |f| {
        let handle = handle(f).filter(|h| !["consumer", "request"].contains(h))?;
        let call = call(f, |i, p| match i {
            0 => handle.into(),
            _ if p.contains("batch_t *batch") => "batch".into(),
            _ if is_out(p) => "(void *)out".into(),
            _ => zero(p),
        });
        Some(if is_fallible(f) {
            format!("FAILS({call}, KLATCH_ERROR_STOPPED)")
        } else {
            format!("(void){call}")
        })
    });
}

/// X28: a panic in any function is an error, the host lives, and so does its engine.
#[test]
fn x28_a_panic_in_every_function_is_an_error() {
    let begin = "    klatch_engine_t *engine = engine_in_memory(NULL);\n    void *place = NULL, **out = &place;\n    (void)out;\n";
    each("panics", begin, 40, |f| {
        if !is_fallible(f) {
            return None;
        }
        let call = call(f, |i, p| match i {
            0 if handle(f) == Some("engine") => "engine".into(),
            _ if is_out(p) => "(void *)out".into(),
            _ => zero(p),
        });
        let lives = "publish(engine, \"lobby\", \"1\")";
        Some(format!("klatch_test_panic(1); FAILS({call}, KLATCH_ERROR_INTERNAL); {lives}"))
    });
}
