//! SIGTERM and SIGINT: the first asks the program to stop, the second ends it.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::mpsc::{Receiver, sync_channel};

/// A signal that asks the program to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop(i32);

impl Stop {
    /// Its name.
    pub fn name(self) -> &'static str {
        if self.0 == SIGINT { "SIGINT" } else { "SIGTERM" }
    }

    /// The status of a program that it ended, as a shell reports it.
    pub fn status(self) -> i32 {
        128 + self.0
    }
}

/// From now on the first of these signals comes out of the receiver, and the second ends the program at once. Until
/// this is called they end it as they always do, which no log minds.
pub fn catch() -> io::Result<Receiver<Stop>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let (tell, stop) = sync_channel(1);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for (n, signal) in signals.forever().map(Stop).enumerate() {
            if n > 0 || tell.send(signal).is_err() {
                std::process::exit(signal.status());
            }
        }
    })?;
    Ok(stop)
}
