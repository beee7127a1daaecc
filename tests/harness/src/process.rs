//! A server as a child process, and what this process may.

use rustix::process::{Pid, Signal, kill_process};
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A child process whose output is read; killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: Arc<Output>,
}

#[derive(Debug, Default)]
struct Output {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Said {
    lines: VecDeque<String>,
    /// Outputs that have not ended.
    open: usize,
}

/// The newest lines of output that are kept.
const LINES: usize = 1000;
const ANNOUNCEMENT: &str = "listening on ";

impl Process {
    /// Starts the command. Both outputs are read to their ends; the newest 1,000 lines are kept.
    pub fn start(command: &mut Command) -> io::Result<Process> {
        Process::watched(command, |_| ())
    }

    /// The same, and `watch` sees each line once it is kept. It is dropped at the end of both outputs.
    fn watched(command: &mut Command, watch: impl Fn(&str) + Clone + Send + 'static) -> io::Result<Process> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let pipes: Vec<_> = [
            child.stdout.take().map(|p| Box::new(p) as Box<dyn io::Read + Send>),
            child.stderr.take().map(|p| Box::new(p) as Box<dyn io::Read + Send>),
        ]
        .into_iter()
        .flatten()
        .collect();
        let said = Mutex::new(Said { open: pipes.len(), ..Said::default() });
        let output = Arc::new(Output { said, more: Condvar::new() });
        for pipe in pipes {
            let (output, watch) = (output.clone(), watch.clone());
            std::thread::spawn(move || {
                let mut lines = BufReader::new(pipe);
                let mut line = Vec::new();
                while matches!(lines.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                    if let Ok(mut said) = output.said.lock() {
                        if said.lines.len() == LINES {
                            said.lines.pop_front();
                        }
                        said.lines.push_back(text.clone());
                    }
                    output.more.notify_all();
                    // Only now, so that whoever knows of it finds the line too.
                    watch(&text);
                    line.clear();
                }
                if let Ok(mut said) = output.said.lock() {
                    said.open -= 1;
                }
                output.more.notify_all();
            });
        }
        Ok(Process { child, output })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The newest lines it printed.
    pub fn output(&self) -> Vec<String> {
        self.output.said.lock().map(|said| said.lines.iter().cloned().collect()).unwrap_or_default()
    }

    /// Waits up to `timeout` until it has printed a line that contains `text`; whether it has. Does not wait on when it has ended.
    pub fn says(&self, text: &str, timeout: Duration) -> bool {
        let has = |said: &Said| said.lines.iter().any(|line| line.contains(text));
        let Ok(said) = self.output.said.lock() else { return false };
        let waiting = |said: &mut Said| said.open > 0 && !has(said);
        self.output.more.wait_timeout_while(said, timeout, waiting).is_ok_and(|(said, _)| has(&said))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = Pid::from_raw(self.child.id() as i32).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(kill_process(pid, signal)?)
    }

    /// Kills it at once (SIGKILL) and waits for its end.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Waits up to `timeout` for its end; past it, it is killed and the error is `TimedOut`.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.kill()?;
                let text = "it did not end in time and was killed";
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            // There is no portable wait with a timeout; this bounds only how late the end is noticed.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks it to stop (SIGTERM) and waits up to `timeout`; past it, it is killed and the error is `TimedOut`.
    pub fn stop(&mut self, timeout: Duration) -> io::Result<ExitStatus> {
        if self.child.try_wait()?.is_none() {
            self.signal(Signal::TERM)?;
        }
        self.wait(timeout)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// A running server, killed when it is dropped.
#[derive(Debug)]
pub struct Server {
    process: Process,
    address: SocketAddr,
}

impl Server {
    /// Starts the command and waits up to `timeout` until it prints `listening on ADDRESS:PORT` on stdout or stderr.
    ///
    /// The command should ask for port 0. Both outputs are read to their ends; the newest 1,000 lines are kept.
    pub fn start(command: &mut Command, timeout: Duration) -> io::Result<Server> {
        let (found, address) = channel();
        let mut process = Process::watched(command, move |line| {
            if let Some(address) = announced(line) {
                let _ = found.send(address);
            }
        })?;
        // Also ends when both outputs do, that is, when the child has died.
        match address.recv_timeout(timeout) {
            Ok(address) => Ok(Server { process, address }),
            Err(_) => {
                let status = process.kill();
                let text =
                    format!("no address announced; {status:?}; output:\n{}", process.output().join("\n"));
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }

    /// The address it printed.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of its WebSocket endpoint.
    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The newest lines it printed.
    pub fn output(&self) -> Vec<String> {
        self.process.output()
    }

    /// Waits up to `timeout` until it has printed a line that contains `text`; whether it has.
    pub fn says(&self, text: &str, timeout: Duration) -> bool {
        self.process.says(text, timeout)
    }

    /// Kills it at once (SIGKILL) and waits for its end.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.process.kill()
    }

    /// Asks it to stop (SIGTERM) and waits up to `timeout`; past it, it is killed and the error is `TimedOut`.
    pub fn stop(&mut self, timeout: Duration) -> io::Result<ExitStatus> {
        self.process.stop(timeout)
    }
}

/// Lets this process have as many sockets as it may, up to 65,536: each client needs one.
pub fn raise_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let most = maximum.unwrap_or(u64::MAX).min(65_536);
    if current.is_some_and(|current| current < most) {
        // If it may not, connections fail later and the report says so.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum });
    }
}

fn announced(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(ANNOUNCEMENT)?;
    let rest = rest.trim_start_matches("http://").trim_start_matches("ws://");
    let end = rest.find(|c: char| c.is_whitespace() || c == '/' || c == ',').unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn it_reads_the_address_and_stops() {
        let script = "echo starting; echo 'INFO listening on 127.0.0.1:4711 (ws)' >&2; exec sleep 1000";
        let mut server = Server::start(&mut shell(script), Duration::from_secs(20)).unwrap();
        assert_eq!(server.url(), "ws://127.0.0.1:4711/ws");
        assert!(server.output().iter().any(|l| l.contains("4711")));
        assert!(server.says("starting", Duration::from_secs(20)));
        assert!(!server.says("something else", Duration::ZERO));
        let status = server.stop(Duration::from_secs(20)).unwrap();
        assert!(!status.success());
    }

    #[test]
    fn a_child_that_dies_is_reported_with_what_it_said() {
        let e = Server::start(&mut shell("echo no such file; exit 3"), Duration::from_secs(20)).unwrap_err();
        assert!(e.to_string().contains("no such file"), "{e}");
    }

    #[test]
    fn a_dropped_server_is_dead() {
        let server =
            Server::start(&mut shell("echo listening on [::1]:1; exec sleep 1000"), Duration::from_secs(20))
                .unwrap();
        let pid = Pid::from_raw(server.id() as i32).unwrap();
        drop(server);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }

    #[test]
    fn who_waits_for_a_line_of_the_dead_does_not_wait_on() {
        let mut process = Process::start(&mut shell("echo one")).unwrap();
        assert!(process.says("one", Duration::from_secs(20)));
        assert!(!process.says("two", Duration::from_secs(3600)));
        assert!(process.wait(Duration::from_secs(20)).unwrap().success());
    }
}
