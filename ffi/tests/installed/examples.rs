//! The examples, built by the commands in their first comments, and used over real sockets.

use crate::common::crate_dir;
use crate::{folder, prefix, with_prefix};
use klatch_harness::client::{Client, Failure, JoinOptions, Outcome};
use klatch_harness::process::Server;
use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Against hanging; nothing here is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// An example, built as it says itself.
struct Example {
    dir: TempDir,
    name: &'static str,
}

impl Example {
    fn build(path: &'static str) -> Example {
        let source = crate_dir().join("../examples").join(path);
        let text = fs::read_to_string(&source).unwrap();
        let command = text
            .lines()
            .filter_map(|l| l.strip_prefix(" *     "))
            .find(|l| l.contains("pkg-config"))
            .unwrap();
        assert!(text.lines().count() < 150, "{path} is to be short");
        let dir = folder();
        fs::copy(&source, dir.path().join(source.file_name().unwrap())).unwrap();
        // As its readers type it, with warnings as errors.
        let strict = format!("{command} -Wall -Wextra -Wpedantic -Werror");
        let output = with_prefix("sh").args(["-c", &strict]).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{strict}: {}", String::from_utf8_lossy(&output.stderr));
        let name = Path::new(path).file_stem().unwrap().to_str().unwrap();
        Example { dir, name }
    }

    fn start(&self) -> Server {
        let program: PathBuf = self.dir.path().join(self.name);
        let mut command: Command = with_prefix(program);
        command.args(["127.0.0.1:0", "chat-data"]).current_dir(self.dir.path());
        Server::start(&mut command, PATIENCE).unwrap()
    }
}

/// Ctrl-C, after which it must end by itself, and well.
fn interrupt(server: &mut Server) {
    let pid = Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert!(server.says("stopped", PATIENCE), "{:?}", server.output());
    let status = server.stop(PATIENCE).unwrap();
    assert!(status.success(), "{status}: {:?}", server.output());
}

fn enter(server: &Server, user: &str, token: &str) -> Result<Client, Failure> {
    let mut client = Client::connect(&format!("{}?token={token}", server.url()), user)?;
    client.set_timeout(PATIENCE);
    Ok(client)
}

/// Reads frames until one has this in it. Pings of the server do not put the end off.
fn expect(client: &mut Client, part: &str) {
    let until = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while Instant::now() < until {
        let (_, text) = client.take().unwrap_or_else(|e| panic!("no {part}, but {e}, after {seen:?}"));
        if text.contains(part) {
            return;
        }
        seen.push(text);
    }
    panic!("no {part} in time, but {seen:?}");
}

fn history(count: u32) -> JoinOptions {
    JoinOptions { history: count, ..JoinOptions::default() }
}

/// The chat server does what its comment says, and Ctrl-C loses nothing.
fn chat(path: &'static str) {
    let example = Example::build(path);
    let mut server = example.start();
    match enter(&server, "ann", "banana") {
        Err(Failure::Closed(code, _)) => assert_eq!(code, 4501),
        other => panic!("let in with a wrong token: {:?}", other.err()),
    }
    assert!(enter(&server, "eve", "apple").is_err());
    let mut ann = enter(&server, "ann", "apple").unwrap();
    assert!(ann.join("lobby", history(20)).unwrap());
    assert!(matches!(ann.publish("lobby", "1", r#""hello""#).unwrap(), Outcome::Stored { .. }));
    // What comes of it is not what was sent, so that it shows in the room and not as the answer to this client's message.
    ann.begin("lobby", "2", r#""darn it, darn""#).unwrap();
    expect(&mut ann, r#""data":"**** it, ****""#);
    let mut bob = enter(&server, "bob", "banana").unwrap();
    bob.join("lobby", history(20)).unwrap();
    expect(&mut bob, r#""data":"hello""#);
    expect(&mut bob, r#""data":"**** it, ****""#);
    // The host has read along.
    assert!(server.says(r#"ann: "hello""#, PATIENCE), "{:?}", server.output());
    assert!(server.says(r#"ann: "**** it, ****""#, PATIENCE), "{:?}", server.output());
    interrupt(&mut server);
    let end = loop {
        if let Err(end) = bob.take() {
            break end;
        }
    };
    assert!(matches!(end, Failure::Closed(4000..=4499, _)), "told to come back, not: {end}");

    let mut server = example.start();
    assert!(
        server.says(r#"ann: "hello""#, PATIENCE),
        "the reader begins with what was said: {:?}",
        server.output()
    );
    let mut bob = enter(&server, "bob", "banana").unwrap();
    bob.join("lobby", history(20)).unwrap();
    expect(&mut bob, r#""data":"hello""#);
    interrupt(&mut server);
}

#[test]
fn chat_in_c() {
    chat("c/chat.c");
}

#[test]
fn chat_in_cpp() {
    chat("cpp/chat.cpp");
}

/// R22: clients that reset their connections while the server answers, or hands them what others say, do not end a host that has never
/// heard of SIGPIPE.
#[test]
fn r22_clients_that_reset_end_no_host() {
    let example = Example::build("c/chat.c");
    let mut server = example.start();
    let join = || {
        let mut ann = enter(&server, "ann", "apple").unwrap();
        ann.join("lobby", history(0)).unwrap();
        ann
    };
    let mut ann = join();
    for n in 0..1000 {
        // Nobody may publish as much on one connection.
        if n % 20 == 19 {
            ann = join();
        }
        let mut socket = TcpStream::connect(server.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        if n % 2 == 0 {
            socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        } else {
            let path = "/ws?room=lobby&history=20&user=bob&token=banana";
            let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
            let head = "Host: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: klatch.v1\r\n";
            write!(socket, "GET {path} HTTP/1.1\r\n{head}{key}\r\n").unwrap();
            let mut first = [0; 12];
            socket.read_exact(&mut first).unwrap();
            assert_eq!(&first, b"HTTP/1.1 101");
        }
        ann.begin("lobby", &format!("r{n}"), "1").unwrap();
        // A reset in place of an end: what the server still writes fails at once.
        set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
        drop(socket);
    }
    assert!(matches!(join().publish("lobby", "last", r#""still here""#).unwrap(), Outcome::Stored { .. }));
    assert!(server.says("still here", PATIENCE));
    interrupt(&mut server);
}

#[test]
fn a_loop_of_the_hosts_own() {
    let example = Example::build("c/epoll.c");
    let mut server = example.start();
    let mut ann = enter(&server, "ann", "").unwrap();
    ann.join("lobby", history(0)).unwrap();
    expect(&mut ann, r#""welcome""#);
    assert!(server.says("ann has joined lobby", PATIENCE), "{:?}", server.output());
    for n in 0..100 {
        ann.begin("lobby", &format!("m{n}"), &n.to_string()).unwrap();
    }
    assert!(server.says("ann: 99", PATIENCE), "{:?}", server.output());
    let said: Vec<String> = server.output().into_iter().filter(|l| l.starts_with("ann: ")).collect();
    let expected: Vec<String> = (0..100).map(|n| format!("ann: {n}")).collect();
    assert_eq!(said, expected);
    ann.cut();
    assert!(server.says("ann has left lobby", PATIENCE), "{:?}", server.output());
    interrupt(&mut server);
}

/// What the README tells its readers to type.
#[test]
fn the_commands_of_the_readme_are_these() {
    let readme = fs::read_to_string(crate_dir().join("../README.md")).unwrap();
    let part = readme.split("## From C and C++").nth(1).unwrap().split("\n## ").next().unwrap();
    let commands = part.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let script: String = commands
        .lines()
        // Installing is what `prefix` does, without building once more; and the server would not end.
        .filter(|l| !l.starts_with("ffi/install") && !l.starts_with("/tmp/chat"))
        .map(|l| {
            l.replace("/opt/klatch", prefix().to_str().unwrap()).replace("/tmp/chat", "$OUT/chat") + "\n"
        })
        .collect();
    let dir = folder();
    let output = Command::new("sh")
        .args(["-e", "-c", &script])
        .env("OUT", dir.path())
        .current_dir(crate_dir().join(".."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(dir.path().join("chat").exists(), "{script}");
}
