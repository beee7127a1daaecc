//! What an engine does by the clock: late publishes, presence events, the view's flushes.

use crate::broker::Health;
use crate::broker::ids::CLOCKS_DIFFER_MS;
use crate::codes::Code;
use crate::events::Event;
use crate::protocol::frame;
use crate::protocol::native::encode;
use crate::room::hub::Hub;
use crate::server::shared::Shared;
use crate::view::View;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// How often late publishes are looked for.
const SWEEP: Duration = Duration::from_millis(100);
/// How often the view is flushed. Rarely is cheap: rows of one room and flush become one item.
const FLUSH: Duration = Duration::from_secs(1);

/// Runs on the engine's tokio thread until `stop` turns true.
pub(super) fn keep(runtime: &Runtime, shared: &Arc<Shared>, stop: &watch::Receiver<bool>) {
    let run = || runtime.block_on(run(shared.clone(), stop.clone()));
    // A fault must not end the thread that accepts connections.
    while catch_unwind(AssertUnwindSafe(run)).is_err() && !*stop.borrow() {
        tracing::error!("keeping house panicked; it goes on");
        runtime.block_on(async { tokio::time::sleep(SWEEP).await });
    }
}

async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let gather = Duration::from_millis(shared.policy.limits.presence_gather_ms.max(1));
    let mut sweep = tokio::time::interval(SWEEP);
    let mut presence = tokio::time::interval(gather);
    let mut health = Health::Up;
    loop {
        tokio::select! {
            _ = sweep.tick() => {
                shared.broker.sweep();
                if let Some(hooks) = &shared.hooks {
                    hooks.sweep();
                }
                let now = shared.broker.health();
                // That it was stopped the host knows.
                if now != health && now != Health::Stopped {
                    health = now;
                    shared.events.push(|| Event::Storage { refusing: refusing(now) });
                }
            }
            _ = presence.tick() => presence_events(&shared),
            _ = stop.changed() => return,
        }
    }
}

fn refusing(health: Health) -> Option<Code> {
    match health {
        Health::Up | Health::Degraded => None,
        Health::Down => Some(Code::Unavailable),
        Health::StorageFull => Some(Code::StorageFull),
        Health::StorageFailed => Some(Code::StorageFailed),
        Health::LogDamaged => Some(Code::LogDamaged),
        Health::Stopped => Some(Code::Stopped),
    }
}

/// Hands over the presence events that have gathered.
pub(crate) fn presence_events(shared: &Shared) {
    // Then they gather on.
    if shared.hub.is_congested() {
        return;
    }
    for event in shared.presence.gather() {
        let mut out = Vec::new();
        let changes = event.changes.as_ref().map(|(joined, left)| (joined.as_slice(), left.as_slice()));
        frame::text(&mut out, |out| {
            encode::presence_event(out, &event.room, changes, u64::from(event.count))
        });
        shared.hub.presence(&event.room, &out.into());
    }
}

/// Flushes the view until it is told to end, and closes it.
pub(super) fn keep_view(hub: &Hub, window_ms: u64, stop: &Receiver<()>) {
    let mut failing = false;
    while stop.recv_timeout(FLUSH) == Err(RecvTimeoutError::Timeout) {
        let flush = || flush_view(&hub.view(), window_ms, &mut failing);
        if catch_unwind(AssertUnwindSafe(flush)).is_err() {
            tracing::error!("flushing the view panicked; it is tried again");
        }
    }
    if let Err(e) = hub.view().close() {
        tracing::warn!(error = %e, "the view was not closed well; it is read again from the log at the next start");
    }
}

/// One flush. `failing`: whether the last one failed.
pub(crate) fn flush_view(view: &View, window_ms: u64, failing: &mut bool) {
    match view.flush() {
        Ok(_) => *failing = false,
        Err(e) if !*failing => {
            *failing = true;
            tracing::error!(error = %e, "the view cannot be written; history waits in memory, and the log has everything");
        }
        Err(_) => {}
    }
    // By the times of the log: a clock that was ahead for a while must not cost ids that are still needed. The next record's may be
    // a little before the newest.
    view.forget_ids(view.settled().saturating_sub(CLOCKS_DIFFER_MS), window_ms);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ViewSettings;
    use crate::ids::MessageKey;
    use crate::view::{Checkpoint, IdEntry, Identity};

    const HOUR: u64 = 3_600_000;

    fn add(view: &View, key: u128, time: u64) {
        add_in(view, 0, key, time);
    }

    fn add_in(view: &View, partition: u32, key: u128, time: u64) {
        let entry = IdEntry { offset: time, body: 0, time };
        let checkpoint = Checkpoint { sequence: time, check: 0 };
        view.add(partition, &[], &[(MessageKey(key), entry)], checkpoint);
    }

    /// The clock of the machine says what it likes: an id is forgotten once the log has a record that is a window later.
    #[test]
    fn ids_are_forgotten_by_the_times_of_the_log() {
        let identity = Identity { log: [1; 16], partitions: 1 };
        let view = View::memory(identity, &ViewSettings::default());
        let mut failing = false;
        let known = |key, oldest| view.id(MessageKey(key), oldest).unwrap().is_some();
        add(&view, 1, 50 * HOUR);
        for _ in 0..3 {
            flush_view(&view, HOUR, &mut failing);
            assert!(known(1, 49 * HOUR));
        }
        add(&view, 2, 51 * HOUR);
        flush_view(&view, HOUR, &mut failing);
        flush_view(&view, HOUR, &mut failing);
        assert!(known(1, 50 * HOUR), "it is just a window old");
        add(&view, 3, 60 * HOUR);
        for _ in 0..3 {
            flush_view(&view, HOUR, &mut failing);
        }
        assert!(!known(1, 0) && !known(2, 0) && known(3, 0));
    }

    /// A node that catches up reads one partition to its end while it is hours behind in another. The ids of that one were forgotten by
    /// the times of the first, and a copy that came within the window of its first was taken for a new message.
    #[test]
    fn a_partition_that_is_ahead_does_not_cost_another_one_its_ids() {
        let identity = Identity { log: [1; 16], partitions: 3 };
        let view = View::memory(identity, &ViewSettings::default());
        let mut failing = false;
        let mut flush = || (0..3).for_each(|_| flush_view(&view, HOUR, &mut failing));
        let known = |key| view.id(MessageKey(key), 0).unwrap().is_some();
        add_in(&view, 1, 2, 40 * HOUR);
        flush();
        add_in(&view, 0, 1, 50 * HOUR);
        flush();
        assert!(known(1) && known(2), "the third partition may have anything");
        view.settle(2, view.newest_id());
        flush();
        assert!(known(1) && known(2));
        add_in(&view, 1, 3, 45 * HOUR);
        flush();
        assert!(known(1) && !known(2) && known(3));
        // Where nothing is left to read, nothing old will come, though nobody writes there.
        view.settle(1, view.newest_id());
        flush();
        assert!(known(1) && !known(3));
    }

    /// The thread that flushes has nothing but this: a panic in it is an error like another.
    #[test]
    fn x28_a_flush_that_panics_is_tried_again() {
        let identity = Identity { log: [1; 16], partitions: 1 };
        let view = View::memory(identity, &ViewSettings::default());
        let mut failing = false;
        add(&view, 1, HOUR);
        view.panic_once();
        flush_view(&view, HOUR, &mut failing);
        assert!(failing && view.checkpoint(0).is_none());
        flush_view(&view, HOUR, &mut failing);
        assert!(!failing && view.checkpoint(0).is_some_and(|c| c.sequence == HOUR));
        assert!(view.id(MessageKey(1), 0).unwrap().is_some());
    }
}
