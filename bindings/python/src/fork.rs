//! After `fork()` the child has the parent's handles but none of its threads: whoever waits for them waits for ever. So every handle
//! knows in which process it was made, and in another one it fails at once, and is not taken down.

use crate::error;
use pyo3::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many forks lie between the first process and this one.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// The generation of this process.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// What belongs to the process that it was made in. In a child it cannot be reached, and is never dropped: its destructor would wait for
/// threads that are not there.
pub struct Owned<T> {
    value: Option<T>,
    generation: u64,
}

impl<T> Owned<T> {
    /// Of this process.
    pub fn new(value: T) -> Owned<T> {
        Owned { value: Some(value), generation: generation() }
    }

    /// The value; an error in a child.
    pub fn get(&self) -> PyResult<&T> {
        match &self.value {
            Some(value) if self.generation == generation() => Ok(value),
            _ => Err(error::forked()),
        }
    }

    /// Takes the value out, if it is of this process.
    fn take(&mut self) -> Option<T> {
        let value = self.value.take()?;
        if self.generation == generation() {
            return Some(value);
        }
        std::mem::forget(value);
        None
    }

    /// Takes it down in another way than by dropping it here.
    pub fn give_up(&mut self, with: impl FnOnce(T)) {
        if let Some(value) = self.take() {
            with(value);
        }
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// Called in each child by `os.register_at_fork`.
#[pyfunction(name = "_forked")]
pub fn forked() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Has [`forked`] called.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let os = py.import("os")?;
    if !os.hasattr("register_at_fork")? {
        return Ok(());
    }
    let how = pyo3::types::PyDict::new(py);
    how.set_item("after_in_child", module.getattr("_forked")?)?;
    os.call_method("register_at_fork", (), Some(&how))?;
    Ok(())
}
