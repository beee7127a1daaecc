//! The effective settings: defaults, then a file, the environment, and flags, each winning over those before.

mod keys;
#[cfg(test)]
mod tests;

use crate::cli::Serve;
use crate::failure::Failure;
use crate::units;
use keys::Keys;
use klatch::config::Settings;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Where the server listens if nobody says.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8080";
const PREFIX: &str = "KLATCH_";
const STOP_TIMEOUT_MS: u64 = 10_000;

/// What the server is started with.
#[derive(Debug)]
pub struct Config {
    /// The engine's settings.
    pub settings: Settings,
    /// Whether nobody named an address.
    pub default_listen: bool,
    /// For the operator's log, once there is one.
    pub warnings: Vec<String>,
    /// The operator's log's level or filter.
    pub log_level: String,
    /// How long stopping may take.
    pub stop_timeout_ms: u64,
}

/// Puts the settings together.
pub fn load(args: &Serve, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Config, Failure> {
    let mut layers = Layers { keys: Keys::new(), table: Table::new() };
    let environment = Environment::read(env, &layers.keys)?;
    if let Some(path) = args.config.as_ref().or(environment.config.as_ref()) {
        layers.file(path)?;
    }
    for (variable, key, text) in &environment.settings {
        layers.text(variable, key, text)?;
    }
    for assignment in &args.set {
        let (key, text) = assignment.split_once('=').ok_or_else(|| {
            Failure::usage(format!("--set {assignment}: write KEY=VALUE, as in limits.publish_rate=0"))
        })?;
        let key = layers.keys.known(key.trim()).map_err(|e| Failure::usage(format!("--set: {e}")))?;
        layers.text("--set", &key, text.trim())?;
    }
    layers.flags(args)?;
    let default_listen = !layers.table.contains_key("listen");
    let mut settings: Settings =
        layers.table.try_into().map_err(|e: toml::de::Error| Failure::usage(e.to_string()))?;
    if default_listen {
        settings.listen = vec![DEFAULT_LISTEN.into()];
    }
    check_addresses(&settings.listen)?;
    Ok(Config {
        settings,
        default_listen,
        warnings: environment.warnings,
        log_level: args.log_level.clone().or(environment.log_level).unwrap_or_else(|| "info".into()),
        stop_timeout_ms: args.stop_timeout.or(environment.stop_timeout_ms).unwrap_or(STOP_TIMEOUT_MS),
    })
}

/// The settings that somebody named, so far.
struct Layers {
    keys: Keys,
    table: Table,
}

impl Layers {
    fn file(&mut self, path: &Path) -> Result<(), Failure> {
        let name = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::usage(format!("cannot read the settings in {name}: {e}")))?;
        let bad = |e: toml::de::Error| Failure::usage(format!("{name}: {}", e.to_string().trim_end()));
        // Unknown keys first: serde would name all the keys there are, and not the nearest.
        self.keys.check_file(&text).map_err(bad)?.map_err(|e| Failure::usage(format!("{name}:{e}")))?;
        toml::from_str::<Settings>(&text).map_err(bad)?;
        let table = text.parse::<Table>().map_err(bad)?;
        merge(&mut self.table, table);
        Ok(())
    }

    /// Sets a key that is known from text; `source` is for the error.
    fn text(&mut self, source: &str, key: &str, text: &str) -> Result<(), Failure> {
        let bad = |e: String| Failure::usage(format!("{source}: {key}: {e}"));
        let value = match self.keys.default(key) {
            Some(Value::Integer(_)) => {
                let number = if key.ends_with("_bytes") {
                    units::size(text)
                } else if key.ends_with("_ms") {
                    units::number(text).or_else(|_| units::time(text))
                } else {
                    units::number(text)
                };
                Value::Integer(number.map_err(bad)? as i64)
            }
            Some(Value::Boolean(_)) => {
                Value::Boolean(text.parse().map_err(|_| bad(format!("{text:?} is neither true nor false")))?)
            }
            Some(Value::Array(_)) => list(text.trim()).map_err(bad)?,
            _ => Value::String(text.into()),
        };
        self.set(source, key, value)
    }

    fn set(&mut self, source: &str, key: &str, value: Value) -> Result<(), Failure> {
        let path: Vec<&str> = key.split('.').collect();
        let leaf = path.iter().rev().skip(1).fold(
            Table::from_iter([(path.last().copied().unwrap_or_default().to_owned(), value)]),
            |inner, name| Table::from_iter([((*name).to_owned(), Value::Table(inner))]),
        );
        merge(&mut self.table, leaf);
        // Here, so that a number that is too large is blamed on where it came from.
        let checked: Result<Settings, toml::de::Error> = self.table.clone().try_into();
        checked.map(drop).map_err(|e| Failure::usage(format!("{source}: {key}: {}", e.message())))
    }

    fn flags(&mut self, args: &Serve) -> Result<(), Failure> {
        let strings = |list: &[String]| Value::Array(list.iter().cloned().map(Value::String).collect());
        if !args.listen.is_empty() {
            self.set("--listen", "listen", strings(&args.listen))?;
        }
        if !args.origin.is_empty() {
            self.set("--origin", "origins", strings(&args.origin))?;
        }
        if let Some(log) = &args.log {
            self.set("--log", "log", Value::String(log.clone()))?;
        }
        if args.accept_damage {
            self.set("--accept-damage", "storage.accept_damage", Value::Boolean(true))?;
        }
        for (flag, key, value) in [
            ("--shards", "shards", args.shards.map(|n| n as u64)),
            ("--retain-bytes", "storage.retain_bytes", args.retain_bytes),
            ("--retain-age", "storage.retain_age_ms", args.retain_age),
        ] {
            if let Some(value) = value {
                let value = i64::try_from(value).map_err(|_| Failure::usage(format!("{flag}: too large")))?;
                self.set(flag, key, Value::Integer(value))?;
            }
        }
        Ok(())
    }
}

/// What the environment says.
#[derive(Default)]
struct Environment {
    /// Variable, key, value.
    settings: Vec<(String, String, String)>,
    config: Option<PathBuf>,
    log_level: Option<String>,
    stop_timeout_ms: Option<u64>,
    warnings: Vec<String>,
}

impl Environment {
    /// A variable that begins like ours and names no setting is refused if it looks like one misspelt. Others are only
    /// warned about: a container platform may set some, such as `KLATCH_PORT` for a service named klatch.
    fn read(
        env: impl IntoIterator<Item = (OsString, OsString)>,
        keys: &Keys,
    ) -> Result<Environment, Failure> {
        let mut found = Environment::default();
        let mut ignored = Vec::new();
        let own = ["CONFIG", "LOG_LEVEL", "STOP_TIMEOUT"];
        let mut ours: Vec<(String, OsString)> = env
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_str()?.strip_prefix(PREFIX)?.to_owned(), value)))
            .collect();
        // So that of two errors always the same is reported.
        ours.sort();
        for (name, value) in ours {
            let variable = format!("{PREFIX}{name}");
            if name == "CONFIG" {
                found.config = Some(value.into());
                continue;
            }
            let key = name.to_ascii_lowercase().replace("__", ".");
            let known = keys.has(&key) && key.to_ascii_uppercase().replace('.', "__") == name;
            if !known && !own.contains(&name.as_str()) {
                match keys.meant(&key) {
                    Some(near) => {
                        let near = near.to_ascii_uppercase().replace('.', "__");
                        return Err(Failure::usage(format!(
                            "{variable} names no setting; did you mean {PREFIX}{near}?"
                        )));
                    }
                    None => ignored.push(variable),
                }
                continue;
            }
            let value =
                value.into_string().map_err(|_| Failure::usage(format!("{variable} is not UTF-8")))?;
            match name.as_str() {
                "LOG_LEVEL" => found.log_level = Some(value),
                "STOP_TIMEOUT" => {
                    let ms = units::time(&value).map_err(|e| Failure::usage(format!("{variable}: {e}")))?;
                    found.stop_timeout_ms = Some(ms);
                }
                _ => found.settings.push((variable, key, value)),
            }
        }
        if !ignored.is_empty() {
            found.warnings.push(format!("in the environment, {} names no setting", ignored.join(", ")));
        }
        Ok(found)
    }
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// A list as text: TOML's `["a", "b"]`, or `a,b`.
fn list(text: &str) -> Result<Value, String> {
    // An address such as [::1]:80 begins like a list and ends otherwise.
    if text.starts_with('[') && text.ends_with(']') {
        return text.parse::<Value>().map_err(|e| e.message().to_owned());
    }
    let items = text.split(',').map(str::trim).filter(|s| !s.is_empty());
    Ok(Value::Array(items.map(|s| Value::String(s.into())).collect()))
}

/// Refuses what cannot be an address, before anything is opened. Whether it can be bound is seen at the start.
fn check_addresses(listen: &[String]) -> Result<(), Failure> {
    if listen.is_empty() {
        return Err(Failure::usage("listen is empty: a server needs an address, such as 127.0.0.1:8080"));
    }
    for address in listen {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        let host_is_one = match host.strip_prefix('[') {
            Some(host) => host.strip_suffix(']').is_some_and(|h| h.parse::<std::net::Ipv6Addr>().is_ok()),
            None => !host.is_empty() && !host.contains([':', '/', ' ']),
        };
        if !host_is_one || port.parse::<u16>().is_err() {
            return Err(Failure::usage(format!(
                "{address:?} is no address to listen on; write HOST:PORT or [IPV6]:PORT, as in 127.0.0.1:8080, [::1]:8080"
            )));
        }
    }
    Ok(())
}
