//! Settings that come as keys and texts, or as one text of JSON: from the environment, flags, or a host in another language.

use super::Settings;
use crate::codes::Code;
use crate::error::{Error, Result};
use serde_json::{Map, Value};

const PROPERTIES: &str = "kafka.properties.";

impl Settings {
    /// Settings from a JSON object with the keys of docs/configuration.md; what it does not name has its default.
    pub fn from_json(json: &str) -> Result<Settings> {
        serde_json::from_str(json).map_err(|e| bad(&format!("line {}: {}", e.line(), cause(&e))))
    }

    /// Sets one key (`limits.publish_rate`) from text: digits, `true` or `false`, a name, a text as it is, or a list with commas between
    /// its items. Whether the value is in its range is seen at the start. The error names the key, and never repeats the text.
    pub fn set(&mut self, key: &str, text: &str) -> Result<()> {
        if let Some(property) = key.strip_prefix(PROPERTIES).filter(|name| !name.is_empty()) {
            self.kafka.properties.0.insert(property.into(), text.into());
            return Ok(());
        }
        // Serialised they would have stars in place of secrets.
        let properties = std::mem::take(&mut self.kafka.properties);
        let set = self.with(key, text);
        if let Ok(settings) = set {
            *self = settings;
            self.kafka.properties = properties;
            return Ok(());
        }
        self.kafka.properties = properties;
        set.map(drop)
    }

    fn with(&self, key: &str, text: &str) -> Result<Settings> {
        let mut all = serde_json::to_value(self).map_err(|e| bad(&format!("{key}: {e}")))?;
        let unknown = || bad(&format!("there is no setting {}", shown(key)));
        let mut place = &mut all;
        for name in key.split('.') {
            place = place.as_object_mut().and_then(|table| table.get_mut(name)).ok_or_else(unknown)?;
        }
        *place = match place {
            Value::Number(_) => {
                let number: u64 =
                    text.trim().parse().map_err(|_| bad(&format!("{key} must be a whole number")))?;
                number.into()
            }
            Value::Bool(_) => {
                let flag: bool =
                    text.trim().parse().map_err(|_| bad(&format!("{key} must be true or false")))?;
                flag.into()
            }
            Value::Array(_) => text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect(),
            Value::String(_) => text.into(),
            Value::Object(_) | Value::Null => return Err(unknown()),
        };
        serde_json::from_value(all).map_err(|_| bad(&format!("{key} cannot have this value")))
    }
}

/// What is wrong, without the place, which is of no use in a text that a program made, and without the value.
fn cause(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    match text.split_once("invalid type: ").or_else(|| text.split_once("invalid value: ")) {
        Some((_, what)) => {
            let expected = what.rsplit_once(", expected ").map_or("something else", |(_, expected)| expected);
            format!("a value has the wrong type: expected {expected}")
        }
        None => text.chars().take(200).collect(),
    }
}

fn shown(key: &str) -> String {
    key.chars().take(100).collect()
}

fn bad(text: &str) -> Error {
    Error::new(Code::InvalidConfig, text)
}

/// Every key that [`Settings::set`] takes, besides those of `kafka.properties`.
pub fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    if let Ok(Value::Object(all)) = serde_json::to_value(Settings::default()) {
        flatten("", &all, &mut keys);
    }
    keys
}

fn flatten(prefix: &str, table: &Map<String, Value>, keys: &mut Vec<String>) {
    for (name, value) in table {
        match value {
            Value::Object(inner) => flatten(&format!("{prefix}{name}."), inner, keys),
            _ => keys.push(format!("{prefix}{name}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_key_is_set_from_text() {
        let mut s = Settings::default();
        s.set("log", "memory").unwrap();
        s.set("listen", "127.0.0.1:0, [::1]:0").unwrap();
        s.set("limits.publish_rate", "7").unwrap();
        s.set("open_users", "false").unwrap();
        s.set("kafka.topic_mode", "verify").unwrap();
        s.set("kafka.properties.sasl.password", "hunter2").unwrap();
        s.set("shards", " 2 ").unwrap();
        assert_eq!((&*s.log, &s.listen[..]), ("memory", &["127.0.0.1:0".into(), "[::1]:0".into()][..]));
        assert_eq!((s.limits.publish_rate, s.open_users, s.shards), (7, false, 2));
        assert_eq!(s.kafka.properties.0["sasl.password"], "hunter2");
        assert_eq!(serde_json::to_value(s.kafka.topic_mode).unwrap(), "verify");
    }

    #[test]
    fn what_cannot_be_set_is_named_and_its_value_is_not() {
        let before = Settings::default();
        let mut s = before.clone();
        for (key, text) in [
            ("", "x9secret"),
            ("limits", "x9secret"),
            ("limits.", "x9secret"),
            ("limits.publish_rat", "x9secret"),
            ("limits.publish_rate", "x9secret"),
            ("limits.publish_rate", "-1"),
            ("limits.publish_rate", "18446744073709551615"),
            ("open_users", "x9secret"),
            ("kafka.topic_mode", "x9secret"),
            ("kafka.properties", "x9secret"),
            ("kafka.properties.", "x9secret"),
        ] {
            let e = s.set(key, text).unwrap_err();
            assert_eq!(e.code(), Code::InvalidConfig, "{key}");
            assert!(e.message().contains(key) && !e.message().contains("x9secret"), "{e}");
            assert_eq!(s, before);
        }
        let e = Settings::from_json(r#"{"limits": {"publish_rate": "x9secret"}}"#).unwrap_err();
        assert!(e.code() == Code::InvalidConfig && !e.message().contains("x9secret"), "{e}");
        assert!(Settings::from_json("{").is_err() && Settings::from_json(r#"{"lgo": 1}"#).is_err());
        assert_eq!(Settings::from_json(r#"{"log": "memory"}"#).unwrap().log, "memory");
    }

    #[test]
    fn every_key_is_one() {
        let keys = keys();
        assert!(keys.len() > 50 && keys.contains(&"limits.publish_rate".into()), "{keys:?}");
        for key in keys.iter().filter(|k| *k != "kafka.properties") {
            let e = Settings::default().set(key, "not this");
            assert!(e.is_ok() || !e.as_ref().unwrap_err().message().contains("no setting"), "{key}: {e:?}");
        }
    }
}
