//! A line on the terminal that says how far a replay is.

use klatch_harness::replay::Progress;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stderr};

const WIDTH: u64 = 30;

/// The line. Nothing is shown where stderr is no terminal.
#[derive(Debug)]
pub struct Bar {
    shown: bool,
    terminal: bool,
}

impl Bar {
    /// A line that is not shown yet.
    pub fn new() -> Bar {
        Bar { shown: false, terminal: stderr().is_terminal() }
    }

    /// Shows how far it is.
    pub fn show(&mut self, p: &Progress) {
        if self.terminal {
            self.shown = true;
            // Back to the line's beginning, and clear the rest of it.
            let _ = write!(stderr(), "\r{}\x1b[K", line(p));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.shown {
            let _ = writeln!(stderr());
        }
    }
}

fn line(p: &Progress) -> String {
    let full = (p.answered * WIDTH).checked_div(p.total).unwrap_or(WIDTH).min(WIDTH) as usize;
    let mut line = format!("[{:<width$}]", "=".repeat(full), width = WIDTH as usize);
    let seconds = p.elapsed.as_secs_f64().max(1e-3);
    let _ = write!(
        line,
        " {}/{} messages, {} deliveries, {:.0}/s, {} connections",
        p.answered,
        p.total,
        p.deliveries,
        p.answered as f64 / seconds,
        p.connections
    );
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_line() {
        let half = Progress {
            total: 10,
            answered: 5,
            deliveries: 20,
            connections: 3,
            elapsed: Duration::from_secs(1),
            ..Progress::default()
        };
        assert_eq!(
            line(&half),
            "[===============               ] 5/10 messages, 20 deliveries, 5/s, 3 connections"
        );
        assert!(line(&Progress::default()).starts_with("[==============================] 0/0"));
    }
}
