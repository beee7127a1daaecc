//! The keys that there are, and the one that was meant.

use klatch::config::Settings;
use std::collections::BTreeMap;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

/// Every setting's key (`limits.publish_rate`) with its default.
#[derive(Debug)]
pub struct Keys(BTreeMap<String, Value>);

/// Tables whose keys are another program's.
const OPEN: &[&str] = &["kafka.properties."];

/// Whether a key is in a table of another program's keys, or is that table.
fn is_open(key: &str) -> bool {
    OPEN.iter().any(|table| key.starts_with(table) || table.strip_suffix('.') == Some(key))
}

impl Keys {
    /// The engine's.
    pub fn new() -> Keys {
        let mut keys = BTreeMap::new();
        // Plain numbers, texts and tables: nothing in it can fail to serialise; a test would see it missing.
        flatten("", &Table::try_from(Settings::default()).unwrap_or_default(), &mut keys);
        Keys(keys)
    }

    /// Whether there is such a key.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key) || OPEN.iter().any(|table| key.len() > table.len() && key.starts_with(table))
    }

    /// A key's default; none if there is no such key, or it has none.
    pub fn default(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// The key itself if there is one, else a text that names the nearest.
    pub fn known(&self, key: &str) -> Result<String, String> {
        if self.has(key) {
            return Ok(key.to_owned());
        }
        Err(match self.nearest(key) {
            Some((near, _)) => format!("unknown key `{key}`; did you mean `{near}`?"),
            None => format!("unknown key `{key}`"),
        })
    }

    /// The key that this looks like a misspelling of, if it does: a few letters differ, or it is in one of our tables.
    pub fn meant(&self, key: &str) -> Option<&str> {
        let (near, distance) = self.nearest(key)?;
        let table = key.split_once('.').map(|(table, _)| format!("{table}."));
        let ours = table.is_some_and(|table| self.0.keys().any(|k| k.starts_with(&table)));
        (ours || distance <= (near.len() / 4).max(1)).then_some(near)
    }

    fn nearest(&self, key: &str) -> Option<(&str, usize)> {
        let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let near = |known: &&str| {
            // A key without its table, or in the wrong one, is nearer than another key of that table.
            distance(key, known).min(distance(&last(key), &last(known)) + 1)
        };
        self.0.keys().map(String::as_str).map(|known| (known, near(&known))).min_by_key(|(_, d)| *d)
    }

    /// Reads a file's keys. The outer error is of TOML; the inner names an unknown key and its line.
    pub fn check_file(&self, text: &str) -> Result<Result<(), String>, toml::de::Error> {
        let table = DeTable::parse(text)?;
        let mut unknown = Vec::new();
        self.unknown("", table.get_ref(), &mut unknown);
        // The first in the file, whatever the tables' order.
        Ok(unknown.into_iter().min().map_or(Ok(()), |(at, key)| {
            let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
            Err(format!("{line}: {}", self.known(&key).err().unwrap_or_default()))
        }))
    }

    fn unknown(&self, prefix: &str, table: &DeTable<'_>, found: &mut Vec<(usize, String)>) {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let inside = format!("{key}.");
            let is_table = self.0.keys().any(|known| known.starts_with(&inside));
            if is_open(&key) {
                continue;
            }
            match (is_table, Spanned::get_ref(value)) {
                (true, DeValue::Table(table)) => self.unknown(&inside, table, found),
                // A value where a table belongs: serde says so, with its place.
                (true, _) => {}
                (false, _) if self.0.contains_key(&key) => {}
                _ => found.push((name.span().start, key)),
            }
        }
    }
}

fn flatten(prefix: &str, table: &Table, keys: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        match value {
            Value::Table(inner) => flatten(&format!("{prefix}{name}."), inner, keys),
            value => {
                keys.insert(format!("{prefix}{name}"), value.clone());
            }
        }
    }
}

/// How many letters must be put in, taken out, changed, or swapped with their neighbour to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let changed = row[j] + usize::from(x != y);
            let mut least = changed.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                least = least.min(before[j - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, d) in [
            ("", "", 0),
            ("", "ab", 2),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("listen", "lisen", 1),
            ("log", "logs", 1),
            ("abc", "xyz", 3),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (d, d), "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_key() {
        let keys = Keys::new();
        assert!(keys.default("limits.publish_rate").is_some());
        for (wrong, right) in [
            ("limits.publish_rat", "limits.publish_rate"),
            ("publish_rate", "limits.publish_rate"),
            ("storage.publish_rate", "limits.publish_rate"),
            ("lisen", "listen"),
            ("origin", "origins"),
            ("retain_bytes", "storage.retain_bytes"),
            ("storage.retain-bytes", "storage.retain_bytes"),
        ] {
            assert_eq!(keys.nearest(wrong).unwrap().0, right);
        }
        assert_eq!(keys.meant("lgo"), Some("log"));
        assert_eq!(keys.meant("limits.what"), keys.nearest("limits.what").map(|n| n.0));
        for foreign in ["port", "service_host", "port_8080_tcp", "bless", "home"] {
            assert_eq!(keys.meant(foreign), None, "{foreign}");
        }
    }
}
