//! The scenarios in `tests/scenarios`: named transcripts that every face of klatch must produce. Their README says what each
//! word means; this is the runner for the Rust crate.

mod client;
mod hooks;
mod host;
mod pattern;
mod rust;

use client::Client;
pub use host::Host;
use klatch::Settings;
use pattern::Vars;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// A file of scenarios.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// What they are about.
    #[allow(dead_code, reason = "for people")]
    about: String,
    scenarios: Vec<Scenario>,
}

/// One scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name, unique in its file.
    pub name: String,
    /// What it shows, where the name does not say it.
    #[serde(default)]
    #[allow(dead_code, reason = "for people")]
    about: String,
    /// Settings that differ from the defaults.
    #[serde(default)]
    settings: Value,
    /// Whether the engine has the hooks that the README describes.
    #[serde(default)]
    hooks: bool,
    /// The kinds of log that it can run on.
    #[serde(default)]
    only: Option<Only>,
    steps: Vec<Vec<Value>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Only {
    One(Kind),
    These(Vec<Kind>),
}

/// Where the engine keeps its messages.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A directory.
    Embedded,
    /// Memory.
    Memory,
    /// A topic of a Kafka cluster.
    Kafka,
}

/// All scenarios of a directory with their full names: file and name.
pub fn load(dir: &Path) -> Result<Vec<(String, Scenario)>, String> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .map_err(|e| format!("{}: {e}", dir.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    let mut all: Vec<(String, Scenario)> = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let file: File = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        let topic = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for scenario in file.scenarios {
            let name = format!("{topic}/{}", scenario.name.replace(' ', "_"));
            if all.iter().any(|(other, _)| *other == name) {
                return Err(format!("two scenarios are called {name}"));
            }
            all.push((name, scenario));
        }
    }
    Ok(all)
}

/// The engine under test and everybody who talks to it.
struct World {
    settings: Settings,
    hooks: bool,
    host: Box<dyn Host>,
    clients: HashMap<String, Client>,
    vars: Vars,
}

impl Scenario {
    /// Whether it can run on this kind of log.
    pub fn runs_on(&self, kind: Kind) -> bool {
        match &self.only {
            None => true,
            Some(Only::One(only)) => *only == kind,
            Some(Only::These(only)) => only.contains(&kind),
        }
    }

    /// Plays it; the error tells the step that failed and why. `topic` is the address of an empty topic of its own, on Kafka.
    pub fn run(&self, kind: Kind, topic: Option<&str>, shards: usize) -> Result<(), String> {
        self.run_on(Box::<rust::Rust>::default(), kind, topic, shards)
    }

    /// The same with a host program of another language.
    pub fn run_on(
        &self,
        host: Box<dyn Host>,
        kind: Kind,
        topic: Option<&str>,
        shards: usize,
    ) -> Result<(), String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let mut settings: Settings = match &self.settings {
            Value::Null => Settings::default(),
            given => serde_json::from_value(given.clone()).map_err(|e| format!("settings: {e}"))?,
        };
        settings.shards = shards;
        settings.listen = vec!["127.0.0.1:0".into()];
        settings.log = match kind {
            Kind::Memory => "memory".into(),
            Kind::Embedded => dir.path().join("log").to_string_lossy().into_owned(),
            Kind::Kafka => topic.ok_or("no topic")?.into(),
        };
        // Few partitions are quickly made.
        settings.kafka.partitions = 3;
        settings.kafka.view_dir = dir.path().join("view").to_string_lossy().into_owned();
        if kind == Kind::Kafka {
            // A cluster that has just been started, on a machine with other things to do, may take long to take the first message.
            settings.limits.publish_timeout_ms = 60_000;
            settings.kafka.message_timeout_ms = 50_000;
        }
        let mut world =
            World { settings, hooks: self.hooks, host, clients: HashMap::new(), vars: Vars::default() };
        world.start()?;
        for (i, step) in self.steps.iter().enumerate() {
            world.step(step).map_err(|e| {
                let step = serde_json::to_string(step).unwrap_or_default();
                let step: String = step.chars().take(300).collect();
                format!("step {}: {step}\n    {e}", i + 1)
            })?;
        }
        world.end()
    }
}

impl World {
    fn start(&mut self) -> Result<(), String> {
        self.host.start(&self.settings, self.hooks)
    }

    fn end(&mut self) -> Result<(), String> {
        let mut unread = Vec::new();
        for (name, client) in &mut self.clients {
            client.end().map_err(|e| format!("at the end, {name}: {e}")).unwrap_or_else(|e| unread.push(e));
        }
        self.clients.clear();
        self.host.stop()?;
        if unread.is_empty() { Ok(()) } else { Err(unread.join("\n    ")) }
    }

    fn step(&mut self, step: &[Value]) -> Result<(), String> {
        let [Value::String(who), Value::String(verb), args @ ..] = step else {
            return Err("a step is [who, verb, ...]".into());
        };
        match who.as_str() {
            "host" => self.host(verb, args),
            "http" => self.http(verb, args),
            name => self.client(name, verb, args),
        }
    }

    fn http(&mut self, verb: &str, args: &[Value]) -> Result<(), String> {
        let ("get", [path, status, expected @ ..]) = (verb, args) else {
            return Err("http knows only get PATH STATUS [PATTERN]".into());
        };
        let path = pattern::fill_text(path, &self.vars)?;
        let address = self.address()?;
        let answer = crate::ws::get(address, &path).map_err(|e| e.to_string())?;
        if Some(u64::from(answer.status)) != status.as_u64() {
            return Err(format!("got status {}: {}", answer.status, answer.body));
        }
        match expected.first() {
            None => Ok(()),
            Some(Value::String(part)) if answer.body.contains(part.as_str()) => Ok(()),
            Some(Value::String(_)) => Err(format!("got {}", answer.body)),
            Some(expected) => {
                let got = serde_json::from_str(&answer.body).map_err(|e| format!("{e}: {}", answer.body))?;
                pattern::matches(expected, &got, &mut self.vars)
            }
        }
    }

    fn address(&self) -> Result<std::net::SocketAddr, String> {
        self.host.address()
    }
}
