//! A Kafka cluster of a test's own.

use crate::PATIENCE;
use crate::jars::Jars;
use crate::proxy::Proxy;
use crate::server::{self, Config, Net};
use klatch_harness::process::Process;
use rustix::process::Signal;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use tempfile::TempDir;

/// A running cluster: its servers end, and its data goes, when it is dropped.
///
/// Nodes are counted from 0.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: servers before the folder that they write to.
    nodes: Vec<Node>,
    proxies: Vec<Proxy>,
    jars: Jars,
    net: Net,
    _folder: TempDir,
}

#[derive(Debug)]
struct Node {
    config: Config,
    /// None while it is down.
    process: Option<Process>,
}

/// A place in a file of Kafka's that is not as it was.
#[derive(Debug)]
pub struct Damage {
    segment: File,
    at: u64,
    was: u8,
}

impl Damage {
    /// Makes it as it was.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn mend(self) {
        self.put(self.was);
    }

    fn put(&self, byte: u8) {
        self.segment.write_all_at(&[byte], self.at).unwrap_or_else(|e| panic!("a segment: {e}"));
    }
}

/// What kind of cluster to start.
#[derive(Clone, Debug)]
pub struct Builder {
    nodes: usize,
    proxies: usize,
    secure: bool,
    properties: Vec<(String, String)>,
}

impl Builder {
    /// With so many [`Proxy`]s in front of all its nodes.
    pub fn proxies(mut self, count: usize) -> Builder {
        self.proxies = count;
        self
    }

    /// With a listener for those who show who they are ([`secure`](crate::secure)): for a cluster of one node.
    pub fn secure(mut self) -> Builder {
        self.secure = true;
        self
    }

    /// With a property of Kafka's on each node.
    pub fn set(mut self, name: &str, value: impl ToString) -> Builder {
        self.properties.push((name.to_owned(), value.to_string()));
        self
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// If it does not, within a minute or so.
    pub fn start(&self) -> Cluster {
        let jars = Jars::get();
        let net = Net::claim();
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("no folder: {e}"));
        let configs =
            server::configs(&net, folder.path(), self.nodes, self.proxies, self.secure, &self.properties);
        std::thread::scope(|threads| {
            for config in &configs {
                threads.spawn(|| config.format(&jars));
            }
        });
        let started = |config: Config| {
            let process = Some(config.start(&jars, &[]));
            Node { config, process }
        };
        let nodes: Vec<Node> = configs.into_iter().map(started).collect();
        let proxy = |p| {
            let pairs: Vec<_> = (0..self.nodes).map(|n| net.proxied(n, p)).collect();
            Proxy::start(&pairs).unwrap_or_else(|e| panic!("a proxy: {e}"))
        };
        let proxies = (0..self.proxies).map(proxy).collect();
        for node in &nodes {
            node.process.iter().for_each(server::ready);
        }
        Cluster { nodes, proxies, jars, net, _folder: folder }
    }
}

impl Cluster {
    /// One node: nothing is replicated.
    pub fn one() -> Builder {
        Builder { nodes: 1, proxies: 0, secure: false, properties: Vec::new() }
    }

    /// Three nodes that have everything, and of which two must.
    pub fn three() -> Builder {
        Builder { nodes: 3, ..Cluster::one() }
    }

    /// Where clients find it: hosts and ports, with commas.
    pub fn addresses(&self) -> String {
        let all: Vec<String> = (0..self.nodes.len()).map(|n| self.net.clients(n).to_string()).collect();
        all.join(",")
    }

    /// klatch's address of a topic.
    pub fn url(&self, topic: &str) -> String {
        format!("kafka://{}/{topic}", self.addresses())
    }

    /// klatch's address of a topic, for those who show who they are; and the certificate that the cluster shows them.
    ///
    /// # Panics
    /// If the cluster is of no nodes.
    pub fn secure(&self, topic: &str) -> (String, PathBuf) {
        let node = self.nodes.first().unwrap_or_else(|| panic!("no node"));
        (format!("kafka://{}/{topic}", self.net.secure(0)), node.config.certificate())
    }

    /// The proxy of this number, from 0.
    ///
    /// # Panics
    /// If it was not started with so many.
    pub fn proxy(&self, number: usize) -> &Proxy {
        self.proxies.get(number).unwrap_or_else(|| panic!("the cluster has {} proxies", self.proxies.len()))
    }

    /// The process ids of its nodes that are up.
    pub fn ids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| Some(node.process.as_ref()?.id())).collect()
    }

    /// The folder of a node's partitions.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn data(&self, node: usize) -> PathBuf {
        self.nodes.get(node).unwrap_or_else(|| panic!("no node {node}")).config.data()
    }

    /// Damages what lies in a topic's partition, in the batch with this text: what is read there does not fit its checksum any more.
    ///
    /// # Panics
    /// If it is not in the partition's first file.
    pub fn damage(&self, topic: &str, partition: u32, text: &str) -> Damage {
        let path = self.data(0).join(format!("{topic}-{partition}/00000000000000000000.log"));
        let opened = File::options().read(true).write(true).open(&path);
        let segment = opened.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let at = bytes.windows(text.len()).position(|w| w == text.as_bytes());
        let at = at.unwrap_or_else(|| panic!("{text} is not in {}", path.display()));
        let damage = Damage { segment, at: at as u64, was: bytes[at] };
        damage.put(damage.was ^ 0x20);
        damage
    }

    /// The newest lines that a node printed; empty while it is down.
    pub fn output(&self, node: usize) -> Vec<String> {
        self.nodes.get(node).and_then(|n| n.process.as_ref()).map(Process::output).unwrap_or_default()
    }

    /// Ends all nodes in order (SIGTERM), all at once, as nodes wait for each other.
    ///
    /// # Panics
    /// If they do not end.
    pub fn stop(&mut self) {
        for process in self.nodes.iter().filter_map(|node| node.process.as_ref()) {
            process.signal(Signal::TERM).unwrap_or_else(|e| panic!("Kafka {}: {e}", process.id()));
        }
        for mut process in self.nodes.iter_mut().filter_map(|node| node.process.take()) {
            process.wait(PATIENCE).unwrap_or_else(|e| panic!("{e}:\n{}", process.output().join("\n")));
        }
    }

    /// Ends a node in order.
    ///
    /// # Panics
    /// If it does not end.
    pub fn stop_node(&mut self, node: usize) {
        let mut process = self.take(node);
        process.stop(PATIENCE).unwrap_or_else(|e| panic!("{e}:\n{}", process.output().join("\n")));
    }

    /// Kills a node at once (SIGKILL).
    ///
    /// # Panics
    /// If it is down.
    pub fn kill(&mut self, node: usize) {
        let mut process = self.take(node);
        process.kill().unwrap_or_else(|e| panic!("Kafka {}: {e}", process.id()));
    }

    /// Stops a node in its tracks (SIGSTOP), and waits until it is.
    ///
    /// # Panics
    /// If it is down.
    pub fn freeze(&self, node: usize) {
        let process = self.signal(node, Signal::STOP);
        let path = format!("/proc/{}/stat", process.id());
        let stopped = || {
            let stat = std::fs::read_to_string(&path).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        };
        while !stopped() {
            std::thread::yield_now();
        }
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// If it is down.
    pub fn thaw(&self, node: usize) {
        self.signal(node, Signal::CONT);
    }

    /// Starts a node that was killed or stopped, with its data, and waits until it answers.
    ///
    /// # Panics
    /// If it does not, or is not down.
    pub fn restart(&mut self, node: usize) {
        let place = self.nodes.get_mut(node).unwrap_or_else(|| panic!("no node {node}"));
        assert!(place.process.is_none(), "node {node} is running");
        server::ready(place.process.insert(place.config.start(&self.jars, &[])));
    }

    /// Starts all nodes that are down, at once, and waits until they answer.
    ///
    /// # Panics
    /// If they do not.
    pub fn restart_all(&mut self) {
        let mut started = Vec::new();
        for (n, node) in self.nodes.iter_mut().enumerate().filter(|(_, node)| node.process.is_none()) {
            node.process = Some(node.config.start(&self.jars, &[]));
            started.push(n);
        }
        for process in started.iter().filter_map(|n| self.nodes.get(*n)?.process.as_ref()) {
            server::ready(process);
        }
    }

    fn signal(&self, node: usize, signal: Signal) -> &Process {
        let process = self.nodes.get(node).and_then(|n| n.process.as_ref());
        let process = process.unwrap_or_else(|| panic!("node {node} is down"));
        process.signal(signal).unwrap_or_else(|e| panic!("Kafka {}: {e}", process.id()));
        process
    }

    fn take(&mut self, node: usize) -> Process {
        let process = self.nodes.get_mut(node).and_then(|n| n.process.take());
        process.unwrap_or_else(|| panic!("node {node} is down"))
    }
}
