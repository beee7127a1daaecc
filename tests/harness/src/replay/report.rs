//! What a replay found.

use super::histogram::Latency;
use crate::checker::Verdict;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// The outcome of a replay.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The server.
    pub url: String,
    /// The seed of drops, jitter and ids.
    pub seed: u64,
    /// Clients, listeners among them.
    pub clients: u64,
    /// Connections made over the whole run.
    pub connections: u64,
    /// Messages of the corpus that were sent.
    pub messages: u64,
    /// Messages that were acknowledged.
    pub acked: u64,
    /// Messages that the server refused for good.
    pub refused: u64,
    /// Sendings beyond the first of a message: after a drop, after an error, or on purpose.
    pub retries: u64,
    /// Publications delivered.
    pub deliveries: u64,
    /// From the first message to the last answer, in seconds.
    pub seconds: f64,
    /// Acknowledged messages a second.
    pub messages_per_second: f64,
    /// Deliveries a second.
    pub deliveries_per_second: f64,
    /// From sending a message to its acknowledgement.
    pub ack: Latency,
    /// From sending a message to each live delivery of it.
    pub delivery: Latency,
    /// Errors that the server sent, by name.
    pub errors: BTreeMap<String, u64>,
    /// Whether the log has the messages in the order of the corpus: of each room if one message of a room was under
    /// way at a time, else of each sender.
    pub in_order: bool,
    /// Why the run could not be carried through. Empty: it could.
    pub failures: Vec<String>,
    /// The checker's verdict; absent if the log could not be read.
    pub verdict: Option<Verdict>,
}

impl Report {
    /// Whether the run was carried through and nothing is wrong.
    pub fn ok(&self) -> bool {
        self.failures.is_empty() && self.in_order && self.verdict.as_ref().is_some_and(Verdict::ok)
    }

    /// The report as one JSON object.
    pub fn json(&self) -> String {
        // Plain fields and maps with string keys: nothing in it can fail to serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (seed {})", self.url, self.seed)?;
        writeln!(
            f,
            "  {} clients, {} connections; {} messages, {} acked, {} refused, {} sent again; {} deliveries",
            self.clients,
            self.connections,
            self.messages,
            self.acked,
            self.refused,
            self.retries,
            self.deliveries
        )?;
        writeln!(
            f,
            "  {:.2} s: {:.0} messages/s, {:.0} deliveries/s",
            self.seconds, self.messages_per_second, self.deliveries_per_second
        )?;
        writeln!(f, "  ack:      {}", self.ack)?;
        writeln!(f, "  delivery: {}", self.delivery)?;
        for (name, count) in &self.errors {
            writeln!(f, "  error {name}: {count}")?;
        }
        if !self.in_order {
            writeln!(f, "  OUT OF ORDER: the log's order is not the corpus's")?;
        }
        for failure in &self.failures {
            writeln!(f, "  FAILED: {failure}")?;
        }
        match &self.verdict {
            Some(verdict) => write!(f, "  checked: {verdict}"),
            None => write!(f, "  NOT CHECKED"),
        }
    }
}
