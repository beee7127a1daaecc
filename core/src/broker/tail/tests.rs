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

fn rig() -> Rig {
    let settings = Settings::default();
    let view = Arc::new(View::memory(Identity { log: [1; 16], partitions: 1 }, &settings.view));
    let hub = Arc::new(Hub::new(view.clone(), &settings.limits, Arc::default()));
    Rig { tail: Tail::new(0, [1; 16], 0, view, hub, &settings, Arc::default()), tags: 0, next: 1 }
}

const DATA: &[u8] = b"1";

impl Rig {
    /// Publishes; the key under which it is to be appended, if it is.
    fn publish(&mut self, id: &str, steady_ms: u64) -> (Arc<Promise>, Option<MessageKey>) {
        let promise = Arc::new(Promise::new());
        let waiter = Waiter::Host(promise.clone());
        let (room, user, id) = ("lobby".into(), "ann".into(), id.into());
        let mut appends = vec![Append { room, user, id, kind: Kind::Json, data: DATA.into(), waiter }];
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
    assert!(rig.tail.lock().doubtful.keys.len() <= MOST_DOUBTFUL);
    let (promise, key) = rig.publish("m1", 2_000);
    rig.tail.give_up(key.unwrap(), false, true, &refused(), 2_000);
    assert_eq!(answer(&promise), Some(Err(Code::Unknown)));
}
