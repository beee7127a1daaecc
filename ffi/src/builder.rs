//! Settings and start.
//!
//! A builder gathers settings and hooks, and starts one engine. The settings are those of docs/configuration.md, with the same keys as
//! in a file: `klatch_builder_set(builder, klatch_str("limits.publish_rate"), klatch_str("20"))`. What is not set has its default.

use crate::engine::{self, klatch_engine_t};
use crate::error::klatch_error_t;
use crate::guard::{self, guard, may_wait};
use crate::handle::{self, handle};
use crate::hook::Hooks;
use crate::text::{Out, klatch_str_t};
use klatch::{Builder, Code, Engine, Error, Result, Settings};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An engine that is to be started. Freed by klatch_builder_start() or klatch_builder_free(). For one thread at a time.
#[derive(Debug)]
pub struct klatch_builder_t {
    _opaque: [u8; 0],
}

/// What a builder has gathered.
#[derive(Default)]
pub(crate) struct Gathered {
    settings: Settings,
    page: Option<String>,
    pub(crate) hooks: Hooks,
}

handle!(klatch_builder_t, Mutex<Gathered>, "builder");

pub(crate) fn lock(gathered: &Mutex<Gathered>) -> MutexGuard<'_, Gathered> {
    gathered.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to configure an engine. Gives a builder; never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn klatch_builder_new() -> *mut klatch_builder_t {
    guard::tell_panics();
    handle::give::<klatch_builder_t>(Arc::default())
}

/// Where messages are kept: a directory, "memory", or a Kafka topic, "kafka://host:port/topic". Default "klatch-data".
///
/// Borrows `log`.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_builder_log(
    builder: *mut klatch_builder_t,
    log: klatch_str_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (log, builder) = unsafe { (log.name("log")?, handle::get(builder)?) };
        lock(&builder).settings.log = log.into();
        Ok(())
    })
}

/// Adds an address to listen on, "host:port" or "[ipv6]:port"; port 0 picks a free one. Without one there is no listener.
///
/// Borrows `address`. Whether it can be used is seen at the start.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_builder_listen(
    builder: *mut klatch_builder_t,
    address: klatch_str_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (address, builder) = unsafe { (address.name("address")?, handle::get(builder)?) };
        lock(&builder).settings.listen.push(address.into());
        Ok(())
    })
}

/// The HTML page at "/". Default: none.
///
/// Borrows `html`.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_builder_page(
    builder: *mut klatch_builder_t,
    html: klatch_str_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (html, builder) = unsafe { (html.long("html")?, handle::get(builder)?) };
        lock(&builder).page = Some(html.into());
        Ok(())
    })
}

/// Sets one key, "limits.publish_rate" for instance, from text: digits (times are in milliseconds where the key ends in _ms, sizes in bytes
/// where it ends in _bytes), "true" or "false", text as it is, or a list with commas between its items. A key that begins with
/// "kafka.properties." is librdkafka's.
///
/// Borrows `key` and `value`. Errors: invalid_config for a key that is not there or a value of another kind; the error never repeats the
/// value.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_builder_set(
    builder: *mut klatch_builder_t,
    key: klatch_str_t,
    value: klatch_str_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (key, value, builder) =
            unsafe { (key.name("key")?, value.long("value")?, handle::get(builder)?) };
        lock(&builder).settings.set(key, value)
    })
}

/// Replaces all settings by those of a TOML file's text.
///
/// Borrows `toml`. Errors: invalid_config, with the line.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_builder_toml(
    builder: *mut klatch_builder_t,
    toml: klatch_str_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (toml, builder) = unsafe { (toml.long("toml")?, handle::get(builder)?) };
        lock(&builder).settings = from_toml(toml)?;
        Ok(())
    })
}

/// Replaces all settings by those of a JSON object with the same keys.
///
/// Borrows `json`. Errors: invalid_config.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_builder_json(
    builder: *mut klatch_builder_t,
    json: klatch_str_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (json, builder) = unsafe { (json.long("json")?, handle::get(builder)?) };
        lock(&builder).settings = Settings::from_json(json)?;
        Ok(())
    })
}

fn from_toml(text: &str) -> Result<Settings> {
    let value: serde_json::Value = toml::from_str(text).map_err(|e| {
        let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Error::new(Code::InvalidConfig, format!("line {line}: {}", e.message()))
    })?;
    Settings::from_json(&value.to_string())
}

/// Opens the log, binds the addresses, starts the engine's threads, and waits for all of that.
///
/// Takes `builder`, also if it fails. Gives the engine; it is freed with klatch_engine_free(). Errors: invalid_config, data_dir_locked,
/// data_dir_unusable, address_unusable; internal where the system refuses a thread or a descriptor; would_deadlock where it must not wait.
/// What had begun has ended when an error is returned. A log with damage that nobody has accepted starts: it can be read, publishes fail
/// with log_damaged.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_builder_start(
    builder: *mut klatch_builder_t,
    out_engine: *mut *mut klatch_engine_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointer is what the header asks for. Taken first, so that it is taken whatever happens.
        let taken = unsafe { handle::take(builder) };
        // SAFETY: as above.
        let out = unsafe { Out::new(out_engine, "out_engine") }?;
        may_wait()?;
        let gathered = match taken {
            Some(gathered) => std::mem::take(&mut *lock(&gathered)),
            // SAFETY: as above; the error says whether it is NULL or was freed.
            None => return unsafe { handle::get(builder) }.map(drop),
        };
        let Gathered { settings, page, hooks } = gathered;
        let mut builder: Builder = Engine::builder().settings(settings);
        if let Some(page) = page {
            builder = builder.page(&page);
        }
        let (builder, hooks) = hooks.hand_over(builder)?;
        out.fill(engine::give(builder.start()?, hooks));
        Ok(())
    })
}

/// Frees a builder that is not to be started. It may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_builder_free(builder: *mut klatch_builder_t) {
    // SAFETY: the caller's pointer is what the header asks for.
    guard::value((), || drop(unsafe { handle::take(builder) }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_and_its_faults() {
        let s = from_toml("log = \"memory\"\n[limits]\npublish_rate = 3\n").unwrap();
        assert_eq!((&*s.log, s.limits.publish_rate), ("memory", 3));
        let e = from_toml("log = \"memory\"\n[limits\n").unwrap_err();
        assert!(e.code() == Code::InvalidConfig && e.message().starts_with("line 2"), "{e}");
        let e = from_toml("[limits]\npublish_rate = \"x9secret\"\n").unwrap_err();
        assert!(!e.message().contains("x9secret"), "{e}");
        assert!(from_toml("[limits]\npublish_rat = 1\n").is_err());
    }
}
