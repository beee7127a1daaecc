use super::*;
use crate::config::Settings;
use crate::message::Kind;
use crate::room::subscriber::Ended;
use crate::view::{Checkpoint, Identity, Row};
use proptest::prelude::*;

/// A shard that keeps what it is handed.
#[derive(Debug, Default)]
struct Kept(Mutex<Vec<KeptBatch>>, Mutex<Vec<Option<Vec<RoomKey>>>>);

/// The room, `last`, `count`, and the offsets in the frames.
type KeptBatch = (RoomKey, u64, u32, Vec<u64>);

impl ShardPort for Kept {
    fn reconnect(&self, rooms: Option<Vec<RoomKey>>) {
        self.1.lock().unwrap().push(rooms);
    }

    fn deliver(&self, batches: &mut Vec<RoomBatch>, _: &mut Vec<Reply>) {
        let mut kept = self.0.lock().unwrap();
        for b in batches.drain(..) {
            kept.push((b.room, b.last, b.count, offsets(&b.frames)));
        }
    }
    fn waiting(&self) -> usize {
        0
    }
    fn presence(&self, _: RoomKey, _: Bytes) {}
    fn signal(&self, _: RoomKey, _: Option<ConnectionKey>, _: Bytes) {}
}

/// The offsets of the publications in a run of frames, whose `prev` must each be the one before.
fn offsets(mut frames: &[u8]) -> Vec<u64> {
    let mut out: Vec<u64> = Vec::new();
    while !frames.is_empty() {
        let payload = frame::payload(frames);
        let head = frames.len() - payload.len();
        let len =
            if head == 2 { frames[1] as usize } else { u16::from_be_bytes([frames[2], frames[3]]) as usize };
        let json: serde_json::Value = serde_json::from_slice(&payload[..len]).unwrap();
        let (offset, prev) = (json["offset"].as_u64().unwrap(), json["prev"].as_u64().unwrap());
        assert!(out.last().is_none_or(|last| *last == prev), "{prev} does not follow {out:?}");
        out.push(offset);
        frames = &frames[head + len..];
    }
    out
}

struct Rig {
    hub: Hub,
    view: Arc<View>,
    ports: Vec<Arc<Kept>>,
    next: Mutex<u64>,
}

fn rig(shards: usize, rooms_in_memory: usize) -> Rig {
    let mut settings = Settings::default();
    settings.limits.rooms_in_memory = rooms_in_memory;
    let view = Arc::new(View::memory(Identity { log: [1; 16], partitions: 1 }, &settings.view));
    let hub = Hub::new(view.clone(), &settings.limits, Arc::default());
    let ports: Vec<Arc<Kept>> = (0..shards).map(|_| Arc::default()).collect();
    hub.set_ports(ports.iter().map(|p| p.clone() as Arc<dyn ShardPort>).collect());
    Rig { hub, view, ports, next: Mutex::new(0) }
}

impl Rig {
    /// What the tail does with a batch of one message for each of these rooms; returns their offsets.
    fn publish(&self, rooms: &[String]) -> Vec<u64> {
        let batch = self.first_half(rooms);
        self.second_half(&batch);
        batch.iter().map(|a| a.record.offset()).collect()
    }

    fn first_half(&self, rooms: &[String]) -> Vec<Accepted> {
        let mut next = self.next.lock().unwrap();
        let mut batch: Vec<Accepted> = rooms
            .iter()
            .map(|room| {
                *next += 1;
                let mut body = Vec::new();
                Record::encode(&mut body, Kind::Json, room, "ann", "", b"1");
                Accepted::new(Record::trusted(*next, 1, body.into()), room.as_str().into())
            })
            .collect();
        self.hub.place(&mut batch).unwrap();
        batch
    }

    fn second_half(&self, batch: &[Accepted]) {
        let rows: Vec<Row<'_>> = batch
            .iter()
            .map(|a| Row { room: &a.room, offset: a.record.offset(), prev: a.prev, place: &[0; 16] })
            .collect();
        let sequence = batch.last().unwrap().record.offset();
        self.view.add(0, &rows, &[], Checkpoint { sequence, check: 0 });
        assert!(self.hub.publish(batch, Vec::new()).is_empty());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<u8>),
    Route(usize, u8),
    Unroute(usize, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop::collection::vec(0u8..4, 1..6).prop_map(Step::Publish),
        (0usize..2, 0u8..4).prop_map(|(s, r)| Step::Route(s, r)),
        (0usize..2, 0u8..4).prop_map(|(s, r)| Step::Unroute(s, r)),
    ]
}

proptest! {
    /// A shard is handed exactly what comes after its cursor, for as long as it has a route; also when rooms are forgotten
    /// and read from the view again.
    #[test]
    fn a_route_gets_everything_after_its_cursor(
        steps in prop::collection::vec(step(), 1..60),
        rooms_in_memory in prop_oneof![Just(0usize), Just(2), Just(100)],
    ) {
        let rig = rig(2, rooms_in_memory);
        let name = |r: u8| format!("room-{r}");
        let mut log: Vec<(u8, u64)> = Vec::new();
        let mut routes: HashMap<(usize, u8), (RoomKey, u64)> = HashMap::new();
        let mut expected: Vec<HashMap<RoomKey, Vec<u64>>> = vec![HashMap::new(), HashMap::new()];
        let mut generation = 0;
        for s in steps {
            match s {
                Step::Publish(rooms) => {
                    let offsets = rig.publish(&rooms.iter().map(|r| name(*r)).collect::<Vec<_>>());
                    for (room, offset) in rooms.into_iter().zip(offsets) {
                        log.push((room, offset));
                        for (shard, expected) in expected.iter_mut().enumerate() {
                            if let Some((key, _)) = routes.get(&(shard, room)) {
                                expected.entry(*key).or_default().push(offset);
                            }
                        }
                    }
                }
                Step::Route(shard, room) => {
                    generation += 1;
                    let key = RoomKey { slot: room as u32, generation };
                    let cursor = rig.hub.route(&name(room).into(), shard as u32, key).unwrap();
                    let last = log.iter().rev().find(|(r, _)| *r == room).map_or(0, |(_, o)| *o);
                    prop_assert_eq!(cursor, last);
                    routes.insert((shard, room), (key, cursor));
                }
                Step::Unroute(shard, room) => {
                    if let Some((key, _)) = routes.remove(&(shard, room)) {
                        rig.hub.unroute(&name(room), shard as u32, key);
                    }
                }
            }
        }
        for (shard, port) in rig.ports.iter().enumerate() {
            let mut got: HashMap<RoomKey, Vec<u64>> = HashMap::new();
            for (key, last, count, offsets) in port.0.lock().unwrap().drain(..) {
                prop_assert_eq!(offsets.len() as u32, count);
                prop_assert_eq!(offsets.last(), Some(&last));
                got.entry(key).or_default().extend(offsets);
            }
            prop_assert_eq!(&got, &expected[shard]);
        }
    }
}

/// A shard's first member came to a room in the same moment as the tail's first record of it: the shard read the room's last offset
/// from the view, the tail made the room, and the shard then made it a second time over it, with the old offset. The members
/// missed that record and `prev` was wrong from then on.
#[test]
fn a_room_that_the_tail_has_made_meanwhile_is_not_made_again() {
    let rig = rig(1, 100);
    let name: Arc<str> = "lobby".into();
    let (last, evictions) = (rig.view.last(&name).unwrap(), rig.hub.lock().evictions);
    let published = rig.publish(&["lobby".into()]);
    let mut rooms = rig.hub.lock();
    let slot = rooms.adopt(&name, last, evictions).unwrap();
    assert_eq!(rooms.slots[slot].as_ref().unwrap().visible, published[0]);
}

/// The same with the room made and forgotten again in between: what was read is outdated.
#[test]
fn an_offset_read_before_an_eviction_is_not_used() {
    let rig = rig(1, 0);
    let name: Arc<str> = "lobby".into();
    let (last, evictions) = (rig.view.last(&name).unwrap(), rig.hub.lock().evictions);
    rig.publish(&["lobby".into()]);
    assert_eq!(rig.hub.lock().adopt(&name, last, evictions), None);
}

/// Another room lost its audience while a batch was under way, and the room of that batch was evicted: a member that came then read the
/// view, which did not have the batch yet, and was never handed it either.
#[test]
fn a_room_in_the_middle_of_a_batch_is_not_evicted() {
    let rig = rig(1, 0);
    let key = |slot| RoomKey { slot, generation: 0 };
    let batch = rig.first_half(&["lobby".into()]);
    rig.hub.route(&"other".into(), 0, key(1)).unwrap();
    rig.hub.unroute("other", 0, key(1));
    let cursor = rig.hub.route(&"lobby".into(), 0, key(2)).unwrap();
    rig.second_half(&batch);
    let handed: Vec<_> = rig.ports[0].0.lock().unwrap().drain(..).collect();
    assert_eq!((cursor, handed), (0, vec![(key(2), 1, 1, vec![1])]));
    rig.hub.unroute("lobby", 0, key(2));
    assert!(rig.hub.lock().index.is_empty(), "after the batch it is like any other");
}

#[test]
fn a_subscription_that_was_given_up_does_not_keep_its_room() {
    let rig = rig(1, 1);
    for room in ["a", "b", "c"] {
        let subscriber = Arc::new(Subscriber::new(1, 1000, Arc::default()));
        rig.hub.subscribe(&room.into(), subscriber.clone()).unwrap();
        assert_eq!(rig.hub.metrics.rooms.get(), 1);
        rig.publish(&[room.into(), room.into()]);
        assert_eq!(rig.hub.metrics.rooms.get(), 0, "past its bound it listens no more");
        rig.hub.unsubscribe(room, &subscriber);
    }
    assert_eq!(rig.hub.metrics.rooms.get(), 0);
    assert_eq!(rig.hub.lock().index.len(), 1, "rooms without an audience are forgotten");
}

fn key(slot: u32) -> RoomKey {
    RoomKey { slot, generation: 0 }
}

fn subscriber() -> Arc<Subscriber> {
    Arc::new(Subscriber::new(10, 1 << 20, Arc::default()))
}

fn ended(subscriber: &Subscriber) -> Option<Ended> {
    subscriber.take(1, std::time::Duration::ZERO).err()
}

/// Records that nobody here has seen are gone: whoever is in one of the rooms that may have had some is told, and the next publication
/// does not claim to follow what they saw last.
#[test]
fn rooms_that_may_have_lost_something_are_left_and_the_others_are_not() {
    let rig = rig(2, 100);
    let rooms: Vec<Arc<str>> = ["a", "b", "c"].map(Arc::from).to_vec();
    rig.publish(&["a".into(), "b".into(), "c".into()]);
    rig.hub.route(&rooms[0], 0, key(1)).unwrap();
    rig.hub.route(&rooms[0], 1, key(2)).unwrap();
    rig.hub.route(&rooms[1], 1, key(3)).unwrap();
    let (one, other) = (subscriber(), subscriber());
    rig.hub.subscribe(&rooms[0], one.clone()).unwrap();
    rig.hub.subscribe(&rooms[1], other.clone()).unwrap();
    let everywhere = subscriber();
    rig.hub.subscribe_all(everywhere.clone());
    rig.view.begin_after(0, 50);
    rig.hub.skip(50, |room| room != "b");
    assert_eq!(*rig.ports[0].1.lock().unwrap(), [Some(vec![key(1)])]);
    assert_eq!(*rig.ports[1].1.lock().unwrap(), [Some(vec![key(2)])]);
    assert_eq!((ended(&one), ended(&other)), (Some(Ended::Dropped), None));
    assert_eq!(ended(&everywhere), Some(Ended::Dropped));
    assert_eq!(["a", "b", "c"].map(|room| rig.hub.last(room).unwrap()), [50, 2, 50]);
    *rig.next.lock().unwrap() = 50;
    let batch = rig.first_half(&["a".into(), "b".into()]);
    assert_eq!((batch[0].prev, batch[1].prev), (50, 2));
    rig.second_half(&batch);
    // Neither can the view be asked for what lies before.
    let floor = |room: &str| {
        rig.view.rows(room, crate::view::RowQuery { limit: 1, ..Default::default() }).unwrap().floor
    };
    rig.view.trim_below(0, 51).unwrap();
    assert_eq!((floor("a"), floor("c")), (50, 50));
}

#[test]
fn another_log_begins_with_nobody() {
    let rig = rig(1, 100);
    let room: Arc<str> = "a".into();
    rig.publish(&["a".into()]);
    rig.hub.route(&room, 0, key(1)).unwrap();
    let one = subscriber();
    rig.hub.subscribe(&room, one.clone()).unwrap();
    let everywhere = subscriber();
    rig.hub.subscribe_all(everywhere.clone());
    let view = Arc::new(View::memory(Identity { log: [2; 16], partitions: 1 }, &Settings::default().view));
    rig.hub.begin_anew(view.clone());
    assert_eq!(*rig.ports[0].1.lock().unwrap(), [None]);
    assert_eq!((ended(&one), ended(&everywhere)), (Some(Ended::Reset), Some(Ended::Reset)));
    assert_eq!(rig.hub.last("a").unwrap(), 0);
    assert!(Arc::ptr_eq(&rig.hub.view(), &view));
    // The shard gives up the room that it knew, which changes nothing.
    rig.hub.unroute("a", 0, key(1));
    assert_eq!(rig.hub.route(&room, 0, key(2)).unwrap(), 0);
}
