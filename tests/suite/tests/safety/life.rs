//! Many engines, one after the other and side by side, and how they end.

use crate::{Client, SECONDS, SOON, alone, becomes, files, on, resident, threads};
use klatch::{Code, Engine, HistoryQuery, Message, Start};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// One life of an engine: a client now and then, a stop or none, and everything that a host may hold.
fn live(log: &str, n: u32) {
    let engine = on(log).start().unwrap();
    let mut subscription = engine.subscribe("lobby", Start::Live).unwrap();
    let events = engine.events();
    engine.publish(Message::json("lobby", "1")).wait().unwrap();
    assert_eq!(subscription.next_batch(9, SECONDS).unwrap().len(), 1);
    if n.is_multiple_of(10) {
        let mut client = Client::connect(&engine, "user=ann&room=lobby");
        client.next_of("joined");
        client.send(json!({"type": "publish", "room": "lobby", "data": 1}));
        client.next_of("publication");
    }
    if !n.is_multiple_of(3) {
        engine.stop(SECONDS).unwrap();
    }
    drop((engine, subscription, events));
}

/// Threads and descriptors are exactly what they were, and memory has not grown by half a kilobyte a cycle.
fn a_thousand_cycles(mut log: impl FnMut(u32) -> String) {
    live(&log(0), 0);
    let before = (threads(), files());
    let mut at_first = 0;
    for n in 1..=1000 {
        live(&log(n), n);
        if n % 100 == 0 {
            becomes(before, || (threads(), files()));
        }
        if n == 200 {
            at_first = resident();
        }
    }
    let grown = resident().saturating_sub(at_first);
    assert!(grown < 800 * 512, "{grown} bytes more after 800 cycles, above {at_first}");
}

#[test]
fn a_thousand_starts_and_stops_leave_nothing() {
    alone(|| a_thousand_cycles(|_| "memory".into()));
}

/// Logs that are new, and that have had some lives already.
#[test]
fn a_thousand_starts_and_stops_on_disk_leave_nothing() {
    alone(|| {
        let mut dir = tempfile::tempdir().unwrap();
        a_thousand_cycles(|n| {
            if n % 20 == 0 {
                dir = tempfile::tempdir().unwrap();
            }
            dir.path().to_str().unwrap().into()
        });
    });
}

/// Fifty at once, half of them on disk: none knows of another, and each directory has one.
#[test]
fn fifty_engines_in_one_process_do_not_know_each_other() {
    alone(|| {
        let dir = tempfile::tempdir().unwrap();
        let before = (threads(), files());
        let log = |n: usize| match n % 2 {
            0 => "memory".to_owned(),
            _ => dir.path().join(n.to_string()).to_str().unwrap().into(),
        };
        let mut engines: Vec<Engine> = (0..50).map(|n| on(&log(n)).start().unwrap()).collect();
        for n in (1..50).step_by(2) {
            assert_eq!(on(&log(n)).start().unwrap_err().code(), Code::DataDirLocked);
        }
        let mut clients: Vec<Client> =
            engines.iter().map(|e| Client::connect(e, "user=ann&room=lobby")).collect();
        let said = |n: usize, what: &str| format!("{n} says {what}");
        for (n, (engine, client)) in engines.iter().zip(&mut clients).enumerate() {
            client.next_of("joined");
            let mine = json!({"type": "publish", "room": "lobby", "data": said(n, "a")});
            client.send(mine);
            engine.publish(Message::json("lobby", &json!(said(n, "b")).to_string())).wait().unwrap();
        }
        // Every other ends, and the rest go on.
        for (engine, mut client) in engines.split_off(25).into_iter().zip(clients.split_off(25)) {
            let closed = std::thread::spawn(move || client.closed());
            engine.stop(SECONDS).unwrap();
            assert_eq!(closed.join().unwrap(), Some(4000));
        }
        for (n, (engine, client)) in engines.iter().zip(&mut clients).enumerate() {
            let got: HashSet<String> =
                (0..2).map(|_| client.next_of("publication")["data"].as_str().unwrap().to_owned()).collect();
            assert_eq!(got, [said(n, "a"), said(n, "b")].into());
            assert_eq!(engine.presence("lobby").count, 1);
            assert_eq!(engine.metrics().publishes_stored.get(), 2);
            let page = engine.history("lobby", HistoryQuery::default()).unwrap();
            assert_eq!(page.publications.len(), 2);
        }
        drop((clients, engines));
        becomes(before, || (threads(), files()));
    });
}

/// Publishers of the host and on sockets do not let up while it is stopped. Everybody is answered, and what was acked is there.
#[test]
fn a_stop_under_load_keeps_its_bound_and_everything_that_was_acked() {
    alone(|| {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().to_str().unwrap();
        let before = (threads(), files());
        let acked = Mutex::new(HashSet::<String>::new());
        // Time for what is queued, and none.
        for (round, timeout) in [SECONDS, Duration::ZERO, Duration::from_millis(1)].into_iter().enumerate() {
            let engine = on(log).start().unwrap();
            let enough = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for t in 0..4 {
                    let (engine, acked, enough) = (engine.clone(), &acked, &enough);
                    scope.spawn(move || {
                        for n in 0.. {
                            let ids: Vec<_> = (0..100).map(|m| format!("{round}.{t}.{n}.{m}")).collect();
                            let batch = ids.iter().map(|id| Message::json("lobby", "1").id(id)).collect();
                            let answers = engine.publish_batch(batch);
                            let mut stopped = false;
                            for (id, answer) in ids.into_iter().zip(answers) {
                                match answer.wait() {
                                    Ok(_) => drop(acked.lock().unwrap().insert(id)),
                                    Err(e) => {
                                        let expected =
                                            [Code::Busy, Code::Stopping, Code::Stopped, Code::Unknown];
                                        assert!(expected.contains(&e.code()), "{e}");
                                        stopped |= e.code() != Code::Busy;
                                    }
                                }
                            }
                            if stopped {
                                return;
                            }
                            enough.store(n > 3, Ordering::Relaxed);
                        }
                    });
                }
                let mut client = Client::connect(&engine, "user=ann");
                client.next_of("welcome");
                let acked = &acked;
                scope.spawn(move || {
                    for n in 0.. {
                        let id = format!("{round}.c.{n}");
                        let publish = json!({"type": "publish", "room": "lobby", "id": id, "data": 1});
                        // It is closed in the middle of this.
                        let answer = client.0.text(&publish.to_string()).and_then(|()| client.0.next_text());
                        let Ok(answer) = answer else { break };
                        let answer: Value = serde_json::from_str(&answer).unwrap();
                        if answer["type"] == "ack" {
                            acked.lock().unwrap().insert(id);
                        }
                    }
                });
                becomes(true, || enough.load(Ordering::Relaxed));
                let began = Instant::now();
                engine.stop(timeout).unwrap();
                // Room for a busy machine; the bound itself is a second past the timeout.
                assert!(began.elapsed() < timeout + SOON, "{:?} for {timeout:?}", began.elapsed());
            });
            drop(engine);
            becomes(before, || (threads(), files()));
        }
        let again = on(log).start().unwrap();
        let mut all = again.subscribe("lobby", Start::Since { epoch: None, offset: 0, history: 0 }).unwrap();
        let last = again.history("lobby", HistoryQuery::default()).unwrap().last;
        let mut found = HashSet::new();
        while all.position().offset < last {
            for p in all.next_batch(1000, SECONDS).unwrap() {
                assert!(found.insert(p.id().into_owned()), "stored twice");
            }
        }
        let acked = acked.lock().unwrap();
        assert!(acked.iter().any(|id| id.contains('c')) && acked.len() > 1000, "{} acked", acked.len());
        assert_eq!(acked.difference(&found).count(), 0, "acked and not found");
    });
}
