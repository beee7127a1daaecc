//! A corpus of real chat: what happened in each room, in order.

use serde::Deserialize;
use std::collections::HashMap;
use std::io;
use std::path::Path;

/// Something that happened in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Someone came.
    Join(String),
    /// Someone went.
    Leave(String),
    /// Someone took another name.
    Rename(String, String),
    /// Someone said something.
    Message(String, String),
}

/// One room's steps.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The room.
    pub room: String,
    /// What happened, in order.
    pub steps: Vec<Step>,
}

/// Rooms and what happened in them.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    /// In the order in which they first appear.
    pub scripts: Vec<Script>,
}

#[derive(Deserialize)]
struct Line {
    room: String,
    event: String,
    sender: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    to: String,
}

impl Corpus {
    /// Reads a file of JSON lines.
    pub fn load(path: &Path) -> io::Result<Corpus> {
        Corpus::parse(&std::fs::read_to_string(path)?)
    }

    /// Reads JSON lines: `{"room", "event": "message"|"join"|"leave"|"rename", "sender", "text"?, "to"?}`.
    pub fn parse(text: &str) -> io::Result<Corpus> {
        let mut corpus = Corpus::default();
        let mut places: HashMap<String, usize> = HashMap::new();
        for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let bad =
                |e: String| io::Error::new(io::ErrorKind::InvalidData, format!("line {}: {e}", number + 1));
            let line: Line = serde_json::from_str(line).map_err(|e| bad(e.to_string()))?;
            let step = match line.event.as_str() {
                "join" => Step::Join(line.sender),
                "leave" => Step::Leave(line.sender),
                "rename" => Step::Rename(line.sender, line.to),
                "message" => Step::Message(line.sender, line.text),
                other => return Err(bad(format!("no such event: {other:?}"))),
            };
            let place = *places.entry(line.room.clone()).or_insert_with(|| {
                corpus.scripts.push(Script { room: line.room, steps: Vec::new() });
                corpus.scripts.len() - 1
            });
            if let Some(script) = corpus.scripts.get_mut(place) {
                script.steps.push(step);
            }
        }
        Ok(corpus)
    }

    /// How many messages it has.
    pub fn messages(&self) -> u64 {
        let steps = self.scripts.iter().flat_map(|s| &s.steps);
        steps.filter(|s| matches!(s, Step::Message(..))).count() as u64
    }

    /// The same with at most `most` messages, taken from all rooms in turn, each room's first ones.
    pub fn limited(mut self, most: u64) -> Corpus {
        let mut left = most;
        let mut ends = vec![0; self.scripts.len()];
        let mut more = true;
        while left > 0 && more {
            more = false;
            for (script, end) in self.scripts.iter().zip(&mut ends) {
                let rest = script.steps.get(*end..).unwrap_or_default();
                if let Some(next) = rest.iter().position(|s| matches!(s, Step::Message(..)))
                    && left > 0
                {
                    *end += next + 1;
                    left -= 1;
                    more = true;
                }
            }
        }
        if left > 0 {
            // All of them fit, so what follows the last message of each room stays too.
            return self;
        }
        for (script, end) in self.scripts.iter_mut().zip(ends) {
            script.steps.truncate(end);
        }
        self.scripts.retain(|s| !s.steps.is_empty());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_keep_their_order_and_a_limit_takes_from_all() {
        let text = r#"{"room":"a","event":"join","at":1,"sender":"u"}
{"room":"a","event":"message","at":1,"sender":"u","text":"1"}
{"room":"a","event":"message","at":1,"sender":"u","text":"2"}
{"room":"b","event":"rename","at":1,"sender":"u","to":"v"}
{"room":"b","event":"message","at":1,"sender":"v","text":"3"}
{"room":"b","event":"leave","at":1,"sender":"v"}
"#;
        let corpus = Corpus::parse(text).unwrap();
        assert_eq!((corpus.scripts.len(), corpus.messages()), (2, 3));
        let two = corpus.clone().limited(2);
        assert_eq!(two.scripts[0].steps, [Step::Join("u".into()), Step::Message("u".into(), "1".into())]);
        assert_eq!(two.scripts[1].steps.len(), 2);
        assert_eq!(corpus.clone().limited(1).scripts.len(), 1);
        assert_eq!(corpus.limited(99).scripts[1].steps.len(), 3);
        assert!(Corpus::parse("{\"room\":\"a\",\"event\":\"x\",\"sender\":\"u\"}").is_err());
    }
}
