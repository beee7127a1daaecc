//! Plays every scenario of `tests/scenarios` on an engine that a program of another language embeds. `KLATCH_SCENARIO_HOST` is the command
//! that starts it; it is told what to do, and answers, a line of JSON at a time. With `KLATCH_TEST_KAFKA`, the address of a cluster's topics
//! without a topic's name, on Kafka too. Arguments are filters as usual.
//!
//! A line is `[verb, argument, ...]`, with the verbs and arguments of the scenarios, and `start` with settings and whether there are hooks.
//! What JSON readers may round has another form: data is the text of its JSON, as `json`, and publications have it as `raw`; offsets beyond
//! 2^53 are texts. `reset` stops the engine, if one runs, and forgets the rest.

use klatch::Settings;
use klatch_suite::runner::{self, Test};
use klatch_suite::scenario::{self, Host, Kind};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};

/// A program with an engine in it.
struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Program {
    fn start(command: &str) -> Result<Program, String> {
        let mut words = command.split_whitespace();
        let mut command = Command::new(words.next().ok_or("KLATCH_SCENARIO_HOST names no command")?);
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| e.to_string())?;
        let (input, output) = (child.stdin.take(), child.stdout.take().ok_or("no output")?);
        Ok(Program { child, input, output: BufReader::new(output) })
    }

    fn ask(&mut self, line: &Value) -> Result<Value, String> {
        let input = self.input.as_mut().ok_or("the host program has ended")?;
        input.write_all(format!("{line}\n").as_bytes()).map_err(|e| format!("the host program: {e}"))?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).map_err(|e| e.to_string())?;
        if answer.is_empty() {
            return Err("the host program ended".into());
        }
        serde_json::from_str(&answer).map_err(|e| format!("{e}: {answer}"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Its input ends, and so does it.
        self.input = None;
        let _ = self.child.wait();
    }
}

/// Programs that wait for the next scenario.
static IDLE: Mutex<Vec<Program>> = Mutex::new(Vec::new());

fn idle() -> std::sync::MutexGuard<'static, Vec<Program>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A scenario's host.
struct Guest {
    program: Option<Program>,
    address: Option<SocketAddr>,
}

impl Guest {
    fn new(command: &str) -> Result<Guest, String> {
        let waiting = idle().pop();
        let program = waiting.map_or_else(|| Program::start(command), Ok)?;
        Ok(Guest { program: Some(program), address: None })
    }

    fn ask(&mut self, line: &Value) -> Result<Value, String> {
        let mut answer = self.program.as_mut().ok_or("there is no host program")?.ask(line)?;
        received(&mut answer);
        Ok(answer)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(mut program) = self.program.take()
            && program.ask(&json!(["reset"])).is_ok()
        {
            idle().push(program);
        }
    }
}

impl Host for Guest {
    fn start(&mut self, settings: &Settings, hooks: bool) -> Result<(), String> {
        let settings = serde_json::to_value(settings).map_err(|e| e.to_string())?;
        let answer = self.ask(&json!(["start", settings, hooks]))?;
        let address = answer.as_str().ok_or_else(|| format!("start: {answer}"))?;
        self.address = Some(address.parse().map_err(|_| format!("start: {answer}"))?);
        Ok(())
    }

    fn stop(&mut self) -> Result<(), String> {
        match self.ask(&json!(["stop"]))? {
            Value::Null => Ok(()),
            other => Err(format!("stop: {other}")),
        }
    }

    fn address(&self) -> Result<SocketAddr, String> {
        self.address.ok_or_else(|| "the engine is not running".into())
    }

    fn call(&mut self, verb: &str, args: &[Value]) -> Result<Value, String> {
        let mut line = vec![Value::from(verb)];
        line.extend(args.iter().map(sent));
        self.ask(&line.into())
    }
}

/// An argument in the form that nobody rounds.
fn sent(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(sent).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| match (key.as_str(), value) {
                ("data", value) => ("json".into(), value.to_string().into()),
                (_, Value::Number(n)) if n.as_u64().is_some_and(|n| n >= 1 << 53) => {
                    (key.clone(), n.to_string().into())
                }
                _ => (key.clone(), value.clone()),
            })
            .collect(),
        other => other.clone(),
    }
}

/// Gives the data of publications the form that it has in scenarios.
fn received(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(received),
        Value::Object(map) => {
            if let Some(Value::String(raw)) = map.remove("raw") {
                let data = serde_json::from_str(&raw).unwrap_or_else(|_| "not representable".into());
                map.insert("data".into(), data);
            }
            if let Some(page) = map.get_mut("publications") {
                received(page);
            }
        }
        _ => {}
    }
}

fn tests(command: &str, kafka: Option<&str>) -> Result<Vec<Test<'static>>, String> {
    let mut kinds = vec![(Kind::Embedded, "embedded"), (Kind::Memory, "memory")];
    kinds.extend(kafka.map(|_| (Kind::Kafka, "kafka")));
    let mut tests: Vec<Test<'static>> = Vec::new();
    for (kind, word) in kinds {
        for shards in [1, 2] {
            for (name, scenario) in scenario::load(&klatch_suite::tests_dir().join("scenarios"))? {
                if !scenario.runs_on(kind) {
                    continue;
                }
                let topic = kafka.map(|cluster| format!("{cluster}host-{}", tests.len()));
                let command = command.to_owned();
                let test = move || {
                    let host = Guest::new(&command)?;
                    scenario.run_on(Box::new(host), kind, topic.as_deref(), shards)
                };
                tests.push((format!("{word}_{shards}::{name}"), Box::new(test)));
            }
        }
    }
    Ok(tests)
}

fn main() -> ExitCode {
    let command = std::env::var("KLATCH_SCENARIO_HOST").unwrap_or_default();
    let kafka = std::env::var("KLATCH_TEST_KAFKA").ok();
    match tests(&command, kafka.as_deref()) {
        Ok(tests) => {
            // They wait for sockets, syncs and clusters most of the time.
            let end = runner::run(tests, 8);
            idle().clear();
            end
        }
        Err(e) => {
            let _ = writeln!(std::io::stdout(), "the scenarios cannot be read: {e}");
            ExitCode::FAILURE
        }
    }
}
