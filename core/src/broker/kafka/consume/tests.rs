use super::lane::Failures;
use super::pool::{Item, Job};
use super::reader::{Begin, begin};
use super::sight::seen;
use super::*;
use crate::broker::Broker;
use crate::broker::append::{ConnectionKey, Reply};
use crate::broker::consume::Handled;
use crate::broker::kafka::tailer::place;
use crate::broker::kafka::tests::played::{self, Node, rig};
use crate::broker::tail::Origin;
use crate::config::ViewSettings;
use crate::message::{Kind, Publication, Record};
use crate::room::hub::{RoomBatch, RoomKey, ShardPort};
use crate::view::{Checkpoint, IdEntry, Identity, Row, View};
use bytes::Bytes;
use std::sync::mpsc::{Receiver, Sender, channel};

const LONG: Duration = Duration::from_secs(60);

fn record(offset: u64, id: &str) -> Record {
    let mut body = Vec::new();
    Record::encode(&mut body, Kind::Json, "lobby", "ann", id, b"1");
    Record::trusted(offset, 7, body.into())
}

#[test]
fn a_group_begins_where_it_was_or_at_what_is_left() {
    let begin = |committed, from_end| begin(committed, "this", (10, 20), from_end);
    let at = |at, committed, reset| Begin { at, committed, reset };
    assert_eq!(begin(None, false), at(10, false, false));
    assert_eq!(begin(None, true), at(20, false, false));
    for from_end in [false, true] {
        assert_eq!(begin(Some((15, "this")), from_end), at(15, true, false));
        assert_eq!(begin(Some((20, "")), from_end), at(20, true, false), "another tool's");
        // Records are gone, or never were, or are of another topic.
        for committed in [(9, "this"), (21, "this"), (15, "another")] {
            assert_eq!(begin(Some(committed), from_end), at(10, false, true));
        }
    }
}

/// A view that has decided: places 2 and 4 accepted, 3 a duplicate of 2, and 5 too; 6 without an id.
fn view(history_per_room: u64) -> View {
    let settings = ViewSettings { history_per_room, ..ViewSettings::default() };
    let view = View::memory(Identity { log: [1; 16], partitions: 1 }, &settings);
    let room: Arc<str> = "lobby".into();
    let rows = [(record(2, "a"), 0), (record(4, "b"), 2), (record(6, ""), 4)];
    let places: Vec<_> = rows.iter().map(|(record, _)| place(record)).collect();
    let rows: Vec<_> = rows
        .iter()
        .zip(&places)
        .map(|((record, prev), place)| Row { room: &room, offset: record.offset(), prev: *prev, place })
        .collect();
    let key = |id| view.hash_key().message("lobby", "ann", id);
    let entry = |offset| IdEntry { offset, body: 0, time: 7 };
    let ids = [(key("a"), entry(2)), (key("b"), entry(4))];
    view.add(0, &rows, &ids, Checkpoint { sequence: 6, check: 0 });
    view
}

#[test]
fn the_handler_gets_what_the_view_decided() {
    let whole = view(1000);
    let publication = |offset, id, prev| Some(Publication { record: record(offset, id), prev });
    assert_eq!(seen(&whole, &Origin::Read, &record(2, "a")).unwrap(), publication(2, "a", 0));
    assert_eq!(seen(&whole, &Origin::Read, &record(3, "a")).unwrap(), None);
    assert_eq!(seen(&whole, &Origin::Read, &record(4, "b")).unwrap(), publication(4, "b", 2));
    assert_eq!(seen(&whole, &Origin::Read, &record(5, "a")).unwrap(), None);
    assert_eq!(seen(&whole, &Origin::Apart(None), &record(6, "")).unwrap(), publication(6, "", 4));
}

#[test]
fn where_history_was_dropped_the_ids_decide_and_what_nobody_knows_is_handled() {
    let view = view(1);
    view.flush().unwrap();
    view.trim_below(0, 7).unwrap();
    view.flush().unwrap();
    let publication = |offset, id| Some(Publication { record: record(offset, id), prev: 0 });
    for (offset, id) in [(2, "a"), (4, "b")] {
        assert_eq!(seen(&view, &Origin::Read, &record(offset, id)).unwrap(), publication(offset, id));
    }
    for offset in [3, 5] {
        assert_eq!(seen(&view, &Origin::Read, &record(offset, "a")).unwrap(), None);
    }
    assert_eq!(seen(&view, &Origin::Read, &record(1, "old")).unwrap(), publication(1, "old"));
    assert_eq!(seen(&view, &Origin::Apart(None), &record(6, "")).unwrap(), publication(6, ""));
}

/// The view of the topic may be built anew between the look at how far the node is and the look into the view.
#[test]
fn a_record_is_looked_up_in_the_view_that_has_passed_it() {
    let rig = rig();
    let node = rig.node("memory");
    let offset = node.stored("lobby", "m", "1").position.offset;
    let shared = &node.broker.shared;
    let mut sight = Sight::new(shared.clone());
    assert!(sight.of(0).is_none(), "it reads no topic yet");
    assert!(sight.turn_to_topic());
    let decided = sight.of(played::home("lobby") as u32).unwrap();
    // Whoever published is told a moment before.
    node.until("past the record", |_| decided.reached() == offset);
    let identity = Identity { log: [0; 16], partitions: 4 };
    shared.hub.begin_anew(Arc::new(View::memory(identity, &ViewSettings::default())));
    let publication = decided.seen(&Origin::Read, Some(&record(offset, "m"))).unwrap();
    assert_eq!(publication.map(|p| p.offset()), Some(offset));
    node.stop();
}

/// Another life is not asked about the records of the one before.
#[test]
fn where_a_life_has_ended_nothing_is_decided() {
    #[derive(Debug)]
    struct Port(Arc<crate::broker::kafka::Shared>, Mutex<Vec<u64>>);
    impl ShardPort for Port {
        fn deliver(&self, _: &mut Vec<RoomBatch>, _: &mut Vec<Reply>) {}
        fn waiting(&self) -> usize {
            0
        }
        fn presence(&self, _: RoomKey, _: Bytes) {}
        fn signal(&self, _: RoomKey, _: Option<ConnectionKey>, _: Bytes) {}
        fn reconnect(&self, _: Option<Vec<RoomKey>>) {
            self.1.lock().unwrap().push(self.0.life().number);
        }
    }
    let rig = rig();
    let node = rig.node("memory");
    let port = Arc::new(Port(node.broker.shared.clone(), Mutex::default()));
    node.broker.hub().set_ports(vec![port.clone()]);
    let mut sight = Sight::new(node.broker.shared.clone());
    assert!(sight.turn_to_topic() && sight.of(0).is_some());
    node.stored("lobby", "m", "1");
    *rig.id.lock().unwrap() = [8; 16];
    node.until("it begins anew", |n| n.metrics.kafka_begun_anew.get() == 1 && n.broker.shared.is_ready());
    assert!(sight.of(0).is_none(), "it is another topic");
    assert!(sight.turn_to_topic() && sight.of(0).is_some());
    // The old life was over before its view was gone, and the new one began after its own was there.
    let lives = port.1.lock().unwrap().clone();
    assert!(lives.len() > 1 && lives.iter().all(|number| *number == 0), "{lives:?}");
    node.stop();
}

/// Gives a pool five publications whose handler does this, and takes the job back.
fn handled(handler: impl Fn(u64) -> Handled + Send + Sync + 'static, halted: bool) -> Job {
    let bell = Arc::new(Bell::default());
    let handler = Arc::new(move |p: &Publication| handler(p.offset()));
    let pool = Pool::start(handler, 1, bell.clone()).unwrap();
    let items = (1..=5)
        .map(|n| Item { next: n, publication: Publication { record: record(n, "m"), prev: n - 1 } })
        .collect();
    let halt = Arc::new(AtomicBool::new(halted));
    let job = Job { partition: 0, number: 1, items, next: 0, end: 9, handled: 0, failed: None, halt };
    pool.give(job);
    loop {
        if let Some(job) = pool.take_back().pop() {
            pool.close();
            return job;
        }
        bell.wait(LONG);
    }
}

#[test]
fn a_job_is_done_up_to_what_failed() {
    let job = handled(|_| Ok(()), false);
    assert_eq!((job.next, job.handled, job.items.len()), (9, 5, 0));
    let job = handled(|n| if n == 3 { Err("no room".into()) } else { Ok(()) }, false);
    assert_eq!((job.next, job.handled, job.items.len()), (2, 2, 3));
    assert_eq!(job.failed.as_deref(), Some("no room"));
    let job = handled(|n| if n == 2 { panic!("at the disco") } else { Ok(()) }, false);
    assert_eq!((job.next, job.handled, job.items.len()), (1, 1, 4));
    assert_eq!(job.failed.as_deref(), Some("the handler panicked"));
    let job = handled(|_| panic!("halted all the same"), true);
    assert_eq!((job.next, job.handled, job.items.len(), job.failed), (0, 0, 5, None));
}

/// A consumer whose handler says what it gets, and waits until it is let go.
struct Held {
    work: Arc<dyn Work>,
    came: Receiver<u64>,
    go: Sender<()>,
}

fn held(node: &Node) -> Held {
    held_in(node, "held")
}

fn held_in(node: &Node, group: &str) -> Held {
    let ((came, seen), (go, wait)) = (channel(), channel::<()>());
    let (came, wait) = (Mutex::new(came), Mutex::new(wait));
    let handler = move |p: &Publication| -> Handled {
        came.lock().unwrap().send(p.offset())?;
        // Either way it goes on.
        let _ = wait.lock().unwrap().recv();
        Ok(())
    };
    let work = node.broker.consume(Consume::group(group), Arc::new(handler)).unwrap();
    Held { work, came: seen, go }
}

#[test]
fn a_stop_waits_for_the_handler_and_commits() {
    let rig = rig();
    let node = rig.node("memory");
    let offsets: Vec<u64> =
        (0..3).map(|n| node.stored("lobby", &format!("m{n}"), "1").position.offset).collect();
    let Held { work, came, go } = held(&node);
    assert_eq!(came.recv_timeout(LONG), Ok(offsets[0]));
    work.end(LONG.as_millis() as u64);
    go.send(()).unwrap();
    assert!(work.wait());
    assert_eq!(work.status().handled, 1);
    assert!(came.try_recv().is_err(), "nothing is begun after a stop");
    // The next one of the group goes on behind it.
    let Held { work, came, go } = held(&node);
    for offset in &offsets[1..] {
        assert_eq!(came.recv_timeout(LONG), Ok(*offset));
        go.send(()).unwrap();
    }
    work.end(LONG.as_millis() as u64);
    assert!(work.wait());
    node.stop();
}

#[test]
fn a_handler_that_goes_on_is_left_alone_and_its_publication_comes_again() {
    let rig = rig();
    let node = rig.node("memory");
    let offset = node.stored("lobby", "m", "1").position.offset;
    let one = held(&node);
    assert_eq!(one.came.recv_timeout(LONG), Ok(offset));
    one.work.end(50);
    assert!(!one.work.wait(), "not all that was begun is done");
    let two = held(&node);
    assert_eq!(two.came.recv_timeout(LONG), Ok(offset));
    drop((one.go, two.go));
    two.work.end(LONG.as_millis() as u64);
    assert!(two.work.wait());
    node.stop();
}

#[test]
fn a_broker_that_stops_stops_its_consumers() {
    let rig = rig();
    let node = rig.node("memory");
    node.stored("lobby", "m", "1");
    let Held { work, came, go } = held(&node);
    came.recv_timeout(LONG).unwrap();
    drop(go);
    let metrics = node.metrics.clone();
    let deadline_ms = node.broker.shared.clock.steady_ms() + 30_000;
    node.broker.stop(deadline_ms).unwrap();
    assert!(work.wait());
    let group = metrics.groups.get("held");
    assert_eq!((group.handled.get(), group.partitions.get(), group.lag.get()), (1, 0, 0));
    let handler = |_: &Publication| Ok(());
    let late = node.broker.consume(Consume::default(), Arc::new(handler)).unwrap_err();
    assert_eq!(late.code(), Code::Stopping);
}

/// Its consumers cannot commit, nor leave their groups; the publishes have the last part of its time all the same.
#[test]
fn a_stop_has_time_left_for_what_was_never_sent_though_the_cluster_stands_still() {
    const SENT: u64 = 40;
    let rig = rig();
    let mut settings = rig.settings("memory");
    // Each message is sent alone, so that most of them are not sent while the first are not answered.
    settings.kafka.properties.0.insert("batch.size".into(), "1000".into());
    let node = rig.node_with(&settings);
    node.stored("lobby", "m", "1");
    let held: Vec<_> = ["a", "b", "c"].iter().map(|group| held_in(&node, group)).collect();
    held.iter().for_each(|held| assert!(held.came.recv_timeout(LONG).is_ok()));
    rig.mock.broker_round_trip_time(1, Duration::from_secs(60)).unwrap();
    held.into_iter().for_each(|held| drop(held.go));
    let data = format!("\"{}\"", "x".repeat(900));
    let sent: Vec<_> = (0..SENT).map(|n| node.publish("lobby", &format!("m{n}"), &data)).collect();
    let deadline_ms = node.broker.shared.clock.steady_ms() + 1_000;
    let unwritten = node.broker.stop(deadline_ms).unwrap();
    let codes: Vec<Code> = sent.iter().map(|promise| promise.wait().unwrap_err().code()).collect();
    let count = |code| codes.iter().filter(|c| **c == code).count() as u64;
    assert_eq!(count(Code::Stopping) + count(Code::Unknown), SENT, "{codes:?}");
    assert!(count(Code::Stopping) > 0 && unwritten >= count(Code::Stopping), "{unwritten}: {codes:?}");
}

#[test]
fn a_handler_may_stop_its_own_consumer() {
    let rig = rig();
    let node = rig.node("memory");
    node.stored("lobby", "m", "1");
    let (mine, own) = channel::<Arc<dyn Work>>();
    let (done, ended) = channel();
    let (own, done) = (Mutex::new(own), Mutex::new(done));
    let handler = move |_: &Publication| -> Handled {
        let own = own.lock().unwrap().recv()?;
        own.end(LONG.as_millis() as u64);
        done.lock().unwrap().send(own.wait())?;
        Ok(())
    };
    let work = node.broker.consume(Consume::default(), Arc::new(handler)).unwrap();
    mine.send(work).unwrap();
    // It has not waited for itself, and so not committed what it was at.
    assert_eq!(ended.recv_timeout(LONG), Ok(false));
    node.stop();
}

#[test]
fn a_property_that_is_none_is_refused() {
    let rig = rig();
    let node = rig.node("memory");
    for (name, value) in [("group.id", "x"), ("auto.offset.reset", "latest"), ("no.such", "x")] {
        let how = Consume::default().property(name, value);
        let e = node.broker.consume(how, Arc::new(|_: &Publication| Ok(()))).unwrap_err();
        assert_eq!(e.code(), Code::InvalidConfig, "{e}");
        assert!(e.message().contains(name), "{e}");
    }
    node.stop();
}

#[test]
fn waits_after_errors_grow_and_begin_anew_once_something_was_handled() {
    let mut failures = Failures::default();
    let mut wait = |handled| failures.wait(handled, (100, 700));
    assert_eq!([0; 5].map(&mut wait), [100, 200, 400, 700, 700]);
    assert_eq!([1, 0, 0, 2].map(&mut wait), [100, 200, 400, 100]);
    assert!([0; 100].map(&mut wait).iter().all(|ms| *ms <= 700));
}
