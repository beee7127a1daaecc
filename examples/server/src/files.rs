//! The limit on open files: each connection needs one.

use klatch::config::Limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than this is never asked for where the system has no limit at all.
const ENOUGH: u64 = 1 << 20;
/// Files that the engine has open beside its connections.
const OTHERS: u64 = 200;

/// Raises this process's limit as far as it may go without rights of its own. Returns what it is then.
pub fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let most = maximum.unwrap_or(ENOUGH);
    match current {
        Some(now) if now < most => {
            let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum });
            if raised.is_ok() { most } else { now }
        }
        now => now.unwrap_or(ENOUGH),
    }
}

/// Says if there are fewer files than connections: a warning where the operator has set that many, or where there are very few.
pub fn tell_if_few(files: u64, connections: usize) {
    if files >= connections as u64 + OTHERS {
        return;
    }
    let room = files.saturating_sub(OTHERS);
    if connections == Limits::default().connections && room >= 4096 {
        tracing::debug!("this process may open {files} files: enough for about {room} connections");
    } else {
        tracing::warn!(
            "this process may open {files} files: enough for about {room} connections, not for limits.connections = \
             {connections}; raise the hard limit (ulimit -Hn, LimitNOFILE=) or lower that setting"
        );
    }
}
