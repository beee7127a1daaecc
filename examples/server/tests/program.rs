//! The program as an operator meets it: started on a free port, stopped, started wrongly.
#![allow(clippy::unwrap_used)]

use klatch_harness::client::{Client, JoinOptions};
use klatch_harness::http;
use klatch_harness::process::Server;
use klatch_harness::target::Target;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Long enough for a busy machine; nothing here waits for it to pass.
const LONG: Duration = Duration::from_secs(60);

/// The program without the environment's settings.
fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_klatch-server"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KLATCH_") {
            command.env_remove(name);
        }
    }
    command.args(args);
    command
}

fn start(args: &[&str]) -> Server {
    Server::start(&mut program(args), LONG).unwrap()
}

/// Runs the program to its end, which must come by itself.
fn run(args: &[&str]) -> Output {
    finish(&mut program(args))
}

fn finish(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    let (ended, end) = channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if end.recv_timeout(LONG) == Err(RecvTimeoutError::Timeout) {
            kill_process(pid, Signal::KILL).unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    watchdog.join().unwrap();
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs the program, which must refuse with this status and say all of this on stderr.
#[track_caller]
fn refuses(args: &[&str], status: i32, parts: &[&str]) {
    let output = run(args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{args:?} says {said:?}, not {part:?}");
    }
    assert!(!text(&output.stdout).contains("listening on"), "{args:?}");
}

fn get(server: &Server, path: &str) -> (u16, String) {
    http::get(&Target { address: server.address(), path: path.into() }).unwrap()
}

fn stop(mut server: Server) -> Vec<String> {
    let status = server.stop(LONG).unwrap();
    assert_eq!(status.code(), Some(0), "{:?}", server.output());
    server.output()
}

fn publish(server: &Server, room: &str, count: usize) {
    let mut client = Client::connect(&server.url(), "ann").unwrap();
    client.join(room, JoinOptions::default()).unwrap();
    for n in 0..count {
        client.publish(room, &format!("m{n}"), &format!("{{\"text\":\"number {n}\"}}")).unwrap();
    }
}

fn dir(dir: &tempfile::TempDir, name: &str) -> String {
    dir.path().join(name).to_str().unwrap().to_owned()
}

#[test]
fn it_serves_stops_and_finds_its_log_again() {
    let temp = tempfile::tempdir().unwrap();
    let log = dir(&temp, "data");
    let args = ["--listen", "127.0.0.1:0", "--log", &log];
    let server = start(&args);

    let (status, page) = get(&server, "/");
    assert!(status == 200 && page.starts_with("<!doctype html>") && page.contains("class Room"), "{status}");
    assert_eq!(get(&server, "/healthz"), (200, "ok\n".into()));
    assert_eq!(get(&server, "/readyz"), (200, "ready\n".into()));
    assert!(get(&server, "/metrics").1.contains("klatch_"));
    let (status, history) = get(&server, "/rooms/x/history");
    assert!(status == 200 && history.contains(r#""publications":[]"#), "{status} {history}");

    publish(&server, "x", 3);
    let (_, history) = get(&server, "/rooms/x/history");
    assert_eq!(history.matches(r#""type":"publication""#).count(), 3, "{history}");
    let said = stop(server);
    assert!(said.iter().any(|l| l.contains("messages are kept in") && l.contains("data")), "{said:?}");
    assert!(said.iter().any(|l| l.contains("in two tabs")), "{said:?}");
    assert!(!said.iter().any(|l| l.contains("number 0")), "a message's text in the output: {said:?}");

    let again = start(&args);
    assert_eq!(get(&again, "/rooms/x/history").1, history);
    let said = stop(again);
    assert!(
        !said.iter().any(|l| l.contains("WARN") && !l.contains("files") || l.contains("ERROR")),
        "{said:?}"
    );
}

#[test]
fn two_addresses_one_of_them_ipv6() {
    let server = start(&["serve", "--listen", "[::1]:0", "--listen", "127.0.0.1:0", "--log", "memory"]);
    assert!(server.address().is_ipv6());
    assert_eq!(get(&server, "/healthz").0, 200);
    publish(&server, "x", 1);
    let said = stop(server);
    let lines: Vec<_> = said.iter().filter(|l| l.starts_with("listening on http://")).collect();
    assert!(lines.len() == 2 && lines[0].starts_with("listening on http://[::1]:"), "{said:?}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut server = start(&["--listen", "127.0.0.1:0", "--log", "memory", "--stop-timeout", "1h"]);
    // A client that does not answer the close: the engine waits for it for a while.
    let mut client = TcpStream::connect(server.address()).unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    write!(
        client,
        "GET /ws?room=x&user=ann HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .unwrap();
    let mut until = |word: &str| {
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        while !String::from_utf8_lossy(&seen).contains(word) {
            let n = client.read(&mut buffer).unwrap();
            assert!(n > 0, "closed before {word:?}: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..n]);
        }
    };
    until("joined");
    let pid = Pid::from_raw(server.id().cast_signed()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    until("disconnect");
    let status = server.stop(LONG).unwrap();
    assert_eq!(status.code(), Some(143), "{:?}", server.output());
}

#[test]
fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refuses(&["--listen", &address, "--log", "memory"], 1, &[&address, "the port is in use"]);
    // The default port: taken now, by us or by whoever has it.
    let _taken = TcpListener::bind("127.0.0.1:8080");
    let parts = ["127.0.0.1:8080 is the default address", "klatch-server --listen 127.0.0.1:0"];
    refuses(&["--log", "memory"], 1, &parts);
}

#[test]
fn a_directory_that_another_process_has() {
    let temp = tempfile::tempdir().unwrap();
    let log = dir(&temp, "data");
    let args = ["--listen", "127.0.0.1:0", "--log", &log];
    let mut server = start(&args);
    refuses(&args, 1, &[&format!("process {}", server.id()), "--log DIR"]);
    assert_eq!(get(&server, "/readyz").0, 200);
    server.kill().unwrap();
    // The lock ends with its holder.
    stop(start(&args));
}

#[test]
fn a_directory_that_cannot_be() {
    let temp = tempfile::tempdir().unwrap();
    let file = dir(&temp, "file");
    std::fs::write(&file, "").unwrap();
    // The test may run as root, whom permissions do not stop; but nobody can make these.
    for log in [format!("{file}/data"), "/proc/klatch".into()] {
        refuses(&["--listen", "127.0.0.1:0", "--log", &log], 1, &[&log, "--log memory"]);
    }
}

/// On a file system of its own, where the system lets users make one.
#[test]
fn a_full_disk() {
    let temp = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=64k tmpfs \"$1\" && cd \"$1\" || exit 77
        head -c 1000000 /dev/zero > fill 2> /dev/null
        exec \"$2\" --listen 127.0.0.1:0 --log data";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    command.arg(temp.path()).arg(env!("CARGO_BIN_EXE_klatch-server"));
    if !Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "true"])
        .output()
        .is_ok_and(|o| o.status.success())
    {
        eprintln!("not tried: no file system can be made here");
        return;
    }
    let output = finish(&mut command);
    let said = text(&output.stderr);
    if output.status.code() == Some(77) {
        eprintln!("not tried: {said}");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no room on the log's disk") && said.contains("Make room on the disk"), "{said}");
}

#[test]
fn wrong_arguments_and_settings() {
    let temp = tempfile::tempdir().unwrap();
    let file = dir(&temp, "klatch.toml");
    std::fs::write(&file, "[limits]\npublish_rat = 1\n").unwrap();
    refuses(&["--config", &file], 2, &["klatch.toml:2", "did you mean `limits.publish_rate`?"]);
    refuses(&["--set", "limits.message_bytes=0"], 2, &["limits.message_bytes must be between"]);
    refuses(&["--listn", "127.0.0.1:0"], 2, &["--listn", "--listen"]);
    refuses(&["--log-level", "loud"], 2, &["loud", "warn"]);
    refuses(&["--log", "kafka://ann:secret@localhost/chats", "--listen", "127.0.0.1:0"], 2, &["kafka"]);
    let output = finish(program(&[]).env("KLATCH_LIMITS__PUBLISH_RAT", "1"));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("did you mean KLATCH_LIMITS__PUBLISH_RATE?"));
}

#[test]
fn the_environment_and_what_is_printed_of_it() {
    let output = finish(program(&["--print-config", "--shards", "3"]).env("KLATCH_LOG", "elsewhere"));
    assert_eq!(output.status.code(), Some(0));
    let printed: toml::Table = text(&output.stdout).parse().unwrap();
    assert_eq!(printed["log"].as_str(), Some("elsewhere"));
    assert_eq!(printed["shards"].as_integer(), Some(3));
    assert_eq!(printed["listen"][0].as_str(), Some("127.0.0.1:8080"));
}

#[test]
fn help_names_every_flag() {
    let help = text(&run(&["--help"]).stdout);
    for word in [
        "Network",
        "--listen",
        "--origin",
        "--shards",
        "Log:",
        "--log ",
        "--retain-bytes",
        "--retain-age",
        "--accept-damage",
        "Settings",
        "--config",
        "--set",
        "--print-config",
        "--log-level",
        "--stop-timeout",
        "verify",
        "replay",
        "Examples:",
        "KLATCH_LISTEN",
        "default: 127.0.0.1:8080",
    ] {
        assert!(help.contains(word), "no {word:?} in the help: {help}");
    }
    for command in ["serve", "verify", "replay"] {
        assert_eq!(run(&[command, "--help"]).status.code(), Some(0));
    }
    assert!(text(&run(&["--version"]).stdout).contains(env!("CARGO_PKG_VERSION")));
}

/// A log with messages in rooms x and z, stopped in order. Returns its one segment's path.
fn some_log(log: &str) -> std::path::PathBuf {
    let server = start(&["--listen", "127.0.0.1:0", "--log", log]);
    publish(&server, "x", 3);
    publish(&server, "z", 2);
    stop(server);
    let segments: Vec<_> = std::fs::read_dir(log).unwrap().map(|e| e.unwrap().path()).collect();
    let segments: Vec<_> =
        segments.into_iter().filter(|p| p.extension().is_some_and(|e| e == "log")).collect();
    assert_eq!(segments.len(), 1);
    segments[0].clone()
}

/// Changes a letter of room x's first message.
fn damage(segment: &Path) {
    let bytes = std::fs::read(segment).unwrap();
    let at = bytes.windows(8).position(|w| w == b"number 0").unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).open(segment).unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(b"N").unwrap();
}

#[test]
fn verifying_a_sound_and_a_damaged_log() {
    let temp = tempfile::tempdir().unwrap();
    let log = dir(&temp, "data");
    let segment = some_log(&log);
    let sound = run(&["verify", &log]);
    assert_eq!(sound.status.code(), Some(0), "{}", text(&sound.stderr));
    assert!(text(&sound.stdout).contains("5 records"), "{}", text(&sound.stdout));
    let json: serde_json::Value = serde_json::from_slice(&run(&["verify", &log, "--json"]).stdout).unwrap();
    assert_eq!(json["records"], 5);

    damage(&segment);
    let damaged = run(&["verify", &log]);
    assert_eq!(damaged.status.code(), Some(1));
    assert!(text(&damaged.stdout).contains("DAMAGE: "), "{}", text(&damaged.stdout));
    assert!(text(&damaged.stderr).contains("--accept-damage"));
    let json = run(&["verify", &log, "--json"]);
    assert_eq!(json.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["damage"][0]["missing"], serde_json::json!([[1, 1]]));

    let empty = dir(&temp, "empty");
    std::fs::create_dir(&empty).unwrap();
    refuses(&["verify", &empty], 1, &["there is no log here"]);
    refuses(&["verify", &dir(&temp, "nowhere")], 1, &["nowhere"]);
}

#[test]
fn a_damaged_log_is_served_and_takes_nothing_until_that_is_accepted() {
    let temp = tempfile::tempdir().unwrap();
    let log = dir(&temp, "data");
    let segment = some_log(&log);
    damage(&segment);
    let args = ["--listen", "127.0.0.1:0", "--log", &log];

    let server = start(&args);
    assert_eq!(get(&server, "/readyz"), (503, "log_damaged\n".into()));
    assert_eq!(get(&server, "/healthz").0, 200);
    let (_, history) = get(&server, "/rooms/z/history");
    assert!(history.contains("number 0") && history.contains("number 1"), "{history}");
    // The view was made before the damage and had a row for the record that is lost: the room's others could not be read.
    let (status, history) = get(&server, "/rooms/x/history");
    assert_eq!(status, 200, "{history}");
    assert!(
        !history.contains("number 0") && history.contains("number 1") && history.contains("number 2"),
        "{history}"
    );
    let said = stop(server).join("\n");
    let segment = segment.file_name().unwrap().to_str().unwrap();
    for part in [
        "IS DAMAGED",
        &format!("{segment} bytes"),
        "lost sequences 1",
        "klatch-server verify",
        "--accept-damage",
    ] {
        assert!(said.contains(part), "{said}");
    }

    let server = start(&[&args[..], &["--accept-damage"]].concat());
    assert_eq!(get(&server, "/readyz").0, 200);
    publish(&server, "y", 1);
    let said = stop(server).join("\n");
    assert!(!said.contains("IS DAMAGED"), "{said}");
    // It stays accepted.
    let server = start(&args);
    assert_eq!(get(&server, "/readyz").0, 200);
    assert!(get(&server, "/rooms/y/history").1.contains("number 0"));
    assert!(get(&server, "/rooms/x/history").1.contains("number 2"));
    stop(server);
    assert_eq!(run(&["verify", &log]).status.code(), Some(0));
}

#[test]
fn a_replay_in_this_process_and_against_a_server() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/irc.jsonl");
    let temp = tempfile::tempdir().unwrap();
    let log = dir(&temp, "data");
    let flags = ["--limit", "60", "--drops-per-1000", "50", "--duplicate-every", "10", "--json"];
    let output = run(&[&["replay", corpus, "--log", &log][..], &flags].concat());
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["acked"], 60);
    assert!(report["verdict"]["counts"]["duplicates"].as_u64() > Some(0), "{report}");
    assert_eq!(output.stderr, b"", "no progress where stderr is no terminal");

    let server = start(&["--listen", "127.0.0.1:0", "--log", "memory"]);
    let output = run(&["replay", corpus, "--url", &server.url(), "--speed", "500", "--limit", "40"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("40 acked"), "{}", text(&output.stdout));
    stop(server);

    refuses(&["replay", "/no/such/file"], 2, &["/no/such/file"]);
    refuses(&["replay", corpus, "--url", "http:/x"], 2, &["http:/x"]);
    refuses(&["replay", corpus, "--speed", "0"], 2, &["max"]);
    // Nothing listens there: port 1 is reserved.
    let output = run(&["replay", corpus, "--url", "ws://127.0.0.1:1/ws", "--limit", "1"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
}
