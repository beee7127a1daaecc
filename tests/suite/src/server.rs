//! The real server as a child process.

use klatch_harness::process::Server;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

/// Names another `klatch-server` to test.
pub const BINARY: &str = "KLATCH_SERVER";

/// How long a start or a stop may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// The program `klatch-server`: what `KLATCH_SERVER` names, else the one of the same profile as the running test.
///
/// # Panics
/// If there is none, or if it is older than the sources that it was built from: a test of a stale program shows nothing.
pub fn server_binary() -> PathBuf {
    if let Some(path) = std::env::var_os(BINARY) {
        return path.into();
    }
    let test = std::env::current_exe().unwrap_or_else(|e| panic!("where am I? {e}"));
    // target/<profile>/deps/<test>
    let profile = test.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    let binary = profile.join(format!("klatch-server{}", std::env::consts::EXE_SUFFIX));
    let build = if profile.ends_with("release") {
        "cargo build --release -p klatch-server"
    } else {
        "cargo build -p klatch-server"
    };
    let Some(built) = modified(&binary) else {
        panic!("{} is missing. Build it first: {build}", binary.display());
    };
    for source in sources(&profile.join("klatch-server.d")) {
        // A source that is gone has been edited away since.
        if modified(&source).is_none_or(|edited| edited > built) {
            panic!("{} is older than {}. Build it: {build}", binary.display(), source.display());
        }
    }
    binary
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|m| m.modified()).ok()
}

/// The sources that cargo noted beside the program, as a rule for make: `program: source source`.
fn sources(note: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(note).unwrap_or_default();
    let Some((_, list)) = text.split_once(": ") else { return Vec::new() };
    list.trim_end().replace("\\ ", "\0").split(' ').map(|s| s.replace('\0', " ").into()).collect()
}

/// How to start the server: on a free port of 127.0.0.1, without limits on what one connection or address may send.
#[derive(Clone, Debug)]
pub struct Launch {
    under: Vec<String>,
    args: Vec<String>,
    listen: String,
}

impl Launch {
    /// With its log in this directory.
    pub fn new(log: &Path) -> Launch {
        let launch = Launch { under: Vec::new(), args: Vec::new(), listen: "127.0.0.1:0".into() };
        launch
            .arg("--log")
            .arg(log.display())
            .set("limits.publish_rate", 0)
            .set("limits.request_rate", 0)
            .set("limits.connections_per_address", 0)
    }

    /// On this address.
    pub fn listen(mut self, address: impl ToString) -> Launch {
        self.listen = address.to_string();
        self
    }

    /// Run by another program, such as `unshare`, which becomes the server: it must `exec`.
    pub fn under(mut self, program: &[&str]) -> Launch {
        self.under = program.iter().map(ToString::to_string).collect();
        self
    }

    /// With a setting by its key.
    pub fn set(self, key: &str, value: impl ToString) -> Launch {
        self.arg("--set").arg(format!("{key}={}", value.to_string()))
    }

    /// With another argument.
    pub fn arg(mut self, arg: impl ToString) -> Launch {
        self.args.push(arg.to_string());
        self
    }

    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// If it does not within three minutes: with what it said.
    pub fn start(&self) -> Server {
        self.try_start().unwrap_or_else(|e| panic!("the server did not start: {e}"))
    }

    /// [`Launch::start`] with the error.
    pub fn try_start(&self) -> std::io::Result<Server> {
        Server::start(&mut self.command(), PATIENCE)
    }

    /// Starts it and does not wait, nor read what it says. The caller ends it.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn spawn(&self) -> Child {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap_or_else(|e| panic!("cannot run the server: {e}"))
    }

    /// Runs it to its end, which is expected to come by itself, and returns what it said.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn run(&self) -> Output {
        run(&mut self.command())
    }

    fn command(&self) -> Command {
        let server = server_binary();
        let mut command = match &self.under[..] {
            [] => clean(Command::new(server)),
            [program, args @ ..] => {
                let mut command = clean(Command::new(program));
                command.args(args).arg(server);
                command
            }
        };
        command.args(&self.args).args(["--listen", &self.listen]);
        command
    }
}

/// Runs `klatch-server verify` on a log's directory.
///
/// # Panics
/// If it cannot be run.
pub fn verify(log: &Path) -> Output {
    run(command().arg("verify").arg(log))
}

/// Stops a server in order.
///
/// # Panics
/// If it does not stop within three minutes, or says that it did not stop well.
pub fn stop(mut server: Server) {
    let status = server.stop(PATIENCE).unwrap_or_else(|e| panic!("{e}\n{}", server.output().join("\n")));
    assert!(status.success(), "{status}\n{}", server.output().join("\n"));
}

fn command() -> Command {
    clean(Command::new(server_binary()))
}

fn clean(mut command: Command) -> Command {
    // What steers a test is no setting of the server.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KLATCH_") {
            command.env_remove(name);
        }
    }
    command
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("cannot run the server: {e}"))
}
