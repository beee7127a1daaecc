//! Any text as the server's settings: a file, the environment, `--set` and flags, as `klatch-server` reads them.
//!
//! The input is one text of parts with a line `--` between them: the file, variables (`NAME=VALUE`), settings of `--set`,
//! addresses of `--listen`, origins of `--origin`. What is accepted is written and read again as the same, and an engine
//! starts with it.

#![no_main]

#[path = "../../../examples/server/src/config/mod.rs"]
mod config;
#[path = "../../../examples/server/src/failure.rs"]
#[allow(dead_code)]
mod failure;
#[path = "../../../examples/server/src/units.rs"]
mod units;

use cli::Serve;
use klatch::config::Settings;
use klatch::{Code, Engine, Message, fuzzing};
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::time::Duration;

/// What `config` takes of the command line.
mod cli {
    /// The flags of `serve`, as examples/server/src/cli.rs has them.
    #[derive(Debug, Default)]
    pub struct Serve {
        pub listen: Vec<String>,
        pub origin: Vec<String>,
        pub shards: Option<usize>,
        pub log: Option<String>,
        pub retain_bytes: Option<u64>,
        pub retain_age: Option<u64>,
        pub accept_damage: bool,
        pub config: Option<std::path::PathBuf>,
        pub set: Vec<String>,
        pub log_level: Option<String>,
        pub stop_timeout: Option<u64>,
    }
}

thread_local! {
    /// The file of settings, written anew for each input.
    static FILE: RefCell<tempfile::NamedTempFile> =
        RefCell::new(tempfile::NamedTempFile::new().expect("a temporary file"));
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.split("\n--\n");
    let file = parts.next().unwrap_or_default();
    let mut lines = || parts.next().unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    let env = lines();
    let env =
        env.iter().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into()));
    // A file that the environment names could be any of this machine.
    let env: Vec<_> = env.filter(|(name, _)| name != "KLATCH_CONFIG").collect();
    let mut args = Serve { set: lines(), listen: lines(), origin: lines(), ..Serve::default() };
    let loaded = FILE.with_borrow_mut(|temporary| {
        std::fs::write(temporary.path(), file).expect("a temporary file can be written");
        temporary.flush().expect("a temporary file can be written");
        args.config = Some(temporary.path().into());
        config::load(&args, env)
    });
    match loaded {
        Ok(loaded) => {
            assert!(!loaded.settings.listen.is_empty());
            let _ = (loaded.default_listen, loaded.warnings, loaded.log_level, loaded.stop_timeout_ms);
            accepted(&loaded.settings);
        }
        Err(failure) => {
            assert_eq!(failure.status(), 2, "{failure}");
            assert!(!failure.to_string().is_empty());
        }
    }
    if let Ok(settings) = toml::from_str::<Settings>(file) {
        accepted(&settings);
    }
});

/// Settings that could be read: they are refused with a reason, or an engine starts with them.
fn accepted(settings: &Settings) {
    let written = toml::to_string(settings).expect("numbers from TOML are numbers of TOML");
    assert_eq!(toml::from_str::<Settings>(&written).as_ref(), Ok(settings), "{written}");
    if let Err(e) = fuzzing::check(settings) {
        assert_eq!(e.code(), Code::InvalidConfig, "{e}");
        assert!(!e.message().is_empty());
        return;
    }
    // Starting takes a thousand times as long as reading, and most inputs differ in little: one in sixteen, always the same.
    let mut hasher = DefaultHasher::new();
    written.hash(&mut hasher);
    if !hasher.finish().is_multiple_of(16) {
        return;
    }
    let mut settings = settings.clone();
    // No input shall write to this disk, listen on this machine, or start a thousand threads.
    (settings.log, settings.listen, settings.shards) = ("memory".into(), Vec::new(), settings.shards.min(2));
    let engine = Engine::builder().settings(settings).start().expect("settings that were checked");
    match engine.publish(Message::json("lobby", "1")).wait() {
        Ok(ack) => assert_eq!(ack.position.offset, 1),
        // A limit may be smaller than this message, a queue have no room for it, and its time be over at once.
        Err(e) => assert!(e.code() != Code::Internal, "{e}"),
    }
    engine.stop(Duration::from_secs(60)).expect("an engine stops");
}
