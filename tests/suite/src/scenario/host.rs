//! What the host program does: the verbs of the API, whatever language it is in.

use super::World;
use super::pattern::{fill, matches};
use crate::ws::PATIENCE;
use klatch::Settings;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A host program with an engine in it.
pub trait Host {
    /// Starts an engine, with the hooks that the README describes or without any.
    fn start(&mut self, settings: &Settings, hooks: bool) -> Result<(), String>;
    /// Stops it, if it runs. What it had can still be read.
    fn stop(&mut self) -> Result<(), String>;
    /// The first address that it listens on.
    fn address(&self) -> Result<SocketAddr, String>;
    /// Does one of the README's verbs, and returns its result. In place of the publications that are expected, `next` is told how many.
    fn call(&mut self, verb: &str, args: &[Value]) -> Result<Value, String>;
}

impl World {
    pub(super) fn host(&mut self, verb: &str, args: &[Value]) -> Result<(), String> {
        match (verb, args) {
            ("stop", []) => self.host.stop(),
            ("start", []) => self.start(),
            ("restart", []) => {
                self.host.stop()?;
                self.start()
            }
            ("repeat", [times, Value::Array(steps)]) => {
                for n in 0..times.as_u64().unwrap_or_default() {
                    for step in steps {
                        let step = step.as_array().ok_or("a step is an array")?;
                        self.step(step).map_err(|e| format!("turn {n}: {e}"))?;
                    }
                }
                Ok(())
            }
            // What the engine does by the clock: asked again until it is so.
            ("history_eventually" | "presence_eventually", args) => {
                let verb = verb.trim_end_matches("_eventually");
                let until = Instant::now() + PATIENCE;
                loop {
                    let vars = self.vars.clone();
                    match self.host(verb, args) {
                        Err(_) if Instant::now() < until => self.vars = vars,
                        result => return result,
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            // The last argument is what is expected.
            ("next", [name, expected @ Value::Array(all)]) => {
                let got = self.host.call(verb, &[name.clone(), all.len().into()])?;
                matches(expected, &got, &mut self.vars)
            }
            ("events" | "next_nothing", args) => self.host.call(verb, args).map(drop),
            ("event", [expected]) => {
                let got = self.host.call(verb, &[])?;
                matches(expected, &got, &mut self.vars)
            }
            ("next_ended", [name, why]) => {
                let got = self.host.call(verb, std::slice::from_ref(name))?;
                matches(why, &got, &mut self.vars)
            }
            (_, args) => {
                let count = if verb == "subscribe" { 2 } else { 1 };
                let (given, expected) = args.split_at_checked(count).ok_or("an argument is missing")?;
                let given = given.iter().map(|arg| fill(arg, &self.vars)).collect::<Result<Vec<_>, _>>()?;
                let got = self.host.call(verb, &given)?;
                self.expected(expected.first(), got)
            }
        }
    }

    /// Without an expectation a verb must succeed.
    fn expected(&mut self, expected: Option<&Value>, got: Value) -> Result<(), String> {
        match expected {
            Some(expected) => matches(expected, &got, &mut self.vars),
            None if got.get("error").is_some() => Err(format!("failed: {got}")),
            None => Ok(()),
        }
    }
}
