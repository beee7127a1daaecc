use super::*;
use crate::broker::append::{Ack, Promise, Waiter};
use crate::broker::history::History;
use crate::broker::memory::MemoryBroker;
use crate::clock::ManualClock;
use crate::command::Start;
use crate::log::Memory;
use crate::message::Kind;
use tempfile::TempDir;

/// A log in memory with its view on disk; small segments, of which retention leaves few.
struct Rig {
    files: Arc<Memory>,
    dir: TempDir,
    settings: Settings,
    now_ms: u64,
    opened: Option<Opened>,
}

impl Rig {
    fn new(retain_bytes: u64) -> Rig {
        let mut settings = Settings::default();
        settings.storage.segment_bytes = 1000;
        settings.storage.retain_bytes = retain_bytes;
        let (files, dir) = (Arc::new(Memory::new()), tempfile::tempdir().unwrap());
        let mut rig = Rig { files, dir, settings, now_ms: 50_000_000, opened: None };
        rig.restart();
        rig
    }

    /// As after a crash: nothing is flushed or closed.
    fn restart(&mut self) {
        self.opened = None;
        let at = ViewAt::Dir(self.dir.path().to_owned());
        self.opened =
            Some(open(self.files.clone(), &at, &self.settings, Arc::default(), self.now_ms).unwrap());
    }

    fn storage(&mut self) -> &mut Storage {
        &mut self.opened.as_mut().unwrap().storage
    }

    fn publish(&mut self, room: &str, id: &str) -> Result<Ack> {
        let promise = Arc::new(Promise::new());
        let mut appends = vec![Append {
            room: room.into(),
            user: "ann".into(),
            id: id.into(),
            kind: Kind::Json,
            data: (*b"1").into(),
            waiter: Waiter::Host(promise.clone()),
        }];
        let now_ms = self.now_ms;
        self.storage().step(&mut appends, now_ms, now_ms);
        promise.wait()
    }

    /// Publishes others until retention has dropped everything up to the last one before.
    fn publish_past_retention(&mut self) {
        let last = self.opened.as_ref().unwrap().reader.last_sequence();
        for n in 0.. {
            self.publish("other", &format!("{last}-{n}")).unwrap();
            let now_ms = self.now_ms;
            self.storage().tick(now_ms);
            if self.opened.as_ref().unwrap().reader.first_sequence() > last {
                break;
            }
            assert!(n < 1000, "nothing is dropped");
        }
    }

    fn flush(&mut self) {
        self.storage().tail.view().flush().unwrap();
    }
}

#[test]
fn ids_outlive_the_segments_that_retention_drops() {
    let mut rig = Rig::new(1500);
    let first = rig.publish("lobby", "a").unwrap();
    // The view has not been flushed when the record goes, and then the process is killed.
    rig.publish_past_retention();
    rig.restart();
    let again = rig.publish("lobby", "a").unwrap();
    assert!(again.duplicate, "the id was forgotten with its record");
    assert_eq!(again.position, first.position);
}

#[test]
fn while_the_view_cannot_be_written_nothing_is_dropped() {
    let mut rig = Rig::new(1500);
    rig.publish("lobby", "a").unwrap();
    let first = rig.opened.as_ref().unwrap().reader.first_sequence();
    rig.storage().tail.view().fail_writes(true);
    for n in 0..100 {
        rig.publish("other", &n.to_string()).unwrap();
        let now_ms = rig.now_ms;
        rig.storage().tick(now_ms);
    }
    assert_eq!(rig.opened.as_ref().unwrap().reader.first_sequence(), first);
    rig.storage().tail.view().fail_writes(false);
    let now_ms = rig.now_ms;
    rig.storage().tick(now_ms);
    assert!(rig.opened.as_ref().unwrap().reader.first_sequence() > first);
}

/// Writes were put off for as long as fjall's compaction was behind, and what waited in memory had no bound.
#[test]
fn what_waits_for_a_view_that_is_behind_has_a_bound() {
    let mut rig = Rig::new(0);
    rig.settings.storage.segment_bytes = 1 << 30;
    rig.restart();
    rig.storage().tail.view().defer_writes(true);
    // Each in a room of its own with a long name, which is what costs memory.
    let mut stored = 0u32;
    let refused = loop {
        match rig.publish(&format!("{stored:0>250}"), "") {
            Ok(_) => stored += 1,
            Err(e) => break e,
        }
        let waits = rig.storage().tail.view().overlay_bytes();
        assert!(waits < MOST_DEFERRED + (1 << 20), "{waits} bytes wait after {stored} publishes");
    };
    assert_eq!((refused.code(), refused.retry_after_ms()), (Code::Busy, 250));
    assert!(rig.storage().tail.view().overlay_bytes() > MOST_DEFERRED);
    assert_eq!(rig.storage().health(), Health::Up);
    rig.storage().tail.view().defer_writes(false);
    rig.publish("lobby", "a").unwrap();
    assert!(rig.storage().tail.view().overlay_bytes() < 1 << 20);
}

#[test]
fn ids_of_a_view_that_ends_where_the_log_begins_are_known() {
    // Every batch begins a segment, and only the newest is kept: the log begins with the record after the view's last.
    let mut rig = Rig::new(1);
    rig.settings.storage.segment_bytes = 1;
    rig.restart();
    rig.publish("lobby", "a").unwrap();
    rig.flush();
    rig.publish("lobby", "b").unwrap();
    let now_ms = rig.now_ms;
    rig.storage().log.tick(now_ms).unwrap();
    assert_eq!(rig.opened.as_ref().unwrap().reader.first_sequence(), 2);
    rig.restart();
    assert!(rig.publish("lobby", "a").unwrap().duplicate);
    assert!(rig.publish("lobby", "b").unwrap().duplicate);
}

#[test]
fn ids_are_known_where_retention_has_left_no_record() {
    let mut rig = Rig::new(1);
    rig.settings.storage.segment_bytes = 1;
    rig.restart();
    rig.publish("lobby", "a").unwrap();
    rig.flush();
    // A segment that is begun, and the process is stopped before there is a record in it.
    rig.now_ms += 1;
    let now_ms = rig.now_ms;
    rig.storage().log.begin_segment(now_ms).unwrap();
    rig.storage().log.tick(now_ms).unwrap();
    assert_eq!(rig.opened.as_ref().unwrap().reader.first_sequence(), 2);
    rig.restart();
    assert!(rig.publish("lobby", "a").unwrap().duplicate);
}

#[test]
fn a_view_that_retention_has_overtaken_is_built_again() {
    let mut rig = Rig::new(1500);
    rig.publish("lobby", "a").unwrap();
    rig.flush();
    rig.opened = None;
    // A copy of the view is put back after the log has gone on.
    let kept = tempfile::tempdir().unwrap();
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let done = std::process::Command::new("cp").arg("-aT").arg(from).arg(to).status().unwrap();
        assert!(done.success());
    };
    copy(rig.dir.path(), kept.path());
    rig.restart();
    rig.publish("lobby", "b").unwrap();
    rig.publish_past_retention();
    rig.opened = None;
    std::fs::remove_dir_all(rig.dir.path().join("fjall")).unwrap();
    copy(kept.path(), rig.dir.path());
    rig.restart();
    assert!(rig.opened.as_ref().unwrap().tail.view().was_rebuilt());
}

/// Who has seen a message before the ones that were dropped must not be told that nothing is missing.
#[test]
fn a_view_built_again_does_not_recover_positions_before_the_log() {
    let mut rig = Rig::new(1500);
    let seen = rig.publish("lobby", "a").unwrap();
    rig.publish("lobby", "b").unwrap();
    rig.publish_past_retention();
    let start = |rig: &Rig, room: &str, offset: u64| {
        let opened = rig.opened.as_ref().unwrap();
        let hub = opened.tail.hub().clone();
        let clock = Arc::new(ManualClock::new(1));
        let broker = Arc::new(MemoryBroker::new(&rig.settings, clock, Arc::default()).unwrap());
        let history = History::new(broker, hub, &rig.settings.limits, Arc::default());
        let cursor = history.last(room).unwrap();
        history.start(room, &Start::Since { epoch: None, offset, history: 0 }, cursor, 0).unwrap().unwrap()
    };
    assert!(!start(&rig, "lobby", seen.position.offset).recovered, "b was dropped");
    rig.opened = None;
    std::fs::remove_dir_all(rig.dir.path().join("fjall")).unwrap();
    rig.restart();
    assert!(
        !start(&rig, "lobby", seen.position.offset).recovered,
        "b was dropped, and nobody knows any more"
    );
    // A room without a record goes on from there, and its next message follows what its members are told.
    let at = start(&rig, "lobby", 0).offset;
    assert_eq!(at, rig.opened.as_ref().unwrap().reader.first_sequence() - 1);
    let next = rig.publish("lobby", "c").unwrap();
    let page = rig
        .opened
        .as_ref()
        .unwrap()
        .tail
        .view()
        .rows("lobby", crate::view::RowQuery { limit: 5, ..Default::default() })
        .unwrap();
    assert_eq!(
        page.rows.iter().map(|r| (r.offset, r.prev)).collect::<Vec<_>>(),
        [(next.position.offset, at)]
    );
    assert_eq!(page.floor, at);
    // It is the same after the next start.
    rig.flush();
    rig.restart();
    assert_eq!(rig.opened.as_ref().unwrap().tail.view().last("unknown").unwrap(), at);
    assert!(!start(&rig, "lobby", seen.position.offset).recovered);
}
