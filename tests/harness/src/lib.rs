//! Client, replay, checker.
