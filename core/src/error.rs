//! The one error type of the public API.

use crate::codes::{Code, Retry};
use crate::config::Limit;
use std::fmt;

/// A failed request: a code to act on, a text for people, and when to try again.
///
/// The text never holds message data, tokens or other users' names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    code: Code,
    message: Box<str>,
    retry_after_ms: u32,
    limit: Option<Limit>,
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a text that says what to do.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        let retry_after_ms = if code.retry() == Retry::Later { 1000 } else { 0 };
        Error { code, message: message.into().into_boxed_str(), retry_after_ms, limit: None }
    }

    /// The same with another hint when to retry, in milliseconds.
    pub fn after(mut self, ms: u32) -> Error {
        self.retry_after_ms = ms;
        self
    }

    /// The same as the refusal of a limit, which is counted where it is answered.
    pub(crate) fn at(mut self, limit: Limit) -> Error {
        self.limit = Some(limit);
        self
    }

    /// The limit that was passed, if one was.
    pub fn limit(&self) -> Option<Limit> {
        self.limit
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The class of the code: what to do.
    pub fn retry(&self) -> Retry {
        self.code.retry()
    }

    /// The text.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// When a retry may succeed, in milliseconds; 0 where retrying does not help by itself.
    pub fn retry_after_ms(&self) -> u32 {
        self.retry_after_ms
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Error {}
