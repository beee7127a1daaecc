//! `klatch-server replay`.

use crate::cli::Replay;
use crate::failure::Failure;
use crate::progress::Bar;
use crate::{files, say, signals};
use klatch::{Engine, Settings};
use klatch_harness::replay::{self, Corpus, Options, Speed};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// Plays, checks, reports.
pub fn run(args: &Replay) -> Result<(), Failure> {
    let corpus = Corpus::load(&args.file)
        .map_err(|e| Failure::usage(format!("cannot read {}: {e}", args.file.display())))?;
    let own = if args.url.is_none() { Some(Own::start(args)?) } else { None };
    let url = match (&args.url, &own) {
        (Some(url), _) => url.clone(),
        (None, own) => own.as_ref().map(Own::url).unwrap_or_default(),
    };
    let defaults = Options::new(url);
    let options = Options {
        speed: args.speed,
        limit: args.limit,
        drops_per_1000: args.drops_per_1000,
        duplicate_every: args.duplicate_every,
        seed: args.seed.unwrap_or(defaults.seed),
        log_dir: own.as_ref().and_then(|own| own.dir.clone()),
        listeners: args.listeners,
        per_sender: args.per_sender,
        publish_rate: args.publish_rate.unwrap_or(if own.is_some() { 0 } else { defaults.publish_rate }),
        ..defaults
    };
    if options.per_sender && args.speed == Speed::Max {
        tracing::debug!("one connection for all rooms of a sender: rooms wait for each other");
    }
    let mut bar = Bar::new();
    let report = replay::run(corpus, &options, |p| bar.show(p))
        .map_err(|e| Failure::usage(format!("cannot replay against {}: {e}", options.url)));
    drop(bar);
    let stopped = own.map_or(Ok(()), Own::stop);
    let report = report?;
    if args.json {
        say(format_args!("{}\n", report.json()));
    } else {
        say(format_args!("{report}\n"));
    }
    if !report.ok() {
        return Err(Failure::run(format!("something is wrong; to repeat it: --seed {}", report.seed)));
    }
    stopped
}

/// An engine in this process.
struct Own {
    engine: Engine,
    dir: Option<PathBuf>,
    temporary: Option<TempDir>,
}

impl Own {
    fn start(args: &Replay) -> Result<Own, Failure> {
        files::raise();
        let temporary = match args.log {
            Some(_) => None,
            None => {
                let made = tempfile::Builder::new().prefix("klatch-replay-").tempdir();
                Some(made.map_err(|e| Failure::run(format!("cannot make a temporary directory: {e}")))?)
            }
        };
        let dir = match (&args.log, &temporary) {
            (Some(log), _) if log == "memory" => None,
            (Some(log), _) => Some(PathBuf::from(log)),
            (None, temporary) => temporary.as_ref().map(|t| t.path().to_owned()),
        };
        let mut settings = Settings::default();
        settings.log = dir.as_ref().map_or("memory".into(), |d| d.to_string_lossy().into_owned());
        settings.listen = vec!["127.0.0.1:0".into()];
        // All clients are on this machine, and the engine is what is tried, not its limits.
        settings.limits.connections_per_address = 0;
        settings.limits.publish_rate = 0;
        settings.limits.request_rate = 0;
        let engine = Engine::builder().settings(settings).start().map_err(|e| Failure::run(e.to_string()))?;
        if let Some(temporary) = &temporary {
            let path = temporary.path().to_owned();
            let stop = signals::catch().map_err(|e| Failure::run(format!("cannot catch signals: {e}")))?;
            // Ends with the process; the directory should not stay behind.
            std::thread::spawn(move || {
                if let Ok(signal) = stop.recv() {
                    let _ = std::fs::remove_dir_all(&path);
                    std::process::exit(signal.status());
                }
            });
        }
        Ok(Own { engine, dir, temporary })
    }

    fn url(&self) -> String {
        self.engine.addresses().first().map(|a| format!("ws://{a}/ws")).unwrap_or_default()
    }

    fn stop(self) -> Result<(), Failure> {
        let stopped = self.engine.stop(Duration::from_secs(10));
        drop(self.temporary);
        stopped.map(drop).map_err(|e| Failure::run(format!("the engine did not stop well: {e}")))
    }
}
