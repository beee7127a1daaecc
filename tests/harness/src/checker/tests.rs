use super::*;
use crate::client::{JoinOptions, Since, State};
use crate::log::LogRecord;
use crate::wire::{Frame, Payload};

/// A room `r` whose log has these (user, id) in order, with offsets 10, 20 and so on and the data `"<offset>"`.
fn log_of(records: &[(&str, &str)]) -> Log {
    let mut log = Log::default();
    for ((user, id), n) in records.iter().zip(1..) {
        log.push(LogRecord {
            offset: n * 10,
            time: 1000 + n,
            room: "r".into(),
            user: (*user).into(),
            id: (*id).into(),
            binary: false,
            data: format!("\"{}\"", n * 10),
        });
    }
    log
}

/// A client that is fed frames by hand.
struct Fed(State);

impl Fed {
    fn new(name: &str) -> Fed {
        Fed(State::new(name, name))
    }

    fn feed(&mut self, text: &str) -> &mut Fed {
        self.0.frame(&Frame::parse(text).unwrap());
        self
    }

    /// Joins; the reply has the number that comes next.
    fn join(&mut self, offset: u64, options: JoinOptions) -> &mut Fed {
        let recovered = options.since.is_some();
        let frame = self.0.join("r", options);
        self.joined(&frame, offset, "e", recovered)
    }

    fn joined(&mut self, frame: &str, offset: u64, epoch: &str, recovered: bool) -> &mut Fed {
        let reference = Frame::parse(frame).unwrap().reference.unwrap();
        self.feed(&format!(
            r#"{{"type":"joined","ref":{reference},"room":"r","epoch":"{epoch}","offset":{offset},"last":0,"recovered":{recovered}}}"#
        ))
    }

    fn live(name: &str) -> Fed {
        let mut fed = Fed::new(name);
        fed.join(0, JoinOptions::default());
        fed
    }

    /// Publications at these offsets, as the log has them.
    fn sees(&mut self, log: &Log, offsets: &[u64]) -> &mut Fed {
        for offset in offsets {
            let room = log.room("r").unwrap();
            let before = |p: usize| p.checked_sub(1).map_or(0, |p| room.accepted[p].offset);
            let (prev, user, id) = match room.find(*offset) {
                Some(p) => (before(p), &*room.accepted[p].user, &*room.accepted[p].id),
                None => (0, "x", "x"),
            };
            let time = 1000 + offset / 10;
            self.feed(&format!(
                r#"{{"type":"publication","room":"r","offset":{offset},"prev":{prev},"time":{time},"user":"{user}","id":"{id}","data":"{offset}"}}"#
            ));
        }
        self
    }

    fn resumes(&mut self, offset: u64, recovered: bool) -> &mut Fed {
        self.0.closed();
        let frames = self.0.resume();
        self.joined(&frames[0], offset, "e", recovered)
    }

    fn publishes(&mut self, id: &str, data: &str) -> u64 {
        let (_, frame) = self.0.publish("r", id, Payload::Json(data));
        Frame::parse(&frame).unwrap().reference.unwrap()
    }

    fn acked(&mut self, reference: u64, id: &str, offset: u64, duplicate: bool) -> &mut Fed {
        self.feed(&format!(
            r#"{{"type":"ack","ref":{reference},"room":"r","epoch":"e","offset":{offset},"id":"{id}","duplicate":{duplicate}}}"#
        ))
    }

    fn refused(&mut self, reference: u64) -> &mut Fed {
        self.feed(&format!(
            r#"{{"type":"error","ref":{reference},"room":"r","code":100,"name":"busy","retry_after_ms":1,"outcome":"not_stored"}}"#
        ))
    }
}

fn found(clients: Vec<Fed>, log: &Log) -> Vec<Wrong> {
    let logs: Vec<ClientLog> = clients.into_iter().map(|c| c.0.into_log()).collect();
    let verdict = check(&logs, log, &Options::default());
    assert_eq!(verdict.ok(), verdict.violations.is_empty());
    println!("{verdict}");
    verdict.found.into_keys().collect()
}

fn three() -> Log {
    log_of(&[("ann", "a"), ("bob", "b"), ("ann", "c")])
}

#[test]
fn a_whole_stretch_is_right_wherever_it_begins() {
    let log = three();
    let (mut a, mut b, mut c) = (Fed::live("x"), Fed::new("y"), Fed::new("z"));
    a.sees(&log, &[10, 20, 30]);
    b.join(20, JoinOptions::default()).sees(&log, &[30]);
    c.join(0, JoinOptions { history: 9, ..JoinOptions::default() }).sees(&log, &[10, 20]);
    c.resumes(20, true).sees(&log, &[30]);
    assert_eq!(found(vec![a, b, c], &log), []);
}

#[test]
fn a_gap_is_named_wherever_it_is() {
    let log = three();
    for offsets in [&[10, 30][..], &[20, 30]] {
        let mut a = Fed::live("x");
        a.sees(&log, offsets);
        assert_eq!(found(vec![a], &log), [Wrong::Gap], "{offsets:?}");
    }
    // At a resume: the server goes on one further than the client was.
    let mut a = Fed::live("x");
    a.sees(&log, &[10]).resumes(20, true).sees(&log, &[30]);
    assert_eq!(found(vec![a], &log), [Wrong::Gap]);
    // A reset that says so is no gap.
    let mut a = Fed::live("x");
    a.sees(&log, &[10]).resumes(20, false).sees(&log, &[30]);
    assert_eq!(found(vec![a], &log), []);
    // A gap whose `prev` hides it.
    let mut a = Fed::live("x");
    a.sees(&log, &[10]);
    a.feed(
        r#"{"type":"publication","room":"r","offset":30,"prev":10,"time":1003,"user":"ann","id":"c","data":"30"}"#,
    );
    assert_eq!(found(vec![a], &log), [Wrong::Gap, Wrong::WrongPrev]);
}

#[test]
fn one_who_stays_behind_is_named_and_one_who_left_is_not() {
    let log = three();
    let mut a = Fed::live("x");
    a.sees(&log, &[10, 20]);
    assert_eq!(found(vec![a], &log), [Wrong::Behind]);
    let mut a = Fed::live("x");
    a.sees(&log, &[10]);
    a.0.leave("r");
    a.feed(r#"{"type":"left","room":"r"}"#);
    assert_eq!(found(vec![a], &log), []);
    let mut a = Fed::live("x");
    a.sees(&log, &[10]);
    a.0.leave("r");
    // In flight before the reply: right. After it: wrong.
    a.sees(&log, &[20]).feed(r#"{"type":"left","room":"r"}"#).sees(&log, &[30]);
    assert_eq!(found(vec![a], &log), [Wrong::AfterLeave]);
}

#[test]
fn doubles_and_orders() {
    let log = three();
    let mut a = Fed::live("x");
    a.sees(&log, &[10, 20, 20, 30]);
    assert_eq!(found(vec![a], &log), [Wrong::Double]);
    let mut a = Fed::live("x");
    a.sees(&log, &[10, 20]).resumes(20, true).sees(&log, &[20, 30]);
    assert_eq!(found(vec![a], &log), [Wrong::Double]);
    let mut a = Fed::live("x");
    a.sees(&log, &[20, 10, 30]);
    assert_eq!(found(vec![a], &log), [Wrong::Order]);
    let (mut a, mut b) = (Fed::live("x"), Fed::live("y"));
    a.sees(&log, &[20, 10, 30]);
    b.sees(&log, &[10, 20, 30]);
    assert_eq!(found(vec![a, b], &log), [Wrong::Order, Wrong::Disagree]);
}

#[test]
fn what_the_log_does_not_hold() {
    let log = three();
    let mut a = Fed::live("x");
    a.sees(&log, &[10, 15, 20, 30]);
    assert_eq!(found(vec![a], &log), [Wrong::Unlogged]);
    let mut a = Fed::live("x");
    a.sees(&log, &[10, 20]);
    a.feed(
        r#"{"type":"publication","room":"r","offset":30,"prev":20,"time":1003,"user":"bob","id":"c","data":"30"}"#,
    );
    assert_eq!(found(vec![a], &log), [Wrong::Altered]);
    // The third record repeats the first, with another body: a conflict, which nobody may see.
    let log = log_of(&[("ann", "a"), ("bob", "b"), ("ann", "a")]);
    let mut a = Fed::live("x");
    a.sees(&log, &[10, 20, 30]);
    assert_eq!(found(vec![a], &log), [Wrong::DuplicateDelivered]);
    let mut a = Fed::live("x");
    a.sees(&log, &[10, 20]);
    assert_eq!(found(vec![a], &log), []);
}

#[test]
fn acks_are_held_to_the_log() {
    let log = three();
    let publish = |answers: &dyn Fn(&mut Fed, u64)| {
        let mut a = Fed::new("ann");
        let reference = a.publishes("a", "\"10\"");
        answers(&mut a, reference);
        found(vec![a], &log)
    };
    assert_eq!(publish(&|a, r| _ = a.acked(r, "a", 10, false)), []);
    assert_eq!(publish(&|a, r| _ = a.acked(r, "a", 20, false)), [Wrong::WrongAck]);
    assert_eq!(publish(&|a, r| _ = a.acked(r, "a", 10, true)), [Wrong::FalseDuplicate]);
    assert_eq!(publish(&|a, r| _ = a.refused(r)), [Wrong::StoredAfterAll]);
    assert_eq!(publish(&|_, _| ()), [Wrong::Unanswered]);
    let again = |a: &mut Fed| Frame::parse(&a.0.send_again(0).unwrap()).unwrap().reference.unwrap();
    // Not stored at first, stored then: right. Unknown at first: right. Two positions: wrong.
    assert_eq!(
        publish(&|a, r| {
            a.refused(r);
            let r = again(a);
            a.acked(r, "a", 10, false);
        }),
        []
    );
    assert_eq!(
        publish(&|a, _| {
            a.0.closed();
            let r = again(a);
            a.acked(r, "a", 10, true);
        }),
        []
    );
    assert_eq!(
        publish(&|a, r| {
            a.acked(r, "a", 10, false);
            let r = again(a);
            a.acked(r, "a", 30, true);
        }),
        [Wrong::WrongAck, Wrong::AckMoved]
    );
    // Another message than any in the log.
    let mut a = Fed::new("ann");
    let reference = a.publishes("zzz", "1");
    a.acked(reference, "zzz", 30, false);
    assert_eq!(found(vec![a], &log), [Wrong::LostAck]);
    // The right id with a body that is not the log's.
    let mut a = Fed::new("ann");
    let reference = a.publishes("a", "2");
    a.acked(reference, "a", 10, false);
    assert_eq!(found(vec![a], &log), [Wrong::WrongAck]);
}

#[test]
fn messages_without_an_id_are_held_to_their_position() {
    let log = log_of(&[("ann", "")]);
    for (offset, wrong) in [(10, &[][..]), (20, &[Wrong::LostAck])] {
        let mut a = Fed::new("ann");
        let reference = a.publishes("", "\"10\"");
        a.acked(reference, "", offset, false);
        assert_eq!(found(vec![a], &log), wrong);
    }
}

#[test]
fn own_messages_need_not_come_where_no_echo_was_asked_for() {
    let log = three();
    let quiet = || {
        let mut a = Fed::new("ann");
        a.join(0, JoinOptions { echo: false, ..JoinOptions::default() });
        for (id, data, offset) in [("a", "\"10\"", 10), ("c", "\"30\"", 30)] {
            let reference = a.publishes(id, data);
            if offset == 30 {
                a.sees(&log, &[20]);
            }
            a.acked(reference, id, offset, false);
        }
        a
    };
    assert_eq!(found(vec![quiet()], &log), []);
    // Of others every one must come.
    let log = log_of(&[("ann", "a"), ("bob", "b"), ("ann", "c"), ("bob", "d")]);
    assert_eq!(found(vec![quiet()], &log), [Wrong::Behind]);
}

#[test]
fn a_run_that_saw_less_than_it_was_meant_to_provoke_is_wrong() {
    let log = three();
    let mut a = Fed::live("x");
    a.sees(&log, &[10, 20]).resumes(20, true).sees(&log, &[30]);
    let reference = a.publishes("a", "10");
    a.acked(reference, "a", 10, true);
    let logs = [a.0.into_log()];
    let not_provoked = |expect: Expect| {
        let verdict = check(&logs, &log, &Options { expect, ..Options::default() });
        verdict.count(Wrong::NotProvoked)
    };
    let seen = check(&logs, &log, &Options::default()).counts;
    assert_eq!((seen.resumes, seen.duplicates, seen.unknowns), (1, 1, 0));
    let met = Expect { resumes: 1, duplicates: 1, resets_at_most: Some(0), ..Expect::default() };
    assert_eq!(not_provoked(met.clone()), 0);
    assert_eq!(not_provoked(Expect { resumes: 2, ..met.clone() }), 1);
    assert_eq!(not_provoked(Expect { duplicates: 2, ..met.clone() }), 1);
    assert_eq!(not_provoked(Expect { unknowns: 1, ..met.clone() }), 1);
    assert_eq!(not_provoked(Expect { resumes: 2, duplicates: 2, unknowns: 1, ..met }), 3);
}

#[test]
fn one_room_has_one_epoch() {
    let log = three();
    let (mut a, mut b) = (Fed::live("x"), Fed::new("y"));
    a.sees(&log, &[10, 20, 30]);
    let since = Some(Since { epoch: "e".into(), offset: 30 });
    let frame = b.0.join("r", JoinOptions { since, ..JoinOptions::default() });
    b.joined(&frame, 30, "other", true);
    assert_eq!(found(vec![a, b], &log), [Wrong::EpochChanged]);
}

#[test]
fn millions_of_deliveries_are_checked() {
    const MESSAGES: u64 = 20_000;
    const MEMBERS: usize = 100;
    let names: Vec<String> = (0..MESSAGES).map(|n| n.to_string()).collect();
    let records: Vec<(&str, &str)> = names.iter().map(|n| ("ann", n.as_str())).collect();
    let log = log_of(&records);
    let mut one = Fed::live("x");
    one.sees(&log, &(1..=MESSAGES).map(|n| n * 10).collect::<Vec<_>>());
    let one = one.0.into_log();
    let run = &one.rooms[0].runs[0];
    let members: Vec<ClientLog> = (0..MEMBERS)
        .map(|n| {
            let mut deliveries = run.deliveries.clone();
            // One of them misses one.
            if n == 42 {
                deliveries.remove(777);
            }
            let run = crate::observe::Run { echo: true, deliveries, ..Default::default() };
            ClientLog {
                name: format!("member {n}"),
                rooms: vec![crate::observe::RoomLog {
                    room: "r".into(),
                    runs: vec![run],
                    outside: Vec::new(),
                }],
                epochs: vec!["e".into()],
                ..ClientLog::default()
            }
        })
        .collect();
    let began = std::time::Instant::now();
    let verdict = check(&members, &log, &Options::default());
    println!("{} deliveries in {:?}", verdict.counts.deliveries, began.elapsed());
    assert_eq!(verdict.counts.deliveries, MESSAGES * MEMBERS as u64 - 1);
    assert_eq!(verdict.count(Wrong::Gap), 1);
    let gap = verdict.violations.iter().find(|v| v.wrong == Wrong::Gap).unwrap();
    assert!(gap.detail.contains("member 42 missed offset 7780"), "{verdict}");
}
