//! `strace` on a running process: the system calls and signals that it sees, and calls that it makes fail.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

/// See the module.
#[derive(Debug)]
pub struct Tracer {
    child: Child,
    lines: Option<JoinHandle<Vec<String>>>,
}

impl Tracer {
    /// Watches a process; returns once it watches every thread of it.
    ///
    /// # Panics
    /// If there is no `strace`, or it may not watch.
    pub fn attach(process: u32, args: &[&str]) -> Tracer {
        Tracer::start(&["-f", "-p", &process.to_string()], 1, args)
    }

    /// Watches some threads of a process and no others.
    ///
    /// # Panics
    /// As [`Tracer::attach`].
    pub fn threads(threads: &[u32], args: &[&str]) -> Tracer {
        let ids: Vec<String> = threads.iter().flat_map(|t| ["-p".to_owned(), t.to_string()]).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        Tracer::start(&ids, threads.len(), args)
    }

    fn start(whom: &[&str], attached: usize, args: &[&str]) -> Tracer {
        let mut command = Command::new("strace");
        command.args(whom).args(args);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|e| panic!("strace is needed for this test: {e}"));
        let mut output = BufReader::new(child.stderr.take().unwrap_or_else(|| panic!("no stderr")));
        let mut seen = 0;
        while seen < attached {
            let mut line = String::new();
            let read = output.read_line(&mut line).unwrap_or_else(|e| panic!("strace: {e}"));
            assert!(read > 0, "strace cannot watch the process");
            seen += usize::from(line.contains("attached"));
        }
        let lines = std::thread::spawn(move || output.lines().map_while(Result::ok).collect());
        Tracer { child, lines: Some(lines) }
    }

    /// Lets the process go on by itself, and returns what was seen.
    ///
    /// # Panics
    /// If it has ended.
    pub fn detach(mut self) -> Vec<String> {
        let asked = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(asked.is_ok_and(|s| s.success()), "strace has ended by itself");
        self.collect()
    }

    /// Waits until the process has ended, and returns what was seen.
    ///
    /// # Panics
    /// If strace ends with a fault of its own.
    pub fn ended(mut self) -> Vec<String> {
        self.collect()
    }

    fn collect(&mut self) -> Vec<String> {
        self.child.wait().unwrap_or_else(|e| panic!("strace: {e}"));
        let lines = self.lines.take().map(JoinHandle::join);
        lines.and_then(Result::ok).unwrap_or_else(|| panic!("what strace says cannot be read"))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It may have ended; the process that it watches goes on.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The threads of a process with one of these names.
///
/// # Panics
/// If there is no such process.
pub fn threads(process: u32, names: &[&str]) -> Vec<u32> {
    let dir = format!("/proc/{process}/task");
    let tasks = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{dir}: {e}"));
    let named = tasks.filter_map(|task| {
        let task = task.ok()?;
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        names.contains(&name.trim_end()).then(|| task.file_name().to_str()?.parse().ok())?
    });
    named.collect()
}
