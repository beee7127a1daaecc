//! Support for the tests in this crate.
