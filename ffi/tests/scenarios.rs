//! Plays every scenario of `tests/scenarios` on an engine that a C program embeds: `tests/c/scenario_host.c`, which is told what to do a line at
//! a time.
#![allow(clippy::unwrap_used)]

mod common;

use common::Program;
use klatch::Settings;
use klatch_suite::runner::{self, Test};
use klatch_suite::scenario::{self, Host, Kind};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, ExitCode, Stdio};

/// The C program with the engine in it.
struct InC {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    address: Option<SocketAddr>,
}

impl InC {
    fn new(program: &Program) -> InC {
        let mut command = program.command();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        InC { child, input, output, address: None }
    }

    fn ask(&mut self, fields: &[&[u8]]) -> Result<Value, String> {
        let mut line = String::new();
        for (i, field) in fields.iter().enumerate() {
            if i > 0 {
                line.push('\t');
            }
            for byte in *field {
                match byte {
                    b' '..=b'$' | b'&'..=b'~' => line.push(char::from(*byte)),
                    _ => write!(line, "%{byte:02x}").unwrap(),
                }
            }
        }
        line.push('\n');
        let input = self.input.as_mut().ok_or("the host program has ended")?;
        input.write_all(line.as_bytes()).map_err(|e| format!("the host program: {e}"))?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).map_err(|e| e.to_string())?;
        if answer.is_empty() {
            return Err("the host program ended".into());
        }
        let mut answer = serde_json::from_str(&answer).map_err(|e| format!("{e}: {answer}"))?;
        publications(&mut answer);
        Ok(answer)
    }

    fn ask_texts(&mut self, fields: &[&str]) -> Result<Value, String> {
        self.ask(&fields.iter().map(|f| f.as_bytes()).collect::<Vec<_>>())
    }

    /// A verb with a message.
    fn message(&mut self, verb: &str, message: &Value) -> Result<Value, String> {
        let field = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
        let (kind, data) = match message["bytes"].as_str() {
            Some(bytes) => ("1", base64(bytes)),
            None => ("0", message["data"].to_string().into_bytes()),
        };
        let (room, user, id) = (field("room"), field("user"), field("id"));
        self.ask(&[verb.as_bytes(), room.as_bytes(), user.as_bytes(), id.as_bytes(), kind.as_bytes(), &data])
    }
}

impl Host for InC {
    fn start(&mut self, settings: &Settings, hooks: bool) -> Result<(), String> {
        let settings = serde_json::to_string(settings).map_err(|e| e.to_string())?;
        let answer = self.ask_texts(&["start", &settings, if hooks { "1" } else { "0" }])?;
        let address = answer.as_str().ok_or_else(|| format!("start: {answer}"))?;
        self.address = Some(address.parse().map_err(|_| format!("start: {answer}"))?);
        Ok(())
    }

    fn stop(&mut self) -> Result<(), String> {
        match self.ask_texts(&["stop"])? {
            Value::Null => Ok(()),
            other => Err(format!("stop: {other}")),
        }
    }

    fn address(&self) -> Result<SocketAddr, String> {
        self.address.ok_or_else(|| "the engine is not running".into())
    }

    fn call(&mut self, verb: &str, args: &[Value]) -> Result<Value, String> {
        let field = |i: usize, name: &str| match args.get(i).map(|arg| &arg[name]) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        };
        let text = |i: usize| args.get(i).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |i: usize, name: &str, default: &str| match field(i, name).as_str() {
            "" => default.to_owned(),
            given => given.to_owned(),
        };
        match verb {
            "publish" => self.message(verb, &args[0]),
            "publish_batch" => {
                for message in args[0].as_array().into_iter().flatten() {
                    self.message("add", message)?;
                }
                self.ask_texts(&[verb])
            }
            "subscribe" => {
                let how = if args[1]["since"].is_null() { "" } else { "since" };
                let (since, history) = (number(1, "since", "0"), number(1, "history", "0"));
                self.ask_texts(&[
                    verb,
                    &text(0),
                    &field(1, "room"),
                    how,
                    &field(1, "epoch"),
                    &since,
                    &history,
                ])
            }
            "next" => self.ask_texts(&[verb, &text(0), &args[1].to_string()]),
            "next_nothing" | "next_ended" | "presence" => self.ask_texts(&[verb, &text(0)]),
            "events" | "event" => self.ask_texts(&[verb]),
            "history" => {
                let backward = if args[0]["backward"] == true { "1" } else { "0" };
                let (after, before) = (number(0, "after", "0"), number(0, "before", "0"));
                let (limit, at_least) = (number(0, "limit", "50"), number(0, "at_least", "0"));
                self.ask_texts(&[verb, &field(0, "room"), &after, &before, &limit, backward, &at_least])
            }
            "signal" => {
                let data = args[0]["data"].to_string();
                self.ask_texts(&[verb, &field(0, "room"), &field(0, "user"), &field(0, "name"), &data])
            }
            "send" => {
                let data = args[0]["data"].to_string();
                self.ask_texts(&[verb, &field(0, "connection"), &field(0, "name"), &data])
            }
            "kick" if args[0]["user"].is_string() => {
                self.ask_texts(&["kick_user", &field(0, "user"), &field(0, "room")])
            }
            "kick" => self.ask_texts(&["kick_connection", &field(0, "connection"), &field(0, "room")]),
            other => Err(format!("the host does not {other}")),
        }
    }
}

impl Drop for InC {
    fn drop(&mut self) {
        // Its input ends, and so does it.
        self.input = None;
        let status = self.child.wait();
        assert!(std::thread::panicking() || status.is_ok_and(|s| s.success()), "the host program failed");
    }
}

/// Gives the data of publications the form that it has in scenarios.
fn publications(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(publications),
        Value::Object(map) => {
            if let Some(Value::String(raw)) = map.remove("raw") {
                let data = serde_json::from_str(&raw).unwrap_or_else(|_| "not representable".into());
                map.insert("data".into(), data);
            }
            if let Some(Value::String(hex)) = map.remove("hex") {
                let bytes: Vec<u8> = (0..hex.len())
                    .step_by(2)
                    .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
                    .collect();
                map.insert("bytes".into(), to_base64(&bytes).into());
            }
            if let Some(page) = map.get_mut("publications") {
                publications(page);
            }
        }
        _ => {}
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(text: &str) -> Vec<u8> {
    let digits = text.bytes().filter_map(|b| DIGITS.iter().position(|d| *d == b)).collect::<Vec<_>>();
    let mut out = Vec::new();
    for four in digits.chunks(4) {
        let bits = four.iter().fold(0, |bits, d| bits << 6 | d) << (6 * (4 - four.len()));
        out.extend(&(bits as u32).to_be_bytes()[1..four.len()]);
    }
    out
}

fn to_base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let bits =
            three.iter().chain([0, 0].iter()).take(3).fold(0usize, |bits, b| bits << 8 | usize::from(*b));
        for i in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * i) & 63];
            out.push(if i <= three.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

fn main() -> ExitCode {
    for (bytes, text) in
        [(&b""[..], ""), (b"a", "YQ=="), (b"ab", "YWI="), (b"abc", "YWJj"), (b"\0\xff", "AP8=")]
    {
        assert_eq!((to_base64(bytes).as_str(), base64(text).as_slice()), (text, bytes));
    }
    let scenarios = scenario::load(&klatch_suite::tests_dir().join("scenarios")).unwrap();
    let program = Program::build("scenario_host", &[]);
    let mut tests: Vec<Test<'_>> = Vec::new();
    for (kind, word) in [(Kind::Embedded, "embedded"), (Kind::Memory, "memory")] {
        for shards in [1, 2] {
            for (name, scenario) in scenarios.iter().filter(|(_, s)| s.runs_on(kind)) {
                let program = &program;
                let test = move || scenario.run_on(Box::new(InC::new(program)), kind, None, shards);
                tests.push((format!("c_{word}_{shards}::{name}"), Box::new(test)));
            }
        }
    }
    // They wait for sockets and syncs most of the time.
    runner::run(tests, 8)
}
