//! What a topic holds, read by kafkajs; and records that klatch would never write.
//!
//! The program is `oracle/oracle.mjs`, and says what it does.

use crate::{PATIENCE, home, mortal};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use klatch_harness::process::Process;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// See the module. Every method panics if the program fails: with what it said.
#[derive(Clone, Debug)]
pub struct Oracle {
    addresses: String,
}

/// A key or a value: text, or bytes that are no text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bytes {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Other {
        /// In base64.
        base64: String,
    },
}

impl Bytes {
    /// Any bytes.
    pub fn new(bytes: &[u8]) -> Bytes {
        match std::str::from_utf8(bytes) {
            Ok(text) => Bytes::Text(text.to_owned()),
            Err(_) => Bytes::Other { base64: BASE64_STANDARD.encode(bytes) },
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Bytes::Text(text) => Some(text),
            Bytes::Other { .. } => None,
        }
    }

    /// What it stands for.
    ///
    /// # Panics
    /// If its base64 is none.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Bytes::Text(text) => text.clone().into_bytes(),
            Bytes::Other { base64 } => BASE64_STANDARD.decode(base64).unwrap_or_else(|e| panic!("{e}")),
        }
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Bytes {
        Bytes::Text(text.to_owned())
    }
}

/// A record of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Record {
    /// Its partition.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
    /// Kafka's time for it, in milliseconds since 1970.
    pub timestamp: u64,
    /// Its key, if it has one.
    pub key: Option<Bytes>,
    /// Its headers, in their order.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Its value; none in a tombstone.
    pub value: Option<Bytes>,
}

impl Record {
    /// The first header of this name that has a value.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().find(|(n, _)| n == name).and_then(|(_, value)| value.as_ref())
    }

    /// The same record, to be written once more. Not where it is: whoever wants that says so.
    pub fn again(&self) -> Draft {
        Draft {
            partition: None,
            timestamp: None,
            key: self.key.clone(),
            headers: self.headers.clone(),
            value: self.value.clone(),
        }
    }
}

/// A record to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Draft {
    /// Its partition. None: as kafkajs computes it from the key, which is as Java does, or any without a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// Its time, where the topic leaves it to those who write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its headers. kafkajs cannot write one without a value.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Its value; none makes a tombstone.
    pub value: Option<Bytes>,
}

impl Draft {
    /// A record with a key, a value and no headers.
    pub fn new(key: &str, value: &str) -> Draft {
        Draft { key: Some(key.into()), value: Some(value.into()), ..Draft::default() }
    }
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Place {
    /// The partition.
    pub partition: u32,
    /// The offset there.
    pub offset: u64,
}

/// The ends of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Ends {
    /// The partition.
    pub partition: u32,
    /// The first offset.
    pub low: u64,
    /// The offset of the next record.
    pub high: u64,
}

/// Who has a partition. Nodes are counted from 0.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Leader {
    /// The partition.
    pub partition: u32,
    /// The node that leads it, as the cluster counts: from 1.
    leader: usize,
    /// Those that have all of it, as the cluster counts them.
    in_sync: Vec<usize>,
}

impl Leader {
    /// The node that leads it.
    pub fn node(&self) -> usize {
        self.leader - 1
    }

    /// The others that have all of it.
    pub fn followers(&self) -> Vec<usize> {
        self.in_sync.iter().filter(|node| **node != self.leader).map(|node| node - 1).collect()
    }
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its records hold.
    Commit,
    /// They do not.
    Abort,
    /// Nobody ends it: the cluster does when it has waited long enough.
    Leave,
}

/// All records of a topic, by partition and offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// The records.
    pub records: Vec<Record>,
}

impl Dump {
    /// The records of each key, in their order; those whose key is text.
    pub fn by_key(&self) -> BTreeMap<&str, Vec<&Record>> {
        let mut keys: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
        for record in &self.records {
            if let Some(key) = record.key.as_ref().and_then(Bytes::text) {
                keys.entry(key).or_default().push(record);
            }
        }
        keys
    }
}

impl Oracle {
    /// For the cluster at these addresses, of a cluster or of a proxy.
    pub fn new(addresses: impl Into<String>) -> Oracle {
        Oracle { addresses: addresses.into() }
    }

    /// Makes a topic with properties as `name=value`, and waits for its leaders.
    pub fn create(&self, topic: &str, partitions: u32, properties: &[&str]) {
        let partitions = partitions.to_string();
        self.run(&[&["create", topic, &partitions], properties].concat(), "");
    }

    /// Adds partitions, up to this number.
    pub fn partitions(&self, topic: &str, total: u32) {
        self.run(&["partitions", topic, &total.to_string()], "");
    }

    /// Deletes a topic.
    pub fn delete(&self, topic: &str) {
        self.run(&["delete", topic], "");
    }

    /// Deletes the records of a partition that are before this offset; all of them if it is none.
    pub fn delete_records(&self, topic: &str, partition: u32, before: Option<u64>) {
        let before = before.map_or("-1".to_owned(), |offset| offset.to_string());
        self.run(&["delete-records", topic, &format!("{partition}:{before}")], "");
    }

    /// The ends of each partition.
    pub fn ends(&self, topic: &str) -> Vec<Ends> {
        lines(&self.run(&["ends", topic], ""))
    }

    /// Who leads each partition.
    pub fn leaders(&self, topic: &str) -> Vec<Leader> {
        lines(&self.run(&["leaders", topic], ""))
    }

    /// Lets a user do this with a topic.
    pub fn allow(&self, topic: &str, user: &str, operations: &[&str]) {
        self.run(&[&["allow", topic, user], operations].concat(), "");
    }

    /// Lets a user be a member of a group.
    pub fn allow_group(&self, group: &str, user: &str) {
        self.run(&["allow-group", group, user], "");
    }

    /// Takes back all that it was allowed.
    pub fn forbid(&self, topic: &str, user: &str) {
        self.run(&["forbid", topic, user], "");
    }

    /// Up to where each partition has no open transaction.
    pub fn stable(&self, topic: &str) -> Vec<Place> {
        lines(&self.run(&["stable", topic], ""))
    }

    /// Writes records in a transaction, and says where they are.
    pub fn transaction(&self, topic: &str, records: &[Draft], end: End) -> Vec<Place> {
        let end = match end {
            End::Commit => "commit",
            End::Abort => "abort",
            End::Leave => "leave",
        };
        lines(&self.run(&["transaction", topic, end], &input(records)))
    }

    /// Everything in a topic, as far as its partitions reached when it began to read. It sees what transactions have aborted, too.
    pub fn dump(&self, topic: &str) -> Dump {
        Dump { records: lines(&self.run(&["dump", topic], "")) }
    }

    /// Writes records one after the other, each acknowledged by all, and says where they are.
    pub fn produce(&self, topic: &str, records: &[Draft]) -> Vec<Place> {
        lines(&self.run(&["produce", topic], &input(records)))
    }

    /// The same, compressed.
    pub fn produce_gzip(&self, topic: &str, records: &[Draft]) -> Vec<Place> {
        lines(&self.run(&["produce", topic, "gzip"], &input(records)))
    }

    /// Prints the records of a topic as they come; waits until it has begun to.
    pub fn follow(&self, topic: &str) -> Process {
        let command = self.command(&["follow", topic]);
        let follower = mortal::start(command).unwrap_or_else(|e| panic!("node: {e}"));
        assert!(follower.says(r#"{"following":"#, PATIENCE), "the oracle: {:?}", follower.output());
        follower
    }

    /// The program with these arguments.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let folder = folder();
        assert!(
            folder.join("node_modules/kafkajs").is_dir(),
            "kafkajs is missing: run `npm ci` in {}",
            folder.display()
        );
        let mut command = mortal::command("node");
        command.arg(folder.join("oracle.mjs")).arg(&self.addresses).args(args);
        command
    }

    fn run(&self, args: &[&str], input: &str) -> String {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("node: {e}"));
        let stdin = child.stdin.take();
        let output = std::thread::scope(|threads| {
            threads.spawn(move || {
                // One that fails may not read it; its status tells.
                stdin.map(|mut stdin| stdin.write_all(input.as_bytes()))
            });
            child.wait_with_output().unwrap_or_else(|e| panic!("node: {e}"))
        });
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the oracle: {args:?}: {said}");
        String::from_utf8(output.stdout).unwrap_or_else(|e| panic!("the oracle: {e}"))
    }
}

fn folder() -> PathBuf {
    home().join("oracle")
}

fn input(records: &[Draft]) -> String {
    let line = |record| serde_json::to_string(record).unwrap_or_else(|e| panic!("{e}")) + "\n";
    records.iter().map(line).collect()
}

fn lines<T: for<'de> Deserialize<'de>>(text: &str) -> Vec<T> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("the oracle: {e}: {line}")))
        .collect()
}
