//! Values that are known only at run time: variables, and what is expected of a value.

use serde_json::{Map, Value};
use std::collections::HashMap;

/// What has been bound.
pub(super) type Vars = HashMap<String, Value>;

/// Whether `got` is what is expected; binds variables.
pub(super) fn matches(expected: &Value, got: &Value, vars: &mut Vars) -> Result<(), String> {
    check(expected, got, vars).map_err(|e| format!("{e}\n    got {got}"))
}

fn check(expected: &Value, got: &Value, vars: &mut Vars) -> Result<(), String> {
    match expected {
        Value::String(text) => match text.strip_prefix('$') {
            Some("any") => Ok(()),
            Some(rest) if rest.starts_with('$') => same(&Value::String(rest.into()), got),
            Some(name) => match vars.get(name) {
                Some(bound) => same(bound, got).map_err(|e| format!("${name}: {e}")),
                None => {
                    vars.insert(name.into(), got.clone());
                    Ok(())
                }
            },
            None => same(expected, got),
        },
        Value::Object(map) => match special(map) {
            Some((word, argument)) => check_special(word, argument, got, vars),
            None => check_object(map, got, vars),
        },
        Value::Array(items) => {
            let Value::Array(got) = got else { return Err(format!("expected an array, not {got}")) };
            if items.len() != got.len() {
                return Err(format!("expected {} elements, not {}", items.len(), got.len()));
            }
            items.iter().zip(got).enumerate().try_for_each(|(i, (expected, got))| {
                check(expected, got, vars).map_err(|e| format!("[{i}]: {e}"))
            })
        }
        _ => same(expected, got),
    }
}

fn same(expected: &Value, got: &Value) -> Result<(), String> {
    if expected == got { Ok(()) } else { Err(format!("expected {expected}, not {got}")) }
}

/// An object with one key that begins with `$` is a word of the format.
fn special(map: &Map<String, Value>) -> Option<(&str, &Value)> {
    let (key, value) = map.iter().next()?;
    (map.len() == 1 && key != "$more").then(|| key.strip_prefix('$')).flatten().map(|word| (word, value))
}

fn check_special(word: &str, argument: &Value, got: &Value, vars: &mut Vars) -> Result<(), String> {
    match word {
        "gt" => {
            let least = fill(argument, vars)?;
            match (least.as_u64(), got.as_u64()) {
                (Some(least), Some(got)) if got > least => Ok(()),
                _ => Err(format!("expected an integer greater than {least}, not {got}")),
            }
        }
        "contains" => match (argument.as_str(), got.as_str()) {
            (Some(part), Some(got)) if got.contains(part) => Ok(()),
            _ => Err(format!("expected a string with {argument} in it, not {got}")),
        },
        "length" => match got {
            Value::Array(items) if Some(items.len() as u64) == argument.as_u64() => Ok(()),
            Value::Array(items) => Err(format!("expected {argument} elements, not {}", items.len())),
            _ => Err(format!("expected an array, not {got}")),
        },
        "not" => match check(argument, got, &mut vars.clone()) {
            Ok(()) => Err(format!("expected anything but {}", fill(argument, vars)?)),
            Err(_) => Ok(()),
        },
        "any_of" => {
            let choices = argument.as_array().ok_or("$any_of needs an array")?;
            for choice in choices {
                let mut tried = vars.clone();
                if check(choice, got, &mut tried).is_ok() {
                    *vars = tried;
                    return Ok(());
                }
            }
            Err(format!("none of {argument}"))
        }
        "repeat" => same(&repeat(argument)?, got),
        _ => Err(format!("the format has no ${word}")),
    }
}

fn check_object(map: &Map<String, Value>, got: &Value, vars: &mut Vars) -> Result<(), String> {
    let Value::Object(got) = got else { return Err(format!("expected an object, not {got}")) };
    for (key, expected) in map.iter().filter(|(key, _)| *key != "$more") {
        match got.get(key) {
            Some(got) => check(expected, got, vars).map_err(|e| format!("{key}: {e}"))?,
            None => return Err(format!("{key} is missing")),
        }
    }
    if map.contains_key("$more") {
        return Ok(());
    }
    match got.keys().find(|key| !map.contains_key(*key)) {
        Some(key) => Err(format!("{key} was not expected")),
        None => Ok(()),
    }
}

/// The value with its variables filled in.
pub(super) fn fill(value: &Value, vars: &Vars) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => match text.strip_prefix('$') {
            Some(rest) if rest.starts_with('$') => Value::String(rest.into()),
            Some(name) => vars.get(name).cloned().ok_or_else(|| format!("${name} is not bound"))?,
            None => value.clone(),
        },
        Value::Array(items) => items.iter().map(|item| fill(item, vars)).collect::<Result<_, _>>()?,
        Value::Object(map) => match special(map) {
            Some(("repeat", argument)) => repeat(argument)?,
            Some((word, _)) => return Err(format!("${word} is no value")),
            None => Value::Object(
                map.iter().map(|(k, v)| Ok((k.clone(), fill(v, vars)?))).collect::<Result<_, String>>()?,
            ),
        },
        _ => value.clone(),
    })
}

fn repeat(argument: &Value) -> Result<Value, String> {
    match argument.as_array().map(Vec::as_slice) {
        Some([Value::String(text), times]) => {
            let times = times.as_u64().ok_or("$repeat needs a number")?;
            Ok(Value::String(text.repeat(times as usize)))
        }
        _ => Err("$repeat is [string, times]".into()),
    }
}

/// The value as the text that goes into a path, query or header.
pub(super) fn fill_text(value: &Value, vars: &Vars) -> Result<String, String> {
    Ok(match fill(value, vars)? {
        Value::String(text) => text,
        other => other.to_string(),
    })
}

/// Text made of pieces: a string, or an array of strings and [string, times].
pub(super) fn pieces(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts
            .iter()
            .map(|part| match part {
                Value::String(text) => Ok(text.clone()),
                repeated => Ok(repeat(repeated)?.as_str().unwrap_or_default().to_owned()),
            })
            .collect(),
        _ => Err("text is a string, or an array of strings and [string, times]".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_difference_is_seen() {
        let mut vars = Vars::default();
        let mut try_it = |expected: Value, got: Value| matches(&expected, &got, &mut vars);
        assert!(try_it(json!({"a": "$x", "b": [1, "$x"]}), json!({"a": 5, "b": [1, 5]})).is_ok());
        assert!(try_it(json!("$x"), json!(6)).is_err(), "bound");
        assert!(try_it(json!({"a": 1}), json!({"a": 1, "b": 2})).is_err(), "one too many");
        assert!(try_it(json!({"a": 1, "$more": true}), json!({"a": 1, "b": 2})).is_ok());
        assert!(try_it(json!({"a": 1, "$more": true}), json!({"b": 2})).is_err(), "one missing");
        assert!(try_it(json!([1]), json!([1, 2])).is_err());
        assert!(try_it(json!({"$gt": "$x"}), json!(6)).is_ok());
        assert!(try_it(json!({"$gt": "$x"}), json!(5)).is_err());
        assert!(try_it(json!({"$not": "$x"}), json!(5)).is_err());
        assert!(try_it(json!({"$not": "$x"}), json!(7)).is_ok());
        assert!(try_it(json!({"$length": 2}), json!([0, 0])).is_ok());
        assert!(try_it(json!({"$length": 2}), json!([0])).is_err());
        assert!(try_it(json!({"$contains": "b"}), json!("abc")).is_ok());
        assert!(try_it(json!({"$contains": "x"}), json!("abc")).is_err());
        assert!(try_it(json!("$$x"), json!("$x")).is_ok());
        assert!(try_it(json!({"$repeat": ["ab", 2]}), json!("abab")).is_ok());
        assert!(try_it(json!({"$any_of": [1, 2]}), json!(2)).is_ok());
        assert!(try_it(json!({"$any_of": [1, 2]}), json!(3)).is_err());
        assert!(try_it(json!({"$typo": 1}), json!(1)).is_err());
    }
}
