//! `klatch-server serve`.

use crate::cli::Serve;
use crate::config::{self, Config, DEFAULT_LISTEN};
use crate::failure::Failure;
use crate::{files, say, signals};
use klatch::config::Settings;
use klatch::{Code, Engine, Error, Health};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

const PAGE: &str = include_str!("../page.html");
/// Most damaged ranges that the warning at start names; `verify` names all.
const RANGES: usize = 10;

/// Serves until a signal asks it to stop.
pub fn run(args: &Serve) -> Result<(), Failure> {
    let config = config::load(args, std::env::vars_os())?;
    if args.print_config {
        let text = toml::to_string(&config.settings).map_err(|e| Failure::run(e.to_string()))?;
        say(text);
        return Ok(());
    }
    log_to_stderr(&config.log_level)?;
    config.warnings.iter().for_each(|text| tracing::warn!("{text}"));
    files::tell_if_few(files::raise(), config.settings.limits.connections);
    let engine = Engine::builder()
        .settings(config.settings.clone())
        .page(PAGE)
        .start()
        .map_err(|e| explain(&e, &config))?;
    let stop = signals::catch().map_err(|e| Failure::run(format!("cannot catch signals: {e}")))?;
    say(greeting(engine.addresses(), &config.settings.log));
    if engine.health() == Health::LogDamaged {
        tracing::error!("{}", damaged(&config.settings));
    }
    match stop.recv() {
        Ok(signal) => tracing::info!("{}: stopping", signal.name()),
        Err(_) => tracing::error!("signals are no longer caught; stopping"),
    }
    let stopped = engine.stop(Duration::from_millis(config.stop_timeout_ms));
    let stopped = stopped.map_err(|e| Failure::run(format!("the engine did not stop well: {e}")))?;
    match stopped.unwritten {
        0 => Ok(()),
        n => Err(Failure::run(format!(
            "{n} messages were not written within the stop timeout; their senders have been told"
        ))),
    }
}

fn log_to_stderr(level: &str) -> Result<(), Failure> {
    let words = ["off", "error", "warn", "info", "debug", "trace"];
    let bad = || Failure::usage(format!("log level {level:?} is none; write one of {}", words.join(", ")));
    if !level.contains('=') && !words.contains(&level) {
        // The filter would take any other word for the name of a module.
        return Err(bad());
    }
    let filter = EnvFilter::try_new(level).map_err(|_| bad())?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    Ok(())
}

fn greeting(addresses: &[SocketAddr], log: &str) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for address in addresses {
        let _ = writeln!(text, "listening on http://{address}/");
    }
    let _ = match log {
        "memory" => writeln!(text, "messages are kept in memory and end with this process"),
        kafka if kafka.contains("://") => writeln!(text, "messages are kept in the Kafka topic {kafka}"),
        dir => {
            let dir = Path::new(dir);
            let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
            writeln!(text, "messages are kept in {}", dir.display())
        }
    };
    if let Some(first) = addresses.first() {
        let host = match first {
            a if !a.ip().is_unspecified() => a.ip().to_string(),
            _ => "localhost".to_owned(),
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let _ = writeln!(text, "open http://{host}:{}/ in two tabs and chat; Ctrl-C stops", first.port());
    }
    text
}

/// Why the engine did not start, and what to do about it.
fn explain(e: &Error, config: &Config) -> Failure {
    let settings = &config.settings;
    let log = if settings.log.contains("://") { &settings.kafka.view_dir } else { &settings.log };
    let todo = match e.code() {
        Code::InvalidConfig => return Failure::usage(e.to_string()),
        Code::AddressUnusable if config.default_listen => {
            return Failure::run(format!(
                "{}\n  {DEFAULT_LISTEN} is the default address. Name another one, as in\n    klatch-server --listen 127.0.0.1:8081\n  \
                 or let the system choose a free port:\n    klatch-server --listen 127.0.0.1:0",
                e.message()
            ));
        }
        Code::DataDirUnusable if settings.log.contains("://") => format!(
            "Each node has a directory of its own for its view, here {log}; name one with --set kafka.view_dir=DIR, or memory to \
             read the topic again at every start."
        ),
        Code::Unavailable => {
            "Do the brokers run, and can this machine reach the addresses that they advertise?".to_owned()
        }
        Code::DataDirLocked => format!(
            "Only one process may have a log open. Stop that one, or keep this server's messages elsewhere: --log DIR ({log} \
             is in use)."
        ),
        Code::DataDirUnusable => format!(
            "The log's directory, {log}, must be on a disk that can be written, and belong to this user. Name another one \
             with --log DIR, or --log memory to keep nothing."
        ),
        Code::StorageFull => {
            format!("Make room on the disk that has {log}, or name another directory with --log DIR.")
        }
        Code::StorageFailed => {
            format!("The disk that has {log} failed. See the system's log, then: klatch-server verify {log}")
        }
        _ => return Failure::run(e.to_string()),
    };
    Failure::run(format!("{}\n  {todo}", e.message()))
}

/// What an operator must know about a damaged log. Reads it once more to name the ranges.
fn damaged(settings: &Settings) -> String {
    let log = &settings.log;
    let mut text = format!(
        "THE LOG IN {log} IS DAMAGED: history can be read, but no message is stored until you decide."
    );
    match klatch::log::verify(Path::new(log)) {
        Ok(report) => {
            for damage in report.damage.iter().take(RANGES) {
                let _ = write!(text, "\n  {damage}");
            }
            if report.damage.len() > RANGES {
                let _ = write!(text, "\n  and {} more", report.damage.len() - RANGES);
            }
        }
        Err(e) => {
            let _ = write!(text, "\n  (it cannot be read again to say where: {e})");
        }
    }
    let _ = write!(
        text,
        "\n  Look at all of it: klatch-server verify {log}\n  Then stop this server, and restore the log from a copy, or start \
         with --accept-damage to go on without what is lost."
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings() {
        let addresses = ["127.0.0.1:80".parse().unwrap(), "[::1]:81".parse().unwrap()];
        let text = greeting(&addresses, "memory");
        assert!(text.starts_with(
            "listening on http://127.0.0.1:80/\nlistening on http://[::1]:81/\nmessages are kept in memory"
        ));
        assert!(text.contains("open http://127.0.0.1:80/ in two tabs"));
        assert!(greeting(&addresses, "kafka://h/t").contains("in the Kafka topic kafka://h/t\n"));
        assert!(greeting(&["0.0.0.0:9".parse().unwrap()], "memory").contains("open http://localhost:9/"));
        assert!(greeting(&addresses[1..], "memory").contains("open http://[::1]:81/"));
    }
}
