use super::*;
use proptest::prelude::*;
use serde_json::Value;

fn code(json: &str, depth: usize) -> Option<Code> {
    check(json, depth).err().map(|error| error.code())
}

#[test]
fn depth_counts_brackets_outside_strings() {
    assert_eq!(code("1", 0), None);
    assert_eq!(code("[]", 0), Some(Code::TooDeep));
    assert_eq!(code(r#"{"a":[{}],"b":[[]]}"#, 3), None);
    assert_eq!(code(r#"{"a":[{}],"b":[[]]}"#, 2), Some(Code::TooDeep));
    assert_eq!(code(r#"[[],[],[],"[[[[","\"[[[[","\\",[]]"#, 2), None);
    // Not JSON: no fault is invented, and nothing panics.
    for text in ["]]]", "\"", "\"\\", "\"\\u", "\"\\u12", "\"\\ud83d", "\"\\ud83d\\u", "", "\\"] {
        let _ = code(text, 1);
    }
}

#[test]
fn the_bounds_of_surrogates() {
    for pair in [r"\ud800\udc00", r"\uDBFF\uDFFF", r"\ud7ff", r"\ue000"] {
        assert_eq!(code(&format!("\"{pair}\""), 0), None, "{pair}");
    }
    for half in [r"\ud800\udbff", r"\udbff\ue000", r"\udbff", r"\udc00", r"\udfff", r"\udc00\ud800"] {
        assert_eq!(code(&format!("\"{half}\""), 0), Some(Code::InvalidData), "{half}");
    }
}

#[test]
fn values_of_callers_in_this_process() {
    assert_eq!(check_value(" \n{\"a\": 1}\t", 64).unwrap(), "{\"a\": 1}");
    for (json, code) in [
        ("", Code::InvalidData),
        ("1 2", Code::InvalidData),
        ("{", Code::InvalidData),
        ("\u{a0}1", Code::InvalidData),
        (r#""\ud800""#, Code::InvalidData),
        ("[[1]]", Code::TooDeep),
        (&"[".repeat(100_000), Code::TooDeep),
    ] {
        assert_eq!(check_value(json, 1).map_err(|e| e.code()), Err(code));
    }
}

#[test]
fn numbers() {
    for number in [0, 1, 9, 10, 99, 100, 1_764_076_361_000, u64::MAX - 1, u64::MAX] {
        let mut out = Vec::new();
        push_number(&mut out, number);
        assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
    }
}

/// A JSON value and its depth by definition.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<String>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(Value::Null)
    ];
    leaf.prop_recursive(6, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[\\[{\\\\\"a]{0,3}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(items) => 1 + items.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

proptest! {
    #[test]
    fn depth_is_exact(value in value()) {
        let (text, depth) = (value.to_string(), depth(&value));
        prop_assert_eq!(code(&text, depth), None);
        if depth > 0 {
            prop_assert_eq!(code(&text, depth - 1), Some(Code::TooDeep));
        }
    }

    /// The oracle is a parser that makes strings, which it cannot from half a pair.
    #[test]
    fn half_pairs_are_found(pieces in prop::collection::vec(prop::sample::select(vec![
        "\\ud83d", "\\uDBFF", "\\uDF38", "\\udc00", "\\u0041", "\\\\", "u", "x", "\\\"", "\\uD7FF", "\\ue000", "é", "\\n", "d83d",
    ]), 0..8)) {
        let text = format!("\"{}\"", pieces.concat());
        prop_assert_eq!(check(&text, 0).is_ok(), serde_json::from_str::<String>(&text).is_ok(), "{}", text);
    }

    #[test]
    fn any_string_is_escaped_and_no_more_than_need_be(text in any::<String>(), plain in "[^\\x00-\\x1f\"\\\\]{0,40}") {
        let mut out = Vec::new();
        push_string(&mut out, &text);
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        out.clear();
        push_string(&mut out, &plain);
        prop_assert_eq!(String::from_utf8(out).unwrap(), format!("\"{plain}\""));
    }
}
