//! Publishes and records that come in any order, as with Kafka.

use super::*;
use crate::message::Kind;
use crate::view::Identity;
use bytes::Bytes;
use std::task::Poll;

struct Rig {
    tail: Tail,
    tags: u128,
    next: u64,
}

const LOG: [u8; 16] = [1; 16];

fn rig() -> Rig {
    let settings = Settings::default();
    let view = Arc::new(View::memory(Identity { log: [1; 16], partitions: 1 }, &settings.view));
    let hub = Arc::new(Hub::new(view.clone(), &settings.limits, Arc::default()));
    let tail = Tail::new(0, LOG, 0, view, hub, &settings, Arc::default()).doubting(Some(LOG), None);
    Rig { tail, tags: 0, next: 1 }
}

const DATA: &[u8] = b"1";
/// How long ids are known by default.
const WINDOW_MS: u64 = 3_600_000;

impl Rig {
    /// Publishes; the key under which it is to be appended, if it is.
    fn publish(&mut self, id: &str, steady_ms: u64) -> (Arc<Promise>, Option<MessageKey>) {
        let (promise, append) = append(id);
        let mut appends = vec![append];
        let mut keys = Vec::new();
        let tags = &mut self.tags;
        let mut tag = || {
            *tags += 1;
            MessageKey(*tags)
        };
        self.tail.admit(&mut appends, &mut keys, 1000, steady_ms, Some(&mut tag));
        assert_eq!(appends.len(), keys.len());
        (promise, keys.pop().flatten())
    }

    /// A record comes; returns its offset.
    fn record(&mut self, id: &str, origin: Origin) -> u64 {
        let offset = self.next;
        self.next += 1;
        let mut body = Vec::new();
        Record::encode(&mut body, Kind::Json, "lobby", "ann", id, DATA);
        let record = Record::trusted(offset, 1000, Bytes::from(body));
        let checkpoint = checkpoint(&record);
        self.tail.accept(&[(record, [0; 16])], std::iter::once(origin), checkpoint).unwrap();
        offset
    }
}

fn append(id: &str) -> (Arc<Promise>, Append) {
    let promise = Arc::new(Promise::new());
    let waiter = Waiter::Host(promise.clone());
    let (room, user, id) = ("lobby".into(), "ann".into(), id.into());
    (promise, Append { room, user, id, kind: Kind::Json, data: DATA.into(), waiter })
}

/// What becomes of a publish that is refused before it is looked at.
fn refuse(tail: &Tail, id: &str) -> Code {
    let (promise, append) = append(id);
    tail.refuse(std::iter::once(append), &Error::new(Code::Unavailable, "the cluster is away"));
    answer(&promise).unwrap().unwrap_err()
}

/// None while there is no answer; offset and whether it was a duplicate.
fn answer(promise: &Promise) -> Option<Result<(u64, bool), Code>> {
    let Poll::Ready(answer) = promise.poll(Waker::noop()) else { return None };
    Some(answer.map(|ack| (ack.position.offset, ack.duplicate)).map_err(|e| e.code()))
}

fn refused() -> Error {
    Error::new(Code::Timeout, "not sent")
}

#[test]
fn each_publish_has_a_deadline_of_its_own() {
    let mut rig = rig();
    let (first, _) = rig.publish("m1", 1_000);
    let (untitled, tag) = rig.publish("", 2_000);
    let (second, _) = rig.publish("m2", 9_000);
    rig.tail.sweep(11_000);
    assert!([&first, &untitled, &second].iter().all(|p| answer(p).is_none()));
    rig.tail.sweep(11_001);
    assert_eq!((answer(&first), answer(&untitled)), (Some(Err(Code::Unknown)), None));
    rig.tail.sweep(12_001);
    assert_eq!((answer(&untitled), answer(&second)), (Some(Err(Code::Unknown)), None));
    // Their records come all the same, and the last is in time.
    rig.record("m1", Origin::Read);
    rig.record("", Origin::Apart(tag));
    let offset = rig.record("m2", Origin::Read);
    assert_eq!(answer(&second), Some(Ok((offset, false))));
    assert!(rig.tail.is_idle());
}

#[test]
fn a_publish_whose_record_is_still_on_its_way_is_not_appended_again() {
    let mut rig = rig();
    let (first, key) = rig.publish("m1", 1_000);
    assert!(key.is_some());
    rig.tail.sweep(11_001);
    assert_eq!(answer(&first), Some(Err(Code::Unknown)));
    let (again, appended) = rig.publish("m1", 12_000);
    assert_eq!(appended, None);
    let offset = rig.record("m1", Origin::Read);
    assert_eq!(answer(&again), Some(Ok((offset, false))));
    let (late, appended) = rig.publish("m1", 13_000);
    assert_eq!((answer(&late), appended), (Some(Ok((offset, true))), None));
}

#[test]
fn publishes_without_an_id_find_their_records_by_their_tags() {
    let mut rig = rig();
    let (first, one) = rig.publish("", 1_000);
    let (second, two) = rig.publish("", 1_000);
    assert_ne!(one, two);
    let other = rig.record("", Origin::Apart(Some(MessageKey(77))));
    let of_second = rig.record("", Origin::Apart(two));
    let of_first = rig.record("", Origin::Apart(one));
    assert_eq!((other, answer(&first)), (1, Some(Ok((of_first, false)))));
    assert_eq!(answer(&second), Some(Ok((of_second, false))));
}

/// What Kafka said nothing of may be in the log: a retry that is refused must not make the client believe that nothing is.
#[test]
fn what_may_be_stored_is_not_called_not_stored_by_a_retry() {
    let mut rig = rig();
    let (first, key) = rig.publish("m1", 1_000);
    rig.tail.give_up(key.unwrap(), true, true, &refused(), 2_000);
    assert_eq!(answer(&first), Some(Err(Code::Unknown)));
    let (again, key) = rig.publish("m1", 3_000);
    rig.tail.give_up(key.unwrap(), false, true, &refused(), 4_000);
    assert_eq!(answer(&again), Some(Err(Code::Unknown)));
    // Another message has nothing to do with it.
    let (other, key) = rig.publish("m2", 5_000);
    rig.tail.give_up(key.unwrap(), false, true, &refused(), 6_000);
    assert_eq!(answer(&other), Some(Err(Code::Timeout)));
    // It was there.
    let offset = rig.record("m1", Origin::Read);
    let (late, _) = rig.publish("m1", 7_000);
    assert_eq!(answer(&late), Some(Ok((offset, true))));
    // When the window is over the id is another message's.
    let (first, key) = rig.publish("m3", 10_000);
    rig.tail.give_up(key.unwrap(), true, true, &refused(), 10_000);
    assert_eq!(answer(&first), Some(Err(Code::Unknown)));
    let (late, key) = rig.publish("m3", 10_001 + 3_600_000);
    rig.tail.give_up(key.unwrap(), false, true, &refused(), 10_001 + 3_600_000);
    assert_eq!(answer(&late), Some(Err(Code::Timeout)));
}

/// A publish of which nothing was heard was still on its way when records were deleted that the node had yet to read, its own among them.
/// It stayed on its way for ever: with that id nothing could be stored any more.
#[test]
fn what_was_on_its_way_when_records_were_deleted_can_be_published_again() {
    let mut rig = rig();
    let (first, _) = rig.publish("m1", 1_000);
    rig.tail.sweep(11_001);
    assert_eq!(answer(&first), Some(Err(Code::Unknown)));
    let (second, tag) = rig.publish("", 12_000);
    rig.tail.skip(100, 13_000);
    assert_eq!(answer(&second), Some(Err(Code::Unknown)));
    assert!(tag.is_some() && rig.tail.is_idle());
    let (again, key) = rig.publish("m1", 14_000);
    rig.next = 101;
    let offset = rig.record("m1", Origin::Read);
    assert!(key.is_some());
    assert_eq!(answer(&again), Some(Ok((offset, false))));
    // It may have been among them.
    let (first, _) = rig.publish("m2", 15_000);
    rig.tail.skip(200, 15_000);
    assert_eq!(answer(&first), Some(Err(Code::Unknown)));
    let (again, key) = rig.publish("m2", 16_000);
    rig.tail.give_up(key.unwrap(), false, true, &refused(), 17_000);
    assert_eq!(answer(&again), Some(Err(Code::Unknown)));
}

#[test]
fn too_many_doubts_make_everything_doubtful() {
    let mut rig = rig();
    for n in 0..=MOST_DOUBTFUL {
        rig.tail.give_up(MessageKey(n as u128), true, true, &refused(), 1_000);
    }
    assert!(rig.tail.doubtful().unwrap().keys.len() <= MOST_DOUBTFUL);
    let (promise, key) = rig.publish("m1", 2_000);
    rig.tail.give_up(key.unwrap(), false, true, &refused(), 2_000);
    assert_eq!(answer(&promise), Some(Err(Code::Unknown)));
}

/// A leader that stands still has taken a message; then the cluster is away, and what is sent meanwhile is refused at once.
#[test]
fn what_may_be_stored_is_not_called_not_stored_by_a_retry_that_is_refused() {
    let mut rig = rig();
    let (first, key) = rig.publish("m1", 1_000);
    assert_eq!(refuse(&rig.tail, "m1"), Code::Unknown, "it is under way");
    assert_eq!((refuse(&rig.tail, "m2"), refuse(&rig.tail, "")), (Code::Unavailable, Code::Unavailable));
    rig.tail.sweep(100_000);
    assert_eq!((answer(&first), refuse(&rig.tail, "m1")), (Some(Err(Code::Unknown)), Code::Unknown));
    rig.tail.give_up(key.unwrap(), true, true, &refused(), 100_000);
    assert_eq!((refuse(&rig.tail, "m1"), refuse(&rig.tail, "m2")), (Code::Unknown, Code::Unavailable));
    rig.record("m1", Origin::Read);
    assert_eq!(refuse(&rig.tail, "m1"), Code::Unavailable, "of this sending it is said");
    // What was never sent is in no doubt, and a doubt is over with the window.
    let (never, key) = rig.publish("m2", 200_000);
    rig.tail.give_up(key.unwrap(), false, true, &refused(), 200_000);
    assert_eq!((answer(&never), refuse(&rig.tail, "m2")), (Some(Err(Code::Timeout)), Code::Unavailable));
    let (_, key) = rig.publish("m3", 300_000);
    rig.tail.give_up(key.unwrap(), true, true, &refused(), 300_000);
    rig.tail.sweep(300_000 + WINDOW_MS);
    assert_eq!(refuse(&rig.tail, "m3"), Code::Unknown);
    rig.tail.sweep(300_001 + WINDOW_MS);
    assert_eq!(refuse(&rig.tail, "m3"), Code::Unavailable);
}

#[test]
fn a_doubt_outlives_the_tail_as_long_as_the_log_is_the_same() {
    let settings = Settings::default();
    let mut rig = rig();
    let (first, _) = rig.publish("m1", 1_000);
    let (untitled, _) = rig.publish("", 1_000);
    rig.tail.forsake(&Error::new(Code::Unknown, "another life begins"));
    assert_eq!((answer(&first), answer(&untitled)), (Some(Err(Code::Unknown)), Some(Err(Code::Unknown))));
    assert_eq!((refuse(&rig.tail, "m1"), refuse(&rig.tail, "m2")), (Code::Unknown, Code::Unavailable));
    let hub = rig.tail.hub.clone();
    let next = |log: Option<[u8; 16]>, view: &Arc<View>, before: &Tail| {
        let (start, view, hub) = (log.unwrap_or_default(), view.clone(), hub.clone());
        let tail = Tail::new(0, start, 0, view, hub, &settings, Arc::default());
        tail.doubting(log, Some(before))
    };
    let other = Arc::new(View::memory(Identity { log: LOG, partitions: 1 }, &settings.view));
    // While there is no topic, and when the view was opened again.
    let none = next(None, &other, &rig.tail);
    assert_eq!((refuse(&none, "m1"), refuse(&none, "m2")), (Code::Unknown, Code::Unavailable));
    let again = next(Some(LOG), &rig.tail.view, &none);
    assert_eq!((refuse(&again, "m1"), refuse(&again, "m2")), (Code::Unknown, Code::Unavailable));
    // A view that was built again has another secret: any key may be the one.
    let rebuilt = next(Some(LOG), &other, &again);
    assert_eq!((refuse(&rebuilt, "m1"), refuse(&rebuilt, "m2")), (Code::Unknown, Code::Unknown));
    rebuilt.sweep(1_001 + WINDOW_MS);
    assert_eq!(refuse(&rebuilt, "m1"), Code::Unavailable);
    // Of another log nothing is known.
    let (_, key) = rig.publish("m3", 2_000);
    rig.tail.give_up(key.unwrap(), true, true, &refused(), 2_000);
    let another = next(Some([2; 16]), &other, &rig.tail);
    assert_eq!(refuse(&another, "m3"), Code::Unavailable);
}
