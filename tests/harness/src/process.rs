//! A server as a child process, and what this process may.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A running server, killed when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    output: Arc<Output>,
}

#[derive(Debug, Default)]
struct Output {
    lines: Mutex<VecDeque<String>>,
    more: Condvar,
}

/// The newest lines of output that are kept.
const LINES: usize = 1000;
const ANNOUNCEMENT: &str = "listening on ";

impl Server {
    /// Starts the command and waits up to `timeout` until it prints `listening on ADDRESS:PORT` on stdout or stderr.
    ///
    /// The command should ask for port 0. Both outputs are read to their ends; the newest 1,000 lines are kept.
    pub fn start(command: &mut Command, timeout: Duration) -> io::Result<Server> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let output = Arc::new(Output::default());
        let (found, address) = channel();
        for pipe in [
            child.stdout.take().map(|p| Box::new(p) as Box<dyn io::Read + Send>),
            child.stderr.take().map(|p| Box::new(p) as Box<dyn io::Read + Send>),
        ]
        .into_iter()
        .flatten()
        {
            let (output, found) = (output.clone(), found.clone());
            std::thread::spawn(move || {
                let mut lines = BufReader::new(pipe);
                let mut line = Vec::new();
                while matches!(lines.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                    let address = announced(&text);
                    if let Ok(mut lines) = output.lines.lock() {
                        if lines.len() == LINES {
                            lines.pop_front();
                        }
                        lines.push_back(text);
                    }
                    output.more.notify_all();
                    // Only now, so that whoever knows the address finds the line too.
                    if let Some(address) = address {
                        let _ = found.send(address);
                    }
                    line.clear();
                }
            });
        }
        drop(found);
        // From here on `Server` kills the child, whatever happens.
        let mut server = Server { child, address: SocketAddr::from(([0, 0, 0, 0], 0)), output };
        match wait(&address, timeout) {
            Some(address) => server.address = address,
            None => {
                let status = server.kill();
                let text =
                    format!("no address announced; {status:?}; output:\n{}", server.output().join("\n"));
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
        }
        Ok(server)
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
        self.child.id()
    }

    /// The newest lines it printed.
    pub fn output(&self) -> Vec<String> {
        self.output.lines.lock().map(|o| o.iter().cloned().collect()).unwrap_or_default()
    }

    /// Waits up to `timeout` until it has printed a line that contains `text`; whether it has.
    pub fn says(&self, text: &str, timeout: Duration) -> bool {
        let unsaid = |lines: &mut VecDeque<String>| !lines.iter().any(|line| line.contains(text));
        let Ok(lines) = self.output.lines.lock() else { return false };
        self.output
            .more
            .wait_timeout_while(lines, timeout, unsaid)
            .is_ok_and(|(_, waited)| !waited.timed_out())
    }

    /// Kills it at once (SIGKILL) and waits for its end.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Asks it to stop (SIGTERM) and waits up to `timeout`; past it, it is killed and the error is `TimedOut`.
    pub fn stop(&mut self, timeout: Duration) -> io::Result<ExitStatus> {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32)
            && self.child.try_wait()?.is_none()
        {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.kill()?;
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the server did not stop in time and was killed",
                ));
            }
            // There is no portable wait with a timeout; this bounds only how late the end is noticed.
            std::thread::sleep(Duration::from_millis(5));
        }
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

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn announced(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(ANNOUNCEMENT)?;
    let rest = rest.trim_start_matches("http://").trim_start_matches("ws://");
    let end = rest.find(|c: char| c.is_whitespace() || c == '/' || c == ',').unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

fn wait(address: &Receiver<SocketAddr>, timeout: Duration) -> Option<SocketAddr> {
    // Also ends when both outputs do, that is, when the child has died.
    address.recv_timeout(timeout).ok()
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
        let pid = rustix::process::Pid::from_raw(server.id() as i32).unwrap();
        drop(server);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }
}
