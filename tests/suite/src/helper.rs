//! A program of a test's own in another process: it can be stopped and let go on, and dies with the test.

use crate::crowd::Plan;
use crate::storm::Storm;
use klatch_harness::observe::ClientLog;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// See the module.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Helper {
    /// Starts a command that says what happens on stdout, line by line, takes orders on stdin, and ends with it.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn start(command: &mut Command) -> Helper {
        let name = format!("{command:?}");
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|e| panic!("{name}: {e}"));
        let (tx, lines) = channel();
        if let Some(out) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    if tx.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Helper { stdin: child.stdin.take(), child, lines }
    }

    /// A crowd in a process of its own (the program `crowd` of this crate); waits until all have joined.
    ///
    /// # Panics
    /// If they do not.
    pub fn crowd(command: &mut Command, url: &str, plan: &Plan) -> Helper {
        let helper = Helper::begin_crowd(command, url, plan);
        helper.wait_for("joined");
        helper
    }

    /// [`Helper::crowd`] without the wait.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn begin_crowd(command: &mut Command, url: &str, plan: &Plan) -> Helper {
        let plan = serde_json::to_string(plan).unwrap_or_default();
        Helper::start(command.args(["members", url, &plan]))
    }

    /// Connections in great numbers, from a process of their own; does not wait.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn storm(command: &mut Command, address: SocketAddr, storm: &Storm) -> Helper {
        let storm = serde_json::to_string(storm).unwrap_or_default();
        Helper::start(command.args(["storm", &address.to_string(), &storm]))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that begins with `word`; the rest of it.
    ///
    /// # Panics
    /// If none comes in two minutes, or it ends without one.
    pub fn wait_for(&self, word: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix(word) {
                        return rest.trim().to_owned();
                    }
                }
                Err(e) => panic!("helper {}: no line {word:?}: {e}", self.child.id()),
            }
        }
    }

    /// The rest of a line that begins with `word`, if one has come; lines before it are forgotten.
    pub fn said(&self, word: &str) -> Option<String> {
        self.lines.try_iter().find_map(|line| line.strip_prefix(word).map(|rest| rest.trim().to_owned()))
    }

    /// Gives it an order.
    ///
    /// # Panics
    /// If it has ended.
    pub fn order(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap_or_else(|| panic!("no stdin"));
        writeln!(stdin, "{line}").unwrap_or_else(|e| panic!("helper {}: {e}", self.child.id()));
    }

    /// Has a crowd go on until all have reached an offset, and end. What they did and saw.
    ///
    /// # Panics
    /// If they do not reach it.
    pub fn finish(mut self, offset: u64, dir: &Path) -> Vec<ClientLog> {
        let path = dir.join(format!("crowd-{}.json", self.child.id()));
        self.order(&format!("finish {offset} {}", path.display()));
        self.wait_for("finished");
        let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Stops it in its tracks (SIGSTOP), and waits until it is.
    ///
    /// # Panics
    /// If it has ended.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let path = format!("/proc/{}/stat", self.child.id());
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
    /// If it has ended.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).unwrap_or_else(|| panic!("no pid"));
        kill_process(pid, signal).unwrap_or_else(|e| panic!("helper {pid:?}: {e}"));
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
