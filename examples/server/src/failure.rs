//! Why the program ends without success, and with which status.

use std::fmt;

/// A text for people and the status to exit with.
#[derive(Debug)]
pub struct Failure {
    status: u8,
    text: String,
}

impl Failure {
    /// Something failed at run time: status 1.
    pub fn run(text: impl Into<String>) -> Failure {
        Failure { status: 1, text: text.into() }
    }

    /// An argument or setting is wrong: status 2.
    pub fn usage(text: impl Into<String>) -> Failure {
        Failure { status: 2, text: text.into() }
    }

    /// The status to exit with.
    pub fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
