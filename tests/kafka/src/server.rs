//! One Kafka server: its addresses, its configuration, its process.

use crate::jars::Jars;
use crate::secure;
use crate::{PATIENCE, home, mortal};
use klatch_harness::process::Process;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Loopback addresses that one cluster alone uses, so that every port of them is free, and stays so while a server is down.
#[derive(Debug)]
pub struct Net {
    bytes: [u8; 2],
    /// While it is open, nobody else gets these addresses.
    _claim: TcpListener,
}

/// Where everybody connects.
const CLIENTS: u16 = 9092;
const CONTROLLER: u16 = 9093;
/// Where proxies connect to a server, and clients to proxies: the first of each kind.
const BEHIND_PROXIES: u16 = 9200;
const PROXIES: u16 = 9300;
/// Where those connect who show who they are.
const SECURE: u16 = 9400;

impl Net {
    /// Addresses that nobody uses.
    ///
    /// # Panics
    /// If there are none, on a system on which only 127.0.0.1 is the loopback.
    pub fn claim() -> Net {
        let mut last = None;
        for _ in 0..100 {
            let [a, b, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
            // 127.0 and what lies near it belongs to others.
            let bytes = [100 + a % 100, b];
            match TcpListener::bind((Ipv4Addr::from([127, bytes[0], bytes[1], 254]), CLIENTS)) {
                Ok(claim) => return Net { bytes, _claim: claim },
                Err(e) => last = Some(e),
            }
        }
        panic!("no loopback address can be used: {last:?}");
    }

    fn at(&self, node: usize, port: u16) -> SocketAddr {
        let last = u8::try_from(node + 1).unwrap_or(253);
        SocketAddr::from(([127, self.bytes[0], self.bytes[1], last], port))
    }

    /// Where clients find a node.
    pub fn clients(&self, node: usize) -> SocketAddr {
        self.at(node, CLIENTS)
    }

    fn controller(&self, node: usize) -> SocketAddr {
        self.at(node, CONTROLLER)
    }

    /// Where clients find a node that show who they are.
    pub fn secure(&self, node: usize) -> SocketAddr {
        self.at(node, SECURE)
    }

    /// Where the clients of a proxy find a node, and where the proxy does.
    pub fn proxied(&self, node: usize, proxy: usize) -> (SocketAddr, SocketAddr) {
        let proxy = proxy as u16;
        (self.at(node, PROXIES + proxy), self.at(node, BEHIND_PROXIES + proxy))
    }
}

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct Config {
    folder: PathBuf,
    /// How the voters are named when its storage is formatted.
    voters: Vec<String>,
    secure: bool,
}

/// What makes a small Kafka of it, that starts quickly and notices at once that another one is gone.
const SMALL: &[(&str, &str)] = &[
    ("process.roles", "broker,controller"),
    ("num.partitions", "1"),
    ("offsets.topic.num.partitions", "1"),
    ("transaction.state.log.num.partitions", "1"),
    ("share.coordinator.state.topic.num.partitions", "1"),
    ("group.initial.rebalance.delay.ms", "0"),
    ("auto.create.topics.enable", "false"),
    ("log.cleaner.dedupe.buffer.size", "2097152"),
    ("num.network.threads", "2"),
    ("num.io.threads", "2"),
    ("background.threads", "2"),
    ("log.cleaner.threads", "1"),
    ("num.recovery.threads.per.data.dir", "1"),
    ("log.segment.delete.delay.ms", "1000"),
    ("controller.quorum.append.linger.ms", "0"),
    ("broker.heartbeat.interval.ms", "100"),
    ("broker.session.timeout.ms", "2000"),
    ("controller.quorum.fetch.timeout.ms", "1000"),
    ("controller.quorum.election.timeout.ms", "500"),
    // On a machine with other things to do a start may take long.
    ("initial.broker.registration.timeout.ms", "300000"),
    ("controller.listener.names", "CONTROLLER"),
    ("inter.broker.listener.name", "CLIENTS"),
];

/// What is replicated: to all.
const REPLICATED: &[&str] = &[
    "default.replication.factor",
    "offsets.topic.replication.factor",
    "transaction.state.log.replication.factor",
    "share.coordinator.state.topic.replication.factor",
];
/// How many must have it: of three nodes two.
const IN_SYNC: &[&str] =
    &["min.insync.replicas", "transaction.state.log.min.isr", "share.coordinator.state.topic.min.isr"];

/// Writes the configurations of a cluster of so many nodes, each of which so many proxies can stand before. `secure`: it has a listener for
/// those who show who they are; then it is one node.
///
/// # Panics
/// If they cannot be written.
pub fn configs(
    net: &Net,
    folder: &Path,
    nodes: usize,
    proxies: usize,
    secure: bool,
    more: &[(String, String)],
) -> Vec<Config> {
    let join = |parts: Vec<String>| parts.join(",");
    let voters = (0..nodes).map(|n| format!("{}@{}:{}", n + 1, net.controller(n), directory_id(n))).collect();
    let voters = if nodes == 1 { Vec::new() } else { voters };
    let bootstrap = join((0..nodes).map(|n| net.controller(n).to_string()).collect());
    let config = |n: usize| {
        let folder = folder.join(format!("node-{}", n + 1));
        let named = |name: &str, at: SocketAddr| format!("{name}://{at}");
        let of_proxies = |which: fn((SocketAddr, SocketAddr)) -> SocketAddr| {
            (0..proxies).map(move |p| format!("PROXY{p}://{}", which(net.proxied(n, p))))
        };
        let clients = named("CLIENTS", net.clients(n));
        let guarded = secure.then(|| named("SECURE", net.secure(n)));
        let listeners = [clients.clone(), named("CONTROLLER", net.controller(n))];
        let protocols = ["CLIENTS:PLAINTEXT".to_owned(), "CONTROLLER:PLAINTEXT".to_owned()]
            .into_iter()
            .chain((0..proxies).map(|p| format!("PROXY{p}:PLAINTEXT")))
            .chain(secure.then(|| "SECURE:SASL_SSL".to_owned()));
        let mut lines: Vec<(String, String)> = vec![
            ("node.id".into(), (n + 1).to_string()),
            ("log.dirs".into(), folder.join("data").display().to_string()),
            (
                "listeners".into(),
                join(
                    listeners
                        .into_iter()
                        .chain(of_proxies(|(_, behind)| behind))
                        .chain(guarded.clone())
                        .collect(),
                ),
            ),
            (
                "advertised.listeners".into(),
                join(
                    std::iter::once(clients).chain(of_proxies(|(before, _)| before)).chain(guarded).collect(),
                ),
            ),
            ("listener.security.protocol.map".into(), join(protocols.collect())),
            ("controller.quorum.bootstrap.servers".into(), bootstrap.clone()),
        ];
        lines.extend(SMALL.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        lines.extend(REPLICATED.iter().map(|k| ((*k).to_owned(), nodes.to_string())));
        lines.extend(IN_SYNC.iter().map(|k| ((*k).to_owned(), nodes.div_ceil(2).to_string())));
        fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        if secure {
            lines.extend(secure::properties(net, &folder));
        }
        // Of several lines with one name the last counts.
        lines.extend(more.iter().cloned());
        let text: String = lines.iter().map(|(k, v)| format!("{k}={v}\n")).collect();
        let config = Config { folder, voters: Vec::clone(&voters), secure };
        fs::write(config.path(), text).unwrap_or_else(|e| panic!("{}: {e}", config.path()));
        config
    };
    (0..nodes).map(config).collect()
}

/// An id of Kafka's kind, which is base64 of 16 bytes, for a node's directory.
fn directory_id(node: usize) -> String {
    let letter = b"KLMNOPQRST".get(node).map_or('Z', |letter| char::from(*letter));
    format!("{}A", String::from(letter).repeat(21))
}

impl Config {
    /// Where it keeps its partitions.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The certificate of its secure listener.
    pub fn certificate(&self) -> PathBuf {
        secure::certificate(&self.folder)
    }

    fn path(&self) -> String {
        self.folder.join("server.properties").display().to_string()
    }

    /// Makes its storage ready.
    ///
    /// # Panics
    /// If it cannot.
    pub fn format(&self, jars: &Jars) {
        let mut java = java(jars, &[]);
        java.args(["kafka.tools.StorageTool", "format", "-t", "klatchklatchklatchklAA", "-c", &self.path()]);
        if self.voters.is_empty() {
            java.arg("--standalone");
        } else {
            java.args(["--initial-controllers", &self.voters.join(",")]);
        }
        if self.secure {
            java.args(secure::format());
        }
        let run = java.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("java: {e}"));
        let said = [&run.stdout[..], &run.stderr[..]].concat();
        assert!(run.status.success(), "the storage cannot be formatted: {}", String::from_utf8_lossy(&said));
    }

    /// Starts it; see [`ready`].
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn start(&self, jars: &Jars, flags: &[&str]) -> Process {
        let mut java = java(jars, flags);
        java.args(["kafka.Kafka", &self.path()]);
        mortal::start(java).unwrap_or_else(|e| panic!("Kafka cannot be run: {e}"))
    }
}

/// Waits until a server answers.
///
/// # Panics
/// If it does not: with what it said.
pub fn ready(server: &Process) {
    if !server.says("Kafka Server started", PATIENCE) {
        panic!("Kafka did not start:\n{}", server.output().join("\n"));
    }
}

/// A Java program of the jars.
pub fn java(jars: &Jars, flags: &[&str]) -> Command {
    let mut command = mortal::command("java");
    command.args(["-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    command.arg("-Djava.awt.headless=true");
    command.arg(format!("-Dlog4j2.configurationFile={}", home().join("log4j2.properties").display()));
    if jars.archive.is_file() {
        command.arg(format!("-XX:SharedArchiveFile={}", jars.archive.display()));
    }
    command.args(flags).args(["-cp", &jars.class_path]);
    command
}
