//! Other programs that write to a topic, each by another client of Kafka's.

use crate::jars::{self, Jars};
use crate::oracle::Oracle;
use crate::{Cluster, home, mortal, server};
use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// kafkajs, in Node.
    Kafkajs,
    /// Kafka's own, in Java: its console producer.
    Java,
    /// librdkafka, in Python.
    Confluent,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Kafkajs, Kind::Java, Kind::Confluent];

    fn command(self, cluster: &Cluster, topic: &str) -> Command {
        let addresses = cluster.addresses();
        match self {
            Kind::Kafkajs => Oracle::new(addresses).command(&["write", topic]),
            Kind::Java => {
                let mut java = server::java(&Jars::get(), &[]);
                java.args(["org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", &addresses]);
                java.args(["--topic", topic, "--reader-property", "parse.key=true"]);
                // New partitions are noticed soon, and nothing waits for more to come.
                for property in ["metadata.max.age.ms=200", "linger.ms=5"] {
                    java.args(["--command-property", property]);
                }
                java
            }
            Kind::Confluent => {
                let mut python = mortal::command(&jars::python().display().to_string());
                python.arg(home().join("oracle/confluent.py")).args([&addresses, topic]);
                python
            }
        }
    }
}

/// One that runs. It is killed when it is dropped, and dies with the thread that started it.
#[derive(Debug)]
pub struct Writer {
    kind: Kind,
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Writer {
    /// Starts one.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn start(kind: Kind, cluster: &Cluster, topic: &str) -> Writer {
        let mut command = kind.command(cluster, topic);
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut child = spawned.unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Writer { kind, stdin: child.stdin.take(), child }
    }

    /// Which client it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Has it write a record, whose key and value have no tabs and lines in them. Does not wait until it has.
    ///
    /// # Panics
    /// If it has ended.
    pub fn write(&mut self, key: &str, value: &str) {
        let stdin = self.stdin.as_mut().unwrap_or_else(|| panic!("it was ended"));
        writeln!(stdin, "{key}\t{value}").unwrap_or_else(|e| panic!("{:?}: {e}", self.kind));
    }

    /// Waits until all is written, and it has ended.
    ///
    /// # Panics
    /// If something could not be written.
    pub fn finish(mut self) {
        self.stdin = None;
        let status = self.child.wait().unwrap_or_else(|e| panic!("{:?}: {e}", self.kind));
        assert!(status.success(), "{:?}: {status}", self.kind);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
